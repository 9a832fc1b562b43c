/* Verbs whose part is not in the build yet answer that they are not supported. */
#include "coordinator/admin_query.h"
#include "coordinator/backup.h"

#ifndef HAVE_ADMIN_QUERY
struct coord_query *coord_query_new(struct store *store, struct ckpt_blobs *blobs)
{
    return NULL;
}
void coord_query_free(struct coord_query *query)
{
}
bool coord_query_knows(const char *verb)
{
    return false;
}
enum sp_err coord_query_run(struct coord_query *query, const char *verb, const char *run,
                            const char *args, json_t **ret, struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED, "%s", verb);
}
enum sp_err coord_query_exact_match(struct coord_query *query, struct store_run *run,
                                    uint32_t iteration, uint32_t set, uint64_t *ret_correct,
                                    uint64_t *ret_count, struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED, "exact match");
}
#endif
#ifndef HAVE_BACKUP
enum sp_err coord_backup(struct store *store, struct ckpt_blobs *blobs, const char *dir,
                         int64_t now_ms, struct coord_backup_report *ret, struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED, "backup");
}
enum sp_err coord_restore(const char *dir, const char *state_dir, struct coord_backup_report *ret,
                          struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED, "restore");
}
#endif

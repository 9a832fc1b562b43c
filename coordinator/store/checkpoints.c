/* Checkpoints, and which blobs a run needs. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "coordinator/store/internal.h"

#define PUT_COLUMNS "iteration, digest, manifest, created_ms, bytes, provenance"
#define COLUMNS PUT_COLUMNS ", pinned, dropped_ms"

enum sp_err store_checkpoint_put(struct store_run *run, const struct store_checkpoint *checkpoint,
                                 struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db,
                   "INSERT INTO checkpoints(" PUT_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
                   " ON CONFLICT(digest) DO UPDATE SET dropped_ms = 0",
                   NULL, err, "iggiut", (int64_t)checkpoint->iteration, &checkpoint->digest,
                   &checkpoint->manifest, checkpoint->created_ms, checkpoint->bytes,
                   checkpoint->provenance);
}

static void read_checkpoint(struct sdb_row *row, void *ret)
{
    struct store_checkpoint *checkpoint = ret;
    checkpoint->iteration = (int32_t)sdb_i64(row, -1, INT32_MAX);
    sdb_digest(row, &checkpoint->digest);
    sdb_digest(row, &checkpoint->manifest);
    checkpoint->created_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    checkpoint->bytes = sdb_u64(row, INT64_MAX);
    checkpoint->provenance = sdb_text(row);
    checkpoint->pinned = sdb_bool(row);
    checkpoint->dropped_ms = sdb_i64(row, 0, INT64_MAX);
}
static const struct sdb_row_kind checkpoint_rows = {"checkpoints", sizeof(struct store_checkpoint),
                                                    read_checkpoint};

enum sp_err store_checkpoint_get(struct store_run *run, const struct sp_digest *digest,
                                 struct sp_arena *arena, struct store_checkpoint *ret,
                                 struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(run->db, "SELECT " COLUMNS " FROM checkpoints WHERE digest = ?1",
                               &statement, err, "g", digest);
    if (rc == SP_OK)
        rc = sdb_one(run->db, statement, &checkpoint_rows, arena, ret, &have, err);
    if (rc == SP_OK && !have) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(digest, hex);
        rc = sp_fail(err, SP_ENOTFOUND, "run %s has no checkpoint %s", run->name, hex);
    }
    return rc;
}

enum sp_err store_checkpoints_list(struct store_run *run, struct sp_arena *arena,
                                   struct store_checkpoint **ret, size_t *ret_count,
                                   struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(
        run->db, "SELECT " COLUMNS " FROM checkpoints ORDER BY iteration, created_ms, digest",
        &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_rows(run->db, statement, &checkpoint_rows, arena, ret, ret_count, err);
    return rc;
}

/* ---- retention ---- */

enum sp_err store_checkpoint_pin(struct store_run *run, const struct sp_digest *digest, bool pinned,
                                 struct sp_error *err)
{
    int changes = 0;
    char hex[SP_DIGEST_HEX];
    enum sp_err rc = sdb_write(run->db, err);
    if (rc == SP_OK)
        rc = sdb_run(run->db,
                     "UPDATE checkpoints SET pinned = ?2 WHERE digest = ?1 AND dropped_ms = 0",
                     &changes, err, "gi", digest, (int64_t)pinned);
    if (rc != SP_OK || changes == 1)
        return rc;
    struct store_checkpoint row;
    struct sp_arena *arena = sp_arena_new(4096, 16 << 20);
    rc = store_checkpoint_get(run, digest, arena, &row, err);
    sp_arena_free(arena);
    sp_digest_hex(digest, hex);
    return rc == SP_OK ? sp_fail(err, SP_ESTATE, "checkpoint %s was let go of already", hex) : rc;
}

enum sp_err store_checkpoint_drop(struct store_run *run, const struct sp_digest *digest,
                                  int64_t now_ms, struct sp_error *err)
{
    char owner[SP_DIGEST_HEX];
    sp_digest_hex(digest, owner);
    enum sp_err rc = store_blob_refs_drop(run, owner, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db, "UPDATE checkpoints SET dropped_ms = ?2 WHERE digest = ?1", NULL, err,
                   "gi", digest, now_ms);
}

/* ---- references ---- */

enum sp_err store_blob_refs_add(struct store_run *run, const char *owner,
                                const struct sp_digest *digests, size_t count, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    for (size_t i = 0; i < count && rc == SP_OK; i++)
        rc = sdb_run(run->db,
                     "INSERT INTO blob_refs(owner, digest) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                     NULL, err, "tg", owner, &digests[i]);
    return rc;
}

enum sp_err store_blob_refs_drop(struct store_run *run, const char *owner, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db, "DELETE FROM blob_refs WHERE owner = ?1", NULL, err, "t", owner);
}

enum sp_err store_blob_refs_each(struct store_run *run,
                                 bool (*each)(void *context, const struct sp_digest *digest),
                                 void *context, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(run->db, "SELECT DISTINCT digest FROM blob_refs ORDER BY digest",
                               &statement, err, "");
    while (rc == SP_OK) {
        bool have = false;
        rc = sdb_step(run->db, statement, &have, err);
        if (rc != SP_OK || !have)
            break;
        struct sp_digest digest = {{0}};
        struct sdb_row row = sdb_row(run->db, statement, NULL, "blob_refs");
        sdb_digest(&row, &digest);
        rc = sdb_row_end(&row, err);
        if (rc == SP_OK && !each(context, &digest))
            break;
    }
    sdb_done(statement);
    return rc;
}

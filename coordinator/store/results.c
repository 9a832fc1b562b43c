/* Results of work: first stored wins. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/store/internal.h"

#define KEY_WHERE " WHERE iteration = ?1 AND work_set = ?2 AND position = ?3"
/* What readers see: the trainer's references in place of the generator's, where there are any. */
#define COLUMNS                                                                                    \
    "iteration, work_set, position, prompt, sample, source_iteration, " STORE_ANSWER_IDS(          \
        "answer") ", finish,"                                                                      \
                  " coalesce(trainer_real, ref_real), coalesce(trainer_generated, "                \
                  "ref_generated), worker, at_ms"

static enum sp_err check_put(const struct store_result *result, struct sp_error *err)
{
    if (result->set > PROTO_SET_TRAINED || result->position > INT64_MAX)
        return sp_fail(err, SP_EINVAL, "result: set %u, position %llu: no such work", result->set,
                       (unsigned long long)result->position);
    if (result->finish > PROTO_FINISH_LENGTH)
        return sp_fail(err, SP_EINVAL, "result at position %llu: finish %u",
                       (unsigned long long)result->position, result->finish);
    if (result->ids.count > SP_MAX_SEQUENCE_TOKENS)
        return sp_fail(err, SP_ELIMIT, "result at position %llu: %u tokens",
                       (unsigned long long)result->position, result->ids.count);
    for (uint32_t i = 0; i < result->ids.count; i++) {
        if (result->ids.ids[i] < 0)
            return sp_fail(err, SP_EINVAL, "result at position %llu: token id %d",
                           (unsigned long long)result->position, result->ids.ids[i]);
    }
    return SP_OK;
}

/* The generator's own references are compared, not the trainer's that may stand over them. */
static enum sp_err compare_stored(struct store_run *run, const struct store_result *result,
                                  enum store_put *ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(
        run->db,
        "SELECT iteration, work_set, position, prompt, sample,"
        " source_iteration, finish, ref_real, ref_generated, " STORE_ANSWER_IDS(
            "answer") " FROM results" KEY_WHERE,
        &statement, err, "iiu", (int64_t)result->iteration, (int64_t)result->set, result->position);
    if (rc == SP_OK)
        rc = sdb_step(run->db, statement, &have, err);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ECORRUPT, "%s: a stored result cannot be read back", run->db->path);
    if (rc == SP_OK) {
        const int64_t want[] = {result->prompt,
                                result->sample,
                                result->source_iteration,
                                result->finish,
                                sdb_float_bits(result->ref_real),
                                sdb_float_bits(result->ref_generated)};
        bool same = true;
        for (size_t i = 0; i < SP_COUNT(want); i++)
            same = same && sqlite3_column_int64(statement, 3 + (int)i) == want[i];
        const void *ids = sqlite3_column_blob(statement, 9);
        size_t bytes = (size_t)sqlite3_column_bytes(statement, 9);
        same = same && bytes == (size_t)result->ids.count * sizeof(int32_t) &&
               (bytes == 0 || memcmp(ids, result->ids.ids, bytes) == 0);
        *ret = same ? STORE_DUPLICATE : STORE_DIFFERENT;
    }
    sdb_done(statement);
    return rc;
}

enum sp_err store_result_put(struct store_run *run, const struct store_result *result,
                             enum store_put *ret, struct sp_error *err)
{
    enum sp_err rc = check_put(result, err);
    if (rc == SP_OK)
        rc = sdb_write(run->db, err);
    int changes = 0;
    /* The answer takes the next id; a transaction has one writer. */
    if (rc == SP_OK)
        rc = sdb_run(run->db,
                     "INSERT INTO results(iteration, work_set, position, prompt, sample,"
                     " source_iteration, tokens, answer, finish, ref_real, ref_generated, worker,"
                     " at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, iif(?7 > 0,"
                     " (SELECT coalesce(max(id), 0) + 1 FROM answers), 0), ?8, ?9, ?10, ?11, ?12)"
                     " ON CONFLICT DO NOTHING",
                     &changes, err, "iiuiiiiiffti", (int64_t)result->iteration,
                     (int64_t)result->set, result->position, (int64_t)result->prompt,
                     (int64_t)result->sample, (int64_t)result->source_iteration,
                     (int64_t)result->ids.count, (int64_t)result->finish, (double)result->ref_real,
                     (double)result->ref_generated, result->worker, result->at_ms);
    if (rc == SP_OK && changes == 1 && result->ids.count > 0)
        rc = sdb_run(run->db, "INSERT INTO answers(ids) VALUES (?1)", NULL, err, "n", &result->ids);
    if (rc != SP_OK)
        return rc;
    if (changes == 1) {
        *ret = STORE_NEW;
        return SP_OK;
    }
    return compare_stored(run, result, ret, err);
}

enum sp_err store_refs_put(struct store_run *run, uint32_t iteration, uint32_t set,
                           uint64_t position, uint32_t prompt, uint32_t sample, float ref_real,
                           float ref_generated, struct sp_error *err)
{
    struct store_result result = {.iteration = iteration, .set = set, .position = position};
    enum sp_err rc = check_put(&result, err);
    if (rc == SP_OK)
        rc = sdb_write(run->db, err);
    int changes = 0;
    if (rc == SP_OK)
        rc = sdb_run(run->db,
                     "INSERT INTO results(iteration, work_set, position, prompt, sample,"
                     " source_iteration, tokens, answer, finish, ref_real, ref_generated,"
                     " trainer_real, trainer_generated, worker, at_ms)"
                     " VALUES (?1, ?2, ?3, ?4, ?5, ?1, 0, 0, 0, ?6, ?6, ?7, ?8, '', 0)"
                     " ON CONFLICT DO UPDATE SET trainer_real = excluded.trainer_real,"
                     " trainer_generated = excluded.trainer_generated"
                     " WHERE prompt = excluded.prompt AND sample = excluded.sample",
                     &changes, err, "iiuiifff", (int64_t)iteration, (int64_t)set, position,
                     (int64_t)prompt, (int64_t)sample, (double)NAN, (double)ref_real,
                     (double)ref_generated);
    if (rc == SP_OK && changes == 0)
        rc =
            sp_fail(err, SP_EINVAL,
                    "references for position %llu name prompt %u, sample %u, but the stored result "
                    "is another one",
                    (unsigned long long)position, prompt, sample);
    return rc;
}

static void read_result(struct sdb_row *row, void *ret)
{
    struct store_result *result = ret;
    result->iteration = sdb_u32(row);
    result->set = (uint32_t)sdb_u64(row, PROTO_SET_TRAINED);
    result->position = sdb_u64(row, INT64_MAX);
    result->prompt = sdb_u32(row);
    result->sample = sdb_u32(row);
    result->source_iteration = sdb_u32(row);
    result->ids = sdb_ids(row);
    result->finish = (uint32_t)sdb_u64(row, PROTO_FINISH_LENGTH);
    result->ref_real = sdb_f32(row);
    result->ref_generated = sdb_f32(row);
    result->worker = sdb_text(row);
    result->at_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
}
static const struct sdb_row_kind result_rows = {"results", sizeof(struct store_result),
                                                read_result};

enum sp_err store_results_get(struct store_run *run, uint32_t iteration, uint32_t set,
                              const uint64_t *positions, uint32_t count, struct sp_arena *arena,
                              struct store_result *ret, struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    for (uint32_t i = 0; i < count && rc == SP_OK; i++) {
        sqlite3_stmt *statement = NULL;
        bool have = false;
        rc = sdb_query(run->db, "SELECT " COLUMNS " FROM results" KEY_WHERE, &statement, err, "iiu",
                       (int64_t)iteration, (int64_t)set, positions[i]);
        if (rc == SP_OK)
            rc = sdb_one(run->db, statement, &result_rows, arena, &ret[i], &have, err);
        if (rc == SP_OK && !have)
            rc = sp_fail(err, SP_ENOTFOUND, "run %s, iteration %u, set %u: no result at %llu",
                         run->name, iteration, set, (unsigned long long)positions[i]);
    }
    return rc;
}

enum sp_err store_results_range(struct store_run *run, uint32_t iteration, uint32_t set,
                                uint64_t first, uint32_t limit, struct sp_arena *arena,
                                struct store_result **ret, size_t *ret_count, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(run->db,
                  "SELECT " COLUMNS " FROM results WHERE iteration = ?1"
                  " AND work_set = ?2 AND position >= ?3 ORDER BY position LIMIT ?4",
                  &statement, err, "iiui", (int64_t)iteration, (int64_t)set, first, (int64_t)limit);
    if (rc == SP_OK)
        rc = sdb_rows(run->db, statement, &result_rows, arena, ret, ret_count, err);
    return rc;
}

/* A statement of positions; it ends. */
static enum sp_err read_bitmap(struct store_run *run, sqlite3_stmt *statement, uint64_t positions,
                               uint8_t *bitmap, uint64_t *ret_count, struct sp_error *err)
{
    uint64_t count = 0;
    enum sp_err rc = SP_OK;
    while (rc == SP_OK) {
        bool have = false;
        rc = sdb_step(run->db, statement, &have, err);
        if (rc != SP_OK || !have)
            break;
        struct sdb_row row = sdb_row(run->db, statement, NULL, "results");
        uint64_t position = sdb_u64(&row, INT64_MAX);
        if (position >= positions)
            row.bad = 0;
        rc = sdb_row_end(&row, err);
        if (rc == SP_OK) {
            bitmap[position / 8] |= (uint8_t)(1u << position % 8);
            count++;
        }
    }
    sdb_done(statement);
    if (rc == SP_OK && ret_count)
        *ret_count = count;
    return rc;
}

enum sp_err store_results_bitmap(struct store_run *run, uint32_t iteration, uint32_t set,
                                 uint64_t positions, bool with_refs, uint8_t *bitmap,
                                 uint64_t *ret_count, struct sp_error *err)
{
    static const char any[] = "SELECT position FROM results WHERE iteration = ?1 AND work_set = ?2";
    static const char scored[] =
        "SELECT position FROM results WHERE iteration = ?1 AND work_set = ?2"
        " AND trainer_real IS NOT NULL";
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(run->db, with_refs ? scored : any, &statement, err, "ii",
                               (int64_t)iteration, (int64_t)set);
    return rc == SP_OK ? read_bitmap(run, statement, positions, bitmap, ret_count, err) : rc;
}

enum sp_err store_given_bitmap(struct store_run *run, uint32_t iteration, uint64_t positions,
                               uint8_t *bitmap, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(run->db,
                               "SELECT position FROM results WHERE iteration = ?1"
                               " AND work_set = ?2 AND worker = '" STORE_GIVEN "'",
                               &statement, err, "ii", (int64_t)iteration, (int64_t)PROTO_SET_TRAIN);
    return rc == SP_OK ? read_bitmap(run, statement, positions, bitmap, NULL, err) : rc;
}

enum sp_err store_replays_copy(struct store_run *run, uint32_t iteration, uint32_t new_pairs,
                               int64_t at_ms, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc == SP_OK)
        rc = sdb_run(run->db,
                     "INSERT INTO results(iteration, work_set, position, prompt, sample,"
                     " source_iteration, tokens, answer, finish, ref_real, ref_generated, worker,"
                     " at_ms)"
                     " SELECT ?1, work_set, position + ?3, prompt, sample, source_iteration,"
                     " tokens, answer, finish, ?4, ?4, '" STORE_GIVEN "', ?5 FROM results"
                     " WHERE iteration = ?1 - 1 AND work_set = ?2 AND position < ?3"
                     " ON CONFLICT DO NOTHING",
                     NULL, err, "iiifi", (int64_t)iteration, (int64_t)PROTO_SET_TRAIN,
                     (int64_t)new_pairs, (double)NAN, at_ms);
    return rc;
}

enum sp_err store_results_owners(struct store_run *run, uint32_t iteration, uint32_t set,
                                 void (*each)(void *context, uint64_t position, const char *worker),
                                 void *context, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = true;
    enum sp_err rc = sdb_query(run->db,
                               "SELECT position, worker FROM results"
                               " WHERE iteration = ?1 AND work_set = ?2 ORDER BY position",
                               &statement, err, "ii", (int64_t)iteration, (int64_t)set);
    while (rc == SP_OK) {
        rc = sdb_step(run->db, statement, &have, err);
        if (rc != SP_OK || !have)
            break;
        const unsigned char *worker = sqlite3_column_text(statement, 1);
        each(context, (uint64_t)sqlite3_column_int64(statement, 0),
             worker ? (const char *)worker : "");
    }
    sdb_done(statement);
    return rc;
}

enum sp_err store_result_revoke(struct store_run *run, uint32_t iteration, uint32_t set,
                                uint64_t position, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    int changes = 0;
    if (rc == SP_OK)
        rc = sdb_run(run->db,
                     "DELETE FROM answers WHERE id = (SELECT answer FROM results" KEY_WHERE ")",
                     NULL, err, "iiu", (int64_t)iteration, (int64_t)set, position);
    if (rc == SP_OK)
        rc = sdb_run(run->db, "DELETE FROM results" KEY_WHERE, &changes, err, "iiu",
                     (int64_t)iteration, (int64_t)set, position);
    if (rc == SP_OK && changes == 0)
        rc = sp_fail(err, SP_ENOTFOUND, "run %s, iteration %u, set %u: no result at %llu",
                     run->name, iteration, set, (unsigned long long)position);
    return rc;
}

enum sp_err store_results_clear(struct store_run *run, uint32_t iteration, uint32_t sets,
                                struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    for (uint32_t set = 0; set <= PROTO_SET_TRAINED && rc == SP_OK; set++) {
        if (!(sets & (1u << set)))
            continue;
        rc = sdb_run(run->db,
                     "DELETE FROM answers WHERE id IN (SELECT answer FROM results"
                     " WHERE iteration = ?1 AND work_set = ?2)",
                     NULL, err, "ii", (int64_t)iteration, (int64_t)set);
        if (rc == SP_OK)
            rc = sdb_run(run->db, "DELETE FROM results WHERE iteration = ?1 AND work_set = ?2",
                         NULL, err, "ii", (int64_t)iteration, (int64_t)set);
    }
    return rc;
}

static void read_share(struct sdb_row *row, void *ret)
{
    struct store_share *share = ret;
    share->worker = sdb_text(row);
    share->results = sdb_u64(row, INT64_MAX);
    share->tokens = sdb_u64(row, INT64_MAX);
}
static const struct sdb_row_kind share_rows = {"results", sizeof(struct store_share), read_share};

enum sp_err store_shares(struct store_run *run, uint32_t iteration, uint32_t set, bool new_only,
                         struct sp_arena *arena, struct store_share **ret, size_t *ret_count,
                         struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(run->db,
                  "SELECT worker, count(*), coalesce(sum(tokens), 0)"
                  " FROM results WHERE iteration = ?1 AND work_set = ?2"
                  " AND (?3 = 0 OR source_iteration = iteration)"
                  " GROUP BY worker ORDER BY worker",
                  &statement, err, "iii", (int64_t)iteration, (int64_t)set, (int64_t)new_only);
    if (rc == SP_OK)
        rc = sdb_rows(run->db, statement, &share_rows, arena, ret, ret_count, err);
    return rc;
}

static void read_slice(struct sdb_row *row, void *ret)
{
    struct store_slice *slice = ret;
    slice->worker = sdb_text(row);
    slice->set = (uint32_t)sdb_u64(row, UINT32_MAX);
    slice->slice = (int64_t)sdb_u64(row, INT64_MAX);
    slice->results = sdb_u64(row, INT64_MAX);
}
static const struct sdb_row_kind slice_rows = {"results", sizeof(struct store_slice), read_slice};

enum sp_err store_slices(struct store_run *run, uint32_t iteration, int64_t start_ms,
                         int64_t slice_ms, struct sp_arena *arena, struct store_slice **ret,
                         size_t *ret_count, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(run->db,
                               "SELECT worker, work_set, max(0, (at_ms - ?2) / ?3) AS slice,"
                               " count(*) FROM results WHERE iteration = ?1"
                               " AND worker != '" STORE_GIVEN "'"
                               " GROUP BY worker, work_set, slice"
                               " ORDER BY worker, work_set, slice",
                               &statement, err, "iii", (int64_t)iteration, start_ms, slice_ms);
    if (rc == SP_OK)
        rc = sdb_rows(run->db, statement, &slice_rows, arena, ret, ret_count, err);
    return rc;
}

static void read_time(struct sdb_row *row, void *ret)
{
    *(int64_t *)ret = sdb_i64(row, 0, INT64_MAX);
}
static const struct sdb_row_kind time_rows = {"results", sizeof(int64_t), read_time};

enum sp_err store_results_last_ms(struct store_run *run, uint32_t iteration, int64_t *ret,
                                  struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc =
        sdb_query(run->db, "SELECT coalesce(max(at_ms), 0) FROM results WHERE iteration = ?1",
                  &statement, err, "i", (int64_t)iteration);
    if (rc == SP_OK)
        rc = sdb_one(run->db, statement, &time_rows, NULL, ret, &have, err);
    return rc;
}

/* Pairs: prompts and results together. */
#include <math.h>

#include "coordinator/store/internal.h"

/* ?7 is the source iteration: what was skipped there has no answer to replay. ?8 is an enum
 * store_refs. */
#define REFERENCE(column)                                                                          \
    "CASE ?8 WHEN 0 THEN coalesce(r.trainer_" column ", r.ref_" column ")"                         \
    " WHEN 1 THEN r.trainer_" column " ELSE r.ref_" column " END"
#define ANSWER STORE_ANSWER_IDS("coalesce(r.answer, 0)")
#define REFERENCES REFERENCE("real") ", " REFERENCE("generated")
#define PAIR_SQL                                                                                   \
    "SELECT p.split, p.idx, p.prompt_ids, p.real_ids, p.rejected_ids,"                             \
    " EXISTS (SELECT 1 FROM skips s WHERE s.iteration IN (?1, ?7) AND s.prompt = p.idx),"          \
    " r.position IS NOT NULL, coalesce(r.prompt, p.idx), coalesce(r.sample, ?6),"                  \
    " coalesce(r.source_iteration, ?7), " ANSWER ", coalesce(r.finish, 0), " REFERENCES            \
    " FROM prompts p LEFT JOIN results r"                                                          \
    " ON r.iteration = ?1 AND r.work_set = ?2 AND r.position = ?3"                                 \
    " WHERE p.split = ?4 AND p.idx = ?5"

/* Numbers of the columns that must agree with the key. */
enum { COLUMN_PROMPT = 7, COLUMN_SAMPLE, COLUMN_SOURCE };

static void must_be(struct sdb_row *row, uint32_t value, uint32_t wanted, int column)
{
    if (value != wanted && row->bad < 0)
        row->bad = column;
}

static enum sp_err read_pair(struct sdb_row *row, const struct store_pair_key *key,
                             struct proto_train_pair *ret, bool *ret_stored, struct sp_error *err)
{
    struct proto_train_pair pair = {.position = key->position};
    row->next = 2;
    pair.prompt_ids = sdb_ids(row);
    pair.real_ids = sdb_ids(row);
    struct proto_ids rejected = sdb_ids(row);
    pair.skipped = sdb_bool(row);
    bool stored = sdb_bool(row);
    pair.prompt = sdb_u32(row);
    must_be(row, pair.prompt, key->prompt, COLUMN_PROMPT);
    pair.sample = sdb_u32(row);
    must_be(row, pair.sample, key->sample, COLUMN_SAMPLE);
    pair.source_iteration = sdb_u32(row);
    must_be(row, pair.source_iteration, key->source_iteration, COLUMN_SOURCE);
    pair.generated_ids = sdb_ids(row);
    if (pair.generated_ids.count == 0)
        pair.generated_ids = rejected;
    pair.finish = (uint32_t)sdb_u64(row, PROTO_FINISH_LENGTH);
    pair.ref_real = sdb_f32(row);
    pair.ref_generated = sdb_f32(row);
    pair.length_key = (uint64_t)pair.prompt_ids.count + pair.real_ids.count;
    enum sp_err rc = sdb_row_end(row, err);
    if (rc == SP_OK) {
        *ret = pair;
        *ret_stored = stored;
    }
    return rc;
}

static enum sp_err read_one(struct store_run *run, uint32_t iteration, uint32_t set,
                            enum store_split split, const struct store_pair_key *key,
                            struct sp_arena *arena, struct proto_train_pair *ret, bool *ret_stored,
                            struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc =
        sdb_query(run->db, PAIR_SQL, &statement, err, "iiuiiiii", (int64_t)iteration, (int64_t)set,
                  key->position, (int64_t)split, (int64_t)key->prompt, (int64_t)key->sample,
                  (int64_t)key->source_iteration, (int64_t)key->refs);
    if (rc == SP_OK)
        rc = sdb_step(run->db, statement, &have, err);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ENOTFOUND, "run %s: no prompt %u in split %d", run->name, key->prompt,
                     (int)split);
    if (rc == SP_OK) {
        struct sdb_row row = sdb_row(run->db, statement, arena, "prompts and results");
        rc = read_pair(&row, key, ret, ret_stored, err);
    }
    sdb_done(statement);
    return rc;
}

enum sp_err store_pairs_read(struct store_run *run, uint32_t iteration, uint32_t set,
                             enum store_split split, const struct store_pair_key *keys,
                             uint32_t count, struct sp_arena *arena, struct proto_train_pair *ret,
                             bool *ret_stored, struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    for (uint32_t i = 0; i < count && rc == SP_OK; i++) {
        bool stored = false;
        rc = read_one(run, iteration, set, split, &keys[i], arena, &ret[i], &stored, err);
        if (rc == SP_OK && ret_stored)
            ret_stored[i] = stored;
    }
    return rc;
}

/* Iterations, the order of the gap curriculum, marks of skipped prompts. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/store/internal.h"
#include "proto/run_settings.h"

#define STATE_NAME(NAME, name) #name,
static const char *const state_names[] = {STORE_STATE_LIST(STATE_NAME)};
#undef STATE_NAME

const char *store_state_name(enum store_state state)
{
    SP_ASSERT((unsigned)state < STORE_STATE_COUNT);
    return state_names[state];
}

#define COLUMNS                                                                                    \
    "iteration, state, return_state, reason, opponent, opponent_manifest, checkpoint,"             \
    " checkpoint_manifest, seed, prompts, samples_per_prompt, new_pairs, replay_pairs, "           \
    "pass_order,"                                                                                  \
    " plan, epoch, attempt, steps_total, created_ms, started_ms, generated_ms, trained_ms,"        \
    " closed_ms, verdict, accepted, summary, pairs_sha256, pairs_chain"

enum sp_err store_iteration_put(struct store_run *run, const struct store_iteration *it,
                                struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db,
                   "INSERT OR REPLACE INTO iterations(" COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6,"
                   " ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,"
                   " ?23, ?24, ?25, ?26, ?27, ?28)",
                   NULL, err, "itttgggguiiiiiguuuiiiiititgg", (int64_t)it->iteration,
                   store_state_name(it->state), store_state_name(it->return_state), it->reason,
                   &it->opponent, &it->opponent_manifest, &it->checkpoint, &it->checkpoint_manifest,
                   it->seed, (int64_t)it->prompts, (int64_t)it->samples_per_prompt,
                   (int64_t)it->new_pairs, (int64_t)it->replay_pairs, (int64_t)it->order, &it->plan,
                   it->epoch, it->attempt, it->steps_total, it->created_ms, it->started_ms,
                   it->generated_ms, it->trained_ms, it->closed_ms, it->verdict,
                   (int64_t)it->accepted, it->summary, &it->pairs_sha256, &it->pairs_chain);
}

static enum store_state read_state(struct sdb_row *row)
{
    int column = row->next;
    const char *name = sdb_text(row);
    for (int i = 0; i < STORE_STATE_COUNT; i++) {
        if (strcmp(name, state_names[i]) == 0)
            return (enum store_state)i;
    }
    if (row->bad < 0)
        row->bad = column;
    return STORE_STATE_FAILED;
}

static void read_iteration(struct sdb_row *row, void *ret)
{
    struct store_iteration *it = ret;
    it->iteration = sdb_u32(row);
    it->state = read_state(row);
    it->return_state = read_state(row);
    it->reason = sdb_text(row);
    sdb_digest(row, &it->opponent);
    sdb_digest(row, &it->opponent_manifest);
    sdb_digest(row, &it->checkpoint);
    sdb_digest(row, &it->checkpoint_manifest);
    it->seed = sdb_u64(row, INT64_MAX);
    it->prompts = sdb_u32(row);
    it->samples_per_prompt = sdb_u32(row);
    it->new_pairs = sdb_u32(row);
    it->replay_pairs = sdb_u32(row);
    it->order = (uint32_t)sdb_u64(row, RUN_ORDER_GAP);
    sdb_digest(row, &it->plan);
    it->epoch = sdb_u64(row, INT64_MAX);
    it->attempt = sdb_u64(row, INT64_MAX);
    it->steps_total = sdb_u64(row, INT64_MAX);
    it->created_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    it->started_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    it->generated_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    it->trained_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    it->closed_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    it->verdict = sdb_text(row);
    it->accepted = sdb_bool(row);
    it->summary = sdb_text(row);
    sdb_digest(row, &it->pairs_sha256);
    sdb_digest(row, &it->pairs_chain);
}
static const struct sdb_row_kind iteration_rows = {"iterations", sizeof(struct store_iteration),
                                                   read_iteration};

enum sp_err store_iteration_get(struct store_run *run, uint32_t iteration, struct sp_arena *arena,
                                struct store_iteration *ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(run->db, "SELECT " COLUMNS " FROM iterations WHERE iteration = ?1",
                               &statement, err, "i", (int64_t)iteration);
    if (rc == SP_OK)
        rc = sdb_one(run->db, statement, &iteration_rows, arena, ret, &have, err);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ENOTFOUND, "run %s has no iteration %u", run->name, iteration);
    return rc;
}

enum sp_err store_iterations_list(struct store_run *run, struct sp_arena *arena,
                                  struct store_iteration **ret, size_t *ret_count,
                                  struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(run->db, "SELECT " COLUMNS " FROM iterations ORDER BY iteration",
                               &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_rows(run->db, statement, &iteration_rows, arena, ret, ret_count, err);
    return rc;
}

/* ---- order of the gap curriculum ---- */

enum sp_err store_gap_order_put(struct store_run *run, uint32_t iteration, const uint32_t *order,
                                uint32_t count, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db,
                   "INSERT OR REPLACE INTO gap_orders(iteration, positions) VALUES (?1, ?2)", NULL,
                   err, "ib", (int64_t)iteration, order, (size_t)count * sizeof(*order));
}

enum sp_err store_gap_order_drop(struct store_run *run, uint32_t iteration, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db, "DELETE FROM gap_orders WHERE iteration = ?1", NULL, err, "i",
                   (int64_t)iteration);
}

/* Each position once: a list that is no permutation would train some pairs twice. */
static bool is_permutation(const uint32_t *order, uint32_t count)
{
    uint8_t *seen = sp_xalloc((size_t)count / 8 + 1);
    bool good = true;
    for (uint32_t i = 0; i < count && good; i++) {
        good = order[i] < count && !(seen[order[i] / 8] & (1u << order[i] % 8));
        if (good)
            seen[order[i] / 8] |= (uint8_t)(1u << order[i] % 8);
    }
    free(seen);
    return good;
}

enum sp_err store_gap_order_get(struct store_run *run, uint32_t iteration, uint32_t count,
                                uint32_t *ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(run->db, "SELECT positions FROM gap_orders WHERE iteration = ?1",
                               &statement, err, "i", (int64_t)iteration);
    if (rc == SP_OK)
        rc = sdb_step(run->db, statement, &have, err);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ENOTFOUND, "run %s: iteration %u has no stored order", run->name,
                     iteration);
    if (rc == SP_OK) {
        const void *data = sqlite3_column_blob(statement, 0);
        size_t bytes = (size_t)sqlite3_column_bytes(statement, 0);
        if (data && bytes == (size_t)count * sizeof(*ret) && is_permutation(data, count))
            memcpy(ret, data, bytes);
        else
            rc = sp_fail(err, SP_ECORRUPT,
                         "%s: table gap_orders: row iteration=%u: not an order of %u positions",
                         run->db->path, iteration, count);
    }
    sdb_done(statement);
    return rc;
}

/* ---- skipped prompts ---- */

enum sp_err store_skip_add(struct store_run *run, uint32_t iteration, uint32_t prompt,
                           const char *actor, int64_t at_ms, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db,
                   "INSERT INTO skips(iteration, prompt, actor, at_ms) VALUES (?1, ?2, ?3, ?4)"
                   " ON CONFLICT DO NOTHING",
                   NULL, err, "iiti", (int64_t)iteration, (int64_t)prompt, actor, at_ms);
}

static void read_skip(struct sdb_row *row, void *ret)
{
    *(uint32_t *)ret = sdb_u32(row);
}
static const struct sdb_row_kind skip_rows = {"skips", sizeof(uint32_t), read_skip};

enum sp_err store_skips_list(struct store_run *run, uint32_t iteration, struct sp_arena *arena,
                             uint32_t **ret, size_t *ret_count, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(run->db, "SELECT prompt FROM skips WHERE iteration = ?1 ORDER BY prompt",
                  &statement, err, "i", (int64_t)iteration);
    if (rc == SP_OK)
        rc = sdb_rows(run->db, statement, &skip_rows, arena, ret, ret_count, err);
    return rc;
}

static enum sp_err delete_from(struct store_run *run, const char *sql, uint32_t iteration,
                               struct sp_error *err)
{
    return sdb_run(run->db, sql, NULL, err, "i", (int64_t)iteration);
}

enum sp_err store_iteration_clear(struct store_run *run, uint32_t iteration, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc == SP_OK)
        rc = delete_from(run,
                         "DELETE FROM answers WHERE id IN (SELECT answer FROM results"
                         " WHERE iteration = ?1 AND worker != '" STORE_GIVEN "')",
                         iteration, err);
    if (rc == SP_OK)
        rc = delete_from(run,
                         "DELETE FROM results WHERE iteration = ?1 AND worker != '" STORE_GIVEN "'",
                         iteration, err);
    if (rc == SP_OK)
        rc = delete_from(run,
                         "UPDATE results SET trainer_real = NULL, trainer_generated = NULL"
                         " WHERE iteration = ?1",
                         iteration, err);
    if (rc == SP_OK)
        rc = delete_from(run, "DELETE FROM steps WHERE iteration = ?1", iteration, err);
    if (rc == SP_OK)
        rc = delete_from(run, "DELETE FROM gap_orders WHERE iteration = ?1", iteration, err);
    if (rc == SP_OK)
        rc = delete_from(run, "DELETE FROM skips WHERE iteration = ?1", iteration, err);
    return rc;
}

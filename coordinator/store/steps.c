/* Metrics of optimizer steps. */
#include <stdlib.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/store/internal.h"

#define COLUMNS                                                                                    \
    "iteration, step, train_epoch, learning_rate, loss, sft_loss, margin, margin_abs_max,"         \
    " accuracy, reward_real, reward_generated, logp_real, logp_generated, logp_real_change,"       \
    " grad_norm, pairs, identical, tokens, milliseconds, first_sight_correct, first_sight_pairs,"  \
    " skipped"

enum sp_err store_step_put(struct store_run *run, uint32_t iteration,
                           const struct proto_step_metrics *s, struct sp_error *err)
{
    enum sp_err rc = sdb_write(run->db, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(run->db,
                   "INSERT OR REPLACE INTO steps(" COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7,"
                   " ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
                   NULL, err, "iuidddddddddddduuuudui", (int64_t)iteration, s->step,
                   (int64_t)s->train_epoch, s->learning_rate, s->loss, s->sft_loss, s->margin,
                   s->margin_abs_max, s->accuracy, s->reward_real, s->reward_generated,
                   s->logp_real, s->logp_generated, s->logp_real_change, s->grad_norm, s->pairs,
                   s->identical, s->tokens, s->milliseconds, s->first_sight_correct,
                   s->first_sight_pairs, (int64_t)s->skipped);
}

static void read_step(struct sdb_row *row, void *ret)
{
    struct proto_step_metrics *s = ret;
    row->next = 1;
    s->step = sdb_u64(row, INT64_MAX);
    s->train_epoch = sdb_u32(row);
    s->learning_rate = sdb_f64(row);
    s->loss = sdb_f64(row);
    s->sft_loss = sdb_f64(row);
    s->margin = sdb_f64(row);
    s->margin_abs_max = sdb_f64(row);
    s->accuracy = sdb_f64(row);
    s->reward_real = sdb_f64(row);
    s->reward_generated = sdb_f64(row);
    s->logp_real = sdb_f64(row);
    s->logp_generated = sdb_f64(row);
    s->logp_real_change = sdb_f64(row);
    s->grad_norm = sdb_f64(row);
    s->pairs = sdb_u64(row, INT64_MAX);
    s->identical = sdb_u64(row, INT64_MAX);
    s->tokens = sdb_u64(row, INT64_MAX);
    s->milliseconds = sdb_u64(row, INT64_MAX);
    s->first_sight_correct = sdb_f64(row);
    s->first_sight_pairs = sdb_u64(row, INT64_MAX);
    s->skipped = sdb_bool(row);
}
static const struct sdb_row_kind step_rows = {"steps", sizeof(struct proto_step_metrics),
                                              read_step};

enum sp_err store_steps_list(struct store_run *run, uint32_t iteration, uint64_t after,
                             uint32_t limit, struct sp_arena *arena,
                             struct proto_step_metrics **ret, size_t *ret_count,
                             struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(run->db,
                               "SELECT " COLUMNS " FROM steps WHERE iteration = ?1 AND step > ?2"
                               " ORDER BY step LIMIT ?3",
                               &statement, err, "iui", (int64_t)iteration, after,
                               (int64_t)SP_MIN(limit, (uint32_t)SP_MAX_LIST_ROWS));
    if (rc == SP_OK)
        rc = sdb_rows(run->db, statement, &step_rows, arena, ret, ret_count, err);
    return rc;
}

/* A sum of counts: total() adds as reals and never fails, so a damaged file may hold anything. */
static uint64_t count_of(double sum)
{
    return sum >= 0x1p53 ? (uint64_t)1 << 53 : sum >= 0 ? (uint64_t)sum : 0;
}

enum sp_err store_step_sums(struct store_run *run, uint32_t iteration, struct store_step_sums *ret,
                            struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(run->db,
                               "SELECT count(*), coalesce(min(step), 0), coalesce(max(step), 0),"
                               " total(pairs), total(identical), total(tokens),"
                               " total(milliseconds), total(first_sight_pairs),"
                               " total(first_sight_correct), total(skipped)"
                               " FROM steps WHERE iteration = ?1",
                               &statement, err, "i", (int64_t)iteration);
    if (rc == SP_OK)
        rc = sdb_step(run->db, statement, &have, err);
    if (rc == SP_OK && have) {
        struct store_step_sums sums = {0};
        struct sdb_row row = sdb_row(run->db, statement, NULL, "steps");
        sums.steps = sdb_u64(&row, INT64_MAX);
        sums.first_step = sdb_u64(&row, INT64_MAX);
        sums.last_step = sdb_u64(&row, INT64_MAX);
        sums.pairs = count_of(sdb_f64(&row));
        sums.identical = count_of(sdb_f64(&row));
        sums.tokens = count_of(sdb_f64(&row));
        sums.milliseconds = count_of(sdb_f64(&row));
        sums.first_sight_pairs = count_of(sdb_f64(&row));
        sums.first_sight_correct = sdb_f64(&row);
        sums.skipped = count_of(sdb_f64(&row));
        rc = sdb_row_end(&row, err);
        if (rc == SP_OK)
            *ret = sums;
    }
    sdb_done(statement);
    return rc;
}

/* iterations: what came of each, from the stored rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/query_internal.h"
#include "coordinator/verdict.h"

#define HOLDOUT_PAGE 512
#define MATCH_CONFIDENCE 0.95

/* ---- held-out accuracy ---- */

/* m > 0 of a pair: β is positive, so it does not matter. */
static double score(const struct store_result *opponent, const struct store_result *player)
{
    double margin = ((double)player->ref_real - (double)opponent->ref_real) -
                    ((double)player->ref_generated - (double)opponent->ref_generated);
    return margin > 0 ? 1 : margin == 0 ? 0.5 : 0;
}

static bool scored(const struct store_result *row)
{
    return isfinite(row->ref_real) && isfinite(row->ref_generated);
}

enum sp_err coord_query_holdout_accuracy(struct coord_query *query, struct store_run *run,
                                         uint32_t iteration, double *ret, struct sp_error *err)
{
    struct sp_arena *arena = sp_arena_new(1 << 16, 256u << 20);
    double sum = 0;
    uint64_t pairs = 0, next = 0;
    enum sp_err rc = SP_OK;
    for (size_t got = HOLDOUT_PAGE; rc == SP_OK && got == HOLDOUT_PAGE;) {
        struct store_result *player = NULL, opponent;
        sp_arena_reset(arena);
        rc = store_results_range(run, iteration, PROTO_SET_HOLDOUT_PLAYER, next, HOLDOUT_PAGE,
                                 arena, &player, &got, err);
        for (size_t i = 0; rc == SP_OK && i < got; i++) {
            next = player[i].position + 1;
            rc = store_results_get(run, iteration, PROTO_SET_HOLDOUT, &player[i].position, 1, arena,
                                   &opponent, err);
            if (rc == SP_ENOTFOUND) {
                rc = SP_OK;
            } else if (rc == SP_OK && scored(&player[i]) && scored(&opponent)) {
                sum += score(&opponent, &player[i]);
                pairs++;
            }
        }
    }
    sp_arena_free(arena);
    if (rc == SP_OK)
        *ret = pairs ? sum / (double)pairs : (double)NAN;
    return rc;
}

/* ---- exact match, remembered for closed iterations ---- */

static void match_key(const struct query *q, const struct store_iteration *it, uint32_t set,
                      struct query_match *ret)
{
    struct sp_buf text = SP_BUF_INIT;
    sp_buf_puts(&text, q->run_name);
    sp_buf_append(&text, q->info.data_digest.bytes, SP_DIGEST_BYTES);
    *ret = (struct query_match){.iteration = it->iteration, .set = set, .attempt = it->attempt};
    sp_sha256_of(text.data, text.length, &ret->run);
    sp_buf_deinit(&text);
}

static enum sp_err exact_match(const struct query *q, const struct store_iteration *it,
                               uint32_t set, struct query_match *ret, struct sp_error *err)
{
    struct coord_query *all = q->all;
    match_key(q, it, set, ret);
    for (size_t i = 0; i < all->match_count; i++) {
        const struct query_match *m = &all->matches[i];
        if (m->iteration == ret->iteration && m->set == set && m->attempt == ret->attempt &&
            sp_digest_equal(&m->run, &ret->run)) {
            *ret = *m;
            return SP_OK;
        }
    }
    enum sp_err rc =
        coord_query_exact_match(all, q->run, it->iteration, set, &ret->correct, &ret->count, err);
    if (rc == SP_OK && it->state == STORE_STATE_CLOSED) {
        all->matches[all->next_match] = *ret;
        all->next_match = (all->next_match + 1) % QUERY_MATCHES;
        all->match_count = SP_MIN(all->match_count + 1, (size_t)QUERY_MATCHES);
    }
    return rc;
}

static json_t *match_share(const struct query_match *match)
{
    return match->count ? json_real((double)match->correct / (double)match->count) : json_null();
}

/* Share and its interval, or nulls. */
static void set_match(json_t *row, const char *name, const struct query_match *match)
{
    struct verdict_interval x =
        verdict_wilson((double)match->correct, match->count, MATCH_CONFIDENCE);
    char *interval = sp_xprintf("%s_interval", name);
    json_object_set_new(row, name, match_share(match));
    json_object_set_new(row, interval, json_pack("[o, o]", query_real(x.low), query_real(x.high)));
    free(interval);
}

static enum sp_err add_matches(const struct query *q, const struct store_iteration *it, json_t *row,
                               struct sp_error *err)
{
    struct query_match greedy, sampled;
    bool evaluated =
        q->info.prompts[STORE_SPLIT_EVAL] > 0 && q->all->blobs && it->state == STORE_STATE_CLOSED;
    if (!evaluated) {
        json_object_set_new(row, "eval_n", json_integer(0));
        json_object_set_new(row, "exact_match", json_null());
        json_object_set_new(row, "sampled_exact_match", json_null());
        return SP_OK;
    }
    enum sp_err rc = exact_match(q, it, PROTO_SET_EVAL_GREEDY, &greedy, err);
    if (rc == SP_OK)
        rc = exact_match(q, it, PROTO_SET_EVAL_SAMPLED, &sampled, err);
    if (rc != SP_OK)
        return rc;
    json_object_set_new(row, "eval_n", json_integer((json_int_t)greedy.count));
    set_match(row, "exact_match", &greedy);
    set_match(row, "sampled_exact_match", &sampled);
    if (it->iteration > 0)
        return SP_OK;
    rc = exact_match(q, it, PROTO_SET_BASE_GREEDY, &greedy, err);
    if (rc == SP_OK)
        rc = exact_match(q, it, PROTO_SET_BASE_SAMPLED, &sampled, err);
    if (rc == SP_OK) {
        json_t *base = json_object();
        set_match(base, "exact_match", &greedy);
        set_match(base, "sampled_exact_match", &sampled);
        json_object_set_new(row, "base", base);
    }
    return rc;
}

/* ---- steps ---- */

static enum sp_err step_at(const struct query *q, uint32_t iteration, uint64_t number,
                           struct proto_step_metrics *ret, struct sp_error *err)
{
    struct proto_step_metrics *steps = NULL;
    size_t count = 0;
    enum sp_err rc =
        store_steps_list(q->run, iteration, number - 1, 1, q->all->arena, &steps, &count, err);
    if (rc == SP_OK && count == 1)
        *ret = steps[0];
    return rc;
}

static enum sp_err add_steps(const struct query *q, const struct store_iteration *it, json_t *row,
                             struct sp_error *err)
{
    struct store_step_sums sums;
    struct proto_step_metrics first = {.loss = (double)NAN, .margin_abs_max = (double)NAN};
    struct proto_step_metrics last = {.loss = (double)NAN, .margin = (double)NAN};
    enum sp_err rc = store_step_sums(q->run, it->iteration, &sums, err);
    if (rc == SP_OK && sums.steps)
        rc = step_at(q, it->iteration, sums.first_step, &first, err);
    if (rc == SP_OK && sums.steps)
        rc = step_at(q, it->iteration, sums.last_step, &last, err);
    if (rc != SP_OK)
        return rc;
    double identical = sums.pairs ? (double)sums.identical / (double)sums.pairs : (double)NAN;
    json_object_set_new(row, "steps", json_integer((json_int_t)sums.last_step));
    json_object_set_new(row, "steps_total", json_integer((json_int_t)it->steps_total));
    json_object_set_new(row, "loss_first_step", query_real(first.loss));
    json_object_set_new(row, "margin_abs_max_first_step", query_real(first.margin_abs_max));
    json_object_set_new(row, "loss_last_step", query_real(last.loss));
    json_object_set_new(row, "margin_last", query_real(last.margin));
    json_object_set_new(row, "identical_share", query_real(identical));
    json_object_set_new(row, "train_tokens", json_integer((json_int_t)sums.tokens));
    json_object_set_new(row, "train_seconds", json_real((double)sums.milliseconds / 1000));
    return SP_OK;
}

/* ---- generators ---- */

static enum sp_err add_shares(const struct query *q, const struct store_iteration *it, json_t *row,
                              struct sp_error *err)
{
    struct store_share *shares = NULL;
    size_t count = 0;
    uint64_t tokens = 0;
    enum sp_err rc = store_shares(q->run, it->iteration, PROTO_SET_TRAIN, true, q->all->arena,
                                  &shares, &count, err);
    if (rc != SP_OK)
        return rc;
    json_t *by_worker = json_object();
    for (size_t i = 0; i < count; i++) {
        if (strcmp(shares[i].worker, STORE_GIVEN) == 0)
            continue;
        tokens += shares[i].tokens;
        if (shares[i].worker[0]) /* given answers that the trainer scored have no maker */
            json_object_set_new(by_worker, shares[i].worker,
                                json_integer((json_int_t)shares[i].results));
    }
    json_object_set_new(row, "pairs_by_generator", by_worker);
    json_object_set_new(row, "generated_tokens", json_integer((json_int_t)tokens));
    return SP_OK;
}

static json_t *seconds_between(int64_t from_ms, int64_t to_ms)
{
    return from_ms && to_ms >= from_ms ? json_real((double)(to_ms - from_ms) / 1000) : json_null();
}

static enum sp_err iteration_row(const struct query *q, const struct store_iteration *it,
                                 json_t **ret, struct sp_error *err)
{
    double accuracy = (double)NAN;
    json_t *row = json_pack(
        "{s:I, s:s, s:o, s:o, s:b, s:I, s:I, s:I, s:I}", "iteration", (json_int_t)it->iteration,
        "state", store_state_name(it->state), "reason", query_text(it->reason, strlen(it->reason)),
        "verdict", it->verdict[0] ? query_text(it->verdict, strlen(it->verdict)) : json_null(),
        "accepted", it->accepted, "pairs", (json_int_t)it->new_pairs + it->replay_pairs,
        "new_pairs", (json_int_t)it->new_pairs, "replay_pairs", (json_int_t)it->replay_pairs,
        "attempt", (json_int_t)it->attempt);
    json_object_set_new(row, "opponent_sha256", query_hex(&it->opponent));
    json_object_set_new(row, "checkpoint_sha256", query_hex(&it->checkpoint));
    json_object_set_new(row, "plan_sha256", query_hex(&it->plan));
    json_object_set_new(row, "pairs_sha256", query_hex(&it->pairs_sha256));
    json_object_set_new(row, "pairs_chain", query_hex(&it->pairs_chain));
    json_object_set_new(row, "started_ms", query_time(it->started_ms));
    json_object_set_new(row, "generated_ms", query_time(it->generated_ms));
    json_object_set_new(row, "trained_ms", query_time(it->trained_ms));
    json_object_set_new(row, "closed_ms", query_time(it->closed_ms));
    json_object_set_new(row, "seconds", seconds_between(it->started_ms, it->closed_ms));
    json_object_set_new(row, "generation_seconds",
                        seconds_between(it->started_ms, it->generated_ms));
    json_object_set_new(row, "statistics", query_parsed(it->summary));
    enum sp_err rc = add_steps(q, it, row, err);
    if (rc == SP_OK)
        rc = add_shares(q, it, row, err);
    if (rc == SP_OK)
        rc = coord_query_holdout_accuracy(q->all, q->run, it->iteration, &accuracy, err);
    json_object_set_new(row, "holdout_accuracy", query_real(accuracy));
    if (rc == SP_OK)
        rc = add_matches(q, it, row, err);
    if (rc != SP_OK) {
        json_decref(row);
        return sp_wrap(err, rc, "iteration %u", it->iteration);
    }
    *ret = row;
    return SP_OK;
}

enum sp_err query_iterations(struct query *q, json_t **ret, struct sp_error *err)
{
    struct store_iteration *list = NULL;
    size_t count = 0;
    enum sp_err rc = store_iterations_list(q->run, q->all->arena, &list, &count, err);
    json_t *rows = json_array();
    for (size_t i = 0; i < count && rc == SP_OK; i++) {
        json_t *row = NULL;
        rc = iteration_row(q, &list[i], &row, err);
        json_array_append_new(rows, row);
    }
    if (rc == SP_OK)
        *ret = json_pack("{s:s, s:o}", "run", q->run_name, "iterations", rows);
    else
        json_decref(rows);
    return rc;
}

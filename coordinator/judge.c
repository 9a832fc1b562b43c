#include "coordinator/judge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/try.h"
#include "coordinator/verdict.h"
#include "coordinator/work_item.h"
#include "proto/pairs_digest.h"

#define PAGE 256
#define PAGE_ARENA ((size_t)256 << 20)

struct judge {
    struct store_run *run;
    struct coord_query *query;
    const struct coord_run_info *info;
    struct plan plan;
    struct sp_arena *arena; /* of the page in work */
    double beta;
    struct store_iteration row;
    struct verdict_input input;
    struct verdict_shortcuts shortcuts;
    double *nll_change, *margins;
    /* training pairs */
    uint64_t identical, cut, real_tokens, generated_tokens, generated_rows, human_too_long;
    struct sp_digest pairs_sha256;
    double logp_real_change; /* of the last step; NaN: none */
    uint64_t steps, skipped_steps;
};

static double loss_of(const struct run_settings *settings, double margin, double beta)
{
    double ipo = margin / beta - 1 / (2 * settings->ipo_tau);
    switch (settings->loss) {
    case RUN_LOSS_HINGE:
        return margin < 1 ? 1 - margin : 0;
    case RUN_LOSS_EXPONENTIAL:
        return exp(-margin);
    case RUN_LOSS_CORRELATION:
        return 1 - margin;
    case RUN_LOSS_IPO:
        return ipo * ipo;
    default:
        return margin > 0 ? log1p(exp(-margin)) : log1p(exp(margin)) - margin;
    }
}

static void key_of(const struct judge *j, uint32_t position, struct store_pair_key *ret)
{
    struct plan_key key;
    plan_key_at(&j->plan, position, &key);
    *ret = (struct store_pair_key){.position = position,
                                   .source_iteration = key.source_iteration,
                                   .prompt = key.prompt,
                                   .sample = key.sample};
}

/* ---- the training pairs: digest, lengths, shortcuts ---- */

static void look_at(struct judge *j, const struct proto_train_pair *pair,
                    struct verdict_features *features, size_t *count)
{
    j->real_tokens += pair->real_ids.count;
    j->human_too_long += pair->real_ids.count > (uint64_t)j->info->settings.max_new_tokens;
    if (pair->skipped || pair->generated_ids.count == 0)
        return;
    j->generated_rows++;
    j->generated_tokens += pair->generated_ids.count;
    j->cut += pair->finish == PROTO_FINISH_LENGTH;
    j->identical += pair->generated_ids.count == pair->real_ids.count &&
                    memcmp(pair->generated_ids.ids, pair->real_ids.ids,
                           pair->real_ids.count * sizeof(int32_t)) == 0;
    features[(*count)++] = (struct verdict_features){
        .prompt = pair->prompt,
        .length = {pair->real_ids.count, pair->generated_ids.count},
        .first_token = {pair->real_ids.count ? pair->real_ids.ids[0] : -1,
                        pair->generated_ids.ids[0]},
        .cut = pair->finish == PROTO_FINISH_LENGTH,
    };
}

static enum sp_err read_pairs(struct judge *j, struct pairs_digest *digest,
                              struct verdict_features *features, size_t *count,
                              struct sp_error *err)
{
    uint32_t n = plan_pairs(&j->plan);
    for (uint32_t first = 0; first < n; first += PAGE) {
        uint32_t page = SP_MIN(n - first, (uint32_t)PAGE);
        struct store_pair_key keys[PAGE];
        struct proto_train_pair pairs[PAGE];
        for (uint32_t i = 0; i < page; i++)
            key_of(j, first + i, &keys[i]);
        sp_arena_reset(j->arena);
        SP_TRY(store_pairs_read(j->run, j->plan.iteration, PROTO_SET_TRAIN, STORE_SPLIT_TRAIN, keys,
                                page, j->arena, pairs, NULL, err));
        for (uint32_t i = 0; i < page; i++) {
            pairs_digest_add(digest, &pairs[i]);
            look_at(j, &pairs[i], features, count);
        }
    }
    return SP_OK;
}

static enum sp_err judge_pairs(struct judge *j, struct sp_error *err)
{
    struct pairs_digest *digest = pairs_digest_new();
    struct verdict_features *features = sp_xarray(plan_pairs(&j->plan), sizeof(*features));
    size_t count = 0;
    enum sp_err rc = read_pairs(j, digest, features, &count, err);
    if (!rc) {
        pairs_digest_final(digest, &j->pairs_sha256);
        verdict_shortcuts(features, count, &j->shortcuts);
    }
    free(features);
    pairs_digest_free(digest);
    return rc;
}

/* ---- held-out and trained pairs under the new player ---- */

static enum sp_err read_holdout(struct judge *j, uint32_t first, uint32_t count, double *loss,
                                struct sp_error *err)
{
    struct store_prompt prompts[PAGE];
    struct store_result before[PAGE], after[PAGE];
    uint64_t positions[PAGE];
    for (uint32_t i = 0; i < count; i++)
        positions[i] = first + i;
    sp_arena_reset(j->arena);
    SP_TRY(store_prompts_get(j->run, STORE_SPLIT_HOLDOUT, first, count, j->arena, prompts, err));
    SP_TRY(store_results_get(j->run, j->plan.iteration, PROTO_SET_HOLDOUT, positions, count,
                             j->arena, before, err));
    SP_TRY(store_results_get(j->run, j->plan.iteration, PROTO_SET_HOLDOUT_PLAYER, positions, count,
                             j->arena, after, err));
    for (uint32_t i = 0; i < count; i++) {
        double tokens = prompts[i].real_ids.count ? prompts[i].real_ids.count : 1;
        double real = (double)after[i].ref_real - (double)before[i].ref_real;
        double generated = (double)after[i].ref_generated - (double)before[i].ref_generated;
        double margin = j->beta * (real - generated);
        j->nll_change[first + i] = -real / tokens;
        j->margins[first + i] = margin;
        *loss += loss_of(&j->info->settings, margin, j->beta);
    }
    return SP_OK;
}

static enum sp_err judge_holdout(struct judge *j, struct sp_error *err)
{
    uint32_t n = j->info->prompts[STORE_SPLIT_HOLDOUT];
    double loss = 0;
    j->nll_change = sp_xarray(n, sizeof(*j->nll_change));
    j->margins = sp_xarray(n, sizeof(*j->margins));
    for (uint32_t first = 0; first < n; first += PAGE)
        SP_TRY(read_holdout(j, first, SP_MIN(n - first, (uint32_t)PAGE), &loss, err));
    bool pairwise = j->info->settings.mode != RUN_MODE_SFT;
    j->input.pairs = n;
    j->input.nll_change = j->nll_change;
    j->input.margins = pairwise ? j->margins : NULL;
    j->input.holdout_loss = pairwise && n > 0 ? loss / n : NAN;
    return SP_OK;
}

/* What a generator scores afterwards is compared with what one scored before, if one did: its
 * arithmetic may be narrower than the trainer's. */
static enum sp_err read_trained(struct judge *j, uint32_t position, struct proto_train_pair *ret,
                                bool *ret_stored, struct sp_error *err)
{
    static const enum store_refs refs[] = {STORE_REFS_GENERATOR, STORE_REFS_LATEST};
    for (size_t i = 0; i < SP_COUNT(refs); i++) {
        struct store_pair_key key;
        key_of(j, position, &key);
        key.refs = refs[i];
        SP_TRY(store_pairs_read(j->run, j->plan.iteration, PROTO_SET_TRAIN, STORE_SPLIT_TRAIN, &key,
                                1, j->arena, ret, ret_stored, err));
        if (!isnan(ret->ref_real) && !isnan(ret->ref_generated))
            break;
    }
    return SP_OK;
}

static enum sp_err judge_trained(struct judge *j, struct sp_error *err)
{
    uint32_t n =
        coord_set_positions(&j->info->settings, &j->plan, PROTO_SET_TRAINED, j->info->prompts);
    for (uint32_t position = 0; position < n; position++) {
        struct proto_train_pair pair;
        struct store_result after;
        uint64_t at = position;
        bool stored = false;
        sp_arena_reset(j->arena);
        SP_TRY(read_trained(j, position, &pair, &stored, err));
        if (pair.skipped || !stored)
            continue;
        SP_TRY(store_results_get(j->run, j->plan.iteration, PROTO_SET_TRAINED, &at, 1, j->arena,
                                 &after, err));
        double margin = j->beta * (((double)after.ref_real - (double)pair.ref_real) -
                                   ((double)after.ref_generated - (double)pair.ref_generated));
        if (isnan(margin))
            continue;
        j->input.trained_correct += margin > 0 ? 1 : margin == 0 ? 0.5 : 0;
        j->input.trained_pairs++;
    }
    return SP_OK;
}

/* ---- steps and evaluation ---- */

static enum sp_err judge_steps(struct judge *j, struct sp_error *err)
{
    struct store_step_sums sums;
    SP_TRY(store_step_sums(j->run, j->plan.iteration, &sums, err));
    struct proto_step_metrics *last;
    size_t count = 0;
    sp_arena_reset(j->arena);
    if (sums.last_step > 0)
        SP_TRY(store_steps_list(j->run, j->plan.iteration, sums.last_step - 1, 1, j->arena, &last,
                                &count, err));
    j->steps = sums.steps;
    j->skipped_steps = sums.skipped;
    j->logp_real_change = count == 1 ? last[0].logp_real_change : NAN;
    if (j->info->settings.mode == RUN_MODE_SFT)
        return SP_OK;
    j->input.first_sight_correct = sums.first_sight_correct;
    j->input.first_sight_pairs = sums.first_sight_pairs;
    return SP_OK;
}

/* Where the opponent's answers to the evaluation problems are: iteration 0 has the base's. */
static enum sp_err find_opponent(struct judge *j, uint32_t *ret_iteration, enum proto_set *ret_set,
                                 struct sp_error *err)
{
    *ret_iteration = 0;
    *ret_set = PROTO_SET_BASE_GREEDY;
    struct store_iteration *rows;
    size_t count;
    SP_TRY(store_iterations_list(j->run, j->arena, &rows, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (rows[i].iteration < j->plan.iteration &&
            sp_digest_equal(&rows[i].checkpoint, &j->row.opponent)) {
            *ret_iteration = rows[i].iteration;
            *ret_set = PROTO_SET_EVAL_GREEDY;
        }
    }
    return SP_OK;
}

static enum sp_err judge_eval(struct judge *j, struct sp_error *err)
{
    if (!j->query || j->info->prompts[STORE_SPLIT_EVAL] == 0)
        return SP_OK;
    uint32_t iteration;
    enum proto_set set;
    sp_arena_reset(j->arena);
    SP_TRY(find_opponent(j, &iteration, &set, err));
    SP_TRY(coord_query_exact_match(j->query, j->run, j->plan.iteration, PROTO_SET_EVAL_GREEDY,
                                   &j->input.eval_correct, &j->input.eval_count, err));
    return coord_query_exact_match(j->query, j->run, iteration, set, &j->input.eval_correct_before,
                                   &j->input.eval_count_before, err);
}

/* Counts of the other evaluation sets, for people; -1 where there is none. */
static enum sp_err count_exact(const struct judge *j, enum proto_set set, json_t *object,
                               const char *name, struct sp_error *err)
{
    uint64_t correct = 0, count = 0;
    uint32_t n = coord_set_positions(&j->info->settings, &j->plan, set, j->info->prompts);
    if (!j->query || n == 0)
        return SP_OK;
    SP_TRY(
        coord_query_exact_match(j->query, j->run, j->plan.iteration, set, &correct, &count, err));
    json_object_set_new(object, name,
                        json_pack("{s:I,s:I,s:f}", "correct", (json_int_t)correct, "n",
                                  (json_int_t)count, "share",
                                  count ? (double)correct / (double)count : 0.0));
    return SP_OK;
}

/* ---- the summary ---- */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *interval(const struct verdict_interval *x)
{
    return json_pack("{s:o,s:o,s:o}", "value", number(x->value), "low", number(x->low), "high",
                     number(x->high));
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : NAN;
}

static json_t *warnings_of(const struct judge *j)
{
    json_t *list = json_array();
    const struct verdict_shortcuts *s = &j->shortcuts;
    if (s->length > VERDICT_SHORTCUT_WARN)
        json_array_append_new(list, json_string("length alone tells the two answers apart"));
    if (s->end_token > VERDICT_SHORTCUT_WARN)
        json_array_append_new(list,
                              json_string("a missing end token alone tells the two answers apart"));
    if (s->first_token > VERDICT_SHORTCUT_WARN)
        json_array_append_new(list,
                              json_string("the first token alone tells the two answers apart"));
    if (share(j->human_too_long, plan_pairs(&j->plan)) > 0.05)
        json_array_append_new(
            list, json_string("more than 5 % of the human answers exceed max_new_tokens"));
    if (j->logp_real_change < 0)
        json_array_append_new(
            list, json_string("training has made the human answers less likely than they were"));
    if (j->skipped_steps > 0)
        json_array_append_new(list, json_sprintf("%llu of %llu steps changed nothing: a loss or a "
                                                 "gradient was not finite",
                                                 (unsigned long long)j->skipped_steps,
                                                 (unsigned long long)j->steps));
    return list;
}

static json_t *pairs_json(const struct judge *j)
{
    uint32_t n = plan_pairs(&j->plan);
    return json_pack("{s:I,s:o,s:o,s:o,s:o,s:I,s:{s:o,s:o,s:o},s:o}", "count", (json_int_t)n,
                     "identical_share", number(share(j->identical, j->generated_rows)), "cut_share",
                     number(share(j->cut, j->generated_rows)), "real_tokens_mean",
                     number(share(j->real_tokens, n)), "generated_tokens_mean",
                     number(share(j->generated_tokens, j->generated_rows)), "generated_tokens",
                     (json_int_t)j->generated_tokens, "shortcuts", "length",
                     number(j->shortcuts.length), "end_token", number(j->shortcuts.end_token),
                     "first_token", number(j->shortcuts.first_token), "human_over_max_new_tokens",
                     number(share(j->human_too_long, n)));
}

static enum sp_err summary(const struct judge *j, const struct verdict_result *result,
                           bool accepted, char **ret, struct sp_error *err)
{
    json_t *trainer = NULL;
    struct sp_error ignored;
    if (j->row.summary[0] == '\0' || sp_json_parse(j->row.summary, strlen(j->row.summary),
                                                   "summary", &trainer, &ignored) != SP_OK)
        trainer = json_object();
    json_t *eval = json_object();
    json_t *object = json_pack(
        "{s:s,s:b,s:o,s:{s:I,s:o,s:o,s:o,s:o},s:{s:o,s:I},s:{s:o,s:I},s:o,s:o,s:o,s:o}", "verdict",
        verdict_name(result->verdict), "accepted", accepted, "trainer", trainer, "holdout", "pairs",
        (json_int_t)j->input.pairs, "accuracy", interval(&result->a), "loss",
        number(j->input.holdout_loss), "loss_at_zero", number(j->input.loss_at_zero), "nll_change",
        interval(&result->nll_change), "first_sight", "accuracy", interval(&result->f), "pairs",
        (json_int_t)j->input.first_sight_pairs, "trained", "accuracy", interval(&result->r),
        "pairs", (json_int_t)j->input.trained_pairs, "exact_match_change",
        interval(&result->exact_match_change), "eval", eval, "train_pairs", pairs_json(j),
        "warnings", warnings_of(j));
    if (!object)
        return sp_fail(err, SP_EINTERNAL, "the summary is no JSON");
    enum sp_err rc = count_exact(j, PROTO_SET_EVAL_GREEDY, eval, "greedy", err);
    if (!rc)
        rc = count_exact(j, PROTO_SET_EVAL_SAMPLED, eval, "sampled", err);
    if (!rc)
        rc = count_exact(j, PROTO_SET_BASE_GREEDY, eval, "base_greedy", err);
    if (!rc)
        rc = count_exact(j, PROTO_SET_BASE_SAMPLED, eval, "base_sampled", err);
    if (!rc)
        *ret = sp_json_canonical(object);
    json_decref(object);
    return rc;
}

static enum sp_err judge_all(struct judge *j, struct coord_judgement *ret, struct sp_error *err)
{
    const struct run_settings *settings = &j->info->settings;
    struct sp_arena *row_arena = sp_arena_new(1 << 16, 64 << 20);
    enum sp_err rc = store_iteration_get(j->run, j->plan.iteration, row_arena, &j->row, err);
    j->input.seed = (uint64_t)settings->seed;
    j->input.iteration = j->plan.iteration;
    j->input.confidence = settings->verdict_confidence;
    j->input.min_pairs = (uint64_t)settings->verdict_min_pairs;
    j->input.loss_at_zero = settings->mode == RUN_MODE_SFT ? NAN : loss_of(settings, 0, j->beta);
    if (!rc)
        rc = judge_pairs(j, err);
    if (!rc)
        rc = judge_holdout(j, err);
    if (!rc)
        rc = judge_trained(j, err);
    if (!rc)
        rc = judge_steps(j, err);
    if (!rc)
        rc = judge_eval(j, err);
    struct verdict_result result;
    char *text = NULL;
    if (!rc) {
        verdict_judge(&j->input, &result);
        bool accepted = result.verdict != VERDICT_DEGRADED || settings->accept_degraded;
        rc = summary(j, &result, accepted, &text, err);
        if (!rc)
            *ret = (struct coord_judgement){.verdict = sp_xstrdup(verdict_name(result.verdict)),
                                            .accepted = accepted,
                                            .text = text,
                                            .pairs_sha256 = j->pairs_sha256};
    }
    sp_arena_free(row_arena);
    return rc;
}

static enum sp_err open_judge(struct store *store, const struct coord_run_info *info,
                              uint32_t iteration, struct judge *ret, struct sp_error *err)
{
    *ret = (struct judge){.info = info};
    SP_TRY(store_run_open(store, info->name, &ret->run, err));
    plan_init(&info->settings, iteration, info->prompts[STORE_SPLIT_TRAIN], &ret->plan);
    ret->beta = sp_list_at(&info->settings.beta, iteration);
    ret->arena = sp_arena_new(1 << 20, PAGE_ARENA);
    return SP_OK;
}

enum sp_err coord_judge(struct store *store, struct coord_query *query,
                        const struct coord_run_info *info, uint32_t iteration,
                        struct coord_judgement *ret, struct sp_error *err)
{
    struct judge judge;
    SP_TRY(open_judge(store, info, iteration, &judge, err));
    judge.query = query;
    enum sp_err rc = judge_all(&judge, ret, err);
    free(judge.nll_change);
    free(judge.margins);
    sp_arena_free(judge.arena);
    return rc;
}

/* ---- the order by gap ---- */

struct gap {
    double gap;
    uint32_t position;
};

static int compare_gaps(const void *a, const void *b)
{
    const struct gap *x = a, *y = b;
    if (x->gap != y->gap)
        return x->gap > y->gap ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

static enum sp_err read_gaps(struct judge *j, struct gap *gaps, struct sp_error *err)
{
    uint32_t n = plan_pairs(&j->plan);
    for (uint32_t position = 0; position < n; position++) {
        struct store_pair_key key;
        struct proto_train_pair pair;
        key_of(j, position, &key);
        sp_arena_reset(j->arena);
        SP_TRY(store_pairs_read(j->run, j->plan.iteration, PROTO_SET_TRAIN, STORE_SPLIT_TRAIN, &key,
                                1, j->arena, &pair, NULL, err));
        double real = pair.real_ids.count ? pair.real_ids.count : 1;
        double generated = pair.generated_ids.count ? pair.generated_ids.count : 1;
        double gap = (double)pair.ref_real / real - (double)pair.ref_generated / generated;
        gaps[position] = (struct gap){.gap = isnan(gap) ? -INFINITY : gap, .position = position};
    }
    return SP_OK;
}

enum sp_err coord_gap_order(struct store *store, const struct coord_run_info *info,
                            uint32_t iteration, uint32_t **ret, struct sp_error *err)
{
    struct judge judge;
    SP_TRY(open_judge(store, info, iteration, &judge, err));
    uint32_t n = plan_pairs(&judge.plan);
    struct gap *gaps = sp_xarray(n, sizeof(*gaps));
    enum sp_err rc = read_gaps(&judge, gaps, err);
    if (!rc) {
        qsort(gaps, n, sizeof(*gaps), compare_gaps);
        uint32_t *order = sp_xarray(n, sizeof(*order));
        for (uint32_t i = 0; i < n; i++)
            order[i] = gaps[i].position;
        *ret = order;
    }
    free(gaps);
    sp_arena_free(judge.arena);
    return rc;
}

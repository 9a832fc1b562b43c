/* Passes without a cache, as the trainer makes them: prefill (nothing but the last row's logits),
 * scoring (log-probabilities of responses) and whole SPIN steps. */
#include "common/spin-model/bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/model/forward.h"
#include "common/spin/step.h"

#define PASS_ROWS 1024 /* of a batch, where one sequence is not longer */

static const int32_t contexts[] = {128, 256, 512, 1024, 2048, 4096};

static int32_t longest_sequence(const struct bench *bench)
{
    return (int32_t)SP_MIN((int64_t)bench->config->max_positions, bench->tool->bench_longest);
}

/* --- prefill and scoring --- */

struct pass {
    struct model *model;
    struct model_workspace *work;
    struct model_batch batch;
    int32_t *ids, *positions;
    struct tn_segment *segments;
    struct tn_target *targets;
    float *logprobs;
};

static enum sp_err run_pass(void *context, int64_t *ret_ns, struct sp_error *err)
{
    struct pass *p = context;
    int64_t start = sp_now_ns();
    enum sp_err rc = model_forward(p->model, p->work, &p->batch, p->logprobs, err);
    *ret_ns = sp_now_ns() - start;
    return rc;
}

/* Sequences of `length` tokens whose last `scored` ones are targets; 0: the last row is asked for
 * its most probable successor's kind of work, one row of logits. */
static void fill_pass(const struct bench *bench, struct pass *p, int32_t count, int32_t length,
                      int32_t scored)
{
    int32_t rows = count * length, n = 0;
    for (int32_t s = 0; s < count; s++) {
        int32_t first = scored > 0 ? length - scored - 1 : length - 1;
        p->segments[s] = (struct tn_segment){.row = s * length, .prompt = length};
        for (int32_t i = 0; i < length; i++) {
            int32_t row = s * length + i, next = SP_MIN(i + 1, length - 1);
            p->ids[row] = bench_random_id(bench, (uint32_t)row);
            p->positions[row] = i;
            if (i >= first && (scored == 0 || i < length - 1))
                p->targets[n++] = (struct tn_target){
                    .row = row, .id = bench_random_id(bench, (uint32_t)(s * length + next))};
        }
    }
    p->batch = (struct model_batch){rows, p->ids, p->positions, p->segments, count, p->targets, n};
}

static enum sp_err bench_pass(struct bench *bench, int32_t length, int32_t scored,
                              struct sp_error *err)
{
    int32_t count = SP_MAX(1, PASS_ROWS / length), rows = count * length;
    size_t n = (size_t)rows;
    struct pass p = {.model = bench->model};
    char what[64];
    p.ids = sp_xarray(n, sizeof(*p.ids));
    p.positions = sp_xarray(n, sizeof(*p.positions));
    p.segments = sp_xarray((size_t)count, sizeof(*p.segments));
    p.targets = sp_xarray(n, sizeof(*p.targets));
    p.logprobs = sp_xarray(n, sizeof(*p.logprobs));
    fill_pass(bench, &p, count, length, scored);
    int32_t targets = p.batch.n_targets;
    struct model_workspace_size size = {
        .max_rows = rows, .longest = length, .max_targets = targets};
    struct bench_figure f = {
        .list = scored > 0 ? "score" : "prefill",
        .what = what,
        .tokens = rows,
        .flops = model_forward_flops(bench->config, p.segments, count, targets),
        .fields =
            json_pack("{s:i, s:i, s:i}", "tokens", length, "sequences", count, "scored", scored),
        .shape = {.kind = BENCH_FORWARD, .rows = rows, .head_rows = targets},
        .run = run_pass,
        .context = &p,
    };
    snprintf(what, sizeof(what), scored > 0 ? "score %d × %d, half of it" : "prefill %d × %d",
             count, length);
    enum sp_err rc = model_workspace_new(bench->model, &size, &p.work, err);
    if (rc == SP_OK)
        rc = bench_measure(bench, &f, err);
    if (rc == SP_OK)
        bench_report(bench, &f);
    else
        json_decref(f.fields);
    model_workspace_free(p.work);
    free(p.ids);
    free(p.positions);
    free(p.segments);
    free(p.targets);
    free(p.logprobs);
    return rc;
}

enum sp_err bench_passes(struct bench *bench, struct sp_error *err)
{
    int32_t longest = longest_sequence(bench);
    enum sp_err rc = SP_OK;
    for (int scored = 0; scored < 2; scored++)
        for (size_t i = 0; rc == SP_OK && i < SP_COUNT(contexts); i++) {
            int32_t length = i == 0 ? SP_MIN(contexts[0], longest) : contexts[i];
            if (length <= longest)
                rc = bench_pass(bench, length, scored ? length / 2 : 0, err);
        }
    return rc;
}

/* --- SPIN steps --- */

struct steps {
    struct spin_step *step;
    struct spin_pair *pairs;
    int32_t n_pairs;
    int64_t index;
};

static enum sp_err run_step(void *context, int64_t *ret_ns, struct sp_error *err)
{
    struct steps *s = context;
    struct spin_metrics metrics;
    int64_t start = sp_now_ns();
    enum sp_err rc = spin_step_run(s->step, s->index++, s->pairs, s->n_pairs, &metrics, err);
    *ret_ns = sp_now_ns() - start;
    return rc;
}

/* Pairs of a prompt and two answers that differ; the references make the first margin zero, near
 * enough. */
static int32_t *fill_pairs(const struct bench *bench, struct steps *s, int32_t prompt,
                           int32_t response)
{
    int32_t each = prompt + 2 * response;
    size_t n = (size_t)s->n_pairs * (size_t)each;
    int32_t *ids = sp_xarray(n, sizeof(*ids));
    for (size_t i = 0; i < n; i++)
        ids[i] = bench_random_id(bench, (uint32_t)i);
    for (int32_t i = 0; i < s->n_pairs; i++) {
        int32_t *x = ids + (size_t)i * (size_t)each, *y = x + prompt;
        y[response] = (y[0] + 1) % bench->config->vocab;
        s->pairs[i] = (struct spin_pair){.prompt = x,
                                         .real = y,
                                         .generated = y + response,
                                         .n_prompt = prompt,
                                         .n_real = response,
                                         .n_generated = response};
    }
    return ids;
}

static enum sp_err bench_step(struct bench *bench, int32_t prompt, int32_t response,
                              int32_t n_pairs, struct sp_error *err)
{
    struct steps s = {.n_pairs = n_pairs};
    s.pairs = sp_xarray((size_t)n_pairs, sizeof(*s.pairs));
    int32_t *ids = fill_pairs(bench, &s, prompt, response);
    struct tn_segment segment = {.prompt = prompt, .a = response - 1, .b = response - 1};
    int32_t rows = prompt + 2 * (response - 1), head = 2 * response - 1;
    char what[64];
    struct spin_step_config config = {
        .mode = SPIN_MODE_SPIN,
        .loss = {.kind = SPIN_LOSS_LOGISTIC, .beta = 0.1},
        .optimizer = spin_optimizer_defaults(SPIN_RMSPROP),
        .batch_pairs = n_pairs,
        .micro_rows = n_pairs * rows,
        .longest = rows,
    };
    config.optimizer.lr = 1e-9; /* the model stays what it is */
    config.optimizer.total_steps = INT32_MAX;
    config.optimizer.schedule = SPIN_SCHEDULE_CONSTANT;
    struct bench_figure f = {
        .list = "spin_step",
        .what = what,
        .tokens = (double)n_pairs * rows,
        .pairs = n_pairs,
        .flops = 3.0 * n_pairs * model_forward_flops(bench->config, &segment, 1, head),
        .fields = json_pack("{s:i, s:i, s:i}", "prompt_tokens", prompt, "response_tokens", response,
                            "pairs", n_pairs),
        .shape = {.kind = BENCH_TRAIN, .rows = n_pairs * rows, .head_rows = n_pairs * head},
        .run = run_step,
        .context = &s,
    };
    snprintf(what, sizeof(what), "SPIN step %d × (%d + 2·%d)", n_pairs, prompt, response);
    enum sp_err rc = spin_step_new(bench->model, &config, &s.step, err);
    if (rc == SP_OK)
        rc = bench_measure(bench, &f, err);
    if (rc == SP_OK)
        bench_report(bench, &f);
    else
        json_decref(f.fields);
    spin_step_free(s.step);
    free(s.pairs);
    free(ids);
    return rc;
}

enum sp_err bench_steps(struct bench *bench, struct sp_error *err)
{
    static const int32_t batches[] = {1, 2, 4};
    int32_t longest = longest_sequence(bench);
    int32_t length = SP_MAX(1, SP_MIN(256, longest) / 2);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; rc == SP_OK && i < SP_COUNT(batches); i++)
        rc = bench_step(bench, length, length, batches[i], err);
    /* And how the cost grows: one pair of prompts and answers as long as what `longest` has room
     * for in its half. */
    for (size_t i = 2; rc == SP_OK && i < SP_COUNT(contexts); i++)
        if (contexts[i] <= longest / 2)
            rc = bench_step(bench, contexts[i] / 2, contexts[i] / 2, 1, err);
    return rc;
}

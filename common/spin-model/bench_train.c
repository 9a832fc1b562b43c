/* Passes without a cache, as the trainer makes them: prefill (nothing but the last row's logits),
 * scoring (log-probabilities of responses) and whole SPIN steps. */
#include "common/spin-model/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

struct step_shape {
    int32_t prompt, real, generated; /* tokens of each pair */
    int32_t pairs, micro;            /* of a step, of a micro-batch */
};

struct steps {
    struct model *model;
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
    bench_wait(model_backend(s->model), model_params(s->model, NULL)); /* for the update */
    *ret_ns = sp_now_ns() - start;
    return rc;
}

/* Pairs of a prompt and two answers that differ; the references make the first margin zero, near
 * enough. */
static int32_t *fill_pairs(const struct bench *bench, struct steps *s, const struct step_shape *h)
{
    int32_t each = h->prompt + h->real + h->generated;
    size_t n = (size_t)s->n_pairs * (size_t)each;
    int32_t *ids = sp_xarray(n, sizeof(*ids));
    for (size_t i = 0; i < n; i++)
        ids[i] = bench_random_id(bench, (uint32_t)i);
    for (int32_t i = 0; i < s->n_pairs; i++) {
        int32_t *x = ids + (size_t)i * (size_t)each, *y = x + h->prompt;
        y[h->real] = (y[0] + 1) % bench->config->vocab;
        s->pairs[i] = (struct spin_pair){.prompt = x,
                                         .real = y,
                                         .generated = y + h->real,
                                         .n_prompt = h->prompt,
                                         .n_real = h->real,
                                         .n_generated = h->generated};
    }
    return ids;
}

/* Of a pair; the last token of an answer is a target and no row. */
static int32_t rows_of(const struct step_shape *h)
{
    return h->prompt + h->real - 1 + h->generated - 1;
}

static struct spin_step_config step_config(const struct bench *bench, const struct step_shape *h)
{
    struct spin_step_config config = {
        .mode = SPIN_MODE_SPIN,
        .loss = {.kind = SPIN_LOSS_LOGISTIC, .beta = 0.1},
        .optimizer = spin_optimizer_defaults(SPIN_RMSPROP),
        .batch_pairs = h->pairs,
        .micro_rows = h->micro * rows_of(h),
        .longest = rows_of(h),
        .weights = bench->backend->weights,
        .activations = bench->backend->activations,
        .memory_budget_bytes = (size_t)(bench->tool->bench_memory_gib * (1 << 30)),
    };
    bool narrow = strcmp(bench->tool->bench_state, "8bit") == 0;
    config.optimizer.state = narrow ? TN_STATE_8BIT : TN_STATE_F32;
    config.optimizer.offload = bench->tool->bench_offload;
    config.optimizer.lr = 1e-9; /* the model stays what it is */
    config.optimizer.total_steps = INT32_MAX;
    config.optimizer.schedule = SPIN_SCHEDULE_CONSTANT;
    return config;
}

static enum sp_err bench_step(struct bench *bench, const struct step_shape *h, struct sp_error *err)
{
    struct steps s = {.model = bench->model, .n_pairs = h->pairs};
    s.pairs = sp_xarray((size_t)h->pairs, sizeof(*s.pairs));
    int32_t *ids = fill_pairs(bench, &s, h), rows = rows_of(h), head = h->real + h->generated - 1;
    struct tn_segment segment = {.prompt = h->prompt, .a = h->real - 1, .b = h->generated - 1};
    struct spin_step_config config = step_config(bench, h);
    char what[96];
    struct bench_figure f = {
        .list = "spin_step",
        .what = what,
        .tokens = (double)h->pairs * rows,
        .pairs = h->pairs,
        .flops = 3.0 * h->pairs * model_forward_flops(bench->config, &segment, 1, head),
        .fields = json_pack("{s:i, s:i, s:i, s:i, s:i}", "prompt_tokens", h->prompt,
                            "response_tokens", h->real, "generated_tokens", h->generated, "pairs",
                            h->pairs, "micro_pairs", h->micro),
        .shape = {.kind = BENCH_TRAIN, .rows = h->micro * rows, .head_rows = h->micro * head},
        .plan_bytes = bench->plan_bytes,
        .run = run_step,
        .context = &s,
    };
    if (h->real == h->generated)
        snprintf(what, sizeof(what), "SPIN step %d × (%d + 2·%d)", h->pairs, h->prompt, h->real);
    else
        snprintf(what, sizeof(what), "SPIN step %d × (%d + %d + %d)", h->pairs, h->prompt, h->real,
                 h->generated);
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

/* --- the step that --pairs asks for --- */

static enum sp_err asked_shape(const struct bench *bench, struct step_shape *ret,
                               struct sp_error *err)
{
    int32_t n[4];
    int64_t micro = bench->tool->bench_micro;
    enum sp_err rc = bench_parse("--pairs", bench->tool->bench_pairs, n, SP_COUNT(n), err);
    if (rc != SP_OK)
        return rc;
    struct step_shape h = {n[0], n[1], n[2], n[3], micro ? (int32_t)SP_MIN(micro, n[3]) : n[3]};
    int64_t longest = (int64_t)h.prompt + SP_MAX(h.real, h.generated);
    if (longest > bench->config->max_positions)
        return sp_fail(err, SP_ELIMIT, "--pairs: %" PRId64 " tokens, the model has %d positions",
                       longest, bench->config->max_positions);
    if ((int64_t)h.micro * rows_of(&h) > INT32_MAX / 2)
        return sp_fail(err, SP_ELIMIT, "--pairs: %d in a micro-batch are too many: give --micro",
                       h.micro);
    *ret = h;
    return SP_OK;
}

enum sp_err bench_plan_step(struct bench *bench, struct sp_error *err)
{
    struct step_shape h = {0};
    struct model_memory_plan plan;
    enum sp_err rc = asked_shape(bench, &h, err);
    if (rc != SP_OK)
        return rc;
    struct spin_step_config config = step_config(bench, &h);
    rc = spin_step_plan(bench->config, &config, &plan, err);
    if (rc != SP_OK)
        return rc;
    struct sp_buf text = SP_BUF_INIT;
    model_memory_plan_print(&plan, &text);
    fprintf(stderr, "plan of a step:\n%s", text.data);
    sp_buf_deinit(&text);
    bench->plan_bytes = plan.total;
    return SP_OK;
}

enum sp_err bench_steps(struct bench *bench, struct sp_error *err)
{
    static const int32_t batches[] = {1, 2, 4};
    int32_t longest = longest_sequence(bench);
    int32_t length = SP_MAX(1, SP_MIN(256, longest) / 2);
    enum sp_err rc = SP_OK;
    if (bench->tool->bench_pairs) {
        struct step_shape h = {0};
        rc = asked_shape(bench, &h, err);
        return rc == SP_OK ? bench_step(bench, &h, err) : rc;
    }
    for (size_t i = 0; rc == SP_OK && i < SP_COUNT(batches); i++) {
        struct step_shape h = {length, length, length, batches[i], batches[i]};
        rc = bench_step(bench, &h, err);
    }
    /* And how the cost grows: one pair of prompts and answers as long as what `longest` has room
     * for in its half. */
    for (size_t i = 2; rc == SP_OK && i < SP_COUNT(contexts); i++)
        if (contexts[i] <= longest / 2) {
            struct step_shape h = {contexts[i] / 2, contexts[i] / 2, contexts[i] / 2, 1, 1};
            rc = bench_step(bench, &h, err);
        }
    return rc;
}

/* Decoding at several batch sizes: every slot sampling, the prompts done; or, with --sequences, at
 * one, and then with prompts. */
#include "common/spin-model/bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/model/decoder.h"

#define PROMPT 16
#define TOKENS 64  /* of a sequence at most, */
#define TOTAL 1024 /* of all of them, where that is more than */
#define FEWEST 8   /* of a sequence */

struct decoding {
    const struct bench *bench;
    struct model_decoder *decoder;
    int32_t slots, prompt, tokens; /* tokens: after the first one of each answer */
    /* Prompts have been run when the clock starts: all begin together, however long they are. Each
     * slot has its own, as one that all have would lie in a cache, or in one place for all. */
    bool prompts_before;
    uint32_t runs; /* done, of those with prompts: what a prompt was must not come again */
};

static enum sp_err submit(struct decoding *d, int32_t slot, int32_t new_tokens,
                          struct sp_error *err)
{
    int32_t *prompt = sp_xarray((size_t)d->prompt, sizeof(*prompt));
    uint32_t first = (d->runs * (uint32_t)d->slots + (uint32_t)slot) * (uint32_t)d->prompt;
    for (int32_t i = 0; i < d->prompt; i++)
        prompt[i] = bench_random_id(d->bench, first + (uint32_t)i);
    struct model_decoder_request request = {
        .prompt = prompt,
        .n_prompt = d->prompt,
        .generate = true,
        .max_new_tokens = new_tokens, /* no end tokens: every answer has this length */
        .params = {.temperature = 1, .top_p = 1},
        .seed = (uint64_t)d->bench->tool->seed,
        .prompt_key = (uint32_t)slot,
    };
    enum sp_err rc = model_decoder_submit(d->decoder, &request, err);
    free(prompt);
    return rc;
}

/* Until nothing is left to do. ret_ns: since each slot had its first token, which came with its
 * prompt. */
static enum sp_err finish(struct decoding *d, int64_t *ret_ns, struct sp_error *err)
{
    struct model_decoder_stats stats;
    struct model_decoder_result result;
    bool idle = false;
    enum sp_err rc = SP_OK;
    model_decoder_get_stats(d->decoder, &stats);
    uint64_t first = stats.sampled_tokens, slots = (uint64_t)d->slots;
    int64_t start = sp_now_ns();
    while (rc == SP_OK && !idle) {
        rc = model_decoder_step(d->decoder, &idle, err);
        model_decoder_get_stats(d->decoder, &stats);
        if (stats.sampled_tokens - first <= slots)
            start = sp_now_ns();
    }
    *ret_ns = sp_now_ns() - start;
    while (rc == SP_OK && model_decoder_take_result(d->decoder, &result))
        ;
    return rc;
}

static enum sp_err submit_all(struct decoding *d, int32_t new_tokens, struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    for (int32_t s = 0; rc == SP_OK && s < d->slots; s++)
        rc = submit(d, s, new_tokens, err);
    return rc;
}

/* The first token of each answer comes with its prompt and is not counted; d->tokens more are. */
static enum sp_err run_decoding(void *context, int64_t *ret_ns, struct sp_error *err)
{
    struct decoding *d = context;
    enum sp_err rc = SP_OK;
    if (d->prompts_before) /* which slots keep */
        rc = submit_all(d, 1, err);
    if (rc == SP_OK && d->prompts_before)
        rc = finish(d, ret_ns, err);
    if (rc == SP_OK)
        rc = submit_all(d, d->tokens + 1, err);
    return rc == SP_OK ? finish(d, ret_ns, err) : rc;
}

/* Prompts that have nothing in common, and their answers. */
static enum sp_err run_answers(void *context, int64_t *ret_ns, struct sp_error *err)
{
    struct decoding *d = context;
    int64_t start = sp_now_ns(), ignored;
    enum sp_err rc = submit_all(d, d->tokens + 1, err);
    if (rc == SP_OK)
        rc = finish(d, &ignored, err);
    *ret_ns = sp_now_ns() - start;
    d->runs++;
    return rc;
}

/* Bytes read for one token of every slot: the matrices once (of a table of embeddings of its own
 * only the rows that are looked up), and the slots' keys and values, as many as at half time. */
static double step_bytes(const struct model_config *c, const struct decoding *d,
                         enum tn_dtype weights, enum tn_dtype cache)
{
    double context = d->prompt + d->tokens / 2.0;
    double kept = 2.0 * c->layers * c->kv_heads * c->head_size * context * d->slots;
    double matrices = (double)c->n_params;
    if (!c->tie_embeddings)
        matrices -= ((double)c->vocab - d->slots) * c->hidden;
    return matrices * (weights == TN_BF16 ? 2 : 4) + kept * (cache == TN_BF16 ? 2 : 4);
}

static double flops_of(const struct bench *bench, const struct decoding *d)
{
    struct tn_segment all = {.prompt = d->prompt + d->tokens}, prompt = {.prompt = d->prompt};
    return d->slots * (model_forward_flops(bench->config, &all, 1, d->tokens) -
                       model_forward_flops(bench->config, &prompt, 1, 0));
}

static const char *name_of(enum tn_dtype dtype)
{
    return dtype == TN_BF16 ? "bf16" : "f32";
}

static enum sp_err bench_decode(struct bench *bench, int32_t slots, enum tn_dtype dtype,
                                enum tn_dtype activations, struct sp_error *err)
{
    int32_t room = bench->config->max_positions;
    struct decoding d = {.bench = bench,
                         .slots = slots,
                         .prompt = SP_MAX(1, SP_MIN(PROMPT, room / 2)),
                         .tokens = SP_MIN(TOKENS, SP_MAX(FEWEST, TOTAL / slots))};
    d.tokens = SP_MAX(1, SP_MIN(d.tokens, room / 2 - 1));
    struct model_decoder_options options = {.slots = slots,
                                            .queue = slots,
                                            .max_positions = d.prompt + d.tokens + 1,
                                            .weights = dtype,
                                            .cache = dtype,
                                            .activations = activations};
    char what[64];
    struct bench_figure f = {
        .list = "decode",
        .what = what,
        .tokens = (double)slots * d.tokens,
        .flops = flops_of(bench, &d),
        .bytes = d.tokens * step_bytes(bench->config, &d, dtype, dtype),
        .fields = json_pack("{s:i, s:s, s:s}", "batch", slots, "weights", name_of(dtype),
                            "activations", name_of(activations)),
        .shape = {BENCH_PACKED, slots, slots, dtype, activations},
        .run = run_decoding,
        .context = &d,
    };
    snprintf(what, sizeof(what), "decode %s × %s, batch %d", name_of(dtype), name_of(activations),
             slots);
    enum sp_err rc = model_decoder_new(bench->model, &options, &d.decoder, err);
    if (rc == SP_OK)
        rc = bench_measure(bench, &f, err);
    if (rc == SP_OK)
        bench_report(bench, &f);
    else
        json_decref(f.fields);
    model_decoder_free(d.decoder);
    return rc;
}

/* --- what --sequences asks for --- */

static enum sp_err asked_shape(const struct bench *bench, struct decoding *ret,
                               struct model_decoder_options *ret_options, struct sp_error *err)
{
    const struct tool *tool = bench->tool;
    int32_t n[3];
    enum sp_err rc = bench_parse("--sequences", tool->bench_sequences, n, SP_COUNT(n), err);
    if (rc != SP_OK)
        return rc;
    if (n[2] < 2)
        return sp_fail(err, SP_EINVAL, "--sequences: at least two new tokens");
    *ret = (struct decoding){.bench = bench, .slots = n[0], .prompt = n[1], .tokens = n[2] - 1};
    /* A backend that stores activations as bf16 decodes in nothing else. */
    bool bf16 = bench->backend->activations == TN_BF16;
    *ret_options = (struct model_decoder_options){.slots = n[0],
                                                  .queue = n[0],
                                                  .max_positions = n[1] + n[2],
                                                  .rows_per_step = (int32_t)tool->bench_rows,
                                                  .weights = bf16 ? TN_BF16 : tool->weights,
                                                  .cache = bf16 ? TN_BF16 : tool->kv,
                                                  .activations = bf16 ? TN_BF16 : tool->activations,
                                                  .stored_weights = bench->backend->weights,
                                                  .stored_activations = bench->backend->activations,
                                                  .on_device = bench->backend->has_memory};
    return SP_OK;
}

enum sp_err bench_plan_sequences(struct bench *bench, struct sp_error *err)
{
    struct decoding d = {0};
    struct model_decoder_options options = {0};
    size_t bytes = 0;
    enum sp_err rc = asked_shape(bench, &d, &options, err);
    if (rc == SP_OK)
        rc = model_decoder_bytes(bench->config, &options, &bytes, err);
    if (rc != SP_OK)
        return rc;
    size_t model = (size_t)bench->config->n_params * tn_unit(bench->backend->weights);
    bench->plan_bytes = bytes + model;
    fprintf(stderr,
            "plan of decoding: %.1f MiB, and %.1f MiB of a model until it has been copied\n",
            (double)bytes / (1 << 20), (double)model / (1 << 20));
    return SP_OK;
}

static enum sp_err measure_asked(struct bench *bench, struct decoding *d,
                                 const struct model_decoder_options *o, bool with_prompts,
                                 struct sp_error *err)
{
    struct tn_segment prompt = {.prompt = d->prompt};
    char what[96];
    struct bench_figure f = {
        .list = with_prompts ? "answer" : "decode",
        .what = what,
        .tokens = (double)d->slots * (d->tokens + with_prompts),
        .flops = flops_of(bench, d),
        .bytes = with_prompts ? 0 : d->tokens * step_bytes(bench->config, d, o->weights, o->cache),
        .fields = json_pack("{s:i, s:i, s:i, s:s, s:s, s:s}", "batch", d->slots, "prompt_tokens",
                            d->prompt, "new_tokens", d->tokens + 1, "weights", name_of(o->weights),
                            "kv", name_of(o->cache), "activations", name_of(o->activations)),
        .no_products = true,
        .plan_bytes = bench->plan_bytes,
        .run = with_prompts ? run_answers : run_decoding,
        .context = d,
    };
    if (with_prompts)
        f.flops += d->slots * model_forward_flops(bench->config, &prompt, 1, 1);
    snprintf(what, sizeof(what),
             with_prompts ? "%d prompts of %d, %d new" : "decode %d × (%d + %d)", d->slots,
             d->prompt, d->tokens + 1);
    d->prompts_before = !with_prompts;
    d->runs = with_prompts; /* none that a slot has */
    struct model_decoder_stats before, after;
    model_decoder_get_stats(d->decoder, &before);
    enum sp_err rc = bench_measure(bench, &f, err);
    model_decoder_get_stats(d->decoder, &after);
    json_object_set_new(f.fields, "prompt_rows_run",
                        json_integer((json_int_t)(after.prefill_rows - before.prefill_rows)));
    if (rc == SP_OK)
        bench_report(bench, &f);
    else
        json_decref(f.fields);
    return rc;
}

static enum sp_err bench_asked(struct bench *bench, struct sp_error *err)
{
    struct decoding d = {0};
    struct model_decoder_options options = {0};
    enum sp_err rc = asked_shape(bench, &d, &options, err);
    if (rc == SP_OK)
        rc = model_decoder_new(bench->model, &options, &d.decoder, err);
    model_free(bench->model); /* as a generator does */
    bench->model = NULL;
    for (int with_prompts = 0; rc == SP_OK && with_prompts < 2; with_prompts++)
        rc = measure_asked(bench, &d, &options, with_prompts, err);
    model_decoder_free(d.decoder);
    return rc;
}

enum sp_err bench_decoding(struct bench *bench, struct sp_error *err)
{
    static const int32_t batches[] = {1, 8, 32, 64, 128};
    enum sp_err rc = SP_OK;
    if (bench->tool->bench_sequences)
        return bench_asked(bench, err);
    for (int type = 0; type < 3; type++)
        for (size_t i = 0; rc == SP_OK && i < SP_COUNT(batches); i++)
            rc = bench_decode(bench, batches[i], type == 0 ? TN_F32 : TN_BF16,
                              type == 2 ? TN_BF16 : TN_F32, err);
    return rc;
}

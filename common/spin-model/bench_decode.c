/* Decoding at several batch sizes: every slot sampling, the prompts done. */
#include "common/spin-model/bench.h"

#include <stdio.h>

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
    int32_t slots, prompt, tokens;
};

static enum sp_err submit(struct decoding *d, int32_t slot, struct sp_error *err)
{
    int32_t prompt[PROMPT];
    for (int32_t i = 0; i < d->prompt; i++)
        prompt[i] = bench_random_id(d->bench, (uint32_t)(slot * d->prompt + i));
    struct model_decoder_request request = {
        .prompt = prompt,
        .n_prompt = d->prompt,
        .generate = true,
        .max_new_tokens = d->tokens + 1, /* no end tokens: every answer has this length */
        .params = {.temperature = 1, .top_p = 1},
        .seed = (uint64_t)d->bench->tool->seed,
        .prompt_key = (uint32_t)slot,
    };
    return model_decoder_submit(d->decoder, &request, err);
}

/* The first token of each answer comes with its prompt and is not counted; d->tokens more are. */
static enum sp_err run_decoding(void *context, int64_t *ret_ns, struct sp_error *err)
{
    struct decoding *d = context;
    struct model_decoder_stats stats;
    bool idle = false;
    enum sp_err rc = SP_OK;
    model_decoder_get_stats(d->decoder, &stats);
    uint64_t first = stats.sampled_tokens, slots = (uint64_t)d->slots;
    int64_t start = sp_now_ns();
    for (int32_t s = 0; rc == SP_OK && s < d->slots; s++)
        rc = submit(d, s, err);
    while (rc == SP_OK && !idle) {
        rc = model_decoder_step(d->decoder, &idle, err);
        model_decoder_get_stats(d->decoder, &stats);
        if (stats.sampled_tokens - first <= slots)
            start = sp_now_ns();
    }
    *ret_ns = sp_now_ns() - start;
    struct model_decoder_result result;
    while (rc == SP_OK && model_decoder_take_result(d->decoder, &result))
        ;
    return rc;
}

/* Bytes read for one token of every slot: all matrices once, and the slots' keys and values. */
static double step_bytes(const struct model_config *c, const struct decoding *d, size_t element)
{
    double context = d->prompt + d->tokens / 2.0;
    double cache = 2.0 * c->layers * c->kv_heads * c->head_size * context * d->slots;
    return ((double)c->n_params + cache) * (double)element;
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
    const char *type = dtype == TN_BF16 ? "bf16" : "f32";
    const char *rounded = activations == TN_BF16 ? "bf16" : "f32";
    char what[64];
    struct tn_segment all = {.prompt = d.prompt + d.tokens}, prompt = {.prompt = d.prompt};
    double flops = model_forward_flops(bench->config, &all, 1, d.tokens) -
                   model_forward_flops(bench->config, &prompt, 1, 0);
    struct bench_figure f = {
        .list = "decode",
        .what = what,
        .tokens = (double)slots * d.tokens,
        .flops = flops * slots,
        .bytes = d.tokens * step_bytes(bench->config, &d, dtype == TN_BF16 ? 2 : 4),
        .fields =
            json_pack("{s:i, s:s, s:s}", "batch", slots, "weights", type, "activations", rounded),
        .shape = {BENCH_PACKED, slots, slots, dtype, activations},
        .run = run_decoding,
        .context = &d,
    };
    snprintf(what, sizeof(what), "decode %s × %s, batch %d", type, rounded, slots);
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

enum sp_err bench_decoding(struct bench *bench, struct sp_error *err)
{
    static const int32_t batches[] = {1, 8, 32, 64, 128};
    enum sp_err rc = SP_OK;
    for (int type = 0; type < 3; type++)
        for (size_t i = 0; rc == SP_OK && i < SP_COUNT(batches); i++)
            rc = bench_decode(bench, batches[i], type == 0 ? TN_F32 : TN_BF16,
                              type == 2 ? TN_BF16 : TN_F32, err);
    return rc;
}

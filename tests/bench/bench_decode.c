/* bench_decode: speed of decoding alone, one measurement for each line of standard input, so that a
 * script can let it take turns with its peers. Weights are random where DIR has only a config.json.
 *
 *     bench_decode DIR [--threads N] [--isa NAME] [--profile]
 *
 * A line is "BATCH DTYPE CONTEXT STEPS": BATCH sequences of CONTEXT tokens each in cache, weights
 * and cache f32 or bf16, or "pairs": bf16, and activations rounded to it as well; STEPS steps that
 * sample one token of every sequence are timed, the prompts before them are not. The answer is one
 * line of JSON. After "shared" the prompts differ in their last token only, which makes long
 * contexts quick to fill. "arrivals BATCH DTYPE CONTEXT STEPS" times one running sequence's tokens
 * while BATCH - 1 other slots take new prompts of CONTEXT tokens all the time: the longest wait
 * between two tokens. With --profile the time of each operation is added. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/model/decoder.h"
#include "common/model/model.h"
#include "common/tensor/cpu/cpu.h"

/* --- time by operation --- */

#define OPS(X)                                                                                     \
    X(head)                                                                                        \
    X(products) X(attention) X(cache_put) X(lse) X(sample) X(norm) X(rope) X(swiglu) X(add) X(embed)
enum op {
#define NAME(name) OP_##name,
    OPS(NAME)
#undef NAME
        N_OPS
};
static const char *const op_names[] = {
#define NAME(name) #name,
    OPS(NAME)
#undef NAME
};

/* A bench is one thread and one backend: the table of operations has no place for a context. */
static struct tn_ops timed;
static const struct tn_ops *plain;
static int64_t op_ns[N_OPS];
static int32_t vocab;

#define TIMED(op, call)                                                                            \
    int64_t start = sp_now_ns();                                                                   \
    plain->call;                                                                                   \
    op_ns[op] += sp_now_ns() - start

static void t_linear(struct tn_backend *b, void *y, const void *x, const struct tn_weights *w,
                     int32_t T)
{
    TIMED(w->N == vocab ? OP_head : OP_products, linear_packed(b, y, x, w, T));
}

static void t_lse(struct tn_backend *b, float *lse, int32_t *argmax, const float *logits, int32_t R,
                  int32_t V)
{
    TIMED(OP_lse, row_lse(b, lse, argmax, logits, R, V));
}

static void t_attention(struct tn_backend *b, void *out, const void *qkv, struct tn_kv_cache *c,
                        int32_t layer, const struct tn_cache_row *rows, int32_t T, int32_t H,
                        float scale, int32_t window, float softcap)
{
    TIMED(OP_attention, cache_attention(b, out, qkv, c, layer, rows, T, H, scale, window, softcap));
}

static void t_put(struct tn_backend *b, struct tn_kv_cache *c, int32_t layer, const void *qkv,
                  const struct tn_cache_row *rows, int32_t T, int32_t H)
{
    TIMED(OP_cache_put, cache_put(b, c, layer, qkv, rows, T, H));
}

static void t_sample(struct tn_backend *b, int32_t *ids, const float *logits, int32_t R, int32_t V,
                     const struct tn_sample_params *params, const struct tn_sample_key *keys)
{
    TIMED(OP_sample, sample(b, ids, logits, R, V, params, keys));
}

static void t_norm(struct tn_backend *b, void *y, float *rstd, const void *x, const float *w,
                   int32_t T, int32_t D, float eps)
{
    TIMED(OP_norm, rmsnorm(b, y, rstd, x, w, T, D, eps));
}

static void t_rope(struct tn_backend *b, void *x, int32_t T, int32_t heads, int32_t C,
                   int32_t stride, const int32_t *positions, const float *cos, const float *sin,
                   bool inverse, int32_t rotary)
{
    TIMED(OP_rope, rope(b, x, T, heads, C, stride, positions, cos, sin, inverse, rotary));
}

static void t_swiglu(struct tn_backend *b, void *y, const void *gu, int32_t T, int32_t F)
{
    TIMED(OP_swiglu, swiglu(b, y, gu, T, F));
}

static void t_add(struct tn_backend *b, void *y, const void *x, size_t n)
{
    TIMED(OP_add, add(b, y, x, n));
}

static void t_embed(struct tn_backend *b, void *y, const void *table, const int32_t *ids, int32_t T,
                    int32_t D)
{
    TIMED(OP_embed, embed(b, y, table, ids, T, D));
}

static void time_operations(struct tn_backend *backend)
{
    plain = backend->ops;
    timed = *plain;
    timed.linear_packed = t_linear;
    timed.row_lse = t_lse;
    timed.cache_attention = t_attention;
    timed.cache_put = t_put;
    timed.sample = t_sample;
    timed.rmsnorm = t_norm;
    timed.rope = t_rope;
    timed.swiglu = t_swiglu;
    timed.add = t_add;
    timed.embed = t_embed;
    backend->ops = &timed;
}

static void print_profile(int64_t wall_ns, int32_t steps)
{
    int64_t sum = 0;
    printf(", \"ms\": {");
    for (int i = 0; i < N_OPS; i++) {
        printf("\"%s\": %.3f, ", op_names[i], (double)op_ns[i] * 1e-6 / steps);
        sum += op_ns[i];
    }
    printf("\"rest\": %.3f}", (double)(wall_ns - sum) * 1e-6 / steps);
}

/* --- measurements --- */

struct bench {
    struct tn_backend *backend;
    struct model *model;
    bool profile;
    struct model_decoder *decoder; /* of the shape below */
    int32_t batch, positions;
    enum tn_dtype dtype, activations;
};

static void must(enum sp_err rc, const struct sp_error *err)
{
    if (rc == SP_OK)
        return;
    fprintf(stderr, "bench_decode: %s\n", err->text);
    exit(1);
}

static void open_model(struct bench *bench, const char *dir)
{
    struct sp_error err = {0};
    struct model_config config;
    char *weights = sp_path_join(dir, "model.safetensors");
    if (sp_path_exists(weights)) {
        must(model_open(bench->backend, dir, &bench->model, &err), &err);
    } else {
        must(model_config_load(dir, &config, &err), &err);
        must(model_new(bench->backend, &config, 1, &bench->model, &err), &err);
    }
    free(weights);
    vocab = model_get_config(bench->model)->vocab;
}

static void shape_decoder(struct bench *bench, int32_t batch, const char *type, int32_t positions)
{
    struct sp_error err = {0};
    enum tn_dtype dtype = strcmp(type, "f32") == 0 ? TN_F32 : TN_BF16;
    enum tn_dtype activations = strcmp(type, "pairs") == 0 ? TN_BF16 : TN_F32;
    if (bench->decoder != NULL && bench->batch == batch && bench->dtype == dtype &&
        bench->activations == activations && bench->positions == positions) {
        model_decoder_reset(bench->decoder);
        return;
    }
    model_decoder_free(bench->decoder);
    bench->decoder = NULL;
    struct model_decoder_options options = {.slots = batch,
                                            .queue = batch,
                                            .max_positions = positions,
                                            .weights = dtype,
                                            .cache = dtype,
                                            .activations = activations};
    must(model_decoder_new(bench->model, &options, &bench->decoder, &err), &err);
    bench->batch = batch;
    bench->dtype = dtype;
    bench->activations = activations;
    bench->positions = positions;
}

static void submit(struct bench *bench, uint32_t which, int32_t context, int32_t new_tokens,
                   bool shared)
{
    struct sp_error err = {0};
    int32_t *prompt = sp_xarray((size_t)context, sizeof(*prompt));
    for (int32_t i = 0; i < context; i++)
        prompt[i] =
            (int32_t)(((shared && i < context - 1 ? 0 : which) * 7919u + (uint32_t)i * 104729u) %
                      (uint32_t)vocab);
    struct model_decoder_request request = {
        .prompt = prompt,
        .n_prompt = context,
        .generate = true,
        .max_new_tokens = new_tokens, /* no end tokens */
        .params = {.temperature = 1, .top_p = 1},
        .prompt_key = which,
    };
    must(model_decoder_submit(bench->decoder, &request, &err), &err);
    free(prompt);
}

static uint64_t sampled(const struct bench *bench)
{
    struct model_decoder_stats stats;
    model_decoder_get_stats(bench->decoder, &stats);
    return stats.sampled_tokens;
}

static void step(struct bench *bench)
{
    struct sp_error err = {0};
    bool idle;
    must(model_decoder_step(bench->decoder, &idle, &err), &err);
}

/* Of all threads; on a machine that others use too it says more than the time that passed. */
static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void steady(struct bench *bench, int32_t batch, int32_t context, int32_t steps, bool shared)
{
    struct model_decoder_stats before, after;
    model_decoder_get_stats(bench->decoder, &before);
    int64_t start = sp_now_ns();
    for (int32_t i = 0; i < batch; i++)
        submit(bench, (uint32_t)i, context, bench->positions - context, shared);
    do { /* until a step runs no prompt rows any more */
        step(bench);
        after = before;
        model_decoder_get_stats(bench->decoder, &before);
    } while (before.prefill_rows != after.prefill_rows || before.waiting > 0);
    int64_t prefill_ns = sp_now_ns() - start;
    memset(op_ns, 0, sizeof(op_ns));
    uint64_t tokens = sampled(bench);
    int64_t cpu = cpu_ns();
    start = sp_now_ns();
    for (int32_t i = 0; i < steps; i++)
        step(bench);
    int64_t ns = sp_now_ns() - start;
    cpu = cpu_ns() - cpu;
    tokens = sampled(bench) - tokens;
    printf("{\"batch\": %d, \"dtype\": \"%s\", \"context\": %d, \"tokens_per_s\": %.1f, "
           "\"tokens_per_cpu_s\": %.1f, \"ms_per_step\": %.3f, \"prefill_ms\": %.1f",
           batch,
           bench->activations == TN_BF16 ? "pairs"
           : bench->dtype == TN_BF16     ? "bf16"
                                         : "f32",
           context, (double)tokens * 1e9 / (double)ns, (double)tokens * 1e9 / (double)cpu,
           (double)ns * 1e-6 / steps, (double)prefill_ns * 1e-6);
    if (bench->profile)
        print_profile(ns, steps);
    printf("}\n");
}

/* The first request keeps sampling; the others end at once and are followed by new ones. */
static void arrivals(struct bench *bench, int32_t batch, int32_t context, int32_t steps)
{
    int64_t longest = 0, start = sp_now_ns();
    uint32_t which = 0;
    submit(bench, which++, context, bench->positions - context, false);
    while (sampled(bench) == 0)
        step(bench);
    for (int32_t i = 0; i < steps; i++) {
        struct model_decoder_result result;
        while (model_decoder_take_result(bench->decoder, &result))
            ;
        while (model_decoder_room(bench->decoder) > 0)
            submit(bench, which++, context, 1, false);
        int64_t before = sp_now_ns();
        step(bench); /* every step samples a token of the first */
        longest = SP_MAX(longest, sp_now_ns() - before);
    }
    printf("{\"arrivals\": %d, \"context\": %d, \"longest_gap_ms\": %.1f, \"mean_ms\": %.1f}\n",
           batch, context, (double)longest * 1e-6, (double)(sp_now_ns() - start) * 1e-6 / steps);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"threads", 1, 0, 't'}, {"isa", 1, 0, 'i'}, {"profile", 0, 0, 'p'}, {0, 0, 0, 0}};
    struct bench bench = {0};
    struct tn_backend_options options = {0};
    struct sp_error err = {0};
    for (int option; (option = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (option == 't')
            options.threads = atoi(optarg);
        else if (option == 'i')
            options.isa = optarg;
        else if (option == 'p')
            bench.profile = true;
        else
            return 64;
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: bench_decode DIR [--threads N] [--isa NAME] [--profile]\n");
        return 64;
    }
    must(tn_open("cpu", &options, &bench.backend, &err), &err);
    if (bench.profile)
        time_operations(bench.backend);
    open_model(&bench, argv[optind]);
    printf("{\"device\": \"%s\", \"numerics\": \"%s\"}\n", bench.backend->device,
           bench.backend->numerics_class);
    fflush(stdout);
    char line[256], type[16];
    while (fgets(line, sizeof(line), stdin)) {
        int32_t batch, context, steps;
        bool arriving = strncmp(line, "arrivals ", 9) == 0;
        bool shared = strncmp(line, "shared ", 7) == 0;
        if (sscanf(line + (arriving ? 9
                           : shared ? 7
                                    : 0),
                   "%" SCNd32 " %15s %" SCNd32 " %" SCNd32, &batch, type, &context, &steps) != 4 ||
            batch < 1 || context < 1 || steps < 1) {
            fprintf(stderr, "bench_decode: not a measurement: %s", line);
            return 64;
        }
        shape_decoder(&bench, batch, type, context + 2 * steps + 16 + batch * context / 256);
        if (arriving)
            arrivals(&bench, batch, context, steps);
        else
            steady(&bench, batch, context, steps, shared);
        fflush(stdout);
    }
    model_decoder_free(bench.decoder);
    model_free(bench.model);
    tn_close(bench.backend);
    return 0;
}

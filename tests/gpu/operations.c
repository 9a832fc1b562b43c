/* Operations of a CUDA backend beside those of "cpu", each with its inputs in the backend's memory:
 * normalised error of every output, and whether its bits are the same. What tests/gpu/run runs on a
 * device; the unit tests run it with kernels that the host runs.
 *
 * usage: gpu_operations cuda|cuda-bf16|cuda-fp32     prints TAP; outputs may be off by 1e-2, in
 * fp32 by 1e-4. cuda-bf16: cuda with parameters and gradients in bf16.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/state.h"

enum { T = 70, H = 6, G = 2, C = 24, D = H * C, W = (H + 2 * G) * C, F = 200, V = 613 };
#define MAX_OUTPUTS 128

struct outputs { /* of one backend, on the host */
    struct tn_backend *b;
    int n;
    const char *names[MAX_OUTPUTS];
    float *at[MAX_OUTPUTS];
    size_t count[MAX_OUTPUTS];
    void *held[4 * MAX_OUTPUTS]; /* memory of the backend */
    int n_held;
};

static void *zeros(struct outputs *o, size_t n)
{
    void *x = o->b->ops->alloc(o->b, n, sizeof(float));
    SP_ASSERT(x && o->n_held < 4 * MAX_OUTPUTS);
    o->held[o->n_held++] = x;
    return x;
}

/* Uniform in [-scale, scale), a function of (seed, index), rounded to bf16: all backends store it
 * as it is. */
static float *numbers(size_t n, uint32_t seed, float scale)
{
    float *host = sp_xarray(n + 4, sizeof(*host));
    for (size_t i = 0; i < n; i += 4) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_TEST, 0, (uint32_t)(i / 4), 0, 0, draw);
        for (size_t j = 0; j < 4; j++) {
            float x = scale * ((float)(draw[j] >> 8) * (1.0f / 8388608.0f) - 1.0f);
            host[i + j] = sp_bf16_to_f32(sp_f32_to_bf16(x));
        }
    }
    return host;
}

static void *filled_as(struct outputs *o, enum tn_dtype dtype, size_t n, uint32_t seed, float scale)
{
    float *host = numbers(n, seed, scale);
    void *x = zeros(o, n);
    tn_put(o->b, x, dtype, host, n);
    free(host);
    return x;
}

/* Activations, parameters, and what is fp32 everywhere. */
static void *filled_x(struct outputs *o, size_t n, uint32_t seed, float scale)
{
    return filled_as(o, o->b->activations, n, seed, scale);
}

static void *filled_w(struct outputs *o, size_t n, uint32_t seed, float scale)
{
    return filled_as(o, o->b->weights, n, seed, scale);
}

static float *filled(struct outputs *o, size_t n, uint32_t seed, float scale)
{
    return filled_as(o, TN_F32, n, seed, scale);
}

static void put_host(struct outputs *o, const char *name, const float *host, size_t n)
{
    SP_ASSERT(o->n < MAX_OUTPUTS);
    o->names[o->n] = name;
    o->count[o->n] = n;
    o->at[o->n++] = sp_xmemdup(host, n * sizeof(*host));
}

static void put_as(struct outputs *o, enum tn_dtype dtype, const char *name, const void *x,
                   size_t n)
{
    float *host = sp_xarray(n, sizeof(*host));
    tn_get(o->b, host, x, dtype, n);
    put_host(o, name, host, n);
    free(host);
}

static void put_x(struct outputs *o, const char *name, const void *x, size_t n)
{
    put_as(o, o->b->activations, name, x, n);
}

static void put_w(struct outputs *o, const char *name, const void *x, size_t n)
{
    put_as(o, o->b->weights, name, x, n);
}

static void put(struct outputs *o, const char *name, const float *x, size_t n)
{
    put_as(o, TN_F32, name, x, n);
}

static void put_ids(struct outputs *o, const char *name, const int32_t *ids, size_t n)
{
    float *host = sp_xarray(n, sizeof(*host));
    for (size_t i = 0; i < n; i++)
        host[i] = (float)ids[i];
    put_host(o, name, host, n);
    free(host);
}

static void products(struct outputs *o)
{
    const struct tn_ops *ops = o->b->ops;
    void *x = filled_x(o, T * D, 1, 1.0f), *w = filled_w(o, V * D, 2, 0.3f);
    void *dy = filled_x(o, T * V, 3, 0.1f), *y = zeros(o, T * V), *dx = zeros(o, T * D);
    void *dw = filled_w(o, V * D, 4, 0.1f);
    float *logits = zeros(o, T * V), *dlogits = filled(o, T * V, 3, 0.1f);
    ops->linear(o->b, y, x, w, T, V, D, false);
    put_x(o, "linear", y, T * V);
    ops->linear(o->b, y, x, w, T, V, D, true);
    put_x(o, "linear, added", y, T * V);
    ops->linear_residual(o->b, y, dy, x, w, T, V, D);
    put_x(o, "linear_residual", y, T * V);
    ops->linear_bwd_x(o->b, dx, dy, w, T, V, D, false);
    put_x(o, "linear_bwd_x", dx, T * D);
    ops->linear_bwd_w(o->b, dw, dy, x, T, V, D);
    put_w(o, "linear_bwd_w", dw, V * D);
    ops->head(o->b, logits, x, w, T, V, D);
    put(o, "head", logits, T * V);
    ops->head_bwd_x(o->b, dx, dlogits, w, T, V, D);
    put_x(o, "head_bwd_x", dx, T * D);
    ops->head_bwd_w(o->b, dw, dlogits, x, T, V, D);
    put_w(o, "head_bwd_w", dw, V * D);
    static const enum tn_dtype types[][2] = {
        {TN_F32, TN_F32}, {TN_BF16, TN_F32}, {TN_BF16, TN_BF16}};
    static const char *const names[] = {"packed fp32", "packed bf16", "packed bf16, rows too"};
    for (int i = 0; i < 3; i++) {
        struct tn_weights *packed = ops->weights_new(o->b, w, V, D, types[i][0], types[i][1]);
        ops->linear_packed(o->b, y, x, packed, T);
        put_x(o, names[i], y, T * V);
        ops->linear_packed(o->b, y, x, packed, 1);
        put_x(o, names[i], y, V);
        ops->linear_packed_residual(o->b, y, dy, x, packed, T, V);
        put_x(o, names[i], y, T * V);
        ops->head_packed(o->b, logits, x, packed, T);
        put(o, names[i], logits, T * V);
        ops->weights_free(o->b, packed);
    }
}

static void norms(struct outputs *o)
{
    const struct tn_ops *ops = o->b->ops;
    void *x = filled_x(o, T * D, 5, 3.0f), *dy = filled_x(o, T * D, 6, 1.0f), *y = zeros(o, T * D);
    void *dx = filled_x(o, T * D, 9, 1.0f), *dw = zeros(o, D), *vector = filled_w(o, D, 7, 1.0f);
    float *w = zeros(o, D), *bias = filled(o, D, 8, 1.0f), *stats = zeros(o, 2 * T * H);
    ops->widen(o->b, w, vector, 1.0f, D);
    put(o, "widen, plus one", w, D);
    ops->widen(o->b, w, vector, 0.0f, D);
    put(o, "widen", w, D);
    ops->rmsnorm(o->b, y, stats, x, w, T, D, 1e-6f);
    ops->rmsnorm_bwd(o->b, dx, dw, dy, x, w, stats, T, D);
    put_x(o, "rmsnorm", y, T * D);
    put_x(o, "rmsnorm_bwd dx", dx, T * D);
    put_w(o, "rmsnorm_bwd dw", dw, D);
    ops->layernorm(o->b, y, stats, x, w, bias, T, D, 1e-5f);
    ops->layernorm_bwd(o->b, dx, dw, dy, x, w, stats, T, D);
    put_x(o, "layernorm", y, T * D);
    put_x(o, "layernorm_bwd dx", dx, T * D);
    put_w(o, "layernorm_bwd dw", dw, D);
    ops->head_norm(o->b, y, stats, x, w, T, H, C, D, 1e-6f);
    ops->head_norm_bwd(o->b, dy, dw, x, w, stats, T, H, C, D);
    put_x(o, "head_norm", y, T * D);
    put_x(o, "head_norm_bwd dx", dy, T * D);
    put_w(o, "head_norm_bwd dw", dw, C);
    ops->bias(o->b, y, bias, T, D);
    ops->bias_bwd(o->b, dw, y, T, D);
    put_x(o, "bias", y, T * D);
    put_w(o, "bias_bwd", dw, D);
}

static void elements(struct outputs *o)
{
    const struct tn_ops *ops = o->b->ops;
    void *gu = filled_x(o, T * 2 * F, 10, 3.0f), *dy = filled_x(o, T * 2 * F, 11, 1.0f);
    void *y = zeros(o, T * 2 * F), *table = filled_w(o, 20 * F, 14, 1.0f);
    float *cos_table = filled(o, T * C / 2, 12, 1.0f), *sin_table = filled(o, T * C / 2, 13, 1.0f);
    float *logits = filled(o, T * F, 10, 3.0f);
    int32_t ids[T], rows[20];
    for (int32_t t = 0; t < T; t++)
        ids[t] = t * 7 % 20;
    for (int32_t i = 0; i < 20; i++)
        rows[i] = 3 * i + i % 3;
    ops->swiglu(o->b, y, gu, T, F);
    put_x(o, "swiglu", y, T * F);
    ops->swiglu_bwd(o->b, y, dy, gu, T, F);
    put_x(o, "swiglu_bwd", y, T * 2 * F);
    ops->geglu(o->b, y, gu, T, F);
    put_x(o, "geglu", y, T * F);
    ops->geglu_bwd(o->b, y, dy, gu, T, F);
    put_x(o, "geglu_bwd", y, T * 2 * F);
    for (int tanh = 0; tanh < 2; tanh++) {
        ops->gelu(o->b, y, gu, T * F, tanh);
        put_x(o, tanh ? "gelu, tanh" : "gelu", y, T * F);
        ops->gelu_bwd(o->b, y, dy, gu, T * F, tanh);
        put_x(o, tanh ? "gelu_bwd, tanh" : "gelu_bwd", y, T * F);
    }
    ops->softcap(o->b, logits, 2.0f, T * F);
    put(o, "softcap", logits, T * F);
    ops->affine(o->b, y, gu, 1.5f, 0.25f, T * F);
    ops->add(o->b, y, dy, T * F);
    put_x(o, "affine, add", y, T * F);
    for (int inverse = 0; inverse < 2; inverse++) {
        ops->rope(o->b, gu, T, H, C, 2 * F, ids, cos_table, sin_table, inverse, inverse ? 16 : 0);
        put_x(o, inverse ? "rope back, in part" : "rope", gu, T * 2 * F);
    }
    ops->gather_rows(o->b, y, dy, rows, 20, F);
    put_x(o, "gather_rows", y, 20 * F);
    ops->scatter_rows(o->b, gu, dy, rows, 20, T, 2 * F);
    put_x(o, "scatter_rows", gu, T * 2 * F);
    ops->embed(o->b, y, table, ids, T, F);
    put_x(o, "embed", y, T * F);
    ops->embed_bwd(o->b, table, dy, ids, T, F, 20);
    put_w(o, "embed_bwd", table, 20 * F);
}

static void attention(struct outputs *o)
{
    static const struct tn_segment segments[] = {{0, 20, 13, 17}, {50, 0, 20, 0}};
    const struct tn_ops *ops = o->b->ops;
    void *qkv = filled_x(o, T * W, 15, 1.5f), *dout = filled_x(o, T * D, 16, 1.0f);
    void *out = zeros(o, T * D), *dqkv = zeros(o, T * W);
    float *lse = zeros(o, T * H);
    struct tn_cache_row rows[T];
    for (int i = 0; i < 4; i++) {
        int32_t window = i & 1 ? 9 : 0;
        float cap = i & 2 ? 5.0f : 0.0f;
        ops->attention(o->b, out, lse, qkv, T, segments, 2, H, G, C, 0.2f, window, cap);
        ops->attention_bwd(o->b, dqkv, dout, out, lse, qkv, T, segments, 2, H, G, C, 0.2f, window,
                           cap);
        put_x(o, "attention", out, T * D);
        put(o, "attention lse", lse, T * H);
        put_x(o, "attention_bwd", dqkv, T * W);
    }
    for (int32_t t = 0; t < T; t++)
        rows[t] = (struct tn_cache_row){.slot = t % 2, .position = t / 2};
    for (int dtype = TN_F32; dtype <= TN_BF16; dtype++) {
        struct tn_kv_cache *cache = ops->cache_new(o->b, 2, 3, T, G, C, (enum tn_dtype)dtype, 0);
        ops->cache_put(o->b, cache, 1, qkv, rows, T, H);
        ops->cache_copy(o->b, cache, 1, 2, T / 2);
        for (int32_t t = 1; t < T; t += 2)
            rows[t].slot = 2;
        ops->cache_attention(o->b, out, qkv, cache, 1, rows, T, H, 0.2f, 0, 0);
        for (int32_t t = 1; t < T; t += 2)
            rows[t].slot = 1;
        put_x(o, dtype == TN_BF16 ? "cache bf16" : "cache fp32", out, T * D);
        ops->cache_free(o->b, cache);
    }
}

/* All rows' sums, draws from the first of them, given tokens. */
static void ask_tokens(struct outputs *o, const float *x, const struct tn_target *targets,
                       const struct tn_sample_params *params, const struct tn_sample_key *keys)
{
    enum { DRAWS = T - 3 };
    float lse[T], drawn[DRAWS], given[T];
    int32_t ids[DRAWS];
    struct tn_tokens t = {.logits = x,
                          .R = T,
                          .V = V,
                          .draws = DRAWS,
                          .params = params,
                          .keys = keys,
                          .targets = targets,
                          .n_targets = T,
                          .lse = lse,
                          .ids = ids,
                          .drawn = drawn,
                          .given = given};
    o->b->ops->tokens(o->b, &t);
    put_host(o, "tokens: sums", lse, T);
    put_host(o, "tokens: drawn", drawn, DRAWS);
    put_host(o, "tokens: given", given, T);
    put_ids(o, "tokens: ids", ids, DRAWS);
    t.draws = t.n_targets = 0;
    o->b->ops->tokens(o->b, &t);
    put_host(o, "tokens: sums alone", lse, T);
}

static void logits(struct outputs *o)
{
    const struct tn_ops *ops = o->b->ops;
    float *x = filled(o, T * V, 17, 6.0f), lse[T], logprob[T];
    int32_t argmax[T], ids[T];
    struct tn_target targets[T];
    struct tn_sample_params params[T];
    struct tn_sample_key keys[T];
    for (int32_t t = 0; t < T; t++) {
        targets[t] = (struct tn_target){t / 3, t * 31 % V, 0.1f * (float)t};
        params[t] = (struct tn_sample_params){0.25f * (float)(t % 7), t % 4 == 1 ? 30 : 0,
                                              t % 3 == 1 ? 0.9f : 1.0f};
        keys[t] = (struct tn_sample_key){17, 2, (uint32_t)t, 1, 8};
    }
    ops->row_lse(o->b, lse, argmax, x, T, V);
    ops->gather_logprob(o->b, logprob, x, lse, targets, T, V);
    ops->sample(o->b, ids, x, T, V, params, keys);
    ask_tokens(o, x, targets, params, keys);
    ops->logits_bwd(o->b, x, lse, targets, T, T, V);
    put_host(o, "row_lse", lse, T);
    put_ids(o, "argmax", argmax, T);
    put_host(o, "gather_logprob", logprob, T);
    put_ids(o, "sample", ids, T);
    put(o, "logits_bwd", x, T * V);
    ops->logits_bwd_capped(o->b, x, lse, targets, T, T, V, 30.0f);
    put(o, "logits_bwd_capped", x, T * V);
}

/* Draws from many ids: flat rows and steep ones, the largest numbers late, infinities and NaN, by
 * all kinds of settings. */
static void drawing(struct outputs *o)
{
    enum { IDS = 2500, ROWS = 63, SETTINGS = 9 };
    static const struct tn_sample_params settings[SETTINGS] = {
        {1.0f, 0, 1.0f},      {0.7f, 0, 0.9f},    {1.0f, 50, 1.0f},
        {1.5f, 0, 0.999999f}, {1.0f, 2000, 0.5f}, {2.0f, 2499, 0.8f},
        {1.0f, 0, 1e-6f},     {0.0f, 0, 0.9f},    {1e-3f, 1, 1.0f},
    };
    static const float scales[] = {0.0f, 0.01f, 1.0f, 4.0f, 12.0f, 90.0f, 4.0f};
    float *host = sp_xarray((size_t)ROWS * IDS, sizeof(*host));
    struct tn_sample_params params[ROWS];
    struct tn_sample_key keys[ROWS];
    int32_t ids[ROWS];
    for (size_t r = 0; r < ROWS; r++) {
        float *row = numbers(IDS, 40 + (uint32_t)r, scales[r / SETTINGS]);
        row[IDS - 1] = 2.0f * scales[r / SETTINGS];
        if (r / SETTINGS == SP_COUNT(scales) - 1) {
            for (size_t i = 0; i < IDS; i += 2)
                row[i] = -INFINITY;
            row[3 * r] = r % 4 == 0 ? NAN : r % 4 == 1 ? INFINITY : 0.0f;
        }
        memcpy(host + r * IDS, row, IDS * sizeof(*row));
        free(row);
        params[r] = settings[r % SETTINGS];
        keys[r] = (struct tn_sample_key){23, 1, (uint32_t)r, 2, 5};
    }
    float *x = zeros(o, (size_t)ROWS * IDS);
    tn_put(o->b, x, TN_F32, host, (size_t)ROWS * IDS);
    free(host);
    o->b->ops->sample(o->b, ids, x, ROWS, IDS, params, keys);
    put_ids(o, "sample of many", ids, ROWS);
}

static void optimizers(struct outputs *o)
{
    enum { N = 70001 };
    void *w = filled_w(o, N, 18, 1.0f), *g = filled_w(o, N, 19, 0.1f);
    float *m = zeros(o, N), *v = zeros(o, N);
    for (int64_t step = 1; step <= 3; step++) {
        struct tn_adamw a = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.7f, .step = step};
        struct tn_rmsprop r = {1e-4f, 0.99f, 1e-8f, 0.01f, 0.9f, .step = step};
        o->b->ops->adamw(o->b, w, g, m, v, N, &a);
        o->b->ops->rmsprop(o->b, w, g, v, N, &r);
    }
    float squares = (float)o->b->ops->sum_squares(o->b, w, N);
    put_w(o, "optimizers: w", w, N);
    put(o, "optimizers: m", m, N);
    put(o, "optimizers: v", v, N);
    put_host(o, "sum_squares", &squares, 1);
}

/* State of codes, once in memory of the host; from weights of 0, so that they are the updates. */
static void optimizers_8bit(struct outputs *o)
{
    enum { N = 70001 };
    const struct tn_ops *ops = o->b->ops;
    size_t bytes = tn_state_bytes(TN_STATE_8BIT, N);
    void *w = zeros(o, N), *w2 = zeros(o, N), *g = filled_w(o, N, 20, 0.1f);
    void *m = ops->state_new(o->b, bytes, true), *v = ops->state_new(o->b, bytes, true);
    void *v2 = ops->state_new(o->b, bytes, false);
    SP_ASSERT(m && v && v2);
    for (int64_t step = 1; step <= 3; step++) {
        struct tn_adamw a = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.7f, step, TN_STATE_8BIT, 3};
        struct tn_rmsprop r = {1e-4f, 0.99f, 1e-8f, 0.01f, 0.9f, step, TN_STATE_8BIT, 3};
        ops->adamw(o->b, w, g, m, v, N, &a);
        ops->rmsprop(o->b, w2, g, v2, N, &r);
    }
    put_w(o, "adamw, 8 bits", w, N);
    put_w(o, "rmsprop, 8 bits", w2, N);
    ops->state_free(o->b, m);
    ops->state_free(o->b, v);
    ops->state_free(o->b, v2);
}

/* More work than a launch has blocks for, each of which goes on with the next part. */
static void rounds(struct outputs *o)
{
    enum {
        ROWS = 200,
        IDS = 64,
        N = 1024 * 2048 + 4001
    }; /* TN_CUDA_BLOCKS / H, SAMPLE_BLOCKS, … */
    static const struct tn_segment segments[] = {{0, 50, 40, 30}, {120, 80, 0, 0}};
    const struct tn_ops *ops = o->b->ops;
    void *qkv = filled_x(o, (size_t)ROWS * W, 21, 1.5f), *out = zeros(o, (size_t)ROWS * D);
    void *dout = filled_x(o, (size_t)ROWS * D, 22, 1.0f), *dqkv = zeros(o, (size_t)ROWS * W);
    float *lse = zeros(o, ROWS * H), *x = filled(o, ROWS * IDS, 23, 6.0f);
    ops->attention(o->b, out, lse, qkv, ROWS, segments, 2, H, G, C, 0.2f, 0, 0);
    ops->attention_bwd(o->b, dqkv, dout, out, lse, qkv, ROWS, segments, 2, H, G, C, 0.2f, 0, 0);
    put_x(o, "attention, many rows", out, (size_t)ROWS * D);
    put_x(o, "attention_bwd, many rows", dqkv, (size_t)ROWS * W);
    struct tn_sample_params params[ROWS];
    struct tn_sample_key keys[ROWS];
    int32_t ids[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
        params[r] = (struct tn_sample_params){r % 4 == 3 ? 0.0f : 1.0f, r % 2 ? 0 : 20, 1.0f};
        keys[r] = (struct tn_sample_key){29, 1, (uint32_t)r, 2, 5};
    }
    ops->sample(o->b, ids, x, ROWS, IDS, params, keys);
    put_ids(o, "sample, many rows", ids, ROWS);
    void *w = zeros(o, N), *g = filled_w(o, N, 24, 0.1f);
    size_t bytes = tn_state_bytes(TN_STATE_8BIT, N);
    void *m = ops->state_new(o->b, bytes, false), *v = ops->state_new(o->b, bytes, false);
    SP_ASSERT(m && v);
    struct tn_rmsprop r = {1e-4f, 0.99f, 1e-8f, 0.01f, 0.9f, 1, TN_STATE_8BIT, 3};
    struct tn_adamw a = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.7f, 2, TN_STATE_8BIT, 3};
    ops->rmsprop(o->b, w, g, v, N, &r);
    ops->adamw(o->b, w, g, m, v, N, &a);
    put_w(o, "8 bits, many elements", w, N);
    ops->state_free(o->b, m);
    ops->state_free(o->b, v);
}

static struct outputs run(const char *name, enum tn_dtype weights)
{
    struct outputs o = {0};
    struct sp_error err = {0};
    if (tn_open(name, NULL, &o.b, &err) != SP_OK) {
        fprintf(stderr, "gpu_operations: %s\n", err.text);
        exit(1);
    }
    if (tn_store_weights(o.b, weights, &err) != SP_OK) {
        fprintf(stderr, "gpu_operations: %s\n", err.text);
        exit(1);
    }
    fprintf(stderr, "# %s: %s, %s\n", name, o.b->numerics_class, o.b->device);
    products(&o);
    norms(&o);
    elements(&o);
    attention(&o);
    logits(&o);
    drawing(&o);
    optimizers(&o);
    optimizers_8bit(&o);
    rounds(&o);
    for (int i = 0; i < o.n_held; i++)
        o.b->ops->free(o.b, o.held[i]);
    tn_close(o.b);
    return o;
}

int main(int argc, char **argv)
{
    const char *name = argc == 2 ? argv[1] : "";
    bool bf16 = strcmp(name, "cuda-bf16") == 0;
    double limit = bf16 || strcmp(name, "cuda") == 0 ? 1e-2 : 1e-4;
    struct outputs device = run(bf16 ? "cuda" : name, bf16 ? TN_BF16 : TN_F32);
    struct outputs cpu = run("cpu", TN_F32);
    int failed = 0;
    SP_ASSERT(device.n == cpu.n);
    printf("1..%d\n", cpu.n);
    for (int i = 0; i < cpu.n; i++) {
        double difference = 0.0, size = 0.0;
        for (size_t j = 0; j < cpu.count[i]; j++) {
            difference += pow((double)device.at[i][j] - (double)cpu.at[i][j], 2);
            size += pow((double)cpu.at[i][j], 2);
        }
        double error = sqrt(difference) / (sqrt(size) + 1e-30);
        bool same = memcmp(device.at[i], cpu.at[i], cpu.count[i] * sizeof(float)) == 0;
        bool ok = error < limit; /* false for NaN */
        failed += !ok;
        printf("%sok %d - %s: off by %.2g%s\n", ok ? "" : "not ", i + 1, cpu.names[i], error,
               same ? ", same bits" : "");
        free(device.at[i]);
        free(cpu.at[i]);
    }
    return failed ? 1 : 0;
}

/* ops_logits: log-probabilities, their gradient, and drawing. Kernels: logits.cu, sample.cu. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/fast.h"

#define SAMPLE_BLOCKS 128 /* rows drawn at a time, each with a sorted list in scratch */

static void launch_lse(struct tn_cuda *cuda, const struct gpu_lse *k)
{
    device_launch(cuda->device, cuda->fast ? gpu_fast_row_lse_kernel : gpu_row_lse_kernel,
                  (struct device_grid){(size_t)k->R, 1}, (struct device_grid){GPU_FLAT, 1}, k);
}

static void op_row_lse(struct tn_backend *b, float *lse_host, int32_t *argmax_host,
                       const float *logits, int32_t R, int32_t V)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t n = (size_t)R;
    struct gpu_lse k = {.logits = logits, .R = R, .V = V};
    if (R == 0)
        return;
    k.lse = cuda_scratch(cuda, CUDA_RESULT, n * sizeof(float));
    if (argmax_host)
        k.argmax = cuda_scratch(cuda, CUDA_RESULT2, n * sizeof(int32_t));
    launch_lse(cuda, &k);
    device_get(cuda->device, lse_host, k.lse, n * sizeof(float));
    if (argmax_host)
        device_get(cuda->device, argmax_host, k.argmax, n * sizeof(int32_t));
}

static const struct gpu_target *put_targets(struct tn_cuda *cuda, const struct tn_target *targets,
                                            int32_t n)
{
    struct gpu_target *copy = sp_xarray((size_t)n + 1, sizeof(*copy));
    for (int32_t i = 0; i < n; i++)
        copy[i] = (struct gpu_target){
            .row = targets[i].row, .id = targets[i].id, .coefficient = targets[i].coefficient};
    const struct gpu_target *at = cuda_table(cuda, CUDA_TABLE, copy, (size_t)n * sizeof(*copy));
    free(copy);
    return at;
}

static void op_gather_logprob(struct tn_backend *b, float *logprob_host, const float *logits,
                              const float *lse_host, const struct tn_target *targets, int32_t n,
                              int32_t V)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    struct gpu_gather k = {.logits = logits, .n = n, .V = V};
    int32_t rows = 0;
    if (n == 0)
        return;
    for (int32_t i = 0; i < n; i++)
        rows = SP_MAX(rows, targets[i].row + 1);
    k.targets = put_targets(cuda, targets, n);
    k.lse = cuda_table(cuda, CUDA_TABLE2, lse_host, (size_t)rows * sizeof(float));
    k.logprob = cuda_scratch(cuda, CUDA_RESULT, (size_t)n * sizeof(float));
    cuda_flat(cuda, gpu_gather_kernel, (size_t)n, &k);
    device_get(cuda->device, logprob_host, k.logprob, (size_t)n * sizeof(float));
}

static void logits_bwd(struct tn_cuda *cuda, float *logits, const float *lse_host,
                       const struct tn_target *targets, int32_t n, int32_t R, int32_t V, float cap)
{
    struct gpu_logits_bwd k = {.logits = logits, .R = R, .V = V, .cap = cap};
    if (R == 0)
        return;
    struct gpu_logits_row *rows = sp_xarray((size_t)R, sizeof(*rows));
    for (int32_t row = 0, next = 0; row < R; row++) {
        float total = 0.0f;
        rows[row].first = next;
        for (; next < n && targets[next].row == row; next++)
            total += targets[next].coefficient;
        rows[row].count = next - rows[row].first;
        rows[row].factor = -total;
    }
    k.targets = put_targets(cuda, targets, n);
    k.rows = cuda_table(cuda, CUDA_TABLE2, rows, (size_t)R * sizeof(*rows));
    k.lse = cuda_table(cuda, CUDA_TABLE3, lse_host, (size_t)R * sizeof(float));
    k.slopes = cuda_scratch(cuda, CUDA_SUMS, ((size_t)n + 1) * sizeof(float));
    device_launch(cuda->device, cuda->fast ? gpu_fast_logits_bwd_kernel : gpu_logits_bwd_kernel,
                  (struct device_grid){(size_t)R, 1}, (struct device_grid){GPU_FLAT, 1}, &k);
    free(rows);
}

static void op_logits_bwd(struct tn_backend *b, float *logits, const float *lse_host,
                          const struct tn_target *targets, int32_t n, int32_t R, int32_t V)
{
    logits_bwd(tn_cuda_of(b), logits, lse_host, targets, n, R, V, 0.0f);
}

static void op_logits_bwd_capped(struct tn_backend *b, float *logits, const float *lse_host,
                                 const struct tn_target *targets, int32_t n, int32_t R, int32_t V,
                                 float cap)
{
    logits_bwd(tn_cuda_of(b), logits, lse_host, targets, n, R, V, cap);
}

/* How each row is drawn from; whether one of them needs sorting. */
static bool draws(struct gpu_draw *ret, int32_t R, int32_t V, const struct tn_sample_params *params,
                  const struct tn_sample_key *keys)
{
    bool sorted = false;
    for (int32_t i = 0; i < R; i++) {
        const struct tn_sample_params *p = &params[i];
        const struct tn_sample_key *key = &keys[i];
        ret[i] = (struct gpu_draw){.top_p = p->top_p, .top_k = V};
        if (!(p->temperature > 0.0f))
            continue;
        ret[i].inverse_t = 1.0f / p->temperature;
        ret[i].uniform = sp_rng_uniform(key->seed, SP_STREAM_SAMPLE, key->iteration, key->prompt,
                                        key->sample, key->position);
        if (p->top_k > 0 && p->top_k < V)
            ret[i].top_k = p->top_k;
        sorted = sorted || ret[i].top_k < V || p->top_p < 1.0f;
    }
    return sorted;
}

/* Blocks that draw at a time, each with a list of so many bytes: fewer where there is no memory for
 * so many. Which block draws a row changes nothing. */
static size_t sample_blocks(struct tn_cuda *cuda, size_t rows, size_t list)
{
    size_t blocks = SP_MIN(rows, (size_t)SAMPLE_BLOCKS);
    while (blocks > 1 && !cuda_grow(cuda, CUDA_SCORES, blocks * list + 8))
        blocks /= 2;
    return blocks;
}

/* k: logits, R, V and where ids go, on the device. */
static void launch_sample(struct tn_cuda *cuda, struct gpu_sample *k,
                          const struct tn_sample_params *params, const struct tn_sample_key *keys)
{
    size_t n = (size_t)k->R;
    SP_ASSERT(k->V > 0 && k->V <= 1 << 20);
    struct gpu_draw *host = sp_xarray(n, sizeof(*host));
    bool sorted = draws(host, k->R, k->V, params, keys);
    for (k->width = 2; k->width < (size_t)k->V;)
        k->width *= 2;
    size_t list = sorted ? k->width * (sizeof(uint64_t) + sizeof(float)) : 0;
    size_t blocks = sample_blocks(cuda, n, list);
    k->draws = cuda_table(cuda, CUDA_TABLE, host, n * sizeof(*host));
    k->sums = cuda_scratch(cuda, CUDA_SUMS, blocks * cuda_parts((size_t)k->V, GPU_SAMPLE) * 8);
    k->lists = cuda_scratch(cuda, CUDA_SCORES, blocks * list + 8);
    k->likely = (float *)(void *)(k->lists + (sorted ? blocks * k->width : 0));
    device_launch(cuda->device, gpu_sample_kernel, (struct device_grid){blocks, 1},
                  (struct device_grid){GPU_FLAT, 1}, k);
    free(host);
}

static void op_sample(struct tn_backend *b, int32_t *ids_host, const float *logits, int32_t R,
                      int32_t V, const struct tn_sample_params *params,
                      const struct tn_sample_key *keys)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t bytes = (size_t)R * sizeof(int32_t);
    struct gpu_sample k = {.logits = logits, .R = R, .V = V};
    if (R == 0)
        return;
    k.ids = cuda_scratch(cuda, CUDA_RESULT, bytes);
    launch_sample(cuda, &k, params, keys);
    device_get(cuda->device, ids_host, k.ids, bytes);
}

/* Results lie side by side, so that one copy brings them all. */
static void op_tokens(struct tn_backend *b, const struct tn_tokens *t)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t rows = (size_t)t->R, draws = (size_t)t->draws, given = (size_t)t->n_targets;
    size_t n = rows + 2 * draws + given;
    if (rows == 0)
        return;
    float *lse = cuda_scratch(cuda, CUDA_RESULT, n * sizeof(float)), *drawn = lse + rows;
    float *asked = drawn + draws;
    int32_t *ids = (int32_t *)(void *)(asked + given);
    struct gpu_lse l = {.lse = lse, .logits = t->logits, .R = t->R, .V = t->V};
    launch_lse(cuda, &l);
    if (given > 0) {
        struct gpu_gather g = {
            .logprob = asked, .logits = t->logits, .lse = lse, .n = t->n_targets, .V = t->V};
        g.targets = put_targets(cuda, t->targets, t->n_targets);
        cuda_flat(cuda, gpu_gather_kernel, given, &g);
    }
    if (draws > 0) {
        struct gpu_sample s = {.ids = ids, .logits = t->logits, .R = t->draws, .V = t->V};
        struct gpu_gather_drawn g = {.logprob = drawn,
                                     .logits = t->logits,
                                     .lse = lse,
                                     .ids = ids,
                                     .n = t->draws,
                                     .V = t->V};
        launch_sample(cuda, &s, t->params, t->keys);
        cuda_flat(cuda, gpu_gather_drawn_kernel, draws, &g);
    }
    float *host = sp_xarray(n, sizeof(*host));
    device_get(cuda->device, host, lse, n * sizeof(*host));
    memcpy(t->lse, host, rows * sizeof(*host));
    if (draws > 0) {
        memcpy(t->drawn, host + rows, draws * sizeof(*host));
        memcpy(t->ids, host + rows + draws + given, draws * sizeof(*host));
    }
    if (given > 0)
        memcpy(t->given, host + rows + draws, given * sizeof(*host));
    free(host);
}

void cuda_add_logits(struct tn_ops *ops)
{
    ops->row_lse = op_row_lse;
    ops->gather_logprob = op_gather_logprob;
    ops->logits_bwd = op_logits_bwd;
    ops->logits_bwd_capped = op_logits_bwd_capped;
    ops->sample = op_sample;
    ops->tokens = op_tokens;
}

/* fast_logits: log-sum-exp with the greedy choice, and the gradient; a block a row, by fours. Each
 * row is read once (and written once). */
#include <float.h>

#include "common/tensor/cuda/fast_math.h"

#define GPU_FOUR 4
#define GPU_LOGITS_AHEAD 4 /* fours whose loads are under way at a time */

GPU_FN int gpu_logits_wide(const float *logits, int32_t V)
{
    return (uintptr_t)logits % 16 == 0 && V % GPU_FOUR == 0;
}

/* Fours of a row are GPU_FLAT apart; -infinity behind the end. */
GPU_FN gpu_quad gpu_logits_take(const float *x, int32_t i, int32_t V, int wide)
{
    const int32_t left = i < V ? V - i : 0;
    return gpu_take_four(x + i, left, wide, -INFINITY);
}

/* The sum of e^(x − max) and where the maximum is first. Starting at the least finite number keeps
 * -infinity out of the differences; NaN gets into the sum. */
struct gpu_lse_part {
    float max, sum;
    int32_t place;
};

GPU_FN struct gpu_lse_part gpu_lse_add(struct gpu_lse_part part, gpu_quad quad, int32_t at)
{
    float x[GPU_FOUR], max = part.max;
    gpu_unpack_four(x, quad);
    for (int i = 0; i < GPU_FOUR; i++)
        if (x[i] > max) {
            max = x[i];
            part.place = at + i;
        }
    if (max > part.max) {
        part.sum = part.sum * gpu_fast_exp(part.max - max);
        part.max = max;
    }
    for (int i = 0; i < GPU_FOUR; i++)
        part.sum = part.sum + gpu_fast_exp(x[i] - max);
    return part;
}

/* Part b behind part a. */
GPU_FN struct gpu_lse_part gpu_lse_join(struct gpu_lse_part a, struct gpu_lse_part b)
{
    struct gpu_lse_part both = a;
    if (b.max > a.max || (b.max == a.max && b.place < a.place)) {
        both.max = b.max;
        both.place = b.place;
    }
    both.sum = a.sum * gpu_fast_exp(a.max - both.max) + b.sum * gpu_fast_exp(b.max - both.max);
    return both;
}

GPU_KERNEL(gpu_fast_row_lse, gpu_lse)
{
    GPU_SHARED struct gpu_lse_part parts[GPU_FLAT];
    enum { STEP = GPU_FLAT * GPU_FOUR, JOINED = 16 };
    const int wide = gpu_logits_wide(p.logits, p.V);
    GPU_EACH
    {
        const float *x = p.logits + (size_t)blockIdx.x * (size_t)p.V;
        struct gpu_lse_part part;
        part.max = -FLT_MAX;
        part.sum = 0.0f;
        part.place = 0;
        for (int32_t i = (int32_t)threadIdx.x * GPU_FOUR; i < p.V; i += GPU_LOGITS_AHEAD * STEP) {
            gpu_quad quads[GPU_LOGITS_AHEAD];
            for (int k = 0; k < GPU_LOGITS_AHEAD; k++)
                quads[k] = gpu_logits_take(x, i + k * STEP, p.V, wide);
            for (int k = 0; k < GPU_LOGITS_AHEAD; k++)
                part = gpu_lse_add(part, quads[k], i + k * STEP);
        }
        parts[threadIdx.x] = part;
    }
    GPU_SYNC();
    GPU_EACH
    {
        if (threadIdx.x >= JOINED)
            continue;
        struct gpu_lse_part part = parts[threadIdx.x];
        for (int i = (int)threadIdx.x + JOINED; i < GPU_FLAT; i += JOINED)
            part = gpu_lse_join(part, parts[i]);
        parts[threadIdx.x] = part;
    }
    GPU_SYNC();
    GPU_EACH
    {
        if (threadIdx.x != 0)
            continue;
        struct gpu_lse_part part = parts[0];
        for (int i = 1; i < JOINED; i++)
            part = gpu_lse_join(part, parts[i]);
        p.lse[blockIdx.x] = part.max + gpu_log(part.sum);
        if (p.argmax)
            p.argmax[blockIdx.x] = part.place;
    }
}

/* 1 − (x / cap)², the slope of a soft cap at its result x; of 0, for no cap, 1 */
GPU_FN float gpu_cap_slope(float x, float inverse_cap)
{
    const float share = x * inverse_cap;
    return fmaf(-share, share, 1.0f);
}

GPU_KERNEL(gpu_fast_logits_bwd, gpu_logits_bwd)
{
    enum { STEP = GPU_FLAT * GPU_FOUR };
    const struct gpu_logits_row row = p.rows[blockIdx.x];
    const float lse = p.lse[blockIdx.x], inverse_cap = p.cap > 0 ? 1.0f / p.cap : 0.0f;
    const int wide = gpu_logits_wide(p.logits, p.V);
    float *x = p.logits + (size_t)blockIdx.x * (size_t)p.V;
    GPU_EACH
    {
        for (int32_t i = (int32_t)threadIdx.x; p.cap > 0 && i < row.count; i += GPU_FLAT)
            p.slopes[row.first + i] = gpu_cap_slope(x[p.targets[row.first + i].id], inverse_cap);
    }
    GPU_SYNC();
    GPU_EACH
    {
        const int32_t first = (int32_t)threadIdx.x * GPU_FOUR;
        for (int32_t i = first; i < p.V; i += GPU_LOGITS_AHEAD * STEP) {
            float v[GPU_LOGITS_AHEAD][GPU_FOUR];
            for (int k = 0; k < GPU_LOGITS_AHEAD; k++)
                gpu_unpack_four(v[k], row.count > 0 ? gpu_logits_take(x, i + k * STEP, p.V, wide)
                                                    : gpu_no_quad());
            for (int k = 0; k < GPU_LOGITS_AHEAD; k++) {
                if (i + k * STEP >= p.V)
                    continue;
                for (int j = 0; j < GPU_FOUR; j++) {
                    const float slope = gpu_cap_slope(v[k][j], inverse_cap);
                    v[k][j] = row.count > 0 ? gpu_fast_exp(v[k][j] - lse) * row.factor * slope : 0;
                }
                gpu_give_four(x + i + k * STEP, v[k], p.V - i - k * STEP, wide);
            }
        }
    }
    GPU_SYNC();
    GPU_EACH
    {
        if (threadIdx.x != 0)
            continue;
        for (int32_t i = row.first; i < row.first + row.count; i++) {
            float *to = x + p.targets[i].id;
            *to = *to + p.targets[i].coefficient * (p.cap > 0 ? p.slopes[i] : 1.0f);
        }
    }
}

/* logits: log-sum-exp with the greedy choice, log-probabilities, their gradient; a block a row. */
#include "common/tensor/cuda/gpu_math.h"

GPU_KERNEL(gpu_row_lse, gpu_lse)
{
    GPU_SHARED float maxima[GPU_FLAT];
    GPU_SHARED int32_t places[GPU_FLAT];
    GPU_SHARED float lanes[GPU_LANES];
    const float *x = p.logits + (size_t)blockIdx.x * (size_t)p.V;
    GPU_EACH
    {
        gpu_max_part(x, p.V, maxima, places);
    }
    GPU_SYNC();
    int32_t place;
    const float max = gpu_max_of_parts(maxima, places, &place);
    GPU_EACH
    {
        float sum = 0.0f;
        if (threadIdx.x >= GPU_LANES)
            continue;
        for (int32_t i = (int32_t)threadIdx.x; i < p.V; i += GPU_LANES)
            sum = sum + gpu_exp((x[i] - max) * 1.0f);
        lanes[threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        if (threadIdx.x != 0)
            continue;
        p.lse[blockIdx.x] = max + gpu_log(gpu_tree(lanes));
        if (p.argmax)
            p.argmax[blockIdx.x] = place;
    }
}

GPU_KERNEL(gpu_gather, gpu_gather)
{
    GPU_EACH
    {
        size_t i = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        if (i >= (size_t)p.n)
            continue;
        size_t row = (size_t)p.targets[i].row;
        p.logprob[i] = p.logits[row * (size_t)p.V + (size_t)p.targets[i].id] - p.lse[row];
    }
}

GPU_KERNEL(gpu_gather_drawn, gpu_gather_drawn)
{
    GPU_EACH
    {
        size_t i = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        if (i < (size_t)p.n)
            p.logprob[i] = p.logits[i * (size_t)p.V + (size_t)p.ids[i]] - p.lse[i];
    }
}

GPU_KERNEL(gpu_logits_bwd, gpu_logits_bwd)
{
    const struct gpu_logits_row row = p.rows[blockIdx.x];
    float *x = p.logits + (size_t)blockIdx.x * (size_t)p.V;
    GPU_EACH
    {
        for (int32_t i = (int32_t)threadIdx.x; i < row.count; i += GPU_FLAT) {
            float share = p.cap > 0 ? x[p.targets[row.first + i].id] / p.cap : 0.0f;
            p.slopes[row.first + i] = 1.0f - share * share;
        }
    }
    GPU_SYNC();
    GPU_EACH
    {
        for (int32_t i = (int32_t)threadIdx.x; i < p.V; i += GPU_FLAT) {
            float v = row.count > 0 ? gpu_exp(x[i] - p.lse[blockIdx.x]) * row.factor : 0.0f;
            float share = p.cap > 0 ? x[i] / p.cap : 0.0f;
            x[i] = row.count > 0 && p.cap > 0 ? v * fmaf(-share, share, 1.0f) : v;
        }
    }
    GPU_SYNC();
    GPU_EACH
    {
        if (threadIdx.x != 0)
            continue;
        for (int32_t i = row.first; i < row.first + row.count; i++) {
            float *to = x + p.targets[i].id;
            *to = *to + p.targets[i].coefficient * p.slopes[i];
        }
    }
}

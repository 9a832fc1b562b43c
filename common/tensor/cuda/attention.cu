/* attention: a block takes one head of one row at a time: scores of all its keys, softmax, and the
 * sum of values with a thread a column. Plain: keys are read again for each row. Scores lie in
 * scratch, of which each block has its own part, so nothing is rescaled and a row's bits depend on
 * its keys alone. Also the cache's writes. */
#include "common/tensor/cuda/gpu_math.h"

GPU_FN size_t gpu_key_row(const struct gpu_query *query, int32_t position)
{
    return (size_t)(position < query->prompt ? query->first + position
                                             : query->branch + position - query->prompt);
}

GPU_KERNEL(gpu_attention, gpu_attention)
{
    GPU_SHARED float maxima[GPU_ATTEND];
    GPU_SHARED float lanes[GPU_LANES];
    float *scores = p.scores + (size_t)blockIdx.x * p.longest;
    const size_t items = (size_t)p.n * (size_t)p.H, c = (size_t)p.C;
    for (size_t item = blockIdx.x; item < items; item += gridDim.x) {
        const struct gpu_query query = p.queries[item / (size_t)p.H];
        const size_t h = item % (size_t)p.H, group = (size_t)(p.H / p.G);
        const int32_t from = gpu_window_start(query.position, p.window);
        const size_t column = h / group * c;
        const size_t out = ((size_t)query.row * (size_t)p.H + h) * c;
        const float *q = p.q + (size_t)query.row * p.q_row + h * c;
        GPU_EACH
        {
            float max = -INFINITY;
            for (int32_t j = from + (int32_t)threadIdx.x; j <= query.position; j += GPU_ATTEND) {
                size_t at = gpu_key_row(&query, j) * p.kv_row + column;
                float s = 0.0f;
                for (size_t i = 0; i < c; i++)
                    s = fmaf(q[i], gpu_stored(p.k, at + i, p.kv_bf16), s);
                s = p.softcap > 0 ? p.softcap * gpu_tanh(s * p.scale / p.softcap) : s * p.scale;
                scores[j - from] = s;
                max = s > max ? s : max;
            }
            maxima[threadIdx.x] = max;
        }
        GPU_SYNC();
        float max = maxima[0];
        for (int i = 1; i < GPU_ATTEND; i++)
            max = maxima[i] > max ? maxima[i] : max;
        GPU_EACH
        {
            for (int32_t j = from + (int32_t)threadIdx.x; j <= query.position; j += GPU_ATTEND)
                scores[j - from] = gpu_exp(scores[j - from] - max);
        }
        GPU_SYNC();
        GPU_EACH
        {
            /* position j belongs to lane j % GPU_LANES, wherever the window begins */
            int32_t lane = (int32_t)threadIdx.x;
            float sum = 0.0f;
            if (lane >= GPU_LANES)
                continue;
            int32_t first = from + (lane - from % GPU_LANES + GPU_LANES) % GPU_LANES;
            for (int32_t j = first; j <= query.position; j += GPU_LANES)
                sum = sum + scores[j - from];
            lanes[lane] = sum;
        }
        GPU_SYNC();
        const float sum = gpu_tree(lanes);
        GPU_EACH
        {
            for (size_t i = threadIdx.x; i < c; i += GPU_ATTEND) {
                float y = 0.0f;
                for (int32_t j = from; j <= query.position; j++)
                    y = fmaf(
                        scores[j - from],
                        gpu_stored(p.v, gpu_key_row(&query, j) * p.kv_row + column + i, p.kv_bf16),
                        y);
                p.out[out + i] = y / sum + 0.0f;
            }
            if (threadIdx.x == 0 && p.lse)
                p.lse[(size_t)query.row * (size_t)p.H + h] = max + gpu_log(sum);
        }
        GPU_SYNC();
    }
}

/* A thread an element of K and V. */
GPU_KERNEL(gpu_cache_put, gpu_cache_put)
{
    GPU_EACH
    {
        const size_t width = (size_t)p.G * (size_t)p.C, heads = (size_t)p.H * (size_t)p.C;
        size_t i = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        if (i >= (size_t)p.T * width)
            continue;
        const float *k = p.qkv + i / width * (heads + 2 * width) + heads + i % width;
        size_t to = (size_t)p.rows[i / width].to * width + i % width;
        if (p.bf16) {
            ((uint16_t *)p.k)[to] = gpu_narrow_of(k[0]);
            ((uint16_t *)p.v)[to] = gpu_narrow_of(k[width]);
        } else {
            ((float *)p.k)[to] = k[0];
            ((float *)p.v)[to] = k[width];
        }
    }
}

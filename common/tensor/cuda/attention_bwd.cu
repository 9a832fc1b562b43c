/* attention_bwd: gradients of attention over packed segments. Probabilities are recomputed from the
 * log-sum-exp. Queries' gradients have a block a head and row; keys' and values' a block a key head
 * and row, which goes through the queries that see it in one order: run by run, by row, by head. */
#include "common/tensor/cuda/gpu_math.h"

/* Σ dout·out of each head and row, n of them */
GPU_KERNEL(gpu_attention_dsum, gpu_attention_bwd)
{
    GPU_SHARED float lanes[GPU_ROWS][GPU_LANES];
    GPU_EACH
    {
        size_t item = (size_t)blockIdx.x * GPU_ROWS + threadIdx.y, at = item * (size_t)p.C;
        float sum = 0.0f;
        if (item >= (size_t)p.T * (size_t)p.H)
            continue;
        for (size_t i = threadIdx.x; i < (size_t)p.C; i += GPU_LANES)
            sum = fmaf(p.dout[at + i], p.out[at + i], sum);
        lanes[threadIdx.y][threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        size_t item = (size_t)blockIdx.x * GPU_ROWS + threadIdx.y;
        if (item < (size_t)p.T * (size_t)p.H && threadIdx.x == 0)
            p.dsum[item] = gpu_tree(lanes[threadIdx.y]);
    }
}

/* The probability of one key for one query, and the gradient of its score. */
GPU_FN float gpu_score_gradient(const struct gpu_attention_bwd *p, size_t row, size_t h,
                                size_t key_row, size_t key_head, float *ret_probability)
{
    const size_t c = (size_t)p->C, width = (size_t)(p->H + 2 * p->G) * c;
    const size_t item = row * (size_t)p->H + h;
    const float *q = p->qkv + row * width + h * c, *dy = p->dout + item * c;
    const float *k = p->qkv + key_row * width + ((size_t)p->H + key_head) * c;
    const float *v = k + (size_t)p->G * c;
    float s = 0.0f, dp = 0.0f, slope = p->scale, x;
    for (size_t i = 0; i < c; i++)
        s = fmaf(q[i], k[i], s);
    for (size_t i = 0; i < c; i++)
        dp = fmaf(dy[i], v[i], dp);
    if (p->softcap > 0) {
        float t = gpu_tanh(s * p->scale / p->softcap);
        x = p->softcap * t;
        slope = fmaf(-t, t, 1.0f) * p->scale;
    } else {
        x = s * p->scale;
    }
    float probability = gpu_exp(x - p->lse[item]);
    *ret_probability = probability;
    return probability * (dp - p->dsum[item]) * slope;
}

GPU_KERNEL(gpu_attention_dq, gpu_attention_bwd)
{
    float *ds = p.scores + (size_t)blockIdx.x * p.longest;
    const size_t items = (size_t)p.n * (size_t)p.H, c = (size_t)p.C;
    const size_t width = (size_t)(p.H + 2 * p.G) * c;
    for (size_t item = blockIdx.x; item < items; item += gridDim.x) {
        const struct gpu_query query = p.queries[item / (size_t)p.H];
        const size_t h = item % (size_t)p.H, head = h / (size_t)(p.H / p.G);
        const int32_t from = gpu_window_start(query.position, p.window);
        GPU_EACH
        {
            for (int32_t j = from + (int32_t)threadIdx.x; j <= query.position; j += GPU_ATTEND) {
                size_t row =
                    (size_t)(j < query.prompt ? query.first + j : query.branch + j - query.prompt);
                float probability;
                ds[j - from] =
                    gpu_score_gradient(&p, (size_t)query.row, h, row, head, &probability);
            }
        }
        GPU_SYNC();
        GPU_EACH
        {
            for (size_t i = threadIdx.x; i < c; i += GPU_ATTEND) {
                const float *k = p.qkv + ((size_t)p.H + head) * c + i;
                float dq = 0.0f;
                for (int32_t j = from; j <= query.position; j++) {
                    size_t row = (size_t)(j < query.prompt ? query.first + j
                                                           : query.branch + j - query.prompt);
                    dq = fmaf(ds[j - from], k[row * width], dq);
                }
                p.dqkv[(size_t)query.row * width + h * c + i] = dq;
            }
        }
        GPU_SYNC();
    }
}

#define GPU_HEAD_PART (GPU_MAX_HEAD / GPU_ATTEND) /* columns of a thread */

GPU_KERNEL(gpu_attention_dkv, gpu_attention_bwd)
{
    GPU_SHARED float ds[GPU_ATTEND];
    GPU_SHARED float probability[GPU_ATTEND];
    GPU_OWN float dk[GPU_COPIES][GPU_HEAD_PART];
    GPU_OWN float dv[GPU_COPIES][GPU_HEAD_PART];
    const struct gpu_key key = p.keys[blockIdx.x / (uint32_t)p.G];
    const size_t head = blockIdx.x % (uint32_t)p.G, group = (size_t)(p.H / p.G), c = (size_t)p.C;
    const size_t width = (size_t)(p.H + 2 * p.G) * c;
    GPU_EACH
    {
        for (int i = 0; i < GPU_HEAD_PART; i++)
            dk[GPU_SELF][i] = dv[GPU_SELF][i] = 0.0f;
    }
    for (int run = 0; run < 2; run++) {
        const size_t items = (size_t)key.count[run] * group;
        for (size_t first = 0; first < items; first += GPU_ATTEND) {
            const size_t here = items - first < GPU_ATTEND ? items - first : GPU_ATTEND;
            GPU_EACH
            {
                size_t item = first + threadIdx.x;
                if (item >= items)
                    continue;
                ds[threadIdx.x] = gpu_score_gradient(&p, (size_t)key.query[run] + item / group,
                                                     head * group + item % group, (size_t)key.row,
                                                     head, &probability[threadIdx.x]);
            }
            GPU_SYNC();
            GPU_EACH
            {
                for (int part = 0; part < GPU_HEAD_PART; part++) {
                    size_t i = (size_t)part * GPU_ATTEND + threadIdx.x;
                    for (size_t j = 0; i < c && j < here; j++) {
                        size_t row = (size_t)key.query[run] + (first + j) / group;
                        size_t h = head * group + (first + j) % group;
                        dk[GPU_SELF][part] =
                            fmaf(ds[j], p.qkv[row * width + h * c + i], dk[GPU_SELF][part]);
                        dv[GPU_SELF][part] =
                            fmaf(probability[j], p.dout[(row * (size_t)p.H + h) * c + i],
                                 dv[GPU_SELF][part]);
                    }
                }
            }
            GPU_SYNC();
        }
    }
    GPU_EACH
    {
        float *to = p.dqkv + (size_t)key.row * width + ((size_t)p.H + head) * c;
        for (int part = 0; part < GPU_HEAD_PART; part++) {
            size_t i = (size_t)part * GPU_ATTEND + threadIdx.x;
            if (i >= c)
                continue;
            to[i] = dk[GPU_SELF][part];
            to[(size_t)p.G * c + i] = dv[GPU_SELF][part];
        }
    }
}

/* sample: one draw a row, a block a row; see cpu/sample.c for what is drawn. Without top-k and
 * top-p the distribution function is inverted by id; with either, all candidates are sorted
 * (bitonic) and the kept prefix is walked. Sums have the cpu's order. The uniform numbers come from
 * the host. */
#include "common/tensor/cuda/gpu_math.h"

/* Ascending order is falling logit, then rising id. */
GPU_FN uint64_t gpu_candidate(float logit, int32_t id)
{
    uint32_t bits;
    logit += 0.0f;
    memcpy(&bits, &logit, 4);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~bits << 32 | (uint32_t)id;
}

/* Σ exp((x − max)·inverse_t) over at most GPU_SAMPLE ids, in lanes and the tree */
GPU_FN float gpu_chunk_sum(const float *x, int32_t n, float max, float inverse_t)
{
    float lanes[GPU_LANES] = {0};
    for (int32_t i = 0; i < n; i++)
        lanes[i % GPU_LANES] += gpu_exp((x[i] - max) * inverse_t);
    return gpu_tree(lanes);
}

/* The chunk that the draw falls in is walked id by id; one thread. */
GPU_FN int32_t gpu_invert(const float *x, int32_t V, const double *sums, int32_t chunks, float max,
                          const struct gpu_draw *draw, int32_t greedy)
{
    double total = 0.0, before = 0.0;
    int32_t last = 0, chosen = greedy;
    for (int32_t i = 0; i < chunks; i++)
        total += sums[i];
    if (!(total > 0.0 && total < 1e300))
        return greedy;
    const double target = (double)draw->uniform * total;
    for (int32_t i = 0; i < chunks; i++) {
        if (sums[i] > 0.0)
            last = i;
        if (sums[i] > 0.0 && before + sums[i] > target)
            break;
        if (i < chunks - 1)
            before += sums[i];
    }
    for (int32_t i = last * GPU_SAMPLE; i < V && i < (last + 1) * GPU_SAMPLE; i++) {
        float likely = gpu_exp((x[i] - max) * draw->inverse_t);
        if (!(likely > 0.0f))
            continue;
        chosen = i;
        before += (double)likely;
        if (before > target)
            break;
    }
    return chosen;
}

/* From sorted candidates and their probabilities; `whole` is what all that may be kept sum to. */
GPU_FN int32_t gpu_walk(const uint64_t *list, const float *likely, int32_t keep, double whole,
                        const struct gpu_draw *draw, int32_t greedy)
{
    if (!(whole > 0.0 && whole < 1e300))
        return greedy;
    double need = draw->top_p < 1.0f ? (double)draw->top_p * whole : whole, kept = 0.0;
    int32_t count = 0, chosen = (int32_t)(uint32_t)list[0];
    while (count < keep && (count == 0 || kept < need))
        kept += (double)likely[count++];
    const double target = (double)draw->uniform * kept;
    double before = 0.0;
    for (int32_t i = 0; i < count; i++) {
        if (!(likely[i] > 0.0f))
            continue;
        chosen = (int32_t)(uint32_t)list[i];
        before += (double)likely[i];
        if (before > target)
            break;
    }
    return chosen;
}

GPU_KERNEL(gpu_sample, gpu_sample)
{
    GPU_SHARED float maxima[GPU_FLAT];
    GPU_SHARED int32_t places[GPU_FLAT];
    uint64_t *list = p.lists + (size_t)blockIdx.x * p.width;
    float *likely = p.likely + (size_t)blockIdx.x * p.width;
    const int32_t chunks = (p.V + GPU_SAMPLE - 1) / GPU_SAMPLE;
    double *sums = p.sums + (size_t)blockIdx.x * (size_t)chunks;
    for (int32_t row = (int32_t)blockIdx.x; row < p.R; row += (int32_t)gridDim.x) {
        const float *x = p.logits + (size_t)row * (size_t)p.V;
        const struct gpu_draw draw = p.draws[row];
        const bool sorted = draw.inverse_t > 0.0f && (draw.top_k < p.V || draw.top_p < 1.0f);
        GPU_EACH
        {
            gpu_max_part(x, p.V, maxima, places);
        }
        GPU_SYNC();
        int32_t greedy;
        const float max = gpu_max_of_parts(maxima, places, &greedy);
        GPU_EACH
        {
            for (int32_t i = (int32_t)threadIdx.x; draw.inverse_t > 0.0f && i < chunks;
                 i += GPU_FLAT) {
                int32_t at = i * GPU_SAMPLE, n = p.V - at < GPU_SAMPLE ? p.V - at : GPU_SAMPLE;
                sums[i] = (double)gpu_chunk_sum(x + at, n, max, draw.inverse_t);
            }
            for (size_t i = threadIdx.x; sorted && i < p.width; i += GPU_FLAT)
                list[i] = i < (size_t)p.V ? gpu_candidate(x[i], (int32_t)i) : UINT64_MAX;
        }
        GPU_SYNC();
        for (size_t size = 2; sorted && size <= p.width; size *= 2)
            for (size_t apart = size / 2; apart > 0; apart /= 2) {
                GPU_EACH
                {
                    for (size_t i = threadIdx.x; i < p.width; i += GPU_FLAT) {
                        size_t other = i ^ apart;
                        bool rising = (i & size) == 0;
                        if (other < i || (list[i] > list[other]) != rising)
                            continue;
                        uint64_t swap = list[i];
                        list[i] = list[other];
                        list[other] = swap;
                    }
                }
                GPU_SYNC();
            }
        GPU_EACH
        {
            for (int32_t i = (int32_t)threadIdx.x; sorted && i < p.V; i += GPU_FLAT)
                likely[i] = gpu_exp((x[(uint32_t)list[i]] - max) * draw.inverse_t);
        }
        GPU_SYNC();
        GPU_EACH
        {
            if (threadIdx.x != 0)
                continue;
            double whole = 0.0;
            if (draw.top_k < p.V)
                for (int32_t i = 0; sorted && i < draw.top_k; i++)
                    whole += (double)likely[i];
            else
                for (int32_t i = 0; sorted && i < chunks; i++)
                    whole += sums[i];
            if (!(draw.inverse_t > 0.0f))
                p.ids[row] = greedy;
            else if (sorted)
                p.ids[row] = gpu_walk(list, likely, draw.top_k, whole, &draw, greedy);
            else
                p.ids[row] = gpu_invert(x, p.V, sums, chunks, max, &draw, greedy);
        }
        GPU_SYNC();
    }
}

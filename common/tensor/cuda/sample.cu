/* sample: one draw a row, a block a row; see cpu/sample.c for what is drawn. Without top-k and
 * top-p the distribution function is inverted by id. With either, the candidates of the largest
 * logits are sorted (bitonic), as many as an estimate says are enough, and the kept prefix is
 * walked; should it be longer, all are sorted. Sums have the cpu's order. The uniform numbers come
 * from the host. */
#include "common/tensor/cuda/gpu_math.h"

#define GPU_SAMPLE_WARPS (GPU_FLAT / GPU_WARP_THREADS)
#define GPU_CUTS 8 /* logits from which on candidates may be enough; behind the last come all */

/* Ascending order is falling logit, then rising id. */
GPU_FN uint64_t gpu_candidate(float logit, int32_t id)
{
    uint32_t bits;
    logit += 0.0f;
    memcpy(&bits, &logit, 4);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~bits << 32 | (uint32_t)id;
}

/* sums[i]: of exp((x − max)·inverse_t) over the ids of chunk i, in lanes and the tree; a thread a
 * lane. */
GPU_FN void gpu_sum_chunks(const float *x, int32_t V, float max, float inverse_t, double *sums)
{
    GPU_OWN float lane[GPU_COPIES];
    const int32_t chunks = (V + GPU_SAMPLE - 1) / GPU_SAMPLE;
    for (int32_t first = 0; first < chunks; first += GPU_FLAT / GPU_LANES) {
        GPU_EACH
        {
            const int32_t chunk = first + (int32_t)threadIdx.x / GPU_LANES, at = chunk * GPU_SAMPLE;
            const int32_t end = V - at < GPU_SAMPLE ? V : at + GPU_SAMPLE;
            float sum = 0.0f;
            for (int32_t i = at + (int32_t)threadIdx.x % GPU_LANES; i < end; i += GPU_LANES)
                sum += gpu_exp((x[i] - max) * inverse_t);
            lane[GPU_SELF] = sum;
        }
        gpu_warp_sum(lane, GPU_LANES);
        GPU_EACH
        {
            const int32_t chunk = first + (int32_t)threadIdx.x / GPU_LANES;
            if (threadIdx.x % GPU_LANES == 0 && chunk < chunks)
                sums[chunk] = (double)lane[GPU_SELF];
        }
    }
    GPU_SYNC();
}

/* --- without truncation --- */

struct gpu_fall { /* where a draw falls */
    double before, target;
    int32_t chunk; /* -1: the sums are no numbers to draw by */
};

GPU_FN struct gpu_fall gpu_fall_of(const double *sums, int32_t chunks, float uniform)
{
    struct gpu_fall fall;
    double total = 0.0;
    fall.before = fall.target = 0.0;
    fall.chunk = -1;
    for (int32_t i = 0; i < chunks; i++)
        total += sums[i];
    if (!(total > 0.0 && total < 1e300))
        return fall;
    fall.target = (double)uniform * total;
    fall.chunk = 0;
    for (int32_t i = 0; i < chunks; i++) {
        if (sums[i] > 0.0)
            fall.chunk = i;
        if (sums[i] > 0.0 && fall.before + sums[i] > fall.target)
            break;
        if (i < chunks - 1)
            fall.before += sums[i];
    }
    return fall;
}

/* The chunk that the draw falls in is walked id by id; n of it are there. */
GPU_FN int32_t gpu_walk_chunk(const float *likely, int32_t n, struct gpu_fall fall, int32_t greedy)
{
    int32_t chosen = greedy;
    for (int32_t i = 0; i < n; i++) {
        if (!(likely[i] > 0.0f))
            continue;
        chosen = fall.chunk * GPU_SAMPLE + i;
        fall.before += (double)likely[i];
        if (fall.before > fall.target)
            break;
    }
    return chosen;
}

GPU_FN void gpu_draw_by_id(const float *x, int32_t V, const double *sums, float max,
                           const struct gpu_draw *draw, int32_t greedy, int32_t *ret_id)
{
    GPU_SHARED struct gpu_fall fall;
    GPU_SHARED float likely[GPU_SAMPLE];
    GPU_EACH
    {
        if (threadIdx.x == 0)
            fall = gpu_fall_of(sums, (V + GPU_SAMPLE - 1) / GPU_SAMPLE, draw->uniform);
    }
    GPU_SYNC();
    const int32_t at = fall.chunk * GPU_SAMPLE;
    const int32_t n = fall.chunk < 0 ? 0 : V - at < GPU_SAMPLE ? V - at : GPU_SAMPLE;
    GPU_EACH
    {
        for (int32_t i = (int32_t)threadIdx.x; i < n; i += GPU_FLAT)
            likely[i] = gpu_exp((x[at + i] - max) * draw->inverse_t);
    }
    GPU_SYNC();
    GPU_EACH
    {
        if (threadIdx.x == 0)
            *ret_id = gpu_walk_chunk(likely, n, fall, greedy);
    }
}

/* --- with top-k, top-p or both --- */

/* The least logit of cut i. */
GPU_FN float gpu_cut_from(int32_t i, float max, float inverse_t)
{
    return i < GPU_CUTS ? max - 2.0f * (float)(i + 1) / inverse_t : -INFINITY;
}

/* The narrowest cut whose candidates seem enough: as many as top-k keeps, or with the share of
 * top-p. NaN is in the weight of every cut, so that it chooses all. */
GPU_FN int32_t gpu_cut_of(const float *x, int32_t V, float max, const struct gpu_draw *draw)
{
    GPU_SHARED float weights[GPU_CUTS + 1][GPU_SAMPLE_WARPS];
    GPU_OWN float weight[GPU_CUTS + 1][GPU_COPIES];
    GPU_EACH
    {
        GPU_UNROLL
        for (int i = 0; i <= GPU_CUTS; i++)
            weight[i][GPU_SELF] = 0.0f;
        for (int32_t id = (int32_t)threadIdx.x; id < V; id += GPU_FLAT) {
            const float one = x[id] == x[id] ? 1.0f : NAN;
            const float w = draw->top_k < V ? one : gpu_fast_exp((x[id] - max) * draw->inverse_t);
            GPU_UNROLL
            for (int i = 0; i <= GPU_CUTS; i++)
                weight[i][GPU_SELF] += x[id] < gpu_cut_from(i, max, draw->inverse_t) ? 0.0f : w;
        }
    }
    GPU_UNROLL
    for (int i = 0; i <= GPU_CUTS; i++) {
        gpu_warp_sum(weight[i], GPU_WARP_THREADS);
    }
    GPU_EACH
    {
        GPU_UNROLL
        for (int i = 0; i <= GPU_CUTS; i++)
            if (GPU_LANE == 0)
                weights[i][GPU_WARP] = weight[i][GPU_SELF];
    }
    GPU_SYNC();
    int32_t cut = GPU_CUTS;
    float all = 0.0f;
    for (int warp = 0; warp < GPU_SAMPLE_WARPS; warp++)
        all += weights[GPU_CUTS][warp];
    for (int32_t i = GPU_CUTS - 1; i >= 0; i--) {
        float some = 0.0f; /* counts are exact */
        for (int warp = 0; warp < GPU_SAMPLE_WARPS; warp++)
            some += weights[i][warp];
        if (some >= (draw->top_k < V ? (float)draw->top_k : draw->top_p * 1.00001f * all))
            cut = i;
    }
    return cut;
}

/* The n candidates from logit `from` on into the list, with what makes their number a power of two;
 * returns this. */
GPU_FN int32_t gpu_list(const float *x, int32_t V, float from, uint64_t *list, int32_t *ret_n)
{
    GPU_SHARED int32_t counts[GPU_FLAT];
    GPU_EACH
    {
        int32_t own = 0;
        for (int32_t i = (int32_t)threadIdx.x; i < V; i += GPU_FLAT)
            own += x[i] < from ? 0 : 1;
        counts[threadIdx.x] = own;
    }
    GPU_SYNC();
    int32_t n = 0, width = 2;
    for (int i = 0; i < GPU_FLAT; i++)
        n += counts[i];
    while (width < n)
        width *= 2;
    GPU_EACH
    {
        int32_t at = 0;
        for (int32_t i = 0; i < (int32_t)threadIdx.x; i++)
            at += counts[i];
        for (int32_t i = (int32_t)threadIdx.x; i < V; i += GPU_FLAT)
            if (!(x[i] < from))
                list[at++] = gpu_candidate(x[i], i);
        for (int32_t i = n + (int32_t)threadIdx.x; i < width; i += GPU_FLAT)
            list[i] = UINT64_MAX;
    }
    GPU_SYNC();
    *ret_n = n;
    return width;
}

GPU_FN void gpu_sort(uint64_t *list, int32_t width)
{
    for (int32_t size = 2; size <= width; size *= 2)
        for (int32_t apart = size / 2; apart > 0; apart /= 2) {
            GPU_EACH
            {
                for (int32_t pair = (int32_t)threadIdx.x; pair < width / 2; pair += GPU_FLAT) {
                    const int32_t i = 2 * pair - (pair & (apart - 1)), other = i + apart;
                    const uint64_t a = list[i], b = list[other];
                    if ((a > b) != ((i & size) == 0))
                        continue;
                    list[i] = b;
                    list[other] = a;
                }
            }
            GPU_SYNC();
        }
}

/* From n sorted candidates and their probabilities; `whole` is what all that may be kept sum to.
 * *ret_enough: whether no more candidates can be kept. */
GPU_FN int32_t gpu_walk(const uint64_t *list, const float *likely, int32_t n, double whole,
                        const struct gpu_draw *draw, int32_t greedy, int32_t *ret_enough)
{
    *ret_enough = true;
    if (!(whole > 0.0 && whole < 1e300))
        return greedy;
    const int32_t keep = draw->top_k < n ? draw->top_k : n;
    double need = draw->top_p < 1.0f ? (double)draw->top_p * whole : whole, kept = 0.0;
    int32_t count = 0, chosen = (int32_t)(uint32_t)list[0];
    while (count < keep && (count == 0 || kept < need))
        kept += (double)likely[count++];
    *ret_enough = count < n || n >= draw->top_k;
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

/* list, likely: scratch of the block. */
GPU_FN void gpu_draw_sorted(const float *x, int32_t V, const double *sums, float max,
                            const struct gpu_draw *draw, int32_t greedy, uint64_t *list,
                            float *likely, int32_t *ret_id)
{
    GPU_SHARED int32_t enough;
    const int32_t chunks = (V + GPU_SAMPLE - 1) / GPU_SAMPLE;
    int32_t cut = gpu_cut_of(x, V, max, draw);
    for (bool done = false; !done;) {
        int32_t n;
        const int32_t width = gpu_list(x, V, gpu_cut_from(cut, max, draw->inverse_t), list, &n);
        gpu_sort(list, width);
        GPU_EACH
        {
            for (int32_t i = (int32_t)threadIdx.x; i < n; i += GPU_FLAT)
                likely[i] = gpu_exp((x[(uint32_t)list[i]] - max) * draw->inverse_t);
        }
        GPU_SYNC();
        GPU_EACH
        {
            if (threadIdx.x != 0)
                continue;
            double whole = 0.0;
            if (draw->top_k < V)
                for (int32_t i = 0; i < draw->top_k; i++)
                    whole += (double)likely[i];
            else
                for (int32_t i = 0; i < chunks; i++)
                    whole += sums[i];
            *ret_id = gpu_walk(list, likely, n, whole, draw, greedy, &enough);
        }
        GPU_SYNC();
        done = enough != 0;
        cut = GPU_CUTS;
    }
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
        GPU_EACH
        {
            gpu_max_part(x, p.V, maxima, places);
        }
        GPU_SYNC();
        int32_t greedy;
        const float max = gpu_max_of_parts(maxima, places, &greedy);
        if (draw.inverse_t > 0.0f) {
            gpu_sum_chunks(x, p.V, max, draw.inverse_t, sums);
            if (draw.top_k < p.V || draw.top_p < 1.0f)
                gpu_draw_sorted(x, p.V, sums, max, &draw, greedy, list, likely, p.ids + row);
            else
                gpu_draw_by_id(x, p.V, sums, max, &draw, greedy, p.ids + row);
        } else {
            GPU_EACH
            {
                if (threadIdx.x == 0)
                    p.ids[row] = greedy;
            }
        }
        GPU_SYNC();
    }
}

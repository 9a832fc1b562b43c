/* fast_tables: rows of tables to and from activations, conversions, and sums of squares. */
#include "common/tensor/cuda/fast_math.h"

GPU_FN size_t gpu_table_eight(void)
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* y(T,D) = rows ids of w; n eights */
GPU_KERNEL(gpu_fast_gather, gpu_flow)
{
    GPU_EACH
    {
        const uint32_t eight = (uint32_t)gpu_table_eight();
        float v[GPU_EIGHT];
        if (gpu_table_eight() >= p.n)
            continue;
        const uint32_t row = eight / p.eights;
        const size_t c = (size_t)(eight % p.eights) * GPU_EIGHT, d = (size_t)p.D;
        const int32_t left = gpu_left_of(d, c);
        const size_t from = (size_t)p.ids[row] * d + c;
        gpu_unpack_stored(v, gpu_take_stored(p.w, from, left, p.w_bf16, p.wide), p.w_bf16);
        gpu_give(p.y + row * d + c, v, left, p.wide);
    }
}

/* rows ids of y += rows of a(T,D), no id twice; n eights */
GPU_KERNEL(gpu_fast_scatter, gpu_flow)
{
    GPU_EACH
    {
        const uint32_t eight = (uint32_t)gpu_table_eight();
        float y[GPU_EIGHT], a[GPU_EIGHT];
        if (gpu_table_eight() >= p.n)
            continue;
        const uint32_t row = eight / p.eights;
        const size_t c = (size_t)(eight % p.eights) * GPU_EIGHT, d = (size_t)p.D;
        const int32_t left = gpu_left_of(d, c);
        uint16_t *to = p.y + (size_t)p.ids[row] * d + c;
        const gpu_quad y_quad = gpu_take(to, left, p.wide);
        const gpu_quad a_quad = gpu_take(p.a + row * d + c, left, p.wide);
        gpu_unpack(y, y_quad);
        gpu_unpack(a, a_quad);
        for (int i = 0; i < GPU_EIGHT; i++)
            y[i] = y[i] + a[i];
        gpu_give(to, y, left, p.wide);
    }
}

#define GPU_RUN_AHEAD 4 /* rows whose loads are under way at a time */

GPU_FN void gpu_run_add(float sum[GPU_EIGHT], gpu_quad quad)
{
    float dy[GPU_EIGHT];
    gpu_unpack(dy, quad);
    for (int i = 0; i < GPU_EIGHT; i++)
        sum[i] = sum[i] + dy[i];
}

/* Block x is the run, block y the columns. */
GPU_KERNEL(gpu_fast_embed_bwd, gpu_runs)
{
    const struct gpu_run run = p.runs[blockIdx.x];
    const int32_t *rows = p.rows + run.first;
    GPU_EACH
    {
        const size_t d = (size_t)p.D;
        const size_t c = ((size_t)blockIdx.y * blockDim.x + threadIdx.x) * GPU_EIGHT;
        float sum[GPU_EIGHT];
        if (c >= d)
            continue;
        const int32_t left = gpu_left_of(d, c);
        const size_t to = (size_t)run.id * d + c;
        const struct gpu_quads before = gpu_take_stored(p.y, to, left, p.w_bf16, p.wide);
        gpu_unpack_stored(sum, before, p.w_bf16);
        for (int32_t i = 0; i < run.count; i += GPU_RUN_AHEAD) {
            gpu_quad quads[GPU_RUN_AHEAD];
            for (int k = 0; k < GPU_RUN_AHEAD; k++)
                quads[k] = i + k < run.count
                               ? gpu_take(p.dy + (size_t)rows[i + k] * d + c, left, p.wide)
                               : gpu_no_quad();
            for (int k = 0; k < GPU_RUN_AHEAD; k++)
                gpu_run_add(sum, quads[k]);
        }
        gpu_give_stored(p.y, to, sum, left, p.w_bf16, p.wide);
    }
}

GPU_KERNEL(gpu_fast_convert, gpu_convert)
{
    GPU_EACH
    {
        const size_t at = gpu_table_eight() * GPU_EIGHT;
        float v[GPU_EIGHT];
        if (at >= p.n)
            continue;
        const int32_t left = gpu_left_of(p.n, at);
        gpu_unpack_stored(v, gpu_take_stored(p.from, at, left, p.from_bf16, p.wide), p.from_bf16);
        for (int i = 0; i < GPU_EIGHT; i++)
            v[i] = p.shift != 0.0f ? v[i] + p.shift : v[i]; /* without one -0 stays -0 */
        gpu_give_stored(p.to, at, v, left, p.to_bf16, p.wide);
    }
}

/* --- sums of squares --- */

#define GPU_SQUARES_AHEAD 4

/* Adds the squares of eight. */
GPU_FN double gpu_squares_of(gpu_quad low, gpu_quad high, int bf16, double sum)
{
    float x[GPU_EIGHT];
    if (bf16)
        gpu_unpack(x, low);
    else {
        gpu_unpack_four(x, low);
        gpu_unpack_four(x + 4, high);
    }
    for (int i = 0; i < GPU_EIGHT; i++)
        sum = fma((double)x[i], (double)x[i], sum);
    return sum;
}

/* A thread's eights are GPU_THREADS apart; with fp32 its two fours of an eight are, so that a warp
 * reads neighbours. */
GPU_FN void gpu_squares_take(const struct gpu_fast_squares *p, size_t at, size_t end, gpu_quad *low,
                             gpu_quad *high)
{
    const size_t thread = threadIdx.x;
    if (p->w_bf16) {
        const size_t from = at + thread * GPU_EIGHT;
        *low = from < end ? gpu_take((const uint16_t *)p->x + from, gpu_left_of(end, from), p->wide)
                          : gpu_no_quad();
        *high = gpu_no_quad();
        return;
    }
    const size_t from = at + thread * 4, second = from + GPU_THREADS * 4;
    const float *x = (const float *)p->x;
    *low =
        from < end ? gpu_take_four(x + from, gpu_left_of(end, from), p->wide, 0.0f) : gpu_no_quad();
    *high = second < end ? gpu_take_four(x + second, gpu_left_of(end, second), p->wide, 0.0f)
                         : gpu_no_quad();
}

GPU_KERNEL(gpu_fast_sum_squares, gpu_fast_squares)
{
    GPU_SHARED double sums[GPU_THREADS];
    enum { STEP = GPU_THREADS * GPU_EIGHT, LANES = 16 };
    GPU_EACH
    {
        const size_t begin = (size_t)blockIdx.x * GPU_CHUNK;
        const size_t end = p.n - begin < GPU_CHUNK ? p.n : begin + GPU_CHUNK;
        double sum = 0.0;
        for (size_t at = begin; at < end; at += GPU_SQUARES_AHEAD * STEP) {
            gpu_quad low[GPU_SQUARES_AHEAD], high[GPU_SQUARES_AHEAD];
            for (int k = 0; k < GPU_SQUARES_AHEAD; k++)
                gpu_squares_take(&p, at + (size_t)k * STEP, end, &low[k], &high[k]);
            for (int k = 0; k < GPU_SQUARES_AHEAD; k++)
                sum = gpu_squares_of(low[k], high[k], p.w_bf16, sum);
        }
        sums[threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        double sum = 0.0;
        if (threadIdx.x >= LANES)
            continue;
        for (int i = (int)threadIdx.x; i < GPU_THREADS; i += LANES)
            sum += sums[i];
        sums[threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        double sum = 0.0;
        if (threadIdx.x != 0)
            continue;
        for (int i = 0; i < LANES; i++)
            sum += sums[i];
        p.sums[blockIdx.x] = sum;
    }
}

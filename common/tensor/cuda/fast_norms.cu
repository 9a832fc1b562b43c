/* fast_norms: RMS norm and layer norm of rows or of heads, of bf16, forward and backward. A row is
 * read once: a group of threads keeps it in registers, but what is beyond GPU_HELD eights a thread
 * is read again. Weights' gradients are summed over chunks of rows, then over the chunks. */
#include "common/tensor/cuda/fast_math.h"

/* The thread's row, and its place in the group. */
GPU_FN uint32_t gpu_norm_row(const struct gpu_norm *p)
{
    return blockIdx.x * (GPU_THREADS / (uint32_t)p->group) + threadIdx.x / (uint32_t)p->group;
}

GPU_FN int32_t gpu_norm_first(const struct gpu_norm *p)
{
    return (int32_t)(threadIdx.x % (uint32_t)p->group) * GPU_EIGHT;
}

/* Adds x or its square. */
GPU_FN float gpu_norm_add(gpu_quad quad, int square, float sum)
{
    float x[GPU_EIGHT];
    gpu_unpack(x, quad);
    for (int i = 0; i < GPU_EIGHT; i++)
        sum = square ? fmaf(x[i], x[i], sum) : sum + x[i];
    return sum;
}

/* Adds (x − mean)² of the n numbers that are there. */
GPU_FN float gpu_norm_spread(gpu_quad quad, float mean, int32_t n, float sum)
{
    float x[GPU_EIGHT];
    gpu_unpack(x, quad);
    for (int i = 0; i < GPU_EIGHT; i++)
        sum = i < n ? fmaf(x[i] - mean, x[i] - mean, sum) : sum;
    return sum;
}

GPU_FN void gpu_norm_give(const struct gpu_norm *p, size_t at, int32_t c, gpu_quad quad, float mean,
                          float r)
{
    float x[GPU_EIGHT], w[GPU_EIGHT], bias[GPU_EIGHT] = {0, 0, 0, 0, 0, 0, 0, 0};
    const struct gpu_quads w_quads = gpu_take_floats(p->w + c, p->D - c, p->wide);
    if (p->bias)
        gpu_unpack_floats(bias, gpu_take_floats(p->bias + c, p->D - c, p->wide));
    gpu_unpack(x, quad);
    gpu_unpack_floats(w, w_quads);
    for (int i = 0; i < GPU_EIGHT; i++)
        x[i] = fmaf((x[i] - mean) * r, w[i], bias[i]);
    gpu_give(p->y + at + c, x, p->D - c, p->wide);
}

GPU_KERNEL(gpu_fast_norm, gpu_norm)
{
    GPU_OWN gpu_quad held[GPU_COPIES][GPU_HELD];
    GPU_OWN float sum[GPU_COPIES];
    GPU_OWN float spread[GPU_COPIES];
    GPU_SHARED float sums[GPU_WARPS];
    GPU_SHARED float spreads[GPU_WARPS];
    const int32_t step = GPU_EIGHT * p.group; /* columns between a thread's eights */
    GPU_EACH
    {
        const uint32_t row = gpu_norm_row(&p);
        float s = 0.0f;
        sum[GPU_SELF] = 0.0f;
        spread[GPU_SELF] = 0.0f;
        if (row >= p.n)
            continue;
        const uint16_t *x = p.x + gpu_row_at(row, p.heads, p.stride, p.D);
        int32_t c = gpu_norm_first(&p);
        for (int k = 0; k < GPU_HELD; k++)
            held[GPU_SELF][k] = c + k * step < p.D
                                    ? gpu_take(x + c + k * step, p.D - c - k * step, p.wide)
                                    : gpu_no_quad();
        for (int k = 0; k < GPU_HELD; k++)
            if (c + k * step < p.D)
                s = gpu_norm_add(held[GPU_SELF][k], !p.centred, s);
        for (c += GPU_HELD * step; c < p.D; c += step)
            s = gpu_norm_add(gpu_take(x + c, p.D - c, p.wide), !p.centred, s);
        sum[GPU_SELF] = s;
    }
    GPU_GROUP_SUM(sum, sums, p.group);
    if (p.centred) {
        GPU_EACH
        {
            const uint32_t row = gpu_norm_row(&p);
            const float mean = gpu_group_total(sums, sum[GPU_SELF], p.group) / (float)p.D;
            float s = 0.0f;
            if (row >= p.n)
                continue;
            const uint16_t *x = p.x + gpu_row_at(row, p.heads, p.stride, p.D);
            int32_t c = gpu_norm_first(&p);
            for (int k = 0; k < GPU_HELD; k++)
                if (c + k * step < p.D)
                    s = gpu_norm_spread(held[GPU_SELF][k], mean, p.D - c - k * step, s);
            for (c += GPU_HELD * step; c < p.D; c += step)
                s = gpu_norm_spread(gpu_take(x + c, p.D - c, p.wide), mean, p.D - c, s);
            spread[GPU_SELF] = s;
        }
        GPU_GROUP_SUM(spread, spreads, p.group);
    }
    GPU_EACH
    {
        const uint32_t row = gpu_norm_row(&p);
        const float total = gpu_group_total(sums, sum[GPU_SELF], p.group) / (float)p.D;
        if (row >= p.n)
            continue;
        const size_t at = gpu_row_at(row, p.heads, p.stride, p.D);
        const float mean = p.centred ? total : 0.0f;
        const float variance =
            p.centred ? gpu_group_total(spreads, spread[GPU_SELF], p.group) / (float)p.D : total;
        const float r = 1.0f / sqrtf(variance + p.eps);
        int32_t c = gpu_norm_first(&p);
        if (c == 0 && p.stats && p.centred)
            p.stats[2 * (size_t)row] = mean;
        if (c == 0 && p.stats)
            p.stats[p.centred ? 2 * (size_t)row + 1 : row] = r;
        for (int k = 0; k < GPU_HELD; k++)
            if (c + k * step < p.D)
                gpu_norm_give(&p, at, c + k * step, held[GPU_SELF][k], mean, r);
        for (c += GPU_HELD * step; c < p.D; c += step)
            gpu_norm_give(&p, at, c, gpu_take(p.x + at + c, p.D - c, p.wide), mean, r);
    }
}

struct gpu_norm_stats {
    float mean, r;
};

GPU_FN struct gpu_norm_stats gpu_stats_of(const float *stats, uint32_t row, int centred)
{
    struct gpu_norm_stats s;
    s.mean = centred ? stats[2 * (size_t)row] : 0.0f;
    s.r = stats[centred ? 2 * (size_t)row + 1 : row];
    return s;
}

/* Eight columns of a row: x, dy, and what the gradient is added to. */
struct gpu_norm_eight {
    gpu_quad x, dy, y;
};

GPU_FN struct gpu_norm_eight gpu_norm_take(const struct gpu_norm *p, size_t at, int32_t c)
{
    struct gpu_norm_eight e;
    e.x = e.dy = e.y = gpu_no_quad();
    if (c >= p->D)
        return e;
    e.x = gpu_take(p->x + at + c, p->D - c, p->wide);
    e.dy = gpu_take(p->dy + at + c, p->D - c, p->wide);
    if (p->accumulate)
        e.y = gpu_take(p->y + at + c, p->D - c, p->wide);
    return e;
}

/* Adds g = w·dy to sum and g·x̂ to dot. */
GPU_FN void gpu_norm_dot(const struct gpu_norm *p, int32_t c, struct gpu_norm_eight e,
                         struct gpu_norm_stats s, float *sum, float *dot)
{
    float x[GPU_EIGHT], dy[GPU_EIGHT], w[GPU_EIGHT];
    gpu_unpack_floats(w, gpu_take_floats(p->w + c, p->D - c, p->wide)); /* 0 where nothing is */
    gpu_unpack(x, e.x);
    gpu_unpack(dy, e.dy);
    for (int i = 0; i < GPU_EIGHT; i++) {
        const float g = dy[i] * w[i];
        *sum = *sum + g;
        *dot = fmaf(g, (x[i] - s.mean) * s.r, *dot);
    }
}

GPU_FN void gpu_norm_give_dx(const struct gpu_norm *p, size_t at, int32_t c,
                             struct gpu_norm_eight e, struct gpu_norm_stats s, float mean_g,
                             float mean_dot)
{
    float x[GPU_EIGHT], dy[GPU_EIGHT], w[GPU_EIGHT], y[GPU_EIGHT];
    gpu_unpack_floats(w, gpu_take_floats(p->w + c, p->D - c, p->wide));
    gpu_unpack(x, e.x);
    gpu_unpack(dy, e.dy);
    gpu_unpack(y, e.y);
    for (int i = 0; i < GPU_EIGHT; i++) {
        const float g = fmaf(-((x[i] - s.mean) * s.r), mean_dot, dy[i] * w[i] - mean_g);
        y[i] = fmaf(g, s.r, y[i]);
    }
    gpu_give(p->y + at + c, y, p->D - c, p->wide);
}

/* rstd·(g − mean(g) − x̂·mean(g·x̂)), g = w·dy; RMS norm has mean(g) = 0 and x̂ = x·rstd */
GPU_KERNEL(gpu_fast_norm_dx, gpu_norm)
{
    GPU_OWN struct gpu_norm_eight held[GPU_COPIES][GPU_HELD];
    GPU_OWN float sum[GPU_COPIES];
    GPU_OWN float dot[GPU_COPIES];
    GPU_SHARED float sums[GPU_WARPS];
    GPU_SHARED float dots[GPU_WARPS];
    const int32_t step = GPU_EIGHT * p.group;
    GPU_EACH
    {
        const uint32_t row = gpu_norm_row(&p);
        float sum_here = 0.0f, dot_here = 0.0f;
        sum[GPU_SELF] = 0.0f;
        dot[GPU_SELF] = 0.0f;
        if (row >= p.n)
            continue;
        const size_t at = gpu_row_at(row, p.heads, p.stride, p.D);
        int32_t c = gpu_norm_first(&p);
        for (int k = 0; k < GPU_HELD; k++)
            held[GPU_SELF][k] = gpu_norm_take(&p, at, c + k * step);
        const struct gpu_norm_stats s = gpu_stats_of(p.stats, row, p.centred);
        for (int k = 0; k < GPU_HELD; k++)
            if (c + k * step < p.D)
                gpu_norm_dot(&p, c + k * step, held[GPU_SELF][k], s, &sum_here, &dot_here);
        for (c += GPU_HELD * step; c < p.D; c += step)
            gpu_norm_dot(&p, c, gpu_norm_take(&p, at, c), s, &sum_here, &dot_here);
        sum[GPU_SELF] = sum_here;
        dot[GPU_SELF] = dot_here;
    }
    GPU_GROUP_SUM(sum, sums, p.group);
    GPU_GROUP_SUM(dot, dots, p.group);
    GPU_EACH
    {
        const uint32_t row = gpu_norm_row(&p);
        const float total = gpu_group_total(sums, sum[GPU_SELF], p.group) / (float)p.D;
        const float mean_dot = gpu_group_total(dots, dot[GPU_SELF], p.group) / (float)p.D;
        const float mean_g = p.centred ? total : 0.0f;
        if (row >= p.n)
            continue;
        const size_t at = gpu_row_at(row, p.heads, p.stride, p.D);
        const struct gpu_norm_stats s = gpu_stats_of(p.stats, row, p.centred);
        int32_t c = gpu_norm_first(&p);
        for (int k = 0; k < GPU_HELD; k++)
            if (c + k * step < p.D)
                gpu_norm_give_dx(&p, at, c + k * step, held[GPU_SELF][k], s, mean_g, mean_dot);
        for (c += GPU_HELD * step; c < p.D; c += step)
            gpu_norm_give_dx(&p, at, c, gpu_norm_take(&p, at, c), s, mean_g, mean_dot);
    }
}

/* --- sums over rows --- */

#define GPU_AHEAD 4 /* rows whose loads are under way at a time */

struct gpu_columns_row {
    gpu_quad dy, x;
    struct gpu_norm_stats s;
};

GPU_FN void gpu_columns_take(const struct gpu_columns *p, uint32_t row, int32_t c,
                             struct gpu_columns_row *ret)
{
    const size_t at = gpu_row_at(row, p->heads, p->stride, p->D) + (size_t)c;
    ret->dy = gpu_take(p->dy + at, p->D - c, p->wide);
    ret->x = gpu_no_quad();
    ret->s.mean = ret->s.r = 0.0f;
    if (p->kind == GPU_COLUMNS_SUM)
        return;
    ret->x = gpu_take(p->x + at, p->D - c, p->wide);
    ret->s = gpu_stats_of(p->stats, row, p->kind == GPU_COLUMNS_CENTRED);
}

GPU_FN void gpu_columns_add(const struct gpu_columns *p, const struct gpu_columns_row *row,
                            float sum[GPU_EIGHT])
{
    float dy[GPU_EIGHT], x[GPU_EIGHT];
    gpu_unpack(dy, row->dy);
    if (p->kind == GPU_COLUMNS_SUM) {
        for (int i = 0; i < GPU_EIGHT; i++)
            sum[i] = sum[i] + dy[i];
        return;
    }
    gpu_unpack(x, row->x);
    for (int i = 0; i < GPU_EIGHT; i++)
        sum[i] = fmaf((x[i] - row->s.mean) * row->s.r, dy[i], sum[i]);
}

GPU_KERNEL(gpu_fast_columns, gpu_columns)
{
    GPU_SHARED float parts[GPU_THREADS][GPU_EIGHT + 1]; /* an odd stride keeps banks apart */
    const uint32_t width = (uint32_t)p.width, slots = GPU_THREADS / width;
    const uint32_t begin = blockIdx.y * p.chunk_rows;
    const uint32_t end = p.n - begin < p.chunk_rows ? p.n : begin + p.chunk_rows;
    const int32_t column = (int32_t)(blockIdx.x * width * GPU_EIGHT);
    GPU_EACH
    {
        const int32_t c = column + (int32_t)(threadIdx.x % width) * GPU_EIGHT;
        float sum[GPU_EIGHT] = {0, 0, 0, 0, 0, 0, 0, 0};
        uint32_t row = begin + threadIdx.x / width;
        if (c >= p.D)
            row = end;
        for (; row + (GPU_AHEAD - 1) * slots < end; row += GPU_AHEAD * slots) {
            struct gpu_columns_row rows[GPU_AHEAD];
            for (uint32_t i = 0; i < GPU_AHEAD; i++)
                gpu_columns_take(&p, row + i * slots, c, &rows[i]);
            for (uint32_t i = 0; i < GPU_AHEAD; i++)
                gpu_columns_add(&p, &rows[i], sum);
        }
        for (; row < end; row += slots) {
            struct gpu_columns_row one;
            gpu_columns_take(&p, row, c, &one);
            gpu_columns_add(&p, &one, sum);
        }
        for (int i = 0; i < GPU_EIGHT; i++)
            parts[threadIdx.x][i] = sum[i];
    }
    GPU_SYNC();
    GPU_EACH
    {
        const uint32_t of = threadIdx.x; /* column of the block's */
        float sum = 0.0f;
        if (of >= width * GPU_EIGHT || column + (int32_t)of >= p.D)
            continue;
        for (uint32_t slot = 0; slot < slots; slot++)
            sum = sum + parts[slot * width + of / GPU_EIGHT][of % GPU_EIGHT];
        p.parts[(size_t)blockIdx.y * (size_t)p.D + (size_t)column + of] = sum;
    }
}

GPU_KERNEL(gpu_fast_fold, gpu_fold)
{
    GPU_SHARED float sums[GPU_WARPS][GPU_FOLD_COLUMNS];
    const int32_t each = (p.chunks + GPU_WARPS - 1) / GPU_WARPS; /* chunks of a warp */
    GPU_EACH
    {
        const int32_t lane = (int32_t)(threadIdx.x % GPU_FOLD_COLUMNS), warp = (int32_t)GPU_WARP;
        const int32_t c = (int32_t)blockIdx.x * GPU_FOLD_COLUMNS + lane;
        const int32_t begin = warp * each;
        const int32_t end = p.chunks - begin < each ? p.chunks : begin + each;
        float sum = 0.0f;
        if (c < p.D)
            for (int32_t i = begin; i < end; i++)
                sum = sum + p.parts[(size_t)i * (size_t)p.D + (size_t)c];
        sums[warp][lane] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        const size_t c = (size_t)blockIdx.x * GPU_FOLD_COLUMNS + threadIdx.x;
        float sum = 0.0f;
        if (threadIdx.x >= GPU_FOLD_COLUMNS || c >= (size_t)p.D)
            continue;
        for (int warp = 0; warp < GPU_WARPS; warp++)
            sum = sum + sums[warp][threadIdx.x];
        if (p.w_bf16)
            ((uint16_t *)p.y)[c] =
                (uint16_t)gpu_bf16_pair(gpu_widen(((uint16_t *)p.y)[c]) + sum, 0.0f);
        else
            ((float *)p.y)[c] = ((float *)p.y)[c] + sum;
    }
}

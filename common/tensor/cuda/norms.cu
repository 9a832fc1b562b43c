/* norms: RMS norm and layer norm of rows or of heads, forward and backward. A row is summed in
 * GPU_LANES lanes by as many threads; weights' gradients have a thread a column, which goes through
 * the rows in order. */
#include "common/tensor/cuda/gpu_math.h"

/* Row `item` of n: head item % heads of row item / heads; plain rows are rows of one head. */
GPU_FN size_t gpu_head_at(const struct gpu_work *p, size_t item)
{
    return item / (size_t)p->heads * p->stride + item % (size_t)p->heads * (size_t)p->D;
}

GPU_FN size_t gpu_row_here(void)
{
    return (size_t)blockIdx.x * GPU_ROWS + threadIdx.y;
}

/* y = a·rstd·b, y2 = rstd or NULL; n rows, p = eps */
GPU_KERNEL(gpu_rmsnorm, gpu_work)
{
    GPU_SHARED float lanes[GPU_ROWS][GPU_LANES];
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        const float *x = p.a + gpu_head_at(&p, row);
        float sum = 0.0f;
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES)
            sum = fmaf(x[i], x[i], sum);
        lanes[threadIdx.y][threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        const float *x = p.a + gpu_head_at(&p, row);
        float *y = p.y + gpu_head_at(&p, row);
        float r = 1.0f / sqrtf(gpu_tree(lanes[threadIdx.y]) / (float)p.D + p.p);
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES)
            y[i] = x[i] * r * p.b[i];
        if (threadIdx.x == 0 && p.y2)
            p.y2[row] = r;
    }
}

/* y = (flag: y) + rstd·(w·dy − x·rstd²/D·Σ w·dy·x); a = dy, b = x, c = w, d = rstd. y may be dy. */
GPU_KERNEL(gpu_rmsnorm_dx, gpu_work)
{
    GPU_SHARED float lanes[GPU_ROWS][GPU_LANES];
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        size_t at = gpu_head_at(&p, row);
        float sum = 0.0f;
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES)
            sum = fmaf(p.a[at + (size_t)i] * p.c[i], p.b[at + (size_t)i], sum);
        lanes[threadIdx.y][threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        size_t at = gpu_head_at(&p, row);
        float r = p.d[row], scale = gpu_tree(lanes[threadIdx.y]) * r * r / (float)p.D;
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES) {
            float inner = fmaf(-scale, p.b[at + (size_t)i], p.a[at + (size_t)i] * p.c[i]);
            p.y[at + (size_t)i] = fmaf(inner, r, p.flag ? p.y[at + (size_t)i] : 0.0f);
        }
    }
}

/* y(D) += Σ a·b·d: a = dy, b = x, d = rstd; rows in order, of each its heads */
GPU_KERNEL(gpu_rmsnorm_dw, gpu_work)
{
    GPU_EACH
    {
        size_t c = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        if (c >= (size_t)p.D)
            continue;
        float sum = p.y[c];
        for (size_t row = 0; row < p.n; row++) {
            size_t at = gpu_head_at(&p, row) + c;
            sum = fmaf(p.b[at] * p.d[row], p.a[at], sum);
        }
        p.y[c] = sum;
    }
}

/* y = (a − mean)·rstd·b + c, y2(n, 2): mean and rstd, or NULL; p = eps */
GPU_KERNEL(gpu_layernorm, gpu_work)
{
    GPU_SHARED float sums[GPU_ROWS][GPU_LANES];
    GPU_SHARED float squares[GPU_ROWS][GPU_LANES];
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        const float *x = p.a + row * (size_t)p.D;
        float sum = 0.0f;
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES)
            sum = sum + x[i];
        sums[threadIdx.y][threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        const float *x = p.a + row * (size_t)p.D;
        float mean = gpu_tree(sums[threadIdx.y]) / (float)p.D, sum = 0.0f;
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES)
            sum = fmaf(x[i] - mean, x[i] - mean, sum);
        squares[threadIdx.y][threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        const float *x = p.a + row * (size_t)p.D;
        float *y = p.y + row * (size_t)p.D;
        float mean = gpu_tree(sums[threadIdx.y]) / (float)p.D;
        float r = 1.0f / sqrtf(gpu_tree(squares[threadIdx.y]) / (float)p.D + p.p);
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES)
            y[i] = fmaf((x[i] - mean) * r, p.b[i], p.c[i]);
        if (threadIdx.x == 0 && p.y2) {
            p.y2[2 * row] = mean;
            p.y2[2 * row + 1] = r;
        }
    }
}

/* y += rstd·(g − mean(g) − x̂·mean(g·x̂)), g = w·dy; a = dy, b = x, c = w, d = stats */
GPU_KERNEL(gpu_layernorm_dx, gpu_work)
{
    GPU_SHARED float sums[GPU_ROWS][GPU_LANES];
    GPU_SHARED float dots[GPU_ROWS][GPU_LANES];
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        size_t at = row * (size_t)p.D;
        float mean = p.d[2 * row], r = p.d[2 * row + 1], sum = 0.0f, dot = 0.0f;
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES) {
            float g = p.a[at + (size_t)i] * p.c[i];
            sum = sum + g;
            dot = fmaf(g, (p.b[at + (size_t)i] - mean) * r, dot);
        }
        sums[threadIdx.y][threadIdx.x] = sum;
        dots[threadIdx.y][threadIdx.x] = dot;
    }
    GPU_SYNC();
    GPU_EACH
    {
        size_t row = gpu_row_here();
        if (row >= p.n)
            continue;
        size_t at = row * (size_t)p.D;
        float mean = p.d[2 * row], r = p.d[2 * row + 1];
        float mean_g = gpu_tree(sums[threadIdx.y]) / (float)p.D;
        float mean_dot = gpu_tree(dots[threadIdx.y]) / (float)p.D;
        for (int32_t i = (int32_t)threadIdx.x; i < p.D; i += GPU_LANES) {
            float g = p.a[at + (size_t)i] * p.c[i] - mean_g;
            g = fmaf(-((p.b[at + (size_t)i] - mean) * r), mean_dot, g);
            p.y[at + (size_t)i] = fmaf(g, r, p.y[at + (size_t)i]);
        }
    }
}

/* y(D) += Σ x̂·dy; a = dy, b = x, d = stats */
GPU_KERNEL(gpu_layernorm_dw, gpu_work)
{
    GPU_EACH
    {
        size_t c = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        if (c >= (size_t)p.D)
            continue;
        float sum = p.y[c];
        for (size_t row = 0; row < p.n; row++) {
            size_t at = row * (size_t)p.D + c;
            sum = fmaf((p.b[at] - p.d[2 * row]) * p.d[2 * row + 1], p.a[at], sum);
        }
        p.y[c] = sum;
    }
}

/* pointwise: one thread an element, or a column whose rows are added in order. */
#include "common/tensor/cuda/gpu_math.h"

GPU_FN size_t gpu_element(void)
{
    return (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
}

/* y(T,D) = rows ids of a */
GPU_KERNEL(gpu_embed, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element(), d = (size_t)p.D;
        if (i < p.n)
            p.y[i] = p.a[(size_t)p.ids[i / d] * d + i % d];
    }
}

/* rows ids of y += rows of a(T,D), in row order: a thread a column, so no two meet */
GPU_KERNEL(gpu_embed_bwd, gpu_work)
{
    GPU_EACH
    {
        size_t c = gpu_element(), d = (size_t)p.D;
        if (c >= d)
            continue;
        for (int32_t t = 0; t < p.T; t++) {
            float *to = p.y + (size_t)p.ids[t] * d + c;
            *to = *to + p.a[(size_t)t * d + c];
        }
    }
}

/* y += a */
GPU_KERNEL(gpu_add, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        if (i < p.n)
            p.y[i] = p.y[i] + p.a[i];
    }
}

/* y = a·p + q */
GPU_KERNEL(gpu_affine, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        if (i < p.n)
            p.y[i] = fmaf(p.a[i], p.p, p.q);
    }
}

/* y(T,D) += a(D) */
GPU_KERNEL(gpu_bias, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        if (i < p.n)
            p.y[i] = p.y[i] + p.a[i % (size_t)p.D];
    }
}

/* y(D) += rows of a(T,D) in order */
GPU_KERNEL(gpu_bias_bwd, gpu_work)
{
    GPU_EACH
    {
        size_t c = gpu_element();
        if (c >= (size_t)p.D)
            continue;
        float sum = p.y[c];
        for (int32_t t = 0; t < p.T; t++)
            sum = sum + p.a[(size_t)t * (size_t)p.D + c];
        p.y[c] = sum;
    }
}

/* Pairs (i, i + rotary/2) of heads of y(T, heads, C) by the angles a = cos, b = sin of positions
 * ids; flag: backwards. n pairs. */
GPU_KERNEL(gpu_rope, gpu_work)
{
    GPU_EACH
    {
        size_t at = gpu_element(), half = (size_t)p.rotary / 2, heads = (size_t)p.heads;
        if (at >= p.n)
            continue;
        size_t i = at % half, h = at / half % heads, t = at / half / heads;
        size_t angle = (size_t)p.ids[t] * half + i;
        float *lo = p.y + t * p.stride + h * (size_t)p.C + i, *hi = lo + half;
        float a = *lo, b = *hi, c = p.a[angle], s = p.b[angle] * (p.flag ? -1.0f : 1.0f);
        *lo = fmaf(-b, s, a * c);
        *hi = fmaf(a, s, b * c);
    }
}

/* y(T,D) = silu(g)·u, a(T,2D) = g, u */
GPU_KERNEL(gpu_swiglu, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element(), d = (size_t)p.D;
        if (i >= p.n)
            continue;
        const float *gu = p.a + i / d * 2 * d + i % d;
        p.y[i] = gu[0] * gpu_sigmoid(gu[0]) * gu[d];
    }
}

/* y(T,2D) = gradient, a(T,2D) = g, u, b(T,D) = dy */
GPU_KERNEL(gpu_swiglu_bwd, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element(), d = (size_t)p.D, at = i / d * 2 * d + i % d;
        if (i >= p.n)
            continue;
        float g = p.a[at], u = p.a[at + d], dy = p.b[i], s = gpu_sigmoid(g);
        p.y[at] = dy * u * (s * fmaf(g, 1.0f - s, 1.0f));
        p.y[at + d] = dy * (g * s);
    }
}

GPU_KERNEL(gpu_geglu, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element(), d = (size_t)p.D;
        float slope;
        if (i >= p.n)
            continue;
        const float *gu = p.a + i / d * 2 * d + i % d;
        p.y[i] = gpu_gelu_of(gu[0], 1, &slope) * gu[d];
    }
}

GPU_KERNEL(gpu_geglu_bwd, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element(), d = (size_t)p.D, at = i / d * 2 * d + i % d;
        if (i >= p.n)
            continue;
        float slope, u = p.a[at + d], dy = p.b[i], g = gpu_gelu_of(p.a[at], 1, &slope);
        p.y[at] = dy * u * slope;
        p.y[at + d] = dy * g;
    }
}

/* y = gelu(a); flag: tanh form */
GPU_KERNEL(gpu_gelu, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        float slope;
        if (i < p.n)
            p.y[i] = gpu_gelu_of(p.a[i], p.flag, &slope);
    }
}

/* y = b·gelu'(a) */
GPU_KERNEL(gpu_gelu_bwd, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        float slope;
        if (i >= p.n)
            continue;
        (void)gpu_gelu_of(p.a[i], p.flag, &slope);
        p.y[i] = p.b[i] * slope;
    }
}

/* y = p·tanh(y / p) */
GPU_KERNEL(gpu_softcap, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        if (i < p.n)
            p.y[i] = p.p * gpu_tanh(p.y[i] * 1.0f / p.p);
    }
}

/* y = w, y2 = v, a = g; o = lr, alpha, 1 − alpha, eps, decay, scale of g */
GPU_KERNEL(gpu_rmsprop, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        if (i >= p.n)
            continue;
        float w = p.y[i], g = p.a[i] * p.o[5];
        g = fmaf(p.o[4], w, g);
        float v = fmaf(g * g, p.o[2], p.o[1] * p.y2[i]);
        p.y2[i] = v;
        p.y[i] = w - p.o[0] * g / (sqrtf(v) + p.o[3]);
    }
}

/* y = w, y2 = m, y3 = v, a = g; o = beta1, 1 − beta1, beta2, 1 − beta2, eps, what w keeps, rate,
 * root of the second correction, scale of g */
GPU_KERNEL(gpu_adamw, gpu_work)
{
    GPU_EACH
    {
        size_t i = gpu_element();
        if (i >= p.n)
            continue;
        float g = p.a[i] * p.o[8];
        float m = fmaf(g, p.o[1], p.o[0] * p.y2[i]);
        float v = fmaf(g * g, p.o[3], p.o[2] * p.y3[i]);
        p.y2[i] = m;
        p.y3[i] = v;
        p.y[i] = p.y[i] * p.o[5] - p.o[6] * m / (sqrtf(v) / p.o[7] + p.o[4]);
    }
}

/* Squares of chunks of GPU_CHUNK in double, element i in lane i % GPU_LANES */
GPU_KERNEL(gpu_sum_squares, gpu_squares)
{
    GPU_SHARED double lanes[GPU_LANES];
    GPU_EACH
    {
        size_t at = (size_t)blockIdx.x * GPU_CHUNK;
        size_t end = at + GPU_CHUNK < p.n ? at + GPU_CHUNK : p.n;
        double sum = 0.0;
        for (size_t i = at + threadIdx.x; i < end; i += GPU_LANES)
            sum += (double)p.x[i] * (double)p.x[i];
        lanes[threadIdx.x] = sum;
    }
    GPU_SYNC();
    GPU_EACH
    {
        if (threadIdx.x != 0)
            continue;
        for (int width = GPU_LANES / 2; width > 0; width /= 2)
            for (int l = 0; l < width; l++)
                lanes[l] += lanes[l + width];
        p.sums[blockIdx.x] = lanes[0];
    }
}

/* fast_pointwise: activations of bf16 element by element; a thread does an eight of them. */
#include "common/tensor/cuda/fast_math.h"

/* The thread's eight. */
GPU_FN size_t gpu_flow_eight(void)
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

struct gpu_flow_at { /* an eight of rows of D columns */
    uint32_t row;
    int32_t c, left; /* its first column, and how many are from there on */
};

GPU_FN struct gpu_flow_at gpu_flow_at(const struct gpu_flow *p)
{
    const uint32_t eight = (uint32_t)gpu_flow_eight();
    struct gpu_flow_at at;
    at.row = eight / p->eights;
    at.c = (int32_t)(eight % p->eights) * GPU_EIGHT;
    at.left = p->D - at.c;
    return at;
}

/* y += a; n elements */
GPU_KERNEL(gpu_fast_add, gpu_flow)
{
    GPU_EACH
    {
        const size_t at = gpu_flow_eight() * GPU_EIGHT;
        float y[GPU_EIGHT], a[GPU_EIGHT];
        if (at >= p.n)
            continue;
        const int32_t left = gpu_left_of(p.n, at);
        const gpu_quad y_quad = gpu_take(p.y + at, left, p.wide);
        const gpu_quad a_quad = gpu_take(p.a + at, left, p.wide);
        gpu_unpack(y, y_quad);
        gpu_unpack(a, a_quad);
        for (int i = 0; i < GPU_EIGHT; i++)
            y[i] = y[i] + a[i];
        gpu_give(p.y + at, y, left, p.wide);
    }
}

/* y = a·p + q; n elements */
GPU_KERNEL(gpu_fast_affine, gpu_flow)
{
    GPU_EACH
    {
        const size_t at = gpu_flow_eight() * GPU_EIGHT;
        float a[GPU_EIGHT];
        if (at >= p.n)
            continue;
        const int32_t left = gpu_left_of(p.n, at);
        gpu_unpack(a, gpu_take(p.a + at, left, p.wide));
        for (int i = 0; i < GPU_EIGHT; i++)
            a[i] = fmaf(a[i], p.p, p.q);
        gpu_give(p.y + at, a, left, p.wide);
    }
}

/* rows of y += w(D); n eights */
GPU_KERNEL(gpu_fast_bias, gpu_flow)
{
    GPU_EACH
    {
        float y[GPU_EIGHT], w[GPU_EIGHT];
        if (gpu_flow_eight() >= p.n)
            continue;
        const struct gpu_flow_at at = gpu_flow_at(&p);
        uint16_t *row = p.y + at.row * (size_t)p.D + at.c;
        const gpu_quad y_quad = gpu_take(row, at.left, p.wide);
        const struct gpu_quads bias = gpu_take_floats((const float *)p.w + at.c, at.left, p.wide);
        gpu_unpack(y, y_quad);
        gpu_unpack_floats(w, bias);
        for (int i = 0; i < GPU_EIGHT; i++)
            y[i] = y[i] + w[i];
        gpu_give(row, y, at.left, p.wide);
    }
}

/* gelu(x) and its derivative; the tanh form by ½(1 + tanh z) = sigmoid(2z) */
GPU_FN float gpu_fast_gelu_of(float x, int tanh_form, float *ret_slope)
{
    const float q = x * x;
    if (tanh_form) {
        const float share = gpu_fast_sigmoid(1.5957691216f * x * fmaf(0.044715f, q, 1.0f));
        const float bend = 1.5957691216f * x * fmaf(0.134145f, q, 1.0f);
        *ret_slope = fmaf(share * (1.0f - share), bend, share);
        return x * share;
    }
    const float e = gpu_fast_exp(q * -0.5f);
    const float t = gpu_fast_divide(1.0f, fmaf(fabsf(x), 0.23164189f, 1.0f));
    float p = fmaf(1.061405429f, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    const float tail = p * t * e * 0.5f;
    const float share = x > 0.0f ? 1.0f - tail : tail;
    *ret_slope = fmaf(x, e * 0.39894228f, share);
    return x * share;
}

/* The gate of a linear unit: silu(g), or gelu(g) in tanh form, and its derivative. */
GPU_FN float gpu_gate(float g, int gelu, float *ret_slope)
{
    if (gelu)
        return gpu_fast_gelu_of(g, 1, ret_slope);
    const float s = gpu_fast_sigmoid(g);
    *ret_slope = s * fmaf(g, 1.0f - s, 1.0f);
    return g * s;
}

/* y(T,D) = gate(g)·u, a(T,2D) = g, u; flag: gelu; n eights */
GPU_KERNEL(gpu_fast_glu, gpu_flow)
{
    GPU_EACH
    {
        float g[GPU_EIGHT], u[GPU_EIGHT], slope;
        if (gpu_flow_eight() >= p.n)
            continue;
        const struct gpu_flow_at at = gpu_flow_at(&p);
        const uint16_t *gu = p.a + at.row * 2 * (size_t)p.D + at.c;
        const gpu_quad g_quad = gpu_take(gu, at.left, p.wide);
        const gpu_quad u_quad = gpu_take(gu + p.D, at.left, p.wide);
        gpu_unpack(g, g_quad);
        gpu_unpack(u, u_quad);
        for (int i = 0; i < GPU_EIGHT; i++)
            g[i] = gpu_gate(g[i], p.flag, &slope) * u[i];
        gpu_give(p.y + at.row * (size_t)p.D + at.c, g, at.left, p.wide);
    }
}

/* y(T,2D) = gradient, a(T,2D) = g, u, b(T,D) = dy; flag: gelu; n eights */
GPU_KERNEL(gpu_fast_glu_bwd, gpu_flow)
{
    GPU_EACH
    {
        float g[GPU_EIGHT], u[GPU_EIGHT], dy[GPU_EIGHT];
        if (gpu_flow_eight() >= p.n)
            continue;
        const struct gpu_flow_at at = gpu_flow_at(&p);
        const size_t pair = at.row * 2 * (size_t)p.D + at.c;
        const gpu_quad g_quad = gpu_take(p.a + pair, at.left, p.wide);
        const gpu_quad u_quad = gpu_take(p.a + pair + p.D, at.left, p.wide);
        const gpu_quad dy_quad = gpu_take(p.b + at.row * (size_t)p.D + at.c, at.left, p.wide);
        gpu_unpack(g, g_quad);
        gpu_unpack(u, u_quad);
        gpu_unpack(dy, dy_quad);
        for (int i = 0; i < GPU_EIGHT; i++) {
            float slope, gate = gpu_gate(g[i], p.flag, &slope);
            g[i] = dy[i] * u[i] * slope;
            u[i] = dy[i] * gate;
        }
        gpu_give(p.y + pair, g, at.left, p.wide);
        gpu_give(p.y + pair + p.D, u, at.left, p.wide);
    }
}

/* y = gelu(a); flag: tanh form; n elements */
GPU_KERNEL(gpu_fast_gelu, gpu_flow)
{
    GPU_EACH
    {
        const size_t at = gpu_flow_eight() * GPU_EIGHT;
        float a[GPU_EIGHT], slope;
        if (at >= p.n)
            continue;
        const int32_t left = gpu_left_of(p.n, at);
        gpu_unpack(a, gpu_take(p.a + at, left, p.wide));
        for (int i = 0; i < GPU_EIGHT; i++)
            a[i] = gpu_fast_gelu_of(a[i], p.flag, &slope);
        gpu_give(p.y + at, a, left, p.wide);
    }
}

/* y = b·gelu'(a); n elements */
GPU_KERNEL(gpu_fast_gelu_bwd, gpu_flow)
{
    GPU_EACH
    {
        const size_t at = gpu_flow_eight() * GPU_EIGHT;
        float a[GPU_EIGHT], b[GPU_EIGHT], slope;
        if (at >= p.n)
            continue;
        const int32_t left = gpu_left_of(p.n, at);
        const gpu_quad a_quad = gpu_take(p.a + at, left, p.wide);
        const gpu_quad b_quad = gpu_take(p.b + at, left, p.wide);
        gpu_unpack(a, a_quad);
        gpu_unpack(b, b_quad);
        for (int i = 0; i < GPU_EIGHT; i++) {
            (void)gpu_fast_gelu_of(a[i], p.flag, &slope);
            b[i] = b[i] * slope;
        }
        gpu_give(p.y + at, b, left, p.wide);
    }
}

/* Pairs (i, i + rotary/2) of heads of y(T, heads, C) by the angles cos, sin of positions ids; flag:
 * backwards. n eights of pairs, `eights` a head; D = rotary/2. */
GPU_KERNEL(gpu_fast_rope, gpu_flow)
{
    GPU_EACH
    {
        float low[GPU_EIGHT], high[GPU_EIGHT], cosine[GPU_EIGHT], sine[GPU_EIGHT];
        if (gpu_flow_eight() >= p.n)
            continue;
        const struct gpu_flow_at at = gpu_flow_at(&p); /* its row is a head */
        const uint32_t t = at.row / p.heads, h = at.row % p.heads;
        const size_t angle = (size_t)p.ids[t] * (size_t)p.D + at.c;
        uint16_t *x = p.y + t * p.stride + h * (size_t)p.C + at.c;
        const gpu_quad low_quad = gpu_take(x, at.left, p.wide);
        const gpu_quad high_quad = gpu_take(x + p.D, at.left, p.wide);
        const struct gpu_quads cosines = gpu_take_floats(p.cos + angle, at.left, p.wide);
        const struct gpu_quads sines = gpu_take_floats(p.sin + angle, at.left, p.wide);
        gpu_unpack(low, low_quad);
        gpu_unpack(high, high_quad);
        gpu_unpack_floats(cosine, cosines);
        gpu_unpack_floats(sine, sines);
        for (int i = 0; i < GPU_EIGHT; i++) {
            const float a = low[i], b = high[i], s = p.flag ? -sine[i] : sine[i];
            low[i] = fmaf(-b, s, a * cosine[i]);
            high[i] = fmaf(a, s, b * cosine[i]);
        }
        gpu_give(x, low, at.left, p.wide);
        gpu_give(x + p.D, high, at.left, p.wide);
    }
}

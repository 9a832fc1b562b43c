/* gpu_math: the functions of cpu/vmath.h, cpu/kern_gelu.h and cpu/log.h, one lane at a time, with
 * the same operations in the same order: tests/unit/tensor holds the two to the same bits. Included
 * by the kernels only. */
#ifndef SPIN_TENSOR_CUDA_GPU_MATH_H
#define SPIN_TENSOR_CUDA_GPU_MATH_H

#include <math.h>
#include <string.h>

#include "common/tensor/cuda/gpu.h"
#include "common/tensor/cuda/kernels.h"

GPU_FN float gpu_exp(float x)
{
    float y = -88.0f > x ? -88.0f : x;
    y = 89.0f < y ? 89.0f : y;
    float z = fmaf(y, 1.44269504088896341f, 12582912.0f);
    float n = z - 12582912.0f;
    float r = fmaf(-n, 0.693359375f, y);
    r = fmaf(-n, -2.12194440e-4f, r);
    float p = fmaf(1.9875691500e-4f, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r);
    p = p + 1.0f;
    uint32_t bits;
    memcpy(&bits, &z, 4);
    int32_t e = (int32_t)(bits - 0x4b400000u), half = e >> 1;
    uint32_t b1 = ((uint32_t)half + 127u) << 23;
    uint32_t b2 = ((uint32_t)e - (uint32_t)half + 127u) << 23;
    float s1, s2;
    memcpy(&s1, &b1, 4);
    memcpy(&s2, &b2, 4);
    return x < -87.33654f ? 0.0f : p * s1 * s2;
}

GPU_FN float gpu_tanh(float x)
{
    float q = x * x, minus = 0.0f - x, size = x > minus ? x : minus;
    float p = fmaf(-0.008863235f, q, 0.021869488f);
    p = fmaf(p, q, -0.053968254f);
    p = fmaf(p, q, 0.13333333f);
    p = fmaf(p, q, -0.33333333f);
    float small = fmaf(p * q, x, x);
    float e = gpu_exp(size + size);
    float large = 1.0f - 2.0f / (e + 1.0f);
    large = 0.0f > x ? 0.0f - large : large;
    return size > 0.3f ? large : small;
}

GPU_FN float gpu_sigmoid(float g)
{
    return 1.0f / (1.0f + gpu_exp(0.0f - g));
}

/* gelu(x), and its derivative */
GPU_FN float gpu_gelu_of(float x, int tanh_form, float *ret_slope)
{
    if (tanh_form) {
        float q = x * x;
        float inner = 0.7978845608f * x * fmaf(0.044715f, q, 1.0f);
        float h = gpu_tanh(inner), share = 0.5f * (1.0f + h);
        float d = 0.7978845608f * fmaf(0.134145f, q, 1.0f);
        float bend = 0.5f * x * (fmaf(-h, h, 1.0f) * d);
        *ret_slope = share + bend;
        return x * share;
    }
    float minus = 0.0f - x, size = x > minus ? x : minus;
    float e = gpu_exp(x * x * -0.5f);
    float t = 1.0f / fmaf(size, 0.23164189f, 1.0f);
    float p = fmaf(1.061405429f, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    float tail = p * t * e * 0.5f;
    float share = x > 0.0f ? 1.0f - tail : tail;
    *ret_slope = fmaf(x, e * 0.39894228f, share);
    return x * share;
}

/* See cpu/log.h. */
GPU_FN float gpu_log(float value)
{
    double x = (double)value;
    if (!(x > 0.0))
        return x == 0.0 ? -INFINITY : NAN;
    if (x > 1.7976931348623157e308)
        return value;
    int64_t bits;
    memcpy(&bits, &x, 8);
    int64_t exponent = (bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | 0x3ff0000000000000;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    double s = (m - 1.0) / (m + 1.0), q = s * s, sum = 0.0;
    for (int k = 23; k >= 3; k -= 2)
        sum = (sum + 1.0 / k) * q;
    return (float)((double)exponent * 0.6931471805599453 + 2.0 * (s + s * sum));
}

/* The fixed tree over the lanes: halves added onto each other, 8, 4, 2, 1 apart. */
GPU_FN float gpu_tree(const float *lanes)
{
    float l[GPU_LANES / 2];
    for (int i = 0; i < 8; i++)
        l[i] = lanes[i] + lanes[i + 8];
    for (int width = 4; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            l[i] += l[i + width];
    return l[0];
}

/* The same 32 bits. */
GPU_FN float gpu_float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

GPU_FN uint32_t gpu_word_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

GPU_FN float gpu_widen(uint16_t h)
{
    return gpu_float_of((uint32_t)h << 16);
}

/* Round to nearest even; NaN stays NaN: see base/half.h. */
GPU_FN uint16_t gpu_narrow_of(float value)
{
    uint32_t bits = gpu_word_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* A denormal as zero of its sign. */
GPU_FN float gpu_flush(float x)
{
    return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x;
}

/* Element i of numbers that are stored as bf16 or fp32. */
GPU_FN float gpu_stored(const void *from, size_t i, int bf16)
{
    return bf16 ? gpu_widen(((const uint16_t *)from)[i]) : ((const float *)from)[i];
}

/* First logical position that the query at `position` sees. */
GPU_FN int32_t gpu_window_start(int32_t position, int32_t window)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

/* The largest of x(V) and its first place, by the GPU_FLAT threads of a block: each looks at its
 * part, and behind a GPU_SYNC anybody at all parts. */
GPU_FN void gpu_max_part(const float *x, int32_t V, float *maxima, int32_t *places)
{
    float max = -INFINITY;
    int32_t place = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < V; i += GPU_FLAT)
        if (x[i] > max) {
            max = x[i];
            place = i;
        }
    maxima[threadIdx.x] = max;
    places[threadIdx.x] = place;
}

GPU_FN float gpu_max_of_parts(const float *maxima, const int32_t *places, int32_t *ret_place)
{
    float max = maxima[0];
    int32_t place = places[0];
    for (int i = 1; i < GPU_FLAT; i++)
        if (maxima[i] > max || (maxima[i] == max && places[i] < place)) {
            max = maxima[i];
            place = places[i];
        }
    *ret_place = place;
    return max;
}

#endif

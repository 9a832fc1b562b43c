/* vec_generic: sixteen fp32 lanes in plain C, for any machine. See vec_avx512.h for what each does.
 *
 * Fused multiply-add without the instruction: the product of two floats is exact in double; the
 * sum in double is corrected to round-to-odd with the error of a two-sum, and rounding that to
 * float gives the correctly rounded result (Boldo & Melquiond, "Emulation of FMA and correctly
 * rounded sums: proved algorithms using rounding to odd", 2008). Loops over lanes have no branches,
 * so that compilers turn them into what vectors the machine has. */
#ifndef SPIN_TENSOR_VEC_H
#define SPIN_TENSOR_VEC_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    float f[16];
} vf;

#define V_LANES(expression)                                                                        \
    vf r;                                                                                          \
    for (int i = 0; i < 16; i++)                                                                   \
        r.f[i] = (expression);                                                                     \
    return r

static inline float v_fma1(float a, float b, float c)
{
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    double p = (double)a * (double)b, cd = (double)c;
    double s = p + cd;
    double t = s - p;
    double error = (p - (s - t)) + (cd - t);
    int64_t bits, error_bits;
    memcpy(&bits, &s, 8);
    memcpy(&error_bits, &error, 8);
    /* NaN compares false on both sides: infinities and NaN pass as they are. */
    int64_t inexact = (int64_t)(error > 0.0) | (int64_t)(error < 0.0);
    int64_t even = ~bits & 1;
    int64_t away = ((bits ^ error_bits) >> 63) | 1; /* +1 when the error has the sum's sign */
    bits += away * (inexact & even);
    memcpy(&s, &bits, 8);
    return (float)s;
#endif
}
static inline vf v_load(const float *p)
{
    V_LANES(p[i]);
}
static inline void v_store(float *p, vf v)
{
    memcpy(p, v.f, sizeof(v.f));
}
static inline vf v_loadn(const float *p, size_t n)
{
    vf r = {{0}};
    memcpy(r.f, p, n * sizeof(float));
    return r;
}
static inline void v_storen(float *p, vf v, size_t n)
{
    memcpy(p, v.f, n * sizeof(float));
}
static inline vf v_set1(float x)
{
    V_LANES(x);
}
static inline vf v_zero(void)
{
    V_LANES(0.0f);
}
static inline vf v_iota(void)
{
    V_LANES((float)i);
}
static inline vf v_add(vf a, vf b)
{
    V_LANES(a.f[i] + b.f[i]);
}
static inline vf v_sub(vf a, vf b)
{
    V_LANES(a.f[i] - b.f[i]);
}
static inline vf v_mul(vf a, vf b)
{
    V_LANES(a.f[i] * b.f[i]);
}
static inline vf v_div(vf a, vf b)
{
    V_LANES(a.f[i] / b.f[i]);
}
static inline vf v_sqrt(vf a)
{
    V_LANES(sqrtf(a.f[i]));
}
static inline vf v_fma(vf a, vf b, vf c)
{
    V_LANES(v_fma1(a.f[i], b.f[i], c.f[i]));
}
static inline vf v_fnma(vf a, vf b, vf c)
{
    V_LANES(v_fma1(-a.f[i], b.f[i], c.f[i]));
}
static inline vf v_max(vf a, vf b)
{
    V_LANES(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
static inline vf v_min(vf a, vf b)
{
    V_LANES(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
static inline vf v_select_gt(vf a, vf b, vf x, vf y)
{
    V_LANES(a.f[i] > b.f[i] ? x.f[i] : y.f[i]);
}
static inline vf v_zero_below(vf y, vf x, float limit)
{
    V_LANES(x.f[i] < limit ? 0.0f : y.f[i]);
}
static inline vf v_keep(vf v, ptrdiff_t from, ptrdiff_t to, float fill)
{
    V_LANES(i >= from && i < to ? v.f[i] : fill);
}
static inline float v_scale2_1(float p, float z)
{
    int32_t n;
    memcpy(&n, &z, 4);
    n = (int32_t)((uint32_t)n - 0x4b400000u);
    int32_t half = n >> 1, rest = (int32_t)((uint32_t)n - (uint32_t)half);
    uint32_t b1 = ((uint32_t)half + 127u) << 23, b2 = ((uint32_t)rest + 127u) << 23;
    float s1, s2;
    memcpy(&s1, &b1, 4);
    memcpy(&s2, &b2, 4);
    return p * s1 * s2;
}
static inline vf v_scale2(vf p, vf z)
{
    V_LANES(v_scale2_1(p.f[i], z.f[i]));
}

#endif

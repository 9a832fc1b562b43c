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

#ifndef __FP_FAST_FMAF
/* Two lanes at a time, with vectors of the compiler's: it doesn't find them by itself here. */
typedef float v_f2 __attribute__((vector_size(8)));
typedef double v_d2 __attribute__((vector_size(16)));
typedef uint64_t v_u2 __attribute__((vector_size(16)));

static inline v_d2 v_widen(const float *p)
{
    v_f2 f;
    memcpy(&f, p, sizeof(f));
    return __builtin_convertvector(f, v_d2);
}
static inline void v_fma2(float *to, v_d2 a, v_d2 b, v_d2 c)
{
    v_d2 p = a * b, s = p + c, t = s - p, error = (p - (s - t)) + (c - t);
    v_u2 bits = (v_u2)s;
    /* NaN compares false on both sides: infinities and NaN pass as they are. */
    v_u2 inexact = (v_u2)((error > 0.0) | (error < 0.0));
    v_u2 step = inexact & ~bits & 1;          /* 1 when the sum is inexact and even */
    v_u2 inward = (bits ^ (v_u2)error) >> 63; /* 1 when the error has the other sign */
    bits += step - ((step & inward) << 1);
    v_f2 rounded = __builtin_convertvector((v_d2)bits, v_f2);
    memcpy(to, &rounded, sizeof(rounded));
}
#endif

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
#ifdef __FP_FAST_FMAF
    V_LANES(__builtin_fmaf(a.f[i], b.f[i], c.f[i]));
#else
    vf r;
    for (int i = 0; i < 16; i += 2)
        v_fma2(r.f + i, v_widen(a.f + i), v_widen(b.f + i), v_widen(c.f + i));
    return r;
#endif
}
static inline vf v_fnma(vf a, vf b, vf c)
{
    vf negated;
    for (int i = 0; i < 16; i++)
        negated.f[i] = -a.f[i];
    return v_fma(negated, b, c);
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

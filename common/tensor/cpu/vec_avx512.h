/* vec_avx512: sixteen fp32 lanes in one AVX-512 register. The same functions as vec_avx2.h and
 * vec_generic.h, each correctly rounded per lane, so the three give the same bits.
 * v_max(a, b) is a > b ? a : b and v_min(a, b) is a < b ? a : b: the second operand wins on NaN. */
#ifndef SPIN_TENSOR_VEC_H
#define SPIN_TENSOR_VEC_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef __m512 vf;

static inline vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
/* the first n lanes; zero above */
static inline vf v_loadn(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
static inline void v_storen(float *p, vf v, size_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}
static inline vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}
static inline vf v_zero(void)
{
    return _mm512_setzero_ps();
}
static inline vf v_iota(void)
{
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
static inline vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
static inline vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
static inline vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
static inline vf v_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
/* a·b + c, rounded once */
static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* c − a·b, rounded once */
static inline vf v_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
static inline vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
/* a > b ? x : y */
static inline vf v_select_gt(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
/* x < limit ? 0 : y */
static inline vf v_zero_below(vf y, vf x, float limit)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), y);
}
/* lanes from ≤ i < to keep v, the others get fill; any integers */
static inline vf v_keep(vf v, ptrdiff_t from, ptrdiff_t to, float fill)
{
    uint32_t low = from <= 0 ? 0xffffu : from >= 16 ? 0 : 0xffffu << from;
    uint32_t high = to >= 16 ? 0xffffu : to <= 0 ? 0 : (1u << to) - 1;
    return _mm512_mask_blend_ps((__mmask16)(low & high), _mm512_set1_ps(fill), v);
}
/* p · 2^n, where z = n + 1.5·2^23; in two steps, so that n = 128 works */
static inline vf v_scale2(vf p, vf z)
{
    __m512i n = _mm512_sub_epi32(_mm512_castps_si512(z), _mm512_set1_epi32(0x4b400000));
    __m512i half = _mm512_srai_epi32(n, 1), rest = _mm512_sub_epi32(n, half);
    __m512i bias = _mm512_set1_epi32(127);
    vf s1 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
    vf s2 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23));
    return _mm512_mul_ps(_mm512_mul_ps(p, s1), s2);
}

#endif

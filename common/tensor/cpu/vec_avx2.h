/* vec_avx2: sixteen fp32 lanes in two AVX2 registers. See vec_avx512.h for what each does. */
#ifndef SPIN_TENSOR_VEC_H
#define SPIN_TENSOR_VEC_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    __m256 lo, hi;
} vf;

static inline __m256i v_lanes(ptrdiff_t from, ptrdiff_t to, int first)
{
    from = from < 0 ? 0 : from > 16 ? 16 : from;
    to = to < 0 ? 0 : to > 16 ? 16 : to;
    __m256i i =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)from), i),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32((int)to), i));
}
static inline vf v_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline void v_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
static inline vf v_loadn(const float *p, size_t n)
{
    return (vf){_mm256_maskload_ps(p, v_lanes(0, (ptrdiff_t)n, 0)),
                _mm256_maskload_ps(p + 8, v_lanes(0, (ptrdiff_t)n, 8))};
}
static inline void v_storen(float *p, vf v, size_t n)
{
    _mm256_maskstore_ps(p, v_lanes(0, (ptrdiff_t)n, 0), v.lo);
    _mm256_maskstore_ps(p + 8, v_lanes(0, (ptrdiff_t)n, 8), v.hi);
}
static inline vf v_set1(float x)
{
    return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
static inline vf v_zero(void)
{
    return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
static inline vf v_iota(void)
{
    return (vf){_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7),
                _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15)};
}
static inline vf v_add(vf a, vf b)
{
    return (vf){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline vf v_sub(vf a, vf b)
{
    return (vf){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
static inline vf v_mul(vf a, vf b)
{
    return (vf){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline vf v_div(vf a, vf b)
{
    return (vf){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline vf v_sqrt(vf a)
{
    return (vf){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}
static inline vf v_fma(vf a, vf b, vf c)
{
    return (vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline vf v_fnma(vf a, vf b, vf c)
{
    return (vf){_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
static inline vf v_max(vf a, vf b)
{
    return (vf){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline vf v_min(vf a, vf b)
{
    return (vf){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
static inline vf v_select_gt(vf a, vf b, vf x, vf y)
{
    return (vf){_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)),
                _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))};
}
static inline vf v_zero_below(vf y, vf x, float limit)
{
    __m256 l = _mm256_set1_ps(limit);
    return (vf){_mm256_and_ps(y.lo, _mm256_cmp_ps(x.lo, l, _CMP_NLT_UQ)),
                _mm256_and_ps(y.hi, _mm256_cmp_ps(x.hi, l, _CMP_NLT_UQ))};
}
static inline vf v_keep(vf v, ptrdiff_t from, ptrdiff_t to, float fill)
{
    __m256 f = _mm256_set1_ps(fill);
    return (vf){_mm256_blendv_ps(f, v.lo, _mm256_castsi256_ps(v_lanes(from, to, 0))),
                _mm256_blendv_ps(f, v.hi, _mm256_castsi256_ps(v_lanes(from, to, 8)))};
}
static inline __m256 v_scale2_half(__m256 p, __m256 z)
{
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(z), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(n, 1), rest = _mm256_sub_epi32(n, half);
    __m256i bias = _mm256_set1_epi32(127);
    __m256 s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 s2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, s1), s2);
}
static inline vf v_scale2(vf p, vf z)
{
    return (vf){v_scale2_half(p.lo, z.lo), v_scale2_half(p.hi, z.hi)};
}

#endif

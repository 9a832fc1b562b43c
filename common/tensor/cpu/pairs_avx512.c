/* pairs_avx512: products of bf16 pairs with AVX-512 without VDPBF16PS; see pairs_fma.h. */
#define K_MR 14
#define K_NR 32
#define K_VEC __m512
#define K_ZERO _mm512_setzero_ps()
#define K_SET1(x) _mm512_set1_ps(x)
#define K_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define K_LOADU(p) _mm512_loadu_ps(p)
#define K_STOREU(p, v) _mm512_storeu_ps(p, v)
#define K_HIGH(p)                                                                                  \
    _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(-65536)))
#define K_LOW(p) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))
#include "common/tensor/cpu/pairs_fma.h"

ONE(one, 1, READ_HALF)
ONE(one, 2, READ_HALF)
ONE(one, 3, READ_HALF)
ONE(one, 4, READ_HALF)
ONE(one, 5, READ_HALF)
ONE(one, 6, READ_HALF)
ONE(one, 7, READ_HALF)
ONE(one, 8, READ_HALF)
ONE(one, 9, READ_HALF)
ONE(one, 10, READ_HALF)
ONE(one, 11, READ_HALF)
ONE(one, 12, READ_HALF)
ONE(one, 13, READ_HALF)
ONE(one, 14, READ_HALF)
static panels_fn *const one[] = {
    NULL,  one_1, one_2,  one_3,  one_4,  one_5,  one_6,  one_7,
    one_8, one_9, one_10, one_11, one_12, one_13, one_14,
};

static void k_panels(int32_t m, int32_t panels, size_t depth, const void *x, size_t x_row,
                     const void *b, size_t step, size_t panel, size_t ahead, float *c, size_t ldc,
                     bool load)
{
    panels_of(one, m, panels, depth, x, x_row, b, step, panel, ahead, c, ldc, load);
}

const struct tn_pairs tn_pairs_avx512 = {
    .unit = sizeof(float), .round = k_round, .panels = k_panels};

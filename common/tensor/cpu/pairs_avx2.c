/* pairs_avx2: products of bf16 pairs with AVX2 and FMA; see pairs_fma.h. */
#define K_MR 6
#define K_NR 16
#define K_VEC __m256
#define K_ZERO _mm256_setzero_ps()
#define K_SET1(x) _mm256_broadcast_ss(&(x))
#define K_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define K_LOADU(p) _mm256_loadu_ps(p)
#define K_STOREU(p, v) _mm256_storeu_ps(p, v)
#define K_WORDS(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define K_HIGH(p) _mm256_castsi256_ps(_mm256_and_si256(K_WORDS(p), _mm256_set1_epi32(-65536)))
#define K_LOW(p) _mm256_castsi256_ps(_mm256_slli_epi32(K_WORDS(p), 16))
#include "common/tensor/cpu/pairs_fma.h"

ONE(one, 1, READ_HALF)
ONE(one, 2, READ_HALF)
ONE(one, 3, READ_HALF)
ONE(one, 4, READ_HALF)
ONE(one, 5, READ_HALF)
ONE(one, 6, READ_HALF)
static panels_fn *const one[] = {
    NULL, one_1, one_2, one_3, one_4, one_5, one_6,
};

static void k_panels(int32_t m, int32_t panels, size_t depth, const void *x, size_t x_row,
                     const void *b, size_t step, size_t panel, size_t ahead, float *c, size_t ldc,
                     bool load)
{
    panels_of(one, m, panels, depth, x, x_row, b, step, panel, ahead, c, ldc, load);
}

const struct tn_pairs tn_pairs_avx2 = {.unit = sizeof(float), .round = k_round, .panels = k_panels};

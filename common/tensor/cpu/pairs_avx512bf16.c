/* pairs_avx512bf16: products of bf16 pairs by VDPBF16PS, twice the multiply-adds of fp32 in a
 * cycle. An element of X, a word, is a pair. The instruction takes six cycles, so that up to six
 * rows go through two panels at a time. */
#include <immintrin.h>

#include "common/base/half.h"
#include "common/tensor/cpu/kern_unroll.h"
#include "common/tensor/cpu/pairs.h"

#define K_MR 14
#define K_NR 32
#define K_PAIR_ROWS 6
#define K_ELEMENT uint32_t
#define K_VEC __m512
#define K_ZERO _mm512_setzero_ps()
#define K_SET1(x) _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)(x)))
#define K_FMA(a, b, c)                                                                             \
    _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b))
#define K_LOADU(p) _mm512_loadu_ps(p)
#define K_STOREU(p, v) _mm512_storeu_ps(p, v)
#define ZERO(i) K_VEC c##i##_0 = K_ZERO, c##i##_1 = K_ZERO;
#define LOAD(i)                                                                                    \
    c##i##_0 = K_LOADU(c + i * ldc);                                                               \
    c##i##_1 = K_LOADU(c + i * ldc + 16);
#define STORE(i)                                                                                   \
    K_STOREU(c + i * ldc, c##i##_0);                                                               \
    K_STOREU(c + i * ldc + 16, c##i##_1);
#include "common/tensor/cpu/kern_panels.h"

#define READ(b0, b1, at)                                                                           \
    K_VEC b0 = _mm512_loadu_ps(at), b1 = _mm512_loadu_ps((at) + 64);                               \
    _mm_prefetch((const char *)((at) + ahead), _MM_HINT_T0);                                       \
    _mm_prefetch((const char *)((at) + ahead + 64), _MM_HINT_T0);
#define READ_ONE() READ(b0, b1, b)
#define READ_TWO() READ(b0, b1, b) READ(b2, b3, b + panel)

ONE(one, 1, READ_ONE)
ONE(one, 2, READ_ONE)
ONE(one, 3, READ_ONE)
ONE(one, 4, READ_ONE)
ONE(one, 5, READ_ONE)
ONE(one, 6, READ_ONE)
ONE(one, 7, READ_ONE)
ONE(one, 8, READ_ONE)
ONE(one, 9, READ_ONE)
ONE(one, 10, READ_ONE)
ONE(one, 11, READ_ONE)
ONE(one, 12, READ_ONE)
ONE(one, 13, READ_ONE)
ONE(one, 14, READ_ONE)
TWO(two, 1, READ_TWO)
TWO(two, 2, READ_TWO)
TWO(two, 3, READ_TWO)
TWO(two, 4, READ_TWO)
TWO(two, 5, READ_TWO)
TWO(two, 6, READ_TWO)
static panels_fn *const one[] = {
    NULL,  one_1, one_2,  one_3,  one_4,  one_5,  one_6,  one_7,
    one_8, one_9, one_10, one_11, one_12, one_13, one_14,
};
static panels_fn *const two[] = {
    NULL, two_1, two_2, two_3, two_4, two_5, two_6,
};

static void k_round(void *to, const float *x, size_t k)
{
    uint16_t *rounded = to;
    for (size_t i = 0; i < k; i++)
        rounded[i] = sp_f32_to_bf16(x[i]);
    if (k % 2)
        rounded[k] = 0;
}

static void k_panels(int32_t m, int32_t panels, size_t depth, const void *x, size_t x_row,
                     const void *b, size_t step, size_t panel, size_t ahead, float *c, size_t ldc,
                     bool load)
{
    const uint8_t *from = b;
    x_row /= sizeof(uint32_t);
    for (; m <= K_PAIR_ROWS && panels >= 2; panels -= 2, from += 2 * panel, c += 2 * K_NR)
        two[m](depth, x, x_row, from, step, panel, ahead, c, ldc, load);
    for (; panels > 0; panels--, from += panel, c += K_NR)
        one[m](depth, x, x_row, from, step, panel, ahead, c, ldc, load);
}

const struct tn_pairs tn_pairs_avx512bf16 = {
    .unit = sizeof(uint16_t), .round = k_round, .panels = k_panels};

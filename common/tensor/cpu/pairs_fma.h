/* pairs_fma: products of bf16 pairs by two multiply-adds in fp32, with denormals off. Included by
 * pairs_avx2.c and pairs_avx512.c, which say what a lane is and how many rows there are. A rounded
 * row is fp32, each pair's odd element first, so that elements are read in the order of the chain.
 */
#include <immintrin.h>
#include <string.h>

#include "common/base/half.h"
#include "common/tensor/cpu/kern_unroll.h"
#include "common/tensor/cpu/pairs.h"

#define DENORMALS_OFF 0x8040u /* of MXCSR: FTZ and DAZ */

#define ZERO(i) K_VEC c##i##_0 = K_ZERO, c##i##_1 = K_ZERO;
#define LOAD(i)                                                                                    \
    c##i##_0 = K_LOADU(c + i * ldc);                                                               \
    c##i##_1 = K_LOADU(c + i * ldc + K_NR / 2);
#define STORE(i)                                                                                   \
    K_STOREU(c + i * ldc, c##i##_0);                                                               \
    K_STOREU(c + i * ldc + K_NR / 2, c##i##_1);

static inline void k_round(void *to, const float *x, size_t k)
{
    float *rounded = to;
    size_t even = k / 2 * 2;
    for (size_t i = 0; i < even; i += 2) {
        rounded[i] = sp_bf16_to_f32(sp_f32_to_bf16(x[i + 1]));
        rounded[i + 1] = sp_bf16_to_f32(sp_f32_to_bf16(x[i]));
    }
    if (even < k) {
        rounded[even] = 0;
        rounded[even + 1] = sp_bf16_to_f32(sp_f32_to_bf16(x[even]));
    }
}

#define K_ELEMENT float
#define K_INNER(m, READ, STEP_)                                                                    \
    {READ(K_HIGH) ROWS_##m(STEP_)} x0++, x4++, x8++, x12++;                                        \
    {                                                                                              \
        READ(K_LOW) ROWS_##m(STEP_)                                                                \
    }
#include "common/tensor/cpu/kern_panels.h"

#define READ_HALF(half)                                                                            \
    K_VEC b0 = half(b), b1 = half(b + sizeof(K_VEC));                                              \
    _mm_prefetch((const char *)(b + ahead), _MM_HINT_T0);                                          \
    _mm_prefetch((const char *)(b + ahead + sizeof(K_VEC)), _MM_HINT_T0);

/* one: the kernels of 0 (none) to K_MR rows */
static void panels_of(panels_fn *const *one, int32_t m, int32_t panels, size_t depth, const void *x,
                      size_t x_row, const uint8_t *b, size_t step, size_t panel, size_t ahead,
                      float *c, size_t ldc, bool load)
{
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | DENORMALS_OFF);
    for (; panels > 0; panels--, b += panel, c += K_NR)
        one[m](depth, x, x_row / sizeof(float), b, step, panel, ahead, c, ldc, load);
    _mm_setcsr(mode);
}

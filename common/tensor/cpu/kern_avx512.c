/* kern_avx512: kernels for AVX-512 (F, VL, DQ, BW). Microkernel of 14 × 32: 28 accumulators, two
 * vectors of B, and broadcasts of A as memory operands. */
#include "common/tensor/cpu/kern.h"
#include "common/tensor/cpu/kern_unroll.h"
#include "common/tensor/cpu/vec_avx512.h"
#include "common/tensor/cpu/vmath.h"

#define K_ISA avx512
#define K_MR 14
#define K_NR 32

#define ZERO(i) __m512 c##i##_0 = _mm512_setzero_ps(), c##i##_1 = _mm512_setzero_ps();
#define LOAD(i)                                                                                    \
    c##i##_0 = _mm512_loadu_ps(c + i * ldc);                                                       \
    c##i##_1 = _mm512_loadu_ps(c + i * ldc + 16);
#define STEP(i)                                                                                    \
    {                                                                                              \
        __m512 x = _mm512_set1_ps(a[i]);                                                           \
        c##i##_0 = _mm512_fmadd_ps(x, b0, c##i##_0);                                               \
        c##i##_1 = _mm512_fmadd_ps(x, b1, c##i##_1);                                               \
    }
#define STORE(i)                                                                                   \
    _mm512_storeu_ps(c + i * ldc, c##i##_0);                                                       \
    _mm512_storeu_ps(c + i * ldc + 16, c##i##_1);

#define B_F32                                                                                      \
    __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);                                  \
    _mm_prefetch((const char *)(b + 16 * ldb), _MM_HINT_T0);                                       \
    _mm_prefetch((const char *)(b + 16 * ldb + 16), _MM_HINT_T0);

#define MICRO(name, m, type, LOAD_B)                                                               \
    static void name##_##m(size_t depth, const float *a, size_t lda, const type *b, size_t ldb,    \
                           float *c, size_t ldc, bool load)                                        \
    {                                                                                              \
        ROWS_##m(ZERO) if (load)                                                                   \
        {                                                                                          \
            ROWS_##m(LOAD)                                                                         \
        }                                                                                          \
        for (size_t k = 0; k < depth; k++, a += lda, b += ldb) {                                   \
            LOAD_B                                                                                 \
            ROWS_##m(STEP)                                                                         \
        }                                                                                          \
        ROWS_##m(STORE)                                                                            \
    }

MICRO(micro_f32, 1, float, B_F32)
MICRO(micro_f32, 2, float, B_F32)
MICRO(micro_f32, 3, float, B_F32)
MICRO(micro_f32, 4, float, B_F32)
MICRO(micro_f32, 5, float, B_F32)
MICRO(micro_f32, 6, float, B_F32)
MICRO(micro_f32, 7, float, B_F32)
MICRO(micro_f32, 8, float, B_F32)
MICRO(micro_f32, 9, float, B_F32)
MICRO(micro_f32, 10, float, B_F32)
MICRO(micro_f32, 11, float, B_F32)
MICRO(micro_f32, 12, float, B_F32)
MICRO(micro_f32, 13, float, B_F32)
MICRO(micro_f32, 14, float, B_F32)

typedef void micro_f32_fn(size_t, const float *, size_t, const float *, size_t, float *, size_t,
                          bool);

static micro_f32_fn *const micro_f32[] = {
    NULL,         micro_f32_1,  micro_f32_2,  micro_f32_3,  micro_f32_4,
    micro_f32_5,  micro_f32_6,  micro_f32_7,  micro_f32_8,  micro_f32_9,
    micro_f32_10, micro_f32_11, micro_f32_12, micro_f32_13, micro_f32_14,
};

static void k_micro(int32_t m, size_t depth, const float *a, size_t lda, const float *b, size_t ldb,
                    float *c, size_t ldc, bool load)
{
    micro_f32[m](depth, a, lda, b, ldb, c, ldc, load);
}

/* --- products with packed weights: see kern_panels.h --- */

#define K_ELEMENT float
#define K_VEC __m512
#define K_ZERO _mm512_setzero_ps()
#define K_SET1(x) _mm512_set1_ps(x)
#define K_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define K_LOADU(p) _mm512_loadu_ps(p)
#define K_STOREU(p, v) _mm512_storeu_ps(p, v)
#include "common/tensor/cpu/kern_panels.h"

#define READ_F32(b0, b1, at)                                                                       \
    K_VEC b0 = _mm512_loadu_ps(at), b1 = _mm512_loadu_ps((at) + 64);                               \
    _mm_prefetch((const char *)((at) + ahead), _MM_HINT_T0);                                       \
    _mm_prefetch((const char *)((at) + ahead + 64), _MM_HINT_T0);
#define READ_B16(b0, b1, at)                                                                       \
    __m512i b0##w = _mm512_loadu_si512(at);                                                        \
    K_VEC b0 = _mm512_castsi512_ps(_mm512_slli_epi32(b0##w, 16));                                  \
    K_VEC b1 = _mm512_castsi512_ps(_mm512_and_si512(b0##w, _mm512_set1_epi32(-65536)));            \
    _mm_prefetch((const char *)((at) + ahead), _MM_HINT_T0);
#define ONE_F32() READ_F32(b0, b1, b)
#define TWO_F32() READ_F32(b0, b1, b) READ_F32(b2, b3, b + panel)
#define ONE_B16() READ_B16(b0, b1, b)
#define TWO_B16() READ_B16(b0, b1, b) READ_B16(b2, b3, b + panel)

ONE(one_f32, 1, ONE_F32)
ONE(one_f32, 2, ONE_F32)
ONE(one_f32, 3, ONE_F32)
ONE(one_f32, 4, ONE_F32)
ONE(one_f32, 5, ONE_F32)
ONE(one_f32, 6, ONE_F32)
ONE(one_f32, 7, ONE_F32)
ONE(one_f32, 8, ONE_F32)
ONE(one_f32, 9, ONE_F32)
ONE(one_f32, 10, ONE_F32)
ONE(one_f32, 11, ONE_F32)
ONE(one_f32, 12, ONE_F32)
ONE(one_f32, 13, ONE_F32)
ONE(one_f32, 14, ONE_F32)
ONE(one_b16, 1, ONE_B16)
ONE(one_b16, 2, ONE_B16)
ONE(one_b16, 3, ONE_B16)
ONE(one_b16, 4, ONE_B16)
ONE(one_b16, 5, ONE_B16)
ONE(one_b16, 6, ONE_B16)
ONE(one_b16, 7, ONE_B16)
ONE(one_b16, 8, ONE_B16)
ONE(one_b16, 9, ONE_B16)
ONE(one_b16, 10, ONE_B16)
ONE(one_b16, 11, ONE_B16)
ONE(one_b16, 12, ONE_B16)
ONE(one_b16, 13, ONE_B16)
ONE(one_b16, 14, ONE_B16)
TWO(two_f32, 1, TWO_F32)
TWO(two_f32, 2, TWO_F32)
TWO(two_f32, 3, TWO_F32)
TWO(two_f32, 4, TWO_F32)
TWO(two_f32, 5, TWO_F32)
TWO(two_f32, 6, TWO_F32)
TWO(two_b16, 1, TWO_B16)
TWO(two_b16, 2, TWO_B16)
TWO(two_b16, 3, TWO_B16)
TWO(two_b16, 4, TWO_B16)
TWO(two_b16, 5, TWO_B16)
TWO(two_b16, 6, TWO_B16)
static panels_fn *const one_f32[] = {
    NULL,      one_f32_1, one_f32_2,  one_f32_3,  one_f32_4,  one_f32_5,  one_f32_6,  one_f32_7,
    one_f32_8, one_f32_9, one_f32_10, one_f32_11, one_f32_12, one_f32_13, one_f32_14,
};
static panels_fn *const one_b16[] = {
    NULL,      one_b16_1, one_b16_2,  one_b16_3,  one_b16_4,  one_b16_5,  one_b16_6,  one_b16_7,
    one_b16_8, one_b16_9, one_b16_10, one_b16_11, one_b16_12, one_b16_13, one_b16_14,
};
static panels_fn *const two_f32[] = {
    NULL, two_f32_1, two_f32_2, two_f32_3, two_f32_4, two_f32_5, two_f32_6,
};
static panels_fn *const two_b16[] = {
    NULL, two_b16_1, two_b16_2, two_b16_3, two_b16_4, two_b16_5, two_b16_6,
};

#define K_PAIR_ROWS 6

static void k_panels(int32_t m, int32_t panels, size_t depth, const float *x, size_t x_row,
                     const void *b, size_t step, size_t panel, bool bf16, size_t ahead, float *c,
                     size_t ldc, bool load)
{
    const uint8_t *from = b;
    panels_fn *two = m > K_PAIR_ROWS ? NULL : bf16 ? two_b16[m] : two_f32[m];
    panels_fn *one = bf16 ? one_b16[m] : one_f32[m];
    for (; two && panels >= 2; panels -= 2, from += 2 * panel, c += 2 * K_NR)
        two(depth, x, x_row, from, step, panel, ahead, c, ldc, load);
    for (; panels > 0; panels--, from += panel, c += K_NR)
        one(depth, x, x_row, from, step, panel, ahead, c, ldc, load);
}

/* rows ≤ 16 of cols ≤ 16 floats */
static inline void transpose_block(float *to, size_t ldto, const float *from, size_t ldfrom,
                                   int32_t rows, int32_t cols)
{
    __m512 r[16], t[16];
    __mmask16 in = (__mmask16)((1u << cols) - 1), out = (__mmask16)((1u << rows) - 1);
    for (int i = 0; i < 16; i++)
        r[i] =
            i < rows ? _mm512_maskz_loadu_ps(in, from + (size_t)i * ldfrom) : _mm512_setzero_ps();
    for (int i = 0; i < 16; i += 2) { /* pairs of rows: a0 b0 a1 b1 | a2 b2 a3 b3 in each quarter */
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* four rows: quarter q of r[i + j] holds column 4q + j */
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) { /* quarters of eight rows, then of all */
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
    for (int i = 0; i < 16; i++)
        if (i < cols)
            _mm512_mask_storeu_ps(to + (size_t)i * ldto, out, r[i]);
}

static void k_transpose(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t rows,
                        int32_t cols)
{
    for (int32_t row = 0; row < rows; row += 16)
        for (int32_t col = 0; col < cols; col += 16)
            transpose_block(to + (size_t)col * ldto + row, ldto, from + (size_t)row * ldfrom + col,
                            ldfrom, rows - row < 16 ? rows - row : 16,
                            cols - col < 16 ? cols - col : 16);
}

static void k_copy(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t cols,
                   int32_t depth)
{
    uint32_t mask = cols >= 32 ? UINT32_MAX : (1u << cols) - 1;
    __mmask16 low = (__mmask16)mask, high = (__mmask16)(mask >> 16);
    for (; depth > 0; depth--, to += ldto, from += ldfrom) {
        _mm512_mask_storeu_ps(to, low, _mm512_maskz_loadu_ps(low, from));
        _mm512_mask_storeu_ps(to + 16, high, _mm512_maskz_loadu_ps(high, from + 16));
    }
}

#include "common/tensor/cpu/kern_body.h"

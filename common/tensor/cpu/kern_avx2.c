/* kern_avx2: kernels for AVX2 with FMA. Microkernel of 6 × 16: 12 accumulators, two vectors of B
 * and a broadcast of A. */
#include "common/tensor/cpu/kern.h"
#include "common/tensor/cpu/kern_unroll.h"
#include "common/tensor/cpu/vec_avx2.h"
#include "common/tensor/cpu/vmath.h"

#define K_ISA avx2
#define K_MR 6
#define K_NR 16

#define ZERO(i) __m256 c##i##_0 = _mm256_setzero_ps(), c##i##_1 = _mm256_setzero_ps();
#define LOAD(i)                                                                                    \
    c##i##_0 = _mm256_loadu_ps(c + i * ldc);                                                       \
    c##i##_1 = _mm256_loadu_ps(c + i * ldc + 8);
#define STEP(i)                                                                                    \
    {                                                                                              \
        __m256 x = _mm256_broadcast_ss(a + i);                                                     \
        c##i##_0 = _mm256_fmadd_ps(x, b0, c##i##_0);                                               \
        c##i##_1 = _mm256_fmadd_ps(x, b1, c##i##_1);                                               \
    }
#define STORE(i)                                                                                   \
    _mm256_storeu_ps(c + i * ldc, c##i##_0);                                                       \
    _mm256_storeu_ps(c + i * ldc + 8, c##i##_1);

#define B_F32                                                                                      \
    __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);                                   \
    _mm_prefetch((const char *)(b + 16 * ldb), _MM_HINT_T0);

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

typedef void micro_f32_fn(size_t, const float *, size_t, const float *, size_t, float *, size_t,
                          bool);

static micro_f32_fn *const micro_f32[] = {
    NULL, micro_f32_1, micro_f32_2, micro_f32_3, micro_f32_4, micro_f32_5, micro_f32_6,
};

static void k_micro(int32_t m, size_t depth, const float *a, size_t lda, const float *b, size_t ldb,
                    float *c, size_t ldc, bool load)
{
    micro_f32[m](depth, a, lda, b, ldb, c, ldc, load);
}

/* --- products with packed weights: see kern_panels.h --- */

#define K_ELEMENT float
#define K_VEC __m256
#define K_ZERO _mm256_setzero_ps()
#define K_SET1(x) _mm256_broadcast_ss(&(x))
#define K_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define K_LOADU(p) _mm256_loadu_ps(p)
#define K_STOREU(p, v) _mm256_storeu_ps(p, v)
#include "common/tensor/cpu/kern_panels.h"

#define READ_F32(b0, b1, at)                                                                       \
    K_VEC b0 = _mm256_loadu_ps((const float *)(const void *)(at));                                 \
    K_VEC b1 = _mm256_loadu_ps((const float *)(const void *)((at) + 32));                          \
    _mm_prefetch((const char *)((at) + ahead), _MM_HINT_T0);
#define READ_B16(b0, b1, at)                                                                       \
    __m256i b0##w = _mm256_loadu_si256((const __m256i *)(const void *)(at));                       \
    K_VEC b0 = _mm256_castsi256_ps(_mm256_slli_epi32(b0##w, 16));                                  \
    K_VEC b1 = _mm256_castsi256_ps(_mm256_and_si256(b0##w, _mm256_set1_epi32(-65536)));            \
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
ONE(one_b16, 1, ONE_B16)
ONE(one_b16, 2, ONE_B16)
ONE(one_b16, 3, ONE_B16)
ONE(one_b16, 4, ONE_B16)
ONE(one_b16, 5, ONE_B16)
ONE(one_b16, 6, ONE_B16)
TWO(two_f32, 1, TWO_F32)
TWO(two_f32, 2, TWO_F32)
TWO(two_b16, 1, TWO_B16)
TWO(two_b16, 2, TWO_B16)
static panels_fn *const one_f32[] = {
    NULL, one_f32_1, one_f32_2, one_f32_3, one_f32_4, one_f32_5, one_f32_6,
};
static panels_fn *const one_b16[] = {
    NULL, one_b16_1, one_b16_2, one_b16_3, one_b16_4, one_b16_5, one_b16_6,
};
static panels_fn *const two_f32[] = {
    NULL,
    two_f32_1,
    two_f32_2,
};
static panels_fn *const two_b16[] = {
    NULL,
    two_b16_1,
    two_b16_2,
};

#define K_PAIR_ROWS 2

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

/* rows ≤ 8 of 8 floats */
static inline void transpose_block(float *to, size_t ldto, const float *from, size_t ldfrom,
                                   int32_t rows)
{
    __m256 r[8], t[8];
    __m256i out = v_lanes(0, rows, 0);
    for (int i = 0; i < 8; i++)
        r[i] = i < rows ? _mm256_loadu_ps(from + (size_t)i * ldfrom) : _mm256_setzero_ps();
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) { /* half q of r[i + j] holds column 4q + j of four rows */
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) {
        if (rows == 8)
            _mm256_storeu_ps(to + (size_t)i * ldto, t[i]);
        else
            _mm256_maskstore_ps(to + (size_t)i * ldto, out, t[i]);
    }
}

static void k_transpose(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t rows,
                        int32_t cols)
{
    int32_t full = cols / 8 * 8;
    for (int32_t row = 0; row < rows; row += 8)
        for (int32_t col = 0; col < full; col += 8)
            transpose_block(to + (size_t)col * ldto + row, ldto, from + (size_t)row * ldfrom + col,
                            ldfrom, rows - row < 8 ? rows - row : 8);
    for (int32_t c = full; c < cols; c++)
        for (int32_t r = 0; r < rows; r++)
            to[(size_t)c * ldto + (size_t)r] = from[(size_t)r * ldfrom + (size_t)c];
}

static void k_copy(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t cols,
                   int32_t depth)
{
    if (cols == 16) {
        for (; depth > 0; depth--, to += ldto, from += ldfrom)
            v_store(to, v_load(from));
        return;
    }
    for (; depth > 0; depth--, to += ldto, from += ldfrom)
        v_storen(to, v_loadn(from, (size_t)cols), (size_t)cols);
}

#include "common/tensor/cpu/kern_body.h"

/* kern_generic: kernels in plain C, for machines without AVX2, and what the others are compared
 * with. */
#include "common/tensor/cpu/kern.h"
#include "common/tensor/cpu/vec_generic.h"
#include "common/tensor/cpu/vmath.h"

#define K_ISA generic
#define K_MR 4
#define K_NR 16

static void k_micro(int32_t m, size_t depth, const float *a, size_t lda, const float *b, size_t ldb,
                    float *c, size_t ldc, bool load)
{
    for (int32_t i = 0; i < m; i++) {
        vf sum = load ? v_load(c + (size_t)i * ldc) : v_zero();
        for (size_t k = 0; k < depth; k++)
            sum = v_fma(v_set1(a[k * lda + (size_t)i]), v_load(b + k * ldb), sum);
        v_store(c + (size_t)i * ldc, sum);
    }
}

static inline vf wide_row(const uint32_t *b)
{
    uint32_t bits[16];
    vf row;
    for (int j = 0; j < 8; j++) {
        bits[j] = b[j] << 16;
        bits[j + 8] = b[j] & 0xffff0000u;
    }
    memcpy(row.f, bits, sizeof(bits));
    return row;
}

static void k_panels(int32_t m, int32_t panels, size_t depth, const float *x, size_t x_row,
                     const void *b, size_t step, size_t panel, bool bf16, size_t ahead, float *c,
                     size_t ldc, bool load)
{
    (void)ahead;
    for (const uint8_t *from = b; panels > 0; panels--, from += panel, c += K_NR)
        for (int32_t i = 0; i < m; i++) {
            const float *row = x + (size_t)i * x_row;
            float *to = c + (size_t)i * ldc;
            vf sum = load ? v_load(to) : v_zero();
            for (size_t k = 0; k < depth; k++) {
                const void *at = from + k * step;
                sum = v_fma(v_set1(row[k]), bf16 ? wide_row(at) : v_load(at), sum);
            }
            v_store(to, sum);
        }
}

static void k_transpose(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t rows,
                        int32_t cols)
{
    for (int32_t c = 0; c < cols; c++)
        for (int32_t r = 0; r < rows; r++)
            to[(size_t)c * ldto + (size_t)r] = from[(size_t)r * ldfrom + (size_t)c];
}

static void k_copy(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t cols,
                   int32_t depth)
{
    for (; depth > 0; depth--, to += ldto, from += ldfrom)
        memcpy(to, from, (size_t)cols * sizeof(float));
}

#include "common/tensor/cpu/kern_body.h"

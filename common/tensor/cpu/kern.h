/* kern: the kernels that are compiled once for each instruction set (generic, AVX2, AVX-512) from
 * the same sources. Everything above them is ordinary C without flags; nothing here knows threads.
 * All variants give the same bits: each lane's operations are correctly rounded and their order is
 * written down. Rows and columns are contiguous unless a stride is given, strides are in floats. */
#ifndef SPIN_TENSOR_KERN_H
#define SPIN_TENSOR_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/tensor/backend.h"

#define TN_MAX_MR 14
#define TN_MAX_NR 32

struct tn_kern {
    int32_t mr, nr; /* microkernel: at most mr rows, nr columns (a multiple of TN_LANES) */

    /* C(m × nr) = A·B or, with load, C + A·B: for each output the chain of fused multiply-adds over
     * k = 0 … depth-1, begun at 0 or at C. A[k][i] is a[k·lda + i], B[k][j] is b[k·ldb + j]. */
    void (*micro)(int32_t m, size_t depth, const float *a, size_t lda, const float *b, size_t ldb,
                  float *c, size_t ldc, bool load);
    /* C(m × panels·nr) = X·B or C + X·B, the same chains: X[i][k] is x[i·x_row + k]; row k of B's
     * panel p lies p·panel + k·step bytes from b, as nr floats, or in bf16 as nr/2 words: word j
     * holds column j (low half) and j + nr/2 (high). What lies `ahead` bytes further in B is
     * fetched into the cache; it need not exist. */
    void (*panels)(int32_t m, int32_t panels, size_t depth, const float *x, size_t x_row,
                   const void *b, size_t step, size_t panel, bool bf16, size_t ahead, float *c,
                   size_t ldc, bool load);
    /* to[c·ldto + r] = from[r·ldfrom + c]; nothing else is written. */
    void (*transpose)(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t rows,
                      int32_t cols);

    /* depth rows of cols ≤ nr floats */
    void (*copy)(float *to, size_t ldto, const float *from, size_t ldfrom, int32_t cols,
                 int32_t depth);

    void (*add)(float *y, const float *x, size_t n);
    void (*exp)(float *y, const float *x, size_t n);
    float (*dot)(const float *a, const float *b, size_t n);
    void (*rmsnorm)(float *y, float *rstd, const float *x, const float *w, int32_t T, int32_t D,
                    float eps);
    void (*rmsnorm_dx)(float *dx, const float *dy, const float *x, const float *w,
                       const float *rstd, int32_t T, int32_t D);
    /* columns [from, to) of dw, rows in order */
    void (*rmsnorm_dw)(float *dw, const float *dy, const float *x, const float *rstd, int32_t T,
                       int32_t D, int32_t from, int32_t to);
    void (*affine)(float *y, const float *x, float scale, float shift, size_t n);
    /* stats: mean and rstd of each row */
    void (*layernorm)(float *y, float *stats, const float *x, const float *w, const float *b,
                      int32_t T, int32_t D, float eps);
    void (*layernorm_dx)(float *dx, const float *dy, const float *x, const float *w,
                         const float *stats, int32_t T, int32_t D);
    void (*layernorm_dw)(float *dw, const float *dy, const float *x, const float *stats, int32_t T,
                         int32_t D, int32_t from, int32_t to);
    /* rotary: dimensions of a head that turn, even */
    void (*rope)(float *x, int32_t T, int32_t heads, int32_t C, int32_t stride,
                 const int32_t *positions, const float *cos, const float *sin, bool inverse,
                 int32_t rotary);
    void (*geglu)(float *y, const float *gu, int32_t T, int32_t F);
    void (*geglu_bwd)(float *dgu, const float *dy, const float *gu, int32_t T, int32_t F);
    void (*gelu)(float *y, const float *x, size_t n, bool tanh);
    void (*gelu_bwd)(float *dx, const float *dy, const float *x, size_t n, bool tanh);
    void (*swiglu)(float *y, const float *gu, int32_t T, int32_t F);
    void (*swiglu_bwd)(float *dgu, const float *dy, const float *gu, int32_t T, int32_t F);

    /* Row of scores, in place; entry i is logical key base + i (base a multiple of TN_LANES), n a
     * multiple of TN_LANES, keys [from, to) are seen. Leaves exp(scale·s − max), 0 where unseen. */
    void (*softmax)(float *s, size_t base, size_t n, size_t from, size_t to, float scale,
                    float *ret_max, float *ret_sum);
    /* p = exp(scale·s − lse) in place of s, ds = p·(dp − dsum)·scale in place of dp; 0 unseen. */
    void (*softmax_bwd)(float *s, float *dp, size_t base, size_t n, size_t from, size_t to,
                        float scale, float lse, float dsum);

    /* x = cap·tanh(scale·x / cap) */
    void (*softcap)(float *x, size_t n, float scale, float cap);
    /* softmax_bwd for scores that were capped: lse is that of capped scores */
    void (*softmax_bwd_capped)(float *s, float *dp, size_t base, size_t n, size_t from, size_t to,
                               float scale, float cap, float lse, float dsum);

    /* maximum; the lowest index of it in *ret_index unless NULL */
    float (*row_max)(const float *x, size_t n, int32_t *ret_index);
    /* Σ exp(scale·(x_i − shift)), n any; element i in lane i % 16 */
    float (*row_sum_exp)(const float *x, size_t n, float shift, float scale);
    /* y_i = exp(scale·(x_i − shift)) */
    void (*row_exp)(float *y, const float *x, size_t n, float shift, float scale);
    /* x_i = factor · exp(x_i − lse), in place */
    void (*row_softmax_scaled)(float *x, size_t n, float lse, float factor);

    /* The same times 1 − (x_i / cap)², the slope of softcap where it gave x_i. */
    void (*row_softmax_scaled_capped)(float *x, size_t n, float lse, float factor, float cap);

    double (*sum_squares)(const float *x, size_t n); /* element i in lane i % 16, in double */
    void (*rmsprop)(float *w, const float *g, float *v, size_t n, const struct tn_rmsprop *);
    /* correction1 = 1 − beta1^step, correction2 = 1 − beta2^step */
    void (*adamw)(float *w, const float *g, float *m, float *v, size_t n, const struct tn_adamw *,
                  float correction1, float correction2);
};

extern const struct tn_kern tn_kern_generic;
#if defined(__x86_64__)
extern const struct tn_kern tn_kern_avx2;
extern const struct tn_kern tn_kern_avx512;
#endif

#endif

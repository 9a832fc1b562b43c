/* gemm: the operations on matrices as products, which product.c makes; those with weights that were
 * packed before are in packed.c. */
#include "common/tensor/cpu/cpu.h"

void tn_cpu_linear(struct tn_backend *backend, void *y, const void *x, const void *w, int32_t T,
                   int32_t N, int32_t K, bool accumulate)
{
    struct tn_gemm g = {.M = T,
                        .N = N,
                        .K = K,
                        .a = x,
                        .a_row = (size_t)K,
                        .a_col = 1,
                        .b = w,
                        .b_row = 1,
                        .b_col = (size_t)K,
                        .c = y,
                        .accumulate = accumulate};
    tn_gemm_run(tn_cpu_of(backend), &g);
}

void tn_cpu_linear_bwd_x(struct tn_backend *backend, void *dx, const void *dy, const void *w,
                         int32_t T, int32_t N, int32_t K, bool accumulate)
{
    struct tn_gemm g = {.M = T,
                        .N = K,
                        .K = N,
                        .a = dy,
                        .a_row = (size_t)N,
                        .a_col = 1,
                        .b = w,
                        .b_row = (size_t)K,
                        .b_col = 1,
                        .c = dx,
                        .accumulate = accumulate};
    tn_gemm_run(tn_cpu_of(backend), &g);
}

void tn_cpu_linear_bwd_w(struct tn_backend *backend, void *dw, const void *dy, const void *x,
                         int32_t T, int32_t N, int32_t K)
{
    struct tn_gemm g = {.M = N,
                        .N = K,
                        .K = T,
                        .a = dy,
                        .a_row = 1,
                        .a_col = (size_t)N,
                        .b = x,
                        .b_row = (size_t)K,
                        .b_col = 1,
                        .c = dw,
                        .accumulate = true};
    tn_gemm_run(tn_cpu_of(backend), &g);
}

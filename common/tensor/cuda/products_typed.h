/* products_typed: kernels of the products with types (products_typed.cu), as kernels.h has them. */
#ifndef SPIN_TENSOR_CUDA_PRODUCTS_TYPED_H
#define SPIN_TENSOR_CUDA_PRODUCTS_TYPED_H

#include "common/tensor/cuda/kernels.h"

/* C(M,N) = A·B with sums in fp32, each output one chain over k; A and B are bf16, C is fp32 or
 * bf16. What is `added`, unless NULL, is of C's form, may be C, and is widened and added at the
 * end, the sum rounded once. A[m][k] is a[m·a_row + k·a_col], B[k][n] is b[k·b_row + n·b_col]. */
struct gpu_typed_product {
    void *c;
    const void *added;
    const uint16_t *a, *b;
    size_t a_row, a_col, b_row, b_col;
    int32_t M, N, K, c_bf16;
};
GPU_HANDLE(gpu_typed_product);

/* Numbers in [-1, 1) as bf16, a function of the place and the seed. */
struct gpu_noise {
    uint16_t *to;
    size_t n;
    uint32_t seed, unused;
};
GPU_HANDLE(gpu_noise);

/* to = −from, bf16 */
struct gpu_negate {
    uint16_t *to;
    const uint16_t *from;
    size_t n;
};
GPU_HANDLE(gpu_negate);

#define GPU_DIFFER 2048 /* elements of a block */
struct gpu_differ {     /* *flag = 1 when a and b differ in a bit; else it stays */
    int32_t *flag;
    const uint16_t *a, *b;
    size_t n;
};
GPU_HANDLE(gpu_differ);

#endif

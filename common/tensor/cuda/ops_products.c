/* ops_products: matrix products as plain chains in fp32 (products.cu); those of "cuda" are in
 * ops_fast_products.c. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"

/* Weights of decoding, as they were given: (N, K), fp32 or bf16. */
struct tn_weights {
    int32_t N, K;
    enum tn_dtype dtype, rows;
    void *at;
};

static void plain(struct tn_cuda *cuda, const struct gpu_product *p)
{
    struct device_grid blocks = {cuda_parts((size_t)p->N, GPU_TILE),
                                 cuda_parts((size_t)p->M, GPU_TILE)};
    device_launch(cuda->device, gpu_product_kernel, blocks,
                  (struct device_grid){GPU_TILE, GPU_TILE}, p);
}

static void op_linear(struct tn_backend *b, void *y, const void *x, const void *w, int32_t T,
                      int32_t N, int32_t K, bool accumulate)
{
    struct gpu_product g = {.c = y,
                            .a = x,
                            .b = w,
                            .a_row = (size_t)K,
                            .a_col = 1,
                            .b_row = 1,
                            .b_col = (size_t)K,
                            .M = T,
                            .N = N,
                            .K = K,
                            .accumulate = accumulate};
    plain(tn_cuda_of(b), &g);
}

static void op_linear_bwd_x(struct tn_backend *b, void *dx, const void *dy, const void *w,
                            int32_t T, int32_t N, int32_t K, bool accumulate)
{
    struct gpu_product g = {.c = dx,
                            .a = dy,
                            .b = w,
                            .a_row = (size_t)N,
                            .a_col = 1,
                            .b_row = (size_t)K,
                            .b_col = 1,
                            .M = T,
                            .N = K,
                            .K = N,
                            .accumulate = accumulate};
    plain(tn_cuda_of(b), &g);
}

static void op_linear_bwd_w(struct tn_backend *b, void *dw, const void *dy, const void *x,
                            int32_t T, int32_t N, int32_t K)
{
    struct gpu_product g = {.c = dw,
                            .a = dy,
                            .b = x,
                            .a_row = 1,
                            .a_col = (size_t)N,
                            .b_row = (size_t)K,
                            .b_col = 1,
                            .M = N,
                            .N = K,
                            .K = T,
                            .accumulate = true};
    if (T > 0)
        plain(tn_cuda_of(b), &g);
}

/* --- weights of decoding --- */

static void op_weights_free(struct tn_backend *b, struct tn_weights *weights)
{
    if (!weights)
        return;
    device_free(tn_cuda_of(b)->device, weights->at);
    free(weights);
}

static struct tn_weights *op_weights_new(struct tn_backend *b, const void *w, int32_t N, int32_t K,
                                         enum tn_dtype dtype, enum tn_dtype rows)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t n = (size_t)N * (size_t)K, unit = tn_unit(dtype);
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    *weights = (struct tn_weights){.N = N, .K = K, .dtype = dtype, .rows = rows};
    weights->at = device_alloc(cuda->device, n * unit);
    if (!weights->at) {
        op_weights_free(b, weights);
        return NULL;
    }
    if (unit == 2)
        cuda_convert(cuda, weights->at, true, w, false, -0.0f, n);
    else
        device_copy(cuda->device, weights->at, w, n * unit);
    return weights;
}

static void op_linear_packed(struct tn_backend *b, void *y, const void *x,
                             const struct tn_weights *w, int32_t T)
{
    size_t k = (size_t)w->K;
    struct gpu_product g = {.c = y,
                            .a = x,
                            .b = w->at,
                            .a_row = k,
                            .a_col = 1,
                            .b_row = 1,
                            .b_col = k,
                            .M = T,
                            .N = w->N,
                            .K = w->K,
                            .b_bf16 = w->dtype == TN_BF16,
                            .pairs = w->rows == TN_BF16};
    plain(tn_cuda_of(b), &g);
}

void cuda_add_products(struct tn_ops *ops)
{
    ops->linear = op_linear;
    ops->linear_bwd_x = op_linear_bwd_x;
    ops->linear_bwd_w = op_linear_bwd_w;
    ops->weights_new = op_weights_new;
    ops->weights_free = op_weights_free;
    ops->linear_packed = op_linear_packed;
}

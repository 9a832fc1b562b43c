/* ops_products: matrix products: plain chains in fp32 (products.cu), or both factors rounded to
 * bf16 and multiplied by cublasLt. */
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

static void narrow(struct tn_cuda *cuda, uint16_t *to, const float *from, size_t n)
{
    struct gpu_narrow k = {.to = to, .from = from, .n = n};
    cuda_flat(cuda, gpu_narrow_kernel, n, &k);
}

static const uint16_t *narrowed(struct tn_cuda *cuda, enum cuda_block block, const float *from,
                                size_t n)
{
    uint16_t *to = cuda_scratch(cuda, block, n * sizeof(*to));
    narrow(cuda, to, from, n);
    return to;
}

/* A product of fp32 matrices in the backend's way. p: sizes, transpositions, c; its a and b are set
 * here. Where cublasLt has no algorithm the plain kernel multiplies what was rounded. */
static void product(struct tn_cuda *cuda, struct device_product *p, const float *a, const float *b)
{
    size_t m = (size_t)p->M, n = (size_t)p->N, k = (size_t)p->K;
    struct gpu_product g = {.c = p->c,
                            .a = a,
                            .b = b,
                            .a_row = p->a_transposed ? 1 : k,
                            .a_col = p->a_transposed ? m : 1,
                            .b_row = p->b_transposed ? 1 : n,
                            .b_col = p->b_transposed ? k : 1,
                            .M = p->M,
                            .N = p->N,
                            .K = p->K,
                            .accumulate = p->accumulate};
    if (p->M == 0 || p->N == 0)
        return;
    if (cuda->bf16) {
        p->a = narrowed(cuda, CUDA_NARROW_A, a, m * k);
        p->b = narrowed(cuda, CUDA_NARROW_B, b, k * n);
        if (device_product(cuda->device, p))
            return;
        g.b = p->b;
        g.b_bf16 = 1;
        g.a_bf16 = 1;
        g.a = p->a;
    }
    plain(cuda, &g);
}

static void op_linear(struct tn_backend *b, void *y, const void *x, const void *w, int32_t T,
                      int32_t N, int32_t K, bool accumulate)
{
    struct device_product p = {
        .c = y, .M = T, .N = N, .K = K, .b_transposed = true, .accumulate = accumulate};
    product(tn_cuda_of(b), &p, x, w);
}

static void op_linear_bwd_x(struct tn_backend *b, void *dx, const void *dy, const void *w,
                            int32_t T, int32_t N, int32_t K, bool accumulate)
{
    struct device_product p = {.c = dx, .M = T, .N = K, .K = N, .accumulate = accumulate};
    product(tn_cuda_of(b), &p, dy, w);
}

static void op_linear_bwd_w(struct tn_backend *b, void *dw, const void *dy, const void *x,
                            int32_t T, int32_t N, int32_t K)
{
    struct device_product p = {
        .c = dw, .M = N, .N = K, .K = T, .a_transposed = true, .accumulate = true};
    if (T > 0)
        product(tn_cuda_of(b), &p, dy, x);
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
    size_t n = (size_t)N * (size_t)K, unit = dtype == TN_BF16 || cuda->bf16 ? 2 : 4;
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    *weights = (struct tn_weights){.N = N, .K = K, .dtype = dtype, .rows = rows};
    weights->at = device_alloc(cuda->device, n * unit);
    if (!weights->at) {
        op_weights_free(b, weights);
        return NULL;
    }
    if (unit == 2)
        narrow(cuda, weights->at, w, n);
    else
        device_copy(cuda->device, weights->at, w, n * unit);
    return weights;
}

static void op_linear_packed(struct tn_backend *b, void *y, const void *x,
                             const struct tn_weights *w, int32_t T)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
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
                            .b_bf16 = w->dtype == TN_BF16 || cuda->bf16,
                            .pairs = w->rows == TN_BF16 && !cuda->bf16};
    if (T == 0)
        return;
    if (cuda->bf16) {
        struct device_product p = {
            .c = y, .b = w->at, .M = T, .N = w->N, .K = w->K, .b_transposed = true};
        p.a = narrowed(cuda, CUDA_NARROW_A, x, (size_t)T * k);
        if (device_product(cuda->device, &p))
            return;
        g.a = p.a;
        g.a_bf16 = 1;
    }
    plain(cuda, &g);
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

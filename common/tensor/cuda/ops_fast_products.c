/* ops_fast_products: matrix products of the backend "cuda": activations are bf16, parameters and
 * gradients bf16 or fp32, logits fp32. Factors in fp32 are rounded to bf16 in scratch at each use;
 * sums are fp32 (cublasLt's, or the plain kernel's where that has no algorithm), those with a
 * residual, too. Also what the device reaches at best in products and in copies, for benchmarks to
 * compare with. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/products_typed.h"

/* Weights of decoding: (N, K) as bf16, whatever they were asked to be: products round them. */
struct tn_weights {
    int32_t N, K;
    const void *at;
    void *own; /* `at`, or NULL: it is the model's */
};

static void plain(struct tn_cuda *cuda, const struct device_product *p)
{
    size_t m = (size_t)p->M, n = (size_t)p->N, k = (size_t)p->K;
    struct gpu_typed_product g = {.c = p->c,
                                  .added = p->added,
                                  .a = p->a,
                                  .b = p->b,
                                  .a_row = p->a_transposed ? 1 : k,
                                  .a_col = p->a_transposed ? m : 1,
                                  .b_row = p->b_transposed ? 1 : n,
                                  .b_col = p->b_transposed ? k : 1,
                                  .M = p->M,
                                  .N = p->N,
                                  .K = p->K,
                                  .c_bf16 = p->c_bf16};
    device_launch(cuda->device, gpu_typed_product_kernel,
                  (struct device_grid){cuda_parts(n, GPU_TILE), cuda_parts(m, GPU_TILE)},
                  (struct device_grid){GPU_TILE, GPU_TILE}, &g);
}

static void multiply(struct tn_cuda *cuda, const struct device_product *p)
{
    if (!device_product(cuda->device, p))
        plain(cuda, p);
}

static void narrow(struct tn_cuda *cuda, uint16_t *to, const float *from, size_t n)
{
    cuda_convert(cuda, to, true, from, false, -0.0f, n);
}

static const void *narrowed(struct tn_cuda *cuda, enum cuda_block block, const void *from, size_t n)
{
    uint16_t *to = cuda_scratch(cuda, block, n * sizeof(*to));
    narrow(cuda, to, from, n);
    return to;
}

/* Parameters as factors of products. */
static const void *factors(struct tn_backend *b, const void *w, int32_t N, int32_t K)
{
    if (b->weights == TN_BF16)
        return w;
    return narrowed(tn_cuda_of(b), CUDA_NARROW_B, w, (size_t)N * (size_t)K);
}

static const void *rounded_logits(struct tn_backend *b, const float *logits, int32_t T, int32_t N)
{
    return narrowed(tn_cuda_of(b), CUDA_NARROW_A, logits, (size_t)T * (size_t)N);
}

/* --- layers --- */

static void forward(struct tn_backend *b, void *y, bool y_bf16, const void *added, const void *x,
                    const void *w, int32_t T, int32_t N, int32_t K)
{
    struct device_product p = {.c = y,
                               .a = x,
                               .added = added,
                               .M = T,
                               .N = N,
                               .K = K,
                               .b_transposed = true,
                               .c_bf16 = y_bf16};
    if (T == 0)
        return;
    p.b = factors(b, w, N, K);
    multiply(tn_cuda_of(b), &p);
}

static void op_linear(struct tn_backend *b, void *y, const void *x, const void *w, int32_t T,
                      int32_t N, int32_t K, bool accumulate)
{
    forward(b, y, true, accumulate ? y : NULL, x, w, T, N, K);
}

static void op_linear_residual(struct tn_backend *b, void *y, const void *residual, const void *x,
                               const void *w, int32_t T, int32_t N, int32_t K)
{
    SP_ASSERT(y != residual); /* that would be another kind of product */
    forward(b, y, true, residual, x, w, T, N, K);
}

static void op_linear_bwd_x(struct tn_backend *b, void *dx, const void *dy, const void *w,
                            int32_t T, int32_t N, int32_t K, bool accumulate)
{
    struct device_product p = {
        .c = dx, .a = dy, .added = accumulate ? dx : NULL, .M = T, .N = K, .K = N, .c_bf16 = true};
    if (T == 0)
        return;
    p.b = factors(b, w, N, K);
    multiply(tn_cuda_of(b), &p);
}

static void op_linear_bwd_w(struct tn_backend *b, void *dw, const void *dy, const void *x,
                            int32_t T, int32_t N, int32_t K)
{
    struct device_product p = {.c = dw,
                               .a = dy,
                               .b = x,
                               .added = dw,
                               .M = N,
                               .N = K,
                               .K = T,
                               .a_transposed = true,
                               .c_bf16 = b->weights == TN_BF16};
    if (T > 0)
        multiply(tn_cuda_of(b), &p);
}

/* --- the output matrix --- */

static void op_head(struct tn_backend *b, float *logits, const void *x, const void *w, int32_t T,
                    int32_t N, int32_t K)
{
    forward(b, logits, false, NULL, x, w, T, N, K);
}

static void op_head_bwd_x(struct tn_backend *b, void *dx, const float *dlogits, const void *w,
                          int32_t T, int32_t N, int32_t K)
{
    if (T > 0)
        op_linear_bwd_x(b, dx, rounded_logits(b, dlogits, T, N), w, T, N, K, false);
}

static void op_head_bwd_w(struct tn_backend *b, void *dw, const float *dlogits, const void *x,
                          int32_t T, int32_t N, int32_t K)
{
    if (T > 0)
        op_linear_bwd_w(b, dw, rounded_logits(b, dlogits, T, N), x, T, N, K);
}

/* --- weights of decoding --- */

static void op_weights_free(struct tn_backend *b, struct tn_weights *weights)
{
    if (!weights)
        return;
    device_free(tn_cuda_of(b)->device, weights->own);
    free(weights);
}

static struct tn_weights *op_weights_new(struct tn_backend *b, const void *w, int32_t N, int32_t K,
                                         enum tn_dtype dtype, enum tn_dtype rows)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t n = (size_t)N * (size_t)K;
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    (void)dtype;
    (void)rows; /* are bf16 as they come */
    *weights = (struct tn_weights){.N = N, .K = K};
    weights->at = weights->own = device_alloc(cuda->device, n * sizeof(uint16_t));
    if (!weights->own) {
        op_weights_free(b, weights);
        return NULL;
    }
    if (b->weights == TN_BF16)
        device_copy(cuda->device, weights->own, w, n * sizeof(uint16_t));
    else
        narrow(cuda, weights->own, w, n);
    return weights;
}

static struct tn_weights *op_weights_view(struct tn_backend *b, const void *w, int32_t N, int32_t K)
{
    if (b->weights != TN_BF16)
        return NULL;
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    *weights = (struct tn_weights){.N = N, .K = K, .at = w};
    return weights;
}

static void multiply_packed(struct tn_backend *b, void *y, bool y_bf16, const void *added,
                            const void *x, const struct tn_weights *w, int32_t T)
{
    struct device_product p = {.c = y,
                               .a = x,
                               .b = w->at,
                               .added = added,
                               .M = T,
                               .N = w->N,
                               .K = w->K,
                               .b_transposed = true,
                               .c_bf16 = y_bf16};
    if (T > 0)
        multiply(tn_cuda_of(b), &p);
}

static void op_linear_packed(struct tn_backend *b, void *y, const void *x,
                             const struct tn_weights *w, int32_t T)
{
    multiply_packed(b, y, true, NULL, x, w, T);
}

static void op_linear_packed_residual(struct tn_backend *b, void *y, const void *residual,
                                      const void *x, const struct tn_weights *w, int32_t T,
                                      int32_t N)
{
    SP_ASSERT(y != residual && N == w->N);
    multiply_packed(b, y, true, residual, x, w, T);
}

static void op_head_packed(struct tn_backend *b, float *logits, const void *x,
                           const struct tn_weights *w, int32_t T)
{
    multiply_packed(b, logits, false, NULL, x, w, T);
}

/* --- what the device reaches: memory for it is none that work needs --- */

/* Random numbers: with zeros the device would draw less power and run faster. */
static void fill(struct tn_cuda *cuda, uint16_t *to, size_t n, uint32_t seed)
{
    struct gpu_noise k = {.to = to, .n = n, .seed = seed};
    cuda_flat(cuda, gpu_noise_kernel, n, &k);
}

/* Seconds of the fastest of a few products of matrices of side × side, after a first one. */
static double product_seconds(struct tn_cuda *cuda, uint16_t *m, int32_t side)
{
    enum { RUNS = 5 };
    size_t n = (size_t)side * (size_t)side;
    struct device_product p = {.c = m + 2 * n,
                               .a = m,
                               .b = m + n,
                               .M = side,
                               .N = side,
                               .K = side,
                               .b_transposed = true,
                               .c_bf16 = true};
    double least = 0.0;
    fill(cuda, m, 2 * n, 3);
    for (int i = 0; i <= RUNS; i++) {
        device_wait(cuda->device);
        double start = cuda_now();
        multiply(cuda, &p);
        device_wait(cuda->device);
        double seconds = cuda_now() - start;
        if (i == 1 || (i > 1 && seconds < least))
            least = seconds;
    }
    return least;
}

/* Sides up to what fills the largest device, as long as a product takes no time to speak of. */
static double op_probe(struct tn_backend *b)
{
    enum { LEAST_SIDE = 128, MOST_SIDE = 8192 };
    struct tn_cuda *cuda = tn_cuda_of(b);
    double best = 0.0, seconds = 0.0;
    struct device_usage before;
    device_usage(cuda->device, &before);
    for (int32_t side = LEAST_SIDE; side <= MOST_SIDE && seconds < 1e-4; side *= 4) {
        double operations = 2.0 * side * side * side;
        uint16_t *m = device_alloc(cuda->device, (size_t)3 * (size_t)side * (size_t)side * 2);
        if (!m)
            break;
        seconds = product_seconds(cuda, m, side);
        best = SP_MAX(best, operations / seconds);
        device_free(cuda->device, m);
    }
    device_set_peak(cuda->device, before.own_peak);
    return best;
}

/* A copy reads and writes each byte once. Blocks are larger than caches. */
static double op_bandwidth(struct tn_backend *b)
{
    enum { RUNS = 5 };
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t bytes = (size_t)1 << 30;
    uint8_t *memory = NULL;
    double best = 0.0;
    struct device_usage before;
    device_usage(cuda->device, &before);
    while (bytes >= (size_t)16 << 20 && !(memory = device_alloc(cuda->device, 2 * bytes)))
        bytes /= 2;
    for (int i = 0; memory && i <= RUNS; i++) {
        device_wait(cuda->device);
        double start = cuda_now();
        device_copy(cuda->device, memory + bytes, memory, bytes);
        device_wait(cuda->device);
        if (i > 0)
            best = SP_MAX(best, 2.0 * (double)bytes / (cuda_now() - start));
    }
    device_free(cuda->device, memory);
    device_set_peak(cuda->device, before.own_peak);
    return best;
}

void cuda_add_fast_products(struct tn_ops *ops)
{
    ops->linear = op_linear;
    ops->linear_residual = op_linear_residual;
    ops->linear_bwd_x = op_linear_bwd_x;
    ops->linear_bwd_w = op_linear_bwd_w;
    ops->head = op_head;
    ops->head_bwd_x = op_head_bwd_x;
    ops->head_bwd_w = op_head_bwd_w;
    ops->weights_new = op_weights_new;
    ops->weights_view = op_weights_view;
    ops->weights_free = op_weights_free;
    ops->linear_packed = op_linear_packed;
    ops->linear_packed_residual = op_linear_packed_residual;
    ops->head_packed = op_head_packed;
    ops->probe = op_probe;
    ops->bandwidth = op_bandwidth;
}

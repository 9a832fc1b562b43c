/* ops_rows: norms, what goes element by element. Kernels: norms.cu, pointwise.cu. */
#include "common/tensor/cuda/cuda.h"

static void op_embed(struct tn_backend *b, void *y, const void *table, const int32_t *ids,
                     int32_t T, int32_t D)
{
    struct gpu_work w = {.y = y, .a = table, .D = D, .n = (size_t)T * (size_t)D};
    if (T == 0)
        return;
    w.ids = cuda_ids(tn_cuda_of(b), ids, T);
    cuda_flat(tn_cuda_of(b), gpu_embed_kernel, w.n, &w);
}

static void op_embed_bwd(struct tn_backend *b, void *dtable, const void *dy, const int32_t *ids,
                         int32_t T, int32_t D, int32_t V)
{
    struct gpu_work w = {.y = dtable, .a = dy, .T = T, .D = D};
    (void)V;
    if (T == 0)
        return;
    w.ids = cuda_ids(tn_cuda_of(b), ids, T);
    cuda_flat(tn_cuda_of(b), gpu_embed_bwd_kernel, (size_t)D, &w);
}

static void op_add(struct tn_backend *b, void *y, const void *x, size_t n)
{
    struct gpu_work w = {.y = y, .a = x, .n = n};
    cuda_flat(tn_cuda_of(b), gpu_add_kernel, n, &w);
}

/* --- norms --- */

static void op_head_norm(struct tn_backend *b, void *y, float *rstd, const void *x, const float *w,
                         int32_t T, int32_t heads, int32_t C, int32_t stride, float eps)
{
    struct gpu_work k = {.y = y,
                         .y2 = rstd,
                         .a = x,
                         .b = w,
                         .n = (size_t)T * (size_t)heads,
                         .heads = heads,
                         .D = C,
                         .stride = (size_t)stride,
                         .p = eps};
    cuda_rows(tn_cuda_of(b), gpu_rmsnorm_kernel, k.n, &k);
}

static void op_rmsnorm(struct tn_backend *b, void *y, float *rstd, const void *x, const float *w,
                       int32_t T, int32_t D, float eps)
{
    op_head_norm(b, y, rstd, x, w, T, 1, D, D, eps);
}

/* accumulate: dx += …; else dx = …, and it is dy */
static void norm_bwd(struct tn_backend *b, float *dx, float *dw, const float *dy, const float *x,
                     const float *w, const float *rstd, int32_t T, int32_t heads, int32_t C,
                     int32_t stride, bool accumulate)
{
    struct gpu_work k = {.y = dw,
                         .a = dy,
                         .b = x,
                         .c = w,
                         .d = rstd,
                         .n = (size_t)T * (size_t)heads,
                         .heads = heads,
                         .D = C,
                         .stride = (size_t)stride,
                         .flag = accumulate};
    cuda_flat(tn_cuda_of(b), gpu_rmsnorm_dw_kernel, (size_t)C, &k);
    k.y = dx;
    cuda_rows(tn_cuda_of(b), gpu_rmsnorm_dx_kernel, k.n, &k);
}

static void op_head_norm_bwd(struct tn_backend *b, void *dy, void *dw, const void *x,
                             const float *w, const float *rstd, int32_t T, int32_t heads, int32_t C,
                             int32_t stride)
{
    norm_bwd(b, dy, dw, dy, x, w, rstd, T, heads, C, stride, false);
}

static void op_rmsnorm_bwd(struct tn_backend *b, void *dx, void *dw, const void *dy, const void *x,
                           const float *w, const float *rstd, int32_t T, int32_t D)
{
    norm_bwd(b, dx, dw, dy, x, w, rstd, T, 1, D, D, true);
}

static void op_layernorm(struct tn_backend *b, void *y, float *stats, const void *x, const float *w,
                         const float *bias, int32_t T, int32_t D, float eps)
{
    struct gpu_work k = {
        .y = y, .y2 = stats, .a = x, .b = w, .c = bias, .n = (size_t)T, .D = D, .p = eps};
    cuda_rows(tn_cuda_of(b), gpu_layernorm_kernel, k.n, &k);
}

static void op_layernorm_bwd(struct tn_backend *b, void *dx, void *dw, const void *dy,
                             const void *x, const float *w, const float *stats, int32_t T,
                             int32_t D)
{
    struct gpu_work k = {.y = dx, .a = dy, .b = x, .c = w, .d = stats, .n = (size_t)T, .D = D};
    cuda_rows(tn_cuda_of(b), gpu_layernorm_dx_kernel, k.n, &k);
    k.y = dw;
    cuda_flat(tn_cuda_of(b), gpu_layernorm_dw_kernel, (size_t)D, &k);
}

/* --- element by element --- */

static void op_rope(struct tn_backend *b, void *x, int32_t T, int32_t heads, int32_t C,
                    int32_t stride, const int32_t *positions, const float *cos, const float *sin,
                    bool inverse, int32_t rotary)
{
    struct gpu_work w = {.y = x,
                         .a = cos,
                         .b = sin,
                         .heads = heads,
                         .C = C,
                         .stride = (size_t)stride,
                         .rotary = rotary > 0 ? rotary : C,
                         .flag = inverse};
    if (T == 0)
        return;
    w.n = (size_t)T * (size_t)heads * (size_t)(w.rotary / 2);
    w.ids = cuda_ids(tn_cuda_of(b), positions, T);
    cuda_flat(tn_cuda_of(b), gpu_rope_kernel, w.n, &w);
}

static void op_affine(struct tn_backend *b, void *y, const void *x, float scale, float shift,
                      size_t n)
{
    struct gpu_work w = {.y = y, .a = x, .n = n, .p = scale, .q = shift};
    cuda_flat(tn_cuda_of(b), gpu_affine_kernel, n, &w);
}

static void op_bias(struct tn_backend *b, void *y, const float *bias, int32_t T, int32_t N)
{
    struct gpu_work w = {.y = y, .a = bias, .n = (size_t)T * (size_t)N, .D = N};
    cuda_flat(tn_cuda_of(b), gpu_bias_kernel, w.n, &w);
}

static void op_bias_bwd(struct tn_backend *b, void *db, const void *dy, int32_t T, int32_t N)
{
    struct gpu_work w = {.y = db, .a = dy, .T = T, .D = N};
    cuda_flat(tn_cuda_of(b), gpu_bias_bwd_kernel, (size_t)N, &w);
}

static void op_swiglu(struct tn_backend *b, void *y, const void *gu, int32_t T, int32_t F)
{
    struct gpu_work w = {.y = y, .a = gu, .n = (size_t)T * (size_t)F, .D = F};
    cuda_flat(tn_cuda_of(b), gpu_swiglu_kernel, w.n, &w);
}

static void op_swiglu_bwd(struct tn_backend *b, void *dgu, const void *dy, const void *gu,
                          int32_t T, int32_t F)
{
    struct gpu_work w = {.y = dgu, .a = gu, .b = dy, .n = (size_t)T * (size_t)F, .D = F};
    cuda_flat(tn_cuda_of(b), gpu_swiglu_bwd_kernel, w.n, &w);
}

static void op_geglu(struct tn_backend *b, void *y, const void *gu, int32_t T, int32_t F)
{
    struct gpu_work w = {.y = y, .a = gu, .n = (size_t)T * (size_t)F, .D = F};
    cuda_flat(tn_cuda_of(b), gpu_geglu_kernel, w.n, &w);
}

static void op_geglu_bwd(struct tn_backend *b, void *dgu, const void *dy, const void *gu, int32_t T,
                         int32_t F)
{
    struct gpu_work w = {.y = dgu, .a = gu, .b = dy, .n = (size_t)T * (size_t)F, .D = F};
    cuda_flat(tn_cuda_of(b), gpu_geglu_bwd_kernel, w.n, &w);
}

static void op_gelu(struct tn_backend *b, void *y, const void *x, size_t n, bool tanh)
{
    struct gpu_work w = {.y = y, .a = x, .n = n, .flag = tanh};
    cuda_flat(tn_cuda_of(b), gpu_gelu_kernel, n, &w);
}

static void op_gelu_bwd(struct tn_backend *b, void *dx, const void *dy, const void *x, size_t n,
                        bool tanh)
{
    struct gpu_work w = {.y = dx, .a = x, .b = dy, .n = n, .flag = tanh};
    cuda_flat(tn_cuda_of(b), gpu_gelu_bwd_kernel, n, &w);
}

static void op_softcap(struct tn_backend *b, float *x, float cap, size_t n)
{
    struct gpu_work w = {.y = x, .n = n, .p = cap};
    cuda_flat(tn_cuda_of(b), gpu_softcap_kernel, n, &w);
}

static double op_sum_squares(struct tn_backend *b, const void *x, size_t n)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t chunks = cuda_parts(n, GPU_CHUNK);
    struct gpu_squares s = {.x = x, .n = n};
    if (n == 0)
        return 0.0;
    s.sums = cuda_scratch(cuda, CUDA_RESULT, chunks * sizeof(double));
    device_launch(cuda->device, gpu_sum_squares_kernel, (struct device_grid){chunks, 1},
                  (struct device_grid){GPU_LANES, 1}, &s);
    return cuda_sum(cuda, s.sums, chunks);
}

void cuda_add_rows(struct tn_ops *ops)
{
    ops->embed = op_embed;
    ops->embed_bwd = op_embed_bwd;
    ops->add = op_add;
    ops->rmsnorm = op_rmsnorm;
    ops->rmsnorm_bwd = op_rmsnorm_bwd;
    ops->head_norm = op_head_norm;
    ops->head_norm_bwd = op_head_norm_bwd;
    ops->layernorm = op_layernorm;
    ops->layernorm_bwd = op_layernorm_bwd;
    ops->rope = op_rope;
    ops->affine = op_affine;
    ops->bias = op_bias;
    ops->bias_bwd = op_bias_bwd;
    ops->swiglu = op_swiglu;
    ops->swiglu_bwd = op_swiglu_bwd;
    ops->geglu = op_geglu;
    ops->geglu_bwd = op_geglu_bwd;
    ops->gelu = op_gelu;
    ops->gelu_bwd = op_gelu_bwd;
    ops->softcap = op_softcap;
    ops->sum_squares = op_sum_squares;
}

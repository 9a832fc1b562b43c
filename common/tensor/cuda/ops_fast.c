/* ops_fast: the operations of "cuda" that memory bounds, on activations of bf16, over those of
 * ops_rows.c. Kernels: fast_norms.cu, fast_pointwise.cu, fast_tables.cu. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/fast.h"

#define FEW_EIGHTS 65536 /* below it small blocks, so that more of the device works */
#define SMALL_BLOCK 64
#define RADIX_BITS 11
#define WARP 32 /* threads that are side by side in memory at least */

/* Whether eights of these addresses and of rows of so many elements are accesses of 16 bytes. */
static bool is_wide(const void *const *addresses, size_t n, size_t row)
{
    bool wide = row % GPU_EIGHT == 0;
    for (size_t i = 0; i < n; i++)
        wide = wide && (uintptr_t)addresses[i] % 16 == 0;
    return wide;
}
#define WIDE(row, ...)                                                                             \
    is_wide((const void *const[]){__VA_ARGS__}, SP_COUNT(((const void *const[]){__VA_ARGS__})), row)

static bool stored_bf16(const struct tn_backend *b)
{
    return b->weights == TN_BF16;
}

static size_t eights_of(size_t n)
{
    return cuda_parts(n, GPU_EIGHT);
}

static void launch_eights(struct tn_cuda *cuda, const void *kernel, size_t eights, const void *args)
{
    size_t block = eights < FEW_EIGHTS ? SMALL_BLOCK : GPU_FLAT;
    SP_ASSERT(eights <= UINT32_MAX);
    device_launch(cuda->device, kernel, (struct device_grid){cuda_parts(eights, block), 1},
                  (struct device_grid){block, 1}, args);
}

/* Rows of D columns in eights: fills in what kernels need to find their own. */
static void launch_rows(struct tn_cuda *cuda, const void *kernel, size_t rows, struct gpu_flow *k)
{
    k->eights = (uint32_t)eights_of((size_t)k->D);
    k->n = rows * k->eights;
    launch_eights(cuda, kernel, k->n, k);
}

/* --- norms --- */

/* Threads side by side that D columns are enough for, at most `most`. */
static int32_t group_of(int32_t D, int32_t most)
{
    int32_t group = 1;
    while (group < most && group * GPU_EIGHT < D)
        group *= 2;
    return group;
}

static void launch_norm(struct tn_cuda *cuda, const void *kernel, struct gpu_norm *k)
{
    k->group = group_of(k->D, GPU_FLAT);
    k->wide = WIDE(k->stride, k->y, k->x, k->dy, k->w, k->bias) && k->D % GPU_EIGHT == 0;
    device_launch(cuda->device, kernel,
                  (struct device_grid){cuda_parts(k->n, (size_t)(GPU_FLAT / k->group)), 1},
                  (struct device_grid){GPU_FLAT, 1}, k);
}

static uint32_t rows_of(int32_t T, int32_t heads)
{
    size_t n = (size_t)T * (size_t)heads;
    SP_ASSERT(n <= INT32_MAX);
    return (uint32_t)n;
}

static uint32_t chunk_rows(size_t n)
{
    return (uint32_t)(cuda_parts(cuda_parts(n, GPU_MAX_ROW_CHUNKS), GPU_ROWS_OF_CHUNK) *
                      GPU_ROWS_OF_CHUNK);
}

size_t cuda_fast_bytes(int32_t rows, int32_t width)
{
    return rows > 0
               ? cuda_parts((size_t)rows, chunk_rows((size_t)rows)) * (size_t)width * sizeof(float)
               : 0;
}

/* dw(D) += Σ over rows */
static void sum_rows(struct tn_backend *b, void *dw, struct gpu_columns *k)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    struct gpu_fold fold = {.y = dw, .D = k->D, .w_bf16 = stored_bf16(b)};
    if (k->n == 0)
        return;
    k->chunk_rows = chunk_rows(k->n);
    k->width = group_of(k->D, WARP);
    k->wide = WIDE(k->stride, k->dy, k->x) && k->D % GPU_EIGHT == 0;
    fold.chunks = (int32_t)cuda_parts(k->n, k->chunk_rows);
    k->parts =
        cuda_scratch(cuda, CUDA_SUMS, (size_t)fold.chunks * (size_t)k->D * sizeof(*k->parts));
    fold.parts = k->parts;
    device_launch(cuda->device, gpu_fast_columns_kernel,
                  (struct device_grid){cuda_parts((size_t)k->D, (size_t)k->width * GPU_EIGHT),
                                       (size_t)fold.chunks},
                  (struct device_grid){GPU_FLAT, 1}, k);
    device_launch(cuda->device, gpu_fast_fold_kernel,
                  (struct device_grid){cuda_parts((size_t)k->D, GPU_FOLD_COLUMNS), 1},
                  (struct device_grid){GPU_FLAT, 1}, &fold);
}

static void op_head_norm(struct tn_backend *b, void *y, float *rstd, const void *x, const float *w,
                         int32_t T, int32_t heads, int32_t C, int32_t stride, float eps)
{
    struct gpu_norm k = {.y = y,
                         .stats = rstd,
                         .x = x,
                         .w = w,
                         .n = rows_of(T, heads),
                         .heads = (uint32_t)heads,
                         .D = C,
                         .stride = (size_t)stride,
                         .eps = eps};
    launch_norm(tn_cuda_of(b), gpu_fast_norm_kernel, &k);
}

static void op_rmsnorm(struct tn_backend *b, void *y, float *rstd, const void *x, const float *w,
                       int32_t T, int32_t D, float eps)
{
    op_head_norm(b, y, rstd, x, w, T, 1, D, D, eps);
}

static void op_layernorm(struct tn_backend *b, void *y, float *stats, const void *x, const float *w,
                         const float *bias, int32_t T, int32_t D, float eps)
{
    struct gpu_norm k = {.y = y,
                         .stats = stats,
                         .x = x,
                         .w = w,
                         .bias = bias,
                         .n = (uint32_t)T,
                         .heads = 1,
                         .D = D,
                         .stride = (size_t)D,
                         .centred = true,
                         .eps = eps};
    launch_norm(tn_cuda_of(b), gpu_fast_norm_kernel, &k);
}

/* The weights' gradient first: dx may be dy. */
static void norm_bwd(struct tn_backend *b, void *dw, struct gpu_norm *k)
{
    struct gpu_columns columns = {.dy = k->dy,
                                  .x = k->x,
                                  .stats = k->stats,
                                  .n = k->n,
                                  .heads = k->heads,
                                  .D = k->D,
                                  .stride = k->stride,
                                  .kind = k->centred ? GPU_COLUMNS_CENTRED : GPU_COLUMNS_RMS};
    sum_rows(b, dw, &columns);
    launch_norm(tn_cuda_of(b), gpu_fast_norm_dx_kernel, k);
}

static void op_head_norm_bwd(struct tn_backend *b, void *dy, void *dw, const void *x,
                             const float *w, const float *rstd, int32_t T, int32_t heads, int32_t C,
                             int32_t stride)
{
    struct gpu_norm k = {.y = dy,
                         .dy = dy,
                         .x = x,
                         .w = w,
                         .stats = (float *)(uintptr_t)rstd, /* which the backward only reads */
                         .n = rows_of(T, heads),
                         .heads = (uint32_t)heads,
                         .D = C,
                         .stride = (size_t)stride};
    norm_bwd(b, dw, &k);
}

static void row_norm_bwd(struct tn_backend *b, void *dx, void *dw, const void *dy, const void *x,
                         const float *w, const float *stats, int32_t T, int32_t D, bool centred)
{
    struct gpu_norm k = {.y = dx,
                         .dy = dy,
                         .x = x,
                         .w = w,
                         .stats = (float *)(uintptr_t)stats,
                         .n = (uint32_t)T,
                         .heads = 1,
                         .D = D,
                         .stride = (size_t)D,
                         .centred = centred,
                         .accumulate = true};
    norm_bwd(b, dw, &k);
}

static void op_rmsnorm_bwd(struct tn_backend *b, void *dx, void *dw, const void *dy, const void *x,
                           const float *w, const float *rstd, int32_t T, int32_t D)
{
    row_norm_bwd(b, dx, dw, dy, x, w, rstd, T, D, false);
}

static void op_layernorm_bwd(struct tn_backend *b, void *dx, void *dw, const void *dy,
                             const void *x, const float *w, const float *stats, int32_t T,
                             int32_t D)
{
    row_norm_bwd(b, dx, dw, dy, x, w, stats, T, D, true);
}

/* --- element by element --- */

static void op_add(struct tn_backend *b, void *y, const void *x, size_t n)
{
    struct gpu_flow k = {.y = y, .a = x, .n = n, .wide = WIDE(0, y, x)};
    launch_eights(tn_cuda_of(b), gpu_fast_add_kernel, eights_of(n), &k);
}

static void op_affine(struct tn_backend *b, void *y, const void *x, float scale, float shift,
                      size_t n)
{
    struct gpu_flow k = {.y = y, .a = x, .n = n, .p = scale, .q = shift, .wide = WIDE(0, y, x)};
    launch_eights(tn_cuda_of(b), gpu_fast_affine_kernel, eights_of(n), &k);
}

static void op_bias(struct tn_backend *b, void *y, const float *bias, int32_t T, int32_t N)
{
    struct gpu_flow k = {.y = y, .w = bias, .D = N, .wide = WIDE((size_t)N, y, bias)};
    launch_rows(tn_cuda_of(b), gpu_fast_bias_kernel, (size_t)T, &k);
}

static void op_bias_bwd(struct tn_backend *b, void *db, const void *dy, int32_t T, int32_t N)
{
    struct gpu_columns k = {.dy = dy,
                            .n = (uint32_t)T,
                            .heads = 1,
                            .D = N,
                            .stride = (size_t)N,
                            .kind = GPU_COLUMNS_SUM};
    sum_rows(b, db, &k);
}

static void glu(struct tn_backend *b, void *y, const void *gu, int32_t T, int32_t F, bool gelu)
{
    struct gpu_flow k = {.y = y, .a = gu, .D = F, .flag = gelu, .wide = WIDE((size_t)F, y, gu)};
    launch_rows(tn_cuda_of(b), gpu_fast_glu_kernel, (size_t)T, &k);
}

static void glu_bwd(struct tn_backend *b, void *dgu, const void *dy, const void *gu, int32_t T,
                    int32_t F, bool gelu)
{
    struct gpu_flow k = {
        .y = dgu, .a = gu, .b = dy, .D = F, .flag = gelu, .wide = WIDE((size_t)F, dgu, gu, dy)};
    launch_rows(tn_cuda_of(b), gpu_fast_glu_bwd_kernel, (size_t)T, &k);
}

static void op_swiglu(struct tn_backend *b, void *y, const void *gu, int32_t T, int32_t F)
{
    glu(b, y, gu, T, F, false);
}

static void op_swiglu_bwd(struct tn_backend *b, void *dgu, const void *dy, const void *gu,
                          int32_t T, int32_t F)
{
    glu_bwd(b, dgu, dy, gu, T, F, false);
}

static void op_geglu(struct tn_backend *b, void *y, const void *gu, int32_t T, int32_t F)
{
    glu(b, y, gu, T, F, true);
}

static void op_geglu_bwd(struct tn_backend *b, void *dgu, const void *dy, const void *gu, int32_t T,
                         int32_t F)
{
    glu_bwd(b, dgu, dy, gu, T, F, true);
}

static void op_gelu(struct tn_backend *b, void *y, const void *x, size_t n, bool tanh)
{
    struct gpu_flow k = {.y = y, .a = x, .n = n, .flag = tanh, .wide = WIDE(0, y, x)};
    launch_eights(tn_cuda_of(b), gpu_fast_gelu_kernel, eights_of(n), &k);
}

static void op_gelu_bwd(struct tn_backend *b, void *dx, const void *dy, const void *x, size_t n,
                        bool tanh)
{
    struct gpu_flow k = {
        .y = dx, .a = x, .b = dy, .n = n, .flag = tanh, .wide = WIDE(0, dx, x, dy)};
    launch_eights(tn_cuda_of(b), gpu_fast_gelu_bwd_kernel, eights_of(n), &k);
}

static void op_rope(struct tn_backend *b, void *x, int32_t T, int32_t heads, int32_t C,
                    int32_t stride, const int32_t *positions, const float *cos, const float *sin,
                    bool inverse, int32_t rotary)
{
    struct gpu_flow k = {.y = x,
                         .cos = cos,
                         .sin = sin,
                         .heads = (uint32_t)heads,
                         .C = C,
                         .D = (rotary > 0 ? rotary : C) / 2,
                         .stride = (size_t)stride,
                         .flag = inverse};
    if (T == 0)
        return;
    k.wide = WIDE(k.stride, x, cos, sin) && C % GPU_EIGHT == 0 && k.D % GPU_EIGHT == 0;
    k.ids = cuda_ids(tn_cuda_of(b), positions, T);
    launch_rows(tn_cuda_of(b), gpu_fast_rope_kernel, rows_of(T, heads), &k);
}

/* --- tables --- */

static void gather(struct tn_backend *b, void *y, const void *table, bool bf16, const int32_t *ids,
                   int32_t n, int32_t D)
{
    struct gpu_flow k = {
        .y = y, .w = table, .D = D, .w_bf16 = bf16, .wide = WIDE((size_t)D, y, table)};
    if (n == 0)
        return;
    k.ids = cuda_ids(tn_cuda_of(b), ids, n);
    launch_rows(tn_cuda_of(b), gpu_fast_gather_kernel, (size_t)n, &k);
}

static void op_embed(struct tn_backend *b, void *y, const void *table, const int32_t *ids,
                     int32_t T, int32_t D)
{
    gather(b, y, table, stored_bf16(b), ids, T, D);
}

static void op_gather_rows(struct tn_backend *b, void *y, const void *x, const int32_t *rows,
                           int32_t n, int32_t D)
{
    gather(b, y, x, true, rows, n, D);
}

static void op_scatter_rows(struct tn_backend *b, void *dx, const void *dy, const int32_t *rows,
                            int32_t n, int32_t T, int32_t D)
{
    struct gpu_flow k = {.y = dx, .a = dy, .D = D, .wide = WIDE((size_t)D, dx, dy)};
    (void)T;
    if (n == 0)
        return;
    k.ids = cuda_ids(tn_cuda_of(b), rows, n);
    launch_rows(tn_cuda_of(b), gpu_fast_scatter_kernel, (size_t)n, &k);
}

/* Rows 0 … n-1 in the order of their ids, rows of one id in theirs: digits of RADIX_BITS, the least
 * first, each counted and dealt out. */
static int32_t *rows_by_id(const int32_t *ids, int32_t n, int32_t V)
{
    int32_t *rows = sp_xarray((size_t)n, sizeof(*rows)),
            *next = sp_xarray((size_t)n, sizeof(*next));
    for (int32_t i = 0; i < n; i++)
        rows[i] = i;
    for (int shift = 0; shift < 31 && V >> shift > 0; shift += RADIX_BITS) {
        int32_t starts[(1 << RADIX_BITS) + 1] = {0};
        const int32_t mask = (1 << RADIX_BITS) - 1;
        for (int32_t i = 0; i < n; i++)
            starts[(ids[i] >> shift & mask) + 1]++;
        for (int32_t digit = 0; digit < mask; digit++)
            starts[digit + 1] += starts[digit];
        for (int32_t i = 0; i < n; i++)
            next[starts[ids[rows[i]] >> shift & mask]++] = rows[i];
        int32_t *spare = rows;
        rows = next;
        next = spare;
    }
    free(next);
    return rows;
}

static void op_embed_bwd(struct tn_backend *b, void *dtable, const void *dy, const int32_t *ids,
                         int32_t T, int32_t D, int32_t V)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    struct gpu_runs k = {.y = dtable,
                         .dy = dy,
                         .D = D,
                         .w_bf16 = stored_bf16(b),
                         .wide = WIDE((size_t)D, dtable, dy)};
    size_t eights = eights_of((size_t)D), n_runs = 0;
    size_t block = SP_MIN(cuda_parts(eights, WARP) * WARP, GPU_FLAT);
    if (T == 0)
        return;
    int32_t *rows = rows_by_id(ids, T, V);
    struct gpu_run *runs = sp_xarray((size_t)T, sizeof(*runs));
    for (int32_t i = 0; i < T; i++) {
        if (i == 0 || ids[rows[i]] != runs[n_runs - 1].id)
            runs[n_runs++] = (struct gpu_run){.id = ids[rows[i]], .first = i};
        runs[n_runs - 1].count++;
    }
    k.rows = cuda_table(cuda, CUDA_TABLE, rows, (size_t)T * sizeof(*rows));
    k.runs = cuda_table(cuda, CUDA_TABLE2, runs, n_runs * sizeof(*runs));
    device_launch(cuda->device, gpu_fast_embed_bwd_kernel,
                  (struct device_grid){n_runs, cuda_parts(eights, block)},
                  (struct device_grid){block, 1}, &k);
    free(runs);
    free(rows);
}

void cuda_convert(struct tn_cuda *cuda, void *to, bool to_bf16, const void *from, bool from_bf16,
                  float shift, size_t n)
{
    struct gpu_convert k = {.to = to,
                            .from = from,
                            .n = n,
                            .to_bf16 = to_bf16,
                            .from_bf16 = from_bf16,
                            .shift = shift,
                            .wide = WIDE(0, to, from)};
    launch_eights(cuda, gpu_fast_convert_kernel, eights_of(n), &k);
}

static void op_widen(struct tn_backend *b, float *to, const void *from, float shift, size_t n)
{
    cuda_convert(tn_cuda_of(b), to, false, from, stored_bf16(b), shift, n);
}

static double op_sum_squares(struct tn_backend *b, const void *x, size_t n)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t chunks = cuda_parts(n, GPU_CHUNK);
    struct gpu_fast_squares k = {.x = x, .n = n, .w_bf16 = stored_bf16(b), .wide = WIDE(0, x)};
    if (n == 0)
        return 0.0;
    k.sums = cuda_scratch(cuda, CUDA_RESULT, chunks * sizeof(double));
    device_launch(cuda->device, gpu_fast_sum_squares_kernel, (struct device_grid){chunks, 1},
                  (struct device_grid){GPU_FLAT, 1}, &k);
    return cuda_sum(cuda, k.sums, chunks);
}

void cuda_add_fast(struct tn_ops *ops)
{
    ops->embed = op_embed;
    ops->embed_bwd = op_embed_bwd;
    ops->gather_rows = op_gather_rows;
    ops->scatter_rows = op_scatter_rows;
    ops->widen = op_widen;
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
    ops->sum_squares = op_sum_squares;
}

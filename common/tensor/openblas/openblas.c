/* openblas: the "openblas" backend: the "cpu" one with its matrix products done by OpenBLAS.
 *
 * OpenBLAS picks kernels by the shape of a product, so a row's bits would depend on how many rows
 * it shares a call with. Every call here has the same number of rows (the last block is filled up
 * with zeros) and a block of columns that depends on N alone, and OpenBLAS itself runs on one
 * thread under our workers. Some of its kernels also treat the rows of one call differently
 * (Haswell's, in each twelve), so the number of rows is the largest for which a trial at opening
 * finds no difference: a row's bits depend on nothing but its values, N, K and the core's kernels.
 * Sums over rows (linear_bwd_w) are one call for all rows, split over columns: they depend on the
 * number of rows, which is the plan's. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/half.h"
#include "common/tensor/cpu/cpu.h"

#define MAX_ROWS 64
#define COLUMNS 256

struct call {
    struct tn_cpu *cpu;
    int32_t M, N, K; /* C(M,N) = A(M,K)·B; B is (K,N), or (N,K) when transposed */
    const float *a, *b;
    float *c;
    bool b_transposed, accumulate;
    int32_t column_blocks;
};

/* A block of rows filled up with zeros, and its result. */
static size_t fill_floats(size_t k)
{
    return MAX_ROWS * k + MAX_ROWS * COLUMNS;
}

static void call_task(void *context, int32_t task, int32_t worker)
{
    const struct call *p = context;
    int32_t full = p->cpu->block_rows;
    int32_t row = task / p->column_blocks * full, col = task % p->column_blocks * COLUMNS;
    int32_t rows = SP_MIN(full, p->M - row), cols = SP_MIN(COLUMNS, p->N - col);
    size_t k = (size_t)p->K, n = (size_t)p->N;
    const float *a = p->a + (size_t)row * k;
    const float *b = p->b_transposed ? p->b + (size_t)col * k : p->b + col;
    float *c = p->c + (size_t)row * n + (size_t)col, *full_c = c;
    int ldc = p->N;
    if (rows < full) {
        float *full_a = tn_own_scratch(p->cpu, worker, fill_floats(k));
        full_c = full_a + (size_t)full * k;
        ldc = cols;
        memset(full_a, 0, (size_t)full * k * sizeof(float));
        memcpy(full_a, a, (size_t)rows * k * sizeof(float));
        memset(full_c, 0, (size_t)full * (size_t)cols * sizeof(float));
        for (int32_t i = 0; p->accumulate && i < rows; i++)
            memcpy(full_c + i * cols, c + (size_t)i * n, (size_t)cols * sizeof(float));
        a = full_a;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, p->b_transposed ? CblasTrans : CblasNoTrans, full,
                cols, p->K, 1.0f, a, p->K, b, p->b_transposed ? p->K : p->N,
                p->accumulate ? 1.0f : 0.0f, full_c, ldc);
    for (int32_t i = 0; full_c != c && i < rows; i++)
        memcpy(c + (size_t)i * n, full_c + i * cols, (size_t)cols * sizeof(float));
}

static void product(struct tn_backend *backend, struct call *p)
{
    p->cpu = tn_cpu_of(backend);
    p->column_blocks = tn_ceil_div(p->N, COLUMNS);
    tn_pool_run(p->cpu->pool, tn_ceil_div(p->M, p->cpu->block_rows) * p->column_blocks, call_task,
                p);
}

static void blas_linear(struct tn_backend *backend, void *y, const void *x, const void *w,
                        int32_t T, int32_t N, int32_t K, bool accumulate)
{
    struct call p = {.M = T,
                     .N = N,
                     .K = K,
                     .a = x,
                     .b = w,
                     .c = y,
                     .b_transposed = true,
                     .accumulate = accumulate};
    product(backend, &p);
}

static void blas_linear_bwd_x(struct tn_backend *backend, void *dx, const void *dy, const void *w,
                              int32_t T, int32_t N, int32_t K, bool accumulate)
{
    struct call p = {.M = T, .N = K, .K = N, .a = dy, .b = w, .c = dx, .accumulate = accumulate};
    product(backend, &p);
}

static void bwd_w_task(void *context, int32_t task, int32_t worker)
{
    /* dw(N,K) += dyᵀ·x: here M = N, N = K, K = T */
    const struct call *p = context;
    int32_t row = task / p->column_blocks * COLUMNS, col = task % p->column_blocks * COLUMNS;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, SP_MIN(COLUMNS, p->M - row),
                SP_MIN(COLUMNS, p->N - col), p->K, 1.0f, p->a + row, p->M, p->b + col, p->N, 1.0f,
                p->c + (size_t)row * (size_t)p->N + (size_t)col, p->N);
}

static void blas_linear_bwd_w(struct tn_backend *backend, void *dw, const void *dy, const void *x,
                              int32_t T, int32_t N, int32_t K)
{
    struct call p = {.M = N, .N = K, .K = T, .a = dy, .b = x, .c = dw};
    p.column_blocks = tn_ceil_div(K, COLUMNS);
    if (T > 0)
        tn_pool_run(tn_cpu_of(backend)->pool, tn_ceil_div(N, COLUMNS) * p.column_blocks, bwd_w_task,
                    &p);
}

/* Nothing is prepared: the matrix as it came, rounded where its storage says so. */
static struct tn_weights *blas_weights_new(struct tn_backend *backend, const void *w, int32_t N,
                                           int32_t K, enum tn_dtype dtype, enum tn_dtype rows)
{
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    size_t n = (size_t)N * (size_t)K;
    const float *from = w;
    *weights = (struct tn_weights){.N = N, .K = K, .dtype = dtype, .rows = rows};
    float *copy = weights->panels = sp_alloc_block(n, sizeof(float));
    if (!copy) {
        free(weights);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        copy[i] = dtype == TN_BF16 ? sp_bf16_to_f32(sp_f32_to_bf16(from[i])) : from[i];
    return weights;
}

static void blas_linear_packed(struct tn_backend *backend, void *y, const void *x,
                               const struct tn_weights *w, int32_t T)
{
    size_t k = (size_t)w->K, n = (size_t)w->N;
    const float *from = x;
    float *to = y;
    if (w->rows == TN_F32) {
        blas_linear(backend, y, x, w->panels, T, w->N, w->K, false);
        return;
    }
    float *rounded = tn_shared_scratch(tn_cpu_of(backend), MAX_ROWS * k);
    for (int32_t row = 0; row < T; row += MAX_ROWS) {
        int32_t rows = SP_MIN(MAX_ROWS, T - row);
        for (size_t i = 0; i < (size_t)rows * k; i++)
            rounded[i] = sp_bf16_to_f32(sp_f32_to_bf16(from[(size_t)row * k + i]));
        blas_linear(backend, to + (size_t)row * n, rounded, w->panels, rows, w->N, w->K, false);
    }
}

static bool blas_reserve(struct tn_backend *backend, int32_t max_rows, int32_t longest,
                         int32_t heads, int32_t head_size, int32_t max_width)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    bool ok = tn_cpu_reserve(backend, max_rows, longest, heads, head_size, max_width) &&
              tn_scratch_grow(&cpu->shared, MAX_ROWS * (size_t)max_width * sizeof(float));
    for (int32_t i = 0; ok && i < cpu->threads; i++)
        ok = tn_scratch_grow(&cpu->own[i], fill_floats((size_t)max_width) * sizeof(float));
    return ok;
}

#define TRIAL_K 530 /* over OpenBLAS's block of K, and no multiple of anything */

/* Whether equal rows get equal results in one call of `rows` rows and `cols` columns. */
static bool rows_are_alike(int32_t rows, int32_t cols, bool b_transposed, const float *a,
                           const float *b, float *c)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, rows, cols,
                TRIAL_K, 1.0f, a, TRIAL_K, b, b_transposed ? TRIAL_K : cols, 0.0f, c, cols);
    for (int32_t i = 1; i < rows; i++)
        if (memcmp(c, c + (size_t)i * (size_t)cols, (size_t)cols * sizeof(float)) != 0)
            return false;
    return true;
}

/* The largest block of rows whose rows are alike in full and in narrow blocks of columns. */
static int32_t choose_block_rows(void)
{
    static const int32_t candidates[] = {MAX_ROWS, 48, 24, 16, 8, 4}, columns[] = {COLUMNS, 70, 9};
    float *a = sp_xarray((size_t)MAX_ROWS * TRIAL_K, sizeof(float));
    float *b = sp_xarray((size_t)COLUMNS * TRIAL_K, sizeof(float));
    float *c = sp_xarray((size_t)MAX_ROWS * COLUMNS, sizeof(float));
    for (uint32_t i = 0; i < MAX_ROWS * TRIAL_K; i++)
        a[i] = (float)(i % TRIAL_K * 2654435761u >> 16 & 0xffff) / 65536.0f - 0.5f;
    for (uint32_t i = 0; i < COLUMNS * TRIAL_K; i++)
        b[i] = (float)(i * 2246822519u >> 16 & 0xffff) / 65536.0f - 0.5f;
    int32_t chosen = 0;
    for (size_t i = 0; chosen == 0 && i < SP_COUNT(candidates); i++) {
        bool alike = true;
        for (size_t j = 0; alike && j < SP_COUNT(columns); j++)
            alike = rows_are_alike(candidates[i], columns[j], false, a, b, c) &&
                    rows_are_alike(candidates[i], columns[j], true, a, b, c);
        chosen = alike ? candidates[i] : 0;
    }
    free(a);
    free(b);
    free(c);
    return chosen > 0 ? chosen : 1;
}

/* "OpenBLAS 0.3.21 DYNAMIC_ARCH …": the second word */
void tn_openblas_class(char ret[TN_CLASS_BYTES])
{
    char version[32] = "unknown";
    (void)sscanf(openblas_get_config(), "%*s %31s", version);
    snprintf(ret, TN_CLASS_BYTES, "openblas r%d %s %.32s", TN_NUMERICS_REVISION, version,
             openblas_get_corename());
}

enum sp_err tn_openblas_open(const struct tn_backend_options *options, struct tn_backend **ret,
                             struct sp_error *err)
{
    /* 1 is the build with its own threads, which alone may be called from several of ours. */
    if (openblas_get_parallel() != 1)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "backend openblas: this OpenBLAS isn't the pthread build; install "
                       "libopenblas0-pthread, or use the backend cpu");
    struct tn_backend *backend;
    enum sp_err rc = tn_cpu_open(options, &backend, err);
    if (rc != SP_OK)
        return rc;
    openblas_set_num_threads(1);
    struct tn_cpu *cpu = tn_cpu_of(backend);
    cpu->block_rows = choose_block_rows();
    cpu->ops = *backend->ops;
    cpu->ops.reserve = blas_reserve;
    cpu->ops.linear = blas_linear;
    cpu->ops.linear_bwd_x = blas_linear_bwd_x;
    cpu->ops.linear_bwd_w = blas_linear_bwd_w;
    cpu->ops.weights_new = blas_weights_new;
    cpu->ops.linear_packed = blas_linear_packed;
    backend->ops = &cpu->ops;
    backend->name = "openblas";
    tn_openblas_class(backend->numerics_class);
    *ret = backend;
    return SP_OK;
}

#include "common/tensor/cuda/device.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/explain.h"

#define CANDIDATES 32    /* algorithms that are asked for */
#define TYPICAL_ROWS 512 /* for which an algorithm is chosen, whatever comes */
#define ALIGNED 16       /* bytes; results that lie otherwise are not cublasLt's */
#define MAX_CHOICES 64   /* shapes of weights */

struct choice {       /* the algorithm of one shape */
    int32_t fixed[2]; /* the sizes that are the weights' */
    bool a_transposed, b_transposed, found;
    cublasLtMatmulAlgo_t algo;
};

struct device {
    cudaStream_t stream;
    cublasLtHandle_t blas;
    cublasLtMatmulDesc_t plans[2][2]; /* by what is transposed */
    struct choice choices[MAX_CHOICES];
    int n_choices;
};

static void check(cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess)
        return;
    fprintf(stderr, "cuda: %s: %s (%s)\n", what, cudaGetErrorString(rc), cudaGetErrorName(rc));
    abort();
}

/* --- opening --- */

static enum sp_err failed(cudaError_t rc, const char *device, struct sp_error *err)
{
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    struct cuda_trouble trouble = {.driver = driver,
                                   .runtime = runtime,
                                   .device = device,
                                   .code = rc == cudaErrorMemoryAllocation         ? CUDA_NO_MEMORY
                                           : rc == cudaErrorNoDevice               ? CUDA_NO_DEVICE
                                           : rc == cudaErrorInsufficientDriver     ? CUDA_OLD_DRIVER
                                           : rc == cudaErrorNoKernelImageForDevice ? CUDA_NO_KERNELS
                                                                                   : CUDA_OTHER,
                                   .text = cudaGetErrorString(rc)};
    return cuda_explain(&trouble, err);
}

enum sp_err device_describe(struct device_info *ret, struct sp_error *err)
{
    int count = 0;
    struct cudaDeviceProp properties;
    cudaError_t rc = cudaGetDeviceCount(&count);
    if (rc == cudaSuccess && count == 0)
        rc = cudaErrorNoDevice;
    if (rc == cudaSuccess)
        rc = cudaGetDeviceProperties(&properties, 0);
    if (rc != cudaSuccess)
        return failed(rc, NULL, err);
    size_t version = cublasLtGetVersion();
    *ret = (struct device_info){.arch = 10 * properties.major + properties.minor,
                                .memory_bytes = properties.totalGlobalMem};
    snprintf(ret->name, sizeof(ret->name), "%.90s", properties.name);
    snprintf(ret->library, sizeof(ret->library), "cublasLt %zu.%zu.%zu", version / 10000,
             version / 100 % 100, version % 100);
    return SP_OK;
}

static enum sp_err open_products(struct device *d, struct sp_error *err)
{
    bool ok = cublasLtCreate(&d->blas) == CUBLAS_STATUS_SUCCESS;
    for (int a = 0; a < 2; a++)
        for (int b = 0; ok && b < 2; b++) {
            /* Column-major there, so C is transposed and B comes first. */
            cublasOperation_t first = b ? CUBLAS_OP_T : CUBLAS_OP_N;
            cublasOperation_t second = a ? CUBLAS_OP_T : CUBLAS_OP_N;
            cublasLtMatmulDesc_t *plan = &d->plans[a][b];
            ok = cublasLtMatmulDescCreate(plan, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
                     CUBLAS_STATUS_SUCCESS &&
                 cublasLtMatmulDescSetAttribute(*plan, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                                sizeof(first)) == CUBLAS_STATUS_SUCCESS &&
                 cublasLtMatmulDescSetAttribute(*plan, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                                sizeof(second)) == CUBLAS_STATUS_SUCCESS;
        }
    return ok ? SP_OK
              : sp_fail(err, SP_EUNSUPPORTED,
                        "cublasLt does not start: is libcublas of the driver's CUDA version?");
}

enum sp_err device_open(struct device **ret, struct sp_error *err)
{
    struct device_info info;
    enum sp_err rc = device_describe(&info, err);
    if (rc != SP_OK)
        return rc;
    struct device *d = sp_xalloc(sizeof(*d));
    cudaError_t cuda = cudaSetDevice(0);
    if (cuda == cudaSuccess)
        cuda = cudaFree(NULL); /* makes the context, which takes some hundred MiB */
    if (cuda == cudaSuccess)
        cuda = cudaStreamCreate(&d->stream);
    rc = cuda == cudaSuccess ? open_products(d, err) : failed(cuda, info.name, err);
    if (rc != SP_OK) {
        device_close(d);
        return rc;
    }
    *ret = d;
    return SP_OK;
}

void device_close(struct device *d)
{
    if (!d)
        return;
    for (int i = 0; i < 4; i++)
        if (d->plans[i / 2][i % 2])
            cublasLtMatmulDescDestroy(d->plans[i / 2][i % 2]);
    if (d->blas)
        cublasLtDestroy(d->blas);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    free(d);
}

/* --- memory --- */

void *device_alloc(struct device *d, size_t bytes)
{
    void *memory = NULL;
    if (cudaMalloc(&memory, bytes > 0 ? bytes : 1) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    device_zero(d, memory, bytes);
    return memory;
}

void device_free(struct device *d, void *memory)
{
    (void)d;
    check(cudaFree(memory), "free");
}

void device_put(struct device *d, void *to, const void *from_host, size_t bytes)
{
    /* From memory that is not pinned: the host's may be used again when the call returns. */
    check(cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, d->stream), "upload");
}

void device_get(struct device *d, void *to_host, const void *from, size_t bytes)
{
    check(cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, d->stream), "download");
    device_wait(d);
}

void device_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, d->stream), "copy");
}

void device_zero(struct device *d, void *memory, size_t bytes)
{
    check(cudaMemsetAsync(memory, 0, bytes, d->stream), "zero");
}

void device_wait(struct device *d)
{
    check(cudaStreamSynchronize(d->stream), "wait");
}

/* --- work --- */

void device_launch(struct device *d, const void *kernel, struct device_grid blocks,
                   struct device_grid threads, const void *args)
{
    device_launch_shared(d, kernel, blocks, threads, 0, args);
}

void device_launch_shared(struct device *d, const void *kernel, struct device_grid blocks,
                          struct device_grid threads, size_t shared_bytes, const void *args)
{
    if (blocks.x == 0 || blocks.y == 0)
        return;
    SP_ASSERT(blocks.x <= 0x7fffffff && blocks.y <= 65535);
    struct dim3 grid = {(unsigned)blocks.x, (unsigned)blocks.y, 1};
    struct dim3 block = {(unsigned)threads.x, (unsigned)threads.y, 1};
    void *params[] = {(void *)(uintptr_t)args};
    SP_ASSERT(shared_bytes <= DEVICE_SHARED_BYTES);
    if (shared_bytes > 0)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)shared_bytes),
              "shared memory");
    check(cudaLaunchKernel(kernel, grid, block, params, shared_bytes, d->stream), "kernel");
}

struct layouts { /* of the first factor there, the second, and the result */
    cublasLtMatrixLayout_t first, second, result;
};

static void free_layouts(struct layouts *l)
{
    if (l->first)
        cublasLtMatrixLayoutDestroy(l->first);
    if (l->second)
        cublasLtMatrixLayoutDestroy(l->second);
    if (l->result)
        cublasLtMatrixLayoutDestroy(l->result);
}

/* A row-major (r,c) is a column-major (c,r) with the same stride. */
static bool make_layouts(struct layouts *ret, const struct device_product *p)
{
    uint64_t M = (uint64_t)p->M, N = (uint64_t)p->N, K = (uint64_t)p->K;
    uint64_t b_rows = p->b_transposed ? K : N, b_cols = p->b_transposed ? N : K;
    uint64_t a_rows = p->a_transposed ? M : K, a_cols = p->a_transposed ? K : M;
    *ret = (struct layouts){0};
    return cublasLtMatrixLayoutCreate(&ret->first, CUDA_R_16BF, b_rows, b_cols, (int64_t)b_rows) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&ret->second, CUDA_R_16BF, a_rows, a_cols, (int64_t)a_rows) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&ret->result, CUDA_R_32F, N, M, (int64_t)N) ==
               CUBLAS_STATUS_SUCCESS;
}

/* The product with another number of rows; of a weights' gradient rows are summed over. */
static struct device_product with_rows(const struct device_product *product, int32_t rows)
{
    struct device_product p = *product;
    if (p.a_transposed)
        p.K = rows;
    else
        p.M = rows;
    return p;
}

/* Whether a candidate can do the product for few rows as for many, in no memory of its own: the one
 * that is chosen is used for all. */
static bool fits_all_rows(struct device *d, const struct device_product *product,
                          const cublasLtMatmulAlgo_t *algo)
{
    static const int32_t rows[] = {1, 7, 64, TYPICAL_ROWS, 16384};
    bool fits = true;
    for (size_t i = 0; fits && i < SP_COUNT(rows); i++) {
        struct device_product p = with_rows(product, rows[i]);
        cublasLtMatmulHeuristicResult_t result;
        struct layouts l;
        fits = make_layouts(&l, &p) &&
               cublasLtMatmulAlgoCheck(d->blas, d->plans[p.a_transposed][p.b_transposed], l.first,
                                       l.second, l.result, l.result, algo,
                                       &result) == CUBLAS_STATUS_SUCCESS &&
               result.workspaceSize == 0;
        free_layouts(&l);
    }
    return fits;
}

static bool prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t what,
                   const void *value, size_t bytes)
{
    return cublasLtMatmulPreferenceSetAttribute(preference, what, value, bytes) ==
           CUBLAS_STATUS_SUCCESS;
}

/* No splitting of k, no memory, results at any multiple of ALIGNED. */
static bool make_preference(cublasLtMatmulPreference_t *ret)
{
    uint64_t workspace = 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE, aligned = ALIGNED;
    return cublasLtMatmulPreferenceCreate(ret) == CUBLAS_STATUS_SUCCESS &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                  sizeof(reductions)) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &aligned, sizeof(aligned)) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &aligned, sizeof(aligned));
}

/* The first candidate, best first, that does not split k and does for any number of rows. */
static void choose(struct device *d, struct choice *choice, const struct device_product *product)
{
    struct device_product typical = with_rows(product, TYPICAL_ROWS);
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    struct layouts l;
    int n = 0;
    bool ok = make_layouts(&l, &typical) && make_preference(&preference) &&
              cublasLtMatmulAlgoGetHeuristic(d->blas,
                                             d->plans[product->a_transposed][product->b_transposed],
                                             l.first, l.second, l.result, l.result, preference,
                                             CANDIDATES, results, &n) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; ok && i < n && !choice->found; i++) {
        int32_t split = 1;
        size_t written = 0;
        (void)cublasLtMatmulAlgoConfigGetAttribute(
            &results[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof(split), &written);
        if (results[i].state == CUBLAS_STATUS_SUCCESS && split <= 1 &&
            fits_all_rows(d, product, &results[i].algo)) {
            choice->algo = results[i].algo;
            choice->found = true;
        }
    }
    if (preference)
        cublasLtMatmulPreferenceDestroy(preference);
    free_layouts(&l);
}

static const struct choice *find_choice(struct device *d, const struct device_product *p)
{
    int32_t fixed = p->a_transposed ? p->M : p->K;
    for (int i = 0; i < d->n_choices; i++) {
        const struct choice *c = &d->choices[i];
        if (c->fixed[0] == p->N && c->fixed[1] == fixed && c->a_transposed == p->a_transposed &&
            c->b_transposed == p->b_transposed)
            return c;
    }
    SP_ASSERT(d->n_choices < MAX_CHOICES); /* a model has a handful of shapes */
    struct choice *c = &d->choices[d->n_choices++];
    *c = (struct choice){
        .fixed = {p->N, fixed}, .a_transposed = p->a_transposed, .b_transposed = p->b_transposed};
    choose(d, c, p);
    return c;
}

bool device_product(struct device *d, const struct device_product *p)
{
    const struct choice *choice = find_choice(d, p);
    float one = 1.0f, before = p->accumulate ? 1.0f : 0.0f;
    struct layouts l;
    if (!choice->found || (uintptr_t)p->c % ALIGNED != 0)
        return false;
    bool ok = make_layouts(&l, p) &&
              cublasLtMatmul(d->blas, d->plans[p->a_transposed][p->b_transposed], &one, p->b,
                             l.first, p->a, l.second, &before, p->c, l.result, p->c, l.result,
                             &choice->algo, NULL, 0, d->stream) == CUBLAS_STATUS_SUCCESS;
    free_layouts(&l);
    /* Another way would give other bits, for these rows alone. */
    check(ok ? cudaSuccess : cudaErrorUnknown, "product");
    return true;
}

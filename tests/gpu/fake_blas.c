/* cublasLt on the host, with algorithms that have faults: see fake_cuda.h. */
#include "tests/gpu/fake_cuda.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"

/* Bytes of workspace: FAKE_FEW needs a little, and in a fake that needs workspace all do. */
static size_t needed(enum fake_algorithm a)
{
    return fake.needs_workspace ? 4096 : a == FAKE_FEW ? 1024 : 0;
}

struct layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t stride;
};
struct plan {
    bool transposed[2];
};
struct preference {
    uint64_t workspace;
    uint32_t reductions, aligned[4];
};

static float element(const void *at, size_t row, size_t column, size_t stride)
{
    return sp_bf16_to_f32(((const uint16_t *)at)[column * stride + row]);
}

/* Column j of the result, without what is added; x: the first factor, [k][m]. The product of bf16
 * numbers is exact, so that nothing need be fused. */
static void sum_column(const struct fake_product *p, const float *x, size_t j, float *sums)
{
    enum fake_algorithm a = p->algorithm;
    bool backwards = a == FAKE_BACKWARDS || (a == FAKE_BY_COUNT && p->n < 100) ||
                     (a == FAKE_BY_PLACE && j % 2 == 1) || (a == FAKE_STREAM && j % 3 == 1);
    memset(sums, 0, p->m * sizeof(*sums));
    for (size_t l = 0; l < p->k; l++) {
        size_t k = backwards ? p->k - 1 - l : l;
        float y = p->b_transposed ? element(p->b, j, k, p->ldb) : element(p->b, k, j, p->ldb);
        for (size_t i = 0; i < p->m; i++)
            sums[i] += x[k * p->m + i] * y;
    }
}

void fake_multiply(const struct fake_product *p)
{
    float *x = sp_xarray(p->m * p->k, sizeof(*x)), *sums = sp_xarray(p->m, sizeof(*sums));
    bool adds = p->beta != 0.0f && !(p->algorithm == FAKE_FORGETS && p->c != p->d);
    for (size_t k = 0; k < p->k; k++)
        for (size_t i = 0; i < p->m; i++)
            x[k * p->m + i] =
                p->a_transposed ? element(p->a, k, i, p->lda) : element(p->a, i, k, p->lda);
    for (size_t j = 0; j < p->n; j++) {
        sum_column(p, x, j, sums);
        for (size_t i = 0; i < p->m; i++) {
            size_t at = j * p->ldd + i;
            float sum = sums[i];
            if (adds)
                sum += p->d_bf16 ? element(p->c, i, j, p->ldd) : ((const float *)p->c)[at];
            if (p->d_bf16)
                ((uint16_t *)p->d)[at] = sp_f32_to_bf16(sum);
            else
                ((float *)p->d)[at] = sum;
        }
    }
    free(x);
    free(sums);
}

double fake_cost(const struct fake_product *p)
{
    static const double costs[FAKE_ALGORITHMS] = {
        [FAKE_SPLIT] = 1,  [FAKE_REDUCES] = 1,   [FAKE_BY_COUNT] = 1, [FAKE_BY_PLACE] = 1,
        [FAKE_PLAIN] = 10, [FAKE_BACKWARDS] = 1, [FAKE_FEW] = 5,      [FAKE_MANY] = 0.5,
        [FAKE_MOODY] = 5,  [FAKE_FORGETS] = 0.5, [FAKE_STREAM] = 1,
    };
    return costs[p->algorithm];
}

size_t cublasLtGetVersion(void)
{
    return 130002;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *ret)
{
    *ret = sp_xalloc(1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

/* --- descriptions --- */

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *ret, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    SP_ASSERT(compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F);
    *ret = sp_xalloc(SP_MAX(sizeof(struct plan), sizeof(**ret)));
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t plan)
{
    free(plan);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t plan,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    cublasOperation_t operation;
    SP_ASSERT(bytes == sizeof(operation));
    memcpy(&operation, value, bytes);
    SP_ASSERT(what == CUBLASLT_MATMUL_DESC_TRANSA || what == CUBLASLT_MATMUL_DESC_TRANSB);
    ((struct plan *)(void *)plan)->transposed[what == CUBLASLT_MATMUL_DESC_TRANSB] =
        operation == CUBLAS_OP_T;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *ret, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t stride)
{
    struct layout *l = sp_xalloc(SP_MAX(sizeof(*l), sizeof(**ret)));
    SP_ASSERT(rows > 0 && columns > 0 && stride >= (int64_t)rows); /* column-major */
    *l = (struct layout){type, rows, columns, stride};
    *ret = (cublasLtMatrixLayout_t)(void *)l;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t bytes)
{
    struct layout *l = (struct layout *)(void *)layout;
    SP_ASSERT(what == CUBLASLT_MATRIX_LAYOUT_COLS && bytes == sizeof(l->columns));
    memcpy(&l->columns, value, bytes);
    SP_ASSERT(l->columns > 0);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *ret)
{
    struct preference *p = sp_xalloc(SP_MAX(sizeof(*p), sizeof(**ret)));
    p->reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    *ret = (cublasLtMatmulPreference_t)(void *)p;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t bytes)
{
    struct preference *p = (struct preference *)(void *)preference;
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        SP_ASSERT(bytes == sizeof(p->workspace));
        memcpy(&p->workspace, value, bytes);
    } else if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) {
        SP_ASSERT(bytes == sizeof(p->reductions));
        memcpy(&p->reductions, value, bytes);
    } else {
        int i = (int)what - (int)CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
        SP_ASSERT(i >= 0 && i < 4 && bytes == sizeof(p->aligned[0]));
        memcpy(&p->aligned[i], value, bytes);
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* --- algorithms --- */

static enum fake_algorithm number_of(const cublasLtMatmulAlgo_t *algo)
{
    SP_ASSERT(algo->data[0] >= 1000 && algo->data[0] < 1000 + FAKE_ALGORITHMS);
    return (enum fake_algorithm)(algo->data[0] - 1000);
}

/* What an algorithm was asked for: not how many columns there are, which it may be tried with. */
static uint64_t problem(cublasLtMatmulDesc_t plan, const struct layout *a, const struct layout *b,
                        const struct layout *d)
{
    const bool *transposed = ((struct plan *)(void *)plan)->transposed;
    uint64_t h = (uint64_t)transposed[0] | (uint64_t)transposed[1] << 1;
    const uint64_t all[] = {(uint64_t)a->type,   (uint64_t)b->type,   (uint64_t)d->type,
                            (uint64_t)a->stride, (uint64_t)b->stride, (uint64_t)d->stride};
    for (size_t i = 0; i < SP_COUNT(all); i++)
        h = (h ^ all[i]) * 0x100000001b3u;
    return h;
}

static bool is_aligned(const cublasLtMatmulAlgo_t *algo, int matrix, const void *at)
{
    uint64_t bytes = algo->data[2] >> (16 * matrix) & 0xffff;
    return bytes > 0 && (uintptr_t)at % bytes == 0;
}

static bool is_there(const struct layout *l, const void *at)
{
    size_t unit = l->type == CUDA_R_16BF ? 2 : 4;
    return fake_is_had(at, ((l->columns - 1) * (size_t)l->stride + l->rows) * unit);
}

static bool can(enum fake_algorithm a, uint64_t rows)
{
    return a == FAKE_FEW       ? rows <= 64
           : a == FAKE_MANY    ? rows > 1024
           : a == FAKE_MOODY   ? rows > 64 && rows <= 128
           : a == FAKE_FORGETS ? rows > 128 && rows <= 1024
                               : true;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t plan,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t *ret, int *ret_count)
{
    const struct layout *result = (const struct layout *)(void *)c;
    const struct preference *p = (const struct preference *)(void *)preference;
    bool many = result->columns > 1024;
    uint64_t aligned = 0;
    (void)handle;
    SP_ASSERT(c == d && p->aligned[0] >= 2 && p->aligned[1] >= 2);
    for (int i = 0; i < 4; i++)
        aligned |= (uint64_t)p->aligned[i] << (16 * i);
    fake.heuristics++;
    *ret_count = 0;
    bool none = fake.no_algorithms || (fake.needs_workspace && p->workspace < needed(FAKE_SPLIT));
    for (int i = 0; !none && i < FAKE_ALGORITHMS && *ret_count < most; i++) {
        if ((i == FAKE_REDUCES && p->reductions == CUBLASLT_REDUCTION_SCHEME_NONE) ||
            (i == FAKE_BACKWARDS && !many) || !can((enum fake_algorithm)i, result->columns))
            continue;
        ret[(*ret_count)++] = (cublasLtMatmulHeuristicResult_t){
            .algo = {.data = {1000 + (uint64_t)i,
                              problem(plan, (struct layout *)(void *)a, (struct layout *)(void *)b,
                                      result),
                              aligned}},
            .state = CUBLAS_STATUS_SUCCESS};
    }
    return *ret_count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t plan,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *ret)
{
    const struct layout *result = (const struct layout *)(void *)c;
    (void)handle;
    SP_ASSERT(c == d && algo->data[1] == problem(plan, (struct layout *)(void *)a,
                                                 (struct layout *)(void *)b, result));
    *ret =
        (cublasLtMatmulHeuristicResult_t){.algo = *algo, .workspaceSize = needed(number_of(algo))};
    return can(number_of(algo), result->columns) ? CUBLAS_STATUS_SUCCESS
                                                 : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t what,
                                                    void *ret, size_t bytes, size_t *ret_written)
{
    int32_t split = number_of(algo) == FAKE_SPLIT ? 4 : number_of(algo) == FAKE_STREAM ? -2 : 1;
    uint32_t reduction = number_of(algo) == FAKE_REDUCES ? CUBLASLT_REDUCTION_SCHEME_INPLACE
                                                         : CUBLASLT_REDUCTION_SCHEME_NONE;
    SP_ASSERT(bytes == 4);
    *ret_written = 0;
    if (number_of(algo) == FAKE_PLAIN && what == CUBLASLT_ALGO_CONFIG_SPLITK_NUM)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memcpy(ret, what == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? (void *)&split : (void *)&reduction,
           bytes);
    *ret_written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t plan, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    const struct layout *la = (const struct layout *)(void *)a_layout;
    const struct layout *lb = (const struct layout *)(void *)b_layout;
    const struct layout *ld = (const struct layout *)(void *)d_layout;
    const bool *transposed = ((struct plan *)(void *)plan)->transposed;
    uint64_t k = transposed[0] ? la->rows : la->columns;
    (void)handle;
    SP_ASSERT(c_layout == d_layout && *(const float *)alpha == 1.0f);
    SP_ASSERT(algo->data[1] == problem(plan, la, lb, ld));
    SP_ASSERT(is_aligned(algo, 0, a) && is_aligned(algo, 1, b) && is_aligned(algo, 2, c) &&
              is_aligned(algo, 3, d));
    SP_ASSERT(is_there(la, a) && is_there(lb, b) && is_there(ld, c) && is_there(ld, d));
    SP_ASSERT((workspace == NULL) == (workspace_bytes == 0));
    SP_ASSERT((uintptr_t)workspace % 16 == 0 && fake_is_had(workspace, workspace_bytes));
    SP_ASSERT(la->type == CUDA_R_16BF && lb->type == CUDA_R_16BF);
    SP_ASSERT((transposed[0] ? la->columns : la->rows) == ld->rows);
    SP_ASSERT((transposed[1] ? lb->rows : lb->columns) == ld->columns);
    SP_ASSERT((transposed[1] ? lb->columns : lb->rows) == k);
    if (workspace_bytes < needed(number_of(algo)) || !can(number_of(algo), ld->columns) ||
        (number_of(algo) == FAKE_MOODY && ld->columns == 77))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    struct fake_product p = {.d = d,
                             .a = a,
                             .b = b,
                             .c = c,
                             .m = ld->rows,
                             .n = ld->columns,
                             .k = k,
                             .lda = (size_t)la->stride,
                             .ldb = (size_t)lb->stride,
                             .ldd = (size_t)ld->stride,
                             .a_transposed = transposed[0],
                             .b_transposed = transposed[1],
                             .d_bf16 = ld->type == CUDA_R_16BF,
                             .beta = *(const float *)beta,
                             .algorithm = number_of(algo)};
    fake.last_algorithm = (int)p.algorithm;
    return fake_enqueue_product(stream, &p) ? CUBLAS_STATUS_SUCCESS
                                            : CUBLAS_STATUS_EXECUTION_FAILED;
}

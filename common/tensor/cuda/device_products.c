/* Products of cublasLt. What a call needs is made once for each shape of weights, so that a product
 * costs the host little more than its launch: decoding makes some hundred for each token. */
#include "common/tensor/cuda/device_products.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/mem.h"

#define ALIGNED 16 /* bytes; more than this no algorithm is told to rely on */

const struct device_bucket device_buckets[DEVICE_BUCKETS] = {
    {1, 16, 16},     {17, 64, 64},      {65, 128, 128},
    {129, 256, 256}, {257, 1024, 1024}, {1025, INT32_MAX, 4096},
};

static bool ok(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS;
}

/* --- opening --- */

static bool make_plan(cublasLtMatmulDesc_t *ret, bool a_transposed, bool b_transposed)
{
    cublasOperation_t first = b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    return ok(cublasLtMatmulDescCreate(ret, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
           ok(cublasLtMatmulDescSetAttribute(*ret, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                             sizeof(first))) &&
           ok(cublasLtMatmulDescSetAttribute(*ret, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                             sizeof(second)));
}

enum sp_err device_products_open(struct device *d, struct sp_error *err)
{
    struct device_products *products = sp_xalloc(sizeof(*products));
    d->products = products;
    bool fine = ok(cublasLtCreate(&products->blas));
    for (int i = 0; fine && i < 4; i++)
        fine = make_plan(&products->plans[i / 2][i % 2], i / 2, i % 2);
    return fine ? SP_OK
                : sp_fail(err, SP_EUNSUPPORTED,
                          "cublasLt does not start: is libcublas of the driver's CUDA version?");
}

static void free_layouts(struct device_choice *c)
{
    if (c->first)
        cublasLtMatrixLayoutDestroy(c->first);
    if (c->second)
        cublasLtMatrixLayoutDestroy(c->second);
    if (c->result)
        cublasLtMatrixLayoutDestroy(c->result);
}

void device_products_close(struct device *d)
{
    struct device_products *products = d->products;
    if (!products)
        return;
    for (int i = 0; i < products->n_choices; i++)
        free_layouts(&products->choices[i]);
    for (int i = 0; i < 4; i++)
        if (products->plans[i / 2][i % 2])
            cublasLtMatmulDescDestroy(products->plans[i / 2][i % 2]);
    if (products->blas)
        cublasLtDestroy(products->blas);
    free(products->choices);
    free(products);
    d->products = NULL;
}

void device_row_variant(struct device *d, bool allowed)
{
    d->products->row_variant = allowed;
}

/* --- layouts --- */

struct device_product device_product_of(const struct device_choice *c, int32_t rows)
{
    return (struct device_product){.M = c->a_transposed ? c->fixed : rows,
                                   .N = c->N,
                                   .K = c->a_transposed ? rows : c->fixed,
                                   .a_transposed = c->a_transposed,
                                   .b_transposed = c->b_transposed,
                                   .c_bf16 = c->c_bf16};
}

/* What every row's address is a multiple of, when the first one's is. */
static uint32_t row_aligned(int32_t row, size_t unit)
{
    uint64_t bytes = (uint64_t)row * unit;
    return (uint32_t)SP_MIN(bytes & (~bytes + 1), ALIGNED);
}

/* Row-major (r,c) is column-major (c,r) with the same stride. */
static bool make_layout(cublasLtMatrixLayout_t *ret, cudaDataType_t type, int32_t rows,
                        int32_t columns)
{
    return ok(cublasLtMatrixLayoutCreate(ret, type, (uint64_t)columns, (uint64_t)rows, columns));
}

static void make_layouts(struct device_choice *c)
{
    struct device_product p = device_product_of(c, 1);
    int32_t b_row = c->b_transposed ? p.K : p.N, a_row = c->a_transposed ? p.M : p.K;
    bool fine = make_layout(&c->first, CUDA_R_16BF, c->b_transposed ? p.N : p.K, b_row) &&
                make_layout(&c->second, CUDA_R_16BF, c->a_transposed ? p.K : p.M, a_row) &&
                make_layout(&c->result, c->c_bf16 ? CUDA_R_16BF : CUDA_R_32F, p.M, p.N);
    SP_ASSERT(fine); /* takes memory of the host, and little */
    c->first_aligned = row_aligned(b_row, 2);
    c->second_aligned = row_aligned(a_row, 2);
    c->result_aligned = row_aligned(p.N, c->c_bf16 ? 2 : 4);
    c->rows = 1;
}

/* The rows are A's and C's, or those that are summed over, A's and B's. */
static void set_rows(struct device_choice *c, int32_t rows)
{
    uint64_t n = (uint64_t)rows;
    cublasLtMatrixLayout_t other = c->a_transposed ? c->first : c->result;
    if (c->rows == rows)
        return;
    bool fine =
        ok(cublasLtMatrixLayoutSetAttribute(c->second, CUBLASLT_MATRIX_LAYOUT_COLS, &n,
                                            sizeof(n))) &&
        ok(cublasLtMatrixLayoutSetAttribute(other, CUBLASLT_MATRIX_LAYOUT_COLS, &n, sizeof(n)));
    SP_ASSERT(fine);
    c->rows = rows;
}

/* --- candidates --- */

static bool prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t what,
                   const void *value, size_t bytes)
{
    return ok(cublasLtMatmulPreferenceSetAttribute(preference, what, value, bytes));
}

static size_t workspace_bytes(enum device_freedom freedom)
{
    return freedom == DEVICE_ONE_SUM ? DEVICE_LITTLE_WORKSPACE : DEVICE_WORKSPACE_BYTES;
}

static bool make_preference(cublasLtMatmulPreference_t *ret, const struct device_choice *c,
                            enum device_freedom freedom)
{
    uint64_t workspace = workspace_bytes(freedom);
    uint32_t reductions =
        freedom == DEVICE_ANY ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_NONE;
    return ok(cublasLtMatmulPreferenceCreate(ret)) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                  sizeof(reductions)) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &c->first_aligned, 4) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &c->second_aligned, 4) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c->result_aligned, 4) &&
           prefer(*ret, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c->result_aligned, 4);
}

/* k in one go: neither split over blocks nor put together afterwards. What can't split may lack the
 * attribute; numbers below 0 stand for other ways to share k out. There is no attribute that says
 * how an algorithm shares work that doesn't fill the device; one that would put sums of several
 * blocks together needs workspace for them, and a tile of them is larger than
 * DEVICE_LITTLE_WORKSPACE. */
static bool one_sum(const cublasLtMatmulAlgo_t *algo)
{
    int32_t split = 1;
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t written = 0;
    (void)cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                               sizeof(split), &written);
    (void)cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                               &reduction, sizeof(reduction), &written);
    return (split == 0 || split == 1) && reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
}

static bool fits(struct device *d, struct device_choice *c, const cublasLtMatmulAlgo_t *algo,
                 size_t workspace, int32_t rows)
{
    cublasLtMatmulHeuristicResult_t result;
    cublasLtMatmulDesc_t plan = d->products->plans[c->a_transposed][c->b_transposed];
    set_rows(c, rows);
    return ok(cublasLtMatmulAlgoCheck(d->products->blas, plan, c->first, c->second, c->result,
                                      c->result, algo, &result)) &&
           result.workspaceSize <= workspace;
}

int device_candidates(struct device *d, struct device_choice *c, int32_t typical,
                      enum device_freedom freedom, const int32_t *rows, size_t n_rows,
                      struct device_algorithm ret[DEVICE_CANDIDATES])
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t results[DEVICE_CANDIDATES];
    cublasLtMatmulDesc_t plan = d->products->plans[c->a_transposed][c->b_transposed];
    int found = 0, n = 0;
    set_rows(c, typical);
    bool fine = make_preference(&preference, c, freedom) &&
                ok(cublasLtMatmulAlgoGetHeuristic(d->products->blas, plan, c->first, c->second,
                                                  c->result, c->result, preference,
                                                  DEVICE_CANDIDATES, results, &found));
    for (int i = 0; fine && i < found; i++) {
        const cublasLtMatmulAlgo_t *algo = &results[i].algo;
        bool usable = ok(results[i].state) && (freedom == DEVICE_ANY || one_sum(algo));
        for (size_t j = 0; usable && j < n_rows; j++)
            usable = fits(d, c, algo, workspace_bytes(freedom), rows[j]);
        if (usable)
            ret[n++] = (struct device_algorithm){
                .found = true, .workspace = freedom != DEVICE_ONE_SUM, .algo = *algo};
    }
    if (preference)
        cublasLtMatmulPreferenceDestroy(preference);
    return n;
}

/* --- choices --- */

static int bucket_of(int32_t rows)
{
    int i = 0;
    while (rows > device_buckets[i].last)
        i++;
    return i;
}

/* The best for a bucket alone: one that can do all of its numbers of rows, or the typical one. */
static void choose_for_rows(struct device *d, struct device_choice *c, int bucket,
                            enum device_freedom freedom)
{
    const struct device_bucket *b = &device_buckets[bucket];
    int32_t rows[] = {b->first, b->first + 6, b->typical - 1, SP_MIN(b->last, DEVICE_MOST_ROWS)};
    struct device_algorithm all[DEVICE_CANDIDATES];
    int n = device_candidates(d, c, b->typical, freedom, rows, SP_COUNT(rows), all);
    if (n == 0)
        n = device_candidates(d, c, b->typical, freedom, &b->typical, 1, all);
    if (n > 0)
        c->by_rows[bucket] = all[0];
}

/* Said once for each shape. */
static void complain(const struct device_choice *c, const char *what)
{
    fprintf(stderr, "cuda: weights of %d x %d: %s\n", c->N, c->fixed, what);
}

static void choose(struct device *d, struct device_choice *c, int bucket, const void *weights)
{
    SP_ASSERT(!d->graphs.recording); /* takes memory and waits */
    c->chosen[bucket] = true;
    if (c->a_transposed || d->products->row_variant) {
        choose_for_rows(d, c, bucket, c->a_transposed ? DEVICE_WORKSPACE : DEVICE_ANY);
        if (!c->by_rows[bucket].found)
            complain(c, "no algorithm of cublasLt, a plain and slow one is used");
        return;
    }
    bool alike = device_choose_alike(d, c, weights), any = false;
    for (int i = 0; i < DEVICE_BUCKETS; i++) {
        if (!alike)
            choose_for_rows(d, c, i, DEVICE_ONE_SUM);
        if (!c->by_rows[i].found)
            choose_for_rows(d, c, i, DEVICE_WORKSPACE);
        any |= c->by_rows[i].found;
        c->chosen[i] = true;
    }
    if (!any)
        complain(c, "no algorithm of cublasLt, a plain and slow one is used");
    else if (!alike)
        complain(c, "no algorithm of cublasLt does few rows and many; bits may depend on the "
                    "number of rows");
}

/* A place for one more: behind the others, or that of the one that was not used for longest. */
static struct device_choice *free_place(struct device_products *products)
{
    if (products->n_choices == DEVICE_MAX_SHAPES) {
        struct device_choice *oldest = products->choices;
        for (int i = 1; i < products->n_choices; i++)
            if (products->choices[i].used < oldest->used)
                oldest = &products->choices[i];
        free_layouts(oldest);
        return oldest;
    }
    if (products->n_choices == products->capacity) {
        products->capacity = products->capacity > 0 ? 2 * products->capacity : 32;
        products->choices =
            sp_xgrow(products->choices, (size_t)products->capacity, sizeof(*products->choices));
    }
    return &products->choices[products->n_choices++];
}

static enum device_added added_to(const struct device_product *p)
{
    return !p->added ? DEVICE_NOTHING : p->added == p->c ? DEVICE_ITSELF : DEVICE_OTHER;
}

static struct device_choice *find_choice(struct device_products *products,
                                         const struct device_product *p)
{
    int32_t fixed = p->a_transposed ? p->M : p->K;
    for (int i = 0; i < products->n_choices; i++) {
        struct device_choice *c = &products->choices[i];
        if (c->N == p->N && c->fixed == fixed && c->a_transposed == p->a_transposed &&
            c->b_transposed == p->b_transposed && c->added == added_to(p) && c->c_bf16 == p->c_bf16)
            return c;
    }
    struct device_choice *c = free_place(products);
    *c = (struct device_choice){.N = p->N,
                                .fixed = fixed,
                                .a_transposed = p->a_transposed,
                                .b_transposed = p->b_transposed,
                                .added = added_to(p),
                                .c_bf16 = p->c_bf16};
    make_layouts(c);
    return c;
}

/* --- products --- */

bool device_multiply(struct device *d, struct device_choice *c, const struct device_algorithm *a,
                     const struct device_product *p)
{
    const struct device_products *products = d->products;
    const void *before = p->added ? p->added : p->c;
    float one = 1.0f, share = p->added ? 1.0f : 0.0f; /* of what is before */
    set_rows(c, p->a_transposed ? p->K : p->M);
    return ok(cublasLtMatmul(
        products->blas, products->plans[p->a_transposed][p->b_transposed], &one, p->b, c->first,
        p->a, c->second, &share, before, c->result, p->c, c->result, &a->algo, d->workspace,
        a->workspace ? DEVICE_WORKSPACE_BYTES : DEVICE_LITTLE_WORKSPACE, d->stream));
}

/* The shape, with an algorithm chosen for these rows; NULL: there is none, or not for where the
 * matrices lie. */
static struct device_choice *chosen(struct device *d, const struct device_product *p)
{
    int bucket = bucket_of(p->a_transposed ? p->K : p->M);
    struct device_choice *c = find_choice(d->products, p);
    c->used = ++d->products->clock;
    if (!c->chosen[bucket])
        choose(d, c, bucket, p->b);
    bool fine = c->by_rows[bucket].found && (uintptr_t)p->b % c->first_aligned == 0 &&
                (uintptr_t)p->a % c->second_aligned == 0 &&
                (uintptr_t)p->c % c->result_aligned == 0 &&
                (uintptr_t)p->added % c->result_aligned == 0;
    return fine ? c : NULL;
}

static bool product(struct device *d, const struct device_product *p)
{
    int bucket = bucket_of(p->a_transposed ? p->K : p->M);
    struct device_choice *c = chosen(d, p);
    if (!c)
        return false;
    if (device_multiply(d, c, &c->by_rows[bucket], p))
        return true;
    if (c->reference.found && device_multiply(d, c, &c->reference, p))
        return true;
    if (d->graphs.recording) { /* it could before */
        d->graphs.spoiled = true;
        return true;
    }
    if (!c->reference.found)
        return false;
    /* Another way would give other bits, for these rows alone. */
    fprintf(stderr, "cuda: cublasLt can't do a product of %d rows with weights of %d x %d\n", p->M,
            p->N, p->K);
    abort();
}

bool device_can_product(struct device *d, const struct device_product *p)
{
    struct device_product part = *p;
    if (p->M <= 0 || p->N <= 0 || p->K <= 0)
        return false;
    if (!p->a_transposed && p->M > DEVICE_MOST_ROWS) {
        part.M = p->M % DEVICE_MOST_ROWS; /* what is left behind whole parts */
        if (part.M > 0 && !chosen(d, &part))
            return false;
        part.M = DEVICE_MOST_ROWS;
    }
    return chosen(d, &part) != NULL;
}

bool device_do_product(struct device *d, const struct device_product *p)
{
    SP_ASSERT(!(p->a_transposed && p->b_transposed));
    if (p->M <= 0 || p->N <= 0 || p->K <= 0)
        return false;
    if (p->a_transposed || p->M <= DEVICE_MOST_ROWS)
        return product(d, p);
    if (!device_can_product(d, p))
        return false;
    struct device_product part = *p;
    size_t a_row = (size_t)p->K * 2, c_row = (size_t)p->N * (p->c_bf16 ? 2 : 4);
    for (int32_t row = 0; row < p->M; row += part.M) { /* all parts or none */
        part.M = SP_MIN(p->M - row, DEVICE_MOST_ROWS);
        part.a = (const uint8_t *)p->a + (size_t)row * a_row;
        part.c = (uint8_t *)p->c + (size_t)row * c_row;
        if (p->added)
            part.added = (const uint8_t *)p->added + (size_t)row * c_row;
        if (!product(d, &part)) {
            SP_ASSERT(row == 0);
            return false;
        }
    }
    return true;
}

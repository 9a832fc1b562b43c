/* device_products: what device_products.c (products of cublasLt) and device_trials.c (which
 * algorithms do them) share. Sizes as in struct device_product; cublasLt is column-major, so that
 * its first factor is B, its second A, and its result C, each with rows and columns exchanged. */
#ifndef SPIN_TENSOR_CUDA_DEVICE_PRODUCTS_H
#define SPIN_TENSOR_CUDA_DEVICE_PRODUCTS_H

#include <cublasLt.h>

#include "common/tensor/cuda/device_state.h"

#define DEVICE_CANDIDATES 16   /* algorithms that are asked for and tried */
#define DEVICE_BUCKETS 6       /* of numbers of rows */
#define DEVICE_MOST_ROWS 16384 /* of one call; algorithms are asked for no more */
#define DEVICE_MAX_SHAPES 1024
#define DEVICE_LITTLE_WORKSPACE ((size_t)1 << 10) /* for what is no sums: counters, descriptors */

struct device_algorithm {
    bool found, workspace; /* workspace: all of it is given to it, else a little */
    cublasLtMatmulAlgo_t algo;
};

/* What is added to a product. Each kind has algorithms of its own: cublasLt is asked about all of
 * them in the same words, but nothing says that what does one well does the others. */
enum device_added { DEVICE_NOTHING, DEVICE_ITSELF, DEVICE_OTHER };

struct device_choice { /* a shape of weights and the algorithms for it */
    int32_t N, fixed;  /* fixed: K, or M when A is transposed; the other of the two is the rows */
    bool a_transposed, b_transposed, c_bf16;
    enum device_added added;
    cublasLtMatrixLayout_t first, second, result;
    uint32_t first_aligned, second_aligned, result_aligned; /* bytes, of every row */
    int32_t rows;                                           /* that the layouts are for */
    uint64_t used;
    bool chosen[DEVICE_BUCKETS];
    struct device_algorithm by_rows[DEVICE_BUCKETS];
    struct device_algorithm reference; /* for any number of rows, with the same bits */
};

struct device_products {
    cublasLtHandle_t blas;
    cublasLtMatmulDesc_t plans[2][2]; /* by what is transposed */
    struct device_choice *choices;
    int n_choices, capacity;
    uint64_t clock;
    bool row_variant;
};

/* Numbers of rows of a bucket: first … last; `typical` ones are asked about. */
struct device_bucket {
    int32_t first, last, typical;
};
extern const struct device_bucket device_buckets[DEVICE_BUCKETS];

enum device_freedom {
    DEVICE_ONE_SUM,   /* k in one go: a row's sums know nothing of other rows */
    DEVICE_WORKSPACE, /* the same with workspace for sums */
    DEVICE_ANY,       /* k may be split */
};

/* Algorithms for so many rows, best first, that can do all of `rows`; returns how many. */
int device_candidates(struct device *d, struct device_choice *c, int32_t typical,
                      enum device_freedom freedom, const int32_t *rows, size_t n_rows,
                      struct device_algorithm ret[DEVICE_CANDIDATES]);
/* false: the algorithm can't. */
bool device_multiply(struct device *d, struct device_choice *c, const struct device_algorithm *a,
                     const struct device_product *p);
/* The shape's product with so many rows, without addresses. */
struct device_product device_product_of(const struct device_choice *c, int32_t rows);

/* Sets reference and all of by_rows; A is not transposed. weights: a factor B of the shape, which
 * is used where another would be very large. Takes up to 1 GiB for a moment; ends the process when
 * there is no memory. false: no algorithm does any number of rows. (device_trials.c) */
bool device_choose_alike(struct device *d, struct device_choice *c, const void *weights);
/* Weights up to here are tried with others, and memory is waited for so long. Tests have less. */
extern struct device_trial_limits {
    size_t weight_bytes;
    int seconds;
} device_trial_limits;

#endif

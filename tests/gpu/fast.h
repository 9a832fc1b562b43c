/* fast: what the files of the test gpu_fast share: numbers, memory that begins at no round address,
 * and comparisons with loops in double. */
#ifndef SPIN_TESTS_GPU_FAST_H
#define SPIN_TESTS_GPU_FAST_H

#include "common/tensor/backend.h"

#define FAST_HELD 64

struct fast {
    struct tn_backend *b;
    size_t offset;  /* numbers before each array */
    char label[64]; /* what this case is */
    int n, failed;  /* checks */
    void *held[FAST_HELD];
    float *hosts[FAST_HELD];
    int n_held, n_hosts;
};

/* Uniform in [-scale, scale), a function of (seed, index), rounded to what dtype holds. */
float *fast_numbers(size_t n, uint32_t seed, float scale, enum tn_dtype dtype);
/* Memory of the backend with these numbers, or zeros; fast_release frees all that was made. */
void *fast_put(struct fast *f, const float *host, size_t n, enum tn_dtype dtype);
void *fast_drawn(struct fast *f, float **ret_host, size_t n, uint32_t seed, float scale,
                 enum tn_dtype dtype);
void fast_release(struct fast *f);

void fast_ok(struct fast *f, bool ok, const char *name, const char *what);
/* Each number to the precision of dtype, and the error as a whole. */
void fast_expect(struct fast *f, const char *name, const void *got, enum tn_dtype dtype,
                 const double *want, size_t n);
void fast_expect_host(struct fast *f, const char *name, const float *got, enum tn_dtype dtype,
                      const double *want, size_t n);

/* fast_elements.c, fast_bits.c */
void fast_elements(struct fast *f, int32_t T, int32_t D);
void fast_logits(struct fast *f);
void fast_squares(struct fast *f);
void fast_same_bits(struct fast *f);

#endif

/* tensor_test: what the suites of the tensor layer share: inputs, backends, comparisons, and plain
 * references in double, written for reading and not for speed. */
#ifndef SPIN_TESTS_TENSOR_TEST_H
#define SPIN_TESTS_TENSOR_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/tensor/backend.h"

/* Uniform in [-scale, scale), a function of (seed, index) only. */
void fill(float *x, size_t n, uint32_t seed, float scale);
/* New arrays, zeroed, freed by free_arrays: a checked fixture of every case. */
void *array(size_t n, size_t elem_bytes);
float *zeros(size_t n);
float *filled(size_t n, uint32_t seed, float scale);
void free_arrays(void);
uint32_t pick(uint32_t seed, uint32_t index, uint32_t bound); /* an integer below bound */

/* NULL when this CPU lacks the instruction set (says so); other failures end the test. */
struct tn_backend *open_backend(const char *name, const char *isa, int32_t threads);

/* ‖a − b‖ / ‖b‖ */
double error_f(const float *a, const float *b, size_t n);
double error_d(const float *a, const double *b, size_t n);

/* Runs on "cpu" with every instruction set that the CPU has and 1, 2 and 3 threads, and on
 * "cuda-fp32" with its kernels run by the host, and fails unless all n floats have the same bits in
 * each. */
typedef void output_fn(struct tn_backend *backend, float *out);
void check_same_bits(output_fn *run, size_t n);
/* Runs on "cpu" and on "openblas" and compares by normalised error. */
void check_backends_agree(output_fn *run, size_t n, double tolerance);

/* Gradient check: f is a function of n doubles; `gradient` (fp32, of the operation under test) is
 * compared with central differences of f in random directions. */
typedef double scalar_fn(const double *x, void *context);
void check_gradient(scalar_fn *f, void *context, const float *x, const float *gradient, size_t n,
                    double tolerance);

#endif

/* fake_cuda: the functions of CUDA's runtime and of cublasLt that the device asks for, on the host,
 * so that its own code (common/tensor/cuda/device*.c) is run where there is no device. Kernels are
 * those of emulate.h. Work is done as late as CUDA allows: when somebody waits for it, so that a
 * buffer that is used again too early is seen. Memory is filled with a pattern when it is had.
 * What a device refuses is refused: copies beyond what was had, launches that are too large or have
 * more shared memory than was asked for, graphs of memory that was freed. What would be undefined
 * ends the program: an algorithm for another problem than it was asked for, or at addresses that
 * are not aligned as was said.
 *
 * cublasLt has algorithms with the faults that the device must find out (fake_blas.c), and a clock
 * that goes by what each of them is said to cost. */
#ifndef SPIN_TESTS_GPU_FAKE_CUDA_H
#define SPIN_TESTS_GPU_FAKE_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fake_algorithm {
    FAKE_SPLIT,     /* splits k */
    FAKE_REDUCES,   /* puts sums together afterwards */
    FAKE_STREAM,    /* shares k out to blocks as it comes, which a number of splits below 0 says */
    FAKE_BY_COUNT,  /* sums in another order when there are few rows */
    FAKE_BY_PLACE,  /* and for every other row */
    FAKE_BACKWARDS, /* k from the end: quick, other bits, and nobody says that it does few rows */
    FAKE_PLAIN,     /* k from the start; can't split, and knows no number of splits */
    FAKE_FEW,       /* the same, quicker, for up to 64 rows */
    FAKE_MANY,      /* the same, quicker, for more than 1024 */
    FAKE_MOODY,     /* the same, quicker, for 65 to 128, but for 77 rows it fails */
    FAKE_FORGETS,   /* the same, quicker, for 129 to 1024, but doesn't read C unless it is D */
    FAKE_ALGORITHMS,
};

struct fake_product { /* one call of cublasLtMatmul, sizes and types as cublasLt has them */
    void *d;
    const void *a, *b, *c; /* c: of d's form */
    size_t m, n, k, lda, ldb, ldd;
    bool a_transposed, b_transposed, d_bf16;
    float beta;
    enum fake_algorithm algorithm;
};
void fake_multiply(const struct fake_product *p);
double fake_cost(const struct fake_product *p);
/* Whether so many bytes from there on are of one piece of memory, a device's or pinned. */
bool fake_is_had(const void *at, size_t bytes);
/* Puts it behind the stream's other work, or into what is recorded; false: it can't. */
bool fake_enqueue_product(cudaStream_t stream, const struct fake_product *p);

struct fake {
    size_t memory_bytes; /* that can be had */
    size_t others_bytes; /* of it another process has, until so many allocations have failed: */
    int others_patience;
    bool no_kernels;      /* for this device */
    bool needs_workspace; /* every algorithm */
    bool no_algorithms, no_pinned, no_graphs;
    bool no_recording; /* it begins, but no work can be recorded */
    bool no_graph_memory;
    int recordings;     /* that began */
    int last_algorithm; /* of the newest call */
    int heuristics;     /* calls */
};
extern struct fake fake;

#endif

/* fast: the kernels of the backend "cuda" whose time is memory's, with their arguments: norms, what
 * goes element by element, tables of rows, logits (fast_*.cu), and what the host needs to launch
 * them (ops_fast.c).
 *
 * Activations are bf16. Weights and gradients are bf16 where `w_bf16` says so, else fp32.
 * Statistics, norms' weights, angles and logits are fp32. Sums are fp32 (squares of gradients
 * double), results are rounded once. A row's bits depend on its numbers and its width alone: not on
 * other rows, how many there are, or where they lie. Gradients that sum over rows cut them into
 * chunks by their number alone.
 *
 * Threads go by eights: eight neighbouring columns are one thread's, in one access of 16 bytes of
 * bf16 where `wide` says that addresses and rows allow it, else one by one, by the same thread in
 * the same order. */
#ifndef SPIN_TENSOR_CUDA_FAST_H
#define SPIN_TENSOR_CUDA_FAST_H

#include "common/tensor/cuda/kernels.h"

#define GPU_EIGHT 8
#define GPU_HELD 4             /* eights of a row that a thread keeps in registers */
#define GPU_FOLD_COLUMNS 32    /* columns of a block that adds chunks */
#define GPU_ROWS_OF_CHUNK 64   /* at least, and a multiple of it */
#define GPU_MAX_ROW_CHUNKS 256 /* of a sum over rows */

/* --- norms (fast_norms.cu) --- */

/* n rows of D columns: row i is head i % heads of row i / heads of the batch, rows of which are
 * `stride` apart. `group` threads (a power of two that D alone chooses) do a row. */
struct gpu_norm {
    uint16_t *y;
    const uint16_t *x, *dy;
    float *stats; /* centred: mean and rstd of each row; else rstd; the forward's may be NULL */
    const float *w, *bias; /* bias: NULL is none */
    size_t stride;
    uint32_t n, heads;
    int32_t D, group;
    int32_t centred; /* layer norm; else RMS norm */
    int32_t accumulate, wide;
    float eps;
};
GPU_HANDLE(gpu_fast_norm);    /* y = (x − mean)·rstd·w + bias */
GPU_HANDLE(gpu_fast_norm_dx); /* y = or += gradient of x; y may be dy */

enum gpu_columns_kind { GPU_COLUMNS_SUM, GPU_COLUMNS_RMS, GPU_COLUMNS_CENTRED };

/* parts(chunks, D): sums over each chunk's rows of dy·x̂, of dy alone for GPU_COLUMNS_SUM. Block y
 * is the chunk, block x the columns: `width` threads side by side, eights each. */
struct gpu_columns {
    float *parts;
    const uint16_t *dy, *x;
    const float *stats;
    size_t stride;
    uint32_t n, heads, chunk_rows;
    int32_t D, width, wide;
    int32_t kind; /* enum gpu_columns_kind */
    int32_t unused;
};
GPU_HANDLE(gpu_fast_columns);

struct gpu_fold { /* y(D) += the chunks of parts, in order */
    void *y;
    const float *parts;
    int32_t chunks, D, w_bf16, unused;
};
GPU_HANDLE(gpu_fast_fold);

/* --- element by element (fast_pointwise.cu) --- */

/* n eights, or for plain arrays n elements; which member is what stands at the kernel. Rows of D
 * columns are of `eights` eights, the last of which may be less. */
struct gpu_flow {
    uint16_t *y;
    const uint16_t *a, *b;
    const void *w; /* weights, or tables */
    const float *cos, *sin;
    const int32_t *ids;
    size_t n, stride;
    uint32_t eights, heads;
    int32_t D, C, rotary;
    int32_t w_bf16, wide, flag;
    float p, q;
};
GPU_HANDLE(gpu_fast_add);
GPU_HANDLE(gpu_fast_affine);
GPU_HANDLE(gpu_fast_bias);
GPU_HANDLE(gpu_fast_glu);
GPU_HANDLE(gpu_fast_glu_bwd);
GPU_HANDLE(gpu_fast_gelu);
GPU_HANDLE(gpu_fast_gelu_bwd);
GPU_HANDLE(gpu_fast_rope);

/* --- tables of rows, conversions, squares (fast_tables.cu) --- */

GPU_HANDLE(gpu_fast_gather);
GPU_HANDLE(gpu_fast_scatter);

struct gpu_run { /* rows [first, first + count) of the list have this id */
    int32_t id, first, count;
};
struct gpu_runs { /* rows ids of y(·, D) += the listed rows of dy, in the list's order */
    void *y;
    const uint16_t *dy;
    const int32_t *rows;
    const struct gpu_run *runs;
    int32_t D, w_bf16, wide, unused;
};
GPU_HANDLE(gpu_fast_embed_bwd);

struct gpu_convert { /* to = from + shift */
    void *to;
    const void *from;
    size_t n;
    int32_t to_bf16, from_bf16, wide;
    float shift;
};
GPU_HANDLE(gpu_fast_convert);

struct gpu_fast_squares {
    double *sums; /* one for each chunk of GPU_CHUNK */
    const void *x;
    size_t n;
    int32_t w_bf16, wide;
};
GPU_HANDLE(gpu_fast_sum_squares);

/* --- logits (fast_logits.cu): arguments as for the plain ones --- */
GPU_HANDLE(gpu_fast_row_lse);
GPU_HANDLE(gpu_fast_logits_bwd);

#endif

/* cuda: what the host's side of the CUDA backends shares. "cuda-fp32" stores everything as fp32 and
 * has plain kernels with the cpu backend's sums in their order: the reference (ops_attention.c,
 * ops_products.c, ops_rows.c). "cuda" stores activations as bf16 and has its own operations for
 * most, with sums in fp32: ops_fast.c, ops_fast_products.c, ops_flash.c, ops_flash_bwd.c.
 * ops_logits.c and ops_optimizers.c serve both.
 *
 * Tables that an operation gets from the host (ids, positions, targets) are copied to blocks of the
 * device that are used again and again; copies and kernels are done in order, so that nothing
 * overtakes. Blocks grow when an operation needs more than was reserved. */
#ifndef SPIN_TENSOR_CUDA_CUDA_H
#define SPIN_TENSOR_CUDA_CUDA_H

#include "common/tensor/backend.h"
#include "common/tensor/cuda/device.h"
#include "common/tensor/cuda/kernels.h"

#define TN_CUDA_REVISION 3
#define TN_CUDA_BLOCKS 1024 /* blocks of attention at a time, each with scores in scratch */

enum cuda_block {
    CUDA_TABLE, /* host tables: an operation has at most three */
    CUDA_TABLE2,
    CUDA_TABLE3,
    CUDA_RESULT, /* what goes to the host */
    CUDA_RESULT2,
    CUDA_SCORES, /* of attention; sorted lists of sampling */
    CUDA_SUMS,
    CUDA_NARROW_A, /* factors as bf16 */
    CUDA_NARROW_B,
    CUDA_BLOCK_COUNT,
};

struct cuda_mirror { /* the table that was put to a block last; at NULL: none, or a large one */
    const void *at;
    uint64_t pass;
    size_t n;
    uint8_t bytes[8192];
};

struct tn_cuda {
    struct tn_ops ops;
    struct device *device;
    uint64_t pass; /* changes when a pass begins or ends: tables of a pass are put there in it */
    bool fast;     /* "cuda" */
    struct {
        void *at;
        size_t bytes;
    } blocks[CUDA_BLOCK_COUNT];
    struct cuda_mirror mirrors[CUDA_BLOCK_COUNT];
};

static inline struct tn_cuda *tn_cuda_of(struct tn_backend *backend)
{
    return (struct tn_cuda *)backend->state;
}
static inline size_t cuda_parts(size_t n, size_t of)
{
    return (n + of - 1) / of;
}

bool cuda_grow(struct tn_cuda *cuda, enum cuda_block block, size_t bytes); /* false: no memory */
/* At least so many bytes; aborts when there is no memory: an operation can't fail. */
void *cuda_scratch(struct tn_cuda *cuda, enum cuda_block block, size_t bytes);
/* A host table's copy on the device. */
void *cuda_table(struct tn_cuda *cuda, enum cuda_block block, const void *host, size_t bytes);

/* A table of n ids, positions or rows, in CUDA_TABLE. */
const int32_t *cuda_ids(struct tn_cuda *cuda, const int32_t *ids, int32_t n);
/* The sum of n numbers of the device, in order. */
double cuda_sum(struct tn_cuda *cuda, const double *numbers, size_t n);
double cuda_now(void); /* seconds of a clock */

/* Launches over n elements, and over n rows of GPU_LANES threads each. */
void cuda_flat(struct tn_cuda *cuda, const void *kernel, size_t n, const void *args);
void cuda_rows(struct tn_cuda *cuda, const void *kernel, size_t n, const void *args);

/* The operations of each file, put into the table. */
void cuda_add_rows(struct tn_ops *ops);
void cuda_add_optimizers(struct tn_ops *ops);
void cuda_add_products(struct tn_ops *ops);
void cuda_add_fast_products(struct tn_ops *ops); /* for bf16 activations; over the others */
void cuda_add_attention(struct tn_ops *ops);
void cuda_add_logits(struct tn_ops *ops);
/* Of "cuda", over those before: on bf16 activations. */
void cuda_add_flash(struct tn_ops *ops);
void cuda_add_flash_bwd(struct tn_ops *ops);
void cuda_add_fast(struct tn_ops *ops); /* of "cuda", over those before */

/* to = from + shift between fp32 and bf16 */
void cuda_convert(struct tn_cuda *cuda, void *to, bool to_bf16, const void *from, bool from_bf16,
                  float shift, size_t n);

/* Scratch of attention for sequences of `longest` positions and of sampling; see tn_ops.reserve. */
size_t cuda_attention_bytes(int32_t rows, int32_t longest, int32_t heads);
/* Scratch (CUDA_SUMS) of sums over rows, of so many columns. */
size_t cuda_fast_bytes(int32_t rows, int32_t width);

#endif

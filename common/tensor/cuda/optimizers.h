/* optimizers: the kernels of optimizers.cu with their arguments; see kernels.h. */
#ifndef SPIN_TENSOR_CUDA_OPTIMIZERS_H
#define SPIN_TENSOR_CUDA_OPTIMIZERS_H

#include "common/tensor/cuda/kernels.h"

#define GPU_UPDATE_EACH 8    /* elements of a thread */
#define GPU_UPDATE_PART 2048 /* of a block of GPU_FLAT threads at a time */
#define GPU_CODES 256        /* TN_STATE_CODES, and elements of a block of the state */
#define GPU_CODE_BITS 8
#define GPU_CODE_THREADS 32  /* that have a block of the state between them */
#define GPU_CODE_BLOCKS 1024 /* blocks of threads at most; each goes on with the next part */

struct gpu_map { /* tn_state_map, as it lies */
    float value[GPU_CODES], limit[GPU_CODES];
};

struct gpu_update {
    void *w;                    /* fp32 or bf16 */
    const void *g;              /* as w */
    void *m, *v;                /* fp32 or, in the 8bit kernels, codes; m is of adamw only */
    float *m_scales, *v_scales; /* of the blocks of codes */
    const struct gpu_map *signed_map, *root_map;
    size_t n;
    uint64_t seed, step;
    int32_t bf16;  /* w and g */
    int32_t apart; /* not everything lies at a multiple of 16 bytes: no wide accesses */
    /* rmsprop: lr, alpha, 1 − alpha, eps, decay, scale of g. adamw: beta1, 1 − beta1, beta2,
     * 1 − beta2, eps, what w keeps, rate, root of the second correction, scale of g. */
    float o[10];
};
GPU_HANDLE(gpu_rmsprop_wide);
GPU_HANDLE(gpu_adamw_wide);
GPU_HANDLE(gpu_rmsprop_8bit);
GPU_HANDLE(gpu_adamw_8bit);

#endif

/* gpu: the language of the kernels (*.cu): the common part of C and C++, and these words. nvcc
 * makes device code of it; tests/gpu/emulate.h defines the same words for a C compiler, which runs
 * the kernels thread by thread on the host, so that their indices and their bits are tested where
 * there is no device.
 *
 * A kernel takes one struct, `p`. Its body is a row of phases:
 *     GPU_EACH { what each thread does; `continue` ends the phase for the thread }
 *     GPU_SYNC();
 * Loops and conditions around phases are the same for all threads of a block. What a thread keeps
 * from phase to phase is GPU_OWN type name[GPU_COPIES][…], and it uses name[GPU_SELF]. Blocks have
 * at most GPU_THREADS threads.
 *
 * Numbers: built with -fmad=false and IEEE division and square root: what is fused is written fmaf,
 * as in the rest of the project, and every sum has the order that the cpu backend gives it. */
#ifndef SPIN_TENSOR_CUDA_GPU_H
#define SPIN_TENSOR_CUDA_GPU_H

#define GPU_THREADS 256

#ifndef GPU_EMULATED
#define GPU_FN static __device__ __forceinline__
#define GPU_SHARED __shared__
#define GPU_OWN
#define GPU_COPIES 1
#define GPU_SELF 0
#define GPU_EACH for (int gpu_once = 1; gpu_once; gpu_once = 0)
#define GPU_SYNC() __syncthreads()
/* The kernel, and for the host a handle of it: GPU_HANDLE in kernels.h declares it. */
#define GPU_KERNEL(name, args)                                                                     \
    __global__ void name(const struct args p);                                                     \
    extern "C" {                                                                                   \
    const void *const name##_kernel = (const void *)name;                                          \
    }                                                                                              \
    __global__ void name(const struct args p)
#endif

#endif

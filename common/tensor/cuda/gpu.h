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
 * A warp's 32 threads (blocks of x threads only) work together on tiles of 16 × 16:
 *     GPU_EACH_WARP { what each warp does, tile by tile; GPU_WARP is its number in the block }
 *     GPU_SYNC();
 * Tiles that a warp keeps from phase to phase are GPU_OWN_WARP gpu_sum name[GPU_WARP_COPIES][…],
 * used as name[GPU_WARP_SELF]. gpu_tile_… load and store whole tiles, from and to shared or device
 * memory; `ld` counts elements between rows and is a multiple of 8, as are addresses of 16 bytes.
 *
 * Sums over a warp: gpu_warp_sum(own, width), between phases, replaces own[GPU_SELF] of every
 * thread by the sum over its group of `width` threads (a power of two, at most a warp), in one
 * fixed tree; all threads of a block reach it, and blocks are of whole warps.
 *
 * gpu_quad is what one access of 16 bytes brings, at addresses of 16 bytes. gpu_bf16_pair rounds
 * two numbers to nearest even; gpu_fast_exp and gpu_fast_divide are good to some units in the last
 * place and are not the bits of the cpu backend.
 *
 * Shared memory whose size the launch says (device_launch_shared) is GPU_DYNAMIC, aligned to 128
 * bytes; tiles in static shared memory are GPU_SHARED_TILES.
 *
 * Numbers: built with -fmad=false and IEEE division and square root: what is fused is written fmaf,
 * as in the rest of the project, and every sum has the order that the cpu backend gives it. */
#ifndef SPIN_TENSOR_CUDA_GPU_H
#define SPIN_TENSOR_CUDA_GPU_H

#define GPU_THREADS 256
#define GPU_WARP_THREADS 32
#define GPU_TILE_SIDE 16

#ifndef GPU_EMULATED
#include <mma.h>

#define GPU_FN static __device__ __forceinline__
#define GPU_SHARED __shared__
#define GPU_SHARED_TILES __shared__ __align__(128)
#define GPU_DYNAMIC ((void *)gpu_dynamic)
extern __shared__ __align__(128) unsigned char gpu_dynamic[];
#define GPU_OWN
#define GPU_COPIES 1
#define GPU_SELF 0
#define GPU_EACH for (int gpu_once = 1; gpu_once; gpu_once = 0)
#define GPU_SYNC() __syncthreads()
#define GPU_WARP (threadIdx.x / GPU_WARP_THREADS)
#define GPU_EACH_WARP GPU_EACH
#define GPU_OWN_WARP
#define GPU_WARP_COPIES 1
#define GPU_WARP_SELF 0
#define gpu_warp_sum(own, width)                                                                   \
    for (int gpu_apart = (int)(width) / 2; gpu_apart > 0; gpu_apart /= 2)                          \
    (own)[0] += __shfl_xor_sync(0xffffffffu, (own)[0], gpu_apart)
typedef uint4 gpu_quad;
#define gpu_quad_load(from) (*(const uint4 *)(from))
#define gpu_quad_store(to, quad) ((void)(*(uint4 *)(to) = (quad)))
#define gpu_fast_exp(x) __expf(x)
#define gpu_fast_divide(a, b) __fdividef(a, b)
/* The kernel, and for the host a handle of it: GPU_HANDLE in kernels.h declares it. */
#define GPU_KERNEL(name, args)                                                                     \
    __global__ void name(const struct args p);                                                     \
    extern "C" {                                                                                   \
    const void *const name##_kernel = (const void *)name;                                          \
    }                                                                                              \
    __global__ void name(const struct args p)

/* Tiles: factors of bf16, sums of fp32. A factor read "across" lies transposed in memory. */
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16,
                               nvcuda::wmma::row_major>
    gpu_left;
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16,
                               nvcuda::wmma::col_major>
    gpu_left_across;
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16,
                               nvcuda::wmma::row_major>
    gpu_right;
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16,
                               nvcuda::wmma::col_major>
    gpu_right_across;
typedef nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> gpu_sum;

#define gpu_tile_load(tile, from, ld)                                                              \
    nvcuda::wmma::load_matrix_sync(*(tile), (const __nv_bfloat16 *)(from), (unsigned)(ld))
#define gpu_tile_zero(sum) nvcuda::wmma::fill_fragment(*(sum), 0.0f)
/* sum += left·right */
#define gpu_tile_multiply(sum, left, right)                                                        \
    nvcuda::wmma::mma_sync(*(sum), *(left), *(right), *(sum))
#define gpu_tile_load_sum(sum, from, ld)                                                           \
    nvcuda::wmma::load_matrix_sync(*(sum), (const float *)(from), (unsigned)(ld),                  \
                                   nvcuda::wmma::mem_row_major)
#define gpu_tile_store_sum(to, sum, ld)                                                            \
    nvcuda::wmma::store_matrix_sync((float *)(to), *(sum), (unsigned)(ld),                         \
                                    nvcuda::wmma::mem_row_major)

GPU_FN unsigned gpu_bf16_pair(float low, float high)
{
    const __nv_bfloat162_raw pair = __floats2bfloat162_rn(low, high);
    return (unsigned)pair.x | (unsigned)pair.y << 16;
}
#endif

#endif

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
 * at most GPU_THREADS threads. GPU_KERNEL_FIT says how many they have, and how many blocks a
 * multiprocessor's registers shall suffice for.
 *
 * A warp's 32 threads (blocks of x threads only) work together on tiles of 16 × 16:
 *     GPU_EACH_WARP { what each warp does, tile by tile; GPU_WARP is its number in the block }
 *     GPU_SYNC();
 * Tiles that a warp keeps from phase to phase are GPU_OWN_WARP gpu_sum name[GPU_WARP_COPIES][…],
 * used as name[GPU_WARP_SELF]. Tiles of factors are bf16, of sums fp32; a factor read "across" lies
 * transposed in memory. gpu_tile_… load factors from shared memory, and load and store sums from
 * and to shared or device memory; `ld` counts elements between rows and is a multiple of 8, as are
 * addresses of 16 bytes. In a GPU_EACH of such a block each thread has eight elements of its warp's
 * sums: gpu_tile_at(sum, i), i < 8, at gpu_tile_row(i) and gpu_tile_column(i); pairs from an even i
 * on are neighbours in a row.
 *
 * GPU_SYNC_WARP() is a barrier for the threads of each warp, which GPU_LANE numbers: what a warp
 * stored, its threads may read behind it.
 *
 * GPU_UNROLL before a loop whose number of steps is known writes the steps out, so that what its
 * counter is an index of can be in registers.
 *
 * 16 bytes at a time, at multiples of 16: gpu_load_16 and gpu_store_16 move them as four words
 * (gpu_store_4: one); gpu_fetch_16 copies them to shared memory meanwhile: there when the thread
 * has called gpu_fetched, and for the others behind the GPU_SYNC after it. gpu_pack makes a word of
 * two numbers rounded to bf16, the first at the lower address.
 *
 * gpu_exp2 is 2 to a power by the device's own instruction: its bits are the device's, and no
 * denormals come of it.
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
#include <cuda_bf16.h>
#include <cuda_pipeline.h>

#include "common/tensor/cuda/kernels.h"

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
#define GPU_UNROLL _Pragma("unroll")
#define GPU_WARP (threadIdx.x / GPU_WARP_THREADS)
#define GPU_LANE (threadIdx.x % GPU_WARP_THREADS)
#define GPU_SYNC_WARP() __syncwarp()
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
#define GPU_KERNEL_BOUNDED(name, args, bounds)                                                     \
    __global__ void bounds name(const struct args p);                                              \
    static const struct gpu_handle name##_handle = {(const void *)name, sizeof(struct args)};      \
    extern "C" {                                                                                   \
    const void *const name##_kernel = &name##_handle;                                              \
    }                                                                                              \
    __global__ void bounds name(const struct args p)
#define GPU_KERNEL(name, args) GPU_KERNEL_BOUNDED(name, args, )
#define GPU_KERNEL_FIT(name, args, threads, blocks)                                                \
    GPU_KERNEL_BOUNDED(name, args, __launch_bounds__(threads, blocks))

#include "common/tensor/cuda/gpu_tiles.h"

GPU_FN float gpu_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#define gpu_fetch_16(to, from) __pipeline_memcpy_async((to), (from), 16)
GPU_FN void gpu_fetched(void)
{
    __pipeline_commit();
    __pipeline_wait_prior(0);
}
GPU_FN void gpu_load_16(unsigned to[4], const void *from)
{
    const uint4 words = *(const uint4 *)from;
    to[0] = words.x;
    to[1] = words.y;
    to[2] = words.z;
    to[3] = words.w;
}
GPU_FN void gpu_store_16(void *to, const unsigned from[4])
{
    *(uint4 *)to = make_uint4(from[0], from[1], from[2], from[3]);
}
GPU_FN void gpu_store_4(void *to, unsigned word)
{
    *(unsigned *)to = word;
}
GPU_FN unsigned gpu_bf16_pair(float low, float high)
{
    const __nv_bfloat162_raw pair = __floats2bfloat162_rn(low, high);
    return (unsigned)pair.x | (unsigned)pair.y << 16;
}
#define gpu_pack(first, second) gpu_bf16_pair((first), (second))
#endif

#endif

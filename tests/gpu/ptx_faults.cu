/* Kernels that are right without `wrong`, and with it have the fault that they are named after:
 * what the machine of ptx.h finds. Blocks of 64 threads, 256 bytes of dynamic shared memory. */
#include <cuda_pipeline.h>

#include "tests/gpu/ptx_faults.h"

extern __shared__ __align__(128) unsigned dynamic[];

__global__ void fault_warps(const struct fault p) /* another warp's, with no barrier */
{
    dynamic[threadIdx.x] = 0;
    __syncthreads();
    dynamic[threadIdx.x] = threadIdx.x;
    if (!p.wrong)
        __syncthreads();
    p.to[threadIdx.x] = dynamic[63 - threadIdx.x];
}

__global__ void fault_overwrite(const struct fault p) /* written while others read */
{
    dynamic[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x >= 32)
        p.to[threadIdx.x] = dynamic[63 - threadIdx.x];
    if (!p.wrong)
        __syncthreads();
    if (threadIdx.x < 32)
        dynamic[threadIdx.x] = 1;
}

__global__ void fault_lanes(const struct fault p) /* another lane's, with no barrier of the warp */
{
    dynamic[threadIdx.x] = threadIdx.x;
    if (!p.wrong)
        __syncwarp();
    p.to[threadIdx.x] = dynamic[threadIdx.x ^ 1];
}

__global__ void fault_warp_barrier(const struct fault p) /* which other warps take no part in */
{
    dynamic[threadIdx.x] = 0;
    __syncthreads();
    dynamic[threadIdx.x] = threadIdx.x;
    __syncwarp();
    p.to[threadIdx.x] = dynamic[threadIdx.x ^ (p.wrong ? 32 : 1)];
}

__global__ void fault_blocks(const struct fault p) /* two blocks, the same memory */
{
    unsigned i = (p.wrong ? 0 : blockIdx.x * 64) + threadIdx.x;
    p.to[i] = i;
}

__global__ void fault_shared_unwritten(const struct fault p)
{
    if (threadIdx.x < (p.wrong ? 63 : 64))
        dynamic[threadIdx.x] = 1;
    __syncthreads();
    p.to[threadIdx.x] = dynamic[threadIdx.x];
}

__global__ void fault_global_unwritten(const struct fault p)
{
    p.to[threadIdx.x] = (p.wrong ? p.unwritten : p.from)[threadIdx.x];
}

__global__ void fault_aligned(const struct fault p) /* 16 bytes at a multiple of 4 */
{
    const uint4 four = *(const uint4 *)(p.from + (p.wrong ? 1 : 0));
    p.to[threadIdx.x] = four.x + four.y + four.z + four.w;
}

__global__ void fault_global_end(const struct fault p)
{
    p.to[threadIdx.x] = p.from[threadIdx.x + (p.wrong ? p.n - 63 : 0)];
}

__global__ void fault_shared_end(const struct fault p)
{
    dynamic[threadIdx.x + (p.wrong ? 1 : 0)] = 1;
}

__global__ void fault_fetched(const struct fault p) /* used before it is there */
{
    if (threadIdx.x % 4 == 0)
        __pipeline_memcpy_async(dynamic + threadIdx.x, p.from + threadIdx.x, 16);
    __pipeline_commit();
    if (!p.wrong)
        __pipeline_wait_prior(0);
    __syncthreads();
    p.to[threadIdx.x] = dynamic[threadIdx.x];
    __pipeline_wait_prior(0);
}

__global__ void fault_left(const struct fault p) /* ends with a copy under way */
{
    if (threadIdx.x % 4 == 0)
        __pipeline_memcpy_async(dynamic + threadIdx.x, p.from + threadIdx.x, 16);
    __pipeline_commit();
    if (!p.wrong)
        __pipeline_wait_prior(0);
}

__global__ void fault_missing(const struct fault p) /* a warp has ended */
{
    if (p.wrong && threadIdx.x >= 32)
        return;
    __syncthreads();
    p.to[threadIdx.x] = 1;
}

__global__ void fault_two_barriers(const struct fault p) /* not the same one for all */
{
    if (threadIdx.x < (p.wrong ? 32 : 64)) {
        __syncthreads();
        p.to[threadIdx.x] = 1;
    } else {
        __syncthreads();
        p.to[threadIdx.x] = 2;
    }
}

__global__ void fault_half(const struct fault p) /* half a warp exchanges numbers with all of it */
{
    unsigned number = threadIdx.x;
    if (threadIdx.x % 32 < (p.wrong ? 16 : 32))
        number = __shfl_xor_sync(0xffffffffu, number, 1);
    p.to[threadIdx.x] = number;
}

__global__ void fault_zero(const struct fault p)
{
    p.to[threadIdx.x] = p.n / (p.wrong ? threadIdx.x : threadIdx.x + 1);
}

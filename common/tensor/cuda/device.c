/* Opening and closing, and launches of kernels. */
#include "common/tensor/cuda/device_state.h"
#include "common/tensor/cuda/kernels.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/explain.h"
#include "common/tensor/cuda/products_typed.h"

void device_check(cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess)
        return;
    fprintf(stderr, "cuda: %s: %s (%s)\n", what, cudaGetErrorString(rc), cudaGetErrorName(rc));
    abort();
}

void device_check_work(struct device *d, cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess || !d->graphs.recording)
        device_check(rc, what);
    else
        d->graphs.spoiled = true;
}

/* --- opening --- */

static enum sp_err failed(cudaError_t rc, const char *device, struct sp_error *err)
{
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    struct cuda_trouble trouble = {.driver = driver,
                                   .runtime = runtime,
                                   .device = device,
                                   .code = rc == cudaErrorMemoryAllocation     ? CUDA_NO_MEMORY
                                           : rc == cudaErrorNoDevice           ? CUDA_NO_DEVICE
                                           : rc == cudaErrorInsufficientDriver ? CUDA_OLD_DRIVER
                                           : rc == cudaErrorNoKernelImageForDevice ||
                                                   rc == cudaErrorInvalidDeviceFunction
                                               ? CUDA_NO_KERNELS
                                               : CUDA_OTHER,
                                   .text = cudaGetErrorString(rc)};
    return cuda_explain(&trouble, err);
}

enum sp_err device_describe(struct device_info *ret, struct sp_error *err)
{
    int count = 0;
    struct cudaDeviceProp properties;
    cudaError_t rc = cudaGetDeviceCount(&count);
    if (rc == cudaSuccess && count == 0)
        rc = cudaErrorNoDevice;
    if (rc == cudaSuccess)
        rc = cudaGetDeviceProperties(&properties, 0);
    if (rc != cudaSuccess)
        return failed(rc, NULL, err);
    size_t version = cublasLtGetVersion();
    *ret = (struct device_info){.arch = 10 * properties.major + properties.minor,
                                .memory_bytes = properties.totalGlobalMem};
    snprintf(ret->name, sizeof(ret->name), "%.90s", properties.name);
    snprintf(ret->library, sizeof(ret->library), "cublasLt %zu.%zu.%zu", version / 10000,
             version / 100 % 100, version % 100);
    return SP_OK;
}

/* CUDA looks for a kernel when it is first used, which would be too late to say that there is none:
 * all are built for the same devices, so one is looked for now. */
static cudaError_t find_kernels(void)
{
    struct cudaFuncAttributes ignored;
    return cudaFuncGetAttributes(&ignored, ((const struct gpu_handle *)gpu_noise_kernel)->function);
}

enum sp_err device_open(struct device **ret, struct sp_error *err)
{
    struct device_info info;
    enum sp_err rc = device_describe(&info, err);
    if (rc != SP_OK)
        return rc;
    struct device *d = sp_xalloc(sizeof(*d));
    d->passes = device_passes_new();
    cudaError_t cuda = cudaSetDevice(0);
    if (cuda == cudaSuccess)
        cuda = cudaFree(NULL); /* makes the context, which takes some hundred MiB */
    if (cuda == cudaSuccess)
        cuda = find_kernels();
    if (cuda == cudaSuccess)
        cuda = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (cuda == cudaSuccess)
        cuda = cudaMalloc(&d->workspace, DEVICE_WORKSPACE_BYTES);
    rc = cuda == cudaSuccess ? device_products_open(d, err) : failed(cuda, info.name, err);
    if (rc != SP_OK) {
        device_close(d);
        return rc;
    }
    *ret = d;
    return SP_OK;
}

void device_close(struct device *d)
{
    if (!d)
        return;
    if (d->stream)
        (void)cudaStreamSynchronize(d->stream); /* for what uses memory that is freed now */
    device_passes_free(d);
    device_forget_graphs(d);
    device_products_close(d);
    device_memory_close(d);
    if (d->workspace)
        (void)cudaFree(d->workspace);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    free(d);
}

/* --- work --- */

struct device_passes *device_passes_of(struct device *d)
{
    return d->passes;
}

void device_do_launch(struct device *d, const void *kernel, struct device_grid blocks,
                      struct device_grid threads, size_t shared_bytes, const void *args)
{
    const void *function = ((const struct gpu_handle *)kernel)->function;
    SP_ASSERT(blocks.x <= 0x7fffffff && blocks.y <= 65535);
    struct dim3 grid = {(unsigned)blocks.x, (unsigned)blocks.y, 1};
    struct dim3 block = {(unsigned)threads.x, (unsigned)threads.y, 1};
    void *params[] = {(void *)(uintptr_t)args};
    SP_ASSERT(shared_bytes <= DEVICE_SHARED_BYTES);
    /* Always the most: a graph holds launches of the same kernel with less and with more. */
    if (shared_bytes > 0)
        device_check_work(d,
                          cudaFuncSetAttribute(function,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               DEVICE_SHARED_BYTES),
                          "shared memory");
    device_check_work(d, cudaLaunchKernel(function, grid, block, params, shared_bytes, d->stream),
                      "kernel");
}

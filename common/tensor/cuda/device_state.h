/* device_state: what the files of the device share (device*.c, usage.c); nobody else includes it.
 * Each part is opened with the device, all zero before, and closed with it, opened or not. */
#ifndef SPIN_TENSOR_CUDA_DEVICE_STATE_H
#define SPIN_TENSOR_CUDA_DEVICE_STATE_H

#include <cuda_runtime_api.h>
#include <stdatomic.h>

#include "common/tensor/cuda/device_pass.h"

/* Taken when the device is opened, so that what is chosen for a product does not depend on memory
 * that is left. */
#define DEVICE_WORKSPACE_BYTES ((size_t)32 << 20)
#define DEVICE_STAGE_BYTES ((size_t)16 << 20)
#define DEVICE_STAGED_FROM ((size_t)1 << 20) /* smaller downloads go without */

struct device_block { /* an allocation */
    void *at;
    size_t bytes;
};

struct device_stage { /* pinned memory of the host that copies go through */
    void *at;
    cudaEvent_t idle; /* the copy that used it last is done */
};

struct device_host { /* pinned memory of the host that kernels use */
    struct device_host *next;
    uint8_t *at;
    size_t bytes;
};

struct device_memory {
    struct device_block *blocks;
    int n_blocks, capacity;
    struct device_host *hosts;
    atomic_uint_least64_t own, own_peak; /* read by any thread */
    struct device_stage stages[2];
    int filling;           /* the stage that uploads are put into */
    size_t filled;         /* bytes of it */
    bool staged, unstaged; /* stages are there; can't be had */
};

struct device_graph {
    uint64_t key, used; /* used: when, by device_graphs.clock */
    cudaGraphExec_t work;
};

struct device_graphs {
    struct device_graph kept[DEVICE_GRAPHS];
    int n;
    uint64_t clock, key;     /* key: of what is recorded now */
    bool recording, spoiled; /* spoiled: something could not be recorded */
};

struct device_products; /* device_products.h */

struct device {
    cudaStream_t stream; /* not the default one, which can't be recorded */
    void *workspace;     /* DEVICE_WORKSPACE_BYTES, of products */
    struct device_memory memory;
    struct device_graphs graphs;
    struct device_products *products;
    struct device_passes *passes;
};

/* Aborts with what CUDA says, unless it says success. */
void device_check(cudaError_t rc, const char *what);
/* The same for work that may be recorded: what can't be spoils the recording instead, so that the
 * work is done without it. */
void device_check_work(struct device *d, cudaError_t rc, const char *what);

void device_memory_close(struct device *d);
/* Memory that is not zeroed and not counted; NULL: none. Freed by device_give. */
void *device_take(struct device *d, size_t bytes);
void device_give(struct device *d, void *memory);

enum sp_err device_products_open(struct device *d, struct sp_error *err) SP_MUST_USE;
void device_products_close(struct device *d);

#endif

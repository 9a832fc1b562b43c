/* cuda: opens the CUDA backends; their memory; what the module exports. */
#include "common/tensor/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/mem.h"
#include "common/tensor/module.h"
#include "common/tensor/plain.h"

bool cuda_grow(struct tn_cuda *cuda, enum cuda_block block, size_t bytes)
{
    bytes = (bytes + 15) / 16 * 16; /* whatever type it holds next */
    if (bytes <= cuda->blocks[block].bytes)
        return true;
    device_free(cuda->device, cuda->blocks[block].at);
    cuda->blocks[block].at = device_alloc(cuda->device, bytes);
    cuda->blocks[block].bytes = cuda->blocks[block].at ? bytes : 0;
    cuda->mirrors[block].at = NULL;
    return cuda->blocks[block].at != NULL;
}

void *cuda_scratch(struct tn_cuda *cuda, enum cuda_block block, size_t bytes)
{
    if (!cuda_grow(cuda, block, bytes)) {
        fprintf(stderr,
                "cuda: the device has no memory left for %zu MiB that an operation works in: lower "
                "micro_batch_tokens or memory_budget of a run, slots of a generator, or give the "
                "device fewer processes\n",
                (bytes >> 20) + 1);
        abort(); /* an operation can't fail: the daemon starts again */
    }
    return cuda->blocks[block].at;
}

/* In a pass many operations ask for the same table, one after the other. */
void *cuda_table(struct tn_cuda *cuda, enum cuda_block block, const void *host, size_t bytes)
{
    struct cuda_mirror *m = &cuda->mirrors[block];
    void *to = cuda_scratch(cuda, block, bytes);
    bool mirrored = bytes <= sizeof(m->bytes);
    if (bytes == 0)
        return to;
    if (mirrored && m->at == to && m->pass == cuda->pass && m->n == bytes &&
        memcmp(m->bytes, host, bytes) == 0)
        return to;
    device_put(cuda->device, to, host, bytes);
    m->at = mirrored ? to : NULL;
    if (mirrored) {
        m->pass = cuda->pass;
        m->n = bytes;
        memcpy(m->bytes, host, bytes);
    }
    return to;
}

const int32_t *cuda_ids(struct tn_cuda *cuda, const int32_t *ids, int32_t n)
{
    return cuda_table(cuda, CUDA_TABLE, ids, (size_t)n * sizeof(*ids));
}

double cuda_sum(struct tn_cuda *cuda, const double *numbers, size_t n)
{
    double total = 0.0, *host = sp_xarray(n, sizeof(*host));
    device_get(cuda->device, host, numbers, n * sizeof(*host));
    for (size_t i = 0; i < n; i++)
        total += host[i];
    free(host);
    return total;
}

double cuda_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cuda_flat(struct tn_cuda *cuda, const void *kernel, size_t n, const void *args)
{
    device_launch(cuda->device, kernel, (struct device_grid){cuda_parts(n, GPU_FLAT), 1},
                  (struct device_grid){GPU_FLAT, 1}, args);
}

void cuda_rows(struct tn_cuda *cuda, const void *kernel, size_t n, const void *args)
{
    device_launch(cuda->device, kernel, (struct device_grid){cuda_parts(n, GPU_ROWS), 1},
                  (struct device_grid){GPU_LANES, GPU_ROWS}, args);
}

/* --- memory --- */

static void *op_alloc(struct tn_backend *backend, size_t count, size_t elem_bytes)
{
    size_t bytes;
    if (!sp_mul_size(count, elem_bytes, &bytes))
        return NULL;
    return device_alloc(tn_cuda_of(backend)->device, bytes);
}

static void op_free(struct tn_backend *backend, void *memory)
{
    device_free(tn_cuda_of(backend)->device, memory);
}

static void op_upload(struct tn_backend *backend, void *to, const void *from_host, size_t bytes)
{
    device_put(tn_cuda_of(backend)->device, to, from_host, bytes);
}

static void op_download(struct tn_backend *backend, void *to_host, const void *from, size_t bytes)
{
    device_get(tn_cuda_of(backend)->device, to_host, from, bytes);
}

static void op_zero(struct tn_backend *backend, void *memory, size_t bytes)
{
    device_zero(tn_cuda_of(backend)->device, memory, bytes);
}

static bool op_reserve(struct tn_backend *backend, int32_t max_rows, int32_t longest, int32_t heads,
                       int32_t head_size, int32_t max_width)
{
    struct tn_cuda *cuda = tn_cuda_of(backend);
    size_t rows = (size_t)max_rows;
    bool ok = cuda_grow(cuda, CUDA_SUMS, rows * (size_t)heads * sizeof(float)) &&
              cuda_grow(cuda, CUDA_TABLE, rows * sizeof(struct gpu_key)) &&
              cuda_grow(cuda, CUDA_TABLE2, rows * sizeof(struct gpu_key));
    if (!cuda->fast)
        return ok && cuda_grow(cuda, CUDA_SCORES, cuda_attention_bytes(max_rows, longest, heads));
    return ok && cuda_grow(cuda, CUDA_SUMS, cuda_fast_bytes(max_rows, max_width));
}

static void op_pass_begin(struct tn_backend *backend, uint64_t key)
{
    struct tn_cuda *cuda = tn_cuda_of(backend);
    cuda->pass++;
    device_pass_begin(cuda->device, key);
}

static void op_pass_end(struct tn_backend *backend)
{
    struct tn_cuda *cuda = tn_cuda_of(backend);
    device_pass_end(cuda->device);
    cuda->pass++;
}

/* --- the backend --- */

static void op_close(struct tn_backend *backend)
{
    struct tn_cuda *cuda = tn_cuda_of(backend);
    for (int i = 0; cuda->device && i < CUDA_BLOCK_COUNT; i++)
        device_free(cuda->device, cuda->blocks[i].at);
    device_close(cuda->device);
    free(cuda);
    free(backend);
}

/* Its own products, on a matrix that fills the device. */
static double op_probe(struct tn_backend *backend)
{
    enum { SIDE = 2048, RUNS = 8 };
    struct tn_cuda *cuda = tn_cuda_of(backend);
    float *m = op_alloc(backend, (size_t)3 * SIDE * SIDE, sizeof(float));
    double best = 0.0;
    if (!m)
        return 0.0;
    for (int i = 0; i < RUNS; i++) {
        device_wait(cuda->device);
        double start = cuda_now();
        backend->ops->linear(backend, m, m + (size_t)SIDE * SIDE, m + (size_t)2 * SIDE * SIDE, SIDE,
                             SIDE, SIDE, false);
        device_wait(cuda->device);
        best = SP_MAX(best, 2.0 * SIDE * SIDE * SIDE / (cuda_now() - start));
    }
    op_free(backend, m);
    return best;
}

static void op_usage(struct tn_backend *backend, struct tn_usage *ret)
{
    struct device_usage usage;
    device_usage(tn_cuda_of(backend)->device, &usage);
    *ret = (struct tn_usage){.memory_used = usage.memory_total - usage.memory_free,
                             .memory_total = usage.memory_total,
                             .memory_free = usage.memory_free,
                             .own_peak = usage.own_peak,
                             .busy = usage.busy};
}

/* Of "cuda-fp32"; where `fast`, of "cuda", which has its own of most. */
static struct tn_ops operations(bool fast)
{
    struct tn_ops ops = {
        .alloc = op_alloc,
        .free = op_free,
        .upload = op_upload,
        .download = op_download,
        .zero = op_zero,
        .reserve = op_reserve,
        .close = op_close,
        .probe = op_probe,
        .usage = op_usage,
        PLAIN_OPERATIONS,
    };
    ops.pass_begin = op_pass_begin;
    ops.pass_end = op_pass_end;
    cuda_add_rows(&ops);
    cuda_add_products(&ops);
    cuda_add_attention(&ops);
    cuda_add_logits(&ops);
    cuda_add_optimizers(&ops);
    if (fast) {
        cuda_add_fast(&ops);
        cuda_add_fast_products(&ops);
        cuda_add_flash(&ops);
        cuda_add_flash_bwd(&ops);
    }
    return ops;
}

static bool rounds(const char *name)
{
    return strcmp(name, "cuda") == 0;
}

static void class_of(const char *name, const struct device_info *info, bool row_variant,
                     char ret[TN_CLASS_BYTES])
{
    if (rounds(name))
        snprintf(ret, TN_CLASS_BYTES, "cuda r%d sm_%d %s%s", TN_CUDA_REVISION, info->arch,
                 info->library, row_variant ? " by batch" : "");
    else
        snprintf(ret, TN_CLASS_BYTES, "cuda-fp32 r%d", TN_CUDA_REVISION);
}

static enum sp_err module_class(const char *name, char ret[TN_CLASS_BYTES], struct sp_error *err)
{
    struct device_info info;
    enum sp_err rc = device_describe(&info, err);
    if (rc == SP_OK)
        class_of(name, &info, false, ret);
    return rc;
}

static enum sp_err module_open(const char *name, const struct tn_backend_options *options,
                               struct tn_backend **ret, struct sp_error *err)
{
    struct device_info info;
    struct device *device;
    enum sp_err rc = device_describe(&info, err);
    if (rc == SP_OK)
        rc = device_open(&device, err);
    if (rc != SP_OK)
        return rc;
    struct tn_cuda *cuda = sp_xalloc(sizeof(*cuda));
    struct tn_backend *backend = sp_xalloc(sizeof(*backend));
    device_row_variant(device, options && options->row_variant);
    *cuda =
        (struct tn_cuda){.device = device, .fast = rounds(name), .ops = operations(rounds(name))};
    backend->ops = &cuda->ops;
    backend->activations = rounds(name) ? TN_BF16 : TN_F32;
    backend->name = rounds(name) ? "cuda" : "cuda-fp32";
    backend->threads = 1;
    backend->has_memory = true;
    backend->state = cuda;
    class_of(name, &info, options && options->row_variant, backend->numerics_class);
    snprintf(backend->device, sizeof(backend->device), "%s, %zu MiB", info.name,
             info.memory_bytes >> 20);
    *ret = backend;
    return SP_OK;
}

extern const struct tn_module spin_tensor_module;
__attribute__((visibility("default"))) const struct tn_module spin_tensor_module = {
    .interface = TN_MODULE_INTERFACE,
    .ops_bytes = sizeof(struct tn_ops),
    .version = SPIN_VERSION,
    .open = module_open,
    .numerics_class = module_class,
};

/* ops_optimizers: optimizer steps and their state. Kernels: optimizers.cu; for cuda-fp32 with a
 * state in fp32 the plain ones of pointwise.cu, whose bits are the same. */
#include <math.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/optimizers.h"
#include "common/tensor/state.h"

_Static_assert(GPU_CODES == TN_STATE_BLOCK && GPU_CODES == TN_STATE_CODES, "blocks of the state");
_Static_assert(GPU_UPDATE_PART == GPU_FLAT * GPU_UPDATE_EACH, "parts");
_Static_assert(GPU_CODES == GPU_CODE_THREADS * GPU_UPDATE_EACH && GPU_CODES == GPU_FLAT, "threads");
_Static_assert(sizeof(struct gpu_map) == sizeof(struct tn_state_map), "maps");

#define MAPS_BYTES (2 * sizeof(struct gpu_map))

static void *op_state_new(struct tn_backend *b, size_t bytes, bool host)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    if (!cuda_grow(cuda, CUDA_TABLE, MAPS_BYTES)) /* no step allocates */
        return NULL;
    return host ? device_host_alloc(cuda->device, bytes) : device_alloc(cuda->device, bytes);
}

static void op_state_free(struct tn_backend *b, void *state)
{
    struct device *device = tn_cuda_of(b)->device;
    if (device_is_host(device, state))
        device_host_free(device, state);
    else
        device_free(device, state);
}

static bool lies_apart(const void *memory)
{
    return (uintptr_t)memory % 16 != 0;
}

/* Both maps are copied each time: 4 KiB, once a step. */
static void put_maps(struct tn_cuda *cuda, struct gpu_update *u)
{
    struct tn_state_map maps[2];
    tn_state_map(&maps[0], TN_MAP_SIGNED);
    tn_state_map(&maps[1], TN_MAP_ROOT);
    u->signed_map = cuda_table(cuda, CUDA_TABLE, maps, MAPS_BYTES);
    u->root_map = u->signed_map + 1;
    if (u->m)
        u->m_scales = tn_state_scales(u->m, u->n);
    u->v_scales = tn_state_scales(u->v, u->n);
}

static void update(struct tn_backend *b, struct gpu_update *u, enum tn_state state)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t parts = cuda_parts(u->n, GPU_UPDATE_PART);
    const void *wide = u->m ? gpu_adamw_wide_kernel : gpu_rmsprop_wide_kernel;
    const void *codes = u->m ? gpu_adamw_8bit_kernel : gpu_rmsprop_8bit_kernel;
    u->bf16 = b->weights == TN_BF16;
    u->apart = lies_apart(u->w) || lies_apart(u->g) || lies_apart(u->m) || lies_apart(u->v);
    if (state == TN_STATE_8BIT) {
        put_maps(cuda, u);
        parts = SP_MIN(parts, (size_t)GPU_CODE_BLOCKS);
    }
    device_launch(cuda->device, state == TN_STATE_8BIT ? codes : wide,
                  (struct device_grid){parts, 1}, (struct device_grid){GPU_FLAT, 1}, u);
}

static bool is_plain(struct tn_backend *b, enum tn_state state)
{
    return !tn_cuda_of(b)->fast && state == TN_STATE_F32;
}

static void op_rmsprop(struct tn_backend *b, void *w, const void *g, void *v, size_t n,
                       const struct tn_rmsprop *o)
{
    const float numbers[] = {o->lr, o->alpha, 1.0f - o->alpha, o->eps, o->weight_decay, o->g_scale};
    if (is_plain(b, o->state)) {
        struct gpu_work k = {.y = w, .y2 = v, .a = g, .n = n};
        memcpy(k.o, numbers, sizeof(numbers));
        cuda_flat(tn_cuda_of(b), gpu_rmsprop_kernel, n, &k);
        return;
    }
    struct gpu_update u = {
        .w = w, .g = g, .v = v, .n = n, .seed = o->seed, .step = (uint64_t)o->step};
    memcpy(u.o, numbers, sizeof(numbers));
    update(b, &u, o->state);
}

/* 1 − beta^step by repeated squaring, as in cpu/pointwise.c */
static float bias_correction(float beta, int64_t step)
{
    double power = 1.0, base = (double)beta;
    for (; step > 0; step >>= 1, base *= base)
        if (step & 1)
            power *= base;
    return (float)(1.0 - power);
}

static void op_adamw(struct tn_backend *b, void *w, const void *g, void *m, void *v, size_t n,
                     const struct tn_adamw *o)
{
    float first = bias_correction(o->beta1, o->step), second = bias_correction(o->beta2, o->step);
    const float numbers[] = {o->beta1,        1.0f - o->beta1, o->beta2,
                             1.0f - o->beta2, o->eps,          1.0f - o->lr * o->weight_decay,
                             o->lr / first,   sqrtf(second),   o->g_scale};
    if (is_plain(b, o->state)) {
        struct gpu_work k = {.y = w, .y2 = m, .y3 = v, .a = g, .n = n};
        memcpy(k.o, numbers, sizeof(numbers));
        cuda_flat(tn_cuda_of(b), gpu_adamw_kernel, n, &k);
        return;
    }
    struct gpu_update u = {
        .w = w, .g = g, .m = m, .v = v, .n = n, .seed = o->seed, .step = (uint64_t)o->step};
    memcpy(u.o, numbers, sizeof(numbers));
    update(b, &u, o->state);
}

void cuda_add_optimizers(struct tn_ops *ops)
{
    ops->state_new = op_state_new;
    ops->state_free = op_state_free;
    ops->rmsprop = op_rmsprop;
    ops->adamw = op_adamw;
}

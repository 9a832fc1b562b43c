/* optimizers: updates with a state in 8 bits, block by block: decoded, one step of the fp32
 * kernels, encoded. The plain reference of what the CUDA backends do in one kernel; see state.h. */
#include <math.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"
#include "common/tensor/state.h"

#define TASK_BLOCKS 256

struct update {
    const struct tn_kern *kern;
    size_t n;
    float *w;
    const float *g;
    uint8_t *m, *v; /* codes; m: NULL of rmsprop */
    float *m_scales, *v_scales;
    const struct tn_rmsprop *rmsprop;
    const struct tn_adamw *adamw;
    float correction1, correction2;
    struct tn_state_map signed_map, root_map;
};

static void update_block(const struct update *u, size_t block)
{
    size_t at = block * TN_STATE_BLOCK, count = SP_MIN((size_t)TN_STATE_BLOCK, u->n - at);
    float m[TN_STATE_BLOCK], v[TN_STATE_BLOCK];
    tn_state_decode(&u->root_map, v, u->v + at, u->v_scales[block], count);
    for (size_t i = 0; i < count; i++)
        v[i] = v[i] * v[i];
    if (u->adamw) {
        tn_state_decode(&u->signed_map, m, u->m + at, u->m_scales[block], count);
        u->kern->adamw(u->w + at, u->g + at, m, v, count, u->adamw, u->correction1, u->correction2);
        tn_state_encode(&u->signed_map, u->m + at, &u->m_scales[block], m, count);
    } else {
        u->kern->rmsprop(u->w + at, u->g + at, v, count, u->rmsprop);
    }
    for (size_t i = 0; i < count; i++)
        v[i] = sqrtf(v[i]);
    tn_state_encode(&u->root_map, u->v + at, &u->v_scales[block], v, count);
}

static void update_task(void *context, int32_t task, int32_t worker)
{
    const struct update *u = context;
    size_t from = (size_t)task * TASK_BLOCKS, all = tn_state_blocks(u->n);
    for (size_t block = from; block < SP_MIN(from + TASK_BLOCKS, all); block++)
        update_block(u, block);
}

static void run(struct tn_cpu *cpu, struct update *u)
{
    u->kern = cpu->kern;
    tn_state_map(&u->signed_map, TN_MAP_SIGNED);
    tn_state_map(&u->root_map, TN_MAP_ROOT);
    tn_pool_run(cpu->pool, (int32_t)((tn_state_blocks(u->n) + TASK_BLOCKS - 1) / TASK_BLOCKS),
                update_task, u);
}

void tn_cpu_rmsprop_8bit(struct tn_cpu *cpu, float *w, const float *g, void *v, size_t n,
                         const struct tn_rmsprop *options)
{
    struct update u = {.n = n, .w = w, .g = g, .v = v, .rmsprop = options};
    u.v_scales = tn_state_scales(v, n);
    run(cpu, &u);
}

void tn_cpu_adamw_8bit(struct tn_cpu *cpu, float *w, const float *g, void *m, void *v, size_t n,
                       const struct tn_adamw *options, float correction1, float correction2)
{
    struct update u = {.n = n, .w = w, .g = g, .m = m, .v = v, .adamw = options};
    u.m_scales = tn_state_scales(m, n);
    u.v_scales = tn_state_scales(v, n);
    u.correction1 = correction1;
    u.correction2 = correction2;
    run(cpu, &u);
}

/* emulate: the words of common/tensor/cuda/gpu.h for a C compiler. A kernel becomes a function that
 * is called for one block after the other; each of its phases is a loop over the block's threads.
 * What a test can see by it: wrong indices (memory of the device ends at a page that can't be
 * touched, and can't be touched at all but by kernels and copies), wrong bits, phases that depend
 * on the order of threads (run them backwards: SPIN_EMULATE_BACKWARDS), what was fetched and not
 * waited for, and missing or unequal GPU_SYNCs: with SPIN_EMULATE_WARPS each warp of a block runs
 * as far as the next GPU_SYNC before the next warp does. What it can't see: a missing
 * GPU_SYNC_WARP, speed, and what the device's compiler makes of the source. */
#ifndef SPIN_TESTS_GPU_EMULATE_H
#define SPIN_TESTS_GPU_EMULATE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/tensor/cuda/kernels.h"

#define GPU_EMULATED
#include "common/tensor/cuda/gpu.h"

#define GPU_FN static inline __attribute__((unused))
#define GPU_SHARED static
#define GPU_SHARED_TILES static _Alignas(128)
#define GPU_DYNAMIC ((void *)emu.dynamic)
#define GPU_OWN static
#define GPU_COPIES GPU_THREADS
#define GPU_SELF (emu.thread.y * emu.threads.x + emu.thread.x)
#define GPU_EACH for (emu_first(); emu.more; emu_next())
#define GPU_SYNC() emu_sync()
#define GPU_WARP (emu.thread.x / GPU_WARP_THREADS)
#define GPU_LANE (emu.thread.x % GPU_WARP_THREADS)
#define GPU_SYNC_WARP() ((void)0)
#define GPU_UNROLL
/* Once for each warp, by its first thread. */
#define GPU_EACH_WARP                                                                              \
    GPU_EACH                                                                                       \
    if (emu.thread.x % GPU_WARP_THREADS == 0)
#define GPU_OWN_WARP static
#define GPU_WARP_COPIES (GPU_THREADS / GPU_WARP_THREADS)
#define GPU_WARP_SELF GPU_WARP
#define GPU_KERNEL(name, args)                                                                     \
    static void name##_body(const struct args p);                                                  \
    static void name##_entry(const void *p)                                                        \
    {                                                                                              \
        name##_body(*(const struct args *)p);                                                      \
    }                                                                                              \
    static const struct emu_kernel name##_emulated = {                                             \
        {&name##_emulated, sizeof(struct args)}, name##_entry, #name};                             \
    const void *const name##_kernel = &name##_emulated;                                            \
    static void name##_body(const struct args p)

#define GPU_KERNEL_FIT(name, args, threads, blocks) GPU_KERNEL(name, args)

/* Tiles: as the device rounds nothing but the result of a sum, nor do these. Products of a tile are
 * one chain over k. */
typedef struct {
    uint16_t at[16][16];
} gpu_left, gpu_right;
typedef struct {
    uint16_t at[16][16]; /* as it lies in memory: [k][row], [column][k] */
} gpu_left_across, gpu_right_across;
typedef struct {
    float at[16][16];
} gpu_sum;

#define gpu_tile_load(tile, from, ld) emu_tile_load((tile)->at, (from), (size_t)(ld))
#define gpu_tile_zero(sum) memset((sum)->at, 0, sizeof((sum)->at))
#define gpu_tile_multiply(sum, left, right)                                                        \
    emu_tile_multiply((sum)->at, (left)->at,                                                       \
                      _Generic(*(left), gpu_left                                                   \
                               : false, gpu_left_across                                            \
                               : true),                                                            \
                      (right)->at,                                                                 \
                      _Generic(*(right), gpu_right                                                 \
                               : false, gpu_right_across                                           \
                               : true))
#define gpu_tile_load_sum(sum, from, ld) emu_sum_load((sum)->at, (from), (size_t)(ld))
#define gpu_tile_store_sum(to, sum, ld) emu_sum_store((to), (sum)->at, (size_t)(ld))
#define gpu_tile_row(i) ((int)GPU_LANE / 4 + (i) / 2 % 2 * 8)
#define gpu_tile_column(i) ((int)GPU_LANE % 4 * 2 + (i) / 4 * 8 + (i) % 2)
#define gpu_tile_at(sum, i) ((sum)->at[gpu_tile_row(i)][gpu_tile_column(i)])

#define gpu_warp_sum(own, width) emu_warp_sum((own), (uint32_t)(width))
#define gpu_warp_max(own, width) emu_warp_max((own), (uint32_t)(width))
#define gpu_quad_load(from) emu_quad_load(from)
#define gpu_quad_store(to, quad) emu_quad_store((to), (quad))
#define gpu_fast_exp(x) expf(x)
#define gpu_fast_divide(a, b) ((a) / (b))

#define threadIdx emu.thread
#define blockIdx emu.block
#define gridDim emu.blocks
#define blockDim emu.threads

struct emu_index {
    uint32_t x, y;
};
struct emu_kernel {
    struct gpu_handle handle;
    void (*run)(const void *args); /* one block */
    const char *name;
};

#define EMU_WARPS (GPU_THREADS / GPU_WARP_THREADS)
#define EMU_FETCHES 16384

struct emu { /* the thread that is run, and where it stands */
    struct emu_index thread, block, threads, blocks;
    uint32_t left; /* threads of the phase, with this one */
    bool more, backwards;
    uint32_t first, count; /* threads that run: a warp, or with count 0 the whole block */
    void (*sync)(void);    /* NULL: nobody to wait for */
    struct {               /* of each warp: what gpu_fetched will copy */
        void *to[EMU_FETCHES];
        const void *from[EMU_FETCHES];
        size_t n;
    } fetches[EMU_WARPS];
    uint8_t *dynamic; /* shared memory of the launch, which ends at a page that can't be touched */
};
extern struct emu emu;

/* All blocks of a launch; every one finds `shared_bytes` of emu.dynamic that hold no numbers.
 * by_warps: each warp as far as the next GPU_SYNC, else each phase for all threads. */
void emu_run(const struct emu_kernel *k, struct emu_index blocks, struct emu_index threads,
             size_t shared_bytes, bool by_warps, const void *args);

static inline uint32_t emu_count(void)
{
    return emu.count > 0 ? emu.count : emu.threads.x * emu.threads.y;
}

static inline void emu_first(void)
{
    uint32_t at = emu.first + (emu.backwards ? emu_count() - 1 : 0);
    emu.thread = (struct emu_index){at % emu.threads.x, at / emu.threads.x};
    emu.left = emu_count();
    emu.more = true;
}

static inline void emu_next(void)
{
    uint32_t last = emu.backwards ? 0 : emu.threads.x - 1, step = emu.backwards ? UINT32_MAX : 1;
    emu.more = --emu.left > 0;
    if (emu.thread.x != last) {
        emu.thread.x += step;
        return;
    }
    emu.thread.x = emu.backwards ? emu.threads.x - 1 : 0;
    emu.thread.y += step;
}

static inline void emu_sync(void)
{
    if (emu.sync)
        emu.sync();
}

static inline void emu_warp_sum(float *own, uint32_t width)
{
    uint32_t n = emu_count();
    SP_ASSERT(n % GPU_WARP_THREADS == 0 && width <= GPU_WARP_THREADS && (width & (width - 1)) == 0);
    own += emu.first;
    for (uint32_t apart = width / 2; apart > 0; apart /= 2) {
        float next[GPU_THREADS];
        for (uint32_t i = 0; i < n; i++)
            next[i] = own[i] + own[i ^ apart];
        memcpy(own, next, n * sizeof(*own));
    }
}

static inline void emu_warp_max(float *own, uint32_t width)
{
    uint32_t n = emu_count();
    SP_ASSERT(n % GPU_WARP_THREADS == 0 && width <= GPU_WARP_THREADS && (width & (width - 1)) == 0);
    own += emu.first;
    for (uint32_t apart = width / 2; apart > 0; apart /= 2) {
        float next[GPU_THREADS];
        for (uint32_t i = 0; i < n; i++)
            next[i] = fmaxf(own[i], own[i ^ apart]);
        memcpy(own, next, n * sizeof(*own));
    }
}

typedef struct {
    uint32_t x, y, z, w;
} gpu_quad;

static inline gpu_quad emu_quad_load(const void *from)
{
    gpu_quad quad;
    SP_ASSERT((uintptr_t)from % 16 == 0);
    memcpy(&quad, from, sizeof(quad));
    return quad;
}

static inline void emu_quad_store(void *to, gpu_quad quad)
{
    SP_ASSERT((uintptr_t)to % 16 == 0);
    memcpy(to, &quad, sizeof(quad));
}

static inline uint32_t gpu_bf16_pair(float low, float high)
{
    return (uint32_t)sp_f32_to_bf16(low) | (uint32_t)sp_f32_to_bf16(high) << 16;
}
#define gpu_pack(first, second) gpu_bf16_pair((first), (second))

/* The device asks this of addresses and strides. */
static inline void emu_aligned(const void *at, size_t ld, size_t bytes)
{
    SP_ASSERT((uintptr_t)at % 32 == 0 && ld * bytes % 16 == 0);
}

static inline void emu_copy_16(void *to, const void *from)
{
    SP_ASSERT((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0);
    memcpy(to, from, 16);
}

static inline void gpu_fetch_16(void *to, const void *from)
{
    uint32_t warp = emu.first / GPU_WARP_THREADS;
    size_t n = emu.fetches[warp].n++;
    SP_ASSERT(n < EMU_FETCHES);
    emu.fetches[warp].to[n] = to;
    emu.fetches[warp].from[n] = from;
}

static inline void gpu_fetched(void)
{
    uint32_t warp = emu.first / GPU_WARP_THREADS;
    for (size_t i = 0; i < emu.fetches[warp].n; i++)
        emu_copy_16(emu.fetches[warp].to[i], emu.fetches[warp].from[i]);
    emu.fetches[warp].n = 0;
}

static inline void gpu_load_16(uint32_t to[4], const void *from)
{
    SP_ASSERT((uintptr_t)from % 16 == 0);
    memcpy(to, from, 16);
}

static inline void gpu_store_16(void *to, const uint32_t from[4])
{
    SP_ASSERT((uintptr_t)to % 16 == 0);
    memcpy(to, from, 16);
}

static inline void gpu_store_4(void *to, uint32_t word)
{
    SP_ASSERT((uintptr_t)to % 4 == 0);
    memcpy(to, &word, 4);
}

static inline void emu_tile_load(uint16_t to[16][16], const uint16_t *from, size_t ld)
{
    emu_aligned(from, ld, sizeof(*from));
    for (size_t i = 0; i < 16; i++)
        memcpy(to[i], from + i * ld, sizeof(to[i]));
}

static inline void emu_sum_load(float to[16][16], const float *from, size_t ld)
{
    emu_aligned(from, ld, sizeof(*from));
    for (size_t i = 0; i < 16; i++)
        memcpy(to[i], from + i * ld, sizeof(to[i]));
}

static inline void emu_sum_store(float *to, float from[16][16], size_t ld)
{
    emu_aligned(to, ld, sizeof(*to));
    for (size_t i = 0; i < 16; i++)
        memcpy(to + i * ld, from[i], sizeof(from[i]));
}

static inline void emu_tile_multiply(float sum[16][16], uint16_t a[16][16], bool a_across,
                                     uint16_t b[16][16], bool b_across)
{
    float left[16][16], right[16][16]; /* [row][k], [k][column] */
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 16; j++) {
            left[i][j] = sp_bf16_to_f32(a_across ? a[j][i] : a[i][j]);
            right[i][j] = sp_bf16_to_f32(b_across ? b[j][i] : b[i][j]);
        }
    for (size_t i = 0; i < 16; i++)
        for (size_t k = 0; k < 16; k++)
            for (size_t j = 0; j < 16; j++)
                sum[i][j] = fmaf(left[i][k], right[k][j], sum[i][j]);
}

static inline float gpu_exp2(float x)
{
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y; /* NaN stays */
}

static inline void gpu_tile_narrow(gpu_left *tile, const gpu_sum *sum)
{
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 16; j++)
            tile->at[i][j] = sp_f32_to_bf16(sum->at[i][j]);
}

#endif

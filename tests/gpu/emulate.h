/* emulate: the words of common/tensor/cuda/gpu.h for a C compiler. A kernel becomes a function that
 * is called for one block after the other; each of its phases is a loop over the block's threads.
 * What a test can see by it: wrong indices (memory of the device ends at a page that can't be
 * touched, and can't be touched at all but by kernels and copies), wrong bits, and phases that
 * depend on the order of threads (run them backwards: SPIN_EMULATE_BACKWARDS). What it can't see:
 * a missing GPU_SYNC, speed, and what the device's compiler makes of the source. */
#ifndef SPIN_TESTS_GPU_EMULATE_H
#define SPIN_TESTS_GPU_EMULATE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GPU_EMULATED
#define GPU_FN static inline __attribute__((unused))
#define GPU_SHARED static
#define GPU_OWN static
#define GPU_COPIES GPU_THREADS
#define GPU_SELF (emu.thread.y * emu.threads.x + emu.thread.x)
#define GPU_EACH for (emu_first(); emu.more; emu_next())
#define GPU_SYNC() ((void)0)
#define GPU_KERNEL(name, args)                                                                     \
    static void name##_body(const struct args p);                                                  \
    static void name##_entry(const void *p)                                                        \
    {                                                                                              \
        name##_body(*(const struct args *)p);                                                      \
    }                                                                                              \
    static const struct emu_kernel name##_emulated = {name##_entry};                               \
    const void *const name##_kernel = &name##_emulated;                                            \
    static void name##_body(const struct args p)

#define threadIdx emu.thread
#define blockIdx emu.block
#define gridDim emu.blocks

struct emu_index {
    uint32_t x, y;
};
struct emu_kernel {
    void (*run)(const void *args); /* one block */
};

struct emu { /* the thread that is run, and where it stands */
    struct emu_index thread, block, threads, blocks;
    bool more, backwards;
};
extern struct emu emu;

static inline void emu_first(void)
{
    emu.thread = emu.backwards ? (struct emu_index){emu.threads.x - 1, emu.threads.y - 1}
                               : (struct emu_index){0, 0};
    emu.more = true;
}

static inline void emu_next(void)
{
    uint32_t last = emu.backwards ? 0 : emu.threads.x - 1, step = emu.backwards ? UINT32_MAX : 1;
    if (emu.thread.x != last) {
        emu.thread.x += step;
        return;
    }
    emu.thread.x = emu.backwards ? emu.threads.x - 1 : 0;
    emu.more = emu.thread.y != (emu.backwards ? 0 : emu.threads.y - 1);
    emu.thread.y += step;
}

#endif

/* Runs the blocks of a launch, one after the other: see emulate.h. */
#include <string.h>
#include <ucontext.h>

#include "common/base/mem.h"
#include "tests/gpu/emulate.h"

struct emu emu;

#define STACK_BYTES ((size_t)256 << 10)

static struct { /* warps of a block that take turns */
    ucontext_t block, warp[EMU_WARPS];
    bool done[EMU_WARPS];
    uint32_t now;
    const struct emu_kernel *kernel;
    const void *args;
    uint8_t stacks[EMU_WARPS][STACK_BYTES];
} warps;

static void warp_sync(void)
{
    swapcontext(&warps.warp[warps.now], &warps.block);
}

static void warp_main(void)
{
    warps.kernel->run(warps.args);
    warps.done[warps.now] = true;
}

static void start_warp(uint32_t w)
{
    SP_ASSERT(getcontext(&warps.warp[w]) == 0);
    warps.warp[w].uc_stack.ss_sp = warps.stacks[w];
    warps.warp[w].uc_stack.ss_size = STACK_BYTES;
    warps.warp[w].uc_link = &warps.block;
    warps.done[w] = false;
    makecontext(&warps.warp[w], warp_main, 0);
}

/* Each warp as far as the next GPU_SYNC, then the next; all have the same number of them. */
static void run_warps(const struct emu_kernel *k, const void *args)
{
    uint32_t threads = emu.threads.x * emu.threads.y, done = 0;
    uint32_t n = (threads + GPU_WARP_THREADS - 1) / GPU_WARP_THREADS;
    warps.kernel = k;
    warps.args = args;
    for (uint32_t w = 0; w < n; w++)
        start_warp(w);
    emu.sync = warp_sync;
    while (done == 0) {
        for (uint32_t i = 0; i < n; i++) {
            uint32_t w = warps.now = emu.backwards ? n - 1 - i : i;
            emu.first = w * GPU_WARP_THREADS;
            emu.count = SP_MIN(threads - emu.first, (uint32_t)GPU_WARP_THREADS);
            swapcontext(&warps.block, &warps.warp[w]);
            done += warps.done[w];
        }
        SP_ASSERT(done == 0 || done == n);
    }
    emu.sync = NULL;
    emu.first = emu.count = 0;
}

static void run_block(bool by_warps, const struct emu_kernel *k, const void *args)
{
    if (by_warps)
        run_warps(k, args);
    else
        k->run(args);
    for (uint32_t w = 0; w < EMU_WARPS; w++)
        SP_ASSERT(emu.fetches[w].n == 0); /* nobody leaves copies under way */
}

void emu_run(const struct emu_kernel *k, struct emu_index blocks, struct emu_index threads,
             size_t shared_bytes, bool by_warps, const void *args)
{
    emu.threads = threads;
    emu.blocks = blocks;
    for (uint32_t y = 0; y < blocks.y; y++)
        for (uint32_t x = 0; x < blocks.x; x++) {
            emu.block = (struct emu_index){x, y};
            if (shared_bytes > 0)
                memset(emu.dynamic, 0xff, shared_bytes);
            run_block(by_warps, k, args);
        }
}

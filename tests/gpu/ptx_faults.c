/* The machine of ptx.h finds each fault of ptx_faults.cu, and none in the same kernel without it.
 * Its argument: the folder with the PTX. Prints TAP. */
#include "tests/gpu/ptx_faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/gpu/ptx.h"

enum { N = 128, APART = 2 * N }; /* numbers of a piece, and from one to the next */

static const struct {
    const char *kernel, *says;
} faults[] = {
    {"fault_warps", "a thread of another warp, with no barrier in between"},
    {"fault_overwrite", "a thread of another warp, with no barrier in between"},
    {"fault_lanes", "another thread of the warp, with no barrier of the warp in between"},
    {"fault_warp_barrier", "a thread of another warp, with no barrier in between"},
    {"fault_blocks", "another block of this launch"},
    {"fault_shared_unwritten", "shared memory: memory that nothing was written to"},
    {"fault_global_unwritten", "global memory: memory that nothing was written to"},
    {"fault_aligned", "reads 16 bytes at an address that is no multiple"},
    {"fault_global_end", "reads 4 bytes in no memory"},
    {"fault_shared_end", "writes 4 bytes at 256 of shared memory, which has 256"},
    {"fault_fetched", "what cp.async is still writing"},
    {"fault_left", "ends with a copy by cp.async that it didn't wait for"},
    {"fault_missing", "waits at a barrier for threads that have ended"},
    {"fault_two_barriers", "waits at a barrier, and a thread of warp"},
    {"fault_half", "waits for lanes of its warp that don't come here"},
    {"fault_zero", "an integer is divided by 0"},
};

/* NULL, or the fault. */
static const char *run(struct ptx *ptx, const char *kernel, unsigned *memory, unsigned wrong,
                       bool backwards)
{
    const struct fault p = {.to = memory,
                            .from = memory + APART,
                            .unwritten = memory + 2 * (size_t)APART,
                            .n = N,
                            .wrong = wrong};
    const struct ptx_launch launch = {.kernel = kernel,
                                      .args = &p,
                                      .args_bytes = sizeof(p),
                                      .blocks = {strcmp(kernel, "fault_blocks") == 0 ? 2 : 1, 1},
                                      .threads = {64, 1},
                                      .shared_bytes = 256,
                                      .backwards = backwards};
    const char *fault;
    for (size_t i = 0; i < 3; i++)
        ptx_memory_add(ptx, memory + i * APART, N * sizeof(*memory));
    ptx_memory_written(ptx, memory + APART, N * sizeof(*memory));
    bool ok = ptx_run(ptx, &launch, &fault);
    for (size_t i = 0; i < 3; i++)
        ptx_memory_remove(ptx, memory + i * APART);
    return ok ? NULL : fault;
}

int main(int argc, char **argv)
{
    int tests = 0, failures = 0;
    struct ptx *ptx = ptx_new(argc > 1 ? argv[1] : ".");
    unsigned *memory = sp_alloc_block(3 * (size_t)APART, sizeof(*memory));
    for (size_t i = 0; i < SP_COUNT(faults); i++)
        for (int backwards = 0; backwards < 2; backwards++) {
            const char *fault = run(ptx, faults[i].kernel, memory, 0, backwards);
            failures += fault != NULL;
            printf("%sok %d - %s without its fault%s%s\n", fault ? "not " : "", ++tests,
                   faults[i].kernel, fault ? ": " : "", fault ? fault : "");
            fault = run(ptx, faults[i].kernel, memory, 1, backwards);
            bool found = fault && strstr(fault, faults[i].says);
            failures += !found;
            printf("%sok %d - %s: %s\n", found ? "" : "not ", ++tests, faults[i].kernel,
                   fault ? fault : "nothing found");
        }
    printf("1..%d\n", tests);
    sp_free_block(memory);
    ptx_free(ptx);
    return failures > 0;
}

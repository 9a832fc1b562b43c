/* ptx: runs on the host what nvcc makes of the kernels for a device: their PTX ("PTX ISA", version
 * 9.0), instruction by instruction, with the threads of a warp side by side. The emulated device
 * launches by it where SPIN_EMULATE_PTX names a folder of *.ptx; what else tests find by the device
 * stands in emulate.h.
 *
 * It ends a launch with a fault, and says kernel, line of the source, block and thread, where
 *     an address is not a multiple of what is accessed, or is in no memory;
 *     memory is read that nothing was written to;
 *     two threads access the same memory, one of them writing, with no barrier in between that both
 *     take part in: in a warp, in a block, or in two blocks of a launch;
 *     a copy by cp.async is used, or left behind, that was not waited for;
 *     threads wait at a barrier for others that don't come; or an instruction that a whole warp
 *     executes together is reached by part of it;
 *     an integer is divided by 0.
 *
 * With SPIN_PTX_PROFILE in the environment ptx_free writes to stderr what kernels cost
 * (ptx_profile.c).
 *
 * What it can't see: what ptxas and the hardware do with PTX. mma adds products one by one in order
 * of k; approximate functions are the host's. One thread at a time. */
#ifndef SPIN_TESTS_GPU_PTX_H
#define SPIN_TESTS_GPU_PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ptx; /* kernels, and memory that they may access */

/* All *.ptx of the folder; ends the process with a message where a file has something that is not
 * known here. */
struct ptx *ptx_new(const char *folder);
void ptx_free(struct ptx *);

/* Memory that kernels may access from now on: nothing is written to it yet. */
void ptx_memory_add(struct ptx *, void *memory, size_t bytes);
void ptx_memory_remove(struct ptx *, const void *memory);
/* Whether all of it has been written to, by a kernel or as below; true of the host's own. */
bool ptx_memory_is_written(struct ptx *, const void *memory, size_t bytes);
/* The host wrote there. */
void ptx_memory_written(struct ptx *, const void *memory, size_t bytes);

struct ptx_launch {
    const char *kernel; /* as in the source */
    const void *args;   /* the kernel's one parameter */
    size_t args_bytes;
    uint32_t blocks[2], threads[2]; /* x, y; at most 256 threads */
    size_t shared_bytes;            /* dynamic */
    bool backwards;                 /* warps last to first */
};
/* false: a fault, which *ret_fault says until the next launch. */
bool ptx_run(struct ptx *, const struct ptx_launch *, const char **ret_fault);

#endif

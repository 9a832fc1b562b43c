/* ptx_machine: a launch that is under way, shared by who is next (ptx_run.c) and what instructions
 * do (ptx_execute.c). */
#ifndef SPIN_TESTS_GPU_PTX_MACHINE_H
#define SPIN_TESTS_GPU_PTX_MACHINE_H

#include <setjmp.h>

#include "tests/gpu/ptx_impl.h"

#define PTX_FETCHES 128 /* of a thread, that it didn't wait for yet */

struct ptx_group { /* lanes at the same instruction */
    uint32_t at, lanes;
    int wait;
};

struct ptx_warp {
    uint32_t number;
    uint8_t *file;  /* registers */
    uint8_t *local; /* of each lane */
    size_t file_bytes, local_bytes;
    uint16_t part; /* barriers of the warp since the block's last one */
    uint32_t left; /* lanes that have ended */
    int n_groups;
    struct ptx_group groups[PTX_LANES];
};

struct ptx_fetch { /* cp.async */
    uint32_t to;
    const uint8_t *from;
};

struct ptx_machine {
    struct ptx *ptx;
    const struct ptx_launch *launch;
    struct ptx_kernel *kernel;
    size_t shared_bytes;
    uint32_t n_warps, block[2];
    uint32_t launch_phase, block_phase;
    struct ptx_warp warps[PTX_MAX_WARPS], *warp;
    struct ptx_group *group;
    struct ptx_fetch fetches[PTX_MAX_THREADS][PTX_FETCHES];
    int n_fetches[PTX_MAX_THREADS];
    jmp_buf out;
    char fault[512];
};

_Noreturn void ptx_fault(struct ptx_machine *, int lane, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Number of a lane of the warp in the block. */
static inline uint32_t ptx_thread(const struct ptx_machine *m, uint32_t lane)
{
    return m->warp->number * PTX_LANES + lane;
}

/* The mask of lanes that operand i says. */
uint32_t ptx_mask_of(struct ptx_machine *, const struct ptx_op *, int i);
/* Everything but branches, barriers and the end. */
void ptx_execute(struct ptx_machine *, struct ptx_op *, uint32_t lanes);

#endif

/* ptx_impl: kernels as they are kept, shared by the reader (ptx_read.c) and the machine. */
#ifndef SPIN_TESTS_GPU_PTX_IMPL_H
#define SPIN_TESTS_GPU_PTX_IMPL_H

#include <stdio.h>

#include "tests/gpu/ptx.h"
#include "tests/gpu/ptx_ops.h"

#define PTX_LANES 32
#define PTX_MAX_THREADS 256
#define PTX_MAX_WARPS (PTX_MAX_THREADS / PTX_LANES)
#define PTX_OPERANDS 14
#define PTX_ALL 0xffffffffu
/* A loop over the lanes of a mask. */
#define PTX_EACH(lanes, lane)                                                                      \
    for (uint32_t rest_ = (lanes), lane; rest_ && (lane = (uint32_t)__builtin_ctz(rest_), true);   \
         rest_ &= rest_ - 1)
#define PTX_SHARED_BYTES (227 << 10)
#define PTX_NAME 80

#define PTX_CODE(text, name, ...) PTX_##name,
enum ptx_code {
    PTX_NAMED(PTX_CODE) /* and those that are found by their form: */
    PTX_PACK_B32,
    PTX_PACK_B64,
    PTX_UNPACK_B32,
    PTX_UNPACK_B64,
    PTX_LD,
    PTX_ST,
    PTX_BRA,
    PTX_CODES
};
#undef PTX_CODE

enum ptx_space { PTX_PARAM, PTX_GLOBAL, PTX_SHARED, PTX_LOCAL };

/* Registers of a warp: 32 numbers of 4 bytes (b16, too) or of 8, at an offset into the warp's file;
 * a predicate is a word with a bit for each lane. Constants and special registers have places in
 * the file like others. */
enum ptx_width { PTX_PRED, PTX_4, PTX_8 };

struct ptx_place { /* of an operand */
    uint32_t at;
    enum ptx_width width;
};

struct ptx_op {
    enum ptx_code code;
    int32_t guard; /* place of the predicate; -1: none */
    bool negated;  /* of the guard */
    uint8_t n;     /* operands */
    struct ptx_place operand[PTX_OPERANDS];
    /* of loads, stores, copies */
    enum ptx_space space;
    uint8_t bytes, vector; /* of an element; elements */
    bool is_signed;
    int64_t offset;
    uint32_t target;    /* of a branch: number of the instruction */
    const char *source; /* file and line, and those where it is inlined */
    /* counted: */
    uint64_t times, passes, least; /* executed by a warp; passes over memory, and at least */
};

struct ptx_constant { /* what a place of the file holds from the beginning */
    struct ptx_place place;
    enum {
        PTX_NUMBER,
        PTX_TID_X,
        PTX_TID_Y,
        PTX_NTID_X,
        PTX_NTID_Y,
        PTX_CTAID_X,
        PTX_CTAID_Y,
        PTX_NCTAID_X,
        PTX_NCTAID_Y,
        PTX_LANEID
    } kind;
    uint64_t number;
};

struct ptx_kernel {
    char name[PTX_NAME];
    struct ptx_op *ops;
    size_t n_ops;
    struct ptx_constant *constants;
    size_t n_constants;
    uint32_t file_bytes;
    uint32_t param_bytes, shared_bytes, local_bytes; /* static */
    uint32_t max_threads;                            /* 0: not said */
    /* counted: */
    uint64_t launches, lane_ops;
};

/* A piece of memory, and for each `granule` bytes of it who accessed them last. */
struct ptx_stamp {
    uint32_t wrote, read;           /* phase: counts barriers and blocks; 0 never */
    uint16_t wrote_part, read_part; /* barriers of the warp in the phase */
    uint8_t writer, reader;         /* thread */
    uint8_t readers;                /* 0: that one; 1: several of its warp; 2: of several warps */
    uint8_t pending;                /* cp.async is writing */
};
struct ptx_region {
    uint8_t *memory;
    size_t bytes, granule;
    uint8_t *written;         /* of each byte: 1 */
    struct ptx_stamp *stamps; /* NULL: nobody accessed it */
};

struct ptx {
    struct ptx_kernel *kernels;
    size_t n_kernels;
    struct ptx_region *regions; /* in order of addresses */
    size_t n_regions, latest;   /* latest: that was asked for */
    uint32_t phase;
    struct ptx_region shared;
    char **sources; /* what op->source may be */
    size_t n_sources;
    bool counts;                 /* SPIN_PTX_PROFILE */
    struct ptx_machine *machine; /* of the launch that is under way: ptx_machine.h */
};

/* --- ptx_read.c --- */
void ptx_read_file(struct ptx *, const char *path);

/* --- ptx_profile.c --- */
/* Accesses of `bytes` by lanes at their addresses. */
void ptx_count_shared(struct ptx_op *, const uint64_t *address, uint32_t lanes, size_t bytes);
void ptx_count_global(struct ptx_op *, const uint64_t *address, uint32_t lanes, size_t bytes);
void ptx_report(const struct ptx *, FILE *to);

/* --- ptx_memory.c --- */
void ptx_region_new(struct ptx_region *ret, uint8_t *memory, size_t bytes);
void ptx_region_end(struct ptx_region *);
void ptx_region_forget(struct ptx_region *); /* who accessed it */
struct ptx_region *ptx_region_of(struct ptx *, uint64_t address);

struct ptx_actor {                 /* who accesses */
    uint32_t launch, block, phase; /* first phase of launch and block, and the one it is in */
    uint16_t part;
    uint8_t thread;
};
/* PTX_READ_TILE: what nothing was written to may be read, as long as it is not used. PTX_FETCH,
 * PTX_FETCHED: cp.async begins, has ended. */
enum ptx_access { PTX_READ, PTX_READ_TILE, PTX_WRITE, PTX_FETCH, PTX_FETCHED };
/* NULL, or what is wrong. [at, at + bytes) is in the region. */
const char *ptx_region_access(struct ptx_region *, size_t at, size_t bytes, enum ptx_access,
                              const struct ptx_actor *);

#endif

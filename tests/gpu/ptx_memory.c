/* Memory that kernels access: where it is, what was written, who accessed it last. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/mem.h"
#include "tests/gpu/ptx_impl.h"

enum { COARSE = 4 };

void ptx_region_new(struct ptx_region *ret, uint8_t *memory, size_t bytes)
{
    *ret = (struct ptx_region){.memory = memory, .bytes = bytes, .granule = COARSE};
    ret->written = sp_xalloc(SP_MAX(bytes, 1));
}

static size_t stamps_bytes(const struct ptx_region *r)
{
    return (r->bytes / r->granule + 1) * sizeof(*r->stamps);
}

void ptx_region_forget(struct ptx_region *r)
{
    if (r->stamps)
        munmap(r->stamps, stamps_bytes(r));
    r->stamps = NULL;
}

void ptx_region_end(struct ptx_region *r)
{
    ptx_region_forget(r);
    free(r->written);
}

/* As many as there are pages that somebody accesses. */
static void need_stamps(struct ptx_region *r)
{
    if (r->stamps)
        return;
    r->stamps = mmap(NULL, stamps_bytes(r), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SP_ASSERT(r->stamps != MAP_FAILED);
}

/* --- who accessed it last --- */

/* Whether the access that `phase`, `part` and `thread` tell of is ordered before this one. */
static const char *conflict(const struct ptx_actor *actor, uint32_t phase, uint16_t part,
                            uint8_t thread, uint8_t threads)
{
    if (phase < actor->launch)
        return NULL;
    if (phase < actor->block)
        return "another block of this launch";
    if (phase < actor->phase)
        return NULL;
    if (threads == 2)
        return "threads of other warps, with no barrier in between";
    if (thread / PTX_LANES != actor->thread / PTX_LANES)
        return "a thread of another warp, with no barrier in between";
    if (part == actor->part && (threads == 1 || thread != actor->thread))
        return "another thread of the warp, with no barrier of the warp in between";
    return NULL;
}

static void read_by(struct ptx_stamp *s, const struct ptx_actor *actor)
{
    bool same_warp = s->reader / PTX_LANES == actor->thread / PTX_LANES;
    if (s->read != actor->phase)
        s->readers = 0;
    else if (s->readers == 2 || !same_warp)
        s->readers = 2;
    else if (s->read_part == actor->part && (s->readers == 1 || s->reader != actor->thread))
        s->readers = 1;
    else
        s->readers = 0;
    s->read = actor->phase;
    s->read_part = actor->part;
    s->reader = actor->thread;
}

static bool is_read(enum ptx_access access)
{
    return access == PTX_READ || access == PTX_READ_TILE;
}

static const char *access_granule(struct ptx_stamp *s, enum ptx_access access,
                                  const struct ptx_actor *actor)
{
    const char *what = NULL;
    if (access == PTX_FETCHED) {
        s->pending = 0;
    } else if (s->pending) {
        return "what cp.async is still writing";
    } else {
        what = conflict(actor, s->wrote, s->wrote_part, s->writer, 0);
        if (!what && !is_read(access))
            what = conflict(actor, s->read, s->read_part, s->reader, s->readers);
    }
    if (is_read(access)) {
        read_by(s, actor);
        return what;
    }
    s->wrote = actor->phase;
    s->wrote_part = actor->part;
    s->writer = actor->thread;
    s->pending = access == PTX_FETCH;
    return what;
}

static bool all_written(const uint8_t *written, size_t bytes)
{
    uint32_t four;
    if (bytes < sizeof(four))
        return written[0] && written[bytes - 1]; /* 1 or 2 */
    for (size_t i = 0; i < bytes; i += sizeof(four)) {
        memcpy(&four, written + i, sizeof(four));
        if (four != 0x01010101u)
            return false;
    }
    return true;
}

const char *ptx_region_access(struct ptx_region *r, size_t at, size_t bytes, enum ptx_access access,
                              const struct ptx_actor *actor)
{
    const char *what = NULL;
    if (access == PTX_READ && !all_written(r->written + at, bytes))
        return "memory that nothing was written to";
    if (!is_read(access))
        memset(r->written + at, 1, bytes);
    if (bytes < r->granule) { /* smaller than ever before */
        ptx_region_forget(r);
        r->granule = bytes;
    }
    need_stamps(r);
    for (size_t i = at / r->granule; !what && i < (at + bytes) / r->granule; i++)
        what = access_granule(&r->stamps[i], access, actor);
    return what;
}

/* --- where it is --- */

static size_t find(const struct ptx *ptx, uint64_t address) /* the first that begins behind it */
{
    size_t low = 0, high = ptx->n_regions;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((uint64_t)(uintptr_t)ptx->regions[middle].memory > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct ptx_region *ptx_region_of(struct ptx *ptx, uint64_t address)
{
    if (ptx->latest < ptx->n_regions) {
        struct ptx_region *r = &ptx->regions[ptx->latest];
        if (address - (uint64_t)(uintptr_t)r->memory < r->bytes)
            return r;
    }
    size_t i = find(ptx, address);
    ptx->latest = i - 1; /* none: not a number of a region */
    return i == 0 ? NULL : &ptx->regions[i - 1];
}

void ptx_memory_add(struct ptx *ptx, void *memory, size_t bytes)
{
    size_t i = find(ptx, (uint64_t)(uintptr_t)memory);
    ptx->regions = sp_xgrow(ptx->regions, ptx->n_regions + 1, sizeof(*ptx->regions));
    memmove(ptx->regions + i + 1, ptx->regions + i, (ptx->n_regions - i) * sizeof(*ptx->regions));
    ptx->n_regions++;
    ptx_region_new(&ptx->regions[i], memory, bytes);
}

void ptx_memory_remove(struct ptx *ptx, const void *memory)
{
    size_t i = find(ptx, (uint64_t)(uintptr_t)memory);
    SP_ASSERT(i > 0 && ptx->regions[i - 1].memory == memory);
    ptx_region_end(&ptx->regions[i - 1]);
    ptx->n_regions--;
    memmove(ptx->regions + i - 1, ptx->regions + i,
            (ptx->n_regions - i + 1) * sizeof(*ptx->regions));
}

/* The part of a region that such memory is; NULL: it is the host's own. */
static uint8_t *written_of(struct ptx *ptx, const void *memory, size_t bytes)
{
    struct ptx_region *r = ptx_region_of(ptx, (uint64_t)(uintptr_t)memory);
    size_t at = r ? (size_t)((const uint8_t *)memory - r->memory) : 0;
    if (!r || at >= r->bytes)
        return NULL;
    SP_ASSERT(bytes <= r->bytes - at);
    return r->written + at;
}

bool ptx_memory_is_written(struct ptx *ptx, const void *memory, size_t bytes)
{
    const uint8_t *written = written_of(ptx, memory, bytes);
    return !written || memchr(written, 0, bytes) == NULL;
}

void ptx_memory_written(struct ptx *ptx, const void *memory, size_t bytes)
{
    uint8_t *written = written_of(ptx, memory, bytes);
    if (written)
        memset(written, 1, bytes);
}

/* A device on the host: see emulate.h. SPIN_EMULATE_MIB is how much memory it has. */
#include "tests/gpu/emulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/tensor/cuda/device.h"

struct emu emu;

/* Addresses are multiples of this; what that leaves before the page holds a pattern, which is
 * looked at when the piece is freed. */
#define ALIGNED 128
#define PATTERN 0xa5

struct piece { /* one allocation: whole pages, the last of which can't be touched */
    struct piece *next;
    uint8_t *pages;
    size_t open_bytes; /* all but the last page */
    size_t bytes;
    uint8_t *memory;
};

struct device {
    struct piece *pieces;
    size_t free_bytes;
    bool open;
};

static size_t memory_bytes(void)
{
    const char *mib = getenv("SPIN_EMULATE_MIB");
    return (size_t)(mib ? strtoul(mib, NULL, 10) : 4096) << 20;
}

enum sp_err device_describe(struct device_info *ret, struct sp_error *err)
{
    *ret = (struct device_info){.memory_bytes = memory_bytes(), .free_bytes = memory_bytes()};
    snprintf(ret->name, sizeof(ret->name), "emulated by the host");
    snprintf(ret->library, sizeof(ret->library), "emulated");
    (void)err;
    return SP_OK;
}

enum sp_err device_open(struct device **ret, struct sp_error *err)
{
    struct device *d = sp_xalloc(sizeof(*d));
    d->free_bytes = memory_bytes();
    emu.backwards = getenv("SPIN_EMULATE_BACKWARDS") != NULL;
    *ret = d;
    (void)err;
    return SP_OK;
}

void device_usage(struct device *d, struct device_usage *ret)
{
    *ret = (struct device_usage){
        .memory_free = d->free_bytes, .memory_total = memory_bytes(), .busy = 0.5};
}

static void protect_piece(struct piece *p, bool open)
{
    SP_ASSERT(mprotect(p->pages, p->open_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
}

static size_t tail_bytes(const struct piece *p)
{
    return (size_t)(p->pages + p->open_bytes - (p->memory + p->bytes));
}

/* Memory of the device is there for kernels and copies alone. */
static void protect(struct device *d, bool open)
{
    for (struct piece *p = d->pieces; p; p = p->next)
        protect_piece(p, open);
    d->open = open;
}

void *device_alloc(struct device *d, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > d->free_bytes)
        return NULL;
    struct piece *p = sp_xalloc(sizeof(*p));
    p->bytes = bytes;
    p->open_bytes = (bytes + ALIGNED + page - 1) / page * page;
    p->pages = mmap(NULL, p->open_bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SP_ASSERT(p->pages != MAP_FAILED);
    p->memory = p->pages + p->open_bytes - (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    protect_piece(p, true);
    memset(p->memory + bytes, PATTERN, tail_bytes(p));
    protect_piece(p, d->open);
    p->next = d->pieces;
    d->pieces = p;
    d->free_bytes -= bytes;
    return p->memory;
}

void device_free(struct device *d, void *memory)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct piece **at = &d->pieces;
    if (!memory)
        return;
    while (*at && (*at)->memory != memory)
        at = &(*at)->next;
    SP_ASSERT(*at != NULL); /* it is this device's, and was not freed before */
    struct piece *p = *at;
    *at = p->next;
    protect_piece(p, true);
    for (size_t i = 0; i < tail_bytes(p); i++)
        SP_ASSERT(p->memory[p->bytes + i] == PATTERN); /* nobody wrote behind it */
    munmap(p->pages, p->open_bytes + page);
    d->free_bytes += p->bytes;
    free(p);
}

void device_close(struct device *d)
{
    if (!d)
        return;
    SP_ASSERT(d->pieces == NULL); /* nothing was forgotten */
    free(d);
}

void device_put(struct device *d, void *to, const void *from_host, size_t bytes)
{
    device_copy(d, to, from_host, bytes);
}

void device_get(struct device *d, void *to_host, const void *from, size_t bytes)
{
    device_copy(d, to_host, from, bytes);
}

void device_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    protect(d, true);
    memcpy(to, from, bytes);
    protect(d, false);
}

void device_zero(struct device *d, void *memory, size_t bytes)
{
    protect(d, true);
    memset(memory, 0, bytes);
    protect(d, false);
}

void device_wait(struct device *d)
{
    (void)d;
}

/* Every block finds `shared_bytes` of dynamic memory that hold no numbers. */
static void run_blocks(struct device *d, const void *kernel, struct device_grid blocks,
                       struct device_grid threads, size_t shared_bytes, const void *args)
{
    const struct emu_kernel *k = kernel;
    SP_ASSERT(threads.x * threads.y <= 256 && blocks.x <= 0x7fffffff && blocks.y <= 65535);
    emu.threads = (struct emu_index){(uint32_t)threads.x, (uint32_t)threads.y};
    emu.blocks = (struct emu_index){(uint32_t)blocks.x, (uint32_t)blocks.y};
    protect(d, true);
    for (uint32_t y = 0; y < blocks.y; y++)
        for (uint32_t x = 0; x < blocks.x; x++) {
            emu.block = (struct emu_index){x, y};
            if (shared_bytes > 0)
                memset(emu.dynamic, 0xff, shared_bytes);
            k->run(args);
        }
    protect(d, false);
}

void device_launch_shared(struct device *d, const void *kernel, struct device_grid blocks,
                          struct device_grid threads, size_t shared_bytes, const void *args)
{
    SP_ASSERT(shared_bytes <= DEVICE_SHARED_BYTES);
    emu.dynamic = device_alloc(d, (shared_bytes + 127) / 128 * 128);
    SP_ASSERT(emu.dynamic != NULL);
    run_blocks(d, kernel, blocks, threads, shared_bytes, args);
    device_free(d, emu.dynamic);
}

void device_launch(struct device *d, const void *kernel, struct device_grid blocks,
                   struct device_grid threads, const void *args)
{
    run_blocks(d, kernel, blocks, threads, 0, args);
}

/* The reference of cublasLt's products: one chain over k. With SPIN_EMULATE_NO_CUBLASLT there is
 * none. */
bool device_product(struct device *d, const struct device_product *p)
{
    if (getenv("SPIN_EMULATE_NO_CUBLASLT"))
        return false;
    protect(d, true);
    for (int32_t m = 0; m < p->M; m++)
        for (int32_t n = 0; n < p->N; n++) {
            float *c = p->c + (size_t)m * (size_t)p->N + (size_t)n, sum = p->accumulate ? *c : 0.0f;
            for (int32_t k = 0; k < p->K; k++) {
                size_t a = p->a_transposed ? (size_t)k * (size_t)p->M + (size_t)m
                                           : (size_t)m * (size_t)p->K + (size_t)k;
                size_t b = p->b_transposed ? (size_t)n * (size_t)p->K + (size_t)k
                                           : (size_t)k * (size_t)p->N + (size_t)n;
                sum = fmaf(sp_bf16_to_f32(p->a[a]), sp_bf16_to_f32(p->b[b]), sum);
            }
            *c = sum;
        }
    protect(d, false);
    return true;
}

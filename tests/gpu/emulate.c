/* A device on the host: see emulate.h. SPIN_EMULATE_MIB is how much memory it has. */
#include "tests/gpu/emulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/tensor/cuda/device_pass.h"
#include "tests/gpu/ptx.h"

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
    bool host; /* the host's: always there, and none of the device's */
};

/* Work that is kept to be done later: a launch, or one of the others with its arguments. */
struct step {
    struct step *next;
    enum { STEP_LAUNCH, STEP_COPY, STEP_ZERO, STEP_PRODUCT } kind;
    struct device_grid blocks, threads;
    size_t bytes; /* shared, copied, zeroed */
    const void *kernel, *from;
    void *to;
    struct device_product product;
    void *args;
};

struct graph {
    uint64_t key, used;
    struct step *first;
};

struct device {
    struct device_passes *passes;
    struct piece *pieces;
    size_t free_bytes, own, own_peak;
    bool open;
    bool by_warps;   /* SPIN_EMULATE_WARPS */
    struct ptx *ptx; /* SPIN_EMULATE_PTX; NULL: kernels are functions */
    bool recording;
    struct graph kept[DEVICE_GRAPHS], recorded;
    struct step **end; /* of what is recorded */
    int n_kept;
    uint64_t clock;
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
    d->passes = device_passes_new();
    emu.backwards = getenv("SPIN_EMULATE_BACKWARDS") != NULL;
    d->by_warps = getenv("SPIN_EMULATE_WARPS") != NULL;
    if (getenv("SPIN_EMULATE_PTX"))
        d->ptx = ptx_new(getenv("SPIN_EMULATE_PTX"));
    *ret = d;
    (void)err;
    return SP_OK;
}

void device_usage(struct device *d, struct device_usage *ret)
{
    *ret = (struct device_usage){
        .memory_free = d->free_bytes,
        .memory_total = memory_bytes(),
        .own = d->own,
        .own_peak = d->own_peak,
        .busy = 0.5,
    };
}

void device_set_peak(struct device *d, uint64_t own_peak)
{
    d->own_peak = own_peak;
}

static void protect_piece(struct piece *p, bool open)
{
    SP_ASSERT(mprotect(p->pages, p->open_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
}

static size_t tail_bytes(const struct piece *p)
{
    return (size_t)(p->pages + p->open_bytes - (p->memory + p->bytes));
}

/* Memory of the device is there for kernels and copies alone; always where the machine for PTX
 * looks after it, for the host is the same, and closing takes half of the time. */
static void protect(struct device *d, bool open)
{
    if (d->ptx)
        return;
    for (struct piece *p = d->pieces; p; p = p->next)
        if (!p->host)
            protect_piece(p, open);
    d->open = open;
}

static struct piece *new_piece(struct device *d, size_t bytes, bool host)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct piece *p = sp_xalloc(sizeof(*p));
    p->bytes = bytes;
    p->host = host;
    p->open_bytes = (bytes + ALIGNED + page - 1) / page * page;
    p->pages = mmap(NULL, p->open_bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SP_ASSERT(p->pages != MAP_FAILED);
    p->memory = p->pages + p->open_bytes - (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    protect_piece(p, true);
    memset(p->memory + bytes, PATTERN, tail_bytes(p));
    protect_piece(p, host || d->open || d->ptx);
    p->next = d->pieces;
    d->pieces = p;
    if (d->ptx)
        ptx_memory_add(d->ptx, p->memory, bytes);
    if (d->ptx && host) /* the host may write there at any time; it is zeroed */
        ptx_memory_written(d->ptx, p->memory, bytes);
    return p;
}

static size_t free_piece(struct device *d, const void *memory)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct piece **at = &d->pieces;
    while (*at && (*at)->memory != memory)
        at = &(*at)->next;
    SP_ASSERT(*at != NULL); /* it is this device's, and was not freed before */
    struct piece *p = *at;
    size_t bytes = p->bytes;
    *at = p->next;
    if (d->ptx)
        ptx_memory_remove(d->ptx, memory);
    protect_piece(p, true);
    for (size_t i = 0; i < tail_bytes(p); i++)
        SP_ASSERT(p->memory[p->bytes + i] == PATTERN); /* nobody wrote behind it */
    munmap(p->pages, p->open_bytes + page);
    free(p);
    return bytes;
}

void *device_do_alloc(struct device *d, size_t bytes)
{
    SP_ASSERT(!d->recording);
    if (bytes > d->free_bytes)
        return NULL;
    d->free_bytes -= bytes;
    d->own += bytes;
    d->own_peak = SP_MAX(d->own_peak, d->own);
    return new_piece(d, bytes, false)->memory;
}

void device_do_free(struct device *d, void *memory)
{
    device_forget_graphs(d);
    size_t bytes = free_piece(d, memory);
    d->free_bytes += bytes;
    d->own -= bytes;
}

/* SPIN_EMULATE_NO_HOST_MEMORY: there is none. */
void *device_host_alloc(struct device *d, size_t bytes)
{
    return getenv("SPIN_EMULATE_NO_HOST_MEMORY") ? NULL : new_piece(d, bytes, true)->memory;
}

bool device_is_host(const struct device *d, const void *memory)
{
    const uint8_t *at = memory;
    for (const struct piece *p = d->pieces; p; p = p->next)
        if (p->host && at >= p->memory && at < p->memory + p->bytes)
            return true;
    return false;
}

void device_host_free(struct device *d, void *memory)
{
    SP_ASSERT(!memory || device_is_host(d, memory));
    if (memory)
        free_piece(d, memory);
}

struct device_passes *device_passes_of(struct device *d)
{
    return d->passes;
}

void *device_pinned_alloc(struct device *d, size_t bytes)
{
    (void)d;
    return sp_xalloc(bytes);
}

void device_pinned_free(struct device *d, void *memory)
{
    (void)d;
    free(memory);
}

void device_close(struct device *d)
{
    if (!d)
        return;
    device_passes_free(d);
    device_forget_graphs(d);
    SP_ASSERT(d->pieces == NULL); /* nothing was forgotten */
    ptx_free(d->ptx);
    free(d);
}

/* Keeps the step when work is recorded; false: it is to be done now. */
static bool record(struct device *d, const struct step *step)
{
    if (!d->recording)
        return false;
    *d->end = sp_xmemdup(step, sizeof(*step));
    (*d->end)->next = NULL;
    d->end = &(*d->end)->next;
    return true;
}

static void written(struct device *d, const void *memory, size_t bytes)
{
    if (d->ptx)
        ptx_memory_written(d->ptx, memory, bytes);
}

/* Nobody reads what nothing was written to. */
static void check_written(struct device *d, const void *memory, size_t bytes)
{
    SP_ASSERT(!d->ptx || !memory || ptx_memory_is_written(d->ptx, memory, bytes));
}

static void copy(struct device *d, void *to, const void *from, size_t bytes)
{
    check_written(d, from, bytes);
    protect(d, true);
    memcpy(to, from, bytes);
    written(d, to, bytes);
    protect(d, false);
}

static void zero(struct device *d, void *memory, size_t bytes)
{
    protect(d, true);
    memset(memory, 0, bytes);
    written(d, memory, bytes);
    protect(d, false);
}

void device_do_put(struct device *d, void *to, const void *from_host, size_t bytes)
{
    SP_ASSERT(!d->recording);
    copy(d, to, from_host, bytes);
}

void device_do_get(struct device *d, void *to_host, const void *from, size_t bytes)
{
    SP_ASSERT(!d->recording);
    copy(d, to_host, from, bytes);
}

void device_do_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    struct step step = {.kind = STEP_COPY, .to = to, .from = from, .bytes = bytes};
    if (!record(d, &step))
        copy(d, to, from, bytes);
}

void device_do_put_pinned(struct device *d, void *to, const void *from_pinned, size_t bytes)
{
    device_do_copy(d, to, from_pinned, bytes); /* the host's memory is read when it is done */
}

void device_do_zero(struct device *d, void *memory, size_t bytes)
{
    struct step step = {.kind = STEP_ZERO, .to = memory, .bytes = bytes};
    if (!record(d, &step))
        zero(d, memory, bytes);
}

void device_do_wait(struct device *d)
{
    SP_ASSERT(!d->recording);
}

/* --- launches --- */

static void run_ptx(struct device *d, const struct emu_kernel *k, const struct step *s)
{
    const struct ptx_launch launch = {
        .kernel = k->name,
        .args = s->args,
        .args_bytes = k->handle.args_bytes,
        .blocks = {(uint32_t)s->blocks.x, (uint32_t)s->blocks.y},
        .threads = {(uint32_t)s->threads.x, (uint32_t)s->threads.y},
        .shared_bytes = s->bytes,
        .backwards = emu.backwards,
    };
    const char *fault;
    if (ptx_run(d->ptx, &launch, &fault))
        return;
    fprintf(stderr, "%s\n", fault);
    abort();
}

static void run_functions(struct device *d, const struct emu_kernel *k, const struct step *s)
{
    struct emu_index blocks = {(uint32_t)s->blocks.x, (uint32_t)s->blocks.y};
    struct emu_index threads = {(uint32_t)s->threads.x, (uint32_t)s->threads.y};
    if (s->bytes > 0)
        emu.dynamic = new_piece(d, (s->bytes + 127) / 128 * 128, false)->memory;
    emu_run(k, blocks, threads, s->bytes, d->by_warps, s->args);
    if (s->bytes > 0)
        free_piece(d, emu.dynamic);
}

static void launch(struct device *d, const struct step *s)
{
    SP_ASSERT(s->threads.x * s->threads.y <= 256 && s->blocks.x <= 0x7fffffff &&
              s->blocks.y <= 65535);
    protect(d, true);
    if (d->ptx)
        run_ptx(d, s->kernel, s);
    else
        run_functions(d, s->kernel, s);
    protect(d, false);
}

void device_do_launch(struct device *d, const void *kernel, struct device_grid blocks,
                      struct device_grid threads, size_t shared_bytes, const void *args)
{
    const struct emu_kernel *k = kernel;
    struct step step = {
        .kind = STEP_LAUNCH,
        .blocks = blocks,
        .threads = threads,
        .bytes = shared_bytes,
        .kernel = kernel,
        .args = sp_xmemdup(args, k->handle.args_bytes),
    };
    SP_ASSERT(shared_bytes <= DEVICE_SHARED_BYTES);
    if (record(d, &step))
        return;
    launch(d, &step);
    free(step.args);
}

/* --- products --- */

static float factor(const void *at, size_t i)
{
    return sp_bf16_to_f32(((const uint16_t *)at)[i]);
}

/* The reference of cublasLt's products: one chain over k, and what is added at the end. */
static float product_at(const struct device_product *p, int32_t m, int32_t n)
{
    size_t row = (size_t)m, column = (size_t)n, at = row * (size_t)p->N + column;
    float sum = 0.0f;
    for (size_t k = 0; k < (size_t)p->K; k++) {
        size_t a = p->a_transposed ? k * (size_t)p->M + row : row * (size_t)p->K + k;
        size_t b = p->b_transposed ? column * (size_t)p->K + k : k * (size_t)p->N + column;
        sum += factor(p->a, a) * factor(p->b, b); /* the product of bf16 numbers is exact */
    }
    if (p->added)
        sum += p->c_bf16 ? factor(p->added, at) : ((const float *)p->added)[at];
    return sum;
}

static void multiply(struct device *d, const struct device_product *p)
{
    size_t M = (size_t)p->M, N = (size_t)p->N, K = (size_t)p->K;
    check_written(d, p->a, M * K * 2);
    check_written(d, p->b, K * N * 2);
    check_written(d, p->added, M * N * (p->c_bf16 ? 2 : 4));
    protect(d, true);
    for (int32_t m = 0; m < p->M; m++)
        for (int32_t n = 0; n < p->N; n++) {
            size_t at = (size_t)m * (size_t)p->N + (size_t)n;
            float sum = product_at(p, m, n);
            if (p->c_bf16)
                ((uint16_t *)p->c)[at] = sp_f32_to_bf16(sum);
            else
                ((float *)p->c)[at] = sum;
        }
    written(d, p->c, M * N * (p->c_bf16 ? 2 : 4));
    protect(d, false);
}

/* What rows lie at multiples of when the first does, as cublasLt is told; 16 at most. */
static bool is_aligned(const void *at, int32_t row, size_t unit)
{
    size_t bytes = (size_t)row * unit, of = bytes & (~bytes + 1);
    return (uintptr_t)at % SP_MIN(of, 16) == 0;
}

/* With SPIN_EMULATE_NO_CUBLASLT there is no algorithm for anything. */
bool device_can_product(struct device *d, const struct device_product *p)
{
    (void)d;
    SP_ASSERT(!(p->a_transposed && p->b_transposed));
    return !getenv("SPIN_EMULATE_NO_CUBLASLT") && p->M > 0 && p->N > 0 && p->K > 0 &&
           is_aligned(p->a, p->a_transposed ? p->M : p->K, 2) &&
           is_aligned(p->b, p->b_transposed ? p->K : p->N, 2) &&
           is_aligned(p->c, p->N, p->c_bf16 ? 2 : 4) &&
           is_aligned(p->added, p->N, p->c_bf16 ? 2 : 4);
}

bool device_do_product(struct device *d, const struct device_product *p)
{
    struct step step = {.kind = STEP_PRODUCT, .product = *p};
    if (!device_can_product(d, p))
        return false;
    if (!record(d, &step))
        multiply(d, p);
    return true;
}

void device_row_variant(struct device *d, bool allowed)
{
    (void)d; /* rows never depend on each other here */
    (void)allowed;
}

/* --- recorded work --- */

static void free_steps(struct step *step)
{
    while (step) {
        struct step *next = step->next;
        free(step->args);
        free(step);
        step = next;
    }
}

static int find_graph(const struct device *d, uint64_t key)
{
    for (int i = 0; i < d->n_kept; i++)
        if (d->kept[i].key == key)
            return i;
    return -1;
}

static void remove_graph(struct device *d, int i)
{
    free_steps(d->kept[i].first);
    d->kept[i] = d->kept[--d->n_kept];
}

void device_forget_graphs(struct device *d)
{
    SP_ASSERT(!d->recording);
    while (d->n_kept > 0)
        remove_graph(d, d->n_kept - 1);
}

void device_forget_graph(struct device *d, uint64_t key)
{
    int i = find_graph(d, key);
    if (i >= 0)
        remove_graph(d, i);
}

/* With SPIN_EMULATE_NO_GRAPHS nothing can be recorded. */
bool device_record(struct device *d, uint64_t key)
{
    SP_ASSERT(!d->recording);
    if (getenv("SPIN_EMULATE_NO_GRAPHS"))
        return false;
    d->recording = true;
    d->recorded = (struct graph){.key = key};
    d->end = &d->recorded.first;
    return true;
}

bool device_recorded(struct device *d)
{
    SP_ASSERT(d->recording);
    d->recording = false;
    int old = find_graph(d, d->recorded.key);
    if (old < 0 && d->n_kept == DEVICE_GRAPHS) {
        old = 0;
        for (int i = 1; i < d->n_kept; i++)
            if (d->kept[i].used < d->kept[old].used)
                old = i;
    }
    if (old >= 0)
        remove_graph(d, old);
    d->recorded.used = ++d->clock;
    d->kept[d->n_kept++] = d->recorded;
    return true;
}

bool device_replay(struct device *d, uint64_t key)
{
    SP_ASSERT(!d->recording);
    int i = find_graph(d, key);
    if (i < 0)
        return false;
    d->kept[i].used = ++d->clock;
    for (const struct step *s = d->kept[i].first; s; s = s->next)
        switch (s->kind) {
        case STEP_LAUNCH:
            launch(d, s);
            break;
        case STEP_COPY:
            copy(d, s->to, s->from, s->bytes);
            break;
        case STEP_ZERO:
            zero(d, s->to, s->bytes);
            break;
        case STEP_PRODUCT:
            multiply(d, &s->product);
            break;
        }
    return true;
}

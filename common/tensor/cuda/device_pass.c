#include "common/tensor/cuda/device_pass.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/kernels.h"

enum call_kind { CALL_LAUNCH, CALL_COPY, CALL_ZERO, CALL_PUT, CALL_PRODUCT };

/* All bytes are set, so that equal calls are equal memory. */
struct call {
    enum call_kind kind;
    struct device_grid blocks, threads;
    const void *kernel, *from;
    void *to;
    size_t bytes; /* shared, copied, zeroed, put */
    size_t at;    /* of arguments in log.args, of what is put in the stage */
    struct device_product product;
};

struct log {
    struct call *calls;
    size_t n, room;
    uint8_t *args;
    size_t args_bytes, args_room;
};

struct pass { /* as it was the last time */
    uint64_t key, used;
    struct log log;
    bool no_graph; /* it could not be recorded, or there was no memory for it */
};

struct device_passes {
    bool off; /* passes are like any other work */
    bool on;  /* work is held back */
    struct device_pass_counts counts;
    uint64_t key, clock;
    struct log log;
    uint8_t *stage; /* pinned: what is put */
    size_t staged;
    struct pass kept[DEVICE_PASSES];
    int n;
};

struct device_passes *device_passes_new(void)
{
    return sp_xalloc(sizeof(struct device_passes));
}

static void log_free(struct log *log)
{
    free(log->calls);
    free(log->args);
}

void device_passes_free(struct device *d)
{
    struct device_passes *p = device_passes_of(d);
    if (!p)
        return;
    for (int i = 0; i < p->n; i++)
        log_free(&p->kept[i].log);
    log_free(&p->log);
    device_pinned_free(d, p->stage);
    free(p);
}

/* --- writing down --- */

static struct call *add(struct log *log, enum call_kind kind)
{
    if (log->n == log->room) {
        log->room = log->room > 0 ? 2 * log->room : 512;
        log->calls = sp_xgrow(log->calls, log->room, sizeof(*log->calls));
    }
    struct call *call = &log->calls[log->n++];
    memset(call, 0, sizeof(*call));
    call->kind = kind;
    return call;
}

static size_t add_args(struct log *log, const void *args, size_t bytes)
{
    size_t at = (log->args_bytes + 15) / 16 * 16;
    while (at + bytes > log->args_room) {
        log->args_room = log->args_room > 0 ? 2 * log->args_room : (size_t)1 << 16;
        log->args = sp_xgrow(log->args, log->args_room, 1);
    }
    memset(log->args + log->args_bytes, 0, at - log->args_bytes);
    memcpy(log->args + at, args, bytes);
    log->args_bytes = at + bytes;
    return at;
}

static bool same(const struct log *a, const struct log *b)
{
    return a->n == b->n && a->args_bytes == b->args_bytes &&
           memcmp(a->calls, b->calls, a->n * sizeof(*a->calls)) == 0 &&
           memcmp(a->args, b->args, a->args_bytes) == 0;
}

/* --- doing --- */

static void issue(struct device *d, const struct device_passes *p, const struct log *log)
{
    for (size_t i = 0; i < log->n; i++) {
        const struct call *c = &log->calls[i];
        switch (c->kind) {
        case CALL_LAUNCH:
            device_do_launch(d, c->kernel, c->blocks, c->threads, c->bytes, log->args + c->at);
            break;
        case CALL_COPY:
            device_do_copy(d, c->to, c->from, c->bytes);
            break;
        case CALL_ZERO:
            device_do_zero(d, c->to, c->bytes);
            break;
        case CALL_PUT:
            device_do_put_pinned(d, c->to, p->stage + c->at, c->bytes);
            break;
        case CALL_PRODUCT:
            SP_ASSERT(device_do_product(d, &c->product)); /* it was asked before */
            break;
        }
    }
}

/* What was held back is done, and nothing more is held back in this pass. */
static void stop_holding(struct device *d)
{
    struct device_passes *p = device_passes_of(d);
    if (!p->on)
        return;
    p->on = false;
    p->counts.broken++;
    issue(d, p, &p->log);
    p->log.n = p->log.args_bytes = 0;
}

void device_pass_begin(struct device *d, uint64_t key)
{
    struct device_passes *p = device_passes_of(d);
    SP_ASSERT(!p->on);
    if (p->off)
        return;
    if (!p->stage)
        p->stage = device_pinned_alloc(d, DEVICE_PASS_PUT_BYTES);
    if (!p->stage)
        return;
    device_do_wait(d); /* for the stage; who repeats passes has read their results */
    p->on = true;
    p->key = key;
    p->log.n = p->log.args_bytes = p->staged = 0;
}

static struct pass *find(struct device_passes *p, uint64_t key)
{
    for (int i = 0; i < p->n; i++)
        if (p->kept[i].key == key)
            return &p->kept[i];
    return NULL;
}

/* A place for another key: a new one, or that of the pass that was not seen for longest. */
static struct pass *new_place(struct device_passes *p)
{
    struct pass *oldest = &p->kept[0];
    if (p->n < DEVICE_PASSES)
        return &p->kept[p->n++];
    for (int i = 1; i < p->n; i++)
        if (p->kept[i].used < oldest->used)
            oldest = &p->kept[i];
    return oldest;
}

/* The pass is what it was the last time: by its graph, which is made when there is none. */
static bool repeat(struct device *d, struct device_passes *p, struct pass *before)
{
    if (device_replay(d, p->key))
        return true;
    if (before->no_graph || !device_record(d, p->key))
        return false;
    issue(d, p, &p->log);
    before->no_graph = !device_recorded(d) || !device_replay(d, p->key);
    return !before->no_graph;
}

void device_pass_end(struct device *d)
{
    struct device_passes *p = device_passes_of(d);
    if (!p->on)
        return;
    p->on = false;
    struct pass *before = find(p, p->key);
    bool unchanged = before && same(&before->log, &p->log);
    if (unchanged && repeat(d, p, before)) {
        before->used = ++p->clock;
        p->counts.repeated++;
        return;
    }
    p->counts.issued++;
    issue(d, p, &p->log);
    if (!before) {
        before = new_place(p);
        before->key = p->key;
    }
    /* The next time may be the same as this one. */
    struct log log = before->log;
    before->log = p->log;
    before->no_graph = unchanged && before->no_graph;
    before->used = ++p->clock;
    p->log = log;
    device_forget_graph(d, p->key);
}

void device_hold_passes(struct device *d, bool held)
{
    device_passes_of(d)->off = !held;
}

struct device_pass_counts device_pass_counts(struct device *d)
{
    return device_passes_of(d)->counts;
}

/* --- the calls of device.h --- */

void device_launch_shared(struct device *d, const void *kernel, struct device_grid blocks,
                          struct device_grid threads, size_t shared_bytes, const void *args)
{
    struct device_passes *p = device_passes_of(d);
    if (blocks.x == 0 || blocks.y == 0)
        return;
    if (!p->on) {
        device_do_launch(d, kernel, blocks, threads, shared_bytes, args);
        return;
    }
    struct call *call = add(&p->log, CALL_LAUNCH);
    call->kernel = kernel;
    call->blocks = blocks;
    call->threads = threads;
    call->bytes = shared_bytes;
    call->at = add_args(&p->log, args, ((const struct gpu_handle *)kernel)->args_bytes);
}

void device_launch(struct device *d, const void *kernel, struct device_grid blocks,
                   struct device_grid threads, const void *args)
{
    device_launch_shared(d, kernel, blocks, threads, 0, args);
}

bool device_product(struct device *d, const struct device_product *product)
{
    struct device_passes *p = device_passes_of(d);
    if (!p->on)
        return device_do_product(d, product);
    p->on = false; /* what chooses an algorithm does its work at once */
    bool can = device_can_product(d, product);
    p->on = true;
    if (!can)
        return false;
    struct call *call = add(&p->log, CALL_PRODUCT);
    call->product.c = product->c;
    call->product.a = product->a;
    call->product.b = product->b;
    call->product.added = product->added;
    call->product.M = product->M;
    call->product.N = product->N;
    call->product.K = product->K;
    call->product.a_transposed = product->a_transposed;
    call->product.b_transposed = product->b_transposed;
    call->product.c_bf16 = product->c_bf16;
    return true;
}

void device_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    struct device_passes *p = device_passes_of(d);
    if (!p->on) {
        device_do_copy(d, to, from, bytes);
        return;
    }
    struct call *call = add(&p->log, CALL_COPY);
    call->to = to;
    call->from = from;
    call->bytes = bytes;
}

void device_zero(struct device *d, void *memory, size_t bytes)
{
    struct device_passes *p = device_passes_of(d);
    if (!p->on) {
        device_do_zero(d, memory, bytes);
        return;
    }
    struct call *call = add(&p->log, CALL_ZERO);
    call->to = memory;
    call->bytes = bytes;
}

void device_put(struct device *d, void *to, const void *from_host, size_t bytes)
{
    struct device_passes *p = device_passes_of(d);
    size_t at = (p->staged + 15) / 16 * 16;
    if (p->on && (bytes > DEVICE_PASS_PUT_BYTES || at > DEVICE_PASS_PUT_BYTES - bytes))
        stop_holding(d);
    if (!p->on) {
        device_do_put(d, to, from_host, bytes);
        return;
    }
    struct call *call = add(&p->log, CALL_PUT);
    call->to = to;
    call->bytes = bytes;
    call->at = at;
    memcpy(p->stage + at, from_host, bytes);
    p->staged = at + bytes;
}

void device_get(struct device *d, void *to_host, const void *from, size_t bytes)
{
    stop_holding(d);
    device_do_get(d, to_host, from, bytes);
}

void device_wait(struct device *d)
{
    stop_holding(d);
    device_do_wait(d);
}

/* Zeroing is part of it, and is held back. */
void *device_alloc(struct device *d, size_t bytes)
{
    void *memory = device_do_alloc(d, bytes);
    if (memory)
        device_zero(d, memory, bytes);
    return memory;
}

void device_free(struct device *d, void *memory)
{
    if (!memory)
        return;
    stop_holding(d);
    device_do_free(d, memory);
}

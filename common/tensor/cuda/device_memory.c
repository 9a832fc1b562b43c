/* Memory of the device and copies. Uploads, and downloads of much memory, go through two pieces of
 * pinned memory, which the device reads by itself: while it copies one, the host fills (or empties)
 * the other. Small uploads as well: when memory that isn't pinned has been read is promised
 * nowhere, and where the device can read all of the host's memory it need not be when the call
 * returns. */
#include "common/tensor/cuda/device_state.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

#define STAGED_ALIGN 256 /* bytes; divides a stage's */

void *device_take(struct device *d, size_t bytes)
{
    void *memory = NULL;
    SP_ASSERT(!d->graphs.recording);
    if (cudaMalloc(&memory, bytes > 0 ? bytes : 1) == cudaSuccess)
        return memory;
    (void)cudaGetLastError(); /* else the next call would report it */
    return NULL;
}

/* cudaFree may wait for what uses the memory, or not. */
void device_give(struct device *d, void *memory)
{
    device_do_wait(d);
    device_check(cudaFree(memory), "free");
}

static void keep(struct device_memory *m, void *at, size_t bytes)
{
    if (m->n_blocks == m->capacity) {
        m->capacity = m->capacity > 0 ? 2 * m->capacity : 64;
        m->blocks = sp_xgrow(m->blocks, (size_t)m->capacity, sizeof(*m->blocks));
    }
    m->blocks[m->n_blocks++] = (struct device_block){at, bytes};
    uint64_t own = atomic_fetch_add(&m->own, bytes) + bytes;
    if (own > atomic_load(&m->own_peak)) /* one thread writes */
        atomic_store(&m->own_peak, own);
}

static void drop(struct device_memory *m, const void *at)
{
    int i = m->n_blocks - 1;
    while (i >= 0 && m->blocks[i].at != at)
        i--;
    SP_ASSERT(i >= 0); /* it is this device's, and was not freed before */
    atomic_fetch_sub(&m->own, m->blocks[i].bytes);
    m->blocks[i] = m->blocks[--m->n_blocks];
}

void device_set_peak(struct device *d, uint64_t own_peak)
{
    atomic_store(&d->memory.own_peak, own_peak);
}

void *device_do_alloc(struct device *d, size_t bytes)
{
    void *memory = device_take(d, bytes);
    if (memory)
        keep(&d->memory, memory, bytes);
    return memory;
}

void device_do_free(struct device *d, void *memory)
{
    device_forget_graphs(d);
    drop(&d->memory, memory);
    device_give(d, memory);
}

/* --- memory of the host --- */

void *device_host_alloc(struct device *d, size_t bytes)
{
    void *memory = NULL, *there = NULL;
    cudaError_t rc =
        cudaHostAlloc(&memory, bytes > 0 ? bytes : 1, cudaHostAllocMapped | cudaHostAllocPortable);
    if (rc == cudaSuccess)
        rc = cudaHostGetDevicePointer(&there, memory, 0);
    if (rc != cudaSuccess || there != memory) {
        (void)cudaGetLastError();
        if (memory)
            (void)cudaFreeHost(memory);
        return NULL;
    }
    struct device_host *h = sp_xalloc(sizeof(*h));
    *h = (struct device_host){.next = d->memory.hosts, .at = memory, .bytes = bytes};
    d->memory.hosts = h;
    memset(memory, 0, bytes);
    return memory;
}

void device_host_free(struct device *d, void *memory)
{
    struct device_host **at = &d->memory.hosts;
    if (!memory)
        return;
    device_wait(d); /* for the kernels that use it, while it is still known for what it is */
    while (*at && (*at)->at != memory)
        at = &(*at)->next;
    SP_ASSERT(*at != NULL); /* it is this device's, and was not freed before */
    struct device_host *h = *at;
    *at = h->next;
    free(h);
    device_forget_graphs(d);
    device_check(cudaFreeHost(memory), "free of the host's memory");
}

bool device_is_host(const struct device *d, const void *memory)
{
    const uint8_t *at = memory;
    for (const struct device_host *h = d->memory.hosts; h; h = h->next)
        if (at >= h->at && at < h->at + h->bytes)
            return true;
    return false;
}

void device_memory_close(struct device *d)
{
    for (int i = 0; i < 2; i++) {
        struct device_stage *s = &d->memory.stages[i];
        if (s->idle)
            (void)cudaEventDestroy(s->idle);
        if (s->at)
            (void)cudaFreeHost(s->at);
        *s = (struct device_stage){0};
    }
    free(d->memory.blocks);
    d->memory.blocks = NULL;
}

/* --- copies --- */

/* Whether there are stages, which are made when they are first needed. */
static bool staged(struct device *d)
{
    struct device_memory *m = &d->memory;
    for (int i = 0; i < 2 && !m->staged && !m->unstaged; i++) {
        struct device_stage *s = &m->stages[i];
        m->unstaged =
            cudaHostAlloc(&s->at, DEVICE_STAGE_BYTES, cudaHostAllocDefault) != cudaSuccess ||
            cudaEventCreateWithFlags(&s->idle, cudaEventDisableTiming) != cudaSuccess;
    }
    if (m->unstaged)
        (void)cudaGetLastError(); /* what was made is freed with the device */
    m->staged = !m->unstaged;
    return m->staged;
}

static void start(struct device *d, struct device_stage *s, void *to, const void *from,
                  size_t bytes, enum cudaMemcpyKind kind)
{
    device_check(cudaMemcpyAsync(to, from, bytes, kind, d->stream), "staged copy");
    device_check(cudaEventRecord(s->idle, d->stream), "staged copy");
}

/* An event that was never recorded is over. */
static void await(struct device_stage *s)
{
    device_check(cudaEventSynchronize(s->idle), "staged copy");
}

/* What kernels do to memory of the host comes before what the host itself does to it. */
static bool waits(struct device *d, const void *to, const void *from)
{
    bool is_host = device_is_host(d, to) || device_is_host(d, from);
    if (is_host)
        device_do_wait(d);
    return is_host;
}

/* Pinned memory for as much as there is room for of what is to be put: *ret_bytes. */
static uint8_t *stage_room(struct device *d, size_t bytes, size_t *ret_bytes)
{
    struct device_memory *m = &d->memory;
    if (m->filled == DEVICE_STAGE_BYTES) {
        device_check(cudaEventRecord(m->stages[m->filling].idle, d->stream), "staged copy");
        m->filling ^= 1;
        m->filled = 0;
        await(&m->stages[m->filling]);
    }
    uint8_t *at = (uint8_t *)m->stages[m->filling].at + m->filled;
    *ret_bytes = SP_MIN(bytes, DEVICE_STAGE_BYTES - m->filled);
    m->filled += (*ret_bytes + STAGED_ALIGN - 1) / STAGED_ALIGN * STAGED_ALIGN;
    return at;
}

void device_do_put(struct device *d, void *to, const void *from_host, size_t bytes)
{
    SP_ASSERT(!d->graphs.recording);
    if (waits(d, to, from_host) && device_is_host(d, to)) {
        memcpy(to, from_host, bytes);
        return;
    }
    if (!staged(d)) {
        device_check(cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, d->stream),
                     "upload");
        device_do_wait(d);
        return;
    }
    for (size_t done = 0, part; done < bytes; done += part) {
        uint8_t *stage = stage_room(d, bytes - done, &part);
        memcpy(stage, (const uint8_t *)from_host + done, part);
        device_check(
            cudaMemcpyAsync((uint8_t *)to + done, stage, part, cudaMemcpyHostToDevice, d->stream),
            "upload");
    }
}

void device_do_get(struct device *d, void *to_host, const void *from, size_t bytes)
{
    SP_ASSERT(!d->graphs.recording);
    if (waits(d, to_host, from) && device_is_host(d, from)) {
        memcpy(to_host, from, bytes);
        return;
    }
    if (bytes <= DEVICE_STAGED_FROM || !staged(d)) {
        device_check(cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, d->stream),
                     "download");
        device_do_wait(d);
        return;
    }
    size_t started = 0, taken = 0;
    for (int i = 0; taken < bytes; i ^= 1) { /* one part ahead of what the host takes */
        struct device_stage *next = &d->memory.stages[i], *last = &d->memory.stages[i ^ 1];
        size_t ahead = SP_MIN(bytes - started, DEVICE_STAGE_BYTES), before = started - taken;
        if (ahead > 0)
            start(d, next, next->at, (const uint8_t *)from + started, ahead,
                  cudaMemcpyDeviceToHost);
        started += ahead;
        if (before == 0)
            continue;
        await(last);
        memcpy((uint8_t *)to_host + taken, last->at, before);
        taken += before;
    }
}

void device_do_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    bool hosts = device_is_host(d, to) || device_is_host(d, from);
    enum cudaMemcpyKind kind = hosts ? cudaMemcpyDefault : cudaMemcpyDeviceToDevice;
    device_check_work(d, cudaMemcpyAsync(to, from, bytes, kind, d->stream), "copy");
}

void device_do_zero(struct device *d, void *memory, size_t bytes)
{
    if (device_is_host(d, memory)) {
        device_do_wait(d);
        memset(memory, 0, bytes);
        return;
    }
    device_check_work(d, cudaMemsetAsync(memory, 0, bytes, d->stream), "zero");
}

void *device_pinned_alloc(struct device *d, size_t bytes)
{
    void *memory = NULL;
    (void)d;
    if (cudaHostAlloc(&memory, bytes, cudaHostAllocDefault) == cudaSuccess)
        return memory;
    (void)cudaGetLastError();
    return NULL;
}

void device_pinned_free(struct device *d, void *memory)
{
    if (!memory)
        return;
    device_do_wait(d);
    device_check(cudaFreeHost(memory), "free");
}

void device_do_put_pinned(struct device *d, void *to, const void *from_pinned, size_t bytes)
{
    device_check_work(d, cudaMemcpyAsync(to, from_pinned, bytes, cudaMemcpyHostToDevice, d->stream),
                      "upload");
}

void device_do_wait(struct device *d)
{
    SP_ASSERT(!d->graphs.recording);
    device_check(cudaStreamSynchronize(d->stream), "wait");
}

/* CUDA's runtime on the host: see fake_cuda.h. */
#include "tests/gpu/fake_cuda.h"

#include <stdio.h>
#include <stdlib.h>

#include "tests/gpu/emulate.h"

struct emu emu;
struct fake fake = {.memory_bytes = (size_t)2 << 30};

#define ALIGNED 256
#define PATTERN 0xa5
#define SHARED_BYTES (48 << 10)      /* dynamic shared memory that needs no attribute */
#define MOST_SHARED_BYTES (99 << 10) /* with it, on every device that we build for */
#define ARGUMENT_BYTES 4096

/* --- work --- */

struct work {
    struct work *next;
    enum { WORK_LAUNCH, WORK_COPY, WORK_SET, WORK_PRODUCT, WORK_EVENT } kind;
    struct emu_index blocks, threads;
    const struct emu_kernel *kernel;
    void *args;
    size_t bytes;
    void *to;
    const void *from;
    struct fake_product product;
    struct CUevent_st *event;
};

struct list {
    struct work *first, **end;
};

struct CUevent_st {
    int pending; /* records that were not come to */
    bool recorded;
    double at;
};
struct CUgraph_st {
    struct list list;
};
struct CUgraphExec_st {
    struct list list;
};
struct CUstream_st {
    struct list list;
    bool recording, spoiled;
    struct CUgraph_st *graph;
};
static struct CUstream_st stream;
static double clock_ms;

static void append(struct list *l, struct work w)
{
    if (!l->first)
        l->end = &l->first;
    w.next = NULL;
    *l->end = sp_xmemdup(&w, sizeof(w));
    l->end = &(*l->end)->next;
}

static void enqueue(struct work w)
{
    append(stream.recording ? &stream.graph->list : &stream.list, w);
}

/* Dynamic shared memory that a kernel may have now. */
static size_t *allowed(const void *kernel)
{
    static struct {
        const void *kernel;
        size_t bytes;
    } all[64];
    int i = 0;
    while (all[i].kernel && all[i].kernel != kernel)
        i++;
    SP_ASSERT(i < (int)SP_COUNT(all) - 1);
    if (!all[i].kernel)
        all[i].bytes = SHARED_BYTES;
    all[i].kernel = kernel;
    return &all[i].bytes;
}

static void run_kernel(const struct work *w)
{
    static _Alignas(128) uint8_t dynamic[MOST_SHARED_BYTES];
    SP_ASSERT(w->threads.x * w->threads.y <= 256);
    SP_ASSERT(w->bytes <= *allowed(w->kernel)); /* a graph's launches find what is set now */
    emu.threads = w->threads;
    emu.blocks = w->blocks;
    emu.dynamic = dynamic;
    for (uint32_t y = 0; y < w->blocks.y; y++)
        for (uint32_t x = 0; x < w->blocks.x; x++) {
            emu.block = (struct emu_index){x, y};
            w->kernel->run(w->args);
        }
}

static void run(const struct work *w)
{
    switch (w->kind) {
    case WORK_LAUNCH:
        run_kernel(w);
        break;
    case WORK_COPY:
        memcpy(w->to, w->from, w->bytes);
        break;
    case WORK_SET:
        memset(w->to, 0, w->bytes);
        break;
    case WORK_PRODUCT:
        fake_multiply(&w->product);
        clock_ms += fake_cost(&w->product);
        break;
    case WORK_EVENT:
        w->event->pending--;
        w->event->at = clock_ms;
        break;
    }
}

static void free_list(struct list *l)
{
    while (l->first) {
        struct work *w = l->first;
        l->first = w->next;
        free(w->args);
        free(w);
    }
}

static void copy_list(struct list *to, const struct list *from)
{
    for (const struct work *w = from->first; w; w = w->next) {
        struct work copy = *w;
        if (copy.args)
            copy.args = sp_xmemdup(copy.args, w->kernel->handle.args_bytes);
        append(to, copy);
    }
}

/* All work, or up to where the event is over. */
static void work_until(const struct CUevent_st *event)
{
    while (stream.list.first && (!event || event->pending > 0)) {
        struct work *w = stream.list.first;
        stream.list.first = w->next;
        run(w);
        free(w->args);
        free(w);
    }
}

/* What may not be done while work is recorded spoils the recording. */
static cudaError_t not_recording(void)
{
    stream.spoiled |= stream.recording;
    return stream.recording ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

static cudaError_t recordable(void)
{
    return fake.no_recording ? not_recording() : cudaSuccess;
}

bool fake_enqueue_product(cudaStream_t s, const struct fake_product *p)
{
    SP_ASSERT(s == &stream);
    if (recordable() != cudaSuccess)
        return false;
    enqueue((struct work){.kind = WORK_PRODUCT, .product = *p});
    return true;
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **args,
                             size_t shared_bytes, cudaStream_t s)
{
    const struct emu_kernel *k = kernel;
    SP_ASSERT(s == &stream && grid.z == 1 && block.z == 1);
    SP_ASSERT(k->handle.args_bytes <= ARGUMENT_BYTES);
    if (grid.x == 0 || grid.x > INT32_MAX || grid.y == 0 || grid.y > 65535 || block.x == 0 ||
        block.y == 0 || block.x > 1024 || block.y > 1024 || block.x * block.y > 1024)
        return cudaErrorInvalidConfiguration;
    if (shared_bytes > *allowed(kernel))
        return cudaErrorInvalidValue;
    if (recordable() != cudaSuccess)
        return cudaErrorStreamCaptureUnsupported;
    enqueue((struct work){.kind = WORK_LAUNCH,
                          .blocks = {grid.x, grid.y},
                          .threads = {block.x, block.y},
                          .kernel = k,
                          .args = sp_xmemdup(args[0], k->handle.args_bytes),
                          .bytes = shared_bytes});
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute what, int value)
{
    SP_ASSERT(what == cudaFuncAttributeMaxDynamicSharedMemorySize);
    if (value < 0 || value > MOST_SHARED_BYTES)
        return cudaErrorInvalidValue;
    *allowed(kernel) = (size_t)value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *ret, const void *kernel)
{
    *ret = (struct cudaFuncAttributes){.maxThreadsPerBlock = 256};
    SP_ASSERT(((const struct emu_kernel *)kernel)->run != NULL);
    return fake.no_kernels ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

/* --- memory --- */

enum where { DEVICE, PINNED };
struct piece {
    uint8_t *at;
    size_t bytes;
    enum where where;
};
static struct piece pieces[4096];
static int n_pieces;
static size_t had_bytes;

static struct piece *find_piece(const void *at)
{
    for (int i = 0; i < n_pieces; i++)
        if ((const uint8_t *)at >= pieces[i].at &&
            (const uint8_t *)at < pieces[i].at + pieces[i].bytes)
            return &pieces[i];
    return NULL;
}

bool fake_is_had(const void *at, size_t bytes)
{
    const struct piece *p = find_piece(at);
    return bytes == 0 || (p && bytes <= (size_t)(p->at + p->bytes - (const uint8_t *)at));
}

static cudaError_t have(void **ret, size_t bytes, enum where where)
{
    cudaError_t rc = not_recording();
    if (rc != cudaSuccess)
        return rc;
    if (bytes > fake.memory_bytes - fake.others_bytes - had_bytes) {
        if (--fake.others_patience == 0)
            fake.others_bytes = 0;
        return cudaErrorMemoryAllocation;
    }
    SP_ASSERT(n_pieces < (int)SP_COUNT(pieces) && bytes > 0);
    /* the pattern before and behind it */
    uint8_t *at = aligned_alloc(ALIGNED, (bytes + 3 * ALIGNED - 1) / ALIGNED * ALIGNED);
    SP_ASSERT(at != NULL);
    memset(at, PATTERN, bytes + 2 * ALIGNED);
    pieces[n_pieces++] = (struct piece){at + ALIGNED, bytes, where};
    had_bytes += bytes;
    *ret = at + ALIGNED;
    return cudaSuccess;
}

static cudaError_t give_back(void *memory, enum where where)
{
    cudaError_t rc = not_recording();
    if (rc != cudaSuccess || !memory)
        return rc;
    SP_ASSERT(!stream.list.first); /* who frees has waited: that CUDA does is promised nowhere */
    struct piece *p = find_piece(memory);
    SP_ASSERT(p && p->at == memory && p->where == where);
    for (size_t i = 0; i < ALIGNED; i++)
        SP_ASSERT(p->at[-(ptrdiff_t)ALIGNED + (ptrdiff_t)i] == PATTERN &&
                  p->at[p->bytes + i] == PATTERN);
    had_bytes -= p->bytes;
    free(p->at - ALIGNED);
    *p = pieces[--n_pieces];
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **ret, size_t bytes)
{
    return have(ret, bytes, DEVICE);
}
cudaError_t cudaFree(void *memory)
{
    return give_back(memory, DEVICE);
}
cudaError_t cudaHostAlloc(void **ret, size_t bytes, unsigned flags)
{
    (void)flags;
    return fake.no_pinned ? cudaErrorMemoryAllocation : have(ret, bytes, PINNED);
}
cudaError_t cudaFreeHost(void *memory)
{
    return give_back(memory, PINNED);
}
cudaError_t cudaHostGetDevicePointer(void **ret, void *memory, unsigned flags)
{
    SP_ASSERT(flags == 0 && find_piece(memory));
    *ret = memory;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *ret_free, size_t *ret_total)
{
    *ret_free = fake.memory_bytes - fake.others_bytes - had_bytes;
    *ret_total = fake.memory_bytes;
    return cudaSuccess;
}

static bool is_on_device(const void *at)
{
    const struct piece *p = find_piece(at);
    return p && p->where == DEVICE;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    struct work w = {.kind = WORK_COPY, .to = to, .from = from, .bytes = bytes};
    SP_ASSERT(s == &stream);
    if (bytes == 0)
        return cudaSuccess;
    if (kind == cudaMemcpyDefault)
        kind = is_on_device(to) && is_on_device(from) ? cudaMemcpyDeviceToDevice
               : is_on_device(to)                     ? cudaMemcpyHostToDevice
                                                      : cudaMemcpyDeviceToHost;
    const void *host = kind == cudaMemcpyHostToDevice ? from : to;
    SP_ASSERT(is_on_device(to) == (kind != cudaMemcpyDeviceToHost) &&
              is_on_device(from) == (kind != cudaMemcpyHostToDevice));
    bool pageable = kind != cudaMemcpyDeviceToDevice && !find_piece(host);
    if (!fake_is_had(kind == cudaMemcpyHostToDevice ? to : from, bytes) ||
        (!pageable && !fake_is_had(kind == cudaMemcpyHostToDevice ? from : to, bytes)))
        return cudaErrorInvalidValue;
    if (recordable() != cudaSuccess || (pageable && not_recording() != cudaSuccess))
        return cudaErrorStreamCaptureUnsupported;
    enqueue(w); /* whether what isn't pinned has been read now is promised nowhere */
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    SP_ASSERT(s == &stream && value == 0 && (bytes == 0 || is_on_device(to)));
    if (!fake_is_had(to, bytes))
        return cudaErrorInvalidValue;
    if (recordable() != cudaSuccess)
        return cudaErrorStreamCaptureUnsupported;
    enqueue((struct work){.kind = WORK_SET, .to = to, .bytes = bytes});
    return cudaSuccess;
}

/* --- streams, events, graphs --- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags)
{
    SP_ASSERT(flags == cudaStreamNonBlocking);
    *ret = &stream;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    SP_ASSERT(s == &stream && n_pieces == 0); /* nothing was forgotten */
    work_until(NULL);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    cudaError_t rc = not_recording();
    SP_ASSERT(s == &stream);
    if (rc == cudaSuccess)
        work_until(NULL);
    return rc;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags)
{
    (void)flags;
    *ret = sp_xalloc(sizeof(**ret));
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *ret)
{
    return cudaEventCreateWithFlags(ret, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    work_until(event);
    free(event);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s)
{
    SP_ASSERT(s == &stream && !stream.recording);
    event->pending++;
    event->recorded = true;
    enqueue((struct work){.kind = WORK_EVENT, .event = event});
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    work_until(event);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ret, cudaEvent_t start, cudaEvent_t stop)
{
    if (!start->recorded || !stop->recorded)
        return cudaErrorInvalidResourceHandle;
    if (start->pending > 0 || stop->pending > 0)
        return cudaErrorNotReady;
    *ret = (float)(stop->at - start->at);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    SP_ASSERT(s == &stream && mode == cudaStreamCaptureModeRelaxed && !stream.recording);
    if (fake.no_graphs)
        return cudaErrorStreamCaptureUnsupported;
    stream.graph = sp_xalloc(sizeof(*stream.graph));
    fake.recordings++;
    stream.recording = true;
    stream.spoiled = false;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *ret)
{
    SP_ASSERT(s == &stream && stream.recording);
    stream.recording = false;
    *ret = stream.graph;
    if (!stream.spoiled)
        return cudaSuccess;
    (void)cudaGraphDestroy(stream.graph);
    *ret = NULL;
    return cudaErrorStreamCaptureInvalidated;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t graph, unsigned long long flags)
{
    SP_ASSERT(flags == 0);
    *ret = sp_xalloc(sizeof(**ret));
    copy_list(&(*ret)->list, &graph->list);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    free_list(&graph->list);
    free(graph);
    return cudaSuccess;
}
/* Whether the memory that its copies, zeroing and products name is there: a device would read and
 * write what is there instead. What kernels' arguments point to is not known. */
static bool graph_is_sound(const struct list *l)
{
    bool ok = true;
    for (const struct work *w = l->first; w; w = w->next) {
        if (w->kind == WORK_COPY || w->kind == WORK_SET)
            ok &= fake_is_had(w->to, w->bytes);
        if (w->kind == WORK_COPY)
            ok &= fake_is_had(w->from, w->bytes);
        if (w->kind == WORK_PRODUCT)
            ok &= find_piece(w->product.a) && find_piece(w->product.b) && find_piece(w->product.d);
    }
    return ok;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t s)
{
    SP_ASSERT(s == &stream && !stream.recording);
    if (!graph_is_sound(&graph->list))
        return cudaErrorIllegalAddress;
    if (fake.no_graph_memory)
        return cudaErrorMemoryAllocation;
    copy_list(&stream.list, &graph->list);
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    free_list(&graph->list);
    free(graph);
    return cudaSuccess;
}

/* --- the device --- */

cudaError_t cudaGetDeviceCount(int *ret)
{
    *ret = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *ret, int device)
{
    (void)device;
    *ret = (struct cudaDeviceProp){.major = 9, .totalGlobalMem = fake.memory_bytes};
    snprintf(ret->name, sizeof(ret->name), "made up");
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device)
{
    (void)device;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *ret)
{
    *ret = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *ret)
{
    *ret = 13000;
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaSuccess ? "no error" : "an error";
}
const char *cudaGetErrorName(cudaError_t rc)
{
    return rc == cudaSuccess ? "cudaSuccess" : "cudaError";
}
cudaError_t cudaDeviceGetPCIBusId(char *ret, int bytes, int device)
{
    (void)device;
    snprintf(ret, (size_t)bytes, "0000:00:00.0");
    return cudaSuccess;
}

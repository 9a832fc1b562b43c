/* Recorded work: what a stream is asked for is captured into a CUDA graph, and one launch of it
 * costs the host what a kernel does. The capture is relaxed: what a library does on its own (a
 * kernel that is loaded when it is first used, memory that it takes) is done and does no harm, as
 * what other threads do (usage.c). What can't be captured all the same spoils the recording, and
 * work is done as without it. */
#include "common/base/mem.h"
#include "common/tensor/cuda/device_state.h"

static void remove_graph(struct device_graphs *g, int i)
{
    /* One that is at work is destroyed behind it. */
    device_check(cudaGraphExecDestroy(g->kept[i].work), "graph");
    g->kept[i] = g->kept[--g->n];
}

static int find_graph(const struct device_graphs *g, uint64_t key)
{
    for (int i = 0; i < g->n; i++)
        if (g->kept[i].key == key)
            return i;
    return -1;
}

void device_forget_graphs(struct device *d)
{
    SP_ASSERT(!d->graphs.recording);
    while (d->graphs.n > 0)
        remove_graph(&d->graphs, d->graphs.n - 1);
}

void device_forget_graph(struct device *d, uint64_t key)
{
    int i = find_graph(&d->graphs, key);
    if (i >= 0)
        remove_graph(&d->graphs, i);
}

bool device_record(struct device *d, uint64_t key)
{
    struct device_graphs *g = &d->graphs;
    SP_ASSERT(!g->recording);
    if (cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeRelaxed) != cudaSuccess) {
        (void)cudaGetLastError();
        return false;
    }
    g->recording = true;
    g->spoiled = false;
    g->key = key;
    return true;
}

static void keep_graph(struct device_graphs *g, cudaGraphExec_t work)
{
    int old = find_graph(g, g->key);
    if (old < 0 && g->n == DEVICE_GRAPHS) {
        old = 0;
        for (int i = 1; i < g->n; i++)
            if (g->kept[i].used < g->kept[old].used)
                old = i;
    }
    if (old >= 0)
        remove_graph(g, old);
    g->kept[g->n++] = (struct device_graph){.key = g->key, .used = ++g->clock, .work = work};
}

bool device_recorded(struct device *d)
{
    struct device_graphs *g = &d->graphs;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t work = NULL;
    SP_ASSERT(g->recording);
    g->recording = false;
    bool ok = cudaStreamEndCapture(d->stream, &graph) == cudaSuccess && graph && !g->spoiled &&
              cudaGraphInstantiate(&work, graph, 0) == cudaSuccess;
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (ok)
        keep_graph(g, work);
    else
        (void)cudaGetLastError();
    return ok;
}

bool device_replay(struct device *d, uint64_t key)
{
    struct device_graphs *g = &d->graphs;
    SP_ASSERT(!g->recording);
    int i = find_graph(g, key);
    if (i < 0)
        return false;
    cudaError_t rc = cudaGraphLaunch(g->kept[i].work, d->stream);
    if (rc == cudaErrorMemoryAllocation) { /* a graph takes memory of the device when it begins */
        (void)cudaGetLastError();
        remove_graph(g, i);
        return false;
    }
    device_check(rc, "graph");
    g->kept[i].used = ++g->clock;
    return true;
}

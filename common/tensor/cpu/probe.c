/* probe: the multiply-add limit of this machine, with these threads, at this moment. */
#include <time.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"

#define DEPTH 128         /* k of the microkernel: both panels stay in the first cache */
#define CALLS 400         /* of one task */
#define WARM_SECONDS 0.01 /* all workers awake and spread over the cores, clocks up */
#define RUNS 6

struct probe {
    const struct tn_kern *kern;
    float a[DEPTH * TN_MAX_MR], b[(DEPTH + 32) * TN_MAX_NR]; /* with room for prefetching */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void task(void *context, int32_t index, int32_t worker)
{
    const struct probe *p = context;
    float c[TN_MAX_MR * TN_MAX_NR];
    size_t mr = (size_t)p->kern->mr, nr = (size_t)p->kern->nr;
    for (int32_t i = 0; i < CALLS; i++)
        p->kern->micro(p->kern->mr, DEPTH, p->a, mr, p->b, nr, c, nr, false);
}

double tn_cpu_probe(struct tn_backend *backend)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    struct probe *p = sp_alloc_block(1, sizeof(*p));
    if (!p)
        return 0;
    p->kern = cpu->kern;
    for (size_t i = 0; i < SP_COUNT(p->a); i++)
        p->a[i] = 1e-3f;
    for (size_t i = 0; i < SP_COUNT(p->b); i++)
        p->b[i] = 1e-3f;
    int32_t tasks = 16 * cpu->threads;
    double flops = 2.0 * DEPTH * CALLS * cpu->kern->mr * cpu->kern->nr * tasks, best = 0;
    for (double start = now(); now() - start < WARM_SECONDS;)
        tn_pool_run(cpu->pool, tasks, task, p);
    for (int i = 0; i < RUNS; i++) {
        double start = now();
        tn_pool_run(cpu->pool, tasks, task, p);
        best = SP_MAX(best, flops / (now() - start));
    }
    sp_free_block(p);
    return best;
}

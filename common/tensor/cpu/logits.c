/* logits: log-sum-exp, log-probabilities and their gradient, row by row. */
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"
#include "common/tensor/cpu/log.h"

struct logits {
    struct tn_cpu *cpu;
    float *logits;
    const float *in;
    const float *lse;
    float *ret_lse;
    int32_t *argmax;
    const struct tn_target *targets;
    int32_t n, R, V, tasks;
    float cap; /* 0: none */
};

static void run_rows(struct tn_cpu *cpu, struct logits *l, tn_task_fn *task)
{
    l->cpu = cpu;
    l->tasks = SP_MIN(l->R, 4 * cpu->threads);
    if ((size_t)l->R * (size_t)l->V < 4096)
        l->tasks = SP_MIN(l->R, 1);
    tn_pool_run_near(cpu->pool, l->tasks, task, l);
}

static void lse_task(void *context, int32_t task, int32_t worker)
{
    const struct logits *l = context;
    int32_t end = tn_split(l->R, l->tasks, task + 1);
    for (int32_t row = tn_split(l->R, l->tasks, task); row < end; row++) {
        const float *x = l->in + (size_t)row * (size_t)l->V;
        float max = l->cpu->kern->row_max(x, (size_t)l->V, l->argmax ? &l->argmax[row] : NULL);
        float sum = l->cpu->kern->row_sum_exp(x, (size_t)l->V, max, 1.0f);
        l->ret_lse[row] = max + tn_logf(sum);
    }
}

void tn_cpu_row_lse(struct tn_backend *backend, float *lse_host, int32_t *argmax_host,
                    const float *logits, int32_t R, int32_t V)
{
    struct logits l = {.in = logits, .ret_lse = lse_host, .argmax = argmax_host, .R = R, .V = V};
    run_rows(tn_cpu_of(backend), &l, lse_task);
}

void tn_cpu_gather_logprob(struct tn_backend *backend, float *logprob_host, const float *logits,
                           const float *lse_host, const struct tn_target *targets, int32_t n,
                           int32_t V)
{
    for (int32_t i = 0; i < n; i++) {
        size_t row = (size_t)targets[i].row;
        logprob_host[i] = logits[row * (size_t)V + (size_t)targets[i].id] - lse_host[row];
    }
}

/* Index of the first target whose row is at least `row`. */
static int32_t first_target(const struct logits *l, int32_t row)
{
    int32_t low = 0, high = l->n;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (l->targets[middle].row < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* How fast the capped logits of a row's targets follow those before the cap; asked before the row
 * is overwritten. NULL: there is no cap. */
static const float *target_slopes(const struct logits *l, const float *x, int32_t first,
                                  int32_t count, int32_t worker)
{
    if (l->cap <= 0)
        return NULL;
    float *slopes = tn_own_scratch(l->cpu, worker, (size_t)count);
    for (int32_t i = 0; i < count; i++) {
        float share = x[l->targets[first + i].id] / l->cap;
        slopes[i] = 1.0f - share * share;
    }
    return slopes;
}

static void bwd_task(void *context, int32_t task, int32_t worker)
{
    const struct logits *l = context;
    int32_t row = tn_split(l->R, l->tasks, task), end = tn_split(l->R, l->tasks, task + 1);
    int32_t next = first_target(l, row);
    for (; row < end; row++) {
        float *x = l->logits + (size_t)row * (size_t)l->V, total = 0.0f;
        int32_t first = next;
        for (; next < l->n && l->targets[next].row == row; next++)
            total += l->targets[next].coefficient;
        if (first == next) {
            memset(x, 0, (size_t)l->V * sizeof(float));
            continue;
        }
        const float *slopes = target_slopes(l, x, first, next - first, worker);
        if (slopes)
            l->cpu->kern->row_softmax_scaled_capped(x, (size_t)l->V, l->lse[row], -total, l->cap);
        else
            l->cpu->kern->row_softmax_scaled(x, (size_t)l->V, l->lse[row], -total);
        for (int32_t i = first; i < next; i++)
            x[l->targets[i].id] += l->targets[i].coefficient * (slopes ? slopes[i - first] : 1.0f);
    }
}

void tn_cpu_logits_bwd(struct tn_backend *backend, float *logits, const float *lse_host,
                       const struct tn_target *targets, int32_t n, int32_t R, int32_t V)
{
    struct logits l = {
        .logits = logits, .lse = lse_host, .targets = targets, .n = n, .R = R, .V = V};
    run_rows(tn_cpu_of(backend), &l, bwd_task);
}

void tn_cpu_logits_bwd_capped(struct tn_backend *backend, float *logits, const float *lse_host,
                              const struct tn_target *targets, int32_t n, int32_t R, int32_t V,
                              float cap)
{
    struct logits l = {
        .logits = logits, .lse = lse_host, .targets = targets, .n = n, .R = R, .V = V, .cap = cap};
    run_rows(tn_cpu_of(backend), &l, bwd_task);
}

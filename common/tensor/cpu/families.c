/* families: operations of models outside the Llama line: layer norm, norms of heads, biases, GELU,
 * soft caps. Split like those of pointwise.c: rows and elements are independent, what sums over
 * rows is split over columns. */
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"

#define SMALL 16384 /* elements below which waking the workers costs more */
#define CHUNK 65536 /* elements of one task over flat arrays */

struct work {
    struct tn_cpu *cpu;
    int32_t items, tasks; /* rows, blocks of 16 columns, or chunks */
    int32_t T, D;
    size_t n;
    float *y, *y2;
    const float *a, *b, *c, *d;
    float scale, shift;
    int32_t heads, stride;
    bool tanh;
};

static void run(struct tn_cpu *cpu, struct work *w, int32_t items, size_t elements,
                tn_task_fn *task)
{
    w->cpu = cpu;
    w->items = items;
    w->tasks = elements < SMALL ? 1 : SP_MIN(items, 4 * cpu->threads);
    if (items > 0)
        tn_pool_run_near(cpu->pool, w->tasks, task, w);
}

static int32_t first(const struct work *w, int32_t task)
{
    return tn_split(w->items, w->tasks, task);
}

static void run_rows(struct tn_cpu *cpu, struct work *w, tn_task_fn *task)
{
    run(cpu, w, w->T, (size_t)w->T * (size_t)w->D, task);
}

static void run_columns(struct tn_cpu *cpu, struct work *w, tn_task_fn *task)
{
    run(cpu, w, tn_ceil_div(w->D, 16), (size_t)w->T * (size_t)w->D, task);
}

static void run_flat(struct tn_cpu *cpu, struct work *w, tn_task_fn *task)
{
    run(cpu, w, (int32_t)((w->n + CHUNK - 1) / CHUNK), w->n, task);
}

/* Elements [*ret_at, returned end) of a task over a flat array. */
static size_t flat_part(const struct work *w, int32_t task, size_t *ret_at)
{
    *ret_at = (size_t)first(w, task) * CHUNK;
    return SP_MIN((size_t)first(w, task + 1) * CHUNK, w->n) - *ret_at;
}

static void affine_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    size_t at, n = flat_part(w, task, &at);
    w->cpu->kern->affine(w->y + at, w->a + at, w->scale, w->shift, n);
}

void tn_cpu_affine(struct tn_backend *backend, void *y, const void *x, float scale, float shift,
                   size_t n)
{
    struct work w = {.y = y, .a = x, .scale = scale, .shift = shift, .n = n};
    run_flat(tn_cpu_of(backend), &w, affine_task);
}

static void bias_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    for (int32_t t = first(w, task); t < first(w, task + 1); t++)
        w->cpu->kern->add(w->y + (size_t)t * (size_t)w->D, w->a, (size_t)w->D);
}

void tn_cpu_bias(struct tn_backend *backend, void *y, const float *b, int32_t T, int32_t N)
{
    struct work w = {.y = y, .a = b, .T = T, .D = N};
    run_rows(tn_cpu_of(backend), &w, bias_task);
}

static void bias_bwd_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    int32_t from = first(w, task) * 16, to = SP_MIN(w->D, first(w, task + 1) * 16);
    for (int32_t t = 0; t < w->T; t++)
        w->cpu->kern->add(w->y + from, w->a + (size_t)t * (size_t)w->D + from, (size_t)(to - from));
}

void tn_cpu_bias_bwd(struct tn_backend *backend, void *db, const void *dy, int32_t T, int32_t N)
{
    struct work w = {.y = db, .a = dy, .T = T, .D = N};
    run_columns(tn_cpu_of(backend), &w, bias_bwd_task);
}

static void layernorm_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    int32_t from = first(w, task);
    size_t at = (size_t)from * (size_t)w->D;
    w->cpu->kern->layernorm(w->y + at, w->y2 ? w->y2 + 2 * (size_t)from : NULL, w->a + at, w->b,
                            w->c, first(w, task + 1) - from, w->D, w->scale);
}

void tn_cpu_layernorm(struct tn_backend *backend, void *y, float *stats, const void *x,
                      const float *w, const float *b, int32_t T, int32_t D, float eps)
{
    struct work k = {.y = y, .y2 = stats, .a = x, .b = w, .c = b, .T = T, .D = D, .scale = eps};
    run_rows(tn_cpu_of(backend), &k, layernorm_task);
}

static void layernorm_dx_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    int32_t from = first(w, task);
    size_t at = (size_t)from * (size_t)w->D;
    w->cpu->kern->layernorm_dx(w->y + at, w->a + at, w->b + at, w->c, w->d + 2 * (size_t)from,
                               first(w, task + 1) - from, w->D);
}

static void layernorm_dw_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    w->cpu->kern->layernorm_dw(w->y2, w->a, w->b, w->d, w->T, w->D, first(w, task) * 16,
                               SP_MIN(w->D, first(w, task + 1) * 16));
}

void tn_cpu_layernorm_bwd(struct tn_backend *backend, void *dx, void *dw, const void *dy,
                          const void *x, const float *w, const float *stats, int32_t T, int32_t D)
{
    struct work k = {.y = dx, .y2 = dw, .a = dy, .b = x, .c = w, .d = stats, .T = T, .D = D};
    run_rows(tn_cpu_of(backend), &k, layernorm_dx_task);
    run_columns(tn_cpu_of(backend), &k, layernorm_dw_task);
}

/* --- norms of heads: the heads of a row lie side by side, so a row is `heads` rows of C --- */

static void head_norm_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    for (int32_t t = first(w, task); t < first(w, task + 1); t++) {
        size_t at = (size_t)t * (size_t)w->stride;
        w->cpu->kern->rmsnorm(w->y + at, w->y2 ? w->y2 + (size_t)t * (size_t)w->heads : NULL,
                              w->a + at, w->b, w->heads, w->D, w->scale);
    }
}

void tn_cpu_head_norm(struct tn_backend *backend, void *y, float *rstd, const void *x,
                      const float *w, int32_t T, int32_t heads, int32_t C, int32_t stride,
                      float eps)
{
    struct work k = {.y = y,
                     .y2 = rstd,
                     .a = x,
                     .b = w,
                     .T = T,
                     .D = C,
                     .heads = heads,
                     .stride = stride,
                     .scale = eps};
    run(tn_cpu_of(backend), &k, T, (size_t)T * (size_t)heads * (size_t)C, head_norm_task);
}

static void head_norm_dw_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    int32_t from = first(w, task) * 16, to = SP_MIN(w->D, first(w, task + 1) * 16);
    for (int32_t t = 0; t < w->T; t++) {
        size_t at = (size_t)t * (size_t)w->stride;
        w->cpu->kern->rmsnorm_dw(w->y2, w->y + at, w->b + at, w->d + (size_t)t * (size_t)w->heads,
                                 w->heads, w->D, from, to);
    }
}

static void head_norm_dx_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    size_t width = (size_t)w->heads * (size_t)w->D;
    float *row = tn_own_scratch(w->cpu, worker, width);
    for (int32_t t = first(w, task); t < first(w, task + 1); t++) {
        size_t at = (size_t)t * (size_t)w->stride;
        memcpy(row, w->y + at, width * sizeof(float));
        memset(w->y + at, 0, width * sizeof(float));
        w->cpu->kern->rmsnorm_dx(w->y + at, row, w->b + at, w->c,
                                 w->d + (size_t)t * (size_t)w->heads, w->heads, w->D);
    }
}

void tn_cpu_head_norm_bwd(struct tn_backend *backend, void *dy, void *dw, const void *x,
                          const float *w, const float *rstd, int32_t T, int32_t heads, int32_t C,
                          int32_t stride)
{
    struct work k = {.y = dy,
                     .y2 = dw,
                     .b = x,
                     .c = w,
                     .d = rstd,
                     .T = T,
                     .D = C,
                     .heads = heads,
                     .stride = stride};
    size_t elements = (size_t)T * (size_t)heads * (size_t)C;
    run(tn_cpu_of(backend), &k, tn_ceil_div(C, 16), elements, head_norm_dw_task);
    run(tn_cpu_of(backend), &k, T, elements, head_norm_dx_task);
}

/* --- activations and caps --- */

static void geglu_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    int32_t from = first(w, task);
    size_t at = (size_t)from * (size_t)w->D;
    w->cpu->kern->geglu(w->y + at, w->a + 2 * at, first(w, task + 1) - from, w->D);
}

void tn_cpu_geglu(struct tn_backend *backend, void *y, const void *gu, int32_t T, int32_t F)
{
    struct work w = {.y = y, .a = gu, .T = T, .D = F};
    run_rows(tn_cpu_of(backend), &w, geglu_task);
}

static void geglu_bwd_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    int32_t from = first(w, task);
    size_t at = (size_t)from * (size_t)w->D;
    w->cpu->kern->geglu_bwd(w->y + 2 * at, w->b + at, w->a + 2 * at, first(w, task + 1) - from,
                            w->D);
}

void tn_cpu_geglu_bwd(struct tn_backend *backend, void *dgu, const void *dy, const void *gu,
                      int32_t T, int32_t F)
{
    struct work w = {.y = dgu, .a = gu, .b = dy, .T = T, .D = F};
    run_rows(tn_cpu_of(backend), &w, geglu_bwd_task);
}

static void gelu_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    size_t at, n = flat_part(w, task, &at);
    if (w->b)
        w->cpu->kern->gelu_bwd(w->y + at, w->b + at, w->a + at, n, w->tanh);
    else
        w->cpu->kern->gelu(w->y + at, w->a + at, n, w->tanh);
}

void tn_cpu_gelu(struct tn_backend *backend, void *y, const void *x, size_t n, bool tanh)
{
    struct work w = {.y = y, .a = x, .n = n, .tanh = tanh};
    run_flat(tn_cpu_of(backend), &w, gelu_task);
}

void tn_cpu_gelu_bwd(struct tn_backend *backend, void *dx, const void *dy, const void *x, size_t n,
                     bool tanh)
{
    struct work w = {.y = dx, .a = x, .b = dy, .n = n, .tanh = tanh};
    run_flat(tn_cpu_of(backend), &w, gelu_task);
}

static void softcap_task(void *context, int32_t task, int32_t worker)
{
    const struct work *w = context;
    size_t at, n = flat_part(w, task, &at);
    w->cpu->kern->softcap(w->y + at, n, 1.0f, w->scale);
}

void tn_cpu_softcap(struct tn_backend *backend, float *x, float cap, size_t n)
{
    struct work w = {.y = x, .scale = cap, .n = n};
    run_flat(tn_cpu_of(backend), &w, softcap_task);
}

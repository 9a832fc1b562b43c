/* pointwise: operations on rows and elements, split over the workers. Rows and elements are
 * independent of each other; what sums over rows is split over columns. */
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"

#define CHUNK 65536   /* elements of one task; of one partial sum in sum_squares */
#define SMALL 16384   /* elements below which waking the workers costs more */
#define PARTIALS 1024 /* partial sums of sum_squares held at a time */

struct rows { /* the arguments of an operation over rows, and how it is split */
    struct tn_cpu *cpu;
    int32_t T, D, tasks;
    size_t n; /* elements, where T counts groups of 16 */
    float *y, *y2;
    const float *a, *b, *c, *d;
    const int32_t *ids;
    float eps;
    int32_t heads, C, stride, rotary;
    bool inverse;
};

struct span {
    int32_t from, to;
};

static struct span part(const struct rows *r, int32_t task)
{
    return (struct span){tn_split(r->T, r->tasks, task), tn_split(r->T, r->tasks, task + 1)};
}

static void run_rows(struct tn_cpu *cpu, struct rows *r, int32_t T, int32_t D, tn_task_fn *task)
{
    size_t elements = (size_t)T * (size_t)D;
    r->cpu = cpu;
    r->T = T;
    r->D = D;
    r->tasks = elements < SMALL ? 1 : SP_MIN(T, 4 * cpu->threads);
    if (T > 0)
        tn_pool_run_near(cpu->pool, r->tasks, task, r);
}

static void embed_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    size_t d = (size_t)r->D;
    for (int32_t t = s.from; t < s.to; t++)
        memcpy(r->y + (size_t)t * d, r->a + (size_t)r->ids[t] * d, d * sizeof(float));
}

void tn_cpu_embed(struct tn_backend *backend, void *y, const void *table, const int32_t *ids,
                  int32_t T, int32_t D)
{
    struct rows r = {.y = y, .a = table, .ids = ids};
    run_rows(tn_cpu_of(backend), &r, T, D, embed_task);
}

static void embed_bwd_task(void *context, int32_t task, int32_t worker)
{
    /* Here T counts blocks of 16 columns, and C the rows. */
    const struct rows *r = context;
    struct span s = part(r, task);
    int32_t from = s.from * 16, to = SP_MIN(r->D, s.to * 16);
    for (int32_t t = 0; t < r->C; t++)
        r->cpu->kern->add(r->y + (size_t)r->ids[t] * (size_t)r->D + from,
                          r->a + (size_t)t * (size_t)r->D + from, (size_t)(to - from));
}

void tn_cpu_embed_bwd(struct tn_backend *backend, void *dtable, const void *dy, const int32_t *ids,
                      int32_t T, int32_t D, int32_t V)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    int32_t blocks = tn_ceil_div(D, 16);
    struct rows r = {.cpu = cpu, .T = blocks, .D = D, .C = T, .y = dtable, .a = dy, .ids = ids};
    r.tasks = (size_t)T * (size_t)D < SMALL ? 1 : SP_MIN(blocks, cpu->threads);
    tn_pool_run(cpu->pool, r.tasks, embed_bwd_task, &r);
}

static void rmsnorm_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    size_t at = (size_t)s.from * (size_t)r->D;
    r->cpu->kern->rmsnorm(r->y + at, r->y2 ? r->y2 + s.from : NULL, r->a + at, r->b, s.to - s.from,
                          r->D, r->eps);
}

void tn_cpu_rmsnorm(struct tn_backend *backend, void *y, float *rstd, const void *x, const float *w,
                    int32_t T, int32_t D, float eps)
{
    struct rows r = {.y = y, .y2 = rstd, .a = x, .b = w, .eps = eps};
    run_rows(tn_cpu_of(backend), &r, T, D, rmsnorm_task);
}

static void rmsnorm_dx_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    size_t at = (size_t)s.from * (size_t)r->D;
    r->cpu->kern->rmsnorm_dx(r->y + at, r->a + at, r->b + at, r->c, r->d + s.from, s.to - s.from,
                             r->D);
}

static void rmsnorm_dw_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    r->cpu->kern->rmsnorm_dw(r->y, r->a, r->b, r->d, r->C, r->D, s.from * 16,
                             SP_MIN(r->D, s.to * 16));
}

void tn_cpu_rmsnorm_bwd(struct tn_backend *backend, void *dx, void *dw, const void *dy,
                        const void *x, const float *w, const float *rstd, int32_t T, int32_t D)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    struct rows r = {.y = dx, .a = dy, .b = x, .c = w, .d = rstd};
    run_rows(cpu, &r, T, D, rmsnorm_dx_task);
    struct rows columns = {
        .cpu = cpu, .T = tn_ceil_div(D, 16), .D = D, .C = T, .y = dw, .a = dy, .b = x, .d = rstd};
    columns.tasks = (size_t)T * (size_t)D < SMALL ? 1 : SP_MIN(columns.T, 2 * cpu->threads);
    tn_pool_run(cpu->pool, columns.tasks, rmsnorm_dw_task, &columns);
}

static void rope_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    r->cpu->kern->rope(r->y + (size_t)s.from * (size_t)r->stride, s.to - s.from, r->heads, r->C,
                       r->stride, r->ids + s.from, r->a, r->b, r->inverse, r->rotary);
}

void tn_cpu_rope(struct tn_backend *backend, void *x, int32_t T, int32_t heads, int32_t C,
                 int32_t stride, const int32_t *positions, const float *cos, const float *sin,
                 bool inverse, int32_t rotary)
{
    struct rows r = {.y = x,
                     .a = cos,
                     .b = sin,
                     .ids = positions,
                     .heads = heads,
                     .C = C,
                     .stride = stride,
                     .rotary = rotary > 0 ? rotary : C,
                     .inverse = inverse};
    run_rows(tn_cpu_of(backend), &r, T, heads * C, rope_task);
}

static void swiglu_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    size_t at = (size_t)s.from * (size_t)r->D;
    r->cpu->kern->swiglu(r->y + at, r->a + 2 * at, s.to - s.from, r->D);
}

void tn_cpu_swiglu(struct tn_backend *backend, void *y, const void *gu, int32_t T, int32_t F)
{
    struct rows r = {.y = y, .a = gu};
    run_rows(tn_cpu_of(backend), &r, T, F, swiglu_task);
}

static void swiglu_bwd_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    size_t at = (size_t)s.from * (size_t)r->D;
    r->cpu->kern->swiglu_bwd(r->y + 2 * at, r->b + at, r->a + 2 * at, s.to - s.from, r->D);
}

void tn_cpu_swiglu_bwd(struct tn_backend *backend, void *dgu, const void *dy, const void *gu,
                       int32_t T, int32_t F)
{
    struct rows r = {.y = dgu, .a = gu, .b = dy};
    run_rows(tn_cpu_of(backend), &r, T, F, swiglu_bwd_task);
}

/* --- flat arrays, in chunks of a fixed size --- */

struct flat {
    const struct tn_kern *kern;
    size_t n;
    float *w, *m, *v;
    const float *x;
    const struct tn_rmsprop *rmsprop;
    const struct tn_adamw *adamw;
    float correction1, correction2;
    double *partial;
};

static size_t chunk(const struct flat *f, int32_t task, size_t *ret_count)
{
    size_t at = (size_t)task * CHUNK;
    *ret_count = SP_MIN((size_t)CHUNK, f->n - at);
    return at;
}

static void run_flat(struct tn_cpu *cpu, struct flat *f, tn_task_fn *task)
{
    f->kern = cpu->kern;
    tn_pool_run(cpu->pool, (int32_t)((f->n + CHUNK - 1) / CHUNK), task, f);
}

/* In parts that lie as those of the rows do. */
static void add_task(void *context, int32_t task, int32_t worker)
{
    const struct rows *r = context;
    struct span s = part(r, task);
    size_t at = (size_t)s.from * 16, end = SP_MIN((size_t)s.to * 16, r->n);
    r->cpu->kern->add(r->y + at, r->a + at, end - at);
}

void tn_cpu_add(struct tn_backend *backend, void *y, const void *x, size_t n)
{
    struct rows r = {.y = y, .a = x, .n = n};
    run_rows(tn_cpu_of(backend), &r, (int32_t)((n + 15) / 16), 16, add_task);
}

static void sum_squares_task(void *context, int32_t task, int32_t worker)
{
    const struct flat *f = context;
    size_t count, at = chunk(f, task, &count);
    f->partial[task] = f->kern->sum_squares(f->x + at, count);
}

double tn_cpu_sum_squares(struct tn_backend *backend, const void *x, size_t n)
{
    double sum = 0.0, partial[PARTIALS];
    const float *from = x;
    const size_t span = (size_t)PARTIALS * CHUNK;
    for (size_t at = 0; at < n; at += span) {
        struct flat f = {.n = SP_MIN(span, n - at), .x = from + at, .partial = partial};
        run_flat(tn_cpu_of(backend), &f, sum_squares_task);
        for (size_t i = 0; i < (f.n + CHUNK - 1) / CHUNK; i++)
            sum += partial[i];
    }
    return sum;
}

static void rmsprop_task(void *context, int32_t task, int32_t worker)
{
    const struct flat *f = context;
    size_t count, at = chunk(f, task, &count);
    f->kern->rmsprop(f->w + at, f->x + at, f->v + at, count, f->rmsprop);
}

void tn_cpu_rmsprop(struct tn_backend *backend, void *w, const void *g, void *v, size_t n,
                    const struct tn_rmsprop *options)
{
    struct flat f = {.n = n, .w = w, .x = g, .v = v, .rmsprop = options};
    if (options->state == TN_STATE_8BIT)
        tn_cpu_rmsprop_8bit(tn_cpu_of(backend), w, g, v, n, options);
    else
        run_flat(tn_cpu_of(backend), &f, rmsprop_task);
}

static void adamw_task(void *context, int32_t task, int32_t worker)
{
    const struct flat *f = context;
    size_t count, at = chunk(f, task, &count);
    f->kern->adamw(f->w + at, f->x + at, f->m + at, f->v + at, count, f->adamw, f->correction1,
                   f->correction2);
}

/* 1 − beta^step by repeated squaring: libm's pow differs between versions */
static float bias_correction(float beta, int64_t step)
{
    double power = 1.0, base = (double)beta;
    for (; step > 0; step >>= 1, base *= base)
        if (step & 1)
            power *= base;
    return (float)(1.0 - power);
}

void tn_cpu_adamw(struct tn_backend *backend, void *w, const void *g, void *m, void *v, size_t n,
                  const struct tn_adamw *options)
{
    struct flat f = {.n = n, .w = w, .x = g, .m = m, .v = v, .adamw = options};
    f.correction1 = bias_correction(options->beta1, options->step);
    f.correction2 = bias_correction(options->beta2, options->step);
    if (options->state == TN_STATE_8BIT)
        tn_cpu_adamw_8bit(tn_cpu_of(backend), w, g, m, v, n, options, f.correction1, f.correction2);
    else
        run_flat(tn_cpu_of(backend), &f, adamw_task);
}

/* packed: products of few rows with weights that were packed once, as decoding needs them. The rows
 * are read where they lie, so a product is one job for the workers; each output is the same chain
 * over k as in product.c. */
#include "common/tensor/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"

#define ROWS_MAX 1008      /* rows of one pass over the weights, */
#define SPREAD_MAX 1048576 /* and floats of rows that are spread */
#define ROWS_GROUP 112     /* rows of one task: they stay in the second cache */
#define KC_BYTES 49152     /* of a panel that rows of several blocks read one after the other */
#define AHEAD 4096         /* bytes of weights fetched ahead where they are read once */
#define TASK_WORK 800000   /* multiply-adds of a task, at least: taking one costs */
#define SMALL_WORK 60000   /* multiply-adds below which waking the workers costs more */
#define SET_FLOATS 512     /* rows a multiple of this apart share few sets of the first cache: */
#define PADDING 16         /* such rows are copied, so many floats further apart */

struct packed {
    struct tn_cpu *cpu;
    const struct tn_weights *w;
    const float *x;
    float *y, *spread; /* rows of x further apart, or NULL */
    size_t x_row;
    int32_t rows, blocks; /* blocks of at most mr rows, as even as possible */
    int32_t panels, groups, row_groups, k_blocks;
    size_t step, panel; /* bytes */
};

/* All rows of one block, panels [first, last): narrow the last one may be. */
static void tile(const struct packed *p, int32_t row, int32_t rows, int32_t first, int32_t last,
                 int32_t k0, int32_t k1, size_t ahead)
{
    const struct tn_kern *kern = p->cpu->kern;
    size_t nr = (size_t)kern->nr, ldc = (size_t)p->w->N, depth = (size_t)(k1 - k0);
    int32_t full = SP_MIN(last, p->w->N / kern->nr) - first, rest = p->w->N % kern->nr;
    const float *x = p->x + (size_t)row * p->x_row + (size_t)k0;
    const uint8_t *b = (const uint8_t *)p->w->panels + (size_t)first * p->panel;
    float *c = p->y + (size_t)row * ldc + (size_t)first * nr;
    bool bf16 = p->w->dtype == TN_BF16, load = k0 > 0;
    b += (size_t)k0 * p->step;
    kern->panels(rows, full, depth, x, p->x_row, b, p->step, p->panel, bf16, ahead, c, ldc, load);
    if (rest == 0 || last < p->panels)
        return;
    float wide[TN_MAX_MR * TN_MAX_NR] = {0};
    c += (size_t)full * nr;
    for (int32_t i = 0; load && i < rows; i++)
        memcpy(wide + (size_t)i * nr, c + (size_t)i * ldc, (size_t)rest * sizeof(float));
    kern->panels(rows, 1, depth, x, p->x_row, b + (size_t)full * p->panel, p->step, p->panel, bf16,
                 0, wide, nr, load);
    for (int32_t i = 0; i < rows; i++)
        memcpy(c + (size_t)i * ldc, wide + (size_t)i * nr, (size_t)rest * sizeof(float));
}

static void product_task(void *context, int32_t task, int32_t worker)
{
    const struct packed *p = context;
    int32_t group = task / p->row_groups, row_group = task % p->row_groups;
    int32_t panel0 = tn_split(p->panels, p->groups, group);
    int32_t panel1 = tn_split(p->panels, p->groups, group + 1);
    int32_t block0 = tn_split(p->blocks, p->row_groups, row_group);
    int32_t block1 = tn_split(p->blocks, p->row_groups, row_group + 1);
    (void)worker;
    if (p->blocks == 1) {
        tile(p, 0, p->rows, panel0, panel1, 0, p->w->K, AHEAD);
        return;
    }
    for (int32_t panel = panel0; panel < panel1; panel++)
        for (int32_t kb = 0; kb < p->k_blocks; kb++) {
            int32_t k0 = tn_split(p->w->K, p->k_blocks, kb);
            int32_t k1 = tn_split(p->w->K, p->k_blocks, kb + 1);
            for (int32_t block = block0; block < block1; block++) {
                int32_t row = tn_split(p->rows, p->blocks, block);
                int32_t rows = tn_split(p->rows, p->blocks, block + 1) - row;
                /* the first rows fetch what all rows read next */
                size_t ahead = block == block0 ? (size_t)(k1 - k0) * p->step : 0;
                tile(p, row, rows, panel, panel + 1, k0, k1, ahead);
            }
        }
}

static void spread_task(void *context, int32_t task, int32_t worker)
{
    const struct packed *p = context;
    size_t k = (size_t)p->w->K;
    (void)worker;
    for (int32_t i = tn_split(p->rows, p->blocks, task); i < tn_split(p->rows, p->blocks, task + 1);
         i++)
        memcpy(p->spread + (size_t)i * (k + PADDING), p->x + (size_t)i * k, k * sizeof(float));
}

/* Groups of neighbouring panels, a multiple of the workers where there are enough, so that all end
 * together. */
static void plan(struct packed *p)
{
    int32_t threads = p->cpu->threads;
    double panel_work = (double)p->rows * p->cpu->kern->nr * p->w->K;
    int32_t together = (int32_t)SP_MIN((double)p->panels, TASK_WORK / panel_work + 1);
    p->blocks = tn_ceil_div(p->rows, p->cpu->kern->mr);
    p->row_groups = tn_ceil_div(p->rows, ROWS_GROUP);
    p->k_blocks = tn_ceil_div(p->w->K, SP_MAX(1, (int32_t)(KC_BYTES / p->step)));
    together = SP_MAX(together, p->panels / (64 * threads));
    p->groups = tn_ceil_div(tn_ceil_div(p->panels, together), threads) * threads;
    p->groups = SP_MIN(p->groups, p->panels);
}

static void run(struct packed *p, int32_t tasks, tn_task_fn *task)
{
    if ((double)p->rows * p->w->N * p->w->K < SMALL_WORK)
        for (int32_t i = 0; i < tasks; i++)
            task(p, i, 0);
    else
        tn_pool_run(p->cpu->pool, tasks, task, p);
}

/* Rows of one pass. */
static int32_t pass_rows(int32_t K)
{
    return SP_MIN(ROWS_MAX, SP_MAX(TN_MAX_MR, SPREAD_MAX / K));
}

size_t tn_packed_scratch(int32_t max_rows, int32_t max_width)
{
    size_t wide = (size_t)SP_MIN(max_rows, TN_MAX_MR) * ((size_t)max_width + PADDING);
    size_t all = (size_t)SP_MIN(max_rows, ROWS_MAX) * ((size_t)max_width + PADDING);
    return SP_MAX(wide, SP_MIN(all, (size_t)SPREAD_MAX + ROWS_MAX * PADDING));
}

void tn_cpu_linear_packed(struct tn_backend *backend, float *y, const float *x,
                          const struct tn_weights *w, int32_t T)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    size_t k = (size_t)w->K, n = (size_t)w->N;
    int32_t parts = tn_ceil_div(T, pass_rows(w->K));
    for (int32_t part = 0; part < parts; part++) {
        size_t first = (size_t)tn_split(T, parts, part);
        struct packed p = {.cpu = cpu, .w = w, .x = x + first * k, .y = y + first * n, .x_row = k};
        p.rows = tn_split(T, parts, part + 1) - (int32_t)first;
        p.panels = tn_ceil_div(w->N, w->nr);
        p.step = (size_t)w->nr * (w->dtype == TN_BF16 ? 2 : 4);
        p.panel = p.step * k;
        plan(&p);
        if (k % SET_FLOATS == 0 && p.rows > 1) {
            p.spread = tn_shared_scratch(cpu, (size_t)p.rows * (k + PADDING));
            run(&p, p.blocks, spread_task);
            p.x = p.spread;
            p.x_row = k + PADDING;
        }
        run(&p, p.groups * p.row_groups, product_task);
    }
}

/* --- packing --- */

struct packing {
    struct tn_cpu *cpu;
    const float *from;
    struct tn_weights *to;
};

/* bf16: columns j and j + nr/2 share a word, the first in its low half (and first byte). */
static void narrow_row(uint16_t *to, const float *from, size_t nr)
{
    for (size_t j = 0; j < nr / 2; j++) {
        to[2 * j] = sp_f32_to_bf16(from[j]);
        to[2 * j + 1] = sp_f32_to_bf16(from[j + nr / 2]);
    }
}

static void pack_task(void *context, int32_t panel, int32_t worker)
{
    const struct packing *p = context;
    const struct tn_kern *kern = p->cpu->kern;
    size_t nr = (size_t)kern->nr, k = (size_t)p->to->K;
    int32_t cols = SP_MIN(kern->nr, p->to->N - panel * kern->nr);
    const float *from = p->from + (size_t)panel * nr * k;
    if (p->to->dtype == TN_F32) {
        float *to = (float *)p->to->panels + (size_t)panel * nr * k;
        kern->transpose(to, nr, from, k, cols, p->to->K);
        return;
    }
    uint16_t *to = (uint16_t *)p->to->panels + (size_t)panel * nr * k;
    float block[64 * TN_MAX_NR] = {0};
    (void)worker;
    for (size_t k0 = 0; k0 < k; k0 += 64) {
        size_t depth = SP_MIN((size_t)64, k - k0);
        kern->transpose(block, nr, from + k0, k, cols, (int32_t)depth);
        for (size_t i = 0; i < depth; i++)
            narrow_row(to + (k0 + i) * nr, block + i * nr, nr);
    }
}

struct tn_weights *tn_cpu_weights_new(struct tn_backend *backend, const float *w, int32_t N,
                                      int32_t K, enum tn_dtype dtype)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    int32_t nr = cpu->kern->nr, panels = tn_ceil_div(N, nr);
    size_t unit = (size_t)nr * (dtype == TN_BF16 ? 2 : 4);
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    *weights = (struct tn_weights){.N = N, .K = K, .nr = nr, .dtype = dtype};
    weights->panels = sp_alloc_block((size_t)panels * (size_t)K, unit);
    if (!weights->panels) {
        tn_cpu_weights_free(backend, weights);
        return NULL;
    }
    struct packing p = {cpu, w, weights};
    tn_pool_run(cpu->pool, panels, pack_task, &p);
    return weights;
}

void tn_cpu_weights_free(struct tn_backend *backend, struct tn_weights *weights)
{
    (void)backend;
    if (!weights)
        return;
    sp_free_block(weights->panels);
    free(weights);
}

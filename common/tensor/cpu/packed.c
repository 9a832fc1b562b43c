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
#define OWN_ROWS 16        /* rows from which on they are split between workers, not panels */
#define MADE_ROWS 8        /* rows of a task that rounds or copies them */
#define KC_BYTES 49152     /* of a panel that rows of several blocks read one after the other */
#define AHEAD 4096         /* bytes of weights fetched ahead where they are read once */
#define TASK_WORK 800000   /* multiply-adds of a task, at least: taking one costs */
#define SMALL_WORK 60000   /* multiply-adds below which waking the workers costs more */
#define ROUND_WORK 4       /* rounding an element costs like so many */
#define SET_FLOATS 512     /* rows a multiple of this apart share few sets of the first cache: */
#define PADDING 16         /* such rows are copied, so many floats further apart */

struct packed {
    struct tn_cpu *cpu;
    const struct tn_weights *w;
    const struct tn_pairs *pairs; /* where rows are rounded, else NULL */
    const float *x;
    const uint8_t *rows_at; /* the rows as the kernel reads them: x, or `made` */
    uint8_t *made;
    float *y;
    size_t row; /* bytes between rows */
    int32_t rows, panels, groups, row_groups, k_blocks;
    int32_t depth;            /* steps of the kernel: K, or pairs of it */
    size_t step, panel, unit; /* bytes of B in a step and in a panel, of a row in a step */
};

/* Steps [k0, k1) of some rows and whole panels. */
static void panels(const struct packed *p, int32_t rows, int32_t count, int32_t k0, int32_t k1,
                   const uint8_t *x, const uint8_t *b, size_t ahead, float *c, size_t ldc)
{
    size_t depth = (size_t)(k1 - k0);
    bool load = k0 > 0;
    if (p->pairs)
        p->pairs->panels(rows, count, depth, x, p->row, b, p->step, p->panel, ahead, c, ldc, load);
    else
        p->cpu->kern->panels(rows, count, depth, (const float *)(const void *)x,
                             p->row / sizeof(float), b, p->step, p->panel, p->w->dtype == TN_BF16,
                             ahead, c, ldc, load);
}

/* All rows of one block, panels [first, last): narrow the last one may be. */
static void tile(const struct packed *p, int32_t row, int32_t rows, int32_t first, int32_t last,
                 int32_t k0, int32_t k1, size_t ahead)
{
    size_t nr = (size_t)p->w->nr, ldc = (size_t)p->w->N;
    int32_t full = SP_MIN(last, p->w->N / p->w->nr) - first, rest = p->w->N % p->w->nr;
    const uint8_t *x = p->rows_at + (size_t)row * p->row + (size_t)k0 * p->unit;
    const uint8_t *b = (const uint8_t *)p->w->panels + (size_t)first * p->panel;
    float *c = p->y + (size_t)row * ldc + (size_t)first * nr;
    b += (size_t)k0 * p->step;
    panels(p, rows, full, k0, k1, x, b, ahead, c, ldc);
    if (rest == 0 || last < p->panels)
        return;
    float wide[TN_MAX_MR * TN_MAX_NR] = {0};
    c += (size_t)full * nr;
    for (int32_t i = 0; k0 > 0 && i < rows; i++)
        memcpy(wide + (size_t)i * nr, c + (size_t)i * ldc, (size_t)rest * sizeof(float));
    panels(p, rows, 1, k0, k1, x, b + (size_t)full * p->panel, 0, wide, nr);
    for (int32_t i = 0; i < rows; i++)
        memcpy(c + (size_t)i * ldc, wide + (size_t)i * nr, (size_t)rest * sizeof(float));
}

/* A group of rows, a group of panels. */
static void product_task(void *context, int32_t task, int32_t worker)
{
    const struct packed *p = context;
    int32_t row_group = task / p->groups, group = task % p->groups;
    int32_t panel0 = tn_split(p->panels, p->groups, group);
    int32_t panel1 = tn_split(p->panels, p->groups, group + 1);
    int32_t row0 = tn_split(p->rows, p->row_groups, row_group);
    int32_t rows = tn_split(p->rows, p->row_groups, row_group + 1) - row0;
    int32_t blocks = tn_ceil_div(rows, p->cpu->kern->mr); /* as even as possible */
    (void)worker;
    if (blocks == 1) {
        tile(p, row0, rows, panel0, panel1, 0, p->depth, AHEAD);
        return;
    }
    for (int32_t panel = panel0; panel < panel1; panel++)
        for (int32_t kb = 0; kb < p->k_blocks; kb++) {
            int32_t k0 = tn_split(p->depth, p->k_blocks, kb);
            int32_t k1 = tn_split(p->depth, p->k_blocks, kb + 1);
            for (int32_t block = 0; block < blocks; block++) {
                int32_t row = tn_split(rows, blocks, block);
                /* the first rows fetch what all rows read next */
                size_t ahead = block == 0 ? (size_t)(k1 - k0) * p->step : 0;
                tile(p, row0 + row, tn_split(rows, blocks, block + 1) - row, panel, panel + 1, k0,
                     k1, ahead);
            }
        }
}

/* Some rows: rounded, or as they are but further apart. */
static void make_task(void *context, int32_t task, int32_t worker)
{
    const struct packed *p = context;
    size_t k = (size_t)p->w->K;
    int32_t end = SP_MIN(p->rows, (task + 1) * MADE_ROWS);
    (void)worker;
    for (int32_t i = task * MADE_ROWS; i < end; i++) {
        uint8_t *to = p->made + (size_t)i * p->row;
        if (p->pairs)
            p->pairs->round(to, p->x + (size_t)i * k, k);
        else
            memcpy(to, p->x + (size_t)i * k, k * sizeof(float));
    }
}

/* Where there are rows enough, each worker has its own, as in all other operations: a line of the
 * cache that another core has written costs more than weights that another core has just read.
 * Panels in groups of neighbours, so many that all workers end together. */
static void plan(struct packed *p)
{
    int32_t threads = p->cpu->threads;
    p->row_groups = SP_MAX(tn_ceil_div(p->rows, ROWS_GROUP), SP_MIN(threads, p->rows / OWN_ROWS));
    p->row_groups = SP_MAX(p->row_groups, 1);
    double panel_work = (double)p->rows / p->row_groups * p->w->nr * p->w->K;
    int32_t together = (int32_t)SP_MIN((double)p->panels, TASK_WORK / panel_work + 1);
    int32_t workers = tn_ceil_div(threads, p->row_groups); /* of one group of rows */
    p->k_blocks = tn_ceil_div(p->depth, SP_MAX(1, (int32_t)(KC_BYTES / p->step)));
    together = SP_MAX(together, p->panels / (64 * workers));
    p->groups = tn_ceil_div(tn_ceil_div(p->panels, together), workers) * workers;
    p->groups = SP_MIN(p->groups, p->panels);
}

/* `work`: multiply-adds, or what costs as much. */
static void run(struct packed *p, double work, int32_t tasks, tn_task_fn *task)
{
    if (work < SMALL_WORK)
        for (int32_t i = 0; i < tasks; i++)
            task(p, i, 0);
    else
        tn_pool_run_near(p->cpu->pool, tasks, task, p);
}

/* Rows of one pass. */
static int32_t pass_rows(int32_t K)
{
    return SP_MIN(ROWS_MAX, SP_MAX(TN_MAX_MR, SPREAD_MAX / K));
}

size_t tn_packed_scratch(int32_t max_rows, int32_t max_width)
{
    size_t wide = (size_t)SP_MIN(max_rows, TN_MAX_MR) * ((size_t)max_width + 2 * PADDING);
    size_t all = (size_t)SP_MIN(max_rows, ROWS_MAX) * ((size_t)max_width + 2 * PADDING);
    return SP_MAX(wide, SP_MIN(all, (size_t)SPREAD_MAX + ROWS_MAX * 2 * PADDING));
}

/* The rows of x in the form that the kernel reads. */
static void make_rows(struct packed *p)
{
    size_t k = (size_t)p->w->K, line = PADDING * sizeof(float);
    p->rows_at = (const uint8_t *)p->x;
    p->row = k * sizeof(float);
    if (!p->pairs && (k % SET_FLOATS != 0 || p->rows == 1))
        return;
    p->row = tn_round_up((size_t)p->depth * p->unit, line) + line;
    p->rows_at = p->made = (uint8_t *)tn_shared_scratch(p->cpu, (size_t)p->rows * p->row / 4);
    run(p, (double)p->rows * p->w->K * ROUND_WORK, tn_ceil_div(p->rows, MADE_ROWS), make_task);
}

void tn_cpu_linear_packed(struct tn_backend *backend, void *y, const void *x,
                          const struct tn_weights *w, int32_t T)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    size_t k = (size_t)w->K, n = (size_t)w->N;
    const float *from = x;
    float *to = y;
    int32_t parts = tn_ceil_div(T, pass_rows(w->K));
    for (int32_t part = 0; part < parts; part++) {
        size_t first = (size_t)tn_split(T, parts, part);
        struct packed p = {.cpu = cpu, .w = w, .x = from + first * k, .y = to + first * n};
        p.rows = tn_split(T, parts, part + 1) - (int32_t)first;
        p.panels = tn_ceil_div(w->N, w->nr);
        p.depth = w->K;
        p.step = (size_t)w->nr * (w->dtype == TN_BF16 ? 2 : 4);
        p.unit = sizeof(float);
        if (w->rows == TN_BF16) {
            p.pairs = cpu->pairs;
            p.depth = tn_ceil_div(w->K, 2);
            p.step *= 2;
            p.unit = 2 * p.pairs->unit;
        }
        p.panel = p.step * (size_t)p.depth;
        plan(&p);
        make_rows(&p);
        run(&p, (double)p.rows * w->N * w->K, p.groups * p.row_groups, product_task);
    }
}

/* --- packing --- */

struct packing {
    struct tn_cpu *cpu;
    const float *from;
    struct tn_weights *to;
};

/* Rows of a panel: K, even where they go in pairs. */
static size_t packed_depth(const struct tn_weights *w)
{
    return w->rows == TN_BF16 ? tn_round_up((size_t)w->K, 2) : (size_t)w->K;
}

/* bf16: columns j and j + nr/2 share a word, the first in its low half (and first byte). */
static void narrow_row(uint16_t *to, const float *from, size_t nr)
{
    for (size_t j = 0; j < nr / 2; j++) {
        to[2 * j] = sp_f32_to_bf16(from[j]);
        to[2 * j + 1] = sp_f32_to_bf16(from[j + nr / 2]);
    }
}

/* Word j: column j of two rows. */
static void narrow_pair(uint16_t *to, const float *even, const float *odd, size_t nr)
{
    for (size_t j = 0; j < nr; j++) {
        to[2 * j] = sp_f32_to_bf16(even[j]);
        to[2 * j + 1] = sp_f32_to_bf16(odd[j]);
    }
}

static void narrow_panel(const struct packing *p, uint16_t *to, const float *from, int32_t cols)
{
    const struct tn_kern *kern = p->cpu->kern;
    size_t nr = (size_t)kern->nr, k = (size_t)p->to->K;
    float block[64 * TN_MAX_NR];
    for (size_t k0 = 0; k0 < k; k0 += 64) {
        size_t depth = SP_MIN((size_t)64, k - k0);
        memset(block, 0, sizeof(block));
        kern->transpose(block, nr, from + k0, k, cols, (int32_t)depth);
        for (size_t i = 0; i < depth; i++) {
            const float *row = block + i * nr;
            if (p->to->rows == TN_F32)
                narrow_row(to + (k0 + i) * nr, row, nr);
            else if (i % 2 == 0)
                narrow_pair(to + (k0 + i) * nr, row, row + nr, nr);
        }
    }
}

static void pack_task(void *context, int32_t panel, int32_t worker)
{
    const struct packing *p = context;
    const struct tn_kern *kern = p->cpu->kern;
    size_t nr = (size_t)kern->nr, k = (size_t)p->to->K;
    int32_t cols = SP_MIN(kern->nr, p->to->N - panel * kern->nr);
    const float *from = p->from + (size_t)panel * nr * k;
    (void)worker;
    if (p->to->dtype == TN_F32)
        kern->transpose((float *)p->to->panels + (size_t)panel * nr * k, nr, from, k, cols,
                        p->to->K);
    else
        narrow_panel(p, (uint16_t *)p->to->panels + (size_t)panel * nr * packed_depth(p->to), from,
                     cols);
}

struct tn_weights *tn_cpu_weights_new(struct tn_backend *backend, const void *w, int32_t N,
                                      int32_t K, enum tn_dtype dtype, enum tn_dtype rows)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    int32_t nr = cpu->kern->nr, panels = tn_ceil_div(N, nr);
    size_t unit = (size_t)nr * (dtype == TN_BF16 ? 2 : 4);
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    SP_ASSERT(rows == TN_F32 || dtype == TN_BF16);
    *weights = (struct tn_weights){.N = N, .K = K, .nr = nr, .dtype = dtype, .rows = rows};
    weights->panels = sp_alloc_block((size_t)panels * packed_depth(weights), unit);
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

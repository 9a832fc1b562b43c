/* gemm: the operations on matrices, and products with weights that were packed before: panels as
 * the microkernel reads them, in blocks that fit the caches. Blocks over k continue each output's
 * chain from C, so the block sizes, the microkernel's shape and the split of tasks change no bit.
 * Products of two factors that change are in product.c. */
#include "common/tensor/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/half.h"

#define KC 384             /* k of one block: nr·KC floats of B stay in the first cache */
#define MC_BLOCKS 8        /* row blocks of one task: mr·MC_BLOCKS·KC floats of A in the second */
#define M_MAX 1008         /* rows of A packed at a time */
#define A_PACKED (1 << 20) /* floats of A packed at a time in products with packed weights */
#define SMALL_WORK 60000   /* multiply-adds below which waking the workers costs more */

struct product {
    struct tn_cpu *cpu;
    const struct tn_gemm *g;
    int32_t m0, m, k0, k, n0, n; /* the block at hand */
    int32_t row_blocks;          /* of at most mr rows, sizes as even as possible */
    float *pack_a, *pack_b;
    int32_t a_tasks, row_groups, col_groups, panels;
    /* with weights packed before: all of k at once */
    const struct tn_weights *weights;
};

/* A's block `block` as [k][rows of the block] */
static void pack_a_block(const struct product *p, int32_t block)
{
    const struct tn_gemm *g = p->g;
    int32_t first = tn_split(p->m, p->row_blocks, block);
    int32_t rows = tn_split(p->m, p->row_blocks, block + 1) - first;
    float *to = p->pack_a + (size_t)first * (size_t)p->k;
    const float *from = g->a + (size_t)(p->m0 + first) * g->a_row + (size_t)p->k0 * g->a_col;
    if (g->a_col == 1) {
        p->cpu->kern->transpose(to, (size_t)rows, from, g->a_row, rows, p->k);
        return;
    }
    p->cpu->kern->copy(to, (size_t)rows, from, g->a_col, rows, p->k);
}

static void pack_task(void *context, int32_t task, int32_t worker)
{
    pack_a_block(context, task);
}

static void microkernel(const struct product *p, int32_t rows, int32_t depth, const float *a,
                        const void *b, float *c, size_t ldc, bool load)
{
    const struct tn_kern *kern = p->cpu->kern;
    size_t nr = (size_t)kern->nr;
    if (p->weights && p->weights->dtype == TN_BF16)
        kern->micro_bf16(rows, (size_t)depth, a, (size_t)rows, b, nr / 2, c, ldc, load);
    else
        kern->micro(rows, (size_t)depth, a, (size_t)rows, b, nr, c, ldc, load);
}

/* One tile of C, `cols` columns wide; a narrow one goes through a full one on the stack. */
static void tile(const struct product *p, int32_t rows, int32_t cols, int32_t depth, const float *a,
                 const void *b, float *c, bool load)
{
    size_t ldc = (size_t)p->g->N, nr = (size_t)p->cpu->kern->nr;
    if ((size_t)cols == nr) {
        microkernel(p, rows, depth, a, b, c, ldc, load);
        return;
    }
    float full[TN_MAX_MR * TN_MAX_NR] = {0};
    if (load)
        for (int32_t i = 0; i < rows; i++)
            memcpy(full + (size_t)i * nr, c + (size_t)i * ldc, (size_t)cols * sizeof(float));
    microkernel(p, rows, depth, a, b, full, nr, load);
    for (int32_t i = 0; i < rows; i++)
        memcpy(c + (size_t)i * ldc, full + (size_t)i * nr, (size_t)cols * sizeof(float));
}

/* With packed weights: all of k in blocks inside the task: one job for a product. */
static void compute_packed_task(void *context, int32_t task, int32_t worker)
{
    const struct product *p = context;
    int32_t nr = p->weights->nr, K = p->weights->K;
    size_t k_bytes = (size_t)nr * (p->weights->dtype == TN_BF16 ? 2 : 4);
    int32_t row_group = task % p->row_groups, col_group = task / p->row_groups;
    int32_t block0 = tn_split(p->row_blocks, p->row_groups, row_group);
    int32_t block1 = tn_split(p->row_blocks, p->row_groups, row_group + 1);
    int32_t panel0 = tn_split(p->panels, p->col_groups, col_group);
    int32_t panel1 = tn_split(p->panels, p->col_groups, col_group + 1);
    int32_t k_blocks = block1 - block0 == 1 ? 1 : tn_ceil_div(K, KC);
    for (int32_t panel = panel0; panel < panel1; panel++) {
        int32_t col = panel * nr, cols = SP_MIN(nr, p->n - col);
        const uint8_t *b =
            (const uint8_t *)p->weights->panels + (size_t)panel * (size_t)K * k_bytes;
        for (int32_t kb = 0; kb < k_blocks; kb++) {
            int32_t k0 = tn_split(K, k_blocks, kb), k1 = tn_split(K, k_blocks, kb + 1);
            for (int32_t block = block0; block < block1; block++) {
                int32_t first = tn_split(p->m, p->row_blocks, block);
                int32_t rows = tn_split(p->m, p->row_blocks, block + 1) - first;
                const float *a = p->pack_a + (size_t)first * (size_t)K + (size_t)k0 * (size_t)rows;
                float *c = p->g->c + (size_t)(p->m0 + first) * (size_t)p->g->N + (size_t)col;
                tile(p, rows, cols, k1 - k0, a, b + (size_t)k0 * k_bytes, c, kb > 0);
            }
        }
    }
}

/* Chooses how the tiles of a block are shared out: enough tasks for every worker, and none so small
 * that taking it costs. */
static void plan_tasks(struct product *p)
{
    p->panels = tn_ceil_div(p->n, p->cpu->kern->nr);
    p->row_groups = tn_ceil_div(p->row_blocks, MC_BLOCKS);
    int32_t wanted = p->cpu->threads == 1 ? 1 : tn_ceil_div(8 * p->cpu->threads, p->row_groups);
    p->col_groups = SP_MIN(p->panels, wanted);
}

static void run(struct product *p, int32_t tasks, tn_task_fn *task)
{
    if ((double)p->m * p->n * p->k < SMALL_WORK)
        for (int32_t i = 0; i < tasks; i++)
            task(p, i, 0);
    else
        tn_pool_run(p->cpu->pool, tasks, task, p);
}

static size_t pack_a_floats(int32_t m, int32_t k)
{
    return tn_round_up((size_t)m * (size_t)k + 64, 64);
}

/* Rows packed at a time, all of k wide. */
static int32_t packed_rows(const struct tn_kern *kern, int32_t K)
{
    return SP_MIN(M_MAX, SP_MAX(kern->mr, A_PACKED / K));
}

size_t tn_packed_scratch(const struct tn_cpu *cpu, int32_t max_rows, int32_t max_width)
{
    int32_t rows = SP_MIN(max_rows, packed_rows(cpu->kern, max_width));
    return SP_MAX(pack_a_floats(rows, max_width), (size_t)A_PACKED + 64);
}

void tn_cpu_linear(struct tn_backend *backend, float *y, const float *x, const float *w, int32_t T,
                   int32_t N, int32_t K, bool accumulate)
{
    struct tn_gemm g = {.M = T,
                        .N = N,
                        .K = K,
                        .a = x,
                        .a_row = (size_t)K,
                        .a_col = 1,
                        .b = w,
                        .b_row = 1,
                        .b_col = (size_t)K,
                        .c = y,
                        .accumulate = accumulate};
    tn_gemm_run(tn_cpu_of(backend), &g);
}

void tn_cpu_linear_bwd_x(struct tn_backend *backend, float *dx, const float *dy, const float *w,
                         int32_t T, int32_t N, int32_t K, bool accumulate)
{
    struct tn_gemm g = {.M = T,
                        .N = K,
                        .K = N,
                        .a = dy,
                        .a_row = (size_t)N,
                        .a_col = 1,
                        .b = w,
                        .b_row = (size_t)K,
                        .b_col = 1,
                        .c = dx,
                        .accumulate = accumulate};
    tn_gemm_run(tn_cpu_of(backend), &g);
}

void tn_cpu_linear_bwd_w(struct tn_backend *backend, float *dw, const float *dy, const float *x,
                         int32_t T, int32_t N, int32_t K)
{
    struct tn_gemm g = {.M = N,
                        .N = K,
                        .K = T,
                        .a = dy,
                        .a_row = 1,
                        .a_col = (size_t)N,
                        .b = x,
                        .b_row = (size_t)K,
                        .b_col = 1,
                        .c = dw,
                        .accumulate = true};
    tn_gemm_run(tn_cpu_of(backend), &g);
}

struct tn_weights *tn_cpu_weights_new(struct tn_backend *backend, const float *w, int32_t N,
                                      int32_t K, enum tn_dtype dtype)
{
    int32_t nr = tn_cpu_of(backend)->kern->nr;
    size_t panels = (size_t)tn_ceil_div(N, nr), unit = (size_t)nr * (dtype == TN_BF16 ? 2 : 4);
    struct tn_weights *weights = sp_xalloc(sizeof(*weights));
    *weights = (struct tn_weights){.N = N, .K = K, .nr = nr, .dtype = dtype};
    weights->panels = sp_alloc_block(panels * (size_t)K, unit);
    if (!weights->panels) {
        tn_cpu_weights_free(backend, weights);
        return NULL;
    }
    float *f32 = weights->panels;
    uint16_t *bf16 = weights->panels;
    for (int32_t n = 0; n < N; n++) {
        size_t panel = (size_t)(n / nr) * (size_t)K, j = (size_t)(n % nr), half = (size_t)nr / 2;
        const float *row = w + (size_t)n * (size_t)K;
        /* little-endian: the low half of word j % half comes first */
        size_t place = j < half ? 2 * j : 2 * (j - half) + 1;
        for (size_t k = 0; k < (size_t)K; k++) {
            if (dtype == TN_BF16)
                bf16[(panel + k) * (size_t)nr + place] = sp_f32_to_bf16(row[k]);
            else
                f32[(panel + k) * (size_t)nr + j] = row[k];
        }
    }
    return weights;
}

void tn_cpu_weights_free(struct tn_backend *backend, struct tn_weights *weights)
{
    if (!weights)
        return;
    sp_free_block(weights->panels);
    free(weights);
}

void tn_cpu_linear_packed(struct tn_backend *backend, float *y, const float *x,
                          const struct tn_weights *w, int32_t T)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    if (T <= 0)
        return;
    struct tn_gemm g = {
        .M = T, .N = w->N, .K = w->K, .a = x, .a_row = (size_t)w->K, .a_col = 1, .c = y};
    struct product p = {.cpu = cpu, .g = &g, .weights = w, .k = w->K, .n = w->N};
    int32_t parts = tn_ceil_div(T, packed_rows(cpu->kern, w->K));
    p.pack_a = tn_shared_scratch(cpu, pack_a_floats(tn_ceil_div(T, parts), w->K));
    for (int32_t part = 0; part < parts; part++) {
        p.m0 = tn_split(T, parts, part);
        p.m = tn_split(T, parts, part + 1) - p.m0;
        p.row_blocks = tn_ceil_div(p.m, cpu->kern->mr);
        plan_tasks(&p);
        p.a_tasks = p.row_blocks;
        run(&p, p.a_tasks, pack_task);
        run(&p, p.row_groups * p.col_groups, compute_packed_task);
    }
}

/* product: matrix products of factors that change, in the manner of BLIS (Van Zee & van de Geijn
 * 2015): both factors are packed into panels as the microkernel reads them, in blocks that fit the
 * caches. Blocks over k continue each output's chain from C, so the block sizes, the microkernel's
 * shape and the split of tasks change no bit.
 *
 * A product is a row of steps, each a block of m, n and k. One job of the pool computes a step and
 * packs what the next one needs: packing waits for memory and computing doesn't, so they go well
 * together, and there is one barrier a step. */
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"

#define KC 320             /* k of one block: nr · KC floats of B stay in the first cache */
#define NC 2048            /* columns of B packed at a time, shared by all workers */
#define M_MAX 1008         /* rows of A packed at a time */
#define A_WHOLE (3 << 19)  /* floats of A up to which all of k is packed at once */
#define GROUP_BLOCKS 8     /* row blocks of a task: mr · 8 · k floats of A in the second cache */
#define GROUP_PANELS 2     /* panels of B of a task */
#define SMALL_WORK 60000.0 /* multiply-adds below which waking the workers costs more */

struct step {
    int32_t m_part, n_part, k_part;
    int32_t m0, m, n0, n, k0, k; /* the block */
    int32_t row_blocks, panels;  /* of at most mr rows, sizes as even as possible; of nr columns */
    int32_t a_slot, b_slot;      /* where its packed factors lie */
    int32_t a_tasks, b_tasks;    /* packing that it needs first; 0: they are there already */
};

struct product {
    struct tn_cpu *cpu;
    const struct tn_gemm *g;
    int32_t m_parts, n_parts, k_parts;
    bool whole_k;       /* A is packed for all of k */
    float *a[2], *b[2]; /* one slot is read while the other is filled */
    struct step now, next;
    int32_t pack_tasks, compute_tasks; /* of the job at hand */
};

/* A's block of rows as [k][rows of the block] */
static void pack_a_block(const struct product *p, const struct step *s, int32_t block)
{
    const struct tn_gemm *g = p->g;
    float *to = p->a[s->a_slot] + (p->whole_k ? (size_t)s->m * (size_t)s->k0 : 0);
    int32_t first = tn_split(s->m, s->row_blocks, block);
    int32_t rows = tn_split(s->m, s->row_blocks, block + 1) - first;
    to += (size_t)first * (size_t)s->k;
    const float *from = g->a + (size_t)(s->m0 + first) * g->a_row + (size_t)s->k0 * g->a_col;
    if (g->a_col == 1)
        p->cpu->kern->transpose(to, (size_t)rows, from, g->a_row, rows, s->k);
    else
        p->cpu->kern->copy(to, (size_t)rows, from, g->a_col, rows, s->k);
}

/* B's panel of nr columns as [k][nr], zero beyond the last column */
static void pack_b_panel(const struct product *p, const struct step *s, int32_t panel)
{
    const struct tn_gemm *g = p->g;
    int32_t nr = p->cpu->kern->nr, first = panel * nr;
    int32_t cols = SP_MIN(nr, s->n - first);
    float *to = p->b[s->b_slot] + (size_t)first * (size_t)s->k;
    const float *from = g->b + (size_t)(s->n0 + first) * g->b_col + (size_t)s->k0 * g->b_row;
    if (cols < nr)
        memset(to, 0, (size_t)s->k * (size_t)nr * sizeof(float));
    if (g->b_row == 1)
        p->cpu->kern->transpose(to, (size_t)nr, from, g->b_col, cols, s->k);
    else
        p->cpu->kern->copy(to, (size_t)nr, from, g->b_row, cols, s->k);
}

/* One tile of C, `cols` columns wide; a narrow one goes through a full one on the stack. */
static void tile(const struct product *p, int32_t rows, int32_t cols, const float *a,
                 const float *b, float *c, bool load)
{
    const struct tn_kern *kern = p->cpu->kern;
    size_t ldc = (size_t)p->g->N, nr = (size_t)kern->nr, depth = (size_t)p->now.k;
    if ((size_t)cols == nr) {
        kern->micro(rows, depth, a, (size_t)rows, b, nr, c, ldc, load);
        return;
    }
    float full[TN_MAX_MR * TN_MAX_NR] = {0};
    if (load)
        for (int32_t i = 0; i < rows; i++)
            memcpy(full + (size_t)i * nr, c + (size_t)i * ldc, (size_t)cols * sizeof(float));
    kern->micro(rows, depth, a, (size_t)rows, b, nr, full, nr, load);
    for (int32_t i = 0; i < rows; i++)
        memcpy(c + (size_t)i * ldc, full + (size_t)i * nr, (size_t)cols * sizeof(float));
}

/* A tile's chains begin with what is in C, so a tile that comes from memory stalls at once. */
static inline void prefetch_tile(const float *c, size_t ldc, int32_t rows, size_t nr)
{
    for (int32_t i = 0; i < rows; i++, c += ldc)
        for (size_t j = 0; j < nr; j += 16)
            __builtin_prefetch(c + j, 1, 3);
}

static void compute_group(const struct product *p, int32_t task)
{
    const struct step *s = &p->now;
    int32_t nr = p->cpu->kern->nr, col_groups = tn_ceil_div(s->panels, GROUP_PANELS);
    int32_t row_group = task / col_groups, col_group = task % col_groups;
    int32_t row_groups = tn_ceil_div(s->row_blocks, GROUP_BLOCKS);
    int32_t block0 = tn_split(s->row_blocks, row_groups, row_group);
    int32_t block1 = tn_split(s->row_blocks, row_groups, row_group + 1);
    int32_t panel1 = SP_MIN(s->panels, (col_group + 1) * GROUP_PANELS);
    bool load = p->g->accumulate || s->k0 > 0;
    size_t ldc = (size_t)p->g->N;
    const float *a = p->a[s->a_slot] + (p->whole_k ? (size_t)s->m * (size_t)s->k0 : 0);
    for (int32_t panel = col_group * GROUP_PANELS; panel < panel1; panel++) {
        int32_t col = panel * nr, cols = SP_MIN(nr, s->n - col);
        const float *b = p->b[s->b_slot] + (size_t)col * (size_t)s->k;
        for (int32_t block = block0; block < block1; block++) {
            int32_t first = tn_split(s->m, s->row_blocks, block);
            int32_t end = tn_split(s->m, s->row_blocks, block + 1);
            float *c = p->g->c + (size_t)(s->m0 + first) * ldc + (size_t)(s->n0 + col);
            if (block + 1 < block1)
                prefetch_tile(c + (size_t)(end - first) * ldc, ldc,
                              tn_split(s->m, s->row_blocks, block + 2) - end, (size_t)cols);
            else if (panel + 1 < panel1)
                prefetch_tile(p->g->c +
                                  (size_t)(s->m0 + tn_split(s->m, s->row_blocks, block0)) * ldc +
                                  (size_t)(s->n0 + col + nr),
                              ldc, p->cpu->kern->mr, (size_t)SP_MIN(nr, s->n - col - nr));
            tile(p, end - first, cols, a + (size_t)first * (size_t)s->k, b, c, load);
        }
    }
}

static void job_task(void *context, int32_t task, int32_t worker)
{
    const struct product *p = context;
    /* Packing is spread evenly over the job. */
    int64_t all = (int64_t)p->pack_tasks + p->compute_tasks;
    int32_t packed = (int32_t)(task * (int64_t)p->pack_tasks / all);
    if ((int32_t)((task + 1) * (int64_t)p->pack_tasks / all) == packed)
        compute_group(p, task - packed);
    else if (packed < p->next.a_tasks)
        pack_a_block(p, &p->next, packed);
    else
        pack_b_panel(p, &p->next, packed - p->next.a_tasks);
}

/* Step number `index`; p->now is the one before it. */
static struct step step_at(const struct product *p, int32_t index)
{
    const struct tn_gemm *g = p->g;
    struct step s = {.a_slot = p->now.a_slot, .b_slot = p->now.b_slot};
    int32_t inner = index % (p->n_parts * p->k_parts);
    s.m_part = index / (p->n_parts * p->k_parts);
    s.n_part = p->whole_k ? inner / p->k_parts : inner % p->n_parts;
    s.k_part = p->whole_k ? inner % p->k_parts : inner / p->n_parts;
    s.m0 = tn_split(g->M, p->m_parts, s.m_part);
    s.m = tn_split(g->M, p->m_parts, s.m_part + 1) - s.m0;
    s.k0 = tn_split(g->K, p->k_parts, s.k_part);
    s.k = tn_split(g->K, p->k_parts, s.k_part + 1) - s.k0;
    s.n0 = s.n_part * NC;
    s.n = SP_MIN(NC, g->N - s.n0);
    s.row_blocks = tn_ceil_div(s.m, p->cpu->kern->mr);
    s.panels = tn_ceil_div(s.n, p->cpu->kern->nr);
    bool same_m = s.m_part == p->now.m_part, same_k = s.k_part == p->now.k_part;
    if (index == 0 || !same_m || (!p->whole_k && !same_k))
        s.a_slot ^= 1;
    if (p->whole_k ? s.n_part == 0 : index == 0 || !same_m || !same_k)
        s.a_tasks = s.row_blocks; /* of all k the part that comes first */
    if (index == 0 || !same_k || s.n_part != p->now.n_part) {
        s.b_slot ^= 1;
        s.b_tasks = s.panels;
    }
    return s;
}

static void run_job(struct product *p, bool compute)
{
    int32_t row_groups = tn_ceil_div(p->now.row_blocks, GROUP_BLOCKS);
    p->pack_tasks = p->next.a_tasks + p->next.b_tasks;
    p->compute_tasks = compute ? row_groups * tn_ceil_div(p->now.panels, GROUP_PANELS) : 0;
    int32_t tasks = p->pack_tasks + p->compute_tasks;
    if ((double)p->g->M * p->g->N * p->g->K < SMALL_WORK)
        for (int32_t i = 0; i < tasks; i++)
            job_task(p, i, 0);
    else
        tn_pool_run(p->cpu->pool, tasks, job_task, p);
}

/* Floats of a slot for A and for B. */
static size_t a_floats(int32_t M, int32_t K)
{
    size_t m = (size_t)SP_MIN(M, M_MAX), whole = m * (size_t)K;
    if (whole > A_WHOLE)
        whole = SP_MAX(m * (size_t)SP_MIN(K, KC), (size_t)A_WHOLE);
    return tn_round_up(whole + 64, 64);
}

static size_t b_floats(const struct tn_kern *kern, int32_t N, int32_t K)
{
    size_t columns = tn_round_up((size_t)SP_MIN(N, NC), (size_t)kern->nr);
    return columns * (size_t)SP_MIN(K, KC) + 64;
}

size_t tn_gemm_scratch(const struct tn_cpu *cpu, int32_t max_rows, int32_t max_width)
{
    int32_t longest = SP_MAX(max_rows, max_width);
    size_t a = SP_MAX(a_floats(max_rows, max_width), a_floats(max_width, max_rows));
    return SP_MAX(2 * (a + b_floats(cpu->kern, max_width, longest)),
                  tn_packed_scratch(max_rows, max_width));
}

void tn_gemm_run(struct tn_cpu *cpu, const struct tn_gemm *g)
{
    if (g->M <= 0 || g->N <= 0)
        return;
    if (g->K <= 0) {
        if (!g->accumulate)
            memset(g->c, 0, (size_t)g->M * (size_t)g->N * sizeof(float));
        return;
    }
    struct product p = {.cpu = cpu,
                        .g = g,
                        .m_parts = tn_ceil_div(g->M, M_MAX),
                        .n_parts = tn_ceil_div(g->N, NC),
                        .k_parts = tn_ceil_div(g->K, KC)};
    p.whole_k = (size_t)tn_ceil_div(g->M, p.m_parts) * (size_t)g->K <= A_WHOLE;
    size_t a = a_floats(g->M, g->K), b = b_floats(cpu->kern, g->N, g->K);
    float *scratch = tn_shared_scratch(cpu, 2 * (a + b));
    for (size_t i = 0; i < 2; i++) {
        p.a[i] = scratch + i * a;
        p.b[i] = scratch + 2 * a + i * b;
    }
    int32_t steps = p.m_parts * p.n_parts * p.k_parts;
    p.next = step_at(&p, 0);
    run_job(&p, false);
    for (int32_t i = 1; i <= steps; i++) {
        p.now = p.next;
        p.next = i < steps ? step_at(&p, i) : (struct step){0};
        run_job(&p, true);
    }
}

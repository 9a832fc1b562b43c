/* The machine: blocks one after the other, the warps of a block in turn, each as far as its next
 * barrier. The lanes of a warp that stand at the same instruction are a group; the one that is
 * furthest behind goes first, so that groups meet again where their ways do. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/gpu/ptx_machine.h"

enum wait { WAIT_NONE, WAIT_BLOCK, WAIT_WARP };

static void set_constants(struct ptx_machine *m, struct ptx_warp *w)
{
    for (size_t i = 0; i < m->kernel->n_constants; i++) {
        const struct ptx_constant *c = &m->kernel->constants[i];
        uint8_t *to = w->file + c->place.at;
        for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
            uint32_t thread = w->number * PTX_LANES + lane;
            const uint64_t values[] = {
                [PTX_NUMBER] = c->number,
                [PTX_TID_X] = thread % m->launch->threads[0],
                [PTX_TID_Y] = thread / m->launch->threads[0],
                [PTX_NTID_X] = m->launch->threads[0],
                [PTX_NTID_Y] = m->launch->threads[1],
                [PTX_CTAID_X] = m->block[0],
                [PTX_CTAID_Y] = m->block[1],
                [PTX_NCTAID_X] = m->launch->blocks[0],
                [PTX_NCTAID_Y] = m->launch->blocks[1],
                [PTX_LANEID] = lane,
            };
            if (c->place.width == PTX_8)
                ((uint64_t *)to)[lane] = values[c->kind];
            else
                ((uint32_t *)to)[lane] = (uint32_t)values[c->kind];
        }
    }
}

void ptx_fault(struct ptx_machine *m, int lane, const char *format, ...)
{
    char text[256];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    uint32_t thread = ptx_thread(m, (uint32_t)lane);
    snprintf(m->fault, sizeof(m->fault), "%s (%s), block %u,%u, thread %u,%u: %s", m->kernel->name,
             m->kernel->ops[m->group->at].source, m->block[0], m->block[1],
             thread % m->launch->threads[0], thread / m->launch->threads[0], text);
    longjmp(m->out, 1);
}

/* --- groups --- */

static int first_lane(const struct ptx_machine *m)
{
    return __builtin_ctz(m->group->lanes);
}

static void merge_groups(struct ptx_warp *w)
{
    for (int i = 0; i < w->n_groups; i++)
        for (int j = w->n_groups; --j > i;)
            if (w->groups[i].at == w->groups[j].at) {
                w->groups[i].lanes |= w->groups[j].lanes;
                w->groups[i].wait = WAIT_NONE;
                w->groups[j] = w->groups[--w->n_groups];
            }
}

/* The group that is furthest behind of those that can go on, and where it meets the next. */
static struct ptx_group *next_group(struct ptx_warp *w, uint32_t *ret_limit)
{
    struct ptx_group *first = NULL;
    for (int i = 0; i < w->n_groups; i++)
        if (w->groups[i].wait == WAIT_NONE && (!first || w->groups[i].at < first->at))
            first = &w->groups[i];
    *ret_limit = UINT32_MAX;
    for (int i = 0; first && i < w->n_groups; i++)
        if (w->groups[i].at > first->at)
            *ret_limit = SP_MIN(*ret_limit, w->groups[i].at);
    return first;
}

static void remove_group(struct ptx_warp *w, struct ptx_group *g)
{
    *g = w->groups[--w->n_groups];
}

/* false: the group is where it was, or gone; another may be next. */
static bool branch(struct ptx_machine *m, const struct ptx_op *op, uint32_t lanes)
{
    struct ptx_warp *w = m->warp;
    struct ptx_group *g = m->group;
    if (lanes == 0) {
        g->at++;
        return true;
    }
    if (lanes == g->lanes) {
        g->at = op->target;
        return w->n_groups == 1;
    }
    w->groups[w->n_groups++] = (struct ptx_group){.at = op->target, .lanes = lanes};
    g->lanes &= ~lanes;
    g->at++;
    return false;
}

/* Whether the lanes that the instruction is for are all there; else they wait. */
static bool is_together(struct ptx_machine *m, uint32_t lanes)
{
    if (m->group->lanes == lanes)
        return true;
    if ((m->group->lanes & ~lanes) != 0)
        ptx_fault(m, first_lane(m), "lanes %08x in an instruction for %08x", m->group->lanes,
                  lanes);
    m->group->wait = WAIT_WARP;
    return false;
}

static void leave(struct ptx_machine *m, uint32_t lanes)
{
    PTX_EACH(lanes, lane)
    if (m->n_fetches[ptx_thread(m, lane)] > 0)
        ptx_fault(m, (int)lane, "ends with a copy by cp.async that it didn't wait for");
    m->warp->left |= lanes;
    m->group->lanes &= ~lanes;
}

/* Until the group meets another or waits. */
static void run_group(struct ptx_machine *m, uint32_t limit)
{
    struct ptx_warp *w = m->warp;
    struct ptx_group *g = m->group;
    while (g->at != limit) {
        struct ptx_op *op = &m->kernel->ops[g->at];
        uint32_t lanes = g->lanes;
        if (op->guard >= 0) {
            uint32_t set = *(const uint32_t *)(w->file + op->guard);
            lanes &= op->negated ? ~set : set;
        }
        op->times++;
        m->kernel->lane_ops += (uint64_t)__builtin_popcount(lanes);
        switch (op->code) {
        case PTX_BRA:
            if (!branch(m, op, lanes))
                return;
            continue;
        case PTX_RET:
            leave(m, lanes);
            if (g->lanes == 0) {
                remove_group(w, g);
                return;
            }
            break;
        case PTX_BAR:
            if (lanes != g->lanes)
                ptx_fault(m, 0, "a barrier with a condition");
            g->wait = WAIT_BLOCK;
            return;
        case PTX_BAR_WARP:
            if (!is_together(m, ptx_mask_of(m, op, 0)))
                return;
            w->part++;
            break;
        case PTX_SHFL:
            if (!is_together(m, ptx_mask_of(m, op, 5)))
                return;
            ptx_execute(m, op, lanes);
            break;
        case PTX_LDMATRIX:
        case PTX_LDMATRIX_TRANS:
        case PTX_MMA:
            if (!is_together(m, PTX_ALL))
                return;
            ptx_execute(m, op, lanes);
            break;
        default:
            ptx_execute(m, op, lanes);
        }
        g->at++;
    }
}

static void run_warp(struct ptx_machine *m, struct ptx_warp *w)
{
    uint32_t limit;
    m->warp = w;
    merge_groups(w);
    while ((m->group = next_group(w, &limit)) != NULL) {
        run_group(m, limit);
        merge_groups(w);
    }
    for (int i = 0; i < w->n_groups; i++) {
        m->group = &w->groups[i];
        if (m->group->wait == WAIT_WARP)
            ptx_fault(m, first_lane(m), "waits for lanes of its warp that don't come here");
    }
    if (w->n_groups > 1)
        ptx_fault(m, first_lane(m), "a barrier that threads of the warp reach at two places");
}

/* --- blocks --- */

/* All threads of the block wait at the same barrier: they go on. false: they have ended. */
static bool pass_barrier(struct ptx_machine *m)
{
    struct ptx_warp *waiting = NULL;
    uint32_t left = 0;
    for (uint32_t i = 0; i < m->n_warps; i++) {
        if (m->warps[i].n_groups > 0)
            waiting = &m->warps[i];
        left |= m->warps[i].left;
    }
    if (!waiting)
        return false;
    m->warp = waiting;
    m->group = waiting->groups;
    if (left != 0)
        ptx_fault(m, first_lane(m), "waits at a barrier for threads that have ended");
    for (uint32_t i = 0; i < m->n_warps; i++)
        if (m->warps[i].groups[0].at != m->group->at)
            ptx_fault(m, first_lane(m), "waits at a barrier, and a thread of warp %u at another",
                      i);
    m->ptx->phase++;
    SP_ASSERT(m->ptx->phase < UINT32_MAX);
    for (uint32_t i = 0; i < m->n_warps; i++) {
        m->warps[i].part = 0;
        m->warps[i].groups[0].wait = WAIT_NONE;
        m->warps[i].groups[0].at++;
    }
    return true;
}

static void start_block(struct ptx_machine *m)
{
    uint32_t threads = m->launch->threads[0] * m->launch->threads[1];
    m->block_phase = ++m->ptx->phase;
    memset(m->ptx->shared.written, 0, m->shared_bytes);
    memset(m->ptx->shared.memory, 0xff, m->shared_bytes); /* no numbers */
    memset(m->n_fetches, 0, sizeof(m->n_fetches));
    for (uint32_t i = 0; i < m->n_warps; i++) {
        struct ptx_warp *w = &m->warps[i];
        uint32_t there = SP_MIN(threads - i * PTX_LANES, (uint32_t)PTX_LANES);
        w->number = i;
        w->part = 0;
        w->left = 0;
        w->n_groups = 1;
        w->groups[0] = (struct ptx_group){
            .lanes = there == PTX_LANES ? PTX_ALL : (1u << there) - 1,
        };
        set_constants(m, w);
    }
}

static void run_block(struct ptx_machine *m)
{
    start_block(m);
    do
        for (uint32_t i = 0; i < m->n_warps; i++)
            run_warp(m, &m->warps[m->launch->backwards ? m->n_warps - 1 - i : i]);
    while (pass_barrier(m));
}

static struct ptx_kernel *kernel_of(struct ptx *ptx, const char *name)
{
    for (size_t i = 0; i < ptx->n_kernels; i++)
        if (strcmp(ptx->kernels[i].name, name) == 0)
            return &ptx->kernels[i];
    return NULL;
}

static void check_launch(struct ptx_machine *m)
{
    const struct ptx_launch *l = m->launch;
    uint32_t threads = l->threads[0] * l->threads[1];
    const char *what = NULL;
    if (l->args_bytes != m->kernel->param_bytes)
        what = "arguments of another size";
    else if (threads == 0 || threads > PTX_MAX_THREADS ||
             (m->kernel->max_threads && threads > m->kernel->max_threads))
        what = "too many threads";
    else if (m->shared_bytes > PTX_SHARED_BYTES ||
             (l->shared_bytes == 0 && m->kernel->shared_bytes > 48 << 10))
        what = "too much shared memory";
    if (!what)
        return;
    snprintf(m->fault, sizeof(m->fault), "%s: launched with %s", l->kernel, what);
    longjmp(m->out, 1);
}

static void run_blocks(struct ptx_machine *m)
{
    m->kernel->launches++;
    m->launch_phase = m->ptx->phase + 1;
    for (uint32_t y = 0; y < m->launch->blocks[1]; y++)
        for (uint32_t x = 0; x < m->launch->blocks[0]; x++) {
            m->block[0] = x;
            m->block[1] = y;
            run_block(m);
        }
}

static bool try_launch(struct ptx_machine *m)
{
    if (setjmp(m->out)) {
        ptx_region_forget(&m->ptx->shared); /* copies that nobody will wait for */
        return false;
    }
    check_launch(m);
    run_blocks(m);
    return true;
}

/* Registers and local memory are kept from launch to launch. */
static void need_registers(struct ptx_warp *w, const struct ptx_kernel *k)
{
    size_t local_bytes = (size_t)k->local_bytes * PTX_LANES;
    if (w->file_bytes < k->file_bytes) {
        sp_free_block(w->file);
        w->file = sp_alloc_block(k->file_bytes, 1);
        w->file_bytes = k->file_bytes;
    }
    if (w->local_bytes < local_bytes) {
        free(w->local);
        w->local = sp_xalloc(local_bytes);
        w->local_bytes = local_bytes;
    }
}

bool ptx_run(struct ptx *ptx, const struct ptx_launch *launch, const char **ret_fault)
{
    struct ptx_machine *m = ptx->machine;
    m->ptx = ptx;
    m->launch = launch;
    m->kernel = kernel_of(ptx, launch->kernel);
    *ret_fault = m->fault;
    snprintf(m->fault, sizeof(m->fault), "no kernel %s in the PTX", launch->kernel);
    if (!m->kernel)
        return false;
    m->n_warps = (launch->threads[0] * launch->threads[1] + PTX_LANES - 1) / PTX_LANES;
    m->n_warps = SP_MIN(m->n_warps, (uint32_t)PTX_MAX_WARPS);
    m->shared_bytes = m->kernel->shared_bytes + launch->shared_bytes;
    for (uint32_t i = 0; i < m->n_warps; i++)
        need_registers(&m->warps[i], m->kernel);
    return try_launch(m);
}

/* --- kernels --- */

static int by_name(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > 4 && strcmp(e->d_name + n - 4, ".ptx") == 0;
}

struct ptx *ptx_new(const char *folder)
{
    struct ptx *ptx = sp_xalloc(sizeof(*ptx));
    struct dirent **list;
    int n = scandir(folder, &list, by_name, alphasort);
    for (int i = 0; i < n; i++) {
        char *path = sp_xprintf("%s/%s", folder, list[i]->d_name);
        ptx_read_file(ptx, path);
        free(path);
        free(list[i]);
    }
    if (n <= 0) {
        fprintf(stderr, "no *.ptx in %s\n", folder);
        exit(2);
    }
    free(list);
    ptx->machine = sp_xalloc(sizeof(*ptx->machine));
    ptx->counts = getenv("SPIN_PTX_PROFILE") != NULL;
    ptx_region_new(&ptx->shared, sp_alloc_block(PTX_SHARED_BYTES, 1), PTX_SHARED_BYTES);
    return ptx;
}

void ptx_free(struct ptx *ptx)
{
    if (!ptx)
        return;
    if (ptx->counts)
        ptx_report(ptx, stderr);
    for (size_t i = 0; i < ptx->n_kernels; i++) {
        free(ptx->kernels[i].ops);
        free(ptx->kernels[i].constants);
    }
    for (size_t i = 0; i < ptx->n_regions; i++)
        ptx_region_end(&ptx->regions[i]);
    for (size_t i = 0; i < PTX_MAX_WARPS; i++) {
        sp_free_block(ptx->machine->warps[i].file);
        free(ptx->machine->warps[i].local);
    }
    free(ptx->machine);
    sp_free_block(ptx->shared.memory);
    ptx_region_end(&ptx->shared);
    for (size_t i = 0; i < ptx->n_sources; i++)
        free(ptx->sources[i]);
    free(ptx->sources);
    free(ptx->regions);
    free(ptx->kernels);
    free(ptx);
}

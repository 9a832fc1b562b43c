/* When blobs are collected, and what must not be touched meanwhile. */
#include <stdlib.h>

#include "coordinator/core_internal.h"

struct roots {
    struct sp_digest *list;
    uint32_t count;
};

static void add(struct roots *roots, const struct sp_digest *manifest)
{
    if (sp_digest_is_zero(manifest))
        return;
    if ((roots->count & (roots->count - 1)) == 0)
        roots->list = sp_xgrow(roots->list, roots->count ? 2 * (size_t)roots->count : 1,
                               sizeof(*roots->list));
    roots->list[roots->count++] = *manifest;
}

/* The weights of a lease, until its record is forgotten: a worker whose lease has lapsed may not
 * know it yet, and still be loading them. */
static void add_leases(const struct coord_core *core, struct roots *roots)
{
    for (uint32_t i = 0; i < core->lease_count; i++)
        add(roots, &core->leases[i]->manifest);
}

/* What the next iteration starts from, and what an iteration that may go on needs: a cancelled one
 * can be started again, a closed one is the newest until the next begins. */
static void add_runs(const struct coord_core *core, struct roots *roots)
{
    for (uint32_t i = 0; i < core->run_count; i++) {
        const struct coord_run *run = core->runs[i];
        const struct coord_iteration *it = run->iteration;
        add(roots, &run->info.base_manifest);
        add(roots, &run->accepted_manifest);
        if (!it)
            continue;
        add(roots, &it->opponent_manifest);
        add(roots, &it->checkpoint_manifest);
        add(roots, &it->upload);
    }
}

/* A trainer that was publishing before a restart may go on with its upload without a new begin:
 * which chunks are its is not known then. */
static bool unknown_upload(const struct coord_core *core)
{
    for (uint32_t i = 0; i < core->run_count; i++) {
        const struct coord_iteration *it = core->runs[i]->iteration;
        if (it && sp_digest_is_zero(&it->upload) &&
            (it->state == COORD_PUBLISHING ||
             (it->state == COORD_PAUSED && it->resume == COORD_PUBLISHING)))
            return true;
    }
    return false;
}

bool core_collect(struct coord_core *core, uint64_t handle, bool retain, bool dry_run)
{
    if (core->collecting || unknown_upload(core))
        return false;
    struct roots roots = {0};
    add_leases(core, &roots);
    add_runs(core, &roots);
    core->collecting = true;
    core->collect_at_ms = core->now_ms + core->options.times.collect_ms;
    struct coord_action *action = core_action(core, COORD_DO_COLLECT);
    action->handle = handle;
    action->roots = roots.list;
    action->root_count = roots.count;
    action->retain = retain;
    action->dry_run = dry_run;
    return true;
}

void core_collect_by_clock(struct coord_core *core)
{
    if (core->collect_at_ms == 0)
        core->collect_at_ms = core->now_ms + core->options.times.collect_ms;
    if (core->now_ms >= core->collect_at_ms)
        (void)core_collect(core, 0, false, false);
}

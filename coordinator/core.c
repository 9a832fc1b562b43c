#include "coordinator/core.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

struct coord_core *coord_core_new(const struct coord_options *options)
{
    struct coord_core *core = sp_xalloc(sizeof(*core));
    core->options = *options;
    core->fit_version = 1;
    if (core->options.max_parked == 0)
        core->options.max_parked = SP_MAX_PARKED_POLLS;
    if (core->options.max_claimed == 0)
        core->options.max_claimed = SP_MAX_CLAIMED_ITEMS;
    /* Ids of one process do not meet those of the one before: workers still name them. */
    core->next_id = (options->instance & 0x7fffff) << 32;
    core->sources.swarms = core_swarms_new(&core->options);
    return core;
}

static void run_free(struct coord_run *run)
{
    iteration_free(run->iteration);
    coord_run_info_deinit(&run->info);
    free(run->numerics_class);
    free(run);
}

void coord_core_free(struct coord_core *core)
{
    if (!core)
        return;
    for (uint32_t i = 0; i < core->run_count; i++)
        run_free(core->runs[i]);
    for (uint32_t i = 0; i < core->worker_count; i++)
        core_worker_free(core->workers[i]);
    for (uint32_t i = 0; i < core->lease_count; i++)
        lease_free(core->leases[i]);
    for (uint32_t i = 0; i < core->parked_count; i++) {
        free(core->parked[i].run);
        free(core->parked[i].runs);
    }
    for (size_t i = 0; i < core->write_by_id.capacity; i++) {
        if (core->write_by_id.keys[i] != 0)
            coord_write_free(core->write_by_id.values[i]);
    }
    coord_map_deinit(&core->worker_by_id);
    coord_map_deinit(&core->worker_by_name);
    sp_names_deinit(&core->names);
    coord_map_deinit(&core->lease_by_id);
    coord_map_deinit(&core->write_by_id);
    for (uint32_t i = 0; i < core->hold_count; i++) {
        free(core->holds[i].worker);
        free(core->holds[i].reason);
    }
    free(core->holds);
    free(core->runs);
    free(core->workers);
    free(core->leases);
    free(core->parked);
    coord_swarms_free(core->sources.swarms);
    free(core);
}

void coord_run_info_deinit(struct coord_run_info *info)
{
    sp_config_deinit(&run_settings_spec, &info->settings);
    free(info->name);
    free(info->settings_json);
    free(info->stop_ids);
    free(info->length_keys);
    for (int i = 0; i < COORD_GIVEN; i++)
        free(info->given[i]);
    free(info->parent);
    free(info->task);
    *info = (struct coord_run_info){0};
}

void coord_iteration_info_deinit(struct coord_iteration_info *info)
{
    free(info->reason);
    free(info->trainer);
    free(info->gap_order);
    free(info->verdict);
    *info = (struct coord_iteration_info){0};
}

void core_changed(struct coord_core *core)
{
    core->version++;
}

struct coord_run *core_run(const struct coord_core *core, const char *name)
{
    for (uint32_t i = 0; name && i < core->run_count; i++) {
        if (strcmp(core->runs[i]->info.name, name) == 0)
            return core->runs[i];
    }
    return NULL;
}

const struct coord_run_info *coord_find_run(const struct coord_core *core, const char *name)
{
    struct coord_run *run = core_run(core, name);
    return run ? &run->info : NULL;
}

bool core_may_touch(const char *runs, const char *run)
{
    if (!runs || runs[0] == '\0')
        return true;
    size_t length = strlen(run);
    for (const char *at = runs; *at;) {
        size_t word = strcspn(at, ", ");
        if (word == length && memcmp(at, run, word) == 0)
            return true;
        at += word;
        at += strspn(at, ", ");
    }
    return false;
}

const char *core_scope(const struct coord_run *run)
{
    return run->info.parent ? run->info.parent : run->info.name;
}

bool core_born_of(const struct coord_run *run, uint64_t born)
{
    return born == 0 || born == (uint64_t)run->info.created_ms;
}

void coord_core_add_run(struct coord_core *core, struct coord_run_info *info,
                        const struct sp_digest *accepted, const struct sp_digest *accepted_manifest,
                        uint32_t next_iteration, const char *numerics_class, int64_t now_ms)
{
    SP_ASSERT(!core_run(core, info->name));
    struct coord_run *run = sp_xalloc(sizeof(*run));
    run->info = *info;
    *info = (struct coord_run_info){0};
    run->accepted = *accepted;
    run->accepted_manifest = *accepted_manifest;
    run->next_iteration = next_iteration;
    run->numerics_class = sp_xstrdup(numerics_class);
    core->runs = sp_xgrow(core->runs, core->run_count + 1, sizeof(*core->runs));
    core->runs[core->run_count++] = run;
    core->now_ms = now_ms;
    core_changed(core);
}

void coord_core_set_priority(struct coord_core *core, const char *name, int32_t priority)
{
    struct coord_run *run = core_run(core, name);
    SP_ASSERT(run);
    run->priority = priority;
}

void coord_core_add_iteration(struct coord_core *core, const char *name,
                              const struct coord_iteration_info *info, int64_t now_ms)
{
    struct coord_run *run = core_run(core, name);
    SP_ASSERT(run && !run->iteration);
    run->iteration = iteration_new(run, info, now_ms);
    run->iteration->reclaim_until_ms = now_ms + core->options.times.reclaim_ms;
    run->evaluate_due = run->info.has_tasks;
    run->iteration->adoptable = info->trainer != NULL;
    if (info->trainer)
        run->iteration->adopt_until_ms =
            now_ms + core->options.times.renew_ms + core->options.times.reclaim_ms;
    core->work_changed = true;
}

enum sp_err coord_core_set_stored(struct coord_core *core, const char *name, enum proto_set set,
                                  uint32_t position, struct sp_error *err)
{
    struct coord_run *run = core_run(core, name);
    SP_ASSERT(run && run->iteration && (unsigned)set < COORD_SET_COUNT);
    struct coord_set *keys = &run->iteration->sets[set];
    if (position >= keys->count)
        return sp_fail(err, SP_ECORRUPT, "run %s: iteration %u: set %d has a result at %u of %u",
                       name, run->iteration->number, (int)set, position, keys->count);
    set_store(keys, position);
    return SP_OK;
}

void coord_core_set_owner(struct coord_core *core, const char *name, enum proto_set set,
                          uint32_t position, const char *worker)
{
    struct coord_run *run = core_run(core, name);
    SP_ASSERT(run && run->iteration && position < run->iteration->sets[set].count);
    /* Which results were being checked is not known after a restart: they are drawn anew. */
    verify_stored(core, run, set, position, core_name(core, worker));
}

void coord_core_set_skipped(struct coord_core *core, const char *name, uint32_t prompt)
{
    struct coord_run *run = core_run(core, name);
    SP_ASSERT(run && run->iteration);
    iteration_skip_prompt(run->iteration, prompt);
}

void coord_core_set_source_skipped(struct coord_core *core, const char *name, uint32_t prompt)
{
    struct coord_run *run = core_run(core, name);
    SP_ASSERT(run && run->iteration);
    iteration_skip_source(run->iteration, prompt);
}

/* What may follow from the event just handled, until nothing does. */
static void pump(struct coord_core *core)
{
    if (core->distrust)
        core_revoke_distrusted(core);
    for (uint32_t i = 0; i < core->run_count; i++)
        core_advance(core, core->runs[i]);
    if (core->work_changed) {
        core->work_changed = false;
        core_serve_parked(core);
    } else if (core->pairs_changed) {
        core_serve_fetches(core);
    }
    core->pairs_changed = false;
    if (core->sources.changed)
        core_serve_sources(core);
}

void coord_drain(struct coord_core *core, struct coord_actions *actions)
{
    core->out = actions;
    while (core->parked_count > 0) {
        core_reply_error(core, core->parked[0].handle, SP_EUNAVAIL,
                         (uint32_t)core->options.times.retry_after_ms,
                         "the coordinator is being restarted");
        core_unpark(core, 0);
    }
    core->out = NULL;
}

void coord_set_verify_share(struct coord_core *core, double share)
{
    double before = core->options.verify_share;
    core->options.verify_share = share;
    if (share > before)
        verify_draw_again(core);
}

void coord_set_disk_low(struct coord_core *core, bool low)
{
    core->disk_low = low;
}

static void pause_for_disk(struct coord_core *core, struct coord_run *run)
{
    struct coord_iteration *it = run->iteration;
    if (!it || it->pending || !coord_state_is_live(it->state))
        return;
    core_send(core, iteration_move(core, run, COORD_PAUSED, "coordinator",
                                   "the disk is nearly full: make room, then `spinctl resume`"));
}

static void tick(struct coord_core *core)
{
    const struct coord_times *times = &core->options.times;
    core->last_tick_ms = core->now_ms;
    core_expire_leases(core);
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_run *run = core->runs[i];
        struct coord_iteration *it = run->iteration;
        /* A request that was held may have been a trainer's that is gone: a grant that nobody takes
         * up ends sooner. */
        if (it && it->holder != 0 &&
            core->now_ms - it->holder_seen_ms >= (it->holder_heard ? times->trainer_lease_ms
                                                                   : times->confirm_ms))
            core_trainer_lost(core, run, "was not heard of in time");
        if (core->disk_low)
            pause_for_disk(core, run);
        run->evaluate_due = run->evaluate_due || run->evaluate_again;
        run->evaluate_again = false;
    }
    core_forget_workers(core);
    /* Stragglers, and grants that waited for a trainer to come back, become possible with time. */
    core->work_changed = core->sources.changed = true;
    pump(core);
    core_expire_parked(core);
    core_collect_by_clock(core);
}

static void request(struct coord_core *core, const struct coord_event *event)
{
    switch (event->type) {
    case PROTO_HELLO:
        return core_hello(core, event);
    case PROTO_LEASE:
        return core_lease_request(core, event);
    case PROTO_RENEW:
        return core_renew(core, event);
    case PROTO_LEASE_RETURN:
        return core_lease_return(core, event);
    case PROTO_SUBMIT:
        return core_submit(core, event);
    case PROTO_TRAINER_LEASE:
        return core_trainer_lease(core, event);
    case PROTO_TRAINER_RENEW:
        return core_trainer_renew(core, event);
    case PROTO_TRAINER_RELEASE:
        return core_trainer_release(core, event);
    case PROTO_PAIRS_FETCH:
        return core_pairs_fetch(core, event);
    case PROTO_STEPS_REPORT:
        return core_steps_report(core, event);
    case PROTO_REFS_SUBMIT:
        return core_refs_submit(core, event);
    case PROTO_PUBLISH_BEGIN:
        return core_publish_begin(core, event);
    case PROTO_PUBLISH_COMMIT:
        return core_publish_commit(core, event);
    case PROTO_BLOB_SOURCES:
        return core_blob_sources(core, event);
    case PROTO_ADMIN:
        return core_admin(core, event);
    default:
        core_reply_error(core, event->handle, SP_EUNSUPPORTED, 0, "%s is no request",
                         proto_type_name(event->type));
    }
}

void coord_step(struct coord_core *core, const struct coord_event *event, int64_t now_ms,
                struct coord_actions *actions)
{
    core->out = actions;
    if (now_ms > core->now_ms)
        core->now_ms = now_ms;
    switch (event->kind) {
    case COORD_EV_REQUEST:
        request(core, event);
        break;
    case COORD_EV_WRITTEN:
        core_written(core, event);
        break;
    case COORD_EV_TICK:
        tick(core);
        break;
    case COORD_EV_VERIFIED:
        core_verified(core, event);
        break;
    case COORD_EV_JUDGED:
        core_judged(core, event);
        break;
    case COORD_EV_ORDERED:
        core_ordered(core, event);
        break;
    case COORD_EV_COLLECTED:
        core->collecting = false;
        break;
    case COORD_EV_EVALUATED:
        core_evaluated(core, event);
        break;
    }
    pump(core);
    core->out = NULL;
}

uint64_t coord_version(const struct coord_core *core)
{
    return core->version;
}

enum coord_state coord_iteration_state(const struct coord_core *core, const char *name,
                                       uint32_t *ret_number, const char **ret_reason)
{
    struct coord_run *run = core_run(core, name);
    if (!run || !run->iteration) {
        *ret_number = 0;
        *ret_reason = "";
        return COORD_STATE_COUNT;
    }
    *ret_number = run->iteration->number;
    *ret_reason = run->iteration->reason ? run->iteration->reason : "";
    return run->iteration->state;
}

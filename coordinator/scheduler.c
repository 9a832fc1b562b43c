/* Scheduling: which work goes to which of the requests that wait for it. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

/* Sets in the order of their importance. */
static const enum proto_set by_importance[] = {
    PROTO_SET_TRAIN,        PROTO_SET_HOLDOUT,        PROTO_SET_BASE_GREEDY,
    PROTO_SET_BASE_SAMPLED, PROTO_SET_HOLDOUT_PLAYER, PROTO_SET_TRAINED,
    PROTO_SET_EVAL_GREEDY,  PROTO_SET_EVAL_SAMPLED,
};

/* ---- requests that wait ---- */

struct coord_parked *core_park(struct coord_core *core, enum coord_parked_kind kind,
                               uint64_t handle, uint32_t wait_ms)
{
    if (core->parked_count >= core->options.max_parked) {
        core_reply_error(core, handle, SP_EUNAVAIL, (uint32_t)core->options.times.retry_after_ms,
                         "%u requests wait already", core->parked_count);
        return NULL;
    }
    if (core->parked_count == core->parked_capacity) {
        core->parked_capacity = core->parked_capacity ? core->parked_capacity * 2 : 64;
        core->parked = sp_xgrow(core->parked, core->parked_capacity, sizeof(*core->parked));
    }
    struct coord_parked *parked = &core->parked[core->parked_count++];
    *parked = (struct coord_parked){.kind = kind, .handle = handle, .since_ms = core->now_ms};
    parked->deadline_ms = core->now_ms + SP_MIN((int64_t)wait_ms, core->options.times.poll_ms);
    return parked;
}

void core_unpark(struct coord_core *core, uint32_t index)
{
    free(core->parked[index].run);
    free(core->parked[index].runs);
    memmove(&core->parked[index], &core->parked[index + 1],
            (core->parked_count - index - 1) * sizeof(*core->parked));
    core->parked_count--;
}

static void answer_empty(struct coord_core *core, const struct coord_parked *parked)
{
    switch (parked->kind) {
    case PARKED_LEASE:
        core_reply(core, parked->handle, PROTO_LEASE_REPLY);
        break;
    case PARKED_TRAINER:
        core_reply(core, parked->handle, PROTO_TRAINER_LEASE_REPLY);
        break;
    case PARKED_FETCH:
        core_reply(core, parked->handle, PROTO_PAIRS_FETCH_REPLY);
        break;
    case PARKED_SOURCES:
        core_reply_no_source(core, parked->handle);
        break;
    case PARKED_STATUS:
        core_reply_json(core, parked->handle,
                        coord_status(core, parked->run, core->now_ms));
        break;
    }
}

void core_expire_parked(struct coord_core *core)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < core->parked_count; i++) {
        struct coord_parked *parked = &core->parked[i];
        bool changed = parked->kind == PARKED_STATUS && core->version > parked->start;
        if (parked->deadline_ms > core->now_ms && !changed) {
            core->parked[kept++] = *parked;
            continue;
        }
        answer_empty(core, parked);
        free(parked->run);
        free(parked->runs);
    }
    core->parked_count = kept;
}

/* ---- stragglers ---- */

static int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t median_lease_ms(struct coord_run *run)
{
    uint32_t n = SP_MIN(run->duration_count, (uint32_t)COORD_DURATIONS);
    if (run->median_ms == 0 && n > 0) {
        int64_t sorted[COORD_DURATIONS];
        memcpy(sorted, run->durations, n * sizeof(*sorted));
        qsort(sorted, n, sizeof(*sorted), compare_i64);
        run->median_ms = SP_MAX(sorted[n / 2], (int64_t)1);
    }
    return run->median_ms;
}

/* Whether the trainer has waited so long for a key that it is worth leasing it a second time. */
static bool straggler_due(const struct coord_core *core, struct coord_run *run)
{
    struct coord_iteration *it = run->iteration;
    if (!it->awaiting || it->sets[PROTO_SET_TRAIN].state[it->awaited] != KEY_LEASED)
        return false;
    int64_t median = median_lease_ms(run);
    int64_t patience = median > 0 ? SP_MAX(2 * median, core->options.times.straggler_floor_ms)
                                  : core->options.times.lease_ms;
    return core->now_ms - it->awaited_since_ms > patience;
}

static bool holds_key(const struct coord_worker *worker, const struct coord_run *run,
                      uint32_t position)
{
    for (const struct coord_lease *lease = worker->first_lease; lease; lease = lease->next) {
        if (lease->run != run || lease->set != PROTO_SET_TRAIN)
            continue;
        for (uint32_t k = 0; k < lease->count; k++) {
            if (lease->positions[k] == position)
                return true;
        }
    }
    return false;
}

/* ---- grants ---- */

static bool run_is_live(const struct coord_run *run)
{
    const struct coord_iteration *it = run->iteration;
    return it && !it->pending && coord_state_is_live(it->state);
}

static int set_with_work(const struct coord_run *run)
{
    const struct coord_iteration *it = run->iteration;
    for (size_t i = 0; i < SP_COUNT(by_importance); i++) {
        enum proto_set set = by_importance[i];
        if (iteration_set_ready(it, set) && set_free_keys(&it->sets[set]) > 0)
            return (int)set;
    }
    return -1;
}

static bool has_checks(const struct coord_run *run)
{
    for (int i = 0; i < COORD_SET_COUNT; i++) {
        if (run->iteration->sets[i].checks > 0)
            return true;
    }
    return false;
}

static bool run_has_work(const struct coord_core *core, struct coord_run *run)
{
    return run_is_live(run) && core->now_ms >= run->iteration->reclaim_until_ms &&
           (set_with_work(run) >= 0 || straggler_due(core, run) || has_checks(run));
}

static void send_grant(struct coord_core *core, const struct coord_lease *lease, uint64_t handle)
{
    struct coord_action *action = core_action(core, COORD_DO_GRANT);
    action->handle = handle;
    action->run = &lease->run->info;
    action->iteration = lease->iteration;
    action->lease_id = lease->id;
    action->lease_ms = (uint32_t)SP_MAX(lease->expires_ms - core->now_ms, (int64_t)1);
    action->set = lease->set;
    action->checkpoint = *iteration_set_weights(lease->run->iteration, lease->set);
    action->manifest = lease->manifest;
    action->positions = sp_xmemdup(lease->positions, lease->count * sizeof(*lease->positions));
    action->count = lease->count;
}

static struct coord_lease *lease_straggler(struct coord_core *core, struct coord_worker *worker,
                                           struct coord_run *run)
{
    struct coord_iteration *it = run->iteration;
    if (!straggler_due(core, run) || holds_key(worker, run, it->awaited))
        return NULL;
    set_take_second(&it->sets[PROTO_SET_TRAIN], it->awaited);
    struct coord_lease *lease = lease_new(core, worker, run, PROTO_SET_TRAIN, &it->awaited, 1);
    lease->unmeasured = true;
    core_log(core, SP_LOG_INFO, "run %s: position %u is leased a second time, to %s",
             run->info.name, it->awaited, worker->name);
    return lease;
}

static uint32_t held_keys(const struct coord_worker *worker, const struct coord_run *run,
                          enum proto_set set)
{
    uint32_t held = 0;
    for (const struct coord_lease *lease = worker->first_lease; lease; lease = lease->next) {
        if (lease->run == run && lease->set == set)
            held += lease->open;
    }
    return held;
}

/* As many items as surely fit into one message: prompt, human answer, other answer. */
static uint32_t items_of_a_message(const struct run_settings *settings)
{
    int64_t tokens = run_settings_prompt_limit(settings) + 2 * settings->max_sequence_tokens;
    int64_t items = (SP_MAX_MESSAGE - 65536) / (4 * tokens + 256);
    return items < 1 ? 1 : (uint32_t)SP_MIN(items, (int64_t)SP_MAX_LEASE_ITEMS);
}

static uint32_t *taken_pairs(struct coord_worker *worker, const struct coord_run *run)
{
    const struct coord_iteration *it = run->iteration;
    if (worker->taken_run != run || worker->taken_iteration != it->number ||
        worker->taken_attempt != it->attempt) {
        worker->taken_run = run;
        worker->taken_iteration = it->number;
        worker->taken_attempt = it->attempt;
        worker->taken = 0;
    }
    return &worker->taken;
}

/* How many training pairs a worker may take now. Workers load a new opponent at unlike speeds;
 * where the pairs of an iteration are few, the first would have them all before the last is ready.
 * So for a moment nobody takes more than an even share; ticks ask again when it is over. */
static uint32_t fair_allowance(const struct coord_core *core, struct coord_worker *worker,
                               const struct coord_run *run, uint32_t live)
{
    const struct coord_iteration *it = run->iteration;
    if (core->now_ms - SP_MAX(it->since_ms, it->reclaim_until_ms) >= core->options.times.fair_ms)
        return UINT32_MAX;
    uint32_t even = (it->sets[PROTO_SET_TRAIN].count + live - 1) / live;
    uint32_t taken = *taken_pairs(worker, run);
    return even > taken ? even - taken : 0;
}

static struct coord_lease *lease_next(struct coord_core *core, struct coord_worker *worker,
                                      struct coord_run *run, uint32_t max_items)
{
    int chosen = set_with_work(run);
    if (chosen < 0)
        return NULL;
    struct coord_set *set = &run->iteration->sets[chosen];
    uint32_t live = SP_MAX(core_live_generators(core, run), 1u);
    /* Who is first at the door does not take what the others would have had a moment later. */
    uint32_t open = set_free_keys(set) + set->leased;
    uint32_t fair = (open + live - 1) / live;
    uint32_t held = held_keys(worker, run, (enum proto_set)chosen);
    if (held >= fair)
        return NULL;
    uint32_t share = SP_MAX(set_free_keys(set) / (4 * live), 1u);
    uint32_t count = SP_MIN(SP_MIN(max_items, share), items_of_a_message(&run->info.settings));
    count = SP_MIN(count, fair - held);
    if (chosen == PROTO_SET_TRAIN) {
        count = SP_MIN(count, fair_allowance(core, worker, run, live));
        if (count == 0)
            return NULL;
        *taken_pairs(worker, run) += count;
    }
    uint32_t positions[SP_MAX_LEASE_ITEMS];
    for (uint32_t i = 0; i < count; i++)
        positions[i] = set_take_next(set);
    /* Among its own keys the worker cannot tell which ones were made before. */
    if (count > 1)
        count += verify_take(core, run, (enum proto_set)chosen, worker,
                             SP_MIN(count, (uint32_t)SP_MAX_LEASE_ITEMS - count),
                             positions + count);
    return lease_new(core, worker, run, (enum proto_set)chosen, positions, count);
}

/* Checks of what others have made, when nothing else is left to do. */
static struct coord_lease *lease_checks(struct coord_core *core, struct coord_worker *worker,
                                        struct coord_run *run, uint32_t max_items)
{
    int set = verify_set_for(core, run, worker);
    if (set < 0)
        return NULL;
    uint32_t positions[SP_MAX_LEASE_ITEMS];
    uint32_t max = SP_MIN(max_items, items_of_a_message(&run->info.settings));
    uint32_t count = verify_take(core, run, (enum proto_set)set, worker, max, positions);
    return count > 0 ? lease_new(core, worker, run, (enum proto_set)set, positions, count) : NULL;
}

static bool is_better(const struct coord_run *run, const struct coord_run *best, const char *mine)
{
    if (!best || run->priority != best->priority)
        return !best || run->priority > best->priority;
    bool stays = mine && strcmp(mine, best->info.name) == 0;
    bool comes = mine && strcmp(mine, run->info.name) == 0;
    return comes || (!stays && run->last_grant < best->last_grant);
}

/* Of the runs of the highest priority that have work: the one that the worker is with, else the one
 * that waited longest. */
static struct coord_run *choose_run(struct coord_core *core, const struct coord_worker *worker,
                                    const struct coord_parked *parked)
{
    const char *mine = parked->run && parked->run[0] ? parked->run : NULL;
    struct coord_run *best = NULL;
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_run *run = core->runs[i];
        if (run_has_work(core, run) && is_better(run, best, mine) &&
            core_may_touch(parked->runs, core_scope(run)) && core_worker_may_fit(run, worker))
            best = run;
    }
    /* While its class is being written nothing of a lower priority takes its place. */
    return best && core_claim_class(core, best, worker) ? best : NULL;
}

static bool try_grant(struct coord_core *core, const struct coord_parked *parked)
{
    struct coord_worker *worker = core_worker(core, parked->worker_id);
    if (!worker) {
        core_reply_error(core, parked->handle, SP_ESTALE, 0, "unknown worker: say hello again");
        return true;
    }
    if (core_is_held(core, worker))
        return false;
    struct coord_run *run = choose_run(core, worker, parked);
    if (!run)
        return false;
    struct coord_lease *lease = lease_straggler(core, worker, run);
    if (!lease)
        lease = lease_next(core, worker, run, parked->max_items);
    if (!lease)
        lease = lease_checks(core, worker, run, parked->max_items);
    if (!lease)
        return false;
    run->last_grant = ++core->grants;
    worker->last_request = parked->request_id;
    worker->last_lease = lease->id;
    send_grant(core, lease, parked->handle);
    core_changed(core);
    return true;
}

static bool any_work(struct coord_core *core)
{
    for (uint32_t i = 0; i < core->run_count; i++) {
        if (run_has_work(core, core->runs[i]))
            return true;
    }
    return false;
}

void core_serve_parked(struct coord_core *core)
{
    bool work = any_work(core);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < core->parked_count; i++) {
        struct coord_parked parked = core->parked[i];
        bool answered = false;
        if (parked.kind == PARKED_LEASE && work) {
            answered = try_grant(core, &parked);
            if (answered)
                work = any_work(core);
        } else if (parked.kind == PARKED_TRAINER) {
            struct coord_worker *worker = core_worker(core, parked.worker_id);
            answered = worker && core_try_grant_trainer(core, worker, parked.runs,
                                                        parked.request_id, parked.handle);
        } else if (parked.kind == PARKED_FETCH) {
            answered = core_try_fetch(core, &parked);
        }
        if (!answered) {
            core->parked[kept++] = parked;
            continue;
        }
        free(parked.run);
        free(parked.runs);
    }
    core->parked_count = kept;
}

void core_serve_fetches(struct coord_core *core)
{
    for (uint32_t i = 0; i < core->parked_count;) {
        struct coord_parked parked = core->parked[i];
        if (parked.kind == PARKED_FETCH && core_try_fetch(core, &parked))
            core_unpark(core, i);
        else
            i++;
    }
}

void core_serve_worker(struct coord_core *core, uint64_t worker_id)
{
    for (uint32_t i = 0; i < core->parked_count; i++) {
        struct coord_parked parked = core->parked[i];
        if (parked.kind != PARKED_LEASE || parked.worker_id != worker_id)
            continue;
        if (try_grant(core, &parked))
            core_unpark(core, i);
        return;
    }
}

/* A worker asks one thing at a time: what it asked before has lost its connection. */
static void drop_older_poll(struct coord_core *core, uint64_t worker_id)
{
    for (uint32_t i = 0; i < core->parked_count; i++) {
        if (core->parked[i].kind == PARKED_LEASE && core->parked[i].worker_id == worker_id) {
            answer_empty(core, &core->parked[i]);
            core_unpark(core, i);
            return;
        }
    }
}

void core_lease_request(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_lease *ask = event->body;
    struct coord_worker *worker = core_asker(core, event, ask->worker_id, PROTO_ROLE_GENERATOR);
    if (!worker)
        return;
    if (ask->max_items == 0 || ask->request_id == 0) {
        core_reply_error(core, event->handle, SP_EINVAL, 0,
                         "lease: max_items and request_id must be above 0");
        return;
    }
    struct coord_lease *before = core_lease(core, worker->last_lease);
    if (ask->request_id == worker->last_request && before && !before->lapsed) {
        send_grant(core, before, event->handle);
        return;
    }
    drop_older_poll(core, worker->id);
    /* Before it takes a place: those who wait without work to have keep nobody from theirs. */
    struct coord_parked now = {.kind = PARKED_LEASE,
                               .handle = event->handle,
                               .worker_id = worker->id,
                               .request_id = ask->request_id,
                               .run = (char *)(uintptr_t)ask->run,
                               .runs = (char *)(uintptr_t)event->who.runs,
                               .max_items = ask->max_items};
    if (try_grant(core, &now))
        return;
    struct coord_parked *parked = core_park(core, PARKED_LEASE, event->handle, ask->wait_ms);
    if (!parked)
        return;
    parked->worker_id = worker->id;
    parked->request_id = ask->request_id;
    parked->max_items = ask->max_items;
    parked->run = sp_xstrdup(ask->run);
    parked->runs = event->who.runs ? sp_xstrdup(event->who.runs) : NULL;
}

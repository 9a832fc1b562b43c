/* Leases: who works on which keys, until when. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

#define REASON_FAILURE 256 /* bytes of what a worker says is wrong */

struct coord_lease *core_lease(const struct coord_core *core, uint64_t id)
{
    return coord_map_get(&core->lease_by_id, id);
}

static struct coord_lease *enter(struct coord_core *core, uint64_t id, struct coord_worker *worker,
                                 struct coord_run *run, enum proto_set set,
                                 const uint32_t *positions, uint32_t count)
{
    struct coord_lease *lease = sp_xalloc(sizeof(*lease));
    lease->id = id;
    lease->worker = worker;
    lease->run = run;
    lease->iteration = run->iteration->number;
    lease->attempt = run->iteration->attempt;
    lease->set = set;
    lease->manifest = iteration_set_uses_opponent(set) ? run->iteration->opponent_manifest
                                                       : run->iteration->checkpoint_manifest;
    lease->granted_ms = core->now_ms;
    lease->expires_ms = core->now_ms + core->options.times.lease_ms;
    lease->confirm_by_ms = core->now_ms + core->options.times.confirm_ms;
    lease->count = lease->open = count;
    lease->positions = sp_xmemdup(positions, count * sizeof(*positions));
    lease->done = sp_xalloc(count);
    lease->checks = sp_xalloc(count);
    for (uint32_t i = 0; i < count; i++)
        lease->checks[i] = run->iteration->sets[set].state[positions[i]] == KEY_STORED;
    core->leases = sp_xgrow(core->leases, core->lease_count + 1, sizeof(*core->leases));
    lease->place = core->lease_count;
    core->leases[core->lease_count++] = lease;
    coord_map_put(&core->lease_by_id, lease->id, lease);
    worker->leases++;
    lease->next = worker->first_lease;
    if (lease->next)
        lease->next->previous = lease;
    worker->first_lease = lease;
    return lease;
}

struct coord_lease *lease_new(struct coord_core *core, struct coord_worker *worker,
                              struct coord_run *run, enum proto_set set, const uint32_t *positions,
                              uint32_t count)
{
    return enter(core, ++core->next_id, worker, run, set, positions, count);
}

struct coord_lease *lease_claimed(struct coord_core *core, struct coord_worker *worker,
                                  struct coord_run *run, const struct proto_claim *claim,
                                  const uint32_t *positions, uint32_t count)
{
    struct coord_lease *lease =
        enter(core, claim->lease_id, worker, run, (enum proto_set)claim->set, positions, count);
    lease->confirm_by_ms = COORD_NEVER;
    lease->unmeasured = true;
    return lease;
}

void lease_free(struct coord_lease *lease)
{
    free(lease->positions);
    free(lease->done);
    free(lease->checks);
    free(lease);
}

/* Removes the record. */
static void forget(struct coord_core *core, struct coord_lease *lease)
{
    coord_map_remove(&core->lease_by_id, lease->id);
    core->leases[lease->place] = core->leases[--core->lease_count];
    core->leases[lease->place]->place = lease->place;
    lease_free(lease);
}

static void leave_worker(struct coord_core *core, struct coord_lease *lease)
{
    struct coord_worker *worker = lease->worker;
    if (!worker)
        return;
    if (lease->previous)
        lease->previous->next = lease->next;
    else
        worker->first_lease = lease->next;
    if (lease->next)
        lease->next->previous = lease->previous;
    lease->next = lease->previous = NULL;
    if (--worker->leases == 0)
        worker->idle_since_ms = core->now_ms;
}

/* The iteration that the lease belongs to, unless it has been started afresh or is over. */
static struct coord_iteration *iteration_of(const struct coord_lease *lease)
{
    struct coord_iteration *it = lease->run->iteration;
    if (!it || it->number != lease->iteration || it->attempt != lease->attempt)
        return NULL;
    return it;
}

/* A prompt whose workers die, one after the other, or that the weights cannot answer (failure says
 * why, else it is empty), stops the iteration until somebody looks. */
static void pause_for(struct coord_core *core, struct coord_run *run, enum proto_set set,
                      uint32_t position, const char *failure)
{
    struct coord_iteration *it = run->iteration;
    if (it->pending || !coord_transition_allowed(it->state, COORD_PAUSED))
        return;
    char reason[512], how[REASON_FAILURE + 32];
    if (failure[0])
        snprintf(how, sizeof(how), "came back %d times (%s)", COORD_MAX_DEATHS, failure);
    else
        snprintf(how, sizeof(how), "died %d times", COORD_MAX_DEATHS);
    if (set == PROTO_SET_TRAIN) {
        struct plan_key key;
        plan_key_at(&it->plan, position, &key);
        snprintf(reason, sizeof(reason),
                 "leases with prompt %u %s: `spinctl skip %s %u`, or `spinctl resume %s`",
                 key.prompt, how, run->info.name, key.prompt, run->info.name);
    } else {
        snprintf(reason, sizeof(reason),
                 "leases with prompt %u of set %d %s: `spinctl resume %s` tries again", position,
                 (int)set, how, run->info.name);
    }
    it->sets[set].deaths[position] = 0;
    core_send(core, iteration_move(core, run, COORD_PAUSED, "coordinator", reason));
}

static void lapse(struct coord_core *core, struct coord_lease *lease, bool died, const char *why,
                  const char *failure)
{
    struct coord_iteration *it = iteration_of(lease);
    lease->lapsed = true;
    lease->forget_ms = core->now_ms + core->options.times.lapsed_keep_ms;
    leave_worker(core, lease);
    core_log(core, died ? SP_LOG_WARN : SP_LOG_DEBUG, "run %s: lease %llu of %s %s: %u of %u keys",
             lease->run->info.name, (unsigned long long)lease->id,
             lease->worker ? lease->worker->name : "?", why, lease->open, lease->count);
    core->work_changed = true;
    core_changed(core);
    if (!it)
        return;
    struct coord_set *set = &it->sets[lease->set];
    for (uint32_t i = 0; i < lease->count; i++) {
        uint32_t position = lease->positions[i];
        if (lease->done[i])
            continue;
        if (lease->checks[i]) {
            verify_release(it, lease->set, position);
            continue;
        }
        set_release(set, position);
        if (died && set->state[position] != KEY_STORED &&
            ++set->deaths[position] >= COORD_MAX_DEATHS)
            pause_for(core, lease->run, lease->set, position, failure);
    }
}

void lease_lapse(struct coord_core *core, struct coord_lease *lease, bool died, const char *why)
{
    lapse(core, lease, died, why, "");
}

void lease_note_stored(struct coord_core *core, struct coord_lease *lease, uint32_t position)
{
    for (uint32_t i = 0; i < lease->count; i++) {
        if (lease->positions[i] != position || lease->done[i])
            continue;
        lease->done[i] = 1;
        lease->open--;
        break;
    }
    if (lease->open > 0 || lease->lapsed)
        return;
    struct coord_run *run = lease->run;
    if (!lease->unmeasured) {
        run->durations[run->duration_count++ % COORD_DURATIONS] = core->now_ms - lease->granted_ms;
        run->median_ms = 0; /* computed again when it is asked for */
    }
    leave_worker(core, lease);
    forget(core, lease);
}

void leases_drop_run(struct coord_core *core, struct coord_run *run)
{
    for (uint32_t i = 0; i < core->lease_count; i++) {
        struct coord_lease *lease = core->leases[i];
        if (lease->run == run && !lease->lapsed)
            lease_lapse(core, lease, false, "is not wanted any more");
    }
}

static bool heard_of_since(const struct coord_lease *lease)
{
    const struct coord_worker *worker = lease->worker;
    return worker && worker->seen_ms > lease->granted_ms && worker->hello_ms <= lease->granted_ms;
}

void core_expire_leases(struct coord_core *core)
{
    for (uint32_t i = 0; i < core->lease_count;) {
        struct coord_lease *lease = core->leases[i];
        if (lease->lapsed) {
            if (lease->forget_ms <= core->now_ms) {
                forget(core, lease);
                continue;
            }
        } else if (lease->expires_ms <= core->now_ms) {
            lease_lapse(core, lease, true, "died");
        } else if (lease->confirm_by_ms <= core->now_ms) {
            /* A live worker that does not know of it never got the grant. */
            lease_lapse(core, lease, !heard_of_since(lease), "was never confirmed");
        }
        i++;
    }
}

struct coord_lease *lease_mark(const struct coord_core *core, const struct coord_worker *worker,
                               uint64_t id)
{
    struct coord_lease *lease = core_lease(core, id);
    if (!lease || lease->lapsed || lease->worker != worker)
        return NULL;
    lease->listed = core->lists;
    return lease;
}

void core_renew(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_renew *renew = event->body;
    struct coord_worker *worker = core_asker(core, event, renew->worker_id, PROTO_ROLE_GENERATOR);
    if (!worker)
        return;
    if (renew->leases.count > SP_MAX_LISTED_LEASES) {
        core_reply_error(core, event->handle, SP_ELIMIT, 0, "renew: %u leases, at most %d",
                         renew->leases.count, SP_MAX_LISTED_LEASES);
        return;
    }
    worker->tokens_generated = renew->tokens_generated;
    worker->tokens_scored = renew->tokens_scored;
    worker->tokens_per_s = renew->tokens_per_s;
    core_note_usage(worker, renew->memory_used, renew->memory_total, renew->busy);
    free(worker->activity);
    worker->activity = core_clip(renew->activity, 255);
    struct coord_action *action = core_reply(core, event->handle, PROTO_RENEW_REPLY);
    uint64_t *ids = sp_xarray(renew->leases.count, sizeof(*ids));
    uint32_t lost = 0;
    core->lists++;
    for (uint32_t i = 0; i < renew->leases.count; i++) {
        struct coord_lease *lease = lease_mark(core, worker, renew->leases.values[i]);
        if (!lease) {
            ids[lost++] = renew->leases.values[i];
            continue;
        }
        lease->expires_ms = core->now_ms + core->options.times.lease_ms;
        lease->confirm_by_ms = COORD_NEVER;
        lease->unlisted = 0;
    }
    action->ids = ids;
    action->body.renew.lost = (struct proto_u64s){.values = ids, .count = lost};
    /* A lease that it knew of and does not name any more is dropped; one renewal may have been on
     * its way when the lease was granted. */
    struct coord_lease *next;
    for (struct coord_lease *lease = worker->first_lease; lease; lease = next) {
        next = lease->next;
        if (lease->confirm_by_ms != COORD_NEVER || lease->listed == core->lists)
            continue;
        if (++lease->unlisted >= 2)
            lease_lapse(core, lease, false, "was dropped by its worker");
    }
    core_changed(core);
}

void core_lease_return(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_lease_return *back = event->body;
    struct coord_worker *worker = core_asker(core, event, back->worker_id, PROTO_ROLE_GENERATOR);
    if (!worker)
        return;
    uint32_t returned = 0;
    char *failure = core_clip(back->failure ? back->failure : "", REASON_FAILURE);
    for (uint32_t i = 0; i < back->leases.count; i++) {
        struct coord_lease *lease = core_lease(core, back->leases.values[i]);
        if (!lease || lease->lapsed || lease->worker != worker)
            continue;
        returned += lease->open;
        lapse(core, lease, failure[0] != '\0', "was returned", failure);
    }
    free(failure);
    core_reply(core, event->handle, PROTO_LEASE_RETURN_REPLY)->body.lease_return.returned =
        returned;
}

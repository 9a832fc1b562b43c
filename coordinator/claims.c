/* Claims: leases that outlive the coordinator's process. They live in memory only, so a worker that
 * says hello to a new process tells what its leases are about, and goes on where it was. Nothing
 * that it says is trusted further than a request for work of its own would go: the run, the
 * iteration and the weights must be those that its token and its numerics class get work of, and a
 * key that is stored or that somebody else has is not taken. */
#include "coordinator/core_internal.h"

/* An id that a process before this one has given. */
static bool is_foreign(const struct coord_core *core, uint64_t id)
{
    return id != 0 && id >> 32 != core->next_id >> 32 && !core_lease(core, id);
}

/* The run that it is about, if the worker may take it up. */
static struct coord_run *run_of(const struct coord_core *core, const struct coord_worker *worker,
                                const struct coord_event *event, const struct proto_claim *claim)
{
    struct coord_run *run = core_run(core, claim->run);
    struct coord_iteration *it = run ? run->iteration : NULL;
    if (!it || core->now_ms >= it->reclaim_until_ms || it->number != claim->iteration ||
        !core_born_of(run, claim->born) || claim->set >= COORD_SET_COUNT ||
        !iteration_set_wanted(it, (enum proto_set)claim->set))
        return NULL;
    const struct sp_digest *weights = iteration_set_weights(it, (enum proto_set)claim->set);
    bool fits = sp_digest_equal(&claim->checkpoint, weights) && core_worker_fits(run, worker) &&
                core_may_touch(event->who.runs, core_scope(run));
    return fits ? run : NULL;
}

/* Takes at most `most` keys; how many. */
static uint32_t take(struct coord_core *core, struct coord_worker *worker, struct coord_run *run,
                     const struct proto_claim *claim, uint32_t most)
{
    struct coord_set *set = &run->iteration->sets[claim->set];
    uint32_t positions[SP_MAX_LEASE_ITEMS];
    uint32_t count = 0;
    most = SP_MIN(most, (uint32_t)SP_MAX_LEASE_ITEMS);
    for (uint32_t i = 0; i < claim->positions.count && count < most; i++) {
        uint64_t position = claim->positions.values[i];
        if (position < set->count && set_take(set, (uint32_t)position))
            positions[count++] = (uint32_t)position;
    }
    if (count > 0)
        lease_claimed(core, worker, run, claim, positions, count);
    return count;
}

void core_take_claims(struct coord_core *core, struct coord_worker *worker,
                      const struct coord_event *event)
{
    const struct proto_hello *hello = event->body;
    const struct coord_hold *hold = core_hold(core, worker->name);
    if (worker->role != PROTO_ROLE_GENERATOR || (hold && hold->kind == STORE_HOLD_QUARANTINED))
        return;
    uint32_t held = 0, most = core->options.max_claimed;
    for (const struct coord_lease *lease = worker->first_lease; lease; lease = lease->next)
        held += lease->open;
    /* A claim is about one item at least: more of them than items are not even looked at. */
    for (uint32_t i = 0; i < SP_MIN(hello->claims_count, most) && held < most; i++) {
        const struct proto_claim *claim = &hello->claims[i];
        struct coord_run *run = run_of(core, worker, event, claim);
        if (run && is_foreign(core, claim->lease_id))
            held += take(core, worker, run, claim, most - held);
    }
}

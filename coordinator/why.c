/* `why RUN`: what the run waits for, since when, on whom. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"


static void add(json_t *list, int64_t for_ms, const char *on, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void add(json_t *list, int64_t for_ms, const char *on, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    char *whole = core_clip(text, sizeof(text)); /* no half character at its end */
    json_array_append_new(list, json_pack("{s:s,s:I,s:s}", "waits_for", whole, "for_ms",
                                          (json_int_t)for_ms, "on", on));
    free(whole);
}

/* Workers of a role that are alive, split by whether their numerics class is the run's. */
static void count_workers(const struct coord_core *core, const struct coord_run *run,
                          enum proto_role role, uint32_t *ret_fit, uint32_t *ret_misfit)
{
    *ret_fit = *ret_misfit = 0;
    for (uint32_t i = 0; i < core->worker_count; i++) {
        const struct coord_worker *worker = core->workers[i];
        if (worker->role != role ||
            core->now_ms - worker->seen_ms >= core->options.times.worker_gone_ms)
            continue;
        if (core_worker_may_fit(run, worker))
            (*ret_fit)++;
        else
            (*ret_misfit)++;
    }
}

/* Of those that were there: the one heard of last, or NULL. */
static const struct coord_worker *last_heard_of(const struct coord_core *core, enum proto_role role)
{
    const struct coord_worker *last = NULL;
    for (uint32_t i = 0; i < core->worker_count; i++) {
        const struct coord_worker *worker = core->workers[i];
        if (worker->role == role && (!last || worker->seen_ms > last->seen_ms))
            last = worker;
    }
    return last;
}

static void missing_workers(const struct coord_core *core, const struct coord_run *run,
                            enum proto_role role, const char *what, json_t *list)
{
    uint32_t fit, misfit;
    count_workers(core, run, role, &fit, &misfit);
    int64_t since = core->now_ms - run->iteration->since_ms;
    if (fit > 0)
        return;
    const struct coord_worker *last = last_heard_of(core, role);
    if (misfit > 0)
        add(list, since, what,
            "a %s of backend %s, numerics class \"%s\": %u of others are there, which would give "
            "other bits",
            what, run->info.settings.backend, run->numerics_class, misfit);
    else if (last)
        add(list, core->now_ms - last->seen_ms, what,
            "a %s: none is there; %s was the last to be heard of", what, last->name);
    else
        add(list, since, what, "a %s: none has said hello", what);
}

static void disputes(const struct coord_core *core, const struct coord_run *run, json_t *list)
{
    const struct coord_iteration *it = run->iteration;
    for (uint32_t i = 0; i < it->dispute_count && i < 10; i++) {
        const struct coord_dispute *dispute = &it->disputes[i];
        uint32_t owner = it->sets[dispute->set].owner[dispute->position];
        add(list, core->now_ms - it->since_ms, "generator",
            "a third generator: at position %u of set %d the bits of %s and %s differ; or "
            "`spinctl quarantine` one of them",
            dispute->position, (int)dispute->set, owner ? core->names.texts[owner - 1] : "?",
            core->names.texts[dispute->other - 1]);
    }
    for (uint32_t i = 0; i < core->hold_count; i++)
        add(list, 0, core->holds[i].worker, "%s: `spinctl uncordon %s` (%s)",
            core->holds[i].kind == STORE_HOLD_CORDONED ? "a cordoned worker"
                                                       : "a quarantined worker",
            core->holds[i].worker, core->holds[i].reason);
}

static void leased_keys(const struct coord_core *core, const struct coord_run *run, json_t *list)
{
    for (uint32_t i = 0; i < core->lease_count; i++) {
        const struct coord_lease *lease = core->leases[i];
        if (lease->run != run || lease->lapsed)
            continue;
        const char *name = lease->worker ? lease->worker->name : "?";
        add(list, core->now_ms - lease->granted_ms, name,
            "%u of %u results that %s has leased; it was heard of %.1f s ago", lease->open,
            lease->count, name,
            lease->worker ? (double)(core->now_ms - lease->worker->seen_ms) / 1000.0 : 0.0);
    }
}

static void why_running(const struct coord_core *core, const struct coord_run *run, json_t *list)
{
    const struct coord_iteration *it = run->iteration;
    const struct coord_set *train = &it->sets[PROTO_SET_TRAIN];
    const struct coord_worker *trainer = core_worker(core, it->holder);
    if (!set_complete(train))
        missing_workers(core, run, PROTO_ROLE_GENERATOR, "generator", list);
    missing_workers(core, run, PROTO_ROLE_TRAINER, "trainer", list);
    if (!trainer && it->adoptable && core->now_ms < it->adopt_until_ms)
        add(list, core->now_ms - it->since_ms, it->holder_name ? it->holder_name : "trainer",
            "its trainer to come back: another one may take the run in %.1f s",
            (double)(it->adopt_until_ms - core->now_ms) / 1000.0);
    if (trainer)
        add(list, core->now_ms - it->holder_seen_ms, trainer->name,
            "training: step %llu of %llu; trainer: %s", (unsigned long long)it->step,
            (unsigned long long)it->steps_total,
            it->trainer_activity ? it->trainer_activity : "nothing said yet");
    if (it->awaiting) {
        struct plan_key key;
        plan_key_at(&it->plan, it->awaited, &key);
        add(list, core->now_ms - it->awaited_since_ms, "generator",
            "the pair of prompt %u, sample %u (position %u), which the trainer needs next",
            key.prompt, key.sample, it->awaited);
    }
    if (it->ordering)
        add(list, core->now_ms - it->since_ms, "coordinator", "the order by gap");
    disputes(core, run, list);
    leased_keys(core, run, list);
}

static void why_evaluating(const struct coord_core *core, const struct coord_run *run, json_t *list)
{
    const struct coord_iteration *it = run->iteration;
    if (it->judging) {
        add(list, core->now_ms - it->since_ms, "coordinator", "the verdict to be computed");
        return;
    }
    uint32_t open = 0;
    for (int i = 0; i < COORD_SET_COUNT; i++)
        open += it->sets[i].count - it->sets[i].stored - it->sets[i].skipped;
    add(list, core->now_ms - it->since_ms, "generator", "%u evaluation results", open);
    missing_workers(core, run, PROTO_ROLE_GENERATOR, "generator", list);
    disputes(core, run, list);
    leased_keys(core, run, list);
}

json_t *core_why(const struct coord_core *core, const struct coord_run *run)
{
    const struct coord_iteration *it = run->iteration;
    json_t *list = json_array();
    if (!it) {
        add(list, 0, "administrator", "its first iteration: `spinctl start-iteration %s`",
            run->info.name);
        return json_pack("{s:s,s:n,s:n,s:o}", "run", run->info.name, "iteration", "state", "why",
                         list);
    }
    int64_t since = core->now_ms - it->since_ms;
    switch (it->state) {
    case COORD_PLANNED:
        add(list, since, "coordinator", "the plan to be written");
        break;
    case COORD_RUNNING:
        why_running(core, run, list);
        break;
    case COORD_PUBLISHING:
        why_running(core, run, list);
        add(list, since, "trainer", it->verifying ? "the checkpoint to be verified"
                                                  : "the checkpoint to be uploaded");
        break;
    case COORD_EVALUATING:
        why_evaluating(core, run, list);
        break;
    case COORD_CLOSED:
        add(list, since, "administrator", "the next iteration: `spinctl start-iteration %s`",
            run->info.name);
        break;
    case COORD_PAUSED:
        add(list, since, "administrator", "`spinctl resume %s`; paused: %s", run->info.name,
            it->reason ? it->reason : "");
        break;
    case COORD_FAILED:
        add(list, since, "administrator", "`spinctl retry %s`; failed: %s", run->info.name,
            it->reason ? it->reason : "");
        break;
    case COORD_CANCELLED:
        add(list, since, "administrator", "`spinctl start %s`; cancelled: %s", run->info.name,
            it->reason ? it->reason : "");
        break;
    case COORD_STATE_COUNT:
        break;
    }
    if (coord_state_is_live(it->state) && core->now_ms < it->reclaim_until_ms)
        add(list, since, "generator",
            "workers to come back after the coordinator's restart: work that none of them claims "
            "is given out in %.1f s",
            (double)(it->reclaim_until_ms - core->now_ms) / 1000.0);
    return json_pack("{s:s,s:I,s:s,s:o}", "run", run->info.name, "iteration",
                     (json_int_t)it->number, "state", coord_state_name(it->state), "why", list);
}

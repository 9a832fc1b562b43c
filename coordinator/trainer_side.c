/* The trainer's side: one holder per run, fenced by an epoch, reading pairs in plan order. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

void core_trainer_lost(struct coord_core *core, struct coord_run *run, const char *why)
{
    struct coord_iteration *it = run->iteration;
    struct coord_worker *worker = core_worker(core, it->holder);
    core_log(core, SP_LOG_WARN, "run %s: iteration %u: trainer %s %s", run->info.name, it->number,
             worker ? worker->name : "?", why);
    struct coord_write *write = core_write(COORD_W_EVENT, run);
    core_write_event(write, worker ? worker->name : "coordinator", "trainer",
                     "trainer of iteration %u %s", it->number, why);
    core_send(core, write);
    it->holder = 0;
    it->awaiting = false;
    /* It may still come back, until another one is granted the run. */
    it->adoptable = true;
    it->adopt_until_ms = core->now_ms;
    core->work_changed = true;
    core_changed(core);
}

/* Whether it is with its trainer, or will be when it goes on. */
static bool is_trained(const struct coord_iteration *it)
{
    enum coord_state at = it->state == COORD_PAUSED ? it->resume : it->state;
    return at == COORD_RUNNING || at == COORD_PUBLISHING;
}

struct coord_run *core_fenced(struct coord_core *core, const struct coord_event *event,
                              uint64_t worker_id, const char *name, uint32_t iteration,
                              uint64_t epoch)
{
    struct coord_worker *worker = core_asker(core, event, worker_id, PROTO_ROLE_TRAINER);
    if (!worker)
        return NULL;
    struct coord_run *run = core_run(core, name);
    if (!run || !core_may_touch(event->who.runs, name)) {
        core_reply_error(core, event->handle, run ? SP_EDENIED : SP_ENOTFOUND, 0,
                         "no run \"%.64s\" for this token", name);
        return NULL;
    }
    struct coord_iteration *it = run->iteration;
    if (!it || it->number != iteration || epoch != it->epoch) {
        core_reply_error(core, event->handle, SP_ESTALE, 0,
                         "iteration %u, epoch %llu: the run is at iteration %u, epoch %llu",
                         iteration, (unsigned long long)epoch, it ? it->number : 0,
                         (unsigned long long)(it ? it->epoch : 0));
        return NULL;
    }
    if (it->state == COORD_CANCELLED || it->state == COORD_FAILED || it->state == COORD_CLOSED) {
        core_reply_error(core, event->handle, SP_ESTALE, 0, "iteration %u is %s", it->number,
                         coord_state_name(it->state));
        return NULL;
    }
    if (it->holder == 0 && it->adoptable && !it->granting && is_trained(it)) {
        it->holder = worker->id;
        core_changed(core);
    }
    if (it->holder != worker->id) {
        core_reply_error(core, event->handle, SP_ESTALE, 0,
                         "this worker does not hold the trainer's lease of run %s", name);
        return NULL;
    }
    it->holder_seen_ms = core->now_ms;
    it->holder_heard = true;
    return run;
}

/* ---- the lease ---- */

/* What a snapshot of another training differs in. A removed run of this name had attempts of the
 * same numbers, and may have had the same plan and settings, but skipped or revoked pairs. */
static uint64_t attempt_on_wire(const struct coord_run *run)
{
    return ((uint64_t)run->info.created_ms << 20) + run->iteration->attempt;
}

static void send_grant(struct coord_core *core, struct coord_run *run, uint64_t handle)
{
    struct coord_iteration *it = run->iteration;
    struct coord_action *action = core_reply(core, handle, PROTO_TRAINER_LEASE_REPLY);
    action->body.trainer_lease = (struct proto_trainer_lease_reply){
        .granted = true,
        .run = run->info.name,
        .iteration = it->number,
        .epoch = it->epoch,
        .lease_ms = (uint32_t)core->options.times.trainer_lease_ms,
        .settings = run->info.settings_json,
        .opponent = it->opponent,
        .manifest = it->opponent_manifest,
        .plan_pairs = plan_pairs(&it->plan),
        .plan_replay = it->plan.replay_pairs,
        .plan = it->plan_digest,
        .attempt = attempt_on_wire(run),
        .rewind_epoch = it->rewind_epoch,
        .rewind_steps = it->rewind_steps,
    };
}

static bool wants_trainer(const struct coord_core *core, const struct coord_iteration *it,
                          const struct coord_worker *worker)
{
    if (!it || it->pending || it->granting || it->holder != 0)
        return false;
    if (it->state != COORD_RUNNING && it->state != COORD_PUBLISHING)
        return false;
    if (!it->adoptable || core->now_ms >= it->adopt_until_ms)
        return true;
    /* The holder from before the restart gets the time to come back; but if this is the holder, or
     * a new process under its name, it has dropped its work. */
    return it->holder_name && strcmp(it->holder_name, worker->name) == 0;
}

bool core_try_grant_trainer(struct coord_core *core, struct coord_worker *worker, const char *runs,
                            uint64_t request_id, uint64_t handle)
{
    if (core_is_held(core, worker))
        return false;
    struct coord_run *best = NULL;
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_run *run = core->runs[i];
        struct coord_iteration *it = run->iteration;
        if (!it || !core_may_touch(runs, run->info.name))
            continue;
        if (it->holder == worker->id && it->grant_request == request_id &&
            (it->state == COORD_RUNNING || it->state == COORD_PUBLISHING)) {
            send_grant(core, run, handle);
            return true;
        }
        if (wants_trainer(core, it, worker) && (!best || run->priority > best->priority) &&
            core_worker_may_fit(run, worker))
            best = run;
    }
    if (!best || !core_claim_class(core, best, worker))
        return false;
    struct coord_iteration *it = best->iteration;
    it->granting = true;
    it->grant_request = request_id;
    struct coord_write *write = core_write(COORD_W_EPOCH, best);
    write->epoch = it->epoch + 1;
    write->attempt = it->attempt;
    write->holder = sp_xstrdup(worker->name);
    write->worker_id = worker->id;
    write->handle = handle;
    core_write_event(write, worker->name, "trainer", "iteration %u: epoch %llu is granted to %s",
                     it->number, (unsigned long long)write->epoch, worker->name);
    core_send(core, write);
    return true;
}

void core_epoch_written(struct coord_core *core, struct coord_write *write)
{
    struct coord_run *run = core_run(core, write->run);
    struct coord_iteration *it = run->iteration;
    if (!write->holder) {
        core_reply(core, write->handle, PROTO_TRAINER_RELEASE_REPLY)->body.trainer_release.ok =
            true;
        return;
    }
    struct coord_worker *worker = core_worker(core, write->worker_id);
    it->granting = false;
    it->epoch = write->epoch;
    it->adoptable = false;
    core->work_changed = true;
    core_changed(core);
    bool wanted = it->state == COORD_RUNNING || it->state == COORD_PUBLISHING;
    if (!worker || !wanted) {
        core_reply(core, write->handle, PROTO_TRAINER_LEASE_REPLY);
        return;
    }
    free(it->holder_name);
    it->holder_name = sp_xstrdup(worker->name);
    it->holder = worker->id;
    it->holder_seen_ms = core->now_ms;
    it->holder_heard = false;
    send_grant(core, run, write->handle);
}

/* A trainer that asks for work holds none, or has dropped it, unless it repeats its request. */
static void drop_what_it_held(struct coord_core *core, struct coord_worker *worker,
                              uint64_t request_id)
{
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_iteration *it = core->runs[i]->iteration;
        if (it && it->holder == worker->id && it->grant_request != request_id) {
            core_trainer_lost(core, core->runs[i], "asks for work anew");
            it->adoptable = false;
        }
    }
    for (uint32_t i = 0; i < core->parked_count; i++) {
        struct coord_parked *parked = &core->parked[i];
        if (parked->kind == PARKED_TRAINER && parked->worker_id == worker->id) {
            core_reply(core, parked->handle, PROTO_TRAINER_LEASE_REPLY);
            core_unpark(core, i);
            return;
        }
    }
}

void core_trainer_lease(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_trainer_lease *ask = event->body;
    struct coord_worker *worker = core_asker(core, event, ask->worker_id, PROTO_ROLE_TRAINER);
    if (!worker)
        return;
    if (ask->request_id == 0) {
        core_reply_error(core, event->handle, SP_EINVAL, 0,
                         "trainer_lease: request_id must be above 0");
        return;
    }
    drop_what_it_held(core, worker, ask->request_id);
    struct coord_parked *parked = core_park(core, PARKED_TRAINER, event->handle, ask->wait_ms);
    if (!parked)
        return;
    parked->worker_id = worker->id;
    parked->request_id = ask->request_id;
    parked->runs = event->who.runs ? sp_xstrdup(event->who.runs) : NULL;
    core->work_changed = true;
}

void core_trainer_renew(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_trainer_renew *renew = event->body;
    struct coord_run *run = core_run(core, renew->run);
    struct coord_iteration *it = run ? run->iteration : NULL;
    struct coord_worker *worker = core_worker(core, renew->worker_id);
    if (worker && it && it->number == renew->iteration && it->epoch == renew->epoch &&
        (it->state == COORD_CANCELLED || it->state == COORD_FAILED)) {
        core_reply(core, event->handle, PROTO_TRAINER_RENEW_REPLY)->body.trainer_renew.command =
            PROTO_TRAINER_CANCEL;
        return;
    }
    run = core_fenced(core, event, renew->worker_id, renew->run, renew->iteration, renew->epoch);
    if (!run)
        return;
    it = run->iteration;
    core_note_usage(worker, renew->memory_used, renew->memory_total, renew->busy);
    free(it->trainer_activity);
    it->trainer_activity = core_clip(renew->activity, 255);
    if (renew->steps > 0)
        it->steps_total = renew->steps;
    core_reply(core, event->handle, PROTO_TRAINER_RENEW_REPLY)->body.trainer_renew.command =
        it->state == COORD_PAUSED || core_is_held(core, core_worker(core, it->holder))
            ? PROTO_TRAINER_PAUSE
            : PROTO_TRAINER_GO_ON;
    core_changed(core);
}

void core_trainer_release(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_trainer_release *release = event->body;
    struct coord_run *run = core_run(core, release->run);
    struct coord_iteration *it = run ? run->iteration : NULL;
    struct coord_worker *worker = core_worker(core, release->worker_id);
    if (worker && it && it->number == release->iteration && it->epoch == release->epoch &&
        it->holder == 0 && !it->adoptable && !it->granting) {
        core_reply(core, event->handle, PROTO_TRAINER_RELEASE_REPLY)->body.trainer_release.ok =
            true;
        return;
    }
    run = core_fenced(core, event, release->worker_id, release->run, release->iteration,
                      release->epoch);
    if (!run)
        return;
    bool running = it->state == COORD_RUNNING || it->state == COORD_PUBLISHING;
    if (release->failed && running && it->pending) {
        core_reply_busy(core, event->handle);
        return;
    }
    it->holder = 0;
    it->adoptable = it->awaiting = false;
    core->work_changed = true;
    core_changed(core);
    struct coord_write *write;
    if (release->failed && running) {
        write = iteration_move(core, run, COORD_FAILED, worker->name, release->reason);
        write->follow = FOLLOW_RELEASE;
    } else {
        write = core_write(COORD_W_EPOCH, run);
        write->epoch = it->epoch;
    }
    write->handle = event->handle;
    core_send(core, write);
}

/* ---- pairs and steps ---- */

bool core_try_fetch(struct coord_core *core, const struct coord_parked *parked)
{
    struct coord_run *run = core_run(core, parked->run);
    struct coord_iteration *it = run->iteration;
    if (it->number != parked->iteration || it->epoch != parked->epoch ||
        it->holder != parked->worker_id) {
        core_reply_error(core, parked->handle, SP_ESTALE, 0,
                         "iteration %u, epoch %llu: the run has gone on", parked->iteration,
                         (unsigned long long)parked->epoch);
        return true;
    }
    if (it->state != COORD_RUNNING && it->state != COORD_PUBLISHING)
        return false;
    struct coord_set *set = &it->sets[PROTO_SET_TRAIN];
    const uint32_t *order = iteration_order(core, run, parked->pass);
    if (!order || (it->plan.order == RUN_ORDER_GAP && !set_complete(set)))
        return false;
    uint64_t end = SP_MIN(parked->start + parked->count, (uint64_t)set->count);
    uint32_t ready = 0;
    for (uint64_t i = parked->start; i < end; i++, ready++) {
        uint8_t state = set->state[order[i]];
        if (state != KEY_STORED && state != KEY_SKIPPED)
            break;
    }
    if (ready == 0) {
        uint32_t position = order[parked->start];
        if (!it->awaiting || it->awaited != position) {
            it->awaiting = true;
            it->awaited = position;
            it->awaited_since_ms = core->now_ms;
        }
        return false;
    }
    it->awaiting = false;
    uint64_t batch = (uint64_t)run->info.settings.batch_pairs;
    uint64_t steps = parked->pass > 0 ? UINT64_MAX : (parked->start + ready + batch - 1) / batch;
    it->fetched_steps = SP_MAX(it->fetched_steps, steps);
    struct coord_action *action = core_action(core, COORD_DO_PAIRS);
    action->handle = parked->handle;
    action->run = &run->info;
    action->iteration = it->number;
    action->count = ready;
    action->positions = sp_xmemdup(order + parked->start, ready * sizeof(*order));
    return true;
}

void core_pairs_fetch(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_pairs_fetch *fetch = event->body;
    struct coord_run *run =
        core_fenced(core, event, fetch->worker_id, fetch->run, fetch->iteration, fetch->epoch);
    if (!run)
        return;
    struct coord_iteration *it = run->iteration;
    double passes = sp_list_at(&run->info.settings.epochs, it->number);
    if (fetch->count == 0 || fetch->start >= plan_pairs(&it->plan) ||
        fetch->train_epoch >= (uint32_t)passes) {
        core_reply_error(core, event->handle, SP_EINVAL, 0,
                         "pairs_fetch: pass %u, start %llu, count %u: the plan has %u passes of %u "
                         "pairs",
                         fetch->train_epoch, (unsigned long long)fetch->start, fetch->count,
                         (uint32_t)passes, plan_pairs(&it->plan));
        return;
    }
    /* While paused nothing comes: the answer is quick, so that the trainer looks at its command. */
    uint32_t wait_ms = fetch->wait_ms;
    if (it->state == COORD_PAUSED)
        wait_ms = (uint32_t)SP_MIN((int64_t)wait_ms, core->options.times.retry_after_ms);
    struct coord_parked *parked = core_park(core, PARKED_FETCH, event->handle, wait_ms);
    if (!parked)
        return;
    parked->worker_id = fetch->worker_id;
    parked->run = sp_xstrdup(run->info.name);
    parked->iteration = fetch->iteration;
    parked->epoch = fetch->epoch;
    parked->pass = fetch->train_epoch;
    parked->start = fetch->start;
    parked->count = SP_MIN(fetch->count, (uint32_t)SP_MAX_FETCH_PAIRS);
    core->work_changed = true;
}

/* No step has more of anything; sums of it stay exact. */
#define STEP_COUNT_MAX ((uint64_t)1 << 40)

/* NULL, or the field of the metrics that cannot be. */
static const char *bad_count(const struct proto_step_metrics *step)
{
    return step->step == 0 || step->step > STEP_COUNT_MAX ? "step"
           : step->pairs > STEP_COUNT_MAX                 ? "pairs"
           : step->identical > STEP_COUNT_MAX             ? "identical"
           : step->tokens > STEP_COUNT_MAX                ? "tokens"
           : step->milliseconds > STEP_COUNT_MAX          ? "milliseconds"
           : step->first_sight_pairs > STEP_COUNT_MAX     ? "first_sight_pairs"
                                                          : NULL;
}

void core_steps_report(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_steps_report *report = event->body;
    struct coord_run *run =
        core_fenced(core, event, report->worker_id, report->run, report->iteration, report->epoch);
    if (!run)
        return;
    const char *bad = report->steps_total > STEP_COUNT_MAX ? "steps_total" : NULL;
    for (uint32_t i = 0; i < report->steps_count && !bad; i++)
        bad = bad_count(&report->steps[i]);
    if (bad) {
        core_reply_error(core, event->handle, SP_EINVAL, 0, "steps_report: %s: out of range", bad);
        return;
    }
    struct coord_write *write = core_write(COORD_W_STEPS, run);
    write->steps = report->steps;
    write->step_count = report->steps_count;
    write->steps_total = report->steps_total;
    write->attempt = run->iteration->attempt;
    write->handle = event->handle;
    core_send(core, write);
}

void core_steps_written(struct coord_core *core, struct coord_write *write)
{
    struct coord_run *run = core_run(core, write->run);
    struct coord_iteration *it = run->iteration;
    core_changed(core);
    core_reply(core, write->handle, PROTO_STEPS_REPORT_REPLY)->body.steps_report.ok = true;
    if (it->number != write->iteration || it->attempt != write->attempt)
        return;
    if (write->steps_total > 0)
        it->steps_total = write->steps_total;
    for (uint32_t i = 0; i < write->step_count; i++) {
        const struct proto_step_metrics *step = &write->steps[i];
        if (step->step == 1)
            it->first_step = *step;
        /* A resumed trainer reports some steps again. */
        if (step->step <= it->step)
            continue;
        it->step = step->step;
        it->last_step = *step;
        it->tokens_trained += step->tokens;
        it->pairs_trained += step->pairs;
        it->identical += step->identical;
        it->milliseconds += step->milliseconds;
        coord_rate_add(&it->train_rate, (double)step->tokens, core->now_ms);
    }
}

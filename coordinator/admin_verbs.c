/* Admin verbs that change the state of an iteration, and the live listings. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "coordinator/core_internal.h"

json_t *core_iteration_brief(const struct coord_run *run, bool created)
{
    const struct coord_iteration *it = run->iteration;
    return json_pack("{s:s,s:I,s:s,s:b,s:s,s:I}", "run", run->info.name, "iteration",
                     (json_int_t)it->number, "state", coord_state_name(it->state), "created",
                     created, "reason", it->reason ? it->reason : "", "attempt",
                     (json_int_t)it->attempt);
}

struct verb_call {
    struct coord_core *core;
    const struct coord_event *event;
    struct coord_run *run; /* NULL where the verb takes none */
    const json_t *args;
};

static void refuse(const struct verb_call *call, const char *verb)
{
    const struct coord_iteration *it = call->run->iteration;
    if (!it)
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "%s: run %s has no iteration yet: `spinctl start-iteration %s`", verb,
                         call->run->info.name, call->run->info.name);
    else
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "%s: iteration %u of run %s is %s: `spinctl why %s` says what is possible",
                         verb, it->number, call->run->info.name, coord_state_name(it->state),
                         call->run->info.name);
}

/* ---- start-iteration ---- */

static void start_new(const struct verb_call *call, uint32_t number)
{
    struct coord_run *run = call->run;
    struct plan plan;
    if (run->info.settings.mode == RUN_MODE_EVALUATE) {
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "start-iteration: %s is an evaluation, it has one only", run->info.name);
        return;
    }
    plan_init(&run->info.settings, number, run->info.prompts[STORE_SPLIT_TRAIN], &plan);
    if (plan_pairs(&plan) == 0) {
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "start-iteration: run %s has no training prompts", run->info.name);
        return;
    }
    run->starting = true;
    struct coord_write *write = core_write(COORD_W_START, run);
    write->iteration = number;
    write->handle = call->event->handle;
    write->row = (struct store_iteration){
        .iteration = number,
        .state = STORE_STATE_PLANNED,
        .return_state = STORE_STATE_PLANNED,
        .reason = "",
        .opponent = run->accepted,
        .opponent_manifest = run->accepted_manifest,
        .epoch = run->iteration ? run->iteration->epoch : 0,
        .seed = plan.seed,
        .prompts = plan.prompts,
        .samples_per_prompt = plan.samples_per_prompt,
        .new_pairs = plan.new_pairs,
        .replay_pairs = plan.replay_pairs,
        .order = (uint32_t)plan.order,
        .verdict = "",
        .summary = "",
    };
    plan_digest(&plan, &run->info.data, &write->row.plan);
    write->copy_replays = run->info.settings.compat == RUN_COMPAT_UCLAML && plan.replay_pairs > 0;
    core_write_event(write, call->event->who.token_id, "state",
                     "iteration %u is planned: %u pairs, %u of them replayed", number,
                     plan_pairs(&plan), plan.replay_pairs);
    core_send(call->core, write);
}

void core_start_written(struct coord_core *core, struct coord_write *write)
{
    struct coord_run *run = core_run(core, write->run);
    struct coord_iteration_info info = {
        .number = write->iteration,
        .state = COORD_PLANNED,
        .resume = COORD_PLANNED,
        .opponent = write->row.opponent,
        .opponent_manifest = write->row.opponent_manifest,
        .epoch = write->row.epoch,
    };
    leases_drop_run(core, run);
    struct coord_iteration *before = run->iteration;
    run->iteration = iteration_new(run, &info, core->now_ms);
    if (before)
        iteration_skip_sources_of(run->iteration, before);
    iteration_free(before);
    run->starting = false;
    run->evaluate_due = run->info.has_tasks;
    run->next_iteration = write->iteration + 1;
    core->work_changed = true;
    core_changed(core);
    core_reply_json(core, write->handle, core_iteration_brief(run, true));
}

static void verb_start_iteration(const struct verb_call *call)
{
    struct coord_run *run = call->run;
    const struct coord_iteration *it = run->iteration;
    int64_t wanted = -1;
    struct sp_error err;
    if (sp_json_opt_i64(call->args, "iteration", 0, UINT32_MAX, "start-iteration", &wanted, &err)) {
        core_reply_error(call->core, call->event->handle, err.code, 0, "%s", err.text);
        return;
    }
    if (run->starting) {
        core_reply_busy(call->core, call->event->handle);
        return;
    }
    bool open = it && coord_state_is_open(it->state);
    if (it && (wanted == it->number || (wanted < 0 && open))) {
        if (it->state == COORD_CANCELLED)
            core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                             "start-iteration: iteration %u is cancelled: `spinctl start %s` goes "
                             "on with its pairs, `--fresh` without",
                             it->number, run->info.name);
        else
            core_reply_json(call->core, call->event->handle, core_iteration_brief(run, false));
        return;
    }
    if (it && it->state == COORD_CANCELLED) {
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "start-iteration: iteration %u is cancelled: `spinctl start %s`",
                         it->number, run->info.name);
        return;
    }
    if (open) {
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "start-iteration: iteration %u is open (%s), %lld is asked for",
                         it->number, coord_state_name(it->state), (long long)wanted);
        return;
    }
    if (wanted >= 0 && wanted != run->next_iteration) {
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "start-iteration: the next iteration is %u, %lld is asked for",
                         run->next_iteration, (long long)wanted);
        return;
    }
    start_new(call, run->next_iteration);
}

/* ---- changes of state ---- */

static bool is_pending(const struct verb_call *call)
{
    if (!call->run->iteration || !call->run->iteration->pending)
        return false;
    core_reply_busy(call->core, call->event->handle);
    return true;
}

static void move(const struct verb_call *call, enum coord_state to, bool fresh, const char *reason)
{
    struct coord_write *write =
        iteration_move(call->core, call->run, to, call->event->who.token_id, reason);
    write->handle = call->event->handle;
    write->follow = FOLLOW_ADMIN;
    write->fresh = fresh;
    core_send(call->core, write);
}

static void answer_brief(const struct verb_call *call)
{
    core_reply_json(call->core, call->event->handle, core_iteration_brief(call->run, false));
}

static void verb_pause(const struct verb_call *call)
{
    struct coord_iteration *it = call->run->iteration;
    if (is_pending(call))
        return;
    if (it && it->state == COORD_PAUSED)
        return answer_brief(call);
    if (!it || !coord_transition_allowed(it->state, COORD_PAUSED))
        return refuse(call, "pause");
    move(call, COORD_PAUSED, false, "by the administrator");
}

static void verb_resume(const struct verb_call *call)
{
    struct coord_iteration *it = call->run->iteration;
    if (is_pending(call))
        return;
    if (it && coord_state_is_live(it->state))
        return answer_brief(call);
    if (!it || it->state != COORD_PAUSED)
        return refuse(call, "resume");
    move(call, it->resume, false, NULL);
}

static void verb_retry(const struct verb_call *call)
{
    struct coord_iteration *it = call->run->iteration;
    if (is_pending(call))
        return;
    if (it && coord_state_is_live(it->state))
        return answer_brief(call);
    if (!it || it->state != COORD_FAILED)
        return refuse(call, "retry");
    move(call, it->resume, false, NULL);
}

static void verb_cancel(const struct verb_call *call)
{
    struct coord_iteration *it = call->run->iteration;
    if (is_pending(call))
        return;
    if (it && it->state == COORD_CANCELLED)
        return answer_brief(call);
    if (!it || !coord_transition_allowed(it->state, COORD_CANCELLED))
        return refuse(call, "cancel");
    move(call, COORD_CANCELLED, false, "by the administrator");
}

static void verb_start(const struct verb_call *call)
{
    struct coord_iteration *it = call->run->iteration;
    bool fresh = false;
    struct sp_error err;
    if (sp_json_opt_bool(call->args, "fresh", "start", &fresh, &err)) {
        core_reply_error(call->core, call->event->handle, err.code, 0, "%s", err.text);
        return;
    }
    if (is_pending(call))
        return;
    if (it && coord_state_is_live(it->state) && !fresh)
        return answer_brief(call);
    if (!it || it->state != COORD_CANCELLED)
        return refuse(call, "start");
    /* Its checkpoint is given, not made: without it there would be nothing to go back to. */
    if (fresh && call->run->info.settings.mode == RUN_MODE_EVALUATE) {
        core_reply_error(call->core, call->event->handle, SP_ESTATE, 0,
                         "start: %s is an evaluation, whose results are always the same: `spinctl "
                         "start %s` goes on with those that are there",
                         call->run->info.name, call->run->info.name);
        return;
    }
    bool published = !sp_digest_is_zero(&it->checkpoint);
    move(call, published && !fresh ? COORD_EVALUATING : COORD_RUNNING, fresh, NULL);
}

static void verb_skip(const struct verb_call *call)
{
    struct coord_iteration *it = call->run->iteration;
    int64_t prompt = -1;
    struct sp_error err;
    if (sp_json_i64(call->args, "prompt", 0, UINT32_MAX, "skip", &prompt, &err)) {
        core_reply_error(call->core, call->event->handle, err.code, 0, "%s", err.text);
        return;
    }
    if (is_pending(call))
        return;
    bool running = it && (it->state == COORD_RUNNING || it->state == COORD_PLANNED ||
                          (it->state == COORD_PAUSED && it->resume != COORD_EVALUATING &&
                           it->resume != COORD_PUBLISHING));
    if (!running)
        return refuse(call, "skip");
    if (prompt >= call->run->info.prompts[STORE_SPLIT_TRAIN]) {
        core_reply_error(call->core, call->event->handle, SP_EINVAL, 0, "skip: prompt %lld of %u",
                         (long long)prompt, call->run->info.prompts[STORE_SPLIT_TRAIN]);
        return;
    }
    struct coord_write *write = core_write(COORD_W_SKIP, call->run);
    write->prompt = (uint32_t)prompt;
    write->handle = call->event->handle;
    core_write_event(write, call->event->who.token_id, "skip",
                     "iteration %u: prompt %lld is taken out of the plan", it->number,
                     (long long)prompt);
    core_send(call->core, write);
}

/* ---- listings ---- */

static void verb_status(const struct verb_call *call)
{
    const struct proto_admin *admin = call->event->body;
    int64_t since = -1, wait_ms = 0;
    struct sp_error err;
    if (sp_json_opt_i64(call->args, "since", 0, INT64_MAX, "status", &since, &err) ||
        sp_json_opt_i64(call->args, "wait_ms", 0, 600000, "status", &wait_ms, &err)) {
        core_reply_error(call->core, call->event->handle, err.code, 0, "%s", err.text);
        return;
    }
    if (since < 0 || wait_ms == 0 || (uint64_t)since < call->core->version) {
        core_reply_json(
            call->core, call->event->handle,
            coord_status(call->core, admin->run[0] ? admin->run : NULL, call->core->now_ms));
        return;
    }
    struct coord_parked *parked =
        core_park(call->core, PARKED_STATUS, call->event->handle, (uint32_t)wait_ms);
    if (!parked)
        return;
    parked->start = (uint64_t)since;
    parked->run = admin->run[0] ? sp_xstrdup(admin->run) : NULL;
}

static void verb_gc(const struct verb_call *call)
{
    bool dry_run = false;
    struct sp_error err;
    if (sp_json_opt_bool(call->args, "dry_run", "gc", &dry_run, &err))
        core_reply_error(call->core, call->event->handle, err.code, 0, "%s", err.text);
    else if (!core_collect(call->core, call->event->handle, true, dry_run))
        core_reply_error(call->core, call->event->handle, SP_EUNAVAIL,
                         (uint32_t)call->core->options.times.retry_after_ms,
                         "gc: a collection or an upload is under way");
}

static void verb_priority(const struct verb_call *call)
{
    int64_t priority = 0;
    struct sp_error err;
    if (sp_json_i64(call->args, "priority", -1000, 1000, "priority", &priority, &err)) {
        core_reply_error(call->core, call->event->handle, err.code, 0, "%s", err.text);
        return;
    }
    struct coord_write *write = core_write(COORD_W_PRIORITY, call->run);
    write->priority = (int32_t)priority;
    write->handle = call->event->handle;
    core_write_event(write, call->event->who.token_id, "audit", "priority: %d", write->priority);
    core_send(call->core, write);
}

/* ---- workers ---- */

static void change_hold(const struct verb_call *call, enum store_hold_kind kind, bool take_back)
{
    const struct proto_admin *admin = call->event->body;
    const char *worker = "", *reason = "by the administrator";
    struct sp_error err;
    enum sp_err rc = sp_json_str(call->args, "worker", admin->verb, &worker, &err);
    if (!rc)
        rc = sp_json_opt_str(call->args, "reason", admin->verb, &reason, &err);
    if (!rc && (worker[0] == '\0' || strlen(worker) > SP_MAX_WORKER_NAME || strlen(reason) > 400))
        rc = sp_fail(&err, SP_EINVAL, "%s: worker or reason: too long, or empty", admin->verb);
    bool known = core_hold(call->core, worker) != NULL;
    for (uint32_t i = 0; i < call->core->worker_count; i++)
        known |= strcmp(call->core->workers[i]->name, worker) == 0;
    if (!rc && !known)
        rc = sp_fail(&err, SP_ENOTFOUND, "%s: no worker \"%.64s\": `spinctl workers` lists them",
                     admin->verb, worker);
    if (rc) {
        core_reply_error(call->core, call->event->handle, rc, 0, "%s", err.text);
        return;
    }
    core_set_hold(call->core, worker, kind, reason, call->event->who.token_id, call->event->handle);
    if (take_back)
        core_take_back(call->core, worker, "is its no more: it is drained");
}

static void verb_cordon(const struct verb_call *call)
{
    change_hold(call, STORE_HOLD_CORDONED, false);
}

static void verb_drain(const struct verb_call *call)
{
    change_hold(call, STORE_HOLD_CORDONED, true);
}

static void verb_quarantine(const struct verb_call *call)
{
    change_hold(call, STORE_HOLD_QUARANTINED, true);
}

static void verb_uncordon(const struct verb_call *call)
{
    change_hold(call, STORE_HOLD_NONE, false);
}

static void verb_why(const struct verb_call *call)
{
    core_reply_json(call->core, call->event->handle, core_why(call->core, call->run));
}

static void verb_workers(const struct verb_call *call)
{
    core_reply_json(call->core, call->event->handle,
                    json_pack("{s:o}", "workers", coord_workers(call->core, call->core->now_ms)));
}

static const struct {
    const char *name;
    void (*call)(const struct verb_call *call);
    bool needs_run, changes;
} verbs[] = {
    {"start-iteration", verb_start_iteration, true, true},
    {"pause", verb_pause, true, true},
    {"resume", verb_resume, true, true},
    {"retry", verb_retry, true, true},
    {"cancel", verb_cancel, true, true},
    {"start", verb_start, true, true},
    {"skip", verb_skip, true, true},
    {"priority", verb_priority, true, true},
    {"gc", verb_gc, false, true},
    {"cordon", verb_cordon, false, true},
    {"drain", verb_drain, false, true},
    {"quarantine", verb_quarantine, false, true},
    {"uncordon", verb_uncordon, false, true},
    {"status", verb_status, false, false},
    {"why", verb_why, true, false},
    {"workers", verb_workers, false, false},
};

bool coord_admin_is_live(const char *verb)
{
    for (size_t i = 0; i < SP_COUNT(verbs); i++) {
        if (strcmp(verbs[i].name, verb) == 0)
            return true;
    }
    return false;
}

void core_admin(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_admin *admin = event->body;
    size_t v = 0;
    while (v < SP_COUNT(verbs) && strcmp(verbs[v].name, admin->verb) != 0)
        v++;
    if (v == SP_COUNT(verbs)) {
        core_reply_error(core, event->handle, SP_EUNSUPPORTED, 0, "no admin verb \"%.40s\"",
                         admin->verb);
        return;
    }
    if (event->who.role != PROTO_ROLE_ADMIN &&
        (verbs[v].changes || event->who.role != PROTO_ROLE_READONLY)) {
        core_reply_error(core, event->handle, SP_EDENIED, 0, "%s: needs another role's token",
                         admin->verb);
        return;
    }
    struct verb_call call = {.core = core, .event = event, .run = core_run(core, admin->run)};
    if ((verbs[v].needs_run || admin->run[0]) && !call.run) {
        core_reply_error(core, event->handle, SP_ENOTFOUND, 0,
                         "no run \"%.64s\": `spinctl status` lists them, `spinctl doctor` those "
                         "whose file is damaged",
                         admin->run);
        return;
    }
    if (call.run && !core_may_touch(event->who.runs, core_scope(call.run))) {
        core_reply_error(core, event->handle, SP_EDENIED, 0, "the token is not for run %s",
                         call.run->info.name);
        return;
    }
    json_t *args = NULL;
    struct sp_error err;
    const char *text = admin->args[0] ? admin->args : "{}";
    if (sp_json_parse(text, strlen(text), "args", &args, &err)) {
        core_reply_error(core, event->handle, err.code, 0, "%s: %s", admin->verb, err.text);
        return;
    }
    call.args = args;
    if (json_is_object(args))
        verbs[v].call(&call);
    else
        core_reply_error(core, event->handle, SP_EFORMAT, 0, "%s: args: not an object",
                         admin->verb);
    json_decref(args);
}

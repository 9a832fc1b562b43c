/* Making an iteration, changing its state, and what follows from that by itself. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"
#include "coordinator/work_item.h"

static bool train_needs_work(const struct run_settings *settings)
{
    if (settings->mode == RUN_MODE_SPIN)
        return true;
    return settings->mode == RUN_MODE_DPO && settings->score_by == RUN_SCORE_BY_GENERATOR;
}

/* What needs no generator: answers that the data gives, and, where the trainer scores every pair,
 * replayed ones, which store_replays_copy has put there. */
static void mark_given(const struct coord_run *run, struct coord_iteration *it)
{
    struct coord_set *train = &it->sets[PROTO_SET_TRAIN];
    if (run->info.settings.compat != RUN_COMPAT_UCLAML)
        return;
    const uint8_t *given = it->number < COORD_GIVEN ? run->info.given[it->number] : NULL;
    for (uint32_t i = 0; i < it->plan.new_pairs && given; i++)
        if (given[i / 8] & 1u << i % 8)
            set_store(train, i);
    for (uint32_t i = 0; i < it->plan.replay_pairs; i++)
        set_store(train, it->plan.new_pairs + i);
}

static void make_sets(const struct coord_run *run, struct coord_iteration *it)
{
    const struct run_settings *settings = &run->info.settings;
    for (int i = 0; i < COORD_SET_COUNT; i++) {
        uint32_t count =
            coord_set_positions(settings, &it->plan, (enum proto_set)i, run->info.prompts);
        set_init(&it->sets[i], count, i == PROTO_SET_TRAIN && !train_needs_work(settings));
    }
    mark_given(run, it);
}

static void drop_sets(struct coord_iteration *it)
{
    for (int i = 0; i < COORD_SET_COUNT; i++)
        set_deinit(&it->sets[i]);
    free(it->gap_order);
    free(it->pass_order);
    it->gap_order = NULL;
    it->pass_order = NULL;
    it->work_order_asked = it->pass_asked = it->ordering = false;
}

struct coord_iteration *iteration_new(const struct coord_run *run,
                                      const struct coord_iteration_info *info, int64_t now_ms)
{
    struct coord_iteration *it = sp_xalloc(sizeof(*it));
    it->number = info->number;
    it->state = info->state;
    it->resume = info->resume;
    it->reason = info->reason ? sp_xstrdup(info->reason) : NULL;
    it->attempt = info->attempt;
    it->since_ms = now_ms;
    it->opponent = info->opponent;
    it->opponent_manifest = info->opponent_manifest;
    it->checkpoint = info->checkpoint;
    it->checkpoint_manifest = info->checkpoint_manifest;
    it->epoch = info->epoch;
    it->rewind_epoch = info->rewind_epoch;
    it->rewind_steps = info->rewind_steps;
    it->fetched_steps = it->epoch > 0 ? UINT64_MAX : 0; /* what was read before is not known */
    it->holder_name = info->trainer ? sp_xstrdup(info->trainer) : NULL;
    it->first_step = info->first_step;
    it->last_step = info->last_step;
    it->step = info->sums.last_step;
    it->tokens_trained = info->sums.tokens;
    it->pairs_trained = info->sums.pairs;
    it->identical = info->sums.identical;
    it->milliseconds = info->sums.milliseconds;
    it->verdict = info->verdict ? sp_xstrdup(info->verdict) : NULL;
    it->accepted = info->accepted;
    plan_init(&run->info.settings, it->number, run->info.prompts[STORE_SPLIT_TRAIN], &it->plan);
    plan_digest(&it->plan, &run->info.data, &it->plan_digest);
    double epochs = sp_list_at(&run->info.settings.epochs, it->number);
    it->steps_total =
        plan_steps(&it->plan, (int64_t)epochs, run->info.settings.batch_pairs);
    make_sets(run, it);
    uint32_t pairs = plan_pairs(&it->plan);
    if (info->gap_order && pairs > 0)
        it->gap_order = sp_xmemdup(info->gap_order, pairs * sizeof(*it->gap_order));
    return it;
}

void iteration_free(struct coord_iteration *it)
{
    if (!it)
        return;
    drop_sets(it);
    coord_write_free(it->publish);
    verify_forget(it);
    free(it->source_skipped);
    free(it->reason);
    free(it->holder_name);
    free(it->trainer_activity);
    free(it->verdict);
    free(it);
}

static void skip_in_plan_sets(struct coord_iteration *it, uint32_t position)
{
    const enum proto_set by_plan[] = {PROTO_SET_TRAIN, PROTO_SET_TRAINED};
    for (size_t s = 0; s < SP_COUNT(by_plan); s++) {
        struct coord_set *set = &it->sets[by_plan[s]];
        if (position < set->count)
            set_skip(set, position);
    }
}

/* Back to the start of the same number: nothing of what was made is left. */
static void start_afresh(struct coord_run *run, struct coord_iteration *it)
{
    drop_sets(it);
    make_sets(run, it);
    for (uint32_t i = 0; it->source_skipped && i < it->plan.replay_pairs; i++) {
        if (it->source_skipped[i])
            skip_in_plan_sets(it, it->plan.new_pairs + i);
    }
    verify_forget(it);
    it->rewind_epoch = it->rewind_steps = it->fetched_steps = 0;
    it->attempt++;
    it->reclaim_until_ms = 0;
    it->step = 0;
    it->first_step = it->last_step = (struct proto_step_metrics){0};
    it->checkpoint = it->checkpoint_manifest = it->upload = (struct sp_digest){0};
    coord_write_free(it->publish);
    it->publish = NULL;
    it->verifying = it->generated = it->ordering = it->judging = false;
    it->tokens_trained = it->identical = it->pairs_trained = it->milliseconds = 0;
}

bool iteration_set_uses_opponent(enum proto_set set)
{
    return set == PROTO_SET_TRAIN || set == PROTO_SET_HOLDOUT || set == PROTO_SET_BASE_GREEDY ||
           set == PROTO_SET_BASE_SAMPLED;
}

const struct sp_digest *iteration_set_weights(const struct coord_iteration *it, enum proto_set set)
{
    return iteration_set_uses_opponent(set) ? &it->opponent : &it->checkpoint;
}

bool iteration_set_wanted(const struct coord_iteration *it, enum proto_set set)
{
    if (it->state == COORD_EVALUATING)
        return true;
    return (it->state == COORD_RUNNING || it->state == COORD_PUBLISHING) &&
           iteration_set_uses_opponent(set);
}

bool iteration_set_ready(const struct coord_iteration *it, enum proto_set set)
{
    /* The player scores the answers that the opponent has given. */
    if (it->state == COORD_EVALUATING)
        return set != PROTO_SET_HOLDOUT_PLAYER || set_complete(&it->sets[PROTO_SET_HOLDOUT]);
    return iteration_set_wanted(it, set) &&
           (set != PROTO_SET_TRAIN || iteration_has_work_order(it));
}

bool iteration_evaluated(const struct coord_iteration *it)
{
    for (int i = 0; i < COORD_SET_COUNT; i++) {
        if (!set_complete(&it->sets[i]))
            return false;
    }
    return true;
}

void iteration_skip_prompt(struct coord_iteration *it, uint32_t prompt)
{
    for (uint32_t position = 0; position < plan_pairs(&it->plan); position++) {
        struct plan_key key;
        plan_key_at(&it->plan, position, &key);
        if (key.prompt == prompt)
            skip_in_plan_sets(it, position);
    }
}

void iteration_skip_source(struct coord_iteration *it, uint32_t prompt)
{
    for (uint32_t i = 0; i < it->plan.replay_pairs; i++) {
        struct plan_key key;
        plan_key_at(&it->plan, it->plan.new_pairs + i, &key);
        if (key.prompt != prompt)
            continue;
        if (!it->source_skipped)
            it->source_skipped = sp_xalloc(it->plan.replay_pairs);
        it->source_skipped[i] = 1;
        skip_in_plan_sets(it, it->plan.new_pairs + i);
    }
}

void iteration_skip_sources_of(struct coord_iteration *it, const struct coord_iteration *before)
{
    const struct coord_set *train = &before->sets[PROTO_SET_TRAIN];
    if (before->number + 1 != it->number)
        return;
    /* A prompt is skipped with all its samples: the first one tells. */
    uint32_t samples = before->plan.samples_per_prompt;
    for (uint32_t i = 0; i < before->plan.new_pairs && i < train->count; i += samples) {
        if (train->state[i] == KEY_SKIPPED)
            iteration_skip_source(it, i / samples);
    }
}

/* ---- changes of state ---- */

struct coord_write *iteration_move(struct coord_core *core, struct coord_run *run,
                                   enum coord_state to, const char *actor, const char *reason)
{
    struct coord_iteration *it = run->iteration;
    SP_ASSERT(!it->pending && coord_transition_allowed(it->state, to));
    it->pending = true;
    struct coord_write *write = core_write(COORD_W_STATE, run);
    write->to = to;
    write->resume = to == COORD_PAUSED || to == COORD_FAILED ? it->state : to;
    if (to == COORD_CANCELLED)
        write->resume = it->resume;
    write->reason = core_clip(reason ? reason : "", 1000);
    core_write_event(write, actor, "state", "iteration %u: %s -> %s%s%s", it->number,
                     coord_state_name(it->state), coord_state_name(to), reason ? ": " : "",
                     reason ? reason : "");
    return write;
}

static void entered(struct coord_core *core, struct coord_run *run, enum coord_state from)
{
    struct coord_iteration *it = run->iteration;
    it->since_ms = core->now_ms;
    core_log(core, SP_LOG_INFO, "run %s: iteration %u: %s -> %s%s%s", run->info.name, it->number,
             coord_state_name(from), coord_state_name(it->state),
             it->reason && it->reason[0] ? ": " : "", it->reason ? it->reason : "");
    if (it->state == COORD_CANCELLED || it->state == COORD_FAILED || it->state == COORD_CLOSED) {
        leases_drop_run(core, run);
        it->holder = 0;
        it->awaiting = false;
    }
    if (it->state == COORD_PAUSED) {
        /* A trainer that waits for pairs looks at its command when it gets none. */
        for (uint32_t i = 0; i < core->parked_count; i++) {
            struct coord_parked *parked = &core->parked[i];
            if (parked->kind == PARKED_FETCH && strcmp(parked->run, run->info.name) == 0)
                parked->deadline_ms = core->now_ms;
        }
    }
    core->work_changed = true;
    core_changed(core);
}

static void follow(struct coord_core *core, struct coord_run *run, struct coord_write *write)
{
    if (write->handle == 0)
        return;
    struct coord_action *action;
    switch (write->follow) {
    case FOLLOW_ADMIN:
        core_reply_json(core, write->handle, core_iteration_brief(run, false));
        return;
    case FOLLOW_MISSING:
        action = core_action(core, COORD_DO_MISSING);
        action->handle = write->handle;
        action->run = &run->info;
        action->iteration = write->iteration;
        action->manifest_text = write->manifest_text;
        return;
    case FOLLOW_COMMIT:
        core_reply(core, write->handle, PROTO_PUBLISH_COMMIT_REPLY)->body.publish_commit.ok = true;
        return;
    case FOLLOW_RELEASE:
        core_reply(core, write->handle, PROTO_TRAINER_RELEASE_REPLY)->body.trainer_release.ok =
            true;
        return;
    default:
        SP_ASSERT(!"a reply that follows");
    }
}

static void state_written(struct coord_core *core, struct coord_run *run, struct coord_write *write)
{
    struct coord_iteration *it = run->iteration;
    enum coord_state from = it->state;
    it->pending = false;
    if (write->fresh) {
        if (it->publish)
            core_reply_busy(core, it->publish->handle);
        start_afresh(run, it);
    }
    it->state = write->to;
    it->resume = write->resume;
    free(it->reason);
    it->reason = write->reason;
    write->reason = NULL;
    it->judging = false;
    entered(core, run, from);
    follow(core, run, write);
}

static void published(struct coord_core *core, struct coord_run *run, struct coord_write *write)
{
    struct coord_iteration *it = run->iteration;
    it->pending = false;
    it->checkpoint = write->checkpoint;
    it->checkpoint_manifest = write->manifest;
    it->state = it->resume = COORD_EVALUATING;
    it->holder = 0;
    it->awaiting = false;
    entered(core, run, COORD_PUBLISHING);
    follow(core, run, write);
}

static void closed(struct coord_core *core, struct coord_run *run, struct coord_write *write)
{
    struct coord_iteration *it = run->iteration;
    it->pending = false;
    it->state = it->resume = COORD_CLOSED;
    it->verdict = write->verdict;
    write->verdict = NULL;
    it->accepted = write->accepted;
    if (it->accepted) {
        run->accepted = it->checkpoint;
        run->accepted_manifest = it->checkpoint_manifest;
    }
    run->next_iteration = it->number + 1;
    run->evaluate_due = run->info.has_tasks;
    entered(core, run, COORD_EVALUATING);
}

static void skipped(struct coord_core *core, struct coord_run *run, struct coord_write *write)
{
    if (run->iteration && run->iteration->number == write->iteration)
        iteration_skip_prompt(run->iteration, write->prompt);
    core->work_changed = true;
    core_changed(core);
    core_reply_json(core, write->handle,
                    json_pack("{s:I,s:I}", "iteration", (json_int_t)write->iteration, "prompt",
                              (json_int_t)write->prompt));
}

void core_written(struct coord_core *core, const struct coord_event *event)
{
    struct coord_write *write = coord_map_get(&core->write_by_id, event->write_id);
    SP_ASSERT(write);
    coord_map_remove(&core->write_by_id, event->write_id);
    struct coord_run *run = core_run(core, write->run);
    switch (write->kind) {
    case COORD_W_RESULTS:
    case COORD_W_REFS:
        core_results_written(core, write, &event->result);
        break;
    case COORD_W_STEPS:
        core_steps_written(core, write);
        break;
    case COORD_W_START:
        core_start_written(core, write);
        break;
    case COORD_W_STATE:
        state_written(core, run, write);
        break;
    case COORD_W_EPOCH:
        core_epoch_written(core, write);
        break;
    case COORD_W_CLASS:
        free(run->numerics_class);
        run->numerics_class = write->text;
        core->fit_version++;
        write->text = NULL;
        run->pinning = false;
        core->work_changed = true;
        core_changed(core);
        break;
    case COORD_W_PRIORITY:
        run->priority = write->priority;
        core->work_changed = true;
        core_changed(core);
        core_reply_json(core, write->handle,
                        json_pack("{s:s,s:i}", "run", run->info.name, "priority", run->priority));
        break;
    case COORD_W_ORDER:
        core_order_written(core, run, write);
        break;
    case COORD_W_PUBLISHED:
        published(core, run, write);
        break;
    case COORD_W_CLOSED:
        closed(core, run, write);
        break;
    case COORD_W_SKIP:
        skipped(core, run, write);
        break;
    case COORD_W_REVOKE:
        core_revoked_written(core, run, write);
        break;
    case COORD_W_HOLD:
        core_hold_written(core, write);
        break;
    case COORD_W_GENERATED:
    case COORD_W_WORKER:
    case COORD_W_EVENT:
        break;
    }
    coord_write_free(write);
}

/* One evaluation at a time; each that is made may have another one behind it. */
static void ask_evaluation(struct coord_core *core, struct coord_run *run)
{
    if (!run->evaluate_due || run->evaluating)
        return;
    run->evaluate_due = false;
    run->evaluating = true;
    core_action(core, COORD_DO_EVALUATE)->run = &run->info;
}

void core_evaluated(struct coord_core *core, const struct coord_event *event)
{
    struct coord_run *run = core_run(core, event->run);
    if (!run)
        return;
    run->evaluating = false;
    run->evaluate_due = run->evaluate_due || event->more;
    core->work_changed = true;
    core_changed(core);
    /* Somebody asked for the same one and has not got it yet. */
    run->evaluate_again = event->status == SP_EUNAVAIL;
    if (event->status == SP_OK || event->status == SP_EUNAVAIL)
        return;
    struct coord_write *write = core_write(COORD_W_EVENT, run);
    core_write_event(write, "coordinator", "warning", "no evaluation could be made: %s",
                     event->text);
    core_log(core, SP_LOG_ERROR, "run %s: %s", run->info.name, write->event_text);
    core_send(core, write);
}

void core_advance(struct coord_core *core, struct coord_run *run)
{
    struct coord_iteration *it = run->iteration;
    ask_evaluation(core, run);
    if (!it || it->pending)
        return;
    if (it->state == COORD_PLANNED) {
        core_send(core, iteration_move(core, run, COORD_RUNNING, "coordinator", NULL));
        return;
    }
    if (!it->generated && coord_state_is_live(it->state) &&
        set_complete(&it->sets[PROTO_SET_TRAIN])) {
        it->generated = true;
        core_send(core, core_write(COORD_W_GENERATED, run));
    }
    core_ask_orders(core, run);
    if (it->state == COORD_EVALUATING && !it->judging && iteration_evaluated(it) &&
        !verify_blocks(core, run, true)) {
        it->judging = true;
        struct coord_action *action = core_action(core, COORD_DO_JUDGE);
        action->run = &run->info;
        action->iteration = it->number;
        action->attempt = it->attempt;
    }
}

struct coord_run *core_still_there(struct coord_core *core, const struct coord_event *event)
{
    struct coord_run *run = core_run(core, event->run);
    if (!run || !run->iteration || run->iteration->number != event->iteration ||
        run->iteration->attempt != event->attempt)
        return NULL;
    return run;
}

void core_verified(struct coord_core *core, const struct coord_event *event)
{
    struct coord_run *run = core_still_there(core, event);
    if (!run || !run->iteration->verifying)
        return;
    struct coord_iteration *it = run->iteration;
    struct coord_write *write = it->publish;
    it->publish = NULL;
    it->verifying = false;
    if (event->status != SP_OK) {
        core_reply_error(core, write->handle, event->status, 0, "publish iteration %u: %s",
                         it->number, event->text);
        coord_write_free(write);
    } else if (it->state != COORD_PUBLISHING || it->pending || it->epoch != write->epoch) {
        core_reply_busy(core, write->handle);
        coord_write_free(write);
    } else {
        it->pending = true;
        write->bytes = event->bytes;
        write->blob_count = event->blob_count;
        write->blobs = sp_xmemdup(event->blobs, event->blob_count * sizeof(*event->blobs));
        core_send(core, write);
    }
}

/* The judgement's warnings become events of the run. */
static void note_warnings(struct coord_core *core, struct coord_run *run, const char *text)
{
    json_t *object = json_loads(text, 0, NULL);
    const json_t *list = json_object_get(object, "warnings");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *warning = json_string_value(json_array_get(list, i));
        if (!warning)
            continue;
        struct coord_write *write = core_write(COORD_W_EVENT, run);
        core_write_event(write, "coordinator", "warning", "iteration %u: %s",
                         run->iteration->number, warning);
        core_log(core, SP_LOG_WARN, "run %s: %s", run->info.name, write->event_text);
        core_send(core, write);
    }
    json_decref(object);
}

void core_judged(struct coord_core *core, const struct coord_event *event)
{
    struct coord_run *run = core_still_there(core, event);
    if (!run || !run->iteration->judging || run->iteration->state != COORD_EVALUATING ||
        run->iteration->pending)
        return;
    struct coord_iteration *it = run->iteration;
    if (event->status != SP_OK) {
        char reason[SP_ERROR_TEXT_BYTES + 16];
        snprintf(reason, sizeof(reason), "verdict: %s", event->text);
        core_send(core, iteration_move(core, run, COORD_FAILED, "coordinator", reason));
        return;
    }
    note_warnings(core, run, event->text);
    it->pending = true;
    struct coord_write *write = core_write(COORD_W_CLOSED, run);
    write->verdict = sp_xstrdup(event->verdict);
    write->accepted = event->accepted;
    write->text = sp_xstrdup(event->text);
    write->pairs_sha256 = event->pairs_sha256;
    core_write_event(write, "coordinator", "verdict", "iteration %u: %s%s", it->number,
                     event->verdict, event->accepted ? "" : ", not accepted");
    core_send(core, write);
}

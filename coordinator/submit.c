/* Results that come in: checked against the plan, stored once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"
#include "coordinator/work_item.h"

/* Log-probabilities are sums of what is at most 0; rounding may leave a little above. */
#define LOGPROB_MAX 1e-3f

static bool is_logprob(float value)
{
    return isfinite(value) && value <= LOGPROB_MAX;
}

static bool is_stop(const struct coord_run *run, int32_t id)
{
    for (uint32_t i = 0; i < run->info.stop_count; i++) {
        if (run->info.stop_ids[i] == id)
            return true;
    }
    return false;
}

/* An answer ends with the first end token, which it keeps, or is cut before one comes. */
static bool ends_as_it_says(const struct coord_run *run, const struct proto_work_result *result)
{
    for (uint32_t i = 0; i + 1 < result->ids.count; i++) {
        if (is_stop(run, result->ids.ids[i]))
            return false;
    }
    bool stopped = is_stop(run, result->ids.ids[result->ids.count - 1]);
    return stopped == (result->finish == PROTO_FINISH_STOP);
}

/* Says what is wrong with a result, or NULL. */
static const char *fault_of(const struct coord_run *run, const struct proto_work_result *result,
                            const struct coord_item *item)
{
    const struct run_settings *settings = &run->info.settings;
    if (result->prompt != item->prompt || result->sample != item->sample)
        return "prompt or sample is not the plan's";
    if (item->kind == PROTO_WORK_SAMPLE) {
        if (result->ids.count == 0)
            return "ids: a sampled answer has at least one token";
        if (result->ids.count > (uint64_t)settings->max_new_tokens)
            return "ids: longer than max_new_tokens";
        if (result->finish != PROTO_FINISH_STOP && result->finish != PROTO_FINISH_LENGTH)
            return "finish: neither stop nor length";
        if (!is_logprob(result->logprob_ids))
            return "logprob_ids: not a finite number that is at most 0";
    } else if (result->ids.count != 0) {
        return "ids: given for an answer that was to be scored only";
    }
    for (uint32_t i = 0; i < result->ids.count; i++) {
        if (result->ids.ids[i] < 0 || result->ids.ids[i] >= run->info.vocab)
            return "ids: a token outside the vocabulary";
    }
    if (item->kind == PROTO_WORK_SAMPLE && !ends_as_it_says(run, result))
        return "ids: an end token inside, or finish says something else than the last token";
    if (item->score_real && !is_logprob(result->logprob_a))
        return "logprob_a: not a finite number that is at most 0";
    if (item->score_generated && !is_logprob(result->logprob_b))
        return "logprob_b: not a finite number that is at most 0";
    return NULL;
}

static void fill_row(const struct coord_iteration *it, const struct proto_work_result *result,
                     const struct coord_item *item, struct store_result *row)
{
    *row = (struct store_result){
        .iteration = it->number,
        .set = result->set,
        .position = result->position,
        .prompt = item->prompt,
        .sample = item->sample,
        .source_iteration = item->source_iteration,
        .finish = item->kind == PROTO_WORK_SAMPLE ? result->finish : PROTO_FINISH_NONE,
        .ref_real = item->score_real ? result->logprob_a : NAN,
        .ref_generated = NAN,
    };
    if (item->kind == PROTO_WORK_SAMPLE) {
        row->ids = result->ids;
        row->ref_generated = result->logprob_ids;
    } else if (item->score_generated) {
        row->ref_generated = result->logprob_b;
    }
}

/* Checks one result; false: answered with an error. */
static bool check_result(struct coord_core *core, const struct coord_event *event,
                         const struct coord_run *run, uint32_t index, struct store_result *row)
{
    const struct proto_submit *submit = event->body;
    const struct proto_work_result *result = &submit->results[index];
    const struct coord_iteration *it = run->iteration;
    const char *fault = NULL;
    struct coord_item item;
    if (result->set >= COORD_SET_COUNT || result->position >= it->sets[result->set].count) {
        fault = "set or position is not in the plan";
    } else {
        const struct sp_digest *weights = iteration_set_weights(it, (enum proto_set)result->set);
        coord_item_at(&run->info.settings, &it->plan, (enum proto_set)result->set,
                      (uint32_t)result->position, &item);
        if (sp_digest_is_zero(weights))
            fault = "the checkpoint that it is about is not published yet";
        else if (!sp_digest_equal(&submit->checkpoint, weights))
            fault = "checkpoint: other weights than the set's";
        else
            fault = fault_of(run, result, &item);
    }
    if (fault) {
        core_reply_error(core, event->handle, SP_EINVAL, 0,
                         "submit: result %u (set %u, position %llu): %s", index, result->set,
                         (unsigned long long)result->position, fault);
        return false;
    }
    fill_row(it, result, &item, row);
    return true;
}

static bool takes_results(const struct coord_iteration *it)
{
    return it->state == COORD_RUNNING || it->state == COORD_PUBLISHING ||
           it->state == COORD_EVALUATING || it->state == COORD_PAUSED || it->state == COORD_FAILED;
}

static struct coord_run *run_of_submit(struct coord_core *core, const struct coord_event *event,
                                       const struct coord_worker *worker)
{
    const struct proto_submit *submit = event->body;
    struct coord_run *run = core_run(core, submit->run);
    if (!run)
        core_reply_error(core, event->handle, SP_ENOTFOUND, 0, "no run \"%.64s\"", submit->run);
    else if (!core_may_touch(event->who.runs, core_scope(run)))
        core_reply_error(core, event->handle, SP_EDENIED, 0, "the token is not for run %s",
                         run->info.name);
    else if (!core_worker_fits(run, worker))
        core_reply_error(core, event->handle, SP_EDENIED, 0,
                         "submit: numerics class \"%s\" is not the run's, \"%s\"",
                         worker->numerics_class, run->numerics_class);
    else if (submit->results_count == 0 || submit->results_count > SP_MAX_SUBMIT_RESULTS)
        core_reply_error(core, event->handle, SP_EINVAL, 0, "submit: %u results, 1 to %d allowed",
                         submit->results_count, SP_MAX_SUBMIT_RESULTS);
    else
        return run;
    return NULL;
}

void core_submit(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_submit *submit = event->body;
    struct coord_worker *worker = core_asker(core, event, submit->worker_id, PROTO_ROLE_GENERATOR);
    struct coord_run *run = worker ? run_of_submit(core, event, worker) : NULL;
    if (!run)
        return;
    struct coord_iteration *it = run->iteration;
    const struct coord_hold *hold = core_hold(core, worker->name);
    bool trusted = !hold || hold->kind != STORE_HOLD_QUARANTINED;
    if (!it || it->number != submit->iteration || !takes_results(it) || !trusted ||
        !core_born_of(run, submit->born)) {
        core_reply(core, event->handle, PROTO_SUBMIT_REPLY)->body.submit.refused =
            submit->results_count;
        return;
    }
    struct coord_write *write = core_write(COORD_W_RESULTS, run);
    write->rows = sp_xarray(submit->results_count, sizeof(*write->rows));
    for (uint32_t i = 0; i < submit->results_count; i++) {
        struct store_result *row = &write->rows[write->row_count];
        if (!check_result(core, event, run, i, row)) {
            coord_write_free(write);
            return;
        }
        uint8_t state = it->sets[row->set].state[row->position];
        if (state == KEY_SKIPPED || state == KEY_REVOKED)
            write->refused++;
        else
            write->row_count++;
    }
    struct coord_lease *lease = core_lease(core, submit->lease_id);
    if (lease && lease->worker == worker && !lease->lapsed) {
        lease->confirm_by_ms = COORD_NEVER;
        lease->expires_ms = core->now_ms + core->options.times.lease_ms;
    }
    write->actor = sp_xstrdup(worker->name);
    write->handle = event->handle;
    write->worker_id = worker->id;
    write->lease_id = submit->lease_id;
    write->attempt = it->attempt;
    core_send(core, write);
}

static void raise_alarm(struct coord_core *core, struct coord_run *run,
                        const struct coord_write *write, const struct coord_write_result *result)
{
    if (run->info.settings.numerics == RUN_NUMERICS_ANY)
        return;
    core->alarms++;
    struct coord_write *alarm = core_write(COORD_W_EVENT, run);
    alarm->iteration = write->iteration;
    core_write_event(alarm, write->actor, "alarm",
                     "%u results of %s differ from those stored by a worker of the same numerics "
                     "class; the first one is set %u, position %llu",
                     result->different, write->actor, result->different_set,
                     (unsigned long long)result->different_position);
    core_log(core, SP_LOG_ERROR, "run %s: %s", run->info.name, alarm->event_text);
    core_send(core, alarm);
}

static void note_rows(struct coord_core *core, struct coord_run *run, struct coord_write *write,
                      const struct coord_write_result *result)
{
    struct coord_iteration *it = run->iteration;
    bool same = it && it->number == write->iteration && it->attempt == write->attempt;
    uint32_t me = core_name(core, write->actor);
    for (uint32_t i = 0; i < write->row_count; i++) {
        const struct store_result *row = &write->rows[i];
        uint32_t position = (uint32_t)row->position;
        bool differs = result->different_rows[i / 64] & (1ull << (i % 64));
        if (same && !differs && set_store(&it->sets[row->set], position)) {
            verify_stored(core, run, (enum proto_set)row->set, position, me);
            if (row->set == PROTO_SET_TRAIN)
                coord_rate_add(&it->pair_rate, 1, core->now_ms);
            /* Another set may be handed out now. */
            if (set_complete(&it->sets[row->set]))
                core->work_changed = true;
        } else if (same) {
            verify_again(core, run, row, me, differs);
        }
        /* The lease may end, and its record go, with any of its keys. */
        struct coord_lease *lease = core_lease(core, write->lease_id);
        if (lease && lease->run == run && lease->iteration == write->iteration &&
            lease->set == (enum proto_set)row->set)
            lease_note_stored(core, lease, position);
    }
}

void core_results_written(struct coord_core *core, struct coord_write *write,
                          const struct coord_write_result *result)
{
    struct coord_run *run = core_run(core, write->run);
    core->pairs_changed = true;
    core_changed(core);
    if (write->kind == COORD_W_REFS) {
        if (run->iteration && run->iteration->attempt == write->attempt)
            run->iteration->refs_stored += result->stored;
        core_reply(core, write->handle, PROTO_REFS_SUBMIT_REPLY)->body.refs_submit.stored =
            write->row_count;
        return;
    }
    note_rows(core, run, write, result);
    struct coord_worker *worker = core_worker(core, write->worker_id);
    if (worker)
        worker->results += result->stored;
    if (run->iteration)
        coord_rate_add(&run->iteration->token_rate, (double)result->tokens, core->now_ms);
    if (result->different > 0)
        raise_alarm(core, run, write, result);
    struct coord_action *action = core_reply(core, write->handle, PROTO_SUBMIT_REPLY);
    action->body.submit = (struct proto_submit_reply){
        .stored = result->stored,
        .duplicates = result->duplicates + result->different,
        .refused = write->refused,
    };
    /* The others find nothing that they did not find before. */
    core_serve_worker(core, write->worker_id);
}

void core_refs_submit(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_refs_submit *submit = event->body;
    struct coord_run *run =
        core_fenced(core, event, submit->worker_id, submit->run, submit->iteration, submit->epoch);
    if (!run)
        return;
    struct coord_iteration *it = run->iteration;
    if (submit->results_count == 0 || submit->results_count > SP_MAX_SUBMIT_RESULTS) {
        core_reply_error(core, event->handle, SP_EINVAL, 0,
                         "refs_submit: %u results, 1 to %d allowed", submit->results_count,
                         SP_MAX_SUBMIT_RESULTS);
        return;
    }
    struct coord_write *write = core_write(COORD_W_REFS, run);
    write->rows = sp_xarray(submit->results_count, sizeof(*write->rows));
    write->row_count = submit->results_count;
    for (uint32_t i = 0; i < submit->results_count; i++) {
        const struct proto_work_result *result = &submit->results[i];
        struct coord_item item = {0};
        bool known = result->set == PROTO_SET_TRAIN && result->position < it->sets[0].count;
        if (known)
            coord_item_at(&run->info.settings, &it->plan, PROTO_SET_TRAIN,
                          (uint32_t)result->position, &item);
        if (!known || item.prompt != result->prompt || item.sample != result->sample ||
            !isfinite(result->logprob_a) || !isfinite(result->logprob_b)) {
            core_reply_error(core, event->handle, SP_EINVAL, 0,
                             "refs_submit: result %u (set %u, position %llu): not in the plan, or "
                             "not a finite number",
                             i, result->set, (unsigned long long)result->position);
            coord_write_free(write);
            return;
        }
        write->rows[i] = (struct store_result){
            .iteration = it->number,
            .position = result->position,
            .prompt = item.prompt,
            .sample = item.sample,
            .source_iteration = item.source_iteration,
            .ref_real = result->logprob_a,
            .ref_generated = result->logprob_b,
        };
    }
    write->handle = event->handle;
    write->attempt = it->attempt;
    core_send(core, write);
}

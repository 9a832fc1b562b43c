/* Live listings for people and for `spinctl watch`. */
#include <math.h>
#include <string.h>

#include "coordinator/core_internal.h"

/* JSON has no NaN: what is not a finite number is null. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *digest(const struct sp_digest *value)
{
    char hex[SP_DIGEST_HEX];
    if (sp_digest_is_zero(value))
        return json_null();
    sp_digest_hex(value, hex);
    return json_string(hex);
}

static const char *const set_names[COORD_SET_COUNT] = {
    "train",       "holdout",      "holdout_player", "eval_greedy",
    "eval_sampled", "base_greedy", "base_sampled",   "trained",
};

static json_t *sets_json(const struct coord_iteration *it)
{
    json_t *sets = json_object();
    for (int i = 0; i < COORD_SET_COUNT; i++) {
        const struct coord_set *set = &it->sets[i];
        if (set->count == 0)
            continue;
        json_object_set_new(sets, set_names[i],
                            json_pack("{s:I,s:I,s:I,s:I}", "total", (json_int_t)set->count, "done",
                                      (json_int_t)set->stored, "leased", (json_int_t)set->leased,
                                      "skipped", (json_int_t)set->skipped));
    }
    return sets;
}

static json_t *generation_json(const struct coord_core *core, struct coord_run *run,
                               int64_t now_ms)
{
    const struct coord_iteration *it = run->iteration;
    uint64_t done = 0, total = 0;
    for (int i = 0; i < COORD_SET_COUNT; i++) {
        bool counts = iteration_set_uses_opponent((enum proto_set)i) ||
                      it->state == COORD_EVALUATING;
        total += counts ? it->sets[i].count : 0;
        done += counts ? it->sets[i].stored + it->sets[i].skipped : 0;
    }
    const struct coord_set *train = &it->sets[PROTO_SET_TRAIN];
    double rate = coord_rate_per_s(&it->pair_rate, now_ms);
    uint32_t left = train->count - train->stored - train->skipped;
    double eta = left == 0 ? 0 : rate > 0 ? left / rate : NAN;
    return json_pack("{s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:I,s:o}", "pairs_done",
                     (json_int_t)(train->stored + train->skipped), "pairs_total",
                     (json_int_t)train->count, "items_done", (json_int_t)done, "items_total",
                     (json_int_t)total, "pairs_per_s", number(rate), "tokens_per_s",
                     number(coord_rate_per_s(&it->token_rate, now_ms)), "eta_s", number(eta),
                     "generators", (json_int_t)core_live_generators(core, run), "sets",
                     sets_json(it));
}

static json_t *step_json(const struct proto_step_metrics *step)
{
    if (step->step == 0)
        return json_null();
    json_t *object = json_object();
#define U32(name) json_object_set_new(object, #name, json_integer((json_int_t)step->name));
#define U64(name) U32(name)
#define BOOL(name) json_object_set_new(object, #name, json_boolean(step->name));
#define F64(name) json_object_set_new(object, #name, number(step->name));
#define STEP_FIELD(kind, name, help) kind(name)
#define STEP_LIST(item, name, help)
    PROTO_STEP_METRICS_FIELDS(STEP_FIELD, STEP_LIST)
#undef STEP_LIST
#undef STEP_FIELD
#undef F64
#undef BOOL
#undef U64
#undef U32
    return object;
}

static json_t *training_json(const struct coord_core *core, const struct coord_run *run,
                             int64_t now_ms)
{
    const struct coord_iteration *it = run->iteration;
    const struct coord_worker *trainer = core_worker(core, it->holder);
    uint64_t left = it->steps_total > it->step ? it->steps_total - it->step : 0;
    double eta = left == 0      ? 0
                 : it->step > 0 && it->milliseconds > 0
                     ? (double)left * (double)it->last_step.milliseconds / 1000.0
                     : NAN;
    json_t *awaited = it->awaiting ? json_integer(it->awaited) : json_null();
    return json_pack(
        "{s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:s,s:s,s:I,s:o,s:I}", "step",
        (json_int_t)it->step, "steps", (json_int_t)it->steps_total, "loss",
        number(it->step ? it->last_step.loss : NAN), "margin",
        number(it->step ? it->last_step.margin : NAN), "accuracy",
        number(it->step ? it->last_step.accuracy : NAN), "first", step_json(&it->first_step),
        "last", step_json(&it->last_step), "eta_s", number(eta), "tokens",
        (json_int_t)it->tokens_trained, "pairs", (json_int_t)it->pairs_trained, "identical",
        (json_int_t)it->identical, "trainer", trainer ? trainer->name : "", "activity",
        it->trainer_activity ? it->trainer_activity : "", "epoch", (json_int_t)it->epoch,
        "awaited_position", awaited, "tokens_per_s",
        (json_int_t)coord_rate_per_s(&it->train_rate, now_ms));
}

static json_t *run_json(const struct coord_core *core, struct coord_run *run, int64_t now_ms)
{
    const struct run_settings *settings = &run->info.settings;
    json_t *object = json_pack(
        "{s:s,s:i,s:s,s:I,s:b,s:I,s:I,s:I,s:I,s:s,s:b,s:o,s:o}", "run", run->info.name,
        "priority", run->priority, "mode", run_mode_names[settings->mode], "iterations",
        (json_int_t)settings->iterations, "stop_on_verdict", settings->stop_on_verdict,
        "next_iteration", (json_int_t)run->next_iteration, "prompts",
        (json_int_t)run->info.prompts[STORE_SPLIT_TRAIN], "holdout_prompts",
        (json_int_t)run->info.prompts[STORE_SPLIT_HOLDOUT], "eval_prompts",
        (json_int_t)run->info.prompts[STORE_SPLIT_EVAL], "numerics_class", run->numerics_class,
        "strict", settings->numerics == RUN_NUMERICS_STRICT, "base", digest(&run->info.base),
        "accepted", digest(&run->accepted));
    const struct coord_iteration *it = run->iteration;
    if (!it) {
        json_object_set_new(object, "iteration", json_null());
        return object;
    }
    json_t *brief = core_iteration_brief(run, false);
    json_object_del(brief, "created");
    json_object_set_new(brief, "state_for_ms", json_integer(now_ms - it->since_ms));
    json_object_set_new(brief, "resume", json_string(coord_state_name(it->resume)));
    json_object_set_new(brief, "opponent", digest(&it->opponent));
    json_object_set_new(brief, "checkpoint", digest(&it->checkpoint));
    json_object_set_new(brief, "verdict", it->verdict ? json_string(it->verdict) : json_null());
    json_object_set_new(brief, "accepted", json_boolean(it->accepted));
    json_object_set_new(brief, "verification", verify_json(core, run));
    json_object_set_new(brief, "generation", generation_json(core, run, now_ms));
    json_object_set_new(brief, "training", training_json(core, run, now_ms));
    json_object_set_new(object, "iteration", brief);
    return object;
}

/* The evaluations of a run's checkpoints: where they are; results are in the store. */
static json_t *evaluations_json(const struct coord_core *core, const struct coord_run *of)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < core->run_count; i++) {
        const struct coord_run *run = core->runs[i];
        if (!run->info.parent || strcmp(run->info.parent, of->info.name) != 0 || !run->iteration)
            continue;
        uint64_t done = 0, total = 0;
        for (int s = 0; s < COORD_SET_COUNT; s++) {
            done += run->iteration->sets[s].stored;
            total += run->iteration->sets[s].count;
        }
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:I,s:s,s:s,s:I,s:I}", "evaluation", run->info.name, "task",
                            run->info.task ? run->info.task : "", "iteration",
                            (json_int_t)run->info.parent_iteration, "state",
                            coord_state_name(run->iteration->state), "reason",
                            run->iteration->reason ? run->iteration->reason : "", "items_done",
                            (json_int_t)done, "items_total", (json_int_t)total));
    }
    return list;
}

json_t *coord_status(const struct coord_core *core, const char *name, int64_t now_ms)
{
    json_t *runs = json_array();
    uint32_t leases = 0;
    for (uint32_t i = 0; i < core->lease_count; i++)
        leases += !core->leases[i]->lapsed;
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_run *run = core->runs[i];
        if (name ? strcmp(name, run->info.name) != 0 : run->info.parent != NULL)
            continue;
        json_t *row = run_json(core, run, now_ms);
        json_object_set_new(row, "evaluations", evaluations_json(core, run));
        json_object_set_new(row, "evaluations_due",
                            json_boolean(run->evaluate_due || run->evaluating ||
                                         run->evaluate_again));
        json_array_append_new(runs, row);
    }
    return json_pack("{s:I,s:s,s:o,s:o,s:{s:I,s:I,s:I,s:I}}", "version",
                     (json_int_t)core->version, "software",
                     core->options.version ? core->options.version : "", "runs", runs, "workers",
                     coord_workers(core, now_ms), "counters", "leases", (json_int_t)leases,
                     "waiting_requests", (json_int_t)core->parked_count, "grants",
                     (json_int_t)core->grants, "alarms", (json_int_t)core->alarms);
}

static const char *role_name(enum proto_role role)
{
    return role == PROTO_ROLE_TRAINER ? "trainer" : "generator";
}

static const char *run_of_worker(const struct coord_core *core, const struct coord_worker *worker)
{
    if (worker->first_lease)
        return worker->first_lease->run->info.name;
    for (uint32_t i = 0; i < core->run_count; i++) {
        if (core->runs[i]->iteration && core->runs[i]->iteration->holder == worker->id)
            return core->runs[i]->info.name;
    }
    return "";
}

static const char *activity_of(const struct coord_core *core, const struct coord_worker *worker)
{
    for (uint32_t i = 0; worker->role == PROTO_ROLE_TRAINER && i < core->run_count; i++) {
        const struct coord_iteration *it = core->runs[i]->iteration;
        if (it && it->holder == worker->id && it->trainer_activity)
            return it->trainer_activity;
    }
    return worker->activity;
}

static const char *hold_name(const struct coord_core *core, const struct coord_worker *worker)
{
    const struct coord_hold *hold = core_hold(core, worker->name);
    return !hold ? "" : hold->kind == STORE_HOLD_CORDONED ? "cordoned" : "quarantined";
}

static const char *hold_reason(const struct coord_core *core, const struct coord_worker *worker)
{
    const struct coord_hold *hold = core_hold(core, worker->name);
    return hold ? hold->reason : "";
}

/* null where the worker does not say. */
static json_t *bytes_of(const struct coord_worker *worker, uint64_t bytes)
{
    return worker->memory_total > 0 ? json_integer((json_int_t)bytes) : json_null();
}

json_t *coord_workers(const struct coord_core *core, int64_t now_ms)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < core->worker_count && i < SP_MAX_LIST_ROWS; i++) {
        const struct coord_worker *worker = core->workers[i];
        int64_t silent = now_ms - worker->seen_ms;
        json_array_append_new(
            list,
            json_pack("{s:s,s:s,s:b,s:s,s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:o,"
                      "s:o,s:o,s:o}",
                      "name",
                      worker->name, "role", role_name(worker->role), "alive",
                      silent < core->options.times.worker_gone_ms, "hold", hold_name(core, worker),
                      "hold_reason", hold_reason(core, worker), "silent_ms", (json_int_t)silent,
                      "host", worker->host, "device", worker->device, "version", worker->version,
                      "numerics_class", worker->numerics_class, "activity",
                      activity_of(core, worker), "run", run_of_worker(core, worker), "slots",
                      (json_int_t)worker->slots, "leases", (json_int_t)worker->leases, "results",
                      (json_int_t)worker->results, "tokens_generated",
                      (json_int_t)worker->tokens_generated, "tokens_scored",
                      (json_int_t)worker->tokens_scored, "tokens_per_s",
                      number(worker->tokens_per_s), "memory_used",
                      bytes_of(worker, worker->memory_used), "memory_total",
                      bytes_of(worker, worker->memory_total), "busy",
                      worker->memory_total > 0 ? number(worker->busy) : json_null()));
    }
    return list;
}

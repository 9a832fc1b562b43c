#include "coordinator/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/base_model.h"
#include "coordinator/try.h"
#include "coordinator/work_item.h"

#define LOAD_ARENA_BYTES ((size_t)1 << 30)

struct load {
    struct store_run *run;
    struct ckpt_blobs *blobs;
    struct sp_arena *arena;
    struct coord_loaded *to;
};

void coord_loaded_deinit(struct coord_loaded *loaded)
{
    coord_run_info_deinit(&loaded->info);
    coord_iteration_info_deinit(&loaded->iteration);
    free(loaded->numerics_class);
    for (int i = 0; i < COORD_SET_COUNT; i++)
        free(loaded->stored[i]);
    free(loaded->skipped);
    free(loaded->source_skipped);
    for (int set = 0; set < COORD_SET_COUNT; set++)
        free(loaded->owners[set]);
    sp_names_deinit(&loaded->workers);
    *loaded = (struct coord_loaded){0};
}

/* The token that ends the data's answers ends a sampled one too. */
static enum sp_err add_end_of_data(const struct load *l, int32_t *ids, uint32_t *count,
                                   struct sp_error *err)
{
    if (l->to->info.prompts[STORE_SPLIT_TRAIN] == 0 || *count == COORD_MAX_STOP_IDS)
        return SP_OK;
    struct store_prompt prompt;
    SP_TRY(store_prompts_get(l->run, STORE_SPLIT_TRAIN, 0, 1, l->arena, &prompt, err));
    if (prompt.real_ids.count == 0)
        return SP_OK;
    int32_t last = prompt.real_ids.ids[prompt.real_ids.count - 1];
    for (uint32_t i = 0; i < *count; i++) {
        if (ids[i] == last)
            return SP_OK;
    }
    ids[(*count)++] = last;
    return SP_OK;
}

/* What the data record says of evaluations. */
static enum sp_err load_record(const struct load *l, const char *data, int32_t *stops,
                               uint32_t *count, struct sp_error *err)
{
    struct coord_run_info *info = &l->to->info;
    json_t *record = NULL;
    if (data[0] == '\0')
        return SP_OK;
    SP_TRY(sp_json_parse(data, strlen(data), "a run's data record", &record, err));
    info->has_tasks = json_array_size(json_object_get(record, "tasks")) > 0;
    if (info->settings.mode == RUN_MODE_EVALUATE) {
        const json_t *of = json_object_get(record, "evaluation");
        const char *parent = json_string_value(json_object_get(of, "of"));
        const char *task = json_string_value(json_object_get(of, "name"));
        info->parent = sp_xstrdup(parent ? parent : "");
        info->task = sp_xstrdup(task ? task : "");
        info->parent_iteration = json_integer_value(json_object_get(of, "iteration"));
        /* The template's end token, which its stop ids begin with. */
        json_int_t end = json_integer_value(json_array_get(json_object_get(record, "stop_ids"), 0));
        bool known = false;
        for (uint32_t i = 0; i < *count; i++)
            known = known || stops[i] == end;
        if (!known && *count < COORD_MAX_STOP_IDS)
            stops[(*count)++] = (int32_t)end;
    }
    json_decref(record);
    return SP_OK;
}

static enum sp_err load_info(const struct load *l, struct sp_error *err)
{
    struct coord_run_info *info = &l->to->info;
    struct store_run_info row;
    SP_TRY(store_run_info(l->run, l->arena, &row, err));
    info->name = sp_xstrdup(row.name);
    info->settings_json = sp_xstrdup(row.settings);
    info->data = row.data_digest;
    info->created_ms = row.created_ms;
    info->base = row.base;
    info->base_manifest = row.base_manifest;
    memcpy(info->prompts, row.prompts, sizeof(info->prompts));
    json_t *settings = NULL;
    SP_TRY(sp_json_parse(row.settings, strlen(row.settings), "settings", &settings, err));
    enum sp_err rc = run_settings_from_json(settings, &info->settings, err);
    json_decref(settings);
    if (rc)
        return rc;
    int32_t stops[COORD_MAX_STOP_IDS];
    uint32_t count = 0;
    SP_TRY(coord_base_model(l->blobs, &row.base_manifest, &info->vocab, stops, &count, err));
    SP_TRY(add_end_of_data(l, stops, &count, err));
    SP_TRY(load_record(l, row.data, stops, &count, err));
    info->stop_ids = sp_xmemdup(stops, count * sizeof(*stops));
    info->stop_count = count;
    info->length_keys = sp_xarray(info->prompts[STORE_SPLIT_TRAIN], sizeof(*info->length_keys));
    SP_TRY(store_prompt_lengths(l->run, STORE_SPLIT_TRAIN, info->length_keys, err));
    /* The pairs of an iteration are its new ones and as many that are replayed. */
    uint64_t n = info->prompts[STORE_SPLIT_TRAIN];
    for (uint32_t i = 0; i < COORD_GIVEN && info->settings.compat == RUN_COMPAT_UCLAML; i++) {
        info->given[i] = sp_xalloc((2 * n + 7) / 8);
        SP_TRY(store_given_bitmap(l->run, i, 2 * n, info->given[i], err));
    }
    return SP_OK;
}

static enum sp_err load_steps(const struct load *l, uint32_t number, struct sp_error *err)
{
    struct coord_iteration_info *it = &l->to->iteration;
    SP_TRY(store_step_sums(l->run, number, &it->sums, err));
    if (it->sums.steps == 0)
        return SP_OK;
    struct proto_step_metrics *steps;
    size_t count = 0;
    SP_TRY(store_steps_list(l->run, number, 0, 1, l->arena, &steps, &count, err));
    if (count == 1 && steps[0].step == 1)
        it->first_step = steps[0];
    SP_TRY(store_steps_list(l->run, number, it->sums.last_step - 1, 1, l->arena, &steps, &count,
                            err));
    if (count == 1)
        it->last_step = steps[0];
    return SP_OK;
}

/* Name of the trainer that holds the run, if one does. */
static enum sp_err load_holder(const struct load *l, struct sp_error *err)
{
    const char *name;
    SP_TRY(store_meta_get(l->run, "trainer", l->arena, &name, err));
    if (name[0] != '\0')
        l->to->iteration.trainer = sp_xstrdup(name);
    return SP_OK;
}

struct owners {
    struct coord_loaded *to;
    int set;
};

static void note_owner(void *context, uint64_t position, const char *worker)
{
    struct owners *o = context;
    struct coord_loaded *to = o->to;
    if (position >= to->positions[o->set] || worker[0] == '\0' ||
        strcmp(worker, STORE_GIVEN) == 0) /* the trainer's, the data's: nobody to distrust */
        return;
    to->owners[o->set][position] = sp_names_add(&to->workers, worker);
}

/* "iteration attempt epoch steps" of the newest rewind, where it is this attempt's. */
static enum sp_err load_rewind(const struct load *l, struct sp_error *err)
{
    struct coord_iteration_info *it = &l->to->iteration;
    const char *text;
    unsigned iteration = 0;
    unsigned long long attempt = 0, epoch = 0, steps = 0;
    SP_TRY(store_meta_get(l->run, "rewind", l->arena, &text, err));
    if (sscanf(text, "%u %llu %llu %llu", &iteration, &attempt, &epoch, &steps) == 4 &&
        iteration == it->number && attempt == it->attempt) {
        it->rewind_epoch = epoch;
        it->rewind_steps = steps;
    }
    return SP_OK;
}

static enum sp_err load_results(const struct load *l, const struct plan *plan, struct sp_error *err)
{
    struct coord_loaded *to = l->to;
    for (int set = 0; set < COORD_SET_COUNT; set++) {
        uint32_t n = coord_set_positions(&to->info.settings, plan, (enum proto_set)set,
                                         to->info.prompts);
        to->positions[set] = n;
        to->stored[set] = sp_xalloc((n + 7) / 8);
        uint64_t count;
        SP_TRY(store_results_bitmap(l->run, plan->iteration, (uint32_t)set, n, false,
                                    to->stored[set], &count, err));
        struct owners owners = {.to = to, .set = set};
        to->owners[set] = sp_xarray(n, sizeof(*to->owners[set]));
        SP_TRY(store_results_owners(l->run, plan->iteration, (uint32_t)set, note_owner, &owners,
                                    err));
    }
    uint32_t *skipped;
    SP_TRY(store_skips_list(l->run, plan->iteration, l->arena, &skipped, &to->skipped_count, err));
    to->skipped = sp_xmemdup(skipped, to->skipped_count * sizeof(*skipped));
    if (plan->replay_pairs == 0)
        return SP_OK;
    SP_TRY(store_skips_list(l->run, plan->iteration - 1, l->arena, &skipped,
                            &to->source_skipped_count, err));
    to->source_skipped = sp_xmemdup(skipped, to->source_skipped_count * sizeof(*skipped));
    return SP_OK;
}

static enum sp_err load_iteration(const struct load *l, const struct store_iteration *row,
                                  struct sp_error *err)
{
    struct coord_iteration_info *it = &l->to->iteration;
    l->to->has_iteration = true;
    *it = (struct coord_iteration_info){
        .number = row->iteration,
        .state = (enum coord_state)row->state,
        .resume = (enum coord_state)row->return_state,
        .reason = sp_xstrdup(row->reason),
        .attempt = row->attempt,
        .epoch = row->epoch,
        .opponent = row->opponent,
        .opponent_manifest = row->opponent_manifest,
        .checkpoint = row->checkpoint,
        .checkpoint_manifest = row->checkpoint_manifest,
        .verdict = row->verdict[0] ? sp_xstrdup(row->verdict) : NULL,
        .accepted = row->accepted,
    };
    struct plan plan;
    plan_init(&l->to->info.settings, row->iteration, l->to->info.prompts[STORE_SPLIT_TRAIN], &plan);
    struct sp_digest digest;
    plan_digest(&plan, &l->to->info.data, &digest);
    if (!sp_digest_equal(&digest, &row->plan))
        return sp_fail(err, SP_ECORRUPT, "iteration %u: its plan is not that of the settings",
                       row->iteration);
    SP_TRY(load_steps(l, row->iteration, err));
    SP_TRY(load_holder(l, err));
    SP_TRY(load_rewind(l, err));
    SP_TRY(load_results(l, &plan, err));
    if (plan.order != RUN_ORDER_GAP)
        return SP_OK;
    uint32_t pairs = plan_pairs(&plan);
    uint32_t *order = sp_xarray(pairs, sizeof(*order));
    enum sp_err rc = store_gap_order_get(l->run, row->iteration, pairs, order, err);
    if (rc == SP_OK)
        it->gap_order = order;
    else
        free(order);
    return rc == SP_ENOTFOUND ? SP_OK : rc;
}

static enum sp_err load_all(const struct load *l, struct sp_error *err)
{
    struct coord_loaded *to = l->to;
    SP_TRY(load_info(l, err));
    const char *class;
    SP_TRY(store_meta_get(l->run, "numerics_class", l->arena, &class, err));
    to->numerics_class = sp_xstrdup(class);
    const char *priority;
    SP_TRY(store_meta_get(l->run, "priority", l->arena, &priority, err));
    to->priority = (int32_t)strtol(priority, NULL, 10);
    to->accepted = to->info.base;
    to->accepted_manifest = to->info.base_manifest;
    struct store_iteration *rows;
    size_t count;
    SP_TRY(store_iterations_list(l->run, l->arena, &rows, &count, err));
    for (size_t i = 0; i < count; i++) {
        to->next_iteration = rows[i].iteration + 1;
        if (rows[i].state != STORE_STATE_CLOSED || !rows[i].accepted)
            continue;
        to->accepted = rows[i].checkpoint;
        to->accepted_manifest = rows[i].checkpoint_manifest;
    }
    return count > 0 ? load_iteration(l, &rows[count - 1], err) : SP_OK;
}

enum sp_err coord_load_run(struct store *store, struct ckpt_blobs *blobs, const char *name,
                           struct coord_loaded *ret, struct sp_error *err)
{
    struct coord_loaded loaded = {0};
    struct load load = {.blobs = blobs, .to = &loaded};
    enum sp_err rc = store_run_open(store, name, &load.run, err);
    if (!rc) {
        load.arena = sp_arena_new(1 << 16, LOAD_ARENA_BYTES);
        rc = load_all(&load, err);
        sp_arena_free(load.arena);
    }
    if (rc) {
        coord_loaded_deinit(&loaded);
        return sp_wrap(err, rc, "load run %s", name);
    }
    *ret = loaded;
    return SP_OK;
}

enum sp_err coord_load_add(struct coord_core *core, struct coord_loaded *loaded, int64_t now_ms,
                           struct sp_error *err)
{
    char *name = sp_xstrdup(loaded->info.name);
    enum sp_err rc = SP_OK;
    coord_core_add_run(core, &loaded->info, &loaded->accepted, &loaded->accepted_manifest,
                       loaded->next_iteration, loaded->numerics_class, now_ms);
    coord_core_set_priority(core, name, loaded->priority);
    if (loaded->has_iteration) {
        coord_core_add_iteration(core, name, &loaded->iteration, now_ms);
        for (int set = 0; set < COORD_SET_COUNT; set++) {
            for (uint32_t p = 0; !rc && p < loaded->positions[set]; p++) {
                if (!(loaded->stored[set][p / 8] & (1u << (p % 8))))
                    continue;
                rc = coord_core_set_stored(core, name, (enum proto_set)set, p, err);
                uint32_t owner = loaded->owners[set] ? loaded->owners[set][p] : 0;
                if (!rc && owner > 0)
                    coord_core_set_owner(core, name, (enum proto_set)set, p,
                                         loaded->workers.texts[owner - 1]);
            }
        }
        for (size_t i = 0; i < loaded->skipped_count; i++)
            coord_core_set_skipped(core, name, loaded->skipped[i]);
        for (size_t i = 0; i < loaded->source_skipped_count; i++)
            coord_core_set_source_skipped(core, name, loaded->source_skipped[i]);
    }
    free(name);
    coord_loaded_deinit(loaded);
    return rc;
}

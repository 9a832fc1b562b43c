#include "coordinator/evaluation.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/evaluation_internal.h"
#include "coordinator/try.h"
#include "proto/plan.h"

bool coord_is_evaluation(const char *run)
{
    return strncmp(run, COORD_EVALUATION_PREFIX, strlen(COORD_EVALUATION_PREFIX)) == 0;
}

/* ---- what it is made of ---- */

/* What the run decides of the evaluations of its checkpoints. */
static enum sp_err settings_of(struct evaluation *e, struct sp_error *err)
{
    const char *of = json_string_value(json_object_get(e->args, "of"));
    struct sp_arena *arena = sp_arena_new(1 << 16, 64 << 20);
    struct store_run *run = NULL;
    struct store_run_info info;
    json_t *json = NULL;
    enum sp_err rc = store_run_open(e->request->store, of ? of : "", &run, err);
    if (rc == SP_OK)
        rc = store_run_info(run, arena, &info, err);
    if (rc == SP_OK)
        rc = sp_json_parse(info.settings, strlen(info.settings), "settings", &json, err);
    if (rc == SP_OK)
        rc = run_settings_from_json(json, &e->settings, err);
    json_decref(json);
    sp_arena_free(arena);
    return rc;
}

static void set(char **field, const char *value)
{
    free(*field);
    *field = sp_xstrdup(value);
}

/* The settings of the evaluation itself: the run's numerics, the task's lengths. */
static void adjust_settings(struct evaluation *e)
{
    const struct task_settings *task = task_settings_of(e->task);
    struct run_settings *s = &e->settings;
    s->mode = RUN_MODE_EVALUATE;
    s->iterations = 1;
    s->replay = RUN_REPLAY_NONE;
    s->order = RUN_ORDER_SHUFFLE;
    s->temperature = 0;
    s->top_k = 0;
    s->top_p = 1;
    s->trained_sample = 0;
    s->max_prompt_tokens = 0;
    s->max_new_tokens = task->max_new_tokens;
    bool shared = task->kind == TASK_TRUTHFULQA || (task->kind == TASK_CHOICE && !task->partial);
    s->samples_per_prompt = shared ? 2 : 1;
    set(&s->train, "");
    set(&s->holdout, "");
    set(&s->eval, "");
    set(&s->base, "");
    set(&s->evaluate, "");
    bool chat = task->kind == TASK_SHEET || task->template == TASK_TEMPLATE_MODEL;
    if (!chat)
        set(&s->template_name, "none");
    set(&s->name, "evaluation");
}

/* A digest of all that decides the results. */
static enum sp_err name_it(struct evaluation *e, struct sp_error *err)
{
    static const char *const keys[] = {"manifest", "task",     "data", "fewshot",
                                       "limit",    "previous", "of"};
    json_t *all = json_object();
    for (size_t i = 0; i < SP_COUNT(keys); i++) {
        json_t *value = json_object_get(e->args, keys[i]);
        if (value != NULL)
            json_object_set(all, keys[i], value);
    }
    json_object_set_new(all, "settings", sp_config_to_json(&run_settings_spec, &e->settings));
    char *text = sp_json_canonical(all), hex[SP_DIGEST_HEX];
    json_decref(all);
    if (text == NULL)
        return sp_fail(err, SP_EINTERNAL, "name an evaluation");
    struct sp_digest digest;
    sp_sha256_of(text, strlen(text), &digest);
    sp_digest_hex(&digest, hex);
    e->name = sp_xprintf("%s%.24s", COORD_EVALUATION_PREFIX, hex);
    set(&e->settings.name, e->name);
    free(text);
    return SP_OK;
}

static enum sp_err open_evaluation(const struct coord_evaluate *request, const json_t *args,
                                   struct evaluation *e, struct sp_error *err)
{
    const char *text = json_string_value(json_object_get(args, "task"));
    const char *file = json_string_value(json_object_get(args, "file"));
    *e = (struct evaluation){.request = request, .args = args};
    e->base.manifest = (struct ckpt_manifest)CKPT_MANIFEST_INIT;
    sp_config_init(&run_settings_spec, &e->settings);
    if (text == NULL)
        return sp_fail(err, SP_EFORMAT, "evaluate: field \"task\": missing");
    SP_TRY(task_new(text, strlen(text), file ? file : "task", &e->task, err));
    SP_TRY(settings_of(e, err));
    adjust_settings(e);
    return name_it(e, err);
}

static void close_evaluation(struct evaluation *e)
{
    free(e->name);
    task_free(e->task);
    sp_config_deinit(&run_settings_spec, &e->settings);
    create_base_deinit(&e->base);
    free(e->encoder.prefix_text);
    json_decref(e->rows);
    json_decref(e->answers);
    store_builder_free(e->builder);
}

/* ---- the model's texts ---- */

static int32_t token_named(const json_t *config, const char *key,
                           const struct tok_tokenizer *tokenizer, const char **ret_text)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    const char *text = json_string_value(value);
    int32_t id = text ? tok_id_of(tokenizer, text) : -1;
    if (id >= 0)
        *ret_text = text;
    return id;
}

/* The token that stands for an empty context: BOS, else EOS, as tokenizer_config.json names them.
 */
static enum sp_err make_encoder(struct evaluation *e, const char *dir, struct sp_error *err)
{
    char *path = sp_path_join(dir, "tokenizer_config.json");
    json_t *config = NULL;
    const char *text = "";
    enum sp_err rc = SP_OK;
    if (sp_path_exists(path))
        rc = sp_json_load(path, SP_MAX_CONFIG_JSON, &config, err);
    free(path);
    if (rc != SP_OK)
        return rc;
    int32_t id = token_named(config, "bos_token", e->base.model.tokenizer, &text);
    if (id < 0)
        id = token_named(config, "eos_token", e->base.model.tokenizer, &text);
    if (id < 0)
        id = e->base.model.eos_id;
    e->encoder = (struct task_encoder){
        .tokenizer = e->base.model.tokenizer,
        .prefix_id = id,
        .prefix_text = sp_xstrdup(text),
        .max_tokens = SP_MIN(e->base.model.positions.count, (int64_t)SP_MAX_SEQUENCE_TOKENS),
    };
    json_decref(config);
    return SP_OK;
}

static enum sp_err load_base(struct evaluation *e, const char *dir, struct sp_error *err)
{
    const char *hex = json_string_value(json_object_get(e->args, "manifest"));
    struct create_args args = {.settings = e->settings};
    SP_TRY(sp_digest_parse(hex ? hex : "", &args.base, err));
    SP_TRY(create_base_load(e->request->blobs, &args, dir, &e->base, err));
    SP_TRY(make_encoder(e, dir, err));
    SP_TRY(store_builder_refs(e->builder, "base", &args.base, 1, err));
    for (size_t i = 0; i < e->base.manifest.count; i++) {
        const struct ckpt_manifest_file *file = &e->base.manifest.files[i];
        const char *owner = create_is_weights(file->path) ? STORE_OWNER_WEIGHTS : "base";
        SP_TRY(store_builder_refs(e->builder, owner, file->chunks, file->chunk_count, err));
    }
    return SP_OK;
}

/* ---- sheets: answers to the turns before ---- */

static void keep_answer(void *context, json_t *item)
{
    struct evaluation *e = context;
    json_t *before = json_object_get(item, "before"), *answers = json_array();
    json_array_extend(answers, before);
    json_array_append(answers, json_object_get(item, "answer"));
    size_t number = (size_t)json_integer_value(json_object_get(item, "item"));
    while (json_array_size(e->answers) <= number)
        json_array_append_new(e->answers, json_array());
    json_array_set_new(e->answers, number, answers);
    json_decref(item);
}

static enum sp_err load_answers(struct evaluation *e, struct sp_error *err)
{
    const char *name = json_string_value(json_object_get(e->args, "previous"));
    struct store_run *run = NULL;
    if (name == NULL)
        return SP_OK;
    e->answers = json_array();
    SP_TRY(store_run_open(e->request->store, name, &run, err));
    for (uint32_t at = 0; at != UINT32_MAX;)
        SP_TRY(coord_evaluation_items(run, e->request->query, at, 256, true, keep_answer, e, &at,
                                      err));
    return SP_OK;
}

/* ---- the file ---- */

/* What listings know of it without opening anything else. */
static json_t *record_of(const struct evaluation *e)
{
    const struct task_settings *task = task_settings_of(e->task);
    json_t *stop_ids = json_array();
    for (size_t i = 0; i < e->base.model.stop_count; i++)
        json_array_append_new(stop_ids, json_integer(e->base.model.stop_ids[i]));
    json_t *record = json_pack("{s:i,s:o,s:{}}", "vocab", (int)e->base.model.vocab, "stop_ids",
                               stop_ids, "evaluation");
    json_t *evaluation = json_object_get(record, "evaluation"), *value;
    const char *key;
    json_object_foreach((json_t *)e->args, key, value)
    {
        json_object_set(evaluation, key, value);
    }
    json_object_set_new(evaluation, "name", json_string(task->name));
    json_object_set_new(evaluation, "headline", json_string(task_headline(e->task)));
    json_object_set_new(evaluation, "problems", json_integer((json_int_t)e->problems));
    json_object_set_new(evaluation, "cut", json_integer((json_int_t)e->cut));
    return record;
}

/* Its one iteration waits for nothing but the work. */
static enum sp_err add_iteration(struct evaluation *e, const struct sp_digest *manifest,
                                 struct sp_error *err)
{
    struct plan plan;
    struct sp_digest data;
    plan_init(&e->settings, 0, 0, &plan);
    store_builder_digest(e->builder, &data);
    struct store_iteration row = {
        .state = STORE_STATE_EVALUATING,
        .return_state = STORE_STATE_EVALUATING,
        .reason = "",
        .opponent = e->base.manifest.digest,
        .opponent_manifest = *manifest,
        .checkpoint = e->base.manifest.digest,
        .checkpoint_manifest = *manifest,
        .seed = plan.seed,
        .samples_per_prompt = plan.samples_per_prompt,
        .order = (uint32_t)plan.order,
        .created_ms = e->request->now_ms,
        .started_ms = e->request->now_ms,
        .verdict = "",
        .summary = "",
    };
    plan_digest(&plan, &data, &row.plan);
    return store_builder_iteration(e->builder, &row, err);
}

static enum sp_err finish(struct evaluation *e, struct sp_error *err)
{
    struct sp_digest manifest;
    const char *hex = json_string_value(json_object_get(e->args, "manifest"));
    const char *class = json_string_value(json_object_get(e->args, "numerics_class"));
    SP_TRY(sp_digest_parse(hex, &manifest, err));
    e->settings.max_sequence_tokens =
        SP_MIN(SP_MAX(e->longest + 1, (int64_t)2), (int64_t)SP_MAX_SEQUENCE_TOKENS);
    if (class != NULL && class[0])
        SP_TRY(store_builder_meta(e->builder, "numerics_class", class, err));
    SP_TRY(add_iteration(e, &manifest, err));
    json_t *record = record_of(e), *settings = sp_config_to_json(&run_settings_spec, &e->settings);
    char *record_text = sp_json_canonical(record), *settings_text = sp_json_canonical(settings);
    struct store_run_info info = {
        .name = e->name,
        .created_ms = e->request->now_ms,
        .settings = settings_text,
        .base = e->base.manifest.digest,
        .base_manifest = manifest,
        .data = record_text,
        .base_bytes = e->base.manifest.bytes,
    };
    enum sp_err rc = store_builder_finish(e->builder, &info, err);
    json_decref(record);
    json_decref(settings);
    free(record_text);
    free(settings_text);
    return rc;
}

static enum sp_err build(struct evaluation *e, const char *dir, struct sp_error *err)
{
    SP_TRY(sp_remove_tree(dir, err));
    SP_TRY(sp_mkdir_p(dir, 0700, err));
    char *base = sp_path_join(dir, "base");
    enum sp_err rc = load_base(e, base, err);
    free(base);
    if (rc != SP_OK)
        return rc;
    SP_TRY(load_answers(e, err));
    SP_TRY(evaluation_read(e, err));
    SP_TRY(evaluation_add_rows(e, err));
    if (e->counts[STORE_SPLIT_EVAL] + e->counts[STORE_SPLIT_HOLDOUT] == 0)
        return sp_fail(err, SP_EFORMAT, "the task has no problems");
    return finish(e, err);
}

static enum sp_err make(struct evaluation *e, struct sp_error *err)
{
    const struct coord_evaluate *request = e->request;
    enum sp_err rc =
        store_builder_open(request->state_dir, e->name, request->options, &e->builder, err);
    if (rc != SP_OK)
        return rc;
    char *tmp = sp_path_join(request->state_dir, "tmp"), *dir = sp_path_join(tmp, e->name);
    struct sp_error ignored;
    rc = build(e, dir, err);
    (void)(sp_remove_tree(dir, &ignored) == SP_OK);
    free(tmp);
    free(dir);
    return rc;
}

enum sp_err coord_evaluate(const struct coord_evaluate *request, const json_t *args,
                           char **ret_name, bool *ret_new, struct sp_error *err)
{
    struct evaluation e;
    struct store_run *run = NULL;
    struct sp_error ignored;
    bool made = false;
    enum sp_err rc = open_evaluation(request, args, &e, err);
    if (rc == SP_OK && store_run_open(request->store, e.name, &run, &ignored) != SP_OK) {
        rc = make(&e, err);
        made = rc == SP_OK;
    }
    if (rc == SP_OK) {
        *ret_name = sp_xstrdup(e.name);
        *ret_new = made;
    } else {
        sp_wrap(err, rc, "evaluate");
    }
    close_evaluation(&e);
    return rc;
}

/* ---- what a run asks for ---- */

/* One task for one checkpoint. *ret stays NULL when the evaluation is there. */
static enum sp_err look_for(const struct coord_evaluate *request, const char *of, const char *class,
                            const struct store_checkpoint *checkpoint, const json_t *task,
                            json_t **ret, struct sp_error *err)
{
    char digest[SP_DIGEST_HEX], manifest[SP_DIGEST_HEX];
    struct evaluation e;
    struct store_run *run = NULL;
    struct sp_error ignored;
    sp_digest_hex(&checkpoint->digest, digest);
    sp_digest_hex(&checkpoint->manifest, manifest);
    json_t *args = json_copy((json_t *)task);
    json_object_set_new(args, "of", json_string(of));
    json_object_set_new(args, "iteration", json_integer(checkpoint->iteration));
    json_object_set_new(args, "checkpoint", json_string(digest));
    json_object_set_new(args, "manifest", json_string(manifest));
    json_object_set_new(args, "numerics_class", json_string(class));
    enum sp_err rc = open_evaluation(request, args, &e, err);
    if (rc == SP_OK && store_run_open(request->store, e.name, &run, &ignored) != SP_OK)
        *ret = json_incref(args);
    close_evaluation(&e);
    json_decref(args);
    return rc;
}

static enum sp_err search_missing(const struct coord_evaluate *request, struct store_run *run,
                                  struct sp_arena *arena, json_t **ret, struct sp_error *err)
{
    struct store_run_info info;
    struct store_checkpoint *list = NULL;
    const char *class = "";
    size_t count = 0;
    json_t *data = NULL;
    SP_TRY(store_run_info(run, arena, &info, err));
    SP_TRY(store_checkpoints_list(run, arena, &list, &count, err));
    SP_TRY(store_meta_get(run, "numerics_class", arena, &class, err));
    SP_TRY(sp_json_parse(info.data, strlen(info.data), "data", &data, err));
    const json_t *tasks = json_object_get(data, "tasks");
    enum sp_err rc = SP_OK;
    for (size_t c = 0; c < count && *ret == NULL && rc == SP_OK; c++) {
        for (size_t t = 0; t < json_array_size(tasks) && *ret == NULL && rc == SP_OK; t++)
            rc = look_for(request, info.name, class, &list[c], json_array_get(tasks, t), ret, err);
    }
    json_decref(data);
    return rc;
}

enum sp_err coord_evaluation_missing(const struct coord_evaluate *request, const char *name,
                                     json_t **ret_args, struct sp_error *err)
{
    struct store_run *run = NULL;
    *ret_args = NULL;
    SP_TRY(store_run_open(request->store, name, &run, err));
    struct sp_arena *arena = sp_arena_new(1 << 16, 64 << 20);
    enum sp_err rc = search_missing(request, run, arena, ret_args, err);
    sp_arena_free(arena);
    return rc;
}

#include "coordinator/create_run.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/materialise.h"
#include "coordinator/create_run_internal.h"
#include "coordinator/try.h"

/* All digests of a manifest: its own and its chunks'. */
static enum sp_err add_refs(struct store_builder *builder, const char *owner,
                            const struct sp_digest *sha256, const struct ckpt_manifest *manifest,
                            struct sp_error *err)
{
    enum sp_err rc = store_builder_refs(builder, owner, sha256, 1, err);
    for (size_t i = 0; i < manifest->count && rc == SP_OK; i++)
        rc = store_builder_refs(builder, owner, manifest->files[i].chunks,
                                manifest->files[i].chunk_count, err);
    return rc;
}

static const char *file_name(const struct create_args *args, int file)
{
    const struct run_settings *s = &args->settings;
    const char *const names[CREATE_FILES] = {s->train,       s->holdout,     s->eval,
                                             s->generated_1, s->generated_2, s->generated_3};
    return names[file];
}

/* What becomes a run, while it is made. */
struct making {
    const struct coord_create_run *request;
    const struct create_args *args;
    struct create_base base;
    struct store_builder *builder;
    struct data_rows rows;
};

/* A dataset from its one-file manifest to `dir`. Messages name it as the run file does. */
static enum sp_err put_dataset(struct making *m, int file, const char *dir, struct sp_error *err)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    const struct sp_digest *sha256 = &m->args->data[file];
    struct ckpt_blobs *blobs = m->request->blobs;
    char *what = sp_xprintf("[data] %s", create_file_names[file]);
    enum sp_err rc = create_manifest(blobs, what, sha256, &manifest, err);
    if (rc == SP_OK && manifest.count != 1)
        rc = sp_fail(err, SP_EFORMAT, "%s: its manifest has %zu files, expected one", what,
                     manifest.count);
    if (rc == SP_OK)
        rc = ckpt_materialise(&manifest, dir, ckpt_blobs_fetch, blobs, NULL, NULL, err);
    if (rc == SP_OK)
        rc = add_refs(m->builder, "data", sha256, &manifest, err);
    if (rc == SP_OK) {
        const char *name = file_name(m->args, file);
        bool split = file < DATA_SPLITS;
        *(split ? &m->rows.paths[file] : &m->rows.given_paths[file - DATA_SPLITS]) =
            sp_path_join(dir, manifest.files[0].path);
        *(split ? &m->rows.names[file] : &m->rows.given_names[file - DATA_SPLITS]) =
            sp_xstrdup(name[0] ? name : manifest.files[0].path);
    }
    ckpt_manifest_deinit(&manifest);
    free(what);
    return rc;
}

static struct proto_ids view(const struct tok_ids *ids)
{
    return (struct proto_ids){.ids = ids->ids, .count = (uint32_t)ids->count};
}

_Static_assert((int)DATA_TRAIN == STORE_SPLIT_TRAIN && (int)DATA_HOLDOUT == STORE_SPLIT_HOLDOUT &&
                   (int)DATA_EVAL == STORE_SPLIT_EVAL && DATA_SPLITS == STORE_SPLITS,
               "splits have the same numbers in data and store");

static enum sp_err store_row(void *context, enum data_split split, const struct data_prompt *row,
                             struct sp_error *err)
{
    struct store_prompt prompt = {
        .index = row->index,
        .prompt_ids = view(row->prompt),
        .real_ids = view(row->real),
        .sample_ids = view(row->sample),
        .response = row->response,
    };
    struct making *m = context;
    /* uclaml's given answers belong to an iteration: store_given. */
    if (m->args->settings.compat == RUN_COMPAT_NONE)
        prompt.rejected_ids = view(row->rejected);
    return store_builder_add(m->builder, (enum store_split)split, &prompt, err);
}

static enum sp_err store_given(void *context, uint32_t iteration, uint32_t index,
                               const struct tok_ids *answer, struct sp_error *err)
{
    struct proto_ids ids = view(answer);
    return store_builder_given(((struct making *)context)->builder, iteration, index, &ids, err);
}

static bool ask_cancelled(void *context, uint64_t done, uint64_t total)
{
    const struct coord_create_run *request = ((struct making *)context)->request;
    return request->cancelled && request->cancelled(request->context);
}

/* The report, and which files the run was made of. */
static json_t *report_of(struct making *m)
{
    json_t *report = data_report(&m->rows), *files = json_object();
    for (int i = 0; i < CREATE_FILES; i++) {
        char hex[SP_DIGEST_HEX];
        if (!m->args->has_data[i])
            continue;
        sp_digest_hex(&m->args->data[i], hex);
        json_object_set_new(
            files, create_file_names[i],
            json_pack("{s:s, s:s}", "manifest", hex, "name",
                      i < DATA_SPLITS ? m->rows.names[i] : m->rows.given_names[i - DATA_SPLITS]));
    }
    json_object_set_new(report, "files", files);
    if (m->args->tasks)
        json_object_set(report, "tasks", (json_t *)m->args->tasks);
    return report;
}

/* The data of evaluation tasks stay with the run. */
static enum sp_err keep_tasks(struct making *m, struct sp_error *err)
{
    static const char *const keys[] = {"data", "fewshot"};
    const json_t *tasks = m->args->tasks;
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < 2 * json_array_size(tasks) && rc == SP_OK; i++) {
        const json_t *hex = json_object_get(json_array_get(tasks, i / 2), keys[i % 2]);
        struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
        struct sp_digest sha256;
        if (!json_is_string(hex))
            continue;
        rc = sp_digest_parse(json_string_value(hex), &sha256, err);
        if (rc == SP_OK)
            rc = create_manifest(m->request->blobs, "[evaluation] evaluate", &sha256, &manifest,
                                 err);
        if (rc == SP_OK)
            rc = add_refs(m->builder, "data", &sha256, &manifest, err);
        ckpt_manifest_deinit(&manifest);
    }
    return rc;
}

static enum sp_err finish(struct making *m, const json_t *report, struct sp_error *err)
{
    char *data = sp_json_canonical(report);
    json_t *canonical = sp_config_to_json(&run_settings_spec, &m->args->settings);
    char *settings = sp_json_canonical(canonical);
    json_decref(canonical);
    struct store_run_info info = {
        .name = m->args->settings.name,
        .created_ms = m->request->now_ms,
        .settings = settings,
        .base = m->base.manifest.digest,
        .base_manifest = m->args->base,
        .data = data,
        .base_bytes = m->base.manifest.bytes,
    };
    enum sp_err rc = store_builder_finish(m->builder, &info, err);
    free(data);
    free(settings);
    return rc;
}

/* Everything between an open builder and a finished one. dir: empty, ours, removed by the caller.
 */
static enum sp_err build(struct making *m, const char *dir, json_t **ret_report,
                         struct sp_error *err)
{
    char *base_dir = sp_path_join(dir, "base");
    json_t *report = NULL;
    enum sp_err rc = create_base_load(m->request->blobs, m->args, base_dir, &m->base, err);
    if (rc == SP_OK)
        rc = add_refs(m->builder, "base", &m->args->base, &m->base.manifest, err);
    for (int i = 0; i < CREATE_FILES && rc == SP_OK; i++) {
        if (!m->args->has_data[i])
            continue;
        char *data_dir = sp_path_join(dir, create_file_names[i]);
        rc = put_dataset(m, i, data_dir, err);
        free(data_dir);
    }
    if (rc == SP_OK)
        rc = keep_tasks(m, err);
    if (rc == SP_OK)
        rc = data_rows_run(&m->rows, err);
    if (rc == SP_OK) {
        report = report_of(m);
        rc = finish(m, report, err);
    }
    if (rc == SP_OK)
        *ret_report = json_incref(report);
    json_decref(report);
    free(base_dir);
    return rc;
}

enum sp_err coord_create_run(const struct coord_create_run *request, char **ret_name,
                             char **ret_report, struct sp_error *err)
{
    struct create_args args = {0};
    struct store_builder *builder = NULL;
    json_t *report = NULL;
    enum sp_err rc = create_args_parse(request->args, &args, err);
    if (rc != SP_OK)
        return rc;
    const char *name = args.settings.name;
    char *tmp = sp_path_join(request->state_dir, "tmp");
    char *dir = sp_path_join(tmp, name);
    rc = store_builder_open(request->state_dir, name, request->options, &builder, err);
    /* The builder is ours alone now, so the directory of its name is, too. */
    if (rc == SP_OK)
        rc = sp_remove_tree(dir, err);
    if (rc == SP_OK)
        rc = sp_mkdir_p(dir, 0700, err);
    struct making making = {
        .request = request,
        .args = &args,
        .base = {.manifest = CKPT_MANIFEST_INIT},
        .builder = builder,
        .rows = {.settings = &args.settings,
                 .model = &making.base.model,
                 .add = store_row,
                 .add_given = store_given,
                 .add_context = &making,
                 .step = ask_cancelled,
                 .step_context = &making},
    };
    if (rc == SP_OK)
        rc = build(&making, dir, &report, err);
    data_rows_deinit(&making.rows);
    create_base_deinit(&making.base);
    if (builder) {
        struct sp_error ignored;
        (void)(sp_remove_tree(dir, &ignored) == SP_OK);
    }
    store_builder_free(builder);
    if (rc == SP_OK) {
        *ret_name = sp_xstrdup(name);
        *ret_report = sp_json_canonical(report);
    }
    json_decref(report);
    create_args_deinit(&args);
    free(tmp);
    free(dir);
    return rc;
}

enum sp_err coord_create_run_name(const char *args, char **ret_name, struct sp_error *err)
{
    struct create_args parsed = {0};
    enum sp_err rc = create_args_parse(args, &parsed, err);
    if (rc != SP_OK)
        return rc;
    *ret_name = sp_xstrdup(parsed.settings.name);
    create_args_deinit(&parsed);
    return SP_OK;
}

/* ---- a repeated create-run ---- */

/* Paths are where the files lay; their digests say what they are, and are compared. */
static json_t *without_paths(const struct run_settings *settings)
{
    static const char *const paths[] = {"data.train",       "data.holdout",     "data.eval",
                                        "data.generated_1", "data.generated_2", "data.generated_3",
                                        "model.base"};
    json_t *object = sp_config_to_json(&run_settings_spec, settings);
    for (size_t i = 0; i < SP_COUNT(paths); i++)
        json_object_del(object, paths[i]);
    return object;
}

/* What the version that made the run did not know has its default. */
static enum sp_err same_settings(const char *stored, const struct run_settings *wanted,
                                 bool *ret_same, struct sp_error *err)
{
    struct run_settings settings;
    json_t *object = NULL;
    SP_TRY(sp_json_parse(stored, strlen(stored), "stored settings", &object, err));
    sp_config_init(&run_settings_spec, &settings);
    enum sp_err rc = run_settings_from_json(object, &settings, err);
    json_t *a = without_paths(&settings), *b = without_paths(wanted);
    *ret_same = json_equal(a, b);
    json_decref(a);
    json_decref(b);
    json_decref(object);
    sp_config_deinit(&run_settings_spec, &settings);
    return rc;
}

static bool same_files(const struct create_args *args, const json_t *report)
{
    const json_t *files = json_object_get(report, "files");
    for (int i = 0; i < CREATE_FILES; i++) {
        char hex[SP_DIGEST_HEX] = "";
        if (args->has_data[i])
            sp_digest_hex(&args->data[i], hex);
        const json_t *file = json_object_get(files, create_file_names[i]);
        const char *stored = json_string_value(json_object_get(file, "manifest"));
        if (strcmp(stored ? stored : "", hex) != 0)
            return false;
    }
    return true;
}

enum sp_err coord_create_run_same(struct store_run *run, const char *args, char **ret_report,
                                  struct sp_error *err)
{
    struct create_args parsed = {0};
    struct store_run_info info;
    json_t *report = NULL;
    bool same = false;
    enum sp_err rc = create_args_parse(args, &parsed, err);
    if (rc != SP_OK)
        return rc;
    struct sp_arena *arena = sp_arena_new(1 << 16, 64 << 20);
    rc = store_run_info(run, arena, &info, err);
    if (rc == SP_OK)
        rc = same_settings(info.settings, &parsed.settings, &same, err);
    if (rc == SP_OK)
        rc = sp_json_parse(info.data, strlen(info.data), "stored report", &report, err);
    if (rc == SP_OK) {
        const json_t *tasks = json_object_get(report, "tasks");
        bool same_tasks = !tasks == !parsed.tasks && (!tasks || json_equal(tasks, parsed.tasks));
        same = same && same_tasks && sp_digest_equal(&info.base_manifest, &parsed.base) &&
               same_files(&parsed, report);
        if (!same)
            rc = sp_fail(err, SP_EEXIST,
                         "run %s exists already, with other settings, data or base: choose another "
                         "name",
                         info.name);
    }
    if (rc == SP_OK) {
        json_object_set_new(report, "existing", json_true());
        *ret_report = sp_json_canonical(report);
    }
    json_decref(report);
    sp_arena_free(arena);
    create_args_deinit(&parsed);
    return rc;
}

enum sp_err coord_run_model(const char *data, int32_t *ret_vocab, int32_t **ret_stop_ids,
                            uint32_t *ret_stop_count, struct sp_error *err)
{
    static const char what[] = "a run's data record";
    json_t *report = NULL;
    int64_t vocab = 0;
    enum sp_err rc = sp_json_parse(data, strlen(data), what, &report, err);
    if (rc == SP_OK)
        rc = sp_json_i64(report, "vocab", 1, SP_MAX_VOCAB, what, &vocab, err);
    const json_t *list = json_object_get(report, "stop_ids");
    size_t count = json_array_size(list);
    int32_t *ids = sp_xarray(count + 1, sizeof(*ids));
    if (rc == SP_OK && count == 0)
        rc = sp_fail(err, SP_EFORMAT, "%s: field \"stop_ids\": missing or empty", what);
    for (size_t i = 0; i < count && rc == SP_OK; i++) {
        const json_t *item = json_array_get(list, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= vocab)
            rc = sp_fail(err, SP_EFORMAT, "%s: field \"stop_ids\": not token ids", what);
        ids[i] = (int32_t)id;
    }
    if (rc == SP_OK) {
        *ret_vocab = (int32_t)vocab;
        *ret_stop_ids = ids;
        *ret_stop_count = (uint32_t)count;
    } else {
        free(ids);
    }
    json_decref(report);
    return rc;
}

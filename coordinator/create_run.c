#include "coordinator/create_run.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/materialise.h"
#include "coordinator/create_run_internal.h"

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
    const char *const names[CREATE_FILES] = {s->train, s->holdout, s->eval};
    return names[file];
}

/* A dataset from its one-file manifest to `dir`. Messages name it as the run file does. */
static enum sp_err put_dataset(struct create_rows *rows, int file, const char *dir,
                               struct sp_error *err)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    const struct sp_digest *sha256 = &rows->args->data[file];
    struct ckpt_blobs *blobs = rows->request->blobs;
    char *what = sp_xprintf("[data] %s", create_split_names[file]);
    enum sp_err rc = create_manifest(blobs, what, sha256, &manifest, err);
    if (rc == SP_OK && manifest.count != 1)
        rc = sp_fail(err, SP_EFORMAT, "%s: its manifest has %zu files, expected one", what,
                     manifest.count);
    if (rc == SP_OK)
        rc = ckpt_materialise(&manifest, dir, ckpt_blobs_fetch, blobs, NULL, NULL, err);
    if (rc == SP_OK)
        rc = add_refs(rows->builder, "data", sha256, &manifest, err);
    if (rc == SP_OK) {
        const char *name = file_name(rows->args, file);
        rows->paths[file] = sp_path_join(dir, manifest.files[0].path);
        rows->names[file] = sp_xstrdup(name[0] ? name : manifest.files[0].path);
    }
    ckpt_manifest_deinit(&manifest);
    free(what);
    return rc;
}

static enum sp_err finish(struct create_rows *rows, const json_t *report, struct sp_error *err)
{
    char *data = sp_json_canonical(report);
    json_t *canonical = sp_config_to_json(&run_settings_spec, &rows->args->settings);
    char *settings = sp_json_canonical(canonical);
    json_decref(canonical);
    struct store_run_info info = {
        .name = rows->args->settings.name,
        .created_ms = rows->request->now_ms,
        .settings = settings,
        .base = rows->base->manifest.digest,
        .base_manifest = rows->args->base,
        .data = data,
        .base_bytes = rows->base->manifest.bytes,
    };
    enum sp_err rc = store_builder_finish(rows->builder, &info, err);
    free(data);
    free(settings);
    return rc;
}

/* Everything between an open builder and a finished one. dir: empty, ours, removed by the caller.
 */
static enum sp_err build(const struct coord_create_run *request, const struct create_args *args,
                         struct store_builder *builder, const char *dir, json_t **ret_report,
                         struct sp_error *err)
{
    struct create_base base = {.manifest = CKPT_MANIFEST_INIT};
    struct create_rows rows = {.request = request, .args = args, .base = &base, .builder = builder};
    char *base_dir = sp_path_join(dir, "base");
    json_t *report = NULL;
    enum sp_err rc = create_base_load(request->blobs, args, base_dir, &base, err);
    if (rc == SP_OK)
        rc = add_refs(builder, "base", &args->base, &base.manifest, err);
    rows.limit_tokens = SP_MIN(args->settings.max_sequence_tokens, base.max_positions);
    for (int i = 0; i < CREATE_FILES && rc == SP_OK; i++) {
        if (!args->has_data[i])
            continue;
        char *data_dir = sp_path_join(dir, create_split_names[i]);
        rc = put_dataset(&rows, i, data_dir, err);
        free(data_dir);
    }
    if (rc == SP_OK)
        rc = create_rows_run(&rows, err);
    if (rc == SP_OK) {
        report = create_report(&rows);
        rc = report ? finish(&rows, report, err) : sp_fail(err, SP_EINTERNAL, "make the report");
    }
    if (rc == SP_OK)
        *ret_report = json_incref(report);
    json_decref(report);
    create_rows_deinit(&rows);
    create_base_deinit(&base);
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
    if (rc == SP_OK)
        rc = build(request, &args, builder, dir, &report, err);
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
static json_t *without_paths(const json_t *settings)
{
    static const char *const paths[] = {"data.train", "data.holdout", "data.eval", "model.base"};
    json_t *copy = json_copy((json_t *)settings);
    for (size_t i = 0; i < SP_COUNT(paths); i++)
        json_object_del(copy, paths[i]);
    return copy;
}

static bool same_files(const struct create_args *args, const json_t *report)
{
    const json_t *files = json_object_get(report, "files");
    for (int i = 0; i < CREATE_FILES; i++) {
        char hex[SP_DIGEST_HEX] = "";
        if (args->has_data[i])
            sp_digest_hex(&args->data[i], hex);
        const json_t *file = json_object_get(files, create_split_names[i]);
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
    json_t *settings = NULL, *report = NULL;
    enum sp_err rc = create_args_parse(args, &parsed, err);
    if (rc != SP_OK)
        return rc;
    struct sp_arena *arena = sp_arena_new(1 << 16, 64 << 20);
    rc = store_run_info(run, arena, &info, err);
    if (rc == SP_OK)
        rc = sp_json_parse(info.settings, strlen(info.settings), "stored settings", &settings, err);
    if (rc == SP_OK)
        rc = sp_json_parse(info.data, strlen(info.data), "stored report", &report, err);
    if (rc == SP_OK) {
        json_t *a = without_paths(settings);
        json_t *canonical = sp_config_to_json(&run_settings_spec, &parsed.settings);
        json_t *b = without_paths(canonical);
        json_decref(canonical);
        bool same = json_equal(a, b) && sp_digest_equal(&info.base_manifest, &parsed.base) &&
                    same_files(&parsed, report);
        json_decref(a);
        json_decref(b);
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
    json_decref(settings);
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

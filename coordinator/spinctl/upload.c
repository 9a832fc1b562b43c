/* create-run: settings, base checkpoint and data sets go to the coordinator as blobs. */
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/config.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/checkpoint/hf_dir.h"
#include "common/checkpoint/manifest.h"
#include "common/task/settings.h"
#include "coordinator/spinctl/spinctl.h"
#include "proto/run_settings.h"

#define ASK_AT_ONCE 65536 /* digests in one blob-missing */

struct missing {
    uint8_t *digests; /* sorted as the coordinator sent them */
    size_t count;
};

static bool is_missing(const struct missing *missing, const struct sp_digest *digest)
{
    for (size_t i = 0; i < missing->count; i++)
        if (memcmp(missing->digests + i * SP_DIGEST_BYTES, digest->bytes, SP_DIGEST_BYTES) == 0)
            return true;
    return false;
}

static enum sp_err ask_missing(struct ctl *ctl, const struct ckpt_manifest *manifest,
                               struct missing *ret, struct sp_error *err)
{
    struct sp_buf all = SP_BUF_INIT, answer = SP_BUF_INIT;
    for (size_t f = 0; f < manifest->count; f++)
        for (uint32_t c = 0; c < manifest->files[f].chunk_count; c++)
            sp_buf_append(&all, manifest->files[f].chunks[c].bytes, SP_DIGEST_BYTES);
    enum sp_err rc = SP_OK;
    const size_t step = (size_t)ASK_AT_ONCE * SP_DIGEST_BYTES;
    for (size_t at = 0; at < all.length && rc == SP_OK; at += step) {
        struct proto_blob_missing request = {
            .digests = {(const uint8_t *)all.data + at, (uint32_t)SP_MIN(step, all.length - at)}};
        const void *reply = NULL;
        rc = ctl_call(ctl, PROTO_BLOB_MISSING, &request, &reply, err);
        if (rc == SP_OK) {
            const struct proto_blob_missing_reply *got = reply;
            sp_buf_append(&answer, got->missing.data, got->missing.length);
        }
    }
    sp_buf_deinit(&all);
    ret->count = answer.length / SP_DIGEST_BYTES;
    ret->digests = (uint8_t *)sp_buf_detach(&answer);
    return rc;
}

static enum sp_err put_blob(struct ctl *ctl, const struct sp_digest *digest, const void *data,
                            size_t length, struct sp_error *err)
{
    struct proto_blob_put request = {.sha256 = *digest, .data = {data, (uint32_t)length}};
    const void *reply = NULL;
    return ctl_call(ctl, PROTO_BLOB_PUT, &request, &reply, err);
}

static enum sp_err put_file(struct ctl *ctl, const char *dir, const struct ckpt_manifest_file *file,
                            const struct missing *missing, struct sp_progress *progress,
                            uint64_t *done, struct sp_error *err)
{
    char *path = sp_path_join(dir, file->path);
    struct sp_map map = {0};
    enum sp_err rc = sp_map_file(path, &map, err);
    if (rc == SP_OK && map.length != file->bytes)
        rc = sp_fail(err, SP_ECORRUPT, "%s changed while it was read", path);
    for (uint32_t c = 0; c < file->chunk_count && rc == SP_OK; c++) {
        uint32_t bytes = ckpt_chunk_bytes(file, c);
        if (is_missing(missing, &file->chunks[c]))
            rc = put_blob(ctl, &file->chunks[c], map.data + (uint64_t)c * SP_MAX_CHUNK, bytes, err);
        *done += bytes;
        sp_progress_set(progress, *done);
    }
    sp_unmap(&map);
    free(path);
    return rc;
}

/* Puts all files and the manifest itself; *ret_sha256 names the manifest. */
static enum sp_err put_manifest(struct ctl *ctl, const char *dir, const char *label,
                                const struct ckpt_manifest *manifest, struct sp_digest *ret_sha256,
                                struct sp_error *err)
{
    struct missing missing = {0};
    struct sp_buf text = SP_BUF_INIT;
    uint64_t done = 0;
    enum sp_err rc = ask_missing(ctl, manifest, &missing, err);
    struct sp_progress *progress = sp_progress_new(label, manifest->bytes, "bytes");
    for (size_t f = 0; f < manifest->count && rc == SP_OK; f++)
        rc = put_file(ctl, dir, &manifest->files[f], &missing, progress, &done, err);
    sp_progress_free(progress);
    if (rc == SP_OK) {
        ckpt_manifest_format(manifest, &text);
        sp_sha256_of(text.data, text.length, ret_sha256);
        rc = put_blob(ctl, ret_sha256, text.data, text.length, err);
    }
    sp_buf_deinit(&text);
    free(missing.digests);
    return rc;
}

char *ctl_resolve(const char *run_file, const char *path)
{
    if (path[0] == '/')
        return sp_xstrdup(path);
    char *copy = sp_xstrdup(run_file);
    char *joined = sp_path_join(dirname(copy), path);
    free(copy);
    return joined;
}

static enum sp_err put_base(struct ctl *ctl, const char *run_file, const char *base, json_t *args,
                            struct sp_error *err)
{
    char *dir = ctl_resolve(run_file, base);
    char hex[SP_DIGEST_HEX];
    struct sp_digest sha256;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct ckpt *weights = NULL;
    /* The coordinator never reads weights, so what is wrong with their files is found out here. */
    enum sp_err rc = ckpt_open(dir, &weights, err);
    ckpt_close(weights);
    if (rc == SP_OK)
        rc = ckpt_manifest_build(dir, NULL, NULL, &manifest, err);
    if (rc == SP_OK)
        rc = put_manifest(ctl, dir, "base", &manifest, &sha256, err);
    if (rc == SP_OK) {
        sp_digest_hex(&sha256, hex);
        json_object_set_new(args, "base", json_string(hex));
    } else
        sp_wrap(err, rc, "[model] base: %s", dir);
    ckpt_manifest_deinit(&manifest);
    free(dir);
    return rc;
}

enum sp_err ctl_put_file(struct ctl *ctl, const char *path, const char *label,
                         char ret_hex[SP_DIGEST_HEX], struct sp_error *err)
{
    char *dir_copy = sp_xstrdup(path), *name_copy = sp_xstrdup(path);
    const char *dir = dirname(dir_copy), *file = basename(name_copy);
    struct sp_digest sha256;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    enum sp_err rc = ckpt_manifest_build_files(dir, &file, 1, NULL, NULL, &manifest, err);
    if (rc == SP_OK)
        rc = put_manifest(ctl, dir, label, &manifest, &sha256, err);
    if (rc == SP_OK)
        sp_digest_hex(&sha256, ret_hex);
    ckpt_manifest_deinit(&manifest);
    free(dir_copy);
    free(name_copy);
    return rc;
}

static enum sp_err put_data(struct ctl *ctl, const char *run_file, const char *name,
                            const char *path, json_t *data, struct sp_error *err)
{
    if (path[0] == '\0')
        return SP_OK;
    char *full = ctl_resolve(run_file, path);
    char hex[SP_DIGEST_HEX];
    enum sp_err rc = ctl_put_file(ctl, full, name, hex, err);
    if (rc == SP_OK)
        json_object_set_new(data, name, json_string(hex));
    else
        sp_wrap(err, rc, "[data] %s: %s", name, full);
    free(full);
    return rc;
}

/* [evaluation] evaluate: "gsm8k, ./own.conf"; "tasks" is absent where there are none. */
static enum sp_err put_tasks(struct ctl *ctl, const char *run_file,
                             const struct run_settings *settings, json_t *args,
                             struct sp_error *err)
{
    json_t *tasks = json_array();
    char *data = settings->evaluate_data[0] ? ctl_resolve(run_file, settings->evaluate_data) : NULL;
    enum sp_err rc = SP_OK;
    for (const char *at = settings->evaluate; *at && rc == SP_OK;) {
        at += strspn(at, ", ");
        size_t length = strcspn(at, ",");
        while (length > 0 && at[length - 1] == ' ')
            length--;
        if (length == 0)
            break;
        char *name = sp_xstrndup(at, length), *beside = ctl_resolve(run_file, name);
        json_t *task = NULL;
        int kind = 0;
        rc = ctl_put_task(ctl, sp_path_exists(beside) ? beside : name, data,
                          settings->evaluate_limit, &task, &kind, err);
        if (rc == SP_OK && kind == TASK_SHEET)
            rc = sp_fail(err, SP_EINVAL, "%s: sheets are for `spinctl evaluate`", name);
        if (rc != SP_OK)
            sp_wrap(err, rc, "[evaluation] evaluate");
        else
            json_array_append(tasks, task);
        json_decref(task);
        free(name);
        free(beside);
        at += length;
        at += strspn(at, " ,");
    }
    if (rc == SP_OK && json_array_size(tasks) > 0)
        json_object_set(args, "tasks", tasks);
    json_decref(tasks);
    free(data);
    return rc;
}

static enum sp_err read_over(struct ctl *ctl, const char *path, struct run_settings *ret,
                             struct sp_error *err)
{
    struct sp_error detail;
    enum sp_err rc = path ? sp_config_load(&run_settings_spec, path, ret, err) : SP_OK;
    for (int i = 0; i < ctl->assignment_count && rc == SP_OK; i++)
        if (sp_config_set(&run_settings_spec, ctl->assignments[i], ret, &detail) != SP_OK)
            rc = sp_fail(err, SP_EINVAL, "--set %.200s: %s", ctl->assignments[i], detail.text);
    return rc;
}

enum sp_err ctl_read_run_settings(struct ctl *ctl, const char *path, struct run_settings *ret,
                                  struct sp_error *err)
{
    enum sp_err rc = read_over(ctl, path, ret, err);
    if (rc != SP_OK || ret->compat == RUN_COMPAT_NONE)
        return rc;
    /* Its defaults come first, and then what the user has set. */
    int compat = ret->compat;
    sp_config_deinit(&run_settings_spec, ret);
    sp_config_init(&run_settings_spec, ret);
    run_settings_use_compat(ret, compat);
    return read_over(ctl, path, ret, err);
}

static enum sp_err read_run_file(struct ctl *ctl, struct run_settings *settings,
                                 struct sp_error *err)
{
    sp_config_init(&run_settings_spec, settings);
    enum sp_err rc = ctl_read_run_settings(ctl, ctl->args[0], settings, err);
    if (rc != SP_OK)
        return rc;
    rc = run_settings_check(settings, err);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "%s", ctl->args[0]);
}

void ctl_print_data_table(const json_t *report)
{
    static const struct ctl_column columns[] = {
        {"split", "SPLIT", "text"},
        {"rows", ">ROWS", "int"},
        {"used", ">USED", "int"},
        {"overlong", ">OVERLONG", "int"},
        {"empty", ">EMPTY", "int"},
        {"prompt_tokens_mean", ">PROMPT TOKENS", "f1"},
        {"response_tokens_mean", ">ANSWER TOKENS", "f1"},
        {"response_tokens_max", ">LONGEST", "int"},
    };
    const json_t *splits = json_object_get(report, "splits");
    if (json_is_array(splits))
        ctl_print_table(splits, columns, sizeof(columns) / sizeof(columns[0]));
}

void ctl_print_warnings(const json_t *report)
{
    const json_t *warnings = json_object_get(report, "warnings");
    for (size_t i = 0; i < json_array_size(warnings); i++)
        printf("warning: %s\n", json_string_value(json_array_get(warnings, i)));
}

int ctl_create_run(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    struct run_settings settings;
    json_t *args = json_object(), *data = json_object(), *reply = NULL;
    enum sp_err rc = read_run_file(ctl, &settings, &err);
    if (rc == SP_OK)
        rc = put_base(ctl, ctl->args[0], settings.base, args, &err);
    if (rc == SP_OK)
        rc = put_data(ctl, ctl->args[0], "train", settings.train, data, &err);
    if (rc == SP_OK)
        rc = put_data(ctl, ctl->args[0], "holdout", settings.holdout, data, &err);
    if (rc == SP_OK)
        rc = put_data(ctl, ctl->args[0], "eval", settings.eval, data, &err);
    const char *const given[] = {settings.generated_1, settings.generated_2, settings.generated_3};
    static const char *const names[] = {"generated_1", "generated_2", "generated_3"};
    for (int i = 0; i < 3 && rc == SP_OK; i++)
        rc = put_data(ctl, ctl->args[0], names[i], given[i], data, &err);
    if (rc == SP_OK)
        rc = put_tasks(ctl, ctl->args[0], &settings, args, &err);
    if (rc == SP_OK) {
        json_object_set(args, "data", data);
        json_object_set_new(args, "settings", sp_config_to_json(&run_settings_spec, &settings));
        ctl->patience_ms = CTL_LONG_MS;
        rc = ctl_admin(ctl, "create-run", settings.name, json_incref(args), &reply, &err);
    }
    if (rc == SP_OK && ctl->json)
        ctl_print_json(reply);
    else if (rc == SP_OK && !ctl->quiet) {
        printf("run %s %s\n", settings.name,
               json_is_true(json_object_get(reply, "existing")) ? "was there already, the same"
                                                                : "is created");
        ctl_print_data_table(reply);
        ctl_print_warnings(reply);
        printf("next: spinctl run %s\n", settings.name);
    }
    sp_config_deinit(&run_settings_spec, &settings);
    json_decref(args);
    json_decref(data);
    json_decref(reply);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}

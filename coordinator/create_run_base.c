/* Arguments, manifests, and what create-run needs of the base model. */
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/materialise.h"
#include "coordinator/create_run_internal.h"

const char *const create_file_names[CREATE_FILES] = {"train",       "holdout",     "eval",
                                                     "generated_1", "generated_2", "generated_3"};

/* ---- arguments ---- */

static enum sp_err digest_field(const json_t *object, const char *key, const char *what,
                                struct sp_digest *ret, struct sp_error *err)
{
    const char *hex = NULL;
    enum sp_err rc = sp_json_str(object, key, what, &hex, err);
    if (rc == SP_OK)
        rc = sp_digest_parse(hex, ret, err);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "create-run: \"%s\"", key);
}

static enum sp_err parse_data(struct create_args *args, struct sp_error *err)
{
    const json_t *data = json_object_get(args->json, "data");
    if (!json_is_object(data))
        return sp_fail(err, SP_EFORMAT, "create-run: field \"data\": missing or not an object");
    for (int i = 0; i < CREATE_FILES; i++) {
        const json_t *value = json_object_get(data, create_file_names[i]);
        args->has_data[i] = value && !json_is_null(value);
        if (!args->has_data[i])
            continue;
        enum sp_err rc =
            digest_field(data, create_file_names[i], "create-run", &args->data[i], err);
        if (rc != SP_OK)
            return rc;
    }
    args->tasks = json_object_get(args->json, "tasks");
    if (args->tasks && !json_is_array(args->tasks))
        return sp_fail(err, SP_EFORMAT, "create-run: field \"tasks\": not a list");
    if (!args->has_data[DATA_TRAIN])
        return sp_fail(err, SP_EFORMAT, "create-run: \"data\": no \"train\"");
    return SP_OK;
}

enum sp_err create_args_parse(const char *text, struct create_args *ret, struct sp_error *err)
{
    struct create_args args = {0};
    sp_config_init(&run_settings_spec, &args.settings);
    enum sp_err rc = sp_json_parse(text, strlen(text), "create-run", &args.json, err);
    if (rc == SP_OK) {
        const json_t *settings = json_object_get(args.json, "settings");
        if (!json_is_object(settings))
            rc = sp_fail(err, SP_EFORMAT,
                         "create-run: field \"settings\": missing or not an object");
        else
            rc = sp_config_from_json(&run_settings_spec, settings, &args.settings, err);
    }
    if (rc == SP_OK)
        rc = run_settings_check(&args.settings, err);
    if (rc == SP_OK)
        rc = digest_field(args.json, "base", "create-run", &args.base, err);
    if (rc == SP_OK)
        rc = parse_data(&args, err);
    if (rc != SP_OK) {
        create_args_deinit(&args);
        return rc;
    }
    *ret = args;
    return SP_OK;
}

void create_args_deinit(struct create_args *args)
{
    json_decref(args->json);
    args->json = NULL;
    sp_config_deinit(&run_settings_spec, &args->settings);
}

/* ---- blobs ---- */

enum sp_err create_manifest(struct ckpt_blobs *blobs, const char *what,
                            const struct sp_digest *sha256, struct ckpt_manifest *ret,
                            struct sp_error *err)
{
    uint8_t *text = NULL;
    size_t length = 0;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    enum sp_err rc = ckpt_blobs_get(blobs, sha256, &text, &length, err);
    if (rc == SP_OK)
        rc = ckpt_manifest_parse((const char *)text, length, &manifest, err);
    free(text);
    uint64_t missing = 0;
    for (size_t f = 0; f < manifest.count && rc == SP_OK; f++) {
        for (uint32_t c = 0; c < manifest.files[f].chunk_count; c++)
            missing += !ckpt_blobs_has(blobs, &manifest.files[f].chunks[c]);
    }
    if (rc == SP_OK && missing)
        rc = sp_fail(err, SP_ENOTFOUND, "%llu of %llu chunks are not here: put them first",
                     (unsigned long long)missing, (unsigned long long)manifest.chunk_count);
    if (rc != SP_OK) {
        ckpt_manifest_deinit(&manifest);
        return sp_wrap(err, rc, "%s", what);
    }
    *ret = manifest;
    return SP_OK;
}

bool create_is_weights(const char *path)
{
    const char *dot = strrchr(path, '.');
    return strstr(path, ".safetensors") || (dot && strcmp(dot, ".bin") == 0);
}

/* Everything but weights. The file entries are borrowed, so the copy is only freed, not deinited.
 */
static enum sp_err put_small_files(struct ckpt_blobs *blobs, const struct ckpt_manifest *manifest,
                                   const char *dir, struct sp_error *err)
{
    struct ckpt_manifest small = CKPT_MANIFEST_INIT;
    small.files = sp_xarray(manifest->count, sizeof(*small.files));
    for (size_t i = 0; i < manifest->count; i++) {
        const struct ckpt_manifest_file *file = &manifest->files[i];
        if (create_is_weights(file->path))
            continue;
        small.files[small.count++] = *file;
        small.bytes += file->bytes;
        small.chunk_count += file->chunk_count;
    }
    enum sp_err rc = SP_OK;
    if (small.bytes > (uint64_t)SP_MAX_TOKENIZER_JSON * 2)
        rc = sp_fail(err, SP_ELIMIT, "its configuration and tokenizer files have %llu bytes",
                     (unsigned long long)small.bytes);
    if (rc == SP_OK)
        rc = ckpt_materialise(&small, dir, ckpt_blobs_fetch, blobs, NULL, NULL, err);
    free(small.files);
    return rc;
}

enum sp_err create_base_load(struct ckpt_blobs *blobs, const struct create_args *args,
                             const char *dir, struct create_base *ret, struct sp_error *err)
{
    struct create_base base = {.manifest = CKPT_MANIFEST_INIT};
    enum sp_err rc = create_manifest(blobs, "manifest", &args->base, &base.manifest, err);
    if (rc == SP_OK)
        rc = put_small_files(blobs, &base.manifest, dir, err);
    if (rc == SP_OK)
        rc = data_model_load(dir, &args->settings, &base.model, err);
    if (rc != SP_OK) {
        create_base_deinit(&base);
        return sp_wrap(err, rc, "[model] base");
    }
    *ret = base;
    return SP_OK;
}

void create_base_deinit(struct create_base *base)
{
    data_model_deinit(&base->model);
    ckpt_manifest_deinit(&base->manifest);
    *base = (struct create_base){.manifest = CKPT_MANIFEST_INIT};
}

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"
#include "common/checkpoint/hf_internal.h"

static int by_name(const void *a, const void *b)
{
    const struct ckpt_array *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static const char *torch_name(enum ckpt_dtype dtype)
{
    return dtype == CKPT_F32 ? "float32" : dtype == CKPT_F16 ? "float16" : "bfloat16";
}

static uint64_t bytes_of(const struct ckpt_array *array, enum ckpt_dtype dtype)
{
    uint64_t bytes = ckpt_dtype_bytes(dtype);
    for (int32_t i = 0; i < array->dims; i++)
        bytes *= (uint64_t)array->shape[i];
    return bytes;
}

/* The shard of each array (sorted), filled in order up to shard_bytes; the number of shards. */
static size_t assign_shards(const struct ckpt_array *arrays, size_t count, enum ckpt_dtype dtype,
                            uint64_t shard_bytes, size_t *shard_of)
{
    size_t shard = 0;
    uint64_t filled = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = bytes_of(&arrays[i], dtype);
        if (filled > 0 && filled + bytes > shard_bytes) {
            shard++;
            filled = 0;
        }
        filled += bytes;
        shard_of[i] = shard;
    }
    return shard + 1;
}

static char *json_text(const json_t *root)
{
    /* 15 digits keep 1e-06 as people write it; where that is not exact, 17 are. */
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    json_t *again = json_loads(text, 0, NULL);
    if (!json_equal(root, again)) {
        free(text);
        text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    }
    json_decref(again);
    SP_ASSERT(text != NULL);
    return text;
}

static enum sp_err write_in(const char *dir, const char *name, const char *text, size_t length,
                            struct sp_error *err)
{
    char *path = sp_path_join(dir, name);
    enum sp_err rc = sp_write_file_durable(path, text, length, 0666, err);
    free(path);
    return rc;
}

static enum sp_err write_json_in(const char *dir, const char *name, const json_t *root,
                                 struct sp_error *err)
{
    char *text = json_text(root);
    struct sp_buf line = SP_BUF_INIT;
    sp_buf_puts(&line, text);
    sp_buf_putc(&line, '\n');
    free(text);
    enum sp_err rc = write_in(dir, name, line.data, line.length, err);
    sp_buf_deinit(&line);
    return rc;
}

static enum sp_err write_index(const char *dir, const struct ckpt_array *arrays, size_t count,
                               enum ckpt_dtype dtype, const size_t *shard_of, size_t shards,
                               struct sp_error *err)
{
    json_t *map = json_object();
    uint64_t total = 0;
    char name[64];
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", shard_of[i] + 1, shards);
        json_object_set_new(map, arrays[i].name, json_string(name));
        total += bytes_of(&arrays[i], dtype);
    }
    json_t *root =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    enum sp_err rc = write_json_in(dir, CKPT_INDEX_FILE, root, err);
    json_decref(root);
    return rc;
}

static enum sp_err write_weights(const char *dir, const struct ckpt_array *arrays, size_t count,
                                 const struct ckpt_save_options *options, struct sp_error *err)
{
    uint64_t limit = options->shard_bytes > 0 ? options->shard_bytes : CKPT_SHARD_BYTES;
    size_t *shard_of = sp_xarray(count, sizeof(*shard_of));
    size_t shards = assign_shards(arrays, count, options->dtype, limit, shard_of);
    struct ckpt_meta *meta = sp_xarray(options->meta_count + 1, sizeof(*meta));
    meta[0] = (struct ckpt_meta){"format", "pt"};
    for (size_t i = 0; i < options->meta_count; i++)
        meta[i + 1] = options->meta[i];
    enum sp_err rc = SP_OK;
    for (size_t shard = 0, first = 0; rc == SP_OK && shard < shards; shard++) {
        char name[64] = CKPT_SINGLE_FILE;
        if (shards > 1)
            snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", shard + 1, shards);
        size_t end = first;
        while (end < count && shard_of[end] == shard)
            end++;
        char *path = sp_path_join(dir, name);
        rc = ckpt_st_write(path, arrays + first, end - first, options->dtype, meta,
                           options->meta_count + 1, err);
        free(path);
        first = end;
    }
    if (rc == SP_OK && shards > 1)
        rc = write_index(dir, arrays, count, options->dtype, shard_of, shards, err);
    free(meta);
    free(shard_of);
    return rc;
}

/* config.json, with torch_dtype (or dtype) true to the weights: loaders trust it. The text is left
 * as it is where nothing has to change. */
static enum sp_err write_config(const char *dir, const char *text, size_t length,
                                enum ckpt_dtype dtype, struct sp_error *err)
{
    json_t *root;
    enum sp_err rc = sp_json_parse(text, length, "config.json", &root, err);
    if (rc != SP_OK)
        return rc;
    static const char *const keys[] = {"torch_dtype", "dtype"};
    bool changed = false;
    for (size_t i = 0; i < SP_COUNT(keys); i++) {
        const char *value = json_string_value(json_object_get(root, keys[i]));
        if (value != NULL && strcmp(value, torch_name(dtype)) != 0) {
            json_object_set_new(root, keys[i], json_string(torch_name(dtype)));
            changed = true;
        }
    }
    rc = changed ? write_json_in(dir, "config.json", root, err)
                 : write_in(dir, "config.json", text, length, err);
    json_decref(root);
    return rc;
}

static enum sp_err copy_side_files(const char *dir, const struct ckpt_save_options *options,
                                   struct sp_error *err)
{
    char **names = NULL;
    enum sp_err rc = ckpt_file_list(options->template_dir, false, &names, err);
    for (size_t i = 0; rc == SP_OK && names[i] != NULL; i++) {
        bool config = strcmp(names[i], "config.json") == 0;
        if (config && options->config_json != NULL)
            continue;
        char *from = sp_path_join(options->template_dir, names[i]), *data = NULL;
        size_t length;
        rc = sp_read_file(from, SP_MAX_TOKENIZER_JSON, &data, &length, err);
        if (rc == SP_OK)
            rc = config ? write_config(dir, data, length, options->dtype, err)
                        : write_in(dir, names[i], data, length, err);
        free(data);
        free(from);
    }
    ckpt_file_list_free(names);
    return rc;
}

/* A fresh directory beside `dir`, with the permissions that mkdir would have given. */
static enum sp_err make_temporary(const char *dir, char **ret, struct sp_error *err)
{
    char *path = sp_temporary_name(dir);
    if (mkdir(path, 0777) != 0) {
        enum sp_err rc = sp_fail_errno(err, errno, "%s", dir);
        free(path);
        return rc;
    }
    *ret = path;
    return SP_OK;
}

enum sp_err ckpt_save(const char *dir, const struct ckpt_array *arrays, size_t count,
                      const struct ckpt_save_options *options, struct sp_error *err)
{
    char *target = sp_xstrdup(dir), *temporary = NULL;
    for (size_t n = strlen(target); n > 1 && target[n - 1] == '/'; n--)
        target[n - 1] = 0;
    struct ckpt_array *sorted = sp_xarray(count, sizeof(*sorted));
    if (count > 0) {
        memcpy(sorted, arrays, count * sizeof(*sorted));
        qsort(sorted, count, sizeof(*sorted), by_name);
    }
    /* rename(2) replaces an empty directory and nothing else; this only fails sooner. */
    enum sp_err rc = SP_OK;
    if (sp_path_exists(target) && rmdir(target) != 0)
        rc = sp_fail(err, SP_EEXIST, "it exists already; choose another name or remove it");
    if (rc == SP_OK)
        rc = make_temporary(target, &temporary, err);
    if (rc == SP_OK)
        rc = write_weights(temporary, sorted, count, options, err);
    if (rc == SP_OK && options->template_dir != NULL)
        rc = copy_side_files(temporary, options, err);
    if (rc == SP_OK && options->config_json != NULL)
        rc = write_config(temporary, options->config_json, strlen(options->config_json),
                          options->dtype, err);
    if (rc == SP_OK)
        rc = sp_fsync_dir(temporary, err);
    if (rc == SP_OK)
        rc = sp_rename_durable(temporary, target, err);
    if (rc != SP_OK) {
        if (temporary != NULL)
            (void)!sp_remove_tree(temporary, NULL);
        rc = sp_wrap(err, rc, "save checkpoint %s", dir);
    }
    free(sorted);
    free(temporary);
    free(target);
    return rc;
}

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"
#include "common/checkpoint/hf_internal.h"

/* Everything beside the weights that decides what a checkpoint computes or how text becomes ids. */
static const char *const side_files[] = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool exists_in(const char *dir, const char *name)
{
    char *path = sp_path_join(dir, name);
    bool there = sp_path_exists(path);
    free(path);
    return there;
}

static enum sp_err no_weights(const char *dir, struct sp_error *err)
{
    if (!sp_path_exists(dir))
        return sp_fail(err, SP_ENOTFOUND, "no such directory");
    if (exists_in(dir, "pytorch_model.bin") || exists_in(dir, "pytorch_model.bin.index.json"))
        return sp_fail(err, SP_EUNSUPPORTED,
                       "its weights are in pytorch_model.bin; save the model once with "
                       "safe_serialization to get model.safetensors");
    if (exists_in(dir, "adapter_model.safetensors") || exists_in(dir, "adapter_config.json"))
        return sp_fail(err, SP_EUNSUPPORTED, CKPT_ADAPTER_ALONE);
    return sp_fail(err, SP_ENOTFOUND, "neither model.safetensors nor model.safetensors.index.json");
}

/* Values of the weight map, each a safe name, sorted and without repeats. */
static enum sp_err shard_names(const json_t *map, char ***ret, struct sp_error *err)
{
    size_t count = 0, unique = 0;
    char **names = sp_xarray(json_object_size(map) + 1, sizeof(*names));
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value)
    {
        const char *file = json_string_value(value);
        if (file == NULL || !sp_path_is_safe(file) || strchr(file, '/') != NULL) {
            ckpt_file_list_free(names);
            return sp_fail(err, SP_EFORMAT,
                           CKPT_INDEX_FILE ": weight_map: \"%.200s\": not the name of a file "
                                           "beside the index",
                           tensor);
        }
        names[count++] = sp_xstrdup(file);
    }
    if (count > 0)
        qsort(names, count, sizeof(*names), by_text);
    for (size_t i = 0; i < count; i++) {
        if (unique > 0 && strcmp(names[unique - 1], names[i]) == 0)
            free(names[i]);
        else
            names[unique++] = names[i];
    }
    names[unique] = NULL;
    if (unique > SP_MAX_MANIFEST_FILES) {
        ckpt_file_list_free(names);
        return sp_fail(err, SP_ELIMIT, CKPT_INDEX_FILE ": %zu shards, the limit is %d", unique,
                       SP_MAX_MANIFEST_FILES);
    }
    *ret = names;
    return SP_OK;
}

enum sp_err ckpt_weight_files(const char *dir, char ***ret, json_t **ret_weight_map,
                              struct sp_error *err)
{
    if (exists_in(dir, CKPT_SINGLE_FILE)) {
        char **names = sp_xarray(2, sizeof(*names));
        names[0] = sp_xstrdup(CKPT_SINGLE_FILE);
        *ret = names;
        *ret_weight_map = NULL;
        return SP_OK;
    }
    if (!exists_in(dir, CKPT_INDEX_FILE))
        return no_weights(dir, err);
    json_t *root = NULL;
    char *text = NULL;
    size_t length;
    char *path = sp_path_join(dir, CKPT_INDEX_FILE);
    enum sp_err rc = sp_read_file(path, SP_MAX_SAFETENSORS_HEADER, &text, &length, err);
    if (rc == SP_OK)
        rc = sp_json_parse(text, length, CKPT_INDEX_FILE, &root, err);
    json_t *map = json_object_get(root, "weight_map");
    if (rc == SP_OK && !json_is_object(map))
        rc = sp_fail(err, SP_EFORMAT,
                     CKPT_INDEX_FILE ": \"weight_map\" is missing or not an object");
    if (rc == SP_OK && json_object_size(map) > SP_MAX_TENSORS)
        rc = sp_fail(err, SP_ELIMIT, CKPT_INDEX_FILE ": %zu tensors, the limit is %d",
                     json_object_size(map), SP_MAX_TENSORS);
    if (rc == SP_OK && json_object_size(map) == 0)
        rc = sp_fail(err, SP_EFORMAT, CKPT_INDEX_FILE ": \"weight_map\" is empty");
    if (rc == SP_OK)
        rc = shard_names(map, ret, err);
    if (rc == SP_OK)
        *ret_weight_map = json_incref(map);
    json_decref(root);
    free(text);
    free(path);
    return rc;
}

enum sp_err ckpt_file_list(const char *dir, bool with_weights, char ***ret, struct sp_error *err)
{
    char **weights = NULL;
    json_t *map = NULL;
    size_t weight_count = 0, count = 0;
    if (with_weights) {
        enum sp_err rc = ckpt_weight_files(dir, &weights, &map, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "checkpoint %s", dir);
        while (weights[weight_count] != NULL)
            weight_count++;
    }
    char **names = sp_xarray(weight_count + SP_COUNT(side_files) + 2, sizeof(*names));
    for (size_t i = 0; i < SP_COUNT(side_files); i++)
        if (exists_in(dir, side_files[i]))
            names[count++] = sp_xstrdup(side_files[i]);
    for (size_t i = 0; i < weight_count; i++)
        names[count++] = weights[i];
    free(weights);
    if (map != NULL) {
        names[count++] = sp_xstrdup(CKPT_INDEX_FILE);
        json_decref(map);
    }
    qsort(names, count, sizeof(*names), by_text);
    *ret = names;
    return SP_OK;
}

void ckpt_file_list_free(char **files)
{
    if (files == NULL)
        return;
    for (char **f = files; *f != NULL; f++)
        free(*f);
    free(files);
}

#include "coordinator/base_model.h"

#include <stdlib.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/try.h"

/* One small JSON file of the checkpoint; *ret = NULL when it has no such file. */
static enum sp_err read_json(struct ckpt_blobs *blobs, const struct ckpt_manifest *manifest,
                             const char *path, json_t **ret, struct sp_error *err)
{
    const struct ckpt_manifest_file *file = ckpt_manifest_find(manifest, path);
    *ret = NULL;
    if (!file)
        return SP_OK;
    if (file->bytes > SP_MAX_CONFIG_JSON || file->chunk_count != 1)
        return sp_fail(err, SP_ELIMIT, "%s: %llu bytes", path, (unsigned long long)file->bytes);
    uint8_t *data = NULL;
    size_t length = 0;
    SP_TRY(ckpt_blobs_get(blobs, &file->chunks[0], &data, &length, err));
    enum sp_err rc = sp_json_parse((const char *)data, length, path, ret, err);
    free(data);
    return rc;
}

static void add_stop_id(const json_t *value, int32_t vocab, int32_t *ids, uint32_t *count)
{
    if (!json_is_integer(value) || *count == COORD_MAX_STOP_IDS)
        return;
    json_int_t id = json_integer_value(value);
    for (uint32_t i = 0; i < *count; i++) {
        if (ids[i] == id)
            return;
    }
    if (id >= 0 && id < vocab)
        ids[(*count)++] = (int32_t)id;
}

static void stop_ids_of(const json_t *config, int32_t vocab, int32_t *ids, uint32_t *count)
{
    const json_t *eos = json_object_get(config, "eos_token_id");
    if (json_is_array(eos)) {
        for (size_t i = 0; i < json_array_size(eos); i++)
            add_stop_id(json_array_get(eos, i), vocab, ids, count);
    } else {
        add_stop_id(eos, vocab, ids, count);
    }
}

static enum sp_err read_model(struct ckpt_blobs *blobs, const struct ckpt_manifest *manifest,
                              int32_t *ret_vocab, int32_t *ids, uint32_t *ret_count,
                              struct sp_error *err)
{
    json_t *config = NULL, *generation = NULL;
    int64_t vocab = 0;
    *ret_count = 0;
    enum sp_err rc = read_json(blobs, manifest, "config.json", &config, err);
    if (!rc && !config)
        rc = sp_fail(err, SP_EFORMAT, "config.json: the checkpoint has none");
    if (!rc)
        rc = sp_json_i64(config, "vocab_size", 1, SP_MAX_VOCAB, "config.json", &vocab, err);
    if (!rc)
        rc = read_json(blobs, manifest, "generation_config.json", &generation, err);
    if (!rc) {
        *ret_vocab = (int32_t)vocab;
        stop_ids_of(generation, *ret_vocab, ids, ret_count);
        if (*ret_count == 0)
            stop_ids_of(config, *ret_vocab, ids, ret_count);
    }
    json_decref(config);
    json_decref(generation);
    return rc;
}

enum sp_err coord_base_model(struct ckpt_blobs *blobs, const struct sp_digest *manifest_sha,
                             int32_t *ret_vocab, int32_t ret_stop_ids[COORD_MAX_STOP_IDS],
                             uint32_t *ret_stop_count, struct sp_error *err)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    uint8_t *text = NULL;
    size_t length = 0;
    SP_TRY(ckpt_blobs_get(blobs, manifest_sha, &text, &length, err));
    enum sp_err rc = ckpt_manifest_parse((const char *)text, length, &manifest, err);
    free(text);
    if (!rc)
        rc = read_model(blobs, &manifest, ret_vocab, ret_stop_ids, ret_stop_count, err);
    ckpt_manifest_deinit(&manifest);
    return rc ? sp_wrap(err, rc, "base model") : SP_OK;
}

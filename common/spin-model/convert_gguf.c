/* From a checkpoint directory to a GGUF file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/gguf_vocab.h"
#include "common/spin-model/convert.h"

#define MAX_TABLES 2 /* of the rotation */

static enum sp_err load_json(const char *dir, const char *name, size_t max_bytes, bool required,
                             json_t **ret, struct sp_error *err)
{
    char *path = sp_path_join(dir, name);
    enum sp_err rc = SP_OK;
    if (required || sp_path_exists(path))
        rc = sp_json_load(path, max_bytes, ret, err);
    free(path);
    return rc;
}

static enum sp_err read_template(const char *dir, char **ret, struct sp_error *err)
{
    char *path = sp_path_join(dir, "chat_template.jinja");
    enum sp_err rc = SP_OK;
    if (sp_path_exists(path))
        rc = sp_read_file(path, SP_MAX_CONFIG_JSON, ret, NULL, err);
    free(path);
    return rc;
}

static enum sp_err put_vocab(struct convert *c, struct ckpt_gguf_meta *meta, struct sp_error *err)
{
    const char *dir = c->tool->tokenizer != NULL ? c->tool->tokenizer : c->tool->dir;
    json_t *tokenizer = NULL, *config = NULL;
    char *template = NULL;
    struct ckpt_vocab vocab = model_gguf_vocab(&c->config);
    enum sp_err rc = load_json(dir, "tokenizer.json", SP_MAX_TOKENIZER_JSON, true, &tokenizer, err);
    if (rc == SP_OK)
        rc = load_json(dir, "tokenizer_config.json", SP_MAX_CONFIG_JSON, false, &config, err);
    if (rc == SP_OK)
        rc = read_template(dir, &template, err);
    if (rc == SP_OK) {
        rc = ckpt_vocab_put(tokenizer, config, template, &vocab, meta, &c->inexact, err);
        if (rc != SP_OK)
            rc = sp_wrap(err, rc, "%s", dir);
    }
    free(template);
    json_decref(tokenizer);
    json_decref(config);
    return rc;
}

/* ---- tensors ---- */

static enum sp_err choose_type(const struct tool *tool, const struct ckpt *ckpt,
                               enum ckpt_gguf_type *ret, struct sp_error *err)
{
    static const enum ckpt_gguf_type types[] = {CKPT_GGUF_F32, CKPT_GGUF_F16, CKPT_GGUF_BF16,
                                                CKPT_GGUF_Q8_0};
    enum ckpt_dtype dtype = ckpt_count(ckpt) > 0 ? ckpt_at(ckpt, 0)->dtype : CKPT_F32;
    if (tool->dtype == NULL) {
        *ret = dtype == CKPT_F16    ? CKPT_GGUF_F16
               : dtype == CKPT_BF16 ? CKPT_GGUF_BF16
                                    : CKPT_GGUF_F32;
        return SP_OK;
    }
    for (size_t i = 0; i < SP_COUNT(types); i++)
        if (strcasecmp(tool->dtype, ckpt_gguf_type_name(types[i])) == 0) {
            *ret = types[i];
            return SP_OK;
        }
    return sp_fail(err, SP_EINVAL, "--dtype %s: GGUF is written as F32, F16, BF16 or Q8_0",
                   tool->dtype);
}

/* Arrays and their types: vectors stay F32, and rows that no block fits are F16 in place of Q8_0,
 * as llama.cpp's converter has it. */
static enum sp_err add_tensors(struct convert *c, enum ckpt_gguf_type type,
                               enum ckpt_gguf_type *types, size_t count, struct sp_error *err)
{
    enum sp_err rc = model_check_tensors(&c->config, c->ckpt, err);
    if (rc != SP_OK)
        return rc;
    for (size_t i = 0; i < count; i++) {
        char other[MODEL_FILE_NAME_BYTES];
        const struct model_gguf_tensor *want = &c->tensors[i];
        const struct ckpt_tensor *t =
            ckpt_find(c->ckpt, model_file_name(&c->config, c->ckpt, &want->tensor, other));
        types[c->count] = want->dims == 1 ? CKPT_GGUF_F32 : type;
        if (want->dims == 2 && want->shape[1] % (int64_t)ckpt_gguf_block_elements(type) != 0)
            types[c->count] = CKPT_GGUF_F16;
        enum ckpt_gguf_type as = types[c->count];
        /* The scale of a Q8_0 block is an fp16 number. */
        double largest = as == CKPT_GGUF_F16    ? convert_largest(CKPT_F16)
                         : as == CKPT_GGUF_BF16 ? convert_largest(CKPT_BF16)
                         : as == CKPT_GGUF_Q8_0 ? 127 * convert_largest(CKPT_F16)
                                                : INFINITY;
        convert_add(c, want->name, want->dims, want->shape,
                    (struct convert_source){.tensor = t,
                                            .changed = convert_changed(want),
                                            .largest = largest,
                                            .type = ckpt_gguf_type_name(as)});
    }
    for (int32_t i = 0; i < model_gguf_tables(&c->config); i++) {
        types[c->count] = CKPT_GGUF_F32;
        convert_add(c, model_gguf_table_name(&c->config, i), 1,
                    (int64_t[]){model_gguf_table_length(&c->config)},
                    (struct convert_source){.is_table = true, .table = i, .largest = INFINITY});
    }
    return SP_OK;
}

/* The last part of the directory's path, for general.name. */
static char *name_of(const char *dir)
{
    char *real = realpath(dir, NULL);
    const char *slash = real != NULL ? strrchr(real, '/') : NULL;
    char *name = slash != NULL && slash[1] != 0 ? sp_xstrdup(slash + 1) : NULL;
    free(real);
    return name;
}

enum sp_err convert_to_gguf(struct convert *convert, enum ckpt_gguf_type *ret_type,
                            struct sp_error *err)
{
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    enum ckpt_gguf_type *types = NULL;
    size_t count;
    char *name = NULL, *what = NULL;
    enum sp_err rc = choose_type(convert->tool, convert->ckpt, ret_type, err);
    if (rc == SP_OK)
        rc = model_config_load(convert->tool->dir, &convert->config, err);
    if (rc != SP_OK)
        return rc;
    model_gguf_tensors(&convert->config, &convert->tensors, &count);
    convert_reserve(convert, count + MAX_TABLES);
    types = sp_xarray(count + MAX_TABLES, sizeof(*types));
    name = name_of(convert->tool->dir);
    what = sp_path_join(convert->tool->dir, "config.json");
    rc = model_gguf_put(&convert->config, what, name, *ret_type, &meta, err);
    if (rc == SP_OK)
        rc = put_vocab(convert, &meta, err);
    if (rc == SP_OK)
        rc = add_tensors(convert, *ret_type, types, count, err);
    if (rc == SP_OK)
        rc = convert_ready(convert, err);
    if (rc == SP_OK)
        rc =
            ckpt_gguf_write(convert->tool->out, &meta, convert->arrays, types, convert->count, err);
    free(name);
    free(what);
    free(types);
    ckpt_gguf_meta_deinit(&meta);
    return rc;
}

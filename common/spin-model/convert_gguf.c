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

#define ROPE_FACTORS "rope_freqs.weight"

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

static enum sp_err read_config(struct convert *c, struct sp_error *err)
{
    json_t *config = NULL, *generation = NULL;
    char *what = sp_path_join(c->tool->dir, "config.json");
    enum sp_err rc = load_json(c->tool->dir, "config.json", SP_MAX_CONFIG_JSON, true, &config, err);
    if (rc == SP_OK)
        rc = load_json(c->tool->dir, "generation_config.json", SP_MAX_CONFIG_JSON, false,
                       &generation, err);
    if (rc == SP_OK)
        rc = ckpt_llama_from_config(config, generation, what, &c->llama, err);
    json_decref(config);
    json_decref(generation);
    free(what);
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
    enum sp_err rc = load_json(dir, "tokenizer.json", SP_MAX_TOKENIZER_JSON, true, &tokenizer, err);
    if (rc == SP_OK)
        rc = load_json(dir, "tokenizer_config.json", SP_MAX_CONFIG_JSON, false, &config, err);
    if (rc == SP_OK)
        rc = read_template(dir, &template, err);
    if (rc == SP_OK) {
        rc = ckpt_vocab_put(tokenizer, config, template, &c->llama, meta, &c->inexact, err);
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

static bool is_known(const struct convert *c, size_t count, const char *name)
{
    const char *end = strstr(name, ".rotary_emb.inv_freq");
    if ((end != NULL && strcmp(end, ".rotary_emb.inv_freq") == 0) ||
        (c->llama.tied && strcmp(name, "lm_head.weight") == 0))
        return true; /* computed again; the same table under its other name */
    for (size_t i = 0; i < count; i++)
        if (strcmp(c->names[i].hf, name) == 0)
            return true;
    return false;
}

static enum sp_err check_tensor(const struct convert *c, const struct ckpt_llama_tensor *want,
                                const struct ckpt_tensor *t, struct sp_error *err)
{
    if (t == NULL)
        return sp_fail(err, SP_EFORMAT, "checkpoint %s: tensor %s: not there", c->tool->dir,
                       want->hf);
    if (t->dims != want->dims || t->shape[0] != want->shape[0] ||
        (t->dims == 2 && t->shape[1] != want->shape[1]))
        return sp_fail(err, SP_EFORMAT,
                       "checkpoint %s: tensor %s: another shape than config.json asks for (%lld "
                       "rows)",
                       c->tool->dir, want->hf, (long long)want->shape[0]);
    return SP_OK;
}

/* Arrays and their types: vectors stay F32, and rows that no block fits are F16 in place of Q8_0,
 * as llama.cpp's converter has it. */
static enum sp_err add_tensors(struct convert *c, enum ckpt_gguf_type type,
                               enum ckpt_gguf_type *types, size_t count, struct sp_error *err)
{
    for (size_t i = 0; i < ckpt_count(c->ckpt); i++)
        if (!is_known(c, count, ckpt_at(c->ckpt, i)->name))
            return sp_fail(err, SP_EUNSUPPORTED,
                           "checkpoint %s: tensor %.200s: not known in a Llama model", c->tool->dir,
                           ckpt_at(c->ckpt, i)->name);
    for (size_t i = 0; i < count; i++) {
        const struct ckpt_llama_tensor *want = &c->names[i];
        const struct ckpt_tensor *t = ckpt_find(c->ckpt, want->hf);
        enum sp_err rc = check_tensor(c, want, t, err);
        if (rc != SP_OK)
            return rc;
        types[c->count] = want->dims == 1 ? CKPT_GGUF_F32 : type;
        if (want->dims == 2 && want->shape[1] % (int64_t)ckpt_gguf_block_elements(type) != 0)
            types[c->count] = CKPT_GGUF_F16;
        enum ckpt_gguf_type as = types[c->count];
        /* The scale of a Q8_0 block is an fp16 number. */
        double largest = as == CKPT_GGUF_F16    ? convert_largest(CKPT_F16)
                         : as == CKPT_GGUF_BF16 ? convert_largest(CKPT_BF16)
                         : as == CKPT_GGUF_Q8_0 ? 127 * convert_largest(CKPT_F16)
                                                : INFINITY;
        convert_add(c, want->gguf, want->dims, want->shape,
                    (struct convert_source){.tensor = t,
                                            .permuted = want->permuted,
                                            .largest = largest,
                                            .type = ckpt_gguf_type_name(as)});
    }
    if (c->llama.rope == CKPT_ROPE_LLAMA3) {
        types[c->count] = CKPT_GGUF_F32;
        convert_add(c, ROPE_FACTORS, 1, (int64_t[]){c->llama.head_size / 2},
                    (struct convert_source){.rope_factors = true, .largest = INFINITY});
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
    char *name = NULL;
    enum sp_err rc = choose_type(convert->tool, convert->ckpt, ret_type, err);
    if (rc == SP_OK)
        rc = read_config(convert, err);
    if (rc != SP_OK)
        return rc;
    ckpt_llama_tensors(&convert->llama, &convert->names, &count);
    convert_reserve(convert, count + 1);
    types = sp_xarray(count + 1, sizeof(*types));
    name = name_of(convert->tool->dir);
    ckpt_llama_put(&convert->llama, name, *ret_type, &meta);
    rc = put_vocab(convert, &meta, err);
    if (rc == SP_OK)
        rc = add_tensors(convert, *ret_type, types, count, err);
    if (rc == SP_OK)
        rc = convert_ready(convert, err);
    if (rc == SP_OK)
        rc =
            ckpt_gguf_write(convert->tool->out, &meta, convert->arrays, types, convert->count, err);
    free(name);
    free(types);
    ckpt_gguf_meta_deinit(&meta);
    return rc;
}

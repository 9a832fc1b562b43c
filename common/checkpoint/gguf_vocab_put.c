/* GGUF metadata from tokenizer.json and tokenizer_config.json. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/checkpoint/gguf_vocab_internal.h"

#define WHAT "tokenizer.json"

struct out {
    const json_t *root, *bpe, *vocab, *config; /* borrowed; config may be NULL */
    const struct ckpt_vocab *model;
    bool spm, add_space;
    const struct gguf_pre *pre; /* of byte level */
    struct gguf_piece *pieces;
    size_t count;
    struct sp_buf names; /* of ids that no token has */
    bool add_bos, add_eos;
    int32_t bos_id, eos_id, unk_id, pad_id;
};

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type != NULL ? type : "";
}

/* ---- which kind ---- */

static bool replaces_space(const json_t *step)
{
    const char *from =
        json_string_value(json_object_get(json_object_get(step, "pattern"), "String"));
    const char *to = json_string_value(json_object_get(step, "content"));
    return strcmp(type_of(step), "Replace") == 0 && from != NULL && strcmp(from, " ") == 0 &&
           to != NULL && strcmp(to, GGUF_SPACE) == 0;
}

static bool prepends_space(const json_t *step)
{
    const char *prepend = json_string_value(json_object_get(step, "prepend"));
    return strcmp(type_of(step), "Prepend") == 0 && prepend != NULL &&
           strcmp(prepend, GGUF_SPACE) == 0;
}

/* The Llama 2 normalizer, or the Metaspace pre-tokenizer that says the same. */
static bool is_spm(const json_t *root, bool *ret_add_space)
{
    const json_t *norm = json_object_get(root, "normalizer"),
                 *pre = json_object_get(root, "pre_tokenizer"),
                 *steps = json_object_get(norm, "normalizers");
    /* Gemma's cuts at spaces, of which the normalizer has left none. */
    const char *cut = json_string_value(json_object_get(json_object_get(pre, "pattern"), "String"));
    bool idle = strcmp(type_of(pre), "Split") == 0 && cut != NULL && strcmp(cut, " ") == 0;
    if (json_is_object(pre) && !idle) {
        const char *scheme = json_string_value(json_object_get(pre, "prepend_scheme"));
        const char *replacement = json_string_value(json_object_get(pre, "replacement"));
        *ret_add_space = scheme == NULL || strcmp(scheme, "never") != 0;
        return strcmp(type_of(pre), "Metaspace") == 0 && !json_is_object(norm) &&
               json_is_false(json_object_get(pre, "split")) && replacement != NULL &&
               strcmp(replacement, GGUF_SPACE) == 0;
    }
    *ret_add_space = json_array_size(steps) == 2;
    if (json_array_size(steps) == 2)
        return prepends_space(json_array_get(steps, 0)) && replaces_space(json_array_get(steps, 1));
    return replaces_space(json_array_size(steps) == 1 ? json_array_get(steps, 0) : norm);
}

static enum sp_err find_kind(struct out *o, struct sp_error *err)
{
    o->bpe = json_object_get(o->root, "model");
    o->vocab = json_object_get(o->bpe, "vocab");
    if (!json_is_object(o->vocab) || !json_is_array(json_object_get(o->bpe, "merges")))
        return sp_fail(err, SP_EUNSUPPORTED,
                       WHAT ": field \"model\": only BPE, with vocab and merges, can be written as "
                            "GGUF");
    if (is_spm(o->root, &o->add_space)) {
        o->spm = true;
        return SP_OK;
    }
    const json_t *norm = json_object_get(o->root, "normalizer");
    if (norm != NULL && !json_is_null(norm) && strcmp(type_of(norm), "NFC") != 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       WHAT ": field \"normalizer\": %.40s has no counterpart in GGUF",
                       type_of(norm));
    bool ignore = json_is_true(json_object_get(o->bpe, "ignore_merges"));
    o->pre = gguf_pre_match(json_object_get(o->root, "pre_tokenizer"), ignore);
    if (o->pre == NULL)
        return sp_fail(err, SP_EUNSUPPORTED,
                       WHAT ": field \"pre_tokenizer\": this way of cutting words%s has no known "
                            "name in GGUF (tokenizer.ggml.pre)",
                       ignore ? ", with ignore_merges," : "");
    return SP_OK;
}

/* ---- tokens ---- */

static enum sp_err put_token(struct out *o, const char *text, size_t length, const json_t *id,
                             enum gguf_token type, struct sp_error *err)
{
    json_int_t at = json_is_integer(id) ? json_integer_value(id) : -1;
    if (at < 0 || at >= o->model->size)
        return sp_fail(err, SP_EFORMAT,
                       WHAT ": token \"%.80s\": its id is not below config.json's vocab_size, %d",
                       text, o->model->size);
    struct gguf_piece *piece = &o->pieces[at];
    if (piece->text.data != NULL &&
        (piece->text.length != length || memcmp(piece->text.data, text, length) != 0))
        return sp_fail(err, SP_EFORMAT,
                       WHAT ": token \"%.80s\": its id %" JSON_INTEGER_FORMAT " is another's", text,
                       at);
    *piece = (struct gguf_piece){.text = {text, length}, .type = type};
    return SP_OK;
}

static bool is_byte_token(const char *text)
{
    return strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 && text[5] == '>' &&
           strspn(text + 3, "0123456789ABCDEF") == 2;
}

static enum sp_err read_tokens(struct out *o, struct sp_error *err)
{
    const char *text, *unknown = json_string_value(json_object_get(o->bpe, "unk_token"));
    bool bytes = json_is_true(json_object_get(o->bpe, "byte_fallback"));
    json_t *id;
    enum sp_err rc = SP_OK;
    json_object_foreach((json_t *)(uintptr_t)o->vocab, text, id)
    {
        enum gguf_token type = GGUF_TOKEN_NORMAL;
        if (o->spm && unknown != NULL && strcmp(text, unknown) == 0)
            type = GGUF_TOKEN_UNKNOWN;
        else if (o->spm && bytes && is_byte_token(text))
            type = GGUF_TOKEN_BYTE;
        rc = put_token(o, text, strlen(text), id, type, err);
        if (rc != SP_OK)
            return rc;
    }
    size_t index;
    json_t *added;
    json_array_foreach(json_object_get(o->root, "added_tokens"), index, added)
    {
        const json_t *content = json_object_get(added, "content"),
                     *added_id = json_object_get(added, "id");
        bool special = json_is_true(json_object_get(added, "special"));
        if (!json_is_string(content))
            return sp_fail(err, SP_EFORMAT, WHAT ": field \"added_tokens[%zu]\": no content",
                           index);
        const char *name = json_string_value(content);
        enum gguf_token type = special ? GGUF_TOKEN_CONTROL : GGUF_TOKEN_USER;
        if (special && o->spm && unknown != NULL && strcmp(name, unknown) == 0)
            type = GGUF_TOKEN_UNKNOWN;
        rc = put_token(o, name, strlen(name), added_id, type, err);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

/* Rows of the embedding table that no token has, named as llama.cpp's converter does. */
static void name_unused(struct out *o)
{
    char name[32];
    for (size_t i = 0; i < o->count; i++)
        if (o->pieces[i].text.data == NULL)
            sp_buf_append(&o->names, name, (size_t)snprintf(name, sizeof(name), "[PAD%zu]", i));
    const char *at = o->names.data;
    for (size_t i = 0; i < o->count; i++)
        if (o->pieces[i].text.data == NULL) {
            size_t length = (size_t)snprintf(name, sizeof(name), "[PAD%zu]", i);
            o->pieces[i] = (struct gguf_piece){.text = {at, length}, .type = GGUF_TOKEN_UNUSED};
            at += length;
        }
}

/* ---- specials ---- */

static int32_t find_id(const struct out *o, const char *text)
{
    size_t length = text != NULL ? strlen(text) : 0;
    for (size_t i = 0; text != NULL && i < o->count; i++)
        if (o->pieces[i].text.length == length && memcmp(o->pieces[i].text.data, text, length) == 0)
            return (int32_t)i;
    return -1;
}

/* "eos_token" is a string, or an object with its content. */
static int32_t named_id(const struct out *o, const char *key, int32_t otherwise)
{
    const json_t *value = json_object_get(o->config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    int32_t id = find_id(o, json_string_value(value));
    return id >= 0 ? id : otherwise;
}

static int32_t template_id(const json_t *post, const json_t *step)
{
    const char *name =
        json_string_value(json_object_get(json_object_get(step, "SpecialToken"), "id"));
    const json_t *ids = json_object_get(
        json_object_get(json_object_get(post, "special_tokens"), name != NULL ? name : ""), "ids");
    const json_t *id = json_array_get(ids, 0);
    return json_array_size(ids) == 1 && json_is_integer(id) ? (int32_t)json_integer_value(id) : -1;
}

/* BOS before and EOS behind a text are what GGUF can say. */
static enum sp_err read_post(struct out *o, const json_t *post, struct sp_error *err)
{
    if (strcmp(type_of(post), "Sequence") == 0) {
        enum sp_err rc = SP_OK;
        size_t index;
        json_t *step;
        json_array_foreach(json_object_get(post, "processors"), index, step)
        {
            rc = read_post(o, step, err);
            if (rc != SP_OK)
                return rc;
        }
        return rc;
    }
    if (post == NULL || json_is_null(post) || strcmp(type_of(post), "ByteLevel") == 0)
        return SP_OK;
    const json_t *single = json_object_get(post, "single");
    bool behind = false, good = strcmp(type_of(post), "TemplateProcessing") == 0;
    size_t index;
    json_t *step;
    json_array_foreach((json_t *)(uintptr_t)single, index, step)
    {
        if (json_object_get(step, "Sequence") != NULL) {
            behind = true;
            continue;
        }
        int32_t id = template_id(post, step);
        good = good && id >= 0 && !(behind ? o->add_eos : o->add_bos);
        if (behind) {
            o->add_eos = true;
            o->eos_id = id;
        } else {
            o->add_bos = true;
            o->bos_id = id;
        }
    }
    return good ? SP_OK
                : sp_fail(err, SP_EUNSUPPORTED,
                          WHAT ": field \"post_processor\": more than one token before and one "
                               "behind a text has no counterpart in GGUF");
}

/* ---- the metadata ---- */

static enum sp_err put_merges(struct out *o, struct ckpt_gguf_meta *meta, struct sp_error *err)
{
    const json_t *merges = json_object_get(o->bpe, "merges");
    size_t count = json_array_size(merges);
    struct ckpt_gguf_text *texts = sp_xarray(count, sizeof(*texts));
    struct sp_buf all = SP_BUF_INIT;
    enum sp_err rc = SP_OK;
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        struct ckpt_gguf_text a, b;
        size_t before = all.length;
        if (!gguf_merge_halves(json_array_get(merges, i), &a, &b) ||
            memchr(a.data, ' ', a.length) != NULL || memchr(b.data, ' ', b.length) != NULL) {
            rc = sp_fail(err, SP_EFORMAT, WHAT ": field \"model.merges[%zu]\": not two tokens", i);
            break;
        }
        sp_buf_append(&all, a.data, a.length);
        sp_buf_putc(&all, ' ');
        sp_buf_append(&all, b.data, b.length);
        texts[i].length = all.length - before;
    }
    const char *at = all.data;
    for (size_t i = 0; i < count; i++) {
        texts[i].data = at;
        at += texts[i].length;
    }
    if (rc == SP_OK)
        ckpt_gguf_put_texts(meta, "tokenizer.ggml.merges", texts, count);
    sp_buf_deinit(&all);
    free(texts);
    return rc;
}

static void put_tokens(const struct out *o, struct ckpt_gguf_meta *meta)
{
    struct ckpt_gguf_text *texts = sp_xarray(o->count, sizeof(*texts));
    float *scores = sp_xarray(o->count, sizeof(*scores));
    int32_t *types = sp_xarray(o->count, sizeof(*types));
    for (size_t i = 0; i < o->count; i++) {
        texts[i] = o->pieces[i].text;
        scores[i] = (float)o->pieces[i].score;
        types[i] = (int32_t)o->pieces[i].type;
    }
    ckpt_gguf_put_text(meta, "tokenizer.ggml.model", o->spm ? "llama" : "gpt2");
    ckpt_gguf_put_text(meta, "tokenizer.ggml.pre", o->spm ? "default" : o->pre->name);
    ckpt_gguf_put_texts(meta, "tokenizer.ggml.tokens", texts, o->count);
    if (o->spm)
        ckpt_gguf_put_f32s(meta, "tokenizer.ggml.scores", scores, o->count);
    ckpt_gguf_put_i32s(meta, "tokenizer.ggml.token_type", types, o->count);
    free(texts);
    free(scores);
    free(types);
}

static void put_specials(const struct out *o, struct ckpt_gguf_meta *meta)
{
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", o->bos_id},
               {"tokenizer.ggml.eos_token_id", o->eos_id},
               {"tokenizer.ggml.unknown_token_id", o->unk_id},
               {"tokenizer.ggml.padding_token_id", o->pad_id}};
    for (size_t i = 0; i < SP_COUNT(ids); i++)
        if (ids[i].id >= 0)
            ckpt_gguf_put_u32(meta, ids[i].key, (uint32_t)ids[i].id);
    for (int32_t i = 0; i < o->model->n_eos; i++)
        if (o->model->eos_ids[i] != o->eos_id) {
            ckpt_gguf_put_u32(meta, "tokenizer.ggml.eot_token_id", (uint32_t)o->model->eos_ids[i]);
            break;
        }
    ckpt_gguf_put_bool(meta, "tokenizer.ggml.add_bos_token", o->add_bos);
    ckpt_gguf_put_bool(meta, "tokenizer.ggml.add_eos_token", o->add_eos);
    ckpt_gguf_put_bool(meta, "tokenizer.ggml.add_space_prefix", o->add_space);
}

static void put_template(const struct out *o, const char *chat_template,
                         struct ckpt_gguf_meta *meta)
{
    const json_t *own = json_object_get(o->config, "chat_template");
    size_t index;
    json_t *item;
    /* A list of named templates: the default one. */
    json_array_foreach((json_t *)(uintptr_t)own, index, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0) {
            own = json_object_get(item, "template");
            break;
        }
    }
    if (chat_template == NULL)
        chat_template = json_string_value(own);
    if (chat_template != NULL)
        ckpt_gguf_put_text(meta, "tokenizer.chat_template", chat_template);
}

static enum sp_err put_all(struct out *o, const char *chat_template, struct ckpt_gguf_meta *meta,
                           size_t *ret_inexact, struct sp_error *err)
{
    const struct ckpt_vocab *model = o->model;
    size_t inexact = 0;
    enum sp_err rc = find_kind(o, err);
    if (rc != SP_OK)
        return rc;
    o->count = (size_t)model->size;
    o->pieces = sp_xarray(o->count, sizeof(*o->pieces));
    if ((rc = read_tokens(o, err)) != SP_OK)
        return rc;
    name_unused(o);
    o->bos_id = named_id(o, "bos_token", model->bos_id);
    o->eos_id = named_id(o, "eos_token", model->n_eos > 0 ? model->eos_ids[0] : -1);
    o->pad_id = named_id(o, "pad_token", model->pad_id);
    o->unk_id = named_id(o, "unk_token", -1);
    if (o->unk_id < 0)
        o->unk_id = find_id(o, json_string_value(json_object_get(o->bpe, "unk_token")));
    rc = read_post(o, json_object_get(o->root, "post_processor"), err);
    if (rc == SP_OK && o->spm)
        rc = gguf_spm_scores(json_object_get(o->bpe, "merges"), o->vocab, o->pieces, o->count, WHAT,
                             &inexact, err);
    if (rc != SP_OK)
        return rc;
    put_tokens(o, meta);
    if (!o->spm)
        rc = put_merges(o, meta, err);
    put_specials(o, meta);
    put_template(o, chat_template, meta);
    *ret_inexact = inexact;
    return rc;
}

enum sp_err ckpt_vocab_put(const json_t *tokenizer, const json_t *tokenizer_config,
                           const char *chat_template, const struct ckpt_vocab *model,
                           struct ckpt_gguf_meta *meta, size_t *ret_inexact, struct sp_error *err)
{
    struct out o = {.root = tokenizer, .config = tokenizer_config, .model = model};
    enum sp_err rc = put_all(&o, chat_template, meta, ret_inexact, err);
    sp_buf_deinit(&o.names);
    free(o.pieces);
    return rc;
}

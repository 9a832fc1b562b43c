/* tokenizer.json and tokenizer_config.json from the metadata of a GGUF file. */
#include "common/checkpoint/gguf_vocab.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/checkpoint/gguf_internal.h"
#include "common/checkpoint/gguf_vocab_internal.h"

#define TOKENS "tokenizer.ggml.tokens"

struct vocab {
    const struct ckpt_gguf *gguf;
    const struct ckpt_vocab *model;
    bool spm;                   /* SentencePiece style, else byte level */
    const struct gguf_pre *pre; /* of byte level */
    struct gguf_piece *pieces;
    size_t count;
    json_t *ids; /* text → id */
    bool add_bos, add_eos, add_space;
};

static json_t *text_json(struct ckpt_gguf_text text)
{
    return json_stringn(text.data, text.length);
}

static json_t *token_json(const struct vocab *v, int32_t id)
{
    return id >= 0 && (size_t)id < v->count ? text_json(v->pieces[id].text) : NULL;
}

/* ---- reading the metadata ---- */

static enum sp_err opt_id(const struct ckpt_gguf *gguf, const char *key, int32_t size, int32_t *ret,
                          struct sp_error *err)
{
    int64_t value = -1;
    enum sp_err rc = ckpt_gguf_opt_i64(gguf, key, 0, size - 1, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

enum sp_err ckpt_vocab_ids(const struct ckpt_gguf *gguf, int32_t size, int32_t context,
                           struct ckpt_vocab *ret, struct sp_error *err)
{
    struct ckpt_vocab v = {.size = size, .context = context};
    int32_t eos = -1, eot = -1;
    enum sp_err rc;
    if ((rc = opt_id(gguf, "tokenizer.ggml.bos_token_id", size, &v.bos_id, err)) ||
        (rc = opt_id(gguf, "tokenizer.ggml.padding_token_id", size, &v.pad_id, err)) ||
        (rc = opt_id(gguf, "tokenizer.ggml.unknown_token_id", size, &v.unk_id, err)) ||
        (rc = opt_id(gguf, "tokenizer.ggml.eos_token_id", size, &eos, err)) ||
        (rc = opt_id(gguf, "tokenizer.ggml.eot_token_id", size, &eot, err)))
        return rc;
    if (eos >= 0)
        v.eos_ids[v.n_eos++] = eos;
    if (eot >= 0 && eot != eos)
        v.eos_ids[v.n_eos++] = eot;
    *ret = v;
    return SP_OK;
}

static enum sp_err read_kind(struct vocab *v, struct sp_error *err)
{
    const char *path = ckpt_gguf_path(v->gguf);
    struct ckpt_gguf_text kind = {0}, pre = {"", 0};
    enum sp_err rc = ckpt_gguf_text(v->gguf, "tokenizer.ggml.model", &kind, err);
    if (rc == SP_OK)
        rc = ckpt_gguf_opt_text(v->gguf, "tokenizer.ggml.pre", &pre, err);
    if (rc != SP_OK)
        return rc;
    v->spm = kind.length == 5 && memcmp(kind.data, "llama", 5) == 0;
    if (v->spm) {
        v->add_bos = v->add_space = true;
    } else if (kind.length == 4 && memcmp(kind.data, "gpt2", 4) == 0) {
        v->pre = gguf_pre_find(pre);
        if (v->pre == NULL)
            return sp_fail(err, SP_EUNSUPPORTED,
                           "%s: metadata \"tokenizer.ggml.pre\": \"%.*s\" is not known; give the "
                           "original tokenizer.json with --tokenizer",
                           path, (int)SP_MIN(pre.length, 60), pre.data);
        v->add_bos = v->pre->add_bos;
    } else {
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: metadata \"tokenizer.ggml.model\": \"%.*s\" is not supported (gpt2 and "
                       "llama are); give the original tokenizer.json with --tokenizer",
                       path, (int)SP_MIN(kind.length, 60), kind.data);
    }
    bool squeeze = false;
    if ((rc = ckpt_gguf_opt_bool(v->gguf, "tokenizer.ggml.add_bos_token", &v->add_bos, err)) ||
        (rc = ckpt_gguf_opt_bool(v->gguf, "tokenizer.ggml.add_eos_token", &v->add_eos, err)) ||
        (rc = ckpt_gguf_opt_bool(v->gguf, "tokenizer.ggml.add_space_prefix", &v->add_space, err)) ||
        (rc =
             ckpt_gguf_opt_bool(v->gguf, "tokenizer.ggml.remove_extra_whitespaces", &squeeze, err)))
        return rc;
    if (squeeze || ckpt_gguf_has(v->gguf, "tokenizer.ggml.precompiled_charsmap"))
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: metadata \"tokenizer.ggml.%s\": such normalization is not supported",
                       path, squeeze ? "remove_extra_whitespaces" : "precompiled_charsmap");
    return SP_OK;
}

static enum sp_err read_types_and_scores(struct vocab *v, struct sp_error *err)
{
    static const char type_key[] = "tokenizer.ggml.token_type",
                      score_key[] = "tokenizer.ggml.scores";
    int64_t *types = NULL;
    double *scores = NULL;
    size_t type_count = v->count, score_count = v->count;
    enum sp_err rc = SP_OK;
    if (ckpt_gguf_has(v->gguf, type_key))
        rc = ckpt_gguf_ints(v->gguf, type_key, &types, &type_count, err);
    if (rc == SP_OK && v->spm)
        rc = ckpt_gguf_reals(v->gguf, score_key, &scores, &score_count, err);
    if (rc == SP_OK && (type_count != v->count || score_count != v->count))
        rc = sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": %zu elements for %zu tokens",
                     ckpt_gguf_path(v->gguf), type_count != v->count ? type_key : score_key,
                     type_count != v->count ? type_count : score_count, v->count);
    for (size_t i = 0; rc == SP_OK && i < v->count; i++) {
        int64_t type = types != NULL ? types[i] : GGUF_TOKEN_NORMAL;
        if (type < GGUF_TOKEN_NORMAL || type > GGUF_TOKEN_BYTE)
            rc = sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": element %zu is %" PRId64,
                         ckpt_gguf_path(v->gguf), type_key, i, type);
        else if (scores != NULL && !__builtin_isfinite(scores[i]))
            rc = sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": element %zu is not finite",
                         ckpt_gguf_path(v->gguf), score_key, i);
        v->pieces[i].type = (enum gguf_token)type;
        v->pieces[i].score = scores != NULL ? scores[i] : 0;
    }
    free(types);
    free(scores);
    return rc;
}

static enum sp_err read_tokens(struct vocab *v, struct sp_error *err)
{
    struct ckpt_gguf_text *texts = NULL;
    const char *path = ckpt_gguf_path(v->gguf);
    enum sp_err rc = ckpt_gguf_texts(v->gguf, TOKENS, &texts, &v->count, err);
    if (rc != SP_OK)
        return rc;
    if (v->count == 0 || v->count > (size_t)v->model->size) {
        free(texts);
        return sp_fail(err, SP_EFORMAT,
                       "%s: metadata \"" TOKENS "\": %zu tokens, the embedding table has %d rows",
                       path, v->count, v->model->size);
    }
    v->pieces = sp_xarray(v->count, sizeof(*v->pieces));
    for (size_t i = 0; i < v->count; i++)
        v->pieces[i].text = texts[i];
    free(texts);
    rc = read_types_and_scores(v, err);
    v->ids = json_object();
    for (size_t i = 0; rc == SP_OK && i < v->count; i++) {
        const struct gguf_piece *piece = &v->pieces[i];
        if (piece->type == GGUF_TOKEN_UNUSED)
            continue;
        if (piece->text.length > SP_MAX_GGUF_TOKEN)
            rc = sp_fail(err, SP_ELIMIT,
                         "%s: metadata \"" TOKENS "\": element %zu has %zu bytes, the limit is %d",
                         path, i, piece->text.length, SP_MAX_GGUF_TOKEN);
        else if (json_object_getn(v->ids, piece->text.data, piece->text.length) != NULL)
            rc = sp_fail(err, SP_EFORMAT, "%s: metadata \"" TOKENS "\": element %zu is there twice",
                         path, i);
        else
            json_object_setn_new(v->ids, piece->text.data, piece->text.length,
                                 json_integer((json_int_t)i));
    }
    return rc;
}

/* ---- tokenizer.json ---- */

static json_t *added_tokens(const struct vocab *v)
{
    json_t *list = json_array();
    for (size_t i = 0; i < v->count; i++) {
        enum gguf_token type = v->pieces[i].type;
        if (type != GGUF_TOKEN_CONTROL && type != GGUF_TOKEN_USER && type != GGUF_TOKEN_UNKNOWN)
            continue;
        json_array_append_new(
            list, json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content",
                            text_json(v->pieces[i].text), "single_word", 0, "lstrip", 0, "rstrip",
                            0, "normalized", 0, "special", type != GGUF_TOKEN_USER));
    }
    return list;
}

static json_t *space_replaced(const char *from, const char *to)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content",
                     to);
}

static json_t *normalizer(const struct vocab *v)
{
    if (!v->spm)
        return v->pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
    if (!v->add_space)
        return space_replaced(" ", GGUF_SPACE);
    return json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type",
                     "Prepend", "prepend", GGUF_SPACE, space_replaced(" ", GGUF_SPACE));
}

static json_t *decoder(const struct vocab *v)
{
    if (!v->spm)
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                         "trim_offsets", 1, "use_regex", 1);
    json_t *list = json_pack("[o, {s:s}, {s:s}]", space_replaced(GGUF_SPACE, " "), "type",
                             "ByteFallback", "type", "Fuse");
    if (v->add_space)
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content",
                                              " ", "start", 1, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", list);
}

static json_t *special_step(json_t *text, int sequence)
{
    return json_pack("{s:{s:o, s:i}}", "SpecialToken", "id", text, "type_id", sequence);
}

/* Appends BOS, the text and EOS, as far as they are asked for. */
static void add_steps(const struct vocab *v, int32_t eos, const char *name, int sequence,
                      json_t *list)
{
    if (v->add_bos)
        json_array_append_new(list, special_step(token_json(v, v->model->bos_id), sequence));
    json_array_append_new(list,
                          json_pack("{s:{s:s, s:i}}", "Sequence", "id", name, "type_id", sequence));
    if (v->add_eos)
        json_array_append_new(list, special_step(token_json(v, eos), sequence));
}

static void add_special(const struct vocab *v, int32_t id, json_t *specials)
{
    const struct ckpt_gguf_text *text = &v->pieces[id].text;
    json_object_setn_new(specials, text->data, text->length,
                         json_pack("{s:s%, s:[i], s:[s%]}", "id", text->data, text->length, "ids",
                                   id, "tokens", text->data, text->length));
}

static enum sp_err post_processor(const struct vocab *v, json_t **ret, struct sp_error *err)
{
    int32_t eos = v->model->n_eos > 0 ? v->model->eos_ids[0] : -1;
    if (!v->add_bos && !v->add_eos) {
        *ret = v->spm ? json_null()
                      : json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                                  1, "trim_offsets", 0, "use_regex", 1);
        return SP_OK;
    }
    if ((v->add_bos && (v->model->bos_id < 0 || (size_t)v->model->bos_id >= v->count)) ||
        (v->add_eos && (eos < 0 || (size_t)eos >= v->count)))
        return sp_fail(
            err, SP_EFORMAT,
            "%s: metadata \"tokenizer.ggml.%s_token_id\": not there, though such a token "
            "is to be added",
            ckpt_gguf_path(v->gguf), v->add_bos && v->model->bos_id < 0 ? "bos" : "eos");
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    add_steps(v, eos, "A", 0, single);
    add_steps(v, eos, "A", 0, pair);
    add_steps(v, eos, "B", 1, pair);
    if (v->add_bos)
        add_special(v, v->model->bos_id, specials);
    if (v->add_eos)
        add_special(v, eos, specials);
    *ret = json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     pair, "special_tokens", specials);
    return SP_OK;
}

/* Each as it is in the file: two tokens with a space between. */
static enum sp_err byte_level_merges(const struct vocab *v, json_t **ret, struct sp_error *err)
{
    struct ckpt_gguf_text *texts = NULL;
    size_t count = 0;
    enum sp_err rc = ckpt_gguf_texts(v->gguf, "tokenizer.ggml.merges", &texts, &count, err);
    if (rc != SP_OK)
        return rc;
    json_t *merges = json_array();
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        const char *space = memchr(texts[i].data, ' ', texts[i].length);
        size_t left = space != NULL ? (size_t)(space - texts[i].data) : 0;
        if (left == 0 || left + 1 == texts[i].length ||
            memchr(space + 1, ' ', texts[i].length - left - 1) != NULL)
            rc = sp_fail(err, SP_EFORMAT,
                         "%s: metadata \"tokenizer.ggml.merges\": element %zu is not two tokens "
                         "with a space between",
                         ckpt_gguf_path(v->gguf), i);
        else
            json_array_append_new(merges, text_json(texts[i]));
    }
    free(texts);
    if (rc == SP_OK)
        *ret = merges;
    else
        json_decref(merges);
    return rc;
}

static enum sp_err bpe_model(const struct vocab *v, json_t **ret, struct sp_error *err)
{
    json_t *merges = NULL, *unknown = NULL;
    bool bytes = false;
    enum sp_err rc = SP_OK;
    if (v->spm)
        merges = gguf_spm_merges(v->pieces, v->count, v->ids);
    else
        rc = byte_level_merges(v, &merges, err);
    if (rc != SP_OK)
        return rc;
    for (size_t i = 0; v->spm && i < v->count; i++) {
        bytes |= v->pieces[i].type == GGUF_TOKEN_BYTE;
        if (unknown == NULL && v->pieces[i].type == GGUF_TOKEN_UNKNOWN)
            unknown = text_json(v->pieces[i].text);
    }
    *ret =
        json_pack("{s:s, s:n, s:o?, s:n, s:n, s:b, s:b, s:b, s:O, s:o}", "type", "BPE", "dropout",
                  "unk_token", unknown, "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", v->spm, "byte_fallback", bytes, "ignore_merges",
                  !v->spm && v->pre->ignore_merges, "vocab", v->ids, "merges", merges);
    return SP_OK;
}

static enum sp_err make_tokenizer(const struct vocab *v, json_t **ret, struct sp_error *err)
{
    json_t *post = NULL, *bpe = NULL;
    enum sp_err rc = post_processor(v, &post, err);
    if (rc == SP_OK)
        rc = bpe_model(v, &bpe, err);
    if (rc != SP_OK) {
        json_decref(post);
        return rc;
    }
    *ret = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0",
                     "truncation", "padding", "added_tokens", added_tokens(v), "normalizer",
                     normalizer(v), "pre_tokenizer", v->spm ? json_null() : gguf_pre_json(v->pre),
                     "post_processor", post, "decoder", decoder(v), "model", bpe);
    return SP_OK;
}

/* ---- tokenizer_config.json ---- */

static enum sp_err make_config(const struct vocab *v, json_t **ret, struct sp_error *err)
{
    static const char template_key[] = "tokenizer.chat_template";
    const struct ckpt_vocab *model = v->model;
    struct ckpt_gguf_text template = {0};
    enum sp_err rc = ckpt_gguf_opt_text(v->gguf, template_key, &template, err);
    if (rc != SP_OK)
        return rc;
    json_t *config =
        json_pack("{s:b, s:i, s:s}", "clean_up_tokenization_spaces", 0, "model_max_length",
                  model->context, "tokenizer_class", "PreTrainedTokenizerFast");
    const struct {
        const char *name;
        int32_t id;
    } specials[] = {{"bos_token", model->bos_id},
                    {"eos_token", model->n_eos > 0 ? model->eos_ids[0] : -1},
                    {"pad_token", model->pad_id},
                    {"unk_token", model->unk_id}};
    for (size_t i = 0; i < SP_COUNT(specials); i++) {
        json_t *text = token_json(v, specials[i].id);
        if (text != NULL)
            json_object_set_new(config, specials[i].name, text);
    }
    if (template.data != NULL)
        json_object_set_new(config, "chat_template", text_json(template));
    *ret = config;
    return SP_OK;
}

enum sp_err ckpt_vocab_from_gguf(const struct ckpt_gguf *gguf, const struct ckpt_vocab *model,
                                 json_t **ret_tokenizer, json_t **ret_config, struct sp_error *err)
{
    struct vocab v = {.gguf = gguf, .model = model};
    json_t *tokenizer = NULL, *config = NULL;
    enum sp_err rc = read_kind(&v, err);
    if (rc == SP_OK)
        rc = read_tokens(&v, err);
    if (rc == SP_OK)
        rc = make_tokenizer(&v, &tokenizer, err);
    if (rc == SP_OK)
        rc = make_config(&v, &config, err);
    if (rc == SP_OK) {
        *ret_tokenizer = tokenizer;
        *ret_config = config;
    } else {
        json_decref(tokenizer);
    }
    json_decref(v.ids);
    free(v.pieces);
    return gguf_missing(rc, err);
}

/* Reading decoders and post-processors. */
#include <stdlib.h>

#include "common/text/internal.h"

/* ---- decoders ---- */

static struct tok_decoder *add_decoder(struct tok_tokenizer *t, enum tok_decoder_kind kind)
{
    t->decoders = sp_xgrow(t->decoders, t->decoder_count + 1, sizeof(*t->decoders));
    struct tok_decoder *dec = &t->decoders[t->decoder_count++];
    *dec = (struct tok_decoder){.kind = kind};
    return dec;
}

static enum sp_err load_content(const struct tok_loader *loader, const json_t *value,
                                const char *field, const char *key, struct tok_decoder *dec)
{
    const char *content = json_string_value(json_object_get(value, key));
    if (content == NULL)
        return tok_bad_field(loader, field, "\"%s\" is not a string", key);
    dec->content = sp_xstrdup(content);
    dec->content_length = strlen(content);
    return SP_OK;
}

static enum sp_err load_strip(const struct tok_loader *loader, const json_t *value,
                              const char *field)
{
    struct tok_decoder *dec = add_decoder(loader->tokenizer, TOK_DEC_STRIP);
    enum sp_err rc = load_content(loader, value, field, "content", dec);
    if (rc != SP_OK)
        return rc;
    if (dec->content_length == 0 ||
        dec->content_length != tok_utf8_length((unsigned char)dec->content[0]))
        return tok_bad_field(loader, field, "\"content\" is not one character");
    char what[512];
    snprintf(what, sizeof(what), "%.400s: %s", loader->what, field);
    rc = sp_json_opt_i64(value, "start", 0, INT32_MAX, what, &dec->start, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_i64(value, "stop", 0, INT32_MAX, what, &dec->stop, loader->err);
    return rc;
}

static enum sp_err load_decoder(const struct tok_loader *loader, const json_t *value,
                                const char *field)
{
    struct tok_tokenizer *t = loader->tokenizer;
    const char *type = tok_component_type(loader, value, field);
    if (type == NULL)
        return SP_EFORMAT;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(value, "decoders");
        if (!json_is_array(list))
            return tok_bad_field(loader, field, "\"decoders\" is not an array");
        enum sp_err rc = SP_OK;
        for (size_t i = 0; i < json_array_size(list) && rc == SP_OK; i++) {
            char name[96];
            snprintf(name, sizeof(name), "%.60s.decoders[%zu]", field, i);
            rc = load_decoder(loader, json_array_get(list, i), name);
        }
        return rc;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        add_decoder(t, TOK_DEC_BYTE_LEVEL);
        return SP_OK;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        add_decoder(t, TOK_DEC_BYTE_FALLBACK);
        return SP_OK;
    }
    if (strcmp(type, "Fuse") == 0) {
        add_decoder(t, TOK_DEC_FUSE);
        return SP_OK;
    }
    if (strcmp(type, "Strip") == 0)
        return load_strip(loader, value, field);
    if (strcmp(type, "Replace") == 0) {
        struct tok_decoder *dec = add_decoder(t, TOK_DEC_REPLACE);
        enum sp_err rc = load_content(loader, value, field, "content", dec);
        return rc != SP_OK ? rc : tok_load_pattern(loader, value, field, &dec->pattern);
    }
    if (strcmp(type, "BPEDecoder") == 0)
        return load_content(loader, value, field, "suffix", add_decoder(t, TOK_DEC_BPE));
    if (strcmp(type, "Metaspace") == 0) {
        struct tok_decoder *dec = add_decoder(t, TOK_DEC_METASPACE);
        return tok_load_metaspace(loader, value, field, dec->replacement, &dec->prepend);
    }
    return tok_unsupported(loader, field, "the decoder %.64s is not supported", type);
}

enum sp_err tok_load_decoder(const struct tok_loader *loader, const json_t *value)
{
    if (value == NULL || json_is_null(value))
        return SP_OK;
    loader->tokenizer->has_decoder = true;
    return load_decoder(loader, value, "decoder");
}

/* ---- post-processors: what they put before and behind a text ---- */

static enum sp_err add_id(const struct tok_loader *loader, const json_t *value, const char *field,
                          struct tok_ids *ret)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= loader->tokenizer->id_limit)
        return tok_bad_field(loader, field, "expected a token id from 0 to %d",
                             loader->tokenizer->id_limit - 1);
    tok_ids_append(ret, (int32_t)id);
    return SP_OK;
}

static enum sp_err add_special(const struct tok_loader *loader, const json_t *specials,
                               const char *name, const char *field, struct tok_ids *ret)
{
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids))
        return tok_bad_field(loader, field, "\"%.64s\" has no list of ids in special_tokens", name);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < json_array_size(ids) && rc == SP_OK; i++)
        rc = add_id(loader, json_array_get(ids, i), field, ret);
    return rc;
}

static enum sp_err load_template(const struct tok_loader *loader, const json_t *value,
                                 const char *field, struct tok_ids *prefix, struct tok_ids *suffix)
{
    const json_t *single = json_object_get(value, "single");
    if (!json_is_array(single))
        return tok_bad_field(loader, field, "\"single\" is not an array");
    bool behind = false;
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < json_array_size(single) && rc == SP_OK; i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        const char *sequence =
            json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
        const char *name = json_string_value(json_object_get(special, "id"));
        if (name != NULL)
            rc = add_special(loader, json_object_get(value, "special_tokens"), name, field,
                             behind ? suffix : prefix);
        else if (sequence == NULL || strcmp(sequence, "A") != 0 || behind)
            rc = tok_unsupported(loader, field,
                                 "\"single\" is more than special tokens around one text");
        else
            behind = true;
    }
    if (rc == SP_OK && !behind)
        return tok_unsupported(loader, field, "\"single\" leaves the text out");
    return rc;
}

/* {"sep": ["</s>", 2], "cls": ["<s>", 0]} */
static enum sp_err load_pair(const struct tok_loader *loader, const json_t *value,
                             const char *field, struct tok_ids *prefix, struct tok_ids *suffix)
{
    enum sp_err rc =
        add_id(loader, json_array_get(json_object_get(value, "cls"), 1), field, prefix);
    return rc != SP_OK
               ? rc
               : add_id(loader, json_array_get(json_object_get(value, "sep"), 1), field, suffix);
}

static enum sp_err load_post(const struct tok_loader *loader, const json_t *value,
                             const char *field)
{
    struct tok_tokenizer *t = loader->tokenizer;
    const char *type = tok_component_type(loader, value, field);
    if (type == NULL)
        return SP_EFORMAT;
    enum sp_err rc = SP_OK;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(value, "processors");
        if (!json_is_array(list))
            return tok_bad_field(loader, field, "\"processors\" is not an array");
        for (size_t i = 0; i < json_array_size(list) && rc == SP_OK; i++) {
            char name[96];
            snprintf(name, sizeof(name), "%.60s.processors[%zu]", field, i);
            rc = load_post(loader, json_array_get(list, i), name);
        }
        return rc;
    }
    if (strcmp(type, "ByteLevel") == 0)
        return SP_OK; /* moves offsets, no tokens */
    struct tok_ids prefix = TOK_IDS_INIT, suffix = TOK_IDS_INIT;
    if (strcmp(type, "TemplateProcessing") == 0)
        rc = load_template(loader, value, field, &prefix, &suffix);
    else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        rc = load_pair(loader, value, field, &prefix, &suffix);
    else
        rc = tok_unsupported(loader, field, "the post-processor %.64s is not supported", type);
    if (rc == SP_OK) {
        /* A later one wraps what the earlier ones made. */
        tok_ids_append_all(&prefix, t->prefix.ids, t->prefix.count);
        tok_ids_clear(&t->prefix);
        tok_ids_append_all(&t->prefix, prefix.ids, prefix.count);
        tok_ids_append_all(&t->suffix, suffix.ids, suffix.count);
    }
    tok_ids_deinit(&prefix);
    tok_ids_deinit(&suffix);
    return rc;
}

enum sp_err tok_load_post(const struct tok_loader *loader, const json_t *value)
{
    if (value == NULL || json_is_null(value))
        return SP_OK;
    return load_post(loader, value, "post_processor");
}

/* Reading normalizers and pre-tokenizers. A Sequence is written out into one flat list. */
#include <stdlib.h>

#include "common/text/internal.h"

/* How GPT-2 cuts words (encoder.py of its release). */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* The Whitespace pre-tokenizer has its words from another library than Split, so spelled out. */
#define WORD_CLASS                                                                                 \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}"                       \
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
static const char whitespace_pattern[] = "[" WORD_CLASS "]+|[^" WORD_CLASS "\\s]+";

const char *tok_component_type(const struct tok_loader *loader, const json_t *value,
                               const char *field)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type == NULL)
        tok_bad_field(loader, field, "expected an object with a string \"type\"");
    return type;
}

static enum sp_err opt_bool(const struct tok_loader *loader, const json_t *object,
                            const char *component, const char *key, bool *ret)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value))
        return SP_OK;
    if (!json_is_boolean(value)) {
        char field[128];
        snprintf(field, sizeof(field), "%s.%s", component, key);
        return tok_bad_field(loader, field, "expected true or false");
    }
    *ret = json_is_true(value);
    return SP_OK;
}

static enum sp_err need_string(const struct tok_loader *loader, const json_t *object,
                               const char *component, const char *key, const char **ret)
{
    *ret = json_string_value(json_object_get(object, key));
    if (*ret != NULL)
        return SP_OK;
    char field[128];
    snprintf(field, sizeof(field), "%s.%s", component, key);
    return tok_bad_field(loader, field, "expected a string");
}

static enum sp_err compile(const struct tok_loader *loader, const char *source, const char *field,
                           struct tok_pattern *ret)
{
    char what[640];
    snprintf(what, sizeof(what), "%.480s: field \"%s\"", loader->what, field);
    return tok_regex_compile(source, strlen(source), what, &ret->regex, loader->err);
}

enum sp_err tok_load_pattern(const struct tok_loader *loader, const json_t *object,
                             const char *field, struct tok_pattern *ret)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const char *text = json_string_value(json_object_get(pattern, "String"));
    const char *source = json_string_value(json_object_get(pattern, "Regex"));
    char name[128];
    snprintf(name, sizeof(name), "%s.pattern", field);
    if ((text == NULL) == (source == NULL))
        return tok_bad_field(loader, name, "expected {\"String\": …} or {\"Regex\": …}");
    if (source != NULL)
        return compile(loader, source, name, ret);
    ret->text = sp_xstrdup(text);
    ret->length = strlen(text);
    return SP_OK;
}

/* ---- normalizers ---- */

static struct tok_normalizer *add_normalizer(struct tok_tokenizer *t, enum tok_normalizer_kind kind)
{
    t->normalizers = sp_xgrow(t->normalizers, t->normalizer_count + 1, sizeof(*t->normalizers));
    struct tok_normalizer *norm = &t->normalizers[t->normalizer_count++];
    *norm = (struct tok_normalizer){.kind = kind};
    return norm;
}

static enum sp_err load_normalizer_content(const struct tok_loader *loader, const json_t *value,
                                           const char *field, const char *key,
                                           struct tok_normalizer *norm)
{
    const char *content;
    enum sp_err rc = need_string(loader, value, field, key, &content);
    if (rc != SP_OK)
        return rc;
    norm->content = sp_xstrdup(content);
    norm->content_length = strlen(content);
    return SP_OK;
}

static enum sp_err load_normalizer(const struct tok_loader *loader, const json_t *value,
                                   const char *field);

static enum sp_err
load_sequence(const struct tok_loader *loader, const json_t *list, const char *field,
              enum sp_err (*load)(const struct tok_loader *, const json_t *, const char *))
{
    if (!json_is_array(list))
        return tok_bad_field(loader, field, "expected an array");
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < json_array_size(list) && rc == SP_OK; i++) {
        char name[96];
        snprintf(name, sizeof(name), "%.64s[%zu]", field, i);
        rc = load(loader, json_array_get(list, i), name);
    }
    return rc;
}

static enum sp_err load_normalizer(const struct tok_loader *loader, const json_t *value,
                                   const char *field)
{
    static const struct {
        const char *name;
        enum tok_normalizer_kind kind;
    } simple[] = {{"NFC", TOK_NORM_NFC},
                  {"NFD", TOK_NORM_NFD},
                  {"NFKC", TOK_NORM_NFKC},
                  {"NFKD", TOK_NORM_NFKD},
                  {"Lowercase", TOK_NORM_LOWERCASE},
                  {"StripAccents", TOK_NORM_STRIP_ACCENTS},
                  {"ByteLevel", TOK_NORM_BYTE_LEVEL}};
    struct tok_tokenizer *t = loader->tokenizer;
    const char *type = tok_component_type(loader, value, field);
    if (type == NULL)
        return SP_EFORMAT;
    for (size_t i = 0; i < SP_COUNT(simple); i++)
        if (strcmp(type, simple[i].name) == 0) {
            add_normalizer(t, simple[i].kind);
            return SP_OK;
        }
    if (strcmp(type, "Sequence") == 0) {
        char name[128];
        snprintf(name, sizeof(name), "%s.normalizers", field);
        return load_sequence(loader, json_object_get(value, "normalizers"), name, load_normalizer);
    }
    if (strcmp(type, "Prepend") == 0)
        return load_normalizer_content(loader, value, field, "prepend",
                                       add_normalizer(t, TOK_NORM_PREPEND));
    if (strcmp(type, "Replace") == 0) {
        struct tok_normalizer *norm = add_normalizer(t, TOK_NORM_REPLACE);
        enum sp_err rc = load_normalizer_content(loader, value, field, "content", norm);
        return rc != SP_OK ? rc : tok_load_pattern(loader, value, field, &norm->pattern);
    }
    if (strcmp(type, "Strip") == 0) {
        struct tok_normalizer *norm = add_normalizer(t, TOK_NORM_STRIP);
        enum sp_err rc = opt_bool(loader, value, field, "strip_left", &norm->left);
        return rc != SP_OK ? rc : opt_bool(loader, value, field, "strip_right", &norm->right);
    }
    return tok_unsupported(loader, field, "the normalizer %.64s is not supported", type);
}

enum sp_err tok_load_normalizer(const struct tok_loader *loader, const json_t *value)
{
    if (value == NULL || json_is_null(value))
        return SP_OK;
    return load_normalizer(loader, value, "normalizer");
}

/* ---- pre-tokenizers ---- */

static struct tok_pretokenizer *add_pretokenizer(struct tok_tokenizer *t,
                                                 enum tok_pretokenizer_kind kind,
                                                 enum tok_behavior behavior)
{
    t->pretokenizers =
        sp_xgrow(t->pretokenizers, t->pretokenizer_count + 1, sizeof(*t->pretokenizers));
    struct tok_pretokenizer *pre = &t->pretokenizers[t->pretokenizer_count++];
    *pre = (struct tok_pretokenizer){.kind = kind, .behavior = behavior};
    return pre;
}

static enum sp_err load_behavior(const struct tok_loader *loader, const json_t *value,
                                 const char *component, enum tok_behavior *ret)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name;
    enum sp_err rc = need_string(loader, value, component, "behavior", &name);
    if (rc != SP_OK)
        return rc;
    for (size_t i = 0; i < SP_COUNT(names); i++)
        if (strcasecmp(name, names[i]) == 0) {
            *ret = (enum tok_behavior)i;
            return SP_OK;
        }
    char field[128];
    snprintf(field, sizeof(field), "%s.behavior", component);
    return tok_unsupported(loader, field, "\"%.64s\" is not supported", name);
}

/* Cutting and mapping are two steps, so that what follows can see the mapped characters. */
static enum sp_err load_byte_level(const struct tok_loader *loader, const json_t *value,
                                   const char *field)
{
    bool prefix = true, use_regex = true;
    enum sp_err rc = opt_bool(loader, value, field, "add_prefix_space", &prefix);
    if (rc == SP_OK)
        rc = opt_bool(loader, value, field, "use_regex", &use_regex);
    if (rc != SP_OK)
        return rc;
    struct tok_pretokenizer *pre =
        add_pretokenizer(loader->tokenizer, TOK_PRE_BYTE_LEVEL, TOK_ISOLATED);
    pre->add_prefix_space = prefix;
    pre->splits = use_regex;
    if (use_regex)
        rc = compile(loader, gpt2_pattern, field, &pre->pattern);
    add_pretokenizer(loader->tokenizer, TOK_PRE_BYTE_LEVEL, TOK_ISOLATED)->map_bytes = true;
    return rc;
}

enum sp_err tok_load_metaspace(const struct tok_loader *loader, const json_t *value,
                               const char *field, char ret_replacement[5],
                               enum tok_prepend *ret_prepend)
{
    const char *text = "\xe2\x96\x81", *scheme = "always";
    const json_t *replacement = json_object_get(value, "replacement");
    const json_t *prepend = json_object_get(value, "prepend_scheme");
    if (json_is_string(replacement))
        text = json_string_value(replacement);
    if (*text == '\0' || strlen(text) != tok_utf8_length((unsigned char)*text))
        return tok_bad_field(loader, field, "replacement is not one character");
    bool prefix = true;
    enum sp_err rc = opt_bool(loader, value, field, "add_prefix_space", &prefix);
    if (rc != SP_OK)
        return rc;
    if (json_is_string(prepend))
        scheme = json_string_value(prepend);
    else if (!prefix)
        scheme = "never"; /* the older field */
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 &&
        strcmp(scheme, "never") != 0)
        return tok_unsupported(loader, field, "prepend_scheme \"%.64s\" is not supported", scheme);
    if (!prefix && strcmp(scheme, "never") != 0)
        return tok_bad_field(loader, field, "add_prefix_space and prepend_scheme contradict");
    memcpy(ret_replacement, text, strlen(text) + 1);
    *ret_prepend = *scheme == 'a'   ? TOK_PREPEND_ALWAYS
                   : *scheme == 'f' ? TOK_PREPEND_FIRST
                                    : TOK_PREPEND_NEVER;
    return SP_OK;
}

static enum sp_err load_split(const struct tok_loader *loader, const json_t *value,
                              const char *field)
{
    struct tok_pretokenizer *pre = add_pretokenizer(loader->tokenizer, TOK_PRE_SPLIT, TOK_ISOLATED);
    enum sp_err rc = tok_load_pattern(loader, value, field, &pre->pattern);
    if (rc == SP_OK)
        rc = load_behavior(loader, value, field, &pre->behavior);
    return rc != SP_OK ? rc : opt_bool(loader, value, field, "invert", &pre->invert);
}

static enum sp_err load_char_classes(const struct tok_loader *loader, const json_t *value,
                                     const char *field, const char *type, bool *ret_known)
{
    struct tok_tokenizer *t = loader->tokenizer;
    *ret_known = true;
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        enum sp_err rc = opt_bool(loader, value, field, "individual_digits", &individual);
        add_pretokenizer(t, TOK_PRE_DIGITS, individual ? TOK_ISOLATED : TOK_CONTIGUOUS);
        return rc;
    }
    if (strcmp(type, "Punctuation") == 0) {
        struct tok_pretokenizer *pre = add_pretokenizer(t, TOK_PRE_PUNCTUATION, TOK_ISOLATED);
        if (json_object_get(value, "behavior") == NULL)
            return SP_OK;
        return load_behavior(loader, value, field, &pre->behavior);
    }
    if (strcmp(type, "WhitespaceSplit") == 0) {
        add_pretokenizer(t, TOK_PRE_WHITESPACE_SPLIT, TOK_REMOVED);
        return SP_OK;
    }
    if (strcmp(type, "BertPreTokenizer") == 0) {
        add_pretokenizer(t, TOK_PRE_WHITESPACE_SPLIT, TOK_REMOVED);
        add_pretokenizer(t, TOK_PRE_PUNCTUATION, TOK_ISOLATED);
        return SP_OK;
    }
    if (strcmp(type, "Whitespace") == 0) {
        struct tok_pretokenizer *pre = add_pretokenizer(t, TOK_PRE_SPLIT, TOK_REMOVED);
        pre->invert = true;
        return compile(loader, whitespace_pattern, field, &pre->pattern);
    }
    *ret_known = false;
    return SP_OK;
}

static enum sp_err load_pretokenizer(const struct tok_loader *loader, const json_t *value,
                                     const char *field)
{
    struct tok_tokenizer *t = loader->tokenizer;
    const char *type = tok_component_type(loader, value, field);
    if (type == NULL)
        return SP_EFORMAT;
    bool known;
    enum sp_err rc = load_char_classes(loader, value, field, type, &known);
    if (known || rc != SP_OK)
        return rc;
    if (strcmp(type, "Sequence") == 0) {
        char name[128];
        snprintf(name, sizeof(name), "%s.pretokenizers", field);
        return load_sequence(loader, json_object_get(value, "pretokenizers"), name,
                             load_pretokenizer);
    }
    if (strcmp(type, "ByteLevel") == 0)
        return load_byte_level(loader, value, field);
    if (strcmp(type, "Split") == 0)
        return load_split(loader, value, field);
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        const char *delimiter;
        rc = need_string(loader, value, field, "delimiter", &delimiter);
        if (rc != SP_OK)
            return rc;
        struct tok_pretokenizer *pre = add_pretokenizer(t, TOK_PRE_SPLIT, TOK_REMOVED);
        pre->pattern.text = sp_xstrdup(delimiter);
        pre->pattern.length = strlen(delimiter);
        return SP_OK;
    }
    if (strcmp(type, "Metaspace") == 0) {
        struct tok_pretokenizer *pre = add_pretokenizer(t, TOK_PRE_METASPACE, TOK_MERGED_WITH_NEXT);
        pre->splits = true;
        rc = tok_load_metaspace(loader, value, field, pre->replacement, &pre->prepend);
        if (rc == SP_OK)
            rc = opt_bool(loader, value, field, "split", &pre->splits);
        pre->pattern.text = sp_xstrdup(pre->replacement);
        pre->pattern.length = strlen(pre->replacement);
        return rc;
    }
    return tok_unsupported(loader, field, "the pre-tokenizer %.64s is not supported", type);
}

enum sp_err tok_load_pretokenizer(const struct tok_loader *loader, const json_t *value)
{
    if (value == NULL || json_is_null(value))
        return SP_OK;
    return load_pretokenizer(loader, value, "pre_tokenizer");
}

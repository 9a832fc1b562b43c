/* Loading a tokenizer.json: the file, the added tokens, and the tables that join everything. */
#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/fs.h"
#include "common/text/internal.h"

enum sp_err tok_bad_field(const struct tok_loader *loader, const char *field, const char *format,
                          ...)
{
    va_list args;
    va_start(args, format);
    sp_failv(loader->err, SP_EFORMAT, format, args);
    va_end(args);
    return sp_wrap(loader->err, SP_EFORMAT, "%s: field \"%s\"", loader->what, field);
}

enum sp_err tok_unsupported(const struct tok_loader *loader, const char *field, const char *format,
                            ...)
{
    va_list args;
    va_start(args, format);
    sp_failv(loader->err, SP_EUNSUPPORTED, format, args);
    va_end(args);
    return sp_wrap(loader->err, SP_EUNSUPPORTED, "%s: field \"%s\"", loader->what, field);
}

/* ---- added tokens ---- */

static enum sp_err load_added_token(const struct tok_loader *loader, const json_t *object,
                                    size_t index, int32_t *next_id, struct tok_added_token *ret,
                                    const char **ret_text)
{
    char what[512], field[64];
    snprintf(field, sizeof(field), "added_tokens[%zu]", index);
    snprintf(what, sizeof(what), "%.400s: %s", loader->what, field);
    int64_t id = 0;
    enum sp_err rc = sp_json_i64(object, "id", 0, SP_MAX_VOCAB - 1, what, &id, loader->err);
    if (rc == SP_OK)
        rc = sp_json_str(object, "content", what, ret_text, loader->err);
    struct tok_added_token token = {.id = (int32_t)id};
    if (rc == SP_OK)
        rc = sp_json_opt_bool(object, "single_word", what, &token.single_word, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_bool(object, "lstrip", what, &token.lstrip, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_bool(object, "rstrip", what, &token.rstrip, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_bool(object, "special", what, &token.special, loader->err);
    token.normalized = !token.special;
    if (rc == SP_OK)
        rc = sp_json_opt_bool(object, "normalized", what, &token.normalized, loader->err);
    if (rc != SP_OK)
        return rc;
    int32_t known = tok_map_get(&loader->tokenizer->vocab, *ret_text, strlen(*ret_text));
    if (known >= 0 && known != token.id)
        return tok_bad_field(loader, field, "\"%s\" has id %d here and %d in model.vocab",
                             *ret_text, token.id, known);
    /* The library that defines the format counts on from the vocabulary, whatever the file says. */
    if (known < 0 && **ret_text != '\0' && token.id != *next_id)
        return tok_bad_field(loader, field,
                             "\"%s\" has id %d here, but is token %d for the library tokenizers, "
                             "which counts on from model.vocab: put it there, with its id",
                             *ret_text, token.id, *next_id);
    *next_id += known < 0 && **ret_text != '\0';
    if (**ret_text != '\0' &&
        !tok_map_put(&loader->tokenizer->names, *ret_text, strlen(*ret_text), token.id))
        return tok_bad_field(loader, field, "\"%s\" is there twice", *ret_text);
    *ret = token;
    return SP_OK;
}

static enum sp_err add_tokens(const struct tok_loader *loader, const json_t *list, bool normalized,
                              struct tok_added *ret)
{
    struct tok_tokenizer *t = loader->tokenizer;
    size_t total = json_array_size(list), count = 0;
    struct tok_added_token *tokens = sp_xarray(total + 1, sizeof(*tokens));
    struct sp_buf *keys = sp_xarray(total + 1, sizeof(*keys));
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < total && rc == SP_OK; i++) {
        const json_t *object = json_array_get(list, i);
        const char *text = json_string_value(json_object_get(object, "content"));
        const json_t *flag = json_object_get(object, "normalized");
        bool special = json_is_true(json_object_get(object, "special"));
        if ((json_is_boolean(flag) ? json_is_true(flag) : !special) != normalized || *text == '\0')
            continue;
        tokens[count] = (struct tok_added_token){
            .id = tok_map_get(&t->names, text, strlen(text)),
            .single_word = json_is_true(json_object_get(object, "single_word")),
            .lstrip = json_is_true(json_object_get(object, "lstrip")),
            .rstrip = json_is_true(json_object_get(object, "rstrip")),
            .normalized = normalized,
            .special = special,
        };
        struct tok_marked marked = {0};
        sp_buf_puts(&marked.text, text);
        if (normalized)
            rc = tok_normalize(t, &marked, 0, loader->err);
        keys[count++] = marked.text;
        sp_buf_deinit(&marked.user);
    }
    if (rc == SP_OK)
        tok_added_init(ret, tokens, keys, count);
    for (size_t i = 0; i < count; i++)
        sp_buf_deinit(&keys[i]);
    free(keys);
    free(tokens);
    return rc;
}

static void fill_pieces(struct tok_tokenizer *t, const struct tok_map *map)
{
    for (size_t i = 0; i <= map->mask; i++) {
        const struct tok_map_slot *slot = &map->slots[i];
        if (slot->value >= 0)
            t->pieces[slot->value] =
                (struct tok_piece){.text = map->keys.data + slot->offset, .length = slot->length};
    }
}

/* Gives the added tokens their ids, which no token with another text may have. */
static enum sp_err name_added(const struct tok_loader *loader, const json_t *list)
{
    struct tok_tokenizer *t = loader->tokenizer;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *object = json_array_get(list, i);
        const char *text = json_string_value(json_object_get(object, "content"));
        if (*text == '\0')
            continue;
        struct tok_piece *piece = &t->pieces[tok_map_get(&t->names, text, strlen(text))];
        if (piece->text != NULL && strcmp(piece->text, text) != 0) {
            char field[64];
            snprintf(field, sizeof(field), "added_tokens[%zu]", i);
            return tok_bad_field(loader, field, "\"%.100s\" has the id %d of \"%.100s\"", text,
                                 (int)(piece - t->pieces), piece->text);
        }
        /* The keys of t->names stay where they are: nothing is put there any more. */
        const char *name = tok_map_key(&t->names, text, strlen(text));
        *piece = (struct tok_piece){.text = name,
                                    .length = (uint32_t)strlen(name),
                                    .special = json_is_true(json_object_get(object, "special"))};
    }
    return SP_OK;
}

static enum sp_err load_added(const struct tok_loader *loader, const json_t *list)
{
    struct tok_tokenizer *t = loader->tokenizer;
    if (list == NULL || json_is_null(list))
        list = NULL;
    else if (!json_is_array(list))
        return tok_bad_field(loader, "added_tokens", "expected an array");
    else if (json_array_size(list) > SP_MAX_VOCAB)
        return tok_bad_field(loader, "added_tokens", "more than %d tokens", SP_MAX_VOCAB);
    tok_map_init(&t->names, json_array_size(list));
    int32_t limit = 0, next_id = (int32_t)t->vocab.count;
    for (size_t i = 0; i <= t->vocab.mask; i++)
        limit = SP_MAX(limit, t->vocab.slots[i].value + 1);
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct tok_added_token token;
        const char *text;
        enum sp_err rc =
            load_added_token(loader, json_array_get(list, i), i, &next_id, &token, &text);
        if (rc != SP_OK)
            return rc;
        limit = SP_MAX(limit, token.id + 1);
    }
    if (limit == 0)
        return tok_bad_field(loader, "model.vocab", "there are no tokens");
    t->id_limit = limit;
    t->pieces = sp_xarray((size_t)limit, sizeof(*t->pieces));
    fill_pieces(t, &t->vocab);
    enum sp_err rc = name_added(loader, list);
    if (rc == SP_OK)
        rc = add_tokens(loader, list, false, &t->added);
    return rc != SP_OK ? rc : add_tokens(loader, list, true, &t->added_normalized);
}

/* ---- the whole ---- */

static enum sp_err load_model(const struct tok_loader *loader, const json_t *model)
{
    if (!json_is_object(model))
        return tok_bad_field(loader, "model", model == NULL ? "missing" : "expected an object");
    const json_t *type = json_object_get(model, "type");
    const char *name = json_string_value(type);
    if (type == NULL)
        name = json_object_get(model, "merges") != NULL ? "BPE" : NULL; /* before version 0.9 */
    if (name == NULL)
        return tok_bad_field(loader, "model.type", "expected a string");
    if (strcmp(name, "BPE") == 0)
        return tok_bpe_load(loader, model);
    if (strcmp(name, "Unigram") == 0)
        return tok_unigram_load(loader, model);
    return tok_unsupported(loader, "model.type", "%s models are not supported", name);
}

static enum sp_err load_root(const struct tok_loader *loader, const json_t *root)
{
    if (!json_is_object(root))
        return sp_fail(loader->err, SP_EFORMAT, "%s: expected a JSON object", loader->what);
    const char *version = json_string_value(json_object_get(root, "version"));
    if (version != NULL && strcmp(version, "1.0") != 0)
        return tok_unsupported(loader, "version", "\"%.40s\"; known is 1.0", version);
    enum sp_err rc = load_model(loader, json_object_get(root, "model"));
    if (rc == SP_OK)
        rc = tok_load_normalizer(loader, json_object_get(root, "normalizer"));
    if (rc == SP_OK)
        rc = tok_load_pretokenizer(loader, json_object_get(root, "pre_tokenizer"));
    if (rc == SP_OK)
        rc = tok_load_decoder(loader, json_object_get(root, "decoder"));
    if (rc == SP_OK)
        rc = load_added(loader, json_object_get(root, "added_tokens"));
    if (rc == SP_OK)
        rc = tok_load_post(loader, json_object_get(root, "post_processor"));
    if (rc == SP_OK && loader->tokenizer->model == TOK_MODEL_BPE)
        rc = tok_bpe_finish(loader, json_object_get(root, "model"));
    return rc;
}

enum sp_err tok_load_memory(const char *json, size_t length, const char *what,
                            struct tok_tokenizer **ret, struct sp_error *err)
{
    json_t *root = NULL;
    if (length > SP_MAX_TOKENIZER_JSON)
        return sp_fail(err, SP_ELIMIT, "%s: %zu bytes, more than the %d allowed", what, length,
                       SP_MAX_TOKENIZER_JSON);
    enum sp_err rc = sp_json_parse(json, length, what, &root, err);
    if (rc != SP_OK)
        return rc;
    struct tok_tokenizer *t = sp_xalloc(sizeof(*t));
    struct tok_loader loader = {.tokenizer = t, .what = what, .err = err};
    rc = load_root(&loader, root);
    json_decref(root);
    if (rc == SP_OK)
        *ret = t;
    else
        tok_free(t);
    return rc == SP_ENOTFOUND ? sp_wrap(err, SP_EFORMAT, "tokenizer") : rc;
}

enum sp_err tok_load(const char *dir_or_json_path, struct tok_tokenizer **ret, struct sp_error *err)
{
    struct stat st;
    bool is_dir = stat(dir_or_json_path, &st) == 0 && S_ISDIR(st.st_mode);
    char *path =
        is_dir ? sp_path_join(dir_or_json_path, "tokenizer.json") : sp_xstrdup(dir_or_json_path);
    char *json = NULL;
    size_t length;
    enum sp_err rc = sp_read_file(path, SP_MAX_TOKENIZER_JSON, &json, &length, err);
    if (rc == SP_OK)
        rc = tok_load_memory(json, length, path, ret, err);
    free(json);
    free(path);
    return rc;
}

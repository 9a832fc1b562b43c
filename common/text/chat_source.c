/* Where a model's own chat template and its special tokens are: chat_template.jinja,
 * tokenizer_config.json, special_tokens_map.json, in transformers' order. */
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/chat_internal.h"

static enum sp_err load_optional(const char *dir, const char *name, json_t **ret,
                                 struct sp_error *err)
{
    char *path = sp_path_join(dir, name);
    enum sp_err rc = SP_OK;
    if (sp_path_exists(path))
        rc = sp_json_load(path, SP_MAX_TOKENIZER_CONFIG, ret, err);
    free(path);
    return rc;
}

/* A token is its text, or an object with that as its content; null: there is none. */
static void take_special(const json_t *config, json_t *special)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        json_t *value = json_object_get(config, names[i]);
        if (json_is_object(value))
            value = json_object_get(value, "content");
        if (value != NULL && json_object_get(special, names[i]) == NULL &&
            (json_is_string(value) || json_is_null(value)))
            json_object_set(special, names[i], value);
    }
}

/* chat_template: a text, or a list of {"name", "template"} with a "default". */
static enum sp_err take_template(const json_t *config, const char *what,
                                 struct tok_chat_source *source, struct sp_error *err)
{
    const json_t *value = json_object_get(config, "chat_template");
    const json_t *chosen = json_is_string(value) ? value : NULL;
    for (size_t i = 0; chosen == NULL && i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            chosen = json_object_get(item, "template");
    }
    if (json_is_string(chosen)) {
        source->text = sp_xstrdup(json_string_value(chosen));
        source->what = sp_xprintf("%s: chat_template", what);
        return SP_OK;
    }
    if (value == NULL || json_is_null(value))
        return SP_OK;
    return sp_fail(err, SP_EFORMAT,
                   "%s: field \"chat_template\": expected a string, or a list with a \"default\"",
                   what);
}

static enum sp_err take_jinja(const char *dir, struct tok_chat_source *source, struct sp_error *err)
{
    char *path = sp_path_join(dir, "chat_template.jinja");
    enum sp_err rc = SP_OK;
    size_t length = 0;
    if (sp_path_exists(path)) {
        rc = sp_read_file(path, SP_MAX_CONFIG_JSON, &source->text, &length, err);
        if (rc == SP_OK && strlen(source->text) != length)
            rc = sp_fail(err, SP_EFORMAT, "%s: the template contains a NUL byte", path);
        source->what = sp_xstrdup("chat_template.jinja");
    }
    free(path);
    return rc;
}

enum sp_err tok_chat_source_read(const char *dir, bool want_text, struct tok_chat_source *ret,
                                 struct sp_error *err)
{
    struct tok_chat_source source = {.special = json_object()};
    json_t *config = NULL, *map = NULL;
    enum sp_err rc = SP_OK;
    if (dir != NULL)
        rc = load_optional(dir, "tokenizer_config.json", &config, err);
    if (rc == SP_OK && dir != NULL)
        rc = load_optional(dir, "special_tokens_map.json", &map, err);
    if (rc == SP_OK && dir != NULL && want_text)
        rc = take_jinja(dir, &source, err);
    if (rc == SP_OK && want_text && source.text == NULL)
        rc = take_template(config, "tokenizer_config.json", &source, err);
    /* Beside an added_tokens_decoder the map is not read; else it goes first. */
    if (json_object_get(config, "added_tokens_decoder") == NULL)
        take_special(map, source.special);
    take_special(config, source.special);
    json_decref(config);
    json_decref(map);
    if (rc == SP_OK)
        *ret = source;
    else
        tok_chat_source_deinit(&source);
    return rc;
}

void tok_chat_source_deinit(struct tok_chat_source *source)
{
    free(source->text);
    free(source->what);
    json_decref(source->special);
    *source = (struct tok_chat_source){0};
}

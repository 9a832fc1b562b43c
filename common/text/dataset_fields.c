/* Rows whose fields the user names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/dataset_row.h"

#define MAX_FIELD_NAME 256

bool tok_fields_given(const struct tok_fields *fields)
{
    const char *const names[] = {fields->prompt, fields->response, fields->rejected,
                                 fields->system};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i] != NULL && names[i][0] != '\0')
            return true;
    return false;
}

void tok_row_names(const json_t *row, struct sp_buf *out)
{
    const char *key;
    json_t *value;
    size_t before = out->length;
    json_object_foreach((json_t *)row, key, value)
    {
        if (out->length - before < 200)
            sp_buf_printf(out, "%s\"%.40s\"", out->length > before ? ", " : "", key);
    }
    if (out->length == before)
        sp_buf_puts(out, "(none)");
}

/* The member of an object, or the element of a list, that a part of a path names. */
static const json_t *member(const json_t *value, const char *part)
{
    if (json_is_object(value))
        return json_object_get(value, part);
    char *end;
    unsigned long index = strtoul(part, &end, 10);
    if (!json_is_array(value) || part[0] < '0' || part[0] > '9' || *end != '\0')
        return NULL;
    return json_array_get(value, index);
}

/* A field of that very name wins over a path. */
static const json_t *find(const json_t *row, const char *name)
{
    char parts[MAX_FIELD_NAME];
    const json_t *value = json_object_get(row, name);
    if (value != NULL || strlen(name) >= sizeof(parts))
        return value;
    snprintf(parts, sizeof(parts), "%s", name);
    char *rest = parts;
    value = row;
    while (value != NULL && rest != NULL)
        value = member(value, strsep(&rest, "."));
    return value;
}

static enum sp_err missing(const json_t *row, const char *setting, const char *name,
                           const char *where, struct sp_error *err)
{
    struct sp_buf names = SP_BUF_INIT;
    tok_row_names(row, &names);
    enum sp_err rc = sp_fail(err, SP_EFORMAT,
                             "%s: field \"%.80s\", which [data] %s names: missing; the row has %s",
                             where, name, setting, names.data);
    sp_buf_deinit(&names);
    return rc;
}

static enum sp_err text(const json_t *row, const char *setting, const char *name, const char *where,
                        const char **ret, struct sp_error *err)
{
    const json_t *value = find(row, name);
    if (value == NULL || json_is_null(value))
        return missing(row, setting, name, where, err);
    return tok_row_string(value, name, where, ret, err);
}

static enum sp_err conversation(struct tok_row_store *store, const json_t *list, const char *name,
                                const char *where, struct tok_row *ret, struct sp_error *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct chat_turn turn = {0};
        enum sp_err rc = tok_row_message(list, i, name, where, &turn, err);
        if (rc != SP_OK)
            return rc;
        if (strcmp(turn.role, "system") == 0 && ret->turn_count > 0)
            return tok_row_bad(err, where, name,
                               "it has a system message, and so has [data] system");
        tok_row_add_turn(store, &ret->turn_count, turn.role, turn.content);
    }
    size_t n = ret->turn_count;
    if (n == 0 || strcmp(store->turns[n - 1].role, "user") != 0)
        return tok_row_bad(err, where, name, "the last message is not the user's");
    return SP_OK;
}

static const char *or_else(const char *name, const char *otherwise)
{
    return name != NULL && name[0] != '\0' ? name : otherwise;
}

static enum sp_err mapped_prompt(struct tok_row_store *store, const struct tok_fields *fields,
                                 const json_t *row, const char *where, struct tok_row *ret,
                                 struct sp_error *err)
{
    const char *name = or_else(fields->prompt, "prompt");
    const char *system_name = or_else(fields->system, NULL), *words = NULL;
    const json_t *system = system_name != NULL ? find(row, system_name) : NULL;
    enum sp_err rc = SP_OK;
    if (system_name != NULL && system == NULL)
        return missing(row, "system", system_name, where, err);
    /* Rows may do without a system message. */
    if (json_is_string(system) && json_string_length(system) > 0)
        tok_row_add_turn(store, &ret->turn_count, "system", json_string_value(system));
    else if (system != NULL && !json_is_null(system) && !json_is_string(system))
        return tok_row_bad(err, where, system_name, "expected a string");
    const json_t *prompt = find(row, name);
    if (json_is_array(prompt))
        return conversation(store, prompt, name, where, ret, err);
    rc = text(row, "prompt", name, where, &words, err);
    if (rc == SP_OK)
        tok_row_add_turn(store, &ret->turn_count, "user", words);
    return rc;
}

enum sp_err tok_row_mapped(struct tok_row_store *store, const struct tok_fields *fields,
                           const json_t *row, const char *where, struct tok_row *ret,
                           struct sp_error *err)
{
    const char *rejected = or_else(fields->rejected, NULL);
    ret->turn_count = 0;
    enum sp_err rc = mapped_prompt(store, fields, row, where, ret, err);
    if (rc == SP_OK)
        rc = text(row, "response", or_else(fields->response, "response"), where, &ret->response,
                  err);
    if (rc == SP_OK && rejected != NULL) {
        const json_t *value = find(row, rejected);
        if (value == NULL || json_is_null(value))
            return missing(row, "rejected", rejected, where, err);
        ret->rejected = json_string_value(value);
        if (ret->rejected == NULL)
            return tok_row_bad(err, where, rejected, "expected a string");
    }
    return rc;
}

#include "common/text/dataset_row.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

#define FORMAT_NAME(id, name, what) name,
static const char *const format_names[] = {TOK_FORMAT_LIST(FORMAT_NAME)};
#undef FORMAT_NAME
#define FORMAT_HELP(id, name, what) name " (" what "); "
static const char format_help[] = TOK_FORMAT_LIST(FORMAT_HELP);
#undef FORMAT_HELP

const char *tok_format_name(enum tok_format format)
{
    SP_ASSERT((unsigned)format < TOK_FORMAT_COUNT);
    return format_names[format];
}

enum sp_err tok_format_parse(const char *name, enum tok_format *ret, struct sp_error *err)
{
    for (int i = 0; i < TOK_FORMAT_COUNT; i++)
        if (strcmp(name, format_names[i]) == 0) {
            *ret = (enum tok_format)i;
            return SP_OK;
        }
    return sp_fail(err, SP_EINVAL, "\"%.64s\" is no dataset format; known are %.*s", name,
                   (int)sizeof(format_help) - 3, format_help);
}

void tok_row_store_deinit(struct tok_row_store *store)
{
    json_decref(store->row);
    free(store->turns);
    sp_buf_deinit(&store->merged);
    *store = (struct tok_row_store){0};
}

static bool has(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return value != NULL && !json_is_null(value);
}

enum sp_err tok_format_recognize(const json_t *row, const char *where, enum tok_format *ret,
                                 struct sp_error *err)
{
    static const struct {
        enum tok_format format;
        const char *a, *b;
    } rules[] = {
        {TOK_FORMAT_UCLAML, "real", "generated"},
        {TOK_FORMAT_PREFERENCE, "chosen", "rejected"},
        {TOK_FORMAT_MESSAGES, "messages", "messages"},
        {TOK_FORMAT_PROMPT_RESPONSE, "prompt", "response"},
        {TOK_FORMAT_INSTRUCTION, "instruction", "output"},
        {TOK_FORMAT_QUESTION_ANSWER, "question", "answer"},
    };
    if (!json_is_object(row))
        return sp_fail(err, SP_EFORMAT, "%s: a row must be a JSON object", where);
    for (size_t i = 0; i < SP_COUNT(rules); i++)
        if (has(row, rules[i].a) && has(row, rules[i].b)) {
            *ret = rules[i].format;
            return SP_OK;
        }
    struct sp_buf keys = SP_BUF_INIT;
    tok_row_names(row, &keys);
    enum sp_err rc = sp_fail(
        err, SP_EFORMAT,
        "%s: the fields %s are of no known dataset format; known are %.*s; other fields are named "
        "by [data] prompt = FIELD, response = FIELD",
        where, keys.data, (int)sizeof(format_help) - 3, format_help);
    sp_buf_deinit(&keys);
    return rc;
}

/* ---- fields ---- */

enum sp_err tok_row_bad(struct sp_error *err, const char *where, const char *field,
                        const char *problem)
{
    return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": %s", where, field, problem);
}

enum sp_err tok_row_string(const json_t *value, const char *field, const char *where,
                           const char **ret, struct sp_error *err)
{
    if (value == NULL || json_is_null(value))
        return tok_row_bad(err, where, field, "missing: give the row one, or take the row out");
    if (json_is_number(value) || json_is_boolean(value))
        return tok_row_bad(err, where, field, "expected a string: put it in quotation marks");
    if (!json_is_string(value))
        return tok_row_bad(err, where, field,
                           "expected a string, this holds several values: name one by a path "
                           "([data] prompt = FIELD.0.NAME, response = …)");
    if (json_string_length(value) == 0)
        return tok_row_bad(err, where, field, "empty: give the row one, or take the row out");
    *ret = json_string_value(value);
    return SP_OK;
}

/* A string that is not empty. */
static enum sp_err text_field(const json_t *row, const char *field, const char *where,
                              const char **ret, struct sp_error *err)
{
    return tok_row_string(json_object_get(row, field), field, where, ret, err);
}

void tok_row_add_turn(struct tok_row_store *store, size_t *count, const char *role,
                      const char *content)
{
    if (*count == store->turn_capacity) {
        store->turn_capacity = SP_MAX(2 * store->turn_capacity, (size_t)8);
        store->turns = sp_xgrow(store->turns, store->turn_capacity, sizeof(*store->turns));
    }
    store->turns[(*count)++] = (struct chat_turn){.role = role, .content = content};
}

enum sp_err tok_row_message(const json_t *list, size_t i, const char *field, const char *where,
                            struct chat_turn *ret, struct sp_error *err)
{
    char name[64];
    snprintf(name, sizeof(name), "%s[%zu]", field, i);
    const json_t *item = json_array_get(list, i);
    if (!json_is_object(item))
        return tok_row_bad(err, where, name, "expected an object with \"role\" and \"content\"");
    const char *role = json_string_value(json_object_get(item, "role"));
    const char *content = json_string_value(json_object_get(item, "content"));
    if (role == NULL)
        return tok_row_bad(err, where, name, "\"role\" is not a string");
    if (content == NULL)
        return tok_row_bad(err, where, name, "\"content\" is not a string");
    if (strcmp(role, "system") != 0 && strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0)
        return tok_row_bad(err, where, name, "\"role\" is not system, user or assistant");
    if (strcmp(role, "system") == 0 && i > 0)
        return tok_row_bad(err, where, name, "a system message that is not the first");
    *ret = (struct chat_turn){.role = role, .content = content};
    return SP_OK;
}

static enum sp_err not_empty(const char *answer, const char *where, const char *field,
                             struct sp_error *err)
{
    return *answer != '\0'
               ? SP_OK
               : tok_row_bad(err, where, field,
                             "the answer is empty: give the row one, or take the row out");
}

/* A list of messages: the turns before the last assistant message, and that message. What follows
 * it has no answer to learn from. */
static enum sp_err messages_field(struct tok_row_store *store, const json_t *row, const char *field,
                                  const char *where, size_t *ret_count, const char **ret_answer,
                                  struct sp_error *err)
{
    const json_t *list = json_object_get(row, field);
    if (!json_is_array(list))
        return tok_row_bad(err, where, field, "expected a list of messages");
    if (json_array_size(list) == 0)
        return tok_row_bad(err, where, field, "an empty list");
    size_t count = 0, answer = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct chat_turn turn = {0};
        enum sp_err rc = tok_row_message(list, i, field, where, &turn, err);
        if (rc != SP_OK)
            return rc;
        bool assistant = strcmp(turn.role, "assistant") == 0;
        bool user_before = count > 0 && strcmp(store->turns[count - 1].role, "user") == 0;
        char name[64];
        snprintf(name, sizeof(name), "%s[%zu]", field, i);
        if (assistant && !user_before)
            return tok_row_bad(err, where, name,
                               "an assistant message that follows no user message");
        if (!assistant && user_before)
            return tok_row_bad(err, where, name, "two user messages in a row");
        if (assistant)
            answer = i;
        tok_row_add_turn(store, &count, turn.role, turn.content);
    }
    if (answer == 0)
        return tok_row_bad(err, where, field, "there is no assistant message");
    *ret_count = answer;
    *ret_answer = store->turns[answer].content;
    return SP_OK;
}

/* ---- formats ---- */

static enum sp_err single_turn(struct tok_row_store *store, const json_t *row,
                               const char *prompt_field, const char *where, struct tok_row *ret,
                               struct sp_error *err)
{
    const char *prompt = NULL;
    enum sp_err rc = text_field(row, prompt_field, where, &prompt, err);
    if (rc != SP_OK)
        return rc;
    ret->turn_count = 0;
    tok_row_add_turn(store, &ret->turn_count, "user", prompt);
    return SP_OK;
}

/* An input, where there is one, follows the instruction after an empty line. */
static enum sp_err instruction(struct tok_row_store *store, const json_t *row, const char *where,
                               struct tok_row *ret, struct sp_error *err)
{
    enum sp_err rc = single_turn(store, row, "instruction", where, ret, err);
    if (rc != SP_OK || !has(row, "input"))
        return rc;
    const json_t *input = json_object_get(row, "input");
    if (!json_is_string(input))
        return tok_row_bad(err, where, "input", "expected a string");
    if (json_string_length(input) == 0)
        return SP_OK;
    sp_buf_clear(&store->merged);
    sp_buf_puts(&store->merged, store->turns[0].content);
    sp_buf_puts(&store->merged, "\n\n");
    sp_buf_puts(&store->merged, json_string_value(input));
    store->turns[0].content = store->merged.data;
    return SP_OK;
}

static bool same_turns(const struct chat_turn *a, const struct chat_turn *b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(a[i].role, b[i].role) != 0 || strcmp(a[i].content, b[i].content) != 0)
            return false;
    return true;
}

/* Two lists of messages that differ in their last one. The other answer may be empty: models do
 * give such answers. */
static enum sp_err two_lists(struct tok_row_store *store, const json_t *row, const char *good,
                             const char *other, const char *where, struct tok_row *ret,
                             struct sp_error *err)
{
    size_t other_count;
    enum sp_err rc = messages_field(store, row, other, where, &other_count, &ret->rejected, err);
    if (rc != SP_OK)
        return rc;
    struct chat_turn *others = sp_xmemdup(store->turns, other_count * sizeof(*others));
    rc = messages_field(store, row, good, where, &ret->turn_count, &ret->response, err);
    if (rc == SP_OK &&
        (ret->turn_count != other_count || !same_turns(store->turns, others, other_count)))
        rc = sp_fail(err, SP_EFORMAT, "%s: field \"%s\": its prompt is not that of \"%s\"", where,
                     other, good);
    free(others);
    return rc == SP_OK ? not_empty(ret->response, where, good, err) : rc;
}

static enum sp_err preference(struct tok_row_store *store, const json_t *row, const char *where,
                              struct tok_row *ret, struct sp_error *err)
{
    if (json_is_array(json_object_get(row, "chosen")))
        return two_lists(store, row, "chosen", "rejected", where, ret, err);
    enum sp_err rc = text_field(row, "chosen", where, &ret->response, err);
    if (rc != SP_OK)
        return rc;
    ret->rejected = json_string_value(json_object_get(row, "rejected"));
    if (ret->rejected == NULL)
        return tok_row_bad(err, where, "rejected", "expected a string");
    if (has(row, "prompt") || !(has(row, "instruction") || has(row, "question")))
        return single_turn(store, row, "prompt", where, ret, err);
    return has(row, "instruction") ? instruction(store, row, where, ret, err)
                                   : single_turn(store, row, "question", where, ret, err);
}

enum sp_err tok_row_parse(struct tok_row_store *store, enum tok_format format,
                          const struct tok_fields *fields, json_t *row, const char *where,
                          struct tok_row *ret, struct sp_error *err)
{
    json_decref(store->row);
    store->row = row;
    if (!json_is_object(row))
        return sp_fail(err, SP_EFORMAT, "%s: a row must be a JSON object", where);
    enum sp_err rc = SP_OK;
    switch (format) {
    case TOK_FORMAT_PROMPT_RESPONSE:
        rc = single_turn(store, row, "prompt", where, ret, err);
        if (rc == SP_OK)
            rc = text_field(row, "response", where, &ret->response, err);
        break;
    case TOK_FORMAT_MESSAGES:
        rc = messages_field(store, row, "messages", where, &ret->turn_count, &ret->response, err);
        ret->conversation = true;
        if (rc == SP_OK)
            rc = not_empty(ret->response, where, "messages", err);
        break;
    case TOK_FORMAT_INSTRUCTION:
        rc = instruction(store, row, where, ret, err);
        if (rc == SP_OK)
            rc = text_field(row, "output", where, &ret->response, err);
        break;
    case TOK_FORMAT_QUESTION_ANSWER:
        rc = single_turn(store, row, "question", where, ret, err);
        if (rc == SP_OK)
            rc = text_field(row, "answer", where, &ret->response, err);
        break;
    case TOK_FORMAT_UCLAML:
        rc = two_lists(store, row, "real", "generated", where, ret, err);
        break;
    case TOK_FORMAT_PREFERENCE:
        rc = preference(store, row, where, ret, err);
        break;
    case TOK_FORMAT_MAPPED:
        rc = tok_row_mapped(store, fields, row, where, ret, err);
        break;
    default:
        rc = sp_fail(err, SP_EINTERNAL, "%s: the format is not known yet", where);
    }
    ret->turns = store->turns;
    return rc;
}

/* Fields of a row, and templates with fields in them. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "common/task/internal.h"

#define MAX_NAME 256

static json_t *step_into(const json_t *value, const char *name)
{
    if (json_is_object(value))
        return json_incref(json_object_get(value, name));
    if (!json_is_array(value))
        return NULL;
    if (name[0] != '\0' && name[strspn(name, "0123456789")] == '\0')
        return json_incref(json_array_get(value, strtoull(name, NULL, 10)));
    json_t *mapped = json_array();
    for (size_t i = 0; i < json_array_size(value); i++) {
        json_t *part = step_into(json_array_get(value, i), name);
        if (part == NULL) {
            json_decref(mapped);
            return NULL;
        }
        json_array_append_new(mapped, part);
    }
    return mapped;
}

json_t *task_field(const json_t *row, const char *path)
{
    json_t *value = json_incref((json_t *)row);
    char name[MAX_NAME];
    while (value != NULL && *path != '\0') {
        size_t length = strcspn(path, ".");
        size_t kept = SP_MIN(length, sizeof(name) - 1);
        memcpy(name, path, kept);
        name[kept] = '\0';
        json_t *next = step_into(value, name);
        json_decref(value);
        value = next;
        path += length + (path[length] == '.');
    }
    return value;
}

enum sp_err task_field_text(const json_t *value, const char *path, struct sp_buf *ret,
                            struct sp_error *err)
{
    if (json_is_string(value))
        sp_buf_append(ret, json_string_value(value), json_string_length(value));
    else if (json_is_integer(value))
        sp_buf_printf(ret, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        sp_buf_printf(ret, "%.17g", json_real_value(value));
    else if (json_is_boolean(value))
        sp_buf_puts(ret, json_is_true(value) ? "True" : "False");
    else
        return sp_fail(err, value ? SP_EFORMAT : SP_ENOTFOUND, "field \"%.200s\": %s", path,
                       value ? "neither text nor a number" : "missing");
    return SP_OK;
}

/* str.capitalize(): the first character upper case, the others lower. */
static void capitalize(struct sp_buf *text, size_t from)
{
    size_t length = text->length - from;
    char *copy = sp_xstrndup(text->data + from, length);
    text->length = from;
    tok_lower(copy, length, text);
    if (text->length > from)
        text->data[from] = (char)toupper((unsigned char)text->data[from]);
    free(copy);
}

static enum sp_err apply_filter(const char *filter, struct sp_buf *text, size_t from,
                                struct sp_error *err)
{
    sp_buf_reserve(text, 1);
    if (strcmp(filter, "strip") == 0) {
        const char *start = text->data + from;
        size_t length = text->length - from;
        tok_strip(&start, &length);
        memmove(text->data + from, start, length);
        text->length = from + length;
        text->data[text->length] = '\0';
    } else if (strcmp(filter, "capitalize") == 0) {
        capitalize(text, from);
    } else {
        return sp_fail(err, SP_EINVAL, "no filter \"%.40s\": there are strip and capitalize",
                       filter);
    }
    return SP_OK;
}

/* {name} or {name|filter} at *at, which points behind the opening brace. */
static enum sp_err fill_one(const char **at, const json_t *row, struct sp_buf *ret,
                            struct sp_error *err)
{
    char name[MAX_NAME];
    const char *end = strchr(*at, '}');
    if (end == NULL || (size_t)(end - *at) >= sizeof(name))
        return sp_fail(err, SP_EFORMAT, "a template has no } behind {%.40s (a brace is {{)", *at);
    memcpy(name, *at, (size_t)(end - *at));
    name[end - *at] = '\0';
    *at = end + 1;
    char *filter = strchr(name, '|');
    if (filter != NULL)
        *filter++ = '\0';
    size_t from = ret->length;
    json_t *value = task_field(row, name);
    enum sp_err rc = task_field_text(value, name, ret, err);
    json_decref(value);
    return rc == SP_OK && filter != NULL ? apply_filter(filter, ret, from, err) : rc;
}

enum sp_err task_fill(const char *template, const json_t *row, struct sp_buf *ret,
                      struct sp_error *err)
{
    for (const char *at = template; *at != '\0';) {
        if ((at[0] == '{' && at[1] == '{') || (at[0] == '}' && at[1] == '}')) {
            sp_buf_putc(ret, at[0]);
            at += 2;
        } else if (at[0] == '{') {
            at++;
            enum sp_err rc = fill_one(&at, row, ret, err);
            if (rc != SP_OK)
                return rc;
        } else {
            sp_buf_putc(ret, *at++);
        }
    }
    return SP_OK;
}

/* Each `what` becomes `with`, from left to right. */
static char *replace_all(const char *text, const char *what, const char *with)
{
    struct sp_buf out = SP_BUF_INIT;
    size_t length = strlen(what);
    for (const char *hit; (hit = strstr(text, what)) != NULL; text = hit + length) {
        sp_buf_append(&out, text, (size_t)(hit - text));
        sp_buf_puts(&out, with);
    }
    sp_buf_puts(&out, text);
    return sp_buf_detach(&out);
}

/* re.sub("\[.*?\]", "", text) */
static char *without_brackets(const char *text)
{
    struct sp_buf out = SP_BUF_INIT;
    while (*text != '\0') {
        size_t inside = text[0] == '[' ? strcspn(text, "]\n") : 0;
        if (inside > 0 && text[inside] == ']') {
            text += inside + 1;
            continue;
        }
        sp_buf_putc(&out, *text++);
    }
    return sp_buf_detach(&out);
}

void task_clean_text(char **text)
{
    const char *start = *text;
    size_t length = strlen(start);
    tok_strip(&start, &length);
    char *stripped = sp_xstrndup(start, length);
    char *titled = replace_all(stripped, " [title]", ". ");
    char *plain = without_brackets(titled);
    free(*text);
    *text = replace_all(plain, "  ", " ");
    free(stripped);
    free(titled);
    free(plain);
}

#include "common/base/json.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"

/* jansson recurses; nesting is bounded before it starts. */
static bool depth_is_fine(const char *text, size_t length)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > SP_MAX_JSON_DEPTH)
                return false;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return true;
}

/* Copies a document, its integers beyond 64 bits written as reals; the others stay integers. */
static void large_as_reals(const char *text, size_t length, struct sp_buf *out)
{
    bool in_string = false;
    for (size_t i = 0; i < length;) {
        size_t start = i++;
        char c = text[start];
        if (c == '"')
            in_string = !in_string;
        else if (in_string && c == '\\')
            i += i < length;
        bool number = !in_string && (c == '-' || isdigit((unsigned char)c));
        while (number && i < length && text[i] != '\0' &&
               strchr("0123456789+-.eE", text[i]) != NULL)
            i++;
        sp_buf_append(out, text + start, i - start);
        /* 19 digits are 2^63 and more at times: as the reader of integers, strtoll decides. */
        char digits[24];
        if (!number || i - start < 19 || memchr(text + start, '.', i - start) != NULL ||
            memchr(text + start, 'e', i - start) != NULL ||
            memchr(text + start, 'E', i - start) != NULL)
            continue;
        snprintf(digits, sizeof(digits), "%.*s", (int)SP_MIN(i - start, sizeof(digits) - 1),
                 text + start);
        errno = 0;
        (void)strtoll(digits, NULL, 10);
        if (errno == ERANGE)
            sp_buf_puts(out, "e0");
    }
}

/* What stands before jansson's words. */
static const char *what_is_wrong(const json_error_t *detail)
{
    enum json_error_code code = json_error_code(detail);
    if (code == json_error_null_character || code == json_error_null_byte_in_key)
        return "a text with the character NUL (\\u0000), which is not read: take it out: ";
    return "not valid JSON: ";
}

enum sp_err sp_json_parse(const char *text, size_t length, const char *what, json_t **ret,
                          struct sp_error *err)
{
    if (!depth_is_fine(text, length))
        return sp_fail(err, SP_ELIMIT, "%s: JSON is nested deeper than %d levels", what,
                       SP_MAX_JSON_DEPTH);
    json_error_t detail;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &detail);
    /* Published tokenizer_config.json files say 1000000000000000019884624838656 for "no limit". */
    if (root == NULL && json_error_code(&detail) == json_error_numeric_overflow) {
        struct sp_buf real = SP_BUF_INIT;
        large_as_reals(text, length, &real);
        root = json_loadb(real.data, real.length, JSON_REJECT_DUPLICATES, &detail);
        sp_buf_deinit(&real);
    }
    if (root == NULL)
        return sp_fail(err, SP_EFORMAT, "%s: line %d, column %d: %s%s", what, detail.line,
                       detail.column, what_is_wrong(&detail), detail.text);
    *ret = root;
    return SP_OK;
}

enum sp_err sp_json_load(const char *path, size_t max_bytes, json_t **ret, struct sp_error *err)
{
    char *text;
    size_t length;
    enum sp_err rc = sp_read_file(path, max_bytes, &text, &length, err);
    if (rc != SP_OK)
        return rc;
    rc = sp_json_parse(text, length, path, ret, err);
    free(text);
    return rc;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

static enum sp_err find(const json_t *object, const char *key, const char *what, const json_t **ret,
                        struct sp_error *err)
{
    if (!json_is_object(object))
        return sp_fail(err, SP_EFORMAT, "%s: %s where an object with field \"%s\" is needed", what,
                       object == NULL ? "nothing" : type_name(object), key);
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value))
        return sp_fail(err, SP_ENOTFOUND, "%s: field \"%s\" is missing", what, key);
    *ret = value;
    return SP_OK;
}

static enum sp_err wrong_type(const json_t *value, const char *key, const char *what,
                              const char *needed, struct sp_error *err)
{
    return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": %s, expected %s", what, key,
                   type_name(value), needed);
}

enum sp_err sp_json_i64(const json_t *object, const char *key, int64_t min, int64_t max,
                        const char *what, int64_t *ret, struct sp_error *err)
{
    const json_t *value = NULL;
    enum sp_err rc = find(object, key, what, &value, err);
    if (rc != SP_OK)
        return rc;
    int64_t n;
    if (json_is_integer(value)) {
        n = json_integer_value(value);
    } else if (json_is_real(value) && fabs(json_real_value(value)) <= 0x1p53 &&
               floor(json_real_value(value)) == json_real_value(value)) {
        n = (int64_t)json_real_value(value);
    } else {
        return wrong_type(value, key, what, "an integer", err);
    }
    if (n < min || n > max)
        return sp_fail(err, SP_EFORMAT,
                       "%s: field \"%s\": %lld is out of range, expected %lld to %lld", what, key,
                       (long long)n, (long long)min, (long long)max);
    *ret = n;
    return SP_OK;
}

enum sp_err sp_json_f64(const json_t *object, const char *key, const char *what, double *ret,
                        struct sp_error *err)
{
    const json_t *value = NULL;
    enum sp_err rc = find(object, key, what, &value, err);
    if (rc != SP_OK)
        return rc;
    if (!json_is_number(value))
        return wrong_type(value, key, what, "a number", err);
    *ret = json_number_value(value);
    return SP_OK;
}

enum sp_err sp_json_bool(const json_t *object, const char *key, const char *what, bool *ret,
                         struct sp_error *err)
{
    const json_t *value = NULL;
    enum sp_err rc = find(object, key, what, &value, err);
    if (rc != SP_OK)
        return rc;
    if (!json_is_boolean(value))
        return wrong_type(value, key, what, "true or false", err);
    *ret = json_is_true(value);
    return SP_OK;
}

enum sp_err sp_json_str(const json_t *object, const char *key, const char *what,
                        const char **ret_borrowed, struct sp_error *err)
{
    const json_t *value = NULL;
    enum sp_err rc = find(object, key, what, &value, err);
    if (rc != SP_OK)
        return rc;
    if (!json_is_string(value))
        return wrong_type(value, key, what, "a string", err);
    *ret_borrowed = json_string_value(value);
    return SP_OK;
}

/* Absence is decided before the typed call, so that its error text is never made in vain. */
static bool is_absent(const json_t *object, const char *key)
{
    if (!json_is_object(object))
        return false;
    const json_t *value = json_object_get(object, key);
    return value == NULL || json_is_null(value);
}

enum sp_err sp_json_opt_i64(const json_t *object, const char *key, int64_t min, int64_t max,
                            const char *what, int64_t *ret, struct sp_error *err)
{
    return is_absent(object, key) ? SP_OK : sp_json_i64(object, key, min, max, what, ret, err);
}

enum sp_err sp_json_opt_f64(const json_t *object, const char *key, const char *what, double *ret,
                            struct sp_error *err)
{
    return is_absent(object, key) ? SP_OK : sp_json_f64(object, key, what, ret, err);
}

enum sp_err sp_json_opt_bool(const json_t *object, const char *key, const char *what, bool *ret,
                             struct sp_error *err)
{
    return is_absent(object, key) ? SP_OK : sp_json_bool(object, key, what, ret, err);
}

enum sp_err sp_json_opt_str(const json_t *object, const char *key, const char *what,
                            const char **ret_borrowed, struct sp_error *err)
{
    return is_absent(object, key) ? SP_OK : sp_json_str(object, key, what, ret_borrowed, err);
}

char *sp_json_canonical(const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY |
                                       JSON_REAL_PRECISION(17));
    SP_ASSERT(text != NULL);
    return text;
}

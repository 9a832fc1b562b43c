/* Values of a template: Python's rules for truth, equality, order, str() and repr(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

#define BYTES_A_STEP 256 /* of text that is gone over */

const char *jx_type_name(struct jx v)
{
    static const char *const names[] = {
        [JX_UNDEFINED] = "Undefined", [JX_NONE] = "None",
        [JX_BOOL] = "bool",           [JX_INT] = "int",
        [JX_FLOAT] = "float",         [JX_STRING] = "str",
        [JX_LIST] = "list",           [JX_DICT] = "dict",
        [JX_NAMESPACE] = "namespace", [JX_LOOP] = "loop",
        [JX_MACRO] = "macro",         [JX_METHOD] = "method",
        [JX_FUNCTION] = "function",
    };
    static const char *const lists[] = {[JX_PLAIN] = "list",
                                        [JX_TUPLE] = "tuple",
                                        [JX_RANGE] = "range",
                                        [JX_VIEW] = "view of a dict",
                                        [JX_GENERATOR] = "generator"};
    return v.type == JX_LIST ? lists[v.list->kind] : names[v.type];
}

bool jx_truth(struct jx v)
{
    switch (v.type) {
    case JX_UNDEFINED:
    case JX_NONE:
        return false;
    case JX_BOOL:
        return v.b;
    case JX_INT:
        return v.i != 0;
    case JX_FLOAT:
        return v.f != 0;
    case JX_STRING:
        return v.length > 0;
    case JX_LIST:
        return v.list->kind == JX_GENERATOR || v.list->count > 0;
    case JX_DICT:
        return v.dict->count > 0;
    default:
        return true;
    }
}

struct jx jx_undefined(const char *name, size_t length)
{
    return (struct jx){.type = JX_UNDEFINED, .s = name, .length = (uint32_t)length};
}

bool jx_undefined_error(struct jx_run *run, struct jx v)
{
    return jx_fail(run, SP_EFORMAT, "\"%.*s\" is undefined", (int)SP_MIN(v.length, 80u), v.s);
}

/* ---- making ---- */

bool jx_new_list(struct jx_run *run, enum jx_list_kind kind, size_t count, struct jx *ret)
{
    struct jx_list *list = jx_take(run, 1, sizeof(*list));
    struct jx *items = list != NULL ? jx_take(run, count + 1, sizeof(*items)) : NULL;
    if (items == NULL)
        return false;
    *list = (struct jx_list){.kind = kind, .count = count, .items = items};
    *ret = (struct jx){.type = JX_LIST, .list = list};
    return true;
}

bool jx_new_dict(struct jx_run *run, struct jx *ret)
{
    struct jx_dict *dict = jx_take(run, 1, sizeof(*dict));
    if (dict == NULL)
        return false;
    *ret = (struct jx){.type = JX_DICT, .dict = dict};
    return true;
}

struct jx *jx_dict_find(struct jx_run *run, const struct jx_dict *dict, struct jx key)
{
    if (!jx_step(run, 1 + dict->count / 8))
        return NULL;
    for (size_t i = 0; i < dict->count; i++) {
        bool equal = false;
        if (key.type == JX_STRING && dict->keys[i].type == JX_STRING)
            equal = jx_same_text(key, dict->keys[i]);
        else if (!jx_equal(run, key, dict->keys[i], &equal))
            return NULL;
        if (equal)
            return &dict->values[i];
    }
    return NULL;
}

static bool check_key(struct jx_run *run, struct jx key)
{
    if (key.type == JX_DICT ||
        (key.type == JX_LIST && key.list->kind != JX_TUPLE && key.list->kind != JX_RANGE))
        return jx_fail(run, SP_EFORMAT, "a %s can't be the key of a dict", jx_type_name(key));
    return true;
}

bool jx_dict_put(struct jx_run *run, struct jx_dict *dict, struct jx key, struct jx value)
{
    if (!check_key(run, key))
        return false;
    struct jx *old = jx_dict_find(run, dict, key);
    if (run->rc != SP_OK)
        return false;
    if (old != NULL) {
        *old = value;
        return true;
    }
    if (dict->count == dict->capacity) {
        size_t capacity = SP_MAX(2 * dict->capacity, (size_t)4);
        struct jx *both = jx_take(run, capacity, 2 * sizeof(*both));
        if (both == NULL)
            return false;
        if (dict->count > 0) {
            memcpy(both, dict->keys, dict->count * sizeof(*both));
            memcpy(both + capacity, dict->values, dict->count * sizeof(*both));
        }
        dict->keys = both;
        dict->values = both + capacity;
        dict->capacity = capacity;
    }
    dict->keys[dict->count] = key;
    dict->values[dict->count++] = value;
    return true;
}

bool jx_check_size(struct jx_run *run, size_t bytes)
{
    if (bytes > SP_MAX_TEMPLATE_OUTPUT)
        return jx_fail(run, SP_ELIMIT, "a text above %d bytes", SP_MAX_TEMPLATE_OUTPUT);
    return true;
}

bool jx_copy_text(struct jx_run *run, const char *s, size_t length, struct jx *ret)
{
    if (!jx_check_size(run, length))
        return false;
    char *copy = jx_take(run, length + 1, 1);
    if (copy == NULL)
        return false;
    if (length > 0)
        memcpy(copy, s, length);
    *ret = jx_text(copy, length);
    return jx_step(run, 1 + length / BYTES_A_STEP);
}

bool jx_take_buf(struct jx_run *run, struct sp_buf *buf, struct jx *ret)
{
    bool ok = jx_copy_text(run, buf->data, buf->length, ret);
    sp_buf_deinit(buf);
    return ok;
}

static bool from_json_object(struct jx_run *run, const json_t *value, struct jx *ret)
{
    const char *key;
    json_t *member;
    if (!jx_new_dict(run, ret))
        return false;
    json_object_foreach((json_t *)value, key, member)
    {
        struct jx item;
        if (!jx_from_json(run, member, &item) || !jx_dict_put(run, ret->dict, jx_word(key), item))
            return false;
    }
    return true;
}

bool jx_from_json(struct jx_run *run, const json_t *value, struct jx *ret)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return from_json_object(run, value, ret);
    case JSON_ARRAY:
        if (!jx_new_list(run, JX_PLAIN, json_array_size(value), ret))
            return false;
        for (size_t i = 0; i < json_array_size(value); i++)
            if (!jx_from_json(run, json_array_get(value, i), &ret->list->items[i]))
                return false;
        return true;
    case JSON_STRING:
        *ret = jx_text(json_string_value(value), json_string_length(value));
        return jx_check_size(run, ret->length);
    case JSON_INTEGER:
        *ret = jx_int(json_integer_value(value));
        return true;
    case JSON_REAL:
        *ret = jx_float(json_real_value(value));
        return true;
    case JSON_NULL:
        *ret = jx_none();
        return true;
    default:
        *ret = jx_bool(json_is_true(value));
        return true;
    }
}

/* ---- comparing ---- */

static bool equal_lists(struct jx_run *run, const struct jx_list *a, const struct jx_list *b,
                        bool *ret)
{
    bool same_kind = a->kind == b->kind && a->kind <= JX_RANGE;
    *ret = a == b || (same_kind && a->count == b->count);
    for (size_t i = 0; a != b && *ret && i < a->count; i++)
        if (!jx_equal(run, a->items[i], b->items[i], ret))
            return false;
    return true;
}

static bool equal_dicts(struct jx_run *run, const struct jx_dict *a, const struct jx_dict *b,
                        bool *ret)
{
    *ret = a->count == b->count;
    for (size_t i = 0; *ret && i < a->count; i++) {
        const struct jx *other = jx_dict_find(run, b, a->keys[i]);
        if (run->rc != SP_OK)
            return false;
        if (other == NULL)
            *ret = false;
        else if (!jx_equal(run, a->values[i], *other, ret))
            return false;
    }
    return true;
}

bool jx_equal(struct jx_run *run, struct jx a, struct jx b, bool *ret)
{
    bool ok = true;
    if (jx_is_number(a) && jx_is_number(b)) {
        *ret = jx_is_integer(a) && jx_is_integer(b) ? jx_integer(a) == jx_integer(b)
                                                    : jx_number(a) == jx_number(b);
        return true;
    }
    if (a.type != b.type) {
        *ret = false;
        return true;
    }
    if (!jx_step(run, 1 + (a.type == JX_STRING ? a.length / BYTES_A_STEP : 0)) || !jx_deeper(run))
        return false;
    switch (a.type) {
    case JX_UNDEFINED:
    case JX_NONE:
        *ret = true;
        break;
    case JX_STRING:
        *ret = jx_same_text(a, b);
        break;
    case JX_LIST:
        ok = equal_lists(run, a.list, b.list, ret);
        break;
    case JX_DICT:
        ok = equal_dicts(run, a.dict, b.dict, ret);
        break;
    default:
        *ret = a.list == b.list; /* the same object */
    }
    run->depth--;
    return ok;
}

static bool less_lists(struct jx_run *run, const struct jx_list *a, const struct jx_list *b,
                       bool *ret)
{
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        bool equal;
        if (!jx_equal(run, a->items[i], b->items[i], &equal))
            return false;
        if (!equal)
            return jx_less(run, a->items[i], b->items[i], ret);
    }
    *ret = a->count < b->count;
    return true;
}

bool jx_less(struct jx_run *run, struct jx a, struct jx b, bool *ret)
{
    if (a.type == JX_UNDEFINED || b.type == JX_UNDEFINED)
        return jx_undefined_error(run, a.type == JX_UNDEFINED ? a : b);
    if (jx_is_number(a) && jx_is_number(b)) {
        *ret = jx_is_integer(a) && jx_is_integer(b) ? jx_integer(a) < jx_integer(b)
                                                    : jx_number(a) < jx_number(b);
        return true;
    }
    if (a.type == JX_STRING && b.type == JX_STRING) {
        size_t common = SP_MIN(a.length, b.length);
        int order = common > 0 ? memcmp(a.s, b.s, common) : 0; /* bytes sort as code points */
        *ret = order < 0 || (order == 0 && a.length < b.length);
        return jx_step(run, 1 + common / BYTES_A_STEP);
    }
    if (a.type == JX_LIST && b.type == JX_LIST && a.list->kind == b.list->kind &&
        a.list->kind <= JX_TUPLE) {
        if (!jx_deeper(run))
            return false;
        bool ok = less_lists(run, a.list, b.list, ret);
        run->depth--;
        return ok;
    }
    return jx_fail(run, SP_EFORMAT, "there is no order between %s and %s", jx_type_name(a),
                   jx_type_name(b));
}

bool jx_contains(struct jx_run *run, struct jx container, struct jx v, bool *ret)
{
    *ret = false;
    if (container.type == JX_STRING) {
        if (v.type != JX_STRING)
            return jx_fail(run, SP_EFORMAT, "`in` a text needs a text on the left, not %s",
                           jx_type_name(v));
        *ret = v.length == 0 || memmem(container.s, container.length, v.s, v.length) != NULL;
        return jx_step(run, 1 + container.length / BYTES_A_STEP);
    }
    if (container.type == JX_DICT) {
        if (!check_key(run, v))
            return false;
        *ret = jx_dict_find(run, container.dict, v) != NULL;
        return run->rc == SP_OK;
    }
    const struct jx *items;
    size_t count;
    if (!jx_iterate(run, container, &items, &count))
        return false;
    for (size_t i = 0; i < count && !*ret; i++)
        if (!jx_step(run, 1) || !jx_equal(run, items[i], v, ret))
            return false;
    return true;
}

/* ---- going over ---- */

static bool characters(struct jx_run *run, struct jx v, const struct jx **ret, size_t *ret_count)
{
    size_t count = jx_char_count(v), at = 0;
    struct jx *items = jx_take(run, count + 1, sizeof(*items));
    if (items == NULL)
        return false;
    for (size_t i = 0; i < count; i++) {
        size_t n = tok_utf8_length((unsigned char)v.s[at]);
        items[i] = jx_text(v.s + at, n);
        at += n;
    }
    *ret = items;
    *ret_count = count;
    return jx_step(run, 1 + count / 16);
}

bool jx_iterate(struct jx_run *run, struct jx v, const struct jx **ret, size_t *ret_count)
{
    *ret = NULL;
    *ret_count = 0;
    switch (v.type) {
    case JX_UNDEFINED:
        return true;
    case JX_STRING:
        return characters(run, v, ret, ret_count);
    case JX_DICT:
        *ret = v.dict->keys;
        *ret_count = v.dict->count;
        return true;
    case JX_LIST:
        if (v.list->failing)
            return jx_fail(run, SP_EFORMAT, "a filter of something that is nothing to go over");
        *ret = v.list->items;
        *ret_count = v.list->spent ? 0 : v.list->count;
        v.list->spent = v.list->kind == JX_GENERATOR;
        return true;
    default:
        return jx_fail(run, SP_EFORMAT, "%s is nothing to go over", jx_type_name(v));
    }
}

bool jx_length(struct jx_run *run, struct jx v, int64_t *ret)
{
    if (v.type == JX_UNDEFINED)
        *ret = 0;
    else if (v.type == JX_STRING)
        *ret = (int64_t)jx_char_count(v);
    else if (v.type == JX_DICT)
        *ret = (int64_t)v.dict->count;
    else if (v.type == JX_LOOP)
        *ret = (int64_t)v.loop->count;
    else if (v.type == JX_LIST && v.list->kind != JX_GENERATOR)
        *ret = (int64_t)v.list->count;
    else
        return jx_fail(run, SP_EFORMAT, "%s has no length", jx_type_name(v));
    return jx_step(run, 1 + (v.type == JX_STRING ? v.length / BYTES_A_STEP : 0));
}

/* ---- str() and repr() ---- */

/* Python's repr: the shortest digits that give the same number. */
void jx_float_text(double f, struct sp_buf *out)
{
    char digits[40];
    if (isnan(f) || isinf(f)) {
        sp_buf_puts(out, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    for (int precision = 0; precision < 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*e", precision, f);
        if (strtod(digits, NULL) == f)
            break;
    }
    char *mark = strchr(digits, 'e');
    int exponent = atoi(mark + 1);
    if (exponent < -4 || exponent >= 16) {
        *mark = 0;
        sp_buf_printf(out, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int behind = (int)(mark - digits) - (digits[0] == '-') - (mark - digits > 2 ? 2 : 1) - exponent;
    sp_buf_printf(out, "%.*f", SP_MAX(behind, 1), f);
}

static bool is_printable(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return code == ' ' ||
           !(c == UTF8PROC_CATEGORY_CN || (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_CO));
}

static void repr_text(struct jx v, struct sp_buf *out)
{
    char quote = '\'';
    if (v.length > 0 && memchr(v.s, '\'', v.length) && !memchr(v.s, '"', v.length))
        quote = '"';
    sp_buf_putc(out, quote);
    for (size_t at = 0; at < v.length;) {
        size_t from = at;
        uint32_t code = tok_utf8_next(v.s, &at);
        if (code == (uint32_t)quote || code == '\\')
            sp_buf_printf(out, "\\%c", (char)code);
        else if (code == '\n' || code == '\r' || code == '\t')
            sp_buf_puts(out, code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
        else if (is_printable(code))
            sp_buf_append(out, v.s + from, at - from);
        else
            sp_buf_printf(out,
                          code < 0x100     ? "\\x%02x"
                          : code < 0x10000 ? "\\u%04x"
                                           : "\\U%08x",
                          code);
    }
    sp_buf_putc(out, quote);
}

static bool repr_list(struct jx_run *run, const struct jx_list *list, struct sp_buf *out)
{
    bool tuple = list->kind == JX_TUPLE;
    sp_buf_putc(out, tuple ? '(' : '[');
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            sp_buf_puts(out, ", ");
        if (!jx_repr(run, list->items[i], out))
            return false;
    }
    if (tuple && list->count == 1)
        sp_buf_putc(out, ',');
    sp_buf_putc(out, tuple ? ')' : ']');
    return true;
}

static bool repr_dict(struct jx_run *run, const struct jx_dict *dict, struct sp_buf *out)
{
    sp_buf_putc(out, '{');
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0)
            sp_buf_puts(out, ", ");
        if (!jx_repr(run, dict->keys[i], out))
            return false;
        sp_buf_puts(out, ": ");
        if (!jx_repr(run, dict->values[i], out))
            return false;
    }
    sp_buf_putc(out, '}');
    return true;
}

static bool repr_inner(struct jx_run *run, struct jx v, struct sp_buf *out)
{
    switch (v.type) {
    case JX_UNDEFINED:
        sp_buf_puts(out, "Undefined");
        return true;
    case JX_NONE:
        sp_buf_puts(out, "None");
        return true;
    case JX_BOOL:
        sp_buf_puts(out, v.b ? "True" : "False");
        return true;
    case JX_INT:
        sp_buf_printf(out, "%lld", (long long)v.i);
        return true;
    case JX_FLOAT:
        jx_float_text(v.f, out);
        return true;
    case JX_STRING:
        if (v.markup)
            return jx_fail(run, SP_EUNSUPPORTED, "a safe text within a printed list");
        repr_text(v, out);
        return true;
    case JX_LIST:
        if (v.list->kind > JX_TUPLE)
            return jx_fail(run, SP_EUNSUPPORTED, "printing a %s: make a list of it",
                           jx_type_name(v));
        return repr_list(run, v.list, out);
    case JX_DICT:
        return repr_dict(run, v.dict, out);
    default:
        return jx_fail(run, SP_EUNSUPPORTED, "printing a %s", jx_type_name(v));
    }
}

bool jx_repr(struct jx_run *run, struct jx v, struct sp_buf *out)
{
    if (!jx_step(run, 1 + (v.type == JX_STRING ? v.length / 16 : 0)) ||
        !jx_check_size(run, out->length) || !jx_deeper(run))
        return false;
    bool ok = repr_inner(run, v, out);
    run->depth--;
    return ok;
}

bool jx_str(struct jx_run *run, struct jx v, struct sp_buf *out)
{
    if (v.type == JX_UNDEFINED)
        return true;
    if (v.type != JX_STRING)
        return jx_repr(run, v, out);
    if (!jx_check_size(run, out->length + v.length) || !jx_step(run, 1 + v.length / BYTES_A_STEP))
        return false;
    sp_buf_append(out, v.s, v.length);
    return true;
}

bool jx_to_string(struct jx_run *run, struct jx v, struct jx *ret)
{
    struct sp_buf out = SP_BUF_INIT;
    if (v.type == JX_STRING) {
        *ret = v;
        return true;
    }
    if (!jx_str(run, v, &out)) {
        sp_buf_deinit(&out);
        return false;
    }
    return jx_take_buf(run, &out, ret);
}

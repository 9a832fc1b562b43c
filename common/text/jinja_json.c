/* The filter tojson, which transformers defines as json.dumps(x, ensure_ascii, indent, separators,
 * sort_keys) with ensure_ascii off. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

struct writer {
    struct jx_run *run;
    struct sp_buf out;
    bool ascii, sorted, lines;
    struct jx indent; /* of one level; in use where `lines` */
    struct jx comma, colon;
};

static void write_text(struct writer *w, struct jx v)
{
    static const char plain[] = "\b\f\n\r\t\"\\", names[] = "bfnrt\"\\";
    sp_buf_putc(&w->out, '"');
    for (size_t at = 0; at < v.length;) {
        size_t from = at;
        uint32_t code = tok_utf8_next(v.s, &at);
        const char *hit = code > 0 && code < 0x80 ? strchr(plain, (int)code) : NULL;
        if (hit != NULL)
            sp_buf_printf(&w->out, "\\%c", names[hit - plain]);
        else if (code < 0x20 || (w->ascii && code >= 0x7f + 1 && code < 0x10000))
            sp_buf_printf(&w->out, "\\u%04x", code);
        else if (w->ascii && code >= 0x10000)
            sp_buf_printf(&w->out, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
                          0xdc00 + ((code - 0x10000) & 0x3ff));
        else
            sp_buf_append(&w->out, v.s + from, at - from);
    }
    sp_buf_putc(&w->out, '"');
}

static void write_float(struct writer *w, double f)
{
    if (isnan(f) || isinf(f))
        sp_buf_puts(&w->out, isnan(f) ? "NaN" : f > 0 ? "Infinity" : "-Infinity");
    else
        jx_float_text(f, &w->out);
}

static bool new_line(struct writer *w, uint32_t level)
{
    if (!w->lines)
        return true;
    sp_buf_putc(&w->out, '\n');
    for (uint32_t i = 0; i < level; i++) {
        sp_buf_append(&w->out, w->indent.s, w->indent.length);
        if (!jx_check_size(w->run, w->out.length))
            return false;
    }
    return true;
}

static bool write_value(struct writer *w, struct jx v, uint32_t level);

static bool write_list(struct writer *w, const struct jx_list *list, uint32_t level)
{
    if (list->count == 0) {
        sp_buf_puts(&w->out, "[]");
        return true;
    }
    sp_buf_putc(&w->out, '[');
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            sp_buf_append(&w->out, w->comma.s, w->comma.length);
        if (!new_line(w, level + 1) || !write_value(w, list->items[i], level + 1))
            return false;
    }
    if (!new_line(w, level))
        return false;
    sp_buf_putc(&w->out, ']');
    return true;
}

static bool write_key(struct writer *w, struct jx key)
{
    if (key.type == JX_STRING) {
        write_text(w, key);
        return true;
    }
    if (key.type > JX_FLOAT || key.type == JX_UNDEFINED)
        return jx_fail(w->run, SP_EFORMAT, "tojson: a key of type %s", jx_type_name(key));
    sp_buf_putc(&w->out, '"');
    bool ok = write_value(w, key, 0);
    sp_buf_putc(&w->out, '"');
    return ok;
}

/* Indices in the order of the keys, by insertion: objects are small. */
static bool sort_keys(struct writer *w, const struct jx_dict *dict, size_t *order)
{
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            bool less;
            if (!jx_step(w->run, 1) ||
                !jx_less(w->run, dict->keys[i], dict->keys[order[at - 1]], &less))
                return false;
            if (!less)
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return true;
}

static bool write_dict(struct writer *w, const struct jx_dict *dict, uint32_t level)
{
    if (dict->count == 0) {
        sp_buf_puts(&w->out, "{}");
        return true;
    }
    size_t *order = NULL;
    if (w->sorted && ((order = jx_take(w->run, dict->count, sizeof(*order))) == NULL ||
                      !sort_keys(w, dict, order)))
        return false;
    sp_buf_putc(&w->out, '{');
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = order != NULL ? order[i] : i;
        if (i > 0)
            sp_buf_append(&w->out, w->comma.s, w->comma.length);
        if (!new_line(w, level + 1) || !write_key(w, dict->keys[at]))
            return false;
        sp_buf_append(&w->out, w->colon.s, w->colon.length);
        if (!write_value(w, dict->values[at], level + 1))
            return false;
    }
    if (!new_line(w, level))
        return false;
    sp_buf_putc(&w->out, '}');
    return true;
}

static bool write_value(struct writer *w, struct jx v, uint32_t level)
{
    bool ok = true;
    if (!jx_step(w->run, 1 + (v.type == JX_STRING ? v.length / 16 : 0)) ||
        !jx_check_size(w->run, w->out.length) || !jx_deeper(w->run))
        return false;
    switch (v.type) {
    case JX_NONE:
        sp_buf_puts(&w->out, "null");
        break;
    case JX_BOOL:
        sp_buf_puts(&w->out, v.b ? "true" : "false");
        break;
    case JX_INT:
        sp_buf_printf(&w->out, "%lld", (long long)v.i);
        break;
    case JX_FLOAT:
        write_float(w, v.f);
        break;
    case JX_STRING:
        write_text(w, v);
        break;
    case JX_DICT:
        ok = write_dict(w, v.dict, level);
        break;
    default:
        if (v.type == JX_LIST && v.list->kind <= JX_TUPLE)
            ok = write_list(w, v.list, level);
        else
            ok = jx_fail(w->run, SP_EFORMAT, "tojson: a %s has no JSON", jx_type_name(v));
    }
    w->run->depth--;
    return ok;
}

static bool read_indent(struct writer *w, struct jx indent)
{
    if (indent.type == JX_NONE)
        return true;
    w->lines = true;
    w->comma = jx_word(",");
    if (indent.type == JX_STRING) {
        w->indent = indent;
        return true;
    }
    if (!jx_is_integer(indent) || jx_integer(indent) > 64)
        return jx_fail(w->run, SP_EUNSUPPORTED, "tojson: such an indent");
    static const char spaces[] = "                                                                ";
    w->indent = jx_text(spaces, (size_t)SP_MAX(jx_integer(indent), (int64_t)0));
    return true;
}

bool jx_tojson(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    enum { ASCII, INDENT, SEPARATORS, SORT };
    struct jx options[] = {jx_bool(false), jx_none(), jx_none(), jx_bool(false)};
    if (!jx_bind(run, "tojson", actual, "ensure_ascii indent separators sort_keys", options))
        return false;
    struct writer w = {.run = run,
                       .ascii = jx_truth(options[ASCII]),
                       .sorted = jx_truth(options[SORT]),
                       .comma = jx_word(", "),
                       .colon = jx_word(": ")};
    if (!read_indent(&w, options[INDENT]))
        return false;
    struct jx separators = options[SEPARATORS];
    if (separators.type == JX_LIST && separators.list->count == 2 &&
        separators.list->items[0].type == JX_STRING &&
        separators.list->items[1].type == JX_STRING) {
        w.comma = separators.list->items[0];
        w.colon = separators.list->items[1];
    } else if (separators.type != JX_NONE) {
        return jx_fail(run, SP_EFORMAT, "tojson: separators are two texts");
    }
    if (!write_value(&w, v, 0)) {
        sp_buf_deinit(&w.out);
        return false;
    }
    return jx_take_buf(run, &w.out, ret);
}

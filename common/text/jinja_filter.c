/* Filters of single values. Their semantics are those of Jinja2's filters.py (3.1) without
 * autoescape. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/text/jinja_internal.h"

/* All that Jinja has: a name outside is an error of the template. */
static const char *const names[] = {
    "abs",    "attr",       "batch",       "capitalize", "center",   "count",
    "d",      "default",    "dictsort",    "e",          "escape",   "filesizeformat",
    "first",  "float",      "forceescape", "format",     "groupby",  "indent",
    "int",    "items",      "join",        "last",       "length",   "list",
    "lower",  "map",        "max",         "min",        "pprint",   "random",
    "reject", "rejectattr", "replace",     "reverse",    "round",    "safe",
    "select", "selectattr", "slice",       "sort",       "string",   "striptags",
    "sum",    "title",      "tojson",      "trim",       "truncate", "unique",
    "upper",  "urlencode",  "urlize",      "wordcount",  "wordwrap", "xmlattr",
};

bool jx_is_filter_name(struct jx name)
{
    for (size_t i = 0; i < SP_COUNT(names); i++)
        if (jx_is(name, names[i]))
            return true;
    return false;
}

static bool f_default(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                      struct jx *ret)
{
    struct jx options[] = {jx_text("", 0), jx_bool(false)};
    if (!jx_bind(run, "default", actual, "default_value boolean", options))
        return false;
    bool missing = v.type == JX_UNDEFINED || (jx_truth(options[1]) && !jx_truth(v));
    *ret = missing ? options[0] : v;
    return true;
}

static bool f_trim(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx chars = jx_none(), text;
    if (!jx_bind(run, "trim", actual, "chars", &chars) || !jx_to_string(run, v, &text))
        return false;
    if (chars.type != JX_NONE && chars.type != JX_STRING)
        return jx_fail(run, SP_EFORMAT, "trim: chars is no text");
    *ret = jx_strip(text, chars.type == JX_STRING ? &chars : NULL, true, true);
    return jx_step(run, 1 + text.length / 256);
}

static bool f_case(struct jx_run *run, struct jx v, const struct jx_actual *actual, const char *how,
                   struct jx *ret)
{
    struct jx text;
    if (actual->count + actual->keyword_count > 0)
        return jx_fail(run, SP_EFORMAT, "%s: takes no argument", how);
    return jx_to_string(run, v, &text) && jx_change_case(run, text, how, ret);
}

static bool f_replace(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                      struct jx *ret)
{
    struct jx options[] = {jx_none(), jx_none(), jx_none()}, text, old, new;
    if (!jx_bind(run, "replace", actual, "old new count", options))
        return false;
    if (actual->count + actual->keyword_count < 2)
        return jx_fail(run, SP_EFORMAT, "replace: takes old and new");
    if (!jx_to_string(run, v, &text) || !jx_to_string(run, options[0], &old) ||
        !jx_to_string(run, options[1], &new))
        return false;
    if (options[2].type != JX_NONE && !jx_is_integer(options[2]))
        return jx_fail(run, SP_EFORMAT, "replace: count is no whole number");
    int64_t most = options[2].type == JX_NONE ? -1 : jx_integer(options[2]);
    return jx_replace(run, text, old, new, most, ret);
}

static bool f_indent(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                     struct jx *ret)
{
    enum { WIDTH, FIRST, BLANK };
    struct jx options[] = {jx_int(4), jx_bool(false), jx_bool(false)}, pad, lines;
    if (!jx_bind(run, "indent", actual, "width first blank", options))
        return false;
    if (v.type != JX_STRING)
        return jx_fail(run, SP_EFORMAT, "indent: of a %s", jx_type_name(v));
    if (options[WIDTH].type == JX_STRING)
        pad = options[WIDTH];
    else if (!jx_is_integer(options[WIDTH]))
        return jx_fail(run, SP_EFORMAT, "indent: such a width");
    else if (!jx_binary(run, JX_MUL, jx_text(" ", 1), options[WIDTH], &pad))
        return false;
    struct jx_list list;
    struct jx ended;
    if (!jx_binary(run, JX_ADD, v, jx_text("\n", 1), &ended) ||
        !jx_split_lines(run, ended, false, &lines))
        return false;
    list = *lines.list;
    struct sp_buf out = SP_BUF_INIT;
    bool ok = true;
    for (size_t i = 0; i < list.count && ok; i++) {
        bool padded = i == 0 ? jx_truth(options[FIRST])
                             : jx_truth(options[BLANK]) || list.items[i].length > 0;
        if (i > 0)
            sp_buf_putc(&out, '\n');
        ok = (!padded || jx_str(run, pad, &out)) && jx_str(run, list.items[i], &out);
    }
    if (!ok) {
        sp_buf_deinit(&out);
        return false;
    }
    if (!jx_take_buf(run, &out, ret))
        return false;
    ret->markup = v.markup;
    return true;
}

bool jx_escape(struct jx_run *run, struct jx v, struct jx *ret)
{
    struct jx text;
    struct sp_buf out = SP_BUF_INIT;
    if (!jx_to_string(run, v, &text) || !jx_step(run, 1 + text.length / 16))
        return false;
    for (size_t i = 0; i < text.length && !text.markup; i++) {
        static const char plain[] = "&<>\"'";
        static const char *const escaped[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
        const char *hit = text.s[i] != 0 ? strchr(plain, text.s[i]) : NULL;
        if (hit != NULL)
            sp_buf_puts(&out, escaped[hit - plain]);
        else
            sp_buf_putc(&out, text.s[i]);
    }
    if (text.markup)
        sp_buf_append(&out, text.s, text.length);
    if (!jx_take_buf(run, &out, ret))
        return false;
    ret->markup = true;
    return true;
}

/* ---- numbers ---- */

/* Digits with an optional sign and white space around, as int() and float() take them. */
static bool number_text(struct jx v, char text[64], bool real)
{
    struct jx s = jx_strip(v, NULL, true, true);
    const char *allowed = real ? "0123456789+-.eE" : "0123456789+-";
    if (s.length == 0 || s.length > 60)
        return false;
    for (size_t i = 0; i < s.length; i++)
        if (s.s[i] == 0 || strchr(allowed, s.s[i]) == NULL)
            return false;
    memcpy(text, s.s, s.length);
    text[s.length] = 0;
    return true;
}

/* What Python reads and these rules do not: underscores, other digits, inf and nan. */
static bool odd_number(struct jx v)
{
    for (size_t i = 0; i < v.length; i++)
        if (v.s[i] == '_' || (unsigned char)v.s[i] >= 0x80)
            return true;
    struct jx s = jx_strip(v, NULL, true, true);
    size_t sign = s.length > 0 && (s.s[0] == '-' || s.s[0] == '+');
    char c = s.length > sign ? s.s[sign] | 0x20 : 0;
    return s.length > 60 || c == 'i' || c == 'n';
}

static bool text_to_float(struct jx_run *run, struct jx v, double *ret, bool *ret_ok)
{
    char text[64], *end;
    *ret_ok = false;
    if (odd_number(v))
        return jx_fail(run, SP_EUNSUPPORTED, "reading a number of such a form");
    if (!number_text(v, text, true))
        return true;
    *ret = strtod(text, &end);
    *ret_ok = *end == 0;
    return true;
}

static bool f_int(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx options[] = {jx_int(0), jx_int(10)};
    double f = 0;
    bool ok = v.type == JX_FLOAT;
    if (!jx_bind(run, "int", actual, "default base", options))
        return false;
    *ret = options[0];
    if (v.type == JX_UNDEFINED)
        return jx_undefined_error(run, v);
    if (options[1].type != JX_INT || options[1].i != 10)
        return jx_fail(run, SP_EUNSUPPORTED, "int: a base other than 10");
    if (jx_is_integer(v)) {
        *ret = jx_int(jx_integer(v));
        return true;
    }
    if (v.type == JX_STRING) {
        char text[64], *end;
        if (number_text(v, text, false)) {
            errno = 0;
            long long i = strtoll(text, &end, 10);
            if (*end == 0 && errno == 0) {
                *ret = jx_int(i);
                return true;
            }
        }
        if (!text_to_float(run, v, &f, &ok))
            return false;
    } else if (v.type == JX_FLOAT) {
        f = v.f;
    }
    if (!ok)
        return true;
    if (!(fabs(f) < 9e18))
        return jx_fail(run, SP_EUNSUPPORTED, "int of a number beyond 64 bits");
    *ret = jx_int((int64_t)f);
    return true;
}

static bool f_float(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx fallback = jx_float(0);
    double f = 0;
    bool ok = jx_is_number(v);
    if (!jx_bind(run, "float", actual, "default", &fallback))
        return false;
    if (v.type == JX_UNDEFINED)
        return jx_undefined_error(run, v);
    if (ok)
        f = jx_number(v);
    else if (v.type == JX_STRING && !text_to_float(run, v, &f, &ok))
        return false;
    *ret = ok ? jx_float(f) : fallback;
    return true;
}

static bool f_round(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx options[] = {jx_int(0), jx_word("common")};
    if (!jx_bind(run, "round", actual, "precision method", options))
        return false;
    if (!jx_is_number(v) || options[0].type != JX_INT || options[0].i < 0 || options[0].i > 15 ||
        options[1].type != JX_STRING)
        return jx_fail(run, SP_EUNSUPPORTED, "round: of a %s, or with such a precision",
                       jx_type_name(v));
    double f = jx_number(v), scale = pow(10, (double)options[0].i);
    if (jx_is(options[1], "common")) {
        if (jx_is_integer(v)) {
            *ret = jx_int(jx_integer(v));
            return true;
        }
        char text[400];
        snprintf(text, sizeof(text), "%.*f", (int)options[0].i, f);
        *ret = jx_float(strtod(text, NULL));
    } else if (jx_is(options[1], "ceil") || jx_is(options[1], "floor")) {
        f *= scale;
        *ret = jx_float((jx_is(options[1], "ceil") ? ceil(f) : floor(f)) / scale);
    } else {
        return jx_fail(run, SP_EFORMAT, "round: the method is common, ceil or floor");
    }
    return true;
}

static bool f_abs(struct jx_run *run, struct jx v, struct jx *ret)
{
    if (!jx_is_number(v))
        return jx_fail(run, SP_EFORMAT, "abs of a %s", jx_type_name(v));
    if (v.type == JX_FLOAT)
        *ret = jx_float(fabs(v.f));
    else if (jx_integer(v) < 0)
        return jx_binary(run, JX_SUB, jx_int(0), v, ret);
    else
        *ret = jx_int(jx_integer(v));
    return true;
}

static bool f_length(struct jx_run *run, struct jx v, struct jx *ret)
{
    int64_t length = 0;
    if (!jx_length(run, v, &length))
        return false;
    *ret = jx_int(length);
    return true;
}

/* ---- all ---- */

static bool f_simple(struct jx_run *run, struct jx name, struct jx v, struct jx *ret)
{
    if (jx_is(name, "length") || jx_is(name, "count"))
        return f_length(run, v, ret);
    if (jx_is(name, "abs"))
        return f_abs(run, v, ret);
    if (jx_is(name, "e") || jx_is(name, "escape"))
        return jx_escape(run, v, ret);
    if (!jx_to_string(run, v, ret))
        return false;
    ret->markup = ret->markup || jx_is(name, "safe");
    return true;
}

bool jx_filter(struct jx_run *run, struct jx name, struct jx v, const struct jx_actual *actual,
               struct jx *ret)
{
    static const char *const simple[] = {"length", "count", "abs", "e", "escape", "string", "safe"};
    bool known = true;
    if (jx_is(name, "trim"))
        return f_trim(run, v, actual, ret);
    if (jx_is(name, "tojson"))
        return jx_tojson(run, v, actual, ret);
    if (jx_is(name, "default") || jx_is(name, "d"))
        return f_default(run, v, actual, ret);
    if (jx_is(name, "replace"))
        return f_replace(run, v, actual, ret);
    if (jx_is(name, "upper") || jx_is(name, "lower") || jx_is(name, "capitalize"))
        return f_case(run, v, actual,
                      jx_is(name, "upper")   ? "upper"
                      : jx_is(name, "lower") ? "lower"
                                             : "capitalize",
                      ret);
    if (jx_is(name, "title"))
        return f_case(run, v, actual, "words", ret);
    if (jx_is(name, "indent"))
        return f_indent(run, v, actual, ret);
    if (jx_is(name, "int"))
        return f_int(run, v, actual, ret);
    if (jx_is(name, "float"))
        return f_float(run, v, actual, ret);
    if (jx_is(name, "round"))
        return f_round(run, v, actual, ret);
    for (size_t i = 0; i < SP_COUNT(simple); i++) {
        if (!jx_is(name, simple[i]))
            continue;
        if (actual->count + actual->keyword_count > 0)
            return jx_fail(run, SP_EFORMAT, "%s: takes no argument", simple[i]);
        return f_simple(run, name, v, ret);
    }
    if (!jx_list_filter(run, name, v, actual, ret, &known))
        return false;
    if (!known && !jx_is_filter_name(name))
        return jx_fail(run, SP_EFORMAT, "there is no filter \"%.*s\"",
                       (int)SP_MIN(name.length, 40u), name.s);
    return known ||
           jx_fail(run, SP_EUNSUPPORTED, "the filter %.*s", (int)SP_MIN(name.length, 40u), name.s);
}

/* Tests (`is …`), globals, and the methods of dicts and of the loop variable. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/text/jinja_internal.h"

#define MAX_RANGE 100000 /* of Jinja's sandbox */

/* ---- tests without an argument ---- */

static bool is_kind(enum jx_type type, const struct jx v)
{
    return v.type == type;
}

static bool t_callable(struct jx v)
{
    /* Undefined is: calling it is what fails. */
    return v.type >= JX_MACRO || v.type == JX_LOOP || v.type == JX_UNDEFINED;
}

static bool t_sequence(struct jx v)
{
    return is_kind(JX_STRING, v) || is_kind(JX_DICT, v) || is_kind(JX_UNDEFINED, v) ||
           (is_kind(JX_LIST, v) && v.list->kind <= JX_RANGE);
}

static bool t_iterable(struct jx v)
{
    return t_sequence(v) || is_kind(JX_LIST, v) || is_kind(JX_LOOP, v);
}

static bool t_defined(struct jx v)
{
    return v.type != JX_UNDEFINED;
}

static bool t_undefined(struct jx v)
{
    return v.type == JX_UNDEFINED;
}

static bool t_none(struct jx v)
{
    return v.type == JX_NONE;
}

static bool t_boolean(struct jx v)
{
    return v.type == JX_BOOL;
}

static bool t_true(struct jx v)
{
    return v.type == JX_BOOL && v.b;
}

static bool t_false(struct jx v)
{
    return v.type == JX_BOOL && !v.b;
}

static bool t_integer(struct jx v)
{
    return v.type == JX_INT;
}

static bool t_float(struct jx v)
{
    return v.type == JX_FLOAT;
}

static bool t_number(struct jx v)
{
    return jx_is_number(v);
}

static bool t_string(struct jx v)
{
    return v.type == JX_STRING;
}

static bool t_mapping(struct jx v)
{
    return v.type == JX_DICT;
}

static bool t_escaped(struct jx v)
{
    return v.type == JX_STRING && v.markup;
}

static const struct {
    const char *name;
    bool (*holds)(struct jx v);
} plain_tests[] = {
    {"defined", t_defined},   {"undefined", t_undefined}, {"none", t_none},
    {"boolean", t_boolean},   {"true", t_true},           {"false", t_false},
    {"integer", t_integer},   {"float", t_float},         {"number", t_number},
    {"string", t_string},     {"mapping", t_mapping},     {"sequence", t_sequence},
    {"iterable", t_iterable}, {"callable", t_callable},   {"escaped", t_escaped},
};

/* Tests that compare with one argument. */
static const struct {
    const char *name;
    enum jx_op op;
} comparing_tests[] = {
    {"eq", JX_EQ}, {"equalto", JX_EQ}, {"==", JX_EQ},       {"ne", JX_NE},
    {"!=", JX_NE}, {"lt", JX_LT},      {"lessthan", JX_LT}, {"<", JX_LT},
    {"le", JX_LE}, {"<=", JX_LE},      {"gt", JX_GT},       {"greaterthan", JX_GT},
    {">", JX_GT},  {"ge", JX_GE},      {">=", JX_GE},       {"in", JX_IN},
};
static const char *const other_tests[] = {"odd",   "even",  "divisibleby", "sameas",
                                          "lower", "upper", "filter",      "test"};

bool jx_is_test_name(struct jx name)
{
    for (size_t i = 0; i < SP_COUNT(plain_tests); i++)
        if (jx_is(name, plain_tests[i].name))
            return true;
    for (size_t i = 0; i < SP_COUNT(comparing_tests); i++)
        if (jx_is(name, comparing_tests[i].name))
            return true;
    for (size_t i = 0; i < SP_COUNT(other_tests); i++)
        if (jx_is(name, other_tests[i]))
            return true;
    return false;
}

static bool same_as(struct jx_run *run, struct jx a, struct jx b, bool *ret)
{
    bool small = a.type == JX_NONE || a.type == JX_BOOL || a.type >= JX_LIST;
    if (a.type == b.type && !small)
        return jx_fail(run, SP_EUNSUPPORTED, "the test sameas of a %s", jx_type_name(a));
    *ret = a.type == b.type && (a.type == JX_NONE || (a.type == JX_BOOL && a.b == b.b) ||
                                (a.type >= JX_LIST && a.list == b.list));
    return true;
}

static bool divisible(struct jx_run *run, struct jx v, struct jx by, struct jx rest, bool *ret)
{
    struct jx remainder;
    if (!jx_binary(run, JX_MOD, v, by, &remainder))
        return false;
    return jx_equal(run, remainder, rest, ret);
}

static bool other_test(struct jx_run *run, struct jx name, struct jx v,
                       const struct jx_actual *actual, bool *ret)
{
    bool bare = actual->count + actual->keyword_count == 0;
    if (jx_is(name, "odd") && bare)
        return divisible(run, v, jx_int(2), jx_int(1), ret);
    if (jx_is(name, "even") && bare)
        return divisible(run, v, jx_int(2), jx_int(0), ret);
    if (jx_is(name, "divisibleby") && actual->count == 1)
        return divisible(run, v, actual->args[0], jx_int(0), ret);
    if (jx_is(name, "sameas") && actual->count == 1)
        return same_as(run, v, actual->args[0], ret);
    if ((jx_is(name, "filter") || jx_is(name, "test")) && bare) {
        *ret = v.type == JX_STRING &&
               (jx_is(name, "filter") ? jx_is_filter_name(v) : jx_is_test_name(v));
        return true;
    }
    if ((jx_is(name, "lower") || jx_is(name, "upper")) && bare) {
        struct jx text, holds;
        struct jx_actual none = {0};
        if (!jx_to_string(run, v, &text) ||
            !jx_string_method(run, text, jx_word(jx_is(name, "lower") ? "islower" : "isupper"),
                              &none, &holds))
            return false;
        *ret = holds.b;
        return true;
    }
    if (!jx_is_test_name(name))
        return jx_fail(run, SP_EFORMAT, "there is no test \"%.*s\"", (int)SP_MIN(name.length, 40u),
                       name.s);
    return jx_fail(run, SP_EFORMAT, "the test %.*s takes another number of arguments",
                   (int)SP_MIN(name.length, 40u), name.s);
}

bool jx_test(struct jx_run *run, struct jx name, struct jx v, const struct jx_actual *actual,
             bool *ret)
{
    uint32_t given = actual->count + actual->keyword_count;
    for (size_t i = 0; i < SP_COUNT(plain_tests); i++) {
        if (!jx_is(name, plain_tests[i].name))
            continue;
        if (given > 0)
            return jx_fail(run, SP_EFORMAT, "the test %s takes no argument", plain_tests[i].name);
        *ret = plain_tests[i].holds(v);
        return true;
    }
    for (size_t i = 0; i < SP_COUNT(comparing_tests); i++)
        if (jx_is(name, comparing_tests[i].name) && given == 1 && actual->count == 1)
            return jx_compare(run, comparing_tests[i].op, v, actual->args[0], ret);
    return other_test(run, name, v, actual, ret);
}

/* ---- globals ---- */

static bool g_raise(struct jx_run *run, const struct jx_actual *actual, struct jx *ret)
{
    struct jx message = jx_text("", 0);
    (void)ret;
    if (!jx_bind(run, "raise_exception", actual, "message", &message) ||
        !jx_to_string(run, message, &message))
        return false;
    return jx_fail(run, SP_EINVAL, "the template refuses this conversation: %.*s",
                   (int)SP_MIN(message.length, 400u), message.s);
}

static bool g_range(struct jx_run *run, const struct jx_actual *actual, struct jx *ret)
{
    int64_t bounds[3] = {0, 0, 1};
    if (actual->count < 1 || actual->count > 3 || actual->keyword_count > 0)
        return jx_fail(run, SP_EFORMAT, "range: takes one to three numbers");
    for (uint32_t i = 0; i < actual->count; i++) {
        if (!jx_is_integer(actual->args[i]))
            return jx_fail(run, SP_EFORMAT, "range: a %s", jx_type_name(actual->args[i]));
        bounds[actual->count == 1 ? 1 : i] = jx_integer(actual->args[i]);
    }
    __int128 start = bounds[0], stop = bounds[1], step = bounds[2], count = 0;
    if (step == 0)
        return jx_fail(run, SP_EFORMAT, "range: the step is 0");
    if (step > 0 && start < stop)
        count = (stop - start - 1) / step + 1;
    else if (step < 0 && stop < start)
        count = (start - stop - 1) / -step + 1;
    if (count > MAX_RANGE)
        return jx_fail(run, SP_ELIMIT, "range: more than %d numbers", MAX_RANGE);
    if (!jx_step(run, 1 + (uint64_t)count) || !jx_new_list(run, JX_RANGE, (size_t)count, ret))
        return false;
    for (int64_t i = 0; i < (int64_t)count; i++)
        ret->list->items[i] = jx_int(bounds[0] + i * bounds[2]);
    return true;
}

static bool g_dict(struct jx_run *run, const struct jx_actual *actual, struct jx *ret)
{
    if (!jx_new_dict(run, ret))
        return false;
    if (actual->count > 1 || (actual->count == 1 && actual->args[0].type != JX_DICT))
        return jx_fail(run, SP_EUNSUPPORTED, "dict, namespace: of anything but a dict and names");
    for (size_t i = 0; actual->count == 1 && i < actual->args[0].dict->count; i++)
        if (!jx_dict_put(run, ret->dict, actual->args[0].dict->keys[i],
                         actual->args[0].dict->values[i]))
            return false;
    for (uint32_t i = 0; i < actual->keyword_count; i++)
        if (!jx_dict_put(run, ret->dict, actual->keywords[i].name, actual->keywords[i].value))
            return false;
    return true;
}

static bool g_namespace(struct jx_run *run, const struct jx_actual *actual, struct jx *ret)
{
    if (!g_dict(run, actual, ret))
        return false;
    for (size_t i = 0; i < ret->dict->count; i++)
        if (ret->dict->keys[i].type != JX_STRING ||
            (ret->dict->keys[i].length > 0 && ret->dict->keys[i].s[0] == '_'))
            return jx_fail(run, SP_EFORMAT, "a member of a namespace that starts with _");
    ret->type = JX_NAMESPACE;
    return true;
}

static bool read_date(const char *text, struct tm *ret)
{
    int year, month, day;
    if (strlen(text) != 10 || strspn(text, "0123456789-") != 10 ||
        sscanf(text, "%4d-%2d-%2d", &year, &month, &day) != 3 || year < 1)
        return false;
    *ret = (struct tm){.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};
    (void)timegm(ret); /* moves what is outside of a month into the next */
    return ret->tm_mon == month - 1 && ret->tm_mday == day;
}

static bool g_strftime(struct jx_run *run, const struct jx_actual *actual, struct jx *ret)
{
    struct jx format = jx_none();
    struct tm day = {0};
    char pattern[64], text[256];
    if (!jx_bind(run, "strftime_now", actual, "format", &format))
        return false;
    if (run->date == NULL || run->date[0] == 0)
        return jx_fail(run, SP_EUNSUPPORTED,
                       "the template asks for today's date: fix it by the setting template_date = "
                       "YYYY-MM-DD");
    if (!read_date(run->date, &day))
        return jx_fail(run, SP_EINVAL, "template_date: \"%.20s\" is no date of the form YYYY-MM-DD",
                       run->date);
    if (format.type != JX_STRING || format.length >= sizeof(pattern))
        return jx_fail(run, SP_EUNSUPPORTED, "strftime_now: such a format");
    memcpy(pattern, format.s, format.length);
    pattern[format.length] = 0;
    for (const char *at = pattern; (at = strchr(at, '%')) != NULL; at += 2)
        if (at[1] == 0 || strchr("aAbBdjmyYUWw%-eF", at[1]) == NULL)
            return jx_fail(run, SP_EUNSUPPORTED, "strftime_now: %%%c, which is no part of a date",
                           at[1]);
    size_t length = strftime(text, sizeof(text), pattern, &day);
    return jx_copy_text(run, text, length, ret);
}

static bool g_refused(struct jx_run *run, const struct jx_actual *actual, struct jx *ret)
{
    (void)actual;
    (void)ret;
    return jx_fail(run, SP_EUNSUPPORTED, "the functions lipsum, cycler and joiner");
}

const struct jx_function *jx_global(struct jx name)
{
    static const struct jx_function globals[] = {
        {"raise_exception", g_raise}, {"range", g_range},    {"dict", g_dict},
        {"namespace", g_namespace},   {"lipsum", g_refused}, {"strftime_now", g_strftime},
        {"cycler", g_refused},        {"joiner", g_refused},
    };
    for (size_t i = 0; i < SP_COUNT(globals); i++)
        if (jx_is(name, globals[i].name))
            return &globals[i];
    return NULL;
}

/* ---- methods ---- */

static bool dict_view(struct jx_run *run, const struct jx_dict *dict, bool keys, bool values,
                      struct jx *ret)
{
    if (!jx_new_list(run, JX_VIEW, dict->count, ret))
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        struct jx item = keys ? dict->keys[i] : dict->values[i];
        if (keys && values) {
            if (!jx_new_list(run, JX_TUPLE, 2, &item))
                return false;
            item.list->items[0] = dict->keys[i];
            item.list->items[1] = dict->values[i];
        }
        ret->list->items[i] = item;
    }
    return jx_step(run, 1 + dict->count);
}

bool jx_dict_method(struct jx_run *run, struct jx self, struct jx name,
                    const struct jx_actual *actual, struct jx *ret)
{
    uint32_t given = actual->count + actual->keyword_count;
    if (jx_is(name, "get") && actual->keyword_count == 0 && (given == 1 || given == 2)) {
        const struct jx *found = jx_dict_find(run, self.dict, actual->args[0]);
        *ret = found != NULL ? *found : given == 2 ? actual->args[1] : jx_none();
        return run->rc == SP_OK;
    }
    if (given > 0)
        return jx_fail(run, SP_EUNSUPPORTED, "the dict method %.*s with arguments",
                       (int)name.length, name.s);
    if (jx_is(name, "items") || jx_is(name, "keys") || jx_is(name, "values"))
        return dict_view(run, self.dict, name.s[0] != 'v', name.s[0] != 'k', ret);
    if (jx_is(name, "copy")) {
        *ret = self; /* nothing can change it */
        return true;
    }
    return jx_fail(run, SP_EUNSUPPORTED, "the dict method %.*s", (int)name.length, name.s);
}

bool jx_loop_method(struct jx_run *run, struct jx self, struct jx name,
                    const struct jx_actual *actual, struct jx *ret)
{
    struct jx_loop *loop = self.loop;
    if (actual->keyword_count > 0 || actual->count == 0)
        return jx_fail(run, SP_EFORMAT, "loop.%.*s: takes values", (int)name.length, name.s);
    if (jx_is(name, "cycle")) {
        *ret = actual->args[loop->index % actual->count];
        return true;
    }
    struct jx now;
    bool same = false;
    if (!jx_new_list(run, JX_TUPLE, actual->count, &now))
        return false;
    memcpy(now.list->items, actual->args, actual->count * sizeof(*actual->args));
    if (loop->changed != NULL && !jx_equal(run, *loop->changed, now, &same))
        return false;
    if ((loop->changed = jx_take(run, 1, sizeof(now))) == NULL)
        return false;
    *loop->changed = now;
    *ret = jx_bool(!same);
    return true;
}

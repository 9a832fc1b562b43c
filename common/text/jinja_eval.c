/* Evaluating the expressions of a template. */
#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

/* ---- members ---- */

static bool make_method(struct jx_run *run, struct jx self, struct jx name, struct jx *ret)
{
    struct jx_method *method = jx_take(run, 1, sizeof(*method));
    if (method == NULL)
        return false;
    *method = (struct jx_method){.self = self, .name = name};
    *ret = (struct jx){.type = JX_METHOD, .method = method};
    return true;
}

static bool loop_attribute(struct jx_run *run, struct jx loop, struct jx name, struct jx *ret)
{
    const struct jx_loop *l = loop.loop;
    int64_t index = (int64_t)l->index, count = (int64_t)l->count;
    if (jx_is(name, "index"))
        *ret = jx_int(index + 1);
    else if (jx_is(name, "index0"))
        *ret = jx_int(index);
    else if (jx_is(name, "revindex"))
        *ret = jx_int(count - index);
    else if (jx_is(name, "revindex0"))
        *ret = jx_int(count - index - 1);
    else if (jx_is(name, "first"))
        *ret = jx_bool(index == 0);
    else if (jx_is(name, "last"))
        *ret = jx_bool(index + 1 == count);
    else if (jx_is(name, "length"))
        *ret = jx_int(count);
    else if (jx_is(name, "depth") || jx_is(name, "depth0"))
        *ret = jx_int(name.length == 5); /* of recursive loops, which there are not */
    else if (jx_is(name, "previtem") && index > 0)
        *ret = l->items[index - 1];
    else if (jx_is(name, "nextitem") && index + 1 < count)
        *ret = l->items[index + 1];
    else if (jx_is(name, "previtem") || jx_is(name, "nextitem"))
        *ret = jx_undefined(name.s, name.length);
    else if (jx_is(name, "cycle") || jx_is(name, "changed"))
        return make_method(run, loop, name, ret);
    else
        *ret = jx_undefined(name.s, name.length);
    return true;
}

static bool has_method(struct jx object, struct jx name)
{
    static const char *const dict[] = {"clear", "copy",    "fromkeys",   "get",    "items", "keys",
                                       "pop",   "popitem", "setdefault", "update", "values"};
    static const char *const list[] = {"count",  "index", "append", "clear",   "copy", "extend",
                                       "insert", "pop",   "remove", "reverse", "sort"};
    if (object.type == JX_STRING)
        return jx_string_method_known(name);
    if (object.type == JX_DICT) {
        for (size_t i = 0; i < SP_COUNT(dict); i++)
            if (jx_is(name, dict[i]))
                return true;
    } else if (jx_is_plain_list(object)) {
        size_t count = object.list->kind == JX_TUPLE ? 2 : SP_COUNT(list);
        for (size_t i = 0; i < count; i++)
            if (jx_is(name, list[i]))
                return true;
    }
    return false;
}

/* obj.name: an attribute of the object, else its item of that name. */
bool jx_attribute(struct jx_run *run, struct jx object, struct jx name, struct jx *ret)
{
    if (object.type == JX_UNDEFINED)
        return jx_undefined_error(run, object);
    bool secret = name.length > 1 && name.s[0] == '_' && name.s[1] == '_';
    if (secret || object.type == JX_INT || object.type == JX_FLOAT || object.type == JX_BOOL ||
        object.type == JX_MACRO || object.type == JX_METHOD || object.type == JX_FUNCTION ||
        (object.type == JX_LIST && object.list->kind > JX_TUPLE))
        return jx_fail(run, SP_EUNSUPPORTED, "the attribute \"%.*s\" of a %s",
                       (int)SP_MIN(name.length, 40u), name.s, jx_type_name(object));
    if (object.type == JX_LOOP)
        return loop_attribute(run, object, name, ret);
    if (has_method(object, name))
        return make_method(run, object, name, ret);
    const struct jx *found = NULL;
    if (object.type == JX_DICT || object.type == JX_NAMESPACE)
        found = jx_dict_find(run, object.dict, name);
    *ret = found != NULL ? *found : jx_undefined(name.s, name.length);
    return run->rc == SP_OK;
}

/* obj[key]: an item, else the attribute of that name. */
bool jx_item(struct jx_run *run, struct jx object, struct jx key, struct jx *ret)
{
    if (object.type == JX_UNDEFINED)
        return jx_undefined_error(run, object);
    *ret = key.type == JX_STRING ? jx_undefined(key.s, key.length) : jx_undefined("an item", 7);
    if (object.type == JX_DICT) {
        const struct jx *found = jx_dict_find(run, object.dict, key);
        if (found != NULL)
            *ret = *found;
        if (run->rc != SP_OK || found != NULL)
            return run->rc == SP_OK;
    }
    if (key.type == JX_STRING)
        return jx_attribute(run, object, key, ret);
    if (!jx_is_integer(key))
        return true;
    int64_t at = jx_integer(key), count = 0;
    if (object.type == JX_STRING)
        count = (int64_t)jx_char_count(object);
    else if (object.type == JX_LIST && object.list->kind <= JX_RANGE)
        count = (int64_t)object.list->count;
    at += at < 0 ? count : 0;
    if (at < 0 || at >= count)
        return true;
    if (object.type == JX_LIST) {
        *ret = object.list->items[at];
        return true;
    }
    size_t from = jx_char_offset(object, (size_t)at);
    *ret = jx_text(object.s + from, tok_utf8_length((unsigned char)object.s[from]));
    ret->markup = object.markup;
    return jx_step(run, 1 + object.length / 256);
}

/* A part of a slice: a number or none; false: something else. */
static bool slice_part(struct jx_run *run, const struct jx_node *node, int64_t missing,
                       int64_t *ret, bool *ret_given)
{
    struct jx v = jx_none();
    if (node != NULL && !jx_eval(run, node, &v))
        return false;
    *ret_given = v.type != JX_NONE;
    *ret = *ret_given ? jx_integer(v) : missing;
    if (v.type == JX_NONE || jx_is_integer(v))
        return true;
    return jx_fail(run, SP_EUNSUPPORTED, "a slice by %s", jx_type_name(v));
}

/* Where a bound of a slice falls: PySlice_AdjustIndices. */
static int64_t clamp(int64_t at, int64_t count, int64_t step)
{
    if (at < 0) {
        at += count;
        if (at < 0)
            return step < 0 ? -1 : 0;
    } else if (at >= count) {
        return step < 0 ? count - 1 : count;
    }
    return at;
}

static bool take_slice(struct jx_run *run, struct jx object, int64_t start, int64_t step,
                       int64_t count, struct jx *ret)
{
    if (object.type == JX_LIST) {
        if (!jx_step(run, 1 + (uint64_t)count) ||
            !jx_new_list(run, object.list->kind, (size_t)count, ret))
            return false;
        for (int64_t i = 0; i < count; i++)
            ret->list->items[i] = object.list->items[start + i * step];
        return true;
    }
    if (!jx_step(run, 1 + object.length / 64))
        return false;
    if (step == 1) {
        size_t from = jx_char_offset(object, (size_t)start);
        struct jx rest = jx_text(object.s + from, object.length - from);
        *ret = jx_text(rest.s, jx_char_offset(rest, (size_t)count));
        ret->markup = object.markup;
        return true;
    }
    const struct jx *chars;
    size_t n;
    struct sp_buf out = SP_BUF_INIT;
    if (!jx_iterate(run, object, &chars, &n))
        return false;
    for (int64_t i = 0; i < count; i++)
        sp_buf_append(&out, chars[start + i * step].s, chars[start + i * step].length);
    if (!jx_take_buf(run, &out, ret))
        return false;
    ret->markup = object.markup;
    return true;
}

static bool eval_slice(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    struct jx object;
    int64_t start, stop, step, count = 0;
    bool has_start, has_stop, has_step;
    if (!jx_eval(run, node->a, &object) || !slice_part(run, node->d, 1, &step, &has_step) ||
        !slice_part(run, node->b, 0, &start, &has_start) ||
        !slice_part(run, node->c, 0, &stop, &has_stop))
        return false;
    if (object.type == JX_UNDEFINED)
        return jx_undefined_error(run, object);
    if (step == 0)
        return jx_fail(run, SP_EFORMAT, "a slice with step 0");
    if (object.type != JX_STRING && (object.type != JX_LIST || object.list->kind > JX_RANGE))
        return jx_fail(run, SP_EUNSUPPORTED, "a slice of a %s", jx_type_name(object));
    if (!jx_length(run, object, &count))
        return false;
    step = SP_MIN(SP_MAX(step, (int64_t)-INT32_MAX), (int64_t)INT32_MAX);
    start = has_start ? clamp(start, count, step) : step < 0 ? count - 1 : 0;
    stop = has_stop ? clamp(stop, count, step) : step < 0 ? -1 : count;
    int64_t taken = 0;
    if (step > 0 && start < stop)
        taken = (stop - start - 1) / step + 1;
    else if (step < 0 && stop < start)
        taken = (start - stop - 1) / -step + 1;
    return take_slice(run, object, start, step, taken, ret);
}

/* ---- calls ---- */

bool jx_eval_args(struct jx_run *run, const struct jx_args *args, struct jx_actual *ret)
{
    *ret = (struct jx_actual){.count = args->count, .keyword_count = args->keyword_count};
    if (args->stars)
        return jx_fail(run, SP_EUNSUPPORTED, "a call with *args or **kwargs");
    if (args->count > 0 && (ret->args = jx_take(run, args->count, sizeof(*ret->args))) == NULL)
        return false;
    if (args->keyword_count > 0 &&
        (ret->keywords = jx_take(run, args->keyword_count, sizeof(*ret->keywords))) == NULL)
        return false;
    for (uint32_t i = 0; i < args->count; i++)
        if (!jx_eval(run, args->args[i], &ret->args[i]))
            return false;
    for (uint32_t i = 0; i < args->keyword_count; i++) {
        ret->keywords[i].name = args->keywords[i].name;
        if (!jx_eval(run, args->keywords[i].value, &ret->keywords[i].value))
            return false;
    }
    return true;
}

bool jx_bind(struct jx_run *run, const char *what, const struct jx_actual *actual,
             const char *names, struct jx *ret)
{
    uint32_t count = 0;
    bool given[8] = {false};
    uint32_t used = 0;
    for (const char *at = names; *at != 0; count++) {
        size_t n = strcspn(at, " ");
        struct jx name = jx_text(at, n);
        if (count < actual->count) {
            ret[count] = actual->args[count];
            given[count] = true;
        }
        for (uint32_t i = 0; i < actual->keyword_count; i++) {
            if (!jx_same_text(actual->keywords[i].name, name))
                continue;
            if (given[count])
                return jx_fail(run, SP_EFORMAT, "%s: \"%.*s\" is given twice", what, (int)n, at);
            given[count] = true;
            ret[count] = actual->keywords[i].value;
            used++;
        }
        at += n + (at[n] == ' ');
    }
    if (actual->count > count)
        return jx_fail(run, SP_EFORMAT, "%s: takes at most %u arguments", what, count);
    if (used < actual->keyword_count)
        return jx_fail(run, SP_EFORMAT, "%s: an argument of that name is not known", what);
    return true;
}

bool jx_call(struct jx_run *run, struct jx callee, const struct jx_actual *actual, struct jx *ret)
{
    if (callee.type == JX_UNDEFINED)
        return jx_undefined_error(run, callee);
    if (callee.type == JX_FUNCTION)
        return callee.function->call(run, actual, ret);
    if (callee.type == JX_MACRO)
        return jx_call_macro(run, callee.macro, actual, jx_undefined("caller", 6), ret);
    if (callee.type != JX_METHOD)
        return jx_fail(run, SP_EFORMAT, "a %s can't be called", jx_type_name(callee));
    struct jx self = callee.method->self, name = callee.method->name;
    if (self.type == JX_STRING)
        return jx_string_method(run, self, name, actual, ret);
    if (self.type == JX_DICT)
        return jx_dict_method(run, self, name, actual, ret);
    if (self.type == JX_LOOP)
        return jx_loop_method(run, self, name, actual, ret);
    if (actual->count == 1 && actual->keyword_count == 0 && jx_is(name, "count")) {
        int64_t count = 0;
        for (size_t i = 0; i < self.list->count; i++) {
            bool equal;
            if (!jx_equal(run, self.list->items[i], actual->args[0], &equal))
                return false;
            count += equal;
        }
        *ret = jx_int(count);
        return true;
    }
    return jx_fail(run, SP_EUNSUPPORTED, "the list method %.*s", (int)name.length, name.s);
}

/* ---- nodes ---- */

static bool eval_name(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    uint64_t seen = 1;
    for (const struct jx_scope *scope = run->scope; scope != NULL; scope = scope->parent) {
        for (uint32_t i = scope->count; i-- > 0;) {
            if (jx_same_text(scope->vars[i].name, node->value)) {
                *ret = scope->vars[i].value;
                return jx_step(run, seen);
            }
        }
        seen += scope->count / 8;
    }
    const struct jx_function *function = jx_global(node->value);
    *ret = function != NULL ? (struct jx){.type = JX_FUNCTION, .function = function}
                            : jx_undefined(node->value.s, node->value.length);
    return jx_step(run, seen);
}

static bool eval_kids(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    if (node->kind != JX_DICT_OF) {
        enum jx_list_kind kind = node->kind == JX_TUPLE_OF ? JX_TUPLE : JX_PLAIN;
        if (!jx_new_list(run, kind, node->count, ret))
            return false;
        for (uint32_t i = 0; i < node->count; i++)
            if (!jx_eval(run, node->kids[i], &ret->list->items[i]))
                return false;
        return true;
    }
    if (!jx_new_dict(run, ret))
        return false;
    for (uint32_t i = 0; i < node->count; i += 2) {
        struct jx key, value;
        if (!jx_eval(run, node->kids[i], &key) || !jx_eval(run, node->kids[i + 1], &value) ||
            !jx_dict_put(run, ret->dict, key, value))
            return false;
    }
    return true;
}

static bool eval_concat(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    struct sp_buf out = SP_BUF_INIT;
    for (uint32_t i = 0; i < node->count; i++) {
        struct jx v;
        if (!jx_eval(run, node->kids[i], &v) || !jx_str(run, v, &out)) {
            sp_buf_deinit(&out);
            return false;
        }
    }
    return jx_take_buf(run, &out, ret);
}

static bool eval_compare(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    struct jx left, right;
    bool holds = true;
    if (!jx_eval(run, node->a, &left))
        return false;
    for (uint32_t i = 0; i < node->count && holds; i++) {
        if (!jx_eval(run, node->kids[i]->a, &right) ||
            !jx_compare(run, node->kids[i]->op, left, right, &holds))
            return false;
        left = right;
    }
    *ret = jx_bool(holds);
    return true;
}

static bool eval_words(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    for (uint32_t i = 0; i < node->count; i++) {
        if (!jx_eval(run, node->kids[i], ret))
            return false;
        if (jx_truth(*ret) == (node->kind == JX_OR))
            break;
    }
    return true;
}

static bool eval_sign(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    struct jx v;
    if (!jx_eval(run, node->a, &v))
        return false;
    if (v.type == JX_UNDEFINED)
        return jx_undefined_error(run, v);
    if (!jx_is_number(v))
        return jx_fail(run, SP_EFORMAT, "a sign before a %s", jx_type_name(v));
    if (v.type == JX_FLOAT) {
        *ret = jx_float(node->kind == JX_NEG ? -v.f : v.f);
        return true;
    }
    return jx_binary(run, node->kind == JX_NEG ? JX_SUB : JX_ADD, jx_int(0), v, ret);
}

static bool eval_applied(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    struct jx v;
    struct jx_actual actual;
    if (!jx_eval(run, node->a, &v) || !jx_eval_args(run, &node->args, &actual))
        return false;
    run->line = node->line;
    if (node->kind == JX_FILTER)
        return jx_filter(run, node->value, v, &actual, ret);
    if (node->kind == JX_CALL)
        return jx_call(run, v, &actual, ret);
    bool holds = false;
    if (!jx_test(run, node->value, v, &actual, &holds))
        return false;
    *ret = jx_bool(holds);
    return true;
}

static bool eval_cond(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    struct jx test;
    if (!jx_eval(run, node->b, &test))
        return false;
    if (jx_truth(test))
        return jx_eval(run, node->a, ret);
    if (node->c != NULL)
        return jx_eval(run, node->c, ret);
    *ret = jx_undefined("an if without else", 18);
    return true;
}

static bool eval_inner(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    struct jx a, b;
    switch (node->kind) {
    case JX_CONST:
        *ret = node->value;
        return true;
    case JX_HOLE:
        *ret = run->hole;
        return true;
    case JX_NAME:
        return eval_name(run, node, ret);
    case JX_LIST_OF:
    case JX_TUPLE_OF:
    case JX_DICT_OF:
        return eval_kids(run, node, ret);
    case JX_ATTR:
        return jx_eval(run, node->a, &a) && jx_attribute(run, a, node->value, ret);
    case JX_ITEM:
        return jx_eval(run, node->a, &a) && jx_eval(run, node->b, &b) && jx_item(run, a, b, ret);
    case JX_SLICE:
        return eval_slice(run, node, ret);
    case JX_CALL:
    case JX_FILTER:
    case JX_TEST:
        return eval_applied(run, node, ret);
    case JX_NOT:
        if (!jx_eval(run, node->a, &a))
            return false;
        *ret = jx_bool(!jx_truth(a));
        return true;
    case JX_AND:
    case JX_OR:
        return eval_words(run, node, ret);
    case JX_NEG:
    case JX_POS:
        return eval_sign(run, node, ret);
    case JX_BINARY:
        return jx_eval(run, node->a, &a) && jx_eval(run, node->b, &b) &&
               jx_binary(run, node->op, a, b, ret);
    case JX_CONCAT:
        return eval_concat(run, node, ret);
    case JX_COMPARE:
        return eval_compare(run, node, ret);
    case JX_COND:
        return eval_cond(run, node, ret);
    default:
        return jx_fail(run, SP_EINTERNAL, "no expression");
    }
}

bool jx_eval(struct jx_run *run, const struct jx_node *node, struct jx *ret)
{
    if (!jx_deeper(run) || !jx_step(run, 1))
        return false;
    uint32_t line = run->line;
    run->line = node->line;
    bool ok = eval_inner(run, node, ret);
    if (ok) {
        run->line = line;
        run->depth--;
    }
    return ok;
}

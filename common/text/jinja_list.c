/* Filters of sequences. Their semantics are those of Jinja2's filters.py (3.1). */
#include <stdlib.h>

#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

/* item.a.b for the attribute "a.b"; a part of digits is an index. */
static bool get_path(struct jx_run *run, struct jx item, struct jx path, struct jx *ret)
{
    if (path.type != JX_STRING)
        return jx_item(run, item, path, ret);
    for (size_t at = 0; at <= path.length;) {
        const char *dot = at < path.length ? memchr(path.s + at, '.', path.length - at) : NULL;
        size_t end = dot != NULL ? (size_t)(dot - path.s) : path.length;
        struct jx part = jx_text(path.s + at, end - at), value;
        bool digits = part.length > 0 && part.length < 10;
        int64_t number = 0;
        for (size_t i = 0; i < part.length && digits; i++) {
            digits = part.s[i] >= '0' && part.s[i] <= '9';
            number = number * 10 + (part.s[i] - '0');
        }
        if (!jx_item(run, item, digits ? jx_int(number) : part, &value))
            return false;
        item = value;
        at = end + 1;
    }
    *ret = item;
    return true;
}

static bool append(struct jx_run *run, struct jx list, struct jx item)
{
    list.list->items[list.list->count++] = item;
    return jx_step(run, 1);
}

/* A list with room for `count` items, none yet. */
static bool empty_list(struct jx_run *run, enum jx_list_kind kind, size_t count, struct jx *ret)
{
    if (!jx_new_list(run, kind, count, ret))
        return false;
    ret->list->count = 0;
    return true;
}

/* What a lazy filter goes over; *ret_done: *ret is its result already, because there is nothing to
 * go over, or because that will fail when the result is used. */
static bool lazy_items(struct jx_run *run, struct jx v, const struct jx **items, size_t *count,
                       struct jx *ret, bool *ret_done)
{
    bool iterable =
        v.type == JX_UNDEFINED || v.type == JX_STRING || v.type == JX_DICT || v.type == JX_LIST;
    *ret_done = !jx_truth(v) || !iterable;
    if (!*ret_done)
        return jx_iterate(run, v, items, count);
    if (!empty_list(run, JX_GENERATOR, 0, ret))
        return false;
    ret->list->failing = jx_truth(v);
    return true;
}

/* ---- map, select … ---- */

static struct jx_actual rest_of(const struct jx_actual *actual, uint32_t skip)
{
    return (struct jx_actual){.args = actual->count > skip ? actual->args + skip : NULL,
                              .count = actual->count - skip,
                              .keywords = actual->keywords,
                              .keyword_count = actual->keyword_count};
}

static bool f_map(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx options[] = {jx_none(), jx_undefined("", 0)};
    const struct jx *items;
    size_t count;
    bool attribute = actual->count == 0;
    struct jx_actual rest = {0};
    if (attribute && !jx_bind(run, "map", actual, "attribute default", options))
        return false;
    if (!attribute) {
        rest = rest_of(actual, 1);
        if (actual->args[0].type != JX_STRING || !jx_is_filter_name(actual->args[0]))
            return jx_fail(run, SP_EFORMAT, "map: no filter has this name");
    } else if (options[0].type == JX_NONE) {
        return jx_fail(run, SP_EFORMAT, "map: takes a filter or attribute=");
    }
    bool done;
    if (!lazy_items(run, v, &items, &count, ret, &done))
        return false;
    if (done)
        return true;
    if (!empty_list(run, JX_GENERATOR, count, ret))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jx item;
        if (attribute && !get_path(run, items[i], options[0], &item))
            return false;
        if (attribute && item.type == JX_UNDEFINED && options[1].type != JX_UNDEFINED)
            item = options[1];
        if (!attribute && !jx_filter(run, actual->args[0], items[i], &rest, &item))
            return false;
        if (!append(run, *ret, item))
            return false;
    }
    return true;
}

static bool f_select(struct jx_run *run, struct jx name, struct jx v,
                     const struct jx_actual *actual, struct jx *ret)
{
    bool keep = name.s[0] == 's', attribute = name.length > 6; /* selectattr, rejectattr */
    uint32_t skip = attribute;
    const struct jx *items;
    size_t count;
    if (attribute && actual->count == 0)
        return jx_fail(run, SP_EFORMAT, "%.*s: takes an attribute", (int)name.length, name.s);
    bool tests = actual->count > skip;
    struct jx_actual rest = rest_of(actual, tests ? skip + 1 : skip);
    if (tests && (actual->args[skip].type != JX_STRING || !jx_is_test_name(actual->args[skip])))
        return jx_fail(run, SP_EFORMAT, "%.*s: no test has this name", (int)name.length, name.s);
    bool done;
    if (!lazy_items(run, v, &items, &count, ret, &done))
        return false;
    if (done)
        return true;
    if (!empty_list(run, JX_GENERATOR, count, ret))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jx item = items[i];
        bool holds;
        if (attribute && !get_path(run, items[i], actual->args[0], &item))
            return false;
        holds = jx_truth(item);
        if (tests && !jx_test(run, actual->args[skip], item, &rest, &holds))
            return false;
        if (holds == keep && !append(run, *ret, items[i]))
            return false;
    }
    return true;
}

/* ---- order ---- */

struct key {
    struct jx key, item;
};

static bool make_key(struct jx_run *run, struct jx item, struct jx attribute, bool case_sensitive,
                     struct jx *ret)
{
    *ret = item;
    if (attribute.type == JX_STRING && attribute.length > 0 &&
        memchr(attribute.s, ',', attribute.length) != NULL)
        return jx_fail(run, SP_EUNSUPPORTED, "sorting by several attributes");
    if (attribute.type != JX_NONE && !get_path(run, item, attribute, ret))
        return false;
    return ret->type != JX_STRING || case_sensitive || jx_change_case(run, *ret, "lower", ret);
}

static bool make_keys(struct jx_run *run, const struct jx *items, size_t count, struct jx attribute,
                      bool case_sensitive, struct key **ret)
{
    struct key *keys = jx_take(run, 2 * count + 1, sizeof(*keys));
    if (keys == NULL)
        return false;
    for (size_t i = 0; i < count; i++) {
        keys[i].item = items[i];
        if (!make_key(run, items[i], attribute, case_sensitive, &keys[i].key))
            return false;
    }
    *ret = keys;
    return true;
}

/* The keys of `sort` are lists of one item, so equal ones need no order. */
static bool key_less(struct jx_run *run, struct jx a, struct jx b, bool listed, bool *ret)
{
    bool equal = false;
    if (listed && !jx_equal(run, a, b, &equal))
        return false;
    *ret = false;
    return equal || jx_less(run, a, b, ret);
}

/* Stable, by merging; the second half of keys[0 .. 2 * count) is scratch. */
static bool sort_keys(struct jx_run *run, struct key *keys, size_t count, bool listed, bool reverse)
{
    struct key *from = keys, *to = keys + count;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t middle = SP_MIN(start + width, count), end = SP_MIN(start + 2 * width, count);
            size_t a = start, b = middle;
            for (size_t at = start; at < end; at++) {
                bool second = a == middle;
                if (a < middle && b < end &&
                    !key_less(run, reverse ? from[a].key : from[b].key,
                              reverse ? from[b].key : from[a].key, listed, &second))
                    return false;
                to[at] = second && b < end ? from[b++] : from[a++];
            }
        }
        struct key *swap = from;
        from = to;
        to = swap;
        if (!jx_step(run, 1 + count))
            return false;
    }
    if (from != keys)
        memcpy(keys, from, count * sizeof(*keys));
    return true;
}

static bool f_sort(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx options[] = {jx_bool(false), jx_bool(false), jx_none()};
    const struct jx *items;
    size_t count;
    struct key *keys;
    if (!jx_bind(run, "sort", actual, "reverse case_sensitive attribute", options) ||
        !jx_iterate(run, v, &items, &count) ||
        !make_keys(run, items, count, options[2], jx_truth(options[1]), &keys) ||
        !sort_keys(run, keys, count, true, jx_truth(options[0])) ||
        !jx_new_list(run, JX_PLAIN, count, ret))
        return false;
    for (size_t i = 0; i < count; i++)
        ret->list->items[i] = keys[i].item;
    return true;
}

static bool pair(struct jx_run *run, struct jx a, struct jx b, struct jx *ret)
{
    if (!jx_new_list(run, JX_TUPLE, 2, ret))
        return false;
    ret->list->items[0] = a;
    ret->list->items[1] = b;
    return true;
}

static bool f_dictsort(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                       struct jx *ret)
{
    struct jx options[] = {jx_bool(false), jx_word("key"), jx_bool(false)};
    struct key *keys;
    if (!jx_bind(run, "dictsort", actual, "case_sensitive by reverse", options))
        return false;
    if (v.type != JX_DICT)
        return jx_fail(run, SP_EFORMAT, "dictsort of a %s", jx_type_name(v));
    bool by_value = options[1].type == JX_STRING && jx_is(options[1], "value");
    if (!by_value && (options[1].type != JX_STRING || !jx_is(options[1], "key")))
        return jx_fail(run, SP_EFORMAT, "dictsort: by is key or value");
    size_t count = v.dict->count;
    if (!make_keys(run, by_value ? v.dict->values : v.dict->keys, count, jx_none(),
                   jx_truth(options[0]), &keys))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!pair(run, v.dict->keys[i], v.dict->values[i], &keys[i].item))
            return false;
    if (!sort_keys(run, keys, count, false, jx_truth(options[2])) ||
        !jx_new_list(run, JX_PLAIN, count, ret))
        return false;
    for (size_t i = 0; i < count; i++)
        ret->list->items[i] = keys[i].item;
    return true;
}

static bool f_extreme(struct jx_run *run, struct jx v, const struct jx_actual *actual, bool largest,
                      struct jx *ret)
{
    struct jx options[] = {jx_bool(false), jx_none()};
    const struct jx *items;
    size_t count;
    struct key *keys;
    if (!jx_bind(run, "min, max", actual, "case_sensitive attribute", options) ||
        !jx_iterate(run, v, &items, &count) ||
        !make_keys(run, items, count, options[1], jx_truth(options[0]), &keys))
        return false;
    *ret = jx_undefined("an item of an empty list", 24);
    size_t best = 0;
    for (size_t i = 1; i < count; i++) {
        bool better;
        if (!jx_less(run, largest ? keys[best].key : keys[i].key,
                     largest ? keys[i].key : keys[best].key, &better))
            return false;
        best = better ? i : best;
    }
    if (count > 0)
        *ret = keys[best].item;
    return true;
}

static bool f_unique(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                     struct jx *ret)
{
    struct jx options[] = {jx_bool(false), jx_none()};
    const struct jx *items;
    size_t count;
    struct key *keys;
    if (!jx_bind(run, "unique", actual, "case_sensitive attribute", options) ||
        !jx_iterate(run, v, &items, &count) ||
        !make_keys(run, items, count, options[1], jx_truth(options[0]), &keys) ||
        !empty_list(run, JX_GENERATOR, count, ret))
        return false;
    for (size_t i = 0; i < count; i++) {
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++)
            if (!jx_step(run, 1) || !jx_equal(run, keys[i].key, keys[j].key, &seen))
                return false;
        if (!seen && !append(run, *ret, items[i]))
            return false;
    }
    return true;
}

static bool f_reverse(struct jx_run *run, struct jx v, struct jx *ret)
{
    const struct jx *items;
    size_t count;
    if (v.type == JX_LIST && v.list->kind == JX_GENERATOR)
        return jx_fail(run, SP_EUNSUPPORTED, "reverse of a generator: make a list of it");
    if (!jx_iterate(run, v, &items, &count))
        return false;
    if (v.type != JX_STRING) {
        if (!jx_new_list(run, JX_GENERATOR, count, ret))
            return false;
        for (size_t i = 0; i < count; i++)
            ret->list->items[i] = items[count - 1 - i];
        return jx_step(run, 1 + count);
    }
    struct sp_buf out = SP_BUF_INIT;
    for (size_t i = count; i-- > 0;)
        sp_buf_append(&out, items[i].s, items[i].length);
    if (!jx_take_buf(run, &out, ret))
        return false;
    ret->markup = v.markup;
    return true;
}

/* ---- the rest ---- */

static bool f_join(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx options[] = {jx_text("", 0), jx_none()}, glue;
    const struct jx *items;
    size_t count;
    if (!jx_bind(run, "join", actual, "d attribute", options) ||
        !jx_iterate(run, v, &items, &count) || !jx_to_string(run, options[0], &glue))
        return false;
    struct sp_buf out = SP_BUF_INIT;
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        struct jx item = items[i];
        ok = (options[1].type == JX_NONE || get_path(run, items[i], options[1], &item)) &&
             (i == 0 || jx_str(run, glue, &out)) && jx_str(run, item, &out);
    }
    if (!ok) {
        sp_buf_deinit(&out);
        return false;
    }
    return jx_take_buf(run, &out, ret);
}

static bool f_end(struct jx_run *run, struct jx v, bool last, struct jx *ret)
{
    const struct jx *items;
    size_t count;
    if (last && v.type == JX_LIST && v.list->kind == JX_GENERATOR)
        return jx_fail(run, SP_EFORMAT, "last of a generator");
    if (!jx_iterate(run, v, &items, &count))
        return false;
    *ret = count > 0 ? items[last ? count - 1 : 0] : jx_undefined("an item of an empty list", 24);
    if (last && count > 0 && v.type == JX_STRING)
        ret->markup = v.markup; /* Markup is iterated as str, but indexed backwards */
    return true;
}

static bool f_list(struct jx_run *run, struct jx v, struct jx *ret)
{
    const struct jx *items;
    size_t count;
    if (!jx_iterate(run, v, &items, &count) || !jx_step(run, 1 + count) ||
        !jx_new_list(run, JX_PLAIN, count, ret))
        return false;
    if (count > 0)
        memcpy(ret->list->items, items, count * sizeof(*items));
    return true;
}

static bool f_items(struct jx_run *run, struct jx v, struct jx *ret)
{
    size_t count = v.type == JX_DICT ? v.dict->count : 0;
    if (!jx_new_list(run, JX_GENERATOR, count, ret))
        return false;
    ret->list->failing = v.type != JX_DICT && v.type != JX_UNDEFINED;
    for (size_t i = 0; i < count; i++)
        if (!pair(run, v.dict->keys[i], v.dict->values[i], &ret->list->items[i]))
            return false;
    return true;
}

static bool f_sum(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    struct jx options[] = {jx_none(), jx_int(0)};
    const struct jx *items;
    size_t count;
    if (!jx_bind(run, "sum", actual, "attribute start", options) ||
        !jx_iterate(run, v, &items, &count))
        return false;
    *ret = options[1];
    for (size_t i = 0; i < count; i++) {
        struct jx item = items[i];
        if (options[0].type != JX_NONE && !get_path(run, items[i], options[0], &item))
            return false;
        if (ret->type == JX_FLOAT || item.type == JX_FLOAT)
            return jx_fail(run, SP_EUNSUPPORTED, "sum of numbers with a fraction");
        if (!jx_step(run, 1) || !jx_binary(run, JX_ADD, *ret, item, ret))
            return false;
    }
    return true;
}

static bool f_attr(struct jx_run *run, struct jx v, const struct jx_actual *actual, struct jx *ret)
{
    if (v.type == JX_NAMESPACE && actual->count == 1 && actual->args[0].type == JX_STRING)
        return jx_attribute(run, v, actual->args[0], ret);
    return jx_fail(run, SP_EUNSUPPORTED, "the filter attr of a %s", jx_type_name(v));
}

bool jx_list_filter(struct jx_run *run, struct jx name, struct jx v, const struct jx_actual *actual,
                    struct jx *ret, bool *ret_known)
{
    bool bare = actual->count + actual->keyword_count == 0;
    *ret_known = true;
    if (jx_is(name, "join"))
        return f_join(run, v, actual, ret);
    if (jx_is(name, "map"))
        return f_map(run, v, actual, ret);
    if (jx_is(name, "select") || jx_is(name, "reject") || jx_is(name, "selectattr") ||
        jx_is(name, "rejectattr"))
        return f_select(run, name, v, actual, ret);
    if (jx_is(name, "sort"))
        return f_sort(run, v, actual, ret);
    if (jx_is(name, "dictsort"))
        return f_dictsort(run, v, actual, ret);
    if (jx_is(name, "min") || jx_is(name, "max"))
        return f_extreme(run, v, actual, jx_is(name, "max"), ret);
    if (jx_is(name, "unique"))
        return f_unique(run, v, actual, ret);
    if (jx_is(name, "sum"))
        return f_sum(run, v, actual, ret);
    if (jx_is(name, "attr"))
        return f_attr(run, v, actual, ret);
    if (bare && (jx_is(name, "first") || jx_is(name, "last")))
        return f_end(run, v, jx_is(name, "last"), ret);
    if (bare && jx_is(name, "list"))
        return f_list(run, v, ret);
    if (bare && jx_is(name, "items"))
        return f_items(run, v, ret);
    if (bare && jx_is(name, "reverse"))
        return f_reverse(run, v, ret);
    *ret_known = false;
    return true;
}

/* Cutting a text: split, rsplit, splitlines, partition of Python's str. */
#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

/* A list that grows by doubling. */
static bool add_piece(struct jx_run *run, struct jx_list *list, struct jx piece)
{
    size_t n = list->count;
    if (n == 0 || (n >= 4 && (n & (n - 1)) == 0)) {
        struct jx *more = jx_take(run, n == 0 ? 4 : 2 * n, sizeof(*more));
        if (more == NULL)
            return false;
        if (n > 0)
            memcpy(more, list->items, n * sizeof(*more));
        list->items = more;
    }
    list->items[list->count++] = piece;
    return jx_step(run, 1);
}

static void reverse_items(struct jx_list *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        struct jx swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
}

static bool split_space(struct jx_run *run, struct jx v, int64_t most, struct jx_list *list)
{
    for (;;) {
        v = jx_strip(v, NULL, true, false);
        if (v.length == 0)
            return true;
        if (most >= 0 && (int64_t)list->count == most)
            return add_piece(run, list, v);
        size_t end = 0;
        while (end < v.length) {
            size_t next = end;
            if (jx_python_space(tok_utf8_next(v.s, &next)))
                break;
            end = next;
        }
        if (!add_piece(run, list, jx_part(v, 0, end)))
            return false;
        v = jx_part(v, end, v.length);
    }
}

static bool rsplit_space(struct jx_run *run, struct jx v, int64_t most, struct jx_list *list)
{
    for (;;) {
        v = jx_strip(v, NULL, false, true);
        if (v.length == 0)
            break;
        if (most >= 0 && (int64_t)list->count == most) {
            if (!add_piece(run, list, v))
                return false;
            break;
        }
        size_t start = v.length;
        while (start > 0) {
            size_t before = tok_utf8_before(v.s, start), next = before;
            if (jx_python_space(tok_utf8_next(v.s, &next)))
                break;
            start = before;
        }
        if (!add_piece(run, list, jx_part(v, start, v.length)))
            return false;
        v = jx_part(v, 0, start);
    }
    reverse_items(list);
    return true;
}

static bool split_text(struct jx_run *run, struct jx v, struct jx sep, int64_t most,
                       struct jx_list *list)
{
    size_t at = 0;
    while (most < 0 || (int64_t)list->count < most) {
        const char *hit = memmem(v.s + at, v.length - at, sep.s, sep.length);
        if (hit == NULL)
            break;
        if (!add_piece(run, list, jx_part(v, at, (size_t)(hit - v.s))))
            return false;
        at = (size_t)(hit - v.s) + sep.length;
    }
    return add_piece(run, list, jx_part(v, at, v.length));
}

/* The last place of `what` in v[0..end); -1: none. */
int64_t jx_find_last(struct jx v, size_t end, struct jx what)
{
    for (size_t at = end + 1; at-- > what.length;)
        if (memcmp(v.s + at - what.length, what.s, what.length) == 0)
            return (int64_t)(at - what.length);
    return -1;
}

static bool rsplit_text(struct jx_run *run, struct jx v, struct jx sep, int64_t most,
                        struct jx_list *list)
{
    size_t end = v.length;
    while (most < 0 || (int64_t)list->count < most) {
        int64_t hit = jx_find_last(v, end, sep);
        if (hit < 0)
            break;
        if (!jx_step(run, 1 + (end - (size_t)hit) / 256) ||
            !add_piece(run, list, jx_part(v, (size_t)hit + sep.length, end)))
            return false;
        end = (size_t)hit;
    }
    bool ok = add_piece(run, list, jx_part(v, 0, end));
    reverse_items(list);
    return ok;
}

bool jx_split(struct jx_run *run, struct jx v, const struct jx_actual *actual, bool right,
              struct jx *ret)
{
    struct jx options[] = {jx_none(), jx_int(-1)};
    if (!jx_bind(run, "split", actual, "sep maxsplit", options) ||
        !jx_new_list(run, JX_PLAIN, 0, ret))
        return false;
    struct jx sep = options[0];
    if (!jx_is_integer(options[1]))
        return jx_fail(run, SP_EFORMAT, "split: maxsplit is no whole number");
    int64_t most = jx_integer(options[1]);
    if (sep.type == JX_NONE)
        return right ? rsplit_space(run, v, most, ret->list) : split_space(run, v, most, ret->list);
    if (sep.type != JX_STRING || sep.length == 0)
        return jx_fail(run, SP_EFORMAT, "split: the separator is empty or no text");
    return right ? rsplit_text(run, v, sep, most, ret->list)
                 : split_text(run, v, sep, most, ret->list);
}

static bool is_line_end(uint32_t code)
{
    return (code >= 0x0a && code <= 0x0d) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

bool jx_split_lines(struct jx_run *run, struct jx v, bool keep_ends, struct jx *ret)
{
    if (!jx_new_list(run, JX_PLAIN, 0, ret))
        return false;
    size_t from = 0;
    for (size_t at = 0; at < v.length;) {
        size_t end = at;
        uint32_t code = tok_utf8_next(v.s, &at);
        if (!is_line_end(code))
            continue;
        at += code == '\r' && at < v.length && v.s[at] == '\n';
        if (!add_piece(run, ret->list, jx_part(v, from, keep_ends ? at : end)))
            return false;
        from = at;
    }
    return from == v.length || add_piece(run, ret->list, jx_part(v, from, v.length));
}

bool jx_partition(struct jx_run *run, struct jx v, const struct jx_actual *actual, bool last,
                  struct jx *ret)
{
    struct jx word = jx_none();
    if (!jx_one_text(run, "partition", actual, &word) || !jx_new_list(run, JX_TUPLE, 3, ret) ||
        !jx_step(run, 1 + v.length / 256))
        return false;
    if (word.length == 0)
        return jx_fail(run, SP_EFORMAT, "partition: the separator is empty");
    struct jx *items = ret->list->items;
    const char *hit = memmem(v.s, v.length, word.s, word.length);
    int64_t at = last ? jx_find_last(v, v.length, word) : hit != NULL ? hit - v.s : -1;
    items[0] = items[1] = items[2] = jx_text("", 0);
    if (at < 0) {
        items[last ? 2 : 0] = v;
        return true;
    }
    items[0] = jx_part(v, 0, (size_t)at);
    items[1] = word;
    items[2] = jx_part(v, (size_t)at + word.length, v.length);
    return true;
}

/* Methods of Python's str, as far as templates use them. */
#include <utf8proc.h>

#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

bool jx_python_space(uint32_t code)
{
    return tok_is_space(code) || (code >= 0x1c && code <= 0x1f);
}

size_t jx_char_count(struct jx v)
{
    size_t count = 0;
    for (size_t i = 0; i < v.length; i++)
        count += ((unsigned char)v.s[i] & 0xc0) != 0x80;
    return count;
}

size_t jx_char_offset(struct jx v, size_t chars)
{
    size_t at = 0;
    while (chars-- > 0 && at < v.length)
        at += tok_utf8_length((unsigned char)v.s[at]);
    return at;
}

static bool in_chars(struct jx chars, const char *s, size_t n)
{
    for (size_t at = 0; at < chars.length;) {
        size_t m = tok_utf8_length((unsigned char)chars.s[at]);
        if (m == n && memcmp(chars.s + at, s, n) == 0)
            return true;
        at += m;
    }
    return false;
}

static bool strips(const struct jx *chars, const char *s, size_t n)
{
    size_t at = 0;
    return chars != NULL ? in_chars(*chars, s, n) : jx_python_space(tok_utf8_next(s, &at));
}

struct jx jx_strip(struct jx v, const struct jx *chars, bool left, bool right)
{
    while (left && v.length > 0) {
        size_t n = tok_utf8_length((unsigned char)v.s[0]);
        if (!strips(chars, v.s, n))
            break;
        v.s += n;
        v.length -= (uint32_t)n;
    }
    while (right && v.length > 0) {
        size_t before = tok_utf8_before(v.s, v.length);
        if (!strips(chars, v.s + before, v.length - before))
            break;
        v.length = (uint32_t)before;
    }
    return v;
}

/* ---- cases ---- */

/* Characters whose upper, lower or title case is several characters or depends on their neighbours
 * (SpecialCasing.txt). */
static bool has_special_case(uint32_t code, bool lower)
{
    if (lower)
        return code == 0x130 || code == 0x3a3;
    return code == 0xdf || code == 0x149 || code == 0x1f0 || code == 0x390 || code == 0x3b0 ||
           code == 0x587 || (code >= 0x1e96 && code <= 0x1e9a) ||
           (code >= 0x1f50 && code <= 0x1f56) || (code >= 0x1f80 && code <= 0x1ffc) ||
           (code >= 0xfb00 && code <= 0xfb17);
}

static bool is_cased(uint32_t code)
{
    if (code < 0x80)
        return (code | 0x20) >= 'a' && (code | 0x20) <= 'z';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

static bool put_case(struct jx_run *run, struct sp_buf *out, uint32_t code, char how)
{
    if (has_special_case(code, how == 'l'))
        return jx_fail(run, SP_EUNSUPPORTED, "changing the case of U+%04X", code);
    utf8proc_int32_t c = (utf8proc_int32_t)code;
    c = how == 'l' ? utf8proc_tolower(c) : how == 'u' ? utf8proc_toupper(c) : utf8proc_totitle(c);
    tok_utf8_append(out, (uint32_t)c);
    return true;
}

/* how: "lower", "upper", "capitalize", "title" (str.title), "words" (the filter title), "swapcase"
 */
bool jx_change_case(struct jx_run *run, struct jx v, const char *how, struct jx *ret)
{
    struct sp_buf out = SP_BUF_INIT;
    bool first = true, ok = jx_step(run, 1 + v.length / 16);
    for (size_t at = 0; at < v.length && ok;) {
        size_t from = at;
        uint32_t code = tok_utf8_next(v.s, &at);
        char to = how[0] == 'l' ? 'l' : how[0] == 'u' ? 'u' : first ? 't' : 'l';
        if (how[0] == 'w' && first)
            to = 'u';
        if (how[0] == 's') {
            utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
            to = c == UTF8PROC_CATEGORY_LU ? 'l' : 'u';
        }
        if (how[0] == 'c' || how[0] == 'w')
            first = how[0] == 'w' && (code == '-' || code == '(' || code == '{' || code == '[' ||
                                      code == '<' || jx_python_space(code));
        else
            first = !is_cased(code);
        if (code >= 0x80)
            ok = put_case(run, &out, code, to);
        else if (to == 'l')
            sp_buf_putc(&out, code >= 'A' && code <= 'Z' ? (char)(code + 32) : v.s[from]);
        else
            sp_buf_putc(&out, code >= 'a' && code <= 'z' ? (char)(code - 32) : v.s[from]);
    }
    if (!ok) {
        sp_buf_deinit(&out);
        return false;
    }
    if (!jx_take_buf(run, &out, ret))
        return false;
    ret->markup = v.markup && how[0] != 'w';
    return true;
}

/* ---- pieces ---- */

bool jx_replace(struct jx_run *run, struct jx v, struct jx old, struct jx new, int64_t most,
                struct jx *ret)
{
    struct sp_buf out = SP_BUF_INIT;
    size_t at = 0;
    bool ok = true;
    for (int64_t done = 0; ok && (most < 0 || done < most); done++) {
        size_t hit = at;
        if (old.length > 0) {
            const char *found = memmem(v.s + at, v.length - at, old.s, old.length);
            if (found == NULL)
                break;
            hit = (size_t)(found - v.s);
        } else if (done > 0) { /* between the characters */
            if (at == v.length)
                break;
            hit = at + tok_utf8_length((unsigned char)v.s[at]);
        }
        sp_buf_append(&out, v.s + at, hit - at);
        sp_buf_append(&out, new.s, new.length);
        at = hit + old.length;
        ok = jx_step(run, 1 + new.length / 256) && jx_check_size(run, out.length);
    }
    if (ok && v.length > at)
        sp_buf_append(&out, v.s + at, v.length - at);
    if (!ok) {
        sp_buf_deinit(&out);
        return false;
    }
    return jx_take_buf(run, &out, ret);
}

struct jx jx_part(struct jx v, size_t from, size_t to)
{
    return jx_text(v.s + from, to - from);
}

/* ---- methods ---- */

bool jx_one_text(struct jx_run *run, const char *what, const struct jx_actual *actual,
                 struct jx *ret)
{
    if (actual->keyword_count > 0 || actual->count != 1 || actual->args[0].type != JX_STRING)
        return jx_fail(run, SP_EUNSUPPORTED, "%s: anything but one text as its argument", what);
    *ret = actual->args[0];
    return true;
}

static bool strip_method(struct jx_run *run, struct jx v, const struct jx_actual *actual, bool left,
                         bool right, struct jx *ret)
{
    struct jx chars = jx_none();
    if (actual->count > 0 && actual->args[0].type != JX_NONE &&
        !jx_one_text(run, "strip", actual, &chars))
        return false;
    if (actual->keyword_count > 0 || actual->count > 1)
        return jx_fail(run, SP_EFORMAT, "strip: too many arguments");
    *ret = jx_strip(v, chars.type == JX_STRING ? &chars : NULL, left, right);
    return jx_step(run, 1 + v.length / 256);
}

static bool affix(struct jx v, struct jx word, bool start)
{
    if (word.length > v.length)
        return false;
    return word.length == 0 ||
           memcmp(start ? v.s : v.s + v.length - word.length, word.s, word.length) == 0;
}

static bool starts_or_ends(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                           bool start, struct jx *ret)
{
    struct jx words = actual->count == 1 ? actual->args[0] : jx_none();
    *ret = jx_bool(false);
    if (words.type != JX_LIST || words.list->kind != JX_TUPLE) {
        if (!jx_one_text(run, start ? "startswith" : "endswith", actual, &words))
            return false;
        ret->b = affix(v, words, start);
        return true;
    }
    for (size_t i = 0; i < words.list->count; i++) {
        struct jx word = words.list->items[i];
        if (word.type != JX_STRING)
            return jx_fail(run, SP_EFORMAT, "startswith, endswith: a tuple of anything but texts");
        ret->b = ret->b || affix(v, word, start);
    }
    return jx_step(run, 1 + words.list->count);
}

static bool find_method(struct jx_run *run, struct jx v, struct jx name,
                        const struct jx_actual *actual, struct jx *ret)
{
    struct jx word = jx_none();
    if (!jx_one_text(run, "find", actual, &word) || !jx_step(run, 1 + v.length / 256))
        return false;
    bool last = name.s[0] == 'r';
    int64_t at = -1;
    if (last) {
        at = jx_find_last(v, v.length, word);
    } else {
        const char *hit = word.length == 0 ? v.s : memmem(v.s, v.length, word.s, word.length);
        at = hit != NULL ? hit - v.s : -1;
    }
    if (at < 0 && (jx_is(name, "index") || jx_is(name, "rindex")))
        return jx_fail(run, SP_EFORMAT, "index: the text is not found");
    *ret = jx_int(at < 0 ? -1 : (int64_t)jx_char_count(jx_part(v, 0, (size_t)at)));
    return true;
}

static bool count_method(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                         struct jx *ret)
{
    struct jx word = jx_none();
    if (!jx_one_text(run, "count", actual, &word) || !jx_step(run, 1 + v.length / 256))
        return false;
    int64_t count = 0;
    if (word.length == 0)
        count = (int64_t)jx_char_count(v) + 1;
    for (size_t at = 0; word.length > 0;) {
        const char *hit = memmem(v.s + at, v.length - at, word.s, word.length);
        if (hit == NULL)
            break;
        count++;
        at = (size_t)(hit - v.s) + word.length;
    }
    *ret = jx_int(count);
    return true;
}

static bool replace_method(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                           struct jx *ret)
{
    struct jx options[] = {jx_none(), jx_none(), jx_int(-1)};
    if (!jx_bind(run, "replace", actual, "old new count", options))
        return false;
    if (options[0].type != JX_STRING || options[1].type != JX_STRING || !jx_is_integer(options[2]))
        return jx_fail(run, SP_EFORMAT, "replace: takes two texts and perhaps a count");
    return jx_replace(run, v, options[0], options[1], jx_integer(options[2]), ret);
}

static bool join_method(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                        struct jx *ret)
{
    const struct jx *items;
    size_t count;
    struct sp_buf out = SP_BUF_INIT;
    if (actual->count != 1 || actual->keyword_count > 0)
        return jx_fail(run, SP_EFORMAT, "join: takes one list");
    if (!jx_iterate(run, actual->args[0], &items, &count))
        return false;
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        if (items[i].type != JX_STRING)
            ok = jx_fail(run, SP_EFORMAT, "join: an item is no text");
        else if (i > 0)
            ok = jx_str(run, v, &out);
        ok = ok && jx_str(run, items[i], &out);
    }
    if (!ok) {
        sp_buf_deinit(&out);
        return false;
    }
    return jx_take_buf(run, &out, ret);
}

static bool remove_affix(struct jx_run *run, struct jx v, const struct jx_actual *actual,
                         bool start, struct jx *ret)
{
    struct jx word = jx_none();
    if (!jx_one_text(run, start ? "removeprefix" : "removesuffix", actual, &word))
        return false;
    *ret = v;
    if (affix(v, word, start))
        *ret = start ? jx_part(v, word.length, v.length) : jx_part(v, 0, v.length - word.length);
    return true;
}

static bool is_class(const char *name, uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    if (strcmp(name, "isspace") == 0)
        return jx_python_space(code);
    if (strcmp(name, "isdecimal") == 0)
        return c == UTF8PROC_CATEGORY_ND;
    if (strcmp(name, "isascii") == 0)
        return code < 0x80;
    if (strcmp(name, "isalpha") == 0)
        return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) || c == UTF8PROC_CATEGORY_ND;
}

/* isdigit, isalnum, isnumeric depend on properties that no table here has, beyond decimals. */
static bool class_method(struct jx_run *run, struct jx v, const char *name, struct jx *ret)
{
    bool upper = strcmp(name, "isupper") == 0, lower = strcmp(name, "islower") == 0, cased = false;
    bool digit = strcmp(name, "isdigit") == 0, numeric = strcmp(name, "isnumeric") == 0;
    *ret = jx_bool(v.length > 0 || strcmp(name, "isascii") == 0);
    for (size_t at = 0; at < v.length;) {
        uint32_t code = tok_utf8_next(v.s, &at);
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
        if (upper || lower) {
            bool right = c == (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL);
            ret->b = ret->b && (right || !is_cased(code));
            cased = cased || right;
            continue;
        }
        if (code >= 0x80 && (tok_is_number(code) && c != UTF8PROC_CATEGORY_ND))
            return jx_fail(run, SP_EUNSUPPORTED, "%s of U+%04X", name, code);
        ret->b = ret->b && is_class(digit || numeric ? "isdecimal" : name, code);
    }
    if (upper || lower)
        ret->b = ret->b && cased;
    return jx_step(run, 1 + v.length / 16);
}

static bool pad_method(struct jx_run *run, struct jx v, struct jx name,
                       const struct jx_actual *actual, struct jx *ret)
{
    bool zeros = jx_is(name, "zfill");
    struct jx fill = zeros ? jx_text("0", 1) : jx_text(" ", 1);
    if (actual->count < 1 || actual->count > (zeros ? 1u : 2u) || actual->keyword_count > 0 ||
        !jx_is_integer(actual->args[0]) ||
        (actual->count == 2 && actual->args[1].type != JX_STRING))
        return jx_fail(run, SP_EFORMAT, "%.*s: takes a width", (int)name.length, name.s);
    if (actual->count == 2)
        fill = actual->args[1];
    int64_t width = jx_integer(actual->args[0]), missing = width - (int64_t)jx_char_count(v);
    if (jx_char_count(fill) != 1 || !jx_check_size(run, (size_t)SP_MAX(width, (int64_t)0)))
        return run->rc != SP_OK ? false : jx_fail(run, SP_EFORMAT, "a fill of one character");
    missing = SP_MAX(missing, (int64_t)0);
    int64_t left = jx_is(name, "ljust") ? 0 : missing;
    if (jx_is(name, "center"))
        left = missing / 2 + (missing & width & 1);
    struct sp_buf out = SP_BUF_INIT;
    size_t sign = zeros && v.length > 0 && (v.s[0] == '-' || v.s[0] == '+');
    sp_buf_append(&out, v.s, sign);
    for (int64_t i = 0; i < left; i++)
        sp_buf_append(&out, fill.s, fill.length);
    sp_buf_append(&out, v.s + sign, v.length - sign);
    for (int64_t i = left; i < missing; i++)
        sp_buf_append(&out, fill.s, fill.length);
    return jx_take_buf(run, &out, ret);
}

/* Names of str's methods; those from `capitalize` to `zfill` in the first list are rendered. */
static const char *const rendered[] = {
    "capitalize",   "center",  "count",      "endswith",   "find",    "index",      "isalnum",
    "isalpha",      "isascii", "isdecimal",  "isdigit",    "islower", "isnumeric",  "isspace",
    "isupper",      "join",    "ljust",      "lower",      "lstrip",  "partition",  "removeprefix",
    "removesuffix", "replace", "rfind",      "rindex",     "rjust",   "rpartition", "rsplit",
    "rstrip",       "split",   "splitlines", "startswith", "strip",   "swapcase",   "title",
    "upper",        "zfill",
};
static const char *const refused[] = {
    "casefold",     "encode",  "expandtabs",  "format",    "format_map",
    "isidentifier", "istitle", "isprintable", "maketrans", "translate",
};

bool jx_string_method_known(struct jx name)
{
    for (size_t i = 0; i < SP_COUNT(rendered); i++)
        if (jx_is(name, rendered[i]))
            return true;
    for (size_t i = 0; i < SP_COUNT(refused); i++)
        if (jx_is(name, refused[i]))
            return true;
    return false;
}

static bool simple_method(struct jx_run *run, struct jx v, const char *name, struct jx *ret)
{
    if (name[0] == 'i')
        return class_method(run, v, name, ret);
    return jx_change_case(run, v, name, ret);
}

bool jx_string_method(struct jx_run *run, struct jx v, struct jx name,
                      const struct jx_actual *actual, struct jx *ret)
{
    static const char *const simple[] = {
        "capitalize", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower",
        "isnumeric",  "isspace", "isupper", "lower",   "swapcase",  "title",   "upper"};
    if (v.markup)
        return jx_fail(run, SP_EUNSUPPORTED, "a method of a safe text");
    for (size_t i = 0; i < SP_COUNT(simple); i++) {
        if (!jx_is(name, simple[i]))
            continue;
        if (actual->count + actual->keyword_count > 0)
            return jx_fail(run, SP_EFORMAT, "%s: takes no argument", simple[i]);
        return simple_method(run, v, simple[i], ret);
    }
    if (jx_is(name, "strip") || jx_is(name, "lstrip") || jx_is(name, "rstrip"))
        return strip_method(run, v, actual, name.s[0] != 'r', name.s[0] != 'l', ret);
    if (jx_is(name, "startswith") || jx_is(name, "endswith"))
        return starts_or_ends(run, v, actual, name.s[0] == 's', ret);
    if (jx_is(name, "split") || jx_is(name, "rsplit"))
        return jx_split(run, v, actual, name.s[0] == 'r', ret);
    if (jx_is(name, "find") || jx_is(name, "rfind") || jx_is(name, "index") ||
        jx_is(name, "rindex"))
        return find_method(run, v, name, actual, ret);
    if (jx_is(name, "partition") || jx_is(name, "rpartition"))
        return jx_partition(run, v, actual, name.s[0] == 'r', ret);
    if (jx_is(name, "removeprefix") || jx_is(name, "removesuffix"))
        return remove_affix(run, v, actual, name.s[6] == 'p', ret);
    if (jx_is(name, "ljust") || jx_is(name, "rjust") || jx_is(name, "center") ||
        jx_is(name, "zfill"))
        return pad_method(run, v, name, actual, ret);
    if (jx_is(name, "count"))
        return count_method(run, v, actual, ret);
    if (jx_is(name, "replace"))
        return replace_method(run, v, actual, ret);
    if (jx_is(name, "join"))
        return join_method(run, v, actual, ret);
    if (jx_is(name, "splitlines")) {
        struct jx keep = jx_bool(false);
        return jx_bind(run, "splitlines", actual, "keepends", &keep) &&
               jx_split_lines(run, v, jx_truth(keep), ret);
    }
    return jx_fail(run, SP_EUNSUPPORTED, "the text method %.*s", (int)name.length, name.s);
}

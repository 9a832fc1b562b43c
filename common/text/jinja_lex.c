/* From the text of a template to tokens, by the rules of Jinja2's lexer (lexer.py of 3.1) with
 * trim_blocks and lstrip_blocks. */
#include <errno.h>
#include <stdlib.h>

#include "common/text/jinja_internal.h"
#include "common/text/utf8.h"

#define MAX_BRACKETS 256

struct lexer {
    struct jx_parser *p;
    const char *text; /* newlines are \n */
    size_t length, at;
    uint32_t line;
    bool line_starting; /* the last match ended with a newline */
    char brackets[MAX_BRACKETS];
    size_t open; /* brackets in use */
};

static struct jx_token *add_token(struct lexer *l, enum jx_token_type type)
{
    struct jx_parser *p = l->p;
    if (p->count == p->capacity) {
        p->capacity = SP_MAX(2 * p->capacity, (size_t)256);
        p->tokens = sp_xgrow(p->tokens, p->capacity, sizeof(*p->tokens));
    }
    struct jx_token *token = &p->tokens[p->count++];
    *token = (struct jx_token){.type = type, .line = l->line};
    return token;
}

static bool starts(const struct lexer *l, size_t at, const char *word)
{
    size_t n = strlen(word);
    return l->length - at >= n && memcmp(l->text + at, word, n) == 0;
}

/* Moves behind `to`. */
static void advance(struct lexer *l, size_t to)
{
    for (size_t i = l->at; i < to; i++)
        l->line += l->text[i] == '\n';
    if (to > l->at)
        l->line_starting = l->text[to - 1] == '\n';
    l->at = to;
}

static size_t skip_space(const struct lexer *l, size_t at)
{
    while (at < l->length) {
        size_t next = at;
        if (!jx_python_space(tok_utf8_next(l->text, &next)))
            break;
        at = next;
    }
    return at;
}

static size_t space_before(const struct lexer *l, size_t from, size_t end)
{
    while (end > from) {
        size_t before = tok_utf8_before(l->text, end), next = before;
        if (!jx_python_space(tok_utf8_next(l->text, &next)))
            break;
        end = before;
    }
    return end;
}

/* ---- text between tags ---- */

/* {% raw %}: its length in *ret_end, else false. */
static bool raw_begin(const struct lexer *l, size_t at, size_t *ret_end)
{
    if (!starts(l, at, "{%"))
        return false;
    at += 2;
    at += at < l->length && (l->text[at] == '-' || l->text[at] == '+');
    at = skip_space(l, at);
    if (!starts(l, at, "raw"))
        return false;
    at = skip_space(l, at + 3);
    if (starts(l, at, "-%}"))
        *ret_end = skip_space(l, at + 3);
    else if (starts(l, at, "%}"))
        *ret_end = at + 2;
    else
        return false;
    return true;
}

/* Where a block or comment that ends here (`end` is "%}" or "#}") goes on. */
static bool tag_end(const struct lexer *l, size_t at, const char *end, size_t *ret_end)
{
    char signed_end[4] = {0, end[0], end[1], 0};
    signed_end[0] = '+';
    if (starts(l, at, signed_end)) {
        *ret_end = at + 3;
        return true;
    }
    signed_end[0] = '-';
    if (starts(l, at, signed_end)) {
        *ret_end = skip_space(l, at + 3);
        return true;
    }
    if (!starts(l, at, end))
        return false;
    at += 2;
    *ret_end = at + (at < l->length && l->text[at] == '\n');
    return true;
}

/* The text [from, tag) without the white space that the tag's sign, or lstrip_blocks, takes. */
static size_t text_end(const struct lexer *l, size_t from, size_t tag, char sign, bool variable)
{
    if (sign == '-')
        return space_before(l, from, tag);
    if (sign == '+' || variable)
        return tag;
    size_t line = tag;
    while (line > from && l->text[line - 1] != '\n')
        line--;
    bool whole_line = line > from || l->line_starting;
    return whole_line && space_before(l, line, tag) == line ? line : tag;
}

static void add_data(struct lexer *l, size_t from, size_t to)
{
    if (to > from)
        add_token(l, JX_T_DATA)->value = jx_text(l->text + from, to - from);
}

static bool lex_raw(struct lexer *l, size_t tag, size_t begin)
{
    advance(l, begin);
    for (size_t at = begin; at < l->length; at++) {
        if (!starts(l, at, "{%"))
            continue;
        size_t name = at + 2, end;
        char sign = name < l->length ? l->text[name] : 0;
        name = skip_space(l, name + (sign == '-' || sign == '+'));
        if (!starts(l, name, "endraw") || !tag_end(l, skip_space(l, name + 6), "%}", &end))
            continue;
        add_data(l, begin, text_end(l, begin, at, sign, false));
        advance(l, end);
        return true;
    }
    advance(l, tag);
    return jx_parse_fail(l->p, l->line, SP_EFORMAT, "{%% raw %%} without {%% endraw %%}");
}

static bool lex_comment(struct lexer *l, size_t at)
{
    for (; at < l->length; at++) {
        size_t end;
        if (l->text[at] != '#' && l->text[at] != '-' && l->text[at] != '+')
            continue;
        if (tag_end(l, at, "#}", &end)) {
            advance(l, end);
            return true;
        }
    }
    return jx_parse_fail(l->p, l->line, SP_EFORMAT, "a comment {# has no end");
}

/* ---- tokens within a tag ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The escape behind a backslash at text[*at]; appends what it means. */
static bool lex_escape(struct lexer *l, size_t *at, size_t end, struct sp_buf *out)
{
    static const char names[] = "abfnrtv\\'\"", means[] = "\a\b\f\n\r\t\v\\'\"";
    char c = l->text[(*at)++];
    const char *hit = c != 0 ? strchr(names, c) : NULL;
    if (hit != NULL) {
        sp_buf_putc(out, means[hit - names]);
        return true;
    }
    if (c == '\n')
        return true;
    if (c >= '0' && c <= '7') {
        uint32_t code = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *at < end && l->text[*at] >= '0' && l->text[*at] <= '7'; i++)
            code = code * 8 + (uint32_t)(l->text[(*at)++] - '0');
        tok_utf8_append(out, code);
        return true;
    }
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
        uint32_t code = 0;
        for (size_t i = 0; i < digits; i++) {
            int digit = *at < end ? hex_digit(l->text[*at]) : -1;
            if (digit < 0)
                return jx_parse_fail(l->p, l->line, SP_EFORMAT, "a string has a cut \\%c escape",
                                     c);
            code = code << 4 | (uint32_t)digit;
            ++*at;
        }
        if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return jx_parse_fail(l->p, l->line, SP_EUNSUPPORTED, "\\%c%0*x is no character", c,
                                 (int)digits, code);
        tok_utf8_append(out, code);
        return true;
    }
    if (c == 'N' || (unsigned char)c >= 0x80)
        return jx_parse_fail(l->p, l->line, SP_EUNSUPPORTED, "the escape \\%c in a string",
                             (unsigned char)c >= 0x80 ? '?' : c);
    sp_buf_putc(out, '\\');
    sp_buf_putc(out, c);
    return true;
}

static bool lex_string(struct lexer *l)
{
    char quote = l->text[l->at];
    size_t end = l->at + 1;
    while (end < l->length && l->text[end] != quote)
        end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->length)
        return jx_parse_fail(l->p, l->line, SP_EFORMAT, "a string has no end");
    struct sp_buf out = SP_BUF_INIT;
    bool ok = true;
    for (size_t at = l->at + 1; at < end && ok;) {
        if (l->text[at] != '\\') {
            sp_buf_putc(&out, l->text[at++]);
            continue;
        }
        at++;
        ok = lex_escape(l, &at, end, &out);
    }
    char *copy = ok ? jx_parser_take(l->p, out.length + 1) : NULL;
    if (copy != NULL) {
        if (out.length > 0)
            memcpy(copy, out.data, out.length);
        add_token(l, JX_T_CONST)->value = jx_text(copy, out.length);
        advance(l, end + 1);
    }
    sp_buf_deinit(&out);
    return copy != NULL;
}

/* Digits of a base with single underscores between them; the number of characters. */
static size_t digits_length(const struct lexer *l, size_t at, int base)
{
    size_t from = at;
    for (;;) {
        size_t next = at + (at > from && at < l->length && l->text[at] == '_');
        int digit = next < l->length ? hex_digit(l->text[next]) : -1;
        if (digit < 0 || digit >= base)
            return at - from;
        at = next + 1;
    }
}

static bool lex_number(struct lexer *l)
{
    static const char prefixes[] = "bBoOxX";
    char text[64];
    size_t from = l->at, end = from, n = 0;
    bool real = false;
    int base = 10;
    const char *prefix =
        l->text[from] == '0' && from + 1 < l->length ? strchr(prefixes, l->text[from + 1]) : NULL;
    if (prefix != NULL && *prefix != 0) {
        static const int bases[] = {2, 2, 8, 8, 16, 16};
        base = bases[prefix - prefixes];
        end = from + 2 + digits_length(l, from + 2, base);
        from += 2;
    } else {
        end += digits_length(l, end, 10);
        bool member = l->at > 0 && l->text[l->at - 1] == '.';
        size_t fraction =
            end < l->length && l->text[end] == '.' ? digits_length(l, end + 1, 10) : 0;
        if (!member && fraction > 0) {
            real = true;
            end += 1 + fraction;
        }
        if (!member && end < l->length && (l->text[end] | 0x20) == 'e') {
            size_t sign = end + 1;
            sign += sign < l->length && (l->text[sign] == '+' || l->text[sign] == '-');
            size_t exponent = digits_length(l, sign, 10);
            if (exponent > 0) {
                real = true;
                end = sign + exponent;
            }
        }
    }
    for (size_t i = from; i < end && n + 1 < sizeof(text); i++)
        if (l->text[i] != '_')
            text[n++] = l->text[i];
    text[n] = 0;
    if (n == 0 || n + 1 == sizeof(text))
        return jx_parse_fail(l->p, l->line, SP_EUNSUPPORTED, "a number of such length or form");
    if (!real && base == 10 && n > 1 && text[0] == '0' && strspn(text, "0") != n)
        return jx_parse_fail(l->p, l->line, SP_EFORMAT, "a number that starts with 0");
    errno = 0;
    struct jx value = real ? jx_float(strtod(text, NULL)) : jx_int(strtoll(text, NULL, base));
    if (!real && errno != 0)
        return jx_parse_fail(l->p, l->line, SP_EUNSUPPORTED, "a whole number above 2^63 - 1");
    add_token(l, JX_T_CONST)->value = value;
    advance(l, end);
    return true;
}

static bool lex_bracket(struct lexer *l, char c)
{
    const char *open = strchr("([{", c), *close = strchr(")]}", c);
    if (open != NULL) {
        if (l->open == MAX_BRACKETS)
            return jx_parse_fail(l->p, l->line, SP_ELIMIT, "more than %d open brackets",
                                 MAX_BRACKETS);
        l->brackets[l->open++] = ")]}"[open - "([{"];
    } else if (close != NULL) {
        if (l->open == 0 || l->brackets[--l->open] != c)
            return jx_parse_fail(l->p, l->line, SP_EFORMAT, "unexpected '%c'", c);
    }
    return true;
}

static bool lex_operator(struct lexer *l)
{
    static const char *const operators[] = {"//", "**", "==", "!=", "<=", ">=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < SP_COUNT(operators); i++) {
        if (!starts(l, l->at, operators[i]))
            continue;
        size_t n = strlen(operators[i]);
        if (n == 1 && strchr("([{}])", operators[i][0]) != NULL && !lex_bracket(l, operators[i][0]))
            return false;
        memcpy(add_token(l, JX_T_OPERATOR)->op, operators[i], n);
        advance(l, l->at + n);
        return true;
    }
    return jx_parse_fail(l->p, l->line, SP_EFORMAT, "unexpected character 0x%02x",
                         (unsigned char)l->text[l->at]);
}

static bool is_name_char(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

/* Tokens up to the end of a tag. */
static bool lex_tag(struct lexer *l, bool variable)
{
    uint32_t line = l->line;
    l->open = 0;
    while (l->at < l->length) {
        size_t end = l->at;
        char c = l->text[l->at];
        if (l->open == 0 && variable && (starts(l, end, "-}}") || starts(l, end, "}}"))) {
            end = c == '-' ? skip_space(l, end + 3) : end + 2;
            add_token(l, JX_T_PRINT_END);
            advance(l, end);
            return true;
        }
        if (l->open == 0 && !variable && tag_end(l, l->at, "%}", &end)) {
            add_token(l, JX_T_BLOCK_END);
            advance(l, end);
            return true;
        }
        size_t space = skip_space(l, l->at);
        bool ok = true;
        if (space > l->at) {
            advance(l, space);
        } else if (c >= '0' && c <= '9') {
            ok = lex_number(l);
        } else if (is_name_char(c)) {
            while (end < l->length && is_name_char(l->text[end]))
                end++;
            add_token(l, JX_T_NAME)->value = jx_text(l->text + l->at, end - l->at);
            advance(l, end);
        } else if (c == '\'' || c == '"') {
            ok = lex_string(l);
        } else {
            ok = lex_operator(l);
        }
        if (!ok)
            return false;
    }
    return jx_parse_fail(l->p, line, SP_EFORMAT, "a tag has no end");
}

static bool lex_all(struct lexer *l)
{
    while (l->at < l->length) {
        size_t tag = l->at, raw = 0;
        const char *hit = NULL;
        while ((hit = memchr(l->text + tag, '{', l->length - tag)) != NULL) {
            tag = (size_t)(hit - l->text);
            char next = tag + 1 < l->length ? l->text[tag + 1] : 0;
            if (next == '%' || next == '#' || next == '{')
                break;
            tag++;
        }
        if (hit == NULL) {
            add_data(l, l->at, l->length);
            advance(l, l->length);
            break;
        }
        char kind = l->text[tag + 1], sign = tag + 2 < l->length ? l->text[tag + 2] : 0;
        bool is_raw = raw_begin(l, tag, &raw);
        add_data(l, l->at, text_end(l, l->at, tag, sign, kind == '{'));
        advance(l, tag);
        if (is_raw) {
            if (!lex_raw(l, tag, raw))
                return false;
            continue;
        }
        size_t inside = tag + 2 + (sign == '-' || sign == '+');
        if (kind == '#') {
            if (!lex_comment(l, inside))
                return false;
            continue;
        }
        add_token(l, kind == '{' ? JX_T_PRINT_BEGIN : JX_T_BLOCK_BEGIN);
        advance(l, inside);
        if (!lex_tag(l, kind == '{'))
            return false;
    }
    add_token(l, JX_T_END);
    return true;
}

bool jx_lex(struct jx_parser *p, const char *text, size_t length)
{
    char *copy = jx_parser_take(p, length + 1);
    if (copy == NULL)
        return false;
    struct lexer l = {.p = p, .text = copy, .line = 1, .line_starting = true};
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\r' && i + 1 < length && text[i + 1] == '\n')
            continue;
        copy[l.length++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (l.length > 0 && copy[l.length - 1] == '\n')
        l.length--;
    return lex_all(&l);
}

#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/expression.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/base/mem.h"

#define MATCH_LIMIT 10000000

struct tok_expression {
    pcre2_code *code;
    uint32_t groups;
};

enum sp_err tok_expression_compile(const char *source, const char *what,
                                   struct tok_expression **ret, struct sp_error *err)
{
    int fault = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &fault, &at, NULL);
    if (code == NULL) {
        PCRE2_UCHAR text[128] = "";
        pcre2_get_error_message(fault, text, sizeof(text));
        return sp_fail(err, SP_EFORMAT, "%s: the expression %.200s is wrong at character %zu: %s",
                       what, source, (size_t)at + 1, (const char *)text);
    }
    struct tok_expression *expression = sp_xalloc(sizeof(*expression));
    expression->code = code;
    pcre2_pattern_info(code, PCRE2_INFO_CAPTURECOUNT, &expression->groups);
    *ret = expression;
    return SP_OK;
}

void tok_expression_free(struct tok_expression *expression)
{
    if (expression == NULL)
        return;
    pcre2_code_free(expression->code);
    free(expression);
}

/* One pass over a text: matches in the order in which re.finditer gives them. */
struct pass {
    const struct tok_expression *expression;
    const char *text;
    size_t length, from;
    bool after_empty; /* the match before was empty: the next one must be elsewhere or longer */
    pcre2_match_data *data;
    pcre2_match_context *context;
};

static void pass_open(struct pass *pass, const struct tok_expression *expression, const char *text,
                      size_t length)
{
    *pass = (struct pass){.expression = expression, .text = text, .length = length};
    pass->data = pcre2_match_data_create_from_pattern(expression->code, NULL);
    pass->context = pcre2_match_context_create(NULL);
    SP_ASSERT(pass->data != NULL && pass->context != NULL);
    pcre2_set_match_limit(pass->context, MATCH_LIMIT);
}

static void pass_close(struct pass *pass)
{
    pcre2_match_data_free(pass->data);
    pcre2_match_context_free(pass->context);
}

/* *ret: start and end of each group, [0] the whole; NULL: no more. */
static enum sp_err pass_next(struct pass *pass, const PCRE2_SIZE **ret, struct sp_error *err)
{
    uint32_t options = pass->after_empty ? PCRE2_NOTEMPTY_ATSTART : 0;
    *ret = NULL;
    int n = pcre2_match(pass->expression->code, (PCRE2_SPTR)pass->text, pass->length, pass->from,
                        options, pass->data, pass->context);
    if (n == PCRE2_ERROR_NOMATCH)
        return SP_OK;
    if (n < 0) {
        PCRE2_UCHAR text[128] = "";
        pcre2_get_error_message(n, text, sizeof(text));
        return sp_fail(err, SP_ELIMIT, "an expression failed on a text of %zu bytes: %s",
                       pass->length, (const char *)text);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(pass->data);
    pass->after_empty = range[0] == range[1];
    pass->from = range[1];
    *ret = range;
    return SP_OK;
}

/* The part of a match that findall gives: [from, to). */
static bool selected_part(const struct tok_expression *expression, const PCRE2_SIZE *range,
                          size_t *from, size_t *to)
{
    uint32_t first = expression->groups > 0, last = expression->groups;
    for (uint32_t g = first; g <= last; g++) {
        bool set = range[2 * g] != PCRE2_UNSET;
        if (expression->groups > 1 && (!set || range[2 * g] == range[2 * g + 1]))
            continue;
        *from = set ? range[2 * g] : 0;
        *to = set ? range[2 * g + 1] : 0;
        return true;
    }
    return false;
}

enum sp_err tok_expression_find(const struct tok_expression *expression, const char *text,
                                size_t length, int select, struct sp_buf *ret, bool *ret_found,
                                struct sp_error *err)
{
    struct pass pass;
    const PCRE2_SIZE *range = NULL;
    size_t from = 0, to = 0;
    bool found = false;
    pass_open(&pass, expression, text, length);
    enum sp_err rc = SP_OK;
    for (int i = 0; rc == SP_OK && (select < 0 || i <= select); i++) {
        rc = pass_next(&pass, &range, err);
        if (rc != SP_OK || range == NULL) {
            found = select < 0 && found;
            break;
        }
        if (select < 0 || i == select)
            found = selected_part(expression, range, &from, &to);
    }
    pass_close(&pass);
    if (rc != SP_OK)
        return rc;
    if (found)
        sp_buf_append(ret, text + from, to - from);
    *ret_found = found;
    return SP_OK;
}

enum sp_err tok_expression_remove(const struct tok_expression *expression, const char *text,
                                  size_t length, struct sp_buf *ret, struct sp_error *err)
{
    struct pass pass;
    const PCRE2_SIZE *range = NULL;
    size_t done = 0;
    pass_open(&pass, expression, text, length);
    enum sp_err rc = pass_next(&pass, &range, err);
    while (rc == SP_OK && range != NULL) {
        sp_buf_append(ret, text + done, range[0] - done);
        done = range[1];
        rc = pass_next(&pass, &range, err);
    }
    pass_close(&pass);
    if (rc == SP_OK)
        sp_buf_append(ret, text + done, length - done);
    return rc;
}

/* ---- characters ---- */

void tok_lower(const char *text, size_t length, struct sp_buf *ret)
{
    for (size_t at = 0; at < length;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                              (utf8proc_ssize_t)(length - at), &character);
        if (n <= 0) {
            sp_buf_putc(ret, text[at++]);
            continue;
        }
        utf8proc_uint8_t out[4];
        utf8proc_ssize_t bytes = utf8proc_encode_char(utf8proc_tolower(character), out);
        sp_buf_append(ret, out, (size_t)bytes);
        at += (size_t)n;
    }
}

/* str.isspace: separators, and the controls that are white space in Unicode or to Python. */
static bool is_space(utf8proc_int32_t c)
{
    return (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

void tok_strip_end(const char *text, size_t *length)
{
    while (*length > 0) {
        size_t start = *length - 1;
        while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
            start--;
        utf8proc_int32_t character = -1;
        if (utf8proc_iterate((const utf8proc_uint8_t *)text + start,
                             (utf8proc_ssize_t)(*length - start), &character) <= 0 ||
            !is_space(character))
            return;
        *length = start;
    }
}

void tok_strip(const char **text, size_t *length)
{
    tok_strip_end(*text, length);
    while (*length > 0) {
        utf8proc_int32_t character = -1;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)*text,
                                              (utf8proc_ssize_t)*length, &character);
        if (n <= 0 || !is_space(character))
            return;
        *text += n;
        *length -= (size_t)n;
    }
}

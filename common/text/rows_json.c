/* Rows of JSON: finds where one starts and ends, bounded. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/rows_internal.h"

/* The next byte that is no white space, or the end. */
static int skip_space(struct tok_rows *r)
{
    int c;
    do
        c = tok_rows_byte(r);
    while (tok_is_json_space(c));
    return c;
}

static enum sp_err put_byte(struct tok_rows *r, int c, uint64_t line, struct sp_error *err)
{
    if (r->text.length >= SP_MAX_DATASET_LINE)
        return tok_row_too_long(r, line, err);
    sp_buf_putc(&r->text, (char)c);
    return SP_OK;
}

/* A line; *ret_more false at the end of the file. */
static enum sp_err read_line(struct tok_rows *r, uint64_t *ret_line, bool *ret_more,
                             struct sp_error *err)
{
    int c = skip_space(r);
    *ret_line = r->line;
    *ret_more = c != TOK_SOURCE_END;
    if (c == TOK_SOURCE_END)
        return SP_OK;
    tok_source_unread(r->source);
    do {
        const uint8_t *at = r->source->at;
        size_t length = (size_t)(r->source->end - at);
        const uint8_t *end = memchr(at, '\n', length);
        if (end != NULL)
            length = (size_t)(end - at);
        if (length > SP_MAX_DATASET_LINE - r->text.length)
            return tok_row_too_long(r, *ret_line, err);
        sp_buf_append(&r->text, at, length);
        r->source->at += length;
        if (end != NULL) {
            tok_rows_byte(r);
            return SP_OK;
        }
    } while (tok_source_fill(r->source) != TOK_SOURCE_END);
    return SP_OK;
}

/* Bytes up to the end of the object that starts with c. */
static enum sp_err read_object(struct tok_rows *r, int c, uint64_t line, struct sp_error *err)
{
    int depth = 0;
    bool in_string = false;
    for (; c != TOK_SOURCE_END; c = tok_rows_byte(r)) {
        enum sp_err rc = put_byte(r, c, line, err);
        if (rc != SP_OK)
            return rc;
        if (in_string && c == '\\') {
            int escaped = tok_rows_byte(r);
            if (escaped == TOK_SOURCE_END)
                break;
            rc = put_byte(r, escaped, line, err);
            if (rc != SP_OK)
                return rc;
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == '{' || c == '[')) {
            depth++;
        } else if (!in_string && (c == '}' || c == ']') && --depth == 0) {
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EFORMAT, "%s:%llu: the file ends within the row that starts here",
                   r->what, (unsigned long long)line);
}

static enum sp_err array_error(struct tok_rows *r, const char *expected, int c,
                               struct sp_error *err)
{
    if (c == TOK_SOURCE_END)
        return sp_fail(err, SP_EFORMAT, "%s:%llu: the file ends where %s is expected", r->what,
                       (unsigned long long)r->line, expected);
    return sp_fail(err, SP_EFORMAT, "%s:%llu: %s is expected, not '%c'", r->what,
                   (unsigned long long)r->line, expected, c >= ' ' && c < 127 ? c : '?');
}

static enum sp_err read_element(struct tok_rows *r, uint64_t *ret_line, bool *ret_more,
                                struct sp_error *err)
{
    *ret_more = false;
    int c = skip_space(r);
    bool comma = r->count > 0 && c == ',';
    if (comma)
        c = skip_space(r);
    if (c == ']' && !comma) {
        c = skip_space(r);
        return c == TOK_SOURCE_END ? SP_OK : array_error(r, "nothing behind the array", c, err);
    }
    if (r->count > 0 && !comma)
        return array_error(r, "',' or ']' after a row", c, err);
    if (c != '{')
        return array_error(r, "an object", c, err);
    *ret_line = r->line;
    *ret_more = true;
    return read_object(r, c, *ret_line, err);
}

enum sp_err tok_json_read(struct tok_rows *r, json_t **ret, uint64_t *ret_line,
                          struct sp_error *err)
{
    bool more;
    uint64_t line = r->line;
    sp_buf_clear(&r->text);
    enum sp_err rc =
        r->is_array ? read_element(r, &line, &more, err) : read_line(r, &line, &more, err);
    if (rc != SP_OK)
        /* A file that can't be read on is no row that is malformed. */
        return tok_source_error(r->source, err) != SP_OK ? err->code : rc;
    *ret = NULL;
    if (!more)
        return SP_OK;
    *ret_line = line;
    char *where = sp_xprintf("%s:%llu", r->what, (unsigned long long)line);
    rc = sp_json_parse(r->text.data, r->text.length, where, ret, err);
    free(where);
    if (rc != SP_OK && tok_source_error(r->source, err) != SP_OK)
        return err->code;
    return rc;
}

/* Rows of JSON: finds where one starts and ends, bounded. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/dataset_internal.h"

/* The next byte that is no white space, or the end. */
static int skip_space(struct tok_dataset *d)
{
    int c;
    do
        c = tok_dataset_byte(d);
    while (tok_is_json_space(c));
    return c;
}

static enum sp_err put_byte(struct tok_dataset *d, int c, uint64_t line, struct sp_error *err)
{
    if (d->text.length >= SP_MAX_DATASET_LINE)
        return tok_row_too_long(d, line, err);
    sp_buf_putc(&d->text, (char)c);
    return SP_OK;
}

/* A line; *ret_more false at the end of the file. */
static enum sp_err read_line(struct tok_dataset *d, uint64_t *ret_line, bool *ret_more,
                             struct sp_error *err)
{
    int c = skip_space(d);
    *ret_line = d->line;
    *ret_more = c != TOK_SOURCE_END;
    if (c == TOK_SOURCE_END)
        return SP_OK;
    tok_source_unread(d->source);
    do {
        const uint8_t *at = d->source->at;
        size_t length = (size_t)(d->source->end - at);
        const uint8_t *end = memchr(at, '\n', length);
        if (end != NULL)
            length = (size_t)(end - at);
        if (length > SP_MAX_DATASET_LINE - d->text.length)
            return tok_row_too_long(d, *ret_line, err);
        sp_buf_append(&d->text, at, length);
        d->source->at += length;
        if (end != NULL) {
            tok_dataset_byte(d);
            return SP_OK;
        }
    } while (tok_source_fill(d->source) != TOK_SOURCE_END);
    return SP_OK;
}

/* Bytes up to the end of the object that starts with c. */
static enum sp_err read_object(struct tok_dataset *d, int c, uint64_t line, struct sp_error *err)
{
    int depth = 0;
    bool in_string = false;
    for (; c != TOK_SOURCE_END; c = tok_dataset_byte(d)) {
        enum sp_err rc = put_byte(d, c, line, err);
        if (rc != SP_OK)
            return rc;
        if (in_string && c == '\\') {
            int escaped = tok_dataset_byte(d);
            if (escaped == TOK_SOURCE_END)
                break;
            rc = put_byte(d, escaped, line, err);
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
                   d->what, (unsigned long long)line);
}

static enum sp_err array_error(struct tok_dataset *d, const char *expected, int c,
                               struct sp_error *err)
{
    if (c == TOK_SOURCE_END)
        return sp_fail(err, SP_EFORMAT, "%s:%llu: the file ends where %s is expected", d->what,
                       (unsigned long long)d->line, expected);
    return sp_fail(err, SP_EFORMAT, "%s:%llu: %s is expected, not '%c'", d->what,
                   (unsigned long long)d->line, expected, c >= ' ' && c < 127 ? c : '?');
}

static enum sp_err read_element(struct tok_dataset *d, uint64_t *ret_line, bool *ret_more,
                                struct sp_error *err)
{
    *ret_more = false;
    int c = skip_space(d);
    bool comma = d->rows > 0 && c == ',';
    if (comma)
        c = skip_space(d);
    if (c == ']' && !comma) {
        c = skip_space(d);
        return c == TOK_SOURCE_END ? SP_OK : array_error(d, "nothing behind the array", c, err);
    }
    if (d->rows > 0 && !comma)
        return array_error(d, "',' or ']' after a row", c, err);
    if (c != '{')
        return array_error(d, "an object", c, err);
    *ret_line = d->line;
    *ret_more = true;
    return read_object(d, c, *ret_line, err);
}

enum sp_err tok_json_read(struct tok_dataset *d, json_t **ret, uint64_t *ret_line,
                          struct sp_error *err)
{
    bool more;
    uint64_t line = d->line;
    sp_buf_clear(&d->text);
    enum sp_err rc =
        d->is_array ? read_element(d, &line, &more, err) : read_line(d, &line, &more, err);
    if (rc != SP_OK)
        /* A file that can't be read on is no row that is malformed. */
        return tok_source_error(d->source, err) != SP_OK ? err->code : rc;
    *ret = NULL;
    if (!more)
        return SP_OK;
    *ret_line = line;
    char *where = sp_xprintf("%s:%llu", d->what, (unsigned long long)line);
    rc = sp_json_parse(d->text.data, d->text.length, where, ret, err);
    free(where);
    if (rc != SP_OK && tok_source_error(d->source, err) != SP_OK)
        return err->code;
    return rc;
}

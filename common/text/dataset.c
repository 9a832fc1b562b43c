/* Reading rows: finds where a row starts and ends, bounded, and hands its JSON to the format. */
#include "common/text/dataset.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/dataset_row.h"
#include "common/text/utf8.h"

struct tok_dataset {
    FILE *file;
    char *what; /* owned */
    enum tok_format format;
    bool is_array;      /* one JSON array, not lines */
    uint64_t rows;      /* read so far */
    uint64_t line;      /* of the next byte, from 1 */
    uint64_t offset;    /* of the next byte */
    struct sp_buf text; /* the row being read */
    struct tok_row_store store;
    bool has_first; /* the first row has been parsed to recognize the format, not given yet */
    struct tok_row first;
};

static int next_byte(struct tok_dataset *d)
{
    int c = getc_unlocked(d->file);
    if (c != EOF) {
        d->offset++;
        if (c == '\n')
            d->line++;
    }
    return c;
}

static void unread(struct tok_dataset *d, int c)
{
    ungetc(c, d->file);
    d->offset--;
    if (c == '\n')
        d->line--;
}

/* The next byte that is no white space, or EOF. */
static int skip_space(struct tok_dataset *d)
{
    int c;
    do
        c = next_byte(d);
    while (c == ' ' || c == '\t' || c == '\r' || c == '\n');
    return c;
}

static enum sp_err put_byte(struct tok_dataset *d, int c, uint64_t line, struct sp_error *err)
{
    if (d->text.length >= SP_MAX_DATASET_LINE)
        return sp_fail(err, SP_ELIMIT, "%s:%llu: the row is longer than %d bytes", d->what,
                       (unsigned long long)line, SP_MAX_DATASET_LINE);
    sp_buf_putc(&d->text, (char)c);
    return SP_OK;
}

/* A line; *ret_more false at the end of the file. */
static enum sp_err read_line(struct tok_dataset *d, uint64_t *ret_line, bool *ret_more,
                             struct sp_error *err)
{
    sp_buf_clear(&d->text);
    int c = skip_space(d);
    *ret_line = d->line;
    *ret_more = c != EOF;
    for (; c != EOF && c != '\n'; c = next_byte(d)) {
        enum sp_err rc = put_byte(d, c, *ret_line, err);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

/* Bytes up to the end of the object that starts with c. */
static enum sp_err read_object(struct tok_dataset *d, int c, uint64_t line, struct sp_error *err)
{
    int depth = 0;
    bool in_string = false;
    for (; c != EOF; c = next_byte(d)) {
        enum sp_err rc = put_byte(d, c, line, err);
        if (rc != SP_OK)
            return rc;
        if (in_string && c == '\\') {
            int escaped = next_byte(d);
            if (escaped == EOF)
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
    if (c == EOF)
        return sp_fail(err, SP_EFORMAT, "%s:%llu: the file ends where %s is expected", d->what,
                       (unsigned long long)d->line, expected);
    return sp_fail(err, SP_EFORMAT, "%s:%llu: %s is expected, not '%c'", d->what,
                   (unsigned long long)d->line, expected, c >= ' ' && c < 127 ? c : '?');
}

static enum sp_err read_element(struct tok_dataset *d, uint64_t *ret_line, bool *ret_more,
                                struct sp_error *err)
{
    sp_buf_clear(&d->text);
    *ret_more = false;
    int c = skip_space(d);
    bool comma = d->rows > 0 && c == ',';
    if (comma)
        c = skip_space(d);
    if (c == ']' && !comma) {
        c = skip_space(d);
        return c == EOF ? SP_OK : array_error(d, "nothing behind the array", c, err);
    }
    if (d->rows > 0 && !comma)
        return array_error(d, "',' or ']' after a row", c, err);
    if (c != '{')
        return array_error(d, "an object", c, err);
    *ret_line = d->line;
    *ret_more = true;
    return read_object(d, c, *ret_line, err);
}

static enum sp_err read_row(struct tok_dataset *d, struct tok_row *ret, bool *ret_more,
                            struct sp_error *err)
{
    uint64_t line = d->line;
    bool more;
    enum sp_err rc =
        d->is_array ? read_element(d, &line, &more, err) : read_line(d, &line, &more, err);
    if (rc == SP_OK && ferror(d->file))
        rc = sp_fail_errno(err, errno != 0 ? errno : EIO, "%s: reading", d->what);
    if (rc != SP_OK)
        return rc;
    if (!more) {
        *ret_more = false;
        return SP_OK;
    }
    char *where = sp_xprintf("%s:%llu", d->what, (unsigned long long)line);
    json_t *row = NULL;
    if (d->rows >= SP_MAX_DATASET_ROWS)
        rc = sp_fail(err, SP_ELIMIT, "%s: more than %d rows", where, SP_MAX_DATASET_ROWS);
    if (rc == SP_OK)
        rc = sp_json_parse(d->text.data, d->text.length, where, &row, err);
    if (rc == SP_OK && d->format == TOK_FORMAT_AUTO)
        rc = tok_format_recognize(row, where, &d->format, err);
    struct tok_row result = {.index = d->rows, .line = line};
    if (rc == SP_OK)
        rc = tok_row_parse(&d->store, d->format, row, where, &result, err);
    else
        json_decref(row);
    free(where);
    if (rc != SP_OK)
        return rc;
    d->rows++;
    *ret = result;
    *ret_more = true;
    return SP_OK;
}

static enum sp_err start(FILE *file, const char *what, enum tok_format format,
                         struct tok_dataset **ret, struct sp_error *err)
{
    struct tok_dataset *d = sp_xalloc(sizeof(*d));
    d->file = file;
    d->what = sp_xstrdup(what);
    d->format = format;
    d->line = 1;
    int c = next_byte(d);
    if (c == 0xef) { /* a byte order mark, which some editors put there */
        int second = next_byte(d), third = next_byte(d);
        if (second == 0xbb && third == 0xbf)
            c = ' ';
    }
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n')
        c = skip_space(d);
    enum sp_err rc = SP_OK;
    bool more = false;
    if (c == '[')
        d->is_array = true;
    else if (c != EOF)
        unread(d, c);
    rc = read_row(d, &d->first, &more, err);
    if (rc == SP_OK && !more)
        rc = sp_fail(err, SP_EFORMAT, "%s: there are no rows", what);
    d->has_first = true;
    if (rc == SP_OK)
        *ret = d;
    else
        tok_dataset_close(d);
    return rc;
}

enum sp_err tok_dataset_open(const char *path, const char *what, enum tok_format format,
                             struct tok_dataset **ret, struct sp_error *err)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return sp_fail_errno(err, errno, "%s: opening the dataset", what != NULL ? what : path);
    return start(file, what != NULL ? what : path, format, ret, err);
}

enum sp_err tok_dataset_open_memory(const void *data, size_t length, const char *what,
                                    enum tok_format format, struct tok_dataset **ret,
                                    struct sp_error *err)
{
    if (length == 0)
        return sp_fail(err, SP_EFORMAT, "%s: there are no rows", what);
    FILE *file = fmemopen((void *)data, length, "r");
    if (file == NULL)
        return sp_fail_errno(err, errno, "%s: opening the dataset", what);
    return start(file, what, format, ret, err);
}

enum sp_err tok_dataset_next(struct tok_dataset *dataset, struct tok_row *ret, bool *ret_more,
                             struct sp_error *err)
{
    if (dataset->has_first) {
        dataset->has_first = false;
        *ret = dataset->first;
        *ret_more = true;
        return SP_OK;
    }
    return read_row(dataset, ret, ret_more, err);
}

enum tok_format tok_dataset_format(const struct tok_dataset *dataset)
{
    return dataset->format;
}

uint64_t tok_dataset_bytes_read(const struct tok_dataset *dataset)
{
    return dataset->offset;
}

void tok_dataset_close(struct tok_dataset *dataset)
{
    if (dataset == NULL)
        return;
    tok_row_store_deinit(&dataset->store);
    sp_buf_deinit(&dataset->text);
    fclose(dataset->file);
    free(dataset->what);
    free(dataset);
}

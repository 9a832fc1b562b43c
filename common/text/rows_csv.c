/* Rows of CSV (RFC 4180, in UTF-8): libcsv takes it apart, the first row names the fields unless
 * they are given, every other row becomes a JSON object of strings. The library is fed up to a line
 * break at a time, so that at most one row comes of each call. */
#include <csv.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/rows_internal.h"

struct tok_csv {
    struct csv_parser parser;
    json_t *names;     /* array of strings: the header, or the columns that were given */
    json_t *row;       /* array of the fields of the row being read */
    uint64_t row_line; /* where that starts; 0: it has not begun */
    size_t row_bytes;  /* fed since */
    bool row_ended;    /* the last feed ended it */
    size_t bad_field;  /* 1 + index of a field that is not UTF-8 (or has a NUL); 0: none */
    bool finished;     /* csv_fini was called */
    bool given;        /* the names are */
};

static int no_space(unsigned char c)
{
    (void)c;
    return 0; /* RFC 4180: spaces are part of a field */
}

static void on_field(void *data, size_t length, void *context)
{
    struct tok_csv *csv = context;
    json_t *text = NULL;
    if (data == NULL)
        text = json_string("");
    else if (memchr(data, 0, length) == NULL)
        text = json_stringn(data, length);
    if (text == NULL && csv->bad_field == 0)
        csv->bad_field = 1 + json_array_size(csv->row);
    json_array_append_new(csv->row, text != NULL ? text : json_string(""));
}

static void on_row(int terminator, void *context)
{
    (void)terminator;
    ((struct tok_csv *)context)->row_ended = true;
}

static enum sp_err bad_quote(const struct tok_rows *r, struct sp_error *err)
{
    return sp_fail(err, SP_EFORMAT,
                   "%s:%llu: row %llu: a quotation mark where none may be: put fields that hold "
                   "one in quotation marks and double it (\"\")",
                   r->what, (unsigned long long)r->csv->row_line, (unsigned long long)r->count + 1);
}

/* Feeds what is buffered, up to the next line break. */
static enum sp_err feed(struct tok_rows *r, struct sp_error *err)
{
    struct tok_csv *csv = r->csv;
    const uint8_t *at = r->source->at;
    size_t length = 0, buffered = (size_t)(r->source->end - at);
    while (length < buffered && at[length] != '\n' && at[length] != '\r')
        length++;
    length += length < buffered;
    if (csv->row_line == 0)
        csv->row_line = r->line;
    if (length > SP_MAX_DATASET_LINE - csv->row_bytes)
        return tok_row_too_long(r, csv->row_line, err);
    csv->row_bytes += length;
    size_t took = csv_parse(&csv->parser, at, length, on_field, on_row, csv);
    if (took != length && csv_error(&csv->parser) == CSV_EPARSE)
        return bad_quote(r, err);
    if (took != length)
        return sp_fail(err, SP_ENOMEM, "%s:%llu: %s", r->what, (unsigned long long)csv->row_line,
                       csv_strerror(csv_error(&csv->parser)));
    r->source->at += length;
    /* A lone CR ends a line, too; the LF behind one is its second half. */
    bool lf = at[length - 1] == '\n', cr = at[length - 1] == '\r';
    bool pair = cr && (r->source->at < r->source->end || tok_source_fill(r->source) == 0) &&
                *r->source->at == '\n';
    r->line += lf || (cr && !pair);
    if (!csv->row_ended && json_array_size(csv->row) == 0 && csv->row_bytes == 1 && (lf || cr)) {
        csv->row_line = 0; /* an empty line */
        csv->row_bytes = 0;
    }
    return SP_OK;
}

static enum sp_err finish(struct tok_rows *r, struct sp_error *err)
{
    struct tok_csv *csv = r->csv;
    enum sp_err rc = tok_source_error(r->source, err);
    csv->finished = true;
    if (rc == SP_OK && csv_fini(&csv->parser, on_field, on_row, csv) != 0)
        rc = sp_fail(err, SP_EFORMAT,
                     "%s:%llu: row %llu: the file ends within a field in quotation marks: the "
                     "closing one is missing",
                     r->what, (unsigned long long)csv->row_line, (unsigned long long)r->count + 1);
    return rc;
}

/* The next row's fields are in csv->row; *ret_more false at the end of the file. */
static enum sp_err next_row(struct tok_rows *r, bool *ret_more, struct sp_error *err)
{
    struct tok_csv *csv = r->csv;
    enum sp_err rc = SP_OK;
    json_array_clear(csv->row);
    csv->row_ended = false;
    csv->row_line = csv->row_bytes = csv->bad_field = 0;
    while (rc == SP_OK && !csv->row_ended && !csv->finished) {
        if (r->source->at < r->source->end || tok_source_fill(r->source) == 0)
            rc = feed(r, err);
        else
            rc = finish(r, err);
    }
    *ret_more = csv->row_ended;
    if (rc == SP_OK && csv->bad_field != 0)
        rc = sp_fail(err, SP_EFORMAT,
                     "%s:%llu: field %zu is not UTF-8, or holds a NUL: convert the file", r->what,
                     (unsigned long long)csv->row_line, csv->bad_field);
    return rc;
}

static enum sp_err check_header(struct tok_rows *r, struct sp_error *err)
{
    const json_t *names = r->csv->names;
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        if (name[0] == '\0')
            return sp_fail(err, SP_EFORMAT,
                           "%s:1: column %zu of the header has no name: the first row of a CSV "
                           "file names its fields",
                           r->what, i + 1);
        for (size_t k = 0; k < i; k++)
            if (json_equal(json_array_get(names, i), json_array_get(names, k)))
                return sp_fail(err, SP_EFORMAT,
                               "%s:1: columns %zu and %zu are both named \"%.40s\": rename one",
                               r->what, k + 1, i + 1, name);
    }
    return SP_OK;
}

enum sp_err tok_csv_open(struct tok_rows *r, const json_t *columns, struct sp_error *err)
{
    struct tok_csv *csv = sp_xalloc(sizeof(*csv));
    bool more = false;
    r->csv = csv;
    csv->row = json_array();
    SP_ASSERT(csv_init(&csv->parser, CSV_STRICT | CSV_STRICT_FINI | CSV_EMPTY_IS_NULL) == 0);
    csv_set_space_func(&csv->parser, no_space);
    csv_set_blk_size(&csv->parser, 4096);
    if (columns != NULL) {
        csv->given = true;
        csv->names = json_incref((json_t *)columns);
        return SP_OK;
    }
    enum sp_err rc = next_row(r, &more, err);
    if (rc != SP_OK)
        return rc;
    if (json_array_size(csv->row) > SP_MAX_DATASET_COLUMNS)
        return sp_fail(err, SP_ELIMIT, "%s:1: more than %d columns", r->what,
                       SP_MAX_DATASET_COLUMNS);
    csv->names = json_copy(csv->row);
    return check_header(r, err);
}

enum sp_err tok_csv_read(struct tok_rows *r, json_t **ret, uint64_t *ret_line, struct sp_error *err)
{
    struct tok_csv *csv = r->csv;
    bool more = false;
    enum sp_err rc = next_row(r, &more, err);
    if (rc != SP_OK)
        return rc;
    *ret = NULL;
    if (!more)
        return SP_OK;
    size_t have = json_array_size(csv->row), want = json_array_size(csv->names);
    if (have != want)
        return sp_fail(err, SP_EFORMAT,
                       "%s:%llu: row %llu has %zu fields, the %s %zu: put fields that hold a "
                       "comma or a line break in quotation marks",
                       r->what, (unsigned long long)csv->row_line, (unsigned long long)r->count + 1,
                       have, csv->given ? "columns are" : "header", want);
    *ret_line = csv->row_line;
    *ret = json_object();
    for (size_t i = 0; i < want; i++)
        json_object_set(*ret, json_string_value(json_array_get(csv->names, i)),
                        json_array_get(csv->row, i));
    return SP_OK;
}

void tok_csv_close(struct tok_csv *csv)
{
    if (csv == NULL)
        return;
    csv_free(&csv->parser);
    json_decref(csv->names);
    json_decref(csv->row);
    free(csv);
}

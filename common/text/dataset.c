/* The rows of training data: each row's JSON to its format. */
#include "common/text/dataset.h"

#include <stdlib.h>

#include "common/base/mem.h"
#include "common/text/dataset_row.h"
#include "common/text/rows.h"

struct tok_dataset {
    struct tok_rows *rows;
    char *what; /* owned */
    enum tok_format format;
    struct tok_fields fields; /* owned copies */
    uint64_t count;           /* rows given so far */
    struct tok_row_store store;
    bool has_first; /* the first row has been parsed to recognize the format, not given yet */
    struct tok_row first;
};

static enum sp_err read_row(struct tok_dataset *d, struct tok_row *ret, bool *ret_more,
                            struct sp_error *err)
{
    struct tok_row result = {.index = d->count};
    json_t *row = NULL;
    enum sp_err rc = tok_rows_next(d->rows, &row, &result.line, err);
    *ret_more = row != NULL;
    if (rc != SP_OK || row == NULL)
        return rc;
    char *where = sp_xprintf("%s:%llu", d->what, (unsigned long long)result.line);
    if (d->format == TOK_FORMAT_AUTO)
        rc = tok_format_recognize(row, where, &d->format, err);
    if (rc == SP_OK)
        rc = tok_row_parse(&d->store, d->format, &d->fields, row, where, &result, err);
    else
        json_decref(row);
    free(where);
    if (rc != SP_OK)
        return rc;
    d->count++;
    *ret = result;
    return SP_OK;
}

/* ---- opening ---- */

static enum sp_err read_first(struct tok_dataset *d, struct sp_error *err)
{
    bool more = false;
    enum sp_err rc = read_row(d, &d->first, &more, err);
    if (rc == SP_OK && !more)
        rc = sp_fail(err, SP_EFORMAT, "%s: there are no rows", d->what);
    d->has_first = true;
    return rc;
}

static char *copy_of(const char *text)
{
    return sp_xstrdup(text != NULL ? text : "");
}

/* Takes rows. */
static enum sp_err start(struct tok_rows *rows, const char *what, enum tok_format format,
                         const struct tok_fields *fields, struct tok_dataset **ret,
                         struct sp_error *err)
{
    struct tok_dataset *d = sp_xalloc(sizeof(*d));
    d->rows = rows;
    d->what = sp_xstrdup(what);
    d->format = format;
    if (fields != NULL && tok_fields_given(fields)) {
        d->format = TOK_FORMAT_MAPPED;
        d->fields = (struct tok_fields){.prompt = copy_of(fields->prompt),
                                        .response = copy_of(fields->response),
                                        .rejected = copy_of(fields->rejected),
                                        .system = copy_of(fields->system)};
    }
    enum sp_err rc = SP_OK;
    if (d->format == TOK_FORMAT_MAPPED && d->fields.prompt == NULL)
        rc = sp_fail(err, SP_EINVAL,
                     "%s: format mapped needs the names of the fields: [data] prompt, response",
                     what);
    if (rc == SP_OK)
        rc = read_first(d, err);
    if (rc == SP_OK)
        *ret = d;
    else
        tok_dataset_close(d);
    return rc;
}

enum sp_err tok_dataset_open_fields(const char *path, const char *what, enum tok_format format,
                                    const struct tok_fields *fields, struct tok_dataset **ret,
                                    struct sp_error *err)
{
    struct tok_rows *rows = NULL;
    what = what != NULL ? what : path;
    enum sp_err rc = tok_rows_open(path, what, &rows, err);
    return rc == SP_OK ? start(rows, what, format, fields, ret, err) : rc;
}

enum sp_err tok_dataset_open(const char *path, const char *what, enum tok_format format,
                             struct tok_dataset **ret, struct sp_error *err)
{
    return tok_dataset_open_fields(path, what, format, NULL, ret, err);
}

enum sp_err tok_dataset_open_memory(const void *data, size_t length, const char *what,
                                    enum tok_format format, struct tok_dataset **ret,
                                    struct sp_error *err)
{
    struct tok_rows *rows = NULL;
    enum sp_err rc = tok_rows_open_memory(data, length, what, NULL, &rows, err);
    return rc == SP_OK ? start(rows, what, format, NULL, ret, err) : rc;
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
    return tok_rows_bytes_read(dataset->rows);
}

uint64_t tok_dataset_bytes_total(const struct tok_dataset *dataset)
{
    return tok_rows_bytes_total(dataset->rows);
}

void tok_dataset_close(struct tok_dataset *dataset)
{
    if (dataset == NULL)
        return;
    tok_row_store_deinit(&dataset->store);
    tok_rows_close(dataset->rows);
    free((void *)dataset->fields.prompt);
    free((void *)dataset->fields.response);
    free((void *)dataset->fields.rejected);
    free((void *)dataset->fields.system);
    free(dataset->what);
    free(dataset);
}

/* Reading rows: what kind of file it is, and each row's JSON to its format. */
#include "common/text/dataset.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/dataset_internal.h"

enum sp_err tok_row_too_long(const struct tok_dataset *d, uint64_t line, struct sp_error *err)
{
    return sp_fail(err, SP_ELIMIT, "%s:%llu: the row is longer than %d bytes", d->what,
                   (unsigned long long)line, SP_MAX_DATASET_LINE);
}

static enum sp_err read_row(struct tok_dataset *d, struct tok_row *ret, bool *ret_more,
                            struct sp_error *err)
{
    uint64_t line = d->line;
    json_t *row = NULL;
    enum sp_err rc =
        d->csv != NULL ? tok_csv_read(d, &row, &line, err) : tok_json_read(d, &row, &line, err);
    if (rc == SP_OK && row == NULL) {
        rc = tok_source_error(d->source, err);
        *ret_more = false;
    }
    if (rc != SP_OK || row == NULL)
        return rc;
    char *where = sp_xprintf("%s:%llu", d->what, (unsigned long long)line);
    if (d->rows >= SP_MAX_DATASET_ROWS)
        rc = sp_fail(err, SP_ELIMIT, "%s: more than %d rows", where, SP_MAX_DATASET_ROWS);
    if (rc == SP_OK && d->format == TOK_FORMAT_AUTO)
        rc = tok_format_recognize(row, where, &d->format, err);
    struct tok_row result = {.index = d->rows, .line = line};
    if (rc == SP_OK)
        rc = tok_row_parse(&d->store, d->format, &d->fields, row, where, &result, err);
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

/* ---- opening ---- */

static bool ends_with(const char *text, size_t length, const char *end)
{
    size_t n = strlen(end);
    return length >= n && strncasecmp(text + length - n, end, n) == 0;
}

/* By the name, whatever it is compressed with. */
static bool named_csv(const char *name)
{
    size_t length = strlen(name);
    if (ends_with(name, length, ".gz"))
        length -= 3;
    else if (ends_with(name, length, ".zst"))
        length -= 4;
    return ends_with(name, length, ".csv");
}

/* Text with a comma in its first line, which starts as no JSON does. */
static bool looks_like_csv(const struct tok_source *source)
{
    size_t length = (size_t)(source->end - source->at);
    const uint8_t *line = memchr(source->at, '\n', length);
    if (length == 0 || source->at[0] == '{' || source->at[0] == '[')
        return false;
    return memchr(source->at, ',', line != NULL ? (size_t)(line - source->at) : length) != NULL;
}

static enum sp_err begin(struct tok_dataset *d, const char *path, struct sp_error *err)
{
    if (d->source->at == d->source->end)
        (void)tok_source_fill(d->source);
    enum sp_err rc = tok_source_error(d->source, err);
    if (rc != SP_OK)
        return rc;
    /* A byte order mark, which some editors put there. */
    if (d->source->end - d->source->at >= 3 && memcmp(d->source->at, "\xef\xbb\xbf", 3) == 0)
        d->source->at += 3;
    if (named_csv(d->what) || (path != NULL && named_csv(path)) || looks_like_csv(d->source)) {
        rc = tok_csv_open(d, err);
    } else {
        int c;
        do
            c = tok_dataset_byte(d);
        while (tok_is_json_space(c));
        d->is_array = c == '[';
        if (c != '[' && c != TOK_SOURCE_END)
            tok_source_unread(d->source);
    }
    bool more = false;
    if (rc == SP_OK)
        rc = read_row(d, &d->first, &more, err);
    if (rc == SP_OK && !more)
        rc = sp_fail(err, SP_EFORMAT, "%s: there are no rows", d->what);
    d->has_first = true;
    return rc;
}

static char *copy_of(const char *text)
{
    return sp_xstrdup(text != NULL ? text : "");
}

static enum sp_err start(struct tok_source *source, const char *path, const char *what,
                         enum tok_format format, const struct tok_fields *fields,
                         struct tok_dataset **ret, struct sp_error *err)
{
    struct tok_dataset *d = sp_xalloc(sizeof(*d));
    d->source = source;
    d->what = sp_xstrdup(what);
    d->format = format;
    d->line = 1;
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
        rc = begin(d, path, err);
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
    struct tok_source *source = NULL;
    what = what != NULL ? what : path;
    enum sp_err rc = tok_source_open(path, what, &source, err);
    return rc == SP_OK ? start(source, path, what, format, fields, ret, err) : rc;
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
    struct tok_source *source = NULL;
    enum sp_err rc = tok_source_open_memory(data, length, what, &source, err);
    return rc == SP_OK ? start(source, NULL, what, format, NULL, ret, err) : rc;
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
    return tok_source_read_bytes(dataset->source);
}

uint64_t tok_dataset_bytes_total(const struct tok_dataset *dataset)
{
    return tok_source_total_bytes(dataset->source);
}

void tok_dataset_close(struct tok_dataset *dataset)
{
    if (dataset == NULL)
        return;
    tok_row_store_deinit(&dataset->store);
    sp_buf_deinit(&dataset->text);
    tok_csv_close(dataset->csv);
    tok_source_close(dataset->source);
    free((void *)dataset->fields.prompt);
    free((void *)dataset->fields.response);
    free((void *)dataset->fields.rejected);
    free((void *)dataset->fields.system);
    free(dataset->what);
    free(dataset);
}

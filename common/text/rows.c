/* What contains the rows: by the name and the first bytes. */
#include "common/text/rows.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/rows_internal.h"

enum sp_err tok_row_too_long(const struct tok_rows *r, uint64_t line, struct sp_error *err)
{
    return sp_fail(err, SP_ELIMIT, "%s:%llu: the row is longer than %d bytes", r->what,
                   (unsigned long long)line, SP_MAX_DATASET_LINE);
}

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

/* Text with a comma in its first line that is not blank, which starts as no JSON does. */
static bool looks_like_csv(const struct tok_source *source)
{
    const uint8_t *at = source->at;
    while (at < source->end && tok_is_json_space(*at))
        at++;
    if (at == source->end || *at == '{' || *at == '[')
        return false;
    size_t length = (size_t)(source->end - at);
    const uint8_t *line = memchr(at, '\n', length);
    return memchr(at, ',', line != NULL ? (size_t)(line - at) : length) != NULL;
}

/* path: NULL from memory. */
static enum sp_err begin(struct tok_rows *r, const char *path, const json_t *columns,
                         struct sp_error *err)
{
    if (r->source->at == r->source->end)
        (void)tok_source_fill(r->source);
    enum sp_err rc = tok_source_error(r->source, err);
    if (rc != SP_OK)
        return rc;
    /* A byte order mark, which some editors put there. */
    if (r->source->end - r->source->at >= 3 && memcmp(r->source->at, "\xef\xbb\xbf", 3) == 0)
        r->source->at += 3;
    if (named_csv(r->what) || (path != NULL && named_csv(path)) || looks_like_csv(r->source))
        return tok_csv_open(r, columns, err);
    int c;
    do
        c = tok_rows_byte(r);
    while (tok_is_json_space(c));
    r->is_array = c == '[';
    if (c != '[' && c != TOK_SOURCE_END)
        tok_source_unread(r->source);
    return SP_OK;
}

static enum sp_err start(struct tok_source *source, const char *path, const char *what,
                         const json_t *columns, struct tok_rows **ret, struct sp_error *err)
{
    struct tok_rows *r = sp_xalloc(sizeof(*r));
    *r = (struct tok_rows){.source = source, .what = sp_xstrdup(what), .line = 1};
    enum sp_err rc = begin(r, path, columns, err);
    if (rc == SP_OK)
        *ret = r;
    else
        tok_rows_close(r);
    return rc;
}

enum sp_err tok_rows_open(const char *path, const char *what, struct tok_rows **ret,
                          struct sp_error *err)
{
    struct tok_source *source = NULL;
    enum sp_err rc = tok_source_open(path, what, &source, err);
    return rc == SP_OK ? start(source, path, what, NULL, ret, err) : rc;
}

enum sp_err tok_rows_open_memory(const void *data, size_t length, const char *what,
                                 const json_t *columns, struct tok_rows **ret, struct sp_error *err)
{
    struct tok_source *source = NULL;
    enum sp_err rc = tok_source_open_memory(data, length, what, &source, err);
    return rc == SP_OK ? start(source, NULL, what, columns, ret, err) : rc;
}

enum sp_err tok_rows_next(struct tok_rows *r, json_t **ret, uint64_t *ret_line,
                          struct sp_error *err)
{
    json_t *row = NULL;
    uint64_t line = r->line;
    enum sp_err rc =
        r->csv != NULL ? tok_csv_read(r, &row, &line, err) : tok_json_read(r, &row, &line, err);
    if (rc == SP_OK && row == NULL)
        rc = tok_source_error(r->source, err);
    if (rc == SP_OK && row != NULL && r->count >= SP_MAX_DATASET_ROWS) {
        json_decref(row);
        rc = sp_fail(err, SP_ELIMIT, "%s:%llu: more than %d rows", r->what,
                     (unsigned long long)line, SP_MAX_DATASET_ROWS);
    }
    if (rc != SP_OK)
        return rc;
    r->count += row != NULL;
    *ret = row;
    *ret_line = line;
    return SP_OK;
}

uint64_t tok_rows_bytes_read(const struct tok_rows *r)
{
    return tok_source_read_bytes(r->source);
}

uint64_t tok_rows_bytes_total(const struct tok_rows *r)
{
    return tok_source_total_bytes(r->source);
}

uint64_t tok_rows_text_bytes(const struct tok_rows *r)
{
    return tok_source_text_bytes(r->source);
}

void tok_rows_close(struct tok_rows *r)
{
    if (r == NULL)
        return;
    sp_buf_deinit(&r->text);
    tok_csv_close(r->csv);
    tok_source_close(r->source);
    free(r->what);
    free(r);
}

/* The rows of a file in memory: JSON Lines, a JSON array, CSV. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/task/internal.h"

struct reader {
    const char *at, *end, *what;
    uint64_t line;
    json_t *rows;
    size_t limit; /* SIZE_MAX: all */
    struct sp_error *err;
};

static bool is_full(const struct reader *r)
{
    return json_array_size(r->rows) >= r->limit;
}

static enum sp_err add(struct reader *r, json_t *row, uint64_t line)
{
    if (!json_is_object(row)) {
        json_decref(row);
        return sp_fail(r->err, SP_EFORMAT, "%s:%llu: not an object", r->what,
                       (unsigned long long)line);
    }
    json_array_append_new(r->rows, task_row_published(row));
    return SP_OK;
}

/* ---- JSON ---- */

static enum sp_err read_array(struct reader *r)
{
    json_t *all = NULL;
    enum sp_err rc = sp_json_parse(r->at, (size_t)(r->end - r->at), r->what, &all, r->err);
    for (size_t i = 0; i < json_array_size(all) && rc == SP_OK && !is_full(r); i++)
        rc = add(r, json_incref(json_array_get(all, i)), i + 1);
    json_decref(all);
    return rc;
}

static enum sp_err read_lines(struct reader *r)
{
    enum sp_err rc = SP_OK;
    while (r->at < r->end && rc == SP_OK && !is_full(r)) {
        const char *newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
        const char *stop = newline != NULL ? newline : r->end;
        r->line++;
        if (strspn(r->at, " \t\r") < (size_t)(stop - r->at)) {
            char *where = sp_xprintf("%s:%llu", r->what, (unsigned long long)r->line);
            json_t *row = NULL;
            rc = sp_json_parse(r->at, (size_t)(stop - r->at), where, &row, r->err);
            free(where);
            if (rc == SP_OK)
                rc = add(r, row, r->line);
        }
        r->at = stop + 1;
    }
    return rc;
}

/* ---- CSV (RFC 4180) ---- */

/* One cell into out; *ret_last: it ends its row. */
static enum sp_err read_cell(struct reader *r, struct sp_buf *out, bool *ret_last)
{
    uint64_t line = r->line;
    sp_buf_clear(out);
    if (r->at < r->end && *r->at == '"') {
        r->at++;
        for (;; r->at++) {
            if (r->at >= r->end)
                return sp_fail(r->err, SP_EFORMAT, "%s:%llu: a quoted cell does not end", r->what,
                               (unsigned long long)line);
            r->line += *r->at == '\n';
            if (*r->at == '"' && (r->at + 1 >= r->end || r->at[1] != '"'))
                break;
            r->at += *r->at == '"';
            sp_buf_putc(out, *r->at);
        }
        r->at++;
    }
    while (r->at < r->end && *r->at != ',' && *r->at != '\n' && *r->at != '\r')
        sp_buf_putc(out, *r->at++);
    *ret_last = r->at >= r->end || *r->at != ',';
    if (r->at < r->end && *r->at == '\r')
        r->at++;
    if (r->at < r->end && (*r->at == ',' || *r->at == '\n'))
        r->at++;
    return SP_OK;
}

/* The next row as a list of cells; an empty list for an empty line. */
static enum sp_err read_cells(struct reader *r, struct sp_buf *cell, json_t **ret)
{
    json_t *cells = json_array();
    bool last = false;
    enum sp_err rc = SP_OK;
    r->line++;
    uint64_t line = r->line;
    while (!last && rc == SP_OK) {
        rc = read_cell(r, cell, &last);
        if (rc != SP_OK)
            break;
        json_t *text = json_stringn(cell->data != NULL ? cell->data : "", cell->length);
        if (text == NULL)
            rc = sp_fail(r->err, SP_EFORMAT, "%s:%llu: not UTF-8", r->what,
                         (unsigned long long)line);
        else
            json_array_append_new(cells, text);
    }
    if (rc == SP_OK && json_array_size(cells) == 1 &&
        json_string_length(json_array_get(cells, 0)) == 0)
        json_array_clear(cells);
    if (rc == SP_OK)
        *ret = cells;
    else
        json_decref(cells);
    return rc;
}

static enum sp_err add_cells(struct reader *r, const json_t *names, json_t *cells, uint64_t line)
{
    size_t n = json_array_size(names);
    if (json_array_size(cells) == 0)
        return SP_OK;
    if (json_array_size(cells) != n)
        return sp_fail(r->err, SP_EFORMAT, "%s:%llu: %zu cells, expected %zu", r->what,
                       (unsigned long long)line, json_array_size(cells), n);
    json_t *row = json_object();
    for (size_t i = 0; i < n; i++)
        json_object_set(row, json_string_value(json_array_get(names, i)), json_array_get(cells, i));
    return add(r, row, line);
}

static enum sp_err read_csv(struct reader *r, const json_t *columns)
{
    struct sp_buf cell = SP_BUF_INIT;
    json_t *names = json_incref((json_t *)columns);
    enum sp_err rc = SP_OK;
    if (names == NULL)
        rc = read_cells(r, &cell, &names);
    while (r->at < r->end && rc == SP_OK && !is_full(r)) {
        json_t *cells = NULL;
        uint64_t line = r->line + 1;
        rc = read_cells(r, &cell, &cells);
        if (rc == SP_OK)
            rc = add_cells(r, names, cells, line);
        json_decref(cells);
    }
    json_decref(names);
    sp_buf_deinit(&cell);
    return rc;
}

static bool is_csv(const char *what)
{
    const char *dot = strrchr(what, '.');
    return dot != NULL && strcasecmp(dot, ".csv") == 0;
}

enum sp_err task_rows_read(const char *data, size_t length, const char *what, const json_t *columns,
                           int64_t limit, json_t **ret, struct sp_error *err)
{
    struct reader r = {.at = data, .end = data + length, .what = what, .rows = json_array()};
    r.limit = limit > 0 ? (size_t)limit : SIZE_MAX;
    r.err = err;
    if (length >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        r.at += 3;
    enum sp_err rc;
    if (is_csv(what))
        rc = read_csv(&r, columns);
    else if (r.at + strspn(r.at, " \t\r\n") < r.end && r.at[strspn(r.at, " \t\r\n")] == '[')
        rc = read_array(&r);
    else
        rc = read_lines(&r);
    if (rc == SP_OK && json_array_size(r.rows) == 0)
        rc = sp_fail(err, SP_EFORMAT, "%s: no rows", what);
    if (rc == SP_OK)
        *ret = r.rows;
    else
        json_decref(r.rows);
    return rc;
}

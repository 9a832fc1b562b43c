/* The rows of a file in memory, all of them at once. */
#include "common/base/limits.h"
#include "common/task/internal.h"
#include "common/text/rows.h"

/* Takes row. */
static enum sp_err add(json_t *rows, json_t *row, const char *what, uint64_t line,
                       struct sp_error *err)
{
    if (!json_is_object(row)) {
        json_decref(row);
        return sp_fail(err, SP_EFORMAT, "%s:%llu: not an object", what, (unsigned long long)line);
    }
    json_array_append_new(rows, task_row_published(row));
    return SP_OK;
}

static enum sp_err read_all(struct tok_rows *from, const char *what, size_t limit, json_t *rows,
                            struct sp_error *err)
{
    while (json_array_size(rows) < limit) {
        json_t *row = NULL;
        uint64_t line = 0;
        enum sp_err rc = tok_rows_next(from, &row, &line, err);
        if (rc != SP_OK || row == NULL)
            return rc;
        rc = add(rows, row, what, line, err);
        /* What is compressed may be small as it comes. */
        if (rc == SP_OK && tok_rows_text_bytes(from) > SP_MAX_TASK_DATA)
            rc = sp_fail(err, SP_ELIMIT, "%s:%llu: more than %d bytes of text", what,
                         (unsigned long long)line, SP_MAX_TASK_DATA);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

enum sp_err task_rows_read(const char *data, size_t length, const char *what, const json_t *columns,
                           int64_t limit, json_t **ret, struct sp_error *err)
{
    struct tok_rows *from = NULL;
    json_t *rows = json_array();
    enum sp_err rc = tok_rows_open_memory(data, length, what, columns, &from, err);
    if (rc == SP_OK)
        rc = read_all(from, what, limit > 0 ? (size_t)limit : SIZE_MAX, rows, err);
    if (rc == SP_OK && json_array_size(rows) == 0)
        rc = sp_fail(err, SP_EFORMAT, "%s: no rows", what);
    if (rc == SP_OK)
        *ret = json_incref(rows);
    json_decref(rows);
    tok_rows_close(from);
    return rc;
}

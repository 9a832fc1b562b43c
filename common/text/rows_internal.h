/* rows_internal: what the containers of rows share: JSON (lines or one array) and CSV. Within
 * common/text. */
#ifndef SPIN_TEXT_ROWS_INTERNAL_H
#define SPIN_TEXT_ROWS_INTERNAL_H

#include "common/base/buf.h"
#include "common/text/rows.h"
#include "common/text/source.h"

struct tok_csv;

struct tok_rows {
    struct tok_source *source;
    char *what;          /* owned */
    bool is_array;       /* one JSON array, not lines */
    struct tok_csv *csv; /* NULL: JSON */
    uint64_t count;      /* rows read so far */
    uint64_t line;       /* of the next byte, from 1 */
    struct sp_buf text;  /* the row being read */
};

/* The next byte, or TOK_SOURCE_END; counts lines. */
static inline int tok_rows_byte(struct tok_rows *r)
{
    int c = tok_source_next(r->source);
    r->line += c == '\n';
    return c;
}

static inline bool tok_is_json_space(int c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The row being read would be longer than SP_MAX_DATASET_LINE. */
enum sp_err tok_row_too_long(const struct tok_rows *r, uint64_t line, struct sp_error *err);

/* Each reads the next row: *ret a new reference, *ret_line where it starts; NULL at the end. */
enum sp_err tok_json_read(struct tok_rows *r, json_t **ret, uint64_t *ret_line,
                          struct sp_error *err) SP_MUST_USE;
enum sp_err tok_csv_read(struct tok_rows *r, json_t **ret, uint64_t *ret_line,
                         struct sp_error *err) SP_MUST_USE;
/* Reads the header, unless columns are given. */
enum sp_err tok_csv_open(struct tok_rows *r, const json_t *columns,
                         struct sp_error *err) SP_MUST_USE;
void tok_csv_close(struct tok_csv *csv); /* NULL is fine */

#endif

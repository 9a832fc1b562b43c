/* rows: a streaming reader of the rows of a file, each as JSON, whatever they are for.
 *
 * A file is JSON Lines (one value a line; blank lines are skipped), one JSON array of objects, or
 * CSV (RFC 4180 in UTF-8, the first row names the fields): the first of them unless the name ends
 * in .csv or the first bytes say otherwise. gzip and zstd are decompressed on the way. Memory is
 * bounded by SP_MAX_DATASET_LINE a row, whatever the size of the file. One thread; blocks on the
 * file. */
#ifndef SPIN_TEXT_ROWS_H
#define SPIN_TEXT_ROWS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct tok_rows;

/* `what` names the file in messages. */
enum sp_err tok_rows_open(const char *path, const char *what, struct tok_rows **ret,
                          struct sp_error *err) SP_MUST_USE;
/* The same from memory, which is borrowed until close. columns: a JSON array of names for a CSV
 * file whose first row is a row like others; NULL: that names the fields. */
enum sp_err tok_rows_open_memory(const void *data, size_t length, const char *what,
                                 const json_t *columns, struct tok_rows **ret,
                                 struct sp_error *err) SP_MUST_USE;
/* The next row, a new reference, and the line on which it starts; *ret = NULL at the end. Of CSV
 * and an array it is an object. After an error there is no going on. */
enum sp_err tok_rows_next(struct tok_rows *rows, json_t **ret, uint64_t *ret_line,
                          struct sp_error *err) SP_MUST_USE;
/* For progress: bytes of the file, as it lies there, that were read, and that there are (0:
 * unknown). */
uint64_t tok_rows_bytes_read(const struct tok_rows *rows);
uint64_t tok_rows_bytes_total(const struct tok_rows *rows);
/* Bytes of text that were taken out of it so far, decompressed. */
uint64_t tok_rows_text_bytes(const struct tok_rows *rows);
void tok_rows_close(struct tok_rows *rows); /* NULL is fine */

#endif

/* dataset_row: the formats of a row. Within common/text. */
#ifndef SPIN_TEXT_DATASET_ROW_H
#define SPIN_TEXT_DATASET_ROW_H

#include <jansson.h>

#include "common/base/buf.h"
#include "common/text/dataset.h"

/* What a row's strings live in until the next row. */
struct tok_row_store {
    json_t *row;
    struct chat_turn *turns;
    size_t turn_capacity;
    struct sp_buf merged; /* instruction and input */
};

void tok_row_store_deinit(struct tok_row_store *store);
/* The format that the fields of a row speak of; `where` is FILE:LINE. */
enum sp_err tok_format_recognize(const json_t *row, const char *where, enum tok_format *ret,
                                 struct sp_error *err) SP_MUST_USE;
/* Takes the reference to row, fills the strings of *ret. fields: of TOK_FORMAT_MAPPED. */
enum sp_err tok_row_parse(struct tok_row_store *store, enum tok_format format,
                          const struct tok_fields *fields, json_t *row, const char *where,
                          struct tok_row *ret, struct sp_error *err) SP_MUST_USE;

/* ---- for the formats ---- */

/* Appends the names of a row's fields, quoted, at most some 200 bytes of them. */
void tok_row_names(const json_t *row, struct sp_buf *out);
/* SP_EFORMAT: WHERE: field "FIELD": problem. */
enum sp_err tok_row_bad(struct sp_error *err, const char *where, const char *field,
                        const char *problem);
/* A string that is not empty. */
enum sp_err tok_row_string(const json_t *value, const char *field, const char *where,
                           const char **ret, struct sp_error *err) SP_MUST_USE;
void tok_row_add_turn(struct tok_row_store *store, size_t *count, const char *role,
                      const char *content);
enum sp_err tok_row_message(const json_t *list, size_t i, const char *field, const char *where,
                            struct chat_turn *ret, struct sp_error *err) SP_MUST_USE;
/* TOK_FORMAT_MAPPED. */
enum sp_err tok_row_mapped(struct tok_row_store *store, const struct tok_fields *fields,
                           const json_t *row, const char *where, struct tok_row *ret,
                           struct sp_error *err) SP_MUST_USE;

#endif

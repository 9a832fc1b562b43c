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
/* Takes the reference to row, fills the strings of *ret. */
enum sp_err tok_row_parse(struct tok_row_store *store, enum tok_format format, json_t *row,
                          const char *where, struct tok_row *ret, struct sp_error *err) SP_MUST_USE;

#endif

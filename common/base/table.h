/* table: aligned plain-text tables and proportional bars for terminals. Output only; one thread. */
#ifndef SPIN_BASE_TABLE_H
#define SPIN_BASE_TABLE_H

#include <stdio.h>

struct sp_table;
/* headers: NULL-terminated. A header that starts with '>' is right-aligned. */
struct sp_table *sp_table_new(const char *const *headers);
void sp_table_cell(struct sp_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void sp_table_print(struct sp_table *table, FILE *out);
void sp_table_free(struct sp_table *table);

#endif

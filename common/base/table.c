#include "common/base/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/base/mem.h"

struct sp_table {
    char **cells; /* row by row; the first row is the headers */
    size_t cell_count;
    size_t capacity;
    size_t columns;
    bool *right;
};

/* Columns on the terminal: one per code point, enough for the text that we print. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text != 0; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

static void add_cell(struct sp_table *table, char *text)
{
    if (table->cell_count == table->capacity) {
        table->capacity = SP_MAX(table->capacity * 2, 32);
        table->cells = sp_xgrow(table->cells, table->capacity, sizeof(char *));
    }
    table->cells[table->cell_count++] = text;
}

struct sp_table *sp_table_new(const char *const *headers)
{
    struct sp_table *table = sp_xalloc(sizeof(*table));
    while (headers[table->columns] != NULL)
        table->columns++;
    SP_ASSERT(table->columns > 0);
    table->right = sp_xarray(table->columns, sizeof(bool));
    for (size_t i = 0; i < table->columns; i++) {
        table->right[i] = headers[i][0] == '>';
        add_cell(table, sp_xstrdup(headers[i] + table->right[i]));
    }
    return table;
}

void sp_table_cell(struct sp_table *table, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    SP_ASSERT(n >= 0);
    /* A cell may quote a prompt or a peer's name: it must not move the cursor. */
    for (unsigned char *p = (unsigned char *)text; *p != 0; p++)
        if (*p < 0x20 || *p == 0x7f)
            *p = ' ';
    add_cell(table, text);
}

static void print_row(const struct sp_table *table, size_t row, const int *widths, FILE *out)
{
    for (size_t i = 0; i < table->columns; i++) {
        size_t index = row * table->columns + i;
        const char *text = index < table->cell_count ? table->cells[index] : "";
        int pad = widths[i] - width_of(text);
        bool last = i + 1 == table->columns;
        fprintf(out, "%s%*s%s", i > 0 ? "  " : "", table->right[i] ? pad : 0, "", text);
        if (!table->right[i] && !last)
            fprintf(out, "%*s", pad, "");
    }
    fputc('\n', out);
}

void sp_table_print(struct sp_table *table, FILE *out)
{
    int *widths = sp_xarray(table->columns, sizeof(int));
    for (size_t i = 0; i < table->cell_count; i++) {
        int *width = &widths[i % table->columns];
        *width = SP_MAX(*width, width_of(table->cells[i]));
    }
    size_t rows = (table->cell_count + table->columns - 1) / table->columns;
    for (size_t row = 0; row < rows; row++)
        print_row(table, row, widths, out);
    free(widths);
}

void sp_table_free(struct sp_table *table)
{
    if (table == NULL)
        return;
    for (size_t i = 0; i < table->cell_count; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table->right);
    free(table);
}

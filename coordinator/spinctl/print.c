#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/table.h"
#include "coordinator/spinctl/spinctl.h"

void ctl_print_json(const json_t *value)
{
    char *text = sp_json_canonical(value);
    puts(text);
    free(text);
}

void ctl_print_text(const char *text, int indent)
{
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '\n')
            printf("\n%*s", indent, "");
        else if ((*at < 0x20 && *at != '\t') || *at == 0x7f)
            printf("\\x%02x", *at);
        else
            putchar(*at);
    }
}

const json_t *ctl_get(const json_t *object, const char *path)
{
    char part[128];
    while (object && path[0]) {
        size_t length = strcspn(path, ".");
        if (length >= sizeof(part))
            return NULL;
        memcpy(part, path, length);
        part[length] = '\0';
        object = json_object_get(object, part);
        path += length + (path[length] == '.');
    }
    return object;
}

double ctl_number(const json_t *object, const char *path, double otherwise)
{
    const json_t *value = ctl_get(object, path);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

bool ctl_whole(const char *text, int64_t *ret)
{
    char *end = NULL;
    errno = 0;
    *ret = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == '\0';
}

int64_t ctl_integer(const json_t *object, const char *path, int64_t otherwise)
{
    const json_t *value = ctl_get(object, path);
    return json_is_integer(value) ? (int64_t)json_integer_value(value) : otherwise;
}

const char *ctl_string(const json_t *object, const char *path, const char *otherwise)
{
    const json_t *value = ctl_get(object, path);
    return json_is_string(value) ? json_string_value(value) : otherwise;
}

static void cell_number(struct sp_table *table, double x, const char *format)
{
    char text[64];
    if (!isfinite(x))
        sp_table_cell(table, "-");
    else if (strcmp(format, "f3") == 0)
        sp_table_cell(table, "%.3f", x);
    else if (strcmp(format, "f4") == 0)
        sp_table_cell(table, "%.4f", x);
    else if (strcmp(format, "f1") == 0)
        sp_table_cell(table, "%.1f", x);
    else if (strcmp(format, "e") == 0)
        sp_table_cell(table, "%.2e", x);
    else if (strcmp(format, "pct") == 0)
        sp_table_cell(table, "%.1f %%", 100 * x);
    else if (strcmp(format, "ms") == 0) {
        sp_format_duration((int64_t)x, text, sizeof(text));
        sp_table_cell(table, "%s", text);
    } else if (strcmp(format, "utc") == 0) {
        sp_format_utc((int64_t)x, text);
        sp_table_cell(table, "%s", text);
    } else if (strcmp(format, "bytes") == 0) {
        sp_format_bytes((uint64_t)x, text, sizeof(text));
        sp_table_cell(table, "%s", text);
    } else if (strcmp(format, "number") == 0 && x < 0)
        sp_table_cell(table, "base");
    else
        sp_table_cell(table, "%.12g", x);
}

static void cell(struct sp_table *table, const json_t *value, const char *format)
{
    if (json_is_string(value))
        sp_table_cell(table, strcmp(format, "hex12") == 0 ? "%.12s" : "%s",
                      json_string_value(value));
    else if (json_is_boolean(value))
        sp_table_cell(table, "%s", json_is_true(value) ? "yes" : "no");
    else if (json_is_number(value))
        cell_number(table, json_number_value(value), format);
    else
        sp_table_cell(table, "-");
}

void ctl_print_table(const json_t *rows, const struct ctl_column *columns, size_t count)
{
    const char **headers = sp_xarray(count + 1, sizeof(*headers));
    for (size_t i = 0; i < count; i++)
        headers[i] = columns[i].header;
    struct sp_table *table = sp_table_new(headers);
    for (size_t i = 0; i < json_array_size(rows); i++)
        for (size_t c = 0; c < count; c++)
            cell(table, ctl_get(json_array_get(rows, i), columns[c].key), columns[c].format);
    sp_table_print(table, stdout);
    sp_table_free(table);
    free(headers);
}

void ctl_print_object(const json_t *object, int indent)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        printf("%*s%s: ", indent, "", key);
        if (json_is_object(value)) {
            printf("\n");
            ctl_print_object(value, indent + 2);
        } else if (json_is_string(value)) {
            ctl_print_text(json_string_value(value), indent + 2);
            printf("\n");
        } else {
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
            printf("%s\n", text ? text : "?");
            free(text);
        }
    }
}

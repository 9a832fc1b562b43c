/* Checked columns: what is on the disk is outside input like any other. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/store/db.h"

struct sdb_row sdb_row(struct sdb *db, sqlite3_stmt *statement, struct sp_arena *arena,
                       const char *table)
{
    return (struct sdb_row){
        .db = db, .statement = statement, .arena = arena, .table = table, .bad = -1};
}

static int take(struct sdb_row *row, int type)
{
    int column = row->next++;
    if (row->bad < 0 && sqlite3_column_type(row->statement, column) != type)
        row->bad = column;
    return column;
}

static void mark_bad(struct sdb_row *row, int column)
{
    if (row->bad < 0)
        row->bad = column;
}

int64_t sdb_i64(struct sdb_row *row, int64_t min, int64_t max)
{
    int column = take(row, SQLITE_INTEGER);
    int64_t value = sqlite3_column_int64(row->statement, column);
    if (value >= min && value <= max)
        return value;
    mark_bad(row, column);
    return 0;
}

uint64_t sdb_u64(struct sdb_row *row, uint64_t max)
{
    return (uint64_t)sdb_i64(row, 0, max > INT64_MAX ? INT64_MAX : (int64_t)max);
}

uint32_t sdb_u32(struct sdb_row *row)
{
    return (uint32_t)sdb_u64(row, UINT32_MAX);
}

bool sdb_bool(struct sdb_row *row)
{
    return sdb_u64(row, 1) != 0;
}

double sdb_f64(struct sdb_row *row)
{
    if (sqlite3_column_type(row->statement, row->next) == SQLITE_NULL) {
        row->next++;
        return (double)NAN;
    }
    return sqlite3_column_double(row->statement, take(row, SQLITE_FLOAT));
}

float sdb_f32(struct sdb_row *row)
{
    if (sqlite3_column_type(row->statement, row->next) == SQLITE_NULL) {
        row->next++;
        return NAN;
    }
    uint32_t bits = sdb_u32(row);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void *take_bytes(struct sdb_row *row, size_t count, size_t elem_bytes)
{
    void *copy = sp_arena_alloc(row->arena, count, elem_bytes);
    if (copy == NULL)
        row->full = true;
    return copy;
}

const char *sdb_text(struct sdb_row *row)
{
    int column = take(row, SQLITE_TEXT);
    const char *text = (const char *)sqlite3_column_text(row->statement, column);
    size_t length = (size_t)sqlite3_column_bytes(row->statement, column);
    if (text == NULL || length == 0)
        return "";
    if (memchr(text, 0, length)) {
        mark_bad(row, column);
        return "";
    }
    char *copy = take_bytes(row, length + 1, 1);
    if (copy == NULL)
        return "";
    memcpy(copy, text, length);
    return copy;
}

void sdb_digest(struct sdb_row *row, struct sp_digest *ret)
{
    int column = take(row, SQLITE_BLOB);
    const void *data = sqlite3_column_blob(row->statement, column);
    if (data && sqlite3_column_bytes(row->statement, column) == SP_DIGEST_BYTES)
        memcpy(ret->bytes, data, SP_DIGEST_BYTES);
    else
        mark_bad(row, column);
}

struct proto_ids sdb_ids(struct sdb_row *row)
{
    struct proto_ids ids = {0};
    int column = take(row, SQLITE_BLOB);
    const void *data = sqlite3_column_blob(row->statement, column);
    size_t bytes = (size_t)sqlite3_column_bytes(row->statement, column);
    if (bytes % sizeof(int32_t) != 0) {
        mark_bad(row, column);
        return ids;
    }
    if (data == NULL || bytes == 0)
        return ids;
    int32_t *copy = take_bytes(row, bytes / sizeof(int32_t), sizeof(int32_t));
    if (copy == NULL)
        return ids;
    memcpy(copy, data, bytes);
    ids = (struct proto_ids){.ids = copy, .count = (uint32_t)(bytes / sizeof(int32_t))};
    for (uint32_t i = 0; i < ids.count; i++) {
        if (copy[i] < 0)
            mark_bad(row, column);
    }
    return ids;
}

/* The first columns are the key in every query of the store. */
static void key_text(struct sdb_row *row, char *ret, size_t bytes)
{
    size_t used = 0;
    ret[0] = '\0';
    for (int i = 0; i < 3 && i < sqlite3_column_count(row->statement) && used < bytes; i++) {
        if (sqlite3_column_type(row->statement, i) != SQLITE_INTEGER)
            continue;
        int n = snprintf(ret + used, bytes - used, "%s%s=%lld", used ? ", " : "",
                         sqlite3_column_name(row->statement, i),
                         (long long)sqlite3_column_int64(row->statement, i));
        used += n > 0 ? (size_t)n : 0;
    }
}

enum sp_err sdb_row_end(struct sdb_row *row, struct sp_error *err)
{
    if (row->bad >= 0) {
        char key[160];
        key_text(row, key, sizeof(key));
        return sp_fail(err, SP_ECORRUPT,
                       "%s: table %s: row %s: column %s has a value that cannot be: restore the "
                       "file from a backup",
                       row->db->path, row->table, key,
                       sqlite3_column_name(row->statement, row->bad));
    }
    if (row->full)
        return sp_fail(err, SP_ELIMIT, "%s: table %s: the answer is larger than a request may take",
                       row->db->path, row->table);
    return SP_OK;
}

void *sdb_list_add(struct sdb_list *list, size_t elem_bytes)
{
    SP_ASSERT(list->elem_bytes == 0 || list->elem_bytes == elem_bytes);
    list->elem_bytes = elem_bytes;
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 16;
        list->data = sp_xgrow(list->data, list->capacity, elem_bytes);
    }
    void *element = (char *)list->data + list->count++ * elem_bytes;
    memset(element, 0, elem_bytes);
    return element;
}

enum sp_err sdb_list_end(struct sdb_list *list, struct sp_arena *arena, void *ret_array,
                         size_t *ret_count, struct sp_error *err)
{
    void *copy = sp_arena_alloc(arena, list->count ? list->count : 1,
                                list->elem_bytes ? list->elem_bytes : 1);
    if (copy == NULL) {
        free(list->data);
        *list = (struct sdb_list){0};
        return sp_fail(err, SP_ELIMIT, "a listing is larger than a request may take");
    }
    if (list->count)
        memcpy(copy, list->data, list->count * list->elem_bytes);
    memcpy(ret_array, &copy, sizeof(copy));
    *ret_count = list->count;
    free(list->data);
    *list = (struct sdb_list){0};
    return SP_OK;
}

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

enum sp_err sdb_one(struct sdb *db, sqlite3_stmt *statement, const struct sdb_row_kind *kind,
                    struct sp_arena *arena, void *ret, bool *ret_have, struct sp_error *err)
{
    enum sp_err rc = sdb_step(db, statement, ret_have, err);
    if (rc == SP_OK && *ret_have) {
        void *element = sp_xalloc(kind->bytes);
        struct sdb_row row = sdb_row(db, statement, arena, kind->table);
        kind->read(&row, element);
        rc = sdb_row_end(&row, err);
        if (rc == SP_OK)
            memcpy(ret, element, kind->bytes);
        free(element);
    }
    sdb_done(statement);
    return rc;
}

/* A copy in the arena: lists grow by doubling, which an arena can't. */
static enum sp_err to_arena(const void *elements, size_t count, size_t bytes,
                            struct sp_arena *arena, void *ret_array, struct sp_error *err)
{
    void *copy = sp_arena_alloc(arena, count ? count : 1, bytes);
    if (copy == NULL)
        return sp_fail(err, SP_ELIMIT, "a listing is larger than a request may take");
    if (count)
        memcpy(copy, elements, count * bytes);
    memcpy(ret_array, &copy, sizeof(copy));
    return SP_OK;
}

enum sp_err sdb_rows(struct sdb *db, sqlite3_stmt *statement, const struct sdb_row_kind *kind,
                     struct sp_arena *arena, void *ret_array, size_t *ret_count,
                     struct sp_error *err)
{
    char *elements = NULL;
    size_t count = 0, capacity = 0;
    enum sp_err rc = SP_OK;
    for (bool have = true; rc == SP_OK;) {
        rc = sdb_step(db, statement, &have, err);
        if (rc != SP_OK || !have)
            break;
        if (count == capacity) {
            capacity = capacity ? capacity * 2 : 16;
            elements = sp_xgrow(elements, capacity, kind->bytes);
        }
        char *element = elements + count++ * kind->bytes;
        memset(element, 0, kind->bytes);
        struct sdb_row row = sdb_row(db, statement, arena, kind->table);
        kind->read(&row, element);
        rc = sdb_row_end(&row, err);
    }
    sdb_done(statement);
    if (rc == SP_OK)
        rc = to_arena(elements, count, kind->bytes, arena, ret_array, err);
    if (rc == SP_OK)
        *ret_count = count;
    free(elements);
    return rc;
}

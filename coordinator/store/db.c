/* Statements and errors of one file. */
#include "coordinator/store/db.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blobs of ids are little-endian");

static enum sp_err code_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
    case SQLITE_MISMATCH:
        return SP_ECORRUPT;
    case SQLITE_NOMEM:
        return SP_ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return SP_EUNAVAIL;
    case SQLITE_PERM:
    case SQLITE_READONLY:
        return SP_EDENIED;
    case SQLITE_TOOBIG:
        return SP_ELIMIT;
    case SQLITE_IOERR:
    case SQLITE_FULL:
    case SQLITE_CANTOPEN:
        return SP_EIO;
    default:
        return SP_EINTERNAL;
    }
}

enum sp_err sdb_fail(struct sdb *db, int rc, const char *doing, struct sp_error *err)
{
    const char *words = sqlite3_errstr(rc);
    if (db->handle && sqlite3_errcode(db->handle) == (rc & 0xff))
        words = sqlite3_errmsg(db->handle);
    enum sp_err code = code_of(rc);
    const char *remedy = code == SP_ECORRUPT ? ": restore the file from a backup" : "";
    int why = db->handle && (rc & 0xff) == SQLITE_CANTOPEN ? sqlite3_system_errno(db->handle) : 0;
    if (why == EMFILE || why == ENFILE)
        remedy = ": too many files are open: raise LimitNOFILE= of the service (ulimit -n)";
    return sp_fail(err, code, "%s: %s: %s (SQLite code %d)%s", db->path, doing, words, rc, remedy);
}

enum sp_err sdb_exec(struct sdb *db, const char *sql, struct sp_error *err)
{
    int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        return SP_OK;
    char doing[64];
    sqlite3_snprintf(sizeof(doing), doing, "%.40s", sql);
    return sdb_fail(db, rc, doing, err);
}

void sdb_close(struct sdb *db)
{
    if (db == NULL)
        return;
    for (size_t i = 0; i < db->cache_count; i++)
        sqlite3_finalize(db->cache[i].statement);
    free(db->cache);
    if (db->handle) {
        sdb_rollback(db);
        sqlite3_close(db->handle);
    }
    free(db->path);
    free(db);
}

/* ---- transactions ---- */

enum sp_err sdb_write(struct sdb *db, struct sp_error *err)
{
    SP_ASSERT(!db->readonly);
    SP_ASSERT(db->write_window == NULL || *db->write_window);
    if (db->in_transaction)
        return SP_OK;
    enum sp_err rc = sdb_exec(db, "BEGIN IMMEDIATE", err);
    db->in_transaction = rc == SP_OK;
    return rc;
}

enum sp_err sdb_commit(struct sdb *db, struct sp_error *err)
{
    if (!db->in_transaction)
        return SP_OK;
    enum sp_err rc = sdb_exec(db, "COMMIT", err);
    db->in_transaction = rc != SP_OK;
    return rc;
}

void sdb_rollback(struct sdb *db)
{
    if (db->in_transaction)
        (void)sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
    db->in_transaction = false;
}

/* ---- statements ---- */

static enum sp_err cached(struct sdb *db, const char *sql, sqlite3_stmt **ret, struct sp_error *err)
{
    for (size_t i = 0; i < db->cache_count; i++) {
        if (db->cache[i].sql == sql) {
            *ret = db->cache[i].statement;
            return SP_OK;
        }
    }
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL);
    if (rc != SQLITE_OK) {
        char doing[64];
        sqlite3_snprintf(sizeof(doing), doing, "%.40s", sql);
        return sdb_fail(db, rc, doing, err);
    }
    db->cache = sp_xgrow(db->cache, db->cache_count + 1, sizeof(*db->cache));
    db->cache[db->cache_count++] = (struct sdb_cached){.sql = sql, .statement = statement};
    *ret = statement;
    return SP_OK;
}

uint32_t sdb_float_bits(float value)
{
    uint32_t bits;
    if (isnan(value))
        return 0x7fc00000u;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* A zero-length blob must not be bound from NULL: that would be SQL's NULL. */
static int bind_blob(sqlite3_stmt *statement, int at, const void *data, size_t length)
{
    if (length == 0)
        return sqlite3_bind_zeroblob(statement, at, 0);
    return sqlite3_bind_blob64(statement, at, data, length, SQLITE_STATIC);
}

static int bind_one(sqlite3_stmt *statement, int at, char type, va_list *args)
{
    switch (type) {
    case 'i':
        return sqlite3_bind_int64(statement, at, va_arg(*args, int64_t));
    case 'u': {
        uint64_t value = va_arg(*args, uint64_t);
        return sqlite3_bind_int64(statement, at, value > INT64_MAX ? INT64_MAX : (int64_t)value);
    }
    case 'd':
        return sqlite3_bind_double(statement, at, va_arg(*args, double));
    case 'f':
        return sqlite3_bind_int64(statement, at, sdb_float_bits((float)va_arg(*args, double)));
    case 't': {
        const char *text = va_arg(*args, const char *);
        return sqlite3_bind_text(statement, at, text ? text : "", -1, SQLITE_STATIC);
    }
    case 'b': {
        const void *data = va_arg(*args, const void *);
        return bind_blob(statement, at, data, va_arg(*args, size_t));
    }
    case 'g':
        return bind_blob(statement, at, va_arg(*args, const struct sp_digest *)->bytes,
                         SP_DIGEST_BYTES);
    case 'n': {
        const struct proto_ids *ids = va_arg(*args, const struct proto_ids *);
        return bind_blob(statement, at, ids->ids, (size_t)ids->count * sizeof(int32_t));
    }
    default:
        SP_ASSERT(!"a type letter of sdb_query");
        return SQLITE_MISUSE;
    }
}

static enum sp_err bind_all(struct sdb *db, sqlite3_stmt *statement, const char *types,
                            va_list *args, struct sp_error *err)
{
    SP_ASSERT((int)strlen(types) == sqlite3_bind_parameter_count(statement));
    for (int i = 0; types[i]; i++) {
        int rc = bind_one(statement, i + 1, types[i], args);
        if (rc != SQLITE_OK)
            return sdb_fail(db, rc, "bind", err);
    }
    return SP_OK;
}

static enum sp_err queryv(struct sdb *db, const char *sql, sqlite3_stmt **ret, struct sp_error *err,
                          const char *types, va_list *args)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = cached(db, sql, &statement, err);
    if (rc != SP_OK)
        return rc;
    SP_ASSERT(!sqlite3_stmt_busy(statement));
    rc = bind_all(db, statement, types, args, err);
    if (rc != SP_OK) {
        sdb_done(statement);
        return rc;
    }
    *ret = statement;
    return SP_OK;
}

enum sp_err sdb_query(struct sdb *db, const char *sql, sqlite3_stmt **ret, struct sp_error *err,
                      const char *types, ...)
{
    va_list args;
    va_start(args, types);
    enum sp_err rc = queryv(db, sql, ret, err, types, &args);
    va_end(args);
    return rc;
}

enum sp_err sdb_step(struct sdb *db, sqlite3_stmt *statement, bool *ret_row, struct sp_error *err)
{
    int rc = sqlite3_step(statement);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        char doing[64];
        sqlite3_snprintf(sizeof(doing), doing, "%.40s", sqlite3_sql(statement));
        return sdb_fail(db, rc, doing, err);
    }
    *ret_row = rc == SQLITE_ROW;
    return SP_OK;
}

void sdb_done(sqlite3_stmt *statement)
{
    if (statement == NULL)
        return;
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

enum sp_err sdb_run(struct sdb *db, const char *sql, int *ret_changes, struct sp_error *err,
                    const char *types, ...)
{
    sqlite3_stmt *statement = NULL;
    va_list args;
    va_start(args, types);
    enum sp_err rc = queryv(db, sql, &statement, err, types, &args);
    va_end(args);
    if (rc != SP_OK)
        return rc;
    bool row = false;
    rc = sdb_step(db, statement, &row, err);
    sdb_done(statement);
    if (rc == SP_OK && ret_changes)
        *ret_changes = sqlite3_changes(db->handle);
    return rc;
}

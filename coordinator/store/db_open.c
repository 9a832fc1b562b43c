/* Opening a file: settings, mark, version, migrations, comparison of the schema. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "coordinator/store/db.h"

/* A reader may meet the writer's recovery or a checkpoint; both are short. */
#define BUSY_MS 10000
#define PAGE_BYTES 8192

static enum sp_err read_int(struct sdb *db, const char *pragma, int64_t *ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db->handle, pragma, -1, &statement, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? SP_OK : sdb_fail(db, rc, "read the header", err);
}

static enum sp_err set_connection(struct sdb *db, struct sp_error *err)
{
    static const struct {
        int option, value;
    } settings[] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},      {SQLITE_DBCONFIG_DQS_DML, 0},
        {SQLITE_DBCONFIG_DQS_DDL, 0},        {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
    };
    for (size_t i = 0; i < SP_COUNT(settings); i++) {
        int rc = sqlite3_db_config(db->handle, settings[i].option, settings[i].value, NULL);
        if (rc != SQLITE_OK)
            return sdb_fail(db, rc, "configure the connection", err);
    }
    sqlite3_extended_result_codes(db->handle, 1);
    sqlite3_busy_timeout(db->handle, BUSY_MS);
    return SP_OK;
}

/* Journal and durability. The order matters: the page size must be set before the first write. */
static enum sp_err set_journal(struct sdb *db, const struct sdb_options *options,
                               struct sp_error *err)
{
    if (options->readonly)
        return sdb_exec(db, "PRAGMA query_only=1", err);
    if (options->scratch)
        return sdb_exec(db, "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=FULL", err);
    enum sp_err rc = sdb_exec(db, "PRAGMA synchronous=FULL", err);
    if (rc != SP_OK)
        return rc;
    sqlite3_stmt *statement = NULL;
    int sql_rc = sqlite3_prepare_v2(db->handle, "PRAGMA journal_mode=WAL", -1, &statement, NULL);
    if (sql_rc == SQLITE_OK)
        sql_rc = sqlite3_step(statement);
    if (sql_rc != SQLITE_ROW)
        rc = sdb_fail(db, sql_rc, "switch to a write-ahead log", err);
    else if (strcmp((const char *)sqlite3_column_text(statement, 0), "wal") != 0)
        rc = sp_fail(err, SP_EUNSUPPORTED,
                     "%s: this file system cannot keep a write-ahead log: put the state directory "
                     "on a local disk",
                     db->path);
    sqlite3_finalize(statement);
    return rc;
}

/* All of the schema as one text, in a fixed order. */
static enum sp_err schema_text(struct sdb *db, struct sp_buf *out, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db->handle,
                                "SELECT type, name, coalesce(sql, '') FROM sqlite_schema"
                                " WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1, 2",
                                -1, &statement, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(statement);
        if (rc != SQLITE_ROW)
            break;
        for (int i = 0; i < 3; i++) {
            const char *text = (const char *)sqlite3_column_text(statement, i);
            sp_buf_puts(out, text ? text : "");
            sp_buf_putc(out, '\n');
        }
    }
    sqlite3_finalize(statement);
    return rc == SQLITE_DONE ? SP_OK : sdb_fail(db, rc, "read the schema", err);
}

static enum sp_err migrate_in_transaction(struct sdb *db, const struct sdb_schema *schema,
                                          int version, struct sp_error *err)
{
    enum sp_err rc = sdb_exec(db, "BEGIN IMMEDIATE", err);
    for (int v = version; v < schema->count && rc == SP_OK; v++) {
        rc = sdb_exec(db, schema->migrations[v], err);
        if (rc != SP_OK)
            rc = sp_wrap(err, rc, "migrate to schema %d", v + 1);
    }
    if (rc == SP_OK) {
        char sql[128];
        snprintf(sql, sizeof(sql), "PRAGMA user_version=%d; PRAGMA application_id=%d; COMMIT",
                 schema->count, schema->application_id);
        rc = sdb_exec(db, sql, err);
    }
    if (rc != SP_OK)
        (void)sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* The tables must be those that the migrations make: a file that says it is ours but was changed by
 * hand would otherwise fail somewhere in the middle of a run. */
static enum sp_err compare_schema(struct sdb *db, const struct sdb_schema *schema,
                                  struct sp_error *err)
{
    struct sp_buf have = SP_BUF_INIT, want = SP_BUF_INIT;
    struct sdb model = {.path = db->path};
    int open_rc =
        sqlite3_open_v2(":memory:", &model.handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    enum sp_err rc = SP_OK;
    if (open_rc != SQLITE_OK)
        rc = sdb_fail(&model, open_rc, "open a database in memory", err);
    if (rc == SP_OK)
        rc = migrate_in_transaction(&model, schema, 0, err);
    if (rc == SP_OK)
        rc = schema_text(&model, &want, err);
    if (rc == SP_OK)
        rc = schema_text(db, &have, err);
    if (rc == SP_OK &&
        (have.length != want.length || memcmp(have.data, want.data, have.length) != 0))
        rc = sp_fail(err, SP_ECORRUPT,
                     "%s: its tables are not those of %s, schema %d: restore it from a backup",
                     db->path, schema->what, schema->count);
    sqlite3_close(model.handle);
    sp_buf_deinit(&have);
    sp_buf_deinit(&want);
    return rc;
}

static enum sp_err migrate(struct sdb *db, const struct sdb_schema *schema, int version,
                           struct sp_error *err)
{
    if (version > 0) {
        char *copy = sp_xprintf("%s.v%d.bak", db->path, version);
        enum sp_err rc = sp_path_exists(copy) ? SP_OK : sdb_copy_to(db, copy, err);
        free(copy);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "copy before the migration");
    }
    return migrate_in_transaction(db, schema, version, err);
}

static enum sp_err check_pages(struct sdb *db, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = SP_OK;
    int sql_rc = sqlite3_prepare_v2(db->handle, "PRAGMA quick_check(1)", -1, &statement, NULL);
    if (sql_rc == SQLITE_OK)
        sql_rc = sqlite3_step(statement);
    if (sql_rc != SQLITE_ROW) {
        rc = sdb_fail(db, sql_rc, "check", err);
    } else {
        const char *text = (const char *)sqlite3_column_text(statement, 0);
        if (text == NULL || strcmp(text, "ok") != 0)
            rc = sp_fail(err, SP_ECORRUPT, "%s: damaged: %.300s: restore it from a backup",
                         db->path, text ? text : "out of memory");
    }
    sqlite3_finalize(statement);
    return rc;
}

static enum sp_err identify(struct sdb *db, const struct sdb_schema *schema,
                            const struct sdb_options *options, int *ret_version,
                            struct sp_error *err)
{
    int64_t mark = 0, version = 0, objects = 0;
    enum sp_err rc = read_int(db, "PRAGMA application_id", &mark, err);
    if (rc == SP_OK)
        rc = read_int(db, "PRAGMA user_version", &version, err);
    if (rc == SP_OK)
        rc = read_int(db, "SELECT count(*) FROM sqlite_schema", &objects, err);
    if (rc != SP_OK)
        return rc;
    bool empty = mark == 0 && version == 0 && objects == 0;
    if (empty && !options->create)
        return sp_fail(err, SP_ECORRUPT, "%s: empty, not %s: restore it from a backup", db->path,
                       schema->what);
    if (!empty && mark != schema->application_id)
        return sp_fail(err, SP_EFORMAT, "%s: a database, but not %s (application id %lld)",
                       db->path, schema->what, (long long)mark);
    if (version > schema->count)
        return sp_fail(err, SP_EVERSION,
                       "%s: written by a newer version of this program (schema %lld, known: %d): "
                       "upgrade the program, or restore a backup from before",
                       db->path, (long long)version, schema->count);
    if (version < 0 || (!empty && version == 0))
        return sp_fail(err, SP_ECORRUPT, "%s: schema %lld does not exist: restore it from a backup",
                       db->path, (long long)version);
    if (options->readonly && version < schema->count)
        return sp_fail(err, SP_EVERSION, "%s: schema %lld is not migrated yet", db->path,
                       (long long)version);
    *ret_version = (int)version;
    return SP_OK;
}

static enum sp_err open_handle(struct sdb *db, const struct sdb_options *options,
                               struct sp_error *err)
{
    struct stat info;
    bool missing = stat(db->path, &info) != 0;
    if (missing && !options->create)
        return sp_fail(err, SP_ENOTFOUND, "%s: missing: restore it from a backup", db->path);
    if (!missing && !S_ISREG(info.st_mode))
        return sp_fail(err, SP_EFORMAT, "%s: not a regular file", db->path);
    /* SQLite would make it readable for everyone; log and shared memory get the file's mode. */
    int fd = missing ? open(db->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600) : -1;
    if (missing && fd < 0)
        return sp_fail_errno(err, errno, "%s: create", db->path);
    if (fd >= 0)
        close(fd);
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    flags |= options->readonly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    if (options->create)
        flags |= SQLITE_OPEN_CREATE;
    int rc = sqlite3_open_v2(db->path, &db->handle, flags, options->vfs);
    if (rc != SQLITE_OK)
        return sdb_fail(db, rc, "open", err);
    return SP_OK;
}

enum sp_err sdb_open(const char *path, const struct sdb_schema *schema,
                     const struct sdb_options *options, struct sdb **ret, struct sp_error *err)
{
    struct sdb *db = sp_xalloc(sizeof(*db));
    db->path = sp_xstrdup(path);
    db->readonly = options->readonly;
    int version = 0;
    enum sp_err rc = open_handle(db, options, err);
    if (rc == SP_OK)
        rc = set_connection(db, err);
    if (rc == SP_OK)
        rc = identify(db, schema, options, &version, err);
    if (rc == SP_OK && version == 0) {
        char sql[64];
        snprintf(sql, sizeof(sql), "PRAGMA page_size=%d", PAGE_BYTES);
        rc = sdb_exec(db, sql, err);
    }
    if (rc == SP_OK)
        rc = set_journal(db, options, err);
    if (rc == SP_OK && options->check && version > 0)
        rc = check_pages(db, err);
    if (rc == SP_OK && version < schema->count)
        rc = migrate(db, schema, version, err);
    if (rc == SP_OK && version > 0)
        rc = compare_schema(db, schema, err);
    if (rc != SP_OK) {
        sdb_close(db);
        return rc;
    }
    *ret = db;
    return SP_OK;
}

enum sp_err sdb_copy_to(struct sdb *db, const char *path, struct sp_error *err)
{
    char *partial = sp_xprintf("%s.tmp", path);
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = SP_OK;
    (void)unlink(partial); /* left over from a copy that was cut off */
    int sql_rc = sqlite3_prepare_v2(db->handle, "VACUUM INTO ?1", -1, &statement, NULL);
    if (sql_rc == SQLITE_OK)
        sql_rc = sqlite3_bind_text(statement, 1, partial, -1, SQLITE_STATIC);
    if (sql_rc == SQLITE_OK)
        sql_rc = sqlite3_step(statement);
    if (sql_rc != SQLITE_DONE)
        rc = sdb_fail(db, sql_rc, "copy", err);
    sqlite3_finalize(statement);
    if (rc == SP_OK)
        rc = sp_fsync_path(partial, err);
    if (rc == SP_OK)
        rc = sp_rename_durable(partial, path, err);
    if (rc != SP_OK)
        (void)unlink(partial);
    free(partial);
    return rc;
}

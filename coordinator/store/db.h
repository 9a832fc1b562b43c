/* db: one SQLite file with the settings that the store relies on, its migrations, a cache of
 * prepared statements, and checked access to columns. Inside coordinator/store and its tests only.
 * One thread for each struct sdb. */
#ifndef SPIN_COORDINATOR_STORE_DB_H
#define SPIN_COORDINATOR_STORE_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/hash.h"
#include "proto/messages.h"

/* What a kind of file looks like: its mark and the steps that lead to its newest schema. */
struct sdb_schema {
    int32_t application_id;
    const char *what;              /* "a run's file": for messages */
    const char *const *migrations; /* migrations[v] leads from version v to v + 1 */
    int count;                     /* newest version */
};
extern const struct sdb_schema sdb_control_schema, sdb_run_schema;

struct sdb_options {
    const char *vfs; /* NULL: the default */
    bool create;     /* make the file where it is missing or empty */
    bool readonly;   /* a second connection, beside a writer in this process */
    bool check;      /* PRAGMA quick_check */
    bool scratch;    /* one big load: no journal; one fsync, at commit */
};

struct sdb_cached {
    const char *sql; /* a literal: compared by address */
    sqlite3_stmt *statement;
};

struct sdb {
    sqlite3 *handle;
    char *path;
    bool readonly;
    bool in_transaction;      /* BEGIN IMMEDIATE was done */
    const bool *write_window; /* of the store: true between store_begin and store_commit */
    struct sdb_cached *cache;
    size_t cache_count;
};

/* Opens, configures, checks mark and version (SP_EVERSION: newer), migrates (after a copy to
 * PATH.v<old>.bak), compares the schema with what the migrations make, and checks the pages. */
enum sp_err sdb_open(const char *path, const struct sdb_schema *schema,
                     const struct sdb_options *options, struct sdb **ret,
                     struct sp_error *err) SP_MUST_USE;
void sdb_close(struct sdb *db); /* NULL is fine; rolls back */
/* err ← "PATH: doing: SQLite's words", code from SQLite's result code. */
enum sp_err sdb_fail(struct sdb *db, int rc, const char *doing, struct sp_error *err);
enum sp_err sdb_exec(struct sdb *db, const char *sql, struct sp_error *err) SP_MUST_USE;
/* Starts the file's transaction when it has none: every writing function calls it first. */
enum sp_err sdb_write(struct sdb *db, struct sp_error *err) SP_MUST_USE;
enum sp_err sdb_commit(struct sdb *db, struct sp_error *err) SP_MUST_USE; /* none open: SP_OK */
void sdb_rollback(struct sdb *db);
/* A copy of the whole file as of now, through a temporary name; durable. */
enum sp_err sdb_copy_to(struct sdb *db, const char *path, struct sp_error *err) SP_MUST_USE;

/* ---- statements ---- */

/* The cached statement for the literal `sql` with its parameters bound from `types`:
 *   i int64_t
 *   u uint64_t; what is above INT64_MAX is stored as INT64_MAX: a peer's count that cannot be must
 *     not stop the store
 *   d double (NaN as NULL)
 *   f double holding a float, as its fp32 bits, with one NaN
 *   t const char * (NULL as "")
 *   b const void *, size_t
 *   g const struct sp_digest *
 *   n const struct proto_ids *
 * Reset it with sdb_done whatever happens. */
enum sp_err sdb_query(struct sdb *db, const char *sql, sqlite3_stmt **ret, struct sp_error *err,
                      const char *types, ...) SP_MUST_USE;
/* *ret_row: whether there is a row. */
enum sp_err sdb_step(struct sdb *db, sqlite3_stmt *statement, bool *ret_row,
                     struct sp_error *err) SP_MUST_USE;
void sdb_done(sqlite3_stmt *statement); /* NULL is fine */
/* Binds, steps once and resets: for statements without rows. ret_changes may be NULL. */
enum sp_err sdb_run(struct sdb *db, const char *sql, int *ret_changes, struct sp_error *err,
                    const char *types, ...) SP_MUST_USE;
uint32_t sdb_float_bits(float value); /* one NaN: 0x7fc00000 */

/* ---- columns of the current row: the first bad one is remembered, the rest reads as zero ---- */

struct sdb_row {
    struct sdb *db;
    sqlite3_stmt *statement;
    struct sp_arena *arena; /* for text and blobs */
    const char *table;      /* for messages */
    int next;               /* column that the next getter reads */
    int bad;                /* column that was bad; -1: none */
    bool full;              /* the arena was full */
};
struct sdb_row sdb_row(struct sdb *db, sqlite3_stmt *statement, struct sp_arena *arena,
                       const char *table);
uint64_t sdb_u64(struct sdb_row *row, uint64_t max);
int64_t sdb_i64(struct sdb_row *row, int64_t min, int64_t max);
uint32_t sdb_u32(struct sdb_row *row);
bool sdb_bool(struct sdb_row *row);
double sdb_f64(struct sdb_row *row);       /* NULL as NaN */
float sdb_f32(struct sdb_row *row);        /* from fp32 bits; NULL as NaN */
const char *sdb_text(struct sdb_row *row); /* copied to the arena */
void sdb_digest(struct sdb_row *row, struct sp_digest *ret);
struct proto_ids sdb_ids(struct sdb_row *row); /* copied to the arena; ids ≥ 0 */
/* SP_ECORRUPT with file, table, column and the row's first columns, or SP_ELIMIT. */
enum sp_err sdb_row_end(struct sdb_row *row, struct sp_error *err) SP_MUST_USE;

/* What a table's rows become: plain structs of `bytes`, zeroed, which `read` fills from the columns
 * (text and blobs go to the row's arena). */
struct sdb_row_kind {
    const char *table;
    size_t bytes;
    void (*read)(struct sdb_row *row, void *ret);
};
/* The statement's first row, or *ret_have = false; the statement ends. */
enum sp_err sdb_one(struct sdb *db, sqlite3_stmt *statement, const struct sdb_row_kind *kind,
                    struct sp_arena *arena, void *ret, bool *ret_have,
                    struct sp_error *err) SP_MUST_USE;
/* All its rows as an array in the arena (ret_array points to a pointer); the statement ends. */
enum sp_err sdb_rows(struct sdb *db, sqlite3_stmt *statement, const struct sdb_row_kind *kind,
                     struct sp_arena *arena, void *ret_array, size_t *ret_count,
                     struct sp_error *err) SP_MUST_USE;

#endif

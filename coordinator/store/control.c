/* Tokens, workers and events. */
#include <stdlib.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/store/internal.h"

/* ---- tokens ---- */

#define TOKEN_COLUMNS "id, secret_sha, role, name, runs, created_ms, expires_ms, revoked_ms"

enum sp_err store_token_put(struct store *store, const struct store_token *token,
                            struct sp_error *err)
{
    enum sp_err rc = sdb_write(store->control, err);
    int changes = 0;
    if (rc == SP_OK)
        rc = sdb_run(store->control,
                     "INSERT INTO tokens(" TOKEN_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
                     " ON CONFLICT DO NOTHING",
                     &changes, err, "tgittiii", token->id, &token->secret_sha, (int64_t)token->role,
                     token->name, token->runs, token->created_ms, token->expires_ms,
                     token->revoked_ms);
    if (rc == SP_OK && changes == 0)
        rc = sp_fail(err, SP_EEXIST, "a token with the id %.32s exists already", token->id);
    return rc;
}

enum sp_err store_token_revoke(struct store *store, const char *id, int64_t now_ms,
                               struct sp_error *err)
{
    enum sp_err rc = sdb_write(store->control, err);
    int changes = 0;
    if (rc == SP_OK)
        rc = sdb_run(store->control,
                     "UPDATE tokens SET revoked_ms = CASE WHEN revoked_ms = 0 THEN ?2"
                     " ELSE revoked_ms END WHERE id = ?1",
                     &changes, err, "ti", id, now_ms);
    if (rc == SP_OK && changes == 0)
        rc = sp_fail(err, SP_ENOTFOUND, "no token with the id \"%.32s\"", id);
    return rc;
}

static void read_token(struct sdb_row *row, void *ret)
{
    struct store_token *token = ret;
    token->id = sdb_text(row);
    sdb_digest(row, &token->secret_sha);
    token->role = (uint32_t)sdb_i64(row, PROTO_ROLE_ADMIN, PROTO_ROLE_READONLY);
    token->name = sdb_text(row);
    token->runs = sdb_text(row);
    token->created_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    token->expires_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    token->revoked_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
}
static const struct sdb_row_kind token_rows = {"tokens", sizeof(struct store_token), read_token};

enum sp_err store_token_get(struct store *store, const char *id, struct sp_arena *arena,
                            struct store_token *ret, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(store->control, "SELECT " TOKEN_COLUMNS " FROM tokens WHERE id = ?1",
                               &statement, err, "t", id);
    if (rc == SP_OK)
        rc = sdb_one(store->control, statement, &token_rows, arena, ret, &have, err);
    if (rc == SP_OK && !have)
        rc = sp_fail(err, SP_ENOTFOUND, "no token with the id \"%.32s\"", id);
    return rc;
}

enum sp_err store_tokens_list(struct store *store, struct sp_arena *arena, struct store_token **ret,
                              size_t *ret_count, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(store->control, "SELECT " TOKEN_COLUMNS " FROM tokens ORDER BY created_ms, id",
                  &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_rows(store->control, statement, &token_rows, arena, ret, ret_count, err);
    return rc;
}

/* ---- workers ---- */

enum sp_err store_worker_put(struct store *store, const struct store_worker *worker,
                             struct sp_error *err)
{
    enum sp_err rc = sdb_write(store->control, err);
    if (rc != SP_OK)
        return rc;
    return sdb_run(
        store->control,
        "INSERT INTO workers(name, role, host, device, version, numerics_class, token_id,"
        " first_seen_ms, last_seen_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        " ON CONFLICT(name) DO UPDATE SET role = excluded.role, host = excluded.host,"
        " device = excluded.device, version = excluded.version,"
        " numerics_class = excluded.numerics_class, token_id = excluded.token_id,"
        " last_seen_ms = excluded.last_seen_ms",
        NULL, err, "titttttii", worker->name, (int64_t)worker->role, worker->host, worker->device,
        worker->version, worker->numerics_class, worker->token_id, worker->first_seen_ms,
        worker->last_seen_ms);
}

static void read_worker(struct sdb_row *row, void *ret)
{
    struct store_worker *worker = ret;
    worker->name = sdb_text(row);
    worker->role = (uint32_t)sdb_i64(row, PROTO_ROLE_ADMIN, PROTO_ROLE_READONLY);
    worker->host = sdb_text(row);
    worker->device = sdb_text(row);
    worker->version = sdb_text(row);
    worker->numerics_class = sdb_text(row);
    worker->token_id = sdb_text(row);
    worker->first_seen_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    worker->last_seen_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
}
static const struct sdb_row_kind worker_rows = {"workers", sizeof(struct store_worker),
                                                read_worker};

enum sp_err store_workers_list(struct store *store, struct sp_arena *arena,
                               struct store_worker **ret, size_t *ret_count, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc = sdb_query(store->control,
                               "SELECT name, role, host, device, version, numerics_class, token_id,"
                               " first_seen_ms, last_seen_ms FROM workers ORDER BY name",
                               &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_rows(store->control, statement, &worker_rows, arena, ret, ret_count, err);
    return rc;
}

enum sp_err store_forget_workers(struct store *store, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    bool have = false;
    enum sp_err rc = sdb_query(store->control, "SELECT count(*) FROM workers", &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_step(store->control, statement, &have, err);
    int64_t surplus = rc == SP_OK ? sqlite3_column_int64(statement, 0) - SP_MAX_WORKER_ROWS : 0;
    sdb_done(statement);
    if (rc != SP_OK || surplus <= 0)
        return rc;
    store_begin(store);
    rc = sdb_write(store->control, err);
    if (rc == SP_OK)
        rc = sdb_run(store->control,
                     "DELETE FROM workers WHERE name IN"
                     " (SELECT name FROM workers ORDER BY last_seen_ms, name LIMIT ?1)",
                     NULL, err, "i", surplus);
    if (rc == SP_OK)
        return store_commit(store, err);
    store_rollback(store);
    return rc;
}

/* ---- holds ---- */

enum sp_err store_hold_put(struct store *store, const struct store_hold *hold, struct sp_error *err)
{
    enum sp_err rc = sdb_write(store->control, err);
    if (rc != SP_OK)
        return rc;
    if (hold->kind == STORE_HOLD_NONE)
        return sdb_run(store->control, "DELETE FROM holds WHERE worker = ?1", NULL, err, "t",
                       hold->worker);
    return sdb_run(store->control,
                   "INSERT OR REPLACE INTO holds(worker, kind, reason, at_ms)"
                   " VALUES (?1, ?2, ?3, ?4)",
                   NULL, err, "titi", hold->worker, (int64_t)hold->kind, hold->reason, hold->at_ms);
}

static void read_hold(struct sdb_row *row, void *ret)
{
    struct store_hold *hold = ret;
    hold->worker = sdb_text(row);
    hold->kind = (enum store_hold_kind)sdb_i64(row, STORE_HOLD_CORDONED, STORE_HOLD_QUARANTINED);
    hold->reason = sdb_text(row);
    hold->at_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
}
static const struct sdb_row_kind hold_rows = {"holds", sizeof(struct store_hold), read_hold};

enum sp_err store_holds_list(struct store *store, struct sp_arena *arena, struct store_hold **ret,
                             size_t *ret_count, struct sp_error *err)
{
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(store->control, "SELECT worker, kind, reason, at_ms FROM holds ORDER BY worker",
                  &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_rows(store->control, statement, &hold_rows, arena, ret, ret_count, err);
    return rc;
}

/* ---- events ---- */

enum sp_err store_db_event_append(struct sdb *db, const struct store_event *event,
                                  struct sp_error *err)
{
    return sdb_run(db,
                   "INSERT INTO events(at_ms, iteration, actor, kind, text, detail)"
                   " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                   NULL, err, "iitttt", event->at_ms, (int64_t)event->iteration, event->actor,
                   event->kind, event->text, event->detail);
}

enum sp_err store_event_append(struct store *store, struct store_run *run,
                               const struct store_event *event, struct sp_error *err)
{
    struct sdb *db = run ? run->db : store->control;
    enum sp_err rc = sdb_write(db, err);
    return rc == SP_OK ? store_db_event_append(db, event, err) : rc;
}

static void read_event(struct sdb_row *row, void *ret)
{
    struct store_event *event = ret;
    event->id = sdb_u64(row, INT64_MAX);
    event->at_ms = sdb_i64(row, INT64_MIN, INT64_MAX);
    event->iteration = (int32_t)sdb_i64(row, -1, INT32_MAX);
    event->actor = sdb_text(row);
    event->kind = sdb_text(row);
    event->text = sdb_text(row);
    event->detail = sdb_text(row);
}
static const struct sdb_row_kind event_rows = {"events", sizeof(struct store_event), read_event};

enum sp_err store_events_list(struct store *store, struct store_run *run, uint64_t after,
                              uint32_t limit, struct sp_arena *arena, struct store_event **ret,
                              size_t *ret_count, struct sp_error *err)
{
    struct sdb *db = run ? run->db : store->control;
    sqlite3_stmt *statement = NULL;
    enum sp_err rc =
        sdb_query(db,
                  "SELECT id, at_ms, iteration, actor, kind, text, detail FROM events"
                  " WHERE id > ?1 ORDER BY id LIMIT ?2",
                  &statement, err, "ui", after, (int64_t)SP_MIN(limit, (uint32_t)SP_MAX_LIST_ROWS));
    if (rc == SP_OK)
        rc = sdb_rows(db, statement, &event_rows, arena, ret, ret_count, err);
    return rc;
}

enum sp_err store_events_last(struct store *store, struct store_run *run, uint32_t limit,
                              struct sp_arena *arena, struct store_event **ret, size_t *ret_count,
                              struct sp_error *err)
{
    struct sdb *db = run ? run->db : store->control;
    sqlite3_stmt *statement = NULL;
    bool have = false;
    int64_t last = 0;
    enum sp_err rc = sdb_query(db, "SELECT coalesce(max(id), 0) FROM events", &statement, err, "");
    if (rc == SP_OK)
        rc = sdb_step(db, statement, &have, err);
    if (rc == SP_OK && have)
        last = sqlite3_column_int64(statement, 0);
    sdb_done(statement);
    if (rc != SP_OK)
        return rc;
    int64_t rows = (int64_t)SP_MIN(limit, (uint32_t)SP_MAX_LIST_ROWS);
    uint64_t after = last > rows ? (uint64_t)(last - rows) : 0;
    return store_events_list(store, run, after, (uint32_t)rows, arena, ret, ret_count, err);
}

/* store: everything that a coordinator must not forget, on SQLite.
 *
 *   STATE_DIR/lock           held by the one coordinator (sp_lock_dir)
 *   STATE_DIR/control.db     runs, tokens, workers, audit events
 *   STATE_DIR/runs/NAME.db   one file per run: prompts, iterations, results, steps, checkpoints, …
 *   STATE_DIR/blobs/         chunks and manifests (common/checkpoint/blobstore.h)
 *   STATE_DIR/tmp/           of work under way; emptied by store_open
 *
 * Synchronous; every call blocks on the disk. A `struct store` belongs to one thread: the writer's
 * to the store thread, a reader's (store_open_reader: same functions, reads only) to the read
 * thread. A `struct store_run` is the open file of one run and belongs to its store.
 *
 * Writes happen between store_begin and store_commit, so that the store thread puts many
 * submissions into one transaction (group commit); nothing is acknowledged before store_commit has
 * returned SP_OK. store_begin is lazy: only files that are written to get a transaction
 * (BEGIN IMMEDIATE) and a commit. Files commit one after the other: what belongs together (a state
 * and its event) is in one file.
 *
 * Errors: SP_ENOTFOUND, SP_EEXIST, SP_EINVAL, SP_ESTATE, SP_ELIMIT change nothing and leave the
 * transaction usable. SP_EIO, SP_ENOMEM, SP_ECORRUPT, SP_EUNAVAIL, SP_EINTERNAL from a write, and
 * any failure of store_commit, are final: the process exits and reopens; nothing here retries.
 *
 * What reads return lives in the arena given to them (SP_ELIMIT when that is full); strings are
 * never NULL. NaN and infinity survive. Every row read is checked; a bad one is SP_ECORRUPT with
 * file, table and key in the text.
 *
 * WAL, synchronous = FULL, STRICT tables, DQS off, defensive. A file of a newer schema is refused
 * (SP_EVERSION); an older one is copied beside (NAME.db.v<old>.bak) and migrated.
 * See store_run.h for what is inside a run's file. */
#ifndef SPIN_COORDINATOR_STORE_H
#define SPIN_COORDINATOR_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/hash.h"

struct store;
struct store_run;

struct store_options {
    const char *vfs; /* SQLite VFS name; NULL: the default. For tests. */
    bool unlocked;   /* do not take STATE_DIR/lock (the caller holds it, or a test) */
    bool skip_check; /* no PRAGMA quick_check when a file is opened */
};

/* Creates STATE_DIR (0700), its folders and control.db where needed, takes the lock (SP_ESTATE when
 * another coordinator has it), refuses network file systems (SP_EUNSUPPORTED), removes left-overs
 * of unfinished create-runs, adopts run files that have no row in control.db, forgets workers
 * beyond SP_MAX_WORKER_ROWS. options may be NULL.
 */
enum sp_err store_open(const char *state_dir, const struct store_options *options,
                       struct store **ret, struct sp_error *err) SP_MUST_USE;
/* Read-only connections; after store_open in the same process. Run files are opened at first use.
 */
enum sp_err store_open_reader(const char *state_dir, const struct store_options *options,
                              struct store **ret, struct sp_error *err) SP_MUST_USE;
void store_close(struct store *store); /* rolls back what is open; closes runs; NULL is fine */
const char *store_dir(const struct store *store);

/* ---- transactions ---- */

void store_begin(struct store *store);
enum sp_err store_commit(struct store *store, struct sp_error *err) SP_MUST_USE;
void store_rollback(struct store *store); /* drops everything since store_begin */
bool store_in_transaction(const struct store *store);

/* ---- copies, for backups: outside a transaction; whole, durable, of this moment ---- */

enum sp_err store_copy_control(struct store *store, const char *path,
                               struct sp_error *err) SP_MUST_USE;
enum sp_err store_copy_run(struct store_run *run, const char *path,
                           struct sp_error *err) SP_MUST_USE;
/* Opens such a copy by itself, with every check of an opening; then closes it. name NULL: of a
 * control.db; else of that run's file, and `each` (may be NULL) is called with every blob that it
 * refers to; false ends the walk. Any thread. */
enum sp_err store_check_copy(const char *path, const char *name,
                             bool (*each)(void *context, const struct sp_digest *digest),
                             void *context, struct sp_error *err) SP_MUST_USE;

/* ---- runs ---- */

/* Names in order of creation. A run is there after store_run_adopt (store_run.h). */
enum sp_err store_runs_list(struct store *store, struct sp_arena *arena, const char ***ret_names,
                            size_t *ret_count, struct sp_error *err) SP_MUST_USE;
/* The open file of a run; opened at the first call, the same pointer after that, closed with the
 * store. SP_ENOTFOUND: no such run. */
enum sp_err store_run_open(struct store *store, const char *name, struct store_run **ret,
                           struct sp_error *err) SP_MUST_USE;

/* Takes a run away: its file first, so that a death in between leaves a run without a file, which
 * another call removes. Outside a transaction; there is no reader. Durable when it returns.
 * SP_ENOTFOUND: no such run. */
enum sp_err store_run_remove(struct store *store, const char *name,
                             struct sp_error *err) SP_MUST_USE;

/* ---- tokens (tokens.h has the rules) ---- */

struct store_token {
    const char *id;                             /* public half, 16 hex characters */
    struct sp_digest secret_sha;                /* SHA-256 of the secret half */
    uint32_t role;                              /* enum proto_role */
    const char *name;                           /* for people: gen-1 */
    const char *runs;                           /* names separated by commas; "": every run */
    int64_t created_ms, expires_ms, revoked_ms; /* wall clock; 0: never */
};
enum sp_err store_token_put(struct store *store, const struct store_token *token,
                            struct sp_error *err) SP_MUST_USE; /* SP_EEXIST for a known id */
enum sp_err store_token_revoke(struct store *store, const char *id, int64_t now_ms,
                               struct sp_error *err) SP_MUST_USE; /* again: no change, SP_OK */
enum sp_err store_token_get(struct store *store, const char *id, struct sp_arena *arena,
                            struct store_token *ret, struct sp_error *err) SP_MUST_USE;
enum sp_err store_tokens_list(struct store *store, struct sp_arena *arena, struct store_token **ret,
                              size_t *ret_count, struct sp_error *err) SP_MUST_USE;

/* ---- workers: who has ever said hello; for listings ---- */

struct store_worker {
    const char *name; /* key */
    uint32_t role;    /* enum proto_role */
    const char *host, *device, *version, *numerics_class, *token_id;
    int64_t first_seen_ms, last_seen_ms; /* wall clock; first_seen is kept by a later put */
};
enum sp_err store_worker_put(struct store *store, const struct store_worker *worker,
                             struct sp_error *err) SP_MUST_USE;
enum sp_err store_workers_list(struct store *store, struct sp_arena *arena,
                               struct store_worker **ret, size_t *ret_count,
                               struct sp_error *err) SP_MUST_USE;

/* ---- holds: workers that get no work ---- */

enum store_hold_kind { STORE_HOLD_NONE, STORE_HOLD_CORDONED, STORE_HOLD_QUARANTINED };
struct store_hold {
    const char *worker; /* key: its name */
    enum store_hold_kind kind;
    const char *reason;
    int64_t at_ms; /* wall clock */
};
/* kind STORE_HOLD_NONE removes it; a missing one is fine. Write. */
enum sp_err store_hold_put(struct store *store, const struct store_hold *hold,
                           struct sp_error *err) SP_MUST_USE;
enum sp_err store_holds_list(struct store *store, struct sp_arena *arena, struct store_hold **ret,
                             size_t *ret_count, struct sp_error *err) SP_MUST_USE;

/* ---- events: of a run (in its file) or of the coordinator (run NULL: control.db) ---- */

struct store_event {
    uint64_t id;        /* set by the store, rising within its file */
    int64_t at_ms;      /* wall clock */
    int32_t iteration;  /* -1: none */
    const char *actor;  /* worker or token name, "coordinator" */
    const char *kind;   /* "state", "verdict", "alarm", "audit", … */
    const char *text;   /* one sentence for people */
    const char *detail; /* JSON object, or "" */
};
enum sp_err store_event_append(struct store *store, struct store_run *run,
                               const struct store_event *event, struct sp_error *err) SP_MUST_USE;
/* Events with id > after, oldest first, at most limit (≤ SP_MAX_LIST_ROWS). */
enum sp_err store_events_list(struct store *store, struct store_run *run, uint64_t after,
                              uint32_t limit, struct sp_arena *arena, struct store_event **ret,
                              size_t *ret_count, struct sp_error *err) SP_MUST_USE;
/* The newest `limit` events, oldest first. */
enum sp_err store_events_last(struct store *store, struct store_run *run, uint32_t limit,
                              struct sp_arena *arena, struct store_event **ret, size_t *ret_count,
                              struct sp_error *err) SP_MUST_USE;

#endif

/* internal: what the files of coordinator/store share. */
#ifndef SPIN_COORDINATOR_STORE_INTERNAL_H
#define SPIN_COORDINATOR_STORE_INTERNAL_H

#include "coordinator/store/db.h"
#include "coordinator/store/store_run.h"

struct store_run {
    struct store *store; /* NULL while a builder makes it */
    char *name;
    struct sdb *db;
};

struct store {
    char *dir;
    struct store_options options;
    bool readonly;
    int lock_fd; /* -1: not locked */
    struct sdb *control;
    struct store_run **runs; /* open ones */
    size_t run_count;
    bool write_window; /* between store_begin and store_commit */
};

/* Rows of workers beyond SP_MAX_WORKER_ROWS go, those first that were not heard of for longest. */
enum sp_err store_forget_workers(struct store *store, struct sp_error *err) SP_MUST_USE;
/* Whether control.db has a row for it. */
enum sp_err store_run_known(struct store *store, const char *name, bool *ret,
                            struct sp_error *err) SP_MUST_USE;
void store_run_close(struct store_run *run); /* it is in no list any more */
/* STATE_DIR/runs/NAME.db + suffix; malloc'd */
char *store_run_path(const char *state_dir, const char *name, const char *suffix);
/* Rows of the file's table events. */
enum sp_err store_db_event_append(struct sdb *db, const struct store_event *event,
                                  struct sp_error *err) SP_MUST_USE;

/* A column: the token ids of the answer that `id` names; empty for 0. */
#define STORE_ANSWER_IDS(id)                                                                       \
    "iif(" id " = 0, zeroblob(0), (SELECT a.ids FROM answers a WHERE a.id = " id ")) AS ids"

#endif

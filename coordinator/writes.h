/* writes: changes of durable state that the core asks for, and their execution on the store.
 *
 * The core makes a struct coord_write and keeps it until the event that says it is durable; the
 * store thread (in the simulation: the harness) executes writes in order inside a transaction and
 * commits. coord_write_apply blocks on the disk: store thread only. */
#ifndef SPIN_COORDINATOR_WRITES_H
#define SPIN_COORDINATOR_WRITES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "coordinator/iteration_sm.h"
#include "coordinator/store/store.h"
#include "coordinator/store/store_run.h"
#include "proto/messages.h"

enum coord_write_kind {
    COORD_W_RESULTS,   /* rows */
    COORD_W_REFS,      /* rows: position, prompt, sample and references */
    COORD_W_STEPS,     /* steps */
    COORD_W_START,     /* row: a new iteration */
    COORD_W_STATE,     /* to, resume, reason; fresh: drop what was made, attempt rises */
    COORD_W_EPOCH,     /* epoch, holder: the trainer's grant */
    COORD_W_CLASS,     /* text: the run's numerics class */
    COORD_W_PRIORITY,  /* priority */
    COORD_W_GENERATED, /* every training pair is stored: notes the time */
    COORD_W_ORDER,     /* order */
    COORD_W_PUBLISHED, /* checkpoint, manifest, blobs, bytes, chain, text: the trainer's summary */
    COORD_W_CLOSED,    /* verdict, accepted, text: statistics as JSON */
    COORD_W_SKIP,      /* prompt */
    COORD_W_WORKER,    /* worker */
    COORD_W_REVOKE,    /* rows: set and position of results that go; checkpoint_sets: those that
                          are dropped whole; epoch; rewind; to, resume when `moves` */
    COORD_W_HOLD,      /* hold: a worker that gets no work, or does again */
    COORD_W_EVENT,     /* the event alone */
};

struct coord_write {
    uint64_t id;
    enum coord_write_kind kind;
    const char *run; /* name, borrowed from the core; NULL: the coordinator's own */
    uint32_t iteration;
    /* An event that is stored with the change; event_text NULL: none. Owned. */
    char *actor, *event_text;
    const char *event_kind; /* static: "state", "alarm", "audit", … */

    struct store_result *rows; /* owned; token ids in them are borrowed from the request */
    uint32_t row_count;
    const struct proto_step_metrics *steps; /* borrowed from the request */
    uint32_t step_count;
    uint64_t steps_total;
    struct store_iteration row; /* START; strings in it are static */
    bool copy_replays;          /* START: the answers of replayed pairs are put there */
    /* RESULTS: set by who executes the write, where the answers of training pairs are stored in
     * another form than they came in (compat = uclaml); the new ids live in the arena. */
    enum sp_err (*rewrite)(void *context, struct store_run *run, struct store_result *row,
                           struct sp_arena *arena, struct sp_error *err);
    void *rewrite_context;
    enum coord_state to, resume;
    bool fresh;
    uint64_t epoch;
    char *holder;               /* EPOCH: name of the worker, NULL: released; owned */
    char *text;                 /* owned */
    char *reason;               /* owned */
    uint32_t *order;            /* owned */
    uint32_t order_count;
    struct sp_digest checkpoint, manifest, chain, pairs_sha256;
    struct sp_digest *blobs;    /* owned */
    uint32_t blob_count;
    uint64_t bytes;
    char *verdict;              /* owned */
    bool accepted;
    uint32_t prompt;
    int32_t priority;
    struct store_worker worker; /* strings owned */
    uint32_t dropped_sets;      /* REVOKE: bits 1 << set of sets that are dropped whole */
    bool moves;                 /* REVOKE: the iteration returns to `to` or, paused, its resume */
    bool fenced;                /* REVOKE: epoch rises, the trainer's lease ends */
    uint64_t rewind_steps;      /* REVOKE, fenced: no older snapshot of more steps is of use */
    bool drops_order;           /* REVOKE: the order by gap goes, too */
    enum store_hold_kind hold;  /* HOLD: of the worker `holder`; text: the reason */

    /* What the core does when it is durable: private to the core. */
    uint64_t handle;            /* the request that waits for it, 0: none */
    uint64_t worker_id, lease_id, request_id, attempt;
    uint32_t refused;
    int follow;                 /* enum coord_follow */
    struct proto_bytes manifest_text; /* of a publish_begin, borrowed from the request */
};

struct coord_write_result {
    uint32_t stored, duplicates, different;
    uint64_t different_position; /* the first one */
    uint32_t different_set;
    uint64_t different_rows[SP_MAX_SUBMIT_RESULTS / 64]; /* bit i: rows[i] differs */
    uint64_t tokens;             /* of the rows newly stored: sampled answers */
};

void coord_write_free(struct coord_write *write); /* NULL is fine */
/* Between store_begin and store_commit. wall_ms stamps rows and events. Errors as in store.h: every
 * one of them is final here, since the core asks for nothing that the store can refuse. */
enum sp_err coord_write_apply(struct store *store, const struct coord_write *write, int64_t wall_ms,
                              struct sp_arena *arena, struct coord_write_result *ret,
                              struct sp_error *err) SP_MUST_USE;

#endif

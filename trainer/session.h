/* session: the training of one iteration under one grant, from the starting weights (or a snapshot)
 * to the published checkpoint.
 *
 *     prepare ──> score (score_by = trainer) ──> steps ──> publish ──> published
 *        │             │                          │           │
 *        └─────────────┴──── pause, cancel, lost, stop, failure ──> release
 *
 * Compute thread. */
#ifndef SPIN_TRAINER_SESSION_H
#define SPIN_TRAINER_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/model.h"
#include "common/spin/step.h"
#include "proto/run_settings.h"
#include "trainer/batch.h"
#include "trainer/metrics.h"
#include "trainer/reporter.h"
#include "trainer/snapshot.h"
#include "trainer/trainer.h"

enum train_end {
    TRAIN_END_NONE = 0, /* go on */
    TRAIN_END_PUBLISHED,
    TRAIN_END_PAUSED,
    TRAIN_END_CANCELLED,
    TRAIN_END_LOST,
    TRAIN_END_STOPPED,
    TRAIN_END_FAILED, /* the iteration cannot go on: session.err says why */
    TRAIN_END_UNFIT,  /* this trainer is not made for the run: session.err */
};

struct train_session {
    struct trainer *trainer;
    struct train_identity identity; /* run, iteration, attempt, … */
    uint64_t epoch;                 /* fencing number */
    uint32_t lease_ms;
    struct train_rewind rewind;
    uint64_t plan_pairs;
    struct sp_digest manifest;    /* of the starting weights */
    struct run_settings settings; /* of the run */
    /* settings of this iteration */
    enum spin_mode mode;
    double beta;
    uint64_t steps_total;
    /* what is trained */
    struct ckpt_cache_ref *weights;
    struct model *model;
    struct spin_step *step;
    struct spin_pair *pairs; /* (batch_pairs): views of a batch */
    struct train_reporter *reporter;
    /* progress */
    uint64_t done;          /* steps */
    uint64_t snapshot_step; /* newest one on the disk */
    struct sp_digest chain;
    struct train_totals totals;
    struct proto_step_metrics *unreported; /* (TRAIN_SNAPSHOT_UNREPORTED_MAX) */
    uint32_t unreported_count;
    struct sp_error err;
};

/* Copies a grant. SP_EFORMAT: a grant that no coordinator should send. */
enum sp_err train_session_new(struct trainer *trainer,
                              const struct proto_trainer_lease_reply *grant,
                              struct train_session **ret, struct sp_error *err) SP_MUST_USE;
void train_session_free(struct train_session *session); /* NULL is fine */
/* Everything, the release included. */
enum train_end train_session_run(struct train_session *session);

/* ---- between the files of the session ---- */

/* What the signal and the reporter ask for. */
enum train_end train_session_poll(const struct train_session *session);
/* Notes the error; what it means for the session: lost for a fenced-off trainer, what poll says
 * after an interruption, else failed. */
enum train_end train_session_error(struct train_session *session, enum sp_err rc,
                                   const struct sp_error *err);
/* The same, except that a disk that is full or fails may be mended soon: SP_EIO waits a moment,
 * says so, and gives TRAIN_END_NONE so that the caller tries again; *tries counts, and they end. */
enum train_end train_session_disk_error(struct train_session *session, enum sp_err rc,
                                        const struct sp_error *err, uint32_t *tries);
/* A request of the session, repeated until it is answered or poll says otherwise. */
enum train_end train_session_call(struct train_session *session, enum proto_type type, void *body,
                                  const void **ret_reply);
/* prepare.c: settings, weights, memory plan, optimizer, snapshot. */
enum train_end train_session_prepare(struct train_session *session);
/* loop.c */
enum train_end train_session_score(struct train_session *session);
enum train_end train_session_steps(struct train_session *session);
enum train_end train_session_snapshot(struct train_session *session);
/* publish.c */
enum train_end train_session_publish(struct train_session *session);

#endif

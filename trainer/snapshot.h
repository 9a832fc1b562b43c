/* snapshot: all that a trainer needs to go on with an iteration to the same bits: weights,
 * optimizer state, cursor, chained digest of the pairs consumed, and what names the iteration.
 *
 * One file per run, DIR/RUN.snapshot, with the one before it in DIR/RUN.previous:
 *     16 bytes "spin-snapshot 2\n", u32 header length (little-endian), the header (JSON, padded
 * with spaces to a multiple of 64 with the 20 bytes before it), parameters (fp32 or bf16), the
 *     optimizer's state (as it lies: fp32, or codes with their scales), SHA-256 of everything
 *     before it
 * Written to a temporary file, fsynced, renamed, directory fsynced; the one before stays until the
 * new one is durable. Blocks on the disk; compute thread. */
#ifndef SPIN_TRAINER_SNAPSHOT_H
#define SPIN_TRAINER_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/tensor/state.h"
#include "proto/messages.h"
#include "trainer/metrics.h"

#define TRAIN_SNAPSHOT_UNREPORTED_MAX 4096

/* Which training a snapshot belongs to; it is of use to an equal one only. */
struct train_identity {
    char run[SP_MAX_RUN_NAME + 1];
    uint32_t iteration;
    uint64_t attempt;
    struct sp_digest plan, opponent, settings;
    char numerics_class[128];
    enum tn_dtype weights; /* parameters */
    enum tn_state state;   /* of the optimizer */
};

struct train_snapshot {
    struct train_identity identity;
    uint64_t fencing_epoch; /* of the lease under which it was written */
    uint64_t step;          /* steps done */
    int64_t updates;        /* of them, with an update */
    struct sp_digest chain; /* over the pairs of the steps done */
    struct train_totals totals;
    struct proto_step_metrics *unreported; /* steps that the coordinator has not acknowledged */
    uint32_t unreported_count;
    const void *params, *state; /* of the identity's types */
    size_t n_params, state_bytes;
    struct tn_backend *backend; /* whose memory params and state are; NULL: the host's */
};

enum sp_err train_snapshot_write(const char *dir, const struct train_snapshot *snapshot,
                                 struct sp_error *err) SP_MUST_USE;

/* An open snapshot: arrays point into the mapped file. */
struct train_snapshot_file {
    struct train_snapshot snapshot;
    struct sp_map map;
};
/* Verified. SP_ENOTFOUND: none; SP_ECORRUPT, SP_EFORMAT, SP_EVERSION name the file. */
enum sp_err train_snapshot_open(const char *path, struct train_snapshot_file *ret,
                                struct sp_error *err) SP_MUST_USE;
void train_snapshot_close(struct train_snapshot_file *file);
/* Which snapshots are not to be used: those written under a lease of a lower epoch that have done
 * more steps. They have seen pairs that were revoked. */
struct train_rewind {
    uint64_t epoch, steps;
};
/* The newest whole snapshot of this identity; SP_ENOTFOUND when there is none. Says in the log what
 * it passed over and why. */
enum sp_err train_snapshot_find(const char *dir, const struct train_identity *identity,
                                const struct train_rewind *rewind, struct train_snapshot_file *ret,
                                struct sp_error *err) SP_MUST_USE;
/* Removes both files of a run. */
enum sp_err train_snapshot_drop(const char *dir, const char *run, struct sp_error *err) SP_MUST_USE;
/* NULL when equal, else what differs, for the log. */
const char *train_identity_differs(const struct train_identity *a, const struct train_identity *b);

#endif

/* reporter: a thread that renews the trainer's lease, hears the coordinator's commands, and hands
 * in the metrics of steps in small batches, again and again until they are acknowledged. Start and
 * close on the compute thread, which also gives it everything. */
#ifndef SPIN_TRAINER_REPORTER_H
#define SPIN_TRAINER_REPORTER_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/tensor/backend.h"
#include "common/worker/link.h"
#include "proto/messages.h"

struct train_reporter;

struct train_reporter_options {
    struct worker_link *link;   /* borrowed */
    struct tn_backend *backend; /* borrowed: what it says of its usage */
    const char *run;            /* borrowed */
    uint32_t iteration;
    uint64_t epoch; /* fencing number */
    uint32_t lease_ms;
    uint64_t steps_total;
    int64_t report_ms; /* metrics wait at most this long */
    /* Called on the reporter's thread when the command becomes something else than go on, to wake
     * a compute thread that waits. */
    void (*on_command)(void *context);
    void *context;
};

/* What the compute thread is to do; only ever rises. */
enum train_command {
    TRAIN_GO_ON = 0,
    TRAIN_PAUSE,  /* snapshot, release */
    TRAIN_CANCEL, /* drop the work, release */
    TRAIN_LOST,   /* another trainer has the run, or the iteration is over */
};

enum sp_err train_reporter_start(const struct train_reporter_options *options,
                                 struct train_reporter **ret, struct sp_error *err) SP_MUST_USE;
enum train_command train_reporter_command(const struct train_reporter *reporter);
/* Why the lease was lost; valid after TRAIN_LOST. */
const char *train_reporter_reason(const struct train_reporter *reporter);
/* Takes a copy; waits while too many are not handed in. */
void train_reporter_step(struct train_reporter *reporter, const struct proto_step_metrics *metrics);
void train_reporter_activity(struct train_reporter *reporter, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What is there goes in now, without waiting for company. */
void train_reporter_flush(struct train_reporter *reporter);
/* The newest step that the coordinator has acknowledged. */
uint64_t train_reporter_acknowledged(const struct train_reporter *reporter);
/* Tries once more to hand in what is there, for at most flush_ms; joins. NULL is fine. */
void train_reporter_close(struct train_reporter *reporter, int64_t flush_ms);

#endif

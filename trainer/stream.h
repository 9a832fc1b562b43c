/* stream: a thread that fetches the pairs of an iteration, batch by batch in the order in which
 * they are trained on, ahead of the step in work. A bounded mailbox lies between: memory is that of
 * `prefetch` batches. One stream at a time per iteration; start and close on the compute thread. */
#ifndef SPIN_TRAINER_STREAM_H
#define SPIN_TRAINER_STREAM_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/worker/link.h"
#include "trainer/batch.h"

struct train_stream;

struct train_stream_options {
    struct worker_link *link; /* borrowed */
    const char *run;          /* borrowed */
    uint32_t iteration;
    uint64_t epoch;      /* fencing number */
    uint64_t plan_pairs; /* of a pass, at least 1 */
    uint32_t batch_pairs;
    uint64_t first_batch; /* counted over all passes */
    uint64_t last_batch;  /* one past the end */
    uint32_t prefetch;    /* batches ahead, at least 1 */
};

/* Batches of a pass: the last one may be short. */
uint64_t train_batches_per_pass(uint64_t plan_pairs, uint32_t batch_pairs);

enum sp_err train_stream_start(const struct train_stream_options *options,
                               struct train_stream **ret, struct sp_error *err) SP_MUST_USE;
/* The next batch (the caller's); *ret NULL with SP_OK: none within timeout_ms. An error ends the
 * stream: it is given again on every later call. */
enum sp_err train_stream_take(struct train_stream *stream, int64_t timeout_ms,
                              struct train_batch **ret, struct sp_error *err) SP_MUST_USE;
/* Pairs that have come of the batch in work, for people. */
uint64_t train_stream_position(const struct train_stream *stream);
void train_stream_close(struct train_stream *stream); /* wakes and joins; NULL is fine */

#endif

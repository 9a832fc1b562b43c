/* sources: the chunks of a checkpoint from wherever the coordinator says: from other workers that
 * have them, or from itself. Every chunk is verified by its digest; who sends other bytes, or
 * nothing in time, is reported and not asked again. What is left over when there is nobody else is
 * fetched by fetch.c. Inside common/worker only. One thread; blocks on the network and the disk. */
#ifndef SPIN_WORKER_SOURCES_H
#define SPIN_WORKER_SOURCES_H

#include "common/checkpoint/partial.h"
#include "common/worker/link.h"

struct worker_target {
    struct worker_peer *peer;
    struct sp_digest checkpoint, manifest;
};

/* A ckpt_ahead_fn; context: struct worker_target. */
enum sp_err worker_fetch_ahead(void *target, struct ckpt_partial *partial,
                               struct sp_error *err) SP_MUST_USE;
/* Tells the coordinator that this worker, which gives chunks, has the whole checkpoint in this
 * cache. Failing to is no failure. */
void worker_announce(const struct worker_target *target, const char *cache_dir);

#endif

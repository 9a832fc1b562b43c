/* plan: which pairs an iteration trains on, in which order: pure functions that coordinator,
 * trainer and an outside checker share.
 *
 * Keys of iteration t, numbered 0 … n-1: first the new pairs, key = prompt × samples_per_prompt +
 * sample; then (replay) the new pairs of iteration t-1, in the same numbering. A *position* is a
 * key's number. The order of a pass (train epoch e) is a permutation of positions:
 *   shuffle: sp_rng_permutation(seed, iteration, e)
 *   length:  by tokens of prompt and human answer, then by position; the same in every pass
 *   gap:     given (a blob that the coordinator stores when generation has ended)
 * Generation works in the order of pass 0 (gap: by position). Any thread. */
#ifndef SPIN_PROTO_PLAN_H
#define SPIN_PROTO_PLAN_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "proto/run_settings.h"

struct plan_key {
    uint32_t source_iteration; /* whose opponent sampled the answer */
    uint32_t prompt, sample;
};

struct plan {
    uint64_t seed;
    uint32_t iteration;
    uint32_t prompts;            /* training prompts of the run */
    uint32_t samples_per_prompt; /* 1 in modes sft and dpo */
    uint32_t new_pairs;          /* prompts × samples */
    uint32_t replay_pairs;       /* 0 or new_pairs */
    int order;                   /* enum run_order */
};

/* What iteration t of a run with these settings and this many prompts covers. */
void plan_init(const struct run_settings *settings, uint32_t iteration, uint32_t prompts,
               struct plan *ret);
uint32_t plan_pairs(const struct plan *plan);
void plan_key_at(const struct plan *plan, uint32_t position, struct plan_key *ret);
/* length_keys[prompt]: tokens of prompt and human answer; needed for order = length, else NULL.
 * gap_order[n]: the stored order; needed for order = gap, else NULL. ret_order[plan_pairs]. */
void plan_order(const struct plan *plan, uint32_t train_epoch, const uint64_t *length_keys,
                const uint32_t *gap_order, uint32_t *ret_order);
/* Optimizer steps of the iteration: epochs × ceil(pairs / batch). The last batch of a pass may be
 * short. */
uint64_t plan_steps(const struct plan *plan, int64_t epochs, int64_t batch_pairs);
/* SHA-256 over the plan's fields and the data's digest: what a snapshot must agree with. */
void plan_digest(const struct plan *plan, const struct sp_digest *data, struct sp_digest *ret);

#endif

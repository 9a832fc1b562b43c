/* pack: turns pairs (x, y, y') and answered prompts (x, y) into batches of rows for model_forward.
 *
 * A pair is one segment: prompt, human answer, opponent's answer, whose positions go on from the
 * prompt's and which doesn't see the human answer. The last token of an answer is no row, as
 * nothing is predicted from it; the last row of the prompt predicts the first token of both. Pairs
 * with y = y' are packed as (x, y). Micro-batches are cut in order, from lengths and settings
 * alone, so that they never depend on free memory.
 *
 * One thread; everything is allocated in spin_packer_new. */
#ifndef SPIN_SPIN_PACK_H
#define SPIN_SPIN_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/forward.h"

struct spin_pair {
    const int32_t *prompt;    /* x: at least one id; borrowed */
    const int32_t *real;      /* y: the human answer (dpo: the chosen one), end token included */
    const int32_t *generated; /* y': the opponent's (dpo: the rejected one); none in mode sft */
    int32_t n_prompt, n_real, n_generated; /* tokens; n_real ≥ 1 */
    float ref_real;                        /* log πref(y|x), summed by model_sum_logprobs */
    float ref_generated;                   /* log πref(y'|x) */
};

bool spin_pair_identical(const struct spin_pair *pair); /* y = y' */
/* Rows that the pair takes in a batch. with_generated false: (x, y) alone. */
int32_t spin_pair_rows(const struct spin_pair *pair, bool with_generated);

/* Where a pair's log-probabilities are in the targets of its micro-batch. */
struct spin_packed_pair {
    int32_t pair;                    /* index in the batch */
    int32_t first_target, n_targets; /* all its targets lie here, sorted by row */
    bool identical;                  /* packed as (x, y) though it has a y' */
};

/* One micro-batch. answer[i] says whose token target i is: 0 y, 1 y'. */
struct spin_micro {
    struct model_batch batch;
    struct tn_target *targets; /* the same as batch.targets, to set coefficients */
    const uint8_t *answer;     /* (n_targets) */
    const struct spin_packed_pair *pairs;
    int32_t n_pairs;
};

struct spin_packer;

/* Room for micro-batches of up to max_rows rows. shared_prompt false packs a pair as two plain
 * sequences (the gradient to check against). */
enum sp_err spin_packer_new(int32_t max_rows, bool shared_prompt, struct spin_packer **ret,
                            struct sp_error *err) SP_MUST_USE;
void spin_packer_free(struct spin_packer *packer); /* NULL is fine */

/* Rows that the pair takes in this packer's batches. */
int64_t spin_packer_rows(const struct spin_packer *packer, const struct spin_pair *pair,
                         bool with_generated);
/* Fills *ret from pairs[*cursor …) of the batch and moves the cursor; false at the end. The first
 * pair must fit by itself: spin_packer_rows ≤ max_rows, checked by the caller (spin_step does).
 * with_generated false leaves y' out (mode sft). Borrowed until the next call. */
bool spin_packer_next(struct spin_packer *packer, const struct spin_pair *pairs, int32_t n_pairs,
                      bool with_generated, int32_t *cursor, struct spin_micro *ret);

#endif

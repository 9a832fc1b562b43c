/* metrics: what a step tells the coordinator, and what an iteration adds up: the count of steps
 * that were not finite, first-sight accuracy (recipe.md, f), the guard on log π(y). Pure; one
 * thread. */
#ifndef SPIN_TRAINER_METRICS_H
#define SPIN_TRAINER_METRICS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/spin/step.h"
#include "proto/messages.h"
#include "trainer/batch.h"

/* Added up over an iteration; a snapshot carries it. */
struct train_totals {
    uint64_t tokens;           /* through the model */
    uint64_t milliseconds;     /* of steps */
    uint64_t pairs, identical; /* of steps: a pair counts in every pass */
    uint64_t nonfinite;        /* steps without an update */
    uint64_t first_sight_pairs;
    double first_sight_correct; /* ties one half */
    double loss_first, loss_last;
    double margin_abs_max_first; /* of the first step: 0 but for rounding */
};

/* What the step's result means for a batch. kept: pairs of the batch that were in the step, in
 * order (skipped ones left out). plan_pairs: of a pass. */
struct train_step_context {
    uint64_t step; /* 1-based */
    uint64_t plan_pairs;
    uint32_t iteration;
    double beta;
    bool has_reference; /* modes spin and dpo */
    uint64_t milliseconds;
};
void train_metrics_fill(const struct train_step_context *context, const struct train_batch *batch,
                        const struct spin_metrics *metrics, struct proto_step_metrics *ret);
void train_totals_add(struct train_totals *totals, const struct proto_step_metrics *metrics);

/* Mean over the tokens of the human answers of log π(y) − log πref(y): what the guard watches. 0
 * when there are none. */
double train_logp_real_change(const struct train_batch *batch, const struct spin_metrics *metrics);

/* JSON with the fields of proto/messages.def; not finite numbers are null and come back as NaN. */
json_t *train_metrics_to_json(const struct proto_step_metrics *metrics);
enum sp_err train_metrics_from_json(const json_t *object, struct proto_step_metrics *ret,
                                    struct sp_error *err) SP_MUST_USE;
json_t *train_totals_to_json(const struct train_totals *totals);
enum sp_err train_totals_from_json(const json_t *object, struct train_totals *ret,
                                   struct sp_error *err) SP_MUST_USE;

#endif

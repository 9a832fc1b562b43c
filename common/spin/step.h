/* step: one optimizer step over a batch of pairs, and scoring of pairs by the trainer's own forward
 * pass.
 *
 * Modes: spin and dpo: L = (1/B) Σ ℓ(m) over the B pairs of the batch, plus sft_weight × the mean
 * NLL of the tokens of all y; sft: the mean NLL of the tokens of all y. Gradients accumulate over
 * micro-batches, which never mix with the batch's denominators: the same result to rounding, and
 * to the bit for equal micro_rows. Pairs with y = y' count in B (with ℓ(0)) and in the SFT term;
 * they get no SPIN backward.
 *
 * A loss or gradient that is not finite skips the update: parameters, state and the count of
 * updates stay as they were, metrics.nonfinite is set, and the caller decides when it is enough.
 *
 * One compute thread; nothing is allocated in a step. Everything that a snapshot needs: the model's
 * block (model_params), the optimizer's state and count (spin_step_optimizer), and the caller's
 * cursor. */
#ifndef SPIN_SPIN_STEP_H
#define SPIN_SPIN_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/forward.h"
#include "common/model/model.h"
#include "common/spin/loss.h"
#include "common/spin/optim.h"
#include "common/spin/pack.h"

enum spin_mode { SPIN_MODE_SPIN, SPIN_MODE_SFT, SPIN_MODE_DPO };

struct spin_step_config {
    enum spin_mode mode;
    struct spin_loss loss;
    double sft_weight; /* 0: no SFT term */
    struct spin_optimizer_config optimizer;
    int32_t batch_pairs; /* pairs of the largest batch */
    int32_t micro_rows;  /* rows of a micro-batch; at least those of the longest pair */
    int32_t longest;     /* tokens of the longest prompt with both answers; 0: micro_rows */
    /* As the backend stores them, for the plan (spin_step_new asks the model's). */
    enum tn_dtype weights, activations;
    size_t memory_budget_bytes; /* weights, gradients, state, activations; 0: no limit */
    void (*alive)(void);        /* called before every micro-batch; NULL: nobody asks */
    bool unshared_prompts;      /* pack (x,y) and (x,y') apart: for tests */
};

/* Arrays belong to the step and hold until the next call; (n_pairs), in the order of the batch. */
struct spin_metrics {
    int64_t step;
    int32_t n_pairs;
    int32_t identical; /* pairs with y = y' */
    double lr;
    double loss;      /* everything that was minimized */
    double spin_loss; /* mean ℓ(m) */
    double sft_nll;   /* mean NLL of y's tokens */
    double margin_mean;
    double margin_abs_max;
    double accuracy;                            /* share with m > 0, ties ½ */
    double logp_real_mean, logp_generated_mean; /* log π(y), log π(y'): means over pairs */
    double logp_real_change_mean;               /* log π(y) − log πref(y) */
    double logp_generated_change_mean;
    double grad_norm; /* before clipping */
    int64_t tokens;   /* of prompts and answers, as the data has them */
    int64_t rows;     /* run through the model, in all micro-batches */
    int32_t micro_batches;
    bool nonfinite;             /* the update was skipped */
    const char *nonfinite_what; /* "loss", "gradient"; NULL otherwise */
    const double *margins;
    const float *logp_real, *logp_generated;
};

struct spin_step;

/* Bytes of everything, before anything is allocated; pure. */
enum sp_err spin_step_plan(const struct model_config *model, const struct spin_step_config *config,
                           struct model_memory_plan *ret, struct sp_error *err) SP_MUST_USE;
/* When that is SP_ELIMIT: one line on which of a run's settings would make it fit, the least
 * harmful that do. device: of a backend with memory of its own. false: none would; the line says
 * so. */
bool spin_step_advise(const struct model_config *model, const struct spin_step_config *config,
                      bool device, struct sp_buf *out);
/* The model is borrowed and gets a gradient block; it must outlive the step. */
enum sp_err spin_step_new(struct model *model, const struct spin_step_config *config,
                          struct spin_step **ret, struct sp_error *err) SP_MUST_USE;
void spin_step_free(struct spin_step *step); /* NULL is fine */

/* Step number `index` (0-based: decides the rate). SP_EINVAL names the pair (its index in the
 * batch) that is empty, too long, has ids out of range or a reference that is not finite; nothing
 * has changed then. */
enum sp_err spin_step_run(struct spin_step *step, int64_t index, const struct spin_pair *pairs,
                          int32_t n_pairs, struct spin_metrics *ret,
                          struct sp_error *err) SP_MUST_USE;
/* The same without backward and update: metrics of a batch (held-out pairs). */
enum sp_err spin_step_evaluate(struct spin_step *step, const struct spin_pair *pairs,
                               int32_t n_pairs, struct spin_metrics *ret,
                               struct sp_error *err) SP_MUST_USE;
/* Log-probabilities of both answers under the current weights (score_by = trainer): ret_… (n). Any
 * n; ref_ fields are not read. ret_generated may be NULL in mode sft. */
enum sp_err spin_step_score(struct spin_step *step, const struct spin_pair *pairs, int32_t n_pairs,
                            float *ret_real, float *ret_generated,
                            struct sp_error *err) SP_MUST_USE;

struct spin_optimizer *spin_step_optimizer(struct spin_step *step);
const struct model_memory_plan *spin_step_memory(const struct spin_step *step);

#endif

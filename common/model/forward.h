/* forward: log-probabilities of chosen tokens, and their gradients, over packed sequences without
 * padding. This is the trainer's pass; generation has decoder.h. Both give the same fp32 bits for
 * the same sequence on the "cpu" backend with fp32 weights and cache.
 *
 * A batch is a list of rows (token ids and positions) and a table of segments (backend.h). A target
 * asks for log p(id | everything that its row sees). Logits are made for rows with targets only, in
 * blocks of MODEL_LOGIT_ROWS rows.
 *
 * One compute thread. A workspace is sized once; forward and backward allocate nothing. */
#ifndef SPIN_MODEL_FORWARD_H
#define SPIN_MODEL_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/model/model.h"

#define MODEL_LOGIT_ROWS 256

struct model_batch {
    int32_t rows;                      /* T */
    const int32_t *ids;                /* (T) */
    const int32_t *positions;          /* (T), each below max_positions */
    const struct tn_segment *segments; /* cover the rows in order, without gaps */
    int32_t n_segments;
    const struct tn_target *targets; /* sorted by row (rows of the batch); two may share a row.
                                      * Their coefficient is read by model_backward only. */
    int32_t n_targets;
};

/* What a workspace is made for. */
struct model_workspace_size {
    int32_t max_rows;    /* rows of the largest batch */
    int32_t longest;     /* rows of its longest segment */
    int32_t max_targets; /* targets of a batch */
    bool backward;       /* false: log-probabilities only */
    /* As the backend stores them (model_workspace_new asks it). */
    enum tn_dtype weights, activations;
    size_t extra_bytes;  /* what the caller adds to the plan: optimizer state and the like */
    size_t budget_bytes; /* for everything in the plan; 0: no limit */
};

/* Bytes by part. Activations of as many layers as the budget allows are kept, those of the others
 * are computed again in the backward pass: the same bits either way, a third more work. */
struct model_memory_plan {
    size_t weights, grads, extra, activations, logits, scratch, total;
    size_t budget;       /* as given */
    int32_t layers;      /* of the model */
    int32_t kept_layers; /* whose activations are kept (the last ones) */
    int32_t logit_rows;  /* rows whose logits are kept from forward to backward */
    int32_t max_rows;
};

/* Pure. SP_ELIMIT when even the smallest plan is over the budget: the message says by how much and
 * what to lower. */
enum sp_err model_memory_plan(const struct model_config *config,
                              const struct model_workspace_size *size,
                              struct model_memory_plan *ret, struct sp_error *err) SP_MUST_USE;
/* The plan as a few lines of text for a log. */
void model_memory_plan_print(const struct model_memory_plan *plan, struct sp_buf *out);

struct model_workspace;

/* Reserves what the plan says (the model's own weights and gradients are not in it). */
enum sp_err model_workspace_new(struct model *model, const struct model_workspace_size *size,
                                struct model_workspace **ret, struct sp_error *err) SP_MUST_USE;
void model_workspace_free(struct model_workspace *work); /* NULL is fine */
const struct model_memory_plan *model_workspace_plan(const struct model_workspace *work);

/* ret_logprobs (n_targets): fp32, those of the unmodified distribution. Keeps what model_backward
 * needs until the next call. SP_EINVAL names the field of a batch that doesn't fit or is not
 * consistent (ids and positions out of range, segments that don't cover the rows, targets out of
 * order). */
enum sp_err model_forward(struct model *model, struct model_workspace *work,
                          const struct model_batch *batch, float *ret_logprobs,
                          struct sp_error *err) SP_MUST_USE;
/* grads += ∂/∂params Σ coefficient_i × log p_i over the targets of the batch of the last
 * model_forward (the same batch; only coefficients may have changed). */
enum sp_err model_backward(struct model *model, struct model_workspace *work,
                           const struct model_batch *batch, struct sp_error *err) SP_MUST_USE;

/* Floating-point operations that a forward pass over these segments needs: each row once through
 * every layer's matrices, each query with the keys that it sees, the output matrix for `head_rows`
 * rows (those with targets). The backward pass needs twice that. Norms, activations, losses and
 * what is computed a second time count as nothing. Pure. */
double model_forward_flops(const struct model_config *config, const struct tn_segment *segments,
                           int32_t n_segments, int32_t head_rows);

/* The one rule for the log-probability of a response: the fp32 log-probabilities of its tokens are
 * summed in double in order of position, and the sum is rounded to fp32. */
float model_sum_logprobs(const float *logprobs, int32_t n);

#endif

/* workspace_impl: the inside of struct model_workspace, for the files of this folder. */
#ifndef SPIN_MODEL_WORKSPACE_IMPL_H
#define SPIN_MODEL_WORKSPACE_IMPL_H

#include "common/model/forward.h"

/* What a layer's forward pass leaves for its backward pass, T rows each. */
struct model_activations {
    float *rstd1; /* (T) of the first norm */
    float *qkv;   /* (T, (H+2G)C), rotated */
    float *lse;   /* (T, H) of the attention scores */
    float *att;   /* (T, HC): output of attention */
    float *mid;   /* (T, D): input of the second norm */
    float *rstd2; /* (T) of the second norm */
    float *gu;    /* (T, 2F): gate and up */
};

struct model_workspace {
    struct model *model; /* borrowed */
    struct model_workspace_size size;
    struct model_memory_plan plan;
    float *block;   /* activations, the backend's memory */
    float *scratch; /* everything else, the backend's memory */
    float **x;      /* (layers + 1): input of each layer, then the output; (T, D) each */
    struct model_activations *kept; /* (layers): of layers from first_kept on; all the same scratch
                                     * set before that */
    int32_t first_kept;
    /* scratch of a layer */
    float *norm; /* (T, D): a norm's output, then its gradient */
    float *wide; /* (T, max(2F, (H+2G)C)): gradients of gate and up, of queries, keys, values */
    float *half; /* (T, max(F, HC)): SwiGLU's output and its gradient, gradient of attention */
    float *dx;   /* (T, D): gradient of the residual stream */
    /* scratch of the output matrix, MODEL_LOGIT_ROWS rows */
    float *head_x, *head_norm, *head_dx; /* (256, D) */
    float *head_rstd;                    /* (256) */
    float *logits;                       /* (plan.logit_rows, V) */
    float *cos, *sin;                    /* (n_positions, C/2) */
    int32_t n_positions;
    /* host tables, (max_targets) */
    int32_t *target_rows;      /* rows of the batch that have targets */
    struct tn_target *targets; /* with rows counted among target_rows */
    float *lse;                /* of the logits of each of target_rows */
    int32_t n_target_rows, n_targets;
    bool has_forward; /* a forward pass waits for its backward pass */
    bool logits_kept; /* and its logits are still there */
};

/* Head: log-probabilities of the targets from the last layer's output, and back into work->dx. */
void model_head_forward(struct model *model, struct model_workspace *work,
                        const struct model_batch *batch, float *ret_logprobs);
void model_head_backward(struct model *model, struct model_workspace *work,
                         const struct model_batch *batch);
/* Tables of cos and sin of position × theta^(−2i/C), (n, C/2) in host memory; the angle is rounded
 * to fp32 as transformers does. */
void model_rope_tables(double theta, int32_t head_size, int32_t n, float *cos, float *sin);

#endif

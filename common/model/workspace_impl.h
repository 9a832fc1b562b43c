/* workspace_impl: the inside of struct model_workspace, for the files of this folder. */
#ifndef SPIN_MODEL_WORKSPACE_IMPL_H
#define SPIN_MODEL_WORKSPACE_IMPL_H

#include "common/model/forward.h"

/* What a layer's forward pass leaves for its backward pass, T rows each. */
struct model_activations {
    float *rstd1; /* (T) of the first norm */
    void *qkv;    /* (T, (H+2G)C), rotated */
    float *lse;   /* (T, H) of the attention scores */
    void *att;    /* (T, HC): output of attention */
    void *mid;    /* (T, D): input of the second norm */
    float *rstd2; /* (T) of the second norm */
    void *gu;     /* (T, 2F): gate and up; (T, F) without a gate */
    /* Where the traits ask for them. Statistics of layer norms are (T, 2). */
    void *raw;               /* (T, (H+2G)C): before the norms of heads */
    float *q_rstd, *k_rstd;  /* (T, H), (T, G) of these */
    void *att_out, *ffn_out; /* (T, D): what norms behind attention and feed-forward read */
    float *rstd3, *rstd4;    /* of these */
};

/* cos, sin, then those of local_theta */
#define MODEL_ROPE_TABLES 4

struct model_workspace {
    struct model *model; /* borrowed */
    struct model_workspace_size size;
    struct model_memory_plan plan;
    void *block;   /* activations, the backend's memory */
    void *scratch; /* everything else, the backend's memory */
    void **x;      /* (layers + 1): input of each layer, then the output; (T, D) each */
    struct model_activations *kept; /* (layers): of layers from first_kept on; all the same scratch
                                     * set before that */
    int32_t first_kept;
    /* scratch of a layer */
    void *norm; /* (T, D): a norm's output, then its gradient */
    void *wide; /* (T, max(2F, (H+2G)C)): gradients of gate and up, of queries, keys, values */
    void *half; /* (T, max(F, HC)): SwiGLU's output and its gradient, gradient of attention */
    void *dx;   /* (T, D): gradient of the residual stream */
    void *dx2;  /* (T, D): of a branch beside it, where the traits have one */
    float *vectors[2]; /* vectors of parameters as they are used, where that isn't as they lie */
    /* scratch of the output matrix, MODEL_LOGIT_ROWS rows */
    void *head_x, *head_norm, *head_dx; /* (256, D) */
    float *head_rstd;                   /* (256) */
    float *logits;                      /* (plan.logit_rows, V) */
    float *rope[MODEL_ROPE_TABLES];     /* (n_positions, R/2) each */
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
/* R: dimensions of a head that turn; 0 with learned positions, where there are no tables. */
int32_t model_rope_width(const struct model_config *config);
/* Tables of cos and sin of position × frequency, (n, R/2) in host memory; the angle is rounded to
 * fp32 as transformers does. local: those of local_theta. */
void model_rope_tables(const struct model_config *config, bool local, int32_t n, float *cos,
                       float *sin);
/* All tables of a model into the backend's memory; false: no memory. */
bool model_rope_upload(struct tn_backend *b, const struct model_config *config, int32_t n,
                       float *const tables[MODEL_ROPE_TABLES]);

#endif

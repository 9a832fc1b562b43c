/* model_impl: the inside of struct model, for the files of this folder. */
#ifndef SPIN_MODEL_MODEL_IMPL_H
#define SPIN_MODEL_MODEL_IMPL_H

#include "common/model/model.h"

/* Offsets in the block, in elements, of one layer's matrices as the products use them. */
struct model_layer {
    size_t norm1;   /* (D) */
    size_t qkv;     /* ((H+2G)C, D): query, key, value rows in this order */
    size_t out;     /* (D, HC) */
    size_t norm2;   /* (D) */
    size_t gate_up; /* (2F, D): gate, then up; (F, D) without a gate */
    size_t down;    /* (D, F) */
    /* Those that not every model has; unused ones are 0. Biases are as long as what they are added
     * to. */
    size_t norm1_bias, norm2_bias, qkv_bias, out_bias, gate_up_bias, down_bias;
    size_t q_norm, k_norm; /* (C) */
    size_t post1, post2;   /* (D): norms behind attention and feed-forward */
};

struct model_layout {
    struct model_tensor *tensors; /* owned */
    int32_t n_tensors;
    struct model_layer *layers; /* owned, (config.layers) */
    size_t embed;               /* (V, D) */
    size_t positions;           /* (max_positions, D), or 0 */
    size_t final_norm;          /* (D) */
    size_t final_bias;          /* (D), or 0 */
    size_t head;                /* (V, D); the same as embed when tied */
    size_t count;               /* elements of the block, padding included */
};

struct model {
    struct tn_backend *backend; /* borrowed */
    struct model_config config;
    struct model_layout layout;
    void *params; /* (layout.count), the backend's memory */
    void *grads;  /* the same, or NULL */
};

static inline void *model_param(const struct model *m, size_t offset)
{
    return tn_at(m->params, m->backend->weights, offset);
}
static inline void *model_grad(const struct model *m, size_t offset)
{
    return tn_at(m->grads, m->backend->weights, offset);
}

/* A model with zero weights. */
enum sp_err model_alloc(struct tn_backend *backend, const struct model_config *config,
                        struct model **ret, struct sp_error *err) SP_MUST_USE;
size_t model_tensor_count(const struct model_tensor *tensor); /* elements */
/* In files; the second number is of matrices only. */
void model_tensor_shape(const struct model_tensor *tensor, int64_t ret[2]);
void model_layout_init(struct model_layout *layout, const struct model_config *config);
void model_layout_deinit(struct model_layout *layout);

#endif

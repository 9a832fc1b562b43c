/* parts: the pieces of a layer that come in kinds, chosen by the model's traits. */
#include "common/model/parts.h"

#include <math.h>

#include "common/model/model_impl.h"
#include "common/model/workspace_impl.h"

void model_part_norm(struct tn_backend *be, const struct model_config *c, void *y, float *stats,
                     const void *x, const float *w, const float *b, int32_t rows)
{
    if (c->traits.norm == MODEL_NORM_LAYER)
        be->ops->layernorm(be, y, stats, x, w, b, rows, c->hidden, (float)c->rms_eps);
    else
        be->ops->rmsnorm(be, y, stats, x, w, rows, c->hidden, (float)c->rms_eps);
}

void model_part_activate(struct tn_backend *be, const struct model_config *c, void *y,
                         const void *x, int32_t rows)
{
    size_t n = (size_t)rows * (size_t)c->ffn;
    switch (c->traits.activation) {
    case MODEL_SWIGLU:
        be->ops->swiglu(be, y, x, rows, c->ffn);
        break;
    case MODEL_GEGLU_TANH:
        be->ops->geglu(be, y, x, rows, c->ffn);
        break;
    case MODEL_GELU_TANH:
    case MODEL_GELU_EXACT:
        be->ops->gelu(be, y, x, n, c->traits.activation == MODEL_GELU_TANH);
        break;
    }
}

void model_part_activate_bwd(struct tn_backend *be, const struct model_config *c, void *dx,
                             const void *dy, const void *x, int32_t rows)
{
    size_t n = (size_t)rows * (size_t)c->ffn;
    switch (c->traits.activation) {
    case MODEL_SWIGLU:
        be->ops->swiglu_bwd(be, dx, dy, x, rows, c->ffn);
        break;
    case MODEL_GEGLU_TANH:
        be->ops->geglu_bwd(be, dx, dy, x, rows, c->ffn);
        break;
    case MODEL_GELU_TANH:
    case MODEL_GELU_EXACT:
        be->ops->gelu_bwd(be, dx, dy, x, n, c->traits.activation == MODEL_GELU_TANH);
        break;
    }
}

void model_part_rotate(struct tn_backend *be, const struct model_config *c, int32_t layer, void *x,
                       int32_t rows, const int32_t *positions,
                       float *const tables[MODEL_ROPE_TABLES], bool inverse)
{
    if (c->traits.learned_positions || c->layer_bits[layer] & MODEL_LAYER_NOPE)
        return;
    float *const *t = tables + (c->layer_bits[layer] & MODEL_LAYER_LOCAL ? 2 : 0);
    /* Keys follow the queries, so one call rotates both. */
    be->ops->rope(be, x, rows, c->heads + c->kv_heads, c->head_size,
                  (c->heads + 2 * c->kv_heads) * c->head_size, positions, t[0], t[1], inverse,
                  c->rotary);
}

void model_part_embed(struct tn_backend *be, const struct model_config *c, void *x, void *spare,
                      const void *table, const void *positions, const int32_t *ids,
                      const int32_t *places, int32_t rows)
{
    size_t n = (size_t)rows * (size_t)c->hidden;
    be->ops->embed(be, x, table, ids, rows, c->hidden);
    if (c->traits.scale_embeddings)
        be->ops->affine(be, x, x, sqrtf((float)c->hidden), 0, n);
    if (c->traits.learned_positions) {
        be->ops->embed(be, spare, positions, places, rows, c->hidden);
        be->ops->add(be, x, spare, n);
    }
}

const float *model_vector(struct model *m, struct model_workspace *work, int which, size_t offset,
                          int32_t n, float shift)
{
    const void *at = model_param(m, offset);
    if (m->backend->weights == TN_F32 && shift == 0.0f)
        return at;
    m->backend->ops->widen(m->backend, work->vectors[which], at, shift, (size_t)n);
    return work->vectors[which];
}

/* Weights of a norm as they multiply: Gemma's lie as their distance from 1. */
static const float *multiplier(struct model *m, struct model_workspace *work, size_t weights,
                               int32_t n)
{
    float shift = m->config.traits.norm == MODEL_NORM_RMS_PLUS ? 1.0f : 0.0f;
    return model_vector(m, work, 0, weights, n, shift);
}

void model_norm_forward(struct model *m, struct model_workspace *work, void *y, float *stats,
                        const void *x, size_t weights, size_t bias, int32_t rows)
{
    int32_t d = m->config.hidden;
    const float *b = bias ? model_vector(m, work, 1, bias, d, 0) : NULL;
    model_part_norm(m->backend, &m->config, y, stats, x, multiplier(m, work, weights, d), b, rows);
}

void model_norm_backward(struct model *m, struct model_workspace *work, void *dx, const void *dy,
                         const void *x, const float *stats, size_t weights, size_t bias,
                         int32_t rows)
{
    struct tn_backend *be = m->backend;
    int32_t d = m->config.hidden;
    const float *w = multiplier(m, work, weights, d);
    if (m->config.traits.norm == MODEL_NORM_LAYER) {
        be->ops->layernorm_bwd(be, dx, model_grad(m, weights), dy, x, w, stats, rows, d);
        be->ops->bias_bwd(be, model_grad(m, bias), dy, rows, d);
    } else {
        be->ops->rmsnorm_bwd(be, dx, model_grad(m, weights), dy, x, w, stats, rows, d);
    }
}

void model_heads_forward(struct model *m, struct model_workspace *work, void *qkv,
                         const struct model_activations *a, const struct model_layer *layer,
                         int32_t rows)
{
    struct tn_backend *be = m->backend;
    const struct model_config *c = &m->config;
    int32_t hc = c->heads * c->head_size, width = hc + 2 * c->kv_heads * c->head_size;
    float eps = (float)c->rms_eps;
    be->ops->affine(be, qkv, a->raw, 1, 0, (size_t)rows * (size_t)width);
    be->ops->head_norm(be, qkv, a->q_rstd, a->raw, multiplier(m, work, layer->q_norm, c->head_size),
                       rows, c->heads, c->head_size, width, eps);
    be->ops->head_norm(be, tn_at(qkv, be->activations, (size_t)hc), a->k_rstd,
                       tn_at(a->raw, be->activations, (size_t)hc),
                       multiplier(m, work, layer->k_norm, c->head_size), rows, c->kv_heads,
                       c->head_size, width, eps);
}

void model_heads_backward(struct model *m, struct model_workspace *work, void *dqkv,
                          const struct model_activations *a, const struct model_layer *layer,
                          int32_t rows)
{
    struct tn_backend *be = m->backend;
    const struct model_config *c = &m->config;
    int32_t hc = c->heads * c->head_size, width = hc + 2 * c->kv_heads * c->head_size;
    be->ops->head_norm_bwd(be, dqkv, model_grad(m, layer->q_norm), a->raw,
                           multiplier(m, work, layer->q_norm, c->head_size), a->q_rstd, rows,
                           c->heads, c->head_size, width);
    be->ops->head_norm_bwd(be, tn_at(dqkv, be->activations, (size_t)hc),
                           model_grad(m, layer->k_norm), tn_at(a->raw, be->activations, (size_t)hc),
                           multiplier(m, work, layer->k_norm, c->head_size), a->k_rstd, rows,
                           c->kv_heads, c->head_size, width);
}

#include "common/model/forward.h"

#include <math.h>

#include "common/base/mem.h"
#include "common/model/model_impl.h"
#include "common/model/workspace_impl.h"

static enum sp_err check_segments(const struct model_workspace *work, const struct model_batch *b,
                                  struct sp_error *err)
{
    int32_t row = 0;
    for (int32_t i = 0; i < b->n_segments; i++) {
        const struct tn_segment *s = &b->segments[i];
        if (s->row != row || s->prompt < 1 || s->a < 0 || s->b < 0 || s->prompt > b->rows - row ||
            s->a > b->rows - row - s->prompt || s->b > b->rows - row - s->prompt - s->a)
            return sp_fail(err, SP_EINVAL,
                           "segment %d: row %d, prompt %d, branches %d and %d: expected row %d and "
                           "at most %d rows",
                           i, s->row, s->prompt, s->a, s->b, row, b->rows - row);
        if (s->prompt + s->a + s->b > work->size.longest)
            return sp_fail(err, SP_EINVAL, "segment %d: %d rows, planned for at most %d", i,
                           s->prompt + s->a + s->b, work->size.longest);
        row += s->prompt + s->a + s->b;
    }
    if (row != b->rows)
        return sp_fail(err, SP_EINVAL, "segments cover %d of %d rows", row, b->rows);
    return SP_OK;
}

static enum sp_err check_batch(const struct model *m, const struct model_workspace *work,
                               const struct model_batch *b, struct sp_error *err)
{
    if (b->rows < 1 || b->rows > work->size.max_rows)
        return sp_fail(err, SP_EINVAL, "a batch of %d rows, planned for 1 to %d", b->rows,
                       work->size.max_rows);
    if (b->n_targets < 0 || b->n_targets > work->size.max_targets)
        return sp_fail(err, SP_EINVAL, "%d targets, planned for at most %d", b->n_targets,
                       work->size.max_targets);
    for (int32_t i = 0; i < b->rows; i++) {
        if (b->ids[i] < 0 || b->ids[i] >= m->config.vocab)
            return sp_fail(err, SP_EINVAL, "row %d: token id %d, the vocabulary has %d", i,
                           b->ids[i], m->config.vocab);
        if (b->positions[i] < 0 || b->positions[i] >= work->n_positions)
            return sp_fail(err, SP_EINVAL, "row %d: position %d, planned for less than %d", i,
                           b->positions[i], work->n_positions);
    }
    for (int32_t i = 0; i < b->n_targets; i++) {
        const struct tn_target *t = &b->targets[i];
        if (t->row < 0 || t->row >= b->rows || (i > 0 && t->row < b->targets[i - 1].row))
            return sp_fail(err, SP_EINVAL, "target %d: row %d is out of order or range", i, t->row);
        if (t->id < 0 || t->id >= m->config.vocab)
            return sp_fail(err, SP_EINVAL, "target %d: token id %d, the vocabulary has %d", i,
                           t->id, m->config.vocab);
    }
    return check_segments(work, b, err);
}

static float attention_scale(const struct model_config *c)
{
    return (float)(1.0 / sqrt((double)c->head_size));
}

/* Everything of layer l up to gate and up; fills a, reads x. */
static void layer_to_gate(struct model *m, struct model_workspace *work,
                          const struct model_batch *batch, int32_t l, struct model_activations *a)
{
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    const struct model_config *c = &m->config;
    const struct model_layer *layer = &m->layout.layers[l];
    int32_t rows = batch->rows, d = c->hidden, hc = c->heads * c->head_size;
    int32_t width = hc + 2 * c->kv_heads * c->head_size;
    ops->rmsnorm(be, work->norm, a->rstd1, work->x[l], m->params + layer->norm1, rows, d,
                 (float)c->rms_eps);
    ops->linear(be, a->qkv, work->norm, m->params + layer->qkv, rows, width, d, false);
    /* Keys follow the queries, so one call rotates both. */
    ops->rope(be, a->qkv, rows, c->heads + c->kv_heads, c->head_size, width, batch->positions,
              work->cos, work->sin, false, 0);
    ops->attention(be, a->att, a->lse, a->qkv, rows, batch->segments, batch->n_segments, c->heads,
                   c->kv_heads, c->head_size, attention_scale(c), c->window, 0);
    ops->linear(be, a->mid, a->att, m->params + layer->out, rows, d, hc, false);
    ops->add(be, a->mid, work->x[l], (size_t)rows * (size_t)d);
    ops->rmsnorm(be, work->norm, a->rstd2, a->mid, m->params + layer->norm2, rows, d,
                 (float)c->rms_eps);
    ops->linear(be, a->gu, work->norm, m->params + layer->gate_up, rows, 2 * c->ffn, d, false);
}

enum sp_err model_forward(struct model *m, struct model_workspace *work,
                          const struct model_batch *batch, float *ret_logprobs,
                          struct sp_error *err)
{
    SP_ASSERT(work->model == m);
    work->has_forward = false;
    enum sp_err rc = check_batch(m, work, batch, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "forward");
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    int32_t rows = batch->rows, d = m->config.hidden, f = m->config.ffn;
    ops->embed(be, work->x[0], m->params + m->layout.embed, batch->ids, rows, d);
    for (int32_t l = 0; l < m->config.layers; l++) {
        struct model_activations *a = &work->kept[l];
        layer_to_gate(m, work, batch, l, a);
        ops->swiglu(be, work->half, a->gu, rows, f);
        ops->linear(be, work->x[l + 1], work->half, m->params + m->layout.layers[l].down, rows, d,
                    f, false);
        ops->add(be, work->x[l + 1], a->mid, (size_t)rows * (size_t)d);
    }
    model_head_forward(m, work, batch, ret_logprobs);
    work->has_forward = work->size.backward;
    return SP_OK;
}

/* The feed-forward half: work->dx goes from the layer's output to its middle. */
static void ffn_backward(struct model *m, struct model_workspace *work, int32_t rows,
                         const struct model_layer *layer, const struct model_activations *a)
{
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    int32_t d = m->config.hidden, f = m->config.ffn;
    float *w = m->params, *g = m->grads;
    ops->swiglu(be, work->half, a->gu, rows, f);
    ops->linear_bwd_w(be, g + layer->down, work->dx, work->half, rows, d, f);
    ops->linear_bwd_x(be, work->half, work->dx, w + layer->down, rows, d, f, false);
    ops->swiglu_bwd(be, work->wide, work->half, a->gu, rows, f);
    ops->rmsnorm(be, work->norm, a->rstd2, a->mid, w + layer->norm2, rows, d,
                 (float)m->config.rms_eps);
    ops->linear_bwd_w(be, g + layer->gate_up, work->wide, work->norm, rows, 2 * f, d);
    ops->linear_bwd_x(be, work->norm, work->wide, w + layer->gate_up, rows, 2 * f, d, false);
    ops->rmsnorm_bwd(be, work->dx, g + layer->norm2, work->norm, a->mid, w + layer->norm2, a->rstd2,
                     rows, d);
}

/* The attention half: work->dx goes from the layer's middle to its input x. */
static void attention_backward(struct model *m, struct model_workspace *work,
                               const struct model_batch *batch, const float *x,
                               const struct model_layer *layer, const struct model_activations *a)
{
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    const struct model_config *c = &m->config;
    int32_t rows = batch->rows, d = c->hidden, hc = c->heads * c->head_size;
    int32_t width = hc + 2 * c->kv_heads * c->head_size;
    float *w = m->params, *g = m->grads;
    ops->linear_bwd_w(be, g + layer->out, work->dx, a->att, rows, d, hc);
    ops->linear_bwd_x(be, work->half, work->dx, w + layer->out, rows, d, hc, false);
    ops->attention_bwd(be, work->wide, work->half, a->att, a->lse, a->qkv, rows, batch->segments,
                       batch->n_segments, c->heads, c->kv_heads, c->head_size, attention_scale(c),
                       c->window, 0);
    ops->rope(be, work->wide, rows, c->heads + c->kv_heads, c->head_size, width, batch->positions,
              work->cos, work->sin, true, 0);
    ops->rmsnorm(be, work->norm, a->rstd1, x, w + layer->norm1, rows, d, (float)c->rms_eps);
    ops->linear_bwd_w(be, g + layer->qkv, work->wide, work->norm, rows, width, d);
    ops->linear_bwd_x(be, work->norm, work->wide, w + layer->qkv, rows, width, d, false);
    ops->rmsnorm_bwd(be, work->dx, g + layer->norm1, work->norm, x, w + layer->norm1, a->rstd1,
                     rows, d);
}

enum sp_err model_backward(struct model *m, struct model_workspace *work,
                           const struct model_batch *batch, struct sp_error *err)
{
    if (!work->has_forward)
        return sp_fail(err, SP_ESTATE, "backward without a forward pass before it");
    SP_ASSERT(batch->n_targets == work->n_targets);
    work->has_forward = false;
    model_head_backward(m, work, batch);
    for (int32_t l = m->config.layers - 1; l >= 0; l--) {
        const struct model_layer *layer = &m->layout.layers[l];
        struct model_activations *a = &work->kept[l];
        /* Layers below first_kept share one set, which holds what the last of them left. */
        if (l < work->first_kept - 1)
            layer_to_gate(m, work, batch, l, a);
        ffn_backward(m, work, batch->rows, layer, a);
        attention_backward(m, work, batch, work->x[l], layer, a);
    }
    m->backend->ops->embed_bwd(m->backend, m->grads + m->layout.embed, work->dx, batch->ids,
                               batch->rows, m->config.hidden, m->config.vocab);
    return SP_OK;
}

float model_sum_logprobs(const float *logprobs, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += logprobs[i];
    return (float)sum;
}

#include "common/model/forward.h"

#include <math.h>

#include "common/base/mem.h"
#include "common/model/model_impl.h"
#include "common/model/parts.h"
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

/* y(rows, n) = x(rows, k)·wᵀ, plus bias (0: none), plus residual (NULL: none); w and bias are
 * offsets of parameters. */
static void project(struct model *m, struct model_workspace *work, void *y, const void *x, size_t w,
                    size_t bias, const void *residual, int32_t rows, int32_t n, int32_t k)
{
    struct tn_backend *be = m->backend;
    if (residual && !bias) {
        be->ops->linear_residual(be, y, residual, x, model_param(m, w), rows, n, k);
        return;
    }
    be->ops->linear(be, y, x, model_param(m, w), rows, n, k, false);
    if (bias)
        be->ops->bias(be, y, model_vector(m, work, 0, bias, n, 0), rows, n);
    if (residual)
        be->ops->add(be, y, residual, (size_t)rows * (size_t)n);
}

static void bias_backward(struct model *m, size_t bias, const void *dy, int32_t rows, int32_t n)
{
    if (bias)
        m->backend->ops->bias_bwd(m->backend, model_grad(m, bias), dy, rows, n);
}

static int32_t qkv_width(const struct model_config *c)
{
    return (c->heads + 2 * c->kv_heads) * c->head_size;
}

/* What the second norm of layer l reads. */
static const void *ffn_input(const struct model_config *c, const struct model_activations *a,
                             const void *x)
{
    return c->traits.parallel ? x : a->mid;
}

/* Everything of layer l up to gate and up; fills a, reads x. */
static void layer_to_gate(struct model *m, struct model_workspace *work,
                          const struct model_batch *batch, int32_t l, struct model_activations *a)
{
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    const struct model_config *c = &m->config;
    const struct model_layer *layer = &m->layout.layers[l];
    const void *x = work->x[l];
    int32_t rows = batch->rows, d = c->hidden, hc = c->heads * c->head_size;
    int32_t width = qkv_width(c), ffn = model_config_ffn_width(c);
    void *qkv = c->traits.qk_norm ? a->raw : a->qkv;
    bool post = c->traits.post_norms;
    model_norm_forward(m, work, work->norm, a->rstd1, x, layer->norm1, layer->norm1_bias, rows);
    project(m, work, qkv, work->norm, layer->qkv, layer->qkv_bias, NULL, rows, width, d);
    if (c->traits.qk_norm)
        model_heads_forward(m, work, a->qkv, a, layer, rows);
    model_part_rotate(be, c, l, a->qkv, rows, batch->positions, work->rope, false);
    ops->attention(be, a->att, a->lse, a->qkv, rows, batch->segments, batch->n_segments, c->heads,
                   c->kv_heads, c->head_size, model_config_scale(c), model_config_window(c, l),
                   (float)c->attention_softcap);
    project(m, work, post ? a->att_out : a->mid, a->att, layer->out, layer->out_bias,
            post ? NULL : x, rows, d, hc);
    if (post) {
        model_norm_forward(m, work, a->mid, a->rstd3, a->att_out, layer->post1, 0, rows);
        ops->add(be, a->mid, x, (size_t)rows * (size_t)d);
    }
    model_norm_forward(m, work, work->norm, a->rstd2, ffn_input(c, a, x), layer->norm2,
                       layer->norm2_bias, rows);
    project(m, work, a->gu, work->norm, layer->gate_up, layer->gate_up_bias, NULL, rows, ffn, d);
}

/* The rest of the layer, whose output is y. */
static void layer_from_gate(struct model *m, struct model_workspace *work, int32_t rows,
                            const struct model_layer *layer, struct model_activations *a, void *y)
{
    struct tn_backend *be = m->backend;
    const struct model_config *c = &m->config;
    bool post = c->traits.post_norms;
    model_part_activate(be, c, work->half, a->gu, rows);
    project(m, work, post ? a->ffn_out : y, work->half, layer->down, layer->down_bias,
            post ? NULL : a->mid, rows, c->hidden, c->ffn);
    if (post) {
        model_norm_forward(m, work, y, a->rstd4, a->ffn_out, layer->post2, 0, rows);
        be->ops->add(be, y, a->mid, (size_t)rows * (size_t)c->hidden);
    }
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
    int32_t rows = batch->rows;
    model_part_embed(be, &m->config, work->x[0], work->norm, model_param(m, m->layout.embed),
                     model_param(m, m->layout.positions), batch->ids, batch->positions, rows);
    for (int32_t l = 0; l < m->config.layers; l++) {
        struct model_activations *a = &work->kept[l];
        layer_to_gate(m, work, batch, l, a);
        layer_from_gate(m, work, rows, &m->layout.layers[l], a, work->x[l + 1]);
    }
    model_head_forward(m, work, batch, ret_logprobs);
    work->has_forward = work->size.backward;
    return SP_OK;
}

/* The gradient in front of a norm behind a part: work->dx, or work->dx2 through the norm. */
static const void *before_post_norm(struct model *m, struct model_workspace *work, int32_t rows,
                                    size_t weights, const void *x, const float *stats)
{
    if (!m->config.traits.post_norms)
        return work->dx;
    size_t bytes = (size_t)rows * (size_t)m->config.hidden * tn_unit(m->backend->activations);
    m->backend->ops->zero(m->backend, work->dx2, bytes);
    model_norm_backward(m, work, work->dx2, work->dx, x, stats, weights, 0, rows);
    return work->dx2;
}

/* The feed-forward half: work->dx goes from the layer's output to its middle. In a parallel layer
 * it stays, and work->dx2 receives what this half adds to the gradient of x. */
static void ffn_backward(struct model *m, struct model_workspace *work, int32_t rows, const void *x,
                         const struct model_layer *layer, const struct model_activations *a)
{
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    const struct model_config *c = &m->config;
    int32_t d = c->hidden, f = c->ffn, width = model_config_ffn_width(c);
    const void *input = ffn_input(c, a, x);
    void *to = work->dx;
    const void *dy = before_post_norm(m, work, rows, layer->post2, a->ffn_out, a->rstd4);
    model_part_activate(be, c, work->half, a->gu, rows);
    ops->linear_bwd_w(be, model_grad(m, layer->down), dy, work->half, rows, d, f);
    bias_backward(m, layer->down_bias, dy, rows, d);
    ops->linear_bwd_x(be, work->half, dy, model_param(m, layer->down), rows, d, f, false);
    model_part_activate_bwd(be, c, work->wide, work->half, a->gu, rows);
    model_norm_forward(m, work, work->norm, a->rstd2, input, layer->norm2, layer->norm2_bias, rows);
    ops->linear_bwd_w(be, model_grad(m, layer->gate_up), work->wide, work->norm, rows, width, d);
    bias_backward(m, layer->gate_up_bias, work->wide, rows, width);
    ops->linear_bwd_x(be, work->norm, work->wide, model_param(m, layer->gate_up), rows, width, d,
                      false);
    if (c->traits.parallel) {
        to = work->dx2;
        ops->zero(be, to, (size_t)rows * (size_t)d * tn_unit(be->activations));
    }
    model_norm_backward(m, work, to, work->norm, input, a->rstd2, layer->norm2, layer->norm2_bias,
                        rows);
}

/* The attention half: work->dx goes from the layer's middle to its input x. */
static void attention_backward(struct model *m, struct model_workspace *work,
                               const struct model_batch *batch, int32_t l,
                               const struct model_activations *a)
{
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    const struct model_config *c = &m->config;
    const struct model_layer *layer = &m->layout.layers[l];
    int32_t rows = batch->rows, d = c->hidden, hc = c->heads * c->head_size, width = qkv_width(c);
    const void *x = work->x[l];
    const void *dy = before_post_norm(m, work, rows, layer->post1, a->att_out, a->rstd3);
    ops->linear_bwd_w(be, model_grad(m, layer->out), dy, a->att, rows, d, hc);
    bias_backward(m, layer->out_bias, dy, rows, d);
    ops->linear_bwd_x(be, work->half, dy, model_param(m, layer->out), rows, d, hc, false);
    ops->attention_bwd(be, work->wide, work->half, a->att, a->lse, a->qkv, rows, batch->segments,
                       batch->n_segments, c->heads, c->kv_heads, c->head_size,
                       model_config_scale(c), model_config_window(c, l),
                       (float)c->attention_softcap);
    model_part_rotate(be, c, l, work->wide, rows, batch->positions, work->rope, true);
    if (c->traits.qk_norm)
        model_heads_backward(m, work, work->wide, a, layer, rows);
    model_norm_forward(m, work, work->norm, a->rstd1, x, layer->norm1, layer->norm1_bias, rows);
    ops->linear_bwd_w(be, model_grad(m, layer->qkv), work->wide, work->norm, rows, width, d);
    bias_backward(m, layer->qkv_bias, work->wide, rows, width);
    ops->linear_bwd_x(be, work->norm, work->wide, model_param(m, layer->qkv), rows, width, d,
                      false);
    model_norm_backward(m, work, work->dx, work->norm, x, a->rstd1, layer->norm1, layer->norm1_bias,
                        rows);
    if (c->traits.parallel)
        ops->add(be, work->dx, work->dx2, (size_t)rows * (size_t)d);
}

static void embed_backward(struct model *m, struct model_workspace *work,
                           const struct model_batch *batch)
{
    struct tn_backend *be = m->backend;
    const struct model_config *c = &m->config;
    int32_t rows = batch->rows, d = c->hidden;
    if (c->traits.learned_positions)
        be->ops->embed_bwd(be, model_grad(m, m->layout.positions), work->dx, batch->positions, rows,
                           d, c->max_positions);
    if (c->traits.scale_embeddings)
        be->ops->affine(be, work->dx, work->dx, sqrtf((float)d), 0, (size_t)rows * (size_t)d);
    be->ops->embed_bwd(be, model_grad(m, m->layout.embed), work->dx, batch->ids, rows, d, c->vocab);
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
        if (l < work->first_kept - 1) {
            layer_to_gate(m, work, batch, l, a);
            if (m->config.traits.post_norms)
                layer_from_gate(m, work, batch->rows, layer, a, work->norm);
        }
        ffn_backward(m, work, batch->rows, work->x[l], layer, a);
        attention_backward(m, work, batch, l, a);
    }
    embed_backward(m, work, batch);
    return SP_OK;
}

float model_sum_logprobs(const float *logprobs, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += logprobs[i];
    return (float)sum;
}

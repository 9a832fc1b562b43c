/* The end of the network: final norm, output matrix, log-probabilities. Only rows with targets come
 * here, MODEL_LOGIT_ROWS at a time: always the same blocks, so that gradients add in one order
 * whether logits are kept or computed again. */
#include "common/base/mem.h"
#include "common/model/model_impl.h"
#include "common/model/parts.h"
#include "common/model/workspace_impl.h"

/* Splits batch targets into the list of distinct rows and targets that count among them. */
static void number_rows(struct model_workspace *work, const struct model_batch *batch)
{
    int32_t rows = 0;
    for (int32_t i = 0; i < batch->n_targets; i++) {
        const struct tn_target *t = &batch->targets[i];
        if (i == 0 || t->row != batch->targets[i - 1].row)
            work->target_rows[rows++] = t->row;
        work->targets[i] = *t;
        work->targets[i].row = rows - 1;
    }
    work->n_target_rows = rows;
    work->n_targets = batch->n_targets;
}

/* One block of rows: [first, first + rows) of target_rows, targets [t, t + targets). */
struct block {
    int32_t first, rows, t, targets;
};

static bool next_block(struct model_workspace *work, struct block *b)
{
    b->first += b->rows;
    b->t += b->targets;
    b->rows = SP_MIN(MODEL_LOGIT_ROWS, work->n_target_rows - b->first);
    b->targets = 0;
    if (b->rows <= 0)
        return false;
    while (b->t + b->targets < work->n_targets &&
           work->targets[b->t + b->targets].row < b->first + b->rows)
        b->targets++;
    return true;
}

static float *block_logits(struct model_workspace *work, const struct block *b, int32_t vocab)
{
    return work->logits_kept ? work->logits + (size_t)b->first * (size_t)vocab : work->logits;
}

static void block_norm(struct model *m, struct model_workspace *work, const struct block *b)
{
    struct tn_backend *be = m->backend;
    int32_t d = m->config.hidden;
    be->ops->gather_rows(be, work->head_x, work->x[m->config.layers], work->target_rows + b->first,
                         b->rows, d);
    model_norm_forward(m, work, work->head_norm, work->head_rstd, work->head_x,
                       m->layout.final_norm, m->layout.final_bias, b->rows);
}

static void block_product(struct model *m, struct model_workspace *work, const struct block *b,
                          float *logits)
{
    struct tn_backend *be = m->backend;
    int32_t v = m->config.vocab;
    float cap = (float)m->config.logit_softcap;
    be->ops->head(be, logits, work->head_norm, model_param(m, m->layout.head), b->rows, v,
                  m->config.hidden);
    if (cap > 0)
        be->ops->softcap(be, logits, cap, (size_t)b->rows * (size_t)v);
}

void model_head_forward(struct model *m, struct model_workspace *work,
                        const struct model_batch *batch, float *ret_logprobs)
{
    struct tn_backend *be = m->backend;
    int32_t v = m->config.vocab;
    number_rows(work, batch);
    work->logits_kept = work->n_target_rows <= work->plan.logit_rows;
    for (struct block b = {0}; next_block(work, &b);) {
        float *logits = block_logits(work, &b, v);
        block_norm(m, work, &b);
        block_product(m, work, &b, logits);
        be->ops->row_lse(be, work->lse + b.first, NULL, logits, b.rows, v);
        for (int32_t i = 0; i < b.targets; i++)
            work->targets[b.t + i].row -= b.first;
        be->ops->gather_logprob(be, ret_logprobs + b.t, logits, work->lse + b.first,
                                work->targets + b.t, b.targets, v);
        for (int32_t i = 0; i < b.targets; i++)
            work->targets[b.t + i].row += b.first;
    }
}

void model_head_backward(struct model *m, struct model_workspace *work,
                         const struct model_batch *batch)
{
    struct tn_backend *be = m->backend;
    const struct tn_ops *ops = be->ops;
    int32_t v = m->config.vocab, d = m->config.hidden;
    const void *head = model_param(m, m->layout.head);
    float cap = (float)m->config.logit_softcap;
    size_t unit = tn_unit(be->activations);
    ops->zero(be, work->dx, (size_t)batch->rows * (size_t)d * unit);
    for (struct block b = {0}; next_block(work, &b);) {
        float *logits = block_logits(work, &b, v);
        block_norm(m, work, &b);
        if (!work->logits_kept)
            block_product(m, work, &b, logits);
        for (int32_t i = 0; i < b.targets; i++) {
            work->targets[b.t + i].row -= b.first;
            work->targets[b.t + i].coefficient = batch->targets[b.t + i].coefficient;
        }
        if (cap > 0)
            ops->logits_bwd_capped(be, logits, work->lse + b.first, work->targets + b.t, b.targets,
                                   b.rows, v, cap);
        else
            ops->logits_bwd(be, logits, work->lse + b.first, work->targets + b.t, b.targets, b.rows,
                            v);
        for (int32_t i = 0; i < b.targets; i++)
            work->targets[b.t + i].row += b.first;
        ops->head_bwd_w(be, model_grad(m, m->layout.head), logits, work->head_norm, b.rows, v, d);
        ops->head_bwd_x(be, work->head_norm, logits, head, b.rows, v, d);
        ops->zero(be, work->head_dx, (size_t)b.rows * (size_t)d * unit);
        model_norm_backward(m, work, work->head_dx, work->head_norm, work->head_x, work->head_rstd,
                            m->layout.final_norm, m->layout.final_bias, b.rows);
        ops->scatter_rows(be, work->dx, work->head_dx, work->target_rows + b.first, b.rows,
                          batch->rows, d);
    }
}

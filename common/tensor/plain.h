/* plain: operations of backends that store everything as fp32, where those on activations serve
 * for logits and vectors, too. */
#ifndef SPIN_TENSOR_PLAIN_H
#define SPIN_TENSOR_PLAIN_H

#include <math.h>

#include "common/base/mem.h"
#include "common/tensor/backend.h"

static inline void plain_linear_residual(struct tn_backend *b, void *y, const void *residual,
                                         const void *x, const void *w, int32_t T, int32_t N,
                                         int32_t K)
{
    SP_ASSERT(y != residual);
    b->ops->linear(b, y, x, w, T, N, K, false);
    b->ops->add(b, y, residual, (size_t)T * (size_t)N);
}

static inline void plain_linear_packed_residual(struct tn_backend *b, void *y, const void *residual,
                                                const void *x, const struct tn_weights *w,
                                                int32_t T, int32_t N)
{
    SP_ASSERT(y != residual);
    b->ops->linear_packed(b, y, x, w, T);
    b->ops->add(b, y, residual, (size_t)T * (size_t)N);
}

static inline void plain_head(struct tn_backend *b, float *logits, const void *x, const void *w,
                              int32_t T, int32_t N, int32_t K)
{
    b->ops->linear(b, logits, x, w, T, N, K, false);
}

static inline void plain_head_bwd_x(struct tn_backend *b, void *dx, const float *dlogits,
                                    const void *w, int32_t T, int32_t N, int32_t K)
{
    b->ops->linear_bwd_x(b, dx, dlogits, w, T, N, K, false);
}

static inline void plain_head_bwd_w(struct tn_backend *b, void *dw, const float *dlogits,
                                    const void *x, int32_t T, int32_t N, int32_t K)
{
    b->ops->linear_bwd_w(b, dw, dlogits, x, T, N, K);
}

static inline void plain_head_packed(struct tn_backend *b, float *logits, const void *x,
                                     const struct tn_weights *w, int32_t T)
{
    b->ops->linear_packed(b, logits, x, w, T);
}

static inline void plain_widen(struct tn_backend *b, float *to, const void *from, float shift,
                               size_t n)
{
    b->ops->affine(b, to, from, 1, shift == 0.0f ? -0.0f : shift, n); /* keeps the sign of a zero */
}

static inline void plain_gather_rows(struct tn_backend *b, void *y, const void *x,
                                     const int32_t *rows, int32_t n, int32_t D)
{
    b->ops->embed(b, y, x, rows, n, D);
}

static inline void plain_scatter_rows(struct tn_backend *b, void *x, const void *y,
                                      const int32_t *rows, int32_t n, int32_t T, int32_t D)
{
    b->ops->embed_bwd(b, x, y, rows, n, D, T);
}

static inline void *plain_state_new(struct tn_backend *b, size_t bytes, bool host)
{
    (void)host;
    return b->ops->alloc(b, bytes, 1);
}

static inline void plain_state_free(struct tn_backend *b, void *state)
{
    if (state)
        b->ops->free(b, state);
}

/* Row by row the same as three operations. */
static inline void plain_tokens(struct tn_backend *b, const struct tn_tokens *t)
{
    b->ops->row_lse(b, t->lse, NULL, t->logits, t->R, t->V);
    for (int32_t i = 0; i < t->R; i++)
        if (!isfinite(t->lse[i]))
            return;
    b->ops->gather_logprob(b, t->given, t->logits, t->lse, t->targets, t->n_targets, t->V);
    if (t->draws > 0)
        b->ops->sample(b, t->ids, t->logits, t->draws, t->V, t->params, t->keys);
    for (int32_t first = 0; first < t->draws; first += 64) {
        struct tn_target drawn[64];
        int32_t n = SP_MIN(64, t->draws - first);
        for (int32_t i = 0; i < n; i++)
            drawn[i] = (struct tn_target){.row = first + i, .id = t->ids[first + i]};
        b->ops->gather_logprob(b, t->drawn + first, t->logits, t->lse, drawn, n, t->V);
    }
}

static inline struct tn_weights *plain_weights_view(struct tn_backend *b, const void *w, int32_t N,
                                                    int32_t K)
{
    (void)b;
    (void)w;
    (void)N;
    (void)K;
    return NULL;
}

static inline bool plain_cache_reserve(struct tn_backend *b, struct tn_kv_cache *cache,
                                       int32_t slot, int32_t kept, int32_t positions)
{
    (void)b;
    (void)cache;
    (void)slot;
    (void)kept;
    return positions >= 0; /* each slot has memory for all of them */
}

static inline void plain_pass_begin(struct tn_backend *b, uint64_t key)
{
    (void)b;
    (void)key;
}

static inline void plain_pass_end(struct tn_backend *b)
{
    (void)b;
}

/* The members of a table of operations, for its initializer. */
#define PLAIN_OPERATIONS                                                                           \
    .linear_residual = plain_linear_residual,                                                      \
    .linear_packed_residual = plain_linear_packed_residual, .head = plain_head,                    \
    .head_bwd_x = plain_head_bwd_x, .head_bwd_w = plain_head_bwd_w,                                \
    .head_packed = plain_head_packed, .widen = plain_widen, .gather_rows = plain_gather_rows,      \
    .scatter_rows = plain_scatter_rows, .state_new = plain_state_new,                              \
    .state_free = plain_state_free, .tokens = plain_tokens, .pass_begin = plain_pass_begin,        \
    .pass_end = plain_pass_end, .cache_reserve = plain_cache_reserve,                              \
    .weights_view = plain_weights_view

#endif

/* plain: operations of backends that store everything as fp32, where those on activations serve
 * for logits and vectors, too. */
#ifndef SPIN_TENSOR_PLAIN_H
#define SPIN_TENSOR_PLAIN_H

#include "common/tensor/backend.h"

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

/* The members of a table of operations, for its initializer. */
#define PLAIN_OPERATIONS                                                                           \
    .head = plain_head, .head_bwd_x = plain_head_bwd_x, .head_bwd_w = plain_head_bwd_w,            \
    .head_packed = plain_head_packed, .widen = plain_widen, .gather_rows = plain_gather_rows,      \
    .scatter_rows = plain_scatter_rows, .state_new = plain_state_new,                              \
    .state_free = plain_state_free

#endif

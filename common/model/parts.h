/* parts: the pieces of a layer that come in kinds. The first group is written against plain
 * arrays and serves training pass and decoder alike; norms' weights are given as they multiply.
 * The second group is the training pass's, with gradients. One compute thread. */
#ifndef SPIN_MODEL_PARTS_H
#define SPIN_MODEL_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/model/model_impl.h"
#include "common/model/workspace_impl.h"

/* stats: (rows) for RMS norms, (rows, 2) for layer norms; b is read by those only. */
void model_part_norm(struct tn_backend *be, const struct model_config *c, void *y, float *stats,
                     const void *x, const float *w, const float *b, int32_t rows);
/* y(rows, F) from x(rows, model_config_ffn_width) */
void model_part_activate(struct tn_backend *be, const struct model_config *c, void *y,
                         const void *x, int32_t rows);
void model_part_activate_bwd(struct tn_backend *be, const struct model_config *c, void *dx,
                             const void *dy, const void *x, int32_t rows);
/* Turns queries and keys of x(rows, (H+2G)C), or does nothing where the layer has no rotation. */
void model_part_rotate(struct tn_backend *be, const struct model_config *c, int32_t layer, void *x,
                       int32_t rows, const int32_t *positions,
                       float *const tables[MODEL_ROPE_TABLES], bool inverse);
/* The network's input; `spare` is as large as x, used with learned positions. */
void model_part_embed(struct tn_backend *be, const struct model_config *c, void *x, void *spare,
                      const void *table, const void *positions, const int32_t *ids,
                      const int32_t *places, int32_t rows);

/* The vector of n parameters at this offset as it is used, in fp32, plus shift: where it lies, or
 * in work->vectors[which], which the next call with this number overwrites. */
const float *model_vector(struct model *m, struct model_workspace *work, int which, size_t offset,
                          int32_t n, float shift);
/* Norm with weights and biases at these offsets of the block. */
void model_norm_forward(struct model *m, struct model_workspace *work, void *y, float *stats,
                        const void *x, size_t weights, size_t bias, int32_t rows);
/* dx += …, and gradients of weights and biases */
void model_norm_backward(struct model *m, struct model_workspace *work, void *dx, const void *dy,
                         const void *x, const float *stats, size_t weights, size_t bias,
                         int32_t rows);
/* Norms of each head's queries and keys: a->raw into qkv; back, in place. */
void model_heads_forward(struct model *m, struct model_workspace *work, void *qkv,
                         const struct model_activations *a, const struct model_layer *layer,
                         int32_t rows);
void model_heads_backward(struct model *m, struct model_workspace *work, void *dqkv,
                          const struct model_activations *a, const struct model_layer *layer,
                          int32_t rows);

#endif

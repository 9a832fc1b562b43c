#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/arch.h"
#include "common/model/model_impl.h"

/* Every matrix that takes part in a product starts on a cache line. */
#define ALIGN_ELEMENTS 16

size_t model_tensor_count(const struct model_tensor *tensor)
{
    return (size_t)tensor->rows * (size_t)(tensor->cols ? tensor->cols : 1);
}

void model_tensor_shape(const struct model_tensor *tensor, int64_t ret[2])
{
    bool turned = tensor->storage == MODEL_STORED_TRANSPOSED;
    ret[0] = turned ? tensor->cols : tensor->rows;
    ret[1] = turned ? tensor->rows : tensor->cols;
}

static void align(struct model_layout *l)
{
    l->count = (l->count + ALIGN_ELEMENTS - 1) / ALIGN_ELEMENTS * ALIGN_ELEMENTS;
}

/* name and "weight" or "bias"; of layer i unless that is negative */
static size_t add(struct model_layout *l, const struct model_names *names, int32_t i,
                  const char *part, const char *kind, int32_t rows, int32_t cols)
{
    struct model_tensor *t = &l->tensors[l->n_tensors++];
    if (i < 0)
        snprintf(t->name, sizeof(t->name), "%s.%s", part, kind);
    else
        snprintf(t->name, sizeof(t->name), "%s.%d.%s.%s", names->layers, i, part, kind);
    t->offset = l->count;
    t->rows = rows;
    t->cols = cols;
    if (cols && i >= 0 && names->transposed)
        t->storage = MODEL_STORED_TRANSPOSED;
    l->count += (size_t)rows * (size_t)(cols ? cols : 1);
    return t->offset;
}

/* A norm's weights, and its biases where it has them. */
static size_t add_norm(struct model_layout *l, const struct model_names *names,
                       const struct model_config *c, int32_t i, const char *part, int32_t size,
                       size_t *ret_bias)
{
    size_t at = add(l, names, i, part, "weight", size, 0);
    l->tensors[l->n_tensors - 1].first_value = c->traits.norm == MODEL_NORM_RMS_PLUS ? 0 : 1;
    align(l);
    if (c->traits.norm == MODEL_NORM_LAYER && ret_bias) {
        *ret_bias = add(l, names, i, part, "bias", size, 0);
        align(l);
    }
    return at;
}

static void add_attention(struct model_layout *l, const struct model_names *n,
                          const struct model_config *c, int32_t i, struct model_layer *layer)
{
    int32_t d = c->hidden, hc = c->heads * c->head_size, gc = c->kv_heads * c->head_size;
    for (int bias = 0; bias <= (c->traits.qkv_bias ? 1 : 0); bias++) {
        const char *kind = bias ? "bias" : "weight";
        int32_t cols = bias ? 0 : d;
        size_t at = l->count;
        if (n->qkv) {
            add(l, n, i, n->qkv, kind, hc + 2 * gc, cols);
            if (n->by_head) {
                l->tensors[l->n_tensors - 1].storage = MODEL_STORED_BY_HEAD;
                l->tensors[l->n_tensors - 1].parts_of = c->heads;
            }
        } else {
            add(l, n, i, n->q, kind, hc, cols);
            add(l, n, i, n->k, kind, gc, cols);
            add(l, n, i, n->v, kind, gc, cols);
        }
        align(l);
        *(bias ? &layer->qkv_bias : &layer->qkv) = at;
    }
    if (c->traits.qk_norm) {
        layer->q_norm = add_norm(l, n, c, i, n->q_norm, c->head_size, NULL);
        layer->k_norm = add_norm(l, n, c, i, n->k_norm, c->head_size, NULL);
    }
    layer->out = add(l, n, i, n->out, "weight", d, hc);
    align(l);
    if (c->traits.out_bias) {
        layer->out_bias = add(l, n, i, n->out, "bias", d, 0);
        align(l);
    }
}

static void add_ffn(struct model_layout *l, const struct model_names *n,
                    const struct model_config *c, int32_t i, struct model_layer *layer)
{
    int32_t d = c->hidden, width = model_config_ffn_width(c);
    for (int bias = 0; bias <= (c->traits.ffn_bias ? 1 : 0); bias++) {
        const char *kind = bias ? "bias" : "weight";
        size_t at = l->count;
        if (n->gate_up) {
            add(l, n, i, n->gate_up, kind, width, bias ? 0 : d);
        } else {
            add(l, n, i, n->gate, kind, c->ffn, bias ? 0 : d);
            add(l, n, i, n->up, kind, c->ffn, bias ? 0 : d);
        }
        align(l);
        *(bias ? &layer->gate_up_bias : &layer->gate_up) = at;
    }
    layer->down = add(l, n, i, n->down, "weight", d, c->ffn);
    align(l);
    if (c->traits.ffn_bias) {
        layer->down_bias = add(l, n, i, n->down, "bias", d, 0);
        align(l);
    }
}

#define LAYER_TENSORS 20 /* at most */

void model_layout_init(struct model_layout *l, const struct model_config *c)
{
    const struct model_arch *arch = model_arch_find(c->model_type);
    SP_ASSERT(arch);
    const struct model_names *n = arch->names;
    int32_t d = c->hidden;
    *l = (struct model_layout){0};
    l->tensors = sp_xarray((size_t)c->layers * LAYER_TENSORS + 5, sizeof(*l->tensors));
    l->layers = sp_xarray((size_t)c->layers, sizeof(*l->layers));
    l->embed = add(l, n, -1, n->embed, "weight", c->vocab, d);
    align(l);
    if (c->traits.learned_positions) {
        l->positions = add(l, n, -1, n->positions, "weight", c->max_positions, d);
        align(l);
    }
    for (int32_t i = 0; i < c->layers; i++) {
        struct model_layer *layer = &l->layers[i];
        layer->norm1 = add_norm(l, n, c, i, n->norm1, d, &layer->norm1_bias);
        add_attention(l, n, c, i, layer);
        if (c->traits.post_norms)
            layer->post1 = add_norm(l, n, c, i, n->post1, d, NULL);
        layer->norm2 = add_norm(l, n, c, i, n->norm2, d, &layer->norm2_bias);
        add_ffn(l, n, c, i, layer);
        if (c->traits.post_norms)
            layer->post2 = add_norm(l, n, c, i, n->post2, d, NULL);
    }
    l->final_norm = add_norm(l, n, c, -1, n->final_norm, d, &l->final_bias);
    l->head = l->embed;
    if (!c->tie_embeddings) {
        l->head = add(l, n, -1, n->head, "weight", c->vocab, d);
        align(l);
    }
}

void model_layout_deinit(struct model_layout *l)
{
    free(l->tensors);
    free(l->layers);
    *l = (struct model_layout){0};
}

/* Row of the file that holds row r of the block. */
static size_t file_row(const struct model_tensor *t, size_t r)
{
    if (t->storage != MODEL_STORED_BY_HEAD)
        return r;
    size_t heads = (size_t)t->parts_of, c = (size_t)t->rows / 3 / heads;
    size_t part = r / (heads * c), head = r / c % heads;
    return (head * 3 + part) * c + r % c;
}

static void reorder(const struct model_tensor *t, const float *from, float *to, bool to_file)
{
    size_t rows = (size_t)t->rows, cols = (size_t)(t->cols ? t->cols : 1);
    for (size_t r = 0; r < rows; r++) {
        if (t->storage != MODEL_STORED_TRANSPOSED) {
            size_t other = file_row(t, r);
            memcpy(to + (to_file ? other : r) * cols, from + (to_file ? r : other) * cols,
                   cols * sizeof(float));
            continue;
        }
        for (size_t i = 0; i < cols; i++) {
            if (to_file)
                to[i * rows + r] = from[r * cols + i];
            else
                to[r * cols + i] = from[i * rows + r];
        }
    }
}

void model_tensor_to_file(const struct model_tensor *tensor, const float *from, float *to)
{
    reorder(tensor, from, to, true);
}

void model_tensor_from_file(const struct model_tensor *tensor, const float *from, float *to)
{
    reorder(tensor, from, to, false);
}

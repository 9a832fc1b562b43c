#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/model_impl.h"

/* Every matrix that takes part in a product starts on a cache line. */
#define ALIGN_ELEMENTS 16

static void align(struct model_layout *l)
{
    l->count = (l->count + ALIGN_ELEMENTS - 1) / ALIGN_ELEMENTS * ALIGN_ELEMENTS;
}

__attribute__((format(printf, 4, 5))) static size_t add(struct model_layout *l, int32_t rows,
                                                        int32_t cols, const char *format, ...)
{
    struct model_tensor *t = &l->tensors[l->n_tensors++];
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof(t->name), format, args);
    va_end(args);
    t->offset = l->count;
    t->rows = rows;
    t->cols = cols;
    l->count += (size_t)rows * (size_t)(cols ? cols : 1);
    return t->offset;
}

void model_layout_init(struct model_layout *l, const struct model_config *c)
{
    int32_t d = c->hidden, hc = c->heads * c->head_size, gc = c->kv_heads * c->head_size;
    *l = (struct model_layout){0};
    l->tensors = sp_xarray((size_t)c->layers * 9 + 3, sizeof(*l->tensors));
    l->layers = sp_xarray((size_t)c->layers, sizeof(*l->layers));
    l->embed = add(l, c->vocab, d, "model.embed_tokens.weight");
    align(l);
    for (int32_t i = 0; i < c->layers; i++) {
        struct model_layer *layer = &l->layers[i];
        layer->norm1 = add(l, d, 0, "model.layers.%d.input_layernorm.weight", i);
        align(l);
        layer->qkv = add(l, hc, d, "model.layers.%d.self_attn.q_proj.weight", i);
        add(l, gc, d, "model.layers.%d.self_attn.k_proj.weight", i);
        add(l, gc, d, "model.layers.%d.self_attn.v_proj.weight", i);
        align(l);
        layer->out = add(l, d, hc, "model.layers.%d.self_attn.o_proj.weight", i);
        align(l);
        layer->norm2 = add(l, d, 0, "model.layers.%d.post_attention_layernorm.weight", i);
        align(l);
        layer->gate_up = add(l, c->ffn, d, "model.layers.%d.mlp.gate_proj.weight", i);
        add(l, c->ffn, d, "model.layers.%d.mlp.up_proj.weight", i);
        align(l);
        layer->down = add(l, d, c->ffn, "model.layers.%d.mlp.down_proj.weight", i);
        align(l);
    }
    l->final_norm = add(l, d, 0, "model.norm.weight");
    align(l);
    l->head = l->embed;
    if (!c->tie_embeddings) {
        l->head = add(l, c->vocab, d, "lm_head.weight");
        align(l);
    }
}

void model_layout_deinit(struct model_layout *l)
{
    free(l->tensors);
    free(l->layers);
    *l = (struct model_layout){0};
}

/* Tensors between GGUF files and checkpoint directories: names, shapes, orders of rows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/gguf_impl.h"
#include "common/model/model_impl.h"

/* ---- names ---- */

enum { NORM = 1, DEALT = 2 };

/* GGUF names a part alike in every family. */
static const struct part {
    size_t offset; /* in struct model_names */
    const char *gguf;
    int is;
} parts[] = {
#define PART(field) offsetof(struct model_names, field)
    {PART(embed), "token_embd", 0},
    {PART(positions), "position_embd", 0},
    {PART(final_norm), "output_norm", NORM},
    {PART(head), "output", 0},
    {PART(norm1), "attn_norm", NORM},
    {PART(q), "attn_q", DEALT},
    {PART(k), "attn_k", DEALT},
    {PART(v), "attn_v", 0},
    {PART(q_norm), "attn_q_norm", NORM},
    {PART(k_norm), "attn_k_norm", NORM},
    {PART(qkv), "attn_qkv", 0},
    {PART(out), "attn_output", 0},
    {PART(post1), "post_attention_norm", NORM},
    {PART(norm2), "ffn_norm", NORM},
    {PART(gate), "ffn_gate", 0},
    {PART(up), "ffn_up", 0},
    {PART(gate_up), "ffn_up", 0},
    {PART(down), "ffn_down", 0},
    {PART(post2), "post_ffw_norm", NORM},
#undef PART
};

static const char *name_of(const struct model_names *names, const struct part *part)
{
    const char *name;
    memcpy(&name, (const char *)names + part->offset, sizeof(name));
    return name;
}

/* Splits "LAYERS.3.PART.weight" into layer, part and what follows it; layer −1 outside of them. */
static void split_name(const struct model_names *names, const char *name, int *ret_layer,
                       const char **ret_part, size_t *ret_length)
{
    size_t n = strlen(names->layers);
    const char *part = name;
    *ret_layer = -1;
    if (strncmp(name, names->layers, n) == 0 && name[n] == '.') {
        char *end;
        *ret_layer = (int)strtol(name + n + 1, &end, 10);
        part = end + 1;
    }
    *ret_part = part;
    *ret_length = (size_t)(strrchr(part, '.') - part);
}

static const struct part *find_part(const struct model_names *names, const char *name,
                                    size_t length)
{
    for (size_t i = 0; i < SP_COUNT(parts); i++) {
        const char *own = name_of(names, &parts[i]);
        if (own && strlen(own) == length && memcmp(own, name, length) == 0)
            return &parts[i];
    }
    SP_ASSERT(!"a tensor without a name in GGUF");
    return NULL;
}

static void describe(const struct model_config *c, const struct model_arch *arch,
                     const struct model_tensor *tensor, struct model_gguf_tensor *ret)
{
    int layer;
    const char *name;
    size_t length;
    split_name(arch->names, tensor->name, &layer, &name, &length);
    const struct part *part = find_part(arch->names, name, length);
    *ret = (struct model_gguf_tensor){
        .tensor = *tensor, .dims = tensor->cols ? 2 : 1, .shape = {tensor->rows, tensor->cols}};
    model_tensor_shape(tensor, ret->stored);
    ret->plus_one = part->is == NORM && c->traits.norm == MODEL_NORM_RMS_PLUS;
    if (part->is == DEALT && arch->gguf_dealt)
        ret->dealt = tensor->rows / c->head_size;
    if (layer < 0)
        snprintf(ret->name, sizeof(ret->name), "%s%s", part->gguf, name + length);
    else
        snprintf(ret->name, sizeof(ret->name), "blk.%d.%s%s", layer, part->gguf, name + length);
}

void model_gguf_tensors(const struct model_config *config, struct model_gguf_tensor **ret,
                        size_t *ret_count)
{
    const struct model_arch *arch = model_arch_find(config->model_type);
    struct model_layout layout;
    model_layout_init(&layout, config);
    struct model_gguf_tensor *list = sp_xarray((size_t)layout.n_tensors, sizeof(*list));
    for (int32_t t = 0; t < layout.n_tensors; t++)
        describe(config, arch, &layout.tensors[t], &list[t]);
    *ret = list;
    *ret_count = (size_t)layout.n_tensors;
    model_layout_deinit(&layout);
}

/* ---- numbers ---- */

static void deal(const struct model_gguf_tensor *t, const float *from, bool undo, float *to)
{
    size_t cols = (size_t)(t->tensor.cols ? t->tensor.cols : 1);
    int32_t size = t->tensor.rows / t->dealt, half = size / 2;
    for (int32_t head = 0; head < t->dealt; head++)
        for (int32_t i = 0; i < size; i++) {
            size_t halves = (size_t)(head * size + i % 2 * half + i / 2); /* transformers */
            size_t pairs = (size_t)(head * size + i);                     /* llama.cpp */
            memcpy(to + (undo ? halves : pairs) * cols, from + (undo ? pairs : halves) * cols,
                   cols * sizeof(*to));
        }
}

static void add(const struct model_gguf_tensor *t, float number, float *to)
{
    for (size_t i = 0, n = model_tensor_count(&t->tensor); t->plus_one && i < n; i++)
        to[i] += number;
}

void model_gguf_to_stored(const struct model_gguf_tensor *t, float *from, float *spare, float *to)
{
    add(t, -1, from);
    if (t->dealt > 0) {
        deal(t, from, true, spare);
        from = spare;
    }
    model_tensor_to_file(&t->tensor, from, to);
}

void model_gguf_from_stored(const struct model_gguf_tensor *t, float *from, float *spare, float *to)
{
    model_tensor_from_file(&t->tensor, from, t->dealt > 0 ? spare : to);
    if (t->dealt > 0)
        deal(t, spare, false, to);
    add(t, 1, to);
}

/* ---- tables of rotations ---- */

int32_t model_gguf_tables(const struct model_config *c)
{
    return c->scaling.type == MODEL_ROPE_LLAMA3     ? 1
           : c->scaling.type == MODEL_ROPE_LONGROPE ? 2
                                                    : 0;
}

const char *model_gguf_table_name(const struct model_config *c, int32_t table)
{
    if (c->scaling.type == MODEL_ROPE_LLAMA3)
        return "rope_freqs.weight";
    return table == 0 ? "rope_factors_long.weight" : "rope_factors_short.weight";
}

int32_t model_gguf_table_length(const struct model_config *c)
{
    return (c->rotary > 0 ? c->rotary : c->head_size) / 2;
}

/* Section "Llama 3.1" of the models' release notes: low frequencies are divided by the factor, high
 * ones left, those between go over smoothly. */
static float llama3_divisor(const struct model_config *c, int32_t i)
{
    const struct model_rope_scaling *s = &c->scaling;
    double frequency = pow(c->rope_theta, -2.0 * i / (2.0 * model_gguf_table_length(c)));
    double length = 2 * M_PI / frequency;
    double smooth = (s->original / length - s->low_freq) / (s->high_freq - s->low_freq);
    if (length < s->original / s->high_freq)
        return 1;
    if (length > s->original / s->low_freq)
        return (float)s->factor;
    return (float)(1 / ((1 - smooth) / s->factor + smooth));
}

void model_gguf_table(const struct model_config *c, int32_t table, float *to)
{
    const struct model_rope_scaling *s = &c->scaling;
    for (int32_t i = 0, n = model_gguf_table_length(c); i < n; i++)
        to[i] = s->type == MODEL_ROPE_LLAMA3 ? llama3_divisor(c, i)
                : table == 0                 ? (float)s->long_factor[i]
                                             : (float)s->short_factor[i];
}

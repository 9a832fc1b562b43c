/* What checkpoints call tensors: with or without a prefix, under an alias, tied ones by either
 * name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"
#include "common/model/arch.h"
#include "common/model/model_impl.h"

/* Old checkpoints carry tables that follow from the configuration: rotations, causal masks. */
static bool is_derived(const char *name)
{
    static const char *const suffixes[] = {".rotary_emb.inv_freq", ".attn.bias",
                                           ".attn.masked_bias", ".attention.bias",
                                           ".attention.masked_bias"};
    size_t n = strlen(name);
    for (size_t i = 0; i < SP_COUNT(suffixes); i++) {
        size_t k = strlen(suffixes[i]);
        if (n >= k && strcmp(name + n - k, suffixes[i]) == 0)
            return true;
    }
    return false;
}

static bool is_weight_of(const char *name, const char *part)
{
    size_t n = part ? strlen(part) : 0;
    return n > 0 && strncmp(name, part, n) == 0 && strcmp(name + n, ".weight") == 0;
}

static bool is_head(const struct model_names *names, const char *name)
{
    return is_weight_of(name, names->head) || is_weight_of(name, names->head_alias);
}

static bool has(const struct model_layout *layout, const char *name)
{
    for (int32_t t = 0; t < layout->n_tensors; t++)
        if (strcmp(layout->tensors[t].name, name) == 0)
            return true;
    return false;
}

/* Whether the model has a tensor of this name in a file, whatever the checkpoint calls it. */
static bool is_known(const struct model_layout *layout, const struct model_names *n,
                     const char *name)
{
    char full[MODEL_FILE_NAME_BYTES];
    if (has(layout, name))
        return true;
    if (is_weight_of(name, n->head_alias)) {
        snprintf(full, sizeof(full), "%s.weight", n->head);
        if (has(layout, full))
            return true;
    }
    if (!n->prefix)
        return false;
    snprintf(full, sizeof(full), "%s%s", n->prefix, name);
    return has(layout, full);
}

const char *model_file_name(const struct model_config *config, const struct ckpt *ckpt,
                            const struct model_tensor *tensor, char other[MODEL_FILE_NAME_BYTES])
{
    const struct model_names *n = model_arch_find(config->model_type)->names;
    bool embed = is_weight_of(tensor->name, n->embed);
    if (ckpt_find(ckpt, tensor->name))
        return tensor->name;
    if (n->prefix && strncmp(tensor->name, n->prefix, strlen(n->prefix)) == 0) {
        const char *bare = tensor->name + strlen(n->prefix);
        if (ckpt_find(ckpt, bare))
            return bare;
    }
    if (n->head_alias && is_head(n, tensor->name)) {
        snprintf(other, MODEL_FILE_NAME_BYTES, "%s.weight", n->head_alias);
        if (ckpt_find(ckpt, other))
            return other;
    }
    if (embed && config->tie_embeddings) {
        snprintf(other, MODEL_FILE_NAME_BYTES, "%s.weight", n->head);
        if (ckpt_find(ckpt, other))
            return other;
    }
    return tensor->name;
}

/* ---- is the checkpoint what config.json says? ---- */

static enum sp_err check_names(const struct model_config *config, const struct ckpt *ckpt,
                               const struct model_layout *layout, struct sp_error *err)
{
    const struct model_names *names = model_arch_find(config->model_type)->names;
    for (size_t i = 0; i < ckpt_count(ckpt); i++) {
        const char *name = ckpt_at(ckpt, i)->name;
        if (!is_known(layout, names, name) && !is_derived(name) &&
            !(config->tie_embeddings && is_head(names, name)))
            return sp_fail(err, SP_EUNSUPPORTED,
                           "checkpoint %s: tensor %s is not part of a %s model: its effect would "
                           "be lost",
                           ckpt_dir(ckpt), name, config->model_type);
    }
    return SP_OK;
}

static enum sp_err check_shape(const struct model_config *config, const struct ckpt *ckpt,
                               const struct model_tensor *tensor, struct sp_error *err)
{
    char other[MODEL_FILE_NAME_BYTES];
    const char *name = model_file_name(config, ckpt, tensor, other);
    const struct model_names *n = model_arch_find(config->model_type)->names;
    int64_t shape[2];
    model_tensor_shape(tensor, shape);
    enum sp_err rc = ckpt_check_shape(ckpt, name, tensor->cols ? 2 : 1, shape, err);
    if (rc != SP_ENOTFOUND)
        return rc;
    return sp_fail(err, SP_EFORMAT,
                   "checkpoint %s: tensor %s: not there, and its config.json asks for it%s",
                   ckpt_dir(ckpt), name,
                   is_weight_of(tensor->name, n->head)
                       ? "; set tie_word_embeddings to true where it is the table of embeddings"
                       : "");
}

/* One row as numbers, whatever they are stored as. */
static enum sp_err read_row(const struct ckpt_tensor *tensor, int64_t row, float *to,
                            struct sp_error *err)
{
    struct ckpt_tensor part = *tensor;
    part.bytes = tensor->bytes / (size_t)tensor->shape[0];
    part.count = tensor->count / (size_t)tensor->shape[0];
    part.data = tensor->data + (size_t)row * part.bytes;
    return ckpt_tensor_to_f32(&part, to, err);
}

static enum sp_err compare(const struct ckpt_tensor *a, const struct ckpt_tensor *b, bool *ret_same,
                           struct sp_error *err)
{
    enum sp_err rc = SP_OK;
    *ret_same =
        a->dims == 2 && b->dims == 2 && a->shape[0] == b->shape[0] && a->shape[1] == b->shape[1];
    if (*ret_same && a->dtype == b->dtype)
        *ret_same = a == b || memcmp(a->data, b->data, a->bytes) == 0;
    if (!*ret_same || a->dtype == b->dtype)
        return SP_OK;
    size_t cols = (size_t)a->shape[1];
    float *rows = sp_xarray(2 * cols, sizeof(*rows));
    for (int64_t r = 0; rc == SP_OK && *ret_same && r < a->shape[0]; r++) {
        rc = read_row(a, r, rows, err);
        if (rc == SP_OK)
            rc = read_row(b, r, rows + cols, err);
        *ret_same = rc == SP_OK && memcmp(rows, rows + cols, cols * sizeof(*rows)) == 0;
    }
    free(rows);
    return rc;
}

/* Tools differ in what they make of a matrix that config.json says is the table, and that isn't:
 * transformers 4 passes over it, 5 uses it. */
static enum sp_err check_tied(const struct model_config *config, const struct ckpt *ckpt,
                              const struct model_tensor *embed, struct sp_error *err)
{
    const struct model_names *n = model_arch_find(config->model_type)->names;
    const char *const heads[] = {n->head, n->head_alias};
    char other[MODEL_FILE_NAME_BYTES], head[MODEL_FILE_NAME_BYTES];
    const char *table = model_file_name(config, ckpt, embed, other);
    for (size_t i = 0; config->tie_embeddings && i < SP_COUNT(heads); i++) {
        snprintf(head, sizeof(head), "%s.weight", heads[i] ? heads[i] : "");
        const struct ckpt_tensor *stored = ckpt_find(ckpt, head);
        bool same = true;
        enum sp_err rc = stored ? compare(ckpt_find(ckpt, table), stored, &same, err) : SP_OK;
        if (rc != SP_OK)
            return sp_wrap(err, rc, "checkpoint %s", ckpt_dir(ckpt));
        if (!same)
            return sp_fail(
                err, SP_EFORMAT,
                "checkpoint %s: tensor %s: not the same as %s, to which config.json ties "
                "it; set tie_word_embeddings to false, or leave the tensor out",
                ckpt_dir(ckpt), head, table);
    }
    return SP_OK;
}

enum sp_err model_check_tensors(const struct model_config *config, const struct ckpt *ckpt,
                                struct sp_error *err)
{
    struct model_layout layout;
    model_layout_init(&layout, config);
    enum sp_err rc = check_names(config, ckpt, &layout, err);
    for (int32_t t = 0; rc == SP_OK && t < layout.n_tensors; t++)
        rc = check_shape(config, ckpt, &layout.tensors[t], err);
    if (rc == SP_OK)
        rc = check_tied(config, ckpt, &layout.tensors[0], err);
    model_layout_deinit(&layout);
    return rc;
}

/* What checkpoints call tensors: with or without a prefix, under an alias, tied ones by either
 * name. */
#include <stdio.h>
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

enum sp_err model_check_names(const struct model_config *config, const struct ckpt *ckpt,
                              struct sp_error *err)
{
    const struct model_names *names = model_arch_find(config->model_type)->names;
    struct model_layout layout;
    enum sp_err rc = SP_OK;
    model_layout_init(&layout, config);
    for (size_t i = 0; rc == SP_OK && i < ckpt_count(ckpt); i++) {
        const char *name = ckpt_at(ckpt, i)->name;
        if (is_known(&layout, names, name) || is_derived(name) ||
            (config->tie_embeddings && is_head(names, name)))
            continue;
        rc = sp_fail(err, SP_EUNSUPPORTED,
                     "checkpoint %s: tensor %s is not part of a %s model: its effect would be lost",
                     ckpt_dir(ckpt), name, config->model_type);
    }
    model_layout_deinit(&layout);
    return rc;
}

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/base/table.h"
#include "common/checkpoint/hf_dir.h"
#include "common/checkpoint/manifest.h"
#include "common/model/config.h"
#include "common/model/model.h"
#include "common/spin-model/tool.h"
#include "common/text/tokenizer.h"

/* What was found in the directory; absent parts are NULL or false. */
struct found {
    bool has_config;
    struct model_config config;
    struct ckpt *weights;
    struct tok_tokenizer *tokenizer;
    bool has_template;
    bool has_digest;
    struct ckpt_manifest manifest;
    struct sp_error problem; /* weights that are not what config.json describes; empty: none */
};

static bool exists_in(const char *dir, const char *name)
{
    char *path = sp_path_join(dir, name);
    bool there = sp_path_exists(path);
    free(path);
    return there;
}

static bool show_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    sp_progress_set_total(context, total_bytes);
    sp_progress_set(context, done_bytes);
    return true;
}

static enum sp_err look(const struct tool *tool, struct found *found, struct sp_error *err)
{
    const char *dir = tool->dir;
    enum sp_err rc = SP_OK;
    bool any = false;
    if (!sp_path_exists(dir))
        return sp_fail(err, SP_ENOTFOUND, "%s: no such directory", dir);
    if (exists_in(dir, "config.json")) {
        any = found->has_config = true;
        rc = model_config_load(dir, &found->config, err);
    }
    if (rc == SP_OK &&
        (exists_in(dir, "model.safetensors") || exists_in(dir, "model.safetensors.index.json"))) {
        any = true;
        rc = ckpt_open(dir, &found->weights, err);
    }
    if (rc == SP_OK && found->has_config && found->weights != NULL)
        (void)!model_check_tensors(&found->config, found->weights, &found->problem);
    if (rc == SP_OK && exists_in(dir, "tokenizer.json")) {
        any = true;
        rc = tok_load(dir, &found->tokenizer, err);
    }
    if (rc == SP_OK && !any)
        return sp_fail(err, SP_ENOTFOUND,
                       "%s: no config.json, model.safetensors or tokenizer.json in it; give the "
                       "directory of a checkpoint in Hugging Face layout",
                       dir);
    found->has_template =
        exists_in(dir, "chat_template.jinja") || exists_in(dir, "chat_template.json");
    if (rc == SP_OK && tool->digest) {
        if (found->weights == NULL)
            return sp_fail(err, SP_ENOTFOUND, "%s: no weights, so there is no digest", dir);
        struct sp_progress *progress = sp_progress_new("digest", 0, "bytes");
        rc = ckpt_manifest_build(dir, show_progress, progress, &found->manifest, err);
        sp_progress_free(progress);
        found->has_digest = rc == SP_OK;
    }
    return rc;
}

static void found_deinit(struct found *found)
{
    ckpt_close(found->weights);
    tok_free(found->tokenizer);
    ckpt_manifest_deinit(&found->manifest);
}

static json_t *shape_json(const struct ckpt_tensor *tensor)
{
    json_t *shape = json_array();
    for (int32_t d = 0; d < tensor->dims; d++)
        json_array_append_new(shape, json_integer(tensor->shape[d]));
    return shape;
}

static json_t *weights_json(const struct tool *tool, const struct ckpt *weights)
{
    json_t *dtypes = json_object();
    for (size_t i = 0; i < ckpt_count(weights); i++) {
        const struct ckpt_tensor *tensor = ckpt_at(weights, i);
        const char *name = ckpt_dtype_name(tensor->dtype);
        json_int_t sum = json_integer_value(json_object_get(dtypes, name));
        json_object_set_new(dtypes, name, json_integer(sum + (json_int_t)tensor->count));
    }
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:I, s:o}", "tensors", (json_int_t)ckpt_count(weights), "parameters",
        (json_int_t)ckpt_parameters(weights), "bytes", (json_int_t)ckpt_weight_bytes(weights),
        "files", (json_int_t)ckpt_shards(weights), "elements_by_dtype", dtypes);
    if (!tool->tensors)
        return object;
    json_t *list = json_array();
    for (size_t i = 0; i < ckpt_count(weights); i++) {
        const struct ckpt_tensor *tensor = ckpt_at(weights, i);
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", tensor->name, "dtype",
                                              ckpt_dtype_name(tensor->dtype), "shape",
                                              shape_json(tensor)));
    }
    json_object_set_new(object, "tensor_list", list);
    return object;
}

static json_t *config_json(const struct model_config *c)
{
    return json_pack("{s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:i, "
                     "s:o}",
                     "model_type", c->model_type, "parameters", (json_int_t)c->n_params,
                     "vocab_size", c->vocab, "hidden_size", c->hidden, "intermediate_size", c->ffn,
                     "num_hidden_layers", c->layers, "num_attention_heads", c->heads,
                     "num_key_value_heads", c->kv_heads, "head_dim", c->head_size,
                     "max_position_embeddings", c->max_positions, "sliding_window", c->window,
                     "rope_theta", c->rope_theta, "rms_norm_eps", c->rms_eps, "tie_word_embeddings",
                     (int)c->tie_embeddings, "bos_token_id", c->bos_id, "eos_token_ids",
                     tool_ids_to_json(c->eos_ids, (size_t)c->n_eos));
}

static enum sp_err print_found_json(const struct tool *tool, const struct found *found,
                                    struct sp_error *err)
{
    json_t *root = json_pack("{s:s}", "path", tool->dir);
    if (found->has_config)
        json_object_set_new(root, "config", config_json(&found->config));
    if (found->weights != NULL)
        json_object_set_new(root, "weights", weights_json(tool, found->weights));
    if (found->tokenizer != NULL)
        json_object_set_new(root, "tokenizer",
                            json_pack("{s:i, s:b}", "vocab_size", tok_vocab_size(found->tokenizer),
                                      "chat_template", (int)found->has_template));
    if (found->has_digest) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(&found->manifest.digest, hex);
        json_object_set_new(root, "checkpoint_sha256", json_string(hex));
    }
    if (found->problem.text[0] != 0)
        json_object_set_new(root, "problem", json_string(found->problem.text));
    return tool_print_json(root, err);
}

static void print_config(const struct model_config *c)
{
    printf("model        %s, %" PRId64 " parameters, %s\n", c->model_type, c->n_params,
           c->tie_embeddings ? "tied embeddings" : "untied embeddings");
    printf("layers       %d of hidden size %d, feed-forward %d\n", c->layers, c->hidden, c->ffn);
    printf("attention    %d heads of size %d, %d for keys and values", c->heads, c->head_size,
           c->kv_heads);
    if (c->window > 0)
        printf(", window of %d", c->window);
    printf("\nvocabulary   %d ids\n", c->vocab);
    printf("context      %d positions, ", c->max_positions);
    if (c->traits.learned_positions)
        printf("each with a learned embedding\n");
    else
        printf("RoPE theta %g\n", c->rope_theta);
    printf("end tokens  ");
    for (int32_t i = 0; i < c->n_eos; i++)
        printf(" %d", c->eos_ids[i]);
    printf("%s\n", c->n_eos == 0 ? " none" : "");
}

static void print_tensors(const struct ckpt *weights)
{
    static const char *const headers[] = {"tensor", "dtype", "shape", ">elements", NULL};
    struct sp_table *table = sp_table_new(headers);
    for (size_t i = 0; i < ckpt_count(weights); i++) {
        const struct ckpt_tensor *tensor = ckpt_at(weights, i);
        struct sp_buf shape = SP_BUF_INIT;
        for (int32_t d = 0; d < tensor->dims; d++)
            sp_buf_printf(&shape, "%s%" PRId64, d > 0 ? " x " : "", tensor->shape[d]);
        sp_table_cell(table, "%s", tensor->name);
        sp_table_cell(table, "%s", ckpt_dtype_name(tensor->dtype));
        sp_table_cell(table, "%s", shape.data != NULL ? shape.data : "");
        sp_table_cell(table, "%zu", tensor->count);
        sp_buf_deinit(&shape);
    }
    printf("\n");
    sp_table_print(table, stdout);
    sp_table_free(table);
}

static void print_found(const struct tool *tool, const struct found *found)
{
    char text[64];
    if (found->has_config)
        print_config(&found->config);
    if (found->weights != NULL) {
        sp_format_bytes(ckpt_weight_bytes(found->weights), text, sizeof(text));
        printf("weights      %zu tensors in %zu file%s, %s, first one %s\n",
               ckpt_count(found->weights), ckpt_shards(found->weights),
               ckpt_shards(found->weights) == 1 ? "" : "s", text,
               ckpt_count(found->weights) > 0 ? ckpt_dtype_name(ckpt_at(found->weights, 0)->dtype)
                                              : "-");
    }
    if (found->tokenizer != NULL)
        printf("tokenizer    %d ids\n", tok_vocab_size(found->tokenizer));
    if (found->has_digest) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(&found->manifest.digest, hex);
        printf("digest       %s\n", hex);
    }
    if (found->problem.text[0] != 0)
        printf("problem      %s\n", found->problem.text);
    if (tool->tensors && found->weights != NULL)
        print_tensors(found->weights);
}

enum sp_err tool_info(struct tool *tool, struct sp_error *err)
{
    struct found found = {.manifest = CKPT_MANIFEST_INIT};
    enum sp_err rc = look(tool, &found, err);
    if (rc == SP_OK && tool->json)
        rc = print_found_json(tool, &found, err);
    else if (rc == SP_OK)
        print_found(tool, &found);
    found_deinit(&found);
    return rc;
}

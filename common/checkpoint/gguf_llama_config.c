/* The Llama architecture between struct ckpt_llama, config.json and metadata to be written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/checkpoint/gguf_llama.h"
#include "common/checkpoint/gguf_internal.h"

#define MAX_SIZE (1 << 20)
#define MAX_LAYERS 1024
#define MAX_HEADS 1024

/* ---- config.json out ---- */

/* A number that was fp32, with no more digits than tell it from its neighbours: 1e-05, not
 * 9.999999747378752e-06. */
static json_t *short_real(double value)
{
    char text[64];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if ((float)strtod(text, NULL) == (float)value)
            return json_real(strtod(text, NULL));
    }
    return json_real(value);
}

static json_t *id_or_null(int32_t id)
{
    return id >= 0 ? json_integer(id) : json_null();
}

static json_t *eos_of(const struct ckpt_llama *llama)
{
    if (llama->n_eos < 2)
        return llama->n_eos == 0 ? json_null() : json_integer(llama->eos_ids[0]);
    json_t *ids = json_array();
    for (int32_t i = 0; i < llama->n_eos; i++)
        json_array_append_new(ids, json_integer(llama->eos_ids[i]));
    return ids;
}

static json_t *rope_scaling(const struct ckpt_llama *llama)
{
    if (llama->rope == CKPT_ROPE_PLAIN)
        return json_null();
    if (llama->rope == CKPT_ROPE_LINEAR)
        return json_pack("{s:o, s:s, s:s}", "factor", short_real(llama->rope_factor), "rope_type",
                         "linear", "type", "linear");
    return json_pack("{s:o, s:f, s:f, s:i, s:s}", "factor", short_real(llama->rope_factor),
                     "high_freq_factor", llama->rope_high, "low_freq_factor", llama->rope_low,
                     "original_max_position_embeddings", llama->rope_context, "rope_type",
                     "llama3");
}

json_t *ckpt_llama_config(const struct ckpt_llama *llama, enum ckpt_dtype dtype)
{
    const char *torch = dtype == CKPT_F32 ? "float32" : dtype == CKPT_F16 ? "float16" : "bfloat16";
    json_t *config = json_pack(
        "{s:[s], s:b, s:f, s:i, s:s, s:i, s:f, s:i, s:i, s:b, s:s, s:i, s:i, s:i}", "architectures",
        "LlamaForCausalLM", "attention_bias", 0, "attention_dropout", 0.0, "head_dim",
        llama->head_size, "hidden_act", "silu", "hidden_size", llama->hidden, "initializer_range",
        0.02, "intermediate_size", llama->ffn, "max_position_embeddings", llama->context,
        "mlp_bias", 0, "model_type", "llama", "num_attention_heads", llama->heads,
        "num_hidden_layers", llama->layers, "num_key_value_heads", llama->kv_heads);
    json_object_set_new(config, "bos_token_id", id_or_null(llama->bos_id));
    json_object_set_new(config, "eos_token_id", eos_of(llama));
    json_object_set_new(config, "pad_token_id", id_or_null(llama->pad_id));
    json_object_set_new(config, "rms_norm_eps", short_real(llama->rms_eps));
    json_object_set_new(config, "rope_scaling", rope_scaling(llama));
    json_object_set_new(config, "rope_theta", short_real(llama->rope_theta));
    json_object_set_new(config, "tie_word_embeddings", json_boolean(llama->tied));
    json_object_set_new(config, "torch_dtype", json_string(torch));
    json_object_set_new(config, "use_cache", json_true());
    json_object_set_new(config, "vocab_size", json_integer(llama->vocab));
    return config;
}

json_t *ckpt_llama_generation(const struct ckpt_llama *llama)
{
    json_t *generation = json_object();
    if (llama->bos_id >= 0)
        json_object_set_new(generation, "bos_token_id", json_integer(llama->bos_id));
    if (llama->n_eos > 0)
        json_object_set_new(generation, "eos_token_id", eos_of(llama));
    if (llama->pad_id >= 0)
        json_object_set_new(generation, "pad_token_id", json_integer(llama->pad_id));
    return generation;
}

/* ---- config.json in ---- */

static enum sp_err need_i32(const json_t *json, const char *key, int64_t max, const char *what,
                            int32_t *ret, struct sp_error *err)
{
    int64_t value = 0;
    enum sp_err rc = sp_json_i64(json, key, 1, max, what, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return gguf_missing(rc, err);
}

static enum sp_err opt_i32(const json_t *json, const char *key, int64_t max, const char *what,
                           int32_t *ret, struct sp_error *err)
{
    int64_t value = *ret;
    enum sp_err rc = sp_json_opt_i64(json, key, 1, max, what, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

static enum sp_err config_sizes(const json_t *json, const char *what, struct ckpt_llama *l,
                                struct sp_error *err)
{
    enum sp_err rc;
    int32_t window = 0;
    if ((rc = need_i32(json, "vocab_size", SP_MAX_VOCAB, what, &l->vocab, err)) ||
        (rc = need_i32(json, "hidden_size", MAX_SIZE, what, &l->hidden, err)) ||
        (rc = need_i32(json, "intermediate_size", MAX_SIZE, what, &l->ffn, err)) ||
        (rc = need_i32(json, "num_hidden_layers", MAX_LAYERS, what, &l->layers, err)) ||
        (rc = need_i32(json, "num_attention_heads", MAX_HEADS, what, &l->heads, err)))
        return rc;
    l->kv_heads = l->heads;
    l->head_size = l->hidden / l->heads;
    l->context = 2048;
    if ((rc = opt_i32(json, "num_key_value_heads", MAX_HEADS, what, &l->kv_heads, err)) ||
        (rc = opt_i32(json, "head_dim", MAX_SIZE, what, &l->head_size, err)) ||
        (rc = opt_i32(json, "max_position_embeddings", INT32_MAX, what, &l->context, err)) ||
        (rc = opt_i32(json, "sliding_window", INT32_MAX, what, &window, err)))
        return rc;
    if (window > 0 && window < l->context)
        l->context = window;
    if (l->head_size < 2 || l->head_size % 2 != 0 || l->heads % l->kv_heads != 0)
        return sp_fail(
            err, SP_EUNSUPPORTED,
            "%s: a head size of %d (it must be even), %d heads for %d of keys and values", what,
            l->head_size, l->heads, l->kv_heads);
    return SP_OK;
}

/* rope_scaling of transformers 4, or rope_parameters of 5. */
static enum sp_err config_rope(const json_t *json, const char *what, struct ckpt_llama *l,
                               struct sp_error *err)
{
    l->rope_theta = 10000;
    enum sp_err rc = sp_json_opt_f64(json, "rope_theta", what, &l->rope_theta, err);
    const json_t *rope = json_object_get(json, "rope_scaling");
    if (!json_is_object(rope))
        rope = json_object_get(json, "rope_parameters");
    if (rc != SP_OK || !json_is_object(rope))
        return rc;
    const char *type = "default";
    if ((rc = sp_json_opt_str(rope, "type", what, &type, err)) ||
        (rc = sp_json_opt_str(rope, "rope_type", what, &type, err)) ||
        (rc = sp_json_opt_f64(rope, "rope_theta", what, &l->rope_theta, err)))
        return rc;
    if (strcmp(type, "default") == 0)
        return SP_OK;
    int32_t context = 0;
    if (strcmp(type, "linear") == 0) {
        l->rope = CKPT_ROPE_LINEAR;
        rc = sp_json_f64(rope, "factor", what, &l->rope_factor, err);
    } else if (strcmp(type, "llama3") == 0) {
        l->rope = CKPT_ROPE_LLAMA3;
        if ((rc = sp_json_f64(rope, "factor", what, &l->rope_factor, err)) == SP_OK &&
            (rc = sp_json_f64(rope, "low_freq_factor", what, &l->rope_low, err)) == SP_OK &&
            (rc = sp_json_f64(rope, "high_freq_factor", what, &l->rope_high, err)) == SP_OK)
            rc = need_i32(rope, "original_max_position_embeddings", INT32_MAX, what, &context, err);
        l->rope_context = context;
        if (rc == SP_OK && !(l->rope_factor >= 1 && l->rope_low > 0 && l->rope_high > l->rope_low))
            rc = sp_fail(err, SP_EFORMAT, "%s: rope_scaling: factors out of range", what);
    } else {
        rc = sp_fail(err, SP_EUNSUPPORTED,
                     "%s: rope_scaling of type \"%.40s\" can't be written as GGUF", what, type);
    }
    return gguf_missing(rc, err);
}

static int32_t id_in(const json_t *json, const char *key, int32_t vocab)
{
    const json_t *value = json_object_get(json, key);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id >= 0 && id < vocab ? (int32_t)id : -1;
}

static void config_ids(const json_t *config, const json_t *generation, struct ckpt_llama *l)
{
    l->unk_id = -1;
    l->bos_id = id_in(config, "bos_token_id", l->vocab);
    l->pad_id = id_in(config, "pad_token_id", l->vocab);
    const json_t *eos = json_object_get(generation, "eos_token_id");
    if (eos == NULL || json_is_null(eos))
        eos = json_object_get(config, "eos_token_id");
    json_t *list =
        json_is_array(eos) ? json_incref((json_t *)(uintptr_t)eos) : json_pack("[O?]", eos);
    for (size_t i = 0; i < json_array_size(list) && l->n_eos < (int32_t)SP_COUNT(l->eos_ids); i++) {
        const json_t *id = json_array_get(list, i);
        if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < l->vocab)
            l->eos_ids[l->n_eos++] = (int32_t)json_integer_value(id);
    }
    json_decref(list);
}

enum sp_err ckpt_llama_from_config(const json_t *config, const json_t *generation, const char *what,
                                   struct ckpt_llama *ret, struct sp_error *err)
{
    static const char *const must_be_false[] = {"attention_bias", "mlp_bias"};
    struct ckpt_llama l = {.rms_eps = 1e-6};
    const char *type = "", *act = "silu";
    enum sp_err rc = sp_json_str(config, "model_type", what, &type, err);
    if (rc != SP_OK)
        return gguf_missing(rc, err);
    if (strcmp(type, "llama") != 0 && strcmp(type, "mistral") != 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: model_type \"%.40s\" can't be written as GGUF; supported: llama, "
                       "mistral",
                       what, type);
    for (size_t i = 0; i < SP_COUNT(must_be_false); i++) {
        bool value = false;
        rc = sp_json_opt_bool(config, must_be_false[i], what, &value, err);
        if (rc == SP_OK && value)
            rc = sp_fail(err, SP_EUNSUPPORTED, "%s: %s = true can't be written as GGUF", what,
                         must_be_false[i]);
        if (rc != SP_OK)
            return rc;
    }
    if ((rc = sp_json_opt_str(config, "hidden_act", what, &act, err)) ||
        (rc = sp_json_opt_f64(config, "rms_norm_eps", what, &l.rms_eps, err)) ||
        (rc = sp_json_opt_bool(config, "tie_word_embeddings", what, &l.tied, err)) ||
        (rc = config_sizes(config, what, &l, err)) || (rc = config_rope(config, what, &l, err)))
        return rc;
    if (strcmp(act, "silu") != 0)
        return sp_fail(err, SP_EUNSUPPORTED, "%s: hidden_act \"%.40s\" can't be written as GGUF",
                       what, act);
    config_ids(config, generation, &l);
    *ret = l;
    return SP_OK;
}

/* ---- metadata out ---- */

void ckpt_llama_put(const struct ckpt_llama *llama, const char *name, enum ckpt_gguf_type type,
                    struct ckpt_gguf_meta *meta)
{
    /* enum llama_ftype of llama.h */
    uint32_t file_type = type == CKPT_GGUF_F32    ? 0
                         : type == CKPT_GGUF_F16  ? 1
                         : type == CKPT_GGUF_Q8_0 ? 7
                                                  : 32;
    ckpt_gguf_put_text(meta, "general.architecture", "llama");
    ckpt_gguf_put_text(meta, "general.type", "model");
    if (name != NULL)
        ckpt_gguf_put_text(meta, "general.name", name);
    ckpt_gguf_put_u32(meta, "general.file_type", file_type);
    ckpt_gguf_put_u32(meta, "general.quantization_version", 2);
    ckpt_gguf_put_u32(meta, "llama.block_count", (uint32_t)llama->layers);
    ckpt_gguf_put_u32(meta, "llama.context_length", (uint32_t)llama->context);
    ckpt_gguf_put_u32(meta, "llama.embedding_length", (uint32_t)llama->hidden);
    ckpt_gguf_put_u32(meta, "llama.feed_forward_length", (uint32_t)llama->ffn);
    ckpt_gguf_put_u32(meta, "llama.attention.head_count", (uint32_t)llama->heads);
    ckpt_gguf_put_u32(meta, "llama.attention.head_count_kv", (uint32_t)llama->kv_heads);
    ckpt_gguf_put_u32(meta, "llama.attention.key_length", (uint32_t)llama->head_size);
    ckpt_gguf_put_u32(meta, "llama.attention.value_length", (uint32_t)llama->head_size);
    ckpt_gguf_put_f32(meta, "llama.attention.layer_norm_rms_epsilon", (float)llama->rms_eps);
    ckpt_gguf_put_u32(meta, "llama.rope.dimension_count", (uint32_t)llama->head_size);
    ckpt_gguf_put_f32(meta, "llama.rope.freq_base", (float)llama->rope_theta);
    if (llama->rope == CKPT_ROPE_LINEAR) {
        ckpt_gguf_put_text(meta, "llama.rope.scaling.type", "linear");
        ckpt_gguf_put_f32(meta, "llama.rope.scaling.factor", (float)llama->rope_factor);
    }
    ckpt_gguf_put_u32(meta, "llama.vocab_size", (uint32_t)llama->vocab);
}

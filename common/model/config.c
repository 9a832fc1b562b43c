#include "common/model/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"

#define MAX_HIDDEN (1 << 16)
#define MAX_FFN (1 << 19)
#define MAX_LAYERS 1024
#define MAX_HEADS 1024
#define MAX_HEAD_SIZE 1024

/* One row per architecture that the engine computes. */
static const struct architecture {
    const char *model_type;
    const char *class_name; /* for "architectures" of a config.json that we write */
    bool window;            /* has sliding_window */
} architectures[] = {
    {"llama", "LlamaForCausalLM", false},
    {"mistral", "MistralForCausalLM", true},
};

static const struct architecture *find_architecture(const char *model_type)
{
    for (size_t i = 0; i < SP_COUNT(architectures); i++)
        if (strcmp(architectures[i].model_type, model_type) == 0)
            return &architectures[i];
    return NULL;
}

static enum sp_err field_i32(const json_t *config, const char *key, int64_t min, int64_t max,
                             const char *what, int32_t *ret, struct sp_error *err)
{
    int64_t value;
    enum sp_err rc = sp_json_i64(config, key, min, max, what, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

static enum sp_err opt_i32(const json_t *config, const char *key, int64_t min, int64_t max,
                           const char *what, int32_t *ret, struct sp_error *err)
{
    int64_t value = *ret;
    enum sp_err rc = sp_json_opt_i64(config, key, min, max, what, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

static enum sp_err parse_sizes(const json_t *json, const char *what, struct model_config *c,
                               struct sp_error *err)
{
    enum sp_err rc;
    if ((rc = field_i32(json, "vocab_size", 2, SP_MAX_VOCAB, what, &c->vocab, err)) ||
        (rc = field_i32(json, "hidden_size", 1, MAX_HIDDEN, what, &c->hidden, err)) ||
        (rc = field_i32(json, "intermediate_size", 1, MAX_FFN, what, &c->ffn, err)) ||
        (rc = field_i32(json, "num_hidden_layers", 1, MAX_LAYERS, what, &c->layers, err)) ||
        (rc = field_i32(json, "num_attention_heads", 1, MAX_HEADS, what, &c->heads, err)))
        return rc;
    c->kv_heads = c->heads;
    if ((rc = opt_i32(json, "num_key_value_heads", 1, MAX_HEADS, what, &c->kv_heads, err)))
        return rc;
    if (c->heads % c->kv_heads != 0)
        return sp_fail(err, SP_EFORMAT,
                       "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d",
                       what, c->heads, c->kv_heads);
    if ((rc = opt_i32(json, "head_dim", 2, MAX_HEAD_SIZE, what, &c->head_size, err)))
        return rc;
    if (c->head_size == 0) {
        if (c->hidden % c->heads != 0)
            return sp_fail(err, SP_EFORMAT,
                           "%s: hidden_size %d is not a multiple of num_attention_heads %d, and "
                           "there is no head_dim",
                           what, c->hidden, c->heads);
        c->head_size = c->hidden / c->heads;
    }
    if (c->head_size % 2 != 0 || c->head_size > MAX_HEAD_SIZE)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: a head size of %d; it must be even and at most %d", what, c->head_size,
                       MAX_HEAD_SIZE);
    /* Longer contexts than the limit are usable up to it. */
    c->max_positions = 2048;
    if ((rc = opt_i32(json, "max_position_embeddings", 1, INT32_MAX, what, &c->max_positions, err)))
        return rc;
    c->max_positions = SP_MIN(c->max_positions, SP_MAX_SEQUENCE_TOKENS);
    return SP_OK;
}

/* Fields whose value must be one that the engine computes. */
static enum sp_err refuse_features(const json_t *json, const char *what, struct sp_error *err)
{
    static const char *const must_be_false[] = {"attention_bias", "mlp_bias", "qkv_bias"};
    for (size_t i = 0; i < SP_COUNT(must_be_false); i++) {
        bool value = false;
        enum sp_err rc = sp_json_opt_bool(json, must_be_false[i], what, &value, err);
        if (rc != SP_OK)
            return rc;
        if (value)
            return sp_fail(err, SP_EUNSUPPORTED, "%s: %s = true is not supported", what,
                           must_be_false[i]);
    }
    const char *act = "silu";
    enum sp_err rc = sp_json_opt_str(json, "hidden_act", what, &act, err);
    if (rc != SP_OK)
        return rc;
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return sp_fail(err, SP_EUNSUPPORTED, "%s: hidden_act \"%.40s\" is not supported: only silu",
                       what, act);
    const json_t *quantization = json_object_get(json, "quantization_config");
    if (quantization && !json_is_null(quantization))
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: quantization_config: quantized weights are not "
                       "supported; use an F32, F16 or BF16 checkpoint",
                       what);
    return SP_OK;
}

static enum sp_err check_rope_type(const json_t *rope, const char *key, const char *what,
                                   struct sp_error *err)
{
    if (!json_is_object(rope))
        return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": expected an object or null", what, key);
    const char *type = NULL;
    enum sp_err rc = sp_json_opt_str(rope, "type", what, &type, err);
    if (rc == SP_OK)
        rc = sp_json_opt_str(rope, "rope_type", what, &type, err);
    if (rc != SP_OK)
        return rc;
    if (!type || strcmp(type, "default") != 0)
        return sp_fail(err, SP_EUNSUPPORTED, "%s: %s of type \"%.40s\" is not supported", what, key,
                       type ? type : "");
    return SP_OK;
}

/* transformers 4 writes rope_theta and rope_scaling, 5 writes rope_parameters. */
static enum sp_err parse_rope(const json_t *json, const char *what, struct model_config *c,
                              struct sp_error *err)
{
    double partial = 1;
    c->rope_theta = 10000;
    enum sp_err rc = sp_json_opt_f64(json, "rope_theta", what, &c->rope_theta, err);
    if (rc == SP_OK)
        rc = sp_json_opt_f64(json, "partial_rotary_factor", what, &partial, err);
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; rc == SP_OK && i < SP_COUNT(keys); i++) {
        const json_t *rope = json_object_get(json, keys[i]);
        if (!rope || json_is_null(rope))
            continue;
        rc = check_rope_type(rope, keys[i], what, err);
        if (rc == SP_OK)
            rc = sp_json_opt_f64(rope, "rope_theta", what, &c->rope_theta, err);
        if (rc == SP_OK)
            rc = sp_json_opt_f64(rope, "partial_rotary_factor", what, &partial, err);
    }
    if (rc != SP_OK)
        return rc;
    if (partial != 1)
        return sp_fail(err, SP_EUNSUPPORTED, "%s: partial_rotary_factor %g is not supported", what,
                       partial);
    if (!(c->rope_theta >= 1 && c->rope_theta <= 1e12))
        return sp_fail(err, SP_EFORMAT, "%s: rope_theta %g is not between 1 and 1e12", what,
                       c->rope_theta);
    return SP_OK;
}

static enum sp_err parse_numbers(const json_t *json, const char *what, struct model_config *c,
                                 struct sp_error *err)
{
    double eps = 1e-6;
    c->init_std = 0.02;
    enum sp_err rc;
    if ((rc = sp_json_opt_f64(json, "rms_norm_eps", what, &eps, err)) ||
        (rc = sp_json_opt_f64(json, "initializer_range", what, &c->init_std, err)) ||
        (rc = sp_json_opt_bool(json, "tie_word_embeddings", what, &c->tie_embeddings, err)))
        return rc;
    if (!(eps > 0 && eps < 1))
        return sp_fail(err, SP_EFORMAT, "%s: rms_norm_eps %g is not between 0 and 1", what, eps);
    if (!(c->init_std >= 0 && c->init_std <= 10))
        return sp_fail(err, SP_EFORMAT, "%s: initializer_range %g is not between 0 and 10", what,
                       c->init_std);
    c->rms_eps = eps;
    const char *dtype = "float32";
    if ((rc = sp_json_opt_str(json, "torch_dtype", what, &dtype, err)) ||
        (rc = sp_json_opt_str(json, "dtype", what, &dtype, err)))
        return rc;
    if (strcmp(dtype, "float32") == 0)
        c->dtype = TN_F32;
    else if (strcmp(dtype, "bfloat16") == 0)
        c->dtype = TN_BF16;
    else if (strcmp(dtype, "float16") == 0)
        c->dtype = TN_F16;
    else
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: dtype \"%.40s\" is not supported: float32, bfloat16 or float16", what,
                       dtype);
    return SP_OK;
}

static enum sp_err token_id(const json_t *value, const char *key, const char *what, int32_t vocab,
                            int32_t *ret, struct sp_error *err)
{
    if (!json_is_integer(value))
        return sp_fail(err, SP_EFORMAT, "%s: field \"%s\": expected a token id", what, key);
    json_int_t id = json_integer_value(value);
    if (id < 0 || id >= vocab)
        return sp_fail(err, SP_EFORMAT,
                       "%s: field \"%s\": %lld is not below the vocabulary's size, %d", what, key,
                       (long long)id, vocab);
    *ret = (int32_t)id;
    return SP_OK;
}

/* One id, a list of ids, or nothing. */
static enum sp_err parse_eos(const json_t *json, const char *what, struct model_config *c,
                             struct sp_error *err)
{
    const char *key = "eos_token_id";
    const json_t *value = json_object_get(json, key);
    if (!value || json_is_null(value))
        return SP_OK;
    int32_t ids[MODEL_MAX_EOS], n = 0;
    if (!json_is_array(value)) {
        enum sp_err rc = token_id(value, key, what, c->vocab, &ids[0], err);
        if (rc != SP_OK)
            return rc;
        n = 1;
    } else {
        if (json_array_size(value) > MODEL_MAX_EOS)
            return sp_fail(err, SP_ELIMIT, "%s: field \"%s\": %zu ids, at most %d are supported",
                           what, key, json_array_size(value), MODEL_MAX_EOS);
        for (size_t i = 0; i < json_array_size(value); i++) {
            enum sp_err rc =
                token_id(json_array_get(value, i), key, what, c->vocab, &ids[n++], err);
            if (rc != SP_OK)
                return rc;
        }
    }
    memcpy(c->eos_ids, ids, sizeof(ids[0]) * (size_t)n);
    c->n_eos = n;
    return SP_OK;
}

/* An id that may be absent, null, or (as some files write "none") negative. */
static enum sp_err parse_special(const json_t *json, const char *key, const char *what,
                                 int32_t vocab, int32_t *ret, struct sp_error *err)
{
    const json_t *value = json_object_get(json, key);
    if (!value || json_is_null(value) || (json_is_integer(value) && json_integer_value(value) < 0))
        return SP_OK;
    return token_id(value, key, what, vocab, ret, err);
}

static enum sp_err count_params(struct model_config *c, const char *what, struct sp_error *err)
{
    /* Every factor is below 2^30 and there are few of them, so int64 can only overflow in the
     * number of layers. */
    int64_t d = c->hidden, attention = (2ll * c->heads + 2ll * c->kv_heads) * c->head_size * d;
    int64_t layer = attention + 3ll * c->ffn * d + 2 * d, total;
    if (__builtin_mul_overflow(layer, (int64_t)c->layers, &total) ||
        __builtin_add_overflow(total, d + (c->tie_embeddings ? 1ll : 2ll) * c->vocab * d, &total) ||
        total > (1ll << 40))
        return sp_fail(err, SP_ELIMIT, "%s: more than 2^40 parameters", what);
    c->n_params = total;
    return SP_OK;
}

enum sp_err model_config_parse(const json_t *json, const json_t *generation, const char *what,
                               struct model_config *ret, struct sp_error *err)
{
    if (!json_is_object(json))
        return sp_fail(err, SP_EFORMAT, "%s: expected an object", what);
    const char *type;
    enum sp_err rc = sp_json_str(json, "model_type", what, &type, err);
    if (rc != SP_OK)
        return rc;
    const struct architecture *architecture = find_architecture(type);
    if (!architecture)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: model_type \"%.40s\" is not supported; supported: llama, mistral", what,
                       type);
    struct model_config c = {.bos_id = -1, .pad_id = -1};
    snprintf(c.model_type, sizeof(c.model_type), "%s", architecture->model_type);
    if ((rc = parse_sizes(json, what, &c, err)) || (rc = refuse_features(json, what, err)) ||
        (rc = parse_rope(json, what, &c, err)) || (rc = parse_numbers(json, what, &c, err)))
        return rc;
    if (architecture->window &&
        (rc = opt_i32(json, "sliding_window", 1, INT32_MAX, what, &c.window, err)))
        return rc;
    if ((rc = parse_special(json, "bos_token_id", what, c.vocab, &c.bos_id, err)) ||
        (rc = parse_special(json, "pad_token_id", what, c.vocab, &c.pad_id, err)) ||
        (rc = parse_eos(json, what, &c, err)))
        return rc;
    if (generation) {
        if (!json_is_object(generation))
            return sp_fail(err, SP_EFORMAT, "generation_config.json: expected an object");
        if ((rc = parse_eos(generation, "generation_config.json", &c, err)))
            return rc;
    }
    if ((rc = count_params(&c, what, err)))
        return rc;
    *ret = c;
    return SP_OK;
}

enum sp_err model_config_load_file(const char *path, struct model_config *ret, struct sp_error *err)
{
    json_t *json = NULL;
    enum sp_err rc = sp_json_load(path, SP_MAX_CONFIG_JSON, &json, err);
    if (rc != SP_OK)
        return rc;
    rc = model_config_parse(json, NULL, path, ret, err);
    json_decref(json);
    return rc;
}

enum sp_err model_config_load(const char *dir, struct model_config *ret, struct sp_error *err)
{
    char *path = sp_path_join(dir, "config.json");
    char *generation_path = sp_path_join(dir, "generation_config.json");
    json_t *json = NULL, *generation = NULL;
    enum sp_err rc = sp_json_load(path, SP_MAX_CONFIG_JSON, &json, err);
    if (rc == SP_OK && sp_path_exists(generation_path))
        rc = sp_json_load(generation_path, SP_MAX_CONFIG_JSON, &generation, err);
    if (rc == SP_OK)
        rc = model_config_parse(json, generation, path, ret, err);
    json_decref(json);
    json_decref(generation);
    free(path);
    free(generation_path);
    return rc;
}

json_t *model_config_to_json(const struct model_config *c)
{
    static const char *const dtypes[] = {"float32", "bfloat16", "float16"};
    const struct architecture *architecture = find_architecture(c->model_type);
    SP_ASSERT(architecture);
    json_t *json = json_pack(
        "{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:n, s:f, s:b, s:b, "
        "s:b, s:s}",
        "architectures", architecture->class_name, "model_type", c->model_type, "vocab_size",
        (int)c->vocab, "hidden_size", (int)c->hidden, "intermediate_size", (int)c->ffn,
        "num_hidden_layers", (int)c->layers, "num_attention_heads", (int)c->heads,
        "num_key_value_heads", (int)c->kv_heads, "head_dim", (int)c->head_size,
        "max_position_embeddings", (int)c->max_positions, "hidden_act", "silu", "rms_norm_eps",
        c->rms_eps, "rope_theta", c->rope_theta, "rope_scaling", "initializer_range", c->init_std,
        "tie_word_embeddings", (int)c->tie_embeddings, "attention_bias", 0, "mlp_bias", 0,
        "torch_dtype", dtypes[c->dtype]);
    SP_ASSERT(json);
    if (architecture->window)
        json_object_set_new(json, "sliding_window",
                            c->window ? json_integer(c->window) : json_null());
    if (c->bos_id >= 0)
        json_object_set_new(json, "bos_token_id", json_integer(c->bos_id));
    if (c->pad_id >= 0)
        json_object_set_new(json, "pad_token_id", json_integer(c->pad_id));
    if (c->n_eos == 1) {
        json_object_set_new(json, "eos_token_id", json_integer(c->eos_ids[0]));
    } else if (c->n_eos > 1) {
        json_t *list = json_array();
        for (int32_t i = 0; i < c->n_eos; i++)
            json_array_append_new(list, json_integer(c->eos_ids[i]));
        json_object_set_new(json, "eos_token_id", list);
    }
    return json;
}

bool model_config_is_eos(const struct model_config *config, int32_t id)
{
    for (int32_t i = 0; i < config->n_eos; i++)
        if (config->eos_ids[i] == id)
            return true;
    return false;
}

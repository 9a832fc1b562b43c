#include "common/model/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"
#include "common/model/arch.h"
#include "common/model/model_impl.h"

#define MAX_HIDDEN (1 << 16)
#define MAX_FFN (1 << 19)
#define MAX_LAYERS MODEL_MAX_LAYERS
#define MAX_HEADS 1024

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

static enum sp_err parse_heads(const json_t *json, const struct model_arch *arch, const char *what,
                               struct model_config *c, struct sp_error *err)
{
    enum sp_err rc;
    /* Null is the number of heads in every family. */
    bool absent = !json_object_get(json, "num_key_value_heads");
    c->kv_heads = absent && arch->kv_heads > 0 ? arch->kv_heads : c->heads;
    if ((rc = opt_i32(json, "num_key_value_heads", 1, MAX_HEADS, what, &c->kv_heads, err)))
        return rc;
    if (c->heads % c->kv_heads != 0)
        return sp_fail(err, SP_EFORMAT, "%s: %s %d is not a multiple of num_key_value_heads %d",
                       what, arch->keys->heads, c->heads, c->kv_heads);
    c->head_size = arch->head_size;
    if ((rc = opt_i32(json, "head_dim", 2, MODEL_MAX_HEAD_SIZE, what, &c->head_size, err)))
        return rc;
    if (c->head_size == 0) {
        if (c->hidden % c->heads != 0)
            return sp_fail(err, SP_EFORMAT,
                           "%s: %s %d is not a multiple of %s %d, and there is no head_dim", what,
                           arch->keys->hidden, c->hidden, arch->keys->heads, c->heads);
        c->head_size = c->hidden / c->heads;
    }
    if (arch->plain_heads && (c->kv_heads != c->heads || c->head_size * c->heads != c->hidden))
        return sp_fail(
            err, SP_EUNSUPPORTED,
            "%s: num_key_value_heads %d and head_dim %d of %d heads and a hidden size of "
            "%d are not supported in a %s model",
            what, c->kv_heads, c->head_size, c->heads, c->hidden, arch->model_type);
    if (c->head_size % 2 != 0 || c->head_size > MODEL_MAX_HEAD_SIZE)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: a head size of %d; it must be even and at most %d", what, c->head_size,
                       MODEL_MAX_HEAD_SIZE);
    return SP_OK;
}

static enum sp_err parse_sizes(const json_t *json, const struct model_arch *arch, const char *what,
                               struct model_config *c, struct sp_error *err)
{
    const struct model_keys *k = arch->keys;
    enum sp_err rc;
    if ((rc = field_i32(json, "vocab_size", 2, SP_MAX_VOCAB, what, &c->vocab, err)) ||
        (rc = field_i32(json, k->hidden, 1, MAX_HIDDEN, what, &c->hidden, err)) ||
        (rc = field_i32(json, k->layers, 1, MAX_LAYERS, what, &c->layers, err)) ||
        (rc = field_i32(json, k->heads, 1, MAX_HEADS, what, &c->heads, err)) ||
        (rc = parse_heads(json, arch, what, c, err)))
        return rc;
    /* GPT-2's width is four times the hidden size unless it is given. */
    const json_t *ffn = json_object_get(json, k->ffn);
    if (strcmp(k->ffn, "n_inner") == 0 && (!ffn || json_is_null(ffn)))
        c->ffn = 4 * c->hidden;
    else if ((rc = field_i32(json, k->ffn, 1, MAX_FFN, what, &c->ffn, err)))
        return rc;
    /* Longer contexts than the limit are usable up to it. */
    c->max_positions = arch->positions;
    if ((rc = opt_i32(json, k->positions, 1, INT32_MAX, what, &c->max_positions, err)))
        return rc;
    c->context = c->max_positions;
    if (c->traits.learned_positions && c->max_positions > SP_MAX_SEQUENCE_TOKENS)
        return sp_fail(err, SP_ELIMIT, "%s: %s %d is above %d", what, k->positions,
                       c->max_positions, (int)SP_MAX_SEQUENCE_TOKENS);
    c->max_positions = SP_MIN(c->max_positions, SP_MAX_SEQUENCE_TOKENS);
    return SP_OK;
}

static enum sp_err parse_activation(const json_t *json, const struct model_arch *arch,
                                    const char *what, struct model_config *c, struct sp_error *err)
{
    const char *act = arch->activation[0];
    enum sp_err rc = sp_json_opt_str(json, arch->keys->activation, what, &act, err);
    for (size_t i = 0; rc == SP_OK && arch->activation[i]; i++)
        if (strcmp(act, arch->activation[i]) == 0) {
            /* GELU without a gate comes in two forms; all names but one are the tanh form's. */
            if (c->traits.activation >= MODEL_GELU_TANH)
                c->traits.activation = strcmp(act, "gelu") ? MODEL_GELU_TANH : MODEL_GELU_EXACT;
            return SP_OK;
        }
    if (rc != SP_OK)
        return rc;
    return sp_fail(err, SP_EUNSUPPORTED, "%s: %s \"%.40s\" is not supported: only %s in a %s model",
                   what, arch->keys->activation, act, arch->activation[0], arch->model_type);
}

/* A cap that is null is none. */
static double cap_default(const json_t *json, const char *key, double absent)
{
    return json_object_get(json, key) ? 0 : absent;
}

/* Fields that add to what the row of the table says. */
static enum sp_err parse_traits(const json_t *json, const struct model_arch *arch, const char *what,
                                struct model_config *c, struct sp_error *err)
{
    struct model_traits *t = &c->traits;
    bool attention_bias = t->out_bias, mlp_bias = t->ffn_bias;
    enum sp_err rc;
    if ((rc = sp_json_opt_bool(json, "attention_bias", what, &attention_bias, err)) ||
        (rc = sp_json_opt_bool(json, "mlp_bias", what, &mlp_bias, err)) ||
        (rc = parse_activation(json, arch, what, c, err)) ||
        (arch->traits.parallel &&
         (rc = sp_json_opt_bool(json, "use_parallel_residual", what, &t->parallel, err))))
        return rc;
    bool scaled = true; /* GPT-2's scores can be left unscaled */
    rc = sp_json_opt_bool(json, "scale_attn_weights", what, &scaled, err);
    if (rc == SP_OK && !scaled)
        rc = sp_fail(err, SP_EUNSUPPORTED, "%s: scale_attn_weights = false is not supported", what);
    if (rc != SP_OK)
        return rc;
    if (attention_bias != t->out_bias) {
        if (!arch->may_bias)
            return sp_fail(err, SP_EUNSUPPORTED,
                           "%s: attention_bias = %s is not supported in a "
                           "%s model",
                           what, attention_bias ? "true" : "false", arch->model_type);
        t->qkv_bias = t->out_bias = attention_bias;
    }
    if (mlp_bias != t->ffn_bias) {
        if (!arch->may_bias_ffn)
            return sp_fail(err, SP_EUNSUPPORTED, "%s: mlp_bias = %s is not supported in a %s model",
                           what, mlp_bias ? "true" : "false", arch->model_type);
        t->ffn_bias = mlp_bias;
    }
    if (arch->capped) {
        c->attention_softcap = cap_default(json, "attn_logit_softcapping", arch->attention_softcap);
        c->logit_softcap = cap_default(json, "final_logit_softcapping", arch->logit_softcap);
        if ((rc = sp_json_opt_f64(json, "attn_logit_softcapping", what, &c->attention_softcap,
                                  err)) ||
            (rc = sp_json_opt_f64(json, "final_logit_softcapping", what, &c->logit_softcap, err)))
            return rc;
        /* transformers reads the field of a Gemma 3 and leaves it out of the computation. */
        if (arch->attention_softcap == 0 && c->attention_softcap != 0)
            return sp_fail(err, SP_EUNSUPPORTED,
                           "%s: attn_logit_softcapping %g is not supported in a %s model: "
                           "transformers does not apply it; write null",
                           what, c->attention_softcap, arch->model_type);
        c->attention_scalar = 256;
        rc = sp_json_opt_f64(json, "query_pre_attn_scalar", what, &c->attention_scalar, err);
        if (rc != SP_OK)
            return rc;
        if (!(c->attention_softcap >= 0 && c->attention_softcap <= 1e6 && c->logit_softcap >= 0 &&
              c->logit_softcap <= 1e6))
            return sp_fail(err, SP_EFORMAT,
                           "%s: attn_logit_softcapping %g or final_logit_softcapping %g is not "
                           "between 0 and 1e6",
                           what, c->attention_softcap, c->logit_softcap);
        if (!(c->attention_scalar >= 1e-3 && c->attention_scalar <= 1e9))
            return sp_fail(err, SP_EFORMAT,
                           "%s: query_pre_attn_scalar %g is not between 1e-3 and 1e9", what,
                           c->attention_scalar);
    }
    return SP_OK;
}

static enum sp_err parse_numbers(const json_t *json, const struct model_arch *arch,
                                 const char *what, struct model_config *c, struct sp_error *err)
{
    double eps = arch->eps;
    c->init_std = 0.02;
    c->tie_embeddings = arch->tied;
    enum sp_err rc;
    if ((rc = sp_json_opt_f64(json, arch->keys->eps, what, &eps, err)) ||
        (rc = sp_json_opt_f64(json, "initializer_range", what, &c->init_std, err)) ||
        (rc = sp_json_opt_bool(json, "tie_word_embeddings", what, &c->tie_embeddings, err)))
        return rc;
    if (!(eps > 0 && eps < 1))
        return sp_fail(err, SP_EFORMAT, "%s: %s %g is not between 0 and 1", what, arch->keys->eps,
                       eps);
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
                       "%s: field \"%s\": %lld is not below the vocabulary's size, %d; write null "
                       "where the model has none",
                       what, key, (long long)id, vocab);
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

/* generation_config.json, which lies beside the other file. */
static enum sp_err parse_generation(const json_t *generation, const char *what,
                                    struct model_config *c, struct sp_error *err)
{
    const char *slash = strrchr(what, '/');
    char *name =
        sp_xprintf("%.*sgeneration_config.json", slash ? (int)(slash - what) + 1 : 0, what);
    enum sp_err rc = json_is_object(generation)
                         ? parse_eos(generation, name, c, err)
                         : sp_fail(err, SP_EFORMAT, "%s: expected an object", name);
    free(name);
    return rc;
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

/* What transformers takes for granted in a file that does not mention a field. */
static void default_ids(const json_t *json, const struct model_arch *arch, struct model_config *c)
{
    if (!json_object_get(json, "bos_token_id") && arch->bos_id < c->vocab)
        c->bos_id = arch->bos_id;
    if (!json_object_get(json, "eos_token_id") && arch->eos_id >= 0 && arch->eos_id < c->vocab)
        c->eos_ids[c->n_eos++] = arch->eos_id;
}

static enum sp_err count_params(struct model_config *c, const char *what, struct sp_error *err)
{
    /* Every factor is below 2^21 and a layer has few matrices, so int64 holds the sum. */
    struct model_layout layout;
    model_layout_init(&layout, c);
    int64_t total = 0;
    for (int32_t t = 0; t < layout.n_tensors; t++)
        total += (int64_t)model_tensor_count(&layout.tensors[t]);
    model_layout_deinit(&layout);
    if (total > (1ll << 40))
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
    const struct model_arch *arch = model_arch_find(type);
    if (!arch)
        return model_arch_refuse(type, what, err);
    struct model_config c = {.bos_id = -1, .pad_id = -1, .traits = arch->traits};
    snprintf(c.model_type, sizeof(c.model_type), "%s", arch->model_type);
    if ((rc = model_config_check_fields(json, arch, what, err)) ||
        (rc = parse_sizes(json, arch, what, &c, err)) ||
        (rc = parse_traits(json, arch, what, &c, err)) ||
        (rc = model_config_parse_rope(json, arch, what, &c, err)) ||
        (rc = parse_numbers(json, arch, what, &c, err)) ||
        (rc = model_config_parse_layers(json, arch, what, &c, err)))
        return rc;
    default_ids(json, arch, &c);
    if ((rc = parse_special(json, "bos_token_id", what, c.vocab, &c.bos_id, err)) ||
        (rc = parse_special(json, "pad_token_id", what, c.vocab, &c.pad_id, err)) ||
        (rc = parse_eos(json, what, &c, err)))
        return rc;
    if (generation && (rc = parse_generation(generation, what, &c, err)))
        return rc;
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
    char *adapter_path = sp_path_join(dir, "adapter_config.json");
    json_t *json = NULL, *generation = NULL;
    enum sp_err rc = SP_OK;
    if (!sp_path_exists(path) && sp_path_exists(adapter_path))
        rc = sp_fail(err, SP_EUNSUPPORTED, "%s: " CKPT_ADAPTER_ALONE, adapter_path);
    if (rc == SP_OK)
        rc = sp_json_load(path, SP_MAX_CONFIG_JSON, &json, err);
    if (rc == SP_OK && sp_path_exists(generation_path))
        rc = sp_json_load(generation_path, SP_MAX_CONFIG_JSON, &generation, err);
    if (rc == SP_OK)
        rc = model_config_parse(json, generation, path, ret, err);
    json_decref(json);
    json_decref(generation);
    free(path);
    free(generation_path);
    free(adapter_path);
    return rc;
}

int32_t model_config_window(const struct model_config *c, int32_t layer)
{
    return c->layer_bits[layer] & MODEL_LAYER_FULL ? 0 : c->window;
}

int32_t model_config_ffn_width(const struct model_config *c)
{
    bool gated = c->traits.activation == MODEL_SWIGLU || c->traits.activation == MODEL_GEGLU_TANH;
    return gated ? 2 * c->ffn : c->ffn;
}

float model_config_scale(const struct model_config *c)
{
    return (float)(1.0 /
                   sqrt(c->attention_scalar > 0 ? c->attention_scalar : (double)c->head_size));
}

bool model_config_is_eos(const struct model_config *config, int32_t id)
{
    for (int32_t i = 0; i < config->n_eos; i++)
        if (config->eos_ids[i] == id)
            return true;
    return false;
}

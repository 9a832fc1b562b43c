/* config_json: a config.json from a struct model_config, for checkpoints that have no template. */
#include <math.h>

#include "common/base/mem.h"
#include "common/model/arch.h"

static void put(json_t *json, const char *key, json_t *value)
{
    SP_ASSERT(json_object_set_new(json, key, value) == 0);
}

static void put_int(json_t *json, const char *key, int64_t value)
{
    put(json, key, json_integer(value));
}

static void put_sizes(json_t *json, const struct model_config *c, const struct model_arch *arch)
{
    const struct model_keys *k = arch->keys;
    put_int(json, "vocab_size", c->vocab);
    put_int(json, k->hidden, c->hidden);
    put_int(json, k->ffn, c->ffn);
    put_int(json, k->layers, c->layers);
    put_int(json, k->heads, c->heads);
    put_int(json, k->positions, c->context > 0 ? c->context : c->max_positions);
    if (!arch->plain_heads)
        put_int(json, "num_key_value_heads", c->kv_heads);
    if (c->head_size * c->heads != c->hidden || arch->names == model_arch_find("llama")->names ||
        arch->head_size)
        put_int(json, "head_dim", c->head_size);
}

static void put_traits(json_t *json, const struct model_config *c, const struct model_arch *arch)
{
    const char *activation = arch->activation[0];
    if (c->traits.activation != arch->traits.activation)
        activation = c->traits.activation == MODEL_GELU_EXACT ? "gelu" : "gelu_new";
    put(json, arch->keys->activation, json_string(activation));
    put(json, arch->keys->eps, json_real(c->rms_eps));
    put(json, "initializer_range", json_real(c->init_std));
    put(json, "tie_word_embeddings", json_boolean(c->tie_embeddings));
    if (arch->may_bias)
        put(json, "attention_bias", json_boolean(c->traits.out_bias));
    if (arch->may_bias_ffn)
        put(json, "mlp_bias", json_boolean(c->traits.ffn_bias));
    if (arch->traits.parallel)
        put(json, "use_parallel_residual", json_boolean(c->traits.parallel));
    if (arch->capped) {
        put(json, "attn_logit_softcapping",
            c->attention_softcap > 0 ? json_real(c->attention_softcap) : json_null());
        put(json, "final_logit_softcapping",
            c->logit_softcap > 0 ? json_real(c->logit_softcap) : json_null());
        /* transformers wants an integer where it is one. */
        if (floor(c->attention_scalar) == c->attention_scalar)
            put_int(json, "query_pre_attn_scalar", (int64_t)c->attention_scalar);
        else
            put(json, "query_pre_attn_scalar", json_real(c->attention_scalar));
    }
}

/* An id that is absent is the family's own to transformers, which may be beyond this vocabulary: it
 * loads no model then. So what there is not is written as null. */
static void put_ids(json_t *json, const struct model_config *c)
{
    put(json, "bos_token_id", c->bos_id >= 0 ? json_integer(c->bos_id) : json_null());
    put(json, "pad_token_id", c->pad_id >= 0 ? json_integer(c->pad_id) : json_null());
    if (c->n_eos == 0) {
        put(json, "eos_token_id", json_null());
    } else if (c->n_eos == 1) {
        put_int(json, "eos_token_id", c->eos_ids[0]);
    } else {
        json_t *list = json_array();
        for (int32_t i = 0; i < c->n_eos; i++)
            json_array_append_new(list, json_integer(c->eos_ids[i]));
        put(json, "eos_token_id", list);
    }
}

json_t *model_config_to_json(const struct model_config *c)
{
    static const char *const dtypes[] = {"float32", "bfloat16", "float16"};
    const struct model_arch *arch = model_arch_find(c->model_type);
    SP_ASSERT(arch);
    json_t *json = json_pack("{s:[s], s:s, s:s}", "architectures", arch->class_name, "model_type",
                             c->model_type, "torch_dtype", dtypes[c->dtype]);
    SP_ASSERT(json);
    put_sizes(json, c, arch);
    put_traits(json, c, arch);
    model_config_write_rope(json, c, arch);
    model_config_write_layers(json, c, arch);
    put_ids(json, c);
    return json;
}

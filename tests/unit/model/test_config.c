#include "common/model/config.h"

#include "tests/unit/model/fixtures.h"

static const char base[] =
    "{\"model_type\":\"llama\",\"vocab_size\":100,\"hidden_size\":32,\"intermediate_size\":48,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,"
    "\"tie_word_embeddings\":true,\"bos_token_id\":1,\"eos_token_id\":2}";

static enum sp_err parse(const char *text, const char *generation, struct model_config *ret,
                         struct sp_error *err)
{
    json_t *json = NULL, *g = NULL;
    enum sp_err rc = sp_json_parse(text, strlen(text), "config.json", &json, err);
    if (rc == SP_OK && generation)
        rc = sp_json_parse(generation, strlen(generation), "generation_config.json", &g, err);
    if (rc == SP_OK)
        rc = model_config_parse(json, g, "config.json", ret, err);
    json_decref(json);
    json_decref(g);
    return rc;
}

/* The base document with one field set to a JSON value (NULL: removed). */
static enum sp_err parse_with(const char *key, const char *value, struct model_config *ret,
                              struct sp_error *err)
{
    json_error_t detail;
    json_t *json = json_loads(base, 0, &detail);
    if (value)
        json_object_set_new(json, key, json_loads(value, JSON_DECODE_ANY, &detail));
    else
        json_object_del(json, key);
    enum sp_err rc = model_config_parse(json, NULL, "config.json", ret, err);
    json_decref(json);
    return rc;
}

START_TEST(reads_what_is_there)
{
    struct model_config c;
    ck_ok(parse(base, NULL, &c, err));
    ck_assert_str_eq(c.model_type, "llama");
    ck_assert(c.vocab == 100 && c.hidden == 32 && c.ffn == 48 && c.layers == 2 && c.heads == 4);
    ck_assert(c.kv_heads == 2 && c.head_size == 8 && c.max_positions == 64 && c.tie_embeddings);
    ck_assert(c.rms_eps == 1e-6 && c.rope_theta == 10000 && c.init_std == 0.02 && c.window == 0);
    ck_assert(c.bos_id == 1 && c.pad_id == -1 && c.n_eos == 1 && c.eos_ids[0] == 2);
    ck_assert(c.dtype == TN_F32);
    /* q, o: 32×32; k, v: 16×32; three of 48×32; two norms; table and last norm */
    ck_assert_int_eq(c.n_params, 2 * (2 * 1024 + 2 * 512 + 3 * 1536 + 64) + 3200 + 32);
    ck_assert(model_config_is_eos(&c, 2) && !model_config_is_eos(&c, 1));
    ck_ok(parse_with("num_key_value_heads", NULL, &c, err));
    ck_assert_int_eq(c.kv_heads, 4);
    ck_ok(parse_with("head_dim", "6", &c, err));
    ck_assert_int_eq(c.head_size, 6);
    ck_ok(parse_with("torch_dtype", "\"bfloat16\"", &c, err));
    ck_assert(c.dtype == TN_BF16);
    ck_ok(parse_with("dtype", "\"float16\"", &c, err));
    ck_assert(c.dtype == TN_F16);
    ck_ok(parse_with("rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":777}", &c, err));
    ck_assert(c.rope_theta == 777);
    ck_ok(parse_with("rope_scaling", "null", &c, err));
    ck_ok(parse_with("bos_token_id", "null", &c, err));
    ck_assert_int_eq(c.bos_id, -1);
    ck_ok(parse_with("pad_token_id", "-1", &c, err));
    ck_assert_int_eq(c.pad_id, -1);
    ck_ok(parse_with("eos_token_id", "[3,4,5]", &c, err));
    ck_assert(c.n_eos == 3 && c.eos_ids[2] == 5);
    ck_ok(parse_with("max_position_embeddings", "1000000", &c, err));
    ck_assert_int_eq(c.max_positions, SP_MAX_SEQUENCE_TOKENS);
}
END_TEST

START_TEST(generation_config_has_the_end_tokens)
{
    struct model_config c;
    ck_ok(parse(base, "{\"eos_token_id\":[7,8]}", &c, err));
    ck_assert(c.n_eos == 2 && c.eos_ids[0] == 7 && c.eos_ids[1] == 8);
    ck_ok(parse(base, "{\"temperature\":1}", &c, err));
    ck_assert(c.n_eos == 1 && c.eos_ids[0] == 2);
    ck_fails(SP_EFORMAT, "generation_config.json: field \"eos_token_id\"",
             parse(base, "{\"eos_token_id\":100}", &c, err));
    ck_fails(SP_EFORMAT, "write null", parse(base, "{\"eos_token_id\":100}", &c, err));
    ck_fails(SP_EFORMAT, "generation_config.json", parse(base, "[]", &c, err));
    /* It is named as the file that it lies beside. */
    json_t *json = json_loads(base, 0, NULL), *generation = json_pack("{s:i}", "eos_token_id", 100);
    ck_fails(SP_EFORMAT, "some/model/generation_config.json: field \"eos_token_id\"",
             model_config_parse(json, generation, "some/model/config.json", &c, err));
    json_decref(json);
    json_decref(generation);
}
END_TEST

START_TEST(refuses_what_it_cannot_compute)
{
    struct model_config c = {.vocab = 12345};
#define UNSUPPORTED(part, key, value)                                                              \
    ck_fails(SP_EUNSUPPORTED, part, parse_with(key, value, &c, err))
    UNSUPPORTED("\"mamba\" is not supported; supported: llama", "model_type", "\"mamba\"");
    UNSUPPORTED("hidden_act", "hidden_act", "\"gelu\"");
    UNSUPPORTED("\"ntk\" is not supported", "rope_scaling", "{\"type\":\"ntk\",\"factor\":2}");
    UNSUPPORTED("rope_parameters", "rope_parameters", "{\"rope_type\":\"proportional\"}");
    UNSUPPORTED("rope_scaling", "rope_scaling", "{}");
    UNSUPPORTED("partial_rotary_factor", "partial_rotary_factor", "0.5");
    UNSUPPORTED("by kind of layer", "rope_parameters",
                "{\"full_attention\":{\"rope_type\":\"default\"}}");
    UNSUPPORTED("residual_multiplier", "residual_multiplier", "0.22");
    UNSUPPORTED("num_local_experts", "num_local_experts", "8");
    UNSUPPORTED("final_logit_softcapping", "final_logit_softcapping", "30.0");
    UNSUPPORTED("quantization_config", "quantization_config", "{\"bits\":4}");
    UNSUPPORTED("float64", "torch_dtype", "\"float64\"");
    UNSUPPORTED("head size", "head_dim", "7");
    UNSUPPORTED("\"rope_scaling.beta_fast\"", "rope_scaling",
                "{\"type\":\"linear\",\"factor\":2,\"beta_fast\":32}");
    UNSUPPORTED("scale_attn_weights", "scale_attn_weights", "false");
    ck_assert_int_eq(c.vocab, 12345);
}
END_TEST

/* What nobody here has heard of is never passed over, nor what belongs to another family. */
START_TEST(refuses_unknown_fields_by_name)
{
    struct model_config c;
    UNSUPPORTED("config.json: field \"gate_temperature\" is not known in a llama model",
                "gate_temperature", "0.5");
    UNSUPPORTED("\"gate_temperature\"", "gate_temperature", "false");
    UNSUPPORTED("\"n_embd\" is not known", "n_embd", "32");
    UNSUPPORTED("\"sliding_window\" is not supported in a llama model", "sliding_window", "7");
    UNSUPPORTED("\"use_sliding_window\"", "use_sliding_window", "true");
    UNSUPPORTED("\"use_parallel_residual\"", "use_parallel_residual", "true");
    UNSUPPORTED("\"no_rope_layers\"", "no_rope_layers", "[1,0]");
    UNSUPPORTED("\"rope_local_base_freq\"", "rope_local_base_freq", "100.0");
    UNSUPPORTED("\"query_pre_attn_scalar\"", "query_pre_attn_scalar", "64");
    UNSUPPORTED("\"pruned_heads\"", "pruned_heads", "{\"0\":[1]}");
    /* A null says nothing; what leaves the numbers alone passes whatever it says. */
    ck_ok(parse_with("gate_temperature", "null", &c, err));
    ck_ok(parse_with("sliding_window", "null", &c, err));
    ck_ok(parse_with("use_sliding_window", "false", &c, err));
    ck_ok(parse_with("pruned_heads", "{}", &c, err));
    ck_ok(parse_with("attention_multiplier", "1.0", &c, err));
    ck_ok(parse_with("transformers_version", "\"9.9\"", &c, err));
    ck_ok(parse_with("use_cache", "false", &c, err));
    ck_ok(parse_with("id2label", "{\"0\":\"x\"}", &c, err));
    /* LLaMA-1 and Vicuna; GPT-2 medium; GPT-NeoX-20B; Dolly. */
    ck_ok(parse_with("max_sequence_length", "16384", &c, err));
    ck_ok(parse_with("n_special", "0", &c, err));
    ck_ok(parse_with("attention_probs_dropout_prob", "0.1", &c, err));
    ck_ok(parse_with("hidden_dropout_prob", "0.1", &c, err));
    ck_ok(parse_with("custom_pipelines", "{\"text-generation\":{\"pt\":\"x\"}}", &c, err));
}
END_TEST

/* A field of a committed fixture set to a JSON value. */
static enum sp_err parse_fixture(const char *name, const char *key, const char *value,
                                 struct model_config *ret, struct sp_error *detail)
{
    char path[4096];
    json_t *json = NULL;
    json_error_t unused;
    snprintf(path, sizeof(path), GOLDEN "arch/%s/config.json", name);
    ck_ok(sp_json_load(path, 1 << 20, &json, err));
    json_object_set_new(json, key, json_loads(value, JSON_DECODE_ANY, &unused));
    enum sp_err rc = model_config_parse(json, NULL, "config.json", ret, detail);
    json_decref(json);
    return rc;
}

/* Cerebras-GPT is a GPT-2 with the exact form, GPT-NeoX-20B a GPT-NeoX with the tanh form. */
START_TEST(both_forms_of_gelu)
{
    static const struct {
        const char *fixture, *key, *name, *written;
        enum model_activation form;
    } rows[] = {
        {"gpt2", "activation_function", "\"gelu_new\"", "gelu_new", MODEL_GELU_TANH},
        {"gpt2", "activation_function", "\"gelu_pytorch_tanh\"", "gelu_new", MODEL_GELU_TANH},
        {"gpt2", "activation_function", "\"gelu\"", "gelu", MODEL_GELU_EXACT},
        {"gpt-neox", "hidden_act", "\"gelu\"", "gelu", MODEL_GELU_EXACT},
        {"gpt-neox", "hidden_act", "\"gelu_fast\"", "gelu_new", MODEL_GELU_TANH},
        {"gpt-neox", "hidden_act", "\"gelu_new\"", "gelu_new", MODEL_GELU_TANH},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        struct model_config c, d;
        ck_ok(parse_fixture(rows[i].fixture, rows[i].key, rows[i].name, &c, err));
        ck_assert_msg(c.traits.activation == rows[i].form, "%s %s", rows[i].fixture, rows[i].name);
        json_t *json = model_config_to_json(&c);
        ck_assert_str_eq(json_string_value(json_object_get(json, rows[i].key)), rows[i].written);
        ck_ok(model_config_parse(json, NULL, "config.json", &d, err));
        ck_assert(memcmp(&c, &d, sizeof(c)) == 0);
        json_decref(json);
    }
}
END_TEST

START_TEST(rotation_in_both_forms)
{
    struct model_config c, d;
    ck_ok(parse_with("rope_scaling", "{\"type\":\"linear\",\"factor\":2}", &c, err));
    ck_ok(parse_with("rope_parameters", "{\"rope_type\":\"linear\",\"factor\":2}", &d, err));
    ck_assert(memcmp(&c, &d, sizeof(c)) == 0);
    ck_assert(c.scaling.type == MODEL_ROPE_LINEAR && c.scaling.factor == 2);
    ck_ok(parse_with("rope_scaling", "{\"type\":\"dynamic\",\"factor\":2}", &c, err));
    ck_assert(c.max_positions == 64);
    /* Where short factors end, so do the positions. */
    ck_ok(parse_with("rope_scaling",
                     "{\"type\":\"su\",\"short_factor\":[1,1,1,1],\"long_factor\":[2,2,2,2],"
                     "\"original_max_position_embeddings\":16}",
                     &c, err));
    ck_assert(c.max_positions == 16 && c.scaling.type == MODEL_ROPE_LONGROPE);
    ck_assert(fabs(c.scaling.attention_factor - sqrt(1 + log(4) / log(16))) < 1e-12);
    /* A context that was shortened below them leaves cos and sin as they are. */
    ck_ok(parse_with("rope_scaling",
                     "{\"type\":\"longrope\",\"short_factor\":[1,1,1,1],\"long_factor\":[2,2,2,2],"
                     "\"original_max_position_embeddings\":128}",
                     &c, err));
    ck_assert(c.max_positions == 64 && c.scaling.attention_factor == 1);
    json_t *json = model_config_to_json(&c);
    ck_ok(model_config_parse(json, NULL, "config.json", &d, err));
    ck_assert(memcmp(&c, &d, sizeof(c)) == 0);
    json_decref(json);
}
END_TEST

/* What of it the fixtures leave out: what is taken where a field is absent or zero. */
START_TEST(yarn)
{
    struct model_config c, d;
    ck_ok(parse_with("rope_scaling", "{\"type\":\"yarn\",\"factor\":4}", &c, err));
    ck_assert(c.scaling.type == MODEL_ROPE_YARN && c.scaling.original == 64);
    ck_assert(c.max_positions == 64 && c.scaling.beta_fast == 32 && c.scaling.beta_slow == 1);
    ck_assert(c.scaling.truncate && fabs(c.scaling.attention_factor - 1 - 0.1 * log(4)) < 1e-12);
    ck_ok(parse_with("rope_scaling",
                     "{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":0,\"beta_slow\":2,"
                     "\"mscale\":2,\"mscale_all_dim\":1,\"truncate\":false,"
                     "\"original_max_position_embeddings\":32}",
                     &c, err));
    ck_assert(c.scaling.original == 32 && c.scaling.beta_fast == 32 && c.scaling.beta_slow == 2);
    ck_assert(!c.scaling.truncate && c.max_positions == 64);
    double want = (1 + 0.2 * log(4)) / (1 + 0.1 * log(4));
    ck_assert(fabs(c.scaling.attention_factor - want) < 1e-12);
    json_t *json = model_config_to_json(&c);
    ck_ok(model_config_parse(json, NULL, "config.json", &d, err));
    ck_assert(memcmp(&c, &d, sizeof(c)) == 0);
    json_decref(json);
    ck_ok(parse_with("rope_scaling",
                     "{\"rope_type\":\"yarn\",\"factor\":4,\"attention_factor\":0.9}", &c, err));
    ck_assert(c.scaling.attention_factor == 0.9);
    ck_fails(
        SP_EFORMAT, "below beta_slow",
        parse_with("rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"beta_slow\":64}", &c, err));
    ck_fails(SP_EFORMAT, "\"mscale\": -1",
             parse_with("rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"mscale\":-1}", &c, err));
    ck_fails(SP_EFORMAT, "above 1",
             parse_with("rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":4,\"rope_theta\":1}",
                        &c, err));
    UNSUPPORTED("short_factor", "rope_scaling",
                "{\"type\":\"yarn\",\"factor\":4,\"short_factor\":[1,1,1,1]}");
    /* vLLM and llama.cpp multiply by it, transformers does not. */
    UNSUPPORTED("\"rope_scaling.attn_factor\"", "rope_scaling",
                "{\"type\":\"yarn\",\"factor\":4,\"attn_factor\":0.878}");
}
END_TEST

/* Whatever part of a head turns, a reader of what is written finds it, with 15 digits as with 17.
 */
START_TEST(partial_rotations_come_back)
{
    struct model_config c, d;
    ck_ok(parse_fixture("gpt-neox", "hidden_size", "32", &c, err));
    for (c.head_size = 4; c.head_size <= 256; c.head_size += 2)
        for (c.rotary = 2; c.rotary < c.head_size; c.rotary += 2) {
            c.hidden = c.heads * c.head_size;
            json_t *json = model_config_to_json(&c);
            for (size_t digits = 15; digits <= 17; digits += 2) {
                char *written = json_dumps(json, JSON_REAL_PRECISION(digits));
                ck_ok(parse(written, NULL, &d, err));
                ck_assert_msg(d.rotary == c.rotary, "%d of %d came back as %d", c.rotary,
                              c.head_size, d.rotary);
                free(written);
            }
            json_decref(json);
        }
}
END_TEST

START_TEST(biases_where_they_are_known)
{
    struct model_config c, plain;
    ck_ok(parse(base, NULL, &plain, err));
    ck_ok(parse_with("attention_bias", "true", &c, err));
    ck_assert(c.traits.qkv_bias && c.traits.out_bias && !c.traits.ffn_bias);
    ck_assert_int_eq(c.n_params, plain.n_params + 2 * (32 + 32 + 2 * 16));
    ck_ok(parse_with("mlp_bias", "true", &c, err));
    ck_assert(c.traits.ffn_bias && !c.traits.qkv_bias);
}
END_TEST

START_TEST(refuses_what_is_malformed)
{
    struct model_config c = {.vocab = 12345};
    struct sp_error detail;
    static const struct {
        const char *key, *value;
    } rows[] = {
        {"model_type", NULL},
        {"model_type", "3"},
        {"vocab_size", NULL},
        {"vocab_size", "1"},
        {"vocab_size", "-5"},
        {"vocab_size", "2000000"},
        {"vocab_size", "\"100\""},
        {"vocab_size", "1.5"},
        {"hidden_size", "0"},
        {"hidden_size", "1000000000"},
        {"hidden_size", "30"}, /* not divisible by 4 heads */
        {"intermediate_size", "0"},
        {"num_hidden_layers", "0"},
        {"num_hidden_layers", "9223372036854775807"},
        {"num_attention_heads", "0"},
        {"num_key_value_heads", "3"},
        {"num_key_value_heads", "0"},
        {"head_dim", "-2"},
        {"max_position_embeddings", "0"},
        {"rms_norm_eps", "0"},
        {"rms_norm_eps", "\"small\""},
        {"rope_theta", "0"},
        {"rope_theta", "-10"},
        {"rope_scaling", "3"},
        {"rope_scaling", "{\"type\":\"linear\"}"},
        {"rope_scaling", "{\"type\":\"linear\",\"factor\":0}"},
        {"rope_scaling", "{\"type\":\"linear\",\"factor\":\"2\"}"},
        {"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8}"},
        {"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
                         "\"high_freq_factor\":4,\"original_max_position_embeddings\":16}"},
        {"rope_scaling", "{\"rope_type\":\"longrope\",\"short_factor\":[1,1],"
                         "\"original_max_position_embeddings\":16}"},
        {"rope_scaling", "{\"rope_type\":\"longrope\",\"short_factor\":[1,1,1,-1],"
                         "\"original_max_position_embeddings\":16}"},
        {"rope_scaling", "{\"rope_type\":\"longrope\",\"short_factor\":[1,1,1,1]}"},
        {"initializer_range", "-1"},
        {"tie_word_embeddings", "1"},
        {"eos_token_id", "100"},
        {"eos_token_id", "[1,-1]"},
        {"eos_token_id", "\"</s>\""},
        {"eos_token_id", "[1,2,3,4,5,6,7,8,9]"},
        {"bos_token_id", "100"},
        {"attention_bias", "\"no\""},
        {"hidden_act", "7"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        enum sp_err rc = parse_with(rows[i].key, rows[i].value, &c, &detail);
        ck_assert_msg(rc == SP_EFORMAT || rc == SP_ENOTFOUND || rc == SP_ELIMIT, "%s = %s gave %s",
                      rows[i].key, rows[i].value, sp_err_name(rc));
        ck_assert_msg(strstr(detail.text, "config.json") && strlen(detail.text) > 20, "%s",
                      detail.text);
    }
    ck_assert_int_eq(c.vocab, 12345);
    ck_fails(SP_EFORMAT, "object", parse("[]", NULL, &c, err));
    ck_fails(SP_EFORMAT, "config.json", parse("{", NULL, &c, err));
    ck_fails(SP_ENOTFOUND, "nowhere", model_config_load("/nowhere", &c, err));
}
END_TEST

/* Fields of the families, on the fixtures' documents. */
START_TEST(refuses_fields_of_the_families)
{
    static const struct {
        const char *fixture, *key, *value, *part;
    } rows[] = {
        {"llama3", "layer_types", "[\"full_attention\",\"sliding_attention\"]", "layer_types"},
        {"qwen2", "layer_types", "[\"full_attention\"]", "expected a list of 3 entries"},
        {"qwen2", "layer_types", "[\"full_attention\",\"linear_attention\",3]", "linear_attention"},
        {"qwen2", "layer_types", "[\"full_attention\",\"full_attention\",3]", "layer_types"},
        {"qwen2", "attention_bias", "true", "attention_bias"},
        {"qwen2", "sliding_window", "0", "sliding_window"},
        {"qwen2", "max_window_layers", "-1", "max_window_layers"},
        {"qwen3", "head_dim", "0", "head_dim"},
        {"smollm3", "no_rope_layers", "[1,1]", "no_rope_layers"},
        {"smollm3", "no_rope_layers", "[1,1,1,2,1]", "no_rope_layers"},
        {"smollm3", "no_rope_layers", "[1,1,1,\"x\",1]", "no_rope_layers"},
        {"smollm3", "no_rope_layer_interval", "0", "no_rope_layer_interval"},
        {"phi3", "sliding_window", "\"x\"", "sliding_window"},
        {"phi3", "rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0}",
         "partial_rotary_factor"},
        {"phi3", "rope_scaling", "{\"type\":\"linear\",\"factor\":0.5}", "factor"},
        {"gemma2", "query_pre_attn_scalar", "-1", "query_pre_attn_scalar"},
        {"gemma2", "attn_logit_softcapping", "-3", "attn_logit_softcapping"},
        {"gemma2", "final_logit_softcapping", "1e300", "final_logit_softcapping"},
        {"gemma2", "hidden_activation", "\"gelu\"", "hidden_activation"},
        {"gemma3", "attn_logit_softcapping", "50.0", "write null"},
        {"gemma3", "use_bidirectional_attention", "true", "use_bidirectional_attention"},
        {"gemma3", "rope_parameters",
         "{\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}", "sliding_attention"},
        {"gemma3", "rope_parameters", "{\"full_attention\":7}", "rope_parameters"},
        {"gemma3", "model_type", "\"gemma3\"", "\"gemma3\""},
        {"gpt2", "n_inner", "0", "n_inner"},
        {"gpt2", "n_embd", "null", "n_embd"},
        {"gpt2", "num_key_value_heads", "2", "num_key_value_heads"},
        {"gpt2", "scale_attn_weights", "false", "scale_attn_weights"},
        {"gpt2", "scale_attn_by_inverse_layer_idx", "true", "scale_attn_by_inverse_layer_idx"},
        {"gpt2", "activation_function", "\"relu\"", "activation_function"},
        {"gpt2", "n_positions", "200000", "n_positions"},
        {"gpt-neox", "rotary_pct", "0.4", "partial_rotary_factor"},
        {"gpt-neox", "hidden_act", "\"relu\"", "hidden_act"},
        {"gpt-neox", "head_dim", "4", "head_dim"},
        {"gpt-neox", "use_parallel_residual", "1", "use_parallel_residual"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        struct sp_error detail = {0};
        struct model_config c = {.vocab = 12345};
        enum sp_err rc = parse_fixture(rows[i].fixture, rows[i].key, rows[i].value, &c, &detail);
        ck_assert_msg(
            rc == SP_EUNSUPPORTED || rc == SP_EFORMAT || rc == SP_ELIMIT || rc == SP_ENOTFOUND,
            "%s: %s = %s gave %s", rows[i].fixture, rows[i].key, rows[i].value, sp_err_name(rc));
        ck_assert_msg(strstr(detail.text, rows[i].part), "\"%s\" lacks \"%s\"", detail.text,
                      rows[i].part);
        ck_assert_int_eq(c.vocab, 12345);
    }
}
END_TEST

START_TEST(writes_what_it_reads)
{
    struct model_config c, d;
    ck_ok(parse(base, "{\"eos_token_id\":[7,8]}", &c, err));
    for (int k = 0; k < 2; k++) {
        if (k == 1) {
            snprintf(c.model_type, sizeof(c.model_type), "mistral");
            c.window = 12;
            c.tie_embeddings = false;
            c.n_params += 3200;
            c.dtype = TN_BF16;
            c.pad_id = 0;
            c.n_eos = 1;
            c.eos_ids[1] = 0;
        }
        json_t *json = model_config_to_json(&c);
        ck_ok(model_config_parse(json, NULL, "config.json", &d, err));
        ck_assert(memcmp(&c, &d, sizeof(c)) == 0);
        json_decref(json);
    }
}
END_TEST

/* What a family's class in transformers takes for a field that the file does not mention. */
START_TEST(absent_fields_are_those_of_the_family)
{
    static const struct {
        const char *type;
        int32_t heads, kv_heads, positions, window, bos, eos;
        double eps;
    } rows[] = {
        {"llama", 64, 64, 2048, 0, 1, 2, 1e-6},
        {"mistral", 64, 8, SP_MAX_SEQUENCE_TOKENS, 4096, 1, 2, 1e-6},
        {"qwen2", 64, 32, 32768, 4096, -1, -1, 1e-6},
        {"qwen3", 64, 32, 32768, 4096, -1, -1, 1e-6},
        {"smollm3", 64, 4, 32768, 0, 128000, 128001, 1e-6},
        {"phi3", 64, 64, 4096, 0, 1, 32000, 1e-5},
        {"gemma2", 64, 4, 8192, 4096, 2, 1, 1e-6},
        {"gemma3_text", 64, 4, SP_MAX_SEQUENCE_TOKENS, 4096, 2, 1, 1e-6},
        {"gpt2", 64, 64, 1024, 0, 50256, 50256, 1e-5},
        {"gpt_neox", 64, 64, 2048, 0, 0, 2, 1e-5},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        struct model_config c;
        bool gpt2 = strcmp(rows[i].type, "gpt2") == 0;
        json_t *json = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i}", "model_type", rows[i].type,
                                 "vocab_size", 200000, gpt2 ? "n_embd" : "hidden_size", 512,
                                 gpt2 ? "n_inner" : "intermediate_size", 48,
                                 gpt2 ? "n_layer" : "num_hidden_layers", 30,
                                 gpt2 ? "n_head" : "num_attention_heads", 64);
        if (strncmp(rows[i].type, "qwen", 4) == 0)
            json_object_set_new(json, "use_sliding_window", json_true());
        ck_ok(model_config_parse(json, NULL, "config.json", &c, err));
        ck_assert_msg(c.kv_heads == rows[i].kv_heads && c.window == rows[i].window &&
                          c.max_positions == SP_MIN(rows[i].positions, SP_MAX_SEQUENCE_TOKENS),
                      "%s: %d heads of keys, window %d, %d positions", rows[i].type, c.kv_heads,
                      c.window, c.max_positions);
        ck_assert_msg(c.bos_id == rows[i].bos && c.n_eos == (rows[i].eos >= 0) &&
                          c.eos_ids[0] == SP_MAX(rows[i].eos, 0) && c.rms_eps == rows[i].eps,
                      "%s: bos %d, eos %d, epsilon %g", rows[i].type, c.bos_id, c.eos_ids[0],
                      c.rms_eps);
        /* Null is none, and what no vocabulary of this size has is none either. */
        json_object_set_new(json, "eos_token_id", json_null());
        json_object_set_new(json, "bos_token_id", json_null());
        ck_ok(model_config_parse(json, NULL, "config.json", &c, err));
        ck_assert(c.n_eos == 0 && c.bos_id == -1);
        json_object_del(json, "eos_token_id");
        json_object_set_new(json, "vocab_size", json_integer(2));
        ck_ok(model_config_parse(json, NULL, "config.json", &c, err));
        ck_assert(c.n_eos == (rows[i].eos == 1));
        json_decref(json);
    }
}
END_TEST

/* transformers puts its own number for what a file does not mention: four heads of keys for Gemma,
 * an id beyond a small vocabulary for Phi-3's padding, which it fails to load. */
START_TEST(written_files_leave_nothing_to_a_default)
{
    static const char *const fixtures[] = {"llama3", "qwen2",  "qwen3", "smollm3", "phi3",
                                           "gemma2", "gemma3", "gpt2",  "gpt-neox"};
    static const char *const ids[] = {"bos_token_id", "pad_token_id", "eos_token_id"};
    for (size_t i = 0; i < SP_COUNT(fixtures); i++) {
        struct model_config c, d;
        char path[4096];
        json_t *json = NULL;
        snprintf(path, sizeof(path), GOLDEN "arch/%s/config.json", fixtures[i]);
        ck_ok(sp_json_load(path, 1 << 20, &json, err));
        bool plain = strncmp(fixtures[i], "gpt", 3) == 0;
        if (!plain)
            json_object_set_new(json, "num_key_value_heads",
                                json_incref(json_object_get(json, "num_attention_heads")));
        for (size_t k = 0; k < SP_COUNT(ids); k++)
            json_object_set_new(json, ids[k], json_null());
        ck_ok(model_config_parse(json, NULL, "config.json", &c, err));
        json_decref(json);
        json = model_config_to_json(&c);
        for (size_t k = 0; k < SP_COUNT(ids); k++)
            ck_assert_msg(json_is_null(json_object_get(json, ids[k])), "%s: %s", fixtures[i],
                          ids[k]);
        ck_assert_msg(plain || json_integer_value(json_object_get(json, "num_key_value_heads")) ==
                                   c.heads,
                      "%s: num_key_value_heads", fixtures[i]);
        ck_ok(model_config_parse(json, NULL, "config.json", &d, err));
        ck_assert(memcmp(&c, &d, sizeof(c)) == 0);
        json_decref(json);
    }
}
END_TEST

START_TEST(reads_directories)
{
    struct model_config c;
    ck_ok(model_config_load(GOLDEN "tiny-llama", &c, err));
    ck_assert(c.vocab == 37 && c.rope_theta == 500 && c.head_size == 6 && !c.tie_embeddings);
    ck_ok(model_config_load(GOLDEN "tiny-mistral", &c, err));
    ck_assert(c.window == 5 && c.tie_embeddings);
    ck_ok(model_config_load_file(GOLDEN "tiny-mistral/config.json", &c, err));
    char adapter[] = "/tmp/spin-config-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(adapter));
    char *path = sp_path_join(adapter, "adapter_config.json");
    ck_ok(sp_write_file_durable(path, "{}", 2, 0666, err));
    ck_fails(SP_EUNSUPPORTED, "adapter_config.json: an adapter of peft without its base model",
             model_config_load(adapter, &c, err));
    struct sp_error unused;
    ck_assert_int_eq(sp_remove_tree(adapter, &unused), SP_OK);
    free(path);
    const char *dir = shared_data(STORIES);
    if (!dir)
        return;
    ck_ok(model_config_load(dir, &c, err));
    ck_assert(c.vocab == 2048 && c.hidden == 128 && c.kv_heads == 4 && c.eos_ids[0] == 2);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("config");
    TCase *t = tcase_create("config");
    tcase_add_test(t, reads_what_is_there);
    tcase_add_test(t, generation_config_has_the_end_tokens);
    tcase_add_test(t, refuses_what_it_cannot_compute);
    tcase_add_test(t, refuses_unknown_fields_by_name);
    tcase_add_test(t, both_forms_of_gelu);
    tcase_add_test(t, rotation_in_both_forms);
    tcase_add_test(t, yarn);
    tcase_add_test(t, partial_rotations_come_back);
    tcase_add_test(t, biases_where_they_are_known);
    tcase_add_test(t, refuses_what_is_malformed);
    tcase_add_test(t, refuses_fields_of_the_families);
    tcase_add_test(t, writes_what_it_reads);
    tcase_add_test(t, absent_fields_are_those_of_the_family);
    tcase_add_test(t, written_files_leave_nothing_to_a_default);
    tcase_add_test(t, reads_directories);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

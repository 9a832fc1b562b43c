#include "common/model/arch.h"

#include <string.h>

#include "common/base/buf.h"
#include "common/base/mem.h"

static const char *const silu[] = {"silu", "swish", NULL};
static const char *const gelu_tanh[] = {"gelu_pytorch_tanh", NULL};
static const char *const gelu_new[] = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", NULL};
static const char *const gelu[] = {"gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", NULL};

/* clang-format off */
static const struct model_names llama_names = {
    .embed = "model.embed_tokens", .layers = "model.layers",
    .norm1 = "input_layernorm",
    .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj",
    .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm", .out = "self_attn.o_proj",
    .norm2 = "post_attention_layernorm",
    .gate = "mlp.gate_proj", .up = "mlp.up_proj", .down = "mlp.down_proj",
    .final_norm = "model.norm", .head = "lm_head",
};

static const struct model_keys llama_keys = {
    .hidden = "hidden_size", .ffn = "intermediate_size", .layers = "num_hidden_layers",
    .heads = "num_attention_heads", .positions = "max_position_embeddings",
    .eps = "rms_norm_eps", .activation = "hidden_act",
};

/* Phi-3 stores what lies side by side in our block as one matrix. */
static const struct model_names phi3_names = {
    .embed = "model.embed_tokens", .layers = "model.layers",
    .norm1 = "input_layernorm", .qkv = "self_attn.qkv_proj", .out = "self_attn.o_proj",
    .norm2 = "post_attention_layernorm",
    .gate_up = "mlp.gate_up_proj", .down = "mlp.down_proj",
    .final_norm = "model.norm", .head = "lm_head",
};

static const struct model_names gemma_names = {
    .embed = "model.embed_tokens", .layers = "model.layers",
    .norm1 = "input_layernorm",
    .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj",
    .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm", .out = "self_attn.o_proj",
    .post1 = "post_attention_layernorm", .norm2 = "pre_feedforward_layernorm",
    .gate = "mlp.gate_proj", .up = "mlp.up_proj", .down = "mlp.down_proj",
    .post2 = "post_feedforward_layernorm",
    .final_norm = "model.norm", .head = "lm_head",
};

static const struct model_keys gemma_keys = {
    .hidden = "hidden_size", .ffn = "intermediate_size", .layers = "num_hidden_layers",
    .heads = "num_attention_heads", .positions = "max_position_embeddings",
    .eps = "rms_norm_eps", .activation = "hidden_activation",
};

static const struct model_names gpt2_names = {
    .embed = "transformer.wte", .positions = "transformer.wpe", .layers = "transformer.h",
    .norm1 = "ln_1", .qkv = "attn.c_attn", .out = "attn.c_proj",
    .norm2 = "ln_2", .gate_up = "mlp.c_fc", .down = "mlp.c_proj",
    .final_norm = "transformer.ln_f", .head = "lm_head",
    .prefix = "transformer.", .transposed = true,
};

static const struct model_keys gpt2_keys = {
    .hidden = "n_embd", .ffn = "n_inner", .layers = "n_layer", .heads = "n_head",
    .positions = "n_positions", .eps = "layer_norm_epsilon", .activation = "activation_function",
};

static const struct model_names neox_names = {
    .embed = "gpt_neox.embed_in", .layers = "gpt_neox.layers",
    .norm1 = "input_layernorm", .qkv = "attention.query_key_value", .out = "attention.dense",
    .norm2 = "post_attention_layernorm",
    .gate_up = "mlp.dense_h_to_4h", .down = "mlp.dense_4h_to_h",
    .final_norm = "gpt_neox.final_layer_norm", .head = "embed_out", .head_alias = "lm_head",
    .by_head = true,
};

static const struct model_keys neox_keys = {
    .hidden = "hidden_size", .ffn = "intermediate_size", .layers = "num_hidden_layers",
    .heads = "num_attention_heads", .positions = "max_position_embeddings",
    .eps = "layer_norm_eps", .activation = "hidden_act",
};

static const struct model_arch table[] = {
    {.model_type = "llama", .class_name = "LlamaForCausalLM",
     .names = &llama_names, .keys = &llama_keys, .activation = silu,
     .may_bias = true, .may_bias_ffn = true, .rope_theta = 10000, .partial = 1,
     .positions = 2048, .eps = 1e-6, .bos_id = 1, .eos_id = 2,
     .gguf = "llama", .gguf_dealt = true, .gguf_bias = true},
    {.model_type = "mistral", .class_name = "MistralForCausalLM",
     .names = &llama_names, .keys = &llama_keys, .activation = silu,
     .window = MODEL_WINDOW_ALWAYS, .rope_theta = 10000, .partial = 1,
     .kv_heads = 8, .window_size = 4096, .positions = 131072, .eps = 1e-6, .bos_id = 1, .eos_id = 2,
     .gguf = "llama", .gguf_dealt = true},
    {.model_type = "qwen2", .class_name = "Qwen2ForCausalLM",
     .names = &llama_names, .keys = &llama_keys, .activation = silu,
     .traits = {.qkv_bias = true},
     .window = MODEL_WINDOW_ASKED, .rope_theta = 10000, .partial = 1,
     .kv_heads = 32, .window_size = 4096, .positions = 32768, .eps = 1e-6,
     .bos_id = -1, .eos_id = -1,
     .gguf = "qwen2"},
    {.model_type = "qwen3", .class_name = "Qwen3ForCausalLM",
     .names = &llama_names, .keys = &llama_keys, .activation = silu,
     .traits = {.qk_norm = true}, .may_bias = true, .head_size = 128,
     .window = MODEL_WINDOW_ASKED, .rope_theta = 10000, .partial = 1,
     .kv_heads = 32, .window_size = 4096, .positions = 32768, .eps = 1e-6,
     .bos_id = -1, .eos_id = -1,
     .gguf = "qwen3"},
    {.model_type = "smollm3", .class_name = "SmolLM3ForCausalLM",
     .names = &llama_names, .keys = &llama_keys, .activation = silu,
     .may_bias = true, .may_bias_ffn = true, .tied = true, .nope = true,
     .window = MODEL_WINDOW_ASKED, .rope_theta = 2000000, .partial = 1,
     .kv_heads = 4, .positions = 32768, .eps = 1e-6, .bos_id = 128000, .eos_id = 128001,
     .gguf = "smollm3", .gguf_dealt = true},
    {.model_type = "phi3", .class_name = "Phi3ForCausalLM",
     .names = &phi3_names, .keys = &llama_keys, .activation = silu,
     .window = MODEL_WINDOW_ALWAYS, .rope_theta = 10000, .partial = 1, .may_turn_partly = true,
     .positions = 4096, .eps = 1e-5, .bos_id = 1, .eos_id = 32000,
     .gguf = "phi3", .gguf_window = true},
    {.model_type = "gemma2", .class_name = "Gemma2ForCausalLM",
     .names = &gemma_names, .keys = &gemma_keys, .activation = gelu_tanh,
     .traits = {.norm = MODEL_NORM_RMS_PLUS, .activation = MODEL_GEGLU_TANH,
                .post_norms = true, .scale_embeddings = true},
     .may_bias = true, .tied = true, .head_size = 256, .capped = true,
     .attention_softcap = 50, .logit_softcap = 30,
     .window = MODEL_WINDOW_MIXED, .window_pattern = 2, .rope_theta = 10000, .partial = 1,
     .kv_heads = 4, .window_size = 4096, .positions = 8192, .eps = 1e-6, .bos_id = 2, .eos_id = 1,
     .gguf = "gemma2", .gguf_window = true, .gguf_tied_only = true},
    {.model_type = "gemma3_text", .class_name = "Gemma3ForCausalLM",
     .names = &gemma_names, .keys = &gemma_keys, .activation = gelu_tanh,
     .traits = {.norm = MODEL_NORM_RMS_PLUS, .activation = MODEL_GEGLU_TANH, .qk_norm = true,
                .post_norms = true, .scale_embeddings = true},
     .may_bias = true, .tied = true, .head_size = 256, .capped = true,
     .window = MODEL_WINDOW_MIXED, .window_pattern = 6,
     .rope_theta = 1000000, .local_theta = 10000, .partial = 1,
     .kv_heads = 4, .window_size = 4096, .positions = 131072, .eps = 1e-6, .bos_id = 2, .eos_id = 1,
     .gguf = "gemma3", .gguf_window = true},
    {.model_type = "gpt2", .class_name = "GPT2LMHeadModel",
     .names = &gpt2_names, .keys = &gpt2_keys, .activation = gelu_new,
     .traits = {.norm = MODEL_NORM_LAYER, .activation = MODEL_GELU_TANH, .qkv_bias = true,
                .out_bias = true, .ffn_bias = true, .learned_positions = true},
     .tied = true, .plain_heads = true,
     .positions = 1024, .eps = 1e-5, .bos_id = 50256, .eos_id = 50256,
     .gguf = "gpt2"},
    {.model_type = "gpt_neox", .class_name = "GPTNeoXForCausalLM",
     .names = &neox_names, .keys = &neox_keys, .activation = gelu,
     .traits = {.norm = MODEL_NORM_LAYER, .activation = MODEL_GELU_EXACT, .qkv_bias = true,
                .out_bias = true, .ffn_bias = true, .parallel = true},
     .may_bias = true, .rope_theta = 10000, .partial = 0.25, .may_turn_partly = true,
     .plain_heads = true,
     .positions = 2048, .eps = 1e-5, .bos_id = 0, .eos_id = 2,
     .gguf = "gptneox", .gguf_tied_only = true},
};
/* clang-format on */

const struct model_arch *model_arch_find(const char *model_type)
{
    for (size_t i = 0; i < SP_COUNT(table); i++)
        if (strcmp(table[i].model_type, model_type) == 0)
            return &table[i];
    return NULL;
}

const struct model_arch *model_arch_find_gguf(const char *architecture)
{
    for (size_t i = 0; i < SP_COUNT(table); i++)
        if (strcmp(table[i].gguf, architecture) == 0)
            return &table[i];
    return NULL;
}

enum sp_err model_arch_refuse_gguf(const char *architecture, const char *what, struct sp_error *err)
{
    struct sp_buf list = SP_BUF_INIT;
    for (size_t i = 0; i < SP_COUNT(table); i++)
        if (model_arch_find_gguf(table[i].gguf) == &table[i])
            sp_buf_printf(&list, "%s%s", i ? ", " : "", table[i].gguf);
    enum sp_err rc = sp_fail(err, SP_EUNSUPPORTED,
                             "%s: metadata \"general.architecture\": \"%.40s\" is not supported; "
                             "supported: %s",
                             what, architecture, list.data);
    sp_buf_deinit(&list);
    return rc;
}

enum sp_err model_arch_refuse(const char *model_type, const char *what, struct sp_error *err)
{
    struct sp_buf list = SP_BUF_INIT;
    for (size_t i = 0; i < SP_COUNT(table); i++)
        sp_buf_printf(&list, "%s%s", i ? ", " : "", table[i].model_type);
    enum sp_err rc =
        sp_fail(err, SP_EUNSUPPORTED, "%s: model_type \"%.40s\" is not supported; supported: %s",
                what, model_type, list.data);
    sp_buf_deinit(&list);
    return rc;
}

/* config_fields: every field that a config.json may have. What is not here is refused by its name,
 * since it may change what a model computes. */
#include <string.h>

#include "common/base/mem.h"
#include "common/model/arch.h"

/* When a field is read; otherwise it has to be off (see is_off). */
enum rule {
    READ,          /* of every model */
    READ_ROPE,     /* of models that rotate */
    READ_LOCAL,    /* of those that rotate layers with a window in another way */
    READ_WINDOW,   /* of those that may have a window */
    READ_ASKED,    /* … only when they are told to */
    READ_MIXED,    /* … in some layers, by a pattern */
    READ_NOPE,     /* of those whose layers may not turn */
    READ_CAPPED,   /* of those with soft caps */
    READ_PARALLEL, /* of those whose residuals may be parallel */
    IGNORED,       /* leaves the numbers alone, whatever it says */
    OFF,           /* changes them, and is not built */
};

static const struct field {
    const char *name;
    enum rule rule;
} fields[] = {
    /* The model. Sizes, epsilon and activation stand under the names of struct model_keys. */
    {"model_type", READ},
    {"vocab_size", READ},
    {"num_key_value_heads", READ},
    {"head_dim", READ},
    {"initializer_range", READ},
    {"tie_word_embeddings", READ},
    {"attention_bias", READ},
    {"mlp_bias", READ},
    {"scale_attn_weights", READ},
    {"torch_dtype", READ},
    {"dtype", READ},
    {"bos_token_id", READ},
    {"eos_token_id", READ},
    {"pad_token_id", READ},
    {"layer_types", READ},
    {"rope_theta", READ_ROPE},
    {"rotary_emb_base", READ_ROPE},
    {"rotary_pct", READ_ROPE},
    {"partial_rotary_factor", READ_ROPE},
    {"rope_scaling", READ_ROPE},
    {"rope_parameters", READ_ROPE},
    {"original_max_position_embeddings", READ_ROPE},
    {"rope_local_base_freq", READ_LOCAL},
    {"sliding_window", READ_WINDOW},
    {"use_sliding_window", READ_ASKED},
    {"max_window_layers", READ_ASKED},
    {"sliding_window_pattern", READ_MIXED},
    {"_sliding_window_pattern", READ_MIXED},
    {"no_rope_layers", READ_NOPE},
    {"no_rope_layer_interval", READ_NOPE},
    {"attn_logit_softcapping", READ_CAPPED},
    {"final_logit_softcapping", READ_CAPPED},
    {"query_pre_attn_scalar", READ_CAPPED},
    {"use_parallel_residual", READ_PARALLEL},

    /* Who wrote it, and what for. */
    {"architectures", IGNORED},
    {"auto_map", IGNORED},
    {"custom_pipelines", IGNORED},
    {"transformers_version", IGNORED},
    {"transformers.js_config", IGNORED},
    {"unsloth_version", IGNORED},
    {"unsloth_fixed", IGNORED},
    {"is_llama_config", IGNORED},
    {"_name_or_path", IGNORED},
    {"_commit_hash", IGNORED},
    {"tokenizer_class", IGNORED},
    {"task_specific_params", IGNORED},
    {"finetuning_task", IGNORED},
    {"problem_type", IGNORED},
    {"keys_to_ignore_at_inference", IGNORED},
    /* How to run it: kernels, caches, what is returned. */
    {"_attn_implementation", IGNORED},
    {"_attn_implementation_autoset", IGNORED},
    {"attn_implementation", IGNORED},
    {"_flash_attn_2_enabled", IGNORED},
    {"use_cache", IGNORED},
    {"cache_implementation", IGNORED},
    {"gradient_checkpointing", IGNORED},
    {"chunk_size_feed_forward", IGNORED},
    {"pretraining_tp", IGNORED},
    {"reorder_and_upcast_attn", IGNORED},
    {"output_attentions", IGNORED},
    {"output_hidden_states", IGNORED},
    {"output_past", IGNORED},
    {"output_scores", IGNORED},
    {"return_dict", IGNORED},
    {"return_dict_in_generate", IGNORED},
    {"torchscript", IGNORED},
    {"tf_legacy_loss", IGNORED},
    {"use_bfloat16", IGNORED},
    /* Dropout, which neither transformers' eval() nor training here applies. */
    {"attention_dropout", IGNORED},
    {"attention_probs_dropout_prob", IGNORED},
    {"attn_pdrop", IGNORED},
    {"embd_pdrop", IGNORED},
    {"resid_pdrop", IGNORED},
    {"hidden_dropout", IGNORED},
    {"hidden_dropout_prob", IGNORED},
    {"classifier_dropout", IGNORED},
    /* Heads for other tasks. */
    {"id2label", IGNORED},
    {"label2id", IGNORED},
    {"num_labels", IGNORED},
    {"_num_labels", IGNORED},
    {"predict_special_tokens", IGNORED},
    {"summary_activation", IGNORED},
    {"summary_first_dropout", IGNORED},
    {"summary_proj_to_labels", IGNORED},
    {"summary_type", IGNORED},
    {"summary_use_proj", IGNORED},
    /* Old copies of other fields, which transformers does not read. */
    {"max_sequence_length", IGNORED},
    {"n_ctx", IGNORED},
    {"n_special", IGNORED},
    {"sliding_window_size", IGNORED},
    /* Generation, which the run's settings decide. */
    {"bad_words_ids", IGNORED},
    {"begin_suppress_tokens", IGNORED},
    {"decoder_start_token_id", IGNORED},
    {"diversity_penalty", IGNORED},
    {"do_sample", IGNORED},
    {"early_stopping", IGNORED},
    {"encoder_no_repeat_ngram_size", IGNORED},
    {"exponential_decay_length_penalty", IGNORED},
    {"forced_bos_token_id", IGNORED},
    {"forced_eos_token_id", IGNORED},
    {"length_penalty", IGNORED},
    {"max_length", IGNORED},
    {"min_length", IGNORED},
    {"no_repeat_ngram_size", IGNORED},
    {"num_beam_groups", IGNORED},
    {"num_beams", IGNORED},
    {"num_return_sequences", IGNORED},
    {"prefix", IGNORED},
    {"remove_invalid_values", IGNORED},
    {"repetition_penalty", IGNORED},
    {"sep_token_id", IGNORED},
    {"suppress_tokens", IGNORED},
    {"temperature", IGNORED},
    {"top_k", IGNORED},
    {"top_p", IGNORED},
    {"typical_p", IGNORED},

    /* What is not built; some families write these when they are off. */
    {"add_cross_attention", OFF},
    {"cross_attention_hidden_size", OFF},
    {"is_decoder", OFF},
    {"is_encoder_decoder", OFF},
    {"tie_encoder_decoder", OFF},
    {"alibi", OFF},
    {"use_alibi", OFF},
    {"altup_num_inputs", OFF},
    {"attention_chunk_size", OFF},
    {"attention_multiplier", OFF},
    {"attention_sinks", OFF},
    {"clip_qkv", OFF},
    {"embedding_multiplier", OFF},
    {"embedding_scale", OFF},
    {"full_attn_mod", OFF},
    {"interpolate_factor", OFF},
    {"kv_lora_rank", OFF},
    {"layer_norm_bias", OFF},
    {"lm_head_bias", OFF},
    {"logit_scale", OFF},
    {"logits_scaling", OFF},
    {"n_routed_experts", OFF},
    {"num_experts", OFF},
    {"num_kv_shared_layers", OFF},
    {"num_local_experts", OFF},
    {"pruned_heads", OFF},
    {"qkv_bias", OFF},
    {"quantization_config", OFF},
    {"residual_multiplier", OFF},
    {"rope_interleaved", OFF},
    {"scale_attn_by_inverse_layer_idx", OFF},
    {"use_bidirectional_attention", OFF},
    {"use_mrope", OFF},
    {"use_qk_norm", OFF},
};

static const struct field *find_field(const char *name)
{
    for (size_t i = 0; i < SP_COUNT(fields); i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static bool is_key(const struct model_keys *keys, const char *name)
{
    const char *const own[] = {keys->hidden,    keys->ffn, keys->layers,    keys->heads,
                               keys->positions, keys->eps, keys->activation};
    for (size_t i = 0; i < SP_COUNT(own); i++)
        if (strcmp(own[i], name) == 0)
            return true;
    return false;
}

static bool is_read(const struct model_arch *arch, enum rule rule)
{
    switch (rule) {
    case READ:
        return true;
    case READ_ROPE:
        return arch->rope_theta > 0;
    case READ_LOCAL:
        return arch->local_theta > 0;
    case READ_WINDOW:
        return arch->window != MODEL_WINDOW_NEVER;
    case READ_ASKED:
        return arch->window == MODEL_WINDOW_ASKED;
    case READ_MIXED:
        return arch->window == MODEL_WINDOW_MIXED;
    case READ_NOPE:
        return arch->nope;
    case READ_CAPPED:
        return arch->capped;
    case READ_PARALLEL:
        return arch->traits.parallel;
    case IGNORED:
    case OFF:
        break;
    }
    return false;
}

/* Says that a feature is not used: null, false, a factor of 0 or 1, an empty list. */
static bool is_off(const json_t *value)
{
    if (json_is_number(value))
        return json_number_value(value) == 0 || json_number_value(value) == 1;
    if (json_is_array(value) || json_is_object(value))
        return json_array_size(value) == 0 && json_object_size(value) == 0;
    return json_is_null(value) || json_is_false(value);
}

enum sp_err model_config_check_fields(const json_t *json, const struct model_arch *arch,
                                      const char *what, struct sp_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, name, value)
    {
        if (json_is_null(value) || is_key(arch->keys, name))
            continue;
        /* Gemma's is called otherwise; the old name is not read. */
        if (strcmp(name, "hidden_act") == 0 && strcmp(arch->keys->activation, name) != 0 &&
            arch->capped)
            continue;
        const struct field *field = find_field(name);
        if (!field)
            return sp_fail(err, SP_EUNSUPPORTED,
                           "%s: field \"%.80s\" is not known in a %s model: it may change what the "
                           "model computes; remove it if it does not",
                           what, name, arch->model_type);
        if (field->rule == IGNORED || is_read(arch, field->rule) || is_off(value))
            continue;
        return sp_fail(
            err, SP_EUNSUPPORTED, "%s: field \"%s\" is not supported in a %s model%s", what, name,
            arch->model_type,
            strcmp(name, "quantization_config") == 0 ? ": use an F32, F16 or BF16 checkpoint" : "");
    }
    return SP_OK;
}

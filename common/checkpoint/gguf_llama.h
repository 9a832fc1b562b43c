/* gguf_llama: the Llama architecture in GGUF's words and in Hugging Face's: metadata against
 * config.json, names of tensors, and the order of rows in the query and key projections.
 *
 * llama.cpp rotates neighbouring pairs of a head's elements, transformers element i together with
 * element i + C/2, so llama.cpp's converter (conversion/llama.py, `permute`) deals the rows of q
 * and k anew; reading undoes that. Plain data; any thread that owns it. */
#ifndef SPIN_CHECKPOINT_GGUF_LLAMA_H
#define SPIN_CHECKPOINT_GGUF_LLAMA_H

#include <jansson.h>

#include "common/checkpoint/gguf.h"

enum ckpt_rope { CKPT_ROPE_PLAIN, CKPT_ROPE_LINEAR, CKPT_ROPE_LLAMA3 };

struct ckpt_llama {
    int32_t vocab, hidden, ffn, layers, heads, kv_heads;
    int32_t head_size; /* C; even */
    int32_t context;   /* positions that the model was made for */
    double rms_eps, rope_theta;
    enum ckpt_rope rope;                     /* rope_scaling of config.json */
    double rope_factor, rope_low, rope_high; /* llama3: low_freq_factor, high_freq_factor */
    int32_t rope_context;                    /* llama3: original_max_position_embeddings */
    bool tied;                               /* the output matrix is the embedding table */
    int32_t bos_id, pad_id, unk_id;          /* -1: none */
    int32_t eos_ids[2], n_eos;               /* end of text, end of turn */
};

/* From the metadata and tensors of a file whose general.architecture is "llama". What has no place
 * in config.json or is not supported (experts, other rotations) is refused by its key. */
enum sp_err ckpt_llama_from_gguf(const struct ckpt_gguf *gguf, struct ckpt_llama *ret,
                                 struct sp_error *err) SP_MUST_USE;
/* From config.json (of model_type llama or mistral) and, if not NULL, generation_config.json. A
 * sliding window shorter than the context shortens the context: GGUF has no word for it here. */
enum sp_err ckpt_llama_from_config(const json_t *config, const json_t *generation, const char *what,
                                   struct ckpt_llama *ret, struct sp_error *err) SP_MUST_USE;
/* config.json and generation_config.json; new references. */
json_t *ckpt_llama_config(const struct ckpt_llama *llama, enum ckpt_dtype dtype);
json_t *ckpt_llama_generation(const struct ckpt_llama *llama);
/* The metadata of the architecture, all but the tokenizer's. file_type as in llama.cpp's
 * enum llama_ftype, name may be NULL. */
void ckpt_llama_put(const struct ckpt_llama *llama, const char *name, enum ckpt_gguf_type type,
                    struct ckpt_gguf_meta *meta);

struct ckpt_llama_tensor {
    char gguf[64]; /* "blk.0.attn_q.weight" */
    char hf[96];   /* "model.layers.0.self_attn.q_proj.weight" */
    int32_t dims;
    int64_t shape[2];
    int32_t permuted; /* heads among which the rows are dealt; 0: rows as they are */
};
/* All tensors of the model, in the order of the computation; malloc'd (free). */
void ckpt_llama_tensors(const struct ckpt_llama *llama, struct ckpt_llama_tensor **ret,
                        size_t *ret_count);
/* Rows of a q or k projection from transformers' order to llama.cpp's, or back with undo. */
void ckpt_llama_permute(const float *from, int64_t rows, int64_t columns, int32_t heads, bool undo,
                        float *to);
/* llama3: the C/2 divisors of the frequencies (tensor rope_freqs.weight). */
void ckpt_llama_rope_factors(const struct ckpt_llama *llama, float *to);

#endif

/* gguf_vocab: a tokenizer between GGUF metadata (tokenizer.ggml.…) and tokenizer.json, so that both
 * give the same ids. Two kinds: byte-level BPE ("gpt2", its way of cutting words named by
 * tokenizer.ggml.pre) and SentencePiece-style BPE ("llama", whose merges follow from scores). What
 * has no counterpart is refused by name. Plain data; any thread that owns it. */
#ifndef SPIN_CHECKPOINT_GGUF_VOCAB_H
#define SPIN_CHECKPOINT_GGUF_VOCAB_H

#include <jansson.h>

#include "common/checkpoint/gguf.h"

#define CKPT_VOCAB_MAX_EOS 8

/* What a tokenizer has to know of its model. */
struct ckpt_vocab {
    int32_t size;                               /* rows of the embedding table */
    int32_t context;                            /* positions that the model was made for */
    int32_t bos_id, pad_id, unk_id;             /* -1: none */
    int32_t eos_ids[CKPT_VOCAB_MAX_EOS], n_eos; /* every id that ends a response */
};

/* tokenizer.ggml.…_token_id, of a model with this many ids; size and context are set. */
enum sp_err ckpt_vocab_ids(const struct ckpt_gguf *gguf, int32_t size, int32_t context,
                           struct ckpt_vocab *ret, struct sp_error *err) SP_MUST_USE;

/* tokenizer.json and tokenizer_config.json (with the chat template); new references. */
enum sp_err ckpt_vocab_from_gguf(const struct ckpt_gguf *gguf, const struct ckpt_vocab *model,
                                 json_t **ret_tokenizer, json_t **ret_config,
                                 struct sp_error *err) SP_MUST_USE;

/* Adds the metadata of a tokenizer. tokenizer_config may be NULL; chat_template overrides its own
 * (chat_template.jinja) or is NULL. *ret_inexact is the number of tokens for which merges of the
 * tokenizer leave out a way that llama.cpp takes: 0 for those that come from SentencePiece. */
enum sp_err ckpt_vocab_put(const json_t *tokenizer, const json_t *tokenizer_config,
                           const char *chat_template, const struct ckpt_vocab *model,
                           struct ckpt_gguf_meta *meta, size_t *ret_inexact,
                           struct sp_error *err) SP_MUST_USE;

#endif

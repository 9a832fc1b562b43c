/* gguf_model: a model between GGUF's words and Hugging Face's: metadata against config.json, names
 * of tensors, and what llama.cpp's converter does to their numbers (conversion/ in its repository):
 *
 *   - queries and keys of families that are rotated by neighbouring pairs (Llama, SmolLM3) have
 *     their rows dealt anew, transformers' element i of a head beside element i + C/2;
 *   - Gemma's norms are stored plus one;
 *   - GPT-2's matrices are turned, GPT-NeoX's fused rows go by query, key, value, not by head.
 *
 * Whatever has no place on the other side is refused by its name. Plain data; any thread. */
#ifndef SPIN_MODEL_GGUF_MODEL_H
#define SPIN_MODEL_GGUF_MODEL_H

#include "common/checkpoint/gguf.h"
#include "common/checkpoint/gguf_vocab.h"
#include "common/model/config.h"
#include "common/model/model.h"

/* The model that a file describes, its tensors checked for presence and shape. dtype is F32; ids of
 * special tokens are those of the metadata. */
enum sp_err model_gguf_read(const struct ckpt_gguf *gguf, struct model_config *ret,
                            struct sp_error *err) SP_MUST_USE;
/* The metadata of a model, all but the tokenizer's. `what` names the model in messages, name is
 * general.name or NULL, type what the matrices are stored as. A window that GGUF has no word for
 * shortens the context instead: below it nothing is left out. */
enum sp_err model_gguf_put(const struct model_config *config, const char *what, const char *name,
                           enum ckpt_gguf_type type, struct ckpt_gguf_meta *meta,
                           struct sp_error *err) SP_MUST_USE;
/* What the tokenizer has to know. */
struct ckpt_vocab model_gguf_vocab(const struct model_config *config);

#define MODEL_GGUF_NAME_BYTES 64

struct model_gguf_tensor {
    char name[MODEL_GGUF_NAME_BYTES]; /* in the GGUF file: "blk.0.attn_q.weight" */
    struct model_tensor tensor;       /* its name and form in a checkpoint directory */
    int32_t dims;
    int64_t shape[2];  /* in the GGUF file */
    int64_t stored[2]; /* in a checkpoint directory */
    int32_t dealt;     /* heads among which the rows are dealt; 0: rows as they are */
    bool plus_one;
};
/* All tensors of a model, in the order of the computation; malloc'd (free). */
void model_gguf_tensors(const struct model_config *config, struct model_gguf_tensor **ret,
                        size_t *ret_count);
/* A tensor's numbers between both orders. All three are of its size and apart; `from` is spoilt. */
void model_gguf_to_stored(const struct model_gguf_tensor *tensor, float *from, float *spare,
                          float *to);
void model_gguf_from_stored(const struct model_gguf_tensor *tensor, float *from, float *spare,
                            float *to);

/* Tables that GGUF has for rotations, and config.json as numbers: their count (0 to 2), the name of
 * one, its elements. */
int32_t model_gguf_tables(const struct model_config *config);
const char *model_gguf_table_name(const struct model_config *config, int32_t table);
int32_t model_gguf_table_length(const struct model_config *config);
void model_gguf_table(const struct model_config *config, int32_t table, float *to);

#endif

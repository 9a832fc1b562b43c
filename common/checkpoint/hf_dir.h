/* hf_dir: a checkpoint in Hugging Face layout: config.json, model.safetensors (or
 * model.safetensors.index.json and its shards), generation_config.json, tokenizer files.
 *
 * An open checkpoint is read-only and may be used by any number of threads; opening blocks on the
 * disk. Names may be aliases: a `__metadata__` entry "a": "b" of a weight file, where one of both
 * is a stored tensor, makes the other name find it. */
#ifndef SPIN_CHECKPOINT_HF_DIR_H
#define SPIN_CHECKPOINT_HF_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/checkpoint/safetensors.h"

/* ---- reading ---- */

/* What is said of a directory that has nothing but an adapter. */
#define CKPT_ADAPTER_ALONE                                                                         \
    "an adapter of peft without its base model; merge both first (merge_and_unload) and save the " \
    "whole"

struct ckpt;
/* Opens the weights; config.json need not exist for this. Messages start with "checkpoint DIR: ".
 */
enum sp_err ckpt_open(const char *dir, struct ckpt **ret, struct sp_error *err) SP_MUST_USE;
void ckpt_close(struct ckpt *ckpt); /* NULL is fine */
const char *ckpt_dir(const struct ckpt *ckpt);
size_t ckpt_count(const struct ckpt *ckpt);                           /* stored tensors */
const struct ckpt_tensor *ckpt_at(const struct ckpt *ckpt, size_t i); /* sorted by name */
/* By name or alias; NULL when absent. */
const struct ckpt_tensor *ckpt_find(const struct ckpt *ckpt, const char *name);
/* Number of weight files, and bytes and elements of all stored tensors (aliases not counted). */
size_t ckpt_shards(const struct ckpt *ckpt);
uint64_t ckpt_weight_bytes(const struct ckpt *ckpt);
uint64_t ckpt_parameters(const struct ckpt *ckpt);

/* SP_ENOTFOUND when there is no such tensor; SP_EFORMAT when it has another shape:
 *     checkpoint DIR: tensor model.norm.weight: shape [512], expected [576] */
enum sp_err ckpt_check_shape(const struct ckpt *ckpt, const char *name, int32_t dims,
                             const int64_t *shape, struct sp_error *err) SP_MUST_USE;
/* Converts a tensor (F32, F16, BF16 or F64) of exactly this shape into `to` (as many floats as the
 * product of the shape). Fails as ckpt_check_shape does. */
enum sp_err ckpt_read_f32(const struct ckpt *ckpt, const char *name, int32_t dims,
                          const int64_t *shape, float *to, struct sp_error *err) SP_MUST_USE;
/* Any tensor to fp32, no shape asked. */
enum sp_err ckpt_tensor_to_f32(const struct ckpt_tensor *tensor, float *to,
                               struct sp_error *err) SP_MUST_USE;

/* ---- writing ---- */

#define CKPT_SHARD_BYTES (5000000000u) /* tensors above this in sum are split into shards */

struct ckpt_save_options {
    enum ckpt_dtype dtype;        /* CKPT_F32 (zero value), CKPT_F16 or CKPT_BF16 */
    const char *template_dir;     /* its non-weight checkpoint files are copied; NULL: none */
    const char *config_json;      /* written as config.json in place of the template's; or NULL */
    const struct ckpt_meta *meta; /* for __metadata__, beside "format": "pt"; may hold aliases */
    size_t meta_count;
    uint64_t shard_bytes; /* 0: CKPT_SHARD_BYTES */
};

/* Writes a complete checkpoint into a temporary directory beside `dir`, fsyncs everything and
 * renames it into place: `dir` is never visible half-written. SP_EEXIST when `dir` exists (an empty
 * directory is replaced). Same input → same bytes. config.json's torch_dtype (or dtype), where it
 * has one, is set to what is stored. */
enum sp_err ckpt_save(const char *dir, const struct ckpt_array *arrays, size_t count,
                      const struct ckpt_save_options *options, struct sp_error *err) SP_MUST_USE;

/* ---- files ---- */

/* The file names (relative, sorted, NULL-terminated; free with ckpt_file_list_free) that make up
 * the checkpoint in `dir`: weights, and those of config.json, generation_config.json,
 * tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json,
 * chat_template.jinja, … that exist. Anything else in the directory is not part of it.
 * Symbolic links are followed. with_weights false: the non-weight files only. */
enum sp_err ckpt_file_list(const char *dir, bool with_weights, char ***ret,
                           struct sp_error *err) SP_MUST_USE;
void ckpt_file_list_free(char **files); /* NULL is fine */

#endif

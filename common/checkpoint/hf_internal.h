/* hf_internal: what the files of hf_dir share. Not for other folders. */
#ifndef SPIN_CHECKPOINT_HF_INTERNAL_H
#define SPIN_CHECKPOINT_HF_INTERNAL_H

#include <jansson.h>

#include "common/base/err.h"

#define CKPT_SINGLE_FILE "model.safetensors"
#define CKPT_INDEX_FILE "model.safetensors.index.json"

/* The weight files of `dir`, sorted, NULL-terminated (free with ckpt_file_list_free):
 * model.safetensors if it exists, else the shards that the index names. *ret_weight_map is the
 * index's name → file object (a new reference), or NULL without an index. */
enum sp_err ckpt_weight_files(const char *dir, char ***ret, json_t **ret_weight_map,
                              struct sp_error *err) SP_MUST_USE;

#endif

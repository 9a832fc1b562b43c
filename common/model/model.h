/* model: the weights of a transformer as one block of parameters, with an optional block of
 * gradients of the same layout; both of the backend's `weights` type.
 *
 * Query, key and value matrices of a layer lie side by side in the block, as do gate and up, so
 * that each trio and pair is one product; the list of tensors names the parts as Hugging Face does.
 * Owned by one compute thread, the one that calls the backend. Loading and saving block on the
 * disk. */
#ifndef SPIN_MODEL_MODEL_H
#define SPIN_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/config.h"
#include "common/tensor/backend.h"

#define MODEL_TENSOR_NAME_BYTES 96

/* How a tensor lies in files, where that isn't as in the block. */
enum model_storage {
    MODEL_STORED_PLAIN = 0,
    MODEL_STORED_TRANSPOSED, /* (cols, rows) */
    MODEL_STORED_BY_HEAD,    /* rows by head, then query, key, value; here the other way round */
};

/* A named part of the block. */
struct model_tensor {
    char name[MODEL_TENSOR_NAME_BYTES]; /* "model.layers.0.self_attn.q_proj.weight" */
    size_t offset;                      /* of its first element in the block, in elements */
    int32_t rows;                       /* of a matrix; the length of a vector */
    int32_t cols;                       /* of a matrix; 0: a vector */
    enum model_storage storage;
    int32_t parts_of;  /* heads, of MODEL_STORED_BY_HEAD */
    float first_value; /* of a vector's elements in a new model */
};

struct model;

/* Reads a Hugging Face directory: F32, F16 and BF16 tensors become fp32 exactly. A missing tensor,
 * a wrong shape or a value that is not finite is SP_EFORMAT and names the tensor. Extra tensors
 * that Llama checkpoints are known to carry (rotary tables) are passed over, others refused. */
enum sp_err model_open(struct tn_backend *backend, const char *dir, struct model **ret,
                       struct sp_error *err) SP_MUST_USE;
/* That a checkpoint is what its configuration describes: SP_EUNSUPPORTED names the first tensor
 * that there is no place for, SP_EFORMAT one that is missing, has another shape, or is an output
 * matrix beside a table that should be the same. Values are not looked at otherwise. */
struct ckpt;
enum sp_err model_check_tensors(const struct model_config *config, const struct ckpt *ckpt,
                                struct sp_error *err) SP_MUST_USE;
#define MODEL_FILE_NAME_BYTES (MODEL_TENSOR_NAME_BYTES + 32)
/* What the checkpoint calls this tensor; the tensor's own name where it isn't there. `other` may
 * hold the answer. */
const char *model_file_name(const struct model_config *config, const struct ckpt *ckpt,
                            const struct model_tensor *tensor, char other[MODEL_FILE_NAME_BYTES]);
/* Random weights: N(0, init_std²) for matrices, 1 for norms, as transformers initializes a model.
 * Element i of tensor t is a pure function of (seed, t, i): SP_STREAM_INIT. */
enum sp_err model_new(struct tn_backend *backend, const struct model_config *config, uint64_t seed,
                      struct model **ret, struct sp_error *err) SP_MUST_USE;
/* The same for measurements, in seconds where that takes minutes: the matrices hold some of those
 * numbers over and over. */
enum sp_err model_new_quickly(struct tn_backend *backend, const struct model_config *config,
                              uint64_t seed, struct model **ret, struct sp_error *err) SP_MUST_USE;
void model_free(struct model *model); /* NULL is fine */

/* Writes a Hugging Face directory, complete and durable or not at all: weights in `dtype`
 * (round to nearest even), config.json and, when template_dir is not NULL, a copy of the tokenizer
 * and generation files found there. template_dir's config.json is kept but for its dtype.
 * SP_ENUMERIC names a tensor that isn't finite in this dtype. */
enum sp_err model_save(struct model *model, const char *dir, enum tn_dtype dtype,
                       const char *template_dir, struct sp_error *err) SP_MUST_USE;

const struct model_config *model_get_config(const struct model *model);
struct tn_backend *model_backend(const struct model *model);

/* The block. n counts elements; between tensors lie a few that are zero and stay zero. */
void *model_params(struct model *model, size_t *ret_n);
/* Gradients: made (zero) on the first call of model_enable_grads; NULL before. */
enum sp_err model_enable_grads(struct model *model, struct sp_error *err) SP_MUST_USE;
void *model_grads(struct model *model);
void model_zero_grads(struct model *model);

/* Tensors in the order of the block; the table belongs to the model. A tied output matrix is not
 * listed twice. */
const struct model_tensor *model_tensors(const struct model *model, int32_t *ret_n);
/* A tensor's elements between the order of the block and that of files; `from` and `to` apart. */
void model_tensor_to_file(const struct model_tensor *tensor, const float *from, float *to);
void model_tensor_from_file(const struct model_tensor *tensor, const float *from, float *to);
const struct model_tensor *model_find_tensor(const struct model *model, const char *name);

#endif

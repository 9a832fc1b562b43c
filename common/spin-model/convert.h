/* convert: what the directions of `spin-model convert` share. One thread. */
#ifndef SPIN_SPIN_MODEL_CONVERT_H
#define SPIN_SPIN_MODEL_CONVERT_H

#include "common/base/progress.h"
#include "common/checkpoint/hf_dir.h"
#include "common/model/gguf_model.h"
#include "common/spin-model/tool.h"

/* The work of one conversion. Zeroed at first; convert_deinit frees what is set. */
struct convert {
    const struct tool *tool;
    struct ckpt_gguf *gguf; /* what is read: one of both */
    struct ckpt *ckpt;
    struct model_config config;
    struct model_gguf_tensor *tensors; /* of the model, where names change */
    struct ckpt_array *arrays;         /* what is written, in order */
    struct convert_source *sources;    /* one for each array */
    size_t count;
    float *scratch; /* twice the largest tensor that lies otherwise in GGUF */
    struct sp_progress *progress;
    uint64_t done;  /* elements */
    size_t inexact; /* tokens that llama.cpp may merge in other ways */
    /* With --held-out: mean log-probability of a token, in what is read and what is written. */
    double before, after;
    uint64_t scored; /* tokens */
};

/* Where an array's numbers come from, and how its rows lie. */
struct convert_source {
    struct convert *convert;
    const struct ckpt_gguf_tensor *quantized; /* one of these three */
    const struct ckpt_tensor *tensor;
    bool is_table; /* of the rotation: table */
    int32_t table;
    const struct model_gguf_tensor *changed; /* lies otherwise on the other side; or NULL */
    double largest;                          /* what the type that is written can hold */
    const char *type;                        /* its name */
};

/* The tensor where its numbers change between GGUF and a directory, else NULL. */
const struct model_gguf_tensor *convert_changed(const struct model_gguf_tensor *tensor);
/* Adds an array that is filled when it is written. */
void convert_add(struct convert *convert, const char *name, int32_t dims, const int64_t *shape,
                 struct convert_source source);
/* Room for `count` arrays, before the first one is added. */
void convert_reserve(struct convert *convert, size_t count);
/* After the last one: scratch memory and the progress bar. */
enum sp_err convert_ready(struct convert *convert, struct sp_error *err) SP_MUST_USE;
void convert_deinit(struct convert *convert);

/* The largest number of a type that is written. */
double convert_largest(enum ckpt_dtype dtype);

/* A checkpoint directory to a GGUF file; the directory is open. *ret_type is what the matrices are
 * stored as. */
enum sp_err convert_to_gguf(struct convert *convert, enum ckpt_gguf_type *ret_type,
                            struct sp_error *err) SP_MUST_USE;

#endif

/* safetensors: one weight file, memory-mapped for reading, streamed for writing.
 * Format: https://github.com/huggingface/safetensors#format : an 8-byte little-endian header
 * length, a JSON object, then the tensors' bytes, back to back with no holes.
 *
 * Reading trusts nothing: the header's length against SP_MAX_SAFETENSORS_HEADER and the file, every
 * dtype, shape product (overflow), offset, overlap, hole and duplicate name are checked at open.
 * An open file is read-only and may be used by any number of threads. Opening blocks on the disk;
 * tensor bytes come in by page faults. */
#ifndef SPIN_CHECKPOINT_SAFETENSORS_H
#define SPIN_CHECKPOINT_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"

/* name, as written in files, bytes of an element */
#define CKPT_DTYPE_LIST(X)                                                                         \
    X(CKPT_F32, "F32", 4)                                                                          \
    X(CKPT_F16, "F16", 2)                                                                          \
    X(CKPT_BF16, "BF16", 2)                                                                        \
    X(CKPT_F64, "F64", 8)                                                                          \
    X(CKPT_BOOL, "BOOL", 1)                                                                        \
    X(CKPT_U8, "U8", 1)                                                                            \
    X(CKPT_I8, "I8", 1)                                                                            \
    X(CKPT_F8_E4M3, "F8_E4M3", 1)                                                                  \
    X(CKPT_F8_E5M2, "F8_E5M2", 1)                                                                  \
    X(CKPT_I16, "I16", 2)                                                                          \
    X(CKPT_U16, "U16", 2)                                                                          \
    X(CKPT_I32, "I32", 4)                                                                          \
    X(CKPT_U32, "U32", 4)                                                                          \
    X(CKPT_I64, "I64", 8)                                                                          \
    X(CKPT_U64, "U64", 8)

#define CKPT_DTYPE_ENUM(name, text, bytes) name,
enum ckpt_dtype { CKPT_DTYPE_LIST(CKPT_DTYPE_ENUM) };
#undef CKPT_DTYPE_ENUM

const char *ckpt_dtype_name(enum ckpt_dtype dtype); /* "BF16"; static */
size_t ckpt_dtype_bytes(enum ckpt_dtype dtype);
/* Accepts the names of files ("BF16") and of torch ("bfloat16", "float32", "fp16"), in any case. */
enum sp_err ckpt_dtype_parse(const char *name, enum ckpt_dtype *ret,
                             struct sp_error *err) SP_MUST_USE;

struct ckpt_tensor {
    const char *name;                  /* borrowed from the file or checkpoint */
    enum ckpt_dtype dtype;             /* as stored */
    int32_t dims;                      /* 0 to SP_MAX_TENSOR_DIMS; 0 is a scalar */
    int64_t shape[SP_MAX_TENSOR_DIMS]; /* row-major, outermost first */
    size_t count;                      /* elements */
    size_t bytes;                      /* count × element */
    const uint8_t *data;               /* little-endian, mapped, borrowed; may be unaligned */
};

struct ckpt_meta {
    const char *key;
    const char *value;
};

/* ---- reading ---- */

struct ckpt_st;
/* SP_EFORMAT with the path, the tensor and what is wrong. */
enum sp_err ckpt_st_open(const char *path, struct ckpt_st **ret, struct sp_error *err) SP_MUST_USE;
/* The same over bytes that the caller keeps alive; `what` names them in messages. */
enum sp_err ckpt_st_open_memory(const uint8_t *data, size_t length, const char *what,
                                struct ckpt_st **ret, struct sp_error *err) SP_MUST_USE;
void ckpt_st_close(struct ckpt_st *st); /* NULL is fine */
size_t ckpt_st_count(const struct ckpt_st *st);
const struct ckpt_tensor *ckpt_st_at(const struct ckpt_st *st, size_t index); /* sorted by name */
const struct ckpt_tensor *ckpt_st_find(const struct ckpt_st *st, const char *name); /* or NULL */
size_t ckpt_st_meta_count(const struct ckpt_st *st); /* entries of __metadata__ */
struct ckpt_meta ckpt_st_meta_at(const struct ckpt_st *st, size_t index); /* sorted by key */
const char *ckpt_st_meta(const struct ckpt_st *st, const char *key);      /* or NULL */

/* ---- writing ---- */

struct ckpt_array;
/* Writes all numbers of the array to `to`. */
typedef enum sp_err (*ckpt_fill_fn)(void *context, const struct ckpt_array *array, float *to,
                                    struct sp_error *err);

/* A named fp32 array: in the caller's memory, or made when it is its turn to be written, so that no
 * more than the largest is in memory at once. */
struct ckpt_array {
    const char *name;
    int32_t dims;
    int64_t shape[SP_MAX_TENSOR_DIMS];
    const float *data; /* row-major, as many as the product of shape; not used where fill is set */
    ckpt_fill_fn fill; /* or NULL */
    void *fill_context;
};

/* Same arrays (in any order), dtype and metadata → same bytes: tensors are stored sorted by name,
 * the header is compact JSON with sorted keys, padded with spaces so that the data starts at a
 * multiple of 64. dtype: CKPT_F32, CKPT_F16 or CKPT_BF16 (round to nearest even).
 * The file is created (O_EXCL), written and fsynced; its directory entry is the caller's to make
 * durable. On failure the partial file is removed. */
enum sp_err ckpt_st_write(const char *path, const struct ckpt_array *arrays, size_t count,
                          enum ckpt_dtype dtype, const struct ckpt_meta *meta, size_t meta_count,
                          struct sp_error *err) SP_MUST_USE;

#endif

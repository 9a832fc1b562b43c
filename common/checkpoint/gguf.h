/* gguf: one model file in the format of llama.cpp, memory-mapped for reading, streamed for writing.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md , versions 2 and 3, little-
 * endian: a header, metadata (key, type, value), the tensors' names, shapes, types and places, then
 * their bytes. Quantized types hold blocks of 32 or 256 elements with common scales.
 *
 * Reading trusts nothing: version, counts, lengths of strings and arrays, alignment, shape products
 * (overflow), types, offsets, overlaps, and duplicate keys and names are checked at open.
 * A model split into files NAME-00001-of-0000N.gguf, … opens by the first of them, as one.
 * An open file is read-only and may be used by any number of threads. Opening blocks on the disk;
 * tensor bytes come in by page faults. */
#ifndef SPIN_CHECKPOINT_GGUF_H
#define SPIN_CHECKPOINT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/checkpoint/safetensors.h"

/* name, number in the file, as people write it, elements of a block, bytes of a block */
#define CKPT_GGUF_TYPE_LIST(X)                                                                     \
    X(CKPT_GGUF_F32, 0, "F32", 1, 4)                                                               \
    X(CKPT_GGUF_F16, 1, "F16", 1, 2)                                                               \
    X(CKPT_GGUF_Q4_0, 2, "Q4_0", 32, 18)                                                           \
    X(CKPT_GGUF_Q4_1, 3, "Q4_1", 32, 20)                                                           \
    X(CKPT_GGUF_Q5_0, 6, "Q5_0", 32, 22)                                                           \
    X(CKPT_GGUF_Q5_1, 7, "Q5_1", 32, 24)                                                           \
    X(CKPT_GGUF_Q8_0, 8, "Q8_0", 32, 34)                                                           \
    X(CKPT_GGUF_Q2_K, 10, "Q2_K", 256, 84)                                                         \
    X(CKPT_GGUF_Q3_K, 11, "Q3_K", 256, 110)                                                        \
    X(CKPT_GGUF_Q4_K, 12, "Q4_K", 256, 144)                                                        \
    X(CKPT_GGUF_Q5_K, 13, "Q5_K", 256, 176)                                                        \
    X(CKPT_GGUF_Q6_K, 14, "Q6_K", 256, 210)                                                        \
    X(CKPT_GGUF_IQ4_NL, 20, "IQ4_NL", 32, 18)                                                      \
    X(CKPT_GGUF_BF16, 30, "BF16", 1, 2)

#define CKPT_GGUF_TYPE_ENUM(name, number, text, elements, bytes) name = (number),
enum ckpt_gguf_type { CKPT_GGUF_TYPE_LIST(CKPT_GGUF_TYPE_ENUM) };
#undef CKPT_GGUF_TYPE_ENUM

#define CKPT_GGUF_MAX_BLOCK 256 /* elements of the largest block */

const char *ckpt_gguf_type_name(enum ckpt_gguf_type type); /* "Q4_K"; static */
size_t ckpt_gguf_block_elements(enum ckpt_gguf_type type); /* 1 where not quantized */
size_t ckpt_gguf_block_bytes(enum ckpt_gguf_type type);

struct ckpt_gguf_tensor {
    const char *name; /* borrowed from the file */
    enum ckpt_gguf_type type;
    int32_t dims;                      /* 1 to 4 */
    int64_t shape[SP_MAX_TENSOR_DIMS]; /* row-major, outermost first (the file has it reversed) */
    size_t count;                      /* elements */
    size_t bytes;                      /* as stored */
    const uint8_t *data;               /* mapped, borrowed; aligned as the file says */
};

/* A string of the file: not terminated, well-formed UTF-8 without NUL. */
struct ckpt_gguf_text {
    const char *data;
    size_t length;
};

/* ---- reading ---- */

struct ckpt_gguf;
/* SP_EFORMAT, SP_ELIMIT, SP_EVERSION or SP_EUNSUPPORTED with the path, the field and what is wrong.
 */
enum sp_err ckpt_gguf_open(const char *path, struct ckpt_gguf **ret,
                           struct sp_error *err) SP_MUST_USE;
/* The same over bytes that the caller keeps alive; `what` names them in messages. */
enum sp_err ckpt_gguf_open_memory(const uint8_t *data, size_t length, const char *what,
                                  struct ckpt_gguf **ret, struct sp_error *err) SP_MUST_USE;
void ckpt_gguf_close(struct ckpt_gguf *gguf); /* NULL is fine */
const char *ckpt_gguf_path(const struct ckpt_gguf *gguf);
size_t ckpt_gguf_count(const struct ckpt_gguf *gguf);
const struct ckpt_gguf_tensor *ckpt_gguf_at(const struct ckpt_gguf *gguf, size_t i); /* by name */
const struct ckpt_gguf_tensor *ckpt_gguf_find(const struct ckpt_gguf *gguf, const char *name);

/* Metadata. An absent key is SP_ENOTFOUND, another type or a value out of range SP_EFORMAT; every
 * message names file and key. Any integer type is accepted where an integer is asked, any number
 * where a real is. */
size_t ckpt_gguf_key_count(const struct ckpt_gguf *gguf);
const char *ckpt_gguf_key(const struct ckpt_gguf *gguf, size_t i); /* sorted */
bool ckpt_gguf_has(const struct ckpt_gguf *gguf, const char *key);
enum sp_err ckpt_gguf_i64(const struct ckpt_gguf *gguf, const char *key, int64_t min, int64_t max,
                          int64_t *ret, struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_f64(const struct ckpt_gguf *gguf, const char *key, double *ret,
                          struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_bool(const struct ckpt_gguf *gguf, const char *key, bool *ret,
                           struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_text(const struct ckpt_gguf *gguf, const char *key,
                           struct ckpt_gguf_text *ret, struct sp_error *err) SP_MUST_USE;
/* The same, where absence leaves *ret as it is and succeeds. */
enum sp_err ckpt_gguf_opt_i64(const struct ckpt_gguf *gguf, const char *key, int64_t min,
                              int64_t max, int64_t *ret, struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_opt_f64(const struct ckpt_gguf *gguf, const char *key, double *ret,
                              struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_opt_bool(const struct ckpt_gguf *gguf, const char *key, bool *ret,
                               struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_opt_text(const struct ckpt_gguf *gguf, const char *key,
                               struct ckpt_gguf_text *ret, struct sp_error *err) SP_MUST_USE;
/* Arrays, malloc'd (free). */
enum sp_err ckpt_gguf_texts(const struct ckpt_gguf *gguf, const char *key,
                            struct ckpt_gguf_text **ret, size_t *ret_count,
                            struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_ints(const struct ckpt_gguf *gguf, const char *key, int64_t **ret,
                           size_t *ret_count, struct sp_error *err) SP_MUST_USE;
enum sp_err ckpt_gguf_reals(const struct ckpt_gguf *gguf, const char *key, double **ret,
                            size_t *ret_count, struct sp_error *err) SP_MUST_USE;

/* ---- numbers ---- */

/* Blocks to fp32, bit for bit what llama.cpp's `gguf` package computes. from: blocks × block bytes,
 * unaligned is fine; to: blocks × block elements. */
void ckpt_gguf_to_f32(enum ckpt_gguf_type type, const uint8_t *from, size_t blocks, float *to);
/* fp32 to F32, F16, BF16 (round to nearest even) or Q8_0 (each block's scale is its largest
 * magnitude / 127, as in llama.cpp); an assert for another type. */
void ckpt_gguf_from_f32(enum ckpt_gguf_type type, const float *from, size_t blocks, uint8_t *to);

/* ---- writing ---- */

/* Metadata in the form of the file, in the order of the calls. Start from CKPT_GGUF_META_INIT. */
struct ckpt_gguf_meta {
    struct sp_buf bytes;
    uint64_t count;
};
#define CKPT_GGUF_META_INIT                                                                        \
    {                                                                                              \
        {0}, 0                                                                                     \
    }
void ckpt_gguf_meta_deinit(struct ckpt_gguf_meta *meta);
void ckpt_gguf_put_u32(struct ckpt_gguf_meta *meta, const char *key, uint32_t value);
void ckpt_gguf_put_f32(struct ckpt_gguf_meta *meta, const char *key, float value);
void ckpt_gguf_put_bool(struct ckpt_gguf_meta *meta, const char *key, bool value);
void ckpt_gguf_put_text(struct ckpt_gguf_meta *meta, const char *key, const char *value);
void ckpt_gguf_put_texts(struct ckpt_gguf_meta *meta, const char *key,
                         const struct ckpt_gguf_text *values, size_t count);
void ckpt_gguf_put_i32s(struct ckpt_gguf_meta *meta, const char *key, const int32_t *values,
                        size_t count);
void ckpt_gguf_put_f32s(struct ckpt_gguf_meta *meta, const char *key, const float *values,
                        size_t count);

/* Writes version 3 with the tensors in the given order, tensor i as types[i] (F32, F16, BF16 or
 * Q8_0, whose rows must be multiples of 32). Same input → same bytes. The file appears whole under
 * its name, durable, or not at all; SP_EEXIST when it is there. */
enum sp_err ckpt_gguf_write(const char *path, const struct ckpt_gguf_meta *meta,
                            const struct ckpt_array *arrays, const enum ckpt_gguf_type *types,
                            size_t count, struct sp_error *err) SP_MUST_USE;

#endif

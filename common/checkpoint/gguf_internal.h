/* gguf_internal: what the files of gguf share. Not for other folders. */
#ifndef SPIN_CHECKPOINT_GGUF_INTERNAL_H
#define SPIN_CHECKPOINT_GGUF_INTERNAL_H

#include "common/base/fs.h"
#include "common/checkpoint/gguf.h"

#define GGUF_VERSION 3
#define GGUF_DEFAULT_ALIGNMENT 32

/* Types of metadata values, as numbered in the file. */
enum gguf_value {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_VALUES,
};

struct gguf_entry {
    char *key;            /* owned */
    enum gguf_value type; /* of the value or, in an array, of its elements */
    bool array;
    uint64_t count;      /* elements; 1 where it is no array */
    const uint8_t *data; /* first element, in the file; all of them lie inside it */
};

struct ckpt_gguf {
    char *what;                       /* path, for messages */
    struct sp_map map;                /* of the file; length 0 when opened from memory */
    struct gguf_entry *entries;       /* sorted by key */
    size_t entry_count;               /* those that are filled in */
    struct ckpt_gguf_tensor *tensors; /* sorted by name; names are owned */
    size_t count;
    struct ckpt_gguf **parts; /* the files behind the first one; their tensors stand here */
    size_t part_count;
};

/* One file, whether or not it is a part. */
enum sp_err gguf_open_file(const char *path, struct ckpt_gguf **ret,
                           struct sp_error *err) SP_MUST_USE;
/* Sorts the tensors by name; none may be there twice. */
enum sp_err gguf_sort_tensors(struct ckpt_gguf *g, struct sp_error *err) SP_MUST_USE;
/* Opens the other parts of a model whose first part this is; does nothing for a whole one. */
enum sp_err gguf_join(struct ckpt_gguf *g, struct sp_error *err) SP_MUST_USE;

/* Bytes of an element; 0 for strings and arrays. */
size_t gguf_value_bytes(enum gguf_value type);
const char *gguf_value_name(enum gguf_value type);
uint64_t gguf_load_u64(const uint8_t *from); /* little-endian */
uint32_t gguf_load_u32(const uint8_t *from);
const struct gguf_entry *gguf_find(const struct ckpt_gguf *g, const char *key); /* or NULL */
/* false where the type is no integer, or the value does not fit. */
bool gguf_load_i64(enum gguf_value type, const uint8_t *from, int64_t *ret);

/* A field that a file should have and lacks makes the file malformed; it is no missing file. */
static inline enum sp_err gguf_missing(enum sp_err rc, struct sp_error *err)
{
    if (rc != SP_ENOTFOUND)
        return rc;
    if (err != NULL)
        err->code = SP_EFORMAT;
    return SP_EFORMAT;
}

#endif

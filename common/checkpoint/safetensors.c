#include "common/checkpoint/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"

#define PREFIX_BYTES 8
/* Punctuation of the most punctuated tensor entry, with room: bounds what a hostile header makes
 * the JSON parser allocate. */
#define MARKS_PER_TENSOR 32

struct ckpt_st {
    char *what;                  /* path, for messages */
    struct sp_map map;           /* of the file; length 0 when opened from memory */
    json_t *header;              /* owns every name and metadata string */
    struct ckpt_tensor *tensors; /* sorted by name */
    size_t count;
    struct ckpt_meta *meta; /* sorted by key */
    size_t meta_count;
};

struct dtype_row {
    const char *name;
    size_t bytes;
};

static struct dtype_row dtype_row(enum ckpt_dtype dtype)
{
    switch (dtype) {
#define DTYPE_CASE(name, text, bytes)                                                              \
    case name:                                                                                     \
        return (struct dtype_row){text, bytes};
        CKPT_DTYPE_LIST(DTYPE_CASE)
#undef DTYPE_CASE
    }
    return (struct dtype_row){"?", 0};
}

const char *ckpt_dtype_name(enum ckpt_dtype dtype)
{
    return dtype_row(dtype).name;
}

size_t ckpt_dtype_bytes(enum ckpt_dtype dtype)
{
    return dtype_row(dtype).bytes;
}

enum sp_err ckpt_dtype_parse(const char *name, enum ckpt_dtype *ret, struct sp_error *err)
{
    static const struct {
        const char *name;
        enum ckpt_dtype dtype;
    } names[] = {
#define DTYPE_NAME(name, text, bytes) {text, name},
        CKPT_DTYPE_LIST(DTYPE_NAME)
#undef DTYPE_NAME
            {"float32", CKPT_F32},
        {"fp32", CKPT_F32},
        {"float", CKPT_F32},
        {"float16", CKPT_F16},
        {"fp16", CKPT_F16},
        {"half", CKPT_F16},
        {"bfloat16", CKPT_BF16},
        {"float64", CKPT_F64},
        {"double", CKPT_F64},
    };
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        if (strcasecmp(names[i].name, name) == 0) {
            *ret = names[i].dtype;
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EUNSUPPORTED, "unknown data type \"%.40s\"", name);
}

/* "shape": [..] with its product; every step checked against overflow. */
static enum sp_err parse_shape(const json_t *entry, struct ckpt_tensor *t, struct sp_error *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return sp_fail(err, SP_EFORMAT, "\"shape\" is missing or not an array");
    if (json_array_size(shape) > SP_MAX_TENSOR_DIMS)
        return sp_fail(err, SP_ELIMIT, "%zu dimensions, the limit is %d", json_array_size(shape),
                       SP_MAX_TENSOR_DIMS);
    t->dims = (int32_t)json_array_size(shape);
    t->count = 1;
    bool empty = false;
    for (int32_t i = 0; i < t->dims; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return sp_fail(err, SP_EFORMAT, "\"shape\"[%d] is not a whole number from 0 up", i);
        t->shape[i] = json_integer_value(dim);
        if (t->shape[i] == 0)
            empty = true;
        else if (!sp_mul_size(t->count, (size_t)t->shape[i], &t->count))
            return sp_fail(err, SP_EFORMAT, "the product of \"shape\" overflows");
    }
    if (empty)
        t->count = 0;
    if (!sp_mul_size(t->count, ckpt_dtype_bytes(t->dtype), &t->bytes))
        return sp_fail(err, SP_EFORMAT, "its size in bytes overflows");
    return SP_OK;
}

static enum sp_err parse_offsets(const json_t *entry, const uint8_t *data, size_t data_bytes,
                                 struct ckpt_tensor *t, struct sp_error *err)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return sp_fail(err, SP_EFORMAT,
                       "\"data_offsets\" is missing or not two whole numbers [begin, end]");
    json_int_t b = json_integer_value(begin), e = json_integer_value(end);
    if (b < 0 || e < b || (uint64_t)e > data_bytes)
        return sp_fail(err, SP_EFORMAT,
                       "\"data_offsets\" [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
                       "] lie outside the file's %zu bytes of data (is the file cut short?)",
                       b, e, data_bytes);
    if ((size_t)(e - b) != t->bytes)
        return sp_fail(err, SP_EFORMAT,
                       "\"data_offsets\" hold %" JSON_INTEGER_FORMAT
                       " bytes, shape and dtype ask for %zu",
                       e - b, t->bytes);
    t->data = data + b;
    return SP_OK;
}

static enum sp_err parse_tensor(const json_t *entry, const uint8_t *data, size_t data_bytes,
                                struct ckpt_tensor *t, struct sp_error *err)
{
    if (!json_is_object(entry))
        return sp_fail(err, SP_EFORMAT, "its entry is not an object");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (dtype == NULL)
        return sp_fail(err, SP_EFORMAT, "\"dtype\" is missing or not a string");
    enum sp_err rc = ckpt_dtype_parse(dtype, &t->dtype, err);
    if (rc == SP_OK && strcmp(dtype, ckpt_dtype_name(t->dtype)) != 0)
        rc = sp_fail(err, SP_EFORMAT, "unknown data type \"%.40s\"", dtype);
    if (rc == SP_OK)
        rc = parse_shape(entry, t, err);
    if (rc == SP_OK)
        rc = parse_offsets(entry, data, data_bytes, t, err);
    return rc;
}

static enum sp_err parse_metadata(struct ckpt_st *st, const json_t *object, struct sp_error *err)
{
    if (!json_is_object(object))
        return sp_fail(err, SP_EFORMAT, "\"__metadata__\" is not an object");
    st->meta = sp_xarray(json_object_size(object), sizeof(*st->meta));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (!json_is_string(value))
            return sp_fail(err, SP_EFORMAT, "\"__metadata__\": \"%.80s\" is not a string", key);
        st->meta[st->meta_count++] = (struct ckpt_meta){key, json_string_value(value)};
    }
    return SP_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct ckpt_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_key(const void *a, const void *b)
{
    const struct ckpt_meta *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static int by_place(const void *a, const void *b)
{
    const struct ckpt_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* In order of place, each tensor begins where the one before ended, and the last one ends the
 * file: neither overlaps nor holes, in which other content could hide. */
static enum sp_err check_places(struct ckpt_st *st, const uint8_t *data, size_t data_bytes,
                                struct sp_error *err)
{
    qsort(st->tensors, st->count, sizeof(*st->tensors), by_place);
    size_t place = 0;
    for (size_t i = 0; i < st->count; i++) {
        const struct ckpt_tensor *t = &st->tensors[i];
        size_t begin = (size_t)(t->data - data);
        if (begin < place)
            return sp_fail(err, SP_EFORMAT, "tensor %.200s: overlaps tensor %.200s", t->name,
                           st->tensors[i - 1].name);
        if (begin > place)
            return sp_fail(err, SP_EFORMAT, "a hole of %zu bytes before tensor %.200s",
                           begin - place, t->name);
        place += t->bytes;
    }
    if (place != data_bytes)
        return sp_fail(err, SP_EFORMAT, "%zu bytes after the last tensor", data_bytes - place);
    return SP_OK;
}

static enum sp_err check_header(const uint8_t *bytes, size_t length, size_t *ret_header,
                                struct sp_error *err)
{
    if (length < PREFIX_BYTES)
        return sp_fail(err, SP_EFORMAT,
                       "%zu bytes are too few for a safetensors file (is it cut short?)", length);
    /* What Git leaves in place of a file that it was told not to fetch. */
    static const char pointer[] = "version https://git-lfs";
    if (length >= sizeof(pointer) - 1 && memcmp(bytes, pointer, sizeof(pointer) - 1) == 0)
        return sp_fail(err, SP_EFORMAT,
                       "a pointer of Git LFS, not the weights; fetch them with \"git lfs pull\"");
    uint64_t header = 0;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        header = header << 8 | bytes[i];
    if (header > SP_MAX_SAFETENSORS_HEADER)
        return sp_fail(err, SP_ELIMIT,
                       "header of %" PRIu64 " bytes, the limit is %d (not a safetensors file?)",
                       header, SP_MAX_SAFETENSORS_HEADER);
    if (header > length - PREFIX_BYTES)
        return sp_fail(err, SP_EFORMAT, "header of %" PRIu64 " bytes in a file of %zu", header,
                       length);
    const uint8_t *text = bytes + PREFIX_BYTES;
    if (header == 0 || text[0] != '{')
        return sp_fail(err, SP_EFORMAT, "the header does not start with {");
    size_t marks = 0;
    for (size_t i = 0; i < header; i++)
        marks += text[i] == ',' || text[i] == '[' || text[i] == '{';
    if (marks > (size_t)SP_MAX_TENSORS * MARKS_PER_TENSOR)
        return sp_fail(err, SP_ELIMIT, "the header has too many entries");
    *ret_header = (size_t)header;
    return SP_OK;
}

static enum sp_err parse(struct ckpt_st *st, const uint8_t *bytes, size_t length,
                         struct sp_error *err)
{
    size_t header = 0;
    enum sp_err rc = check_header(bytes, length, &header, err);
    if (rc != SP_OK)
        return rc;
    rc = sp_json_parse((const char *)bytes + PREFIX_BYTES, header, "header", &st->header, err);
    if (rc != SP_OK)
        return rc;
    if (json_object_size(st->header) > SP_MAX_TENSORS)
        return sp_fail(err, SP_ELIMIT, "%zu tensors, the limit is %d", json_object_size(st->header),
                       SP_MAX_TENSORS);
    const uint8_t *data = bytes + PREFIX_BYTES + header;
    size_t data_bytes = length - PREFIX_BYTES - header;
    st->tensors = sp_xarray(json_object_size(st->header), sizeof(*st->tensors));
    const char *name;
    json_t *entry;
    json_object_foreach(st->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            rc = parse_metadata(st, entry, err);
            if (rc != SP_OK)
                return rc;
            continue;
        }
        struct ckpt_tensor *t = &st->tensors[st->count++];
        t->name = name;
        rc = parse_tensor(entry, data, data_bytes, t, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "tensor %.200s", name);
    }
    rc = check_places(st, data, data_bytes, err);
    if (rc != SP_OK)
        return rc;
    qsort(st->tensors, st->count, sizeof(*st->tensors), by_name);
    if (st->meta_count > 0)
        qsort(st->meta, st->meta_count, sizeof(*st->meta), by_key);
    return SP_OK;
}

enum sp_err ckpt_st_open_memory(const uint8_t *data, size_t length, const char *what,
                                struct ckpt_st **ret, struct sp_error *err)
{
    struct ckpt_st *st = sp_xalloc(sizeof(*st));
    st->what = sp_xstrdup(what);
    enum sp_err rc = parse(st, data, length, err);
    if (rc != SP_OK) {
        ckpt_st_close(st);
        return sp_wrap(err, rc, "%s", what);
    }
    *ret = st;
    return SP_OK;
}

enum sp_err ckpt_st_open(const char *path, struct ckpt_st **ret, struct sp_error *err)
{
    struct sp_map map;
    enum sp_err rc = sp_map_file(path, &map, err);
    if (rc != SP_OK)
        return rc;
    struct ckpt_st *st;
    rc = ckpt_st_open_memory(map.data, map.length, path, &st, err);
    if (rc != SP_OK) {
        sp_unmap(&map);
        return rc;
    }
    st->map = map;
    *ret = st;
    return SP_OK;
}

void ckpt_st_close(struct ckpt_st *st)
{
    if (st == NULL)
        return;
    sp_unmap(&st->map);
    json_decref(st->header);
    free(st->tensors);
    free(st->meta);
    free(st->what);
    free(st);
}

size_t ckpt_st_count(const struct ckpt_st *st)
{
    return st->count;
}

const struct ckpt_tensor *ckpt_st_at(const struct ckpt_st *st, size_t index)
{
    SP_ASSERT(index < st->count);
    return &st->tensors[index];
}

const struct ckpt_tensor *ckpt_st_find(const struct ckpt_st *st, const char *name)
{
    struct ckpt_tensor key = {.name = name};
    return bsearch(&key, st->tensors, st->count, sizeof(key), by_name);
}

size_t ckpt_st_meta_count(const struct ckpt_st *st)
{
    return st->meta_count;
}

struct ckpt_meta ckpt_st_meta_at(const struct ckpt_st *st, size_t index)
{
    SP_ASSERT(index < st->meta_count);
    return st->meta[index];
}

const char *ckpt_st_meta(const struct ckpt_st *st, const char *key)
{
    for (size_t i = 0; i < st->meta_count; i++)
        if (strcmp(st->meta[i].key, key) == 0)
            return st->meta[i].value;
    return NULL;
}

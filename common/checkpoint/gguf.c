/* Opening a GGUF file: everything that it claims is checked here, before anything is used. */
#include "common/checkpoint/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "common/checkpoint/gguf_internal.h"

#define HEADER_BYTES 24
#define MAX_DIMS 4
#define MAX_ALIGNMENT (1u << 20)
/* The least that a metadata entry and a tensor's description take: bounds what a count can claim.
 */
#define MIN_ENTRY_BYTES (8 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 4 + 8 + 4 + 8)

struct cursor {
    const uint8_t *data;
    size_t length, at;
};

/* ---- types ---- */

struct type_row {
    const char *name;
    size_t elements, bytes;
};

static struct type_row type_row(uint32_t type)
{
    switch (type) {
#define TYPE_CASE(name, number, text, elements, bytes)                                             \
    case number:                                                                                   \
        return (struct type_row){text, elements, bytes};
        CKPT_GGUF_TYPE_LIST(TYPE_CASE)
#undef TYPE_CASE
    }
    return (struct type_row){NULL, 0, 0};
}

/* Types that exist and are not read: named, so that the message is of use. */
static const char *unread_type_name(uint32_t type)
{
    static const char *const names[] = {
        [9] = "Q8_1",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
        [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS", [24] = "I8",
        [25] = "I16",   [26] = "I32",   [27] = "I64",     [28] = "F64",    [29] = "IQ1_M",
        [34] = "TQ1_0", [35] = "TQ2_0", [39] = "MXFP4",
    };
    return type < SP_COUNT(names) && names[type] != NULL ? names[type] : "unknown";
}

const char *ckpt_gguf_type_name(enum ckpt_gguf_type type)
{
    return type_row(type).name;
}

size_t ckpt_gguf_block_elements(enum ckpt_gguf_type type)
{
    return type_row(type).elements;
}

size_t ckpt_gguf_block_bytes(enum ckpt_gguf_type type)
{
    return type_row(type).bytes;
}

static const struct {
    const char *name;
    size_t bytes;
} values[GGUF_VALUES] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

size_t gguf_value_bytes(enum gguf_value type)
{
    return values[type].bytes;
}

const char *gguf_value_name(enum gguf_value type)
{
    return values[type].name;
}

/* ---- bytes ---- */

uint64_t gguf_load_u64(const uint8_t *from)
{
    return (uint64_t)gguf_load_u32(from + 4) << 32 | gguf_load_u32(from);
}

uint32_t gguf_load_u32(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
           (uint32_t)from[3] << 24;
}

static enum sp_err take(struct cursor *c, size_t bytes, const char *field, const uint8_t **ret,
                        struct sp_error *err)
{
    if (bytes > c->length - c->at)
        return sp_fail(err, SP_EFORMAT, "%s: the file ends inside it (is it cut short?)", field);
    *ret = c->data + c->at;
    c->at += bytes;
    return SP_OK;
}

static enum sp_err take_u32(struct cursor *c, const char *field, uint32_t *ret,
                            struct sp_error *err)
{
    const uint8_t *p = NULL;
    enum sp_err rc = take(c, 4, field, &p, err);
    if (rc == SP_OK)
        *ret = gguf_load_u32(p);
    return rc;
}

static enum sp_err take_u64(struct cursor *c, const char *field, uint64_t *ret,
                            struct sp_error *err)
{
    const uint8_t *p = NULL;
    enum sp_err rc = take(c, 8, field, &p, err);
    if (rc == SP_OK)
        *ret = gguf_load_u64(p);
    return rc;
}

static enum sp_err take_text(struct cursor *c, const char *field, struct ckpt_gguf_text *ret,
                             struct sp_error *err)
{
    uint64_t length = 0;
    const uint8_t *p = NULL;
    enum sp_err rc = take_u64(c, field, &length, err);
    if (rc != SP_OK)
        return rc;
    if (length > c->length - c->at)
        return sp_fail(err, SP_EFORMAT,
                       "%s: a length of %" PRIu64
                       " bytes, the file has %zu more (is it cut short?)",
                       field, length, c->length - c->at);
    rc = take(c, (size_t)length, field, &p, err);
    if (rc == SP_OK)
        *ret = (struct ckpt_gguf_text){(const char *)p, (size_t)length};
    return rc;
}

/* A key or a tensor's name: what stands in messages has to be one line of text. */
static enum sp_err take_name(struct cursor *c, const char *field, char **ret, struct sp_error *err)
{
    struct ckpt_gguf_text text = {0};
    enum sp_err rc = take_text(c, field, &text, err);
    if (rc != SP_OK)
        return rc;
    if (text.length == 0 || text.length > UINT16_MAX)
        return sp_fail(err, SP_EFORMAT, "%s: %zu bytes, it must have 1 to %d", field, text.length,
                       UINT16_MAX);
    bool printable = sp_is_utf8(text.data, text.length);
    for (size_t i = 0; printable && i < text.length; i++)
        printable = (unsigned char)text.data[i] >= ' ' && text.data[i] != 0x7f;
    if (!printable)
        return sp_fail(err, SP_EFORMAT, "%s: not printable UTF-8", field);
    *ret = sp_xstrndup(text.data, text.length);
    return SP_OK;
}

/* ---- metadata ---- */

/* Steps over the elements, so that each of them is known to lie inside the file. */
static enum sp_err skip_values(struct cursor *c, enum gguf_value type, uint64_t count,
                               struct sp_error *err)
{
    size_t bytes = gguf_value_bytes(type), left = c->length - c->at;
    if (count > left / (bytes > 0 ? bytes : 8))
        return sp_fail(err, SP_EFORMAT,
                       "%" PRIu64 " elements of type %s, the file has %zu more bytes (is it cut "
                       "short?)",
                       count, gguf_value_name(type), left);
    if (bytes > 0) {
        c->at += (size_t)count * bytes;
        return SP_OK;
    }
    enum sp_err rc = SP_OK;
    struct ckpt_gguf_text text = {0};
    for (uint64_t i = 0; rc == SP_OK && i < count; i++) {
        rc = take_text(c, "string", &text, err);
        if (rc != SP_OK)
            rc = sp_wrap(err, rc, "element %" PRIu64, i);
    }
    return rc;
}

static enum sp_err parse_value(struct cursor *c, struct gguf_entry *entry, struct sp_error *err)
{
    uint32_t type = 0;
    entry->count = 1;
    enum sp_err rc = take_u32(c, "type", &type, err);
    if (rc == SP_OK && type == GGUF_ARRAY) {
        entry->array = true;
        rc = take_u32(c, "type of the elements", &type, err);
        if (rc == SP_OK && type == GGUF_ARRAY)
            return sp_fail(err, SP_EUNSUPPORTED, "an array of arrays is not supported");
        if (rc == SP_OK)
            rc = take_u64(c, "number of elements", &entry->count, err);
    }
    if (rc != SP_OK)
        return rc;
    if (type >= GGUF_VALUES)
        return sp_fail(err, SP_EFORMAT, "unknown type %" PRIu32, type);
    entry->type = (enum gguf_value)type;
    entry->data = c->data + c->at;
    return skip_values(c, entry->type, entry->count, err);
}

static int by_key(const void *a, const void *b)
{
    const struct gguf_entry *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static enum sp_err parse_metadata(struct ckpt_gguf *g, struct cursor *c, uint64_t count,
                                  struct sp_error *err)
{
    if (count > SP_MAX_GGUF_KEYS)
        return sp_fail(err, SP_ELIMIT,
                       "header: %" PRIu64 " metadata entries, the limit is %d (not a GGUF file?)",
                       count, SP_MAX_GGUF_KEYS);
    if (count > (c->length - c->at) / MIN_ENTRY_BYTES)
        return sp_fail(err, SP_EFORMAT,
                       "header: %" PRIu64 " metadata entries do not fit a file of %zu bytes", count,
                       c->length);
    g->entries = sp_xarray((size_t)count, sizeof(*g->entries));
    for (uint64_t i = 0; i < count; i++) {
        struct gguf_entry *entry = &g->entries[i];
        enum sp_err rc = take_name(c, "key", &entry->key, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "metadata entry %" PRIu64, i);
        g->entry_count++;
        rc = parse_value(c, entry, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "metadata \"%.200s\"", entry->key);
    }
    if (count > 0)
        qsort(g->entries, g->entry_count, sizeof(*g->entries), by_key);
    for (size_t i = 1; i < g->entry_count; i++)
        if (by_key(&g->entries[i - 1], &g->entries[i]) == 0)
            return sp_fail(err, SP_EFORMAT, "metadata \"%.200s\": is there twice",
                           g->entries[i].key);
    return SP_OK;
}

static enum sp_err alignment_of(const struct ckpt_gguf *g, size_t *ret, struct sp_error *err)
{
    int64_t alignment = GGUF_DEFAULT_ALIGNMENT;
    const struct gguf_entry *entry = gguf_find(g, "general.alignment");
    if (entry != NULL &&
        (entry->array || !gguf_load_i64(entry->type, entry->data, &alignment) || alignment < 1 ||
         alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0))
        return sp_fail(err, SP_EFORMAT,
                       "metadata \"general.alignment\": not a power of two from 1 to %u",
                       MAX_ALIGNMENT);
    *ret = (size_t)alignment;
    return SP_OK;
}

/* ---- tensors ---- */

static enum sp_err parse_shape(struct cursor *c, struct ckpt_gguf_tensor *t, struct sp_error *err)
{
    uint32_t dims = 0;
    enum sp_err rc = take_u32(c, "number of dimensions", &dims, err);
    if (rc != SP_OK)
        return rc;
    if (dims < 1 || dims > MAX_DIMS)
        return sp_fail(err, SP_EFORMAT, "%" PRIu32 " dimensions, there must be 1 to %d", dims,
                       MAX_DIMS);
    t->dims = (int32_t)dims;
    t->count = 1;
    for (int32_t i = 0; i < t->dims; i++) {
        uint64_t size = 0;
        rc = take_u64(c, "shape", &size, err);
        if (rc != SP_OK)
            return rc;
        if (size == 0 || size > INT64_MAX)
            return sp_fail(err, SP_EFORMAT, "dimension %d of its shape is %" PRIu64, i, size);
        if (!sp_mul_size(t->count, (size_t)size, &t->count))
            return sp_fail(err, SP_EFORMAT, "the product of its shape overflows");
        t->shape[t->dims - 1 - i] = (int64_t)size;
    }
    return SP_OK;
}

/* Description of one tensor; its place relative to the data goes to *ret_offset. */
static enum sp_err parse_tensor(struct cursor *c, struct ckpt_gguf_tensor *t, size_t alignment,
                                uint64_t *ret_offset, struct sp_error *err)
{
    uint32_t type = 0;
    enum sp_err rc = parse_shape(c, t, err);
    if (rc == SP_OK)
        rc = take_u32(c, "type", &type, err);
    if (rc == SP_OK)
        rc = take_u64(c, "offset", ret_offset, err);
    if (rc != SP_OK)
        return rc;
    struct type_row row = type_row(type);
    if (row.name == NULL)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "type %" PRIu32
                       " (%s) is not supported; use a file of F32, F16, BF16, Q8_0, "
                       "Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K or IQ4_NL",
                       type, unread_type_name(type));
    t->type = (enum ckpt_gguf_type)type;
    int64_t row_elements = t->shape[t->dims - 1];
    if (row_elements % (int64_t)row.elements != 0)
        return sp_fail(err, SP_EFORMAT, "rows of %" PRId64 " elements, %s has blocks of %zu",
                       row_elements, row.name, row.elements);
    if (!sp_mul_size(t->count / row.elements, row.bytes, &t->bytes))
        return sp_fail(err, SP_EFORMAT, "its size in bytes overflows");
    if (*ret_offset % alignment != 0)
        return sp_fail(err, SP_EFORMAT,
                       "offset %" PRIu64 " is not a multiple of the alignment, %zu", *ret_offset,
                       alignment);
    return SP_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct ckpt_gguf_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_place(const void *a, const void *b)
{
    const struct ckpt_gguf_tensor *x = a, *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

static enum sp_err check_tensors(struct ckpt_gguf *g, struct sp_error *err)
{
    if (g->count == 0)
        return SP_OK;
    qsort(g->tensors, g->count, sizeof(*g->tensors), by_place);
    for (size_t i = 1; i < g->count; i++) {
        const struct ckpt_gguf_tensor *before = &g->tensors[i - 1], *t = &g->tensors[i];
        if ((size_t)(t->data - before->data) < before->bytes)
            return sp_fail(err, SP_EFORMAT, "tensor %.200s: overlaps tensor %.200s", t->name,
                           before->name);
    }
    return gguf_sort_tensors(g, err);
}

enum sp_err gguf_sort_tensors(struct ckpt_gguf *g, struct sp_error *err)
{
    if (g->count > 0)
        qsort(g->tensors, g->count, sizeof(*g->tensors), by_name);
    for (size_t i = 1; i < g->count; i++)
        if (by_name(&g->tensors[i - 1], &g->tensors[i]) == 0)
            return sp_fail(err, SP_EFORMAT, "tensor %.200s: is there twice", g->tensors[i].name);
    return SP_OK;
}

static enum sp_err parse_tensors(struct ckpt_gguf *g, struct cursor *c, uint64_t count,
                                 size_t alignment, uint64_t *offsets, struct sp_error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        struct ckpt_gguf_tensor *t = &g->tensors[i];
        char *name = NULL;
        enum sp_err rc = take_name(c, "name", &name, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "tensor %" PRIu64, i);
        t->name = name;
        g->count++;
        rc = parse_tensor(c, t, alignment, &offsets[i], err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "tensor %.200s", t->name);
    }
    /* The data begins at the next multiple of the alignment. */
    size_t begin = (c->at + alignment - 1) / alignment * alignment;
    size_t room = begin < c->length ? c->length - begin : 0;
    for (size_t i = 0; i < g->count; i++) {
        struct ckpt_gguf_tensor *t = &g->tensors[i];
        if (offsets[i] > room || t->bytes > room - offsets[i])
            return sp_fail(err, SP_EFORMAT,
                           "tensor %.200s: %zu bytes at offset %" PRIu64
                           " lie outside the file's %zu bytes of data (is it cut short?)",
                           t->name, t->bytes, offsets[i], room);
        t->data = c->data + begin + offsets[i];
    }
    return check_tensors(g, err);
}

static enum sp_err parse(struct ckpt_gguf *g, const uint8_t *data, size_t length,
                         struct sp_error *err)
{
    struct cursor c = {data, length, 0};
    if (length < HEADER_BYTES || memcmp(data, "GGUF", 4) != 0)
        return sp_fail(err, SP_EFORMAT, "not a GGUF file: it does not begin with \"GGUF\"%s",
                       length < HEADER_BYTES ? " and a header" : "");
    uint32_t version = gguf_load_u32(data + 4);
    if (version != 2 && version != GGUF_VERSION)
        return sp_fail(err, SP_EVERSION, "header: GGUF version %" PRIu32 ", 2 and 3 are read%s",
                       version, (version & 0xffff) == 0 ? " (it is a big-endian file)" : "");
    uint64_t tensor_count = gguf_load_u64(data + 8), entry_count = gguf_load_u64(data + 16);
    c.at = HEADER_BYTES;
    size_t alignment = 0;
    enum sp_err rc = parse_metadata(g, &c, entry_count, err);
    if (rc == SP_OK)
        rc = alignment_of(g, &alignment, err);
    if (rc != SP_OK)
        return rc;
    if (tensor_count > SP_MAX_TENSORS)
        return sp_fail(err, SP_ELIMIT, "header: %" PRIu64 " tensors, the limit is %d", tensor_count,
                       SP_MAX_TENSORS);
    if (tensor_count > (length - c.at) / MIN_TENSOR_BYTES)
        return sp_fail(err, SP_EFORMAT,
                       "header: %" PRIu64 " tensors do not fit a file of %zu bytes", tensor_count,
                       length);
    g->tensors = sp_xarray((size_t)tensor_count, sizeof(*g->tensors));
    uint64_t *offsets = sp_xarray((size_t)tensor_count, sizeof(*offsets));
    rc = parse_tensors(g, &c, tensor_count, alignment, offsets, err);
    free(offsets);
    return rc;
}

/* ---- the whole ---- */

enum sp_err ckpt_gguf_open_memory(const uint8_t *data, size_t length, const char *what,
                                  struct ckpt_gguf **ret, struct sp_error *err)
{
    struct ckpt_gguf *g = sp_xalloc(sizeof(*g));
    g->what = sp_xstrdup(what);
    enum sp_err rc = parse(g, data, length, err);
    if (rc != SP_OK) {
        ckpt_gguf_close(g);
        return sp_wrap(err, rc, "%s", what);
    }
    *ret = g;
    return SP_OK;
}

enum sp_err gguf_open_file(const char *path, struct ckpt_gguf **ret, struct sp_error *err)
{
    struct sp_map map;
    enum sp_err rc = sp_map_file(path, &map, err);
    if (rc != SP_OK)
        return rc;
    struct ckpt_gguf *g = NULL;
    rc = ckpt_gguf_open_memory(map.data, map.length, path, &g, err);
    if (rc != SP_OK) {
        sp_unmap(&map);
        return rc;
    }
    g->map = map;
    *ret = g;
    return SP_OK;
}

enum sp_err ckpt_gguf_open(const char *path, struct ckpt_gguf **ret, struct sp_error *err)
{
    struct ckpt_gguf *g = NULL;
    enum sp_err rc = gguf_open_file(path, &g, err);
    if (rc == SP_OK)
        rc = gguf_join(g, err);
    if (rc != SP_OK) {
        ckpt_gguf_close(g);
        return rc;
    }
    *ret = g;
    return SP_OK;
}

void ckpt_gguf_close(struct ckpt_gguf *gguf)
{
    if (gguf == NULL)
        return;
    for (size_t i = 0; i < gguf->part_count; i++)
        ckpt_gguf_close(gguf->parts[i]);
    free(gguf->parts);
    for (size_t i = 0; i < gguf->entry_count; i++)
        free(gguf->entries[i].key);
    for (size_t i = 0; i < gguf->count; i++)
        free((char *)(uintptr_t)gguf->tensors[i].name);
    sp_unmap(&gguf->map);
    free(gguf->entries);
    free(gguf->tensors);
    free(gguf->what);
    free(gguf);
}

const char *ckpt_gguf_path(const struct ckpt_gguf *gguf)
{
    return gguf->what;
}

size_t ckpt_gguf_count(const struct ckpt_gguf *gguf)
{
    return gguf->count;
}

const struct ckpt_gguf_tensor *ckpt_gguf_at(const struct ckpt_gguf *gguf, size_t i)
{
    SP_ASSERT(i < gguf->count);
    return &gguf->tensors[i];
}

const struct ckpt_gguf_tensor *ckpt_gguf_find(const struct ckpt_gguf *gguf, const char *name)
{
    struct ckpt_gguf_tensor key = {.name = name};
    if (gguf->count == 0)
        return NULL;
    return bsearch(&key, gguf->tensors, gguf->count, sizeof(key), by_name);
}

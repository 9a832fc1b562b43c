#include <float.h>
#include <math.h>
#include <msgpack.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "proto/codec.h"

static const char *kind_text(enum proto_kind kind)
{
    switch (kind) {
    case PROTO_KIND_U32:
        return "an integer from 0 to 4294967295";
    case PROTO_KIND_I32:
        return "an integer from -2147483648 to 2147483647";
    case PROTO_KIND_U64:
        return "an integer of 0 or more";
    case PROTO_KIND_I64:
        return "an integer of 64 bits";
    case PROTO_KIND_F32:
        return "a number that fits in 32 bits";
    case PROTO_KIND_F64:
        return "a number";
    case PROTO_KIND_BOOL:
        return "true or false";
    case PROTO_KIND_STR:
        return "text in UTF-8 without NUL";
    case PROTO_KIND_BYTES:
        return "bytes";
    case PROTO_KIND_DIGEST:
        return "32 bytes";
    case PROTO_KIND_IDS:
        return "bytes, 4 for each id";
    case PROTO_KIND_U64S:
        return "bytes, 8 for each integer";
    case PROTO_KIND_F32S:
        return "bytes, 4 for each number";
    case PROTO_KIND_LIST:
        return "an array of maps";
    }
    return "";
}

static enum sp_err wrong(enum proto_kind kind, struct sp_error *err)
{
    return sp_fail(err, SP_EFORMAT, "expected %s", kind_text(kind));
}

static enum sp_err no_room(struct sp_error *err)
{
    return sp_fail(err, SP_ELIMIT, "the decoded message is over its memory limit");
}

static enum sp_err take_integer(const msgpack_object *value, enum proto_kind kind, void *at,
                                struct sp_error *err)
{
    bool negative = value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER;
    if (!negative && value->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return wrong(kind, err);
    uint64_t u = value->via.u64;
    int64_t i = value->via.i64;
    switch (kind) {
    case PROTO_KIND_U32:
        if (negative || u > UINT32_MAX)
            return wrong(kind, err);
        *(uint32_t *)at = (uint32_t)u;
        return SP_OK;
    case PROTO_KIND_I32:
        if (negative ? i < INT32_MIN : u > INT32_MAX)
            return wrong(kind, err);
        *(int32_t *)at = (int32_t)i;
        return SP_OK;
    case PROTO_KIND_U64:
        if (negative)
            return wrong(kind, err);
        *(uint64_t *)at = u;
        return SP_OK;
    default:
        if (!negative && u > INT64_MAX)
            return wrong(kind, err);
        *(int64_t *)at = i;
        return SP_OK;
    }
}

static enum sp_err take_number(const msgpack_object *value, enum proto_kind kind, void *at,
                               struct sp_error *err)
{
    double number;
    switch (value->type) {
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        number = value->via.f64;
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        number = (double)value->via.u64;
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        number = (double)value->via.i64;
        break;
    default:
        return wrong(kind, err);
    }
    if (kind == PROTO_KIND_F64) {
        *(double *)at = number;
        return SP_OK;
    }
    if (isfinite(number) && fabs(number) > (double)FLT_MAX)
        return wrong(kind, err);
    *(float *)at = (float)number;
    return SP_OK;
}

static enum sp_err take_text(const msgpack_object *value, struct sp_arena *arena, const char **at,
                             struct sp_error *err)
{
    if (value->type != MSGPACK_OBJECT_STR)
        return wrong(PROTO_KIND_STR, err);
    size_t length = value->via.str.size;
    if ((length > 0 && memchr(value->via.str.ptr, 0, length) != NULL) ||
        !sp_is_utf8(value->via.str.ptr, length))
        return wrong(PROTO_KIND_STR, err);
    if (length == 0)
        return SP_OK; /* "" is there already */
    char *copy = sp_arena_alloc(arena, length + 1, 1);
    if (copy == NULL)
        return no_room(err);
    memcpy(copy, value->via.str.ptr, length);
    *at = copy;
    return SP_OK;
}

/* All array structs are a pointer and a count: see encode.c. */
static enum sp_err take_array(const msgpack_object *value, enum proto_kind kind, size_t elem_bytes,
                              struct sp_arena *arena, void *at, struct sp_error *err)
{
    if (value->type != MSGPACK_OBJECT_BIN || value->via.bin.size % elem_bytes != 0)
        return wrong(kind, err);
    size_t bytes = value->via.bin.size;
    if (bytes == 0)
        return SP_OK;
    uint8_t *copy = sp_arena_alloc(arena, bytes, 1);
    if (copy == NULL)
        return no_room(err);
    memcpy(copy, value->via.bin.ptr, bytes);
    const struct proto_bytes array = {.data = copy, .length = (uint32_t)(bytes / elem_bytes)};
    memcpy(at, &array, sizeof(array));
    return SP_OK;
}

static enum sp_err take_struct(const msgpack_object *value, const struct proto_layout *layout,
                               struct sp_arena *arena, uint8_t *body, struct sp_error *err);

static enum sp_err take_list(const msgpack_object *value, const struct proto_field *field,
                             struct sp_arena *arena, uint8_t *body, struct sp_error *err)
{
    const struct proto_layout *item = field->item();
    if (value->type != MSGPACK_OBJECT_ARRAY)
        return wrong(PROTO_KIND_LIST, err);
    uint32_t count = value->via.array.size;
    if (count == 0)
        return SP_OK;
    uint8_t *items = sp_arena_alloc(arena, count, item->struct_bytes);
    if (items == NULL)
        return no_room(err);
    for (uint32_t i = 0; i < count; i++) {
        enum sp_err rc = take_struct(&value->via.array.ptr[i], item, arena,
                                     items + (size_t)i * item->struct_bytes, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "%s %u", item->name, i);
    }
    memcpy(body + field->offset, &items, sizeof(items));
    memcpy(body + field->count_offset, &count, sizeof(count));
    return SP_OK;
}

static enum sp_err take_field(const msgpack_object *value, const struct proto_field *field,
                              struct sp_arena *arena, uint8_t *body, struct sp_error *err)
{
    void *at = body + field->offset;
    if (value->type == MSGPACK_OBJECT_NIL)
        return SP_OK; /* as if absent */
    switch (field->kind) {
    case PROTO_KIND_U32:
    case PROTO_KIND_I32:
    case PROTO_KIND_U64:
    case PROTO_KIND_I64:
        return take_integer(value, field->kind, at, err);
    case PROTO_KIND_F32:
    case PROTO_KIND_F64:
        return take_number(value, field->kind, at, err);
    case PROTO_KIND_BOOL:
        if (value->type != MSGPACK_OBJECT_BOOLEAN)
            return wrong(field->kind, err);
        *(bool *)at = value->via.boolean;
        return SP_OK;
    case PROTO_KIND_STR:
        return take_text(value, arena, at, err);
    case PROTO_KIND_DIGEST:
        if (value->type != MSGPACK_OBJECT_BIN || value->via.bin.size != SP_DIGEST_BYTES)
            return wrong(field->kind, err);
        memcpy(at, value->via.bin.ptr, SP_DIGEST_BYTES);
        return SP_OK;
    case PROTO_KIND_BYTES:
        return take_array(value, field->kind, 1, arena, at, err);
    case PROTO_KIND_IDS:
    case PROTO_KIND_F32S:
        return take_array(value, field->kind, 4, arena, at, err);
    case PROTO_KIND_U64S:
        return take_array(value, field->kind, 8, arena, at, err);
    case PROTO_KIND_LIST:
        return take_list(value, field, arena, body, err);
    }
    return wrong(field->kind, err);
}

/* Fields mostly come in the table's order, so the search starts behind the last one found. */
static const struct proto_field *find_field(const struct proto_layout *layout,
                                            const msgpack_object *key, size_t *hint)
{
    for (size_t n = 0; n < layout->field_count; n++) {
        size_t i = (*hint + n) % layout->field_count;
        const char *name = layout->fields[i].name;
        if (strlen(name) == key->via.str.size &&
            memcmp(name, key->via.str.ptr, key->via.str.size) == 0) {
            *hint = i + 1;
            return &layout->fields[i];
        }
    }
    return NULL;
}

/* A text field is never NULL in what a program gets to see. */
static void set_empty_texts(const struct proto_layout *layout, uint8_t *body)
{
    static const char *const empty = "";
    for (size_t i = 0; i < layout->field_count; i++)
        if (layout->fields[i].kind == PROTO_KIND_STR)
            memcpy(body + layout->fields[i].offset, &empty, sizeof(empty));
}

static enum sp_err take_struct(const msgpack_object *value, const struct proto_layout *layout,
                               struct sp_arena *arena, uint8_t *body, struct sp_error *err)
{
    if (value->type != MSGPACK_OBJECT_MAP)
        return sp_fail(err, SP_EFORMAT, "expected a map of fields");
    SP_ASSERT(layout->field_count <= 64);
    set_empty_texts(layout, body);
    uint64_t seen = 0;
    size_t hint = 0;
    for (uint32_t i = 0; i < value->via.map.size; i++) {
        const msgpack_object_kv *pair = &value->via.map.ptr[i];
        if (pair->key.type != MSGPACK_OBJECT_STR)
            return sp_fail(err, SP_EFORMAT, "a field's name is not text");
        const struct proto_field *field = find_field(layout, &pair->key, &hint);
        if (field == NULL)
            continue; /* from a newer version */
        uint64_t bit = (uint64_t)1 << (field - layout->fields);
        if (seen & bit)
            return sp_fail(err, SP_EFORMAT, "field \"%s\": given twice", field->name);
        seen |= bit;
        enum sp_err rc = take_field(&pair->val, field, arena, body, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "field \"%s\"", field->name);
    }
    return SP_OK;
}

/* The envelope has a layout of its own, so that it is read by the same code. */
struct wire_envelope {
    uint32_t version, type;
    uint64_t id;
    const char *token, *text;
    uint32_t status, retry_after_ms;
};
static const struct proto_field envelope_fields[] = {
    {"version", "", PROTO_KIND_U32, offsetof(struct wire_envelope, version), 0, NULL},
    {"type", "", PROTO_KIND_U32, offsetof(struct wire_envelope, type), 0, NULL},
    {"id", "", PROTO_KIND_U64, offsetof(struct wire_envelope, id), 0, NULL},
    {"token", "", PROTO_KIND_STR, offsetof(struct wire_envelope, token), 0, NULL},
    {"status", "", PROTO_KIND_U32, offsetof(struct wire_envelope, status), 0, NULL},
    {"text", "", PROTO_KIND_STR, offsetof(struct wire_envelope, text), 0, NULL},
    {"retry_after_ms", "", PROTO_KIND_U32, offsetof(struct wire_envelope, retry_after_ms), 0, NULL},
};
static const struct proto_layout envelope_layout = {
    "envelope", envelope_fields, SP_COUNT(envelope_fields), sizeof(struct wire_envelope)};

static enum sp_err take_envelope(const msgpack_object *root, struct sp_arena *arena,
                                 struct proto_envelope *ret, struct sp_error *err)
{
    struct wire_envelope wire = {0};
    enum sp_err rc = take_struct(root, &envelope_layout, arena, (uint8_t *)&wire, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "envelope");
    if (wire.version < PROTO_VERSION_OLDEST || wire.version > PROTO_VERSION_NEWEST)
        return sp_fail(err, SP_EVERSION,
                       "the peer speaks protocol version %u, this program version %d: use releases "
                       "that are one apart at most",
                       wire.version, PROTO_VERSION);
    if (proto_layout_of((enum proto_type)wire.type) == NULL)
        return sp_fail(err, SP_EFORMAT, "envelope: field \"type\": unknown message type %u",
                       wire.type);
    *ret = (struct proto_envelope){
        .version = wire.version,
        .type = (enum proto_type)wire.type,
        .request_id = wire.id,
        .token = wire.token,
        .status = wire.status <= INT32_MAX ? sp_err_from_number((int)wire.status) : SP_EINTERNAL,
        .text = wire.text,
        .retry_after_ms = wire.retry_after_ms,
    };
    return SP_OK;
}

static const msgpack_object *find_body(const msgpack_object *root)
{
    for (uint32_t i = 0; i < root->via.map.size; i++) {
        const msgpack_object *key = &root->via.map.ptr[i].key;
        if (key->via.str.size == 4 && memcmp(key->via.str.ptr, "body", 4) == 0)
            return &root->via.map.ptr[i].val;
    }
    return NULL;
}

static enum sp_err decode_tree(const msgpack_object *root, struct sp_arena *arena,
                               struct proto_envelope *ret_envelope, void **ret_body,
                               struct sp_error *err)
{
    struct proto_envelope envelope;
    enum sp_err rc = take_envelope(root, arena, &envelope, err);
    if (rc != SP_OK)
        return rc;
    const struct proto_layout *layout = proto_layout_of(envelope.type);
    const msgpack_object *object = find_body(root);
    void *body = NULL;
    bool is_reply = envelope.type % 2 == 1;
    if (envelope.status != SP_OK && !is_reply)
        return sp_fail(err, SP_EFORMAT, "%s: a request with an error status", layout->name);
    if (envelope.status == SP_OK) {
        if (object == NULL)
            return sp_fail(err, SP_EFORMAT, "%s: no body", layout->name);
        body = sp_arena_alloc(arena, 1, layout->struct_bytes);
        if (body == NULL)
            return no_room(err);
        rc = take_struct(object, layout, arena, body, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "%s", layout->name);
    }
    *ret_envelope = envelope;
    *ret_body = body;
    return SP_OK;
}

enum sp_err proto_decode(const void *data, size_t length, struct sp_arena *arena,
                         struct proto_envelope *ret_envelope, void **ret_body, struct sp_error *err)
{
    if (length > SP_MAX_MESSAGE)
        return sp_fail(err, SP_ELIMIT, "a message of %zu bytes, the limit is %d", length,
                       SP_MAX_MESSAGE);
    enum sp_err rc = proto_scan(data, length, err);
    if (rc != SP_OK)
        return rc;
    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    size_t offset = 0;
    if (msgpack_unpack_next(&unpacked, data, length, &offset) != MSGPACK_UNPACK_SUCCESS ||
        offset != length)
        rc = sp_fail(err, SP_EFORMAT, "not one whole msgpack object");
    else
        rc = decode_tree(&unpacked.data, arena, ret_envelope, ret_body, err);
    msgpack_unpacked_destroy(&unpacked);
    return rc;
}

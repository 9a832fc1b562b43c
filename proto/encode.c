#include <msgpack.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "proto/codec.h"

static int write_to_buf(void *context, const char *data, size_t length)
{
    sp_buf_append(context, data, length);
    return 0;
}

/* A program's own text may be cut inside a character; the peer accepts only well-formed text. */
static void pack_text(msgpack_packer *packer, const char *text)
{
    size_t length = strlen(text);
    if (sp_is_utf8(text, length)) {
        msgpack_pack_str_with_body(packer, text, length);
        return;
    }
    struct sp_buf repaired = SP_BUF_INIT;
    for (size_t i = 0; i < length;) {
        size_t bytes = sp_utf8_char(text + i, length - i);
        if (bytes > 0)
            sp_buf_append(&repaired, text + i, bytes);
        else
            sp_buf_putc(&repaired, '?');
        i += SP_MAX(bytes, (size_t)1);
    }
    msgpack_pack_str_with_body(packer, repaired.data, repaired.length);
    sp_buf_deinit(&repaired);
}

/* Arrays travel as little-endian bytes, which is what memory holds on every machine that we
 * build for. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are copied as they are");

/* One loop for the three array structs: a pointer and a uint32_t count. */
struct view {
    const void *data;
    uint32_t count;
};
_Static_assert(sizeof(struct view) == sizeof(struct proto_ids) &&
                   sizeof(struct view) == sizeof(struct proto_bytes) &&
                   sizeof(struct view) == sizeof(struct proto_u64s) &&
                   sizeof(struct view) == sizeof(struct proto_f32s) &&
                   offsetof(struct proto_bytes, length) == offsetof(struct view, count) &&
                   offsetof(struct proto_ids, count) == offsetof(struct view, count),
               "arrays have one shape");

static void pack_array(msgpack_packer *packer, const void *at, size_t elem_bytes)
{
    struct view view;
    memcpy(&view, at, sizeof(view));
    msgpack_pack_bin(packer, (size_t)view.count * elem_bytes);
    msgpack_pack_bin_body(packer, view.data, (size_t)view.count * elem_bytes);
}

static size_t scalar_bytes(enum proto_kind kind)
{
    switch (kind) {
    case PROTO_KIND_BOOL:
        return sizeof(bool);
    case PROTO_KIND_U32:
    case PROTO_KIND_I32:
    case PROTO_KIND_F32:
        return 4;
    case PROTO_KIND_DIGEST:
        return SP_DIGEST_BYTES;
    default:
        return 8;
    }
}

/* Zero and empty are what an absent field means. By bits: -0.0 and NaN are not absent. */
static bool is_absent(const struct proto_field *field, const uint8_t *body)
{
    static const uint8_t zeros[SP_DIGEST_BYTES];
    const uint8_t *at = body + field->offset;
    const char *text;
    struct view view;
    uint32_t count;
    switch (field->kind) {
    case PROTO_KIND_STR:
        memcpy(&text, at, sizeof(text));
        return text == NULL || *text == 0;
    case PROTO_KIND_BYTES:
    case PROTO_KIND_IDS:
    case PROTO_KIND_U64S:
    case PROTO_KIND_F32S:
        memcpy(&view, at, sizeof(view));
        return view.count == 0;
    case PROTO_KIND_LIST:
        memcpy(&count, body + field->count_offset, sizeof(count));
        return count == 0;
    default:
        return memcmp(at, zeros, scalar_bytes(field->kind)) == 0;
    }
}

static void pack_scalar(msgpack_packer *packer, enum proto_kind kind, const void *at)
{
    switch (kind) {
    case PROTO_KIND_U32:
        msgpack_pack_uint32(packer, *(const uint32_t *)at);
        break;
    case PROTO_KIND_I32:
        msgpack_pack_int32(packer, *(const int32_t *)at);
        break;
    case PROTO_KIND_U64:
        msgpack_pack_uint64(packer, *(const uint64_t *)at);
        break;
    case PROTO_KIND_I64:
        msgpack_pack_int64(packer, *(const int64_t *)at);
        break;
    case PROTO_KIND_F32:
        msgpack_pack_float(packer, *(const float *)at);
        break;
    case PROTO_KIND_F64:
        msgpack_pack_double(packer, *(const double *)at);
        break;
    case PROTO_KIND_BOOL:
        msgpack_pack_true(packer); /* false is absent */
        break;
    default:
        SP_ASSERT(!"a kind that is no scalar");
    }
}

static void pack_struct(msgpack_packer *packer, const struct proto_layout *layout,
                        const uint8_t *body);

static void pack_list(msgpack_packer *packer, const struct proto_field *field, const uint8_t *body)
{
    const struct proto_layout *item = field->item();
    const uint8_t *items;
    uint32_t count;
    memcpy(&items, body + field->offset, sizeof(items));
    memcpy(&count, body + field->count_offset, sizeof(count));
    msgpack_pack_array(packer, count);
    for (uint32_t i = 0; i < count; i++)
        pack_struct(packer, item, items + (size_t)i * item->struct_bytes);
}

static void pack_field(msgpack_packer *packer, const struct proto_field *field, const uint8_t *body)
{
    const void *at = body + field->offset;
    switch (field->kind) {
    case PROTO_KIND_STR:
        pack_text(packer, *(const char *const *)at);
        break;
    case PROTO_KIND_BYTES:
        pack_array(packer, at, 1);
        break;
    case PROTO_KIND_IDS:
    case PROTO_KIND_F32S:
        pack_array(packer, at, 4);
        break;
    case PROTO_KIND_U64S:
        pack_array(packer, at, 8);
        break;
    case PROTO_KIND_DIGEST:
        msgpack_pack_bin(packer, SP_DIGEST_BYTES);
        msgpack_pack_bin_body(packer, at, SP_DIGEST_BYTES);
        break;
    case PROTO_KIND_LIST:
        pack_list(packer, field, body);
        break;
    default:
        pack_scalar(packer, field->kind, at);
    }
}

static void pack_struct(msgpack_packer *packer, const struct proto_layout *layout,
                        const uint8_t *body)
{
    size_t present = 0;
    for (size_t i = 0; i < layout->field_count; i++)
        present += !is_absent(&layout->fields[i], body);
    msgpack_pack_map(packer, present);
    for (size_t i = 0; i < layout->field_count; i++) {
        if (is_absent(&layout->fields[i], body))
            continue;
        pack_text(packer, layout->fields[i].name);
        pack_field(packer, &layout->fields[i], body);
    }
}

void proto_encode(const struct proto_envelope *envelope, const void *body, struct sp_buf *out)
{
    const struct proto_layout *layout = proto_layout_of(envelope->type);
    bool token = envelope->token != NULL && *envelope->token != 0;
    bool text = envelope->text != NULL && *envelope->text != 0;
    SP_ASSERT(layout != NULL);
    msgpack_packer packer;
    msgpack_packer_init(&packer, out, write_to_buf);
    msgpack_pack_map(&packer, 3u + token + text + (envelope->status != SP_OK) +
                                  (envelope->retry_after_ms != 0) + (body != NULL));
    pack_text(&packer, "version");
    msgpack_pack_uint32(&packer, envelope->version);
    pack_text(&packer, "type");
    msgpack_pack_uint32(&packer, (uint32_t)envelope->type);
    pack_text(&packer, "id");
    msgpack_pack_uint64(&packer, envelope->request_id);
    if (token) {
        pack_text(&packer, "token");
        pack_text(&packer, envelope->token);
    }
    if (envelope->status != SP_OK) {
        pack_text(&packer, "status");
        msgpack_pack_uint32(&packer, (uint32_t)envelope->status);
    }
    if (text) {
        pack_text(&packer, "text");
        pack_text(&packer, envelope->text);
    }
    if (envelope->retry_after_ms != 0) {
        pack_text(&packer, "retry_after_ms");
        msgpack_pack_uint32(&packer, envelope->retry_after_ms);
    }
    if (body != NULL) {
        pack_text(&packer, "body");
        pack_struct(&packer, layout, body);
    }
}

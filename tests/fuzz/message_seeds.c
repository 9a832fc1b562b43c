/* fuzz_message_seeds DIR: writes one example of every message, where the fuzzer starts from. Every
 * field has a value, every list two items. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "proto/codec.h"

static void fill(const struct proto_layout *layout, struct sp_arena *arena, uint8_t *body)
{
    static const uint8_t bytes[32] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static const char *const text = "text";
    const struct proto_bytes array = {.data = bytes, .length = 4};
    const uint32_t two = 2;
    for (size_t i = 0; i < layout->field_count; i++) {
        const struct proto_field *field = &layout->fields[i];
        uint8_t *at = body + field->offset;
        const struct proto_layout *item;
        uint8_t *items;
        switch (field->kind) {
        case PROTO_KIND_STR:
            memcpy(at, &text, sizeof(text));
            break;
        case PROTO_KIND_BYTES:
        case PROTO_KIND_IDS:
        case PROTO_KIND_U64S:
        case PROTO_KIND_F32S:
            memcpy(at, &array, sizeof(array));
            break;
        case PROTO_KIND_DIGEST:
            memcpy(at, bytes, sizeof(bytes));
            break;
        case PROTO_KIND_LIST:
            item = field->item();
            items = sp_arena_alloc(arena, two, item->struct_bytes);
            for (uint32_t n = 0; n < two; n++)
                fill(item, arena, items + n * item->struct_bytes);
            memcpy(at, &items, sizeof(items));
            memcpy(body + field->count_offset, &two, sizeof(two));
            break;
        default:
            *at = 1;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    struct sp_error err = {.code = SP_OK, .text = ""};
    enum sp_err rc = sp_mkdir_p(argv[1], 0755, &err);
    for (int number = 1; number < 256 && rc == SP_OK; number++) {
        const struct proto_layout *layout = proto_layout_of((enum proto_type)number);
        if (layout == NULL)
            continue;
        struct sp_arena *arena = sp_arena_new(4096, 1 << 20);
        struct sp_buf out = SP_BUF_INIT;
        uint8_t *body = sp_arena_alloc(arena, 1, layout->struct_bytes);
        fill(layout, arena, body);
        const struct proto_envelope envelope = {.version = PROTO_VERSION,
                                                .type = (enum proto_type)number,
                                                .token = "gen-1.secret",
                                                .request_id = 7};
        proto_encode(&envelope, body, &out);
        char *path = sp_path_join(argv[1], layout->name);
        rc = sp_write_file_durable(path, out.data, out.length, 0644, &err);
        free(path);
        sp_buf_deinit(&out);
        sp_arena_free(arena);
    }
    if (rc != SP_OK)
        fprintf(stderr, "%s\n", err.text);
    return sp_err_exit_code(rc);
}

#include "proto/describe.h"

#include "common/base/mem.h"
#include "proto/codec.h"

static const char *kind_text(enum proto_kind kind)
{
    switch (kind) {
    case PROTO_KIND_U32:
        return "u32";
    case PROTO_KIND_I32:
        return "i32";
    case PROTO_KIND_U64:
        return "u64";
    case PROTO_KIND_I64:
        return "i64";
    case PROTO_KIND_F32:
        return "f32";
    case PROTO_KIND_F64:
        return "f64";
    case PROTO_KIND_BOOL:
        return "bool";
    case PROTO_KIND_STR:
        return "text";
    case PROTO_KIND_BYTES:
        return "bytes";
    case PROTO_KIND_DIGEST:
        return "digest";
    case PROTO_KIND_IDS:
        return "token ids";
    case PROTO_KIND_U64S:
        return "list of u64";
    case PROTO_KIND_F32S:
        return "list of f32";
    case PROTO_KIND_LIST:
        break;
    }
    return "list";
}

static void put_cell(struct sp_buf *out, const char *text)
{
    for (; *text != 0; text++)
        sp_buf_puts(out, *text == '|' ? "\\|" : (char[2]){*text, 0});
}

static void describe_fields(const struct proto_layout *layout, struct sp_buf *out)
{
    sp_buf_puts(out, "| field | type | what it is |\n| --- | --- | --- |\n");
    for (size_t i = 0; i < layout->field_count; i++) {
        const struct proto_field *field = &layout->fields[i];
        sp_buf_printf(out, "| `%s` | ", field->name);
        if (field->kind == PROTO_KIND_LIST)
            sp_buf_printf(out, "list of `%s`", field->item()->name);
        else
            sp_buf_puts(out, kind_text(field->kind));
        sp_buf_puts(out, " | ");
        put_cell(out, field->help);
        sp_buf_puts(out, " |\n");
    }
    sp_buf_putc(out, '\n');
}

/* Items are described behind the messages, each once, in the order in which they turn up. */
static size_t collect_items(const struct proto_layout **items, size_t room)
{
    size_t count = 0;
    for (int number = 1; number < 256; number++) {
        const struct proto_layout *layout = proto_layout_of((enum proto_type)number);
        for (size_t i = 0; layout != NULL && i < layout->field_count; i++) {
            if (layout->fields[i].kind != PROTO_KIND_LIST)
                continue;
            const struct proto_layout *item = layout->fields[i].item();
            size_t at = 0;
            while (at < count && items[at] != item)
                at++;
            SP_ASSERT(at < room);
            items[at] = item;
            count = SP_MAX(count, at + 1);
        }
    }
    return count;
}

void proto_describe_messages(struct sp_buf *out)
{
    for (int number = 2; number < 256; number += 2) {
        const struct proto_layout *request = proto_layout_of((enum proto_type)number);
        const struct proto_layout *reply = proto_layout_of((enum proto_type)(number + 1));
        if (request == NULL || reply == NULL)
            continue;
        sp_buf_printf(out, "### %s (%d)\n\n", request->name, number);
        describe_fields(request, out);
        sp_buf_printf(out, "Reply: `%s` (%d)\n\n", reply->name, number + 1);
        describe_fields(reply, out);
    }
    const struct proto_layout *items[32];
    size_t count = collect_items(items, SP_COUNT(items));
    for (size_t i = 0; i < count; i++) {
        sp_buf_printf(out, "### item %s\n\n", items[i]->name);
        describe_fields(items[i], out);
    }
}

#include "proto/codec.h"

/* Each table is static inside its function, where `self` names the struct that it describes. */
#define FIELD(kind, name, help) {#name, help, PROTO_KIND_##kind, offsetof(self, name), 0, NULL},
#define LIST(item, name, help)                                                                     \
    {#name,        help, PROTO_KIND_LIST, offsetof(self, name), offsetof(self, name##_count),      \
     layout_##item},
#define DEFINE_LAYOUT(name, NAME)                                                                  \
    static const struct proto_layout *layout_##name(void)                                          \
    {                                                                                              \
        typedef struct proto_##name self;                                                          \
        static const struct proto_field fields[] = {PROTO_##NAME##_FIELDS(FIELD, LIST)};           \
        static const struct proto_layout layout = {                                                \
            #name, fields, sizeof(fields) / sizeof(fields[0]), sizeof(self)};                      \
        return &layout;                                                                            \
    }
#define DEFINE_MESSAGE_LAYOUT(name, NAME, number) DEFINE_LAYOUT(name, NAME)

PROTO_ITEMS(DEFINE_LAYOUT)
PROTO_MESSAGES(DEFINE_MESSAGE_LAYOUT)

const struct proto_layout *proto_layout_of(enum proto_type type)
{
    switch (type) {
#define CASE(name, NAME, number)                                                                   \
    case PROTO_##NAME:                                                                             \
        return layout_##name();
        PROTO_MESSAGES(CASE)
#undef CASE
    case PROTO_NONE:
        break;
    }
    return NULL;
}

const char *proto_type_name(enum proto_type type)
{
    const struct proto_layout *layout = proto_layout_of(type);
    return layout != NULL ? layout->name : "unknown";
}

/* codec: the tables that messages.def becomes, for encoder, decoder, property tests and the
 * generated part of docs/protocol.md. Inside proto/ and its tests only. */
#ifndef SPIN_PROTO_CODEC_H
#define SPIN_PROTO_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "proto/messages.h"

enum proto_kind {
    PROTO_KIND_U32,
    PROTO_KIND_I32,
    PROTO_KIND_U64,
    PROTO_KIND_I64,
    PROTO_KIND_F32,
    PROTO_KIND_F64,
    PROTO_KIND_BOOL,
    PROTO_KIND_STR,
    PROTO_KIND_BYTES,
    PROTO_KIND_DIGEST,
    PROTO_KIND_IDS,
    PROTO_KIND_U64S,
    PROTO_KIND_F32S,
    PROTO_KIND_LIST,
};

struct proto_layout;
struct proto_field {
    const char *name;
    const char *help;
    enum proto_kind kind;
    size_t offset;                             /* in the struct */
    size_t count_offset;                       /* lists: of the uint32_t count */
    const struct proto_layout *(*item)(void); /* lists */
};
struct proto_layout {
    const char *name; /* "lease_reply" */
    const struct proto_field *fields;
    size_t field_count;
    size_t struct_bytes;
};

/* NULL for a number that is no message. */
const struct proto_layout *proto_layout_of(enum proto_type type);

/* Walks msgpack bytes without recursion and without reserving anything: exactly one object that
 * ends at `length`, nesting ≤ SP_MAX_MSGPACK_DEPTH, objects ≤ SP_MAX_MSGPACK_OBJECTS, every count
 * and length covered by the bytes that are left. */
enum sp_err proto_scan(const void *data, size_t length, struct sp_error *err) SP_MUST_USE;

#endif

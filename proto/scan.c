#include "common/base/limits.h"
#include "proto/codec.h"

/* What one msgpack header says: bytes of the header, bytes of payload behind it, objects inside. */
struct header {
    size_t header_bytes;
    uint64_t payload_bytes;
    uint64_t children;
};

static uint64_t big_endian(const uint8_t *p, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value = value << 8 | p[i];
    return value;
}

/* Source: the msgpack specification, "Formats". false: a reserved byte, or the header is cut. */
static bool read_header(const uint8_t *p, size_t left, struct header *ret)
{
    /* For 0xc0 … 0xdf: bytes of a length or count, or of the payload itself. */
    enum shape { PLAIN, LENGTH, EXTENSION, FIXED_EXTENSION, ARRAY, MAP, RESERVED };
    /* clang-format off */
    static const struct {
        uint8_t shape, bytes;
    } table[32] = {
        {PLAIN, 0},     {RESERVED, 0},  {PLAIN, 0},     {PLAIN, 0}, /* nil, -, false, true */
        {LENGTH, 1},    {LENGTH, 2},    {LENGTH, 4},                /* bin */
        {EXTENSION, 1}, {EXTENSION, 2}, {EXTENSION, 4},             /* ext */
        {PLAIN, 4},     {PLAIN, 8},                                 /* float */
        {PLAIN, 1},     {PLAIN, 2},     {PLAIN, 4},     {PLAIN, 8}, /* uint */
        {PLAIN, 1},     {PLAIN, 2},     {PLAIN, 4},     {PLAIN, 8}, /* int */
        {FIXED_EXTENSION, 1}, {FIXED_EXTENSION, 2}, {FIXED_EXTENSION, 4}, {FIXED_EXTENSION, 8},
        {FIXED_EXTENSION, 16},
        {LENGTH, 1},    {LENGTH, 2},    {LENGTH, 4},                /* str */
        {ARRAY, 2},     {ARRAY, 4},     {MAP, 2},       {MAP, 4},
    };
    /* clang-format on */
    *ret = (struct header){.header_bytes = 1};
    uint8_t c = p[0];
    if (c < 0x80 || c >= 0xe0)
        return true;
    if (c < 0xc0) {
        if (c < 0x90)
            ret->children = 2u * (c & 15u);
        else if (c < 0xa0)
            ret->children = c & 15u;
        else
            ret->payload_bytes = c & 31u;
        return true;
    }
    enum shape shape = table[c - 0xc0].shape;
    size_t bytes = table[c - 0xc0].bytes;
    if (shape == PLAIN || shape == FIXED_EXTENSION) {
        ret->payload_bytes = bytes + (shape == FIXED_EXTENSION);
        return true;
    }
    if (shape == RESERVED || left < 1 + bytes)
        return false;
    ret->header_bytes = 1 + bytes;
    uint64_t n = big_endian(p + 1, bytes);
    if (shape == ARRAY || shape == MAP)
        ret->children = shape == MAP ? 2 * n : n;
    else
        ret->payload_bytes = n + (shape == EXTENSION);
    return true;
}

enum sp_err proto_scan(const void *data, size_t length, struct sp_error *err)
{
    const uint8_t *bytes = data;
    uint64_t open[SP_MAX_MSGPACK_DEPTH + 1]; /* objects still to come at each level */
    int depth = 0;
    uint64_t objects = 0;
    size_t at = 0;
    open[0] = 1;
    while (depth > 0 || open[0] > 0) {
        if (open[depth] == 0) {
            depth--;
            continue;
        }
        struct header header;
        if (at >= length)
            return sp_fail(err, SP_EFORMAT, "message ends early, at byte %zu", at);
        if (!read_header(bytes + at, length - at, &header))
            return sp_fail(err, SP_EFORMAT, "byte %zu: not msgpack", at);
        open[depth]--;
        size_t start = at;
        at += header.header_bytes;
        /* Every object inside takes a byte at least: a count that promises more is a lie. */
        if (header.payload_bytes > length - at || header.children > length - at)
            return sp_fail(err, SP_EFORMAT, "byte %zu: announces more than the message holds",
                           start);
        at += (size_t)header.payload_bytes;
        objects += 1 + header.children;
        if (objects > SP_MAX_MSGPACK_OBJECTS)
            return sp_fail(err, SP_ELIMIT, "more than %d objects in a message",
                           SP_MAX_MSGPACK_OBJECTS);
        if (header.children > 0) {
            if (depth == SP_MAX_MSGPACK_DEPTH)
                return sp_fail(err, SP_ELIMIT, "byte %zu: nested deeper than %d levels", start,
                               SP_MAX_MSGPACK_DEPTH);
            open[++depth] = header.children;
        }
    }
    if (at != length)
        return sp_fail(err, SP_EFORMAT, "%zu bytes behind the end of the message", length - at);
    return SP_OK;
}

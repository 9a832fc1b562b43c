#include "common/text/internal.h"

/* Bytes that print in Latin-1 stand for themselves; the other 68 take the code points from 256 up,
 * in their own order: 0x00..0x20, 0x7f..0xa0, 0xad. */
uint32_t tok_byte_to_code(uint8_t byte)
{
    if (byte <= 0x20)
        return 256u + byte;
    if (byte >= 0x7f && byte <= 0xa0)
        return 256u + 33u + (byte - 0x7fu);
    if (byte == 0xad)
        return 256u + 67u;
    return byte;
}

int tok_code_to_byte(uint32_t code)
{
    if (code < 256)
        return code <= 0x20 || (code >= 0x7f && code <= 0xa0) || code == 0xad ? -1 : (int)code;
    if (code <= 256 + 0x20)
        return (int)(code - 256);
    if (code < 256 + 67)
        return (int)(code - 256 - 33 + 0x7f);
    return code == 256 + 67 ? 0xad : -1;
}

void tok_bytes_to_level(struct sp_buf *out, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint32_t code = tok_byte_to_code((uint8_t)bytes[i]);
        if (code < 0x80)
            sp_buf_putc(out, (char)code);
        else
            tok_utf8_append(out, code);
    }
}

bool tok_level_to_bytes(struct sp_buf *out, const char *text, size_t length)
{
    size_t before = out->length;
    for (size_t i = 0; i < length;) {
        int byte = tok_code_to_byte(tok_utf8_next(text, &i));
        if (byte < 0) {
            out->length = before;
            return false;
        }
        sp_buf_putc(out, (char)byte);
    }
    return true;
}

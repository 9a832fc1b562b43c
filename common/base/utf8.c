#include "common/base/utf8.h"

#include <stdint.h>

size_t sp_utf8_char(const char *text, size_t length)
{
    const unsigned char *p = (const unsigned char *)text;
    if (length == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    size_t bytes = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || length < bytes)
        return 0;
    uint32_t code = p[0] & (0x7Fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (p[i] & 0x3Fu);
    }
    if ((bytes == 3 && (code < 0x800 || (code >= 0xD800 && code < 0xE000))) ||
        (bytes == 4 && (code < 0x10000 || code > 0x10FFFF)))
        return 0;
    return bytes;
}

bool sp_is_utf8(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        size_t bytes = sp_utf8_char(text + i, length - i);
        if (bytes == 0)
            return false;
        i += bytes;
    }
    return true;
}

#include "common/text/utf8.h"

#include <string.h>
#include <utf8proc.h>

/* Length of the well-formed character at p, or 0 with the length of the bad part in *ret_bad. */
static size_t char_at(const unsigned char *p, size_t left, size_t *ret_bad)
{
    *ret_bad = 1;
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    size_t need = tok_utf8_length(p[0]);
    unsigned char low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < need; i++) {
        if (i >= left || p[i] < low || p[i] > high) {
            *ret_bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

size_t tok_utf8_check_part(const char *text, size_t length, size_t *ret_bad)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    *ret_bad = 0;
    while (i < length) {
        if (length - i >= 8) {
            uint64_t block;
            memcpy(&block, p + i, sizeof(block));
            if ((block & 0x8080808080808080u) == 0) {
                i += 8;
                continue;
            }
        }
        size_t bad;
        size_t n = char_at(p + i, length - i, &bad);
        if (n == 0) {
            *ret_bad = bad;
            return i;
        }
        i += n;
    }
    return length;
}

size_t tok_utf8_check(const char *text, size_t length)
{
    size_t bad;
    return tok_utf8_check_part(text, length, &bad);
}

void tok_utf8_append_lossy(struct sp_buf *out, const char *text, size_t length)
{
    while (length > 0) {
        size_t bad;
        size_t good = tok_utf8_check_part(text, length, &bad);
        sp_buf_append(out, text, good);
        if (bad > 0)
            sp_buf_append(out, "\xef\xbf\xbd", 3);
        text += good + bad;
        length -= good + bad;
    }
}

void tok_utf8_append(struct sp_buf *out, uint32_t code)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)code, bytes);
    sp_buf_append(out, bytes, (size_t)n);
}

static utf8proc_category_t category(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code);
}

bool tok_is_space(uint32_t code)
{
    if (code < 0x80)
        return code == ' ' || (code >= 9 && code <= 13);
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
           code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool tok_is_number(uint32_t code)
{
    if (code < 0x80)
        return code >= '0' && code <= '9';
    utf8proc_category_t c = category(code);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool tok_is_letter(uint32_t code)
{
    if (code < 0x80)
        return (code | 0x20) >= 'a' && (code | 0x20) <= 'z';
    utf8proc_category_t c = category(code);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool tok_is_punctuation(uint32_t code)
{
    if (code < 0x80)
        return code > ' ' && code < 0x7f && !tok_is_letter(code) && !tok_is_number(code);
    utf8proc_category_t c = category(code);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool tok_is_word(uint32_t code)
{
    if (code < 0x80)
        return code == '_' || tok_is_letter(code) || tok_is_number(code);
    /* Other_Alphabetic outside the letters and marks: the circled and squared Latin letters. */
    if (code == 0x200c || code == 0x200d || (code >= 0x24b6 && code <= 0x24e9) ||
        (code >= 0x1f130 && code <= 0x1f149) || (code >= 0x1f150 && code <= 0x1f169) ||
        (code >= 0x1f170 && code <= 0x1f189))
        return true;
    utf8proc_category_t c = category(code);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ME) || c == UTF8PROC_CATEGORY_ND ||
           c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_PC;
}

bool tok_is_mark(uint32_t code)
{
    if (code < 0x300)
        return false;
    utf8proc_category_t c = category(code);
    return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

/* utf8: walking over UTF-8, and the character classes that the tokenizer format speaks of.
 * Any thread. */
#ifndef SPIN_TEXT_UTF8_H
#define SPIN_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"

/* Offset of the first byte that is not part of well-formed UTF-8, or `length` if there is none. */
size_t tok_utf8_check(const char *text, size_t length);
/* The same, with the length of the maximal ill-formed part at that offset in *ret_bad (Unicode 3.9,
 * "substitution of maximal subparts": each such part becomes one U+FFFD). */
size_t tok_utf8_check_part(const char *text, size_t length, size_t *ret_bad);
/* Appends text with every ill-formed part replaced by U+FFFD. */
void tok_utf8_append_lossy(struct sp_buf *out, const char *text, size_t length);
/* Appends one code point. */
void tok_utf8_append(struct sp_buf *out, uint32_t code);

/* Bytes of the character that starts with this byte; the text must be well-formed. */
static inline size_t tok_utf8_length(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* The code point at `at`, which moves behind it; the text must be well-formed and at a character's
 * start. */
static inline uint32_t tok_utf8_next(const char *text, size_t *at)
{
    const unsigned char *p = (const unsigned char *)text + *at;
    if (p[0] < 0x80) {
        *at += 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *at += 2;
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    }
    if (p[0] < 0xf0) {
        *at += 3;
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    }
    *at += 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* The start of the character that ends before `at`; at > 0. */
static inline size_t tok_utf8_before(const char *text, size_t at)
{
    do
        at--;
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

bool tok_is_space(uint32_t code);       /* White_Space */
bool tok_is_number(uint32_t code);      /* categories Nd, Nl, No */
bool tok_is_letter(uint32_t code);      /* categories L* */
bool tok_is_punctuation(uint32_t code); /* ASCII punctuation and categories P* */
bool tok_is_word(uint32_t code);        /* \w of regular expressions on Unicode */
bool tok_is_mark(uint32_t code);        /* categories M* */

#endif

/* utf8: validity of text from outside. Any thread. */
#ifndef SPIN_BASE_UTF8_H
#define SPIN_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed as in Unicode 15, table 3-7: no overlong forms, no surrogates, at most U+10FFFF. */
bool sp_is_utf8(const char *text, size_t length);
/* Bytes of the well-formed character at text, 0 if there is none. */
size_t sp_utf8_char(const char *text, size_t length);

#endif

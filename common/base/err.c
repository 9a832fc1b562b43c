#include "common/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/utf8.h"

/* Details often quote bytes of a hostile file, or a text cut inside a character: whatever could
 * break a line or a terminal, or is not UTF-8, becomes a question mark. */
static void make_one_line(char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)text[i];
        size_t bytes = sp_utf8_char(text + i, length - i);
        if (c == '\n' || c == '\r' || c == '\t')
            text[i] = ' ';
        else if (c < 0x20 || c == 0x7f || bytes == 0)
            text[i] = '?';
        i += bytes > 0 ? bytes : 1;
    }
}

enum sp_err sp_failv(struct sp_error *err, enum sp_err code, const char *format, va_list args)
{
    if (err == NULL)
        return code;
    /* The arguments may point into err->text, so the text is made aside. */
    char text[SP_ERROR_TEXT_BYTES];
    vsnprintf(text, sizeof(text), format, args);
    make_one_line(text);
    memcpy(err->text, text, strlen(text) + 1);
    err->code = code;
    return code;
}

enum sp_err sp_fail(struct sp_error *err, enum sp_err code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    sp_failv(err, code, format, args);
    va_end(args);
    return code;
}

static enum sp_err code_of_errno(int errno_value)
{
    switch (errno_value) {
    case ENOENT:
        return SP_ENOTFOUND;
    case EEXIST:
        return SP_EEXIST;
    case EACCES:
    case EPERM:
        return SP_EDENIED;
    case ENOMEM:
        return SP_ENOMEM;
    default:
        return SP_EIO;
    }
}

enum sp_err sp_fail_errno(struct sp_error *err, int errno_value, const char *format, ...)
{
    enum sp_err code = code_of_errno(errno_value);
    char prefix[SP_ERROR_TEXT_BYTES];
    char reason[128];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    return sp_fail(err, code, "%s: %s", prefix, strerror_r(errno_value, reason, sizeof(reason)));
}

enum sp_err sp_wrap(struct sp_error *err, enum sp_err code, const char *format, ...)
{
    if (err == NULL)
        return code;
    char prefix[SP_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    return sp_fail(err, code, "%s: %s", prefix, err->text);
}

const char *sp_err_name(enum sp_err code)
{
    switch (code) {
#define CASE(name, number, text, exit_code)                                                        \
    case name:                                                                                     \
        return #name;
        SP_ERR_LIST(CASE)
#undef CASE
    }
    return "SP_UNKNOWN";
}

const char *sp_err_text(enum sp_err code)
{
    switch (code) {
#define CASE(name, number, text, exit_code)                                                        \
    case name:                                                                                     \
        return text;
        SP_ERR_LIST(CASE)
#undef CASE
    }
    return "unknown error";
}

int sp_err_exit_code(enum sp_err code)
{
    switch (code) {
#define CASE(name, number, text, exit_code)                                                        \
    case name:                                                                                     \
        return exit_code;
        SP_ERR_LIST(CASE)
#undef CASE
    }
    return 1;
}

enum sp_err sp_err_from_number(int number)
{
    switch (number) {
#define CASE(name, code, text, exit_code)                                                          \
    case code:                                                                                     \
        return name;
        SP_ERR_LIST(CASE)
#undef CASE
    }
    return SP_EINTERNAL;
}

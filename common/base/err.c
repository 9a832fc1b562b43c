#include "common/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Details often quote bytes of a hostile file: whatever could break a line or a terminal becomes a
 * question mark. Bytes of 128 and above stay, they are UTF-8 in most messages. */
static void make_one_line(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p != 0; p++) {
        if (*p == '\n' || *p == '\r' || *p == '\t')
            *p = ' ';
        else if (*p < 0x20 || *p == 0x7f)
            *p = '?';
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

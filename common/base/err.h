/* err: the one list of error codes and the error detail that callers pass down.
 *
 * A function that can fail returns an enum sp_err and takes, last, a `struct sp_error *` for the
 * detail (it may be NULL). Outputs named `ret_…` are untouched on failure. Detail is wrapped
 * outward, so that a message reads from the general to the particular:
 *     load checkpoint: shard 2: tensor model.norm.weight: 512 bytes, expected 1152
 * Any thread; no globals. */
#ifndef SPIN_BASE_ERR_H
#define SPIN_BASE_ERR_H

#include <stdarg.h>

/* name, number on the wire, what it means to a user, exit code of a program that ends with it */
#define SP_ERR_LIST(X)                                                                             \
    X(SP_OK, 0, "ok", 0)                                                                           \
    X(SP_EINVAL, 1, "invalid argument", 2)                                                         \
    X(SP_EFORMAT, 2, "malformed input", 3)                                                         \
    X(SP_ENOTFOUND, 3, "not found", 4)                                                             \
    X(SP_EEXIST, 4, "already exists", 5)                                                           \
    X(SP_EIO, 5, "input/output error", 6)                                                          \
    X(SP_ENOMEM, 6, "out of memory", 7)                                                            \
    X(SP_ELIMIT, 7, "over a limit", 8)                                                             \
    X(SP_EVERSION, 8, "unsupported version", 9)                                                    \
    X(SP_ESTATE, 9, "not possible in this state", 10)                                              \
    X(SP_EDENIED, 10, "permission denied", 11)                                                     \
    X(SP_EUNAVAIL, 11, "temporarily unavailable", 12)                                              \
    X(SP_ETIMEOUT, 12, "timed out", 13)                                                            \
    X(SP_ECORRUPT, 13, "digest mismatch", 14)                                                      \
    X(SP_ENUMERIC, 14, "not a finite number", 15)                                                  \
    X(SP_ECANCELED, 15, "cancelled", 16)                                                           \
    X(SP_ESTALE, 16, "stale epoch", 17)                                                            \
    X(SP_EUNSUPPORTED, 17, "not supported", 18)                                                    \
    X(SP_EINTERNAL, 18, "internal error", 19)

#define SP_ERR_ENUM(name, number, text, exit_code) name = number,
enum sp_err { SP_ERR_LIST(SP_ERR_ENUM) };
#undef SP_ERR_ENUM

#define SP_ERROR_TEXT_BYTES 1024
#define SP_MUST_USE __attribute__((warn_unused_result))

struct sp_error {
    enum sp_err code;
    char text[SP_ERROR_TEXT_BYTES]; /* one line, no newline, always terminated */
};

/* Sets *err (if not NULL) and returns code, for `return sp_fail(err, SP_EFORMAT, "…")`. */
enum sp_err sp_fail(struct sp_error *err, enum sp_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
enum sp_err sp_failv(struct sp_error *err, enum sp_err code, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
/* The same with ": strerror(errno_value)" appended; the code is chosen from errno_value
 * (ENOENT → SP_ENOTFOUND, EEXIST, EACCES/EPERM → SP_EDENIED, ENOMEM, else SP_EIO). */
enum sp_err sp_fail_errno(struct sp_error *err, int errno_value, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "format: " before the text already in *err; returns code unchanged. */
enum sp_err sp_wrap(struct sp_error *err, enum sp_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

const char *sp_err_name(enum sp_err code); /* "SP_EFORMAT"; static */
const char *sp_err_text(enum sp_err code); /* "malformed input"; static */
int sp_err_exit_code(enum sp_err code);    /* what a program that ends with it returns */
/* The code with this wire number, or SP_EINTERNAL. */
enum sp_err sp_err_from_number(int number);

#endif

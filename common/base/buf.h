/* buf: a growing byte buffer. One thread at a time. Always terminated by a NUL that does not
 * count in `length`, so `data` can be used as a C string when the content has none. */
#ifndef SPIN_BASE_BUF_H
#define SPIN_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct sp_buf {
    char *data;      /* owned; never NULL after the first append; NULL in SP_BUF_INIT */
    size_t length;   /* bytes in use */
    size_t capacity; /* bytes allocated */
};
#define SP_BUF_INIT                                                                                \
    {                                                                                              \
        0                                                                                          \
    }

void sp_buf_deinit(struct sp_buf *buf); /* frees; leaves SP_BUF_INIT */
void sp_buf_clear(struct sp_buf *buf);  /* length 0, keeps the memory */
void sp_buf_reserve(struct sp_buf *buf, size_t extra);
void sp_buf_append(struct sp_buf *buf, const void *data, size_t length);
void sp_buf_puts(struct sp_buf *buf, const char *text);
void sp_buf_putc(struct sp_buf *buf, char c);
void sp_buf_printf(struct sp_buf *buf, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
char *sp_buf_detach(struct sp_buf *buf); /* gives the memory to the caller (free()); "" if empty */

/* Little-endian fixed-width writes for disk formats. */
void sp_buf_put_u32(struct sp_buf *buf, uint32_t value);
void sp_buf_put_u64(struct sp_buf *buf, uint64_t value);

#endif

#include "common/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

void sp_buf_deinit(struct sp_buf *buf)
{
    free(buf->data);
    *buf = (struct sp_buf)SP_BUF_INIT;
}

void sp_buf_clear(struct sp_buf *buf)
{
    buf->length = 0;
    if (buf->data != NULL)
        buf->data[0] = 0;
}

void sp_buf_reserve(struct sp_buf *buf, size_t extra)
{
    size_t need;
    SP_ASSERT(sp_add_size(buf->length, extra, &need) && sp_add_size(need, 1, &need));
    if (need <= buf->capacity)
        return;
    size_t capacity = buf->capacity < 64 ? 64 : buf->capacity;
    while (capacity < need)
        capacity = capacity <= SIZE_MAX / 2 ? capacity * 2 : need;
    buf->data = sp_xgrow(buf->data, capacity, 1);
    buf->capacity = capacity;
    buf->data[buf->length] = 0;
}

void sp_buf_append(struct sp_buf *buf, const void *data, size_t length)
{
    sp_buf_reserve(buf, length);
    if (length > 0)
        memcpy(buf->data + buf->length, data, length);
    buf->length += length;
    buf->data[buf->length] = 0;
}

void sp_buf_puts(struct sp_buf *buf, const char *text)
{
    sp_buf_append(buf, text, strlen(text));
}

void sp_buf_putc(struct sp_buf *buf, char c)
{
    sp_buf_append(buf, &c, 1);
}

void sp_buf_printf(struct sp_buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    sp_buf_reserve(buf, 127);
    size_t room = buf->capacity - buf->length;
    int n = vsnprintf(buf->data + buf->length, room, format, args);
    SP_ASSERT(n >= 0);
    if ((size_t)n >= room) {
        sp_buf_reserve(buf, (size_t)n);
        vsnprintf(buf->data + buf->length, (size_t)n + 1, format, again);
    }
    buf->length += (size_t)n;
    va_end(again);
    va_end(args);
}

char *sp_buf_detach(struct sp_buf *buf)
{
    char *data = buf->data != NULL ? buf->data : sp_xstrdup("");
    *buf = (struct sp_buf)SP_BUF_INIT;
    return data;
}

void sp_buf_put_u32(struct sp_buf *buf, uint32_t value)
{
    uint8_t bytes[4];
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    sp_buf_append(buf, bytes, sizeof(bytes));
}

void sp_buf_put_u64(struct sp_buf *buf, uint64_t value)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    sp_buf_append(buf, bytes, sizeof(bytes));
}

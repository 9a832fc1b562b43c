/* source: the bytes of a file or of memory, decompressed on the way where the first bytes say gzip
 * or zstd. Memory is bounded by two buffers and the decompressor's window (SP_MAX_ZSTD_WINDOW),
 * whatever the size of the file. One thread; blocks on the file. Within common/text. */
#ifndef SPIN_TEXT_SOURCE_H
#define SPIN_TEXT_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define TOK_SOURCE_END (-1)

/* The part that is read byte by byte; the rest is source.c's. */
struct tok_source {
    const uint8_t *at, *end; /* decompressed and not yet read */
};

/* `what` names the file in messages. Formats that are known but not read (Parquet, Arrow, xz, zip,
 * bzip2) are SP_EUNSUPPORTED with the remedy. */
enum sp_err tok_source_open(const char *path, const char *what, struct tok_source **ret,
                            struct sp_error *err) SP_MUST_USE;
/* The same from memory, which is borrowed until close. */
enum sp_err tok_source_open_memory(const void *data, size_t length, const char *what,
                                   struct tok_source **ret, struct sp_error *err) SP_MUST_USE;
void tok_source_close(struct tok_source *source); /* NULL is fine */

/* Makes `at` < `end`; TOK_SOURCE_END at the end or after an error, else 0. */
int tok_source_fill(struct tok_source *source);
/* What ended the reading, if that was no end of the file. */
enum sp_err tok_source_error(const struct tok_source *source, struct sp_error *err) SP_MUST_USE;
uint64_t tok_source_read_bytes(const struct tok_source *source); /* of the file, as it lies there */
uint64_t tok_source_total_bytes(const struct tok_source *source); /* 0: unknown */
uint64_t tok_source_text_bytes(const struct tok_source *source);  /* read so far, decompressed */

static inline int tok_source_next(struct tok_source *source)
{
    if (source->at == source->end && tok_source_fill(source) == TOK_SOURCE_END)
        return TOK_SOURCE_END;
    return *source->at++;
}

/* Once after each tok_source_next that gave a byte. */
static inline void tok_source_unread(struct tok_source *source)
{
    source->at--;
}

#endif

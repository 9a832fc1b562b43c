#include "common/text/source.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "common/base/limits.h"
#include "common/base/mem.h"

#define BUFFER_BYTES (128 << 10)
#define WINDOW_LOG 27 /* of SP_MAX_ZSTD_WINDOW */
_Static_assert(SP_MAX_ZSTD_WINDOW == 1 << WINDOW_LOG, "the window and its logarithm");

enum kind { PLAIN, GZIP, ZSTD };

struct source {
    struct tok_source head; /* first */
    FILE *file;             /* NULL: memory */
    const uint8_t *memory;  /* not yet read */
    size_t memory_left;
    uint64_t raw_bytes, total_bytes, text_bytes; /* text_bytes: given to the reader */
    char *what;                                  /* owned */
    enum kind kind;
    z_stream gzip;
    ZSTD_DStream *zstd;
    uint8_t *in, *out;        /* [BUFFER_BYTES]; plain files use `out` only */
    size_t in_at, in_end;     /* compressed and not yet decompressed */
    bool in_frame, raw_ended; /* within a member or frame; no more bytes in the file */
    struct sp_error failure;  /* code SP_OK: none */
};

static struct source *of(struct tok_source *head)
{
    return (struct source *)head;
}

/* Bytes as they lie in the file; 0 at its end or after an error. */
static size_t read_raw(struct source *s, uint8_t *to, size_t capacity)
{
    size_t got = 0;
    if (s->file != NULL) {
        got = fread(to, 1, capacity, s->file);
        if (got == 0 && ferror(s->file))
            sp_fail_errno(&s->failure, errno != 0 ? errno : EIO, "%s: reading", s->what);
    } else if (s->memory_left > 0) {
        got = SP_MIN(capacity, s->memory_left);
        memcpy(to, s->memory, got);
        s->memory += got;
        s->memory_left -= got;
    }
    s->raw_bytes += got;
    s->raw_ended = got == 0;
    return got;
}

static bool refill(struct source *s)
{
    if (s->in_at < s->in_end)
        return true;
    s->in_at = 0;
    s->in_end = s->raw_ended ? 0 : read_raw(s, s->in, BUFFER_BYTES);
    return s->in_end > 0;
}

static size_t damaged(struct source *s, const char *format, const char *detail)
{
    sp_fail(&s->failure, SP_EFORMAT, "%s: the %s data is damaged near byte %llu: %s; fetch it anew",
            s->what, format, (unsigned long long)(s->raw_bytes - (s->in_end - s->in_at)), detail);
    return 0;
}

/* Each fills `out` as far as the file goes, so that its first bytes are there together however they
 * are cut into members and frames; 0 at the end or after an error. */

static size_t inflate_some(struct source *s)
{
    s->gzip.next_out = s->out;
    s->gzip.avail_out = BUFFER_BYTES;
    while (s->gzip.avail_out > 0 && refill(s)) {
        if (!s->in_frame && s->in[s->in_at] == 0) {
            s->in_at++; /* zeros fill up the blocks of some media */
            continue;
        }
        if (!s->in_frame && inflateReset(&s->gzip) != Z_OK)
            return damaged(s, "gzip", "it can't be started again");
        s->in_frame = true;
        s->gzip.next_in = s->in + s->in_at;
        s->gzip.avail_in = (unsigned)(s->in_end - s->in_at);
        int rc = inflate(&s->gzip, Z_NO_FLUSH);
        s->in_at = s->in_end - s->gzip.avail_in;
        if (rc == Z_STREAM_END)
            s->in_frame = false;
        else if (rc != Z_OK && rc != Z_BUF_ERROR)
            return damaged(s, "gzip", s->gzip.msg != NULL ? s->gzip.msg : zError(rc));
    }
    if (s->failure.code != SP_OK)
        return 0;
    if (s->in_frame && s->gzip.avail_out > 0)
        return damaged(s, "gzip", "the file ends early");
    return BUFFER_BYTES - s->gzip.avail_out;
}

static size_t unzstd_some(struct source *s)
{
    ZSTD_outBuffer out = {.dst = s->out, .size = BUFFER_BYTES};
    while (out.pos < out.size && refill(s)) {
        ZSTD_inBuffer in = {.src = s->in, .size = s->in_end, .pos = s->in_at};
        size_t rc = ZSTD_decompressStream(s->zstd, &out, &in);
        s->in_at = in.pos;
        if (ZSTD_isError(rc) && ZSTD_getErrorCode(rc) == ZSTD_error_frameParameter_windowTooLarge) {
            sp_fail(&s->failure, SP_ELIMIT,
                    "%s: it needs a zstd window above %d MiB: compress it without --long or "
                    "--ultra",
                    s->what, SP_MAX_ZSTD_WINDOW >> 20);
            return 0;
        }
        if (ZSTD_isError(rc))
            return damaged(s, "zstd", ZSTD_getErrorName(rc));
        s->in_frame = rc != 0;
    }
    if (s->failure.code != SP_OK)
        return 0;
    if (s->in_frame && out.pos < out.size)
        return damaged(s, "zstd", "the file ends early");
    return out.pos;
}

int tok_source_fill(struct tok_source *source)
{
    struct source *s = of(source);
    size_t got = 0;
    if (s->failure.code == SP_OK) {
        if (s->kind == PLAIN)
            got = s->raw_ended ? 0 : read_raw(s, s->out, BUFFER_BYTES);
        else
            got = s->kind == GZIP ? inflate_some(s) : unzstd_some(s);
    }
    source->at = s->out;
    source->end = s->out + got;
    s->text_bytes += got;
    return got > 0 ? 0 : TOK_SOURCE_END;
}

/* ---- what it is ---- */

static const char parquet[] =
    "a Parquet file, which is not read: make JSON Lines of it once, with `python3 -c \"import "
    "pandas; pandas.read_parquet('FILE').to_json('FILE.jsonl', orient='records', lines=True)\"`";
static const struct {
    const char *magic;
    const char *what; /* NULL: read */
    enum kind kind;
} magics[] = {
    {"\x1f\x8b", NULL, GZIP},
    {"\x28\xb5\x2f\xfd", NULL, ZSTD},
    {"PAR1", parquet, PLAIN},
    {"ARROW1", "an Arrow file, which is not read: write JSON Lines instead", PLAIN},
    {"PK\x03\x04", "a zip archive, which is not read: unpack it first", PLAIN},
    {"BZh", "a bzip2 file, which is not read: `bunzip2` it, or compress with gzip or zstd", PLAIN},
    {"\xfd"
     "7zXZ",
     "an xz file, which is not read: `unxz` it, or compress with gzip or zstd", PLAIN},
    {"SQLite format 3", "an SQLite database, which is not read: write JSON Lines instead", PLAIN},
    {"\xff\xfe", "in UTF-16, which is not read: write it in UTF-8", PLAIN},
    {"\xfe\xff", "in UTF-16, which is not read: write it in UTF-8", PLAIN},
};

static enum sp_err start(struct source *s, struct sp_error *err)
{
    s->out = sp_xalloc(BUFFER_BYTES);
    size_t got = read_raw(s, s->out, BUFFER_BYTES);
    for (size_t i = 0; i < SP_COUNT(magics); i++) {
        size_t length = strlen(magics[i].magic);
        if (got < length || memcmp(s->out, magics[i].magic, length) != 0)
            continue;
        if (magics[i].what != NULL)
            return sp_fail(err, SP_EUNSUPPORTED, "%s: this is %s", s->what, magics[i].what);
        s->kind = magics[i].kind;
    }
    s->head.at = s->out;
    s->head.end = s->out + got;
    s->text_bytes = s->kind == PLAIN ? got : 0;
    if (s->kind == PLAIN)
        return tok_source_error(&s->head, err);
    s->head.at = s->head.end = s->out;
    s->in = s->out;
    s->in_end = got;
    s->out = sp_xalloc(BUFFER_BYTES);
    if (s->kind == GZIP && inflateInit2(&s->gzip, 15 + 16) != Z_OK)
        return sp_fail(err, SP_ENOMEM, "%s: no memory for gzip", s->what);
    if (s->kind == ZSTD) {
        s->zstd = ZSTD_createDStream();
        if (s->zstd == NULL ||
            ZSTD_isError(ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, WINDOW_LOG)))
            return sp_fail(err, SP_ENOMEM, "%s: no memory for zstd", s->what);
    }
    return SP_OK;
}

static enum sp_err finish_open(struct source *s, struct tok_source **ret, struct sp_error *err)
{
    enum sp_err rc = start(s, err);
    if (rc == SP_OK)
        *ret = &s->head;
    else
        tok_source_close(&s->head);
    return rc;
}

enum sp_err tok_source_open(const char *path, const char *what, struct tok_source **ret,
                            struct sp_error *err)
{
    FILE *file = fopen(path, "re");
    struct stat info;
    if (file == NULL)
        return sp_fail_errno(err, errno, "%s: opening the dataset", what);
    struct source *s = sp_xalloc(sizeof(*s));
    s->file = file;
    setvbuf(file, NULL, _IONBF, 0);
    s->what = sp_xstrdup(what);
    if (fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode))
        s->total_bytes = (uint64_t)info.st_size;
    return finish_open(s, ret, err);
}

enum sp_err tok_source_open_memory(const void *data, size_t length, const char *what,
                                   struct tok_source **ret, struct sp_error *err)
{
    struct source *s = sp_xalloc(sizeof(*s));
    s->memory = data;
    s->memory_left = length;
    s->total_bytes = length;
    s->what = sp_xstrdup(what);
    return finish_open(s, ret, err);
}

void tok_source_close(struct tok_source *source)
{
    if (source == NULL)
        return;
    struct source *s = of(source);
    if (s->kind == GZIP)
        inflateEnd(&s->gzip);
    ZSTD_freeDStream(s->zstd);
    if (s->file != NULL)
        fclose(s->file);
    free(s->in);
    free(s->out);
    free(s->what);
    free(s);
}

enum sp_err tok_source_error(const struct tok_source *source, struct sp_error *err)
{
    const struct source *s = (const struct source *)source;
    if (s->failure.code == SP_OK)
        return SP_OK;
    return sp_fail(err, s->failure.code, "%s", s->failure.text);
}

uint64_t tok_source_read_bytes(const struct tok_source *source)
{
    const struct source *s = (const struct source *)source;
    return s->raw_bytes - (s->in_end - s->in_at) -
           (s->kind == PLAIN ? (uint64_t)(source->end - source->at) : 0);
}

uint64_t tok_source_total_bytes(const struct tok_source *source)
{
    return ((const struct source *)source)->total_bytes;
}

uint64_t tok_source_text_bytes(const struct tok_source *source)
{
    return ((const struct source *)source)->text_bytes - (uint64_t)(source->end - source->at);
}

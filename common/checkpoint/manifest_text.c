#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/manifest.h"
#include "common/checkpoint/manifest_internal.h"

#define FIRST_LINE "spin-manifest 1"
#define MAX_LINE 512 /* "file " + 64 + size + a path of 255 */

void ckpt_manifest_format(const struct ckpt_manifest *manifest, struct sp_buf *out)
{
    char hex[SP_DIGEST_HEX];
    sp_buf_puts(out, FIRST_LINE "\n");
    for (size_t i = 0; i < manifest->count; i++) {
        const struct ckpt_manifest_file *file = &manifest->files[i];
        sp_digest_hex(&file->sha256, hex);
        sp_buf_printf(out, "file %s %" PRIu64 " %s\n", hex, file->bytes, file->path);
        for (uint32_t k = 0; k < file->chunk_count; k++) {
            sp_digest_hex(&file->chunks[k], hex);
            sp_buf_printf(out, "chunk %s\n", hex);
        }
    }
}

struct reader {
    const char *text;
    size_t length, place;
    size_t line;            /* number of the current one, from 1 */
    char current[MAX_LINE]; /* without its newline */
};

/* SP_ENOTFOUND at the end. */
static enum sp_err next_line(struct reader *r, struct sp_error *err)
{
    if (r->place == r->length)
        return SP_ENOTFOUND;
    r->line++;
    const char *start = r->text + r->place;
    const char *end = memchr(start, '\n', r->length - r->place);
    if (end == NULL)
        return sp_fail(err, SP_EFORMAT, "it ends inside a line");
    size_t n = (size_t)(end - start);
    if (n >= MAX_LINE)
        return sp_fail(err, SP_EFORMAT, "line of %zu bytes", n);
    if (memchr(start, 0, n) != NULL)
        return sp_fail(err, SP_EFORMAT, "a NUL byte");
    memcpy(r->current, start, n);
    r->current[n] = 0;
    r->place += n + 1;
    return SP_OK;
}

/* Canonical decimal: digits only, no leading zero, at most what a manifest can describe. */
static enum sp_err parse_size(const char *text, size_t digits, uint64_t *ret, struct sp_error *err)
{
    uint64_t value = 0, limit = (uint64_t)SP_MAX_MANIFEST / 71 * SP_MAX_CHUNK;
    if (digits == 0 || (digits > 1 && text[0] == '0'))
        return sp_fail(err, SP_EFORMAT, "the size is not a plain number");
    for (size_t i = 0; i < digits; i++) {
        if (text[i] < '0' || text[i] > '9')
            return sp_fail(err, SP_EFORMAT, "the size is not a plain number");
        value = value * 10 + (uint64_t)(text[i] - '0');
        if (value > limit)
            return sp_fail(err, SP_ELIMIT, "a file of more than %" PRIu64 " bytes", limit);
    }
    *ret = value;
    return SP_OK;
}

static enum sp_err parse_hex(const char *text, struct sp_digest *ret, struct sp_error *err)
{
    char hex[SP_DIGEST_HEX];
    size_t n = strnlen(text, SP_DIGEST_HEX - 1);
    memcpy(hex, text, n);
    hex[n] = 0;
    return sp_digest_parse(hex, ret, err);
}

/* "file <sha256> <size> <path>"; the number of chunk lines that must follow stays in chunk_count.
 */
static enum sp_err parse_file(const char *line, struct ckpt_manifest *manifest,
                              struct ckpt_manifest_file *file, struct sp_error *err)
{
    const char *p = line + strlen("file ");
    enum sp_err rc = parse_hex(p, &file->sha256, err);
    if (rc != SP_OK)
        return rc;
    p += SP_DIGEST_HEX - 1;
    if (*p != ' ')
        return sp_fail(err, SP_EFORMAT, "expected \"file <sha256> <size> <path>\"");
    p++;
    size_t digits = strcspn(p, " ");
    rc = parse_size(p, digits, &file->bytes, err);
    if (rc != SP_OK)
        return rc;
    p += digits;
    if (*p != ' ')
        return sp_fail(err, SP_EFORMAT, "expected \"file <sha256> <size> <path>\"");
    p++;
    if (!sp_path_is_safe(p))
        return sp_fail(err, SP_EFORMAT, "the path is not a plain relative one");
    if (manifest->count > 0 && strcmp(manifest->files[manifest->count - 1].path, p) >= 0)
        return sp_fail(err, SP_EFORMAT, "files are not sorted by path, each once");
    file->chunk_count = (uint32_t)((file->bytes + SP_MAX_CHUNK - 1) / SP_MAX_CHUNK);
    file->path = sp_xstrdup(p);
    return SP_OK;
}

static enum sp_err parse_chunks(struct reader *r, struct ckpt_manifest_file *file,
                                struct sp_error *err)
{
    /* The lines are counted before memory is taken for them. */
    if ((r->length - r->place) / 71 < file->chunk_count)
        return sp_fail(err, SP_EFORMAT, "file %s: %u chunks expected, the text is too short",
                       file->path, file->chunk_count);
    file->chunks = sp_xarray(file->chunk_count, sizeof(*file->chunks));
    for (uint32_t k = 0; k < file->chunk_count; k++) {
        enum sp_err rc = next_line(r, err);
        if (rc == SP_ENOTFOUND || (rc == SP_OK && (strncmp(r->current, "chunk ", 6) != 0 ||
                                                   strlen(r->current) != 6 + 64)))
            return sp_fail(err, SP_EFORMAT, "file %s: expected \"chunk <sha256>\", %u of %u",
                           file->path, k + 1, file->chunk_count);
        if (rc == SP_OK)
            rc = parse_hex(r->current + 6, &file->chunks[k], err);
        if (rc != SP_OK)
            return rc;
    }
    if (file->chunk_count == 1 && !sp_digest_equal(&file->chunks[0], &file->sha256))
        return sp_fail(err, SP_EFORMAT, "file %s: its only chunk has another digest", file->path);
    return SP_OK;
}

static enum sp_err parse_files(struct reader *r, struct ckpt_manifest *manifest,
                               struct sp_error *err)
{
    for (;;) {
        enum sp_err rc = next_line(r, err);
        if (rc == SP_ENOTFOUND)
            return SP_OK;
        if (rc != SP_OK)
            return rc;
        if (strncmp(r->current, "file ", 5) != 0)
            return sp_fail(err, SP_EFORMAT, "expected \"file <sha256> <size> <path>\"");
        if (manifest->count == SP_MAX_MANIFEST_FILES)
            return sp_fail(err, SP_ELIMIT, "more than %d files", SP_MAX_MANIFEST_FILES);
        struct ckpt_manifest_file file = {0};
        rc = parse_file(r->current, manifest, &file, err);
        if (rc == SP_OK)
            rc = parse_chunks(r, &file, err);
        if (rc != SP_OK) {
            free(file.path);
            free(file.chunks);
            return rc;
        }
        if ((manifest->count & (manifest->count - 1)) == 0)
            manifest->files =
                sp_xgrow(manifest->files, manifest->count == 0 ? 1 : manifest->count * 2,
                         sizeof(*manifest->files));
        manifest->files[manifest->count++] = file;
    }
}

enum sp_err ckpt_manifest_parse(const char *text, size_t length, struct ckpt_manifest *ret,
                                struct sp_error *err)
{
    struct reader r = {.text = text, .length = length};
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    if (length > SP_MAX_MANIFEST)
        return sp_fail(err, SP_ELIMIT, "manifest: %zu bytes, the limit is %d", length,
                       SP_MAX_MANIFEST);
    enum sp_err rc = next_line(&r, err);
    if (rc == SP_ENOTFOUND)
        return sp_fail(err, SP_EFORMAT, "manifest: it is empty");
    if (rc == SP_OK && strcmp(r.current, FIRST_LINE) != 0)
        rc = strncmp(r.current, "spin-manifest ", 14) == 0
                 ? sp_fail(err, SP_EVERSION, "version %.20s, this program knows 1", r.current + 14)
                 : sp_fail(err, SP_EFORMAT, "it does not start with \"" FIRST_LINE "\"");
    if (rc == SP_OK)
        rc = parse_files(&r, &manifest, err);
    if (rc == SP_OK)
        rc = ckpt_manifest_finish(&manifest, err);
    if (rc != SP_OK) {
        ckpt_manifest_deinit(&manifest);
        return sp_wrap(err, rc, "manifest: line %zu", r.line);
    }
    *ret = manifest;
    return SP_OK;
}

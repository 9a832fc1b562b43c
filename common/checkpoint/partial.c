#include "common/checkpoint/partial.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/materialise_internal.h"

struct ckpt_partial {
    const struct ckpt_manifest *manifest;
    char *dir;
    uint8_t *have; /* bitmap */
    uint64_t missing;
};

/* Where a chunk is. NULL: there is no such one. */
static const struct ckpt_manifest_file *find_chunk(const struct ckpt_manifest *manifest,
                                                   uint64_t index, uint32_t *ret_in_file)
{
    for (size_t f = 0; f < manifest->count; f++) {
        const struct ckpt_manifest_file *file = &manifest->files[f];
        if (index < file->chunk_count) {
            *ret_in_file = (uint32_t)index;
            return file;
        }
        index -= file->chunk_count;
    }
    return NULL;
}

/* ---- coming in ---- */

static void look_at_file(struct ckpt_partial *partial, const struct ckpt_manifest_file *file,
                         uint64_t first, uint8_t *chunk)
{
    char *path = sp_path_join(partial->dir, file->path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    free(path);
    for (uint32_t k = 0; fd >= 0 && k < file->chunk_count; k++) {
        if (ckpt_have_chunk(fd, file, k, chunk)) {
            ckpt_set_bit(partial->have, first + k);
            partial->missing--;
        }
    }
    if (fd >= 0)
        close(fd);
}

struct ckpt_partial *ckpt_partial_open(const struct ckpt_manifest *manifest, const char *dir)
{
    struct ckpt_partial *partial = sp_xalloc(sizeof(*partial));
    partial->manifest = manifest;
    partial->dir = sp_xstrdup(dir);
    partial->have = sp_xalloc(ckpt_bitmap_bytes(manifest->chunk_count) + 1);
    partial->missing = manifest->chunk_count;
    uint8_t *chunk = sp_xalloc(SP_MAX_CHUNK);
    uint64_t first = 0;
    for (size_t f = 0; f < manifest->count; f++) {
        look_at_file(partial, &manifest->files[f], first, chunk);
        first += manifest->files[f].chunk_count;
    }
    free(chunk);
    return partial;
}

void ckpt_partial_close(struct ckpt_partial *partial)
{
    if (partial == NULL)
        return;
    free(partial->dir);
    free(partial->have);
    free(partial);
}

const uint8_t *ckpt_partial_have(const struct ckpt_partial *partial)
{
    return partial->have;
}

uint64_t ckpt_partial_chunks(const struct ckpt_partial *partial)
{
    return partial->manifest->chunk_count;
}

uint64_t ckpt_partial_missing(const struct ckpt_partial *partial)
{
    return partial->missing;
}

static enum sp_err no_such_chunk(const struct ckpt_manifest *manifest, uint64_t index,
                                 struct sp_error *err)
{
    return sp_fail(err, SP_EINVAL, "chunk %" PRIu64 " of %" PRIu64, index, manifest->chunk_count);
}

enum sp_err ckpt_partial_chunk(const struct ckpt_partial *partial, uint64_t index,
                               struct sp_digest *ret, uint32_t *ret_bytes, struct sp_error *err)
{
    uint32_t k;
    const struct ckpt_manifest_file *file = find_chunk(partial->manifest, index, &k);
    if (file == NULL)
        return no_such_chunk(partial->manifest, index, err);
    *ret = file->chunks[k];
    *ret_bytes = ckpt_chunk_bytes(file, k);
    return SP_OK;
}

enum sp_err ckpt_partial_put(struct ckpt_partial *partial, uint64_t index, const void *data,
                             size_t length, struct sp_error *err)
{
    uint32_t k;
    const struct ckpt_manifest_file *file = find_chunk(partial->manifest, index, &k);
    if (file == NULL)
        return no_such_chunk(partial->manifest, index, err);
    struct sp_digest real;
    sp_sha256_of(data, length, &real);
    if (length != ckpt_chunk_bytes(file, k) || !sp_digest_equal(&real, &file->chunks[k])) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(&file->chunks[k], hex);
        return sp_fail(err, SP_ECORRUPT,
                       "%s: chunk %u of %u (%s): the bytes received have another SHA-256",
                       file->path, k + 1, file->chunk_count, hex);
    }
    int fd = -1;
    enum sp_err rc = ckpt_open_partial(partial->dir, file->path, &fd, err);
    if (rc == SP_OK)
        rc = ckpt_write_chunk(fd, file, k, data, err);
    if (fd >= 0 && close(fd) != 0 && rc == SP_OK)
        rc = sp_fail_errno(err, errno, "%s: close", file->path);
    if (rc == SP_OK && !ckpt_bit(partial->have, index)) {
        ckpt_set_bit(partial->have, index);
        partial->missing--;
    }
    return rc;
}

/* ---- going out ---- */

#define MANIFESTS_KEPT 4 /* parsed: those of the newest iteration, or two */

struct kept {
    bool there;
    struct ckpt_manifest manifest;
    struct sp_digest sha256; /* of its text */
    uint64_t used; /* a smaller number: longer ago */
};

struct ckpt_giver {
    char *dir;
    struct kept kept[MANIFESTS_KEPT];
    uint64_t clock;
    uint8_t *chunk; /* SP_MAX_CHUNK */
};

struct ckpt_giver *ckpt_giver_new(const char *cache_dir)
{
    struct ckpt_giver *giver = sp_xalloc(sizeof(*giver));
    giver->dir = sp_xstrdup(cache_dir);
    giver->chunk = sp_xalloc(SP_MAX_CHUNK);
    return giver;
}

void ckpt_giver_free(struct ckpt_giver *giver)
{
    if (giver == NULL)
        return;
    for (int i = 0; i < MANIFESTS_KEPT; i++)
        ckpt_manifest_deinit(&giver->kept[i].manifest);
    free(giver->dir);
    free(giver->chunk);
    free(giver);
}

static enum sp_err read_manifest(const struct ckpt_giver *giver, const struct sp_digest *checkpoint,
                                 struct sp_digest *ret_sha256, struct ckpt_manifest *ret,
                                 struct sp_error *err)
{
    char hex[SP_DIGEST_HEX];
    char *text = NULL;
    size_t length;
    sp_digest_hex(checkpoint, hex);
    char *path = sp_xprintf("%s/%s.manifest", giver->dir, hex);
    enum sp_err rc = sp_read_file(path, SP_MAX_MANIFEST, &text, &length, err);
    if (rc == SP_OK) {
        sp_sha256_of(text, length, ret_sha256);
        rc = ckpt_manifest_parse(text, length, ret, err);
    }
    free(text);
    free(path);
    return rc;
}

static const struct ckpt_manifest *manifest_of(struct ckpt_giver *giver,
                                               const struct sp_digest *checkpoint,
                                               const struct sp_digest *sha256)
{
    struct kept *oldest = &giver->kept[0];
    for (int i = 0; i < MANIFESTS_KEPT; i++) {
        struct kept *one = &giver->kept[i];
        if (one->there && sp_digest_equal(&one->manifest.digest, checkpoint) &&
            sp_digest_equal(&one->sha256, sha256)) {
            one->used = ++giver->clock;
            return &one->manifest;
        }
        if (one->used < oldest->used)
            oldest = one;
    }
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_digest real;
    struct sp_error ignored;
    if (read_manifest(giver, checkpoint, &real, &manifest, &ignored) != SP_OK)
        return NULL;
    if (!sp_digest_equal(&real, sha256)) {
        ckpt_manifest_deinit(&manifest);
        return NULL;
    }
    ckpt_manifest_deinit(&oldest->manifest);
    *oldest = (struct kept){
        .there = true, .manifest = manifest, .sha256 = *sha256, .used = ++giver->clock};
    return &oldest->manifest;
}

void ckpt_giver_each(struct ckpt_giver *giver,
                     void (*each)(void *context, const struct sp_digest *manifest_sha256,
                                  uint32_t chunks),
                     void *context)
{
    DIR *stream = opendir(giver->dir);
    struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
        struct sp_digest checkpoint, sha256;
        struct sp_error ignored;
        if (sp_digest_parse(entry->d_name, &checkpoint, NULL) == SP_OK &&
            read_manifest(giver, &checkpoint, &sha256, &manifest, &ignored) == SP_OK)
            each(context, &sha256, (uint32_t)manifest.chunk_count);
        ckpt_manifest_deinit(&manifest);
    }
    if (stream != NULL)
        closedir(stream);
}

/* From CACHE/<digest>/, or CACHE/<digest>.partial/ while it is on its way. */
static bool read_from(struct ckpt_giver *giver, const char *hex, const char *suffix,
                      const struct ckpt_manifest_file *file, uint32_t k)
{
    char *path = sp_xprintf("%s/%s%s/%s", giver->dir, hex, suffix, file->path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool there = fd >= 0 && ckpt_have_chunk(fd, file, k, giver->chunk);
    if (fd >= 0)
        close(fd);
    free(path);
    return there;
}

enum sp_err ckpt_giver_read(struct ckpt_giver *giver, const struct sp_digest *checkpoint,
                            const struct sp_digest *manifest_sha256, uint64_t index,
                            const uint8_t **ret_data, uint32_t *ret_bytes, struct sp_error *err)
{
    char hex[SP_DIGEST_HEX];
    uint32_t k = 0;
    sp_digest_hex(checkpoint, hex);
    const struct ckpt_manifest *manifest = manifest_of(giver, checkpoint, manifest_sha256);
    const struct ckpt_manifest_file *file = manifest ? find_chunk(manifest, index, &k) : NULL;
    /* It may get its name between the two looks. */
    if (file == NULL ||
        (!read_from(giver, hex, "", file, k) && !read_from(giver, hex, ".partial", file, k) &&
         !read_from(giver, hex, "", file, k)))
        return sp_fail(err, SP_ENOTFOUND, "checkpoint %.12s: chunk %" PRIu64 " is not here", hex,
                       index);
    *ret_data = giver->chunk;
    *ret_bytes = ckpt_chunk_bytes(file, k);
    return SP_OK;
}

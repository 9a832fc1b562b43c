#include "common/checkpoint/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"
#include "common/checkpoint/manifest_internal.h"

void ckpt_manifest_deinit(struct ckpt_manifest *manifest)
{
    for (size_t i = 0; i < manifest->count; i++) {
        free(manifest->files[i].path);
        free(manifest->files[i].chunks);
    }
    free(manifest->files);
    *manifest = (struct ckpt_manifest)CKPT_MANIFEST_INIT;
}

static int by_path(const void *a, const void *b)
{
    const struct ckpt_manifest_file *x = a, *y = b;
    return strcmp(x->path, y->path);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void compute_digest(struct ckpt_manifest *manifest)
{
    char **lines = sp_xarray(manifest->count, sizeof(*lines));
    struct sp_sha256 *hash = sp_sha256_new();
    for (size_t i = 0; i < manifest->count; i++) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(&manifest->files[i].sha256, hex);
        lines[i] = sp_xprintf("%s %" PRIu64 " %s\n", hex, manifest->files[i].bytes,
                              manifest->files[i].path);
    }
    if (manifest->count > 0)
        qsort(lines, manifest->count, sizeof(*lines), by_text);
    for (size_t i = 0; i < manifest->count; i++) {
        sp_sha256_update(hash, lines[i], strlen(lines[i]));
        free(lines[i]);
    }
    sp_sha256_final(hash, &manifest->digest);
    sp_sha256_free(hash);
    free(lines);
}

enum sp_err ckpt_manifest_finish(struct ckpt_manifest *manifest, struct sp_error *err)
{
    if (manifest->count > 0)
        qsort(manifest->files, manifest->count, sizeof(*manifest->files), by_path);
    manifest->bytes = 0;
    manifest->chunk_count = 0;
    /* An upper bound of the text's size: 90 bytes beside the path and the length of each file. */
    uint64_t text = 32;
    for (size_t i = 0; i < manifest->count; i++) {
        const struct ckpt_manifest_file *file = &manifest->files[i];
        if (i > 0 && strcmp(file->path, manifest->files[i - 1].path) == 0)
            return sp_fail(err, SP_EINVAL, "file %s: listed twice", file->path);
        manifest->bytes += file->bytes;
        manifest->chunk_count += file->chunk_count;
        text += 96 + strlen(file->path) + (uint64_t)file->chunk_count * 71;
    }
    if (manifest->count > SP_MAX_MANIFEST_FILES)
        return sp_fail(err, SP_ELIMIT, "%zu files, the limit is %d", manifest->count,
                       SP_MAX_MANIFEST_FILES);
    if (text > SP_MAX_MANIFEST)
        return sp_fail(err, SP_ELIMIT, "%" PRIu64 " bytes are too much for a manifest of %d",
                       manifest->bytes, SP_MAX_MANIFEST);
    compute_digest(manifest);
    return SP_OK;
}

static enum sp_err read_chunk(int fd, const char *path, uint8_t *to, size_t *ret_length,
                              struct sp_error *err)
{
    size_t length = 0;
    while (length < SP_MAX_CHUNK) {
        ssize_t n = read(fd, to + length, SP_MAX_CHUNK - length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sp_fail_errno(err, errno, "%s", path);
        if (n == 0)
            break;
        length += (size_t)n;
    }
    *ret_length = length;
    return SP_OK;
}

struct file_scan {
    ckpt_chunk_sink sink;
    void *sink_context;
    ckpt_progress_fn progress;
    void *progress_context;
    uint64_t done_bytes, total_bytes;
};

static enum sp_err scan_file(int fd, const char *path, struct file_scan *scan,
                             struct ckpt_manifest_file *file, struct sp_error *err)
{
    struct sp_sha256 *hash = sp_sha256_new();
    uint8_t *chunk = sp_xalloc(SP_MAX_CHUNK);
    enum sp_err rc;
    for (;;) {
        size_t length = 0;
        rc = read_chunk(fd, path, chunk, &length, err);
        if (rc != SP_OK || length == 0)
            break;
        if ((uint64_t)file->chunk_count * 71 > SP_MAX_MANIFEST) {
            rc = sp_fail(err, SP_ELIMIT, "%s: too big for a manifest of %d bytes", path,
                         SP_MAX_MANIFEST);
            break;
        }
        struct sp_digest digest;
        sp_sha256_of(chunk, length, &digest);
        sp_sha256_update(hash, chunk, length);
        if ((file->chunk_count & (file->chunk_count - 1)) == 0)
            file->chunks =
                sp_xgrow(file->chunks, file->chunk_count == 0 ? 1 : (size_t)file->chunk_count * 2,
                         sizeof(*file->chunks));
        file->chunks[file->chunk_count++] = digest;
        file->bytes += length;
        scan->done_bytes += length;
        if (scan->sink != NULL)
            rc = scan->sink(scan->sink_context, &digest, chunk, length, err);
        if (rc == SP_OK && scan->progress != NULL &&
            !scan->progress(scan->progress_context, scan->done_bytes, scan->total_bytes))
            rc = sp_fail(err, SP_ECANCELED, "%s: stopped", path);
        if (rc != SP_OK || length < SP_MAX_CHUNK)
            break;
    }
    sp_sha256_final(hash, &file->sha256);
    sp_sha256_free(hash);
    free(chunk);
    return rc;
}

enum sp_err ckpt_manifest_add(struct ckpt_manifest *manifest, const char *path, const char *name,
                              ckpt_chunk_sink sink, void *sink_context, ckpt_progress_fn progress,
                              void *progress_context, uint64_t total_bytes, struct sp_error *err)
{
    if (!sp_path_is_safe(name))
        return sp_fail(err, SP_EINVAL, "%s: not a name that a manifest can hold", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return sp_fail_errno(err, errno, "%s", path);
    enum sp_err rc = SP_OK;
    if (fstat(fd, &st) != 0)
        rc = sp_fail_errno(err, errno, "%s", path);
    else if (!S_ISREG(st.st_mode))
        rc = sp_fail(err, SP_EIO, "%s: not a regular file", path);
    struct ckpt_manifest_file file = {.path = sp_xstrdup(name)};
    struct file_scan scan = {sink,       sink_context, progress, progress_context, manifest->bytes,
                             total_bytes};
    if (rc == SP_OK)
        rc = scan_file(fd, path, &scan, &file, err);
    close(fd);
    if (rc != SP_OK) {
        free(file.path);
        free(file.chunks);
        return rc;
    }
    manifest->files = sp_xgrow(manifest->files, manifest->count + 1, sizeof(file));
    manifest->files[manifest->count++] = file;
    manifest->bytes += file.bytes;
    return SP_OK;
}

/* Of what can be found; a missing file is reported when it is read. */
static uint64_t sum_of_sizes(const char *dir, const char *const *files, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        char *path = sp_path_join(dir, files[i]);
        struct stat st;
        if (stat(path, &st) == 0)
            sum += (uint64_t)st.st_size;
        free(path);
    }
    return sum;
}

enum sp_err ckpt_manifest_scan(const char *dir, const char *const *files, size_t count,
                               ckpt_chunk_sink sink, void *sink_context, ckpt_progress_fn progress,
                               void *progress_context, struct ckpt_manifest *ret,
                               struct sp_error *err)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    uint64_t total = progress != NULL ? sum_of_sizes(dir, files, count) : 0;
    enum sp_err rc = SP_OK;
    if (count > SP_MAX_MANIFEST_FILES)
        rc = sp_fail(err, SP_ELIMIT, "%s: %zu files, the limit is %d", dir, count,
                     SP_MAX_MANIFEST_FILES);
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        char *path = sp_path_join(dir, files[i]);
        rc = ckpt_manifest_add(&manifest, path, files[i], sink, sink_context, progress,
                               progress_context, total, err);
        free(path);
    }
    if (rc == SP_OK)
        rc = ckpt_manifest_finish(&manifest, err);
    if (rc != SP_OK) {
        ckpt_manifest_deinit(&manifest);
        return rc;
    }
    *ret = manifest;
    return SP_OK;
}

enum sp_err ckpt_manifest_build_files(const char *dir, const char *const *files, size_t count,
                                      ckpt_progress_fn progress, void *context,
                                      struct ckpt_manifest *ret, struct sp_error *err)
{
    return ckpt_manifest_scan(dir, files, count, NULL, NULL, progress, context, ret, err);
}

enum sp_err ckpt_manifest_build(const char *dir, ckpt_progress_fn progress, void *context,
                                struct ckpt_manifest *ret, struct sp_error *err)
{
    char **files;
    size_t count = 0;
    enum sp_err rc = ckpt_file_list(dir, true, &files, err);
    if (rc != SP_OK)
        return rc;
    while (files[count] != NULL)
        count++;
    rc = ckpt_manifest_build_files(dir, (const char *const *)files, count, progress, context, ret,
                                   err);
    ckpt_file_list_free(files);
    return rc;
}

const struct ckpt_manifest_file *ckpt_manifest_find(const struct ckpt_manifest *manifest,
                                                    const char *path)
{
    struct ckpt_manifest_file key = {.path = (char *)(uintptr_t)path};
    return bsearch(&key, manifest->files, manifest->count, sizeof(key), by_path);
}

uint32_t ckpt_chunk_bytes(const struct ckpt_manifest_file *file, uint32_t index)
{
    SP_ASSERT(index < file->chunk_count);
    uint64_t left = file->bytes - (uint64_t)index * SP_MAX_CHUNK;
    return (uint32_t)SP_MIN(left, (uint64_t)SP_MAX_CHUNK);
}

enum sp_err ckpt_manifest_verify(const struct ckpt_manifest *manifest, const char *dir,
                                 ckpt_progress_fn progress, void *context, struct sp_error *err)
{
    struct ckpt_manifest seen = CKPT_MANIFEST_INIT;
    enum sp_err rc = SP_OK;
    for (size_t i = 0; rc == SP_OK && i < manifest->count; i++) {
        const struct ckpt_manifest_file *want = &manifest->files[i];
        char *path = sp_path_join(dir, want->path);
        struct stat st;
        /* A wrong size is told without reading the file. */
        if (stat(path, &st) != 0)
            rc = sp_fail_errno(err, errno, "%s", path);
        else if ((uint64_t)st.st_size != want->bytes)
            rc = sp_fail(err, SP_ECORRUPT, "%s: %lld bytes, the manifest says %" PRIu64, path,
                         (long long)st.st_size, want->bytes);
        else
            rc = ckpt_manifest_add(&seen, path, want->path, NULL, NULL, progress, context,
                                   manifest->bytes, err);
        if (rc == SP_OK && !sp_digest_equal(&seen.files[i].sha256, &want->sha256))
            rc = sp_fail(err, SP_ECORRUPT, "%s: its SHA-256 is not the manifest's", path);
        free(path);
    }
    ckpt_manifest_deinit(&seen);
    return rc;
}

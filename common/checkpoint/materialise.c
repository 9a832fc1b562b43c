#include "common/checkpoint/materialise.h"

#include <dirent.h>
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
#include "common/checkpoint/materialise_internal.h"
#include "common/checkpoint/partial.h"

struct job {
    const struct ckpt_manifest *manifest;
    char *partial; /* DIR.partial */
    const struct ckpt_source *source;
    ckpt_progress_fn progress;
    void *progress_context;
    uint64_t done_bytes;
    uint8_t *chunk; /* SP_MAX_CHUNK bytes */
};

/* true when a file of the manifest has this path, or lies below it */
static bool is_listed(const struct ckpt_manifest *manifest, const char *path)
{
    size_t n = strlen(path);
    for (size_t i = 0; i < manifest->count; i++) {
        const char *listed = manifest->files[i].path;
        if (strncmp(listed, path, n) == 0 && (listed[n] == 0 || listed[n] == '/'))
            return true;
    }
    return false;
}

/* What an attempt with another manifest left in DIR.partial does not belong into DIR. */
static enum sp_err remove_strangers(const struct job *job, const char *below, struct sp_error *err)
{
    char *dir = below[0] ? sp_path_join(job->partial, below) : sp_xstrdup(job->partial);
    DIR *stream = opendir(dir);
    enum sp_err rc = SP_OK;
    if (stream == NULL)
        rc = sp_fail_errno(err, errno, "%s", dir);
    struct dirent *entry;
    while (rc == SP_OK && (entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *relative = below[0] ? sp_path_join(below, entry->d_name) : sp_xstrdup(entry->d_name);
        char *path = sp_path_join(job->partial, relative);
        struct stat st;
        if (lstat(path, &st) != 0)
            rc = sp_fail_errno(err, errno, "%s", path);
        else if (!is_listed(job->manifest, relative) || S_ISLNK(st.st_mode))
            rc = sp_remove_tree(path, err);
        else if (S_ISDIR(st.st_mode))
            rc = remove_strangers(job, relative, err);
        free(path);
        free(relative);
    }
    if (stream != NULL)
        closedir(stream);
    free(dir);
    return rc;
}

bool ckpt_have_chunk(int fd, const struct ckpt_manifest_file *file, uint32_t k, uint8_t *to)
{
    uint64_t place = (uint64_t)k * SP_MAX_CHUNK;
    uint32_t length = 0, bytes = ckpt_chunk_bytes(file, k);
    while (length < bytes) {
        ssize_t n = pread(fd, to + length, bytes - length, (off_t)(place + length));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        length += (uint32_t)n;
    }
    struct sp_digest real;
    sp_sha256_of(to, bytes, &real);
    return sp_digest_equal(&real, &file->chunks[k]);
}

enum sp_err ckpt_write_chunk(int fd, const struct ckpt_manifest_file *file, uint32_t k,
                             const void *data, struct sp_error *err)
{
    uint64_t place = (uint64_t)k * SP_MAX_CHUNK;
    uint32_t bytes = ckpt_chunk_bytes(file, k);
    for (uint32_t written = 0; written < bytes;) {
        ssize_t n = pwrite(fd, (const uint8_t *)data + written, bytes - written,
                           (off_t)(place + written));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sp_fail_errno(err, errno, "%s: write", file->path);
        written += (uint32_t)n;
    }
    return SP_OK;
}

enum sp_err ckpt_open_partial(const char *dir, const char *path, int *ret_fd, struct sp_error *err)
{
    char *full = sp_path_join(dir, path);
    char *slash = strrchr(full, '/');
    *slash = 0;
    enum sp_err rc = sp_mkdir_p(full, 0777, err);
    *slash = '/';
    int fd = -1;
    if (rc == SP_OK) {
        fd = open(full, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0)
            rc = sp_fail_errno(err, errno, "%s", full);
    }
    free(full);
    if (rc == SP_OK)
        *ret_fd = fd;
    return rc;
}

static enum sp_err fetch_chunk(struct job *job, const struct ckpt_manifest_file *file,
                               uint32_t index, int fd, struct sp_error *err)
{
    uint32_t bytes = ckpt_chunk_bytes(file, index);
    const struct sp_digest *digest = &file->chunks[index];
    enum sp_err rc = SP_OK;
    if (!ckpt_have_chunk(fd, file, index, job->chunk)) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(digest, hex);
        rc = job->source->fetch(job->source->context, digest, bytes, job->chunk, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "%s: chunk %u of %u (%s)", file->path, index + 1,
                           file->chunk_count, hex);
        struct sp_digest real;
        sp_sha256_of(job->chunk, bytes, &real);
        if (!sp_digest_equal(&real, digest))
            return sp_fail(err, SP_ECORRUPT,
                           "%s: chunk %u of %u (%s): the bytes received have another SHA-256",
                           file->path, index + 1, file->chunk_count, hex);
        rc = ckpt_write_chunk(fd, file, index, job->chunk, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "%s", job->partial);
    }
    job->done_bytes += bytes;
    if (job->progress != NULL &&
        !job->progress(job->progress_context, job->done_bytes, job->manifest->bytes))
        rc = sp_fail(err, SP_ECANCELED, "stopped");
    return rc;
}

static enum sp_err build_file(struct job *job, const struct ckpt_manifest_file *file,
                              struct sp_error *err)
{
    char *path = sp_path_join(job->partial, file->path);
    enum sp_err rc = SP_OK;
    int fd = -1;
    rc = ckpt_open_partial(job->partial, file->path, &fd, err);
    if (rc != SP_OK)
        goto out;
    struct sp_sha256 *hash = sp_sha256_new();
    for (uint32_t k = 0; rc == SP_OK && k < file->chunk_count; k++) {
        rc = fetch_chunk(job, file, k, fd, err);
        if (rc == SP_OK)
            sp_sha256_update(hash, job->chunk, ckpt_chunk_bytes(file, k));
    }
    struct sp_digest real;
    sp_sha256_final(hash, &real);
    sp_sha256_free(hash);
    if (rc == SP_OK && !sp_digest_equal(&real, &file->sha256))
        rc = sp_fail(err, SP_ECORRUPT, "%s: the manifest's chunks are not the file it names",
                     file->path);
    if (rc == SP_OK && ftruncate(fd, (off_t)file->bytes) != 0)
        rc = sp_fail_errno(err, errno, "%s: truncate", path);
    if (rc == SP_OK && fsync(fd) != 0)
        rc = sp_fail_errno(err, errno, "%s: fsync", path);
    if (close(fd) != 0 && rc == SP_OK)
        rc = sp_fail_errno(err, errno, "%s: close", path);
    /* The directories between the file and DIR.partial, innermost first. */
    for (char *slash = strrchr(path, '/'); rc == SP_OK && slash >= path + strlen(job->partial);
         slash = strrchr(path, '/')) {
        *slash = 0;
        rc = sp_fsync_dir(path, err);
    }
out:
    free(path);
    return rc;
}

static enum sp_err run_ahead(struct job *job, struct sp_error *err)
{
    if (job->source->ahead == NULL)
        return SP_OK;
    struct ckpt_partial *partial = ckpt_partial_open(job->manifest, job->partial);
    enum sp_err rc = job->source->ahead(job->source->context, partial, err);
    ckpt_partial_close(partial);
    return rc;
}

enum sp_err ckpt_materialise_from(const struct ckpt_manifest *manifest, const char *dir,
                                  const struct ckpt_source *source, ckpt_progress_fn progress,
                                  void *progress_context, struct sp_error *err)
{
    if (sp_path_exists(dir))
        return sp_fail(err, SP_EEXIST, "%s: exists already", dir);
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    struct job job = {
        .manifest = manifest,
        .partial = sp_xprintf("%.*s.partial", (int)n, dir),
        .source = source,
        .progress = progress,
        .progress_context = progress_context,
        .chunk = sp_xalloc(SP_MAX_CHUNK),
    };
    char *target = sp_xstrndup(dir, n);
    enum sp_err rc = sp_mkdir_p(job.partial, 0777, err);
    if (rc == SP_OK)
        rc = remove_strangers(&job, "", err);
    if (rc == SP_OK)
        rc = run_ahead(&job, err);
    for (size_t i = 0; rc == SP_OK && i < manifest->count; i++)
        rc = build_file(&job, &manifest->files[i], err);
    if (rc == SP_OK)
        rc = sp_fsync_dir(job.partial, err);
    if (rc == SP_OK)
        rc = sp_rename_durable(job.partial, target, err);
    if (rc != SP_OK)
        rc = sp_wrap(err, rc, "fetch %s", dir);
    free(target);
    free(job.chunk);
    free(job.partial);
    return rc;
}

enum sp_err ckpt_materialise(const struct ckpt_manifest *manifest, const char *dir,
                             ckpt_fetch_fn fetch, void *fetch_context, ckpt_progress_fn progress,
                             void *progress_context, struct sp_error *err)
{
    struct ckpt_source source = {.fetch = fetch, .context = fetch_context};
    return ckpt_materialise_from(manifest, dir, &source, progress, progress_context, err);
}

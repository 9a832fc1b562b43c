#include "common/checkpoint/blobstore.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/blobstore_internal.h"
#include "common/checkpoint/hf_dir.h"
#include "common/checkpoint/manifest_internal.h"

#define CREATE_TRIES 1000

char *blobs_bucket_path(const struct ckpt_blobs *blobs, unsigned bucket)
{
    return sp_xprintf("%s/%02x", blobs->root, bucket);
}

char *blobs_path(const struct ckpt_blobs *blobs, const struct sp_digest *digest)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(digest, hex);
    return sp_xprintf("%s/%02x/%s", blobs->root, digest->bytes[0], hex);
}

/* ---- listing ---- */

struct walk {
    struct ckpt_blobs *blobs;
    const char *dir;
    bool (*each)(void *context, const struct sp_digest *digest, uint64_t bytes);
    void *context;
    bool stopped;
};

static int walk_entry(void *arg, const char *name)
{
    struct walk *walk = arg;
    struct sp_digest digest;
    if (sp_digest_parse(name, &digest, NULL) != SP_OK)
        return 0; /* not ours */
    char *path = sp_path_join(walk->dir, name);
    uint64_t bytes;
    if (FS(walk->blobs, size, path, &bytes) == 0)
        walk->stopped = !walk->each(walk->context, &digest, bytes);
    free(path);
    return walk->stopped;
}

enum sp_err ckpt_blobs_each(struct ckpt_blobs *blobs,
                            bool (*each)(void *context, const struct sp_digest *digest,
                                         uint64_t bytes),
                            void *context, struct sp_error *err)
{
    struct walk walk = {.blobs = blobs, .each = each, .context = context};
    enum sp_err rc = SP_OK;
    for (unsigned i = 0; rc == SP_OK && !walk.stopped && i < FANOUT; i++) {
        char *dir = blobs_bucket_path(blobs, i);
        walk.dir = dir;
        int bad = FS(blobs, list, dir, walk_entry, &walk);
        if (bad != 0 && bad != -ENOENT)
            rc = sp_fail_errno(err, -bad, "%s", dir);
        free(dir);
    }
    return rc;
}

static bool count_one(void *context, const struct sp_digest *digest, uint64_t bytes)
{
    struct ckpt_blobs *blobs = context;
    blobs->count++;
    blobs->bytes += bytes;
    return true;
}

void ckpt_blobs_usage(struct ckpt_blobs *blobs, uint64_t *ret_count, uint64_t *ret_bytes)
{
    pthread_mutex_lock(&blobs->mutex);
    *ret_count = blobs->count;
    *ret_bytes = blobs->bytes;
    pthread_mutex_unlock(&blobs->mutex);
}

/* ---- opening ---- */

static enum sp_err make_dir(struct ckpt_blobs *blobs, const char *path, const char *parent,
                            struct sp_error *err)
{
    int bad = FS(blobs, mkdir, path);
    if (bad != 0 && bad != -EEXIST)
        return sp_fail_errno(err, -bad, "%s: mkdir", path);
    /* Also where it was there: an earlier life may have made it and died before this line. */
    bad = FS(blobs, fsync_dir, parent);
    return bad == 0 ? SP_OK : sp_fail_errno(err, -bad, "%s: fsync", parent);
}

enum sp_err ckpt_blobs_open(const char *dir, const struct ckpt_fs *fs, struct ckpt_blobs **ret,
                            struct sp_error *err)
{
    struct ckpt_blobs *blobs = sp_xalloc(sizeof(*blobs));
    blobs->fs = fs != NULL ? fs : ckpt_fs_posix();
    blobs->root = sp_path_join(dir, "blobs");
    blobs->temporary = sp_path_join(blobs->root, "tmp");
    pthread_mutex_init(&blobs->mutex, NULL);
    enum sp_err rc = make_dir(blobs, blobs->root, dir, err);
    if (rc == SP_OK)
        rc = make_dir(blobs, blobs->temporary, blobs->root, err);
    if (rc == SP_OK)
        rc = ckpt_blobs_each(blobs, count_one, blobs, err);
    if (rc != SP_OK) {
        ckpt_blobs_close(blobs);
        return sp_wrap(err, rc, "blob store");
    }
    *ret = blobs;
    return SP_OK;
}

void ckpt_blobs_close(struct ckpt_blobs *blobs)
{
    if (blobs == NULL)
        return;
    pthread_mutex_destroy(&blobs->mutex);
    free(blobs->marks);
    free(blobs->root);
    free(blobs->temporary);
    free(blobs);
}

struct names {
    char **names;
    size_t count;
};

static int collect_name(void *arg, const char *name)
{
    struct names *names = arg;
    names->names = sp_xgrow(names->names, names->count + 1, sizeof(*names->names));
    names->names[names->count++] = sp_xstrdup(name);
    return 0;
}

enum sp_err ckpt_blobs_sweep(struct ckpt_blobs *blobs, struct sp_error *err)
{
    struct names left = {0};
    enum sp_err rc = SP_OK;
    int bad = FS(blobs, list, blobs->temporary, collect_name, &left);
    if (bad != 0)
        rc = sp_fail_errno(err, -bad, "%s", blobs->temporary);
    for (size_t i = 0; i < left.count; i++) {
        char *path = sp_path_join(blobs->temporary, left.names[i]);
        bad = FS(blobs, unlink, path);
        if (rc == SP_OK && bad != 0 && bad != -ENOENT)
            rc = sp_fail_errno(err, -bad, "%s: unlink", path);
        free(path);
        free(left.names[i]);
    }
    free(left.names);
    return rc;
}

/* ---- reading ---- */

bool ckpt_blobs_has(struct ckpt_blobs *blobs, const struct sp_digest *digest)
{
    char *path = blobs_path(blobs, digest);
    uint64_t bytes;
    blobs_in_use(blobs, digest);
    bool there = FS(blobs, size, path, &bytes) == 0;
    free(path);
    return there;
}

static enum sp_err read_blob(struct ckpt_blobs *blobs, const char *path, uint8_t **ret_data,
                             size_t *ret_length, struct sp_error *err)
{
    uint64_t bytes;
    int bad = FS(blobs, size, path, &bytes);
    if (bad != 0)
        return sp_fail_errno(err, -bad, "%s", path);
    if (bytes > SP_MAX_CHUNK)
        return sp_fail(err, SP_ECORRUPT, "%s: longer than a chunk", path);
    int handle = FS(blobs, open, path);
    if (handle < 0)
        return sp_fail_errno(err, -handle, "%s", path);
    uint8_t *data = sp_xalloc((size_t)bytes + 1);
    size_t length = 0;
    ssize_t n = 1;
    while (n > 0 && length < bytes) {
        n = FS(blobs, read, handle, data + length, (size_t)bytes - length);
        if (n > 0)
            length += (size_t)n;
    }
    FS(blobs, close, handle);
    if (n < 0) {
        free(data);
        return sp_fail_errno(err, (int)-n, "%s: read", path);
    }
    *ret_data = data;
    *ret_length = length;
    return SP_OK;
}

enum sp_err ckpt_blobs_get(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                           uint8_t **ret_data, size_t *ret_length, struct sp_error *err)
{
    char *path = blobs_path(blobs, digest);
    uint8_t *data = NULL;
    size_t length = 0;
    blobs_in_use(blobs, digest);
    enum sp_err rc = read_blob(blobs, path, &data, &length, err);
    if (rc == SP_OK) {
        struct sp_digest real;
        sp_sha256_of(data, length, &real);
        if (!sp_digest_equal(&real, digest))
            rc = sp_fail(err, SP_ECORRUPT, "%s: its SHA-256 is not its name", path);
    }
    free(path);
    if (rc != SP_OK) {
        free(data);
        return sp_wrap(err, rc, "blob");
    }
    *ret_data = data;
    *ret_length = length;
    return SP_OK;
}

enum sp_err ckpt_blobs_fetch(void *context, const struct sp_digest *digest, uint32_t bytes,
                             uint8_t *to, struct sp_error *err)
{
    uint8_t *data;
    size_t length;
    enum sp_err rc = ckpt_blobs_get(context, digest, &data, &length, err);
    if (rc != SP_OK)
        return rc;
    if (length == bytes)
        memcpy(to, data, length);
    else
        rc = sp_fail(err, SP_ECORRUPT, "blob of %zu bytes, expected %u", length, bytes);
    free(data);
    return rc;
}

/* ---- writing ---- */

static enum sp_err write_temporary(struct ckpt_blobs *blobs, const void *data, size_t length,
                                   char **ret_path, struct sp_error *err)
{
    char *path = NULL;
    int handle = -EEXIST;
    for (int i = 0; handle == -EEXIST && i < CREATE_TRIES; i++) {
        free(path);
        path = sp_xprintf("%s/%u", blobs->temporary, atomic_fetch_add(&blobs->next_name, 1));
        handle = FS(blobs, create, path);
    }
    int bad = handle < 0 ? handle : 0;
    const char *step = "create";
    if (handle >= 0) {
        const uint8_t *p = data;
        step = "write";
        while (bad == 0 && length > 0) {
            ssize_t n = FS(blobs, write, handle, p, length);
            if (n <= 0) {
                bad = n < 0 ? (int)n : -EIO;
                break;
            }
            p += n;
            length -= (size_t)n;
        }
        if (bad == 0) {
            step = "fsync";
            bad = FS(blobs, fsync, handle);
        }
        int closed = FS(blobs, close, handle);
        if (bad == 0)
            bad = closed;
        if (bad != 0)
            FS(blobs, unlink, path);
    }
    if (bad != 0) {
        enum sp_err rc = sp_fail_errno(err, -bad, "%s: %s", path, step);
        free(path);
        return rc;
    }
    *ret_path = path;
    return SP_OK;
}

/* With the mutex held. */
static enum sp_err ensure_bucket(struct ckpt_blobs *blobs, unsigned bucket, struct sp_error *err)
{
    if (blobs->durable[bucket])
        return SP_OK;
    char *path = blobs_bucket_path(blobs, bucket);
    enum sp_err rc = make_dir(blobs, path, blobs->root, err);
    blobs->durable[bucket] = rc == SP_OK;
    free(path);
    return rc;
}

static enum sp_err rename_counted(struct ckpt_blobs *blobs, const char *from, const char *to,
                                  unsigned bucket, size_t length, struct sp_error *err)
{
    pthread_mutex_lock(&blobs->mutex);
    enum sp_err rc = ensure_bucket(blobs, bucket, err);
    if (rc == SP_OK && from != NULL) {
        uint64_t before;
        bool replaces = FS(blobs, size, to, &before) == 0;
        int bad = FS(blobs, rename, from, to);
        if (bad != 0) {
            rc = sp_fail_errno(err, -bad, "%s: rename", to);
        } else {
            blobs->count += replaces ? 0 : 1;
            blobs->bytes += length - (replaces ? before : 0);
        }
    }
    pthread_mutex_unlock(&blobs->mutex);
    return rc;
}

static bool intact(struct ckpt_blobs *blobs, const struct sp_digest *digest)
{
    uint8_t *data;
    size_t length;
    if (ckpt_blobs_get(blobs, digest, &data, &length, NULL) != SP_OK)
        return false;
    free(data);
    return true;
}

static enum sp_err put_verified(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                                const void *data, size_t length, struct sp_error *err)
{
    char *path = blobs_path(blobs, digest), *dir = blobs_bucket_path(blobs, digest->bytes[0]);
    char *temporary = NULL;
    enum sp_err rc = SP_OK;
    /* A blob that is there was fsynced before it got its name, but its name may not be on disk
     * yet: an earlier put may have failed at the last step. So that step is always made. */
    if (!intact(blobs, digest))
        rc = write_temporary(blobs, data, length, &temporary, err);
    if (rc == SP_OK)
        rc = rename_counted(blobs, temporary, path, digest->bytes[0], length, err);
    if (rc != SP_OK && temporary != NULL)
        FS(blobs, unlink, temporary);
    if (rc == SP_OK) {
        int bad = FS(blobs, fsync_dir, dir);
        if (bad != 0)
            rc = sp_fail_errno(err, -bad, "%s: fsync", dir);
    }
    free(temporary);
    free(dir);
    free(path);
    return rc == SP_OK ? rc : sp_wrap(err, rc, "blob");
}

enum sp_err ckpt_blobs_put(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                           const void *data, size_t length, struct sp_error *err)
{
    if (length > SP_MAX_CHUNK)
        return sp_fail(err, SP_ELIMIT, "blob of %zu bytes, the limit is %d", length, SP_MAX_CHUNK);
    struct sp_digest real;
    sp_sha256_of(data, length, &real);
    if (!sp_digest_equal(&real, digest)) {
        char hex[SP_DIGEST_HEX];
        sp_digest_hex(digest, hex);
        return sp_fail(err, SP_ECORRUPT, "blob %s: its bytes have another SHA-256", hex);
    }
    return put_verified(blobs, digest, data, length, err);
}

enum sp_err ckpt_blobs_put_new(struct ckpt_blobs *blobs, const void *data, size_t length,
                               struct sp_digest *ret, struct sp_error *err)
{
    if (length > SP_MAX_CHUNK)
        return sp_fail(err, SP_ELIMIT, "blob of %zu bytes, the limit is %d", length, SP_MAX_CHUNK);
    struct sp_digest digest;
    sp_sha256_of(data, length, &digest);
    enum sp_err rc = put_verified(blobs, &digest, data, length, err);
    if (rc == SP_OK)
        *ret = digest;
    return rc;
}

enum sp_err blobs_delete_if(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                            bool (*still)(struct ckpt_blobs *blobs, const struct sp_digest *digest),
                            bool *ret_deleted, struct sp_error *err)
{
    char *path = blobs_path(blobs, digest), *dir = blobs_bucket_path(blobs, digest->bytes[0]);
    enum sp_err rc = SP_OK;
    uint64_t bytes = 0;
    pthread_mutex_lock(&blobs->mutex);
    int bad = still && !still(blobs, digest) ? -ENOENT : FS(blobs, size, path, &bytes);
    if (bad == 0)
        bad = FS(blobs, unlink, path);
    if (bad == 0) {
        blobs->count--;
        blobs->bytes -= bytes;
    }
    pthread_mutex_unlock(&blobs->mutex);
    *ret_deleted = bad == 0;
    if (bad == 0)
        bad = FS(blobs, fsync_dir, dir);
    if (bad != 0 && bad != -ENOENT)
        rc = sp_fail_errno(err, -bad, "blob: delete %s", path);
    free(dir);
    free(path);
    return rc;
}

enum sp_err ckpt_blobs_delete(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                              struct sp_error *err)
{
    bool deleted;
    return blobs_delete_if(blobs, digest, NULL, &deleted, err);
}

/* ---- whole files ---- */

static enum sp_err put_chunk(void *context, const struct sp_digest *digest, const void *data,
                             size_t length, struct sp_error *err)
{
    return put_verified(context, digest, data, length, err);
}

enum sp_err ckpt_blobs_put_dir(struct ckpt_blobs *blobs, const char *dir, ckpt_progress_fn progress,
                               void *context, struct ckpt_manifest *ret, struct sp_error *err)
{
    char **files;
    size_t count = 0;
    enum sp_err rc = ckpt_file_list(dir, true, &files, err);
    if (rc != SP_OK)
        return rc;
    while (files[count] != NULL)
        count++;
    rc = ckpt_manifest_scan(dir, (const char *const *)files, count, put_chunk, blobs, progress,
                            context, ret, err);
    ckpt_file_list_free(files);
    return rc;
}

enum sp_err ckpt_blobs_put_file(struct ckpt_blobs *blobs, const char *path, const char *name,
                                ckpt_progress_fn progress, void *context, struct ckpt_manifest *ret,
                                struct sp_error *err)
{
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    uint64_t total = 0;
    const struct ckpt_fs *real = ckpt_fs_posix(); /* the source is no file of the store */
    (void)real->size(real->context, path, &total);
    enum sp_err rc =
        ckpt_manifest_add(&manifest, path, name, put_chunk, blobs, progress, context, total, err);
    if (rc == SP_OK)
        rc = ckpt_manifest_finish(&manifest, err);
    if (rc != SP_OK) {
        ckpt_manifest_deinit(&manifest);
        return rc;
    }
    *ret = manifest;
    return SP_OK;
}

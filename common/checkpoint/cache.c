#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/materialise.h"

/* How often a process asks whether another one has finished fetching. */
#define POLL_MS 50
/* How often a damaged copy that another process looks at too is looked at again. */
#define DAMAGED_TRIES 40

struct ckpt_cache {
    char *dir;
    uint64_t max_bytes; /* 0: no limit */
};

struct ckpt_cache_ref {
    char *dir;
    int lock; /* CACHE/<digest>.lock, held shared */
};

/* Paths of one digest. Lock files are never unlinked: a lock on an unlinked file would exclude
 * nobody. They are empty; their mtime is the time of last use. */
struct entry {
    char *dir, *manifest, *lock;
};

static struct entry entry_of(const struct ckpt_cache *cache, const char *hex)
{
    return (struct entry){
        .dir = sp_xprintf("%s/%s", cache->dir, hex),
        .manifest = sp_xprintf("%s/%s.manifest", cache->dir, hex),
        .lock = sp_xprintf("%s/%s.lock", cache->dir, hex),
    };
}

static void entry_deinit(struct entry *entry)
{
    free(entry->dir);
    free(entry->manifest);
    free(entry->lock);
}

enum sp_err ckpt_cache_open(const char *dir, uint64_t max_bytes, struct ckpt_cache **ret,
                            struct sp_error *err)
{
    enum sp_err rc = sp_mkdir_p(dir, 0700, err);
    if (rc == SP_OK && access(dir, W_OK | X_OK) != 0)
        rc = sp_fail_errno(err, errno, "%s", dir);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "weight cache");
    struct ckpt_cache *cache = sp_xalloc(sizeof(*cache));
    cache->dir = sp_xstrdup(dir);
    cache->max_bytes = max_bytes;
    *ret = cache;
    return SP_OK;
}

void ckpt_cache_close(struct ckpt_cache *cache)
{
    if (cache == NULL)
        return;
    free(cache->dir);
    free(cache);
}

const char *ckpt_cache_ref_dir(const struct ckpt_cache_ref *ref)
{
    return ref->dir;
}

void ckpt_cache_release(struct ckpt_cache_ref *ref)
{
    if (ref == NULL)
        return;
    close(ref->lock);
    free(ref->dir);
    free(ref);
}

static int open_lock(const struct entry *entry)
{
    return open(entry->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

/* The directory, its manifest and what an interrupted fetch left. With the lock held exclusively.
 */
static enum sp_err remove_entry(const struct entry *entry, struct sp_error *err)
{
    char *partial = sp_xprintf("%s.partial", entry->dir);
    enum sp_err rc = sp_remove_tree(entry->dir, err);
    if (rc == SP_OK)
        rc = sp_remove_tree(partial, err);
    if (rc == SP_OK)
        rc = sp_remove_tree(entry->manifest, err);
    free(partial);
    return rc;
}

static enum sp_err read_manifest(const struct entry *entry, struct ckpt_manifest *ret,
                                 struct sp_error *err)
{
    char *text;
    size_t length;
    enum sp_err rc = sp_read_file(entry->manifest, SP_MAX_MANIFEST, &text, &length, err);
    if (rc != SP_OK)
        return rc;
    rc = ckpt_manifest_parse(text, length, ret, err);
    free(text);
    return rc != SP_OK ? sp_wrap(err, rc, "%s", entry->manifest) : SP_OK;
}

static enum sp_err verify_entry(const struct entry *entry, struct sp_error *err)
{
    struct ckpt_manifest manifest;
    enum sp_err rc = read_manifest(entry, &manifest, err);
    if (rc != SP_OK)
        return rc;
    rc = ckpt_manifest_verify(&manifest, entry->dir, NULL, NULL, err);
    ckpt_manifest_deinit(&manifest);
    return rc;
}

/* With a shared lock on `fd`, which it takes over on success. SP_ENOTFOUND: not there, or there and
 * damaged, and now removed. known: all of it has been verified just now. */
static enum sp_err use_entry(const struct entry *entry, int fd, bool known,
                             struct ckpt_cache_ref **ret, struct sp_error *err)
{
    if (!sp_path_exists(entry->dir))
        return sp_fail(err, SP_ENOTFOUND, "%s: not in the cache", entry->dir);
    enum sp_err rc = known ? SP_OK : verify_entry(entry, err);
    if (rc != SP_OK) {
        if (flock(fd, LOCK_EX | LOCK_NB) != 0)
            return sp_wrap(err, SP_ECORRUPT, "damaged, and in use by another process");
        rc = remove_entry(entry, err);
        return rc != SP_OK ? rc
                           : sp_fail(err, SP_ENOTFOUND, "%s: was damaged, removed", entry->dir);
    }
    futimens(fd, NULL);
    struct ckpt_cache_ref *ref = sp_xalloc(sizeof(*ref));
    ref->dir = sp_xstrdup(entry->dir);
    ref->lock = fd;
    *ret = ref;
    return SP_OK;
}

enum sp_err ckpt_cache_find(struct ckpt_cache *cache, const struct sp_digest *digest,
                            struct ckpt_cache_ref **ret, struct sp_error *err)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(digest, hex);
    struct entry entry = entry_of(cache, hex);
    enum sp_err rc = SP_OK;
    int fd = -1;
    if (!sp_path_exists(entry.dir))
        rc = sp_fail(err, SP_ENOTFOUND, "%s: not in the cache", entry.dir);
    else if ((fd = open_lock(&entry)) < 0)
        rc = sp_fail_errno(err, errno, "%s", entry.lock);
    else if (flock(fd, LOCK_SH) != 0)
        rc = sp_fail_errno(err, errno, "%s: lock", entry.lock);
    else
        rc = use_entry(&entry, fd, false, ret, err);
    if (rc != SP_OK && fd >= 0)
        close(fd);
    entry_deinit(&entry);
    return rc == SP_OK ? rc : sp_wrap(err, rc, "weight cache");
}

/* ---- eviction ---- */

struct candidate {
    char hex[SP_DIGEST_HEX];
    uint64_t bytes;
    struct timespec used;
};

static int by_use(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    if (x->used.tv_nsec != y->used.tv_nsec)
        return x->used.tv_nsec < y->used.tv_nsec ? -1 : 1;
    return strcmp(x->hex, y->hex);
}

static uint64_t tree_bytes(const char *path, int depth)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return 0;
    if (!S_ISDIR(st.st_mode))
        return (uint64_t)st.st_size;
    DIR *stream = depth < 16 ? opendir(path) : NULL;
    uint64_t sum = 0;
    struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *child = sp_path_join(path, entry->d_name);
        sum += tree_bytes(child, depth + 1);
        free(child);
    }
    if (stream != NULL)
        closedir(stream);
    return sum;
}

/* What an entry takes, or will have taken when who fetches it is done. */
static uint64_t entry_bytes(const struct entry *entry)
{
    char *partial = sp_xprintf("%s.partial", entry->dir);
    bool arriving = sp_path_exists(partial);
    uint64_t bytes = tree_bytes(entry->dir, 0) + tree_bytes(partial, 0);
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_error ignored;
    if ((arriving || (bytes == 0 && sp_path_exists(entry->manifest))) &&
        read_manifest(entry, &manifest, &ignored) == SP_OK)
        bytes = SP_MAX(bytes, manifest.bytes);
    ckpt_manifest_deinit(&manifest);
    free(partial);
    return bytes;
}

/* Every digest that has a lock file, but one. */
static enum sp_err list_candidates(const struct ckpt_cache *cache, const char *except,
                                   struct candidate **ret, size_t *ret_count, uint64_t *ret_bytes,
                                   struct sp_error *err)
{
    DIR *stream = opendir(cache->dir);
    if (stream == NULL)
        return sp_fail_errno(err, errno, "%s", cache->dir);
    struct candidate *all = NULL;
    size_t count = 0;
    uint64_t bytes = 0;
    struct dirent *file;
    while ((file = readdir(stream)) != NULL) {
        struct candidate one = {0};
        struct sp_digest digest;
        if (strlen(file->d_name) != 64 + 5 || strcmp(file->d_name + 64, ".lock") != 0)
            continue;
        memcpy(one.hex, file->d_name, 64);
        if (sp_digest_parse(one.hex, &digest, NULL) != SP_OK || strcmp(one.hex, except) == 0)
            continue;
        struct entry entry = entry_of(cache, one.hex);
        struct stat st;
        one.bytes = entry_bytes(&entry);
        if (stat(entry.lock, &st) == 0)
            one.used = st.st_mtim;
        entry_deinit(&entry);
        bytes += one.bytes;
        all = sp_xgrow(all, count + 1, sizeof(*all));
        all[count++] = one;
    }
    closedir(stream);
    if (count > 0)
        qsort(all, count, sizeof(*all), by_use);
    *ret = all;
    *ret_count = count;
    *ret_bytes = bytes;
    return SP_OK;
}

/* Removes unused digests, least recently used first, until `need` more bytes fit. */
static enum sp_err make_room(const struct ckpt_cache *cache, const char *hex, uint64_t need,
                             struct sp_error *err)
{
    struct candidate *all = NULL;
    size_t count = 0;
    uint64_t used = 0;
    if (cache->max_bytes == 0)
        return SP_OK;
    enum sp_err rc = list_candidates(cache, hex, &all, &count, &used, err);
    for (size_t i = 0; rc == SP_OK && i < count && used + need > cache->max_bytes; i++) {
        struct entry entry = entry_of(cache, all[i].hex);
        int fd = all[i].bytes > 0 ? open_lock(&entry) : -1;
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            rc = remove_entry(&entry, err);
            used -= all[i].bytes;
        }
        if (fd >= 0)
            close(fd);
        entry_deinit(&entry);
    }
    free(all);
    if (rc == SP_OK && used + need > cache->max_bytes)
        rc = sp_fail(err, SP_ELIMIT,
                     "%" PRIu64 " bytes do not fit beside the %" PRIu64
                     " bytes in use; the limit is %" PRIu64 ": raise the size of the cache",
                     need, used, cache->max_bytes);
    return rc;
}

/* One process at a time makes room; given back by closing. */
static enum sp_err lock_room(const struct ckpt_cache *cache, int *ret, struct sp_error *err)
{
    if (cache->max_bytes == 0)
        return SP_OK;
    char *path = sp_path_join(cache->dir, "room.lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    enum sp_err rc = SP_OK;
    if (fd < 0 || flock(fd, LOCK_EX) != 0)
        rc = sp_fail_errno(err, errno, "%s", path);
    if (rc == SP_OK)
        *ret = fd;
    else if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

/* ---- fetching ---- */

/* With the lock held exclusively and the entry absent. Of several processes that make room at once
 * each sees what the others are about to fetch, by their manifests. */
static enum sp_err fill_entry(struct ckpt_cache *cache, const struct entry *entry, const char *hex,
                              const struct ckpt_manifest *manifest,
                              const struct ckpt_source *source, ckpt_progress_fn progress,
                              void *progress_context, struct sp_error *err)
{
    struct sp_buf text = SP_BUF_INIT;
    int room = -1;
    enum sp_err rc = lock_room(cache, &room, err);
    if (rc == SP_OK)
        rc = make_room(cache, hex, manifest->bytes, err);
    if (rc == SP_OK) {
        ckpt_manifest_format(manifest, &text);
        rc = sp_write_file_durable(entry->manifest, text.data, text.length, 0600, err);
    }
    if (room >= 0)
        close(room);
    if (rc == SP_OK)
        rc = ckpt_materialise_from(manifest, entry->dir, source, progress, progress_context, err);
    sp_buf_deinit(&text);
    return rc;
}

enum sp_err ckpt_cache_get_from(struct ckpt_cache *cache, const struct ckpt_manifest *manifest,
                                const struct ckpt_source *source, ckpt_progress_fn progress,
                                void *progress_context, struct ckpt_cache_ref **ret,
                                struct sp_error *err)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&manifest->digest, hex);
    struct entry entry = entry_of(cache, hex);
    enum sp_err rc = SP_OK;
    int fd = open_lock(&entry), damaged = 0;
    bool done = false, filled = false;
    if (fd < 0)
        rc = sp_fail_errno(err, errno, "%s", entry.lock);
    while (rc == SP_OK && !done) {
        if (!sp_path_exists(entry.dir)) {
            if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
                filled = !sp_path_exists(entry.dir);
                if (filled)
                    rc = fill_entry(cache, &entry, hex, manifest, source, progress,
                                    progress_context, err);
            } else {
                /* Another process fetches it: wait, but not for ever holding a request to stop. */
                sp_sleep_ms(POLL_MS);
                if (progress != NULL && !progress(progress_context, 0, manifest->bytes))
                    rc = sp_fail(err, SP_ECANCELED, "stopped");
            }
            continue;
        }
        /* From an exclusive lock this step is not atomic: an evictor may come between, and then
         * use_entry does not find the directory and all begins again. */
        if (flock(fd, LOCK_SH) != 0)
            rc = sp_fail_errno(err, errno, "%s: lock", entry.lock);
        else
            rc = use_entry(&entry, fd, filled, ret, err);
        if (rc == SP_OK)
            done = true;
        else if (rc == SP_ENOTFOUND)
            rc = SP_OK;
        else if (rc == SP_ECORRUPT && ++damaged < DAMAGED_TRIES) {
            /* Of two processes that find the damage at once, neither can remove the copy while
             * the other reads it; the lock is lost by now, so one of them gets it soon. */
            sp_sleep_ms(POLL_MS);
            rc = SP_OK;
        }
    }
    if (!done && fd >= 0)
        close(fd);
    entry_deinit(&entry);
    return rc == SP_OK ? rc : sp_wrap(err, rc, "weight cache");
}

enum sp_err ckpt_cache_get(struct ckpt_cache *cache, const struct ckpt_manifest *manifest,
                           ckpt_fetch_fn fetch, void *fetch_context, ckpt_progress_fn progress,
                           void *progress_context, struct ckpt_cache_ref **ret,
                           struct sp_error *err)
{
    struct ckpt_source source = {.fetch = fetch, .context = fetch_context};
    return ckpt_cache_get_from(cache, manifest, &source, progress, progress_context, ret, err);
}

#include "common/base/fs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/mem.h"

#define REMOVE_DEPTH 64

enum sp_err sp_read_file(const char *path, size_t max_bytes, char **ret_data, size_t *ret_length,
                         struct sp_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sp_fail_errno(err, errno, "%s", path);
    enum sp_err rc = SP_OK;
    char *data = NULL;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        rc = sp_fail_errno(err, errno, "%s", path);
        goto out;
    }
    if (S_ISDIR(st.st_mode)) {
        rc = sp_fail(err, SP_EIO, "%s: is a directory, expected a file", path);
        goto out;
    }
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > max_bytes) {
        rc = sp_fail(err, SP_ELIMIT, "%s: %lld bytes, the limit is %zu", path,
                     (long long)st.st_size, max_bytes);
        goto out;
    }
    /* A pipe or a file in /proc has no size to trust: the buffer grows as bytes come. */
    size_t capacity = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size + 2 : 4096;
    size_t length = 0;
    data = sp_xalloc(capacity);
    for (;;) {
        if (length + 1 >= capacity) {
            capacity *= 2;
            data = sp_xgrow(data, capacity, 1);
        }
        ssize_t n = read(fd, data + length, capacity - 1 - length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = sp_fail_errno(err, errno, "%s", path);
            goto out;
        }
        if (n == 0)
            break;
        length += (size_t)n;
        if (length > max_bytes) {
            rc = sp_fail(err, SP_ELIMIT, "%s: more than %zu bytes", path, max_bytes);
            goto out;
        }
    }
    data[length] = 0;
    *ret_data = data;
    if (ret_length != NULL)
        *ret_length = length;
    data = NULL;
out:
    free(data);
    close(fd);
    return rc;
}

/* "a/b/c" → "a/b", "c" → ".", "/c" → "/" */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return sp_xstrdup(".");
    return slash == path ? sp_xstrdup("/") : sp_xstrndup(path, (size_t)(slash - path));
}

static enum sp_err fsync_open(const char *path, int flags, struct sp_error *err)
{
    int fd = open(path, flags | O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return sp_fail_errno(err, errno, "%s", path);
    enum sp_err rc = SP_OK;
    if (fsync(fd) != 0)
        rc = sp_fail_errno(err, errno, "%s: fsync", path);
    close(fd);
    return rc;
}

enum sp_err sp_fsync_dir(const char *path, struct sp_error *err)
{
    return fsync_open(path, O_DIRECTORY, err);
}

enum sp_err sp_fsync_path(const char *path, struct sp_error *err)
{
    return fsync_open(path, 0, err);
}

enum sp_err sp_rename_durable(const char *from, const char *to, struct sp_error *err)
{
    if (rename(from, to) != 0)
        return sp_fail_errno(err, errno, "rename %s to %s", from, to);
    char *parent = parent_of(to);
    enum sp_err rc = sp_fsync_dir(parent, err);
    free(parent);
    return rc;
}

enum sp_err sp_write_all(int fd, const char *path, const void *data, size_t length,
                         struct sp_error *err)
{
    const char *p = data;
    while (length > 0) {
        ssize_t n = write(fd, p, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sp_fail_errno(err, errno, "%s: write", path);
        p += n;
        length -= (size_t)n;
    }
    return SP_OK;
}

/* Not mkstemp's and mkdtemp's, which disregard the umask: reading it means to change it for a
 * moment, for all threads. */
char *sp_temporary_name(const char *path)
{
    uint64_t number;
    sp_random_secret(&number, sizeof(number));
    return sp_xprintf("%s.tmp-%016" PRIx64, path, number);
}

enum sp_err sp_create_temporary(const char *path, int mode, char **ret_name, int *ret_fd,
                                struct sp_error *err)
{
    char *name = sp_temporary_name(path);
    int fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, (mode_t)mode);
    if (fd < 0) {
        enum sp_err rc = sp_fail_errno(err, errno, "%s", path);
        free(name);
        return rc;
    }
    *ret_name = name;
    *ret_fd = fd;
    return SP_OK;
}

enum sp_err sp_write_file_durable(const char *path, const void *data, size_t length, int mode,
                                  struct sp_error *err)
{
    char *temporary;
    int fd;
    enum sp_err rc = sp_create_temporary(path, mode, &temporary, &fd, err);
    if (rc != SP_OK)
        return rc;
    rc = sp_write_all(fd, path, data, length, err);
    if (rc == SP_OK && fsync(fd) != 0)
        rc = sp_fail_errno(err, errno, "%s: fsync", path);
    if (close(fd) != 0 && rc == SP_OK)
        rc = sp_fail_errno(err, errno, "%s: close", path);
    if (rc == SP_OK)
        rc = sp_rename_durable(temporary, path, err);
    if (rc != SP_OK)
        unlink(temporary);
    free(temporary);
    return rc;
}

enum sp_err sp_mkdir_p(const char *path, int mode, struct sp_error *err)
{
    char *part = sp_xstrdup(path);
    enum sp_err rc = SP_OK;
    for (char *p = part; rc == SP_OK;) {
        p += strspn(p, "/");
        if (*p == 0)
            break;
        p += strcspn(p, "/");
        char saved = *p;
        *p = 0;
        struct stat st;
        if (mkdir(part, (mode_t)mode) != 0) {
            int reason = errno;
            if (stat(part, &st) != 0)
                rc = sp_fail_errno(err, reason, "%s: mkdir", part);
            else if (!S_ISDIR(st.st_mode))
                rc = sp_fail(err, SP_EEXIST, "%s: exists and is no directory", part);
        }
        *p = saved;
    }
    free(part);
    return rc;
}

static enum sp_err remove_at(int dir, const char *name, const char *path, int depth,
                             struct sp_error *err);

static enum sp_err remove_children(int fd, const char *path, int depth, struct sp_error *err)
{
    DIR *stream = fdopendir(fd); /* owns fd from here */
    if (stream == NULL) {
        close(fd);
        return sp_fail_errno(err, errno, "%s", path);
    }
    enum sp_err rc = SP_OK;
    struct dirent *entry;
    while (rc == SP_OK && (entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = remove_at(dirfd(stream), entry->d_name, path, depth + 1, err);
    }
    closedir(stream);
    return rc;
}

static enum sp_err remove_at(int dir, const char *name, const char *path, int depth,
                             struct sp_error *err)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? SP_OK : sp_fail_errno(err, errno, "%s: %s", path, name);
    if (!S_ISDIR(st.st_mode)) {
        if (unlinkat(dir, name, 0) != 0 && errno != ENOENT)
            return sp_fail_errno(err, errno, "%s: remove %s", path, name);
        return SP_OK;
    }
    if (depth >= REMOVE_DEPTH)
        return sp_fail(err, SP_ELIMIT, "%s: directories nested deeper than %d", path, REMOVE_DEPTH);
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return sp_fail_errno(err, errno, "%s: %s", path, name);
    enum sp_err rc = remove_children(fd, path, depth, err);
    if (rc == SP_OK && unlinkat(dir, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        rc = sp_fail_errno(err, errno, "%s: remove %s", path, name);
    return rc;
}

enum sp_err sp_remove_tree(const char *path, struct sp_error *err)
{
    return remove_at(AT_FDCWD, path, path, 0, err);
}

bool sp_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

char *sp_path_join(const char *a, const char *b)
{
    size_t n = strlen(a);
    return sp_xprintf("%s%s%s", a, n > 0 && a[n - 1] != '/' ? "/" : "", b);
}

bool sp_path_is_safe(const char *path)
{
    size_t length = strnlen(path, 256);
    if (length == 0 || length > 255)
        return false;
    for (size_t start = 0; start <= length;) {
        size_t part = strcspn(path + start, "/");
        if (part == 0 || (part == 1 && path[start] == '.') ||
            (part == 2 && path[start] == '.' && path[start + 1] == '.'))
            return false;
        for (size_t i = start; i < start + part; i++)
            if (path[i] < 0x20 || path[i] > 0x7e || path[i] == '\\')
                return false;
        start += part + 1;
    }
    return true;
}

bool sp_run_name_is_good(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > SP_MAX_RUN_NAME || name[0] == '.' || name[0] == '-')
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c >= 0x80 || (!isalnum(c) && c != '-' && c != '_' && c != '.'))
            return false;
    }
    return true;
}

enum sp_err sp_map_file(const char *path, struct sp_map *ret, struct sp_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
    if (fd < 0)
        return sp_fail_errno(err, errno, "%s", path);
    enum sp_err rc = SP_OK;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        rc = sp_fail_errno(err, errno, "%s", path);
    } else if (!S_ISREG(st.st_mode)) {
        rc = sp_fail(err, SP_EIO, "%s: not a regular file", path);
    } else if (st.st_size == 0) {
        *ret = (struct sp_map){0};
    } else {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            rc = sp_fail_errno(err, errno, "%s: mmap", path);
        else
            *ret = (struct sp_map){.data = data, .length = (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void sp_unmap(struct sp_map *map)
{
    if (map->length > 0)
        munmap((void *)(uintptr_t)map->data, map->length);
    *map = (struct sp_map){0};
}

enum sp_err sp_lock_dir(const char *dir, int *ret_fd, struct sp_error *err)
{
    char *path = sp_path_join(dir, "lock");
    char pid[32] = "";
    enum sp_err rc = SP_OK;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        rc = sp_fail_errno(err, errno, "%s", path);
    } else if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int reason = errno;
        ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
        pid[n > 0 ? strspn(pid, "0123456789") : 0] = 0;
        rc = reason == EWOULDBLOCK ? sp_fail(err, SP_ESTATE, "%s: in use by process %s", dir,
                                             *pid ? pid : "(unknown)")
                                   : sp_fail_errno(err, reason, "%s: lock", path);
        close(fd);
    } else {
        int n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
        /* The number is for people; the lock itself holds without it. */
        ssize_t put = ftruncate(fd, 0) == 0 ? pwrite(fd, pid, (size_t)n, 0) : n;
        if (put != n)
            rc = sp_fail_errno(err, put < 0 ? errno : ENOSPC, "%s: write", path);
        if (rc == SP_OK)
            *ret_fd = fd;
        else
            close(fd);
    }
    free(path);
    return rc;
}

bool sp_is_network_fs(const char *path)
{
    static const uint32_t magics[] = {
        0x6969,     /* nfs */
        0x517B,     /* smb */
        0xFF534D42, /* cifs */
        0xFE534D42, /* smb2 */
        0x65735546, /* fuse: sshfs, s3fs, glusterfs */
        0x01021997, /* 9p */
        0x00C36400, /* ceph */
        0x0BD00BD0, /* lustre */
        0x5346414F, /* afs */
        0x6B414653, /* kafs */
        0x73757245, /* coda */
        0x564C,     /* ncp */
        0x47504653, /* gpfs */
        0x19830326, /* beegfs */
    };
    struct statfs fs;
    if (statfs(path, &fs) != 0)
        return false;
    for (size_t i = 0; i < SP_COUNT(magics); i++)
        if ((uint32_t)fs.f_type == magics[i])
            return true;
    return false;
}

enum sp_err sp_disk_free(const char *path, uint64_t *ret_bytes, struct sp_error *err)
{
    struct statvfs fs;
    if (statvfs(path, &fs) != 0)
        return sp_fail_errno(err, errno, "%s", path);
    *ret_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return SP_OK;
}

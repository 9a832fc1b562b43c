#include "common/checkpoint/file_ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int real_create(void *fs, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    return fd < 0 ? -errno : fd;
}

static int real_open(void *fs, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static ssize_t real_read(void *fs, int handle, void *to, size_t bytes)
{
    ssize_t n;
    do
        n = read(handle, to, bytes);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t real_write(void *fs, int handle, const void *from, size_t bytes)
{
    ssize_t n;
    do
        n = write(handle, from, bytes);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static int real_fsync(void *fs, int handle)
{
    return fsync(handle) != 0 ? -errno : 0;
}

static int real_close(void *fs, int handle)
{
    return close(handle) != 0 ? -errno : 0;
}

static int real_rename(void *fs, const char *from, const char *to)
{
    return rename(from, to) != 0 ? -errno : 0;
}

static int real_unlink(void *fs, const char *path)
{
    return unlink(path) != 0 ? -errno : 0;
}

static int real_mkdir(void *fs, const char *path)
{
    return mkdir(path, 0777) != 0 ? -errno : 0;
}

static int real_fsync_dir(void *fs, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) != 0 ? -errno : 0;
    close(fd);
    return rc;
}

static int real_size(void *fs, const char *path, uint64_t *ret_bytes)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return -errno;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

static int real_list(void *fs, const char *path, int (*each)(void *arg, const char *name),
                     void *arg)
{
    DIR *stream = opendir(path);
    if (stream == NULL)
        return -errno;
    int rc = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(stream);
        if (entry == NULL) {
            rc = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (each(arg, entry->d_name) != 0)
            break;
    }
    closedir(stream);
    return rc;
}

const struct ckpt_fs *ckpt_fs_posix(void)
{
    static const struct ckpt_fs posix = {
        .create = real_create,
        .open = real_open,
        .read = real_read,
        .write = real_write,
        .fsync = real_fsync,
        .close = real_close,
        .rename = real_rename,
        .unlink = real_unlink,
        .mkdir = real_mkdir,
        .fsync_dir = real_fsync_dir,
        .size = real_size,
        .list = real_list,
    };
    return &posix;
}

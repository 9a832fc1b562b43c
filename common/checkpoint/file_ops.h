/* file_ops: the file operations of the blob store as a table, so that a test can put a simulated
 * disk under it that fails, tears writes and loses power.
 *
 * Every function returns 0 (or what it says) or a negated errno. Paths are as the store builds
 * them. Implementations must allow calls from several threads. */
#ifndef SPIN_CHECKPOINT_FILE_OPS_H
#define SPIN_CHECKPOINT_FILE_OPS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ckpt_fs {
    void *context; /* passed as `fs` to every operation */
    /* A new file for writing (O_CREAT | O_EXCL); a handle ≥ 0. */
    int (*create)(void *fs, const char *path);
    int (*open)(void *fs, const char *path);                       /* for reading; a handle ≥ 0 */
    ssize_t (*read)(void *fs, int handle, void *to, size_t bytes); /* bytes read, 0 at end */
    ssize_t (*write)(void *fs, int handle, const void *from, size_t bytes); /* may be short */
    int (*fsync)(void *fs, int handle);
    int (*close)(void *fs, int handle);
    int (*rename)(void *fs, const char *from, const char *to);
    int (*unlink)(void *fs, const char *path);
    int (*mkdir)(void *fs, const char *path); /* -EEXIST when there */
    int (*fsync_dir)(void *fs, const char *path);
    int (*size)(void *fs, const char *path, uint64_t *ret_bytes);
    /* Calls each(arg, name) for every entry but "." and ".."; a non-zero answer ends it. */
    int (*list)(void *fs, const char *path, int (*each)(void *arg, const char *name), void *arg);
};

/* The real disk. */
const struct ckpt_fs *ckpt_fs_posix(void);

#endif

/* fs: files and directories with durable writes. Blocks on the disk: never call it on a loop
 * thread. Any thread. Paths in messages as given. */
#ifndef SPIN_BASE_FS_H
#define SPIN_BASE_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

/* Whole file into malloc'd memory with a NUL behind; SP_ELIMIT above max_bytes. */
enum sp_err sp_read_file(const char *path, size_t max_bytes, char **ret_data, size_t *ret_length,
                         struct sp_error *err) SP_MUST_USE;
/* A file with a secret: SP_EDENIED when its group or others may read it. "credential:NAME" is NAME
 * in $CREDENTIALS_DIRECTORY, where systemd puts what LoadCredential= names; that directory is
 * private by itself. */
enum sp_err sp_read_secret(const char *path, size_t max_bytes, char **ret_data, size_t *ret_length,
                           struct sp_error *err) SP_MUST_USE;
/* The path of a secret's file, "credential:NAME" resolved; malloc'd. With the same check. */
enum sp_err sp_secret_path(const char *path, char **ret, struct sp_error *err) SP_MUST_USE;
/* Temporary file beside it → write → fsync → rename → fsync of directory. mode as in open(2). */
enum sp_err sp_write_file_durable(const char *path, const void *data, size_t length, int mode,
                                  struct sp_error *err) SP_MUST_USE;
/* A name beside `path` that nobody has; malloc'd. */
char *sp_temporary_name(const char *path);
/* A new file of such a name, open for writing; mode as in open(2). The caller frees the name,
 * closes the file, and renames or unlinks it. */
enum sp_err sp_create_temporary(const char *path, int mode, char **ret_name, int *ret_fd,
                                struct sp_error *err) SP_MUST_USE;
/* All of it, from where the file stands; path: for messages. */
enum sp_err sp_write_all(int fd, const char *path, const void *data, size_t length,
                         struct sp_error *err) SP_MUST_USE;
enum sp_err sp_fsync_dir(const char *path, struct sp_error *err) SP_MUST_USE;
enum sp_err sp_fsync_path(const char *path, struct sp_error *err) SP_MUST_USE;
/* Renames and fsyncs the parent directory of `to`. */
enum sp_err sp_rename_durable(const char *from, const char *to, struct sp_error *err) SP_MUST_USE;
enum sp_err sp_mkdir_p(const char *path, int mode, struct sp_error *err) SP_MUST_USE;
/* rm -r; a missing path is not an error; does not follow links. */
enum sp_err sp_remove_tree(const char *path, struct sp_error *err) SP_MUST_USE;
bool sp_path_exists(const char *path);
char *sp_path_join(const char *a, const char *b); /* malloc'd */
/* A relative path that stays inside its root: no "..", no leading "/", no empty part, no NUL, only
 * printable ASCII, at most 255 bytes. For file names from manifests and archives. */
bool sp_path_is_safe(const char *path);

/* Letters, digits, '-', '_', '.', not first '-' or '.', 1 to SP_MAX_RUN_NAME: files are named after
 * runs. */
bool sp_run_name_is_good(const char *name);

/* Read-only memory map. length 0 maps nothing and succeeds. */
struct sp_map {
    const uint8_t *data;
    size_t length;
};
enum sp_err sp_map_file(const char *path, struct sp_map *ret, struct sp_error *err) SP_MUST_USE;
void sp_unmap(struct sp_map *map);

/* Exclusive advisory lock on DIR/lock for the life of the process; SP_ESTATE names the pid of the
 * holder. *ret_fd is closed by the caller (or by death). */
enum sp_err sp_lock_dir(const char *dir, int *ret_fd, struct sp_error *err) SP_MUST_USE;
/* true when the path is on nfs, cifs, fuse.sshfs, … (statfs magic). */
bool sp_is_network_fs(const char *path);
/* Free bytes for an unprivileged user. */
enum sp_err sp_disk_free(const char *path, uint64_t *ret_bytes, struct sp_error *err) SP_MUST_USE;

#endif

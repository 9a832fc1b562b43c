/* manifest: what a checkpoint consists of, byte for byte: its files with SHA-256, and the SHA-256
 * of each 4 MiB chunk (SP_MAX_CHUNK; the last one of a file is shorter), so that a transfer resumes
 * and a poisoned chunk is refused.
 *
 * Text form (the only one on disk and on the wire), sorted by path, at most SP_MAX_MANIFEST bytes:
 *     spin-manifest 1
 *     file <sha256> <size> <path>
 *     chunk <sha256>              one per chunk of that file, in order; none for an empty file
 * Plain data; any thread that owns it. */
#ifndef SPIN_CHECKPOINT_MANIFEST_H
#define SPIN_CHECKPOINT_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/hash.h"

struct ckpt_manifest_file {
    char *path; /* relative and safe (sp_path_is_safe); owned */
    uint64_t bytes;
    struct sp_digest sha256;  /* of the whole file */
    uint32_t chunk_count;     /* ceil(bytes / SP_MAX_CHUNK) */
    struct sp_digest *chunks; /* owned */
};

struct ckpt_manifest {
    struct ckpt_manifest_file *files; /* sorted by path, unique; owned */
    size_t count;
    uint64_t bytes;       /* of all files */
    uint64_t chunk_count; /* of all files */
    /* The checkpoint's digest: SHA-256 over the lines "sha256 size path\n" of its files, sorted
     * bytewise; `LC_ALL=C sort | sha256sum` computes the same from outside. */
    struct sp_digest digest;
};
#define CKPT_MANIFEST_INIT                                                                         \
    {                                                                                              \
        0                                                                                          \
    }
void ckpt_manifest_deinit(struct ckpt_manifest *manifest); /* frees; leaves CKPT_MANIFEST_INIT */

/* Called after each chunk; false stops the work with SP_ECANCELED. May be NULL everywhere. */
typedef bool (*ckpt_progress_fn)(void *context, uint64_t done_bytes, uint64_t total_bytes);

/* Of the files that ckpt_file_list names. Reads every byte once. */
enum sp_err ckpt_manifest_build(const char *dir, ckpt_progress_fn progress, void *context,
                                struct ckpt_manifest *ret, struct sp_error *err) SP_MUST_USE;
/* Of any files given by name, relative to dir. */
enum sp_err ckpt_manifest_build_files(const char *dir, const char *const *files, size_t count,
                                      ckpt_progress_fn progress, void *context,
                                      struct ckpt_manifest *ret, struct sp_error *err) SP_MUST_USE;

void ckpt_manifest_format(const struct ckpt_manifest *manifest, struct sp_buf *out); /* appends */
/* For bytes from outside: SP_EFORMAT with the line's number, SP_ELIMIT, SP_EVERSION. */
enum sp_err ckpt_manifest_parse(const char *text, size_t length, struct ckpt_manifest *ret,
                                struct sp_error *err) SP_MUST_USE;
/* NULL when absent. */
const struct ckpt_manifest_file *ckpt_manifest_find(const struct ckpt_manifest *manifest,
                                                    const char *path);
/* Bytes of chunk `index` of a file: SP_MAX_CHUNK, or what is left at its end. */
uint32_t ckpt_chunk_bytes(const struct ckpt_manifest_file *file, uint32_t index);

/* Every file is there with its size and SHA-256; SP_ECORRUPT, SP_ENOTFOUND name the file. Files
 * that the manifest does not list are no concern. */
enum sp_err ckpt_manifest_verify(const struct ckpt_manifest *manifest, const char *dir,
                                 ckpt_progress_fn progress, void *context,
                                 struct sp_error *err) SP_MUST_USE;

#endif

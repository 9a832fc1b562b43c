/* manifest_internal: the one loop that reads files chunk by chunk, shared by manifests and the blob
 * store. Not for other folders. */
#ifndef SPIN_CHECKPOINT_MANIFEST_INTERNAL_H
#define SPIN_CHECKPOINT_MANIFEST_INTERNAL_H

#include "common/checkpoint/manifest.h"

/* What to do with a chunk beside hashing it; may be NULL. */
typedef enum sp_err (*ckpt_chunk_sink)(void *context, const struct sp_digest *digest,
                                       const void *data, size_t length, struct sp_error *err);

/* Adds one file, read from `path` and listed as `name`, to a manifest that is not finished. */
enum sp_err ckpt_manifest_add(struct ckpt_manifest *manifest, const char *path, const char *name,
                              ckpt_chunk_sink sink, void *sink_context, ckpt_progress_fn progress,
                              void *progress_context, uint64_t total_bytes,
                              struct sp_error *err) SP_MUST_USE;
/* Sorts, checks limits, computes the digest. */
enum sp_err ckpt_manifest_finish(struct ckpt_manifest *manifest, struct sp_error *err) SP_MUST_USE;
/* The whole of both, for files of one directory. */
enum sp_err ckpt_manifest_scan(const char *dir, const char *const *files, size_t count,
                               ckpt_chunk_sink sink, void *sink_context, ckpt_progress_fn progress,
                               void *progress_context, struct ckpt_manifest *ret,
                               struct sp_error *err) SP_MUST_USE;

#endif

/* blobstore: a content-addressed store of chunks, each at most SP_MAX_CHUNK bytes, in
 * DIR/blobs/ab/<sha256>; DIR/blobs/tmp holds files being written.
 *
 * What put has acknowledged survives power loss: temporary file → fsync → rename → fsync of the
 * directory, before it returns. Nothing is visible half-written. Reads verify the digest.
 * Blocks on the disk: never on a loop thread. Any thread may call put, has and get; iterate, delete
 * and sweep are for the one thread that owns the store. */
#ifndef SPIN_CHECKPOINT_BLOBSTORE_H
#define SPIN_CHECKPOINT_BLOBSTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/checkpoint/file_ops.h"
#include "common/checkpoint/manifest.h"

struct ckpt_blobs;

/* Creates DIR/blobs where needed (DIR itself must exist) and counts what is there. fs NULL: the
 * real disk; otherwise borrowed for the life of the store. */
enum sp_err ckpt_blobs_open(const char *dir, const struct ckpt_fs *fs, struct ckpt_blobs **ret,
                            struct sp_error *err) SP_MUST_USE;
void ckpt_blobs_close(struct ckpt_blobs *blobs); /* NULL is fine */
/* Removes left-overs of interrupted puts. At start, by the owner, before any put. */
enum sp_err ckpt_blobs_sweep(struct ckpt_blobs *blobs, struct sp_error *err) SP_MUST_USE;

/* Stores `data` under `digest`. SP_ECORRUPT when it is not its SHA-256, SP_ELIMIT above
 * SP_MAX_CHUNK. Storing what is there already succeeds (and mends a damaged copy). Durable on
 * SP_OK; on failure nothing is visible under the digest that was not before. */
enum sp_err ckpt_blobs_put(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                           const void *data, size_t length, struct sp_error *err) SP_MUST_USE;
/* Computes the digest. */
enum sp_err ckpt_blobs_put_new(struct ckpt_blobs *blobs, const void *data, size_t length,
                               struct sp_digest *ret, struct sp_error *err) SP_MUST_USE;
bool ckpt_blobs_has(struct ckpt_blobs *blobs, const struct sp_digest *digest);
/* malloc'd (free), with a NUL behind. SP_ENOTFOUND; SP_ECORRUPT when the stored bytes are not the
 * digest's (the file is left for the operator to see). */
enum sp_err ckpt_blobs_get(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                           uint8_t **ret_data, size_t *ret_length,
                           struct sp_error *err) SP_MUST_USE;
/* Missing is not an error. Durable on SP_OK. */
enum sp_err ckpt_blobs_delete(struct ckpt_blobs *blobs, const struct sp_digest *digest,
                              struct sp_error *err) SP_MUST_USE;
/* Every blob, in no particular order; each answers true to go on. Must not put or delete. */
enum sp_err ckpt_blobs_each(struct ckpt_blobs *blobs,
                            bool (*each)(void *context, const struct sp_digest *digest,
                                         uint64_t bytes),
                            void *context, struct sp_error *err) SP_MUST_USE;
/* ---- collection ----
 *
 * A blob that nothing refers to is marked, left alone for a while, and deleted when it still has
 * the mark then. Whoever puts, asks for or reads a blob takes its mark away, so that an upload that
 * finds a chunk stored already can count on it. Marks are in memory: after a restart the wait
 * starts anew. */

enum ckpt_blob_fate { CKPT_BLOB_KEEP, CKPT_BLOB_MARK, CKPT_BLOB_WAIT, CKPT_BLOB_DELETE };
/* The decision about one blob; marked_ms: since when it is marked, -1: it is not. */
enum ckpt_blob_fate ckpt_blob_fate(bool referenced, int64_t marked_ms, int64_t now_ms,
                                   int64_t grace_ms);

struct ckpt_collect {
    bool (*referenced)(void *context, const struct sp_digest *digest);
    void *context;
    int64_t now_ms;   /* monotonic */
    int64_t grace_ms; /* from mark to deletion */
    bool dry_run;     /* count, but mark and delete nothing */
};
struct ckpt_collected {
    uint64_t kept, kept_bytes;       /* referred to */
    uint64_t waiting, waiting_bytes; /* not referred to; those deleted are counted here, too */
    uint64_t deleted, deleted_bytes;
};
/* One collection. By one thread at a time; others may put, has and get meanwhile. */
enum sp_err ckpt_blobs_collect(struct ckpt_blobs *blobs, const struct ckpt_collect *ask,
                               struct ckpt_collected *ret, struct sp_error *err) SP_MUST_USE;

/* From hold to release no collection deletes anything, one under way included: for who works from a
 * list of references that may grow old. Holds add up. Any thread. */
void ckpt_blobs_hold(struct ckpt_blobs *blobs);
void ckpt_blobs_release(struct ckpt_blobs *blobs);

/* Number of blobs and the sum of their bytes, kept up to date since open. */
void ckpt_blobs_usage(struct ckpt_blobs *blobs, uint64_t *ret_count, uint64_t *ret_bytes);

/* Puts all chunks of the checkpoint in `dir` (the files of ckpt_file_list) and returns its
 * manifest. The manifest itself is not put: its text is the caller's to keep. */
enum sp_err ckpt_blobs_put_dir(struct ckpt_blobs *blobs, const char *dir, ckpt_progress_fn progress,
                               void *context, struct ckpt_manifest *ret,
                               struct sp_error *err) SP_MUST_USE;
/* The same for any one file of any size (a dataset): its one-file manifest under `name`. */
enum sp_err ckpt_blobs_put_file(struct ckpt_blobs *blobs, const char *path, const char *name,
                                ckpt_progress_fn progress, void *context, struct ckpt_manifest *ret,
                                struct sp_error *err) SP_MUST_USE;
/* Where ckpt_materialise takes chunks from when they are here: context is the struct ckpt_blobs. */
enum sp_err ckpt_blobs_fetch(void *context, const struct sp_digest *digest, uint32_t bytes,
                             uint8_t *to, struct sp_error *err) SP_MUST_USE;

#endif

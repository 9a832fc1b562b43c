/* materialise: from a manifest and a source of chunks to a directory, and a cache of such
 * directories shared by processes of one machine.
 *
 * Blocks on the source and the disk: on a compute or blob thread, never on a loop. */
#ifndef SPIN_CHECKPOINT_MATERIALISE_H
#define SPIN_CHECKPOINT_MATERIALISE_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/checkpoint/manifest.h"

/* Writes exactly `bytes` bytes of the chunk into `to`. Its bytes are verified by the caller. */
typedef enum sp_err (*ckpt_fetch_fn)(void *context, const struct sp_digest *digest, uint32_t bytes,
                                     uint8_t *to, struct sp_error *err);

/* Called once when DIR.partial is ready and before anything is fetched: may put chunks there in any
 * order (partial.h). What it leaves out is fetched after it; an error ends the work. */
struct ckpt_partial;
typedef enum sp_err (*ckpt_ahead_fn)(void *context, struct ckpt_partial *partial,
                                     struct sp_error *err);

/* Builds `dir` from the manifest: chunk by chunk into DIR.partial, each verified, then fsync, then
 * renamed into place. Interrupted, it goes on where it was: chunks in DIR.partial that verify are
 * not fetched again. A chunk with other bytes than its digest's is SP_ECORRUPT and names file,
 * chunk and digest; nothing of it is kept. SP_EEXIST when `dir` exists. One process at a time. */
enum sp_err ckpt_materialise(const struct ckpt_manifest *manifest, const char *dir,
                             ckpt_fetch_fn fetch, void *fetch_context, ckpt_progress_fn progress,
                             void *progress_context, struct sp_error *err) SP_MUST_USE;
struct ckpt_source;
enum sp_err ckpt_materialise_from(const struct ckpt_manifest *manifest, const char *dir,
                                  const struct ckpt_source *source, ckpt_progress_fn progress,
                                  void *progress_context, struct sp_error *err) SP_MUST_USE;

/* ---- weight cache: CACHE/<digest>/, CACHE/<digest>.manifest, CACHE/<digest>.lock; room.lock is
 * held while room is made ---- */

struct ckpt_cache;
/* Creates `dir` (0700) where needed. max_bytes 0: no limit. */
enum sp_err ckpt_cache_open(const char *dir, uint64_t max_bytes, struct ckpt_cache **ret,
                            struct sp_error *err) SP_MUST_USE;
void ckpt_cache_close(struct ckpt_cache *cache); /* after every reference; NULL is fine */

/* A checkpoint that is in use: not evicted by any process until released. */
struct ckpt_cache_ref;
/* The directory of this digest if the cache has it, complete; SP_ENOTFOUND otherwise. Its files are
 * verified against the stored manifest, a damaged copy is removed. */
enum sp_err ckpt_cache_find(struct ckpt_cache *cache, const struct sp_digest *digest,
                            struct ckpt_cache_ref **ret, struct sp_error *err) SP_MUST_USE;
/* The same, fetched where it is missing. Another process that fetches the same digest is waited
 * for. Before fetching, unused digests are evicted, least recently used first, until the new one
 * fits max_bytes; if it does not fit beside those in use, SP_ELIMIT. */
enum sp_err ckpt_cache_get(struct ckpt_cache *cache, const struct ckpt_manifest *manifest,
                           ckpt_fetch_fn fetch, void *fetch_context, ckpt_progress_fn progress,
                           void *progress_context, struct ckpt_cache_ref **ret,
                           struct sp_error *err) SP_MUST_USE;
/* The same from a source with both ways of giving. */
struct ckpt_source {
    ckpt_fetch_fn fetch;
    ckpt_ahead_fn ahead; /* NULL: none */
    void *context;       /* of both */
};
enum sp_err ckpt_cache_get_from(struct ckpt_cache *cache, const struct ckpt_manifest *manifest,
                                const struct ckpt_source *source, ckpt_progress_fn progress,
                                void *progress_context, struct ckpt_cache_ref **ret,
                                struct sp_error *err) SP_MUST_USE;
const char *ckpt_cache_ref_dir(const struct ckpt_cache_ref *ref); /* borrowed */
void ckpt_cache_release(struct ckpt_cache_ref *ref);              /* NULL is fine */

#endif

/* partial: the chunks of a checkpoint on its way into a directory, in whatever order they come, and
 * the chunks that a weight cache can give to others, of complete checkpoints and of those on their
 * way.
 *
 * A struct ckpt_partial writes into DIR.partial, where ckpt_materialise (materialise.h) looks
 * before it fetches anything; that pass hashes all of it again, so nothing here is believed twice.
 * What has come is on disk after that pass only. Chunks are numbered through all files of the
 * manifest, in its order. One thread each. Blocks on the disk. */
#ifndef SPIN_CHECKPOINT_PARTIAL_H
#define SPIN_CHECKPOINT_PARTIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/checkpoint/manifest.h"
#include "common/checkpoint/materialise.h"

/* ---- bitmaps: chunk i is bit i % 8, from the lowest, of byte i / 8 ---- */
static inline size_t ckpt_bitmap_bytes(uint64_t chunks)
{
    return (size_t)((chunks + 7) / 8);
}
static inline bool ckpt_bit(const uint8_t *bitmap, uint64_t i)
{
    return (bitmap[i / 8] >> (i % 8) & 1) != 0;
}
static inline void ckpt_set_bit(uint8_t *bitmap, uint64_t i)
{
    bitmap[i / 8] |= (uint8_t)(1u << (i % 8));
}

/* ---- coming in ---- */

/* Opens what is at `dir` (DIR.partial, which exists) and looks at every chunk that may be there
 * from an earlier attempt. The manifest is borrowed. */
struct ckpt_partial *ckpt_partial_open(const struct ckpt_manifest *manifest, const char *dir);
void ckpt_partial_close(struct ckpt_partial *partial); /* NULL is fine */
const uint8_t *ckpt_partial_have(const struct ckpt_partial *partial); /* the bitmap; borrowed */
uint64_t ckpt_partial_chunks(const struct ckpt_partial *partial);
uint64_t ckpt_partial_missing(const struct ckpt_partial *partial);    /* chunks */
/* Of chunk `index`; SP_EINVAL when there is none. */
enum sp_err ckpt_partial_chunk(const struct ckpt_partial *partial, uint64_t index,
                               struct sp_digest *ret, uint32_t *ret_bytes,
                               struct sp_error *err) SP_MUST_USE;
/* SP_ECORRUPT when these are not the chunk's bytes: nothing is written then. */
enum sp_err ckpt_partial_put(struct ckpt_partial *partial, uint64_t index, const void *data,
                             size_t length, struct sp_error *err) SP_MUST_USE;

/* ---- going out ---- */

struct ckpt_giver;
/* Gives chunks of what is in this directory of a weight cache (it need not exist). Borrows
 * nothing, takes no locks: what is evicted or not complete meanwhile is not found. */
struct ckpt_giver *ckpt_giver_new(const char *cache_dir);
void ckpt_giver_free(struct ckpt_giver *giver); /* NULL is fine */
/* Complete checkpoints of the cache: digest of the manifest's text, how many chunks it lists. */
void ckpt_giver_each(struct ckpt_giver *giver,
                     void (*each)(void *context, const struct sp_digest *manifest_sha256,
                                  uint32_t chunks),
                     void *context);
/* The bytes of a chunk, verified; borrowed until the next call. Checkpoint and manifest must belong
 * together. SP_ENOTFOUND: not here, or not yet. */
enum sp_err ckpt_giver_read(struct ckpt_giver *giver, const struct sp_digest *checkpoint,
                            const struct sp_digest *manifest_sha256, uint64_t index,
                            const uint8_t **ret_data, uint32_t *ret_bytes,
                            struct sp_error *err) SP_MUST_USE;

#endif

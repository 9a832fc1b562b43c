/* collect: what a collection of blobs does on the store and on the blobs, in three steps, each on
 * the thread that owns what it needs. coord_retention decides which checkpoints are let go of;
 * what must stay because something alive needs it is the core's (roots of COORD_DO_COLLECT).
 *
 *   1. store thread, inside a transaction: coord_retain lets go of old checkpoints
 *   2. store thread, after the commit: coord_refs_load lists every reference
 *   3. work thread: coord_collect adds what the roots' manifests name, and collects
 *
 * In this order a blob that becomes referred to meanwhile is safe: who puts it, or asks whether it
 * is there, takes its mark away (blobstore.h). */
#ifndef SPIN_COORDINATOR_COLLECT_H
#define SPIN_COORDINATOR_COLLECT_H

#include "common/checkpoint/blobstore.h"
#include "coordinator/store/store_run.h"

/* Whether retention lets go of list[i] of a run's checkpoints (in the order of their iterations):
 * not the base, not a pinned one, not one of the newest keep_last (0: none is let go of), none that
 * a root names, none that is gone already. */
bool coord_retention(const struct store_checkpoint *list, size_t count, size_t i,
                     uint32_t keep_last, const struct sp_digest *roots, uint32_t root_count);

struct coord_refs {
    struct sp_digest *list; /* sorted */
    size_t count, capacity;
};
void coord_refs_free(struct coord_refs *refs); /* NULL is fine */

/* Every run. *ret_dropped: how many checkpoints were let go of, or would be (dry_run). */
enum sp_err coord_retain(struct store *store, uint32_t keep_last, const struct sp_digest *roots,
                         uint32_t root_count, int64_t now_ms, bool dry_run, uint32_t *ret_dropped,
                         struct sp_error *err) SP_MUST_USE;
enum sp_err coord_refs_load(struct store *store, struct coord_refs **ret,
                            struct sp_error *err) SP_MUST_USE;
/* now_ms is monotonic. A root whose manifest is not there names nothing but itself. */
enum sp_err coord_collect(struct ckpt_blobs *blobs, struct coord_refs *refs,
                          const struct sp_digest *roots, uint32_t root_count, int64_t now_ms,
                          int64_t grace_ms, bool dry_run, struct ckpt_collected *ret,
                          struct sp_error *err) SP_MUST_USE;

#endif

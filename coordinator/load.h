/* load: from the store to a core: what a run and its newest iteration were when the process before
 * ended. Reading blocks on the disk (any thread with its own store connection); adding is the
 * loop's. */
#ifndef SPIN_COORDINATOR_LOAD_H
#define SPIN_COORDINATOR_LOAD_H

#include "common/base/names.h"
#include "common/checkpoint/blobstore.h"
#include "coordinator/core.h"

struct coord_loaded {
    struct coord_run_info info;
    struct sp_digest accepted, accepted_manifest;
    uint32_t next_iteration;
    char *numerics_class;
    int32_t priority;
    bool has_iteration;
    struct coord_iteration_info iteration;
    uint8_t *stored[COORD_SET_COUNT];   /* bitmaps, as store_results_bitmap */
    uint32_t positions[COORD_SET_COUNT];
    uint32_t *owners[COORD_SET_COUNT];  /* by position: number in workers; 0: not stored */
    struct sp_names workers;
    uint32_t *skipped;                  /* prompts */
    size_t skipped_count;
    uint32_t *source_skipped;           /* prompts of the iteration whose pairs are replayed */
    size_t source_skipped_count;
};

/* vocab and stop ids come from the base's config.json and generation_config.json in the blobs, and
 * from the end token of the data. */
enum sp_err coord_load_run(struct store *store, struct ckpt_blobs *blobs, const char *name,
                           struct coord_loaded *ret, struct sp_error *err) SP_MUST_USE;
/* Takes over what *loaded owns, and deinits it. */
enum sp_err coord_load_add(struct coord_core *core, struct coord_loaded *loaded, int64_t now_ms,
                           struct sp_error *err) SP_MUST_USE;
void coord_loaded_deinit(struct coord_loaded *loaded);

#endif

/* world: a small run in a state directory of its own, for tests that put the core on the real
 * store. Prompts and answers are made from their numbers; the base model is a config.json in the
 * blobs. */
#ifndef SPIN_TESTS_SIM_WORLD_H
#define SPIN_TESTS_SIM_WORLD_H

#include "common/checkpoint/blobstore.h"
#include "coordinator/core.h"
#include "coordinator/load.h"

#define WORLD_VOCAB 500
#define WORLD_END_ID 2 /* as config.json says */
#define WORLD_RUN "r"

struct world_options {
    uint32_t train, holdout, eval; /* prompts */
    const char *settings;          /* INI lines that differ from the world's, or NULL */
    const char *vfs;               /* of the store; NULL: the default */
};

struct world {
    char dir[128];
    struct store_options store_options;
    struct store *store;
    struct ckpt_blobs *blobs;
    struct sp_error err;
};

/* Aborts with a message when something fails: a test has nothing to test then. */
void world_make(struct world *world, const struct world_options *options);
void world_remove(struct world *world); /* closes and deletes */
/* Between two lives of a coordinator. */
void world_close(struct world *world);
void world_open(struct world *world);
enum sp_err world_try_open(struct world *world); /* what failed stands in world->err */
/* A new core, filled from the store; try: NULL when a disk in trouble does not let it. */
struct coord_core *world_try_core(struct world *world, const struct coord_options *options,
                                  int64_t now_ms);
struct coord_core *world_core(struct world *world, const struct coord_options *options,
                              int64_t now_ms);
void world_check(struct world *world, enum sp_err rc, const char *what);

#endif

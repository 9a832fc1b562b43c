/* core_trust: which workers get work, and whose results are believed. A part of core_internal.h. */
#ifndef SPIN_COORDINATOR_CORE_TRUST_H
#define SPIN_COORDINATOR_CORE_TRUST_H

#include "coordinator/core_internal.h"

/* ---- holds.c ---- */
const struct coord_hold *core_hold(const struct coord_core *core, const char *worker);
bool core_is_held(const struct coord_core *core, const struct coord_worker *worker);
/* kind STORE_HOLD_NONE: it gets work again. handle: the request that waits for it, 0: none. */
void core_set_hold(struct coord_core *core, const char *worker, enum store_hold_kind kind,
                   const char *reason, const char *actor, uint64_t handle);
/* Takes back at once what it holds. */
void core_take_back(struct coord_core *core, const char *worker, const char *why);
void core_hold_written(struct coord_core *core, struct coord_write *write);

/* ---- verify.c: a share of the results is made again by another worker ---- */
uint32_t core_name(struct coord_core *core, const char *name); /* 1, 2, …; the same for equals */
bool verify_applies(const struct coord_core *core, const struct coord_run *run);
/* A result of this worker (its core_name) was stored newly. */
void verify_stored(struct coord_core *core, struct coord_run *run, enum proto_set set,
                   uint32_t position, uint32_t worker);
/* The same for all that is stored and not drawn yet: the share has risen. */
void verify_draw_again(struct coord_core *core);
/* A worker has sent the result of a key that was stored before. */
void verify_again(struct coord_core *core, struct coord_run *run, const struct store_result *row,
                  uint32_t worker, bool different);
/* Up to max positions of the set that this worker may check, marked leased; how many. */
uint32_t verify_take(struct coord_core *core, struct coord_run *run, enum proto_set set,
                     const struct coord_worker *worker, uint32_t max, uint32_t *ret);
void verify_release(struct coord_iteration *it, enum proto_set set, uint32_t position);
/* The set with a check that this worker may make; -1: none. */
int verify_set_for(const struct coord_core *core, const struct coord_run *run,
                   const struct coord_worker *worker);
/* Whether the iteration has to wait for checks before it is published (all: before its verdict). */
bool verify_blocks(const struct coord_core *core, const struct coord_run *run, bool all);
/* Drops what quarantined workers made in the open iterations. */
void core_revoke_distrusted(struct coord_core *core);
void core_revoked_written(struct coord_core *core, struct coord_run *run,
                          struct coord_write *write);
json_t *verify_json(const struct coord_core *core, const struct coord_run *run);
void verify_forget(struct coord_iteration *it); /* frees the disputes */

#endif

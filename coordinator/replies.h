/* replies: the large answers, made from the store: work for generators, pairs for the trainer.
 * Blocks on the disk: read thread, on its own connection. What is returned lives in the arena. */
#ifndef SPIN_COORDINATOR_REPLIES_H
#define SPIN_COORDINATOR_REPLIES_H

#include "coordinator/core.h"

/* action: a COORD_DO_GRANT. */
enum sp_err coord_build_grant(struct store *store, const struct coord_action *action,
                              struct sp_arena *arena, struct proto_lease_reply *ret,
                              struct sp_error *err) SP_MUST_USE;
/* action: a COORD_DO_PAIRS. As many of its pairs as fit a message, at least one. */
enum sp_err coord_build_pairs(struct store *store, const struct coord_action *action,
                              struct sp_arena *arena, struct proto_pairs_fetch_reply *ret,
                              struct sp_error *err) SP_MUST_USE;

#endif

/* uclaml: compat = uclaml: sampled answers are stored as the tokens that they are trained on
 * (common/text/chat_uclaml.h), so that everybody who reads pairs sees those. Store thread. */
#ifndef SPIN_COORDINATOR_UCLAML_H
#define SPIN_COORDINATOR_UCLAML_H

#include "common/checkpoint/blobstore.h"
#include "coordinator/store/store_run.h"

struct coord_uclaml;
struct coord_uclaml *coord_uclaml_new(struct ckpt_blobs *blobs); /* borrowed */
void coord_uclaml_free(struct coord_uclaml *uclaml);             /* NULL is fine */
/* A struct coord_write's `rewrite`, with the uclaml as its context. Runs of another compat keep
 * their rows as they are. The same ids give the same, so a result that is sent twice is one result.
 */
enum sp_err coord_uclaml_rewrite(void *context, struct store_run *run, struct store_result *row,
                                 struct sp_arena *arena, struct sp_error *err) SP_MUST_USE;

#endif

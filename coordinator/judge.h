/* judge: the two pieces of work on stored results that take long: the verdict on an iteration, and
 * the order of the curriculum by gap. Blocks on the disk: work thread, with its own reading
 * connection. */
#ifndef SPIN_COORDINATOR_JUDGE_H
#define SPIN_COORDINATOR_JUDGE_H

#include "coordinator/admin_query.h"
#include "coordinator/core.h"

struct coord_judgement {
    char *verdict; /* malloc'd: "improved" */
    bool accepted;
    char *text;    /* malloc'd JSON: the trainer's summary and all statistics */
    struct sp_digest pairs_sha256;
};

/* query may be NULL: no exact match then. On failure *ret is untouched. */
enum sp_err coord_judge(struct store *store, struct coord_query *query,
                        const struct coord_run_info *info, uint32_t iteration,
                        struct coord_judgement *ret, struct sp_error *err) SP_MUST_USE;

/* Easiest first: positions by falling difference between the opponent's mean log-probability of a
 * token of the human answer and of its own; equal ones, and those without scores (last), by
 * position. *ret: malloc'd, plan_pairs positions. */
enum sp_err coord_gap_order(struct store *store, const struct coord_run_info *info,
                            uint32_t iteration, uint32_t **ret, struct sp_error *err) SP_MUST_USE;

#endif

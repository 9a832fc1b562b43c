/* evaluation: a task's problems put to one checkpoint.
 *
 * An evaluation is a run of mode `evaluate` with a file of its own (runs/evaluation.<hex>.db) and
 * one iteration, which is `evaluating` from the start: so its items are leased, stored once and
 * resumed like any other work, by the same code. Its name is a digest of what decides its results
 * (task file, data, limit, checkpoint, numerics settings), so that asking again finds it.
 *   prompts of split holdout   what is scored: context, continuation, and a second one where a
 *                              problem's choices share their context (samples_per_prompt = 2)
 *   prompts of split eval      what is generated, greedily
 * A prompt's `response` is JSON for the scoring: {"covers": requests of this position, "doc": what
 * task_render says of the problem, with the problem's first position}.
 *
 * Work thread, but for what says "any thread". */
#ifndef SPIN_COORDINATOR_EVALUATION_H
#define SPIN_COORDINATOR_EVALUATION_H

#include <jansson.h>

#include "common/checkpoint/blobstore.h"
#include "common/task/task.h"
#include "coordinator/admin_query.h"
#include "coordinator/judge.h"
#include "coordinator/store/store.h"

#define COORD_EVALUATION_PREFIX "evaluation."
/* Whether a run is an evaluation, by its name. Any thread. */
bool coord_is_evaluation(const char *run);

struct coord_evaluate {
    struct store *store; /* reading connection, for the run that the checkpoint is of */
    struct coord_query *query;
    struct ckpt_blobs *blobs;
    const char *state_dir;
    const struct store_options *options; /* may be NULL */
    int64_t now_ms;
    bool (*cancelled)(void *context); /* may be NULL */
    void *context;
};

/* args: {"of": run, "iteration": −1 for the base, "checkpoint", "manifest": hex, "task": text of
 * the task file, "file": its name, "data", "fewshot": hex of the manifests of the data (fewshot may
 * be null), "limit": 0 for the task's own, "previous": name of the evaluation that holds the
 * answers to the turn before (sheets), or null}.
 * *ret_name: malloc'd. *ret_new: its file NAME.db.new is finished and waits for store_run_adopt;
 * false: it is there already. */
enum sp_err coord_evaluate(const struct coord_evaluate *request, const json_t *args,
                           char **ret_name, bool *ret_new, struct sp_error *err) SP_MUST_USE;
/* The first evaluation that a run's settings ask for and that is not there: *ret_args as above, a
 * new reference; NULL: all are there. */
enum sp_err coord_evaluation_missing(const struct coord_evaluate *request, const char *run,
                                     json_t **ret_args, struct sp_error *err) SP_MUST_USE;

/* Scores a finished evaluation: its "verdict" is "evaluated", its text task_summary's, its digest
 * over every item's score. */
enum sp_err coord_evaluation_score(struct store *store, struct coord_query *query,
                                   const struct coord_run_info *info, struct coord_judgement *ret,
                                   struct sp_error *err) SP_MUST_USE;

/* One problem with its score, from a position on: for listings. Calls `each` with a new reference
 * to {"item", "metrics", …} for up to `limit` problems; *next is the position of the one behind,
 * or UINT32_MAX at the end. */
typedef void coord_item_fn(void *context, json_t *item);
enum sp_err coord_evaluation_items(struct store_run *run, struct coord_query *query, uint32_t from,
                                   uint32_t limit, bool detail, coord_item_fn *each, void *context,
                                   uint32_t *next, struct sp_error *err) SP_MUST_USE;

#endif

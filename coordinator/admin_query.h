/* admin_query: admin verbs that only read the store, answered as JSON from a read connection.
 *
 *   runs         {}                                       all runs with their newest iteration
 *   settings     {}                                       of a run
 *   data         {}                                       create-run's report
 *   iterations   {}                                       all of a run, with what came of each
 *   steps        {"iteration", "after", "limit"}          metrics of optimizer steps
 *   pairs        {"iteration", "set", "offset", "limit"}  rows of a work set, ids and text
 *   timeline     {"iteration"}                            results by worker, kind and time
 *   events       {"after", "limit"}                       of a run; run "": of the coordinator
 *   checkpoints  {}                                       of a run; run "": of all
 *   checkpoint   {"digest"} or {"iteration"}              one, with its provenance record; a digest
 *                                                         may be its first 8 or more characters,
 * and with neither it is the newest of the run
 *   evaluations  {}                                       of a run's checkpoints, with results
 *   evaluation   {"evaluation"}                           one, with what it was made of
 *   evaluation-items   {"evaluation", "from", "limit"}    its problems, scored
 *   evaluation-compare {"a", "b", "run_b"}                b − a by metric, paired
 *   token-list   {} workers      {} everyone who ever
 * said hello
 *
 * "iteration" may be absent: the newest. Listings are paged; a reply stays below SP_MAX_MESSAGE.
 * Numbers that are not finite, or not known yet, are null. One thread (the read thread). */
#ifndef SPIN_COORDINATOR_ADMIN_QUERY_H
#define SPIN_COORDINATOR_ADMIN_QUERY_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/err.h"
#include "common/checkpoint/blobstore.h"
#include "coordinator/store/store_run.h"

struct coord_query;

/* store: the read connection; blobs: for the tokenizer that turns ids into text (may be NULL: no
 * text then). Both borrowed. */
struct coord_query *coord_query_new(struct store *store, struct ckpt_blobs *blobs);
void coord_query_free(struct coord_query *query); /* NULL is fine */
/* Whether coord_query_run answers this verb. */
bool coord_query_knows(const char *verb);
/* args: JSON object text, or "". *ret: a new reference to an object, to which the caller may add
 * what only the loop knows. SP_ENOTFOUND for an unknown run, SP_EINVAL for bad arguments. */
enum sp_err coord_query_run(struct coord_query *query, const char *verb, const char *run,
                            const char *args, json_t **ret, struct sp_error *err) SP_MUST_USE;

/* Exact match of an evaluation set: rows whose decoded answer (special tokens skipped, trimmed)
 * equals the reference response (trimmed), and rows in all. For the verdict, too; with a
 * coord_query of its own on another thread's connection. */
enum sp_err coord_query_exact_match(struct coord_query *query, struct store_run *run,
                                    uint32_t iteration, uint32_t set, uint64_t *ret_correct,
                                    uint64_t *ret_count, struct sp_error *err) SP_MUST_USE;
/* Share of held-out pairs whose margin under the new checkpoint is above 0, ties one half; NaN when
 * nothing was scored on both sides. */
enum sp_err coord_query_holdout_accuracy(struct coord_query *query, struct store_run *run,
                                         uint32_t iteration, double *ret,
                                         struct sp_error *err) SP_MUST_USE;

#endif

/* admin_query: admin verbs that only read the store, answered as JSON from a read connection.
 *
 * Verbs: runs, status (the part that the store knows), settings, iterations, events, pairs,
 * checkpoints, checkpoint, steps, token-list, workers (everyone who ever said hello), data.
 * Arguments and replies are listed in docs/protocol.md. Listings are paged; a reply stays below
 * SP_MAX_MESSAGE. One thread (the read thread). */
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
 * equals the reference response (trimmed), and rows in all. For the verdict, too. */
enum sp_err coord_query_exact_match(struct coord_query *query, struct store_run *run,
                                    uint32_t iteration, uint32_t set, uint64_t *ret_correct,
                                    uint64_t *ret_count, struct sp_error *err) SP_MUST_USE;

#endif

/* create_run: the admin verb "create-run": from blobs (base checkpoint, dataset files) and settings
 * to a run's file with every prompt rendered and tokenized once.
 *
 * Runs on a work thread: reads blobs, writes STATE_DIR/tmp/NAME and runs/NAME.db.new, touches
 * neither the live store nor the loop. The store thread then calls store_run_adopt(NAME). */
#ifndef SPIN_COORDINATOR_CREATE_RUN_H
#define SPIN_COORDINATOR_CREATE_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/checkpoint/blobstore.h"
#include "coordinator/store/store_run.h"
#include "proto/run_settings.h"

struct coord_create_run {
    const char *state_dir;
    const struct store_options *options; /* as store_open; may be NULL */
    struct ckpt_blobs *blobs;            /* borrowed; put, has and get from this thread */
    /* {"settings": {…}, "base": "<sha256 of its manifest>",
     *  "data": {"train": sha, "holdout": sha, "eval": sha}} (the last two may be absent) */
    const char *args;
    int64_t now_ms; /* wall clock, for created_ms */
    /* Asked now and then; true: SP_ECANCELED. May be NULL. */
    bool (*cancelled)(void *context);
    void *context;
};

/* On success the file runs/NAME.db.new is finished; *ret_name and *ret_report (JSON: counts by
 * split, what was left out and why, length statistics, warnings) are malloc'd. Errors name the
 * setting, the file and the line. SP_EEXIST when the run is there: see coord_create_run_same. */
enum sp_err coord_create_run(const struct coord_create_run *request, char **ret_name,
                             char **ret_report, struct sp_error *err) SP_MUST_USE;
/* Run's name in args, checked; malloc'd. Any thread, no disk. */
enum sp_err coord_create_run_name(const char *args, char **ret_name,
                                  struct sp_error *err) SP_MUST_USE;
/* A repeated create-run: the stored report (malloc'd, with "existing": true) when `args` are what
 * the run was made of, else SP_EEXIST. Thread of the run's store. */
enum sp_err coord_create_run_same(struct store_run *run, const char *args, char **ret_report,
                                  struct sp_error *err) SP_MUST_USE;

/* What store_run_info's `data` says of the model: the size of its vocabulary and the ids that end
 * an answer, the one that ends human answers first. *ret_stop_ids is malloc'd. Any thread. */
enum sp_err coord_run_model(const char *data, int32_t *ret_vocab, int32_t **ret_stop_ids,
                            uint32_t *ret_stop_count, struct sp_error *err) SP_MUST_USE;

#endif

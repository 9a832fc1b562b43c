/* remove_run: takes a run out of a state directory, with no coordinator running there. */
#ifndef SPIN_COORDINATOR_REMOVE_RUN_H
#define SPIN_COORDINATOR_REMOVE_RUN_H

#include <stdint.h>

#include "common/base/err.h"

/* Prompts, pairs, steps, verdicts and checkpoints of run `name` go; its blobs that no other run
 * refers to are collected when a coordinator has run for a while. Evaluations of its checkpoints
 * go with it: they are found by its name, and would be a new run's of that name. Tokens and events
 * that name it stay. SP_ENOTFOUND: no state directory or run. SP_ESTATE: a coordinator runs there,
 * or an iteration of the run is not at its end. A run whose file is damaged or missing is removed
 * like others. *ret: how many there were; 0 iterations where its file can't be read. */
struct coord_removed {
    uint64_t iterations, evaluations;
};
enum sp_err coord_remove_run(const char *state_dir, const char *name, struct coord_removed *ret,
                             struct sp_error *err) SP_MUST_USE;

#endif

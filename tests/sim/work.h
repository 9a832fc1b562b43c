/* work: what the threads of the daemon do beside the loop and the store thread, in simulated time:
 * read, verify, judge, order, collect blobs. Within the simulation. */
#ifndef SPIN_TESTS_SIM_WORK_H
#define SPIN_TESTS_SIM_WORK_H

#include "coordinator/core.h"
#include "tests/sim/sim.h"

/* Does `fire`, one of the following, some time within `longest` ms, if the coordinator still lives.
 */
void sim_start_work(struct sim *sim, struct coord_action *action, sim_fire *fire, int64_t longest);
sim_fire sim_read_work, sim_missing_work, sim_verify_work, sim_judge_work, sim_order_work,
    sim_collect_work;

/* Of the coordinator, for them. */
void sim_step(struct sim *sim, const struct coord_event *event);
struct sim_call *sim_take_call(struct sim *sim, uint64_t handle);
sim_fire sim_start_again;
/* true: the process stands still, and the timer fires when it goes on. */
bool sim_coordinator_waits(struct sim *sim, sim_fire *fire, void *context, uint64_t life);

#endif

/* iteration_sm: the states of an iteration and the transitions between them. Pure; any thread.
 *
 *              start-iteration
 *                    |
 *                    v
 *                 planned ----> running ----> publishing ----> evaluating ----> closed
 *                    |             |               |                |
 *                    +------+------+-------+-------+-----+----------+
 *                           |              |             |
 *                      pause|         fail |      cancel |     (from any of the four)
 *                           v              v             v
 *                        paused         failed -----> cancelled
 *                           |              |  cancel     |
 *                   resume, |       retry  |             | start, start --fresh
 *                           v              v             v
 *                      where it was   where it was    running (evaluating where the
 *                                                     checkpoint is published already)
 *
 * paused and failed remember the state they return to. A paused iteration can be cancelled. closed
 * is final. Every transition is committed to the store before anything follows from it. */
#ifndef SPIN_COORDINATOR_ITERATION_SM_H
#define SPIN_COORDINATOR_ITERATION_SM_H

#include <stdbool.h>

#include "common/base/err.h"

/* name, number in the database, text */
#define COORD_STATE_LIST(X)                                                                        \
    X(COORD_PLANNED, 0, "planned")                                                                 \
    X(COORD_RUNNING, 1, "running")                                                                 \
    X(COORD_PUBLISHING, 2, "publishing")                                                           \
    X(COORD_EVALUATING, 3, "evaluating")                                                           \
    X(COORD_CLOSED, 4, "closed")                                                                   \
    X(COORD_PAUSED, 5, "paused")                                                                   \
    X(COORD_FAILED, 6, "failed")                                                                   \
    X(COORD_CANCELLED, 7, "cancelled")

#define COORD_STATE_ENUM(name, number, text) name = number,
enum coord_state { COORD_STATE_LIST(COORD_STATE_ENUM) COORD_STATE_COUNT };
#undef COORD_STATE_ENUM

const char *coord_state_name(enum coord_state state); /* "running"; static */
/* SP_EFORMAT for another word. */
enum sp_err coord_state_parse(const char *name, enum coord_state *ret,
                              struct sp_error *err) SP_MUST_USE;
bool coord_transition_allowed(enum coord_state from, enum coord_state to);
/* planned, running, publishing, evaluating: work may go on in it. */
bool coord_state_is_live(enum coord_state state);
/* Whether another iteration may be started after it. */
bool coord_state_is_open(enum coord_state state); /* everything but closed and cancelled */

#endif

/* work_item: what a position of a work set asks of a generator. The scheduler's reply, the check of
 * a submission and the trainer's view are made from this one description. Pure; any thread. */
#ifndef SPIN_COORDINATOR_WORK_ITEM_H
#define SPIN_COORDINATOR_WORK_ITEM_H

#include <stdbool.h>
#include <stdint.h>

#include "coordinator/store/store_run.h"
#include "proto/messages.h"
#include "proto/plan.h"
#include "proto/run_settings.h"

struct coord_item {
    enum proto_work_kind kind;
    enum store_split split;    /* where prompt is an index */
    uint32_t prompt, sample;
    uint32_t source_iteration; /* whose opponent sampled the answer: earlier for replayed pairs */
    bool greedy;
    bool score_real;           /* the human (chosen) answer is scored */
    bool score_generated;      /* SCORE: so is the other one, which is the … */
    enum proto_set answer_set; /* … result of this set of answer_iteration at answer_position … */
    uint32_t answer_iteration, answer_position;
    bool answer_given;         /* … or the data's rejected answer */
};

/* set and position must be in range. */
void coord_item_at(const struct run_settings *settings, const struct plan *plan, enum proto_set set,
                   uint32_t position, struct coord_item *ret);

/* How many positions the set has in an iteration; prompts: by enum store_split. */
uint32_t coord_set_positions(const struct run_settings *settings, const struct plan *plan,
                             enum proto_set set, const uint32_t prompts[STORE_SPLITS]);

#endif

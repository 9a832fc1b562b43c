/* The order in which an iteration's pairs are handed out and trained on. A permutation of a large
 * plan takes milliseconds, so it is computed outside the core, like the order by gap. */
#include <stdio.h>
#include <stdlib.h>

#include "coordinator/core_internal.h"

uint32_t *coord_pass_order(const struct coord_run_info *info, uint32_t iteration, uint32_t pass)
{
    struct plan plan;
    plan_init(&info->settings, iteration, info->prompts[STORE_SPLIT_TRAIN], &plan);
    uint32_t *order = sp_xarray(plan_pairs(&plan), sizeof(*order));
    plan_order(&plan, pass, info->length_keys, NULL, order);
    return order;
}

bool iteration_has_work_order(const struct coord_iteration *it)
{
    return it->plan.order == RUN_ORDER_GAP || it->sets[PROTO_SET_TRAIN].order != NULL;
}

static void ask(struct coord_core *core, struct coord_run *run, bool gap, uint32_t pass)
{
    struct coord_action *action = core_action(core, COORD_DO_ORDER);
    action->run = &run->info;
    action->iteration = run->iteration->number;
    action->attempt = run->iteration->attempt;
    action->gap = gap;
    action->pass = pass;
}

void core_ask_orders(struct coord_core *core, struct coord_run *run)
{
    struct coord_iteration *it = run->iteration;
    const struct coord_set *train = &it->sets[PROTO_SET_TRAIN];
    if (!coord_state_is_live(it->state))
        return;
    if (it->plan.order != RUN_ORDER_GAP) {
        if (train->order || it->work_order_asked || set_complete(train))
            return;
        it->work_order_asked = true;
        ask(core, run, false, 0);
    } else if (it->state == COORD_RUNNING && !it->gap_order && !it->ordering && it->generated) {
        it->ordering = true;
        ask(core, run, true, 0);
    }
}

const uint32_t *iteration_order(struct coord_core *core, struct coord_run *run, uint32_t pass)
{
    struct coord_iteration *it = run->iteration;
    if (it->plan.order == RUN_ORDER_GAP)
        return it->gap_order;
    if (pass == 0 && it->sets[PROTO_SET_TRAIN].order)
        return it->sets[PROTO_SET_TRAIN].order;
    if (it->pass_order && it->pass == pass)
        return it->pass_order;
    if (!it->pass_asked || it->asked_pass != pass) {
        it->pass_asked = true;
        it->asked_pass = pass;
        ask(core, run, false, pass);
    }
    return NULL;
}

/* Pass 0 is also the order of handing out. */
static void install_work_order(struct coord_iteration *it, const uint32_t *order)
{
    struct coord_set *set = &it->sets[PROTO_SET_TRAIN];
    if (set->order || set->count == 0)
        return;
    set->order = sp_xmemdup(order, set->count * sizeof(*order));
    set->rank = sp_xarray(set->count, sizeof(*set->rank));
    for (uint32_t i = 0; i < set->count; i++)
        set->rank[order[i]] = i;
    set->cursor = 0;
}

static void pass_ordered(struct coord_core *core, struct coord_run *run,
                         const struct coord_event *event)
{
    struct coord_iteration *it = run->iteration;
    if (event->pass == 0) {
        it->work_order_asked = false;
        install_work_order(it, event->order);
    }
    if (it->pass_asked && it->asked_pass == event->pass) {
        it->pass_asked = false;
        free(it->pass_order);
        it->pass_order = sp_xmemdup(event->order, plan_pairs(&it->plan) * sizeof(*event->order));
        it->pass = event->pass;
    }
    core->work_changed = true;
}

void core_ordered(struct coord_core *core, const struct coord_event *event)
{
    struct coord_run *run = core_still_there(core, event);
    if (!run)
        return;
    if (!event->gap) {
        pass_ordered(core, run, event);
        return;
    }
    struct coord_iteration *it = run->iteration;
    if (!it->ordering)
        return;
    if (it->pending || !coord_state_is_live(it->state)) {
        it->ordering = false; /* asked for again when the iteration goes on */
        return;
    }
    if (event->status != SP_OK) {
        it->ordering = false;
        char reason[SP_ERROR_TEXT_BYTES + 16];
        snprintf(reason, sizeof(reason), "order by gap: %s", event->text);
        core_send(core, iteration_move(core, run, COORD_FAILED, "coordinator", reason));
        return;
    }
    struct coord_write *write = core_write(COORD_W_ORDER, run);
    write->attempt = it->attempt;
    write->order_count = plan_pairs(&it->plan);
    write->order = sp_xmemdup(event->order, write->order_count * sizeof(*event->order));
    core_send(core, write);
}

void core_order_written(struct coord_core *core, struct coord_run *run, struct coord_write *write)
{
    struct coord_iteration *it = run->iteration;
    if (it->number != write->iteration || it->attempt != write->attempt)
        return;
    it->ordering = false;
    it->gap_order = write->order;
    write->order = NULL;
    core->work_changed = true;
}

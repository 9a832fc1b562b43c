#include "coordinator/work_item.h"

static void train_item(const struct run_settings *settings, const struct plan *plan,
                       uint32_t position, struct coord_item *item)
{
    struct plan_key key;
    plan_key_at(plan, position, &key);
    item->split = STORE_SPLIT_TRAIN;
    item->prompt = key.prompt;
    item->sample = key.sample;
    item->source_iteration = key.source_iteration;
    item->score_real = true;
    if (settings->mode == RUN_MODE_DPO) {
        item->kind = PROTO_WORK_SCORE;
        item->score_generated = item->answer_given = true;
    } else if (key.source_iteration != plan->iteration) {
        item->kind = PROTO_WORK_SCORE;
        item->score_generated = true;
        item->answer_set = PROTO_SET_TRAIN;
        item->answer_iteration = key.source_iteration;
        item->answer_position = position - plan->new_pairs;
    } else {
        item->kind = PROTO_WORK_SAMPLE;
        /* The human answer belongs behind another prompt; the trainer scores it there. */
        item->score_real = settings->compat != RUN_COMPAT_UCLAML;
    }
}

/* Held-out pairs under the opponent, and the same pairs under the player. */
static void holdout_item(const struct run_settings *settings, bool player, struct coord_item *item)
{
    item->split = STORE_SPLIT_HOLDOUT;
    item->score_real = true;
    if (settings->mode == RUN_MODE_EVALUATE) {
        item->kind = PROTO_WORK_SCORE;
        item->score_generated = item->answer_given = settings->samples_per_prompt == 2;
        return;
    }
    if (settings->mode == RUN_MODE_SPIN && !player) {
        item->kind = PROTO_WORK_SAMPLE;
        return;
    }
    item->kind = PROTO_WORK_SCORE;
    item->score_generated = settings->mode != RUN_MODE_SFT;
    item->answer_given = settings->mode == RUN_MODE_DPO;
    item->answer_set = PROTO_SET_HOLDOUT;
}

void coord_item_at(const struct run_settings *settings, const struct plan *plan, enum proto_set set,
                   uint32_t position, struct coord_item *ret)
{
    struct coord_item item = {
        .prompt = position,
        .source_iteration = plan->iteration,
        .answer_iteration = plan->iteration,
        .answer_position = position,
    };
    switch (set) {
    case PROTO_SET_TRAIN:
        train_item(settings, plan, position, &item);
        break;
    case PROTO_SET_TRAINED:
        train_item(settings, plan, position, &item);
        item.kind = PROTO_WORK_SCORE;
        item.score_real = true;
        item.score_generated = settings->mode != RUN_MODE_SFT;
        item.answer_set = PROTO_SET_TRAIN;
        item.answer_iteration = plan->iteration;
        item.answer_position = position;
        break;
    case PROTO_SET_HOLDOUT:
    case PROTO_SET_HOLDOUT_PLAYER:
        holdout_item(settings, set == PROTO_SET_HOLDOUT_PLAYER, &item);
        break;
    case PROTO_SET_EVAL_GREEDY:
    case PROTO_SET_BASE_GREEDY:
        item.greedy = true;
        item.split = STORE_SPLIT_EVAL;
        item.kind = PROTO_WORK_SAMPLE;
        break;
    case PROTO_SET_EVAL_SAMPLED:
    case PROTO_SET_BASE_SAMPLED:
        item.split = STORE_SPLIT_EVAL;
        item.kind = PROTO_WORK_SAMPLE;
        break;
    }
    *ret = item;
}

uint32_t coord_set_positions(const struct run_settings *settings, const struct plan *plan,
                             enum proto_set set, const uint32_t prompts[STORE_SPLITS])
{
    uint32_t pairs = plan_pairs(plan);
    if (settings->mode == RUN_MODE_EVALUATE)
        return set == PROTO_SET_HOLDOUT_PLAYER ? prompts[STORE_SPLIT_HOLDOUT]
               : set == PROTO_SET_EVAL_GREEDY  ? prompts[STORE_SPLIT_EVAL]
                                               : 0;
    switch (set) {
    case PROTO_SET_TRAIN:
        return pairs;
    case PROTO_SET_HOLDOUT:
    case PROTO_SET_HOLDOUT_PLAYER:
        return prompts[STORE_SPLIT_HOLDOUT];
    case PROTO_SET_EVAL_GREEDY:
    case PROTO_SET_EVAL_SAMPLED:
        return prompts[STORE_SPLIT_EVAL];
    case PROTO_SET_BASE_GREEDY:
    case PROTO_SET_BASE_SAMPLED:
        return plan->iteration == 0 ? prompts[STORE_SPLIT_EVAL] : 0;
    case PROTO_SET_TRAINED:
        /* With no other side there is no accuracy to look at. */
        if (settings->mode == RUN_MODE_SFT || settings->trained_sample <= 0)
            return 0;
        return settings->trained_sample < pairs ? (uint32_t)settings->trained_sample : pairs;
    }
    return 0;
}

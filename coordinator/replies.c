#include "coordinator/replies.h"

#include "common/base/limits.h"
#include "coordinator/try.h"
#include "coordinator/work_item.h"

struct build {
    struct store_run *run;
    const struct coord_run_info *info;
    uint32_t iteration;
    struct plan plan;
    struct sp_arena *arena;
};

static enum sp_err open_build(struct store *store, const struct coord_action *action,
                              struct sp_arena *arena, struct build *ret, struct sp_error *err)
{
    *ret = (struct build){.info = action->run, .iteration = action->iteration, .arena = arena};
    plan_init(&action->run->settings, action->iteration, action->run->prompts[STORE_SPLIT_TRAIN],
              &ret->plan);
    return store_run_open(store, action->run->name, &ret->run, err);
}

/* The answer that is to be scored beside the human one. */
static enum sp_err other_answer(const struct build *b, const struct coord_item *item,
                                const struct store_prompt *prompt, struct proto_ids *ret,
                                struct sp_error *err)
{
    if (item->answer_given) {
        *ret = prompt->rejected_ids;
        return SP_OK;
    }
    uint64_t position = item->answer_position;
    struct store_result row;
    SP_TRY(store_results_get(b->run, item->answer_iteration, item->answer_set, &position, 1,
                             b->arena, &row, err));
    *ret = row.ids;
    return SP_OK;
}

static enum sp_err build_item(const struct build *b, enum proto_set set, uint32_t position,
                              struct proto_work_item *ret, struct sp_error *err)
{
    struct coord_item item;
    coord_item_at(&b->info->settings, &b->plan, set, position, &item);
    struct store_prompt prompt;
    SP_TRY(store_prompts_get(b->run, item.split, item.prompt, 1, b->arena, &prompt, err));
    *ret = (struct proto_work_item){
        .kind = item.kind,
        .set = set,
        .position = position,
        .key_iteration = b->iteration,
        .prompt = item.prompt,
        .sample = item.sample,
        .greedy = item.greedy,
        .prompt_ids = prompt.prompt_ids,
    };
    if (item.kind == PROTO_WORK_SAMPLE && set == PROTO_SET_TRAIN && prompt.sample_ids.count > 0)
        ret->prompt_ids = prompt.sample_ids;
    if (item.score_real)
        ret->answer_a = prompt.real_ids;
    if (item.score_generated)
        SP_TRY(other_answer(b, &item, &prompt, &ret->answer_b, err));
    return SP_OK;
}

enum sp_err coord_build_grant(struct store *store, const struct coord_action *action,
                              struct sp_arena *arena, struct proto_lease_reply *ret,
                              struct sp_error *err)
{
    struct build b;
    SP_TRY(open_build(store, action, arena, &b, err));
    const struct run_settings *settings = &action->run->settings;
    struct proto_work_item *items = sp_arena_alloc(arena, action->count, sizeof(*items));
    if (!items)
        return sp_fail(err, SP_ELIMIT, "a grant of %u items", action->count);
    for (uint32_t i = 0; i < action->count; i++)
        SP_TRY(build_item(&b, action->set, action->positions[i], &items[i], err));
    *ret = (struct proto_lease_reply){
        .lease_id = action->lease_id,
        .lease_ms = action->lease_ms,
        .run = action->run->name,
        .iteration = action->iteration,
        .checkpoint = action->checkpoint,
        .manifest = action->manifest,
        .seed = (uint64_t)settings->seed,
        .temperature = (float)settings->temperature,
        .top_k = (int32_t)settings->top_k,
        .top_p = (float)settings->top_p,
        .max_new_tokens = (int32_t)settings->max_new_tokens,
        .stop_ids = {.ids = action->run->stop_ids, .count = action->run->stop_count},
        .weights_dtype = settings->activations_dtype == RUN_DTYPE_BF16
                             ? PROTO_WEIGHTS_BF16_BOTH
                             : (uint32_t)settings->weights_dtype,
        .kv_dtype = (uint32_t)settings->kv_dtype,
        .backend = settings->backend,
        .items = items,
        .items_count = action->count,
        .born = (uint64_t)action->run->created_ms,
    };
    return SP_OK;
}

/* Bytes that a pair takes on the wire, generously. */
static size_t pair_bytes(const struct proto_train_pair *pair)
{
    return 320 +
           4 * ((size_t)pair->prompt_ids.count + pair->real_ids.count + pair->generated_ids.count);
}

enum sp_err coord_build_pairs(struct store *store, const struct coord_action *action,
                              struct sp_arena *arena, struct proto_pairs_fetch_reply *ret,
                              struct sp_error *err)
{
    struct build b;
    SP_TRY(open_build(store, action, arena, &b, err));
    struct proto_train_pair *pairs = sp_arena_alloc(arena, action->count, sizeof(*pairs));
    if (!pairs)
        return sp_fail(err, SP_ELIMIT, "%u pairs", action->count);
    size_t bytes = 4096;
    uint32_t count = 0;
    while (count < action->count) {
        uint32_t position = action->positions[count];
        struct plan_key key;
        plan_key_at(&b.plan, position, &key);
        struct store_pair_key at = {.position = position,
                                    .refs = b.info->settings.score_by == RUN_SCORE_BY_TRAINER
                                                ? STORE_REFS_TRAINER
                                                : STORE_REFS_LATEST,
                                    .source_iteration = key.source_iteration,
                                    .prompt = key.prompt,
                                    .sample = key.sample};
        SP_TRY(store_pairs_read(b.run, action->iteration, PROTO_SET_TRAIN, STORE_SPLIT_TRAIN, &at,
                                1, arena, &pairs[count], NULL, err));
        bytes += pair_bytes(&pairs[count]);
        if (bytes > SP_MAX_MESSAGE && count > 0)
            break;
        count++;
    }
    *ret = (struct proto_pairs_fetch_reply){.pairs = pairs, .pairs_count = count};
    return SP_OK;
}

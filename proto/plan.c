#include "proto/plan.h"

#include <stdlib.h>

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

void plan_init(const struct run_settings *settings, uint32_t iteration, uint32_t prompts,
               struct plan *ret)
{
    bool sampled = settings->mode == RUN_MODE_SPIN;
    struct plan plan = {
        .seed = (uint64_t)settings->seed,
        .iteration = iteration,
        .prompts = prompts,
        .samples_per_prompt = sampled || settings->mode == RUN_MODE_EVALUATE
                                  ? (uint32_t)settings->samples_per_prompt
                                  : 1,
        .order = settings->order,
    };
    plan.new_pairs = plan.prompts * plan.samples_per_prompt;
    if (sampled && settings->replay == RUN_REPLAY_PREVIOUS && iteration > 0)
        plan.replay_pairs = plan.new_pairs;
    *ret = plan;
}

uint32_t plan_pairs(const struct plan *plan)
{
    return plan->new_pairs + plan->replay_pairs;
}

void plan_key_at(const struct plan *plan, uint32_t position, struct plan_key *ret)
{
    bool replayed = position >= plan->new_pairs;
    uint32_t key = replayed ? position - plan->new_pairs : position;
    ret->source_iteration = replayed ? plan->iteration - 1 : plan->iteration;
    ret->prompt = key / plan->samples_per_prompt;
    ret->sample = key % plan->samples_per_prompt;
}

struct keyed {
    uint64_t key;
    uint32_t position;
};

static int compare_keyed(const void *a, const void *b)
{
    const struct keyed *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->position < y->position ? -1 : x->position > y->position;
}

static void order_by_length(const struct plan *plan, const uint64_t *length_keys,
                            uint32_t *ret_order)
{
    uint32_t n = plan_pairs(plan);
    struct keyed *keyed = sp_xarray(n, sizeof(*keyed));
    for (uint32_t i = 0; i < n; i++) {
        struct plan_key key;
        plan_key_at(plan, i, &key);
        keyed[i] = (struct keyed){.key = length_keys[key.prompt], .position = i};
    }
    qsort(keyed, n, sizeof(*keyed), compare_keyed);
    for (uint32_t i = 0; i < n; i++)
        ret_order[i] = keyed[i].position;
    free(keyed);
}

void plan_order(const struct plan *plan, uint32_t train_epoch, const uint64_t *length_keys,
                const uint32_t *gap_order, uint32_t *ret_order)
{
    uint32_t n = plan_pairs(plan);
    switch (plan->order) {
    case RUN_ORDER_LENGTH:
        SP_ASSERT(length_keys);
        order_by_length(plan, length_keys, ret_order);
        return;
    case RUN_ORDER_GAP:
        SP_ASSERT(gap_order);
        for (uint32_t i = 0; i < n; i++)
            ret_order[i] = gap_order[i];
        return;
    default:
        sp_rng_permutation(plan->seed, plan->iteration, train_epoch, n, ret_order);
    }
}

uint64_t plan_steps(const struct plan *plan, int64_t epochs, int64_t batch_pairs)
{
    uint64_t batch = (uint64_t)batch_pairs;
    return (uint64_t)epochs * ((plan_pairs(plan) + batch - 1) / batch);
}

void plan_digest(const struct plan *plan, const struct sp_digest *data, struct sp_digest *ret)
{
    struct sp_buf text = SP_BUF_INIT;
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(data, hex);
    sp_buf_printf(
        &text,
        "spin-plan 1\nseed %llu\niteration %u\nprompts %u\nsamples %u\nnew %u\nreplay %u\n"
        "order %d\ndata %s\n",
        (unsigned long long)plan->seed, plan->iteration, plan->prompts, plan->samples_per_prompt,
        plan->new_pairs, plan->replay_pairs, plan->order, hex);
    sp_sha256_of(text.data, text.length, ret);
    sp_buf_deinit(&text);
}

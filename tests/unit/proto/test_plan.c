#include "proto/plan.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/unit/check_main.h"

static struct run_settings settings_with(int mode, int64_t samples, int replay, int order)
{
    struct run_settings s;
    sp_config_init(&run_settings_spec, &s);
    s.mode = mode;
    s.seed = 77;
    s.samples_per_prompt = samples;
    s.replay = replay;
    s.order = order;
    return s;
}

static struct plan plan_of(int mode, int64_t samples, int replay, int order, uint32_t iteration,
                           uint32_t prompts)
{
    struct run_settings s = settings_with(mode, samples, replay, order);
    struct plan plan;
    plan_init(&s, iteration, prompts, &plan);
    sp_config_deinit(&run_settings_spec, &s);
    return plan;
}

START_TEST(sizes)
{
    struct plan p = plan_of(RUN_MODE_SPIN, 3, RUN_REPLAY_PREVIOUS, RUN_ORDER_SHUFFLE, 0, 10);
    ck_assert_uint_eq(plan_pairs(&p), 30); /* nothing to replay yet */
    p = plan_of(RUN_MODE_SPIN, 3, RUN_REPLAY_PREVIOUS, RUN_ORDER_SHUFFLE, 1, 10);
    ck_assert_uint_eq(plan_pairs(&p), 60);
    p = plan_of(RUN_MODE_SPIN, 3, RUN_REPLAY_NONE, RUN_ORDER_SHUFFLE, 1, 10);
    ck_assert_uint_eq(plan_pairs(&p), 30);
    p = plan_of(RUN_MODE_SFT, 3, RUN_REPLAY_PREVIOUS, RUN_ORDER_SHUFFLE, 1, 10);
    ck_assert_uint_eq(plan_pairs(&p), 10); /* given answers: one pair each, no replay */
    p = plan_of(RUN_MODE_DPO, 3, RUN_REPLAY_PREVIOUS, RUN_ORDER_SHUFFLE, 1, 10);
    ck_assert_uint_eq(plan_pairs(&p), 10);
}
END_TEST

START_TEST(keys_name_every_pair_once)
{
    struct plan p = plan_of(RUN_MODE_SPIN, 2, RUN_REPLAY_PREVIOUS, RUN_ORDER_SHUFFLE, 4, 7);
    int seen[2][7][2] = {0};
    for (uint32_t i = 0; i < plan_pairs(&p); i++) {
        struct plan_key key;
        plan_key_at(&p, i, &key);
        ck_assert_uint_eq(key.source_iteration, i < 14 ? 4 : 3);
        ck_assert(key.prompt < 7 && key.sample < 2);
        seen[key.source_iteration - 3][key.prompt][key.sample]++;
    }
    for (int i = 0; i < 2 * 7 * 2; i++)
        ck_assert_int_eq((&seen[0][0][0])[i], 1);
}
END_TEST

static void assert_permutation(const uint32_t *order, uint32_t n)
{
    bool *seen = sp_xarray(n, sizeof(bool));
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_uint_lt(order[i], n);
        ck_assert(!seen[order[i]]);
        seen[order[i]] = true;
    }
    free(seen);
}

START_TEST(shuffles_differ_by_pass_iteration_and_seed_only)
{
    uint32_t a[40], b[40];
    struct plan p = plan_of(RUN_MODE_SPIN, 1, RUN_REPLAY_PREVIOUS, RUN_ORDER_SHUFFLE, 1, 20);
    plan_order(&p, 0, NULL, NULL, a);
    assert_permutation(a, 40);
    plan_order(&p, 0, NULL, NULL, b);
    ck_assert_mem_eq(a, b, sizeof(a));
    plan_order(&p, 1, NULL, NULL, b);
    assert_permutation(b, 40);
    ck_assert_mem_ne(a, b, sizeof(a));
    p.seed++;
    plan_order(&p, 0, NULL, NULL, b);
    ck_assert_mem_ne(a, b, sizeof(a));
    p.seed--;
    p.iteration++;
    plan_order(&p, 0, NULL, NULL, b);
    ck_assert_mem_ne(a, b, sizeof(a));
}
END_TEST

START_TEST(length_goes_from_short_to_long_and_is_stable)
{
    struct plan p = plan_of(RUN_MODE_SPIN, 2, RUN_REPLAY_PREVIOUS, RUN_ORDER_LENGTH, 1, 4);
    const uint64_t lengths[4] = {30, 10, 30, 5};
    uint32_t order[16], again[16];
    plan_order(&p, 0, lengths, NULL, order);
    static const uint32_t expected[16] = {6, 7, 14, 15, 2, 3, 10, 11, 0, 1, 4, 5, 8, 9, 12, 13};
    ck_assert_mem_eq(order, expected, sizeof(expected));
    plan_order(&p, 1, lengths, NULL, again);
    ck_assert_mem_eq(order, again, sizeof(order)); /* the same in every pass */
}
END_TEST

START_TEST(a_stored_order_is_taken_as_it_is)
{
    struct plan p = plan_of(RUN_MODE_SPIN, 1, RUN_REPLAY_NONE, RUN_ORDER_GAP, 0, 4);
    const uint32_t gap[4] = {2, 0, 3, 1};
    uint32_t order[4];
    plan_order(&p, 0, NULL, gap, order);
    ck_assert_mem_eq(order, gap, sizeof(gap));
}
END_TEST

START_TEST(steps_round_up_by_pass)
{
    struct plan p = plan_of(RUN_MODE_SPIN, 1, RUN_REPLAY_NONE, RUN_ORDER_SHUFFLE, 0, 100);
    ck_assert_uint_eq(plan_steps(&p, 2, 64), 4);
    ck_assert_uint_eq(plan_steps(&p, 1, 100), 1);
    ck_assert_uint_eq(plan_steps(&p, 3, 1), 300);
    ck_assert_uint_eq(plan_steps(&p, 3, 1000), 3);
}
END_TEST

START_TEST(the_digest_covers_every_field)
{
    struct plan p = plan_of(RUN_MODE_SPIN, 2, RUN_REPLAY_PREVIOUS, RUN_ORDER_SHUFFLE, 1, 20), q;
    struct sp_digest data = {{1}}, other_data = {{2}}, base, other;
    plan_digest(&p, &data, &base);
    plan_digest(&p, &data, &other);
    ck_assert(sp_digest_equal(&base, &other));
    plan_digest(&p, &other_data, &other);
    ck_assert(!sp_digest_equal(&base, &other));
    for (int field = 0; field < 7; field++) {
        q = p;
        q.seed += field == 0;
        q.iteration += field == 1;
        q.prompts += field == 2;
        q.samples_per_prompt += field == 3;
        q.new_pairs += field == 4;
        q.replay_pairs += field == 5;
        q.order += field == 6;
        plan_digest(&q, &data, &other);
        ck_assert_msg(!sp_digest_equal(&base, &other), "field %d", field);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("plan");
    TCase *t = tcase_create("all");
    tcase_add_test(t, sizes);
    tcase_add_test(t, keys_name_every_pair_once);
    tcase_add_test(t, shuffles_differ_by_pass_iteration_and_seed_only);
    tcase_add_test(t, length_goes_from_short_to_long_and_is_stable);
    tcase_add_test(t, a_stored_order_is_taken_as_it_is);
    tcase_add_test(t, steps_round_up_by_pass);
    tcase_add_test(t, the_digest_covers_every_field);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* What is inside a run's file. */
#include "common/base/limits.h"
#include "tests/unit/coordinator/store_fixture.h"

START_TEST(test_info_and_prompts)
{
    struct fx fx = fx_new("one");
    struct store_run_info info;
    OK(store_run_info(fx.run, fx.arena, &info, &fx.err));
    ck_assert_str_eq(info.name, "one");
    ck_assert_str_eq(info.settings, "{\"a\":1}");
    ck_assert_uint_eq(info.prompts[STORE_SPLIT_TRAIN], FX_TRAIN);
    ck_assert_uint_eq(info.prompts[STORE_SPLIT_HOLDOUT], FX_HOLDOUT);
    ck_assert_uint_eq(info.prompts[STORE_SPLIT_EVAL], FX_EVAL);
    ck_assert(!sp_digest_is_zero(&info.data_digest));
    struct store_prompt prompts[4];
    OK(store_prompts_get(fx.run, STORE_SPLIT_TRAIN, 9, 4, fx.arena, prompts, &fx.err));
    ck_assert_uint_eq(prompts[1].index, 10);
    ck_assert_uint_eq(prompts[1].prompt_ids.count, 3);
    ck_assert_int_eq(prompts[1].prompt_ids.ids[1], 10);
    ck_assert_uint_eq(prompts[1].real_ids.count, 1);
    ck_assert_int_eq(prompts[1].rejected_ids.ids[0], 210);
    OK(store_prompts_get(fx.run, STORE_SPLIT_EVAL, 0, 1, fx.arena, prompts, &fx.err));
    ck_assert_str_eq(prompts[0].response, "answer");
    ck_assert_uint_eq(prompts[0].rejected_ids.count, 0);
    FAILS(SP_ENOTFOUND,
          store_prompts_get(fx.run, STORE_SPLIT_EVAL, 1, FX_EVAL, fx.arena, prompts, &fx.err));
    uint64_t lengths[FX_TRAIN];
    OK(store_prompt_lengths(fx.run, STORE_SPLIT_TRAIN, lengths, &fx.err));
    ck_assert_uint_eq(lengths[0], 4);
    ck_assert_uint_eq(lengths[1], 5);
    struct store_checkpoint base;
    OK(store_checkpoint_get(fx.run, &info.base, fx.arena, &base, &fx.err));
    ck_assert_int_eq(base.iteration, -1);
    fx_free(&fx);
}
END_TEST

/* Equal data gives an equal digest; one other token another one. */
START_TEST(test_data_digest)
{
    struct fx fx = fx_new("one");
    struct store_run_info info[3];
    OK(store_run_info(fx.run, fx.arena, &info[0], &fx.err));
    static const char *const names[] = {"one", "same", "other"};
    for (int k = 1; k < 3; k++) {
        if (k == 1) {
            OK(fx_build(fx.dir, names[k], NULL, &fx.err));
        } else {
            struct store_builder *builder = NULL;
            OK(store_builder_open(fx.dir, names[k], NULL, &builder, &fx.err));
            OK(fx_add_prompts(builder, STORE_SPLIT_TRAIN, FX_TRAIN - 1, &fx.err));
            struct store_run_info other = {.name = names[k]};
            OK(store_builder_finish(builder, &other, &fx.err));
            store_builder_free(builder);
        }
        store_begin(fx.store);
        OK(store_run_adopt(fx.store, names[k], &fx.err));
        OK(store_commit(fx.store, &fx.err));
        struct store_run *run = NULL;
        OK(store_run_open(fx.store, names[k], &run, &fx.err));
        OK(store_run_info(run, fx.arena, &info[k], &fx.err));
    }
    ck_assert(sp_digest_equal(&info[0].data_digest, &info[1].data_digest));
    ck_assert(!sp_digest_equal(&info[0].data_digest, &info[2].data_digest));
    fx_free(&fx);
}
END_TEST

START_TEST(test_meta)
{
    struct fx fx = fx_new("one");
    const char *value = NULL;
    OK(store_meta_get(fx.run, "k", fx.arena, &value, &fx.err));
    ck_assert_str_eq(value, "");
    store_begin(fx.store);
    OK(store_meta_put(fx.run, "k", "v", &fx.err));
    OK(store_meta_put(fx.run, "k", "w", &fx.err));
    OK(store_meta_put(fx.run, "gone", "x", &fx.err));
    OK(store_meta_put(fx.run, "gone", NULL, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_meta_get(fx.run, "k", fx.arena, &value, &fx.err));
    ck_assert_str_eq(value, "w");
    OK(store_meta_get(fx.run, "gone", fx.arena, &value, &fx.err));
    ck_assert_str_eq(value, "");
    fx_free(&fx);
}
END_TEST

START_TEST(test_iterations)
{
    struct fx fx = fx_new("one");
    struct store_iteration it = {.iteration = 1,
                                 .state = STORE_STATE_PAUSED,
                                 .return_state = STORE_STATE_PUBLISHING,
                                 .reason = "asked for",
                                 .seed = 42,
                                 .prompts = 40,
                                 .samples_per_prompt = 2,
                                 .new_pairs = 80,
                                 .replay_pairs = 80,
                                 .order = 2,
                                 .epoch = 9,
                                 .attempt = 3,
                                 .steps_total = 12,
                                 .created_ms = 1,
                                 .started_ms = 2,
                                 .generated_ms = 3,
                                 .trained_ms = 4,
                                 .closed_ms = 5,
                                 .verdict = "improved",
                                 .accepted = true,
                                 .summary = "{\"x\":1}"};
    fx_digest(&it.opponent, "o");
    fx_digest(&it.plan, "p");
    fx_digest(&it.pairs_sha256, "s");
    struct store_iteration zero = {0};
    store_begin(fx.store);
    OK(store_iteration_put(fx.run, &it, &fx.err));
    OK(store_iteration_put(fx.run, &zero, &fx.err));
    it.epoch = 10;
    OK(store_iteration_put(fx.run, &it, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    fx_reopen(&fx, "one");
    struct store_iteration *list = NULL, got;
    size_t count = 0;
    OK(store_iterations_list(fx.run, fx.arena, &list, &count, &fx.err));
    ck_assert_uint_eq(count, 2);
    ck_assert_uint_eq(list[0].iteration, 0);
    ck_assert_int_eq(list[0].state, STORE_STATE_PLANNED);
    OK(store_iteration_get(fx.run, 1, fx.arena, &got, &fx.err));
    ck_assert_int_eq(got.state, STORE_STATE_PAUSED);
    ck_assert_int_eq(got.return_state, STORE_STATE_PUBLISHING);
    ck_assert_str_eq(got.reason, "asked for");
    ck_assert_uint_eq(got.epoch, 10);
    ck_assert_uint_eq(got.attempt, 3);
    ck_assert_uint_eq(got.steps_total, 12);
    ck_assert_int_eq(got.closed_ms, 5);
    ck_assert_str_eq(got.verdict, "improved");
    ck_assert(got.accepted);
    ck_assert(sp_digest_equal(&got.opponent, &it.opponent));
    ck_assert(sp_digest_equal(&got.plan, &it.plan));
    ck_assert(sp_digest_equal(&got.pairs_sha256, &it.pairs_sha256));
    ck_assert(sp_digest_is_zero(&got.pairs_chain));
    FAILS(SP_ENOTFOUND, store_iteration_get(fx.run, 2, fx.arena, &got, &fx.err));
    it.seed = UINT64_MAX;
    store_begin(fx.store);
    OK(store_iteration_put(fx.run, &it, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_iteration_get(fx.run, 1, fx.arena, &got, &fx.err));
    ck_assert_uint_eq(got.seed, INT64_MAX);
    ck_assert_str_eq(store_state_name(STORE_STATE_EVALUATING), "evaluating");
    fx_free(&fx);
}
END_TEST

START_TEST(test_result_once)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    struct store_result r = fx_result(7, ids);
    store_begin(fx.store);
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    ck_assert_int_eq(put, STORE_NEW);
    r.worker = "another";
    r.at_ms = 99;
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    ck_assert_int_eq(put, STORE_DUPLICATE);
    OK(store_commit(fx.store, &fx.err));
    struct store_result wrong[6];
    int32_t other_ids[4] = {70, 71, 72, 74};
    for (int i = 0; i < 6; i++)
        wrong[i] = r;
    wrong[0].ref_real = nextafterf(r.ref_real, 0);
    wrong[1].ref_generated = NAN;
    wrong[2].finish = PROTO_FINISH_LENGTH;
    wrong[3].ids = (struct proto_ids){other_ids, 4};
    wrong[4].ids.count--;
    wrong[5].sample = 1;
    store_begin(fx.store);
    for (int i = 0; i < 6; i++) {
        OK(store_result_put(fx.run, &wrong[i], &put, &fx.err));
        ck_assert_msg(put == STORE_DIFFERENT, "case %d", i);
    }
    OK(store_commit(fx.store, &fx.err));
    uint64_t position = 7;
    struct store_result got;
    OK(store_results_get(fx.run, 0, PROTO_SET_TRAIN, &position, 1, fx.arena, &got, &fx.err));
    ck_assert_str_eq(got.worker, "gen-1");
    ck_assert_uint_eq(got.ids.count, 4);
    ck_assert_int_eq(got.ids.ids[3], 73);
    ck_assert(got.ref_real == r.ref_real && got.ref_generated == r.ref_generated);
    fx_free(&fx);
}
END_TEST

START_TEST(test_result_refused)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put = STORE_NEW;
    struct store_result r = fx_result(7, ids), bad;
    store_begin(fx.store);
    bad = r, bad.position = UINT64_MAX;
    FAILS(SP_EINVAL, store_result_put(fx.run, &bad, &put, &fx.err));
    bad = r, bad.set = 8;
    FAILS(SP_EINVAL, store_result_put(fx.run, &bad, &put, &fx.err));
    bad = r, bad.finish = 3;
    FAILS(SP_EINVAL, store_result_put(fx.run, &bad, &put, &fx.err));
    ids[1] = -1;
    FAILS(SP_EINVAL, store_result_put(fx.run, &r, &put, &fx.err));
    bad = r, bad.ids.count = SP_MAX_SEQUENCE_TOKENS + 1;
    FAILS(SP_ELIMIT, store_result_put(fx.run, &bad, &put, &fx.err));
    FAILS(SP_ENOTFOUND, store_result_revoke(fx.run, 0, 0, 7, &fx.err));
    OK(store_commit(fx.store, &fx.err)); /* the transaction is still usable */
    fx_free(&fx);
}
END_TEST

START_TEST(test_special_floats)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    struct store_result r = fx_result(1, ids);
    r.ref_real = NAN;
    r.ref_generated = -INFINITY;
    store_begin(fx.store);
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    r.ref_real = -NAN; /* not scored is not scored, whatever the sign bit */
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    ck_assert_int_eq(put, STORE_DUPLICATE);
    OK(store_commit(fx.store, &fx.err));
    uint64_t position = 1;
    struct store_result got;
    OK(store_results_get(fx.run, 0, 0, &position, 1, fx.arena, &got, &fx.err));
    ck_assert(isnan(got.ref_real));
    ck_assert(isinf(got.ref_generated) && got.ref_generated < 0);
    fx_free(&fx);
}
END_TEST

START_TEST(test_bitmap_range_clear)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    store_begin(fx.store);
    for (uint64_t p = 0; p < 20; p += 3) {
        struct store_result r = fx_result(p, ids);
        OK(store_result_put(fx.run, &r, &put, &fx.err));
        r.set = PROTO_SET_HOLDOUT;
        OK(store_result_put(fx.run, &r, &put, &fx.err));
    }
    OK(store_commit(fx.store, &fx.err));
    uint8_t bitmap[3] = {0};
    uint64_t n = 0;
    OK(store_results_bitmap(fx.run, 0, PROTO_SET_TRAIN, 20, false, bitmap, &n, &fx.err));
    ck_assert_uint_eq(n, 7);
    for (int p = 0; p < 20; p++)
        ck_assert_int_eq((bitmap[p / 8] >> p % 8) & 1, p % 3 == 0);
    FAILS(SP_ECORRUPT, store_results_bitmap(fx.run, 0, 0, 18, false, bitmap, &n, &fx.err));
    struct store_result *range = NULL;
    size_t count = 0;
    OK(store_results_range(fx.run, 0, 0, 4, 3, fx.arena, &range, &count, &fx.err));
    ck_assert_uint_eq(count, 3);
    ck_assert_uint_eq(range[0].position, 6);
    ck_assert_uint_eq(range[2].position, 12);
    store_begin(fx.store);
    OK(store_result_revoke(fx.run, 0, PROTO_SET_TRAIN, 6, &fx.err));
    OK(store_results_clear(fx.run, 0, 1u << PROTO_SET_HOLDOUT, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_results_range(fx.run, 0, PROTO_SET_HOLDOUT, 0, 9, fx.arena, &range, &count, &fx.err));
    ck_assert_uint_eq(count, 0);
    OK(store_results_range(fx.run, 0, PROTO_SET_TRAIN, 0, 9, fx.arena, &range, &count, &fx.err));
    ck_assert_uint_eq(count, 6);
    fx_free(&fx);
}
END_TEST

START_TEST(test_trainer_references)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    struct store_result r = fx_result(2, ids);
    store_begin(fx.store);
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    OK(store_refs_put(fx.run, 0, 0, 2, 2, 0, -7.0f, -8.0f, &fx.err));
    OK(store_refs_put(fx.run, 0, 0, 2, 2, 0, -7.0f, -8.0f, &fx.err));
    OK(store_refs_put(fx.run, 0, 0, 3, 3, 0, -9.0f, -10.0f, &fx.err)); /* no result before it */
    FAILS(SP_EINVAL, store_refs_put(fx.run, 0, 0, 2, 5, 0, -7.0f, -8.0f, &fx.err));
    OK(store_result_put(fx.run, &r, &put, &fx.err)); /* compared with the generator's own */
    ck_assert_int_eq(put, STORE_DUPLICATE);
    r = fx_result(4, ids);
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    struct store_pair_key keys[4] = {
        {.position = 2, .prompt = 2},
        {.position = 3, .prompt = 3},
        {.position = 4, .prompt = 4},
        {.position = 5, .prompt = 5},
    };
    struct proto_train_pair pairs[4];
    bool stored[4];
    OK(store_pairs_read(fx.run, 0, 0, STORE_SPLIT_TRAIN, keys, 4, fx.arena, pairs, stored,
                        &fx.err));
    ck_assert(pairs[0].ref_real == -7.0f && pairs[0].ref_generated == -8.0f);
    ck_assert_int_eq(pairs[0].generated_ids.ids[0], 20);
    ck_assert(pairs[1].ref_real == -9.0f && stored[1]);
    ck_assert_int_eq(pairs[1].generated_ids.ids[0], 203); /* the data's rejected answer */
    ck_assert(pairs[2].ref_real == -5.5f && stored[2]);
    ck_assert(isnan(pairs[3].ref_real) && !stored[3]);
    ck_assert_uint_eq(pairs[3].finish, PROTO_FINISH_NONE);
    for (int i = 0; i < 4; i++)
        keys[i].refs = STORE_REFS_TRAINER;
    OK(store_pairs_read(fx.run, 0, 0, STORE_SPLIT_TRAIN, keys, 4, fx.arena, pairs, stored,
                        &fx.err));
    ck_assert(pairs[0].ref_real == -7.0f && pairs[0].ref_generated == -8.0f);
    ck_assert(pairs[1].ref_real == -9.0f && stored[1]);
    ck_assert(isnan(pairs[2].ref_real) && isnan(pairs[2].ref_generated) && stored[2]);
    ck_assert(isnan(pairs[3].ref_real) && !stored[3]);
    for (int i = 0; i < 4; i++)
        keys[i].refs = STORE_REFS_GENERATOR;
    OK(store_pairs_read(fx.run, 0, 0, STORE_SPLIT_TRAIN, keys, 4, fx.arena, pairs, stored,
                        &fx.err));
    ck_assert(pairs[0].ref_real == -3.5f && pairs[2].ref_real == -5.5f);
    ck_assert(isnan(pairs[1].ref_real) && stored[1]);
    ck_assert(isnan(pairs[3].ref_real) && !stored[3]);
    uint8_t bitmap[1] = {0};
    uint64_t n = 0;
    OK(store_results_bitmap(fx.run, 0, 0, 8, true, bitmap, &n, &fx.err));
    ck_assert_uint_eq(bitmap[0], 1 << 2 | 1 << 3);
    fx_free(&fx);
}
END_TEST

START_TEST(test_pairs)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    struct store_result r = fx_result(1, ids);
    r.iteration = 1;
    r.source_iteration = 1;
    store_begin(fx.store);
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    r = fx_result(42, ids); /* a replayed pair: prompt 2 of iteration 0 */
    r.iteration = 1;
    r.prompt = 2;
    OK(store_result_put(fx.run, &r, &put, &fx.err));
    OK(store_skip_add(fx.run, 1, 2, "admin", 5, &fx.err));
    OK(store_skip_add(fx.run, 1, 2, "admin", 6, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    struct store_pair_key keys[2] = {{42, 0, 2, 0}, {1, 1, 1, 0}};
    struct proto_train_pair pairs[2];
    OK(store_pairs_read(fx.run, 1, 0, STORE_SPLIT_TRAIN, keys, 2, fx.arena, pairs, NULL, &fx.err));
    ck_assert_uint_eq(pairs[0].position, 42);
    ck_assert_uint_eq(pairs[0].prompt, 2);
    ck_assert_uint_eq(pairs[0].source_iteration, 0);
    ck_assert(pairs[0].skipped);
    ck_assert(!pairs[1].skipped);
    ck_assert_uint_eq(pairs[1].length_key, 5);
    ck_assert_uint_eq(pairs[1].real_ids.count, 2);
    ck_assert_int_eq(pairs[1].real_ids.ids[0], 101);
    keys[0].prompt = 3; /* another prompt than the row's */
    FAILS(SP_ECORRUPT, store_pairs_read(fx.run, 1, 0, STORE_SPLIT_TRAIN, keys, 1, fx.arena, pairs,
                                        NULL, &fx.err));
    keys[0].prompt = 4000;
    FAILS(SP_ENOTFOUND, store_pairs_read(fx.run, 1, 0, STORE_SPLIT_TRAIN, keys, 1, fx.arena, pairs,
                                         NULL, &fx.err));
    uint32_t *skips = NULL;
    size_t count = 0;
    OK(store_skips_list(fx.run, 1, fx.arena, &skips, &count, &fx.err));
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(skips[0], 2);
    fx_free(&fx);
}
END_TEST

START_TEST(test_shares)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    store_begin(fx.store);
    for (uint64_t p = 0; p < 10; p++) {
        struct store_result r = fx_result(p, ids);
        r.iteration = 1;
        r.source_iteration = p < 6 ? 1 : 0;
        OK(store_result_put(fx.run, &r, &put, &fx.err));
    }
    OK(store_commit(fx.store, &fx.err));
    struct store_share *shares = NULL;
    size_t count = 0;
    OK(store_shares(fx.run, 1, 0, true, fx.arena, &shares, &count, &fx.err));
    ck_assert_uint_eq(count, 2);
    ck_assert_str_eq(shares[0].worker, "gen-1");
    ck_assert_uint_eq(shares[0].results, 3); /* 1, 3, 5 */
    ck_assert_uint_eq(shares[0].tokens, 2 + 4 + 2);
    OK(store_shares(fx.run, 1, 0, false, fx.arena, &shares, &count, &fx.err));
    ck_assert_uint_eq(shares[0].results + shares[1].results, 10);
    fx_free(&fx);
}
END_TEST

START_TEST(test_gap_order)
{
    struct fx fx = fx_new("one");
    uint32_t order[5] = {4, 2, 0, 1, 3}, twice[5] = {4, 2, 0, 1, 4}, got[5];
    store_begin(fx.store);
    OK(store_gap_order_put(fx.run, 0, order, 5, &fx.err));
    OK(store_gap_order_put(fx.run, 1, twice, 5, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_gap_order_get(fx.run, 0, 5, got, &fx.err));
    ck_assert_mem_eq(got, order, sizeof(order));
    FAILS(SP_ECORRUPT, store_gap_order_get(fx.run, 0, 4, got, &fx.err));
    FAILS(SP_ECORRUPT, store_gap_order_get(fx.run, 1, 5, got, &fx.err));
    FAILS(SP_ENOTFOUND, store_gap_order_get(fx.run, 2, 5, got, &fx.err));
    fx_free(&fx);
}
END_TEST

START_TEST(test_steps)
{
    struct fx fx = fx_new("one");
    store_begin(fx.store);
    for (uint64_t i = 1; i <= 8; i++) {
        struct proto_step_metrics step = {.step = i,
                                          .loss = 0.5 + (double)i,
                                          .margin = i == 3 ? (double)NAN : 0.25,
                                          .grad_norm = i == 3 ? (double)INFINITY : 1,
                                          .pairs = 4,
                                          .identical = 1,
                                          .tokens = 100,
                                          .milliseconds = 7,
                                          .first_sight_correct = 1.5,
                                          .first_sight_pairs = 3,
                                          .skipped = i == 3};
        OK(store_step_put(fx.run, 0, &step, &fx.err));
        OK(store_step_put(fx.run, 0, &step, &fx.err));
    }
    struct proto_step_metrics again = {.step = 8, .loss = 9, .tokens = 50};
    OK(store_step_put(fx.run, 0, &again, &fx.err));
    again.step = 1; /* of another iteration: a peer may report anything */
    again.tokens = UINT64_MAX;
    OK(store_step_put(fx.run, 1, &again, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    struct proto_step_metrics *steps = NULL;
    size_t count = 0;
    OK(store_steps_list(fx.run, 0, 2, 3, fx.arena, &steps, &count, &fx.err));
    ck_assert_uint_eq(count, 3);
    ck_assert_uint_eq(steps[0].step, 3);
    ck_assert(isnan(steps[0].margin) && isinf(steps[0].grad_norm) && steps[0].skipped);
    ck_assert_double_eq(steps[1].loss, 4.5);
    struct store_step_sums sums;
    OK(store_step_sums(fx.run, 0, &sums, &fx.err));
    ck_assert_uint_eq(sums.steps, 8);
    ck_assert_uint_eq(sums.first_step, 1);
    ck_assert_uint_eq(sums.last_step, 8);
    ck_assert_uint_eq(sums.tokens, 750);
    ck_assert_uint_eq(sums.identical, 7);
    ck_assert_uint_eq(sums.first_sight_pairs, 21);
    ck_assert_double_eq(sums.first_sight_correct, 10.5);
    ck_assert_uint_eq(sums.skipped, 1);
    OK(store_step_sums(fx.run, 4, &sums, &fx.err));
    ck_assert_uint_eq(sums.steps, 0);
    fx_free(&fx);
}
END_TEST

START_TEST(test_clear_keeps_the_row)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    uint32_t order[1] = {0};
    struct proto_step_metrics step = {.step = 1};
    struct store_iteration it = {0};
    store_begin(fx.store);
    for (uint32_t k = 0; k < 2; k++) {
        struct store_result r = fx_result(1, ids);
        it.iteration = r.iteration = k;
        OK(store_iteration_put(fx.run, &it, &fx.err));
        OK(store_result_put(fx.run, &r, &put, &fx.err));
        OK(store_step_put(fx.run, k, &step, &fx.err));
        OK(store_gap_order_put(fx.run, k, order, 1, &fx.err));
        OK(store_skip_add(fx.run, k, 1, "a", 0, &fx.err));
    }
    OK(store_iteration_clear(fx.run, 1, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    for (uint32_t k = 0; k < 2; k++) {
        uint8_t bitmap[1] = {0};
        uint64_t n = 9;
        size_t skips = 9;
        uint32_t *list = NULL;
        struct store_step_sums sums;
        OK(store_results_bitmap(fx.run, k, 0, 8, false, bitmap, &n, &fx.err));
        OK(store_step_sums(fx.run, k, &sums, &fx.err));
        OK(store_skips_list(fx.run, k, fx.arena, &list, &skips, &fx.err));
        OK(store_iteration_get(fx.run, k, fx.arena, &it, &fx.err));
        ck_assert_uint_eq(n, 1 - k);
        ck_assert_uint_eq(sums.steps, 1 - k);
        ck_assert_uint_eq(skips, 1 - k);
    }
    fx_free(&fx);
}
END_TEST

static bool count_refs(void *context, const struct sp_digest *digest)
{
    ++*(int *)context;
    return true;
}

START_TEST(test_checkpoints_and_references)
{
    struct fx fx = fx_new("one");
    struct store_checkpoint checkpoint = {
        .iteration = 0, .created_ms = 5, .bytes = 123, .provenance = "{\"who\":1}"};
    fx_digest(&checkpoint.digest, "c0");
    fx_digest(&checkpoint.manifest, "m0");
    struct sp_digest chunks[3];
    fx_digest(&chunks[0], "x");
    fx_digest(&chunks[1], "y");
    fx_digest(&chunks[2], "base manifest"); /* shared with the base */
    store_begin(fx.store);
    OK(store_checkpoint_put(fx.run, &checkpoint, &fx.err));
    checkpoint.bytes = 999;
    OK(store_checkpoint_put(fx.run, &checkpoint, &fx.err));
    OK(store_blob_refs_add(fx.run, "c0", chunks, 3, &fx.err));
    OK(store_blob_refs_add(fx.run, "c0", chunks, 3, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    int n = 0;
    OK(store_blob_refs_each(fx.run, count_refs, &n, &fx.err));
    ck_assert_int_eq(n, 3);
    struct store_checkpoint *list = NULL;
    size_t count = 0;
    OK(store_checkpoints_list(fx.run, fx.arena, &list, &count, &fx.err));
    ck_assert_uint_eq(count, 2);
    ck_assert_int_eq(list[0].iteration, -1);
    ck_assert_uint_eq(list[1].bytes, 123);
    ck_assert_str_eq(list[1].provenance, "{\"who\":1}");
    store_begin(fx.store);
    OK(store_blob_refs_drop(fx.run, "c0", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    n = 0;
    OK(store_blob_refs_each(fx.run, count_refs, &n, &fx.err));
    ck_assert_int_eq(n, 1);
    fx_free(&fx);
}
END_TEST

START_TEST(test_small_arena)
{
    struct fx fx = fx_new("one");
    struct sp_arena *arena = sp_arena_new(128, 256);
    struct store_prompt prompts[FX_TRAIN];
    FAILS(SP_ELIMIT, store_prompts_get(fx.run, 0, 0, FX_TRAIN, arena, prompts, &fx.err));
    sp_arena_reset(arena);
    OK(store_prompts_get(fx.run, 0, 0, 1, arena, prompts, &fx.err));
    sp_arena_free(arena);
    fx_free(&fx);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("store_run");
    TCase *t = tcase_create("store_run");
    tcase_add_test(t, test_info_and_prompts);
    tcase_add_test(t, test_data_digest);
    tcase_add_test(t, test_meta);
    tcase_add_test(t, test_iterations);
    tcase_add_test(t, test_result_once);
    tcase_add_test(t, test_result_refused);
    tcase_add_test(t, test_special_floats);
    tcase_add_test(t, test_bitmap_range_clear);
    tcase_add_test(t, test_trainer_references);
    tcase_add_test(t, test_pairs);
    tcase_add_test(t, test_shares);
    tcase_add_test(t, test_gap_order);
    tcase_add_test(t, test_steps);
    tcase_add_test(t, test_clear_keeps_the_row);
    tcase_add_test(t, test_checkpoints_and_references);
    tcase_add_test(t, test_small_arena);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

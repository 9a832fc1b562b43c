#include "trainer/metrics.h"

#include <math.h>
#include <string.h>

#include "tests/unit/check_main.h"

#define N 4

static struct train_batch *batch_of(uint32_t pass, uint64_t start)
{
    static const int32_t ids[] = {1, 2};
    struct train_batch *batch = train_batch_new(pass, start, N);
    struct sp_error err;
    for (uint32_t i = 0; i < N; i++) {
        struct proto_train_pair pair = {
            .source_iteration = 3,
            .prompt = i,
            .prompt_ids = {.ids = ids, .count = 2},
            .real_ids = {.ids = ids, .count = 2},
            .generated_ids = {.ids = ids, .count = 1},
            .ref_real = -10.0f,
        };
        ck_assert_int_eq(train_batch_append(batch, &pair, 1, &err), SP_OK);
    }
    return batch;
}

static const struct train_step_context context = {
    .step = 1, .plan_pairs = 8, .iteration = 3, .beta = 0.1, .has_reference = true};

static struct proto_step_metrics fill(const struct train_step_context *c, struct train_batch *batch,
                                      const double *margins, int32_t n)
{
    struct spin_metrics metrics = {.n_pairs = n, .margins = margins};
    struct proto_step_metrics ret;
    train_metrics_fill(c, batch, &metrics, &ret);
    return ret;
}

START_TEST(test_first_sight_is_the_second_half_of_the_first_pass)
{
    const double margins[N] = {1, -1, 0, 2};
    struct train_batch *batch = batch_of(0, 2); /* places 2 … 5 of 8: two in the second half */
    struct proto_step_metrics m = fill(&context, batch, margins, N);
    ck_assert_uint_eq(m.first_sight_pairs, 2);
    ck_assert_double_eq(m.first_sight_correct, 1.5);
    train_batch_free(batch);
    batch = batch_of(0, 0);
    ck_assert_uint_eq(fill(&context, batch, margins, N).first_sight_pairs, 0);
    train_batch_free(batch);
    batch = batch_of(1, 4);
    ck_assert_uint_eq(fill(&context, batch, margins, N).first_sight_pairs, 0);
    train_batch_free(batch);
}
END_TEST

START_TEST(test_first_sight_leaves_out_replayed_and_removed_pairs)
{
    const double margins[N] = {1, -1, 0, 2};
    struct train_batch *batch = batch_of(0, 4);
    batch->pairs[3].source_iteration = 2; /* replayed: margin 2 doesn't count */
    struct proto_step_metrics m = fill(&context, batch, margins, N);
    ck_assert_uint_eq(m.first_sight_pairs, 3);
    ck_assert_double_eq(m.first_sight_correct, 1.5);
    batch->pairs[0].skipped = true; /* the step's arrays begin with pair 1 then */
    const double three[3] = {-1, 0, 2};
    m = fill(&context, batch, three, 3);
    ck_assert_uint_eq(m.first_sight_pairs, 2);
    ck_assert_double_eq(m.first_sight_correct, 0.5);
    struct train_step_context sft = context;
    sft.has_reference = false;
    ck_assert_uint_eq(fill(&sft, batch, three, 3).first_sight_pairs, 0);
    train_batch_free(batch);
}
END_TEST

START_TEST(test_rewards_are_scaled_by_beta)
{
    struct train_batch *batch = batch_of(0, 0);
    struct spin_metrics metrics = {.n_pairs = N,
                                   .logp_real_change_mean = 3,
                                   .logp_generated_change_mean = -5,
                                   .nonfinite = true};
    struct proto_step_metrics m;
    train_metrics_fill(&context, batch, &metrics, &m);
    ck_assert_double_eq_tol(m.reward_real, 0.3, 1e-12);
    ck_assert_double_eq_tol(m.reward_generated, -0.5, 1e-12);
    ck_assert(m.skipped);
    train_batch_free(batch);
}
END_TEST

START_TEST(test_guard_watches_the_mean_over_tokens)
{
    struct train_batch *batch = batch_of(0, 0);
    batch->pairs[1].skipped = true;
    const float logp[] = {-11, -10, -13}; /* changes −1, 0, −3 over 3 × 2 tokens */
    struct spin_metrics metrics = {.n_pairs = 3, .logp_real = logp};
    ck_assert_double_eq_tol(train_logp_real_change(batch, &metrics), -4.0 / 6.0, 1e-12);
    train_batch_free(batch);
}
END_TEST

START_TEST(test_totals_add_up_and_keep_the_first_step)
{
    struct train_totals totals = {0};
    struct proto_step_metrics m = {.step = 1,
                                   .loss = 0.69,
                                   .margin_abs_max = 1e-6,
                                   .tokens = 10,
                                   .pairs = 4,
                                   .identical = 1,
                                   .first_sight_pairs = 2,
                                   .first_sight_correct = 1.5};
    train_totals_add(&totals, &m);
    m.step = 2;
    m.loss = 0.5;
    m.margin_abs_max = 7;
    m.skipped = true;
    train_totals_add(&totals, &m);
    ck_assert_uint_eq(totals.tokens, 20);
    ck_assert_uint_eq(totals.nonfinite, 1);
    ck_assert_uint_eq(totals.first_sight_pairs, 4);
    ck_assert_double_eq(totals.first_sight_correct, 3);
    ck_assert_double_eq(totals.loss_first, 0.69);
    ck_assert_double_eq(totals.loss_last, 0.5);
    ck_assert_double_eq(totals.margin_abs_max_first, 1e-6);
}
END_TEST

START_TEST(test_json_brings_every_field_back)
{
    struct proto_step_metrics m = {.step = 1234567890123,
                                   .train_epoch = 3,
                                   .loss = 0.1,
                                   .margin = -1e-300,
                                   .grad_norm = NAN,
                                   .accuracy = INFINITY,
                                   .pairs = 5,
                                   .skipped = true,
                                   .first_sight_correct = 0.5};
    struct proto_step_metrics back;
    struct sp_error err = {0};
    json_t *json = train_metrics_to_json(&m);
    ck_assert_int_eq(train_metrics_from_json(json, &back, &err), SP_OK);
    ck_assert_uint_eq(back.step, m.step);
    ck_assert_uint_eq(back.train_epoch, 3);
    ck_assert(back.loss == m.loss && back.margin == m.margin);
    ck_assert(isnan(back.grad_norm) && isnan(back.accuracy));
    ck_assert(back.skipped && back.pairs == 5 && back.first_sight_correct == 0.5);
    json_object_del(json, "tokens");
    ck_assert_int_ne(train_metrics_from_json(json, &back, &err), SP_OK);
    ck_assert_ptr_nonnull(strstr(err.text, "tokens"));
    json_decref(json);
    struct train_totals totals = {.tokens = 7, .loss_last = NAN, .loss_first = 0.25}, totals_back;
    json = train_totals_to_json(&totals);
    ck_assert_int_eq(train_totals_from_json(json, &totals_back, &err), SP_OK);
    ck_assert_uint_eq(totals_back.tokens, 7);
    ck_assert(totals_back.loss_first == 0.25 && isnan(totals_back.loss_last));
    json_decref(json);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("trainer/metrics");
    TCase *c = tcase_create("metrics");
    tcase_add_test(c, test_first_sight_is_the_second_half_of_the_first_pass);
    tcase_add_test(c, test_first_sight_leaves_out_replayed_and_removed_pairs);
    tcase_add_test(c, test_rewards_are_scaled_by_beta);
    tcase_add_test(c, test_guard_watches_the_mean_over_tokens);
    tcase_add_test(c, test_totals_add_up_and_keep_the_first_step);
    tcase_add_test(c, test_json_brings_every_field_back);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

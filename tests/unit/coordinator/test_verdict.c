/* The verdict: each one on a constructed case, and the statistics against published values. */
#include <math.h>

#include "coordinator/verdict.h"
#include "tests/unit/check_main.h"

#define N 400

static double change[N], margins[N];
static struct verdict_input input;

/* Change of the NLL around `mean`, and a share of margins above 0. */
static void make(double mean, double noise, double positive)
{
    for (int i = 0; i < N; i++) {
        change[i] = mean + noise * ((double)(i % 21) / 10 - 1);
        margins[i] = i < positive * N ? 0.5 : -0.5;
    }
    input = (struct verdict_input){
        .seed = 3,
        .iteration = 1,
        .confidence = 0.95,
        .min_pairs = 100,
        .pairs = N,
        .nll_change = change,
        .margins = margins,
        .holdout_loss = 0.6,
        .loss_at_zero = 0.6931,
        .first_sight_correct = 150,
        .first_sight_pairs = 200,
        .trained_correct = 180,
        .trained_pairs = 200,
    };
}

static const char *judge(void)
{
    struct verdict_result result;
    verdict_judge(&input, &result);
    return verdict_name(result.verdict);
}

START_TEST(improved_by_likelihood)
{
    make(-0.05, 0.1, 0.8);
    ck_assert_str_eq(judge(), "improved");
}
END_TEST

START_TEST(improved_by_the_chosen_evaluation)
{
    make(0.05, 0.1, 0.8); /* the likelihood has fallen */
    input.eval_count = input.eval_count_before = 1000;
    input.eval_correct_before = 470;
    input.eval_correct = 550;
    ck_assert_str_eq(judge(), "improved");
    input.eval_correct = 480; /* within chance */
    ck_assert_str_eq(judge(), "degraded");
}
END_TEST

START_TEST(plateau)
{
    make(0, 0.1, 0.8);
    ck_assert_str_eq(judge(), "plateau");
}
END_TEST

START_TEST(converged)
{
    make(0, 0.1, 0.52);
    input.first_sight_correct = 103;
    ck_assert_str_eq(judge(), "converged");
    input.first_sight_correct = 130; /* it still tells them apart at first sight */
    ck_assert_str_eq(judge(), "plateau");
}
END_TEST

/* Within 0.05 of one half. */
START_TEST(where_convergence_begins)
{
    make(0, 0.1, 0.54);
    input.first_sight_correct = 100;
    ck_assert_str_eq(judge(), "converged");
    make(0, 0.1, 0.56);
    input.first_sight_correct = 100;
    ck_assert_str_eq(judge(), "plateau");
}
END_TEST

/* Clearly wrong about what it was trained on is not the same as not knowing it. */
START_TEST(below_chance_is_not_undertrained)
{
    make(0, 0.1, 0.5);
    input.first_sight_correct = 100;
    input.trained_correct = 60;
    ck_assert_str_eq(judge(), "plateau");
}
END_TEST

START_TEST(undertrained)
{
    make(0, 0.1, 0.5);
    input.first_sight_correct = 100;
    input.trained_correct = 101; /* not even what it was trained on */
    ck_assert_str_eq(judge(), "undertrained");
}
END_TEST

START_TEST(overfitted)
{
    make(0, 0.1, 0.5);
    input.holdout_loss = 0.9;
    ck_assert_str_eq(judge(), "overfitted");
}
END_TEST

START_TEST(degraded)
{
    make(0.05, 0.1, 0.8);
    ck_assert_str_eq(judge(), "degraded");
}
END_TEST

START_TEST(undecided)
{
    make(-0.05, 0.1, 0.8);
    input.min_pairs = N + 1;
    ck_assert_str_eq(judge(), "undecided");
    make(-0.05, 0.1, 0.8);
    input.pairs = 0;
    input.min_pairs = 0;
    ck_assert_str_eq(judge(), "undecided");
}
END_TEST

/* Without another side only the likelihood and the evaluation can speak. */
START_TEST(fine_tuning_has_no_margins)
{
    make(0, 0.1, 0);
    input.margins = NULL;
    input.holdout_loss = input.loss_at_zero = NAN;
    input.first_sight_pairs = input.trained_pairs = 0;
    ck_assert_str_eq(judge(), "plateau");
    struct verdict_result result;
    verdict_judge(&input, &result);
    ck_assert(isnan(result.a.value) && isnan(result.f.value) && isnan(result.r.value));
    for (int i = 0; i < N; i++)
        change[i] -= 0.1;
    ck_assert_str_eq(judge(), "improved");
}
END_TEST

START_TEST(ties_count_one_half)
{
    make(0, 0, 0);
    for (int i = 0; i < N; i++)
        margins[i] = 0;
    struct verdict_result result;
    verdict_judge(&input, &result);
    ck_assert_double_eq(result.a.value, 0.5);
}
END_TEST

/* 81 of 263: Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3. */
START_TEST(wilson)
{
    struct verdict_interval x = verdict_wilson(81, 263, 0.95);
    ck_assert_double_eq_tol(x.low, 0.2553, 5e-5);
    ck_assert_double_eq_tol(x.high, 0.3662, 5e-5);
    x = verdict_wilson(0, 20, 0.95);
    ck_assert_double_eq_tol(x.low, 0, 1e-9);
    ck_assert_double_eq_tol(x.high, 0.1611, 5e-5);
    x = verdict_wilson(0, 0, 0.95);
    ck_assert(isnan(x.value) && isnan(x.low));
}
END_TEST

/* 56/70 − 48/80: Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10. */
START_TEST(newcombe)
{
    struct verdict_interval x = verdict_newcombe(56, 70, 48, 80, 0.95);
    ck_assert_double_eq_tol(x.value, 0.2, 1e-9);
    ck_assert_double_eq_tol(x.low, 0.0524, 5e-5);
    ck_assert_double_eq_tol(x.high, 0.3339, 5e-5);
}
END_TEST

START_TEST(normal_quantile)
{
    ck_assert_double_eq_tol(verdict_normal_quantile(0.975), 1.959963985, 1e-8);
    ck_assert_double_eq_tol(verdict_normal_quantile(0.5), 0, 1e-9);
    ck_assert_double_eq_tol(verdict_normal_quantile(0.001), -3.090232306, 1e-8);
    ck_assert(isnan(verdict_normal_quantile(0)));
}
END_TEST

START_TEST(bootstrap)
{
    static double values[1000];
    double variance = 0;
    for (int i = 0; i < 1000; i++) {
        values[i] = (double)(i % 10) - 4.5;
        variance += values[i] * values[i] / 1000;
    }
    struct verdict_interval x = verdict_bootstrap(values, 1000, 0.95, 1, 0);
    double half = 1.96 * sqrt(variance / 1000);
    ck_assert_double_eq_tol(x.value, 0, 1e-9);
    ck_assert_double_eq_tol(x.low, -half, 0.15 * half);
    ck_assert_double_eq_tol(x.high, half, 0.15 * half);
    /* The same numbers give the same interval. */
    struct verdict_interval y = verdict_bootstrap(values, 1000, 0.95, 1, 0);
    ck_assert(x.low == y.low && x.high == y.high);
    y = verdict_bootstrap(values, 1000, 0.95, 2, 0);
    ck_assert(x.low != y.low);
    /* One seed's interval may be off by chance; their mean has the width that it should have. */
    double width = 0;
    for (uint64_t seed = 0; seed < 16; seed++) {
        y = verdict_bootstrap(values, 1000, 0.95, seed, 0);
        width += (y.high - y.low) / 16;
    }
    ck_assert_double_eq_tol(width, 2 * half, 0.03 * half);
    ck_assert(isnan(verdict_bootstrap(values, 0, 0.95, 1, 0).low));
    /* Far out, too, it is about as wide as the normal one: ± 3.89 standard errors. */
    x = verdict_bootstrap(values, 1000, 0.9999, 1, 0);
    half = verdict_normal_quantile(0.99995) * sqrt(variance / 1000);
    ck_assert_double_eq_tol((x.high - x.low) / (2 * half), 1, 0.1);
}
END_TEST

START_TEST(shortcuts)
{
    struct verdict_features pairs[100];
    struct verdict_shortcuts result;
    for (int i = 0; i < 100; i++)
        pairs[i] = (struct verdict_features){
            .prompt = (uint32_t)i, .length = {10, 10}, .first_token = {5, 5}};
    verdict_shortcuts(pairs, 100, &result);
    ck_assert_double_eq(result.length, 0.5);
    ck_assert_double_eq(result.end_token, 0.5);
    ck_assert_double_eq(result.first_token, 0.5);
    for (int i = 0; i < 100; i++) {
        pairs[i].length[1] = i < 90 ? 20 : 5; /* the human answer is shorter */
        pairs[i].first_token[1] = i < 80 ? 6 : 5;
        pairs[i].cut = i < 60;
    }
    verdict_shortcuts(pairs, 100, &result);
    ck_assert_double_eq_tol(result.length, 0.9, 1e-9);
    ck_assert_double_eq_tol(result.end_token, 0.8, 1e-9);
    ck_assert_double_eq_tol(result.first_token, 0.9, 1e-9);
    verdict_shortcuts(pairs, 0, &result);
    ck_assert(isnan(result.length));
    /* No token begins the answers of two prompts: nothing can be learned, though each prompt's
     * human answer is there twice, of two samples or of a replay. */
    for (int i = 0; i < 100; i++) {
        pairs[i].prompt = (uint32_t)i / 2;
        pairs[i].first_token[0] = i / 2;
        pairs[i].first_token[1] = 1000 + i;
    }
    verdict_shortcuts(pairs, 100, &result);
    ck_assert_double_eq(result.first_token, 0.5);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("verdict");
    TCase *tc = tcase_create("verdict");
    tcase_add_test(tc, improved_by_likelihood);
    tcase_add_test(tc, improved_by_the_chosen_evaluation);
    tcase_add_test(tc, plateau);
    tcase_add_test(tc, converged);
    tcase_add_test(tc, where_convergence_begins);
    tcase_add_test(tc, below_chance_is_not_undertrained);
    tcase_add_test(tc, undertrained);
    tcase_add_test(tc, overfitted);
    tcase_add_test(tc, degraded);
    tcase_add_test(tc, undecided);
    tcase_add_test(tc, fine_tuning_has_no_margins);
    tcase_add_test(tc, ties_count_one_half);
    tcase_add_test(tc, wilson);
    tcase_add_test(tc, newcombe);
    tcase_add_test(tc, normal_quantile);
    tcase_add_test(tc, bootstrap);
    tcase_add_test(tc, shortcuts);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

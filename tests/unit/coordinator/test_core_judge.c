/* The numbers that a verdict stands on, from what workers hand in to what is stored with it. */
#include "common/base/json.h"
#include "tests/unit/coordinator/core_fixture.h"

#define HOLDOUT 3
#define BETA 0.1 /* of iteration 0 */

static struct cf fx;
static uint64_t generator, trainer;
static json_t *summary;

/* What the player has added to the log-probabilities of both answers, by held-out prompt. */
static const float real_change[HOLDOUT] = {2, -1.5f, 0.5f};
static const float generated_change[HOLDOUT] = {-1, 1, 0.5f};
/* The same for the trained pairs of positions 0 … 2: margins above, at and at 0. */
static const float trained_real[3] = {1, 0, 2}, trained_generated[3] = {0, 0, 2};

static void answer(struct proto_work_result *result)
{
    uint64_t p = result->position;
    switch (result->set) {
    case PROTO_SET_HOLDOUT:
        result->logprob_a = -10;
        result->logprob_ids = -8;
        break;
    case PROTO_SET_HOLDOUT_PLAYER:
        result->logprob_a = -10 + real_change[p];
        result->logprob_b = -8 + generated_change[p];
        break;
    case PROTO_SET_TRAIN:
        result->logprob_a = -5;
        result->logprob_ids = -6;
        break;
    case PROTO_SET_TRAINED:
        result->logprob_a = -5 + trained_real[p];
        result->logprob_b = -6 + trained_generated[p];
        break;
    default:
        break;
    }
}

static void work(void)
{
    for (;;) {
        const struct cf_reply *reply = cf_reply(&fx, cf_poll(&fx, generator, 64, 0));
        if (!reply->there)
            cf_tick(&fx, 50);
        CF_OK(reply);
        const struct proto_lease_reply *lease = reply->body;
        if (lease->lease_id == 0)
            return;
        struct proto_submit *submit = cf_answers(&fx, generator, lease, 0, lease->items_count);
        for (uint32_t i = 0; i < submit->results_count; i++)
            answer(&submit->results[i]);
        CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, submit));
    }
}

/* Six steps, two passes of three. Of the first pass the second half counts, which begins in the
 * middle of its second step. */
static void report(const struct proto_trainer_lease_reply *grant)
{
    static const uint64_t seen[6] = {0, 2, 4};
    static const double right[6] = {0, 1.5, 2};
    struct proto_step_metrics steps[6] = {{0}};
    for (uint64_t i = 0; i < SP_COUNT(steps); i++)
        steps[i] = (struct proto_step_metrics){.step = i + 1,
                                               .pairs = 4,
                                               .first_sight_pairs = seen[i],
                                               .first_sight_correct = right[i]};
    struct proto_steps_report body = {.worker_id = trainer,
                                      .run = WORLD_RUN,
                                      .epoch = grant->epoch,
                                      .steps = steps,
                                      .steps_count = SP_COUNT(steps)};
    CF_OK(cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_STEPS_REPORT, &body));
}

/* The trainer's own references stand over the generator's for training, not for the comparison of
 * what generators score before and after. */
static void score(const struct proto_trainer_lease_reply *grant)
{
    const struct cf_reply *reply = cf_fetch(&fx, trainer, grant, 0, CF_TRAIN);
    CF_OK(reply);
    const struct proto_pairs_fetch_reply *pairs = reply->body;
    struct proto_work_result results[CF_TRAIN];
    ck_assert_uint_eq(pairs->pairs_count, CF_TRAIN);
    for (uint32_t i = 0; i < CF_TRAIN; i++)
        results[i] = (struct proto_work_result){.position = pairs->pairs[i].position,
                                                .prompt = pairs->pairs[i].prompt,
                                                .sample = pairs->pairs[i].sample,
                                                .logprob_a = -1,
                                                .logprob_b = -20};
    struct proto_refs_submit refs = {.worker_id = trainer,
                                     .run = WORLD_RUN,
                                     .epoch = grant->epoch,
                                     .results = results,
                                     .results_count = CF_TRAIN};
    CF_OK(cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_REFS_SUBMIT, &refs));
}

static void open_world(void)
{
    struct store_run *run;
    struct store_iteration row;
    struct sp_error err;
    cf_open(&fx, NULL);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "g");
    trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    work();
    const struct proto_trainer_lease_reply *grant = cf_train(&fx, trainer);
    score(grant);
    report(grant);
    CF_OK(cf_publish_begin(&fx, trainer, grant));
    CF_OK(cf_publish_commit(&fx, trainer, grant));
    work();
    CF_STATE(&fx, COORD_CLOSED);
    ck_assert_int_eq(store_run_open(fx.world.store, WORLD_RUN, &run, NULL), SP_OK);
    ck_assert_int_eq(store_iteration_get(run, 0, fx.arena, &row, NULL), SP_OK);
    ck_assert_int_eq(sp_json_parse(row.summary, strlen(row.summary), "summary", &summary, &err),
                     SP_OK);
}

static void close_world(void)
{
    json_decref(summary);
    cf_close(&fx);
}

static double number(const char *part, const char *name, const char *value)
{
    const json_t *found = json_object_get(json_object_get(summary, part), name);
    if (value)
        found = json_object_get(found, value);
    ck_assert_msg(json_is_number(found), "%s.%s: no number", part, name);
    return json_number_value(found);
}

START_TEST(likelihood_is_by_token)
{
    static const double tokens[HOLDOUT] = {4, 3, 2}; /* of the human answers: tests/sim/world.c */
    double mean = 0;
    for (int i = 0; i < HOLDOUT; i++)
        mean -= (double)real_change[i] / tokens[i] / HOLDOUT;
    ck_assert_double_eq_tol(number("holdout", "nll_change", "value"), mean, 1e-6);
}
END_TEST

START_TEST(margins_are_of_changes)
{
    double loss = 0, correct = 0;
    for (int i = 0; i < HOLDOUT; i++) {
        double margin = BETA * ((double)real_change[i] - (double)generated_change[i]);
        loss += log1p(exp(-margin)) / HOLDOUT;
        correct += margin > 0 ? 1 : margin == 0 ? 0.5 : 0;
    }
    ck_assert_double_eq_tol(number("holdout", "loss", NULL), loss, 1e-6);
    ck_assert_double_eq_tol(number("holdout", "loss_at_zero", NULL), log(2), 1e-9);
    ck_assert_double_eq_tol(number("holdout", "accuracy", "value"), correct / HOLDOUT, 1e-9);
}
END_TEST

START_TEST(trained_pairs_are_compared_with_their_own_references)
{
    ck_assert_double_eq(number("trained", "pairs", NULL), 3);
    ck_assert_double_eq_tol(number("trained", "accuracy", "value"), (1 + 0.5 + 0.5) / 3, 1e-9);
}
END_TEST

START_TEST(first_sight_is_what_the_trainer_counted)
{
    ck_assert_double_eq(number("first_sight", "pairs", NULL), 6);
    ck_assert_double_eq_tol(number("first_sight", "accuracy", "value"), 3.5 / 6, 1e-9);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_judge");
    TCase *tc = tcase_create("judge");
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, likelihood_is_by_token);
    tcase_add_test(tc, margins_are_of_changes);
    tcase_add_test(tc, trained_pairs_are_compared_with_their_own_references);
    tcase_add_test(tc, first_sight_is_what_the_trainer_counted);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

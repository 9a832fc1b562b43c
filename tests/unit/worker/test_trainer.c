/* The trainer's threads against a coordinator without a store: from grant to published checkpoint,
 * and through everything that may come between. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"
#include "tests/unit/worker/fake.h"
#include "trainer/session.h"
#include "trainer/trainer.h"

#define STEPS 12 /* 24 pairs, batches of 4, 2 passes */

static const char *const scored_by_trainer[] = {"run.score_by=trainer", NULL};
static const char *const with_codes[] = {"run.score_by=trainer", "train.optimizer=adamw",
                                         "train.optimizer_state=8bit", NULL};
static const char *const with_codes_on_host[] = {
    "run.score_by=trainer",       "run.backend=cuda-fp32",        "train.optimizer=adamw",
    "train.optimizer_state=8bit", "train.optimizer_offload=true", NULL};
static const char *const narrow[] = {"run.score_by=trainer",         "run.backend=cuda",
                                     "train.weights=bf16",           "train.optimizer_state=8bit",
                                     "train.optimizer_offload=true", NULL};

static const char *backend_of(const struct fake *fake)
{
    static const char *const names[] = {"cuda", "cuda-fp32"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        char text[40];
        snprintf(text, sizeof(text), ".backend\":\"%s\"", names[i]);
        if (strstr(fake->settings, text))
            return names[i];
    }
    return "cpu";
}

struct worker {
    struct fake *fake;
    struct train_settings settings;
    struct trainer trainer;
    struct tn_backend *backend;
    pthread_t thread;
    enum sp_err rc;
    struct sp_error err;
};

static void *run(void *argument)
{
    struct worker *worker = argument;
    worker->rc = trainer_run(&worker->trainer, worker->backend, &worker->err);
    return NULL;
}

static void start(struct worker *worker, struct fake *fake)
{
    struct sp_error err = {0};
    char *text = sp_xprintf("[coordinator]\nurl = %s\ntoken_file = %s/token\nbackoff_min = 2 ms\n"
                            "backoff_max = 10 ms\n[worker]\nname = t\nstate_dir = %s/state\n"
                            "[train]\nreport = 1 ms\nscore_pairs = 5\nstop_timeout = 2 s\n",
                            fake->url, fake->dir, fake->dir);
    char *token = sp_path_join(fake->dir, "token");
    struct tn_backend_options options = {.threads = 1};
    memset(worker, 0, sizeof(*worker));
    worker->fake = fake;
    ck_assert_int_eq(sp_write_file_durable(token, "a.b", 3, 0600, &err), SP_OK);
    sp_config_init(&train_settings_spec, &worker->settings);
    enum sp_err rc = sp_config_parse(&train_settings_spec, text, strlen(text), "trainer.conf",
                                     &worker->settings, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    ck_assert_int_eq(worker_settings_finish(&worker->settings.worker, "trainer", &err), SP_OK);
    rc = tn_open(backend_of(fake), &options, &worker->backend, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    trainer_init(&worker->trainer, &worker->settings);
    pthread_create(&worker->thread, NULL, run, worker);
    free(text);
    free(token);
}

static void stop(struct worker *worker)
{
    trainer_stop(&worker->trainer);
    pthread_join(worker->thread, NULL);
    ck_assert_msg(worker->rc == SP_OK, "%s", worker->err.text);
    trainer_deinit(&worker->trainer);
    tn_close(worker->backend);
    sp_config_deinit(&train_settings_spec, &worker->settings);
}

static void wait_step(struct fake *fake, uint64_t step)
{
    int64_t end_ms = sp_now_ms() + 20000;
    while (atomic_load(&fake->last_step) < step) {
        ck_assert_msg(sp_now_ms() < end_ms, "no step %llu: %s", (unsigned long long)step,
                      fake->reason);
        sp_sleep_ms(1);
    }
}

static void wait_there(const char *path)
{
    int64_t end_ms = sp_now_ms() + 20000;
    while (!sp_path_exists(path)) {
        ck_assert_msg(sp_now_ms() < end_ms, "no %s", path);
        sp_sleep_ms(2);
    }
}

static void wait_gone(struct fake *fake, const char *name)
{
    char *path = sp_xprintf("%s/state/trainer-t/%s", fake->dir, name);
    int64_t end_ms = sp_now_ms() + 20000;
    while (sp_path_exists(path)) {
        ck_assert_msg(sp_now_ms() < end_ms, "%s is still there", path);
        sp_sleep_ms(2);
    }
    free(path);
}

/* Trains the whole iteration without disturbance. */
static void undisturbed(const char *const *settings, struct sp_digest *ret_checkpoint,
                        struct sp_digest *ret_chain)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, settings);
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    fake_wait_true(&fake.published);
    stop(&worker);
    *ret_checkpoint = fake.published_checkpoint;
    *ret_chain = fake.published_chain;
    fake_stop(&fake);
}

START_TEST(test_an_iteration_from_grant_to_checkpoint)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, scored_by_trainer);
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    fake_wait_true(&fake.published);
    wait_gone(&fake, "r.snapshot"); /* the reply to the commit has come */
    stop(&worker);
    ck_assert_uint_eq(fake.refs, FAKE_PAIRS);
    ck_assert_uint_eq(atomic_load(&fake.last_step), STEPS);
    for (int i = 1; i <= STEPS; i++) {
        ck_assert_uint_eq(fake.steps[i].step, (uint64_t)i);
        ck_assert_uint_eq(fake.steps[i].pairs, 4);
        ck_assert_uint_eq(fake.steps[i].train_epoch, i > STEPS / 2);
    }
    /* It starts at ln 2, and learns. */
    ck_assert_double_eq_tol(fake.steps[1].loss, 0.69314718, 1e-6);
    ck_assert(fake.steps[1].margin_abs_max < 1e-6);
    ck_assert(fake.steps[STEPS].loss < fake.steps[1].loss);
    ck_assert(!sp_digest_equal(&fake.published_checkpoint, &fake.checkpoint));
    uint64_t sight = 0;
    for (int i = 1; i <= STEPS; i++)
        sight += fake.steps[i].first_sight_pairs;
    ck_assert_uint_eq(sight, FAKE_PAIRS / 2);
    ck_assert_ptr_nonnull(strstr(fake.summary, "\"steps\":12"));
    fake_stop(&fake);
}
END_TEST

/* Stopped after every other step and started again, by a new process each time: the same bits. And
 * those of `cpu` on a device that has its state in memory of the host; and with parameters that are
 * rounded at random. */
START_TEST(test_stops_and_starts_change_no_bit)
{
    const char *const *const settings[][2] = {{scored_by_trainer, scored_by_trainer},
                                              {with_codes, with_codes},
                                              {with_codes, with_codes_on_host},
                                              {narrow, narrow}};
    struct sp_digest checkpoint, chain;
    struct fake fake;
    struct worker worker;
    undisturbed(settings[_i][0], &checkpoint, &chain);
    fake_start(&fake, settings[_i][1]);
    for (uint64_t step = 1; step < STEPS; step += 2) {
        atomic_store(&fake.offer_training, true);
        start(&worker, &fake);
        wait_step(&fake, step);
        stop(&worker);
        if (!atomic_load(&fake.published))
            ck_assert(atomic_load(&fake.released) && !atomic_load(&fake.failed));
    }
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    fake_wait_true(&fake.published);
    stop(&worker);
    ck_assert(sp_digest_equal(&fake.published_checkpoint, &checkpoint));
    ck_assert(sp_digest_equal(&fake.published_chain, &chain));
    for (int i = 1; i <= STEPS; i++)
        ck_assert_uint_eq(fake.steps[i].step, (uint64_t)i);
    fake_stop(&fake);
}
END_TEST

/* A coordinator that forgets the worker again and again, and is busy in between. */
START_TEST(test_restarts_of_the_coordinator_change_no_bit)
{
    struct sp_digest checkpoint, chain;
    struct fake fake;
    struct worker worker;
    undisturbed(scored_by_trainer, &checkpoint, &chain);
    fake_start(&fake, scored_by_trainer);
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    for (int i = 0; i < 10 && !atomic_load(&fake.published); i++) {
        atomic_store(&fake.forget, 1);
        atomic_store(&fake.busy, 3);
        sp_sleep_ms(10);
    }
    fake_wait_true(&fake.published);
    stop(&worker);
    ck_assert_uint_gt(fake.hellos, 1);
    ck_assert(sp_digest_equal(&fake.published_checkpoint, &checkpoint));
    ck_assert(sp_digest_equal(&fake.published_chain, &chain));
    fake_stop(&fake);
}
END_TEST

START_TEST(test_pause_keeps_the_snapshot_and_gives_the_lease_back)
{
    struct sp_digest checkpoint, chain;
    struct fake fake;
    struct worker worker;
    undisturbed(scored_by_trainer, &checkpoint, &chain);
    fake_start(&fake, scored_by_trainer);
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    atomic_store(&fake.command, PROTO_TRAINER_PAUSE);
    fake_wait_true(&fake.released);
    ck_assert(!atomic_load(&fake.failed));
    ck_assert(!atomic_load(&fake.published));
    atomic_store(&fake.command, PROTO_TRAINER_GO_ON);
    atomic_store(&fake.offer_training, true);
    fake_wait_true(&fake.published);
    stop(&worker);
    ck_assert_uint_eq(fake.epoch, 2);
    ck_assert(sp_digest_equal(&fake.published_checkpoint, &checkpoint));
    fake_stop(&fake);
}
END_TEST

START_TEST(test_a_waiting_trainer_hears_cancel_and_lost)
{
    struct fake fake;
    struct worker worker;
    const char *const settings[] = {"run.mode=sft", NULL};
    fake_start(&fake, settings);
    atomic_store(&fake.available, 10);
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    char *snapshot = sp_xprintf("%s/state/trainer-t/r.snapshot", fake.dir);
    wait_there(snapshot);
    atomic_store(&fake.command, PROTO_TRAINER_CANCEL);
    fake_wait_true(&fake.released);
    ck_assert(!sp_path_exists(snapshot));
    atomic_store(&fake.command, PROTO_TRAINER_GO_ON);
    atomic_store(&fake.offer_training, true);
    wait_there(snapshot);
    atomic_store(&fake.stale, true);
    sp_sleep_ms(100);
    ck_assert(sp_path_exists(snapshot)); /* the lease may come back */
    atomic_store(&fake.stale, false);
    atomic_store(&fake.available, FAKE_PAIRS);
    atomic_store(&fake.offer_training, true);
    fake_wait_true(&fake.published);
    stop(&worker);
    ck_assert_uint_eq(fake.epoch, 3);
    free(snapshot);
    fake_stop(&fake);
}
END_TEST

START_TEST(test_the_guard_fails_the_iteration)
{
    struct fake fake;
    struct worker worker;
    const char *const settings[] = {"run.score_by=trainer", "train.guard_nats=1e-6",
                                    "train.learning_rate=0.3", NULL};
    fake_start(&fake, settings);
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    fake_wait_true(&fake.released);
    stop(&worker);
    ck_assert(atomic_load(&fake.failed));
    ck_assert(!atomic_load(&fake.published));
    ck_assert_msg(strstr(fake.reason, "guard") != NULL, "%s", fake.reason);
    fake_stop(&fake);
}
END_TEST

START_TEST(test_steps_that_are_not_finite_fail_with_their_pairs)
{
    struct fake fake;
    struct worker worker;
    /* e^−m of a margin of minus thousands is infinite: the references below are far too high. */
    const char *const settings[] = {"train.loss=exponential", "train.beta=1000",
                                    "train.max_nonfinite_steps=2", NULL};
    fake_start(&fake, settings);
    for (int i = 0; i < FAKE_PAIRS; i++) {
        fake.ref_real[i] = 0;
        fake.ref_generated[i] = -1000;
    }
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    fake_wait_true(&fake.released);
    stop(&worker);
    ck_assert(atomic_load(&fake.failed));
    ck_assert_msg(strstr(fake.reason, "not finite") != NULL && strstr(fake.reason, "t0 p") != NULL,
                  "%s", fake.reason);
    ck_assert_uint_eq(atomic_load(&fake.last_step), 3);
    ck_assert(fake.steps[3].skipped);
    fake_stop(&fake);
}
END_TEST

START_TEST(test_a_reference_that_is_missing_fails_the_iteration)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, NULL); /* score_by = generator, but nothing is scored */
    atomic_store(&fake.offer_training, true);
    start(&worker, &fake);
    fake_wait_true(&fake.released);
    stop(&worker);
    ck_assert(atomic_load(&fake.failed));
    ck_assert_msg(strstr(fake.reason, "reference") != NULL, "%s", fake.reason);
    fake_stop(&fake);
}
END_TEST

START_TEST(test_sft_and_dpo_go_the_same_way)
{
    static const char *const sft[] = {"run.mode=sft", NULL};
    static const char *const dpo[] = {"run.mode=dpo", "run.score_by=trainer",
                                      "train.optimizer=adamw", NULL};
    for (int i = 0; i < 2; i++) {
        struct fake fake;
        struct worker worker;
        fake_start(&fake, i == 0 ? sft : dpo);
        atomic_store(&fake.offer_training, true);
        start(&worker, &fake);
        fake_wait_true(&fake.published);
        stop(&worker);
        ck_assert_uint_eq(atomic_load(&fake.last_step), STEPS);
        ck_assert(fake.steps[STEPS].loss < fake.steps[1].loss);
        ck_assert_uint_eq(fake.refs, i == 0 ? 0 : FAKE_PAIRS);
        if (i == 0)
            ck_assert_double_eq(fake.steps[1].sft_loss, fake.steps[1].loss);
        fake_stop(&fake);
    }
}
END_TEST

START_TEST(test_two_trainers_do_not_share_a_directory)
{
    struct fake fake;
    struct worker first, second;
    fake_start(&fake, scored_by_trainer);
    start(&first, &fake);
    sp_sleep_ms(100);
    start(&second, &fake);
    pthread_join(second.thread, NULL);
    ck_assert_int_eq(second.rc, SP_ESTATE);
    trainer_deinit(&second.trainer);
    tn_close(second.backend);
    sp_config_deinit(&train_settings_spec, &second.settings);
    stop(&first);
    fake_stop(&fake);
}
END_TEST

/* Grants that no coordinator should send are refused before anything is made of them. */
START_TEST(test_malformed_grants_are_refused)
{
    static const char *const evaluation[] = {"run.mode=evaluate", NULL};
    struct fake fake;
    fake_start(&fake, evaluation);
    struct tn_backend backend = {.numerics_class = "cpu r1"};
    struct trainer trainer = {.backend = &backend};
    const struct proto_trainer_lease_reply good = {
        .run = "r", .plan_pairs = 24, .epoch = 1, .settings = fake.settings};
    const char *const expected[] = {"is an evaluation", "iteration 16777216", "0 pairs",
                                    "no name",          "run settings",       "no name"};
    for (size_t i = 0; i < SP_COUNT(expected); i++) {
        struct proto_trainer_lease_reply grant = good;
        struct train_session *session = NULL;
        struct sp_error err = {0};
        grant.iteration = i == 1 ? 1u << 24 : 0;
        grant.plan_pairs = i == 2 ? 0 : 24;
        grant.run = i == 3 ? "" : i == 5 ? "../up" : "r";
        grant.settings = i == 4 ? "[]" : fake.settings;
        ck_assert_int_eq(train_session_new(&trainer, &grant, &session, &err), SP_EFORMAT);
        ck_assert_msg(strstr(err.text, expected[i]) != NULL, "case %zu: %s", i, err.text);
    }
    fake_stop(&fake);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("worker/trainer");
    TCase *c = tcase_create("trainer");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, test_an_iteration_from_grant_to_checkpoint);
    tcase_add_loop_test(c, test_stops_and_starts_change_no_bit, 0, 4);
    tcase_add_test(c, test_restarts_of_the_coordinator_change_no_bit);
    tcase_add_test(c, test_pause_keeps_the_snapshot_and_gives_the_lease_back);
    tcase_add_test(c, test_a_waiting_trainer_hears_cancel_and_lost);
    tcase_add_test(c, test_the_guard_fails_the_iteration);
    tcase_add_test(c, test_steps_that_are_not_finite_fail_with_their_pairs);
    tcase_add_test(c, test_a_reference_that_is_missing_fails_the_iteration);
    tcase_add_test(c, test_sft_and_dpo_go_the_same_way);
    tcase_add_test(c, test_two_trainers_do_not_share_a_directory);
    tcase_add_test(c, test_malformed_grants_are_refused);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

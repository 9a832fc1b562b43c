/* Every state of an iteration survives a restart of every daemon, and leads on to the same bits;
 * commands said twice, two trainers, a trainer lost. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/wire.h"
#include "tests/unit/check_main.h"

#define SECONDS 60

static void prepare(struct cluster *cluster)
{
    cluster_open(cluster);
    cluster_write_rows(cluster, "train.jsonl", 0, 150);
    cluster_create_run(cluster, "r", 7, "train.batch_pairs=4 train.epochs=4");
}

static void start_workers(struct cluster *cluster)
{
    cluster_start_generator(cluster, 0);
    cluster_start_trainer(cluster, 0);
}

/* Power goes, and comes back for the coordinator only. */
static void restart(struct cluster *cluster)
{
    for (int i = 0; i < CLUSTER_GENERATORS; i++)
        cluster_end(&cluster->generators[i], SIGKILL);
    for (int i = 0; i < CLUSTER_TRAINERS; i++)
        cluster_end(&cluster->trainers[i], SIGKILL);
    cluster_end(&cluster->coordinator, SIGKILL);
    cluster_start_coordinator(cluster);
}

static void check_state(struct cluster *cluster, const char *state)
{
    ck_assert_str_eq(cluster_state(cluster, "r"), state);
    restart(cluster);
    ck_assert_str_eq(cluster_state(cluster, "r"), state);
}

static void command(struct cluster *cluster, const char *verb)
{
    json_decref(cluster_ctl_ok(cluster, verb, "r", NULL));
}

static char *digest_of(struct cluster *cluster, const char *key)
{
    json_t *row = cluster_iteration(cluster, "r", 0);
    char *text = sp_xstrdup(cluster_text(row, key));
    json_decref(row);
    return text;
}

/* The digest that an undisturbed iteration of prepare()'s run has. */
static char *reference(void)
{
    struct cluster cluster;
    prepare(&cluster);
    start_workers(&cluster);
    cluster_iterate(&cluster, "r", SECONDS);
    check_state(&cluster, "closed");
    char *digest = digest_of(&cluster, "checkpoint_sha256");
    cluster_close(&cluster);
    return digest;
}

static void finish_and_compare(struct cluster *cluster, const char *expected)
{
    cluster_wait_state(cluster, "r", "closed", SECONDS);
    char *digest = digest_of(cluster, "checkpoint_sha256");
    ck_assert_str_eq(digest, expected);
    free(digest);
}

START_TEST(test_restarts_and_pauses_in_every_state)
{
    struct cluster cluster;
    char *expected = reference();
    prepare(&cluster);
    ck_assert_str_eq(cluster_state(&cluster, "r"), "none");
    cluster_start_iteration(&cluster, "r");
    restart(&cluster);
    command(&cluster, "pause"); /* planned or running: nobody works yet */
    check_state(&cluster, "paused");
    command(&cluster, "resume");
    cluster_start_generator(&cluster, 0);
    cluster_wait_pairs(&cluster, "r", 1, SECONDS);
    check_state(&cluster, "running");
    start_workers(&cluster);
    cluster_creep_steps(&cluster, cluster.trainers[0], "r", 2);
    cluster_wait_pairs(&cluster, "r", 135, SECONDS); /* no generator is needed from here on */
    command(&cluster, "pause");
    check_state(&cluster, "paused");
    cluster_start_trainer(&cluster, 0);
    command(&cluster, "resume");
    /* Nobody scores the new checkpoint yet, so it stays in evaluating. */
    cluster_wait_state(&cluster, "r", "evaluating", SECONDS);
    check_state(&cluster, "evaluating");
    command(&cluster, "pause");
    check_state(&cluster, "paused");
    command(&cluster, "resume");
    check_state(&cluster, "evaluating");
    cluster_start_generator(&cluster, 0);
    finish_and_compare(&cluster, expected);
    check_state(&cluster, "closed");
    cluster_close(&cluster);
    free(expected);
}
END_TEST

/* A trainer that dies between begin and commit leaves the iteration in publishing. */
START_TEST(test_publishing_survives_and_another_trainer_finishes)
{
    struct cluster cluster;
    struct wire wire;
    char *expected = reference();
    prepare(&cluster);
    cluster_start_iteration(&cluster, "r");
    cluster_start_generator(&cluster, 0);
    cluster_wait_pairs(&cluster, "r", 135, SECONDS);
    wire_open(&wire, &cluster, PROTO_ROLE_TRAINER, "early");
    const struct proto_trainer_lease_reply *grant = wire_trainer_lease(&wire);
    char manifest[200];
    int n = snprintf(manifest, sizeof(manifest),
                     "spin-manifest 1\nfile "
                     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 a\n");
    struct proto_publish_begin begin = {
        .run = "r",
        .epoch = grant->epoch,
        .manifest = {.data = (const uint8_t *)manifest, .length = (uint32_t)n},
    };
    wire_call(&wire, PROTO_PUBLISH_BEGIN, &begin);
    wire_close(&wire);
    check_state(&cluster, "publishing");
    command(&cluster, "pause");
    check_state(&cluster, "paused");
    command(&cluster, "resume");
    check_state(&cluster, "publishing");
    start_workers(&cluster);
    finish_and_compare(&cluster, expected);
    cluster_close(&cluster);
    free(expected);
}
END_TEST

START_TEST(test_failed_and_cancelled_survive_and_reopen)
{
    struct cluster cluster;
    struct wire wire;
    char *expected = reference();
    prepare(&cluster);
    cluster_start_iteration(&cluster, "r");
    wire_open(&wire, &cluster, PROTO_ROLE_TRAINER, "unhappy");
    const struct proto_trainer_lease_reply *grant = wire_trainer_lease(&wire);
    struct proto_trainer_release release = {
        .run = "r", .epoch = grant->epoch, .failed = true, .reason = "the tea was cold"};
    wire_call(&wire, PROTO_TRAINER_RELEASE, &release);
    wire_close(&wire);
    check_state(&cluster, "failed");
    json_t *row = cluster_iteration(&cluster, "r", 0);
    ck_assert_ptr_nonnull(strstr(cluster_text(row, "reason"), "the tea was cold"));
    json_decref(row);
    ck_assert_int_ne(cluster_ctl(&cluster, NULL, "resume", "r", NULL), 0); /* that is for pauses */
    command(&cluster, "retry");
    start_workers(&cluster);
    cluster_creep_steps(&cluster, cluster.trainers[0], "r", 3);
    command(&cluster, "cancel");
    check_state(&cluster, "cancelled");
    ck_assert_int_ne(cluster_ctl(&cluster, NULL, "start-iteration", "r", NULL), 0);
    command(&cluster, "start");
    start_workers(&cluster);
    cluster_creep_steps(&cluster, cluster.trainers[0], "r", 1);
    command(&cluster, "cancel");
    json_decref(cluster_ctl_ok(&cluster, "start", "--fresh", "r", NULL));
    kill(cluster.trainers[0], SIGCONT);
    finish_and_compare(&cluster, expected);
    cluster_close(&cluster);
    free(expected);
}
END_TEST

/* One step of 10^12 times the gradient: the weights are numbers, their logits are not. Nobody can
 * give it a verdict, which is said and not tried for ever. */
START_TEST(test_weights_without_finite_logits_are_said)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "r", 7,
                       "train.learning_rate=1 train.rms_alpha=1 train.eps=1e-12 train.clip=0 "
                       "train.batch_pairs=64 train.epochs=1");
    start_workers(&cluster);
    cluster_start_iteration(&cluster, "r");
    cluster_wait_state(&cluster, "r", "paused", SECONDS);
    json_t *row = cluster_iteration(&cluster, "r", 0);
    ck_assert_msg(strstr(cluster_text(row, "reason"), "logits are not finite") != NULL, "%s",
                  cluster_text(row, "reason"));
    json_decref(row);
    command(&cluster, "cancel");
    /* As a base: the trainer says so of its own scores; steps that changed nothing are counted. */
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "export", "r:0", "unusable", NULL), 0);
    snprintf(cluster.base, sizeof(cluster.base), "%s/unusable", cluster.dir);
    cluster_create_run(&cluster, "s", 7,
                       "run.mode=sft train.max_nonfinite_steps=100 data.holdout_share=0");
    cluster_iterate(&cluster, "s", SECONDS);
    row = cluster_iteration(&cluster, "s", 0);
    char *text = json_dumps(json_object_get(row, "statistics"), 0);
    ck_assert_msg(strstr(text, "16 of 16 steps changed nothing") != NULL, "%s", text);
    free(text);
    json_decref(row);
    cluster_write_preferences(&cluster, "train.jsonl", 20);
    cluster_create_run(&cluster, "d", 7, "run.mode=dpo run.score_by=trainer data.holdout_share=0");
    cluster_start_iteration(&cluster, "d");
    cluster_wait_state(&cluster, "d", "failed", SECONDS);
    row = cluster_iteration(&cluster, "d", 0);
    ck_assert_msg(strstr(cluster_text(row, "reason"), "is not finite; the opponent's") != NULL,
                  "%s", cluster_text(row, "reason"));
    json_decref(row);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_start_iteration_twice_is_one_iteration)
{
    struct cluster cluster;
    prepare(&cluster);
    for (int i = 0; i < 3; i++) {
        json_t *json = cluster_ctl_ok(&cluster, "start-iteration", "--iteration", "0", "r", NULL);
        ck_assert_int_eq((int)cluster_number(json, "iteration"), 0);
        ck_assert_int_eq(json_is_true(json_object_get(json, "created")), i == 0);
        json_decref(json);
        if (i == 1)
            restart(&cluster);
    }
    ck_assert_int_ne(cluster_ctl(&cluster, NULL, "start-iteration", "--iteration", "1", "r", NULL),
                     0);
    start_workers(&cluster);
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    /* Now the same words name a closed iteration, and the next number starts the next one. */
    json_t *json = cluster_ctl_ok(&cluster, "start-iteration", "--iteration", "0", "r", NULL);
    ck_assert(!json_is_true(json_object_get(json, "created")));
    json_decref(json);
    ck_assert_str_eq(cluster_state(&cluster, "r"), "closed");
    json_decref(cluster_ctl_ok(&cluster, "start-iteration", "--iteration", "1", "r", NULL));
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    json_decref(cluster_iteration(&cluster, "r", 1));
    cluster_close(&cluster);
}
END_TEST

/* Two trainers: one works, the other stands by and takes over when the first is gone. */
START_TEST(test_a_standby_takes_over_a_lost_trainers_run)
{
    struct cluster cluster;
    char *expected = reference();
    prepare(&cluster);
    cluster_start_trainer(&cluster, 0);
    cluster_start_iteration(&cluster, "r");
    sp_sleep_ms(500); /* the first one holds the lease */
    cluster_start_trainer(&cluster, 1);
    cluster_start_generator(&cluster, 0);
    cluster_creep_steps(&cluster, cluster.trainers[0], "r", 1);
    cluster_end(&cluster.trainers[0], SIGKILL);
    ck_assert_str_eq(cluster_state(&cluster, "r"), "running");
    cluster_wait_state(&cluster, "r", "closed", SECONDS);
    finish_and_compare(&cluster, expected);
    cluster_close(&cluster);
    free(expected);
}
END_TEST

/* What the first trainer does after the second one was granted the run is refused. */
START_TEST(test_an_old_epoch_is_refused)
{
    struct cluster cluster;
    struct wire first, second;
    struct sp_error err = {0};
    const void *reply;
    prepare(&cluster);
    cluster_start_iteration(&cluster, "r");
    wire_open(&first, &cluster, PROTO_ROLE_TRAINER, "first");
    wire_open(&second, &cluster, PROTO_ROLE_TRAINER, "second");
    uint64_t epoch = wire_trainer_lease(&first)->epoch;
    /* The first one falls silent for longer than its lease. */
    const struct proto_trainer_lease_reply *grant = wire_trainer_lease(&second);
    ck_assert_uint_gt(grant->epoch, epoch);
    struct proto_pairs_fetch fetch = {.run = "r", .epoch = epoch, .count = 1};
    ck_assert_int_eq(worker_call(first.peer, PROTO_PAIRS_FETCH, &fetch, 5000, &reply, &err),
                     SP_ESTALE);
    struct proto_publish_commit commit = {.run = "r", .epoch = epoch};
    ck_assert_int_eq(worker_call(first.peer, PROTO_PUBLISH_COMMIT, &commit, 5000, &reply, &err),
                     SP_ESTALE);
    struct proto_steps_report report = {.run = "r", .epoch = epoch};
    ck_assert_int_eq(worker_call(first.peer, PROTO_STEPS_REPORT, &report, 5000, &reply, &err),
                     SP_ESTALE);
    wire_close(&first);
    wire_close(&second);
    cluster_close(&cluster);
}
END_TEST

/* SIGTERM: the generator gives its leases back, the trainer writes a snapshot; both end with 0. */
START_TEST(test_daemons_end_well_when_asked)
{
    struct cluster cluster;
    char *expected = reference();
    prepare(&cluster);
    cluster_start_iteration(&cluster, "r");
    start_workers(&cluster);
    cluster_creep_steps(&cluster, cluster.trainers[0], "r", 1);
    kill(cluster.trainers[0], SIGCONT);
    ck_assert_int_eq(cluster_end(&cluster.generators[0], SIGTERM), 0);
    ck_assert_int_eq(cluster_end(&cluster.trainers[0], SIGTERM), 0);
    ck_assert_int_eq(cluster_end(&cluster.coordinator, SIGTERM), 0);
    cluster_start_coordinator(&cluster);
    start_workers(&cluster);
    finish_and_compare(&cluster, expected);
    cluster_close(&cluster);
    free(expected);
}
END_TEST

/* The same while the coordinator hangs: they end (cluster_end waits only so long), and what they
 * could not say is made up for. */
START_TEST(test_daemons_end_well_though_the_coordinator_hangs)
{
    struct cluster cluster;
    char *expected = reference();
    prepare(&cluster);
    cluster_start_iteration(&cluster, "r");
    start_workers(&cluster);
    cluster_creep_steps(&cluster, cluster.trainers[0], "r", 1);
    kill(cluster.coordinator, SIGSTOP);
    kill(cluster.trainers[0], SIGCONT);
    sp_sleep_ms(200); /* both find out that nobody answers */
    ck_assert_int_eq(cluster_end(&cluster.generators[0], SIGTERM), 0);
    ck_assert_int_eq(cluster_end(&cluster.trainers[0], SIGTERM), 0);
    kill(cluster.coordinator, SIGCONT);
    start_workers(&cluster);
    finish_and_compare(&cluster, expected);
    cluster_close(&cluster);
    free(expected);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/states");
    TCase *c = tcase_create("states");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_restarts_and_pauses_in_every_state);
    tcase_add_test(c, test_publishing_survives_and_another_trainer_finishes);
    tcase_add_test(c, test_failed_and_cancelled_survive_and_reopen);
    tcase_add_test(c, test_weights_without_finite_logits_are_said);
    tcase_add_test(c, test_start_iteration_twice_is_one_iteration);
    tcase_add_test(c, test_a_standby_takes_over_a_lost_trainers_run);
    tcase_add_test(c, test_an_old_epoch_is_refused);
    tcase_add_test(c, test_daemons_end_well_when_asked);
    tcase_add_test(c, test_daemons_end_well_though_the_coordinator_hangs);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* A run is a function: digests of pairs and checkpoints don't depend on how many generators there
 * were, on their slots, or on who was killed when; they do depend on the seed. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/unit/check_main.h"

#define ITERATIONS 2
#define PROMPTS 300
#define PAIRS 270 /* 300 less a tenth held out */
#define SECONDS 60

struct digests {
    char pairs[ITERATIONS][65], checkpoint[ITERATIONS][65];
};

static void note(struct cluster *cluster, int iteration, struct digests *digests)
{
    json_t *row = cluster_iteration(cluster, "r", iteration);
    snprintf(digests->pairs[iteration], 65, "%s", cluster_text(row, "pairs_sha256"));
    snprintf(digests->checkpoint[iteration], 65, "%s", cluster_text(row, "checkpoint_sha256"));
    ck_assert_double_eq_tol(cluster_number(row, "loss_first_step"), 0.693147, 1e-3);
    ck_assert(cluster_number(row, "margin_abs_max_first_step") < 1e-3);
    ck_assert_double_eq(cluster_number(row, "pairs"), iteration == 0 ? PAIRS : 2 * PAIRS);
    json_decref(row);
}

#define SETTINGS "train.batch_pairs=4 train.epochs=3 train.snapshot_steps=2"
#define NARROW                                                                                     \
    SETTINGS                                                                                       \
    " run.score_by=trainer generate.weights=bf16 generate.activations=bf16 generate.kv=bf16"

static void prepare(struct cluster *cluster, uint64_t seed, const char *settings)
{
    cluster_open(cluster);
    cluster_write_rows(cluster, "train.jsonl", 0, PROMPTS);
    cluster_create_run(cluster, "r", seed, settings);
}

static void undisturbed(uint64_t seed, const char *settings, int generators, int slots,
                        struct digests *digests)
{
    struct cluster cluster;
    prepare(&cluster, seed, settings);
    cluster.slots = slots;
    for (int i = 0; i < generators; i++)
        cluster_start_generator(&cluster, i);
    cluster_start_trainer(&cluster, 0);
    for (int k = 0; k < ITERATIONS; k++) {
        cluster_iterate(&cluster, "r", SECONDS);
        note(&cluster, k, digests);
    }
    cluster_close(&cluster);
}

/* Each daemon is killed in the middle of every iteration and started again. */
static void disturbed(uint64_t seed, struct digests *digests)
{
    struct cluster c;
    prepare(&c, seed, SETTINGS);
    c.slots = 2;
    c.lease_items = 1;
    cluster_start_generator(&c, 0);
    cluster_start_trainer(&c, 0);
    for (int k = 0; k < ITERATIONS; k++) {
        kill(c.trainers[0], SIGSTOP);
        kill(c.generators[0], SIGSTOP);
        cluster_start_iteration(&c, "r");
        cluster_creep_pairs(&c, c.generators[0], "r", 4);
        cluster_end(&c.generators[0], SIGKILL);
        ck_assert_int_lt(cluster_pairs_done(&c, "r"), PAIRS);
        cluster_start_generator(&c, 0);
        cluster_creep_pairs(&c, c.generators[0], "r", 20);
        cluster_end(&c.coordinator, SIGKILL);
        cluster_start_coordinator(&c);
        ck_assert_str_eq(cluster_state(&c, "r"), "running");
        ck_assert_int_lt(cluster_pairs_done(&c, "r"), PAIRS);
        kill(c.generators[0], SIGCONT);
        cluster_creep_steps(&c, c.trainers[0], "r", 5);
        cluster_end(&c.trainers[0], SIGKILL);
        cluster_end(&c.coordinator, SIGKILL);
        cluster_start_coordinator(&c);
        ck_assert_str_eq(cluster_state(&c, "r"), "running");
        cluster_start_trainer(&c, 0);
        cluster_wait_state(&c, "r", "closed", SECONDS);
        note(&c, k, digests);
    }
    cluster_close(&c);
}

START_TEST(test_generators_and_kills_change_no_digest)
{
    struct digests one, three, killed, other;
    undisturbed(7, SETTINGS, 1, 16, &one);
    undisturbed(7, SETTINGS, 3, 5, &three);
    disturbed(7, &killed);
    undisturbed(8, SETTINGS, 2, 8, &other);
    for (int k = 0; k < ITERATIONS; k++) {
        ck_assert_str_eq(one.pairs[k], three.pairs[k]);
        ck_assert_str_eq(one.checkpoint[k], three.checkpoint[k]);
        ck_assert_str_eq(one.pairs[k], killed.pairs[k]);
        ck_assert_str_eq(one.checkpoint[k], killed.checkpoint[k]);
        ck_assert_str_ne(one.pairs[k], other.pairs[k]);
        ck_assert_str_ne(one.checkpoint[k], other.checkpoint[k]);
    }
}
END_TEST

/* The last line of a log that begins its text with `what`, from there on; malloc'd. */
static char *last_said(const struct cluster *cluster, const char *log, const char *what)
{
    char *path = sp_xprintf("%s/%s", cluster->dir, log), *text = NULL, *found = NULL;
    size_t length;
    struct sp_error err;
    ck_assert_int_eq(sp_read_file(path, 1 << 20, &text, &length, &err), SP_OK);
    for (char *at = text; (at = strstr(at, what)) != NULL; at++)
        found = at;
    ck_assert_msg(found != NULL, "%s: no \"%s\"", path, what);
    found = sp_xstrndup(found, strcspn(found, "\n"));
    free(text);
    free(path);
    return found;
}

/* A generator goes on with the leases that it had when the coordinator was killed. */
START_TEST(test_a_restart_of_the_coordinator_costs_no_lease)
{
    struct cluster c;
    unsigned lost, held;
    prepare(&c, 7, SETTINGS);
    c.slots = 2;
    c.lease_items = 1;
    cluster_start_generator(&c, 0);
    kill(c.generators[0], SIGSTOP);
    cluster_start_iteration(&c, "r");
    cluster_creep_pairs(&c, c.generators[0], "r", 1);
    ck_assert_int_lt(cluster_pairs_done(&c, "r"), PAIRS);
    cluster_end(&c.coordinator, SIGKILL);
    c.time_scale = 0.3; /* time to come back, on a slow machine, too */
    cluster_start_coordinator(&c);
    kill(c.generators[0], SIGCONT);
    cluster_wait_pairs(&c, "r", PAIRS, SECONDS);
    char *said = last_said(&c, "generator-0.log", "joined coordinator");
    const char *count = strrchr(said, '(');
    ck_assert_msg(count && sscanf(count, "(%u of %u leases lost)", &lost, &held) == 2, "%s", said);
    /* One may be over: its results were stored, and the acknowledgement was lost. */
    ck_assert_uint_le(lost, 1);
    ck_assert_uint_gt(held, lost);
    free(said);
    cluster_close(&c);
}
END_TEST

/* The same of generators that compute in bf16, whose answers the trainer scores: `note` holds the
 * first loss to ln 2. */
START_TEST(test_narrow_generators_change_no_digest)
{
    struct digests one, three;
    undisturbed(7, NARROW, 1, 16, &one);
    undisturbed(7, NARROW, 3, 5, &three);
    for (int k = 0; k < ITERATIONS; k++) {
        ck_assert_str_eq(one.pairs[k], three.pairs[k]);
        ck_assert_str_eq(one.checkpoint[k], three.checkpoint[k]);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/digests");
    TCase *c = tcase_create("digests");
    tcase_set_timeout(c, 200);
    tcase_add_test(c, test_generators_and_kills_change_no_digest);
    tcase_add_test(c, test_a_restart_of_the_coordinator_costs_no_lease);
    tcase_add_test(c, test_narrow_generators_change_no_digest);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* The three modes, both curricula, scores by the trainer, several losses, and a real small model:
 * each goes through the same daemons. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/unit/check_main.h"

#define SECONDS 90

static void open_with_workers(struct cluster *cluster)
{
    cluster_open(cluster);
    cluster_start_generator(cluster, 0);
    cluster_start_trainer(cluster, 0);
}

static void check_starts_at(struct cluster *cluster, const char *run, int iteration, double loss)
{
    json_t *row = cluster_iteration(cluster, run, iteration);
    ck_assert_double_eq_tol(cluster_number(row, "loss_first_step"), loss, 1e-3);
    ck_assert(cluster_number(row, "margin_abs_max_first_step") < 1e-3);
    ck_assert(cluster_number(row, "loss_last_step") < loss);
    json_decref(row);
}

START_TEST(test_sft_makes_the_human_answers_likelier)
{
    struct cluster cluster;
    open_with_workers(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "s", 7, "run.mode=sft train.epochs=4 train.optimizer=adamw");
    cluster_iterate(&cluster, "s", SECONDS);
    json_t *row = cluster_iteration(&cluster, "s", 0);
    ck_assert(cluster_number(row, "loss_last_step") < cluster_number(row, "loss_first_step") - 0.2);
    ck_assert_str_eq(cluster_text(row, "verdict"), "improved");
    json_decref(row);
    /* The checkpoint that it made is a directory that spin runs start from. */
    json_t *list = cluster_ctl_ok(&cluster, "checkpoints", "s", NULL);
    const char *digest = NULL;
    json_t *one;
    size_t i;
    json_array_foreach(json_object_get(list, "checkpoints"), i, one)
    {
        if (json_integer_value(json_object_get(one, "iteration")) == 0)
            digest = cluster_text(one, "digest");
    }
    ck_assert_ptr_nonnull(digest);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "export", digest, "exported", NULL), 0);
    json_decref(list);
    snprintf(cluster.base, sizeof(cluster.base), "%s/exported", cluster.dir);
    cluster_create_run(&cluster, "r", 7, "");
    cluster_iterate(&cluster, "r", SECONDS);
    check_starts_at(&cluster, "r", 0, log(2));
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_dpo_scored_by_generator_and_by_trainer_is_the_same)
{
    struct cluster cluster;
    open_with_workers(&cluster);
    cluster_write_preferences(&cluster, "train.jsonl", 60);
    cluster_create_run(&cluster, "g", 7, "run.mode=dpo");
    cluster_create_run(&cluster, "t", 7, "run.mode=dpo run.score_by=trainer");
    cluster_iterate(&cluster, "g", SECONDS);
    cluster_iterate(&cluster, "t", SECONDS);
    check_starts_at(&cluster, "g", 0, log(2));
    check_starts_at(&cluster, "t", 0, log(2));
    json_t *g = cluster_iteration(&cluster, "g", 0), *t = cluster_iteration(&cluster, "t", 0);
    ck_assert_str_eq(cluster_text(g, "checkpoint_sha256"), cluster_text(t, "checkpoint_sha256"));
    ck_assert_str_eq(cluster_text(g, "pairs_sha256"), cluster_text(t, "pairs_sha256"));
    json_decref(g);
    json_decref(t);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_spin_scored_by_the_trainer_is_the_same)
{
    struct cluster cluster;
    open_with_workers(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 50);
    cluster_create_run(&cluster, "g", 7, "");
    cluster_create_run(&cluster, "t", 7, "run.score_by=trainer");
    for (int k = 0; k < 2; k++) {
        cluster_iterate(&cluster, "g", SECONDS);
        cluster_iterate(&cluster, "t", SECONDS);
        check_starts_at(&cluster, "t", k, log(2));
        json_t *g = cluster_iteration(&cluster, "g", k), *t = cluster_iteration(&cluster, "t", k);
        ck_assert_str_eq(cluster_text(g, "checkpoint_sha256"),
                         cluster_text(t, "checkpoint_sha256"));
        json_decref(g);
        json_decref(t);
    }
    cluster_close(&cluster);
}
END_TEST

/* The second half of 54 pairs begins in the first batch of 50. */
START_TEST(test_first_sight_counts_half_of_the_pairs)
{
    struct cluster cluster;
    open_with_workers(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "r", 7, "train.batch_pairs=50");
    cluster_iterate(&cluster, "r", SECONDS);
    json_t *row = cluster_iteration(&cluster, "r", 0);
    ck_assert_double_eq(cluster_number(row, "pairs"), 54);
    const json_t *seen = json_object_get(json_object_get(row, "statistics"), "first_sight");
    ck_assert_double_eq(cluster_number(seen, "pairs"), 27);
    json_decref(row);
    cluster_close(&cluster);
}
END_TEST

/* Orders differ, so do the checkpoints; the pairs are the same. */
START_TEST(test_both_curricula)
{
    struct cluster cluster;
    open_with_workers(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 50);
    static const char *const orders[] = {"shuffle", "length", "gap"};
    json_t *rows[3];
    for (int i = 0; i < 3; i++) {
        char *more = sp_xprintf("train.order=%s", orders[i]);
        cluster_create_run(&cluster, orders[i], 7, more);
        for (int k = 0; k < 2; k++) {
            cluster_iterate(&cluster, orders[i], SECONDS);
            check_starts_at(&cluster, orders[i], k, log(2));
        }
        rows[i] = cluster_iteration(&cluster, orders[i], 0);
        free(more);
    }
    for (int i = 1; i < 3; i++) {
        ck_assert_str_eq(cluster_text(rows[0], "pairs_sha256"),
                         cluster_text(rows[i], "pairs_sha256"));
        ck_assert_str_ne(cluster_text(rows[0], "checkpoint_sha256"),
                         cluster_text(rows[i], "checkpoint_sha256"));
    }
    for (int i = 0; i < 3; i++)
        json_decref(rows[i]);
    cluster_close(&cluster);
}
END_TEST

/* ℓ(0) of every loss, with an SFT term that doesn't hide it, and bf16 checkpoints. */
START_TEST(test_every_loss_starts_at_its_value_at_zero)
{
    static const struct {
        const char *name;
        double at_zero;
    } losses[] = {
        {"hinge", 1}, {"exponential", 1}, {"correlation", 1}, {"ipo", 25 /* (1/(2·0.1))² */}};
    struct cluster cluster;
    open_with_workers(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 30);
    for (size_t i = 0; i < SP_COUNT(losses); i++) {
        char *more = sp_xprintf("train.loss=%s train.epochs=1 model.checkpoint_dtype=%s",
                                losses[i].name, i % 2 == 0 ? "bf16" : "f16");
        cluster_create_run(&cluster, losses[i].name, 7, more);
        cluster_iterate(&cluster, losses[i].name, SECONDS);
        check_starts_at(&cluster, losses[i].name, 0, losses[i].at_zero);
        free(more);
    }
    cluster_close(&cluster);
}
END_TEST

/* A published model of another project, with its own tokenizer. */
START_TEST(test_two_iterations_of_tinystories)
{
    struct cluster cluster;
    const char *found = shared_data("models/TinyStories-656K-hf");
    if (found == NULL)
        return;
    char *model = sp_xstrdup(found);
    found = shared_data("datasets/tinystories/tinystories_sft.jsonl");
    if (found == NULL) {
        free(model);
        return;
    }
    char *data = sp_xstrdup(found);
    open_with_workers(&cluster);
    char *more = sp_xprintf("model.base=%s data.train=%s data.train_limit=60 "
                            "data.max_prompt_tokens=128 data.max_sequence_tokens=256 "
                            "generate.max_new_tokens=32 train.learning_rate=1e-5 "
                            "train.micro_batch_tokens=1024 train.epochs=1",
                            model, data);
    cluster_create_run(&cluster, "r", 7, more);
    for (int k = 0; k < 2; k++) {
        cluster_iterate(&cluster, "r", SECONDS);
        check_starts_at(&cluster, "r", k, log(2));
    }
    free(more);
    free(data);
    free(model);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/modes");
    TCase *c = tcase_create("modes");
    tcase_set_timeout(c, 200);
    tcase_add_test(c, test_sft_makes_the_human_answers_likelier);
    tcase_add_test(c, test_dpo_scored_by_generator_and_by_trainer_is_the_same);
    tcase_add_test(c, test_spin_scored_by_the_trainer_is_the_same);
    tcase_add_test(c, test_first_sight_counts_half_of_the_pairs);
    tcase_add_test(c, test_both_curricula);
    tcase_add_test(c, test_every_loss_starts_at_its_value_at_zero);
    tcase_add_test(c, test_two_iterations_of_tinystories);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

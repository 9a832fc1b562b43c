/* A generator with a good token that lies about its answers, among honest ones: it is found out,
 * and the iteration ends with the digests of a calm one. */
#include <check.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/wire.h"
#include "tests/unit/check_main.h"

#define SECONDS 90
#define END_ID 257

/* Takes a lease and answers it with something that could be true. False: no work now. */
static bool lie_once(struct wire *wire, const char *run)
{
    struct proto_lease ask = {.run = run, .max_items = 8, .wait_ms = 500};
    sp_random_secret(&ask.request_id, sizeof(ask.request_id));
    const struct proto_lease_reply *grant = wire_call(wire, PROTO_LEASE, &ask);
    if (grant->lease_id == 0)
        return false;
    static const int32_t ids[] = {65, 66, END_ID};
    struct proto_work_result results[SP_MAX_LEASE_ITEMS];
    for (uint32_t i = 0; i < grant->items_count; i++) {
        const struct proto_work_item *item = &grant->items[i];
        bool sample = item->kind == PROTO_WORK_SAMPLE;
        results[i] = (struct proto_work_result){
            .set = item->set,
            .position = item->position,
            .prompt = item->prompt,
            .sample = item->sample,
            .ids = {.ids = sample ? ids : NULL, .count = sample ? 3 : 0},
            .finish = sample ? PROTO_FINISH_STOP : PROTO_FINISH_NONE,
            .logprob_ids = -2.0f,
            .logprob_a = -20.0f,
            .logprob_b = -20.0f,
        };
    }
    struct proto_submit submit = {.run = grant->run,
                                  .iteration = grant->iteration,
                                  .lease_id = grant->lease_id,
                                  .checkpoint = grant->checkpoint,
                                  .results = results,
                                  .results_count = grant->items_count};
    char name[SP_MAX_RUN_NAME + 1];
    snprintf(name, sizeof(name), "%s", grant->run); /* the reply is the next call's */
    submit.run = name;
    const struct proto_submit_reply *stored = wire_call(wire, PROTO_SUBMIT, &submit);
    return stored->stored > 0;
}

static bool is_quarantined(struct cluster *cluster, const char *name)
{
    json_t *reply = cluster_ctl_ok(cluster, "status", NULL), *worker;
    bool found = false;
    size_t i;
    json_array_foreach(json_object_get(reply, "workers"), i, worker)
    {
        if (strcmp(cluster_text(worker, "name"), name) == 0)
            found = strcmp(cluster_text(worker, "hold"), "quarantined") == 0;
    }
    json_decref(reply);
    return found;
}

static void compare(struct cluster *cluster, const char *a, const char *b)
{
    static const char *const keys[] = {"pairs_sha256", "checkpoint_sha256", "pairs_chain"};
    json_t *one = cluster_iteration(cluster, a, 0), *two = cluster_iteration(cluster, b, 0);
    for (size_t i = 0; i < SP_COUNT(keys); i++)
        ck_assert_str_eq(cluster_text(one, keys[i]), cluster_text(two, keys[i]));
    json_decref(one);
    json_decref(two);
}

START_TEST(test_a_lying_generator_is_found_out)
{
    struct cluster cluster;
    struct wire liar;
    cluster_open(&cluster);
    cluster_restart_with(&cluster, "coordinator.verify_share=1");
    cluster_write_rows(&cluster, "train.jsonl", 0, 60);
    cluster_create_run(&cluster, "calm", 7, "");
    cluster_create_run(&cluster, "poisoned", 7, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "calm", SECONDS);
    /* The liar is first, alone, and the trainer takes what it gives. */
    cluster_end(&cluster.generators[0], SIGTERM);
    wire_open(&liar, &cluster, PROTO_ROLE_GENERATOR, "liar");
    cluster_start_iteration(&cluster, "poisoned");
    uint32_t lies = 0;
    for (int64_t end_ms = sp_now_ms() + 20000; lies < 4 && sp_now_ms() < end_ms;)
        lies += lie_once(&liar, "poisoned");
    ck_assert_uint_gt(lies, 0);
    cluster_start_generator(&cluster, 0);
    cluster_start_generator(&cluster, 1);
    cluster_wait_state(&cluster, "poisoned", "closed", SECONDS);
    ck_assert(is_quarantined(&cluster, "liar"));
    ck_assert(!is_quarantined(&cluster, "generator-0"));
    ck_assert(!is_quarantined(&cluster, "generator-1"));
    ck_assert(!lie_once(&liar, "poisoned"));
    compare(&cluster, "calm", "poisoned");
    json_t *events = cluster_ctl_ok(&cluster, "events", "poisoned", NULL);
    char *text = json_dumps(events, 0);
    ck_assert_ptr_nonnull(strstr(text, "results of quarantined workers are revoked"));
    free(text);
    json_decref(events);
    wire_close(&liar);
    cluster_close(&cluster);
}
END_TEST

/* Found out by an administrator when the checkpoint is made already: the trainer trains again. */
START_TEST(test_quarantine_after_training)
{
    struct cluster cluster;
    struct wire liar;
    cluster_open(&cluster);
    cluster_restart_with(&cluster, "coordinator.verify_share=0");
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    cluster_create_run(&cluster, "calm", 7, "");
    cluster_create_run(&cluster, "poisoned", 7, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "calm", SECONDS);
    cluster_end(&cluster.generators[0], SIGTERM);
    wire_open(&liar, &cluster, PROTO_ROLE_GENERATOR, "liar");
    cluster_start_iteration(&cluster, "poisoned");
    for (int64_t end_ms = sp_now_ms() + 60000;
         strcmp(cluster_state(&cluster, "poisoned"), "evaluating") != 0;) {
        (void)lie_once(&liar, "poisoned");
        ck_assert_msg(sp_now_ms() < end_ms, "not evaluated: %s",
                      cluster_state(&cluster, "poisoned"));
    }
    json_decref(cluster_ctl_ok(&cluster, "quarantine", "liar", NULL));
    cluster_start_generator(&cluster, 0);
    cluster_wait_state(&cluster, "poisoned", "closed", SECONDS);
    compare(&cluster, "calm", "poisoned");
    wire_close(&liar);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/poison");
    TCase *c = tcase_create("poison");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, test_a_lying_generator_is_found_out);
    tcase_add_test(c, test_quarantine_after_training);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

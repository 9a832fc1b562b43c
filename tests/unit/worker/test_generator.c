/* The generator's threads against a coordinator without a store. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "generator/generator.h"
#include "tests/unit/check_main.h"
#include "tests/unit/worker/fake.h"

struct worker {
    struct gen_settings settings;
    struct gen gen;
    struct tn_backend *backend;
    pthread_t thread;
    enum sp_err rc;
    struct sp_error err;
};

static void *run(void *argument)
{
    struct worker *worker = argument;
    worker->rc = gen_run(&worker->gen, worker->backend, &worker->err);
    return NULL;
}

static void start(struct worker *worker, struct fake *fake, int slots, int threads)
{
    struct sp_error err = {0};
    char *text = sp_xprintf("[coordinator]\nurl = %s\ntoken_file = %s/token\nbackoff_min = 2 ms\n"
                            "backoff_max = 10 ms\n[worker]\nname = g\nstate_dir = %s/state\n"
                            "[generate]\nslots = %d\nsubmit_wait = 2 ms\nsubmit_items = 5\n"
                            "stop_timeout = 2 s\n",
                            fake->url, fake->dir, fake->dir, slots);
    char *token = sp_path_join(fake->dir, "token");
    struct tn_backend_options options = {.threads = threads};
    memset(worker, 0, sizeof(*worker));
    ck_assert_int_eq(sp_write_file_durable(token, "a.b", 3, 0600, &err), SP_OK);
    sp_config_init(&gen_settings_spec, &worker->settings);
    enum sp_err rc = sp_config_parse(&gen_settings_spec, text, strlen(text), "generator.conf",
                                     &worker->settings, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    ck_assert_int_eq(worker_settings_finish(&worker->settings.worker, "generator", &err), SP_OK);
    ck_assert_int_eq(tn_open("cpu", &options, &worker->backend, &err), SP_OK);
    gen_init(&worker->gen, &worker->settings);
    pthread_create(&worker->thread, NULL, run, worker);
    free(text);
    free(token);
}

static void stop(struct worker *worker)
{
    gen_stop(&worker->gen, SP_OK);
    pthread_join(worker->thread, NULL);
    ck_assert_msg(worker->rc == SP_OK, "%s", worker->err.text);
    gen_deinit(&worker->gen);
    tn_close(worker->backend);
    sp_config_deinit(&gen_settings_spec, &worker->settings);
}

static void check_results(const struct fake *fake)
{
    for (uint32_t i = 0; i < FAKE_PAIRS; i++) {
        const struct proto_work_result *r = &fake->results[i];
        bool sampled = i % 4 != 3;
        ck_assert_uint_eq(r->position, i);
        ck_assert(isfinite(r->logprob_a) && r->logprob_a < 0);
        ck_assert(isnan(r->logprob_b));
        ck_assert_int_eq(r->ids.count > 0, sampled);
        ck_assert_int_eq(isfinite(r->logprob_ids), sampled);
        if (!sampled)
            ck_assert_uint_eq(r->finish, PROTO_FINISH_NONE);
        else if (r->finish == PROTO_FINISH_STOP)
            ck_assert_int_eq(r->ids.ids[r->ids.count - 1], 1);
        else
            ck_assert_uint_eq(r->ids.count, 8);
    }
}

static bool same_results(const struct fake *a, const struct fake *b)
{
    for (uint32_t i = 0; i < FAKE_PAIRS; i++) {
        const struct proto_work_result *x = &a->results[i], *y = &b->results[i];
        if (x->ids.count != y->ids.count || x->finish != y->finish ||
            (x->ids.count > 0 &&
             memcmp(x->ids.ids, y->ids.ids, x->ids.count * sizeof(int32_t)) != 0) ||
            memcmp(&x->logprob_a, &y->logprob_a, sizeof(float)) != 0 ||
            (x->ids.count > 0 && memcmp(&x->logprob_ids, &y->logprob_ids, sizeof(float)) != 0))
            return false;
    }
    return true;
}

START_TEST(test_slots_threads_and_leases_change_no_bit)
{
    static const int slots[] = {1, 5, 32}, threads[] = {1, 2, 1};
    static struct fake fakes[3];
    for (int i = 0; i < 3; i++) {
        struct worker worker;
        fake_start(&fakes[i], NULL);
        atomic_store(&fakes[i].offer_work, true);
        start(&worker, &fakes[i], slots[i], threads[i]);
        fake_wait_u(&fakes[i].stored, FAKE_PAIRS);
        stop(&worker);
        check_results(&fakes[i]);
        ck_assert(same_results(&fakes[0], &fakes[i]));
    }
    for (int i = 0; i < 3; i++)
        fake_stop(&fakes[i]);
}
END_TEST

START_TEST(test_nothing_is_lost_when_the_coordinator_forgets_and_is_busy)
{
    static struct fake calm, rough;
    struct worker worker;
    fake_start(&calm, NULL);
    atomic_store(&calm.offer_work, true);
    start(&worker, &calm, 4, 1);
    fake_wait_u(&calm.stored, FAKE_PAIRS);
    stop(&worker);
    fake_start(&rough, NULL);
    atomic_store(&rough.offer_work, true);
    start(&worker, &rough, 4, 1);
    for (int i = 0; i < 20 && atomic_load(&rough.stored) < FAKE_PAIRS; i++) {
        atomic_store(&rough.forget, 1);
        atomic_store(&rough.busy, 4);
        sp_sleep_ms(10);
    }
    fake_wait_u(&rough.stored, FAKE_PAIRS);
    stop(&worker);
    ck_assert_uint_gt(rough.hellos, 1);
    ck_assert(same_results(&calm, &rough));
    fake_stop(&calm);
    fake_stop(&rough);
}
END_TEST

START_TEST(test_a_coordinator_that_was_started_again_learns_what_the_leases_are_about)
{
    static struct fake fake;
    struct worker worker;
    fake_start(&fake, NULL);
    atomic_store(&fake.refuse_submits, true); /* so that they last */
    atomic_store(&fake.offer_work, true);
    start(&worker, &fake, 4, 1);
    fake_wait_u(&fake.renewals, 3);
    atomic_store(&fake.forget, 1);
    fake_wait_u(&fake.renewals, 6);
    atomic_store(&fake.refuse_submits, false);
    fake_wait_u(&fake.stored, FAKE_PAIRS);
    stop(&worker);
    ck_assert_uint_gt(fake.leases_named, 0);
    ck_assert_uint_eq(fake.claims_true, fake.leases_named);
    fake_stop(&fake);
}
END_TEST

/* What can't be handed in goes back at once when the generator is told to stop. */
START_TEST(test_a_stop_gives_the_leases_back)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, NULL);
    atomic_store(&fake.refuse_submits, true);
    atomic_store(&fake.offer_work, true);
    start(&worker, &fake, FAKE_PAIRS, 1);
    fake_wait_u(&fake.renewals, 2);
    int64_t end_ms = sp_now_ms() + 10000;
    while (atomic_load(&worker.gen.counters.tokens_generated) == 0 && sp_now_ms() < end_ms)
        sp_sleep_ms(1);
    stop(&worker);
    ck_assert_uint_eq(atomic_load(&fake.stored), 0);
    ck_assert_uint_ge(atomic_load(&fake.returned), 1);
    for (int i = 0; i < FAKE_PAIRS; i++)
        ck_assert_msg(fake.item_state[i] == 0, "item %d is still leased", i);
    fake_stop(&fake);
}
END_TEST

START_TEST(test_a_stop_does_not_wait_for_a_coordinator_that_is_away)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, NULL);
    atomic_store(&fake.offer_work, true);
    start(&worker, &fake, 3, 1);
    fake_wait_u(&fake.stored, 1);
    atomic_store(&fake.busy, 1000000);
    stop(&worker); /* or it would wait for ever */
    fake_stop(&fake);
}
END_TEST

START_TEST(test_a_lost_lease_is_worked_on_by_whoever_gets_it_next)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, NULL);
    atomic_store(&fake.offer_work, true);
    start(&worker, &fake, 2, 1);
    for (unsigned lease = 1; lease <= 6; lease++) {
        atomic_store(&fake.lose_lease, lease);
        sp_sleep_ms(5);
    }
    fake_wait_u(&fake.stored, FAKE_PAIRS);
    stop(&worker);
    check_results(&fake);
    fake_stop(&fake);
}
END_TEST

START_TEST(test_a_run_for_another_backend_is_given_back)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, NULL);
    start(&worker, &fake, 2, 1);
    fake_wait_u(&fake.renewals, 1);
    worker.backend->name = "another"; /* as if it had been opened for one */
    atomic_store(&fake.offer_work, true);
    fake_wait_u(&fake.returned, 1);
    atomic_store(&fake.offer_work, false);
    ck_assert_uint_eq(atomic_load(&fake.stored), 0);
    worker.backend->name = "cpu";
    stop(&worker);
    fake_stop(&fake);
}
END_TEST

/* Weights may take minutes: what the coordinator shows says so. */
START_TEST(test_a_generator_says_that_it_fetches_weights)
{
    struct fake fake;
    struct worker worker;
    fake_start(&fake, NULL);
    atomic_store(&fake.refuse_blobs, true);
    atomic_store(&fake.offer_work, true);
    start(&worker, &fake, 4, 1);
    fake_wait_true(&fake.heard_fetching);
    ck_assert_uint_eq(atomic_load(&fake.stored), 0);
    atomic_store(&fake.refuse_blobs, false);
    fake_wait_u(&fake.stored, FAKE_PAIRS);
    stop(&worker);
    fake_stop(&fake);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("worker/generator");
    TCase *c = tcase_create("generator");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, test_slots_threads_and_leases_change_no_bit);
    tcase_add_test(c, test_nothing_is_lost_when_the_coordinator_forgets_and_is_busy);
    tcase_add_test(c, test_a_coordinator_that_was_started_again_learns_what_the_leases_are_about);
    tcase_add_test(c, test_a_stop_gives_the_leases_back);
    tcase_add_test(c, test_a_stop_does_not_wait_for_a_coordinator_that_is_away);
    tcase_add_test(c, test_a_lost_lease_is_worked_on_by_whoever_gets_it_next);
    tcase_add_test(c, test_a_run_for_another_backend_is_given_back);
    tcase_add_test(c, test_a_generator_says_that_it_fetches_weights);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* How leases end: what counts as a death, what keeps one alive, what late answers change. */
#include "coordinator/core_internal.h"
#include "tests/unit/coordinator/core_fixture.h"

static struct cf fx;
static uint64_t a;

static void open_world(void)
{
    cf_open(&fx, NULL);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
}

static void close_world(void)
{
    cf_close(&fx);
}

static void renew(const uint64_t *leases, uint32_t n)
{
    struct proto_renew body = {
        .worker_id = a, .leases = {.values = leases, .count = n}, .activity = ""};
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &body));
}

/* Leases that a worker holds, as it is shown to people. */
static json_int_t held(const char *name)
{
    json_t *list = coord_workers(fx.core, fx.now);
    json_int_t leases = -1;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *worker = json_array_get(list, i);
        if (strcmp(json_string_value(json_object_get(worker, "name")), name) == 0)
            leases = json_integer_value(json_object_get(worker, "leases"));
    }
    json_decref(list);
    return leases;
}

/* One renewal may have been on its way when the lease was granted; two were not. */
START_TEST(two_renewals_without_it_drop_a_lease)
{
    uint64_t ids[2] = {cf_lease(&fx, a, 1)->lease_id, cf_lease(&fx, a, 1)->lease_id};
    renew(ids, 2);
    renew(ids, 1);
    ck_assert_int_eq(held("a"), 2);
    renew(ids, 2); /* it was only late */
    renew(ids, 1);
    ck_assert_int_eq(held("a"), 2);
    renew(ids, 1);
    ck_assert_int_eq(held("a"), 1);
}
END_TEST

static void let_die(void)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 1);
    renew(&lease->lease_id, 1);
    cf_tick(&fx, fx.times.lease_ms + 100);
}

/* Whoever resumes without a skip wants it tried again as often as before. */
START_TEST(deaths_are_counted_anew_after_a_pause)
{
    for (int i = 0; i < COORD_MAX_DEATHS; i++) {
        CF_STATE(&fx, COORD_RUNNING);
        let_die();
    }
    CF_STATE(&fx, COORD_PAUSED);
    CF_OK(cf_verb(&fx, "resume", ""));
    for (int i = 0; i < COORD_MAX_DEATHS; i++) {
        CF_STATE(&fx, COORD_RUNNING);
        let_die();
    }
    CF_STATE(&fx, COORD_PAUSED);
}
END_TEST

/* A grant that its worker never got is no death, for the worker lives and says so. _i: but one that
 * said hello anew meanwhile may have dropped it, or died of it. */
START_TEST(an_unconfirmed_grant_is_a_death_where_its_worker_came_anew)
{
    struct proto_hello hello = cf_hello_of(77);
    int64_t before_ms = fx.times.confirm_ms - fx.times.reclaim_ms / 2;
    for (int i = 0; i < COORD_MAX_DEATHS; i++) {
        CF_STATE(&fx, COORD_RUNNING);
        const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &hello);
        a = ((const struct proto_hello_reply *)reply->body)->worker_id;
        cf_tick(&fx, 50);
        cf_lease(&fx, a, 1);
        cf_tick(&fx, before_ms);
        if (_i == 1)
            CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &hello));
        else
            renew(NULL, 0);
        cf_tick(&fx, fx.times.confirm_ms - before_ms + 100);
        ck_assert_int_eq(held("x"), 0);
    }
    CF_STATE(&fx, _i == 1 ? COORD_PAUSED : COORD_RUNNING);
}
END_TEST

/* Answers confirm a grant as a renewal does. */
START_TEST(answers_keep_the_rest_of_a_lease)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 2);
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, 1)->stored, 1);
    cf_tick(&fx, fx.times.confirm_ms + 1000);
    ck_assert_int_eq(held("a"), 1);
}
END_TEST

/* The last late answer of a lease that is over takes nothing from those that are not. */
START_TEST(late_answers_leave_other_leases_alone)
{
    const struct proto_lease_reply *late = cf_lease(&fx, a, 2);
    renew(&late->lease_id, 1);
    cf_tick(&fx, fx.times.lease_ms + 100);
    ck_assert_int_eq(held("a"), 0);
    const struct proto_lease_reply *next = cf_lease(&fx, a, 1);
    ck_assert_uint_eq(cf_submit(&fx, a, late, 0, 2)->stored, 2);
    ck_assert_int_eq(held("a"), 1);
    renew(&next->lease_id, 1);
    cf_tick(&fx, fx.times.lease_ms + 100);
    ck_assert_int_eq(held("a"), 0);
    cf_work_all(&fx, a); /* and the rest is handed out */
    ck_assert(set_complete(&core_run(fx.core, WORLD_RUN)->iteration->sets[PROTO_SET_TRAIN]));
}
END_TEST

/* What a lease that came over a restart took says nothing about how long leases take. */
START_TEST(a_claimed_lease_is_not_measured)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 1);
    uint64_t position;
    struct proto_claim claim = cf_claim_of(lease, &position);
    cf_restart(&fx);
    a = cf_hello_claiming(&fx, "a", &claim, 1)->worker_id;
    ck_assert_int_eq(held("a"), 1);
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, 1)->stored, 1);
    ck_assert_int_eq(held("a"), 0);
    ck_assert_uint_eq(core_run(fx.core, WORLD_RUN)->duration_count, 0);
    cf_tick(&fx, fx.times.reclaim_ms);
    cf_submit(&fx, a, cf_lease(&fx, a, 1), 0, 1);
    ck_assert_uint_eq(core_run(fx.core, WORLD_RUN)->duration_count, 1);
}
END_TEST

/* How long is long depends on how long leases take: twice the median. */
START_TEST(a_straggler_is_one_after_two_medians)
{
    uint64_t trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    const struct proto_trainer_lease_reply *grant = cf_train(&fx, trainer);
    uint64_t b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    const struct proto_lease_reply *slow = cf_lease(&fx, a, 1);
    int64_t median_ms = fx.times.poll_ms / 3; /* 2 of them fit into a poll, 3 do not */
    ck_assert_int_gt(median_ms, fx.times.straggler_floor_ms);
    for (int i = 1; i < CF_TRAIN; i++) {
        const struct proto_lease_reply *lease = cf_lease(&fx, b, 1);
        renew(&slow->lease_id, 1);
        cf_tick(&fx, median_ms);
        cf_submit(&fx, b, lease, 0, 1);
    }
    cf_work_all(&fx, b); /* the other sets */
    renew(&slow->lease_id, 1);
    ck_assert(!cf_fetch(&fx, trainer, grant, 0, 4)->there);
    uint64_t poll = cf_poll(&fx, b, 1, (uint32_t)fx.times.poll_ms);
    cf_tick(&fx, 2 * median_ms - 500);
    renew(&slow->lease_id, 1);
    ck_assert(!cf_reply(&fx, poll)->there);
    cf_tick(&fx, 1000);
    ck_assert(cf_reply(&fx, poll)->there);
    const struct proto_lease_reply *second = cf_reply(&fx, poll)->body;
    ck_assert_uint_eq(second->items_count, 1);
    ck_assert_uint_eq(second->items[0].position, slow->items[0].position);
}
END_TEST

/* Who comes back when the work is given out already asks for work like everybody. */
START_TEST(a_claim_that_comes_late_is_not_taken)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 1);
    uint64_t position;
    struct proto_claim claim = cf_claim_of(lease, &position);
    cf_restart(&fx);
    cf_tick(&fx, fx.times.reclaim_ms);
    ck_assert_uint_eq(cf_hello_claiming(&fx, "a", &claim, 1)->leases_lost.count, 1);
    ck_assert_int_eq(held("a"), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_lapses");
    TCase *tc = tcase_create("lapses");
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, two_renewals_without_it_drop_a_lease);
    tcase_add_test(tc, deaths_are_counted_anew_after_a_pause);
    tcase_add_loop_test(tc, an_unconfirmed_grant_is_a_death_where_its_worker_came_anew, 0, 2);
    tcase_add_test(tc, answers_keep_the_rest_of_a_lease);
    tcase_add_test(tc, late_answers_leave_other_leases_alone);
    tcase_add_test(tc, a_claimed_lease_is_not_measured);
    tcase_add_test(tc, a_straggler_is_one_after_two_medians);
    tcase_add_test(tc, a_claim_that_comes_late_is_not_taken);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* Leases that outlive the coordinator's process: workers claim them in their hello. */
#include "tests/unit/coordinator/core_fixture.h"

static struct cf fx;
static uint64_t a;
static const struct proto_lease_reply *lease; /* a's, of three items */
static uint64_t positions[3];
static struct proto_claim claim; /* of it */

static void open_world(void)
{
    cf_open(&fx, NULL);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    lease = cf_lease(&fx, a, 3);
    ck_assert_uint_eq(lease->items_count, 3);
    claim = cf_claim_of(lease, positions);
}

static void close_world(void)
{
    cf_close(&fx);
}

/* Says hello with one claim; whether the lease is the worker's. */
static bool takes(const char *name, struct proto_claim made)
{
    const struct proto_hello_reply *reply = cf_hello_claiming(&fx, name, &made, 1);
    a = reply->worker_id;
    return reply->leases_lost.count == 0;
}

/* Takes all there is, as b; how many of a's three are among it. */
static uint32_t rest_holds(void)
{
    uint64_t b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    uint32_t found = 0;
    for (const struct cf_reply *reply;
         (reply = cf_reply(&fx, cf_poll(&fx, b, 64, 0)))->there && reply->status == SP_OK;) {
        const struct proto_lease_reply *got = reply->body;
        if (got->lease_id == 0 || got->items[0].set != PROTO_SET_TRAIN)
            break;
        for (uint32_t i = 0; i < got->items_count; i++) {
            for (int k = 0; k < 3; k++)
                found += got->items[i].position == positions[k];
        }
        cf_submit(&fx, b, got, 0, got->items_count);
    }
    return found;
}

START_TEST(work_goes_on_where_it_was)
{
    cf_submit(&fx, a, lease, 0, 1);
    cf_restart(&fx);
    ck_assert(takes("a", claim));
    /* Nothing that it has not claimed is leased before the others had time to come back. */
    uint64_t b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    uint64_t poll = cf_poll(&fx, b, 1, 20000);
    cf_tick(&fx, fx.times.reclaim_ms - 100);
    ck_assert(!cf_reply(&fx, poll)->there);
    const struct cf_reply *why = cf_verb(&fx, "why", "");
    CF_OK(why);
    ck_assert_ptr_nonnull(strstr(why->json, "is given out in 0.1 s"));
    cf_tick(&fx, 100);
    CF_OK(cf_reply(&fx, poll));
    ck_assert_uint_eq(rest_holds(), 0);
    /* It lives as any other does, and ends. */
    struct proto_renew renew = {
        .worker_id = a, .leases = {.values = &claim.lease_id, .count = 1}, .activity = ""};
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_renew_reply *)reply->body)->lost.count, 0);
    const struct proto_submit_reply *stored = cf_submit(&fx, a, lease, 1, 2);
    ck_assert_uint_eq(stored->stored, 2);
    ck_assert_uint_eq(stored->duplicates, 0);
    reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_renew_reply *)reply->body)->lost.count, 1);
}
END_TEST

START_TEST(a_claimed_lease_dies_as_others_do)
{
    cf_restart(&fx);
    ck_assert(takes("a", claim));
    cf_tick(&fx, fx.times.lease_ms - 100);
    uint32_t before = rest_holds();
    cf_tick(&fx, 200);
    ck_assert_uint_eq(before + rest_holds(), 3);
    ck_assert_uint_eq(before, 0);
}
END_TEST

START_TEST(what_nobody_claims_is_leased_after_ten_seconds)
{
    cf_restart(&fx);
    ck_assert_uint_eq(rest_holds(), 0);
    cf_tick(&fx, fx.times.reclaim_ms);
    ck_assert_uint_eq(rest_holds(), 3);
    ck_assert(!takes("a", claim)); /* too late */
}
END_TEST

START_TEST(an_iteration_from_after_the_restart_waits_for_nobody)
{
    CF_OK(cf_verb(&fx, "cancel", ""));
    cf_restart(&fx);
    CF_OK(cf_verb(&fx, "start", "{\"fresh\": true}"));
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    cf_lease(&fx, a, 1);
}
END_TEST

START_TEST(the_same_key_is_taken_once)
{
    cf_submit(&fx, a, lease, 0, 1);
    cf_restart(&fx);
    uint64_t twice[4] = {positions[0], positions[1], positions[1], UINT64_MAX};
    struct proto_claim one = claim;
    one.positions = (struct proto_u64s){.values = twice, .count = 4}; /* one stored, one twice */
    ck_assert(takes("a", one));
    struct proto_claim other = claim; /* one stored, one with a, one free */
    other.lease_id++;
    ck_assert(takes("c", other));
    other.lease_id++; /* nothing is left of it */
    ck_assert(!takes("d", other));
    cf_tick(&fx, fx.times.reclaim_ms);
    ck_assert_uint_eq(rest_holds(), 0);
}
END_TEST

/* A liar gets nothing by it. */
START_TEST(false_claims_are_lost)
{
    struct proto_claim wrong = claim;
    uint64_t far = CF_TRAIN;
    cf_restart(&fx);
    switch (_i) {
    case 0:
        wrong.run = "another";
        break;
    case 1:
        wrong.iteration++;
        break;
    case 2:
        wrong.set = 8;
        break;
    case 3: /* not worked on in this state */
        wrong.set = PROTO_SET_TRAINED;
        break;
    case 4:
        wrong.checkpoint.bytes[0] ^= 1;
        break;
    case 5:
        wrong.positions = (struct proto_u64s){.values = &far, .count = 1};
        break;
    case 6:
        wrong.positions.count = 0;
        break;
    case 7:
        wrong.lease_id = 0;
        break;
    case 8: /* an id that this process will give */
        wrong.lease_id = cf_hello(&fx, PROTO_ROLE_GENERATOR, "x") + 3;
        break;
    case 9:
        fx.class_name = "cpu another";
        break;
    case 10:
        fx.runs = "another";
        break;
    case 11:
        cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
        CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"a\"}"));
        break;
    case 12: /* a removed run had this name */
        wrong.born = lease->born + 1;
        break;
    }
    ck_assert(!takes("a", wrong));
    fx.class_name = "cpu class";
    fx.runs = NULL;
    if (_i != 11)
        ck_assert(takes("a", claim)); /* the true one still counts */
}
END_TEST

/* Run, iteration, keys and weights may all be the same as a removed run's of this name. */
START_TEST(what_a_removed_run_has_sampled_is_refused)
{
    struct proto_lease_reply of_another = *lease, of_old_version = *lease;
    ck_assert_uint_ne(lease->born, 0);
    of_another.born++;
    of_old_version.born = 0;
    ck_assert_uint_eq(cf_submit(&fx, a, &of_another, 0, 3)->refused, 3);
    ck_assert_uint_eq(cf_submit(&fx, a, &of_old_version, 0, 1)->stored, 1);
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, 3)->stored, 2);
}
END_TEST

/* Nor is a trainer's snapshot of it used: skipped and revoked pairs are not in its plan. */
START_TEST(attempts_of_a_removed_run_are_others)
{
    uint64_t trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    const struct proto_trainer_lease_reply *grant = cf_train(&fx, trainer);
    ck_assert_ptr_nonnull(grant);
    ck_assert_uint_eq(grant->attempt >> 20, lease->born);
}
END_TEST

START_TEST(one_worker_has_a_limit)
{
    cf_restart_with(&fx, (struct coord_options){.max_claimed = 2});
    struct proto_claim claims[2] = {claim, claim};
    claims[1].lease_id++;
    struct proto_claim behind[3] = {claim, claim, claim}; /* two false ones, and a true one */
    behind[0].run = behind[1].run = "another";
    behind[0].lease_id += 7;
    behind[1].lease_id += 8;
    ck_assert_uint_eq(cf_hello_claiming(&fx, "a", behind, 3)->leases_lost.count, 3);
    ck_assert_uint_eq(cf_hello_claiming(&fx, "a", claims, 2)->leases_lost.count, 1);
    cf_tick(&fx, fx.times.reclaim_ms);
    ck_assert_uint_eq(rest_holds(), 1);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_claims");
    TCase *tc = tcase_create("claims");
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, work_goes_on_where_it_was);
    tcase_add_test(tc, a_claimed_lease_dies_as_others_do);
    tcase_add_test(tc, what_nobody_claims_is_leased_after_ten_seconds);
    tcase_add_test(tc, an_iteration_from_after_the_restart_waits_for_nobody);
    tcase_add_test(tc, the_same_key_is_taken_once);
    tcase_add_loop_test(tc, false_claims_are_lost, 0, 13);
    tcase_add_test(tc, what_a_removed_run_has_sampled_is_refused);
    tcase_add_test(tc, attempts_of_a_removed_run_are_others);
    tcase_add_test(tc, one_worker_has_a_limit);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

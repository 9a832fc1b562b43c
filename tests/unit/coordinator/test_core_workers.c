/* Workers: who has a name, and what is said of them. */
#include "common/base/json.h"
#include "common/base/limits.h"
#include "coordinator/core_internal.h"
#include "tests/unit/coordinator/core_fixture.h"

static struct cf fx;

static void open_world(void)
{
    cf_open(&fx, NULL);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
}

static void close_world(void)
{
    cf_close(&fx);
}

START_TEST(a_replaced_process_is_turned_away)
{
    struct proto_hello old = cf_hello_of(7), new = cf_hello_of(8);
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &old));
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &old)); /* a reconnect */
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &new);
    CF_OK(reply);
    cf_lease(&fx, ((const struct proto_hello_reply *)reply->body)->worker_id, 1);
    CF_FAILS(SP_EEXIST, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &old));
    CF_FAILS(SP_EDENIED, cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_HELLO, &new));
    new.role = PROTO_ROLE_ADMIN;
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_ADMIN, PROTO_HELLO, &new));
    new.role = PROTO_ROLE_GENERATOR;
    new.name = "";
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &new));
}
END_TEST

START_TEST(names_have_a_limit)
{
    struct proto_hello old = cf_hello_of(7), new = cf_hello_of(8);
    char name[16];
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &old));
    for (int i = 0; fx.core->names.count < SP_MAX_WORKER_NAMES; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        sp_names_add(&fx.core->names, name);
    }
    new.name = "y";
    CF_FAILS(SP_ELIMIT, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &new));
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &old)); /* known ones come back */
    new.name = name;
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &new));
}
END_TEST

/* The hello of a process that died before is late on the network, and takes the name: nothing
 * follows it, so the living one gets its name back. */
START_TEST(a_late_hello_of_the_dead_takes_no_name_for_good)
{
    const struct proto_hello alive = cf_hello_of(8), dead = cf_hello_of(7);
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &alive));
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &dead));
    CF_FAILS(SP_EUNAVAIL, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &alive));
    cf_tick(&fx, fx.times.reclaim_ms);
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &alive);
    CF_OK(reply);
    cf_lease(&fx, ((const struct proto_hello_reply *)reply->body)->worker_id, 1);
    CF_FAILS(SP_EEXIST, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &dead));
}
END_TEST

/* Nobody makes the coordinator look through millions of leases. */
START_TEST(a_worker_names_so_many_leases_and_no_more)
{
    static uint64_t many[SP_MAX_LISTED_LEASES + 1];
    struct proto_hello hello = cf_hello_of(1);
    hello.leases = (struct proto_u64s){many, SP_MAX_LISTED_LEASES + 1};
    CF_FAILS(SP_ELIMIT, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &hello));
    hello.leases.count--;
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &hello);
    CF_OK(reply);
    struct proto_renew renew = {.worker_id =
                                    ((const struct proto_hello_reply *)reply->body)->worker_id,
                                .leases = {many, SP_MAX_LISTED_LEASES + 1},
                                .activity = ""};
    CF_FAILS(SP_ELIMIT, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew));
    renew.leases.count--;
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew));
}
END_TEST

/* The line of `spinctl workers` about the only worker. */
static json_t *line(void)
{
    const struct cf_reply *reply = cf_verb(&fx, "workers", "");
    struct sp_error err;
    json_t *json;
    CF_OK(reply);
    ck_assert_int_eq(sp_json_parse(reply->json, strlen(reply->json), "workers", &json, &err),
                     SP_OK);
    json_t *worker = json_incref(json_array_get(json_object_get(json, "workers"), 0));
    json_decref(json);
    return worker;
}

static void expect_usage(double used, double total, double busy) /* below 0: null */
{
    static const char *const keys[] = {"memory_used", "memory_total", "busy"};
    const double expected[] = {used, total, busy};
    json_t *worker = line();
    for (int i = 0; i < 3; i++) {
        const json_t *value = json_object_get(worker, keys[i]);
        ck_assert_ptr_nonnull(value);
        ck_assert_msg(expected[i] < 0 ? json_is_null(value)
                                      : json_number_value(value) == expected[i],
                      "%s", keys[i]);
    }
    json_decref(worker);
}

START_TEST(a_generator_says_how_full_and_busy_its_device_is)
{
    struct proto_renew renew = {.worker_id = cf_hello(&fx, PROTO_ROLE_GENERATOR, "g"),
                                .activity = ""};
    expect_usage(-1, -1, -1);
    renew.memory_used = 5u << 20;
    renew.memory_total = 7u << 20;
    renew.busy = 0.25;
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew));
    expect_usage(5 << 20, 7 << 20, 0.25);
    const double nonsense[] = {NAN, -0.5, 1.5, INFINITY};
    for (size_t i = 0; i < SP_COUNT(nonsense); i++) {
        renew.busy = nonsense[i];
        renew.memory_used = UINT64_MAX;
        CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew));
        expect_usage((double)INT64_MAX, 7 << 20, -1);
    }
    renew.memory_total = 0; /* one of an older version says nothing */
    renew.busy = 0;
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew));
    expect_usage(-1, -1, -1);
}
END_TEST

START_TEST(so_does_a_trainer)
{
    uint64_t trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    struct proto_trainer_renew renew = {.worker_id = trainer,
                                        .run = WORLD_RUN,
                                        .iteration = lease->iteration,
                                        .epoch = lease->epoch,
                                        .activity = "",
                                        .memory_used = 1,
                                        .memory_total = 2,
                                        .busy = 1};
    CF_OK(cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_RENEW, &renew));
    expect_usage(1, 2, 1);
}
END_TEST

/* Given back as it is, a lease may come and go; where the weights are to blame, five times. */
START_TEST(what_the_weights_cannot_answer_pauses)
{
    uint64_t a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    struct proto_lease_return back = {.worker_id = a, .leases.count = 1};
    cf_tick(&fx, fx.times.fair_ms);
    for (int i = 0; i < 12; i++) {
        const struct proto_lease_reply *lease = cf_lease(&fx, a, 2);
        back.leases.values = &lease->lease_id;
        back.failure = i < 7 ? "" : "logits are not finite";
        CF_STATE(&fx, COORD_RUNNING);
        CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_LEASE_RETURN, &back));
    }
    CF_STATE(&fx, COORD_PAUSED);
    ck_assert_msg(strstr(cf_reason(&fx), "came back 5 times (logits are not finite): `spinctl "),
                  "%s", cf_reason(&fx));
}
END_TEST

/* One that was there and is not heard of any more is named: it has said hello. */
START_TEST(a_silent_worker_is_named)
{
    const struct cf_reply *why = cf_verb(&fx, "why", "");
    CF_OK(why);
    ck_assert_ptr_nonnull(strstr(why->json, "a generator: none has said hello"));
    cf_hello(&fx, PROTO_ROLE_GENERATOR, "first");
    cf_tick(&fx, 1000);
    cf_hello(&fx, PROTO_ROLE_GENERATOR, "second");
    cf_tick(&fx, fx.times.worker_gone_ms + 100);
    why = cf_verb(&fx, "why", "");
    CF_OK(why);
    ck_assert_ptr_nonnull(
        strstr(why->json, "a generator: none is there; second was the last to be heard of"));
    ck_assert_ptr_nonnull(strstr(why->json, "a trainer: none has said hello"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_workers");
    TCase *tc = tcase_create("workers");
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, a_replaced_process_is_turned_away);
    tcase_add_test(tc, names_have_a_limit);
    tcase_add_test(tc, a_silent_worker_is_named);
    tcase_add_test(tc, a_late_hello_of_the_dead_takes_no_name_for_good);
    tcase_add_test(tc, a_worker_names_so_many_leases_and_no_more);
    tcase_add_test(tc, a_generator_says_how_full_and_busy_its_device_is);
    tcase_add_test(tc, so_does_a_trainer);
    tcase_add_test(tc, what_the_weights_cannot_answer_pauses);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

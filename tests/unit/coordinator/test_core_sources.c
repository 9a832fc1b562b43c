/* Who is told where to get chunks from, and with which ticket. What the choice itself does is in
 * test_swarm. */
#include "proto/ticket.h"
#include "tests/unit/coordinator/core_fixture.h"

#define CHUNKS 8

static struct cf fx;
static struct sp_digest manifest; /* of the opponent's weights */
static const uint8_t none[1];

static void open_world(void)
{
    cf_open(&fx, NULL);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
}

static void close_world(void)
{
    cf_close(&fx);
}

/* A generator that gives chunks, with these weights already or without. */
static const struct proto_hello_reply *hello(const char *name, const char *serve, bool holds)
{
    struct proto_held_weights held = {.manifest = manifest, .chunks = CHUNKS};
    struct proto_hello ask = {.role = PROTO_ROLE_GENERATOR,
                              .name = name,
                              .instance = ++fx.instances,
                              .host = "host",
                              .device = "",
                              .version = "1",
                              .numerics_class = fx.class_name,
                              .serve = serve,
                              .serve_name = "gpu",
                              .serve_slots = 1,
                              .held = &held,
                              .held_count = holds};
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &ask);
    CF_OK(reply);
    return reply->body;
}

/* Has a lease, and so a right to the weights. */
static uint64_t with_lease(const char *name)
{
    uint64_t worker = cf_hello(&fx, PROTO_ROLE_GENERATOR, name);
    const struct proto_lease_reply *lease = cf_lease(&fx, worker, 1);
    manifest = lease->manifest;
    return worker;
}

static uint64_t send_ask(uint64_t worker, uint32_t outcome, uint32_t wait_ms)
{
    struct proto_blob_sources ask = {.worker_id = worker,
                                     .manifest = manifest,
                                     .chunks = CHUNKS,
                                     .have = {.data = none, .length = 1},
                                     .outcome = outcome,
                                     .wait_ms = wait_ms};
    return cf_send(&fx, PROTO_ROLE_GENERATOR, PROTO_BLOB_SOURCES, &ask);
}

static const struct proto_blob_sources_reply *ask(uint64_t worker, uint32_t outcome)
{
    uint64_t handle = send_ask(worker, outcome, 0);
    if (!cf_reply(&fx, handle)->there)
        cf_tick(&fx, 50);
    CF_OK(cf_reply(&fx, handle));
    return cf_reply(&fx, handle)->body;
}

START_TEST(without_givers_nothing_changes)
{
    uint64_t a = with_lease("a");
    ck_assert(ask(a, 0)->alone);
}
END_TEST

START_TEST(a_ticket_for_the_source)
{
    struct sp_digest key;
    uint64_t a = with_lease("a");
    const struct proto_hello_reply *giver = hello("g", "tls+tcp://g:7072", true);
    ck_assert(giver->sources);
    ck_assert_uint_eq(giver->serve_key.length, SP_DIGEST_BYTES);
    const struct proto_blob_sources_reply *reply = ask(a, 0);
    ck_assert(!reply->alone && !reply->wait);
    ck_assert_uint_eq(reply->source, giver->worker_id);
    ck_assert_str_eq(reply->url, "tls+tcp://g:7072");
    ck_assert_str_eq(reply->name, "gpu");
    ck_assert_uint_lt(reply->index, CHUNKS);
    memcpy(key.bytes, giver->serve_key.data, SP_DIGEST_BYTES);
    uint64_t now = giver->clock_ms;
    ck_assert(proto_ticket_is_good(&key, &manifest, reply->expires_ms, reply->ticket, now));
    ck_assert(!proto_ticket_is_good(&key, &manifest, reply->expires_ms, reply->ticket,
                                    now + (uint64_t)fx.times.ticket_ms + 1000));
    /* Another giver's key is no good for it. */
    memcpy(key.bytes, hello("h", "tls+tcp://h:7072", false)->serve_key.data, SP_DIGEST_BYTES);
    ck_assert(!proto_ticket_is_good(&key, &manifest, reply->expires_ms, reply->ticket, now));
}
END_TEST

START_TEST(not_without_a_lease)
{
    with_lease("a");
    hello("g", "tls+tcp://g:7072", true);
    fx.token_id = "another";
    uint64_t b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    CF_FAILS(SP_ESTALE, cf_reply(&fx, send_ask(b, 0, 0)));
    fx.token_id = NULL;
    CF_FAILS(SP_ESTALE, cf_reply(&fx, send_ask(b, 0, 0))); /* it is not this token's worker */
}
END_TEST

START_TEST(trainers_may_have_all)
{
    with_lease("a");
    const struct proto_hello_reply *giver = hello("g", "tls+tcp://g:7072", true);
    uint64_t id = giver->worker_id;
    struct proto_blob_sources sources = {.worker_id = cf_hello(&fx, PROTO_ROLE_TRAINER, "t"),
                                         .manifest = manifest,
                                         .chunks = CHUNKS,
                                         .have = {.data = none, .length = 1}};
    const struct cf_reply *reply =
        cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_BLOB_SOURCES, &sources);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_blob_sources_reply *)reply->body)->source, id);
}
END_TEST

START_TEST(nonsense_is_refused)
{
    uint64_t a = with_lease("a");
    struct proto_blob_sources bad = {
        .worker_id = a, .manifest = manifest, .chunks = 9, .have = {.data = none, .length = 1}};
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_BLOB_SOURCES, &bad));
    bad.chunks = UINT32_MAX;
    bad.have.length = 0;
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_BLOB_SOURCES, &bad));
    bad = (struct proto_blob_sources){.worker_id = a,
                                      .manifest = manifest,
                                      .chunks = CHUNKS,
                                      .have = {.data = none, .length = 1},
                                      .outcome = 4};
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_BLOB_SOURCES, &bad));
    struct proto_hello plain = {.role = PROTO_ROLE_GENERATOR,
                                .name = "p",
                                .instance = 99,
                                .host = "",
                                .device = "",
                                .version = "1",
                                .numerics_class = fx.class_name,
                                .serve = "tcp://10.0.0.1:1"};
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &plain));
}
END_TEST

/* Two are served, the third waits until one of them is done. */
START_TEST(held_until_there_is_something)
{
    uint64_t a = with_lease("a"), b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    const struct proto_hello_reply *giver = hello("g", "tls+tcp://g:7072", true);
    uint64_t c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    uint64_t d = cf_hello(&fx, PROTO_ROLE_GENERATOR, "d");
    ck_assert_uint_eq(ask(a, 0)->source, giver->worker_id);
    ck_assert_uint_eq(ask(b, 0)->source, 0); /* the coordinator's two places */
    ck_assert_uint_eq(ask(c, 0)->source, 0);
    uint64_t waiting = send_ask(d, 0, 5000);
    ck_assert(!cf_reply(&fx, waiting)->there);
    send_ask(a, 0, 0);
    cf_tick(&fx, 50);
    CF_OK(cf_reply(&fx, waiting));
    const struct proto_blob_sources_reply *reply = cf_reply(&fx, waiting)->body;
    ck_assert(!reply->wait && !reply->alone);
    /* The one before is answered when the same worker asks again, and in time. */
    uint64_t first = send_ask(d, 0, 5000), second = send_ask(d, 0, 5000);
    ck_assert(cf_reply(&fx, first)->there);
    cf_tick(&fx, 6000);
    ck_assert(cf_reply(&fx, second)->there);
}
END_TEST

/* A giver whose token is revoked, or that is quarantined, is nobody's source. */
START_TEST(givers_that_are_no_more)
{
    uint64_t a = with_lease("a");
    fx.token_id = "of g";
    hello("g", "tls+tcp://g:7072", true);
    fx.token_id = "of h";
    hello("h", "tls+tcp://h:7072", true);
    fx.token_id = NULL;
    ck_assert_uint_ne(ask(a, 0)->source, 0);
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"h\"}"));
    struct coord_actions actions = {0};
    coord_revoke_token(fx.core, "of g", &actions);
    coord_actions_deinit(&actions);
    ck_assert(ask(a, 0)->alone);
}
END_TEST

/* After a restart its hello says what it has. */
START_TEST(known_again_after_a_restart)
{
    with_lease("a");
    hello("g", "tls+tcp://g:7072", true);
    cf_restart(&fx);
    cf_tick(&fx, fx.times.reclaim_ms);
    const struct proto_hello_reply *giver = hello("g", "tls+tcp://g:7072", true);
    uint64_t id = giver->worker_id;
    uint64_t a = with_lease("a2");
    ck_assert_uint_eq(ask(a, 0)->source, id);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_sources");
    TCase *t = tcase_create("sources");
    tcase_add_checked_fixture(t, open_world, close_world);
    tcase_add_test(t, without_givers_nothing_changes);
    tcase_add_test(t, a_ticket_for_the_source);
    tcase_add_test(t, not_without_a_lease);
    tcase_add_test(t, trainers_may_have_all);
    tcase_add_test(t, nonsense_is_refused);
    tcase_add_test(t, held_until_there_is_something);
    tcase_add_test(t, givers_that_are_no_more);
    tcase_add_test(t, known_again_after_a_restart);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

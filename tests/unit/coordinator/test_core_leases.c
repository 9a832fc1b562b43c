/* Leases and scheduling: who gets what, for how long, and what becomes of it. */
#include "tests/unit/coordinator/core_fixture.h"

static struct cf fx;
static uint64_t a, b, c;

static void start_run(const char *settings)
{
    cf_open(&fx, settings);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
}

static void open_world(void)
{
    start_run(NULL);
}

static void close_world(void)
{
    cf_close(&fx);
}

static const struct proto_renew_reply *renew(uint64_t worker, const uint64_t *leases, uint32_t n)
{
    struct proto_renew body = {
        .worker_id = worker, .leases = {.values = leases, .count = n}, .activity = "testing"};
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &body);
    CF_OK(reply);
    return reply->body;
}

static bool holds(const struct proto_lease_reply *lease, uint64_t position)
{
    for (uint32_t i = 0; i < lease->items_count; i++) {
        if (lease->items[i].position == position)
            return true;
    }
    return false;
}

static uint32_t roots_that_are(const struct sp_digest *manifest)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < fx.root_count; i++)
        found += sp_digest_equal(&fx.roots[i], manifest);
    return found;
}

/* By the clock, and by `spinctl gc`; one at a time; with the weights of every lease. */
START_TEST(nothing_in_use_is_collected)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 2);
    struct sp_digest manifest = lease->manifest;
    uint64_t id = lease->lease_id;
    const struct cf_reply *gc;
    cf_send(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN,
            &(struct proto_admin){.verb = "gc", .run = "", .args = ""});
    ck_assert_uint_eq(fx.collections, 1);
    ck_assert(fx.retain);
    /* base, accepted and opponent are one checkpoint here; the fourth is the lease */
    ck_assert_uint_eq(roots_that_are(&manifest), 4);
    gc = cf_verb(&fx, "gc", "");
    ck_assert_int_eq(gc->status, SP_EUNAVAIL);
    cf_collected(&fx);
    /* A lease that was given back is remembered, and its worker may still be loading. */
    struct proto_lease_return back = {.worker_id = a, .leases = {.values = &id, .count = 1}};
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_LEASE_RETURN, &back));
    cf_send(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN,
            &(struct proto_admin){.verb = "gc", .run = "", .args = ""});
    ck_assert_uint_eq(fx.collections, 2);
    ck_assert_uint_eq(roots_that_are(&manifest), 4);
    cf_collected(&fx);
    uint32_t before = fx.collections;
    cf_tick(&fx, fx.times.collect_ms);
    ck_assert_uint_eq(fx.collections, before + 1);
    ck_assert(!fx.retain);
    cf_tick(&fx, 2 * fx.times.collect_ms);
    ck_assert_uint_eq(fx.collections, before + 1); /* the one before is not done */
    cf_collected(&fx);
    cf_tick(&fx, fx.times.collect_ms);
    ck_assert_uint_eq(fx.collections, before + 2);
    ck_assert_uint_eq(roots_that_are(&manifest), 3); /* the lease is forgotten */
}
END_TEST

START_TEST(retried_request_gets_its_grant)
{
    struct proto_lease ask = {.worker_id = a, .request_id = 99, .run = "", .max_items = 3};
    const struct cf_reply *one = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_LEASE, &ask);
    const struct cf_reply *two = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_LEASE, &ask);
    CF_OK(one);
    CF_OK(two);
    const struct proto_lease_reply *first = one->body, *second = two->body;
    ck_assert_uint_eq(first->lease_id, second->lease_id);
    ck_assert_uint_eq(first->items_count, second->items_count);
    ck_assert_uint_eq(first->items[0].position, second->items[0].position);
}
END_TEST

START_TEST(unconfirmed_grant_lapses)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    cf_tick(&fx, fx.times.confirm_ms - 100);
    renew(a, NULL, 0); /* alive, and knows nothing of it */
    cf_tick(&fx, 200);
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    ck_assert(holds(cf_lease(&fx, b, 3), lease->items[0].position));
}
END_TEST

START_TEST(renewed_lease_lives)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    for (int i = 0; i < 10; i++) {
        cf_tick(&fx, fx.times.renew_ms);
        ck_assert_uint_eq(renew(a, &lease->lease_id, 1)->lost.count, 0);
    }
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, lease->items_count)->stored, lease->items_count);
}
END_TEST

START_TEST(expired_lease_goes_to_another_and_late_answers_count)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    renew(a, &lease->lease_id, 1);
    cf_tick(&fx, fx.times.lease_ms + 100);
    ck_assert_uint_eq(renew(a, &lease->lease_id, 1)->lost.count, 1);
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    const struct proto_lease_reply *next = cf_lease(&fx, b, 3);
    ck_assert(holds(next, lease->items[0].position));
    /* The key is still empty: the late answer is stored, the other's is then a duplicate. */
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, 1)->stored, 1);
    const struct proto_submit_reply *reply = cf_submit(&fx, b, next, 0, 1);
    ck_assert_uint_eq(reply->stored, 0);
    ck_assert_uint_eq(reply->duplicates, 1);
}
END_TEST

START_TEST(sent_twice_is_stored_once)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, 3)->stored, 3);
    const struct proto_submit_reply *again = cf_submit(&fx, a, lease, 0, 3);
    ck_assert_uint_eq(again->stored, 0);
    ck_assert_uint_eq(again->duplicates, 3);
}
END_TEST

START_TEST(sent_twice_before_the_commit)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    fx.hold = true;
    struct proto_submit *submit = cf_answers(&fx, a, lease, 0, 3);
    uint64_t one = cf_send(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, submit);
    uint64_t two = cf_send(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, submit);
    ck_assert(!cf_reply(&fx, one)->there && !cf_reply(&fx, two)->there);
    cf_release(&fx);
    const struct proto_submit_reply *first = cf_reply(&fx, one)->body;
    const struct proto_submit_reply *second = cf_reply(&fx, two)->body;
    ck_assert_uint_eq(first->stored, 3);
    ck_assert_uint_eq(second->stored, 0);
    ck_assert_uint_eq(second->duplicates, 3);
}
END_TEST

START_TEST(lost_before_the_commit_is_not_there)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    fx.hold = true;
    cf_send(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, cf_answers(&fx, a, lease, 0, 3));
    cf_restart(&fx);
    CF_FAILS(SP_ESTALE,
             cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, cf_answers(&fx, a, lease, 0, 3)));
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, 3)->stored, 3);
}
END_TEST

START_TEST(returned_lease_is_free_at_once)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    cf_submit(&fx, a, lease, 0, 1);
    struct proto_lease_return back = {.worker_id = a, .leases = {&lease->lease_id, 1}};
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_LEASE_RETURN, &back);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_lease_return_reply *)reply->body)->returned, 2);
    ck_assert(holds(cf_lease(&fx, a, 3), lease->items[1].position));
}
END_TEST

START_TEST(leases_that_a_reconnecting_worker_does_not_name_are_free_after_ten_seconds)
{
    struct proto_hello hello = cf_hello_of(77);
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &hello);
    uint64_t x = ((const struct proto_hello_reply *)reply->body)->worker_id;
    const struct proto_lease_reply *one = cf_lease(&fx, x, 1), *two = cf_lease(&fx, x, 1);
    uint64_t named[2] = {one->lease_id, 12345};
    hello.leases = (struct proto_u64s){named, 2};
    reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_HELLO, &hello);
    CF_OK(reply);
    const struct proto_hello_reply *again = reply->body;
    ck_assert_uint_eq(again->worker_id, x);
    ck_assert_uint_eq(again->leases_lost.count, 1); /* the one that is nobody's */
    ck_assert_uint_eq(again->leases_lost.values[0], 12345);
    cf_tick(&fx, fx.times.reclaim_ms - 100);
    ck_assert(!holds(cf_lease(&fx, a, 1), two->items[0].position));
    cf_tick(&fx, 200);
    ck_assert(holds(cf_lease(&fx, a, 1), two->items[0].position));
    ck_assert_uint_eq(renew(x, named, 1)->lost.count, 0);
}
END_TEST

START_TEST(a_process_that_was_started_again_leaves_its_leases)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a"); /* killed and started again */
    ck_assert(holds(cf_lease(&fx, a, 1), lease->items[0].position));
}
END_TEST

/* Each way in which a result can be wrong is refused, whole, with its place and the reason. */
static void expect_refused(struct proto_submit *submit, const char *why)
{
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, submit);
    CF_FAILS(SP_EINVAL, reply);
    ck_assert_msg(strstr(reply->text, why) != NULL, "%s: no \"%s\" in it", reply->text, why);
}

START_TEST(wrong_results_are_refused)
{
    static const int32_t outside[] = {1, WORLD_VOCAB}, negative[] = {-1};
    static const int32_t nine[9] = {1};
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
#define WRONG(why, change)                                                                         \
    do {                                                                                           \
        struct proto_submit *submit = cf_answers(&fx, a, lease, 0, 3);                             \
        struct proto_work_result *r = &submit->results[1];                                         \
        change;                                                                                    \
        (void)r;                                                                                   \
        expect_refused(submit, why);                                                               \
    } while (0)
    WRONG("outside the vocabulary", r->ids = ((struct proto_ids){outside, 2}));
    WRONG("outside the vocabulary", r->ids = ((struct proto_ids){negative, 1}));
    WRONG("longer than max_new_tokens", r->ids = ((struct proto_ids){nine, 9}));
    WRONG("at least one token", r->ids = ((struct proto_ids){0}));
    WRONG("neither stop nor length", r->finish = 7);
    WRONG("finish says something else", r->finish = PROTO_FINISH_LENGTH);
    WRONG("finish says something else", r->ids.count--); /* "stop", but no end token */
    WRONG("logprob_ids: not a finite number", r->logprob_ids = NAN);
    WRONG("logprob_ids: not a finite number", r->logprob_ids = -INFINITY);
    WRONG("logprob_a: not a finite number", r->logprob_a = INFINITY);
    WRONG("prompt or sample is not the plan's", r->prompt++);
    WRONG("prompt or sample is not the plan's", r->sample++);
    WRONG("not in the plan", r->position = 1u << 30);
    WRONG("not in the plan", r->set = 8);
    WRONG("other weights", submit->checkpoint.bytes[0]++);
#undef WRONG
    struct proto_submit *none = cf_answers(&fx, a, lease, 0, 3);
    none->results_count = 0;
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, none));
    struct proto_submit *lost = cf_answers(&fx, a, lease, 0, 3);
    lost->run = "elsewhere";
    CF_FAILS(SP_ENOTFOUND, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, lost));
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, 3)->stored, 3); /* nothing of it was kept */
}
END_TEST

START_TEST(another_iteration_is_not_wanted)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    struct proto_submit *submit = cf_answers(&fx, a, lease, 0, 3);
    submit->iteration = 5;
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, submit);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_submit_reply *)reply->body)->refused, 3);
}
END_TEST

START_TEST(five_deaths_pause_and_name_the_prompt)
{
    uint32_t prompt = 0;
    for (int i = 0; i < 5; i++) {
        CF_STATE(&fx, COORD_RUNNING);
        const struct proto_lease_reply *lease = cf_lease(&fx, a, 1);
        prompt = lease->items[0].prompt;
        renew(a, &lease->lease_id, 1);
        cf_tick(&fx, fx.times.lease_ms + 100);
    }
    CF_STATE(&fx, COORD_PAUSED);
    char name[32];
    snprintf(name, sizeof(name), "prompt %u ", prompt);
    ck_assert_msg(strstr(cf_reason(&fx), name) != NULL, "%s", cf_reason(&fx));
    /* An administrator takes it out, and the rest is made. */
    char args[64];
    snprintf(args, sizeof(args), "{\"prompt\": %u}", prompt);
    CF_OK(cf_verb(&fx, "skip", args));
    CF_FAILS(SP_EINVAL, cf_verb(&fx, "skip", "{\"prompt\": 1000}"));
    CF_FAILS(SP_ENOTFOUND, cf_verb(&fx, "skip", "{}"));
    cf_restart(&fx);
    CF_OK(cf_verb(&fx, "resume", ""));
    cf_tick(&fx, fx.times.reclaim_ms);
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    cf_work_all(&fx, a);
    uint64_t trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    const struct proto_trainer_lease_reply *grant = cf_train(&fx, trainer);
    const struct cf_reply *pairs = cf_fetch(&fx, trainer, grant, 0, CF_TRAIN);
    CF_OK(pairs);
    const struct proto_pairs_fetch_reply *all = pairs->body;
    ck_assert_uint_eq(all->pairs_count, CF_TRAIN);
    for (uint32_t i = 0; i < all->pairs_count; i++)
        ck_assert_int_eq(all->pairs[i].skipped, all->pairs[i].prompt == prompt);
    CF_OK(cf_publish_begin(&fx, trainer, grant));
    CF_OK(cf_publish_commit(&fx, trainer, grant));
    cf_work_all(&fx, a);
    CF_STATE(&fx, COORD_CLOSED);
}
END_TEST

START_TEST(only_the_runs_class_gets_work)
{
    cf_lease(&fx, a, 1); /* pins "cpu class" */
    fx.class_name = "cpu another";
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    ck_assert(!cf_reply(&fx, cf_poll(&fx, b, 1, 1000))->there);
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 1);
    CF_FAILS(SP_EDENIED,
             cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, cf_answers(&fx, b, lease, 0, 1)));
    cf_restart(&fx); /* the class is durable */
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    ck_assert(!cf_reply(&fx, cf_poll(&fx, b, 1, 1000))->there);
    uint64_t trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    ck_assert_ptr_null(cf_train(&fx, trainer));
    const struct cf_reply *why = cf_verb(&fx, "why", "");
    CF_OK(why);
    ck_assert_msg(strstr(why->json, "numerics class") != NULL, "%s", why->json);
}
END_TEST

START_TEST(any_class_where_the_run_says_so)
{
    cf_close(&fx);
    start_run("[run]\nnumerics = any\n");
    cf_lease(&fx, a, 1);
    fx.class_name = "cpu another";
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    cf_lease(&fx, b, 1);
}
END_TEST

START_TEST(another_backend_does_not_pin_the_class)
{
    fx.class_name = "openblas r1";
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    fx.class_name = "cpuish r1";
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    ck_assert(!cf_reply(&fx, cf_poll(&fx, b, 1, 1000))->there);
    ck_assert(!cf_reply(&fx, cf_poll(&fx, c, 1, 1000))->there);
    cf_lease(&fx, a, 1);
}
END_TEST

START_TEST(a_different_answer_raises_an_alarm)
{
    const struct proto_lease_reply *lease = cf_lease(&fx, a, 3);
    cf_submit(&fx, a, lease, 0, 3);
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    struct proto_submit *other = cf_answers(&fx, b, lease, 0, 3);
    other->results[2].logprob_a = -1.5f;
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, other);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_submit_reply *)reply->body)->duplicates, 3);
    struct store_run *run;
    struct store_event *events;
    size_t count;
    ck_assert_int_eq(store_run_open(fx.world.store, WORLD_RUN, &run, NULL), SP_OK);
    ck_assert_int_eq(store_events_last(fx.world.store, run, 1, fx.arena, &events, &count, NULL),
                     SP_OK);
    ck_assert_uint_eq(count, 1);
    ck_assert_str_eq(events[0].kind, "alarm");
    ck_assert_str_eq(events[0].actor, "b");
}
END_TEST

START_TEST(straggler_is_leased_a_second_time)
{
    uint64_t trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    const struct proto_trainer_lease_reply *grant = cf_train(&fx, trainer);
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    const struct proto_lease_reply *slow = cf_lease(&fx, a, 1); /* the first key of the plan */
    renew(a, &slow->lease_id, 1);
    cf_tick(&fx, fx.times.fair_ms);
    cf_work_all(&fx, b); /* the rest, fast */
    const struct cf_reply *fetch = cf_fetch(&fx, trainer, grant, 0, 4);
    ck_assert(!fetch->there);
    uint64_t own = cf_poll(&fx, a, 1, 20000);
    uint64_t other = cf_poll(&fx, b, 1, 20000);
    cf_tick(&fx, fx.times.straggler_floor_ms / 2);
    ck_assert(!cf_reply(&fx, other)->there);
    cf_tick(&fx, fx.times.straggler_floor_ms);
    CF_OK(cf_reply(&fx, other));
    ck_assert(!cf_reply(&fx, own)->there); /* not to the one that has it */
    const struct proto_lease_reply *second = cf_reply(&fx, other)->body;
    ck_assert_uint_eq(second->items_count, 1);
    ck_assert_uint_eq(second->items[0].position, slow->items[0].position);
    ck_assert_uint_eq(cf_submit(&fx, b, second, 0, 1)->stored, 1);
    CF_OK(fetch);
    ck_assert_uint_eq(cf_submit(&fx, a, slow, 0, 1)->duplicates, 1);
}
END_TEST

START_TEST(who_is_first_waits_a_moment_for_the_others)
{
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    uint32_t made = 0;
    uint64_t poll;
    for (;;) {
        poll = cf_poll(&fx, b, 4, 20000);
        if (!cf_reply(&fx, poll)->there)
            break;
        CF_OK(cf_reply(&fx, poll));
        const struct proto_lease_reply *work = cf_reply(&fx, poll)->body;
        made += work->items_count;
        cf_submit(&fx, b, work, 0, work->items_count);
    }
    ck_assert_uint_eq(made, (CF_TRAIN + 1) / 2);
    cf_tick(&fx, fx.times.fair_ms);
    CF_OK(cf_reply(&fx, poll)); /* the others did not come: it has the rest */
}
END_TEST

START_TEST(equal_generators_share_evenly)
{
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    uint64_t workers[3] = {a, b, c};
    uint32_t made[3] = {0};
    for (int turn = 0; turn < 40; turn++) {
        int who = turn % 3;
        const struct cf_reply *reply = cf_reply(&fx, cf_poll(&fx, workers[who], 64, 0));
        if (!reply->there) {
            cf_tick(&fx, 50);
            continue;
        }
        const struct proto_lease_reply *lease = reply->body;
        if (lease->items[0].set != PROTO_SET_TRAIN)
            break;
        made[who] += lease->items_count;
        cf_submit(&fx, workers[who], lease, 0, lease->items_count);
    }
    ck_assert_uint_eq(made[0] + made[1] + made[2], CF_TRAIN);
    for (int i = 0; i < 3; i++)
        ck_assert_msg(made[i] * 5 >= CF_TRAIN, "generator %d made %u of %d", i, made[i], CF_TRAIN);
}
END_TEST

START_TEST(nobody_takes_the_others_share_at_once)
{
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    uint32_t taken = 0;
    for (;;) {
        const struct cf_reply *reply = cf_reply(&fx, cf_poll(&fx, a, 64, 20000));
        if (!reply->there)
            break;
        taken += ((const struct proto_lease_reply *)reply->body)->items_count;
    }
    ck_assert_uint_eq(taken, CF_TRAIN / 2);
}
END_TEST

START_TEST(polls_wait_for_work_and_end_empty)
{
    cf_close(&fx);
    cf_open(&fx, NULL);
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    uint64_t poll = cf_poll(&fx, a, 4, 5000);
    cf_tick(&fx, 4900);
    ck_assert(!cf_reply(&fx, poll)->there);
    cf_tick(&fx, 200);
    CF_OK(cf_reply(&fx, poll));
    ck_assert_uint_eq(((const struct proto_lease_reply *)cf_reply(&fx, poll)->body)->lease_id, 0);
    poll = cf_poll(&fx, a, 4, 5000);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    CF_OK(cf_reply(&fx, poll)); /* as soon as there is something */
    ck_assert_uint_ne(((const struct proto_lease_reply *)cf_reply(&fx, poll)->body)->lease_id, 0);
}
END_TEST

static void restart_with_two_places(void)
{
    cf_restart_with(&fx, (struct coord_options){.max_parked = 2});
    cf_tick(&fx, fx.times.reclaim_ms);
}

START_TEST(too_many_waiting_requests_are_sent_away)
{
    cf_close(&fx);
    cf_open(&fx, NULL);
    restart_with_two_places();
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    uint64_t first = cf_poll(&fx, a, 1, 20000);
    cf_poll(&fx, b, 1, 20000);
    const struct cf_reply *third = cf_reply(&fx, cf_poll(&fx, c, 1, 20000));
    CF_FAILS(SP_EUNAVAIL, third);
    ck_assert_uint_gt(third->retry_after_ms, 0);
    /* Asking again takes the place of what one asked before. */
    uint64_t again = cf_poll(&fx, a, 1, 20000);
    CF_OK(cf_reply(&fx, first));
    ck_assert(!cf_reply(&fx, again)->there);
}
END_TEST

/* Who waits for work that is not for it keeps nobody from the work that there is. */
START_TEST(those_who_wait_in_vain_take_nobodys_place)
{
    cf_lease(&fx, a, 1); /* pins the class, which is durable */
    restart_with_two_places();
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    fx.class_name = "cpu another";
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    uint64_t d = cf_hello(&fx, PROTO_ROLE_GENERATOR, "d");
    cf_poll(&fx, b, 1, 20000);
    cf_poll(&fx, c, 1, 20000);
    CF_FAILS(SP_EUNAVAIL, cf_reply(&fx, cf_poll(&fx, d, 1, 20000)));
    const struct cf_reply *reply = cf_reply(&fx, cf_poll(&fx, a, 1, 20000));
    CF_OK(reply);
    ck_assert_uint_ne(((const struct proto_lease_reply *)reply->body)->lease_id, 0);
}
END_TEST

START_TEST(status_is_held_until_something_changes)
{
    char args[80];
    snprintf(args, sizeof(args), "{\"since\": %llu, \"wait_ms\": 5000}",
             (unsigned long long)coord_version(fx.core));
    const struct cf_reply *held = cf_verb(&fx, "status", args);
    cf_tick(&fx, 100);
    ck_assert(!held->there);
    cf_lease(&fx, a, 1);
    cf_tick(&fx, 50);
    CF_OK(held);
    CF_OK(cf_verb(&fx, "status", "{\"since\": 0, \"wait_ms\": 5000}"));
    CF_FAILS(SP_EFORMAT, cf_verb(&fx, "status", "{\"since\": -1}"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_leases");
    TCase *tc = tcase_create("leases");
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, nothing_in_use_is_collected);
    tcase_add_test(tc, retried_request_gets_its_grant);
    tcase_add_test(tc, unconfirmed_grant_lapses);
    tcase_add_test(tc, renewed_lease_lives);
    tcase_add_test(tc, expired_lease_goes_to_another_and_late_answers_count);
    tcase_add_test(tc, sent_twice_is_stored_once);
    tcase_add_test(tc, sent_twice_before_the_commit);
    tcase_add_test(tc, lost_before_the_commit_is_not_there);
    tcase_add_test(tc, returned_lease_is_free_at_once);
    tcase_add_test(tc, leases_that_a_reconnecting_worker_does_not_name_are_free_after_ten_seconds);
    tcase_add_test(tc, a_process_that_was_started_again_leaves_its_leases);
    tcase_add_test(tc, wrong_results_are_refused);
    tcase_add_test(tc, another_iteration_is_not_wanted);
    tcase_add_test(tc, five_deaths_pause_and_name_the_prompt);
    tcase_add_test(tc, only_the_runs_class_gets_work);
    tcase_add_test(tc, any_class_where_the_run_says_so);
    tcase_add_test(tc, another_backend_does_not_pin_the_class);
    tcase_add_test(tc, a_different_answer_raises_an_alarm);
    tcase_add_test(tc, straggler_is_leased_a_second_time);
    tcase_add_test(tc, who_is_first_waits_a_moment_for_the_others);
    tcase_add_test(tc, equal_generators_share_evenly);
    tcase_add_test(tc, nobody_takes_the_others_share_at_once);
    tcase_add_test(tc, polls_wait_for_work_and_end_empty);
    tcase_add_test(tc, too_many_waiting_requests_are_sent_away);
    tcase_add_test(tc, those_who_wait_in_vain_take_nobodys_place);
    tcase_add_test(tc, status_is_held_until_something_changes);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

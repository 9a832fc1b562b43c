/* Poisoned workers: a share of the answers is made again by others; a liar is found out, and what
 * it made is made again. Here every answer is checked. */
#include "common/base/rng.h"
#include "coordinator/core_internal.h"
#include "tests/unit/coordinator/core_fixture.h"

static struct cf fx;
static uint64_t a, b, c, trainer;

static void open_world(void)
{
    cf_open(&fx, NULL);
    coord_set_verify_share(fx.core, 1);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    b = cf_hello(&fx, PROTO_ROLE_GENERATOR, "b");
    trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    cf_tick(&fx, 3000); /* nobody has to wait for the others any more */
}

static void close_world(void)
{
    cf_close(&fx);
}

/* A lease, or NULL when there is none. */
static const struct proto_lease_reply *try_lease(uint64_t worker, uint32_t max_items)
{
    const struct cf_reply *reply = cf_reply(&fx, cf_poll(&fx, worker, max_items, 0));
    if (!reply->there)
        cf_tick(&fx, 50);
    ck_assert(reply->there);
    CF_OK(reply);
    const struct proto_lease_reply *lease = reply->body;
    return lease->lease_id ? lease : NULL;
}

/* Works until there is nothing left; lies about the human answer's log-probability by `lie`. */
static uint32_t work(uint64_t worker, float lie)
{
    const struct proto_lease_reply *lease;
    uint32_t done = 0;
    while ((lease = try_lease(worker, 4)) != NULL) {
        struct proto_submit *answers = cf_answers(&fx, worker, lease, 0, lease->items_count);
        for (uint32_t i = 0; i < answers->results_count; i++)
            answers->results[i].logprob_a -= lie;
        CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, answers));
        done += lease->items_count;
    }
    return done;
}

/* One lease's worth. */
static uint32_t work_once(uint64_t worker, uint32_t max_items, float lie)
{
    const struct proto_lease_reply *lease = try_lease(worker, max_items);
    if (!lease)
        return 0;
    struct proto_submit *answers = cf_answers(&fx, worker, lease, 0, lease->items_count);
    for (uint32_t i = 0; i < answers->results_count; i++)
        answers->results[i].logprob_a -= lie;
    CF_OK(cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, answers));
    return lease->items_count;
}

static const char *hold_of(const char *name)
{
    static char hold[32];
    json_t *list = coord_workers(fx.core, fx.now);
    hold[0] = '?';
    hold[1] = '\0';
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *worker = json_array_get(list, i);
        if (strcmp(json_string_value(json_object_get(worker, "name")), name) == 0)
            snprintf(hold, sizeof(hold), "%s", json_string_value(json_object_get(worker, "hold")));
    }
    json_decref(list);
    return hold;
}

static json_int_t verification(const char *key)
{
    json_t *status = coord_status(fx.core, WORLD_RUN, fx.now);
    const json_t *run = json_array_get(json_object_get(status, "runs"), 0);
    const json_t *it = json_object_get(run, "iteration");
    const json_t *value = json_object_get(json_object_get(it, "verification"), key);
    json_int_t number = json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);
    json_decref(status);
    return number;
}

/* When the last training pair was there. */
static int64_t generated_ms(void)
{
    struct store_run *run;
    struct store_iteration row;
    ck_assert_int_eq(store_run_open(fx.world.store, WORLD_RUN, &run, NULL), SP_OK);
    ck_assert_int_eq(store_iteration_get(run, 0, fx.arena, &row, NULL), SP_OK);
    return row.generated_ms;
}

START_TEST(honest_workers_confirm_each_other)
{
    ck_assert_uint_ge(work(a, 0), CF_TRAIN);
    ck_assert_int_gt(verification("open"), 0);
    ck_assert_int_eq(verification("possible"), 1);
    /* Not before the checks are made. */
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    ck_assert_int_eq(cf_publish_begin(&fx, trainer, lease)->status, SP_EUNAVAIL);
    ck_assert_uint_ge(work(b, 0), CF_TRAIN);
    ck_assert_int_eq(verification("open"), 0);
    ck_assert_int_ge(verification("checked"), CF_TRAIN);
    CF_OK(cf_publish_begin(&fx, trainer, lease));
    ck_assert_str_eq(hold_of("a"), "");
    ck_assert_str_eq(hold_of("b"), "");
}
END_TEST

START_TEST(alone_nobody_checks)
{
    cf_tick(&fx, fx.times.worker_gone_ms + 100);
    work(a, 0);
    ck_assert_int_eq(verification("possible"), 0);
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    CF_OK(cf_publish_begin(&fx, trainer, lease));
}
END_TEST

/* An answer that its maker sends twice is not confirmed by that. */
START_TEST(nobody_confirms_itself)
{
    const struct proto_lease_reply *lease = try_lease(a, 2);
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, lease->items_count)->stored, lease->items_count);
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, lease->items_count)->duplicates,
                      lease->items_count);
    ck_assert_int_eq(verification("checked"), 0);
}
END_TEST

/* b lies; a is asked again, and differs; c decides. */
START_TEST(the_liar_is_quarantined)
{
    uint32_t lies = work_once(b, 4, 0.5f);
    ck_assert_uint_gt(lies, 0);
    work(a, 0);
    ck_assert_int_gt(verification("disputed"), 0);
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    cf_tick(&fx, 1000);
    int64_t found_ms = fx.now;
    work(c, 0);
    ck_assert_str_eq(hold_of("b"), "quarantined");
    ck_assert_str_eq(hold_of("a"), "");
    ck_assert_str_eq(hold_of("c"), "");
    /* It gets nothing more; what it still sends is not wanted. */
    ck_assert_ptr_null(try_lease(b, 4));
    /* Its answers are made again, and everything is confirmed by two. */
    while (work(a, 0) + work(c, 0) > 0)
        continue;
    ck_assert_int_eq(verification("disputed"), 0);
    ck_assert_int_eq(verification("open"), 0);
    ck_assert_int_ge(generated_ms(), found_ms); /* not when the liar's were there */
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    CF_OK(cf_publish_begin(&fx, trainer, lease));
    /* The administrator may think otherwise. */
    CF_OK(cf_verb(&fx, "uncordon", "{\"worker\":\"b\"}"));
    ck_assert_str_eq(hold_of("b"), "");
}
END_TEST

/* What a quarantined worker still sends is not wanted; it is told so, and goes on to nothing. */
START_TEST(a_quarantined_worker_hands_nothing_in)
{
    const struct proto_lease_reply *lease = try_lease(b, 2);
    uint32_t stored = core_run(fx.core, WORLD_RUN)->iteration->sets[PROTO_SET_TRAIN].stored;
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"b\"}"));
    ck_assert_uint_eq(cf_submit(&fx, b, lease, 0, lease->items_count)->refused, lease->items_count);
    ck_assert_uint_eq(core_run(fx.core, WORLD_RUN)->iteration->sets[PROTO_SET_TRAIN].stored,
                      stored);
    ck_assert_uint_gt(work(a, 0), 0); /* and somebody else makes them */
    ck_assert(set_complete(&core_run(fx.core, WORLD_RUN)->iteration->sets[PROTO_SET_TRAIN]));
}
END_TEST

/* The one that checks is the one that lies. */
START_TEST(a_lying_checker_is_quarantined)
{
    work(a, 0);
    ck_assert_uint_gt(work_once(b, 4, 0.5f), 0);
    ck_assert_int_gt(verification("disputed"), 0);
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    work(c, 0);
    ck_assert_str_eq(hold_of("b"), "quarantined");
    ck_assert_str_eq(hold_of("a"), "");
    ck_assert_int_eq(verification("disputed"), 0);
}
END_TEST

START_TEST(three_answers_pause_the_iteration)
{
    uint32_t lies = work_once(b, 1, 0.5f);
    ck_assert_uint_eq(lies, 1);
    work(a, 0);
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    work(c, 0.25f);
    CF_STATE(&fx, COORD_PAUSED);
    ck_assert_ptr_nonnull(strstr(cf_reason(&fx), "three different answers"));
}
END_TEST

/* Two that differ and nobody to decide: nothing is published, and `why` says whom to ask. */
START_TEST(a_dispute_of_two_waits)
{
    work_once(b, 4, 0.5f);
    work(a, 0);
    work(b, 0);
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    ck_assert_int_eq(cf_publish_begin(&fx, trainer, lease)->status, SP_EUNAVAIL);
    const struct cf_reply *why = cf_verb(&fx, "why", "");
    CF_OK(why);
    ck_assert_ptr_nonnull(strstr(why->json, "third generator"));
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"b\"}"));
    lease = cf_train(&fx, trainer);
    work(a, 0);
    ck_assert_int_eq(verification("disputed"), 0);
    CF_OK(cf_publish_begin(&fx, trainer, lease));
}
END_TEST

/* The trainer has seen a pair that is revoked: its epoch ends, and the next lease says up to which
 * step a snapshot is good. */
START_TEST(the_trainer_returns)
{
    ck_assert_uint_gt(work_once(b, 4, 0.5f), 0);
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    ck_assert_uint_eq(lease->rewind_epoch, 0);
    uint64_t epoch = lease->epoch;
    work_once(a, 4, 0);
    CF_OK(cf_fetch(&fx, trainer, lease, 0, CF_TRAIN));
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"b\"}"));
    ck_assert_int_eq(cf_fetch(&fx, trainer, lease, 0, 4)->status, SP_ESTALE);
    lease = cf_train(&fx, trainer);
    ck_assert(lease && lease->granted);
    ck_assert_uint_gt(lease->epoch, epoch + 1);
    ck_assert_uint_eq(lease->rewind_epoch, epoch + 1);
    ck_assert_uint_eq(lease->rewind_steps, 0); /* its pairs were the first of the order */
    /* A restart forgets none of it. */
    cf_restart(&fx);
    coord_set_verify_share(fx.core, 1);
    a = cf_hello(&fx, PROTO_ROLE_GENERATOR, "a");
    trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "t");
    lease = cf_train(&fx, trainer);
    ck_assert(lease && lease->granted);
    ck_assert_uint_eq(lease->rewind_epoch, epoch + 1);
}
END_TEST

/* A trainer that missed a return has snapshots from before it: a later one, to a later step, does
 * not make them good. */
START_TEST(a_second_return_goes_as_far_back_as_the_first)
{
    ck_assert_uint_gt(work_once(b, 4, 0.5f), 0);
    work_once(a, 4, 0);
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    CF_OK(cf_fetch(&fx, trainer, lease, 0, CF_TRAIN));
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"b\"}"));
    c = cf_hello(&fx, PROTO_ROLE_GENERATOR, "c");
    cf_tick(&fx, 3000);
    for (int i = 0; i < 5; i++)
        work_once(a, 1, 0); /* the first step's again, and beyond */
    ck_assert_uint_eq(work_once(c, 1, 0.5f), 1);
    for (int i = 0; i < 3; i++)
        work_once(a, 1, 0);
    lease = cf_train(&fx, trainer);
    uint64_t first = lease->rewind_epoch;
    ck_assert_uint_gt(first, 0);
    CF_OK(cf_fetch(&fx, trainer, lease, 0, CF_TRAIN));
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"c\"}"));
    work(a, 0);
    lease = cf_train(&fx, trainer);
    ck_assert(lease && lease->granted);
    ck_assert_uint_gt(lease->rewind_epoch, first);
    ck_assert_uint_eq(lease->rewind_steps, 0);
}
END_TEST

/* What another worker has found the same is good, whoever made it. */
START_TEST(what_is_confirmed_stays)
{
    ck_assert_uint_gt(work_once(b, 4, 0), 0);
    work(a, 0); /* the rest, and b's again */
    ck_assert_int_gt(verification("checked"), 0);
    const struct coord_set *train = &core_run(fx.core, WORLD_RUN)->iteration->sets[PROTO_SET_TRAIN];
    ck_assert(set_complete(train));
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"b\"}"));
    ck_assert(set_complete(train));
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"a\"}")); /* whom nobody has checked */
    ck_assert(!set_complete(train));
}
END_TEST

/* Found out after the publication: the iteration trains again. */
START_TEST(back_from_evaluation)
{
    coord_set_verify_share(fx.core, 0);
    work_once(b, 4, 0.5f);
    work(a, 0);
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, trainer);
    CF_OK(cf_fetch(&fx, trainer, lease, 0, CF_TRAIN));
    CF_OK(cf_publish_begin(&fx, trainer, lease));
    CF_OK(cf_publish_commit(&fx, trainer, lease));
    CF_STATE(&fx, COORD_EVALUATING);
    work_once(a, 2, 0);
    CF_OK(cf_verb(&fx, "quarantine", "{\"worker\":\"b\"}"));
    CF_STATE(&fx, COORD_RUNNING);
    work(a, 0);
    lease = cf_train(&fx, trainer);
    ck_assert(lease && lease->granted && lease->rewind_epoch > 0);
    CF_OK(cf_fetch(&fx, trainer, lease, 0, CF_TRAIN));
    CF_OK(cf_publish_begin(&fx, trainer, lease));
    CF_OK(cf_publish_commit(&fx, trainer, lease));
    work(a, 0);
    CF_STATE(&fx, COORD_CLOSED);
}
END_TEST

static uint32_t draw(uint32_t seed, uint32_t *count, uint32_t below)
{
    return (uint32_t)sp_rng_below(9, SP_STREAM_TEST, 0, seed, 4, (*count)++, below);
}

static uint32_t lies_stored(void)
{
    struct store_run *run;
    struct store_result *rows;
    size_t count = 0;
    uint32_t lies = 0;
    world_check(&fx.world, store_run_open(fx.world.store, WORLD_RUN, &run, &fx.world.err), "run");
    for (uint32_t set = 0; set < COORD_SET_COUNT; set++) {
        world_check(
            &fx.world,
            store_results_range(run, 0, set, 0, 1000, fx.arena, &rows, &count, &fx.world.err),
            "rows");
        for (size_t i = 0; i < count; i++)
            lies += !isnan(rows[i].ref_real) && rows[i].ref_real != -1.0f;
    }
    return lies;
}

/* One liar among three honest workers, in any order, with restarts: whenever nothing is left to do,
 * no lie is stored, and no honest worker is held. */
START_TEST(any_order)
{
    static const char *const names[] = {"a", "b", "c", "liar"};
    uint64_t workers[4];
    uint32_t n = 0, seed = (uint32_t)_i;
    for (uint32_t life = 0; life < 3; life++) {
        if (life > 0) {
            cf_restart(&fx);
            coord_set_verify_share(fx.core, 1);
        }
        for (int w = 0; w < 4; w++)
            workers[w] = cf_hello(&fx, PROTO_ROLE_GENERATOR, names[w]);
        for (uint32_t turn = 0; turn < 30; turn++) {
            uint32_t w = draw(seed, &n, 4);
            float lie = w == 3 && draw(seed, &n, 2) ? 0.25f * (float)(1 + draw(seed, &n, 2)) : 0;
            if (draw(seed, &n, 10) == 0)
                (void)try_lease(workers[w], 2); /* dies with it */
            else
                work_once(workers[w], 1 + draw(seed, &n, 6), lie);
            if (draw(seed, &n, 5) == 0)
                cf_tick(&fx, fx.times.lease_ms / 2);
        }
    }
    for (int idle = 0; idle < 3;) {
        uint32_t done = 0;
        if (cf_state(&fx) == COORD_PAUSED) /* five leases of a key died */
            CF_OK(cf_verb(&fx, "resume", ""));
        for (int w = 0; w < 3; w++)
            done += work(workers[w], 0);
        cf_tick(&fx, fx.times.lease_ms / 2);
        idle = done == 0 ? idle + 1 : 0;
    }
    ck_assert_uint_eq(lies_stored(), 0);
    ck_assert_int_eq(verification("disputed"), 0);
    for (int w = 0; w < 3; w++)
        ck_assert_str_eq(hold_of(names[w]), "");
}
END_TEST

START_TEST(cordon_and_drain)
{
    const struct proto_lease_reply *lease = try_lease(a, 4);
    ck_assert_ptr_nonnull(lease);
    CF_OK(cf_verb(&fx, "cordon", "{\"worker\":\"a\"}"));
    ck_assert_ptr_null(try_lease(a, 4));
    ck_assert_uint_eq(cf_submit(&fx, a, lease, 0, lease->items_count)->stored,
                      lease->items_count); /* what it has it may finish */
    CF_OK(cf_verb(&fx, "uncordon", "{\"worker\":\"a\"}"));
    lease = try_lease(a, 4);
    ck_assert_ptr_nonnull(lease);
    CF_OK(cf_verb(&fx, "drain", "{\"worker\":\"a\"}"));
    struct proto_renew renew = {
        .worker_id = a, .leases = {.values = &lease->lease_id, .count = 1}, .activity = ""};
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_RENEW, &renew);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_renew_reply *)reply->body)->lost.count, 1);
    /* A trainer lets go of its run, and gets none. */
    const struct proto_trainer_lease_reply *grant = cf_train(&fx, trainer);
    CF_OK(cf_verb(&fx, "drain", "{\"worker\":\"t\"}"));
    reply = cf_trainer_renew(&fx, trainer, grant);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_trainer_renew_reply *)reply->body)->command,
                      PROTO_TRAINER_PAUSE);
    ck_assert_int_eq(cf_verb(&fx, "cordon", "{\"worker\":\"nobody\"}")->status, SP_ENOTFOUND);
    ck_assert_int_eq(cf_verb(&fx, "cordon", "{\"worker\":\"\"}")->status, SP_EINVAL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_verify");
    TCase *t = tcase_create("verify");
    tcase_add_checked_fixture(t, open_world, close_world);
    tcase_add_test(t, honest_workers_confirm_each_other);
    tcase_add_test(t, alone_nobody_checks);
    tcase_add_test(t, nobody_confirms_itself);
    tcase_add_test(t, the_liar_is_quarantined);
    tcase_add_test(t, a_quarantined_worker_hands_nothing_in);
    tcase_add_test(t, a_lying_checker_is_quarantined);
    tcase_add_test(t, three_answers_pause_the_iteration);
    tcase_add_test(t, a_dispute_of_two_waits);
    tcase_add_test(t, the_trainer_returns);
    tcase_add_test(t, a_second_return_goes_as_far_back_as_the_first);
    tcase_add_test(t, what_is_confirmed_stays);
    tcase_add_test(t, back_from_evaluation);
    tcase_add_test(t, cordon_and_drain);
    tcase_add_loop_test(t, any_order, 0, 100);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

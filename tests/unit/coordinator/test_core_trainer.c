/* The trainer's lease: one holder, a durable epoch that rises, stale requests refused. */
#include "common/base/rng.h"
#include "tests/unit/coordinator/core_fixture.h"

static struct cf fx;
static uint64_t generator, one, two;

static void open_run(const char *settings)
{
    cf_open(&fx, settings);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "g");
    one = cf_hello(&fx, PROTO_ROLE_TRAINER, "one");
    two = cf_hello(&fx, PROTO_ROLE_TRAINER, "two");
}

static void open_world(void)
{
    open_run(NULL);
}

static void close_world(void)
{
    cf_close(&fx);
}

static uint64_t wait_for_lease(uint64_t worker, uint32_t wait_ms)
{
    struct proto_trainer_lease *ask = sp_arena_alloc(fx.arena, 1, sizeof(*ask));
    *ask = (struct proto_trainer_lease){
        .worker_id = worker, .request_id = ++fx.requests, .wait_ms = wait_ms};
    return cf_send(&fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_LEASE, ask);
}

static const struct proto_trainer_lease_reply *granted(uint64_t handle)
{
    const struct cf_reply *reply = cf_reply(&fx, handle);
    return reply->there && reply->status == SP_OK ? reply->body : NULL;
}

static const struct cf_reply *report(uint64_t worker, const struct proto_trainer_lease_reply *lease,
                                     uint64_t step)
{
    struct proto_step_metrics *metrics = sp_arena_alloc(fx.arena, 1, sizeof(*metrics));
    *metrics = (struct proto_step_metrics){.step = step, .loss = 0.5, .pairs = 4, .tokens = 10};
    struct proto_steps_report *body = sp_arena_alloc(fx.arena, 1, sizeof(*body));
    *body = (struct proto_steps_report){.worker_id = worker,
                                        .run = WORLD_RUN,
                                        .iteration = lease->iteration,
                                        .epoch = lease->epoch,
                                        .steps_total = 6,
                                        .steps = metrics,
                                        .steps_count = 1};
    return cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_STEPS_REPORT, body);
}

START_TEST(one_of_two_is_granted)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    ck_assert(lease && lease->granted);
    ck_assert_uint_eq(lease->epoch, 1);
    ck_assert_uint_eq(lease->plan_pairs, CF_TRAIN);
    uint64_t other = wait_for_lease(two, 2000);
    ck_assert(!cf_reply(&fx, other)->there);
    cf_tick(&fx, 2100);
    ck_assert(granted(other) && !granted(other)->granted);
}
END_TEST

START_TEST(grant_is_durable_before_it_is_given)
{
    fx.hold = true;
    uint64_t handle = wait_for_lease(one, 1000);
    ck_assert(!cf_reply(&fx, handle)->there);
    cf_release(&fx);
    ck_assert(granted(handle)->granted);
}
END_TEST

START_TEST(retried_request_gets_its_grant)
{
    struct proto_trainer_lease ask = {.worker_id = one, .request_id = 50, .wait_ms = 1000};
    const struct cf_reply *first = cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_LEASE, &ask);
    const struct cf_reply *again = cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_LEASE, &ask);
    CF_OK(first);
    CF_OK(again);
    ck_assert_uint_eq(((const struct proto_trainer_lease_reply *)first->body)->epoch, 1);
    ck_assert_uint_eq(((const struct proto_trainer_lease_reply *)again->body)->epoch, 1);
}
END_TEST

START_TEST(lost_trainer_is_replaced_and_kept_out)
{
    const struct proto_trainer_lease_reply *lost = cf_train(&fx, one);
    cf_tick(&fx, fx.times.trainer_lease_ms + 100);
    const struct proto_trainer_lease_reply *next = cf_train(&fx, two);
    ck_assert(next && next->granted);
    ck_assert_uint_eq(next->epoch, 2);
    cf_work_all(&fx, generator);
    CF_FAILS(SP_ESTALE, cf_fetch(&fx, one, lost, 0, 1));
    CF_FAILS(SP_ESTALE, report(one, lost, 1));
    CF_FAILS(SP_ESTALE, cf_trainer_renew(&fx, one, lost));
    CF_FAILS(SP_ESTALE, cf_publish_begin(&fx, one, lost));
    CF_FAILS(SP_ESTALE, cf_publish_commit(&fx, one, lost));
    CF_OK(cf_fetch(&fx, two, next, 0, 1));
    CF_OK(cf_publish_begin(&fx, two, next));
    CF_OK(cf_publish_commit(&fx, two, next));
}
END_TEST

/* It was waiting for work and is gone: the grant went to nobody. Another one waits no longer for it
 * than a generator's keys do. */
START_TEST(a_grant_that_nobody_takes_up_ends_soon)
{
    cf_train(&fx, one);
    cf_tick(&fx, fx.times.confirm_ms - 100);
    uint64_t other = wait_for_lease(two, 1000);
    ck_assert(!cf_reply(&fx, other)->there);
    cf_tick(&fx, 200);
    ck_assert(granted(other) && granted(other)->granted);
    ck_assert_uint_eq(granted(other)->epoch, 2);
    /* Once heard of, it keeps the lease for as long as ever. */
    CF_OK(cf_trainer_renew(&fx, two, granted(other)));
    cf_tick(&fx, fx.times.confirm_ms + 100);
    uint64_t third = wait_for_lease(one, 1000);
    cf_tick(&fx, 500);
    ck_assert(!cf_reply(&fx, third)->there);
}
END_TEST

START_TEST(renewing_keeps_the_lease)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    for (int i = 0; i < 20; i++) {
        cf_tick(&fx, fx.times.renew_ms);
        CF_OK(cf_trainer_renew(&fx, one, lease));
    }
    uint64_t other = wait_for_lease(two, 1000);
    cf_tick(&fx, 500);
    ck_assert(!cf_reply(&fx, other)->there);
}
END_TEST

START_TEST(a_lost_trainer_that_nobody_replaced_goes_on)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    cf_tick(&fx, fx.times.trainer_lease_ms + 100);
    CF_OK(cf_trainer_renew(&fx, one, lease));
    uint64_t other = wait_for_lease(two, 1000);
    cf_tick(&fx, 500);
    ck_assert(!cf_reply(&fx, other)->there);
}
END_TEST

START_TEST(holder_goes_on_after_a_restart)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    cf_restart(&fx);
    CF_FAILS(SP_ESTALE, cf_trainer_renew(&fx, one, lease)); /* unknown worker */
    /* Another one has to wait until the holder has had time to come back. */
    two = cf_hello(&fx, PROTO_ROLE_TRAINER, "two");
    uint64_t other = wait_for_lease(two, 20000);
    cf_tick(&fx, 5000);
    ck_assert(!cf_reply(&fx, other)->there);
    one = cf_hello(&fx, PROTO_ROLE_TRAINER, "one");
    CF_OK(cf_trainer_renew(&fx, one, lease));
    CF_OK(report(one, lease, 1));
    cf_tick(&fx, 20000);
    ck_assert(granted(other) && !granted(other)->granted);
}
END_TEST

START_TEST(another_one_takes_over_when_the_holder_stays_away)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    cf_restart(&fx);
    two = cf_hello(&fx, PROTO_ROLE_TRAINER, "two");
    cf_tick(&fx, fx.times.renew_ms + fx.times.reclaim_ms + 100);
    const struct proto_trainer_lease_reply *next = cf_train(&fx, two);
    ck_assert(next && next->granted);
    ck_assert_uint_eq(next->epoch, lease->epoch + 1);
    one = cf_hello(&fx, PROTO_ROLE_TRAINER, "one");
    CF_FAILS(SP_ESTALE, cf_trainer_renew(&fx, one, lease));
}
END_TEST

START_TEST(a_restarted_trainer_gets_its_run_at_once)
{
    cf_train(&fx, one);
    one = cf_hello(&fx, PROTO_ROLE_TRAINER, "one");
    const struct proto_trainer_lease_reply *next = cf_train(&fx, one);
    ck_assert(next && next->granted);
    ck_assert_uint_eq(next->epoch, 2);
    /* And so when the coordinator was restarted with it. */
    cf_restart(&fx);
    one = cf_hello(&fx, PROTO_ROLE_TRAINER, "one");
    next = cf_train(&fx, one);
    ck_assert(next && next->granted);
    ck_assert_uint_eq(next->epoch, 3);
}
END_TEST

START_TEST(released_run_is_free)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    struct proto_trainer_release release = {
        .worker_id = one, .run = WORLD_RUN, .epoch = lease->epoch, .reason = ""};
    CF_OK(cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_RELEASE, &release));
    CF_OK(cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_RELEASE, &release)); /* again */
    CF_FAILS(SP_ESTALE, cf_fetch(&fx, one, lease, 0, 1));
    const struct proto_trainer_lease_reply *next = cf_train(&fx, two);
    ck_assert(next && next->granted);
}
END_TEST

START_TEST(epoch_rises_over_iterations)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    cf_work_all(&fx, generator);
    CF_OK(cf_publish_begin(&fx, one, lease));
    CF_OK(cf_publish_commit(&fx, one, lease));
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    const struct proto_trainer_lease_reply *next = cf_train(&fx, one);
    ck_assert(next && next->granted);
    ck_assert_uint_eq(next->iteration, 1);
    ck_assert_uint_gt(next->epoch, lease->epoch);
    ck_assert_uint_eq(next->plan_replay, CF_TRAIN);
    /* Replayed pairs are scored anew, with the answers of the iteration before. */
    cf_work_all(&fx, generator);
    const struct cf_reply *reply = cf_fetch(&fx, one, next, 0, 2 * CF_TRAIN);
    CF_OK(reply);
    const struct proto_pairs_fetch_reply *pairs = reply->body;
    ck_assert_uint_eq(pairs->pairs_count, 2 * CF_TRAIN);
    uint32_t replayed = 0;
    for (uint32_t i = 0; i < pairs->pairs_count; i++) {
        const struct proto_train_pair *pair = &pairs->pairs[i];
        bool old = pair->source_iteration == 0;
        replayed += old;
        ck_assert_float_eq(pair->ref_real, -1);
        ck_assert_float_eq(pair->ref_generated, old ? -2 : -3);
        ck_assert_uint_eq(pair->generated_ids.count, 3);
        ck_assert_int_eq(pair->generated_ids.ids[0], 100 + (int32_t)pair->prompt);
    }
    ck_assert_uint_eq(replayed, CF_TRAIN);
}
END_TEST

static void pairs_skip_replays_of(const struct proto_trainer_lease_reply *lease, uint32_t prompt)
{
    const struct cf_reply *reply = cf_fetch(&fx, one, lease, 0, 2 * CF_TRAIN);
    CF_OK(reply);
    const struct proto_pairs_fetch_reply *pairs = reply->body;
    ck_assert_uint_eq(pairs->pairs_count, 2 * CF_TRAIN);
    uint32_t skipped = 0;
    for (uint32_t i = 0; i < pairs->pairs_count; i++) {
        const struct proto_train_pair *pair = &pairs->pairs[i];
        ck_assert_int_eq(pair->skipped, pair->source_iteration == 0 && pair->prompt == prompt);
        skipped += pair->skipped;
    }
    ck_assert_uint_eq(skipped, 1);
}

/* A prompt skipped in an iteration has no answer to replay in the next one: no work for it, and the
 * trainer gets it as skipped. _i: what happens to the coordinator in the next iteration. */
START_TEST(a_skipped_prompt_is_not_replayed)
{
    CF_OK(cf_verb(&fx, "skip", "{\"prompt\": 3}"));
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    cf_work_all(&fx, generator);
    CF_OK(cf_publish_begin(&fx, one, lease));
    CF_OK(cf_publish_commit(&fx, one, lease));
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    if (_i == 1) {
        cf_restart(&fx);
        cf_tick(&fx, fx.times.reclaim_ms);
        generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "g");
        one = cf_hello(&fx, PROTO_ROLE_TRAINER, "one");
    } else if (_i == 2) {
        CF_OK(cf_verb(&fx, "cancel", ""));
        CF_OK(cf_verb(&fx, "start", "{\"fresh\": true}"));
    }
    lease = cf_train(&fx, one);
    ck_assert(lease && lease->granted);
    ck_assert_uint_eq(lease->iteration, 1);
    cf_work_all(&fx, generator);
    pairs_skip_replays_of(lease, 3);
    CF_OK(cf_publish_begin(&fx, one, lease));
    CF_OK(cf_publish_commit(&fx, one, lease));
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
    /* The mark ends there: what was made anew is replayed. */
    CF_OK(cf_verb(&fx, "start-iteration", ""));
    lease = cf_train(&fx, one);
    ck_assert(lease && lease->granted);
    cf_work_all(&fx, generator);
    const struct cf_reply *reply = cf_fetch(&fx, one, lease, 0, 2 * CF_TRAIN);
    CF_OK(reply);
    const struct proto_pairs_fetch_reply *pairs = reply->body;
    ck_assert_uint_eq(pairs->pairs_count, 2 * CF_TRAIN);
    for (uint32_t i = 0; i < pairs->pairs_count; i++)
        ck_assert(!pairs->pairs[i].skipped);
}
END_TEST

START_TEST(pairs_come_as_a_prefix_in_plan_order)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    const struct cf_reply *fetch = cf_fetch(&fx, one, lease, 0, 6);
    ck_assert(!fetch->there); /* none is there */
    const struct proto_lease_reply *work = cf_lease(&fx, generator, 4);
    cf_submit(&fx, generator, work, 1, 1);
    ck_assert(!fetch->there); /* the second one is */
    cf_submit(&fx, generator, work, 0, 1);
    CF_OK(fetch);
    const struct proto_pairs_fetch_reply *pairs = fetch->body;
    ck_assert_uint_eq(pairs->pairs_count, 2);
    uint32_t order[CF_TRAIN];
    sp_rng_permutation(5, 0, 0, CF_TRAIN, order);
    ck_assert_uint_eq(pairs->pairs[0].position, order[0]);
    ck_assert_uint_eq(pairs->pairs[1].position, order[1]);
    CF_FAILS(SP_EINVAL, cf_fetch(&fx, one, lease, CF_TRAIN, 1));
    CF_FAILS(SP_EINVAL, cf_fetch(&fx, one, lease, 0, 0));
}
END_TEST

START_TEST(order_by_gap_is_a_barrier)
{
    cf_close(&fx);
    open_run("[train]\norder = gap\n");
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    const struct proto_lease_reply *work = cf_lease(&fx, generator, 4);
    ck_assert_uint_eq(work->items[0].position, 0);
    cf_submit(&fx, generator, work, 0, work->items_count);
    const struct cf_reply *fetch = cf_fetch(&fx, one, lease, 0, 4);
    ck_assert(!fetch->there);
    cf_work_all(&fx, generator);
    CF_OK(fetch);
    const struct proto_pairs_fetch_reply *before = fetch->body;
    ck_assert_uint_eq(before->pairs_count, 4);
    cf_restart(&fx); /* the order is durable */
    one = cf_hello(&fx, PROTO_ROLE_TRAINER, "one");
    fetch = cf_fetch(&fx, one, lease, 0, 4);
    CF_OK(fetch);
    const struct proto_pairs_fetch_reply *after = fetch->body;
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(after->pairs[i].position, before->pairs[i].position);
}
END_TEST

START_TEST(no_generated_answers_no_work)
{
    cf_close(&fx);
    open_run("[run]\nmode = sft\n");
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    const struct cf_reply *fetch = cf_fetch(&fx, one, lease, 0, CF_TRAIN);
    CF_OK(fetch);
    ck_assert_uint_eq(((const struct proto_pairs_fetch_reply *)fetch->body)->pairs_count, CF_TRAIN);
    const struct proto_lease_reply *work = cf_lease(&fx, generator, 8);
    ck_assert_uint_eq(work->items[0].set, PROTO_SET_HOLDOUT);
    ck_assert_uint_eq(work->items[0].kind, PROTO_WORK_SCORE);
    ck_assert_uint_eq(work->items[0].answer_b.count, 0);
    cf_submit(&fx, generator, work, 0, work->items_count);
    cf_work_all(&fx, generator);
    CF_OK(cf_publish_begin(&fx, one, lease));
    CF_OK(cf_publish_commit(&fx, one, lease));
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
}
END_TEST

START_TEST(the_trainers_own_references)
{
    cf_close(&fx);
    open_run("[run]\nmode = dpo\nscore_by = trainer\n");
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    struct proto_work_result results[2] = {
        {.position = 0, .prompt = 0, .logprob_a = -4, .logprob_b = -5},
        {.position = 1, .prompt = 1, .logprob_a = -6, .logprob_b = -7},
    };
    struct proto_refs_submit refs = {.worker_id = one,
                                     .run = WORLD_RUN,
                                     .epoch = lease->epoch,
                                     .results = results,
                                     .results_count = 2};
    CF_OK(cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_REFS_SUBMIT, &refs));
    results[1].logprob_b = NAN;
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_REFS_SUBMIT, &refs));
    results[1].logprob_b = -7;
    results[1].position = CF_TRAIN;
    CF_FAILS(SP_EINVAL, cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_REFS_SUBMIT, &refs));
    const struct cf_reply *fetch = cf_fetch(&fx, one, lease, 0, CF_TRAIN);
    CF_OK(fetch);
    const struct proto_pairs_fetch_reply *pairs = fetch->body;
    for (uint32_t i = 0; i < pairs->pairs_count; i++) {
        const struct proto_train_pair *pair = &pairs->pairs[i];
        if (pair->position == 0) {
            ck_assert_float_eq(pair->ref_real, -4);
            ck_assert_float_eq(pair->ref_generated, -5);
        } else if (pair->position > 1) {
            ck_assert_float_nan(pair->ref_real);
        }
        ck_assert_uint_eq(pair->generated_ids.count, 2);
    }
}
END_TEST

START_TEST(steps_are_remembered)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    CF_OK(report(one, lease, 1));
    CF_OK(report(one, lease, 2));
    CF_OK(report(one, lease, 1)); /* a resumed trainer repeats some */
    for (int life = 0; life < 2; life++) {
        const struct cf_reply *status = cf_verb(&fx, "status", "");
        CF_OK(status);
        ck_assert_ptr_nonnull(strstr(status->json, "\"step\":2,\"steps\":6"));
        ck_assert_ptr_nonnull(strstr(status->json, "\"tokens\":20"));
        cf_restart(&fx);
    }
}
END_TEST

/* It was lost while its commit was being verified, so nobody let go of the lease; the iteration is
 * over for it all the same, also when it pauses. */
START_TEST(what_is_published_is_not_taken_up_again)
{
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    cf_work_all(&fx, generator);
    CF_OK(cf_publish_begin(&fx, one, lease));
    fx.hold_work = true;
    ck_assert(!cf_publish_commit(&fx, one, lease)->there);
    cf_tick(&fx, fx.times.trainer_lease_ms + 100);
    cf_finish(&fx);
    CF_STATE(&fx, COORD_EVALUATING);
    CF_OK(cf_verb(&fx, "pause", ""));
    CF_FAILS(SP_ESTALE, report(one, lease, 1));
    CF_FAILS(SP_ESTALE, cf_trainer_renew(&fx, one, lease));
}
END_TEST

/* An epoch that was never granted is nobody's. */
START_TEST(an_epoch_to_come_is_refused)
{
    struct proto_trainer_lease_reply lease = *cf_train(&fx, one);
    CF_OK(report(one, &lease, 1));
    lease.epoch++;
    CF_FAILS(SP_ESTALE, report(one, &lease, 2));
    CF_FAILS(SP_ESTALE, cf_fetch(&fx, one, &lease, 0, 1));
    CF_FAILS(SP_ESTALE, cf_trainer_renew(&fx, one, &lease));
}
END_TEST

/* The commit of a holder that has been replaced while it was verified does not count. */
START_TEST(a_commit_of_an_earlier_epoch_is_refused)
{
    const struct proto_trainer_lease_reply *lost = cf_train(&fx, one);
    cf_work_all(&fx, generator);
    CF_OK(cf_publish_begin(&fx, one, lost));
    fx.hold_work = true;
    const struct cf_reply *commit = cf_publish_commit(&fx, one, lost);
    ck_assert(!commit->there);
    cf_tick(&fx, fx.times.trainer_lease_ms + 100);
    const struct proto_trainer_lease_reply *next = cf_train(&fx, two);
    ck_assert(next && next->granted);
    cf_finish(&fx);
    CF_FAILS(SP_EUNAVAIL, commit);
    CF_STATE(&fx, COORD_PUBLISHING);
    CF_OK(cf_publish_begin(&fx, two, next));
    CF_OK(cf_publish_commit(&fx, two, next));
    CF_STATE(&fx, COORD_EVALUATING);
}
END_TEST

static void publish(uint64_t worker, const struct proto_trainer_lease_reply *lease)
{
    cf_work_all(&fx, generator);
    CF_OK(cf_publish_begin(&fx, worker, lease));
    CF_OK(cf_publish_commit(&fx, worker, lease));
    CF_STATE(&fx, COORD_EVALUATING);
}

struct search {
    struct sp_digest wanted;
    uint32_t found;
};

static bool look(void *context, const struct sp_digest *digest)
{
    struct search *search = context;
    search->found += sp_digest_equal(digest, &search->wanted);
    return true;
}

/* What is published is referred to from the same transaction on, or a collection would take it. */
START_TEST(a_checkpoint_is_referred_to)
{
    struct store_run *run;
    struct store_iteration row;
    const struct proto_trainer_lease_reply *lease = cf_train(&fx, one);
    publish(one, lease);
    ck_assert_int_eq(store_run_open(fx.world.store, WORLD_RUN, &run, NULL), SP_OK);
    ck_assert_int_eq(store_iteration_get(run, 0, fx.arena, &row, NULL), SP_OK);
    struct search search = {.wanted = row.checkpoint_manifest};
    ck_assert(!sp_digest_is_zero(&search.wanted));
    ck_assert_int_eq(store_blob_refs_each(run, look, &search, NULL), SP_OK);
    ck_assert_uint_eq(search.found, 1);
}
END_TEST

/* A verdict that was asked for before the iteration was started afresh is about other pairs. */
START_TEST(a_verdict_of_an_earlier_attempt_is_dropped)
{
    publish(one, cf_train(&fx, one));
    CF_OK(cf_verb(&fx, "cancel", ""));
    CF_OK(cf_verb(&fx, "start", "{\"fresh\": true}"));
    publish(one, cf_train(&fx, one));
    fx.hold_work = true;
    cf_work_all(&fx, generator);
    struct coord_event old = {.kind = COORD_EV_JUDGED,
                              .run = WORLD_RUN,
                              .text = "{}",
                              .verdict = "improved",
                              .accepted = true};
    struct coord_actions actions = {0};
    for (old.attempt = 0; old.attempt < 2; old.attempt++) {
        coord_step(fx.core, &old, fx.now, &actions);
        ck_assert_uint_eq(actions.count, old.attempt); /* of this attempt it is written */
    }
    coord_actions_deinit(&actions);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_trainer");
    TCase *tc = tcase_create("trainer");
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, one_of_two_is_granted);
    tcase_add_test(tc, grant_is_durable_before_it_is_given);
    tcase_add_test(tc, retried_request_gets_its_grant);
    tcase_add_test(tc, lost_trainer_is_replaced_and_kept_out);
    tcase_add_test(tc, a_grant_that_nobody_takes_up_ends_soon);
    tcase_add_test(tc, renewing_keeps_the_lease);
    tcase_add_test(tc, a_lost_trainer_that_nobody_replaced_goes_on);
    tcase_add_test(tc, holder_goes_on_after_a_restart);
    tcase_add_test(tc, another_one_takes_over_when_the_holder_stays_away);
    tcase_add_test(tc, a_restarted_trainer_gets_its_run_at_once);
    tcase_add_test(tc, released_run_is_free);
    tcase_add_test(tc, epoch_rises_over_iterations);
    tcase_add_loop_test(tc, a_skipped_prompt_is_not_replayed, 0, 3);
    tcase_add_test(tc, pairs_come_as_a_prefix_in_plan_order);
    tcase_add_test(tc, order_by_gap_is_a_barrier);
    tcase_add_test(tc, no_generated_answers_no_work);
    tcase_add_test(tc, the_trainers_own_references);
    tcase_add_test(tc, steps_are_remembered);
    tcase_add_test(tc, what_is_published_is_not_taken_up_again);
    tcase_add_test(tc, an_epoch_to_come_is_refused);
    tcase_add_test(tc, a_commit_of_an_earlier_epoch_is_refused);
    tcase_add_test(tc, a_checkpoint_is_referred_to);
    tcase_add_test(tc, a_verdict_of_an_earlier_attempt_is_dropped);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

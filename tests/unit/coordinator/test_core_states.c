/* The states of an iteration: each survives a restart, pause and resume come back to each, and what
 * an administrator may ask for in each. */
#include "tests/unit/coordinator/core_fixture.h"

static struct cf fx;

static void open_world(void)
{
    cf_open(&fx, NULL);
}

static void close_world(void)
{
    cf_close(&fx);
}

/* Workers of the current life of the coordinator, and the trainer's grant. */
static uint64_t generator, trainer;
static const struct proto_trainer_lease_reply *grant;

static void join(void)
{
    generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "gen");
    trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "train");
}

static void to_running(void)
{
    CF_OK(cf_verb(&fx, "start-iteration", "{\"iteration\": 0}"));
    CF_STATE(&fx, COORD_RUNNING);
    join();
    cf_submit(&fx, generator, cf_lease(&fx, generator, 2), 0, 2);
    grant = cf_train(&fx, trainer);
    ck_assert(grant && grant->granted);
}

static void to_publishing(void)
{
    to_running();
    cf_work_all(&fx, generator);
    CF_OK(cf_publish_begin(&fx, trainer, grant));
    CF_STATE(&fx, COORD_PUBLISHING);
}

static void to_evaluating(void)
{
    to_publishing();
    fx.hold_work = false;
    CF_OK(cf_publish_commit(&fx, trainer, grant));
    CF_STATE(&fx, COORD_EVALUATING);
}

/* A number of the iteration's status, at its top or in one of its parts. */
static int64_t status_number(const char *part, const char *name)
{
    json_t *status = coord_status(fx.core, WORLD_RUN, fx.now);
    json_t *object =
        json_object_get(json_array_get(json_object_get(status, "runs"), 0), "iteration");
    if (part)
        object = json_object_get(object, part);
    ck_assert(json_is_integer(json_object_get(object, name)));
    int64_t value = json_integer_value(json_object_get(object, name));
    json_decref(status);
    return value;
}

/* planned, with the step to running not yet committed. */
static void to_planned(void)
{
    fx.hold = true;
    struct proto_admin admin = {.verb = "start-iteration", .run = WORLD_RUN, .args = ""};
    uint64_t handle = cf_send(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN, &admin);
    ck_assert(!cf_reply(&fx, handle)->there); /* not before it is durable */
    const struct coord_write *start = fx.held[0];
    ck_assert_int_eq(start->kind, COORD_W_START);
    store_begin(fx.world.store);
    struct coord_event event = {.kind = COORD_EV_WRITTEN, .write_id = start->id};
    world_check(&fx.world,
                coord_write_apply(fx.world.store, start, 1, fx.arena, &event.result, &fx.world.err),
                "start");
    world_check(&fx.world, store_commit(fx.world.store, &fx.world.err), "commit");
}

START_TEST(planned_survives)
{
    to_planned();
    cf_restart(&fx);
    CF_STATE(&fx, COORD_PLANNED);
    cf_tick(&fx, 50);
    CF_STATE(&fx, COORD_RUNNING);
}
END_TEST

START_TEST(running_survives)
{
    to_running();
    cf_restart(&fx);
    CF_STATE(&fx, COORD_RUNNING);
    /* The two pairs are there, the rest is handed out. */
    cf_tick(&fx, fx.times.reclaim_ms);
    generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "gen");
    uint32_t items = 0;
    for (int i = 0; i < 20; i++) {
        const struct cf_reply *reply = cf_reply(&fx, cf_poll(&fx, generator, 64, 0));
        if (!reply->there)
            break;
        const struct proto_lease_reply *lease = reply->body;
        if (lease->items[0].set != PROTO_SET_TRAIN)
            break;
        items += lease->items_count;
        cf_submit(&fx, generator, lease, 0, lease->items_count);
    }
    ck_assert_uint_eq(items, CF_TRAIN - 2);
}
END_TEST

START_TEST(publishing_survives)
{
    to_publishing();
    cf_restart(&fx);
    CF_STATE(&fx, COORD_PUBLISHING);
    trainer = cf_hello(&fx, PROTO_ROLE_TRAINER, "train");
    CF_OK(cf_publish_begin(&fx, trainer, grant));
    CF_OK(cf_publish_commit(&fx, trainer, grant));
    CF_STATE(&fx, COORD_EVALUATING);
}
END_TEST

START_TEST(evaluating_survives)
{
    to_evaluating();
    cf_restart(&fx);
    CF_STATE(&fx, COORD_EVALUATING);
    cf_tick(&fx, fx.times.reclaim_ms);
    generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "gen");
    const struct proto_lease_reply *lease = cf_lease(&fx, generator, 64);
    struct sp_digest checkpoint;
    sp_sha256_of("checkpoint 0", 12, &checkpoint);
    ck_assert(sp_digest_equal(&lease->checkpoint, &checkpoint));
    cf_submit(&fx, generator, lease, 0, lease->items_count);
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
}
END_TEST

START_TEST(closed_survives)
{
    to_evaluating();
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
    cf_restart(&fx);
    CF_STATE(&fx, COORD_CLOSED);
    /* The checkpoint is the next opponent. */
    CF_OK(cf_verb(&fx, "start-iteration", "{\"iteration\": 1}"));
    ck_assert_uint_eq(cf_number(&fx), 1);
    generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "gen");
    struct sp_digest checkpoint;
    sp_sha256_of("checkpoint 0", 12, &checkpoint);
    ck_assert(sp_digest_equal(&cf_lease(&fx, generator, 4)->checkpoint, &checkpoint));
}
END_TEST

START_TEST(verdict_is_computed_after_a_restart)
{
    to_evaluating();
    fx.hold_work = true;
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_EVALUATING);
    cf_restart(&fx);
    cf_tick(&fx, 50);
    CF_STATE(&fx, COORD_CLOSED);
}
END_TEST

/* Pause, restart, resume: back where it was. */
static void check_pause(enum coord_state state)
{
    CF_STATE(&fx, state);
    CF_OK(cf_verb(&fx, "pause", ""));
    CF_STATE(&fx, COORD_PAUSED);
    CF_OK(cf_verb(&fx, "pause", "")); /* again: no change */
    cf_restart(&fx);
    CF_STATE(&fx, COORD_PAUSED);
    ck_assert_str_eq(cf_reason(&fx), "by the administrator");
    /* Nothing is handed out meanwhile. */
    generator = cf_hello(&fx, PROTO_ROLE_GENERATOR, "gen");
    ck_assert(!cf_reply(&fx, cf_poll(&fx, generator, 4, 0))->there);
    fx.hold = true;
    uint64_t handle =
        cf_send(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN,
                &(struct proto_admin){.verb = "resume", .run = WORLD_RUN, .args = ""});
    CF_STATE(&fx, COORD_PAUSED); /* until it is durable */
    ck_assert(!cf_reply(&fx, handle)->there);
    CF_FAILS(SP_EUNAVAIL, cf_verb(&fx, "cancel", "")); /* one change at a time */
    cf_release(&fx);
    CF_OK(cf_reply(&fx, handle));
    if (state != COORD_PLANNED) {
        CF_STATE(&fx, state);
    } else {
        CF_STATE(&fx, COORD_RUNNING);
    }
}

START_TEST(pause_running)
{
    to_running();
    check_pause(COORD_RUNNING);
}
END_TEST

START_TEST(pause_publishing)
{
    to_publishing();
    check_pause(COORD_PUBLISHING);
}
END_TEST

START_TEST(pause_evaluating)
{
    to_evaluating();
    check_pause(COORD_EVALUATING);
}
END_TEST

START_TEST(pause_planned)
{
    /* planned lasts only as long as a commit: a pause that comes meanwhile is asked to come back.
     */
    to_planned();
    cf_restart(&fx);
    fx.hold = true;
    CF_STATE(&fx, COORD_PLANNED);
    CF_FAILS(SP_EUNAVAIL, (cf_tick(&fx, 50), cf_verb(&fx, "pause", "")));
    cf_release(&fx);
    check_pause(COORD_RUNNING);
}
END_TEST

START_TEST(pause_is_refused_where_it_makes_no_sense)
{
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "pause", ""));
    to_evaluating();
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "pause", ""));
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "cancel", ""));
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "retry", ""));
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "start", ""));
}
END_TEST

START_TEST(results_count_while_paused)
{
    to_running();
    const struct proto_lease_reply *lease = cf_lease(&fx, generator, 2);
    CF_OK(cf_verb(&fx, "pause", ""));
    ck_assert_uint_eq(cf_submit(&fx, generator, lease, 0, lease->items_count)->stored,
                      lease->items_count);
    const struct cf_reply *reply = cf_trainer_renew(&fx, trainer, grant);
    CF_OK(reply);
    ck_assert_uint_eq(((const struct proto_trainer_renew_reply *)reply->body)->command,
                      PROTO_TRAINER_PAUSE);
}
END_TEST

START_TEST(start_twice)
{
    CF_OK(cf_verb(&fx, "start-iteration", "{\"iteration\": 0}"));
    const struct cf_reply *again = cf_verb(&fx, "start-iteration", "{\"iteration\": 0}");
    CF_OK(again);
    ck_assert_ptr_nonnull(strstr(again->json, "\"created\":false"));
    again = cf_verb(&fx, "start-iteration", "");
    CF_OK(again);
    ck_assert_ptr_nonnull(strstr(again->json, "\"iteration\":0"));
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "start-iteration", "{\"iteration\": 1}"));
    cf_restart(&fx);
    CF_OK(cf_verb(&fx, "start-iteration", "{\"iteration\": 0}"));
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "start-iteration", "{\"iteration\": 7}"));
    CF_FAILS(SP_EFORMAT, cf_verb(&fx, "start-iteration", "{\"iteration\": \"x\"}"));
    CF_FAILS(SP_EFORMAT, cf_verb(&fx, "start-iteration", "[]"));
}
END_TEST

START_TEST(start_twice_at_once)
{
    fx.hold = true;
    struct proto_admin admin = {.verb = "start-iteration", .run = WORLD_RUN, .args = ""};
    uint64_t first = cf_send(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN, &admin);
    CF_FAILS(SP_EUNAVAIL, cf_ask(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN, &admin));
    cf_release(&fx);
    CF_OK(cf_reply(&fx, first));
}
END_TEST

START_TEST(cancel_and_start_again)
{
    to_running();
    CF_OK(cf_verb(&fx, "cancel", ""));
    CF_STATE(&fx, COORD_CANCELLED);
    CF_FAILS(SP_ESTALE, cf_fetch(&fx, trainer, grant, 0, 1));
    const struct cf_reply *renew = cf_trainer_renew(&fx, trainer, grant);
    CF_OK(renew);
    ck_assert_uint_eq(((const struct proto_trainer_renew_reply *)renew->body)->command,
                      PROTO_TRAINER_CANCEL);
    cf_restart(&fx);
    CF_STATE(&fx, COORD_CANCELLED);
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "start-iteration", ""));
    CF_OK(cf_verb(&fx, "start", ""));
    CF_STATE(&fx, COORD_RUNNING);
    ck_assert_int_eq(status_number("generation", "pairs_done"), 2); /* still there */
    join();
    grant = cf_train(&fx, trainer);
    ck_assert(grant->granted);
    ck_assert_uint_eq(grant->attempt & 0xfffff, 0);
}
END_TEST

START_TEST(cancel_and_start_fresh)
{
    to_running();
    CF_OK(cf_verb(&fx, "cancel", ""));
    CF_OK(cf_verb(&fx, "start", "{\"fresh\": true}"));
    CF_STATE(&fx, COORD_RUNNING);
    for (int life = 0; life < 2; life++) {
        ck_assert_int_eq(status_number(NULL, "attempt"), 1);
        ck_assert_int_eq(status_number("generation", "pairs_done"), 0);
        cf_restart(&fx);
    }
    join();
    grant = cf_train(&fx, trainer);
    ck_assert_uint_eq(grant->attempt & 0xfffff, 1);
}
END_TEST

START_TEST(cancel_evaluating_and_go_on)
{
    to_evaluating();
    CF_OK(cf_verb(&fx, "cancel", ""));
    CF_OK(cf_verb(&fx, "start", ""));
    CF_STATE(&fx, COORD_EVALUATING);
    cf_work_all(&fx, generator);
    CF_STATE(&fx, COORD_CLOSED);
}
END_TEST

START_TEST(failed_and_retried)
{
    to_running();
    struct proto_trainer_release release = {.worker_id = trainer,
                                            .run = WORLD_RUN,
                                            .epoch = grant->epoch,
                                            .failed = true,
                                            .reason = "the loss is not a number"};
    CF_OK(cf_ask(&fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_RELEASE, &release));
    CF_STATE(&fx, COORD_FAILED);
    cf_restart(&fx);
    CF_STATE(&fx, COORD_FAILED);
    ck_assert_str_eq(cf_reason(&fx), "the loss is not a number");
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "resume", ""));
    CF_OK(cf_verb(&fx, "retry", ""));
    CF_STATE(&fx, COORD_RUNNING);
    ck_assert_uint_eq(cf_number(&fx), 0);
    /* The one that failed has let go of it: nobody is waited for. */
    grant = cf_train(&fx, cf_hello(&fx, PROTO_ROLE_TRAINER, "another"));
    ck_assert(grant && grant->granted);
}
END_TEST

START_TEST(damaged_publication_is_refused)
{
    to_publishing();
    fx.verify_fails = true;
    CF_FAILS(SP_ECORRUPT, cf_publish_commit(&fx, trainer, grant));
    CF_STATE(&fx, COORD_PUBLISHING);
    fx.verify_fails = false;
    CF_OK(cf_publish_commit(&fx, trainer, grant));
    CF_OK(cf_publish_commit(&fx, trainer, grant)); /* its reply was lost */
    CF_STATE(&fx, COORD_EVALUATING);
}
END_TEST

START_TEST(cancel_while_verifying)
{
    to_publishing();
    fx.hold_work = true;
    const struct cf_reply *commit = cf_publish_commit(&fx, trainer, grant);
    ck_assert(!commit->there);
    CF_OK(cf_verb(&fx, "cancel", ""));
    CF_OK(cf_verb(&fx, "start", "{\"fresh\": true}"));
    CF_FAILS(SP_EUNAVAIL, commit);
    cf_finish(&fx); /* too late: it is for another attempt */
    CF_STATE(&fx, COORD_RUNNING);
}
END_TEST

START_TEST(published_too_early)
{
    to_running();
    CF_FAILS(SP_ESTATE, cf_publish_begin(&fx, trainer, grant));
    CF_FAILS(SP_ESTATE, cf_publish_commit(&fx, trainer, grant));
}
END_TEST

START_TEST(roles)
{
    struct proto_admin pause = {.verb = "pause", .run = WORLD_RUN, .args = ""};
    struct proto_admin status = {.verb = "status", .run = "", .args = ""};
    struct proto_admin unknown = {.verb = "status", .run = "none", .args = ""};
    CF_FAILS(SP_EDENIED, cf_ask(&fx, PROTO_ROLE_READONLY, PROTO_ADMIN, &pause));
    CF_FAILS(SP_EDENIED, cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_ADMIN, &pause));
    CF_OK(cf_ask(&fx, PROTO_ROLE_READONLY, PROTO_ADMIN, &status));
    CF_FAILS(SP_ENOTFOUND, cf_ask(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN, &unknown));
    CF_FAILS(SP_EUNSUPPORTED, cf_verb(&fx, "dance", ""));
}
END_TEST

START_TEST(a_full_disk_pauses)
{
    to_running();
    coord_set_disk_low(fx.core, true);
    cf_tick(&fx, 50);
    CF_STATE(&fx, COORD_PAUSED);
    ck_assert_ptr_nonnull(strstr(cf_reason(&fx), "disk"));
    coord_set_disk_low(fx.core, false);
    CF_OK(cf_verb(&fx, "resume", ""));
    cf_tick(&fx, 50);
    CF_STATE(&fx, COORD_RUNNING);
}
END_TEST

START_TEST(transitions)
{
    /* Only these; everything else is refused. */
    static const char allowed[COORD_STATE_COUNT][COORD_STATE_COUNT] = {
        /*                 pl ru pu ev cl pa fa ca */
        [COORD_PLANNED] = {0, 1, 0, 0, 0, 1, 1, 1},
        [COORD_RUNNING] = {0, 0, 1, 0, 0, 1, 1, 1},
        [COORD_PUBLISHING] = {0, 0, 0, 1, 0, 1, 1, 1},
        [COORD_EVALUATING] = {0, 0, 0, 0, 1, 1, 1, 1},
        [COORD_CLOSED] = {0, 0, 0, 0, 0, 0, 0, 0},
        [COORD_PAUSED] = {1, 1, 1, 1, 0, 0, 0, 1},
        [COORD_FAILED] = {1, 1, 1, 1, 0, 0, 0, 1},
        [COORD_CANCELLED] = {0, 1, 0, 1, 0, 0, 0, 0},
    };
    for (int from = 0; from < COORD_STATE_COUNT; from++) {
        for (int to = 0; to < COORD_STATE_COUNT; to++)
            ck_assert_int_eq(coord_transition_allowed(from, to), allowed[from][to]);
        enum coord_state parsed;
        ck_assert_int_eq(coord_state_parse(coord_state_name(from), &parsed, NULL), SP_OK);
        ck_assert_int_eq(parsed, from);
    }
    enum coord_state parsed;
    ck_assert_int_eq(coord_state_parse("asleep", &parsed, NULL), SP_EFORMAT);
}
END_TEST

/* Somebody has asked for the same evaluation and it is still being made: the run asks once more,
 * not at once; after another failure it doesn't. */
START_TEST(an_evaluation_that_somebody_makes_is_asked_for_again)
{
    cf_evaluated(&fx, SP_EUNAVAIL);
    ck_assert_uint_eq(fx.evaluations, 0);
    cf_tick(&fx, 50);
    ck_assert_uint_eq(fx.evaluations, 1);
    cf_tick(&fx, 100);
    ck_assert_uint_eq(fx.evaluations, 1);
    cf_evaluated(&fx, SP_EFORMAT);
    cf_tick(&fx, 100);
    ck_assert_uint_eq(fx.evaluations, 1);
}
END_TEST

/* What only the checkpoint can answer has no answer before there is one, whoever says so. */
START_TEST(no_results_of_a_checkpoint_that_is_not_published)
{
    to_running();
    struct proto_work_result result = {
        .set = PROTO_SET_HOLDOUT_PLAYER, .logprob_ids = NAN, .logprob_a = -1, .logprob_b = -2};
    struct proto_submit submit = {
        .worker_id = generator, .run = WORLD_RUN, .results = &result, .results_count = 1};
    const struct cf_reply *reply = cf_ask(&fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT, &submit);
    CF_FAILS(SP_EINVAL, reply);
    ck_assert_ptr_nonnull(strstr(reply->text, "not published yet"));
}
END_TEST

/* A prompt is taken out of the plan of an iteration that is being trained, and no later: the pairs
 * of what is being published are those that it was trained on. */
START_TEST(no_skip_while_the_publication_begins)
{
    to_running();
    cf_work_all(&fx, generator);
    fx.hold = true;
    ck_assert(!cf_publish_begin(&fx, trainer, grant)->there);
    CF_STATE(&fx, COORD_RUNNING); /* until it is durable */
    CF_FAILS(SP_EUNAVAIL, cf_verb(&fx, "skip", "{\"prompt\": 1}"));
    cf_release(&fx);
    CF_STATE(&fx, COORD_PUBLISHING);
    CF_FAILS(SP_ESTATE, cf_verb(&fx, "skip", "{\"prompt\": 1}"));
}
END_TEST

/* The checkpoint of an evaluation is given: dropping it would leave an iteration in training, with
 * nothing to train. */
START_TEST(an_evaluation_is_not_started_afresh)
{
    struct proto_admin ask = {.verb = "start", .run = "evaluation.1", .args = "{\"fresh\": true}"};
    struct coord_run_info info = {.name = sp_xstrdup(ask.run),
                                  .prompts = {0, 2, 0},
                                  .parent = sp_xstrdup(WORLD_RUN),
                                  .task = sp_xstrdup("sort")};
    struct coord_iteration_info iteration = {.state = COORD_CANCELLED,
                                             .resume = COORD_EVALUATING,
                                             .checkpoint = {{1}},
                                             .checkpoint_manifest = {{2}}};
    struct sp_digest none = {{0}};
    sp_config_init(&run_settings_spec, &info.settings);
    info.settings.mode = RUN_MODE_EVALUATE;
    coord_core_add_run(fx.core, &info, &none, &none, 1, "", fx.now);
    coord_core_add_iteration(fx.core, ask.run, &iteration, fx.now);
    CF_FAILS(SP_ESTATE, cf_ask(&fx, PROTO_ROLE_ADMIN, PROTO_ADMIN, &ask));
    uint32_t number;
    const char *reason;
    ck_assert_int_eq(coord_iteration_state(fx.core, ask.run, &number, &reason), COORD_CANCELLED);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("core_states");
    TCase *tc = tcase_create("states");
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_test(tc, planned_survives);
    tcase_add_test(tc, running_survives);
    tcase_add_test(tc, publishing_survives);
    tcase_add_test(tc, evaluating_survives);
    tcase_add_test(tc, closed_survives);
    tcase_add_test(tc, verdict_is_computed_after_a_restart);
    tcase_add_test(tc, pause_running);
    tcase_add_test(tc, pause_publishing);
    tcase_add_test(tc, pause_evaluating);
    tcase_add_test(tc, pause_planned);
    tcase_add_test(tc, pause_is_refused_where_it_makes_no_sense);
    tcase_add_test(tc, results_count_while_paused);
    tcase_add_test(tc, start_twice);
    tcase_add_test(tc, start_twice_at_once);
    tcase_add_test(tc, cancel_and_start_again);
    tcase_add_test(tc, cancel_and_start_fresh);
    tcase_add_test(tc, cancel_evaluating_and_go_on);
    tcase_add_test(tc, failed_and_retried);
    tcase_add_test(tc, damaged_publication_is_refused);
    tcase_add_test(tc, cancel_while_verifying);
    tcase_add_test(tc, published_too_early);
    tcase_add_test(tc, no_results_of_a_checkpoint_that_is_not_published);
    tcase_add_test(tc, no_skip_while_the_publication_begins);
    tcase_add_test(tc, an_evaluation_is_not_started_afresh);
    tcase_add_test(tc, roles);
    tcase_add_test(tc, a_full_disk_pauses);
    tcase_add_test(tc, an_evaluation_that_somebody_makes_is_asked_for_again);
    tcase_add_test(tc, transitions);
    suite_add_tcase(s, tc);
    return s;
}

SPIN_CHECK_MAIN(suite())

#include "trainer/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#define CALL_GIVE_UP_MS 5000
#define UNFIT_PAUSE_MS 5000
#define RELEASE_TRIES 3
#define DISK_TRIES 60
#define DISK_PAUSE_MS 1000
#define STEP_MS 50

enum sp_err train_session_new(struct trainer *trainer,
                              const struct proto_trainer_lease_reply *grant,
                              struct train_session **ret, struct sp_error *err)
{
    if (grant->run == NULL || !sp_run_name_is_good(grant->run)) /* snapshots are named after it */
        return sp_fail(err, SP_EFORMAT, "grant: no name of a run");
    if (grant->plan_pairs == 0 || grant->plan_pairs > UINT32_MAX || grant->epoch == 0 ||
        grant->iteration >= SP_RNG_ITERATIONS)
        return sp_fail(err, SP_EFORMAT, "grant: %llu pairs, epoch %llu, iteration %u",
                       (unsigned long long)grant->plan_pairs, (unsigned long long)grant->epoch,
                       grant->iteration);
    json_t *json = NULL;
    struct train_session *session = sp_xalloc(sizeof(*session));
    sp_config_init(&run_settings_spec, &session->settings);
    enum sp_err rc =
        sp_json_parse(grant->settings, strlen(grant->settings), "run settings", &json, err);
    if (rc == SP_OK)
        rc = run_settings_from_json(json, &session->settings, err);
    if (rc == SP_OK && session->settings.mode == RUN_MODE_EVALUATE)
        rc = sp_fail(err, SP_EFORMAT, "run %s is an evaluation: there is nothing to train",
                     grant->run);
    json_decref(json);
    if (rc != SP_OK) {
        train_session_free(session);
        return sp_wrap(err, rc, "grant");
    }
    struct train_identity *id = &session->identity;
    snprintf(id->run, sizeof(id->run), "%s", grant->run);
    snprintf(id->numerics_class, sizeof(id->numerics_class), "%s",
             trainer->backend->numerics_class);
    id->iteration = grant->iteration;
    id->attempt = grant->attempt;
    id->plan = grant->plan;
    id->opponent = grant->opponent;
    sp_sha256_of(grant->settings, strlen(grant->settings), &id->settings);
    id->weights = session->settings.train_weights == RUN_DTYPE_BF16 ? TN_BF16 : TN_F32;
    id->state = session->settings.optimizer_state == RUN_STATE_8BIT ? TN_STATE_8BIT : TN_STATE_F32;
    session->trainer = trainer;
    session->epoch = grant->epoch;
    session->lease_ms = grant->lease_ms;
    session->plan_pairs = grant->plan_pairs;
    session->rewind = (struct train_rewind){grant->rewind_epoch, grant->rewind_steps};
    session->manifest = grant->manifest;
    session->unreported = sp_xarray(TRAIN_SNAPSHOT_UNREPORTED_MAX, sizeof(*session->unreported));
    *ret = session;
    return SP_OK;
}

void train_session_free(struct train_session *session)
{
    if (session == NULL)
        return;
    train_reporter_close(session->reporter, 0);
    spin_step_free(session->step);
    model_free(session->model);
    ckpt_cache_release(session->weights);
    sp_config_deinit(&run_settings_spec, &session->settings);
    free(session->pairs);
    free(session->unreported);
    free(session);
}

enum train_end train_session_poll(const struct train_session *session)
{
    sp_daemon_watchdog();
    switch (train_reporter_command(session->reporter)) {
    case TRAIN_LOST:
        return TRAIN_END_LOST;
    case TRAIN_CANCEL:
        return TRAIN_END_CANCELLED;
    case TRAIN_PAUSE:
        return TRAIN_END_PAUSED;
    default:
        return trainer_stopping(session->trainer) ? TRAIN_END_STOPPED : TRAIN_END_NONE;
    }
}

enum train_end train_session_error(struct train_session *session, enum sp_err rc,
                                   const struct sp_error *err)
{
    session->err = *err;
    enum train_end asked = train_session_poll(session);
    if (asked != TRAIN_END_NONE)
        return asked;
    return rc == SP_ESTALE ? TRAIN_END_LOST : TRAIN_END_FAILED;
}

enum train_end train_session_disk_error(struct train_session *session, enum sp_err rc,
                                        const struct sp_error *err, uint32_t *tries)
{
    enum train_end end = train_session_poll(session);
    if (end != TRAIN_END_NONE || rc != SP_EIO || ++*tries > DISK_TRIES)
        return train_session_error(session, rc, err);
    sp_warn("%s: trying again", err->text);
    train_reporter_activity(session->reporter, "waits for its disk: %.100s", err->text);
    for (int64_t left = DISK_PAUSE_MS; left > 0 && end == TRAIN_END_NONE; left -= STEP_MS) {
        sp_sleep_ms(STEP_MS);
        end = train_session_poll(session);
    }
    return end;
}

enum train_end train_session_call(struct train_session *session, enum proto_type type, void *body,
                                  const void **ret_reply)
{
    for (;;) {
        struct sp_error err = {0};
        enum train_end end = train_session_poll(session);
        if (end != TRAIN_END_NONE)
            return end;
        enum sp_err rc =
            worker_call(session->trainer->peer, type, body, CALL_GIVE_UP_MS, ret_reply, &err);
        if (rc == SP_OK)
            return TRAIN_END_NONE;
        if (rc != SP_EUNAVAIL && rc != SP_ETIMEOUT && rc != SP_ECANCELED)
            return train_session_error(session, rc, &err);
    }
}

/* The lease goes back; not after publication (it ended there) and not when it was lost. */
static void release(struct train_session *session, enum train_end end)
{
    bool failed = end == TRAIN_END_FAILED;
    struct proto_trainer_release request = {
        .run = session->identity.run,
        .iteration = session->identity.iteration,
        .epoch = session->epoch,
        .failed = failed,
        .reason = failed ? session->err.text : "",
    };
    struct sp_error err = {0};
    enum sp_err rc = SP_ECANCELED;
    for (int i = 0; i < RELEASE_TRIES && rc == SP_ECANCELED; i++) {
        /* A wake-up that came while nothing was waiting ends one call. A failure must get through.
         */
        int64_t give_up_ms = failed && !trainer_stopping(session->trainer)
                                 ? -1
                                 : session->trainer->settings->stop_ms;
        const void *reply;
        rc = worker_call(session->trainer->peer, PROTO_TRAINER_RELEASE, &request, give_up_ms,
                         &reply, &err);
    }
    if (rc != SP_OK)
        sp_warn("lease not given back: %s", err.text); /* it expires by itself */
}

static void on_command(void *context)
{
    struct train_session *session = context;
    worker_peer_interrupt(session->trainer->peer);
}

static enum train_end start_reporter(struct train_session *session)
{
    struct train_reporter_options options = {
        .link = session->trainer->link,
        .backend = session->trainer->backend,
        .run = session->identity.run,
        .iteration = session->identity.iteration,
        .epoch = session->epoch,
        .lease_ms = session->lease_ms,
        .steps_total = session->steps_total,
        .report_ms = session->trainer->settings->report_ms,
        .on_command = on_command,
        .context = session,
    };
    struct sp_error err = {0};
    enum sp_err rc = train_reporter_start(&options, &session->reporter, &err);
    if (rc == SP_OK)
        return TRAIN_END_NONE;
    session->err = err;
    return TRAIN_END_FAILED;
}

static enum train_end run(struct train_session *session)
{
    enum train_end end = start_reporter(session);
    if (end == TRAIN_END_NONE)
        end = train_session_prepare(session);
    if (end == TRAIN_END_NONE && session->done == 0)
        end = train_session_score(session);
    if (end == TRAIN_END_NONE)
        end = train_session_steps(session);
    if (end == TRAIN_END_NONE)
        end = train_session_publish(session);
    return end;
}

/* What is on the disk when the session is over. */
static void settle_snapshot(struct train_session *session, enum train_end end)
{
    struct sp_error err = {0};
    const char *dir = session->trainer->dir, *run_name = session->identity.run;
    bool stays = end == TRAIN_END_PAUSED || end == TRAIN_END_STOPPED;
    if (stays && session->step != NULL && session->done > session->snapshot_step) {
        if (train_session_snapshot(session) != TRAIN_END_NONE)
            sp_warn("%s", session->err.text);
    } else if (end == TRAIN_END_PUBLISHED || end == TRAIN_END_CANCELLED) {
        if (train_snapshot_drop(dir, run_name, &err) != SP_OK)
            sp_warn("%s", err.text);
    }
}

enum train_end train_session_run(struct train_session *session)
{
    static const char *const words[] = {"",     "published", "paused", "cancelled",
                                        "lost", "stopped",   "failed", "not for this trainer"};
    struct train_session *s = session;
    sp_info("%s iteration %u: granted (epoch %llu, %llu pairs)", s->identity.run,
            s->identity.iteration, (unsigned long long)s->epoch, (unsigned long long)s->plan_pairs);
    enum train_end end = run(s);
    settle_snapshot(s, end);
    if (end == TRAIN_END_LOST && s->err.text[0] == '\0')
        sp_fail(&s->err, SP_ESTALE, "%s", train_reporter_reason(s->reporter));
    bool says_why = end == TRAIN_END_FAILED || end == TRAIN_END_LOST || end == TRAIN_END_UNFIT;
    sp_log(end == TRAIN_END_FAILED ? SP_LOG_ERROR : SP_LOG_INFO,
           "%s iteration %u: %s after %llu of %llu steps%s%s", s->identity.run,
           s->identity.iteration, words[end], (unsigned long long)s->done,
           (unsigned long long)s->steps_total, says_why ? ": " : "", says_why ? s->err.text : "");
    train_reporter_close(s->reporter, end == TRAIN_END_LOST ? 0 : s->trainer->settings->stop_ms);
    s->reporter = NULL;
    if (end != TRAIN_END_PUBLISHED && end != TRAIN_END_LOST)
        release(s, end);
    for (int64_t left = UNFIT_PAUSE_MS; end == TRAIN_END_UNFIT && left > 0; left -= 100)
        if (!trainer_stopping(s->trainer))
            sp_sleep_ms(100); /* leave the run to a trainer that is made for it */
    return end;
}

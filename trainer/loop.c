#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "trainer/session.h"
#include "trainer/stream.h"

#define TAKE_MS 100
#define LOG_EVERY_MS 10000
#define KEYS_BYTES 400
/* A first margin above this says that references and starting weights don't belong together. */
#define FIRST_MARGIN 1e-2

/* ---- pairs ---- */

/* Views of the pairs that are in the step; how many. */
static int32_t view_pairs(const struct train_batch *batch, bool unscored_only,
                          struct spin_pair *ret, uint32_t *ret_index)
{
    int32_t n = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct proto_train_pair *p = &batch->pairs[i];
        if (p->skipped || (unscored_only && !isnan(p->ref_real) && !isnan(p->ref_generated)))
            continue;
        if (ret_index != NULL)
            ret_index[n] = i;
        ret[n++] = (struct spin_pair){
            .prompt = p->prompt_ids.ids,
            .n_prompt = (int32_t)p->prompt_ids.count,
            .real = p->real_ids.ids,
            .n_real = (int32_t)p->real_ids.count,
            .generated = p->generated_ids.ids,
            .n_generated = (int32_t)p->generated_ids.count,
            .ref_real = p->ref_real,
            .ref_generated = p->ref_generated,
        };
    }
    return n;
}

/* The next batch, however long it takes, unless the session is to end. */
static enum train_end next_batch(struct train_session *session, struct train_stream *stream,
                                 const char *what, struct train_batch **ret)
{
    bool said = false;
    for (;;) {
        struct sp_error err = {0};
        enum train_end end = train_session_poll(session);
        if (end != TRAIN_END_NONE)
            return end;
        enum sp_err rc = train_stream_take(stream, TAKE_MS, ret, &err);
        if (rc != SP_OK)
            return train_session_error(session, rc, &err);
        if (*ret != NULL)
            return TRAIN_END_NONE;
        sp_daemon_watchdog();
        if (!said)
            train_reporter_activity(session->reporter,
                                    "%s: waiting for pair %" PRIu64 " of %" PRIu64, what,
                                    train_stream_position(stream), session->plan_pairs);
        said = true;
    }
}

static enum train_end open_stream(struct train_session *session, uint32_t batch_pairs,
                                  uint64_t first, uint64_t last, struct train_stream **ret)
{
    struct train_stream_options options = {
        .link = session->trainer->link,
        .run = session->identity.run,
        .iteration = session->identity.iteration,
        .epoch = session->epoch,
        .plan_pairs = session->plan_pairs,
        .batch_pairs = batch_pairs,
        .first_batch = first,
        .last_batch = last,
        .prefetch = (uint32_t)session->trainer->settings->prefetch_batches,
    };
    struct sp_error err = {0};
    enum sp_err rc = train_stream_start(&options, ret, &err);
    return rc == SP_OK ? TRAIN_END_NONE : train_session_error(session, rc, &err);
}

/* ---- score_by = trainer ---- */

static enum train_end score_batch(struct train_session *session, const struct train_batch *batch)
{
    uint32_t n_batch = batch->count;
    struct spin_pair *pairs = sp_xarray(n_batch, sizeof(*pairs));
    uint32_t *index = sp_xarray(n_batch, sizeof(*index));
    float *real = sp_xarray(n_batch, sizeof(*real));
    float *generated = sp_xarray(n_batch, sizeof(*generated));
    struct proto_work_result *results = sp_xarray(n_batch, sizeof(*results));
    struct sp_error err = {0};
    enum train_end end = TRAIN_END_NONE;
    int32_t n = view_pairs(batch, true, pairs, index);
    if (n > 0) {
        enum sp_err rc = spin_step_score(session->step, pairs, n, real, generated, &err);
        if (rc != SP_OK)
            end = train_session_error(session, rc, &err);
    }
    for (int32_t i = 0; i < n && end == TRAIN_END_NONE; i++) {
        const struct proto_train_pair *pair = &batch->pairs[index[i]];
        if (!isfinite(real[i]) || !isfinite(generated[i])) {
            sp_fail(&err, SP_ENUMERIC,
                    "scoring: the log-probability of an answer to prompt %u is not finite; the "
                    "opponent's weights are unusable",
                    pair->prompt);
            end = train_session_error(session, SP_ENUMERIC, &err);
            break;
        }
        results[i] = (struct proto_work_result){
            .set = PROTO_SET_TRAIN,
            .position = pair->position,
            .prompt = pair->prompt,
            .sample = pair->sample,
            .logprob_ids = nanf(""),
            .logprob_a = real[i],
            .logprob_b = generated[i],
        };
    }
    if (end == TRAIN_END_NONE && n > 0) {
        struct proto_refs_submit request = {
            .run = session->identity.run,
            .iteration = session->identity.iteration,
            .epoch = session->epoch,
            .results = results,
            .results_count = (uint32_t)n,
        };
        const void *reply;
        end = train_session_call(session, PROTO_REFS_SUBMIT, &request, &reply);
    }
    free(pairs);
    free(index);
    free(real);
    free(generated);
    free(results);
    return end;
}

enum train_end train_session_score(struct train_session *session)
{
    if (session->mode == SPIN_MODE_SFT || session->settings.score_by != RUN_SCORE_BY_TRAINER)
        return TRAIN_END_NONE;
    uint32_t size = (uint32_t)session->trainer->settings->score_pairs;
    uint64_t batches = train_batches_per_pass(session->plan_pairs, size);
    struct train_stream *stream = NULL;
    enum train_end end = open_stream(session, size, 0, batches, &stream);
    for (uint64_t i = 0; end == TRAIN_END_NONE && i < batches; i++) {
        struct train_batch *batch = NULL;
        end = next_batch(session, stream, "scoring", &batch);
        if (end != TRAIN_END_NONE)
            break;
        train_reporter_activity(session->reporter, "scoring pair %" PRIu64 " of %" PRIu64,
                                batch->start, session->plan_pairs);
        end = score_batch(session, batch);
        train_batch_free(batch);
    }
    train_stream_close(stream);
    return end;
}

/* ---- steps ---- */

static void forget_acknowledged(struct train_session *session)
{
    uint64_t acknowledged = train_reporter_acknowledged(session->reporter);
    uint32_t n = 0;
    while (n < session->unreported_count && session->unreported[n].step <= acknowledged)
        n++;
    session->unreported_count -= n;
    memmove(session->unreported, session->unreported + n,
            session->unreported_count * sizeof(*session->unreported));
}

static void report(struct train_session *session, const struct proto_step_metrics *metrics)
{
    forget_acknowledged(session);
    /* Full only when the coordinator has been away for thousands of steps. */
    if (session->unreported_count == TRAIN_SNAPSHOT_UNREPORTED_MAX) {
        memmove(session->unreported, session->unreported + 1,
                (TRAIN_SNAPSHOT_UNREPORTED_MAX - 1) * sizeof(*session->unreported));
        session->unreported_count--;
    }
    session->unreported[session->unreported_count++] = *metrics;
    train_reporter_step(session->reporter, metrics);
}

enum train_end train_session_snapshot(struct train_session *session)
{
    struct sp_error err = {0};
    struct spin_optimizer *optimizer = spin_step_optimizer(session->step);
    int64_t start_ms = sp_now_ms();
    forget_acknowledged(session);
    struct train_snapshot snapshot = {
        .identity = session->identity,
        .fencing_epoch = session->epoch,
        .step = session->done,
        .updates = spin_optimizer_updates(optimizer),
        .chain = session->chain,
        .totals = session->totals,
        .unreported = session->unreported,
        .unreported_count = session->unreported_count,
        .backend = session->trainer->backend,
    };
    snapshot.params = model_params(session->model, &snapshot.n_params);
    snapshot.state = spin_optimizer_state(optimizer, &snapshot.state_bytes);
    enum sp_err rc = train_snapshot_write(session->trainer->dir, &snapshot, &err);
    if (rc == SP_EIO) {
        /* Without it a death costs more time; the training itself needs no disk. */
        sp_warn("step %" PRIu64 ": no snapshot: %s", session->done, err.text);
        return TRAIN_END_NONE;
    }
    if (rc != SP_OK)
        return train_session_error(session, rc, &err);
    session->snapshot_step = session->done;
    sp_debug("snapshot of step %" PRIu64 " in %" PRId64 " ms", session->done,
             sp_now_ms() - start_ms);
    return TRAIN_END_NONE;
}

/* Whether the iteration can go on after this step. */
static enum train_end check_step(struct train_session *session, const struct train_batch *batch,
                                 const struct spin_metrics *metrics)
{
    const struct run_settings *s = &session->settings;
    char keys[KEYS_BYTES];
    struct sp_error err;
    if (metrics->nonfinite) {
        train_batch_keys(batch, keys, sizeof(keys));
        sp_warn("step %" PRIu64 ": the %s is not finite, no update (pairs %s)", session->done,
                metrics->nonfinite_what, keys);
        if (session->totals.nonfinite > (uint64_t)s->max_nonfinite_steps)
            return train_session_error(
                session,
                sp_fail(&err, SP_ENUMERIC,
                        "step %" PRIu64 ": the %s is not finite for the %" PRIu64
                        "th time, [train] max_nonfinite_steps is %" PRId64 "; pairs %s",
                        session->done, metrics->nonfinite_what, session->totals.nonfinite,
                        s->max_nonfinite_steps, keys),
                &err);
        return TRAIN_END_NONE;
    }
    if (session->mode == SPIN_MODE_SFT)
        return TRAIN_END_NONE;
    if (session->done == 1 && metrics->margin_abs_max > FIRST_MARGIN)
        sp_warn("the first step's largest |margin| is %g, not 0: references and starting weights "
                "don't agree",
                metrics->margin_abs_max);
    double change = train_logp_real_change(batch, metrics);
    if (s->guard_nats > 0 && change < -s->guard_nats)
        return train_session_error(
            session,
            sp_fail(&err, SP_ENUMERIC,
                    "guard: at step %" PRIu64 " the log-probability of a human answer's token has "
                    "fallen by %.3f nats since the start, [train] guard_nats is %g: lower the "
                    "learning rate",
                    session->done, -change, s->guard_nats),
            &err);
    return TRAIN_END_NONE;
}

/* One optimizer step over a batch; everything that a snapshot holds moves together. */
static enum train_end one_step(struct train_session *session, const struct train_batch *batch)
{
    struct spin_metrics metrics = {0};
    struct sp_error err = {0};
    int64_t start_ms = sp_now_ms();
    int32_t n = view_pairs(batch, false, session->pairs, NULL);
    if (n > 0) { /* a batch whose every pair was removed has no term */
        enum sp_err rc =
            spin_step_run(session->step, (int64_t)session->done, session->pairs, n, &metrics, &err);
        if (rc != SP_OK) {
            char keys[KEYS_BYTES];
            train_batch_keys(batch, keys, sizeof(keys));
            rc = sp_wrap(&err, rc, "step %" PRIu64 " (pairs %s)", session->done + 1, keys);
            return train_session_error(session, rc, &err);
        }
    }
    session->done++;
    for (uint32_t i = 0; i < batch->count; i++)
        train_chain_add(&session->chain, &batch->pairs[i]);
    struct train_step_context context = {
        .step = session->done,
        .plan_pairs = session->plan_pairs,
        .iteration = session->identity.iteration,
        .beta = session->beta,
        .has_reference = session->mode != SPIN_MODE_SFT,
        .milliseconds = (uint64_t)(sp_now_ms() - start_ms),
    };
    struct proto_step_metrics reported;
    train_metrics_fill(&context, batch, &metrics, &reported);
    train_totals_add(&session->totals, &reported);
    report(session, &reported);
    return n > 0 ? check_step(session, batch, &metrics) : TRAIN_END_NONE;
}

static void log_progress(struct train_session *session, int64_t *last_ms)
{
    int64_t now_ms = sp_now_ms();
    sp_daemon_watchdog();
    if (now_ms - *last_ms < LOG_EVERY_MS && session->done != 1 &&
        session->done != session->steps_total)
        return;
    *last_ms = now_ms;
    const struct train_totals *t = &session->totals;
    double seconds = (double)t->milliseconds / 1000.0;
    sp_info("%s iteration %u: step %" PRIu64 " of %" PRIu64 ", loss %.4f, %.0f tokens/s",
            session->identity.run, session->identity.iteration, session->done, session->steps_total,
            t->loss_last, seconds > 0 ? (double)t->tokens / seconds : 0.0);
    sp_daemon_status("%s iteration %u: step %" PRIu64 " of %" PRIu64, session->identity.run,
                     session->identity.iteration, session->done, session->steps_total);
}

enum train_end train_session_steps(struct train_session *session)
{
    uint64_t every = (uint64_t)session->settings.snapshot_steps;
    int64_t log_ms = sp_now_ms();
    struct train_stream *stream = NULL;
    enum train_end end = TRAIN_END_NONE;
    if (session->done < session->steps_total)
        end = open_stream(session, (uint32_t)session->settings.batch_pairs, session->done,
                          session->steps_total, &stream);
    while (end == TRAIN_END_NONE && session->done < session->steps_total) {
        struct train_batch *batch = NULL;
        end = next_batch(session, stream, "training", &batch);
        if (end != TRAIN_END_NONE)
            break;
        train_reporter_activity(session->reporter, "step %" PRIu64 " of %" PRIu64,
                                session->done + 1, session->steps_total);
        end = one_step(session, batch);
        train_batch_free(batch);
        if (end != TRAIN_END_NONE)
            break;
        log_progress(session, &log_ms);
        if (session->done % every == 0 || session->done == session->steps_total)
            end = train_session_snapshot(session);
    }
    train_stream_close(stream);
    return end;
}

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "proto/plan.h"
#include "trainer/session.h"

static bool keep_going(void *context, uint64_t done, uint64_t total)
{
    return train_session_poll(context) == TRAIN_END_NONE;
}

/* What a step may take where the settings do not say: a machine's memory is for others, too. */
static size_t default_budget(struct tn_backend *backend)
{
    struct tn_usage usage;
    tn_usage(backend, &usage);
    return (size_t)(backend->has_memory ? usage.memory_free / 10 * 9 : usage.memory_free / 2);
}

/* Rounding of parameters draws from another seed in each iteration. */
static uint64_t rounding_seed(const struct train_session *session)
{
    uint32_t draw[4];
    sp_rng_draw((uint64_t)session->settings.seed, SP_STREAM_ROUND, 0, session->identity.iteration,
                0, 0, draw);
    return (uint64_t)draw[1] << 32 | draw[0];
}

static struct spin_optimizer_config optimizer_config(const struct train_session *session)
{
    const struct run_settings *s = &session->settings;
    struct spin_optimizer_config config =
        spin_optimizer_defaults(s->optimizer == RUN_OPT_ADAMW ? SPIN_ADAMW : SPIN_RMSPROP);
    static const enum spin_schedule_kind schedules[] = {
        [RUN_SCHEDULE_LINEAR] = SPIN_SCHEDULE_LINEAR,
        [RUN_SCHEDULE_COSINE] = SPIN_SCHEDULE_COSINE,
        [RUN_SCHEDULE_CONSTANT] = SPIN_SCHEDULE_CONSTANT,
    };
    config.lr = sp_list_at(&s->learning_rate, session->identity.iteration);
    config.alpha = s->rms_alpha;
    config.beta1 = s->adam_beta1;
    config.beta2 = s->adam_beta2;
    config.eps = s->eps;
    config.weight_decay = s->weight_decay;
    config.clip_norm = s->clip;
    config.state = session->identity.state;
    config.offload = s->optimizer_offload;
    config.seed = rounding_seed(session);
    config.schedule = schedules[s->schedule];
    config.total_steps = (int64_t)session->steps_total;
    /* Any share above zero warms up for one step at least. */
    config.warmup_steps = (int64_t)ceil(s->warmup_share * (double)session->steps_total - 1e-9);
    return config;
}

/* Rows of the longest pair that the settings allow: they, not the data, decide the micro-batches.
 */
static int64_t longest_pair(const struct train_session *session, const struct model_config *model)
{
    const struct run_settings *s = &session->settings;
    int64_t sequence = SP_MIN(s->max_sequence_tokens, (int64_t)model->max_positions);
    switch (session->mode) {
    case SPIN_MODE_SPIN:
        if (s->compat == RUN_COMPAT_UCLAML) /* given answers are as long as they are */
            return 2 * sequence;
        return sequence + SP_MIN(s->max_new_tokens, (int64_t)model->max_positions);
    case SPIN_MODE_DPO:
        return 2 * sequence;
    default:
        return sequence;
    }
}

static struct spin_step_config step_config(const struct train_session *session,
                                           const struct model_config *model)
{
    static const enum spin_loss_kind losses[] = {
        [RUN_LOSS_LOGISTIC] = SPIN_LOSS_LOGISTIC,
        [RUN_LOSS_HINGE] = SPIN_LOSS_HINGE,
        [RUN_LOSS_EXPONENTIAL] = SPIN_LOSS_EXPONENTIAL,
        [RUN_LOSS_CORRELATION] = SPIN_LOSS_CORRELATION,
        [RUN_LOSS_IPO] = SPIN_LOSS_IPO,
    };
    const struct run_settings *s = &session->settings;
    int64_t longest = longest_pair(session, model);
    return (struct spin_step_config){
        .mode = session->mode,
        .loss = {.kind = losses[s->loss], .beta = session->beta, .tau = s->ipo_tau},
        .sft_weight = sp_list_at(&s->sft_weight, session->identity.iteration),
        .optimizer = optimizer_config(session),
        .batch_pairs = (int32_t)s->batch_pairs,
        .micro_rows = (int32_t)SP_MAX(s->micro_batch_tokens, longest),
        .longest = (int32_t)longest,
        .weights = session->trainer->backend->weights,
        .activations = session->trainer->backend->activations,
        .alive = sp_daemon_watchdog,
    };
}

/* What doesn't fit, and what would. */
static enum sp_err advise(const struct train_session *session, const struct model_config *model,
                          const struct spin_step_config *config, struct sp_error *err)
{
    struct sp_buf text = SP_BUF_INIT;
    struct sp_error trouble = *err;
    (void)spin_step_advise(model, config, session->trainer->backend->has_memory, &text);
    sp_buf_putc(&text, '\0');
    enum sp_err rc = sp_fail(err, SP_ELIMIT, "%s; %s", text.data, trouble.text);
    sp_buf_deinit(&text);
    return rc;
}

/* The budget of the settings is for activations; the step's is for everything. */
static enum sp_err plan_memory(struct train_session *session, const struct model_config *model,
                               struct spin_step_config *config, struct sp_error *err)
{
    struct model_memory_plan plan;
    enum sp_err rc = spin_step_plan(model, config, &plan, err);
    if (rc != SP_OK)
        return rc;
    size_t given = (size_t)session->settings.memory_budget_bytes;
    config->memory_budget_bytes = given > 0 ? given + plan.weights + plan.grads + plan.extra
                                            : default_budget(session->trainer->backend);
    rc = spin_step_plan(model, config, &plan, err);
    if (rc != SP_OK)
        return rc == SP_ELIMIT ? advise(session, model, config, err) : rc;
    struct sp_buf text = SP_BUF_INIT;
    model_memory_plan_print(&plan, &text);
    for (char *line = text.data; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end++ = '\0';
        sp_info("memory: %s", line);
        line = end;
    }
    sp_buf_deinit(&text);
    size_t host = spin_optimizer_host_bytes(&config->optimizer, (size_t)model->n_params);
    if (host > 0)
        sp_info("memory: %zu MiB of the host, pinned, for the optimizer's state", host >> 20);
    return SP_OK;
}

static enum sp_err restore(struct train_session *session, const struct train_snapshot *snapshot,
                           struct sp_error *err)
{
    struct tn_backend *backend = session->trainer->backend;
    struct spin_optimizer *optimizer = spin_step_optimizer(session->step);
    size_t n_params, state_bytes;
    void *params = model_params(session->model, &n_params);
    void *state = spin_optimizer_state(optimizer, &state_bytes);
    if (snapshot->n_params != n_params || snapshot->state_bytes != state_bytes)
        return sp_fail(err, SP_EFORMAT,
                       "%zu parameters and %zu bytes of state, expected %zu and %zu",
                       snapshot->n_params, snapshot->state_bytes, n_params, state_bytes);
    if (snapshot->step > session->steps_total)
        return sp_fail(err, SP_EFORMAT, "step %" PRIu64 " of %" PRIu64, snapshot->step,
                       session->steps_total);
    backend->ops->upload(backend, params, snapshot->params,
                         n_params * tn_unit(session->identity.weights));
    backend->ops->upload(backend, state, snapshot->state, state_bytes);
    spin_optimizer_set_updates(optimizer, snapshot->updates);
    session->done = session->snapshot_step = snapshot->step;
    session->chain = snapshot->chain;
    session->totals = snapshot->totals;
    session->unreported_count = snapshot->unreported_count;
    memcpy(session->unreported, snapshot->unreported,
           snapshot->unreported_count * sizeof(*snapshot->unreported));
    for (uint32_t i = 0; i < snapshot->unreported_count; i++)
        train_reporter_step(session->reporter, &snapshot->unreported[i]);
    return SP_OK;
}

static void resume(struct train_session *session)
{
    struct train_snapshot_file file;
    struct sp_error err = {0};
    enum sp_err rc = train_snapshot_find(session->trainer->dir, &session->identity,
                                         &session->rewind, &file, &err);
    if (rc != SP_OK)
        return;
    rc = restore(session, &file.snapshot, &err);
    if (rc == SP_OK)
        sp_info("resuming from the snapshot of step %" PRIu64 " of %" PRIu64, session->done,
                session->steps_total);
    else
        sp_warn("snapshot not used: %s", err.text);
    train_snapshot_close(&file);
}

static void read_settings(struct train_session *session)
{
    static const enum spin_mode modes[] = {[RUN_MODE_SPIN] = SPIN_MODE_SPIN,
                                           [RUN_MODE_SFT] = SPIN_MODE_SFT,
                                           [RUN_MODE_DPO] = SPIN_MODE_DPO};
    const struct run_settings *s = &session->settings;
    session->mode = modes[s->mode];
    session->beta = sp_list_at(&s->beta, session->identity.iteration);
    /* All pairs count as new here: only their number matters to the steps. */
    struct plan plan = {.new_pairs = (uint32_t)session->plan_pairs};
    session->steps_total = plan_steps(
        &plan, (int64_t)sp_list_at(&s->epochs, session->identity.iteration), s->batch_pairs);
}

static enum sp_err load(struct train_session *session, struct sp_error *err)
{
    const char *dir = ckpt_cache_ref_dir(session->weights);
    struct model_config model;
    enum sp_err rc = model_config_load(dir, &model, err);
    if (rc == SP_OK) /* before anything is planned by it */
        rc = tn_store_weights(session->trainer->backend, session->identity.weights, err);
    if (rc != SP_OK)
        return rc;
    struct spin_step_config config = step_config(session, &model);
    rc = plan_memory(session, &model, &config, err);
    if (rc == SP_OK)
        rc = model_open(session->trainer->backend, dir, &session->model, err);
    if (rc == SP_OK)
        rc = spin_step_new(session->model, &config, &session->step, err);
    return rc;
}

enum train_end train_session_prepare(struct train_session *session)
{
    struct trainer *trainer = session->trainer;
    const struct run_settings *s = &session->settings;
    struct sp_error err = {0};
    read_settings(session);
    if (strcmp(s->backend, trainer->backend->name) != 0) {
        sp_fail(&session->err, SP_EUNSUPPORTED,
                "the run asks for backend %s, this trainer has %s: start one with --set "
                "compute.backend=%s",
                s->backend, trainer->backend->name, s->backend);
        return TRAIN_END_UNFIT;
    }
    enum sp_err rc;
    uint32_t tries = 0;
    for (;;) {
        train_reporter_activity(session->reporter, "fetching weights");
        rc = worker_fetch_checkpoint(trainer->peer, trainer->cache, &session->identity.opponent,
                                     &session->manifest, keep_going, session, &session->weights,
                                     &err);
        enum train_end end = train_session_poll(session);
        if (rc == SP_EIO && end == TRAIN_END_NONE)
            end = train_session_disk_error(session, rc, &err, &tries);
        else if (rc != SP_ECANCELED) /* a wake-up meant for an earlier call ends one call */
            break;
        if (end != TRAIN_END_NONE)
            return end;
    }
    if (rc == SP_OK) {
        train_reporter_activity(session->reporter, "loading weights");
        rc = load(session, &err);
    }
    if (rc != SP_OK)
        return train_session_error(session, rc, &err);
    session->pairs = sp_xarray((size_t)s->batch_pairs, sizeof(*session->pairs));
    resume(session);
    return train_session_poll(session);
}

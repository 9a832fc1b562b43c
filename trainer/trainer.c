#include "trainer/trainer.h"

#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "trainer/session.h"

#define PAUSE_STEP_MS 100
#define PAUSE_STEPS 20 /* after a request that was refused */

void trainer_init(struct trainer *trainer, const struct train_settings *settings)
{
    *trainer = (struct trainer){.settings = settings, .lock_fd = -1};
    trainer->dir = sp_xprintf("%s/trainer-%s", settings->worker.state_dir, settings->worker.name);
}

void trainer_deinit(struct trainer *trainer)
{
    worker_peer_close(atomic_load(&trainer->peer));
    worker_link_free(trainer->link);
    ckpt_cache_close(trainer->cache);
    if (trainer->lock_fd >= 0)
        close(trainer->lock_fd);
    free(trainer->dir);
}

void trainer_stop(struct trainer *trainer)
{
    atomic_store(&trainer->stop, true);
    struct worker_peer *peer = atomic_load(&trainer->peer);
    if (peer != NULL)
        worker_peer_interrupt(peer);
}

bool trainer_stopping(const struct trainer *trainer)
{
    return atomic_load(&trainer->stop);
}

static enum sp_err set_up(struct trainer *trainer, const struct worker_identity *identity,
                          struct sp_error *err)
{
    const struct worker_settings *worker = &trainer->settings->worker;
    struct worker_peer *peer = NULL;
    enum sp_err rc = sp_mkdir_p(trainer->dir, 0700, err);
    if (rc == SP_OK)
        rc = sp_lock_dir(trainer->dir, &trainer->lock_fd, err);
    if (rc == SP_OK)
        rc = worker_link_new(worker, identity, NULL, NULL, &trainer->link, err);
    if (rc == SP_OK)
        rc = ckpt_cache_open(worker->cache_dir, (uint64_t)worker->cache_limit_bytes,
                             &trainer->cache, err);
    if (rc == SP_OK)
        rc = worker_peer_open(trainer->link, &peer, err);
    if (rc == SP_OK)
        atomic_store(&trainer->peer, peer);
    return rc;
}

/* Waits for a grant once; *ret NULL: none yet. */
static enum sp_err ask(struct trainer *trainer, struct train_session **ret, struct sp_error *err)
{
    struct proto_trainer_lease request = {.wait_ms = worker_link_poll_ms(trainer->link)};
    sp_random_secret(&request.request_id, sizeof(request.request_id));
    const void *body;
    *ret = NULL;
    enum sp_err rc = worker_call(trainer->peer, PROTO_TRAINER_LEASE, &request, -1, &body, err);
    if (rc != SP_OK)
        return rc;
    const struct proto_trainer_lease_reply *grant = body;
    return grant->granted ? train_session_new(trainer, grant, ret, err) : SP_OK;
}

static enum sp_err work(struct trainer *trainer, struct sp_error *err)
{
    worker_peer_watchdog(trainer->peer, true);
    enum sp_err rc = worker_join(trainer->peer, err);
    if (rc != SP_OK)
        return rc;
    while (!trainer_stopping(trainer)) {
        struct train_session *session;
        sp_daemon_watchdog();
        rc = ask(trainer, &session, err);
        if (rc == SP_EDENIED || rc == SP_EVERSION || rc == SP_EEXIST)
            return rc; /* no retry mends these */
        if (rc != SP_OK && rc != SP_ECANCELED) {
            sp_warn("no lease: %s", err->text);
            for (int i = 0; i < PAUSE_STEPS && !trainer_stopping(trainer); i++)
                sp_sleep_ms(PAUSE_STEP_MS);
        }
        if (session != NULL) {
            train_session_run(session);
            train_session_free(session);
            sp_daemon_status("waiting for work");
        }
    }
    return SP_OK;
}

enum sp_err trainer_run(struct trainer *trainer, struct tn_backend *backend, struct sp_error *err)
{
    struct worker_identity identity = {
        .role = PROTO_ROLE_TRAINER,
        .name = trainer->settings->worker.name,
        .device = backend->device,
        .numerics_class = backend->numerics_class,
        .slots = 0,
    };
    trainer->backend = backend;
    enum sp_err rc = set_up(trainer, &identity, err);
    if (rc == SP_OK && !trainer_stopping(trainer))
        rc = work(trainer, err);
    sp_daemon_stopping_notify();
    return rc == SP_ECANCELED && trainer_stopping(trainer) ? SP_OK : rc;
}

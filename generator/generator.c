#include "generator/generator.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/daemon.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define INBOX_ITEMS 256
#define OUTBOX_ITEMS 1024
#define JOIN_STEP_MS 100

void gen_stop(struct gen *gen, enum sp_err rc)
{
    int none = SP_OK;
    if (rc != SP_OK)
        atomic_compare_exchange_strong(&gen->failed, &none, (int)rc);
    atomic_store(&gen->stop, true);
    struct worker_peer *lease_peer = atomic_load(&gen->lease_peer);
    struct worker_peer *submit_peer = atomic_load(&gen->submit_peer);
    if (lease_peer != NULL)
        worker_peer_cancel(lease_peer);
    if (submit_peer != NULL)
        worker_peer_interrupt(submit_peer);
    sp_mailbox_close(gen->inbox);
    sp_mailbox_close(gen->wants);
}

bool gen_stopping(const struct gen *gen)
{
    return atomic_load(&gen->stop);
}

uint32_t gen_lease_size(const struct gen *gen)
{
    const struct gen_settings *settings = gen->settings;
    return (uint32_t)(settings->lease_items > 0 ? settings->lease_items : settings->slots);
}

/* Joins a thread that a call on the network may hold: wakes it until it ends. */
static void join(struct worker_peer *peer, pthread_t thread)
{
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += JOIN_STEP_MS * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        if (pthread_timedjoin_np(thread, NULL, &until) != ETIMEDOUT)
            return;
        if (peer != NULL)
            worker_peer_interrupt(peer);
    }
}

/* Listens before the hello that says where. */
static enum sp_err serve(struct gen *gen, struct sp_error *err)
{
    const struct gen_settings *settings = gen->settings;
    if (settings->serve[0] == '\0')
        return SP_OK;
    worker_link_serve(gen->link, settings->serve_as, settings->serve_name,
                      (uint32_t)settings->serve_slots);
    return worker_server_start(gen->link, &settings->worker, settings->serve,
                               (uint32_t)settings->serve_slots, &gen->server, err);
}

static enum sp_err set_up(struct gen *gen, const struct worker_identity *identity,
                          struct sp_error *err)
{
    const struct worker_settings *worker = &gen->settings->worker;
    enum sp_err rc = worker_link_new(worker, identity, gen_on_leases_lost, gen, &gen->link, err);
    if (rc == SP_OK)
        rc = ckpt_cache_open(worker->cache_dir, (uint64_t)worker->cache_limit_bytes, &gen->cache,
                             err);
    if (rc == SP_OK)
        rc = serve(gen, err);
    struct worker_peer *peer = NULL;
    if (rc == SP_OK)
        rc = worker_peer_open(gen->link, &peer, err);
    if (rc != SP_OK)
        return rc;
    atomic_store(&gen->lease_peer, peer);
    rc = worker_peer_open(gen->link, &peer, err);
    if (rc != SP_OK)
        return rc;
    atomic_store(&gen->submit_peer, peer);
    if (gen_stopping(gen)) /* asked to stop before there was anything to wake */
        return sp_fail(err, SP_ECANCELED, "stopped");
    return SP_OK;
}

void gen_init(struct gen *gen, const struct gen_settings *settings)
{
    *gen = (struct gen){
        .settings = settings,
        .inbox = sp_mailbox_new(INBOX_ITEMS, NULL, NULL),
        .wants = sp_mailbox_new(1, NULL, NULL),
        .outbox = sp_mailbox_new(OUTBOX_ITEMS, NULL, NULL),
    };
}

void gen_deinit(struct gen *gen)
{
    void *item;
    while ((item = sp_mailbox_try_take(gen->inbox)) != NULL) {
        gen_lease_free(((struct gen_event *)item)->lease);
        free(item);
    }
    while ((item = sp_mailbox_try_take(gen->outbox)) != NULL)
        free(item);
    worker_peer_close(gen->lease_peer);
    worker_peer_close(gen->submit_peer);
    worker_server_stop(gen->server);
    worker_link_free(gen->link);
    ckpt_cache_close(gen->cache);
    sp_mailbox_free(gen->inbox);
    sp_mailbox_free(gen->wants);
    sp_mailbox_free(gen->outbox);
}

/* Joins first, so that a wrong token or address is told at once; then runs until stopped. */
static enum sp_err run_threads(struct gen *gen, struct sp_error *err)
{
    pthread_t lease_thread, submit_thread;
    enum sp_err rc = worker_join(atomic_load(&gen->lease_peer), err);
    if (rc != SP_OK)
        return gen_stopping(gen) ? SP_OK : rc;
    SP_ASSERT(pthread_create(&lease_thread, NULL, gen_lease_thread, gen) == 0);
    SP_ASSERT(pthread_create(&submit_thread, NULL, gen_submit_thread, gen) == 0);
    gen_compute_run(gen);
    sp_daemon_stopping_notify();
    join(atomic_load(&gen->lease_peer), lease_thread);
    sp_mailbox_close(gen->outbox);
    pthread_join(submit_thread, NULL); /* ends by itself within stop_timeout */
    rc = (enum sp_err)atomic_load(&gen->failed);
    return rc == SP_OK ? SP_OK : sp_fail(err, rc, "stopped");
}

enum sp_err gen_run(struct gen *gen, struct tn_backend *backend, struct sp_error *err)
{
    struct worker_identity identity = {
        .role = PROTO_ROLE_GENERATOR,
        .name = gen->settings->worker.name,
        .device = backend->device,
        .numerics_class = backend->numerics_class,
        .slots = (uint32_t)gen->settings->slots,
    };
    gen->backend = backend;
    enum sp_err rc = set_up(gen, &identity, err);
    if (rc == SP_OK)
        rc = run_threads(gen, err);
    return rc == SP_ECANCELED ? SP_OK : rc;
}

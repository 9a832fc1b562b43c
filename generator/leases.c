#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "generator/generator.h"

#define PAUSE_AFTER_FAILURE_MS 2000
#define WAIT_STEP_MS 100

/* Sleeps, but not past a stop. */
static void pause_ms(struct gen *gen, int64_t ms)
{
    for (int64_t left = ms; left > 0 && !gen_stopping(gen); left -= WAIT_STEP_MS)
        sp_sleep_ms(SP_MIN(left, (int64_t)WAIT_STEP_MS));
}

/* Errors that no retry mends: the program ends and says why. */
static bool is_fatal(enum sp_err rc)
{
    return rc == SP_EDENIED || rc == SP_EVERSION || rc == SP_EEXIST;
}

static void return_lease(struct gen *gen, uint64_t lease)
{
    struct proto_lease_return request = {.leases = {.values = &lease, .count = 1}};
    struct sp_error err = {0};
    const void *reply;
    worker_link_drop(gen->link, lease);
    if (worker_call(gen->lease_peer, PROTO_LEASE_RETURN, &request, 0, &reply, &err) != SP_OK)
        sp_debug("lease %llu could not be given back: %s", (unsigned long long)lease, err.text);
}

/* What the lease thread remembers. */
struct seeker {
    struct gen *gen;
    char run[SP_MAX_RUN_NAME + 1]; /* that it works for */
    struct gen_dir *dir;           /* weights of the newest lease, or NULL */
    struct sp_digest checkpoint;   /* of dir */
};

static enum sp_err find_weights(struct seeker *seeker, struct gen_lease *lease,
                                struct sp_error *err)
{
    const struct proto_lease_reply *grant = &lease->grant;
    if (seeker->dir == NULL || !sp_digest_equal(&seeker->checkpoint, &grant->checkpoint)) {
        struct gen *gen = seeker->gen;
        struct ckpt_cache_ref *ref = NULL;
        atomic_store(&gen->counters.fetching, true);
        enum sp_err rc = worker_fetch_checkpoint(gen->lease_peer, gen->cache, &grant->checkpoint,
                                                 &grant->manifest, NULL, NULL, &ref, err);
        atomic_store(&gen->counters.fetching, false);
        if (rc != SP_OK)
            return rc;
        gen_dir_drop(seeker->dir);
        seeker->dir = gen_dir_new(ref);
        seeker->checkpoint = grant->checkpoint;
    }
    lease->weights = gen_dir_share(seeker->dir);
    return SP_OK;
}

static void hold(struct gen *gen, const struct proto_lease_reply *grant)
{
    uint32_t count = SP_MIN(grant->items_count, (uint32_t)SP_MAX_LEASE_ITEMS);
    uint64_t positions[SP_MAX_LEASE_ITEMS];
    for (uint32_t i = 0; i < count; i++)
        positions[i] = grant->items[i].position;
    struct proto_claim claim = {.lease_id = grant->lease_id,
                                .run = grant->run,
                                .iteration = grant->iteration,
                                .set = count > 0 ? grant->items[0].set : 0, /* one of all */
                                .checkpoint = grant->checkpoint,
                                .positions = {.values = positions, .count = count},
                                .born = grant->born};
    worker_link_hold(gen->link, &claim);
}

/* Fetches the weights of a grant and hands both to the compute thread. The grant lives in the
 * peer's arena, so it is copied before the next call. */
static enum sp_err accept_grant(struct seeker *seeker, const struct proto_lease_reply *grant,
                                struct sp_error *err)
{
    struct gen *gen = seeker->gen;
    struct gen_lease *lease = NULL;
    uint64_t id = grant->lease_id;
    hold(gen, grant);
    enum sp_err rc = gen_lease_new(grant, &lease, err);
    if (rc == SP_OK && strcmp(lease->grant.backend, gen->backend->name) != 0 &&
        lease->grant.backend[0] != '\0')
        rc = sp_fail(err, SP_EUNSUPPORTED,
                     "run %s asks for backend %s, this generator has %s: start one with --set "
                     "compute.backend=%s",
                     lease->grant.run, lease->grant.backend, gen->backend->name,
                     lease->grant.backend);
    if (rc == SP_OK)
        rc = find_weights(seeker, lease, err);
    if (rc != SP_OK) {
        gen_lease_free(lease);
        return_lease(gen, id);
        return rc;
    }
    sp_debug("lease %llu: %u items of %s iteration %u", (unsigned long long)id,
             lease->grant.items_count, lease->grant.run, lease->grant.iteration);
    atomic_fetch_add(&gen->counters.leases, 1);
    struct gen_event *event = sp_xalloc(sizeof(*event));
    event->lease = lease;
    if (!sp_mailbox_put(gen->inbox, event)) { /* closed: stopping; the submit thread returns it */
        gen_lease_free(lease);
        free(event);
    }
    return SP_OK;
}

/* One lease, however long it takes. */
static enum sp_err get_lease(struct seeker *seeker, struct sp_error *err)
{
    struct gen *gen = seeker->gen;
    const char *filter = gen->settings->run;
    while (!gen_stopping(gen)) {
        struct proto_lease request = {
            .run = filter[0] != '\0' ? filter : seeker->run,
            .max_items = gen_lease_size(gen),
            .wait_ms = worker_link_poll_ms(gen->link),
        };
        sp_random_secret(&request.request_id, sizeof(request.request_id));
        const void *body;
        enum sp_err rc = worker_call(gen->lease_peer, PROTO_LEASE, &request, -1, &body, err);
        if (rc != SP_OK)
            return rc;
        const struct proto_lease_reply *grant = body;
        if (grant->lease_id == 0)
            continue;
        snprintf(seeker->run, sizeof(seeker->run), "%s", grant->run);
        return accept_grant(seeker, grant, err);
    }
    return SP_OK;
}

void *gen_lease_thread(void *argument)
{
    struct gen *gen = argument;
    struct seeker seeker = {.gen = gen};
    int64_t failed_ms = 0;
    while (!gen_stopping(gen)) {
        if (sp_mailbox_take(gen->wants, WAIT_STEP_MS) == NULL)
            continue;
        for (;;) {
            struct sp_error err = {0};
            enum sp_err rc = get_lease(&seeker, &err);
            if (rc == SP_OK)
                failed_ms = 0;
            atomic_store(&gen->counters.disk_fails, rc == SP_EIO);
            if (rc == SP_OK || gen_stopping(gen))
                break;
            if (is_fatal(rc)) {
                sp_errlog("%s", err.text);
                gen_stop(gen, rc);
                break;
            }
            if (sp_log_due(&failed_ms))
                sp_warn("no lease: %s", err.text);
            seeker.run[0] = '\0';
            pause_ms(gen, PAUSE_AFTER_FAILURE_MS);
        }
    }
    gen_dir_drop(seeker.dir);
    return NULL;
}

#include "common/worker/link.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define DEFAULT_RENEW_MS 15000
#define DEFAULT_POLL_MS 20000
#define HELD_MAX 16
#define CLAIMS_ARENA_BYTES ((size_t)16 << 10)
#define CLAIMS_ARENA_LIMIT ((size_t)16 << 20)

struct worker_link {
    const struct worker_settings *settings;
    struct worker_identity identity;
    worker_on_lost *on_lost;
    void *context;
    char *token;
    uint64_t instance; /* random number of this process */

    pthread_mutex_t lock; /* held for a whole hello, so that threads don't say it twice */
    uint64_t worker_id;   /* 0: no hello yet */
    uint32_t renew_ms, poll_ms;

    pthread_mutex_t roll_lock;          /* short */
    const char *serve_url, *serve_name; /* NULL: gives nothing */
    uint32_t serve_slots;
    struct proto_held_weights held[HELD_MAX];
    uint32_t held_count; /* ever; the newest HELD_MAX are there */
    bool sources;        /* as in hello_reply */
    bool has_key;
    struct sp_digest key;
    int64_t clock_offset_ms;  /* the coordinator's clock less ours */
    struct proto_claim *roll; /* leases held; run and positions are owned */
    uint32_t roll_count, roll_capacity;
};

struct worker_peer {
    struct worker_link *link;
    struct proto_client *client;
    atomic_bool cancelled;
    pthread_mutex_t lock;
    struct proto_client *watched; /* under lock; borrowed */
    bool watchdog;                /* of its own thread */
};

enum sp_err worker_link_new(const struct worker_settings *settings,
                            const struct worker_identity *identity, worker_on_lost *on_lost,
                            void *context, struct worker_link **ret, struct sp_error *err)
{
    char *token = NULL;
    enum sp_err rc = worker_read_token(settings, &token, err);
    if (rc != SP_OK)
        return rc;
    struct worker_link *link = sp_xalloc(sizeof(*link));
    link->settings = settings;
    link->identity = *identity;
    link->on_lost = on_lost;
    link->context = context;
    link->token = token;
    link->renew_ms = DEFAULT_RENEW_MS;
    link->poll_ms = DEFAULT_POLL_MS;
    sp_random_secret(&link->instance, sizeof(link->instance));
    pthread_mutex_init(&link->lock, NULL);
    pthread_mutex_init(&link->roll_lock, NULL);
    *ret = link;
    return SP_OK;
}

static void forget_claim(struct proto_claim *claim)
{
    free((char *)(uintptr_t)claim->run);
    free((uint64_t *)(uintptr_t)claim->positions.values);
}

void worker_link_free(struct worker_link *link)
{
    if (link == NULL)
        return;
    pthread_mutex_destroy(&link->lock);
    pthread_mutex_destroy(&link->roll_lock);
    while (link->roll_count > 0)
        forget_claim(&link->roll[--link->roll_count]);
    free(link->roll);
    free(link->token);
    free(link);
}

/* ---- leases held ---- */

void worker_link_hold(struct worker_link *link, const struct proto_claim *lease)
{
    struct proto_claim copy = *lease;
    copy.run = sp_xstrdup(lease->run);
    copy.positions.values =
        sp_xmemdup(lease->positions.values, lease->positions.count * sizeof(uint64_t));
    pthread_mutex_lock(&link->roll_lock);
    if (link->roll_count == link->roll_capacity) {
        link->roll_capacity = link->roll_capacity == 0 ? 8 : link->roll_capacity * 2;
        link->roll = sp_xgrow(link->roll, link->roll_capacity, sizeof(*link->roll));
    }
    link->roll[link->roll_count++] = copy;
    pthread_mutex_unlock(&link->roll_lock);
}

void worker_link_drop(struct worker_link *link, uint64_t lease)
{
    pthread_mutex_lock(&link->roll_lock);
    for (uint32_t i = 0; i < link->roll_count; i++) {
        if (link->roll[i].lease_id == lease) {
            forget_claim(&link->roll[i]);
            link->roll[i] = link->roll[--link->roll_count];
            break;
        }
    }
    pthread_mutex_unlock(&link->roll_lock);
}

uint32_t worker_link_held(struct worker_link *link, uint64_t **ret)
{
    pthread_mutex_lock(&link->roll_lock);
    uint32_t count = link->roll_count;
    *ret = count == 0 ? NULL : sp_xarray(count, sizeof(**ret));
    for (uint32_t i = 0; i < count; i++)
        (*ret)[i] = link->roll[i].lease_id;
    pthread_mutex_unlock(&link->roll_lock);
    return count;
}

/* What is held now, copied: other threads go on meanwhile. What has no room is not claimed. */
static void list_held(struct worker_link *link, struct sp_arena *arena, struct proto_hello *hello)
{
    pthread_mutex_lock(&link->roll_lock);
    uint32_t count = link->roll_count;
    uint64_t *ids = sp_arena_alloc(arena, count, sizeof(*ids));
    struct proto_claim *claims = sp_arena_alloc(arena, count, sizeof(*claims));
    for (uint32_t i = 0; ids && claims && i < count; i++) {
        const struct proto_claim *held = &link->roll[i];
        const char *run = sp_arena_strdup(arena, held->run);
        uint64_t *positions = sp_arena_alloc(arena, held->positions.count, sizeof(*positions));
        ids[hello->leases.count++] = held->lease_id;
        if (!run || !positions)
            continue;
        memcpy(positions, held->positions.values, held->positions.count * sizeof(*positions));
        claims[hello->claims_count] = *held;
        claims[hello->claims_count].run = run;
        claims[hello->claims_count++].positions.values = positions;
    }
    pthread_mutex_unlock(&link->roll_lock);
    hello->leases.values = ids;
    hello->claims = claims;
}

uint32_t worker_link_renew_ms(struct worker_link *link)
{
    pthread_mutex_lock(&link->roll_lock);
    uint32_t ms = link->renew_ms;
    pthread_mutex_unlock(&link->roll_lock);
    return ms;
}

uint32_t worker_link_poll_ms(struct worker_link *link)
{
    pthread_mutex_lock(&link->roll_lock);
    uint32_t ms = link->poll_ms;
    pthread_mutex_unlock(&link->roll_lock);
    return ms;
}

/* ---- peers ---- */

bool worker_peer_is_cancelled(void *context)
{
    struct worker_peer *peer = context;
    if (peer->watchdog)
        sp_daemon_watchdog();
    return atomic_load(&peer->cancelled);
}

enum sp_err worker_peer_open(struct worker_link *link, struct worker_peer **ret,
                             struct sp_error *err)
{
    const struct worker_settings *settings = link->settings;
    struct worker_peer *peer = sp_xalloc(sizeof(*peer));
    peer->link = link;
    struct proto_client_options options = {
        .url = settings->url,
        .tls = {.ca_file = settings->tls_ca,
                .cert_file = settings->tls_cert,
                .server_name = settings->tls_server_name},
        .token = link->token,
        .connect_ms = settings->connect_ms,
        .request_ms = settings->request_ms,
        .backoff_min_ms = settings->backoff_min_ms,
        .backoff_max_ms = settings->backoff_max_ms,
        .cancelled = worker_peer_is_cancelled,
        .context = peer,
    };
    enum sp_err rc = proto_client_open(&options, &peer->client, err);
    if (rc != SP_OK) {
        free(peer);
        return sp_wrap(err, rc, "coordinator %s", settings->url);
    }
    pthread_mutex_init(&peer->lock, NULL);
    *ret = peer;
    return SP_OK;
}

void worker_peer_close(struct worker_peer *peer)
{
    if (peer == NULL)
        return;
    proto_client_free(peer->client);
    pthread_mutex_destroy(&peer->lock);
    free(peer);
}

void worker_peer_cancel(struct worker_peer *peer)
{
    atomic_store(&peer->cancelled, true);
    worker_peer_interrupt(peer);
}

void worker_peer_interrupt(struct worker_peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    proto_client_interrupt(peer->watched != NULL ? peer->watched : peer->client);
    pthread_mutex_unlock(&peer->lock);
}

void worker_peer_watchdog(struct worker_peer *peer, bool on)
{
    peer->watchdog = on;
}

void worker_peer_watch(struct worker_peer *peer, struct proto_client *client)
{
    pthread_mutex_lock(&peer->lock);
    peer->watched = client;
    pthread_mutex_unlock(&peer->lock);
}

const struct worker_settings *worker_peer_settings(const struct worker_peer *peer)
{
    return peer->link->settings;
}

struct worker_link *worker_peer_link(const struct worker_peer *peer)
{
    return peer->link;
}

/* ---- giving chunks ---- */

void worker_link_serve(struct worker_link *link, const char *url, const char *name, uint32_t slots)
{
    link->serve_url = url;
    link->serve_name = name;
    link->serve_slots = slots;
}

bool worker_link_is_server(const struct worker_link *link)
{
    return link->serve_url != NULL;
}

void worker_link_gives(struct worker_link *link, const struct sp_digest *manifest, uint32_t chunks)
{
    pthread_mutex_lock(&link->roll_lock);
    bool known = false;
    for (uint32_t i = 0; i < SP_MIN(link->held_count, (uint32_t)HELD_MAX); i++)
        known |= sp_digest_equal(&link->held[i].manifest, manifest);
    if (!known)
        link->held[link->held_count++ % HELD_MAX] =
            (struct proto_held_weights){.manifest = *manifest, .chunks = chunks};
    pthread_mutex_unlock(&link->roll_lock);
}

bool worker_link_has_sources(struct worker_link *link)
{
    pthread_mutex_lock(&link->roll_lock);
    bool sources = link->sources;
    pthread_mutex_unlock(&link->roll_lock);
    return sources;
}

bool worker_link_ticket_key(struct worker_link *link, struct sp_digest *ret_key,
                            uint64_t *ret_now_ms)
{
    pthread_mutex_lock(&link->roll_lock);
    bool has = link->has_key;
    *ret_key = link->key;
    *ret_now_ms = (uint64_t)(sp_now_ms() + link->clock_offset_ms);
    pthread_mutex_unlock(&link->roll_lock);
    return has;
}

static void note_reply(struct worker_link *link, const struct proto_hello_reply *reply)
{
    pthread_mutex_lock(&link->roll_lock);
    link->renew_ms = reply->renew_ms != 0 ? reply->renew_ms : DEFAULT_RENEW_MS;
    link->poll_ms = reply->poll_ms != 0 ? reply->poll_ms : DEFAULT_POLL_MS;
    link->sources = reply->sources;
    link->has_key = reply->serve_key.length == SP_DIGEST_BYTES;
    if (link->has_key)
        memcpy(link->key.bytes, reply->serve_key.data, SP_DIGEST_BYTES);
    link->clock_offset_ms = (int64_t)reply->clock_ms - sp_now_ms();
    pthread_mutex_unlock(&link->roll_lock);
}

/* ---- hello ---- */

static enum sp_err say_hello(struct worker_peer *peer, int64_t give_up_ms, struct sp_error *err)
{
    struct worker_link *link = peer->link;
    char host[256] = "";
    gethostname(host, sizeof(host) - 1);
    struct proto_held_weights given[HELD_MAX];
    pthread_mutex_lock(&link->roll_lock);
    uint32_t n_given = SP_MIN(link->held_count, (uint32_t)HELD_MAX);
    memcpy(given, link->held, n_given * sizeof(*given));
    pthread_mutex_unlock(&link->roll_lock);
    struct proto_hello hello = {
        .role = link->identity.role,
        .name = link->identity.name,
        .instance = link->instance,
        .host = host,
        .device = link->identity.device,
        .version = SPIN_VERSION,
        .numerics_class = link->identity.numerics_class,
        .slots = link->identity.slots,
        .serve = link->serve_url,
        .serve_name = link->serve_name,
        .serve_slots = link->serve_slots,
        .held = given,
        .held_count = n_given,
    };
    struct sp_arena *arena = sp_arena_new(CLAIMS_ARENA_BYTES, CLAIMS_ARENA_LIMIT);
    list_held(link, arena, &hello);
    uint32_t n_held = hello.leases.count;
    const void *body = NULL;
    enum sp_err rc = proto_call(peer->client, PROTO_HELLO, &hello, give_up_ms, &body, err);
    sp_arena_free(arena);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "hello");
    const struct proto_hello_reply *reply = body;
    link->worker_id = reply->worker_id;
    note_reply(link, reply);
    sp_info("joined coordinator %s as worker %llu (%u of %u leases lost)", link->settings->url,
            (unsigned long long)reply->worker_id, reply->leases_lost.count, n_held);
    for (uint32_t i = 0; i < reply->leases_lost.count; i++)
        worker_link_drop(link, reply->leases_lost.values[i]);
    if (link->on_lost != NULL && reply->leases_lost.count > 0)
        link->on_lost(link->context, reply->leases_lost.values, reply->leases_lost.count);
    return SP_OK;
}

/* Says hello unless another thread has got a new id since `stale_id` was used. */
static enum sp_err hello_unless_newer(struct worker_peer *peer, uint64_t stale_id,
                                      int64_t give_up_ms, uint64_t *ret_id, struct sp_error *err)
{
    struct worker_link *link = peer->link;
    enum sp_err rc = SP_OK;
    pthread_mutex_lock(&link->lock);
    if (link->worker_id == stale_id)
        rc = say_hello(peer, give_up_ms, err);
    *ret_id = link->worker_id;
    pthread_mutex_unlock(&link->lock);
    return rc;
}

static uint64_t current_id(struct worker_link *link)
{
    pthread_mutex_lock(&link->lock);
    uint64_t id = link->worker_id;
    pthread_mutex_unlock(&link->lock);
    return id;
}

enum sp_err worker_hello(struct worker_peer *peer, struct sp_error *err)
{
    uint64_t id;
    return hello_unless_newer(peer, 0, -1, &id, err);
}

enum sp_err worker_join(struct worker_peer *peer, struct sp_error *err)
{
    uint64_t id;
    enum sp_err rc = hello_unless_newer(peer, 0, 0, &id, err);
    bool absent = rc == SP_EUNAVAIL || rc == SP_ETIMEOUT;
    if (rc != SP_OK && !absent)
        return rc;
    if (absent)
        sp_daemon_status("waiting for the coordinator: %s", err->text);
    sp_daemon_ready();
    bool watchdog = peer->watchdog;
    peer->watchdog = true;
    if (absent)
        rc = worker_hello(peer, err);
    peer->watchdog = watchdog;
    if (rc == SP_OK)
        sp_daemon_status("waiting for work");
    return rc;
}

static bool is_unknown_worker(enum sp_err rc, const struct sp_error *err)
{
    return rc == SP_ESTALE && strstr(err->text, "unknown worker") != NULL;
}

enum sp_err worker_call(struct worker_peer *peer, enum proto_type type, void *body,
                        int64_t give_up_ms, const void **ret_reply, struct sp_error *err)
{
    struct sp_error detail = {0};
    uint64_t id = current_id(peer->link);
    enum sp_err rc = SP_OK;
    if (id == 0)
        rc = hello_unless_newer(peer, 0, -1, &id, &detail);
    while (rc == SP_OK) {
        memcpy(body, &id, sizeof(id)); /* worker_id is the first field of these messages */
        rc = proto_call(peer->client, type, body, give_up_ms, ret_reply, &detail);
        if (!is_unknown_worker(rc, &detail))
            break;
        rc = hello_unless_newer(peer, id, -1, &id, &detail);
    }
    if (rc != SP_OK)
        return sp_fail(err, rc, "%s", detail.text);
    return SP_OK;
}

enum sp_err worker_call_plain(struct worker_peer *peer, enum proto_type type, const void *body,
                              const void **ret_reply, struct sp_error *err)
{
    return proto_call(peer->client, type, body, -1, ret_reply, err);
}

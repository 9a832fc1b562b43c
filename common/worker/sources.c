#include "common/worker/sources.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define CONNECTIONS 4 /* to other workers, kept open */

struct connection {
    uint64_t source;
    char *url;
    struct proto_client *client; /* NULL: free */
    uint64_t used;               /* a smaller number: longer ago */
};

struct fetcher {
    const struct worker_target *target;
    struct ckpt_partial *partial;
    uint32_t chunks;
    uint64_t source; /* who was asked last */
    enum proto_outcome outcome;
    struct connection connections[CONNECTIONS];
    uint64_t clock;
    uint32_t from_others, from_coordinator;
};

/* ---- other workers ---- */

static void close_connection(struct connection *connection)
{
    proto_client_free(connection->client);
    free(connection->url);
    *connection = (struct connection){0};
}

/* A worker of a cluster with TLS lets itself not be sent to plain addresses or files of its own
 * machine by what another worker has announced. */
static bool is_acceptable(const struct worker_settings *settings, const char *url)
{
    static const char tls[] = "tls+tcp://";
    if (strncmp(url, tls, sizeof(tls) - 1) == 0)
        return true;
    return strncmp(settings->url, tls, sizeof(tls) - 1) != 0 && strncmp(url, "ipc://", 6) == 0;
}

static enum sp_err connect_to(struct fetcher *fetcher,
                              const struct proto_blob_sources_reply *where,
                              struct connection **ret, struct sp_error *err)
{
    struct worker_peer *peer = fetcher->target->peer;
    const struct worker_settings *settings = worker_peer_settings(peer);
    struct connection *oldest = &fetcher->connections[0];
    for (int i = 0; i < CONNECTIONS; i++) {
        struct connection *one = &fetcher->connections[i];
        if (one->client != NULL && one->source == where->source &&
            strcmp(one->url, where->url) == 0) {
            one->used = ++fetcher->clock;
            *ret = one;
            return SP_OK;
        }
        if (one->used < oldest->used)
            oldest = one;
    }
    if (!is_acceptable(settings, where->url))
        return sp_fail(err, SP_EINVAL, "%.200s: no address for a worker of this cluster",
                       where->url);
    close_connection(oldest);
    /* No token: it is for the coordinator's eyes only. */
    struct proto_client_options options = {
        .url = where->url,
        .tls = {.ca_file = settings->tls_ca,
                .cert_file = settings->tls_cert,
                .server_name = where->name},
        .connect_ms = SP_MIN(settings->connect_ms, settings->peer_ms),
        .request_ms = settings->peer_ms,
        .cancelled = worker_peer_is_cancelled,
        .context = peer,
    };
    enum sp_err rc = proto_client_open(&options, &oldest->client, err);
    if (rc != SP_OK)
        return rc;
    oldest->source = where->source;
    oldest->url = sp_xstrdup(where->url);
    oldest->used = ++fetcher->clock;
    *ret = oldest;
    return SP_OK;
}

static enum sp_err ask_worker(struct fetcher *fetcher, struct connection *connection,
                              const struct proto_blob_sources_reply *where, struct sp_error *err)
{
    struct worker_peer *peer = fetcher->target->peer;
    struct proto_chunk_get request = {
        .checkpoint = fetcher->target->checkpoint,
        .manifest = fetcher->target->manifest,
        .index = where->index,
        .expires_ms = where->expires_ms,
        .ticket = where->ticket,
    };
    const void *body = NULL;
    worker_peer_watch(peer, connection->client);
    enum sp_err rc = proto_call(connection->client, PROTO_CHUNK_GET, &request, 0, &body, err);
    worker_peer_watch(peer, NULL);
    if (rc != SP_OK)
        return rc;
    const struct proto_chunk_get_reply *reply = body;
    return ckpt_partial_put(fetcher->partial, where->index, reply->data.data, reply->data.length,
                            err);
}

static enum proto_outcome outcome_of(enum sp_err rc)
{
    return rc == SP_OK                                ? PROTO_OUTCOME_GOT
           : rc == SP_ENOTFOUND                       ? PROTO_OUTCOME_ABSENT
           : rc == SP_ECORRUPT || rc == SP_EFORMAT ? PROTO_OUTCOME_POISONED
                                                      : PROTO_OUTCOME_SILENT;
}

/* Whatever goes wrong with another worker is for the next report; only our own end, or our own
 * disk, ends this. */
static enum sp_err from_worker(struct fetcher *fetcher,
                               const struct proto_blob_sources_reply *where, struct sp_error *err)
{
    struct sp_error detail = {0};
    struct connection *connection = NULL;
    uint64_t before = ckpt_partial_missing(fetcher->partial);
    enum sp_err rc = connect_to(fetcher, where, &connection, &detail);
    if (rc == SP_OK)
        rc = ask_worker(fetcher, connection, where, &detail);
    fetcher->source = where->source;
    fetcher->outcome = outcome_of(rc);
    fetcher->from_others += (uint32_t)(before - ckpt_partial_missing(fetcher->partial));
    if (rc == SP_OK)
        return SP_OK;
    if (rc == SP_EIO || worker_peer_is_cancelled(fetcher->target->peer))
        return sp_fail(err, rc == SP_EIO ? SP_EIO : SP_ECANCELED, "%s", detail.text);
    sp_warn("chunk %u from %s: %s", where->index, where->url, detail.text);
    if (connection != NULL && fetcher->outcome != PROTO_OUTCOME_ABSENT)
        close_connection(connection);
    return SP_OK;
}

/* ---- the coordinator ---- */

static enum sp_err from_coordinator(struct fetcher *fetcher, uint32_t index, struct sp_error *err)
{
    struct proto_blob_get request;
    uint32_t bytes;
    const void *body = NULL;
    enum sp_err rc = ckpt_partial_chunk(fetcher->partial, index, &request.sha256, &bytes, err);
    if (rc == SP_OK)
        rc = worker_call_plain(fetcher->target->peer, PROTO_BLOB_GET, &request, &body, err);
    if (rc != SP_OK)
        return rc;
    const struct proto_blob_get_reply *reply = body;
    fetcher->source = 0;
    fetcher->outcome = PROTO_OUTCOME_GOT;
    fetcher->from_coordinator++;
    return ckpt_partial_put(fetcher->partial, index, reply->data.data, reply->data.length, err);
}

static enum sp_err ask_where(struct fetcher *fetcher, bool last,
                             const struct proto_blob_sources_reply **ret, struct sp_error *err)
{
    struct worker_link *link = worker_peer_link(fetcher->target->peer);
    struct proto_blob_sources request = {
        .manifest = fetcher->target->manifest,
        .chunks = fetcher->chunks,
        .have = {.data = ckpt_partial_have(fetcher->partial),
                 .length = (uint32_t)ckpt_bitmap_bytes(fetcher->chunks)},
        .source = fetcher->source,
        .outcome = fetcher->outcome,
        .last = last,
        .wait_ms = worker_link_poll_ms(link),
    };
    const void *body = NULL;
    enum sp_err rc =
        worker_call(fetcher->target->peer, PROTO_BLOB_SOURCES, &request, -1, &body, err);
    if (rc == SP_OK)
        *ret = body;
    return rc;
}

static enum sp_err next_chunk(struct fetcher *fetcher, bool *ret_alone, struct sp_error *err)
{
    const struct proto_blob_sources_reply *where = NULL;
    enum sp_err rc = ask_where(fetcher, false, &where, err);
    fetcher->source = 0;
    fetcher->outcome = PROTO_OUTCOME_GOT;
    if (rc != SP_OK || where->wait)
        return rc;
    *ret_alone = where->alone;
    if (where->alone)
        return SP_OK;
    if (where->source == 0)
        return from_coordinator(fetcher, where->index, err);
    return from_worker(fetcher, where, err);
}

enum sp_err worker_fetch_ahead(void *context, struct ckpt_partial *partial, struct sp_error *err)
{
    const struct worker_target *target = context;
    struct worker_link *link = worker_peer_link(target->peer);
    struct fetcher fetcher = {
        .target = target, .partial = partial, .chunks = (uint32_t)ckpt_partial_chunks(partial)};
    const struct proto_blob_sources_reply *ignored;
    bool alone = false;
    enum sp_err rc = SP_OK;
    if (!worker_peer_settings(target->peer)->peers || !worker_link_has_sources(link))
        return SP_OK;
    while (rc == SP_OK && !alone && ckpt_partial_missing(partial) > 0)
        rc = next_chunk(&fetcher, &alone, err);
    for (int i = 0; i < CONNECTIONS; i++)
        close_connection(&fetcher.connections[i]);
    /* The last chunk's source has its place back, and others hear that it is here. */
    if (rc == SP_OK && !alone)
        rc = ask_where(&fetcher, true, &ignored, err);
    if (fetcher.from_others > 0)
        sp_info("%u of %u chunks came from other workers, %u from the coordinator",
                fetcher.from_others, fetcher.chunks, fetcher.from_coordinator);
    return rc;
}

/* ---- what is here already ---- */

struct search {
    const struct sp_digest *manifest;
    uint32_t chunks; /* 0: not found */
};

static void look(void *context, const struct sp_digest *manifest_sha256, uint32_t chunks)
{
    struct search *search = context;
    if (sp_digest_equal(manifest_sha256, search->manifest))
        search->chunks = chunks;
}

void worker_announce(const struct worker_target *target, const char *cache_dir)
{
    struct worker_link *link = worker_peer_link(target->peer);
    if (!worker_link_is_server(link) || !worker_link_has_sources(link))
        return;
    struct search search = {.manifest = &target->manifest};
    struct ckpt_giver *giver = ckpt_giver_new(cache_dir);
    ckpt_giver_each(giver, look, &search);
    ckpt_giver_free(giver);
    if (search.chunks == 0)
        return;
    worker_link_gives(link, &target->manifest, search.chunks);
    size_t bytes = ckpt_bitmap_bytes(search.chunks);
    uint8_t *have = sp_xalloc(bytes);
    memset(have, 0xff, bytes);
    struct proto_blob_sources request = {
        .manifest = target->manifest,
        .chunks = search.chunks,
        .have = {.data = have, .length = (uint32_t)bytes},
        .last = true,
    };
    const void *ignored = NULL;
    struct sp_error err = {0};
    if (worker_call(target->peer, PROTO_BLOB_SOURCES, &request, 0, &ignored, &err) != SP_OK)
        sp_debug("the coordinator does not hear of what is here: %s", err.text);
    free(have);
}

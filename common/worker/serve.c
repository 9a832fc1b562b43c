#include "common/worker/serve.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <uv.h>

#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/checkpoint/partial.h"
#include "proto/ticket.h"

#define STOP_S 1
#define PARALLEL_PER_SLOT 2 /* one is being read while another one is on its way */

struct worker_server {
    struct worker_link *link;
    struct ckpt_giver *giver;
    uv_loop_t loop;
    uv_async_t stop;
    struct proto_server *server;
    pthread_t thread;
};

/* ---- requests ---- */

static bool may_ask(struct worker_server *server, const struct proto_chunk_get *ask)
{
    struct sp_digest key;
    uint64_t now_ms;
    return worker_link_ticket_key(server->link, &key, &now_ms) &&
           proto_ticket_is_good(&key, &ask->manifest, ask->expires_ms, ask->ticket, now_ms);
}

static void on_request(struct proto_request *request, void *context)
{
    struct worker_server *server = context;
    const struct proto_chunk_get *ask = proto_request_body(request);
    struct proto_chunk_get_reply reply = {0};
    struct sp_error err = {0};
    if (proto_request_envelope(request)->type != PROTO_CHUNK_GET) {
        proto_reply_error(request, SP_EDENIED, 0, "only chunks are given here");
        return;
    }
    if (!may_ask(server, ask)) {
        proto_reply_error(request, SP_EDENIED, 0,
                          "chunk_get: the ticket is not for this worker and manifest, or is over");
        return;
    }
    enum sp_err rc = ckpt_giver_read(server->giver, &ask->checkpoint, &ask->manifest, ask->index,
                                     &reply.data.data, &reply.data.length, &err);
    if (rc != SP_OK)
        proto_reply_error(request, rc, 0, "%s", err.text);
    else
        proto_reply(request, PROTO_CHUNK_GET_REPLY, &reply);
}

/* ---- life ---- */

static void on_closed(void *context)
{
    struct worker_server *server = context;
    uv_stop(&server->loop);
}

static void on_stop(uv_async_t *async)
{
    struct worker_server *server = async->data;
    uv_close((uv_handle_t *)async, NULL);
    proto_server_close(server->server, on_closed, server);
}

static void *serve(void *context)
{
    struct worker_server *server = context;
    uv_run(&server->loop, UV_RUN_DEFAULT);
    uv_run(&server->loop, UV_RUN_DEFAULT); /* handles that were closing */
    return NULL;
}

static void name_held(void *context, const struct sp_digest *manifest_sha256, uint32_t chunks)
{
    worker_link_gives(context, manifest_sha256, chunks);
}

static void free_server(struct worker_server *server)
{
    ckpt_giver_free(server->giver);
    free(server);
}

enum sp_err worker_server_start(struct worker_link *link, const struct worker_settings *settings,
                                const char *url, uint32_t slots, struct worker_server **ret,
                                struct sp_error *err)
{
    struct worker_server *server = sp_xalloc(sizeof(*server));
    server->link = link;
    server->giver = ckpt_giver_new(settings->cache_dir);
    SP_ASSERT(uv_loop_init(&server->loop) == 0);
    struct proto_tls tls = {.ca_file = settings->tls_ca, .cert_file = settings->tls_cert};
    enum sp_err rc = proto_server_start(&server->loop, url, &tls, slots * PARALLEL_PER_SLOT,
                                        on_request, server, &server->server, err);
    if (rc != SP_OK) {
        uv_loop_close(&server->loop);
        free_server(server);
        return sp_wrap(err, rc, "[weights] serve");
    }
    ckpt_giver_each(server->giver, name_held, link);
    uv_async_init(&server->loop, &server->stop, on_stop);
    server->stop.data = server;
    SP_ASSERT(pthread_create(&server->thread, NULL, serve, server) == 0);
    sp_info("gives chunks of weights to other workers on %s", url);
    *ret = server;
    return SP_OK;
}

void worker_server_stop(struct worker_server *server)
{
    if (server == NULL)
        return;
    struct timespec until;
    uv_async_send(&server->stop);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_S;
    if (pthread_timedjoin_np(server->thread, NULL, &until) != 0) {
        /* A reply is still on its way to somebody slow. The thread takes no requests any more and
         * has nothing that others need: it ends with the process. */
        pthread_detach(server->thread);
        return;
    }
    uv_loop_close(&server->loop);
    free_server(server);
}

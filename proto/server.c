#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mailbox.h"
#include "common/base/mem.h"
#include "proto/listener.h"
#include "proto/listener_watch.h"
#include "proto/transport.h"

#define ARENA_FIRST_CHUNK 4096
/* nng has taken a reply when its send ends, the kernel not always: a closing server waits so long
 * after its last reply. */
#define FLUSH_MS 100
/* How often an ipc listener is looked at; at least 50 times what a look takes. */
#define WATCH_MS 100
#define WATCH_SHARE 50

/* receiving → working → sending → receiving …; closed is the end. Only the loop thread looks. */
enum slot_state { SLOT_RECEIVING, SLOT_WORKING, SLOT_SENDING, SLOT_CLOSED };

struct proto_request {
    struct proto_server *server;
    nng_ctx ctx;
    nng_aio *aio;
    enum slot_state state;
    struct sp_arena *arena; /* while working */
    struct proto_envelope envelope;
    void *body;
    int64_t arrived_ns;
};

struct proto_server {
    uv_async_t async;
    uv_timer_t flush_timer;
    uv_timer_t watch_timer;
    nng_socket socket;
    struct proto_listener listener;
    struct proto_watch *watch; /* of an ipc listener; else NULL */
    char *url;                 /* owned */
    bool listening; /* false: an ipc listener is closed and could not be started again yet */
    struct sp_mailbox *box; /* slots whose aio has ended; each is in it at most once */
    struct proto_request *slots;
    uint32_t slot_count;
    uint32_t closed_slots;
    uint32_t open_handles;
    int64_t last_reply_ms;
    uint64_t malformed; /* requests */
    uint64_t questions; /* of listener_watch.h */
    int64_t failed_ms;  /* when it was said last that there is no listening; 0: there is */
    bool closing;
    proto_on_request *on_request;
    void *context;
    void (*on_closed)(void *);
    void *closed_context;
};

static void aio_ended(void *argument)
{
    struct proto_request *slot = argument;
    /* There is room for every slot, so this never fails. */
    SP_ASSERT(sp_mailbox_try_put(slot->server->box, slot));
}

static void wake_loop(void *argument)
{
    uv_async_send(argument);
}

static void start_receive(struct proto_request *slot)
{
    slot->state = SLOT_RECEIVING;
    nng_ctx_recv(slot->ctx, slot->aio);
}

static void free_server(uv_handle_t *handle)
{
    struct proto_server *server = handle->data;
    if (--server->open_handles > 0)
        return;
    void (*on_closed)(void *) = server->on_closed;
    void *context = server->closed_context;
    free(server->slots);
    free(server->url);
    free(server);
    if (on_closed != NULL)
        on_closed(context);
}

static void close_socket(struct proto_server *server)
{
    proto_watch_free(server->watch);
    nng_close(server->socket);
    for (uint32_t i = 0; i < server->slot_count; i++)
        nng_aio_free(server->slots[i].aio); /* waits for a callback on its way out */
    proto_listener_deinit(&server->listener);
    sp_mailbox_free(server->box);
    server->open_handles = 3;
    uv_close((uv_handle_t *)&server->async, free_server);
    uv_close((uv_handle_t *)&server->flush_timer, free_server);
    uv_close((uv_handle_t *)&server->watch_timer, free_server);
}

static void flushed(uv_timer_t *timer)
{
    close_socket(timer->data);
}

static void close_slot(struct proto_request *slot)
{
    struct proto_server *server = slot->server;
    slot->state = SLOT_CLOSED;
    server->closed_slots++;
    if (!server->closing || server->closed_slots < server->slot_count)
        return;
    int64_t quiet_ms = sp_now_ms() - server->last_reply_ms;
    if (quiet_ms >= FLUSH_MS)
        close_socket(server);
    else
        uv_timer_start(&server->flush_timer, flushed, (uint64_t)(FLUSH_MS - quiet_ms), 0);
}

static void received(struct proto_request *slot)
{
    struct proto_server *server = slot->server;
    int code = nng_aio_result(slot->aio);
    if (server->closing || code == NNG_ECLOSED) {
        if (code == 0)
            nng_msg_free(nng_aio_get_msg(slot->aio));
        close_slot(slot);
        return;
    }
    if (code != 0) {
        start_receive(slot);
        return;
    }
    nng_msg *message = nng_aio_get_msg(slot->aio);
    nng_pipe connection = nng_msg_get_pipe(message);
    if (proto_listener_is_outdated(&server->listener, connection, sp_now_ms())) {
        nng_msg_free(message);
        nng_pipe_close(connection);
        start_receive(slot);
        return;
    }
    struct sp_error err = {.code = SP_OK, .text = ""};
    slot->arena = sp_arena_new(ARENA_FIRST_CHUNK, SP_MAX_DECODED_MESSAGE);
    slot->state = SLOT_WORKING;
    slot->arrived_ns = sp_now_ns();
    slot->envelope = (struct proto_envelope){.type = PROTO_NONE};
    slot->body = NULL;
    enum sp_err rc = proto_decode(nng_msg_body(message), nng_msg_len(message), slot->arena,
                                  &slot->envelope, &slot->body, &err);
    bool question = proto_watch_is_question(nng_msg_body(message), nng_msg_len(message));
    nng_msg_free(message);
    if (rc == SP_OK && slot->envelope.type % 2 == 1)
        rc = sp_fail(&err, SP_EFORMAT, "%s: a reply where a request is expected",
                     proto_type_name(slot->envelope.type));
    if (rc != SP_OK) {
        server->questions += question;
        server->malformed += !question;
        if (!question)
            sp_debug("malformed request: %s", err.text);
        proto_reply_error(slot, rc, 0, "malformed request: %s", err.text);
        return;
    }
    sp_log_set_request(slot->envelope.request_id);
    server->on_request(slot, server->context);
    sp_log_set_request(0);
}

static void sent(struct proto_request *slot)
{
    struct proto_server *server = slot->server;
    if (nng_aio_result(slot->aio) != 0)
        nng_msg_free(nng_aio_get_msg(slot->aio)); /* the asker is gone; it will ask again */
    server->last_reply_ms = sp_now_ms();
    if (server->closing) {
        nng_ctx_close(slot->ctx);
        close_slot(slot);
    } else {
        start_receive(slot);
    }
}

static void drain(uv_async_t *async)
{
    struct proto_server *server = async->data;
    struct proto_request *slot;
    /* The box dies with the last slot, so its end is known before it is asked again. */
    while (server->closed_slots < server->slot_count &&
           (slot = sp_mailbox_try_take(server->box)) != NULL) {
        if (slot->state == SLOT_SENDING)
            sent(slot);
        else
            received(slot);
    }
}

/* Closing a dead listener cuts the connections that it made: who waits on them asks again, those
 * who connected in vain included. */
static void watch(uv_timer_t *timer)
{
    struct proto_server *server = timer->data;
    int64_t start_ms = sp_now_ms();
    if (server->closing)
        return;
    if (server->listening && proto_watch_is_dead(server->watch, server->listener.nng)) {
        sp_warn("%s: a peer broke off while it connected: listening anew",
                proto_watch_url(server->watch));
        nng_listener_close(server->listener.nng);
        server->listening = false;
    }
    struct sp_error err;
    if (!server->listening) {
        server->listening = proto_listener_open(&server->listener, server->socket, server->url,
                                                NULL, &err) == SP_OK;
        if (!server->listening) {
            if (sp_log_due(&server->failed_ms))
                sp_warn("listening anew failed, trying again: %s", err.text);
            nng_listener_close(server->listener.nng);
        } else {
            server->failed_ms = 0;
        }
    }
    int64_t took_ms = sp_now_ms() - start_ms;
    uv_timer_start(timer, watch, (uint64_t)SP_MAX(WATCH_MS, took_ms * WATCH_SHARE), 0);
}

enum sp_err proto_server_reload(struct proto_server *server, const struct proto_tls *tls,
                                struct sp_error *err)
{
    if (!proto_url_is_tls(server->url) || server->closing)
        return SP_OK;
    enum sp_err rc = proto_check_url(server->url, tls, err);
    return rc == SP_OK ? proto_listener_renew(&server->listener, tls, err) : rc;
}

static enum sp_err open_slots(struct proto_server *server, struct sp_error *err)
{
    for (uint32_t i = 0; i < server->slot_count; i++) {
        struct proto_request *slot = &server->slots[i];
        slot->server = server;
        int code = nng_ctx_open(&slot->ctx, server->socket);
        if (code == 0)
            code = nng_aio_alloc(&slot->aio, aio_ended, slot);
        if (code != 0)
            return proto_fail_nng(err, code, "open %u request slots", server->slot_count);
    }
    return SP_OK;
}

enum sp_err proto_server_start(uv_loop_t *loop, const char *url, const struct proto_tls *tls,
                               uint32_t parallel, proto_on_request *on_request, void *context,
                               struct proto_server **ret, struct sp_error *err)
{
    SP_ASSERT(parallel > 0);
    enum sp_err rc = proto_check_url(url, tls, err);
    if (rc != SP_OK)
        return rc;
    struct proto_server *server = sp_xalloc(sizeof(*server));
    server->slots = sp_xarray(parallel, sizeof(*server->slots));
    server->slot_count = parallel;
    server->on_request = on_request;
    server->context = context;
    server->url = sp_xstrdup(url);
    server->box = sp_mailbox_new(parallel, wake_loop, &server->async);
    int code = nng_rep0_open(&server->socket);
    if (code != 0) {
        rc = proto_fail_nng(err, code, "open a socket");
        goto out;
    }
    code = nng_socket_set_size(server->socket, NNG_OPT_RECVMAXSZ, PROTO_WIRE_BYTES);
    rc = code == 0 ? open_slots(server, err) : proto_fail_nng(err, code, "limit message size");
    if (rc == SP_OK)
        rc = proto_listener_init(&server->listener, server->socket, err);
    if (rc == SP_OK)
        rc = proto_listener_open(&server->listener, server->socket, url, tls, err);
    if (rc == SP_OK && (code = uv_async_init(loop, &server->async, drain)) != 0)
        rc = sp_fail(err, SP_EIO, "wake-up handle: %s", uv_strerror(code));
    if (rc != SP_OK) {
        nng_close(server->socket);
        goto out;
    }
    uv_timer_init(loop, &server->flush_timer);
    uv_timer_init(loop, &server->watch_timer);
    server->async.data = server->flush_timer.data = server->watch_timer.data = server;
    server->listening = true;
    if (strncmp(url, "ipc:", 4) == 0) {
        server->watch = proto_watch_new(url);
        uv_timer_start(&server->watch_timer, watch, WATCH_MS, 0);
    }
    for (uint32_t i = 0; i < parallel; i++)
        start_receive(&server->slots[i]);
    *ret = server;
    return SP_OK;
out:
    for (uint32_t i = 0; i < parallel; i++)
        nng_aio_free(server->slots[i].aio);
    proto_listener_deinit(&server->listener);
    sp_mailbox_free(server->box);
    free(server->slots);
    free(server->url);
    free(server);
    return rc;
}

void proto_server_close(struct proto_server *server, void (*on_closed)(void *), void *context)
{
    SP_ASSERT(!server->closing);
    server->closing = true;
    server->on_closed = on_closed;
    server->closed_context = context;
    /* The listener stays open: closing it would cut the connections of requests still in work.
     * What comes in now is never received, and its sender tries again when the socket closes. */
    for (uint32_t i = 0; i < server->slot_count; i++)
        if (server->slots[i].state == SLOT_RECEIVING)
            nng_ctx_close(server->slots[i].ctx); /* ends its aio, which comes through the box */
}

const struct proto_envelope *proto_request_envelope(const struct proto_request *request)
{
    return &request->envelope;
}

const void *proto_request_body(const struct proto_request *request)
{
    return request->body;
}

int64_t proto_request_age_ns(const struct proto_request *request)
{
    return sp_now_ns() - request->arrived_ns;
}

uint64_t proto_server_questions(const struct proto_server *server)
{
    return server->questions;
}

uint64_t proto_server_malformed(const struct proto_server *server)
{
    return server->malformed;
}

struct sp_arena *proto_request_arena(struct proto_request *request)
{
    return request->arena;
}

static void send_reply(struct proto_request *slot, const struct proto_envelope *envelope,
                       const void *body)
{
    SP_ASSERT(slot->state == SLOT_WORKING);
    struct sp_buf out = SP_BUF_INIT;
    proto_encode(envelope, body, &out);
    if (out.length > SP_MAX_MESSAGE) {
        /* Sent as it is it would close the connection, and be asked for again for ever. */
        struct proto_envelope error = *envelope;
        error.status = SP_ELIMIT;
        error.text = "the reply is over the size of a message: ask for less at once";
        sp_errlog("%s: a reply of %zu bytes, the limit is %d", proto_type_name(envelope->type),
                  out.length, SP_MAX_MESSAGE);
        sp_buf_clear(&out);
        proto_encode(&error, NULL, &out);
    }
    nng_msg *message;
    SP_ASSERT(nng_msg_alloc(&message, 0) == 0);
    SP_ASSERT(nng_msg_append(message, out.data, out.length) == 0);
    sp_buf_deinit(&out);
    sp_arena_free(slot->arena); /* the body may live there: only now */
    slot->arena = NULL;
    slot->body = NULL;
    slot->state = SLOT_SENDING;
    nng_aio_set_msg(slot->aio, message);
    nng_ctx_send(slot->ctx, slot->aio);
}

/* A request that could not be read has no version, or one that is not known. */
static uint32_t reply_version(const struct proto_request *request)
{
    uint32_t asked = request->envelope.version;
    return asked >= PROTO_VERSION_OLDEST && asked < PROTO_VERSION ? asked : PROTO_VERSION;
}

void proto_reply(struct proto_request *request, enum proto_type type, const void *body)
{
    SP_ASSERT(body != NULL && (int)type == (int)request->envelope.type + 1);
    const struct proto_envelope envelope = {
        .version = reply_version(request),
        .type = type,
        .request_id = request->envelope.request_id,
    };
    send_reply(request, &envelope, body);
}

void proto_reply_error(struct proto_request *request, enum sp_err status, uint32_t retry_after_ms,
                       const char *format, ...)
{
    SP_ASSERT(status != SP_OK);
    char text[SP_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    sp_debug("%s: request %016llx: refused: %s", proto_type_name(request->envelope.type),
             (unsigned long long)request->envelope.request_id, text);
    /* A request that could not be read has no type; any reply type carries its error. */
    enum proto_type type = request->envelope.type;
    if (type == PROTO_NONE || type % 2 == 1)
        type = PROTO_HELLO;
    const struct proto_envelope envelope = {
        .version = reply_version(request),
        .type = (enum proto_type)((int)type + 1),
        .request_id = request->envelope.request_id,
        .status = status,
        .text = text,
        .retry_after_ms = retry_after_ms,
    };
    send_reply(request, &envelope, NULL);
}

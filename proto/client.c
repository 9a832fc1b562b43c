#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "proto/codec.h"
#include "proto/transport.h"

#define DEFAULT_CONNECT_MS 5000
#define DEFAULT_REQUEST_MS 30000
#define DEFAULT_BACKOFF_MIN_MS 200
#define DEFAULT_BACKOFF_MAX_MS 10000
#define RECONNECT_MIN_MS 50
#define RECONNECT_MAX_MS 400
/* How long a dialer has for its pause and the handshake before a new one takes its place. */
#define REDIAL_MS 1200
#define REDIAL_LOOK_MS 5
#define CANCEL_CHECK_MS 200
#define LATE_ANSWER_MS 60000
#define ARENA_FIRST_CHUNK 65536

struct proto_client {
    struct proto_client_options options; /* texts owned */
    char *server_name, *cert_file;       /* NULL without TLS */
    nng_tls_config *tls;                 /* NULL without TLS */
    nng_socket socket;
    nng_ctx ctx;
    nng_aio *aio; /* one operation at a time, waited for */
    nng_dialer dialer;
    bool dialing;
    atomic_int *pipes;     /* connections, counted on nng's threads; owned with the socket */
    int64_t late_until_ms; /* until then an answer that nobody waits for may be coming in */
    struct sp_arena *arena;
    struct sp_buf wire;
    uint64_t next_request_id;
    uint64_t jitter;
    int64_t complained_ms; /* 0: all is well */
    int64_t contact_ms;    /* when there was a connection last; 0: never */
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool interrupted; /* under lock */
};

static void pipe_changed(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    atomic_int *pipes = context;
    atomic_fetch_add(pipes, event == NNG_PIPE_EV_ADD_POST ? 1 : -1);
}

static int64_t or_default(int64_t value, int64_t fallback)
{
    return value > 0 ? value : fallback;
}

static void copy_options(struct proto_client *client, const struct proto_client_options *options)
{
    struct proto_client_options *own = &client->options;
    *own = *options;
    own->url = sp_xstrdup(options->url);
    own->token = sp_xstrdup(options->token != NULL ? options->token : "");
    own->tls = (struct proto_tls){0};
    own->connect_ms = or_default(options->connect_ms, DEFAULT_CONNECT_MS);
    own->request_ms = or_default(options->request_ms, DEFAULT_REQUEST_MS);
    own->backoff_min_ms = or_default(options->backoff_min_ms, DEFAULT_BACKOFF_MIN_MS);
    own->backoff_max_ms = or_default(options->backoff_max_ms, DEFAULT_BACKOFF_MAX_MS);
    sp_random_secret(&client->jitter, sizeof(client->jitter));
    sp_random_secret(&client->next_request_id, sizeof(client->next_request_id));
    client->next_request_id >>= 1; /* never wraps */
    client->jitter |= 1;
}

static enum sp_err prepare_tls(struct proto_client *client, const struct proto_tls *tls,
                               struct sp_error *err)
{
    if (!proto_url_is_tls(client->options.url))
        return SP_OK;
    client->server_name = tls->server_name != NULL && *tls->server_name != 0
                              ? sp_xstrdup(tls->server_name)
                              : proto_url_host(client->options.url);
    const char *name = client->server_name;
    /* Addresses are never matched against a certificate by the library below. */
    if (strchr(name, ':') != NULL || name[strspn(name, "0123456789.")] == 0)
        return sp_fail(err, SP_EINVAL,
                       "address %s: the server's certificate is checked by DNS "
                       "name: set the TLS server name",
                       client->options.url);
    client->cert_file = sp_xstrdup(tls->cert_file);
    return proto_tls_config(tls, false, name, &client->tls, err);
}

/* nng 1.5.2 never ends the closing of a connection on which a message is coming in at that moment
 * (fixed upstream in 2024: "aio: run callback from aio_begin if stopped"), and its threads hang
 * with it. So a socket whose answer may still come is closed later, when it has come or never will.
 */
struct grave {
    nng_socket socket;
    atomic_int *pipes;
};

static void *close_later(void *argument)
{
    struct grave *grave = argument;
    sp_sleep_ms(LATE_ANSWER_MS);
    nng_close(grave->socket);
    free(grave->pipes);
    free(grave);
    return NULL;
}

static void close_socket(struct proto_client *client)
{
    if (nng_socket_id(client->socket) <= 0) {
        free(client->pipes);
    } else if (sp_now_ms() >= client->late_until_ms) {
        nng_close(client->socket);
        free(client->pipes);
    } else {
        pthread_t thread;
        struct grave *grave = sp_xalloc(sizeof(*grave));
        *grave = (struct grave){.socket = client->socket, .pipes = client->pipes};
        SP_ASSERT(pthread_create(&thread, NULL, close_later, grave) == 0);
        pthread_detach(thread);
    }
    client->pipes = NULL;
    client->dialing = false;
    client->socket = (nng_socket)NNG_SOCKET_INITIALIZER;
}

static enum sp_err open_socket(struct proto_client *client, struct sp_error *err)
{
    client->pipes = sp_xalloc(sizeof(*client->pipes));
    client->late_until_ms = 0;
    int code = nng_req0_open(&client->socket);
    if (code != 0) {
        client->socket = (nng_socket)NNG_SOCKET_INITIALIZER;
        return proto_fail_nng(err, code, "open a socket");
    }
    /* Copies that nng sends by itself would reach a slow server twice: retries are ours. */
    if ((code = nng_socket_set_ms(client->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE)) !=
            0 ||
        (code = nng_socket_set_size(client->socket, NNG_OPT_RECVMAXSZ, PROTO_WIRE_BYTES)) != 0 ||
        (code = nng_pipe_notify(client->socket, NNG_PIPE_EV_ADD_POST, pipe_changed,
                                client->pipes)) != 0 ||
        (code = nng_pipe_notify(client->socket, NNG_PIPE_EV_REM_POST, pipe_changed,
                                client->pipes)) != 0 ||
        (code = nng_ctx_open(&client->ctx, client->socket)) != 0)
        return proto_fail_nng(err, code, "set up a socket");
    return SP_OK;
}

enum sp_err proto_client_open(const struct proto_client_options *options, struct proto_client **ret,
                              struct sp_error *err)
{
    enum sp_err rc = proto_check_url(options->url, &options->tls, err);
    if (rc != SP_OK)
        return rc;
    struct proto_client *client = sp_xalloc(sizeof(*client));
    pthread_condattr_t attributes;
    SP_ASSERT(pthread_condattr_init(&attributes) == 0);
    SP_ASSERT(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    SP_ASSERT(pthread_mutex_init(&client->lock, NULL) == 0);
    SP_ASSERT(pthread_cond_init(&client->woken, &attributes) == 0);
    pthread_condattr_destroy(&attributes);
    client->arena = sp_arena_new(ARENA_FIRST_CHUNK, SP_MAX_DECODED_MESSAGE);
    copy_options(client, options);
    rc = prepare_tls(client, &options->tls, err);
    if (rc == SP_OK && nng_aio_alloc(&client->aio, NULL, NULL) != 0)
        rc = sp_fail(err, SP_ENOMEM, "no memory for a connection");
    if (rc == SP_OK)
        rc = open_socket(client, err);
    if (rc == SP_OK)
        *ret = client;
    else
        proto_client_free(client);
    return rc;
}

void proto_client_free(struct proto_client *client)
{
    if (client == NULL)
        return;
    close_socket(client);
    nng_aio_free(client->aio);
    if (client->tls != NULL)
        nng_tls_config_free(client->tls);
    sp_arena_free(client->arena);
    sp_buf_deinit(&client->wire);
    free((char *)(uintptr_t)client->options.url);
    free((char *)(uintptr_t)client->options.token);
    free(client->server_name);
    free(client->cert_file);
    pthread_cond_destroy(&client->woken);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

void proto_client_set_unreachable(struct proto_client *client, int64_t unreachable_ms)
{
    client->options.unreachable_ms = unreachable_ms;
}

void proto_client_interrupt(struct proto_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->interrupted = true;
    nng_aio_cancel(client->aio);
    pthread_cond_broadcast(&client->woken);
    pthread_mutex_unlock(&client->lock);
}

/* One asynchronous operation, started under the lock, so that an interrupt falls either before
 * (then it is not started) or after (then it is cancelled). */
struct operation {
    enum { OP_SEND, OP_RECEIVE, OP_DIAL, OP_READ } kind;
    nng_stream_dialer *dialer;
    nng_stream *stream;
};

static int perform(struct proto_client *client, const struct operation *op, int64_t timeout_ms)
{
    pthread_mutex_lock(&client->lock);
    if (client->interrupted) {
        pthread_mutex_unlock(&client->lock);
        return NNG_ECANCELED;
    }
    nng_aio_set_timeout(client->aio, (nng_duration)SP_MIN(timeout_ms, (int64_t)INT32_MAX));
    switch (op->kind) {
    case OP_SEND:
        nng_ctx_send(client->ctx, client->aio);
        break;
    case OP_RECEIVE:
        nng_ctx_recv(client->ctx, client->aio);
        break;
    case OP_DIAL:
        nng_stream_dialer_dial(op->dialer, client->aio);
        break;
    case OP_READ:
        nng_stream_recv(op->stream, client->aio);
        break;
    }
    pthread_mutex_unlock(&client->lock);
    nng_aio_wait(client->aio);
    return nng_aio_result(client->aio);
}

/* The first eight bytes that a REP peer sends: the SP protocol's greeting. */
static enum sp_err read_greeting(struct proto_client *client, nng_stream *stream,
                                 struct sp_error *err)
{
    static const uint8_t expected[8] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
    uint8_t greeting[8];
    size_t have = 0;
    const char *url = client->options.url;
    while (have < sizeof(greeting)) {
        nng_iov iov = {.iov_buf = greeting + have, .iov_len = sizeof(greeting) - have};
        nng_aio_set_iov(client->aio, 1, &iov);
        const struct operation read = {.kind = OP_READ, .stream = stream};
        int code = perform(client, &read, client->options.connect_ms);
        if (code == NNG_EPEERAUTH || code == NNG_ECRYPTO)
            return proto_fail_handshake(err, url, client->server_name, client->cert_file);
        if (code != 0)
            return proto_fail_nng(err, code, "%s", url);
        have += nng_aio_count(client->aio);
    }
    if (memcmp(greeting, expected, sizeof(expected)) != 0)
        return sp_fail(err, SP_EINVAL, "%s: what answers there is no coordinator", url);
    return SP_OK;
}

/* A connection of its own finds out at once and exactly why there is none: nng's dialer only keeps
 * trying in silence. */
static enum sp_err probe(struct proto_client *client, struct sp_error *err)
{
    nng_stream_dialer *dialer;
    int code = nng_stream_dialer_alloc(&dialer, client->options.url);
    if (code != 0)
        return proto_fail_nng(err, code, "%s", client->options.url);
    if (client->tls != NULL)
        code = nng_stream_dialer_set_ptr(dialer, NNG_OPT_TLS_CONFIG, client->tls);
    const struct operation dial = {.kind = OP_DIAL, .dialer = dialer};
    if (code == 0)
        code = perform(client, &dial, client->options.connect_ms);
    enum sp_err rc;
    if (code != 0) {
        rc = proto_fail_address(err, code, client->options.url, "%s", client->options.url);
        /* A name that does not resolve now may do so later: nothing here is final. */
        if (rc == SP_EINVAL || rc == SP_EDENIED)
            rc = err->code = SP_EUNAVAIL;
    } else {
        nng_stream *stream = nng_aio_get_output(client->aio, 0);
        rc = read_greeting(client, stream, err);
        nng_stream_free(stream);
    }
    nng_stream_dialer_free(dialer);
    return rc;
}

static bool is_cancelled(struct proto_client *client)
{
    return client->options.cancelled != NULL && client->options.cancelled(client->options.context);
}

/* Waits unless interrupted or cancelled; false then. */
static bool pause_for(struct proto_client *client, int64_t ms)
{
    int64_t end = sp_now_ms() + ms;
    bool go_on = true;
    pthread_mutex_lock(&client->lock);
    for (;;) {
        int64_t left = end - sp_now_ms();
        if (client->interrupted || left <= 0)
            break;
        pthread_mutex_unlock(&client->lock);
        go_on = !is_cancelled(client);
        pthread_mutex_lock(&client->lock);
        if (!go_on || client->interrupted)
            break;
        struct timespec until;
        int64_t slice = SP_MIN(left, (int64_t)CANCEL_CHECK_MS);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += slice * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&client->woken, &client->lock, &until);
    }
    go_on = go_on && !client->interrupted;
    pthread_mutex_unlock(&client->lock);
    return go_on;
}

static bool is_connected(struct proto_client *client)
{
    return client->dialing && atomic_load(client->pipes) > 0;
}

/* The dialer that had the last connection dials again by itself, after a pause. One that is stuck
 * (the network swallowed its greeting) is closed; not any, because nng 1.5.2 never clears away what
 * a dialer that is closed in the middle of a handshake had begun. */
static bool wait_for_dialer(struct proto_client *client)
{
    int64_t end_ms = sp_now_ms() + REDIAL_MS;
    while (client->dialing && !is_connected(client) && sp_now_ms() < end_ms)
        if (!pause_for(client, REDIAL_LOOK_MS))
            break;
    if (client->dialing && !is_connected(client))
        nng_dialer_close(client->dialer);
    client->dialing = is_connected(client);
    return client->dialing;
}

static enum sp_err connect_now(struct proto_client *client, struct sp_error *err)
{
    if (is_connected(client))
        return SP_OK;
    enum sp_err rc = probe(client, err);
    if (rc != SP_OK || wait_for_dialer(client))
        return rc;
    int code = nng_dialer_create(&client->dialer, client->socket, client->options.url);
    if (code != 0)
        return proto_fail_nng(err, code, "%s", client->options.url);
    client->dialing = true;
    if (client->tls != NULL)
        code = nng_dialer_set_ptr(client->dialer, NNG_OPT_TLS_CONFIG, client->tls);
    if (code == 0)
        code = nng_dialer_set_ms(client->dialer, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
    if (code == 0)
        code = nng_dialer_set_ms(client->dialer, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
    if (code == 0)
        code = nng_dialer_start(client->dialer, NNG_FLAG_NONBLOCK);
    return code == 0 ? SP_OK : proto_fail_nng(err, code, "%s", client->options.url);
}

static enum sp_err send_request(struct proto_client *client, enum proto_type type,
                                struct sp_error *err)
{
    nng_msg *message;
    SP_ASSERT(nng_msg_alloc(&message, 0) == 0);
    SP_ASSERT(nng_msg_append(message, client->wire.data, client->wire.length) == 0);
    nng_aio_set_msg(client->aio, message);
    const struct operation send = {.kind = OP_SEND};
    int code = perform(client, &send, client->options.connect_ms);
    if (code == 0)
        return SP_OK;
    client->late_until_ms = sp_now_ms() + LATE_ANSWER_MS;
    nng_msg_free(message);
    nng_aio_set_msg(client->aio, NULL);
    return proto_fail_nng(err, code, "%s: %s", client->options.url, proto_type_name(type));
}

static enum sp_err receive_reply(struct proto_client *client, enum proto_type type,
                                 uint64_t request_id, int64_t timeout_ms,
                                 struct proto_envelope *ret, void **ret_body, struct sp_error *err)
{
    const struct operation receive = {.kind = OP_RECEIVE};
    int code = perform(client, &receive, timeout_ms);
    if (code == NNG_ECANCELED || code == NNG_ETIMEDOUT)
        client->late_until_ms = sp_now_ms() + LATE_ANSWER_MS;
    if (code == NNG_ETIMEDOUT) {
        /* The connection may lead to a machine that is gone: the next try makes a new one. */
        close_socket(client);
        enum sp_err rc = open_socket(client, err);
        if (rc != SP_OK)
            return rc;
        return sp_fail(err, SP_ETIMEOUT, "%s: %s: no reply within %lld ms", client->options.url,
                       proto_type_name(type), (long long)timeout_ms);
    }
    if (code != 0)
        return proto_fail_nng(err, code, "%s: %s", client->options.url, proto_type_name(type));
    nng_msg *message = nng_aio_get_msg(client->aio);
    nng_aio_set_msg(client->aio, NULL);
    enum sp_err rc = proto_decode(nng_msg_body(message), nng_msg_len(message), client->arena, ret,
                                  ret_body, err);
    nng_msg_free(message);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "%s: malformed reply to %s", client->options.url,
                       proto_type_name(type));
    if (ret->status == SP_OK && (ret->request_id != request_id || (int)ret->type != (int)type + 1))
        return sp_fail(err, SP_EFORMAT, "%s: the reply to %s is a %s, or of another request",
                       client->options.url, proto_type_name(type), proto_type_name(ret->type));
    return SP_OK;
}

struct call {
    enum proto_type type;
    uint64_t request_id;
    int64_t hold_ms; /* the server may hold the request so long */
    int64_t started_ms;
    int64_t deadline_ms; /* INT64_MAX: none */
};

/* One try. *ret_final: trying again would not help. */
static enum sp_err attempt(struct proto_client *client, const struct call *call,
                           const void **ret_reply, uint32_t *ret_retry_after_ms, bool *ret_final,
                           struct sp_error *err)
{
    *ret_final = false;
    *ret_retry_after_ms = 0;
    sp_arena_reset(client->arena);
    enum sp_err rc = connect_now(client, err);
    if (rc == SP_OK)
        client->contact_ms = sp_now_ms();
    if (rc == SP_OK)
        rc = send_request(client, call->type, err);
    struct proto_envelope envelope = {0};
    void *body = NULL;
    if (rc == SP_OK) {
        int64_t left = call->deadline_ms - sp_now_ms();
        int64_t timeout = SP_MIN(client->options.request_ms + call->hold_ms, SP_MAX(left, 1));
        rc = receive_reply(client, call->type, call->request_id, timeout, &envelope, &body, err);
    }
    if (rc != SP_OK) {
        *ret_final = rc != SP_EUNAVAIL && rc != SP_ETIMEOUT;
        return rc;
    }
    if (envelope.status != SP_OK) {
        *ret_retry_after_ms = envelope.retry_after_ms;
        *ret_final = envelope.status != SP_EUNAVAIL;
        return sp_fail(err, envelope.status, "%s",
                       *envelope.text != 0 ? envelope.text : sp_err_text(envelope.status));
    }
    *ret_reply = body;
    return SP_OK;
}

/* xorshift64: decides nothing but pauses. */
static int64_t random_below(struct proto_client *client, int64_t bound)
{
    client->jitter ^= client->jitter << 13;
    client->jitter ^= client->jitter >> 7;
    client->jitter ^= client->jitter << 17;
    return (int64_t)(client->jitter % (uint64_t)bound);
}

static bool is_interrupted(struct proto_client *client)
{
    pthread_mutex_lock(&client->lock);
    bool interrupted = client->interrupted;
    pthread_mutex_unlock(&client->lock);
    return interrupted;
}

static void complain(struct proto_client *client, uint64_t request_id, const struct sp_error *err)
{
    if (!sp_log_due(&client->complained_ms))
        return;
    sp_log_set_request(request_id);
    sp_warn("%s; trying again", err->text);
    sp_log_set_request(0);
}

static enum sp_err cancelled(struct proto_client *client, enum proto_type type,
                             struct sp_error *err)
{
    pthread_mutex_lock(&client->lock);
    client->interrupted = false; /* one interrupt ends one call */
    pthread_mutex_unlock(&client->lock);
    return sp_fail(err, SP_ECANCELED, "%s: %s: interrupted", client->options.url,
                   proto_type_name(type));
}

static int64_t hold_of(enum proto_type type, const void *body)
{
    const struct proto_layout *layout = proto_layout_of(type);
    for (size_t i = 0; i < layout->field_count; i++)
        if (strcmp(layout->fields[i].name, "wait_ms") == 0)
            return *(const uint32_t *)(const void *)((const char *)body + layout->fields[i].offset);
    return 0;
}

/* Full jitter: AWS Architecture Blog, "Exponential Backoff And Jitter", 2015. */
static int64_t backoff(struct proto_client *client, int tries, uint32_t retry_after_ms)
{
    int64_t ceiling = client->options.backoff_min_ms << SP_MIN(tries, 20);
    ceiling = SP_MIN(ceiling, client->options.backoff_max_ms);
    return (int64_t)retry_after_ms + random_below(client, ceiling + 1);
}

/* Whether, at `then`, the last connection would be longer ago than the owner wants to wait. */
static bool is_unreachable(const struct proto_client *client, const struct call *call, int64_t then)
{
    int64_t since = SP_MAX(client->contact_ms, call->started_ms);
    return client->options.unreachable_ms > 0 && then - since > client->options.unreachable_ms;
}

enum sp_err proto_call(struct proto_client *client, enum proto_type type, const void *body,
                       int64_t give_up_ms, const void **ret_reply, struct sp_error *err)
{
    struct sp_error detail = {.code = SP_OK, .text = ""};
    SP_ASSERT(proto_layout_of(type) != NULL && type % 2 == 0 && body != NULL);
    struct call call = {
        .type = type,
        .request_id = client->next_request_id++,
        .hold_ms = hold_of(type, body),
        .started_ms = sp_now_ms(),
        .deadline_ms = give_up_ms > 0 ? sp_now_ms() + give_up_ms : INT64_MAX,
    };
    const struct proto_envelope envelope = {
        .version = PROTO_VERSION,
        .type = type,
        .request_id = call.request_id,
        .token = client->options.token,
    };
    sp_buf_clear(&client->wire);
    proto_encode(&envelope, body, &client->wire);
    if (client->wire.length > SP_MAX_MESSAGE)
        return sp_fail(err, SP_ELIMIT, "%s: %zu bytes, a message has at most %d",
                       proto_type_name(type), client->wire.length, SP_MAX_MESSAGE);
    for (int tries = 0;; tries++) {
        if (is_cancelled(client))
            return cancelled(client, type, err);
        uint32_t retry_after_ms;
        bool final;
        enum sp_err rc = attempt(client, &call, ret_reply, &retry_after_ms, &final, &detail);
        if (rc == SP_OK) {
            if (client->complained_ms != 0)
                sp_info("%s: %s: answered again", client->options.url, proto_type_name(type));
            client->complained_ms = 0;
            return SP_OK;
        }
        if (rc == SP_ECANCELED && is_interrupted(client))
            return cancelled(client, type, err);
        int64_t pause = backoff(client, tries, retry_after_ms);
        if (final || give_up_ms == 0 || call.deadline_ms - sp_now_ms() <= pause ||
            is_unreachable(client, &call, sp_now_ms() + pause))
            return sp_fail(err, rc, "%s", detail.text);
        complain(client, call.request_id, &detail);
        if (!pause_for(client, pause))
            return cancelled(client, type, err);
    }
}

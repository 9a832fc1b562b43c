/* rpc: requests and replies over nng REQ/REP, on ipc and tls+tcp.
 *
 * Server: one listener per address, many requests in work at once. `on_request` runs on the loop
 * thread that owns the server (nng's own threads only fill a mailbox and wake the loop) and answers
 * now or later with proto_reply or proto_reply_error, exactly once per request, on the loop thread.
 * Client: a blocking call with time-out, retry with full-jitter backoff and reconnect, for worker
 * threads and command lines. A client belongs to one thread; open one for each.
 *
 * TLS (mutual, TLS 1.2): certificates and keys are PEM files; the server name is always checked. */
#ifndef SPIN_PROTO_RPC_H
#define SPIN_PROTO_RPC_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/base/err.h"
#include "proto/messages.h"

struct proto_tls {
    const char *ca_file;     /* signs the peers; NULL or "": no TLS files given */
    const char *cert_file;   /* own certificate and key in one PEM file */
    const char *server_name; /* clients: DNS name that the server's certificate must have */
};

/* ---- server ---- */
struct proto_server;
struct proto_request; /* one request in work; owned by the server until replied to */

typedef void proto_on_request(struct proto_request *request, void *context);

/* url: "ipc:///run/spin/coordinator.sock" (mode 0600) or "tls+tcp://0.0.0.0:7070"; "tcp://" only to
 * loopback addresses. parallel: requests taken from the socket at once. */
enum sp_err proto_server_start(uv_loop_t *loop, const char *url, const struct proto_tls *tls,
                               uint32_t parallel, proto_on_request *on_request, void *context,
                               struct proto_server **ret, struct sp_error *err) SP_MUST_USE;
/* Takes the certificate files as they are now; ipc is left alone. Connections that were made under
 * the old ones end with their next request: the peer dials again with jitter and repeats it. When
 * the files are no good all stays as it was. */
enum sp_err proto_server_reload(struct proto_server *server, const struct proto_tls *tls,
                                struct sp_error *err) SP_MUST_USE;
uint64_t proto_server_malformed(const struct proto_server *server); /* requests, so far */
uint64_t proto_server_questions(const struct proto_server *server); /* that it put to itself */
/* Takes no more requests; `on_closed` runs on the loop when every request in work has been replied
 * to (which stays the owner's duty) and its reply is sent. */
void proto_server_close(struct proto_server *server, void (*on_closed)(void *), void *context);

const struct proto_envelope *proto_request_envelope(const struct proto_request *request);
const void *proto_request_body(const struct proto_request *request); /* struct proto_<type> */
/* Since the request was read from its connection. */
int64_t proto_request_age_ns(const struct proto_request *request);
struct sp_arena *proto_request_arena(struct proto_request *request); /* lives until the reply */
/* Encodes and sends; body is a struct proto_<type>. Both release the request. */
void proto_reply(struct proto_request *request, enum proto_type type, const void *body);
void proto_reply_error(struct proto_request *request, enum sp_err status, uint32_t retry_after_ms,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));

/* ---- client ---- */
struct proto_client_options {
    const char *url; /* ipc:///… or tls+tcp://host:port */
    struct proto_tls tls;
    const char *token;      /* "id.secret" */
    int64_t connect_ms;     /* default 5,000 */
    int64_t request_ms;     /* default 30,000; a held request adds its wait_ms */
    int64_t backoff_min_ms; /* default 200 */
    int64_t backoff_max_ms; /* default 10,000 */
    int64_t unreachable_ms; /* calls give up when no connection came about for so long; 0: only
                               their own give_up_ms counts */
    /* true: stop retrying (asked between attempts); NULL: never */
    bool (*cancelled)(void *context);
    void *context;
};
struct proto_client;
enum sp_err proto_client_open(const struct proto_client_options *options, struct proto_client **ret,
                              struct sp_error *err) SP_MUST_USE;
void proto_client_free(struct proto_client *client);
/* Changes options.unreachable_ms, between calls. */
void proto_client_set_unreachable(struct proto_client *client, int64_t unreachable_ms);
/* Another thread may call this to wake a blocked call, which returns SP_ECANCELED. Each interrupt
 * ends one call: the one in work, else the next one. */
void proto_client_interrupt(struct proto_client *client);
/* Sends body (struct proto_<type>) and waits for its reply. Lost connections, time-outs and
 * SP_EUNAVAIL are retried with backoff until give_up_ms have passed (-1: for ever, 0: one try).
 * *ret_reply (struct proto_<type>_reply) lives in the client's arena until its next call. */
enum sp_err proto_call(struct proto_client *client, enum proto_type type, const void *body,
                       int64_t give_up_ms, const void **ret_reply,
                       struct sp_error *err) SP_MUST_USE;

#endif

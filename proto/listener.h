/* listener: where a server's connections come from, and how its certificate is changed. In proto/
 * only.
 *
 * nng can give a listener new TLS files only for connections to come, and closing one cuts all of
 * its connections, which in nng 1.5.2 may hang for ever where a message is coming in at that moment
 * (fixed upstream in 2024: "aio: run callback from aio_begin if stopped"). So the listener stays,
 * and a connection that was made under the old files is closed when a request of it has come in
 * whole: its peer is waiting then, and asks again on a new connection. Who never asks gets nothing.
 */
#ifndef SPIN_PROTO_LISTENER_H
#define SPIN_PROTO_LISTENER_H

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/rpc.h"

/* One loop thread; nng's threads only move `newest`. */
struct proto_listener {
    nng_listener nng;
    nng_tls_config *config[2]; /* in use, and the one before it: a peer may be half-way into it */
    _Atomic int64_t newest;    /* the last connection's number; -1: none yet */
    int64_t outdated;          /* connections up to this one are of old files; -1: none */
    int64_t renewed_ms;        /* 0: nobody can be half-way into a connection of old files */
};

/* Watches the socket's connections; once, before it is opened. */
enum sp_err proto_listener_init(struct proto_listener *listener, nng_socket socket,
                                struct sp_error *err) SP_MUST_USE;
enum sp_err proto_listener_open(struct proto_listener *listener, nng_socket socket, const char *url,
                                const struct proto_tls *tls, struct sp_error *err) SP_MUST_USE;
/* New files for connections from now on; when they are no good nothing changes. */
enum sp_err proto_listener_renew(struct proto_listener *listener, const struct proto_tls *tls,
                                 struct sp_error *err) SP_MUST_USE;
/* Whether files that are gone let this connection in. One that was half-way in when the files
 * changed is found out PROTO_HANDSHAKE_MS later. */
bool proto_listener_is_outdated(struct proto_listener *listener, nng_pipe connection,
                                int64_t now_ms);
/* After the socket is closed. */
void proto_listener_deinit(struct proto_listener *listener);

/* How long nng lets a connection take to be made. */
#define PROTO_HANDSHAKE_MS 11000

#endif

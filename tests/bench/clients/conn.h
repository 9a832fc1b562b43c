/* conn: one TLS connection that speaks what nng's REQ sockets speak, cheap enough for ten thousand
 * in a process: no thread, no socket of nng, buffers only while something is in them.
 *
 * The owner polls with epoll (one descriptor for all) and calls conn_event; requests are whole
 * messages of proto/, named by a number below 2^31 that comes back with the reply. One thread. */
#ifndef SPIN_TESTS_BENCH_CONN_H
#define SPIN_TESTS_BENCH_CONN_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"

struct conn_net {
    int epoll;
    SSL_CTX *tls;
    uint16_t port;
    const char *server_name;
    uint64_t handshakes; /* done so far */
    uint64_t bytes_in, bytes_out;
};

enum conn_state { CONN_CLOSED, CONN_DIALING, CONN_SHAKING, CONN_GREETING, CONN_READY };

struct conn {
    struct conn_net *net;
    enum conn_state state;
    int fd;
    SSL *ssl;
    bool wants_out;               /* EPOLLOUT is asked for */
    uint32_t dribble;             /* bytes that conn_tick sends and reads; 0: as fast as it goes */
    bool unwatched;               /* dribbling: only conn_tick looks at it */
    uint32_t may_read, may_write; /* dribbling: what is left of them */
    bool mute;                    /* connects and says nothing, not even TLS */
    struct sp_buf in, out;
    size_t out_at; /* bytes of `out` that are sent */
    void *owner;
    void (*on_ready)(struct conn *conn);
    void (*on_reply)(struct conn *conn, uint32_t number, const void *data, size_t length);
    void (*on_lost)(struct conn *conn); /* also after conn_close: no */
};

/* ca_file, cert_file: PEM. Exits with a message when they are no good. */
void conn_net_init(struct conn_net *net, uint16_t port, const char *ca_file, const char *cert_file,
                   const char *server_name);
void conn_net_deinit(struct conn_net *net);

void conn_init(struct conn *conn, struct conn_net *net, void *owner);
void conn_dial(struct conn *conn); /* from CONN_CLOSED; on_ready or on_lost follows */
void conn_close(struct conn *conn);
/* Room for a message of `length` bytes; fill it, then conn_send. */
uint8_t *conn_message(struct conn *conn, uint32_t number, size_t length);
void conn_send(struct conn *conn);
void conn_event(struct conn *conn, uint32_t events); /* of epoll */
void conn_tick(struct conn *conn);                   /* dribbling ones, now and then */

#endif

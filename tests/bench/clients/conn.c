#include "tests/bench/clients/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/limits.h"
#include "common/base/mem.h"

#define GREETING_BYTES 8
#define FRAME_BYTES 12    /* length, number */
#define FINAL 0x80000000u /* ends the list of numbers in front of a message */
#define SCRATCH_BYTES 65536
#define KEEP_BYTES 4096 /* larger buffers are given back when they are empty */

static const uint8_t own_greeting[GREETING_BYTES] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
static const uint8_t their_greeting[GREETING_BYTES] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "bench_clients: %s: %s\n", what, ERR_reason_error_string(ERR_get_error()));
    exit(1);
}

void conn_net_init(struct conn_net *net, uint16_t port, const char *ca_file, const char *cert_file,
                   const char *server_name)
{
    *net = (struct conn_net){.port = port, .server_name = server_name};
    net->epoll = epoll_create1(EPOLL_CLOEXEC);
    net->tls = SSL_CTX_new(TLS_client_method());
    must(net->epoll >= 0 && net->tls != NULL, "TLS");
    must(SSL_CTX_load_verify_locations(net->tls, ca_file, NULL) == 1, ca_file);
    must(SSL_CTX_use_certificate_chain_file(net->tls, cert_file) == 1 &&
             SSL_CTX_use_PrivateKey_file(net->tls, cert_file, SSL_FILETYPE_PEM) == 1,
         cert_file);
    SSL_CTX_set_verify(net->tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(net->tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_RELEASE_BUFFERS |
                                   SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* As nng's clients: every connection makes a session of its own. */
    SSL_CTX_set_session_cache_mode(net->tls, SSL_SESS_CACHE_OFF);
}

void conn_net_deinit(struct conn_net *net)
{
    SSL_CTX_free(net->tls);
    close(net->epoll);
}

void conn_init(struct conn *conn, struct conn_net *net, void *owner)
{
    *conn = (struct conn){.net = net, .fd = -1, .owner = owner};
}

static void watch(struct conn *conn, bool wants_out)
{
    if (conn->wants_out == wants_out || conn->unwatched)
        return;
    struct epoll_event event = {.events = EPOLLIN | (wants_out ? (uint32_t)EPOLLOUT : 0u),
                                .data.ptr = conn};
    conn->wants_out = wants_out;
    SP_ASSERT(epoll_ctl(conn->net->epoll, EPOLL_CTL_MOD, conn->fd, &event) == 0);
}

void conn_close(struct conn *conn)
{
    if (conn->state == CONN_CLOSED)
        return;
    SSL_free(conn->ssl);
    close(conn->fd);
    conn->ssl = NULL;
    conn->fd = -1;
    conn->state = CONN_CLOSED;
    conn->unwatched = false;
    sp_buf_deinit(&conn->in);
    sp_buf_deinit(&conn->out);
    conn->out_at = 0;
}

static void lost(struct conn *conn)
{
    conn_close(conn);
    conn->on_lost(conn);
}

void conn_dial(struct conn *conn)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(conn->net->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int one = 1;
    SP_ASSERT(conn->state == CONN_CLOSED);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    must(conn->fd >= 0, "more connections than files may be open");
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = conn};
    SP_ASSERT(epoll_ctl(conn->net->epoll, EPOLL_CTL_ADD, conn->fd, &event) == 0);
    conn->wants_out = true;
    conn->state = CONN_DIALING;
    if (connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) != 0 &&
        errno != EINPROGRESS)
        lost(conn);
}

/* ---- what goes out ---- */

static size_t allowed(const struct conn *conn, size_t bytes, uint32_t left)
{
    return conn->dribble ? SP_MIN(bytes, (size_t)left) : bytes;
}

/* false: the connection is gone. */
static bool flush(struct conn *conn)
{
    while (conn->out_at < conn->out.length) {
        size_t bytes = allowed(conn, conn->out.length - conn->out_at, conn->may_write);
        if (bytes == 0) {
            watch(conn, false);
            return true;
        }
        ERR_clear_error();
        int n = SSL_write(conn->ssl, conn->out.data + conn->out_at, (int)SP_MIN(bytes, 1u << 20));
        if (n <= 0) {
            int why = SSL_get_error(conn->ssl, n);
            if (why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ) {
                watch(conn, true);
                return true;
            }
            lost(conn);
            return false;
        }
        conn->out_at += (size_t)n;
        conn->may_write -= conn->dribble ? (uint32_t)n : 0;
        conn->net->bytes_out += (uint64_t)n;
    }
    conn->out_at = 0;
    if (conn->out.capacity > KEEP_BYTES)
        sp_buf_deinit(&conn->out);
    else
        sp_buf_clear(&conn->out);
    watch(conn, false);
    return true;
}

static void put_be(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
}

static uint64_t get_be(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

uint8_t *conn_message(struct conn *conn, uint32_t number, size_t length)
{
    SP_ASSERT(conn->state == CONN_READY && number < FINAL);
    sp_buf_reserve(&conn->out, FRAME_BYTES + length);
    uint8_t *at = (uint8_t *)conn->out.data + conn->out.length;
    put_be(at, length + 4, 8);
    put_be(at + 8, FINAL | number, 4);
    conn->out.length += FRAME_BYTES + length;
    return at + FRAME_BYTES;
}

void conn_send(struct conn *conn)
{
    if (conn->state == CONN_READY && (!conn->wants_out || conn->unwatched))
        (void)flush(conn);
}

/* ---- what comes in ---- */

/* Hands out the whole messages at the start; returns how many bytes they were, −1: no message. The
 * receiver may close the connection. */
static ssize_t take_messages(struct conn *conn, const uint8_t *data, size_t length)
{
    size_t at = 0;
    if (conn->state == CONN_GREETING) {
        if (length < GREETING_BYTES)
            return 0;
        if (memcmp(data, their_greeting, GREETING_BYTES) != 0)
            return -1;
        at = GREETING_BYTES;
        conn->state = CONN_READY;
        conn->on_ready(conn);
    }
    while (conn->state == CONN_READY && length - at >= FRAME_BYTES) {
        uint64_t bytes = get_be(data + at, 8);
        if (bytes < 4 || bytes > SP_MAX_MESSAGE + 64)
            return -1;
        if (length - at < 8 + bytes)
            break;
        uint32_t number = (uint32_t)get_be(data + at + 8, 4);
        conn->on_reply(conn, number & ~FINAL, data + at + FRAME_BYTES, (size_t)bytes - 4);
        at += 8 + (size_t)bytes;
    }
    return (ssize_t)at;
}

static bool take(struct conn *conn, const uint8_t *data, size_t length)
{
    if (conn->in.length > 0) {
        sp_buf_append(&conn->in, data, length);
        data = (const uint8_t *)conn->in.data;
        length = conn->in.length;
    }
    ssize_t done = take_messages(conn, data, length);
    if (conn->state < CONN_GREETING)
        return false;
    if (done < 0) {
        lost(conn);
        return false;
    }
    size_t left = length - (size_t)done;
    if (conn->in.length > 0) {
        memmove(conn->in.data, conn->in.data + done, left);
        conn->in.length = left;
        if (left == 0 && conn->in.capacity > KEEP_BYTES)
            sp_buf_deinit(&conn->in);
    } else if (left > 0) {
        sp_buf_append(&conn->in, data + done, left);
    }
    return true;
}

static void read_all(struct conn *conn)
{
    static uint8_t scratch[SCRATCH_BYTES];
    for (;;) {
        size_t room = allowed(conn, sizeof(scratch), conn->may_read);
        if (room == 0)
            return;
        ERR_clear_error();
        int n = SSL_read(conn->ssl, scratch, (int)room);
        if (n <= 0) {
            int why = SSL_get_error(conn->ssl, n);
            if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
                lost(conn);
            return;
        }
        conn->may_read -= conn->dribble ? (uint32_t)n : 0;
        conn->net->bytes_in += (uint64_t)n;
        if (!take(conn, scratch, (size_t)n))
            return;
        if (SSL_pending(conn->ssl) == 0 && (size_t)n < room)
            return; /* epoll tells of more */
    }
}

/* ---- the beginning ---- */

static void shake(struct conn *conn)
{
    ERR_clear_error();
    int n = SSL_do_handshake(conn->ssl);
    if (n == 1) {
        conn->net->handshakes++;
        conn->state = CONN_GREETING;
        if (conn->dribble) {
            conn->unwatched = true; /* what it may not read yet would wake the loop for ever */
            epoll_ctl(conn->net->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
        }
        sp_buf_append(&conn->out, own_greeting, GREETING_BYTES);
        (void)flush(conn);
        return;
    }
    int why = SSL_get_error(conn->ssl, n);
    if (why == SSL_ERROR_WANT_READ)
        watch(conn, false);
    else if (why == SSL_ERROR_WANT_WRITE)
        watch(conn, true);
    else
        lost(conn);
}

static void dialed(struct conn *conn)
{
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) {
        lost(conn);
        return;
    }
    if (conn->mute) {
        watch(conn, false);
        return;
    }
    conn->ssl = SSL_new(conn->net->tls);
    must(conn->ssl != NULL && SSL_set_fd(conn->ssl, conn->fd) == 1 &&
             SSL_set1_host(conn->ssl, conn->net->server_name) == 1,
         "TLS");
    SSL_set_connect_state(conn->ssl);
    conn->state = CONN_SHAKING;
    shake(conn);
}

void conn_event(struct conn *conn, uint32_t events)
{
    if (conn->state == CONN_DIALING && conn->mute && !(events & EPOLLOUT)) {
        lost(conn); /* nothing is ever sent to who says nothing: the end */
    } else if (conn->state == CONN_DIALING) {
        dialed(conn);
    } else if (conn->state == CONN_SHAKING) {
        shake(conn);
    } else {
        if (events & EPOLLOUT && !flush(conn))
            return;
        if (conn->state != CONN_CLOSED && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            read_all(conn);
    }
}

void conn_tick(struct conn *conn)
{
    if (conn->state < CONN_GREETING)
        return;
    conn->may_read = conn->may_write = conn->dribble;
    if (flush(conn))
        read_all(conn);
}

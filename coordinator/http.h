/* http: a small server of pages for monitoring, inside the loop (libmicrohttpd's epoll in a
 * uv_poll). It knows nothing of what it serves: `answer` says it, and must not block.
 *
 * Limits: 64 connections, 16 from one address, 30 s each whatever it does, 10 s of silence, 32 KiB
 * of memory each; GET and HEAD only; a body is not read. One request a connection. So a slow client
 * holds a place for half a minute and harms nobody else: the protocol's own port has other threads
 * and other limits. Loop thread only. */
#ifndef SPIN_COORDINATOR_HTTP_H
#define SPIN_COORDINATOR_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/base/buf.h"
#include "common/base/err.h"

#define COORD_HTTP_CONNECTIONS 64
#define COORD_HTTP_PER_ADDRESS 16
#define COORD_HTTP_LIFE_MS 30000

struct coord_http_reply {
    unsigned status;     /* 200 */
    const char *type;    /* static: Content-Type */
    struct sp_buf body;  /* taken over */
};
/* path: without the query; authorization: that header's value, or NULL. */
typedef void coord_http_answer(void *context, const char *path, const char *authorization,
                               struct coord_http_reply *ret);

struct coord_http_options {
    const char *address;   /* "127.0.0.1:7071", "[::1]:7071"; numbers only; NULL: does not listen
                              (connections come through coord_http_add) */
    const char *cert_file; /* certificate and key in one PEM file; NULL: no TLS */
    coord_http_answer *answer;
    void *context;
};

struct coord_http;

/* Whether the address is one that other machines cannot reach; SP_EINVAL when it is none. */
enum sp_err coord_http_is_loopback(const char *address, bool *ret, struct sp_error *err)
    SP_MUST_USE;
enum sp_err coord_http_start(uv_loop_t *loop, const struct coord_http_options *options,
                             struct coord_http **ret, struct sp_error *err) SP_MUST_USE;
/* Cuts the connections; the handles are gone after the next turns of the loop. NULL is fine. */
void coord_http_close(struct coord_http *http);
uint32_t coord_http_connections(const struct coord_http *http); /* NULL: 0 */
/* A connected socket, taken over also on failure; for tests. */
bool coord_http_add(struct coord_http *http, int fd);
void coord_http_run(struct coord_http *http); /* what the loop does by itself; for tests */

#endif

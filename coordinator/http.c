#include "coordinator/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define SILENCE_S 10
#define CONNECTION_MEMORY ((size_t)32 << 10)
#define LOOK_MS 1000
#define BACKLOG 128
#define PEM_BYTES ((size_t)1 << 20)

struct connection {
    int fd; /* -1: free */
    int64_t since_ms;
};

struct coord_http {
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer; /* MHD's own time-outs, and lives that are too long */
    uint32_t open_handles;
    coord_http_answer *answer;
    void *context;
    struct connection connections[COORD_HTTP_CONNECTIONS];
    uint32_t connection_count;
};

/* ---- addresses ---- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static enum sp_err parse_address(const char *text, union address *ret, struct sp_error *err)
{
    char host[64] = "";
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    long port = colon && colon[1] ? strtol(colon + 1, &end, 10) : -1;
    size_t length = colon ? (size_t)(colon - text) : 0;
    bool good = length > 0 && length < sizeof(host) && end && *end == '\0' && port >= 0 &&
                port <= 65535;
    *ret = (union address){0};
    if (good) {
        bool brackets = text[0] == '[' && text[length - 1] == ']';
        memcpy(host, text + brackets, length - 2 * brackets);
        if (strcmp(host, "localhost") == 0)
            strcpy(host, "127.0.0.1");
        if (!brackets && inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1) {
            ret->v4.sin_family = AF_INET;
            ret->v4.sin_port = htons((uint16_t)port);
            return SP_OK;
        }
        if (brackets && inet_pton(AF_INET6, host, &ret->v6.sin6_addr) == 1) {
            ret->v6.sin6_family = AF_INET6;
            ret->v6.sin6_port = htons((uint16_t)port);
            return SP_OK;
        }
    }
    return sp_fail(err, SP_EINVAL,
                   "[http] listen: \"%.80s\": expected an address and a port, 127.0.0.1:7071 or "
                   "[::1]:7071",
                   text);
}

enum sp_err coord_http_is_loopback(const char *address, bool *ret, struct sp_error *err)
{
    union address at;
    enum sp_err rc = parse_address(address, &at, err);
    if (rc)
        return rc;
    *ret = at.any.sa_family == AF_INET ? (ntohl(at.v4.sin_addr.s_addr) >> 24) == 127
                                       : IN6_IS_ADDR_LOOPBACK(&at.v6.sin6_addr);
    return SP_OK;
}

static enum sp_err bind_to(const char *address, int *ret, struct sp_error *err)
{
    union address at;
    int one = 1;
    enum sp_err rc = parse_address(address, &at, err);
    if (rc)
        return rc;
    int fd = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return sp_fail_errno(err, errno, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    socklen_t length = at.any.sa_family == AF_INET ? sizeof(at.v4) : sizeof(at.v6);
    if (bind(fd, &at.any, length) != 0 || listen(fd, BACKLOG) != 0) {
        rc = errno == EADDRINUSE ? sp_fail(err, SP_ESTATE, "[http] listen: %s is in use", address)
                                 : sp_fail_errno(err, errno, "[http] listen: %s", address);
        close(fd);
        return rc;
    }
    *ret = fd;
    return SP_OK;
}

/* ---- requests ---- */

static enum MHD_Result send_reply(struct MHD_Connection *connection, unsigned status,
                                  const char *type, void *body, size_t length)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(length, body, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(body);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/* Answers when the headers are there: a body is not waited for. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **state)
{
    struct coord_http *http = context;
    (void)version;
    (void)upload;
    (void)upload_bytes;
    (void)state;
    struct coord_http_reply reply = {.status = MHD_HTTP_METHOD_NOT_ALLOWED,
                                     .type = "text/plain; charset=utf-8"};
    if (strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0)
        http->answer(
            http->context, url,
            MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION),
            &reply);
    else
        sp_buf_puts(&reply.body, "GET or HEAD only\n");
    size_t length = reply.body.length;
    return send_reply(connection, reply.status, reply.type, sp_buf_detach(&reply.body), length);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    struct coord_http *http = context;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        struct connection *slot = *state;
        if (slot) {
            slot->fd = -1;
            http->connection_count--;
        }
        return;
    }
    for (int i = 0; info && i < COORD_HTTP_CONNECTIONS; i++) {
        if (http->connections[i].fd >= 0)
            continue;
        http->connections[i] = (struct connection){.fd = info->connect_fd, .since_ms = sp_now_ms()};
        http->connection_count++;
        *state = &http->connections[i];
        return;
    }
}

/* ---- the loop ---- */

static void on_timer(uv_timer_t *timer);

static void set_timer(struct coord_http *http)
{
    MHD_UNSIGNED_LONG_LONG wait_ms = LOOK_MS;
    if (MHD_get_timeout(http->daemon, &wait_ms) != MHD_YES || wait_ms > LOOK_MS)
        wait_ms = LOOK_MS;
    if (http->connection_count > 0 || wait_ms < LOOK_MS)
        uv_timer_start(&http->timer, on_timer, wait_ms, 0);
    else
        uv_timer_stop(&http->timer);
}

void coord_http_run(struct coord_http *http)
{
    int64_t now = sp_now_ms();
    for (int i = 0; i < COORD_HTTP_CONNECTIONS; i++) {
        const struct connection *one = &http->connections[i];
        if (one->fd >= 0 && now - one->since_ms >= COORD_HTTP_LIFE_MS)
            shutdown(one->fd, SHUT_RDWR); /* MHD sees its end, and closes it */
    }
    MHD_run(http->daemon);
    set_timer(http);
}

static void on_timer(uv_timer_t *timer)
{
    coord_http_run(timer->data);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    coord_http_run(poll->data);
}

static void on_log(void *context, const char *format, va_list args)
{
    char text[512];
    (void)context;
    vsnprintf(text, sizeof(text), format, args);
    text[strcspn(text, "\n")] = '\0';
    sp_debug("http: %s", text);
}

static enum sp_err start_daemon(struct coord_http *http, const char *pem, int fd,
                                struct sp_error *err)
{
    unsigned flags = MHD_USE_EPOLL | MHD_USE_ERROR_LOG;
    if (pem)
        flags |= MHD_USE_TLS;
    if (fd < 0)
        flags |= MHD_USE_NO_LISTEN_SOCKET;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_log, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, COORD_HTTP_CONNECTIONS, NULL},
        {MHD_OPTION_PER_IP_CONNECTION_LIMIT, fd >= 0 ? COORD_HTTP_PER_ADDRESS : 0, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, SILENCE_S, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)CONNECTION_MEMORY, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, http},
        {fd >= 0 ? MHD_OPTION_LISTEN_SOCKET : MHD_OPTION_END, fd, NULL},
        {pem ? MHD_OPTION_HTTPS_MEM_KEY : MHD_OPTION_END, 0, (void *)pem},
        {pem ? MHD_OPTION_HTTPS_MEM_CERT : MHD_OPTION_END, 0, (void *)pem},
        {MHD_OPTION_END, 0, NULL},
    };
    http->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, http, MHD_OPTION_ARRAY,
                                    options, MHD_OPTION_END);
    if (http->daemon)
        return SP_OK;
    return sp_fail(err, SP_EINVAL, "[http] the server does not start%s",
                   pem ? ": is [tls] cert a certificate with its unencrypted key?" : "");
}

enum sp_err coord_http_start(uv_loop_t *loop, const struct coord_http_options *options,
                             struct coord_http **ret, struct sp_error *err)
{
    struct coord_http *http = sp_xalloc(sizeof(*http));
    char *pem = NULL;
    size_t length = 0;
    int fd = -1;
    enum sp_err rc = SP_OK;
    http->answer = options->answer;
    http->context = options->context;
    for (int i = 0; i < COORD_HTTP_CONNECTIONS; i++)
        http->connections[i].fd = -1;
    if (options->cert_file)
        rc = sp_read_secret(options->cert_file, PEM_BYTES, &pem, &length, err);
    if (!rc && options->address)
        rc = bind_to(options->address, &fd, err);
    if (!rc)
        rc = start_daemon(http, pem, fd, err);
    if (pem) {
        explicit_bzero(pem, length);
        free(pem);
    }
    if (rc) {
        if (fd >= 0)
            close(fd);
        free(http);
        return rc;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    SP_ASSERT(info && info->epoll_fd >= 0);
    uv_poll_init(loop, &http->poll, info->epoll_fd);
    uv_timer_init(loop, &http->timer);
    http->poll.data = http->timer.data = http;
    http->open_handles = 2;
    uv_poll_start(&http->poll, UV_READABLE, on_readable);
    *ret = http;
    return SP_OK;
}

static void closed(uv_handle_t *handle)
{
    struct coord_http *http = handle->data;
    if (--http->open_handles == 0)
        free(http);
}

void coord_http_close(struct coord_http *http)
{
    if (!http)
        return;
    uv_poll_stop(&http->poll);
    MHD_stop_daemon(http->daemon);
    uv_close((uv_handle_t *)&http->poll, closed);
    uv_close((uv_handle_t *)&http->timer, closed);
}

uint32_t coord_http_connections(const struct coord_http *http)
{
    return http ? http->connection_count : 0;
}

bool coord_http_add(struct coord_http *http, int fd)
{
    struct sockaddr_in nobody = {.sin_family = AF_INET};
    return MHD_add_connection(http->daemon, fd, (const struct sockaddr *)&nobody, sizeof(nobody)) ==
           MHD_YES;
}

#include "proto/listener.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "proto/transport.h"

#define IPC_MODE 0600
/* nng numbers connections one after the other, from 1 to here and round again. */
#define NUMBERS 0x7fffffff

static bool is_after(int64_t number, int64_t other)
{
    return other < 0 || (number != other && (number - other + NUMBERS) % NUMBERS < NUMBERS / 2);
}

static void connected(nng_pipe connection, nng_pipe_ev event, void *context)
{
    struct proto_listener *listener = context;
    (void)event;
    int64_t number = nng_pipe_id(connection);
    int64_t newest = atomic_load(&listener->newest);
    while (is_after(number, newest) &&
           !atomic_compare_exchange_weak(&listener->newest, &newest, number))
        ;
}

enum sp_err proto_listener_init(struct proto_listener *listener, nng_socket socket,
                                struct sp_error *err)
{
    *listener = (struct proto_listener){.newest = -1, .outdated = -1};
    int code = nng_pipe_notify(socket, NNG_PIPE_EV_ADD_PRE, connected, listener);
    return code == 0 ? SP_OK : proto_fail_nng(err, code, "watch connections");
}

static enum sp_err set_tls(struct proto_listener *listener, const struct proto_tls *tls,
                           struct sp_error *err)
{
    nng_tls_config *config = NULL;
    enum sp_err rc = proto_tls_config(tls, true, NULL, &config, err);
    if (rc != SP_OK)
        return rc;
    int code = nng_listener_set_ptr(listener->nng, NNG_OPT_TLS_CONFIG, config);
    if (code != 0) {
        nng_tls_config_free(config);
        return proto_fail_nng(err, code, "TLS");
    }
    /* The listener holds its own reference, but reads it without a lock when a peer comes. */
    if (listener->config[1])
        nng_tls_config_free(listener->config[1]);
    listener->config[1] = listener->config[0];
    listener->config[0] = config;
    return SP_OK;
}

enum sp_err proto_listener_open(struct proto_listener *listener, nng_socket socket, const char *url,
                                const struct proto_tls *tls, struct sp_error *err)
{
    int code = nng_listener_create(&listener->nng, socket, url);
    if (code != 0)
        return proto_fail_address(err, code, url, "address %s", url);
    if (strncmp(url, "ipc:", 4) == 0) {
        code = nng_listener_set_int(listener->nng, NNG_OPT_IPC_PERMISSIONS, IPC_MODE);
        if (code != 0)
            return proto_fail_nng(err, code, "address %s: permissions", url);
    } else {
        /* Machines that vanish without a word would keep their connections here for ever. */
        code = nng_listener_set_bool(listener->nng, NNG_OPT_TCP_KEEPALIVE, true);
        if (code != 0)
            return proto_fail_nng(err, code, "address %s: keep-alive", url);
    }
    enum sp_err rc = proto_url_is_tls(url) ? set_tls(listener, tls, err) : SP_OK;
    if (rc != SP_OK)
        return sp_wrap(err, rc, "address %s", url);
    code = nng_listener_start(listener->nng, 0);
    return code == 0 ? SP_OK : proto_fail_address(err, code, url, "listen on %s", url);
}

/* nng has made what it needs for the next connection in advance, of the old files. A connection
 * that comes to nothing uses that up. Best effort: the next peer would be served by the old files.
 */
static void use_up_next(struct proto_listener *listener)
{
    nng_sockaddr at;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to = {0};
    if (nng_listener_get_addr(listener->nng, NNG_OPT_LOCADDR, &at) != 0)
        return;
    if (at.s_family == NNG_AF_INET) {
        to.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = at.s_in.sa_port};
        to.v4.sin_addr.s_addr = at.s_in.sa_addr != 0 ? at.s_in.sa_addr : htonl(INADDR_LOOPBACK);
    } else if (at.s_family == NNG_AF_INET6) {
        to.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = at.s_in6.sa_port};
        memcpy(&to.v6.sin6_addr, at.s_in6.sa_addr, sizeof(to.v6.sin6_addr));
        if (IN6_IS_ADDR_UNSPECIFIED(&to.v6.sin6_addr))
            to.v6.sin6_addr = in6addr_loopback;
    } else {
        return;
    }
    int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)connect(fd, &to.any, at.s_family == NNG_AF_INET ? sizeof(to.v4) : sizeof(to.v6));
    close(fd);
}

enum sp_err proto_listener_renew(struct proto_listener *listener, const struct proto_tls *tls,
                                 struct sp_error *err)
{
    enum sp_err rc = set_tls(listener, tls, err);
    if (rc != SP_OK)
        return rc;
    use_up_next(listener);
    listener->outdated = atomic_load(&listener->newest);
    listener->renewed_ms = sp_now_ms();
    return SP_OK;
}

bool proto_listener_is_outdated(struct proto_listener *listener, nng_pipe connection,
                                int64_t now_ms)
{
    if (listener->renewed_ms != 0 && now_ms - listener->renewed_ms >= PROTO_HANDSHAKE_MS) {
        listener->outdated = atomic_load(&listener->newest);
        listener->renewed_ms = 0;
    }
    return listener->outdated >= 0 && !is_after(nng_pipe_id(connection), listener->outdated);
}

void proto_listener_deinit(struct proto_listener *listener)
{
    for (size_t i = 0; i < SP_COUNT(listener->config); i++)
        if (listener->config[i])
            nng_tls_config_free(listener->config[i]);
}

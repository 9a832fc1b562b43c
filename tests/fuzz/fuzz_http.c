/* libFuzzer target: any bytes to the monitoring port, through the real server on a socket pair. The
 * reply is none, or begins as HTTP does. */
#include <sys/socket.h>
#include <unistd.h>

#include <string.h>

#include "common/base/mem.h"
#include "coordinator/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer(void *context, const char *path, const char *authorization,
                   struct coord_http_reply *ret)
{
    (void)context;
    ret->status = strcmp(path, "/metrics") == 0 ? 200 : authorization ? 404 : 401;
    sp_buf_puts(&ret->body, path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uv_loop_t loop;
    static struct coord_http *http;
    struct sp_error err;
    if (!http) {
        struct coord_http_options options = {.answer = answer};
        uv_loop_init(&loop);
        SP_ASSERT(coord_http_start(&loop, &options, &http, &err) == SP_OK);
    }
    int fds[2];
    char reply[65536];
    SP_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    SP_ASSERT(coord_http_add(http, fds[1]));
    for (size_t sent = 0, tries = 0; sent < size && tries < 64; tries++) {
        ssize_t n = send(fds[0], data + sent, size - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        coord_http_run(http);
    }
    shutdown(fds[0], SHUT_WR);
    for (int i = 0; i < 4; i++)
        coord_http_run(http);
    ssize_t n = read(fds[0], reply, sizeof(reply));
    SP_ASSERT(n <= 0 || (n > 7 && memcmp(reply, "HTTP/1.", 7) == 0));
    close(fds[0]);
    for (int i = 0; i < 4; i++)
        coord_http_run(http);
    SP_ASSERT(coord_http_connections(http) == 0);
    return 0;
}

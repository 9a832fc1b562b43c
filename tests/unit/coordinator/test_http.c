/* The port for monitoring: limits, methods, paths, and what OpenMetrics asks of the text. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "coordinator/http.h"
#include "coordinator/metrics.h"
#include "tests/unit/check_main.h"

struct fx {
    uv_loop_t loop;
    struct coord_http *http;
    char path[4096], authorization[4096];
    int asked;
};
static struct fx fx;
static struct sp_error error;

static void answer(void *context, const char *path, const char *authorization,
                   struct coord_http_reply *ret)
{
    (void)context;
    fx.asked++;
    snprintf(fx.path, sizeof(fx.path), "%s", path);
    snprintf(fx.authorization, sizeof(fx.authorization), "%s", authorization ? authorization : "-");
    ret->status = 200;
    sp_buf_puts(&ret->body, "hello\n");
}

static void open_server(void)
{
    struct coord_http_options options = {.answer = answer};
    fx = (struct fx){0};
    uv_loop_init(&fx.loop);
    ck_assert_msg(coord_http_start(&fx.loop, &options, &fx.http, &error) == SP_OK, "%s",
                  error.text);
}

static void close_server(void)
{
    coord_http_close(fx.http);
    uv_run(&fx.loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&fx.loop), 0);
}

static int connect_one(void)
{
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    if (!coord_http_add(fx.http, fds[1])) {
        close(fds[0]);
        return -1;
    }
    return fds[0];
}

static void turn(void)
{
    for (int i = 0; i < 4; i++) {
        coord_http_run(fx.http);
        uv_run(&fx.loop, UV_RUN_NOWAIT);
    }
}

/* Sends, and returns what came back, terminated. */
static const char *ask(const void *bytes, size_t length)
{
    static char text[65536];
    size_t have = 0;
    int fd = connect_one();
    ck_assert_int_ge(fd, 0);
    for (size_t sent = 0; sent < length;) {
        ssize_t n = send(fd, (const char *)bytes + sent, length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            break; /* closed before all was taken */
        sent += n > 0 ? (size_t)n : 0;
        turn();
    }
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 20; i++) {
        turn();
        ssize_t n = read(fd, text + have, sizeof(text) - 1 - have);
        have += n > 0 ? (size_t)n : 0;
        if (n == 0)
            break;
    }
    close(fd);
    turn();
    text[have] = '\0';
    return text;
}

static const char *ask_text(const char *text)
{
    return ask(text, strlen(text));
}

#define HOST "Host: x\r\n"

START_TEST(pages_and_methods)
{
    const char *reply =
        ask_text("GET /metrics?x=1 HTTP/1.1\r\n" HOST "Authorization: Bearer a.b\r\n\r\n");
    ck_assert_msg(strncmp(reply, "HTTP/1.1 200", 12) == 0, "%s", reply);
    ck_assert_ptr_nonnull(strstr(reply, "hello\n"));
    ck_assert_ptr_nonnull(strstr(reply, "Connection: close"));
    ck_assert_str_eq(fx.path, "/metrics");
    ck_assert_str_eq(fx.authorization, "Bearer a.b");
    reply = ask_text("HEAD / HTTP/1.1\r\n" HOST "\r\n");
    ck_assert(strncmp(reply, "HTTP/1.1 200", 12) == 0 && !strstr(reply, "hello"));
    int before = fx.asked;
    static const char *const others[] = {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FLY"};
    for (size_t i = 0; i < SP_COUNT(others); i++) {
        char text[128];
        snprintf(text, sizeof(text), "%s / HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nbody",
                 others[i]);
        reply = ask_text(text);
        ck_assert_msg(strncmp(reply, "HTTP/1.1 405", 12) == 0, "%s: %s", others[i], reply);
    }
    ck_assert_int_eq(fx.asked, before);
}
END_TEST

/* The parser's limits hold; nothing is asked of us for what is no request. */
START_TEST(sizes)
{
    char *big = sp_xalloc(1 << 20);
    memset(big, 'a', (1 << 20) - 1);
    memcpy(big, "GET /", 5);
    const char *reply = ask(big, 1 << 19);
    ck_assert_msg(reply[0] == '\0' || strncmp(reply, "HTTP/1.1 4", 10) == 0, "%.80s", reply);
    ck_assert_int_eq(fx.asked, 0);
    int length = snprintf(big, 1 << 20, "GET / HTTP/1.1\r\n" HOST "X: ");
    memset(big + length, 'b', 200000);
    reply = ask(big, 200000);
    ck_assert_msg(reply[0] == '\0' || strncmp(reply, "HTTP/1.1 4", 10) == 0, "%.80s", reply);
    ck_assert_int_eq(fx.asked, 0);
    /* A body is not waited for, whatever its length is said to be. */
    reply = ask_text("GET / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551615\r\n\r\n");
    ck_assert_msg(reply[0] == '\0' || strncmp(reply, "HTTP/1.1 4", 10) == 0 ||
                      strncmp(reply, "HTTP/1.1 200", 12) == 0,
                  "%.80s", reply);
    free(big);
}
END_TEST

static uint32_t draw(uint32_t seed, uint32_t n, uint32_t below)
{
    return (uint32_t)sp_rng_below(5, SP_STREAM_TEST, 0, seed, 2, n, below);
}

START_TEST(any_bytes)
{
    static const char *const words[] = {"GET ",
                                        "HEAD ",
                                        "POST ",
                                        "/",
                                        "..",
                                        "%2e%2e",
                                        "%00",
                                        " HTTP/1.1",
                                        " HTTP/1.0",
                                        " HTTP/9",
                                        "\r\n",
                                        "\r\n\r\n",
                                        "Host: x\r\n",
                                        "Transfer-Encoding: chunked\r\n",
                                        "Content-Length: -1\r\n",
                                        "Expect: 100-continue\r\n",
                                        "Authorization: Bearer ",
                                        "\xff\xfe",
                                        ":",
                                        "metrics"};
    for (uint32_t seed = 0; seed < 2000; seed++) {
        char text[512];
        size_t length = 0;
        uint32_t count = 1 + draw(seed, 0, 14);
        for (uint32_t i = 0; i < count; i++) {
            const char *word = words[draw(seed, i + 1, SP_COUNT(words))];
            memcpy(text + length, word, strlen(word));
            length += strlen(word);
        }
        const char *reply = ask(text, length);
        ck_assert_msg(reply[0] == '\0' || strncmp(reply, "HTTP/1.", 7) == 0, "seed %u: %.80s", seed,
                      reply);
    }
    ck_assert_uint_eq(coord_http_connections(fx.http), 0);
}
END_TEST

/* Clients that say nothing fill the places; who comes then is sent away; all is well when they
 * leave. */
START_TEST(silent_clients)
{
    int fds[COORD_HTTP_CONNECTIONS];
    for (int i = 0; i < COORD_HTTP_CONNECTIONS; i++) {
        fds[i] = connect_one();
        ck_assert_int_ge(fds[i], 0);
    }
    turn();
    ck_assert_uint_eq(coord_http_connections(fx.http), COORD_HTTP_CONNECTIONS);
    int extra = connect_one();
    if (extra >= 0) {
        turn();
        char byte;
        ck_assert_int_le(read(extra, &byte, 1), 0);
        close(extra);
    }
    for (int i = 0; i < COORD_HTTP_CONNECTIONS; i++)
        close(fds[i]);
    turn();
    ck_assert_uint_eq(coord_http_connections(fx.http), 0);
    ck_assert(strncmp(ask_text("GET / HTTP/1.1\r\n" HOST "\r\n"), "HTTP/1.1 200", 12) == 0);
}
END_TEST

START_TEST(addresses)
{
    static const struct {
        const char *text;
        bool good, loopback;
    } list[] = {
        {"127.0.0.1:7071", true, true},
        {"[::1]:80", true, true},
        {"localhost:1", true, true},
        {"127.8.9.1:0", true, true},
        {"0.0.0.0:80", true, false},
        {"[::]:80", true, false},
        {"192.0.2.1:80", true, false},
        {"7071", false, false},
        {":80", false, false},
        {"127.0.0.1:", false, false},
        {"127.0.0.1:65536", false, false},
        {"127.0.0.1:8x", false, false},
        {"::1:80", false, false},
        {"host.example:80", false, false},
    };
    for (size_t i = 0; i < SP_COUNT(list); i++) {
        bool loopback = false;
        enum sp_err rc = coord_http_is_loopback(list[i].text, &loopback, &error);
        ck_assert_msg((rc == SP_OK) == list[i].good, "%s: %s", list[i].text, error.text);
        ck_assert_msg(rc || loopback == list[i].loopback, "%s", list[i].text);
    }
}
END_TEST

START_TEST(open_metrics)
{
    struct coord_metrics m = {0};
    struct coord_histogram histogram = {0};
    struct sp_buf out = SP_BUF_INIT;
    coord_histogram_add(&histogram, 0.0004);
    coord_histogram_add(&histogram, 0.0011);
    coord_histogram_add(&histogram, 1e9);
    coord_metric(&m, METRIC_BUILD, 1, "version", "a\"b\\c\nd", "protocol", "1", NULL);
    coord_metric(&m, METRIC_GRANTS, 7, NULL);
    coord_metric(&m, METRIC_LOSS, 0.0 / 0.0, "run", "r", NULL);
    coord_metric_histogram(&m, METRIC_SUBMIT_SECONDS, &histogram);
    coord_metrics_finish(&m, &out);
    static const char *const lines[] = {
        "# TYPE spin_build info\n",
        "spin_build_info{version=\"a\\\"b\\\\c\\nd\",protocol=\"1\"} 1\n",
        "# TYPE spin_leases_granted counter\n",
        "spin_leases_granted_total 7\n",
        "spin_training_loss{run=\"r\"} NaN\n",
        "# UNIT spin_submit_seconds seconds\n",
        "spin_submit_seconds_bucket{le=\"0.0005",
        "spin_submit_seconds_bucket{le=\"+Inf\"} 3\n",
        "spin_submit_seconds_count 3\n",
    };
    for (size_t i = 0; i < SP_COUNT(lines); i++)
        ck_assert_msg(strstr(out.data, lines[i]) != NULL, "no %s in\n%s", lines[i], out.data);
    ck_assert_str_eq(out.data + out.length - 6, "# EOF\n");
    ck_assert_ptr_null(strstr(out.data, "spin_blobs")); /* a family without samples */
    sp_buf_deinit(&out);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("http");
    TCase *t = tcase_create("server");
    tcase_add_checked_fixture(t, open_server, close_server);
    tcase_add_test(t, pages_and_methods);
    tcase_add_test(t, sizes);
    tcase_add_test(t, any_bytes);
    tcase_add_test(t, silent_clients);
    suite_add_tcase(s, t);
    TCase *o = tcase_create("text");
    tcase_add_test(o, addresses);
    tcase_add_test(o, open_metrics);
    suite_add_tcase(s, o);
    return s;
}

SPIN_CHECK_MAIN(suite())

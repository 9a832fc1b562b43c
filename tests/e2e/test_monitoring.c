/* The port for monitoring: what it gives to whom, and that nobody harms a run through it. */
#include <check.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/e2e/tls_cluster.h"
#include "tests/unit/check_main.h"

#define SECONDS 60

/* Sends a request, over TLS or not; what came back. */
static const char *fetch(int port, bool secure, const char *page, const char *token)
{
    static char reply[1 << 18];
    char request[1024];
    size_t have = 0;
    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n%s%s%s\r\n", page,
             token ? "Authorization: Bearer " : "", token ? token : "", token ? "\r\n" : "");
    int fd = dial(port), n = 0;
    SSL_CTX *context = secure ? SSL_CTX_new(TLS_client_method()) : NULL;
    SSL *ssl = secure ? SSL_new(context) : NULL;
    if (secure) {
        SSL_set_fd(ssl, fd);
        ck_assert_int_eq(SSL_connect(ssl), 1);
        SSL_write(ssl, request, (int)strlen(request));
    } else {
        send(fd, request, strlen(request), MSG_NOSIGNAL);
    }
    do {
        n = secure ? SSL_read(ssl, reply + have, (int)(sizeof(reply) - 1 - have))
                   : (int)read(fd, reply + have, sizeof(reply) - 1 - have);
        have += n > 0 ? (size_t)n : 0;
    } while (n > 0 && have < sizeof(reply) - 1);
    reply[have] = '\0';
    SSL_free(ssl);
    SSL_CTX_free(context);
    close(fd);
    return reply;
}

static bool is_status(const char *reply, int status)
{
    char line[32];
    snprintf(line, sizeof(line), "HTTP/1.1 %d", status);
    return strncmp(reply, line, strlen(line)) == 0;
}

START_TEST(test_monitoring_on_loopback)
{
    static const char *const lines[] = {
        "spin_build_info{version=",
        "spin_ready 1\n",
        "spin_requests_total{type=\"hello\"}",
        "spin_workers{role=\"generator\",state=\"alive\"} 1\n",
        "spin_iteration_state{run=\"r\",spin_iteration_state=\"closed\"} 1\n",
        "spin_submit_seconds_count ",
        "spin_lease_seconds_bucket{le=",
        "spin_disk_free_bytes ",
        "spin_queue_depth{thread=\"store\"}",
        "spin_iteration_pairs_stored{run=\"r\"} "};
    struct cluster cluster;
    char set[64];
    int port = free_port();
    cluster_open(&cluster);
    cluster_end(&cluster.coordinator, SIGTERM);
    snprintf(set, sizeof(set), "http.listen=127.0.0.1:%d", port);
    cluster.set = set;
    cluster_start_coordinator(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 30);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    /* Slow and silent clients all the while. */
    int slow[20];
    for (size_t i = 0; i < SP_COUNT(slow); i++) {
        slow[i] = dial(port);
        ck_assert_int_ge(send(slow[i], "GET /me", 7, MSG_NOSIGNAL), 0);
    }
    cluster_iterate(&cluster, "r", SECONDS);
    for (size_t i = 0; i < SP_COUNT(slow); i++)
        close(slow[i]);
    const char *reply = "";
    for (int i = 0; i < 200 && !is_status(reply, 200); i++, sp_sleep_ms(50))
        reply = fetch(port, false, "/metrics", NULL);
    ck_assert_msg(is_status(reply, 200), "%.200s", reply);
    ck_assert_ptr_nonnull(strstr(reply, "application/openmetrics-text"));
    for (size_t i = 0; i < SP_COUNT(lines); i++)
        ck_assert_msg(strstr(reply, lines[i]) != NULL, "no %s in\n%s", lines[i], reply);
    ck_assert_str_eq(reply + strlen(reply) - 6, "# EOF\n");
    ck_assert(is_status(fetch(port, false, "/healthz", NULL), 200));
    ck_assert(is_status(fetch(port, false, "/readyz", NULL), 200));
    ck_assert(is_status(fetch(port, false, "/etc/passwd", NULL), 404));
    ck_assert(is_status(fetch(port, false, "/../state/admin.token", NULL), 404));
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_monitoring_for_other_machines)
{
    struct tls_cluster tls = {0};
    char id[32];
    tls_cluster_open(&tls);
    cluster_new_token(&tls.cluster, "read.token", "readonly", NULL, NULL, id);
    cluster_new_token(&tls.cluster, "some.token", "readonly", "--runs", "r", id);
    cluster_new_token(&tls.cluster, "brief.token", "readonly", "--expires", "1 ms", id);
    cluster_new_token(&tls.cluster, "revoked.token", "readonly", NULL, NULL, id);
    json_decref(cluster_ctl_ok(&tls.cluster, "token", "revoke", id, NULL));
    sp_sleep_ms(5);
    ck_assert_str_eq(fetch(tls.http, false, "/metrics", NULL), ""); /* TLS only */
    static const char *const pages[] = {"/metrics", "/healthz", "/readyz", "/nothing"};
    static const char *const refused[] = {"generator.token", "trainer.token", "some.token",
                                          "brief.token", "revoked.token"};
    for (size_t p = 0; p < SP_COUNT(pages); p++) {
        ck_assert(is_status(fetch(tls.http, true, pages[p], NULL), 401));
        ck_assert(is_status(fetch(tls.http, true, pages[p], "x"), 401));
        for (size_t i = 0; i < SP_COUNT(refused); i++) {
            char *token = cluster_read_token(&tls.cluster, refused[i]);
            const char *reply = fetch(tls.http, true, pages[p], token);
            ck_assert_msg(is_status(reply, 401), "%s: %s: %.80s", pages[p], refused[i], reply);
            free(token);
        }
    }
    char *token = cluster_read_token(&tls.cluster, "read.token");
    const char *reply = fetch(tls.http, true, "/metrics", token);
    ck_assert_msg(is_status(reply, 200), "%.100s", reply);
    /* A moment after the start the disk and the certificate have been looked at. */
    for (int i = 0; i < 200 && !strstr(reply, "spin_certificate_days "); i++, sp_sleep_ms(50))
        reply = fetch(tls.http, true, "/metrics", token);
    ck_assert_ptr_nonnull(strstr(reply, "spin_certificate_days 36"));
    free(token);
    cluster_close(&tls.cluster);
}
END_TEST

START_TEST(test_monitoring_refuses_to_be_open)
{
    static const struct expectation list[] = {
        {"--state-dir other --set http.listen=0.0.0.0:7071", 2, {"[tls] cert", "127.0.0.1"}},
        {"--state-dir other --set http.listen=192.0.2.7:7071", 2, {"[tls] cert"}},
        {"--state-dir other --set http.listen=nonsense", 2, {"address and a port"}},
    };
    char dir[] = "/tmp/spin-e2e-XXXXXX";
    struct said said;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    program_expect(dir, COORDINATOR, list, SP_COUNT(list));
    const char *const argv[] = {"/bin/rm", "-r", dir, NULL};
    ck_assert_int_eq(program_run_argv("/tmp", &said, 9, argv), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("monitoring");
    TCase *c = tcase_create("monitoring");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_monitoring_on_loopback);
    tcase_add_test(c, test_monitoring_for_other_machines);
    tcase_add_test(c, test_monitoring_refuses_to_be_open);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

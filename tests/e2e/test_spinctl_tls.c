/* Mutual TLS between real processes: every program with a certificate and a token of its own makes
 * an iteration; whoever lacks something is told what. */
#include <arpa/inet.h>
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
#define MAKE SPIN_SOURCE_ROOT "/deploy/tls/make-certificates"
/* Addresses don't match certificates, so the name is said. */
#define NAMED "--tls-server-name coordinator.test "

struct tls_cluster {
    struct cluster cluster;
    char url[64];
};

static void make_certificates(struct cluster *cluster)
{
    struct said said;
    int code = program_run(cluster->dir, &said, 30, MAKE,
                           "certs coordinator.test generator.test trainer.test admin.test");
    ck_assert_msg(code == 0, "%s", said.err);
    code = program_run(cluster->dir, &said, 30, MAKE, "others coordinator.test admin.test");
    ck_assert_msg(code == 0, "%s", said.err);
}

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert(bind(fd, (struct sockaddr *)&address, length) == 0);
    ck_assert(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

/* The coordinator again, with a TLS address beside its socket. */
static void open_tls(struct tls_cluster *tls)
{
    struct cluster *cluster = &tls->cluster;
    cluster_open(cluster);
    make_certificates(cluster);
    cluster_end(&cluster->coordinator, SIGTERM);
    snprintf(tls->url, sizeof(tls->url), "tls+tcp://127.0.0.1:%d", free_port());
    cluster_write(cluster, "coordinator.conf",
                  "[coordinator]\nstate_dir = state\nlisten = %s\n[tls]\nca = certs/ca.pem\n"
                  "cert = certs/coordinator.test.pem\n",
                  tls->url);
    const char *const argv[] = {COORDINATOR, "--config", "coordinator.conf", NULL};
    cluster->coordinator = program_start(cluster->dir, "coordinator.log", argv);
    json_decref(cluster_ctl_ok(cluster, "--timeout", "20", "status", NULL));
}

static pid_t start_worker(struct tls_cluster *tls, const char *program, const char *role)
{
    char file[64];
    snprintf(file, sizeof(file), "%s.conf", role);
    cluster_write(&tls->cluster, file,
                  "[coordinator]\nurl = %s\ntoken_file = %s.token\ntls_ca = certs/ca.pem\n"
                  "tls_cert = certs/%s.test.pem\ntls_server_name = coordinator.test\n"
                  "[worker]\nname = %s\nstate_dir = %s-state\n[compute]\nthreads = 1\n",
                  tls->url, role, role, role, role);
    const char *const argv[] = {program, "--config", file, NULL};
    char log[64];
    snprintf(log, sizeof(log), "%s.log", role);
    return program_start(tls->cluster.dir, log, argv);
}

static int spinctl(struct tls_cluster *tls, struct said *said, const char *options)
{
    char *arguments = sp_xprintf("--coordinator %s %s", tls->url, options);
    int code = program_run(tls->cluster.dir, said, SECONDS, SPINCTL, arguments);
    free(arguments);
    return code;
}

#define CA "--tls-ca certs/ca.pem "
#define CERT "--tls-cert certs/admin.test.pem "
#define TOKEN "--token-file state/admin.token "

START_TEST(test_an_iteration_over_tls)
{
    struct tls_cluster tls = {0};
    struct said said;
    open_tls(&tls);
    cluster_write_rows(&tls.cluster, "train.jsonl", 0, 40);
    cluster_create_run(&tls.cluster, "r", 1, "");
    tls.cluster.generators[0] = start_worker(&tls, GENERATOR, "generator");
    tls.cluster.trainers[0] = start_worker(&tls, TRAINER, "trainer");
    int code = spinctl(&tls, &said, CA CERT NAMED TOKEN "run r --iterations 1");
    ck_assert_msg(code == 0 && strstr(said.out, "iteration 0 closed"), "%s%s", said.out, said.err);
    code = spinctl(&tls, &said, CA CERT NAMED TOKEN "workers");
    ck_assert_msg(code == 0 && strstr(said.out, "generator") && strstr(said.out, "trainer"), "%s",
                  said.out);
    code = spinctl(&tls, &said, CA CERT NAMED TOKEN "export r exported");
    ck_assert_msg(code == 0, "%s", said.err);
    /* The environment and a file say the same as the options. */
    cluster_write(&tls.cluster, "spinctl.conf",
                  "[coordinator]\nurl = %s\ntoken_file = state/admin.token\ntls_ca = certs/ca.pem\n"
                  "tls_cert = certs/admin.test.pem\ntls_server_name = coordinator.test\n",
                  tls.url);
    ck_assert_int_eq(
        program_run(tls.cluster.dir, &said, 20, SPINCTL, "--config spinctl.conf status"), 0);
    cluster_close(&tls.cluster);
}
END_TEST

START_TEST(test_what_is_missing_is_named)
{
    static const struct {
        const char *options;
        int code;
        const char *mentions[2];
    } list[] = {
        {TOKEN "status", 2, {"CA file", "certificate"}},
        {CA TOKEN "status", 2, {"certificate", NULL}},
        {CA CERT TOKEN "status", 2, {"server name", NULL}},
        {"--tls-ca nowhere.pem " CERT NAMED TOKEN "status", 4, {"nowhere.pem", NULL}},
        {CA "--tls-cert nowhere.pem " NAMED TOKEN "status", 4, {"nowhere.pem", NULL}},
        {CA "--tls-cert certs/ca.pem " NAMED TOKEN "status", 11, {"certs/ca.pem", "chmod 600"}},
        {CA "--tls-cert alone.pem " NAMED TOKEN "status", 3, {"alone.pem", "key"}},
        {"--tls-ca generator.token " CERT NAMED TOKEN "status", 3, {"generator.token", NULL}},
        /* their authority: we don't trust the coordinator */
        {"--tls-ca others/ca.pem " CERT NAMED TOKEN "status", 11, {"not signed by", NULL}},
        /* their certificate: the coordinator doesn't trust us */
        {CA "--tls-cert others/admin.test.pem " NAMED TOKEN "status", 11, {"certificate", NULL}},
        {CA CERT "--tls-server-name other.test " TOKEN "status", 11, {"other.test", NULL}},
        {CA CERT NAMED "--token-file empty status", 11, {"no token", NULL}},
        {CA CERT NAMED "--token-file wrong status", 11, {"not known", NULL}},
        {CA CERT NAMED "--token-file generator.token status", 11, {"generator", NULL}},
        {CA CERT NAMED TOKEN "status", 0, {NULL}},
    };
    struct tls_cluster tls = {0};
    struct said said;
    open_tls(&tls);
    cluster_write(&tls.cluster, "empty", "%s", "");
    const char *const alone[] = {"/bin/sh", "-c", "umask 077; cat certs/ca.pem >alone.pem", NULL};
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, alone), 0);
    cluster_write(&tls.cluster, "wrong", "0123456789abcdef.%s\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    for (size_t i = 0; i < SP_COUNT(list); i++) {
        int code = spinctl(&tls, &said, list[i].options);
        ck_assert_msg(code == list[i].code, "%s: ended with %d: %s", list[i].options, code,
                      said.err);
        for (int m = 0; m < 2 && list[i].mentions[m]; m++)
            ck_assert_msg(strstr(said.err, list[i].mentions[m]) != NULL, "%s: no \"%s\" in: %s",
                          list[i].options, list[i].mentions[m], said.err);
    }
    /* A worker that is not trusted says so and ends, or goes on trying; it never joins. */
    json_t *workers = cluster_ctl_ok(&tls.cluster, "workers", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(workers, "workers")), 0);
    json_decref(workers);
    cluster_close(&tls.cluster);
}
END_TEST

START_TEST(test_the_coordinator_refuses_to_listen_in_the_open)
{
    static const struct expectation list[] = {
        {"--state-dir other --listen tcp://0.0.0.0:7070", 2, {"loopback", "tls+tcp://"}},
        {"--state-dir other --listen tcp://192.0.2.7:7070", 2, {"loopback", "tls+tcp://"}},
        {"--state-dir other --listen tls+tcp://0.0.0.0:7070", 2, {"TLS needs"}},
        {"--state-dir other --listen tls+tcp://0.0.0.0:7070 --set tls.ca=no.pem --set "
         "tls.cert=no.pem",
         4,
         {"no.pem"}},
        {"--state-dir other --listen http://127.0.0.1:7070", 2, {"ipc://"}},
    };
    char dir[] = "/tmp/spin-e2e-XXXXXX";
    struct said said;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    /* Its log goes to stderr, too; stdout stays empty. */
    program_expect(dir, COORDINATOR, list, SP_COUNT(list));
    const char *const argv[] = {"/bin/rm", "-r", dir, NULL};
    ck_assert_int_eq(program_run_argv("/tmp", &said, 9, argv), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/spinctl_tls");
    TCase *c = tcase_create("tls");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_an_iteration_over_tls);
    tcase_add_test(c, test_what_is_missing_is_named);
    tcase_add_test(c, test_the_coordinator_refuses_to_listen_in_the_open);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

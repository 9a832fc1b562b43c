/* Mutual TLS between real processes: every program with a certificate and a token of its own makes
 * an iteration; whoever lacks something is told what. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "tests/e2e/tls_cluster.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
/* Addresses don't match certificates, so the name is said. */
#define NAMED "--tls-server-name coordinator.test "

#define CA "--tls-ca certs/ca.pem "
#define CERT "--tls-cert certs/admin.test.pem "
#define MAKE SPIN_SOURCE_ROOT "/deploy/tls/make-certificates"
#define LONG_NAME \
    "a-node-of-some-cloud-with-a-name-of-more-than-sixty-four-characters.zone-1.example.test"
#define TOKEN "--token-file state/admin.token "

START_TEST(test_an_iteration_over_tls)
{
    struct tls_cluster tls = {0};
    struct said said;
    tls_cluster_open(&tls);
    cluster_write_rows(&tls.cluster, "train.jsonl", 0, 40);
    cluster_create_run(&tls.cluster, "r", 1, "");
    tls.cluster.generators[0] = tls_cluster_start_worker(&tls, GENERATOR, "generator", "");
    tls.cluster.trainers[0] = tls_cluster_start_worker(&tls, TRAINER, "trainer", "");
    int code = tls_cluster_spinctl(&tls, &said, CA CERT NAMED TOKEN "run r --iterations 1");
    ck_assert_msg(code == 0 && strstr(said.out, "iteration 0 closed"), "%s%s", said.out, said.err);
    code = tls_cluster_spinctl(&tls, &said, CA CERT NAMED TOKEN "workers");
    ck_assert_msg(code == 0 && strstr(said.out, "generator") && strstr(said.out, "trainer"), "%s",
                  said.out);
    code = tls_cluster_spinctl(&tls, &said, CA CERT NAMED TOKEN "export r exported");
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
        {CA CERT NAMED TOKEN "--coordinator tls+tcp://no-such-host.invalid:7070 status",
         12,
         {"no-such-host.invalid", "DNS"}},
        {CA CERT NAMED "--token-file empty status", 11, {"no token", NULL}},
        {CA CERT NAMED "--token-file wrong status", 11, {"not known", NULL}},
        {CA CERT NAMED "--token-file generator.token status", 11, {"generator", NULL}},
        {CA CERT NAMED TOKEN "status", 0, {NULL}},
    };
    struct tls_cluster tls = {0};
    struct said said;
    tls_cluster_open(&tls);
    cluster_write(&tls.cluster, "empty", "%s", "");
    const char *const alone[] = {"/bin/sh", "-c", "umask 077; cat certs/ca.pem >alone.pem", NULL};
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, alone), 0);
    cluster_write(&tls.cluster, "wrong", "0123456789abcdef.%s\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    for (size_t i = 0; i < SP_COUNT(list); i++) {
        int code = tls_cluster_spinctl(&tls, &said, list[i].options);
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

START_TEST(test_certificates_of_strangers)
{
    struct tls_cluster tls = {0};
    struct said said;
    char byte;
    tls_cluster_open(&tls);
    ck_assert_msg(tls_cluster_admin(&tls, &said, "certs/admin.test.pem", "status") == 0, "%s",
                  said.err);
    ck_assert_int_eq(tls_cluster_admin(&tls, &said, "others/admin.test.pem", "status"), 11);
    /* Expired: signed by the right authority, valid until yesterday. */
    tls_cluster_make(&tls, "--days -1 certs expired.test");
    ck_assert_int_eq(tls_cluster_admin(&tls, &said, "certs/expired.test.pem", "status"), 11);
    ck_assert_msg(strstr(said.err, "expired.test.pem expired ") != NULL, "%s", said.err);
    /* A name that is longer than a common name may be. */
    tls_cluster_make(&tls, "certs " LONG_NAME);
    ck_assert_msg(tls_cluster_admin(&tls, &said, "certs/" LONG_NAME ".pem", "status") == 0, "%s",
                  said.err);
    ck_assert_int_eq(program_run(tls.cluster.dir, &said, 9, MAKE, "--days soon certs x.test"), 2);
    ck_assert_msg(strstr(said.err, "\"soon\"") != NULL, "%s", said.err);
    /* No TLS at all. */
    int fd = dial(tls.port);
    static const char greeting[] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    ck_assert_int_eq(send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL), sizeof(greeting));
    shutdown(fd, SHUT_WR);
    ssize_t n = read(fd, &byte, 1); /* at most a TLS alert, never a greeting */
    ck_assert(n <= 0 || byte == 0x15);
    close(fd);
    cluster_close(&tls.cluster);
}
END_TEST

/* A new certificate without a restart; workers dial again and go on. A bad one changes nothing. */
START_TEST(test_sighup)
{
    struct tls_cluster tls = {0};
    struct said said;
    tls_cluster_open(&tls);
    cluster_write_rows(&tls.cluster, "train.jsonl", 0, 40);
    cluster_create_run(&tls.cluster, "r", 1, "");
    tls.cluster.generators[0] = tls_cluster_start_worker(&tls, GENERATOR, "generator", "");
    tls.cluster.trainers[0] = tls_cluster_start_worker(&tls, TRAINER, "trainer", "");
    cluster_start_iteration(&tls.cluster, "r");
    /* Damaged files: the old listener stays. */
    const char *const keep[] = {"/bin/mv", "certs/coordinator.test.pem", "certs/old.pem", NULL};
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, keep), 0);
    cluster_write(&tls.cluster, "certs/coordinator.test.pem", "%s", "nonsense\n");
    kill(tls.cluster.coordinator, SIGHUP);
    sp_sleep_ms(100);
    ck_assert_msg(tls_cluster_admin(&tls, &said, "certs/admin.test.pem", "status") == 0, "%s",
                  said.err);
    /* A new certificate of the same authority: everyone goes on. */
    const char *const gone[] = {"/bin/rm", "certs/coordinator.test.pem", NULL};
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, gone), 0);
    tls_cluster_make(&tls, "certs coordinator.test");
    for (int i = 0; i < 3; i++) {
        kill(tls.cluster.coordinator, SIGHUP);
        ck_assert_msg(tls_cluster_admin(&tls, &said, "certs/admin.test.pem", "status") == 0, "%s",
                      said.err);
    }
    cluster_wait_state(&tls.cluster, "r", "closed", SECONDS);
    /* Another authority: the old peers are strangers now, and the new ones are known. */
    const char *const swap[] = {"/bin/sh", "-c", "cp others/*.pem certs/", NULL};
    const char *const save[] = {"/bin/cp", "-r", "certs", "before", NULL};
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, save), 0);
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, swap), 0);
    kill(tls.cluster.coordinator, SIGHUP);
    int code = -1;
    for (int i = 0; i < 50 && code != 0; i++)
        code = tls_cluster_admin(&tls, &said, "certs/admin.test.pem", "status");
    ck_assert_msg(code == 0, "%s", said.err);
    ck_assert_int_eq(tls_cluster_admin(&tls, &said, "before/admin.test.pem", "status"), 11);
    cluster_close(&tls.cluster);
}
END_TEST

/* The authority's key is kept elsewhere: whoever renews a certificate without it must not get
 * another authority, which would lock every worker out. */
START_TEST(test_the_authority_is_made_once)
{
    struct tls_cluster tls;
    struct said said;
    const char *const hide[] = {"/bin/sh", "-c", "cp -r certs before && rm certs/ca.key", NULL};
    const char *const same[] = {"/bin/cmp", "before/ca.pem", "certs/ca.pem", NULL};
    const char *const make[] = {MAKE_CERTIFICATES, "certs", "new.test", NULL};
    const char *const left[] = {"/bin/sh", "-c", "cd certs && ls ca.key new.test.pem", NULL};
    cluster_open(&tls.cluster);
    tls_cluster_make(&tls, "certs coordinator.test");
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, hide), 0);
    ck_assert_int_ne(program_run_argv(tls.cluster.dir, &said, 30, make), 0);
    ck_assert_msg(strstr(said.err, "bring the key back") != NULL, "%s", said.err);
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, same), 0);
    ck_assert_int_ne(program_run_argv(tls.cluster.dir, &said, 9, left), 0);
    ck_assert_str_eq(said.out, ""); /* neither of them */
    cluster_close(&tls.cluster);
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
    tcase_add_test(c, test_certificates_of_strangers);
    tcase_add_test(c, test_sighup);
    tcase_add_test(c, test_the_authority_is_made_once);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

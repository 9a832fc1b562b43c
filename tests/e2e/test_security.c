/* Strangers, thieves and careless administrators: what each credential opens, on either port. Every
 * row of the table in docs/security.md that names this file is a test here. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "proto/codec.h"
#include "proto/rpc.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
#define MAKE SPIN_SOURCE_ROOT "/deploy/tls/make-certificates"
#define NAMES "coordinator.test generator.test trainer.test admin.test"

/* ---- helpers ---- */

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

static int dial(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval wait = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    for (int i = 0; connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0; i++) {
        ck_assert_msg(i < 500, "port %d: %s", port, strerror(errno));
        sp_sleep_ms(20);
    }
    return fd;
}

/* A token of its own in FILE; its id in ret_id. options: "--expires", "1 s", or NULL. */
static void new_token(struct cluster *cluster, const char *file, const char *role,
                      const char *option, const char *value, char ret_id[32])
{
    json_t *json =
        option ? cluster_ctl_ok(cluster, "token", "create", "--role", role, "--name", file, option,
                                value, NULL)
               : cluster_ctl_ok(cluster, "token", "create", "--role", role, "--name", file, NULL);
    cluster_write(cluster, file, "%s\n", cluster_text(json, "token"));
    snprintf(ret_id, 32, "%s", cluster_text(json, "id"));
    json_decref(json);
}

static char *read_token(struct cluster *cluster, const char *file)
{
    char *path = sp_path_join(cluster->dir, file), *token = NULL;
    size_t length = 0;
    struct sp_error err;
    ck_assert_msg(sp_read_file(path, 4096, &token, &length, &err) == SP_OK, "%s", err.text);
    token[strcspn(token, "\n")] = '\0';
    free(path);
    return token;
}

static struct proto_client *client_of(struct cluster *cluster, const char *token)
{
    char url[256];
    struct sp_error err;
    struct proto_client *client = NULL;
    snprintf(url, sizeof(url), "ipc://%s/state/coordinator.sock", cluster->dir);
    struct proto_client_options options = {.url = url, .token = token, .request_ms = 15000};
    ck_assert_msg(proto_client_open(&options, &client, &err) == SP_OK, "%s", err.text);
    return client;
}

/* One try; what came of it. */
static enum sp_err call(struct proto_client *client, enum proto_type type, const void *body,
                        const void **ret, struct sp_error *err)
{
    const void *reply = NULL;
    enum sp_err rc = proto_call(client, type, body, 0, &reply, err);
    if (ret)
        *ret = reply;
    return rc;
}

static enum sp_err empty_call(struct proto_client *client, enum proto_type type)
{
    struct sp_error err = {0};
    struct sp_arena *arena = sp_arena_new(4096, 1 << 20);
    const struct proto_layout *layout = proto_layout_of(type);
    uint8_t *body = sp_arena_alloc(arena, 1, layout->struct_bytes);
    for (size_t i = 0; i < layout->field_count; i++) {
        const char *text = "";
        if (layout->fields[i].kind == PROTO_KIND_STR)
            memcpy(body + layout->fields[i].offset, &text, sizeof(text));
    }
    enum sp_err rc = call(client, type, body, NULL, &err);
    sp_arena_free(arena);
    return rc;
}

static const enum proto_type requests[] = {
    PROTO_HELLO,         PROTO_LEASE,         PROTO_RENEW,           PROTO_LEASE_RETURN,
    PROTO_SUBMIT,        PROTO_BLOB_GET,      PROTO_BLOB_MISSING,    PROTO_BLOB_PUT,
    PROTO_TRAINER_LEASE, PROTO_TRAINER_RENEW, PROTO_TRAINER_RELEASE, PROTO_PAIRS_FETCH,
    PROTO_STEPS_REPORT,  PROTO_REFS_SUBMIT,   PROTO_PUBLISH_BEGIN,   PROTO_PUBLISH_COMMIT,
    PROTO_ADMIN,
};

/* ---- tokens ---- */

START_TEST(test_no_token_of_a_stranger_opens_anything)
{
    struct cluster cluster;
    char id[32], revoked_id[32];
    cluster_open(&cluster);
    new_token(&cluster, "brief.token", "admin", "--expires", "1 ms", id);
    new_token(&cluster, "revoked.token", "admin", NULL, NULL, revoked_id);
    json_decref(cluster_ctl_ok(&cluster, "token", "revoke", revoked_id, NULL));
    char *expired = read_token(&cluster, "brief.token");
    char *revoked = read_token(&cluster, "revoked.token");
    char *good = read_token(&cluster, "state/admin.token");
    char *cut = sp_xstrndup(good, strlen(good) - 1), *wrong = sp_xstrdup(good);
    char *longer = sp_xprintf("%sA", good), *spaced = sp_xprintf("%s ", good);
    wrong[strlen(wrong) - 1] = wrong[strlen(wrong) - 1] == 'A' ? 'B' : 'A';
    const char *const tokens[] = {
        "",    ".",    "x",    "0123456789abcdef.AAAA", "\x01.\x02", cut,
        wrong, longer, spaced, strchr(good, '.'),       expired,     revoked};
    sp_sleep_ms(5); /* the brief one is over */
    for (size_t t = 0; t < SP_COUNT(tokens); t++) {
        struct proto_client *client = client_of(&cluster, tokens[t]);
        for (size_t r = 0; r < SP_COUNT(requests); r++) {
            enum sp_err rc = empty_call(client, requests[r]);
            ck_assert_msg(rc == SP_EDENIED, "token %zu: %s: %s", t, proto_type_name(requests[r]),
                          sp_err_name(rc));
        }
        proto_client_free(client);
    }
    free(expired);
    free(revoked);
    free(good);
    free(cut);
    free(wrong);
    free(longer);
    free(spaced);
    cluster_close(&cluster);
}
END_TEST

/* What a role may not send is refused before anything of it is looked at. */
START_TEST(test_another_roles_token)
{
    static const struct {
        const char *role;
        uint64_t may; /* bit of the place in `requests` */
    } roles[] = {
        {"generator", 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 16},
        {"trainer", 1 << 0 | 1 << 2 | 0xff << 8 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 16},
        {"readonly", 1 << 5 | 1 << 16},
    };
    struct cluster cluster;
    char id[32];
    cluster_open(&cluster);
    for (size_t i = 0; i < SP_COUNT(roles); i++) {
        new_token(&cluster, "some.token", roles[i].role, NULL, NULL, id);
        char *token = read_token(&cluster, "some.token");
        struct proto_client *client = client_of(&cluster, token);
        for (size_t r = 0; r < SP_COUNT(requests); r++) {
            if (requests[r] == PROTO_ADMIN)
                continue; /* by verb: below */
            enum sp_err rc = empty_call(client, requests[r]);
            bool denied = rc == SP_EDENIED;
            ck_assert_msg(denied == !(roles[i].may & 1ull << r), "%s: %s: %s", roles[i].role,
                          proto_type_name(requests[r]), sp_err_name(rc));
        }
        static const char *const verbs[] = {"create-run", "start-iteration", "cancel", "pause",
                                            "skip",       "token-create",    "backup", "gc",
                                            "quarantine", "uncordon",        "pin",    "start"};
        for (size_t v = 0; v < SP_COUNT(verbs); v++) {
            struct proto_admin admin = {.verb = verbs[v], .run = "", .args = ""};
            struct sp_error err = {0};
            ck_assert_msg(call(client, PROTO_ADMIN, &admin, NULL, &err) == SP_EDENIED, "%s: %s: %s",
                          roles[i].role, verbs[v], err.text);
        }
        proto_client_free(client);
        free(token);
    }
    cluster_close(&cluster);
}
END_TEST

static uint64_t hello(struct proto_client *client, const char *name, enum sp_err expected)
{
    struct sp_error err = {0};
    const void *reply = NULL;
    struct proto_hello body = {.role = PROTO_ROLE_GENERATOR,
                               .name = name,
                               .instance = 77,
                               .host = "h",
                               .device = "d",
                               .version = "0",
                               .numerics_class = "cpu r1",
                               .slots = 8};
    sp_random_secret(&body.instance, sizeof(body.instance));
    enum sp_err rc = call(client, PROTO_HELLO, &body, &reply, &err);
    ck_assert_msg(rc == expected, "hello: %s: %s", sp_err_name(rc), err.text);
    return rc == SP_OK ? ((const struct proto_hello_reply *)reply)->worker_id : 0;
}

/* A generator cannot act as another one, and reads only what its own leases need. */
START_TEST(test_one_generator_and_the_other)
{
    struct cluster cluster;
    char id[32];
    struct sp_error err = {0};
    const void *reply = NULL;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_iteration(&cluster, "r");
    cluster_wait_state(&cluster, "r", "running", SECONDS);
    new_token(&cluster, "a.token", "generator", NULL, NULL, id);
    new_token(&cluster, "b.token", "generator", NULL, NULL, id);
    char *one = read_token(&cluster, "a.token"), *two = read_token(&cluster, "b.token");
    struct proto_client *a = client_of(&cluster, one), *b = client_of(&cluster, two);
    uint64_t worker = hello(a, "a", SP_OK);
    hello(b, "a", SP_EEXIST); /* its name */
    uint64_t other = hello(b, "b", SP_OK);
    struct proto_lease ask = {
        .worker_id = worker, .request_id = 5, .run = "", .max_items = 4, .wait_ms = 5000};
    const struct proto_lease_reply *lease = NULL;
    for (int i = 0; i < 20 && (!lease || lease->lease_id == 0); i++, ask.request_id++) {
        ck_assert_msg(call(a, PROTO_LEASE, &ask, &reply, &err) == SP_OK, "%s", err.text);
        lease = reply;
    }
    ck_assert_uint_ne(lease->lease_id, 0);
    uint64_t lease_id = lease->lease_id;
    struct proto_blob_get manifest = {.sha256 = lease->manifest}, nothing = {0};
    /* Its worker id, with b's token. */
    struct proto_renew renew = {
        .worker_id = worker, .leases = {.values = &lease_id, .count = 1}, .activity = ""};
    struct proto_lease_return back = {.worker_id = worker,
                                      .leases = {.values = &lease_id, .count = 1}};
    ck_assert_int_eq(call(b, PROTO_RENEW, &renew, NULL, &err), SP_ESTALE);
    ck_assert_int_eq(call(b, PROTO_LEASE_RETURN, &back, NULL, &err), SP_ESTALE);
    ask.request_id = 99;
    ck_assert_int_eq(call(b, PROTO_LEASE, &ask, NULL, &err), SP_ESTALE);
    /* Weights: a may, b has no lease. Nothing that no lease names. */
    ck_assert_msg(call(a, PROTO_BLOB_GET, &manifest, NULL, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(call(b, PROTO_BLOB_GET, &manifest, NULL, &err), SP_ESTALE);
    ck_assert_int_eq(call(a, PROTO_BLOB_GET, &nothing, NULL, &err), SP_ESTALE);
    /* A lease of a's, returned by b in its own name: not its. */
    back.worker_id = other;
    ck_assert_int_eq(call(b, PROTO_LEASE_RETURN, &back, &reply, &err), SP_OK);
    ck_assert_uint_eq(((const struct proto_lease_return_reply *)reply)->returned, 0);
    /* A recorded request, sent again: the lease is returned once. */
    back.worker_id = worker;
    ck_assert_int_eq(call(a, PROTO_LEASE_RETURN, &back, &reply, &err), SP_OK);
    ck_assert_uint_gt(((const struct proto_lease_return_reply *)reply)->returned, 0);
    ck_assert_int_eq(call(a, PROTO_LEASE_RETURN, &back, &reply, &err), SP_OK);
    ck_assert_uint_eq(((const struct proto_lease_return_reply *)reply)->returned, 0);
    proto_client_free(a);
    proto_client_free(b);
    free(one);
    free(two);
    cluster_close(&cluster);
}
END_TEST

/* A recorded submission, sent again: stored once. */
START_TEST(test_a_replayed_submission)
{
    struct cluster cluster;
    struct sp_error err = {0};
    const void *reply = NULL;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_iteration(&cluster, "r");
    char *token = read_token(&cluster, "generator.token");
    struct proto_client *client = client_of(&cluster, token);
    uint64_t worker = hello(client, "g", SP_OK);
    struct proto_lease ask = {
        .worker_id = worker, .request_id = 5, .run = "", .max_items = 1, .wait_ms = 5000};
    const struct proto_lease_reply *lease = NULL;
    for (int i = 0; i < 20 && (!lease || lease->lease_id == 0); i++, ask.request_id++) {
        ck_assert_msg(call(client, PROTO_LEASE, &ask, &reply, &err) == SP_OK, "%s", err.text);
        lease = reply;
    }
    static const int32_t ids[] = {70, 71};
    struct proto_work_result result = {.set = lease->items[0].set,
                                       .position = lease->items[0].position,
                                       .prompt = lease->items[0].prompt,
                                       .sample = lease->items[0].sample,
                                       .ids = {.ids = ids, .count = 2},
                                       .finish = PROTO_FINISH_LENGTH,
                                       .logprob_ids = -1,
                                       .logprob_a = -1};
    struct proto_submit submit = {.worker_id = worker,
                                  .run = "r",
                                  .iteration = 0,
                                  .lease_id = lease->lease_id,
                                  .checkpoint = lease->checkpoint,
                                  .results = &result,
                                  .results_count = 1};
    for (int i = 0; i < 3; i++) {
        ck_assert_msg(call(client, PROTO_SUBMIT, &submit, &reply, &err) == SP_OK, "%s", err.text);
        const struct proto_submit_reply *counts = reply;
        ck_assert_uint_eq(counts->stored, i == 0 ? 1 : 0);
        ck_assert_uint_eq(counts->duplicates, i == 0 ? 0 : 1);
    }
    /* Lies that can be seen: a token beyond the vocabulary, an end inside, a probability above 1.
     */
    static const int32_t beyond[] = {70, 258}, inside[] = {257, 70}, unsaid[] = {70, 257};
    const struct {
        const int32_t *ids;
        float logprob;
        const char *mention;
    } lies[] = {{beyond, -1, "vocabulary"},
                {inside, -1, "end token"},
                {unsaid, -1, "end token"},
                {ids, 0.5f, "at most 0"},
                {ids, -1.0f / 0.0f, "finite"}};
    for (size_t i = 0; i < SP_COUNT(lies); i++) {
        result.ids.ids = lies[i].ids;
        result.logprob_ids = lies[i].logprob;
        ck_assert_int_eq(call(client, PROTO_SUBMIT, &submit, NULL, &err), SP_EINVAL);
        ck_assert_msg(strstr(err.text, lies[i].mention) != NULL, "%s", err.text);
    }
    proto_client_free(client);
    free(token);
    cluster_close(&cluster);
}
END_TEST

/* A worker whose token is revoked ends, in the middle of a held request, and says why. */
START_TEST(test_revoked_while_it_waits)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_start_generator(&cluster, 0);
    json_t *list;
    for (bool joined = false; !joined; json_decref(list)) {
        list = cluster_ctl_ok(&cluster, "workers", NULL);
        joined = json_array_size(json_object_get(list, "workers")) > 0;
    }
    char *token = read_token(&cluster, "generator.token");
    token[strcspn(token, ".")] = '\0';
    json_decref(cluster_ctl_ok(&cluster, "token", "revoke", token, NULL));
    free(token);
    int status = 0;
    int64_t end_ms = sp_now_ms() + 20000;
    while (waitpid(cluster.generators[0], &status, WNOHANG) == 0) {
        ck_assert_msg(sp_now_ms() < end_ms, "the generator goes on");
        sp_sleep_ms(10);
    }
    cluster.generators[0] = 0;
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 11);
    cluster_close(&cluster);
}
END_TEST

/* ---- secrets in files ---- */

START_TEST(test_secrets_that_others_can_read)
{
    struct cluster cluster;
    struct said said;
    char path[256];
    cluster_open(&cluster);
    snprintf(path, sizeof(path), "%s/generator.token", cluster.dir);
    ck_assert_int_eq(chmod(path, 0640), 0);
    static const struct expectation tokens[] = {
        {"--state-dir state --token-file generator.token status", 11, {"chmod 600"}}};
    program_expect(cluster.dir, SPINCTL, tokens, 1);
    int code =
        program_run(cluster.dir, &said, 20, GENERATOR,
                    "--coordinator ipc://nowhere --token-file generator.token --state-dir g");
    ck_assert_msg(code == 11 && strstr(said.err, "chmod 600"), "%d: %s", code, said.err);
    /* A credential that systemd has loaded is private by its directory. */
    snprintf(path, sizeof(path), "%s/credentials", cluster.dir);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    char *admin = read_token(&cluster, "state/admin.token");
    cluster_write(&cluster, "credentials/token", "%s\n", admin);
    free(admin);
    setenv("CREDENTIALS_DIRECTORY", path, 1);
    code = program_run(cluster.dir, &said, 20, SPINCTL,
                       "--state-dir state --token-file credential:token status");
    ck_assert_msg(code == 0, "%s", said.err);
    code = program_run(cluster.dir, &said, 20, SPINCTL,
                       "--state-dir state --token-file credential:../state/admin.token status");
    ck_assert_msg(code == 2, "%d: %s", code, said.err);
    unsetenv("CREDENTIALS_DIRECTORY");
    /* Nothing secret is in a log, or on a command line. */
    char *secret = read_token(&cluster, "state/admin.token");
    snprintf(path, sizeof(path), "%s/coordinator.log", cluster.dir);
    char *log = NULL;
    size_t length = 0;
    struct sp_error err;
    ck_assert_int_eq(sp_read_file(path, 1 << 24, &log, &length, &err), SP_OK);
    ck_assert_ptr_null(strstr(log, strchr(secret, '.') + 1));
    free(log);
    free(secret);
    cluster_close(&cluster);
}
END_TEST

/* ---- TLS ---- */

struct tls_cluster {
    struct cluster cluster;
    int port, http;
    char url[64];
};

static void make(struct cluster *cluster, const char *arguments)
{
    struct said said;
    int code = program_run(cluster->dir, &said, 30, MAKE, arguments);
    ck_assert_msg(code == 0, "%s", said.err);
}

static void open_tls(struct tls_cluster *tls)
{
    struct cluster *cluster = &tls->cluster;
    cluster_open(cluster);
    make(cluster, "certs " NAMES);
    make(cluster, "others " NAMES);
    cluster_end(&cluster->coordinator, SIGTERM);
    tls->port = free_port();
    tls->http = free_port();
    snprintf(tls->url, sizeof(tls->url), "tls+tcp://127.0.0.1:%d", tls->port);
    cluster_write(cluster, "coordinator.conf",
                  "[coordinator]\nstate_dir = state\nlisten = %s\ntime_scale = 0.05\n"
                  "[tls]\nca = certs/ca.pem\ncert = certs/coordinator.test.pem\n"
                  "[http]\nlisten = 0.0.0.0:%d\n",
                  tls->url, tls->http);
    const char *const argv[] = {COORDINATOR, "--config", "coordinator.conf", NULL};
    cluster->coordinator = program_start(cluster->dir, "coordinator.log", argv);
    json_decref(cluster_ctl_ok(cluster, "--timeout", "20", "status", NULL));
}

static int spinctl(struct tls_cluster *tls, struct said *said, const char *certs,
                   const char *options)
{
    char *arguments = sp_xprintf("--coordinator %s --tls-server-name coordinator.test --tls-ca "
                                 "certs/ca.pem --tls-cert %s --token-file state/admin.token %s",
                                 tls->url, certs, options);
    int code = program_run(tls->cluster.dir, said, SECONDS, SPINCTL, arguments);
    free(arguments);
    return code;
}

START_TEST(test_certificates_of_strangers)
{
    struct tls_cluster tls = {0};
    struct said said;
    char byte;
    open_tls(&tls);
    ck_assert_msg(spinctl(&tls, &said, "certs/admin.test.pem", "status") == 0, "%s", said.err);
    ck_assert_int_eq(spinctl(&tls, &said, "others/admin.test.pem", "status"), 11);
    /* Expired: signed by the right authority, valid until yesterday. */
    make(&tls.cluster, "--days -1 certs expired.test");
    ck_assert_int_eq(spinctl(&tls, &said, "certs/expired.test.pem", "status"), 11);
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
    open_tls(&tls);
    cluster_write_rows(&tls.cluster, "train.jsonl", 0, 40);
    cluster_create_run(&tls.cluster, "r", 1, "");
    static const struct {
        const char *program, *role;
    } workers[] = {{GENERATOR, "generator"}, {TRAINER, "trainer"}};
    for (size_t i = 0; i < SP_COUNT(workers); i++) {
        char file[64], log[64];
        snprintf(file, sizeof(file), "%s.conf", workers[i].role);
        snprintf(log, sizeof(log), "%s.log", workers[i].role);
        cluster_write(&tls.cluster, file,
                      "[coordinator]\nurl = %s\ntoken_file = %s.token\ntls_ca = certs/ca.pem\n"
                      "tls_cert = certs/%s.test.pem\ntls_server_name = coordinator.test\n"
                      "[worker]\nname = %s\nstate_dir = %s-state\n[compute]\nthreads = 1\n",
                      tls.url, workers[i].role, workers[i].role, workers[i].role, workers[i].role);
        const char *const argv[] = {workers[i].program, "--config", file, NULL};
        pid_t pid = program_start(tls.cluster.dir, log, argv);
        *(i ? &tls.cluster.trainers[0] : &tls.cluster.generators[0]) = pid;
    }
    cluster_start_iteration(&tls.cluster, "r");
    /* Damaged files: the old listener stays. */
    const char *const keep[] = {"/bin/mv", "certs/coordinator.test.pem", "certs/old.pem", NULL};
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, keep), 0);
    cluster_write(&tls.cluster, "certs/coordinator.test.pem", "%s", "nonsense\n");
    kill(tls.cluster.coordinator, SIGHUP);
    sp_sleep_ms(100);
    ck_assert_msg(spinctl(&tls, &said, "certs/admin.test.pem", "status") == 0, "%s", said.err);
    /* A new certificate of the same authority: everyone goes on. */
    const char *const gone[] = {"/bin/rm", "certs/coordinator.test.pem", NULL};
    ck_assert_int_eq(program_run_argv(tls.cluster.dir, &said, 9, gone), 0);
    make(&tls.cluster, "certs coordinator.test");
    for (int i = 0; i < 3; i++) {
        kill(tls.cluster.coordinator, SIGHUP);
        ck_assert_msg(spinctl(&tls, &said, "certs/admin.test.pem", "status") == 0, "%s", said.err);
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
        code = spinctl(&tls, &said, "certs/admin.test.pem", "status");
    ck_assert_msg(code == 0, "%s", said.err);
    ck_assert_int_eq(spinctl(&tls, &said, "before/admin.test.pem", "status"), 11);
    cluster_close(&tls.cluster);
}
END_TEST

/* ---- the port for monitoring ---- */

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
    open_tls(&tls);
    new_token(&tls.cluster, "read.token", "readonly", NULL, NULL, id);
    new_token(&tls.cluster, "some.token", "readonly", "--runs", "r", id);
    new_token(&tls.cluster, "brief.token", "readonly", "--expires", "1 ms", id);
    new_token(&tls.cluster, "revoked.token", "readonly", NULL, NULL, id);
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
            char *token = read_token(&tls.cluster, refused[i]);
            const char *reply = fetch(tls.http, true, pages[p], token);
            ck_assert_msg(is_status(reply, 401), "%s: %s: %.80s", pages[p], refused[i], reply);
            free(token);
        }
    }
    char *token = read_token(&tls.cluster, "read.token");
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
    Suite *s = suite_create("e2e/security");
    TCase *c = tcase_create("security");
    tcase_set_timeout(c, 180);
    tcase_add_test(c, test_no_token_of_a_stranger_opens_anything);
    tcase_add_test(c, test_another_roles_token);
    tcase_add_test(c, test_one_generator_and_the_other);
    tcase_add_test(c, test_a_replayed_submission);
    tcase_add_test(c, test_revoked_while_it_waits);
    tcase_add_test(c, test_secrets_that_others_can_read);
    tcase_add_test(c, test_certificates_of_strangers);
    tcase_add_test(c, test_sighup);
    tcase_add_test(c, test_monitoring_on_loopback);
    tcase_add_test(c, test_monitoring_for_other_machines);
    tcase_add_test(c, test_monitoring_refuses_to_be_open);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

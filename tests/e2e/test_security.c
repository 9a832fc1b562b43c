/* Strangers, thieves and careless administrators: what each credential opens, on either port. Every
 * row of the table in docs/security.md that names this file is a test here. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* ---- helpers ---- */

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
    cluster_new_token(&cluster, "brief.token", "admin", "--expires", "1 ms", id);
    cluster_new_token(&cluster, "revoked.token", "admin", NULL, NULL, revoked_id);
    json_decref(cluster_ctl_ok(&cluster, "token", "revoke", revoked_id, NULL));
    char *expired = cluster_read_token(&cluster, "brief.token");
    char *revoked = cluster_read_token(&cluster, "revoked.token");
    char *good = cluster_read_token(&cluster, "state/admin.token");
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
        cluster_new_token(&cluster, "some.token", roles[i].role, NULL, NULL, id);
        char *token = cluster_read_token(&cluster, "some.token");
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
    cluster_new_token(&cluster, "a.token", "generator", NULL, NULL, id);
    cluster_new_token(&cluster, "b.token", "generator", NULL, NULL, id);
    char *one = cluster_read_token(&cluster, "a.token"),
         *two = cluster_read_token(&cluster, "b.token");
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
    char *token = cluster_read_token(&cluster, "generator.token");
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
    char *token = cluster_read_token(&cluster, "generator.token");
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
    char *admin = cluster_read_token(&cluster, "state/admin.token");
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
    char *secret = cluster_read_token(&cluster, "state/admin.token");
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
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

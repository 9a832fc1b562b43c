/* Peers with a good token and bad intentions: every kind of message with edge values in every
 * field, from every role. The coordinator answers each, lives on, and can be started again from its
 * store. A failure prints the seed of the message; SPIN_TEST_SEED tries just that one. */
#include <check.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "proto/codec.h"
#include "proto/rpc.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
#define MESSAGES 3000
#define ROLES 3

/* What a peer may have learned, so that some of its lies are near the truth. */
struct truth {
    uint64_t worker_id, epoch, lease_id;
};

struct liar {
    struct sp_arena *arena;
    const struct truth *truth;
    uint32_t seed, draws;
    enum proto_type type;
};

static uint32_t draw(struct liar *liar, uint32_t below)
{
    return (uint32_t)sp_rng_below(2, SP_STREAM_TEST, 0, liar->seed, 1, liar->draws++, below);
}

static uint64_t edge_integer(struct liar *liar)
{
    static const uint64_t edges[] = {0,         1,          2,          3,          7,
                                     255,       65536,      INT32_MAX,  UINT32_MAX, 1ull << 32,
                                     INT64_MAX, 1ull << 63, UINT64_MAX, 96,         1024};
    return edges[draw(liar, SP_COUNT(edges))];
}

static double edge_real(struct liar *liar)
{
    const double edges[] = {0, -0.0, 1, -1, NAN, INFINITY, -INFINITY, 1e308, -1e308, 5e-324, 0.5};
    return edges[draw(liar, SP_COUNT(edges))];
}

static const char *edge_text(struct liar *liar)
{
    static const char *const texts[] = {"",
                                        "r",
                                        "r",
                                        "r",
                                        "nonsense",
                                        "../../etc/passwd",
                                        "a b",
                                        "\x1b[2J",
                                        "r\nr",
                                        "%s%n%s",
                                        "{}",
                                        "{\"iteration\":0}",
                                        "{\"iteration\":-1}",
                                        "{\"iteration\":1e99}",
                                        "[[[[",
                                        "{\"settings\":{}}",
                                        "{\"after\":18446744073709551615}",
                                        "{\"limit\":0}",
                                        "\xc3\xa9\xe2\x82\xac",
                                        "{\"digest\":\"00\"}",
                                        "{\"prompt\":4294967295}",
                                        "{\"wait_ms\":-5}",
                                        "{\"worker\":\"nobody\"}",
                                        "{\"priority\":7}"};
    if (draw(liar, 40) == 0) {
        char *text = sp_arena_alloc(liar->arena, 100001, 1);
        memset(text, 'x', 100000);
        return text;
    }
    return texts[draw(liar, SP_COUNT(texts))];
}

static const char *edge_verb(struct liar *liar)
{
    static const char *const verbs[] = {
        "ping",         "status",          "runs",       "why",        "events", "workers",
        "iterations",   "pairs",           "data",       "steps",      "pause",  "checkpoints",
        "checkpoint",   "settings",        "create-run", "token-list", "resume", "retry",
        "cancel",       "start",           "skip",       "backup",     "doctor", "token-create",
        "token-revoke", "start-iteration", "gc",         "pin",        "unpin",  "cordon",
        "drain",        "quarantine",      "uncordon",   "priority",   "fly"};
    return verbs[draw(liar, SP_COUNT(verbs))];
}

/* An array of `bytes` a value, with edge values in it. */
static void fill_array(struct liar *liar, size_t bytes, void *at)
{
    static const uint32_t counts[] = {0, 1, 2, 31, 32, 33, 1025, 200000};
    uint32_t count = counts[draw(liar, draw(liar, 20) ? 6 : SP_COUNT(counts))];
    uint8_t *values = sp_arena_alloc(liar->arena, (size_t)count + 1, bytes);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t value = edge_integer(liar);
        memcpy(values + i * bytes, &value, bytes);
    }
    struct proto_bytes array = {.data = values, .length = count};
    memcpy(at, &array, sizeof(array));
}

static void fill(struct liar *liar, const struct proto_layout *layout, uint8_t *body);

static void fill_list(struct liar *liar, const struct proto_field *field, uint8_t *body)
{
    const struct proto_layout *item = field->item();
    uint32_t count = draw(liar, 30) ? draw(liar, 4) : SP_MAX_SUBMIT_RESULTS + 1;
    uint8_t *items = sp_arena_alloc(liar->arena, (size_t)count + 1, item->struct_bytes);
    uint32_t made = SP_MIN(count, 8u);
    for (uint32_t i = 0; i < made; i++)
        fill(liar, item, items + i * item->struct_bytes);
    memcpy(body + field->offset, &items, sizeof(items));
    memcpy(body + field->count_offset, &count, sizeof(count));
}

static bool is(const struct proto_field *field, const char *name)
{
    return strcmp(field->name, name) == 0;
}

static void fill_scalar(struct liar *liar, const struct proto_field *field, uint8_t *at)
{
    bool honest = draw(liar, 4) != 0;
    uint64_t integer = edge_integer(liar);
    if (is(field, "wait_ms") || (honest && is(field, "iteration")))
        integer = 0;
    else if (honest && is(field, "worker_id"))
        integer = liar->truth->worker_id;
    else if (honest && is(field, "epoch"))
        integer = liar->truth->epoch;
    else if (honest && is(field, "lease_id"))
        integer = liar->truth->lease_id;
    double real = edge_real(liar);
    float narrow = (float)real;
    bool flag = draw(liar, 2);
    switch (field->kind) {
    case PROTO_KIND_U32:
    case PROTO_KIND_I32:
        memcpy(at, &integer, 4);
        break;
    case PROTO_KIND_F32:
        memcpy(at, &narrow, 4);
        break;
    case PROTO_KIND_F64:
        memcpy(at, &real, 8);
        break;
    case PROTO_KIND_BOOL:
        memcpy(at, &flag, sizeof(flag));
        break;
    default:
        memcpy(at, &integer, 8);
    }
}

static void fill(struct liar *liar, const struct proto_layout *layout, uint8_t *body)
{
    for (size_t i = 0; i < layout->field_count; i++) {
        const struct proto_field *field = &layout->fields[i];
        uint8_t *at = body + field->offset;
        const char *text;
        switch (field->kind) {
        case PROTO_KIND_STR:
            text = edge_text(liar);
            if (is(field, "verb"))
                text = edge_verb(liar);
            else if (is(field, "run") && draw(liar, 4))
                text = "r";
            memcpy(at, &text, sizeof(text));
            break;
        case PROTO_KIND_BYTES:
            fill_array(liar, 1, at);
            break;
        case PROTO_KIND_IDS:
        case PROTO_KIND_F32S:
            fill_array(liar, 4, at);
            break;
        case PROTO_KIND_U64S:
            fill_array(liar, 8, at);
            break;
        case PROTO_KIND_DIGEST:
            memset(at, (int)draw(liar, 3), SP_DIGEST_BYTES);
            break;
        case PROTO_KIND_LIST:
            fill_list(liar, field, body);
            break;
        default:
            fill_scalar(liar, field, at);
        }
    }
}

static struct proto_client *open_client(struct cluster *cluster, const char *token_file)
{
    char url[256], *path = sp_path_join(cluster->dir, token_file), *token = NULL;
    size_t length = 0;
    struct sp_error err;
    struct proto_client *client = NULL;
    snprintf(url, sizeof(url), "ipc://%s/state/coordinator.sock", cluster->dir);
    ck_assert_int_eq(sp_read_file(path, 4096, &token, &length, &err), SP_OK);
    token[strcspn(token, "\n")] = '\0';
    struct proto_client_options options = {.url = url, .token = token, .request_ms = 15000};
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_OK);
    free(token);
    free(path);
    return client;
}

static const void *must(struct proto_client *client, enum proto_type type, const void *body)
{
    struct sp_error err;
    const void *reply = NULL;
    enum sp_err rc = proto_call(client, type, body, 15000, &reply, &err);
    ck_assert_msg(rc == SP_OK, "%s: %s", proto_type_name(type), err.text);
    return reply;
}

/* What an honest worker would know by now. */
static void learn(struct proto_client *client, enum proto_role role, uint64_t request_id,
                  struct truth *ret)
{
    struct proto_hello hello = {.role = role,
                                .name = "liar",
                                .host = "h",
                                .device = "d",
                                .version = "0",
                                .numerics_class = "cpu r1",
                                .instance = 1,
                                .slots = 8};
    const struct proto_hello_reply *met = must(client, PROTO_HELLO, &hello);
    ret->worker_id = met->worker_id;
    if (role == PROTO_ROLE_GENERATOR) {
        struct proto_lease ask = {
            .worker_id = ret->worker_id, .request_id = 1, .run = "", .max_items = 4, .wait_ms = 0};
        const struct proto_lease_reply *lease = must(client, PROTO_LEASE, &ask);
        if (lease->lease_id)
            ret->lease_id = lease->lease_id;
    } else {
        struct proto_trainer_lease ask = {
            .worker_id = ret->worker_id, .request_id = request_id, .wait_ms = 0};
        const struct proto_trainer_lease_reply *lease = must(client, PROTO_TRAINER_LEASE, &ask);
        if (lease->granted)
            ret->epoch = lease->epoch;
    }
}

/* Index of a client that may send this. */
static uint32_t role_for(enum proto_type type)
{
    switch (type) {
    case PROTO_ADMIN:
        return 0;
    case PROTO_HELLO:
    case PROTO_RENEW:
    case PROTO_LEASE:
    case PROTO_LEASE_RETURN:
    case PROTO_SUBMIT:
        return 1;
    default:
        return 2;
    }
}

/* Sends the message of this seed; anything but silence is a good answer. Whether it was believed.
 */
static bool lie(struct proto_client *const clients[ROLES], const struct truth truths[ROLES],
                uint32_t seed)
{
    struct liar liar = {.arena = sp_arena_new(1 << 16, 64 << 20), .seed = seed};
    const struct proto_layout *layout = NULL;
    while (layout == NULL) {
        liar.type = (enum proto_type)(2 * (1 + draw(&liar, 60)));
        layout = proto_layout_of(liar.type);
    }
    uint32_t role = draw(&liar, 8) ? role_for(liar.type) : draw(&liar, ROLES);
    liar.truth = &truths[role];
    uint8_t *body = sp_arena_alloc(liar.arena, 1, layout->struct_bytes);
    fill(&liar, layout, body);
    struct sp_error err = {0};
    const void *reply = NULL;
    enum sp_err rc = proto_call(clients[role], liar.type, body, 0, &reply, &err);
    ck_assert_msg(rc != SP_ETIMEOUT && rc != SP_EINTERNAL && !strstr(err.text, "Connection"),
                  "seed %u: role %u: %s: %s", seed, role, proto_type_name(liar.type), err.text);
    if (getenv("SPIN_TEST_SEED"))
        fprintf(stderr, "%u: role %u: %s: %s\n", seed, role, proto_type_name(liar.type), err.text);
    sp_arena_free(liar.arena);
    return rc == SP_OK;
}

START_TEST(test_lies_of_every_role)
{
    static const char *const tokens[ROLES] = {"state/admin.token", "generator.token",
                                              "trainer.token"};
    struct proto_client *clients[ROLES];
    struct truth truths[ROLES] = {{0}};
    struct cluster cluster;
    const char *one = getenv("SPIN_TEST_SEED");
    uint32_t believed = 0;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_iteration(&cluster, "r");
    for (int i = 0; i < ROLES; i++)
        clients[i] = open_client(&cluster, tokens[i]);
    for (uint32_t seed = one ? (uint32_t)atoi(one) : 0; seed < MESSAGES; seed++) {
        if (seed % 50 == 0 || one) {
            learn(clients[1], PROTO_ROLE_GENERATOR, seed + 1, &truths[1]);
            learn(clients[2], PROTO_ROLE_TRAINER, seed + 1, &truths[2]);
        }
        believed += lie(clients, truths, seed);
        ck_assert_msg(waitpid(cluster.coordinator, NULL, WNOHANG) == 0,
                      "seed %u ended the coordinator: see %s/coordinator.log", seed, cluster.dir);
        if (one)
            break;
    }
    /* Enough of them got past the door for the rest to have been tried. */
    ck_assert_msg(one || (believed > MESSAGES / 30 && believed < MESSAGES / 2), "%u", believed);
    for (int i = 0; i < ROLES; i++)
        proto_client_free(clients[i]);
    /* What they left behind does not hinder others, now or after a restart. */
    cluster_create_run(&cluster, "fresh", 1, "");
    cluster_end(&cluster.coordinator, SIGKILL);
    cluster_start_coordinator(&cluster);
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    struct said said;
    (void)program_run(cluster.dir, &said, 20, SPINCTL, "--state-dir state cancel r");
    cluster_iterate(&cluster, "fresh", SECONDS);
    cluster_close(&cluster);
}
END_TEST

/* The refusal of one message, whose text must have `mention` in it. */
static void refused(struct proto_client *client, enum proto_type type, const void *body,
                    enum sp_err code, const char *mention)
{
    struct sp_error err = {0};
    const void *reply = NULL;
    enum sp_err rc = proto_call(client, type, body, 0, &reply, &err);
    ck_assert_msg(rc == code && strstr(err.text, mention), "%s: %s", sp_err_name(rc), err.text);
}

/* Refused once, and answered once: what comes next on the same connection is answered, too. */
START_TEST(test_arguments_that_are_no_object)
{
    static const char *const verbs[] = {"token-create", "token-revoke", "backup", "status"};
    static const char *const args[] = {"[]", "7", "null", "{", "{\"a\":1,\"a\":2}"};
    struct cluster cluster;
    cluster_open(&cluster);
    struct proto_client *client = open_client(&cluster, "state/admin.token");
    for (int round = 0; round < 20; round++) {
        for (size_t v = 0; v < SP_COUNT(verbs); v++) {
            for (size_t a = 0; a < SP_COUNT(args); a++) {
                struct proto_admin admin = {.verb = verbs[v], .run = "", .args = args[a]};
                refused(client, PROTO_ADMIN, &admin, SP_EFORMAT, "args");
            }
        }
    }
    struct proto_admin ping = {.verb = "ping", .run = "", .args = ""};
    must(client, PROTO_ADMIN, &ping);
    proto_client_free(client);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_counts_that_no_step_can_have)
{
    struct cluster cluster;
    struct truth truth = {0};
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_iteration(&cluster, "r");
    struct proto_client *client = open_client(&cluster, "trainer.token");
    for (uint64_t i = 1; truth.epoch == 0; i++) {
        ck_assert_uint_lt(i, 500);
        learn(client, PROTO_ROLE_TRAINER, i, &truth);
        sp_sleep_ms(10);
    }
    struct proto_step_metrics step = {.step = 1, .tokens = UINT64_MAX};
    struct proto_steps_report report = {.worker_id = truth.worker_id,
                                        .run = "r",
                                        .iteration = 0,
                                        .epoch = truth.epoch,
                                        .steps_total = 4,
                                        .steps = &step,
                                        .steps_count = 1};
    refused(client, PROTO_STEPS_REPORT, &report, SP_EINVAL, "tokens");
    step = (struct proto_step_metrics){.step = 0};
    refused(client, PROTO_STEPS_REPORT, &report, SP_EINVAL, "step");
    step = (struct proto_step_metrics){.step = 1, .milliseconds = 1ull << 63};
    refused(client, PROTO_STEPS_REPORT, &report, SP_EINVAL, "milliseconds");
    step = (struct proto_step_metrics){.step = 1, .tokens = 100, .loss = NAN};
    must(client, PROTO_STEPS_REPORT, &report);
    report.steps_total = UINT64_MAX;
    refused(client, PROTO_STEPS_REPORT, &report, SP_EINVAL, "steps_total");
    json_decref(cluster_ctl_ok(&cluster, "iterations", "r", NULL));
    proto_client_free(client);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/hostile_peers");
    TCase *c = tcase_create("peers");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_lies_of_every_role);
    tcase_add_test(c, test_arguments_that_are_no_object);
    tcase_add_test(c, test_counts_that_no_step_can_have);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

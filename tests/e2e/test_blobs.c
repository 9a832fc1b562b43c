/* Weights from other workers: real generators that give chunks to one another, one that lies, one
 * that is dead, and strangers at its port. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/checkpoint/manifest.h"
#include "tests/e2e/tls_cluster.h"
#include "tests/e2e/wire.h"
#include "tests/unit/check_main.h"

#define SECONDS 90
#define PAIRS 60
#define MANY_PAIRS 400 /* more than a generator makes before it is met */
#define PAGE_BYTES (1u << 20)
#define SENT "spin_blob_sent_bytes_total"
#define FROM_OTHERS "spin_blob_peer_chunks_total"
#define POISONED "spin_blob_peer_failures_total{outcome=\"poisoned\"}"
#define SILENT "spin_blob_peer_failures_total{outcome=\"silent\"}"

/* ---- what the coordinator counts ---- */

/* A value of /metrics on that port; name with its labels, as printed. */
static double metric(int port, const char *name)
{
    static const char ask[] = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    char *page = sp_xalloc(PAGE_BYTES + 1), *line = NULL;
    size_t have = 0;
    ssize_t n = 1;
    int fd = dial(port);
    ck_assert(send(fd, ask, sizeof(ask) - 1, MSG_NOSIGNAL) == (ssize_t)sizeof(ask) - 1);
    while (n > 0 && have < PAGE_BYTES) {
        n = read(fd, page + have, PAGE_BYTES - have);
        have += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    char *key = sp_xprintf("\n%s ", name);
    line = strstr(page, key);
    ck_assert_msg(line != NULL, "no %s in %.300s", name, page);
    double value = strtod(line + strlen(key), NULL);
    free(key);
    free(page);
    return value;
}

/* ---- a cluster, and what its weights are ---- */

struct fixture {
    struct cluster cluster;
    int port; /* of its metrics */
    char set[64];
    struct wire scout; /* a worker of an older version: it asks the coordinator alone */
    struct sp_digest checkpoint, manifest_sha256;
    struct ckpt_manifest manifest;
    char settings[4][128]; /* that cluster.worker_sets points to */
};

static void read_manifest(struct fixture *fx)
{
    struct proto_lease ask = {.run = "r", .max_items = 1, .wait_ms = 5000};
    struct sp_error err = {0};
    sp_random_secret(&ask.request_id, sizeof(ask.request_id));
    const struct proto_lease_reply *grant = wire_call(&fx->scout, PROTO_LEASE, &ask);
    ck_assert_uint_ne(grant->lease_id, 0);
    uint64_t lease = grant->lease_id;
    fx->checkpoint = grant->checkpoint;
    fx->manifest_sha256 = grant->manifest;
    struct proto_blob_get get = {.sha256 = fx->manifest_sha256};
    const void *body = NULL;
    ck_assert_msg(worker_call_plain(fx->scout.peer, PROTO_BLOB_GET, &get, &body, &err) == SP_OK,
                  "%s", err.text);
    const struct proto_blob_get_reply *reply = body;
    ck_assert_int_eq(ckpt_manifest_parse((const char *)reply->data.data, reply->data.length,
                                         &fx->manifest, &err),
                     SP_OK);
    struct proto_lease_return back = {.leases = {.values = &lease, .count = 1}};
    wire_call(&fx->scout, PROTO_LEASE_RETURN, &back);
}

/* With a run whose iteration is open; its class is that of the scout, which is the real one's. */
static void fixture_open(struct fixture *fx, int pairs)
{
    *fx = (struct fixture){0};
    fx->port = free_port();
    snprintf(fx->set, sizeof(fx->set), "http.listen=127.0.0.1:%d", fx->port);
    cluster_open(&fx->cluster);
    cluster_restart_with(&fx->cluster, fx->set);
    cluster_write_rows(&fx->cluster, "train.jsonl", 0, pairs + pairs / 5);
    cluster_create_run(&fx->cluster, "r", 1, "run.numerics=any");
    cluster_start_iteration(&fx->cluster, "r");
    wire_open(&fx->scout, &fx->cluster, PROTO_ROLE_GENERATOR, "scout");
    read_manifest(fx);
}

static void fixture_close(struct fixture *fx)
{
    wire_close(&fx->scout);
    ckpt_manifest_deinit(&fx->manifest);
    cluster_close(&fx->cluster);
}

/* The next generators have a cache of their own; serve: and give chunks from it. */
static void own_cache(struct fixture *fx, int index, bool serve)
{
    snprintf(fx->settings[0], sizeof(fx->settings[0]), "weights.cache_dir=cache-%d", index);
    snprintf(fx->settings[1], sizeof(fx->settings[1]), "weights.serve=ipc://%s/serve-%d.sock",
             fx->cluster.dir, index);
    snprintf(fx->settings[2], sizeof(fx->settings[2]), "weights.peer_timeout=2s");
    fx->cluster.worker_sets[0] = fx->settings[0];
    fx->cluster.worker_sets[1] = fx->settings[2];
    fx->cluster.worker_sets[2] = serve ? fx->settings[1] : NULL;
    cluster_start_generator(&fx->cluster, index);
}

static void wait_metric(const struct fixture *fx, const char *name, double least)
{
    int64_t end_ms = sp_now_ms() + 1000 * (int64_t)SECONDS;
    double value;
    while ((value = metric(fx->port, name)) < least) {
        ck_assert_msg(sp_now_ms() < end_ms, "%s is %g, not %g: see %s", name, value, least,
                      fx->cluster.dir);
        sp_sleep_ms(20);
    }
}

/* ---- a giver that is none ---- */

struct liar {
    uv_loop_t loop;
    uv_async_t stop;
    struct proto_server *server;
    pthread_t thread;
    struct wire wire;
    char url[128];
    atomic_int asked, tokens;
};

static void lie(struct proto_request *request, void *context)
{
    static const uint8_t rubbish[100] = "these are not the weights you asked for";
    struct liar *liar = context;
    struct proto_chunk_get_reply reply = {.data = {.data = rubbish, .length = sizeof(rubbish)}};
    atomic_fetch_add(&liar->asked, 1);
    atomic_fetch_add(&liar->tokens, proto_request_envelope(request)->token[0] != '\0');
    if (proto_request_envelope(request)->type == PROTO_CHUNK_GET)
        proto_reply(request, PROTO_CHUNK_GET_REPLY, &reply);
    else
        proto_reply_error(request, SP_EDENIED, 0, "no");
}

static void closed(void *context)
{
    uv_stop(&((struct liar *)context)->loop);
}

static void stop(uv_async_t *async)
{
    struct liar *liar = async->data;
    uv_close((uv_handle_t *)async, NULL);
    proto_server_close(liar->server, closed, liar);
}

static void *run_loop(void *context)
{
    struct liar *liar = context;
    uv_run(&liar->loop, UV_RUN_DEFAULT);
    uv_run(&liar->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* Says that it has all of the weights, at an address where it lies, or (dead) where nobody is. */
static void liar_open(struct liar *liar, struct fixture *fx, bool dead)
{
    struct sp_error err = {0};
    *liar = (struct liar){0};
    snprintf(liar->url, sizeof(liar->url), "ipc://%s/liar.sock", fx->cluster.dir);
    if (!dead) {
        ck_assert_int_eq(uv_loop_init(&liar->loop), 0);
        ck_assert_msg(proto_server_start(&liar->loop, liar->url, NULL, 4, lie, liar, &liar->server,
                                         &err) == SP_OK,
                      "%s", err.text);
        uv_async_init(&liar->loop, &liar->stop, stop);
        liar->stop.data = liar;
        ck_assert_int_eq(pthread_create(&liar->thread, NULL, run_loop, liar), 0);
    }
    wire_open(&liar->wire, &fx->cluster, PROTO_ROLE_GENERATOR, "liar");
    worker_link_serve(liar->wire.link, liar->url, "", 4);
    worker_link_gives(liar->wire.link, &fx->manifest_sha256, (uint32_t)fx->manifest.chunk_count);
    ck_assert_msg(worker_hello(liar->wire.peer, &err) == SP_OK, "%s", err.text);
}

static void liar_close(struct liar *liar)
{
    if (liar->server) {
        uv_async_send(&liar->stop);
        pthread_join(liar->thread, NULL);
        uv_loop_close(&liar->loop);
    }
    wire_close(&liar->wire);
}

/* ---- tests ---- */

/* Two generators of a host have one cache: one of them fetches. */
START_TEST(test_one_host_fetches_once)
{
    struct fixture fx;
    fixture_open(&fx, PAIRS);
    double before = metric(fx.port, SENT);
    cluster_start_generator(&fx.cluster, 0);
    cluster_start_generator(&fx.cluster, 1);
    cluster_wait_pairs(&fx.cluster, "r", PAIRS, SECONDS);
    double sent = metric(fx.port, SENT) - before;
    ck_assert_double_ge(sent, (double)fx.manifest.bytes);
    ck_assert_double_lt(sent, 1.5 * (double)fx.manifest.bytes);
    fixture_close(&fx);
}
END_TEST

/* Three hosts, all of which give: the coordinator sends about one copy. One is killed, comes back
 * with what it has, and the run ends as ever. */
START_TEST(test_generators_give_to_one_another)
{
    struct fixture fx;
    fixture_open(&fx, PAIRS);
    double before = metric(fx.port, SENT);
    for (int i = 0; i < 3; i++)
        own_cache(&fx, i, true);
    fx.cluster.worker_sets[2] = NULL; /* trainers give nothing */
    cluster_start_trainer(&fx.cluster, 0);
    cluster_wait_state(&fx.cluster, "r", "closed", SECONDS);
    ck_assert_double_ge(metric(fx.port, FROM_OTHERS), 1);
    ck_assert_double_lt(metric(fx.port, SENT) - before, 5 * (double)fx.manifest.bytes);
    cluster_end(&fx.cluster.generators[1], SIGKILL);
    own_cache(&fx, 1, true);
    wait_metric(&fx, "spin_blob_givers", 3);
    cluster_iterate(&fx.cluster, "r", SECONDS);
    fixture_close(&fx);
}
END_TEST

START_TEST(test_a_liar_is_refused_and_dropped)
{
    struct fixture fx;
    struct liar liar;
    fixture_open(&fx, MANY_PAIRS);
    liar_open(&liar, &fx, false);
    ck_assert_double_eq(metric(fx.port, "spin_blob_givers"), 1);
    fx.cluster.slots = fx.cluster.lease_items = 1;
    own_cache(&fx, 0, false);
    wait_metric(&fx, POISONED, 1);
    cluster_end(&fx.cluster.generators[0], SIGKILL); /* work is left for the others */
    ck_assert_double_eq(metric(fx.port, "spin_blob_givers"), 1); /* one word against another */
    own_cache(&fx, 1, false);
    wait_metric(&fx, POISONED, 2);
    cluster_end(&fx.cluster.generators[1], SIGKILL);
    ck_assert_double_eq(metric(fx.port, "spin_blob_givers"), 0);
    int64_t done = cluster_pairs_done(&fx.cluster, "r");
    fx.cluster.slots = 8;
    own_cache(&fx, 2, false); /* is not even sent there */
    cluster_wait_pairs(&fx.cluster, "r", done + 1, SECONDS);
    ck_assert_double_eq(metric(fx.port, POISONED), 2);
    ck_assert_double_eq(metric(fx.port, FROM_OTHERS), 0);
    ck_assert_int_eq(atomic_load(&liar.asked), 2);
    ck_assert_int_eq(atomic_load(&liar.tokens), 0); /* a worker's token is for the coordinator */
    liar_close(&liar);
    fixture_close(&fx);
}
END_TEST

START_TEST(test_a_dead_source)
{
    struct fixture fx;
    struct liar liar;
    fixture_open(&fx, PAIRS);
    liar_open(&liar, &fx, true);
    own_cache(&fx, 0, false);
    cluster_wait_pairs(&fx.cluster, "r", PAIRS, SECONDS);
    ck_assert_double_ge(metric(fx.port, SILENT), 1);
    liar_close(&liar);
    fixture_close(&fx);
}
END_TEST

/* ---- at a giver's port ---- */

static struct proto_client *open_client(const char *url)
{
    struct proto_client_options options = {.url = url, .request_ms = 5000};
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    ck_assert_msg(proto_client_open(&options, &client, &err) == SP_OK, "%s", err.text);
    return client;
}

static enum sp_err get(struct proto_client *client, const struct proto_chunk_get *ask,
                       const struct sp_digest *expected)
{
    const void *body = NULL;
    struct sp_error err = {0};
    enum sp_err rc = proto_call(client, PROTO_CHUNK_GET, ask, 0, &body, &err);
    if (rc != SP_OK)
        return rc;
    const struct proto_chunk_get_reply *reply = body;
    struct sp_digest real;
    sp_sha256_of(reply->data.data, reply->data.length, &real);
    ck_assert(sp_digest_equal(&real, expected));
    return SP_OK;
}

/* A ticket as the coordinator gives it to the scout, for the generator that serves at `url`. */
static struct proto_chunk_get ticket_for(struct fixture *fx, const char *url,
                                         struct sp_digest *ticket)
{
    static const uint8_t none[16];
    struct proto_blob_sources ask = {
        .manifest = fx->manifest_sha256,
        .chunks = (uint32_t)fx->manifest.chunk_count,
        .have = {.data = none, .length = (uint32_t)((fx->manifest.chunk_count + 7) / 8)},
        .wait_ms = 200,
    };
    for (int tries = 0; tries < 200; tries++) {
        const struct proto_blob_sources_reply *reply =
            wire_call(&fx->scout, PROTO_BLOB_SOURCES, &ask);
        if (reply->wait || reply->alone || strcmp(reply->url, url) != 0)
            continue;
        memcpy(ticket->bytes, reply->ticket.data, SP_DIGEST_BYTES);
        return (struct proto_chunk_get){.checkpoint = fx->checkpoint,
                                        .manifest = fx->manifest_sha256,
                                        .index = reply->index,
                                        .expires_ms = reply->expires_ms,
                                        .ticket = {ticket->bytes, SP_DIGEST_BYTES}};
    }
    ck_abort_msg("no ticket for %s", url);
}

static const struct sp_digest *digest_of(const struct fixture *fx, uint32_t index)
{
    for (size_t f = 0; f < fx->manifest.count; f++) {
        if (index < fx->manifest.files[f].chunk_count)
            return &fx->manifest.files[f].chunks[index];
        index -= fx->manifest.files[f].chunk_count;
    }
    ck_abort_msg("no such chunk");
}

START_TEST(test_tickets)
{
    struct fixture fx;
    struct sp_digest ticket, changed;
    char url[2][128];
    fixture_open(&fx, PAIRS);
    for (int i = 0; i < 2; i++) {
        own_cache(&fx, i, true);
        snprintf(url[i], sizeof(url[i]), "ipc://%s/serve-%d.sock", fx.cluster.dir, i);
    }
    cluster_wait_pairs(&fx.cluster, "r", PAIRS, SECONDS);
    struct proto_client *first = open_client(url[0]), *second = open_client(url[1]);
    struct proto_chunk_get good = ticket_for(&fx, url[0], &ticket);
    const struct sp_digest *expected = digest_of(&fx, good.index);
    ck_assert_int_eq(get(first, &good, expected), SP_OK);
    /* None, a changed one, one for another worker, for another time, for other weights. */
    struct proto_chunk_get bad = good;
    bad.ticket = (struct proto_bytes){0};
    ck_assert_int_eq(get(first, &bad, expected), SP_EDENIED);
    changed = ticket;
    changed.bytes[7] ^= 1;
    bad.ticket = (struct proto_bytes){changed.bytes, SP_DIGEST_BYTES};
    ck_assert_int_eq(get(first, &bad, expected), SP_EDENIED);
    ck_assert_int_eq(get(second, &good, expected), SP_EDENIED);
    bad = good;
    bad.expires_ms += 1000000;
    ck_assert_int_eq(get(first, &bad, expected), SP_EDENIED);
    bad = good;
    bad.manifest.bytes[0] ^= 1;
    ck_assert_int_eq(get(first, &bad, expected), SP_EDENIED);
    /* The right ticket for weights that are not there, and for a chunk that is none. */
    bad = good;
    bad.checkpoint.bytes[0] ^= 1;
    ck_assert_int_eq(get(first, &bad, expected), SP_ENOTFOUND);
    bad = good;
    bad.index = UINT32_MAX;
    ck_assert_int_eq(get(first, &bad, expected), SP_ENOTFOUND);
    /* Nothing but chunks is given there. */
    struct proto_blob_get blob = {.sha256 = *expected};
    struct proto_admin admin = {.verb = "status", .run = "", .args = ""};
    const void *body = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(proto_call(first, PROTO_BLOB_GET, &blob, 0, &body, &err), SP_EDENIED);
    ck_assert_int_eq(proto_call(first, PROTO_ADMIN, &admin, 0, &body, &err), SP_EDENIED);
    /* Over: 60 s of the coordinator's, which are 3 s here. */
    sp_sleep_ms(3500);
    ck_assert_int_eq(get(first, &good, expected), SP_EDENIED);
    proto_client_free(first);
    proto_client_free(second);
    fixture_close(&fx);
}
END_TEST

/* With TLS: a certificate of our authority is wanted before anything is read. */
START_TEST(test_strangers_at_a_givers_port)
{
    struct tls_cluster tls = {0};
    char url[64], more[160], paths[3][128], byte;
    int port = free_port();
    snprintf(url, sizeof(url), "tls+tcp://127.0.0.1:%d", port);
    snprintf(more, sizeof(more), "[weights]\nserve = %s\nserve_name = generator.test\n", url);
    tls_cluster_open(&tls);
    pid_t generator = tls_cluster_start_worker(&tls, GENERATOR, "generator", more);
    int fd = dial(port);
    static const char greeting[] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    ck_assert_int_eq(send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL), sizeof(greeting));
    shutdown(fd, SHUT_WR);
    ssize_t n = read(fd, &byte, 1); /* at most a TLS alert, never a greeting */
    ck_assert(n <= 0 || byte == 0x15);
    close(fd);
    static const char *const files[] = {"certs/ca.pem", "certs/trainer.test.pem",
                                        "others/trainer.test.pem"};
    for (int i = 0; i < 3; i++)
        snprintf(paths[i], sizeof(paths[i]), "%s/%s", tls.cluster.dir, files[i]);
    for (int stranger = 0; stranger < 2; stranger++) {
        struct proto_client_options options = {.url = url,
                                               .tls = {.ca_file = paths[0],
                                                       .cert_file = paths[1 + stranger],
                                                       .server_name = "generator.test"},
                                               .request_ms = 5000};
        struct proto_client *client = NULL;
        struct proto_chunk_get ask = {0};
        const void *body = NULL;
        struct sp_error err = {0};
        ck_assert_msg(proto_client_open(&options, &client, &err) == SP_OK, "%s", err.text);
        ck_assert_int_eq(proto_call(client, PROTO_CHUNK_GET, &ask, 0, &body, &err), SP_EDENIED);
        const char *expected = stranger ? "TLS handshake failed" : "the ticket is not for";
        ck_assert_msg(strstr(err.text, expected) != NULL, "%s", err.text);
        proto_client_free(client);
    }
    cluster_end(&generator, SIGKILL);
    cluster_close(&tls.cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/blobs");
    TCase *c = tcase_create("blobs");
    tcase_set_timeout(c, 180);
    tcase_add_test(c, test_one_host_fetches_once);
    tcase_add_test(c, test_generators_give_to_one_another);
    tcase_add_test(c, test_a_liar_is_refused_and_dropped);
    tcase_add_test(c, test_a_dead_source);
    tcase_add_test(c, test_tickets);
    tcase_add_test(c, test_strangers_at_a_givers_port);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

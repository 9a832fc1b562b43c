/* Mutual TLS on loopback, with certificates made here by openssl. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "proto/rpc.h"
#include "tests/unit/check_main.h"
#include "tests/unit/proto/rpc_fixture.h"

struct secure {
    struct fixture f;
    char *ca, *node, *other_ca, *stranger;
};

static void setup(struct secure *s, bool start)
{
    fixture_dir(&s->f);
    fixture_certificates(&s->f);
    s->ca = fixture_path(&s->f, "ca.pem");
    s->node = fixture_path(&s->f, "node.pem");
    s->other_ca = fixture_path(&s->f, "other-ca.pem");
    s->stranger = fixture_path(&s->f, "stranger.pem");
    s->f.tls = (struct proto_tls){.ca_file = s->ca, .cert_file = s->node};
    if (start)
        fixture_start(&s->f);
}

static void teardown(struct secure *s, bool stop)
{
    if (stop)
        fixture_stop(&s->f);
    fixture_remove(&s->f);
    free(s->ca);
    free(s->node);
    free(s->other_ca);
    free(s->stranger);
}

static enum sp_err hello_with(const struct secure *s, const char *ca, const char *cert,
                              const char *name, struct sp_error *err)
{
    struct proto_client *client = NULL;
    const struct proto_client_options options = {
        .url = s->f.url,
        .tls = {.ca_file = ca, .cert_file = cert, .server_name = name},
        .connect_ms = 3000,
        .request_ms = 3000,
    };
    enum sp_err rc = proto_client_open(&options, &client, err);
    const struct proto_hello hello = {.instance = 41};
    const void *reply = NULL;
    if (rc == SP_OK)
        rc = proto_call(client, PROTO_HELLO, &hello, 0, &reply, err);
    if (rc == SP_OK)
        ck_assert_uint_eq(((const struct proto_hello_reply *)reply)->worker_id, 42);
    proto_client_free(client);
    return rc;
}

/* A client with our certificate; requests give up after request_ms, 0: the default. */
static struct proto_client *open_ours(const struct secure *s, int64_t request_ms)
{
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    const struct proto_client_options options = {
        .url = s->f.url,
        .tls = {.ca_file = s->ca, .cert_file = s->node, .server_name = "localhost"},
        .request_ms = request_ms,
        .backoff_min_ms = 10,
        .backoff_max_ms = 100,
    };
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_OK);
    return client;
}

START_TEST(peers_of_one_ca_talk)
{
    struct secure s;
    setup(&s, true);
    struct sp_error err = {0};
    enum sp_err rc = hello_with(&s, s.ca, s.node, "localhost", &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    teardown(&s, true);
}
END_TEST

START_TEST(a_chunk_passes_and_a_restart_is_survived)
{
    struct secure s;
    setup(&s, true);
    struct sp_error err = {0};
    struct proto_client *client = open_ours(&s, 0);
    struct proto_blob_get get = {0};
    uint32_t bytes = SP_MAX_CHUNK;
    memcpy(get.sha256.bytes, &bytes, sizeof(bytes));
    for (int round = 0; round < 2; round++) {
        const void *reply;
        enum sp_err rc = proto_call(client, PROTO_BLOB_GET, &get, 10000, &reply, &err);
        ck_assert_msg(rc == SP_OK, "%s", err.text);
        ck_assert_uint_eq(((const struct proto_blob_get_reply *)reply)->data.length, bytes);
        if (round == 0) {
            fixture_stop(&s.f);
            fixture_start(&s.f);
        }
    }
    proto_client_free(client);
    teardown(&s, true);
}
END_TEST

struct caller {
    struct secure *s;
    atomic_bool *stop;
    atomic_int calls;
};

/* Whole chunks, so that one is coming in at most times. */
static void *call_on(void *argument)
{
    struct caller *caller = argument;
    struct sp_error err = {0};
    struct proto_client *client = open_ours(caller->s, 15000);
    uint8_t *data = sp_xalloc(SP_MAX_CHUNK);
    struct proto_blob_put put = {.data = {.data = data, .length = SP_MAX_CHUNK}};
    sp_sha256_of(data, SP_MAX_CHUNK, &put.sha256);
    while (!atomic_load(caller->stop)) {
        const void *reply;
        enum sp_err rc = proto_call(client, PROTO_BLOB_PUT, &put, 25000, &reply, &err);
        ck_assert_msg(rc == SP_OK, "%s", err.text);
        ck_assert(((const struct proto_blob_put_reply *)reply)->existed);
        atomic_fetch_add(&caller->calls, 1);
    }
    free(data);
    proto_client_free(client);
    return NULL;
}

/* Closing connections in the middle of a message hangs the library below. */
START_TEST(new_files_under_traffic_lose_no_call)
{
    struct secure s;
    setup(&s, true);
    atomic_bool stop = false;
    struct caller callers[3];
    pthread_t threads[SP_COUNT(callers)];
    for (size_t i = 0; i < SP_COUNT(callers); i++) {
        callers[i] = (struct caller){.s = &s, .stop = &stop};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, call_on, &callers[i]), 0);
    }
    for (int round = 0; round < 8; round++) {
        int before[SP_COUNT(callers)];
        for (size_t i = 0; i < SP_COUNT(callers); i++)
            before[i] = atomic_load(&callers[i].calls);
        fixture_reload(&s.f);
        /* Two more calls each: one that was under way, and one on a new connection. */
        for (size_t i = 0; i < SP_COUNT(callers); i++)
            while (atomic_load(&callers[i].calls) < before[i] + 2)
                sp_sleep_ms(1);
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < SP_COUNT(callers); i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    teardown(&s, true);
}
END_TEST

START_TEST(a_new_authority_ends_old_connections)
{
    struct secure s;
    setup(&s, true);
    struct sp_error err = {0};
    const struct proto_hello hello = {.instance = 1};
    const void *reply;
    struct proto_client *client = open_ours(&s, 1500);
    ck_assert_int_eq(proto_call(client, PROTO_HELLO, &hello, 0, &reply, &err), SP_OK);
    int requests = atomic_load(&s.f.requests);
    s.f.tls = (struct proto_tls){.ca_file = s.other_ca, .cert_file = s.stranger};
    fixture_reload(&s.f);
    ck_assert_int_ne(proto_call(client, PROTO_HELLO, &hello, 0, &reply, &err), SP_OK);
    ck_assert_int_eq(hello_with(&s, s.ca, s.node, "localhost", &err), SP_EDENIED);
    ck_assert_int_eq(atomic_load(&s.f.requests), requests);
    ck_assert_int_eq(hello_with(&s, s.other_ca, s.stranger, "localhost", &err), SP_OK);
    proto_client_free(client);
    teardown(&s, true);
}
END_TEST

START_TEST(a_wrong_server_name_is_refused)
{
    struct secure s;
    setup(&s, true);
    struct sp_error err = {0};
    ck_assert_int_eq(hello_with(&s, s.ca, s.node, "coordinator.example", &err), SP_EDENIED);
    ck_assert_msg(strstr(err.text, "coordinator.example") != NULL, "%s", err.text);
    ck_assert_int_eq(atomic_load(&s.f.requests), 0);
    teardown(&s, true);
}
END_TEST

START_TEST(a_server_of_another_ca_is_refused)
{
    struct secure s;
    setup(&s, true);
    struct sp_error err = {0};
    ck_assert_int_eq(hello_with(&s, s.other_ca, s.stranger, "localhost", &err), SP_EDENIED);
    ck_assert_msg(strstr(err.text, "not signed by our CA") != NULL, "%s", err.text);
    teardown(&s, true);
}
END_TEST

START_TEST(a_client_of_another_ca_is_refused)
{
    struct secure s;
    setup(&s, true);
    struct sp_error err = {0};
    ck_assert_int_eq(hello_with(&s, s.ca, s.stranger, "localhost", &err), SP_EDENIED);
    ck_assert_msg(strstr(err.text, "the server's CA did not sign our certificate") != NULL, "%s",
                  err.text);
    ck_assert_int_eq(atomic_load(&s.f.requests), 0);
    /* The refusal hurts nobody else. */
    ck_assert_int_eq(hello_with(&s, s.ca, s.node, "localhost", &err), SP_OK);
    teardown(&s, true);
}
END_TEST

START_TEST(plain_tcp_does_not_get_in)
{
    struct secure s;
    setup(&s, true);
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    char url[160];
    snprintf(url, sizeof(url), "%s", strstr(s.f.url, "tcp://"));
    const struct proto_client_options options = {.url = url, .connect_ms = 500, .request_ms = 500};
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_OK);
    const struct proto_hello hello = {.instance = 1};
    const void *reply;
    ck_assert_int_ne(proto_call(client, PROTO_HELLO, &hello, 0, &reply, &err), SP_OK);
    ck_assert_int_eq(atomic_load(&s.f.requests), 0);
    proto_client_free(client);
    teardown(&s, true);
}
END_TEST

START_TEST(an_address_needs_a_server_name)
{
    struct secure s;
    setup(&s, false);
    struct sp_error err = {0};
    ck_assert_int_eq(hello_with(&s, s.ca, s.node, NULL, &err), SP_EINVAL);
    ck_assert_msg(strstr(err.text, "set the TLS server name") != NULL, "%s", err.text);
    teardown(&s, false);
}
END_TEST

START_TEST(bad_files_are_named)
{
    struct secure s;
    setup(&s, false);
    struct sp_error err = {0};
    ck_assert_int_eq(hello_with(&s, "/nonexistent/ca.pem", s.node, "localhost", &err),
                     SP_ENOTFOUND);
    ck_assert_msg(strstr(err.text, "TLS CA file /nonexistent/ca.pem") != NULL, "%s", err.text);
    char *empty = fixture_path(&s.f, "empty.pem");
    ck_assert_int_eq(sp_write_file_durable(empty, "nothing\n", 8, 0600, NULL), SP_OK);
    ck_assert_int_ne(hello_with(&s, empty, s.node, "localhost", &err), SP_OK);
    ck_assert_msg(strstr(err.text, empty) != NULL, "%s", err.text);
    ck_assert_int_ne(hello_with(&s, s.ca, empty, "localhost", &err), SP_OK);
    ck_assert_msg(strstr(err.text, empty) != NULL, "%s", err.text);
    ck_assert_int_ne(hello_with(&s, s.ca, s.ca, "localhost", &err), SP_OK); /* has no key */
    ck_assert_msg(strstr(err.text, s.ca) != NULL, "%s", err.text);
    free(empty);
    teardown(&s, false);
}
END_TEST

static void *greet_like_a_web_server(void *argument)
{
    int fd = accept(*(int *)argument, NULL, NULL);
    static const char text[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    ck_assert_int_eq(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    sp_sleep_ms(200);
    close(fd);
    return NULL;
}

START_TEST(something_else_is_recognized)
{
    int port = fixture_free_port();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, greet_like_a_web_server, &listener), 0);
    char url[64];
    snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", port);
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    const struct proto_client_options options = {.url = url};
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_OK);
    const struct proto_hello hello = {.instance = 1};
    const void *reply;
    ck_assert_int_eq(proto_call(client, PROTO_HELLO, &hello, -1, &reply, &err), SP_EINVAL);
    ck_assert_msg(strstr(err.text, "what answers there is no coordinator") != NULL, "%s", err.text);
    proto_client_free(client);
    pthread_join(thread, NULL);
    close(listener);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("rpc_tls");
    TCase *t = tcase_create("tls");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, peers_of_one_ca_talk);
    tcase_add_test(t, a_chunk_passes_and_a_restart_is_survived);
    tcase_add_test(t, new_files_under_traffic_lose_no_call);
    tcase_add_test(t, a_new_authority_ends_old_connections);
    tcase_add_test(t, a_wrong_server_name_is_refused);
    tcase_add_test(t, a_server_of_another_ca_is_refused);
    tcase_add_test(t, a_client_of_another_ca_is_refused);
    tcase_add_test(t, plain_tcp_does_not_get_in);
    tcase_add_test(t, an_address_needs_a_server_name);
    tcase_add_test(t, bad_files_are_named);
    tcase_add_test(t, something_else_is_recognized);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

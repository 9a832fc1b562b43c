#include "proto/rpc.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"
#include "tests/unit/proto/rpc_fixture.h"

static struct proto_client *open_client(const struct fixture *f)
{
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    const struct proto_client_options options = {
        .url = f->url,
        .token = "gen-1.secret",
        .request_ms = 5000,
        .connect_ms = 2000,
        .backoff_min_ms = 10,
        .backoff_max_ms = 50,
    };
    enum sp_err rc = proto_client_open(&options, &client, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    return client;
}

static void say_hello(struct proto_client *client, uint64_t instance, int64_t give_up_ms)
{
    struct sp_error err = {0};
    const void *reply = NULL;
    const struct proto_hello hello = {.instance = instance, .name = "gen-1"};
    enum sp_err rc = proto_call(client, PROTO_HELLO, &hello, give_up_ms, &reply, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    const struct proto_hello_reply *answer = reply;
    ck_assert_uint_eq(answer->worker_id, instance + 1);
    ck_assert_str_eq(answer->version, "gen-1.secret");
}

START_TEST(a_request_gets_its_reply)
{
    struct fixture f;
    fixture_dir(&f);
    if (_i == 1)
        snprintf(f.url, sizeof(f.url), "tcp://127.0.0.1:%d", fixture_free_port());
    fixture_start(&f);
    struct proto_client *client = open_client(&f);
    for (uint64_t i = 0; i < 100; i++)
        say_hello(client, i, 0);
    ck_assert_int_eq(atomic_load(&f.requests), 100);
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

START_TEST(a_local_socket_is_private)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    struct stat st;
    ck_assert_int_eq(stat(f.url + 6, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0600);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

START_TEST(an_error_reply_keeps_code_and_text)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    struct proto_client *client = open_client(&f);
    struct sp_error err = {0};
    const void *reply = "untouched";
    const struct proto_admin admin = {.verb = "pause"};
    ck_assert_int_eq(proto_call(client, PROTO_ADMIN, &admin, -1, &reply, &err), SP_ESTATE);
    ck_assert_str_eq(err.text, "cannot pause");
    ck_assert_str_eq(reply, "untouched");
    ck_assert_int_eq(atomic_load(&f.requests), 1); /* final: never tried again */
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

START_TEST(unavailable_is_tried_again)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    struct proto_client *client = open_client(&f);
    struct sp_error err = {0};
    const void *reply;
    const struct proto_renew renew = {.worker_id = 1};
    atomic_store(&f.busy, 3);
    ck_assert_int_eq(proto_call(client, PROTO_RENEW, &renew, 5000, &reply, &err), SP_OK);
    ck_assert_int_eq(atomic_load(&f.requests), 4);
    atomic_store(&f.busy, 1);
    ck_assert_int_eq(proto_call(client, PROTO_RENEW, &renew, 0, &reply, &err), SP_EUNAVAIL);
    ck_assert_str_eq(err.text, "busy");
    atomic_store(&f.busy, 1000000);
    int64_t start = sp_now_ms();
    ck_assert_int_eq(proto_call(client, PROTO_RENEW, &renew, 300, &reply, &err), SP_EUNAVAIL);
    ck_assert_int_le(sp_now_ms() - start, 3000);
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

START_TEST(chunks_pass_and_oversize_is_refused)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    struct proto_client *client = open_client(&f);
    struct sp_error err = {0};
    const void *reply;
    struct proto_blob_get get = {0};
    uint32_t bytes = SP_MAX_CHUNK;
    memcpy(get.sha256.bytes, &bytes, sizeof(bytes));
    ck_assert_int_eq(proto_call(client, PROTO_BLOB_GET, &get, 0, &reply, &err), SP_OK);
    const struct proto_blob_get_reply *blob = reply;
    ck_assert_uint_eq(blob->data.length, bytes);
    uint8_t *expected = sp_xalloc(bytes);
    memset(expected, 0xab, bytes);
    ck_assert(memcmp(blob->data.data, expected, bytes) == 0);
    free(expected);
    bytes = SP_MAX_MESSAGE + 1;
    memcpy(get.sha256.bytes, &bytes, sizeof(bytes));
    ck_assert_int_eq(proto_call(client, PROTO_BLOB_GET, &get, 0, &reply, &err), SP_ELIMIT);

    uint8_t *data = sp_xalloc(SP_MAX_MESSAGE);
    struct proto_blob_put put = {.data = {.data = data, .length = SP_MAX_CHUNK}};
    sp_sha256_of(data, SP_MAX_CHUNK, &put.sha256);
    ck_assert_int_eq(proto_call(client, PROTO_BLOB_PUT, &put, 0, &reply, &err), SP_OK);
    ck_assert(((const struct proto_blob_put_reply *)reply)->existed);
    int before = atomic_load(&f.requests);
    put.data.length = SP_MAX_MESSAGE;
    ck_assert_int_eq(proto_call(client, PROTO_BLOB_PUT, &put, -1, &reply, &err), SP_ELIMIT);
    ck_assert_int_eq(atomic_load(&f.requests), before); /* refused before it was sent */
    say_hello(client, 5, 0);
    free(data);
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

START_TEST(nobody_listening_is_told_at_once)
{
    struct fixture f;
    fixture_dir(&f);
    if (_i == 1)
        snprintf(f.url, sizeof(f.url), "tcp://127.0.0.1:%d", fixture_free_port());
    struct proto_client *client = open_client(&f);
    struct sp_error err = {0};
    const void *reply;
    const struct proto_renew renew = {0};
    int64_t start = sp_now_ms();
    ck_assert_int_eq(proto_call(client, PROTO_RENEW, &renew, 0, &reply, &err), SP_EUNAVAIL);
    ck_assert_int_lt(sp_now_ms() - start, 1000);
    ck_assert_msg(strstr(err.text, f.url) && strstr(err.text, "refused"), "%s", err.text);
    start = sp_now_ms();
    ck_assert_int_eq(proto_call(client, PROTO_RENEW, &renew, 400, &reply, &err), SP_EUNAVAIL);
    ck_assert_int_ge(sp_now_ms() - start, 300);
    proto_client_free(client);
    fixture_remove(&f);
}
END_TEST

struct interrupter {
    struct fixture *f;
    struct proto_client *client;
};

static void *interrupt_when_parked(void *argument)
{
    struct interrupter *i = argument;
    while (atomic_load(&i->f->parked_now) == 0)
        sp_sleep_ms(5);
    proto_client_interrupt(i->client);
    return NULL;
}

START_TEST(an_interrupt_ends_one_call)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    struct proto_client *client = open_client(&f);
    struct interrupter context = {&f, client};
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, interrupt_when_parked, &context), 0);
    struct sp_error err = {0};
    const void *reply;
    const struct proto_lease lease = {.wait_ms = 20000};
    ck_assert_int_eq(proto_call(client, PROTO_LEASE, &lease, -1, &reply, &err), SP_ECANCELED);
    pthread_join(thread, NULL);
    say_hello(client, 1, 0);        /* the next one is not touched */
    proto_client_interrupt(client); /* before a call: that call ends */
    ck_assert_int_eq(proto_call(client, PROTO_LEASE, &lease, -1, &reply, &err), SP_ECANCELED);
    say_hello(client, 2, 0);
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

START_TEST(a_silent_server_times_out)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    const struct proto_client_options options = {.url = f.url, .request_ms = 150};
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_OK);
    const void *reply;
    struct proto_lease lease = {.wait_ms = 0};
    int64_t start = sp_now_ms();
    ck_assert_int_eq(proto_call(client, PROTO_LEASE, &lease, 0, &reply, &err), SP_ETIMEOUT);
    ck_assert_int_ge(sp_now_ms() - start, 140);
    /* A request that asks to be held is given the time that it asks for. */
    lease.wait_ms = 400;
    start = sp_now_ms();
    ck_assert_int_eq(proto_call(client, PROTO_LEASE, &lease, 0, &reply, &err), SP_ETIMEOUT);
    ck_assert_int_ge(sp_now_ms() - start, 540);
    ck_assert_msg(strstr(err.text, "no reply within 550 ms"), "%s", err.text);
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

static void *start_later(void *argument)
{
    sp_sleep_ms(300);
    fixture_start(argument);
    return NULL;
}

START_TEST(a_server_may_come_late_and_come_back)
{
    struct fixture f;
    fixture_dir(&f);
    struct proto_client *client = open_client(&f);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, start_later, &f), 0);
    say_hello(client, 1, -1);
    pthread_join(thread, NULL);
    for (uint64_t i = 0; i < 3; i++) {
        fixture_stop(&f);
        ck_assert_int_eq(pthread_create(&thread, NULL, start_later, &f), 0);
        say_hello(client, i, 10000);
        pthread_join(thread, NULL);
    }
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

#define CLIENTS 12
#define CALLS 50

struct swarm_member {
    struct fixture *f;
    uint64_t number;
};

static void *call_many(void *argument)
{
    struct swarm_member *member = argument;
    struct proto_client *client = open_client(member->f);
    for (uint64_t i = 0; i < CALLS; i++)
        say_hello(client, member->number << 32 | i, 0);
    proto_client_free(client);
    return NULL;
}

START_TEST(many_clients_share_few_slots)
{
    struct fixture f;
    fixture_dir(&f);
    f.parallel = 3;
    fixture_start(&f);
    pthread_t threads[CLIENTS];
    struct swarm_member members[CLIENTS];
    for (uint64_t i = 0; i < CLIENTS; i++) {
        members[i] = (struct swarm_member){&f, i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, call_many, &members[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(atomic_load(&f.requests), CLIENTS * CALLS);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

struct lease_call {
    struct proto_client *client;
    uint64_t request_id, lease_id;
};

static void *ask_for_lease(void *argument)
{
    struct lease_call *call = argument;
    struct sp_error err = {0};
    const void *reply;
    const struct proto_lease lease = {
        .request_id = call->request_id, .wait_ms = 20000, .run = "run"};
    enum sp_err rc = proto_call(call->client, PROTO_LEASE, &lease, 0, &reply, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    const struct proto_lease_reply *answer = reply;
    ck_assert_str_eq(answer->run, "run");
    call->lease_id = answer->lease_id;
    return NULL;
}

START_TEST(held_requests_are_answered_later_even_by_a_closing_server)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    pthread_t threads[5];
    struct lease_call calls[5];
    for (uint64_t i = 0; i < 5; i++) {
        calls[i] = (struct lease_call){open_client(&f), i, 0};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ask_for_lease, &calls[i]), 0);
    }
    while (atomic_load(&f.parked_now) < 5)
        sp_sleep_ms(5);
    struct proto_client *other = open_client(&f);
    say_hello(other, 1, 0); /* others pass while those wait */
    proto_client_free(other);
    if (_i == 0)
        fixture_release(&f);
    else
        fixture_stop(&f);
    for (uint64_t i = 0; i < 5; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_uint_eq(calls[i].lease_id, i + 1);
        proto_client_free(calls[i].client);
    }
    if (_i == 0)
        fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

/* Raw bytes to the server through nng alone; the reply's envelope. */
static void send_raw(nng_socket socket, const void *data, size_t bytes, struct sp_arena *arena,
                     struct proto_envelope *ret)
{
    ck_assert_int_eq(nng_send(socket, (void *)(uintptr_t)data, bytes, 0), 0);
    nng_msg *message;
    ck_assert_int_eq(nng_recvmsg(socket, &message, 0), 0);
    void *body;
    struct sp_error err = {0};
    ck_assert_int_eq(
        proto_decode(nng_msg_body(message), nng_msg_len(message), arena, ret, &body, &err), SP_OK);
    nng_msg_free(message);
    ck_assert(ret->status == SP_OK || body == NULL);
}

START_TEST(malformed_bytes_get_an_error_reply)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    nng_socket socket;
    ck_assert_int_eq(nng_req0_open(&socket), 0);
    ck_assert_int_eq(nng_socket_set_ms(socket, NNG_OPT_RECVTIMEO, 5000), 0);
    ck_assert_int_eq(nng_dial(socket, f.url, NULL, 0), 0);
    struct sp_arena *arena = sp_arena_new(1024, 1 << 20);
    struct proto_envelope envelope;
    send_raw(socket, "\xc1garbage", 8, arena, &envelope);
    ck_assert_int_eq(envelope.status, SP_EFORMAT);
    ck_assert_msg(strstr(envelope.text, "malformed request"), "%s", envelope.text);
    send_raw(socket, "", 0, arena, &envelope);
    ck_assert_int_eq(envelope.status, SP_EFORMAT);
    /* A reply is no request. */
    struct sp_buf bytes = SP_BUF_INIT;
    const struct proto_renew_reply body = {0};
    proto_encode(&(struct proto_envelope){.version = PROTO_VERSION, .type = PROTO_RENEW_REPLY},
                 &body, &bytes);
    send_raw(socket, bytes.data, bytes.length, arena, &envelope);
    ck_assert_int_eq(envelope.status, SP_EFORMAT);
    sp_buf_clear(&bytes);
    const struct proto_renew request = {0};
    proto_encode(&(struct proto_envelope){.version = 99, .type = PROTO_RENEW}, &request, &bytes);
    send_raw(socket, bytes.data, bytes.length, arena, &envelope);
    ck_assert_int_eq(envelope.status, SP_EVERSION);
    ck_assert_int_eq(atomic_load(&f.requests), 0);
    /* One newer is served, with a field that this version does not know. */
    const struct proto_hello hello = {.role = PROTO_ROLE_GENERATOR, .name = "newer"};
    sp_buf_clear(&bytes);
    proto_encode(&(struct proto_envelope){.version = PROTO_VERSION + 1, .type = PROTO_HELLO},
                 &hello, &bytes);
    bytes.data[0]++; /* a map of one more */
    sp_buf_append(&bytes, "\xa5later\x93\x01\x02\x03", 10);
    send_raw(socket, bytes.data, bytes.length, arena, &envelope);
    ck_assert_int_eq(envelope.status, SP_OK);
    ck_assert_int_eq(envelope.type, PROTO_HELLO_REPLY);
    ck_assert_uint_eq(envelope.version, PROTO_VERSION);
    sp_buf_deinit(&bytes);
    sp_arena_free(arena);
    nng_close(socket);
    struct proto_client *client = open_client(&f);
    say_hello(client, 3, 0);
    proto_client_free(client);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

static bool always(void *context)
{
    return true;
}

START_TEST(cancelled_stops_the_retries)
{
    struct fixture f;
    fixture_dir(&f);
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    const struct proto_client_options options = {.url = f.url, .cancelled = always};
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_OK);
    const void *reply;
    const struct proto_renew renew = {0};
    ck_assert_int_eq(proto_call(client, PROTO_RENEW, &renew, -1, &reply, &err), SP_ECANCELED);
    proto_client_free(client);
    fixture_remove(&f);
}
END_TEST

START_TEST(an_address_in_use_is_refused)
{
    struct fixture f;
    fixture_dir(&f);
    fixture_start(&f);
    uv_loop_t loop;
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    struct proto_server *server;
    struct sp_error err = {0};
    ck_assert_int_eq(proto_server_start(&loop, f.url, NULL, 2, NULL, NULL, &server, &err),
                     SP_ESTATE);
    ck_assert_msg(strstr(err.text, f.url), "%s", err.text);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

static const struct {
    const char *url, *expected;
} bad_urls[] = {
    {"", "expected ipc://PATH or tls+tcp://HOST:PORT"},
    {"coordinator:7070", "expected ipc://PATH"},
    {"http://localhost:7070", "expected ipc://PATH"},
    {"ipc://", "1 to 107 bytes, here 0"},
    {"ipc:///tmp/"
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
     "choose a shorter directory"},
    {"tcp://10.1.2.3:7070", "for loopback only"},
    {"tcp://127.0.0.1", "expected tcp://host:port"},
    {"tcp://127.0.0.1:99999", "expected tcp://host:port"},
    {"tcp://127.0.0.1:7o70", "expected tcp://host:port"},
    {"tcp://127.evil.example:7070", "for loopback only"},
    {"tls+tcp://coordinator", "expected tls+tcp://host:port"},
    {"tls+tcp://coordinator:7070", "needs a CA file"},
};

START_TEST(bad_addresses_are_explained)
{
    struct proto_client *client = NULL;
    struct sp_error err = {0};
    const struct proto_client_options options = {.url = bad_urls[_i].url};
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_EINVAL);
    ck_assert_msg(strstr(err.text, bad_urls[_i].expected) != NULL, "%s", err.text);
    ck_assert_ptr_null(client);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("rpc");
    TCase *t = tcase_create("ipc");
    tcase_set_timeout(t, 20);
    tcase_add_loop_test(t, a_request_gets_its_reply, 0, 2);
    tcase_add_test(t, a_local_socket_is_private);
    tcase_add_test(t, an_error_reply_keeps_code_and_text);
    tcase_add_test(t, unavailable_is_tried_again);
    tcase_add_test(t, chunks_pass_and_oversize_is_refused);
    tcase_add_loop_test(t, nobody_listening_is_told_at_once, 0, 2);
    tcase_add_test(t, an_interrupt_ends_one_call);
    tcase_add_test(t, a_silent_server_times_out);
    tcase_add_test(t, a_server_may_come_late_and_come_back);
    tcase_add_test(t, many_clients_share_few_slots);
    tcase_add_loop_test(t, held_requests_are_answered_later_even_by_a_closing_server, 0, 2);
    tcase_add_test(t, malformed_bytes_get_an_error_reply);
    tcase_add_test(t, cancelled_stops_the_retries);
    tcase_add_test(t, an_address_in_use_is_refused);
    tcase_add_loop_test(t, bad_addresses_are_explained, 0, (int)SP_COUNT(bad_urls));
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* Peers that connect to an ipc server and are gone at once must not stop it from taking others. */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "tests/unit/check_main.h"
#include "tests/unit/proto/rpc_fixture.h"

/* nng loses what belonged to a listener that has died: once per broken-off peer, a few kilobytes.
 */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng.so\n";
}

static void connect_and_go(const struct fixture *f, int times)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = f->url + strlen("ipc://");
    ck_assert_uint_lt(strlen(path), sizeof(address.sun_path));
    strcpy(address.sun_path, path);
    for (int i = 0; i < times; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(fd, 0);
        /* Refused for the moment between two listeners. */
        (void)!connect(fd, (struct sockaddr *)&address, sizeof(address));
        close(fd);
    }
}

static void say_hello(const struct fixture *f, struct proto_client *client)
{
    struct sp_error err = {0};
    struct proto_hello request = {.role = PROTO_ROLE_GENERATOR, .name = "x", .instance = 7};
    const void *reply = NULL;
    enum sp_err rc = proto_call(client, PROTO_HELLO, &request, 10000, &reply, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    ck_assert_uint_eq(((const struct proto_hello_reply *)reply)->worker_id, 8);
}

static struct proto_client *new_client(const struct fixture *f)
{
    struct sp_error err = {0};
    struct proto_client *client = NULL;
    /* Who connects between the listener's end and the next one must not wait for long. */
    struct proto_client_options options = {
        .url = f->url, .token = "", .request_ms = 5000, .backoff_min_ms = 5, .backoff_max_ms = 50};
    ck_assert_int_eq(proto_client_open(&options, &client, &err), SP_OK);
    return client;
}

START_TEST(test_peers_that_break_off)
{
    struct fixture f = {.parallel = 16};
    fixture_dir(&f);
    fixture_start(&f);
    struct proto_client *before = new_client(&f);
    say_hello(&f, before);
    for (int round = 0; round < 3; round++) {
        connect_and_go(&f, 200);
        int64_t start = sp_now_ms();
        struct proto_client *after = new_client(&f);
        say_hello(&f, after);
        say_hello(&f, before);
        ck_assert_int_lt(sp_now_ms() - start, 4000);
        proto_client_free(after);
    }
    proto_client_free(before);
    fixture_stop(&f);
    fixture_remove(&f);
}
END_TEST

/* The request from within is nobody's mistake, and its end is no reason for another one at once. */
START_TEST(test_questions_do_not_go_on_for_ever)
{
    struct fixture f = {.parallel = 16};
    fixture_dir(&f);
    fixture_start(&f);
    struct proto_client *client = new_client(&f);
    say_hello(&f, client);
    proto_client_free(client);
    sp_sleep_ms(4000);
    fixture_stop(&f);
    ck_assert_msg(f.questions >= 1 && f.questions <= 6, "%llu", (unsigned long long)f.questions);
    ck_assert_uint_eq(f.malformed, 0);
    fixture_remove(&f);
}
END_TEST

/* A server that closes while it is looking into its listener. */
START_TEST(test_close_meanwhile)
{
    for (int i = 0; i < 5; i++) {
        struct fixture f = {.parallel = 4};
        fixture_dir(&f);
        fixture_start(&f);
        connect_and_go(&f, 50);
        sp_sleep_ms(i * 70);
        fixture_stop(&f);
        fixture_remove(&f);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("listener_watch");
    TCase *t = tcase_create("listener_watch");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, test_peers_that_break_off);
    tcase_add_test(t, test_questions_do_not_go_on_for_ever);
    tcase_add_test(t, test_close_meanwhile);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

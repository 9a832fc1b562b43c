/* What administrators meet: services whose coordinator is away, commands that mean another
 * coordinator, two people at once, long names. Real programs. */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 30
#define TOGETHER 6

/* ---- systemd's side of sd_notify ---- */

static int notify_open(const struct cluster *cluster, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", cluster->dir, name);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    return fd;
}

/* Waits for a message with `what` in it. */
static void must_hear(int fd, const char *what)
{
    int64_t end_ms = sp_now_ms() + 1000 * (int64_t)SECONDS;
    for (;;) {
        char text[1024];
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int64_t left = end_ms - sp_now_ms();
        ck_assert_msg(left > 0, "nothing with \"%s\"", what);
        if (poll(&wait, 1, (int)left) <= 0)
            continue;
        ssize_t n = recv(fd, text, sizeof(text) - 1, 0);
        text[n > 0 ? n : 0] = '\0';
        if (strstr(text, what) != NULL)
            return;
    }
}

static void forget_heard(int fd)
{
    char text[1024];
    while (recv(fd, text, sizeof(text), MSG_DONTWAIT) >= 0)
        ;
}

static void wait_for_workers(struct cluster *cluster, size_t count)
{
    int64_t end_ms = sp_now_ms() + 1000 * (int64_t)SECONDS;
    for (size_t alive = 0; alive < count;) {
        json_t *reply = cluster_ctl_ok(cluster, "workers", NULL);
        const json_t *workers = json_object_get(reply, "workers");
        alive = 0;
        for (size_t i = 0; i < json_array_size(workers); i++)
            alive += json_is_true(json_object_get(json_array_get(workers, i), "alive"));
        json_decref(reply);
        ck_assert_msg(alive >= count || sp_now_ms() < end_ms, "%zu workers", alive);
        sp_sleep_ms(20);
    }
}

/* The services are up and alive for the watchdog while their coordinator is away, at first and
 * later; systemd would end them otherwise, again and again. */
START_TEST(test_workers_whose_coordinator_is_away)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_end(&cluster.coordinator, SIGKILL);
    int generator = notify_open(&cluster, "notify-generator");
    cluster_start_generator(&cluster, 0);
    int trainer = notify_open(&cluster, "notify-trainer");
    cluster_start_trainer(&cluster, 0);
    unsetenv("NOTIFY_SOCKET");
    const int both[] = {generator, trainer};
    for (int i = 0; i < 2; i++) {
        must_hear(both[i], "STATUS=waiting for the coordinator");
        must_hear(both[i], "READY=1");
        must_hear(both[i], "WATCHDOG=1");
    }
    cluster_start_coordinator(&cluster);
    wait_for_workers(&cluster, 2);
    for (int i = 0; i < 2; i++)
        must_hear(both[i], "STATUS=waiting for work");
    cluster_end(&cluster.coordinator, SIGKILL);
    sp_sleep_ms(300);
    forget_heard(trainer);
    must_hear(trainer, "WATCHDOG=1");
    forget_heard(trainer);
    must_hear(trainer, "WATCHDOG=1");
    close(generator);
    close(trainer);
    cluster_close(&cluster);
}
END_TEST

/* One line about it, not one for each try. */
START_TEST(test_an_outage_fills_no_log)
{
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_start_generator(&cluster, 0);
    wait_for_workers(&cluster, 1);
    cluster_end(&cluster.coordinator, SIGKILL);
    sp_sleep_ms(3500);
    ck_assert_int_eq(program_run(cluster.dir, &said, 9, "/bin/sh",
                                 "-c 'grep -c -e renewed -e again generator-0.log'"),
                     0);
    ck_assert_msg(atoi(said.out) <= 3, "%s lines in three seconds", said.out);
    cluster_close(&cluster);
}
END_TEST

/* A service's name is its host's, of up to 64 characters, and its number. */
START_TEST(test_long_names_of_workers)
{
    struct cluster cluster;
    struct said said;
    char name[SP_MAX_WORKER_NAME + 2], arguments[512];
    cluster_open(&cluster);
    memset(name, 'h', sizeof(name));
    name[SP_MAX_WORKER_NAME] = '\0';
    const char *const argv[] = {GENERATOR,
                                "--coordinator",
                                "ipc://state/coordinator.sock",
                                "--token-file",
                                "generator.token",
                                "--state-dir",
                                "long",
                                "--name",
                                name,
                                "--set",
                                "compute.threads=1",
                                NULL};
    cluster.generators[0] = program_start(cluster.dir, "long.log", argv);
    wait_for_workers(&cluster, 1);
    json_decref(cluster_ctl_ok(&cluster, "cordon", name, NULL));
    name[SP_MAX_WORKER_NAME] = 'h';
    name[SP_MAX_WORKER_NAME + 1] = '\0';
    snprintf(arguments, sizeof(arguments),
             "--coordinator ipc://state/coordinator.sock --token-file generator.token "
             "--state-dir longer --set compute.threads=1 --name %s",
             name);
    ck_assert_int_eq(program_run(cluster.dir, &said, 20, GENERATOR, arguments), 2);
    ck_assert_msg(strstr(said.err, "name: give 1 to 128 characters") != NULL, "%s", said.err);
    cluster_close(&cluster);
}
END_TEST

/* Asked for at once, as by a person and a repetition: made once, and everybody is told so. */
START_TEST(test_create_run_from_many_at_once)
{
    struct cluster cluster;
    pid_t pids[TOGETHER];
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    cluster_create_run(&cluster, "r", 1, "");
    for (int round = 0; round < 3; round++) {
        char set[32], log[32];
        snprintf(set, sizeof(set), "run.name=r%d", round);
        const char *const argv[] = {SPINCTL, "--state-dir", "state", "create-run",
                                    "r.ini", "--set",       set,     NULL};
        for (int i = 0; i < TOGETHER; i++) {
            snprintf(log, sizeof(log), "create-%d-%d.log", round, i);
            pids[i] = program_start(cluster.dir, log, argv);
        }
        for (int i = 0; i < TOGETHER; i++) {
            int status;
            ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
            ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
                          "create-run %d of %s ended with %d: see %s", i, set, WEXITSTATUS(status),
                          cluster.dir);
        }
    }
    cluster_close(&cluster);
}
END_TEST

/* --state-dir on the command line is this coordinator, whatever a file or the environment says. */
START_TEST(test_the_state_directory_named_last)
{
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write(&cluster, "spinctl.conf", "%s",
                  "[coordinator]\nurl = ipc:///nowhere/coordinator.sock\ntoken_file = nowhere\n");
    const char *const commands[] = {"--config spinctl.conf --state-dir state status",
                                    "--state-dir state status"};
    for (int i = 0; i < 2; i++) {
        if (i == 1) {
            setenv("SPIN_COORDINATOR", "ipc:///nowhere/coordinator.sock", 1);
            setenv("SPIN_TOKEN_FILE", "nowhere", 1);
        }
        int code = program_run(cluster.dir, &said, 20, SPINCTL, commands[i]);
        ck_assert_msg(code == 0, "%s: %d: %s", commands[i], code, said.err);
    }
    /* An address beside it is still the address. */
    int code = program_run(cluster.dir, &said, 20, SPINCTL,
                           "--state-dir state --coordinator ipc:///nowhere/c.sock status");
    ck_assert_msg(code == 12 && strstr(said.err, "/nowhere/c.sock"), "%d: %s", code, said.err);
    unsetenv("SPIN_TOKEN_FILE");
    setenv("SPIN_COORDINATOR", "", 1);
    setenv("SPIN_STATE_DIR", "state", 1);
    code = program_run(cluster.dir, &said, 20, SPINCTL, "--config spinctl.conf status");
    ck_assert_msg(code == 0, "%d: %s", code, said.err);
    unsetenv("SPIN_STATE_DIR");
    unsetenv("SPIN_COORDINATOR");
    cluster_close(&cluster);
}
END_TEST

static int64_t event_at(const json_t *reply, size_t index, size_t *ret_count)
{
    const json_t *events = json_object_get(reply, "events");
    *ret_count = json_array_size(events);
    return json_integer_value(json_object_get(json_array_get(events, index), "id"));
}

START_TEST(test_the_newest_events)
{
    static const struct expectation list[] = {
        {"--state-dir state priority r 4294967301", 2, {"-1000 to 1000"}},
        {"--state-dir state priority r -- -5", 0, {NULL}},
        {"--state-dir state skip r 99999999999999999999", 2, {"PROMPT"}},
    };
    struct cluster cluster;
    size_t count;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    for (int i = 0; i < 5; i++) {
        json_t *made = cluster_ctl_ok(&cluster, "token", "create", "--role", "readonly", NULL);
        ck_assert(json_is_null(json_object_get(made, "expires_ms"))); /* as `token list` says it */
        json_decref(made);
    }
    json_t *all = cluster_ctl_ok(&cluster, "events", NULL);
    event_at(all, 0, &count);
    size_t total = count;
    ck_assert_uint_ge(total, 7);
    int64_t last = event_at(all, total - 1, &count);
    json_t *newest = cluster_ctl_ok(&cluster, "events", "--limit", "2", NULL);
    ck_assert_int_eq(event_at(newest, 1, &count), last);
    ck_assert_uint_eq(count, 2);
    json_t *oldest = cluster_ctl_ok(&cluster, "events", "--after", "0", "--limit", "2", NULL);
    ck_assert_int_eq(event_at(oldest, 0, &count), event_at(all, 0, &count));
    json_t *none = cluster_ctl_ok(&cluster, "events", "r", "--after", "1000", NULL);
    event_at(none, 0, &count);
    ck_assert_uint_eq(count, 0);
    json_decref(all);
    json_decref(newest);
    json_decref(oldest);
    json_decref(none);
    program_expect(cluster.dir, SPINCTL, list, SP_COUNT(list));
    cluster_close(&cluster);
}
END_TEST

/* A service has a /tmp of its own: spinctl must not say that there is a backup where there is none.
 * Where namespaces are not permitted there is nothing to try. */
START_TEST(test_a_backup_that_only_the_service_sees)
{
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    const char *const argv[] = {
        "/bin/sh", "-c",
        "mkdir saved && exec unshare --user --map-root-user --mount /bin/sh -c "
        "'mount -t tmpfs none saved || exit 99; exec \"$0\" --state-dir state backup saved/today' "
        "\"$0\"",
        SPIN_BUILD_ROOT "/" SPINCTL, NULL};
    int code = program_run_argv(cluster.dir, &said, 20, argv);
    if (code != 99 && strstr(said.err, "unshare") == NULL)
        ck_assert_msg(code == 4 && strstr(said.err, "PrivateTmp"), "%d: %s%s", code, said.out,
                      said.err);
    cluster_close(&cluster);
}
END_TEST

/* Its workers live on, and the next run may have its name. */
static size_t evaluations_of(struct cluster *cluster, const char *run)
{
    json_t *json = cluster_ctl_ok(cluster, "evaluations", run, NULL);
    size_t count = json_array_size(json_object_get(json, "evaluations"));
    json_decref(json);
    return count;
}

START_TEST(test_a_run_that_is_removed)
{
    static const struct expectation running[] = {
        {"--state-dir state remove-run r", 10, {"no coordinator may run", "in use"}},
    };
    static const struct expectation stopped[] = {
        {"--state-dir none remove-run r", 4, {"none", "no state directory"}},
        {"--state-dir state remove-run q", 4, {"no run", "q"}},
        {"--state-dir state remove-run ../r", 4, {"no run"}},
        {"--state-dir state remove-run s", 10, {"iteration 0 of run s is", "cancel s"}},
        {"--state-dir state remove-run r", 0, {"run r is removed (iterations: 1, evaluations: 1)"}},
        {"--state-dir state remove-run r", 4, {"no run", "r"}},
    };
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    json_t *before = cluster_iteration(&cluster, "r", 0);
    cluster_write(&cluster, "ab.jsonl",
                  "{\"q\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0}\n");
    cluster_write(&cluster, "ab.conf",
                  "[task]\nname = ab\nkind = choice\n[data]\nfile = ab.jsonl\n"
                  "[prompt]\ntext = {q}\n[choice]\nchoices = choices\nanswer = answer\n");
    json_decref(cluster_ctl_ok(&cluster, "evaluate", "r@0", "--task", "ab.conf", NULL));
    ck_assert_uint_eq(evaluations_of(&cluster, "r"), 1);
    cluster_create_run(&cluster, "s", 1, "run.backend=openblas");
    cluster_start_iteration(&cluster, "s");
    program_expect(cluster.dir, SPINCTL, running, SP_COUNT(running));
    cluster_end(&cluster.coordinator, SIGTERM);
    program_expect(cluster.dir, SPINCTL, stopped, SP_COUNT(stopped));
    cluster_start_coordinator(&cluster);
    json_t *none = NULL;
    ck_assert_int_eq(cluster_ctl(&cluster, &none, "status", "r", NULL), 4);
    json_decref(none);
    json_decref(cluster_ctl_ok(&cluster, "cancel", "s", NULL));
    cluster_create_run(&cluster, "r", 2, "");
    ck_assert_uint_eq(evaluations_of(&cluster, "r"), 0);
    cluster_iterate(&cluster, "r", SECONDS);
    json_t *after = cluster_iteration(&cluster, "r", 0);
    ck_assert_str_ne(cluster_text(before, "checkpoint_sha256"),
                     cluster_text(after, "checkpoint_sha256"));
    json_decref(before);
    json_decref(after);
    cluster_close(&cluster);
}
END_TEST

/* A generator that slept meanwhile brings its answers into a new run of the old one's name, with
 * the same base, iteration and keys: none is taken. */
START_TEST(test_answers_of_a_removed_run)
{
    char *digests[2] = {NULL, NULL};
    for (int sleeps = 0; sleeps < 2; sleeps++) {
        struct cluster cluster;
        cluster_open(&cluster);
        cluster.slots = 1;
        cluster.lease_items = 100;
        cluster_write_rows(&cluster, "train.jsonl", 0, 400);
        if (sleeps) {
            cluster_create_run(&cluster, "r", 1, "");
            cluster_start_iteration(&cluster, "r");
            cluster_start_generator(&cluster, 0);
            cluster_wait_pairs(&cluster, "r", 1, SECONDS);
            kill(cluster.generators[0], SIGSTOP);
            json_decref(cluster_ctl_ok(&cluster, "cancel", "r", NULL));
            cluster_end(&cluster.coordinator, SIGTERM);
            static const struct expectation removed[] = {
                {"--state-dir state remove-run r", 0, {"run r is removed"}},
            };
            program_expect(cluster.dir, SPINCTL, removed, SP_COUNT(removed));
            cluster_start_coordinator(&cluster);
        }
        cluster_write_rows(&cluster, "train.jsonl", 500, 400);
        cluster_create_run(&cluster, "r", 1, "");
        cluster_start_iteration(&cluster, "r");
        if (sleeps)
            kill(cluster.generators[0], SIGCONT);
        else
            cluster_start_generator(&cluster, 0);
        cluster_start_trainer(&cluster, 0);
        cluster_wait_state(&cluster, "r", "closed", SECONDS);
        json_t *row = cluster_iteration(&cluster, "r", 0);
        digests[sleeps] = sp_xstrdup(cluster_text(row, "pairs_sha256"));
        json_decref(row);
        cluster_close(&cluster);
    }
    ck_assert_str_eq(digests[0], digests[1]);
    free(digests[0]);
    free(digests[1]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/administration");
    TCase *c = tcase_create("administration");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_workers_whose_coordinator_is_away);
    tcase_add_test(c, test_an_outage_fills_no_log);
    tcase_add_test(c, test_long_names_of_workers);
    tcase_add_test(c, test_create_run_from_many_at_once);
    tcase_add_test(c, test_the_state_directory_named_last);
    tcase_add_test(c, test_the_newest_events);
    tcase_add_test(c, test_a_backup_that_only_the_service_sees);
    tcase_add_test(c, test_a_run_that_is_removed);
    tcase_add_test(c, test_answers_of_a_removed_run);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* spinctl as its users meet it: exit codes, messages, states, tokens, backups. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/program.h"
#include "tests/unit/check_main.h"

#define SECONDS 60
#define EXPECT(cluster, list) program_expect((cluster)->dir, SPINCTL, list, SP_COUNT(list))

/* What needs no coordinator to be refused. */
START_TEST(test_wrong_command_lines_end_with_2)
{
    static const struct expectation list[] = {
        {"", 2, {"Commands:"}},
        {"fly", 2, {"\"fly\"", "--help"}},
        {"help fly", 2, {"\"fly\""}},
        {"status a b", 2, {"unexpected argument: b"}},
        {"pairs", 2, {"missing argument"}},
        {"--json why", 2, {"missing argument"}},
        {"create-run", 2, {"missing argument"}},
        {"export r", 2, {"missing argument"}},
        {"skip r", 2, {"missing argument"}},
        {"skip r x", 2, {"number"}},
        {"skip r -1", 2, {NULL}},
        {"workers all", 2, {"unexpected argument"}},
        {"token", 2, {"missing argument"}},
        {"token make", 2, {"create, list, or revoke"}},
        {"token revoke", 2, {"revoke ID"}},
        {"token create", 2, {"--role"}},
        {"token create --role generator --expires soon", 2, {"--expires", "30 d"}},
        {"token create --role generator --expires '0 s'", 2, {"--expires"}},
        {"token create --role generator --expires '30'", 2, {"--expires"}},
        {"--timeout x status", 2, {"--timeout"}},
        {"--timeout 5x status", 2, {"--timeout"}},
        {"--timeout 1e99 status", 2, {"--timeout"}},
        {"status --nonsense", 2, {"--nonsense"}},
        {"run r --iterations 0", 2, {"--iterations"}},
        {"run r --iterations ten", 2, {"--iterations"}},
        {"pairs r --limit 0", 2, {"--limit"}},
        {"pairs r --offset -1", 2, {"--offset"}},
        {"events --after 99999999999999999999", 2, {"--after"}},
        {"--coordinator nonsense --token-file t status", 2, {"nonsense", "ipc://"}},
        {"--coordinator tcp://192.0.2.1:7070 --token-file t status", 2, {"loopback", "tls+tcp://"}},
        {"--coordinator tls+tcp://a.example:7070 --token-file t status", 2, {"TLS needs"}},
        {"--coordinator tls+tcp://a.example --token-file t status", 2, {"host:port"}},
    };
    char dir[] = "/tmp/spin-e2e-XXXXXX";
    struct said said;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(program_run(dir, &said, 5, "/bin/sh", "-c 'umask 077; echo a.b > t'"), 0);
    program_expect(dir, SPINCTL, list, SP_COUNT(list));
    ck_assert_int_eq(program_run(dir, &said, 5, SPINCTL, "--help"), 0);
    ck_assert_ptr_nonnull(strstr(said.out, "start-iteration RUN"));
    ck_assert_int_eq(program_run(dir, &said, 5, SPINCTL, "create-run --help"), 0);
    ck_assert_ptr_nonnull(strstr(said.out, "--example"));
    ck_assert_int_eq(program_run(dir, &said, 5, "/bin/rm", "-r ."), 1);
    ck_assert_int_eq(program_run("/tmp", &said, 5, "/bin/rm", strcat(strcpy(said.out, "-r "), dir)),
                     0);
}
END_TEST

START_TEST(test_an_absent_coordinator_is_reported_soon)
{
    static const char *const commands[] = {"--json status", "backup x", "create-run r.ini"};
    static const struct expectation no_state[] = {
        {"--state-dir nowhere status", 4, {"nowhere/admin.token", "--state-dir"}},
        {"--state-dir nowhere doctor", 4, {"nowhere/admin.token", "--token-file"}},
        {"--config nowhere.conf status", 4, {"nowhere.conf"}},
    };
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    EXPECT(&cluster, no_state);
    cluster_end(&cluster.coordinator, SIGKILL);
    for (size_t i = 0; i < SP_COUNT(commands); i++) {
        char *arguments = sp_xprintf("--state-dir state %s", commands[i]);
        ck_assert_int_eq(program_run(cluster.dir, &said, 10, SPINCTL, arguments), 12);
        ck_assert_msg(strstr(said.err, "no coordinator answers") &&
                          strstr(said.err, "coordinator.sock"),
                      "%s: %s", commands[i], said.err);
        ck_assert_msg(strchr(said.err, '\n') == said.err + strlen(said.err) - 1, "%s: %s",
                      commands[i], said.err);
        free(arguments);
    }
    /* --timeout waits for one that is being started again. */
    struct said late;
    pid_t pid = fork();
    if (pid == 0) {
        sp_sleep_ms(2500);
        cluster_start_coordinator(&cluster);
        sp_sleep_ms(8000);
        _exit(0);
    }
    ck_assert_int_eq(
        program_run(cluster.dir, &late, 20, SPINCTL, "--state-dir state --timeout 15 status"), 0);
    ck_assert_int_ge(late.ms, 2000);
    kill(pid, SIGKILL);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_a_stopped_coordinator_is_reported_soon)
{
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    kill(cluster.coordinator, SIGSTOP);
    int code = program_run(cluster.dir, &said, 10, SPINCTL, "--state-dir state status");
    kill(cluster.coordinator, SIGCONT);
    ck_assert_msg(code == 13 || code == 12, "%d: %s", code, said.err);
    ck_assert_msg(strstr(said.err, "no coordinator answers") != NULL, "%s", said.err);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_unknown_runs_and_wrong_states)
{
    static const struct expectation nothing[] = {
        {"--state-dir state status", 0, {"RUN"}},
        {"--state-dir state status r", 4, {"\"r\"", "spinctl status"}},
        {"--state-dir state why r", 4, {"\"r\""}},
        {"--state-dir state pause r", 4, {"\"r\""}},
        {"--state-dir state run r", 4, {"\"r\""}},
        {"--state-dir state watch r", 4, {"\"r\""}},
        {"--state-dir state iterations r", 4, {"\"r\""}},
        {"--state-dir state steps r", 4, {"\"r\""}},
        {"--state-dir state pairs r", 4, {"\"r\""}},
        {"--state-dir state settings r", 4, {"\"r\""}},
        {"--state-dir state events r", 4, {"\"r\""}},
        {"--state-dir state checkpoints r", 4, {"\"r\""}},
        {"--state-dir state export r x", 4, {"\"r\""}},
        {"--state-dir state start-iteration r", 4, {"\"r\""}},
        {"--state-dir state status ../../etc", 4, {"no run", "spinctl doctor"}},
        {"--state-dir state iterations ../control", 4, {"control"}},
        {"--state-dir state token revoke 00", 4, {"\"00\""}},
        {"--state-dir state export 0123456789abcdef x", 4, {"spinctl checkpoints"}},
        {"--state-dir state create-run nowhere.ini", 4, {"nowhere.ini"}},
        {"--state-dir state backup state", 5, {"not empty"}},
    };
    static const struct expectation before[] = {
        {"--state-dir state why r", 0, {"first iteration", "start-iteration r"}},
        {"--state-dir state pause r", 10, {"pause", "no iteration yet", "start-iteration"}},
        {"--state-dir state skip r 1", 10, {"no iteration yet"}},
        {"--state-dir state steps r", 4, {"no iteration yet", "start-iteration"}},
        {"--state-dir state pairs r", 4, {"no iteration yet"}},
        {"--state-dir state start-iteration r --iteration 3", 10, {"next iteration is 0"}},
        {"--state-dir state watch r --once", 0, {"no iteration yet"}},
        {"--state-dir state export r:4 x", 4, {"checkpoint"}},
        {"--state-dir state export r base2", 0, {"base2"}},
        {"--state-dir state export r base2", 5, {"base2", "exists"}},
    };
    static const struct expectation running[] = {
        {"--state-dir state start-iteration r", 0, {"iteration 0 is"}},
        {"--state-dir state start-iteration r --iteration 0", 0, {"iteration 0 is running"}},
        {"--state-dir state start-iteration r --iteration 1", 10, {"iteration 0 is open"}},
        {"--state-dir state why r", 0, {"generator", "trainer", "none has said hello"}},
        {"--state-dir state retry r", 0, {"running"}},
        {"--state-dir state resume r", 0, {"running"}},
        {"--state-dir state skip r 100000", 2, {"100000"}},
        {"--state-dir state skip r 3", 0, {NULL}},
        {"--state-dir state pause r", 0, {"paused"}},
        {"--state-dir state pause r", 0, {"paused"}},
        {"--state-dir state retry r", 10, {"paused", "spinctl why r"}},
        {"--state-dir state -q run r", 10, {"iteration 0 is paused"}},
        {"--state-dir state why r", 0, {"spinctl resume r"}},
        {"--state-dir state cancel r", 0, {"cancelled"}},
        {"--state-dir state cancel r", 0, {"cancelled"}},
        {"--state-dir state resume r", 10, {"cancelled"}},
        {"--state-dir state start-iteration r --iteration 0", 10, {"spinctl start r"}},
        {"--state-dir state -q run r", 10, {"cancelled"}},
        {"--state-dir state start r --fresh", 0, {"running"}},
        {"--state-dir state pairs r --set nonsense", 2, {"nonsense", "holdout"}},
        {"--state-dir state pairs r --iteration 5", 4, {"no iteration 5"}},
        {"--state-dir state pairs r --limit 2", 0, {"human", "not made yet"}},
        {"--state-dir state doctor", 1, {NULL}},
        {"--state-dir state events r", 0, {"planned", "paused", "cancelled"}},
    };
    struct cluster cluster;
    cluster_open(&cluster);
    EXPECT(&cluster, nothing);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    EXPECT(&cluster, before);
    /* doctor's table goes to stdout even when it ends with 1 */
    for (size_t i = 0; i < SP_COUNT(running); i++) {
        struct said said;
        if (running[i].code != 1)
            program_expect(cluster.dir, SPINCTL, &running[i], 1);
        else
            ck_assert_int_eq(program_run(cluster.dir, &said, 20, SPINCTL, running[i].arguments), 1);
    }
    cluster_close(&cluster);
}
END_TEST

/* Every looking command prints one JSON document with --json, whatever the state. */
START_TEST(test_json_is_one_document)
{
    static const char *const commands[] = {"status",
                                           "status r",
                                           "why r",
                                           "iterations r",
                                           "pairs r",
                                           "checkpoints",
                                           "checkpoints r",
                                           "settings r",
                                           "events",
                                           "events r",
                                           "events --limit 1",
                                           "workers",
                                           "token list",
                                           "watch r --once",
                                           "steps r",
                                           "start-iteration r --iteration 0",
                                           "pause r",
                                           "resume r",
                                           "skip r 0",
                                           "token create --role readonly",
                                           "export r exported",
                                           "backup saved"};
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 12);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_iteration(&cluster, "r");
    for (size_t i = 0; i < SP_COUNT(commands); i++) {
        struct sp_error err;
        json_t *json = NULL;
        char *arguments = sp_xprintf("--state-dir state --json %s", commands[i]);
        ck_assert_msg(program_run(cluster.dir, &said, 20, SPINCTL, arguments) == 0, "%s: %s",
                      arguments, said.err);
        ck_assert_msg(sp_json_parse(said.out, strlen(said.out), "stdout", &json, &err) == SP_OK &&
                          json_is_object(json),
                      "%s: %s: %s", arguments, err.text, said.out);
        json_decref(json);
        free(arguments);
    }
    ck_assert_int_eq(
        program_run(cluster.dir, &said, 20, SPINCTL, "--json --state-dir again restore saved"), 0);
    ck_assert_ptr_nonnull(strstr(said.out, "\"runs\":1"));
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_create_run_twice)
{
    static const struct expectation list[] = {
        {"--state-dir state create-run r.ini", 0, {"was there already, the same"}},
        {"--state-dir state create-run r.ini --set seed=9", 5, {"run r", "another"}},
        {"--state-dir state create-run r.ini --set nonsense=9", 2, {"nonsense"}},
        {"--state-dir state create-run r.ini --set seed=many", 2, {"seed"}},
        {"--state-dir state create-run r.ini --set data.train=nowhere.jsonl",
         4,
         {"[data] train", "nowhere.jsonl"}},
        {"--state-dir state create-run r.ini --set model.base=nowhere",
         4,
         {"[model] base", "nowhere"}},
        {"--state-dir state create-run r.ini --set name=../r", 2, {"name"}},
    };
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    json_t *json = cluster_ctl_ok(&cluster, "create-run", "r.ini", NULL);
    ck_assert(json_is_true(json_object_get(json, "existing")));
    json_decref(json);
    EXPECT(&cluster, list);
    cluster_write_rows(&cluster, "train.jsonl", 0, 21);
    static const struct expectation other_data[] = {
        {"--state-dir state create-run r.ini", 5, {"other settings, data or base"}}};
    EXPECT(&cluster, other_data);
    cluster_close(&cluster);
}
END_TEST

static void save_token(struct cluster *cluster, const char *file, const char *role,
                       const char *option, const char *value)
{
    char name[64];
    json_t *json = cluster_ctl_ok(cluster, "token", "create", "--role", role, option, value, NULL);
    snprintf(name, sizeof(name), "%s.id", file);
    cluster_write(cluster, file, "%s\n", cluster_text(json, "token"));
    cluster_write(cluster, name, "%s", cluster_text(json, "id"));
    json_decref(json);
}

START_TEST(test_tokens_hold_to_their_role_runs_and_time)
{
    static const struct expectation list[] = {
        {"--state-dir state --token-file read status", 0, {"RUN"}},
        {"--state-dir state --token-file read why r", 0, {"waits for"}},
        {"--state-dir state --token-file read export r exported", 0, {"exported"}},
        {"--state-dir state --token-file read start-iteration r", 11, {"readonly"}},
        {"--state-dir state --token-file read token list", 11, {"readonly"}},
        {"--state-dir state --token-file read backup x", 11, {"readonly"}},
        {"--state-dir state --token-file read create-run r.ini", 11, {"readonly"}},
        {"--state-dir state --token-file generator.token status", 11, {"generator"}},
        {"--state-dir state --token-file trainer.token pause r", 11, {"trainer"}},
        {"--state-dir state --token-file mine status r", 0, {"RUN"}},
        {"--state-dir state --token-file mine status other", 11, {"not for run other"}},
        {"--state-dir state --token-file mine status", 11, {"these runs only", "r"}},
        {"--state-dir state --token-file mine token create --role admin", 11, {"these runs only"}},
        {"--state-dir state --token-file mine create-run other.ini", 11, {"other"}},
        {"--state-dir state --token-file empty status", 11, {"no token", "token create"}},
        {"--state-dir state --token-file wrong status", 11, {"not known", "token create"}},
        {"--state-dir state --token-file nowhere status", 4, {"nowhere", "--token-file"}},
    };
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_create_run(&cluster, "other", 1, "");
    save_token(&cluster, "read", "readonly", "--expires", "30 d");
    save_token(&cluster, "mine", "admin", "--runs", "r");
    cluster_write(&cluster, "empty", "%s", "");
    cluster_write(&cluster, "wrong", "0123456789abcdef.%s\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    EXPECT(&cluster, list);
    /* A token that expires, and one that is revoked while it is used. */
    save_token(&cluster, "brief", "readonly", "--expires", "1500 ms");
    ck_assert_int_eq(
        program_run(cluster.dir, &said, 9, SPINCTL, "--state-dir state --token-file brief status"),
        0);
    sp_sleep_ms(1600);
    static const struct expectation expired[] = {
        {"--state-dir state --token-file brief status", 11, {"has expired"}}};
    EXPECT(&cluster, expired);
    ck_assert_int_eq(program_run(cluster.dir, &said, 9, "/bin/sh",
                                 "-c 'exec \"$0\" --state-dir state token revoke \"$(cat "
                                 "read.id)\"' " SPIN_BUILD_ROOT "/" SPINCTL),
                     0);
    static const struct expectation revoked[] = {
        {"--state-dir state --token-file read status", 11, {"is revoked"}},
        {"--state-dir state events", 0, {"token", "is revoked", "run r is created"}}};
    EXPECT(&cluster, revoked);
    cluster_end(&cluster.coordinator, SIGKILL);
    cluster_start_coordinator(&cluster);
    program_expect(cluster.dir, SPINCTL, revoked, 1);
    program_expect(cluster.dir, SPINCTL, expired, 1);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_backup_and_restore)
{
    static const struct expectation refused[] = {
        {"--state-dir state backup saved", 5, {"saved", "not empty"}},
        {"--state-dir state backup /proc/nowhere", 4, {"/proc/nowhere"}},
        {"--state-dir state backup /sys/saved", 11, {"/sys/saved", "its service may"}},
        {"--state-dir state restore saved", 5, {"state"}},
        {"--state-dir new restore nowhere", 4, {"nowhere"}},
        {"--state-dir new restore broken", 14, {"broken"}},
    };
    struct cluster cluster;
    struct said said;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 20);
    cluster_create_run(&cluster, "r", 1, "");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    json_decref(cluster_ctl_ok(&cluster, "backup", "saved", NULL));
    json_t *before = cluster_iteration(&cluster, "r", 0);
    ck_assert_int_eq(program_run(cluster.dir, &said, 20, "/bin/sh",
                                 "-c 'cp -r saved broken && for f in $(find broken/blobs -type f "
                                 "-size +4k | head -n 1); do chmod u+w $f && printf x | dd of=$f "
                                 "bs=1 seek=2000 conv=notrunc; done'"),
                     0);
    EXPECT(&cluster, refused);
    cluster_end(&cluster.coordinator, SIGKILL);
    cluster_end(&cluster.generators[0], SIGKILL);
    cluster_end(&cluster.trainers[0], SIGKILL);
    ck_assert_int_eq(program_run(cluster.dir, &said, 20, "/bin/sh", "-c 'rm -rf state new'"), 0);
    ck_assert_int_eq(
        program_run(cluster.dir, &said, 20, SPINCTL, "--state-dir state restore saved"), 0);
    cluster_start_coordinator(&cluster);
    json_t *after = cluster_iteration(&cluster, "r", 0);
    ck_assert(json_equal(before, after));
    json_decref(before);
    json_decref(after);
    /* The tokens of before are good, and the run goes on. */
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    cluster_iterate(&cluster, "r", SECONDS);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/spinctl");
    TCase *c = tcase_create("spinctl");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, test_wrong_command_lines_end_with_2);
    tcase_add_test(c, test_an_absent_coordinator_is_reported_soon);
    tcase_add_test(c, test_a_stopped_coordinator_is_reported_soon);
    tcase_add_test(c, test_unknown_runs_and_wrong_states);
    tcase_add_test(c, test_json_is_one_document);
    tcase_add_test(c, test_create_run_twice);
    tcase_add_test(c, test_tokens_hold_to_their_role_runs_and_time);
    tcase_add_test(c, test_backup_and_restore);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* The state directory: opening, locking, transactions, runs, tokens, workers, events. */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/limits.h"
#include "coordinator/store/store.h"
#include "tests/unit/coordinator/store_fixture.h"

START_TEST(test_fresh_directory)
{
    struct fx fx = fx_new(NULL);
    struct stat info;
    char *control = sp_path_join(fx.dir, "control.db");
    ck_assert_int_eq(stat(control, &info), 0);
    ck_assert_int_eq(info.st_mode & 0777, 0600); /* hashes of tokens are nobody's business */
    free(control);
    const char **names = NULL;
    size_t count = 7;
    OK(store_runs_list(fx.store, fx.arena, &names, &count, &fx.err));
    ck_assert_uint_eq(count, 0);
    ck_assert_str_eq(store_dir(fx.store), fx.dir);
    fx_free(&fx);
}
END_TEST

START_TEST(test_second_process_is_refused)
{
    struct fx fx = fx_new(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct store *other = NULL;
        struct sp_error err;
        enum sp_err rc = store_open(fx.dir, NULL, &other, &err);
        _exit(rc == SP_ESTATE && strstr(err.text, "in use by process") ? 0 : 1);
    }
    int status = -1;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    fx_free(&fx);
}
END_TEST

START_TEST(test_runs_survive_reopening)
{
    struct fx fx = fx_new("one");
    OK(fx_build(fx.dir, "two", NULL, &fx.err));
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "two", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    fx_reopen(&fx, "two");
    const char **names = NULL;
    size_t count = 0;
    OK(store_runs_list(fx.store, fx.arena, &names, &count, &fx.err));
    ck_assert_uint_eq(count, 2);
    ck_assert_str_eq(names[0], "one");
    ck_assert_str_eq(names[1], "two");
    struct store_run *again = NULL;
    OK(store_run_open(fx.store, "two", &again, &fx.err));
    ck_assert_ptr_eq(again, fx.run);
    ck_assert_str_eq(store_run_name(again), "two");
    FAILS(SP_ENOTFOUND, store_run_open(fx.store, "three", &again, &fx.err));
    FAILS(SP_ENOTFOUND, store_run_open(fx.store, "../one", &again, &fx.err));
    fx_free(&fx);
}
END_TEST

START_TEST(test_adopt_refuses)
{
    struct fx fx = fx_new("one");
    struct store_builder *builder = NULL;
    FAILS(SP_EEXIST, store_builder_open(fx.dir, "one", NULL, &builder, &fx.err));
    FAILS(SP_EINVAL, store_builder_open(fx.dir, "../x", NULL, &builder, &fx.err));
    FAILS(SP_EINVAL, store_builder_open(fx.dir, "", NULL, &builder, &fx.err));
    OK(store_builder_open(fx.dir, "two", NULL, &builder, &fx.err));
    struct store_builder *second = NULL;
    FAILS(SP_EUNAVAIL, store_builder_open(fx.dir, "two", NULL, &second, &fx.err));
    store_builder_free(builder); /* unfinished: the file goes */
    store_begin(fx.store);
    FAILS(SP_ENOTFOUND, store_run_adopt(fx.store, "two", &fx.err));
    FAILS(SP_EEXIST, store_run_adopt(fx.store, "one", &fx.err));
    FAILS(SP_EINVAL, store_run_adopt(fx.store, "a/b", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    fx_free(&fx);
}
END_TEST

static void touch(const char *dir, const char *name)
{
    char *path = sp_xprintf("%s/runs/%s", dir, name);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
    free(path);
}

START_TEST(test_runs_have_a_limit)
{
    struct fx fx = fx_new("one");
    struct store_builder *builder = NULL;
    for (int i = 2; i < SP_MAX_RUNS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "n%d.db", i);
        touch(fx.dir, name);
    }
    OK(store_builder_open(fx.dir, "last", NULL, &builder, &fx.err)); /* one has room */
    store_builder_free(builder);
    OK(fx_build(fx.dir, "last", NULL, &fx.err));
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "last", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    FAILS(SP_ELIMIT, store_builder_open(fx.dir, "more", NULL, &builder, &fx.err));
    fx_free(&fx);
}
END_TEST

static bool is_there(const char *dir, const char *name)
{
    char *path = sp_xprintf("%s/runs/%s", dir, name);
    bool there = sp_path_exists(path);
    free(path);
    return there;
}

START_TEST(test_a_removed_run_leaves_nothing_and_takes_nothing_along)
{
    static const char *const go[] = {"one.db", "one.db-wal", "one.db-shm", "one.db.v4.bak"};
    static const char *const stay[] = {"one.db.v4.db", "one.db.x.bak", "one.db.v.bak", "one2.db"};
    struct fx fx = fx_new("one");
    OK(fx_build(fx.dir, "one.db.v4", NULL, &fx.err)); /* a name that begins like a file's */
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "one.db.v4", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    touch(fx.dir, "one.db.v4.bak");
    touch(fx.dir, "one.db.x.bak");
    touch(fx.dir, "one.db.v.bak");
    touch(fx.dir, "one2.db");
    FAILS(SP_ENOTFOUND, store_run_remove(fx.store, "two", &fx.err));
    OK(store_run_remove(fx.store, "one", &fx.err));
    for (size_t i = 0; i < SP_COUNT(go); i++)
        ck_assert_msg(!is_there(fx.dir, go[i]), "%s", go[i]);
    for (size_t i = 0; i < SP_COUNT(stay); i++)
        ck_assert_msg(is_there(fx.dir, stay[i]), "%s", stay[i]);
    FAILS(SP_ENOTFOUND, store_run_open(fx.store, "one", &fx.run, &fx.err));
    FAILS(SP_ENOTFOUND, store_run_remove(fx.store, "one", &fx.err));
    const char **names;
    size_t count;
    OK(store_runs_list(fx.store, fx.arena, &names, &count, &fx.err));
    ck_assert_uint_eq(count, 1);
    ck_assert_str_eq(names[0], "one.db.v4");
    /* There is room for another of that name. */
    OK(fx_build(fx.dir, "one", NULL, &fx.err));
    store_begin(fx.store);
    OK(store_run_adopt(fx.store, "one", &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_run_open(fx.store, "one", &fx.run, &fx.err));
    fx_free(&fx);
}
END_TEST

/* A death between the file's end and the row's; and a file that was lost otherwise. */
START_TEST(test_a_run_without_its_file_can_be_removed)
{
    struct fx fx = fx_new("one");
    char *path = sp_xprintf("%s/runs/one.db", fx.dir);
    ck_assert_int_eq(unlink(path), 0);
    OK(store_run_remove(fx.store, "one", &fx.err));
    FAILS(SP_ENOTFOUND, store_run_remove(fx.store, "one", &fx.err));
    free(path);
    fx_free(&fx);
}
END_TEST

/* A death between rename and COMMIT leaves a file without a row; one during create-run a .new. */
START_TEST(test_left_overs_are_sorted_out)
{
    struct fx fx = fx_new("one");
    OK(fx_build(fx.dir, "two", NULL, &fx.err));
    OK(fx_build(fx.dir, "three", NULL, &fx.err));
    char *from = sp_xprintf("%s/runs/two.db.new", fx.dir);
    char *to = sp_xprintf("%s/runs/two.db", fx.dir);
    char *left = sp_xprintf("%s/runs/three.db.new", fx.dir);
    ck_assert_int_eq(rename(from, to), 0);
    fx_reopen(&fx, "two");
    struct store_run_info info;
    OK(store_run_info(fx.run, fx.arena, &info, &fx.err));
    ck_assert_uint_eq(info.prompts[STORE_SPLIT_TRAIN], FX_TRAIN);
    ck_assert(!sp_path_exists(left));
    struct store_run *three = NULL;
    FAILS(SP_ENOTFOUND, store_run_open(fx.store, "three", &three, &fx.err));
    free(from);
    free(to);
    free(left);
    fx_free(&fx);
}
END_TEST

/* An empty control.db beside a run is no beginning: tokens and the list of runs are gone. */
START_TEST(test_lost_control_is_not_made_anew)
{
    struct fx fx = fx_new("one");
    char *control = sp_xprintf("%s/control.db", fx.dir), *wal = sp_xprintf("%s-wal", control);
    char *runs = sp_xprintf("%s/runs", fx.dir), *aside = sp_xprintf("%s/aside", fx.dir);
    store_close(fx.store);
    fx.store = NULL;
    ck_assert_int_eq(unlink(control), 0);
    unlink(wal);
    FAILS(SP_ESTATE, store_open(fx.dir, NULL, &fx.store, &fx.err));
    ck_assert_ptr_nonnull(strstr(fx.err.text, "backup"));
    FAILS(SP_ESTATE, store_open(fx.dir, NULL, &fx.store, &fx.err)); /* it does not become one */
    /* The remedy without a backup: the coordinator's first start makes a token. */
    ck_assert_int_eq(rename(runs, aside), 0);
    OK(store_open(fx.dir, NULL, &fx.store, &fx.err));
    struct store_event event = {
        .at_ms = 1, .iteration = -1, .actor = "", .kind = "token", .text = "", .detail = ""};
    store_begin(fx.store);
    OK(store_event_append(fx.store, NULL, &event, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    store_close(fx.store);
    ck_assert_int_eq(rmdir(runs), 0);
    ck_assert_int_eq(rename(aside, runs), 0);
    OK(store_open(fx.dir, NULL, &fx.store, &fx.err));
    OK(store_run_open(fx.store, "one", &fx.run, &fx.err));
    free(control);
    free(wal);
    free(runs);
    free(aside);
    fx_free(&fx);
}
END_TEST

START_TEST(test_rollback_and_commit)
{
    struct fx fx = fx_new("one");
    int32_t ids[4];
    enum store_put put;
    struct store_result result = fx_result(3, ids);
    struct store_event event = {
        .at_ms = 1, .iteration = -1, .actor = "a", .kind = "k", .text = "t"};
    store_begin(fx.store);
    ck_assert(store_in_transaction(fx.store));
    OK(store_result_put(fx.run, &result, &put, &fx.err));
    OK(store_event_append(fx.store, NULL, &event, &fx.err));
    store_rollback(fx.store);
    ck_assert(!store_in_transaction(fx.store));
    uint64_t position = 3;
    struct store_result got;
    FAILS(SP_ENOTFOUND, store_results_get(fx.run, 0, 0, &position, 1, fx.arena, &got, &fx.err));
    store_begin(fx.store);
    OK(store_result_put(fx.run, &result, &put, &fx.err));
    OK(store_event_append(fx.store, NULL, &event, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    fx_reopen(&fx, "one");
    OK(store_results_get(fx.run, 0, 0, &position, 1, fx.arena, &got, &fx.err));
    struct store_event *events = NULL;
    size_t count = 0;
    OK(store_events_list(fx.store, NULL, 0, 10, fx.arena, &events, &count, &fx.err));
    ck_assert_uint_eq(count, 1);
    fx_free(&fx);
}
END_TEST

/* A process that is killed with a transaction open has stored nothing; what it committed is there.
 */
START_TEST(test_killed_writer)
{
    struct fx fx = fx_new("one");
    store_close(fx.store);
    fx.store = NULL;
    pid_t child = fork();
    if (child == 0) {
        struct store_result result;
        int32_t ids[4];
        enum store_put put;
        struct sp_error err;
        if (store_open(fx.dir, NULL, &fx.store, &err) != SP_OK ||
            store_run_open(fx.store, "one", &fx.run, &err) != SP_OK)
            _exit(1);
        for (uint64_t p = 0; p < 20; p++) {
            if (p % 10 == 0)
                store_begin(fx.store);
            result = fx_result(p, ids);
            if (store_result_put(fx.run, &result, &put, &err) != SP_OK)
                _exit(2);
            if (p == 9 && store_commit(fx.store, &err) != SP_OK)
                _exit(3);
        }
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status));
    OK(store_open(fx.dir, NULL, &fx.store, &fx.err));
    OK(store_run_open(fx.store, "one", &fx.run, &fx.err));
    uint8_t bitmap[3] = {0};
    uint64_t count = 0;
    OK(store_results_bitmap(fx.run, 0, 0, 20, false, bitmap, &count, &fx.err));
    ck_assert_uint_eq(count, 10);
    ck_assert_uint_eq(bitmap[0], 0xff);
    ck_assert_uint_eq(bitmap[1], 0x03);
    fx_free(&fx);
}
END_TEST

START_TEST(test_reader)
{
    struct fx fx = fx_new("one");
    struct store *reader = NULL;
    OK(store_open_reader(fx.dir, NULL, &reader, &fx.err));
    struct store_run *run = NULL;
    OK(store_run_open(reader, "one", &run, &fx.err));
    int32_t ids[4];
    enum store_put put;
    struct store_result result = fx_result(1, ids), got;
    uint64_t position = 1;
    store_begin(fx.store);
    OK(store_result_put(fx.run, &result, &put, &fx.err));
    FAILS(SP_ENOTFOUND, store_results_get(run, 0, 0, &position, 1, fx.arena, &got, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    OK(store_results_get(run, 0, 0, &position, 1, fx.arena, &got, &fx.err));
    ck_assert_str_eq(got.worker, "gen-1");
    store_close(reader);
    fx_free(&fx);
}
END_TEST

START_TEST(test_tokens)
{
    struct fx fx = fx_new(NULL);
    struct store_token token = {.id = "0123456789abcdef",
                                .role = PROTO_ROLE_GENERATOR,
                                .name = "gen-1",
                                .runs = "one two",
                                .created_ms = 5,
                                .expires_ms = 9};
    fx_digest(&token.secret_sha, "secret");
    store_begin(fx.store);
    OK(store_token_put(fx.store, &token, &fx.err));
    FAILS(SP_EEXIST, store_token_put(fx.store, &token, &fx.err));
    FAILS(SP_ENOTFOUND, store_token_revoke(fx.store, "nobody", 3, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    fx_reopen(&fx, NULL);
    struct store_token got;
    OK(store_token_get(fx.store, token.id, fx.arena, &got, &fx.err));
    ck_assert_str_eq(got.name, "gen-1");
    ck_assert_str_eq(got.runs, "one two");
    ck_assert_int_eq(got.expires_ms, 9);
    ck_assert_int_eq(got.revoked_ms, 0);
    ck_assert(sp_digest_equal(&got.secret_sha, &token.secret_sha));
    store_begin(fx.store);
    OK(store_token_revoke(fx.store, token.id, 77, &fx.err));
    OK(store_token_revoke(fx.store, token.id, 99, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    struct store_token *list = NULL;
    size_t count = 0;
    OK(store_tokens_list(fx.store, fx.arena, &list, &count, &fx.err));
    ck_assert_uint_eq(count, 1);
    ck_assert_int_eq(list[0].revoked_ms, 77);
    FAILS(SP_ENOTFOUND, store_token_get(fx.store, "x", fx.arena, &got, &fx.err));
    fx_free(&fx);
}
END_TEST

START_TEST(test_workers)
{
    struct fx fx = fx_new(NULL);
    struct store_worker worker = {.name = "gen-1",
                                  .role = PROTO_ROLE_GENERATOR,
                                  .host = "a",
                                  .numerics_class = "cpu-1",
                                  .first_seen_ms = 10,
                                  .last_seen_ms = 10};
    store_begin(fx.store);
    OK(store_worker_put(fx.store, &worker, &fx.err));
    worker.host = "b";
    worker.first_seen_ms = worker.last_seen_ms = 20;
    OK(store_worker_put(fx.store, &worker, &fx.err));
    OK(store_commit(fx.store, &fx.err));
    struct store_worker *list = NULL;
    size_t count = 0;
    OK(store_workers_list(fx.store, fx.arena, &list, &count, &fx.err));
    ck_assert_uint_eq(count, 1);
    ck_assert_str_eq(list[0].host, "b");
    ck_assert_str_eq(list[0].device, "");
    ck_assert_int_eq(list[0].first_seen_ms, 10);
    ck_assert_int_eq(list[0].last_seen_ms, 20);
    fx_free(&fx);
}
END_TEST

START_TEST(test_workers_of_long_ago_are_forgotten)
{
    struct fx fx = fx_new(NULL);
    char name[16];
    struct store_worker worker = {.name = name, .role = PROTO_ROLE_GENERATOR};
    store_begin(fx.store);
    for (int i = 0; i < SP_MAX_WORKER_ROWS + 3; i++) {
        snprintf(name, sizeof(name), "g%d", i);
        worker.last_seen_ms = i < 100 ? 1000000 + i : i; /* 100 to 102 are the oldest */
        OK(store_worker_put(fx.store, &worker, &fx.err));
    }
    OK(store_commit(fx.store, &fx.err));
    fx_reopen(&fx, NULL);
    struct store_worker *list = NULL;
    size_t count = 0;
    OK(store_workers_list(fx.store, fx.arena, &list, &count, &fx.err));
    ck_assert_uint_eq(count, SP_MAX_WORKER_ROWS);
    for (size_t i = 0; i < count; i++)
        ck_assert(list[i].last_seen_ms > 102);
    fx_free(&fx);
}
END_TEST

START_TEST(test_events)
{
    struct fx fx = fx_new("one");
    store_begin(fx.store); /* behind the run's first event, of its making */
    for (int i = 0; i < 30; i++) {
        char text[32];
        snprintf(text, sizeof(text), "event %d", i);
        struct store_event event = {.at_ms = i,
                                    .iteration = i - 1,
                                    .actor = "a",
                                    .kind = "k",
                                    .text = text,
                                    .detail = "{}"};
        OK(store_event_append(fx.store, fx.run, &event, &fx.err));
    }
    OK(store_commit(fx.store, &fx.err));
    struct store_event *events = NULL;
    size_t count = 0;
    OK(store_events_list(fx.store, fx.run, 5, 10, fx.arena, &events, &count, &fx.err));
    ck_assert_uint_eq(count, 10);
    ck_assert_str_eq(events[0].text, "event 4");
    ck_assert_uint_eq(events[0].id, 6);
    ck_assert_int_eq(events[0].iteration, 3);
    OK(store_events_list(fx.store, fx.run, 31, 10, fx.arena, &events, &count, &fx.err));
    ck_assert_uint_eq(count, 0);
    OK(store_events_last(fx.store, fx.run, 3, fx.arena, &events, &count, &fx.err));
    ck_assert_uint_eq(count, 3);
    ck_assert_str_eq(events[2].text, "event 29");
    OK(store_events_list(fx.store, NULL, 0, 10, fx.arena, &events, &count, &fx.err));
    ck_assert_uint_eq(count, 0);
    fx_free(&fx);
}
END_TEST

/* Out of files, whichever it is that finds no place: SQLite only says that it is unable to open. */
START_TEST(test_too_many_files_is_told)
{
    struct fx fx = fx_new(NULL);
    struct rlimit old;
    char dir[128];
    int met = 0, next = dup(0);
    snprintf(dir, sizeof(dir), "%s/other", fx.dir);
    OK(sp_mkdir_p(dir, 0700, &fx.err));
    ck_assert_int_ge(next, 0);
    close(next);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    for (int more = 0; more < 6; more++) {
        struct rlimit few = {.rlim_cur = (rlim_t)(next + more), .rlim_max = old.rlim_max};
        struct store *store = NULL;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
        enum sp_err rc = store_open(dir, NULL, &store, &fx.err);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
        store_close(store);
        if (rc == SP_OK || strstr(fx.err.text, "SQLite code 14") == NULL)
            continue;
        met++;
        ck_assert_msg(strstr(fx.err.text, "too many files are open") != NULL, "%s", fx.err.text);
    }
    ck_assert_int_gt(met, 0);
    fx_free(&fx);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("store");
    tcase_add_test(t, test_too_many_files_is_told);
    tcase_add_test(t, test_fresh_directory);
    tcase_add_test(t, test_second_process_is_refused);
    tcase_add_test(t, test_runs_survive_reopening);
    tcase_add_test(t, test_adopt_refuses);
    tcase_add_test(t, test_runs_have_a_limit);
    tcase_add_test(t, test_a_removed_run_leaves_nothing_and_takes_nothing_along);
    tcase_add_test(t, test_a_run_without_its_file_can_be_removed);
    tcase_add_test(t, test_left_overs_are_sorted_out);
    tcase_add_test(t, test_lost_control_is_not_made_anew);
    tcase_add_test(t, test_rollback_and_commit);
    tcase_add_test(t, test_killed_writer);
    tcase_add_test(t, test_reader);
    tcase_add_test(t, test_tokens);
    tcase_add_test(t, test_workers);
    tcase_add_test(t, test_workers_of_long_ago_are_forgotten);
    tcase_add_test(t, test_events);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

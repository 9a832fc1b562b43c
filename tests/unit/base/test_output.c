/* What programs say: log, progress, tables; and how a daemon is told to stop. */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/base/table.h"
#include "tests/unit/check_main.h"

static char captured[65536];

/* Runs `what` in a child whose stderr comes back in `captured`; its exit status. */
static int capture(void (*what)(void))
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        unsetenv("JOURNAL_STREAM");
        what();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t n;
    while ((n = read(ends[0], captured + length, sizeof(captured) - 1 - length)) > 0)
        length += (size_t)n;
    captured[length] = 0;
    close(ends[0]);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return status;
}

static void write_log(void)
{
    sp_debug("hidden");
    sp_log_set_name("generator 2");
    sp_info("two\nlines pairs=%d", 5);
    sp_log_set_level(SP_LOG_ERROR);
    sp_warn("hidden");
    sp_errlog("shown");
    char large[10000];
    memset(large, 'x', sizeof(large));
    large[sizeof(large) - 1] = 0;
    sp_errlog("%s", large);
}

START_TEST(log_lines)
{
    ck_assert_int_eq(capture(write_log), 0);
    ck_assert_ptr_null(strstr(captured, "hidden"));
    char *line = strtok(captured, "\n");
    ck_assert_msg(strstr(line, "Z info  generator 2: two lines pairs=5") != NULL, "%s", line);
    ck_assert_int_eq(line[4], '-');
    line = strtok(NULL, "\n");
    ck_assert_msg(strstr(line, "error generator 2: shown") != NULL, "%s", line);
    line = strtok(NULL, "\n");
    ck_assert_uint_lt(strlen(line), 4096);
    ck_assert_ptr_null(strtok(NULL, "\n"));
}
END_TEST

static void write_journal(void)
{
    setenv("JOURNAL_STREAM", "9:1", 1);
    sp_warn("careful");
}

START_TEST(log_under_the_journal)
{
    ck_assert_int_eq(capture(write_journal), 0);
    ck_assert_str_eq(captured, "<4>careful\n");
}
END_TEST

static void write_request(void)
{
    sp_log_set_request(0xabc);
    sp_warn("one");
    sp_log_set_request(0);
    sp_warn("two");
}

START_TEST(log_of_a_request)
{
    ck_assert_int_eq(capture(write_request), 0);
    char *line = strtok(captured, "\n");
    ck_assert_msg(strstr(line, "one request=0000000000000abc") != NULL, "%s", line);
    line = strtok(NULL, "\n");
    ck_assert_ptr_null(strstr(line, "request="));
}
END_TEST

START_TEST(log_levels)
{
    enum sp_log_level level;
    struct sp_error err;
    ck_assert(sp_log_parse_level("warn", &level, &err) == SP_OK && level == SP_LOG_WARN);
    ck_assert(sp_log_parse_level("debug", &level, &err) == SP_OK && level == SP_LOG_DEBUG);
    ck_assert_int_eq(sp_log_parse_level("loud", &level, &err), SP_EINVAL);
    ck_assert_str_eq(err.text, "log level \"loud\": expected debug, info, warn or error");
}
END_TEST

static void short_work(void)
{
    struct sp_progress *progress = sp_progress_new("load", 100, "pairs");
    sp_progress_set(progress, 50);
    sp_progress_free(progress);
    sp_progress_free(NULL);
}

static void long_work(void)
{
    struct sp_progress *progress = sp_progress_new("load", 1000, "pairs");
    sp_sleep_ms(2100);
    sp_progress_note(progress, "shard 1");
    sp_progress_set(progress, 500);
    sp_progress_set(progress, 501); /* too soon for another line */
    sp_progress_set(progress, 1000);
    sp_progress_free(progress);
}

static void quiet_work(void)
{
    sp_progress_enable(false);
    long_work();
}

START_TEST(progress_is_for_long_work_only)
{
    ck_assert_int_eq(capture(short_work), 0);
    ck_assert_str_eq(captured, "");
    ck_assert_int_eq(capture(quiet_work), 0);
    ck_assert_str_eq(captured, "");
    ck_assert_int_eq(capture(long_work), 0);
    char *first = strtok(captured, "\n"), *second = strtok(NULL, "\n");
    ck_assert_ptr_nonnull(second);
    ck_assert_ptr_null(strtok(NULL, "\n"));
    ck_assert_msg(strncmp(first, "load [", 6) == 0 && strstr(first, "shard 1"), "%s", first);
    ck_assert_msg(strstr(second, "[########################] 1000/1000 pairs"), "%s", second);
}
END_TEST

START_TEST(tables_align)
{
    char text[1024] = "";
    FILE *out = fmemopen(text, sizeof(text) - 1, "w");
    struct sp_table *table = sp_table_new((const char *const[]){"name", ">pairs", "state", NULL});
    sp_table_cell(table, "a\nb");
    sp_table_cell(table, "%d", 12345);
    sp_table_cell(table, "open");
    sp_table_cell(table, "größer");
    sp_table_cell(table, "7");
    sp_table_print(table, out);
    sp_table_free(table);
    sp_table_free(NULL);
    fclose(out);
    ck_assert_str_eq(text, "name    pairs  state\n"
                           "a b     12345  open\n"
                           "größer      7  \n");
}
END_TEST

static atomic_int stops, reloads;

static void on_stop(void *context)
{
    atomic_fetch_add((atomic_int *)context, 1);
}

static void on_reload(void *context)
{
    atomic_fetch_add(&reloads, 1);
}

static void wait_for(atomic_int *counter, int value)
{
    for (int i = 0; i < 500 && atomic_load(counter) < value; i++)
        sp_sleep_ms(10);
    if (atomic_load(counter) != value)
        _exit(77);
}

static void be_a_daemon(void)
{
    const struct sp_daemon_hooks hooks = {on_stop, on_reload, &stops};
    sp_daemon_init(&hooks);
    sp_daemon_ready();
    sp_daemon_status("at work\n%d", 1);
    sp_daemon_watchdog();
    if (sp_daemon_stopping())
        _exit(78);
    raise(SIGPIPE); /* ignored */
    kill(getpid(), SIGHUP);
    wait_for(&reloads, 1);
    kill(getpid(), SIGTERM);
    wait_for(&stops, 1);
    if (!sp_daemon_stopping())
        _exit(79);
    sp_daemon_stopping_notify();
    kill(getpid(), SIGINT);
    sp_sleep_ms(5000);
}

static atomic_int slow_step;

static void on_reload_slowly(void *context)
{
    (void)context;
    atomic_store(&slow_step, 1);
    sp_sleep_ms(100);
    atomic_store(&slow_step, 2);
}

/* What hooks use may be freed then: none is being called, and none will be. */
static void end_hooks(void)
{
    const struct sp_daemon_hooks hooks = {.on_reload = on_reload_slowly};
    sp_daemon_init(&hooks);
    kill(getpid(), SIGHUP);
    for (int i = 0; i < 500 && atomic_load(&slow_step) == 0; i++)
        sp_sleep_ms(10);
    sp_daemon_end();
    if (atomic_exchange(&slow_step, 0) != 2)
        _exit(80);
    kill(getpid(), SIGHUP);
    kill(getpid(), SIGTERM);
    for (int i = 0; i < 500 && !sp_daemon_stopping(); i++)
        sp_sleep_ms(10); /* signals are still taken, in their order */
    _exit(atomic_load(&slow_step) == 0 && sp_daemon_stopping() ? 0 : 81);
}

START_TEST(ended_hooks_are_not_called)
{
    int status = capture(end_hooks);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(signals_stop_reload_and_at_last_kill)
{
    int status = capture(be_a_daemon);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 130);
}
END_TEST

static void fail_an_assert(void)
{
    SP_ASSERT(1 + 1 == 3);
}

START_TEST(asserts_name_the_place)
{
    int status = capture(fail_an_assert);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    ck_assert_msg(strstr(captured, "assertion failed: 1 + 1 == 3") != NULL, "%s", captured);
}
END_TEST

/* A message must hold a chunk, a manifest, and their envelope. */
START_TEST(limits_fit_into_each_other)
{
    ck_assert_int_gt(SP_MAX_MESSAGE, SP_MAX_CHUNK + 65536);
    ck_assert_int_gt(SP_MAX_MESSAGE, SP_MAX_MANIFEST + 65536);
    ck_assert_int_ge(SP_MAX_DECODED_MESSAGE, 2 * SP_MAX_MESSAGE);
#define POSITIVE(name, value, what)                                                                \
    ck_assert_int_gt(name, 0);                                                                     \
    ck_assert_str_ne(what, "");
    SP_LIMIT_LIST(POSITIVE)
#undef POSITIVE
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("output");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 20);
    tcase_add_test(t, log_lines);
    tcase_add_test(t, log_under_the_journal);
    tcase_add_test(t, log_of_a_request);
    tcase_add_test(t, log_levels);
    tcase_add_test(t, progress_is_for_long_work_only);
    tcase_add_test(t, tables_align);
    tcase_add_test(t, signals_stop_reload_and_at_last_kill);
    tcase_add_test(t, ended_hooks_are_not_called);
    tcase_add_test(t, asserts_name_the_place);
    tcase_add_test(t, limits_fit_into_each_other);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

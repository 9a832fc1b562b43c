#include "common/base/daemon_cli.h"

#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"

struct values {
    int64_t threads, slots;
    char *dir;
};
#define AT(field) offsetof(struct values, field)

static const struct sp_setting settings[] = {
    {"worker", "threads", SP_SET_I64, AT(threads), "1", 0, 64, "", "", "How many threads."},
    {"worker", "slots", SP_SET_I64, AT(slots), "8", 1, 64, "", "", "How many slots."},
    {"worker", "state_dir", SP_SET_STR, AT(dir), "/var/x", 0, 0, "", "", "Where things are."},
};
static const struct sp_config_spec spec = {"test settings", settings, SP_COUNT(settings),
                                           sizeof(struct values)};
static const struct sp_cli_alias aliases[] = {{"state-dir", "DIR", "worker.state_dir"}};
static const struct sp_daemon_cli program = {.doc = "Tests.",
                                             .example = "worker.slots=3",
                                             .spec = &spec,
                                             .aliases = aliases,
                                             .alias_count = SP_COUNT(aliases)};

static enum sp_err parse(const struct sp_daemon_cli *cli, char **argv, struct values *v,
                         void *more_input, struct sp_error *err)
{
    int argc = 0;
    while (argv[argc] != NULL)
        argc++;
    return sp_daemon_cli_parse(cli, argc, argv, v, more_input, err);
}

START_TEST(later_options_win_and_a_file_stands_first)
{
    char path[] = "/tmp/spin-cli-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    static const char text[] = "[worker]\nthreads = 5\nslots = 6\nstate_dir = /from/file\n";
    ck_assert_int_eq(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    close(fd);
    char *argv[] = {(char[]){"x"},
                    (char[]){"--set"},
                    (char[]){"slots=7"},
                    (char[]){"--state-dir"},
                    (char[]){"/a"},
                    (char[]){"--config"},
                    path,
                    (char[]){"--set"},
                    (char[]){"worker.state_dir=/b"},
                    NULL};
    struct values v;
    struct sp_error err = {0};
    ck_assert_int_eq(parse(&program, argv, &v, NULL, &err), SP_OK);
    ck_assert_int_eq(v.threads, 5);
    ck_assert_int_eq(v.slots, 7);
    ck_assert_str_eq(v.dir, "/b");
    sp_config_deinit(&spec, &v);
    unlink(path);
}
END_TEST

START_TEST(a_bad_assignment_names_the_command_line)
{
    char *argv[] = {(char[]){"x"}, (char[]){"--set"}, (char[]){"slots=65"}, NULL};
    struct values v;
    struct sp_error err = {0};
    ck_assert_int_ne(parse(&program, argv, &v, NULL, &err), SP_OK);
    ck_assert_ptr_nonnull(strstr(err.text, "command line"));
    ck_assert_ptr_nonnull(strstr(err.text, "slots"));
    sp_config_deinit(&spec, &v);
}
END_TEST

static error_t parse_flag(int key, char *value, struct argp_state *state)
{
    if (key != 'f')
        return ARGP_ERR_UNKNOWN;
    *(bool *)state->input = true;
    return 0;
}

START_TEST(a_program_has_options_of_its_own)
{
    static const struct argp_option own[] = {{"flag", 'f', NULL, 0, "A flag", 0}, {0}};
    static const struct argp more = {.options = own, .parser = parse_flag};
    struct sp_daemon_cli with_more = program;
    with_more.more = &more;
    char *argv[] = {(char[]){"x"}, (char[]){"--flag"}, (char[]){"--state-dir=/c"}, NULL};
    struct values v;
    struct sp_error err = {0};
    bool flag = false;
    ck_assert_int_eq(parse(&with_more, argv, &v, &flag, &err), SP_OK);
    ck_assert(flag);
    ck_assert_str_eq(v.dir, "/c");
    ck_assert_int_eq(v.slots, 8);
    sp_config_deinit(&spec, &v);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("daemon_cli");
    TCase *t = tcase_create("all");
    tcase_add_test(t, later_options_win_and_a_file_stands_first);
    tcase_add_test(t, a_bad_assignment_names_the_command_line);
    tcase_add_test(t, a_program_has_options_of_its_own);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

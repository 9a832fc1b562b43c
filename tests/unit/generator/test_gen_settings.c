/* The configuration that generator and trainer share: bad files, bad values, bad token files. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/fs.h"
#include "common/base/mem.h"
#include "generator/settings.h"
#include "tests/unit/check_main.h"

static char dir[] = "/tmp/spin-settings-XXXXXX";

static void setup(void)
{
    snprintf(dir, sizeof(dir), "/tmp/spin-settings-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
    struct sp_error err;
    ck_assert_int_eq(sp_remove_tree(dir, &err), SP_OK);
}

static enum sp_err parse(const char *text, struct gen_settings *settings, struct sp_error *err)
{
    sp_config_init(&gen_settings_spec, settings);
    return sp_config_parse(&gen_settings_spec, text, strlen(text), "g.conf", settings, err);
}

START_TEST(test_defaults_follow_from_the_state_directory)
{
    struct gen_settings settings;
    struct sp_error err = {0};
    ck_assert_int_eq(parse("[worker]\nstate_dir = /srv/spin\n", &settings, &err), SP_OK);
    ck_assert_int_eq(worker_settings_finish(&settings.worker, "generator", &err), SP_OK);
    ck_assert_str_eq(settings.worker.url, "ipc:///srv/spin/coordinator.sock");
    ck_assert_str_eq(settings.worker.cache_dir, "/srv/spin/cache");
    ck_assert_int_eq(strncmp(settings.worker.name, "generator-", 10), 0);
    ck_assert_int_eq(settings.slots, 32);
    sp_config_deinit(&gen_settings_spec, &settings);
}
END_TEST

START_TEST(test_bad_configurations_name_the_line_and_the_field)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"[generate]\nslots = 0\n", "slots"},
        {"[generate]\nslots = 100000\n", "slots"},
        {"[generate]\nslots = many\n", "slots"},
        {"[generate]\nslot = 4\n", "slots"}, /* the nearest name is told */
        {"[generator]\nslots = 4\n", "generator"},
        {"[generate]\nslots = 4\nslots = 5\n", "slots"},
        {"slots = 4\n", "slots"},
        {"[generate\nslots = 4\n", "g.conf:1"},
        {"[coordinator]\nrequest_timeout = 5 parsecs\n", "request_timeout"},
        {"[weights]\ncache_limit = -1\n", "cache_limit"},
        {"[compute]\nthreads = 1.5\n", "threads"},
        {"[generate]\nsubmit_items = 2000\n", "submit_items"},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct gen_settings settings;
        struct sp_error err = {0};
        ck_assert_msg(parse(cases[i].text, &settings, &err) != SP_OK, "case %zu was taken", i);
        ck_assert_msg(strstr(err.text, cases[i].expected) != NULL &&
                          strstr(err.text, "g.conf") != NULL,
                      "case %zu: %s", i, err.text);
        sp_config_deinit(&gen_settings_spec, &settings);
    }
}
END_TEST

START_TEST(test_settings_that_need_each_other)
{
    struct gen_settings settings;
    struct sp_error err = {0};
    ck_assert_int_eq(parse("[coordinator]\nurl = tls+tcp://c:7070\n", &settings, &err), SP_OK);
    ck_assert_int_eq(worker_settings_finish(&settings.worker, "generator", &err), SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "tls_ca"));
    sp_config_deinit(&gen_settings_spec, &settings);
    ck_assert_int_eq(
        parse("[coordinator]\nbackoff_min = 2 s\nbackoff_max = 1 s\n", &settings, &err), SP_OK);
    ck_assert_int_eq(worker_settings_finish(&settings.worker, "generator", &err), SP_EINVAL);
    sp_config_deinit(&gen_settings_spec, &settings);
}
END_TEST

/* Chunks are given nowhere unless asked, and under an address that others can dial. */
START_TEST(test_serving)
{
    struct gen_settings settings;
    struct sp_error err = {0};
    ck_assert_int_eq(parse("", &settings, &err), SP_OK);
    ck_assert_str_eq(settings.serve, "");
    ck_assert(settings.worker.peers);
    ck_assert_int_eq(gen_settings_finish(&settings, &err), SP_OK);
    sp_config_deinit(&gen_settings_spec, &settings);
    static const char *const wild[] = {"0.0.0.0", "[::]", "*"};
    for (size_t i = 0; i < SP_COUNT(wild); i++) {
        char text[128];
        snprintf(text, sizeof(text), "[weights]\nserve = tls+tcp://%s:7072\n", wild[i]);
        ck_assert_int_eq(parse(text, &settings, &err), SP_OK);
        ck_assert_int_eq(gen_settings_finish(&settings, &err), SP_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.text, "serve_as"));
        sp_config_deinit(&gen_settings_spec, &settings);
    }
    ck_assert_int_eq(parse("[weights]\nserve = tls+tcp://gpu1:7072\n", &settings, &err), SP_OK);
    ck_assert_int_eq(gen_settings_finish(&settings, &err), SP_OK);
    ck_assert_str_eq(settings.serve_as, "tls+tcp://gpu1:7072");
    sp_config_deinit(&gen_settings_spec, &settings);
}
END_TEST

static enum sp_err read_token(const char *content, char **ret, struct sp_error *err)
{
    struct gen_settings settings;
    struct sp_error detail;
    sp_config_init(&gen_settings_spec, &settings);
    free(settings.worker.token_file);
    settings.worker.token_file = sp_path_join(dir, "token");
    if (content != NULL)
        ck_assert_int_eq(sp_write_file_durable(settings.worker.token_file, content, strlen(content),
                                               0600, &detail),
                         SP_OK);
    enum sp_err rc = worker_read_token(&settings.worker, ret, err);
    sp_config_deinit(&gen_settings_spec, &settings);
    return rc;
}

START_TEST(test_token_files)
{
    struct sp_error err = {0};
    char *token = NULL;
    ck_assert_int_eq(read_token(NULL, &token, &err), SP_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "token"));
    ck_assert_int_eq(read_token("", &token, &err), SP_EFORMAT);
    ck_assert_int_eq(read_token("no-dot\n", &token, &err), SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "spinctl token create"));
    ck_assert_ptr_null(token);
    ck_assert_int_eq(read_token("id.secret\n", &token, &err), SP_OK);
    ck_assert_str_eq(token, "id.secret");
    free(token);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("generator/settings");
    TCase *c = tcase_create("settings");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_defaults_follow_from_the_state_directory);
    tcase_add_test(c, test_bad_configurations_name_the_line_and_the_field);
    tcase_add_test(c, test_settings_that_need_each_other);
    tcase_add_test(c, test_serving);
    tcase_add_test(c, test_token_files);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

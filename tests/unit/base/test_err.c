#include "common/base/err.h"
#include "common/base/utf8.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "tests/unit/check_main.h"

START_TEST(fail_sets_code_and_text)
{
    struct sp_error err;
    ck_assert_int_eq(sp_fail(&err, SP_EFORMAT, "shard %d", 2), SP_EFORMAT);
    ck_assert_int_eq(err.code, SP_EFORMAT);
    ck_assert_str_eq(err.text, "shard 2");
    ck_assert_int_eq(sp_fail(NULL, SP_EIO, "nobody listens"), SP_EIO);
}
END_TEST

START_TEST(wrap_reads_from_the_general_to_the_particular)
{
    struct sp_error err;
    enum sp_err rc = sp_fail(&err, SP_EFORMAT, "512 bytes, expected 1152");
    rc = sp_wrap(&err, rc, "tensor %s", "model.norm.weight");
    rc = sp_wrap(&err, rc, "load checkpoint");
    ck_assert_int_eq(rc, SP_EFORMAT);
    ck_assert_str_eq(err.text,
                     "load checkpoint: tensor model.norm.weight: 512 bytes, expected 1152");
    ck_assert_int_eq(sp_wrap(NULL, SP_EIO, "x"), SP_EIO);
}
END_TEST

START_TEST(text_may_be_its_own_argument)
{
    struct sp_error err;
    sp_fail(&err, SP_EIO, "inner");
    ck_assert_int_eq(sp_fail(&err, SP_EIO, "outer: %s", err.text), SP_EIO);
    ck_assert_str_eq(err.text, "outer: inner");
}
END_TEST

START_TEST(text_is_one_bounded_line)
{
    struct sp_error err;
    sp_fail(&err, SP_EFORMAT, "a\nb\tc\x1b[31md\r");
    ck_assert_str_eq(err.text, "a b c?[31md ");
    char large[5000];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = 0;
    sp_fail(&err, SP_EFORMAT, "%s", large);
    ck_assert_uint_eq(strlen(err.text), SP_ERROR_TEXT_BYTES - 1);
    sp_wrap(&err, SP_EFORMAT, "%s", large);
    ck_assert_uint_eq(strlen(err.text), SP_ERROR_TEXT_BYTES - 1);
}
END_TEST

START_TEST(text_is_utf8)
{
    struct sp_error err = {0};
    sp_fail(&err, SP_EFORMAT, "field \"%.3s\": \xff\xed\xa0\x80 \xe2\x82\xac", "ab\xc3\xa9");
    ck_assert_str_eq(err.text, "field \"ab?\": ???? \xe2\x82\xac");
    char longer[2 * SP_ERROR_TEXT_BYTES];
    for (size_t i = 0; i < sizeof(longer); i++)
        longer[i] = i % 2 ? '\xa9' : '\xc3';
    longer[sizeof(longer) - 1] = '\0';
    sp_fail(&err, SP_EFORMAT, "%s", longer);
    ck_assert(sp_is_utf8(err.text, strlen(err.text)));
}
END_TEST

START_TEST(errno_chooses_the_code)
{
    static const struct {
        int number;
        enum sp_err code;
    } cases[] = {{ENOENT, SP_ENOTFOUND}, {EEXIST, SP_EEXIST}, {EACCES, SP_EDENIED},
                 {EPERM, SP_EDENIED},    {ENOMEM, SP_ENOMEM}, {EIO, SP_EIO},
                 {ENOSPC, SP_EIO}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct sp_error err;
        ck_assert_int_eq(sp_fail_errno(&err, cases[i].number, "%s", "f.txt"), cases[i].code);
        char expected[200];
        snprintf(expected, sizeof(expected), "f.txt: %s", strerror(cases[i].number));
        ck_assert_str_eq(err.text, expected);
    }
}
END_TEST

START_TEST(codes_have_names_texts_and_distinct_exits)
{
    bool used[256] = {false};
    for (int n = 0; n <= SP_EINTERNAL; n++) {
        enum sp_err code = sp_err_from_number(n);
        ck_assert_int_eq(code, n);
        ck_assert_int_eq(strncmp(sp_err_name(code), "SP_", 3), 0);
        ck_assert_str_ne(sp_err_name(code), "SP_UNKNOWN");
        ck_assert_str_ne(sp_err_text(code), "unknown error");
        int exit_code = sp_err_exit_code(code);
        ck_assert(exit_code >= 0 && exit_code < 126 && !used[exit_code]);
        used[exit_code] = true;
    }
    ck_assert_int_eq(sp_err_exit_code(SP_OK), 0);
    ck_assert_int_eq(sp_err_from_number(9999), SP_EINTERNAL);
    ck_assert_int_eq(sp_err_from_number(-1), SP_EINTERNAL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("err");
    TCase *t = tcase_create("all");
    tcase_add_test(t, fail_sets_code_and_text);
    tcase_add_test(t, wrap_reads_from_the_general_to_the_particular);
    tcase_add_test(t, text_may_be_its_own_argument);
    tcase_add_test(t, text_is_one_bounded_line);
    tcase_add_test(t, text_is_utf8);
    tcase_add_test(t, errno_chooses_the_code);
    tcase_add_test(t, codes_have_names_texts_and_distinct_exits);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

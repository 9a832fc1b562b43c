/* Expressions as Python's re has them: findall with groups and empty matches, sub, strip. */
#include <string.h>

#include "common/text/expression.h"
#include "tests/unit/check_main.h"

static const char *find(const char *source, const char *text, int select)
{
    static struct sp_buf found = SP_BUF_INIT;
    struct tok_expression *expression = NULL;
    struct sp_error err = {0};
    bool any = false;
    sp_buf_clear(&found);
    sp_buf_reserve(&found, 1);
    ck_assert_msg(tok_expression_compile(source, "test", &expression, &err) == SP_OK, "%s",
                  err.text);
    ck_assert(tok_expression_find(expression, text, strlen(text), select, &found, &any, &err) ==
              SP_OK);
    tok_expression_free(expression);
    return any ? found.data : NULL;
}

static const char *without(const char *source, const char *text)
{
    static struct sp_buf left = SP_BUF_INIT;
    struct tok_expression *expression = NULL;
    struct sp_error err = {0};
    sp_buf_clear(&left);
    sp_buf_reserve(&left, 1);
    ck_assert(tok_expression_compile(source, "test", &expression, &err) == SP_OK);
    ck_assert(tok_expression_remove(expression, text, strlen(text), &left, &err) == SP_OK);
    tok_expression_free(expression);
    return left.data;
}

START_TEST(test_find_selects_matches_and_groups)
{
    ck_assert_str_eq(find("[0-9]+", "1 22 333", 0), "1");
    ck_assert_str_eq(find("[0-9]+", "1 22 333", 1), "22");
    ck_assert_str_eq(find("[0-9]+", "1 22 333", -1), "333");
    ck_assert_ptr_null(find("[0-9]+", "none", 0));
    ck_assert_ptr_null(find("[0-9]+", "none", -1));
    ck_assert_ptr_null(find("[0-9]+", "1", 1));
    ck_assert_str_eq(find("#### (\\-?[0-9\\.\\,]+)", "a #### -1,000.5 b", 0), "-1,000.5");
    /* Several groups: the first that is not empty. */
    ck_assert_str_eq(find("(a)|(b)", "b", 0), "b");
    ck_assert_str_eq(find("(-?[$0-9.,]{2,})|(-?[0-9]+)", "x 5 and $12.", -1), "$12.");
    ck_assert_ptr_null(find("(x*)(y*)", "", 0));
    /* re.findall("a*", "baac") is ["", "aa", "", ""]. */
    ck_assert_str_eq(find("a*", "baac", 1), "aa");
    ck_assert_str_eq(find("a*", "baac", 3), "");
    ck_assert_ptr_null(find("a*", "baac", 4));
}
END_TEST

START_TEST(test_remove_takes_every_match)
{
    ck_assert_str_eq(without(",", "1,000,000"), "1000000");
    ck_assert_str_eq(without("(?s).*#### ", "line\nline #### 7"), "7");
    ck_assert_str_eq(without("\\.$", "a.b."), "a.b");
    ck_assert_str_eq(without("\\.$", "a.\n"), "a\n");
    ck_assert_str_eq(without("x*", "axb"), "ab");
    ck_assert_str_eq(without("\\$", "kein"), "kein");
}
END_TEST

START_TEST(test_characters_are_unicode)
{
    struct sp_buf lower = SP_BUF_INIT;
    const char *text = "\xc3\x84"
                       "A1";
    tok_lower(text, strlen(text), &lower);
    ck_assert_str_eq(lower.data, "\xc3\xa4"
                                 "a1");
    sp_buf_deinit(&lower);
    ck_assert_str_eq(find("\\w+", "\xc3\xa4z", 0), "\xc3\xa4z");
    const char *spaced = " \xc2\xa0\n a b\xe3\x80\x80 \x1f";
    size_t length = strlen(spaced);
    tok_strip(&spaced, &length);
    ck_assert_uint_eq(length, 3);
    ck_assert(memcmp(spaced, "a b", 3) == 0);
    const char *empty = " \t";
    length = 2;
    tok_strip(&empty, &length);
    ck_assert_uint_eq(length, 0);
}
END_TEST

START_TEST(test_faults_are_named)
{
    struct tok_expression *expression = NULL;
    struct sp_error err = {0};
    ck_assert(tok_expression_compile("a(b", "strict", &expression, &err) == SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "strict"));
    ck_assert(tok_expression_compile("(a+)+$", "slow", &expression, &err) == SP_OK);
    char text[64];
    memset(text, 'a', sizeof(text) - 2);
    strcpy(text + sizeof(text) - 2, "b");
    struct sp_buf found = SP_BUF_INIT;
    bool any = false;
    ck_assert(tok_expression_find(expression, text, strlen(text), 0, &found, &any, &err) ==
              SP_ELIMIT);
    sp_buf_deinit(&found);
    tok_expression_free(expression);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("task_expression");
    TCase *t = tcase_create("expression");
    tcase_add_test(t, test_find_selects_matches_and_groups);
    tcase_add_test(t, test_remove_takes_every_match);
    tcase_add_test(t, test_characters_are_unicode);
    tcase_add_test(t, test_faults_are_named);
    suite_add_tcase(s, t);
    return s;
}
SPIN_CHECK_MAIN(suite())

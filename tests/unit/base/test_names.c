#include "common/base/names.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/check_main.h"

#define MANY 5000

START_TEST(numbers_in_the_order_of_coming)
{
    struct sp_names names = {0};
    char text[32];
    ck_assert_uint_eq(sp_names_find(&names, "a", 1), 0);
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(text, sizeof(text), "worker-%u", i);
        ck_assert_uint_eq(sp_names_find(&names, text, strlen(text)), 0);
        ck_assert_uint_eq(sp_names_add(&names, text), i + 1);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(text, sizeof(text), "worker-%u", i);
        ck_assert_uint_eq(sp_names_add(&names, text), i + 1);
        ck_assert_uint_eq(sp_names_find(&names, text, strlen(text)), i + 1);
        ck_assert_str_eq(names.texts[i], text);
    }
    ck_assert_uint_eq(names.count, MANY);
    sp_names_deinit(&names);
    ck_assert_uint_eq(sp_names_find(&names, "worker-1", 8), 0);
}
END_TEST

/* A part of a known text is another text. */
START_TEST(parts_of_texts)
{
    struct sp_names names = {0};
    ck_assert_uint_eq(sp_names_add(&names, "generator-1"), 1);
    ck_assert_uint_eq(sp_names_find(&names, "generator-1.secret", 11), 1);
    ck_assert_uint_eq(sp_names_find(&names, "generator-1", 10), 0);
    ck_assert_uint_eq(sp_names_find(&names, "generator-12", 12), 0);
    ck_assert_uint_eq(sp_names_add(&names, ""), 2);
    ck_assert_uint_eq(sp_names_find(&names, "x", 0), 2);
    sp_names_deinit(&names);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("names");
    TCase *t = tcase_create("names");
    tcase_add_test(t, numbers_in_the_order_of_coming);
    tcase_add_test(t, parts_of_texts);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

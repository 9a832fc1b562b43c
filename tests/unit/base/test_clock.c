#include "common/base/clock.h"

#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "tests/unit/check_main.h"

#include <string.h>

START_TEST(time_moves_forward)
{
    int64_t start = sp_now_ms(), start_ns = sp_now_ns();
    sp_sleep_ms(30);
    ck_assert_int_ge(sp_now_ms() - start, 29);
    ck_assert_int_ge(sp_now_ns() - start_ns, 29000000);
    sp_sleep_ms(0);
    sp_sleep_ms(-5);
    ck_assert_int_gt(sp_wall_ms(), 1700000000000);
}
END_TEST

START_TEST(utc)
{
    char text[32];
    sp_format_utc(0, text);
    ck_assert_str_eq(text, "1970-01-01T00:00:00.000Z");
    sp_format_utc(1769862896789, text);
    ck_assert_str_eq(text, "2026-01-31T12:34:56.789Z");
    sp_format_utc(-1, text);
    ck_assert_str_eq(text, "1969-12-31T23:59:59.999Z");
    sp_format_utc(INT64_MAX, text); /* whatever it is, it is bounded */
    ck_assert_uint_lt(strlen(text), 32);
}
END_TEST

START_TEST(durations)
{
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {
        {0, "0 ms"},
        {450, "450 ms"},
        {999, "999 ms"},
        {1000, "1.0 s"},
        {12345, "12.3 s"},
        {59949, "59.9 s"},
        {59960, "1 min 00 s"},
        {90000, "1 min 30 s"},
        {3599400, "59 min 59 s"},
        {3599600, "1 h 00 min"},
        {3720000, "1 h 02 min"},
        {200000000, "2 d 07 h"},
        {-12345, "-12.3 s"},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        char text[40];
        sp_format_duration(cases[i].ms, text, sizeof(text));
        ck_assert_str_eq(text, cases[i].text);
    }
    char small[4];
    sp_format_duration(INT64_MIN, small, sizeof(small));
    ck_assert_uint_lt(strlen(small), sizeof(small));
}
END_TEST

START_TEST(byte_counts)
{
    static const struct {
        uint64_t n;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {1536, "1.5 KiB"},
        {1048575, "1.0 MiB"},
        {(uint64_t)3 << 29, "1.5 GiB"},
        {UINT64_MAX, "16.0 EiB"},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        char text[40];
        sp_format_bytes(cases[i].n, text, sizeof(text));
        ck_assert_str_eq(text, cases[i].text);
    }
}
END_TEST

START_TEST(utf8)
{
    static const char *const good[] = {"",
                                       "abc",
                                       "\xc3\xa4",
                                       "\xe2\x82\xac",
                                       "\xf0\x9f\x98\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "\xc2\x80",
                                       "\xe0\xa0\x80",
                                       "\xf0\x90\x80\x80"};
    static const char *const bad[] = {"\x80",
                                      "\xc3",
                                      "\xc3\x28",
                                      "\xc0\xaf",
                                      "\xc1\xbf",
                                      "\xe2\x82",
                                      "\xe2\x28\xa1",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf0\x9f\x98",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "a\xfe"};
    for (size_t i = 0; i < SP_COUNT(good); i++)
        ck_assert_msg(sp_is_utf8(good[i], strlen(good[i])), "%zu", i);
    for (size_t i = 0; i < SP_COUNT(bad); i++) {
        char *exact = sp_xmemdup(bad[i], strlen(bad[i]));
        ck_assert_msg(!sp_is_utf8(exact, strlen(bad[i])), "%zu", i);
        free(exact);
    }
    ck_assert_uint_eq(sp_utf8_char("\xe2\x82\xac!", 4), 3);
    ck_assert_uint_eq(sp_utf8_char("", 0), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("clock");
    TCase *t = tcase_create("all");
    tcase_add_test(t, time_moves_forward);
    tcase_add_test(t, utc);
    tcase_add_test(t, durations);
    tcase_add_test(t, byte_counts);
    tcase_add_test(t, utf8);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

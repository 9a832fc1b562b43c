/* Silence is told from a process that was stopped, and a canary sings. */
#include "common/base/clock.h"
#include "proto/canary.h"
#include "tests/unit/check_main.h"

START_TEST(test_silence)
{
    struct proto_silence silence = {0};
    int64_t now = 1000000;
    ck_assert(!proto_canary_is_silent(&silence, 1, now));
    for (int i = 0; i < 280; i++)
        ck_assert(!proto_canary_is_silent(&silence, 1, now += 50));  /* 14 s */
    ck_assert(!proto_canary_is_silent(&silence, 1, now += 3600000)); /* stopped for an hour */
    ck_assert(!proto_canary_is_silent(&silence, 2, now += 50));
    bool silent = false;
    int looks = 0;
    for (; looks < 1000 && !silent; looks++)
        silent = proto_canary_is_silent(&silence, 2, now += 50);
    ck_assert_int_eq(looks, 301);
}
END_TEST

START_TEST(test_song)
{
    proto_canary_start();
    int64_t end_ms = sp_now_ms() + 20000;
    while (proto_canary_rounds() < 3 && sp_now_ms() < end_ms)
        sp_sleep_ms(20);
    ck_assert_uint_ge(proto_canary_rounds(), 3);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("canary");
    TCase *t = tcase_create("canary");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, test_silence);
    tcase_add_test(t, test_song);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

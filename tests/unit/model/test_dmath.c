#include "common/model/dmath.h"

#include "tests/unit/model/fixtures.h"

#define DMATH_HASH 0x72b1fd48131ac5fdull

static double relative(double a, long double e)
{
    return e == 0 ? fabs(a) : (double)fabsl(((long double)a - e) / e);
}

START_TEST(exp_and_log)
{
    for (double x = -740; x < 709.7; x += 0.317) {
        long double e = expl((long double)x); /* subnormal results have few bits */
        ck_assert_msg(fabsl((long double)model_exp(x) - e) <= 2e-15L * e + 5e-324L, "exp(%g)", x);
    }
    for (double x = 1e-300; x < 1e300; x *= 1.37)
        ck_assert_msg(relative(model_log(x), logl((long double)x)) < 2e-15, "log(%g)", x);
    for (double x = 0.5; x < 2; x += 0.000731)
        ck_assert_msg(relative(model_log(x), logl((long double)x)) < 2e-15, "log(%g)", x);
    for (double x = -0.99; x < 3; x += 0.0013)
        ck_assert_msg(relative(model_log1p(x), log1pl((long double)x)) < 4e-15, "log1p(%g)", x);
    for (double x = 1e-30; x < 0.3; x *= 1.7)
        ck_assert_msg(relative(model_log1p(x), log1pl((long double)x)) < 2e-15, "log1p(%g)", x);
    ck_assert(model_exp(0) == 1 && model_log(1) == 0 && model_log1p(0) == 0);
    ck_assert(model_log(5e-324) < -744 && model_log(5e-324) > -745);
}
END_TEST

START_TEST(special_values)
{
    ck_assert(model_exp(INFINITY) == INFINITY && model_exp(-INFINITY) == 0);
    ck_assert(model_exp(1e9) == INFINITY && model_exp(-1e9) == 0);
    ck_assert(isnan(model_exp(NAN)) && isnan(model_log(NAN)) && isnan(model_log(-1)));
    ck_assert(model_log(0) == -INFINITY && model_log(INFINITY) == INFINITY);
    ck_assert(model_log1p(-1) == -INFINITY && isnan(model_log1p(NAN)));
}
END_TEST

START_TEST(sine_and_cosine)
{
    for (double x = -1000; x < 200000; x += x < 1000 ? 0.0371 : 37.77) {
        double s, c;
        model_sincos(x, &s, &c);
        ck_assert_msg(fabsl((long double)s - sinl((long double)x)) < 1e-14L, "sin(%g)", x);
        ck_assert_msg(fabsl((long double)c - cosl((long double)x)) < 1e-14L, "cos(%g)", x);
    }
}
END_TEST

START_TEST(powers)
{
    for (double y = 0; y < 1; y += 0.0173)
        ck_assert(relative(model_pow(500000, y), powl(500000, (long double)y)) < 1e-14);
    ck_assert(model_pow(10000, 0) == 1);
}
END_TEST

/* Nothing here may change between versions of anything: these bits are in checkpoints. */
START_TEST(bits_are_fixed)
{
    uint64_t hash = 1469598103934665603ull;
    for (int i = 1; i < 2000; i++) {
        double values[5] = {model_exp(i * 0.37 - 300), model_log(i * 0.731),
                            model_log1p(i * 0.0007 - 0.5)};
        model_sincos(i * 1.234, &values[3], &values[4]);
        for (int k = 0; k < 5; k++) {
            uint64_t bits;
            memcpy(&bits, &values[k], sizeof(bits));
            hash = (hash ^ bits) * 1099511628211ull;
        }
    }
    ck_assert_msg(hash == DMATH_HASH, "hash %#llx", (unsigned long long)hash);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("dmath");
    TCase *t = tcase_create("dmath");
    tcase_add_test(t, exp_and_log);
    tcase_add_test(t, special_values);
    tcase_add_test(t, sine_and_cosine);
    tcase_add_test(t, powers);
    tcase_add_test(t, bits_are_fixed);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

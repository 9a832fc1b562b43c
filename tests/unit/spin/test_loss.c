#include "common/spin/loss.h"

#include "tests/unit/model/fixtures.h"

/* From long double libm: an independent road to the same numbers. */
static long double expected_value(const struct spin_loss *l, long double m)
{
    switch (l->kind) {
    case SPIN_LOSS_LOGISTIC:
        return m > 0 ? log1pl(expl(-m)) : -m + log1pl(expl(m));
    case SPIN_LOSS_HINGE:
        return m < 1 ? 1 - m : 0;
    case SPIN_LOSS_EXPONENTIAL:
        return expl(-m);
    case SPIN_LOSS_CORRELATION:
        return 1 - m;
    case SPIN_LOSS_IPO:
        break;
    }
    long double d = m / l->beta - 1 / (2.0L * l->tau);
    return d * d;
}

START_TEST(values_and_slopes)
{
    for (int kind = 0; kind < 5; kind++) {
        struct spin_loss l = {(enum spin_loss_kind)kind, 0.25, 0.7};
        for (double m = -40; m <= 40; m += 0.173) {
            double value = spin_loss_value(&l, m), e = (double)expected_value(&l, m);
            ck_assert_msg(fabs(value - e) <= 1e-14 * (1 + fabs(e)), "%s(%g) = %.17g, not %.17g",
                          spin_loss_name(l.kind), m, value, e);
            const long double h = 1e-6L;
            double slope = (double)((expected_value(&l, (long double)m + h) -
                                     expected_value(&l, (long double)m - h)) /
                                    (2 * h));
            ck_assert_msg(fabs(spin_loss_slope(&l, m) - slope) <= 1e-8 * (1 + fabs(slope)),
                          "%s'(%g) = %.17g, not %.17g", spin_loss_name(l.kind), m,
                          spin_loss_slope(&l, m), slope);
        }
    }
}
END_TEST

START_TEST(far_margins_stay_finite)
{
    struct spin_loss l = {SPIN_LOSS_LOGISTIC, 1, 1};
    ck_assert(spin_loss_value(&l, 1e6) == 0);
    ck_assert(spin_loss_value(&l, -1e6) == 1e6);
    ck_assert(spin_loss_slope(&l, -1e6) == -1);
    ck_assert(spin_loss_slope(&l, 1e6) == 0);
    ck_assert(fabs(spin_loss_value(&l, 0) - 0.69314718055994530942) < 1e-16);
    ck_assert(spin_loss_slope(&l, 0) == -0.5);
    l.kind = SPIN_LOSS_EXPONENTIAL;
    ck_assert(isinf(spin_loss_value(&l, -1e6)));
    l.kind = SPIN_LOSS_HINGE;
    ck_assert(spin_loss_slope(&l, 1) == 0);
    for (int kind = 0; kind < 5; kind++) {
        l.kind = (enum spin_loss_kind)kind;
        ck_assert(isnan(spin_loss_value(&l, NAN)));
    }
}
END_TEST

START_TEST(margin)
{
    ck_assert(spin_margin(0.5, -10, -12, -20, -19) == 1.5);
    ck_assert(spin_margin(5, -10.1f, -10.1f, -20.3f, -20.3f) == 0);
    ck_assert(spin_margin(0.1, -3, -3, -9, -9.5f) < 0);
}
END_TEST

START_TEST(names)
{
    for (int kind = 0; kind < 5; kind++) {
        enum spin_loss_kind parsed = SPIN_LOSS_LOGISTIC;
        ck_ok(spin_loss_parse(spin_loss_name((enum spin_loss_kind)kind), &parsed, err));
        ck_assert_int_eq(parsed, kind);
    }
    enum spin_loss_kind untouched = SPIN_LOSS_IPO;
    ck_fails(SP_EINVAL, "Logistic", spin_loss_parse("Logistic", &untouched, err));
    ck_assert_int_eq(untouched, SPIN_LOSS_IPO);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("loss");
    TCase *t = tcase_create("loss");
    tcase_add_test(t, values_and_slopes);
    tcase_add_test(t, far_margins_stay_finite);
    tcase_add_test(t, margin);
    tcase_add_test(t, names);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

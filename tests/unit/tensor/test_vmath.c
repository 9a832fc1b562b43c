/* exp and log against the C library's in higher precision. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/kern.h"
#include "common/tensor/cpu/log.h"
#include "tests/unit/tensor/tensor_test.h"

/* Distance from the exact value, in units of the last place of a float of its size. */
static double ulps(float got, long double exact)
{
    float nearest = (float)exact;
    float next = nextafterf(fabsf(nearest), INFINITY);
    return (double)(fabsl((long double)got - exact) / ((long double)next - fabsf(nearest)));
}

static const struct tn_kern *kernels(int i)
{
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    struct tn_backend *backend = open_backend("cpu", isas[i], 1);
    if (!backend)
        return NULL;
    tn_close(backend);
#if defined(__x86_64__)
    if (i > 0)
        return i == 1 ? &tn_kern_avx2 : &tn_kern_avx512;
#endif
    return &tn_kern_generic;
}

START_TEST(exp_is_close)
{
    const struct tn_kern *kern = kernels(_i);
    if (!kern)
        return;
    enum { COUNT = 400000 };
    float *x = zeros(COUNT), *y = zeros(COUNT);
    for (size_t i = 0; i < COUNT; i++)
        x[i] = (float)(-87.336 + 176.0 * (double)i / COUNT);
    kern->exp(y, x, COUNT);
    double worst = 0.0;
    for (size_t i = 0; i < COUNT; i++)
        if (x[i] < 88.7f)
            worst = fmax(worst, ulps(y[i], expl((long double)x[i])));
    for (size_t i = 0; i < COUNT; i++)
        x[i] = (float)(2.0 * (double)i / COUNT - 1.0);
    kern->exp(y, x, COUNT);
    for (size_t i = 0; i < COUNT; i++)
        worst = fmax(worst, ulps(y[i], expl((long double)x[i])));
    ck_assert_msg(worst < 2.0, "exp is off by %.2f ulp", worst);
    ck_assert_msg(worst > 0.4, "the measure is wrong: %.2f ulp", worst);
}
END_TEST

START_TEST(exp_at_the_edges)
{
    const struct tn_kern *kern = kernels(_i);
    if (!kern)
        return;
    const float x[] = {0.0f, -0.0f, 1.0f, 89.0f, 1e30f, INFINITY, -87.4f, -1e30f, -INFINITY, NAN};
    float y[SP_COUNT(x)];
    kern->exp(y, x, SP_COUNT(x));
    ck_assert(y[0] == 1.0f && y[1] == 1.0f);
    ck_assert(fabsf(y[2] - 2.71828183f) < 3e-7f);
    ck_assert(isinf(y[3]) && isinf(y[4]) && isinf(y[5]));
    ck_assert(y[6] == 0.0f && y[7] == 0.0f && y[8] == 0.0f);
    ck_assert(isnan(y[9]));
}
END_TEST

START_TEST(log_is_close)
{
    double worst = 0.0;
    for (int i = 0; i < 300000; i++) {
        float x = i < 100000 ? 0.5f + (float)i * 1e-5f : ldexpf(1.0f + (float)i * 3e-6f, i % 270 - 140);
        worst = fmax(worst, ulps(tn_logf(x), logl((long double)x)));
    }
    ck_assert_msg(worst < 0.51, "log is off by %.3f ulp", worst);
    ck_assert(tn_logf(1.0f) == 0.0f);
    ck_assert(isinf(tn_logf(0.0f)) && tn_logf(0.0f) < 0.0f);
    ck_assert(isnan(tn_logf(-1.0f)) && isnan(tn_logf(NAN)));
    ck_assert(isinf(tn_logf(INFINITY)));
    ck_assert(fabs(tn_log(5e-324) - log(5e-324)) < 1e-10);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("vmath");
    TCase *tcase = tcase_create("vmath");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, NULL, free_arrays);
    tcase_add_loop_test(tcase, exp_is_close, 0, 3);
    tcase_add_loop_test(tcase, exp_at_the_edges, 0, 3);
    tcase_add_test(tcase, log_is_close);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

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
        float x =
            i < 100000 ? 0.5f + (float)i * 1e-5f : ldexpf(1.0f + (float)i * 3e-6f, i % 270 - 140);
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

/* Sums that lie a hair beside the middle of two floats: rounding them to double first, as an
 * emulation might, gives the middle, and then the wrong neighbour. Through the microkernel, one
 * step deep. */
START_TEST(fused_means_rounded_once)
{
    const struct tn_kern *kern = kernels(_i);
    if (!kern)
        return;
    enum { COUNT = 3000 };
    float a[TN_MAX_MR], b[TN_MAX_NR], c[TN_MAX_NR], want[TN_MAX_NR];
    int differs = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        float sign = i % 2 ? -1.0f : 1.0f;
        a[0] = 0x1p-12f * (1.0f + 0x1p-23f);
        for (uint32_t j = 0; j < TN_MAX_NR; j++) {
            b[j] = sign * 0x1p-12f * (1.0f - 0x1p-23f);
            want[j] = c[j] =
                (1.0f + (float)pick(i, j, 1u << 23) * 0x1p-23f) * (i % 4 < 2 ? 1.0f : -1.0f);
            if (i % 5 == 0) { /* and any numbers at all, subnormal results included */
                fill(&b[j], 1, i * 64 + j, ldexpf(1.0f, (int)pick(i + 1, j, 250) - 145));
                want[j] = c[j] = ldexpf(c[j], (int)pick(i + 2, j, 200) - 145);
            }
            differs += (float)((double)a[0] * b[j] + c[j]) != fmaf(a[0], b[j], c[j]);
            want[j] = fmaf(a[0], b[j], c[j]);
        }
        kern->micro(1, 1, a, 1, b, (size_t)kern->nr, c, TN_MAX_NR, true);
        ck_assert_int_eq(memcmp(c, want, (size_t)kern->nr * sizeof(float)), 0);
    }
    ck_assert_int_gt(differs, 1000);
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
    tcase_add_loop_test(tcase, fused_means_rounded_once, 0, 3);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

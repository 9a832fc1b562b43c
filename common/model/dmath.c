#include "common/model/dmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ln 2 in two parts: the first has 33 bits, so that k × LN2_HI is exact for |k| < 2^20. */
#define LN2_HI 6.93147180369123816490e-01
#define LN2_LO 1.90821492927058770002e-10
#define INV_LN2 1.44269504088896338700e+00

static double pow2(int k)
{
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Rounds to the nearest integer, |x| < 2^51, in the default rounding mode. */
static double nearest(double x)
{
    const double magic = 6755399441055744.0; /* 1.5 × 2^52 */
    volatile double shifted = x + magic;
    return shifted - magic;
}

double model_exp(double x)
{
    if (x != x)
        return x;
    if (x > 709.78)
        return INFINITY;
    if (x < -745.0)
        return 0;
    double k = nearest(x * INV_LN2);
    double r = (x - k * LN2_HI) - k * LN2_LO; /* |r| ≤ 0.35 */
    double sum = 1;
    for (int i = 14; i >= 1; i--)
        sum = 1 + sum * r / i;
    int ki = (int)k;
    if (ki > 1000)
        return sum * pow2(ki - 1) * 2;
    if (ki < -1000)
        return sum * pow2(ki + 100) * pow2(-100);
    return sum * pow2(ki);
}

/* 2·atanh(s) = 2(s + s³/3 + s⁵/5 + …), |s| ≤ 0.1716 */
static double twice_atanh(double s)
{
    double z = s * s, sum = 0;
    for (int i = 21; i >= 3; i -= 2)
        sum = sum * z + 1.0 / i;
    return 2 * s + 2 * s * (z * sum);
}

double model_log(double x)
{
    if (x != x || x < 0)
        return NAN;
    if (x == 0)
        return -INFINITY;
    if (x > 1.79769313486231570e308)
        return x;
    int k = 0;
    if (x < 2.2250738585072014e-308) {
        x *= 18014398509481984.0; /* 2^54 */
        k = -54;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    k += (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
    double m; /* in [1, 2), then [√½, √2) */
    memcpy(&m, &bits, sizeof(m));
    if (m > 1.4142135623730951) {
        m *= 0.5;
        k++;
    }
    return k * LN2_HI + (k * LN2_LO + twice_atanh((m - 1) / (m + 1)));
}

double model_log1p(double x)
{
    if (x > -0.25 && x < 0.25)
        return twice_atanh(x / (2 + x));
    return model_log(1 + x);
}

void model_sincos(double x, double *ret_sin, double *ret_cos)
{
    /* π/2 in three parts; the first two have 33 bits. */
    const double p1 = 1.57079632673412561417e+00, p2 = 6.07710050630396597660e-11,
                 p3 = 2.02226624879595063154e-21;
    double k = nearest(x * 6.36619772367581382433e-01);
    double r = ((x - k * p1) - k * p2) - k * p3; /* |r| ≤ π/4 */
    double z = r * r, s = 1, c = 1;
    /* sin r = r(1 − z/6(1 − z/20(…))), cos r = 1 − z/2(1 − z/12(…)) */
    for (int i = 9; i >= 1; i--) {
        s = 1 - s * z / ((2 * i) * (2 * i + 1));
        c = 1 - c * z / ((2 * i - 1) * (2 * i));
    }
    s *= r;
    switch ((int64_t)k & 3) {
    case 0:
        *ret_sin = s, *ret_cos = c;
        break;
    case 1:
        *ret_sin = c, *ret_cos = -s;
        break;
    case 2:
        *ret_sin = -s, *ret_cos = -c;
        break;
    default:
        *ret_sin = -c, *ret_cos = s;
    }
}

double model_pow(double base, double exponent)
{
    return model_exp(exponent * model_log(base));
}

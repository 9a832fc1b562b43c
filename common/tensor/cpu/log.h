/* log: the natural logarithm of one number, in double with plain operations only, so that its bits
 * are the same everywhere: x = m·2^e, m in [√½, √2), log m = 2·atanh((m−1)/(m+1)) as a series.
 * Good to far below a float's ulp. Zero gives −∞, negative numbers and NaN give NaN. */
#ifndef SPIN_TENSOR_LOG_H
#define SPIN_TENSOR_LOG_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline double tn_log(double x)
{
    if (!(x > 0.0))
        return x == 0.0 ? (double)-INFINITY : (double)NAN;
    if (x > 1.7976931348623157e308)
        return x;
    int64_t bits, shift = 0;
    if (x < 2.2250738585072014e-308) {
        x *= 18014398509481984.0;
        shift = 54;
    }
    memcpy(&bits, &x, 8);
    int64_t exponent = (bits >> 52) - 1023 - shift;
    bits = (bits & 0xfffffffffffff) | 0x3ff0000000000000;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    double s = (m - 1.0) / (m + 1.0), q = s * s, sum = 0.0;
    for (int k = 23; k >= 3; k -= 2)
        sum = (sum + 1.0 / k) * q;
    return (double)exponent * 0.6931471805599453 + 2.0 * (s + s * sum);
}

static inline float tn_logf(float x)
{
    return (float)tn_log((double)x);
}

#endif

/* dmath: exp, log, sine and cosine in double from +, −, ×, ÷ alone, so that results that depend on
 * them (rotation tables, random weights, losses, schedules) have the same bits with every libm.
 * Within 2e-15 relative of the true value in the ranges stated. Any thread. */
#ifndef SPIN_MODEL_DMATH_H
#define SPIN_MODEL_DMATH_H

double model_exp(double x);   /* 0 below −745, infinity above 709.78; NaN stays NaN */
double model_log(double x);   /* x > 0; −infinity at 0, NaN below */
double model_log1p(double x); /* x > −1, without cancellation near 0 */
/* |x| ≤ 1e6: absolute error below 1e-14 */
void model_sincos(double x, double *ret_sin, double *ret_cos);
double model_pow(double base, double exponent); /* base > 0 */

#endif

/* vmath: exp over lanes, log of one number, and the fixed reduction tree, on top of one of the vec
 * headers (include that first). Results of the project use these and not libm's, whose bits differ
 * from version to version.
 *
 * exp: x = n·ln2 + r, |r| ≤ ln2/2, polynomial of degree 7 (coefficients of Cephes expf, S.
 * Moshier), at most 2 ulp off; results that would be subnormal are 0, above 88.72 infinity, NaN
 * stays NaN. */
#ifndef SPIN_TENSOR_VMATH_H
#define SPIN_TENSOR_VMATH_H

#include <math.h>
#include <string.h>

#define V_EXP_LOW (-87.33654f)

static inline vf v_exp(vf x)
{
    const vf magic = v_set1(12582912.0f);
    vf y = v_min(v_set1(89.0f), v_max(v_set1(-88.0f), x));
    vf z = v_fma(y, v_set1(1.44269504088896341f), magic);
    vf n = v_sub(z, magic);
    vf r = v_fnma(n, v_set1(0.693359375f), y);
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf p = v_fma(v_set1(1.9875691500e-4f), r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), r);
    p = v_add(p, v_set1(1.0f));
    return v_zero_below(v_scale2(p, z), x, V_EXP_LOW);
}

/* ((l0+l8)+(l4+l12)) + … : halves added onto each other, 8, 4, 2, 1 apart */
static inline float v_sum(vf v)
{
    float l[16];
    v_store(l, v);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            l[i] += l[i + width];
    return l[0];
}
static inline float v_maximum(vf v)
{
    float l[16];
    v_store(l, v);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            l[i] = l[i] > l[i + width] ? l[i] : l[i + width];
    return l[0];
}

#endif

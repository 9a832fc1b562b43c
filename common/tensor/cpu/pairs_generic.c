/* pairs_generic: products of bf16 pairs in plain C, for machines without AVX2, and what the others
 * are compared with. */
#include <math.h>
#include <string.h>

#include "common/base/half.h"
#include "common/tensor/cpu/pairs.h"

#define NR 16
/* A result below this in magnitude rounds to less than 2^-126 in 24 bits: it is tiny. */
#define TINY (0x1p-126 - 0x1p-151)

static inline float not_denormal(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

/* a·b + c, rounded once, where a and b have 8 significant bits, none of the three is denormal: the
 * product is exact in double, and so is the error of the sum, which rounds the sum to odd; see
 * vec_generic.h. */
static inline float link_of(float a, float b, float c)
{
    double p = (double)a * b, s = p + c, t = s - p, error = (p - (s - t)) + (c - t);
    uint64_t bits;
    memcpy(&bits, &s, sizeof(bits));
    if ((error > 0.0 || error < 0.0) && !(bits & 1))
        bits += (error > 0.0) == (s > 0.0) ? 1 : UINT64_MAX;
    memcpy(&s, &bits, sizeof(s));
    return fabs(s) < TINY ? copysignf(0.0f, (float)s) : (float)s;
}

static void k_round(void *to, const float *x, size_t k)
{
    float *rounded = to;
    for (size_t i = 0; i < k; i++)
        rounded[i] = not_denormal(sp_bf16_to_f32(sp_f32_to_bf16(x[i])));
    if (k % 2)
        rounded[k] = 0;
}

static void k_panels(int32_t m, int32_t panels, size_t depth, const void *x, size_t x_row,
                     const void *b, size_t step, size_t panel, size_t ahead, float *c, size_t ldc,
                     bool load)
{
    (void)ahead;
    for (const uint8_t *from = b; panels > 0; panels--, from += panel, c += NR)
        for (int32_t i = 0; i < m; i++) {
            const float *row =
                (const float *)(const void *)((const uint8_t *)x + (size_t)i * x_row);
            float *to = c + (size_t)i * ldc;
            for (size_t j = 0; j < NR; j++) {
                float sum = load ? to[j] : 0.0f;
                for (size_t k = 0; k < depth; k++) {
                    uint16_t pair[2];
                    memcpy(pair, from + k * step + j * sizeof(pair), sizeof(pair));
                    sum = link_of(row[2 * k + 1], not_denormal(sp_bf16_to_f32(pair[1])), sum);
                    sum = link_of(row[2 * k], not_denormal(sp_bf16_to_f32(pair[0])), sum);
                }
                to[j] = sum;
            }
        }
}

const struct tn_pairs tn_pairs_generic = {
    .unit = sizeof(float), .round = k_round, .panels = k_panels};

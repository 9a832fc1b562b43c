#include "common/tensor/state.h"

#include <math.h>
#include <string.h>

#include "common/base/mem.h"

#define DECADES 7

size_t tn_state_bytes(enum tn_state state, size_t n)
{
    if (state == TN_STATE_F32)
        return n * sizeof(float);
    return tn_state_blocks(n) * (TN_STATE_BLOCK + sizeof(float));
}

/* The largest fp32 number that is not above x. */
static float round_down(double x)
{
    float f = (float)x;
    return (double)f > x ? nextafterf(f, -INFINITY) : f;
}

void tn_state_map(struct tn_state_map *ret, enum tn_map which)
{
    static const double tens[DECADES] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0};
    bool is_signed = which == TN_MAP_SIGNED;
    int zero = is_signed ? TN_STATE_CODES / 2 - 1 : 0, code = zero;
    ret->value[code++] = 0.0f;
    for (int i = 0; i < DECADES; i++) {
        int count = is_signed ? 1 << i : 2 << i;
        for (int k = 0; k < count; k++, code++) {
            double part = 0.1 + 0.9 * ((double)k + 0.5) / (double)count;
            ret->value[code] = (float)(tens[i] * part);
            if (is_signed)
                ret->value[2 * zero - code] = -ret->value[code];
        }
    }
    SP_ASSERT(code == TN_STATE_CODES - 1);
    ret->value[code] = 1.0f;
    for (int c = 0; c + 1 < TN_STATE_CODES; c++)
        ret->limit[c] = round_down(((double)ret->value[c] + (double)ret->value[c + 1]) / 2);
    ret->limit[TN_STATE_CODES - 1] = INFINITY;
    if (which == TN_MAP_ROOT)
        ret->limit[0] = 0.0f; /* what is not 0 has no code of 0 */
}

void tn_state_decode(const struct tn_state_map *map, float *to, const uint8_t *codes, float scale,
                     size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = map->value[codes[i]] * scale;
}

/* Sorts by size, then the positive one first; a NaN is above all. */
static uint32_t key_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits << 1 | !(bits >> 31);
}

static float scale_of(uint32_t key)
{
    uint32_t bits = key >> 1;
    float scale;
    if (bits > 0x7f800000u)
        return NAN;
    if (bits == 0x7f800000u)
        bits--;
    if (bits != 0 && (key & 1) == 0)
        bits |= 0x80000000u;
    memcpy(&scale, &bits, sizeof(scale));
    return scale;
}

static uint8_t code_of(const struct tn_state_map *map, float x)
{
    unsigned code = 0;
    for (unsigned step = TN_STATE_CODES / 2; step > 0; step /= 2)
        if (x > map->limit[code + step - 1])
            code += step;
    return (uint8_t)code;
}

void tn_state_encode(const struct tn_state_map *map, uint8_t *codes, float *ret_scale,
                     const float *from, size_t count)
{
    uint32_t key = 0;
    for (size_t i = 0; i < count; i++)
        key = SP_MAX(key, key_of(from[i]));
    float scale = scale_of(key);
    for (size_t i = 0; i < TN_STATE_BLOCK; i++) {
        float x = i < count ? from[i] : 0.0f;
        codes[i] = code_of(map, scale == 0.0f ? 0.0f : x / scale);
    }
    *ret_scale = scale;
}

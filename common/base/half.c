#include "common/base/half.h"

union bits32 {
    float f;
    uint32_t u;
};

float sp_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    union bits32 bits;
    if (exponent == 0) {
        /* Zero or subnormal: mantissa × 2^-24 is exact in fp32. */
        bits.f = (float)mantissa * 0x1p-24f;
        bits.u |= sign;
        return bits.f;
    }
    if (exponent == 31)
        bits.u = sign | 0x7f800000u | (mantissa << 13);
    else
        bits.u = sign | ((exponent + 112) << 23) | (mantissa << 13);
    return bits.f;
}

uint16_t sp_f32_to_f16(float value)
{
    union bits32 bits = {.f = value};
    uint16_t sign = (uint16_t)((bits.u >> 16) & 0x8000u);
    uint32_t magnitude = bits.u & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* Subnormal in fp16: adding 0.5 puts the bits of 2^-24 last, rounded by the hardware. */
        union bits32 shifted = {.u = magnitude};
        shifted.f += 0.5f;
        return (uint16_t)(sign | (uint16_t)(shifted.u - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

void sp_bf16_row_to_f32(float *to, const uint16_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = sp_bf16_to_f32(from[i]);
}

void sp_f16_row_to_f32(float *to, const uint16_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = sp_f16_to_f32(from[i]);
}

void sp_f32_row_to_bf16(uint16_t *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = sp_f32_to_bf16(from[i]);
}

void sp_f32_row_to_f16(uint16_t *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = sp_f32_to_f16(from[i]);
}

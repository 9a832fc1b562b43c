/* half: between fp32 and the 16-bit storage types. Round to nearest even; NaN stays NaN, overflow
 * becomes infinity. Any thread. */
#ifndef SPIN_BASE_HALF_H
#define SPIN_BASE_HALF_H

#include <stddef.h>
#include <stdint.h>

static inline float sp_bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } bits = {.u = (uint32_t)h << 16};
    return bits.f;
}

static inline uint16_t sp_f32_to_bf16(float value)
{
    union {
        float f;
        uint32_t u;
    } bits = {.f = value};
    if ((bits.u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits.u >> 16) | 0x40u);
    return (uint16_t)((bits.u + 0x7fffu + ((bits.u >> 16) & 1u)) >> 16);
}

float sp_f16_to_f32(uint16_t h);
uint16_t sp_f32_to_f16(float value);
void sp_bf16_row_to_f32(float *to, const uint16_t *from, size_t n);
void sp_f16_row_to_f32(float *to, const uint16_t *from, size_t n);
void sp_f32_row_to_bf16(uint16_t *to, const float *from, size_t n);
void sp_f32_row_to_f16(uint16_t *to, const float *from, size_t n);

#endif

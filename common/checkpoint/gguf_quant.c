/* Block formats of GGUF. The order of every multiplication and addition is that of llama.cpp's
 * `gguf` package (gguf/quants.py), because the results are to be the same bits. The layouts stand
 * in ggml-common.h of ggml; scales d and minima m are fp16. */
#include <math.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/checkpoint/gguf.h"

#define SMALL_BLOCK 32
#define SUPER_BLOCK 256
/* Bytes of packed 6-bit scales in Q3_K, Q4_K and Q5_K. */
#define PACKED_SCALES 12

static uint16_t load_u16(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

static float load_f16(const uint8_t *from)
{
    return sp_f16_to_f32(load_u16(from));
}

static uint32_t load_u32(const uint8_t *from)
{
    return load_u16(from) | (uint32_t)load_u16(from + 2) << 16;
}

/* ---- one value an element ---- */

static void read_f32(const uint8_t *from, float *to)
{
    memcpy(to, from, sizeof(*to));
}

static void read_f16(const uint8_t *from, float *to)
{
    *to = load_f16(from);
}

static void read_bf16(const uint8_t *from, float *to)
{
    *to = sp_bf16_to_f32(load_u16(from));
}

/* ---- blocks of 32: low nibbles are the first half, high nibbles the second ---- */

static int nibble(const uint8_t *qs, int i)
{
    return i < SMALL_BLOCK / 2 ? qs[i] & 0xf : qs[i - SMALL_BLOCK / 2] >> 4;
}

static void read_q4_0(const uint8_t *from, float *to)
{
    float d = load_f16(from);
    for (int i = 0; i < SMALL_BLOCK; i++)
        to[i] = d * (float)(nibble(from + 2, i) - 8);
}

static void read_q4_1(const uint8_t *from, float *to)
{
    float d = load_f16(from), m = load_f16(from + 2);
    for (int i = 0; i < SMALL_BLOCK; i++)
        to[i] = d * (float)nibble(from + 4, i) + m;
}

static void read_q5_0(const uint8_t *from, float *to)
{
    float d = load_f16(from);
    uint32_t high = load_u32(from + 2);
    for (int i = 0; i < SMALL_BLOCK; i++)
        to[i] = d * (float)((nibble(from + 6, i) | (int)(high >> i & 1) << 4) - 16);
}

static void read_q5_1(const uint8_t *from, float *to)
{
    float d = load_f16(from), m = load_f16(from + 2);
    uint32_t high = load_u32(from + 4);
    for (int i = 0; i < SMALL_BLOCK; i++)
        to[i] = d * (float)(nibble(from + 8, i) | (int)(high >> i & 1) << 4) + m;
}

static void read_q8_0(const uint8_t *from, float *to)
{
    float d = load_f16(from);
    for (int i = 0; i < SMALL_BLOCK; i++)
        to[i] = (float)(int8_t)from[2 + i] * d;
}

/* A table of values in place of a scale: spaced more densely around 0. */
static void read_iq4_nl(const uint8_t *from, float *to)
{
    static const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
    float d = load_f16(from);
    for (int i = 0; i < SMALL_BLOCK; i++)
        to[i] = d * (float)table[nibble(from + 2, i)];
}

/* ---- blocks of 256, in groups of 16 or 32 with scales of their own ---- */

/* Element i of 2-bit values: 32 bytes hold 128 elements, 32 for each pair of bits. */
static int two_bits(const uint8_t *qs, int i)
{
    return qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
}

static void read_q2_k(const uint8_t *from, float *to)
{
    const uint8_t *scales = from, *qs = from + 16;
    float d = load_f16(from + 80), dmin = load_f16(from + 82);
    for (int group = 0; group < SUPER_BLOCK / 16; group++) {
        float dl = d * (float)(scales[group] & 0xf), ml = dmin * (float)(scales[group] >> 4);
        for (int i = group * 16; i < group * 16 + 16; i++)
            to[i] = dl * (float)two_bits(qs, i) - ml;
    }
}

static void read_q3_k(const uint8_t *from, float *to)
{
    const uint8_t *mask = from, *qs = from + 32, *scales = from + 96;
    float d = load_f16(from + 96 + PACKED_SCALES);
    for (int group = 0; group < SUPER_BLOCK / 16; group++) {
        int low = group < 8 ? scales[group] & 0xf : scales[group - 8] >> 4;
        int high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        float dl = d * (float)((low | high << 4) - 32);
        for (int i = group * 16; i < group * 16 + 16; i++) {
            /* The offset is zero where the mask's bit is 1. */
            int offset = (mask[i % 32] >> (i / 32) & 1) ^ 1;
            to[i] = dl * (float)(two_bits(qs, i) - (offset << 2));
        }
    }
}

/* The eight 6-bit scales and minima of Q4_K and Q5_K. */
static void unpack_scales(const uint8_t *packed, int group, int *ret_scale, int *ret_min)
{
    int k = group % 4;
    if (group < 4) {
        *ret_scale = packed[k] & 0x3f;
        *ret_min = packed[4 + k] & 0x3f;
    } else {
        *ret_scale = (packed[8 + k] & 0xf) | (packed[k] >> 2 & 0x30);
        *ret_min = packed[8 + k] >> 4 | (packed[4 + k] >> 2 & 0x30);
    }
}

/* high: a fifth bit of every element, 8 to a byte; NULL for Q4_K. */
static void read_q45_k(const uint8_t *from, const uint8_t *high, const uint8_t *qs, float *to)
{
    float d = load_f16(from), dmin = load_f16(from + 2);
    for (int group = 0; group < SUPER_BLOCK / 32; group++) {
        int scale, min;
        unpack_scales(from + 4, group, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int q = qs[group / 2 * 32 + i] >> (group % 2 * 4) & 0xf;
            if (high != NULL)
                q |= (high[i] >> group & 1) << 4;
            to[group * 32 + i] = dl * (float)q - ml;
        }
    }
}

static void read_q4_k(const uint8_t *from, float *to)
{
    read_q45_k(from, NULL, from + 4 + PACKED_SCALES, to);
}

static void read_q5_k(const uint8_t *from, float *to)
{
    read_q45_k(from, from + 4 + PACKED_SCALES, from + 4 + PACKED_SCALES + 32, to);
}

static void read_q6_k(const uint8_t *from, float *to)
{
    const uint8_t *low = from, *high = from + 128, *scales = from + 192;
    float d = load_f16(from + 208);
    for (int i = 0; i < SUPER_BLOCK; i++) {
        int half = i / 128, group = i / 32 % 4;
        int q = low[half * 64 + i % 64] >> (group / 2 * 4) & 0xf;
        q |= (high[half * 32 + i % 32] >> (group * 2) & 3) << 4;
        to[i] = d * (float)(int8_t)scales[i / 16] * (float)(q - 32);
    }
}

typedef void (*read_block_fn)(const uint8_t *from, float *to);

static read_block_fn reader_of(enum ckpt_gguf_type type)
{
    switch (type) {
    case CKPT_GGUF_F32:
        return read_f32;
    case CKPT_GGUF_F16:
        return read_f16;
    case CKPT_GGUF_BF16:
        return read_bf16;
    case CKPT_GGUF_Q4_0:
        return read_q4_0;
    case CKPT_GGUF_Q4_1:
        return read_q4_1;
    case CKPT_GGUF_Q5_0:
        return read_q5_0;
    case CKPT_GGUF_Q5_1:
        return read_q5_1;
    case CKPT_GGUF_Q8_0:
        return read_q8_0;
    case CKPT_GGUF_Q2_K:
        return read_q2_k;
    case CKPT_GGUF_Q3_K:
        return read_q3_k;
    case CKPT_GGUF_Q4_K:
        return read_q4_k;
    case CKPT_GGUF_Q5_K:
        return read_q5_k;
    case CKPT_GGUF_Q6_K:
        return read_q6_k;
    case CKPT_GGUF_IQ4_NL:
        return read_iq4_nl;
    }
    return NULL;
}

void ckpt_gguf_to_f32(enum ckpt_gguf_type type, const uint8_t *from, size_t blocks, float *to)
{
    size_t bytes = ckpt_gguf_block_bytes(type), elements = ckpt_gguf_block_elements(type);
    read_block_fn read_block = reader_of(type);
    SP_ASSERT(read_block != NULL);
    for (size_t i = 0; i < blocks; i++)
        read_block(from + i * bytes, to + i * elements);
}

/* ---- fp32 to a type ---- */

static void write_q8_0(const float *from, uint8_t *to)
{
    float largest = 0;
    for (int i = 0; i < SMALL_BLOCK; i++)
        largest = SP_MAX(largest, fabsf(from[i]));
    float d = largest / 127, inverse = d == 0 ? 0 : 1 / d;
    uint16_t half = sp_f32_to_f16(d);
    memcpy(to, &half, sizeof(half));
    for (int i = 0; i < SMALL_BLOCK; i++)
        to[2 + i] = (uint8_t)(int8_t)roundf(from[i] * inverse);
}

void ckpt_gguf_from_f32(enum ckpt_gguf_type type, const float *from, size_t blocks, uint8_t *to)
{
    SP_ASSERT(type == CKPT_GGUF_F32 || type == CKPT_GGUF_F16 || type == CKPT_GGUF_BF16 ||
              type == CKPT_GGUF_Q8_0);
    if (type == CKPT_GGUF_F32 && blocks > 0)
        memcpy(to, from, blocks * sizeof(*from));
    for (size_t i = 0; type != CKPT_GGUF_F32 && i < blocks; i++) {
        if (type == CKPT_GGUF_Q8_0) {
            write_q8_0(from + i * SMALL_BLOCK, to + i * (2 + SMALL_BLOCK));
            continue;
        }
        uint16_t half = type == CKPT_GGUF_F16 ? sp_f32_to_f16(from[i]) : sp_f32_to_bf16(from[i]);
        memcpy(to + i * sizeof(half), &half, sizeof(half));
    }
}

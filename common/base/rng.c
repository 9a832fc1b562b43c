#include "common/base/rng.h"

#include "common/base/mem.h"

#define ROUNDS 10
#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

void sp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)MULTIPLIER_0 * c0;
        uint64_t p1 = (uint64_t)MULTIPLIER_1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    ret[0] = c0;
    ret[1] = c1;
    ret[2] = c2;
    ret[3] = c3;
}

void sp_rng_draw(uint64_t seed, enum sp_stream stream, uint32_t iteration, uint32_t a, uint32_t b,
                 uint32_t c, uint32_t ret[4])
{
    SP_ASSERT(iteration < SP_RNG_ITERATIONS && (uint32_t)stream < 256);
    const uint32_t counter[4] = {a, b, c, iteration << 8 | (uint32_t)stream};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    sp_philox(counter, key, ret);
}

float sp_rng_uniform(uint64_t seed, enum sp_stream stream, uint32_t iteration, uint32_t a,
                     uint32_t b, uint32_t c)
{
    uint32_t bits[4];
    sp_rng_draw(seed, stream, iteration, a, b, c, bits);
    return (float)(bits[0] >> 8) * 0x1p-24f;
}

uint64_t sp_rng_below(uint64_t seed, enum sp_stream stream, uint32_t iteration, uint32_t a,
                      uint32_t b, uint32_t c, uint64_t bound)
{
    uint32_t bits[4];
    sp_rng_draw(seed, stream, iteration, a, b, c, bits);
    uint64_t draw = (uint64_t)bits[1] << 32 | bits[0];
    return (uint64_t)(((unsigned __int128)draw * bound) >> 64);
}

void sp_rng_permutation(uint64_t seed, uint32_t iteration, uint32_t epoch, uint32_t n,
                        uint32_t *ret_order)
{
    for (uint32_t i = 0; i < n; i++)
        ret_order[i] = i;
    for (uint32_t i = n; i-- > 1;) {
        uint64_t j = sp_rng_below(seed, SP_STREAM_SHUFFLE, iteration, epoch, i, 0, (uint64_t)i + 1);
        uint32_t swap = ret_order[i];
        ret_order[i] = ret_order[j];
        ret_order[j] = swap;
    }
}

/* rng: Philox4x32-10, a counter-based generator: each draw is a pure function of key and counter,
 * so a sample's bits depend on its name and on nothing else.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11; the known-answer
 * vectors of Random123 are in the tests. Any thread; no state. */
#ifndef SPIN_BASE_RNG_H
#define SPIN_BASE_RNG_H

#include <stdint.h>

/* ret[4] = Philox4x32-10(counter[4], key[2]) */
void sp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4]);

/* What a draw is for: keeps streams with equal numbers apart. */
enum sp_stream {
    SP_STREAM_SAMPLE = 1,  /* a = prompt, b = sample, c = position */
    SP_STREAM_SHUFFLE = 2, /* a = epoch, b = index */
    SP_STREAM_INIT = 3,    /* a = tensor, b = element / 4 */
    SP_STREAM_BOOTSTRAP = 4,
    SP_STREAM_SPLIT = 5,
    SP_STREAM_TEST = 6,
    SP_STREAM_VERIFY = 7, /* which answers are made again; decides no result */
    /* a, b = element / 8 (low, high half), c = step (low half), iteration = its high half: 16 bits
     * for each of 8 elements, the even ones in the low halves of words. Step 0: the seed of
     * iteration a of a run. */
    SP_STREAM_ROUND = 8,
};

#define SP_RNG_ITERATIONS (1u << 24) /* the number of an iteration is below it */

/* 128 bits for (seed, stream, iteration, a, b, c). Key = seed (64 bits). Counter =
 * { a, b, c, iteration << 8 | stream }; iteration < SP_RNG_ITERATIONS. */
void sp_rng_draw(uint64_t seed, enum sp_stream stream, uint32_t iteration, uint32_t a, uint32_t b,
                 uint32_t c, uint32_t ret[4]);

/* Uniform in [0, 1): the top 24 bits / 2^24, exact in fp32. */
float sp_rng_uniform(uint64_t seed, enum sp_stream stream, uint32_t iteration, uint32_t a,
                     uint32_t b, uint32_t c);
/* Uniform integer in [0, bound), unbiased enough for shuffles: (64-bit draw × bound) >> 64. */
uint64_t sp_rng_below(uint64_t seed, enum sp_stream stream, uint32_t iteration, uint32_t a,
                      uint32_t b, uint32_t c, uint64_t bound);
/* Fisher–Yates of order[0..n) (identity first) from SP_STREAM_SHUFFLE (iteration, epoch). */
void sp_rng_permutation(uint64_t seed, uint32_t iteration, uint32_t epoch, uint32_t n,
                        uint32_t *ret_order);

#endif

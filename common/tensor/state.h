/* state: an optimizer's state in 8 bits: block-wise dynamic quantisation (Dettmers et al., "8-bit
 * Optimizers via Block-wise Quantization", arXiv 2110.02861). Plain C; the kernels of the CUDA
 * backends have the same bits. Any thread.
 *
 * A block is TN_STATE_BLOCK numbers in a row: one code of 8 bits each and one scale (fp32). The
 * number is map[code] × scale. Codes are sorted: a higher code is a higher value of the map. With E
 * = 10^(i−6) for the decades i = 0 … 6, the map holds
 *     unsigned: E·(0.1 + 0.9·(k + ½) / 2^(i+1)), k < 2^(i+1); 0; 1              (254 + 2 values)
 *     signed:   ±E·(0.1 + 0.9·(k + ½) / 2^i), k < 2^i; 0; 1                     (254 + 2 values)
 * computed in double and rounded to fp32 once: the paper's dynamic map, as its authors' library
 * makes it. Values lie dense where they are large and reach down to 3·10^-7 of the largest.
 *
 * The scale is the block's number of the largest size *with its sign* (the positive one of two
 * equal ones), so that this number is kept exactly by code 255 (the signed map has 1, not −1), and
 * a block that is decoded and encoded again stays as it is. Every other number gets the code whose
 * value is nearest to number / scale, the lower code of two as near. A scale of 0: all are 0;
 * zeroed memory is a state of zeros. Infinities become the largest finite number; a block with a
 * NaN becomes NaN, because losing it would hide it.
 *
 * The first moment m takes the signed map. Of the second moment v the *root* is stored, with the
 * unsigned map. The update divides by √v, and v spans twice the decades of √v and of m: stored
 * itself, a v below 2·10^-7 of its block's largest would become 0 where an m, at 4·10^-4 of its
 * largest, would not, and the next step without a gradient would be m / ε. √v may be 3·10^-7 of its
 * largest. What is smaller, but not 0, rounds *up* to the smallest value of the map, never to 0:
 * too short a step of a number that hardly moves does no harm, a division by ε alone does. 0 stays
 * 0: such a number has had no gradient yet. The update itself uses the root before it is rounded.
 *
 * What nearest codes cost: a moving average moves by a part of 1 − β or 1 − α a step, and of one
 * number it stays where that is less than half the distance to the next code. What a block's
 * numbers have in common is not lost, because it moves the scale. tests/unit/tensor/test_state.c
 * compares both optimizers with fp32 state on a problem whose curvatures lie five decades apart in
 * a block.
 */
#ifndef SPIN_TENSOR_STATE_H
#define SPIN_TENSOR_STATE_H

#include "common/tensor/backend.h"

#define TN_STATE_BLOCK 256
#define TN_STATE_CODES 256

enum tn_map { TN_MAP_SIGNED, TN_MAP_ROOT };

/* limit[c]: the largest number to which no code above c is nearer; infinity for the last. Number x
 * has the first code with x <= limit. TN_MAP_ROOT: limit[0] = 0. */
struct tn_state_map {
    float value[TN_STATE_CODES], limit[TN_STATE_CODES];
};
void tn_state_map(struct tn_state_map *ret, enum tn_map which);

/* Bytes of one state (m or v) of n numbers: fp32, or codes in whole blocks, then the scales. */
size_t tn_state_bytes(enum tn_state state, size_t n);
static inline size_t tn_state_blocks(size_t n)
{
    return n / TN_STATE_BLOCK + (n % TN_STATE_BLOCK != 0);
}
/* The scales of an 8-bit state of n numbers, behind its codes. */
static inline float *tn_state_scales(void *state, size_t n)
{
    return (float *)(void *)((uint8_t *)state + tn_state_blocks(n) * TN_STATE_BLOCK);
}

/* One block; encoding writes all TN_STATE_BLOCK codes, those behind count as of zeros. */
void tn_state_decode(const struct tn_state_map *map, float *to, const uint8_t *codes, float scale,
                     size_t count);
void tn_state_encode(const struct tn_state_map *map, uint8_t *codes, float *ret_scale,
                     const float *from, size_t count);

#endif

/* pairs: products whose two factors are both rounded to bf16, as the instruction VDPBF16PS computes
 * them, compiled once for each instruction set like the kernels of kern.h; all variants give the
 * same bits. A step takes a pair of neighbours k = 2i, 2i+1 (K odd: a zero is added). To a sum it
 * adds first the product of the odd ones, then that of the even ones, each by a fused multiply-add
 * rounded to nearest even, whose factors and sum are read as zero when they are denormal and whose
 * result becomes zero when it is tiny after rounding (Intel SDM, "VDPBF16PS": DAZ, FTZ, whatever
 * MXCSR says). */
#ifndef SPIN_TENSOR_PAIRS_H
#define SPIN_TENSOR_PAIRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tn_pairs {
    size_t unit; /* bytes that an element of a rounded row takes */
    /* k elements of a row, rounded to bf16 (to nearest even), in the form that `panels` reads;
     * k odd: one more, a zero. */
    void (*round)(void *to, const float *x, size_t k);
    /* As tn_kern.panels with `depth` pairs: X's rows are x_row bytes apart; pair i of B's panel p
     * lies p·panel + i·step bytes from b, as nr words that hold the even k in their low half. */
    void (*panels)(int32_t m, int32_t panels, size_t depth, const void *x, size_t x_row,
                   const void *b, size_t step, size_t panel, size_t ahead, float *c, size_t ldc,
                   bool load);
};

extern const struct tn_pairs tn_pairs_generic, tn_pairs_avx2, tn_pairs_avx512, tn_pairs_avx512bf16;

#endif

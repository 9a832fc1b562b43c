/* kern_body: the kernels of one instruction set. A file kern_ISA.c includes its vec header,
 * vmath.h, defines K_ISA, K_MR, K_NR, k_micro, k_panels, k_transpose and k_copy, and
 * includes this. */

#include "common/tensor/cpu/kern_pointwise.h"
#include "common/tensor/cpu/kern_gelu.h"
#include "common/tensor/cpu/kern_rows.h"

#define K_JOIN2(a, b) a##b
#define K_JOIN(a, b) K_JOIN2(a, b)

const struct tn_kern K_JOIN(tn_kern_, K_ISA) = {
    .mr = K_MR,
    .nr = K_NR,
    .micro = k_micro,
    .panels = k_panels,
    .transpose = k_transpose,
    .copy = k_copy,
    .add = k_add,
    .exp = k_exp,
    .dot = k_dot,
    .rmsnorm = k_rmsnorm,
    .rmsnorm_dx = k_rmsnorm_dx,
    .rmsnorm_dw = k_rmsnorm_dw,
    .rope = k_rope,
    .affine = k_affine,
    .layernorm = k_layernorm,
    .layernorm_dx = k_layernorm_dx,
    .layernorm_dw = k_layernorm_dw,
    .geglu = k_geglu,
    .geglu_bwd = k_geglu_bwd,
    .gelu = k_gelu,
    .gelu_bwd = k_gelu_bwd,
    .softcap = k_softcap,
    .softmax_bwd_capped = k_softmax_bwd_capped,
    .row_softmax_scaled_capped = k_row_softmax_scaled_capped,
    .swiglu = k_swiglu,
    .swiglu_bwd = k_swiglu_bwd,
    .softmax = k_softmax,
    .softmax_bwd = k_softmax_bwd,
    .row_max = k_row_max,
    .row_sum_exp = k_row_sum_exp,
    .row_exp = k_row_exp,
    .row_softmax_scaled = k_row_softmax_scaled,
    .sum_squares = k_sum_squares,
    .rmsprop = k_rmsprop,
    .adamw = k_adamw,
};

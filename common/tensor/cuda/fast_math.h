/* fast_math: eights of bf16 and fp32 and their sums, for the kernels of fast.h; included by them
 * only. `n` is how many numbers are left from here: of eight, or less at the end of a row. Kernels
 * take all that they need before they unpack any of it, so that their loads are under way together.
 */
#ifndef SPIN_TENSOR_CUDA_FAST_MATH_H
#define SPIN_TENSOR_CUDA_FAST_MATH_H

#include "common/tensor/cuda/fast.h"
#include "common/tensor/cuda/gpu_math.h"

#define GPU_WARPS (GPU_THREADS / GPU_WARP_THREADS)

GPU_FN gpu_quad gpu_no_quad(void)
{
    gpu_quad q;
    q.x = q.y = q.z = q.w = 0;
    return q;
}

GPU_FN uint32_t gpu_take_pair(const uint16_t *from, int32_t n)
{
    uint32_t low = n > 0 ? from[0] : 0, high = n > 1 ? from[1] : 0;
    return low | high << 16;
}

/* Eight of bf16, packed; zeros behind the end. */
GPU_FN gpu_quad gpu_take(const uint16_t *from, int32_t n, int wide)
{
    gpu_quad q;
    if (wide && n >= GPU_EIGHT)
        return gpu_quad_load(from);
    q.x = gpu_take_pair(from, n);
    q.y = gpu_take_pair(from + 2, n - 2);
    q.z = gpu_take_pair(from + 4, n - 4);
    q.w = gpu_take_pair(from + 6, n - 6);
    return q;
}

GPU_FN void gpu_unpack(float to[GPU_EIGHT], gpu_quad q)
{
    to[0] = gpu_float_of(q.x << 16);
    to[1] = gpu_float_of(q.x & 0xffff0000u);
    to[2] = gpu_float_of(q.y << 16);
    to[3] = gpu_float_of(q.y & 0xffff0000u);
    to[4] = gpu_float_of(q.z << 16);
    to[5] = gpu_float_of(q.z & 0xffff0000u);
    to[6] = gpu_float_of(q.w << 16);
    to[7] = gpu_float_of(q.w & 0xffff0000u);
}

GPU_FN void gpu_give_pair(uint16_t *to, uint32_t pair, int32_t n)
{
    if (n > 0)
        to[0] = (uint16_t)pair;
    if (n > 1)
        to[1] = (uint16_t)(pair >> 16);
}

/* Rounds eight to bf16 and stores those that are there. */
GPU_FN void gpu_give(uint16_t *to, const float from[GPU_EIGHT], int32_t n, int wide)
{
    gpu_quad q;
    q.x = gpu_bf16_pair(from[0], from[1]);
    q.y = gpu_bf16_pair(from[2], from[3]);
    q.z = gpu_bf16_pair(from[4], from[5]);
    q.w = gpu_bf16_pair(from[6], from[7]);
    if (wide && n >= GPU_EIGHT) {
        gpu_quad_store(to, q);
        return;
    }
    gpu_give_pair(to, q.x, n);
    gpu_give_pair(to + 2, q.y, n - 2);
    gpu_give_pair(to + 4, q.z, n - 4);
    gpu_give_pair(to + 6, q.w, n - 6);
}

/* Four of fp32; `otherwise` behind the end. */
GPU_FN gpu_quad gpu_take_four(const float *from, int32_t n, int wide, float otherwise)
{
    gpu_quad q;
    if (wide && n >= 4)
        return gpu_quad_load(from);
    q.x = gpu_word_of(n > 0 ? from[0] : otherwise);
    q.y = gpu_word_of(n > 1 ? from[1] : otherwise);
    q.z = gpu_word_of(n > 2 ? from[2] : otherwise);
    q.w = gpu_word_of(n > 3 ? from[3] : otherwise);
    return q;
}

GPU_FN void gpu_unpack_four(float to[4], gpu_quad q)
{
    to[0] = gpu_float_of(q.x);
    to[1] = gpu_float_of(q.y);
    to[2] = gpu_float_of(q.z);
    to[3] = gpu_float_of(q.w);
}

GPU_FN void gpu_give_four(float *to, const float from[4], int32_t n, int wide)
{
    if (wide && n >= 4) {
        gpu_quad q;
        q.x = gpu_word_of(from[0]);
        q.y = gpu_word_of(from[1]);
        q.z = gpu_word_of(from[2]);
        q.w = gpu_word_of(from[3]);
        gpu_quad_store(to, q);
        return;
    }
    for (int i = 0; i < 4; i++)
        if (i < n)
            to[i] = from[i];
}

/* Eight of fp32, or of bf16 in `low` alone. */
struct gpu_quads {
    gpu_quad low, high;
};

GPU_FN struct gpu_quads gpu_take_floats(const float *from, int32_t n, int wide)
{
    struct gpu_quads q;
    q.low = gpu_take_four(from, n, wide, 0.0f);
    q.high = gpu_take_four(from + 4, n - 4, wide, 0.0f);
    return q;
}

GPU_FN void gpu_unpack_floats(float to[GPU_EIGHT], struct gpu_quads q)
{
    gpu_unpack_four(to, q.low);
    gpu_unpack_four(to + 4, q.high);
}

/* Eight of weights or gradients, from element `at` on. */
GPU_FN struct gpu_quads gpu_take_stored(const void *from, size_t at, int32_t n, int bf16, int wide)
{
    struct gpu_quads q;
    if (!bf16)
        return gpu_take_floats((const float *)from + at, n, wide);
    q.low = gpu_take((const uint16_t *)from + at, n, wide);
    q.high = gpu_no_quad();
    return q;
}

GPU_FN void gpu_unpack_stored(float to[GPU_EIGHT], struct gpu_quads q, int bf16)
{
    if (bf16)
        gpu_unpack(to, q.low);
    else
        gpu_unpack_floats(to, q);
}

GPU_FN void gpu_give_stored(void *to, size_t at, const float from[GPU_EIGHT], int32_t n, int bf16,
                            int wide)
{
    if (bf16) {
        gpu_give((uint16_t *)to + at, from, n, wide);
        return;
    }
    gpu_give_four((float *)to + at, from, n, wide);
    gpu_give_four((float *)to + at + 4, from + 4, n - 4, wide);
}

/* What is left of n, as far as it matters. */
GPU_FN int32_t gpu_left_of(size_t n, size_t at)
{
    return n - at < GPU_EIGHT ? (int32_t)(n - at) : GPU_EIGHT;
}

/* Where row i of n begins: see struct gpu_norm. */
GPU_FN size_t gpu_row_at(uint32_t row, uint32_t heads, size_t stride, int32_t D)
{
    if (heads == 1)
        return row * stride;
    return row / heads * stride + row % heads * (size_t)D;
}

/* own[GPU_SELF] summed over groups of `group` threads: what gpu_group_total gives to each of them
 * in the phases that follow. `warps` is shared, of GPU_WARPS, and of this sum alone. */
#define GPU_GROUP_SUM(own, warps, group)                                                           \
    gpu_warp_sum(own, (group) < GPU_WARP_THREADS ? (group) : GPU_WARP_THREADS);                    \
    GPU_EACH                                                                                       \
    {                                                                                              \
        if (threadIdx.x % GPU_WARP_THREADS == 0)                                                   \
            (warps)[GPU_WARP] = (own)[GPU_SELF];                                                   \
    }                                                                                              \
    GPU_SYNC()

GPU_FN float gpu_group_total(const float *warps, float own, int32_t group)
{
    int32_t many = group / GPU_WARP_THREADS;
    if (many <= 1)
        return own;
    const float *first = warps + (int32_t)threadIdx.x / group * many;
    float total = first[0];
    for (int32_t i = 1; i < many; i++)
        total = total + first[i];
    return total;
}

/* 1 / (1 + e^−x) */
GPU_FN float gpu_fast_sigmoid(float x)
{
    return gpu_fast_divide(1.0f, 1.0f + gpu_fast_exp(-x));
}

#endif

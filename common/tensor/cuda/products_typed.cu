/* products_typed: the plain product of bf16 matrices, for shapes that cublasLt has no algorithm
 * for: right, and slow; and what algorithms of cublasLt are compared with each other by. */
#include "common/tensor/cuda/gpu_math.h"
#include "common/tensor/cuda/products_typed.h"

/* A tile of C of GPU_TILE × GPU_TILE, a thread an output; GPU_TILE steps of k at a time. */
GPU_KERNEL(gpu_typed_product, gpu_typed_product)
{
    GPU_SHARED float a[GPU_TILE][GPU_TILE + 1]; /* [m][k] */
    GPU_SHARED float b[GPU_TILE][GPU_TILE + 1]; /* [k][n] */
    GPU_OWN float sum[GPU_COPIES][1];
    const int32_t m0 = (int32_t)blockIdx.y * GPU_TILE, n0 = (int32_t)blockIdx.x * GPU_TILE;
    GPU_EACH
    {
        sum[GPU_SELF][0] = 0.0f;
    }
    for (int32_t k0 = 0; k0 < p.K; k0 += GPU_TILE) {
        const int32_t depth = p.K - k0 < GPU_TILE ? p.K - k0 : GPU_TILE;
        GPU_EACH
        {
            int32_t x = (int32_t)threadIdx.x, y = (int32_t)threadIdx.y;
            /* neighbours read neighbours: along k, or across it, as the factor lies */
            if (p.a_col == 1 && m0 + y < p.M && x < depth)
                a[y][x] = gpu_widen(p.a[(size_t)(m0 + y) * p.a_row + (size_t)(k0 + x)]);
            if (p.a_col != 1 && m0 + x < p.M && y < depth)
                a[x][y] = gpu_widen(p.a[(size_t)(m0 + x) * p.a_row + (size_t)(k0 + y) * p.a_col]);
            if (p.b_row == 1 && n0 + y < p.N && x < depth)
                b[x][y] = gpu_widen(p.b[(size_t)(k0 + x) + (size_t)(n0 + y) * p.b_col]);
            if (p.b_row != 1 && n0 + x < p.N && y < depth)
                b[y][x] = gpu_widen(p.b[(size_t)(k0 + y) * p.b_row + (size_t)(n0 + x) * p.b_col]);
        }
        GPU_SYNC();
        GPU_EACH
        {
            float s = sum[GPU_SELF][0];
            if (m0 + (int32_t)threadIdx.y >= p.M || n0 + (int32_t)threadIdx.x >= p.N)
                continue;
            for (int32_t k = 0; k < depth; k++)
                s = fmaf(a[threadIdx.y][k], b[k][threadIdx.x], s);
            sum[GPU_SELF][0] = s;
        }
        GPU_SYNC();
    }
    GPU_EACH
    {
        int32_t m = m0 + (int32_t)threadIdx.y, n = n0 + (int32_t)threadIdx.x;
        size_t at = (size_t)m * (size_t)p.N + (size_t)n;
        float s = sum[GPU_SELF][0];
        if (m >= p.M || n >= p.N)
            continue;
        if (p.added)
            s = gpu_stored(p.added, at, p.c_bf16) + s;
        if (p.c_bf16)
            ((uint16_t *)p.c)[at] = gpu_narrow_of(s);
        else
            ((float *)p.c)[at] = s;
    }
}

GPU_KERNEL(gpu_noise, gpu_noise)
{
    GPU_EACH
    {
        size_t i = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        uint32_t h = (uint32_t)i ^ (uint32_t)(i >> 32) * 0x9e3779b9u ^ p.seed;
        h = (h ^ (h >> 16)) * 0x85ebca6bu; /* MurmurHash3's last steps */
        h = (h ^ (h >> 13)) * 0xc2b2ae35u;
        h = h ^ (h >> 16);
        if (i < p.n)
            p.to[i] = gpu_narrow_of((float)(int32_t)(h >> 8) * (1.0f / 8388608.0f) - 1.0f);
    }
}

GPU_KERNEL(gpu_negate, gpu_negate)
{
    GPU_EACH
    {
        size_t i = (size_t)blockIdx.x * GPU_FLAT + threadIdx.x;
        if (i < p.n)
            p.to[i] = (uint16_t)(p.from[i] ^ 0x8000u);
    }
}

GPU_KERNEL(gpu_differ, gpu_differ)
{
    GPU_EACH
    {
        size_t first = (size_t)blockIdx.x * GPU_DIFFER + threadIdx.x;
        bool differ = false;
        for (size_t i = first; i < first + GPU_DIFFER && i < p.n; i += GPU_FLAT)
            differ |= p.a[i] != p.b[i];
        if (differ)
            *p.flag = 1; /* everybody who writes writes the same */
    }
}

/* products: the plain matrix product, each output one chain of fused multiply-adds over k, as the
 * cpu backend has it. */
#include "common/tensor/cuda/gpu_math.h"

GPU_FN float gpu_b(const struct gpu_product *p, size_t k, size_t n)
{
    float b = gpu_stored(p->b, k * p->b_row + n * p->b_col, p->b_bf16);
    return p->pairs ? gpu_flush(b) : b;
}

GPU_FN float gpu_a(const struct gpu_product *p, size_t m, size_t k)
{
    float a = p->a[m * p->a_row + k * p->a_col];
    return p->pairs ? gpu_flush(gpu_widen(gpu_narrow_of(a))) : a;
}

/* A tile of C of GPU_TILE × GPU_TILE, a thread an output; GPU_TILE steps of k at a time. Only what
 * exists is multiplied: adding a zero would turn −0 into +0. */
GPU_KERNEL(gpu_product, gpu_product)
{
    GPU_SHARED float a[GPU_TILE][GPU_TILE + 1]; /* [m][k] */
    GPU_SHARED float b[GPU_TILE][GPU_TILE + 1]; /* [k][n] */
    GPU_OWN float sum[GPU_COPIES][1];
    const int32_t m0 = (int32_t)blockIdx.y * GPU_TILE, n0 = (int32_t)blockIdx.x * GPU_TILE;
    GPU_EACH
    {
        int32_t m = m0 + (int32_t)threadIdx.y, n = n0 + (int32_t)threadIdx.x;
        bool load = p.accumulate && m < p.M && n < p.N;
        sum[GPU_SELF][0] = load ? p.c[(size_t)m * (size_t)p.N + (size_t)n] : 0.0f;
    }
    for (int32_t k0 = 0; k0 < p.K; k0 += GPU_TILE) {
        const int32_t depth = p.K - k0 < GPU_TILE ? p.K - k0 : GPU_TILE;
        GPU_EACH
        {
            int32_t x = (int32_t)threadIdx.x, y = (int32_t)threadIdx.y;
            if (m0 + y < p.M && x < depth)
                a[y][x] = gpu_a(&p, (size_t)(m0 + y), (size_t)(k0 + x));
            /* neighbours read neighbours: along k where that is how B lies */
            if (p.b_row == 1 && n0 + y < p.N && x < depth)
                b[x][y] = gpu_b(&p, (size_t)(k0 + x), (size_t)(n0 + y));
            if (p.b_row != 1 && n0 + x < p.N && y < depth)
                b[y][x] = gpu_b(&p, (size_t)(k0 + y), (size_t)(n0 + x));
        }
        GPU_SYNC();
        GPU_EACH
        {
            float s = sum[GPU_SELF][0];
            if (m0 + (int32_t)threadIdx.y >= p.M || n0 + (int32_t)threadIdx.x >= p.N)
                continue;
            if (!p.pairs)
                for (int32_t k = 0; k < depth; k++)
                    s = fmaf(a[threadIdx.y][k], b[k][threadIdx.x], s);
            for (int32_t k = 0; p.pairs && k < depth; k += 2) {
                float odd = k + 1 < depth ? fmaf(a[threadIdx.y][k + 1], b[k + 1][threadIdx.x], s)
                                          : s + 0.0f;
                s = gpu_flush(fmaf(a[threadIdx.y][k], b[k][threadIdx.x], gpu_flush(odd)));
            }
            sum[GPU_SELF][0] = s;
        }
        GPU_SYNC();
    }
    GPU_EACH
    {
        int32_t m = m0 + (int32_t)threadIdx.y, n = n0 + (int32_t)threadIdx.x;
        if (m < p.M && n < p.N)
            p.c[(size_t)m * (size_t)p.N + (size_t)n] = sum[GPU_SELF][0];
    }
}

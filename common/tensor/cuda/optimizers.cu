/* optimizers: a thread has GPU_UPDATE_EACH elements in a row, which it reads and writes 16 bytes at
 * a time. Weights in bf16 are rounded stochastically; state is fp32, or codes of 8 bits with a
 * scale for each GPU_CODES elements, which has the bits of common/tensor/state.c. The arithmetic is
 * that of cpu/kern_pointwise.h. State may be memory of the host: each byte is read and written
 * once. */
#include "common/base/rng.h"
#include "common/tensor/cuda/gpu_math.h"
#include "common/tensor/cuda/optimizers.h"

#define EACH GPU_UPDATE_EACH
#define PART GPU_UPDATE_PART

/* 16 and 8 bytes at a time, at multiples of them */
#ifdef GPU_EMULATED
GPU_FN void gpu_get16(uint32_t *to, const void *from)
{
    SP_ASSERT((uintptr_t)from % 16 == 0);
    memcpy(to, from, 16);
}
GPU_FN void gpu_put16(void *to, const uint32_t *from)
{
    SP_ASSERT((uintptr_t)to % 16 == 0);
    memcpy(to, from, 16);
}
GPU_FN void gpu_get8(uint32_t *to, const void *from)
{
    SP_ASSERT((uintptr_t)from % 8 == 0);
    memcpy(to, from, 8);
}
GPU_FN void gpu_put8(void *to, const uint32_t *from)
{
    SP_ASSERT((uintptr_t)to % 8 == 0);
    memcpy(to, from, 8);
}
#else
GPU_FN void gpu_get16(uint32_t *to, const void *from)
{
    uint4 q = *(const uint4 *)from;
    to[0] = q.x;
    to[1] = q.y;
    to[2] = q.z;
    to[3] = q.w;
}
GPU_FN void gpu_put16(void *to, const uint32_t *from)
{
    *(uint4 *)to = make_uint4(from[0], from[1], from[2], from[3]);
}
GPU_FN void gpu_get8(uint32_t *to, const void *from)
{
    uint2 q = *(const uint2 *)from;
    to[0] = q.x;
    to[1] = q.y;
}
GPU_FN void gpu_put8(void *to, const uint32_t *from)
{
    *(uint2 *)to = make_uint2(from[0], from[1]);
}
#endif

/* A thread's elements: [at, at + count), count <= EACH. */
struct gpu_span {
    size_t at;
    int count, wide; /* wide: all EACH, 16 bytes at a time */
};

GPU_FN struct gpu_span gpu_span_of(size_t part, size_t n, int apart)
{
    struct gpu_span s;
    s.at = part * PART + (size_t)threadIdx.x * EACH;
    s.count = s.at >= n ? 0 : n - s.at < EACH ? (int)(n - s.at) : EACH;
    s.wide = s.count == EACH && !apart;
    return s;
}

/* Behind the last element come zeros. */
GPU_FN void gpu_get_floats(float *to, const void *from, struct gpu_span s)
{
    const float *f = (const float *)from + s.at;
    uint32_t bits[EACH];
    if (s.wide) {
        gpu_get16(bits, f);
        gpu_get16(bits + 4, f + 4);
        for (int j = 0; j < EACH; j++)
            to[j] = gpu_float_of(bits[j]);
        return;
    }
    for (int j = 0; j < EACH; j++)
        to[j] = j < s.count ? f[j] : 0.0f;
}

GPU_FN void gpu_put_floats(void *to, const float *from, struct gpu_span s)
{
    float *f = (float *)to + s.at;
    uint32_t bits[EACH];
    if (s.wide) {
        for (int j = 0; j < EACH; j++)
            bits[j] = gpu_word_of(from[j]);
        gpu_put16(f, bits);
        gpu_put16(f + 4, bits + 4);
        return;
    }
    for (int j = 0; j < EACH; j++)
        if (j < s.count)
            f[j] = from[j];
}

GPU_FN void gpu_get_weights(float *to, const void *from, struct gpu_span s, int bf16)
{
    const uint16_t *h = (const uint16_t *)from + s.at;
    uint32_t bits[EACH / 2];
    if (!bf16) {
        gpu_get_floats(to, from, s);
    } else if (s.wide) {
        gpu_get16(bits, h);
        for (int j = 0; j < EACH; j += 2) {
            to[j] = gpu_float_of(bits[j / 2] << 16);
            to[j + 1] = gpu_float_of(bits[j / 2] & 0xffff0000u);
        }
    } else {
        for (int j = 0; j < EACH; j++)
            to[j] = j < s.count ? gpu_widen(h[j]) : 0.0f;
    }
}

/* sp_rng_draw of SP_STREAM_ROUND for the EACH elements from `at` */
GPU_FN void gpu_draw(uint32_t *ret, uint64_t seed, uint64_t step, size_t at)
{
    uint64_t eighth = (uint64_t)at / EACH;
    uint32_t c0 = (uint32_t)eighth, c1 = (uint32_t)(eighth >> 32), c2 = (uint32_t)step;
    uint32_t c3 = (uint32_t)(step >> 32) << 8 | (uint32_t)SP_STREAM_ROUND;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    ret[0] = c0;
    ret[1] = c1;
    ret[2] = c2;
    ret[3] = c3;
}

/* x as bf16, away from zero with the probability of what is cut off: the mean is x. Finite numbers
 * stay finite, NaN stays NaN. */
GPU_FN uint32_t gpu_round(float x, uint32_t random)
{
    uint32_t bits = gpu_word_of(x), size = bits & 0x7fffffffu;
    if (size >= 0x7f800000u)
        return bits >> 16 | (size > 0x7f800000u ? 0x40u : 0u);
    uint32_t up = (size + (random & 0xffffu)) >> 16;
    return (up < 0x7f80u ? up : 0x7f7fu) | (bits >> 16 & 0x8000u);
}

GPU_FN void gpu_put_weights(const struct gpu_update *p, const float *from, struct gpu_span s)
{
    uint32_t draw[EACH / 2], bits[EACH / 2];
    uint16_t *h = (uint16_t *)p->w + s.at;
    if (!p->bf16) {
        gpu_put_floats(p->w, from, s);
        return;
    }
    gpu_draw(draw, p->seed, p->step, s.at);
    for (int j = 0; j < EACH; j += 2)
        bits[j / 2] = gpu_round(from[j], draw[j / 2]) | gpu_round(from[j + 1], draw[j / 2] >> 16)
                                                            << 16;
    if (s.wide)
        gpu_put16(h, bits);
    else
        for (int j = 0; j < EACH; j++)
            if (j < s.count)
                h[j] = (uint16_t)(bits[j / 2] >> (j % 2 * 16));
}

/* --- one element; v is the second moment before the step --- */

GPU_FN float gpu_rmsprop_step(const float *o, float w, float g, float *v)
{
    g = g * o[5];
    g = fmaf(o[4], w, g);
    *v = fmaf(g * g, o[2], o[1] * *v);
    return w - o[0] * g / (sqrtf(*v) + o[3]);
}

GPU_FN float gpu_adamw_step(const float *o, float w, float g, float *m, float *v)
{
    g = g * o[8];
    *m = fmaf(g, o[1], o[0] * *m);
    *v = fmaf(g * g, o[3], o[2] * *v);
    return w * o[5] - o[6] * *m / (sqrtf(*v) / o[7] + o[4]);
}

/* --- state in fp32 --- */

GPU_KERNEL(gpu_rmsprop_wide, gpu_update)
{
    GPU_EACH
    {
        struct gpu_span s = gpu_span_of(blockIdx.x, p.n, p.apart);
        float w[EACH], g[EACH], v[EACH];
        if (s.count == 0)
            continue;
        gpu_get_weights(w, p.w, s, p.bf16);
        gpu_get_weights(g, p.g, s, p.bf16);
        gpu_get_floats(v, p.v, s);
        for (int j = 0; j < EACH; j++)
            w[j] = gpu_rmsprop_step(p.o, w[j], g[j], &v[j]);
        gpu_put_floats(p.v, v, s);
        gpu_put_weights(&p, w, s);
    }
}

GPU_KERNEL(gpu_adamw_wide, gpu_update)
{
    GPU_EACH
    {
        struct gpu_span s = gpu_span_of(blockIdx.x, p.n, p.apart);
        float w[EACH], g[EACH], m[EACH], v[EACH];
        if (s.count == 0)
            continue;
        gpu_get_weights(w, p.w, s, p.bf16);
        gpu_get_weights(g, p.g, s, p.bf16);
        gpu_get_floats(m, p.m, s);
        gpu_get_floats(v, p.v, s);
        for (int j = 0; j < EACH; j++)
            w[j] = gpu_adamw_step(p.o, w[j], g[j], &m[j], &v[j]);
        gpu_put_floats(p.m, m, s);
        gpu_put_floats(p.v, v, s);
        gpu_put_weights(&p, w, s);
    }
}

/* --- state in 8 bits: see common/tensor/state.h --- */

/* Sorts by size, then the positive one first; a NaN is above all. */
GPU_FN uint32_t gpu_key(float x)
{
    uint32_t bits = gpu_word_of(x);
    return bits << 1 | (bits >> 31 ^ 1u);
}

GPU_FN float gpu_scale(uint32_t key)
{
    uint32_t bits = key >> 1;
    if (bits > 0x7f800000u)
        return gpu_float_of(0x7fc00000u);
    if (bits == 0x7f800000u)
        bits--;
    if (bits != 0 && (key & 1) == 0)
        bits |= 0x80000000u;
    return gpu_float_of(bits);
}

/* Limits as a tree, whose node n has its halves at 2n and 2n + 1: what threads look at in a step
 * lies side by side, in as many banks. The last limit is above all, and not asked for. */
GPU_FN uint32_t gpu_limit_node(uint32_t i)
{
    uint32_t node = GPU_CODES / 2, rest = i + 1;
    for (; node > 1 && rest % 2 == 0; node /= 2)
        rest /= 2;
    return node + rest / 2;
}

/* A thread's part of the map's copy in shared memory. */
GPU_FN void gpu_copy_map(struct gpu_map *to, const struct gpu_map *from)
{
    to->value[threadIdx.x] = from->value[threadIdx.x];
    if (threadIdx.x + 1 < GPU_CODES)
        to->limit[gpu_limit_node(threadIdx.x)] = from->limit[threadIdx.x];
}

/* The first code whose limit is not below x; map: such a copy. */
GPU_FN uint32_t gpu_code(const struct gpu_map *map, float x)
{
    uint32_t node = 1;
    GPU_UNROLL
    for (int step = 0; step < GPU_CODE_BITS; step++)
        node = 2 * node + (x > map->limit[node]);
    return node - GPU_CODES;
}

/* Whether the block of the state in which the span lies has elements. */
GPU_FN int gpu_has_codes(struct gpu_span s, size_t n)
{
    return s.at / GPU_CODES * GPU_CODES < n;
}

GPU_FN void gpu_get_codes(float *to, const struct gpu_map *map, const void *codes,
                          const float *scales, struct gpu_span s)
{
    const uint8_t *c = (const uint8_t *)codes + s.at;
    float scale = scales[s.at / GPU_CODES];
    uint32_t bits[EACH / 4] = {0};
    if (s.wide)
        gpu_get8(bits, c);
    else
        for (int j = 0; j < EACH; j++)
            bits[j / 4] |= (uint32_t)c[j] << (j % 4 * 8);
    for (int j = 0; j < EACH; j++)
        to[j] = map->value[bits[j / 4] >> (j % 4 * 8) & 0xffu] * scale;
}

/* Keys of the threads that share the block are in keys[…]. */
GPU_FN void gpu_put_codes(void *codes, float *scales, const struct gpu_map *map, const float *from,
                          const uint32_t *keys, struct gpu_span s)
{
    uint8_t *c = (uint8_t *)codes + s.at;
    uint32_t first = threadIdx.x / GPU_CODE_THREADS * GPU_CODE_THREADS, key = 0;
    uint32_t bits[EACH / 4] = {0};
    for (uint32_t i = 0; i < GPU_CODE_THREADS; i++)
        key = keys[first + i] > key ? keys[first + i] : key;
    float scale = gpu_scale(key);
    for (int j = 0; j < EACH; j++)
        bits[j / 4] |= gpu_code(map, scale == 0.0f ? 0.0f : from[j] / scale) << (j % 4 * 8);
    if (s.wide)
        gpu_put8(c, bits);
    else
        for (int j = 0; j < EACH; j++)
            c[j] = (uint8_t)(bits[j / 4] >> (j % 4 * 8));
    if (threadIdx.x == first)
        scales[s.at / GPU_CODES] = scale;
}

GPU_KERNEL(gpu_rmsprop_8bit, gpu_update)
{
    GPU_SHARED struct gpu_map map;
    GPU_SHARED uint32_t keys[GPU_FLAT];
    GPU_OWN float roots[GPU_COPIES][EACH];
    GPU_EACH
    {
        gpu_copy_map(&map, p.root_map);
    }
    GPU_SYNC();
    for (size_t part = blockIdx.x; part * PART < p.n; part += gridDim.x) {
        GPU_EACH
        {
            struct gpu_span s = gpu_span_of(part, p.n, p.apart);
            float w[EACH], g[EACH], *root = roots[GPU_SELF];
            uint32_t key = 0;
            if (!gpu_has_codes(s, p.n))
                continue;
            gpu_get_weights(w, p.w, s, p.bf16);
            gpu_get_weights(g, p.g, s, p.bf16);
            gpu_get_codes(root, &map, p.v, p.v_scales, s);
            for (int j = 0; j < EACH; j++) {
                float v = root[j] * root[j];
                w[j] = gpu_rmsprop_step(p.o, w[j], g[j], &v);
                root[j] = j < s.count ? sqrtf(v) : 0.0f;
                key = gpu_key(root[j]) > key ? gpu_key(root[j]) : key;
            }
            keys[threadIdx.x] = key;
            gpu_put_weights(&p, w, s);
        }
        GPU_SYNC();
        GPU_EACH
        {
            struct gpu_span s = gpu_span_of(part, p.n, p.apart);
            if (gpu_has_codes(s, p.n))
                gpu_put_codes(p.v, p.v_scales, &map, roots[GPU_SELF], keys, s);
        }
        GPU_SYNC();
    }
}

GPU_KERNEL(gpu_adamw_8bit, gpu_update)
{
    GPU_SHARED struct gpu_map signed_map, root_map;
    GPU_SHARED uint32_t m_keys[GPU_FLAT], v_keys[GPU_FLAT];
    GPU_OWN float moments[GPU_COPIES][EACH], roots[GPU_COPIES][EACH];
    GPU_EACH
    {
        gpu_copy_map(&signed_map, p.signed_map);
        gpu_copy_map(&root_map, p.root_map);
    }
    GPU_SYNC();
    for (size_t part = blockIdx.x; part * PART < p.n; part += gridDim.x) {
        GPU_EACH
        {
            struct gpu_span s = gpu_span_of(part, p.n, p.apart);
            float w[EACH], g[EACH], *m = moments[GPU_SELF], *root = roots[GPU_SELF];
            uint32_t m_key = 0, v_key = 0;
            if (!gpu_has_codes(s, p.n))
                continue;
            gpu_get_weights(w, p.w, s, p.bf16);
            gpu_get_weights(g, p.g, s, p.bf16);
            gpu_get_codes(m, &signed_map, p.m, p.m_scales, s);
            gpu_get_codes(root, &root_map, p.v, p.v_scales, s);
            for (int j = 0; j < EACH; j++) {
                float v = root[j] * root[j];
                w[j] = gpu_adamw_step(p.o, w[j], g[j], &m[j], &v);
                root[j] = j < s.count ? sqrtf(v) : 0.0f;
                m[j] = j < s.count ? m[j] : 0.0f;
                m_key = gpu_key(m[j]) > m_key ? gpu_key(m[j]) : m_key;
                v_key = gpu_key(root[j]) > v_key ? gpu_key(root[j]) : v_key;
            }
            m_keys[threadIdx.x] = m_key;
            v_keys[threadIdx.x] = v_key;
            gpu_put_weights(&p, w, s);
        }
        GPU_SYNC();
        GPU_EACH
        {
            struct gpu_span s = gpu_span_of(part, p.n, p.apart);
            if (!gpu_has_codes(s, p.n))
                continue;
            gpu_put_codes(p.m, p.m_scales, &signed_map, moments[GPU_SELF], m_keys, s);
            gpu_put_codes(p.v, p.v_scales, &root_map, roots[GPU_SELF], v_keys, s);
        }
        GPU_SYNC();
    }
}

/* cache: keys and values of the sequences being decoded, in the layout that the attention kernels
 * read, so that a decoded row has the bits of the same row in a training forward. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/half.h"
#include "common/tensor/cpu/attend.h"

struct tn_kv_cache *tn_cpu_cache_new(struct tn_backend *backend, int32_t layers, int32_t slots,
                                     int32_t max_positions, int32_t G, int32_t C,
                                     enum tn_dtype dtype)
{
    int32_t nr = tn_cpu_of(backend)->kern->nr;
    struct tn_kv_cache *cache = sp_xalloc(sizeof(*cache));
    size_t unit = dtype == TN_BF16 ? 2 : 4, heads, bytes;
    *cache = (struct tn_kv_cache){
        .layers = layers, .slots = slots, .G = G, .C = C, .nr = nr, .dtype = dtype};
    cache->blocks = tn_ceil_div(max_positions, nr);
    cache->padded = (int32_t)tn_round_up((size_t)C, (size_t)nr);
    size_t positions = (size_t)cache->blocks * (size_t)nr;
    cache->k_head = positions * (size_t)C * unit;
    cache->v_head = positions * (size_t)cache->padded * unit;
    if (sp_mul_size((size_t)layers * (size_t)slots, (size_t)G, &heads) &&
        sp_mul_size(heads, cache->v_head, &bytes)) {
        cache->k = sp_alloc_block(heads, cache->k_head);
        cache->v = sp_alloc_block(heads, cache->v_head);
    }
    if (!cache->k || !cache->v) {
        tn_cpu_cache_free(backend, cache);
        return NULL;
    }
    return cache;
}

void tn_cpu_cache_free(struct tn_backend *backend, struct tn_kv_cache *cache)
{
    if (!cache)
        return;
    sp_free_block(cache->k);
    sp_free_block(cache->v);
    free(cache);
}

static size_t head_index(const struct tn_kv_cache *cache, int32_t layer, int32_t slot, int32_t head)
{
    return ((size_t)layer * (size_t)cache->slots + (size_t)slot) * (size_t)cache->G + (size_t)head;
}

/* Where element j of a group of nr lies: pairs (j, j + nr/2) share a word in bf16. */
static inline size_t lane(const struct tn_kv_cache *cache, size_t j)
{
    size_t half = (size_t)cache->nr / 2;
    if (cache->dtype == TN_F32)
        return j;
    return j < half ? 2 * j : 2 * (j - half) + 1;
}

struct put {
    struct tn_kv_cache *cache;
    const float *qkv;
    const struct tn_cache_row *rows;
    int32_t layer, T, H;
};

#define PUT_ROWS 16 /* rows of one task */

static void put_head_f32(const struct tn_kv_cache *cache, float *to_k, float *to_v, const float *k,
                         const float *v, size_t position)
{
    size_t c = (size_t)cache->C, nr = (size_t)cache->nr;
    float *column = to_k + position / nr * c * nr + position % nr;
    for (size_t i = 0; i < c; i++)
        column[i * nr] = k[i];
    memcpy(to_v + position * (size_t)cache->padded, v, c * sizeof(float));
}

static void put_head_bf16(const struct tn_kv_cache *cache, uint16_t *to_k, uint16_t *to_v,
                          const float *k, const float *v, size_t position)
{
    size_t c = (size_t)cache->C, nr = (size_t)cache->nr;
    uint16_t *column = to_k + position / nr * c * nr + lane(cache, position % nr);
    uint16_t *row = to_v + position * (size_t)cache->padded;
    for (size_t i = 0; i < c; i++) {
        column[i * nr] = sp_f32_to_bf16(k[i]);
        row[i / nr * nr + lane(cache, i % nr)] = sp_f32_to_bf16(v[i]);
    }
}

static void put_task(void *context, int32_t task, int32_t worker)
{
    const struct put *p = context;
    struct tn_kv_cache *cache = p->cache;
    size_t c = (size_t)cache->C, stride = (size_t)(p->H + 2 * cache->G) * c;
    int32_t end = SP_MIN(p->T, (task + 1) * PUT_ROWS);
    for (int32_t i = task * PUT_ROWS; i < end; i++)
        for (int32_t head = 0; head < cache->G; head++) {
            const struct tn_cache_row *row = &p->rows[i];
            size_t at = head_index(cache, p->layer, row->slot, head);
            const float *k = p->qkv + (size_t)i * stride + (size_t)(p->H + head) * c;
            const float *v = k + (size_t)cache->G * c;
            void *to_k = cache->k + at * cache->k_head, *to_v = cache->v + at * cache->v_head;
            if (cache->dtype == TN_F32)
                put_head_f32(cache, to_k, to_v, k, v, (size_t)row->position);
            else
                put_head_bf16(cache, to_k, to_v, k, v, (size_t)row->position);
        }
}

void tn_cpu_cache_put(struct tn_backend *backend, struct tn_kv_cache *cache, int32_t layer,
                      const float *qkv, const struct tn_cache_row *rows, int32_t T, int32_t H)
{
    struct put p = {.cache = cache, .qkv = qkv, .rows = rows, .layer = layer, .T = T, .H = H};
    int32_t tasks = tn_ceil_div(T, PUT_ROWS);
    /* Rows at neighbouring positions write neighbouring numbers, never the same one. */
    tn_pool_run(tn_cpu_of(backend)->pool, tasks, put_task, &p);
}

struct cached {
    struct tn_cpu *cpu;
    struct tn_kv_cache *cache;
    float *out;
    const float *qkv;
    const struct tn_cache_row *rows;
    int32_t layer, T, H, window, per_task;
    float scale, softcap;
    size_t own_floats;
};

/* Rows [first, end) of one task: neighbours in one slot at neighbouring positions are attended
 * together, as far as the microkernel's rows reach. */
static void cached_task(void *context, int32_t task, int32_t worker)
{
    const struct cached *a = context;
    const struct tn_kern *kern = a->cpu->kern;
    const struct tn_kv_cache *cache = a->cache;
    int32_t head = task % cache->G, group = a->H / cache->G;
    int32_t row = task / cache->G * a->per_task, end = SP_MIN(a->T, row + a->per_task);
    size_t c = (size_t)cache->C, stride = (size_t)(a->H + 2 * cache->G) * c;
    float *scratch = tn_own_scratch(a->cpu, worker, a->own_floats);
    while (row < end) {
        int32_t run = 1, slot = a->rows[row].slot;
        while (row + run < end && a->rows[row + run].slot == slot &&
               a->rows[row + run].position == a->rows[row].position + run)
            run++;
        size_t at = head_index(cache, a->layer, slot, head);
        struct tn_attend_keys keys = {.k = cache->k + at * cache->k_head,
                                      .v = cache->v + at * cache->v_head,
                                      .bf16 = cache->dtype == TN_BF16};
        for (int32_t item = 0; item < run * group;) {
            struct tn_query queries[TN_MAX_MR];
            int32_t m = 0;
            for (; m < kern->mr && item < run * group; m++, item++) {
                size_t r = (size_t)(row + item / group);
                size_t h = (size_t)(head * group + item % group);
                queries[m].q = a->qkv + r * stride + h * c;
                queries[m].out = a->out + (r * (size_t)a->H + h) * c;
                queries[m].lse = NULL;
                queries[m].position = a->rows[r].position;
            }
            tn_attend(kern, queries, m, cache->C, &keys, a->scale, a->window, a->softcap, scratch);
        }
        row += run;
    }
}

void tn_cpu_cache_attention(struct tn_backend *backend, float *out, const float *qkv,
                            struct tn_kv_cache *cache, int32_t layer,
                            const struct tn_cache_row *rows, int32_t T, int32_t H, float scale,
                            int32_t window, float softcap)
{
    struct cached a = {.cpu = tn_cpu_of(backend),
                       .cache = cache,
                       .out = out,
                       .qkv = qkv,
                       .rows = rows,
                       .layer = layer,
                       .T = T,
                       .H = H,
                       .window = window,
                       .scale = scale,
                       .softcap = softcap};
    int32_t longest = 0;
    for (int32_t i = 0; i < T; i++)
        longest = SP_MAX(longest, rows[i].position + 1);
    a.own_floats = tn_attend_floats(a.cpu->kern, longest, cache->C);
    a.per_task = SP_MAX(1, a.cpu->kern->mr * cache->G / H);
    tn_pool_run(a.cpu->pool, tn_ceil_div(T, a.per_task) * cache->G, cached_task, &a);
}

/* Lanes [0, count) of a block of K; whole words otherwise belong to `to`'s own later positions. */
static void copy_lanes(const struct tn_kv_cache *cache, uint8_t *to, const uint8_t *from,
                       size_t count)
{
    size_t unit = cache->dtype == TN_BF16 ? 2 : 4, nr = (size_t)cache->nr;
    for (size_t i = 0; i < (size_t)cache->C; i++)
        for (size_t j = 0; j < count; j++) {
            size_t at = (i * nr + lane(cache, j)) * unit;
            memcpy(to + at, from + at, unit);
        }
}

void tn_cpu_cache_copy(struct tn_backend *backend, struct tn_kv_cache *cache, int32_t from,
                       int32_t to, int32_t n)
{
    size_t unit = cache->dtype == TN_BF16 ? 2 : 4, nr = (size_t)cache->nr, count = (size_t)n;
    size_t block = nr * (size_t)cache->C * unit, whole = count / nr;
    if (from == to)
        return;
    for (int32_t layer = 0; layer < cache->layers; layer++)
        for (int32_t head = 0; head < cache->G; head++) {
            size_t source = head_index(cache, layer, from, head);
            size_t target = head_index(cache, layer, to, head);
            uint8_t *k = cache->k + target * cache->k_head;
            const uint8_t *from_k = cache->k + source * cache->k_head;
            memcpy(k, from_k, whole * block);
            copy_lanes(cache, k + whole * block, from_k + whole * block, count % nr);
            memcpy(cache->v + target * cache->v_head, cache->v + source * cache->v_head,
                   count * (size_t)cache->padded * unit);
        }
}

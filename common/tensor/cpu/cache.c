/* cache: keys and values of the sequences being decoded, in the layout that the attention kernels
 * read, so that a decoded row has the bits of the same row in a training forward. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/half.h"
#include "common/tensor/cpu/attend.h"

struct tn_kv_cache *tn_cpu_cache_new(struct tn_backend *backend, int32_t layers, int32_t slots,
                                     int32_t max_positions, int32_t G, int32_t C,
                                     enum tn_dtype dtype, size_t positions)
{
    int32_t nr = tn_cpu_of(backend)->kern->nr;
    struct tn_kv_cache *cache = sp_xalloc(sizeof(*cache));
    size_t unit = dtype == TN_BF16 ? 2 : 4, heads, bytes;
    *cache = (struct tn_kv_cache){
        .layers = layers, .slots = slots, .G = G, .C = C, .nr = nr, .dtype = dtype};
    cache->blocks = tn_ceil_div(max_positions, nr);
    cache->padded = (int32_t)tn_round_up((size_t)C, (size_t)nr);
    size_t held = (size_t)cache->blocks * (size_t)nr;
    (void)positions; /* every slot has its own */
    cache->k_head = held * (size_t)C * unit;
    cache->v_head = held * (size_t)cache->padded * unit;
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
    uint16_t *row = to_v + position * (size_t)cache->padded, narrow[TN_MAX_NR] = {0};
    for (size_t at = 0; at < c; at += nr) {
        size_t n = SP_MIN(nr, c - at);
        sp_f32_row_to_bf16(narrow, k + at, n);
        for (size_t i = 0; i < n; i++)
            column[(at + i) * nr] = narrow[i];
        sp_f32_row_to_bf16(narrow, v + at, n);
        memset(narrow + n, 0, (nr - n) * sizeof(*narrow));
        for (size_t i = 0; i < nr / 2; i++) {
            row[at + 2 * i] = narrow[i];
            row[at + 2 * i + 1] = narrow[i + nr / 2];
        }
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
                      const void *qkv, const struct tn_cache_row *rows, int32_t T, int32_t H)
{
    struct put p = {.cache = cache, .qkv = qkv, .rows = rows, .layer = layer, .T = T, .H = H};
    int32_t tasks = tn_ceil_div(T, PUT_ROWS);
    /* Rows at neighbouring positions write neighbouring numbers, never the same one. */
    tn_pool_run_near(tn_cpu_of(backend)->pool, tasks, put_task, &p);
}

/* --- attention --- */

#define KEYS_AHEAD 2048 /* bytes of keys and values fetched ahead */
#define APART 16 /* floats between rows of scores, so that they don't share cache lines' sets */

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

/* At most mr queries of one slot and key head: items [item, item + m) of its rows from `row` on,
 * each row's queries of this head being neighbours. */
struct queries {
    int32_t row, head, item, m;
};

static size_t score_floats(const struct tn_kern *kern, int32_t keys)
{
    return tn_round_up((size_t)keys, (size_t)kern->nr) + (size_t)kern->nr + APART;
}

static size_t cached_floats(const struct tn_kern *kern, int32_t keys, int32_t C)
{
    size_t padded = tn_round_up((size_t)C, (size_t)kern->nr);
    return (size_t)kern->mr * ((size_t)C + padded + score_floats(kern, keys)) + 64;
}

/* The queries as rows of C floats: as they lie where they are of one row, else copied. */
static const float *query_rows(const struct cached *a, const struct queries *q, float *copy)
{
    size_t c = (size_t)a->cache->C, stride = (size_t)(a->H + 2 * a->cache->G) * c;
    int32_t group = a->H / a->cache->G;
    if (q->item / group == (q->item + q->m - 1) / group)
        return a->qkv + (size_t)(q->row + q->item / group) * stride +
               (size_t)(q->head * group + q->item % group) * c;
    for (int32_t i = 0; i < q->m; i++) {
        int32_t item = q->item + i;
        memcpy(copy + (size_t)i * c,
               a->qkv + (size_t)(q->row + item / group) * stride +
                   (size_t)(q->head * group + item % group) * c,
               c * sizeof(float));
    }
    return copy;
}

/* Keys below a row's window and above its position have probability 0 and add ±0 to its chain. */
static void attend(const struct cached *a, const struct queries *q, float *scratch)
{
    const struct tn_kern *kern = a->cpu->kern;
    const struct tn_kv_cache *cache = a->cache;
    size_t nr = (size_t)kern->nr, c = (size_t)cache->C, padded = (size_t)cache->padded;
    size_t unit = cache->dtype == TN_BF16 ? 2 : 4;
    int32_t group = a->H / cache->G;
    const struct tn_cache_row *rows = a->rows + q->row;
    const struct tn_cache_row *first = rows + q->item / group;
    const struct tn_cache_row *last = rows + (q->item + q->m - 1) / group;
    size_t low = (size_t)tn_window_start(first->position, a->window) / nr * nr;
    size_t n = (size_t)last->position + 1 - low, row_floats = score_floats(kern, (int32_t)n);
    size_t at = head_index(cache, a->layer, first->slot, q->head);
    const uint8_t *k = cache->k + at * cache->k_head + low * c * unit;
    const uint8_t *v = cache->v + at * cache->v_head + low * padded * unit;
    float *scores = scratch + (size_t)q->m * c, *out = scores + (size_t)q->m * row_floats;
    float scale = a->softcap > 0 ? 1.0f : a->scale, max, sum[TN_MAX_MR];
    bool bf16 = cache->dtype == TN_BF16;
    const float *x = query_rows(a, q, scratch);
    kern->panels(q->m, tn_ceil_div((int32_t)n, kern->nr), c, x, c, k, nr * unit, nr * c * unit,
                 bf16, KEYS_AHEAD, scores, row_floats, false);
    for (int32_t i = 0; i < q->m; i++) {
        float *row = scores + (size_t)i * row_floats;
        int32_t position = rows[(q->item + i) / group].position;
        if (a->softcap > 0)
            kern->softcap(row, tn_round_up(n, nr), a->scale, a->softcap);
        kern->softmax(row, low, tn_round_up(n, nr), (size_t)tn_window_start(position, a->window),
                      (size_t)position + 1, scale, &max, &sum[i]);
    }
    kern->panels(q->m, (int32_t)(padded / nr), n, scores, row_floats, v, padded * unit, nr * unit,
                 bf16, KEYS_AHEAD, out, padded, false);
    for (int32_t i = 0; i < q->m; i++) {
        int32_t item = q->item + i;
        float *to = a->out + ((size_t)(q->row + item / group) * (size_t)a->H +
                              (size_t)(q->head * group + item % group)) *
                                 c;
        /* Adding zero turns −0 into +0: see above. */
        for (size_t j = 0; j < c; j++)
            to[j] = out[(size_t)i * padded + j] / sum[i] + 0.0f;
    }
}

/* Rows [first, end) of one task: neighbours in one slot at neighbouring positions are attended
 * together, as far as the kernel's rows reach. */
static void cached_task(void *context, int32_t task, int32_t worker)
{
    const struct cached *a = context;
    int32_t head = task % a->cache->G, group = a->H / a->cache->G;
    int32_t row = task / a->cache->G * a->per_task, end = SP_MIN(a->T, row + a->per_task);
    float *scratch = tn_own_scratch(a->cpu, worker, a->own_floats);
    while (row < end) {
        int32_t run = 1;
        while (row + run < end && a->rows[row + run].slot == a->rows[row].slot &&
               a->rows[row + run].position == a->rows[row].position + run)
            run++;
        for (int32_t item = 0; item < run * group; item += a->cpu->kern->mr) {
            struct queries q = {row, head, item, SP_MIN(a->cpu->kern->mr, run * group - item)};
            attend(a, &q, scratch);
        }
        row += run;
    }
}

void tn_cpu_cache_attention(struct tn_backend *backend, void *out, const void *qkv,
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
    a.own_floats = cached_floats(a.cpu->kern, longest, cache->C);
    a.per_task = SP_MAX(1, a.cpu->kern->mr * cache->G / H);
    tn_pool_run_near(a.cpu->pool, tn_ceil_div(T, a.per_task) * cache->G, cached_task, &a);
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

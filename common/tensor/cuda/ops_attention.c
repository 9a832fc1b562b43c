/* ops_attention: packed segments and the cache as lists of queries and keys for attention.cu and
 * attention_bwd.cu. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"

/* (layer, slot, position, key heads side by side), keys and values apart. */
struct tn_kv_cache {
    int32_t layers, slots, positions, G, C;
    enum tn_dtype dtype;
    void *k, *v;
};

static struct device_grid attend_blocks(size_t items)
{
    return (struct device_grid){SP_MIN(items, (size_t)TN_CUDA_BLOCKS), 1};
}

static const struct device_grid attend_threads = {GPU_ATTEND, 1};

size_t cuda_attention_bytes(int32_t rows, int32_t longest, int32_t heads)
{
    return attend_blocks((size_t)rows * (size_t)heads).x * (size_t)longest * sizeof(float);
}

/* --- segments --- */

struct lists { /* of all rows of all segments, in order */
    struct gpu_query *queries;
    struct gpu_key *keys;
    int32_t n, longest;
};

static void add_run(struct lists *l, const struct tn_segment *s, int32_t branch, int32_t first,
                    int32_t count, int32_t position)
{
    for (int32_t i = 0; i < count; i++)
        l->queries[l->n++] = (struct gpu_query){.row = first + i,
                                                .first = s->row,
                                                .prompt = s->prompt,
                                                .branch = branch,
                                                .position = position + i};
    if (count > 0)
        l->longest = SP_MAX(l->longest, position + count);
}

static void add_queries(struct lists *l, const struct tn_segment *s)
{
    int32_t a = s->row + s->prompt, b = a + s->a;
    add_run(l, s, a, s->row, s->prompt + s->a, 0);
    add_run(l, s, b, b, s->b, s->prompt);
}

/* Which rows see the keys of row `row` of a segment: by position, at most `window` from its own. */
static struct gpu_key key_of(const struct tn_segment *s, int32_t row, int32_t window)
{
    int32_t a_end = s->prompt + s->a, end = a_end + s->b, far = window > 0 ? window : INT32_MAX;
    struct gpu_key key = {.row = s->row + row};
    if (row >= a_end) { /* of branch b: its own later rows */
        key.query[0] = s->row + row;
        key.count[0] = SP_MIN(end - row, far);
        return key;
    }
    key.query[0] = s->row + row;
    key.count[0] = SP_MIN(a_end - row, far);
    if (row < s->prompt) { /* branch b's positions go on from the prompt's */
        key.query[1] = s->row + a_end;
        key.count[1] = SP_MAX(0, SP_MIN(s->b, far == INT32_MAX ? far : far - (s->prompt - row)));
    }
    return key;
}

static struct lists lists_new(const struct tn_segment *segments, int32_t n, int32_t window,
                              bool keys)
{
    size_t rows = 0;
    for (int32_t i = 0; i < n; i++)
        rows += (size_t)(segments[i].prompt + segments[i].a + segments[i].b);
    struct lists l = {.queries = sp_xarray(rows + 1, sizeof(*l.queries))};
    for (int32_t i = 0; i < n; i++)
        add_queries(&l, &segments[i]);
    if (!keys)
        return l;
    size_t at = 0;
    l.keys = sp_xarray(rows + 1, sizeof(*l.keys));
    for (int32_t i = 0; i < n; i++)
        for (int32_t r = 0; r < segments[i].prompt + segments[i].a + segments[i].b; r++)
            l.keys[at++] = key_of(&segments[i], r, window);
    return l;
}

static void lists_free(struct lists *l)
{
    free(l->queries);
    free(l->keys);
}

static void attend(struct tn_cuda *cuda, struct gpu_attention *a, const struct gpu_query *queries,
                   int32_t n, int32_t longest)
{
    size_t items = (size_t)n * (size_t)a->H;
    SP_ASSERT(a->C <= GPU_MAX_HEAD);
    a->n = n;
    a->longest = (size_t)longest;
    a->queries = cuda_table(cuda, CUDA_TABLE, queries, (size_t)n * sizeof(*queries));
    a->scores = cuda_scratch(cuda, CUDA_SCORES, cuda_attention_bytes(n, longest, a->H));
    device_launch(cuda->device, gpu_attention_kernel, attend_blocks(items), attend_threads, a);
}

static void op_attention(struct tn_backend *b, void *out, float *lse, const void *qkv, int32_t T,
                         const struct tn_segment *segments, int32_t n_segments, int32_t H,
                         int32_t G, int32_t C, float scale, int32_t window, float softcap)
{
    size_t c = (size_t)C, width = (size_t)(H + 2 * G) * c;
    struct lists l = lists_new(segments, n_segments, window, false);
    struct gpu_attention a = {.out = out,
                              .lse = lse,
                              .q = qkv,
                              .k = (const float *)qkv + (size_t)H * c,
                              .v = (const float *)qkv + (size_t)(H + G) * c,
                              .q_row = width,
                              .kv_row = width,
                              .H = H,
                              .G = G,
                              .C = C,
                              .window = window,
                              .scale = scale,
                              .softcap = softcap};
    (void)T;
    if (l.n > 0)
        attend(tn_cuda_of(b), &a, l.queries, l.n, l.longest);
    lists_free(&l);
}

static void op_attention_bwd(struct tn_backend *b, void *dqkv, const void *dout, const void *out,
                             const float *lse, const void *qkv, int32_t T,
                             const struct tn_segment *segments, int32_t n_segments, int32_t H,
                             int32_t G, int32_t C, float scale, int32_t window, float softcap)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    struct lists l = lists_new(segments, n_segments, window, true);
    size_t items = (size_t)T * (size_t)H, n = (size_t)l.n;
    struct gpu_attention_bwd a = {.dqkv = dqkv,
                                  .dout = dout,
                                  .out = out,
                                  .lse = lse,
                                  .qkv = qkv,
                                  .T = T,
                                  .n = l.n,
                                  .H = H,
                                  .G = G,
                                  .C = C,
                                  .window = window,
                                  .scale = scale,
                                  .softcap = softcap,
                                  .longest = (size_t)l.longest};
    SP_ASSERT(C <= GPU_MAX_HEAD);
    if (l.n > 0) {
        a.queries = cuda_table(cuda, CUDA_TABLE, l.queries, n * sizeof(*l.queries));
        a.keys = cuda_table(cuda, CUDA_TABLE2, l.keys, n * sizeof(*l.keys));
        a.dsum = cuda_scratch(cuda, CUDA_SUMS, items * sizeof(float));
        a.scores = cuda_scratch(cuda, CUDA_SCORES, cuda_attention_bytes(l.n, l.longest, H));
        cuda_rows(cuda, gpu_attention_dsum_kernel, items, &a);
        device_launch(cuda->device, gpu_attention_dq_kernel, attend_blocks(n * (size_t)H),
                      attend_threads, &a);
        device_launch(cuda->device, gpu_attention_dkv_kernel,
                      (struct device_grid){n * (size_t)G, 1}, attend_threads, &a);
    }
    lists_free(&l);
}

/* --- cache --- */

static void op_cache_free(struct tn_backend *b, struct tn_kv_cache *cache)
{
    if (!cache)
        return;
    device_free(tn_cuda_of(b)->device, cache->k);
    device_free(tn_cuda_of(b)->device, cache->v);
    free(cache);
}

static struct tn_kv_cache *op_cache_new(struct tn_backend *b, int32_t layers, int32_t slots,
                                        int32_t max_positions, int32_t G, int32_t C,
                                        enum tn_dtype dtype, size_t positions)
{
    (void)positions; /* every slot has its own */
    struct device *device = tn_cuda_of(b)->device;
    struct tn_kv_cache *cache = sp_xalloc(sizeof(*cache));
    size_t row = (size_t)G * (size_t)C * (dtype == TN_BF16 ? 2 : 4), bytes;
    *cache = (struct tn_kv_cache){.layers = layers,
                                  .slots = slots,
                                  .positions = max_positions,
                                  .G = G,
                                  .C = C,
                                  .dtype = dtype};
    if (sp_mul_size((size_t)layers * (size_t)slots, (size_t)max_positions, &bytes) &&
        sp_mul_size(bytes, row, &bytes)) {
        cache->k = device_alloc(device, bytes);
        cache->v = cache->k ? device_alloc(device, bytes) : NULL;
    }
    if (!cache->v) {
        op_cache_free(b, cache);
        return NULL;
    }
    return cache;
}

/* Rows of the cache are numbered within a layer. */
static int32_t cache_row(const struct tn_kv_cache *cache, int32_t slot, int32_t position)
{
    return slot * cache->positions + position;
}

static size_t layer_bytes(const struct tn_kv_cache *cache, int32_t layer)
{
    return (size_t)layer * (size_t)cache->slots * (size_t)cache->positions * (size_t)cache->G *
           (size_t)cache->C * (cache->dtype == TN_BF16 ? 2 : 4);
}

static void op_cache_put(struct tn_backend *b, struct tn_kv_cache *cache, int32_t layer,
                         const void *qkv, const struct tn_cache_row *rows, int32_t T, int32_t H)
{
    struct tn_cuda *cuda = tn_cuda_of(b);
    size_t at = layer_bytes(cache, layer), n = (size_t)T;
    struct gpu_cache_put p = {.k = (char *)cache->k + at,
                              .v = (char *)cache->v + at,
                              .qkv = qkv,
                              .T = T,
                              .H = H,
                              .G = cache->G,
                              .C = cache->C,
                              .bf16 = cache->dtype == TN_BF16};
    if (T == 0)
        return;
    struct gpu_cache_row *to = sp_xarray(n, sizeof(*to));
    for (size_t i = 0; i < n; i++)
        to[i].to = cache_row(cache, rows[i].slot, rows[i].position);
    p.rows = cuda_table(cuda, CUDA_TABLE, to, n * sizeof(*to));
    cuda_flat(cuda, gpu_cache_put_kernel, n * (size_t)cache->G * (size_t)cache->C, &p);
    free(to);
}

static void op_cache_attention(struct tn_backend *b, void *out, const void *qkv,
                               struct tn_kv_cache *cache, int32_t layer,
                               const struct tn_cache_row *rows, int32_t T, int32_t H, float scale,
                               int32_t window, float softcap)
{
    size_t at = layer_bytes(cache, layer), c = (size_t)cache->C;
    struct gpu_attention a = {.out = out,
                              .q = qkv,
                              .k = (char *)cache->k + at,
                              .v = (char *)cache->v + at,
                              .q_row = (size_t)(H + 2 * cache->G) * c,
                              .kv_row = (size_t)cache->G * c,
                              .kv_bf16 = cache->dtype == TN_BF16,
                              .H = H,
                              .G = cache->G,
                              .C = cache->C,
                              .window = window,
                              .scale = scale,
                              .softcap = softcap};
    int32_t longest = 0;
    if (T == 0)
        return;
    struct gpu_query *queries = sp_xarray((size_t)T, sizeof(*queries));
    for (int32_t i = 0; i < T; i++) {
        queries[i] = (struct gpu_query){.row = i,
                                        .first = cache_row(cache, rows[i].slot, 0),
                                        .prompt = INT32_MAX,
                                        .position = rows[i].position};
        longest = SP_MAX(longest, rows[i].position + 1);
    }
    attend(tn_cuda_of(b), &a, queries, T, longest);
    free(queries);
}

static void op_cache_copy(struct tn_backend *b, struct tn_kv_cache *cache, int32_t from, int32_t to,
                          int32_t n)
{
    struct device *device = tn_cuda_of(b)->device;
    size_t row = (size_t)cache->G * (size_t)cache->C * (cache->dtype == TN_BF16 ? 2 : 4);
    if (from == to || n == 0)
        return;
    for (int32_t layer = 0; layer < cache->layers; layer++) {
        size_t source = layer_bytes(cache, layer) + (size_t)cache_row(cache, from, 0) * row;
        size_t target = layer_bytes(cache, layer) + (size_t)cache_row(cache, to, 0) * row;
        device_copy(device, (char *)cache->k + target, (char *)cache->k + source, (size_t)n * row);
        device_copy(device, (char *)cache->v + target, (char *)cache->v + source, (size_t)n * row);
    }
}

void cuda_add_attention(struct tn_ops *ops)
{
    ops->attention = op_attention;
    ops->attention_bwd = op_attention_bwd;
    ops->cache_new = op_cache_new;
    ops->cache_free = op_cache_free;
    ops->cache_put = op_cache_put;
    ops->cache_attention = op_cache_attention;
    ops->cache_copy = op_cache_copy;
}

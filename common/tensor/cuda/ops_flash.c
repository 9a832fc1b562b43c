/* ops_flash: packed segments as tiles of queries, and the launch of flash.cu. */
#include "common/tensor/cuda/ops_flash.h"

#include <stdlib.h>

#include "common/base/mem.h"

static int32_t padded_columns(int32_t C)
{
    return (C + 15) / 16 * 16;
}

static size_t shared_bytes(int32_t C, int32_t items)
{
    int32_t padded = padded_columns(C);
    return FLASH_SHARED(items, padded, SP_MIN(padded, FLASH_COLUMNS));
}

int32_t flash_items(int32_t C)
{
    int32_t items = FLASH_ITEMS;
    while (items > 16 && shared_bytes(C, items) > DEVICE_SHARED_BYTES)
        items /= 2;
    return items;
}

size_t flash_tile_run(struct gpu_flash_tile *to, const struct flash_run *run, int32_t group,
                      int32_t items)
{
    size_t n = 0;
    int64_t all = (int64_t)run->count * group;
    for (int64_t at = 0; at < all; at += items, n++)
        if (to)
            to[n] = (struct gpu_flash_tile){.row = run->row + (int32_t)(at / group),
                                            .position = run->position + (int32_t)(at / group),
                                            .item = (int32_t)(at % group),
                                            .items = (int32_t)SP_MIN(all - at, items),
                                            .first = run->first,
                                            .prompt = run->prompt,
                                            .branch = run->branch};
    return n;
}

static bool aligned(const void *at)
{
    return (uintptr_t)at % 16 == 0;
}

static const void *kernel_of(int32_t C)
{
    return C == 64    ? gpu_flash_64_kernel
           : C == 128 ? gpu_flash_128_kernel
           : C == 256 ? gpu_flash_256_kernel
           : C <= 128 ? gpu_flash_small_kernel
                      : gpu_flash_large_kernel;
}

void flash_launch(struct tn_cuda *cuda, struct gpu_flash *args, const struct flash_heads *heads,
                  const struct gpu_flash_tile *tiles, size_t n, int32_t items)
{
    const float log2_e = 1.44269504088896341f;
    int32_t C = heads->C, parts = (padded_columns(C) + FLASH_COLUMNS - 1) / FLASH_COLUMNS;
    SP_ASSERT(C > 0 && C <= GPU_MAX_HEAD && heads->H % heads->G == 0);
    args->tiles = tiles;
    args->H = heads->H;
    args->G = heads->G;
    args->C = C;
    args->window = heads->window;
    args->items = (items + 15) / 16 * 16;
    args->wide = C % 8 == 0 && aligned(args->q) && aligned(args->k) && aligned(args->v) &&
                 aligned(args->out);
    args->factor =
        log2_e * (heads->softcap > 0 ? 2.0f * heads->scale / heads->softcap : heads->scale);
    args->cap = heads->softcap * log2_e;
    for (args->shift = 0; args->shift < 5 && (8 << args->shift) < C;)
        args->shift++;
    size_t bytes = shared_bytes(C, args->items);
    SP_ASSERT(args->items <= FLASH_ITEMS && bytes <= DEVICE_SHARED_BYTES);
    device_launch_shared(cuda->device, kernel_of(C),
                         (struct device_grid){n, (size_t)heads->G * (size_t)parts},
                         (struct device_grid){FLASH_THREADS, 1}, bytes, args);
}

/* --- packed segments --- */

struct tiles {
    struct gpu_flash_tile *at;
    size_t n;
    int32_t items; /* of the largest */
};

static void add_run(struct tiles *t, const struct flash_run *run, int32_t group, int32_t items)
{
    t->n += flash_tile_run(t->at ? t->at + t->n : NULL, run, group, items);
    if (run->count > 0)
        t->items = (int32_t)SP_MAX(t->items, SP_MIN((int64_t)run->count * group, items));
}

static void add_segments(struct tiles *t, const struct tn_segment *segments, int32_t n,
                         int32_t group, int32_t items)
{
    for (int32_t i = 0; i < n; i++) {
        const struct tn_segment *s = &segments[i];
        struct flash_run run = {.row = s->row,
                                .count = s->prompt + s->a,
                                .first = s->row,
                                .prompt = s->prompt,
                                .branch = s->row + s->prompt};
        add_run(t, &run, group, items);
        run.row = run.branch = s->row + s->prompt + s->a;
        run.position = s->prompt;
        run.count = s->b;
        add_run(t, &run, group, items);
    }
}

/* Those that see most come first, so that the device is not left with one of them in the end. */
static int by_position(const void *a, const void *b)
{
    const struct gpu_flash_tile *x = a, *y = b;
    return (x->position < y->position) - (x->position > y->position);
}

void flash_attention(struct tn_cuda *cuda, void *out, float *lse, const void *qkv,
                     const struct tn_segment *segments, int32_t n_segments,
                     const struct flash_heads *heads)
{
    const uint16_t *q = qkv;
    size_t c = (size_t)heads->C, width = (size_t)(heads->H + 2 * heads->G) * c;
    int32_t group = heads->H / heads->G, items = flash_items(heads->C);
    struct tiles t = {0};
    add_segments(&t, segments, n_segments, group, items);
    if (t.n == 0)
        return;
    t.at = sp_xarray(t.n, sizeof(*t.at));
    t.n = 0;
    add_segments(&t, segments, n_segments, group, items);
    qsort(t.at, t.n, sizeof(*t.at), by_position);
    struct gpu_flash args = {.out = out,
                             .lse = lse,
                             .q = q,
                             .k = q + (size_t)heads->H * c,
                             .v = q + (size_t)(heads->H + heads->G) * c,
                             .q_row = width,
                             .kv_row = width,
                             .kv_head = c};
    flash_launch(cuda, &args, heads, cuda_table(cuda, CUDA_TABLE, t.at, t.n * sizeof(*t.at)), t.n,
                 t.items);
    free(t.at);
}

/* --- the table --- */

static void op_attention(struct tn_backend *b, void *out, float *lse, const void *qkv, int32_t T,
                         const struct tn_segment *segments, int32_t n_segments, int32_t H,
                         int32_t G, int32_t C, float scale, int32_t window, float softcap)
{
    struct flash_heads heads = {H, G, C, window, scale, softcap};
    (void)T;
    flash_attention(tn_cuda_of(b), out, lse, qkv, segments, n_segments, &heads);
}

static struct tn_kv_cache *op_cache_new(struct tn_backend *b, int32_t layers, int32_t slots,
                                        int32_t max_positions, int32_t G, int32_t C,
                                        enum tn_dtype dtype, size_t positions)
{
    (void)dtype;
    return flash_cache_new(tn_cuda_of(b), layers, slots, max_positions, G, C, positions);
}

static void op_cache_free(struct tn_backend *b, struct tn_kv_cache *cache)
{
    flash_cache_free(tn_cuda_of(b), cache);
}

static bool op_cache_reserve(struct tn_backend *b, struct tn_kv_cache *cache, int32_t slot,
                             int32_t kept, int32_t positions)
{
    return flash_cache_reserve(tn_cuda_of(b), cache, slot, kept, positions);
}

static void op_cache_put(struct tn_backend *b, struct tn_kv_cache *cache, int32_t layer,
                         const void *qkv, const struct tn_cache_row *rows, int32_t T, int32_t H)
{
    flash_cache_put(tn_cuda_of(b), cache, layer, qkv, rows, T, H);
}

static void op_cache_attention(struct tn_backend *b, void *out, const void *qkv,
                               struct tn_kv_cache *cache, int32_t layer,
                               const struct tn_cache_row *rows, int32_t T, int32_t H, float scale,
                               int32_t window, float softcap)
{
    struct flash_heads heads = {H, 0, 0, window, scale, softcap};
    flash_cache_attention(tn_cuda_of(b), out, qkv, cache, layer, rows, T, &heads);
}

static void op_cache_copy(struct tn_backend *b, struct tn_kv_cache *cache, int32_t from, int32_t to,
                          int32_t n)
{
    flash_cache_copy(tn_cuda_of(b), cache, from, to, n);
}

void cuda_add_flash(struct tn_ops *ops)
{
    ops->attention = op_attention;
    ops->cache_new = op_cache_new;
    ops->cache_free = op_cache_free;
    ops->cache_reserve = op_cache_reserve;
    ops->cache_put = op_cache_put;
    ops->cache_attention = op_cache_attention;
    ops->cache_copy = op_cache_copy;
}

/* flash_cache: keys and values in pages, all layers of a page together:
 * (page, layer, keys or values, key head, position, column). */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/ops_flash.h"
#include "common/tensor/cuda/pages.h"

_Static_assert(FLASH_KEYS == PAGES_POSITIONS, "a tile of keys is a page");

#define USUAL_ROWS 2048 /* of prompts in a batch */

struct list { /* a table of the last call, which those of the other layers have in common */
    void *host, *device;
    size_t bytes, room_bytes;
    uint64_t pass; /* it was put there in: what a pass puts must be the same each time */
};

struct tn_kv_cache {
    int32_t layers, slots, per_slot, max_positions, G, C;
    struct pages *pages;
    uint16_t *memory;
    size_t page;    /* elements */
    int32_t *table; /* pages_table on the device */
    bool old;       /* it has to be put there again */
    uint64_t pass;  /* it was put there in */
    struct list tiles, places;
};

static void list_free(struct device *device, struct list *list)
{
    free(list->host);
    device_free(device, list->device);
}

/* Room for what a step usually has: it should not have to allocate. */
static bool list_init(struct device *device, struct list *list, size_t bytes)
{
    list->device = device_alloc(device, bytes);
    list->room_bytes = list->device ? bytes : 0;
    return list->device != NULL;
}

/* The table on the device: put there if it isn't the one that is there. Takes `host`. */
static const void *list_put(struct tn_cuda *cuda, struct list *list, void *host, size_t bytes)
{
    struct device *device = cuda->device;
    bool same =
        list->pass == cuda->pass && bytes == list->bytes && memcmp(host, list->host, bytes) == 0;
    free(same ? host : list->host);
    if (same)
        return list->device;
    list->host = host;
    list->bytes = bytes;
    list->pass = cuda->pass;
    if (bytes > list->room_bytes) {
        device_free(device, list->device);
        list->room_bytes = bytes + bytes / 2;
        list->device = device_alloc(device, list->room_bytes);
        SP_ASSERT(list->device != NULL); /* an operation can't fail */
    }
    device_put(device, list->device, host, bytes);
    return list->device;
}

void flash_cache_free(struct tn_cuda *cuda, struct tn_kv_cache *cache)
{
    if (!cache)
        return;
    list_free(cuda->device, &cache->tiles);
    list_free(cuda->device, &cache->places);
    device_free(cuda->device, cache->memory);
    device_free(cuda->device, cache->table);
    pages_free(cache->pages);
    free(cache);
}

struct tn_kv_cache *flash_cache_new(struct tn_cuda *cuda, int32_t layers, int32_t slots,
                                    int32_t max_positions, int32_t G, int32_t C, size_t positions)
{
    struct tn_kv_cache *cache = sp_xalloc(sizeof(*cache));
    int32_t per_slot = (int32_t)cuda_parts((size_t)max_positions, FLASH_KEYS);
    size_t all = (size_t)slots * (size_t)per_slot, most = (size_t)slots + USUAL_ROWS, bytes;
    if (positions > 0)
        all = SP_MIN(all, SP_MAX(cuda_parts(positions, FLASH_KEYS), (size_t)per_slot));
    *cache = (struct tn_kv_cache){.layers = layers,
                                  .slots = slots,
                                  .per_slot = per_slot,
                                  .max_positions = max_positions,
                                  .G = G,
                                  .C = C,
                                  .old = true};
    cache->page = (size_t)layers * 2 * (size_t)G * FLASH_KEYS * (size_t)C;
    SP_ASSERT((size_t)slots * (size_t)per_slot <= INT32_MAX / FLASH_KEYS);
    cache->pages = pages_new(slots, per_slot, (int32_t)all);
    cache->table = device_alloc(cuda->device, (size_t)slots * (size_t)per_slot * sizeof(int32_t));
    bool ok = list_init(cuda->device, &cache->tiles, most * sizeof(struct gpu_flash_tile)) &&
              list_init(cuda->device, &cache->places, most * sizeof(int32_t));
    if (ok && cache->table && sp_mul_size(all, cache->page * sizeof(uint16_t), &bytes))
        cache->memory = device_alloc(cuda->device, bytes);
    if (!cache->memory) {
        flash_cache_free(cuda, cache);
        return NULL;
    }
    return cache;
}

/* --- pages --- */

static const int32_t *table_put(struct tn_cuda *cuda, struct tn_kv_cache *cache)
{
    if (cache->old || cache->pass != cuda->pass)
        device_put(cuda->device, cache->table, pages_table(cache->pages),
                   (size_t)cache->slots * (size_t)cache->per_slot * sizeof(int32_t));
    cache->old = false;
    cache->pass = cuda->pass;
    return cache->table;
}

static uint16_t *page_memory(const struct tn_kv_cache *cache, int32_t page)
{
    return cache->memory + (size_t)page * cache->page;
}

/* The slot's page at index becomes its own, with what it held; -1: no page is left. */
static int32_t own_page(struct tn_cuda *cuda, struct tn_kv_cache *cache, int32_t slot,
                        int32_t index)
{
    int32_t page, old, before = pages_at(cache->pages, slot, index);
    if (!pages_own(cache->pages, slot, index, &page, &old))
        return -1;
    if (old >= 0)
        device_copy(cuda->device, page_memory(cache, page), page_memory(cache, old),
                    cache->page * sizeof(uint16_t));
    cache->old = cache->old || page != before;
    return page;
}

int32_t flash_cache_room(const struct tn_kv_cache *cache)
{
    return pages_room(cache->pages);
}

static int32_t pages_of(int32_t positions)
{
    return (int32_t)cuda_parts((size_t)positions, FLASH_KEYS);
}

bool flash_cache_reserve(struct tn_cuda *cuda, struct tn_kv_cache *cache, int32_t slot,
                         int32_t kept, int32_t positions)
{
    SP_ASSERT(kept <= positions && positions <= cache->max_positions);
    SP_ASSERT(pages_has(cache->pages, slot, pages_of(kept)));
    pages_drop(cache->pages, slot, pages_of(kept));
    cache->old = true;
    if (kept % FLASH_KEYS != 0 && own_page(cuda, cache, slot, kept / FLASH_KEYS) < 0)
        return false;
    return pages_promise(cache->pages, slot, pages_of(positions));
}

void flash_cache_copy(struct tn_cuda *cuda, struct tn_kv_cache *cache, int32_t from, int32_t to,
                      int32_t n)
{
    int32_t whole = n / FLASH_KEYS;
    if (from == to || n == 0)
        return;
    SP_ASSERT(pages_has(cache->pages, from, pages_of(n)));
    pages_share(cache->pages, from, to, whole);
    cache->old = true;
    if (n % FLASH_KEYS == 0 ||
        pages_at(cache->pages, from, whole) == pages_at(cache->pages, to, whole))
        return;
    int32_t page = own_page(cuda, cache, to, whole);
    SP_ASSERT(page >= 0); /* reserved before */
    struct gpu_flash_copy p = {.to = page_memory(cache, page),
                               .from = page_memory(cache, pages_at(cache->pages, from, whole)),
                               .runs = cache->layers * 2 * cache->G,
                               .n = n % FLASH_KEYS,
                               .C = cache->C,
                               .wide = cache->C % 8 == 0};
    cuda_flat(cuda, gpu_flash_copy_kernel,
              (size_t)p.runs * (size_t)p.n * (size_t)p.C / (p.wide ? 8 : 1), &p);
}

/* --- rows --- */

static uint16_t *layer_memory(const struct tn_kv_cache *cache, int32_t layer, bool values)
{
    size_t heads = (size_t)cache->G * FLASH_KEYS * (size_t)cache->C;
    return cache->memory + ((size_t)layer * 2 + values) * heads;
}

void flash_cache_put(struct tn_cuda *cuda, struct tn_kv_cache *cache, int32_t layer,
                     const void *qkv, const struct tn_cache_row *rows, int32_t T, int32_t H)
{
    size_t n = (size_t)T;
    if (T == 0)
        return;
    SP_ASSERT(layer >= 0 && layer < cache->layers);
    int32_t *to = sp_xarray(n, sizeof(*to));
    for (size_t i = 0; i < n; i++) {
        SP_ASSERT(rows[i].position >= 0 && rows[i].position < cache->max_positions);
        int32_t page = own_page(cuda, cache, rows[i].slot, rows[i].position / FLASH_KEYS);
        SP_ASSERT(page >= 0); /* reserved before */
        to[i] = page * FLASH_KEYS + rows[i].position % FLASH_KEYS;
    }
    struct gpu_flash_put p = {.k = layer_memory(cache, layer, false),
                              .v = layer_memory(cache, layer, true),
                              .qkv = qkv,
                              .to = list_put(cuda, &cache->places, to, n * sizeof(*to)),
                              .page = cache->page,
                              .T = T,
                              .H = H,
                              .G = cache->G,
                              .C = cache->C,
                              .wide = cache->C % 8 == 0 && (uintptr_t)qkv % 16 == 0};
    cuda_flat(cuda, gpu_flash_put_kernel,
              n * (size_t)cache->G * (size_t)cache->C / (p.wide ? 8 : 1), &p);
}

/* The rows from `from` on that are of one slot, one position after the other. */
static struct flash_run run_at(const struct tn_kv_cache *cache, const struct tn_cache_row *rows,
                               int32_t T, int32_t from)
{
    int32_t n = 1;
    while (from + n < T && rows[from + n].slot == rows[from].slot &&
           rows[from + n].position == rows[from].position + n)
        n++;
    SP_ASSERT(rows[from].position >= 0 &&
              pages_has(cache->pages, rows[from].slot, pages_of(rows[from].position + n)));
    return (struct flash_run){.row = from,
                              .position = rows[from].position,
                              .count = n,
                              .first = rows[from].slot * cache->per_slot};
}

/* The tiles of runs that fit 16 items, or of the others; returns their number. */
static size_t tile_rows(const struct tn_kv_cache *cache, struct gpu_flash_tile *to,
                        const struct tn_cache_row *rows, int32_t T, int32_t group, int32_t items,
                        bool small)
{
    size_t n = 0;
    for (int32_t i = 0; i < T;) {
        struct flash_run run = run_at(cache, rows, T, i);
        if (((int64_t)run.count * group <= 16) == small)
            n += flash_tile_run(to ? to + n : NULL, &run, group, items);
        i += run.count;
    }
    return n;
}

void flash_cache_attention(struct tn_cuda *cuda, void *out, const void *qkv,
                           struct tn_kv_cache *cache, int32_t layer,
                           const struct tn_cache_row *rows, int32_t T,
                           const struct flash_heads *asked)
{
    struct flash_heads heads = *asked;
    heads.G = cache->G;
    heads.C = cache->C;
    int32_t group = heads.H / heads.G, items = flash_items(heads.C);
    size_t c = (size_t)cache->C, small = tile_rows(cache, NULL, rows, T, group, 16, true);
    size_t large = tile_rows(cache, NULL, rows, T, group, items, false);
    if (T == 0)
        return;
    SP_ASSERT(layer >= 0 && layer < cache->layers);
    struct gpu_flash_tile *host = sp_xarray(small + large, sizeof(*host));
    tile_rows(cache, host, rows, T, group, 16, true);
    tile_rows(cache, host + small, rows, T, group, items, false);
    const struct gpu_flash_tile *tiles =
        list_put(cuda, &cache->tiles, host, (small + large) * sizeof(*host));
    struct gpu_flash args = {.out = out,
                             .q = qkv,
                             .k = layer_memory(cache, layer, false),
                             .v = layer_memory(cache, layer, true),
                             .q_row = (size_t)(heads.H + 2 * heads.G) * c,
                             .kv_row = c,
                             .kv_head = FLASH_KEYS * c,
                             .pages = table_put(cuda, cache),
                             .page = cache->page};
    if (large > 0)
        flash_launch(cuda, &args, &heads, tiles + small, large, items);
    if (small > 0)
        flash_launch(cuda, &args, &heads, tiles, small, 16);
}

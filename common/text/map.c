#include "common/text/map.h"

#include <stdlib.h>

#include "common/base/mem.h"

static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint32_t tok_map_hash(const char *key, size_t length)
{
    const uint64_t k0 = 0xa0761d6478bd642fu, k1 = 0xe7037ed1a0b428dbu;
    uint64_t h = length ^ k0, word;
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&word, key + i, 8);
        h = mix(h ^ word, k1);
    }
    if (i < length) {
        word = 0;
        for (unsigned shift = 0; i < length; i++, shift += 8)
            word |= (uint64_t)(unsigned char)key[i] << shift;
        h = mix(h ^ word, k1);
    }
    return (uint32_t)mix(h, k0);
}

static size_t slots_for(size_t count)
{
    size_t slots = 16;
    while (slots < 2 * count + 2)
        slots *= 2;
    return slots;
}

static struct tok_map_slot *free_slots(size_t count)
{
    struct tok_map_slot *slots = sp_xarray(count, sizeof(*slots));
    for (size_t i = 0; i < count; i++)
        slots[i].value = -1;
    return slots;
}

void tok_map_init(struct tok_map *map, size_t expected)
{
    memset(map, 0, sizeof(*map));
    size_t slots = slots_for(expected);
    map->slots = free_slots(slots);
    map->mask = slots - 1;
}

void tok_map_deinit(struct tok_map *map)
{
    free(map->slots);
    sp_buf_deinit(&map->keys);
    memset(map, 0, sizeof(*map));
}

static void insert(struct tok_map *map, const struct tok_map_slot *slot)
{
    size_t i = slot->hash & map->mask;
    while (map->slots[i].value >= 0)
        i = (i + 1) & map->mask;
    map->slots[i] = *slot;
}

static void grow(struct tok_map *map)
{
    struct tok_map_slot *old = map->slots;
    size_t old_count = map->mask + 1;
    map->slots = free_slots(old_count * 2);
    map->mask = old_count * 2 - 1;
    for (size_t i = 0; i < old_count; i++)
        if (old[i].value >= 0)
            insert(map, &old[i]);
    free(old);
}

bool tok_map_put(struct tok_map *map, const char *key, size_t length, int32_t value)
{
    SP_ASSERT(value >= 0);
    if (tok_map_get(map, key, length) >= 0)
        return false;
    if (2 * (map->count + 1) > map->mask)
        grow(map);
    SP_ASSERT(map->keys.length + length < UINT32_MAX);
    struct tok_map_slot slot = {.hash = tok_map_hash(key, length),
                                .offset = (uint32_t)map->keys.length,
                                .length = (uint32_t)length,
                                .value = value};
    sp_buf_append(&map->keys, key, length);
    sp_buf_putc(&map->keys, '\0');
    insert(map, &slot);
    map->count++;
    return true;
}

void tok_merges_init(struct tok_merges *merges, size_t count)
{
    size_t slots = slots_for(count);
    merges->slots = sp_xarray(slots, sizeof(*merges->slots));
    for (size_t i = 0; i < slots; i++)
        merges->slots[i].rank = TOK_NO_RANK;
    merges->mask = slots - 1;
    merges->shift = 64u - (unsigned)__builtin_ctzll(slots);
}

void tok_merges_deinit(struct tok_merges *merges)
{
    free(merges->slots);
    memset(merges, 0, sizeof(*merges));
}

void tok_merges_put(struct tok_merges *merges, int32_t left, int32_t right, uint32_t rank,
                    int32_t id)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (pair * 0x9e3779b97f4a7c15u) >> merges->shift;
    while (merges->slots[i].rank != TOK_NO_RANK && merges->slots[i].pair != pair)
        i = (i + 1) & merges->mask;
    merges->slots[i] = (struct tok_merge){.pair = pair, .rank = rank, .id = id};
}

#include "coordinator/map.h"

#include <stdlib.h>

#include "common/base/mem.h"

static size_t slot_of(const struct coord_map *map, uint64_t key)
{
    uint64_t hash = key * 0x9E3779B97F4A7C15u;
    return (size_t)(hash >> 32) & (map->capacity - 1);
}

void coord_map_deinit(struct coord_map *map)
{
    free(map->keys);
    free(map->values);
    *map = (struct coord_map){0};
}

void *coord_map_get(const struct coord_map *map, uint64_t key)
{
    if (map->count == 0 || key == 0)
        return NULL;
    for (size_t i = slot_of(map, key); map->keys[i] != 0; i = (i + 1) & (map->capacity - 1)) {
        if (map->keys[i] == key)
            return map->values[i];
    }
    return NULL;
}

static void insert(struct coord_map *map, uint64_t key, void *value)
{
    size_t i = slot_of(map, key);
    while (map->keys[i] != 0 && map->keys[i] != key)
        i = (i + 1) & (map->capacity - 1);
    if (map->keys[i] == 0)
        map->count++;
    map->keys[i] = key;
    map->values[i] = value;
}

void coord_map_put(struct coord_map *map, uint64_t key, void *value)
{
    SP_ASSERT(key != 0);
    if ((map->count + 1) * 2 > map->capacity) {
        struct coord_map bigger = {.capacity = map->capacity ? map->capacity * 2 : 16};
        bigger.keys = sp_xarray(bigger.capacity, sizeof(*bigger.keys));
        bigger.values = sp_xarray(bigger.capacity, sizeof(*bigger.values));
        for (size_t i = 0; i < map->capacity; i++) {
            if (map->keys[i] != 0)
                insert(&bigger, map->keys[i], map->values[i]);
        }
        coord_map_deinit(map);
        *map = bigger;
    }
    insert(map, key, value);
}

void coord_map_remove(struct coord_map *map, uint64_t key)
{
    if (map->count == 0 || key == 0)
        return;
    size_t i = slot_of(map, key);
    while (map->keys[i] != key) {
        if (map->keys[i] == 0)
            return;
        i = (i + 1) & (map->capacity - 1);
    }
    map->keys[i] = 0;
    map->count--;
    /* What follows may have been pushed along by the removed key: put it in again. */
    for (size_t j = (i + 1) & (map->capacity - 1); map->keys[j] != 0;
         j = (j + 1) & (map->capacity - 1)) {
        uint64_t moved = map->keys[j];
        map->keys[j] = 0;
        map->count--;
        insert(map, moved, map->values[j]);
    }
}

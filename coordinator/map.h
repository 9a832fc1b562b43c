/* map: from uint64_t to pointer, open addressing. Keys are never 0. One thread. */
#ifndef SPIN_COORDINATOR_MAP_H
#define SPIN_COORDINATOR_MAP_H

#include <stddef.h>
#include <stdint.h>

struct coord_map {
    uint64_t *keys;  /* 0: empty */
    void **values;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
};

void coord_map_deinit(struct coord_map *map);
void *coord_map_get(const struct coord_map *map, uint64_t key); /* NULL when absent */
void coord_map_put(struct coord_map *map, uint64_t key, void *value);
void coord_map_remove(struct coord_map *map, uint64_t key); /* an absent key is fine */

#endif

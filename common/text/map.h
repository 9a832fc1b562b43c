/* map: hash tables of the tokenizer: byte strings to ids, and pairs of ids to merges. Filled while
 * a tokenizer loads, then only read, by any thread. */
#ifndef SPIN_TEXT_MAP_H
#define SPIN_TEXT_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/base/buf.h"

struct tok_map_slot {
    uint32_t hash;
    uint32_t offset; /* of the key in `keys` */
    uint32_t length; /* of the key, bytes */
    int32_t value;   /* -1: free slot */
};

struct tok_map {
    struct tok_map_slot *slots; /* open addressing, a power of two, at most half full */
    size_t mask;                /* slots - 1; 0 while there are none */
    size_t count;
    struct sp_buf keys; /* all keys, each with a NUL behind it */
};

/* Room for `expected` keys; it grows beyond that. */
void tok_map_init(struct tok_map *map, size_t expected);
void tok_map_deinit(struct tok_map *map);
/* false when the key is there already (its value stays). value >= 0; keys up to 4 GiB in all. */
bool tok_map_put(struct tok_map *map, const char *key, size_t length, int32_t value);

uint32_t tok_map_hash(const char *key, size_t length);

/* NULL where there is no such key. */
static inline const struct tok_map_slot *tok_map_find(const struct tok_map *map, const char *key,
                                                      size_t length)
{
    if (map->slots == NULL)
        return NULL;
    uint32_t hash = tok_map_hash(key, length);
    for (size_t i = hash & map->mask;; i = (i + 1) & map->mask) {
        const struct tok_map_slot *slot = &map->slots[i];
        if (slot->value < 0)
            return NULL;
        if (slot->hash == hash && slot->length == length &&
            memcmp(map->keys.data + slot->offset, key, length) == 0)
            return slot;
    }
}

/* -1 where there is no such key. */
static inline int32_t tok_map_get(const struct tok_map *map, const char *key, size_t length)
{
    const struct tok_map_slot *slot = tok_map_find(map, key, length);
    return slot != NULL ? slot->value : -1;
}

/* The map's own copy of a key, while nothing more is put; NULL where there is no such key. */
static inline const char *tok_map_key(const struct tok_map *map, const char *key, size_t length)
{
    const struct tok_map_slot *slot = tok_map_find(map, key, length);
    return slot != NULL ? map->keys.data + slot->offset : NULL;
}

/* What becomes of two neighbouring symbols. */
struct tok_merge {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank; /* lower goes first; TOK_NO_RANK: free slot */
    int32_t id;    /* of the token that they become */
};
#define TOK_NO_RANK UINT32_MAX

struct tok_merges {
    struct tok_merge *slots; /* open addressing, a power of two, at most half full */
    unsigned shift;          /* 64 - log2(slots) */
    size_t mask;
};

void tok_merges_init(struct tok_merges *merges, size_t count);
void tok_merges_deinit(struct tok_merges *merges);
/* A pair that is there already takes the new rank, as in the library that defines the format.
 * At most `count` different pairs. */
void tok_merges_put(struct tok_merges *merges, int32_t left, int32_t right, uint32_t rank,
                    int32_t id);

static inline const struct tok_merge *tok_merges_get(const struct tok_merges *merges, int32_t left,
                                                     int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (size_t i = (pair * 0x9e3779b97f4a7c15u) >> merges->shift;; i = (i + 1) & merges->mask) {
        const struct tok_merge *slot = &merges->slots[i];
        if (slot->rank == TOK_NO_RANK)
            return NULL;
        if (slot->pair == pair)
            return slot;
    }
}

#endif

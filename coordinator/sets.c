#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

void set_init(struct coord_set *set, uint32_t count, bool complete)
{
    *set = (struct coord_set){.count = count};
    set->state = sp_xalloc(count);
    set->deaths = sp_xalloc(count);
    set->owner = sp_xarray(count, sizeof(*set->owner));
    set->check = sp_xalloc(count);
    if (complete) {
        memset(set->state, KEY_STORED, count);
        set->stored = count;
    }
}

void set_deinit(struct coord_set *set)
{
    free(set->state);
    free(set->deaths);
    free(set->owner);
    free(set->check);
    free(set->check_list);
    free(set->order);
    free(set->rank);
    *set = (struct coord_set){0};
}

uint32_t set_free_keys(const struct coord_set *set)
{
    return set->count - set->stored - set->leased - set->skipped;
}

bool set_complete(const struct coord_set *set)
{
    return set->stored + set->skipped == set->count;
}

bool set_take(struct coord_set *set, uint32_t position)
{
    if (set->state[position] != KEY_FREE)
        return false;
    set->state[position] = KEY_LEASED;
    set->leased++;
    return true;
}

uint32_t set_take_next(struct coord_set *set)
{
    for (; set->cursor < set->count; set->cursor++) {
        uint32_t position = set->order ? set->order[set->cursor] : set->cursor;
        if (set_take(set, position)) {
            set->cursor++;
            return position;
        }
    }
    SP_ASSERT(!"a free key");
    return 0;
}

void set_take_second(struct coord_set *set, uint32_t position)
{
    SP_ASSERT(set->state[position] == KEY_LEASED);
    set->state[position] = KEY_LEASED_TWICE;
}

void set_release(struct coord_set *set, uint32_t position)
{
    if (set->state[position] == KEY_LEASED_TWICE) {
        set->state[position] = KEY_LEASED;
        return;
    }
    if (set->state[position] != KEY_LEASED)
        return;
    set->state[position] = KEY_FREE;
    set->leased--;
    uint32_t rank = set->rank ? set->rank[position] : position;
    if (rank < set->cursor)
        set->cursor = rank;
}

bool set_store(struct coord_set *set, uint32_t position)
{
    uint8_t *state = &set->state[position];
    if (*state == KEY_STORED || *state == KEY_SKIPPED || *state == KEY_REVOKED)
        return false;
    if (*state == KEY_LEASED || *state == KEY_LEASED_TWICE)
        set->leased--;
    *state = KEY_STORED;
    set->stored++;
    return true;
}

void set_revoke(struct coord_set *set, uint32_t position)
{
    SP_ASSERT(set->state[position] == KEY_STORED);
    set->state[position] = KEY_REVOKED;
    set->stored--;
    set->leased++;
    set->owner[position] = 0;
    if (set->check[position] != CHECK_NONE && set->check[position] != CHECK_PASSED)
        set->checks--;
    set->check[position] = CHECK_NONE;
}

void set_revoked(struct coord_set *set, uint32_t position)
{
    if (set->state[position] != KEY_REVOKED)
        return; /* skipped meanwhile */
    set->state[position] = KEY_FREE;
    set->leased--;
    uint32_t rank = set->rank ? set->rank[position] : position;
    if (rank < set->cursor)
        set->cursor = rank;
}

void set_skip(struct coord_set *set, uint32_t position)
{
    uint8_t *state = &set->state[position];
    if (*state == KEY_SKIPPED)
        return;
    if (*state == KEY_LEASED || *state == KEY_LEASED_TWICE || *state == KEY_REVOKED)
        set->leased--;
    if (*state == KEY_STORED)
        set->stored--;
    if (set->check[position] != CHECK_NONE && set->check[position] != CHECK_PASSED)
        set->checks--;
    set->check[position] = CHECK_NONE;
    *state = KEY_SKIPPED;
    set->skipped++;
}

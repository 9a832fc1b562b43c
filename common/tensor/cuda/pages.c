#include "common/tensor/cuda/pages.h"

#include <stdlib.h>

#include "common/base/mem.h"

struct slot {
    int32_t held;     /* pages in its part of the table */
    int32_t end;      /* behind the last of them */
    int32_t promised; /* pages that it may have in all */
};

struct pages {
    int32_t n_slots, per_slot, n_pages, n_free, n_owed; /* owed: promised and not yet held */
    int32_t *table;                                     /* (slots, per_slot); -1: none */
    int32_t *users;                                     /* of each page */
    int32_t *unused;                                    /* the free ones; the last is taken next */
    struct slot *slots;
};

struct pages *pages_new(int32_t slots, int32_t per_slot, int32_t pages)
{
    struct pages *pool = sp_xalloc(sizeof(*pool));
    SP_ASSERT(slots >= 0 && per_slot >= 0 && pages >= 0);
    *pool =
        (struct pages){.n_slots = slots, .per_slot = per_slot, .n_pages = pages, .n_free = pages};
    pool->table = sp_xarray((size_t)slots * (size_t)per_slot, sizeof(*pool->table));
    pool->users = sp_xarray((size_t)pages, sizeof(*pool->users));
    pool->unused = sp_xarray((size_t)pages, sizeof(*pool->unused));
    pool->slots = sp_xarray((size_t)slots, sizeof(*pool->slots));
    for (size_t i = 0; i < (size_t)slots * (size_t)per_slot; i++)
        pool->table[i] = -1;
    for (int32_t i = 0; i < pages; i++)
        pool->unused[i] = pages - 1 - i;
    return pool;
}

void pages_free(struct pages *pool)
{
    if (!pool)
        return;
    free(pool->table);
    free(pool->users);
    free(pool->unused);
    free(pool->slots);
    free(pool);
}

static int32_t *entry(const struct pages *pool, int32_t slot, int32_t index)
{
    SP_ASSERT(slot >= 0 && slot < pool->n_slots && index >= 0 && index < pool->per_slot);
    return pool->table + (size_t)slot * (size_t)pool->per_slot + (size_t)index;
}

static int32_t owed(const struct slot *s)
{
    return SP_MAX(0, s->promised - s->held);
}

/* Puts a page, or with -1 none, at a place of the table. The page's user was counted. */
static void set(struct pages *pool, int32_t slot, int32_t index, int32_t page)
{
    struct slot *s = &pool->slots[slot];
    int32_t *at = entry(pool, slot, index), before = owed(s);
    if (*at >= 0) {
        s->held--;
        if (--pool->users[*at] == 0)
            pool->unused[pool->n_free++] = *at;
    }
    *at = page;
    s->held += page >= 0;
    s->end = page >= 0 ? SP_MAX(s->end, index + 1) : s->end;
    while (s->end > 0 && *entry(pool, slot, s->end - 1) < 0)
        s->end--;
    pool->n_owed += owed(s) - before;
}

int32_t pages_room(const struct pages *pool)
{
    return pool->n_free - pool->n_owed;
}

int32_t pages_at(const struct pages *pool, int32_t slot, int32_t index)
{
    return *entry(pool, slot, index);
}

bool pages_has(const struct pages *pool, int32_t slot, int32_t n)
{
    SP_ASSERT(slot >= 0 && slot < pool->n_slots);
    const struct slot *s = &pool->slots[slot];
    if (s->held == s->end) /* no gaps, as sequences have it */
        return s->end >= n;
    for (int32_t i = 0; i < n; i++)
        if (*entry(pool, slot, i) < 0)
            return false;
    return true;
}

const int32_t *pages_table(const struct pages *pool)
{
    return pool->table;
}

bool pages_own(struct pages *pool, int32_t slot, int32_t index, int32_t *ret_page, int32_t *ret_old)
{
    int32_t old = *entry(pool, slot, index);
    bool promised = old < 0 && owed(&pool->slots[slot]) > 0;
    *ret_old = -1;
    *ret_page = old;
    if (old >= 0 && pool->users[old] == 1)
        return true;
    if (pool->n_free == 0 || (!promised && pages_room(pool) <= 0))
        return false;
    int32_t page = pool->unused[--pool->n_free];
    pool->users[page] = 1;
    set(pool, slot, index, page);
    *ret_page = page;
    *ret_old = old;
    return true;
}

void pages_share(struct pages *pool, int32_t from, int32_t to, int32_t n)
{
    if (from == to)
        return;
    for (int32_t i = 0; i < n; i++) {
        int32_t page = *entry(pool, from, i);
        SP_ASSERT(page >= 0);
        pool->users[page]++;
        set(pool, to, i, page);
    }
}

void pages_drop(struct pages *pool, int32_t slot, int32_t index)
{
    SP_ASSERT(slot >= 0 && slot < pool->n_slots);
    struct slot *s = &pool->slots[slot];
    pool->n_owed -= owed(s);
    s->promised = 0;
    for (int32_t i = s->end - 1; i >= index; i--)
        set(pool, slot, i, -1);
}

bool pages_promise(struct pages *pool, int32_t slot, int32_t n)
{
    SP_ASSERT(slot >= 0 && slot < pool->n_slots);
    struct slot *s = &pool->slots[slot];
    int32_t more = SP_MAX(0, n - s->held) - owed(s);
    if (n > pool->per_slot || more > pages_room(pool))
        return false;
    pool->n_owed += more;
    s->promised = n;
    return true;
}

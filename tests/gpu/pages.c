/* The pages of a paged cache (pages.h) beside a plain count of who has what. Prints TAP. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/cuda/pages.h"

enum { SLOTS = 5, PER_SLOT = 6, STEPS = 20000 };

static int n_cases, n_failed;

static void result(bool ok, const char *what)
{
    n_failed += !ok;
    printf("%sok %d - %s\n", ok ? "" : "not ", ++n_cases, what);
}

struct model { /* what each slot should have: names of contents, 0 for none */
    int contents[SLOTS][PER_SLOT];
    int promised[SLOTS];
    int at_page[SLOTS * PER_SLOT]; /* contents of each page of the pool */
    int next;
};

static int held(const struct model *m, int slot)
{
    int n = 0;
    for (int i = 0; i < PER_SLOT; i++)
        n += m->contents[slot][i] != 0;
    return n;
}

/* Every slot finds its contents, and room is what is left. */
static bool agrees(const struct pages *pool, const struct model *m, int pages)
{
    int owed = 0, used = 0;
    bool seen[SLOTS * PER_SLOT] = {false}, ok = true;
    for (int s = 0; s < SLOTS; s++) {
        int first = 0;
        while (first < PER_SLOT && m->contents[s][first] != 0)
            first++;
        ok = ok && pages_has(pool, s, first) &&
             (first == PER_SLOT || !pages_has(pool, s, first + 1));
        owed += SP_MAX(0, m->promised[s] - held(m, s));
        for (int i = 0; i < PER_SLOT; i++) {
            int32_t page = pages_at(pool, s, i);
            ok = ok && page == pages_table(pool)[s * PER_SLOT + i] && page < pages;
            ok = ok && (page < 0 ? m->contents[s][i] == 0 : m->contents[s][i] == m->at_page[page]);
            used += page >= 0 && !seen[page];
            if (page >= 0)
                seen[page] = true;
        }
    }
    return ok && pages_room(pool) == pages - used - owed;
}

static int users(const struct pages *pool, int32_t page)
{
    int n = 0;
    for (int i = 0; i < SLOTS * PER_SLOT; i++)
        n += pages_table(pool)[i] == page;
    return n;
}

static bool write_page(struct pages *pool, struct model *m, int slot, int index)
{
    int32_t page, old, before = pages_at(pool, slot, index);
    int room = pages_room(pool);
    bool alone = before >= 0 && users(pool, before) == 1;
    bool promised = before < 0 && m->promised[slot] > held(m, slot);
    bool done = pages_own(pool, slot, index, &page, &old);
    if (done != (alone || promised || room > 0))
        return false;
    if (!done)
        return pages_at(pool, slot, index) == before;
    m->contents[slot][index] = m->at_page[page] = ++m->next;
    return users(pool, page) == 1 && old == (alone ? -1 : before) && (!alone || page == before);
}

static bool step(struct pages *pool, struct model *m, const uint32_t draw[4])
{
    int slot = (int)(draw[1] % SLOTS), index = (int)(draw[2] % PER_SLOT);
    int other = (int)(draw[3] % SLOTS), n = 0, room = pages_room(pool);
    switch (draw[0] % 8) {
    case 0:
        pages_drop(pool, slot, index);
        for (int i = index; i < PER_SLOT; i++)
            m->contents[slot][i] = 0;
        m->promised[slot] = 0;
        return true;
    case 1:
        while (n < index && m->contents[other][n] != 0)
            n++;
        pages_share(pool, other, slot, n);
        memcpy(m->contents[slot], m->contents[other], (size_t)n * sizeof(int));
        return true;
    case 2: {
        int more =
            SP_MAX(0, index + 1 - held(m, slot)) - SP_MAX(0, m->promised[slot] - held(m, slot));
        bool done = pages_promise(pool, slot, index + 1);
        m->promised[slot] = done ? index + 1 : m->promised[slot];
        return done == (more <= room);
    }
    default:
        return write_page(pool, m, slot, index);
    }
}

static void random_use(int pages)
{
    struct pages *pool = pages_new(SLOTS, PER_SLOT, pages);
    struct model *m = sp_xalloc(sizeof(*m));
    bool ok = true;
    for (uint32_t i = 0; ok && i < STEPS; i++) {
        uint32_t draw[4];
        sp_rng_draw((uint64_t)pages, SP_STREAM_TEST, 0, i, 0, 0, draw);
        ok = step(pool, m, draw) && agrees(pool, m, pages);
    }
    for (int s = 0; s < SLOTS; s++)
        pages_drop(pool, s, 0);
    ok = ok && pages_room(pool) == pages;
    pages_free(pool);
    free(m);
    char what[64];
    snprintf(what, sizeof(what), "any use of a pool of %d", pages);
    result(ok, what);
}

/* With as many pages as all slots have places, none is ever missing. */
static void full_pool(void)
{
    struct pages *pool = pages_new(SLOTS, PER_SLOT, SLOTS * PER_SLOT);
    bool ok = true;
    int32_t page, old;
    for (int32_t i = 0; i < PER_SLOT; i++)
        ok = ok && pages_own(pool, 0, i, &page, &old);
    for (int32_t s = 1; s < SLOTS; s++) {
        pages_share(pool, 0, s, PER_SLOT);
        ok = ok && pages_promise(pool, s, PER_SLOT);
    }
    ok = ok && pages_room(pool) == (SLOTS - 1) * PER_SLOT;
    for (int32_t s = 0; s < SLOTS; s++)
        for (int32_t i = 0; i < PER_SLOT; i++)
            ok = ok && pages_own(pool, s, i, &page, &old) && (old >= 0) == (s < SLOTS - 1);
    ok = ok && pages_room(pool) == 0;
    pages_free(pool);
    result(ok, "shared pages become each slot's own");
}

/* What is promised to one slot nobody else gets. */
static void promises(void)
{
    struct pages *pool = pages_new(2, PER_SLOT, 3);
    int32_t page, old;
    bool ok = pages_promise(pool, 0, 2) && pages_own(pool, 1, 0, &page, &old) &&
              !pages_own(pool, 1, 1, &page, &old) && !pages_promise(pool, 1, 2) &&
              pages_own(pool, 0, 0, &page, &old) && pages_own(pool, 0, 1, &page, &old) &&
              !pages_own(pool, 0, 2, &page, &old);
    pages_drop(pool, 1, 0);
    ok = ok && pages_room(pool) == 1 && pages_own(pool, 0, 2, &page, &old) && old == -1;
    pages_free(pool);
    result(ok, "promises");
}

int main(void)
{
    random_use(7);
    random_use(12);
    random_use(SLOTS * PER_SLOT);
    full_pool();
    promises();
    printf("1..%d\n", n_cases);
    return n_failed > 0;
}

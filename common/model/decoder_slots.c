/* Which request has which slot of the cache, and what of its prompt is there already. */
#include <string.h>

#include "common/base/mem.h"
#include "common/model/decoder_impl.h"

#define SHARE_MIN 8 /* tokens below which copying isn't worth a wait */

/* Tokens that the record's prompt has in common with slot s; its last row is always run. */
static int32_t common_tokens(const struct model_decoder *d, const struct decoder_record *r,
                             int32_t s)
{
    const struct decoder_slot *slot = &d->slots[s];
    int32_t most = SP_MIN(slot->n_prompt, r->request.n_prompt - 1), n = 0;
    while (n < most && slot->prompt[n] == r->prompt[n])
        n++;
    /* Of a slot that doesn't run, what isn't there never comes. */
    return slot->record >= 0 ? n : SP_MIN(n, slot->cached);
}

/* The slot that has most of the record's prompt in common, and how much; -1: none is worth it. */
static int32_t find_donor(const struct model_decoder *d, const struct decoder_record *r,
                          int32_t *ret_shared)
{
    int32_t best = -1, most = SHARE_MIN - 1;
    for (int32_t from = 0; from < d->options.slots; from++) {
        int32_t n = common_tokens(d, r, from);
        if (n > most) {
            best = from;
            most = n;
        }
    }
    *ret_shared = best >= 0 ? most : 0;
    return best;
}

/* --- room in the cache --- */

/* Positions of the record's longest end; what is sampled last is not cached. */
static int32_t positions_needed(const struct decoder_record *r)
{
    int32_t longest = r->request.generate ? r->request.max_new_tokens : 0;
    for (int32_t a = 0; a < MODEL_DECODER_ANSWERS; a++)
        longest = SP_MAX(longest, r->request.n_answers[a]);
    return r->request.n_prompt + longest;
}

static bool reserve(struct model_decoder *d, int32_t s, int32_t kept, int32_t positions)
{
    struct decoder_slot *slot = &d->slots[s];
    slot->cached = SP_MIN(slot->cached, kept);
    return d->backend->ops->cache_reserve(d->backend, d->cache, s, kept, positions);
}

/* Room for a record in slot s, of which `kept` positions stay. Prompts that are kept for others
 * make way, but for that of slot `donor`. */
static bool make_room(struct model_decoder *d, int32_t s, int32_t kept, int32_t donor,
                      int32_t positions)
{
    bool done = reserve(d, s, kept, positions);
    for (int32_t i = 0; !done && i < d->options.slots; i++) {
        if (i == s || i == donor || d->slots[i].record >= 0 || d->slots[i].cached == 0)
            continue;
        (void)reserve(d, i, 0, 0);
        done = reserve(d, s, kept, positions);
    }
    return done;
}

void decoder_leave_slot(struct model_decoder *d, int32_t s)
{
    struct decoder_slot *slot = &d->slots[s];
    slot->record = -1;
    (void)reserve(d, s, slot->cached, slot->cached);
}

/* --- slots --- */

static void share(struct model_decoder *d, int32_t from, int32_t to, int32_t n)
{
    struct decoder_slot *slot = &d->slots[to];
    struct decoder_record *r = decoder_slot_record(d, to);
    if (from != to)
        d->backend->ops->cache_copy(d->backend, d->cache, from, to, n);
    r->prompt_done = slot->cached = n;
    slot->donor = -1;
    d->stats.shared_rows += (uint64_t)n;
}

/* The record takes slot s, if there is room for it. The slot that has most of its prompt in common
 * gives it a copy, or will when it has run that far. */
static bool take_slot(struct model_decoder *d, int32_t s, int32_t record)
{
    struct decoder_slot *slot = &d->slots[s];
    struct decoder_record *r = &d->records[record];
    int32_t most, donor = find_donor(d, r, &most), positions = positions_needed(r);
    bool taken = make_room(d, s, donor == s ? most : 0, donor, positions);
    if (!taken && donor >= 0 && d->slots[donor].record < 0) { /* rather without what it has */
        donor = -1;
        taken = make_room(d, s, 0, -1, positions);
    }
    if (!taken)
        return false;
    slot->record = record;
    slot->donor = -1;
    memcpy(slot->prompt, r->prompt, (size_t)r->request.n_prompt * sizeof(*slot->prompt));
    slot->n_prompt = r->request.n_prompt;
    slot->cached = 0;
    if (donor < 0)
        return true;
    if (donor == s || d->slots[donor].cached >= most) {
        share(d, donor, s, most);
    } else {
        slot->donor = donor;
        slot->shared = most;
    }
    return true;
}

void decoder_admit(struct model_decoder *d)
{
    int32_t n = d->options.slots;
    /* First those that wait for a slot which may be given to another request below. */
    for (int32_t s = 0; s < n; s++) {
        const struct decoder_slot *slot = &d->slots[s];
        if (slot->record >= 0 && slot->donor >= 0 && d->slots[slot->donor].cached >= slot->shared)
            share(d, slot->donor, s, slot->shared);
    }
    /* The others wait behind the first that finds no room: nobody is passed over for ever. */
    for (int32_t s = 0; s < n && d->waiting.count > 0; s++) {
        if (d->slots[s].record >= 0)
            continue;
        if (!take_slot(d, s, d->waiting.items[d->waiting.first]))
            break;
        (void)decoder_pop(&d->waiting);
    }
}

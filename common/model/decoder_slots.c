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
    return n;
}

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

/* The record takes slot s. The slot that has most of its prompt in common gives it a copy, or will
 * when it has run that far. */
static void take_slot(struct model_decoder *d, int32_t s, int32_t record)
{
    struct decoder_slot *slot = &d->slots[s];
    struct decoder_record *r = &d->records[record];
    int32_t best = -1, most = SHARE_MIN - 1;
    for (int32_t from = 0; from < d->options.slots; from++) {
        bool runs = d->slots[from].record >= 0;
        int32_t n = common_tokens(d, r, from);
        if (!runs)
            n = SP_MIN(n, d->slots[from].cached); /* the rest never comes */
        if (n > most) {
            best = from;
            most = n;
        }
    }
    slot->record = record;
    slot->donor = -1;
    memcpy(slot->prompt, r->prompt, (size_t)r->request.n_prompt * sizeof(*slot->prompt));
    slot->n_prompt = r->request.n_prompt;
    slot->cached = 0;
    if (best < 0)
        return;
    if (best == s || d->slots[best].cached >= most) {
        share(d, best, s, most);
    } else {
        slot->donor = best;
        slot->shared = most;
    }
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
    for (int32_t s = 0; s < n && d->waiting.count > 0; s++)
        if (d->slots[s].record < 0)
            take_slot(d, s, decoder_pop(&d->waiting));
}

#include "coordinator/swarm.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

#define REFUSED_MAX 16     /* givers that a member won't be sent to again */
#define LOOKED_AT 16       /* givers whose chunks are compared for one answer */
#define IDLE_FACTOR 10     /* a member that is silent this many times silent_ms is forgotten */

struct giver {
    uint64_t worker;
    uint32_t places, busy;
    int64_t seen_ms;
    uint64_t accuser;        /* who complained last; 0: nobody */
    int64_t dropped_until_ms; /* it is not named before; INT64_MAX: never again */
    bool linked;             /* its members' chunks count as held */
};

struct member {
    uint64_t worker;
    struct giver *giver; /* NULL: it only fetches */
    uint8_t *have;       /* bitmap, owned */
    int64_t seen_ms;
    int64_t waiting_ms; /* since when it gets nothing; -1: it does not wait */
    /* the transfer that it was told to make */
    bool fetching;
    uint32_t index;
    uint64_t source;
    int64_t since_ms;
    bool direct; /* its newest transfer was from the coordinator */
    struct {
        uint64_t giver;
        int64_t until_ms; /* INT64_MAX: for good */
    } refused[REFUSED_MAX];
    uint32_t refused_count; /* ever; the newest are there */
};

struct swarm {
    struct sp_digest manifest;
    uint32_t chunks;
    struct member *members;
    uint32_t member_count;
    uint32_t *holders; /* by chunk: members that give and have it, or are about to */
    uint32_t *given;   /* by chunk: how often the coordinator has */
    int64_t used_ms;
};

struct coord_swarms {
    struct coord_swarm_times times;
    uint64_t random;
    struct giver **givers;
    uint32_t giver_count;
    struct swarm swarms[COORD_SWARMS_MAX];
    uint32_t swarm_count;
    uint32_t direct; /* places of the coordinator that are taken */
    struct coord_swarm_counts counts;
};

static size_t bitmap_bytes(uint32_t chunks)
{
    return (chunks + 7) / 8;
}

static bool bit(const uint8_t *bitmap, uint32_t i)
{
    return (bitmap[i / 8] >> (i % 8) & 1) != 0;
}

/* xorshift64: decides nothing but who is served from where. */
static uint32_t random_below(struct coord_swarms *swarms, uint32_t bound)
{
    swarms->random ^= swarms->random << 13;
    swarms->random ^= swarms->random >> 7;
    swarms->random ^= swarms->random << 17;
    return (uint32_t)((swarms->random >> 16) % bound);
}

struct coord_swarms *coord_swarms_new(const struct coord_swarm_times *times, uint64_t seed)
{
    struct coord_swarms *swarms = sp_xalloc(sizeof(*swarms));
    swarms->times = *times;
    swarms->random = seed | 1;
    return swarms;
}

/* ---- members ---- */

static struct giver *find_giver(const struct coord_swarms *swarms, uint64_t worker)
{
    for (uint32_t i = 0; worker != 0 && i < swarms->giver_count; i++) {
        if (swarms->givers[i]->worker == worker)
            return swarms->givers[i];
    }
    return NULL;
}

static struct member *find_member(const struct swarm *swarm, uint64_t worker)
{
    for (uint32_t i = 0; i < swarm->member_count; i++) {
        if (swarm->members[i].worker == worker)
            return &swarm->members[i];
    }
    return NULL;
}

/* The transfer is over, however: its places are free. */
static void end_transfer(struct coord_swarms *swarms, struct swarm *swarm, struct member *member)
{
    if (!member->fetching)
        return;
    struct giver *source = find_giver(swarms, member->source);
    if (member->source == 0)
        swarms->direct--;
    else if (source && source->busy > 0)
        source->busy--;
    if (member->giver)
        swarm->holders[member->index]--;
    member->fetching = false;
}

static void set_have(struct swarm *swarm, struct member *member, const uint8_t *have)
{
    for (uint32_t i = 0; i < swarm->chunks; i++) {
        bool before = bit(member->have, i), now = have == NULL || bit(have, i);
        if (before == now)
            continue;
        member->have[i / 8] ^= (uint8_t)(1u << (i % 8));
        if (member->giver)
            swarm->holders[i] += now ? 1u : (uint32_t)-1;
    }
}

/* Its chunks count for others, or no more. */
static void set_giver(struct swarm *swarm, struct member *member, struct giver *giver)
{
    bool before = member->giver != NULL, now = giver != NULL;
    member->giver = giver;
    if (before == now)
        return;
    uint32_t change = now ? 1u : (uint32_t)-1;
    for (uint32_t i = 0; i < swarm->chunks; i++) {
        if (bit(member->have, i))
            swarm->holders[i] += change;
    }
    if (member->fetching)
        swarm->holders[member->index] += change;
}

static void remove_member(struct coord_swarms *swarms, struct swarm *swarm, uint32_t index)
{
    struct member *member = &swarm->members[index];
    end_transfer(swarms, swarm, member);
    set_giver(swarm, member, NULL);
    free(member->have);
    swarm->members[index] = swarm->members[--swarm->member_count];
}

static void free_swarm(struct coord_swarms *swarms, uint32_t index)
{
    struct swarm *swarm = &swarms->swarms[index];
    while (swarm->member_count > 0)
        remove_member(swarms, swarm, swarm->member_count - 1);
    free(swarm->members);
    free(swarm->holders);
    free(swarm->given);
    swarms->swarms[index] = swarms->swarms[--swarms->swarm_count];
}

void coord_swarms_free(struct coord_swarms *swarms)
{
    if (swarms == NULL)
        return;
    while (swarms->swarm_count > 0)
        free_swarm(swarms, 0);
    for (uint32_t i = 0; i < swarms->giver_count; i++)
        free(swarms->givers[i]);
    free(swarms->givers);
    free(swarms);
}

static struct swarm *find_swarm(struct coord_swarms *swarms, const struct sp_digest *manifest,
                                uint32_t chunks)
{
    for (uint32_t i = 0; i < swarms->swarm_count; i++) {
        struct swarm *swarm = &swarms->swarms[i];
        if (swarm->chunks == chunks && sp_digest_equal(&swarm->manifest, manifest))
            return swarm;
    }
    return NULL;
}

static struct swarm *need_swarm(struct coord_swarms *swarms, const struct sp_digest *manifest,
                                uint32_t chunks)
{
    struct swarm *swarm = find_swarm(swarms, manifest, chunks);
    if (swarm || chunks == 0 || chunks > COORD_SWARM_CHUNKS)
        return swarm;
    if (swarms->swarm_count == COORD_SWARMS_MAX) {
        uint32_t oldest = 0;
        for (uint32_t i = 1; i < swarms->swarm_count; i++) {
            if (swarms->swarms[i].used_ms < swarms->swarms[oldest].used_ms)
                oldest = i;
        }
        free_swarm(swarms, oldest);
    }
    swarm = &swarms->swarms[swarms->swarm_count++];
    *swarm = (struct swarm){.manifest = *manifest, .chunks = chunks};
    swarm->holders = sp_xarray(chunks, sizeof(*swarm->holders));
    swarm->given = sp_xarray(chunks, sizeof(*swarm->given));
    return swarm;
}

static struct member *need_member(struct coord_swarms *swarms, struct swarm *swarm, uint64_t worker)
{
    struct member *member = find_member(swarm, worker);
    if (member)
        return member;
    swarm->members = sp_xgrow(swarm->members, swarm->member_count + 1, sizeof(*swarm->members));
    member = &swarm->members[swarm->member_count++];
    *member = (struct member){.worker = worker, .waiting_ms = -1};
    member->have = sp_xalloc(bitmap_bytes(swarm->chunks));
    struct giver *giver = find_giver(swarms, worker);
    set_giver(swarm, member, giver && giver->linked ? giver : NULL);
    return member;
}

/* ---- givers ---- */

static bool is_usable(const struct coord_swarms *swarms, const struct giver *giver, int64_t now_ms)
{
    return now_ms >= giver->dropped_until_ms && now_ms - giver->seen_ms < swarms->times.silent_ms;
}

/* What it has counts as held in every swarm, or no more. */
static void link_giver(struct coord_swarms *swarms, struct giver *giver, bool linked)
{
    giver->linked = linked;
    for (uint32_t i = 0; i < swarms->swarm_count; i++) {
        struct member *member = find_member(&swarms->swarms[i], giver->worker);
        if (member)
            set_giver(&swarms->swarms[i], member, linked ? giver : NULL);
    }
}

void coord_swarms_giver(struct coord_swarms *swarms, uint64_t worker, uint32_t places,
                        int64_t now_ms)
{
    struct giver *giver = find_giver(swarms, worker);
    if (places == 0) {
        if (giver)
            coord_swarms_forget(swarms, worker);
        return;
    }
    if (!giver) {
        giver = sp_xalloc(sizeof(*giver));
        giver->worker = worker;
        swarms->givers =
            sp_xgrow(swarms->givers, swarms->giver_count + 1, sizeof(struct giver *));
        swarms->givers[swarms->giver_count++] = giver;
    }
    giver->places = SP_MIN(places, (uint32_t)COORD_SWARM_GIVER_PLACES);
    giver->seen_ms = now_ms;
    giver->accuser = 0;
    giver->dropped_until_ms = INT64_MIN;
    link_giver(swarms, giver, true);
}

void coord_swarms_seen(struct coord_swarms *swarms, uint64_t worker, int64_t now_ms)
{
    struct giver *giver = find_giver(swarms, worker);
    if (!giver)
        return;
    giver->seen_ms = now_ms;
    if (!giver->linked && is_usable(swarms, giver, now_ms))
        link_giver(swarms, giver, true);
}

void coord_swarms_forget(struct coord_swarms *swarms, uint64_t worker)
{
    for (uint32_t i = 0; i < swarms->swarm_count; i++) {
        struct swarm *swarm = &swarms->swarms[i];
        struct member *member = find_member(swarm, worker);
        if (member)
            remove_member(swarms, swarm, (uint32_t)(member - swarm->members));
    }
    for (uint32_t i = 0; i < swarms->giver_count; i++) {
        if (swarms->givers[i]->worker != worker)
            continue;
        free(swarms->givers[i]);
        swarms->givers[i] = swarms->givers[--swarms->giver_count];
        return;
    }
}

uint32_t coord_swarms_givers(const struct coord_swarms *swarms, int64_t now_ms)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < swarms->giver_count; i++)
        count += is_usable(swarms, swarms->givers[i], now_ms);
    return count;
}

/* ---- reports ---- */

static bool is_refused(const struct member *member, uint64_t giver, int64_t now_ms)
{
    uint32_t known = SP_MIN(member->refused_count, (uint32_t)REFUSED_MAX);
    for (uint32_t i = 0; i < known; i++) {
        if (member->refused[i].giver == giver && now_ms < member->refused[i].until_ms)
            return true;
    }
    return false;
}

static void note_failure(struct coord_swarms *swarms, struct swarm *swarm, struct member *member,
                         enum coord_outcome outcome, int64_t now_ms)
{
    struct giver *giver = find_giver(swarms, member->source);
    struct member *source = find_member(swarm, member->source);
    swarms->counts.failures[outcome]++;
    if (outcome == SWARM_ABSENT) {
        /* It may have been evicted there; its next report says what it has. */
        if (source && bit(source->have, member->index)) {
            source->have[member->index / 8] ^= (uint8_t)(1u << (member->index % 8));
            if (source->giver)
                swarm->holders[member->index]--;
        }
        return;
    }
    /* Who is silent may only be busy, or far away for a moment. */
    int64_t until_ms = outcome == SWARM_POISONED ? INT64_MAX : now_ms + swarms->times.patience_ms;
    uint32_t place = member->refused_count++ % REFUSED_MAX;
    member->refused[place].giver = member->source;
    member->refused[place].until_ms = until_ms;
    if (!giver)
        return;
    if (giver->accuser != 0 && giver->accuser != member->worker) {
        giver->dropped_until_ms = SP_MAX(giver->dropped_until_ms, until_ms);
        link_giver(swarms, giver, false);
    }
    giver->accuser = member->worker;
}

/* Places of those who were never heard of again, and members that are silent or gone. */
static void clean(struct coord_swarms *swarms, struct swarm *swarm, int64_t now_ms)
{
    for (uint32_t i = 0; i < swarm->member_count;) {
        struct member *member = &swarm->members[i];
        if (member->fetching && now_ms - member->since_ms >= swarms->times.transfer_ms)
            end_transfer(swarms, swarm, member);
        if (member->giver && !is_usable(swarms, member->giver, now_ms))
            link_giver(swarms, member->giver, false);
        int64_t seen_ms = member->giver ? SP_MAX(member->giver->seen_ms, member->seen_ms)
                                        : member->seen_ms;
        if (now_ms - seen_ms >= swarms->times.silent_ms * IDLE_FACTOR)
            remove_member(swarms, swarm, i);
        else
            i++;
    }
}

bool coord_swarms_report(struct coord_swarms *swarms, uint64_t worker,
                         const struct sp_digest *manifest, uint32_t chunks, const uint8_t *have,
                         enum coord_outcome outcome, int64_t now_ms)
{
    struct swarm *swarm = need_swarm(swarms, manifest, chunks);
    if (!swarm)
        return false;
    swarm->used_ms = now_ms;
    struct member *member = need_member(swarms, swarm, worker);
    member->seen_ms = now_ms;
    coord_swarms_seen(swarms, worker, now_ms);
    if (member->fetching && member->source != 0) {
        if (outcome != SWARM_GOT)
            note_failure(swarms, swarm, member, outcome, now_ms);
        else if (have == NULL || bit(have, member->index))
            swarms->counts.from_peers++;
    }
    end_transfer(swarms, swarm, member);
    set_have(swarm, member, have);
    clean(swarms, swarm, now_ms);
    return true;
}

/* ---- answers ---- */

struct best {
    bool found;
    uint32_t index, rank, equals;
};

/* Of several of the same rank each has the same chance. */
static void offer(struct coord_swarms *swarms, struct best *best, uint32_t index, uint32_t rank)
{
    if (best->found && rank > best->rank)
        return;
    best->equals = best->found && rank == best->rank ? best->equals + 1 : 1;
    if (best->equals == 1 || random_below(swarms, best->equals) == 0)
        best->index = index;
    best->found = true;
    best->rank = rank;
}

/* The rarest chunk that this one has and the member lacks. */
static bool offer_chunks(struct coord_swarms *swarms, const struct swarm *swarm,
                         const struct member *member, const struct member *source,
                         struct best *best)
{
    bool useful = false;
    for (uint32_t at = 0; at < bitmap_bytes(swarm->chunks); at++) {
        uint8_t bits = (uint8_t)(source->have[at] & ~member->have[at]);
        for (uint32_t k = 0; bits != 0; k++, bits >>= 1) {
            if ((bits & 1) == 0)
                continue;
            offer(swarms, best, at * 8 + k, swarm->holders[at * 8 + k]);
            useful = true;
        }
    }
    return useful;
}

static bool may_give(const struct coord_swarms *swarms, const struct member *member,
                     const struct member *source, int64_t now_ms)
{
    return source != member && source->giver && is_usable(swarms, source->giver, now_ms) &&
           source->giver->busy < source->giver->places &&
           !is_refused(member, source->worker, now_ms);
}

static bool ask_givers(struct coord_swarms *swarms, const struct swarm *swarm,
                       const struct member *member, int64_t now_ms, uint32_t *ret_index,
                       uint64_t *ret_source)
{
    uint32_t start = random_below(swarms, swarm->member_count), looked = 0;
    struct best chosen = {0};
    for (uint32_t i = 0; i < swarm->member_count && looked < LOOKED_AT; i++) {
        const struct member *source = &swarm->members[(start + i) % swarm->member_count];
        struct best best = {0};
        if (!may_give(swarms, member, source, now_ms) ||
            !offer_chunks(swarms, swarm, member, source, &best))
            continue;
        looked++;
        if (chosen.found && best.rank >= chosen.rank)
            continue;
        chosen = best;
        *ret_source = source->worker;
        *ret_index = best.index;
    }
    return chosen.found;
}

/* Whether it may yet get something from another member. */
static bool has_hope(const struct coord_swarms *swarms, const struct swarm *swarm,
                     const struct member *member, int64_t now_ms)
{
    for (uint32_t i = 0; i < swarm->member_count; i++) {
        const struct member *source = &swarm->members[i];
        if (source == member || !source->giver || !is_usable(swarms, source->giver, now_ms) ||
            is_refused(member, source->worker, now_ms))
            continue;
        if (source->fetching)
            return true;
        for (uint32_t at = 0; at < bitmap_bytes(swarm->chunks); at++) {
            if ((source->have[at] & ~member->have[at]) != 0)
                return true;
        }
    }
    return false;
}

enum give { GIVE_FRESH, GIVE_COPIES, GIVE_ANY };

/* Whether the coordinator gives this chunk to this member: what nobody else gives goes to those who
 * will give it. */
static bool is_given(const struct swarm *swarm, const struct member *member, uint32_t index,
                     enum give give)
{
    if (bit(member->have, index))
        return false;
    if (give == GIVE_ANY)
        return true;
    if (swarm->holders[index] == 0)
        return member->giver != NULL;
    return give == GIVE_COPIES && swarm->given[index] < COORD_SWARM_COPIES;
}

static bool ask_coordinator(struct coord_swarms *swarms, const struct swarm *swarm,
                            const struct member *member, enum give give, uint32_t *ret_index)
{
    struct best best = {0};
    if (swarms->direct >= COORD_SWARM_PLACES)
        return false;
    for (uint32_t i = 0; i < swarm->chunks; i++) {
        if (is_given(swarm, member, i, give))
            offer(swarms, &best, i, swarm->holders[i]);
    }
    *ret_index = best.index;
    return best.found;
}

static void start_transfer(struct coord_swarms *swarms, struct swarm *swarm, struct member *member,
                           uint32_t index, uint64_t source, int64_t now_ms)
{
    member->fetching = true;
    member->index = index;
    member->source = source;
    member->since_ms = now_ms;
    member->waiting_ms = -1;
    member->direct = source == 0;
    if (member->giver)
        swarm->holders[index]++;
    if (source != 0) {
        find_giver(swarms, source)->busy++;
        return;
    }
    swarms->direct++;
    swarm->given[index]++;
}

/* One chunk, or false: nothing now. */
static bool choose(struct coord_swarms *swarms, const struct swarm *swarm,
                   const struct member *member, bool waits_for_others, int64_t now_ms,
                   uint32_t *ret_index, uint64_t *ret_source)
{
    *ret_source = 0;
    /* What one giver gets from the coordinator all others can get from it. They take turns: who
     * shares the coordinator's link is slower than the rest. */
    if (!member->direct && ask_coordinator(swarms, swarm, member, GIVE_FRESH, ret_index))
        return true;
    if (ask_givers(swarms, swarm, member, now_ms, ret_index, ret_source))
        return true;
    *ret_source = 0;
    return ask_coordinator(swarms, swarm, member, waits_for_others ? GIVE_COPIES : GIVE_ANY,
                           ret_index);
}

void coord_swarms_ask(struct coord_swarms *swarms, uint64_t worker,
                      const struct sp_digest *manifest, uint32_t chunks, int64_t now_ms,
                      struct coord_swarm_answer *ret)
{
    struct swarm *swarm = find_swarm(swarms, manifest, chunks);
    uint32_t index = 0;
    uint64_t source = 0;
    *ret = (struct coord_swarm_answer){.what = SWARM_ALONE};
    if (swarm)
        clean(swarms, swarm, now_ms);
    struct member *member = swarm ? find_member(swarm, worker) : NULL;
    if (!member || coord_swarms_givers(swarms, now_ms) == 0)
        return;
    end_transfer(swarms, swarm, member);
    bool patient =
        member->waiting_ms < 0 || now_ms - member->waiting_ms < swarms->times.patience_ms;
    bool hopes = has_hope(swarms, swarm, member, now_ms);
    /* Who only fetches waits for one who gives before it costs a copy of its own. */
    if (!member->giver && !hopes && (!patient || member->refused_count > 0))
        return;
    bool waits_for_others = patient && (hopes || !member->giver);
    if (!choose(swarms, swarm, member, waits_for_others, now_ms, &index, &source)) {
        ret->what = SWARM_WAIT;
        if (member->waiting_ms < 0)
            member->waiting_ms = now_ms;
        return;
    }
    start_transfer(swarms, swarm, member, index, source, now_ms);
    *ret = (struct coord_swarm_answer){.what = SWARM_FETCH, .index = index, .source = source};
}

struct coord_swarm_counts coord_swarms_counts(const struct coord_swarms *swarms)
{
    return swarms->counts;
}

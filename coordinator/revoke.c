/* What a quarantined worker has made in the iterations that are open goes; what stands on it is
 * made again. Answers that another worker has confirmed stay. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"

/* Sets whose results depend on the checkpoint. */
static uint32_t checkpoint_sets(void)
{
    uint32_t bits = 0;
    for (int s = 0; s < COORD_SET_COUNT; s++) {
        if (!iteration_set_uses_opponent((enum proto_set)s))
            bits |= 1u << s;
    }
    return bits;
}

static bool is_distrusted(const struct coord_core *core, uint32_t name)
{
    const struct coord_hold *hold = name > 0 ? core_hold(core, core->names.texts[name - 1]) : NULL;
    return hold && hold->kind == STORE_HOLD_QUARANTINED;
}

/* Whether the publication, or what follows it, has begun. */
static bool is_past_training(const struct coord_iteration *it)
{
    enum coord_state at = coord_state_is_live(it->state) ? it->state : it->resume;
    return at == COORD_PUBLISHING || at == COORD_EVALUATING || !sp_digest_is_zero(&it->checkpoint);
}

struct revocation {
    struct coord_core *core;
    struct coord_run *run;
    struct coord_write *write;
    uint32_t capacity;
    uint32_t train;      /* of the rows, training pairs */
    uint32_t first_rank; /* lowest place of one of them in the order of training */
};

static void add(struct revocation *r, enum proto_set which, uint32_t position)
{
    struct coord_set *set = &r->run->iteration->sets[which];
    struct coord_write *write = r->write;
    if (write->row_count == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 256;
        write->rows = sp_xgrow(write->rows, r->capacity, sizeof(*write->rows));
    }
    write->rows[write->row_count++] =
        (struct store_result){.set = (uint32_t)which, .position = position};
    set_revoke(set, position);
    if (which != PROTO_SET_TRAIN)
        return;
    r->train++;
    r->first_rank = SP_MIN(r->first_rank, set->rank ? set->rank[position] : 0u);
}

static void collect(struct revocation *r)
{
    struct coord_core *core = r->core;
    struct coord_iteration *it = r->run->iteration;
    uint8_t *distrusted = sp_xalloc(core->names.count + 1);
    for (uint32_t n = 1; n <= core->names.count; n++)
        distrusted[n] = is_distrusted(core, n);
    for (int s = 0; s < COORD_SET_COUNT; s++) {
        struct coord_set *set = &it->sets[s];
        for (uint32_t p = 0; p < set->count; p++) {
            if (set->state[p] == KEY_STORED && distrusted[set->owner[p]] &&
                set->check[p] != CHECK_PASSED)
                add(r, (enum proto_set)s, p);
        }
    }
    /* Disputes with one of them are over: what an honest worker made is checked again. */
    for (uint32_t i = 0; i < it->dispute_count;) {
        struct coord_dispute *dispute = &it->disputes[i];
        struct coord_set *set = &it->sets[dispute->set];
        bool gone = set->state[dispute->position] != KEY_STORED;
        if (!gone && !distrusted[dispute->other]) {
            i++;
            continue;
        }
        if (!gone)
            set->check[dispute->position] = CHECK_WANTED;
        *dispute = it->disputes[--it->dispute_count];
    }
    free(distrusted);
}

/* The iteration goes back to its training: what was published, or is being, does not count. */
static void move_back(struct revocation *r)
{
    struct coord_iteration *it = r->run->iteration;
    struct coord_write *write = r->write;
    write->moves = true;
    write->to = coord_state_is_live(it->state) ? COORD_RUNNING : it->state;
    write->resume = COORD_RUNNING;
    write->dropped_sets = checkpoint_sets();
    if (it->publish)
        core_reply_busy(r->core, it->publish->handle);
    coord_write_free(it->publish);
    it->publish = NULL;
    it->verifying = false;
    /* What is dropped whole needs no rows. */
    uint32_t kept = 0;
    for (uint32_t i = 0; i < write->row_count; i++) {
        if (!(write->dropped_sets & (1u << write->rows[i].set)))
            write->rows[kept++] = write->rows[i];
    }
    write->row_count = kept;
}

/* The trainer returns to the last snapshot before the first pair that it should not have seen. */
static void fence(struct revocation *r)
{
    struct coord_iteration *it = r->run->iteration;
    struct coord_write *write = r->write;
    uint64_t batch = (uint64_t)r->run->info.settings.batch_pairs;
    uint64_t steps = it->plan.order == RUN_ORDER_GAP ? 0 : r->first_rank / batch;
    if (it->rewind_epoch > 0)
        steps = SP_MIN(steps, it->rewind_steps);
    write->drops_order = it->plan.order == RUN_ORDER_GAP;
    if (it->fetched_steps <= steps)
        return; /* it has not seen any of them */
    write->fenced = true;
    write->epoch = it->epoch + 1;
    write->rewind_steps = steps;
}

static void revoke_in(struct coord_core *core, struct coord_run *run)
{
    struct coord_iteration *it = run->iteration;
    struct revocation r = {.core = core, .run = run, .first_rank = UINT32_MAX};
    r.write = core_write(COORD_W_REVOKE, run);
    collect(&r);
    if (r.write->row_count == 0) {
        coord_write_free(r.write);
        return;
    }
    uint32_t revoked = r.write->row_count;
    r.write->attempt = it->attempt;
    if (r.train > 0)
        fence(&r);
    if (r.train > 0 && is_past_training(it))
        move_back(&r);
    it->pending = true;
    it->judging = false;
    it->generated = it->generated && r.train == 0;
    core_write_event(r.write, "coordinator", "quarantine",
                     "iteration %u: %u results of quarantined workers are revoked%s%s", it->number,
                     revoked,
                     r.write->fenced ? "; the trainer returns to a snapshot before them" : "",
                     r.write->moves ? "; the iteration goes on with its training" : "");
    core_log(core, SP_LOG_WARN, "run %s: %s", run->info.name, r.write->event_text);
    core_send(core, r.write);
}

void core_revoke_distrusted(struct coord_core *core)
{
    core->distrust = false;
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_run *run = core->runs[i];
        struct coord_iteration *it = run->iteration;
        if (!it || it->state == COORD_CLOSED)
            continue;
        if (it->pending)
            core->distrust = true; /* when that is written */
        else
            revoke_in(core, run);
    }
}

static void reset_sets(struct coord_run *run, uint32_t sets)
{
    struct coord_iteration *it = run->iteration;
    for (int s = 0; s < COORD_SET_COUNT; s++) {
        if (!(sets & (1u << s)))
            continue;
        uint32_t count = it->sets[s].count;
        set_deinit(&it->sets[s]);
        set_init(&it->sets[s], count, false);
        for (uint32_t p = 0; p < count && s == PROTO_SET_TRAINED; p++) {
            if (p < it->sets[PROTO_SET_TRAIN].count &&
                it->sets[PROTO_SET_TRAIN].state[p] == KEY_SKIPPED)
                set_skip(&it->sets[s], p);
        }
    }
}

void core_revoked_written(struct coord_core *core, struct coord_run *run, struct coord_write *write)
{
    struct coord_iteration *it = run->iteration;
    it->pending = false;
    for (uint32_t i = 0; i < write->row_count; i++)
        set_revoked(&it->sets[write->rows[i].set], (uint32_t)write->rows[i].position);
    if (write->drops_order) {
        free(it->gap_order);
        it->gap_order = NULL;
        it->ordering = false;
    }
    if (write->fenced) {
        it->epoch = write->epoch;
        it->rewind_epoch = write->epoch;
        it->rewind_steps = it->fetched_steps = write->rewind_steps;
        it->holder = 0;
        it->adoptable = it->awaiting = false;
        it->step = SP_MIN(it->step, write->rewind_steps);
    }
    if (write->moves) {
        leases_drop_run(core, run);
        reset_sets(run, write->dropped_sets);
        it->state = write->to;
        it->resume = write->resume;
        it->checkpoint = it->checkpoint_manifest = it->upload = (struct sp_digest){0};
        it->since_ms = core->now_ms;
    }
    core->work_changed = core->pairs_changed = true;
    core_changed(core);
}

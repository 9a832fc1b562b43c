/* Poisoned workers. A share of the results that a generator hands in, drawn with a seed that it
 * does not know, is made again by another generator of the same numerics class, which cannot tell
 * such work from other work. Where the bits differ a third one decides; the liar is quarantined. */
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/rng.h"
#include "coordinator/core_internal.h"

uint32_t core_name(struct coord_core *core, const char *name)
{
    return sp_names_add(&core->names, name);
}

static const char *name_of(const struct coord_core *core, uint32_t name)
{
    return name > 0 ? core->names.texts[name - 1] : "?";
}

bool verify_applies(const struct coord_core *core, const struct coord_run *run)
{
    return core->options.verify_share > 0 && run->info.settings.numerics != RUN_NUMERICS_ANY;
}

static bool is_open(uint8_t check)
{
    return check != CHECK_NONE && check != CHECK_PASSED;
}

static void open_check(struct coord_set *set, uint32_t position, enum coord_check_state state)
{
    if (!is_open(set->check[position])) {
        set->checks++;
        if (set->check_list_count == set->check_list_capacity) {
            set->check_list_capacity = set->check_list_capacity ? 2 * set->check_list_capacity : 64;
            set->check_list =
                sp_xgrow(set->check_list, set->check_list_capacity, sizeof(*set->check_list));
        }
        set->check_list[set->check_list_count++] = position;
    }
    set->check[position] = (uint8_t)state;
}

static void pass(struct coord_iteration *it, struct coord_set *set, uint32_t position)
{
    if (is_open(set->check[position]))
        set->checks--;
    if (set->check[position] != CHECK_PASSED)
        it->checked++;
    set->check[position] = CHECK_PASSED;
}

void verify_stored(struct coord_core *core, struct coord_run *run, enum proto_set which,
                   uint32_t position, uint32_t worker)
{
    struct coord_iteration *it = run->iteration;
    struct coord_set *set = &it->sets[which];
    set->owner[position] = worker;
    const struct coord_hold *hold =
        core->hold_count > 0 ? core_hold(core, name_of(core, worker)) : NULL;
    if (hold && hold->kind == STORE_HOLD_QUARANTINED)
        core->distrust = true; /* it was on its way to the disk when the worker was found out */
    if (!verify_applies(core, run))
        return;
    float draw = sp_rng_uniform(core->options.verify_seed, SP_STREAM_VERIFY, it->number & 0xffffff,
                                position, (uint32_t)which, (uint32_t)run->info.id);
    if ((double)draw >= core->options.verify_share)
        return;
    open_check(set, position, CHECK_WANTED);
    core->work_changed = true;
}

void verify_draw_again(struct coord_core *core)
{
    for (uint32_t i = 0; i < core->run_count; i++) {
        struct coord_iteration *it = core->runs[i]->iteration;
        for (int s = 0; it && coord_state_is_open(it->state) && s < COORD_SET_COUNT; s++) {
            struct coord_set *set = &it->sets[s];
            for (uint32_t p = 0; p < set->count; p++) {
                if (set->state[p] == KEY_STORED && set->owner[p] > 0 &&
                    set->check[p] == CHECK_NONE)
                    verify_stored(core, core->runs[i], (enum proto_set)s, p, set->owner[p]);
            }
        }
    }
}

/* ---- disputes ---- */

static void answer_digest(const struct store_result *row, struct sp_digest *ret)
{
    struct sp_buf text = SP_BUF_INIT;
    uint32_t bits[3] = {row->finish};
    memcpy(&bits[1], &row->ref_real, 4);
    memcpy(&bits[2], &row->ref_generated, 4);
    sp_buf_append(&text, bits, sizeof(bits));
    sp_buf_append(&text, row->ids.ids, (size_t)row->ids.count * sizeof(int32_t));
    sp_sha256_of(text.data, text.length, ret);
    sp_buf_deinit(&text);
}

static struct coord_dispute *find_dispute(struct coord_iteration *it, enum proto_set set,
                                          uint32_t position)
{
    for (uint32_t i = 0; i < it->dispute_count; i++) {
        if (it->disputes[i].set == set && it->disputes[i].position == position)
            return &it->disputes[i];
    }
    return NULL;
}

static void drop_dispute(struct coord_iteration *it, struct coord_dispute *dispute)
{
    *dispute = it->disputes[--it->dispute_count];
}

void verify_forget(struct coord_iteration *it)
{
    free(it->disputes);
    it->disputes = NULL;
    it->dispute_count = 0;
}

static void note(struct coord_core *core, struct coord_run *run, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void note(struct coord_core *core, struct coord_run *run, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    struct coord_write *write = core_write(COORD_W_EVENT, run);
    core_write_event(write, "coordinator", "dispute", "%s", text);
    core_log(core, SP_LOG_WARN, "run %s: %s", run->info.name, text);
    core_send(core, write);
}

static void open_dispute(struct coord_core *core, struct coord_run *run,
                         const struct store_result *row, uint32_t other)
{
    struct coord_iteration *it = run->iteration;
    struct coord_set *set = &it->sets[row->set];
    uint32_t position = (uint32_t)row->position;
    it->disputes = sp_xgrow(it->disputes, it->dispute_count + 1, sizeof(*it->disputes));
    struct coord_dispute *dispute = &it->disputes[it->dispute_count++];
    *dispute = (struct coord_dispute){
        .set = (enum proto_set)row->set, .position = position, .other = other};
    answer_digest(row, &dispute->answer);
    open_check(set, position, CHECK_DISPUTED);
    core->work_changed = true;
    note(core, run, "set %u, position %u: the bits of %s and %s differ: a third generator decides",
         row->set, position, name_of(core, set->owner[position]), name_of(core, other));
}

static void quarantine(struct coord_core *core, uint32_t liar, const struct coord_run *run,
                       const struct store_result *row, uint32_t one, uint32_t two)
{
    char reason[400];
    const struct coord_hold *hold = core_hold(core, name_of(core, liar));
    if (hold && hold->kind == STORE_HOLD_QUARANTINED) {
        core->distrust = true;
        return;
    }
    snprintf(reason, sizeof(reason),
             "run %s, iteration %u, set %u, position %llu: its bits differ from those that %s and "
             "%s both have",
             run->info.name, run->iteration->number, row->set, (unsigned long long)row->position,
             name_of(core, one), name_of(core, two));
    core_set_hold(core, name_of(core, liar), STORE_HOLD_QUARANTINED, reason, "coordinator", 0);
    core_take_back(core, name_of(core, liar), "is its no more: it is quarantined");
}

static void nobody_agrees(struct coord_core *core, struct coord_run *run,
                          const struct store_result *row, uint32_t owner, uint32_t other,
                          uint32_t third)
{
    struct coord_iteration *it = run->iteration;
    char reason[400];
    snprintf(reason, sizeof(reason),
             "set %u, position %llu: %s, %s and %s have three different answers: quarantine those "
             "that you do not trust (`spinctl quarantine WORKER`), then `spinctl resume %s`",
             row->set, (unsigned long long)row->position, name_of(core, owner),
             name_of(core, other), name_of(core, third), run->info.name);
    if (!it->pending && coord_transition_allowed(it->state, COORD_PAUSED))
        core_send(core, iteration_move(core, run, COORD_PAUSED, "coordinator", reason));
    else
        note(core, run, "%s", reason);
}

/* The vote of a worker that is neither of the two. */
static void decide(struct coord_core *core, struct coord_run *run, const struct store_result *row,
                   struct coord_dispute *dispute, uint32_t third, bool different)
{
    struct coord_iteration *it = run->iteration;
    struct coord_set *set = &it->sets[row->set];
    uint32_t position = (uint32_t)row->position;
    uint32_t owner = set->owner[position], other = dispute->other;
    struct sp_digest answer;
    answer_digest(row, &answer);
    if (!different) {
        drop_dispute(it, dispute);
        pass(it, set, position);
        quarantine(core, other, run, row, owner, third);
    } else if (sp_digest_equal(&answer, &dispute->answer)) {
        drop_dispute(it, dispute);
        quarantine(core, owner, run, row, other, third);
    } else {
        set->check[position] = CHECK_DISPUTED;
        nobody_agrees(core, run, row, owner, other, third);
    }
}

void verify_again(struct coord_core *core, struct coord_run *run, const struct store_result *row,
                  uint32_t me, bool different)
{
    struct coord_iteration *it = run->iteration;
    struct coord_set *set = &it->sets[row->set];
    uint32_t position = (uint32_t)row->position;
    uint32_t owner = set->owner[position];
    if (!verify_applies(core, run) || set->state[position] != KEY_STORED || owner == 0 ||
        owner == me)
        return;
    struct coord_dispute *dispute = find_dispute(it, (enum proto_set)row->set, position);
    if (dispute && dispute->other != me)
        decide(core, run, row, dispute, me, different);
    else if (!dispute && different)
        open_dispute(core, run, row, me);
    else if (!dispute)
        pass(it, set, position);
}

/* ---- handing out ---- */

static bool may_check(const struct coord_iteration *it, const struct coord_set *set,
                      enum proto_set which, uint32_t position, uint32_t me)
{
    if (set->owner[position] == me)
        return false;
    if (set->check[position] == CHECK_WANTED)
        return true;
    if (set->check[position] != CHECK_DISPUTED)
        return false;
    for (uint32_t i = 0; i < it->dispute_count; i++) {
        const struct coord_dispute *dispute = &it->disputes[i];
        if (dispute->set == which && dispute->position == position)
            return dispute->other != me;
    }
    return true;
}

uint32_t verify_take(struct coord_core *core, struct coord_run *run, enum proto_set which,
                     const struct coord_worker *worker, uint32_t max, uint32_t *ret)
{
    struct coord_iteration *it = run->iteration;
    struct coord_set *set = &it->sets[which];
    uint32_t me = core_name(core, worker->name), count = 0;
    for (uint32_t i = 0; set->checks > 0 && i < set->check_list_count && count < max;) {
        uint32_t position = set->check_list[i];
        if (!is_open(set->check[position])) {
            set->check_list[i] = set->check_list[--set->check_list_count];
            continue;
        }
        if (may_check(it, set, which, position, me)) {
            set->check[position] =
                set->check[position] == CHECK_WANTED ? CHECK_LEASED : CHECK_DISPUTED_LEASED;
            ret[count++] = position;
        }
        i++;
    }
    return count;
}

void verify_release(struct coord_iteration *it, enum proto_set which, uint32_t position)
{
    uint8_t *check = &it->sets[which].check[position];
    if (*check == CHECK_LEASED)
        *check = CHECK_WANTED;
    else if (*check == CHECK_DISPUTED_LEASED)
        *check = CHECK_DISPUTED;
}

/* What is stored can be made again while its weights are there, also where the order of handing out
 * is not known any more because nothing is left to hand out. */
static bool can_be_checked(const struct coord_iteration *it, enum proto_set set)
{
    if (it->state == COORD_EVALUATING)
        return true;
    return (it->state == COORD_RUNNING || it->state == COORD_PUBLISHING) &&
           iteration_set_uses_opponent(set);
}

int verify_set_for(const struct coord_core *core, const struct coord_run *run,
                   const struct coord_worker *worker)
{
    const struct coord_iteration *it = run->iteration;
    uint32_t me = sp_names_find(&core->names, worker->name, strlen(worker->name));
    for (int s = 0; s < COORD_SET_COUNT; s++) {
        const struct coord_set *set = &it->sets[s];
        if (set->checks == 0 || !can_be_checked(it, (enum proto_set)s))
            continue;
        for (uint32_t i = 0; i < set->check_list_count; i++) {
            uint32_t position = set->check_list[i];
            if (may_check(it, set, (enum proto_set)s, position, me))
                return s;
        }
    }
    return -1;
}

/* ---- waiting for checks ---- */

/* Generators that could check now: how many, and one of them. */
static uint32_t checkers(const struct coord_core *core, const struct coord_run *run,
                         const struct coord_worker **ret_one)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < core->worker_count; i++) {
        const struct coord_worker *worker = core->workers[i];
        if (worker->role != PROTO_ROLE_GENERATOR || !core_worker_fits(run, worker) ||
            core_is_held(core, worker) ||
            core->now_ms - worker->seen_ms >= core->options.times.worker_gone_ms)
            continue;
        *ret_one = worker;
        count++;
    }
    return count;
}

bool verify_blocks(const struct coord_core *core, const struct coord_run *run, bool all)
{
    const struct coord_iteration *it = run->iteration;
    const struct coord_worker *one = NULL;
    if (!verify_applies(core, run))
        return false;
    if (core->distrust)
        return true;
    uint32_t open = it->sets[PROTO_SET_TRAIN].checks;
    for (int s = 0; all && s < COORD_SET_COUNT; s++)
        open += s == PROTO_SET_TRAIN ? 0 : it->sets[s].checks;
    if (open == 0)
        return false;
    for (uint32_t i = 0; i < it->dispute_count; i++) {
        if (all || it->disputes[i].set == PROTO_SET_TRAIN)
            return true; /* two answers, one of them wrong: nothing may be built on it */
    }
    uint32_t live = checkers(core, run, &one);
    return live >= 2 || (live == 1 && verify_set_for(core, run, one) >= 0);
}

json_t *verify_json(const struct coord_core *core, const struct coord_run *run)
{
    const struct coord_iteration *it = run->iteration;
    const struct coord_worker *one = NULL;
    uint32_t open = 0;
    for (int s = 0; s < COORD_SET_COUNT; s++)
        open += it->sets[s].checks;
    bool applies = verify_applies(core, run);
    return json_pack("{s:f,s:I,s:I,s:I,s:b}", "share", applies ? core->options.verify_share : 0.0,
                     "checked", (json_int_t)it->checked, "open", (json_int_t)open, "disputed",
                     (json_int_t)it->dispute_count, "possible",
                     applies && checkers(core, run, &one) >= 2);
}

/* The coordinator of the simulation: its loop and its store thread, in simulated time. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/core_internal.h"
#include "coordinator/replies.h"
#include "tests/sim/sim.h"
#include "tests/sim/work.h"

#define REQUESTS 4096

/* Requests in work, by handle modulo REQUESTS. */
struct sim_request {
    uint64_t handle;
    struct sim_call *call;
};

struct sim_call *sim_take_call(struct sim *sim, uint64_t handle)
{
    struct sim_request *request = &sim->requests[handle % REQUESTS];
    SP_ASSERT(request->handle == handle && handle != 0);
    request->handle = 0;
    return request->call;
}

bool sim_coordinator_waits(struct sim *sim, sim_fire *fire, void *context, uint64_t life)
{
    if (sim->now >= sim->stopped_until_ms)
        return false;
    sim_after(sim, sim->stopped_until_ms - sim->now, fire, context, life);
    return true;
}

/* ---- no decision reads a clock ---- */

static struct sim *stepping; /* the one simulation whose core is at work */

int64_t __wrap_sp_now_ms(void);
int64_t __wrap_sp_wall_ms(void);
int64_t __real_sp_now_ms(void);
int64_t __real_sp_wall_ms(void);

int64_t __wrap_sp_now_ms(void)
{
    if (stepping)
        sim_fail(stepping, "a decision has read the monotonic clock");
    return __real_sp_now_ms();
}

int64_t __wrap_sp_wall_ms(void)
{
    if (stepping)
        sim_fail(stepping, "a decision has read the wall clock");
    return __real_sp_wall_ms();
}

/* ---- the disk ---- */

static void trouble_ends(struct sim *sim, void *context, uint64_t value)
{
    (void)context;
    (void)value;
    if (sim->now >= sim->trouble_until_ms)
        sim_disk_trouble(sim, SIM_VFS_WELL, 0);
}

/* Half of the time a disk that fills up is noticed before it is full. */
void sim_disk_trouble(struct sim *sim, enum sim_vfs_trouble trouble, int64_t ms)
{
    bool low = trouble == SIM_VFS_FULL && sim_draw(sim, 2) == 0;
    sim_trace(sim, "the disk %s",
              trouble == SIM_VFS_WELL   ? "is well"
              : low                     ? "is nearly full"
              : trouble == SIM_VFS_FULL ? "is full"
                                        : "does not sync");
    sim->troubled = trouble != SIM_VFS_WELL;
    sim->trouble_until_ms = sim->now + ms;
    sim_vfs_set_trouble(sim->vfs, low ? SIM_VFS_WELL : trouble);
    if (sim->core)
        coord_set_disk_low(sim->core, low);
    if (sim->troubled)
        sim_after(sim, ms, trouble_ends, NULL, 0);
}

/* ---- the store thread ---- */

struct committed {
    uint32_t count;
    uint64_t *ids;
    struct coord_write_result *results;
};

static void commit_known(struct sim *sim, void *context, uint64_t life)
{
    struct committed *done = context;
    if (!sim->core || sim->life != life || sim_coordinator_waits(sim, commit_known, context, life))
        return;
    for (uint32_t i = 0; i < done->count && sim->core; i++) {
        struct coord_event event = {
            .kind = COORD_EV_WRITTEN, .write_id = done->ids[i], .result = done->results[i]};
        sim_step(sim, &event);
    }
}

static enum sp_err write_all(struct sim *sim, struct committed *done, struct sp_arena *arena)
{
    enum sp_err rc = SP_OK;
    store_begin(sim->world.store);
    for (uint32_t i = 0; rc == SP_OK && i < sim->write_count; i++) {
        done->ids[i] = sim->writes[i]->id;
        rc = coord_write_apply(sim->world.store, sim->writes[i], sim->now, arena, &done->results[i],
                               &sim->world.err);
    }
    return rc == SP_OK ? store_commit(sim->world.store, &sim->world.err) : rc;
}

static void commit(struct sim *sim, void *context, uint64_t life)
{
    if (!sim->core || sim->life != life || sim_coordinator_waits(sim, commit, context, life))
        return;
    sim->commit_planned = false;
    struct committed *done = sim_alloc(sim, sizeof(*done));
    done->ids = sim_alloc(sim, sim->write_count * sizeof(*done->ids));
    done->results = sim_alloc(sim, sim->write_count * sizeof(*done->results));
    done->count = sim->write_count;
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)1 << 28);
    enum sp_err rc = write_all(sim, done, arena);
    sp_arena_free(arena);
    if (rc != SP_OK) { /* as the daemon: it ends and opens the store again */
        sim->result.disk_errors++;
        sim_trace(sim, "COMMIT: %s", sim->world.err.text);
        if (!sim->troubled)
            sim_fail(sim, "a well disk: %s", sim->world.err.text);
        sim_coordinator_kill(sim);
        sim_after(sim, 1000, sim_start_again, NULL, 0);
        return;
    }
    sim->write_count = 0;
    sim->result.commits++;
    sim_after(sim, (int64_t)sim_draw(sim, 10), commit_known, done, life);
}

/* ---- replies ---- */

/* A request with an epoch below the highest that was granted must not be served. */
static void check_epoch(struct sim *sim, const struct sim_call *call)
{
    if (call->epoch == 0)
        return;
    const struct proto_trainer_renew *body = call->body; /* the common head of these messages */
    if (call->epoch < sim->highest_epoch[body->iteration % SIM_MAX_ITERATIONS])
        sim_fail(sim, "%s: %s with epoch %llu was served after epoch %llu was granted",
                 call->from->name, proto_type_name(call->type), (unsigned long long)call->epoch,
                 (unsigned long long)sim->highest_epoch[body->iteration % SIM_MAX_ITERATIONS]);
}

static void acknowledge_early(struct sim *sim, const struct coord_write *write)
{
    struct proto_submit_reply *early = sim_alloc(sim, sizeof(*early));
    early->stored = write->row_count;
    sim_answer(sim, sim->requests[write->handle % REQUESTS].call, SP_OK, 0, NULL, early);
}

static void reply(struct sim *sim, struct coord_action *action)
{
    struct sim_call *call = sim_take_call(sim, action->handle);
    union coord_reply_body *body = sim_alloc(sim, sizeof(*body));
    *body = action->body;
    if (action->type == PROTO_HELLO_REPLY || action->type == PROTO_RENEW_REPLY) {
        struct proto_u64s *list =
            action->type == PROTO_HELLO_REPLY ? &body->hello.leases_lost : &body->renew.lost;
        uint64_t *copy = sim_alloc(sim, list->count * sizeof(*copy));
        memcpy(copy, list->values, list->count * sizeof(*copy));
        list->values = copy;
    } else if (action->type == PROTO_ADMIN_REPLY) {
        body->admin.json = sp_arena_strdup(sim->arena, action->text);
    } else if (action->type == PROTO_TRAINER_LEASE_REPLY) {
        if (body->trainer_lease.granted) {
            uint32_t number = body->trainer_lease.iteration;
            sim->highest_epoch[number] =
                SP_MAX(sim->highest_epoch[number], body->trainer_lease.epoch);
        }
        body->trainer_lease.run = WORLD_RUN;
    }
    check_epoch(sim, call);
    sim_answer(sim, call, SP_OK, 0, NULL, body);
}

/* A disk is slow now and then, and that is when the power goes. */
static int64_t commit_ms(struct sim *sim)
{
    return 1 + (int64_t)sim_draw(sim, sim_draw(sim, 10) == 0 ? 3000 : 30);
}

static void execute(struct sim *sim, struct coord_action *action)
{
    switch (action->kind) {
    case COORD_DO_REPLY:
        reply(sim, action);
        break;
    case COORD_DO_REPLY_ERROR:
        sim_answer(sim, sim_take_call(sim, action->handle), action->status, action->retry_after_ms,
                   action->text, NULL);
        break;
    case COORD_DO_WRITE:
        SP_ASSERT(sim->write_count < SP_COUNT(sim->writes));
        if (sim->plant == SIM_PLANT_EARLY_ACK && action->write->kind == COORD_W_RESULTS)
            acknowledge_early(sim, action->write);
        sim->writes[sim->write_count++] = action->write;
        if (!sim->commit_planned) {
            sim->commit_planned = true;
            sim_after(sim, commit_ms(sim), commit, NULL, sim->life);
        }
        break;
    case COORD_DO_GRANT:
        sim_start_work(sim, action, sim_read_work, 10);
        break;
    case COORD_DO_PAIRS:
        check_epoch(sim, sim->requests[action->handle % REQUESTS].call);
        sim_start_work(sim, action, sim_read_work, 10);
        break;
    case COORD_DO_MISSING:
        sim_start_work(sim, action, sim_missing_work, 50);
        break;
    case COORD_DO_VERIFY:
        sim_start_work(sim, action, sim_verify_work, 2000);
        break;
    case COORD_DO_JUDGE:
        sim_start_work(sim, action, sim_judge_work, 2000);
        break;
    case COORD_DO_ORDER:
        sim_start_work(sim, action, sim_order_work, 500);
        break;
    case COORD_DO_EVALUATE:
        break; /* no run of the simulation names tasks */
    case COORD_DO_COLLECT:
        sim_start_work(sim, action, sim_collect_work, 500);
        break;
    case COORD_DO_LOG:
        sim_trace(sim, "  %s", action->text);
        break;
    }
}

void sim_step(struct sim *sim, const struct coord_event *event)
{
    stepping = sim;
    coord_step(sim->core, event, sim->now, &sim->actions);
    stepping = NULL;
    for (size_t i = 0; i < sim->actions.count; i++)
        execute(sim, &sim->actions.items[i]);
    coord_actions_clear(&sim->actions);
}

/* ---- life ---- */

/* Leases that a renewal which came in meanwhile met alive are alive. */
static void check_renewed(struct sim *sim)
{
    for (const struct sim_call *call = sim->queue; call; call = call->queued) {
        for (uint32_t i = 0; i < call->alive.count; i++) {
            const struct coord_lease *lease = core_lease(sim->core, call->alive.values[i]);
            if (lease && lease->lapsed && lease->expires_ms <= sim->now &&
                lease->forget_ms == sim->now + sim->times.lapsed_keep_ms)
                sim_fail(sim, "lease %llu died, but its renewal had come in before it expired",
                         (unsigned long long)lease->id);
        }
    }
}

static void tick(struct sim *sim, void *context, uint64_t life)
{
    (void)context;
    if (!sim->core || sim->life != life)
        return;
    /* A process that stood still first takes what has come in, then looks at its clock. */
    if (sim->now < sim->stopped_until_ms) {
        sim_after(sim, sim->stopped_until_ms - sim->now + (sim->plant != SIM_PLANT_EXPIRY), tick,
                  NULL, life);
        return;
    }
    struct coord_event event = {.kind = COORD_EV_TICK};
    sim_step(sim, &event);
    check_renewed(sim);
    sim_after(sim, sim->times.tick_ms * 4, tick, NULL, life);
}

static void note_alive(struct sim *sim, struct sim_call *call)
{
    const struct proto_renew *renew = call->body;
    uint64_t *alive = sim_alloc(sim, renew->leases.count * sizeof(*alive));
    call->alive = (struct proto_u64s){.values = alive};
    for (uint32_t i = 0; i < renew->leases.count; i++) {
        const struct coord_lease *lease = core_lease(sim->core, renew->leases.values[i]);
        if (lease && !lease->lapsed && lease->expires_ms > sim->now)
            alive[call->alive.count++] = lease->id;
    }
}

static void unqueue(struct sim *sim, struct sim_call *call)
{
    struct sim_call **at = &sim->queue;
    while (*at && *at != call)
        at = &(*at)->queued;
    if (*at)
        *at = call->queued;
}

static void take(struct sim *sim, void *context, uint64_t life)
{
    struct sim_call *call = context;
    if (sim->core && sim->life == life && sim_coordinator_waits(sim, take, call, life))
        return; /* it has stopped again */
    unqueue(sim, call);
    if (!sim->core || sim->life != life)
        return;
    uint64_t handle = ++sim->next_handle;
    sim->requests[handle % REQUESTS] = (struct sim_request){.handle = handle, .call = call};
    struct coord_event event = {.kind = COORD_EV_REQUEST,
                                .handle = handle,
                                .type = call->type,
                                .body = call->body,
                                .who = {.role = call->from->role, .token_id = call->from->name}};
    sim_step(sim, &event);
}

void sim_coordinator_receive(struct sim *sim, struct sim_call *call)
{
    if (sim->now >= sim->stopped_until_ms) {
        take(sim, call, sim->life);
        return;
    }
    for (const struct sim_call *waiting = sim->queue; waiting; waiting = waiting->queued) {
        if (waiting == call)
            return; /* the same one twice: once is enough of it here */
    }
    if (call->type == PROTO_RENEW)
        note_alive(sim, call);
    call->queued = sim->queue;
    sim->queue = call;
    sim_after(sim, sim->stopped_until_ms - sim->now, take, call, sim->life);
}

void sim_start_again(struct sim *sim, void *context, uint64_t value)
{
    (void)context;
    (void)value;
    if (!sim->core)
        sim_coordinator_start(sim);
}

void sim_coordinator_start(struct sim *sim)
{
    sim_trace(sim, "coordinator starts");
    if (!sim->requests)
        sim->requests = sim_alloc(sim, REQUESTS * sizeof(*sim->requests));
    sim->life++;
    enum sp_err rc = world_try_open(&sim->world);
    if (rc == SP_OK) {
        const struct coord_options options = {
            .times = sim->times, .instance = sim_draw(sim, UINT64_MAX), .version = "test"};
        sim->core = world_try_core(&sim->world, &options, sim->now);
        rc = sim->core ? SP_OK : sim->world.err.code;
        if (!sim->core)
            world_close(&sim->world);
    }
    if (rc != SP_OK) {
        sim_trace(sim, "it does not start: %s", sim->world.err.text);
        if (!sim->troubled)
            sim_fail(sim, "the coordinator does not start: %s", sim->world.err.text);
        sim_vfs_revive(sim->vfs);
        sim_after(sim, 1000, sim_start_again, NULL, 0);
        return;
    }
    sim_check_acks(sim, 0);
    sim_after(sim, 1, tick, NULL, sim->life);
}

/* The process dies, and in some cases the machine with it. */
void sim_coordinator_kill(struct sim *sim)
{
    bool power = sim_draw(sim, 3) == 0;
    sim_trace(sim, "coordinator is killed%s: %u writes are lost", power ? ", with its machine" : "",
              sim->write_count);
    coord_core_free(sim->core);
    sim->core = NULL;
    sim->life++;
    sim->write_count = 0;
    sim->commit_planned = false;
    sim->stopped_until_ms = 0;
    sim->queue = NULL;
    sim_vfs_power_off(sim->vfs);
    world_close(&sim->world);
    if (power)
        sim_vfs_restart(sim->vfs);
    else
        sim_vfs_revive(sim->vfs);
    sim->result.power_losses += power;
}

/* ---- what must be there ---- */

static void check_ack(struct sim *sim, struct store_run *run, struct sp_arena *arena,
                      const struct sim_ack *ack)
{
    struct store_result row;
    sp_arena_reset(arena);
    enum sp_err rc = store_results_get(run, ack->iteration, ack->set, &ack->position, 1, arena,
                                       &row, &sim->world.err);
    uint64_t answer = rc ? 0 : sim_hash(row.ids.ids, row.ids.count * sizeof(int32_t), 1);
    /* Replayed pairs keep the ids of the iteration before: the sender had none. */
    bool comparable = !rc && row.ids.count > 0 && row.source_iteration == ack->iteration;
    if (rc || (comparable && answer != ack->answer))
        sim_fail(sim, "acknowledged result lost: iteration %u, set %u, position %llu: %s",
                 ack->iteration, ack->set, (unsigned long long)ack->position,
                 rc ? sim->world.err.text : "another answer");
}

void sim_check_acks(struct sim *sim, size_t first)
{
    if (!sim->core)
        return; /* looked at when it starts again */
    struct store_run *run;
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)1 << 28);
    world_check(&sim->world, store_run_open(sim->world.store, WORLD_RUN, &run, &sim->world.err),
                "run");
    for (size_t i = first; i < sim->ack_count; i++)
        check_ack(sim, run, arena, &sim->acks[i]);
    sp_arena_free(arena);
}

/* Every pair once, with the scores that this iteration's opponent gives, and nothing counted that
 * is not there. */
static void check_rows(struct sim *sim, uint32_t number, const struct store_result *rows,
                       size_t count)
{
    const struct coord_iteration *it = sim->core->runs[0]->iteration;
    for (size_t i = 0; i < count; i++) {
        const struct sim_expected *expected = &sim->expected[number][rows[i].position];
        if (expected->known &&
            (expected->real != rows[i].ref_real || expected->generated != rows[i].ref_generated))
            sim_fail(sim, "iteration %u, position %llu: other scores than were worked out", number,
                     (unsigned long long)rows[i].position);
    }
    if (it && it->number == number && count != it->sets[PROTO_SET_TRAIN].count)
        sim_fail(sim, "iteration %u has %zu of %u pairs: prompts were forgotten", number, count,
                 it->sets[PROTO_SET_TRAIN].count);
}

void sim_check_closed(struct sim *sim, uint32_t number)
{
    struct store_run *run;
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)1 << 28);
    uint64_t stored = 0;
    world_check(&sim->world, store_run_open(sim->world.store, WORLD_RUN, &run, &sim->world.err),
                "run");
    for (uint32_t set = 0; set < COORD_SET_COUNT; set++) {
        struct store_result *rows;
        size_t count;
        world_check(
            &sim->world,
            store_results_range(run, number, set, 0, 10000, arena, &rows, &count, &sim->world.err),
            "rows");
        stored += count;
        if (set == PROTO_SET_TRAIN)
            check_rows(sim, number, rows, count);
    }
    if (sim->said_stored[number] > stored)
        sim_fail(sim, "iteration %u: %llu results were called new, %llu are there", number,
                 (unsigned long long)sim->said_stored[number], (unsigned long long)stored);
    sp_arena_free(arena);
}

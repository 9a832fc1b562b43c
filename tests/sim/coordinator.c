/* The coordinator of the simulation: what the daemon's threads do, in simulated time. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/judge.h"
#include "coordinator/replies.h"
#include "tests/sim/sim.h"

#define REQUESTS 4096

/* Requests in work, by handle modulo REQUESTS. */
struct sim_request {
    uint64_t handle;
    struct sim_call *call;
};

static struct sim_call *take_call(struct sim *sim, uint64_t handle)
{
    struct sim_request *request = &sim->requests[handle % REQUESTS];
    SP_ASSERT(request->handle == handle && handle != 0);
    request->handle = 0;
    return request->call;
}

static void step(struct sim *sim, const struct coord_event *event);

/* ---- the store thread ---- */

struct committed {
    uint32_t count;
    uint64_t *ids;
    struct coord_write_result *results;
};

static void commit_known(struct sim *sim, void *context, uint64_t life)
{
    struct committed *done = context;
    if (!sim->core || sim->life != life)
        return;
    for (uint32_t i = 0; i < done->count && sim->core; i++) {
        struct coord_event event = {
            .kind = COORD_EV_WRITTEN, .write_id = done->ids[i], .result = done->results[i]};
        step(sim, &event);
    }
}

static void commit(struct sim *sim, void *context, uint64_t life)
{
    (void)context;
    if (!sim->core || sim->life != life)
        return;
    sim->commit_planned = false;
    struct committed *done = sim_alloc(sim, sizeof(*done));
    done->ids = sim_alloc(sim, sim->write_count * sizeof(*done->ids));
    done->results = sim_alloc(sim, sim->write_count * sizeof(*done->results));
    struct sp_arena *arena = sp_arena_new(1 << 16, (size_t)1 << 28);
    store_begin(sim->world.store);
    for (uint32_t i = 0; i < sim->write_count; i++) {
        done->ids[i] = sim->writes[i]->id;
        world_check(&sim->world,
                    coord_write_apply(sim->world.store, sim->writes[i], sim->now, arena,
                                      &done->results[i], &sim->world.err),
                    "write");
    }
    world_check(&sim->world, store_commit(sim->world.store, &sim->world.err), "commit");
    done->count = sim->write_count;
    sim->write_count = 0;
    sim->result.commits++;
    sp_arena_free(arena);
    sim_after(sim, (int64_t)sim_draw(sim, 10), commit_known, done, life);
}

/* ---- what the other threads do ---- */

struct work {
    struct coord_action action;
    struct sim_call *call;
};

static void read_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life)
        return;
    enum sp_err rc;
    const void *reply;
    if (work->action.kind == COORD_DO_GRANT) {
        struct proto_lease_reply *lease = sim_alloc(sim, sizeof(*lease));
        rc = coord_build_grant(sim->world.store, &work->action, sim->arena, lease, &sim->world.err);
        reply = lease;
    } else {
        struct proto_pairs_fetch_reply *pairs = sim_alloc(sim, sizeof(*pairs));
        rc = coord_build_pairs(sim->world.store, &work->action, sim->arena, pairs, &sim->world.err);
        reply = pairs;
    }
    /* What was cleared after the decision is not there any more; the worker is told so. */
    sim_answer(sim, work->call, rc, 0, sim->world.err.text, rc ? NULL : reply);
}

static void missing_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (sim->core && sim->life == life)
        sim_answer(sim, work->call, SP_OK, 0, NULL,
                   sim_alloc(sim, sizeof(struct proto_publish_begin_reply)));
}

static void verify_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life)
        return;
    struct coord_event event = {.kind = COORD_EV_VERIFIED,
                                .run = WORLD_RUN,
                                .iteration = work->action.iteration,
                                .attempt = work->action.attempt,
                                .bytes = 100,
                                .blobs = &work->action.manifest,
                                .blob_count = 1};
    step(sim, &event);
}

static void judge_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life)
        return;
    struct coord_judgement judgement = {0};
    struct coord_event event = {.kind = COORD_EV_JUDGED,
                                .run = WORLD_RUN,
                                .iteration = work->action.iteration,
                                .attempt = work->action.attempt};
    event.status = coord_judge(sim->world.store, NULL, work->action.run, work->action.iteration,
                               &judgement, &sim->world.err);
    event.text = event.status ? sim->world.err.text : judgement.text;
    event.verdict = judgement.verdict;
    /* The simulation goes on whatever the verdict: the numbers of its model mean nothing. */
    event.accepted = true;
    event.pairs_sha256 = judgement.pairs_sha256;
    step(sim, &event);
    free(judgement.text);
    free(judgement.verdict);
}

static void order_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life)
        return;
    uint32_t *order = NULL;
    struct coord_event event = {.kind = COORD_EV_ORDERED,
                                .run = WORLD_RUN,
                                .iteration = work->action.iteration,
                                .attempt = work->action.attempt};
    event.gap = work->action.gap;
    event.pass = work->action.pass;
    if (event.gap)
        event.status = coord_gap_order(sim->world.store, work->action.run, work->action.iteration,
                                       &order, &sim->world.err);
    else
        order = coord_pass_order(work->action.run, work->action.iteration, event.pass);
    event.text = sim->world.err.text;
    event.order = order;
    step(sim, &event);
    free(order);
}

static void start_work(struct sim *sim, struct coord_action *action, sim_fire *fire,
                       int64_t longest)
{
    struct work *work = sim_alloc(sim, sizeof(*work));
    work->action = *action;
    if (action->positions) {
        work->action.positions = sim_alloc(sim, action->count * sizeof(uint32_t));
        memcpy(work->action.positions, action->positions, action->count * sizeof(uint32_t));
    }
    if (action->handle)
        work->call = take_call(sim, action->handle);
    sim_after(sim, (int64_t)sim_draw(sim, (uint64_t)longest), fire, work, sim->life);
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
    struct sim_call *call = take_call(sim, action->handle);
    union coord_reply_body *body = sim_alloc(sim, sizeof(*body));
    *body = action->body;
    if (action->type == PROTO_HELLO_REPLY || action->type == PROTO_RENEW_REPLY) {
        struct proto_u64s *list = action->type == PROTO_HELLO_REPLY ? &body->hello.leases_lost
                                                                    : &body->renew.lost;
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

static void collected(struct sim *sim, void *context, uint64_t life);

static void execute(struct sim *sim, struct coord_action *action)
{
    switch (action->kind) {
    case COORD_DO_REPLY:
        reply(sim, action);
        break;
    case COORD_DO_REPLY_ERROR:
        sim_answer(sim, take_call(sim, action->handle), action->status, action->retry_after_ms,
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
        start_work(sim, action, read_work, 10);
        break;
    case COORD_DO_PAIRS:
        check_epoch(sim, sim->requests[action->handle % REQUESTS].call);
        start_work(sim, action, read_work, 10);
        break;
    case COORD_DO_MISSING:
        start_work(sim, action, missing_work, 50);
        break;
    case COORD_DO_VERIFY:
        start_work(sim, action, verify_work, 2000);
        break;
    case COORD_DO_JUDGE:
        start_work(sim, action, judge_work, 2000);
        break;
    case COORD_DO_ORDER:
        start_work(sim, action, order_work, 500);
        break;
    case COORD_DO_COLLECT:
        sim_after(sim, 1, collected, NULL, sim->life);
        break;
    case COORD_DO_LOG:
        sim_trace(sim, "  %s", action->text);
        break;
    }
}

static void step(struct sim *sim, const struct coord_event *event)
{
    coord_step(sim->core, event, sim->now, &sim->actions);
    for (size_t i = 0; i < sim->actions.count; i++)
        execute(sim, &sim->actions.items[i]);
    coord_actions_clear(&sim->actions);
}

/* There are no blobs in this world: nothing to collect. */
static void collected(struct sim *sim, void *context, uint64_t life)
{
    (void)context;
    if (sim->core && sim->life == life)
        step(sim, &(struct coord_event){.kind = COORD_EV_COLLECTED});
}

/* ---- life ---- */

static void tick(struct sim *sim, void *context, uint64_t life)
{
    (void)context;
    if (!sim->core || sim->life != life)
        return;
    struct coord_event event = {.kind = COORD_EV_TICK};
    step(sim, &event);
    sim_after(sim, sim->times.tick_ms * 4, tick, NULL, life);
}

void sim_coordinator_receive(struct sim *sim, struct sim_call *call)
{
    uint64_t handle = ++sim->next_handle;
    sim->requests[handle % REQUESTS] = (struct sim_request){.handle = handle, .call = call};
    struct coord_event event = {.kind = COORD_EV_REQUEST,
                                .handle = handle,
                                .type = call->type,
                                .body = call->body,
                                .who = {.role = call->from->role, .token_id = call->from->name}};
    step(sim, &event);
}

void sim_coordinator_start(struct sim *sim)
{
    sim_trace(sim, "coordinator starts");
    if (!sim->requests)
        sim->requests = sim_alloc(sim, REQUESTS * sizeof(*sim->requests));
    world_open(&sim->world);
    sim->life++;
    sim->core = world_core(&sim->world, &sim->times, sim_draw(sim, UINT64_MAX), sim->now);
    sim_check_acks(sim, 0);
    sim_after(sim, 1, tick, NULL, sim->life);
}

/* What is not committed is gone, and so is everything in memory. */
void sim_coordinator_kill(struct sim *sim)
{
    sim_trace(sim, "coordinator is killed: %u writes are lost", sim->write_count);
    coord_core_free(sim->core);
    sim->core = NULL;
    sim->life++;
    sim->write_count = 0;
    sim->commit_planned = false;
    world_close(&sim->world);
}

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

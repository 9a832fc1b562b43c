#include "tests/sim/work.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/collect.h"
#include "coordinator/core_internal.h"
#include "coordinator/judge.h"
#include "coordinator/replies.h"

#define GRACE_MS 20000 /* of a blob that nothing refers to */
#define KEEP_LAST 1    /* checkpoints of retention */

struct work {
    struct coord_action action;
    struct sim_call *call;
};

void sim_read_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life || sim_coordinator_waits(sim, sim_read_work, context, life))
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

void sim_missing_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (sim->core && sim->life == life &&
        !sim_coordinator_waits(sim, sim_missing_work, context, life))
        sim_answer(sim, work->call, SP_OK, 0, NULL,
                   sim_alloc(sim, sizeof(struct proto_publish_begin_reply)));
}

/* ---- blobs: manifests of checkpoints stand for all of them ---- */

static void put_blob(struct sim *sim, const struct sp_digest *manifest)
{
    struct sim_blob *blob = NULL;
    for (uint32_t i = 0; i < sim->blob_count; i++) {
        if (sp_digest_equal(&sim->blobs[i].manifest, manifest))
            blob = &sim->blobs[i];
    }
    if (!blob) {
        SP_ASSERT(sim->blob_count < SP_COUNT(sim->blobs));
        blob = &sim->blobs[sim->blob_count++];
    }
    *blob = (struct sim_blob){.manifest = *manifest, .there = true};
}

static void delete_blob(struct sim *sim, struct sim_blob *blob)
{
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&blob->manifest, hex);
    sim_trace(sim, "blob %.12s is deleted", hex);
    blob->there = false;
    for (int i = 0; i < SIM_GENERATORS; i++)
        sim_generator_check_blob(sim, &sim->generators[i], &blob->manifest);
    for (int i = 0; i < SIM_TRAINERS; i++)
        sim_trainer_check_blob(sim, &sim->trainers[i], &blob->manifest);
    const struct coord_iteration *it = sim->core->run_count ? sim->core->runs[0]->iteration : NULL;
    if (it && (sp_digest_equal(&it->opponent_manifest, &blob->manifest) ||
               sp_digest_equal(&it->checkpoint_manifest, &blob->manifest)))
        sim_fail(sim, "iteration %u refers to a blob that was deleted", it->number);
}

static bool is_root(const struct work *work, const struct sp_digest *manifest)
{
    for (uint32_t i = 0; i < work->action.root_count; i++) {
        if (sp_digest_equal(&work->action.roots[i], manifest))
            return true;
    }
    return false;
}

static bool is_referred_to(const struct coord_refs *refs, const struct sp_digest *manifest)
{
    for (size_t i = 0; i < refs->count; i++) {
        if (sp_digest_equal(&refs->list[i], manifest))
            return true;
    }
    return false;
}

static enum sp_err retain(struct sim *sim, const struct work *work, struct coord_refs **refs)
{
    struct store *store = sim->world.store;
    uint32_t dropped = 0;
    store_begin(store);
    enum sp_err rc = coord_retain(store, KEEP_LAST, work->action.roots, work->action.root_count,
                                  sim->now, false, &dropped, &sim->world.err);
    if (rc == SP_OK)
        rc = store_commit(store, &sim->world.err);
    return rc == SP_OK ? coord_refs_load(store, refs, &sim->world.err) : rc;
}

/* Marks what nothing refers to, deletes what was marked for long. */
void sim_collect_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    struct coord_refs *refs = NULL;
    if (!sim->core || sim->life != life ||
        sim_coordinator_waits(sim, sim_collect_work, context, life))
        return;
    if (retain(sim, work, &refs) != SP_OK) {
        if (!sim->troubled)
            sim_fail(sim, "retention: %s", sim->world.err.text);
        sim_coordinator_kill(sim);
        sim_after(sim, 1000, sim_start_again, NULL, 0);
        return;
    }
    for (uint32_t i = 0; i < sim->blob_count; i++) {
        struct sim_blob *blob = &sim->blobs[i];
        bool needed = is_root(work, &blob->manifest) || is_referred_to(refs, &blob->manifest);
        if (needed || !blob->marked)
            blob->marked_ms = sim->now;
        else if (blob->there && sim->now - blob->marked_ms >= GRACE_MS)
            delete_blob(sim, blob);
        blob->marked = !needed;
    }
    coord_refs_free(refs);
    sim->result.collections++;
    struct coord_event event = {.kind = COORD_EV_COLLECTED};
    sim_step(sim, &event);
}

void sim_verify_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life ||
        sim_coordinator_waits(sim, sim_verify_work, context, life))
        return;
    struct coord_event event = {.kind = COORD_EV_VERIFIED,
                                .run = WORLD_RUN,
                                .iteration = work->action.iteration,
                                .attempt = work->action.attempt,
                                .bytes = 100,
                                .blobs = &work->action.manifest,
                                .blob_count = 1};
    put_blob(sim, &work->action.manifest);
    sim_step(sim, &event);
}

void sim_judge_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life ||
        sim_coordinator_waits(sim, sim_judge_work, context, life))
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
    sim_step(sim, &event);
    free(judgement.text);
    free(judgement.verdict);
}

void sim_order_work(struct sim *sim, void *context, uint64_t life)
{
    struct work *work = context;
    if (!sim->core || sim->life != life ||
        sim_coordinator_waits(sim, sim_order_work, context, life))
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
    sim_step(sim, &event);
    free(order);
}

void sim_start_work(struct sim *sim, struct coord_action *action, sim_fire *fire, int64_t longest)
{
    struct work *work = sim_alloc(sim, sizeof(*work));
    work->action = *action;
    if (action->positions) {
        work->action.positions = sim_alloc(sim, action->count * sizeof(uint32_t));
        memcpy(work->action.positions, action->positions, action->count * sizeof(uint32_t));
    }
    if (action->roots) {
        work->action.roots = sim_alloc(sim, action->root_count * sizeof(*action->roots));
        memcpy(work->action.roots, action->roots, action->root_count * sizeof(*action->roots));
    }
    if (action->handle)
        work->call = sim_take_call(sim, action->handle);
    sim_after(sim, (int64_t)sim_draw(sim, (uint64_t)longest), fire, work, sim->life);
}

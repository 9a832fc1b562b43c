/* A trainer whose checkpoint is a hash of the opponent and of the pairs in the order consumed. It
 * keeps snapshots on a disk of its own, resumes from them, and publishes. */
#include <math.h>
#include <string.h>

#include "common/base/mem.h"
#include "proto/pairs_digest.h"
#include "tests/sim/sim.h"

#define BATCH 4 /* batch_pairs of the world's settings */

struct snapshot {
    bool valid;
    struct sp_digest plan, chain;
    uint64_t attempt, step;
    uint32_t iteration;
};

struct trainer {
    uint64_t requests;
    const struct proto_trainer_lease_reply *lease; /* NULL: none held */
    uint64_t grant;                                /* number of the grant: old calls are dropped */
    uint64_t step, steps;
    struct sp_digest chain;
    uint32_t in_batch; /* pairs of the next step that are here */
    bool busy;         /* with a request or a step */
};

static void ask(struct sim *sim, struct sim_node *node);
static void fetch(struct sim *sim, struct sim_node *node);
static void publish(struct sim *sim, struct sim_node *node);

static void greet(struct sim *sim, struct sim_node *node)
{
    sim_hello(sim, node, NULL, ask);
}

/* Drops the work and asks for a lease; what is on disk stays. */
static void drop(struct sim *sim, struct sim_node *node)
{
    struct trainer *t = node->state;
    t->lease = NULL;
    t->grant++;
    t->busy = false;
    ask(sim, node);
}

static void again(struct sim *sim, struct sim_node *node)
{
    struct trainer *t = node->state;
    if (t->lease)
        fetch(sim, node);
    else
        ask(sim, node);
}

/* true: the call failed and this was taken care of. */
static bool trouble(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text)
{
    struct trainer *t = call->from->state;
    if (status == SP_OK)
        return false;
    t->busy = false;
    if (status == SP_ESTALE && strstr(text, "unknown worker")) {
        sim_hello(sim, call->from, NULL, again);
        return true;
    }
    sim_trace(sim, "%s: %s: %s", call->from->name, proto_type_name(call->type), text);
    drop(sim, call->from);
    return true;
}

static struct sim_call *call_with(struct sim *sim, struct sim_node *node, enum proto_type type,
                                  void *body, uint64_t *worker_id, int64_t timeout_ms,
                                  void (*done)(struct sim *, struct sim_call *, enum sp_err,
                                               const char *, const void *))
{
    struct trainer *t = node->state;
    uint64_t *grant = sim_alloc(sim, sizeof(*grant));
    *grant = t->grant;
    struct sim_call *call = sim_call(sim, node, type, body, timeout_ms, done, grant);
    call->worker_id = worker_id;
    call->epoch = t->lease ? t->lease->epoch : 0;
    return call;
}

static bool is_old(const struct sim_call *call)
{
    const struct trainer *t = call->from->state;
    return *(const uint64_t *)call->context != t->grant;
}

/* ---- publication ---- */

static void committed(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                      const void *reply)
{
    (void)reply;
    if (is_old(call) || trouble(sim, call, status, text))
        return;
    sim_trace(sim, "%s has published", call->from->name);
    drop(sim, call->from);
}

static void begun(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                  const void *reply)
{
    struct trainer *t = call->from->state;
    (void)reply;
    if (is_old(call) || trouble(sim, call, status, text))
        return;
    uint8_t both[2 * SP_DIGEST_BYTES];
    memcpy(both, t->lease->opponent.bytes, SP_DIGEST_BYTES);
    memcpy(both + SP_DIGEST_BYTES, t->chain.bytes, SP_DIGEST_BYTES);
    struct proto_publish_commit *commit = sim_alloc(sim, sizeof(*commit));
    *commit = (struct proto_publish_commit){.worker_id = call->from->worker_id,
                                            .run = WORLD_RUN,
                                            .iteration = t->lease->iteration,
                                            .epoch = t->lease->epoch,
                                            .pairs_chain = t->chain,
                                            .summary = "{}"};
    sp_sha256_of(both, sizeof(both), &commit->checkpoint);
    commit->manifest = commit->checkpoint;
    call_with(sim, call->from, PROTO_PUBLISH_COMMIT, commit, &commit->worker_id, 5000, committed);
}

static void publish(struct sim *sim, struct sim_node *node)
{
    struct trainer *t = node->state;
    struct proto_publish_begin *begin = sim_alloc(sim, sizeof(*begin));
    t->busy = true;
    *begin = (struct proto_publish_begin){
        .worker_id = node->worker_id,
        .run = WORLD_RUN,
        .iteration = t->lease->iteration,
        .epoch = t->lease->epoch,
        .manifest = {.data = (const uint8_t *)"manifest", .length = 8},
    };
    call_with(sim, node, PROTO_PUBLISH_BEGIN, begin, &begin->worker_id, 3000, begun);
}

/* ---- steps ---- */

static void reported(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                     const void *reply)
{
    (void)reply;
    if (is_old(call) || trouble(sim, call, status, text))
        return;
    struct trainer *t = call->from->state;
    t->busy = false;
    if (t->step == t->steps)
        publish(sim, call->from);
    else
        fetch(sim, call->from);
}

struct saving {
    struct sim_node *node;
    struct snapshot snapshot;
};

static void saved(struct sim *sim, void *context, uint64_t life)
{
    struct saving *saving = context;
    (void)sim;
    if (saving->node->life == life)
        *(struct snapshot *)saving->node->disk = saving->snapshot;
}

static void die(struct sim *sim, void *context, uint64_t life)
{
    struct sim_node *node = context;
    if (node->life == life)
        sim_kill(sim, node);
}

/* All of it, or nothing; and the bug of saving the cursor before the rest. */
static void save(struct sim *sim, struct sim_node *node)
{
    struct trainer *t = node->state;
    struct saving *saving = sim_alloc(sim, sizeof(*saving));
    *saving = (struct saving){.node = node,
                              .snapshot = {.valid = true,
                                           .plan = t->lease->plan,
                                           .chain = t->chain,
                                           .attempt = t->lease->attempt,
                                           .step = t->step,
                                           .iteration = t->lease->iteration}};
    struct snapshot *disk = node->disk;
    if (sim->plant == SIM_PLANT_CURSOR && disk->valid &&
        disk->iteration == saving->snapshot.iteration)
        disk->step = t->step;
    int64_t ms = 1 + (int64_t)sim_draw(sim, 2000);
    sim_after(sim, ms, saved, saving, node->life);
    /* The middle of it is when a death hurts most. */
    if (sim->faults.deaths && sim->now < sim->faults.until_ms && sim_draw(sim, 3) == 0)
        sim_after(sim, (int64_t)sim_draw(sim, (uint64_t)ms), die, node, node->life);
}

struct stepping {
    struct sim_node *node;
    uint64_t grant;
};

static void stepped(struct sim *sim, void *context, uint64_t life)
{
    struct stepping *stepping = context;
    struct sim_node *node = stepping->node;
    struct trainer *t = node->state;
    if (node->life != life || sim_is_stopped(sim, node, stepped, stepping, life) ||
        t->grant != stepping->grant)
        return;
    struct proto_steps_report *report = sim_alloc(sim, sizeof(*report));
    struct proto_step_metrics *metrics = sim_alloc(sim, sizeof(*metrics));
    *metrics = (struct proto_step_metrics){.step = ++t->step, .pairs = t->in_batch, .loss = 0.5};
    t->in_batch = 0;
    *report = (struct proto_steps_report){.worker_id = node->worker_id,
                                          .run = WORLD_RUN,
                                          .iteration = t->lease->iteration,
                                          .epoch = t->lease->epoch,
                                          .steps_total = t->steps,
                                          .steps = metrics,
                                          .steps_count = 1};
    if (t->step % 2 == 0)
        save(sim, node);
    call_with(sim, node, PROTO_STEPS_REPORT, report, &report->worker_id, 3000, reported);
}

/* One digest over what was and what comes. */
static void consume(struct trainer *t, const struct proto_train_pair *pair)
{
    struct sp_sha256 *hash = sp_sha256_new();
    uint32_t numbers[6] = {(uint32_t)pair->position,
                           pair->prompt,
                           pair->source_iteration,
                           pair->finish,
                           pairs_digest_bits(pair->ref_real),
                           pairs_digest_bits(pair->ref_generated)};
    sp_sha256_update(hash, t->chain.bytes, SP_DIGEST_BYTES);
    sp_sha256_update(hash, numbers, sizeof(numbers));
    sp_sha256_update(hash, pair->generated_ids.ids, pair->generated_ids.count * sizeof(int32_t));
    sp_sha256_final(hash, &t->chain);
    sp_sha256_free(hash);
}

static uint64_t pass_steps(const struct trainer *t)
{
    return (t->lease->plan_pairs + BATCH - 1) / BATCH;
}

static uint32_t batch_size(const struct trainer *t)
{
    uint64_t start = t->step % pass_steps(t) * BATCH;
    return (uint32_t)SP_MIN((uint64_t)BATCH, t->lease->plan_pairs - start);
}

static void check_scores(struct sim *sim, const struct trainer *t,
                         const struct proto_train_pair *pair)
{
    const struct sim_expected *expected = &sim->expected[t->lease->iteration][pair->position];
    if (isnan(pair->ref_real) || !expected->known)
        sim_fail(sim, "position %llu of iteration %u was served without references",
                 (unsigned long long)pair->position, t->lease->iteration);
    else if (!sp_digest_equal(&expected->checkpoint, &t->lease->opponent) ||
             expected->real != pair->ref_real || expected->generated != pair->ref_generated)
        sim_fail(sim, "position %llu of iteration %u was not scored by the opponent",
                 (unsigned long long)pair->position, t->lease->iteration);
}

static void fetched(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                    const void *body)
{
    const struct proto_pairs_fetch_reply *reply = body;
    if (is_old(call) || trouble(sim, call, status, text))
        return;
    struct trainer *t = call->from->state;
    for (uint32_t i = 0; i < reply->pairs_count; i++) {
        if (!reply->pairs[i].skipped)
            check_scores(sim, t, &reply->pairs[i]);
        consume(t, &reply->pairs[i]);
    }
    t->in_batch += reply->pairs_count;
    t->busy = false;
    if (t->in_batch < batch_size(t)) {
        fetch(sim, call->from);
        return;
    }
    t->busy = true;
    struct stepping *stepping = sim_alloc(sim, sizeof(*stepping));
    *stepping = (struct stepping){.node = call->from, .grant = t->grant};
    sim_after(sim, 10 + (int64_t)sim_draw(sim, 800), stepped, stepping, call->from->life);
}

static void fetch(struct sim *sim, struct sim_node *node)
{
    struct trainer *t = node->state;
    if (t->busy || !t->lease)
        return;
    if (t->step == t->steps) {
        publish(sim, node);
        return;
    }
    t->busy = true;
    struct proto_pairs_fetch *ask_for = sim_alloc(sim, sizeof(*ask_for));
    *ask_for = (struct proto_pairs_fetch){
        .worker_id = node->worker_id,
        .run = WORLD_RUN,
        .iteration = t->lease->iteration,
        .epoch = t->lease->epoch,
        .train_epoch = (uint32_t)(t->step / pass_steps(t)),
        .start = t->step % pass_steps(t) * BATCH + t->in_batch,
        .count = batch_size(t) - t->in_batch,
        .wait_ms = (uint32_t)sim->times.poll_ms,
    };
    call_with(sim, node, PROTO_PAIRS_FETCH, ask_for, &ask_for->worker_id, sim->times.poll_ms + 3000,
              fetched);
}

/* ---- the lease ---- */

static void begin(struct sim *sim, struct sim_node *node,
                  const struct proto_trainer_lease_reply *lease)
{
    struct trainer *t = node->state;
    const struct snapshot *snapshot = node->disk;
    t->grant++;
    t->lease = lease;
    t->steps = 2 * pass_steps(t);
    t->step = 0;
    t->in_batch = 0;
    t->busy = false;
    t->chain = (struct sp_digest){0};
    if (snapshot->valid && snapshot->iteration == lease->iteration &&
        snapshot->attempt == lease->attempt && sp_digest_equal(&snapshot->plan, &lease->plan)) {
        t->step = snapshot->step;
        t->chain = snapshot->chain;
    }
    sim_trace(sim, "%s trains iteration %u, epoch %llu, from step %llu", node->name,
              lease->iteration, (unsigned long long)lease->epoch, (unsigned long long)t->step);
    fetch(sim, node);
}

static void leased(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                   const void *body)
{
    const struct proto_trainer_lease_reply *reply = body;
    if (is_old(call) || trouble(sim, call, status, text))
        return;
    struct trainer *t = call->from->state;
    t->busy = false;
    if (reply->granted)
        begin(sim, call->from, reply);
    else
        ask(sim, call->from);
}

static void ask(struct sim *sim, struct sim_node *node)
{
    struct trainer *t = node->state;
    if (t->busy || t->lease || node->worker_id == 0)
        return;
    t->busy = true;
    struct proto_trainer_lease *lease = sim_alloc(sim, sizeof(*lease));
    *lease = (struct proto_trainer_lease){.worker_id = node->worker_id,
                                          .request_id = ++t->requests,
                                          .wait_ms = (uint32_t)sim->times.poll_ms};
    call_with(sim, node, PROTO_TRAINER_LEASE, lease, &lease->worker_id, sim->times.poll_ms + 3000,
              leased);
}

static void renewed(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                    const void *body)
{
    const struct proto_trainer_renew_reply *reply = body;
    struct trainer *t = call->from->state;
    if (is_old(call) || !t->lease)
        return;
    if (status == SP_ESTALE && strstr(text, "unknown worker"))
        return; /* the other calls say hello again */
    if (status != SP_OK || reply->command != PROTO_TRAINER_GO_ON)
        drop(sim, call->from);
}

static void renew(struct sim *sim, void *context, uint64_t life)
{
    struct sim_node *node = context;
    struct trainer *t = node->state;
    if (node->life != life || sim_is_stopped(sim, node, renew, node, life))
        return;
    if (t->lease) {
        struct proto_trainer_renew *body = sim_alloc(sim, sizeof(*body));
        *body = (struct proto_trainer_renew){.worker_id = node->worker_id,
                                             .run = WORLD_RUN,
                                             .iteration = t->lease->iteration,
                                             .epoch = t->lease->epoch,
                                             .activity = "hashing",
                                             .step = t->step,
                                             .steps = t->steps};
        call_with(sim, node, PROTO_TRAINER_RENEW, body, &body->worker_id, 3000, renewed);
    }
    sim_after(sim, sim->times.renew_ms, renew, node, life);
}

void sim_trainer_check_blob(struct sim *sim, struct sim_node *node,
                            const struct sp_digest *manifest)
{
    const struct trainer *t = node->state;
    uint64_t newest = t && t->lease ? sim->highest_epoch[t->lease->iteration] : 0;
    if (node->up && t->lease && t->lease->epoch == newest &&
        t->lease->iteration == sim->iteration && sp_digest_equal(&t->lease->manifest, manifest))
        sim_fail(sim, "the weights that %s trains were deleted", node->name);
}

void sim_trainer_start(struct sim *sim, struct sim_node *node)
{
    node->life++;
    node->up = true;
    node->greeting = false;
    node->worker_id = 0;
    node->instance = sim_draw(sim, UINT64_MAX);
    node->state = sim_alloc(sim, sizeof(struct trainer));
    memset(node->state, 0, sizeof(struct trainer));
    if (!node->disk) {
        node->disk = sim_alloc(sim, sizeof(struct snapshot));
        memset(node->disk, 0, sizeof(struct snapshot));
    }
    greet(sim, node);
    sim_after(sim, sim->times.renew_ms, renew, node, node->life);
}

/* A generator whose answers are hashes of what it was asked. It keeps several leases, answers items
 * one after the other, submits a few at a time, renews, and drops what it has lost. */
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/core_internal.h"
#include "tests/sim/sim.h"

#define HELD 4   /* leases at once */
#define SUBMIT 3 /* results of one submission */
#define ITEMS 8  /* of one request */

struct held {
    uint64_t id;
    const struct proto_lease_reply *lease; /* NULL: the slot is free */
    uint32_t answered, stored;
};

struct generator {
    struct held held[HELD];
    uint64_t requests;
    bool asking, working;
    uint64_t *lease_ids;
};

static void ask(struct sim *sim, struct sim_node *node);
static void work(struct sim *sim, struct sim_node *node);

static struct proto_u64s lease_list(struct sim *sim, const struct generator *g)
{
    uint64_t *ids = sim_alloc(sim, HELD * sizeof(*ids));
    uint32_t count = 0;
    for (int i = 0; i < HELD; i++) {
        if (g->held[i].lease)
            ids[count++] = g->held[i].id;
    }
    return (struct proto_u64s){.values = ids, .count = count};
}

static void go_on(struct sim *sim, struct sim_node *node)
{
    ask(sim, node);
    work(sim, node);
}

static struct proto_claim claim_of(struct sim *sim, const struct proto_lease_reply *lease)
{
    uint64_t *positions = sim_alloc(sim, lease->items_count * sizeof(*positions));
    for (uint32_t i = 0; i < lease->items_count; i++)
        positions[i] = lease->items[i].position;
    return (struct proto_claim){.lease_id = lease->lease_id,
                                .run = WORLD_RUN,
                                .iteration = lease->iteration,
                                .set = lease->items[0].set,
                                .checkpoint = lease->checkpoint,
                                .positions = {.values = positions, .count = lease->items_count}};
}

static void greet(struct sim *sim, struct sim_node *node)
{
    const struct generator *g = node->state;
    struct proto_hello held = {.leases = lease_list(sim, g)};
    struct proto_claim *claims = sim_alloc(sim, HELD * sizeof(*claims));
    for (int i = 0; i < HELD; i++) {
        if (g->held[i].lease)
            claims[held.claims_count++] = claim_of(sim, g->held[i].lease);
    }
    held.claims = claims;
    sim_hello(sim, node, &held, go_on);
}

static bool is_unknown(enum sp_err status, const char *text)
{
    return status == SP_ESTALE && strstr(text, "unknown worker");
}

/* ---- answers ---- */

static void answer(struct sim *sim, const struct sim_node *node,
                   const struct proto_lease_reply *lease, const struct proto_work_item *item,
                   struct proto_work_result *ret)
{
    uint64_t name[4] = {lease->seed, item->key_iteration, item->prompt, item->sample};
    if (sim->plant == SIM_PLANT_BIAS && node == &sim->generators[0])
        name[0]++;
    uint64_t hash = sim_hash(name, sizeof(name), item->set + 1);
    uint64_t weights = sim_hash(lease->checkpoint.bytes, SP_DIGEST_BYTES, hash);
    *ret = (struct proto_work_result){.set = item->set,
                                      .position = item->position,
                                      .prompt = item->prompt,
                                      .sample = item->sample};
    if (item->kind == PROTO_WORK_SAMPLE) {
        uint32_t count = 1 + (uint32_t)(weights % 6);
        int32_t *ids = sim_alloc(sim, count * sizeof(*ids));
        bool stops = weights % 4 != 0;
        for (uint32_t i = 0; i < count; i++)
            ids[i] = WORLD_END_ID + 1 +
                     (int32_t)(sim_hash(&i, sizeof(i), weights) % (WORLD_VOCAB - WORLD_END_ID - 1));
        if (stops)
            ids[count - 1] = WORLD_END_ID;
        ret->ids = (struct proto_ids){.ids = ids, .count = count};
        ret->finish = stops ? PROTO_FINISH_STOP : PROTO_FINISH_LENGTH;
        ret->logprob_ids = -(float)(weights % 1000) / 64;
    }
    ret->logprob_a = -(float)(weights / 1000 % 1000) / 64;
    if (item->answer_b.count > 0)
        ret->logprob_b =
            -(float)(sim_hash(item->answer_b.ids, item->answer_b.count * sizeof(int32_t), weights) %
                     1000) /
            64;
}

/* What the trainer must be given: scores under the opponent, whoever worked them out. */
static void expect(struct sim *sim, const struct proto_lease_reply *lease,
                   const struct proto_work_result *result, bool sampled)
{
    if (result->set != PROTO_SET_TRAIN)
        return;
    SP_ASSERT(lease->iteration < SIM_MAX_ITERATIONS && result->position < SIM_POSITIONS);
    sim->expected[lease->iteration][result->position] =
        (struct sim_expected){.known = true,
                              .checkpoint = lease->checkpoint,
                              .real = result->logprob_a,
                              .generated = sampled ? result->logprob_ids : result->logprob_b};
}

/* ---- submit ---- */

static void note_acks(struct sim *sim, const struct proto_submit *submit)
{
    size_t first = sim->ack_count;
    for (uint32_t i = 0; i < submit->results_count; i++) {
        const struct proto_work_result *result = &submit->results[i];
        if (sim->ack_count == sim->ack_capacity) {
            sim->ack_capacity = sim->ack_capacity ? sim->ack_capacity * 2 : 256;
            sim->acks = sp_xgrow(sim->acks, sim->ack_capacity, sizeof(*sim->acks));
        }
        sim->acks[sim->ack_count++] = (struct sim_ack){
            .iteration = submit->iteration,
            .set = result->set,
            .position = result->position,
            .answer = sim_hash(result->ids.ids, result->ids.count * sizeof(int32_t), 1),
        };
    }
    sim_check_acks(sim, first);
}

static struct held *find(struct generator *g, uint64_t id)
{
    for (int i = 0; i < HELD; i++) {
        if (g->held[i].lease && g->held[i].id == id)
            return &g->held[i];
    }
    return NULL;
}

static void send_submit(struct sim *sim, struct sim_node *node, struct proto_submit *submit);

static void submitted(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                      const void *body)
{
    const struct proto_submit_reply *reply = body;
    struct proto_submit *submit = call->body;
    struct generator *g = call->from->state;
    if (is_unknown(status, text)) {
        greet(sim, call->from);
        send_submit(sim, call->from, submit);
        return;
    }
    if (status != SP_OK)
        sim_fail(sim, "%s: submit: %s", call->from->name, text);
    else if (reply->refused == 0)
        note_acks(sim, submit);
    if (status == SP_OK)
        sim->said_stored[submit->iteration % SIM_MAX_ITERATIONS] += reply->stored;
    struct held *held = find(g, submit->lease_id);
    if (held && (held->stored += submit->results_count) >= held->lease->items_count)
        held->lease = NULL;
    ask(sim, call->from);
}

static void resend(struct sim *sim, void *context, uint64_t life)
{
    struct sim_call *old = context;
    if (old->from->life != life || sim_is_stopped(sim, old->from, resend, old, life))
        return;
    struct sim_call *call =
        sim_call(sim, old->from, PROTO_SUBMIT, old->body, 3000, submitted, NULL);
    call->worker_id = &((struct proto_submit *)old->body)->worker_id;
}

static void send_submit(struct sim *sim, struct sim_node *node, struct proto_submit *submit)
{
    struct sim_call *call = sim_alloc(sim, sizeof(*call));
    *call = (struct sim_call){.from = node, .life = node->life, .body = submit};
    submit->worker_id = node->worker_id;
    /* After another hello a moment passes before the results go out again. */
    sim_after(sim, 1 + (int64_t)sim_draw(sim, 300), resend, call, node->life);
}

static void worked(struct sim *sim, void *context, uint64_t life)
{
    struct sim_node *node = context;
    struct generator *g = node->state;
    if (node->life != life || sim_is_stopped(sim, node, worked, node, life))
        return;
    g->working = false;
    for (int i = 0; i < HELD; i++) {
        struct held *held = &g->held[i];
        if (!held->lease || held->answered == held->lease->items_count)
            continue;
        uint32_t count = SP_MIN((uint32_t)SUBMIT, held->lease->items_count - held->answered);
        struct proto_submit *submit = sim_alloc(sim, sizeof(*submit));
        *submit = (struct proto_submit){.run = WORLD_RUN,
                                        .iteration = held->lease->iteration,
                                        .lease_id = held->id,
                                        .checkpoint = held->lease->checkpoint,
                                        .results_count = count};
        submit->results = sim_alloc(sim, count * sizeof(*submit->results));
        for (uint32_t k = 0; k < count; k++) {
            const struct proto_work_item *item = &held->lease->items[held->answered + k];
            answer(sim, node, held->lease, item, &submit->results[k]);
            expect(sim, held->lease, &submit->results[k], item->kind == PROTO_WORK_SAMPLE);
        }
        held->answered += count;
        send_submit(sim, node, submit);
        break;
    }
    work(sim, node);
}

static void work(struct sim *sim, struct sim_node *node)
{
    struct generator *g = node->state;
    bool open = false;
    for (int i = 0; i < HELD; i++)
        open = open || (g->held[i].lease && g->held[i].answered < g->held[i].lease->items_count);
    if (g->working || !open)
        return;
    g->working = true;
    /* Now and then one takes very long. */
    int64_t ms = 20 + (int64_t)sim_draw(sim, sim_draw(sim, 12) == 0 ? 40000 : 1500);
    sim_after(sim, ms, worked, node, node->life);
}

/* ---- leases ---- */

static void leased(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                   const void *body)
{
    const struct proto_lease_reply *lease = body;
    struct sim_node *node = call->from;
    struct generator *g = node->state;
    g->asking = false;
    if (is_unknown(status, text)) {
        greet(sim, node);
        return;
    }
    if (status == SP_OK && lease->lease_id != 0 && !find(g, lease->lease_id)) {
        for (int i = 0; i < HELD; i++) {
            if (g->held[i].lease)
                continue;
            g->held[i] = (struct held){.id = lease->lease_id, .lease = lease};
            break;
        }
    }
    /* Anything else but a grant: what it was about to get is gone; it asks again. */
    ask(sim, node);
    work(sim, node);
}

static void ask(struct sim *sim, struct sim_node *node)
{
    struct generator *g = node->state;
    int free_slots = 0;
    for (int i = 0; i < HELD; i++)
        free_slots += !g->held[i].lease;
    if (g->asking || free_slots == 0 || node->worker_id == 0)
        return;
    g->asking = true;
    struct proto_lease *lease = sim_alloc(sim, sizeof(*lease));
    *lease = (struct proto_lease){.worker_id = node->worker_id,
                                  .request_id = ++g->requests,
                                  .run = WORLD_RUN,
                                  .max_items = ITEMS,
                                  .wait_ms = (uint32_t)sim->times.poll_ms};
    struct sim_call *call =
        sim_call(sim, node, PROTO_LEASE, lease, sim->times.poll_ms + 3000, leased, NULL);
    call->worker_id = &lease->worker_id;
}

static void renewed(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                    const void *body)
{
    const struct proto_renew_reply *reply = body;
    struct generator *g = call->from->state;
    if (is_unknown(status, text)) {
        greet(sim, call->from);
        return;
    }
    for (uint32_t i = 0; status == SP_OK && i < reply->lost.count; i++) {
        struct held *held = find(g, reply->lost.values[i]);
        if (held)
            held->lease = NULL;
    }
    ask(sim, call->from);
}

static void renew(struct sim *sim, void *context, uint64_t life)
{
    struct sim_node *node = context;
    if (node->life != life || sim_is_stopped(sim, node, renew, node, life))
        return;
    if (node->worker_id != 0) {
        struct proto_renew *body = sim_alloc(sim, sizeof(*body));
        *body = (struct proto_renew){.worker_id = node->worker_id, .activity = "hashing"};
        body->leases = lease_list(sim, node->state);
        sim_call(sim, node, PROTO_RENEW, body, 3000, renewed, NULL);
    }
    sim_after(sim, sim->times.renew_ms, renew, node, life);
}

void sim_generator_check_blob(struct sim *sim, struct sim_node *node,
                              const struct sp_digest *manifest)
{
    const struct generator *g = node->state;
    for (int i = 0; node->up && i < HELD; i++) {
        const struct proto_lease_reply *lease = g->held[i].lease;
        if (lease && core_lease(sim->core, lease->lease_id) &&
            sp_digest_equal(&lease->manifest, manifest))
            sim_fail(sim, "the weights of lease %llu of %s were deleted",
                     (unsigned long long)lease->lease_id, node->name);
    }
}

void sim_generator_start(struct sim *sim, struct sim_node *node)
{
    node->life++;
    node->up = true;
    node->greeting = false;
    node->worker_id = 0;
    node->instance = sim_draw(sim, UINT64_MAX);
    node->state = sim_alloc(sim, sizeof(struct generator));
    memset(node->state, 0, sizeof(struct generator));
    greet(sim, node);
    sim_after(sim, sim->times.renew_ms, renew, node, node->life);
}

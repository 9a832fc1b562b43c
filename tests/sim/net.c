/* The network between the nodes and the coordinator: it loses, doubles, delays and so reorders. */
#include <string.h>

#include "tests/sim/sim.h"

static bool cannot_send(const struct sim *sim, const struct sim_node *node)
{
    return sim->now < node->cut_until_ms || sim->now < node->mute_until_ms;
}

static bool cannot_hear(const struct sim *sim, const struct sim_node *node)
{
    return sim->now < node->cut_until_ms || sim->now < node->deaf_until_ms;
}

static bool peace(const struct sim *sim)
{
    return sim->now > sim->faults.until_ms;
}

static int64_t delay(struct sim *sim)
{
    int64_t longest = peace(sim) && sim->faults.delay_ms > 20 ? 20 : sim->faults.delay_ms;
    return 1 + (int64_t)sim_draw(sim, (uint64_t)longest);
}

static bool is_lost(struct sim *sim)
{
    if (sim_draw(sim, 1000) >= sim->faults.drop || peace(sim))
        return false;
    sim->result.lost_messages++;
    return true;
}

/* ---- requests ---- */

static void arrive(struct sim *sim, void *context, uint64_t life)
{
    struct sim_call *call = context;
    /* A request on its way arrives even when its sender has died meanwhile. */
    (void)life;
    if (sim->core && !cannot_send(sim, call->from))
        sim_coordinator_receive(sim, call);
}

static void send(struct sim *sim, struct sim_call *call);

static void try_again(struct sim *sim, void *context, uint64_t tries)
{
    struct sim_call *call = context;
    if (call->finished || call->from->life != call->life || call->tries != tries ||
        sim_is_stopped(sim, call->from, try_again, call, tries))
        return;
    send(sim, call);
}

static void send(struct sim *sim, struct sim_call *call)
{
    call->tries++;
    if (call->worker_id)
        *call->worker_id = call->from->worker_id;
    if (!cannot_send(sim, call->from)) {
        if (!is_lost(sim))
            sim_after(sim, delay(sim), arrive, call, call->life);
        if (sim_draw(sim, 1000) < sim->faults.duplicate && !peace(sim))
            sim_after(sim, delay(sim), arrive, call, call->life);
    }
    sim_after(sim, call->timeout_ms, try_again, call, call->tries);
}

struct sim_call *sim_call(struct sim *sim, struct sim_node *from, enum proto_type type, void *body,
                          int64_t timeout_ms,
                          void (*done)(struct sim *, struct sim_call *, enum sp_err, const char *,
                                       const void *),
                          void *context)
{
    struct sim_call *call = sim_alloc(sim, sizeof(*call));
    *call = (struct sim_call){.from = from,
                              .life = from->life,
                              .type = type,
                              .body = body,
                              .timeout_ms = timeout_ms,
                              .done = done,
                              .context = context};
    send(sim, call);
    return call;
}

/* ---- replies ---- */

struct answer {
    struct sim_call *call;
    enum sp_err status;
    uint32_t retry_after_ms;
    char text[256];
    const void *reply;
};

static void answer_arrives(struct sim *sim, void *context, uint64_t value)
{
    struct answer *answer = context;
    struct sim_call *call = answer->call;
    if (call->finished || call->from->life != call->life || cannot_hear(sim, call->from) ||
        sim_is_stopped(sim, call->from, answer_arrives, answer, value))
        return;
    if (answer->status == SP_EUNAVAIL) {
        int64_t wait = answer->retry_after_ms + 1 + (int64_t)sim_draw(sim, 100);
        sim_after(sim, wait, try_again, call, call->tries);
        return;
    }
    call->finished = true;
    call->done(sim, call, answer->status, answer->text, answer->reply);
}

void sim_answer(struct sim *sim, struct sim_call *call, enum sp_err status, uint32_t retry_after_ms,
                const char *text, const void *reply)
{
    if (cannot_hear(sim, call->from) || is_lost(sim))
        return;
    struct answer *answer = sim_alloc(sim, sizeof(*answer));
    answer->call = call;
    answer->status = status;
    answer->retry_after_ms = retry_after_ms;
    answer->reply = reply;
    strncpy(answer->text, text ? text : "", sizeof(answer->text) - 1);
    sim_after(sim, delay(sim), answer_arrives, answer, 0);
}

/* ---- hello ---- */

struct greeting {
    void (*then)(struct sim *, struct sim_node *);
};

static void greeted(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                    const void *reply)
{
    const struct proto_hello_reply *hello = reply;
    struct greeting *greeting = call->context;
    call->from->greeting = false;
    if (status != SP_OK) {
        sim_fail(sim, "%s: hello: %s", call->from->name, text);
        return;
    }
    call->from->worker_id = hello->worker_id;
    greeting->then(sim, call->from);
}

void sim_hello(struct sim *sim, struct sim_node *node, const struct proto_hello *held,
               void (*then)(struct sim *, struct sim_node *))
{
    if (node->greeting)
        return;
    node->greeting = true;
    struct proto_hello *hello = sim_alloc(sim, sizeof(*hello));
    *hello = (struct proto_hello){.role = node->role,
                                  .name = node->name,
                                  .instance = node->instance,
                                  .host = "host",
                                  .device = "none",
                                  .version = "test",
                                  .numerics_class = "cpu class",
                                  .slots = 4};
    if (held) {
        hello->leases = held->leases;
        hello->claims = held->claims;
        hello->claims_count = held->claims_count;
    }
    struct greeting *greeting = sim_alloc(sim, sizeof(*greeting));
    greeting->then = then;
    sim_call(sim, node, PROTO_HELLO, hello, 3000, greeted, greeting);
}

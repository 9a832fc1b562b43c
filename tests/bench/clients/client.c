#include "tests/bench/clients/client.h"

#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"

#define MS 1000000ll
#define BACKOFF_MIN_MS 200 /* as proto/client.c has them */
#define BACKOFF_MAX_MS 10000
#define ANSWER_NS (30000 * MS)
#define DRIBBLE_BYTES 1024

static uint64_t draw(struct clients *all)
{
    all->rng ^= all->rng << 13;
    all->rng ^= all->rng >> 7;
    all->rng ^= all->rng << 17;
    return all->rng;
}

/* Full jitter. */
static int64_t backoff_ns(struct clients *all, uint32_t tries, uint32_t retry_after_ms)
{
    int64_t ceiling = SP_MIN((int64_t)BACKOFF_MIN_MS << SP_MIN(tries, 10u), BACKOFF_MAX_MS);
    return (retry_after_ms + (int64_t)(draw(all) % (uint64_t)(ceiling + 1))) * MS;
}

static bool is_measured(const struct client *client)
{
    return client->kind == CLIENT_WORKS;
}

/* ---- requests ---- */

static void put(struct client *client, enum client_ask ask, enum proto_type type, const void *body)
{
    struct sp_buf out = SP_BUF_INIT;
    const struct proto_envelope envelope = {.version = PROTO_VERSION,
                                            .type = type,
                                            .request_id = draw(client->all) >> 1,
                                            .token = client->all->options.token};
    proto_encode(&envelope, body, &out);
    memcpy(conn_message(&client->conn, (uint32_t)ask, out.length), out.data, out.length);
    sp_buf_deinit(&out);
}

static uint32_t held(const struct client *client, uint64_t ret[2])
{
    uint32_t n = 0;
    if (client->now.count > 0 && !client->now.gone)
        ret[n++] = client->now.id;
    if (client->next.count > 0 && !client->next.gone)
        ret[n++] = client->next.id;
    return n;
}

/* What the leases held are about, for a coordinator that was started again. */
static uint32_t claim(const struct client *client, uint64_t positions[2][CLIENT_ITEMS],
                      struct proto_claim ret[2])
{
    const struct client_lease *leases[2] = {&client->now, &client->next};
    uint32_t n = 0;
    for (int i = 0; i < 2; i++) {
        const struct client_lease *lease = leases[i];
        if (lease->count == 0 || lease->gone)
            continue;
        for (uint32_t k = 0; k < lease->count; k++)
            positions[i][k] = lease->keys[k].position;
        ret[n++] = (struct proto_claim){
            .lease_id = lease->id,
            .run = lease->run,
            .iteration = lease->iteration,
            .set = PROTO_SET_TRAIN,
            .checkpoint = lease->checkpoint,
            .positions = {.values = positions[i], .count = lease->count},
        };
    }
    return n;
}

static void send_hello(struct client *client)
{
    char name[64];
    uint64_t leases[2];
    uint64_t positions[2][CLIENT_ITEMS];
    struct proto_claim claims[2];
    snprintf(name, sizeof(name), "client-%u", client->number);
    struct proto_hello hello = {
        .role = PROTO_ROLE_GENERATOR,
        .name = name,
        .instance = client->instance,
        .host = "localhost",
        .device = "simulated",
        .version = SPIN_VERSION,
        .numerics_class = client->kind == CLIENT_IDLES ? "none r1" : "cpu r1",
        .slots = client->all->options.lease_items,
        .leases = {.values = leases, .count = held(client, leases)},
        .claims = claims,
        .claims_count = claim(client, positions, claims),
    };
    put(client, ASK_HELLO, PROTO_HELLO, &hello);
}

static void send_lease(struct client *client)
{
    struct client_request *ask = &client->asks[ASK_LEASE];
    if (ask->id == 0)
        ask->id = draw(client->all) >> 1;
    struct proto_lease lease = {
        .worker_id = client->worker_id,
        .request_id = ask->id,
        .run = "",
        .max_items = client->all->options.lease_items,
        .wait_ms = (uint32_t)client->poll_ms,
    };
    put(client, ASK_LEASE, PROTO_LEASE, &lease);
}

static void send_renew(struct client *client)
{
    uint64_t leases[2];
    struct proto_renew renew = {
        .worker_id = client->worker_id,
        .leases = {.values = leases, .count = held(client, leases)},
        .tokens_generated = client->all->acknowledged,
        .activity = "sampling",
    };
    put(client, ASK_RENEW, PROTO_RENEW, &renew);
}

static void send_submit(struct client *client)
{
    struct clients *all = client->all;
    const struct client_lease *lease = &client->now;
    if (client->submitted == 0)
        client->submitted = SP_MIN(lease->done - lease->sent, all->options.submit_items);
    const struct answers_head head = {
        .request_id = draw(all) >> 1,
        .worker_id = client->worker_id,
        .lease_id = lease->id,
        .run = lease->run,
        .iteration = lease->iteration,
        .checkpoint = lease->checkpoint,
    };
    size_t bytes = answers_begin(all->answers, &head, client->submitted);
    uint8_t *to = conn_message(&client->conn, ASK_SUBMIT, bytes);
    answers_write(all->answers, lease->keys + lease->sent, client->submitted, to);
    all->submissions++;
}

static void send_due(struct client *client, int64_t now_ns)
{
    static void (*const send[ASK_KINDS])(struct client *) = {send_hello, send_lease, send_submit,
                                                             send_renew};
    bool any = false;
    if (client->conn.state != CONN_READY)
        return;
    for (int i = 0; i < ASK_KINDS; i++) {
        struct client_request *ask = &client->asks[i];
        if (!ask->wanted || ask->out || now_ns < ask->not_before_ns ||
            (i != ASK_HELLO && client->asks[ASK_HELLO].wanted))
            continue;
        send[i](client);
        ask->out = any = true;
        ask->sent_ns = now_ns;
    }
    if (any)
        conn_send(&client->conn);
}

static void want(struct client *client, enum client_ask kind)
{
    if (!client->asks[kind].wanted)
        client->asks[kind] = (struct client_request){.wanted = true};
}

/* ---- replies ---- */

static void take_lease(struct client *client, const struct proto_lease_reply *reply)
{
    struct client_lease *lease = client->now.count == 0 ? &client->now : &client->next;
    if (reply->lease_id == 0)
        return;
    if (reply->items_count > CLIENT_ITEMS || lease->count > 0) {
        stats_error(&client->all->stats, "lease: %u items", reply->items_count);
        return;
    }
    *lease = (struct client_lease){.id = reply->lease_id,
                                   .iteration = reply->iteration,
                                   .count = reply->items_count,
                                   .checkpoint = reply->checkpoint};
    snprintf(lease->run, sizeof(lease->run), "%s", reply->run);
    for (uint32_t i = 0; i < lease->count; i++) {
        const struct proto_work_item *item = &reply->items[i];
        if (item->set != PROTO_SET_TRAIN || item->kind != PROTO_WORK_SAMPLE)
            stats_error(&client->all->stats, "lease: an item that is no pair");
        lease->keys[i] = (struct answers_key){
            .position = item->position, .prompt = item->prompt, .sample = item->sample};
    }
    client->holds = true;
}

/* What is done of a lease that is gone is handed in; the rest is dropped. */
static void drop_leases(struct client *client, struct proto_u64s lost)
{
    for (uint32_t i = 0; i < lost.count; i++) {
        struct client_lease *leases[] = {&client->now, &client->next};
        for (int k = 0; k < 2; k++) {
            if (leases[k]->count == 0 || leases[k]->id != lost.values[i])
                continue;
            leases[k]->gone = true;
            leases[k]->count = leases[k]->done;
        }
    }
    if (client->now.count > 0 && client->now.sent == client->now.count) {
        client->now = client->next;
        client->next.count = 0;
    }
}

static void take_submit(struct client *client, const struct proto_submit_reply *reply)
{
    struct clients *all = client->all;
    struct client_lease *lease = &client->now;
    uint32_t count = client->submitted;
    client->submitted = 0;
    all->acknowledged += reply->stored;
    all->duplicates += reply->duplicates;
    all->refused += reply->refused;
    if (reply->stored + reply->duplicates + reply->refused != count)
        stats_error(&all->stats, "submit: not every result is accounted for");
    if (reply->refused > 0)
        stats_error(&all->stats, "submit: results were refused");
    lease->sent += count;
    lease->oldest_ns = sp_now_ns();
    if (lease->sent < lease->count)
        return;
    *lease = client->next;
    client->next.count = 0;
}

static void take_hello(struct client *client, const struct proto_hello_reply *reply, int64_t now_ns)
{
    client->worker_id = reply->worker_id;
    client->renew_every_ns = reply->renew_ms * MS;
    client->poll_ms = reply->poll_ms;
    client->all->hellos++;
    if (!client->said_hello) /* spread, as those of workers that were not started together */
        client->renew_ns = now_ns + (int64_t)(draw(client->all) % (uint64_t)client->renew_every_ns);
    client->said_hello = true;
    drop_leases(client, reply->leases_lost);
}

static void take_body(struct client *client, enum client_ask kind, const void *body, int64_t now_ns)
{
    static const enum stats_kind measured[ASK_KINDS] = {STATS_HELLO, STATS_LEASE, STATS_SUBMIT,
                                                        STATS_RENEW};
    struct client_request *ask = &client->asks[kind];
    int64_t took_ns = now_ns - ask->sent_ns;
    bool waited = kind == ASK_LEASE && ((const struct proto_lease_reply *)body)->lease_id == 0;
    if ((is_measured(client) || (client->kind == CLIENT_IDLES && kind == ASK_RENEW)) && !waited)
        stats_time(&client->all->stats, measured[kind], took_ns);
    *ask = (struct client_request){0};
    if (kind == ASK_HELLO)
        take_hello(client, body, now_ns);
    else if (kind == ASK_LEASE)
        take_lease(client, body);
    else if (kind == ASK_SUBMIT)
        take_submit(client, body);
    else
        drop_leases(client, ((const struct proto_renew_reply *)body)->lost);
}

static void on_reply(struct conn *conn, uint32_t number, const void *data, size_t length)
{
    static const enum proto_type expected[ASK_KINDS] = {PROTO_HELLO_REPLY, PROTO_LEASE_REPLY,
                                                        PROTO_SUBMIT_REPLY, PROTO_RENEW_REPLY};
    struct client *client = conn->owner;
    struct clients *all = client->all;
    struct client_request *ask = &client->asks[number % ASK_KINDS];
    struct proto_envelope envelope;
    struct sp_error err = {0};
    void *body = NULL;
    int64_t now_ns = sp_now_ns();
    sp_arena_reset(all->arena);
    if (proto_decode(data, length, all->arena, &envelope, &body, &err) != SP_OK) {
        stats_error(&all->stats, "malformed reply: %s", err.text);
        return;
    }
    if (number >= ASK_KINDS || !ask->out) {
        stats_error(&all->stats, "a reply that nobody waits for");
    } else if (envelope.status == SP_OK && envelope.type == expected[number]) {
        take_body(client, (enum client_ask)number, body, now_ns);
    } else if (envelope.status == SP_EUNAVAIL) {
        all->stats.retries += is_measured(client);
        ask->out = false;
        ask->not_before_ns = now_ns + backoff_ns(all, ask->tries++, envelope.retry_after_ms);
    } else if (envelope.status == SP_ESTALE && number != ASK_HELLO) {
        ask->out = false; /* it says hello and asks again */
        want(client, ASK_HELLO);
    } else {
        stats_error(&all->stats, "%s: %s", proto_type_name(envelope.type), envelope.text);
        *ask = (struct client_request){0};
        if (number == ASK_SUBMIT)
            client->now.count = client->submitted = 0;
    }
    send_due(client, now_ns);
}

static void on_ready(struct conn *conn)
{
    struct client *client = conn->owner;
    client->dial_tries = 0;
    if (!client->said_hello)
        want(client, ASK_HELLO);
    send_due(client, sp_now_ns());
}

static void on_lost(struct conn *conn)
{
    struct client *client = conn->owner;
    client->all->lost_connections++;
    client->dial_ns = sp_now_ns() + backoff_ns(client->all, client->dial_tries++, 0);
    for (int i = 0; i < ASK_KINDS; i++) {
        client->all->stats.retries += client->asks[i].out && is_measured(client);
        client->asks[i].out = false;
    }
}

void client_init(struct client *client, struct clients *all, enum client_kind kind, uint32_t number,
                 int64_t first_dial_ns)
{
    *client = (struct client){.all = all, .kind = kind, .number = number, .dial_ns = first_dial_ns};
    conn_init(&client->conn, &all->net, client);
    client->conn.on_ready = on_ready;
    client->conn.on_reply = on_reply;
    client->conn.on_lost = on_lost;
    client->conn.dribble = kind == CLIENT_SLOW ? DRIBBLE_BYTES : 0;
    client->conn.mute = kind == CLIENT_MUTE;
    client->instance = draw(all);
}

/* ---- work ---- */

static void sample(struct client *client, int64_t now_ns)
{
    struct client_lease *lease = &client->now;
    double period = client->all->options.pair_period_ns;
    uint32_t before = lease->done;
    if (lease->done == lease->count)
        return;
    if (period <= 0) {
        lease->done = lease->count;
    } else {
        if (client->next_pair_ns == 0)
            client->next_pair_ns = now_ns + (int64_t)(draw(client->all) % (uint64_t)(2 * period));
        while (lease->done < lease->count && client->next_pair_ns <= now_ns) {
            lease->done++;
            client->next_pair_ns += (int64_t)period;
        }
    }
    if (before == lease->sent && lease->done > before)
        lease->oldest_ns = now_ns;
}

static void work(struct client *client, int64_t now_ns)
{
    const struct clients_options *options = &client->all->options;
    const struct client_lease *lease = &client->now;
    sample(client, now_ns);
    uint32_t finished = lease->done - lease->sent;
    bool full = finished >= options->submit_items || lease->done == lease->count;
    if (finished > 0 && (full || now_ns - lease->oldest_ns >= options->submit_ms * MS))
        want(client, ASK_SUBMIT);
    if (client->next.count == 0 && lease->count - lease->done <= lease->count / 2)
        want(client, ASK_LEASE);
}

static void check_answers(struct client *client, int64_t now_ns)
{
    for (int i = 0; i < ASK_KINDS; i++) {
        int64_t limit = ANSWER_NS + (i == ASK_LEASE ? client->poll_ms * MS : 0);
        if (!client->asks[i].out || now_ns - client->asks[i].sent_ns < limit)
            continue;
        stats_error(&client->all->stats, "no answer within 30 s");
        conn_close(&client->conn);
        on_lost(&client->conn);
        return;
    }
}

void client_wake(struct client *client, int64_t now_ns)
{
    if (client->conn.state == CONN_CLOSED && now_ns >= client->dial_ns && !client->all->stopping)
        conn_dial(&client->conn);
    if (client->conn.dribble)
        conn_tick(&client->conn);
    if (client->conn.state != CONN_READY)
        return;
    if (client->kind == CLIENT_SILENT && client->holds)
        return;
    if (client->said_hello && !client->all->stopping) {
        if (now_ns >= client->renew_ns && client->kind != CLIENT_SILENT) {
            want(client, ASK_RENEW);
            client->renew_ns = now_ns + client->renew_every_ns;
        }
        bool works = client->kind == CLIENT_WORKS || client->kind == CLIENT_SLOW;
        if (works && client->all->started)
            work(client, now_ns);
        else if (!works)
            want(client, ASK_LEASE);
    }
    send_due(client, now_ns);
    if (client->kind != CLIENT_SLOW)
        check_answers(client, now_ns);
}

bool client_is_quiet(const struct client *client)
{
    return client->kind != CLIENT_WORKS || !client->asks[ASK_SUBMIT].wanted;
}

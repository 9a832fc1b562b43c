/* Where workers get chunks of weights from: givers, their tickets, and the swarm's answers. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/core_internal.h"
#include "proto/ticket.h"

#define ADDRESS_MAX 255
#define HELD_MAX 16 /* checkpoints that a hello may name */
#define TRIES 16    /* requests that wait, looked at in one step */

struct coord_swarms *core_swarms_new(const struct coord_options *options)
{
    struct coord_swarm_times times = {.silent_ms = options->times.worker_gone_ms,
                                      .transfer_ms = options->times.chunk_ms,
                                      .patience_ms = options->times.patience_ms};
    return coord_swarms_new(&times, options->instance);
}

/* ---- givers ---- */

/* Requests that no peer has encoded, in the simulation, leave texts out. */
static const char *text_of(const char *text)
{
    return text ? text : "";
}

bool core_sources_hello_is_good(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_hello *hello = event->body;
    const char *serve = text_of(hello->serve);
    if (strlen(serve) > ADDRESS_MAX || strlen(text_of(hello->serve_name)) > ADDRESS_MAX)
        core_reply_error(core, event->handle, SP_ELIMIT, 0,
                         "hello: serve or serve_name is too long");
    else if (serve[0] && strncmp(serve, "tls+tcp://", 10) != 0 && strncmp(serve, "ipc://", 6) != 0)
        core_reply_error(core, event->handle, SP_EINVAL, 0,
                         "hello: serve: chunks are given on tls+tcp:// (or ipc://) only");
    else if (hello->held_count > HELD_MAX)
        core_reply_error(core, event->handle, SP_ELIMIT, 0, "hello: more than %d checkpoints",
                         HELD_MAX);
    else
        return true;
    return false;
}

void core_sources_hello(struct coord_core *core, struct coord_worker *worker,
                        const struct proto_hello *hello, struct coord_action *action)
{
    struct proto_hello_reply *reply = &action->body.hello;
    bool gives = text_of(hello->serve)[0] && hello->serve_slots > 0 &&
                 worker->role == PROTO_ROLE_GENERATOR && !core_is_held(core, worker);
    free(worker->serve);
    free(worker->serve_name);
    worker->serve = sp_xstrdup(text_of(hello->serve));
    worker->serve_name = sp_xstrdup(text_of(hello->serve_name));
    coord_swarms_giver(core->sources.swarms, worker->id, gives ? hello->serve_slots : 0,
                       core->now_ms);
    for (uint32_t i = 0; gives && i < hello->held_count; i++)
        coord_swarms_report(core->sources.swarms, worker->id, &hello->held[i].manifest,
                            hello->held[i].chunks, NULL, SWARM_GOT, core->now_ms);
    reply->sources = true;
    reply->clock_ms = (uint64_t)core->now_ms;
    if (!gives)
        return;
    action->key = sp_xalloc(sizeof(*action->key));
    proto_ticket_key(&core->options.ticket_secret, worker->id, action->key);
    reply->serve_key = (struct proto_bytes){.data = action->key->bytes, .length = SP_DIGEST_BYTES};
    core->sources.changed = true;
}

void core_sources_drop(struct coord_core *core, const char *worker)
{
    for (uint32_t i = 0; i < core->worker_count; i++) {
        if (strcmp(core->workers[i]->name, worker) == 0)
            coord_swarms_forget(core->sources.swarms, core->workers[i]->id);
    }
}

/* ---- who asks ---- */

/* A generator is told where to find the weights of its leases, and no others. */
static bool may_fetch(const struct coord_core *core, const struct coord_worker *worker,
                      const struct sp_digest *manifest)
{
    if (worker->role == PROTO_ROLE_TRAINER)
        return true;
    for (uint32_t i = 0; i < core->lease_count; i++) {
        const struct coord_lease *lease = core->leases[i];
        if (lease->worker && strcmp(lease->worker->token_id, worker->token_id) == 0 &&
            sp_digest_equal(&lease->manifest, manifest))
            return true;
    }
    return false;
}

static void reply_fetch(struct coord_core *core, uint64_t handle, const struct sp_digest *manifest,
                        const struct coord_swarm_answer *answer)
{
    struct coord_worker *source = core_worker(core, answer->source);
    struct coord_action *action = core_reply(core, handle, PROTO_BLOB_SOURCES_REPLY);
    struct proto_blob_sources_reply *reply = &action->body.blob_sources;
    *reply = (struct proto_blob_sources_reply){.index = answer->index};
    if (!source) /* the coordinator itself */
        return;
    struct sp_digest key;
    proto_ticket_key(&core->options.ticket_secret, source->id, &key);
    reply->source = source->id;
    reply->expires_ms = (uint64_t)(core->now_ms + core->options.times.ticket_ms);
    action->key = sp_xalloc(sizeof(*action->key));
    proto_ticket_make(&key, manifest, reply->expires_ms, action->key);
    reply->ticket = (struct proto_bytes){.data = action->key->bytes, .length = SP_DIGEST_BYTES};
    /* Copies: another hello of the source may come before the reply is sent. */
    action->text = sp_xstrdup(source->serve);
    action->name = sp_xstrdup(source->serve_name);
    reply->url = action->text;
    reply->name = action->name;
}

/* true: answered */
static bool try_answer(struct coord_core *core, const struct coord_parked *parked)
{
    struct coord_swarm_answer answer;
    coord_swarms_ask(core->sources.swarms, parked->worker_id, &parked->manifest, parked->count,
                     core->now_ms, &answer);
    if (answer.what == SWARM_WAIT)
        return false;
    if (answer.what == SWARM_FETCH) {
        reply_fetch(core, parked->handle, &parked->manifest, &answer);
        return true;
    }
    struct coord_action *action = core_reply(core, parked->handle, PROTO_BLOB_SOURCES_REPLY);
    action->body.blob_sources = (struct proto_blob_sources_reply){.alone = true};
    return true;
}

void core_reply_no_source(struct coord_core *core, uint64_t handle)
{
    struct coord_action *action = core_reply(core, handle, PROTO_BLOB_SOURCES_REPLY);
    action->body.blob_sources = (struct proto_blob_sources_reply){.wait = true};
}

void core_serve_sources(struct coord_core *core)
{
    uint32_t tries = 0;
    core->sources.changed = false;
    for (uint32_t n = core->parked_count; n > 0 && tries < TRIES && core->parked_count > 0; n--) {
        uint32_t at = core->sources.turn++ % core->parked_count;
        if (core->parked[at].kind != PARKED_SOURCES)
            continue;
        struct coord_parked parked = core->parked[at];
        tries++;
        if (try_answer(core, &parked))
            core_unpark(core, at);
    }
}

/* A worker asks one thing at a time: what it asked before has lost its connection. */
static void drop_older(struct coord_core *core, uint64_t worker_id)
{
    for (uint32_t i = 0; i < core->parked_count; i++) {
        if (core->parked[i].kind == PARKED_SOURCES && core->parked[i].worker_id == worker_id) {
            core_reply_no_source(core, core->parked[i].handle);
            core_unpark(core, i);
            return;
        }
    }
}

static struct coord_worker *asker(struct coord_core *core, const struct coord_event *event,
                                  uint64_t id)
{
    enum proto_role role =
        event->who.role == PROTO_ROLE_TRAINER ? PROTO_ROLE_TRAINER : PROTO_ROLE_GENERATOR;
    return core_asker(core, event, id, role);
}

void core_blob_sources(struct coord_core *core, const struct coord_event *event)
{
    const struct proto_blob_sources *ask = event->body;
    struct coord_worker *worker = asker(core, event, ask->worker_id);
    if (!worker)
        return;
    if (ask->have.length != (ask->chunks + 7) / 8 || ask->chunks > COORD_SWARM_CHUNKS ||
        ask->outcome >= SWARM_OUTCOMES) {
        core_reply_error(core, event->handle, SP_EINVAL, 0,
                         "blob_sources: chunks, have and outcome do not fit each other");
        return;
    }
    if (!ask->last && !may_fetch(core, worker, &ask->manifest)) {
        core_reply_error(core, event->handle, SP_ESTALE, 0,
                         "blob_sources: no lease of this token needs it");
        return;
    }
    drop_older(core, worker->id);
    coord_swarms_report(core->sources.swarms, worker->id, &ask->manifest, ask->chunks,
                        ask->have.data, (enum coord_outcome)ask->outcome, core->now_ms);
    /* Who waits comes before who has just been served. */
    core_serve_sources(core);
    struct coord_parked parked = {.kind = PARKED_SOURCES,
                                  .handle = event->handle,
                                  .worker_id = worker->id,
                                  .manifest = ask->manifest,
                                  .count = ask->chunks};
    if (ask->last) {
        core_reply_no_source(core, event->handle);
        return;
    }
    if (try_answer(core, &parked))
        return;
    struct coord_parked *place = core_park(core, PARKED_SOURCES, event->handle, ask->wait_ms);
    if (!place)
        return;
    place->worker_id = worker->id;
    place->manifest = ask->manifest;
    place->count = ask->chunks;
}

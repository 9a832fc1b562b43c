#include "tests/unit/coordinator/core_fixture.h"

#include "coordinator/judge.h"
#include "coordinator/replies.h"

#define ARENA_BYTES ((size_t)1 << 28)

static void step(struct cf *fx, const struct coord_event *event);

static void commit_one(struct cf *fx, const struct coord_write *write)
{
    struct coord_event event = {.kind = COORD_EV_WRITTEN, .write_id = write->id};
    store_begin(fx->world.store);
    world_check(&fx->world,
                coord_write_apply(fx->world.store, write, fx->now, fx->arena, &event.result,
                                  &fx->world.err),
                "write");
    world_check(&fx->world, store_commit(fx->world.store, &fx->world.err), "commit");
    step(fx, &event);
}

static void keep(struct cf *fx, uint64_t handle, enum sp_err status, const char *text,
                 const void *body)
{
    struct cf_reply *reply = &fx->replies[handle % CF_REQUESTS];
    ck_assert_msg(!reply->there, "request %llu is answered twice", (unsigned long long)handle);
    reply->there = true;
    reply->status = status;
    reply->body = body;
    snprintf(reply->text, sizeof(reply->text), "%s", text ? text : "");
}

static void *copy(struct cf *fx, const void *data, size_t bytes)
{
    void *memory = sp_arena_alloc(fx->arena, bytes ? bytes : 1, 1);
    ck_assert_ptr_nonnull(memory);
    if (bytes > 0)
        memcpy(memory, data, bytes);
    return memory;
}

static void keep_reply(struct cf *fx, const struct coord_action *action)
{
    union coord_reply_body *body = copy(fx, &action->body, sizeof(action->body));
    struct proto_u64s *list = action->type == PROTO_HELLO_REPLY ? &body->hello.leases_lost
                              : action->type == PROTO_RENEW_REPLY ? &body->renew.lost
                                                                  : NULL;
    if (list)
        list->values = copy(fx, list->values, list->count * sizeof(*list->values));
    if (action->key) {
        struct proto_bytes *key = action->type == PROTO_HELLO_REPLY ? &body->hello.serve_key
                                                                    : &body->blob_sources.ticket;
        key->data = copy(fx, action->key, sizeof(*action->key));
    }
    if (action->type == PROTO_BLOB_SOURCES_REPLY && body->blob_sources.source != 0) {
        body->blob_sources.url = sp_arena_strdup(fx->arena, action->text);
        body->blob_sources.name = sp_arena_strdup(fx->arena, action->name);
    }
    keep(fx, action->handle, SP_OK, NULL, body);
    if (action->type == PROTO_ADMIN_REPLY)
        fx->replies[action->handle % CF_REQUESTS].json = sp_arena_strdup(fx->arena, action->text);
}

static void keep_read(struct cf *fx, const struct coord_action *action)
{
    enum sp_err rc;
    const void *body;
    if (action->kind == COORD_DO_GRANT) {
        struct proto_lease_reply *lease = copy(fx, &(struct proto_lease_reply){0}, sizeof(*lease));
        rc = coord_build_grant(fx->world.store, action, fx->arena, lease, &fx->world.err);
        body = lease;
    } else {
        struct proto_pairs_fetch_reply *pairs =
            copy(fx, &(struct proto_pairs_fetch_reply){0}, sizeof(*pairs));
        rc = coord_build_pairs(fx->world.store, action, fx->arena, pairs, &fx->world.err);
        body = pairs;
    }
    world_check(&fx->world, rc, "read");
    keep(fx, action->handle, SP_OK, NULL, body);
}

static void outside(struct cf *fx, const struct coord_action *action)
{
    struct coord_event event = {
        .run = WORLD_RUN, .iteration = action->iteration, .attempt = action->attempt};
    struct coord_judgement judgement = {0};
    uint32_t *order = NULL;
    if (action->kind == COORD_DO_VERIFY) {
        event.kind = COORD_EV_VERIFIED;
        event.status = fx->verify_fails ? SP_ECORRUPT : SP_OK;
        event.text = "a chunk is damaged";
        event.blobs = &action->manifest;
        event.blob_count = 1;
    } else if (action->kind == COORD_DO_JUDGE) {
        event.kind = COORD_EV_JUDGED;
        event.status = coord_judge(fx->world.store, NULL, action->run, action->iteration,
                                   &judgement, &fx->world.err);
        event.text = event.status ? fx->world.err.text : judgement.text;
        event.verdict = judgement.verdict;
        event.accepted = true;
        event.pairs_sha256 = judgement.pairs_sha256;
    } else {
        event.kind = COORD_EV_ORDERED;
        event.gap = action->gap;
        event.pass = action->pass;
        if (event.gap)
            event.status = coord_gap_order(fx->world.store, action->run, action->iteration, &order,
                                           &fx->world.err);
        else
            order = coord_pass_order(action->run, action->iteration, action->pass);
        event.order = order;
    }
    step(fx, &event);
    free(judgement.text);
    free(judgement.verdict);
    free(order);
}

static void execute(struct cf *fx, struct coord_action *action)
{
    switch (action->kind) {
    case COORD_DO_REPLY:
        keep_reply(fx, action);
        return;
    case COORD_DO_REPLY_ERROR:
        keep(fx, action->handle, action->status, action->text, NULL);
        fx->replies[action->handle % CF_REQUESTS].retry_after_ms = action->retry_after_ms;
        return;
    case COORD_DO_WRITE:
        if (fx->hold)
            fx->held[fx->held_count++] = action->write;
        else
            commit_one(fx, action->write);
        return;
    case COORD_DO_GRANT:
    case COORD_DO_PAIRS:
        keep_read(fx, action);
        return;
    case COORD_DO_MISSING:
        keep(fx, action->handle, SP_OK, NULL,
             copy(fx, &(struct proto_publish_begin_reply){0},
                  sizeof(struct proto_publish_begin_reply)));
        return;
    case COORD_DO_VERIFY:
    case COORD_DO_JUDGE:
    case COORD_DO_ORDER:
        if (fx->hold_work && (action->kind != COORD_DO_ORDER || action->gap)) {
            fx->waiting = *action;
            fx->is_waiting = true;
        } else {
            outside(fx, action);
        }
        return;
    case COORD_DO_EVALUATE:
        step(fx, &(struct coord_event){.kind = COORD_EV_EVALUATED, .run = action->run->name});
        fx->evaluations++;
        return;
    case COORD_DO_COLLECT:
        free(fx->roots);
        fx->roots = action->roots;
        fx->root_count = action->root_count;
        fx->retain = action->retain;
        fx->collections++;
        action->roots = NULL;
        return;
    case COORD_DO_LOG:
        return;
    }
}

/* Actions of one step may lead to further steps: each has its own list. */
static void step(struct cf *fx, const struct coord_event *event)
{
    struct coord_actions actions = {0};
    coord_step(fx->core, event, fx->now, &actions);
    for (size_t i = 0; i < actions.count; i++)
        execute(fx, &actions.items[i]);
    coord_actions_deinit(&actions);
}

void cf_collected(struct cf *fx)
{
    step(fx, &(struct coord_event){.kind = COORD_EV_COLLECTED});
}

void cf_evaluated(struct cf *fx, enum sp_err status)
{
    step(fx, &(struct coord_event){
                 .kind = COORD_EV_EVALUATED, .run = WORLD_RUN, .status = status, .text = "a test"});
}

void cf_finish(struct cf *fx)
{
    fx->hold_work = false;
    if (fx->is_waiting) {
        fx->is_waiting = false;
        outside(fx, &fx->waiting);
    }
}

void cf_release(struct cf *fx)
{
    fx->hold = false;
    uint32_t count = fx->held_count;
    fx->held_count = 0;
    for (uint32_t i = 0; i < count; i++)
        commit_one(fx, fx->held[i]);
}

static void new_core(struct cf *fx, struct coord_options options)
{
    options.times = fx->times;
    options.instance = ++fx->instances;
    options.version = "test";
    fx->core = world_core(&fx->world, &options, fx->now);
}

void cf_open(struct cf *fx, const char *settings)
{
    struct world_options options = {
        .train = CF_TRAIN, .holdout = 3, .eval = 2, .settings = settings};
    memset(fx, 0, sizeof(*fx));
    fx->arena = sp_arena_new(1 << 16, ARENA_BYTES);
    fx->class_name = "cpu class";
    fx->now = 1000;
    coord_times_init(1, &fx->times);
    world_make(&fx->world, &options);
    new_core(fx, (struct coord_options){0});
}

void cf_close(struct cf *fx)
{
    free(fx->roots);
    fx->roots = NULL;
    coord_core_free(fx->core);
    world_remove(&fx->world);
    sp_arena_free(fx->arena);
}

void cf_restart_with(struct cf *fx, struct coord_options options)
{
    coord_core_free(fx->core);
    fx->held_count = 0;
    fx->hold = fx->hold_work = fx->is_waiting = false;
    world_close(&fx->world);
    world_open(&fx->world);
    new_core(fx, options);
}

void cf_restart(struct cf *fx)
{
    cf_restart_with(fx, (struct coord_options){0});
}

void cf_tick(struct cf *fx, int64_t ms)
{
    struct coord_event event = {.kind = COORD_EV_TICK};
    for (int64_t end = fx->now + ms; fx->now < end;) {
        fx->now = fx->now + 50 < end ? fx->now + 50 : end;
        step(fx, &event);
    }
}

uint64_t cf_send(struct cf *fx, enum proto_role role, enum proto_type type, const void *body)
{
    uint64_t handle = ++fx->handles;
    ck_assert_uint_lt(handle, CF_REQUESTS);
    const char *token_id = fx->token_id ? fx->token_id : "token";
    struct coord_event event = {.kind = COORD_EV_REQUEST,
                                .handle = handle,
                                .type = type,
                                .body = body,
                                .who = {.role = role, .token_id = token_id, .runs = fx->runs}};
    step(fx, &event);
    return handle;
}

const struct cf_reply *cf_reply(struct cf *fx, uint64_t handle)
{
    return &fx->replies[handle % CF_REQUESTS];
}

const struct cf_reply *cf_ask(struct cf *fx, enum proto_role role, enum proto_type type,
                              const void *body)
{
    return cf_reply(fx, cf_send(fx, role, type, body));
}

/* ---- shorter ---- */

const struct cf_reply *cf_verb(struct cf *fx, const char *verb, const char *args)
{
    struct proto_admin *admin =
        copy(fx, &(struct proto_admin){.verb = verb, .run = WORLD_RUN, .args = args},
             sizeof(*admin));
    return cf_ask(fx, PROTO_ROLE_ADMIN, PROTO_ADMIN, admin);
}

static const struct proto_hello_reply *say_hello(struct cf *fx, struct proto_hello hello)
{
    hello.instance = ++fx->instances;
    hello.host = "host";
    hello.device = "";
    hello.version = "1";
    hello.numerics_class = fx->class_name;
    const struct cf_reply *reply = cf_ask(fx, hello.role, PROTO_HELLO, &hello);
    CF_OK(reply);
    return reply->body;
}

struct proto_hello cf_hello_of(uint64_t instance)
{
    return (struct proto_hello){.role = PROTO_ROLE_GENERATOR,
                                .name = "x",
                                .instance = instance,
                                .host = "",
                                .device = "",
                                .version = "",
                                .numerics_class = "cpu class"};
}

struct proto_claim cf_claim_of(const struct proto_lease_reply *grant, uint64_t *ret_positions)
{
    for (uint32_t i = 0; i < grant->items_count; i++)
        ret_positions[i] = grant->items[i].position;
    return (struct proto_claim){.lease_id = grant->lease_id,
                                .run = WORLD_RUN,
                                .iteration = grant->iteration,
                                .set = grant->items[0].set,
                                .checkpoint = grant->checkpoint,
                                .positions = {.values = ret_positions, .count = grant->items_count},
                                .born = grant->born};
}

uint64_t cf_hello(struct cf *fx, enum proto_role role, const char *name)
{
    return say_hello(fx, (struct proto_hello){.role = role, .name = name})->worker_id;
}

const struct proto_hello_reply *cf_hello_claiming(struct cf *fx, const char *name,
                                                  struct proto_claim *claims, uint32_t count)
{
    struct proto_hello hello = {
        .role = PROTO_ROLE_GENERATOR, .name = name, .claims = claims, .claims_count = count};
    uint64_t *ids = sp_arena_alloc(fx->arena, count, sizeof(*ids));
    for (uint32_t i = 0; i < count; i++)
        ids[i] = claims[i].lease_id;
    hello.leases = (struct proto_u64s){.values = ids, .count = count};
    return say_hello(fx, hello);
}

uint64_t cf_poll(struct cf *fx, uint64_t worker, uint32_t max_items, uint32_t wait_ms)
{
    struct proto_lease *lease = copy(fx,
                                     &(struct proto_lease){.worker_id = worker,
                                                           .request_id = ++fx->requests,
                                                           .run = "",
                                                           .max_items = max_items,
                                                           .wait_ms = wait_ms},
                                     sizeof(*lease));
    return cf_send(fx, PROTO_ROLE_GENERATOR, PROTO_LEASE, lease);
}

const struct proto_lease_reply *cf_lease(struct cf *fx, uint64_t worker, uint32_t max_items)
{
    const struct cf_reply *reply = cf_reply(fx, cf_poll(fx, worker, max_items, 0));
    CF_OK(reply);
    const struct proto_lease_reply *lease = reply->body;
    ck_assert_uint_ne(lease->lease_id, 0);
    return lease;
}

struct proto_submit *cf_answers(struct cf *fx, uint64_t worker,
                                const struct proto_lease_reply *lease, uint32_t first,
                                uint32_t count)
{
    struct proto_submit *submit = copy(fx,
                                       &(struct proto_submit){.worker_id = worker,
                                                              .run = WORLD_RUN,
                                                              .iteration = lease->iteration,
                                                              .lease_id = lease->lease_id,
                                                              .checkpoint = lease->checkpoint,
                                                              .results_count = count,
                                                              .born = lease->born},
                                       sizeof(*submit));
    submit->results = sp_arena_alloc(fx->arena, count, sizeof(*submit->results));
    for (uint32_t i = 0; i < count; i++) {
        const struct proto_work_item *item = &lease->items[first + i];
        int32_t ids[3] = {100 + (int32_t)item->prompt, (int32_t)item->set, 2};
        struct proto_work_result *result = &submit->results[i];
        *result = (struct proto_work_result){.set = item->set,
                                             .position = item->position,
                                             .prompt = item->prompt,
                                             .sample = item->sample,
                                             .logprob_a = -1,
                                             .logprob_b = -2};
        if (item->kind != PROTO_WORK_SAMPLE)
            continue;
        result->ids = (struct proto_ids){.ids = copy(fx, ids, sizeof(ids)), .count = 3};
        result->finish = PROTO_FINISH_STOP;
        result->logprob_ids = -3;
    }
    return submit;
}

const struct proto_submit_reply *cf_submit(struct cf *fx, uint64_t worker,
                                           const struct proto_lease_reply *lease, uint32_t first,
                                           uint32_t count)
{
    const struct cf_reply *reply = cf_ask(fx, PROTO_ROLE_GENERATOR, PROTO_SUBMIT,
                                          cf_answers(fx, worker, lease, first, count));
    CF_OK(reply);
    return reply->body;
}

void cf_work_all(struct cf *fx, uint64_t worker)
{
    for (;;) {
        const struct cf_reply *reply = cf_reply(fx, cf_poll(fx, worker, 64, 0));
        if (!reply->there) {
            cf_tick(fx, 50); /* the poll ends empty */
            ck_assert(reply->there);
        }
        const struct proto_lease_reply *lease = reply->body;
        if (reply->status != SP_OK || lease->lease_id == 0)
            return;
        cf_submit(fx, worker, lease, 0, lease->items_count);
    }
}

const struct proto_trainer_lease_reply *cf_train(struct cf *fx, uint64_t worker)
{
    struct proto_trainer_lease lease = {.worker_id = worker, .request_id = ++fx->requests};
    const struct cf_reply *reply = cf_ask(fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_LEASE, &lease);
    if (!reply->there)
        return NULL;
    CF_OK(reply);
    return reply->body;
}

const struct cf_reply *cf_fetch(struct cf *fx, uint64_t worker,
                                const struct proto_trainer_lease_reply *lease, uint64_t start,
                                uint32_t count)
{
    struct proto_pairs_fetch fetch = {.worker_id = worker,
                                      .run = WORLD_RUN,
                                      .iteration = lease->iteration,
                                      .epoch = lease->epoch,
                                      .start = start,
                                      .count = count,
                                      .wait_ms = 10000};
    return cf_ask(fx, PROTO_ROLE_TRAINER, PROTO_PAIRS_FETCH, &fetch);
}

const struct cf_reply *cf_trainer_renew(struct cf *fx, uint64_t worker,
                                        const struct proto_trainer_lease_reply *lease)
{
    struct proto_trainer_renew renew = {.worker_id = worker,
                                        .run = WORLD_RUN,
                                        .iteration = lease->iteration,
                                        .epoch = lease->epoch,
                                        .activity = "testing"};
    return cf_ask(fx, PROTO_ROLE_TRAINER, PROTO_TRAINER_RENEW, &renew);
}

const struct cf_reply *cf_publish_begin(struct cf *fx, uint64_t worker,
                                        const struct proto_trainer_lease_reply *lease)
{
    struct proto_publish_begin *begin =
        copy(fx,
             &(struct proto_publish_begin){.worker_id = worker,
                                           .run = WORLD_RUN,
                                           .iteration = lease->iteration,
                                           .epoch = lease->epoch,
                                           .manifest = {(const uint8_t *)"m", 1}},
             sizeof(*begin));
    return cf_ask(fx, PROTO_ROLE_TRAINER, PROTO_PUBLISH_BEGIN, begin);
}

const struct cf_reply *cf_publish_commit(struct cf *fx, uint64_t worker,
                                         const struct proto_trainer_lease_reply *lease)
{
    struct proto_publish_commit *commit =
        copy(fx,
             &(struct proto_publish_commit){.worker_id = worker,
                                            .run = WORLD_RUN,
                                            .iteration = lease->iteration,
                                            .epoch = lease->epoch,
                                            .summary = "{\"words\": 1}"},
             sizeof(*commit));
    char name[32];
    snprintf(name, sizeof(name), "checkpoint %u", lease->iteration);
    sp_sha256_of(name, strlen(name), &commit->checkpoint);
    commit->manifest = commit->checkpoint;
    return cf_ask(fx, PROTO_ROLE_TRAINER, PROTO_PUBLISH_COMMIT, commit);
}

enum coord_state cf_state(struct cf *fx)
{
    uint32_t number;
    const char *reason;
    return coord_iteration_state(fx->core, WORLD_RUN, &number, &reason);
}

const char *cf_reason(struct cf *fx)
{
    uint32_t number;
    const char *reason;
    coord_iteration_state(fx->core, WORLD_RUN, &number, &reason);
    return reason;
}

uint32_t cf_number(struct cf *fx)
{
    uint32_t number;
    const char *reason;
    coord_iteration_state(fx->core, WORLD_RUN, &number, &reason);
    return number;
}

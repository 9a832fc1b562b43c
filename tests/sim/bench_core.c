/* bench_core: what the core costs per pair with many generators, and its longest step. No store:
 * each write is said to be durable at once. bench_core [GENERATORS [PAIRS [ITEMS]]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/mem.h"
#include "coordinator/core.h"
#include "coordinator/work_item.h"

struct bench {
    struct coord_core *core;
    struct coord_actions actions;
    int64_t now;
    uint64_t handles, steps, pairs;
    int64_t longest_ns, total_ns;
    const char *longest_kind;
    uint64_t *workers;
    uint32_t generators, items;
    struct coord_action *grants; /* of generators, by handle modulo their number */
    bool *has_grant;
    uint64_t reply_id;
};

static void step(struct bench *b, const struct coord_event *event);

static void execute(struct bench *b, struct coord_action *action)
{
    struct coord_event written = {.kind = COORD_EV_WRITTEN};
    switch (action->kind) {
    case COORD_DO_WRITE:
        written.write_id = action->write->id;
        if (action->write->kind == COORD_W_RESULTS) {
            written.result.stored = action->write->row_count;
            b->pairs += action->write->row_count;
        }
        step(b, &written);
        return;
    case COORD_DO_GRANT: {
        uint32_t who = (uint32_t)(action->handle % b->generators);
        b->grants[who] = *action;
        b->has_grant[who] = true;
        action->positions = NULL;
        return;
    }
    case COORD_DO_ORDER: {
        uint32_t *order = coord_pass_order(action->run, action->iteration, action->pass);
        struct coord_event ordered = {.kind = COORD_EV_ORDERED,
                                      .run = action->run->name,
                                      .iteration = action->iteration,
                                      .attempt = action->attempt,
                                      .order = order};
        step(b, &ordered);
        free(order);
        return;
    }
    case COORD_DO_REPLY:
        if (action->type == PROTO_HELLO_REPLY)
            b->reply_id = action->body.hello.worker_id;
        return;
    default:
        return;
    }
}

/* Of this thread on its processor: others on the machine do not count. */
static int64_t busy_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void step(struct bench *b, const struct coord_event *event)
{
    struct coord_actions actions = {0};
    int64_t start = busy_ns();
    coord_step(b->core, event, b->now, &actions);
    int64_t took = busy_ns() - start;
    b->steps++;
    b->total_ns += took;
    if (took > b->longest_ns) {
        b->longest_ns = took;
        b->longest_kind = event->kind == COORD_EV_REQUEST ? proto_type_name(event->type)
                          : event->kind == COORD_EV_TICK  ? "tick"
                                                          : "work or write done";
    }
    for (size_t i = 0; i < actions.count; i++)
        execute(b, &actions.items[i]);
    coord_actions_deinit(&actions);
}

static void send(struct bench *b, uint64_t handle, enum proto_type type, const void *body)
{
    struct coord_event event = {.kind = COORD_EV_REQUEST,
                                .handle = handle,
                                .type = type,
                                .body = body,
                                .who = {.role = PROTO_ROLE_ADMIN, .token_id = "bench"}};
    step(b, &event);
}

static void add_run(struct bench *b, uint32_t pairs)
{
    static const char settings[] = "[run]\nname = r\n[data]\ntrain = t\n[model]\nbase = b\n"
                                   "[verdict]\ntrained_sample = 0\n";
    struct coord_run_info info = {
        .name = sp_xstrdup("r"), .settings_json = sp_xstrdup("{}"), .vocab = 1000};
    struct sp_error err;
    sp_config_init(&run_settings_spec, &info.settings);
    if (sp_config_parse(&run_settings_spec, settings, strlen(settings), "bench", &info.settings,
                        &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    info.prompts[STORE_SPLIT_TRAIN] = pairs;
    struct sp_digest base;
    sp_sha256_of("base", 4, &base);
    coord_core_add_run(b->core, &info, &base, &base, 0, "cpu class", b->now);
}

static void submit(struct bench *b, uint32_t who)
{
    static const int32_t ids[] = {5, 6, 7};
    struct coord_action *grant = &b->grants[who];
    struct proto_work_result *results = sp_xarray(grant->count, sizeof(*results));
    struct plan plan;
    plan_init(&grant->run->settings, grant->iteration, grant->run->prompts[STORE_SPLIT_TRAIN],
              &plan);
    for (uint32_t i = 0; i < grant->count; i++) {
        struct coord_item item;
        coord_item_at(&grant->run->settings, &plan, grant->set, grant->positions[i], &item);
        results[i] = (struct proto_work_result){.set = grant->set,
                                                .position = grant->positions[i],
                                                .prompt = item.prompt,
                                                .sample = item.sample,
                                                .ids = {ids, 3},
                                                .finish = PROTO_FINISH_LENGTH,
                                                .logprob_ids = -1,
                                                .logprob_a = -1};
    }
    struct proto_submit body = {.worker_id = b->workers[who],
                                .run = "r",
                                .iteration = grant->iteration,
                                .lease_id = grant->lease_id,
                                .checkpoint = grant->checkpoint,
                                .results = results,
                                .results_count = grant->count};
    b->has_grant[who] = false;
    send(b, ++b->handles * b->generators, PROTO_SUBMIT, &body);
    free(grant->positions);
    free(results);
}

static uint32_t argument(int argc, char **argv, int at, uint32_t otherwise)
{
    return argc > at ? (uint32_t)strtoul(argv[at], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    struct bench b = {.now = 1000};
    b.generators = argument(argc, argv, 1, 1000);
    uint32_t pairs = argument(argc, argv, 2, 200000);
    b.items = argument(argc, argv, 3, 64);
    b.workers = sp_xarray(b.generators, sizeof(*b.workers));
    b.grants = sp_xarray(b.generators, sizeof(*b.grants));
    b.has_grant = sp_xarray(b.generators, sizeof(*b.has_grant));
    struct coord_options options = {.instance = 1, .version = "bench"};
    coord_times_init(1, &options.times);
    b.core = coord_core_new(&options);
    add_run(&b, pairs);
    for (uint32_t i = 0; i < b.generators; i++) {
        char name[32];
        snprintf(name, sizeof(name), "generator-%u", i);
        struct proto_hello hello = {.role = PROTO_ROLE_GENERATOR,
                                    .name = name,
                                    .instance = i + 1,
                                    .host = "",
                                    .device = "",
                                    .version = "",
                                    .numerics_class = "cpu class"};
        send(&b, ++b.handles * b.generators, PROTO_HELLO, &hello);
        b.workers[i] = b.reply_id;
    }
    struct proto_admin start = {.verb = "start-iteration", .run = "r", .args = ""};
    send(&b, ++b.handles * b.generators, PROTO_ADMIN, &start);
    b.longest_ns = b.total_ns = 0;
    b.steps = 0;
    for (uint32_t i = 0; i < b.generators; i++) {
        struct proto_lease lease = {.worker_id = b.workers[i],
                                    .request_id = 1,
                                    .run = "r",
                                    .max_items = b.items,
                                    .wait_ms = 20000};
        send(&b, ++b.handles * b.generators + i, PROTO_LEASE, &lease);
    }
    for (uint64_t turn = 2; b.pairs < pairs; turn++) {
        for (uint32_t i = 0; i < b.generators; i++) {
            if (!b.has_grant[i])
                continue;
            submit(&b, i);
            struct proto_lease lease = {.worker_id = b.workers[i],
                                        .request_id = turn,
                                        .run = "r",
                                        .max_items = b.items,
                                        .wait_ms = 20000};
            send(&b, ++b.handles * b.generators + i, PROTO_LEASE, &lease);
        }
        b.now += 50;
        step(&b, &(struct coord_event){.kind = COORD_EV_TICK});
    }
    printf("%u generators, %u pairs: %.2f us of core per pair, %llu steps, longest %.2f ms (%s)\n",
           b.generators, pairs, (double)b.total_ns / 1000.0 / pairs, (unsigned long long)b.steps,
           (double)b.longest_ns / 1e6, b.longest_kind);
    coord_core_free(b.core);
    free(b.workers);
    free(b.grants);
    free(b.has_grant);
    return 0;
}

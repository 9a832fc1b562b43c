#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

#define ARENA_BYTES ((size_t)1 << 30)
#define LONGEST_MS (24 * 3600 * 1000ll) /* of simulated time */
#define TURNS 20000000

void sim_fail(struct sim *sim, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("seed %llu, %lld ms: ", (unsigned long long)sim->seed, (long long)sim->now);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    sim->failed = true;
}

void sim_trace(struct sim *sim, const char *format, ...)
{
    if (!sim->trace)
        return;
    va_list args;
    va_start(args, format);
    printf("%9lld ", (long long)sim->now);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

uint64_t sim_draw(struct sim *sim, uint64_t bound)
{
    return sp_rng_below(sim->seed, SP_STREAM_TEST, 1, sim->draws++, 0, 0, bound);
}

void *sim_alloc(struct sim *sim, size_t bytes)
{
    void *memory = sp_arena_alloc(sim->arena, bytes ? bytes : 1, 1);
    SP_ASSERT(memory);
    return memory;
}

/* FNV-1a. */
uint64_t sim_hash(const void *data, size_t bytes, uint64_t salt)
{
    uint64_t hash = 14695981039346656037u ^ (salt * 0x9E3779B97F4A7C15u);
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 1099511628211u;
    return hash ^ (hash >> 29);
}

/* ---- time ---- */

static bool before(const struct sim_timer *a, const struct sim_timer *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void sim_after(struct sim *sim, int64_t ms, sim_fire *fire, void *context, uint64_t value)
{
    if (sim->heap_count == sim->heap_capacity) {
        sim->heap_capacity = sim->heap_capacity ? sim->heap_capacity * 2 : 256;
        sim->heap = sp_xgrow(sim->heap, sim->heap_capacity, sizeof(*sim->heap));
    }
    struct sim_timer timer = {.at = sim->now + ms,
                              .order = ++sim->timers,
                              .fire = fire,
                              .context = context,
                              .value = value};
    size_t i = sim->heap_count++;
    for (; i > 0 && before(&timer, &sim->heap[(i - 1) / 2]); i = (i - 1) / 2)
        sim->heap[i] = sim->heap[(i - 1) / 2];
    sim->heap[i] = timer;
}

static struct sim_timer take_timer(struct sim *sim)
{
    struct sim_timer first = sim->heap[0], last = sim->heap[--sim->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= sim->heap_count)
            break;
        if (child + 1 < sim->heap_count && before(&sim->heap[child + 1], &sim->heap[child]))
            child++;
        if (!before(&sim->heap[child], &last))
            break;
        sim->heap[i] = sim->heap[child];
        i = child;
    }
    sim->heap[i] = last;
    return first;
}

/* ---- deaths and cuts ---- */

static void start_node(struct sim *sim, void *context, uint64_t life)
{
    struct sim_node *node = context;
    if (node->up || node->life != life)
        return;
    sim_trace(sim, "%s starts", node->name);
    if (node->role == PROTO_ROLE_GENERATOR)
        sim_generator_start(sim, node);
    else
        sim_trainer_start(sim, node);
}

void sim_kill(struct sim *sim, struct sim_node *node)
{
    if (!node->up)
        return;
    sim_trace(sim, "%s is killed", node->name);
    sim->result.deaths++;
    node->up = false;
    node->stopped_until_ms = 0;
    node->life++;
    sim_after(sim, 200 + (int64_t)sim_draw(sim, 20000), start_node, node, node->life);
}

static void start_coordinator(struct sim *sim, void *context, uint64_t value)
{
    (void)context;
    (void)value;
    if (!sim->core)
        sim_coordinator_start(sim);
}

bool sim_is_stopped(struct sim *sim, struct sim_node *node, sim_fire *fire, void *context,
                    uint64_t value)
{
    if (sim->now >= node->stopped_until_ms)
        return false;
    sim_after(sim, node->stopped_until_ms - sim->now, fire, context, value);
    return true;
}

static void cut(struct sim *sim, struct sim_node *node)
{
    int64_t until = sim->now + (int64_t)sim_draw(sim, 150000);
    uint64_t way = sim_draw(sim, 4);
    if (way == 0)
        node->mute_until_ms = until;
    else if (way == 1)
        node->deaf_until_ms = until;
    else
        node->cut_until_ms = until;
    sim_trace(sim, "%s %s until %lld", node->name,
              way == 0   ? "is not heard"
              : way == 1 ? "hears nothing"
                         : "is cut off",
              (long long)until);
}

static void stop_node(struct sim *sim, struct sim_node *node)
{
    node->stopped_until_ms = sim->now + (int64_t)sim_draw(sim, 200000);
    sim_trace(sim, "%s stands still until %lld", node->name, (long long)node->stopped_until_ms);
}

static void stop_a_generator(struct sim *sim, void *context, uint64_t iteration)
{
    struct sim_node *node = &sim->generators[sim_draw(sim, SIM_GENERATORS)];
    (void)context;
    if (sim->iteration != iteration || !node->up)
        return;
    node->stopped_until_ms = sim->now + 900000;
    sim_trace(sim, "%s stands still until %lld", node->name, (long long)node->stopped_until_ms);
}

void sim_disturb_iteration(struct sim *sim)
{
    if (sim->faults.stops && sim->iteration > 0)
        sim_after(sim, (int64_t)sim_draw(sim, 40000), stop_a_generator, NULL, sim->iteration);
}

static void stop_coordinator(struct sim *sim)
{
    if (sim->now < sim->stopped_until_ms)
        return;
    sim->stopped_until_ms = sim->now + (int64_t)sim_draw(sim, 100000);
    sim_trace(sim, "the coordinator stands still until %lld", (long long)sim->stopped_until_ms);
}

static void disturb(struct sim *sim, void *context, uint64_t value)
{
    (void)context;
    (void)value;
    if (sim->now > sim->faults.until_ms || sim->ended)
        return;
    const struct sim_faults *faults = &sim->faults;
    struct sim_node *node = sim_draw(sim, 2) == 0 ? &sim->generators[sim_draw(sim, SIM_GENERATORS)]
                                                  : &sim->trainers[sim_draw(sim, SIM_TRAINERS)];
    uint64_t what = sim_draw(sim, 14);
    if (faults->deaths && what < 3) {
        sim_kill(sim, node);
    } else if (faults->deaths && what < 6 && sim->core) {
        sim->result.deaths++;
        sim_coordinator_kill(sim);
        sim_after(sim, 100 + (int64_t)sim_draw(sim, 10000), start_coordinator, NULL, 0);
    } else if (faults->cuts && what < 9) {
        cut(sim, node);
    } else if (faults->stops && what < 11) {
        stop_node(sim, node);
    } else if (faults->stops && what < 12) {
        stop_coordinator(sim);
    } else if (faults->disk && what < 14) {
        sim_disk_trouble(sim, what == 12 ? SIM_VFS_FULL : SIM_VFS_SYNC_FAILS,
                         (int64_t)sim_draw(sim, 20000));
    }
    sim_after(sim, 500 + (int64_t)sim_draw(sim, 12000), disturb, NULL, 0);
}

/* ---- a whole simulation ---- */

static void set_up(struct sim *sim, bool calm)
{
    static const char *const names[] = {"gen-0", "gen-1", "gen-2", "train-0", "train-1"};
    for (int i = 0; i < SIM_GENERATORS; i++)
        sim->generators[i] =
            (struct sim_node){.name = names[i], .role = PROTO_ROLE_GENERATOR, .life = 1};
    for (int i = 0; i < SIM_TRAINERS; i++)
        sim->trainers[i] = (struct sim_node){
            .name = names[SIM_GENERATORS + i], .role = PROTO_ROLE_TRAINER, .life = 1};
    sim->admin =
        (struct sim_node){.name = "admin", .role = PROTO_ROLE_ADMIN, .life = 1, .up = true};
    sim->faults = (struct sim_faults){.delay_ms = 20};
    if (!calm) {
        sim->faults = (struct sim_faults){
            .drop = (uint32_t)sim_draw(sim, 4) * 40,
            .duplicate = (uint32_t)sim_draw(sim, 4) * 40,
            .delay_ms = 5 + (int64_t)sim_draw(sim, 2000),
            .deaths = sim_draw(sim, 3) > 0,
            .cuts = sim_draw(sim, 3) > 0,
            .admin = sim_draw(sim, 3) == 0,
            .stops = sim_draw(sim, 3) > 0,
            .disk = sim_draw(sim, 2) == 0,
            .until_ms = 30000 + (int64_t)sim_draw(sim, 250000),
        };
        sim_after(sim, (int64_t)sim_draw(sim, 8000), disturb, NULL, 0);
    }
    coord_times_init(1, &sim->times);
    sim->times.collect_ms = 15000; /* often: what it must not touch changes fast */
    struct world_options options = {.train = SIM_TRAIN,
                                    .holdout = 4,
                                    .eval = 2,
                                    .settings = sim->settings,
                                    .vfs = sim_vfs_name(sim->vfs)};
    world_make(&sim->world, &options);
    world_close(&sim->world);
    sim_coordinator_start(sim);
    for (int i = 0; i < SIM_GENERATORS; i++)
        sim_after(sim, (int64_t)sim_draw(sim, 1000), start_node, &sim->generators[i], 1);
    /* One alone gets its lease back, with its snapshot; of two the other takes over. */
    int trainers = calm || sim_draw(sim, 2) ? SIM_TRAINERS : 1;
    for (int i = 0; i < trainers; i++)
        sim_after(sim, (int64_t)sim_draw(sim, 1000), start_node, &sim->trainers[i], 1);
    sim_admin_start(sim);
}

static void read_results(struct sim *sim)
{
    struct store_run *run;
    struct sp_arena *arena = sp_arena_new(1 << 16, ARENA_BYTES);
    world_check(&sim->world, store_run_open(sim->world.store, WORLD_RUN, &run, &sim->world.err),
                "run");
    for (uint32_t i = 0; i < sim->iterations; i++) {
        struct store_iteration row;
        world_check(&sim->world, store_iteration_get(run, i, arena, &row, &sim->world.err), "row");
        sim->result.pairs[i] = row.pairs_sha256;
        sim->result.checkpoints[i] = row.checkpoint;
        snprintf(sim->result.verdicts[i], sizeof(sim->result.verdicts[i]), "%s", row.verdict);
        if (row.state != STORE_STATE_CLOSED)
            sim_fail(sim, "iteration %u is %s in the store", i, store_state_name(row.state));
    }
    sp_arena_free(arena);
}

static void say_why(struct sim *sim)
{
    if (!sim->core) {
        sim_fail(sim, "it did not end: the coordinator is down");
        return;
    }
    json_t *status = coord_status(sim->core, NULL, sim->now);
    char *text = json_dumps(status, JSON_INDENT(1));
    sim_fail(sim, "it did not end: %s", text);
    free(text);
    json_decref(status);
}

bool sim_run(uint64_t seed, const char *settings, uint32_t iterations, bool calm, bool trace,
             enum sim_plant plant, struct sim_result *ret)
{
    struct sim *sim = sp_xalloc(sizeof(*sim));
    sim->seed = seed;
    sim->now = 1000000;
    sim->settings = settings;
    sim->iterations = iterations;
    sim->vfs = sim_vfs_new(seed);
    sim->trace = trace;
    sim->plant = plant;
    sim->arena = sp_arena_new(1 << 20, ARENA_BYTES);
    int64_t start = sim->now;
    set_up(sim, calm);
    sim->faults.until_ms += start;
    for (uint64_t turn = 0; !sim->ended && !sim->failed; turn++) {
        if (sim->heap_count == 0 || sim->now - start > LONGEST_MS || turn > TURNS) {
            say_why(sim);
            break;
        }
        struct sim_timer timer = take_timer(sim);
        sim->now = timer.at;
        timer.fire(sim, timer.context, timer.value);
        sim->result.events++;
    }
    sim->result.ended_ms = sim->now - start;
    sim->result.iterations = sim->iteration;
    sim_disk_trouble(sim, SIM_VFS_WELL, 0);
    if (sim->core)
        sim_coordinator_kill(sim); /* what is durable then is what counts */
    sim_coordinator_start(sim);
    sim_check_acks(sim, 0);
    if (!sim->failed)
        read_results(sim);
    if (!sim->failed && (sim->result.events < SIM_EVENTS || sim->iteration < 2))
        sim_fail(sim, "%llu events and %u iterations: too few to mean much",
                 (unsigned long long)sim->result.events, sim->iteration);
    bool good = !sim->failed;
    *ret = sim->result;
    sim_coordinator_kill(sim);
    sim_vfs_revive(sim->vfs);
    world_remove(&sim->world);
    sim_vfs_free(sim->vfs);
    coord_actions_deinit(&sim->actions);
    sp_arena_free(sim->arena);
    free(sim->heap);
    free(sim->acks);
    free(sim);
    return good;
}

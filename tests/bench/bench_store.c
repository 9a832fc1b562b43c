/* Results a second into the store, by the size of a transaction, and pairs a second out of it.
 *     bench_store [DIRECTORY [SECONDS [PAIRS]]]
 * DIRECTORY is on the disk to measure; default: . and 2. With PAIRS one iteration then grows to so
 * many, and at every power of ten the rates of writing and reading are given anew.
 *     bench_store --fill STATE_DIR RUN FROM TO TOKENS
 * puts pairs FROM to TO of iteration 0 into a coordinator's state directory, as a thousand
 * generators would have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/store/store_run.h"
#include "proto/plan.h"
#include "proto/run_settings.h"

#define PROMPTS 2000
#define ANSWER_TOKENS 256
#define PROMPT_TOKENS 128
#define GROW_BATCH 64
#define GROW_TOKENS 64
#define GROW_READS 5000

static struct sp_error error;

static void must(enum sp_err rc)
{
    if (rc == SP_OK)
        return;
    fprintf(stderr, "bench_store: %s\n", error.text);
    exit(1);
}

static void make_run(struct store *store, const char *dir)
{
    struct store_builder *builder = NULL;
    int32_t ids[ANSWER_TOKENS] = {0};
    must(store_builder_open(dir, "bench", NULL, &builder, &error));
    int64_t start = sp_now_ns();
    for (uint32_t i = 0; i < PROMPTS; i++) {
        struct store_prompt prompt = {
            .index = i, .prompt_ids = {ids, PROMPT_TOKENS}, .real_ids = {ids, ANSWER_TOKENS}};
        must(store_builder_add(builder, STORE_SPLIT_TRAIN, &prompt, &error));
    }
    struct store_run_info info = {.name = "bench", .settings = "{}", .data = "{}"};
    must(store_builder_finish(builder, &info, &error));
    printf("create  %8.0f prompts/s\n", PROMPTS / ((double)(sp_now_ns() - start) / 1e9));
    store_builder_free(builder);
    store_begin(store);
    must(store_run_adopt(store, "bench", &error));
    must(store_commit(store, &error));
}

static void write_results(struct store *store, struct store_run *run, uint32_t iteration,
                          uint32_t batch, double seconds)
{
    int32_t ids[ANSWER_TOKENS] = {0};
    uint64_t n = 0;
    int64_t start = sp_now_ns(), end = start + (int64_t)(seconds * 1e9);
    while (sp_now_ns() < end) {
        store_begin(store);
        for (uint32_t i = 0; i < batch; i++, n++) {
            enum store_put put;
            struct store_result r = {.iteration = iteration,
                                     .source_iteration = iteration,
                                     .position = n,
                                     .prompt = (uint32_t)(n % PROMPTS),
                                     .ids = {ids, ANSWER_TOKENS},
                                     .finish = PROTO_FINISH_STOP,
                                     .worker = "generator-1"};
            must(store_result_put(run, &r, &put, &error));
        }
        must(store_commit(store, &error));
    }
    printf("submit  %8.0f results/s of %d tokens, %u in a transaction\n",
           (double)n / ((double)(sp_now_ns() - start) / 1e9), ANSWER_TOKENS, batch);
}

static void read_pairs(struct store_run *run, uint32_t iteration, double seconds)
{
    struct sp_arena *arena = sp_arena_new(1 << 20, 256u << 20);
    struct proto_train_pair pair;
    uint64_t n = 0;
    int64_t start = sp_now_ns(), end = start + (int64_t)(seconds * 1e9);
    for (; sp_now_ns() < end; n++) {
        uint32_t at = (uint32_t)(n * 7919 % PROMPTS);
        struct store_pair_key key = {at, iteration, at, 0};
        must(store_pairs_read(run, iteration, PROTO_SET_TRAIN, STORE_SPLIT_TRAIN, &key, 1, arena,
                              &pair, NULL, &error));
        sp_arena_reset(arena);
    }
    printf("fetch   %8.0f pairs/s\n", (double)n / ((double)(sp_now_ns() - start) / 1e9));
    sp_arena_free(arena);
}

/* Reads pairs all over the first n; returns how many a second. */
static double read_among(struct store_run *run, uint32_t iteration, uint64_t n)
{
    struct sp_arena *arena = sp_arena_new(1 << 20, 256u << 20);
    struct proto_train_pair pair;
    int64_t start = sp_now_ns();
    for (uint64_t i = 0; i < GROW_READS; i++) {
        uint64_t at = i * 2654435761u % n;
        uint32_t prompt = (uint32_t)(at % PROMPTS);
        struct store_pair_key key = {at, iteration, prompt, 0};
        must(store_pairs_read(run, iteration, PROTO_SET_TRAIN, STORE_SPLIT_TRAIN, &key, 1, arena,
                              &pair, NULL, &error));
        sp_arena_reset(arena);
    }
    sp_arena_free(arena);
    return GROW_READS / ((double)(sp_now_ns() - start) / 1e9);
}

/* One iteration of up to `most` pairs, written as generators submit them. */
static void grow(struct store *store, struct store_run *run, uint32_t iteration, uint64_t most)
{
    int32_t ids[GROW_TOKENS] = {0};
    uint8_t *bitmap = sp_xalloc(most / 8 + 1);
    int64_t start = sp_now_ns();
    uint64_t mark = 1000, since = 0;
    for (uint64_t n = 0; n < most;) {
        store_begin(store);
        for (uint32_t i = 0; i < GROW_BATCH && n < most; i++, n++) {
            enum store_put put;
            struct store_result r = {.iteration = iteration,
                                     .source_iteration = iteration,
                                     .position = n,
                                     .prompt = (uint32_t)(n % PROMPTS),
                                     .ids = {ids, GROW_TOKENS},
                                     .finish = PROTO_FINISH_STOP,
                                     .worker = "generator-1"};
            must(store_result_put(run, &r, &put, &error));
        }
        must(store_commit(store, &error));
        if (n < mark)
            continue;
        double put = (double)(n - since) / ((double)(sp_now_ns() - start) / 1e9);
        uint64_t count;
        double read = read_among(run, iteration, n);
        start = sp_now_ns();
        memset(bitmap, 0, most / 8 + 1);
        must(store_results_bitmap(run, iteration, PROTO_SET_TRAIN, most, false, bitmap, &count,
                                  &error));
        printf("grow    %8llu pairs: %8.0f results/s in, %8.0f pairs/s out, list %7.1f ms\n",
               (unsigned long long)n, put, read, (double)(sp_now_ns() - start) / 1e6);
        fflush(stdout);
        mark *= 10;
        since = n;
        start = sp_now_ns();
    }
    free(bitmap);
}

/* ---- filling a coordinator's store ---- */

#define WORKERS 1000
#define LEASE 32

static void put_pair(struct store_run *run, const struct plan *plan, uint32_t position,
                     const struct proto_ids *ids)
{
    char worker[32];
    struct plan_key key;
    enum store_put put;
    plan_key_at(plan, position, &key);
    snprintf(worker, sizeof(worker), "generator-%u", position / LEASE % WORKERS);
    struct store_result r = {.position = position,
                             .prompt = key.prompt,
                             .sample = key.sample,
                             .ids = *ids,
                             .finish = PROTO_FINISH_LENGTH,
                             .ref_real = -1,
                             .ref_generated = -2,
                             .worker = worker};
    must(store_result_put(run, &r, &put, &error));
}

/* The workers hand in in turns, each from a lease of its own. */
static void fill(const char *dir, const char *name, uint32_t from, uint32_t to, uint32_t tokens)
{
    struct store *store = NULL;
    struct store_run *run = NULL;
    struct store_run_info info;
    struct run_settings settings = {0};
    struct plan plan;
    json_t *json = NULL;
    struct sp_arena *arena = sp_arena_new(1 << 16, 64 << 20);
    must(store_open(dir, NULL, &store, &error));
    must(store_run_open(store, name, &run, &error));
    must(store_run_info(run, arena, &info, &error));
    must(sp_json_parse(info.settings, strlen(info.settings), "settings", &json, &error));
    must(run_settings_from_json(json, &settings, &error));
    plan_init(&settings, 0, info.prompts[STORE_SPLIT_TRAIN], &plan);
    int32_t *ids = sp_xarray(tokens, sizeof(*ids));
    struct proto_ids answer = {.ids = ids, .count = tokens};
    for (uint32_t turn = from; turn < to; turn += WORKERS * LEASE) {
        store_begin(store);
        for (uint32_t i = 0; i < WORKERS * LEASE; i++) {
            uint32_t position = turn + i % WORKERS * LEASE + i / WORKERS;
            if (position < to)
                put_pair(run, &plan, position, &answer);
        }
        must(store_commit(store, &error));
    }
    free(ids);
    json_decref(json);
    sp_config_deinit(&run_settings_spec, &settings);
    sp_arena_free(arena);
    store_close(store);
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "--fill") == 0) {
        fill(argv[2], argv[3], (uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]),
             (uint32_t)atoi(argv[6]));
        return 0;
    }
    char *dir = sp_xprintf("%s/bench-store-XXXXXX", argc > 1 ? argv[1] : ".");
    double seconds = argc > 2 ? atof(argv[2]) : 2;
    struct store *store = NULL;
    struct store_run *run = NULL;
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    must(store_open(dir, NULL, &store, &error));
    make_run(store, dir);
    must(store_run_open(store, "bench", &run, &error));
    static const uint32_t batches[] = {1, 8, 32, 64, 256};
    for (uint32_t i = 0; i < SP_COUNT(batches); i++)
        write_results(store, run, i, batches[i], seconds);
    read_pairs(run, SP_COUNT(batches) - 1, seconds);
    if (argc > 3)
        grow(store, run, SP_COUNT(batches), strtoull(argv[3], NULL, 10));
    store_close(store);
    must(sp_remove_tree(dir, &error));
    free(dir);
    return 0;
}

/* The coordinator is killed with -9 a hundred times while submissions are in flight: what was
 * acknowledged is there, once, and with the bytes that were acknowledged. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/wire.h"
#include "tests/unit/check_main.h"

#define KILLS 100
#define PROMPTS 1000 /* none is held out, so that all work is of the plan */
#define SAMPLES 64
#define POSITIONS (PROMPTS * SAMPLES)
#define THREADS 3
#define BATCH 2

/* What was acknowledged, by position. */
static _Atomic unsigned char acknowledged[POSITIONS];
static atomic_uint in_flight, sent, refused;
static atomic_bool stop;

/* An answer that its position decides: two ids, none of which ends it. */
static void answer_of(uint64_t position, int32_t ids[2])
{
    ids[0] = 1 + (int32_t)sp_rng_below(3, SP_STREAM_TEST, 0, (uint32_t)position, 1, 0, 256);
    ids[1] = 1 + (int32_t)sp_rng_below(3, SP_STREAM_TEST, 0, (uint32_t)position, 2, 0, 256);
}

static void submit(struct wire *wire, const struct proto_lease_reply *grant,
                   struct proto_work_result *results, uint32_t n)
{
    struct proto_submit request = {
        .run = "r",
        .iteration = grant->iteration,
        .lease_id = grant->lease_id,
        .checkpoint = grant->checkpoint,
        .results = results,
        .results_count = n,
    };
    struct sp_error err = {0};
    const void *reply;
    atomic_fetch_add(&in_flight, 1);
    enum sp_err rc = worker_call(wire->peer, PROTO_SUBMIT, &request, 20000, &reply, &err);
    atomic_fetch_sub(&in_flight, 1);
    ck_assert_msg(rc == SP_OK, "submit: %s", err.text);
    const struct proto_submit_reply *counts = reply;
    ck_assert_uint_eq(counts->stored + counts->duplicates + counts->refused, n);
    atomic_fetch_add(&sent, n);
    atomic_fetch_add(&refused, counts->refused);
    for (uint32_t i = 0; i < n && counts->refused == 0; i++)
        atomic_store(&acknowledged[results[i].position], 1);
}

/* Works on one lease; what it needs of the grant is copied, for the reply is the next call's. */
static void work_on(struct wire *wire, const struct proto_lease_reply *reply)
{
    struct proto_lease_reply grant = *reply;
    struct proto_work_result results[SP_MAX_LEASE_ITEMS];
    static _Thread_local int32_t ids[SP_MAX_LEASE_ITEMS][2];
    uint32_t n = reply->items_count;
    for (uint32_t i = 0; i < n; i++) {
        const struct proto_work_item *item = &reply->items[i];
        answer_of(item->position, ids[i]);
        results[i] = (struct proto_work_result){
            .set = item->set,
            .position = item->position,
            .prompt = item->prompt,
            .sample = item->sample,
            .ids = {.ids = ids[i], .count = 2},
            .finish = PROTO_FINISH_LENGTH, /* no end token */
            .logprob_ids = -1.5f,
            .logprob_a = -2.5f,
            .logprob_b = nanf(""),
        };
        ck_assert_msg(item->set == PROTO_SET_TRAIN, "the plan is used up before the last kill");
    }
    for (uint32_t i = 0; i < n && !atomic_load(&stop); i += BATCH) {
        submit(wire, &grant, results + i, SP_MIN(n - i, (uint32_t)BATCH));
        sp_sleep_ms(15);
    }
}

static void *generate(void *argument)
{
    struct wire *wire = argument;
    while (!atomic_load(&stop)) {
        struct proto_lease request = {.run = "r", .max_items = 32, .wait_ms = 200};
        struct sp_error err = {0};
        const void *reply;
        sp_random_secret(&request.request_id, sizeof(request.request_id));
        enum sp_err rc = worker_call(wire->peer, PROTO_LEASE, &request, 20000, &reply, &err);
        ck_assert_msg(rc == SP_OK, "lease: %s", err.text);
        const struct proto_lease_reply *grant = reply;
        if (grant->lease_id != 0)
            work_on(wire, grant);
    }
    return NULL;
}

/* Every row of the store, against what was acknowledged. */
static uint32_t check_store(struct cluster *cluster)
{
    static unsigned char seen[POSITIONS];
    uint32_t stored = 0;
    json_t *json = cluster_ctl_ok(cluster, "pairs", "--iteration", "0", "r", NULL), *row;
    size_t i;
    json_array_foreach(json_object_get(json, "pairs"), i, row)
    {
        uint64_t position = (uint64_t)cluster_number(row, "position");
        const json_t *ids = json_object_get(row, "generated_ids");
        int32_t expected[2];
        ck_assert_uint_lt(position, POSITIONS);
        ck_assert_msg(!seen[position], "position %d is there twice", (int)position);
        seen[position] = 1;
        if (!json_is_true(json_object_get(row, "stored"))) {
            ck_assert_msg(!atomic_load(&acknowledged[position]),
                          "position %d was acknowledged and is lost", (int)position);
            continue;
        }
        answer_of(position, expected);
        ck_assert_uint_eq(json_array_size(ids), 2);
        ck_assert_int_eq(json_integer_value(json_array_get(ids, 0)), expected[0]);
        ck_assert_int_eq(json_integer_value(json_array_get(ids, 1)), expected[1]);
        stored++;
    }
    json_decref(json);
    for (uint32_t p = 0; p < POSITIONS; p++)
        ck_assert_msg(seen[p] || !atomic_load(&acknowledged[p]),
                      "position %u was acknowledged and is lost", p);
    return stored;
}

START_TEST(test_no_acknowledged_pair_is_lost_and_none_counts_twice)
{
    struct cluster cluster;
    struct wire wires[THREADS];
    pthread_t threads[THREADS];
    int met = 0; /* kills that found a submission in flight */
    cluster_open(&cluster);
    /* these generators don't repeat each other's work */
    cluster_restart_with(&cluster, "coordinator.verify_share=0");
    cluster_write_rows(&cluster, "train.jsonl", 0, PROMPTS);
    cluster_create_run(&cluster, "r", 7, "generate.samples_per_prompt=64 data.holdout_share=0");
    cluster_start_iteration(&cluster, "r");
    for (int i = 0; i < THREADS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "w%d", i);
        wire_open(&wires[i], &cluster, PROTO_ROLE_GENERATOR, name);
        pthread_create(&threads[i], NULL, generate, &wires[i]);
    }
    for (int kill_number = 0; kill_number < KILLS; kill_number++) {
        uint32_t before = atomic_load(&sent);
        int64_t end_ms = sp_now_ms() + 20000;
        while (atomic_load(&sent) == before && sp_now_ms() < end_ms)
            sp_sleep_ms(1); /* it works again */
        ck_assert_msg(atomic_load(&sent) > before, "nothing is stored after kill %d", kill_number);
        sp_sleep_ms((int64_t)sp_rng_below(9, SP_STREAM_TEST, 0, (uint32_t)kill_number, 0, 0, 15));
        int64_t until_ms = sp_now_ms() + 100;
        while (atomic_load(&in_flight) == 0 && sp_now_ms() < until_ms)
            ;
        met += atomic_load(&in_flight) > 0;
        cluster_end(&cluster.coordinator, SIGKILL);
        cluster_start_coordinator(&cluster);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wire_close(&wires[i]);
    }
    uint32_t stored = check_store(&cluster), count = 0;
    for (uint32_t p = 0; p < POSITIONS; p++)
        count += atomic_load(&acknowledged[p]);
    ck_assert_uint_ge(stored, count);
    ck_assert_uint_eq(atomic_load(&refused), 0);
    ck_assert_int_ge(met, KILLS / 2);
    ck_assert_uint_gt(count, KILLS);
    ck_assert_int_eq((int)cluster_pairs_done(&cluster, "r"), (int)stored);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e/kills");
    TCase *c = tcase_create("kills");
    tcase_set_timeout(c, 200);
    tcase_add_test(c, test_no_acknowledged_pair_is_lost_and_none_counts_twice);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

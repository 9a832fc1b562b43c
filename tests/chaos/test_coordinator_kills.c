/* The coordinator is killed with -9 again and again while generators have submissions in flight:
 * whatever it acknowledged is there afterwards, once and with its bits. The daemon, the wire
 * protocol and the store are the real ones; the generators are threads of this program that make up
 * their answers. SPIN_TEST_LONG=yes kills it 500 times instead of 100. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/rng.h"
#include "coordinator/tokens.h"
#include "proto/rpc.h"
#include "tests/unit/coordinator/create_fixture.h"

#define THREADS 3
#define ROWS 1000
#define SAMPLES 32
#define POSITIONS (ROWS * SAMPLES)

struct world {
    struct cf cf;
    char url[128];
    char token[COORD_TOKEN_TEXT_BYTES], admin[COORD_TOKEN_TEXT_BYTES];
    char log[128]; /* of the newest coordinator */
    pid_t coordinator;
    atomic_bool stop;
    atomic_int in_flight;                 /* submissions on their way */
    atomic_uchar acknowledged[POSITIONS]; /* how often a reply said so */
    atomic_uint submissions, duplicates, refused, hellos;
};

static struct world *world; /* of the test that runs: threads and the death handler need it */

/* nng loses a connection's memory when its peer dies during the handshake. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng.so\n";
}

/* ---- answers that follow from their position ---- */

static void answer_of(uint64_t position, int32_t ids[8], struct proto_work_result *ret)
{
    uint32_t n = 1 + (uint32_t)(position % 7);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = 2 + (int32_t)((position * 31 + i * 17) % (CF_VOCAB - 2));
    ids[n - 1] = 1;
    *ret = (struct proto_work_result){
        .position = position,
        .ids = {ids, n},
        .finish = PROTO_FINISH_STOP,
        .logprob_ids = -0.001f * (float)position,
        .logprob_a = -1.0f - 0.002f * (float)position,
    };
}

/* ---- a generator ---- */

struct generator {
    struct proto_client *client;
    uint64_t worker_id, request_id;
    uint32_t number, draws;
};

static bool stopping(void *context)
{
    return atomic_load(&world->stop);
}

static void hello(struct generator *g)
{
    struct sp_error err;
    char name[16];
    snprintf(name, sizeof(name), "fake-%u", g->number);
    struct proto_hello request = {.role = PROTO_ROLE_GENERATOR,
                                  .name = name,
                                  .instance = g->number + 1,
                                  .version = "test",
                                  .numerics_class = "cpu made-up",
                                  .slots = 8};
    const void *reply = NULL;
    if (proto_call(g->client, PROTO_HELLO, &request, -1, &reply, &err) == SP_OK)
        g->worker_id = ((const struct proto_hello_reply *)reply)->worker_id;
    atomic_fetch_add(&world->hellos, 1);
}

/* What a lease says, kept over the next calls of the client. */
struct batch {
    struct proto_submit submit;
    struct proto_work_result results[8];
    int32_t ids[8][8];
    uint64_t lease_id;
    uint32_t iteration;
    struct sp_digest checkpoint;
    uint32_t count;
};

static bool lease(struct generator *g, struct batch *batch)
{
    struct sp_error err;
    struct proto_lease request = {.worker_id = g->worker_id,
                                  .request_id = ++g->request_id,
                                  .run = "demo",
                                  .max_items = 1 + (g->draws++ * 5 + g->number) % 8,
                                  .wait_ms = 100};
    const void *body = NULL;
    enum sp_err rc = proto_call(g->client, PROTO_LEASE, &request, -1, &body, &err);
    if (rc == SP_ESTALE)
        hello(g);
    if (rc != SP_OK)
        return false;
    const struct proto_lease_reply *reply = body;
    batch->lease_id = reply->lease_id;
    batch->iteration = reply->iteration;
    batch->checkpoint = reply->checkpoint;
    batch->count = 0;
    for (uint32_t i = 0; i < reply->items_count && i < 8; i++) {
        const struct proto_work_item *item = &reply->items[i];
        struct proto_work_result *result = &batch->results[batch->count];
        if (item->set != PROTO_SET_TRAIN || item->kind != PROTO_WORK_SAMPLE)
            continue;
        answer_of(item->position, batch->ids[batch->count], result);
        result->set = item->set;
        result->prompt = item->prompt;
        result->sample = item->sample;
        batch->count++;
    }
    return batch->lease_id != 0 && batch->count > 0;
}

/* Until a reply has come: lost ones are sent again, as a generator does. */
static void submit(struct generator *g, struct batch *batch)
{
    enum sp_err rc = SP_ESTALE;
    const void *body = NULL;
    while (rc == SP_ESTALE && !atomic_load(&world->stop)) {
        struct sp_error err = {0};
        struct proto_submit request = {.worker_id = g->worker_id,
                                       .run = "demo",
                                       .iteration = batch->iteration,
                                       .lease_id = batch->lease_id,
                                       .checkpoint = batch->checkpoint,
                                       .results = batch->results,
                                       .results_count = batch->count};
        atomic_fetch_add(&world->in_flight, 1);
        rc = proto_call(g->client, PROTO_SUBMIT, &request, -1, &body, &err);
        atomic_fetch_sub(&world->in_flight, 1);
        if (rc == SP_ESTALE)
            hello(g);
        else if (rc != SP_OK && rc != SP_ECANCELED)
            ck_abort_msg("submit: %s: %s", sp_err_name(rc), err.text);
    }
    if (rc != SP_OK)
        return;
    const struct proto_submit_reply *reply = body;
    atomic_fetch_add(&world->submissions, 1);
    atomic_fetch_add(&world->duplicates, reply->duplicates);
    atomic_fetch_add(&world->refused, reply->refused);
    if (reply->refused)
        return;
    ck_assert_uint_eq(reply->stored + reply->duplicates, batch->count);
    for (uint32_t i = 0; i < batch->count; i++)
        atomic_fetch_add(&world->acknowledged[batch->results[i].position], 1);
}

static void *generate(void *argument)
{
    struct generator g = {.number = (uint32_t)(uintptr_t)argument};
    struct sp_error err;
    struct proto_client_options options = {.url = world->url,
                                           .token = world->token,
                                           .connect_ms = 1000,
                                           .request_ms = 3000,
                                           .backoff_min_ms = 2,
                                           .backoff_max_ms = 20,
                                           .cancelled = stopping};
    struct batch *batch = sp_xalloc(sizeof(*batch));
    ck_assert_msg(proto_client_open(&options, &g.client, &err) == SP_OK, "%s", err.text);
    hello(&g);
    while (!atomic_load(&world->stop)) {
        if (lease(&g, batch))
            submit(&g, batch);
    }
    proto_client_free(g.client);
    free(batch);
    return NULL;
}

/* ---- the coordinator ---- */

static void start_coordinator(void)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        int log = open(world->log, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        if (log >= 0)
            dup2(log, STDERR_FILENO);
        execl(SPIN_BUILD_ROOT "/coordinator/spin-coordinator", "spin-coordinator", "--state-dir",
              world->cf.fx.dir, "--set", "coordinator.time_scale=0.05", (char *)NULL);
        _exit(127);
    }
    world->coordinator = child;
}

static void end_coordinator(int signal_number)
{
    int status = 0;
    ck_assert_int_eq(kill(world->coordinator, signal_number), 0);
    ck_assert_int_eq(waitpid(world->coordinator, &status, 0), world->coordinator);
    world->coordinator = 0;
    if (signal_number == SIGKILL)
        ck_assert_msg(WIFSIGNALED(status), "the coordinator had ended by itself: status %d",
                      status);
    else
        ck_assert_msg(status == 0, "the coordinator ended with status %d", status);
}

static void kill_with_the_test(void)
{
    if (world && world->coordinator > 0)
        kill(world->coordinator, SIGKILL);
}

/* Fails the test with what the coordinator had to say. */
static void coordinator_is_stuck(int k)
{
    char *text = NULL;
    size_t length = 0;
    int status = 0;
    bool ended = waitpid(world->coordinator, &status, WNOHANG) == world->coordinator;
    if (ended)
        world->coordinator = 0;
    if (sp_read_file(world->log, 1 << 20, &text, &length, NULL) != SP_OK)
        text = NULL;
    ck_abort_msg("kill %d: the coordinator takes no submissions (%s, status %d): %s", k,
                 ended ? "ended" : "runs", status, text ? text : "no log");
}

/* An admin verb; it is repeated until a coordinator answers. */
static void admin(const char *verb)
{
    struct fx fx = {0};
    struct proto_client *client = NULL;
    struct proto_client_options options = {.url = world->url,
                                           .token = world->admin,
                                           .connect_ms = 1000,
                                           .backoff_min_ms = 2,
                                           .backoff_max_ms = 20};
    struct proto_admin request = {.verb = verb, .run = "demo", .args = "{}"};
    const void *reply = NULL;
    OK(proto_client_open(&options, &client, &fx.err));
    OK(proto_call(client, PROTO_ADMIN, &request, 20000, &reply, &fx.err));
    proto_client_free(client);
}

/* ---- before and after ---- */

static void mint(struct fx fx, uint32_t role, char text[COORD_TOKEN_TEXT_BYTES])
{
    char id[COORD_TOKEN_ID_CHARS + 1];
    struct store_token token;
    OK(coord_token_mint(role, "test", "", sp_wall_ms(), 0, text, id, &token, &fx.err));
    store_begin(fx.store);
    OK(store_token_put(fx.store, &token, &fx.err));
    OK(store_commit(fx.store, &fx.err));
}

static void make_world(void)
{
    world = sp_xalloc(sizeof(*world));
    world->cf = cf_new();
    struct cf *cf = &world->cf;
    char *rows = cf_rows("p", ROWS), assignment[64];
    cf_data(cf, "train", rows);
    free(rows);
    snprintf(assignment, sizeof(assignment), "generate.samples_per_prompt=%d", SAMPLES);
    cf_set(cf, assignment);
    cf_set(cf, "data.holdout_share=0");
    cf_make(cf);
    mint(cf->fx, PROTO_ROLE_GENERATOR, world->token);
    mint(cf->fx, PROTO_ROLE_ADMIN, world->admin);
    store_close(cf->fx.store);
    cf->fx.store = NULL;
    ckpt_blobs_close(cf->blobs);
    cf->blobs = NULL;
    snprintf(world->log, sizeof(world->log), "%s/log", cf->fx.dir);
    snprintf(world->url, sizeof(world->url), "ipc://%s/coordinator.sock", cf->fx.dir);
}

/* Every stored row against what was sent, and every acknowledged position against the rows. */
static uint32_t inspect(struct fx *real_fx)
{
    struct fx fx = *real_fx;
    OK(store_open(fx.dir, NULL, &fx.store, &fx.err));
    OK(store_run_open(fx.store, "demo", &fx.run, &fx.err));
    uint8_t *there = sp_xalloc(POSITIONS);
    uint32_t stored = 0, lost = 0;
    size_t got = 0;
    for (uint64_t next = 0; next == 0 || got > 0;) {
        struct store_result *rows = NULL;
        sp_arena_reset(fx.arena);
        OK(store_results_range(fx.run, 0, PROTO_SET_TRAIN, next, 500, fx.arena, &rows, &got,
                               &fx.err));
        for (size_t i = 0; i < got; i++) {
            struct proto_work_result want;
            int32_t ids[8];
            answer_of(rows[i].position, ids, &want);
            ck_assert_uint_lt(rows[i].position, POSITIONS);
            ck_assert_msg(!there[rows[i].position]++, "a position twice");
            ck_assert_uint_eq(rows[i].ids.count, want.ids.count);
            ck_assert_mem_eq(rows[i].ids.ids, ids, want.ids.count * sizeof(int32_t));
            ck_assert(rows[i].ref_generated == want.logprob_ids);
            ck_assert(rows[i].ref_real == want.logprob_a);
            next = rows[i].position + 1;
            stored++;
        }
        if (got == 0)
            break;
    }
    for (uint32_t p = 0; p < POSITIONS; p++)
        lost += atomic_load(&world->acknowledged[p]) > 0 && !there[p];
    ck_assert_msg(lost == 0, "%u acknowledged pairs are lost", lost);
    free(there);
    store_close(fx.store);
    return stored;
}

START_TEST(test_kills)
{
    const char *more = getenv("SPIN_TEST_LONG");
    int kills = more && strcmp(more, "yes") == 0 ? 500 : 100, with_work = 0;
    pthread_t threads[THREADS];
    sp_log_set_level(SP_LOG_ERROR); /* lost connections are what this is about */
    make_world();
    atexit(kill_with_the_test);
    start_coordinator();
    admin("start-iteration");
    for (uintptr_t i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, generate, (void *)i), 0);
    for (int k = 0; k < kills; k++) {
        /* A life lasts until so many more submissions were answered, and a moment: so the death
         * meets others at every stage between the socket and the commit. */
        uint32_t before = atomic_load(&world->submissions);
        uint32_t least = 2 + (uint32_t)sp_rng_below(k, SP_STREAM_TEST, 0, 0, 0, 0, 12);
        for (int64_t end = sp_now_ms() + 20000;
             atomic_load(&world->submissions) - before < least && sp_now_ms() < end;)
            usleep(200);
        if (atomic_load(&world->submissions) - before < least)
            coordinator_is_stuck(k);
        usleep((useconds_t)sp_rng_below(k, SP_STREAM_TEST, 0, 1, 0, 0, 3000));
        with_work += atomic_load(&world->in_flight) > 0;
        end_coordinator(SIGKILL);
        start_coordinator();
    }
    admin("ping");
    atomic_store(&world->stop, true);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    end_coordinator(SIGTERM);
    uint32_t stored = inspect(&world->cf.fx), acknowledged = 0;
    for (uint32_t p = 0; p < POSITIONS; p++)
        acknowledged += atomic_load(&world->acknowledged[p]) > 0;
    fprintf(stderr,
            "%d kills, %d with submissions in flight: %u pairs acknowledged, %u stored, %u sent "
            "again, %u refused\n",
            kills, with_work, acknowledged, stored, atomic_load(&world->duplicates),
            atomic_load(&world->refused));
    ck_assert_int_ge(with_work, kills / 2);
    ck_assert_uint_ge(acknowledged, (uint32_t)kills * 5);
    ck_assert_uint_lt(acknowledged, POSITIONS);            /* there was work to the end */
    ck_assert_uint_gt(atomic_load(&world->duplicates), 0); /* some replies were lost */
    world->cf.fx.store = NULL;
    cf_free(&world->cf);
    free(world);
    world = NULL;
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("coordinator_kills");
    TCase *t = tcase_create("coordinator_kills");
    tcase_set_timeout(t, 90);
    tcase_add_test(t, test_kills);
    suite_add_tcase(s, t);
    return s;
}

/* nng's threads do not survive a fork of the test runner. */
int main(void)
{
    setenv("CK_FORK", "no", 1);
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

/* Power losses under the store and the blob store: whatever was acknowledged is there afterwards,
 * once and with its bits; what was not is there whole or not at all. 100 seeds, several losses
 * each; a failing seed is printed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/checkpoint/blobstore.h"
#include "coordinator/store/internal.h"
#include "tests/sim/vfs.h"
#include "tests/unit/checkpoint/sim_disk.h"
#include "tests/unit/coordinator/store_fixture.h"

#define SEEDS 100
#define RESULTS 3000 /* positions */
#define TOKENS 300   /* of an answer, at most: rows of a few hundred bytes fill pages quickly */
#define CHUNKS 64
#define LOSSES 4

/* What the outside was told, and what it tried. */
struct history {
    uint8_t acked[RESULTS];  /* results */
    uint32_t batch[RESULTS]; /* transaction that first tried it since the last restart, 0: none */
    uint8_t blob[CHUNKS];    /* put returned SP_OK */
    uint8_t checkpoint[CHUNKS]; /* its row's commit returned SP_OK */
    bool second_run;            /* adoption was acknowledged */
    uint32_t attempts;          /* state of the iteration: attempt of the newest acknowledged put */
    uint32_t tried;             /* and of the newest tried one */
};

struct sim {
    uint64_t seed;
    uint32_t draws;
    struct fx fx;
    struct sim_vfs *vfs;
    struct sim_disk *disk;
    struct ckpt_blobs *blobs;
    struct store_options options;
    struct history history;
    uint32_t batches;
    bool lying; /* a disk that does not sync */
};

static uint32_t pick(struct sim *sim, uint32_t bound)
{
    return (uint32_t)sp_rng_below(sim->seed, SP_STREAM_TEST, 0, sim->draws++, 0, 0, bound);
}

static void chunk_of(uint32_t i, char text[64], struct sp_digest *digest)
{
    snprintf(text, 64, "chunk %u of many", i);
    fx_digest(digest, text);
}

/* The result at a position: everything in it follows from the position. ids: room for TOKENS. */
static struct store_result result_at(uint64_t position, int32_t *ids)
{
    int32_t few[4];
    struct store_result r = fx_result(position, few);
    r.ids = (struct proto_ids){ids, 1 + (uint32_t)(position * 37 % TOKENS)};
    for (uint32_t i = 0; i < r.ids.count; i++)
        ids[i] = (int32_t)(position + i);
    return r;
}

/* ---- one life: until the power goes ---- */

static bool is_off(const struct sim *sim)
{
    return sim_vfs_is_off(sim->vfs) || sim_disk_is_off(sim->disk);
}

/* false when the power went while opening; any other failure is the program's. */
static bool power_on(struct sim *sim)
{
    struct fx *fx = &sim->fx;
    fx->store = NULL;
    fx->run = NULL;
    sim->blobs = NULL;
    enum sp_err rc = store_open(fx->dir, &sim->options, &fx->store, &fx->err);
    if (rc == SP_OK)
        rc = store_run_open(fx->store, "one", &fx->run, &fx->err);
    /* Checkpoints of the log come often, so that power goes in them, too. */
    if (rc == SP_OK)
        sqlite3_wal_autocheckpoint(fx->run->db->handle, 24);
    if (rc == SP_OK)
        rc = ckpt_blobs_open("/state", sim_disk_fs(sim->disk), &sim->blobs, &fx->err);
    if (rc == SP_OK)
        rc = ckpt_blobs_sweep(sim->blobs, &fx->err);
    if (rc != SP_OK && !is_off(sim))
        ck_abort_msg("seed %llu: cannot open after a power loss: %s", (unsigned long long)sim->seed,
                     fx->err.text);
    return rc == SP_OK;
}

static void power_gone(struct sim *sim)
{
    sim_vfs_power_off(sim->vfs);
    ckpt_blobs_close(sim->blobs);
    store_close(sim->fx.store);
    sim->blobs = NULL;
    sim->fx.store = NULL;
    sim_vfs_restart(sim->vfs);
    sim_disk_restart(sim->disk);
    memset(sim->history.batch, 0, sizeof(sim->history.batch));
}

/* A transaction of results, with now and then a state change in it. */
static bool submit(struct sim *sim)
{
    struct fx *fx = &sim->fx;
    struct history *h = &sim->history;
    uint32_t n = 1 + pick(sim, 40), first = pick(sim, RESULTS), batch = ++sim->batches;
    uint32_t positions[40];
    int32_t ids[TOKENS];
    enum store_put put;
    store_begin(fx->store);
    for (uint32_t i = 0; i < n; i++) {
        positions[i] = (first + i * 7) % RESULTS;
        struct store_result r = result_at(positions[i], ids);
        if (store_result_put(fx->run, &r, &put, &fx->err) != SP_OK)
            return false;
        if (put == STORE_DIFFERENT || (put == STORE_NEW && h->acked[positions[i]]))
            ck_abort_msg("seed %llu: position %u: lost or changed", (unsigned long long)sim->seed,
                         positions[i]);
        if (put == STORE_NEW)
            h->batch[positions[i]] = batch;
    }
    struct store_iteration it = {.attempt = h->tried + 1};
    bool change = pick(sim, 4) == 0;
    if (change && store_iteration_put(fx->run, &it, &fx->err) != SP_OK)
        return false;
    h->tried += change;
    if (store_commit(fx->store, &fx->err) != SP_OK)
        return false;
    for (uint32_t i = 0; i < n; i++)
        h->acked[positions[i]] = 1;
    if (change)
        h->attempts = h->tried;
    return true;
}

/* A published checkpoint: its blob first, then the row that refers to it. */
static bool publish(struct sim *sim)
{
    struct fx *fx = &sim->fx;
    uint32_t i = pick(sim, CHUNKS);
    char text[64];
    struct store_checkpoint row = {.iteration = (int32_t)i, .provenance = "{}"};
    chunk_of(i, text, &row.digest);
    row.manifest = row.digest;
    if (ckpt_blobs_put(sim->blobs, &row.digest, text, strlen(text), &fx->err) != SP_OK)
        return false;
    sim->history.blob[i] = 1;
    store_begin(fx->store);
    if (store_checkpoint_put(fx->run, &row, &fx->err) != SP_OK ||
        store_blob_refs_add(fx->run, text, &row.digest, 1, &fx->err) != SP_OK ||
        store_commit(fx->store, &fx->err) != SP_OK)
        return false;
    sim->history.checkpoint[i] = 1;
    return true;
}

static bool make_second_run(struct sim *sim)
{
    struct fx *fx = &sim->fx;
    struct store_run *run = NULL;
    if (store_run_open(fx->store, "two", &run, &fx->err) == SP_OK)
        return true;
    enum sp_err rc = fx_build(fx->dir, "two", &sim->options, &fx->err);
    if (rc == SP_EEXIST && sim->lying) /* a file without its contents */
        return true;
    if (rc != SP_OK)
        return false;
    store_begin(fx->store);
    if (store_run_adopt(fx->store, "two", &fx->err) != SP_OK ||
        store_commit(fx->store, &fx->err) != SP_OK)
        return false;
    sim->history.second_run = true;
    return true;
}

static void live(struct sim *sim)
{
    bool good = true;
    while (good) {
        uint32_t what = pick(sim, 24);
        good = what == 0 ? make_second_run(sim) : what < 6 ? publish(sim) : submit(sim);
    }
    ck_assert_msg(is_off(sim), "seed %llu: %s", (unsigned long long)sim->seed, sim->fx.err.text);
}

/* ---- after a loss ---- */

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "seed %llu: ", (unsigned long long)sim->seed);                         \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            wrong++;                                                                               \
        }                                                                                          \
    } while (0)

static int inspect_results(struct sim *sim, const uint32_t *batch)
{
    struct fx *fx = &sim->fx;
    struct history *h = &sim->history;
    struct store_result *rows = NULL;
    size_t count = 0;
    int wrong = 0;
    int32_t ids[TOKENS];
    uint8_t there[RESULTS] = {0};
    int8_t *whole = sp_xalloc(sim->batches + 1); /* by transaction: 1 there, -1 not, 0 not seen */
    enum sp_err rc = store_results_range(fx->run, 0, PROTO_SET_TRAIN, 0, RESULTS + 1, fx->arena,
                                         &rows, &count, &fx->err);
    CHECK(rc == SP_OK, "results: %s", fx->err.text);
    for (size_t i = 0; i < count && rc == SP_OK; i++) {
        struct store_result want = result_at(rows[i].position, ids);
        CHECK(rows[i].position < RESULTS && !there[rows[i].position], "position twice");
        there[rows[i].position % RESULTS] = 1;
        CHECK(rows[i].ref_real == want.ref_real && rows[i].ids.count == want.ids.count &&
                  memcmp(rows[i].ids.ids, want.ids.ids, want.ids.count * sizeof(int32_t)) == 0,
              "position %llu has other bits", (unsigned long long)rows[i].position);
    }
    for (uint32_t p = 0; p < RESULTS; p++) {
        CHECK(there[p] || !h->acked[p], "position %u was acknowledged and is lost", p);
        /* Rows of one transaction are there together or not at all. */
        int8_t now = there[p] ? 1 : -1, *before = &whole[batch[p]];
        CHECK(batch[p] == 0 || *before == 0 || *before == now, "half a transaction: position %u",
              p);
        *before = now;
    }
    free(whole);
    return wrong;
}

static int inspect_blobs(struct sim *sim)
{
    struct fx *fx = &sim->fx;
    int wrong = 0;
    for (uint32_t i = 0; i < CHUNKS; i++) {
        char text[64];
        struct sp_digest digest;
        struct store_checkpoint row;
        uint8_t *data = NULL;
        size_t length = 0;
        chunk_of(i, text, &digest);
        enum sp_err rc = store_checkpoint_get(fx->run, &digest, fx->arena, &row, &fx->err);
        bool have_row = rc == SP_OK;
        CHECK(rc == SP_OK || rc == SP_ENOTFOUND, "checkpoint: %s", fx->err.text);
        CHECK(have_row || !sim->history.checkpoint[i], "checkpoint %u is lost", i);
        rc = ckpt_blobs_get(sim->blobs, &digest, &data, &length, &fx->err);
        CHECK(rc == SP_OK || (!have_row && !sim->history.blob[i] && rc == SP_ENOTFOUND),
              "blob %u: row %d, acknowledged %d: %s", i, have_row, sim->history.blob[i],
              fx->err.text);
        free(data);
    }
    return wrong;
}

static int inspect(struct sim *sim, const uint32_t *batch)
{
    struct fx *fx = &sim->fx;
    struct store_iteration it = {0};
    struct store_run *two = NULL;
    int wrong = inspect_results(sim, batch) + inspect_blobs(sim);
    enum sp_err rc = store_iteration_get(fx->run, 0, fx->arena, &it, &fx->err);
    CHECK(rc == SP_OK || (rc == SP_ENOTFOUND && sim->history.attempts == 0), "iteration: %s",
          fx->err.text);
    CHECK(it.attempt >= sim->history.attempts && it.attempt <= sim->history.tried,
          "iteration: attempt %llu, acknowledged %u, tried %u", (unsigned long long)it.attempt,
          sim->history.attempts, sim->history.tried);
    sim->history.attempts = sim->history.tried = (uint32_t)it.attempt;
    rc = store_run_open(fx->store, "two", &two, &fx->err);
    CHECK(rc == SP_OK || (rc == SP_ENOTFOUND && !sim->history.second_run), "second run: %s",
          fx->err.text);
    if (rc == SP_OK) {
        uint64_t lengths[FX_TRAIN];
        rc = store_prompt_lengths(two, STORE_SPLIT_TRAIN, lengths, &fx->err);
        CHECK(rc == SP_OK && lengths[FX_TRAIN - 1] == 5, "second run: %s", fx->err.text);
        sim->history.second_run = true;
    }
    sp_arena_reset(fx->arena);
    return wrong;
}

static struct sim *sim_new(uint64_t seed)
{
    struct sim *sim = sp_xalloc(sizeof(*sim));
    sim->seed = seed;
    sim->fx = fx_new("one"); /* the run was there before */
    store_close(sim->fx.store);
    sim->vfs = sim_vfs_new(seed);
    sim->disk = sim_disk_new(seed);
    sim->options = (struct store_options){.vfs = sim_vfs_name(sim->vfs)};
    return sim;
}

static void sim_free(struct sim *sim)
{
    ckpt_blobs_close(sim->blobs);
    fx_free(&sim->fx);
    sim_vfs_free(sim->vfs);
    sim_disk_free(sim->disk);
    free(sim);
}

/* Number of broken promises. */
static int run_seed(uint64_t seed, bool lying, uint64_t *lost)
{
    struct sim *sim = sim_new(seed);
    int wrong = 0;
    sim->lying = lying;
    ck_assert(power_on(sim));
    for (int loss = 0; loss < LOSSES && wrong == 0; loss++) {
        uint32_t batch[RESULTS];
        sim_vfs_ignore_sync(sim->vfs, lying);
        sim_vfs_power_off_after(sim->vfs, 20 + pick(sim, 2500));
        sim_disk_power_off_after(sim->disk, 20 + pick(sim, 900));
        live(sim);
        memcpy(batch, sim->history.batch, sizeof(batch));
        power_gone(sim);
        /* The power may go again while the store recovers. */
        if (pick(sim, 2)) {
            sim_vfs_power_off_after(sim->vfs, pick(sim, 12));
            (void)power_on(sim);
            power_gone(sim);
        }
        if (lying) { /* it may not even open */
            struct store_options options = sim->options;
            enum sp_err rc = store_open(sim->fx.dir, &options, &sim->fx.store, &sim->fx.err);
            if (rc == SP_OK)
                rc = store_run_open(sim->fx.store, "one", &sim->fx.run, &sim->fx.err);
            store_close(sim->fx.store);
            sim->fx.store = NULL;
            if (rc != SP_OK) {
                wrong++;
                break;
            }
        }
        ck_assert(power_on(sim));
        wrong += inspect(sim, batch);
    }
    *lost += sim_vfs_lost(sim->vfs);
    sim_free(sim);
    return wrong;
}

START_TEST(test_power_loss)
{
    uint64_t lost = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        ck_assert_msg(run_seed(seed, false, &lost) == 0, "seed %llu", (unsigned long long)seed);
    ck_assert_msg(lost > 1000, "only %llu writes were lost: the test tests nothing",
                  (unsigned long long)lost);
}
END_TEST

/* With a disk that does not sync the same checks find losses: they can fail. */
START_TEST(test_the_checks_can_fail)
{
    uint64_t lost = 0;
    int found = 0;
    for (uint64_t seed = 1; seed <= 5; seed++)
        found += run_seed(seed, true, &lost) > 0;
    ck_assert_int_ge(found, 4);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("power_loss");
    TCase *t = tcase_create("power_loss");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_power_loss);
    tcase_add_test(t, test_the_checks_can_fail);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

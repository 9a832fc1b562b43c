#include "common/checkpoint/blobstore.h"

#include <pthread.h>

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "tests/unit/checkpoint/scratch.h"
#include "tests/unit/checkpoint/sim_disk.h"

static struct sp_error error;

static void expect_blob(struct ckpt_blobs *blobs, const struct sp_digest *digest, const void *data,
                        size_t length)
{
    uint8_t *got;
    size_t got_length;
    ck_ok(ckpt_blobs_get(blobs, digest, &got, &got_length, &error));
    ck_assert_uint_eq(got_length, length);
    ck_assert(length == 0 || memcmp(got, data, length) == 0);
    ck_assert_int_eq(got[length], 0);
    free(got);
}

static bool count_blob(void *context, const struct sp_digest *digest, uint64_t bytes)
{
    uint64_t *sums = context;
    sums[0]++;
    sums[1] += bytes;
    return true;
}

START_TEST(test_put_get_delete)
{
    char *dir = scratch_new();
    struct ckpt_blobs *blobs;
    struct sp_digest a, b, empty;
    uint64_t count, bytes, sums[2] = {0};
    ck_ok(ckpt_blobs_open(dir, NULL, &blobs, &error));
    ck_ok(ckpt_blobs_put_new(blobs, "hello", 5, &a, &error));
    ck_ok(ckpt_blobs_put_new(blobs, "hello", 5, &a, &error));
    ck_ok(ckpt_blobs_put(blobs, &a, "hello", 5, &error));
    ck_ok(ckpt_blobs_put_new(blobs, "", 0, &empty, &error));
    sp_sha256_of("world!", 6, &b);
    ck_assert(ckpt_blobs_has(blobs, &a) && !ckpt_blobs_has(blobs, &b));
    ck_fails(ckpt_blobs_put(blobs, &b, "hello", 5, &error), SP_ECORRUPT, "another SHA-256");
    uint8_t *data;
    size_t length;
    ck_fails(ckpt_blobs_get(blobs, &b, &data, &length, &error), SP_ENOTFOUND, "blob");
    expect_blob(blobs, &a, "hello", 5);
    expect_blob(blobs, &empty, "", 0);
    char *big = sp_xalloc(SP_MAX_CHUNK + 1);
    ck_fails(ckpt_blobs_put_new(blobs, big, SP_MAX_CHUNK + 1, &b, &error), SP_ELIMIT, "limit");
    ck_ok(ckpt_blobs_put_new(blobs, big, SP_MAX_CHUNK, &b, &error));
    free(big);
    ckpt_blobs_usage(blobs, &count, &bytes);
    ck_assert_uint_eq(count, 3);
    ck_assert_uint_eq(bytes, 5 + SP_MAX_CHUNK);
    ckpt_blobs_close(blobs);
    /* The layout that the header promises, and the same counts after opening again. */
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&a, hex);
    char *path = sp_xprintf("blobs/%.2s/%s", hex, hex);
    char *text = get_text(dir, path);
    ck_assert_str_eq(text, "hello");
    free(text);
    put_text(dir, "blobs/tmp/left-over", "x");
    put_text(dir, "blobs/not-a-blob", "x");
    ck_ok(ckpt_blobs_open(dir, NULL, &blobs, &error));
    ck_ok(ckpt_blobs_sweep(blobs, &error));
    char *left = sp_path_join(dir, "blobs/tmp/left-over");
    ck_assert(!sp_path_exists(left));
    free(left);
    ck_ok(ckpt_blobs_each(blobs, count_blob, sums, &error));
    ck_assert_uint_eq(sums[0], 3);
    ck_assert_uint_eq(sums[1], 5 + SP_MAX_CHUNK);
    ck_ok(ckpt_blobs_delete(blobs, &b, &error));
    ck_ok(ckpt_blobs_delete(blobs, &b, &error));
    ckpt_blobs_usage(blobs, &count, &bytes);
    ck_assert_uint_eq(count, 2);
    ck_assert_uint_eq(bytes, 5);
    /* A damaged copy is told on reading, and mended by the next put. */
    put_text(dir, path, "hellO");
    ck_fails(ckpt_blobs_get(blobs, &a, &data, &length, &error), SP_ECORRUPT, "not its name");
    ck_ok(ckpt_blobs_put(blobs, &a, "hello", 5, &error));
    expect_blob(blobs, &a, "hello", 5);
    ckpt_blobs_usage(blobs, &count, &bytes);
    ck_assert_uint_eq(count, 2);
    ckpt_blobs_close(blobs);
    free(path);
    scratch_free(dir);
}
END_TEST

struct race {
    struct ckpt_blobs *blobs;
    struct sp_digest first; /* the blob that the collection came to first */
    int seen;
    bool reads;
};

/* Refers to nothing; while the second blob is looked at somebody asks for the first. */
static bool refer_to_nothing(void *context, const struct sp_digest *digest)
{
    struct race *race = context;
    if (++race->seen == 1)
        race->first = *digest;
    if (race->seen == 2 && race->reads) {
        uint8_t *data;
        size_t length;
        ck_ok(ckpt_blobs_get(race->blobs, &race->first, &data, &length, &error));
        free(data);
    } else if (race->seen == 2) {
        ck_assert(ckpt_blobs_has(race->blobs, &race->first));
    }
    return false;
}

/* An upload that was told "it is here" counts on it: no collection that had judged it before takes
 * it away. _i: asked for or read. */
START_TEST(test_what_is_asked_for_during_a_collection_stays)
{
    char *dir = scratch_new();
    struct sp_digest blobs_of[2];
    struct ckpt_collected done;
    struct race race = {.reads = _i == 1, .seen = 2};
    struct ckpt_collect ask = {.referenced = refer_to_nothing, .context = &race, .grace_ms = 10};
    ck_ok(ckpt_blobs_open(dir, NULL, &race.blobs, &error));
    ck_ok(ckpt_blobs_put_new(race.blobs, "hello", 5, &blobs_of[0], &error));
    ck_ok(ckpt_blobs_put_new(race.blobs, "world", 5, &blobs_of[1], &error));
    ck_ok(ckpt_blobs_collect(race.blobs, &ask, &done, &error)); /* marks both */
    ck_assert_uint_eq(done.waiting, 2);
    race.seen = 0;
    ask.now_ms = 20;
    ck_ok(ckpt_blobs_collect(race.blobs, &ask, &done, &error));
    ck_assert_uint_eq(done.deleted, 1);
    ck_assert(ckpt_blobs_has(race.blobs, &race.first));
    bool same = sp_digest_equal(&race.first, &blobs_of[0]);
    ck_assert(!ckpt_blobs_has(race.blobs, &blobs_of[same ? 1 : 0]));
    ckpt_blobs_close(race.blobs);
    scratch_free(dir);
}
END_TEST

START_TEST(test_open_refuses)
{
    struct ckpt_blobs *blobs;
    ck_fails(ckpt_blobs_open("/no/such", NULL, &blobs, &error), SP_ENOTFOUND, "/no/such");
}
END_TEST

struct putter {
    struct ckpt_blobs *blobs;
    pthread_t thread;
};

static void *put_many(void *arg)
{
    struct putter *putter = arg;
    for (uint32_t i = 0; i < 50; i++) {
        struct sp_digest digest;
        if (ckpt_blobs_put_new(putter->blobs, &i, sizeof(i), &digest, NULL) != SP_OK)
            return putter;
    }
    return NULL;
}

START_TEST(test_threads)
{
    char *dir = scratch_new();
    struct ckpt_blobs *blobs;
    struct putter putters[4];
    uint64_t count, bytes;
    ck_ok(ckpt_blobs_open(dir, NULL, &blobs, &error));
    for (size_t i = 0; i < 4; i++) {
        putters[i].blobs = blobs;
        ck_assert_int_eq(pthread_create(&putters[i].thread, NULL, put_many, &putters[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        void *result;
        pthread_join(putters[i].thread, &result);
        ck_assert_ptr_null(result);
    }
    ckpt_blobs_usage(blobs, &count, &bytes);
    ck_assert_uint_eq(count, 50);
    ck_assert_uint_eq(bytes, 200);
    ckpt_blobs_close(blobs);
    scratch_free(dir);
}
END_TEST

/* ---- power loss ---- */

#define BLOBS 40

struct history {
    uint8_t data[BLOBS][64];
    size_t length[BLOBS];
    struct sp_digest digest[BLOBS];
    bool acknowledged[BLOBS];
    bool deleted[BLOBS]; /* asked to, whatever came of it */
};

static uint32_t pick(uint64_t seed, uint32_t *draws, uint32_t bound)
{
    return (uint32_t)sp_rng_below(seed, SP_STREAM_TEST, 2, (*draws)++, 0, 0, bound);
}

/* Puts and deletes until the power goes; what put acknowledged is noted. */
static void live(struct sim_disk *disk, uint64_t seed, uint32_t *draws, struct history *history)
{
    struct ckpt_blobs *blobs;
    if (ckpt_blobs_open("/state", sim_disk_fs(disk), &blobs, &error) != SP_OK)
        return;
    (void)!ckpt_blobs_sweep(blobs, &error);
    while (!sim_disk_is_off(disk)) {
        uint32_t i = pick(seed, draws, BLOBS);
        if (pick(seed, draws, 10) == 0) {
            history->deleted[i] = true;
            history->acknowledged[i] = false;
            (void)!ckpt_blobs_delete(blobs, &history->digest[i], &error);
        } else if (ckpt_blobs_put(blobs, &history->digest[i], history->data[i], history->length[i],
                                  &error) == SP_OK) {
            history->acknowledged[i] = true;
            history->deleted[i] = false;
        }
    }
    ckpt_blobs_close(blobs);
}

/* Everything acknowledged is there, and nothing is there with bytes that are not its own. Returns
 * the number of acknowledged blobs, or -1 with the reason in `error`. */
static int inspect(struct sim_disk *disk, const struct history *history)
{
    struct ckpt_blobs *blobs;
    if (ckpt_blobs_open("/state", sim_disk_fs(disk), &blobs, &error) != SP_OK)
        return -1;
    int kept = 0;
    for (int i = 0; kept >= 0 && i < BLOBS; i++) {
        uint8_t *data;
        size_t length;
        bool there = ckpt_blobs_has(blobs, &history->digest[i]);
        if (!there && !history->acknowledged[i])
            continue;
        if (ckpt_blobs_get(blobs, &history->digest[i], &data, &length, &error) != SP_OK) {
            kept = -1;
            break;
        }
        if (length != history->length[i] || memcmp(data, history->data[i], length) != 0)
            kept = -1;
        else
            kept += history->acknowledged[i];
        free(data);
    }
    ckpt_blobs_close(blobs);
    return kept;
}

static void begin_history(struct history *history, uint64_t seed, uint32_t *draws)
{
    memset(history, 0, sizeof(*history));
    for (uint32_t i = 0; i < BLOBS; i++) {
        history->length[i] = 4 + pick(seed, draws, 60);
        memcpy(history->data[i], &i, sizeof(i));
        for (size_t k = 4; k < history->length[i]; k++)
            history->data[i][k] = (uint8_t)pick(seed, draws, 256);
        sp_sha256_of(history->data[i], history->length[i], &history->digest[i]);
    }
}

/* Five lives of one disk. Returns the acknowledged blobs seen in sum, -1 after a loss. */
static int lives(uint64_t seed, bool no_file_fsync, bool no_dir_fsync)
{
    struct sim_disk *disk = sim_disk_new(seed);
    struct history history;
    uint32_t draws = 0;
    int total = 0;
    begin_history(&history, seed, &draws);
    sim_disk_ignore_fsync(disk, no_file_fsync, no_dir_fsync);
    for (int life = 0; total >= 0 && life < 5; life++) {
        sim_disk_set_fault_rate(disk, life % 2 == 1 ? 40 : 0);
        sim_disk_power_off_after(disk, 260 + pick(seed, &draws, 600));
        live(disk, seed, &draws, &history);
        sim_disk_set_fault_rate(disk, 0);
        sim_disk_restart(disk);
        int kept = inspect(disk, &history);
        total = kept < 0 ? -1 : total + kept;
    }
    sim_disk_free(disk);
    return total;
}

START_TEST(test_power_loss)
{
    int total = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        int kept = lives(seed, false, false);
        ck_assert_msg(kept >= 0, "seed %d: %s", (int)seed, error.text);
        total += kept;
    }
    /* The test means something only where much was acknowledged before the power went. */
    ck_assert_int_gt(total, 5000);
}
END_TEST

/* The simulated disk notices a store that leaves out either fsync. */
START_TEST(test_power_loss_can_fail)
{
    int lost_bytes = 0, lost_names = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        lost_bytes += lives(seed, true, false) < 0;
        lost_names += lives(seed, false, true) < 0;
    }
    ck_assert_int_eq(lost_bytes, 20);
    ck_assert_int_eq(lost_names, 20);
}
END_TEST

START_TEST(test_faults_leave_no_trace)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct sim_disk *disk = sim_disk_new(seed);
        struct ckpt_blobs *blobs;
        uint64_t count, bytes, sums[2] = {0};
        ck_ok(ckpt_blobs_open("/state", sim_disk_fs(disk), &blobs, &error));
        sim_disk_set_fault_rate(disk, 6);
        struct sp_digest digest;
        int stored = 0;
        for (uint32_t i = 0; i < 50; i++)
            stored += ckpt_blobs_put_new(blobs, &i, sizeof(i), &digest, &error) == SP_OK;
        ck_assert_int_gt(stored, 5);
        sim_disk_set_fault_rate(disk, 0);
        /* After every fault the counts are those of the files, and all are whole. */
        ckpt_blobs_usage(blobs, &count, &bytes);
        ck_ok(ckpt_blobs_each(blobs, count_blob, sums, &error));
        ck_assert_uint_eq(count, sums[0]);
        ck_assert_uint_eq(bytes, sums[1]);
        ck_assert_int_ge((int)count, stored);
        ckpt_blobs_close(blobs);
        sim_disk_free(disk);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("blobstore");
    TCase *t = tcase_create("blobstore");
    tcase_add_test(t, test_put_get_delete);
    tcase_add_loop_test(t, test_what_is_asked_for_during_a_collection_stays, 0, 2);
    tcase_add_test(t, test_open_refuses);
    tcase_add_test(t, test_threads);
    tcase_add_test(t, test_power_loss);
    tcase_add_test(t, test_power_loss_can_fail);
    tcase_add_test(t, test_faults_leave_no_trace);
    tcase_set_timeout(t, 30);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* Which algorithm does the products of which number of rows. One that is quick with many rows
 * leaves most of the device idle with few, so each bucket of row counts has its own; but a row's
 * bits must not depend on how many rows there are. cublasLt promises nothing about that, so it is
 * tried here, with the shape's sizes and random factors: the best algorithm for many rows that
 * gives a row the same bits whatever the number of rows and its place among them is the reference,
 * and a bucket gets the quickest one that gives the reference's bits. Timing decides between
 * algorithms of equal bits only, so what it decides is seen by no result. Nor is the memory that is
 * left: a shape's trial always has the same size, and a process that can't have it waits, or ends,
 * rather than choose what the others don't. */
#include "common/tensor/cuda/device_products.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/tensor/cuda/products_typed.h"

#define MOST_BYTES ((size_t)128 << 20)  /* of a trial's rows, or results; else fewer are tried */
#define OTHERS_BYTES ((size_t)64 << 20) /* more than a device's cache */
#define ALIGNED 256                     /* pieces of its memory */
#define MOST_REFERENCES 4               /* that are tried */
#define LEAST_ROWS 144                  /* so that buckets of few rows can be tried */

struct device_trial_limits device_trial_limits = {.weight_bytes = (size_t)256 << 20, .seconds = 60};

/* What is compared: results as the shape has them, and, where those are bf16, what rounding took
 * away from them: the product is added to the rounded one's negative, so that sums show their lower
 * bits too. */
enum pass { RESULTS, RESTS, PASSES };

struct trial {
    struct device *d;
    struct device_choice *c;
    int32_t rows; /* of a and what is expected */
    int passes;
    uint8_t *memory; /* of all of these: */
    uint16_t *a, *own_b, *expected[PASSES], *got;
    uint16_t *other;     /* what is added, of DEVICE_OTHER */
    const void *b;       /* own_b, or weights that somebody uses */
    size_t result_units; /* of a row of results; a unit has two bytes */
    int32_t *differ;     /* one for each candidate */
    void *others;        /* memory that other work of a step would use */
    size_t others_bytes; /* of tiny weights, less */
    cudaEvent_t start, stop;
};

/* --- memory --- */

/* A kernel over n elements, or as many blocks as they fill. */
static void launch(struct trial *t, const void *kernel, size_t n, size_t of_block, const void *args)
{
    device_launch(t->d, kernel, (struct device_grid){(n + of_block - 1) / of_block, 1},
                  (struct device_grid){GPU_FLAT, 1}, args);
}

static void fill(struct trial *t, uint16_t *to, size_t n, uint32_t seed)
{
    struct gpu_noise k = {.to = to, .n = n, .seed = seed};
    launch(t, gpu_noise_kernel, n, GPU_FLAT, &k);
}

static void end(struct trial *t)
{
    device_give(t->d, t->memory);
    device_check(cudaEventDestroy(t->start), "trial");
    device_check(cudaEventDestroy(t->stop), "trial");
}

/* Another process may be at its own trial: it is waited for. */
static uint8_t *take(struct trial *t, size_t bytes)
{
    int64_t until = sp_now_ms() + 1000 * (int64_t)device_trial_limits.seconds;
    uint8_t *memory;
    while (!(memory = device_take(t->d, bytes)) && sp_now_ms() < until)
        sp_sleep_ms(50);
    if (memory)
        return memory;
    fprintf(stderr,
            "cuda: to choose algorithms for weights of %d x %d takes %zu MiB of the device for a "
            "moment, which are not free: lower micro_batch_tokens or memory_budget of a run, slots "
            "of a generator, or give the device fewer processes\n",
            t->c->N, t->c->fixed, (bytes >> 20) + 1);
    abort();
}

/* Pieces of a trial's memory. */
enum { ROWS, WEIGHTS, EXPECTED, EXPECTED_RESTS, GOT, ADDED, DIFFER, OTHERS, PIECES };

/* weights: of the shape, used where it is too large for others. */
static void begin(struct trial *t, struct device *d, struct device_choice *c, const void *weights)
{
    size_t K = (size_t)c->fixed, units = (size_t)c->N * (c->c_bf16 ? 1 : 2);
    size_t most_rows = SP_MAX(MOST_BYTES / (2 * SP_MAX(units, K)), LEAST_ROWS);
    size_t rows = SP_MIN((size_t)device_buckets[DEVICE_BUCKETS - 1].typical, most_rows);
    size_t n_b = (size_t)c->N * K, results = rows * units * 2;
    *t = (struct trial){.d = d,
                        .c = c,
                        .rows = (int32_t)rows,
                        .passes = c->c_bf16 ? PASSES : RESTS,
                        .result_units = units,
                        .others_bytes = SP_MIN(OTHERS_BYTES, 64 * n_b)};
    bool own = n_b * 2 <= device_trial_limits.weight_bytes, other = c->added == DEVICE_OTHER;
    const size_t bytes[PIECES] = {
        [ROWS] = rows * K * 2,
        [WEIGHTS] = own ? n_b * 2 : 0,
        [EXPECTED] = results,
        [EXPECTED_RESTS] = t->passes > RESTS ? results : 0,
        [GOT] = results,
        [ADDED] = other ? results : 0,
        [DIFFER] = DEVICE_CANDIDATES * sizeof(*t->differ),
        [OTHERS] = t->others_bytes,
    };
    size_t at[PIECES + 1] = {0};
    for (int i = 0; i < PIECES; i++)
        at[i + 1] = at[i] + (bytes[i] + ALIGNED - 1) / ALIGNED * ALIGNED;
    t->memory = take(t, at[PIECES]);
    t->a = (uint16_t *)(t->memory + at[ROWS]);
    t->own_b = own ? (uint16_t *)(t->memory + at[WEIGHTS]) : NULL;
    t->expected[RESULTS] = (uint16_t *)(t->memory + at[EXPECTED]);
    t->expected[RESTS] = (uint16_t *)(t->memory + at[EXPECTED_RESTS]);
    t->got = (uint16_t *)(t->memory + at[GOT]);
    t->other = other ? (uint16_t *)(t->memory + at[ADDED]) : NULL;
    t->differ = (int32_t *)(t->memory + at[DIFFER]);
    t->others = t->memory + at[OTHERS];
    device_check(cudaEventCreate(&t->start), "trial");
    device_check(cudaEventCreate(&t->stop), "trial");
    fill(t, t->a, rows * K, 1);
    if (own)
        fill(t, t->own_b, n_b, 2);
    t->b = own ? t->own_b : weights;
}

/* --- bits --- */

/* `to` = rows [first, first + rows) of A times B, with what the shape adds. */
static struct device_product product_of(const struct trial *t, uint16_t *to, int32_t first,
                                        int32_t rows)
{
    struct device_product p = device_product_of(t->c, rows);
    p.c = to;
    p.a = t->a + (size_t)first * (size_t)p.K;
    p.b = t->b;
    if (t->c->added != DEVICE_NOTHING)
        p.added = t->other ? t->other : to;
    return p;
}

/* The same added to zeros where the shape adds, or what is left of it. */
static bool multiply(struct trial *t, const struct device_algorithm *a, enum pass pass,
                     uint16_t *to, int32_t first, int32_t rows)
{
    struct device_product p = product_of(t, to, first, rows);
    uint16_t *before = t->other ? t->other : to;
    size_t n = (size_t)rows * t->result_units;
    struct gpu_negate k = {
        .to = before, .from = t->expected[RESULTS] + (size_t)first * t->result_units, .n = n};
    if (pass == RESTS) {
        p.added = before;
        launch(t, gpu_negate_kernel, n, GPU_FLAT, &k);
    } else if (p.added) {
        device_zero(t->d, before, n * sizeof(*before));
    }
    return device_multiply(t->d, t->c, a, &p);
}

/* Notes in differ[slot] whether the algorithm's bits differ from what is expected. false: it can't
 * do such a product. */
static bool compare(struct trial *t, const struct device_algorithm *a, int slot, int32_t rows)
{
    int32_t first = (t->rows - rows) / 3; /* rows that lie elsewhere in the expected product */
    bool can = true;
    for (int i = 0; can && i < t->passes; i++) {
        struct gpu_differ k = {.flag = t->differ + slot,
                               .a = t->got,
                               .b = t->expected[i] + (size_t)first * t->result_units,
                               .n = (size_t)rows * t->result_units};
        can = multiply(t, a, (enum pass)i, t->got, first, rows);
        if (can)
            launch(t, gpu_differ_kernel, k.n, GPU_DIFFER, &k);
    }
    return can;
}

/* Which candidates have the expected bits for all of `rows`. */
static void find_alike(struct trial *t, const struct device_algorithm *all, int n,
                       const int32_t *rows, size_t n_rows, bool *alike)
{
    int32_t differ[DEVICE_CANDIDATES];
    device_zero(t->d, t->differ, sizeof(differ));
    for (int i = 0; i < n; i++) {
        alike[i] = true;
        for (size_t j = 0; alike[i] && j < n_rows; j++)
            alike[i] = compare(t, &all[i], i, SP_MIN(rows[j], t->rows));
    }
    device_get(t->d, differ, t->differ, sizeof(differ));
    for (int i = 0; i < n; i++)
        alike[i] = alike[i] && !differ[i];
}

/* Leaves the candidates that are alike, or those that are not; returns how many. */
static int keep_alike(struct device_algorithm *all, int n, const bool *alike, bool kept)
{
    int left = 0;
    for (int i = 0; i < n; i++)
        if (alike[i] == kept)
            all[left++] = all[i];
    return left;
}

/* Whether products with these weights tell algorithms from each other: they are not all zero. */
static bool tells(struct trial *t, const struct device_algorithm *a)
{
    size_t n = (size_t)t->rows * t->result_units;
    struct gpu_differ k = {.flag = t->differ, .a = t->expected[RESULTS], .b = t->got, .n = n};
    int32_t differ;
    if (!multiply(t, a, RESULTS, t->expected[RESULTS], 0, t->rows))
        return false;
    device_zero(t->d, t->got, n * sizeof(*t->got));
    device_zero(t->d, t->differ, sizeof(differ));
    launch(t, gpu_differ_kernel, n, GPU_DIFFER, &k);
    device_get(t->d, &differ, t->differ, sizeof(differ));
    return differ != 0;
}

/* --- choosing --- */

static const int32_t any_rows[] = {1,   2,   7,   8,    16,   17,   33,   64,
                                   100, 128, 256, 1000, 1024, 4096, 4097, DEVICE_MOST_ROWS};
static const int32_t tried_rows[] = {1, 7, 16, 33, 64, 100, 128, 256, 777, 1024, 4096};

/* Candidates to be the reference: for many rows, or, where none of those can do with few, for
 * fewer; and with workspace only where none does without: whether their bits know the number of
 * rows is tried all the same. */
static int references(struct device *d, struct device_choice *c,
                      struct device_algorithm ret[DEVICE_CANDIDATES])
{
    static const enum device_freedom freedoms[] = {DEVICE_ONE_SUM, DEVICE_WORKSPACE};
    int n = 0;
    for (size_t f = 0; n == 0 && f < SP_COUNT(freedoms); f++)
        for (int i = DEVICE_BUCKETS - 1; n == 0 && i >= 0; i--)
            n = device_candidates(d, c, device_buckets[i].typical, freedoms[f], any_rows,
                                  SP_COUNT(any_rows), ret);
    return n;
}

/* Makes the algorithm's product what is expected. false: its bits know the number of rows. */
static bool expect(struct trial *t, const struct device_algorithm *a)
{
    bool fine = true;
    for (int i = 0; fine && i < t->passes; i++)
        fine = multiply(t, a, (enum pass)i, t->expected[i], 0, t->rows);
    if (fine)
        find_alike(t, a, 1, tried_rows, SP_COUNT(tried_rows), &fine);
    return fine;
}

/* Milliseconds of one product, whose weights come from memory, as they do when other layers have
 * been computed since, and not from the device's cache. */
static float time_of(struct trial *t, const struct device_algorithm *a, int32_t rows)
{
    int runs = rows <= 256 ? 8 : 2;
    float sum = 0.0f, ms;
    for (int i = 0; i < runs; i++) {
        struct device_product p = product_of(t, t->got, 0, rows);
        device_zero(t->d, t->others, t->others_bytes);
        device_check(cudaEventRecord(t->start, t->d->stream), "trial");
        SP_ASSERT(device_multiply(t->d, t->c, a, &p)); /* as it did before */
        device_check(cudaEventRecord(t->stop, t->d->stream), "trial");
        device_check(cudaEventSynchronize(t->stop), "trial");
        device_check(cudaEventElapsedTime(&ms, t->start, t->stop), "trial");
        sum += ms;
    }
    return sum / (float)runs;
}

/* The quickest of the candidates, with as many rows as the trial has at most. */
static const struct device_algorithm *quickest(struct trial *t, const struct device_algorithm *all,
                                               int n, int32_t rows)
{
    const struct device_algorithm *best = all;
    float least = 0.0f;
    for (int i = 0; i < n; i++) {
        float ms = time_of(t, &all[i], SP_MIN(rows, t->rows));
        if (i == 0 || ms < least) {
            best = &all[i];
            least = ms;
        }
    }
    return best;
}

/* false: cublasLt knows no algorithm for so many rows that is like the reference, which serves for
 * want of a better one. */
static bool choose_bucket(struct trial *t, int bucket)
{
    const struct device_bucket *b = &device_buckets[bucket];
    int32_t last = SP_MIN(b->last, DEVICE_MOST_ROWS);
    int32_t quarter = (b->typical - b->first) / 4;
    int32_t fitting[] = {b->first, b->first + 6, b->first + 2 * quarter, b->typical, last};
    int32_t tried[] = {b->first, b->first + quarter, b->first + 2 * quarter, b->typical - 1,
                       b->typical};
    struct device_algorithm all[DEVICE_CANDIDATES + 1];
    bool alike[DEVICE_CANDIDATES];
    enum device_freedom freedom = t->c->reference.workspace ? DEVICE_WORKSPACE : DEVICE_ONE_SUM;
    int n = device_candidates(t->d, t->c, b->typical, freedom, fitting, SP_COUNT(fitting), all);
    find_alike(t, all, n, tried, SP_COUNT(tried), alike);
    n = keep_alike(all, n, alike, true);
    all[n] = t->c->reference;
    t->c->by_rows[bucket] = *quickest(t, all, n + 1, b->typical);
    return n > 0;
}

/* The first candidate that can be the reference and has its like for every bucket, or for most.
 * false: none can be. */
static bool choose_all(struct trial *t, struct device_algorithm *all, int n)
{
    struct device_choice best;
    int most = -1;
    for (int tries = 0; n > 0 && tries < MOST_REFERENCES && most < DEVICE_BUCKETS; tries++) {
        bool alike[DEVICE_CANDIDATES] = {false};
        if (expect(t, &all[0])) {
            int served = 0;
            t->c->reference = all[0];
            for (int i = 0; i < DEVICE_BUCKETS; i++)
                served += choose_bucket(t, i);
            if (served > most) {
                best = *t->c;
                most = served;
            }
            find_alike(t, all, n, &t->rows, 1, alike); /* others would do no better */
        }
        alike[0] = true;
        n = keep_alike(all, n, alike, false);
    }
    if (most >= 0) {
        t->c->reference = best.reference;
        memcpy(t->c->by_rows, best.by_rows, sizeof(best.by_rows));
    }
    return most >= 0;
}

bool device_choose_alike(struct device *d, struct device_choice *c, const void *weights)
{
    struct device_algorithm all[DEVICE_CANDIDATES];
    struct trial trial;
    int n = references(d, c, all);
    if (n == 0)
        return false;
    c->reference = all[0];
    for (int i = 0; i < DEVICE_BUCKETS; i++)
        c->by_rows[i] = all[0];
    begin(&trial, d, c, weights);
    if ((trial.own_b || tells(&trial, &all[0])) && !choose_all(&trial, all, n))
        fprintf(stderr,
                "cuda: weights of %d x %d: with every algorithm of cublasLt a row's bits depend on "
                "the number of rows\n",
                c->N, c->fixed);
    end(&trial);
    return true;
}

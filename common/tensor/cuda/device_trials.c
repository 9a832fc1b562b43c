/* Which algorithm does the products of which number of rows. One that is quick with many rows
 * leaves most of the device idle with few, so each bucket of row counts has its own; but a row's
 * bits must not depend on how many rows there are. cublasLt promises nothing about that, so it is
 * tried here, with the shape's sizes and random factors: the best algorithm for many rows that
 * gives a row the same bits whatever the number of rows and its place among them is the reference,
 * and a bucket gets the quickest one that gives the reference's bits. Timing decides between
 * algorithms of equal bits only, so what it decides is seen by no result. */
#include "common/tensor/cuda/device_products.h"

#include <stdio.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/products_typed.h"

#define MOST_RESULT_BYTES ((size_t)256 << 20) /* of a trial; fewer rows are tried then */
#define LEAST_ROWS 144                        /* so that buckets of few rows can be tried */

struct trial {
    struct device *d;
    struct device_choice *c;
    int32_t rows; /* of a and expected */
    uint16_t *a, *b, *expected, *got;
    size_t result_units; /* of a row of results; a unit has two bytes */
    int32_t *differ;     /* one for each candidate */
    cudaEvent_t start, stop;
};

/* --- memory --- */

static void fill(struct trial *t, uint16_t *to, size_t n, uint32_t seed)
{
    struct gpu_noise k = {.to = to, .n = n, .seed = seed};
    device_launch(t->d, gpu_noise_kernel, (struct device_grid){(n + GPU_FLAT - 1) / GPU_FLAT, 1},
                  (struct device_grid){GPU_FLAT, 1}, &k);
}

static void end(struct trial *t)
{
    void *memory[] = {t->a, t->b, t->expected, t->got, t->differ};
    for (size_t i = 0; i < SP_COUNT(memory); i++)
        if (memory[i])
            device_give(t->d, memory[i]);
    if (t->start)
        (void)cudaEventDestroy(t->start);
    if (t->stop)
        (void)cudaEventDestroy(t->stop);
}

static bool begin(struct trial *t, struct device *d, struct device_choice *c, size_t most_bytes)
{
    size_t K = (size_t)c->fixed, units = (size_t)c->N * (c->c_bf16 ? 1 : 2);
    int32_t largest = device_buckets[DEVICE_BUCKETS - 1].typical;
    size_t rows = SP_MIN((size_t)largest, SP_MAX(most_bytes / (2 * units), LEAST_ROWS));
    *t = (struct trial){.d = d, .c = c, .rows = (int32_t)rows, .result_units = units};
    t->a = device_take(d, rows * K * 2);
    t->b = t->a ? device_take(d, (size_t)c->N * K * 2) : NULL;
    t->expected = t->b ? device_take(d, rows * units * 2) : NULL;
    t->got = t->expected ? device_take(d, rows * units * 2) : NULL;
    t->differ = t->got ? device_take(d, DEVICE_CANDIDATES * sizeof(*t->differ)) : NULL;
    if (!t->differ || cudaEventCreate(&t->start) != cudaSuccess ||
        cudaEventCreate(&t->stop) != cudaSuccess) {
        (void)cudaGetLastError();
        end(t);
        return false;
    }
    fill(t, t->a, rows * K, 1);
    fill(t, t->b, (size_t)c->N * K, 2);
    return true;
}

/* --- bits --- */

/* `to` = rows [first, first + rows) of A times B, added to zeros where the shape adds. */
static bool multiply(struct trial *t, const struct device_algorithm *a, uint16_t *to, int32_t first,
                     int32_t rows)
{
    struct device_product p = device_product_of(t->c, rows);
    p.c = to;
    p.a = t->a + (size_t)first * (size_t)p.K;
    p.b = t->b;
    if (p.accumulate)
        device_zero(t->d, to, (size_t)rows * t->result_units * 2);
    return device_multiply(t->d, t->c, a, &p);
}

/* Notes in differ[slot] whether the algorithm's bits differ from what is expected. false: it can't
 * do such a product. */
static bool compare(struct trial *t, const struct device_algorithm *a, int slot, int32_t rows)
{
    int32_t first = (t->rows - rows) / 3; /* rows that lie elsewhere in the expected product */
    struct gpu_differ k = {.flag = t->differ + slot,
                           .a = t->got,
                           .b = t->expected + (size_t)first * t->result_units,
                           .n = (size_t)rows * t->result_units};
    if (!multiply(t, a, t->got, first, rows))
        return false;
    device_launch(t->d, gpu_differ_kernel,
                  (struct device_grid){(k.n + GPU_DIFFER - 1) / GPU_DIFFER, 1},
                  (struct device_grid){GPU_FLAT, 1}, &k);
    return true;
}

/* Leaves the candidates whose bits are the expected ones for all of `rows`; returns how many. */
static int keep_alike(struct trial *t, struct device_algorithm *all, int n, const int32_t *rows,
                      size_t n_rows)
{
    bool can[DEVICE_CANDIDATES];
    int32_t differ[DEVICE_CANDIDATES];
    int kept = 0;
    device_zero(t->d, t->differ, sizeof(differ));
    for (int i = 0; i < n; i++) {
        can[i] = true;
        for (size_t j = 0; can[i] && j < n_rows; j++)
            can[i] = compare(t, &all[i], i, SP_MIN(rows[j], t->rows));
    }
    device_get(t->d, differ, t->differ, sizeof(differ));
    for (int i = 0; i < n; i++)
        if (can[i] && !differ[i])
            all[kept++] = all[i];
    return kept;
}

/* --- choosing --- */

static const int32_t any_rows[] = {1,   2,   7,   8,    16,   17,   33,   64,
                                   100, 128, 256, 1000, 1024, 4096, 4097, DEVICE_MOST_ROWS};
static const int32_t tried_rows[] = {1, 7, 16, 33, 64, 100, 128, 256, 777, 1024, 4096};

/* Candidates to be the reference: for many rows, or, where none of those can do with few, for
 * fewer. */
static int references(struct device *d, struct device_choice *c,
                      struct device_algorithm ret[DEVICE_CANDIDATES])
{
    int n = 0;
    for (int i = DEVICE_BUCKETS - 1; n == 0 && i >= 0; i--)
        n = device_candidates(d, c, device_buckets[i].typical, DEVICE_ONE_SUM, any_rows,
                              SP_COUNT(any_rows), ret);
    return n;
}

/* The first whose bits know nothing of the number of rows; its product is what is expected. */
static bool choose_reference(struct trial *t, const struct device_algorithm *all, int n)
{
    for (int i = 0; i < n; i++) {
        struct device_algorithm one = all[i];
        if (multiply(t, &one, t->expected, 0, t->rows) &&
            keep_alike(t, &one, 1, tried_rows, SP_COUNT(tried_rows)) == 1) {
            t->c->reference = one;
            return true;
        }
    }
    return false;
}

/* Milliseconds of one product. */
static float time_of(struct trial *t, const struct device_algorithm *a, int32_t rows)
{
    int runs = rows <= 256 ? 8 : 2;
    float ms = 0.0f;
    device_check(cudaEventRecord(t->start, t->d->stream), "trial");
    for (int i = 0; i < runs; i++) {
        struct device_product p = device_product_of(t->c, rows);
        p.c = t->got;
        p.a = t->a;
        p.b = t->b;
        SP_ASSERT(device_multiply(t->d, t->c, a, &p)); /* as it did before */
    }
    device_check(cudaEventRecord(t->stop, t->d->stream), "trial");
    device_check(cudaEventSynchronize(t->stop), "trial");
    device_check(cudaEventElapsedTime(&ms, t->start, t->stop), "trial");
    return ms / (float)runs;
}

/* The quickest of the candidates; of a bucket that has more rows than there is memory to try, the
 * first, which cublasLt thinks best. */
static const struct device_algorithm *quickest(struct trial *t, const struct device_algorithm *all,
                                               int n, int32_t rows)
{
    const struct device_algorithm *best = all;
    float least = 0.0f;
    for (int i = 0; i < n && rows <= t->rows; i++) {
        float ms = time_of(t, &all[i], rows);
        if (i == 0 || ms < least) {
            best = &all[i];
            least = ms;
        }
    }
    return best;
}

static void choose_bucket(struct trial *t, int bucket)
{
    const struct device_bucket *b = &device_buckets[bucket];
    int32_t last = SP_MIN(b->last, DEVICE_MOST_ROWS),
            middle = b->first + (b->typical - b->first) / 2;
    int32_t fitting[] = {b->first, b->first + 6, middle, b->typical, last};
    int32_t tried[] = {b->first, middle, b->typical};
    struct device_algorithm all[DEVICE_CANDIDATES + 1];
    int n =
        device_candidates(t->d, t->c, b->typical, DEVICE_ONE_SUM, fitting, SP_COUNT(fitting), all);
    n = keep_alike(t, all, n, tried, SP_COUNT(tried));
    all[n++] = t->c->reference;
    t->c->by_rows[bucket] = *quickest(t, all, n, b->typical);
}

void device_choose_alike(struct device *d, struct device_choice *c)
{
    struct device_algorithm all[DEVICE_CANDIDATES];
    struct trial trial;
    int n = references(d, c, all);
    if (n == 0)
        return;
    c->reference = all[0];
    for (int i = 0; i < DEVICE_BUCKETS; i++)
        c->by_rows[i] = all[0];
    if (!begin(&trial, d, c, MOST_RESULT_BYTES) && !begin(&trial, d, c, MOST_RESULT_BYTES / 8))
        return; /* no memory: one algorithm for all */
    bool alike = choose_reference(&trial, all, n);
    for (int i = 0; alike && i < DEVICE_BUCKETS; i++)
        choose_bucket(&trial, i);
    end(&trial);
    if (!alike)
        fprintf(stderr,
                "cuda: weights of %d x %d: with every algorithm of cublasLt a row's bits depend on "
                "the number of rows\n",
                c->N, c->fixed);
}

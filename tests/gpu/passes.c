/* Passes: what is held back and repeated gives the results of what is done at once, whatever
 * changes from one pass to the next; and is repeated by a graph when it may be. The device is
 * linked into this program. Prints TAP. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/cuda/device_pass.h"
#include "common/tensor/module.h"

extern const struct tn_module spin_tensor_module;

enum { ROWS = 6, WIDTH = 16, TABLE = 9 };

static struct tn_backend *b;
static int tests, failures;

static void check(bool ok, const char *what)
{
    failures += !ok;
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
}

struct memory {
    float *table, *w, *x, *y;
};

static float *filled(size_t n, float first)
{
    float *host = sp_xarray(n, sizeof(*host)), *at = b->ops->alloc(b, n, sizeof(*at));
    for (size_t i = 0; i < n; i++)
        host[i] = first + (float)(i % 37) / 16.0f;
    b->ops->upload(b, at, host, n * sizeof(*host));
    free(host);
    return at;
}

static struct memory memory_new(void)
{
    return (struct memory){.table = filled(TABLE * WIDTH, -1.0f),
                           .w = filled(WIDTH * WIDTH, 0.5f),
                           .x = filled(ROWS * WIDTH, 0.0f),
                           .y = filled(ROWS * WIDTH, 0.0f)};
}

static void memory_free(struct memory *m)
{
    b->ops->free(b, m->table);
    b->ops->free(b, m->w);
    b->ops->free(b, m->x);
    b->ops->free(b, m->y);
}

/* Rows of the table by ids, put twice to the same place with other ids in between. */
static void work(const struct memory *m, const int32_t *ids, const int32_t *others, bool more)
{
    b->ops->embed(b, m->x, m->table, ids, ROWS, WIDTH);
    b->ops->linear(b, m->y, m->x, m->w, ROWS, WIDTH, WIDTH, false);
    b->ops->embed(b, m->x, m->table, others, ROWS, WIDTH);
    b->ops->add(b, m->y, m->x, (size_t)ROWS * WIDTH);
    if (more)
        b->ops->add(b, m->y, m->x, (size_t)ROWS * WIDTH);
}

static bool agrees(const struct memory *m, uint32_t seed, uint64_t key, bool more)
{
    int32_t ids[ROWS], others[ROWS];
    float at_once[ROWS * WIDTH], held[ROWS * WIDTH];
    for (uint32_t i = 0; i < ROWS; i++) {
        ids[i] = (int32_t)((seed * 7 + i * i) % TABLE);
        others[i] = (int32_t)((seed * 5 + 3 * i) % TABLE);
    }
    work(m, ids, others, more);
    b->ops->download(b, at_once, m->y, sizeof(at_once));
    b->ops->zero(b, m->y, sizeof(at_once));
    b->ops->pass_begin(b, key);
    work(m, ids, others, more);
    memset(ids, 0x7f, sizeof(ids)); /* the host's memory may be used again */
    memset(others, 0x7f, sizeof(others));
    b->ops->pass_end(b);
    b->ops->download(b, held, m->y, sizeof(held));
    return memcmp(held, at_once, sizeof(held)) == 0;
}

static struct device_pass_counts counts(void)
{
    return device_pass_counts(tn_cuda_of(b)->device);
}

static void repeated(void)
{
    struct memory m = memory_new();
    struct device_pass_counts before = counts(), now;
    bool same = true;
    for (uint32_t i = 0; i < 10; i++)
        same = agrees(&m, i, 1, false) && same;
    now = counts();
    check(same, "ten passes with other ids give what is done at once");
    if (!getenv("SPIN_EMULATE_NO_GRAPHS"))
        check(now.issued == before.issued + 1 && now.repeated == before.repeated + 9,
              "all but the first are repeated by a graph");
    else
        check(now.issued == before.issued + 10, "without graphs all are done call by call");
    same = agrees(&m, 3, 1, true) && agrees(&m, 4, 1, true) && agrees(&m, 5, 1, false) &&
           agrees(&m, 6, 1, true) && agrees(&m, 7, 1, true);
    check(same, "work that changes is seen to change");
    memory_free(&m);
    m = memory_new();
    same = agrees(&m, 8, 1, true) && agrees(&m, 9, 1, true) && agrees(&m, 10, 1, true);
    check(same, "memory that was freed is forgotten");
    memory_free(&m);
}

static void broken(void)
{
    struct memory m = memory_new();
    struct device_pass_counts before = counts();
    float early[ROWS * WIDTH], late[ROWS * WIDTH], sum[ROWS * WIDTH];
    int32_t ids[ROWS] = {1, 2, 3, 4, 5, 6};
    b->ops->pass_begin(b, 2);
    b->ops->embed(b, m.x, m.table, ids, ROWS, WIDTH);
    b->ops->download(b, early, m.x, sizeof(early));
    b->ops->add(b, m.x, m.x, (size_t)ROWS * WIDTH);
    b->ops->pass_end(b);
    b->ops->download(b, late, m.x, sizeof(late));
    for (size_t i = 0; i < SP_COUNT(sum); i++)
        sum[i] = early[i] + early[i];
    check(memcmp(sum, late, sizeof(sum)) == 0, "what is read in a pass is there");
    check(counts().broken == before.broken + 1, "and ends the holding back");
    memory_free(&m);
}

static void large(void)
{
    size_t n = (DEVICE_PASS_PUT_BYTES + 4096) / sizeof(float);
    float *host = sp_xarray(n, sizeof(*host)), *found = sp_xarray(n, sizeof(*found));
    float *at = b->ops->alloc(b, n, sizeof(*at));
    bool same = true;
    for (uint64_t pass = 0; pass < 3; pass++) {
        for (size_t i = 0; i < n; i++)
            host[i] = (float)((i + pass) % 1000);
        b->ops->pass_begin(b, 3);
        b->ops->upload(b, at, host, n * sizeof(*host));
        b->ops->add(b, at, at, n);
        b->ops->pass_end(b);
        b->ops->download(b, found, at, n * sizeof(*found));
        for (size_t i = 0; i < n; i++)
            same = same && found[i] == 2.0f * host[i];
    }
    check(same, "more than is held back");
    b->ops->free(b, at);
    free(host);
    free(found);
}

static void many(void)
{
    struct memory m = memory_new();
    bool same = true;
    for (uint32_t round = 0; round < 3; round++)
        for (uint32_t key = 0; key < 100; key++)
            same = agrees(&m, key + round, 1000 + key, key % 3 == 0) && same;
    for (uint32_t key = 99; key > 0; key--)
        same = agrees(&m, key, 1000 + key, key % 2 == 0) && same;
    check(same, "more passes than are remembered");
    memory_free(&m);
}

int main(void)
{
    struct sp_error err = {0};
    if (spin_tensor_module.open("cuda-fp32", NULL, &b, &err) != SP_OK) {
        fprintf(stderr, "gpu_passes: %s\n", err.text);
        return 1;
    }
    repeated();
    broken();
    large();
    many();
    tn_close(b);
    printf("1..%d\n", tests);
    return failures ? 1 : 0;
}

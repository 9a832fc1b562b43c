/* A row's bits are its own: the same rows in other company and at other addresses. See fast.c. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/gpu/fast.h"

enum { T = 37, D = 1040, HEADS = 8, C = D / HEADS, V = 5000, RESULTS = 16 };

struct rows { /* results of rows [first, first + count) of the same T */
    uint16_t *at[RESULTS];
    size_t width[RESULTS];
    int n;
    float lse[T], dlogits[T * V];
};

static void keep(struct fast *f, struct rows *r, const void *x, int32_t count, size_t width)
{
    size_t n = (size_t)count * width;
    SP_ASSERT(r->n < RESULTS);
    r->at[r->n] = sp_xarray(n, sizeof(uint16_t));
    r->width[r->n] = width;
    f->b->ops->download(f->b, r->at[r->n++], x, n * sizeof(uint16_t));
}

static void *part(struct fast *f, int32_t first, size_t count, size_t width, uint32_t seed)
{
    float *all;
    (void)fast_drawn(f, &all, (size_t)T * width, seed, 2.0f, TN_BF16);
    return fast_put(f, all + (size_t)first * width, count * width, TN_BF16);
}

static void norms(struct fast *f, struct rows *r, int32_t first, int32_t count)
{
    const struct tn_ops *ops = f->b->ops;
    size_t n = (size_t)count * D;
    float *host;
    float *w = fast_drawn(f, &host, D, 3, 1.0f, TN_F32);
    void *x = part(f, first, (size_t)count, D, 1), *dy = part(f, first, (size_t)count, D, 2);
    void *y = fast_put(f, NULL, n, TN_BF16), *dw = fast_put(f, NULL, D, f->b->weights);
    void *dx = part(f, first, (size_t)count, D, 4);
    float *stats = fast_put(f, NULL, 2 * (size_t)count * HEADS, TN_F32);
    ops->rmsnorm(f->b, y, stats, x, w, count, D, 1e-5f);
    keep(f, r, y, count, D);
    keep(f, r, stats, count, 2); /* of fp32, where a sum's order shows */
    ops->rmsnorm_bwd(f->b, dx, dw, dy, x, w, stats, count, D);
    keep(f, r, dx, count, D);
    ops->layernorm(f->b, y, stats, x, w, w, count, D, 1e-5f);
    keep(f, r, y, count, D);
    keep(f, r, stats, count, 2 * 2);
    ops->layernorm_bwd(f->b, dx, dw, dy, x, w, stats, count, D);
    keep(f, r, dx, count, D);
    ops->head_norm(f->b, y, stats, x, w, count, HEADS, C, D, 1e-5f);
    keep(f, r, y, count, D);
    keep(f, r, stats, count, 2 * HEADS);
    ops->head_norm_bwd(f->b, dy, dw, x, w, stats, count, HEADS, C, D);
    keep(f, r, dy, count, D);
    fast_release(f);
}

static void elements(struct fast *f, struct rows *r, int32_t first, int32_t count)
{
    const struct tn_ops *ops = f->b->ops;
    size_t n = (size_t)count * D;
    float *host;
    int32_t positions[T];
    void *gu = part(f, first, (size_t)count, 2 * D, 5), *dy = part(f, first, (size_t)count, D, 6);
    void *y = fast_put(f, NULL, n, TN_BF16), *dgu = fast_put(f, NULL, 2 * n, TN_BF16);
    float *cosine = fast_drawn(f, &host, T * C / 2, 7, 1.0f, TN_F32);
    float *sine = fast_drawn(f, &host, T * C / 2, 8, 1.0f, TN_F32);
    for (int32_t t = 0; t < count; t++)
        positions[t] = (first + t) * 5 % T;
    ops->swiglu(f->b, y, gu, count, D);
    keep(f, r, y, count, D);
    ops->swiglu_bwd(f->b, dgu, dy, gu, count, D);
    keep(f, r, dgu, count, 2 * D);
    ops->geglu(f->b, y, gu, count, D);
    keep(f, r, y, count, D);
    ops->gelu_bwd(f->b, y, dy, y, n, false);
    keep(f, r, y, count, D);
    ops->rope(f->b, dy, count, HEADS, C, D, positions, cosine, sine, false, 0);
    keep(f, r, dy, count, D);
    fast_release(f);
}

static void logits(struct fast *f, struct rows *r, int32_t first, int32_t count)
{
    const struct tn_ops *ops = f->b->ops;
    float *all;
    struct tn_target targets[T];
    (void)fast_drawn(f, &all, (size_t)T * V, 9, 9.0f, TN_F32);
    float *x = fast_put(f, all + (size_t)first * V, (size_t)count * V, TN_F32);
    for (int32_t t = 0; t < count; t++)
        targets[t] = (struct tn_target){t, (first + t) * 11 % V, 1.0f};
    ops->row_lse(f->b, r->lse, NULL, x, count, V);
    ops->logits_bwd(f->b, x, r->lse, targets, count, count, V);
    ops->download(f->b, r->dlogits, x, (size_t)count * V * sizeof(float));
    fast_release(f);
}

static struct rows *rows_new(struct fast *f, int32_t first, int32_t count, size_t offset)
{
    struct rows *r = sp_xalloc(sizeof(*r));
    f->offset = offset;
    norms(f, r, first, count);
    elements(f, r, first, count);
    logits(f, r, first, count);
    return r;
}

static void rows_free(struct rows *r)
{
    for (int i = 0; i < r->n; i++)
        free(r->at[i]);
    free(r);
}

void fast_same_bits(struct fast *f)
{
    static const struct {
        int32_t first, count;
        size_t offset;
    } parts[] = {{0, 37, 3}, {0, 1, 0}, {36, 1, 0}, {5, 20, 0}, {7, 9, 1}};
    struct rows *all = rows_new(f, 0, T, 0);
    for (size_t i = 0; i < SP_COUNT(parts); i++) {
        size_t first = (size_t)parts[i].first, count = (size_t)parts[i].count;
        struct rows *r = rows_new(f, parts[i].first, parts[i].count, parts[i].offset);
        bool same = r->n == all->n;
        for (int k = 0; same && k < r->n; k++)
            same = memcmp(r->at[k], all->at[k] + first * r->width[k],
                          count * r->width[k] * sizeof(uint16_t)) == 0;
        same = same && memcmp(r->lse, all->lse + first, count * sizeof(float)) == 0 &&
               memcmp(r->dlogits, all->dlogits + first * V, count * V * sizeof(float)) == 0;
        fast_ok(f, same, "rows alone", "");
        rows_free(r);
    }
    rows_free(all);
}

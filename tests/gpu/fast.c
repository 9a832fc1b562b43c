/* The operations of "cuda" that memory bounds, on activations of bf16, beside plain loops in double
 * on the same numbers: widths that are no multiple of eight, addresses that are none of 16 bytes,
 * parameters of both kinds; and by bits: a row's result depends on no other row, on their number,
 * or on where it lies. Runs on a device, or with kernels that the host runs. Prints TAP. */
#include "tests/gpu/fast.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

float *fast_numbers(size_t n, uint32_t seed, float scale, enum tn_dtype dtype)
{
    float *x = sp_xarray(n + 4, sizeof(*x));
    for (size_t i = 0; i < n; i += 4) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_TEST, 0, (uint32_t)(i / 4), 0, 0, draw);
        for (size_t j = 0; j < 4; j++)
            x[i + j] = scale * ((float)(draw[j] >> 8) * (1.0f / 8388608.0f) - 1.0f);
    }
    for (size_t i = 0; dtype == TN_BF16 && i < n; i++)
        x[i] = sp_bf16_to_f32(sp_f32_to_bf16(x[i]));
    return x;
}

void *fast_put(struct fast *f, const float *host, size_t n, enum tn_dtype dtype)
{
    char *base = f->b->ops->alloc(f->b, n + f->offset, tn_unit(dtype));
    SP_ASSERT(base && f->n_held < FAST_HELD);
    f->held[f->n_held++] = base;
    void *at = tn_at(base, dtype, f->offset);
    if (host)
        tn_put(f->b, at, dtype, host, n);
    return at;
}

void *fast_drawn(struct fast *f, float **ret_host, size_t n, uint32_t seed, float scale,
                 enum tn_dtype dtype)
{
    *ret_host = fast_numbers(n, seed, scale, dtype);
    f->hosts[f->n_hosts++] = *ret_host;
    SP_ASSERT(f->n_hosts < FAST_HELD);
    return fast_put(f, *ret_host, n, dtype);
}

void fast_release(struct fast *f)
{
    while (f->n_held > 0)
        f->b->ops->free(f->b, f->held[--f->n_held]);
    while (f->n_hosts > 0)
        free(f->hosts[--f->n_hosts]);
}

void fast_ok(struct fast *f, bool ok, const char *name, const char *what)
{
    f->failed += !ok;
    printf("%sok %d - %s%s\n", ok ? "" : "not ", ++f->n, name, what);
}

void fast_expect(struct fast *f, const char *name, const void *got, enum tn_dtype dtype,
                 const double *want, size_t n)
{
    float *host = sp_xarray(n + 1, sizeof(*host));
    tn_get(f->b, host, got, dtype, n);
    fast_expect_host(f, name, host, dtype, want, n);
    free(host);
}

void fast_expect_host(struct fast *f, const char *name, const float *got, enum tn_dtype dtype,
                      const double *want, size_t n)
{
    char what[240];
    double size = 0.0, difference = 0.0, unit = dtype == TN_BF16 ? 1.0 / 256 : 2e-5;
    size_t wrong = n;
    for (size_t i = 0; i < n; i++) {
        size += want[i] * want[i];
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    }
    double typical = sqrt(size / (double)n);
    for (size_t i = n; i-- > 0;)
        if (!(fabs((double)got[i] - want[i]) <= unit * (fabs(want[i]) + 0.25 * typical)))
            wrong = i;
    double error = sqrt(difference) / (sqrt(size) + 1e-30);
    if (wrong < n)
        snprintf(what, sizeof(what), "%s: off by %.2g; number %zu of %zu is %g, not %g", f->label,
                 error, wrong, n, (double)got[wrong], want[wrong]);
    else
        snprintf(what, sizeof(what), "%s: off by %.2g", f->label, error);
    fast_ok(f, wrong == n && error < (dtype == TN_BF16 ? 3e-3 : 1e-5), name, what);
}

/* --- norms --- */

struct norm_case {
    int32_t T, heads, D, stride;
    bool centred;
};

static size_t row_at(const struct norm_case *c, size_t row)
{
    size_t heads = (size_t)c->heads;
    return row / heads * (size_t)c->stride + row % heads * (size_t)c->D;
}

/* y, stats and, of dy, the gradients that are added to dx and dw */
static void norm_reference(const struct norm_case *c, const float *x, const float *w,
                           const float *bias, const float *dy, double *y, double *stats, double *dx,
                           double *dw, bool accumulate)
{
    size_t d = (size_t)c->D, rows = (size_t)c->T * (size_t)c->heads;
    for (size_t row = 0; row < rows; row++) {
        size_t at = row_at(c, row);
        double mean = 0.0, squares = 0.0, sum = 0.0, dot = 0.0;
        for (size_t i = 0; c->centred && i < d; i++)
            mean += (double)x[at + i] / (double)d;
        for (size_t i = 0; i < d; i++)
            squares += ((double)x[at + i] - mean) * ((double)x[at + i] - mean);
        double r = 1.0 / sqrt(squares / (double)d + 1e-5);
        for (size_t i = 0; i < d; i++) {
            double g = (double)dy[at + i] * (double)w[i], hat = ((double)x[at + i] - mean) * r;
            y[at + i] = hat * (double)w[i] + (bias ? (double)bias[i] : 0.0);
            dw[i] += hat * (double)dy[at + i];
            sum += c->centred ? g / (double)d : 0.0;
            dot += g * hat / (double)d;
        }
        for (size_t i = 0; i < d; i++) {
            double g = (double)dy[at + i] * (double)w[i], hat = ((double)x[at + i] - mean) * r;
            dx[at + i] = r * (g - sum - hat * dot) + (accumulate ? dx[at + i] : 0.0);
        }
        if (c->centred)
            stats[2 * row] = mean;
        stats[c->centred ? 2 * row + 1 : row] = r;
    }
}

static double *doubles(const float *x, size_t n)
{
    double *d = sp_xarray(n + 1, sizeof(*d));
    for (size_t i = 0; x && i < n; i++)
        d[i] = (double)x[i];
    return d;
}

static void norm_case(struct fast *f, const struct norm_case *c)
{
    const struct tn_ops *ops = f->b->ops;
    enum tn_dtype W = f->b->weights;
    size_t n = (size_t)c->T * (size_t)c->stride, d = (size_t)c->D;
    size_t n_stats = (size_t)c->T * (size_t)c->heads * (c->centred ? 2 : 1);
    float *hx, *hdy, *hw, *hbias, *hdx, *hdw;
    void *x = fast_drawn(f, &hx, n, 1, 3.0f, TN_BF16),
         *dy = fast_drawn(f, &hdy, n, 2, 1.0f, TN_BF16);
    float *w = fast_drawn(f, &hw, d, 3, 1.0f, TN_F32);
    float *bias = fast_drawn(f, &hbias, d, 4, 1.0f, TN_F32);
    void *dx = fast_drawn(f, &hdx, n, 5, 1.0f, TN_BF16), *dw = fast_drawn(f, &hdw, d, 6, 1.0f, W);
    void *y = fast_put(f, hdx, n, TN_BF16);
    float *stats = fast_put(f, NULL, n_stats, TN_F32);
    bool heads = c->heads > 1;
    double *wy = doubles(hdx, n), *wdx = doubles(heads ? hdy : hdx, n), *wdw = doubles(hdw, d);
    double *wstats = doubles(NULL, n_stats);
    norm_reference(c, hx, hw, c->centred ? hbias : NULL, hdy, wy, wstats, wdx, wdw, !heads);
    if (heads) {
        ops->head_norm(f->b, y, stats, x, w, c->T, c->heads, c->D, c->stride, 1e-5f);
        ops->head_norm_bwd(f->b, dy, dw, x, w, stats, c->T, c->heads, c->D, c->stride);
    } else if (c->centred) {
        ops->layernorm(f->b, y, stats, x, w, bias, c->T, c->D, 1e-5f);
        ops->layernorm_bwd(f->b, dx, dw, dy, x, w, stats, c->T, c->D);
    } else {
        ops->rmsnorm(f->b, y, NULL, x, w, c->T, c->D, 1e-5f);
        ops->rmsnorm(f->b, y, stats, x, w, c->T, c->D, 1e-5f);
        ops->rmsnorm_bwd(f->b, dx, dw, dy, x, w, stats, c->T, c->D);
    }
    const char *name = heads ? "head_norm" : c->centred ? "layernorm" : "rmsnorm";
    fast_expect(f, name, y, TN_BF16, wy, n);
    fast_expect(f, name, stats, TN_F32, wstats, n_stats);
    fast_expect(f, name, heads ? dy : dx, TN_BF16, wdx, n);
    fast_expect(f, name, dw, W, wdw, d);
    free(wy);
    free(wdx);
    free(wdw);
    free(wstats);
    fast_release(f);
}

/* --- sums and tables of rows --- */

static void rows_case(struct fast *f, int32_t T, int32_t D)
{
    const struct tn_ops *ops = f->b->ops;
    enum tn_dtype W = f->b->weights;
    enum { V = 2500 };
    size_t n = (size_t)T * (size_t)D, d = (size_t)D, v = (size_t)(D > 1000 ? 40 : V);
    float *hy, *hbias, *hdb, *htable;
    void *y = fast_drawn(f, &hy, n, 7, 2.0f, TN_BF16), *db = fast_drawn(f, &hdb, d, 8, 1.0f, W);
    float *bias = fast_drawn(f, &hbias, d, 9, 1.0f, TN_F32);
    void *table = fast_drawn(f, &htable, v * d, 10, 1.0f, W), *to = fast_put(f, NULL, n, TN_BF16);
    float *wide = fast_put(f, NULL, d, TN_F32);
    double *want = doubles(hdb, d), *want_table = doubles(htable, v * d), *want_y = doubles(hy, n);
    int32_t *ids = sp_xarray((size_t)T, sizeof(*ids));
    for (size_t t = 0; t < (size_t)T; t++) {
        ids[t] = (int32_t)(t % 3 == 0 ? 1 : (t * t * 31 + t) % v);
        for (size_t i = 0; i < d; i++) {
            want[i] += (double)hy[t * d + i];
            want_table[(size_t)ids[t] * d + i] += (double)hy[t * d + i];
        }
    }
    ops->bias_bwd(f->b, db, y, T, D);
    fast_expect(f, "bias_bwd", db, W, want, d);
    ops->embed_bwd(f->b, table, y, ids, T, D, (int32_t)v);
    fast_expect(f, "embed_bwd", table, W, want_table, v * d);
    tn_put(f->b, table, W, htable, v * d);
    ops->embed(f->b, to, table, ids, T, D);
    for (size_t i = 0; i < n; i++)
        want_y[i] = (double)htable[(size_t)ids[i / d] * d + i % d];
    fast_expect(f, "embed", to, TN_BF16, want_y, n);
    for (size_t t = 0; t < (size_t)T; t++)
        ids[t] = (int32_t)((t * 11 + 2) % (size_t)T); /* each once, as 11 divides no T */
    ops->gather_rows(f->b, to, y, ids, T, D);
    for (size_t i = 0; i < n; i++)
        want_y[i] = (double)hy[(size_t)ids[i / d] * d + i % d];
    fast_expect(f, "gather_rows", to, TN_BF16, want_y, n);
    ops->scatter_rows(f->b, to, y, ids, T, T, D);
    for (size_t i = 0; i < n; i++)
        want_y[(size_t)ids[i / d] * d + i % d] += (double)hy[i];
    fast_expect(f, "scatter_rows", to, TN_BF16, want_y, n);
    ops->bias(f->b, y, bias, T, D);
    for (size_t i = 0; i < n; i++)
        want_y[i] = (double)hy[i] + (double)hbias[i % d];
    fast_expect(f, "bias", y, TN_BF16, want_y, n);
    for (int shift = 0; shift < 2; shift++) {
        ops->widen(f->b, wide, tn_at(table, W, d), (float)shift, d);
        for (size_t i = 0; i < d; i++)
            want[i] = (double)htable[d + i] + shift;
        fast_expect(f, "widen", wide, TN_F32, want, d);
    }
    free(ids);
    free(want);
    free(want_table);
    free(want_y);
    fast_release(f);
}

int main(void)
{
    static const int32_t widths[] = {8, 24, 100, 304, 1000, 4096, 9000, 18440},
                         rows[] = {1, 3, 70, 300};
    static const size_t offsets[] = {0, 8, 3};
    struct fast f = {0};
    struct sp_error err = {0};
    int i = 0;
    if (tn_open("cuda", NULL, &f.b, &err) != SP_OK) {
        fprintf(stderr, "gpu_fast: %s\n", err.text);
        return 1;
    }
    if (f.b->activations != TN_BF16) {
        printf("1..0 # SKIP activations are fp32\n");
        tn_close(f.b);
        return 0;
    }
    for (size_t d = 0; d < SP_COUNT(widths); d++)
        for (size_t t = 0; t < SP_COUNT(rows); t++, i++) {
            int32_t T = widths[d] > 4096 ? SP_MIN(rows[t], 3) : rows[t], D = widths[d];
            if (D > 4096 && t > 1)
                continue;
            SP_ASSERT(tn_store_weights(f.b, i % 2 ? TN_BF16 : TN_F32, &err) == SP_OK);
            f.offset = offsets[i % 3];
            snprintf(f.label, sizeof(f.label), ", %d x %d, %s, offset %zu", T, D,
                     i % 2 ? "bf16" : "fp32", f.offset);
            norm_case(&f, &(struct norm_case){T, 1, D, D, false});
            norm_case(&f, &(struct norm_case){T, 1, D, D, true});
            if (D <= 1000)
                norm_case(&f, &(struct norm_case){T, 5, D, 5 * D + (i % 2 ? 40 : 7), false});
            rows_case(&f, T, D);
            fast_elements(&f, T, D);
        }
    f.offset = 0;
    snprintf(f.label, sizeof(f.label), ", many rows");
    norm_case(&f, &(struct norm_case){5000, 5, 8, 40, false}); /* longer chunks of rows */
    norm_case(&f, &(struct norm_case){17000, 1, 24, 24, true});
    rows_case(&f, 17000, 24);
    fast_logits(&f);
    fast_squares(&f);
    fast_same_bits(&f);
    printf("1..%d\n", f.n);
    tn_close(f.b);
    return f.failed ? 1 : 0;
}

/* Element by element, logits, sums of squares: see fast.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "tests/gpu/fast.h"

/* gelu and its derivative, in tanh form or exact */
static double gelu(double x, bool tanh_form, double *ret_slope)
{
    if (!tanh_form) {
        double share = 0.5 * erfc(-x * sqrt(0.5));
        *ret_slope = share + x * exp(-0.5 * x * x) * 0.3989422804014327;
        return x * share;
    }
    double z = 0.7978845608028654 * (x + 0.044715 * x * x * x), h = tanh(z);
    *ret_slope =
        0.5 * (1 + h) + 0.5 * x * (1 - h * h) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
    return 0.5 * x * (1 + h);
}

static double silu(double x, double *ret_slope)
{
    double s = 1.0 / (1.0 + exp(-x));
    *ret_slope = s * (1.0 + x * (1.0 - s));
    return x * s;
}

static void gated(struct fast *f, size_t T, size_t F)
{
    const struct tn_ops *ops = f->b->ops;
    float *hgu, *hdy;
    void *gu = fast_drawn(f, &hgu, T * 2 * F, 11, 6.0f, TN_BF16);
    void *dy = fast_drawn(f, &hdy, T * F, 12, 1.0f, TN_BF16);
    void *y = fast_put(f, NULL, T * F, TN_BF16), *dgu = fast_put(f, NULL, T * 2 * F, TN_BF16);
    double *want = sp_xarray(T * F, sizeof(*want)), *back = sp_xarray(T * 2 * F, sizeof(*back));
    for (int is_gelu = 0; is_gelu < 2; is_gelu++) {
        for (size_t i = 0; i < T * F; i++) {
            size_t at = i / F * 2 * F + i % F;
            double slope, g = (double)hgu[at], u = (double)hgu[at + F];
            double gate = is_gelu ? gelu(g, true, &slope) : silu(g, &slope);
            want[i] = gate * u;
            back[at] = (double)hdy[i] * u * slope;
            back[at + F] = (double)hdy[i] * gate;
        }
        (is_gelu ? ops->geglu : ops->swiglu)(f->b, y, gu, (int32_t)T, (int32_t)F);
        fast_expect(f, is_gelu ? "geglu" : "swiglu", y, TN_BF16, want, T * F);
        (is_gelu ? ops->geglu_bwd : ops->swiglu_bwd)(f->b, dgu, dy, gu, (int32_t)T, (int32_t)F);
        fast_expect(f, is_gelu ? "geglu_bwd" : "swiglu_bwd", dgu, TN_BF16, back, T * 2 * F);
    }
    free(want);
    free(back);
}

static void plain(struct fast *f, size_t n)
{
    const struct tn_ops *ops = f->b->ops;
    float *hx, *hdy;
    void *x = fast_drawn(f, &hx, n, 13, 6.0f, TN_BF16);
    void *dy = fast_drawn(f, &hdy, n, 14, 1.0f, TN_BF16), *y = fast_put(f, NULL, n, TN_BF16);
    double *want = sp_xarray(n, sizeof(*want)), *back = sp_xarray(n, sizeof(*back));
    for (int tanh_form = 0; tanh_form < 2; tanh_form++) {
        for (size_t i = 0; i < n; i++) {
            double slope;
            want[i] = gelu((double)hx[i], tanh_form, &slope);
            back[i] = slope * (double)hdy[i];
        }
        ops->gelu(f->b, y, x, n, tanh_form);
        fast_expect(f, "gelu", y, TN_BF16, want, n);
        tn_put(f->b, y, TN_BF16, hdy, n);
        ops->gelu_bwd(f->b, y, y, x, n, tanh_form);
        fast_expect(f, "gelu_bwd", y, TN_BF16, back, n);
    }
    ops->affine(f->b, y, x, 1.5f, 0.25f, n);
    for (size_t i = 0; i < n; i++)
        want[i] = 1.5 * (double)hx[i] + 0.25;
    fast_expect(f, "affine", y, TN_BF16, want, n);
    ops->add(f->b, x, dy, n);
    for (size_t i = 0; i < n; i++)
        want[i] = (double)hx[i] + (double)hdy[i];
    fast_expect(f, "add", x, TN_BF16, want, n);
    free(want);
    free(back);
}

/* Rows hold more than the heads that are turned. */
static void rope(struct fast *f, int32_t T, int32_t heads, int32_t C, int32_t rotary, bool inverse)
{
    enum { POSITIONS = 40 };
    int32_t R = rotary > 0 ? rotary : C, stride = (heads + 1) * C;
    size_t half = (size_t)R / 2, n = (size_t)T * (size_t)stride;
    float *hx, *hcos, *hsin;
    void *x = fast_drawn(f, &hx, n, 15, 1.0f, TN_BF16);
    float *cosine = fast_drawn(f, &hcos, POSITIONS * half, 16, 1.0f, TN_F32);
    float *sine = fast_drawn(f, &hsin, POSITIONS * half, 17, 1.0f, TN_F32);
    double *want = sp_xarray(n, sizeof(*want));
    int32_t *positions = sp_xarray((size_t)T, sizeof(*positions));
    for (size_t i = 0; i < n; i++)
        want[i] = (double)hx[i];
    for (size_t t = 0; t < (size_t)T; t++) {
        positions[t] = (int32_t)(t * 17 % POSITIONS);
        for (size_t h = 0; h < (size_t)heads; h++)
            for (size_t i = 0; i < half; i++) {
                size_t at = t * (size_t)stride + h * (size_t)C + i;
                double c = (double)hcos[(size_t)positions[t] * half + i];
                double s = (double)hsin[(size_t)positions[t] * half + i] * (inverse ? -1 : 1);
                want[at] = (double)hx[at] * c - (double)hx[at + half] * s;
                want[at + half] = (double)hx[at + half] * c + (double)hx[at] * s;
            }
    }
    f->b->ops->rope(f->b, x, T, heads, C, stride, positions, cosine, sine, inverse, rotary);
    fast_expect(f, "rope", x, TN_BF16, want, n);
    free(want);
    free(positions);
}

void fast_elements(struct fast *f, int32_t T, int32_t D)
{
    gated(f, (size_t)T, (size_t)D);
    fast_release(f);
    plain(f, (size_t)T * (size_t)D - 1);
    fast_release(f);
    if (D <= 1000) {
        rope(f, T, 3, D, 0, false);
        rope(f, T, 3, D, D / 4 * 2, true);
    }
    if (D == 1000) {
        rope(f, T, 5, 128, 0, false);
        rope(f, T, 5, 128, 32, true);
    }
    fast_release(f);
}

/* --- logits --- */

static void lse_reference(const float *x, size_t R, size_t V, double *lse, int32_t *argmax)
{
    for (size_t r = 0; r < R; r++) {
        double sum = 0.0;
        argmax[r] = 0;
        for (size_t i = 1; i < V; i++)
            if (x[r * V + i] > x[r * V + (size_t)argmax[r]])
                argmax[r] = (int32_t)i;
        for (size_t i = 0; i < V; i++)
            sum += exp((double)x[r * V + i] - (double)x[r * V + (size_t)argmax[r]]);
        lse[r] = (double)x[r * V + (size_t)argmax[r]] + log(sum);
    }
}

/* Every third row has no target, the others two, one of them twice the same. */
static int32_t make_targets(struct tn_target *targets, int32_t R, int32_t V)
{
    int32_t n = 0;
    for (int32_t r = 0; r < R; r++)
        for (int32_t i = 0; r % 3 != 1 && i < 3; i++)
            targets[n++] = (struct tn_target){r, (r * 31 + i / 2 * 5) % V, 0.5f + 0.25f * (float)i};
    return n;
}

static void logits_case(struct fast *f, int32_t R, int32_t V, float cap)
{
    const struct tn_ops *ops = f->b->ops;
    size_t r = (size_t)R, v = (size_t)V;
    float *hx, *lse = sp_xarray(r, sizeof(*lse));
    float *x = fast_drawn(f, &hx, r * v, 18, 6.0f, TN_F32);
    double *want_lse = sp_xarray(r, sizeof(*want_lse)), *want = sp_xarray(r * v, sizeof(*want));
    int32_t *argmax = sp_xarray(r, sizeof(*argmax)), *want_argmax = sp_xarray(r, sizeof(*argmax));
    struct tn_target *targets = sp_xarray(3 * r, sizeof(*targets));
    int32_t n = make_targets(targets, R, V);
    hx[v / 2] = hx[v / 3] = 7.0f; /* the first of equals */
    hx[(r - 1) * v + v - 1] = 8.0f;
    hx[(r - 1) * v] = -INFINITY;
    tn_put(f->b, x, TN_F32, hx, r * v);
    lse_reference(hx, r, v, want_lse, want_argmax);
    ops->row_lse(f->b, lse, argmax, x, R, V);
    fast_expect_host(f, "row_lse", lse, TN_F32, want_lse, r);
    bool same = true;
    for (size_t i = 0; i < r; i++)
        same = same && argmax[i] == want_argmax[i];
    fast_ok(f, same, "argmax", f->label);
    hx[(r - 1) * v] = -6.0f;
    tn_put(f->b, x, TN_F32, hx, r * v);
    for (int32_t i = 0; i < n; i++) {
        const struct tn_target *t = &targets[i];
        want[(size_t)t->row * v + (size_t)t->id] += (double)t->coefficient;
        for (size_t j = 0; j < v; j++) {
            size_t at = (size_t)t->row * v + j;
            want[at] -= (double)t->coefficient * exp((double)hx[at] - (double)lse[t->row]);
        }
    }
    for (size_t i = 0; cap > 0 && i < r * v; i++)
        want[i] *= 1 - ((double)hx[i] / (double)cap) * ((double)hx[i] / (double)cap);
    if (cap > 0)
        ops->logits_bwd_capped(f->b, x, lse, targets, n, R, V, cap);
    else
        ops->logits_bwd(f->b, x, lse, targets, n, R, V);
    fast_expect(f, "logits_bwd", x, TN_F32, want, r * v);
    free(lse);
    free(argmax);
    free(want_argmax);
    free(want_lse);
    free(want);
    free(targets);
    fast_release(f);
}

void fast_logits(struct fast *f)
{
    static const int32_t sizes[][2] = {{1, 2},    {3, 3},     {70, 613},   {5, 1000},
                                       {4, 4096}, {3, 50257}, {2, 128256}, {7, 4104}};
    for (size_t i = 0; i < 2 * SP_COUNT(sizes); i++) {
        int32_t R = sizes[i / 2][0], V = sizes[i / 2][1];
        f->offset = i % 3 == 1 ? 1 : 0;
        snprintf(f->label, sizeof(f->label), ", %d x %d%s", R, V, i % 2 ? ", capped" : "");
        logits_case(f, R, V, i % 2 ? 30.0f : 0.0f);
    }
    float nan[2000] = {[1999] = NAN}, lse;
    f->offset = 0;
    f->b->ops->row_lse(f->b, &lse, NULL, fast_put(f, nan, 2000, TN_F32), 1, 2000);
    fast_ok(f, isnan(lse), "row_lse", " of NaN");
    fast_release(f);
}

void fast_squares(struct fast *f)
{
    static const size_t counts[] = {1, 7, 65536, 70001, 200000};
    struct sp_error err;
    for (size_t i = 0; i < 4 * SP_COUNT(counts); i++) {
        enum tn_dtype W = i % 2 ? TN_BF16 : TN_F32;
        size_t n = counts[i / 4];
        float *host;
        double want = 0.0;
        SP_ASSERT(tn_store_weights(f->b, W, &err) == SP_OK);
        f->offset = i & 2 ? 1 : 0;
        snprintf(f->label, sizeof(f->label), ", %zu, %s", n, W == TN_BF16 ? "bf16" : "fp32");
        void *x = fast_drawn(f, &host, n, 19, 1.0f, W);
        for (size_t j = 0; j < n; j++)
            want += (double)host[j] * (double)host[j];
        double got = f->b->ops->sum_squares(f->b, x, n);
        fast_ok(f, fabs(got - want) <= 1e-12 * want, "sum_squares", f->label);
        host[n - 1] = i & 2 ? NAN : -INFINITY;
        tn_put(f->b, x, W, host, n);
        fast_ok(f, !isfinite(f->b->ops->sum_squares(f->b, x, n)), "sum_squares, not finite",
                f->label);
        fast_release(f);
    }
}

/* Operations of models outside the Llama line: values against double, gradients against
 * differences, one result for every instruction set and number of threads. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <string.h>

#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"
#include "tests/unit/tensor/tensor_test.h"

static const int32_t widths[] = {1, 8, 16, 37, 64, 130};
enum { T = 19 };

/* --- LayerNorm --- */

struct rows {
    int32_t D, heads, stride;
    const float *dy;
};

static void layernorm(double *y, const double *x, const double *w, const double *b, size_t d)
{
    for (size_t t = 0; t < T; t++) {
        double mean = 0.0, var = 0.0;
        for (size_t i = 0; i < d; i++)
            mean += x[t * d + i] / (double)d;
        for (size_t i = 0; i < d; i++)
            var += (x[t * d + i] - mean) * (x[t * d + i] - mean) / (double)d;
        for (size_t i = 0; i < d; i++)
            y[t * d + i] = (x[t * d + i] - mean) / sqrt(var + 1e-5) * w[i] + b[i];
    }
}

/* x: T rows, weights, biases; Σ dy·y */
static double layernorm_loss(const double *x, void *context)
{
    const struct rows *r = context;
    size_t d = (size_t)r->D;
    double *y = array(T * d, 8), loss = 0.0;
    layernorm(y, x, x + T * d, x + (T + 1) * d, d);
    for (size_t i = 0; i < T * d; i++)
        loss += r->dy[i] * y[i];
    return loss;
}

START_TEST(layer_norm)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct rows r = {.D = widths[_i]};
    size_t d = (size_t)r.D, n = T * d;
    float *x = filled(n + 2 * d, 1, 1.0f), *dy = filled(n, 2, 1.0f), *y = zeros(n);
    float *stats = zeros(2 * T), *gradient = zeros(n + 2 * d);
    for (size_t i = 0; i < n; i++)
        x[i] += 3.0f; /* a mean that isn't zero */
    b->ops->layernorm(b, y, stats, x, x + n, x + n + d, T, r.D, 1e-5f);
    double *exact = array(n + 2 * d, 8), *want = array(n, 8);
    for (size_t i = 0; i < n + 2 * d; i++)
        exact[i] = x[i];
    layernorm(want, exact, exact + n, exact + n + d, d);
    for (size_t i = 0; i < n; i++)
        ck_assert_double_eq_tol(y[i], want[i], 1e-5);
    r.dy = dy;
    b->ops->layernorm_bwd(b, gradient, gradient + n, dy, x, x + n, stats, T, r.D);
    b->ops->bias_bwd(b, gradient + n + d, dy, T, r.D);
    check_gradient(layernorm_loss, &r, x, gradient, n + 2 * d, 2e-4);
    float *again = zeros(n + d); /* it adds */
    memcpy(again, gradient, (n + d) * sizeof(float));
    b->ops->layernorm_bwd(b, again, again + n, dy, x, x + n, stats, T, r.D);
    for (size_t i = 0; i < n + d; i++)
        gradient[i] *= 2.0f;
    if (r.D > 1)
        ck_assert_double_lt(error_f(again, gradient, n + d), 1e-5);
    tn_close(b);
}
END_TEST

/* --- norms of heads --- */

enum { HEADS = 3 };

static double head_norm_loss(const double *x, void *context)
{
    const struct rows *r = context;
    size_t c = (size_t)r->D, stride = (size_t)r->stride;
    const double *w = x + T * stride;
    double loss = 0.0;
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < HEADS; h++) {
            const double *v = x + t * stride + h * c;
            double squares = 0.0;
            for (size_t i = 0; i < c; i++)
                squares += v[i] * v[i] / (double)c;
            for (size_t i = 0; i < c; i++)
                loss += r->dy[t * stride + h * c + i] * v[i] / sqrt(squares + 1e-5) * w[i];
        }
    for (size_t t = 0; t < T; t++) /* what lies beside the heads passes through */
        for (size_t i = HEADS * c; i < stride; i++)
            loss += r->dy[t * stride + i] * x[t * stride + i];
    return loss;
}

START_TEST(head_norm)
{
    static const int32_t sizes[] = {4, 16, 20, 64};
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct rows r = {.D = sizes[_i], .stride = HEADS * sizes[_i] + 5};
    size_t c = (size_t)r.D, stride = (size_t)r.stride, n = T * stride;
    float *x = filled(n + c, 1, 1.0f), *y = zeros(n), *rstd = zeros(T * HEADS);
    float *dy = filled(n, 2, 1.0f), *gradient = zeros(n + c);
    memcpy(y, x, n * sizeof(float));
    b->ops->head_norm(b, y, rstd, x, x + n, T, HEADS, r.D, r.stride, 1e-5f);
    for (size_t t = 0; t < T; t++) {
        for (size_t h = 0; h < HEADS; h++) {
            double squares = 0.0;
            for (size_t i = 0; i < c; i++)
                squares += pow((double)x[t * stride + h * c + i], 2) / (double)c;
            for (size_t i = 0; i < c; i++)
                ck_assert_double_eq_tol(
                    y[t * stride + h * c + i],
                    x[t * stride + h * c + i] / sqrt(squares + 1e-5) * (double)x[n + i], 1e-6);
        }
        ck_assert_int_eq(memcmp(y + (t + 1) * stride - 5, x + (t + 1) * stride - 5, 20), 0);
    }
    r.dy = dy;
    memcpy(gradient, dy, n * sizeof(float));
    b->ops->head_norm_bwd(b, gradient, gradient + n, x, x + n, rstd, T, HEADS, r.D, r.stride);
    check_gradient(head_norm_loss, &r, x, gradient, n + c, 1e-4);
    tn_close(b);
}
END_TEST

/* --- activations --- */

static double gelu(double x, bool tanh_form)
{
    return tanh_form ? 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)))
                     : 0.5 * x * (1 + erf(x / sqrt(2)));
}

struct activation {
    size_t n;
    bool tanh_form;
    const float *dy;
};

static double gelu_loss(const double *x, void *context)
{
    const struct activation *a = context;
    double loss = 0.0;
    for (size_t i = 0; i < a->n; i++)
        loss += a->dy[i] * gelu(x[i], a->tanh_form);
    return loss;
}

START_TEST(gelu_both_forms)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct activation a = {.n = 1003, .tanh_form = _i};
    float *x = filled(a.n, 1, 7.0f), *y = zeros(a.n), *dx = zeros(a.n);
    for (size_t i = 0; i < 100; i++)
        x[i] *= 0.01f;
    a.dy = filled(a.n, 2, 1.0f);
    b->ops->gelu(b, y, x, a.n, a.tanh_form);
    for (size_t i = 0; i < a.n; i++)
        ck_assert_double_eq_tol(y[i], gelu((double)x[i], a.tanh_form), 1e-6);
    b->ops->gelu_bwd(b, dx, a.dy, x, a.n, a.tanh_form);
    check_gradient(gelu_loss, &a, x, dx, a.n, 1e-4);
    const float edge[4] = {-200.0f, 200.0f, 0.0f, NAN}, one[4] = {1, 1, 1, 1};
    float got[4], slope[4];
    b->ops->gelu(b, got, edge, 4, a.tanh_form);
    b->ops->gelu_bwd(b, slope, one, edge, 4, a.tanh_form);
    ck_assert(fabsf(got[0]) < 1e-30f && got[1] == 200.0f && got[2] == 0.0f && isnan(got[3]));
    ck_assert(fabsf(slope[0]) < 1e-30f && slope[1] == 1.0f);
    ck_assert(fabsf(slope[2] - 0.5f) < 1e-6f && isnan(slope[3]));
    tn_close(b);
}
END_TEST

static double geglu_loss(const double *gu, void *context)
{
    const struct rows *r = context;
    size_t f = (size_t)r->D;
    double loss = 0.0;
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < f; i++)
            loss += r->dy[t * f + i] * gelu(gu[t * 2 * f + i], true) * gu[t * 2 * f + f + i];
    return loss;
}

START_TEST(geglu)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct rows r = {.D = widths[_i]};
    size_t f = (size_t)r.D;
    float *gu = filled(T * 2 * f, 1, 4.0f), *y = zeros(T * f), *dy = filled(T * f, 2, 1.0f);
    float *dgu = zeros(T * 2 * f);
    b->ops->geglu(b, y, gu, T, r.D);
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < f; i++)
            ck_assert_double_eq_tol(
                y[t * f + i], gelu((double)gu[t * 2 * f + i], true) * (double)gu[t * 2 * f + f + i],
                1e-5);
    r.dy = dy;
    b->ops->geglu_bwd(b, dgu, dy, gu, T, r.D);
    check_gradient(geglu_loss, &r, gu, dgu, T * 2 * f, 1e-4);
    tn_close(b);
}
END_TEST

/* --- biases, affine maps, partial rotation --- */

START_TEST(biases)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    size_t n = (size_t)widths[_i];
    float *y = filled(T * n, 1, 1.0f), *before = filled(T * n, 1, 1.0f), *bias = filled(n, 2, 1.0f);
    float *db = filled(n, 3, 1.0f), *want = filled(n, 3, 1.0f);
    b->ops->bias(b, y, bias, T, widths[_i]);
    b->ops->bias_bwd(b, db, before, T, widths[_i]);
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < n; i++) {
            ck_assert(y[t * n + i] == before[t * n + i] + bias[i]);
            want[i] += before[t * n + i];
        }
    ck_assert_int_eq(memcmp(db, want, n * sizeof(float)), 0);
    b->ops->affine(b, y, before, 3.0f, 1.0f, T * n);
    for (size_t i = 0; i < T * n; i++)
        ck_assert(y[i] == fmaf(before[i], 3.0f, 1.0f));
    tn_close(b);
}
END_TEST

START_TEST(partial_rotation_is_that_of_a_smaller_head)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    enum { C = 20, R = 6 };
    int32_t positions[T];
    float *x = filled(T * HEADS * C, 1, 1.0f), *y = zeros(T * HEADS * C);
    float *small = zeros(T * HEADS * R), *tables = filled(50 * R, 2, 1.0f);
    for (uint32_t t = 0; t < T; t++)
        positions[t] = (int32_t)pick(3, t, 50);
    memcpy(y, x, T * HEADS * C * sizeof(float));
    for (size_t h = 0; h < T * HEADS; h++)
        memcpy(small + h * R, x + h * C, R * sizeof(float));
    b->ops->rope(b, y, T, HEADS, C, HEADS * C, positions, tables, tables, false, R);
    b->ops->rope(b, small, T, HEADS, R, HEADS * R, positions, tables, tables, false, 0);
    for (size_t h = 0; h < T * HEADS; h++) {
        ck_assert_int_eq(memcmp(y + h * C, small + h * R, R * sizeof(float)), 0);
        ck_assert_int_eq(memcmp(y + h * C + R, x + h * C + R, (C - R) * sizeof(float)), 0);
    }
    tn_close(b);
}
END_TEST

/* --- soft caps --- */

enum { QT = 13, QH = 4, QG = 2, QC = 6, QW = (QH + 2 * QG) * QC };

struct capped {
    double cap;
    int32_t window;
    const float *dout;
};

/* Causal attention with capped scores, in double. */
static double capped_loss(const double *qkv, void *context)
{
    const struct capped *c = context;
    double loss = 0.0;
    for (int t = 0; t < QT; t++)
        for (int h = 0; h < QH; h++) {
            const double *q = qkv + t * QW + h * QC;
            double p[QT], sum = 0.0;
            int from = c->window && t >= c->window ? t - c->window + 1 : 0;
            for (int k = from; k <= t; k++) {
                double s = 0.0;
                for (int i = 0; i < QC; i++)
                    s += q[i] * qkv[k * QW + (QH + h / 2) * QC + i];
                p[k] = exp(c->cap * tanh(0.9 * s / c->cap));
                sum += p[k];
            }
            for (int k = from; k <= t; k++)
                for (int i = 0; i < QC; i++)
                    loss += p[k] / sum * qkv[k * QW + (QH + QG + h / 2) * QC + i] *
                            c->dout[(t * QH + h) * QC + i];
        }
    return loss;
}

START_TEST(capped_attention)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct capped c = {.cap = 0.7, .window = _i ? 4 : 0};
    struct tn_segment segment = {0, 5, QT - 5, 0};
    float *qkv = filled(QT * QW, 1, 1.5f), *dout = filled(QT * QH * QC, 2, 1.0f);
    float *out = zeros(QT * QH * QC), *lse = zeros(QT * QH), *dqkv = zeros(QT * QW);
    b->ops->attention(b, out, lse, qkv, QT, &segment, 1, QH, QG, QC, 0.9f, c.window, 0.7f);
    b->ops->attention_bwd(b, dqkv, dout, out, lse, qkv, QT, &segment, 1, QH, QG, QC, 0.9f, c.window,
                          0.7f);
    c.dout = dout;
    double *exact = array(QT * QW, 8), loss = 0.0;
    for (size_t i = 0; i < QT * QW; i++)
        exact[i] = qkv[i];
    for (size_t i = 0; i < QT * QH * QC; i++)
        loss += (double)out[i] * dout[i];
    ck_assert_double_eq_tol(loss, capped_loss(exact, &c), 1e-4);
    check_gradient(capped_loss, &c, qkv, dqkv, QT * QW, 2e-4);
    struct tn_kv_cache *cache = b->ops->cache_new(b, 1, 1, QT, QG, QC, TN_F32, 0);
    struct tn_cache_row rows[QT];
    float *cached = zeros(QT * QH * QC);
    for (int32_t t = 0; t < QT; t++)
        rows[t] = (struct tn_cache_row){0, t};
    b->ops->cache_put(b, cache, 0, qkv, rows, QT, QH);
    b->ops->cache_attention(b, cached, qkv, cache, 0, rows, QT, QH, 0.9f, c.window, 0.7f);
    ck_assert_int_eq(memcmp(cached, out, QT * QH * QC * sizeof(float)), 0);
    b->ops->cache_free(b, cache);
    tn_close(b);
}
END_TEST

enum { LR = 5, LV = 43 };
static const struct tn_target logit_targets[] = {
    {0, 3, 0.5f}, {1, 7, -0.3f}, {1, 7, 0.4f}, {1, 40, 0.9f}, {4, 0, -1.0f}};

static double capped_logits_loss(const double *x, void *context)
{
    double cap = *(double *)context, loss = 0.0;
    for (size_t i = 0; i < SP_COUNT(logit_targets); i++) {
        const struct tn_target *t = &logit_targets[i];
        const double *row = x + t->row * LV;
        double sum = 0.0;
        for (int v = 0; v < LV; v++)
            sum += exp(cap * tanh(row[v] / cap));
        loss += (double)t->coefficient * (cap * tanh(row[t->id] / cap) - log(sum));
    }
    return loss;
}

START_TEST(capped_logits)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    double cap = 2.0;
    float *x = filled(LR * LV, 1, 3.0f), *y = zeros(LR * LV), lse[LR];
    x[0] = 0.001f;
    memcpy(y, x, LR * LV * sizeof(float));
    b->ops->softcap(b, y, 2.0f, LR * LV);
    for (size_t i = 0; i < LR * LV; i++)
        ck_assert_double_eq_tol(y[i], cap * tanh((double)x[i] / cap), 4e-7);
    b->ops->row_lse(b, lse, NULL, y, LR, LV);
    b->ops->logits_bwd_capped(b, y, lse, logit_targets, SP_COUNT(logit_targets), LR, LV, 2.0f);
    check_gradient(capped_logits_loss, &cap, x, y, LR * LV, 1e-4);
    tn_close(b);
}
END_TEST

/* --- one result, large enough that every operation is split --- */

enum { ROWS = 200, D = 136, OUT = 13 * ROWS * D };

static void everything(struct tn_backend *b, float *out)
{
    float *x = filled(ROWS * 2 * D, 1, 3.0f), *dy = filled(ROWS * 2 * D, 2, 1.0f);
    float *w = filled(2 * D, 3, 1.0f), *at = out, *stats = zeros(8 * ROWS);
    memset(out, 0, OUT * sizeof(float));
    b->ops->layernorm(b, at, stats, x, w, w + D, ROWS, D, 1e-5f);
    at += ROWS * D;
    b->ops->layernorm_bwd(b, at, at + ROWS * D, dy, x, w, stats, ROWS, D);
    at += (ROWS + 1) * D;
    b->ops->bias_bwd(b, at, dy, ROWS, D);
    at += D;
    b->ops->head_norm(b, at, stats, x, w, ROWS, 4, 34, D, 1e-5f);
    at += ROWS * D;
    memcpy(at, dy, ROWS * D * sizeof(float));
    b->ops->head_norm_bwd(b, at, at + ROWS * D, x, w, stats, ROWS, 4, 34, D);
    at += (ROWS + 1) * D;
    b->ops->geglu(b, at, x, ROWS, D);
    at += ROWS * D;
    b->ops->geglu_bwd(b, at, dy, x, ROWS, D);
    at += 2 * ROWS * D;
    for (int form = 0; form < 2; form++) {
        b->ops->gelu(b, at, x, ROWS * D / 2, form);
        at += ROWS * D / 2;
        b->ops->gelu_bwd(b, at, dy, x, ROWS * D / 2, form);
        at += ROWS * D / 2;
    }
    b->ops->affine(b, at, x, 1.7f, 0.3f, ROWS * D / 2);
    b->ops->softcap(b, at, 2.0f, ROWS * D / 2);
    at += ROWS * D / 2;
    struct tn_segment segment = {0, 100, 60, 40};
    b->ops->attention(b, at, stats, x, ROWS, &segment, 1, 4, 2, 34, 0.3f, 0, 1.5f);
    at += ROWS * D;
    float *d = zeros(ROWS * 2 * D);
    b->ops->attention_bwd(b, d, dy, at - ROWS * D, stats, x, ROWS, &segment, 1, 4, 2, 34, 0.3f, 0,
                          1.5f);
    memcpy(at, d, 2 * ROWS * D * sizeof(float));
    at += 2 * ROWS * D;
    ck_assert(at <= out + OUT);
}

START_TEST(operations_have_one_result)
{
    check_same_bits(everything, OUT);
}
END_TEST

START_TEST(operations_agree_with_openblas)
{
    check_backends_agree(everything, OUT, 1e-6);
}
END_TEST

/* What test_numerics.c is for the other operations: see there before changing it. */
#define REVISION 1
#define DIGEST "3d2894ed04bc9e96137ce5e854b56116be8ce25030533e38cc17985658dbddda"

START_TEST(the_digest_is_the_revision_s)
{
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    struct tn_backend *b = open_backend("cpu", isas[_i], 2);
    if (!b)
        return;
    float *out = zeros(OUT), *logits = filled(LR * LV, 9, 3.0f), lse[LR];
    everything(b, out);
    b->ops->softcap(b, logits, 2.0f, LR * LV);
    b->ops->row_lse(b, lse, NULL, logits, LR, LV);
    b->ops->logits_bwd_capped(b, logits, lse, logit_targets, SP_COUNT(logit_targets), LR, LV, 2.0f);
    struct sp_sha256 *hash = sp_sha256_new();
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    sp_sha256_update(hash, out, OUT * sizeof(float));
    sp_sha256_update(hash, logits, LR * LV * sizeof(float));
    sp_sha256_final(hash, &digest);
    sp_sha256_free(hash);
    sp_digest_hex(&digest, hex);
    tn_close(b);
    ck_assert_int_eq(TN_NUMERICS_REVISION, REVISION);
    ck_assert_str_eq(hex, DIGEST);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("families");
    TCase *tcase = tcase_create("families");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, NULL, free_arrays);
    int n = (int)SP_COUNT(widths);
    tcase_add_loop_test(tcase, layer_norm, 0, n);
    tcase_add_loop_test(tcase, head_norm, 0, 4);
    tcase_add_loop_test(tcase, gelu_both_forms, 0, 2);
    tcase_add_loop_test(tcase, geglu, 0, n);
    tcase_add_loop_test(tcase, biases, 0, n);
    tcase_add_test(tcase, partial_rotation_is_that_of_a_smaller_head);
    tcase_add_loop_test(tcase, capped_attention, 0, 2);
    tcase_add_test(tcase, capped_logits);
    tcase_add_test(tcase, operations_have_one_result);
    tcase_add_test(tcase, operations_agree_with_openblas);
    tcase_add_loop_test(tcase, the_digest_is_the_revision_s, 0, 3);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

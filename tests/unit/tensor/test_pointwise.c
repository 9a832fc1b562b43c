/* Norms, rotations, activations, embeddings, optimizer steps: values, gradients, bits. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/unit/tensor/tensor_test.h"

static const int32_t widths[] = {1, 8, 16, 37, 64, 130};
enum { T = 19 };

/* --- RMSNorm --- */

struct norm {
    int32_t D;
    const float *dy;
};

/* x: T rows, then the weights; Σ dy·y */
static double norm_loss(const double *x, void *context)
{
    const struct norm *n = context;
    size_t d = (size_t)n->D;
    double loss = 0.0;
    for (size_t t = 0; t < T; t++) {
        double squares = 0.0;
        for (size_t i = 0; i < d; i++)
            squares += x[t * d + i] * x[t * d + i];
        double r = 1.0 / sqrt(squares / (double)d + 1e-5);
        for (size_t i = 0; i < d; i++)
            loss += n->dy[t * d + i] * x[t * d + i] * r * x[T * d + i];
    }
    return loss;
}

START_TEST(rmsnorm)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct norm n = {.D = widths[_i]};
    size_t d = (size_t)n.D, count = T * d;
    float *x = filled(count + d, 1, 1.0f), *dy = filled(count, 2, 1.0f), *y = zeros(count);
    float rstd[T], *gradient = zeros(count + d);
    b->ops->rmsnorm(b, y, rstd, x, x + count, T, n.D, 1e-5f);
    for (size_t t = 0; t < T; t++) {
        double squares = 0.0;
        for (size_t i = 0; i < d; i++)
            squares += (double)x[t * d + i] * x[t * d + i];
        double r = 1.0 / sqrt(squares / (double)d + 1e-5);
        ck_assert_double_eq_tol(rstd[t], r, 1e-6 * r);
        for (size_t i = 0; i < d; i++)
            ck_assert_double_eq_tol(y[t * d + i], x[t * d + i] * r * x[count + i], 1e-6);
    }
    n.dy = dy;
    b->ops->rmsnorm_bwd(b, gradient, gradient + count, dy, x, x + count, rstd, T, n.D);
    if (n.D > 1) /* the norm of one number hardly depends on it */
        check_gradient(norm_loss, &n, x, gradient, count + d, 1e-4);
    /* it adds */
    float *again = zeros(count + d);
    memcpy(again, gradient, (count + d) * sizeof(float));
    b->ops->rmsnorm_bwd(b, again, again + count, dy, x, x + count, rstd, T, n.D);
    for (size_t i = 0; i < count + d; i++)
        gradient[i] *= 2.0f;
    ck_assert_double_lt(error_f(again, gradient, count + d), 1e-5);
    tn_close(b);
}
END_TEST

/* --- RoPE --- */

enum { HEADS = 3, PLACES = 40 };

struct rotation {
    int32_t C, stride;
    const int32_t *positions;
    const float *cos, *sin, *dy;
};

static void rotate(double *y, const double *x, const struct rotation *r)
{
    size_t half = (size_t)r->C / 2;
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < HEADS; h++)
            for (size_t i = 0; i < half; i++) {
                size_t lo = t * (size_t)r->stride + h * (size_t)r->C + i, hi = lo + half;
                double c = r->cos[(size_t)r->positions[t] * half + i];
                double s = r->sin[(size_t)r->positions[t] * half + i];
                y[lo] = x[lo] * c - x[hi] * s;
                y[hi] = x[hi] * c + x[lo] * s;
            }
}

static double rope_loss(const double *x, void *context)
{
    const struct rotation *r = context;
    size_t n = T * (size_t)r->stride;
    double *y = array(n, 8), loss = 0.0;
    memcpy(y, x, n * 8);
    rotate(y, x, r);
    for (size_t i = 0; i < n; i++)
        loss += y[i] * r->dy[i];
    return loss;
}

START_TEST(rope)
{
    static const int32_t sizes[] = {2, 16, 20, 64};
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct rotation r = {.C = sizes[_i], .stride = HEADS * sizes[_i] + 5};
    size_t half = (size_t)r.C / 2, n = T * (size_t)r.stride;
    float *cos_table = zeros(PLACES * half), *sin_table = zeros(PLACES * half);
    for (size_t p = 0; p < PLACES; p++)
        for (size_t i = 0; i < half; i++) {
            double angle = (double)p * pow(10000.0, -(double)i / (double)half);
            cos_table[p * half + i] = (float)cos(angle);
            sin_table[p * half + i] = (float)sin(angle);
        }
    int32_t positions[T];
    for (uint32_t t = 0; t < T; t++)
        positions[t] = (int32_t)pick(3, t, PLACES);
    float *x = filled(n, 1, 1.0f), *y = zeros(n), *dy = filled(n, 2, 1.0f), *dx = zeros(n);
    r.positions = positions;
    r.cos = cos_table;
    r.sin = sin_table;
    r.dy = dy;
    memcpy(y, x, n * sizeof(float));
    b->ops->rope(b, y, T, HEADS, r.C, r.stride, positions, cos_table, sin_table, false, 0);
    double *exact = array(n, 8), *want = array(n, 8);
    for (size_t i = 0; i < n; i++)
        want[i] = exact[i] = x[i];
    rotate(want, exact, &r);
    ck_assert_double_lt(error_d(y, want, n), 1e-7);
    for (size_t t = 0; t < T; t++) /* what lies beside the heads stays */
        ck_assert_int_eq(memcmp(y + (t + 1) * (size_t)r.stride - 5,
                                x + (t + 1) * (size_t)r.stride - 5, 5 * sizeof(float)),
                         0);
    memcpy(dx, dy, n * sizeof(float));
    b->ops->rope(b, dx, T, HEADS, r.C, r.stride, positions, cos_table, sin_table, true, 0);
    check_gradient(rope_loss, &r, x, dx, n, 1e-5);
    b->ops->rope(b, y, T, HEADS, r.C, r.stride, positions, cos_table, sin_table, true, 0);
    ck_assert_double_lt(error_f(y, x, n), 1e-6);
    tn_close(b);
}
END_TEST

/* --- SwiGLU --- */

static double swiglu_loss(const double *gu, void *context)
{
    const struct norm *n = context;
    size_t f = (size_t)n->D;
    double loss = 0.0;
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < f; i++) {
            double g = gu[t * 2 * f + i], u = gu[t * 2 * f + f + i];
            loss += n->dy[t * f + i] * g / (1.0 + exp(-g)) * u;
        }
    return loss;
}

START_TEST(swiglu)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    struct norm n = {.D = widths[_i]};
    size_t f = (size_t)n.D;
    float *gu = filled(T * 2 * f, 1, 6.0f), *y = zeros(T * f), *dy = filled(T * f, 2, 1.0f);
    float *dgu = zeros(T * 2 * f);
    b->ops->swiglu(b, y, gu, T, n.D);
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < f; i++) {
            double g = gu[t * 2 * f + i], u = gu[t * 2 * f + f + i];
            ck_assert_double_eq_tol(y[t * f + i], g / (1.0 + exp(-g)) * u, 1e-5);
        }
    n.dy = dy;
    b->ops->swiglu_bwd(b, dgu, dy, gu, T, n.D);
    check_gradient(swiglu_loss, &n, gu, dgu, T * 2 * f, 1e-4);
    tn_close(b);
}
END_TEST

START_TEST(swiglu_at_the_edges)
{
    struct tn_backend *b = open_backend("cpu", NULL, 1);
    const float gu[8] = {-200.0f, 200.0f, 0.0f, NAN, 1.0f, 1.0f, 1.0f, 1.0f}, dy[4] = {1, 1, 1, 1};
    float y[4], dgu[8];
    b->ops->swiglu(b, y, gu, 1, 4);
    b->ops->swiglu_bwd(b, dgu, dy, gu, 1, 4);
    ck_assert(fabsf(y[0]) < 1e-30f && y[1] == 200.0f && y[2] == 0.0f && isnan(y[3]));
    ck_assert(fabsf(dgu[0]) < 1e-30f && dgu[1] == 1.0f && dgu[2] == 0.5f && isnan(dgu[3]));
    tn_close(b);
}
END_TEST

/* --- embeddings --- */

START_TEST(embeddings)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    enum { V = 11, ROWS = 400 };
    int32_t D = widths[_i], ids[ROWS];
    size_t d = (size_t)D;
    float *table = filled(V * d, 1, 1.0f), *y = zeros(ROWS * d), *dy = filled(ROWS * d, 2, 1.0f);
    float *dtable = filled(V * d, 3, 1.0f), *want = filled(V * d, 3, 1.0f);
    for (uint32_t t = 0; t < ROWS; t++)
        ids[t] = (int32_t)pick(4, t, V);
    b->ops->embed(b, y, table, ids, ROWS, D);
    b->ops->embed_bwd(b, dtable, dy, ids, ROWS, D, V);
    for (size_t t = 0; t < ROWS; t++) {
        ck_assert_int_eq(memcmp(y + t * d, table + (size_t)ids[t] * d, d * sizeof(float)), 0);
        for (size_t i = 0; i < d; i++)
            want[(size_t)ids[t] * d + i] += dy[t * d + i];
    }
    ck_assert_int_eq(memcmp(dtable, want, V * d * sizeof(float)), 0);
    tn_close(b);
}
END_TEST

/* --- flat arrays --- */

START_TEST(sums_and_sums_of_squares)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    static const size_t sizes[] = {0, 1, 15, 16, 1000, 65536, 65537, 300001};
    for (size_t s = 0; s < SP_COUNT(sizes); s++) {
        size_t n = sizes[s];
        float *x = filled(n, 1, 1.0f), *y = filled(n, 2, 1.0f);
        double want = 0.0;
        for (size_t i = 0; i < n; i++)
            want += (double)x[i] * x[i];
        ck_assert_double_eq_tol(b->ops->sum_squares(b, x, n), want, 1e-10 * want + 1e-30);
        b->ops->add(b, y, x, n);
        float *before = filled(n, 2, 1.0f);
        for (size_t i = 0; i < n; i++)
            before[i] += x[i];
        ck_assert_int_eq(memcmp(y, before, n * sizeof(float)), 0);
        if (n > 0) {
            x[n / 2] = INFINITY;
            ck_assert(!isfinite(b->ops->sum_squares(b, x, n)));
            x[n / 2] = NAN;
            ck_assert(!isfinite(b->ops->sum_squares(b, x, n)));
        }
    }
    tn_close(b);
}
END_TEST

START_TEST(rmsprop_steps)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    enum { N = 1003 };
    struct tn_rmsprop o = {1e-3f, 0.99f, 1e-8f, _i ? 0.1f : 0.0f, 0.5f};
    float *w = filled(N, 1, 1.0f), *v = zeros(N);
    double want[N], square[N] = {0};
    for (size_t i = 0; i < N; i++)
        want[i] = w[i];
    for (uint32_t step = 1; step <= 5; step++) {
        float *g = filled(N, 10 + step, 1.0f);
        b->ops->rmsprop(b, w, g, v, N, &o);
        for (size_t i = 0; i < N; i++) {
            double gi = (double)g[i] * o.g_scale + (double)o.weight_decay * want[i];
            square[i] = (double)o.alpha * square[i] + (1.0 - (double)o.alpha) * gi * gi;
            want[i] -= (double)o.lr * gi / (sqrt(square[i]) + (double)o.eps);
        }
    }
    /* 1 − alpha in fp32 is off by 5e-6 of its size. */
    ck_assert_double_lt(error_d(w, want, N), 1e-6);
    ck_assert_double_lt(error_d(v, square, N), 1e-5);
    tn_close(b);
}
END_TEST

START_TEST(adamw_steps)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    enum { N = 1003 };
    struct tn_adamw o = {1e-3f, 0.9f, 0.999f, 1e-8f, _i ? 0.1f : 0.0f, 0.5f, 0};
    float *w = filled(N, 1, 1.0f), *m = zeros(N), *v = zeros(N);
    double want[N], first[N] = {0}, second[N] = {0};
    for (size_t i = 0; i < N; i++)
        want[i] = w[i];
    for (uint32_t step = 1; step <= 5; step++) {
        float *g = filled(N, 10 + step, 1.0f);
        o.step = (int64_t)step;
        b->ops->adamw(b, w, g, m, v, N, &o);
        for (size_t i = 0; i < N; i++) {
            double gi = (double)g[i] * o.g_scale;
            first[i] = (double)o.beta1 * first[i] + (1.0 - (double)o.beta1) * gi;
            second[i] = (double)o.beta2 * second[i] + (1.0 - (double)o.beta2) * gi * gi;
            double mh = first[i] / (1.0 - pow((double)o.beta1, step));
            double vh = second[i] / (1.0 - pow((double)o.beta2, step));
            want[i] *= 1.0 - (double)o.lr * (double)o.weight_decay;
            want[i] -= (double)o.lr * mh / (sqrt(vh) + (double)o.eps);
        }
    }
    ck_assert_double_lt(error_d(w, want, N), 1e-6);
    ck_assert_double_lt(error_d(m, first, N), 1e-6);
    ck_assert_double_lt(error_d(v, second, N), 5e-5);
    tn_close(b);
}
END_TEST

/* --- one result, large enough that every operation is split --- */

enum { ROWS = 200, D = 133, OUT = 14 * ROWS * D };

static void everything(struct tn_backend *b, float *out)
{
    float *x = filled(ROWS * 2 * D, 1, 3.0f), *dy = filled(ROWS * 2 * D, 2, 1.0f);
    float *w = filled(D, 3, 1.0f), *cos_table = filled(50 * 10, 4, 1.0f), *at = out, rstd[ROWS];
    int32_t ids[ROWS];
    for (uint32_t t = 0; t < ROWS; t++)
        ids[t] = (int32_t)pick(5, t, 50);
    memset(out, 0, OUT * sizeof(float));
    b->ops->rmsnorm(b, at, rstd, x, w, ROWS, D, 1e-5f);
    at += ROWS * D;
    b->ops->rmsnorm_bwd(b, at, at + ROWS * D, dy, x, w, rstd, ROWS, D);
    at += (ROWS + 1) * D;
    memcpy(at, rstd, sizeof(rstd));
    at += ROWS;
    b->ops->swiglu(b, at, x, ROWS, D);
    at += ROWS * D;
    b->ops->swiglu_bwd(b, at, dy, x, ROWS, D);
    at += 2 * ROWS * D;
    memcpy(at, x, ROWS * D * sizeof(float));
    b->ops->rope(b, at, ROWS, 6, 20, D, ids, cos_table, cos_table, false, 0);
    at += ROWS * D;
    b->ops->embed_bwd(b, at, dy, ids, ROWS, D, 50);
    at += 50 * D;
    memcpy(at, x, ROWS * D * sizeof(float));
    b->ops->add(b, at, dy, ROWS * D);
    at += ROWS * D;
    struct tn_rmsprop r = {1e-3f, 0.99f, 1e-8f, 0.1f, 0.7f};
    memcpy(at, x, ROWS * D * sizeof(float));
    b->ops->rmsprop(b, at, dy, at + ROWS * D, ROWS * D, &r);
    at += 2 * ROWS * D;
    struct tn_adamw a = {1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.7f, 7};
    memcpy(at, x, ROWS * D * sizeof(float));
    b->ops->adamw(b, at, dy, at + ROWS * D, at + 2 * ROWS * D, ROWS * D, &a);
    at += 3 * ROWS * D;
    double squares = b->ops->sum_squares(b, x, 2 * ROWS * D);
    memcpy(at, &squares, sizeof(squares));
    ck_assert(at + 2 <= out + OUT);
    at[1] = (float)squares; /* the upper half of a double needn't be a finite float */
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

static Suite *suite(void)
{
    Suite *suite = suite_create("pointwise");
    TCase *tcase = tcase_create("pointwise");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, NULL, free_arrays);
    int n = (int)SP_COUNT(widths);
    tcase_add_loop_test(tcase, rmsnorm, 0, n);
    tcase_add_loop_test(tcase, rope, 0, 4);
    tcase_add_loop_test(tcase, swiglu, 0, n);
    tcase_add_test(tcase, swiglu_at_the_edges);
    tcase_add_loop_test(tcase, embeddings, 0, n);
    tcase_add_test(tcase, sums_and_sums_of_squares);
    tcase_add_loop_test(tcase, rmsprop_steps, 0, 2);
    tcase_add_loop_test(tcase, adamw_steps, 0, 2);
    tcase_add_test(tcase, operations_have_one_result);
    tcase_add_test(tcase, operations_agree_with_openblas);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

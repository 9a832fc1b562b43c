/* Matrix products: their value, their exact bits, and what the bits may not depend on. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "tests/unit/tensor/tensor_test.h"

static const int32_t shapes[][3] = {
    /* T, N, K */
    {1, 1, 1},     {1, 33, 7},    {2, 16, 64},   {3, 31, 17},    {13, 32, 100},
    {14, 64, 5},   {15, 65, 33},  {29, 100, 48}, {57, 17, 401},  {7, 96, 785},
    {130, 40, 24}, {1, 160, 770}, {5, 97, 512},  {40, 70, 1024},
};

/* The contract in one line: a chain of fused multiply-adds over k. */
static void chain(float *c, size_t M, size_t N, size_t K, const float *a, size_t a_row,
                  size_t a_col, const float *b, size_t b_row, size_t b_col, bool accumulate)
{
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = accumulate ? c[m * N + n] : 0.0f;
            for (size_t k = 0; k < K; k++)
                sum = fmaf(a[m * a_row + k * a_col], b[k * b_row + n * b_col], sum);
            c[m * N + n] = sum;
        }
}

/* Storage of weights, and what rows are rounded to. */
static const struct {
    enum tn_dtype weights, rows;
} packings[] = {{TN_F32, TN_F32}, {TN_BF16, TN_F32}, {TN_BF16, TN_BF16}};

static float not_denormal(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

/* A link of a chain of bf16 pairs. What rounds to less than 2^-126 in 24 bits is tiny. */
static float pair_link(float a, float b, float c)
{
    a = not_denormal(a), b = not_denormal(b), c = not_denormal(c);
    float r = fmaf(a, b, c);
    return fabs((double)a * b + c) < 0x1p-126 - 0x1p-151 ? copysignf(0, r) : r;
}

/* The contract of products whose rows are rounded: w(N,K), both factors rounded here. */
static void pair_chain(float *c, size_t M, size_t N, size_t K, const float *x, const float *w)
{
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = 0, a[2], b[2];
            for (size_t k = 0; k < K; k += 2) {
                for (size_t i = 0; i < 2; i++) {
                    a[i] = k + i < K ? x[m * K + k + i] : 0;
                    b[i] = k + i < K ? w[n * K + k + i] : 0;
                    a[i] = sp_bf16_to_f32(sp_f32_to_bf16(a[i]));
                    b[i] = sp_bf16_to_f32(sp_f32_to_bf16(b[i]));
                }
                sum = pair_link(a[0], b[0], pair_link(a[1], b[1], sum));
            }
            c[m * N + n] = sum;
        }
}

static void exact_for(const char *isa, int32_t threads)
{
    struct tn_backend *b = open_backend("cpu", isa, threads);
    if (!b)
        return;
    for (size_t i = 0; i < SP_COUNT(shapes); i++) {
        int32_t T = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
        size_t t = (size_t)T, n = (size_t)N, k = (size_t)K;
        float *x = filled(t * k, 1, 1.0f), *w = filled(n * k, 2, 1.0f);
        float *dy = filled(t * n, 3, 1.0f), *big = zeros(SP_MAX(t * n, SP_MAX(t * k, n * k)));
        float *want = zeros(SP_MAX(t * n, SP_MAX(t * k, n * k)));
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            fill(big, t * n, 4, 1.0f);
            fill(want, t * n, 4, 1.0f);
            b->ops->linear(b, big, x, w, T, N, K, accumulate);
            chain(want, t, n, k, x, k, 1, w, 1, k, accumulate);
            ck_assert_int_eq(memcmp(big, want, t * n * sizeof(float)), 0);
            fill(big, t * k, 5, 1.0f);
            fill(want, t * k, 5, 1.0f);
            b->ops->linear_bwd_x(b, big, dy, w, T, N, K, accumulate);
            chain(want, t, k, n, dy, n, 1, w, k, 1, accumulate);
            ck_assert_int_eq(memcmp(big, want, t * k * sizeof(float)), 0);
        }
        fill(big, n * k, 6, 1.0f);
        fill(want, n * k, 6, 1.0f);
        b->ops->linear_bwd_w(b, big, dy, x, T, N, K);
        chain(want, n, k, t, dy, 1, n, x, k, 1, true);
        ck_assert_int_eq(memcmp(big, want, n * k * sizeof(float)), 0);
    }
    tn_close(b);
}

START_TEST(products_are_chains)
{
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    exact_for(isas[_i], 1);
    exact_for(isas[_i], 3);
}
END_TEST

/* Shapes past every block size: M_MAX rows, NC columns, KC of k; of packed A; of all of them. */
START_TEST(large_products_are_chains)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    static const int32_t large[][3] = {{1100, 40, 50}, {20, 4200, 60}, {40, 50, 1300}};
    for (size_t i = 0; i < SP_COUNT(large); i++) {
        int32_t T = large[i][0], N = large[i][1], K = large[i][2];
        size_t t = (size_t)T, n = (size_t)N, k = (size_t)K;
        float *x = filled(t * k, 1, 1.0f), *w = filled(n * k, 2, 1.0f);
        float *got = zeros(t * n), *want = zeros(t * n);
        chain(want, t, n, k, x, k, 1, w, 1, k, false);
        b->ops->linear(b, got, x, w, T, N, K, false);
        ck_assert_int_eq(memcmp(got, want, t * n * sizeof(float)), 0);
        struct tn_weights *packed = b->ops->weights_new(b, w, N, K, TN_F32, TN_F32);
        memset(got, 0, t * n * sizeof(float));
        b->ops->linear_packed(b, got, x, packed, T);
        ck_assert_int_eq(memcmp(got, want, t * n * sizeof(float)), 0);
        b->ops->weights_free(b, packed);
    }
    tn_close(b);
}
END_TEST

START_TEST(large_products_of_all_kinds)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    /* So large that a plain loop takes too long; the packed product shares the kernel alone. */
    enum { T = 900, N = 2100, K = 1800 };
    float *x = filled((size_t)T * K, 1, 1.0f), *w = filled((size_t)N * K, 2, 1.0f);
    float *got = zeros((size_t)T * N), *want = zeros((size_t)T * N);
    struct tn_weights *packed = b->ops->weights_new(b, w, N, K, TN_F32, TN_F32);
    b->ops->linear_packed(b, want, x, packed, T);
    b->ops->linear(b, got, x, w, T, N, K, false);
    ck_assert_int_eq(memcmp(got, want, (size_t)T * N * sizeof(float)), 0);
    b->ops->weights_free(b, packed);
    /* dw has 2100 rows: several parts of A; dx is a sum over 2100. */
    enum { ROWS = 70, WIDTH = 40 };
    float *dw = zeros((size_t)N * WIDTH), *want_dw = zeros((size_t)N * WIDTH);
    float *dx = zeros(ROWS * WIDTH), *want_dx = zeros(ROWS * WIDTH);
    b->ops->linear_bwd_w(b, dw, got, x, ROWS, N, WIDTH);
    chain(want_dw, N, WIDTH, ROWS, got, 1, N, x, WIDTH, 1, true);
    ck_assert_int_eq(memcmp(dw, want_dw, (size_t)N * WIDTH * sizeof(float)), 0);
    b->ops->linear_bwd_x(b, dx, got, w, ROWS, N, WIDTH, true);
    chain(want_dx, ROWS, WIDTH, N, got, N, 1, w, WIDTH, 1, true);
    ck_assert_int_eq(memcmp(dx, want_dx, ROWS * WIDTH * sizeof(float)), 0);
    tn_close(b);
}
END_TEST

START_TEST(packed_equals_linear)
{
    static const struct {
        const char *name, *isa;
    } cases[] = {{"cpu", "generic"},
                 {"cpu", "avx2"},
                 {"cpu", "avx512"},
                 {"cpu", "avx512bf16"},
                 {"openblas", NULL}};
    struct tn_backend *b = open_backend(cases[_i].name, cases[_i].isa, 2);
    if (!b)
        return;
    for (size_t i = 0; i < SP_COUNT(shapes); i++)
        for (size_t kind = 0; kind < SP_COUNT(packings); kind++) {
            int32_t T = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
            size_t t = (size_t)T, n = (size_t)N, k = (size_t)K;
            float *x = filled(t * k, 1, 1.0f), *w = filled(n * k, 2, 1.0f);
            float *packed_y = filled(t * n, 3, 1.0f), *y = zeros(t * n);
            enum tn_dtype dtype = packings[kind].weights, rows = packings[kind].rows;
            struct tn_weights *packed = b->ops->weights_new(b, w, N, K, dtype, rows);
            ck_assert_ptr_nonnull(packed);
            for (size_t j = 0; dtype == TN_BF16 && j < n * k; j++)
                w[j] = sp_bf16_to_f32(sp_f32_to_bf16(w[j]));
            b->ops->linear(b, y, x, w, T, N, K, false);
            if (rows == TN_BF16)
                pair_chain(y, t, n, k, x, w);
            b->ops->linear_packed(b, packed_y, x, packed, T);
            if (rows == TN_BF16 && _i == 4) /* OpenBLAS rounds rows too but adds otherwise */
                ck_assert(error_f(packed_y, y, t * n) < 1e-6);
            else
                ck_assert_int_eq(memcmp(y, packed_y, t * n * sizeof(float)), 0);
            b->ops->weights_free(b, packed);
        }
    tn_close(b);
}
END_TEST

/* Where numbers are fp32 the sum is what two operations make, bit for bit. */
START_TEST(residuals_are_added_behind)
{
    static const char *const names[] = {"cpu", "openblas", "cuda-fp32"};
    struct tn_backend *b = open_backend(names[_i], NULL, 2);
    for (size_t i = 0; i < SP_COUNT(shapes); i++) {
        int32_t T = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
        size_t n = (size_t)T * (size_t)N, k = (size_t)K;
        float *x = filled((size_t)T * k, 1, 1.0f), *w = filled((size_t)N * k, 2, 1.0f);
        float *residual = filled(n, 3, 1.0f), *want = zeros(n), *y = filled(n, 4, 1.0f);
        b->ops->linear(b, want, x, w, T, N, K, false);
        b->ops->add(b, want, residual, n);
        b->ops->linear_residual(b, y, residual, x, w, T, N, K);
        ck_assert_int_eq(memcmp(y, want, n * sizeof(float)), 0);
        for (size_t kind = 0; kind < SP_COUNT(packings); kind++) {
            struct tn_weights *packed =
                b->ops->weights_new(b, w, N, K, packings[kind].weights, packings[kind].rows);
            b->ops->linear_packed(b, want, x, packed, T);
            b->ops->add(b, want, residual, n);
            b->ops->linear_packed_residual(b, y, residual, x, packed, T, N);
            ck_assert_int_eq(memcmp(y, want, n * sizeof(float)), 0);
            b->ops->weights_free(b, packed);
        }
    }
    tn_close(b);
}
END_TEST

/* A row's bits among any other rows, at any place of the batch. */
static void check_rows(struct tn_backend *b, int32_t K, enum tn_dtype dtype, enum tn_dtype rounded)
{
    enum { ROWS = 150, N = 70 };
    size_t k = (size_t)K;
    float *x = filled(ROWS * k, 1, 1.0f), *w = filled(N * k, 2, 1.0f);
    float *whole = zeros(ROWS * N), *batch = zeros(ROWS * k), *y = zeros(ROWS * N);
    struct tn_weights *packed = b->ops->weights_new(b, w, N, K, dtype, rounded);
    if (dtype == TN_F32)
        b->ops->linear(b, whole, x, w, ROWS, N, K, false);
    else
        b->ops->linear_packed(b, whole, x, packed, ROWS);
    for (uint32_t trial = 0; trial < 40; trial++) {
        int32_t rows = 1 + (int32_t)pick(5, trial, trial % 4 < 2 ? 16 : ROWS), from[ROWS];
        for (int32_t i = 0; i < rows; i++) {
            from[i] = (int32_t)pick(6 + trial, (uint32_t)i, ROWS);
            memcpy(batch + (size_t)i * k, x + (size_t)from[i] * k, k * sizeof(float));
        }
        if (trial % 2 && dtype == TN_F32)
            b->ops->linear(b, y, batch, w, rows, N, K, false);
        else
            b->ops->linear_packed(b, y, batch, packed, rows);
        for (int32_t i = 0; i < rows; i++)
            ck_assert_int_eq(
                memcmp(y + (size_t)i * N, whole + (size_t)from[i] * N, N * sizeof(float)), 0);
    }
    b->ops->weights_free(b, packed);
}

START_TEST(rows_do_not_know_their_batch)
{
    static const char *const isas[] = {NULL, NULL, "generic", "avx2", "avx512"};
    struct tn_backend *b = open_backend(_i == 1 ? "openblas" : "cpu", isas[_i], 2);
    if (!b)
        return;
    for (size_t i = 0; i < SP_COUNT(packings); i++) {
        check_rows(b, 530, packings[i].weights, packings[i].rows);
        check_rows(b, 512, packings[i].weights, packings[i].rows);
        check_rows(b, 77, packings[i].weights, packings[i].rows);
    }
    tn_close(b);
}
END_TEST

/* Numbers of any bits, with exponents around one, around the smallest, the largest, or all. */
static void fill_bits(float *x, size_t n, uint32_t seed, uint32_t kind)
{
    static const uint32_t low[] = {120, 55, 186, 0}, spread[] = {12, 20, 8, 256};
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = pick(seed, 3 * (uint32_t)i, UINT32_MAX) & 0x807fffffu;
        bits |= (low[kind] + pick(seed, 3 * (uint32_t)i + 1, spread[kind])) << 23;
        if (pick(seed, 3 * (uint32_t)i + 2, 50) == 0)
            bits &= 0x807fffffu; /* denormal */
        memcpy(&x[i], &bits, sizeof(bits));
    }
}

/* Denormals, infinities, NaN: what the instruction makes of them, on every instruction set. */
START_TEST(pairs_of_any_bits)
{
    static const char *const isas[] = {"generic", "avx2", "avx512", "avx512bf16"};
    enum { ROWS = 15, N = 40, K = 6, REPEATS = 200 };
    struct tn_backend *b = open_backend("cpu", isas[_i], 1);
    if (!b)
        return;
    float *x = zeros(ROWS * K), *w = zeros(N * K), *y = zeros(ROWS * N), *want = zeros(ROWS * N);
    size_t zero = 0, infinite = 0, nan = 0;
    for (uint32_t repeat = 0; repeat < REPEATS; repeat++) {
        fill_bits(x, ROWS * K, 2 * repeat, repeat % 4);
        fill_bits(w, N * K, 2 * repeat + 1, repeat % 4);
        struct tn_weights *packed = b->ops->weights_new(b, w, N, K, TN_BF16, TN_BF16);
        b->ops->linear_packed(b, y, x, packed, ROWS);
        b->ops->weights_free(b, packed);
        pair_chain(want, ROWS, N, K, x, w);
        for (size_t i = 0; i < ROWS * N; i++) {
            ck_assert_msg(memcmp(&y[i], &want[i], sizeof(*y)) == 0 ||
                              (isnan(y[i]) && isnan(want[i])),
                          "repeat %u, element %zu: %a, expected %a", repeat, i, (double)y[i],
                          (double)want[i]);
            zero += y[i] == 0;
            infinite += isinf(y[i]) != 0;
            nan += isnan(y[i]) != 0;
        }
    }
    ck_assert(zero > 100 && infinite > 100 && nan > 100);
    tn_close(b);
}
END_TEST

/* 2^-126 less something: zero where 24 bits with a longer exponent would not hold 2^-126. */
START_TEST(tiny_is_decided_after_rounding)
{
    static const char *const isas[] = {"generic", "avx2", "avx512", "avx512bf16"};
    enum { N = 8 };
    struct tn_backend *b = open_backend("cpu", isas[_i], 1);
    if (!b)
        return;
    float x[4] = {0, 0x1p-63f, 0, 0x1p-75f}, w[N * 4] = {0}, y[N];
    for (int n = 0; n < N; n++) {
        w[4 * n + 1] = 0x1p-63f;
        w[4 * n + 3] = -0x1p-76f * (1 + (float)n / 8);
    }
    struct tn_weights *packed = b->ops->weights_new(b, w, N, 4, TN_BF16, TN_BF16);
    b->ops->linear_packed(b, y, x, packed, 1);
    for (int n = 0; n < N; n++)
        ck_assert_msg(y[n] == (n == 0 ? 0x1p-126f : 0.0f), "%d: %a", n, (double)y[n]);
    b->ops->weights_free(b, packed);
    tn_close(b);
}
END_TEST

enum { T = 77, N = 130, K = 90, OUT = T * N + T * K + N * K };

static void all_products(struct tn_backend *b, float *out)
{
    float *x = filled(T * K, 1, 1.0f), *w = filled(N * K, 2, 1.0f), *dy = filled(T * N, 3, 1.0f);
    float *dx = out + T * N, *dw = dx + T * K;
    memset(out, 0, OUT * sizeof(float));
    b->ops->linear(b, out, x, w, T, N, K, false);
    b->ops->linear_bwd_x(b, dx, dy, w, T, N, K, false);
    b->ops->linear_bwd_w(b, dw, dy, x, T, N, K);
    b->ops->linear(b, out, x, w, T, N, K, true);
    b->ops->linear_bwd_x(b, dx, dy, w, T, N, K, true);
    b->ops->linear_bwd_w(b, dw, dy, x, T, N, K);
}

START_TEST(products_have_one_result)
{
    check_same_bits(all_products, OUT);
}
END_TEST

START_TEST(products_agree_with_openblas)
{
    check_backends_agree(all_products, OUT, 1e-6);
}
END_TEST

static double linear_loss(const double *x, void *context)
{
    /* x: the input and then the weights; loss Σ dy·y */
    const float *dy = context;
    double loss = 0.0;
    for (size_t t = 0; t < 5; t++)
        for (size_t n = 0; n < 7; n++)
            for (size_t k = 0; k < 9; k++)
                loss += (double)dy[t * 7 + n] * x[t * 9 + k] * x[45 + n * 9 + k];
    return loss;
}

START_TEST(product_gradients)
{
    struct tn_backend *b = open_backend(_i == 0 ? "cpu" : "openblas", NULL, 2);
    float *x = filled(45 + 63, 1, 1.0f), *dy = filled(35, 2, 1.0f), *gradient = zeros(45 + 63);
    b->ops->linear_bwd_x(b, gradient, dy, x + 45, 5, 7, 9, false);
    b->ops->linear_bwd_w(b, gradient + 45, dy, x, 5, 7, 9);
    check_gradient(linear_loss, dy, x, gradient, 45 + 63, 1e-5);
    tn_close(b);
}
END_TEST

START_TEST(not_finite_inputs_flow)
{
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    float *x = filled(20 * 50, 1, 1.0f), *w = filled(40 * 50, 2, 1.0f), *y = zeros(20 * 40);
    x[7 * 50 + 3] = NAN;
    x[9 * 50 + 3] = INFINITY;
    b->ops->linear(b, y, x, w, 20, 40, 50, false);
    for (size_t t = 0; t < 20; t++)
        for (size_t n = 0; n < 40; n++)
            ck_assert_int_eq(isfinite(y[t * 40 + n]) != 0, t != 7 && t != 9);
    ck_assert(!isfinite(b->ops->sum_squares(b, y, 20 * 40)));
    tn_close(b);
}
END_TEST

START_TEST(unknown_names_are_refused)
{
    struct tn_backend *backend = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(tn_open("cuda9", NULL, &backend, &err), SP_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.text, "openblas"));
    struct tn_backend_options options = {.isa = "mmx"};
    ck_assert_int_eq(tn_open("cpu", &options, &backend, &err), SP_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.text, "mmx"));
    ck_assert_ptr_null(backend);
    char name[TN_CLASS_BYTES];
    ck_assert_int_eq(tn_numerics_class("none", name, &err), SP_EUNSUPPORTED);
    for (int i = 0; i < 2; i++) {
        const char *known = i == 0 ? "cpu" : "openblas";
        backend = open_backend(known, NULL, 1);
        ck_assert_int_eq(tn_numerics_class(known, name, &err), SP_OK);
        ck_assert_str_eq(name, backend->numerics_class);
        tn_close(backend);
    }
    tn_close(NULL);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("gemm");
    TCase *tcase = tcase_create("gemm");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, NULL, free_arrays);
    tcase_add_loop_test(tcase, products_are_chains, 0, 3);
    tcase_add_test(tcase, large_products_are_chains);
    tcase_add_test(tcase, large_products_of_all_kinds);
    tcase_add_loop_test(tcase, packed_equals_linear, 0, 5);
    tcase_add_loop_test(tcase, residuals_are_added_behind, 0, 3);
    tcase_add_loop_test(tcase, rows_do_not_know_their_batch, 0, 5);
    tcase_add_loop_test(tcase, pairs_of_any_bits, 0, 4);
    tcase_add_loop_test(tcase, tiny_is_decided_after_rounding, 0, 4);
    tcase_add_test(tcase, products_have_one_result);
    tcase_add_test(tcase, products_agree_with_openblas);
    tcase_add_loop_test(tcase, product_gradients, 0, 2);
    tcase_add_test(tcase, not_finite_inputs_flow);
    tcase_add_test(tcase, unknown_names_are_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

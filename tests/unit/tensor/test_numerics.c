/* The numerics revision: a digest over what every operation of "cpu" and of "cuda-fp32" makes of
 * inputs from the counter-based generator. When it changes on purpose, raise TN_NUMERICS_REVISION
 * (runs pin it) and put the new digest here; when it changes by accident, promise 1 is broken. */
#include "tests/unit/check_main.h"

#include <string.h>

#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"
#include "tests/unit/tensor/tensor_test.h"

#define REVISION 1
#define DIGEST "5d5358b9342b308a3150d6734a115fd52be46935af0b615248491754e547a68d"
#define ROUNDED_DIGEST "33b247033f24581befd6d577d04dc49af1e125b3f67c3ff7b1494e60f280614b"

enum { T = 70, H = 6, G = 2, C = 24, D = H * C, W = (H + 2 * G) * C, F = 200, V = 613 };

struct log { /* the running digest */
    struct sp_sha256 *hash;
};

static void put(struct log *log, const void *data, size_t bytes)
{
    sp_sha256_update(log->hash, data, bytes);
}

static void put_floats(struct log *log, const float *x, size_t n)
{
    put(log, x, n * sizeof(float));
}

static void products(struct tn_backend *b, struct log *log)
{
    float *x = filled(T * D, 1, 1.0f), *w = filled(V * D, 2, 0.3f), *dy = filled(T * V, 3, 0.1f);
    float *y = zeros(T * V), *dx = zeros(T * D), *dw = zeros(V * D);
    b->ops->linear(b, y, x, w, T, V, D, false);
    b->ops->linear(b, y, x, w, T, V, D, true);
    b->ops->linear_bwd_x(b, dx, dy, w, T, V, D, false);
    b->ops->linear_bwd_w(b, dw, dy, x, T, V, D);
    put_floats(log, y, T * V);
    put_floats(log, dx, T * D);
    put_floats(log, dw, V * D);
    for (int dtype = TN_F32; dtype <= TN_BF16; dtype++) {
        struct tn_weights *packed = b->ops->weights_new(b, w, V, D, (enum tn_dtype)dtype, TN_F32);
        b->ops->linear_packed(b, y, x, packed, T);
        put_floats(log, y, T * V);
        b->ops->weights_free(b, packed);
    }
}

static void pointwise(struct tn_backend *b, struct log *log)
{
    float *x = filled(T * 2 * F, 4, 3.0f), *dy = filled(T * 2 * F, 5, 1.0f), rstd[T];
    float *w = filled(F, 6, 1.0f), *y = zeros(T * 2 * F), *dw = zeros(F);
    float *cos_table = filled(T * C / 2, 7, 1.0f), *sin_table = filled(T * C / 2, 8, 1.0f);
    int32_t ids[T];
    for (uint32_t t = 0; t < T; t++)
        ids[t] = (int32_t)pick(9, t, 20);
    b->ops->rmsnorm(b, y, rstd, x, w, T, F, 1e-6f);
    put_floats(log, y, T * F);
    put_floats(log, rstd, T);
    b->ops->rmsnorm_bwd(b, y, dw, dy, x, w, rstd, T, F);
    put_floats(log, y, T * F);
    put_floats(log, dw, F);
    b->ops->swiglu(b, y, x, T, F);
    put_floats(log, y, T * F);
    b->ops->swiglu_bwd(b, y, dy, x, T, F);
    put_floats(log, y, T * 2 * F);
    b->ops->rope(b, y, T, H, C, 2 * F, ids, cos_table, sin_table, false, 0);
    put_floats(log, y, T * 2 * F);
    b->ops->rope(b, y, T, H, C, 2 * F, ids, cos_table, sin_table, true, 0);
    b->ops->add(b, y, x, T * 2 * F);
    put_floats(log, y, T * 2 * F);
    b->ops->embed_bwd(b, y, dy, ids, T, F, 20);
    b->ops->embed(b, y + 20 * F, y, ids, T, F);
    put_floats(log, y, (20 + T) * F);
}

static void attention(struct tn_backend *b, struct log *log)
{
    static const struct tn_segment segments[] = {{0, 20, 13, 17}, {50, 0, 20, 0}};
    float *qkv = filled(T * W, 10, 1.5f), *dout = filled(T * D, 11, 1.0f), *out = zeros(T * D);
    float *lse = zeros(T * H), *dqkv = zeros(T * W);
    for (int32_t window = 0; window <= 9; window += 9) {
        b->ops->attention(b, out, lse, qkv, T, segments, 2, H, G, C, 0.2f, window, 0);
        b->ops->attention_bwd(b, dqkv, dout, out, lse, qkv, T, segments, 2, H, G, C, 0.2f, window,
                              0);
        put_floats(log, out, T * D);
        put_floats(log, lse, T * H);
        put_floats(log, dqkv, T * W);
    }
    struct tn_cache_row rows[T];
    for (int32_t t = 0; t < T; t++)
        rows[t] = (struct tn_cache_row){.slot = t % 2, .position = t / 2};
    for (int dtype = TN_F32; dtype <= TN_BF16; dtype++) {
        struct tn_kv_cache *cache = b->ops->cache_new(b, 1, 3, T, G, C, (enum tn_dtype)dtype, 0);
        b->ops->cache_put(b, cache, 0, qkv, rows, T, H);
        b->ops->cache_copy(b, cache, 1, 2, T / 2);
        for (int32_t t = 1; t < T; t += 2)
            rows[t].slot = 2;
        b->ops->cache_attention(b, out, qkv, cache, 0, rows, T, H, 0.2f, 0, 0);
        for (int32_t t = 1; t < T; t += 2)
            rows[t].slot = 1;
        put_floats(log, out, T * D);
        b->ops->cache_free(b, cache);
    }
}

static void logits(struct tn_backend *b, struct log *log)
{
    float *x = filled(T * V, 12, 6.0f), lse[T], logprob[T];
    int32_t argmax[T], ids[T];
    struct tn_target targets[T];
    struct tn_sample_params params[T];
    struct tn_sample_key keys[T];
    for (int32_t t = 0; t < T; t++) {
        targets[t] = (struct tn_target){t / 3, (int32_t)pick(13, (uint32_t)t, V), 0.1f * (float)t};
        params[t] = (struct tn_sample_params){0.25f * (float)(t % 7), t % 4 == 1 ? 30 : 0,
                                              t % 3 == 1 ? 0.9f : 1.0f};
        keys[t] = (struct tn_sample_key){17, 2, (uint32_t)t, 1, 8};
    }
    b->ops->row_lse(b, lse, argmax, x, T, V);
    b->ops->gather_logprob(b, logprob, x, lse, targets, T, V);
    b->ops->sample(b, ids, x, T, V, params, keys);
    b->ops->logits_bwd(b, x, lse, targets, T, T, V);
    put_floats(log, lse, T);
    put_floats(log, logprob, T);
    put(log, argmax, sizeof(argmax));
    put(log, ids, sizeof(ids));
    put_floats(log, x, T * V);
}

static void optimizers(struct tn_backend *b, struct log *log)
{
    enum { N = 70001 };
    float *w = filled(N, 14, 1.0f), *g = filled(N, 15, 0.1f), *m = zeros(N), *v = zeros(N);
    for (int64_t step = 1; step <= 3; step++) {
        struct tn_adamw a = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.7f, step};
        struct tn_rmsprop r = {1e-4f, 0.99f, 1e-8f, 0.01f, 0.9f};
        b->ops->adamw(b, w, g, m, v, N, &a);
        b->ops->rmsprop(b, w, g, v, N, &r);
    }
    double squares = b->ops->sum_squares(b, w, N);
    put_floats(log, w, N);
    put_floats(log, m, N);
    put_floats(log, v, N);
    put(log, &squares, sizeof(squares));
}

static void check_digest(struct log *log, const char *expected)
{
    struct sp_digest digest;
    char hex[SP_DIGEST_HEX];
    sp_sha256_final(log->hash, &digest);
    sp_sha256_free(log->hash);
    sp_digest_hex(&digest, hex);
    ck_assert_int_eq(TN_NUMERICS_REVISION, REVISION);
    ck_assert_str_eq(hex, expected);
}

/* The instruction sets of "cpu", then "cuda-fp32" with kernels that the host runs (tests/gpu),
 * their threads one way and the other. NULL: not on this machine. */
static struct tn_backend *open_nth(int i)
{
    static const char *const isas[] = {"generic", "avx2", "avx512", "avx512bf16"};
    if (i < 4)
        return open_backend("cpu", isas[i], 2);
    if (i == 5)
        setenv("SPIN_EMULATE_BACKWARDS", "1", 1);
    struct tn_backend *b = open_backend("cuda-fp32", NULL, 1);
    unsetenv("SPIN_EMULATE_BACKWARDS");
    return b;
}

START_TEST(the_digest_is_the_revision_s)
{
    struct tn_backend *b = open_nth(_i);
    if (!b)
        return;
    struct log log = {.hash = sp_sha256_new()};
    products(b, &log);
    pointwise(b, &log);
    attention(b, &log);
    logits(b, &log);
    optimizers(b, &log);
    tn_close(b);
    check_digest(&log, DIGEST);
}
END_TEST

/* Products whose rows are rounded: a class beside the others, so a digest beside theirs. */
START_TEST(the_digest_of_rounded_rows)
{
    struct tn_backend *b = open_nth(_i);
    if (!b)
        return;
    struct log log = {.hash = sp_sha256_new()};
    float *x = filled(T * D, 1, 1.0f), *w = filled(V * D, 2, 0.3f), *y = zeros(T * V);
    for (int32_t k = D - 1; k <= D; k++) {
        struct tn_weights *packed = b->ops->weights_new(b, w, V, k, TN_BF16, TN_BF16);
        b->ops->linear_packed(b, y, x, packed, T);
        put_floats(&log, y, T * V);
        b->ops->weights_free(b, packed);
    }
    tn_close(b);
    check_digest(&log, ROUNDED_DIGEST);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("numerics");
    TCase *tcase = tcase_create("numerics");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, NULL, free_arrays);
    tcase_add_loop_test(tcase, the_digest_is_the_revision_s, 0, 6);
    tcase_add_loop_test(tcase, the_digest_of_rounded_rows, 0, 6);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

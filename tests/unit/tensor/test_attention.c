/* Attention over packed segments and over the cache: values, gradients, and bits that may not
 * depend on packing, chunking, batch, threads or instruction set. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"
#include "tests/unit/tensor/tensor_test.h"

struct shape {
    int32_t H, G, C, window;
};
static const struct shape shapes[] = {
    {4, 2, 16, 0}, {3, 1, 8, 0},   {2, 2, 64, 0},  {9, 3, 20, 0},
    {4, 2, 16, 5}, {16, 1, 32, 7}, {6, 2, 40, 40},
};
static const struct tn_segment segments[] = {
    {0, 5, 3, 7}, {15, 0, 1, 0}, {16, 33, 20, 18}, {87, 4, 0, 6}, {97, 1, 30, 0}, {128, 40, 2, 1},
};
enum { ROWS = 171, SEGMENTS = 6 };

static size_t width(const struct shape *s)
{
    return (size_t)(s->H + 2 * s->G) * (size_t)s->C;
}

static float scale_of(const struct shape *s)
{
    return 1.0f / sqrtf((float)s->C);
}

/* --- the plain reference, in double, straight from the definition --- */

static bool sees(const struct tn_segment *g, int32_t query, int32_t key, int32_t window)
{
    /* rows relative to the segment; logical positions of branch b go on from the prompt's */
    int32_t prompt = g->prompt, a_end = prompt + g->a;
    bool query_b = query >= a_end, key_b = key >= a_end;
    if (key >= prompt && query_b != key_b)
        return false;
    int32_t qp = query_b ? query - g->a : query, kp = key_b ? key - g->a : key;
    return kp <= qp && (window == 0 || qp - kp < window);
}

static void attend_row(double *out, double *lse, const double *qkv, const struct tn_segment *g,
                       const struct shape *s, int32_t query, int32_t h)
{
    size_t w = width(s), c = (size_t)s->C;
    int32_t rows = g->prompt + g->a + g->b, kv = h / (s->H / s->G);
    const double *base = qkv + (size_t)g->row * w;
    const double *q = base + (size_t)query * w + (size_t)h * c;
    double scores[128], max = -INFINITY, sum = 0.0;
    for (int32_t key = 0; key < rows; key++) {
        const double *k = base + (size_t)key * w + (size_t)(s->H + kv) * c;
        scores[key] = -INFINITY;
        if (!sees(g, query, key, s->window))
            continue;
        double dot = 0.0;
        for (size_t i = 0; i < c; i++)
            dot += q[i] * k[i];
        scores[key] = dot * (double)scale_of(s);
        max = fmax(max, scores[key]);
    }
    for (int32_t key = 0; key < rows; key++)
        sum += exp(scores[key] - max);
    for (size_t i = 0; i < c; i++)
        out[i] = 0.0;
    for (int32_t key = 0; key < rows; key++) {
        const double *v = base + (size_t)key * w + (size_t)(s->H + s->G + kv) * c;
        double p = exp(scores[key] - max) / sum;
        for (size_t i = 0; p > 0.0 && i < c; i++)
            out[i] += p * v[i];
    }
    *lse = max + log(sum);
}

static void attend_all(double *out, double *lse, const double *qkv, const struct tn_segment *list,
                       int32_t n, const struct shape *s)
{
    for (int32_t i = 0; i < n; i++)
        for (int32_t row = 0; row < list[i].prompt + list[i].a + list[i].b; row++)
            for (int32_t h = 0; h < s->H; h++) {
                size_t at = (size_t)(list[i].row + row) * (size_t)s->H + (size_t)h;
                attend_row(out + at * (size_t)s->C, lse + at, qkv, &list[i], s, row, h);
            }
}

START_TEST(forward_is_attention)
{
    const struct shape *s = &shapes[_i];
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    size_t w = width(s), heads = ROWS * (size_t)s->H, c = (size_t)s->C;
    float *qkv = filled(ROWS * w, 1, 1.5f), *out = zeros(heads * c), *lse = zeros(heads);
    double *exact = array(ROWS * w, 8), *want = array(heads * c, 8), *want_lse = array(heads, 8);
    for (size_t i = 0; i < ROWS * w; i++)
        exact[i] = qkv[i];
    attend_all(want, want_lse, exact, segments, SEGMENTS, s);
    b->ops->attention(b, out, lse, qkv, ROWS, segments, SEGMENTS, s->H, s->G, s->C, scale_of(s),
                      s->window, 0);
    ck_assert_double_lt(error_d(out, want, heads * c), 1e-6);
    ck_assert_double_lt(error_d(lse, want_lse, heads), 1e-6);
    tn_close(b);
}
END_TEST

struct loss {
    const struct shape *s;
    const struct tn_segment *list;
    int32_t n, rows;
    const float *dout;
};

static double attention_loss(const double *qkv, void *context)
{
    const struct loss *l = context;
    size_t heads = (size_t)l->rows * (size_t)l->s->H, c = (size_t)l->s->C;
    double *out = array(heads * c, 8), *lse = array(heads, 8), sum = 0.0;
    attend_all(out, lse, qkv, l->list, l->n, l->s);
    for (size_t i = 0; i < heads * c; i++)
        sum += out[i] * l->dout[i];
    return sum;
}

START_TEST(backward_is_the_gradient)
{
    const struct shape *s = &shapes[_i];
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    size_t w = width(s), heads = ROWS * (size_t)s->H, c = (size_t)s->C;
    float *qkv = filled(ROWS * w, 1, 1.5f), *out = zeros(heads * c), *lse = zeros(heads);
    float *dout = filled(heads * c, 2, 1.0f), *dqkv = filled(ROWS * w, 3, 1.0f);
    b->ops->attention(b, out, lse, qkv, ROWS, segments, SEGMENTS, s->H, s->G, s->C, scale_of(s),
                      s->window, 0);
    b->ops->attention_bwd(b, dqkv, dout, out, lse, qkv, ROWS, segments, SEGMENTS, s->H, s->G, s->C,
                          scale_of(s), s->window, 0);
    struct loss loss = {s, segments, SEGMENTS, ROWS, dout};
    check_gradient(attention_loss, &loss, qkv, dqkv, ROWS * w, 1e-4);
    tn_close(b);
}
END_TEST

/* A packed pair against its two sequences written out. */
START_TEST(packed_pair_equals_two_sequences)
{
    const struct shape *s = &shapes[_i];
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    const int32_t prompt = 21, na = 17, nb = 30, total = prompt + na + nb;
    const struct tn_segment pair = {0, prompt, na, nb};
    const struct tn_segment plain[2] = {{0, prompt, na, 0}, {prompt + na, prompt, nb, 0}};
    size_t w = width(s), c = (size_t)s->C, o = (size_t)s->H * c, h = (size_t)s->H;
    size_t p = (size_t)prompt, a = (size_t)na, n = (size_t)nb;
    float *qkv = filled((size_t)total * w, 1, 1.0f), *two = zeros((2 * p + a + n) * w);
    memcpy(two, qkv, (p + a) * w * sizeof(float));
    memcpy(two + (p + a) * w, qkv, p * w * sizeof(float));
    memcpy(two + (2 * p + a) * w, qkv + (p + a) * w, n * w * sizeof(float));
    float *out = zeros((size_t)total * o), *lse = zeros((size_t)total * h);
    float *out2 = zeros((2 * p + a + n) * o), *lse2 = zeros((2 * p + a + n) * h);
    b->ops->attention(b, out, lse, qkv, total, &pair, 1, s->H, s->G, s->C, scale_of(s), s->window,
                      0);
    b->ops->attention(b, out2, lse2, two, 2 * prompt + na + nb, plain, 2, s->H, s->G, s->C,
                      scale_of(s), s->window, 0);
    ck_assert_int_eq(memcmp(out, out2, (p + a) * o * sizeof(float)), 0);
    ck_assert_int_eq(memcmp(lse, lse2, (p + a) * h * sizeof(float)), 0);
    ck_assert_int_eq(memcmp(out + (p + a) * o, out2 + (2 * p + a) * o, n * o * sizeof(float)), 0);
    ck_assert_int_eq(memcmp(lse + (p + a) * h, lse2 + (2 * p + a) * h, n * h * sizeof(float)), 0);

    /* Gradients: the prompt's are the sum over both (where the prompt's own rows count once, so
     * their dout is zero in the second), the branches' are their own. */
    float *dout = filled((size_t)total * o, 4, 1.0f), *dout2 = zeros((2 * p + a + n) * o);
    float *d = zeros((size_t)total * w), *d2 = zeros((2 * p + a + n) * w);
    memcpy(dout2, dout, (p + a) * o * sizeof(float));
    memcpy(dout2 + (2 * p + a) * o, dout + (p + a) * o, n * o * sizeof(float));
    b->ops->attention_bwd(b, d, dout, out, lse, qkv, total, &pair, 1, s->H, s->G, s->C, scale_of(s),
                          s->window, 0);
    b->ops->attention_bwd(b, d2, dout2, out2, lse2, two, 2 * prompt + na + nb, plain, 2, s->H, s->G,
                          s->C, scale_of(s), s->window, 0);
    for (size_t i = 0; i < p * w; i++)
        d2[i] += d2[(p + a) * w + i];
    memmove(d2 + (p + a) * w, d2 + (2 * p + a) * w, n * w * sizeof(float));
    ck_assert_double_lt(error_f(d, d2, (size_t)total * w), 1e-6);
    tn_close(b);
}
END_TEST

/* Rows go into the cache in chunks of random sizes, several slots in one batch, and come out with
 * the bits of the training forward. */
static void through_the_cache(struct tn_backend *b, const struct shape *s, enum tn_dtype dtype,
                              uint32_t seed, float *ret_worst)
{
    enum { SLOTS = 3, LENGTH = 75 };
    size_t w = width(s), o = (size_t)s->H * (size_t)s->C;
    struct tn_segment list[SLOTS];
    for (int32_t i = 0; i < SLOTS; i++)
        list[i] = (struct tn_segment){i * LENGTH, LENGTH, 0, 0};
    float *qkv = filled(SLOTS * LENGTH * w, seed, 1.0f), *want = zeros(SLOTS * LENGTH * o);
    float *lse = zeros(SLOTS * LENGTH * (size_t)s->H), *batch = zeros(SLOTS * LENGTH * w);
    float *got = zeros(SLOTS * LENGTH * o);
    b->ops->attention(b, want, lse, qkv, SLOTS * LENGTH, list, SLOTS, s->H, s->G, s->C, scale_of(s),
                      s->window, 0);
    struct tn_kv_cache *cache = b->ops->cache_new(b, 2, SLOTS + 1, 100, s->G, s->C, dtype, 0);
    ck_assert_ptr_nonnull(cache);
    int32_t done[SLOTS] = {0};
    for (uint32_t step = 0; done[0] + done[1] + done[2] < SLOTS * LENGTH; step++) {
        struct tn_cache_row rows[SLOTS * LENGTH];
        int32_t from[SLOTS * LENGTH], T = 0;
        for (int32_t i = 0; i < SLOTS; i++) {
            /* steps of one row (decode), of some (prefill), and none */
            int32_t take = (int32_t)pick(seed + 7, step * 4 + (uint32_t)i, 3);
            if (take == 2)
                take = (int32_t)pick(seed + 8, step * 4 + (uint32_t)i, 40);
            for (; take > 0 && done[i] < LENGTH; take--, T++) {
                rows[T] = (struct tn_cache_row){.slot = 2 - i + (i == 0), .position = done[i]};
                from[T] = i * LENGTH + done[i]++;
                memcpy(batch + (size_t)T * w, qkv + (size_t)from[T] * w, w * sizeof(float));
            }
        }
        b->ops->cache_put(b, cache, 1, batch, rows, T, s->H);
        b->ops->cache_attention(b, got, batch, cache, 1, rows, T, s->H, scale_of(s), s->window, 0);
        for (int32_t i = 0; i < T; i++) {
            const float *x = got + (size_t)i * o, *y = want + (size_t)from[i] * o;
            if (dtype == TN_F32)
                ck_assert_int_eq(memcmp(x, y, o * sizeof(float)), 0);
            *ret_worst = fmaxf(*ret_worst, (float)error_f(x, y, o));
        }
    }
    b->ops->cache_free(b, cache);
}

START_TEST(cache_equals_attention)
{
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    for (size_t i = 0; i < SP_COUNT(isas); i++) {
        struct tn_backend *b = open_backend("cpu", isas[i], 2);
        if (!b)
            continue;
        float worst = 0.0f, worst_bf16 = 0.0f;
        for (uint32_t seed = 1; seed < 4; seed++)
            through_the_cache(b, &shapes[_i], TN_F32, seed, &worst);
        through_the_cache(b, &shapes[_i], TN_BF16, 9, &worst_bf16);
        ck_assert(worst == 0.0f);
        ck_assert(worst_bf16 > 1e-5f && worst_bf16 < 2e-2f);
        tn_close(b);
    }
}
END_TEST

/* Slot 1 takes a prefix of slot 0 and goes on with rows of its own; what it held beyond stays. */
START_TEST(copied_prefixes_are_the_same)
{
    const struct shape s = {4, 2, 16, 0};
    enum { LENGTH = 60 };
    size_t w = width(&s), o = (size_t)s.H * (size_t)s.C;
    enum tn_dtype dtype = _i == 0 ? TN_F32 : TN_BF16;
    struct tn_backend *b = open_backend("cpu", NULL, 2);
    float *first = filled(LENGTH * w, 1, 1.0f), *second = filled(LENGTH * w, 2, 1.0f);
    float *mixed = zeros(LENGTH * w), *got = zeros(LENGTH * o), *want = zeros(LENGTH * o);
    struct tn_kv_cache *cache = b->ops->cache_new(b, 3, 3, LENGTH, s.G, s.C, dtype, 0);
    static const int32_t prefixes[] = {0, 1, 15, 16, 31, 32, 33, 50, 60};
    for (size_t p = 0; p < SP_COUNT(prefixes); p++) {
        int32_t n = prefixes[p];
        memcpy(mixed, first, (size_t)n * w * sizeof(float));
        memcpy(mixed + (size_t)n * w, second + (size_t)n * w,
               (LENGTH - (size_t)n) * w * sizeof(float));
        struct tn_cache_row rows[3][LENGTH];
        for (int32_t slot = 0; slot < 3; slot++)
            for (int32_t i = 0; i < LENGTH; i++)
                rows[slot][i] = (struct tn_cache_row){.slot = slot, .position = i};
        for (int32_t layer = 0; layer < 3; layer++) {
            b->ops->cache_put(b, cache, layer, first, rows[0], LENGTH, s.H);
            b->ops->cache_put(b, cache, layer, second, rows[1], LENGTH, s.H);
            b->ops->cache_put(b, cache, layer, mixed, rows[2], LENGTH, s.H);
        }
        b->ops->cache_copy(b, cache, 0, 1, n);
        for (int32_t layer = 0; layer < 3; layer++) {
            b->ops->cache_attention(b, got, mixed, cache, layer, rows[1], LENGTH, s.H, 0.25f, 0, 0);
            b->ops->cache_attention(b, want, mixed, cache, layer, rows[2], LENGTH, s.H, 0.25f, 0,
                                    0);
            ck_assert_int_eq(memcmp(got, want, LENGTH * o * sizeof(float)), 0);
        }
    }
    b->ops->cache_free(b, cache);
    tn_close(b);
}
END_TEST

static const struct shape *shape_at_hand = &shapes[0];

static void forward_and_backward(struct tn_backend *b, float *out)
{
    const struct shape *s = shape_at_hand;
    size_t w = width(s), heads = ROWS * (size_t)s->H, c = (size_t)s->C;
    float *qkv = filled(ROWS * w, 1, 1.5f), *dout = filled(heads * c, 2, 1.0f);
    b->ops->attention(b, out, out + heads * c, qkv, ROWS, segments, SEGMENTS, s->H, s->G, s->C,
                      scale_of(s), s->window, 0);
    b->ops->attention_bwd(b, out + heads * (c + 1), dout, out, out + heads * c, qkv, ROWS, segments,
                          SEGMENTS, s->H, s->G, s->C, scale_of(s), s->window, 0);
}

START_TEST(attention_has_one_result)
{
    shape_at_hand = &shapes[_i];
    check_same_bits(forward_and_backward,
                    ROWS *
                        ((size_t)shapes[_i].H * (size_t)(shapes[_i].C + 1) + width(&shapes[_i])));
}
END_TEST

START_TEST(attention_agrees_with_openblas)
{
    shape_at_hand = &shapes[0];
    check_backends_agree(
        forward_and_backward,
        ROWS * ((size_t)shapes[0].H * (size_t)(shapes[0].C + 1) + width(&shapes[0])), 1e-6);
}
END_TEST

/* After reserve no operation takes memory. */
START_TEST(reserve_is_enough)
{
    struct tn_backend *b = open_backend(_i == 0 ? "cpu" : "openblas", NULL, 2);
    const struct shape s = {6, 2, 40, 0};
    enum { ROWS_ = 300, LONGEST = 150, WIDE = 5000 };
    const struct tn_segment two[] = {{0, 50, 60, 40}, {150, 1, 140, 9}};
    size_t w = width(&s), o = 240;
    ck_assert(b->ops->reserve(b, ROWS_, LONGEST, s.H, s.C, WIDE));
    struct tn_cpu *cpu = tn_cpu_of(b);
    size_t shared = cpu->shared.bytes, own[] = {cpu->own[0].bytes, cpu->own[1].bytes};
    float *qkv = filled(ROWS_ * w, 1, 1.0f), *out = zeros(ROWS_ * o), *lse = zeros(ROWS_ * 6);
    float *x = filled(ROWS_ * WIDE, 2, 1.0f), *wide = filled(WIDE * 100, 3, 1.0f);
    float *y = zeros(ROWS_ * WIDE);
    b->ops->attention(b, out, lse, qkv, ROWS_, two, 2, s.H, s.G, s.C, 0.1f, 0, 0);
    b->ops->attention_bwd(b, y, out, out, lse, qkv, ROWS_, two, 2, s.H, s.G, s.C, 0.1f, 0, 0);
    b->ops->linear(b, y, x, wide, ROWS_, 100, WIDE, false);
    b->ops->linear(b, y, x, wide, ROWS_, WIDE, 100, false);
    b->ops->linear_bwd_x(b, y, x, wide, ROWS_, WIDE, 100, false);
    b->ops->linear_bwd_w(b, wide, x, y, ROWS_, WIDE, 100);
    struct tn_weights *packed = b->ops->weights_new(b, wide, 100, WIDE, TN_F32, TN_F32);
    b->ops->linear_packed(b, y, x, packed, ROWS_);
    b->ops->weights_free(b, packed);
    struct tn_kv_cache *cache = b->ops->cache_new(b, 1, 2, LONGEST, s.G, s.C, TN_F32, 0);
    struct tn_cache_row rows[LONGEST];
    for (int32_t i = 0; i < LONGEST; i++)
        rows[i] = (struct tn_cache_row){.slot = 1, .position = i};
    b->ops->cache_put(b, cache, 0, qkv, rows, LONGEST, s.H);
    b->ops->cache_attention(b, out, qkv, cache, 0, rows, LONGEST, s.H, 0.1f, 0, 0);
    b->ops->cache_free(b, cache);
    struct tn_sample_params params[2] = {{1.0f, 0, 0.9f}, {1.0f, 40, 0.9f}};
    struct tn_sample_key keys[2] = {{0}};
    int32_t ids[2];
    b->ops->sample(b, ids, x, 2, WIDE, params, keys);
    ck_assert_uint_eq(cpu->shared.bytes, shared);
    ck_assert_uint_eq(cpu->own[0].bytes, own[0]);
    ck_assert_uint_eq(cpu->own[1].bytes, own[1]);
    tn_close(b);
}
END_TEST

/* Scores around ±200 make exp underflow and the largest dominate. */
START_TEST(large_scores)
{
    const struct shape s = {2, 1, 16, 0};
    const struct tn_segment one = {0, 50, 0, 0};
    struct tn_backend *b = open_backend("cpu", NULL, 1);
    float *qkv = filled(50 * width(&s), 1, 12.0f), *out = zeros(50 * 32), *lse = zeros(100);
    double *exact = array(50 * width(&s), 8), want[50 * 32], want_lse[100];
    for (size_t i = 0; i < 50 * width(&s); i++)
        exact[i] = qkv[i];
    b->ops->attention(b, out, lse, qkv, 50, &one, 1, s.H, s.G, s.C, scale_of(&s), 0, 0);
    attend_all(want, want_lse, exact, &one, 1, &s);
    ck_assert_double_lt(error_d(out, want, 50 * 32), 1e-4);
    qkv[3 * width(&s)] = NAN;
    b->ops->attention(b, out, lse, qkv, 50, &one, 1, s.H, s.G, s.C, scale_of(&s), 0, 0);
    ck_assert(isnan(out[3 * 32]));
    ck_assert(isfinite(out[1 * 32]));
    tn_close(b);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("attention");
    TCase *tcase = tcase_create("attention");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, NULL, free_arrays);
    int n = (int)SP_COUNT(shapes);
    tcase_add_loop_test(tcase, forward_is_attention, 0, n);
    tcase_add_loop_test(tcase, backward_is_the_gradient, 0, n);
    tcase_add_loop_test(tcase, packed_pair_equals_two_sequences, 0, n);
    tcase_add_loop_test(tcase, cache_equals_attention, 0, n);
    tcase_add_loop_test(tcase, copied_prefixes_are_the_same, 0, 2);
    tcase_add_loop_test(tcase, attention_has_one_result, 0, n);
    tcase_add_test(tcase, attention_agrees_with_openblas);
    tcase_add_loop_test(tcase, reserve_is_enough, 0, 2);
    tcase_add_test(tcase, large_scores);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

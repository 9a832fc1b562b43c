/* Optimizer steps of the CUDA backends, on the emulated device or on another (SPIN_MODULE_PATH):
 * state in 8 bits and in memory of the host, weights in bf16. */
#include "tests/unit/check_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/state.h"
#include "tests/unit/tensor/tensor_test.h"

/* What is stepped, how, and where it lies; its results, on the host. */
struct steps {
    struct tn_backend *on;
    size_t n;
    bool adam, host;
    enum tn_state state;
    enum tn_dtype weights;
    int32_t shift; /* elements by which w and g lie behind a multiple of 16 bytes */
    int64_t first, count;
    uint64_t seed;
    float lr;
    float *w;
    uint8_t *m, *v;
};

static void *on_device(struct tn_backend *b, const float *from, const struct steps *s)
{
    void *memory = b->ops->alloc(b, s->n + (size_t)s->shift, tn_unit(s->weights));
    ck_assert_ptr_nonnull(memory);
    tn_put(b, tn_at(memory, s->weights, (size_t)s->shift), s->weights, from, s->n);
    return memory;
}

/* From w0 with gradients of step after step; w0, g0: NULL for some of many sizes. */
static void run_steps(struct steps *s, const float *w0, const float *g0)
{
    struct tn_backend *b = s->on;
    struct sp_error err;
    size_t bytes = tn_state_bytes(s->state, s->n);
    ck_assert_int_eq(tn_store_weights(b, s->weights, &err), SP_OK);
    void *w = on_device(b, w0 ? w0 : filled(s->n, 1, 1.0f), s);
    void *m = b->ops->state_new(b, bytes, s->host), *v = b->ops->state_new(b, bytes, s->host);
    ck_assert(m && v);
    for (int64_t i = 0; i < s->count; i++) {
        float *g = filled(s->n, 10 + (uint32_t)i, 1.0f);
        for (uint32_t k = 0; k < s->n; k++)
            g[k] *= (float[]){1, 1e-2f, 1e-4f, 1e-7f, 0, 1e-12f, -1}[pick(3, k, 7)];
        void *dg = on_device(b, g0 ? g0 : g, s);
        struct tn_rmsprop r = {s->lr, 0.99f, 1e-8f, 0, 0.5f, s->first + i, s->state, s->seed};
        struct tn_adamw a = {s->lr, 0.9f, 0.999f, 1e-8f, 0, 0.5f, s->first + i, s->state, s->seed};
        if (!g0)
            r.weight_decay = a.weight_decay = 0.1f;
        void *wi = tn_at(w, s->weights, (size_t)s->shift);
        const void *gi = tn_at(dg, s->weights, (size_t)s->shift);
        if (s->adam)
            b->ops->adamw(b, wi, gi, m, v, s->n, &a);
        else
            b->ops->rmsprop(b, wi, gi, v, s->n, &r);
        b->ops->free(b, dg);
    }
    s->w = zeros(s->n);
    s->m = array(bytes, 1);
    s->v = array(bytes, 1);
    tn_get(b, s->w, tn_at(w, s->weights, (size_t)s->shift), s->weights, s->n);
    b->ops->download(b, s->m, m, bytes);
    b->ops->download(b, s->v, v, bytes);
    b->ops->free(b, w);
    b->ops->state_free(b, m);
    b->ops->state_free(b, v);
}

static struct tn_backend *cpu, *cuda, *fp32; /* of a test; opened where it begins */

static void open_all(void)
{
    cpu = open_backend("cpu", NULL, 2);
    cuda = open_backend("cuda", NULL, 1);
    fp32 = open_backend("cuda-fp32", NULL, 1);
}

static void close_all(void)
{
    tn_close(cpu);
    tn_close(cuda);
    tn_close(fp32);
    free_arrays();
}

static void check_equal(const struct steps *a, const struct steps *b, size_t n)
{
    size_t bytes = tn_state_bytes(a->state, n);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(memcmp(&a->w[i], &b->w[i], sizeof(float)) == 0, "weight %zu of %zu: %g, %g",
                      i, n, (double)a->w[i], (double)b->w[i]);
    if (a->n == b->n) {
        ck_assert_mem_eq(a->m, b->m, bytes);
        ck_assert_mem_eq(a->v, b->v, bytes);
    }
}

static const size_t sizes[] = {1, 7, 8, 255, 256, 257, 2047, 2048, 2049, 70001};

START_TEST(bits_are_those_of_cpu)
{
    for (int k = 0; k < 16; k++) {
        struct steps want = {.on = cpu,
                             .n = sizes[_i],
                             .adam = k & 1,
                             .state = k & 2 ? TN_STATE_8BIT : TN_STATE_F32,
                             .first = 1,
                             .count = 3,
                             .lr = 1e-3f};
        struct steps device = want;
        device.on = k & 4 ? cuda : fp32;
        device.host = k & 8;
        run_steps(&want, NULL, NULL);
        run_steps(&device, NULL, NULL);
        check_equal(&device, &want, want.n);
        device.shift = 1; /* no wide accesses */
        run_steps(&device, NULL, NULL);
        check_equal(&device, &want, want.n);
    }
}
END_TEST

/* More parts than blocks of threads: each goes on with the next. */
START_TEST(many_parts)
{
    struct steps want = {.on = cpu,
                         .n = 1024 * 2048 + 777,
                         .adam = _i,
                         .state = TN_STATE_8BIT,
                         .first = 1,
                         .count = 1,
                         .lr = 1e-3f};
    struct steps device = want;
    device.on = cuda;
    run_steps(&want, NULL, NULL);
    run_steps(&device, NULL, NULL);
    check_equal(&device, &want, want.n);
}
END_TEST

/* --- of the emulated device alone --- */

static bool is_emulated(void)
{
    return strstr(cuda->device, "emulated") != NULL;
}

START_TEST(bits_do_not_depend_on_the_order_of_threads)
{
    struct steps want = {.on = cpu,
                         .n = 5003,
                         .adam = _i,
                         .state = TN_STATE_8BIT,
                         .first = 1,
                         .count = 2,
                         .lr = 1e-3f};
    struct steps device = want;
    if (!is_emulated())
        return;
    setenv("SPIN_EMULATE_BACKWARDS", "1", 1);
    device.on = open_backend("cuda", NULL, 1);
    unsetenv("SPIN_EMULATE_BACKWARDS");
    run_steps(&want, NULL, NULL);
    run_steps(&device, NULL, NULL);
    check_equal(&device, &want, want.n);
    tn_close(device.on);
}
END_TEST

START_TEST(no_memory_of_the_host)
{
    if (!is_emulated())
        return;
    setenv("SPIN_EMULATE_NO_HOST_MEMORY", "1", 1);
    ck_assert_ptr_null(cuda->ops->state_new(cuda, 4096, true));
    cuda->ops->state_free(cuda, NULL);
    unsetenv("SPIN_EMULATE_NO_HOST_MEMORY");
}
END_TEST

/* --- memory of the host --- */

START_TEST(memory_of_the_host_is_copied_and_zeroed)
{
    struct tn_backend *b = cuda;
    uint8_t *state = b->ops->state_new(b, 5000, true), out[5000];
    memset(out, 7, sizeof(out));
    b->ops->upload(b, state, out, sizeof(out));
    ck_assert_int_eq(state[4999], 7); /* the host reaches it */
    b->ops->zero(b, state + 1000, 1000);
    b->ops->download(b, out, state, sizeof(out));
    for (size_t i = 0; i < sizeof(out); i++)
        ck_assert_int_eq(out[i], i >= 1000 && i < 2000 ? 0 : 7);
    b->ops->state_free(b, state);
}
END_TEST

/* --- weights in bf16 --- */

/* The rounding that rng.h and the key (seed, step) say, of the weights that a step in fp32 gives.
 */
static float rounded(float x, uint64_t seed, int64_t step, size_t i)
{
    uint32_t draw[4], bits;
    float y;
    sp_rng_draw(seed, SP_STREAM_ROUND, (uint32_t)((uint64_t)step >> 32), (uint32_t)(i / 8),
                (uint32_t)((uint64_t)i / 8 >> 32), (uint32_t)step, draw);
    memcpy(&bits, &x, sizeof(bits));
    bits += draw[i % 8 / 2] >> (i % 2 ? 16 : 0) & 0xffff;
    bits &= 0xffff0000;
    memcpy(&y, &bits, sizeof(y));
    return y;
}

START_TEST(bf16_weights_are_the_fp32_ones_rounded)
{
    for (int k = 0; k < 16; k++) {
        struct steps s = {.on = cuda,
                          .n = sizes[_i],
                          .adam = k & 1,
                          .state = k & 2 ? TN_STATE_8BIT : TN_STATE_F32,
                          .first = k & 4 ? ((int64_t)3 << 32) + 9 : 2,
                          .count = 1,
                          .seed = 0x123456789abcdef0,
                          .lr = 1e-2f};
        float *w = filled(s.n, 1, 1.0f), *g = filled(s.n, 2, 1.0f);
        for (size_t i = 0; i < s.n; i++) {
            w[i] = sp_bf16_to_f32(sp_f32_to_bf16(w[i]));
            g[i] = sp_bf16_to_f32(sp_f32_to_bf16(g[i]));
        }
        struct steps full = s;
        full.on = cpu;
        run_steps(&full, w, g);
        for (size_t i = 0; i < s.n; i++)
            full.w[i] = rounded(full.w[i], s.seed, s.first, i);
        s.weights = TN_BF16;
        s.shift = k & 8 ? 1 : 0;
        run_steps(&s, w, g);
        check_equal(&s, &full, s.n);
    }
}
END_TEST

START_TEST(rounding_is_of_the_element_alone)
{
    struct steps s = {.on = cuda,
                      .n = 70001,
                      .adam = _i,
                      .state = TN_STATE_8BIT,
                      .weights = TN_BF16,
                      .first = 5,
                      .count = 2,
                      .seed = 77,
                      .lr = 1e-3f};
    struct steps again = s, small = s, other = s, later = s;
    size_t seeds = 0, steps = 0;
    float *w = filled(s.n, 1, 1.0f), *g = filled(s.n, 2, 1.0f);
    small.n = 4096;
    other.seed = 78;
    later.first = 6;
    run_steps(&s, w, g);
    run_steps(&again, w, g);
    run_steps(&small, w, g);
    check_equal(&again, &s, s.n);
    check_equal(&small, &s, small.n);
    run_steps(&other, w, g);
    if (!s.adam) { /* its bias correction depends on the step, too */
        run_steps(&later, w, g);
        for (size_t i = 0; i < s.n; i++)
            steps += later.w[i] != s.w[i];
        ck_assert_uint_gt(steps, s.n / 20);
    }
    for (size_t i = 0; i < s.n; i++)
        seeds += other.w[i] != s.w[i];
    ck_assert_uint_gt(seeds, s.n / 20);
}
END_TEST

/* Steps of a hundredth of the distance between bf16 numbers, which rounding to the nearest would
 * lose: the mean over elements, steps and seeds moves as in fp32. */
START_TEST(rounding_has_the_right_mean)
{
    enum { N = 4096, STEPS = 10, SEEDS = 4 };
    float *w = zeros(N), *g = zeros(N);
    double moved = 0;
    for (size_t i = 0; i < N; i++) {
        w[i] = i % 2 ? 1.5f : -1.5f;
        g[i] = i % 3 ? 1.0f : -1.0f;
    }
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        /* AdamW: a step of lr against a gradient of one sign */
        struct steps s = {.on = cuda,
                          .n = N,
                          .adam = true,
                          .weights = TN_BF16,
                          .first = 1,
                          .count = STEPS,
                          .seed = seed,
                          .lr = 1.0f / 128 / 100};
        run_steps(&s, w, g);
        for (size_t i = 0; i < N; i++)
            moved += (double)((w[i] - s.w[i]) * g[i]) / N / SEEDS;
    }
    /* Of one element a tenth of a distance d = 1/128 with a deviation of about 0.3 d */
    ck_assert_double_lt(fabs(moved * 128 - 0.1), 4 * 0.31 / sqrt(N * SEEDS));
}
END_TEST

START_TEST(rounding_at_the_edges)
{
    enum { N = 2048 };
    const float most = 3.38953139e38f; /* of bf16 */
    float *w = zeros(N), *g = zeros(N);
    for (size_t i = 0; i < N; i++) {
        w[i] = (float[]){most, -most, INFINITY, NAN, 0}[i % 5];
        g[i] = w[i] > 0 ? -1 : 1;
    }
    struct steps s = {.on = cuda,
                      .n = N,
                      .adam = true, /* rmsprop's decay of 0 makes NaN of infinity */
                      .state = TN_STATE_8BIT,
                      .weights = TN_BF16,
                      .first = 1,
                      .count = 3,
                      .lr = 1e35f}; /* less than a distance */
    for (size_t i = 0; i < N; i++)
        if (w[i] == 0)
            g[i] = 0;
    run_steps(&s, w, g);
    for (size_t i = 0; i < N; i++)
        if (isnan(w[i]))
            ck_assert(isnan(s.w[i]));
        else
            ck_assert_msg(s.w[i] == w[i], "%g became %g", (double)w[i], (double)s.w[i]);
}
END_TEST

static Suite *suite(void)
{
    Suite *suite = suite_create("optimizers");
    TCase *tcase = tcase_create("optimizers");
    int n = (int)SP_COUNT(sizes);
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, open_all, close_all);
    tcase_add_loop_test(tcase, bits_are_those_of_cpu, 0, n);
    tcase_add_loop_test(tcase, many_parts, 0, 2);
    tcase_add_loop_test(tcase, bits_do_not_depend_on_the_order_of_threads, 0, 2);
    tcase_add_test(tcase, no_memory_of_the_host);
    tcase_add_test(tcase, memory_of_the_host_is_copied_and_zeroed);
    tcase_add_loop_test(tcase, bf16_weights_are_the_fp32_ones_rounded, 0, n);
    tcase_add_loop_test(tcase, rounding_is_of_the_element_alone, 0, 2);
    tcase_add_test(tcase, rounding_has_the_right_mean);
    tcase_add_test(tcase, rounding_at_the_edges);
    suite_add_tcase(suite, tcase);
    return suite;
}

SPIN_CHECK_MAIN(suite())

/* No allocation inside a step: the C library's allocator is replaced by one that counts. */
#include "common/model/decoder.h"
#include "common/spin/step.h"
#include "tests/unit/model/fixtures.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS 0 /* sanitizers have an allocator of their own */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTS 0
#endif
#endif
#ifndef COUNTS
#define COUNTS 1
#endif

static int allocations;

#if COUNTS
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t n);
void *__libc_memalign(size_t align, size_t n);
void *malloc(size_t n)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_calloc(n, size);
}
void *realloc(void *old, size_t n)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_realloc(old, n);
}
void *aligned_alloc(size_t align, size_t n)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_memalign(align, n);
}
int posix_memalign(void **ret, size_t align, size_t n)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    *ret = __libc_memalign(align, n);
    return *ret ? 0 : 12;
}
#endif

START_TEST(counter_counts)
{
    int before = allocations;
    void *volatile p = malloc(10);
    free(p);
    ck_assert_int_eq(allocations - before, COUNTS);
}
END_TEST

START_TEST(training_step_allocates_nothing)
{
    struct tn_backend *b = open_cpu(2);
    struct model_config shape = odd_config(true);
    struct spin_step_config c = {.loss = {SPIN_LOSS_LOGISTIC, 0.3, 1},
                                 .sft_weight = 0.1,
                                 .batch_pairs = 8,
                                 .micro_rows = 60,
                                 .optimizer = spin_optimizer_defaults(SPIN_ADAMW)};
    static int32_t ids[3][20];
    struct spin_pair pairs[8];
    struct spin_metrics metrics;
    struct model *m = NULL;
    struct spin_step *step = NULL;
    c.optimizer.total_steps = 3;
    for (uint32_t k = 0; k < 3; k++)
        random_ids(k, 53, 20, ids[k]);
    for (int32_t i = 0; i < 8; i++)
        pairs[i] = (struct spin_pair){ids[0], ids[1], ids[2], 3 + i, 4 + i, 12 - i, -40, -50};
    ck_ok(model_new(b, &shape, 1, &m, err));
    ck_ok(spin_step_new(m, &c, &step, err));
    int before = allocations;
    enum sp_err rc = SP_OK;
    for (int64_t i = 0; i < 3 && rc == SP_OK; i++)
        rc = spin_step_run(step, i, pairs, 8, &metrics, NULL);
    int made = allocations - before;
    ck_assert_int_eq(rc, SP_OK);
    ck_assert_int_eq(made, 0);
    spin_step_free(step);
    model_free(m);
    tn_close(b);
}
END_TEST

START_TEST(decoder_allocates_nothing)
{
    struct tn_backend *b = open_cpu(2);
    struct model_config shape = odd_config(true);
    enum tn_dtype dtype = _i == 0 ? TN_F32 : TN_BF16;
    struct model_decoder_options o = {
        .slots = 4, .queue = 8, .weights = dtype, .cache = dtype, .activations = dtype};
    struct model_decoder_result result;
    struct model *m = NULL;
    struct model_decoder *d = NULL;
    int32_t ids[20], taken = 0;
    bool idle = false;
    random_ids(1, 53, 20, ids);
    struct model_decoder_request r = {.prompt = ids,
                                      .n_prompt = 9,
                                      .answers = {ids + 4, ids + 2},
                                      .n_answers = {7, 11},
                                      .generate = true,
                                      .max_new_tokens = 15,
                                      .params = {1, 10, 0.9f}};
    ck_ok(model_new(b, &shape, 1, &m, err));
    ck_ok(model_decoder_new(m, &o, &d, err));
    int before = allocations;
    enum sp_err rc = SP_OK;
    for (int i = 0; i < 12 && rc == SP_OK; i++)
        rc = model_decoder_submit(d, &r, NULL);
    while (!idle && rc == SP_OK)
        rc = model_decoder_step(d, &idle, NULL);
    while (model_decoder_take_result(d, &result))
        taken++;
    int made = allocations - before;
    ck_assert_int_eq(rc, SP_OK);
    ck_assert_int_eq(taken, 12);
    ck_assert_int_eq(made, 0);
    model_decoder_free(d);
    model_free(m);
    tn_close(b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("alloc");
    TCase *t = tcase_create("alloc");
    tcase_add_test(t, counter_counts);
    tcase_add_test(t, training_step_allocates_nothing);
    tcase_add_loop_test(t, decoder_allocates_nothing, 0, 2);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

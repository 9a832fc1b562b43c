/* Promise 1 at the level of the engine: one little run of answers, scores and training steps gives
 * the same bits with every instruction set and number of threads, on a device whose kernels the
 * host runs and whose memory it can't touch, and the bits that are written here. Who changes them
 * on purpose raises the numerics revision of the backend's class as well. */
#include "common/base/hash.h"
#include "common/model/decoder.h"
#include "common/spin/step.h"
#include "tests/unit/model/fixtures.h"

#define PAIRS 12
#define NUMERICS_CLASS "cpu r1"
#define GOLDEN_DIGEST "a043fd423e451dcb54df3050464bed077323e23ee4d4aaa3d1f67bff71520dd2"
#define NARROW_DIGEST "0c7458236584d654264bb1611ae0349727b7df22099f1ca9096a5fac675aff16"
#define CODES_DIGEST "73153479337f35f06ee399225b6637f7be728dbcd4bf54dc60dc18c8091a83de"

struct run {
    int32_t prompts[PAIRS][16], real[PAIRS][20], generated[PAIRS][24];
    struct spin_pair pairs[PAIRS];
};

static void answer(struct model *m, struct run *r, enum tn_dtype dtype)
{
    struct model_decoder *d = NULL;
    struct model_decoder_options o = {.slots = 5,
                                      .queue = PAIRS,
                                      .rows_per_step = 37,
                                      .weights = dtype,
                                      .cache = dtype,
                                      .activations = dtype};
    struct model_decoder_result result;
    bool idle = false;
    ck_ok(model_decoder_new(m, &o, &d, err));
    for (int32_t i = 0; i < PAIRS; i++) {
        struct spin_pair *p = &r->pairs[i];
        p->prompt = r->prompts[i];
        p->real = r->real[i];
        p->generated = r->generated[i];
        p->n_prompt = 1 + (int32_t)random_below(1, (uint32_t)i, 16);
        p->n_real = 1 + (int32_t)random_below(2, (uint32_t)i, 20);
        random_ids(10 + (uint32_t)i, 53, 16, r->prompts[i]);
        random_ids(40 + (uint32_t)i, 53, 20, r->real[i]);
        struct model_decoder_request q = {.user = (void *)(uintptr_t)i,
                                          .prompt = p->prompt,
                                          .n_prompt = p->n_prompt,
                                          .answers = {p->real},
                                          .n_answers = {p->n_real},
                                          .generate = true,
                                          .max_new_tokens = 24,
                                          .params = {1, i % 3 ? 0 : 9, i % 4 ? 1 : 0.9f},
                                          .seed = 8,
                                          .prompt_key = (uint32_t)i,
                                          .eos_ids = {2, 3},
                                          .n_eos = 2};
        ck_ok(model_decoder_submit(d, &q, err));
    }
    while (!idle)
        ck_ok(model_decoder_step(d, &idle, err));
    while (model_decoder_take_result(d, &result)) {
        uintptr_t i = (uintptr_t)result.user;
        memcpy(r->generated[i], result.ids, (size_t)result.n_ids * sizeof(int32_t));
        r->pairs[i].n_generated = result.n_ids;
        r->pairs[i].ref_generated = result.response.logprob;
        r->pairs[i].ref_real = result.answers[0].logprob;
    }
    model_decoder_free(d);
}

static void put_answers(struct sp_sha256 *hash, const struct run *r)
{
    for (int32_t i = 0; i < PAIRS; i++) {
        sp_sha256_update(hash, r->generated[i], sizeof(r->generated[i]));
        sp_sha256_update(hash, &r->pairs[i].ref_real, sizeof(float));
        sp_sha256_update(hash, &r->pairs[i].ref_generated, sizeof(float));
    }
}

/* Answers and scores with weights, cache and activations in bf16. */
static void digest_of_narrow_answers(struct tn_backend *b, char ret[SP_DIGEST_HEX])
{
    static struct run r;
    struct model_config shape = odd_config(false);
    struct model *m = NULL;
    struct sp_sha256 *hash = sp_sha256_new();
    struct sp_digest digest;
    memset(&r, 0, sizeof(r));
    ck_ok(model_new(b, &shape, 12, &m, err));
    answer(m, &r, TN_BF16);
    model_free(m);
    put_answers(hash, &r);
    sp_sha256_final(hash, &digest);
    sp_sha256_free(hash);
    sp_digest_hex(&digest, ret);
}

/* A device keeps a state of codes in memory of the host. */
static void digest_of_training(struct tn_backend *b, enum tn_state state, char ret[SP_DIGEST_HEX])
{
    static struct run r;
    struct model_config shape = odd_config(false);
    struct model *m = NULL;
    struct spin_step *step = NULL;
    struct spin_metrics metrics;
    struct sp_sha256 *hash = sp_sha256_new();
    struct sp_digest digest;
    size_t n;
    memset(&r, 0, sizeof(r));
    ck_ok(model_new(b, &shape, 12, &m, err));
    answer(m, &r, TN_F32);
    put_answers(hash, &r);
    for (int kind = 0; kind < 2; kind++) {
        struct spin_step_config c = {.mode = SPIN_MODE_SPIN,
                                     .loss = {SPIN_LOSS_LOGISTIC, 0.3, 1},
                                     .sft_weight = kind * 0.1,
                                     .batch_pairs = PAIRS,
                                     .micro_rows = 150};
        c.optimizer = spin_optimizer_defaults((enum spin_optimizer_kind)kind);
        c.optimizer.lr = 1e-3;
        c.optimizer.total_steps = 4;
        c.optimizer.schedule = SPIN_SCHEDULE_COSINE;
        c.optimizer.state = state;
        c.optimizer.offload = b->has_memory && state == TN_STATE_8BIT;
        ck_ok(spin_step_new(m, &c, &step, err));
        for (int64_t i = 0; i < 3; i++) {
            ck_ok(spin_step_run(step, i, r.pairs, PAIRS, &metrics, err));
            if (kind == 0 && i == 0)
                ck_assert(metrics.margin_abs_max == 0);
            sp_sha256_update(hash, &metrics.loss, sizeof(metrics.loss));
            sp_sha256_update(hash, &metrics.grad_norm, sizeof(metrics.grad_norm));
        }
        spin_step_free(step);
    }
    const float *params = model_params(m, &n);
    float *w = host_copy(b, params, n);
    sp_sha256_update(hash, w, n * sizeof(float));
    free(w);
    sp_sha256_final(hash, &digest);
    sp_sha256_free(hash);
    sp_digest_hex(&digest, ret);
    model_free(m);
}

static void digest_of_run(struct tn_backend *b, char ret[SP_DIGEST_HEX])
{
    digest_of_training(b, TN_STATE_F32, ret);
}

static void digest_with_state_of_codes(struct tn_backend *b, char ret[SP_DIGEST_HEX])
{
    digest_of_training(b, TN_STATE_8BIT, ret);
}

typedef void digest_fn(struct tn_backend *b, char ret[SP_DIGEST_HEX]);

static void check_everywhere(digest_fn *run, const char *golden)
{
    static const char *const isas[] = {"generic", "avx2", "avx512", "avx512bf16"};
    struct tn_backend *device = open_backend("cuda-fp32", 1);
    char on_device[SP_DIGEST_HEX];
    int opened = 0;
    run(device, on_device);
    ck_assert_msg(strcmp(on_device, golden) == 0, "%s: %s", device->device, on_device);
    tn_close(device);
    for (size_t k = 0; k < SP_COUNT(isas); k++) {
        for (int32_t threads = 1; threads <= 3; threads++) {
            struct tn_backend *b = NULL;
            struct tn_backend_options o = {.threads = threads, .isa = isas[k]};
            struct sp_error detail;
            char digest[SP_DIGEST_HEX];
            if (tn_open("cpu", &o, &b, &detail) != SP_OK) {
                fprintf(stderr, "skipped: %s: %s\n", isas[k], detail.text);
                break;
            }
            ck_assert_str_eq(b->numerics_class, NUMERICS_CLASS);
            run(b, digest);
            ck_assert_msg(strcmp(digest, golden) == 0, "%s, %d threads: %s", isas[k], threads,
                          digest);
            opened++;
            tn_close(b);
        }
    }
    ck_assert_int_ge(opened, 3);
}

START_TEST(bits_are_those_of_the_revision)
{
    check_everywhere(digest_of_run, GOLDEN_DIGEST);
}
END_TEST

START_TEST(narrow_bits_are_those_of_the_revision)
{
    check_everywhere(digest_of_narrow_answers, NARROW_DIGEST);
}
END_TEST

START_TEST(bits_with_a_state_of_codes_are_those_of_the_revision)
{
    check_everywhere(digest_with_state_of_codes, CODES_DIGEST);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("numerics");
    TCase *t = tcase_create("numerics");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, bits_are_those_of_the_revision);
    tcase_add_test(t, narrow_bits_are_those_of_the_revision);
    tcase_add_test(t, bits_with_a_state_of_codes_are_those_of_the_revision);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

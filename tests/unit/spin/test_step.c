/* A step: what its bits do not depend on, what it refuses, and what it leaves alone then. */
#include "tests/unit/spin/step_cases.h"

/* A random batch of pairs over odd_config's vocabulary. */
struct random_batch {
    int32_t ids[MAX_PAIRS][3][24];
    struct spin_pair pairs[MAX_PAIRS];
};

static void fill_batch(struct random_batch *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        struct spin_pair *p = &b->pairs[i];
        uint32_t u = (uint32_t)i;
        for (uint32_t k = 0; k < 3; k++)
            random_ids(1000 + 3 * u + k, 53, 24, b->ids[i][k]);
        *p = (struct spin_pair){.prompt = b->ids[i][0],
                                .real = b->ids[i][1],
                                .generated = b->ids[i][2],
                                .n_prompt = 1 + (int32_t)random_below(11, u, 20),
                                .n_real = 1 + (int32_t)random_below(12, u, 20),
                                .n_generated = 1 + (int32_t)random_below(13, u, 20)};
        if (i % 5 == 3) { /* identical answers */
            p->generated = p->real;
            p->n_generated = p->n_real;
        }
    }
}

static struct model *odd_model(uint64_t seed)
{
    struct model_config config = odd_config(true);
    struct model *m = NULL;
    ck_ok(model_new(cpu, &config, seed, &m, err));
    return m;
}

static void set_references(struct spin_step *step, struct random_batch *b, int32_t n)
{
    float real[MAX_PAIRS], generated[MAX_PAIRS];
    ck_ok(spin_step_score(step, b->pairs, n, real, generated, err));
    for (int32_t i = 0; i < n; i++) {
        b->pairs[i].ref_real = real[i];
        b->pairs[i].ref_generated = generated[i];
    }
}

START_TEST(first_step_is_at_zero)
{
    static const double at_zero[] = {0.69314718055994531, 1, 1, 1, 0.390625};
    for (int kind = 0; kind < 5; kind++) {
        struct model *m = odd_model(30);
        struct spin_step_config c = config_of((enum spin_loss_kind)kind, 0.1, 0.8);
        struct spin_step *step = NULL;
        struct random_batch b;
        struct spin_metrics metrics;
        fill_batch(&b, MAX_PAIRS);
        c.optimizer.lr = 1e-6;
        ck_ok(spin_step_new(m, &c, &step, err));
        set_references(step, &b, MAX_PAIRS);
        ck_ok(spin_step_run(step, 0, b.pairs, MAX_PAIRS, &metrics, err));
        ck_assert(fabs(metrics.loss - at_zero[kind]) < 1e-12);
        ck_assert(metrics.margin_abs_max == 0);
        ck_assert(metrics.accuracy == 0.5);
        ck_assert(metrics.grad_norm > 0 && !metrics.nonfinite);
        ck_assert_int_eq(metrics.identical, 3);
        ck_assert_int_eq(metrics.n_pairs, MAX_PAIRS);
        /* The second one is not: the loss went down. */
        ck_ok(spin_step_run(step, 1, b.pairs, MAX_PAIRS, &metrics, err));
        ck_assert_msg(metrics.loss < at_zero[kind], "loss %d: %g", kind, metrics.loss);
        ck_assert(metrics.margin_mean > 0 && metrics.accuracy > 0.6);
        ck_assert_int_eq(spin_optimizer_updates(spin_step_optimizer(step)), 2);
        spin_step_free(step);
        model_free(m);
    }
}
END_TEST

static int alive_calls;

static void count_alive(void)
{
    alive_calls++;
}

/* A daemon says between micro-batches that it lives: a whole step may take longer than a watchdog
 * waits. */
START_TEST(a_step_says_that_it_lives)
{
    struct model *m = odd_model(31);
    struct random_batch b;
    struct spin_metrics metrics;
    struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 1, 1);
    struct spin_step *step = NULL;
    fill_batch(&b, MAX_PAIRS);
    c.micro_rows = 60;
    c.alive = count_alive;
    alive_calls = 0;
    ck_ok(spin_step_new(m, &c, &step, err));
    ck_ok(spin_step_run(step, 0, b.pairs, MAX_PAIRS, &metrics, err));
    ck_assert_int_gt(metrics.micro_batches, 1);
    ck_assert_int_eq(alive_calls, metrics.micro_batches);
    spin_step_free(step);
    model_free(m);
}
END_TEST

START_TEST(micro_batches_do_not_change_log_probabilities)
{
    struct model *m = odd_model(31);
    struct random_batch b;
    float first[2][MAX_PAIRS], other[2][MAX_PAIRS];
    fill_batch(&b, MAX_PAIRS);
    for (int32_t rows = 60, k = 0; rows < 500; rows += 37, k++) {
        struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 1, 1);
        struct spin_step *step = NULL;
        c.micro_rows = rows;
        c.batch_pairs = 3 + k;
        c.unshared_prompts = k % 2;
        if (c.unshared_prompts)
            c.micro_rows += 20;
        ck_ok(spin_step_new(m, &c, &step, err));
        ck_ok(spin_step_score(step, b.pairs, MAX_PAIRS, k ? other[0] : first[0],
                              k ? other[1] : first[1], err));
        if (k)
            ck_assert(memcmp(first, other, sizeof(first)) == 0);
        spin_step_free(step);
    }
    model_free(m);
}
END_TEST

/* The denominators are those of the batch, whatever the micro-batches. */
START_TEST(accumulation_gives_the_same_gradient)
{
    struct model *m = odd_model(32);
    struct random_batch b;
    struct pair_list list = {.n = MAX_PAIRS};
    struct spin_metrics one, many;
    size_t n;
    fill_batch(&b, MAX_PAIRS);
    for (int32_t i = 0; i < MAX_PAIRS; i++) {
        b.pairs[i].ref_real = -30;
        b.pairs[i].ref_generated = -30 + (float)(i % 3);
    }
    memcpy(list.pairs, b.pairs, sizeof(b.pairs));
    struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 0.2, 1);
    c.sft_weight = 0.5;
    gradient_of(m, &c, &list, &one);
    model_params(m, &n);
    float *kept = sp_xmemdup(model_grads(m), n * sizeof(float));
    c.micro_rows = 60;
    gradient_of(m, &c, &list, &many);
    ck_assert_int_eq(one.micro_batches, 2); /* the pairs that differ, and the identical ones */
    ck_assert_int_gt(many.micro_batches, 5);
    ck_assert(one.loss == many.loss && one.rows == many.rows && one.tokens == many.tokens);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)((float *)model_grads(m))[i] - (double)kept[i];
        difference += d * d;
        norm += (double)kept[i] * (double)kept[i];
    }
    ck_assert(norm > 0 && sqrt(difference / norm) < 1e-5);
    free(kept);
    model_free(m);
}
END_TEST

START_TEST(identical_pairs_keep_their_place_and_have_no_gradient)
{
    struct model *m = odd_model(33);
    struct random_batch b;
    struct pair_list list = {.n = 2};
    struct spin_metrics two, one;
    size_t n;
    fill_batch(&b, 4);
    list.pairs[0] = b.pairs[3]; /* identical */
    list.pairs[1] = b.pairs[0];
    list.pairs[1].ref_real = -20;
    list.pairs[1].ref_generated = -18;
    struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 0.2, 1);
    gradient_of(m, &c, &list, &two);
    model_params(m, &n);
    float *both = sp_xmemdup(model_grads(m), n * sizeof(float));
    list.n = 1;
    list.pairs[0] = list.pairs[1];
    gradient_of(m, &c, &list, &one);
    ck_assert_int_eq(two.identical, 1);
    ck_assert_int_eq(one.identical, 0);
    ck_assert(fabs(two.spin_loss - (one.spin_loss + log(2)) / 2) < 1e-12);
    ck_assert(fabs(two.margin_mean - one.margin_mean / 2) < 1e-12);
    for (size_t i = 0; i < n; i++)
        ck_assert(fabs((double)both[i] - 0.5 * (double)((float *)model_grads(m))[i]) < 1e-6);
    free(both);
    /* With an SFT term the identical pair has that. */
    list.pairs[0] = b.pairs[3];
    c.sft_weight = 1;
    gradient_of(m, &c, &list, &one);
    ck_assert(one.grad_norm > 1e-3);
    c.sft_weight = 0;
    gradient_of(m, &c, &list, &one);
    ck_assert(one.grad_norm == 0);
    model_free(m);
}
END_TEST

START_TEST(sft_learns_a_sequence)
{
    struct model *m = odd_model(34);
    struct random_batch b;
    struct spin_step *step = NULL;
    struct spin_metrics metrics;
    struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 0, 0);
    double first = 0;
    fill_batch(&b, 4);
    c.mode = SPIN_MODE_SFT;
    c.optimizer = spin_optimizer_defaults(SPIN_ADAMW);
    c.optimizer.lr = 0.01;
    c.optimizer.total_steps = 60;
    c.optimizer.warmup_steps = 5;
    ck_ok(spin_step_new(m, &c, &step, err));
    for (int64_t i = 0; i < 60; i++) {
        ck_ok(spin_step_run(step, i, b.pairs, 4, &metrics, err));
        if (i == 0)
            first = metrics.loss;
        ck_assert(metrics.loss == metrics.sft_nll && metrics.margins == NULL);
        ck_assert_int_eq(metrics.identical, 0);
    }
    ck_assert_msg(first > 2.5 && metrics.loss < 0.1 * first, "loss from %g to %g", first,
                  metrics.loss);
    spin_step_free(step);
    model_free(m);
}
END_TEST

/* Step, snapshot, go on; restore into a new process's objects, go on: the same bits. */
START_TEST(resumed_training_has_the_same_bits)
{
    struct random_batch b;
    float *after = NULL;
    size_t n, bytes;
    fill_batch(&b, MAX_PAIRS);
    for (int32_t i = 0; i < MAX_PAIRS; i++)
        b.pairs[i].ref_real = b.pairs[i].ref_generated = -40;
    for (int k = 0; k < 4; k++) {
        int kind = k / 2;
        struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 0.5, 1);
        struct model *m = odd_model(35), *m2 = odd_model(36);
        struct spin_step *step = NULL, *step2 = NULL;
        struct spin_metrics metrics;
        c.optimizer = spin_optimizer_defaults((enum spin_optimizer_kind)kind);
        c.optimizer.lr = 0.003;
        c.optimizer.total_steps = 6;
        c.optimizer.state = k % 2 ? TN_STATE_8BIT : TN_STATE_F32;
        ck_ok(spin_step_new(m, &c, &step, err));
        for (int64_t i = 0; i < 3; i++)
            ck_ok(spin_step_run(step, i, b.pairs, MAX_PAIRS, &metrics, err));
        ck_ok(spin_step_new(m2, &c, &step2, err));
        struct spin_optimizer *o = spin_step_optimizer(step), *o2 = spin_step_optimizer(step2);
        float *w = model_params(m, &n);
        void *state = spin_optimizer_state(o, &bytes);
        ck_assert_uint_eq(bytes, spin_optimizer_bytes(&c.optimizer, n));
        memcpy(model_params(m2, NULL), w, n * sizeof(float));
        memcpy(spin_optimizer_state(o2, &bytes), state, bytes);
        spin_optimizer_set_updates(o2, spin_optimizer_updates(o));
        for (int64_t i = 3; i < 6; i++) {
            ck_ok(spin_step_run(step, i, b.pairs, MAX_PAIRS, &metrics, err));
            ck_ok(spin_step_run(step2, i, b.pairs, MAX_PAIRS, &metrics, err));
        }
        after = model_params(m, &n);
        ck_assert(memcmp(after, model_params(m2, &n), n * sizeof(float)) == 0);
        spin_step_free(step);
        spin_step_free(step2);
        model_free(m);
        model_free(m2);
    }
}
END_TEST

START_TEST(threads_and_memory_do_not_change_bits)
{
    struct random_batch b;
    float *first = NULL;
    size_t n = 0;
    fill_batch(&b, MAX_PAIRS);
    for (int32_t i = 0; i < MAX_PAIRS; i++)
        b.pairs[i].ref_real = b.pairs[i].ref_generated = -40;
    for (int32_t k = 0; k < 4; k++) {
        struct tn_backend *backend = open_cpu(1 + k);
        struct model_config shape = odd_config(true);
        struct model *m = NULL;
        struct spin_step *step = NULL;
        struct spin_metrics metrics;
        struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 0.5, 1);
        struct model_memory_plan plan;
        c.optimizer.lr = 0.003;
        ck_ok(spin_step_plan(&shape, &c, &plan, err));
        c.memory_budget_bytes = k == 2 ? plan.total - (size_t)k * 200000 : 0;
        ck_ok(model_new(backend, &shape, 37, &m, err));
        ck_ok(spin_step_new(m, &c, &step, err));
        ck_assert((spin_step_memory(step)->kept_layers < 3) == (k == 2));
        for (int64_t i = 0; i < 3; i++)
            ck_ok(spin_step_run(step, i, b.pairs, MAX_PAIRS, &metrics, err));
        float *w = model_params(m, &n);
        if (!first)
            first = sp_xmemdup(w, n * sizeof(float));
        ck_assert(memcmp(first, w, n * sizeof(float)) == 0);
        spin_step_free(step);
        model_free(m);
        tn_close(backend);
    }
    free(first);
}
END_TEST

/* A Mistral of 7·10^9 parameters on a card of 80 GB, and on smaller ones. */
START_TEST(advice_names_what_fits)
{
    static const struct {
        enum spin_optimizer_kind optimizer;
        double gib;
        const char *says; /* NULL: it fits as it is */
    } cases[] = {
        {SPIN_RMSPROP, 140, NULL},
        {SPIN_RMSPROP, 76, "with [train] optimizer_state = 8bit"},
        {SPIN_RMSPROP, 57, "with [train] weights = bf16"},
        {SPIN_ADAMW, 76, "with [train] optimizer_state = 8bit"},
        {SPIN_ADAMW, 50, "with [train] weights = bf16, optimizer_state = 8bit"},
        {SPIN_ADAMW, 34, "with [train] weights = bf16, optimizer_offload = true"},
        {SPIN_ADAMW, 20, "does not fit with [train] micro_batch_tokens = 1024, weights = bf16"},
    };
    json_t *json = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b}", "model_type", "mistral",
        "vocab_size", 32000, "hidden_size", 4096, "intermediate_size", 14336, "num_hidden_layers",
        32, "num_attention_heads", 32, "num_key_value_heads", 8, "max_position_embeddings", 32768,
        "rms_norm_eps", 1e-5, "rope_theta", 10000.0, "tie_word_embeddings", 0);
    struct model_config shape;
    ck_ok(model_config_parse(json, NULL, "shape", &shape, err));
    json_decref(json);
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 0.1, 1);
        struct model_memory_plan plan;
        struct sp_buf text = SP_BUF_INIT;
        c.optimizer = spin_optimizer_defaults(cases[i].optimizer);
        c.optimizer.total_steps = 10;
        c.micro_rows = 2048;
        c.longest = 1024;
        c.activations = TN_BF16;
        c.memory_budget_bytes = (size_t)(cases[i].gib * (1 << 30));
        struct sp_error why;
        enum sp_err rc = spin_step_plan(&shape, &c, &plan, &why);
        ck_assert_int_eq(rc, cases[i].says ? SP_ELIMIT : SP_OK);
        if (cases[i].says) {
            ck_assert_int_eq(spin_step_advise(&shape, &c, true, &text),
                             strstr(cases[i].says, "not fit") == NULL);
            sp_buf_putc(&text, '\0');
            ck_assert_msg(strstr(text.data, cases[i].says), "%zu: %s", i, text.data);
        }
        sp_buf_deinit(&text);
    }
}
END_TEST

static void fill_tensor(struct model *m, float *w, const char *name, float value)
{
    const struct model_tensor *t = model_find_tensor(m, name);
    for (size_t i = 0; i < (size_t)t->rows * (size_t)t->cols; i++)
        w[t->offset + i] = value;
}

/* silu(0) × 1e36 is 0, and so is the loss's trouble; its derivative × 1e6 is beyond fp32. */
static void overflow_gradient(struct model *m, float *w)
{
    fill_tensor(m, w, "model.layers.1.mlp.gate_proj.weight", 0);
    fill_tensor(m, w, "model.layers.1.mlp.up_proj.weight", 1e36f);
    fill_tensor(m, w, "model.layers.1.mlp.down_proj.weight", 1e6f);
}

START_TEST(a_step_that_is_not_finite_changes_nothing)
{
    static const char *const expected[] = {"loss", "loss", "gradient", "loss"};
    for (int k = 0; k < 4; k++) {
        struct model *m = odd_model(38);
        struct random_batch b;
        struct spin_step *step = NULL;
        struct spin_metrics metrics;
        struct spin_step_config c =
            config_of(k == 0 ? SPIN_LOSS_EXPONENTIAL : SPIN_LOSS_LOGISTIC, 0.5, 1);
        size_t n, bytes;
        fill_batch(&b, 4);
        c.optimizer.lr = 0.01;
        ck_ok(spin_step_new(m, &c, &step, err));
        set_references(step, &b, 4);
        ck_ok(spin_step_run(step, 0, b.pairs, 4, &metrics, err));
        ck_assert(!metrics.nonfinite && metrics.nonfinite_what == NULL);
        float *w = model_params(m, &n);
        if (k == 0)
            b.pairs[1].ref_real = 1e6f; /* e^500000 */
        else if (k == 1)
            w[model_find_tensor(m, "model.norm.weight")->offset] = NAN;
        else if (k == 2)
            overflow_gradient(m, w);
        else
            w[model_find_tensor(m, "model.embed_tokens.weight")->offset + 20 * 9] = INFINITY;
        if (k == 3)
            b.ids[0][0][0] = 9;
        void *state = spin_optimizer_state(spin_step_optimizer(step), &bytes);
        float *kept = sp_xmemdup(w, n * sizeof(float));
        void *kept_state = sp_xmemdup(state, bytes);
        ck_ok(spin_step_run(step, 1, b.pairs, 4, &metrics, err));
        ck_assert_msg(metrics.nonfinite, "case %d", k);
        ck_assert_str_eq(metrics.nonfinite_what, expected[k]);
        ck_assert(memcmp(w, kept, n * sizeof(float)) == 0);
        ck_assert(memcmp(state, kept_state, bytes) == 0);
        ck_assert_int_eq(spin_optimizer_updates(spin_step_optimizer(step)), 1);
        free(kept);
        free(kept_state);
        spin_step_free(step);
        model_free(m);
    }
}
END_TEST

START_TEST(bad_pairs_are_refused_before_anything_changes)
{
    struct model *m = odd_model(39);
    struct random_batch b;
    struct spin_step *step = NULL;
    struct spin_metrics metrics;
    struct spin_step_config c = config_of(SPIN_LOSS_LOGISTIC, 0.5, 1);
    float score;
    c.micro_rows = 60;
    c.longest = 58;
    ck_ok(spin_step_new(m, &c, &step, err));
#define REFUSED(part, change)                                                                      \
    fill_batch(&b, 4);                                                                             \
    change;                                                                                        \
    ck_fails(SP_EINVAL, part, spin_step_run(step, 0, b.pairs, 4, &metrics, err));                  \
    ck_fails(SP_EINVAL, part, spin_step_evaluate(step, b.pairs, 4, &metrics, err))
    REFUSED("pair 2", b.pairs[2].n_prompt = 0);
    REFUSED("pair 2", b.pairs[2].n_real = 0);
    REFUSED("pair 2", b.pairs[2].n_generated = 0);
    REFUSED("positions", b.pairs[1].n_real = 200);
    REFUSED("positions", b.pairs[1].n_real = INT32_MAX);
    REFUSED("rows", b.pairs[1].n_real = b.pairs[1].n_generated = 60);
    REFUSED("pair 3: prompt: token 0", b.ids[3][0][0] = 53);
    REFUSED("pair 0: real: token 0", b.ids[0][1][0] = -1);
    REFUSED("pair 0: generated: token 0", b.ids[0][2][0] = 1 << 30);
    REFUSED("pair 1: a reference", b.pairs[1].ref_real = NAN);
    REFUSED("pair 1: a reference", b.pairs[1].ref_generated = -INFINITY);
    fill_batch(&b, 4);
    ck_fails(SP_EINVAL, "batch of 0", spin_step_run(step, 0, b.pairs, 0, &metrics, err));
    ck_fails(SP_EINVAL, "batch of 17", spin_step_run(step, 0, b.pairs, 17, &metrics, err));
    b.pairs[0].n_prompt = 0;
    ck_fails(SP_EINVAL, "pair 0", spin_step_score(step, b.pairs, 1, &score, &score, err));
    ck_assert_int_eq(spin_optimizer_updates(spin_step_optimizer(step)), 0);
    spin_step_free(step);
    step = NULL;
#define BAD(part, change)                                                                          \
    c = config_of(SPIN_LOSS_IPO, 0.5, 1);                                                          \
    change;                                                                                        \
    ck_fails(SP_EINVAL, part, spin_step_new(m, &c, &step, err))
    BAD("batches", c.batch_pairs = 0);
    BAD("rows", c.micro_rows = 0);
    BAD("rows", c.longest = 401);
    BAD("SFT weight", c.sft_weight = -1);
    BAD("beta", c.loss.beta = 0);
    BAD("beta", c.loss.beta = NAN);
    BAD("tau", c.loss.tau = 0);
    BAD("warm-up", c.optimizer.total_steps = 0);
    c = config_of(SPIN_LOSS_IPO, 0.5, 1);
    c.memory_budget_bytes = 1000;
    ck_fails(SP_ELIMIT, "budget", spin_step_new(m, &c, &step, err));
    ck_assert_ptr_null(step);
    model_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("step");
    TCase *t = tcase_create("step");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, first_step_is_at_zero);
    tcase_add_test(t, a_step_says_that_it_lives);
    tcase_add_test(t, micro_batches_do_not_change_log_probabilities);
    tcase_add_test(t, accumulation_gives_the_same_gradient);
    tcase_add_test(t, identical_pairs_keep_their_place_and_have_no_gradient);
    tcase_add_test(t, sft_learns_a_sequence);
    tcase_add_test(t, resumed_training_has_the_same_bits);
    tcase_add_test(t, threads_and_memory_do_not_change_bits);
    tcase_add_test(t, advice_names_what_fits);
    tcase_add_test(t, a_step_that_is_not_finite_changes_nothing);
    tcase_add_test(t, bad_pairs_are_refused_before_anything_changes);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

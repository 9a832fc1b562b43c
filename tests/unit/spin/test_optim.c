#include "common/spin/optim.h"

#include "tests/unit/model/fixtures.h"

/* A model whose block is used as plain memory for the numbers of the fixture. */
static struct model *small_model(struct tn_backend *b)
{
    struct model_config config = odd_config(true);
    struct model *m = NULL;
    ck_ok(model_new(b, &config, 1, &m, err));
    ck_ok(model_enable_grads(m, err));
    return m;
}

static void check_case(struct tn_backend *b, const json_t *golden, const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    const json_t *start = json_object_get(golden, "start"), *grads, *result;
    struct spin_optimizer_config c = {0};
    struct spin_optimizer *o = NULL;
    struct model *m = small_model(b);
    size_t n, k, count = json_array_size(start);
    float *w = model_params(m, &n);
    json_t *grad;
    enum spin_optimizer_kind kind = SPIN_RMSPROP;
    ck_ok(spin_optimizer_parse(name, &kind, err));
    c = spin_optimizer_defaults(kind);
    c.total_steps = 1;
    c.weight_decay = json_num(row, "weight_decay");
    c.clip_norm = json_num(row, "clip");
    ck_ok(spin_optimizer_new(m, &c, &o, err));
    memset(w, 0, n * sizeof(float));
    for (size_t i = 0; i < count; i++)
        w[i] = (float)json_number_value(json_array_get(start, i));
    grads = json_object_get(golden, "grads");
    json_array_foreach(grads, k, grad)
    {
        model_zero_grads(m);
        for (size_t i = 0; i < count; i++)
            ((float *)model_grads(m))[i] = (float)json_number_value(json_array_get(grad, i));
        double norm = sqrt(b->ops->sum_squares(b, model_grads(m), n));
        if (c.clip_norm > 0) {
            double e = json_number_value(json_array_get(json_object_get(row, "norms"), k));
            ck_assert(fabs(norm - e) < 1e-5 * e);
        }
        spin_optimizer_apply(o, 0.01 * (double)(k + 1), spin_clip_scale(norm, c.clip_norm));
    }
    ck_assert_int_eq(spin_optimizer_updates(o), 6);
    result = json_object_get(row, "result");
    for (size_t i = 0; i < count; i++) {
        double e = json_number_value(json_array_get(result, i));
        ck_assert_msg(fabs((double)w[i] - e) < 2e-6 * (1 + fabs(e)), "%s: %.8f, torch %.8f", name,
                      (double)w[i], e);
    }
    for (size_t i = count; i < n; i++)
        ck_assert(w[i] == 0);
    spin_optimizer_free(o);
    model_free(m);
}

START_TEST(agrees_with_torch)
{
    struct tn_backend *b = open_cpu(2);
    json_t *golden = load_golden("optimizers.json"), *row;
    size_t i;
    json_array_foreach(json_object_get(golden, "cases"), i, row)
    {
        check_case(b, golden, row);
    }
    ck_assert_uint_eq(i, 8);
    json_decref(golden);
    tn_close(b);
}
END_TEST

static struct spin_optimizer_config schedule(enum spin_schedule_kind kind, int64_t warmup,
                                             int64_t total, double final)
{
    struct spin_optimizer_config c = spin_optimizer_defaults(SPIN_RMSPROP);
    c.lr = 2;
    c.schedule = kind;
    c.warmup_steps = warmup;
    c.total_steps = total;
    c.final_ratio = final;
    return c;
}

START_TEST(schedules_follow_their_formulas)
{
    struct spin_optimizer_config c = schedule(SPIN_SCHEDULE_LINEAR, 4, 14, 0);
    const double linear[] = {0.4, 0.8, 1.2, 1.6, 2, 1.8, 1.6, 1.4, 1.2, 1, 0.8, 0.6, 0.4, 0.2, 0};
    for (int64_t s = 0; s < 15; s++)
        ck_assert(fabs(spin_schedule_lr(&c, s) - linear[s]) < 1e-12);
    ck_assert(spin_schedule_lr(&c, 1000) == 0);
    c = schedule(SPIN_SCHEDULE_COSINE, 0, 8, 0.1);
    for (int64_t s = 0; s <= 8; s++) {
        double e = 2 * (0.1 + 0.9 * (1 + cos(M_PI * (double)s / 8)) / 2);
        ck_assert(fabs(spin_schedule_lr(&c, s) - e) < 1e-12);
    }
    c = schedule(SPIN_SCHEDULE_CONSTANT, 1, 5, 0);
    ck_assert(spin_schedule_lr(&c, 0) == 1);
    for (int64_t s = 1; s < 9; s++)
        ck_assert(spin_schedule_lr(&c, s) == 2);
    c = schedule(SPIN_SCHEDULE_LINEAR, 5, 5, 0);
    ck_assert(fabs(spin_schedule_lr(&c, 4) - 10.0 / 6) < 1e-12);
    ck_assert(spin_schedule_lr(&c, 5) == 0);
    /* No step of a plan has a rate of zero. */
    for (int64_t total = 1; total < 40; total++) {
        for (int64_t warmup = 0; warmup <= total; warmup++) {
            for (int kind = 0; kind < 3; kind++) {
                c = schedule((enum spin_schedule_kind)kind, warmup, total, 0);
                for (int64_t s = 0; s < total; s++)
                    ck_assert(spin_schedule_lr(&c, s) > 0 && spin_schedule_lr(&c, s) <= 2);
            }
        }
    }
}
END_TEST

START_TEST(clipping)
{
    ck_assert(spin_clip_scale(0.5, 1) == 1);
    ck_assert(fabs(spin_clip_scale(10, 1) - 0.1) < 1e-7);
    ck_assert(spin_clip_scale(1e9, 0) == 1);
    ck_assert(spin_clip_scale(0, 1) == 1);
}
END_TEST

START_TEST(bad_settings_are_refused)
{
    struct spin_optimizer_config c;
#define REFUSED(part, change)                                                                      \
    c = schedule(SPIN_SCHEDULE_LINEAR, 1, 10, 0);                                                  \
    ck_ok(spin_optimizer_check(&c, err));                                                          \
    change;                                                                                        \
    ck_fails(SP_EINVAL, part, spin_optimizer_check(&c, err))
    REFUSED("learning rate", c.lr = -1);
    REFUSED("learning rate", c.lr = NAN);
    REFUSED("alpha", c.alpha = 1.1);
    REFUSED("beta1", c.beta1 = 1);
    REFUSED("beta2", c.beta2 = -0.1);
    REFUSED("eps", c.eps = 0);
    REFUSED("weight decay", c.weight_decay = INFINITY);
    REFUSED("clip norm", c.clip_norm = -1);
    REFUSED("final ratio", c.final_ratio = 2);
    REFUSED("warm-up", c.warmup_steps = 11);
    REFUSED("warm-up", c.warmup_steps = -1);
    enum spin_optimizer_kind kind;
    enum spin_schedule_kind s;
    ck_fails(SP_EINVAL, "sgd", spin_optimizer_parse("sgd", &kind, err));
    ck_fails(SP_EINVAL, "step", spin_schedule_parse("step", &s, err));
    ck_ok(spin_schedule_parse("cosine", &s, err));
    ck_assert_int_eq(s, SPIN_SCHEDULE_COSINE);
}
END_TEST

START_TEST(bytes_of_the_state)
{
    struct spin_optimizer_config c = spin_optimizer_defaults(SPIN_RMSPROP);
    ck_assert_uint_eq(spin_optimizer_bytes(&c, 1003), 4012);
    c.state = TN_STATE_8BIT;
    ck_assert_uint_eq(spin_optimizer_bytes(&c, 1003), 4 * 260);
    c.kind = SPIN_ADAMW; /* v begins aligned */
    ck_assert_uint_eq(spin_optimizer_bytes(&c, 1003), 5 * 256 + 4 * 260);
    ck_assert_uint_eq(spin_optimizer_host_bytes(&c, 1003), 0);
    c.offload = true;
    ck_assert_uint_eq(spin_optimizer_bytes(&c, 1003), 0);
    ck_assert_uint_eq(spin_optimizer_host_bytes(&c, 1003), 5 * 256 + 4 * 260);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("optim");
    TCase *t = tcase_create("optim");
    tcase_add_test(t, agrees_with_torch);
    tcase_add_test(t, schedules_follow_their_formulas);
    tcase_add_test(t, clipping);
    tcase_add_test(t, bytes_of_the_state);
    tcase_add_test(t, bad_settings_are_refused);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

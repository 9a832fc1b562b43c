/* Gradients of a step beside those of autograd (tests/golden). */
#include "common/checkpoint/safetensors.h"
#include "tests/unit/spin/step_cases.h"

/* Pairs of a golden file; pair_list_free. */
static void load_pairs(const json_t *rows, struct pair_list *list)
{
    size_t i;
    json_t *row;
    list->n = 0;
    json_array_foreach(rows, i, row)
    {
        struct spin_pair *p = &list->pairs[list->n++];
        p->prompt = json_ids(json_object_get(row, "prompt"), &p->n_prompt);
        p->real = json_ids(json_object_get(row, "real"), &p->n_real);
        p->generated = json_ids(json_object_get(row, "generated"), &p->n_generated);
        p->ref_real = (float)json_num(row, "ref_real");
        p->ref_generated = (float)json_num(row, "ref_generated");
    }
}

static void pair_list_free(struct pair_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        free((void *)list->pairs[i].prompt);
        free((void *)list->pairs[i].real);
        free((void *)list->pairs[i].generated);
    }
}

static void check_tiny_case(struct model *m, const struct ckpt_st *golden, const json_t *row,
                            const struct pair_list *list, struct spin_step_config c)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    struct spin_metrics metrics;
    int32_t n_tensors;
    ck_ok(spin_loss_parse(json_string_value(json_object_get(row, "loss")), &c.loss.kind, err));
    c.sft_weight = json_num(row, "sft_weight");
    gradient_of(m, &c, list, &metrics);
    double value = json_num(row, "value");
    ck_assert_msg(fabs(metrics.loss - value) < 1e-4 * fabs(value), "%s: loss %.7f, expected %.7f",
                  name, metrics.loss, value);
    ck_assert_int_eq(metrics.identical, 1);
    const struct model_tensor *tensors = model_tensors(m, &n_tensors);
    for (int32_t t = 0; t < n_tensors; t++) {
        char full[200];
        double difference = 0, norm = 0;
        snprintf(full, sizeof(full), "%s/%s", name, tensors[t].name);
        const struct ckpt_tensor *expected = ckpt_st_find(golden, full);
        ck_assert_msg(expected && expected->dtype == CKPT_F32, "no %s", full);
        for (size_t i = 0; i < expected->count; i++) {
            float e;
            memcpy(&e, expected->data + 4 * i, 4);
            double d = (double)((float *)model_grads(m))[tensors[t].offset + i] - (double)e;
            difference += d * d;
            norm += (double)e * (double)e;
        }
        ck_assert_msg(norm > 0 && sqrt(difference / norm) < 1e-4, "%s: off by %.2g relative", full,
                      sqrt(difference / norm));
    }
}

START_TEST(tiny_gradients_agree_with_autograd)
{
    json_t *golden = load_golden("tiny.json"), *row;
    struct ckpt_st *gradients = NULL;
    struct pair_list list;
    size_t i;
    struct model *m = open_golden(cpu, "tiny-llama");
    ck_ok(ckpt_st_open(GOLDEN "tiny-gradients.safetensors", &gradients, err));
    load_pairs(json_object_get(golden, "pairs"), &list);
    json_array_foreach(json_object_get(golden, "cases"), i, row)
    {
        /* One micro-batch, many, and prompts apart. */
        struct spin_step_config c =
            config_of(SPIN_LOSS_LOGISTIC, json_num(golden, "beta"), json_num(golden, "tau"));
        check_tiny_case(m, gradients, row, &list, c);
        c.micro_rows = 22;
        check_tiny_case(m, gradients, row, &list, c);
        c.micro_rows = 60;
        c.unshared_prompts = true;
        check_tiny_case(m, gradients, row, &list, c);
    }
    ck_assert_uint_eq(i, 6);
    pair_list_free(&list);
    ckpt_st_close(gradients);
    json_decref(golden);
    model_free(m);
}
END_TEST

static void check_story_case(struct model *m, const json_t *row, struct spin_step_config c,
                             size_t samples)
{
    const char *name = json_string_value(json_object_get(row, "loss"));
    struct pair_list list;
    struct spin_metrics metrics;
    int32_t n_tensors;
    ck_ok(spin_loss_parse(name, &c.loss.kind, err));
    load_pairs(json_object_get(row, "pairs"), &list);
    gradient_of(m, &c, &list, &metrics);
    double value = json_num(row, "value");
    ck_assert_msg(fabs(metrics.loss - value) < 1e-3 * fabs(value), "%s: loss %.7f, expected %.7f",
                  name, metrics.loss, value);
    ck_assert(metrics.margin_abs_max > 0.5);
    const struct model_tensor *tensors = model_tensors(m, &n_tensors);
    for (int32_t t = 0; t < n_tensors; t++) {
        const json_t *expected = json_object_get(json_object_get(row, "tensors"), tensors[t].name);
        size_t n = (size_t)tensors[t].rows * (size_t)SP_MAX(tensors[t].cols, 1);
        const float *g = (const float *)model_grads(m) + tensors[t].offset;
        double norm = 0, difference = 0, sampled = 0;
        ck_assert_uint_eq(json_array_size(expected), samples + 1);
        for (size_t i = 0; i < n; i++)
            norm += (double)g[i] * (double)g[i];
        for (size_t k = 0; k < samples; k++) {
            double e = json_number_value(json_array_get(expected, k + 1));
            double d = (double)g[k * 2654435761u % n] - e;
            difference += d * d;
            sampled += e * e;
        }
        double e = json_number_value(json_array_get(expected, 0));
        ck_assert_msg(fabs(sqrt(norm) - e) <= 1e-3 * e, "%s: %s: norm %.7g, expected %.7g", name,
                      tensors[t].name, sqrt(norm), e);
        /* Samples that all happen to be small are compared with what is typical. */
        double scale = sqrt(SP_MAX(sampled, 0.1 * e * e * (double)samples / (double)n));
        ck_assert_msg(sqrt(difference) <= 1e-3 * scale, "%s: %s: samples off by %.2g", name,
                      tensors[t].name, sqrt(difference) / scale);
    }
    pair_list_free(&list);
}

START_TEST(story_gradients_agree_with_autograd)
{
    const char *dir = shared_data(STORIES);
    if (!dir)
        return;
    struct model *m = NULL;
    json_t *golden = load_golden("stories-gradients.json"), *row;
    size_t i;
    ck_ok(model_open(cpu, dir, &m, err));
    json_array_foreach(json_object_get(golden, "cases"), i, row)
    {
        struct spin_step_config c =
            config_of(SPIN_LOSS_LOGISTIC, json_num(golden, "beta"), json_num(golden, "tau"));
        check_story_case(m, row, c, (size_t)json_num(golden, "samples"));
        c.unshared_prompts = true;
        c.micro_rows = 90;
        check_story_case(m, row, c, (size_t)json_num(golden, "samples"));
    }
    ck_assert_uint_eq(i, 10);
    json_decref(golden);
    model_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("step_golden");
    TCase *t = tcase_create("step_golden");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, tiny_gradients_agree_with_autograd);
    tcase_add_test(t, story_gradients_agree_with_autograd);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

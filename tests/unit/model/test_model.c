#include "common/model/model.h"

#include <sys/stat.h>
#include <unistd.h>

#include "common/base/half.h"
#include "common/checkpoint/hf_dir.h"
#include "tests/unit/model/fixtures.h"

static struct tn_backend *cpu;
static char scratch[256];

static void setup(void)
{
    cpu = open_cpu(1);
    snprintf(scratch, sizeof(scratch), "/tmp/spin-model-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(scratch));
}

static void teardown(void)
{
    struct sp_error err;
    ck_assert_int_eq(sp_remove_tree(scratch, &err), SP_OK);
    tn_close(cpu);
}

static const char *in_scratch(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", scratch, name);
    return path;
}

static void same_weights(struct model *a, struct model *b, enum tn_dtype dtype)
{
    size_t n, m;
    const float *x = model_params(a, &n), *y = model_params(b, &m);
    ck_assert_uint_eq(n, m);
    for (size_t i = 0; i < n; i++) {
        float e = dtype == TN_BF16  ? sp_bf16_to_f32(sp_f32_to_bf16(x[i]))
                  : dtype == TN_F16 ? sp_f16_to_f32(sp_f32_to_f16(x[i]))
                                    : x[i];
        ck_assert(memcmp(&e, &y[i], sizeof(e)) == 0);
    }
}

START_TEST(saves_and_opens_in_every_dtype)
{
    static const enum tn_dtype dtypes[] = {TN_F32, TN_BF16, TN_F16};
    for (int k = 0; k < 6; k++) {
        struct model_config config = odd_config(k >= 3);
        struct model *m = NULL, *back = NULL;
        char name[16];
        snprintf(name, sizeof(name), "m%d", k);
        ck_ok(model_new(cpu, &config, 5, &m, err));
        ck_ok(model_save(m, in_scratch(name), dtypes[k % 3], NULL, err));
        ck_ok(model_open(cpu, in_scratch(name), &back, err));
        same_weights(m, back, dtypes[k % 3]);
        ck_assert_int_eq(model_get_config(back)->dtype, dtypes[k % 3]);
        ck_assert_int_eq(model_get_config(back)->eos_ids[0], 2);
        ck_fails(SP_EEXIST, name, model_save(m, in_scratch(name), TN_F32, NULL, err));
        model_free(m);
        model_free(back);
    }
}
END_TEST

START_TEST(keeps_the_files_of_its_template)
{
    struct model *m = open_golden(cpu, "tiny-llama"), *back = NULL;
    char *text = NULL;
    size_t length;
    ck_ok(model_save(m, in_scratch("copy"), TN_F32, GOLDEN "tiny-llama", err));
    ck_ok(model_open(cpu, in_scratch("copy"), &back, err));
    same_weights(m, back, TN_F32);
    ck_ok(sp_read_file(in_scratch("copy/generation_config.json"), 1 << 20, &text, &length, err));
    free(text);
    ck_ok(sp_read_file(in_scratch("copy/config.json"), 1 << 20, &text, &length, err));
    ck_assert_ptr_nonnull(strstr(text, "rope_parameters"));
    free(text);
    model_free(m);
    model_free(back);
}
END_TEST

START_TEST(opens_a_tied_model_that_stores_the_output_matrix)
{
    const char *dir = shared_data(STORIES);
    if (!dir)
        return;
    struct model *m = NULL, *back = NULL;
    ck_ok(model_open(cpu, dir, &m, err));
    ck_assert_int_eq(model_get_config(m)->n_params, 656000);
    ck_ok(model_save(m, in_scratch("stories"), TN_F32, dir, err));
    ck_ok(model_open(cpu, in_scratch("stories"), &back, err));
    same_weights(m, back, TN_F32);
    model_free(m);
    model_free(back);
}
END_TEST

START_TEST(random_weights_are_a_function_of_the_seed)
{
    struct model_config config = odd_config(false);
    struct model *a = NULL, *b = NULL, *c = NULL;
    int32_t n_tensors;
    size_t n;
    config.vocab = 1000;
    config.init_std = 0.02;
    ck_ok(model_new(cpu, &config, 1, &a, err));
    ck_ok(model_new(cpu, &config, 1, &b, err));
    ck_ok(model_new(cpu, &config, 2, &c, err));
    const float *w = model_params(a, &n);
    ck_assert(memcmp(w, model_params(b, NULL), n * sizeof(float)) == 0);
    ck_assert(memcmp(w, model_params(c, NULL), n * sizeof(float)) != 0);
    const struct model_tensor *tensors = model_tensors(a, &n_tensors);
    ck_assert_int_eq(n_tensors, 3 * 9 + 3);
    for (int32_t t = 0; t < n_tensors; t++) {
        size_t count = (size_t)tensors[t].rows * (size_t)SP_MAX(tensors[t].cols, 1);
        double sum = 0, squares = 0, fourth = 0;
        for (size_t i = 0; i < count; i++) {
            double x = (double)w[tensors[t].offset + i] / 0.02;
            if (tensors[t].cols == 0)
                ck_assert(w[tensors[t].offset + i] == 1);
            sum += x;
            squares += x * x;
            fourth += x * x * x * x;
        }
        if (tensors[t].cols == 0)
            continue;
        /* Mean, variance and fourth moment of N(0, 1), five standard errors wide. */
        double k = (double)count;
        ck_assert_msg(fabs(sum / k) < 5 / sqrt(k), "%s", tensors[t].name);
        ck_assert_msg(fabs(squares / k - 1) < 5 * sqrt(2 / k), "%s", tensors[t].name);
        ck_assert_msg(fabs(fourth / k - 3) < 5 * sqrt(96 / k), "%s", tensors[t].name);
    }
    ck_assert_ptr_null(model_find_tensor(a, "model.layers.3.mlp.up_proj.weight"));
    ck_assert_ptr_nonnull(model_find_tensor(a, "lm_head.weight"));
    ck_assert_ptr_null(model_grads(a));
    ck_ok(model_enable_grads(a, err));
    ck_assert(((float *)model_grads(a))[n - 1] == 0);
    model_free(a);
    model_free(b);
    model_free(c);
}
END_TEST

/* Writes tensors of a good model with changes, and expects the message. */
struct change {
    const char *drop, *add, *nan, *reshape;
};

static void save_changed(struct model *m, const char *dir, struct change change)
{
    int32_t n, k = 0;
    const struct model_tensor *tensors = model_tensors(m, &n);
    struct ckpt_array *arrays = sp_xarray((size_t)n + 1, sizeof(*arrays));
    float *w = model_params(m, NULL);
    for (int32_t t = 0; t < n; t++) {
        if (change.drop && strcmp(tensors[t].name, change.drop) == 0)
            continue;
        if (change.nan && strcmp(tensors[t].name, change.nan) == 0)
            w[tensors[t].offset + 3] = -INFINITY;
        arrays[k] = (struct ckpt_array){.name = tensors[t].name,
                                        .dims = tensors[t].cols ? 2 : 1,
                                        .shape = {tensors[t].rows, tensors[t].cols},
                                        .data = w + tensors[t].offset};
        if (change.reshape && strcmp(tensors[t].name, change.reshape) == 0) {
            arrays[k].shape[0] = tensors[t].cols;
            arrays[k].shape[1] = tensors[t].rows;
        }
        k++;
    }
    if (change.add)
        arrays[k++] = (struct ckpt_array){.name = change.add, .dims = 1, .shape = {20}, .data = w};
    json_t *json = model_config_to_json(model_get_config(m));
    char *text = json_dumps(json, 0);
    struct ckpt_save_options options = {.config_json = text};
    ck_ok(ckpt_save(dir, arrays, (size_t)k, &options, err));
    free(text);
    json_decref(json);
    free(arrays);
}

START_TEST(bad_checkpoints_are_refused)
{
    static const struct {
        struct change change;
        const char *part;
    } rows[] = {
        {{.drop = "model.norm.weight", .add = "extra.bias"}, "extra.bias"},
        {{.drop = "model.norm.weight", .add = "model.rotary_emb.inv_freq"},
         "tensor model.norm.weight"},
        {{.drop = "lm_head.weight"},
         "tensor lm_head.weight: not there, and its config.json asks for it; set tie_word"},
        {{.drop = "model.layers.2.mlp.up_proj.weight"},
         "tensor model.layers.2.mlp.up_proj.weight: not there"},
        {{.nan = "model.layers.1.mlp.up_proj.weight"}, "up_proj.weight: element 3 is not finite"},
        {{.reshape = "model.layers.0.mlp.up_proj.weight"}, "up_proj.weight"},
        {{.add = "model.layers.0.self_attn.q_proj.bias"}, "q_proj.bias"},
        {{.add = "model.layers.3.input_layernorm.weight"}, "layers.3"},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        struct model_config config = odd_config(false);
        struct model *m = NULL, *back = NULL;
        char name[16];
        config.n_params = 0;
        snprintf(name, sizeof(name), "bad%zu", i);
        ck_ok(model_new(cpu, &config, 5, &m, err));
        save_changed(m, in_scratch(name), rows[i].change);
        struct sp_error detail = {0};
        enum sp_err rc = model_open(cpu, in_scratch(name), &back, &detail);
        ck_assert_msg(rc == SP_EFORMAT || rc == SP_EUNSUPPORTED || rc == SP_ENOTFOUND, "%s: %s",
                      name, sp_err_name(rc));
        ck_assert_msg(strstr(detail.text, rows[i].part), "%s: \"%s\" lacks \"%s\"", name,
                      detail.text, rows[i].part);
        ck_assert_ptr_null(back);
        model_free(m);
    }
    struct model *none = NULL;
    ck_fails(SP_ENOTFOUND, "config.json", model_open(cpu, in_scratch("nothing"), &none, err));
    ck_assert_ptr_null(none);
}
END_TEST

/* Beside the one file of a saved model, a second shard with an output matrix. */
static void add_head(const char *dir, const struct model *m, const float *head,
                     enum ckpt_dtype dtype)
{
    int32_t n;
    const struct model_tensor *tensors = model_tensors(m, &n);
    const struct model_config *c = model_get_config(m);
    struct ckpt_array array = {
        .name = "lm_head.weight", .dims = 2, .shape = {c->vocab, c->hidden}, .data = head};
    json_t *map = json_pack("{s:s}", array.name, "b.safetensors");
    for (int32_t t = 0; t < n; t++)
        json_object_set_new(map, tensors[t].name, json_string("a.safetensors"));
    json_t *index = json_pack("{s:o}", "weight_map", map);
    char *one = sp_path_join(dir, "model.safetensors"), *a = sp_path_join(dir, "a.safetensors");
    char *b = sp_path_join(dir, "b.safetensors");
    char *path = sp_path_join(dir, "model.safetensors.index.json");
    ck_assert_int_eq(rename(one, a), 0);
    ck_ok(ckpt_st_write(b, &array, 1, dtype, NULL, 0, err));
    ck_assert_int_eq(json_dump_file(index, path, 0), 0);
    json_decref(index);
    free(one);
    free(a);
    free(b);
    free(path);
}

/* A tied table that is stored twice: as the same numbers, also in another type, or refused. */
START_TEST(a_head_beside_a_tied_table_is_the_table)
{
    enum ckpt_dtype dtype = _i < 2 ? CKPT_F32 : CKPT_BF16;
    struct model_config config = odd_config(true);
    struct model *m = NULL, *back = NULL;
    size_t count = (size_t)config.vocab * (size_t)config.hidden;
    float *head = sp_xarray(count, sizeof(*head));
    ck_ok(model_new(cpu, &config, 5, &m, err));
    float *table =
        (float *)model_params(m, NULL) + model_find_tensor(m, "model.embed_tokens.weight")->offset;
    for (size_t k = 0; k < count; k++) /* what BF16 holds */
        head[k] = table[k] = sp_bf16_to_f32(sp_f32_to_bf16(table[k]));
    ck_ok(model_save(m, in_scratch("twice"), TN_F32, NULL, err));
    if (_i % 2)
        head[count - 1] += 1;
    add_head(in_scratch("twice"), m, head, dtype);
    if (_i % 2) {
        ck_fails(SP_EFORMAT, "tensor lm_head.weight: not the same as model.embed_tokens.weight",
                 model_open(cpu, in_scratch("twice"), &back, err));
    } else {
        ck_ok(model_open(cpu, in_scratch("twice"), &back, err));
        same_weights(m, back, TN_F32);
    }
    free(head);
    model_free(m);
    model_free(back);
}
END_TEST

START_TEST(ruined_weights_are_not_saved)
{
    struct model_config config = odd_config(true);
    struct model *m = NULL;
    ck_ok(model_new(cpu, &config, 5, &m, err));
    float *x = (float *)model_params(m, NULL) + model_find_tensor(m, "model.norm.weight")->offset;
    x[1] = 70000;
    ck_fails(SP_ENUMERIC, "model.norm.weight: element 1",
             model_save(m, in_scratch("f16"), TN_F16, NULL, err));
    ck_ok(model_save(m, in_scratch("bf16"), TN_BF16, NULL, err));
    x[1] = NAN;
    ck_fails(SP_ENUMERIC, "element 1", model_save(m, in_scratch("f32"), TN_F32, NULL, err));
    ck_assert(!sp_path_exists(in_scratch("f16")) && !sp_path_exists(in_scratch("f32")));
    model_free(m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("model");
    TCase *t = tcase_create("model");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, saves_and_opens_in_every_dtype);
    tcase_add_test(t, keeps_the_files_of_its_template);
    tcase_add_test(t, opens_a_tied_model_that_stores_the_output_matrix);
    tcase_add_test(t, random_weights_are_a_function_of_the_seed);
    tcase_add_test(t, bad_checkpoints_are_refused);
    tcase_add_loop_test(t, a_head_beside_a_tied_table_is_the_table, 0, 4);
    tcase_add_test(t, ruined_weights_are_not_saved);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

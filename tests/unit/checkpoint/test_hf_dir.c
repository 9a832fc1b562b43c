#include "common/checkpoint/hf_dir.h"

#include <math.h>
#include <sys/stat.h>

#include "common/base/hash.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;
static char *dir;

static void setup(void)
{
    dir = scratch_new();
}

static void teardown(void)
{
    scratch_free(dir);
}

static char *in(const char *name)
{
    return sp_path_join(dir, name);
}

static const float numbers[] = {1, 2, 3, 4, 5, 6, 7, 8, -0.1f, 1e-30f, 1e30f, 12};
static const struct ckpt_array arrays[] = {
    {.name = "model.embed_tokens.weight", .dims = 2, .shape = {4, 3}, .data = numbers},
    {.name = "model.norm.weight", .dims = 1, .shape = {3}, .data = numbers + 8},
    {.name = "model.layers.0.w", .dims = 2, .shape = {2, 2}, .data = numbers + 4},
};

static void save_and_compare(const char *name, const struct ckpt_save_options *options,
                             size_t shards)
{
    char *path = in(name);
    float back[12];
    struct ckpt *ckpt;
    ck_ok(ckpt_save(path, arrays, 3, options, &error));
    ck_ok(ckpt_open(path, &ckpt, &error));
    ck_assert_str_eq(ckpt_dir(ckpt), path);
    ck_assert_uint_eq(ckpt_shards(ckpt), shards);
    ck_assert_uint_eq(ckpt_count(ckpt), 3);
    ck_assert_uint_eq(ckpt_parameters(ckpt), 19);
    ck_assert_uint_eq(ckpt_weight_bytes(ckpt), 19 * ckpt_dtype_bytes(options->dtype));
    for (size_t i = 0; i < 3; i++) {
        const struct ckpt_array *a = &arrays[i];
        const struct ckpt_tensor *t = ckpt_find(ckpt, a->name);
        ck_assert_ptr_nonnull(t);
        ck_ok(ckpt_read_f32(ckpt, a->name, a->dims, a->shape, back, &error));
        for (size_t k = 0; k < t->count; k++) {
            double scale = options->dtype == CKPT_F32    ? 0
                           : options->dtype == CKPT_BF16 ? 0x1p-8
                                                         : 0x1p-11;
            if (options->dtype == CKPT_F16 && fabsf(a->data[k]) > 65504)
                ck_assert(isinf(back[k]));
            else
                ck_assert(fabs((double)back[k] - (double)a->data[k]) <=
                          scale * fabs((double)a->data[k]) + (scale > 0 ? 1e-8 : 0));
        }
    }
    ckpt_close(ckpt);
    free(path);
}

START_TEST(test_save_open)
{
    static const enum ckpt_dtype dtypes[] = {CKPT_F32, CKPT_F16, CKPT_BF16};
    for (size_t i = 0; i < SP_COUNT(dtypes); i++) {
        char name[32];
        snprintf(name, sizeof(name), "one-%zu/", i);
        save_and_compare(name, &(struct ckpt_save_options){.dtype = dtypes[i]}, 1);
        snprintf(name, sizeof(name), "many-%zu", i);
        save_and_compare(name,
                         &(struct ckpt_save_options){
                             .dtype = dtypes[i], .shard_bytes = 6 * ckpt_dtype_bytes(dtypes[i])},
                         3);
    }
    char *text = get_text(dir, "many-0/model.safetensors.index.json");
    ck_assert_ptr_nonnull(strstr(text, "\"total_size\": 76"));
    ck_assert_ptr_nonnull(
        strstr(text, "\"model.norm.weight\": \"model-00003-of-00003.safetensors\""));
    free(text);
}
END_TEST

START_TEST(test_save_is_atomic_and_final)
{
    struct ckpt_save_options options = {.template_dir = dir};
    char *path = in("out"), *file = in("out/x");
    ck_ok(sp_mkdir_p(path, 0777, &error));
    ck_ok(ckpt_save(path, arrays, 3, &options, &error)); /* an empty directory is replaced */
    ck_fails(ckpt_save(path, arrays, 3, &options, &error), SP_EEXIST, "exists already");
    free(path);
    path = in("bad");
    struct ckpt_array wrong[] = {arrays[0], arrays[0]};
    ck_fails(ckpt_save(path, wrong, 2, &options, &error), SP_EINVAL, "save checkpoint");
    ck_assert(!sp_path_exists(path));
    put_text(dir, "config.json", "{ broken");
    ck_fails(ckpt_save(path, arrays, 3, &options, &error), SP_EFORMAT, "config.json");
    ck_assert(!sp_path_exists(path));
    /* Nothing temporary is left over. */
    char *command = sp_xprintf("ls %s | grep -q tmp", dir);
    ck_assert_int_ne(system(command), 0);
    free(command);
    free(file);
    free(path);
}
END_TEST

START_TEST(test_side_files)
{
    char *from = in("from"), *path = in("to"), *other = in("again"), *third = in("third");
    ck_ok(sp_mkdir_p(from, 0777, &error));
    put_text(from, "config.json",
             "{\"torch_dtype\":\"bfloat16\",\"rms_norm_eps\":1e-06,\"hidden_size\":3}");
    put_text(from, "tokenizer.json", "{}");
    put_text(from, "chat_template.jinja", "x");
    put_text(from, "README.md", "not part of it");
    struct ckpt_save_options options = {.dtype = CKPT_BF16, .template_dir = from};
    ck_ok(ckpt_save(path, arrays, 3, &options, &error));
    char *text = get_text(path, "config.json"), *before = get_text(from, "config.json");
    ck_assert_str_eq(text, before); /* nothing to change, so not a byte changes */
    free(text);
    free(before);
    options.dtype = CKPT_F32;
    ck_ok(ckpt_save(other, arrays, 3, &options, &error));
    text = get_text(other, "config.json");
    ck_assert_str_eq(text, "{\n  \"hidden_size\": 3,\n  \"rms_norm_eps\": 1e-6,\n"
                           "  \"torch_dtype\": \"float32\"\n}\n");
    free(text);
    options.config_json = "{\"dtype\": \"float32\"}";
    ck_ok(ckpt_save(third, arrays, 3, &options, &error));
    text = get_text(third, "config.json");
    ck_assert_str_eq(text, "{\"dtype\": \"float32\"}");
    free(text);

    char **files;
    ck_ok(ckpt_file_list(path, true, &files, &error));
    static const char *const want[] = {"chat_template.jinja", "config.json", "model.safetensors",
                                       "tokenizer.json"};
    for (size_t i = 0; i < 4; i++)
        ck_assert_str_eq(files[i], want[i]);
    ck_assert_ptr_null(files[4]);
    ckpt_file_list_free(files);
    ck_ok(ckpt_file_list(path, false, &files, &error));
    ck_assert_str_eq(files[2], "tokenizer.json");
    ckpt_file_list_free(files);
    ck_fails(ckpt_file_list(from, true, &files, &error), SP_ENOTFOUND, "model.safetensors");
    free(from);
    free(path);
    free(other);
    free(third);
}
END_TEST

/* "a": "b" in the metadata finds the stored one by either name, whichever it is. */
START_TEST(test_aliases)
{
    static const struct ckpt_meta ways[2] = {
        {"lm_head.weight", "model.embed_tokens.weight"},
        {"model.embed_tokens.weight", "lm_head.weight"},
    };
    for (size_t i = 0; i < 2; i++) {
        struct ckpt_save_options options = {.meta = &ways[i], .meta_count = 1};
        char name[8];
        snprintf(name, sizeof(name), "%zu", i);
        char *path = in(name);
        ck_ok(ckpt_save(path, arrays, 3, &options, &error));
        struct ckpt *ckpt;
        ck_ok(ckpt_open(path, &ckpt, &error));
        ck_assert_uint_eq(ckpt_count(ckpt), 3);
        ck_assert_ptr_nonnull(ckpt_find(ckpt, "lm_head.weight"));
        ck_assert_ptr_eq(ckpt_find(ckpt, "lm_head.weight"),
                         ckpt_find(ckpt, "model.embed_tokens.weight"));
        ck_assert_ptr_null(ckpt_find(ckpt, "format"));
        ckpt_close(ckpt);
        free(path);
    }
}
END_TEST

START_TEST(test_read_refuses)
{
    char *path = in("c");
    float back[12];
    struct ckpt *ckpt;
    ck_ok(ckpt_save(path, arrays, 3, &(struct ckpt_save_options){0}, &error));
    ck_ok(ckpt_open(path, &ckpt, &error));
    ck_fails(ckpt_read_f32(ckpt, "model.norm.weight", 1, (int64_t[]){5}, back, &error), SP_EFORMAT,
             "tensor model.norm.weight: shape [3], expected [5]");
    ck_fails(ckpt_read_f32(ckpt, "model.norm.weight", 2, (int64_t[]){3, 1}, back, &error),
             SP_EFORMAT, "shape [3], expected [3, 1]");
    ck_fails(ckpt_read_f32(ckpt, "nope", 1, (int64_t[]){5}, back, &error), SP_ENOTFOUND,
             "tensor nope: not there");
    struct ckpt_tensor integers = {.name = "i", .dtype = CKPT_I64};
    ck_fails(ckpt_tensor_to_f32(&integers, back, &error), SP_EUNSUPPORTED, "I64");
    ckpt_close(ckpt);
    free(path);
}
END_TEST

START_TEST(test_unaligned_and_f64)
{
    uint8_t raw[1 + 3 * 8];
    const double wide[3] = {1.5, -2.25, 1e300};
    const uint16_t narrow[3] = {0x3f80, 0xc000, 0x7f80};
    float back[3];
    memcpy(raw + 1, wide, sizeof(wide));
    struct ckpt_tensor t = {
        .name = "t", .dtype = CKPT_F64, .count = 3, .bytes = 24, .data = raw + 1};
    ck_ok(ckpt_tensor_to_f32(&t, back, &error));
    ck_assert(back[0] == 1.5f && back[1] == -2.25f && isinf(back[2]));
    memcpy(raw + 1, narrow, sizeof(narrow));
    t.dtype = CKPT_BF16;
    t.bytes = 6;
    ck_ok(ckpt_tensor_to_f32(&t, back, &error));
    ck_assert(back[0] == 1.0f && back[1] == -2.0f && isinf(back[2]));
}
END_TEST

static const struct {
    const char *index;
    enum sp_err code;
    const char *part;
} bad_index[] = {
    {"", SP_EFORMAT, "not valid JSON"},
    {"{}", SP_EFORMAT, "\"weight_map\" is missing"},
    {"{\"weight_map\":[]}", SP_EFORMAT, "\"weight_map\" is missing or not an object"},
    {"{\"weight_map\":{}}", SP_EFORMAT, "is empty"},
    {"{\"weight_map\":{\"a\":1}}", SP_EFORMAT, "\"a\": not the name of a file"},
    {"{\"weight_map\":{\"a\":\"../x\"}}", SP_EFORMAT, "not the name of a file"},
    {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", SP_EFORMAT, "not the name of a file"},
    {"{\"weight_map\":{\"a\":\"sub/x\"}}", SP_EFORMAT, "not the name of a file"},
    {"{\"weight_map\":{\"a\":\"missing.safetensors\"}}", SP_ENOTFOUND,
     "missing.safetensors: not there, and model.safetensors.index.json names it"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", SP_EFORMAT, "tensor a is not in any shard"},
    {"{\"weight_map\":{\"w\":\"one.safetensors\",\"v\":\"two.safetensors\"}}", SP_EFORMAT,
     "tensor w: stored in two shards"},
};

START_TEST(test_malformed_index)
{
    static const float one = 1;
    struct ckpt_array w = {.name = "w", .data = &one};
    char *a = in("one.safetensors"), *b = in("two.safetensors");
    ck_ok(ckpt_st_write(a, &w, 1, CKPT_F32, NULL, 0, &error));
    ck_ok(ckpt_st_write(b, &w, 1, CKPT_F32, NULL, 0, &error));
    put_text(dir, "model.safetensors.index.json", bad_index[_i].index);
    struct ckpt *ckpt;
    ck_fails(ckpt_open(dir, &ckpt, &error), bad_index[_i].code, bad_index[_i].part);
    ck_assert_int_eq(strncmp(error.text, "checkpoint ", 11), 0);
    free(a);
    free(b);
}
END_TEST

START_TEST(test_no_weights)
{
    struct ckpt *ckpt;
    ck_fails(ckpt_open("/no/such", &ckpt, &error), SP_ENOTFOUND, "no such directory");
    ck_fails(ckpt_open(dir, &ckpt, &error), SP_ENOTFOUND, "neither model.safetensors");
    put_text(dir, "adapter_model.safetensors", "");
    ck_fails(ckpt_open(dir, &ckpt, &error), SP_EUNSUPPORTED, "merge_and_unload");
    put_text(dir, "pytorch_model.bin", "");
    ck_fails(ckpt_open(dir, &ckpt, &error), SP_EUNSUPPORTED, "safe_serialization");
    put_text(dir, "model.safetensors",
             "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 536223056\n");
    ck_fails(ckpt_open(dir, &ckpt, &error), SP_EFORMAT, "git lfs pull");
    put_text(dir, "model.safetensors", "version of something else");
    ck_fails(ckpt_open(dir, &ckpt, &error), SP_ELIMIT, "not a safetensors file?");
}
END_TEST

START_TEST(test_real_model)
{
    const char *path = shared_data("models/TinyStories-656K-hf");
    if (path == NULL)
        return;
    struct ckpt *ckpt;
    ck_ok(ckpt_open(path, &ckpt, &error));
    ck_assert_uint_eq(ckpt_parameters(ckpt), 656000);
    const struct ckpt_tensor *head = ckpt_find(ckpt, "lm_head.weight");
    ck_assert_ptr_nonnull(head);
    ck_assert_ptr_eq(ckpt_find(ckpt, "model.embed_tokens.weight"), head);
    float *norm = sp_xarray(128, sizeof(*norm));
    ck_ok(ckpt_read_f32(ckpt, "model.norm.weight", 1, (int64_t[]){128}, norm, &error));
    ck_assert_mem_eq(norm, ckpt_find(ckpt, "model.norm.weight")->data, 512);
    free(norm);
    ckpt_close(ckpt);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("hf_dir");
    TCase *t = tcase_create("hf_dir");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_save_open);
    tcase_add_test(t, test_save_is_atomic_and_final);
    tcase_add_test(t, test_side_files);
    tcase_add_test(t, test_aliases);
    tcase_add_test(t, test_read_refuses);
    tcase_add_test(t, test_unaligned_and_f64);
    tcase_add_loop_test(t, test_malformed_index, 0, (int)SP_COUNT(bad_index));
    tcase_add_test(t, test_no_weights);
    tcase_add_test(t, test_real_model);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

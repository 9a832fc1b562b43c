/* gguf: what is written reads back, the same each time, and whole or not at all. */
#include "common/checkpoint/gguf.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;
static char *dir, *path;
static float numbers[3 * 64];

static void setup(void)
{
    dir = scratch_new();
    path = sp_path_join(dir, "out.gguf");
    for (size_t i = 0; i < SP_COUNT(numbers); i++)
        numbers[i] = (float)(int)(i % 31) - 15;
    numbers[0] = 127;
    numbers[32] = numbers[64] = numbers[96] = numbers[128] = numbers[160] = -127;
}

static void teardown(void)
{
    free(path);
    scratch_free(dir);
}

static enum sp_err fill(void *context, const struct ckpt_array *array, float *to,
                        struct sp_error *err)
{
    if (context == NULL)
        return sp_fail(err, SP_ENUMERIC, "as told");
    memcpy(to, context, sizeof(numbers));
    return SP_OK;
}

static void put_metadata(struct ckpt_gguf_meta *meta)
{
    static const struct ckpt_gguf_text texts[] = {{"one", 3}, {"", 0}, {"三", 3}};
    static const int32_t ints[] = {3, -1};
    static const float reals[] = {0.1f, -2};
    ckpt_gguf_put_text(meta, "general.architecture", "llama");
    ckpt_gguf_put_u32(meta, "a.u32", UINT32_MAX);
    ckpt_gguf_put_f32(meta, "a.f32", 0.1f);
    ckpt_gguf_put_bool(meta, "a.bool", true);
    ckpt_gguf_put_texts(meta, "a.texts", texts, SP_COUNT(texts));
    ckpt_gguf_put_i32s(meta, "a.ints", ints, SP_COUNT(ints));
    ckpt_gguf_put_f32s(meta, "a.reals", reals, SP_COUNT(reals));
}

static const struct ckpt_array arrays[] = {
    {.name = "z", .dims = 2, .shape = {3, 64}, .data = numbers},
    {.name = "scale", .dims = 1, .shape = {5}, .data = numbers},
    {.name = "half", .dims = 2, .shape = {3, 64}, .fill = fill, .fill_context = numbers},
    {.name = "brain", .dims = 3, .shape = {3, 2, 32}, .data = numbers},
    {.name = "quant", .dims = 2, .shape = {6, 32}, .fill = fill, .fill_context = numbers},
};
static const enum ckpt_gguf_type types[] = {CKPT_GGUF_F32, CKPT_GGUF_F32, CKPT_GGUF_F16,
                                            CKPT_GGUF_BF16, CKPT_GGUF_Q8_0};

static void write_it(const char *to)
{
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    put_metadata(&meta);
    ck_ok(ckpt_gguf_write(to, &meta, arrays, types, SP_COUNT(arrays), &error));
    ckpt_gguf_meta_deinit(&meta);
}

START_TEST(test_round_trip)
{
    write_it(path);
    struct ckpt_gguf *gguf;
    ck_ok(ckpt_gguf_open(path, &gguf, &error));
    ck_assert_uint_eq(ckpt_gguf_count(gguf), SP_COUNT(arrays));
    for (size_t i = 0; i < SP_COUNT(arrays); i++) {
        const struct ckpt_gguf_tensor *t = ckpt_gguf_find(gguf, arrays[i].name);
        ck_assert_ptr_nonnull(t);
        ck_assert_int_eq(t->type, types[i]);
        ck_assert_int_eq(t->dims, arrays[i].dims);
        for (int32_t d = 0; d < t->dims; d++)
            ck_assert_int_eq(t->shape[d], arrays[i].shape[d]);
        float *have = sp_xarray(t->count, sizeof(*have));
        ckpt_gguf_to_f32(t->type, t->data, t->count / ckpt_gguf_block_elements(t->type), have);
        /* Small whole numbers are exact in every type, with a scale of 1 in Q8_0 too. */
        for (size_t k = 0; k < t->count; k++)
            ck_assert_msg(have[k] == numbers[k], "%s[%zu]: %g, not %g", t->name, k, have[k],
                          numbers[k]);
        free(have);
    }
    struct ckpt_gguf_text *texts;
    size_t count;
    ck_ok(ckpt_gguf_texts(gguf, "a.texts", &texts, &count, &error));
    ck_assert(count == 3 && texts[2].length == 3 && memcmp(texts[2].data, "三", 3) == 0);
    free(texts);
    int64_t *ints, value;
    ck_ok(ckpt_gguf_ints(gguf, "a.ints", &ints, &count, &error));
    ck_assert(count == 2 && ints[0] == 3 && ints[1] == -1);
    free(ints);
    double *reals;
    ck_ok(ckpt_gguf_reals(gguf, "a.reals", &reals, &count, &error));
    ck_assert(count == 2 && reals[0] == (double)0.1f && reals[1] == -2);
    free(reals);
    ck_ok(ckpt_gguf_i64(gguf, "a.u32", 0, UINT32_MAX, &value, &error));
    ck_assert_int_eq(value, UINT32_MAX);
    ckpt_gguf_close(gguf);
}
END_TEST

START_TEST(test_same_input_same_bytes)
{
    char *other = sp_path_join(dir, "other.gguf"), *a, *b;
    size_t a_length, b_length;
    write_it(path);
    write_it(other);
    ck_ok(sp_read_file(path, 1 << 20, &a, &a_length, &error));
    ck_ok(sp_read_file(other, 1 << 20, &b, &b_length, &error));
    ck_assert_uint_eq(a_length, b_length);
    ck_assert_uint_eq(a_length % 32, 0);
    ck_assert_int_eq(memcmp(a, b, a_length), 0);
    free(a);
    free(b);
    free(other);
}
END_TEST

START_TEST(test_refused)
{
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    struct ckpt_array bad = {.name = "t", .dims = 2, .shape = {2, 48}, .data = numbers};
    enum ckpt_gguf_type q8 = CKPT_GGUF_Q8_0, f32 = CKPT_GGUF_F32;
    ck_fails(ckpt_gguf_write(path, &meta, &bad, &q8, 1, &error), SP_EINVAL,
             "tensor t: rows of 48 elements");
    bad = (struct ckpt_array){.name = "t", .dims = 0, .data = numbers};
    ck_fails(ckpt_gguf_write(path, &meta, &bad, &f32, 1, &error), SP_EUNSUPPORTED, "tensor t");
    bad = (struct ckpt_array){.name = "t", .dims = 1, .shape = {4}, .fill = fill};
    ck_fails(ckpt_gguf_write(path, &meta, &bad, &f32, 1, &error), SP_ENUMERIC, "tensor t: as told");
    ck_fails(ckpt_gguf_write("/no/such/place.gguf", &meta, NULL, NULL, 0, &error), SP_ENOTFOUND,
             "/no/such/place.gguf");
    ck_assert(!sp_path_exists(path));
    char *list = sp_xprintf("test -z \"$(ls -A %s)\"", dir);
    ck_assert_int_eq(system(list), 0);
    free(list);
    put_text(dir, "out.gguf", "mine");
    ck_fails(ckpt_gguf_write(path, &meta, NULL, NULL, 0, &error), SP_EEXIST, "out.gguf");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("gguf_write");
    TCase *c = tcase_create("write");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_round_trip);
    tcase_add_test(c, test_same_input_same_bytes);
    tcase_add_test(c, test_refused);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

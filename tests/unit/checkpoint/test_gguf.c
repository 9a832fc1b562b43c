/* gguf: what a file of llama.cpp's own package says, and its numbers bit for bit. */
#include "common/checkpoint/gguf.h"
#include "tests/unit/checkpoint/scratch.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/gguf/"

static struct sp_error error;

static struct ckpt_gguf *open_types(void)
{
    struct ckpt_gguf *gguf;
    ck_ok(ckpt_gguf_open(GOLDEN "types.gguf", &gguf, &error));
    return gguf;
}

static float *numbers(const struct ckpt_gguf_tensor *t)
{
    float *to = sp_xarray(t->count, sizeof(*to));
    ckpt_gguf_to_f32(t->type, t->data, t->count / ckpt_gguf_block_elements(t->type), to);
    return to;
}

START_TEST(test_every_type)
{
    static const char *const names[] = {"f32",  "f16",  "bf16", "q8_0", "q4_0", "q4_1", "q5_0",
                                        "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl"};
    struct ckpt_gguf *gguf = open_types();
    struct ckpt_st *st;
    ck_ok(ckpt_st_open(GOLDEN "types.safetensors", &st, &error));
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        const struct ckpt_gguf_tensor *t = ckpt_gguf_find(gguf, names[i]);
        const struct ckpt_tensor *want = ckpt_st_find(st, names[i]);
        ck_assert_msg(t != NULL && want != NULL, "%s", names[i]);
        ck_assert_int_eq(t->dims, want->dims);
        for (int32_t d = 0; d < t->dims; d++)
            ck_assert_int_eq(t->shape[d], want->shape[d]);
        ck_assert_int_eq(strcasecmp(ckpt_gguf_type_name(t->type), names[i]), 0);
        float *have = numbers(t);
        ck_assert_uint_eq(t->count * sizeof(*have), want->bytes);
        ck_assert_msg(memcmp(have, want->data, want->bytes) == 0, "%s: other bits", names[i]);
        free(have);
    }
    ckpt_st_close(st);
    ckpt_gguf_close(gguf);
}
END_TEST

START_TEST(test_types_that_are_written)
{
    static const struct {
        enum ckpt_gguf_type type;
        const char *in, *out;
    } rows[] = {{CKPT_GGUF_F16, "f16_in", "f16_out"},
                {CKPT_GGUF_BF16, "bf16_in", "bf16_out"},
                {CKPT_GGUF_Q8_0, "q8_0_in", "q8_0_out"}};
    struct ckpt_gguf *gguf = open_types();
    struct ckpt_st *st;
    ck_ok(ckpt_st_open(GOLDEN "types.safetensors", &st, &error));
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        const struct ckpt_tensor *in = ckpt_st_find(st, rows[i].in);
        const struct ckpt_gguf_tensor *out = ckpt_gguf_find(gguf, rows[i].out);
        ck_assert(in != NULL && out != NULL && out->type == rows[i].type);
        float *from = sp_xmemdup(in->data, in->bytes);
        uint8_t *to = sp_xalloc(out->bytes);
        ckpt_gguf_from_f32(out->type, from, in->count / ckpt_gguf_block_elements(out->type), to);
        ck_assert_msg(memcmp(to, out->data, out->bytes) == 0, "%s", rows[i].out);
        free(from);
        free(to);
    }
    ckpt_st_close(st);
    ckpt_gguf_close(gguf);
}
END_TEST

START_TEST(test_metadata)
{
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"a.u8", 255},        {"a.i8", -128},        {"a.u16", 65535},
                {"a.i16", -32768},    {"a.u32", UINT32_MAX}, {"a.i32", INT32_MIN},
                {"a.u64", INT64_MAX}, {"a.i64", INT64_MIN}};
    struct ckpt_gguf *gguf = open_types();
    for (size_t i = 0; i < SP_COUNT(ints); i++) {
        int64_t value;
        ck_ok(ckpt_gguf_i64(gguf, ints[i].key, INT64_MIN, INT64_MAX, &value, &error));
        ck_assert_int_eq(value, ints[i].value);
    }
    double real;
    ck_ok(ckpt_gguf_f64(gguf, "a.f32", &real, &error));
    ck_assert(real == (double)0.1f);
    ck_ok(ckpt_gguf_f64(gguf, "a.f64", &real, &error));
    ck_assert(real == 0.1);
    bool flag = false;
    ck_ok(ckpt_gguf_bool(gguf, "a.bool", &flag, &error));
    ck_assert(flag);
    struct ckpt_gguf_text text, *texts;
    ck_ok(ckpt_gguf_text(gguf, "a.string", &text, &error));
    ck_assert_uint_eq(text.length, 3);
    ck_assert_int_eq(memcmp(text.data, "\xc3\xa9\n", 3), 0);
    size_t count;
    ck_ok(ckpt_gguf_texts(gguf, "a.strings", &texts, &count, &error));
    ck_assert_uint_eq(count, 4);
    ck_assert_uint_eq(texts[0].length, 0);
    ck_assert_int_eq(memcmp(texts[3].data, "三", 3), 0);
    free(texts);
    int64_t *list;
    ck_ok(ckpt_gguf_ints(gguf, "a.ints", &list, &count, &error));
    ck_assert(count == 3 && list[0] == 1 && list[1] == -2 && list[2] == 3);
    free(list);
    double *reals;
    ck_ok(ckpt_gguf_reals(gguf, "a.reals", &reals, &count, &error));
    ck_assert(count == 2 && reals[0] == 0.5 && reals[1] == -0.25);
    free(reals);
    ckpt_gguf_close(gguf);
}
END_TEST

START_TEST(test_metadata_of_other_types)
{
    struct ckpt_gguf *gguf = open_types();
    int64_t value = 77, *list;
    double real;
    bool flag;
    size_t count;
    struct ckpt_gguf_text text, *texts;
    ck_fails(ckpt_gguf_i64(gguf, "no.key", 0, 9, &value, &error), SP_ENOTFOUND, "no.key");
    ck_ok(ckpt_gguf_opt_i64(gguf, "no.key", 0, 9, &value, &error));
    ck_fails(ckpt_gguf_i64(gguf, "a.f32", 0, 9, &value, &error), SP_EFORMAT, "type f32");
    ck_fails(ckpt_gguf_i64(gguf, "a.i8", 0, 9, &value, &error), SP_EFORMAT, "-128 is not between");
    ck_fails(ckpt_gguf_i64(gguf, "a.ints", 0, 9, &value, &error), SP_EFORMAT, "an array");
    ck_fails(ckpt_gguf_f64(gguf, "a.string", &real, &error), SP_EFORMAT, "type string");
    ck_fails(ckpt_gguf_bool(gguf, "a.u8", &flag, &error), SP_EFORMAT, "expected true or false");
    ck_fails(ckpt_gguf_text(gguf, "a.u8", &text, &error), SP_EFORMAT, "expected a string");
    ck_fails(ckpt_gguf_texts(gguf, "a.ints", &texts, &count, &error), SP_EFORMAT, "a.ints");
    ck_fails(ckpt_gguf_texts(gguf, "a.u8", &texts, &count, &error), SP_EFORMAT, "not an array");
    ck_fails(ckpt_gguf_ints(gguf, "a.strings", &list, &count, &error), SP_EFORMAT, "a.strings");
    ck_assert_int_eq(value, 77);
    ckpt_gguf_close(gguf);
}
END_TEST

START_TEST(test_version_2_and_a_missing_file)
{
    char *data;
    size_t length;
    struct ckpt_gguf *gguf;
    ck_ok(sp_read_file(GOLDEN "types.gguf", 1 << 20, &data, &length, &error));
    data[4] = 2;
    ck_ok(ckpt_gguf_open_memory((uint8_t *)data, length, "two", &gguf, &error));
    ck_assert_ptr_nonnull(ckpt_gguf_find(gguf, "q4_k"));
    ck_assert_ptr_null(ckpt_gguf_find(gguf, "q4_x"));
    ckpt_gguf_close(gguf);
    free(data);
    ck_fails(ckpt_gguf_open("/no/such.gguf", &gguf, &error), SP_ENOTFOUND, "/no/such.gguf");
    ckpt_gguf_close(NULL);
}
END_TEST

/* Wherever a file is cut, and whichever byte of its header changes, opening answers; what opens can
 * be read to the end. The sanitizers look on. */
START_TEST(test_every_cut_and_byte)
{
    char *data;
    size_t length;
    ck_ok(sp_read_file(GOLDEN "types.gguf", 1 << 20, &data, &length, &error));
    for (size_t cut = 0; cut < length; cut += cut < 3000 ? 1 : 997) {
        struct ckpt_gguf *gguf = NULL;
        uint8_t *part = sp_xmemdup(data, cut);
        ck_assert_msg(ckpt_gguf_open_memory(part, cut, "cut", &gguf, &error) != SP_OK, "at %zu",
                      cut);
        free(part);
    }
    size_t opened = 0;
    for (size_t at = 0; at < 1800; at++) {
        struct ckpt_gguf *gguf = NULL;
        uint8_t before = (uint8_t)data[at];
        data[at] = (char)(before ^ (1 << (at % 8)));
        if (ckpt_gguf_open_memory((uint8_t *)data, length, "flip", &gguf, &error) == SP_OK) {
            opened++;
            for (size_t i = 0; i < ckpt_gguf_count(gguf); i++)
                free(numbers(ckpt_gguf_at(gguf, i)));
            ckpt_gguf_close(gguf);
        }
        data[at] = (char)before;
    }
    ck_assert_uint_gt(opened, 0);
    free(data);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("gguf");
    TCase *c = tcase_create("gguf");
    tcase_add_test(c, test_every_type);
    tcase_add_test(c, test_types_that_are_written);
    tcase_add_test(c, test_metadata);
    tcase_add_test(c, test_metadata_of_other_types);
    tcase_add_test(c, test_version_2_and_a_missing_file);
    tcase_add_test(c, test_every_cut_and_byte);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

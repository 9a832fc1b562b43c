#include "common/checkpoint/safetensors.h"

#include <math.h>

#include "common/base/hash.h"
#include "common/base/rng.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;

/* Length prefix + header + `data_bytes` zero bytes, opened from memory. */
static enum sp_err open_header(const char *header, size_t data_bytes, struct ckpt_st **ret)
{
    size_t n = strlen(header);
    uint8_t *bytes = sp_xalloc(8 + n + data_bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(bytes + 8, header, n);
    enum sp_err rc = ckpt_st_open_memory(bytes, 8 + n + data_bytes, "test file", ret, &error);
    free(bytes);
    return rc;
}

#define T(dtype, shape, begin, end)                                                                \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static const struct {
    const char *header;
    size_t data_bytes;
    enum sp_err code;
    const char *part; /* of the message */
} bad[] = {
    {"", 0, SP_EFORMAT, "start with {"},
    {"[]", 0, SP_EFORMAT, "start with {"},
    {"{", 0, SP_EFORMAT, "not valid JSON"},
    {"{} x", 0, SP_EFORMAT, "not valid JSON"},
    {"{\"a\":1}", 0, SP_EFORMAT, "tensor a: its entry is not an object"},
    {"{\"a\":{}}", 0, SP_EFORMAT, "tensor a: \"dtype\" is missing"},
    {"{\"a\":" T("F31", "[1]", 0, 4) "}", 4, SP_EUNSUPPORTED, "unknown data type \"F31\""},
    {"{\"a\":" T("float32", "[1]", 0, 4) "}", 4, SP_EFORMAT, "unknown data type"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, SP_EFORMAT, "\"shape\" is missing"},
    {"{\"a\":" T("F32", "\"1\"", 0, 4) "}", 4, SP_EFORMAT, "\"shape\" is missing"},
    {"{\"a\":" T("F32", "[-1]", 0, 4) "}", 4, SP_EFORMAT, "\"shape\"[0]"},
    {"{\"a\":" T("F32", "[1.0]", 0, 4) "}", 4, SP_EFORMAT, "\"shape\"[0]"},
    {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, SP_ELIMIT, "9 dimensions"},
    {"{\"a\":" T("F32", "[4294967296,4294967296,2]", 0, 0) "}", 0, SP_EFORMAT, "overflows"},
    {"{\"a\":" T("F64", "[4611686018427387904]", 0, 0) "}", 0, SP_EFORMAT, "overflows"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, SP_EFORMAT, "\"data_offsets\" is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, SP_EFORMAT,
     "\"data_offsets\" is missing or not"},
    {"{\"a\":" T("F32", "[1]", -4, 0) "}", 4, SP_EFORMAT, "outside"},
    {"{\"a\":" T("F32", "[1]", 4, 0) "}", 4, SP_EFORMAT, "outside"},
    {"{\"a\":" T("F32", "[2]", 0, 8) "}", 4, SP_EFORMAT, "outside"},
    {"{\"a\":" T("F32", "[2]", 0, 4) "}", 4, SP_EFORMAT, "hold 4 bytes, shape and dtype ask for 8"},
    {"{\"a\":" T("F32", "[1]", 0, 99999999999999999999) "}", 4, SP_EFORMAT, "two whole numbers"},
    {"{\"a\":" T("F32", "[2]", 0, 8) ",\"b\":" T("F32", "[2]", 4, 12) "}", 12, SP_EFORMAT,
     "tensor b: overlaps tensor a"},
    {"{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 8, 12) "}", 12, SP_EFORMAT,
     "a hole of 4 bytes before tensor b"},
    {"{\"a\":" T("F32", "[1]", 4, 8) "}", 8, SP_EFORMAT, "a hole of 4 bytes before tensor a"},
    {"{\"a\":" T("F32", "[1]", 0, 4) "}", 8, SP_EFORMAT, "4 bytes after the last tensor"},
    {"{\"a\":" T("F32", "[1]", 0, 4) ",\"a\":" T("F32", "[1]", 4, 8) "}", 8, SP_EFORMAT,
     "not valid JSON"},
    {"{\"__metadata__\":[]}", 0, SP_EFORMAT, "\"__metadata__\" is not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, SP_EFORMAT, "\"a\" is not a string"},
    {"{\"\xff\":" T("F32", "[1]", 0, 4) "}", 4, SP_EFORMAT, "not valid JSON"},
    {"{\"a\\u0000b\":" T("F32", "[1]", 0, 4) "}", 4, SP_EFORMAT, "NUL (\\u0000), which is not"},
};

START_TEST(test_malformed)
{
    struct ckpt_st *st = (void *)&error;
    ck_fails(open_header(bad[_i].header, bad[_i].data_bytes, &st), bad[_i].code, bad[_i].part);
    ck_assert_ptr_eq(st, &error); /* the output is untouched */
    ck_assert_ptr_nonnull(strstr(error.text, "test file: "));
}
END_TEST

START_TEST(test_malformed_prefix)
{
    struct ckpt_st *st;
    static const uint8_t huge[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, '{', '}'};
    static const uint8_t past[16] = {9, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    ck_fails(ckpt_st_open_memory(huge, 0, "f", &st, &error), SP_EFORMAT, "too few");
    ck_fails(ckpt_st_open_memory(huge, 7, "f", &st, &error), SP_EFORMAT, "too few");
    ck_fails(ckpt_st_open_memory(huge, 16, "f", &st, &error), SP_ELIMIT, "the limit is");
    ck_fails(ckpt_st_open_memory(past, 16, "f", &st, &error), SP_EFORMAT, "header of 9 bytes");
    ck_fails(ckpt_st_open("/no/such/file", &st, &error), SP_ENOTFOUND, "/no/such/file");
    /* Nesting and sheer numbers are refused before the parser builds anything. */
    char *text = sp_xalloc(8 << 20);
    memset(text, '[', (8 << 20) - 1);
    text[0] = '{';
    ck_fails(open_header(text, 0, &st), SP_ELIMIT, "too many entries");
    text[200] = 0;
    ck_fails(open_header(text, 0, &st), SP_ELIMIT, "nested");
    free(text);
}
END_TEST

START_TEST(test_read)
{
    struct ckpt_st *st;
    ck_ok(
        open_header("{\"z\":" T("F32", "[]", 0, 4) ",\"a\":" T("BF16", "[2,3]", 4, 16) ",\"e\":" T(
                        "F32", "[0,7]", 4, 4) ",\"__metadata__\":{\"k\":\"v\",\"b\":\"c\"}}   ",
                    16, &st));
    ck_assert_uint_eq(ckpt_st_count(st), 3);
    ck_assert_str_eq(ckpt_st_at(st, 0)->name, "a");
    ck_assert_str_eq(ckpt_st_at(st, 1)->name, "e");
    ck_assert_str_eq(ckpt_st_at(st, 2)->name, "z");
    const struct ckpt_tensor *a = ckpt_st_find(st, "a"), *z = ckpt_st_find(st, "z");
    ck_assert_int_eq(a->dims, 2);
    ck_assert_int_eq(a->shape[1], 3);
    ck_assert_uint_eq(a->count, 6);
    ck_assert_uint_eq(a->bytes, 12);
    ck_assert_int_eq(z->dims, 0);
    ck_assert_uint_eq(z->count, 1);
    ck_assert_uint_eq(ckpt_st_find(st, "e")->count, 0);
    ck_assert_ptr_null(ckpt_st_find(st, "b"));
    ck_assert_uint_eq(ckpt_st_meta_count(st), 2);
    ck_assert_str_eq(ckpt_st_meta_at(st, 0).key, "b");
    ck_assert_str_eq(ckpt_st_meta(st, "k"), "v");
    ck_assert_ptr_null(ckpt_st_meta(st, "nothing"));
    ckpt_st_close(st);
    ckpt_st_close(NULL);
}
END_TEST

START_TEST(test_write_read)
{
    static const enum ckpt_dtype dtypes[] = {CKPT_F32, CKPT_F16, CKPT_BF16};
    static const float values[6] = {0.0f, -1.5f, 65504.0f, 0x1p-20f, 3.14159f, -INFINITY};
    char *dir = scratch_new();
    for (size_t d = 0; d < SP_COUNT(dtypes); d++) {
        struct ckpt_array arrays[] = {
            {.name = "w", .dims = 2, .shape = {2, 3}, .data = values},
            {.name = "b", .dims = 1, .shape = {1}, .data = values + 4},
            {.name = "none", .dims = 1, .shape = {0}, .data = NULL},
        };
        struct ckpt_meta meta[] = {{"format", "pt"}, {"alias", "w"}};
        char *path = sp_path_join(dir, ckpt_dtype_name(dtypes[d]));
        ck_ok(ckpt_st_write(path, arrays, 3, dtypes[d], meta, 2, &error));
        ck_fails(ckpt_st_write(path, arrays, 3, dtypes[d], meta, 2, &error), SP_EEXIST, path);
        struct ckpt_st *st;
        ck_ok(ckpt_st_open(path, &st, &error));
        ck_assert_uint_eq(ckpt_st_count(st), 3);
        const struct ckpt_tensor *w = ckpt_st_find(st, "w");
        ck_assert_int_eq(w->dtype, dtypes[d]);
        ck_assert_uint_eq(w->bytes, 6 * ckpt_dtype_bytes(dtypes[d]));
        ck_assert_str_eq(ckpt_st_meta(st, "alias"), "w");
        if (dtypes[d] == CKPT_F32)
            ck_assert_mem_eq(w->data, values, sizeof(values));
        /* The data of the first tensor starts aligned within the file. */
        ck_assert_uint_eq((uintptr_t)ckpt_st_find(st, "b")->data % 64, 0);
        ckpt_st_close(st);
        /* Another order of the same arrays gives the same bytes. */
        struct ckpt_array turned[] = {arrays[2], arrays[0], arrays[1]};
        char *other = sp_xprintf("%s.other", path);
        struct ckpt_meta turned_meta[] = {meta[1], meta[0]};
        ck_ok(ckpt_st_write(other, turned, 3, dtypes[d], turned_meta, 2, &error));
        struct sp_digest x, y;
        ck_ok(sp_sha256_file(path, &x, NULL, &error));
        ck_ok(sp_sha256_file(other, &y, NULL, &error));
        ck_assert(sp_digest_equal(&x, &y));
        free(other);
        free(path);
    }
    scratch_free(dir);
}
END_TEST

START_TEST(test_write_refuses)
{
    static const float value = 1;
    char *dir = scratch_new();
    char *path = sp_path_join(dir, "f");
    struct ckpt_array twice[] = {{.name = "w", .dims = 0, .data = &value},
                                 {.name = "w", .dims = 0, .data = &value}};
    struct ckpt_array negative = {.name = "w", .dims = 1, .shape = {-1}, .data = &value};
    struct ckpt_array deep = {.name = "w", .dims = 9, .data = &value};
    ck_fails(ckpt_st_write(path, twice, 2, CKPT_F32, NULL, 0, &error), SP_EINVAL, "given twice");
    ck_fails(ckpt_st_write(path, &negative, 1, CKPT_F32, NULL, 0, &error), SP_EINVAL, "bad shape");
    ck_fails(ckpt_st_write(path, &deep, 1, CKPT_F32, NULL, 0, &error), SP_EINVAL, "dimensions");
    ck_fails(ckpt_st_write(path, twice, 1, CKPT_I64, NULL, 0, &error), SP_EINVAL, "cannot store");
    ck_assert(!sp_path_exists(path));
    free(path);
    scratch_free(dir);
}
END_TEST

START_TEST(test_dtype_names)
{
    enum ckpt_dtype dtype;
    ck_ok(ckpt_dtype_parse("bfloat16", &dtype, &error));
    ck_assert_int_eq(dtype, CKPT_BF16);
    ck_ok(ckpt_dtype_parse("f16", &dtype, &error));
    ck_assert_int_eq(dtype, CKPT_F16);
    ck_fails(ckpt_dtype_parse("int4", &dtype, &error), SP_EUNSUPPORTED, "int4");
}
END_TEST

/* Whatever is done to a file's bytes, opening it answers, and what it accepts lies in the file. */
START_TEST(test_mutations)
{
    static const char header[] =
        "{\"__metadata__\":{\"a\":\"w\"},\"w\":" T("F32", "[2,3]", 0, 24) ",\"v\":" T(
            "BF16", "[4]", 24, 32) ",\"s\":" T("I64", "[]", 32, 40) "}";
    size_t n = strlen(header), length = 8 + n + 40;
    int accepted = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        uint8_t *bytes = sp_xalloc(length);
        bytes[0] = (uint8_t)n;
        memcpy(bytes + 8, header, n);
        uint32_t changes = 1 + (uint32_t)sp_rng_below(1, SP_STREAM_TEST, 0, round, 0, 0, 3);
        size_t cut = length;
        for (uint32_t c = 0; c < changes; c++) {
            uint32_t bits[4];
            sp_rng_draw(1, SP_STREAM_TEST, 0, round, 1, c, bits);
            static const char likely[] = "0123456789[]{},:\"-e.";
            size_t at = bits[0] % (8 + n);
            if (bits[1] % 4 == 0)
                bytes[at] ^= (uint8_t)(1u << bits[2] % 8);
            else
                bytes[at] = (uint8_t)likely[bits[2] % (sizeof(likely) - 1)];
            if (bits[3] % 16 == 0)
                cut = bits[2] % length;
        }
        uint8_t *exact = sp_xmemdup(bytes, cut);
        struct ckpt_st *st;
        if (ckpt_st_open_memory(exact, cut, "mutated", &st, &error) == SP_OK) {
            accepted++;
            for (size_t i = 0; i < ckpt_st_count(st); i++) {
                const struct ckpt_tensor *t = ckpt_st_at(st, i);
                ck_assert(t->data >= exact && t->bytes <= (size_t)(exact + cut - t->data));
                ck_assert_uint_eq(t->bytes, t->count * ckpt_dtype_bytes(t->dtype));
                ck_assert_ptr_eq(ckpt_st_find(st, t->name), t);
            }
            ckpt_st_close(st);
        }
        free(exact);
        free(bytes);
    }
    /* A changed letter of a name is fine; most changes are not. */
    ck_assert_int_gt(accepted, 100);
    ck_assert_int_lt(accepted, 10000);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("safetensors");
    TCase *t = tcase_create("safetensors");
    tcase_add_loop_test(t, test_malformed, 0, (int)SP_COUNT(bad));
    tcase_add_test(t, test_malformed_prefix);
    tcase_add_test(t, test_read);
    tcase_add_test(t, test_write_read);
    tcase_add_test(t, test_write_refuses);
    tcase_add_test(t, test_dtype_names);
    tcase_add_test(t, test_mutations);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

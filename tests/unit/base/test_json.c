#include "common/base/json.h"

#include <math.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "tests/unit/check_main.h"

static json_t *parse(const char *text)
{
    json_t *value = NULL;
    struct sp_error err = {0};
    enum sp_err rc = sp_json_parse(text, strlen(text), "config.json", &value, &err);
    ck_assert_msg(rc == SP_OK, "%s", err.text);
    return value;
}

START_TEST(typed_access)
{
    json_t *o = parse("{\"i\":-5,\"f\":2.5,\"b\":true,\"s\":\"x\",\"whole\":4.0,\"big\":1e300}");
    int64_t i = 0;
    double f = 0;
    bool b = false;
    const char *s = NULL;
    ck_assert_int_eq(sp_json_i64(o, "i", -5, -5, "c", &i, NULL), SP_OK);
    ck_assert_int_eq(i, -5);
    ck_assert_int_eq(sp_json_i64(o, "whole", 0, 10, "c", &i, NULL), SP_OK);
    ck_assert_int_eq(i, 4);
    ck_assert_int_eq(sp_json_f64(o, "f", "c", &f, NULL), SP_OK);
    ck_assert(f == 2.5);
    ck_assert_int_eq(sp_json_f64(o, "i", "c", &f, NULL), SP_OK);
    ck_assert(f == -5.0);
    ck_assert_int_eq(sp_json_bool(o, "b", "c", &b, NULL), SP_OK);
    ck_assert(b);
    ck_assert_int_eq(sp_json_str(o, "s", "c", &s, NULL), SP_OK);
    ck_assert_str_eq(s, "x");
    ck_assert_int_eq(sp_json_i64(o, "big", INT64_MIN, INT64_MAX, "c", &i, NULL), SP_EFORMAT);
    json_decref(o);
}
END_TEST

START_TEST(wrong_fields_are_explained)
{
    json_t *o = parse("{\"i\":70000,\"f\":2.5,\"n\":null,\"s\":\"x\"}");
    int64_t i = 77;
    double f = 77;
    bool b = true;
    const char *s = "77";
    struct sp_error err = {0};
    ck_assert_int_eq(sp_json_i64(o, "i", 1, 65535, "config.json", &i, &err), SP_EFORMAT);
    ck_assert_str_eq(err.text, "config.json: field \"i\": 70000 is out of range, expected 1 to "
                               "65535");
    ck_assert_int_eq(sp_json_i64(o, "f", 0, 9, "config.json", &i, &err), SP_EFORMAT);
    ck_assert_str_eq(err.text,
                     "config.json: field \"f\": a number with a fraction, expected an integer");
    ck_assert_int_eq(sp_json_i64(o, "s", 0, 9, "config.json", &i, &err), SP_EFORMAT);
    ck_assert_int_eq(sp_json_i64(o, "absent", 0, 9, "config.json", &i, &err), SP_ENOTFOUND);
    ck_assert_str_eq(err.text, "config.json: field \"absent\" is missing");
    ck_assert_int_eq(sp_json_i64(o, "n", 0, 9, "config.json", &i, &err), SP_ENOTFOUND);
    ck_assert_int_eq(sp_json_f64(o, "s", "config.json", &f, &err), SP_EFORMAT);
    ck_assert_int_eq(sp_json_bool(o, "i", "config.json", &b, &err), SP_EFORMAT);
    ck_assert_int_eq(sp_json_str(o, "i", "config.json", &s, &err), SP_EFORMAT);
    ck_assert_int_eq(sp_json_str(json_object_get(o, "i"), "x", "config.json", &s, &err),
                     SP_EFORMAT);
    ck_assert_int_eq(sp_json_str(NULL, "x", "config.json", &s, &err), SP_EFORMAT);
    ck_assert(i == 77 && f == 77 && b && strcmp(s, "77") == 0); /* untouched */
    json_decref(o);
}
END_TEST

START_TEST(optional_fields_keep_their_value)
{
    json_t *o = parse("{\"i\":5,\"n\":null,\"s\":3}");
    int64_t i = 77;
    double f = 7.5;
    bool b = true;
    const char *s = "kept";
    ck_assert_int_eq(sp_json_opt_i64(o, "absent", 0, 9, "c", &i, NULL), SP_OK);
    ck_assert_int_eq(sp_json_opt_i64(o, "n", 0, 9, "c", &i, NULL), SP_OK);
    ck_assert_int_eq(sp_json_opt_f64(o, "n", "c", &f, NULL), SP_OK);
    ck_assert_int_eq(sp_json_opt_bool(o, "n", "c", &b, NULL), SP_OK);
    ck_assert_int_eq(sp_json_opt_str(o, "n", "c", &s, NULL), SP_OK);
    ck_assert(i == 77 && f == 7.5 && b && strcmp(s, "kept") == 0);
    ck_assert_int_eq(sp_json_opt_i64(o, "i", 0, 9, "c", &i, NULL), SP_OK);
    ck_assert_int_eq(i, 5);
    ck_assert_int_eq(sp_json_opt_str(o, "s", "c", &s, NULL), SP_EFORMAT); /* there, and wrong */
    json_decref(o);
}
END_TEST

static const struct {
    const char *text;
    size_t length;
    const char *expected;
} malformed[] = {
#define T(text) text, sizeof(text) - 1
    {T(""), "not valid JSON"},
    {T("{"), "not valid JSON"},
    {T("{\"a\":1,\"a\":2}"), "duplicate"},
    {T("{\"a\":1} x"), "end of file expected"},
    {T("{\"a\":\"\xff\"}"), "unable to decode byte 0xff"},
    {T("{\"a\":\"b\0c\"}"), "control character"},
    {T("{\"a\":\"\\u0000\"}"), "\\u0000"},
    {T("{'a':1}"), "not valid JSON"},
    {T("[1,]"), "not valid JSON"},
    {T("{\"a\":01}"), "not valid JSON"},
    {T("{\"a\":NaN}"), "not valid JSON"},
    {T("{\"a\":1e999}"), "real number overflow"},
    {T("\n\n{\"a\" 1}"), "line 3"},
    {T("7"), "not valid JSON"},
};

START_TEST(malformed_documents_are_explained)
{
    json_t *value = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(
        sp_json_parse(malformed[_i].text, malformed[_i].length, "config.json", &value, &err),
        SP_EFORMAT);
    ck_assert_ptr_null(value);
    ck_assert_msg(strncmp(err.text, "config.json: line ", 18) == 0, "%s", err.text);
    ck_assert_msg(strstr(err.text, malformed[_i].expected) != NULL, "%s", err.text);
}
END_TEST

START_TEST(depth_is_bounded)
{
    char text[2 * SP_MAX_JSON_DEPTH + 16];
    for (int depth = SP_MAX_JSON_DEPTH; depth <= SP_MAX_JSON_DEPTH + 1; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        json_t *value = NULL;
        enum sp_err rc = sp_json_parse(text, 2 * (size_t)depth, "x", &value, NULL);
        ck_assert_int_eq(rc, depth <= SP_MAX_JSON_DEPTH ? SP_OK : SP_ELIMIT);
        json_decref(value);
    }
    /* Brackets in strings are text. */
    json_t *value =
        parse("{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
              "\\\"[[[[[[[[[\"}");
    json_decref(value);
}
END_TEST

START_TEST(integers_beyond_64_bits_are_read_as_reals)
{
    json_t *o = parse("{\"model_max_length\":1000000000000000019884624838656,\"n\":7}");
    double f = 0;
    int64_t n = 0;
    ck_assert_int_eq(sp_json_f64(o, "model_max_length", "c", &f, NULL), SP_OK);
    ck_assert(f == 1e30);
    ck_assert_int_eq(sp_json_i64(o, "model_max_length", 0, INT64_MAX, "c", &n, NULL), SP_EFORMAT);
    ck_assert_int_eq(sp_json_i64(o, "n", 0, 9, "c", &n, NULL), SP_OK);
    ck_assert_int_eq(n, 7);
    json_decref(o);
    /* Others stay integers, and a string what it is. */
    o = parse("{\"a\":[18446744073709551615,3,-9223372036854775808,9223372036854775807],"
              "\"99999999999999999999\":\"\\\"99999999999999999999\",\"b\":-99999999999999999999,"
              "\"c\":[0.99999999999999999999,99999999999999999999.5,1e5]}");
    char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    ck_assert_str_eq(text, "{\"99999999999999999999\":\"\\\"99999999999999999999\","
                           "\"a\":[1.8446744073709552e19,3,-9223372036854775808,"
                           "9223372036854775807],\"b\":-1e20,\"c\":[1.0,1e20,100000.0]}");
    free(text);
    json_decref(o);
    o = parse("{\"n\":9223372036854775807}"); /* exact where it fits */
    ck_assert_int_eq(sp_json_i64(o, "n", 0, INT64_MAX, "c", &n, NULL), SP_OK);
    ck_assert_int_eq(n, INT64_MAX);
    json_decref(o);
}
END_TEST

START_TEST(canonical_text_is_sorted_and_exact)
{
    json_t *o = parse(" {\"b\": [1, 0.1], \"a\": {\"z\": \"\xc3\xa4\", \"y\": null}} ");
    char *text = sp_json_canonical(o);
    ck_assert_str_eq(text, "{\"a\":{\"y\":null,\"z\":\"\xc3\xa4\"},\"b\":[1,0.10000000000000001]}");
    json_t *again = parse(text);
    char *same = sp_json_canonical(again);
    ck_assert_str_eq(text, same);
    free(text);
    free(same);
    json_decref(o);
    json_decref(again);
}
END_TEST

START_TEST(files_are_bounded_and_named)
{
    char path[] = "/tmp/spin-json-XXXXXX";
    close(mkstemp(path));
    json_t *value = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(sp_write_file_durable(path, "{\"a\":1}", 7, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_json_load(path, 7, &value, &err), SP_OK);
    json_decref(value);
    ck_assert_int_eq(sp_json_load(path, 6, &value, &err), SP_ELIMIT);
    ck_assert_int_eq(sp_write_file_durable(path, "{", 1, 0600, NULL), SP_OK);
    ck_assert_int_eq(sp_json_load(path, 6, &value, &err), SP_EFORMAT);
    ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
    unlink(path);
    ck_assert_int_eq(sp_json_load(path, 6, &value, &err), SP_ENOTFOUND);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("json");
    TCase *t = tcase_create("all");
    tcase_add_test(t, typed_access);
    tcase_add_test(t, wrong_fields_are_explained);
    tcase_add_test(t, optional_fields_keep_their_value);
    tcase_add_loop_test(t, malformed_documents_are_explained, 0, (int)SP_COUNT(malformed));
    tcase_add_test(t, depth_is_bounded);
    tcase_add_test(t, integers_beyond_64_bits_are_read_as_reals);
    tcase_add_test(t, canonical_text_is_sorted_and_exact);
    tcase_add_test(t, files_are_bounded_and_named);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

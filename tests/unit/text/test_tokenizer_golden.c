/* Ids and decoded texts as the library that defines the format gives them: tests/golden/text. */
#include <jansson.h>
#include <string.h>

#include "common/text/tokenizer.h"
#include "tests/unit/check_main.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/text/"

static struct tok_tokenizer *load(const char *path)
{
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_load(path, &t, &err) == SP_OK, "%s", err.text);
    return t;
}

static void compare_ids(const struct tok_tokenizer *t, const json_t *row, const char *field,
                        unsigned flags, const char *where)
{
    const char *text = json_string_value(json_object_get(row, "text"));
    const json_t *want = json_object_get(row, field);
    struct tok_ids ids = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_msg(tok_encode(t, text, strlen(text), flags, &ids, &err) == SP_OK, "%s: %s", where,
                  err.text);
    for (size_t i = 0; i < ids.count && i < json_array_size(want); i++)
        ck_assert_msg(json_integer_value(json_array_get(want, i)) == ids.ids[i],
                      "%s: \"%s\": token %zu is %d", where, text, i, ids.ids[i]);
    ck_assert_msg(ids.count == json_array_size(want), "%s: \"%s\": %zu tokens, expected %zu", where,
                  text, ids.count, json_array_size(want));
    tok_ids_deinit(&ids);
}

/* All at once and token by token. */
static void compare_text(const struct tok_tokenizer *t, const json_t *row, const char *where)
{
    const char *want = json_string_value(json_object_get(row, "decoded"));
    const json_t *special = json_object_get(row, "special");
    if (want == NULL)
        return;
    struct tok_ids ids = TOK_IDS_INIT;
    for (size_t i = 0; i < json_array_size(special); i++)
        tok_ids_append(&ids, (int32_t)json_integer_value(json_array_get(special, i)));
    struct sp_buf text = SP_BUF_INIT, streamed = SP_BUF_INIT;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_decode(t, ids.ids, ids.count, TOK_SKIP_SPECIAL, &text, &err), SP_OK);
    struct tok_stream *stream = tok_stream_new(t, TOK_SKIP_SPECIAL);
    for (size_t i = 0; i < ids.count; i++)
        ck_assert_int_eq(tok_stream_push(stream, ids.ids[i], &streamed, &err), SP_OK);
    ck_assert_int_eq(tok_stream_finish(stream, &streamed, &err), SP_OK);
    ck_assert_msg(strcmp(text.data, want) == 0, "%s: \"%s\", expected \"%s\"", where, text.data,
                  want);
    if (text.length > 0)
        ck_assert_msg(strcmp(streamed.data, want) == 0, "%s: streamed \"%s\", expected \"%s\"",
                      where, streamed.data, want);
    tok_stream_free(stream);
    sp_buf_deinit(&text);
    sp_buf_deinit(&streamed);
    tok_ids_deinit(&ids);
}

static int compare_file(const struct tok_tokenizer *t, const char *name)
{
    char path[512], where[600];
    snprintf(path, sizeof(path), GOLDEN "%s.jsonl", name);
    FILE *file = fopen(path, "r");
    ck_assert_msg(file != NULL, "%s", path);
    char *line = NULL;
    size_t capacity = 0;
    int rows = 0;
    while (getline(&line, &capacity, file) > 0) {
        snprintf(where, sizeof(where), "%s:%d", name, ++rows);
        json_t *row = json_loads(line, 0, NULL);
        ck_assert_msg(row != NULL, "%s", where);
        compare_ids(t, row, "ids", 0, where);
        compare_ids(t, row, "special", TOK_ADD_SPECIAL, where);
        compare_text(t, row, where);
        json_decref(row);
    }
    free(line);
    fclose(file);
    return rows;
}

static const char *const made[] = {
    "byte-level",          "gpt4-split",   "falcon", "spm",
    "spm-single-unk",      "suffix",       "prefix", "split-merged-with-next-true",
    "spm-metaspace-first", "unigram-bytes"};

START_TEST(made_tokenizers)
{
    char path[512];
    snprintf(path, sizeof(path), GOLDEN "%s.json", made[_i]);
    struct tok_tokenizer *t = load(path);
    ck_assert_int_eq(compare_file(t, made[_i]), 60);
    tok_free(t);
}
END_TEST

static const char *const shared[][2] = {{"models/TinyStories-656K-hf", "shared-tinystories"},
                                        {"tokenizers/gpt2-hf", "shared-gpt2"},
                                        {"tokenizers/llama2-hf-derived", "shared-llama2"},
                                        {"tokenizers/llama3-hf", "shared-llama3"},
                                        {"tokenizers/qwen3-hf", "shared-qwen3"}};

START_TEST(shared_tokenizers)
{
    const char *path = shared_data(shared[_i][0]);
    if (path == NULL)
        return;
    struct tok_tokenizer *t = load(path);
    ck_assert_int_eq(compare_file(t, shared[_i][1]), 80);
    tok_free(t);
}
END_TEST

/* Small tokenizers, each for a rule that random texts seldom reach. */
START_TEST(corners)
{
    FILE *file = fopen(GOLDEN "corners.jsonl", "r");
    ck_assert_ptr_nonnull(file);
    char *line = NULL;
    size_t capacity = 0, rows = 0;
    for (; getline(&line, &capacity, file) > 0; rows++) {
        json_t *row = json_loads(line, 0, NULL);
        ck_assert_ptr_nonnull(row);
        const char *what = json_string_value(json_object_get(row, "what"));
        char *json = json_dumps(json_object_get(row, "tokenizer"), 0);
        struct tok_tokenizer *t = NULL;
        struct sp_error err = {0};
        ck_assert_msg(tok_load_memory(json, strlen(json), what, &t, &err) == SP_OK, "%s", err.text);
        const json_t *texts = json_object_get(row, "texts");
        for (size_t i = 0; i < json_array_size(texts); i++) {
            const json_t *text = json_array_get(texts, i);
            compare_ids(t, text, "ids", 0, what);
            compare_ids(t, text, "special", TOK_ADD_SPECIAL, what);
            compare_text(t, text, what);
        }
        tok_free(t);
        free(json);
        json_decref(row);
    }
    ck_assert_uint_eq(rows, 16);
    free(line);
    fclose(file);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer_golden");
    TCase *c = tcase_create("golden");
    tcase_set_timeout(c, 30);
    tcase_add_loop_test(c, made_tokenizers, 0, sizeof(made) / sizeof(made[0]));
    tcase_add_loop_test(c, shared_tokenizers, 0, sizeof(shared) / sizeof(shared[0]));
    tcase_add_test(c, corners);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

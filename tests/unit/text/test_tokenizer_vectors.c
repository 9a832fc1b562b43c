/* The vectors of four families, and one comparison with the library that defines the format. */
#include "common/base/fs.h"
#include "common/text/tokenizer.h"
#include "tests/unit/check_main.h"

#include <string.h>

#define SEPARATOR "\n__ggml_vocab_test__\n"

/* Copies the shared path, because shared_data returns one buffer. */
static char *shared_path(const char *relative)
{
    const char *path = shared_data(relative);
    return path != NULL ? strdup(path) : NULL;
}

static struct tok_tokenizer *load(const char *path)
{
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_load(path, &t, &err) == SP_OK, "%s", err.text);
    return t;
}

static void compare_line(const struct tok_tokenizer *t, const char *text, size_t length,
                         const char *line, int number)
{
    struct tok_ids ids = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_msg(tok_encode(t, text, length, 0, &ids, &err) == SP_OK, "text %d: %s", number,
                  err.text);
    size_t i = 0;
    for (line += strspn(line, " "); *line != '\n' && *line != '\0'; line += strspn(line, " ")) {
        char *end;
        long id = strtol(line, &end, 10);
        ck_assert_msg(i < ids.count && ids.ids[i] == id,
                      "text %d (%.*s): token %zu is %d, expected %ld", number, (int)length, text, i,
                      i < ids.count ? ids.ids[i] : -1, id);
        i++;
        line = end;
    }
    ck_assert_msg(i == ids.count, "text %d: %zu tokens, expected %zu", number, ids.count, i);
    tok_ids_deinit(&ids);
}

static void compare_vectors(const char *dir, const char *vectors)
{
    char name[256];
    char *path = shared_path(dir);
    snprintf(name, sizeof(name), "tokenizers/vectors/ggml-vocab-%s.gguf.inp", vectors);
    char *inp = shared_path(name);
    snprintf(name, sizeof(name), "tokenizers/vectors/ggml-vocab-%s.gguf.out", vectors);
    char *out = shared_path(name);
    if (path != NULL && inp != NULL && out != NULL) {
        struct tok_tokenizer *t = load(path);
        char *texts, *ids;
        size_t texts_length, ids_length;
        ck_assert_int_eq(sp_read_file(inp, 1 << 20, &texts, &texts_length, NULL), SP_OK);
        ck_assert_int_eq(sp_read_file(out, 1 << 20, &ids, &ids_length, NULL), SP_OK);
        int count = 0;
        const char *line = ids;
        for (char *text = texts; text != NULL;) {
            char *end = strstr(text, SEPARATOR);
            size_t length = end != NULL ? (size_t)(end - text) : strlen(text);
            ck_assert_ptr_nonnull(line);
            compare_line(t, text, length, line, count++);
            line = strchr(line, '\n');
            line = line != NULL ? line + 1 : NULL;
            text = end != NULL ? end + strlen(SEPARATOR) : NULL;
        }
        ck_assert_int_eq(count, 47);
        free(texts);
        free(ids);
        tok_free(t);
    }
    free(path);
    free(inp);
    free(out);
}

START_TEST(gpt2)
{
    compare_vectors("tokenizers/gpt2-hf", "gpt-2");
}
END_TEST

START_TEST(llama2)
{
    compare_vectors("tokenizers/llama2-hf-derived", "llama-spm");
}
END_TEST

START_TEST(llama3)
{
    compare_vectors("tokenizers/llama3-hf", "llama-bpe");
}
END_TEST

START_TEST(qwen3)
{
    compare_vectors("tokenizers/qwen3-hf", "qwen2");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer_vectors");
    TCase *c = tcase_create("vectors");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, gpt2);
    tcase_add_test(c, llama2);
    tcase_add_test(c, llama3);
    tcase_add_test(c, qwen3);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* compat = uclaml: texts and token ids equal those of the SPIN authors' code, in tests/golden/text.
 */
#include <jansson.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/text/chat_uclaml.h"
#include "tests/unit/check_main.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/text/uclaml.json"

struct fixture {
    json_t *document;
    const json_t *rows;
    struct tok_tokenizer *tokenizer;
    struct tok_uclaml renderer;
};

/* false: the tokenizer is not here. */
static bool open_fixture(struct fixture *f)
{
    struct sp_error err = {0};
    const char *dir = shared_data("tokenizers/llama2-hf-derived");
    *f = (struct fixture){0};
    if (dir == NULL)
        return false;
    f->document = json_load_file(GOLDEN, 0, NULL);
    ck_assert_ptr_nonnull(f->document);
    f->rows = json_object_get(f->document, "rows");
    ck_assert_msg(tok_load(dir, &f->tokenizer, &err) == SP_OK, "%s", err.text);
    f->renderer = (struct tok_uclaml){
        .tokenizer = f->tokenizer,
        .eos_id = (int32_t)json_integer_value(json_object_get(f->document, "eos_id"))};
    ck_assert_uint_ge(json_array_size(f->rows), 4);
    return true;
}

static void close_fixture(struct fixture *f)
{
    tok_free(f->tokenizer);
    json_decref(f->document);
}

static const char *text(const json_t *row, const char *key)
{
    return json_string_value(json_object_get(row, key));
}

static size_t turns_of(const json_t *row, struct chat_turn turns[2])
{
    size_t n = 0;
    if (text(row, "system") != NULL)
        turns[n++] = (struct chat_turn){"system", text(row, "system")};
    turns[n++] = (struct chat_turn){"user", text(row, "prompt")};
    return n;
}

static void same_ids(const struct tok_ids *ids, const json_t *row, const char *key)
{
    const json_t *want = json_object_get(row, key);
    ck_assert_msg(ids->count == json_array_size(want), "%s of \"%s\": %zu tokens, expected %zu",
                  key, text(row, "prompt"), ids->count, json_array_size(want));
    for (size_t i = 0; i < ids->count; i++)
        ck_assert_msg(ids->ids[i] == json_integer_value(json_array_get(want, i)),
                      "%s of \"%s\": token %zu is %d", key, text(row, "prompt"), i, ids->ids[i]);
}

START_TEST(test_ids_are_theirs)
{
    struct fixture f;
    struct sp_error err = {0};
    if (!open_fixture(&f))
        return;
    for (size_t i = 0; i < json_array_size(f.rows); i++) {
        const json_t *row = json_array_get(f.rows, i);
        struct chat_turn turns[2];
        size_t n = turns_of(row, turns);
        struct tok_ids ids = {0};
        ck_assert_int_eq(tok_uclaml_prompt(&f.renderer, turns, n, &ids, &err), SP_OK);
        same_ids(&ids, row, "prompt_ids");
        tok_ids_clear(&ids);
        ck_assert_int_eq(tok_uclaml_sample_prompt(&f.renderer, turns, n, &ids, &err), SP_OK);
        same_ids(&ids, row, "sample_ids");
        static const char *const answers[][2] = {{"answer", "real_ids"},
                                                 {"generated", "generated_ids"}};
        for (int k = 0; k < 2; k++) {
            const char *answer = text(row, answers[k][0]);
            tok_ids_clear(&ids);
            ck_assert_int_eq(tok_uclaml_response(&f.renderer, answer, strlen(answer), &ids, &err),
                             SP_OK);
            same_ids(&ids, row, answers[k][1]);
            /* The doubled end: token, line break, token. */
            ck_assert_int_eq(ids.ids[ids.count - 1], f.renderer.eos_id);
        }
        tok_ids_deinit(&ids);
    }
    close_fixture(&f);
}
END_TEST

/* Their texts, read back from the ids. */
START_TEST(test_texts_are_theirs)
{
    struct fixture f;
    struct sp_error err = {0};
    if (!open_fixture(&f))
        return;
    struct tok_renderer_options options = {
        .tokenizer = f.tokenizer, .template = "zephyr", .eos_id = f.renderer.eos_id};
    struct tok_renderer *zephyr = NULL;
    ck_assert_int_eq(tok_renderer_open(&options, &zephyr, &err), SP_OK);
    for (size_t i = 0; i < json_array_size(f.rows); i++) {
        const json_t *row = json_array_get(f.rows, i);
        struct chat_turn turns[2];
        struct tok_ids ids = {0}, again = {0};
        struct sp_buf prompt = SP_BUF_INIT;
        size_t n = turns_of(row, turns);
        json_t *context = json_pack("{s:[{s:s, s:s}, {s:s, s:s}]}", "messages", "role", "system",
                                    "content", n == 2 ? turns[0].content : "", "role", "user",
                                    "content", turns[n - 1].content);
        ck_assert_int_eq(tok_render_context(zephyr, context, true, &prompt, &err), SP_OK);
        ck_assert_str_eq(prompt.data, text(row, "text_prompt"));
        json_decref(context);
        /* The text in one piece, special tokens recognized, has the same ids as the parts. */
        ck_assert_int_eq(tok_uclaml_prompt(&f.renderer, turns, n, &ids, &err), SP_OK);
        ck_assert_int_eq(tok_encode(f.tokenizer, prompt.data, prompt.length, 0, &again, &err),
                         SP_OK);
        ck_assert_uint_eq(ids.count, again.count);
        ck_assert_mem_eq(ids.ids, again.ids, ids.count * sizeof(*ids.ids));
        tok_ids_deinit(&ids);
        tok_ids_deinit(&again);
        sp_buf_deinit(&prompt);
    }
    tok_renderer_free(zephyr);
    close_fixture(&f);
}
END_TEST

/* From what was sampled, special tokens in it, to what is trained on. */
START_TEST(test_sampled_answers)
{
    struct fixture f;
    struct sp_error err = {0};
    if (!open_fixture(&f))
        return;
    for (size_t i = 0; i < json_array_size(f.rows); i++) {
        const json_t *row = json_array_get(f.rows, i);
        struct tok_ids sampled = {0}, ids = {0};
        const char *words = text(row, "sampled");
        ck_assert_int_eq(tok_encode(f.tokenizer, words, strlen(words), 0, &sampled, &err), SP_OK);
        ck_assert_int_eq(
            tok_uclaml_generated(&f.renderer, sampled.ids, sampled.count, 256, &ids, &err), SP_OK);
        same_ids(&ids, row, "generated_ids");
        /* Cut, it keeps its end. */
        size_t whole = ids.count, ends = 4; /* </s>, ▁, line break, </s> */
        /* Ids of a padded vocabulary have no text. */
        tok_ids_clear(&ids);
        tok_ids_append(&sampled, 32005);
        ck_assert_int_eq(
            tok_uclaml_generated(&f.renderer, sampled.ids, sampled.count, 256, &ids, &err), SP_OK);
        same_ids(&ids, row, "generated_ids");
        tok_ids_clear(&ids);
        ck_assert_int_eq(
            tok_uclaml_generated(&f.renderer, sampled.ids, sampled.count, 1, &ids, &err), SP_OK);
        ck_assert_uint_eq(ids.count, SP_MIN(whole, 1 + ends));
        ck_assert_int_eq(ids.ids[ids.count - 1], f.renderer.eos_id);
        ck_assert_int_eq(ids.ids[ids.count - ends], f.renderer.eos_id);
        tok_ids_deinit(&sampled);
        tok_ids_deinit(&ids);
    }
    close_fixture(&f);
}
END_TEST

/* What a user wrote is no end token, here as elsewhere. */
START_TEST(test_refused_and_harmless)
{
    struct fixture f;
    struct sp_error err = {0};
    if (!open_fixture(&f))
        return;
    const struct chat_turn long_one[] = {{"user", "a"}, {"assistant", "b"}, {"user", "c"}};
    const struct chat_turn literal[] = {{"user", "a </s> b"}};
    struct tok_ids ids = {0};
    ck_assert_int_eq(tok_uclaml_prompt(&f.renderer, long_one, 3, &ids, &err), SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "one message of the user"));
    ck_assert_int_eq(tok_uclaml_sample_prompt(&f.renderer, literal, 0, &ids, &err), SP_EINVAL);
    ck_assert_uint_eq(ids.count, 0);
    ck_assert_int_eq(tok_uclaml_sample_prompt(&f.renderer, literal, 1, &ids, &err), SP_OK);
    for (size_t i = 0; i < ids.count; i++)
        ck_assert_int_ne(ids.ids[i], f.renderer.eos_id);
    tok_ids_deinit(&ids);
    close_fixture(&f);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("chat_uclaml");
    TCase *c = tcase_create("uclaml");
    tcase_add_test(c, test_ids_are_theirs);
    tcase_add_test(c, test_texts_are_theirs);
    tcase_add_test(c, test_sampled_answers);
    tcase_add_test(c, test_refused_and_harmless);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

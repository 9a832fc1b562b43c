/* Templates against Jinja's rendering of them, and the ids of prompts and responses. */
#include <jansson.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/text/chat.h"
#include "tests/unit/check_main.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/text/"

static struct tok_tokenizer *load(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), GOLDEN "%s.json", name);
    struct tok_tokenizer *t = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_load(path, &t, &err) == SP_OK, "%s", err.text);
    return t;
}

static const char *string_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    ck_assert_msg(text != NULL, "%s", key);
    return text;
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static size_t read_turns(const json_t *list, struct chat_turn turns[8])
{
    size_t count = json_array_size(list);
    ck_assert_uint_le(count, 8);
    for (size_t i = 0; i < count; i++)
        turns[i] = (struct chat_turn){.role = string_at(json_array_get(list, i), "role"),
                                      .content = string_at(json_array_get(list, i), "content")};
    return count;
}

/* Ids of prompt and response are those of the whole rendering, cut where the answer starts. */
static void compare_ids(enum tok_template template, const struct chat_turn *turns, size_t count,
                        const char *answer, const json_t *want)
{
    struct tok_tokenizer *t = load("chat-tokenizer");
    struct tok_renderer renderer = {
        .tokenizer = t, .template = template, .eos_id = tok_id_of(t, "</s>")};
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_msg(tok_render_example(&renderer, turns, count, answer, &prompt, &response, &err) ==
                      SP_OK,
                  "%s", err.text);
    size_t split = prompt.count;
    tok_ids_append_all(&prompt, response.ids, response.count);
    int32_t end = tok_template_end_id(template, t, renderer.eos_id);
    ck_assert_int_eq(prompt.ids[prompt.count - 1], end);
    ck_assert(tok_is_special(t, end));
    for (size_t i = split; i + 1 < prompt.count; i++)
        ck_assert_int_ne(prompt.ids[i], end);
    size_t at = 0;
    for (size_t i = 0; i < prompt.count; i++, at++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(want, at));
        if (template == TOK_TEMPLATE_LLAMA2 && i + 1 == prompt.count && id != end)
            id =
                (int32_t)json_integer_value(json_array_get(want, ++at)); /* its space is left out */
        ck_assert_msg(id == prompt.ids[i], "%s: token %zu is %s, expected %s",
                      tok_template_name(template), i, tok_token_of(t, prompt.ids[i]),
                      tok_token_of(t, id));
    }
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    tok_free(t);
}

static void compare_case(enum tok_template template, const json_t *row, const json_t *item)
{
    struct chat_turn turns[8];
    size_t count = read_turns(json_object_get(item, "turns"), turns);
    struct sp_buf text = SP_BUF_INIT;
    struct sp_error err = {0};
    ck_assert_msg(tok_chat_render(template, turns, count, "</s>", &text, &err) == SP_OK, "%s",
                  err.text);
    const char *prompt = string_at(item, "prompt"), *whole = string_at(item, "whole");
    size_t bos = has_prefix(prompt, string_at(row, "bos")) ? strlen(string_at(row, "bos")) : 0;
    ck_assert_str_eq(text.data, prompt + bos);
    tok_chat_render_response(template, string_at(item, "answer"), &text);
    ck_assert_msg(has_prefix(whole + bos, text.data), "%s is not the start of %s", text.data,
                  whole);
    sp_buf_deinit(&text);
    const json_t *ids = json_object_get(item, "ids");
    if (ids != NULL)
        compare_ids(template, turns, count, string_at(item, "answer"), ids);
}

START_TEST(templates)
{
    FILE *file = fopen(GOLDEN "chat.jsonl", "r");
    ck_assert_ptr_nonnull(file);
    char *line = NULL;
    size_t capacity = 0;
    int rows = 0;
    while (getline(&line, &capacity, file) > 0) {
        json_t *row = json_loads(line, 0, NULL);
        ck_assert_ptr_nonnull(row);
        enum tok_template template, recognized;
        struct sp_error err = {0};
        ck_assert_int_eq(tok_template_parse(string_at(row, "name"), &template, &err), SP_OK);
        ck_assert_msg(tok_template_recognize(string_at(row, "jinja"), "x", &recognized, &err) ==
                          SP_OK,
                      "%s: %s", string_at(row, "name"), err.text);
        ck_assert_str_eq(tok_template_name(recognized), tok_template_name(template));
        size_t i;
        json_t *item;
        json_array_foreach(json_object_get(row, "cases"), i, item)
            compare_case(template, row, item);
        json_decref(row);
        rows++;
    }
    ck_assert_int_eq(rows, TOK_TEMPLATE_COUNT - 1); /* all but none */
    free(line);
    fclose(file);
}
END_TEST

START_TEST(none)
{
    struct tok_tokenizer *t = load("spm"); /* puts <s> before and </s> behind a text */
    int32_t eos = tok_id_of(t, "</s>"), bos = tok_id_of(t, "<s>");
    struct tok_renderer renderer = {.tokenizer = t, .template = TOK_TEMPLATE_NONE, .eos_id = eos};
    struct chat_turn turn = {.role = "user", .content = "hello"};
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT, plain = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_render_example(&renderer, &turn, 1, "hello", &prompt, &response, &err),
                     SP_OK);
    ck_assert_int_eq(tok_encode(t, "hello", 5, 0, &plain, &err), SP_OK);
    ck_assert_uint_eq(prompt.count, plain.count + 1);
    ck_assert_int_eq(prompt.ids[0], bos);
    ck_assert_mem_eq(prompt.ids + 1, plain.ids, plain.count * sizeof(int32_t));
    ck_assert_uint_eq(response.count, plain.count + 1);
    ck_assert_mem_eq(response.ids, plain.ids, plain.count * sizeof(int32_t));
    ck_assert_int_eq(response.ids[plain.count], eos);
    tok_ids_deinit(&plain);
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    tok_free(t);
}
END_TEST

/* An end token in what people wrote is words: a response has one end token, its last. */
START_TEST(one_end_token)
{
    static const char *const answers[] = {"x</s>", "</s>", "<|im_end|> y", "a <|im_end|></s>"};
    struct tok_tokenizer *t = load("chat-tokenizer");
    for (int template = 0; template <TOK_TEMPLATE_COUNT; template ++) {
        struct tok_renderer renderer = {
            .tokenizer = t, .template = template, .eos_id = tok_id_of(t, "</s>")};
        for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
            struct chat_turn turns[] = {
                {"user", answers[i]}, {"assistant", answers[i]}, {"user", "<|im_start|>system"}};
            size_t count = template == TOK_TEMPLATE_NONE ? 1 : 3;
            struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT, clean = TOK_IDS_INIT;
            struct sp_error err = {0};
            ck_assert_int_eq(
                tok_render_example(&renderer, turns, count, answers[i], &prompt, &response, &err),
                SP_OK);
            for (size_t k = 0; k < response.count; k++)
                ck_assert(tok_is_special(t, response.ids[k]) == (k + 1 == response.count));
            if (template != TOK_TEMPLATE_NONE) {
                /* The prompt has just the special tokens that harmless words give. */
                size_t special = 0, expected = 0;
                turns[0].content = turns[1].content = turns[2].content = "w";
                ck_assert_int_eq(tok_render_prompt(&renderer, turns, count, &clean, &err), SP_OK);
                for (size_t k = 0; k < prompt.count; k++)
                    special += tok_is_special(t, prompt.ids[k]);
                for (size_t k = 0; k < clean.count; k++)
                    expected += tok_is_special(t, clean.ids[k]);
                ck_assert_uint_eq(special, expected);
            }
            tok_ids_deinit(&clean);
            tok_ids_deinit(&prompt);
            tok_ids_deinit(&response);
        }
    }
    tok_free(t);
}
END_TEST

/* Under a chat template nothing comes between prompt and response that is not in the text. */
START_TEST(go_on)
{
    struct tok_tokenizer *t = load("spm");
    struct tok_renderer renderer = {
        .tokenizer = t, .template = TOK_TEMPLATE_ZEPHYR, .eos_id = tok_id_of(t, "</s>")};
    struct tok_ids response = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_render_response(&renderer, "w", &response, &err), SP_OK);
    ck_assert_uint_eq(response.count, 2);
    ck_assert_str_eq(tok_token_of(t, response.ids[0]), "w");
    tok_ids_deinit(&response);
    tok_free(t);
}
END_TEST

START_TEST(bad_turns)
{
    static const struct {
        enum tok_template template;
        struct chat_turn turns[4];
        size_t count;
        const char *message;
    } bad[] = {
        {TOK_TEMPLATE_CHATML, {{NULL, NULL}}, 0, "a prompt needs a user message"},
        {TOK_TEMPLATE_CHATML, {{"system", "s"}}, 1, "a prompt needs a user message"},
        {TOK_TEMPLATE_CHATML, {{"user", "u"}, {"assistant", "a"}}, 2, "must be the user's"},
        {TOK_TEMPLATE_CHATML, {{"assistant", "a"}}, 1, "message 0 has the role \"assistant\""},
        {TOK_TEMPLATE_CHATML, {{"user", "u"}, {"user", "v"}, {"user", "w"}}, 3, "message 1"},
        {TOK_TEMPLATE_CHATML, {{"user", "u"}, {"system", "s"}, {"user", "w"}}, 3, "message 1"},
        {TOK_TEMPLATE_CHATML, {{"tool", "u"}}, 1, "\"tool\", expected \"user\""},
        {TOK_TEMPLATE_NONE, {{"system", "s"}, {"user", "u"}}, 2, "\"none\" takes one"},
        {TOK_TEMPLATE_NONE, {{"user", "u"}, {"assistant", "a"}, {"user", "v"}}, 3, "takes one"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct sp_buf text = SP_BUF_INIT;
        struct sp_error err = {0};
        ck_assert_int_eq(
            tok_chat_render(bad[i].template, bad[i].turns, bad[i].count, "", &text, &err),
            SP_EINVAL);
        ck_assert_msg(strstr(err.text, bad[i].message) != NULL, "%s", err.text);
        sp_buf_deinit(&text);
    }
    struct tok_tokenizer *t = load("chat-tokenizer");
    struct tok_renderer renderer = {.tokenizer = t, .eos_id = -1};
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
    struct chat_turn turn = {"user", "\xff"};
    struct sp_error err = {0};
    ck_assert_int_eq(tok_render_response(&renderer, "x", &response, &err), SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "eos_token_id"));
    renderer.eos_id = 1;
    ck_assert_int_eq(tok_render_prompt(&renderer, &turn, 1, &prompt, &err), SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "prompt: the text is not UTF-8"));
    turn.content = "x";
    ck_assert_int_eq(tok_render_example(&renderer, &turn, 1, "\xff", &prompt, &response, &err),
                     SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "response: the text is not UTF-8"));
    ck_assert_uint_eq(prompt.count + response.count, 0);
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    tok_free(t);
}
END_TEST

static void write_file(const char *dir, const char *name, const char *text)
{
    char *path = sp_path_join(dir, name);
    ck_assert_int_eq(sp_write_file_durable(path, text, strlen(text), 0600, NULL), SP_OK);
    free(path);
}

START_TEST(of_model)
{
    char dir[] = "/tmp/spin-chat-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    enum tok_template template = TOK_TEMPLATE_ALPACA;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_template_of_model(dir, &template, &err), SP_OK);
    ck_assert_int_eq(template, TOK_TEMPLATE_NONE);
    write_file(dir, "tokenizer_config.json", "{\"model_max_length\": 5}");
    template = TOK_TEMPLATE_ALPACA;
    ck_assert_int_eq(tok_template_of_model(dir, &template, &err), SP_OK);
    ck_assert_int_eq(template, TOK_TEMPLATE_NONE);
    write_file(dir, "tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"?\"}, {\"name\": "
               "\"default\", \"template\": \"<start_of_turn>model<end_of_turn>\"}]}");
    ck_assert_msg(tok_template_of_model(dir, &template, &err) == SP_OK, "%s", err.text);
    ck_assert_int_eq(template, TOK_TEMPLATE_GEMMA);
    static const char *const unknown[] = {
        "{\"chat_template\": \"{{ messages }}\"}",
        "{\"chat_template\": \"<|im_start|><|im_end|>assistant You are a pirate\"}"};
    for (int i = 0; i < 2; i++) {
        write_file(dir, "tokenizer_config.json", unknown[i]);
        ck_assert_int_eq(tok_template_of_model(dir, &template, &err), SP_EUNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(err.text, "tokenizer_config.json"));
        ck_assert_ptr_nonnull(strstr(err.text, "none, chatml, zephyr"));
    }
    write_file(dir, "tokenizer_config.json", "{\"chat_template\": 5}");
    ck_assert_int_eq(tok_template_of_model(dir, &template, &err), SP_EFORMAT);
    write_file(dir, "tokenizer_config.json", "{");
    ck_assert_int_eq(tok_template_of_model(dir, &template, &err), SP_EFORMAT);
    write_file(dir, "chat_template.jinja", "<|im_start|>assistant<|im_end|>");
    ck_assert_int_eq(tok_template_of_model(dir, &template, &err), SP_OK);
    ck_assert_int_eq(template, TOK_TEMPLATE_CHATML);
    ck_assert_int_eq(tok_template_parse("auto", &template, &err), SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "auto, none, chatml"));
    ck_assert_int_eq(sp_remove_tree(dir, NULL), SP_OK);
}
END_TEST

START_TEST(shared_models)
{
    static const struct {
        const char *dir;
        enum tok_template template;
    } models[] = {{"tokenizers/gpt2-hf", TOK_TEMPLATE_NONE},
                  {"tokenizers/llama3-hf", TOK_TEMPLATE_LLAMA3},
                  {"tokenizers/qwen3-hf", TOK_TEMPLATE_CHATML},
                  {"models/TinyStories-656K-hf", TOK_TEMPLATE_NONE}};
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        const char *path = shared_data(models[i].dir);
        enum tok_template template = TOK_TEMPLATE_ALPACA;
        struct sp_error err = {0};
        if (path == NULL)
            continue;
        ck_assert_msg(tok_template_of_model(path, &template, &err) == SP_OK, "%s", err.text);
        ck_assert_int_eq(template, models[i].template);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("chat");
    TCase *c = tcase_create("chat");
    tcase_add_test(c, templates);
    tcase_add_test(c, none);
    tcase_add_test(c, one_end_token);
    tcase_add_test(c, go_on);
    tcase_add_test(c, bad_turns);
    tcase_add_test(c, of_model);
    tcase_add_test(c, shared_models);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* Templates against transformers' rendering of them, and the ids of prompts and responses. */
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

/* A directory with a tokenizer_config.json of its own, removed by the caller. */
static char *make_dir(void)
{
    char *dir = strdup("/tmp/spin-chat-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    return dir;
}

static void remove_dir(char *dir)
{
    ck_assert_int_eq(sp_remove_tree(dir, NULL), SP_OK);
    free(dir);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char *path = sp_path_join(dir, name);
    ck_assert_int_eq(sp_write_file_durable(path, text, strlen(text), 0600, NULL), SP_OK);
    free(path);
}

static struct tok_renderer *open_renderer(const struct tok_tokenizer *t, const char *template,
                                          const char *dir, int32_t eos)
{
    struct tok_renderer_options options = {
        .tokenizer = t, .dir = dir, .template = template, .eos_id = eos, .date = "2026-07-31"};
    struct tok_renderer *renderer = NULL;
    struct sp_error err = {0};
    ck_assert_msg(tok_renderer_open(&options, &renderer, &err) == SP_OK, "%s: %s", template,
                  err.text);
    return renderer;
}

static enum sp_err open_fails(const struct tok_tokenizer *t, const char *template, const char *dir,
                              int32_t eos, struct sp_error *err)
{
    struct tok_renderer_options options = {
        .tokenizer = t, .dir = dir, .template = template, .eos_id = eos};
    struct tok_renderer *renderer = NULL;
    return tok_renderer_open(&options, &renderer, err);
}

/* All tokens of the response count; its end token is its last and only one. */
static void check_response(const struct tok_renderer *renderer, const struct tok_ids *response)
{
    ck_assert_uint_gt(response->count, 0);
    for (size_t i = 0; i < response->count; i++)
        ck_assert_int_eq(response->ids[i] == tok_renderer_end_id(renderer),
                         i + 1 == response->count);
}

/* Ids of prompt and response are the first ones of transformers' whole; what is left out is what
 * the template writes behind the end token. */
static void compare_ids(const struct tok_renderer *renderer, const struct tok_tokenizer *t,
                        const struct tok_ids *prompt, const struct tok_ids *response,
                        const char *text, const json_t *want)
{
    struct tok_ids whole = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_encode(t, text, strlen(text), 0, &whole, &err), SP_OK);
    ck_assert_uint_le(prompt->count + response->count, whole.count);
    ck_assert_mem_eq(whole.ids, prompt->ids, prompt->count * sizeof(int32_t));
    ck_assert_mem_eq(whole.ids + prompt->count, response->ids, response->count * sizeof(int32_t));
    for (size_t i = 0; i < json_array_size(want); i++)
        ck_assert_int_eq(json_integer_value(json_array_get(want, i)), whole.ids[i]);
    ck_assert(want == NULL || json_array_size(want) == whole.count);
    tok_ids_deinit(&whole);
}

static void compare_case(const struct tok_renderer *renderer, const struct tok_tokenizer *t,
                         const char *name, const json_t *item)
{
    json_t *messages = json_object_get(item, "messages");
    size_t last = json_array_size(messages) - 1;
    json_t *context = json_pack("{s:O}", "messages", messages);
    struct sp_buf text = SP_BUF_INIT;
    struct sp_error err = {0};
    ck_assert_msg(tok_render_context(renderer, context, false, &text, &err) == SP_OK, "%s: %s",
                  name, err.text);
    ck_assert_msg(strcmp(text.data, string_at(item, "text")) == 0, "%s: %s\nexpected: %s", name,
                  text.data, string_at(item, "text"));
    json_t *turns = json_copy(messages), *answer = json_incref(json_array_get(messages, last));
    json_array_remove(turns, last);
    json_object_set_new(context, "messages", turns);
    struct tok_rendering parts = {0};
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
    ck_assert_msg(tok_render_split(renderer, context, answer, &parts, &err) == SP_OK, "%s: %s",
                  name, err.text);
    ck_assert_str_eq(parts.prompt.data, string_at(item, "prompt"));
    ck_assert(!parts.add_end);
    ck_assert_msg(tok_rendering_encode(renderer, &parts, &prompt, &response, &err) == SP_OK,
                  "%s: %s", name, err.text);
    check_response(renderer, &response);
    compare_ids(renderer, t, &prompt, &response, text.data, json_object_get(item, "ids"));
    tok_rendering_deinit(&parts);
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    sp_buf_deinit(&text);
    json_decref(answer);
    json_decref(context);
}

static void compare_row(const struct tok_tokenizer *t, const json_t *row)
{
    char *dir = make_dir();
    const char *name = string_at(row, "name");
    json_t *config =
        json_pack("{s:O, s:O, s:O}", "chat_template", json_object_get(row, "jinja"), "bos_token",
                  json_object_get(row, "bos"), "eos_token", json_object_get(row, "eos"));
    char *text = json_dumps(config, 0);
    write_file(dir, "tokenizer_config.json", text);
    int32_t eos = tok_id_of(t, string_at(row, "eos"));
    struct tok_renderer *named = open_renderer(t, name, dir, eos);
    struct tok_renderer *own = open_renderer(t, "auto", dir, eos);
    ck_assert_str_eq(tok_renderer_name(named), name);
    ck_assert_str_eq(tok_renderer_name(own), "tokenizer_config.json: chat_template");
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(row, "cases"), i, item)
    {
        compare_case(named, t, name, item);
        compare_case(own, t, name, item);
    }
    ck_assert_uint_eq(i, 10);
    tok_renderer_free(named);
    tok_renderer_free(own);
    free(text);
    json_decref(config);
    remove_dir(dir);
}

START_TEST(templates)
{
    FILE *file = fopen(GOLDEN "chat.jsonl", "r");
    ck_assert_ptr_nonnull(file);
    struct tok_tokenizer *t = load("chat-tokenizer");
    char *line = NULL;
    size_t capacity = 0, rows = 0, names = 0;
    for (; getline(&line, &capacity, file) > 0; rows++) {
        json_t *row = json_loads(line, 0, NULL);
        ck_assert_ptr_nonnull(row);
        compare_row(t, row);
        json_decref(row);
    }
    while (tok_template_name(names) != NULL)
        names++;
    ck_assert_uint_eq(rows, names - 1); /* all but none */
    free(line);
    fclose(file);
    tok_free(t);
}
END_TEST

/* Which tokens count, spelled out: the answer with what the template writes around it, up to the
 * end token. */
START_TEST(what_counts)
{
    static const struct {
        const char *name, *response;
    } cases[] = {
        {"chatml", "So<|im_end|>"},  {"zephyr", "So</s>"},
        {"llama2", " So </s>"},      {"llama3", "So<|eot_id|>"},
        {"mistral-v1", " So</s>"},   {"mistral-v3-tekken", "So</s>"},
        {"mistral-v7", " So</s>"},   {"gemma", "So<end_of_turn>"},
        {"phi3", "So<|end|>"},       {"qwen", "So<|im_end|>"},
        {"smollm2", "So<|im_end|>"}, {"qwen3", "<think>\n\n</think>\n\nSo<|im_end|>"},
        {"alpaca", "So</s>"},        {"vicuna", " So</s>"},
        {"instruction", "So</s>"},
    };
    struct tok_tokenizer *t = load("chat-tokenizer");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct tok_renderer *renderer = open_renderer(t, cases[i].name, NULL, tok_id_of(t, "</s>"));
        struct chat_turn turn = {"user", "Why?"};
        struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
        struct sp_buf text = SP_BUF_INIT;
        struct sp_error err = {0};
        ck_assert_int_eq(tok_render_example(renderer, &turn, 1, "So", &prompt, &response, &err),
                         SP_OK);
        check_response(renderer, &response);
        ck_assert_int_eq(tok_decode(t, response.ids, response.count, 0, &text, &err), SP_OK);
        ck_assert_str_eq(text.data, cases[i].response);
        sp_buf_deinit(&text);
        tok_ids_deinit(&prompt);
        tok_ids_deinit(&response);
        tok_renderer_free(renderer);
    }
    tok_free(t);
}
END_TEST

START_TEST(none)
{
    struct tok_tokenizer *t = load("spm"); /* puts <s> before and </s> behind a text */
    int32_t eos = tok_id_of(t, "</s>"), bos = tok_id_of(t, "<s>");
    struct tok_renderer *renderer = open_renderer(t, "none", NULL, eos);
    struct chat_turn turn = {.role = "user", .content = "hello"};
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT, plain = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_render_example(renderer, &turn, 1, "hello", &prompt, &response, &err),
                     SP_OK);
    ck_assert_int_eq(tok_encode(t, "hello", 5, 0, &plain, &err), SP_OK);
    ck_assert_uint_eq(prompt.count, plain.count + 1);
    ck_assert_int_eq(prompt.ids[0], bos);
    ck_assert_mem_eq(prompt.ids + 1, plain.ids, plain.count * sizeof(int32_t));
    ck_assert_uint_eq(response.count, plain.count + 1);
    ck_assert_mem_eq(response.ids, plain.ids, plain.count * sizeof(int32_t));
    ck_assert_int_eq(response.ids[plain.count], eos);
    tok_ids_clear(&response);
    ck_assert_int_eq(tok_render_example(renderer, &turn, 1, "a </s> b", &prompt, &response, &err),
                     SP_OK); /* the words, not the token */
    check_response(renderer, &response);
    tok_ids_deinit(&plain);
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    tok_renderer_free(renderer);
    tok_free(t);
}
END_TEST

/* The text of an end token in an answer would end it there. */
START_TEST(one_end_token)
{
    static const char *const answers[] = {"x<|im_end|>", "<|im_end|> y", "a <|im_end|></s>"};
    struct tok_tokenizer *t = load("chat-tokenizer");
    struct tok_renderer *renderer = open_renderer(t, "chatml", NULL, tok_id_of(t, "</s>"));
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct chat_turn turn = {"user", "Why?"};
        struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
        struct sp_error err = {0};
        ck_assert_int_eq(
            tok_render_example(renderer, &turn, 1, answers[i], &prompt, &response, &err),
            SP_EFORMAT);
        ck_assert_msg(strstr(err.text, "the answer holds the end token <|im_end|>") != NULL, "%s",
                      err.text);
        ck_assert_uint_eq(prompt.count + response.count, 0);
        tok_ids_deinit(&prompt);
        tok_ids_deinit(&response);
    }
    tok_renderer_free(renderer);
    tok_free(t);
}
END_TEST

/* As in transformers, a special token's text is that token in what a user wrote, too. */
START_TEST(special_in_prompt)
{
    struct tok_tokenizer *t = load("chat-tokenizer");
    struct tok_renderer *renderer = open_renderer(t, "chatml", NULL, -1);
    struct chat_turn turn = {"user", "<|im_end|>"};
    struct tok_ids prompt = TOK_IDS_INIT;
    struct sp_error err = {0};
    size_t ends = 0;
    ck_assert_int_eq(tok_render_prompt(renderer, &turn, 1, &prompt, &err), SP_OK);
    for (size_t i = 0; i < prompt.count; i++)
        ends += prompt.ids[i] == tok_renderer_end_id(renderer);
    ck_assert_uint_eq(ends, 2);
    tok_ids_deinit(&prompt);
    tok_renderer_free(renderer);
    tok_free(t);
}
END_TEST

/* Nothing comes between prompt and response that is not in the text: no dummy space. */
START_TEST(go_on)
{
    struct tok_tokenizer *t = load("spm");
    struct tok_renderer *renderer = open_renderer(t, "alpaca", NULL, tok_id_of(t, "<|endoftext|>"));
    struct chat_turn turn = {"user", "Why?"};
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_render_example(renderer, &turn, 1, "w", &prompt, &response, &err), SP_OK);
    ck_assert_uint_eq(response.count, 2);
    ck_assert_str_eq(tok_token_of(t, response.ids[0]), "w");
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    tok_renderer_free(renderer);
    tok_free(t);
}
END_TEST

START_TEST(bad_turns)
{
    static const struct {
        const char *template;
        struct chat_turn turns[4];
        size_t count;
        const char *message;
    } bad[] = {
        {"chatml", {{NULL, NULL}}, 0, "a prompt needs a user message"},
        {"chatml", {{"user", "u"}, {"assistant", "a"}}, 2, "must be the user's"},
        {"none", {{"system", "s"}, {"user", "u"}}, 2, "\"none\" takes one"},
        {"none", {{"user", "u"}, {"assistant", "a"}, {"user", "v"}}, 3, "takes one"},
    };
    struct tok_tokenizer *t = load("chat-tokenizer");
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
    struct sp_error err = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct tok_renderer *renderer = open_renderer(t, bad[i].template, NULL, 1);
        ck_assert_int_eq(tok_render_prompt(renderer, bad[i].turns, bad[i].count, &prompt, &err),
                         SP_EINVAL);
        ck_assert_msg(strstr(err.text, bad[i].message) != NULL, "%s", err.text);
        tok_renderer_free(renderer);
    }
    struct chat_turn turn = {"user", "ab\xff"};
    struct tok_renderer *renderer = open_renderer(t, "none", NULL, -1);
    ck_assert_int_eq(tok_render_prompt(renderer, &turn, 1, &prompt, &err), SP_EFORMAT);
    ck_assert_msg(strstr(err.text, "not UTF-8: byte 0xff at offset 2") != NULL, "%s", err.text);
    turn.content = "x";
    ck_assert_int_eq(tok_render_example(renderer, &turn, 1, "\xff", &prompt, &response, &err),
                     SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "response: "));
    ck_assert_int_eq(tok_render_example(renderer, &turn, 1, "x", &prompt, &response, &err),
                     SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "there is no end token"));
    ck_assert_uint_eq(prompt.count + response.count, 0);
    ck_assert_int_eq(open_fails(t, "chatml", NULL, 1 << 20, &err), SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "eos_token_id"));
    tok_renderer_free(renderer);
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    tok_free(t);
}
END_TEST

START_TEST(of_model)
{
    char *dir = make_dir();
    struct tok_tokenizer *t = load("chat-tokenizer");
    struct sp_error err = {0};
    struct tok_renderer *r = open_renderer(t, "auto", dir, 1);
    ck_assert_str_eq(tok_renderer_name(r), "none");
    tok_renderer_free(r);
    write_file(dir, "tokenizer_config.json", "{\"model_max_length\": 5}");
    r = open_renderer(t, "auto", dir, 1);
    ck_assert_str_eq(tok_renderer_name(r), "none");
    tok_renderer_free(r);
    write_file(dir, "tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"{%\"}, {\"name\": "
               "\"default\", \"template\": \"{{ messages[0].content }}:{{ messages[1].content if "
               "messages|length > 1 }}\"}]}");
    r = open_renderer(t, "auto", dir, tok_id_of(t, "</s>"));
    ck_assert_int_eq(tok_renderer_end_id(r), tok_id_of(t, "</s>")); /* the model's */
    tok_renderer_free(r);
    write_file(dir, "tokenizer_config.json", "{\"chat_template\": 5}");
    ck_assert_int_eq(open_fails(t, "auto", dir, 1, &err), SP_EFORMAT);
    write_file(dir, "tokenizer_config.json", "{");
    ck_assert_int_eq(open_fails(t, "auto", dir, 1, &err), SP_EFORMAT);
    write_file(dir, "tokenizer_config.json",
               "{\"bos_token\": {\"content\": \"<bos>\"}, \"eos_token\": \"</s>\"}");
    write_file(dir, "chat_template.jinja",
               "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    r = open_renderer(t, "auto", dir, 1);
    ck_assert_str_eq(tok_renderer_name(r), "chat_template.jinja");
    struct chat_turn turn = {"user", "x"};
    struct tok_ids prompt = TOK_IDS_INIT;
    ck_assert_int_eq(tok_render_prompt(r, &turn, 1, &prompt, &err), SP_OK);
    ck_assert_uint_eq(prompt.count, 3);
    ck_assert_int_eq(prompt.ids[0], tok_id_of(t, "<bos>"));
    tok_ids_deinit(&prompt);
    tok_renderer_free(r);
    ck_assert_int_eq(open_fails(t, "auto ", dir, 1, &err), SP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "auto, none, chatml"));
    remove_dir(dir);
    tok_free(t);
}
END_TEST

/* As transformers merges them: special_tokens_map.json goes before tokenizer_config.json, but is
 * not read beside an added_tokens_decoder. */
START_TEST(special_tokens_map)
{
    static const struct {
        const char *config, *want;
    } cases[] = {
        {"{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}", "<bos>x</s>"},
        {"{\"eos_token\": \"</s>\"}", "<bos>x</s>"},
        {"{\"added_tokens_decoder\": {}, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}",
         "<s>x</s>"},
    };
    struct tok_tokenizer *t = load("chat-tokenizer");
    char *dir = make_dir();
    write_file(dir, "chat_template.jinja",
               "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    write_file(dir, "special_tokens_map.json", "{\"bos_token\": {\"content\": \"<bos>\"}}");
    json_t *context = json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", "x");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct sp_error err = {0};
        struct sp_buf text = SP_BUF_INIT;
        write_file(dir, "tokenizer_config.json", cases[i].config);
        struct tok_renderer *r = open_renderer(t, "auto", dir, 1);
        ck_assert_int_eq(tok_render_context(r, context, true, &text, &err), SP_OK);
        ck_assert_str_eq(text.data, cases[i].want);
        sp_buf_deinit(&text);
        tok_renderer_free(r);
    }
    json_decref(context);
    remove_dir(dir);
    tok_free(t);
}
END_TEST

/* What can't be rendered exactly is refused with the template's line, and a way out. */
START_TEST(refused)
{
    static const struct {
        const char *jinja, *message;
        enum sp_err rc;
    } cases[] = {
        {"a\n{{ messages|groupby('role') }}", "chat_template.jinja:2: the filter groupby",
         SP_EUNSUPPORTED},
        {"{{ strftime_now('%Y') }}", "template_date = YYYY-MM-DD", SP_EUNSUPPORTED},
        {"\n\n{% for m in messages %}", "chat_template.jinja:3: a tag that is open", SP_EFORMAT},
        {"{{ raise_exception('no way') }}", "refuses this conversation: no way", SP_EINVAL},
        {"{% include 'x' %}", "the tag \"include\"", SP_EUNSUPPORTED},
        {"{{ messages[0].name.x }}", "\"name\" is undefined", SP_EFORMAT},
        {"{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}",
         "name another one (template = …)", SP_EUNSUPPORTED},
        {"{{ messages[0].content }}", "does not write the answer", SP_EUNSUPPORTED},
    };
    struct tok_tokenizer *t = load("chat-tokenizer");
    char *dir = make_dir();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct sp_error err = {0};
        write_file(dir, "chat_template.jinja", cases[i].jinja);
        ck_assert_msg(open_fails(t, "auto", dir, 1, &err) == cases[i].rc, "%s: %s", cases[i].jinja,
                      err.text);
        ck_assert_msg(strstr(err.text, cases[i].message) != NULL, "%s", err.text);
    }
    remove_dir(dir);
    tok_free(t);
}
END_TEST

START_TEST(shared_models)
{
    static const struct {
        const char *dir, *name;
    } models[] = {{"tokenizers/gpt2-hf", "none"},
                  {"tokenizers/llama3-hf", "tokenizer_config.json: chat_template"},
                  {"tokenizers/qwen3-hf", "tokenizer_config.json: chat_template"},
                  {"models/TinyStories-656K-hf", "none"}};
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        const char *path = shared_data(models[i].dir);
        struct tok_tokenizer *t = NULL;
        struct sp_error err = {0};
        if (path == NULL)
            continue;
        ck_assert_msg(tok_load(path, &t, &err) == SP_OK, "%s", err.text);
        struct tok_renderer *r = open_renderer(t, "auto", path, 2);
        ck_assert_str_eq(tok_renderer_name(r), models[i].name);
        tok_renderer_free(r);
        tok_free(t);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("chat");
    TCase *c = tcase_create("chat");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, templates);
    tcase_add_test(c, what_counts);
    tcase_add_test(c, none);
    tcase_add_test(c, one_end_token);
    tcase_add_test(c, special_in_prompt);
    tcase_add_test(c, go_on);
    tcase_add_test(c, bad_turns);
    tcase_add_test(c, of_model);
    tcase_add_test(c, special_tokens_map);
    tcase_add_test(c, refused);
    tcase_add_test(c, shared_models);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

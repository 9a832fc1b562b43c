#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/spin-model/tool.h"
#include "common/text/chat.h"
#include "common/text/tokenizer.h"

/* What rendering needs of a model: no weights. */
struct rendering {
    const struct tool *tool;
    struct tok_tokenizer *tokenizer;
    struct tok_renderer *renderer;
};

/* The model's eos by generation_config.json or config.json; a directory with a tokenizer alone has
 * none. */
static enum sp_err find_eos(const char *dir, int32_t *ret, struct sp_error *err)
{
    static const char *const files[] = {"generation_config.json", "config.json"};
    enum sp_err rc = SP_OK;
    *ret = -1;
    for (size_t i = 0; i < SP_COUNT(files) && *ret < 0 && rc == SP_OK; i++) {
        char *path = sp_path_join(dir, files[i]);
        json_t *config = NULL;
        if (sp_path_exists(path))
            rc = sp_json_load(path, SP_MAX_CONFIG_JSON, &config, err);
        const json_t *eos = json_object_get(config, "eos_token_id");
        if (json_is_array(eos))
            eos = json_array_get(eos, 0);
        if (json_is_integer(eos) && json_integer_value(eos) >= 0 &&
            json_integer_value(eos) < SP_MAX_VOCAB)
            *ret = (int32_t)json_integer_value(eos);
        json_decref(config);
        free(path);
    }
    return rc;
}

static enum sp_err open_rendering(struct rendering *r, struct sp_error *err)
{
    int32_t eos = -1;
    enum sp_err rc = tok_load(r->tool->dir, &r->tokenizer, err);
    if (rc == SP_OK)
        rc = find_eos(r->tool->dir, &eos, err);
    if (rc != SP_OK)
        return rc;
    struct tok_renderer_options options = {.tokenizer = r->tokenizer,
                                           .dir = r->tool->dir,
                                           .template = r->tool->template_name,
                                           .eos_id = eos,
                                           .date = r->tool->date};
    rc = tok_renderer_open(&options, &r->renderer, err);
    return rc == SP_OK ? rc : sp_wrap(err, rc, "chat template (--template NAME chooses one)");
}

static bool is_assistant(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role != NULL && strcmp(role, "assistant") == 0;
}

static json_t *to_json(const struct sp_buf *text)
{
    return json_stringn(text->length > 0 ? text->data : "", text->length);
}

static void add_ids(json_t *object, const struct tok_ids *prompt, const struct tok_ids *response)
{
    json_t *ids = tool_ids_to_json(prompt->ids, prompt->count);
    json_t *more = tool_ids_to_json(response->ids, response->count), *mask = json_array();
    json_object_set_new(object, "prompt_ids", json_copy(ids));
    json_object_set_new(object, "response_ids", json_copy(more));
    json_array_extend(ids, more);
    json_decref(more);
    for (size_t i = 0; i < json_array_size(ids); i++)
        json_array_append_new(mask, json_integer(i >= prompt->count));
    json_object_set_new(object, "ids", ids);
    json_object_set_new(object, "loss_mask", mask);
}

/* The parts of a rendering for people to read. */
static enum sp_err print_parts(const struct tok_rendering *parts, const struct tok_ids *prompt,
                               const struct tok_ids *response, bool answered, struct sp_error *err)
{
    struct sp_buf out = SP_BUF_INIT;
    sp_buf_printf(&out, "--- prompt, %zu tokens\n", prompt->count);
    sp_buf_append(&out, parts->prompt.data, parts->prompt.length);
    if (answered) {
        sp_buf_printf(&out, "\n--- response, %zu tokens in the loss%s\n", response->count,
                      parts->add_end ? ", the model's end token behind it" : "");
        sp_buf_append(&out, parts->response.data, parts->response.length);
    }
    sp_buf_putc(&out, '\n');
    enum sp_err rc = tool_print(out.data, out.length, err);
    sp_buf_deinit(&out);
    return rc;
}

/* Prompt and response of a conversation; the object gets what there is to say. */
static enum sp_err split(struct rendering *r, const json_t *context, const json_t *answer,
                         json_t *object, struct sp_error *err)
{
    struct tok_rendering parts = {0};
    struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
    enum sp_err rc = tok_render_split(r->renderer, context, answer, &parts, err);
    if (rc == SP_OK)
        rc = tok_rendering_encode(r->renderer, &parts, &prompt, answer != NULL ? &response : NULL,
                                  err);
    if (rc == SP_OK && !r->tool->json) {
        rc = print_parts(&parts, &prompt, &response, answer != NULL, err);
    } else if (rc == SP_OK) {
        json_object_set_new(object, "prompt", to_json(&parts.prompt));
        json_object_set_new(object, "response",
                            answer != NULL ? to_json(&parts.response) : json_null());
        add_ids(object, &prompt, &response);
        json_object_set_new(object, "end_id", json_integer(tok_renderer_end_id(r->renderer)));
    }
    tok_rendering_deinit(&parts);
    tok_ids_deinit(&prompt);
    tok_ids_deinit(&response);
    return rc;
}

/* The text of the whole conversation, whether it can be split or not; `none` has none. */
static enum sp_err whole_text(struct rendering *r, const json_t *context, bool header,
                              json_t *object, struct sp_error *err)
{
    struct sp_buf text = SP_BUF_INIT;
    const json_t *wanted = json_object_get(context, "add_generation_prompt");
    if (strcmp(tok_renderer_name(r->renderer), "none") == 0)
        return SP_OK;
    enum sp_err rc = tok_render_context(
        r->renderer, context, json_is_boolean(wanted) ? json_is_true(wanted) : header, &text, err);
    if (rc == SP_OK)
        json_object_set_new(object, "text", to_json(&text));
    sp_buf_deinit(&text);
    return rc;
}

/* One conversation: a list of messages, or an object with them and what else the template asks for.
 */
static enum sp_err render_one(struct rendering *r, json_t *value, struct sp_error *err)
{
    json_t *context =
        json_is_array(value) ? json_pack("{s:O}", "messages", value) : json_copy(value);
    json_t *messages = json_object_get(context, "messages");
    if (!json_is_array(messages)) {
        json_decref(context);
        return sp_fail(err, SP_EFORMAT,
                       "expected a list of messages, or an object with \"messages\"");
    }
    json_t *object = json_pack("{s:s}", "template", tok_renderer_name(r->renderer));
    size_t count = json_array_size(messages);
    json_t *answer = count > 0 ? json_array_get(messages, count - 1) : NULL;
    answer = is_assistant(answer) ? json_incref(answer) : NULL;
    enum sp_err rc = whole_text(r, context, answer == NULL, object, err);
    if (answer != NULL) {
        json_t *turns = json_copy(messages);
        json_array_remove(turns, count - 1);
        json_object_set_new(context, "messages", turns);
    }
    if (rc == SP_OK) {
        rc = split(r, context, answer, object, err);
        if (rc != SP_OK)
            json_object_set_new(object, "refused", json_string(err != NULL ? err->text : ""));
        struct sp_error print_error = {0};
        if (r->tool->json && tool_print_json(json_incref(object), &print_error) != SP_OK)
            rc = sp_fail(err, print_error.code, "%s", print_error.text);
    }
    json_decref(answer);
    json_decref(object);
    json_decref(context);
    return rc;
}

/* A document, or JSON lines; every conversation is rendered, the first refusal is the result. */
static enum sp_err render_all(struct rendering *r, const char *text, size_t length,
                              struct sp_error *err)
{
    json_t *value = NULL;
    const char *what = strcmp(r->tool->input, "-") == 0 ? "standard input" : r->tool->input;
    enum sp_err rc = sp_json_parse(text, length, what, &value, NULL);
    if (rc == SP_OK) {
        rc = render_one(r, value, err);
        json_decref(value);
        return rc;
    }
    rc = SP_OK;
    size_t number = 1;
    for (size_t i = 0; i < length; number++) {
        const char *end = memchr(text + i, '\n', length - i);
        size_t n = end != NULL ? (size_t)(end - text) - i : length - i;
        struct sp_error line_error = {0};
        bool blank = strspn(text + i, " \t\r") >= n;
        char *where = sp_xprintf("%s:%zu", what, number);
        enum sp_err line = blank ? SP_OK : sp_json_parse(text + i, n, where, &value, &line_error);
        bool parsed = line == SP_OK;
        if (parsed && !blank) {
            line = render_one(r, value, &line_error);
            json_decref(value);
            if (line != SP_OK)
                sp_wrap(&line_error, line, "%s", where);
        }
        free(where);
        if (line != SP_OK && rc == SP_OK)
            rc = sp_fail(err, line, "%s", line_error.text);
        if (!parsed)
            return rc;
        i += n + 1;
    }
    return rc;
}

enum sp_err tool_render(struct tool *tool, struct sp_error *err)
{
    struct rendering r = {.tool = tool};
    char *text = NULL;
    size_t length = 0;
    if (tool->input == NULL)
        return sp_fail(err, SP_EINVAL,
                       "render: --messages FILE is missing: a JSON list of messages, or - for "
                       "standard input");
    enum sp_err rc = open_rendering(&r, err);
    if (rc == SP_OK)
        rc = tool_read_all(tool->input, SP_MAX_TEXT, &text, &length, err);
    if (rc == SP_OK)
        rc = render_all(&r, text, length, err);
    free(text);
    tok_renderer_free(r.renderer);
    tok_free(r.tokenizer);
    return rc;
}

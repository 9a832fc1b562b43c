#include "common/text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/text/chat_internal.h"
#include "common/text/internal.h"

struct tok_renderer {
    const struct tok_tokenizer *tokenizer; /* borrowed */
    struct tok_jinja *jinja;               /* NULL: `none` */
    char *name, *date;
    json_t *special; /* of the template's variables */
    int32_t eos_id;
    int32_t end_id;
    /* What the template writes behind an answer: up to and with the end token, or without white
     * space at its end where there is no such token. */
    char *tail;
    size_t tail_bytes; /* of all that it writes behind an answer */
    char *tail_all;
    bool add_end; /* the tail has no end token */
};

/* ---- texts ---- */

static bool is_prefix(const struct sp_buf *prefix, const struct sp_buf *text)
{
    return prefix->length <= text->length &&
           (prefix->length == 0 || memcmp(prefix->data, text->data, prefix->length) == 0);
}

/* The context with `answer` behind its messages, where that is not NULL. New reference. */
static json_t *make_context(const struct tok_renderer *r, const json_t *context,
                            const json_t *answer, bool add_generation_prompt)
{
    json_t *all = json_object();
    json_object_set_new(all, "tools", json_null());
    json_object_set_new(all, "documents", json_null());
    const char *key;
    json_t *value;
    json_object_foreach(r->special, key, value)
    {
        if (json_is_string(value))
            json_object_set(all, key, value);
    }
    json_object_update(all, (json_t *)context);
    json_object_set_new(all, "add_generation_prompt", json_boolean(add_generation_prompt));
    if (answer != NULL) {
        json_t *messages = json_copy(json_object_get(context, "messages"));
        json_array_append(messages, (json_t *)answer);
        json_object_set_new(all, "messages", messages);
    }
    return all;
}

static enum sp_err render(const struct tok_renderer *r, const json_t *context, const json_t *answer,
                          bool add_generation_prompt, struct sp_buf *ret, struct sp_error *err)
{
    json_t *all = make_context(r, context, answer, add_generation_prompt);
    enum sp_err rc = tok_jinja_render(r->jinja, all, r->date, ret, err);
    json_decref(all);
    return rc;
}

enum sp_err tok_render_context(const struct tok_renderer *renderer, const json_t *context,
                               bool add_generation_prompt, struct sp_buf *ret, struct sp_error *err)
{
    if (renderer->jinja == NULL)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "the template \"none\" has no rendering of a conversation");
    return render(renderer, context, NULL, add_generation_prompt, ret, err);
}

void tok_rendering_deinit(struct tok_rendering *rendering)
{
    sp_buf_deinit(&rendering->prompt);
    sp_buf_deinit(&rendering->response);
}

static const char *content_of(const json_t *message, const char *field)
{
    return json_string_value(json_object_get(message, field));
}

/* Under `none`: one user message, and the answer. */
static enum sp_err split_plain(const json_t *messages, const json_t *answer,
                               struct tok_rendering *ret, struct sp_error *err)
{
    const json_t *only = json_array_get(messages, 0);
    const char *role = content_of(only, "role"), *content = content_of(only, "content");
    if (json_array_size(messages) != 1 || role == NULL || strcmp(role, "user") != 0)
        return sp_fail(err, SP_EINVAL,
                       "the template \"none\" takes one user message and nothing else; choose a "
                       "chat template for conversations");
    if (content == NULL || (answer != NULL && content_of(answer, "content") == NULL))
        return sp_fail(err, SP_EINVAL, "the template \"none\" takes messages with a text");
    sp_buf_puts(&ret->prompt, content);
    if (answer != NULL)
        sp_buf_puts(&ret->response, content_of(answer, "content"));
    ret->add_end = true;
    return SP_OK;
}

static enum sp_err no_prefix(const struct tok_renderer *r, struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED,
                   "%s: the prompt that this template renders is not the start of the conversation "
                   "with its answer, so it can't be trained on; name another one (template = …)",
                   r->name);
}

/* What the conversation with the answer adds to the prompt. */
static enum sp_err render_response(const struct tok_renderer *r, const json_t *context,
                                   const json_t *answer, const struct sp_buf *prompt,
                                   struct sp_buf *ret, struct sp_error *err)
{
    struct sp_buf whole = SP_BUF_INIT;
    enum sp_err rc = render(r, context, answer, false, &whole, err);
    if (rc == SP_OK && !is_prefix(prompt, &whole))
        rc = no_prefix(r, err);
    if (rc == SP_OK)
        sp_buf_append(ret, whole.data + prompt->length, whole.length - prompt->length);
    sp_buf_deinit(&whole);
    return rc;
}

enum sp_err tok_render_split(const struct tok_renderer *r, const json_t *context,
                             const json_t *answer, struct tok_rendering *ret, struct sp_error *err)
{
    struct tok_rendering out = {0};
    const json_t *messages = json_object_get(context, "messages");
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return sp_fail(err, SP_EINVAL, "a prompt needs a user message");
    const char *last = content_of(json_array_get(messages, json_array_size(messages) - 1), "role");
    if (last != NULL && strcmp(last, "assistant") == 0)
        return sp_fail(err, SP_EINVAL, "the last message of a prompt must be the user's");
    enum sp_err rc;
    if (r->jinja == NULL) {
        rc = split_plain(messages, answer, &out, err);
    } else {
        rc = render(r, context, NULL, true, &out.prompt, err);
        if (rc == SP_OK && answer != NULL)
            rc = render_response(r, context, answer, &out.prompt, &out.response, err);
        size_t length = out.response.length;
        if (rc == SP_OK && answer != NULL &&
            (length < r->tail_bytes ||
             memcmp(out.response.data + length - r->tail_bytes, r->tail_all, r->tail_bytes) != 0))
            rc = sp_fail(err, SP_EUNSUPPORTED,
                         "%s: what this template writes behind an answer depends on the "
                         "conversation; name another one (template = …)",
                         r->name);
        if (rc == SP_OK && answer != NULL) {
            out.response.length = length - r->tail_bytes;
            sp_buf_puts(&out.response, r->tail);
            out.add_end = r->add_end;
        }
    }
    if (rc == SP_OK)
        *ret = out;
    else
        tok_rendering_deinit(&out);
    return rc;
}

/* ---- ids ---- */

static enum sp_err check_ids(const struct tok_renderer *r, const struct tok_ids *ids, size_t from,
                             struct sp_error *err)
{
    for (size_t i = from; i + 1 < ids->count; i++)
        if (ids->ids[i] == r->end_id)
            return sp_fail(err, SP_EFORMAT,
                           "the answer holds the end token %s itself: a model that learns it stops "
                           "there; cut the answer or change its text",
                           tok_token_of(r->tokenizer, r->end_id));
    if (ids->count == from || ids->ids[ids->count - 1] != r->end_id)
        return sp_fail(err, SP_EUNSUPPORTED, "%s: the answer does not end with the end token %s",
                       r->name, tok_token_of(r->tokenizer, r->end_id));
    return SP_OK;
}

/* The response's ids as they follow the prompt's in the whole text; where a token spans the two,
 * those of the response by itself. */
static enum sp_err encode_response(const struct tok_renderer *r, const struct tok_rendering *text,
                                   const int32_t *prompt, size_t prompt_count, struct tok_ids *ret,
                                   struct sp_error *err)
{
    struct sp_buf whole = SP_BUF_INIT;
    struct tok_ids ids = TOK_IDS_INIT;
    sp_buf_append(&whole, text->prompt.data, text->prompt.length);
    sp_buf_append(&whole, text->response.data, text->response.length);
    enum sp_err rc = tok_encode(r->tokenizer, whole.data, whole.length, 0, &ids, err);
    bool split = rc == SP_OK && ids.count >= prompt_count &&
                 memcmp(ids.ids, prompt, prompt_count * sizeof(*prompt)) == 0;
    if (split)
        tok_ids_append_all(ret, ids.ids + prompt_count, ids.count - prompt_count);
    else if (rc == SP_OK)
        rc = tok_encode(r->tokenizer, text->response.data, text->response.length, TOK_CONTINUE, ret,
                        err);
    tok_ids_deinit(&ids);
    sp_buf_deinit(&whole);
    return rc;
}

enum sp_err tok_rendering_encode(const struct tok_renderer *r, const struct tok_rendering *text,
                                 struct tok_ids *ret_prompt, struct tok_ids *ret_response,
                                 struct sp_error *err)
{
    size_t before = ret_prompt->count, from = ret_response != NULL ? ret_response->count : 0;
    bool plain = r->jinja == NULL;
    enum sp_err rc = tok_encode(r->tokenizer, text->prompt.length > 0 ? text->prompt.data : "",
                                text->prompt.length, plain ? TOK_ADD_PREFIX : 0, ret_prompt, err);
    if (rc != SP_OK) {
        sp_wrap(err, rc, "prompt");
    } else if (ret_response != NULL) {
        struct tok_rendering filled = *text;
        if (filled.response.length == 0)
            filled.response.data = (char *)"";
        if (plain)
            rc = tok_encode(r->tokenizer, filled.response.data, filled.response.length,
                            TOK_NO_SPECIAL_SPLIT, ret_response, err);
        else
            rc = encode_response(r, &filled, ret_prompt->ids + before, ret_prompt->count - before,
                                 ret_response, err);
        if (rc == SP_OK && text->add_end && r->end_id < 0)
            rc = sp_fail(err, SP_EINVAL,
                         "there is no end token: neither the model's eos_token_id nor one of the "
                         "template %s",
                         r->name);
        else if (rc == SP_OK && text->add_end)
            tok_ids_append(ret_response, r->end_id);
        if (rc == SP_OK)
            rc = check_ids(r, ret_response, from, err);
        if (rc != SP_OK)
            sp_wrap(err, rc, "response");
    }
    if (rc != SP_OK) {
        ret_prompt->count = before;
        if (ret_response != NULL)
            ret_response->count = from;
    }
    return rc;
}

static enum sp_err add_message(json_t *messages, const char *role, const char *content,
                               struct sp_error *err)
{
    size_t index = json_array_size(messages);
    json_t *message = json_pack("{s:s, s:s}", "role", role, "content", content);
    if (message == NULL)
        return sp_fail(err, SP_EFORMAT,
                       "message %zu: the text is not UTF-8: byte 0x%02x at offset "
                       "%zu",
                       index, (unsigned char)content[tok_utf8_check(content, strlen(content))],
                       tok_utf8_check(content, strlen(content)));
    json_array_append_new(messages, message);
    return SP_OK;
}

enum sp_err tok_render_example(const struct tok_renderer *renderer, const struct chat_turn *turns,
                               size_t count, const char *response, struct tok_ids *ret_prompt,
                               struct tok_ids *ret_response, struct sp_error *err)
{
    json_t *messages = json_array(), *answers = json_array();
    json_t *context = json_pack("{s:O}", "messages", messages);
    struct tok_rendering text = {0};
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < count && rc == SP_OK; i++)
        rc = add_message(messages, turns[i].role, turns[i].content, err);
    if (rc == SP_OK && response != NULL) {
        rc = add_message(answers, "assistant", response, err);
        if (rc != SP_OK)
            sp_wrap(err, rc, "response");
    }
    if (rc == SP_OK)
        rc = tok_render_split(renderer, context, json_array_get(answers, 0), &text, err);
    if (rc == SP_OK)
        rc = tok_rendering_encode(renderer, &text, ret_prompt,
                                  response != NULL ? ret_response : NULL, err);
    tok_rendering_deinit(&text);
    json_decref(context);
    json_decref(messages);
    json_decref(answers);
    return rc;
}

enum sp_err tok_render_prompt(const struct tok_renderer *renderer, const struct chat_turn *turns,
                              size_t count, struct tok_ids *ret, struct sp_error *err)
{
    return tok_render_example(renderer, turns, count, NULL, ret, NULL, err);
}

/* ---- opening ---- */

/* What a template writes behind an answer is what two different answers have behind them. */
static enum sp_err find_tail(struct tok_renderer *r, struct sp_error *err)
{
    struct sp_buf prompt = SP_BUF_INIT, texts[2] = {SP_BUF_INIT, SP_BUF_INIT};
    json_t *context = json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", "Why?");
    enum sp_err rc = render(r, context, NULL, true, &prompt, err);
    for (int i = 0; i < 2 && rc == SP_OK; i++) {
        json_t *answer =
            json_pack("{s:s, s:s}", "role", "assistant", "content", i == 0 ? "So0" : "As1");
        rc = render_response(r, context, answer, &prompt, &texts[i], err);
        json_decref(answer);
    }
    size_t n = 0;
    while (rc == SP_OK && n < texts[0].length && n < texts[1].length &&
           texts[0].data[texts[0].length - 1 - n] == texts[1].data[texts[1].length - 1 - n])
        n++;
    if (rc == SP_OK && (n == texts[0].length || n == texts[1].length))
        rc = sp_fail(err, SP_EUNSUPPORTED, "%s: the template does not write the answer", r->name);
    if (rc == SP_OK) {
        r->tail_all = sp_xstrndup(n > 0 ? texts[0].data + texts[0].length - n : "", n);
        r->tail_bytes = n;
    }
    json_decref(context);
    sp_buf_deinit(&prompt);
    sp_buf_deinit(&texts[0]);
    sp_buf_deinit(&texts[1]);
    return rc;
}

/* Cuts the tail behind the first token in it that ends a turn. */
static enum sp_err find_end(struct tok_renderer *r, struct sp_error *err)
{
    struct tok_ids ids = TOK_IDS_INIT;
    enum sp_err rc = tok_encode(r->tokenizer, r->tail_all, r->tail_bytes, TOK_CONTINUE, &ids, err);
    r->tail = sp_xstrdup(r->tail_all);
    r->add_end = true;
    for (size_t i = 0; i < ids.count && r->add_end; i++) {
        if (!tok_is_special(r->tokenizer, ids.ids[i]) && ids.ids[i] != r->eos_id)
            continue;
        const char *token = tok_token_of(r->tokenizer, ids.ids[i]);
        char *hit = strstr(r->tail, token);
        if (hit == NULL)
            continue;
        hit[strlen(token)] = 0;
        r->end_id = ids.ids[i];
        r->add_end = false;
    }
    size_t length = strlen(r->tail);
    while (r->add_end && length > 0 && strchr(" \t\r\n", r->tail[length - 1]) != NULL)
        r->tail[--length] = 0;
    tok_ids_deinit(&ids);
    return rc;
}

/* Tokens that the model's files leave open: eos by its id, BOS as the post-processor has it. */
static void fill_special(struct tok_renderer *r)
{
    const struct tok_tokenizer *t = r->tokenizer;
    const char *eos = r->eos_id >= 0 ? tok_token_of(t, r->eos_id) : NULL;
    const char *bos = t->prefix.count == 1 ? tok_token_of(t, t->prefix.ids[0]) : NULL;
    if (json_object_get(r->special, "eos_token") == NULL && eos != NULL)
        json_object_set_new(r->special, "eos_token", json_string(eos));
    if (json_object_get(r->special, "bos_token") == NULL && bos != NULL)
        json_object_set_new(r->special, "bos_token", json_string(bos));
}

/* Chooses text and name; *ret_text: owned; NULL for `none`. */
static enum sp_err choose(const struct tok_renderer_options *o, struct tok_renderer *r,
                          char **ret_text, struct sp_error *err)
{
    struct tok_chat_source source = {0};
    bool own = strcmp(o->template, "auto") == 0;
    enum sp_err rc = own ? SP_OK : tok_template_check_name(o->template, err);
    if (rc == SP_OK)
        rc = tok_chat_source_read(o->dir, own, &source, err);
    if (rc != SP_OK)
        return rc;
    const char *text = own ? source.text : tok_template_text(o->template);
    *ret_text = text != NULL ? sp_xstrdup(text) : NULL;
    r->name = sp_xstrdup(!own ? o->template : text != NULL ? source.what : "none");
    r->special = json_incref(source.special);
    tok_chat_source_deinit(&source);
    return SP_OK;
}

enum sp_err tok_renderer_open(const struct tok_renderer_options *o, struct tok_renderer **ret,
                              struct sp_error *err)
{
    struct tok_renderer *r = sp_xalloc(sizeof(*r));
    char *text = NULL;
    r->tokenizer = o->tokenizer;
    r->eos_id = r->end_id = o->eos_id;
    r->date = sp_xstrdup(o->date != NULL ? o->date : "");
    enum sp_err rc = SP_OK;
    if (o->eos_id >= tok_vocab_size(o->tokenizer))
        rc = sp_fail(err, SP_EINVAL,
                     "the model's eos_token_id is %d, outside the tokenizer's vocabulary of %d",
                     o->eos_id, tok_vocab_size(o->tokenizer));
    if (rc == SP_OK)
        rc = choose(o, r, &text, err);
    if (rc == SP_OK && text != NULL) {
        fill_special(r);
        rc = tok_jinja_compile(text, strlen(text), r->name, &r->jinja, err);
        if (rc == SP_OK)
            rc = find_tail(r, err);
        if (rc == SP_OK)
            rc = find_end(r, err);
    }
    free(text);
    if (rc == SP_OK)
        *ret = r;
    else
        tok_renderer_free(r);
    return rc;
}

void tok_renderer_free(struct tok_renderer *r)
{
    if (r == NULL)
        return;
    tok_jinja_free(r->jinja);
    json_decref(r->special);
    free(r->name);
    free(r->date);
    free(r->tail);
    free(r->tail_all);
    free(r);
}

const char *tok_renderer_name(const struct tok_renderer *renderer)
{
    return renderer->name;
}

int32_t tok_renderer_end_id(const struct tok_renderer *renderer)
{
    return renderer->end_id;
}

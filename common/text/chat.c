#include "common/text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/text/chat_template.h"
#include "common/text/internal.h"

/* The parts of a rendered prompt. */
struct prompt {
    struct tok_part *parts; /* owned; their texts are borrowed */
    size_t count, capacity;
    int32_t eos_id;
    bool trim;
    bool trusted; /* contents may hold special tokens */
};

static void add_part(struct prompt *p, const char *text, size_t length, bool user)
{
    if (text != NULL && length == 0)
        return;
    if (p->count == p->capacity) {
        p->capacity = SP_MAX(2 * p->capacity, (size_t)16);
        p->parts = sp_xgrow(p->parts, p->capacity, sizeof(*p->parts));
    }
    p->parts[p->count++] =
        (struct tok_part){.text = text, .length = length, .user = user, .token = p->eos_id};
}

/* The content without the white space at its ends, where the template cuts that. */
static const char *trimmed(const char *text, bool left, bool right, size_t *ret_length)
{
    size_t length = strlen(text);
    if (tok_utf8_check(text, length) == length) {
        while (left && length > 0) {
            size_t next = 0;
            if (!tok_is_space(tok_utf8_next(text, &next)))
                break;
            text += next;
            length -= next;
        }
        while (right && length > 0) {
            size_t before = tok_utf8_before(text, length), next = before;
            if (!tok_is_space(tok_utf8_next(text, &next)))
                break;
            length = before;
        }
    }
    *ret_length = length;
    return text;
}

/* A system message within the first user message, as it is. */
static void add_inner_system(struct prompt *p, const char *form, const char *system)
{
    size_t n = strcspn(form, "\1");
    add_part(p, form, n, false);
    add_part(p, system, strlen(system), true);
    add_part(p, form + n + 1, strlen(form + n + 1), false);
}

/* Adds a form with its content in place; `system`, where not NULL, opens the content. */
static void add_form(struct prompt *p, const char *form, const char *system_form,
                     const char *system, const char *content)
{
    while (*form != '\0') {
        size_t n = strcspn(form, "\1\2");
        add_part(p, form, n, false);
        form += n;
        if (*form == '\1') {
            if (system != NULL)
                add_inner_system(p, system_form, system);
            size_t length;
            const char *text = trimmed(content, p->trim && system == NULL, p->trim, &length);
            add_part(p, text, length, !p->trusted);
        } else if (*form == '\2') {
            add_part(p, NULL, 0, false);
        }
        form += *form != '\0';
    }
}

static enum sp_err check_turns(enum tok_template template, const struct chat_turn *turns,
                               size_t count, struct sp_error *err)
{
    size_t first = count > 0 && strcmp(turns[0].role, "system") == 0 ? 1 : 0;
    if (tok_template_spec(template)->plain && (first != 0 || count != 1))
        return sp_fail(err, SP_EINVAL,
                       "the template \"none\" takes one user message and nothing else; choose a "
                       "chat template for conversations");
    for (size_t i = first; i < count; i++) {
        const char *expected = (i - first) % 2 == 0 ? "user" : "assistant";
        if (strcmp(turns[i].role, expected) != 0)
            return sp_fail(err, SP_EINVAL, "message %zu has the role \"%.32s\", expected \"%s\"", i,
                           turns[i].role, expected);
    }
    if ((count - first) % 2 == 0)
        return sp_fail(err, SP_EINVAL,
                       count > first ? "the last message of a prompt must be the user's"
                                     : "a prompt needs a user message");
    return SP_OK;
}

static enum sp_err build(enum tok_template template, const struct chat_turn *turns, size_t count,
                         int32_t eos_id, struct prompt *ret, struct sp_error *err)
{
    enum sp_err rc = check_turns(template, turns, count, err);
    if (rc != SP_OK)
        return rc;
    const struct tok_template_spec *spec = tok_template_spec(template);
    const char *system = spec->default_system;
    size_t i = 0;
    ret->eos_id = eos_id;
    ret->trim = spec->trim;
    ret->trusted = spec->plain;
    if (strcmp(turns[0].role, "system") == 0)
        system = turns[i++].content;
    if (system != NULL && !spec->system_in_user)
        add_form(ret, spec->system, NULL, NULL, system);
    const char *user_form = spec->user;
    for (; i < count; i++) {
        if (strcmp(turns[i].role, "assistant") == 0) {
            add_form(ret, spec->assistant, NULL, NULL, turns[i].content);
            continue;
        }
        add_form(ret, user_form, spec->system, spec->system_in_user ? system : NULL,
                 turns[i].content);
        system = NULL;
        if (spec->next_user != NULL)
            user_form = spec->next_user;
    }
    add_part(ret, spec->header, strlen(spec->header), false);
    return SP_OK;
}

enum sp_err tok_chat_render(enum tok_template template, const struct chat_turn *turns, size_t count,
                            const char *eos, struct sp_buf *ret_prompt, struct sp_error *err)
{
    struct prompt p = {0};
    enum sp_err rc = build(template, turns, count, 0, &p, err);
    for (size_t i = 0; rc == SP_OK && i < p.count; i++) {
        if (p.parts[i].text != NULL)
            sp_buf_append(ret_prompt, p.parts[i].text, p.parts[i].length);
        else
            sp_buf_puts(ret_prompt, eos);
    }
    free(p.parts);
    return rc;
}

void tok_chat_render_response(enum tok_template template, const char *response,
                              struct sp_buf *ret_response)
{
    const struct tok_template_spec *spec = tok_template_spec(template);
    size_t length;
    const char *text = trimmed(response, spec->trim, spec->trim, &length);
    if (spec->response_prefix != NULL)
        sp_buf_puts(ret_response, spec->response_prefix);
    sp_buf_append(ret_response, text, length);
}

int32_t tok_template_end_id(enum tok_template template, const struct tok_tokenizer *tokenizer,
                            int32_t eos_id)
{
    const char *end = tok_template_spec(template)->end;
    int32_t id = end != NULL ? tok_id_of(tokenizer, end) : -1;
    return id >= 0 && tok_is_special(tokenizer, id) ? id : eos_id;
}

static enum sp_err check_renderer(const struct tok_renderer *renderer, struct sp_error *err)
{
    int32_t limit = tok_vocab_size(renderer->tokenizer);
    if (renderer->eos_id >= 0 && renderer->eos_id < limit)
        return SP_OK;
    return sp_fail(err, SP_EINVAL,
                   "the model's eos_token_id is %d, outside the tokenizer's vocabulary of %d",
                   renderer->eos_id, limit);
}

enum sp_err tok_render_prompt(const struct tok_renderer *renderer, const struct chat_turn *turns,
                              size_t count, struct tok_ids *ret, struct sp_error *err)
{
    struct prompt p = {0};
    size_t before = ret->count;
    enum sp_err rc = check_renderer(renderer, err);
    if (rc == SP_OK)
        rc = build(renderer->template, turns, count, renderer->eos_id, &p, err);
    if (rc == SP_OK) {
        const char *bos = tok_template_spec(renderer->template)->bos;
        int32_t id = bos != NULL ? tok_id_of(renderer->tokenizer, bos) : -1;
        if (renderer->tokenizer->prefix.count == 0 && tok_is_special(renderer->tokenizer, id))
            tok_ids_append(ret, id);
        rc = tok_encode_parts(renderer->tokenizer, p.parts, p.count, TOK_ADD_PREFIX, ret, err);
    }
    free(p.parts);
    if (rc != SP_OK)
        ret->count = before;
    return rc == SP_OK ? rc : sp_wrap(err, rc, "prompt");
}

enum sp_err tok_render_response(const struct tok_renderer *renderer, const char *response,
                                struct tok_ids *ret, struct sp_error *err)
{
    enum sp_err rc = check_renderer(renderer, err);
    if (rc != SP_OK)
        return rc;
    struct sp_buf text = SP_BUF_INIT;
    tok_chat_render_response(renderer->template, response, &text);
    unsigned flags = TOK_NO_SPECIAL_SPLIT;
    if (!tok_template_spec(renderer->template)->plain)
        flags |= TOK_CONTINUE;
    rc = tok_encode(renderer->tokenizer, text.data != NULL ? text.data : "", text.length, flags,
                    ret, err);
    sp_buf_deinit(&text);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "response");
    tok_ids_append(ret,
                   tok_template_end_id(renderer->template, renderer->tokenizer, renderer->eos_id));
    return SP_OK;
}

enum sp_err tok_render_example(const struct tok_renderer *renderer, const struct chat_turn *turns,
                               size_t count, const char *response, struct tok_ids *ret_prompt,
                               struct tok_ids *ret_response, struct sp_error *err)
{
    size_t before = ret_prompt->count;
    enum sp_err rc = tok_render_prompt(renderer, turns, count, ret_prompt, err);
    if (rc == SP_OK)
        rc = tok_render_response(renderer, response, ret_response, err);
    if (rc != SP_OK)
        ret_prompt->count = before;
    return rc;
}

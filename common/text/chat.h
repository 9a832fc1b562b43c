/* chat: from the turns of a conversation to the token ids of a prompt and of its response.
 *
 * One rendering for sampling and for training, by a chat template: the model's own, or one of the
 * table of names (chat_templates.c). Both are texts in Jinja that one interpreter renders
 * (jinja.h), and what comes out is what transformers' apply_chat_template gives: prompt text   =
 * the turns, rendered with add_generation_prompt response text = what the rendering of the turns
 * with the answer behind them adds to it, up to and with its end token prompt ids    =
 * encode(prompt text), no token added: the template writes BOS where there is one response ids  =
 * the rest of encode(prompt text + response text), or encode(response text) where a token would
 * span the two Where the rendering with the answer does not start with the prompt, the template is
 * refused for this conversation. The end token is the first special token that the template writes
 * behind an answer, else the model's eos, which is then added. A response has it once, at its end;
 * an answer that holds its text is refused.
 *
 * As in transformers, the text of a special token is that token wherever it stands, in what a user
 * wrote, too.
 *
 * Under `none` prompt and response are texts of their own:
 *   prompt ids    = what the post-processor puts before a text (BOS) + encode(prompt)
 *   response ids  = encode(response), special tokens not recognised, + eos */
#ifndef SPIN_TEXT_CHAT_H
#define SPIN_TEXT_CHAT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/text/tokenizer.h"

/* One message; strings are borrowed. */
struct chat_turn {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* UTF-8 */
};

/* The named templates, for help texts; "auto" is not one of them. NULL behind the last. */
const char *tok_template_name(size_t index);     /* static */
const char *tok_template_text(const char *name); /* Jinja; static; NULL: no such name, or "none" */

/* A template with the tokenizer that it speaks to. Never changes; any thread. */
struct tok_renderer;

struct tok_renderer_options {
    const struct tok_tokenizer *tokenizer; /* borrowed for the renderer's life */
    const char *dir;      /* of the model: tokenizer_config.json, chat_template.jinja; NULL: none */
    const char *template; /* a name, or "auto": the model's own, `none` where it has none */
    int32_t eos_id;       /* of the model, from generation_config.json or config.json; -1: none */
    const char *date;     /* "2026-07-31", for templates that ask for today's; "" or NULL: none */
};
/* Reads files. An unknown name is SP_EINVAL with the list; a template that can't be parsed, or that
 * can't render a question and its answer, is refused with its line. */
enum sp_err tok_renderer_open(const struct tok_renderer_options *options, struct tok_renderer **ret,
                              struct sp_error *err) SP_MUST_USE;
void tok_renderer_free(struct tok_renderer *renderer); /* NULL is fine */

/* The table's name, or the file that the template is from; owned by the renderer. */
const char *tok_renderer_name(const struct tok_renderer *renderer);
/* The token that ends a response; -1: neither the template nor the model has one. */
int32_t tok_renderer_end_id(const struct tok_renderer *renderer);

/* The text of a conversation, as apply_chat_template(tokenize=False) gives it. `context` is an
 * object with `messages` and whatever else the template may ask for (tools, enable_thinking, …).
 * SP_EUNSUPPORTED under `none`. Appends. */
enum sp_err tok_render_context(const struct tok_renderer *renderer, const json_t *context,
                               bool add_generation_prompt, struct sp_buf *ret,
                               struct sp_error *err) SP_MUST_USE;

/* A prompt and its response as text; under `none` the response without its end token. */
struct tok_rendering {
    struct sp_buf prompt, response;
    bool add_end; /* the response's end token is not in its text */
};
void tok_rendering_deinit(struct tok_rendering *rendering);
/* context.messages: the turns of the prompt. answer: NULL: the prompt alone, else a message. */
enum sp_err tok_render_split(const struct tok_renderer *renderer, const json_t *context,
                             const json_t *answer, struct tok_rendering *ret,
                             struct sp_error *err) SP_MUST_USE;
/* The ids of a rendering; ret_response may be NULL. Both as before on failure. */
enum sp_err tok_rendering_encode(const struct tok_renderer *renderer,
                                 const struct tok_rendering *rendering, struct tok_ids *ret_prompt,
                                 struct tok_ids *ret_response, struct sp_error *err) SP_MUST_USE;

/* The same for plain turns. Append; what was appended is taken back on failure. */
enum sp_err tok_render_prompt(const struct tok_renderer *renderer, const struct chat_turn *turns,
                              size_t count, struct tok_ids *ret, struct sp_error *err) SP_MUST_USE;
enum sp_err tok_render_example(const struct tok_renderer *renderer, const struct chat_turn *turns,
                               size_t count, const char *response, struct tok_ids *ret_prompt,
                               struct tok_ids *ret_response, struct sp_error *err) SP_MUST_USE;

#endif

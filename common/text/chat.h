/* chat: from the turns of a conversation to the token ids of a prompt and of its response.
 *
 * One rendering for sampling and for training. A prompt is everything up to the place where the
 * assistant's answer starts, the header of that answer included; a response is the answer and one
 * end token. Both are tokenized by themselves, by one rule:
 *   prompt ids   = BOS + encode(prompt text)
 *   response ids = encode(response text) + end token
 * BOS is what the tokenizer's post-processor puts before a text; where it puts nothing and the
 * template is one that begins with a BOS token, that token. The end token is the template's
 * end-of-turn token where the vocabulary has it as a special token, else the model's eos.
 * Under a chat template the response goes on from the header: no start-of-text mark comes between
 * them (TOK_CONTINUE), and the two together spell the rendered text. Under `none` each is a text of
 * its own, encoded as it is.
 * What a user or an assistant wrote never turns into a special token (tok_part.user), so that a
 * response has its end token once. The one exception is a prompt under `none`: whoever names that
 * template has rendered the prompts already, special tokens included.
 *
 * Any thread; blocks on nothing, but tok_template_of_model reads files. */
#ifndef SPIN_TEXT_CHAT_H
#define SPIN_TEXT_CHAT_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/text/tokenizer.h"

/* One message; strings are borrowed. */
struct chat_turn {
    const char *role;    /* "system" (only the first), "user", "assistant" */
    const char *content; /* UTF-8 */
};

/* name, description. `qwen`, `qwen2` and `smollm2` are ChatML with the system message that these
 * add where there is none; Qwen 3 is plain `chatml`. */
#define TOK_TEMPLATE_LIST(X)                                                                       \
    X(NONE, "none", "prompt and response as they are; one user turn")                              \
    X(CHATML, "chatml", "<|im_start|>user … <|im_end|>")                                           \
    X(ZEPHYR, "zephyr", "<|user|> … </s>")                                                         \
    X(LLAMA2, "llama2", "[INST] <<SYS>> … [/INST]")                                                \
    X(LLAMA3, "llama3", "<|start_header_id|>user<|end_header_id|> … <|eot_id|>")                   \
    X(MISTRAL, "mistral", "[INST] … [/INST]")                                                      \
    X(GEMMA, "gemma", "<start_of_turn>user … <end_of_turn>")                                       \
    X(PHI3, "phi3", "<|user|> … <|end|>")                                                          \
    X(QWEN, "qwen", "chatml with Qwen 2.5's system message")                                       \
    X(QWEN2, "qwen2", "chatml with Qwen 2's system message")                                       \
    X(SMOLLM2, "smollm2", "chatml with SmolLM2's system message")                                  \
    X(ALPACA, "alpaca", "Below is an instruction … ### Instruction: … ### Response:")              \
    X(VICUNA, "vicuna", "A chat between a curious user … USER: … ASSISTANT:")                      \
    X(INSTRUCTION, "instruction", "### Instruction: … ### Response: (the SPIN paper's)")

#define TOK_TEMPLATE_ENUM(id, name, what) TOK_TEMPLATE_##id,
enum tok_template { TOK_TEMPLATE_LIST(TOK_TEMPLATE_ENUM) TOK_TEMPLATE_COUNT };
#undef TOK_TEMPLATE_ENUM

const char *tok_template_name(enum tok_template template); /* static */
/* SP_EINVAL with the list of names; "auto" is not one of them. */
enum sp_err tok_template_parse(const char *name, enum tok_template *ret,
                               struct sp_error *err) SP_MUST_USE;
/* For `auto`: recognizes the template of a model by its tokenizer_config.json or
 * chat_template.jinja. A model that has neither, or no template in them, is `none`; a template that
 * is not one of the list is SP_EUNSUPPORTED with the list of names. */
enum sp_err tok_template_of_model(const char *model_dir, enum tok_template *ret,
                                  struct sp_error *err) SP_MUST_USE;
/* The same for the text of a template; `what` names its source. */
enum sp_err tok_template_recognize(const char *jinja, const char *what, enum tok_template *ret,
                                   struct sp_error *err) SP_MUST_USE;

/* The token that ends a response: the template's, or eos_id. */
int32_t tok_template_end_id(enum tok_template template, const struct tok_tokenizer *tokenizer,
                            int32_t eos_id);

/* The text of a prompt, for people to read: BOS is left out, an end token in it is written as `eos`
 * (may be ""). Appends to *ret_prompt. Turns out of order, an unknown role, a last turn that is not
 * the user's: SP_EINVAL that names the turn. */
enum sp_err tok_chat_render(enum tok_template template, const struct chat_turn *turns, size_t count,
                            const char *eos, struct sp_buf *ret_prompt,
                            struct sp_error *err) SP_MUST_USE;
/* The text of a response as it is tokenized, without the end token. Appends. */
void tok_chat_render_response(enum tok_template template, const char *response,
                              struct sp_buf *ret_response);

struct tok_renderer {
    const struct tok_tokenizer *tokenizer; /* borrowed */
    enum tok_template template;
    int32_t eos_id; /* of the model: generation_config.json or config.json */
};

/* Appends the prompt's ids. */
enum sp_err tok_render_prompt(const struct tok_renderer *renderer, const struct chat_turn *turns,
                              size_t count, struct tok_ids *ret, struct sp_error *err) SP_MUST_USE;
/* Appends the response's ids, the end token last. */
enum sp_err tok_render_response(const struct tok_renderer *renderer, const char *response,
                                struct tok_ids *ret, struct sp_error *err) SP_MUST_USE;
/* Both; what was appended is taken back on failure. */
enum sp_err tok_render_example(const struct tok_renderer *renderer, const struct chat_turn *turns,
                               size_t count, const char *response, struct tok_ids *ret_prompt,
                               struct tok_ids *ret_response, struct sp_error *err) SP_MUST_USE;

#endif

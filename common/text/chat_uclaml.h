/* chat_uclaml: how the code of the SPIN authors (github.com/uclaml/SPIN: spin/run_spin.py,
 * spin/alignment/data.py, utils.py, spin/generate.py) turns an example into tokens, quirks
 * included:
 *   - answers are sampled behind "### Instruction: PROMPT\n\n### Response: ", but trained on behind
 *     Zephyr's chat template with an empty system message;
 *   - the text of an answer ends with the template's end token and a line break, and the
 * tokenizer's end token is appended to that: it is there twice;
 *   - no BOS anywhere; an answer is a text of its own, with the mark of a text's start;
 *   - a sampled answer loses its end token and the white space at its start, and is tokenized
 * again, so that one that was cut at the limit has the end tokens, too. What their attention mask
 * does (end tokens within a text are masked) and their truncation of long texts are not followed:
 * docs/uclaml.md. Any thread. */
#ifndef SPIN_TEXT_CHAT_UCLAML_H
#define SPIN_TEXT_CHAT_UCLAML_H

#include "common/text/chat.h"

/* Tokens that an answer can have beyond those sampled: end, line break, end. */
#define TOK_UCLAML_EXTRA 8

struct tok_uclaml {
    const struct tok_tokenizer *tokenizer; /* borrowed */
    int32_t eos_id;                        /* of the model */
};

/* The prompt of training: one user turn, and a system turn before it or none. Others are SP_EINVAL.
 * Appends. */
enum sp_err tok_uclaml_prompt(const struct tok_uclaml *renderer, const struct chat_turn *turns,
                              size_t count, struct tok_ids *ret, struct sp_error *err) SP_MUST_USE;
/* The prompt behind which answers are sampled: the user turn alone. Appends. */
enum sp_err tok_uclaml_sample_prompt(const struct tok_uclaml *renderer,
                                     const struct chat_turn *turns, size_t count,
                                     struct tok_ids *ret, struct sp_error *err) SP_MUST_USE;
/* An answer, human or generated, as it is trained on. Appends. */
enum sp_err tok_uclaml_response(const struct tok_uclaml *renderer, const char *response,
                                size_t length, struct tok_ids *ret,
                                struct sp_error *err) SP_MUST_USE;
/* From the ids that were sampled to those that are trained on; of the answer's tokens at most
 * `most` are kept. Appends. */
enum sp_err tok_uclaml_generated(const struct tok_uclaml *renderer, const int32_t *ids,
                                 size_t count, size_t most, struct tok_ids *ret,
                                 struct sp_error *err) SP_MUST_USE;

#endif

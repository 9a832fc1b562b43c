/* chat_internal: what the files of the renderer share. Within common/text. */
#ifndef SPIN_TEXT_CHAT_INTERNAL_H
#define SPIN_TEXT_CHAT_INTERNAL_H

#include "common/text/chat.h"
#include "common/text/jinja.h"

/* A model's own template and the special tokens that it may name. */
struct tok_chat_source {
    char *text;      /* owned; NULL: the model has no template */
    char *what;      /* owned; where it is from */
    json_t *special; /* owned object: bos_token, eos_token … as text */
};
/* dir NULL: nothing is found. want_text false: only the special tokens. */
enum sp_err tok_chat_source_read(const char *dir, bool want_text, struct tok_chat_source *ret,
                                 struct sp_error *err) SP_MUST_USE;
void tok_chat_source_deinit(struct tok_chat_source *source);

enum sp_err tok_template_check_name(const char *name, struct sp_error *err) SP_MUST_USE;

#endif

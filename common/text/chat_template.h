/* chat_template: the spellings of the known templates. Within common/text. */
#ifndef SPIN_TEXT_CHAT_TEMPLATE_H
#define SPIN_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>

#include "common/text/chat.h"

/* A prompt is: opening, the system message, the turns, generation header. In these strings "\1" is
 * the content and "\2" the model's end token. */
struct tok_template_spec {
    const char *bos; /* token that the template begins with, where the tokenizer adds none */
    const char *end; /* token that ends a response; NULL: the model's eos */
    const char *system;
    bool system_in_user;        /* it goes to the start of the first user message's content */
    const char *default_system; /* the message where there is none; NULL: nothing then */
    const char *user;
    const char *next_user;       /* every user message but the first; NULL: as the first */
    const char *assistant;       /* an earlier answer */
    const char *header;          /* what an answer comes after */
    const char *response_prefix; /* put before a response's text */
    bool trim;                   /* white space at both ends of a content is cut off */
    bool plain;                  /* one user turn, and its response is a text of its own */
};

const struct tok_template_spec *tok_template_spec(enum tok_template template);

#endif

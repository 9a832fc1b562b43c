/* What happens to the matches of a splitting pattern.
 * Source of the rules: NormalizedString::split of the library that defines the format. */
#include <stdlib.h>

#include "common/text/internal.h"

void tok_spans_append(struct tok_spans *spans, size_t start, size_t end)
{
    if (spans->count == spans->capacity) {
        spans->capacity = spans->capacity < 16 ? 16 : spans->capacity * 2;
        spans->spans = sp_xgrow(spans->spans, spans->capacity, sizeof(*spans->spans));
    }
    spans->spans[spans->count++] =
        (struct tok_span){.start = (uint32_t)start, .end = (uint32_t)end};
}

struct splitter {
    enum tok_behavior behavior;
    bool invert;
    bool previous; /* the last piece was a match */
    size_t first;  /* of the pieces in *out that are this text's */
    struct tok_spans *out;
};

static void piece(struct splitter *s, size_t start, size_t end, bool is_match)
{
    is_match ^= s->invert;
    struct tok_span *last = s->out->count > s->first ? &s->out->spans[s->out->count - 1] : NULL;
    bool join = false;
    switch (s->behavior) {
    case TOK_REMOVED:
        if (is_match)
            return;
        break;
    case TOK_ISOLATED:
        break;
    case TOK_CONTIGUOUS:
        join = is_match == s->previous;
        break;
    case TOK_MERGED_WITH_PREVIOUS:
        join = is_match && !s->previous;
        break;
    case TOK_MERGED_WITH_NEXT: /* the text goes on behind a match, not behind two in a row */
        join = !is_match && s->previous;
        break;
    }
    s->previous = is_match;
    if (join && last != NULL)
        last->end = (uint32_t)end;
    else
        tok_spans_append(s->out, start, end);
}

void tok_split_apply(const struct tok_span *matches, size_t count, size_t start, size_t end,
                     enum tok_behavior behavior, bool invert, struct tok_spans *out)
{
    struct splitter s = {.behavior = behavior, .invert = invert, .first = out->count, .out = out};
    size_t at = start;
    for (size_t i = 0; i < count; i++) {
        if (matches[i].start > at)
            piece(&s, at, matches[i].start, false);
        piece(&s, matches[i].start, matches[i].end, true);
        at = matches[i].end;
    }
    if (at < end)
        piece(&s, at, end, false);
    /* Empty pieces, from matches of nothing, are no words. */
    size_t kept = s.first;
    for (size_t i = s.first; i < out->count; i++)
        if (out->spans[i].end > out->spans[i].start)
            out->spans[kept++] = out->spans[i];
    out->count = kept;
}

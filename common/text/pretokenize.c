/* Pre-tokenizers: each cuts the words that the one before it left, some rewrite them first. */
#include <stdlib.h>

#include "common/text/internal.h"

void tok_words_deinit(const struct tok_tokenizer *tokenizer, struct tok_words *words)
{
    for (size_t i = 0; words->matchers != NULL && i < tokenizer->pretokenizer_count; i++)
        tok_matcher_free(words->matchers[i]);
    free(words->matchers);
    free(words->spans.spans);
    free(words->matches.spans);
    free(words->next.spans);
    sp_buf_deinit(&words->buffer);
    sp_buf_deinit(&words->spare);
    *words = (struct tok_words){0};
}

/* All matches of a pattern in text[start, end), in the text's own offsets. */
static enum sp_err find_all(struct tok_matcher *matcher, const char *text, size_t start, size_t end,
                            struct tok_spans *ret, struct sp_error *err)
{
    size_t low, high;
    int found;
    tok_matcher_begin(matcher, text + start, end - start);
    while ((found = tok_matcher_next(matcher, &low, &high, err)) == 1)
        tok_spans_append(ret, start + low, start + high);
    return found < 0 ? SP_ELIMIT : SP_OK;
}

/* The commonest case, without a list of matches between: every match and every gap is a word. */
static enum sp_err split_isolated(struct tok_matcher *matcher, const char *text,
                                  struct tok_span span, struct tok_spans *out, struct sp_error *err)
{
    size_t length = span.end - span.start, done = 0, low, high;
    int found;
    tok_matcher_begin(matcher, text + span.start, length);
    while ((found = tok_matcher_next(matcher, &low, &high, err)) == 1) {
        if (low > done)
            tok_spans_append(out, span.start + done, span.start + low);
        if (high > low)
            tok_spans_append(out, span.start + low, span.start + high);
        done = high;
    }
    if (found < 0)
        return SP_ELIMIT;
    if (done < length)
        tok_spans_append(out, span.start + done, span.end);
    return SP_OK;
}

static void find_chars(enum tok_pretokenizer_kind kind, const char *text, struct tok_span span,
                       struct tok_spans *ret)
{
    for (size_t i = span.start; i < span.end;) {
        size_t start = i;
        uint32_t code = tok_utf8_next(text, &i);
        bool hit = kind == TOK_PRE_DIGITS        ? tok_is_number(code)
                   : kind == TOK_PRE_PUNCTUATION ? tok_is_punctuation(code)
                                                 : tok_is_space(code);
        if (hit)
            tok_spans_append(ret, start, i);
    }
}

static enum sp_err cut(const struct tok_pretokenizer *pre, struct tok_matcher *matcher,
                       struct tok_words *words, struct tok_span span, struct sp_error *err)
{
    bool by_pattern = pre->kind == TOK_PRE_SPLIT || pre->kind == TOK_PRE_BYTE_LEVEL ||
                      pre->kind == TOK_PRE_METASPACE;
    if (by_pattern && pre->behavior == TOK_ISOLATED && !pre->invert)
        return split_isolated(matcher, words->text, span, &words->next, err);
    words->matches.count = 0;
    if (by_pattern) {
        enum sp_err rc = find_all(matcher, words->text, span.start, span.end, &words->matches, err);
        if (rc != SP_OK)
            return rc;
    } else {
        find_chars(pre->kind, words->text, span, &words->matches);
    }
    tok_split_apply(words->matches.spans, words->matches.count, span.start, span.end, pre->behavior,
                    pre->invert, &words->next);
    return SP_OK;
}

static void append_replaced(struct sp_buf *out, const char *text, size_t length,
                            const char *replacement)
{
    while (length > 0) {
        const char *space = memchr(text, ' ', length);
        size_t n = space != NULL ? (size_t)(space - text) : length;
        sp_buf_append(out, text, n);
        if (space == NULL)
            return;
        sp_buf_puts(out, replacement);
        text += n + 1;
        length -= n + 1;
    }
}

/* Writes the span into `out` as the pre-tokenizer changes it. */
static void rewrite(const struct tok_pretokenizer *pre, const char *text, struct tok_span span,
                    bool start_of_input, bool no_prefix, struct sp_buf *out)
{
    const char *from = text + span.start;
    size_t length = span.end - span.start;
    if (pre->kind == TOK_PRE_METASPACE) {
        size_t n = strlen(pre->replacement);
        bool has = from[0] == ' ' || (length >= n && memcmp(from, pre->replacement, n) == 0);
        bool wanted = pre->prepend == TOK_PREPEND_ALWAYS ||
                      (pre->prepend == TOK_PREPEND_FIRST && start_of_input);
        if (wanted && !has && !no_prefix)
            sp_buf_puts(out, pre->replacement);
        append_replaced(out, from, length, pre->replacement);
        return;
    }
    bool prefix = pre->add_prefix_space && from[0] != ' ' && !no_prefix;
    if (!pre->map_bytes) {
        if (prefix)
            sp_buf_putc(out, ' ');
        sp_buf_append(out, from, length);
        return;
    }
    SP_ASSERT(!pre->splits); /* the loader puts the cutting into a step of its own */
    if (prefix)
        tok_bytes_to_level(out, " ", 1);
    tok_bytes_to_level(out, from, length);
}

static bool rewrites(const struct tok_pretokenizer *pre)
{
    return pre->kind == TOK_PRE_METASPACE ||
           (pre->kind == TOK_PRE_BYTE_LEVEL && (pre->add_prefix_space || pre->map_bytes));
}

static bool cuts(const struct tok_pretokenizer *pre)
{
    return (pre->kind != TOK_PRE_BYTE_LEVEL && pre->kind != TOK_PRE_METASPACE) || pre->splits;
}

static void swap_spans(struct tok_words *words)
{
    struct tok_spans spans = words->spans;
    words->spans = words->next;
    words->next = spans;
    words->next.count = 0;
}

static void rewrite_all(const struct tok_pretokenizer *pre, bool first, unsigned flags,
                        struct tok_words *words)
{
    sp_buf_clear(&words->spare);
    words->next.count = 0;
    for (size_t i = 0; i < words->spans.count; i++) {
        struct tok_span span = words->spans.spans[i];
        size_t before = words->spare.length;
        bool start = first && span.start == 0;
        rewrite(pre, words->text, span, start, start && (flags & TOK_CONTINUE), &words->spare);
        if (words->spare.length > before)
            tok_spans_append(&words->next, before, words->spare.length);
    }
    struct sp_buf buffer = words->buffer;
    words->buffer = words->spare;
    words->spare = buffer;
    words->text = words->buffer.data;
    swap_spans(words);
}

enum sp_err tok_pretokenize(const struct tok_tokenizer *tokenizer, const char *text, size_t length,
                            bool first, unsigned flags, struct tok_words *words,
                            struct sp_error *err)
{
    if (words->matchers == NULL)
        words->matchers =
            sp_xarray(tokenizer->pretokenizer_count + 1, sizeof(struct tok_matcher *));
    words->text = text;
    words->spans.count = 0;
    words->next.count = 0;
    tok_spans_append(&words->spans, 0, length);
    for (size_t p = 0; p < tokenizer->pretokenizer_count; p++) {
        const struct tok_pretokenizer *pre = &tokenizer->pretokenizers[p];
        if (rewrites(pre))
            rewrite_all(pre, first, flags, words);
        if (!cuts(pre))
            continue;
        if (words->matchers[p] == NULL)
            words->matchers[p] = tok_matcher_new(&pre->pattern);
        words->next.count = 0;
        for (size_t i = 0; i < words->spans.count; i++) {
            enum sp_err rc = cut(pre, words->matchers[p], words, words->spans.spans[i], err);
            if (rc != SP_OK)
                return rc;
        }
        swap_spans(words);
    }
    return SP_OK;
}

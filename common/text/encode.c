/* Encoding: added tokens out, normalize, added tokens again, cut into words, model. */
#include <stdlib.h>

#include "common/text/internal.h"

/* What one call needs, on one thread. */
struct encoder {
    const struct tok_tokenizer *t;
    struct tok_ids *out;
    struct tok_words words;
    struct tok_scratch scratch;
    struct tok_marked marked; /* a piece being normalized */
    struct sp_error *err;
};

/* A stretch of normalized text without added tokens. */
static enum sp_err encode_stretch(struct encoder *e, const char *text, size_t length, bool first,
                                  unsigned flags)
{
    enum sp_err rc = tok_pretokenize(e->t, text, length, first, flags, &e->words, e->err);
    for (size_t i = 0; rc == SP_OK && i < e->words.spans.count; i++) {
        struct tok_span span = e->words.spans.spans[i];
        const char *word = e->words.text + span.start;
        size_t bytes = span.end - span.start;
        if (e->t->model == TOK_MODEL_BPE)
            tok_bpe_word(e->t, word, bytes, flags, &e->scratch, e->out);
        else
            rc = tok_unigram_word(e->t, word, bytes, &e->scratch, e->out, e->err);
    }
    return rc;
}

/* A piece of the text between added tokens of the first kind. */
static enum sp_err encode_piece(struct encoder *e, const char *text, const char *user,
                                size_t length, bool first, unsigned flags)
{
    const struct tok_added *added = &e->t->added_normalized;
    if (!first)
        flags &= ~(unsigned)TOK_CONTINUE;
    if (added->count == 0)
        user = NULL;
    if (e->t->normalizer_count > 0) {
        sp_buf_clear(&e->marked.text);
        sp_buf_clear(&e->marked.user);
        sp_buf_append(&e->marked.text, text, length);
        if (user != NULL)
            sp_buf_append(&e->marked.user, user, length);
        enum sp_err rc = tok_normalize(e->t, &e->marked, flags, e->err);
        if (rc != SP_OK)
            return rc;
        text = e->marked.text.data;
        length = e->marked.text.length;
        user = user != NULL ? e->marked.user.data : NULL;
    }
    size_t at = 0, from = 0, start, end, token;
    while (tok_added_find(added, text, length, user, flags, from, &at, &start, &end, &token)) {
        if (start > from) {
            enum sp_err rc =
                encode_stretch(e, text + from, start - from, first && from == 0, flags);
            if (rc != SP_OK)
                return rc;
        }
        tok_ids_append(e->out, added->tokens[token].id);
        from = end;
        flags &= ~(unsigned)TOK_CONTINUE;
    }
    if (from < length)
        return encode_stretch(e, text + from, length - from, first && from == 0, flags);
    return SP_OK;
}

static enum sp_err encode_text(struct encoder *e, const char *text, const char *user,
                               size_t length, unsigned flags)
{
    const struct tok_added *added = &e->t->added;
    size_t at = 0, from = 0, start, end, token;
    while (tok_added_find(added, text, length, user, flags, from, &at, &start, &end, &token)) {
        if (start > from) {
            enum sp_err rc = encode_piece(e, text + from, user != NULL ? user + from : NULL,
                                          start - from, from == 0, flags);
            if (rc != SP_OK)
                return rc;
        }
        tok_ids_append(e->out, added->tokens[token].id);
        from = end;
    }
    if (from < length)
        return encode_piece(e, text + from, user != NULL ? user + from : NULL, length - from,
                            from == 0, flags);
    return SP_OK;
}

static enum sp_err encode(const struct tok_tokenizer *t, const char *text, const char *user,
                          size_t length, unsigned flags, struct tok_ids *ret,
                          struct sp_error *err)
{
    if (length > SP_MAX_TEXT)
        return sp_fail(err, SP_ELIMIT, "the text has %zu bytes, more than the %d allowed", length,
                       SP_MAX_TEXT);
    size_t good = tok_utf8_check(text, length);
    if (good < length)
        return sp_fail(err, SP_EFORMAT, "the text is not UTF-8: byte 0x%02x at offset %zu",
                       (unsigned char)text[good], good);
    struct encoder e = {.t = t, .out = ret, .err = err};
    size_t before = ret->count;
    if (flags & TOK_ADD_PREFIX)
        tok_ids_append_all(ret, t->prefix.ids, t->prefix.count);
    enum sp_err rc = encode_text(&e, text, user, length, flags);
    if (rc == SP_OK && (flags & TOK_ADD_SUFFIX))
        tok_ids_append_all(ret, t->suffix.ids, t->suffix.count);
    if (rc != SP_OK)
        ret->count = before;
    tok_words_deinit(t, &e.words);
    tok_scratch_deinit(&e.scratch);
    tok_marked_deinit(&e.marked);
    return rc;
}

enum sp_err tok_encode(const struct tok_tokenizer *tokenizer, const char *text, size_t length,
                       unsigned flags, struct tok_ids *ret, struct sp_error *err)
{
    return encode(tokenizer, text, NULL, length, flags, ret, err);
}

enum sp_err tok_encode_parts(const struct tok_tokenizer *tokenizer, const struct tok_part *parts,
                             size_t count, unsigned flags, struct tok_ids *ret,
                             struct sp_error *err)
{
    struct tok_marked all = {0};
    for (size_t i = 0; i < count; i++) {
        if (parts[i].length == 0)
            continue;
        if (parts[i].length > SP_MAX_TEXT || all.text.length > SP_MAX_TEXT) {
            tok_marked_deinit(&all);
            return sp_fail(err, SP_ELIMIT, "the text has more than %d bytes", SP_MAX_TEXT);
        }
        sp_buf_append(&all.text, parts[i].text, parts[i].length);
        sp_buf_reserve(&all.user, parts[i].length);
        memset(all.user.data + all.user.length, parts[i].user ? 1 : 0, parts[i].length);
        all.user.length += parts[i].length;
    }
    enum sp_err rc = encode(tokenizer, all.text.length > 0 ? all.text.data : "",
                            all.user.length > 0 ? all.user.data : NULL, all.text.length, flags,
                            ret, err);
    tok_marked_deinit(&all);
    return rc;
}

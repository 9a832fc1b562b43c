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

/* first: nothing comes before this text. */
static enum sp_err encode_text(struct encoder *e, const char *text, const char *user, size_t length,
                               bool first, unsigned flags)
{
    const struct tok_added *added = &e->t->added;
    size_t at = 0, from = 0, start, end, token;
    if (length > SP_MAX_TEXT)
        return sp_fail(e->err, SP_ELIMIT, "the text has %zu bytes, more than the %d allowed",
                       length, SP_MAX_TEXT);
    size_t good = tok_utf8_check(text, length);
    if (good < length)
        return sp_fail(e->err, SP_EFORMAT, "the text is not UTF-8: byte 0x%02x at offset %zu",
                       (unsigned char)text[good], good);
    while (tok_added_find(added, text, length, user, flags, from, &at, &start, &end, &token)) {
        if (start > from) {
            enum sp_err rc = encode_piece(e, text + from, user != NULL ? user + from : NULL,
                                          start - from, first && from == 0, flags);
            if (rc != SP_OK)
                return rc;
        }
        tok_ids_append(e->out, added->tokens[token].id);
        from = end;
    }
    if (from < length)
        return encode_piece(e, text + from, user != NULL ? user + from : NULL, length - from,
                            first && from == 0, flags);
    return SP_OK;
}

static enum sp_err finish(struct encoder *e, size_t before, enum sp_err rc, unsigned flags)
{
    if (rc == SP_OK && (flags & TOK_ADD_SUFFIX))
        tok_ids_append_all(e->out, e->t->suffix.ids, e->t->suffix.count);
    if (rc != SP_OK)
        e->out->count = before;
    tok_words_deinit(e->t, &e->words);
    tok_scratch_deinit(&e->scratch);
    tok_marked_deinit(&e->marked);
    return rc;
}

enum sp_err tok_encode(const struct tok_tokenizer *tokenizer, const char *text, size_t length,
                       unsigned flags, struct tok_ids *ret, struct sp_error *err)
{
    struct encoder e = {.t = tokenizer, .out = ret, .err = err};
    size_t before = ret->count;
    if (flags & TOK_ADD_PREFIX)
        tok_ids_append_all(ret, tokenizer->prefix.ids, tokenizer->prefix.count);
    enum sp_err rc = encode_text(&e, text, NULL, length, true, flags);
    return finish(&e, before, rc, flags);
}

/* Puts the parts from *at up to the next token part together. */
static enum sp_err join_parts(const struct tok_part *parts, size_t count, size_t *at,
                              struct tok_marked *ret, struct sp_error *err)
{
    sp_buf_clear(&ret->text);
    sp_buf_clear(&ret->user);
    for (; *at < count && parts[*at].text != NULL; ++*at) {
        const struct tok_part *part = &parts[*at];
        if (part->length > SP_MAX_TEXT || ret->text.length > SP_MAX_TEXT)
            return sp_fail(err, SP_ELIMIT, "the text has more than %d bytes", SP_MAX_TEXT);
        sp_buf_append(&ret->text, part->text, part->length);
        sp_buf_reserve(&ret->user, part->length);
        memset(ret->user.data + ret->user.length, part->user ? 1 : 0, part->length);
        ret->user.length += part->length;
    }
    return SP_OK;
}

enum sp_err tok_encode_parts(const struct tok_tokenizer *tokenizer, const struct tok_part *parts,
                             size_t count, unsigned flags, struct tok_ids *ret,
                             struct sp_error *err)
{
    struct encoder e = {.t = tokenizer, .out = ret, .err = err};
    struct tok_marked text = {0};
    size_t before = ret->count;
    enum sp_err rc = SP_OK;
    bool first = true;
    if (flags & TOK_ADD_PREFIX)
        tok_ids_append_all(ret, tokenizer->prefix.ids, tokenizer->prefix.count);
    for (size_t i = 0; i < count && rc == SP_OK;) {
        if (parts[i].text == NULL) {
            tok_ids_append(ret, parts[i++].token);
            first = false;
            continue;
        }
        rc = join_parts(parts, count, &i, &text, err);
        if (rc == SP_OK && text.text.length > 0) {
            rc = encode_text(&e, text.text.data, text.user.data, text.text.length, first, flags);
            first = false;
        }
    }
    tok_marked_deinit(&text);
    return finish(&e, before, rc, flags);
}

/* Normalizers: each rewrites the text, and carries along which bytes came from a user. */
#include <stdlib.h>
#include <utf8proc.h>

#include "common/text/internal.h"

void tok_marked_deinit(struct tok_marked *marked)
{
    sp_buf_deinit(&marked->text);
    sp_buf_deinit(&marked->user);
}

static bool is_marked(const struct tok_marked *text)
{
    return text->user.length > 0;
}

static void mark(struct tok_marked *out, size_t bytes, char value)
{
    sp_buf_reserve(&out->user, bytes);
    memset(out->user.data + out->user.length, value, bytes);
    out->user.length += bytes;
}

/* Copies in[start, end) with its marks. */
static void copy(struct tok_marked *out, const struct tok_marked *in, size_t start, size_t end)
{
    sp_buf_append(&out->text, in->text.data + start, end - start);
    if (is_marked(in))
        sp_buf_append(&out->user, in->user.data + start, end - start);
}

/* Appends bytes that stand for in[start, end): a user's if any of those is. */
static void put(struct tok_marked *out, const struct tok_marked *in, size_t start, size_t end,
                const char *bytes, size_t count)
{
    sp_buf_append(&out->text, bytes, count);
    if (is_marked(in)) {
        bool user = end > start && memchr(in->user.data + start, 1, end - start) != NULL;
        mark(out, count, user ? 1 : 0);
    }
}

static utf8proc_option_t unicode_options(enum tok_normalizer_kind kind)
{
    switch (kind) {
    case TOK_NORM_NFC:
        return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case TOK_NORM_NFD:
        return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case TOK_NORM_NFKC:
        return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    default:
        return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
    }
}

/* Bytes at the start that the form leaves as they are, for certain: below U+0300 for NFC, ASCII for
 * the others. The last such character may compose with what follows, so it doesn't count. */
static size_t unchanged_prefix(enum tok_normalizer_kind kind, const char *text, size_t length)
{
    unsigned char limit = kind == TOK_NORM_NFC ? 0xcc : 0x80;
    size_t i = 0, last = 0;
    while (i < length && (unsigned char)text[i] < limit) {
        last = i;
        i += tok_utf8_length((unsigned char)text[i]);
    }
    return i == length ? length : last;
}

static enum sp_err unicode_form(enum tok_normalizer_kind kind, const struct tok_marked *in,
                                struct tok_marked *out, struct sp_error *err)
{
    const char *text = in->text.data;
    size_t length = in->text.length;
    for (size_t start = 0; start < length;) {
        /* One run of equal marks at a time: nothing composes across a template's edge. */
        size_t end = length;
        if (is_marked(in)) {
            const char *change =
                memchr(in->user.data + start, !in->user.data[start], length - start);
            end = change != NULL ? (size_t)(change - in->user.data) : length;
        }
        size_t plain = unchanged_prefix(kind, text + start, end - start);
        copy(out, in, start, start + plain);
        if (start + plain < end) {
            utf8proc_uint8_t *result = NULL;
            utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text + start + plain,
                                              (utf8proc_ssize_t)(end - start - plain), &result,
                                              unicode_options(kind));
            if (n < 0)
                return sp_fail(err, SP_EFORMAT, "Unicode normalization: %s", utf8proc_errmsg(n));
            put(out, in, start, end, (const char *)result, (size_t)n);
            free(result);
        }
        start = end;
    }
    return SP_OK;
}

static enum sp_err replace(const struct tok_normalizer *norm, const struct tok_marked *in,
                           struct tok_marked *out, struct sp_error *err)
{
    struct tok_matcher *matcher = tok_matcher_new(&norm->pattern);
    size_t done = 0, start, end;
    int found;
    tok_matcher_begin(matcher, in->text.data, in->text.length);
    while ((found = tok_matcher_next(matcher, &start, &end, err)) == 1) {
        copy(out, in, done, start);
        put(out, in, start, end, norm->content, norm->content_length);
        done = end;
    }
    tok_matcher_free(matcher);
    if (found < 0)
        return SP_ELIMIT;
    copy(out, in, done, in->text.length);
    return SP_OK;
}

static void each_char(enum tok_normalizer_kind kind, const struct tok_marked *in,
                      struct tok_marked *out)
{
    struct sp_buf one = SP_BUF_INIT;
    for (size_t i = 0; i < in->text.length;) {
        size_t start = i;
        uint32_t code = tok_utf8_next(in->text.data, &i);
        sp_buf_clear(&one);
        if (kind == TOK_NORM_BYTE_LEVEL) {
            tok_bytes_to_level(&one, in->text.data + start, i - start);
        } else if (kind == TOK_NORM_STRIP_ACCENTS) {
            if (!tok_is_mark(code))
                tok_utf8_append(&one, code);
        } else if (code == 0x130) {
            sp_buf_puts(&one, "i\xcc\x87"); /* the one full mapping that differs from the simple */
        } else {
            tok_utf8_append(&one, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code));
        }
        put(out, in, start, i, one.data, one.length);
    }
    sp_buf_deinit(&one);
}

static void strip(const struct tok_normalizer *norm, const struct tok_marked *in,
                  struct tok_marked *out)
{
    size_t start = 0, end = in->text.length;
    const char *text = in->text.data;
    while (norm->left && start < end) {
        size_t next = start;
        if (!tok_is_space(tok_utf8_next(text, &next)))
            break;
        start = next;
    }
    while (norm->right && end > start) {
        size_t before = tok_utf8_before(text, end), next = before;
        if (!tok_is_space(tok_utf8_next(text, &next)))
            break;
        end = before;
    }
    copy(out, in, start, end);
}

static enum sp_err apply(const struct tok_normalizer *norm, const struct tok_marked *in,
                         struct tok_marked *out, unsigned flags, struct sp_error *err)
{
    switch (norm->kind) {
    case TOK_NORM_NFC:
    case TOK_NORM_NFD:
    case TOK_NORM_NFKC:
    case TOK_NORM_NFKD:
        return unicode_form(norm->kind, in, out, err);
    case TOK_NORM_LOWERCASE:
    case TOK_NORM_STRIP_ACCENTS:
    case TOK_NORM_BYTE_LEVEL:
        each_char(norm->kind, in, out);
        return SP_OK;
    case TOK_NORM_PREPEND:
        if (!(flags & TOK_CONTINUE))
            put(out, in, 0, 0, norm->content, norm->content_length);
        copy(out, in, 0, in->text.length);
        return SP_OK;
    case TOK_NORM_REPLACE:
        return replace(norm, in, out, err);
    case TOK_NORM_STRIP:
        strip(norm, in, out);
        return SP_OK;
    }
    return sp_fail(err, SP_EINTERNAL, "unknown normalizer %d", (int)norm->kind);
}

enum sp_err tok_normalize(const struct tok_tokenizer *tokenizer, struct tok_marked *text,
                          unsigned flags, struct sp_error *err)
{
    struct tok_marked out = {0};
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < tokenizer->normalizer_count && rc == SP_OK && text->text.length > 0;
         i++) {
        sp_buf_clear(&out.text);
        sp_buf_clear(&out.user);
        rc = apply(&tokenizer->normalizers[i], text, &out, flags, err);
        struct tok_marked swap = *text;
        *text = out;
        out = swap;
    }
    tok_marked_deinit(&out);
    return rc;
}

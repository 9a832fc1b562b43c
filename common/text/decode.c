/* Decoding: each decoder turns the list of token texts into another; what is left is joined.
 * Source of the rules: the decoders of the library that defines the format. */
#include <stdlib.h>

#include "common/text/internal.h"

/* Ids held back before a stream gives up waiting for the rest of a character. */
#define STREAM_WINDOW 256

/* A list of strings in one buffer: string i is bytes[ends[i - 1], ends[i]). */
struct pieces {
    struct sp_buf bytes;
    size_t *ends;
    size_t count, capacity;
};

static void pieces_deinit(struct pieces *p)
{
    sp_buf_deinit(&p->bytes);
    free(p->ends);
}

/* Ends the string that has been appended to p->bytes. */
static void end_piece(struct pieces *p)
{
    if (p->count == p->capacity) {
        p->capacity = SP_MAX(2 * p->capacity, (size_t)64);
        p->ends = sp_xgrow(p->ends, p->capacity, sizeof(*p->ends));
    }
    p->ends[p->count++] = p->bytes.length;
}

static const char *piece_at(const struct pieces *p, size_t i, size_t *ret_length)
{
    size_t start = i > 0 ? p->ends[i - 1] : 0;
    *ret_length = p->ends[i] - start;
    return p->bytes.data + start;
}

static void decode_byte_level(const struct pieces *in, struct pieces *out)
{
    struct sp_buf raw = SP_BUF_INIT;
    for (size_t i = 0; i < in->count; i++) {
        size_t n;
        const char *text = piece_at(in, i, &n);
        if (!tok_level_to_bytes(&raw, text, n))
            sp_buf_append(&raw, text, n); /* an added token: its text is not in the alphabet */
    }
    tok_utf8_append_lossy(&out->bytes, raw.data, raw.length);
    end_piece(out);
    sp_buf_deinit(&raw);
}

static enum sp_err decode_replace(const struct tok_decoder *dec, const struct pieces *in,
                                  struct pieces *out, struct sp_error *err)
{
    struct tok_matcher *matcher = tok_matcher_new(&dec->pattern);
    int found = 0;
    for (size_t i = 0; i < in->count && found >= 0; i++) {
        size_t n, done = 0, start, end;
        const char *text = piece_at(in, i, &n);
        tok_matcher_begin(matcher, text, n);
        while ((found = tok_matcher_next(matcher, &start, &end, err)) == 1) {
            sp_buf_append(&out->bytes, text + done, start - done);
            sp_buf_append(&out->bytes, dec->content, dec->content_length);
            done = end;
        }
        sp_buf_append(&out->bytes, text + done, n - done);
        end_piece(out);
    }
    tok_matcher_free(matcher);
    return found < 0 ? SP_ELIMIT : SP_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte of a token "<0xE2>", or -1. */
static int byte_of(const char *text, size_t n)
{
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of bytes is text as a whole or not at all: one U+FFFD for each byte then. */
static void end_bytes(struct sp_buf *run, struct pieces *out)
{
    if (run->length == 0)
        return;
    if (tok_utf8_check(run->data, run->length) == run->length) {
        sp_buf_append(&out->bytes, run->data, run->length);
        end_piece(out);
    } else {
        for (size_t i = 0; i < run->length; i++) {
            sp_buf_puts(&out->bytes, "\xef\xbf\xbd");
            end_piece(out);
        }
    }
    sp_buf_clear(run);
}

static void decode_byte_fallback(const struct pieces *in, struct pieces *out)
{
    struct sp_buf run = SP_BUF_INIT;
    for (size_t i = 0; i < in->count; i++) {
        size_t n;
        const char *text = piece_at(in, i, &n);
        int byte = byte_of(text, n);
        if (byte >= 0) {
            sp_buf_putc(&run, (char)byte);
            continue;
        }
        end_bytes(&run, out);
        sp_buf_append(&out->bytes, text, n);
        end_piece(out);
    }
    end_bytes(&run, out);
    sp_buf_deinit(&run);
}

static void decode_strip(const struct tok_decoder *dec, const struct pieces *in, struct pieces *out)
{
    size_t width = dec->content_length;
    for (size_t i = 0; i < in->count; i++) {
        size_t n;
        const char *text = piece_at(in, i, &n);
        for (int64_t k = 0; k < dec->start && n >= width && memcmp(text, dec->content, width) == 0;
             k++) {
            text += width;
            n -= width;
        }
        for (int64_t k = 0;
             k < dec->stop && n >= width && memcmp(text + n - width, dec->content, width) == 0; k++)
            n -= width;
        sp_buf_append(&out->bytes, text, n);
        end_piece(out);
    }
}

static void decode_metaspace(const struct tok_decoder *dec, const struct pieces *in,
                             struct pieces *out)
{
    size_t width = strlen(dec->replacement);
    for (size_t i = 0; i < in->count; i++) {
        size_t n;
        const char *text = piece_at(in, i, &n);
        for (size_t at = 0; at < n;) {
            size_t step = tok_utf8_length((unsigned char)text[at]);
            if (step != width || memcmp(text + at, dec->replacement, width) != 0)
                sp_buf_append(&out->bytes, text + at, step);
            else if (i > 0 || dec->prepend == TOK_PREPEND_NEVER)
                sp_buf_putc(&out->bytes, ' ');
            at += step;
        }
        end_piece(out);
    }
}

/* The suffix that marks the end of a word becomes a space, but for the last word. */
static void decode_bpe(const struct tok_decoder *dec, const struct pieces *in, struct pieces *out)
{
    for (size_t i = 0; i < in->count; i++) {
        size_t n;
        const char *text = piece_at(in, i, &n);
        while (n > 0) {
            const char *hit =
                dec->content_length > 0 ? memmem(text, n, dec->content, dec->content_length) : NULL;
            size_t plain = hit != NULL ? (size_t)(hit - text) : n;
            sp_buf_append(&out->bytes, text, plain);
            if (hit == NULL)
                break;
            if (i + 1 < in->count)
                sp_buf_putc(&out->bytes, ' ');
            text += plain + dec->content_length;
            n -= plain + dec->content_length;
        }
        end_piece(out);
    }
}

static enum sp_err apply(const struct tok_decoder *dec, const struct pieces *in, struct pieces *out,
                         struct sp_error *err)
{
    switch (dec->kind) {
    case TOK_DEC_BYTE_LEVEL:
        decode_byte_level(in, out);
        return SP_OK;
    case TOK_DEC_REPLACE:
        return decode_replace(dec, in, out, err);
    case TOK_DEC_BYTE_FALLBACK:
        decode_byte_fallback(in, out);
        return SP_OK;
    case TOK_DEC_FUSE:
        sp_buf_append(&out->bytes, in->bytes.data, in->bytes.length);
        end_piece(out);
        return SP_OK;
    case TOK_DEC_STRIP:
        decode_strip(dec, in, out);
        return SP_OK;
    case TOK_DEC_METASPACE:
        decode_metaspace(dec, in, out);
        return SP_OK;
    case TOK_DEC_BPE:
        decode_bpe(dec, in, out);
        return SP_OK;
    }
    return sp_fail(err, SP_EINTERNAL, "unknown decoder %d", (int)dec->kind);
}

static bool is_left_out(const struct tok_piece *piece, unsigned flags)
{
    return piece->text == NULL || ((flags & TOK_SKIP_SPECIAL) && piece->special);
}

enum sp_err tok_decode(const struct tok_tokenizer *tokenizer, const int32_t *ids, size_t count,
                       unsigned flags, struct sp_buf *out, struct sp_error *err)
{
    struct pieces a = {0}, b = {0};
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->id_limit) {
            rc = sp_fail(err, SP_EINVAL, "token %zu is %d, outside the vocabulary of %d", i, ids[i],
                         tokenizer->id_limit);
            goto out;
        }
        const struct tok_piece *piece = &tokenizer->pieces[ids[i]];
        if (is_left_out(piece, flags))
            continue;
        if (!tokenizer->has_decoder && a.count > 0)
            sp_buf_putc(&a.bytes, ' ');
        sp_buf_append(&a.bytes, piece->text, piece->length);
        end_piece(&a);
    }
    for (size_t d = 0; d < tokenizer->decoder_count; d++) {
        sp_buf_clear(&b.bytes);
        b.count = 0;
        if (a.count > 0) {
            rc = apply(&tokenizer->decoders[d], &a, &b, err);
            if (rc != SP_OK)
                goto out;
        }
        struct pieces swap = a;
        a = b;
        b = swap;
    }
    sp_buf_append(out, a.bytes.data, a.bytes.length);
out:
    pieces_deinit(&a);
    pieces_deinit(&b);
    return rc;
}

/* ids[0..given) have been shown; their text is decoded again with what follows, because a token's
 * text depends on its neighbours, and taken off the front. */
struct tok_stream {
    const struct tok_tokenizer *tokenizer;
    unsigned flags;
    struct tok_ids ids;
    size_t given;
    struct sp_buf shown, all; /* texts of ids[0..given) and of all ids */
};

struct tok_stream *tok_stream_new(const struct tok_tokenizer *tokenizer, unsigned flags)
{
    struct tok_stream *stream = sp_xalloc(sizeof(*stream));
    stream->tokenizer = tokenizer;
    stream->flags = flags;
    return stream;
}

void tok_stream_free(struct tok_stream *stream)
{
    if (stream == NULL)
        return;
    tok_ids_deinit(&stream->ids);
    sp_buf_deinit(&stream->shown);
    sp_buf_deinit(&stream->all);
    free(stream);
}

static bool ends_open(const struct sp_buf *text)
{
    return text->length >= 3 && memcmp(text->data + text->length - 3, "\xef\xbf\xbd", 3) == 0;
}

/* Appends what ids[given..] add to the text. */
static enum sp_err append_new(struct tok_stream *s, struct sp_buf *out, struct sp_error *err)
{
    if (s->all.length >= s->shown.length &&
        (s->shown.length == 0 || memcmp(s->all.data, s->shown.data, s->shown.length) == 0)) {
        sp_buf_append(out, s->all.data + s->shown.length, s->all.length - s->shown.length);
        return SP_OK;
    }
    /* What follows has spoilt bytes that were a character; that has been shown and stays. */
    return tok_decode(s->tokenizer, s->ids.ids + s->given, s->ids.count - s->given, s->flags, out,
                      err);
}

/* Gives out what is new; the ids that made it become the context of the next. */
static enum sp_err give(struct tok_stream *s, struct sp_buf *out, struct sp_error *err)
{
    enum sp_err rc = append_new(s, out, err);
    if (rc != SP_OK)
        return rc;
    size_t left = s->ids.count - s->given;
    memmove(s->ids.ids, s->ids.ids + s->given, left * sizeof(*s->ids.ids));
    s->ids.count = s->given = left;
    sp_buf_clear(&s->shown);
    return tok_decode(s->tokenizer, s->ids.ids, s->ids.count, s->flags, &s->shown, err);
}

enum sp_err tok_stream_push(struct tok_stream *stream, int32_t id, struct sp_buf *out,
                            struct sp_error *err)
{
    /* What gives nothing must not crowd out the tokens that those behind it depend on. */
    const struct tok_tokenizer *t = stream->tokenizer;
    if (id >= 0 && id < t->id_limit && is_left_out(&t->pieces[id], stream->flags))
        return SP_OK;
    tok_ids_append(&stream->ids, id);
    sp_buf_clear(&stream->all);
    enum sp_err rc = tok_decode(stream->tokenizer, stream->ids.ids, stream->ids.count,
                                stream->flags, &stream->all, err);
    if (rc != SP_OK) {
        stream->ids.count--;
        return rc;
    }
    if (stream->ids.count - stream->given < STREAM_WINDOW &&
        (ends_open(&stream->all) || stream->all.length <= stream->shown.length))
        return SP_OK;
    return give(stream, out, err);
}

enum sp_err tok_stream_finish(struct tok_stream *stream, struct sp_buf *out, struct sp_error *err)
{
    sp_buf_clear(&stream->all);
    enum sp_err rc = tok_decode(stream->tokenizer, stream->ids.ids, stream->ids.count,
                                stream->flags, &stream->all, err);
    if (rc == SP_OK)
        rc = append_new(stream, out, err);
    tok_ids_clear(&stream->ids);
    sp_buf_clear(&stream->shown);
    stream->given = 0;
    return rc;
}

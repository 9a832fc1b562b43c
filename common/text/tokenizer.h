/* tokenizer: text to token ids and back, from a Hugging Face tokenizer.json.
 *
 * A tokenizer never changes after it is loaded, so any number of threads may use one. Calls block
 * on nothing but the processor; only tok_load reads a file.
 *
 * Understood components (anything else is refused by its name):
 *   model           BPE (byte-level, or SentencePiece-style with byte fallback; ignore_merges,
 *                   fuse_unk, continuing_subword_prefix, end_of_word_suffix), Unigram
 *   normalizer      Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip,
 *                   StripAccents, ByteLevel
 *   pre_tokenizer   Sequence, ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit,
 *                   CharDelimiterSplit, Metaspace, BertPreTokenizer
 *   post_processor  Sequence, TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing
 *   decoder         Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, BPEDecoder
 * `truncation` and `padding` are settings of a batch request, not of the tokenizer: they are not
 * applied, nothing is ever cut in silence.
 *
 * The result is that of the `tokenizers` library, whose behaviour defines the format:
 * https://github.com/huggingface/tokenizers. Only characters that Unicode got after its version 9
 * may be classed, normalized or stripped otherwise: each side has tables of its own age, here those
 * of PCRE2 and utf8proc. */
#ifndef SPIN_TEXT_TOKENIZER_H
#define SPIN_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"

struct tok_tokenizer;

/* A growing list of token ids. */
struct tok_ids {
    int32_t *ids;    /* owned; NULL in TOK_IDS_INIT */
    size_t count;    /* ids in use */
    size_t capacity; /* ids allocated */
};
#define TOK_IDS_INIT                                                                               \
    {                                                                                              \
        0                                                                                          \
    }
void tok_ids_append(struct tok_ids *ids, int32_t id);
void tok_ids_append_all(struct tok_ids *ids, const int32_t *more, size_t count);
void tok_ids_clear(struct tok_ids *ids);  /* count 0, keeps the memory */
void tok_ids_deinit(struct tok_ids *ids); /* frees; leaves TOK_IDS_INIT */

/* Loads a tokenizer.json, given as that file or as the directory that holds it. SP_EFORMAT names
 * file and field, SP_EUNSUPPORTED the component. Free with tok_free. */
enum sp_err tok_load(const char *dir_or_json_path, struct tok_tokenizer **ret,
                     struct sp_error *err) SP_MUST_USE;
/* The same from memory; `what` names the source in messages. */
enum sp_err tok_load_memory(const char *json, size_t length, const char *what,
                            struct tok_tokenizer **ret, struct sp_error *err) SP_MUST_USE;
void tok_free(struct tok_tokenizer *tokenizer); /* NULL is fine */

/* Largest id + 1, added tokens included. */
int32_t tok_vocab_size(const struct tok_tokenizer *tokenizer);
/* -1 where there is no such token. Tokens in the spelling of the file ("Ġthe", "▁the", "<0x0A>").
 */
int32_t tok_id_of(const struct tok_tokenizer *tokenizer, const char *token);
/* Borrowed for the tokenizer's life; NULL where no token has this id. */
const char *tok_token_of(const struct tok_tokenizer *tokenizer, int32_t id);
bool tok_is_special(const struct tok_tokenizer *tokenizer, int32_t id);

enum tok_flags {
    TOK_ADD_PREFIX = 1,  /* what the post-processor puts before a text: usually BOS */
    TOK_ADD_SUFFIX = 2,  /* and behind it: EOS in some */
    TOK_ADD_SPECIAL = 3, /* both: the post-processor as it is */
    /* The text of a special token is ordinary text, never the token itself. */
    TOK_NO_SPECIAL_SPLIT = 4,
    /* The text goes on from earlier text, so what marks the start of a text (SentencePiece's dummy
     * "▁", add_prefix_space) is left out. */
    TOK_CONTINUE = 8,
    TOK_SKIP_SPECIAL = 16, /* decoding: leave special tokens out */
};

/* Appends the ids of text[0..length) to *ret, which is as before on failure. Text that is not UTF-8
 * is SP_EFORMAT with the offset of the first bad byte; above SP_MAX_TEXT SP_ELIMIT. */
enum sp_err tok_encode(const struct tok_tokenizer *tokenizer, const char *text, size_t length,
                       unsigned flags, struct tok_ids *ret, struct sp_error *err) SP_MUST_USE;

/* One stretch of a text that is put together from a template and somebody's words. */
struct tok_part {
    const char *text; /* borrowed; not terminated; NULL: the token `token`, whatever its text */
    size_t length;    /* bytes */
    bool user;        /* special tokens are not recognised where they touch this part */
    int32_t token;    /* where text is NULL */
};
/* Encodes the parts as the one text that they make together, so that tokens may span a boundary,
 * but no special token comes from what a user wrote. */
enum sp_err tok_encode_parts(const struct tok_tokenizer *tokenizer, const struct tok_part *parts,
                             size_t count, unsigned flags, struct tok_ids *ret,
                             struct sp_error *err) SP_MUST_USE;

/* Appends the text of ids[0..count) to *out, which is as before on failure. Bytes that are not
 * UTF-8 become U+FFFD. An id outside the vocabulary is SP_EINVAL; one inside that has no token
 * gives nothing. flags: TOK_SKIP_SPECIAL. */
enum sp_err tok_decode(const struct tok_tokenizer *tokenizer, const int32_t *ids, size_t count,
                       unsigned flags, struct sp_buf *out, struct sp_error *err) SP_MUST_USE;

/* Decoding one token at a time, for display: what is appended is always whole characters. One
 * thread. The texts put together equal tok_decode of all the ids, but where ids are bytes that make
 * no character: those become U+FFFD as they come. */
struct tok_stream;
struct tok_stream *tok_stream_new(const struct tok_tokenizer *tokenizer, unsigned flags);
enum sp_err tok_stream_push(struct tok_stream *stream, int32_t id, struct sp_buf *out,
                            struct sp_error *err) SP_MUST_USE;
/* What is still held back; the stream can then be used for another text. */
enum sp_err tok_stream_finish(struct tok_stream *stream, struct sp_buf *out,
                              struct sp_error *err) SP_MUST_USE;
void tok_stream_free(struct tok_stream *stream); /* NULL is fine */

#endif

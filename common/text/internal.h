/* internal: what the files of the tokenizer share. Not for other folders. */
#ifndef SPIN_TEXT_INTERNAL_H
#define SPIN_TEXT_INTERNAL_H

#include <jansson.h>
#include <stdatomic.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/text/map.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

/* ---- patterns (pattern.c) ---- */

struct tok_regex; /* a compiled expression; any thread */

struct tok_pattern {
    char *text;              /* owned; what to look for, where `regex` is NULL */
    size_t length;           /* bytes of text */
    struct tok_regex *regex; /* owned */
};
void tok_pattern_deinit(struct tok_pattern *pattern);
/* Compiles an expression in Oniguruma's syntax; syntax that PCRE2 would read in another way is
 * SP_EUNSUPPORTED. `what` prefixes the message. */
enum sp_err tok_regex_compile(const char *source, size_t length, const char *what,
                              struct tok_regex **ret, struct sp_error *err) SP_MUST_USE;
void tok_regex_free(struct tok_regex *regex);

/* One pass of a pattern over one text. */
struct tok_matcher;
struct tok_matcher *tok_matcher_new(const struct tok_pattern *pattern);
void tok_matcher_free(struct tok_matcher *matcher);
/* Starts a pass over text[0..length), which is borrowed until it ends. */
void tok_matcher_begin(struct tok_matcher *matcher, const char *text, size_t length);
/* The next match: 1 and its range, 0 when there is none, or SP_ELIMIT in *err and -1 when the
 * expression needs more than its share of memory. An empty match right behind another match is
 * none. */
int tok_matcher_next(struct tok_matcher *matcher, size_t *ret_start, size_t *ret_end,
                     struct sp_error *err);

/* ---- normalizers (normalize.c) ---- */

enum tok_normalizer_kind {
    TOK_NORM_NFC,
    TOK_NORM_NFD,
    TOK_NORM_NFKC,
    TOK_NORM_NFKD,
    TOK_NORM_LOWERCASE,
    TOK_NORM_PREPEND,
    TOK_NORM_REPLACE,
    TOK_NORM_STRIP,
    TOK_NORM_STRIP_ACCENTS,
    TOK_NORM_BYTE_LEVEL,
};

struct tok_normalizer {
    enum tok_normalizer_kind kind;
    struct tok_pattern pattern; /* REPLACE */
    char *content;              /* owned; REPLACE, PREPEND */
    size_t content_length;
    bool left, right; /* STRIP */
};

/* A text with, for each byte, whether it comes from a user (1) or from a template (0). */
struct tok_marked {
    struct sp_buf text;
    struct sp_buf user; /* as long as text, or empty while nothing is marked */
};
void tok_marked_deinit(struct tok_marked *marked);
/* Runs all normalizers over *text, in place. TOK_CONTINUE in flags leaves PREPEND out. */
enum sp_err tok_normalize(const struct tok_tokenizer *tokenizer, struct tok_marked *text,
                          unsigned flags, struct sp_error *err) SP_MUST_USE;

/* ---- the byte-level alphabet (bytelevel.c) ---- */

/* GPT-2's mapping of bytes to visible characters (`bytes_to_unicode` of its encoder.py). */
uint32_t tok_byte_to_code(uint8_t byte);
int tok_code_to_byte(uint32_t code); /* -1: not in the alphabet */
void tok_bytes_to_level(struct sp_buf *out, const char *bytes, size_t length);
/* false, and nothing appended, when a character is not in the alphabet. */
bool tok_level_to_bytes(struct sp_buf *out, const char *text, size_t length);

/* ---- pre-tokenizers (pretokenize.c) ---- */

enum tok_pretokenizer_kind {
    TOK_PRE_SPLIT,
    TOK_PRE_DIGITS,
    TOK_PRE_PUNCTUATION,
    TOK_PRE_WHITESPACE_SPLIT,
    TOK_PRE_METASPACE,
    TOK_PRE_BYTE_LEVEL,
};
enum tok_behavior {
    TOK_REMOVED,
    TOK_ISOLATED,
    TOK_MERGED_WITH_PREVIOUS,
    TOK_MERGED_WITH_NEXT,
    TOK_CONTIGUOUS,
};
enum tok_prepend { TOK_PREPEND_NEVER, TOK_PREPEND_FIRST, TOK_PREPEND_ALWAYS };

struct tok_pretokenizer {
    enum tok_pretokenizer_kind kind;
    struct tok_pattern pattern; /* SPLIT; BYTE_LEVEL and METASPACE where they split */
    bool splits;                /* pattern is in use */
    enum tok_behavior behavior; /* SPLIT, DIGITS, PUNCTUATION */
    bool invert;                /* SPLIT */
    bool add_prefix_space;      /* BYTE_LEVEL */
    bool map_bytes;             /* BYTE_LEVEL: not the last one, so its characters are needed */
    enum tok_prepend prepend;   /* METASPACE */
    char replacement[5];        /* METASPACE: one character */
};

struct tok_span {
    uint32_t start, end; /* bytes */
};
struct tok_spans {
    struct tok_span *spans; /* owned */
    size_t count, capacity;
};
void tok_spans_append(struct tok_spans *spans, size_t start, size_t end);

/* Scratch of a pre-tokenization, kept from one stretch of text to the next. */
struct tok_words {
    const char *text; /* what spans refer to: the caller's text or `buffer` */
    struct tok_spans spans;
    struct tok_spans matches, next; /* scratch */
    struct sp_buf buffer, spare;    /* scratch */
    struct tok_matcher **matchers;  /* one for each pre-tokenizer, made on first use */
};
/* Splits text[0..length) into words. first: the text is the start of the whole input. */
enum sp_err tok_pretokenize(const struct tok_tokenizer *tokenizer, const char *text, size_t length,
                            bool first, unsigned flags, struct tok_words *words,
                            struct sp_error *err) SP_MUST_USE;
void tok_words_deinit(const struct tok_tokenizer *tokenizer, struct tok_words *words);
/* As NormalizedString::split of the defining library: ranges that cover [start, end), matches
 * given, turned into the ranges that stay, appended to *out. */
void tok_split_apply(const struct tok_span *matches, size_t count, size_t start, size_t end,
                     enum tok_behavior behavior, bool invert, struct tok_spans *out);

/* ---- added tokens (added.c) ---- */

struct tok_added_token {
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};
struct tok_trie_node {
    int32_t token;  /* index in tok_added.tokens that ends here, or -1 */
    uint32_t first; /* of its edges in tok_added.edges */
    uint32_t edges; /* how many, sorted by byte */
};
struct tok_trie_edge {
    uint8_t byte;
    uint32_t node;
};
/* Tokens that are looked for in the text before anything else, as a trie over their bytes. */
struct tok_added {
    struct tok_added_token *tokens;
    size_t count;
    struct tok_trie_node *nodes;
    struct tok_trie_edge *edges;
    bool starts[256]; /* bytes that some token starts with */
};
/* keys[i] (bytes, may hold anything) is the text of tokens[i], which are copied. Empty keys never
 * match. */
void tok_added_init(struct tok_added *added, const struct tok_added_token *tokens,
                    const struct sp_buf *keys, size_t count);
void tok_added_deinit(struct tok_added *added);
/* The next accepted token at or behind *at: true, its range (with the spaces it takes) and index.
 * `from` is the end of the previous one, which lstrip doesn't reach into. *at moves on.
 * user: NULL, or one mark for each byte. */
bool tok_added_find(const struct tok_added *added, const char *text, size_t length,
                    const char *user, unsigned flags, size_t from, size_t *at, size_t *ret_start,
                    size_t *ret_end, size_t *ret_token);

/* ---- models (bpe.c, unigram.c) ---- */

struct tok_bpe {
    struct tok_merges merges;
    bool byte_fallback, fuse_unk, ignore_merges;
    bool makes_special;     /* some merge results in a special token */
    bool affixed;           /* a subword prefix or word suffix is set */
    bool raw_bytes;         /* words are bytes, not yet in the byte-level alphabet */
    bool whole_words;       /* a word must not be cut at seams (see bpe_seam.c) */
    int32_t unk_id;         /* -1: none */
    char *subword_prefix;   /* owned, "" where not set */
    char *word_suffix;      /* owned, "" where not set */
    int32_t byte_ids[256];  /* of <0x00> …; -1: none */
    int32_t level_ids[256]; /* of each byte's character in the byte-level alphabet; -1: none */
    int32_t ascii_ids[128]; /* of each ASCII character; -1: none */
    struct tok_map raw;     /* raw_bytes: tokens as bytes */
    /* Pairs of characters that stand side by side within some merged token. */
    uint8_t near_seams[129 * 129 / 8 + 1];
    struct tok_map seams;
    /* For each id: 0 not known yet, 1 the token's own text becomes just this token, 2 it does not.
     * The one thing written after loading; any thread finds the same answer. */
    _Atomic uint8_t *direct;
};

struct tok_unigram {
    double *scores; /* for each id */
    double min_score;
    int32_t unk_id; /* -1: none */
    bool byte_fallback;
    int32_t byte_ids[256];
    size_t longest; /* token, bytes */
};

enum tok_model_kind { TOK_MODEL_BPE, TOK_MODEL_UNIGRAM };

/* Scratch of a model, kept from word to word. */
struct tok_scratch {
    int32_t *symbols; /* ids of a word's parts */
    uint32_t *ranks;  /* of the pair that starts at each */
    uint32_t *next, *previous;
    uint64_t *heap;
    size_t capacity;       /* of each */
    struct tok_path *path; /* unigram */
    size_t path_capacity;
    struct sp_buf text;
};
void tok_scratch_deinit(struct tok_scratch *scratch);

struct tok_loader;
enum sp_err tok_bpe_load(const struct tok_loader *loader, const json_t *model) SP_MUST_USE;
/* model.vocab of the form {token: id}. */
enum sp_err tok_load_vocab(const struct tok_loader *loader, const json_t *vocab) SP_MUST_USE;
void tok_load_byte_ids(const struct tok_map *vocab, int32_t ids[256]); /* of <0x00> … */
/* After added tokens and pipeline are known. */
enum sp_err tok_bpe_finish(const struct tok_loader *loader, const json_t *model) SP_MUST_USE;
void tok_bpe_deinit(struct tok_bpe *bpe);
/* Appends the ids of one word. */
void tok_bpe_word(const struct tok_tokenizer *tokenizer, const char *word, size_t length,
                  unsigned flags, struct tok_scratch *scratch, struct tok_ids *out);
/* Joins symbols[0..count) (with room for as many in the scratch) by the merges; new count. */
size_t tok_bpe_merge(const struct tok_tokenizer *tokenizer, struct tok_scratch *scratch,
                     size_t count, bool no_special);
void tok_scratch_reserve(struct tok_scratch *scratch, size_t symbols);

/* Where a word can be cut without a change of its tokens (bpe_seam.c). */
void tok_seams_init(struct tok_tokenizer *tokenizer);
/* End of the stretch that starts at `from`, at most `length`. */
size_t tok_seam_next(const struct tok_tokenizer *tokenizer, const char *word, size_t length,
                     size_t from);

enum sp_err tok_unigram_load(const struct tok_loader *loader, const json_t *model) SP_MUST_USE;
void tok_unigram_deinit(struct tok_unigram *unigram);
enum sp_err tok_unigram_word(const struct tok_tokenizer *tokenizer, const char *word, size_t length,
                             struct tok_scratch *scratch, struct tok_ids *out,
                             struct sp_error *err) SP_MUST_USE;

/* ---- decoders (decode.c) ---- */

enum tok_decoder_kind {
    TOK_DEC_BYTE_LEVEL,
    TOK_DEC_REPLACE,
    TOK_DEC_BYTE_FALLBACK,
    TOK_DEC_FUSE,
    TOK_DEC_STRIP,
    TOK_DEC_METASPACE,
    TOK_DEC_BPE,
};
struct tok_decoder {
    enum tok_decoder_kind kind;
    struct tok_pattern pattern; /* REPLACE */
    char *content;              /* owned; REPLACE, STRIP (one character), BPE (suffix) */
    size_t content_length;
    int64_t start, stop;      /* STRIP: how many at most at each end */
    char replacement[5];      /* METASPACE */
    enum tok_prepend prepend; /* METASPACE */
};

/* ---- the whole ---- */

struct tok_piece {
    const char *text; /* NULL: no token has this id */
    uint32_t length;
    bool special;
};

struct tok_tokenizer {
    enum tok_model_kind model;
    struct tok_map vocab; /* the model's tokens */
    struct tok_bpe bpe;
    struct tok_unigram unigram;

    int32_t id_limit;         /* largest id + 1 */
    struct tok_piece *pieces; /* by id */
    struct tok_map names;     /* added tokens by their text */

    struct tok_added added;            /* looked for in the text as it comes */
    struct tok_added added_normalized; /* looked for in the normalized text */

    struct tok_normalizer *normalizers;
    size_t normalizer_count;
    struct tok_pretokenizer *pretokenizers;
    size_t pretokenizer_count;
    struct tok_decoder *decoders;
    size_t decoder_count;
    bool has_decoder;
    struct tok_ids prefix, suffix; /* of the post-processor */
};

/* ---- loading (load.c, load_pipeline.c, load_post.c) ---- */

/* What every reader of a component gets. */
struct tok_loader {
    struct tok_tokenizer *tokenizer;
    const char *what; /* the file, for messages */
    struct sp_error *err;
};
/* `what: field "FIELD": …` */
enum sp_err tok_bad_field(const struct tok_loader *loader, const char *field, const char *format,
                          ...) __attribute__((format(printf, 3, 4)));
enum sp_err tok_unsupported(const struct tok_loader *loader, const char *field, const char *format,
                            ...) __attribute__((format(printf, 3, 4)));
enum sp_err tok_load_normalizer(const struct tok_loader *loader, const json_t *value) SP_MUST_USE;
enum sp_err tok_load_pretokenizer(const struct tok_loader *loader, const json_t *value) SP_MUST_USE;
enum sp_err tok_load_decoder(const struct tok_loader *loader, const json_t *value) SP_MUST_USE;
enum sp_err tok_load_post(const struct tok_loader *loader, const json_t *value) SP_MUST_USE;
/* A pattern field: {"String": …} or {"Regex": …}. */
enum sp_err tok_load_pattern(const struct tok_loader *loader, const json_t *object,
                             const char *field, struct tok_pattern *ret) SP_MUST_USE;
/* The settings that the Metaspace pre-tokenizer and decoder share. */
enum sp_err tok_load_metaspace(const struct tok_loader *loader, const json_t *value,
                               const char *field, char ret_replacement[5],
                               enum tok_prepend *ret_prepend) SP_MUST_USE;
/* The "type" of a component; NULL after an error. */
const char *tok_component_type(const struct tok_loader *loader, const json_t *value,
                               const char *field);

#endif

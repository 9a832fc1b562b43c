/* gguf_vocab_internal: what the files of gguf_vocab share. Not for other folders. */
#ifndef SPIN_CHECKPOINT_GGUF_VOCAB_INTERNAL_H
#define SPIN_CHECKPOINT_GGUF_VOCAB_INTERNAL_H

#include "common/checkpoint/gguf_vocab.h"

#define GGUF_SPACE "\xe2\x96\x81" /* U+2581, what SentencePiece writes for a space */

/* tokenizer.ggml.token_type */
enum gguf_token {
    GGUF_TOKEN_NORMAL = 1,
    GGUF_TOKEN_UNKNOWN,
    GGUF_TOKEN_CONTROL,
    GGUF_TOKEN_USER,
    GGUF_TOKEN_UNUSED,
    GGUF_TOKEN_BYTE,
};

/* ---- how byte-level tokenizers cut words: tokenizer.ggml.pre ---- */

#define GGUF_PRE_SPLITS 5

struct gguf_pre {
    const char *name;                    /* in tokenizer.ggml.pre */
    const char *splits[GGUF_PRE_SPLITS]; /* regular expressions, one after the other; NULL ends */
    bool words;                          /* then cut as GPT-2 does */
    bool nfc;                            /* texts are normalized to NFC before */
    bool ignore_merges;                  /* a word that is a token is taken whole */
    bool add_bos;                        /* where the file does not say */
};
const struct gguf_pre *gguf_pre_find(struct ckpt_gguf_text name); /* or NULL */
/* "pre_tokenizer" of tokenizer.json; a new reference. */
json_t *gguf_pre_json(const struct gguf_pre *pre);
/* The row that cuts as this "pre_tokenizer" does, or NULL. */
const struct gguf_pre *gguf_pre_match(const json_t *pre_tokenizer, bool ignore_merges);

/* ---- scores and merges of SentencePiece-style tokenizers ---- */

struct gguf_piece {
    struct ckpt_gguf_text text;
    double score;
    enum gguf_token type;
};
/* "merges" of tokenizer.json, in the order of `generate_merges` in transformers'
 * convert_slow_tokenizer.py: for each piece every way to cut it into two pieces, best scores first.
 * vocab: text → id, of all pieces. A new reference. */
json_t *gguf_spm_merges(const struct gguf_piece *pieces, size_t count, const json_t *vocab);
/* Scores that give these merges: each piece's is minus the place of its first merge. */
enum sp_err gguf_spm_scores(const json_t *merges, const json_t *vocab, struct gguf_piece *pieces,
                            size_t count, const char *what, size_t *ret_inexact,
                            struct sp_error *err) SP_MUST_USE;
/* The two halves of a merge: "a b" or ["a", "b"]. */
bool gguf_merge_halves(const json_t *merge, struct ckpt_gguf_text *ret_a,
                       struct ckpt_gguf_text *ret_b);

#endif

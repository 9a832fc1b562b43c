/* Seams: places in a word that no merge can cross.
 *
 * SentencePiece-style models have no pre-tokenizer: a whole text is one word. But a merge joins
 * neighbours into a token of the vocabulary, so where two characters stand side by side in no
 * merged token, nothing is ever joined over them, and the text can be cut there. What is left are
 * stretches about as long as words of a language, many of which are tokens by themselves. */
#include <stdlib.h>

#include "common/text/internal.h"

/* ASCII and "▁" have a table of their own. */
static int near_index(uint32_t code)
{
    return code < 128 ? (int)code : code == 0x2581 ? 128 : -1;
}

static void add_pairs(struct tok_bpe *bpe, const char *text, size_t length)
{
    size_t at = 0, start = 0;
    uint32_t left = tok_utf8_next(text, &at);
    while (at < length) {
        size_t middle = at;
        uint32_t right = tok_utf8_next(text, &at);
        int a = near_index(left), b = near_index(right);
        if (a >= 0 && b >= 0)
            bpe->near_seams[(a * 129 + b) / 8] |= (uint8_t)(1u << ((a * 129 + b) % 8));
        else
            tok_map_put(&bpe->seams, text + start, at - start, 0);
        start = middle;
        left = right;
    }
}

/* Merges of what stands for other characters than its text says: byte tokens would make the bytes
 * of a character neighbours too, the unknown token is any character. */
static bool merges_use_stand_ins(const struct tok_tokenizer *t)
{
    const struct tok_bpe *bpe = &t->bpe;
    bool *stands_in = sp_xarray((size_t)t->id_limit, sizeof(*stands_in));
    for (int i = 0; i < 256; i++)
        if (bpe->byte_ids[i] >= 0)
            stands_in[bpe->byte_ids[i]] = true;
    if (bpe->unk_id >= 0)
        stands_in[bpe->unk_id] = true;
    bool found = false;
    for (size_t i = 0; i <= bpe->merges.mask && !found; i++) {
        const struct tok_merge *merge = &bpe->merges.slots[i];
        found = merge->rank != TOK_NO_RANK &&
                (stands_in[merge->pair >> 32] || stands_in[(uint32_t)merge->pair]);
    }
    free(stands_in);
    return found;
}

void tok_seams_init(struct tok_tokenizer *tokenizer)
{
    struct tok_bpe *bpe = &tokenizer->bpe;
    /* Where unknown characters are dropped, their neighbours become neighbours. */
    bool all_bytes = bpe->byte_fallback;
    for (int i = 0; i < 256; i++)
        all_bytes = all_bytes && bpe->byte_ids[i] >= 0;
    bool drops = bpe->unk_id < 0 && !all_bytes;
    if (bpe->raw_bytes || bpe->affixed || drops || merges_use_stand_ins(tokenizer)) {
        bpe->whole_words = true;
        return;
    }
    tok_map_init(&bpe->seams, 0);
    for (size_t i = 0; i <= bpe->merges.mask; i++) {
        const struct tok_merge *merge = &bpe->merges.slots[i];
        if (merge->rank == TOK_NO_RANK)
            continue;
        const struct tok_piece *piece = &tokenizer->pieces[merge->id];
        add_pairs(bpe, piece->text, piece->length);
    }
}

static bool joined(const struct tok_bpe *bpe, uint32_t left, uint32_t right, const char *text,
                   size_t length)
{
    int a = near_index(left), b = near_index(right);
    if (a >= 0 && b >= 0)
        return bpe->near_seams[(a * 129 + b) / 8] >> ((a * 129 + b) % 8) & 1;
    return tok_map_get(&bpe->seams, text, length) >= 0;
}

size_t tok_seam_next(const struct tok_tokenizer *tokenizer, const char *word, size_t length,
                     size_t from)
{
    const struct tok_bpe *bpe = &tokenizer->bpe;
    size_t at = from, start = from;
    uint32_t left = tok_utf8_next(word, &at);
    while (at < length) {
        size_t middle = at;
        uint32_t right = tok_utf8_next(word, &at);
        /* A run of unknown characters may become one token: never cut behind one. */
        if (!joined(bpe, left, right, word + start, at - start) &&
            (left < 128 ? bpe->ascii_ids[left]
                        : tok_map_get(&tokenizer->vocab, word + start, middle - start)) >= 0)
            return middle;
        start = middle;
        left = right;
    }
    return length;
}

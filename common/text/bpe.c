/* Byte-pair encoding of one word: the pair with the lowest rank is joined first, the leftmost of
 * equals. Short words scan for it, long ones keep a heap, so that a word of n characters costs
 * O(n log n). Source of the rules: BPE::merge_word of the library that defines the format. */
#include <stdlib.h>

#include "common/text/internal.h"

/* Up to this many symbols a scan beats the heap. */
#define SHORT_WORD 48
#define NONE UINT32_MAX

void tok_scratch_reserve(struct tok_scratch *scratch, size_t symbols)
{
    if (symbols <= scratch->capacity)
        return;
    size_t capacity = SP_MAX(symbols, 2 * scratch->capacity);
    scratch->symbols = sp_xgrow(scratch->symbols, capacity, sizeof(*scratch->symbols));
    scratch->ranks = sp_xgrow(scratch->ranks, capacity, sizeof(*scratch->ranks));
    scratch->next = sp_xgrow(scratch->next, capacity, sizeof(*scratch->next));
    scratch->previous = sp_xgrow(scratch->previous, capacity, sizeof(*scratch->previous));
    scratch->capacity = capacity;
}

void tok_scratch_deinit(struct tok_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->ranks);
    free(scratch->next);
    free(scratch->previous);
    free(scratch->heap);
    free(scratch->path);
    sp_buf_deinit(&scratch->text);
    *scratch = (struct tok_scratch){0};
}

static const struct tok_merge *find_merge(const struct tok_tokenizer *t, int32_t left,
                                          int32_t right, bool no_special)
{
    const struct tok_merge *merge = tok_merges_get(&t->bpe.merges, left, right);
    if (no_special && merge != NULL && t->pieces[merge->id].special)
        return NULL;
    return merge;
}

static size_t merge_short(const struct tok_tokenizer *t, struct tok_scratch *s, size_t count,
                          bool no_special)
{
    int32_t *symbols = s->symbols;
    uint32_t *ranks = s->ranks;
    uint32_t *joined = s->next; /* what the pair at i becomes */
    for (size_t i = 0; i + 1 < count; i++) {
        const struct tok_merge *merge = find_merge(t, symbols[i], symbols[i + 1], no_special);
        ranks[i] = merge != NULL ? merge->rank : TOK_NO_RANK;
        joined[i] = merge != NULL ? (uint32_t)merge->id : 0;
    }
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (ranks[i] < ranks[best])
                best = i;
        if (ranks[best] == TOK_NO_RANK)
            break;
        symbols[best] = (int32_t)joined[best];
        size_t tail = count - best - 2; /* symbols behind the joined pair */
        memmove(symbols + best + 1, symbols + best + 2, tail * sizeof(*symbols));
        memmove(ranks + best, ranks + best + 1, tail * sizeof(*ranks));
        memmove(joined + best, joined + best + 1, tail * sizeof(*joined));
        count--;
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < count; i++) {
            const struct tok_merge *merge = find_merge(t, symbols[i], symbols[i + 1], no_special);
            ranks[i] = merge != NULL ? merge->rank : TOK_NO_RANK;
            joined[i] = merge != NULL ? (uint32_t)merge->id : 0;
        }
    }
    return count;
}

/* A binary heap of rank << 32 | position, smallest first. */
static void sift_down(uint64_t *heap, size_t count, size_t i)
{
    uint64_t value = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (value <= heap[child])
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = value;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t value)
{
    size_t i = (*count)++;
    while (i > 0 && heap[(i - 1) / 2] > value) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = value;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count)
{
    uint64_t top = heap[0];
    heap[0] = heap[--*count];
    if (*count > 0)
        sift_down(heap, *count, 0);
    return top;
}

/* Ranks the pair that starts at i and puts it on the heap. */
static void rank_pair(const struct tok_tokenizer *t, struct tok_scratch *s, uint32_t i,
                      bool no_special, size_t *heap_count)
{
    const struct tok_merge *merge =
        s->next[i] == NONE ? NULL
                           : find_merge(t, s->symbols[i], s->symbols[s->next[i]], no_special);
    s->ranks[i] = merge != NULL ? merge->rank : TOK_NO_RANK;
    if (merge != NULL)
        heap_push(s->heap, heap_count, (uint64_t)merge->rank << 32 | i);
}

static size_t merge_long(const struct tok_tokenizer *t, struct tok_scratch *s, size_t count,
                         bool no_special)
{
    /* One entry for each pair at the start and at most one more for each merge; an entry whose
     * pair is gone is known by its rank and dropped when it comes up. */
    s->heap = sp_xgrow(s->heap, 2 * s->capacity, sizeof(*s->heap));
    size_t heap_count = 0;
    for (size_t i = 0; i < count; i++) {
        s->next[i] = i + 1 < count ? (uint32_t)(i + 1) : NONE;
        s->previous[i] = i > 0 ? (uint32_t)(i - 1) : NONE;
    }
    for (size_t i = 0; i < count; i++)
        rank_pair(t, s, (uint32_t)i, no_special, &heap_count);
    while (heap_count > 0) {
        uint64_t top = heap_pop(s->heap, &heap_count);
        uint32_t i = (uint32_t)top;
        if (s->ranks[i] != (uint32_t)(top >> 32))
            continue;
        uint32_t right = s->next[i];
        s->symbols[i] = find_merge(t, s->symbols[i], s->symbols[right], no_special)->id;
        s->ranks[right] = TOK_NO_RANK;
        s->next[i] = s->next[right];
        if (s->next[i] != NONE)
            s->previous[s->next[i]] = i;
        rank_pair(t, s, i, no_special, &heap_count);
        if (s->previous[i] != NONE)
            rank_pair(t, s, s->previous[i], no_special, &heap_count);
    }
    size_t kept = 0;
    for (uint32_t i = 0; i != NONE; i = s->next[i])
        s->symbols[kept++] = s->symbols[i];
    return kept;
}

size_t tok_bpe_merge(const struct tok_tokenizer *tokenizer, struct tok_scratch *scratch,
                     size_t count, bool no_special)
{
    if (count < 2)
        return count;
    return count <= SHORT_WORD ? merge_short(tokenizer, scratch, count, no_special)
                               : merge_long(tokenizer, scratch, count, no_special);
}

/* The symbols of a word before any merge, text form: one for each character that is a token, else
 * its bytes, else the unknown token. */
static size_t first_symbols(const struct tok_tokenizer *t, const char *word, size_t length,
                            struct tok_scratch *s)
{
    const struct tok_bpe *bpe = &t->bpe;
    size_t count = 0;
    bool unknown = false; /* one is waiting; with fuse_unk it takes in the next ones */
    for (size_t i = 0; i < length;) {
        size_t n = tok_utf8_length((unsigned char)word[i]);
        int32_t id;
        if (bpe->affixed) {
            sp_buf_clear(&s->text);
            if (i > 0)
                sp_buf_puts(&s->text, bpe->subword_prefix);
            sp_buf_append(&s->text, word + i, n);
            if (i + n == length)
                sp_buf_puts(&s->text, bpe->word_suffix);
            id = tok_map_get(&t->vocab, s->text.data, s->text.length);
        } else {
            id = n == 1 ? bpe->ascii_ids[(uint8_t)word[i]] : tok_map_get(&t->vocab, word + i, n);
        }
        const char *bytes = bpe->affixed ? s->text.data : word + i;
        size_t byte_count = bpe->affixed ? s->text.length : n;
        i += n;
        if (id >= 0) {
            if (unknown)
                s->symbols[count++] = bpe->unk_id;
            unknown = false;
            s->symbols[count++] = id;
            continue;
        }
        bool all = bpe->byte_fallback;
        for (size_t b = 0; b < byte_count && all; b++)
            all = bpe->byte_ids[(uint8_t)bytes[b]] >= 0;
        if (all) {
            for (size_t b = 0; b < byte_count; b++)
                s->symbols[count++] = bpe->byte_ids[(uint8_t)bytes[b]];
        } else if (bpe->unk_id >= 0) {
            if (unknown && !bpe->fuse_unk)
                s->symbols[count++] = bpe->unk_id;
            unknown = true;
        }
    }
    if (unknown)
        s->symbols[count++] = bpe->unk_id;
    return count;
}

/* A stretch with no seam in it. */
static void encode_stretch(const struct tok_tokenizer *t, const char *word, size_t length,
                           unsigned flags, struct tok_scratch *s, struct tok_ids *out)
{
    const struct tok_bpe *bpe = &t->bpe;
    bool no_special = (flags & TOK_NO_SPECIAL_SPLIT) && bpe->makes_special;
    int32_t whole = -1;
    if (!bpe->affixed && !no_special) {
        whole = tok_map_get(bpe->raw_bytes ? &bpe->raw : &t->vocab, word, length);
        if (whole >= 0 && atomic_load_explicit(&bpe->direct[whole], memory_order_relaxed) == 1) {
            tok_ids_append(out, whole);
            return;
        }
    }
    size_t affixes = bpe->affixed ? strlen(bpe->subword_prefix) + strlen(bpe->word_suffix) : 0;
    tok_scratch_reserve(s, length * (1 + affixes) + 1);
    size_t count;
    if (bpe->raw_bytes) {
        for (size_t i = 0; i < length; i++)
            s->symbols[i] = bpe->level_ids[(uint8_t)word[i]];
        count = length;
    } else {
        count = first_symbols(t, word, length, s);
    }
    count = tok_bpe_merge(t, s, count, no_special);
    if (whole >= 0)
        atomic_store_explicit(&bpe->direct[whole], count == 1 && s->symbols[0] == whole ? 1 : 2,
                              memory_order_relaxed);
    tok_ids_append_all(out, s->symbols, count);
}

void tok_bpe_word(const struct tok_tokenizer *tokenizer, const char *word, size_t length,
                  unsigned flags, struct tok_scratch *scratch, struct tok_ids *out)
{
    const struct tok_bpe *bpe = &tokenizer->bpe;
    if (bpe->ignore_merges) {
        int32_t id = tok_map_get(bpe->raw_bytes ? &bpe->raw : &tokenizer->vocab, word, length);
        if (id >= 0 && !((flags & TOK_NO_SPECIAL_SPLIT) && tokenizer->pieces[id].special)) {
            tok_ids_append(out, id);
            return;
        }
    }
    if (bpe->whole_words) {
        encode_stretch(tokenizer, word, length, flags, scratch, out);
        return;
    }
    for (size_t at = 0; at < length;) {
        size_t end = tok_seam_next(tokenizer, word, length, at);
        encode_stretch(tokenizer, word + at, end - at, flags, scratch, out);
        at = end;
    }
}

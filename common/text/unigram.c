/* Unigram models: the segmentation with the highest sum of scores (Viterbi).
 * Source: Kudo, "Subword regularization", ACL 2018, section 3.2; tie-breaking and the penalty of
 * unknown characters as Unigram::encode_optimized of the library that defines the format. */
#include <stdlib.h>

#include "common/text/internal.h"

/* A character that is no token costs this much more than the worst token. */
#define UNKNOWN_PENALTY 10.0

struct tok_path {
    double score;   /* of the best segmentation of the bytes before this place */
    uint32_t start; /* of its last token */
    int32_t id;     /* of its last token; -1: nothing ends here yet */
};

void tok_unigram_deinit(struct tok_unigram *unigram)
{
    free(unigram->scores);
}

static enum sp_err load_piece(const struct tok_loader *loader, const json_t *entry, size_t id)
{
    struct tok_tokenizer *t = loader->tokenizer;
    const json_t *score = json_array_get(entry, 1);
    const char *text = json_string_value(json_array_get(entry, 0));
    char field[64];
    snprintf(field, sizeof(field), "model.vocab[%zu]", id);
    if (json_array_size(entry) != 2 || text == NULL || !json_is_number(score))
        return tok_bad_field(loader, field, "expected [\"token\", score]");
    if (!tok_map_put(&t->vocab, text, strlen(text), (int32_t)id))
        return tok_bad_field(loader, field, "\"%.100s\" is there twice", text);
    t->unigram.scores[id] = json_number_value(score);
    t->unigram.min_score = SP_MIN(t->unigram.min_score, t->unigram.scores[id]);
    t->unigram.longest = SP_MAX(t->unigram.longest, strlen(text));
    return SP_OK;
}

enum sp_err tok_unigram_load(const struct tok_loader *loader, const json_t *model)
{
    struct tok_tokenizer *t = loader->tokenizer;
    struct tok_unigram *unigram = &t->unigram;
    const json_t *vocab = json_object_get(model, "vocab");
    t->model = TOK_MODEL_UNIGRAM;
    size_t count = json_array_size(vocab);
    if (!json_is_array(vocab) || count == 0 || count > SP_MAX_VOCAB)
        return tok_bad_field(loader, "model.vocab",
                             "expected an array of 1 to %d [\"token\", score]", SP_MAX_VOCAB);
    tok_map_init(&t->vocab, count);
    unigram->scores = sp_xarray(count, sizeof(*unigram->scores));
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < count && rc == SP_OK; i++)
        rc = load_piece(loader, json_array_get(vocab, i), i);
    char what[512];
    snprintf(what, sizeof(what), "%.480s: model", loader->what);
    int64_t unk = -1;
    if (rc == SP_OK)
        rc = sp_json_opt_i64(model, "unk_id", 0, (int64_t)count - 1, what, &unk, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_bool(model, "byte_fallback", what, &unigram->byte_fallback, loader->err);
    unigram->unk_id = (int32_t)unk;
    tok_load_byte_ids(&t->vocab, unigram->byte_ids);
    return rc;
}

static void relax(struct tok_path *to, double score, size_t start, int32_t id)
{
    if (to->id < 0 || score > to->score)
        *to = (struct tok_path){.score = score, .start = (uint32_t)start, .id = id};
}

static enum sp_err find_path(const struct tok_tokenizer *t, const char *word, size_t length,
                             struct tok_path *path, struct sp_error *err)
{
    const struct tok_unigram *unigram = &t->unigram;
    double unknown = unigram->min_score - UNKNOWN_PENALTY;
    for (size_t at = 0; at < length;) {
        size_t n = tok_utf8_length((unsigned char)word[at]);
        bool single = false;
        size_t limit = SP_MIN(length - at, unigram->longest);
        for (size_t end = n; end <= limit;) {
            int32_t id = tok_map_get(&t->vocab, word + at, end);
            if (id >= 0) {
                relax(&path[at + end], path[at].score + unigram->scores[id], at, id);
                single |= end == n;
            }
            end += at + end < length ? tok_utf8_length((unsigned char)word[at + end]) : 1;
        }
        if (!single) {
            if (unigram->unk_id < 0)
                return sp_fail(err, SP_EFORMAT,
                               "the text has a character that the tokenizer does not know, and it "
                               "has no unknown token: byte %zu of a word",
                               at);
            relax(&path[at + n], path[at].score + unknown, at, unigram->unk_id);
        }
        at += n;
    }
    return SP_OK;
}

/* A stretch of unknown characters: its bytes, or one unknown token. (The text of the unknown token
 * itself is that token.) */
static void emit_unknown(const struct tok_tokenizer *t, const char *text, size_t length,
                         struct tok_ids *out)
{
    const struct tok_unigram *unigram = &t->unigram;
    int32_t id = tok_map_get(&t->vocab, text, length);
    if (id >= 0) {
        tok_ids_append(out, id);
        return;
    }
    bool bytes = unigram->byte_fallback;
    for (size_t i = 0; i < length && bytes; i++)
        bytes = unigram->byte_ids[(uint8_t)text[i]] >= 0;
    if (!bytes)
        tok_ids_append(out, unigram->unk_id);
    for (size_t i = 0; i < length && bytes; i++)
        tok_ids_append(out, unigram->byte_ids[(uint8_t)text[i]]);
}

enum sp_err tok_unigram_word(const struct tok_tokenizer *tokenizer, const char *word, size_t length,
                             struct tok_scratch *scratch, struct tok_ids *out, struct sp_error *err)
{
    if (length == 0)
        return SP_OK;
    if (length + 1 > scratch->path_capacity) {
        scratch->path_capacity = SP_MAX(length + 1, 2 * scratch->path_capacity);
        scratch->path = sp_xgrow(scratch->path, scratch->path_capacity, sizeof(*scratch->path));
    }
    struct tok_path *path = scratch->path;
    for (size_t i = 0; i <= length; i++)
        path[i] = (struct tok_path){.id = -1};
    enum sp_err rc = find_path(tokenizer, word, length, path, err);
    if (rc != SP_OK)
        return rc;
    /* The ends of the tokens, last first. */
    tok_scratch_reserve(scratch, length);
    size_t count = 0;
    for (size_t at = length; at > 0; at = path[at].start)
        scratch->next[count++] = (uint32_t)at;
    const struct tok_unigram *unigram = &tokenizer->unigram;
    for (size_t i = count; i-- > 0;) {
        size_t end = scratch->next[i], start = path[end].start;
        if (path[end].id != unigram->unk_id) {
            tok_ids_append(out, path[end].id);
            continue;
        }
        /* Neighbouring unknowns are one. */
        while (i > 0 && path[scratch->next[i - 1]].id == unigram->unk_id)
            end = scratch->next[--i];
        emit_unknown(tokenizer, word + start, end - start, out);
    }
    return SP_OK;
}

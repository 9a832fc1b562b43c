#include "common/text/tokenizer.h"

#include <stdlib.h>

#include "common/text/internal.h"

void tok_ids_append_all(struct tok_ids *ids, const int32_t *more, size_t count)
{
    if (count == 0)
        return;
    if (count > ids->capacity - ids->count) {
        size_t need;
        SP_ASSERT(sp_add_size(ids->count, count, &need));
        ids->capacity = SP_MAX(need, SP_MAX(2 * ids->capacity, (size_t)32));
        ids->ids = sp_xgrow(ids->ids, ids->capacity, sizeof(*ids->ids));
    }
    memcpy(ids->ids + ids->count, more, count * sizeof(*more));
    ids->count += count;
}

void tok_ids_append(struct tok_ids *ids, int32_t id)
{
    tok_ids_append_all(ids, &id, 1);
}

void tok_ids_clear(struct tok_ids *ids)
{
    ids->count = 0;
}

void tok_ids_deinit(struct tok_ids *ids)
{
    free(ids->ids);
    *ids = (struct tok_ids)TOK_IDS_INIT;
}

void tok_free(struct tok_tokenizer *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->normalizer_count; i++) {
        tok_pattern_deinit(&t->normalizers[i].pattern);
        free(t->normalizers[i].content);
    }
    for (size_t i = 0; i < t->pretokenizer_count; i++)
        tok_pattern_deinit(&t->pretokenizers[i].pattern);
    for (size_t i = 0; i < t->decoder_count; i++) {
        tok_pattern_deinit(&t->decoders[i].pattern);
        free(t->decoders[i].content);
    }
    free(t->normalizers);
    free(t->pretokenizers);
    free(t->decoders);
    tok_added_deinit(&t->added);
    tok_added_deinit(&t->added_normalized);
    tok_bpe_deinit(&t->bpe);
    tok_unigram_deinit(&t->unigram);
    tok_map_deinit(&t->vocab);
    tok_map_deinit(&t->names);
    tok_ids_deinit(&t->prefix);
    tok_ids_deinit(&t->suffix);
    free(t->pieces);
    free(t);
}

int32_t tok_vocab_size(const struct tok_tokenizer *tokenizer)
{
    return tokenizer->id_limit;
}

int32_t tok_id_of(const struct tok_tokenizer *tokenizer, const char *token)
{
    int32_t id = tok_map_get(&tokenizer->names, token, strlen(token));
    return id >= 0 ? id : tok_map_get(&tokenizer->vocab, token, strlen(token));
}

const char *tok_token_of(const struct tok_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->id_limit ? tokenizer->pieces[id].text : NULL;
}

bool tok_is_special(const struct tok_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->id_limit && tokenizer->pieces[id].special;
}

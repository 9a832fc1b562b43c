/* Reading a BPE model. */
#include <stdlib.h>

#include "common/text/internal.h"

void tok_bpe_deinit(struct tok_bpe *bpe)
{
    tok_merges_deinit(&bpe->merges);
    tok_map_deinit(&bpe->raw);
    tok_map_deinit(&bpe->seams);
    free(bpe->subword_prefix);
    free(bpe->word_suffix);
    free((void *)bpe->direct);
}

enum sp_err tok_load_vocab(const struct tok_loader *loader, const json_t *vocab)
{
    struct tok_map *map = &loader->tokenizer->vocab;
    if (!json_is_object(vocab))
        return tok_bad_field(loader, "model.vocab",
                             vocab == NULL ? "missing" : "expected an object of token: id");
    if (json_object_size(vocab) > SP_MAX_VOCAB)
        return tok_bad_field(loader, "model.vocab", "more than %d tokens", SP_MAX_VOCAB);
    tok_map_init(map, json_object_size(vocab));
    uint8_t *seen = sp_xarray(SP_MAX_VOCAB, 1);
    enum sp_err rc = SP_OK;
    const char *token;
    json_t *value;
    json_object_foreach((json_t *)vocab, token, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= SP_MAX_VOCAB) {
            rc = tok_bad_field(loader, "model.vocab",
                               "the id of \"%.100s\" is not an integer from 0 to %d", token,
                               SP_MAX_VOCAB - 1);
            break;
        }
        if (seen[id]) {
            rc = tok_bad_field(loader, "model.vocab", "\"%.100s\" has id %d, as another token has",
                               token, (int)id);
            break;
        }
        seen[id] = 1;
        tok_map_put(map, token, strlen(token), (int32_t)id);
    }
    free(seen);
    return rc;
}

void tok_load_byte_ids(const struct tok_map *vocab, int32_t ids[256])
{
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof(name), "<0x%02X>", b);
        ids[b] = tok_map_get(vocab, name, 6);
    }
}

/* The two sides of a merge: "a b" in older files, ["a", "b"] in newer ones. */
static bool merge_sides(const json_t *merge, const char **ret_left, size_t *ret_left_length,
                        const char **ret_right, size_t *ret_right_length)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        const char *space = strchr(text, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL)
            return false;
        *ret_left = text;
        *ret_left_length = (size_t)(space - text);
        *ret_right = space + 1;
        *ret_right_length = strlen(space + 1);
        return true;
    }
    if (!json_is_array(merge) || json_array_size(merge) != 2)
        return false;
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (!json_is_string(left) || !json_is_string(right))
        return false;
    *ret_left = json_string_value(left);
    *ret_left_length = json_string_length(left);
    *ret_right = json_string_value(right);
    *ret_right_length = json_string_length(right);
    return true;
}

static enum sp_err load_merge(const struct tok_loader *loader, const json_t *merge, size_t index,
                              struct sp_buf *joined)
{
    struct tok_tokenizer *t = loader->tokenizer;
    const char *left, *right;
    size_t left_length, right_length;
    char field[64];
    snprintf(field, sizeof(field), "model.merges[%zu]", index);
    if (!merge_sides(merge, &left, &left_length, &right, &right_length))
        return tok_bad_field(loader, field, "expected two tokens");
    int32_t a = tok_map_get(&t->vocab, left, left_length);
    int32_t b = tok_map_get(&t->vocab, right, right_length);
    if (a < 0 || b < 0)
        return tok_bad_field(loader, field, "\"%.*s\" is not in model.vocab",
                             (int)SP_MIN(a < 0 ? left_length : right_length, (size_t)100),
                             a < 0 ? left : right);
    size_t prefix = strlen(t->bpe.subword_prefix);
    if (prefix > right_length)
        return tok_bad_field(loader, field, "\"%.100s\" lacks the continuing_subword_prefix",
                             right);
    sp_buf_clear(joined);
    sp_buf_append(joined, left, left_length);
    sp_buf_append(joined, right + prefix, right_length - prefix);
    int32_t id = tok_map_get(&t->vocab, joined->data, joined->length);
    if (id < 0)
        return tok_bad_field(loader, field, "the result \"%.100s\" is not in model.vocab",
                             joined->data);
    tok_merges_put(&t->bpe.merges, a, b, (uint32_t)index, id);
    return SP_OK;
}

static enum sp_err load_merges(const struct tok_loader *loader, const json_t *merges)
{
    if (!json_is_array(merges))
        return tok_bad_field(loader, "model.merges",
                             merges == NULL ? "missing" : "expected an array");
    size_t count = json_array_size(merges);
    const char *first = json_string_value(json_array_get(merges, 0));
    /* The first line of a merges.txt, taken along. */
    size_t start = first != NULL && strncmp(first, "#version", 8) == 0 ? 1 : 0;
    if (count > 4 * (size_t)SP_MAX_VOCAB)
        return tok_bad_field(loader, "model.merges", "more than %d", 4 * SP_MAX_VOCAB);
    tok_merges_init(&loader->tokenizer->bpe.merges, count);
    struct sp_buf joined = SP_BUF_INIT;
    enum sp_err rc = SP_OK;
    for (size_t i = start; i < count && rc == SP_OK; i++)
        rc = load_merge(loader, json_array_get(merges, i), i, &joined);
    sp_buf_deinit(&joined);
    return rc;
}

static enum sp_err load_options(const struct tok_loader *loader, const json_t *model)
{
    struct tok_bpe *bpe = &loader->tokenizer->bpe;
    char what[512];
    snprintf(what, sizeof(what), "%.480s: model", loader->what);
    const char *prefix = "", *suffix = "", *unk = NULL;
    double dropout = 0;
    enum sp_err rc =
        sp_json_opt_bool(model, "byte_fallback", what, &bpe->byte_fallback, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_bool(model, "fuse_unk", what, &bpe->fuse_unk, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_bool(model, "ignore_merges", what, &bpe->ignore_merges, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_f64(model, "dropout", what, &dropout, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_str(model, "continuing_subword_prefix", what, &prefix, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_str(model, "end_of_word_suffix", what, &suffix, loader->err);
    if (rc == SP_OK)
        rc = sp_json_opt_str(model, "unk_token", what, &unk, loader->err);
    if (rc != SP_OK)
        return rc;
    if (dropout != 0)
        return tok_unsupported(loader, "model.dropout", "random merges are not supported");
    bpe->subword_prefix = sp_xstrdup(prefix);
    bpe->word_suffix = sp_xstrdup(suffix);
    bpe->affixed = *prefix != '\0' || *suffix != '\0';
    bpe->unk_id = -1;
    if (unk != NULL)
        bpe->unk_id = tok_map_get(&loader->tokenizer->vocab, unk, strlen(unk));
    return SP_OK;
}

enum sp_err tok_bpe_load(const struct tok_loader *loader, const json_t *model)
{
    struct tok_tokenizer *t = loader->tokenizer;
    t->model = TOK_MODEL_BPE;
    enum sp_err rc = tok_load_vocab(loader, json_object_get(model, "vocab"));
    if (rc == SP_OK)
        rc = load_options(loader, model);
    if (rc == SP_OK)
        rc = load_merges(loader, json_object_get(model, "merges"));
    if (rc != SP_OK)
        return rc;
    tok_load_byte_ids(&t->vocab, t->bpe.byte_ids);
    for (int c = 0; c < 128; c++) {
        char text = (char)c;
        t->bpe.ascii_ids[c] = tok_map_get(&t->vocab, &text, 1);
    }
    return SP_OK;
}

/* Words can stay bytes when the last pre-tokenizer would map them to the byte-level alphabet and
 * every letter of that alphabet is a token. */
static bool can_stay_bytes(struct tok_tokenizer *t)
{
    struct tok_bpe *bpe = &t->bpe;
    bool complete = true;
    for (int b = 0; b < 256; b++) {
        struct sp_buf text = SP_BUF_INIT;
        tok_utf8_append(&text, tok_byte_to_code((uint8_t)b));
        bpe->level_ids[b] = tok_map_get(&t->vocab, text.data, text.length);
        complete = complete && bpe->level_ids[b] >= 0;
        sp_buf_deinit(&text);
    }
    return complete && !bpe->affixed && t->pretokenizer_count > 0 &&
           t->pretokenizers[t->pretokenizer_count - 1].kind == TOK_PRE_BYTE_LEVEL &&
           t->pretokenizers[t->pretokenizer_count - 1].map_bytes;
}

/* An unknown token that is none ("" in files of GPT-2's kind) does no harm where every byte is a
 * token. */
static enum sp_err check_unknown(const struct tok_loader *loader, const json_t *model)
{
    const struct tok_bpe *bpe = &loader->tokenizer->bpe;
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    if (unk == NULL || bpe->unk_id >= 0 || bpe->raw_bytes)
        return SP_OK;
    return tok_bad_field(loader, "model.unk_token", "\"%.100s\" is not in model.vocab", unk);
}

enum sp_err tok_bpe_finish(const struct tok_loader *loader, const json_t *model)
{
    struct tok_tokenizer *tokenizer = loader->tokenizer;
    struct tok_bpe *bpe = &tokenizer->bpe;
    bpe->direct = sp_xarray((size_t)tokenizer->id_limit, 1);
    for (size_t i = 0; i <= bpe->merges.mask; i++)
        if (bpe->merges.slots[i].rank != TOK_NO_RANK &&
            tokenizer->pieces[bpe->merges.slots[i].id].special)
            bpe->makes_special = true;
    bpe->raw_bytes = can_stay_bytes(tokenizer);
    if (bpe->raw_bytes) {
        tokenizer->pretokenizers[tokenizer->pretokenizer_count - 1].map_bytes = false;
        tok_map_init(&bpe->raw, tokenizer->vocab.count);
        struct sp_buf raw = SP_BUF_INIT;
        for (size_t i = 0; i <= tokenizer->vocab.mask; i++) {
            const struct tok_map_slot *slot = &tokenizer->vocab.slots[i];
            sp_buf_clear(&raw);
            if (slot->value >= 0 && slot->length > 0 &&
                tok_level_to_bytes(&raw, tokenizer->vocab.keys.data + slot->offset, slot->length))
                tok_map_put(&bpe->raw, raw.data, raw.length, slot->value);
        }
        sp_buf_deinit(&raw);
    }
    tok_seams_init(tokenizer);
    return check_unknown(loader, model);
}

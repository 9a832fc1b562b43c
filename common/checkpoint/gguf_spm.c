/* Merges from scores and scores from merges, for SentencePiece-style tokenizers. SentencePiece
 * joins the neighbours whose union has the best score; a list of merges says the same with ranks.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "common/checkpoint/gguf_vocab_internal.h"

struct cut {
    const struct gguf_piece *piece;
    size_t at;          /* bytes of the left half */
    size_t left, right; /* characters of both halves */
    int64_t left_id, right_id;
    size_t order; /* of pieces and, within one, of ids: what a stable sort keeps */
};

/* Specials are found before any merging, and a byte's token only stands for bytes that have no
 * other. */
static bool is_merged(const struct gguf_piece *piece)
{
    return piece->type == GGUF_TOKEN_NORMAL;
}

static int by_ids(const void *a, const void *b)
{
    const struct cut *x = a, *y = b;
    if (x->left_id != y->left_id)
        return x->left_id < y->left_id ? -1 : 1;
    return (x->right_id > y->right_id) - (x->right_id < y->right_id);
}

static int by_score(const void *a, const void *b)
{
    const struct cut *x = a, *y = b;
    if (x->piece->score != y->piece->score)
        return x->piece->score > y->piece->score ? -1 : 1;
    if (x->left != y->left)
        return x->left > y->left ? -1 : 1;
    if (x->right != y->right)
        return x->right > y->right ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static int64_t id_of(const json_t *vocab, const char *text, size_t length)
{
    const json_t *id = json_object_getn(vocab, text, length);
    return id != NULL ? (int64_t)json_integer_value(id) : -1;
}

/* Appends every way to cut a piece into two. */
static size_t add_cuts(const struct gguf_piece *piece, const json_t *vocab, struct cut **cuts,
                       size_t count, size_t *capacity)
{
    size_t first = count, chars = 0, left = 0;
    for (size_t i = 0; i < piece->text.length; chars++)
        i += SP_MAX(sp_utf8_char(piece->text.data + i, piece->text.length - i), 1);
    for (size_t i = 0; i < piece->text.length;) {
        i += SP_MAX(sp_utf8_char(piece->text.data + i, piece->text.length - i), 1);
        left++;
        if (i >= piece->text.length)
            break;
        int64_t a = id_of(vocab, piece->text.data, i);
        int64_t b = a < 0 ? -1 : id_of(vocab, piece->text.data + i, piece->text.length - i);
        if (b < 0)
            continue;
        if (count == *capacity) {
            *capacity = SP_MAX(2 * *capacity, 1024);
            *cuts = sp_xgrow(*cuts, *capacity, sizeof(**cuts));
        }
        (*cuts)[count++] = (struct cut){piece, i, left, chars - left, a, b, 0};
    }
    if (count > first + 1)
        qsort(*cuts + first, count - first, sizeof(**cuts), by_ids);
    for (size_t i = first; i < count; i++)
        (*cuts)[i].order = i;
    return count;
}

json_t *gguf_spm_merges(const struct gguf_piece *pieces, size_t count, const json_t *vocab)
{
    struct cut *cuts = NULL;
    size_t capacity = 0, cut_count = 0;
    for (size_t i = 0; i < count; i++)
        if (is_merged(&pieces[i]))
            cut_count = add_cuts(&pieces[i], vocab, &cuts, cut_count, &capacity);
    if (cut_count > 0)
        qsort(cuts, cut_count, sizeof(*cuts), by_score);
    json_t *merges = json_array();
    for (size_t i = 0; i < cut_count; i++) {
        const struct ckpt_gguf_text *text = &cuts[i].piece->text;
        json_array_append_new(merges,
                              json_pack("[s%, s%]", text->data, cuts[i].at, text->data + cuts[i].at,
                                        text->length - cuts[i].at));
    }
    free(cuts);
    return merges;
}

/* ---- back ---- */

bool gguf_merge_halves(const json_t *merge, struct ckpt_gguf_text *ret_a,
                       struct ckpt_gguf_text *ret_b)
{
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    if (json_array_size(merge) == 2 && json_is_string(a) && json_is_string(b)) {
        *ret_a = (struct ckpt_gguf_text){json_string_value(a), json_string_length(a)};
        *ret_b = (struct ckpt_gguf_text){json_string_value(b), json_string_length(b)};
        return true;
    }
    const char *text = json_string_value(merge), *space = text != NULL ? strchr(text, ' ') : NULL;
    if (space == NULL || strchr(space + 1, ' ') != NULL)
        return false;
    *ret_a = (struct ckpt_gguf_text){text, (size_t)(space - text)};
    *ret_b = (struct ckpt_gguf_text){space + 1, strlen(space + 1)};
    return true;
}

enum sp_err gguf_spm_scores(const json_t *merges, const json_t *vocab, struct gguf_piece *pieces,
                            size_t count, const char *what, size_t *ret_inexact,
                            struct sp_error *err)
{
    size_t *ways = sp_xarray(count, sizeof(*ways)), rank = 0, inexact = 0, capacity = 0;
    struct cut *cuts = NULL;
    int64_t before = -1;
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < count; i++)
        pieces[i].score = 1;
    for (size_t i = 0; rc == SP_OK && i < json_array_size(merges); i++) {
        struct ckpt_gguf_text a = {0}, b = {0};
        struct sp_buf text = SP_BUF_INIT;
        int64_t id = -1;
        if (gguf_merge_halves(json_array_get(merges, i), &a, &b)) {
            sp_buf_append(&text, a.data, a.length);
            sp_buf_append(&text, b.data, b.length);
            id = id_of(vocab, text.data, text.length);
        }
        sp_buf_deinit(&text);
        if (id < 0 || (size_t)id >= count) {
            rc = sp_fail(err, SP_EFORMAT,
                         "%s: field \"model.merges[%zu]\": not two tokens that "
                         "make a third",
                         what, i);
            break;
        }
        if (pieces[id].score > 0)
            pieces[id].score = -(double)rank++;
        else if (id != before)
            inexact++; /* another token's merge has come between */
        ways[id]++;
        before = id;
    }
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        if (pieces[i].score > 0)
            pieces[i].score = is_merged(&pieces[i]) ? -(double)rank++ : 0;
        if (is_merged(&pieces[i]) && add_cuts(&pieces[i], vocab, &cuts, 0, &capacity) != ways[i])
            inexact++;
    }
    if (rc == SP_OK)
        *ret_inexact = inexact;
    free(cuts);
    free(ways);
    return rc;
}

/* Token ids to text: tokenizers out of the blobs, decoding, exact match. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/manifest.h"
#include "coordinator/query_internal.h"

#define MATCH_PAGE 256 /* rows read at once */

static enum sp_err read_file(struct ckpt_blobs *blobs, const struct ckpt_manifest_file *file,
                             struct sp_buf *out, struct sp_error *err)
{
    if (file->bytes > SP_MAX_TOKENIZER_JSON)
        return sp_fail(err, SP_ELIMIT, "%s: %llu bytes", file->path,
                       (unsigned long long)file->bytes);
    for (uint32_t i = 0; i < file->chunk_count; i++) {
        uint8_t *data = NULL;
        size_t length = 0;
        enum sp_err rc = ckpt_blobs_get(blobs, &file->chunks[i], &data, &length, err);
        if (rc != SP_OK)
            return rc;
        sp_buf_append(out, data, length);
        free(data);
    }
    return SP_OK;
}

static enum sp_err load_tokenizer(struct ckpt_blobs *blobs, const struct sp_digest *base_manifest,
                                  struct tok_tokenizer **ret, struct sp_error *err)
{
    uint8_t *text = NULL;
    size_t length = 0;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_buf json = SP_BUF_INIT;
    enum sp_err rc = ckpt_blobs_get(blobs, base_manifest, &text, &length, err);
    if (rc == SP_OK)
        rc = ckpt_manifest_parse((const char *)text, length, &manifest, err);
    const struct ckpt_manifest_file *file =
        rc == SP_OK ? ckpt_manifest_find(&manifest, "tokenizer.json") : NULL;
    if (rc == SP_OK && file == NULL)
        rc = sp_fail(err, SP_ENOTFOUND, "the base has no tokenizer.json");
    if (rc == SP_OK)
        rc = read_file(blobs, file, &json, err);
    if (rc == SP_OK)
        rc = tok_load_memory(json.data ? json.data : "", json.length, "tokenizer.json", ret, err);
    free(text);
    sp_buf_deinit(&json);
    ckpt_manifest_deinit(&manifest);
    return rc;
}

enum sp_err query_tokenizer(struct coord_query *query, const struct sp_digest *base_manifest,
                            const struct tok_tokenizer **ret, struct sp_error *err)
{
    *ret = NULL;
    if (query->blobs == NULL)
        return SP_OK;
    for (size_t i = 0; i < query->tokenizer_count; i++) {
        if (sp_digest_equal(&query->tokenizers[i].manifest, base_manifest)) {
            *ret = query->tokenizers[i].tokenizer;
            return SP_OK;
        }
    }
    struct tok_tokenizer *tokenizer = NULL;
    enum sp_err rc = load_tokenizer(query->blobs, base_manifest, &tokenizer, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "tokenizer of the base");
    size_t at = query->next_tokenizer;
    query->next_tokenizer = (at + 1) % QUERY_TOKENIZERS;
    tok_free(query->tokenizers[at].tokenizer);
    query->tokenizers[at].tokenizer = tokenizer;
    query->tokenizers[at].manifest = *base_manifest;
    query->tokenizer_count = SP_MAX(query->tokenizer_count, at + 1);
    *ret = tokenizer;
    return SP_OK;
}

json_t *query_decoded(const struct tok_tokenizer *tokenizer, const struct proto_ids *ids,
                      unsigned flags)
{
    struct sp_buf out = SP_BUF_INIT;
    json_t *value = NULL;
    if (tokenizer && tok_decode(tokenizer, ids->ids, ids->count, flags, &out, NULL) == SP_OK)
        value = query_text(out.data ? out.data : "", out.length);
    sp_buf_deinit(&out);
    return value ? value : json_null();
}

/* ---- exact match ---- */

static void trim(const char **text, size_t *length)
{
    while (*length && isspace((unsigned char)(*text)[0])) {
        (*text)++;
        (*length)--;
    }
    while (*length && isspace((unsigned char)(*text)[*length - 1]))
        (*length)--;
}

static bool matches(const struct tok_tokenizer *tokenizer, const struct proto_ids *ids,
                    const char *reference, struct sp_buf *scratch)
{
    sp_buf_clear(scratch);
    if (tok_decode(tokenizer, ids->ids, ids->count, TOK_SKIP_SPECIAL, scratch, NULL) != SP_OK)
        return false;
    const char *answer = scratch->data ? scratch->data : "";
    size_t answer_length = scratch->length, length = strlen(reference);
    trim(&answer, &answer_length);
    trim(&reference, &length);
    return answer_length == length && memcmp(answer, reference, length) == 0;
}

static enum sp_err count_matches(struct coord_query *query, struct store_run *run,
                                 const struct tok_tokenizer *tokenizer, uint32_t iteration,
                                 uint32_t set, uint64_t *ret_correct, uint64_t *ret_count,
                                 struct sp_error *err)
{
    struct sp_buf scratch = SP_BUF_INIT;
    struct sp_arena *arena = sp_arena_new(1 << 16, 256u << 20);
    uint64_t correct = 0, count = 0, next = 0;
    enum sp_err rc = SP_OK;
    for (size_t got = MATCH_PAGE; rc == SP_OK && got == MATCH_PAGE;) {
        struct store_result *rows = NULL;
        sp_arena_reset(arena);
        rc = store_results_range(run, iteration, set, next, MATCH_PAGE, arena, &rows, &got, err);
        for (size_t i = 0; i < got && rc == SP_OK; i++) {
            struct store_prompt prompt;
            rc = store_prompts_get(run, STORE_SPLIT_EVAL, rows[i].prompt, 1, arena, &prompt, err);
            if (rc == SP_OK)
                correct += matches(tokenizer, &rows[i].ids, prompt.response, &scratch);
            next = rows[i].position + 1;
        }
        count += got;
    }
    sp_arena_free(arena);
    sp_buf_deinit(&scratch);
    if (rc == SP_OK) {
        *ret_correct = correct;
        *ret_count = count;
    }
    return rc;
}

enum sp_err coord_query_exact_match(struct coord_query *query, struct store_run *run,
                                    uint32_t iteration, uint32_t set, uint64_t *ret_correct,
                                    uint64_t *ret_count, struct sp_error *err)
{
    SP_ASSERT(set >= PROTO_SET_EVAL_GREEDY && set <= PROTO_SET_BASE_SAMPLED);
    struct sp_arena *arena = sp_arena_new(1 << 16, 64 << 20);
    struct store_run_info info;
    const struct tok_tokenizer *tokenizer = NULL;
    enum sp_err rc = store_run_info(run, arena, &info, err);
    if (rc == SP_OK)
        rc = query_tokenizer(query, &info.base_manifest, &tokenizer, err);
    if (rc == SP_OK && tokenizer == NULL)
        rc = sp_fail(err, SP_ESTATE, "exact match needs the blobs");
    if (rc == SP_OK)
        rc = count_matches(query, run, tokenizer, iteration, set, ret_correct, ret_count, err);
    sp_arena_free(arena);
    return rc;
}

/* The problems of an evaluation: read from blobs, rendered, tokenized, stored. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/evaluation_internal.h"
#include "coordinator/try.h"

#define WIDTH 2 /* answers that a work item can score behind one prompt */

/* ---- data ---- */

static enum sp_err append_chunks(struct ckpt_blobs *blobs, const struct ckpt_manifest_file *file,
                                 struct sp_buf *out, struct sp_error *err)
{
    if (file->bytes > SP_MAX_TASK_DATA)
        return sp_fail(err, SP_ELIMIT, "%s: %llu bytes, at most %d", file->path,
                       (unsigned long long)file->bytes, SP_MAX_TASK_DATA);
    for (uint32_t i = 0; i < file->chunk_count; i++) {
        uint8_t *data = NULL;
        size_t length = 0;
        SP_TRY(ckpt_blobs_get(blobs, &file->chunks[i], &data, &length, err));
        sp_buf_append(out, data, length);
        free(data);
    }
    return SP_OK;
}

/* The rows of the one-file manifest that args[key] names; *ret = NULL when it is null. */
static enum sp_err read_rows(struct evaluation *e, const char *key, int64_t limit, json_t **ret,
                             struct sp_error *err)
{
    const char *hex = json_string_value(json_object_get(e->args, key));
    struct sp_digest sha256;
    struct ckpt_manifest manifest = CKPT_MANIFEST_INIT;
    struct sp_buf text = SP_BUF_INIT;
    *ret = NULL;
    if (hex == NULL)
        return SP_OK;
    enum sp_err rc = sp_digest_parse(hex, &sha256, err);
    if (rc == SP_OK)
        rc = create_manifest(e->request->blobs, "data", &sha256, &manifest, err);
    if (rc == SP_OK && manifest.count != 1)
        rc = sp_fail(err, SP_EFORMAT, "its manifest has %zu files, expected one", manifest.count);
    if (rc == SP_OK)
        rc = store_builder_refs(e->builder, "data", &sha256, 1, err);
    if (rc == SP_OK)
        rc = store_builder_refs(e->builder, "data", manifest.files[0].chunks,
                                manifest.files[0].chunk_count, err);
    if (rc == SP_OK)
        rc = append_chunks(e->request->blobs, &manifest.files[0], &text, err);
    if (rc == SP_OK)
        rc = task_rows(e->task, text.data ? text.data : "", text.length, manifest.files[0].path,
                       limit, ret, err);
    sp_buf_deinit(&text);
    ckpt_manifest_deinit(&manifest);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "[data] %s", key);
}

enum sp_err evaluation_read(struct evaluation *e, struct sp_error *err)
{
    const struct task_settings *s = task_settings_of(e->task);
    int64_t limit = json_integer_value(json_object_get(e->args, "limit"));
    json_t *examples = NULL;
    SP_TRY(read_rows(e, "data", limit > 0 ? limit : s->limit, &e->rows, err));
    if (e->rows == NULL)
        return sp_fail(err, SP_EINVAL, "evaluate: no data given");
    SP_TRY(read_rows(e, "fewshot", 0, &examples, err));
    if (examples != NULL)
        task_set_examples(e->task, examples);
    json_decref(examples);
    return SP_OK;
}

/* ---- prompts ---- */

static struct proto_ids view(const struct tok_ids *ids)
{
    return (struct proto_ids){.ids = ids->ids, .count = (uint32_t)ids->count};
}

static enum sp_err add_prompt(struct evaluation *e, enum store_split split,
                              const struct tok_ids *context, const struct tok_ids *a,
                              const struct tok_ids *b, int covers, json_t *doc,
                              struct sp_error *err)
{
    json_t *meta = json_pack("{s:i}", "covers", covers);
    if (doc != NULL)
        json_object_set(meta, "doc", doc);
    char *text = sp_json_canonical(meta);
    struct store_prompt prompt = {.index = e->counts[split],
                                  .prompt_ids = view(context),
                                  .real_ids = view(a),
                                  .rejected_ids = view(b),
                                  .response = text};
    int64_t longest = (int64_t)(context->count + SP_MAX(a->count, b->count));
    if (split == STORE_SPLIT_EVAL)
        longest = (int64_t)context->count + e->settings.max_new_tokens;
    e->longest = SP_MAX(e->longest, longest);
    enum sp_err rc = store_builder_add(e->builder, split, &prompt, err);
    e->counts[split]++;
    json_decref(meta);
    free(text);
    return rc;
}

struct pair {
    struct tok_ids context, continuation;
};

static void free_pairs(struct pair *pairs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        tok_ids_deinit(&pairs[i].context);
        tok_ids_deinit(&pairs[i].continuation);
    }
    free(pairs);
}

static bool same_ids(const struct tok_ids *a, const struct tok_ids *b)
{
    return a->count == b->count && memcmp(a->ids, b->ids, a->count * sizeof(*a->ids)) == 0;
}

/* In the model's template as training renders it, or as plain text. */
static enum sp_err encode(const struct evaluation *e, const struct task_request *request,
                          struct pair *ret, int64_t *ret_cut, struct sp_error *err)
{
    struct chat_turn turn = {.role = "user", .content = request->context};
    if (task_settings_of(e->task)->template == TASK_TEMPLATE_NONE)
        return task_encode_pair(&e->encoder, request->context, request->continuation, &ret->context,
                                &ret->continuation, ret_cut, err);
    SP_TRY(tok_render_example(e->base.model.renderer, &turn, 1, request->continuation,
                              &ret->context, &ret->continuation, err));
    if ((int64_t)(ret->context.count + ret->continuation.count) > e->encoder.max_tokens)
        return sp_fail(err, SP_ELIMIT, "prompt and answer have more than %lld tokens",
                       (long long)e->encoder.max_tokens);
    return SP_OK;
}

/* Choices behind one context go two by two; the odd one is scored twice. */
static enum sp_err add_scored(struct evaluation *e, const struct task_question *question,
                              struct sp_error *err)
{
    static const struct tok_ids none = TOK_IDS_INIT;
    size_t n = question->count;
    struct pair *pairs = sp_xarray(n + 1, sizeof(*pairs));
    enum sp_err rc = SP_OK;
    bool lost = false;
    for (size_t i = 0; i < n && rc == SP_OK; i++) {
        int64_t cut = 0;
        rc = encode(e, &question->requests[i], &pairs[i], &cut, err);
        lost = lost || cut > 0;
    }
    if (rc == SP_OK && n == 1)
        json_object_set_new(question->meta, "tokens",
                            json_integer((json_int_t)pairs[0].continuation.count));
    bool two = e->settings.samples_per_prompt == WIDTH;
    for (size_t i = 0; i < n && rc == SP_OK;) {
        bool both = two && i + 1 < n && same_ids(&pairs[i].context, &pairs[i + 1].context);
        const struct tok_ids *second = !two   ? &none
                                       : both ? &pairs[i + 1].continuation
                                              : &pairs[i].continuation;
        rc = add_prompt(e, STORE_SPLIT_HOLDOUT, &pairs[i].context, &pairs[i].continuation, second,
                        both ? 2 : 1, i == 0 ? question->meta : NULL, err);
        i += both ? 2 : 1;
    }
    e->cut += lost;
    free_pairs(pairs, n);
    return rc;
}

static enum sp_err add_generated(struct evaluation *e, const struct task_question *question,
                                 struct sp_error *err)
{
    static const struct tok_ids none = TOK_IDS_INIT;
    struct tok_ids context = TOK_IDS_INIT;
    const char *text = question->requests[0].context;
    int64_t cut = 0;
    enum sp_err rc;
    if (task_settings_of(e->task)->template == TASK_TEMPLATE_MODEL) {
        struct chat_turn turn = {.role = "user", .content = text};
        rc = tok_render_prompt(e->base.model.renderer, &turn, 1, &context, err);
        if (rc == SP_OK &&
            (int64_t)context.count + e->settings.max_new_tokens > e->encoder.max_tokens)
            rc = sp_fail(err, SP_ELIMIT, "a prompt of %zu tokens leaves no room for an answer",
                         context.count);
    } else {
        rc =
            task_encode_context(&e->encoder, text, e->settings.max_new_tokens, &context, &cut, err);
    }
    if (rc == SP_OK)
        rc = add_prompt(e, STORE_SPLIT_EVAL, &context, &none, &none, 1, question->meta, err);
    e->cut += cut > 0;
    tok_ids_deinit(&context);
    return rc;
}

/* The conversation so far and the turn that is asked now; a problem without one is left out. */
static enum sp_err add_turn(struct evaluation *e, uint64_t number,
                            const struct task_question *question, struct sp_error *err)
{
    static const struct tok_ids none = TOK_IDS_INIT;
    json_t *messages = json_object_get(question->meta, "turns");
    const json_t *before = json_array_get(e->answers, number);
    size_t turn = json_array_size(before);
    if (turn >= json_array_size(messages))
        return SP_OK;
    size_t count = 2 * turn + 1;
    struct chat_turn *turns = sp_xarray(count, sizeof(*turns));
    for (size_t i = 0; i < count; i++)
        turns[i] = (struct chat_turn){
            .role = i % 2 ? "assistant" : "user",
            .content = json_string_value(json_array_get(i % 2 ? before : messages, i / 2))};
    struct tok_ids context = TOK_IDS_INIT;
    enum sp_err rc = tok_render_prompt(e->base.model.renderer, turns, count, &context, err);
    if (rc == SP_OK && (int64_t)context.count + e->settings.max_new_tokens > e->encoder.max_tokens)
        rc = sp_fail(err, SP_ELIMIT, "a conversation of %zu tokens leaves no room for an answer",
                     context.count);
    if (rc == SP_OK && before != NULL)
        json_object_set(question->meta, "before", (json_t *)before);
    if (rc == SP_OK)
        rc = add_prompt(e, STORE_SPLIT_EVAL, &context, &none, &none, 1, question->meta, err);
    tok_ids_deinit(&context);
    free(turns);
    return rc;
}

static enum sp_err add_question(struct evaluation *e, uint64_t number, const json_t *row,
                                struct sp_error *err)
{
    struct task_question question;
    SP_TRY(task_render(e->task, row, number, &question, err));
    enum sp_err rc;
    switch (task_settings_of(e->task)->kind) {
    case TASK_GENERATE:
        rc = add_generated(e, &question, err);
        break;
    case TASK_SHEET:
        rc = add_turn(e, number, &question, err);
        break;
    default:
        rc = add_scored(e, &question, err);
    }
    task_question_deinit(&question);
    e->problems++;
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "problem %llu", (unsigned long long)number + 1);
}

enum sp_err evaluation_add_rows(struct evaluation *e, struct sp_error *err)
{
    const struct coord_evaluate *request = e->request;
    for (size_t i = 0; i < json_array_size(e->rows); i++) {
        SP_TRY(add_question(e, i, json_array_get(e->rows, i), err));
        if (i % 256 == 0 && request->cancelled && request->cancelled(request->context))
            return sp_fail(err, SP_ECANCELED, "the coordinator is ending");
    }
    return SP_OK;
}

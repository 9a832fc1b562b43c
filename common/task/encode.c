/* Texts to tokens, as the harness's HFLM does it. */
#include <string.h>

#include "common/base/mem.h"
#include "common/task/internal.h"

/* A text that brings its own first token gets no second one. */
static unsigned flags_for(const struct task_encoder *encoder, const char *text)
{
    const char *prefix = encoder->prefix_text ? encoder->prefix_text : "";
    bool has = prefix[0] != '\0' && strncmp(text, prefix, strlen(prefix)) == 0;
    return has ? 0 : TOK_ADD_SPECIAL;
}

static int64_t cut_front(struct tok_ids *ids, size_t from, int64_t keep)
{
    int64_t count = (int64_t)(ids->count - from);
    if (count <= keep)
        return 0;
    int64_t cut = count - keep;
    memmove(ids->ids + from, ids->ids + from + cut, (size_t)keep * sizeof(*ids->ids));
    ids->count = from + (size_t)keep;
    return cut;
}

/* An empty context is the prefix token; it is not asked for twice. */
static enum sp_err encode_alone(const struct task_encoder *encoder, const char *continuation,
                                struct tok_ids *ret_context, struct tok_ids *ret_continuation,
                                struct sp_error *err)
{
    struct tok_ids ids = TOK_IDS_INIT;
    enum sp_err rc =
        tok_encode(encoder->tokenizer, continuation, strlen(continuation), 0, &ids, err);
    size_t skip = rc == SP_OK && ids.count > 0 && ids.ids[0] == encoder->prefix_id;
    if (rc == SP_OK && encoder->prefix_id < 0)
        rc = sp_fail(err, SP_EFORMAT, "an empty context, and the model has no BOS or EOS token");
    if (rc == SP_OK) {
        tok_ids_append(ret_context, encoder->prefix_id);
        tok_ids_append_all(ret_continuation, ids.ids + skip, ids.count - skip);
    }
    tok_ids_deinit(&ids);
    return rc;
}

static enum sp_err encode_both(const struct task_encoder *encoder, const char *context,
                               const char *continuation, struct tok_ids *ret_context,
                               struct tok_ids *ret_continuation, struct sp_error *err)
{
    size_t kept = strlen(context);
    tok_strip_end(context, &kept);
    struct tok_ids whole = TOK_IDS_INIT;
    struct sp_buf text = SP_BUF_INIT;
    sp_buf_printf(&text, "%s%s", context, continuation);
    unsigned flags = flags_for(encoder, text.data);
    size_t before = ret_context->count;
    enum sp_err rc = tok_encode(encoder->tokenizer, text.data, text.length, flags, &whole, err);
    if (rc == SP_OK) {
        text.data[kept] = '\0';
        rc = tok_encode(encoder->tokenizer, text.data, kept, flags_for(encoder, text.data),
                        ret_context, err);
    }
    size_t n = ret_context->count - before;
    if (rc == SP_OK && whole.count > n)
        tok_ids_append_all(ret_continuation, whole.ids + n, whole.count - n);
    tok_ids_deinit(&whole);
    sp_buf_deinit(&text);
    return rc;
}

enum sp_err task_encode_pair(const struct task_encoder *encoder, const char *context,
                             const char *continuation, struct tok_ids *ret_context,
                             struct tok_ids *ret_continuation, int64_t *ret_cut,
                             struct sp_error *err)
{
    size_t before = ret_context->count, start = ret_continuation->count;
    enum sp_err rc =
        context[0] == '\0'
            ? encode_alone(encoder, continuation, ret_context, ret_continuation, err)
            : encode_both(encoder, context, continuation, ret_context, ret_continuation, err);
    if (rc != SP_OK)
        return rc;
    int64_t scored = (int64_t)(ret_continuation->count - start);
    if (scored == 0)
        return sp_fail(err, SP_EFORMAT, "no token is left to score of \"%.80s\"", continuation);
    /* The harness lets one more token in, which is predicted and not read; the decoder does not. */
    int64_t room = encoder->max_tokens - scored;
    if (room < 1)
        return sp_fail(err, SP_ELIMIT, "an answer of %lld tokens, the model has %lld positions",
                       (long long)scored, (long long)encoder->max_tokens);
    *ret_cut = cut_front(ret_context, before, room);
    if (ret_context->count == before)
        return sp_fail(err, SP_EFORMAT, "the context has no tokens: \"%.80s\"", context);
    return SP_OK;
}

enum sp_err task_encode_context(const struct task_encoder *encoder, const char *context,
                                int64_t max_new, struct tok_ids *ret, int64_t *ret_cut,
                                struct sp_error *err)
{
    size_t before = ret->count;
    int64_t room = encoder->max_tokens - max_new;
    if (room < 1)
        return sp_fail(
            err, SP_ELIMIT,
            "[generate] max_new_tokens: %lld leave no room for a prompt in %lld positions",
            (long long)max_new, (long long)encoder->max_tokens);
    enum sp_err rc = tok_encode(encoder->tokenizer, context, strlen(context),
                                flags_for(encoder, context), ret, err);
    if (rc != SP_OK)
        return rc;
    *ret_cut = cut_front(ret, before, room);
    if (ret->count == before)
        return sp_fail(err, SP_EFORMAT, "the prompt has no tokens");
    return SP_OK;
}

#include "common/text/chat_uclaml.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/text/internal.h"
#include "common/text/utf8.h"

static struct tok_part literal(const char *text)
{
    return (struct tok_part){.text = text, .length = strlen(text)};
}

static struct tok_part words(const char *text, size_t length)
{
    return (struct tok_part){.text = text, .length = length, .user = true};
}

/* The user turn, and the system's content or "". */
static enum sp_err take_turns(const struct chat_turn *turns, size_t count, const char **ret_user,
                              const char **ret_system, struct sp_error *err)
{
    bool system = count > 0 && strcmp(turns[0].role, "system") == 0;
    if (count != (size_t)system + 1 || strcmp(turns[system].role, "user") != 0)
        return sp_fail(err, SP_EINVAL,
                       "compat = uclaml takes one message of the user and one answer: leave out "
                       "the rest of the conversation, as spin/reformat.py does");
    *ret_system = system ? turns[0].content : "";
    *ret_user = turns[system].content;
    return SP_OK;
}

enum sp_err tok_uclaml_prompt(const struct tok_uclaml *renderer, const struct chat_turn *turns,
                              size_t count, struct tok_ids *ret, struct sp_error *err)
{
    const char *user = "", *system = "";
    enum sp_err rc = take_turns(turns, count, &user, &system, err);
    if (rc != SP_OK)
        return rc;
    struct tok_part end = {.token = renderer->eos_id};
    struct tok_part parts[8];
    size_t n = 0;
    parts[n++] = literal("<|system|>\n");
    if (system[0] != '\0')
        parts[n++] = words(system, strlen(system));
    parts[n++] = end;
    parts[n++] = literal("\n<|user|>\n");
    parts[n++] = words(user, strlen(user));
    parts[n++] = end;
    parts[n++] = literal("\n<|assistant|>\n");
    return tok_encode_parts(renderer->tokenizer, parts, n, 0, ret, err);
}

enum sp_err tok_uclaml_sample_prompt(const struct tok_uclaml *renderer,
                                     const struct chat_turn *turns, size_t count,
                                     struct tok_ids *ret, struct sp_error *err)
{
    const char *user = "", *system = "";
    enum sp_err rc = take_turns(turns, count, &user, &system, err);
    if (rc != SP_OK)
        return rc;
    const struct tok_part parts[] = {literal("### Instruction: "), words(user, strlen(user)),
                                     literal("\n\n### Response: ")};
    return tok_encode_parts(renderer->tokenizer, parts, SP_COUNT(parts), 0, ret, err);
}

enum sp_err tok_uclaml_response(const struct tok_uclaml *renderer, const char *response,
                                size_t length, struct tok_ids *ret, struct sp_error *err)
{
    const struct tok_part parts[] = {
        words(response, length), {.token = renderer->eos_id}, literal("\n")};
    size_t skip = length == 0; /* an empty part is none */
    enum sp_err rc =
        tok_encode_parts(renderer->tokenizer, parts + skip, SP_COUNT(parts) - skip, 0, ret, err);
    if (rc == SP_OK)
        tok_ids_append(ret, renderer->eos_id);
    return rc;
}

/* The text without any `end`, and without white space at its start. */
static void clean(const char *text, size_t length, const char *end, struct sp_buf *out)
{
    size_t n = strlen(end);
    for (size_t i = 0; i < length;) {
        if (n > 0 && length - i >= n && memcmp(text + i, end, n) == 0) {
            i += n;
            continue;
        }
        size_t next = i;
        bool space = tok_is_space(tok_utf8_next(text, &next));
        if (out->length > 0 || !space)
            sp_buf_append(out, text + i, next - i);
        i = next;
    }
}

enum sp_err tok_uclaml_generated(const struct tok_uclaml *renderer, const int32_t *ids,
                                 size_t count, size_t most, struct tok_ids *ret,
                                 struct sp_error *err)
{
    struct sp_buf text = SP_BUF_INIT, kept = SP_BUF_INIT;
    struct tok_ids known = {0}, all = {0}, ends = {0};
    const char *end = tok_token_of(renderer->tokenizer, renderer->eos_id);
    /* A model's vocabulary may be padded beyond its tokenizer's: those ids have no text. */
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < tok_vocab_size(renderer->tokenizer))
            tok_ids_append(&known, ids[i]);
    enum sp_err rc = tok_decode(renderer->tokenizer, known.ids, known.count, 0, &text, err);
    if (rc == SP_OK)
        rc = tok_uclaml_response(renderer, "", 0, &ends, err);
    if (rc == SP_OK) {
        clean(text.data ? text.data : "", text.length, end ? end : "", &kept);
        rc = tok_uclaml_response(renderer, kept.data ? kept.data : "", kept.length, &all, err);
    }
    if (rc == SP_OK) {
        size_t answer = all.count > ends.count ? all.count - ends.count : 0;
        tok_ids_append_all(ret, all.ids, SP_MIN(answer, most));
        tok_ids_append_all(ret, all.ids + answer, all.count - answer);
    }
    tok_ids_deinit(&known);
    tok_ids_deinit(&all);
    tok_ids_deinit(&ends);
    sp_buf_deinit(&text);
    sp_buf_deinit(&kept);
    return rc;
}

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/spin-model/tool.h"
#include "common/text/tokenizer.h"

#define MAX_TEXT_BYTES ((size_t)256 << 20)

/* Ids between any of spaces, commas and brackets, so that JSON arrays are read too. */
enum sp_err tool_parse_ids(const char *text, size_t length, struct tok_ids *ret,
                           struct sp_error *err)
{
    size_t i = 0;
    for (;;) {
        while (i < length && (isspace((unsigned char)text[i]) || strchr(",[]", text[i]) != NULL) &&
               text[i] != 0)
            i++;
        if (i == length)
            return SP_OK;
        char *end;
        errno = 0;
        long value = strtol(text + i, &end, 10);
        if (end == text + i || errno != 0 || value < 0 || value > INT32_MAX ||
            (*end != 0 && !isspace((unsigned char)*end) && strchr(",[]", *end) == NULL))
            return sp_fail(err, SP_EFORMAT, "not a token id: \"%.20s\"", text + i);
        tok_ids_append(ret, (int32_t)value);
        i = (size_t)(end - text);
    }
}

static enum sp_err print_ids(const struct tool *tool, const struct tok_tokenizer *tokenizer,
                             const struct tok_ids *ids, struct sp_error *err)
{
    if (tool->json) {
        json_t *object = json_pack("{s:o}", "ids", tool_ids_to_json(ids->ids, ids->count));
        if (tool->pieces) {
            json_t *pieces = json_array();
            for (size_t i = 0; i < ids->count; i++)
                json_array_append_new(pieces, json_string(tok_token_of(tokenizer, ids->ids[i])));
            json_object_set_new(object, "tokens", pieces);
        }
        return tool_print_json(object, err);
    }
    struct sp_buf line = SP_BUF_INIT;
    for (size_t i = 0; i < ids->count; i++) {
        if (tool->pieces)
            sp_buf_printf(&line, "%d\t%s\n", ids->ids[i], tok_token_of(tokenizer, ids->ids[i]));
        else
            sp_buf_printf(&line, "%s%d", i > 0 ? " " : "", ids->ids[i]);
    }
    if (!tool->pieces)
        sp_buf_putc(&line, '\n');
    enum sp_err rc = tool_print(line.data, line.length, err);
    sp_buf_deinit(&line);
    return rc;
}

static enum sp_err encode_one(const struct tool *tool, const struct tok_tokenizer *tokenizer,
                              const char *text, size_t length, struct sp_error *err)
{
    struct tok_ids ids = TOK_IDS_INIT;
    enum sp_err rc =
        tok_encode(tokenizer, text, length, tool->special ? TOK_ADD_SPECIAL : 0, &ids, err);
    if (rc == SP_OK)
        rc = print_ids(tool, tokenizer, &ids, err);
    tok_ids_deinit(&ids);
    return rc;
}

static enum sp_err decode_one(const struct tool *tool, const struct tok_tokenizer *tokenizer,
                              const char *text, size_t length, struct sp_error *err)
{
    struct tok_ids ids = TOK_IDS_INIT;
    struct sp_buf out = SP_BUF_INIT;
    enum sp_err rc = tool_parse_ids(text, length, &ids, err);
    if (rc == SP_OK)
        rc = tok_decode(tokenizer, ids.ids, ids.count, tool->skip_special ? TOK_SKIP_SPECIAL : 0,
                        &out, err);
    if (rc == SP_OK && tool->json) {
        rc =
            tool_print_json(json_pack("{s:s%}", "text", out.data ? out.data : "", out.length), err);
    } else if (rc == SP_OK) {
        if (tool->lines)
            sp_buf_putc(&out, '\n');
        rc = tool_print(out.data ? out.data : "", out.length, err);
    }
    sp_buf_deinit(&out);
    tok_ids_deinit(&ids);
    return rc;
}

enum sp_err tool_tokenize(struct tool *tool, struct sp_error *err)
{
    struct tok_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t length = 0;
    enum sp_err rc = tok_load(tool->dir, &tokenizer, err);
    if (rc == SP_OK)
        rc = tool_read_all("-", MAX_TEXT_BYTES, &text, &length, err);
    if (rc == SP_OK && !tool->lines)
        rc = (tool->decode ? decode_one : encode_one)(tool, tokenizer, text, length, err);
    size_t number = 1;
    for (size_t i = 0; rc == SP_OK && tool->lines && i < length; number++) {
        const char *end = memchr(text + i, '\n', length - i);
        size_t n = end != NULL ? (size_t)(end - text) - i : length - i;
        rc = (tool->decode ? decode_one : encode_one)(tool, tokenizer, text + i, n, err);
        if (rc != SP_OK)
            rc = sp_wrap(err, rc, "line %zu", number);
        i += n + 1;
    }
    free(text);
    tok_free(tokenizer);
    return rc;
}

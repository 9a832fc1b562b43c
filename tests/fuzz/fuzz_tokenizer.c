/* Bytes from outside into common/text: the first byte chooses what the rest is.
 *   0      a tokenizer.json, then used on a short text
 *   1      a dataset, read to its end, its rows rendered
 *   else   a text for one of the tokenizers of tests/golden/text, with that byte's flags
 * Beyond not crashing: a byte-level tokenizer gives back what it got, special tokens are not made
 * from text that must not make them, and a stream gives whole characters only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/text/chat.h"
#include "common/text/dataset.h"
#include "common/text/utf8.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"byte-level",     "gpt4-split",
                                    "falcon",         "spm",
                                    "spm-single-unk", "suffix",
                                    "prefix",         "unigram-bytes",
                                    "chat-tokenizer", "spm-metaspace-first"};
static struct tok_tokenizer *tokenizers[SP_COUNT(names)];
static struct tok_renderer *renderers[SP_COUNT(names)]; /* each by another named template */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        char path[1024];
        snprintf(path, sizeof(path), SPIN_SOURCE_ROOT "/tests/golden/text/%s.json", names[i]);
        SP_ASSERT(tok_load(path, &tokenizers[i], NULL) == SP_OK);
        struct tok_renderer_options options = {
            .tokenizer = tokenizers[i], .template = tok_template_name(i), .eos_id = 1};
        SP_ASSERT(tok_renderer_open(&options, &renderers[i], NULL) == SP_OK);
    }
    return 0;
}

static void use_stream(const struct tok_tokenizer *t, const struct tok_ids *ids)
{
    struct tok_stream *stream = tok_stream_new(t, 0);
    struct sp_buf out = SP_BUF_INIT;
    for (size_t i = 0; i < ids->count && i < 400; i++)
        SP_ASSERT(tok_stream_push(stream, ids->ids[i], &out, NULL) == SP_OK);
    SP_ASSERT(tok_stream_finish(stream, &out, NULL) == SP_OK);
    SP_ASSERT(out.length == 0 || tok_utf8_check(out.data, out.length) == out.length);
    sp_buf_deinit(&out);
    tok_stream_free(stream);
}

static void use_text(const struct tok_tokenizer *t, const char *text, size_t length, unsigned flags,
                     bool is_own)
{
    struct tok_ids ids = TOK_IDS_INIT;
    struct sp_buf out = SP_BUF_INIT;
    struct sp_error err;
    enum sp_err rc = tok_encode(t, text, length, flags, &ids, &err);
    if (is_own)
        SP_ASSERT((rc == SP_OK) == (tok_utf8_check(text, length) == length));
    if (rc == SP_OK) {
        SP_ASSERT(tok_decode(t, ids.ids, ids.count, 0, &out, &err) == SP_OK || !is_own);
        for (size_t i = 0; is_own && (flags & TOK_NO_SPECIAL_SPLIT) && i < ids.count; i++)
            SP_ASSERT(!tok_is_special(t, ids.ids[i]) || ids.ids[i] == tok_id_of(t, "<unk>"));
        if (t == tokenizers[SP_COUNT(names) - 2]) /* chat-tokenizer: nothing is normalized */
            SP_ASSERT(out.length == length && (length == 0 || memcmp(out.data, text, length) == 0));
        if (is_own)
            use_stream(t, &ids);
    }
    sp_buf_deinit(&out);
    tok_ids_deinit(&ids);
}

static void use_dataset(const char *data, size_t size)
{
    struct tok_dataset *dataset = NULL;
    struct sp_error err;
    enum sp_err rc = tok_dataset_open_memory(data, size, "fuzz", TOK_FORMAT_AUTO, &dataset, &err);
    bool more = true;
    while (rc == SP_OK && more) {
        struct tok_row row;
        rc = tok_dataset_next(dataset, &row, &more, &err);
        if (rc != SP_OK || !more)
            break;
        const struct tok_renderer *renderer =
            renderers[(row.index + row.turn_count) % SP_COUNT(names)];
        struct tok_ids prompt = TOK_IDS_INIT, response = TOK_IDS_INIT;
        if (tok_render_example(renderer, row.turns, row.turn_count, row.response, &prompt,
                               &response, &err) == SP_OK)
            SP_ASSERT(response.count > 0);
        tok_ids_deinit(&prompt);
        tok_ids_deinit(&response);
    }
    tok_dataset_close(dataset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *rest = (const char *)data + 1;
    if (data[0] == 0) {
        struct tok_tokenizer *t = NULL;
        struct sp_error err;
        if (tok_load_memory(rest, size - 1, "fuzz", &t, &err) == SP_OK) {
            static const char text[] = " Hello <s>w\xc3\xb6rld, 123\n\n a ab abb</s> \xe2\x96\x81";
            use_text(t, text, sizeof(text) - 1, TOK_ADD_SPECIAL, false);
            use_text(t, text, sizeof(text) - 1, TOK_NO_SPECIAL_SPLIT | TOK_CONTINUE, false);
            tok_free(t);
        }
    } else if (data[0] == 1) {
        use_dataset(rest, size - 1);
    } else {
        unsigned flags = data[0] & 1 ? TOK_NO_SPECIAL_SPLIT : 0;
        use_text(tokenizers[(data[0] >> 2) % SP_COUNT(names)], rest, size - 1,
                 flags | (data[0] & 2 ? TOK_CONTINUE : 0), true);
    }
    return 0;
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/model/decoder.h"
#include "common/spin-model/engine.h"

#define MAX_SLOTS 16

struct generation {
    const struct tool *tool;
    struct tool_engine engine;
    struct tok_ids prompt;
    int32_t max_new_tokens;
    struct model_decoder *decoder;
    int32_t *keys;             /* (samples): its address names a request */
    struct tok_stream *stream; /* NULL: the answers are printed when they are complete */
    int32_t streamed;          /* tokens that were printed */
};

static enum sp_err render(struct generation *g, const char *text, size_t length,
                          struct sp_error *err)
{
    struct chat_turn turns[2];
    size_t count = 0;
    if (memchr(text, 0, length) != NULL)
        return sp_fail(err, SP_EFORMAT, "the prompt contains a NUL byte");
    if (g->tool->system != NULL)
        turns[count++] = (struct chat_turn){"system", g->tool->system};
    turns[count++] = (struct chat_turn){"user", text};
    return tok_render_prompt(g->engine.renderer, turns, count, &g->prompt, err);
}

static enum sp_err read_prompt(struct generation *g, struct sp_error *err)
{
    const struct tool *tool = g->tool;
    if ((tool->prompt != NULL) == (tool->prompt_ids != NULL))
        return sp_fail(err, SP_EINVAL, "generate: give one of --prompt TEXT and --prompt-ids IDS");
    if (tool->prompt_ids != NULL)
        return tool_parse_ids(tool->prompt_ids, strlen(tool->prompt_ids), &g->prompt, err);
    char *text = NULL;
    size_t length = 0;
    enum sp_err rc = SP_OK;
    if (strcmp(tool->prompt, "-") == 0)
        rc = tool_read_all("-", SP_MAX_DATASET_LINE, &text, &length, err);
    else
        length = strlen(text = sp_xstrdup(tool->prompt));
    if (rc == SP_OK)
        rc = render(g, text, length, err);
    free(text);
    return rc;
}

static enum sp_err make_decoder(struct generation *g, struct sp_error *err)
{
    const struct model_config *config = g->engine.config;
    if (g->prompt.count == 0)
        return sp_fail(err, SP_EINVAL, "the prompt has no tokens: give at least one");
    if (g->prompt.count >= (size_t)config->max_positions)
        return sp_fail(err, SP_ELIMIT, "the prompt has %zu tokens, the model has %d positions",
                       g->prompt.count, config->max_positions);
    int32_t room = config->max_positions - (int32_t)g->prompt.count;
    g->max_new_tokens = (int32_t)SP_MIN(g->tool->max_new_tokens, (int64_t)room);
    struct model_decoder_options options = {
        .slots = (int32_t)SP_MIN(g->tool->samples, (int64_t)MAX_SLOTS),
        .queue = (int32_t)g->tool->samples,
        .max_positions = (int32_t)g->prompt.count + g->max_new_tokens,
        .weights = g->tool->weights,
        .cache = g->tool->kv,
        .activations = g->tool->activations,
    };
    return model_decoder_new(g->engine.model, &options, &g->decoder, err);
}

static enum sp_err submit(struct generation *g, struct sp_error *err)
{
    const struct tool *tool = g->tool;
    struct model_decoder_request request = {
        .prompt = g->prompt.ids,
        .n_prompt = (int32_t)g->prompt.count,
        .generate = true,
        .max_new_tokens = g->max_new_tokens,
        .params = {.temperature = tool->greedy ? 0.0f : (float)tool->temperature,
                   .top_k = (int32_t)tool->top_k,
                   .top_p = (float)tool->top_p},
        .seed = (uint64_t)tool->seed,
        .n_eos = g->engine.n_eos,
    };
    memcpy(request.eos_ids, g->engine.eos_ids, sizeof(request.eos_ids));
    enum sp_err rc = SP_OK;
    for (int64_t i = 0; rc == SP_OK && i < tool->samples; i++) {
        g->keys[i] = (int32_t)i;
        request.user = &g->keys[i];
        request.sample_key = (uint32_t)i;
        rc = model_decoder_submit(g->decoder, &request, err);
    }
    return rc;
}

/* A vocabulary padded to a round size has ids that no token belongs to: they give no text. */
static bool has_text(const struct generation *g, int32_t id)
{
    return id < tok_vocab_size(g->engine.tokenizer);
}

/* Prints the text of what was sampled since the last call. */
static enum sp_err stream_new(struct generation *g, const int32_t *ids, int32_t n,
                              struct sp_error *err)
{
    struct sp_buf out = SP_BUF_INIT;
    enum sp_err rc = SP_OK;
    for (; rc == SP_OK && g->streamed < n; g->streamed++)
        if (has_text(g, ids[g->streamed]))
            rc = tok_stream_push(g->stream, ids[g->streamed], &out, err);
    if (rc == SP_OK && out.length > 0)
        rc = tool_print(out.data, out.length, err);
    sp_buf_deinit(&out);
    return rc;
}

static enum sp_err print_result(struct generation *g, const struct model_decoder_result *result,
                                struct sp_error *err)
{
    const struct tool *tool = g->tool;
    const char *finish = result->finish == MODEL_FINISH_STOP ? "stop" : "length";
    struct sp_buf text = SP_BUF_INIT;
    enum sp_err rc = SP_OK;
    if (g->stream != NULL) {
        rc = stream_new(g, result->ids, result->n_ids, err);
        if (rc == SP_OK)
            rc = tok_stream_finish(g->stream, &text, err);
    } else {
        struct tok_ids known = TOK_IDS_INIT;
        for (int32_t i = 0; i < result->n_ids; i++)
            if (has_text(g, result->ids[i]))
                tok_ids_append(&known, result->ids[i]);
        rc = tok_decode(g->engine.tokenizer, known.ids, known.count, TOK_SKIP_SPECIAL, &text, err);
        tok_ids_deinit(&known);
    }
    sp_buf_puts(&text, "");
    if (rc == SP_OK && tool->json) {
        json_t *object =
            json_pack("{s:o, s:o, s:s%, s:s, s:f}", "prompt_ids",
                      tool_ids_to_json(g->prompt.ids, g->prompt.count), "ids",
                      tool_ids_to_json(result->ids, (size_t)result->n_ids), "text", text.data,
                      text.length, "finish", finish, "logprob", (double)result->response.logprob);
        if (tool->samples > 1)
            json_object_set_new(object, "sample", json_integer(*(int32_t *)result->user));
        rc = tool_print_json(object, err);
    } else if (rc == SP_OK) {
        if (tool->samples > 1)
            printf("--- sample %d (%s)\n", *(int32_t *)result->user, finish);
        sp_buf_putc(&text, '\n');
        rc = tool_print(text.data, text.length, err);
    }
    sp_buf_deinit(&text);
    return rc;
}

static enum sp_err decode_all(struct generation *g, struct sp_error *err)
{
    struct sp_progress *progress = NULL;
    if (g->stream == NULL)
        progress = sp_progress_new(
            "generate", (uint64_t)g->tool->samples * (uint64_t)g->max_new_tokens, "tokens");
    enum sp_err rc = SP_OK;
    for (int64_t done = 0; rc == SP_OK && done < g->tool->samples;) {
        struct model_decoder_result result;
        struct model_decoder_stats stats;
        bool idle;
        rc = model_decoder_step(g->decoder, &idle, err);
        if (rc == SP_OK && g->stream != NULL) {
            const int32_t *ids;
            int32_t n = model_decoder_partial(g->decoder, &g->keys[0], &ids);
            rc = stream_new(g, ids, n, err);
        }
        model_decoder_get_stats(g->decoder, &stats);
        if (progress != NULL)
            sp_progress_set(progress, stats.sampled_tokens);
        while (rc == SP_OK && model_decoder_take_result(g->decoder, &result)) {
            done++;
            rc = print_result(g, &result, err);
        }
    }
    sp_progress_free(progress);
    return rc;
}

enum sp_err tool_generate(struct tool *tool, struct sp_error *err)
{
    struct generation g = {.tool = tool, .prompt = TOK_IDS_INIT};
    enum sp_err rc = tool_engine_open(tool, &g.engine, err);
    if (rc != SP_OK)
        return rc;
    g.keys = sp_xarray((size_t)tool->samples, sizeof(*g.keys));
    if (!tool->json && tool->samples == 1)
        g.stream = tok_stream_new(g.engine.tokenizer, TOK_SKIP_SPECIAL);
    rc = read_prompt(&g, err);
    if (rc == SP_OK)
        rc = make_decoder(&g, err);
    if (rc == SP_OK)
        rc = submit(&g, err);
    if (rc == SP_OK)
        rc = decode_all(&g, err);
    tok_stream_free(g.stream);
    model_decoder_free(g.decoder);
    tok_ids_deinit(&g.prompt);
    free(g.keys);
    tool_engine_close(&g.engine);
    return rc;
}

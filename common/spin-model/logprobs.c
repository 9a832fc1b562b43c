#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/model/decoder.h"
#include "common/model/forward.h"
#include "common/spin-model/engine.h"
#include "common/text/dataset.h"

/* Rows of a batch, when no example alone is longer. */
#define BATCH_ROWS 1024
#define MAX_INPUT_BYTES ((size_t)1 << 30)

struct example {
    struct tok_ids prompt, response;
};

struct scoring {
    const struct tool *tool;
    struct tool_engine engine;
    struct example *examples;
    size_t count;
    struct model_workspace *work;
    int32_t max_rows;
    struct sp_progress *progress;
    uint64_t done_tokens;
    bool quiet; /* sum and scored instead of a line for each example */
    double sum;
    uint64_t scored;
    /* a batch */
    int32_t *ids, *positions;
    struct tn_segment *segments;
    struct tn_target *targets;
    float *logprobs;
};

/* Rows of an example: nothing has to be predicted from its last token. */
static int32_t rows_of(const struct example *e)
{
    return (int32_t)(e->prompt.count + e->response.count) - 1;
}

static enum sp_err add_row(struct scoring *s, const struct tok_row *row, struct sp_error *err)
{
    if ((s->count & (s->count - 1)) == 0)
        s->examples = sp_xgrow(s->examples, s->count == 0 ? 1 : s->count * 2, sizeof(*s->examples));
    struct example *e = &s->examples[s->count++];
    *e = (struct example){0};
    enum sp_err rc = tok_render_example(s->engine.renderer, row->turns, row->turn_count,
                                        row->response, &e->prompt, &e->response, err);
    if (rc != SP_OK)
        return rc;
    if (e->prompt.count == 0)
        return sp_fail(err, SP_EINVAL, "the prompt has no tokens");
    if (rows_of(e) > s->engine.config->max_positions)
        return sp_fail(err, SP_ELIMIT, "%zu tokens, the model has %d positions",
                       e->prompt.count + e->response.count, s->engine.config->max_positions);
    const struct tok_ids *both[] = {&e->prompt, &e->response};
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < both[k]->count; i++)
            if (both[k]->ids[i] >= s->engine.config->vocab)
                return sp_fail(err, SP_EINVAL,
                               "token id %d, the model's vocabulary has %d: this is another "
                               "model's tokenizer",
                               both[k]->ids[i], s->engine.config->vocab);
    return SP_OK;
}

static enum sp_err read_examples(struct scoring *s, struct sp_error *err)
{
    const struct tool *tool = s->tool;
    bool from_stdin = strcmp(tool->input, "-") == 0;
    const char *what = from_stdin ? "standard input" : tool->input;
    struct tok_dataset *dataset = NULL;
    enum tok_format format = TOK_FORMAT_AUTO;
    char *text = NULL;
    size_t length = 0;
    enum sp_err rc = SP_OK;
    if (tool->format != NULL)
        rc = tok_format_parse(tool->format, &format, err);
    if (rc == SP_OK && from_stdin)
        rc = tool_read_all("-", MAX_INPUT_BYTES, &text, &length, err);
    if (rc == SP_OK)
        rc = from_stdin ? tok_dataset_open_memory(text, length, what, format, &dataset, err)
                        : tok_dataset_open(tool->input, NULL, format, &dataset, err);
    for (bool more = true; rc == SP_OK;) {
        struct tok_row row;
        rc = tok_dataset_next(dataset, &row, &more, err);
        if (rc != SP_OK || !more)
            break;
        rc = add_row(s, &row, err);
        if (rc != SP_OK)
            rc = sp_wrap(err, rc, "%s:%llu", what, (unsigned long long)row.line);
    }
    tok_dataset_close(dataset);
    free(text);
    return rc;
}

static enum sp_err make_workspace(struct scoring *s, struct sp_error *err)
{
    int32_t longest = 1;
    uint64_t tokens = 0;
    for (size_t i = 0; i < s->count; i++) {
        longest = SP_MAX(longest, rows_of(&s->examples[i]));
        tokens += (uint64_t)rows_of(&s->examples[i]);
    }
    s->max_rows = SP_MAX(longest, BATCH_ROWS);
    if (tokens < (uint64_t)s->max_rows)
        s->max_rows = (int32_t)tokens;
    size_t rows = (size_t)s->max_rows;
    s->ids = sp_xarray(rows, sizeof(*s->ids));
    s->positions = sp_xarray(rows, sizeof(*s->positions));
    s->segments = sp_xarray(rows, sizeof(*s->segments));
    s->targets = sp_xarray(rows, sizeof(*s->targets));
    s->logprobs = sp_xarray(rows, sizeof(*s->logprobs));
    s->progress = sp_progress_new("logprobs", tokens, "tokens");
    struct model_workspace_size size = {
        .max_rows = s->max_rows, .longest = longest, .max_targets = s->max_rows};
    return model_workspace_new(s->engine.model, &size, &s->work, err);
}

static void put_example(struct scoring *s, struct model_batch *batch, const struct example *e)
{
    int32_t rows = rows_of(e), n_prompt = (int32_t)e->prompt.count;
    for (int32_t i = 0; i < rows; i++) {
        s->ids[batch->rows + i] = i < n_prompt ? e->prompt.ids[i] : e->response.ids[i - n_prompt];
        s->positions[batch->rows + i] = i;
    }
    for (int32_t i = n_prompt - 1; i < rows; i++)
        s->targets[batch->n_targets++] =
            (struct tn_target){.row = batch->rows + i, .id = e->response.ids[i + 1 - n_prompt]};
    s->segments[batch->n_segments++] =
        (struct tn_segment){.row = batch->rows, .prompt = n_prompt, .a = rows - n_prompt};
    batch->rows += rows;
}

static enum sp_err print_example(const struct example *e, const float *logprobs,
                                 struct sp_error *err)
{
    struct tok_ids both = TOK_IDS_INIT;
    tok_ids_append_all(&both, e->prompt.ids, e->prompt.count);
    tok_ids_append_all(&both, e->response.ids, e->response.count);
    json_t *list = json_array();
    for (size_t i = 0; i < e->response.count; i++)
        json_array_append_new(list, json_real((double)logprobs[i]));
    json_t *object =
        json_pack("{s:o, s:i, s:o, s:f}", "token_ids", tool_ids_to_json(both.ids, both.count),
                  "prompt_tokens", (int)e->prompt.count, "logprobs", list, "sum",
                  (double)model_sum_logprobs(logprobs, (int32_t)e->response.count));
    tok_ids_deinit(&both);
    return tool_print_json(object, err);
}

/* Examples one by one as a generator scores them, with the storage types that were asked for. */
static enum sp_err score_decoded(struct scoring *s, struct sp_error *err)
{
    struct model_decoder *decoder = NULL;
    struct model_decoder_options options = {.slots = 1,
                                            .max_positions = s->max_rows + 1,
                                            .weights = s->tool->weights,
                                            .cache = s->tool->kv,
                                            .activations = s->tool->activations};
    options.max_positions = SP_MIN(options.max_positions, s->engine.config->max_positions);
    enum sp_err rc = model_decoder_new(s->engine.model, &options, &decoder, err);
    for (size_t i = 0; rc == SP_OK && i < s->count; i++) {
        const struct example *e = &s->examples[i];
        struct model_decoder_request request = {.prompt = e->prompt.ids,
                                                .n_prompt = (int32_t)e->prompt.count,
                                                .answers = {e->response.ids},
                                                .n_answers = {(int32_t)e->response.count},
                                                .token_logprobs = true};
        struct model_decoder_result result;
        bool idle = false;
        rc = model_decoder_submit(decoder, &request, err);
        while (rc == SP_OK && !idle)
            rc = model_decoder_step(decoder, &idle, err);
        if (rc == SP_OK && model_decoder_take_result(decoder, &result))
            rc = print_example(e, result.answers[0].token_logprobs, err);
        s->done_tokens += (uint64_t)rows_of(e);
        sp_progress_set(s->progress, s->done_tokens);
    }
    model_decoder_free(decoder);
    return rc;
}

/* Examples from `first` on, as many as fit; *ret_next is the first one that did not. */
static enum sp_err score_batch(struct scoring *s, size_t first, size_t *ret_next,
                               struct sp_error *err)
{
    struct model_batch batch = {
        .ids = s->ids, .positions = s->positions, .segments = s->segments, .targets = s->targets};
    size_t next = first;
    while (next < s->count && batch.rows + rows_of(&s->examples[next]) <= s->max_rows)
        put_example(s, &batch, &s->examples[next++]);
    enum sp_err rc = model_forward(s->engine.model, s->work, &batch, s->logprobs, err);
    const float *logprobs = s->logprobs;
    for (size_t i = first; rc == SP_OK && i < next; i++) {
        size_t n = s->examples[i].response.count;
        s->sum += (double)model_sum_logprobs(logprobs, (int32_t)n);
        s->scored += n;
        if (!s->quiet)
            rc = print_example(&s->examples[i], logprobs, err);
        logprobs += n;
    }
    s->done_tokens += (uint64_t)batch.rows;
    sp_progress_set(s->progress, s->done_tokens);
    *ret_next = next;
    return rc;
}

static void scoring_deinit(struct scoring *s)
{
    for (size_t i = 0; i < s->count; i++) {
        tok_ids_deinit(&s->examples[i].prompt);
        tok_ids_deinit(&s->examples[i].response);
    }
    sp_progress_free(s->progress);
    free(s->examples);
    free(s->ids);
    free(s->positions);
    free(s->segments);
    free(s->targets);
    free(s->logprobs);
    model_workspace_free(s->work);
    tool_engine_close(&s->engine);
}

static enum sp_err score_all(struct scoring *s, struct sp_error *err)
{
    enum sp_err rc = tool_engine_open(s->tool, &s->engine, err);
    if (rc != SP_OK)
        return rc;
    rc = read_examples(s, err);
    if (rc == SP_OK)
        rc = make_workspace(s, err);
    bool narrow =
        s->tool->weights != TN_F32 || s->tool->kv != TN_F32 || s->tool->activations != TN_F32;
    if (rc == SP_OK && narrow && !s->quiet)
        rc = score_decoded(s, err);
    for (size_t next = 0; rc == SP_OK && (!narrow || s->quiet) && next < s->count;)
        rc = score_batch(s, next, &next, err);
    scoring_deinit(s);
    return rc;
}

enum sp_err tool_logprobs(struct tool *tool, struct sp_error *err)
{
    struct scoring s = {.tool = tool};
    if (tool->input == NULL)
        return sp_fail(err, SP_EINVAL,
                       "logprobs: --input FILE is missing: JSON lines with prompt and response, "
                       "or - for standard input");
    return score_all(&s, err);
}

enum sp_err tool_mean_logprob(const struct tool *tool, const char *dir, const char *input,
                              double *ret_mean, uint64_t *ret_tokens, struct sp_error *err)
{
    struct tool other = *tool;
    struct scoring s = {.tool = &other, .quiet = true};
    other.dir = dir;
    other.input = input;
    enum sp_err rc = score_all(&s, err);
    if (rc == SP_OK && s.scored == 0)
        rc = sp_fail(err, SP_EINVAL, "%s: no answers to score", input);
    if (rc != SP_OK)
        return rc;
    *ret_mean = s.sum / (double)s.scored;
    *ret_tokens = s.scored;
    return SP_OK;
}

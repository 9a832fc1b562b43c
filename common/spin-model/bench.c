/* bench: tokens per second of the three things that a run spends its time on: scoring, training
 * steps, decoding. Medians over repeats, with their spread, because machines are noisy. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/base/rng.h"
#include "common/base/table.h"
#include "common/model/decoder.h"
#include "common/model/forward.h"
#include "common/spin-model/engine.h"

#define MIN_REPEATS 3
#define MAX_REPEATS 200
#define SEGMENTS 2         /* of a scoring or training batch */
#define SEGMENT_TOKENS 256 /* half prompt, half response */
#define DECODE_PROMPT 16
#define DECODE_TOKENS 64

struct bench {
    const struct tool *tool;
    struct tn_backend *backend;
    struct model *model;
    const struct model_config *config;
    struct sp_table *table; /* NULL with --json */
    struct sp_progress *progress;
    uint64_t figures; /* that are done */
};

struct samples {
    double values[MAX_REPEATS]; /* tokens/s */
    int count;
    int64_t started_ns;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Notes one repeat; true while there is time for more. */
static bool note(const struct tool *tool, struct samples *s, double tokens, int64_t ns)
{
    s->values[s->count++] = tokens * 1e9 / (double)(ns > 0 ? ns : 1);
    return s->count < MAX_REPEATS &&
           (s->count < MIN_REPEATS ||
            (double)(sp_now_ns() - s->started_ns) < tool->bench_seconds * 1e9);
}

static enum sp_err report(struct bench *bench, const char *what, int32_t batch, struct samples *s,
                          struct sp_error *err)
{
    sp_progress_set(bench->progress, ++bench->figures);
    qsort(s->values, (size_t)s->count, sizeof(*s->values), by_value);
    double median = s->values[s->count / 2], low = s->values[0], high = s->values[s->count - 1];
    if (bench->table == NULL)
        return tool_print_json(json_pack("{s:s, s:i, s:f, s:f, s:f, s:i, s:s, s:i}", "what", what,
                                         "batch", batch, "tokens_per_second", median, "lowest", low,
                                         "highest", high, "repeats", s->count, "backend",
                                         bench->backend->numerics_class, "threads",
                                         bench->backend->threads),
                               err);
    sp_table_cell(bench->table, "%s", what);
    sp_table_cell(bench->table, "%d", batch);
    sp_table_cell(bench->table, "%.0f", median);
    sp_table_cell(bench->table, "%.0f", low);
    sp_table_cell(bench->table, "%.0f", high);
    sp_table_cell(bench->table, "%d", s->count);
    return SP_OK;
}

static int32_t random_id(const struct bench *bench, uint32_t i)
{
    return (int32_t)sp_rng_below((uint64_t)bench->tool->seed, SP_STREAM_TEST, 0, i, 0, 0,
                                 (uint64_t)bench->config->vocab);
}

/* Log-probabilities of responses, with or without the gradient. */
static enum sp_err bench_pass(struct bench *bench, bool backward, struct sp_error *err)
{
    int32_t length = SP_MIN(SEGMENT_TOKENS, bench->config->max_positions), prompt = length / 2;
    int32_t rows = SEGMENTS * length, n_targets = 0;
    int32_t ids[SEGMENTS * SEGMENT_TOKENS], positions[SEGMENTS * SEGMENT_TOKENS];
    struct tn_segment segments[SEGMENTS];
    struct tn_target targets[SEGMENTS * SEGMENT_TOKENS];
    float logprobs[SEGMENTS * SEGMENT_TOKENS];
    for (int32_t s = 0; s < SEGMENTS; s++) {
        segments[s] =
            (struct tn_segment){.row = s * length, .prompt = prompt, .a = length - prompt};
        for (int32_t i = 0; i < length; i++) {
            ids[s * length + i] = random_id(bench, (uint32_t)(s * length + i));
            positions[s * length + i] = i;
            if (i >= prompt)
                targets[n_targets++] = (struct tn_target){
                    .row = s * length + i, .id = ids[s * length + i], .coefficient = 1e-6f};
        }
    }
    struct model_batch batch = {rows, ids, positions, segments, SEGMENTS, targets, n_targets};
    struct model_workspace_size size = {
        .max_rows = rows, .longest = length, .max_targets = n_targets, .backward = backward};
    struct model_workspace *work = NULL;
    struct samples samples = {.started_ns = sp_now_ns()};
    enum sp_err rc = backward ? model_enable_grads(bench->model, err) : SP_OK;
    if (rc == SP_OK)
        rc = model_workspace_new(bench->model, &size, &work, err);
    if (rc == SP_OK) /* not counted: pages are touched for the first time */
        rc = model_forward(bench->model, work, &batch, logprobs, err);
    for (bool more = true; rc == SP_OK && more;) {
        int64_t start = sp_now_ns();
        rc = model_forward(bench->model, work, &batch, logprobs, err);
        if (rc == SP_OK && backward)
            rc = model_backward(bench->model, work, &batch, err);
        more = note(bench->tool, &samples, rows, sp_now_ns() - start);
    }
    model_workspace_free(work);
    if (rc == SP_OK)
        rc = report(bench, backward ? "train" : "score", rows, &samples, err);
    return rc;
}

/* `slots` answers at once; the prompts are part of the time, not of the tokens. */
static enum sp_err decode_once(struct bench *bench, struct model_decoder *decoder, int32_t slots,
                               double *ret_tokens, struct sp_error *err)
{
    int32_t prompt[DECODE_PROMPT];
    int32_t room = bench->config->max_positions;
    int32_t n_prompt = SP_MIN(DECODE_PROMPT, room / 2), n_new = SP_MIN(DECODE_TOKENS, room / 2);
    struct model_decoder_request request = {
        .prompt = prompt,
        .n_prompt = n_prompt,
        .generate = true,
        .max_new_tokens = n_new, /* no end tokens: every answer has this length */
        .params = {.temperature = 1, .top_p = 1},
        .seed = (uint64_t)bench->tool->seed,
    };
    enum sp_err rc = SP_OK;
    for (int32_t s = 0; rc == SP_OK && s < slots; s++) {
        for (int32_t i = 0; i < n_prompt; i++)
            prompt[i] = random_id(bench, (uint32_t)(s * n_prompt + i));
        request.prompt_key = (uint32_t)s;
        rc = model_decoder_submit(decoder, &request, err);
    }
    for (bool idle = false; rc == SP_OK && !idle;)
        rc = model_decoder_step(decoder, &idle, err);
    struct model_decoder_result result;
    *ret_tokens = 0;
    while (rc == SP_OK && model_decoder_take_result(decoder, &result))
        *ret_tokens += result.n_ids;
    return rc;
}

static enum sp_err bench_decode(struct bench *bench, int32_t slots, enum tn_dtype dtype,
                                struct sp_error *err)
{
    struct model_decoder_options options = {
        .slots = slots,
        .queue = slots,
        .max_positions = SP_MIN(DECODE_PROMPT + DECODE_TOKENS, bench->config->max_positions),
        .weights = dtype,
        .cache = dtype,
    };
    struct model_decoder *decoder = NULL;
    double tokens;
    enum sp_err rc = model_decoder_new(bench->model, &options, &decoder, err);
    if (rc == SP_OK)
        rc = decode_once(bench, decoder, slots, &tokens, err);
    struct samples samples = {.started_ns = sp_now_ns()};
    for (bool more = true; rc == SP_OK && more;) {
        int64_t start = sp_now_ns();
        rc = decode_once(bench, decoder, slots, &tokens, err);
        more = note(bench->tool, &samples, tokens, sp_now_ns() - start);
    }
    model_decoder_free(decoder);
    if (rc == SP_OK)
        rc = report(bench, dtype == TN_BF16 ? "decode bf16" : "decode f32", slots, &samples, err);
    return rc;
}

/* The checkpoint, or random weights where the directory (or --config) has only a shape. */
static enum sp_err open_model(struct bench *bench, struct sp_error *err)
{
    const struct tool *tool = bench->tool;
    struct model_config config;
    struct tn_backend_options options = {.threads = (int32_t)tool->threads};
    enum sp_err rc = tn_open(tool->backend, &options, &bench->backend, err);
    if (rc != SP_OK)
        return rc;
    char *single = sp_path_join(tool->dir, "model.safetensors");
    char *index = sp_path_join(tool->dir, "model.safetensors.index.json");
    if (sp_path_exists(single) || sp_path_exists(index)) {
        rc = model_open(bench->backend, tool->dir, &bench->model, err);
    } else {
        rc = model_config_load(tool->dir, &config, err);
        if (rc == SP_OK)
            rc = model_new(bench->backend, &config, (uint64_t)tool->seed, &bench->model, err);
    }
    free(single);
    free(index);
    if (rc == SP_OK)
        bench->config = model_get_config(bench->model);
    return rc;
}

enum sp_err tool_bench(struct tool *tool, struct sp_error *err)
{
    static const char *const headers[] = {"what",     ">batch",   ">tokens/s", ">lowest",
                                          ">highest", ">repeats", NULL};
    static const int32_t batches[] = {1, 8, 32, 64};
    struct bench bench = {.tool = tool};
    enum sp_err rc = open_model(&bench, err);
    if (rc == SP_OK && !tool->json) {
        bench.table = sp_table_new(headers);
        printf("%s, %" PRId64 " parameters; %s, %s\n\n", bench.config->model_type,
               bench.config->n_params, bench.backend->numerics_class, bench.backend->device);
        fflush(stdout);
    }
    bench.progress = sp_progress_new("bench", 2 + 2 * SP_COUNT(batches), "figures");
    if (rc == SP_OK)
        rc = bench_pass(&bench, false, err);
    if (rc == SP_OK)
        rc = bench_pass(&bench, true, err);
    for (size_t i = 0; rc == SP_OK && i < SP_COUNT(batches); i++)
        rc = bench_decode(&bench, batches[i], TN_F32, err);
    for (size_t i = 0; rc == SP_OK && i < SP_COUNT(batches); i++)
        rc = bench_decode(&bench, batches[i], TN_BF16, err);
    sp_progress_free(bench.progress);
    if (rc == SP_OK && bench.table != NULL)
        sp_table_print(bench.table, stdout);
    sp_table_free(bench.table);
    model_free(bench.model);
    tn_close(bench.backend);
    return rc;
}

/* Rows of the datasets: split, rendered, counted, stored. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/text/chat_uclaml.h"
#include "coordinator/data/data_internal.h"

const char *const data_split_names[DATA_SPLITS] = {"train", "holdout", "eval"};

void data_scratch_deinit(struct data_scratch *scratch)
{
    tok_ids_deinit(&scratch->prompt);
    tok_ids_deinit(&scratch->real);
    tok_ids_deinit(&scratch->rejected);
    tok_ids_deinit(&scratch->sample);
    tok_ids_deinit(&scratch->again);
}

uint64_t data_hash_ids(const struct tok_ids *ids)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a over the numbers */
    for (size_t i = 0; i < ids->count; i++)
        hash = (hash ^ (uint32_t)ids->ids[i]) * 0x100000001b3u;
    return hash;
}

static enum sp_err check_vocabulary(const struct data_rows *rows, const struct tok_ids *ids,
                                    struct sp_error *err)
{
    for (size_t i = 0; i < ids->count; i++) {
        if (ids->ids[i] >= rows->model->vocab)
            return sp_fail(err, SP_EFORMAT,
                           "token id %d, but the model's vocabulary has %d entries: tokenizer.json "
                           "is not this model's",
                           ids->ids[i], rows->model->vocab);
    }
    return SP_OK;
}

/* compat = uclaml: two templates, and a generated answer where there is one. */
static enum sp_err render_uclaml(const struct data_rows *rows, const struct tok_row *row,
                                 struct data_scratch *scratch, struct sp_error *err)
{
    const struct tok_uclaml uclaml = {.tokenizer = rows->model->tokenizer,
                                      .eos_id = rows->model->eos_id};
    const struct tok_uclaml *renderer = &uclaml;
    enum sp_err rc =
        tok_uclaml_prompt(renderer, row->turns, row->turn_count, &scratch->prompt, err);
    if (rc == SP_OK)
        rc = tok_uclaml_sample_prompt(renderer, row->turns, row->turn_count, &scratch->sample, err);
    if (rc == SP_OK)
        rc = tok_uclaml_response(renderer, row->response, strlen(row->response), &scratch->real,
                                 err);
    if (rc == SP_OK && row->rejected != NULL && row->rejected[0] != '\0')
        rc = tok_uclaml_response(renderer, row->rejected, strlen(row->rejected), &scratch->rejected,
                                 err);
    return rc;
}

static enum sp_err render_plain(const struct data_rows *rows, const struct tok_row *row,
                                struct data_scratch *scratch, struct sp_error *err)
{
    enum sp_err rc = tok_render_example(rows->model->renderer, row->turns, row->turn_count,
                                        row->response, &scratch->prompt, &scratch->real, err);
    bool wants_rejected = rows->settings->mode == RUN_MODE_DPO;
    if (rc == SP_OK && wants_rejected && row->rejected == NULL)
        rc = sp_fail(err, SP_EFORMAT,
                     "no rejected answer: mode = dpo needs the format preference or uclaml");
    if (rc == SP_OK && wants_rejected)
        rc = tok_render_example(rows->model->renderer, row->turns, row->turn_count, row->rejected,
                                &scratch->again, &scratch->rejected, err);
    return rc;
}

enum sp_err data_render(const struct data_rows *rows, const struct tok_row *row,
                        struct data_scratch *scratch, struct sp_error *err)
{
    tok_ids_clear(&scratch->prompt);
    tok_ids_clear(&scratch->real);
    tok_ids_clear(&scratch->rejected);
    tok_ids_clear(&scratch->sample);
    tok_ids_clear(&scratch->again);
    enum sp_err rc = rows->settings->compat == RUN_COMPAT_UCLAML
                         ? render_uclaml(rows, row, scratch, err)
                         : render_plain(rows, row, scratch, err);
    const struct tok_ids *const all[] = {&scratch->prompt, &scratch->real, &scratch->rejected,
                                         &scratch->sample};
    for (size_t i = 0; i < SP_COUNT(all) && rc == SP_OK; i++)
        rc = check_vocabulary(rows, all[i], err);
    return rc;
}

/* Why a row is left out, or DATA_REASONS. Sampled answers must fit behind the prompt, too. */
enum data_reason data_left_out(const struct data_rows *rows, enum data_split split,
                               const struct data_scratch *scratch)
{
    const struct run_settings *s = rows->settings;
    size_t prompt = scratch->prompt.count;
    size_t answer = SP_MAX(scratch->real.count, scratch->rejected.count);
    bool sampled = s->mode == RUN_MODE_SPIN || split == DATA_EVAL;
    if (prompt == 0 || scratch->real.count == 0)
        return DATA_REASON_EMPTY;
    if (prompt > (size_t)run_settings_prompt_limit(s))
        return DATA_REASON_PROMPT;
    if (prompt + answer > (size_t)rows->limit_tokens)
        return DATA_REASON_SEQUENCE;
    size_t room = (size_t)s->max_new_tokens;
    if (s->compat == RUN_COMPAT_UCLAML) {
        prompt = SP_MAX(prompt, scratch->sample.count);
        room += TOK_UCLAML_EXTRA;
    }
    if (sampled && prompt + room > (size_t)rows->limit_tokens)
        return DATA_REASON_ROOM;
    return DATA_REASONS;
}

#define REASON_TEXT(id, name, what) what,
static const char *const reason_texts[] = {DATA_REASON_LIST(REASON_TEXT)};
#undef REASON_TEXT

/* A row that the settings would take, but that runs past the end of the model's positions, is no
 * row to leave out quietly: at that length the model is another one, or none. */
static enum sp_err check_positions(const struct data_rows *rows, const struct data_scratch *scratch,
                                   enum data_reason reason, struct sp_error *err)
{
    const struct run_settings *s = rows->settings;
    const struct data_positions *p = &rows->model->positions;
    size_t prompt = scratch->prompt.count;
    size_t answer = SP_MAX(scratch->real.count, scratch->rejected.count);
    if (reason == DATA_REASON_ROOM)
        answer = (size_t)s->max_new_tokens;
    else if (reason != DATA_REASON_SEQUENCE)
        return SP_OK;
    if (!p->hard || s->max_sequence_tokens <= p->count ||
        prompt + answer > (size_t)s->max_sequence_tokens)
        return SP_OK;
    return sp_fail(err, SP_ELIMIT,
                   "prompt of %zu tokens and %zu (max_new_tokens %lld): %zu together, the base "
                   "model ends at %lld (%s): %s; set max_sequence_tokens to at most %lld, so that "
                   "such rows are left out, or lower max_new_tokens",
                   prompt, answer, (long long)s->max_new_tokens, prompt + answer,
                   (long long)p->count, p->field, p->why, (long long)p->count);
}

static void count_used(const struct data_rows *rows, struct data_counts *counts,
                       const struct data_scratch *scratch)
{
    if (counts->used == counts->hash_capacity) {
        counts->hash_capacity = counts->hash_capacity ? counts->hash_capacity * 2 : 1024;
        counts->prompt_hashes =
            sp_xgrow(counts->prompt_hashes, counts->hash_capacity, sizeof(uint64_t));
    }
    counts->prompt_hashes[counts->used++] = data_hash_ids(&scratch->prompt);
    size_t prompt = scratch->prompt.count, real = scratch->real.count;
    counts->prompt_tokens += prompt;
    counts->response_tokens += real;
    counts->prompt_max = SP_MAX(counts->prompt_max, prompt);
    counts->response_max = SP_MAX(counts->response_max, real);
    counts->answers_over_max_new += real > (size_t)rows->settings->max_new_tokens;
    counts->prompt_lengths[SP_MIN(prompt, (size_t)DATA_LENGTHS - 1)]++;
    counts->response_lengths[SP_MIN(real, (size_t)DATA_LENGTHS - 1)]++;
}

static void keep_example(struct data_rows *rows, uint64_t line, const struct data_scratch *scratch)
{
    if (rows->example_count == DATA_EXAMPLES)
        return;
    struct data_example *example = &rows->examples[rows->example_count++];
    example->line = line;
    tok_ids_append_all(&example->prompt, scratch->prompt.ids, scratch->prompt.count);
    tok_ids_append_all(&example->real, scratch->real.ids, scratch->real.count);
    tok_ids_append_all(&example->rejected, scratch->rejected.ids, scratch->rejected.count);
}

static enum sp_err leave_out(struct data_rows *rows, enum data_split split,
                             const struct tok_row *row, enum data_reason reason)
{
    struct data_counts *counts = &rows->counts[split];
    counts->rows++;
    if (counts->left_out[reason]++ == 0)
        counts->left_out_line[reason] = row->line;
    *(reason == DATA_REASON_EMPTY ? &counts->empty : &counts->overlong) += 1;
    return SP_OK;
}

static enum sp_err add_row(struct data_rows *rows, enum data_split split, const struct tok_row *row,
                           struct data_scratch *scratch, struct sp_error *err)
{
    struct data_counts *counts = &rows->counts[split];
    enum sp_err rc = data_render(rows, row, scratch, err);
    if (rc != SP_OK)
        return rc;
    enum data_reason reason = data_left_out(rows, split, scratch);
    rc = check_positions(rows, scratch, reason, err);
    if (rc != SP_OK)
        return rc;
    if (reason != DATA_REASONS && reason != DATA_REASON_EMPTY &&
        rows->settings->overlong == RUN_OVERLONG_ERROR)
        return sp_fail(err, SP_ELIMIT,
                       "prompt of %zu and answer of %zu tokens: %s (limit %lld): raise it, or set "
                       "[data] overlong = drop",
                       scratch->prompt.count, scratch->real.count, reason_texts[reason],
                       (long long)rows->limit_tokens);
    if (reason != DATA_REASONS)
        return leave_out(rows, split, row, reason);
    struct data_prompt prompt = {
        .index = (uint32_t)counts->used,
        .prompt = &scratch->prompt,
        .real = &scratch->real,
        .rejected = &scratch->rejected,
        .sample = &scratch->sample,
        .response = split == DATA_EVAL ? row->response : "",
    };
    if (rows->add != NULL)
        rc = rows->add(rows->add_context, split, &prompt, err);
    if (rc == SP_OK)
        count_used(rows, counts, scratch);
    counts->rows++;
    if (rc == SP_OK && split == DATA_TRAIN)
        keep_example(rows, row->line, scratch);
    bool given = rows->settings->compat == RUN_COMPAT_UCLAML && split == DATA_TRAIN &&
                 scratch->rejected.count > 0;
    rows->given[0] += given;
    if (rc == SP_OK && given && rows->add_given != NULL)
        rc = rows->add_given(rows->add_context, 0, prompt.index, &scratch->rejected, err);
    return rc;
}

/* The pairs of a row that [data] turns asks for. */
static enum sp_err add_pairs(struct data_rows *rows, enum data_split split,
                             const struct tok_row *row, struct data_scratch *scratch,
                             struct sp_error *err)
{
    int turns = rows->settings->turns;
    if (!row->conversation || turns == RUN_TURNS_LAST)
        return add_row(rows, split, row, scratch, err);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i <= row->turn_count && rc == SP_OK; i++) {
        if (strcmp(row->turns[i].role, "assistant") != 0)
            continue;
        struct tok_row pair = *row;
        pair.turn_count = i;
        pair.response = row->turns[i].content;
        rc = pair.response[0] != '\0' ? add_row(rows, split, &pair, scratch, err)
                                      : leave_out(rows, split, row, DATA_REASON_EMPTY);
        if (turns == RUN_TURNS_FIRST)
            break;
    }
    return rc;
}

enum sp_err data_open(struct data_rows *rows, const char *path, const char *name,
                      const char *setting, struct tok_dataset **ret, struct sp_error *err)
{
    const struct run_settings *s = rows->settings;
    enum tok_format format = TOK_FORMAT_AUTO;
    struct tok_fields fields = {.prompt = s->prompt_field,
                                .response = s->response_field,
                                .rejected = s->rejected_field,
                                .system = s->system_field};
    struct stat info;
    enum sp_err rc = tok_format_parse(s->format, &format, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "[data] format");
    /* Opening a pipe waits for somebody to write, and it gives its rows once only. */
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: %s: this is no file but a pipe or a device, and data are read twice: "
                       "write them to a file first",
                       setting, name != NULL ? name : path);
    rc = tok_dataset_open_fields(path, name, format, &fields, ret, err);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "%s", setting);
}

static enum sp_err open_split(struct data_rows *rows, int file, struct tok_dataset **ret,
                              struct sp_error *err)
{
    char setting[32];
    snprintf(setting, sizeof(setting), "[data] %s", data_split_names[file]);
    return data_open(rows, rows->paths[file], rows->names[file], setting, ret, err);
}

enum sp_err data_step(struct data_rows *rows, const struct tok_dataset *dataset, uint64_t row,
                      struct sp_error *err)
{
    if (row % 256 == 0 && rows->step != NULL &&
        rows->step(rows->step_context, rows->bytes_before + tok_dataset_bytes_read(dataset),
                   rows->bytes_total))
        return sp_fail(err, SP_ECANCELED, "cancelled at row %llu", (unsigned long long)row);
    return SP_OK;
}

void data_close(struct data_rows *rows, struct tok_dataset *dataset)
{
    if (dataset != NULL)
        rows->bytes_before += tok_dataset_bytes_total(dataset);
    tok_dataset_close(dataset);
}

/* Rows of a file, without rendering: a bad line ends the work before the expensive part. */
static enum sp_err count_rows(struct data_rows *rows, int file, uint64_t *ret, struct sp_error *err)
{
    struct tok_dataset *dataset = NULL;
    struct tok_row row;
    bool more = true;
    uint64_t count = 0;
    enum sp_err rc = open_split(rows, file, &dataset, err);
    while (rc == SP_OK) {
        rc = tok_dataset_next(dataset, &row, &more, err);
        if (rc != SP_OK || !more)
            break;
        rc = data_step(rows, dataset, ++count, err);
    }
    if (rc == SP_OK && file == DATA_TRAIN)
        rows->format = tok_format_name(tok_dataset_format(dataset));
    data_close(rows, dataset);
    *ret = count;
    return rc;
}

/* ---- which rows of the training file are held out ---- */

struct lot {
    uint64_t key;
    uint32_t row;
};

static int compare_lots(const void *a, const void *b)
{
    const struct lot *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* The lot with the highest key, of `count` in a heap, comes to the front. */
static void sift_down(struct lot *heap, uint32_t count, uint32_t at)
{
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && compare_lots(&heap[child + 1], &heap[child]) > 0)
            child++;
        if (compare_lots(&heap[child], &heap[at]) <= 0)
            return;
        struct lot swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

/* Each row draws a lot by its number in the file; the lowest `held` are held out. So the choice
 * does not depend on what is left out for its length. Only those are kept, in a heap. ret: a byte
 * by row. */
static void draw_lots(uint64_t seed, uint32_t considered, uint32_t held, uint8_t *ret)
{
    struct lot *lots = sp_xarray(held + 1, sizeof(*lots));
    for (uint32_t i = 0; i < considered && held > 0; i++) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_SPLIT, 0, i, 0, 0, draw);
        struct lot lot = {.key = (uint64_t)draw[0] << 32 | draw[1], .row = i};
        if (i < held) {
            lots[i] = lot;
            for (uint32_t k = held / 2; i + 1 == held && k-- > 0;)
                sift_down(lots, held, k);
        } else if (compare_lots(&lot, &lots[0]) < 0) {
            lots[0] = lot;
            sift_down(lots, held, 0);
        }
    }
    for (uint32_t i = 0; i < held; i++)
        ret[lots[i].row] = 1;
    free(lots);
}

/* Rows of the training file that are looked at, and which of them are held out. */
static uint8_t *choose_holdout(const struct data_rows *rows, uint64_t total, uint64_t *ret_count)
{
    const struct run_settings *s = rows->settings;
    bool carve = rows->paths[DATA_HOLDOUT] == NULL && s->holdout_share > 0;
    uint64_t considered = total, held = 0;
    if (carve) {
        if (s->train_limit > 0)
            considered = (uint64_t)ceil((double)s->train_limit / (1 - s->holdout_share));
        considered = SP_MIN(considered, total);
        held = (uint64_t)llround((double)considered * s->holdout_share);
        held = SP_MIN(held, (uint64_t)s->holdout_limit);
        if (s->train_limit > 0)
            considered = SP_MIN((uint64_t)s->train_limit + held, total);
        held = SP_MIN(held, considered);
    } else if (s->train_limit > 0) {
        considered = SP_MIN((uint64_t)s->train_limit, total);
    }
    uint8_t *chosen = sp_xalloc(considered + 1);
    draw_lots((uint64_t)s->seed, (uint32_t)considered, (uint32_t)held, chosen);
    *ret_count = considered;
    return chosen;
}

/* One file from its first row to row `limit`; `held` NULL: all rows are `split`'s. */
static enum sp_err read_file(struct data_rows *rows, int file, const uint8_t *held, uint64_t limit,
                             uint64_t total, struct sp_error *err)
{
    struct tok_dataset *dataset = NULL;
    struct data_scratch scratch = {0};
    enum sp_err rc = open_split(rows, file, &dataset, err);
    for (uint64_t i = 0; i < limit && rc == SP_OK; i++) {
        struct tok_row row;
        bool more = false;
        rc = tok_dataset_next(dataset, &row, &more, err);
        if (rc != SP_OK || !more)
            break;
        enum data_split split = held && held[i] ? DATA_HOLDOUT : (enum data_split)file;
        rc = add_pairs(rows, split, &row, &scratch, err);
        if (rc != SP_OK)
            sp_wrap(err, rc, "%s:%llu", rows->names[file], (unsigned long long)row.line);
        else
            rc = data_step(rows, dataset, i, err);
    }
    rows->counts[file].limited += total - SP_MIN(limit, total);
    data_scratch_deinit(&scratch);
    data_close(rows, dataset);
    return rc;
}

static enum sp_err none_left(const struct data_rows *rows, struct sp_error *err)
{
    const struct data_counts *train = &rows->counts[DATA_TRAIN];
    struct sp_buf why = SP_BUF_INIT;
    for (int i = 0; i < DATA_REASONS; i++)
        if (train->left_out[i] > 0)
            sp_buf_printf(&why, "; %llu: %s", (unsigned long long)train->left_out[i],
                          reason_texts[i]);
    enum sp_err rc =
        sp_fail(err, SP_EFORMAT,
                "%s: no row is left to train on: %llu rows%s (max_sequence_tokens counts as %lld)",
                rows->names[DATA_TRAIN], (unsigned long long)train->rows, why.data ? why.data : "",
                (long long)rows->limit_tokens);
    sp_buf_deinit(&why);
    return rc;
}

enum sp_err data_rows_run(struct data_rows *rows, struct sp_error *err)
{
    const struct run_settings *s = rows->settings;
    uint64_t totals[DATA_SPLITS] = {0};
    enum sp_err rc = SP_OK;
    rows->limit_tokens = SP_MIN(s->max_sequence_tokens, rows->model->positions.count);
    for (int i = 0; i < DATA_SPLITS; i++) {
        struct stat info;
        rows->counts[i].prompt_lengths = sp_xarray(DATA_LENGTHS, sizeof(uint32_t));
        rows->counts[i].response_lengths = sp_xarray(DATA_LENGTHS, sizeof(uint32_t));
        if (rows->paths[i] && stat(rows->paths[i], &info) == 0)
            rows->bytes_total += 2 * (uint64_t)info.st_size;
    }
    for (int i = 0; i < DATA_GIVEN; i++) {
        struct stat info;
        if (rows->given_paths[i] && stat(rows->given_paths[i], &info) == 0)
            rows->bytes_total += (uint64_t)info.st_size;
    }
    for (int i = 0; i < DATA_SPLITS && rc == SP_OK; i++) {
        if (rows->paths[i])
            rc = count_rows(rows, i, &totals[i], err);
    }
    if (rc != SP_OK)
        return rc;
    uint64_t considered = 0;
    uint8_t *held = choose_holdout(rows, totals[DATA_TRAIN], &considered);
    rc = read_file(rows, DATA_TRAIN, held, considered, totals[DATA_TRAIN], err);
    free(held);
    if (rc == SP_OK && rows->paths[DATA_HOLDOUT])
        rc = read_file(rows, DATA_HOLDOUT, NULL, (uint64_t)s->holdout_limit, totals[DATA_HOLDOUT],
                       err);
    if (rc == SP_OK && rows->paths[DATA_EVAL])
        rc = read_file(rows, DATA_EVAL, NULL, (uint64_t)s->eval_limit, totals[DATA_EVAL], err);
    if (rc == SP_OK)
        rc = data_given_run(rows, err);
    const struct data_counts *train = &rows->counts[DATA_TRAIN];
    if (rc == SP_OK && train->used == 0)
        rc = none_left(rows, err);
    uint64_t pairs = train->used * (uint64_t)s->samples_per_prompt * 2;
    if (rc == SP_OK && pairs > UINT32_MAX / 4)
        rc = sp_fail(err, SP_ELIMIT, "%llu pairs in an iteration: lower samples_per_prompt",
                     (unsigned long long)pairs);
    return rc;
}

void data_rows_deinit(struct data_rows *rows)
{
    for (int i = 0; i < DATA_SPLITS; i++) {
        free(rows->paths[i]);
        free(rows->names[i]);
    }
    for (int i = 0; i < DATA_SPLITS; i++) {
        free(rows->counts[i].prompt_lengths);
        free(rows->counts[i].response_lengths);
        free(rows->counts[i].prompt_hashes);
    }
    for (int i = 0; i < DATA_GIVEN; i++) {
        free(rows->given_paths[i]);
        free(rows->given_names[i]);
    }
    for (size_t i = 0; i < DATA_EXAMPLES; i++) {
        tok_ids_deinit(&rows->examples[i].prompt);
        tok_ids_deinit(&rows->examples[i].real);
        tok_ids_deinit(&rows->examples[i].rejected);
    }
}

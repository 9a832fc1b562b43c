/* Rows of the datasets: split, rendered, counted, stored. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "coordinator/create_run_internal.h"

#define LENGTHS (SP_MAX_SEQUENCE_TOKENS + 2)

/* Buffers of one row, kept from row to row. */
struct scratch {
    struct tok_ids prompt, real, rejected;
};

static void scratch_deinit(struct scratch *scratch)
{
    tok_ids_deinit(&scratch->prompt);
    tok_ids_deinit(&scratch->real);
    tok_ids_deinit(&scratch->rejected);
}

static uint64_t hash_ids(const struct tok_ids *ids)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a over the numbers */
    for (size_t i = 0; i < ids->count; i++)
        hash = (hash ^ (uint32_t)ids->ids[i]) * 0x100000001b3u;
    return hash;
}

static enum sp_err check_vocabulary(const struct create_rows *rows, const struct tok_ids *ids,
                                    struct sp_error *err)
{
    for (size_t i = 0; i < ids->count; i++) {
        if (ids->ids[i] >= rows->base->vocab)
            return sp_fail(err, SP_EFORMAT,
                           "token id %d, but the model's vocabulary has %d entries: tokenizer.json "
                           "is not this model's",
                           ids->ids[i], rows->base->vocab);
    }
    return SP_OK;
}

static enum sp_err render(const struct create_rows *rows, const struct tok_row *row,
                          struct scratch *scratch, struct sp_error *err)
{
    tok_ids_clear(&scratch->prompt);
    tok_ids_clear(&scratch->real);
    tok_ids_clear(&scratch->rejected);
    enum sp_err rc = tok_render_example(&rows->base->renderer, row->turns, row->turn_count,
                                        row->response, &scratch->prompt, &scratch->real, err);
    bool wants_rejected = rows->args->settings.mode == RUN_MODE_DPO;
    if (rc == SP_OK && wants_rejected && row->rejected == NULL)
        rc = sp_fail(err, SP_EFORMAT,
                     "no rejected answer: mode = dpo needs the format preference or uclaml");
    if (rc == SP_OK && wants_rejected)
        rc = tok_render_response(&rows->base->renderer, row->rejected, &scratch->rejected, err);
    if (rc == SP_OK)
        rc = check_vocabulary(rows, &scratch->prompt, err);
    if (rc == SP_OK)
        rc = check_vocabulary(rows, &scratch->real, err);
    if (rc == SP_OK)
        rc = check_vocabulary(rows, &scratch->rejected, err);
    return rc;
}

/* What is too long for a limit, or NULL. Sampled answers must fit behind the prompt, too. */
static const char *too_long(const struct create_rows *rows, enum store_split split,
                            const struct scratch *scratch)
{
    const struct run_settings *s = &rows->args->settings;
    size_t prompt = scratch->prompt.count;
    size_t answer = SP_MAX(scratch->real.count, scratch->rejected.count);
    bool sampled = s->mode == RUN_MODE_SPIN || split == STORE_SPLIT_EVAL;
    if (prompt > (size_t)run_settings_prompt_limit(s))
        return "max_prompt_tokens";
    if (prompt + answer > (size_t)rows->limit_tokens)
        return "max_sequence_tokens";
    if (sampled && prompt + (size_t)s->max_new_tokens > (size_t)rows->limit_tokens)
        return "max_sequence_tokens (prompt and max_new_tokens)";
    return NULL;
}

static void count_used(const struct create_rows *rows, struct create_counts *counts,
                       const struct scratch *scratch)
{
    if (counts->used == counts->hash_capacity) {
        counts->hash_capacity = counts->hash_capacity ? counts->hash_capacity * 2 : 1024;
        counts->prompt_hashes =
            sp_xgrow(counts->prompt_hashes, counts->hash_capacity, sizeof(uint64_t));
    }
    counts->prompt_hashes[counts->used++] = hash_ids(&scratch->prompt);
    size_t prompt = scratch->prompt.count, real = scratch->real.count;
    counts->prompt_tokens += prompt;
    counts->response_tokens += real;
    counts->prompt_max = SP_MAX(counts->prompt_max, prompt);
    counts->response_max = SP_MAX(counts->response_max, real);
    counts->answers_over_max_new += real > (size_t)rows->args->settings.max_new_tokens;
    counts->response_lengths[SP_MIN(real, (size_t)LENGTHS - 1)]++;
}

static struct proto_ids view(const struct tok_ids *ids)
{
    return (struct proto_ids){.ids = ids->ids, .count = (uint32_t)ids->count};
}

static enum sp_err add_row(struct create_rows *rows, enum store_split split,
                           const struct tok_row *row, struct scratch *scratch, struct sp_error *err)
{
    struct create_counts *counts = &rows->counts[split];
    counts->rows++;
    enum sp_err rc = render(rows, row, scratch, err);
    if (rc != SP_OK)
        return rc;
    if (scratch->prompt.count == 0 || scratch->real.count == 0) {
        counts->empty++;
        return SP_OK;
    }
    const char *limit = too_long(rows, split, scratch);
    if (limit && rows->args->settings.overlong == RUN_OVERLONG_ERROR)
        return sp_fail(err, SP_ELIMIT,
                       "prompt of %zu and answer of %zu tokens: over %s (limit %lld): raise it, or "
                       "set [data] overlong = drop",
                       scratch->prompt.count, scratch->real.count, limit,
                       (long long)rows->limit_tokens);
    if (limit) {
        counts->overlong++;
        return SP_OK;
    }
    struct store_prompt prompt = {
        .index = (uint32_t)counts->used,
        .prompt_ids = view(&scratch->prompt),
        .real_ids = view(&scratch->real),
        .rejected_ids = view(&scratch->rejected),
        .response = split == STORE_SPLIT_EVAL ? row->response : "",
    };
    rc = store_builder_add(rows->builder, split, &prompt, err);
    if (rc == SP_OK)
        count_used(rows, counts, scratch);
    return rc;
}

static enum sp_err open_dataset(struct create_rows *rows, int file, struct tok_dataset **ret,
                                struct sp_error *err)
{
    enum tok_format format = TOK_FORMAT_AUTO;
    enum sp_err rc = tok_format_parse(rows->args->settings.format, &format, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "[data] format");
    rc = tok_dataset_open(rows->paths[file], rows->names[file], format, ret, err);
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "[data] %s", create_split_names[file]);
}

static enum sp_err check_cancelled(const struct create_rows *rows, uint64_t row,
                                   struct sp_error *err)
{
    const struct coord_create_run *request = rows->request;
    if (row % 256 == 0 && request->cancelled && request->cancelled(request->context))
        return sp_fail(err, SP_ECANCELED, "create-run was cancelled at row %llu",
                       (unsigned long long)row);
    return SP_OK;
}

/* Rows of a file, without rendering: a bad line ends the work before the expensive part. */
static enum sp_err count_rows(struct create_rows *rows, int file, uint64_t *ret,
                              struct sp_error *err)
{
    struct tok_dataset *dataset = NULL;
    struct tok_row row;
    bool more = true;
    uint64_t count = 0;
    enum sp_err rc = open_dataset(rows, file, &dataset, err);
    while (rc == SP_OK) {
        rc = tok_dataset_next(dataset, &row, &more, err);
        if (rc != SP_OK || !more)
            break;
        if (++count > SP_MAX_DATASET_ROWS)
            rc = sp_fail(err, SP_ELIMIT, "%s: more than %d rows", rows->names[file],
                         SP_MAX_DATASET_ROWS);
        else
            rc = check_cancelled(rows, count, err);
    }
    if (rc == SP_OK && file == STORE_SPLIT_TRAIN)
        rows->format = tok_format_name(tok_dataset_format(dataset));
    tok_dataset_close(dataset);
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

/* Each row draws a lot by its number in the file; the lowest `held` are held out. So the choice
 * does not depend on what is left out for its length. ret: a byte by row. */
static void draw_lots(uint64_t seed, uint32_t considered, uint32_t held, uint8_t *ret)
{
    struct lot *lots = sp_xarray(considered, sizeof(*lots));
    for (uint32_t i = 0; i < considered; i++) {
        uint32_t draw[4];
        sp_rng_draw(seed, SP_STREAM_SPLIT, 0, i, 0, 0, draw);
        lots[i] = (struct lot){.key = (uint64_t)draw[0] << 32 | draw[1], .row = i};
    }
    qsort(lots, considered, sizeof(*lots), compare_lots);
    for (uint32_t i = 0; i < held; i++)
        ret[lots[i].row] = 1;
    free(lots);
}

/* Rows of the training file that are looked at, and which of them are held out. */
static uint8_t *choose_holdout(const struct create_rows *rows, uint64_t total, uint64_t *ret_count)
{
    const struct run_settings *s = &rows->args->settings;
    bool carve = rows->paths[STORE_SPLIT_HOLDOUT] == NULL && s->holdout_share > 0;
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
static enum sp_err read_file(struct create_rows *rows, int file, const uint8_t *held,
                             uint64_t limit, uint64_t total, struct sp_error *err)
{
    struct tok_dataset *dataset = NULL;
    struct scratch scratch = {0};
    enum sp_err rc = open_dataset(rows, file, &dataset, err);
    for (uint64_t i = 0; i < limit && rc == SP_OK; i++) {
        struct tok_row row;
        bool more = false;
        rc = tok_dataset_next(dataset, &row, &more, err);
        if (rc != SP_OK || !more)
            break;
        enum store_split split = held && held[i] ? STORE_SPLIT_HOLDOUT : (enum store_split)file;
        rc = add_row(rows, split, &row, &scratch, err);
        if (rc != SP_OK)
            sp_wrap(err, rc, "%s:%llu", rows->names[file], (unsigned long long)row.line);
        else
            rc = check_cancelled(rows, i, err);
    }
    rows->counts[file].limited += total - SP_MIN(limit, total);
    scratch_deinit(&scratch);
    tok_dataset_close(dataset);
    return rc;
}

enum sp_err create_rows_run(struct create_rows *rows, struct sp_error *err)
{
    const struct run_settings *s = &rows->args->settings;
    uint64_t totals[CREATE_FILES] = {0};
    enum sp_err rc = SP_OK;
    for (int i = 0; i < STORE_SPLITS; i++)
        rows->counts[i].response_lengths = sp_xarray(LENGTHS, sizeof(uint32_t));
    for (int i = 0; i < CREATE_FILES && rc == SP_OK; i++) {
        if (rows->paths[i])
            rc = count_rows(rows, i, &totals[i], err);
    }
    if (rc != SP_OK)
        return rc;
    uint64_t considered = 0;
    uint8_t *held = choose_holdout(rows, totals[STORE_SPLIT_TRAIN], &considered);
    rc = read_file(rows, STORE_SPLIT_TRAIN, held, considered, totals[STORE_SPLIT_TRAIN], err);
    free(held);
    if (rc == SP_OK && rows->paths[STORE_SPLIT_HOLDOUT])
        rc = read_file(rows, STORE_SPLIT_HOLDOUT, NULL, (uint64_t)s->holdout_limit,
                       totals[STORE_SPLIT_HOLDOUT], err);
    if (rc == SP_OK && rows->paths[STORE_SPLIT_EVAL])
        rc = read_file(rows, STORE_SPLIT_EVAL, NULL, (uint64_t)s->eval_limit,
                       totals[STORE_SPLIT_EVAL], err);
    const struct create_counts *train = &rows->counts[STORE_SPLIT_TRAIN];
    if (rc == SP_OK && train->used == 0)
        rc = sp_fail(err, SP_EFORMAT,
                     "%s: no row is left to train on: %llu rows, %llu too long, %llu empty",
                     rows->names[STORE_SPLIT_TRAIN], (unsigned long long)train->rows,
                     (unsigned long long)train->overlong, (unsigned long long)train->empty);
    uint64_t pairs = train->used * (uint64_t)s->samples_per_prompt * 2;
    if (rc == SP_OK && pairs > UINT32_MAX / 4)
        rc = sp_fail(err, SP_ELIMIT, "%llu pairs in an iteration: lower samples_per_prompt",
                     (unsigned long long)pairs);
    return rc;
}

void create_rows_deinit(struct create_rows *rows)
{
    for (int i = 0; i < CREATE_FILES; i++) {
        free(rows->paths[i]);
        free(rows->names[i]);
    }
    for (int i = 0; i < STORE_SPLITS; i++) {
        free(rows->counts[i].response_lengths);
        free(rows->counts[i].prompt_hashes);
    }
}

/* What create-run has to say: counts, lengths, duplicates, warnings. */
#include <stdlib.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/create_run_internal.h"

#define LONG_ANSWERS_WARN 0.05 /* share of human answers above max_new_tokens */

static void warn(json_t *warnings, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void warn(json_t *warnings, const char *format, ...)
{
    struct sp_error text;
    va_list args;
    va_start(args, format);
    sp_failv(&text, SP_OK, format, args);
    va_end(args);
    json_array_append_new(warnings, json_string(text.text));
}

/* Length that `share` of the answers do not exceed. */
static uint64_t quantile(const struct create_counts *counts, double share)
{
    uint64_t seen = 0;
    for (uint64_t length = 0; length <= counts->response_max; length++) {
        seen += counts->response_lengths[SP_MIN(length, (uint64_t)SP_MAX_SEQUENCE_TOKENS + 1)];
        if ((double)seen >= share * (double)counts->used)
            return length;
    }
    return counts->response_max;
}

static json_t *split_report(const char *name, const struct create_counts *counts)
{
    double used = counts->used ? (double)counts->used : 1;
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:I, s:I, s:I}", "split", name,
                     "rows", (json_int_t)counts->rows, "used", (json_int_t)counts->used, "overlong",
                     (json_int_t)counts->overlong, "empty", (json_int_t)counts->empty, "limited",
                     (json_int_t)counts->limited, "prompt_tokens_mean",
                     (double)counts->prompt_tokens / used, "prompt_tokens_max",
                     (json_int_t)counts->prompt_max, "response_tokens_mean",
                     (double)counts->response_tokens / used, "response_tokens_p50",
                     (json_int_t)(counts->used ? quantile(counts, 0.5) : 0), "response_tokens_p95",
                     (json_int_t)(counts->used ? quantile(counts, 0.95) : 0), "response_tokens_max",
                     (json_int_t)counts->response_max);
}

static int compare_hashes(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Rows of `a` (sorted) whose prompt is also one of `b` (sorted). */
static uint64_t common_rows(const struct create_counts *a, const struct create_counts *b)
{
    uint64_t found = 0, j = 0;
    for (uint64_t i = 0; i < a->used; i++) {
        while (j < b->used && b->prompt_hashes[j] < a->prompt_hashes[i])
            j++;
        found += j < b->used && b->prompt_hashes[j] == a->prompt_hashes[i];
    }
    return found;
}

static uint64_t repeated_rows(const struct create_counts *counts)
{
    uint64_t found = 0;
    for (uint64_t i = 1; i < counts->used; i++)
        found += counts->prompt_hashes[i] == counts->prompt_hashes[i - 1];
    return found;
}

static json_t *duplicates(const struct create_rows *rows, json_t *warnings)
{
    const struct create_counts *train = &rows->counts[STORE_SPLIT_TRAIN];
    const struct create_counts *holdout = &rows->counts[STORE_SPLIT_HOLDOUT];
    const struct create_counts *eval = &rows->counts[STORE_SPLIT_EVAL];
    for (int i = 0; i < STORE_SPLITS; i++) {
        if (rows->counts[i].used)
            qsort(rows->counts[i].prompt_hashes, rows->counts[i].used, sizeof(uint64_t),
                  compare_hashes);
    }
    uint64_t in_holdout = common_rows(holdout, train), in_eval = common_rows(eval, train);
    if (in_holdout)
        warn(warnings,
             "%llu of %llu held-out prompts are training prompts, too: the verdict is too good",
             (unsigned long long)in_holdout, (unsigned long long)holdout->used);
    if (in_eval)
        warn(warnings,
             "%llu of %llu evaluation prompts are training prompts, too: exact match is too good",
             (unsigned long long)in_eval, (unsigned long long)eval->used);
    return json_pack("{s:I, s:I, s:I}", "train", (json_int_t)repeated_rows(train),
                     "holdout_in_train", (json_int_t)in_holdout, "eval_in_train",
                     (json_int_t)in_eval);
}

static void more_warnings(const struct create_rows *rows, json_t *warnings)
{
    const struct run_settings *s = &rows->args->settings;
    const struct create_counts *train = &rows->counts[STORE_SPLIT_TRAIN];
    const struct create_counts *holdout = &rows->counts[STORE_SPLIT_HOLDOUT];
    double share = train->used ? (double)train->answers_over_max_new / (double)train->used : 0;
    if (s->mode == RUN_MODE_SPIN && share > LONG_ANSWERS_WARN)
        warn(warnings,
             "%.1f %% of the human answers have more than max_new_tokens = %lld tokens: the player "
             "learns to tell the two by their length; raise max_new_tokens",
             100 * share, (long long)s->max_new_tokens);
    if (train->overlong)
        warn(warnings, "%llu of %llu training rows are left out as too long",
             (unsigned long long)train->overlong, (unsigned long long)train->rows);
    if (rows->limit_tokens < s->max_sequence_tokens)
        warn(warnings, "the model has %lld positions: max_sequence_tokens = %lld counts as %lld",
             (long long)rows->base->max_positions, (long long)s->max_sequence_tokens,
             (long long)rows->limit_tokens);
    if (s->mode != RUN_MODE_SFT && holdout->used < (uint64_t)s->verdict_min_pairs)
        warn(warnings,
             "%llu held-out prompts, below [verdict] min_pairs = %lld: verdicts will be "
             "\"undecided\"",
             (unsigned long long)holdout->used, (long long)s->verdict_min_pairs);
    if (s->mode == RUN_MODE_SPIN && s->samples_per_prompt > 1 && s->temperature <= 0)
        warn(warnings, "temperature 0: all samples of a prompt are equal");
}

json_t *create_report(const struct create_rows *rows)
{
    const struct create_base *base = rows->base;
    const struct create_counts *train = &rows->counts[STORE_SPLIT_TRAIN];
    json_t *splits = json_array(), *warnings = json_array(), *stop_ids = json_array();
    for (int i = 0; i < STORE_SPLITS; i++)
        json_array_append_new(splits, split_report(create_split_names[i], &rows->counts[i]));
    for (size_t i = 0; i < base->stop_count; i++)
        json_array_append_new(stop_ids, json_integer(base->stop_ids[i]));
    json_t *same = duplicates(rows, warnings);
    more_warnings(rows, warnings);
    json_t *files = json_object();
    for (int i = 0; i < CREATE_FILES; i++) {
        char hex[SP_DIGEST_HEX];
        if (!rows->args->has_data[i])
            continue;
        sp_digest_hex(&rows->args->data[i], hex);
        json_object_set_new(files, create_split_names[i],
                            json_pack("{s:s, s:s}", "manifest", hex, "name", rows->names[i]));
    }
    double share = train->used ? (double)train->answers_over_max_new / (double)train->used : 0;
    return json_pack("{s:o, s:o, s:o, s:f, s:s, s:s, s:i, s:i, s:o, s:o}", "splits", splits,
                     "warnings", warnings, "duplicates", same, "answers_over_max_new_share", share,
                     "format", rows->format, "template", tok_template_name(base->renderer.template),
                     "vocab", (int)base->vocab, "end_id", (int)base->stop_ids[0], "stop_ids",
                     stop_ids, "files", files);
}

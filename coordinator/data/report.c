/* What there is to say of the data: counts, lengths, duplicates, warnings, examples. */
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/data/data.h"

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
static uint64_t quantile(const struct data_counts *counts, double share)
{
    uint64_t seen = 0;
    for (uint64_t length = 0; length <= counts->response_max; length++) {
        seen += counts->response_lengths[SP_MIN(length, (uint64_t)SP_MAX_SEQUENCE_TOKENS + 1)];
        if ((double)seen >= share * (double)counts->used)
            return length;
    }
    return counts->response_max;
}

static json_t *left_out(const struct data_counts *counts)
{
#define REASON(id, name, what) {name, what},
    static const struct {
        const char *name, *what;
    } reasons[] = {DATA_REASON_LIST(REASON)};
#undef REASON
    json_t *list = json_array();
    for (int i = 0; i < DATA_REASONS; i++)
        if (counts->left_out[i] > 0)
            json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I}", "reason", reasons[i].name,
                                                  "what", reasons[i].what, "rows",
                                                  (json_int_t)counts->left_out[i], "first_line",
                                                  (json_int_t)counts->left_out_line[i]));
    return list;
}

/* Used rows by length, in buckets that end at 16, 32, 64 … tokens. */
static json_t *histogram(const struct data_counts *counts)
{
    json_t *list = json_array();
    uint64_t longest = SP_MAX(counts->prompt_max, counts->response_max), from = 1;
    for (uint64_t to = 16; counts->used > 0 && from <= longest; from = to + 1, to *= 2) {
        uint64_t prompts = 0, responses = 0;
        for (uint64_t i = from; i <= to && i < DATA_LENGTHS; i++) {
            prompts += counts->prompt_lengths[i];
            responses += counts->response_lengths[i];
        }
        json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:I}", "from", (json_int_t)from,
                                              "to", (json_int_t)to, "prompts", (json_int_t)prompts,
                                              "responses", (json_int_t)responses));
    }
    return list;
}

static json_t *split_report(const char *name, const struct data_counts *counts)
{
    double used = counts->used ? (double)counts->used : 1;
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:I, s:f, s:I, s:I, s:I, s:o}",
                     "split", name, "rows", (json_int_t)counts->rows, "used",
                     (json_int_t)counts->used, "overlong", (json_int_t)counts->overlong, "empty",
                     (json_int_t)counts->empty, "limited", (json_int_t)counts->limited, "left_out",
                     left_out(counts), "prompt_tokens_mean", (double)counts->prompt_tokens / used,
                     "prompt_tokens_max", (json_int_t)counts->prompt_max, "response_tokens_mean",
                     (double)counts->response_tokens / used, "response_tokens_p50",
                     (json_int_t)(counts->used ? quantile(counts, 0.5) : 0), "response_tokens_p95",
                     (json_int_t)(counts->used ? quantile(counts, 0.95) : 0), "response_tokens_max",
                     (json_int_t)counts->response_max, "histogram", histogram(counts));
}

/* Sorts in place, by one bit after the other from the highest: hashes are spread evenly, and a
 * library's sort would take as much memory again. */
static void sort_hashes(uint64_t *hashes, uint64_t count, unsigned bit)
{
    while (count > 1) {
        uint64_t low = 0, high = count;
        while (low < high) {
            if ((hashes[low] >> bit & 1) == 0) {
                low++;
                continue;
            }
            uint64_t swap = hashes[--high];
            hashes[high] = hashes[low];
            hashes[low] = swap;
        }
        if (bit-- == 0)
            return;
        sort_hashes(hashes, low, bit);
        hashes += low;
        count -= low;
    }
}

/* Rows of `a` (sorted) whose prompt is also one of `b` (sorted). */
static uint64_t common_rows(const struct data_counts *a, const struct data_counts *b)
{
    uint64_t found = 0, j = 0;
    for (uint64_t i = 0; i < a->used; i++) {
        while (j < b->used && b->prompt_hashes[j] < a->prompt_hashes[i])
            j++;
        found += j < b->used && b->prompt_hashes[j] == a->prompt_hashes[i];
    }
    return found;
}

static uint64_t repeated_rows(const struct data_counts *counts)
{
    uint64_t found = 0;
    for (uint64_t i = 1; i < counts->used; i++)
        found += counts->prompt_hashes[i] == counts->prompt_hashes[i - 1];
    return found;
}

static json_t *duplicates(struct data_rows *rows, json_t *warnings)
{
    const struct data_counts *train = &rows->counts[DATA_TRAIN];
    const struct data_counts *holdout = &rows->counts[DATA_HOLDOUT];
    const struct data_counts *eval = &rows->counts[DATA_EVAL];
    for (int i = 0; i < DATA_SPLITS; i++)
        sort_hashes(rows->counts[i].prompt_hashes, rows->counts[i].used, 63);
    uint64_t in_holdout = common_rows(holdout, train), in_eval = common_rows(eval, train);
    if (in_holdout)
        warn(warnings,
             "%llu of %llu held-out prompts are training prompts, too: the verdict is too good",
             (unsigned long long)in_holdout, (unsigned long long)holdout->used);
    if (in_eval)
        warn(warnings,
             "%llu of %llu evaluation prompts are training prompts, too: exact match is too good",
             (unsigned long long)in_eval, (unsigned long long)eval->used);
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "train", (json_int_t)repeated_rows(train),
                     "holdout", (json_int_t)repeated_rows(holdout), "eval",
                     (json_int_t)repeated_rows(eval), "holdout_in_train", (json_int_t)in_holdout,
                     "eval_in_train", (json_int_t)in_eval);
}

static void more_warnings(const struct data_rows *rows, json_t *warnings)
{
    const struct run_settings *s = rows->settings;
    const struct data_counts *train = &rows->counts[DATA_TRAIN];
    const struct data_counts *holdout = &rows->counts[DATA_HOLDOUT];
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
             (long long)rows->model->positions.count, (long long)s->max_sequence_tokens,
             (long long)rows->limit_tokens);
    if (s->mode != RUN_MODE_SFT && holdout->used < (uint64_t)s->verdict_min_pairs)
        warn(warnings,
             "%llu held-out prompts, below [verdict] min_pairs = %lld: verdicts will be "
             "\"undecided\"",
             (unsigned long long)holdout->used, (long long)s->verdict_min_pairs);
    if (s->mode == RUN_MODE_SPIN && s->samples_per_prompt > 1 && s->temperature <= 0)
        warn(warnings, "temperature 0: all samples of a prompt are equal");
}

/* compat = uclaml: answers that the data gives, by iteration. */
static json_t *given(const struct data_rows *rows, json_t *warnings)
{
    json_t *list = json_array();
    for (int i = 0; i <= DATA_GIVEN; i++) {
        json_array_append_new(list, json_integer((json_int_t)rows->given[i]));
        if (rows->unmatched[i])
            warn(warnings,
                 "generated_%d: %llu rows have no answer, are too long, or have a prompt that is "
                 "not in the training file: they are left out",
                 i, (unsigned long long)rows->unmatched[i]);
    }
    return list;
}

json_t *data_report(struct data_rows *rows)
{
    const struct data_model *model = rows->model;
    const struct data_counts *train = &rows->counts[DATA_TRAIN];
    json_t *splits = json_array(), *warnings = json_array(), *stop_ids = json_array();
    for (int i = 0; i < DATA_SPLITS; i++)
        json_array_append_new(splits, split_report(data_split_names[i], &rows->counts[i]));
    for (size_t i = 0; i < model->stop_count; i++)
        json_array_append_new(stop_ids, json_integer(model->stop_ids[i]));
    json_t *same = duplicates(rows, warnings);
    more_warnings(rows, warnings);
    double share = train->used ? (double)train->answers_over_max_new / (double)train->used : 0;
    json_t *report =
        json_pack("{s:o, s:o, s:o, s:f, s:s, s:s, s:i, s:i, s:o}", "splits", splits, "warnings",
                  warnings, "duplicates", same, "answers_over_max_new_share", share, "format",
                  rows->format, "template", tok_renderer_name(model->renderer), "vocab",
                  (int)model->vocab, "end_id", (int)model->stop_ids[0], "stop_ids", stop_ids);
    if (rows->settings->compat == RUN_COMPAT_UCLAML)
        json_object_set_new(report, "given", given(rows, warnings));
    return report;
}

/* ---- examples ---- */

static json_t *text_of(const struct data_rows *rows, const int32_t *ids, size_t count)
{
    struct sp_buf text = SP_BUF_INIT;
    json_t *value = NULL;
    if (tok_decode(rows->model->tokenizer, ids, count, 0, &text, NULL) == SP_OK)
        value = json_stringn(text.data ? text.data : "", text.length);
    sp_buf_deinit(&text);
    return value ? value : json_string("");
}

static void add_tokens(struct tok_stream *stream, const struct tok_ids *ids, bool loss,
                       json_t *tokens)
{
    struct sp_buf text = SP_BUF_INIT;
    for (size_t i = 0; i < ids->count; i++) {
        sp_buf_clear(&text);
        (void)(tok_stream_push(stream, ids->ids[i], &text, NULL) == SP_OK);
        json_t *added = json_stringn(text.data ? text.data : "", text.length);
        json_array_append_new(tokens, json_pack("{s:i, s:o, s:b}", "id", (int)ids->ids[i], "text",
                                                added ? added : json_string(""), "loss", loss));
    }
    sp_buf_deinit(&text);
}

json_t *data_examples(const struct data_rows *rows)
{
    json_t *list = json_array();
    for (size_t i = 0; i < rows->example_count; i++) {
        const struct data_example *e = &rows->examples[i];
        json_t *tokens = json_array();
        struct tok_stream *stream = tok_stream_new(rows->model->tokenizer, 0);
        add_tokens(stream, &e->prompt, false, tokens);
        add_tokens(stream, &e->real, true, tokens);
        tok_stream_free(stream);
        json_t *one = json_pack("{s:I, s:I, s:I, s:o, s:o, s:o}", "line", (json_int_t)e->line,
                                "prompt_tokens", (json_int_t)e->prompt.count, "response_tokens",
                                (json_int_t)e->real.count, "prompt_text",
                                text_of(rows, e->prompt.ids, e->prompt.count), "response_text",
                                text_of(rows, e->real.ids, e->real.count), "tokens", tokens);
        if (e->rejected.count > 0)
            json_object_set_new(one, "rejected_text",
                                text_of(rows, e->rejected.ids, e->rejected.count));
        json_array_append_new(list, one);
    }
    return list;
}

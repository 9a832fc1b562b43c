/* data: from dataset files and a model's directory to prompts and answers as token ids, with counts
 * of everything and a report. create-run and `spinctl dataset check` are this same code: the one
 * stores what comes out, the other only counts.
 *
 * Streams: memory is a row, a hash for each used row, a byte for each row of the training file, and
 * the tokenizer. One thread; blocks on the files. */
#ifndef SPIN_COORDINATOR_DATA_H
#define SPIN_COORDINATOR_DATA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/text/chat.h"
#include "common/text/dataset.h"
#include "coordinator/data/positions.h"
#include "proto/run_settings.h"

enum data_split { DATA_TRAIN, DATA_HOLDOUT, DATA_EVAL };
#define DATA_SPLITS 3
extern const char *const data_split_names[DATA_SPLITS]; /* "train", "holdout", "eval" */

/* ---- what text needs of a model ---- */

struct data_model {
    struct tok_tokenizer *tokenizer;
    struct tok_renderer *renderer;
    int32_t eos_id;        /* the model's own end token, or the template's where it has none */
    int32_t vocab;         /* of the model: config.json */
    struct data_positions positions;
    int32_t *stop_ids;     /* the response's end token first; owned */
    size_t stop_count;
};
/* Reads config.json, generation_config.json, tokenizer and chat template of `dir`; template and
 * template_date of the settings. Frees with data_model_deinit, half-made ones, too. */
enum sp_err data_model_load(const char *dir, const struct run_settings *settings,
                            struct data_model *ret, struct sp_error *err) SP_MUST_USE;
void data_model_deinit(struct data_model *model);

/* ---- rows ---- */

/* Why a row is left out. name (in reports), what is said of it. */
#define DATA_REASON_LIST(X)                                                                        \
    X(PROMPT, "prompt", "the prompt is longer than max_prompt_tokens")                             \
    X(SEQUENCE, "sequence", "prompt and answer are longer than max_sequence_tokens")               \
    X(ROOM, "room", "no room behind the prompt for max_new_tokens")                                \
    X(EMPTY, "empty", "the prompt or the answer has no tokens")
#define DATA_REASON_ENUM(id, name, what) DATA_REASON_##id,
enum data_reason { DATA_REASON_LIST(DATA_REASON_ENUM) DATA_REASONS };
#undef DATA_REASON_ENUM

struct data_counts {
    uint64_t rows, used, overlong, empty,
        limited;                          /* limited: behind train_limit, holdout_limit … */
    uint64_t left_out[DATA_REASONS];      /* rows */
    uint64_t left_out_line[DATA_REASONS]; /* of the first one; 0: none */
    uint64_t answers_over_max_new;        /* used rows whose answer is longer than max_new_tokens */
    uint64_t prompt_tokens, response_tokens, prompt_max, response_max;
    uint32_t *prompt_lengths, *response_lengths; /* histograms [DATA_LENGTHS]; owned */
    uint64_t *prompt_hashes;                     /* by used row; owned */
    size_t hash_capacity;
};
#define DATA_LENGTHS (SP_MAX_SEQUENCE_TOKENS + 2)

/* A prompt as it is stored; everything is borrowed. */
struct data_prompt {
    uint32_t index; /* in its split, from 0 */
    const struct tok_ids *prompt, *real, *rejected;
    const struct tok_ids *sample; /* the prompt that answers are sampled behind; empty: `prompt` */
    const char *response;         /* reference text; "" but for DATA_EVAL */
};

/* A used training row, kept to be shown. */
struct data_example {
    uint64_t line;
    struct tok_ids prompt, real, rejected; /* owned */
};
#define DATA_EXAMPLES 3

/* compat = uclaml: files with given answers for the iterations after the first. */
#define DATA_GIVEN 3

struct data_rows {
    /* set by the caller; borrowed but for paths and names */
    const struct run_settings *settings;
    const struct data_model *model;
    char *paths[DATA_SPLITS]; /* the datasets on disk; owned; NULL: none */
    char *names[DATA_SPLITS]; /* as the user calls them; owned */
    char *given_paths[DATA_GIVEN], *given_names[DATA_GIVEN]; /* owned; NULL: none */
    /* NULL: rows are only counted. */
    enum sp_err (*add)(void *context, enum data_split split, const struct data_prompt *prompt,
                       struct sp_error *err);
    /* An answer that the data gives for training prompt `index` in an iteration; may be NULL, too.
     */
    enum sp_err (*add_given)(void *context, uint32_t iteration, uint32_t index,
                             const struct tok_ids *answer, struct sp_error *err);
    void *add_context;
    /* Asked now and then with the bytes of all files read so far, and those to read (each file is
     * read twice); true: SP_ECANCELED. May be NULL. */
    bool (*step)(void *context, uint64_t done, uint64_t total);
    void *step_context;
    /* made here */
    uint64_t bytes_before, bytes_total;
    int64_t limit_tokens; /* prompt and answer together: setting and model */
    struct data_counts counts[DATA_SPLITS];
    struct data_example examples[DATA_EXAMPLES];
    size_t example_count;
    uint64_t given[DATA_GIVEN + 1], unmatched[DATA_GIVEN + 1]; /* answers by iteration; those
                                                                  whose prompt is not in train */
    const char *format;                                        /* of the training file; static */
};
/* Reads and renders every split, and gives each used row to `add`. Errors name file, line, field
 * and remedy. */
enum sp_err data_rows_run(struct data_rows *rows, struct sp_error *err) SP_MUST_USE;
void data_rows_deinit(struct data_rows *rows);

/* ---- report ---- */

/* Counts by split, what was left out and why, lengths, duplicates, warnings; a new reference. After
 * data_rows_run, once: it sorts the hashes. */
json_t *data_report(struct data_rows *rows);
/* The examples, with each token's text and whether the loss counts it; a new reference. */
json_t *data_examples(const struct data_rows *rows);

#endif

/* task: an evaluation task: its file, its problems, and what their answers are worth. Definitions
 * are those of lm-evaluation-harness 0.4.13 (Gao et al.), so that figures can be compared:
 *   log-likelihood  of the continuation's tokens, context and continuation encoded together and
 *                   split behind the context's tokens; white space at the context's end goes to the
 *                   continuation (encode.c)
 *   acc, acc_norm, acc_bytes  the choice of the highest log-likelihood, as it is, divided by the
 *                   choice's characters, by its bytes
 *   mc1, mc2        TruthfulQA: the best answer is the likeliest; probability of the right answers
 *   nll_token       minus the target's log-likelihood, divided by its tokens
 *   exact_match     by pattern, as filters `regex` and metric `exact_match` have it
 *   stderr          sample standard deviation divided by the root of n
 *
 * A task never changes after its examples are added; any thread. Nothing blocks, but task_rows_read
 * works through the file that it is given in memory. */
#ifndef SPIN_TASK_TASK_H
#define SPIN_TASK_TASK_H

#include <jansson.h>

#include "common/base/buf.h"
#include "common/task/settings.h"
#include "common/text/tokenizer.h"

#define TASK_MAX_CHOICES 64

struct task;

/* From the text of a task file; `what` names it in messages. */
enum sp_err task_new(const char *text, size_t length, const char *what, struct task **ret,
                     struct sp_error *err) SP_MUST_USE;
void task_free(struct task *task); /* NULL is fine */
const struct task_settings *task_settings_of(const struct task *task);

/* ---- problems ---- */

/* The rows of a dataset in memory, as a JSON array of objects (new reference): JSON Lines, a JSON
 * array or CSV, also compressed (common/text/rows.h). `what` names the file. columns: a JSON array
 * of names, or NULL: a CSV file's first line. Rows of the layouts of LLM-Adapters and of AI2's ARC
 * files become those of the published ARC and Winogrande datasets. At most `limit` rows, 0: all. */
enum sp_err task_rows_read(const char *data, size_t length, const char *what, const json_t *columns,
                           int64_t limit, json_t **ret, struct sp_error *err) SP_MUST_USE;
/* The same with the columns that the task names. */
enum sp_err task_rows(const struct task *task, const char *data, size_t length, const char *what,
                      int64_t limit, json_t **ret, struct sp_error *err) SP_MUST_USE;
/* Keeps the examples for few-shot prompts. */
void task_set_examples(struct task *task, json_t *rows);

/* What a model is asked about one problem. */
struct task_request {
    char *context;
    char *continuation; /* NULL: to be generated */
};
struct task_question {
    struct task_request *requests;
    size_t count;
    bool same_context; /* of all requests */
    json_t *meta;      /* what scoring needs; an object */
};
enum sp_err task_render(const struct task *task, const json_t *row, uint64_t number,
                        struct task_question *ret, struct sp_error *err) SP_MUST_USE;
void task_question_deinit(struct task_question *question);

/* ---- tokens ---- */

struct task_encoder {
    const struct tok_tokenizer *tokenizer;
    int32_t prefix_id;  /* BOS, or EOS where there is none: stands for an empty context */
    char *prefix_text;  /* a text that begins with it gets no second one; "": none */
    int64_t max_tokens; /* context and continuation; contexts lose their beginning above it */
};
/* Context and continuation of a log-likelihood. Appends to both. *ret_cut: tokens of the context
 * that were left out. SP_EFORMAT: nothing is left to score. */
enum sp_err task_encode_pair(const struct task_encoder *encoder, const char *context,
                             const char *continuation, struct tok_ids *ret_context,
                             struct tok_ids *ret_continuation, int64_t *ret_cut,
                             struct sp_error *err) SP_MUST_USE;
/* A context to go on from, with room for max_new tokens. */
enum sp_err task_encode_context(const struct task_encoder *encoder, const char *context,
                                int64_t max_new, struct tok_ids *ret, int64_t *ret_cut,
                                struct sp_error *err) SP_MUST_USE;

/* ---- scores ---- */

/* loglikelihoods[count] of the requests in their order (choice, truthfulqa), or the generated text.
 * *ret: {"metrics": {name: number}, and what it comes from}, a new reference. */
enum sp_err task_score(const struct task *task, const json_t *meta, const double *loglikelihoods,
                       size_t count, const char *text, json_t **ret,
                       struct sp_error *err) SP_MUST_USE;

struct task_mean {
    double value, stderror; /* NaN where n is too small */
    uint64_t n;
};
struct task_mean task_mean(const double *values, size_t n);
/* b − a of paired values: mean and standard error of the differences. */
struct task_mean task_paired(const double *a, const double *b, size_t n);
/* From the items' scores (an array of what task_score gives): {"n", "metrics": {name: {"value",
 * "stderr"}}, "categories": …, "scores": {name: [number by item]}}. New reference. */
json_t *task_summary(const struct task *task, const json_t *items);
/* The metric that stands for the task: acc_norm, mc2, exact_match_strict, …; static. */
const char *task_headline(const struct task *task);

#endif

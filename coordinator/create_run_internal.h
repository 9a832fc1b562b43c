/* create_run_internal: the parts of create-run. One thread: the work thread of one request. */
#ifndef SPIN_COORDINATOR_CREATE_RUN_INTERNAL_H
#define SPIN_COORDINATOR_CREATE_RUN_INTERNAL_H

#include <jansson.h>

#include "common/checkpoint/manifest.h"
#include "common/text/chat.h"
#include "common/text/dataset.h"
#include "coordinator/create_run.h"

/* ---- arguments ---- */

#define CREATE_FILES 3 /* datasets: train, holdout, eval, in the order of enum store_split */

struct create_args {
    json_t *json; /* owned */
    struct run_settings settings;
    struct sp_digest base;
    bool has_data[CREATE_FILES];
    struct sp_digest data[CREATE_FILES]; /* SHA-256 of each one's manifest */
};
enum sp_err create_args_parse(const char *text, struct create_args *ret,
                              struct sp_error *err) SP_MUST_USE;
void create_args_deinit(struct create_args *args);
extern const char *const create_split_names[CREATE_FILES];

/* ---- blobs ---- */

/* A manifest out of the blobs, all of whose chunks are there; `what` is for messages. */
enum sp_err create_manifest(struct ckpt_blobs *blobs, const char *what,
                            const struct sp_digest *sha256, struct ckpt_manifest *ret,
                            struct sp_error *err) SP_MUST_USE;

/* ---- the base model: what text needs of it ---- */

struct create_base {
    struct ckpt_manifest manifest;
    struct tok_tokenizer *tokenizer;
    struct tok_renderer renderer;
    int32_t vocab;         /* of the model: config.json */
    int64_t max_positions; /* max_position_embeddings */
    int32_t *stop_ids;     /* the response's end token first; owned */
    size_t stop_count;
};
/* Puts everything but weights into `dir` (made here) and loads it. */
enum sp_err create_base_load(struct ckpt_blobs *blobs, const struct create_args *args,
                             const char *dir, struct create_base *ret,
                             struct sp_error *err) SP_MUST_USE;
void create_base_deinit(struct create_base *base);

/* ---- rows ---- */

struct create_counts {
    uint64_t rows, used, overlong, empty,
        limited;                   /* limited: behind train_limit, holdout_limit … */
    uint64_t answers_over_max_new; /* used rows whose answer is longer than max_new_tokens */
    uint64_t prompt_tokens, response_tokens, prompt_max, response_max;
    uint32_t *response_lengths; /* histogram [SP_MAX_SEQUENCE_TOKENS + 2]; owned */
    uint64_t *prompt_hashes;    /* by used row; owned */
    size_t hash_capacity;
};

struct create_rows {
    const struct coord_create_run *request;
    const struct create_args *args;
    const struct create_base *base;
    struct store_builder *builder;
    char *paths[CREATE_FILES]; /* the datasets on disk; owned; NULL: none */
    char *names[CREATE_FILES]; /* as the user calls them; owned */
    int64_t limit_tokens;      /* prompt and answer together: setting and model */
    struct create_counts counts[STORE_SPLITS];
    const char *format; /* of the training file; static */
};
/* Reads, renders and stores every split. */
enum sp_err create_rows_run(struct create_rows *rows, struct sp_error *err) SP_MUST_USE;
void create_rows_deinit(struct create_rows *rows);

/* ---- report ---- */

/* New reference: what is stored as the run's `data` and printed by spinctl. */
json_t *create_report(const struct create_rows *rows);

#endif

/* query_internal: what the files of admin_query share. */
#ifndef SPIN_COORDINATOR_QUERY_INTERNAL_H
#define SPIN_COORDINATOR_QUERY_INTERNAL_H

#include "common/text/tokenizer.h"
#include "coordinator/admin_query.h"
#include "proto/plan.h"
#include "proto/run_settings.h"

#define QUERY_TOKENIZERS 4 /* kept loaded */
#define QUERY_MATCHES 256  /* exact matches of closed iterations, remembered */

struct query_match {
    struct sp_digest run; /* of its name and data */
    uint32_t iteration, set;
    uint64_t attempt, correct, count;
};

struct coord_query {
    struct store *store;
    struct ckpt_blobs *blobs;
    struct sp_arena *arena; /* of one request */
    struct {
        struct sp_digest manifest;
        struct tok_tokenizer *tokenizer;
    } tokenizers[QUERY_TOKENIZERS]; /* next_tokenizer is replaced next */
    size_t tokenizer_count, next_tokenizer;
    struct query_match *matches; /* [QUERY_MATCHES] ring */
    size_t match_count, next_match;
};

/* One request. */
struct query {
    struct coord_query *all;
    const char *run_name;       /* "" for none */
    struct store_run *run;      /* NULL for none */
    const json_t *args;         /* an object */
    struct store_run_info info; /* where the verb works on a run */
};

/* ---- arguments ---- */

enum sp_err query_arg_i64(const struct query *q, const char *key, int64_t min, int64_t max,
                          int64_t *ret, struct sp_error *err) SP_MUST_USE;
/* "iteration", or the newest; SP_ENOTFOUND when there is none. */
enum sp_err query_iteration(const struct query *q, struct store_iteration *ret,
                            struct sp_error *err) SP_MUST_USE;

/* ---- JSON ---- */

json_t *query_real(double value);                    /* null unless finite */
json_t *query_hex(const struct sp_digest *digest);   /* null for zero */
json_t *query_text(const char *text, size_t length); /* whatever the bytes */
json_t *query_parsed(const char *text); /* the document in a stored text; null when it is none */
json_t *query_time(int64_t wall_ms);    /* null for 0 */
enum sp_err query_settings(const struct store_run_info *info, struct run_settings *ret,
                           struct sp_error *err) SP_MUST_USE; /* sp_config_deinit in any case */

/* ---- text ---- */

/* Borrowed until the next call; NULL (SP_OK) when the blobs are not given. */
enum sp_err query_tokenizer(struct coord_query *query, const struct sp_digest *base_manifest,
                            const struct tok_tokenizer **ret, struct sp_error *err) SP_MUST_USE;
/* Text of ids; null without a tokenizer, or for an id that it does not know. */
json_t *query_decoded(const struct tok_tokenizer *tokenizer, const struct proto_ids *ids,
                      unsigned flags);

/* ---- verbs ---- */

typedef enum sp_err query_verb(struct query *q, json_t **ret, struct sp_error *err);
query_verb query_iterations, query_pairs, query_timeline, query_checkpoints, query_checkpoint;
query_verb query_evaluations, query_evaluation, query_evaluation_items, query_evaluation_compare;

#endif

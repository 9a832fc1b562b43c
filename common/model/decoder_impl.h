/* decoder_impl: the inside of struct model_decoder, for decoder.c and decoder_step.c.
 *
 *     free → waiting → active (prompt → answer 0 → answer 1 → sampling) → finished → taken → free
 *
 * The answers to score and the sampled one share the cache positions behind the prompt: each phase
 * overwrites what the one before left there.
 *
 * A slot's cache keeps the prompt of its last request until the next one overwrites it. A request
 * whose prompt begins like that of some slot copies those positions instead of running them
 * (decoder_slots.c): keys and values are a function of the tokens up to them, whoever computed
 * them. */
#ifndef SPIN_MODEL_DECODER_IMPL_H
#define SPIN_MODEL_DECODER_IMPL_H

#include "common/model/decoder.h"
#include "common/model/parts.h"

/* Rows whose logits exist at once: few enough to stay in a CPU's cache, and on a device so many
 * that a step's seldom are more. */
#define DECODER_LOGIT_ROWS 64
#define DECODER_LOGIT_ROWS_DEVICE 256
/* Rows of prompts and given answers in a step beside slots that sample: for each of those, and of
 * all at least. */
#define DECODER_GIVEN_EACH 2
#define DECODER_GIVEN_LEAST 32

/* Buffers of a record: prompt, two answers, response; log-probabilities of the last three. */
#define DECODER_ID_BUFFERS 4
#define DECODER_LOGPROB_BUFFERS 3

/* A request with its buffers, max_positions elements each. */
struct decoder_record {
    struct model_decoder_request request; /* its pointers are ours */
    int32_t *prompt, *answers[MODEL_DECODER_ANSWERS], *response;
    float *answer_logprobs[MODEL_DECODER_ANSWERS], *response_logprobs;
    int32_t prompt_done; /* rows of the prompt that were run */
    int32_t branch;      /* answer being scored; MODEL_DECODER_ANSWERS: sampling */
    int32_t branch_done; /* rows of it that were run */
    int32_t n_response;
    enum model_finish finish;
};

/* A row of the batch whose logits are needed. */
struct decoder_logit_row {
    int32_t row;
    struct decoder_record *record;
    bool sample;
    int32_t n_scores; /* answers that this row predicts a token of */
    struct {
        int32_t answer, index;
    } scores[MODEL_DECODER_ANSWERS];
};

struct decoder_layer {
    struct tn_weights *qkv, *out, *gate_up, *down;
    /* In the vectors' block; norms as they multiply; NULL: the model has none. */
    float *norm1, *norm2, *norm1_bias, *norm2_bias, *post1, *post2, *q_norm, *k_norm;
    float *qkv_bias, *out_bias, *gate_up_bias, *down_bias;
};

/* A sequence's place in the cache. */
struct decoder_slot {
    int32_t record;   /* or -1 */
    int32_t *prompt;  /* ids of the prompt whose keys and values it holds (max_positions) */
    int32_t n_prompt; /* of them planned */
    int32_t cached;   /* of them in the cache when the step that runs is done */
    int32_t donor;    /* slot that is still computing what this one waits for, or -1 */
    int32_t shared;   /* positions to copy from it */
};

/* Indices of records, first in, first out. */
struct decoder_ring {
    int32_t *items;
    int32_t first, count, capacity;
};

struct model_decoder {
    struct tn_backend *backend;
    struct model_config config;
    struct model_decoder_options options; /* defaults filled in */
    struct model *model;                  /* whose parameters are used where they lie, or NULL */
    bool broken;                          /* logits were not finite */
    /* weights */
    void *embed;    /* (V, D), parameters */
    void *places;   /* (max_positions, D) learned positions, or NULL */
    float *vectors; /* all norms and biases */
    float *final_norm, *final_bias;
    struct decoder_layer *layers;
    struct tn_weights *head;
    struct tn_kv_cache *cache;
    /* activations, rows_per_step rows, one block */
    void *block;
    void *x, *norm, *qkv, *att, *mid, *gu, *half;
    float *rstd;
    void *head_x, *head_norm; /* logit_rows rows */
    float *logits;
    float *rope[MODEL_ROPE_TABLES];
    int32_t logit_rows;
    /* the batch of a step, host */
    int32_t n_rows;
    int32_t next_given; /* slot whose given rows come first in the next step */
    int32_t *ids, *positions;
    struct tn_cache_row *cache_rows;
    struct decoder_logit_row *samples; /* (slots): rows to sample from, some also score */
    struct decoder_logit_row *scores;  /* (rows_per_step) */
    int32_t n_samples, n_scores;
    /* of one block of logits */
    int32_t *gather, *drawn; /* (logit_rows) */
    float *lse;              /* (logit_rows) */
    struct tn_sample_params *params;
    struct tn_sample_key *keys;
    struct tn_target *targets; /* (3 × logit_rows) */
    float *logprobs, *drawn_logprobs;
    float **sinks; /* where each log-probability goes */
    /* requests */
    struct decoder_record *records;
    int32_t n_records;
    int32_t *record_ids;        /* one block of all id buffers */
    float *record_logprobs;     /* and of all log-probability buffers */
    struct decoder_slot *slots; /* (options.slots) */
    int32_t *slot_ids;          /* one block of their prompts */
    struct decoder_ring free, waiting, finished;
    int32_t taken; /* record whose result the caller looks at, or -1 */
    struct model_decoder_stats stats;
};

#define DECODER_ROUNDING 64 /* bytes that parts of the block begin at multiples of */

/* No copy of parameters is made. */
bool decoder_keeps_model(const struct model_decoder_options *options);
/* Defaults filled in, and checked. */
enum sp_err decoder_fill_options(const struct model_config *config,
                                 struct model_decoder_options *options, struct sp_error *err);
int32_t decoder_logit_rows(const struct model_decoder_options *options);
size_t decoder_block_bytes(const struct model_config *config,
                           const struct model_decoder_options *options);
/* Gives waiting requests to free slots, and to those in slots what others have of their prompts. */
void decoder_admit(struct model_decoder *d);
/* The slot's request is done: what it cached behind its prompt is forgotten. */
void decoder_leave_slot(struct model_decoder *d, int32_t s);
/* The record of slot s, or NULL. */
static inline struct decoder_record *decoder_slot_record(const struct model_decoder *d, int32_t s)
{
    return d->slots[s].record >= 0 ? &d->records[d->slots[s].record] : NULL;
}
/* Moves a record past everything that is done; true when the whole request is. */
bool decoder_advance(struct decoder_record *record);
void decoder_push(struct decoder_ring *ring, int32_t item);
int32_t decoder_pop(struct decoder_ring *ring); /* -1: empty */

#endif

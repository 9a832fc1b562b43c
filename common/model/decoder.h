/* decoder: answers prompts and scores given answers with a KV cache and continuous batching.
 *
 * A request names a prompt, up to two given answers to score, and whether to sample an answer. All
 * of it happens in one slot: the prompt is run once, the answers after it, then the sampled one.
 * Each model_decoder_step is one pass over a batch that holds one row of every slot that is
 * sampling and, up to rows_per_step, rows of prompts and given answers, of which there are only
 * some for each slot that is sampling, so that new prompts don't hold up what runs; a slot that
 * falls free is filled at once from the queue. What a prompt has in common with one that a slot has
 * run (a system prompt, examples, the same prompt sampled twice) is copied from there, not run
 * again.
 *
 * Bits: a request's result is a function of the weights, the request and the dtypes alone. It
 * doesn't depend on what else is in the batch, on slots, on rows_per_step or on threads. Draw i of
 * a response has the key (seed, iteration, prompt, sample, i). With fp32 weights and cache the
 * log-probabilities are those of model_forward, bit for bit.
 *
 * One compute thread. Everything is allocated in model_decoder_new. */
#ifndef SPIN_MODEL_DECODER_H
#define SPIN_MODEL_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/config.h"
#include "common/model/model.h"
#include "common/tensor/backend.h"

struct model_decoder;

struct model_decoder_options {
    int32_t slots;         /* sequences decoded at once, 1 … SP_MAX_SLOTS */
    int32_t queue;         /* requests that wait beyond the slots */
    int32_t max_positions; /* of a prompt and its longest answer; 0: the model's */
    int32_t rows_per_step; /* at least slots; 0: a default */
    enum tn_dtype weights; /* TN_F32 or TN_BF16 */
    enum tn_dtype cache;   /* TN_F32 or TN_BF16 */
    /* TN_F32, or TN_BF16 with such weights: rows are rounded before each product with weights. */
    enum tn_dtype activations;
    /* As the backend stores parameters and activations (model_decoder_new asks it): with bf16
     * activations decode weights and cache are bf16, too. */
    enum tn_dtype stored_weights, stored_activations;
    bool on_device; /* its has_memory, likewise */
    /* That all slots together can cache, where on_device with bf16 activations; 0: all of them at
     * once. Requests wait until there is room for their longest end. */
    int64_t cache_positions;
    /* The model becomes the decoder's, also when that can't be made, and is freed by it: at once,
     * or, where parameters are stored as decode weights are, at its end, because no copy is made
     * then. */
    bool takes_model;
};

#define MODEL_DECODER_ANSWERS 2

struct model_decoder_request {
    void *user;            /* given back in the result */
    const int32_t *prompt; /* ids, copied; at least one */
    int32_t n_prompt;
    const int32_t *answers[MODEL_DECODER_ANSWERS]; /* to score: ids, copied; NULL: none */
    int32_t n_answers[MODEL_DECODER_ANSWERS];      /* tokens of each */
    bool generate;                                 /* sample an answer */
    int32_t max_new_tokens;                        /* at least 1 when generate */
    struct tn_sample_params params;
    uint64_t seed; /* with the next three: the key of the draws */
    uint32_t iteration, prompt_key, sample_key;
    int32_t eos_ids[MODEL_MAX_EOS]; /* ids that end the response */
    int32_t n_eos;
    bool token_logprobs; /* also give them token by token */
};

enum model_finish { MODEL_FINISH_NONE = 0, MODEL_FINISH_STOP = 1, MODEL_FINISH_LENGTH = 2 };

struct model_decoder_score {
    float logprob;               /* model_sum_logprobs of its tokens, unmodified distribution */
    const float *token_logprobs; /* (n), or NULL when not asked for */
    int32_t n;                   /* 0: there was none */
};

/* Pointers stay valid until the next call of model_decoder_take_result or model_decoder_reset. */
struct model_decoder_result {
    void *user;
    const int32_t *ids; /* the response; ends with its end token when finish is stop, and has
                         * none when it was cut (length) */
    int32_t n_ids;
    enum model_finish finish; /* none: nothing was sampled */
    struct model_decoder_score response;
    struct model_decoder_score answers[MODEL_DECODER_ANSWERS];
};

struct model_decoder_stats {
    uint64_t steps;
    uint64_t prefill_rows; /* rows of prompts and given answers that were run */
    uint64_t shared_rows;  /* rows of prompts that were copied from another slot instead */
    uint64_t sampled_tokens;
    int32_t active;   /* slots in use */
    int32_t waiting;  /* requests without a slot */
    int32_t finished; /* results not yet taken */
};

/* Bytes that model_decoder_new takes, for the plan that is printed before; pure. */
enum sp_err model_decoder_bytes(const struct model_config *config,
                                const struct model_decoder_options *options, size_t *ret,
                                struct sp_error *err) SP_MUST_USE;
/* Limits cache_positions, where that can be; then halves the slots, and the queue with them, until
 * that is at most `room` bytes; one slot may still take more. Pure. */
enum sp_err model_decoder_fit(const struct model_config *config, size_t room,
                              struct model_decoder_options *options,
                              struct sp_error *err) SP_MUST_USE;
/* Copies what it needs of the model, which may be freed (or trained) afterwards, unless the options
 * say takes_model. */
enum sp_err model_decoder_new(struct model *model, const struct model_decoder_options *options,
                              struct model_decoder **ret, struct sp_error *err) SP_MUST_USE;
void model_decoder_free(struct model_decoder *decoder); /* NULL is fine */

/* Requests that can be submitted now. Results not yet taken count against it. */
int32_t model_decoder_room(const struct model_decoder *decoder);
/* SP_EUNAVAIL when there is no room, SP_ELIMIT when prompt and answer exceed max_positions,
 * SP_EINVAL for ids out of range and other nonsense; nothing is queued then. */
enum sp_err model_decoder_submit(struct model_decoder *decoder,
                                 const struct model_decoder_request *request,
                                 struct sp_error *err) SP_MUST_USE;
/* One pass; *ret_idle becomes true when there was nothing to do. SP_ENUMERIC when logits are not
 * finite: the weights are unusable; the decoder can only be reset or freed then. */
enum sp_err model_decoder_step(struct model_decoder *decoder, bool *ret_idle,
                               struct sp_error *err) SP_MUST_USE;
/* The next finished request, in order of completion; false: none. */
bool model_decoder_take_result(struct model_decoder *decoder, struct model_decoder_result *ret);
/* For display while it is made: what was sampled so far for the request with this `user` that has a
 * slot. Their number, and the ids, valid until the next call of model_decoder_step; 0 when there is
 * no such request, or nothing yet. */
int32_t model_decoder_partial(const struct model_decoder *decoder, const void *user,
                              const int32_t **ret_ids);
/* Drops all requests and results (a lease was lost, the generator pauses). */
void model_decoder_reset(struct model_decoder *decoder);
void model_decoder_get_stats(const struct model_decoder *decoder, struct model_decoder_stats *ret);

#endif

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/model/decoder.h"
#include "generator/generator.h"

#define HOLDOUT_DRAWS 0x80000000u
#define EVAL_DRAWS 0x40000000u

uint32_t gen_draw_prompt(uint32_t set, uint32_t prompt)
{
    switch (set) {
    case PROTO_SET_HOLDOUT:
    case PROTO_SET_HOLDOUT_PLAYER:
        return prompt + HOLDOUT_DRAWS;
    case PROTO_SET_EVAL_GREEDY:
    case PROTO_SET_EVAL_SAMPLED:
    case PROTO_SET_BASE_GREEDY:
    case PROTO_SET_BASE_SAMPLED:
        return prompt + EVAL_DRAWS;
    default:
        return prompt;
    }
}

static void set_answer(struct model_decoder_request *request, int which,
                       const struct proto_ids *ids)
{
    if (ids->count == 0)
        return;
    request->answers[which] = ids->ids;
    request->n_answers[which] = (int32_t)ids->count;
}

enum sp_err gen_make_request(const struct gen_task *task, int32_t max_positions,
                             struct model_decoder_request *ret, struct sp_error *err)
{
    const struct proto_lease_reply *grant = &task->lease->grant;
    const struct proto_work_item *item = task->item;
    bool sample = item->kind == PROTO_WORK_SAMPLE;
    int64_t prompt = item->prompt_ids.count;
    int64_t answer = SP_MAX(item->answer_a.count, item->answer_b.count);
    if (prompt + SP_MAX(answer, sample ? 1 : 0) > max_positions)
        return sp_fail(err, SP_ELIMIT,
                       "prompt %u of set %u: %lld tokens of prompt and %lld of answer, the model "
                       "has %d positions: lower [data] max_sequence_tokens of the run",
                       item->prompt, item->set, (long long)prompt, (long long)answer,
                       max_positions);
    struct model_decoder_request request = {
        .user = (void *)(uintptr_t)task,
        .prompt = item->prompt_ids.ids,
        .n_prompt = (int32_t)prompt,
        .generate = sample,
        .params = {.temperature = item->greedy ? 0.0f : grant->temperature,
                   .top_k = item->greedy ? 0 : grant->top_k,
                   .top_p = item->greedy ? 1.0f : grant->top_p},
        .seed = grant->seed,
        .iteration = item->key_iteration,
        .prompt_key = gen_draw_prompt(item->set, item->prompt),
        .sample_key = item->sample,
        .n_eos = (int32_t)grant->stop_ids.count,
    };
    /* Near the end of the positions an answer is cut earlier, by the weights' shape alone. */
    if (sample)
        request.max_new_tokens = (int32_t)SP_MIN(grant->max_new_tokens, max_positions - prompt);
    memcpy(request.eos_ids, grant->stop_ids.ids, grant->stop_ids.count * sizeof(int32_t));
    set_answer(&request, 0, &item->answer_a);
    set_answer(&request, 1, &item->answer_b);
    *ret = request;
    return SP_OK;
}

struct gen_out *gen_make_notice(enum gen_out_kind kind, uint64_t lease_id, const char *failure)
{
    size_t bytes = strlen(failure) + 1;
    struct gen_out *out = sp_xalloc(sizeof(*out) + bytes);
    out->failure = memcpy(out->ids, failure, bytes);
    out->kind = kind;
    out->lease_id = lease_id;
    out->since_ms = sp_now_ms();
    return out;
}

static uint32_t finish_on_wire(enum model_finish finish)
{
    switch (finish) {
    case MODEL_FINISH_STOP:
        return PROTO_FINISH_STOP;
    case MODEL_FINISH_LENGTH:
        return PROTO_FINISH_LENGTH;
    default:
        return PROTO_FINISH_NONE;
    }
}

static float score_or_nan(const struct model_decoder_score *score)
{
    return score->n > 0 ? score->logprob : nanf("");
}

struct gen_out *gen_make_result(const struct gen_task *task,
                                const struct model_decoder_result *result)
{
    const struct proto_lease_reply *grant = &task->lease->grant;
    size_t ids_bytes = (size_t)result->n_ids * sizeof(int32_t);
    struct gen_out *out = sp_xalloc(sizeof(*out) + ids_bytes);
    out->kind = GEN_OUT_RESULT;
    out->lease_id = grant->lease_id;
    out->since_ms = sp_now_ms();
    snprintf(out->run, sizeof(out->run), "%s", grant->run);
    out->iteration = grant->iteration;
    out->checkpoint = grant->checkpoint;
    out->born = grant->born;
    if (ids_bytes > 0)
        memcpy(out->ids, result->ids, ids_bytes);
    out->result = (struct proto_work_result){
        .set = task->item->set,
        .position = task->item->position,
        .prompt = task->item->prompt,
        .sample = task->item->sample,
        .ids = {.ids = out->ids, .count = (uint32_t)result->n_ids},
        .finish = finish_on_wire(result->finish),
        .logprob_ids = score_or_nan(&result->response),
        .logprob_a = score_or_nan(&result->answers[0]),
        .logprob_b = score_or_nan(&result->answers[1]),
    };
    return out;
}

#include "tests/bench/clients/answers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

#define POOL 61 /* different answers */
/* Stand in the prototype where numbers are patched in; each takes its full width on the wire. */
#define MARK_POSITION 0x7172737475767778u
#define MARK_PROMPT 0x61626364u
#define MARK_SAMPLE 0x51525354u

struct answers {
    const char *token;
    uint32_t tokens;
    int32_t *ids;     /* [POOL][tokens] */
    uint8_t *results; /* [POOL][result_bytes] encoded work_results */
    size_t result_bytes;
    size_t at_position, at_prompt, at_sample; /* in a result */
    struct sp_buf head; /* of the newest submission: what stands before its results */
};

static float logprob(uint64_t position)
{
    return -1.0f - (float)(position % POOL);
}

static void encode(const struct answers *answers, const struct answers_head *head,
                   struct proto_work_result *results, uint32_t count, struct sp_buf *out)
{
    const struct proto_submit submit = {
        .worker_id = head->worker_id,
        .run = head->run,
        .iteration = head->iteration,
        .lease_id = head->lease_id,
        .checkpoint = head->checkpoint,
        .results = results,
        .results_count = count,
    };
    const struct proto_envelope envelope = {.version = PROTO_VERSION,
                                            .type = PROTO_SUBMIT,
                                            .request_id = head->request_id,
                                            .token = answers->token};
    proto_encode(&envelope, &submit, out);
}

static struct proto_work_result result_of(const struct answers *answers, uint32_t kind)
{
    return (struct proto_work_result){
        .position = MARK_POSITION,
        .prompt = MARK_PROMPT,
        .sample = MARK_SAMPLE,
        .ids = {.ids = answers->ids + (size_t)kind * answers->tokens, .count = answers->tokens},
        .finish = PROTO_FINISH_LENGTH,
        .logprob_ids = logprob(kind),
        .logprob_a = logprob(kind) - 1,
    };
}

/* Where the only occurrence of a number of that many bytes is. */
static size_t find(const uint8_t *data, size_t length, uint64_t mark, size_t bytes)
{
    uint8_t want[8];
    for (size_t i = 0; i < bytes; i++)
        want[i] = (uint8_t)(mark >> (8 * (bytes - 1 - i)));
    const uint8_t *at = memmem(data, length, want, bytes);
    SP_ASSERT(at != NULL);
    return (size_t)(at - data);
}

/* What one result more adds to a message is the result. */
static void make_results(struct answers *answers)
{
    struct answers_head head = {.request_id = 1, .worker_id = 1, .lease_id = 1, .run = "r"};
    for (uint32_t kind = 0; kind < POOL; kind++) {
        struct sp_buf one = SP_BUF_INIT, two = SP_BUF_INIT;
        struct proto_work_result results[2] = {result_of(answers, kind), result_of(answers, kind)};
        encode(answers, &head, results, 1, &one);
        encode(answers, &head, results, 2, &two);
        size_t bytes = two.length - one.length;
        if (answers->results == NULL) {
            answers->result_bytes = bytes;
            answers->results = sp_xarray(POOL, bytes);
        }
        SP_ASSERT(bytes == answers->result_bytes);
        uint8_t *result = answers->results + kind * bytes;
        memcpy(result, two.data + two.length - bytes, bytes);
        answers->at_position = find(result, bytes, MARK_POSITION, 8);
        answers->at_prompt = find(result, bytes, MARK_PROMPT, 4);
        answers->at_sample = find(result, bytes, MARK_SAMPLE, 4);
        sp_buf_deinit(&one);
        sp_buf_deinit(&two);
    }
}

static void check(struct answers *answers)
{
    struct answers_head head = {.request_id = 9, .worker_id = 1u << 20, .lease_id = 5, .run = "r"};
    struct answers_key keys[ANSWERS_MAX];
    struct sp_arena *arena = sp_arena_new(1 << 20, 64 << 20);
    struct proto_envelope envelope;
    struct sp_error err = {0};
    void *body = NULL;
    for (uint32_t i = 0; i < ANSWERS_MAX; i++)
        keys[i] = (struct answers_key){.position = i * 977u, .prompt = i * 3, .sample = i % 5};
    size_t bytes = answers_begin(answers, &head, ANSWERS_MAX);
    uint8_t *message = sp_xalloc(bytes);
    answers_write(answers, keys, ANSWERS_MAX, message);
    enum sp_err rc = proto_decode(message, bytes, arena, &envelope, &body, &err);
    const struct proto_submit *submit = body;
    bool good = rc == SP_OK && submit->results_count == ANSWERS_MAX;
    for (uint32_t i = 0; good && i < ANSWERS_MAX; i++) {
        const struct proto_work_result *result = &submit->results[i];
        struct proto_ids ids;
        answers_ids(answers, keys[i].position, &ids);
        good = result->position == keys[i].position && result->prompt == keys[i].prompt &&
               result->sample == keys[i].sample && result->ids.count == ids.count &&
               memcmp(result->ids.ids, ids.ids, ids.count * sizeof(*ids.ids)) == 0;
    }
    if (!good) {
        fprintf(stderr, "bench_clients: a submission is not what was meant: %s\n", err.text);
        exit(1);
    }
    sp_arena_free(arena);
    free(message);
}

struct answers *answers_new(const char *token, uint32_t tokens, uint32_t vocab)
{
    struct answers *answers = sp_xalloc(sizeof(*answers));
    answers->token = token;
    answers->tokens = tokens;
    answers->ids = sp_xarray((size_t)POOL * tokens, sizeof(*answers->ids));
    for (uint32_t i = 0; i < POOL * tokens; i++)
        answers->ids[i] = (int32_t)sp_rng_below(1, SP_STREAM_TEST, 0, 0, 0, i, vocab);
    make_results(answers);
    check(answers);
    return answers;
}

void answers_free(struct answers *answers)
{
    if (answers == NULL)
        return;
    sp_buf_deinit(&answers->head);
    free(answers->results);
    free(answers->ids);
    free(answers);
}

void answers_ids(const struct answers *answers, uint64_t position, struct proto_ids *ret)
{
    *ret = (struct proto_ids){.ids = answers->ids + (size_t)(position % POOL) * answers->tokens,
                              .count = answers->tokens};
}

/* ---- messages ---- */

#define ARRAY_BYTES 3 /* array 16 and its count */

size_t answers_begin(struct answers *answers, const struct answers_head *head, uint32_t count)
{
    SP_ASSERT(count > 0 && count <= ANSWERS_MAX);
    struct proto_work_result one = result_of(answers, 0);
    sp_buf_clear(&answers->head);
    encode(answers, head, &one, 1, &answers->head);
    answers->head.length -= answers->result_bytes + 1; /* the result, and an array of one */
    return answers->head.length + ARRAY_BYTES + count * answers->result_bytes;
}

static void patch(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
}

void answers_write(const struct answers *answers, const struct answers_key *keys, uint32_t count,
                   uint8_t *ret)
{
    size_t bytes = answers->result_bytes;
    memcpy(ret, answers->head.data, answers->head.length);
    ret += answers->head.length;
    ret[0] = 0xdc;
    patch(ret + 1, count, 2);
    ret += ARRAY_BYTES;
    for (uint32_t i = 0; i < count; i++, ret += bytes) {
        memcpy(ret, answers->results + (keys[i].position % POOL) * bytes, bytes);
        patch(ret + answers->at_position, keys[i].position, 8);
        patch(ret + answers->at_prompt, keys[i].prompt, 4);
        patch(ret + answers->at_sample, keys[i].sample, 4);
    }
}

/* decoder_cases: a varied set of requests for tests of the decoder, and a tiny model to ask. */
#ifndef SPIN_TESTS_DECODER_CASES_H
#define SPIN_TESTS_DECODER_CASES_H

#include "common/model/decoder.h"
#include "tests/unit/model/fixtures.h"

static struct tn_backend *cpu;

static void setup(void)
{
    cpu = open_cpu(2);
}

static void teardown(void)
{
    tn_close(cpu);
}

static struct model *new_model(bool tied)
{
    struct model_config config = odd_config(tied);
    struct model *m = NULL;
    ck_ok(model_new(cpu, &config, 21, &m, err));
    return m;
}

/* Request i of a varied set; buffers belong to the caller. */
struct ids {
    int32_t prompt[40], answers[2][40];
};

static struct model_decoder_request request(uint32_t i, struct ids *ids)
{
    static const struct tn_sample_params params[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.7f, .top_k = 5, .top_p = 1},
        {.temperature = 0, .top_p = 1},
        {.temperature = 1.3f, .top_p = 0.8f},
    };
    struct model_decoder_request r = {
        .user = (void *)(uintptr_t)(i + 1),
        .prompt = ids->prompt,
        .n_prompt = 1 + (int32_t)random_below(1, i, 30),
        .generate = i % 5 != 4,
        .max_new_tokens = 1 + (int32_t)random_below(2, i, 40),
        .params = params[i % 4],
        .seed = 99,
        .iteration = 2,
        .prompt_key = i / 2,
        .sample_key = i % 2,
        .eos_ids = {2, 7},
        .n_eos = 2,
        .token_logprobs = true,
    };
    random_ids(100 + i / 2, 53, r.n_prompt, ids->prompt);
    for (uint32_t a = 0; a < 2; a++) {
        if (i % 3 == a && i % 5 != 4)
            continue;
        r.n_answers[a] = 1 + (int32_t)random_below(3 + a, i, 30);
        r.answers[a] = ids->answers[a];
        random_ids(200 + 2 * i + a, 53, r.n_answers[a], ids->answers[a]);
    }
    return r;
}

#endif

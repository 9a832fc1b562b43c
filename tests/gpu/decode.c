/* A decoder on the backend "cuda": its steps are passes that a device repeats by graphs, and what
 * comes of them is what comes of steps done call by call. The device is linked into this program.
 * Prints TAP. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/decoder.h"
#include "common/tensor/cuda/cuda.h"
#include "common/tensor/module.h"

extern const struct tn_module spin_tensor_module;

enum { REQUESTS = 12, SLOTS = 4, NEW = 40, PROMPT = 70 };

static int tests, failures;

static void check(bool ok, const char *what)
{
    failures += !ok;
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
}

static void must(enum sp_err rc, const struct sp_error *err)
{
    if (rc == SP_OK)
        return;
    fprintf(stderr, "gpu_decode: %s\n", err->text);
    exit(1);
}

struct outcome {
    int32_t ids[NEW];
    float logprobs[NEW];
};

/* All requests with a model of random weights; how many of its steps were repeated. */
static struct device_pass_counts decode(struct outcome outcomes[REQUESTS], bool plain_passes,
                                        int64_t positions)
{
    static const char shape[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 97, \"hidden_size\": 48,"
        " \"intermediate_size\": 80, \"num_hidden_layers\": 3, \"num_attention_heads\": 6,"
        " \"num_key_value_heads\": 2, \"head_dim\": 16, \"max_position_embeddings\": 256,"
        " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000, \"initializer_range\": 0.3}";
    struct sp_error err = {0};
    struct tn_backend *b;
    struct model_config config;
    struct model *m;
    struct model_decoder *d;
    struct model_decoder_result result;
    struct model_decoder_options o = {
        .slots = SLOTS, .queue = REQUESTS, .max_positions = 128, .cache_positions = positions};
    bool idle = false;
    must(spin_tensor_module.open("cuda", NULL, &b, &err), &err);
    if (plain_passes)
        device_hold_passes(tn_cuda_of(b)->device, false);
    json_t *json = json_loads(shape, 0, NULL);
    must(model_config_parse(json, NULL, "shape", &config, &err), &err);
    json_decref(json);
    must(model_new(b, &config, 5, &m, &err), &err);
    must(model_decoder_new(m, &o, &d, &err), &err);
    model_free(m);
    for (uintptr_t i = 0; i < REQUESTS; i++) {
        int32_t prompt[PROMPT];
        for (int32_t j = 0; j < PROMPT; j++)
            prompt[j] = (int32_t)((i % 3 * 31 + (uintptr_t)j * 7 + i * i * (j > 40)) % 97);
        struct model_decoder_request r = {.user = (void *)i,
                                          .prompt = prompt,
                                          .n_prompt = PROMPT,
                                          .generate = true,
                                          .max_new_tokens = NEW,
                                          .params = {.temperature = 1, .top_p = 1},
                                          .seed = 3,
                                          .prompt_key = (uint32_t)i,
                                          .token_logprobs = true};
        must(model_decoder_submit(d, &r, &err), &err);
    }
    while (!idle)
        must(model_decoder_step(d, &idle, &err), &err);
    while (model_decoder_take_result(d, &result)) {
        struct outcome *to = &outcomes[(uintptr_t)result.user];
        SP_ASSERT(result.n_ids == NEW);
        memcpy(to->ids, result.ids, sizeof(to->ids));
        memcpy(to->logprobs, result.response.token_logprobs, sizeof(to->logprobs));
    }
    struct device_pass_counts counts = device_pass_counts(tn_cuda_of(b)->device);
    model_decoder_free(d);
    tn_close(b);
    return counts;
}

int main(void)
{
    static struct outcome held[REQUESTS], at_once[REQUESTS], short_of_room[REQUESTS];
    struct device_pass_counts counts = decode(held, false, 0), none = decode(at_once, true, 0);
    printf("# %llu steps repeated, %llu issued, %llu broken\n", (unsigned long long)counts.repeated,
           (unsigned long long)counts.issued, (unsigned long long)counts.broken);
    check(counts.repeated > 2 * (counts.issued + counts.broken), "most steps are repeated");
    check(none.repeated + none.issued == 0, "or done at once");
    check(memcmp(held, at_once, sizeof(held)) == 0, "with the same answers");
    (void)decode(short_of_room, false, 256);
    check(memcmp(held, short_of_room, sizeof(held)) == 0,
          "which they also are with a cache for two requests at a time");
    printf("1..%d\n", tests);
    return failures ? 1 : 0;
}

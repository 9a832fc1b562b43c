/* spin-model from outside: arguments and standard input in, output and exit status out. */
#include <math.h>
#include <sys/wait.h>

#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/checkpoint/hf_dir.h"
#include "tests/unit/checkpoint/scratch.h"

static struct sp_error error;
static char *dir;

struct outcome {
    int status;
    char *out, *errors;
};

/* Runs `spin-model ARGUMENTS < input`, through the shell; `input` may be NULL. */
static struct outcome tool_run(const char *arguments, const char *input, size_t length)
{
    struct outcome outcome;
    put_file(dir, ".in", input ? input : "", input ? length : 0);
    char *command = sp_xprintf("cd %s && " SPIN_MODEL " %s < .in > .out 2> .err", dir, arguments);
    int status = system(command);
    ck_assert(WIFEXITED(status));
    outcome.status = WEXITSTATUS(status);
    outcome.out = get_text(dir, ".out");
    outcome.errors = get_text(dir, ".err");
    free(command);
    return outcome;
}

static void outcome_free(struct outcome *outcome)
{
    free(outcome->out);
    free(outcome->errors);
}

static void expect_failure(const char *arguments, const char *input, int status, const char *part)
{
    struct outcome o = tool_run(arguments, input, input ? strlen(input) : 0);
    ck_assert_msg(o.status == status, "%s: status %d, not %d: %s", arguments, o.status, status,
                  o.errors);
    ck_assert_msg(strstr(o.errors, part) != NULL, "%s: \"%s\" lacks \"%s\"", arguments, o.errors,
                  part);
    ck_assert_str_eq(o.out, "");
    outcome_free(&o);
}

static char *expect_output(const char *arguments, const char *input)
{
    struct outcome o = tool_run(arguments, input, input ? strlen(input) : 0);
    ck_assert_msg(o.status == 0, "%s: status %d: %s", arguments, o.status, o.errors);
    free(o.errors);
    return o.out;
}

static json_t *parse_line(const char *text)
{
    json_t *value;
    ck_ok(sp_json_parse(text, strcspn(text, "\n"), "output", &value, &error));
    return value;
}

/* ---- a model small enough to make on the spot ---- */

#define CONFIG                                                                                     \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 16, "  \
    "\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"max_position_embeddings\": 32, "    \
    "\"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true, "            \
    "\"hidden_act\": \"silu\", \"bos_token_id\": 0, \"eos_token_id\": 1, "                         \
    "\"torch_dtype\": \"float32\", \"unsloth_version\": \"7\"}"
#define TOKENIZER                                                                                  \
    "{\"version\": \"1.0\", \"added_tokens\": ["                                                   \
    "{\"id\": 0, \"content\": \"<s>\", \"special\": true, \"single_word\": false, "                \
    "\"lstrip\": false, \"rstrip\": false, \"normalized\": false}, "                               \
    "{\"id\": 1, \"content\": \"</s>\", \"special\": true, \"single_word\": false, "               \
    "\"lstrip\": false, \"rstrip\": false, \"normalized\": false}], "                              \
    "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "                          \
    "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "                  \
    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": ["                         \
    "{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, "                                      \
    "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": "         \
    "{\"<s>\": {\"id\": \"<s>\", \"ids\": [0], \"tokens\": [\"<s>\"]}}}, "                         \
    "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "                          \
    "\"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", "                \
    "\"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "                \
    "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, "                \
    "\"vocab\": {\"<s>\": 0, \"</s>\": 1, \"a\": 2, \"b\": 3, \"c\": 4, \"d\": 5, \"e\": 6, "      \
    "\"f\": 7, \"\\u0120\": 8, \"ab\": 9, \"\\u010a\": 10}, \"merges\": [\"a b\"]}}"

static void setup(void)
{
    dir = scratch_new();
    put_text(dir, "config.json", CONFIG);
    put_text(dir, "tokenizer.json", TOKENIZER);
}

static void teardown(void)
{
    scratch_free(dir);
}

static void make_model(void)
{
    free(expect_output("init m --config config.json --tokenizer tokenizer.json --seed 5", NULL));
}

START_TEST(test_help)
{
    char *out = expect_output("--help", NULL);
    static const char *const names[] = {"info", "tokenize", "logprobs", "generate",
                                        "init", "convert",  "bench"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        char *arguments = sp_xprintf("%s --help", names[i]);
        char *one = expect_output(arguments, NULL);
        ck_assert_ptr_nonnull(strstr(out, names[i]));
        ck_assert_ptr_nonnull(strstr(one, "--json"));
        ck_assert_ptr_nonnull(strstr(one, "spin-model "));
        free(one);
        free(arguments);
    }
    free(out);
    out = expect_output("--version", NULL);
    ck_assert_str_eq(out, "spin-model " SPIN_VERSION "\n");
    free(out);
}
END_TEST

START_TEST(test_wrong_command_lines)
{
    expect_failure("", NULL, 2, "Commands:");
    expect_failure("frobnicate", NULL, 2, "unknown command");
    expect_failure("info", NULL, 2, "DIR is missing");
    expect_failure("info a b", NULL, 2, "unexpected argument: b");
    expect_failure("info --nonsense .", NULL, 2, "nonsense");
    expect_failure("generate . --top-p 2 --prompt x", NULL, 2, "--top-p");
    expect_failure("generate . --max-new-tokens 0 --prompt x", NULL, 2, "--max-new-tokens");
    expect_failure("generate . --seed 1x --prompt x", NULL, 2, "--seed");
    expect_failure("init m", NULL, 2, "--config FILE is missing");
    expect_failure("init m --config config.json --dtype I8", NULL, 2, "F32, BF16 or F16");
    expect_failure("info /no/such", NULL, 4, "/no/such: no such directory");
    expect_failure("generate /no/such --prompt x", NULL, 4, "/no/such");
}
END_TEST

START_TEST(test_tokenize)
{
    char *out = expect_output("tokenize .", "abc fab");
    ck_assert_str_eq(out, "9 4 8 7 9\n");
    free(out);
    out = expect_output("tokenize tokenizer.json --special", "ab\n");
    ck_assert_str_eq(out, "0 9 10\n");
    free(out);
    out = expect_output("tokenize . --json --tokens", "ab d");
    ck_assert_str_eq(out, "{\"ids\":[9,8,5],\"tokens\":[\"ab\",\"\u0120\",\"d\"]}\n");
    free(out);
    out = expect_output("tokenize . --lines", "a\n\nab");
    ck_assert_str_eq(out, "2\n\n9\n");
    free(out);
    out = expect_output("tokenize . --decode", "[0, 9, 4,8]\n7 10 1");
    ck_assert_str_eq(out, "<s>abc f\n</s>");
    free(out);
    out = expect_output("tokenize . --decode --skip-special --json", "0 9 4 8 7 10 1");
    ck_assert_str_eq(out, "{\"text\":\"abc f\\n\"}\n");
    free(out);
    expect_failure("tokenize . --decode", "1 x 2", 3, "not a token id: \"x 2\"");
    expect_failure("tokenize . --decode", "-1", 3, "not a token id");
    expect_failure("tokenize . --decode", "99999999999999999999", 3, "not a token id");
    expect_failure("tokenize . --decode", "5000", 2, "5000");
    expect_failure("tokenize .", "a\xff", 3, "");
    expect_failure("tokenize . --lines", "b\xff\n", 3, "line 1");
    expect_failure("tokenize /no/such", "a", 4, "/no/such");
    put_text(dir, "tokenizer.json", "{");
    expect_failure("tokenize .", "a", 3, "tokenizer.json");
}
END_TEST

START_TEST(test_init_info)
{
    make_model();
    char *path = sp_path_join(dir, "m"), *text = get_text(dir, "m/config.json");
    struct ckpt *ckpt;
    ck_assert_str_eq(text, CONFIG); /* kept as it is, with fields of others */
    free(text);
    ck_ok(ckpt_open(path, &ckpt, &error));
    ck_assert_uint_eq(ckpt_parameters(ckpt),
                      16 * 16 + 2 * (16 * 16 + 16 * 16 + 2 * 8 * 16 + 3 * 16 * 32 + 2 * 16) + 16);
    ckpt_close(ckpt);
    char *out = expect_output("info m --json --digest --tensors", NULL);
    json_t *info = parse_line(out);
    ck_assert_int_eq(
        json_integer_value(json_object_get(json_object_get(info, "config"), "hidden_size")), 16);
    ck_assert_uint_eq(strlen(json_string_value(json_object_get(info, "checkpoint_sha256"))), 64);
    json_decref(info);
    free(out);
    out = expect_output("info m --tensors", NULL);
    ck_assert_ptr_nonnull(strstr(out, "model.layers.1.mlp.down_proj.weight"));
    free(out);
    out = expect_output("info .", NULL); /* no weights */
    ck_assert_ptr_nonnull(strstr(out, "llama"));
    ck_assert_ptr_null(strstr(out, "problem"));
    free(out);
    /* Weights of another shape than config.json's. */
    char *command = sp_xprintf("cd %s && mkdir w && cp m/model.safetensors w && sed "
                               "'s/\"intermediate_size\": 32/\"intermediate_size\": 24/' "
                               "config.json > w/config.json",
                               dir);
    ck_assert_int_eq(system(command), 0);
    free(command);
    static const char problem[] = "checkpoint w: tensor model.layers.0.mlp.gate_proj.weight: shape "
                                  "[32, 16], expected [24, 16]";
    out = expect_output("info w", NULL);
    ck_assert_msg(strstr(out, problem), "%s", out);
    free(out);
    out = expect_output("info w --json", NULL);
    info = parse_line(out);
    ck_assert_str_eq(json_string_value(json_object_get(info, "problem")), problem);
    json_decref(info);
    free(out);
    /* Same seed, same bytes; another seed, other bytes; BF16 is stored and said. */
    free(expect_output("init again --config config.json --tokenizer m --seed 5", NULL));
    free(expect_output("init other --config config.json --seed 6 --dtype bf16", NULL));
    command = sp_xprintf("cd %s && diff -r m again && ! cmp -s m/model.safetensors "
                         "other/model.safetensors && grep -q bfloat16 other/config.json",
                         dir);
    ck_assert_int_eq(system(command), 0);
    free(command);
    expect_failure("init m --config config.json", NULL, 5, "exists already");
    put_text(dir, "small.json", "{\"model_type\": \"llama\", \"vocab_size\": \"x\"}");
    expect_failure("init x --config small.json", NULL, 3, "small.json");
    put_text(dir, "bad.json", "{");
    expect_failure("init x --config bad.json", NULL, 3, "bad.json");
    command = sp_xprintf("cd %s && sed 's/\"vocab_size\": 16/\"vocab_size\": 8/' config.json > "
                         "tight.json && test ! -e x",
                         dir);
    ck_assert_int_eq(system(command), 0);
    free(command);
    expect_failure("init x --config tight.json --tokenizer tokenizer.json", NULL, 2,
                   "\"vocab_size\": 8");
    expect_failure("info tokenizer.json", NULL, 4, "no config.json");
    free(path);
}
END_TEST

START_TEST(test_generate)
{
    make_model();
    char *out = expect_output("generate m --prompt ab --seed 3 --max-new-tokens 9 --json", NULL);
    char *again =
        expect_output("generate m --prompt-ids 0,9 --seed 3 -n 9 --json --threads 1", NULL);
    ck_assert_str_eq(out, again);
    free(again);
    json_t *result = parse_line(out);
    json_t *ids = json_object_get(result, "ids");
    ck_assert_int_eq(json_integer_value(json_array_get(json_object_get(result, "prompt_ids"), 0)),
                     0);
    const char *finish = json_string_value(json_object_get(result, "finish"));
    ck_assert(json_array_size(ids) == 9 || strcmp(finish, "stop") == 0);
    /* What is streamed is the text of the document, and a newline. */
    char *text = sp_xprintf("%s\n", json_string_value(json_object_get(result, "text")));
    again = expect_output("generate m --prompt - --seed 3 -n 9", "ab");
    ck_assert_str_eq(again, text);
    free(again);
    free(text);
    /* The first of several samples is the one alone. */
    again = expect_output("generate m --prompt ab --seed 3 -n 9 --samples 5 --json", NULL);
    int lines = 0;
    for (char *line = again; *line != 0; line += strcspn(line, "\n") + 1, lines++) {
        json_t *one = parse_line(line);
        if (json_integer_value(json_object_get(one, "sample")) == 0)
            ck_assert(json_equal(json_object_get(one, "ids"), ids));
        json_decref(one);
    }
    ck_assert_int_eq(lines, 5);
    free(again);
    json_decref(result);
    free(out);
    /* The answer is cut where the model's positions end. */
    out = expect_output("generate m --prompt ab --temperature 0 --json", NULL);
    result = parse_line(out);
    ck_assert_uint_le(json_array_size(json_object_get(result, "ids")), 30);
    json_decref(result);
    free(out);
    expect_failure("generate m", NULL, 2, "--prompt TEXT");
    expect_failure("generate m --prompt a --prompt-ids 1", NULL, 2, "one of --prompt");
    expect_failure("generate m --prompt-ids ''", NULL, 2, "no tokens");
    expect_failure("generate m --prompt-ids 1,99", NULL, 2, "99");
    expect_failure("generate m --prompt x --template nonsense", NULL, 2, "nonsense");
    expect_failure(
        "generate m --prompt abababababababababababababababababababababababababababababababab",
        NULL, 8, "32 positions");
}
END_TEST

static const struct {
    const char *line;
    int status;
    const char *part;
} bad_lines[] = {
    {"{", 3, "standard input:1"},
    {"[1, 2]", 3, "standard input:1"},
    {"{\"prompt\": \"a\"}", 3, "standard input:1"},
    {"{\"prompt\": 1, \"response\": \"a\"}", 3, "prompt"},
    {"{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\"}", 3, "standard input:2"},
    {"{\"prompt\": \"a\", \"response\": \"\xff\"}", 3, "standard input:1"},
    {"", 3, "standard input"},
    {"{\"prompt\": \"a\", \"response\": \"cccccccccccccccccccccccccccccccccccc\"}", 8,
     "standard input:1: 39 tokens, the model has 32 positions"},
};

START_TEST(test_logprobs_refuses)
{
    make_model();
    expect_failure("logprobs m --input -", bad_lines[_i].line, bad_lines[_i].status,
                   bad_lines[_i].part);
}
END_TEST

START_TEST(test_logprobs)
{
    make_model();
    struct sp_buf input = SP_BUF_INIT;
    for (int i = 0; i < 100; i++)
        sp_buf_printf(&input, "{\"prompt\": \"ab%.*s\", \"response\": \"%.*sf\"}\n", i % 7,
                      "cdefab", i % 11, "abcdefabcde");
    put_text(dir, "in.jsonl", input.data);
    char *out = expect_output("logprobs m --input in.jsonl", NULL), *line = out;
    char *one = expect_output("logprobs m -i in.jsonl --json --threads 1", NULL);
    ck_assert_str_eq(out, one);
    free(one);
    int lines = 0;
    for (; *line != 0; line += strcspn(line, "\n") + 1, lines++) {
        json_t *result = parse_line(line), *logprobs = json_object_get(result, "logprobs");
        json_t *ids = json_object_get(result, "token_ids");
        size_t prompt = (size_t)json_integer_value(json_object_get(result, "prompt_tokens"));
        double sum = 0;
        ck_assert_uint_eq(json_array_size(ids), prompt + json_array_size(logprobs));
        ck_assert_int_eq(json_integer_value(json_array_get(ids, json_array_size(ids) - 1)), 1);
        for (size_t i = 0; i < json_array_size(logprobs); i++) {
            double value = json_real_value(json_array_get(logprobs, i));
            ck_assert(value < 0 && value > -10);
            sum += value;
        }
        ck_assert(fabs(sum - json_real_value(json_object_get(result, "sum"))) < 1e-5);
        json_decref(result);
    }
    ck_assert_int_eq(lines, 100);
    /* As a generator with narrow types: other bits, near. */
    char *narrow =
        expect_output("logprobs m -i in.jsonl --weights bf16 --activations bf16 --kv bf16", NULL);
    ck_assert_str_ne(out, narrow);
    line = narrow;
    const char *exact = out;
    for (lines = 0; *line != 0; line += strcspn(line, "\n") + 1, lines++) {
        json_t *result = parse_line(line), *expected = parse_line(exact);
        double sum = json_real_value(json_object_get(result, "sum"));
        ck_assert(json_equal(json_object_get(result, "token_ids"),
                             json_object_get(expected, "token_ids")));
        ck_assert(fabs(sum - json_real_value(json_object_get(expected, "sum"))) < 0.5);
        exact += strcspn(exact, "\n") + 1;
        json_decref(result);
        json_decref(expected);
    }
    ck_assert_int_eq(lines, 100);
    free(narrow);
    expect_failure("logprobs m -i in.jsonl --kv f16", NULL, 2, "neither f32 nor bf16");
    expect_failure("logprobs m -i in.jsonl --activations bf16", NULL, 18, "weights in bf16");
    free(expect_output("generate m -p ab -n 3 --weights bf16 --activations bf16", NULL));
    expect_failure("logprobs m", NULL, 2, "--input FILE is missing");
    expect_failure("logprobs m --input none.jsonl", NULL, 4, "none.jsonl");
    expect_failure("logprobs m --input in.jsonl --format nonsense", NULL, 2, "nonsense");
    expect_failure("logprobs m --input in.jsonl --backend nonsense", NULL, 18, "nonsense");
    free(out);
    sp_buf_deinit(&input);
}
END_TEST

/* Every figure of a list has a rate, its spread, shares of both limits and a peak. */
static void check_figures(const json_t *document, const char *list, size_t least_count)
{
    const json_t *figures = json_object_get(document, list), *figure;
    size_t i;
    ck_assert_uint_ge(json_array_size(figures), least_count);
    json_array_foreach(figures, i, figure)
    {
        double median = json_real_value(json_object_get(figure, "tokens_per_s"));
        ck_assert(json_real_value(json_object_get(figure, "tokens_per_s_lowest")) > 0);
        ck_assert(json_real_value(json_object_get(figure, "tokens_per_s_lowest")) <= median);
        ck_assert(json_real_value(json_object_get(figure, "tokens_per_s_highest")) >= median);
        ck_assert(json_real_value(json_object_get(figure, "fma_share")) > 0);
        ck_assert(json_real_value(json_object_get(figure, "gemm_share")) > 0);
        ck_assert_int_gt(json_integer_value(json_object_get(figure, "peak_bytes")), 0);
        ck_assert_int_eq(json_integer_value(json_object_get(figure, "repeats")), 2);
    }
}

static void bench_of_one_shape(void)
{
    const char *options = "--seconds 0 --repeats 2 --quiet --json";
    char command[256];
    snprintf(command, sizeof(command),
             "bench . --pairs 12,6,4,3 --micro 2 --optimizer-state 8bit %s", options);
    char *out = expect_output(command, NULL);
    json_t *document = parse_line(out);
    check_figures(document, "decode", 0);
    check_figures(document, "spin_step", 1);
    const json_t *step = json_array_get(json_object_get(document, "spin_step"), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(step, "generated_tokens")), 4);
    ck_assert_int_eq(json_integer_value(json_object_get(step, "micro_pairs")), 2);
    ck_assert_int_gt(json_integer_value(json_object_get(step, "plan_bytes")), 0);
    ck_assert_int_eq(json_array_size(json_object_get(step, "seconds")), 2);
    json_decref(document);
    free(out);
    snprintf(command, sizeof(command), "bench . --sequences 5,9,7 --weights bf16 %s", options);
    out = expect_output(command, NULL);
    document = parse_line(out);
    check_figures(document, "spin_step", 0);
    const char *const lists[] = {"decode", "answer"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *list = json_object_get(document, lists[i]);
        ck_assert_int_eq(json_array_size(list), 1);
        const json_t *f = json_array_get(list, 0);
        ck_assert(json_real_value(json_object_get(f, "tokens_per_s")) > 0);
        ck_assert_int_gt(json_integer_value(json_object_get(f, "plan_bytes")), 0);
        ck_assert_ptr_null(json_object_get(f, "gemm_share"));
        /* each sequence has a prompt of its own */
        ck_assert_int_ge(json_integer_value(json_object_get(f, "prompt_rows_run")), 5 * 9);
    }
    json_decref(document);
    free(out);
    expect_failure("bench . --sequences 5,9", NULL, 2, "expected 3 numbers");
    expect_failure("bench . --pairs 1,2,3,0", NULL, 2, "expected 4 numbers");
    expect_failure("bench . --pairs 4,2,2,1 --only decode", NULL, 2, "a shape of spin_step");
    expect_failure("bench . --pairs 100000,2,2,1", NULL, 8, "positions");
}

START_TEST(test_bench)
{
    /* A shape alone is enough. */
    char *out = expect_output("bench . --seconds 0 --repeats 2 --json", NULL);
    json_t *document = parse_line(out);
    ck_assert(json_real_value(json_object_get(document, "probe_gflops")) > 0);
    check_figures(document, "prefill", 1);
    check_figures(document, "score", 1);
    check_figures(document, "decode", 15);
    check_figures(document, "spin_step", 3);
    const json_t *steps = json_object_get(document, "spin_step");
    const json_t *one = json_array_get(steps, 0), *two = json_array_get(steps, 1);
    ck_assert_int_eq(json_integer_value(json_object_get(two, "pairs")), 2);
    double flops = json_real_value(json_object_get(one, "flops_per_pair"));
    ck_assert(flops > 0);
    ck_assert_double_eq(flops, json_real_value(json_object_get(two, "flops_per_pair")));
    double tokens = json_real_value(json_object_get(two, "tokens_per_s"));
    double pairs = json_real_value(json_object_get(two, "pairs_per_s"));
    double prompt = (double)json_integer_value(json_object_get(two, "prompt_tokens"));
    double response = (double)json_integer_value(json_object_get(two, "response_tokens"));
    ck_assert_double_eq_tol(tokens / pairs, prompt + 2 * response - 2, 1e-6);
    json_decref(document);
    free(out);
    out = expect_output("bench . --seconds 0 --repeats 2 --only decode", NULL);
    ck_assert_ptr_nonnull(strstr(out, "tokens/s"));
    ck_assert_ptr_nonnull(strstr(out, "decode bf16 × bf16, batch 128"));
    ck_assert_ptr_null(strstr(out, "prefill"));
    free(out);
    expect_failure("bench . --only nothing", NULL, 2, "prefill, decode or spin_step");
    bench_of_one_shape();
    expect_failure("bench /no/such", NULL, 4, "/no/such");
    setenv("SPIN_MODULE_PATH", dir, 1);
    expect_failure("bench . --backend cuda", NULL, 4, "backend cuda: no module");
    unsetenv("SPIN_MODULE_PATH");
}
END_TEST

/* The plan of a device's memory, which is made before any of it is taken, is what is taken in the
 * end, give or take a twentieth: on a device that the host emulates. */
START_TEST(test_bench_plan)
{
    static const char *const shapes[] = {
        "--pairs 32,16,16,4 --micro 2 --weights bf16 --optimizer-state 8bit",
        "--pairs 32,16,16,4 --memory 0.0205",
        "--pairs 64,32,32,2 --weights bf16 --optimizer-offload --micro 1",
        "--sequences 8,32,16 --weights bf16 --kv bf16",
    };
    static const char *const lists[] = {"spin_step", "decode", "answer"};
    put_text(dir, "config.json",
             "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
             "\"vocab_size\": 1000, \"hidden_size\": 128, \"intermediate_size\": 384, "
             "\"num_hidden_layers\": 6, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
             "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
             "\"tie_word_embeddings\": false, \"hidden_act\": \"silu\", \"bos_token_id\": 0, "
             "\"eos_token_id\": 1, \"torch_dtype\": \"float32\"}");
    setenv("SPIN_MODULE_PATH", SPIN_BUILD_ROOT "/tests/gpu", 1);
    for (size_t i = 0; i < SP_COUNT(shapes); i++) {
        char *command = sp_xprintf(
            "bench . --backend cuda --seconds 0 --repeats 1 --quiet --json %s", shapes[i]);
        char *out = expect_output(command, NULL);
        json_t *document = parse_line(out), *figure;
        size_t figures = 0, j;
        for (size_t l = 0; l < SP_COUNT(lists); l++)
            json_array_foreach(json_object_get(document, lists[l]), j, figure)
            {
                double plan = (double)json_integer_value(json_object_get(figure, "plan_bytes"));
                double peak = (double)json_integer_value(json_object_get(figure, "peak_bytes"));
                ck_assert_msg(fabs(plan / peak - 1) < 0.05, "%s: %s: planned %.0f, taken %.0f",
                              shapes[i], lists[l], plan, peak);
                figures++;
            }
        ck_assert_uint_gt(figures, 0);
        json_decref(document);
        free(out);
        free(command);
    }
    unsetenv("SPIN_MODULE_PATH");
}
END_TEST

/* ---- against transformers ---- */

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/spin-model/"

START_TEST(test_logprobs_golden)
{
    const char *model = shared_data("models/TinyStories-656K-hf");
    if (model == NULL)
        return;
    char *arguments = sp_xprintf("logprobs %s --input " GOLDEN "logprobs.jsonl", model);
    char *out = expect_output(arguments, NULL), *line = out;
    char *golden = get_text(GOLDEN, "logprobs.jsonl"), *want_line = golden;
    int lines = 0;
    for (; *want_line != 0; want_line += strcspn(want_line, "\n") + 1, lines++) {
        json_t *want = parse_line(want_line), *got = parse_line(line);
        ck_assert(
            json_equal(json_object_get(want, "token_ids"), json_object_get(got, "token_ids")));
        json_t *a = json_object_get(want, "logprobs"), *b = json_object_get(got, "logprobs");
        ck_assert_uint_eq(json_array_size(a), json_array_size(b));
        for (size_t i = 0; i < json_array_size(a); i++)
            ck_assert_double_eq_tol(json_real_value(json_array_get(a, i)),
                                    json_real_value(json_array_get(b, i)), 1e-4);
        json_decref(want);
        json_decref(got);
        line += strcspn(line, "\n") + 1;
    }
    ck_assert_int_eq(lines, 20);
    free(golden);
    free(out);
    free(arguments);
}
END_TEST

START_TEST(test_generate_golden)
{
    const char *model = shared_data("models/TinyStories-656K-hf");
    if (model == NULL)
        return;
    char *arguments = sp_xprintf("generate %s --greedy -n 60 --json --prompt -", model);
    char *golden = get_text(GOLDEN, "generate.jsonl"), *line = golden;
    int lines = 0;
    for (; *line != 0; line += strcspn(line, "\n") + 1, lines++) {
        json_t *want = parse_line(line);
        char *out = expect_output(arguments, json_string_value(json_object_get(want, "prompt")));
        json_t *got = parse_line(out);
        ck_assert(json_equal(json_object_get(want, "ids"), json_object_get(got, "ids")));
        json_decref(got);
        json_decref(want);
        free(out);
    }
    ck_assert_int_eq(lines, 20);
    free(golden);
    free(arguments);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("spin-model");
    TCase *t = tcase_create("program");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_help);
    tcase_add_test(t, test_wrong_command_lines);
    tcase_add_test(t, test_tokenize);
    tcase_add_test(t, test_init_info);
    tcase_add_test(t, test_generate);
    tcase_add_loop_test(t, test_logprobs_refuses, 0, (int)SP_COUNT(bad_lines));
    tcase_add_test(t, test_logprobs);
    tcase_add_test(t, test_bench);
    tcase_add_test(t, test_bench_plan);
    tcase_add_test(t, test_logprobs_golden);
    tcase_add_test(t, test_generate_golden);
    tcase_set_timeout(t, 30);
    suite_add_tcase(s, t);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* spin-model convert: against files made with llama.cpp's own package, with ids from llama.cpp. */
#include <math.h>

#include "common/base/half.h"
#include "common/base/json.h"
#include "common/checkpoint/gguf.h"
#include "common/checkpoint/hf_dir.h"
#include "common/text/tokenizer.h"
#include "tests/unit/spin_model/tool.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/gguf/"

static struct sp_error error;

static struct ckpt *open_dir(const char *name)
{
    char *path = sp_path_join(dir, name);
    struct ckpt *ckpt;
    ck_ok(ckpt_open(path, &ckpt, &error));
    free(path);
    return ckpt;
}

/* Every tensor of the fixture is in the directory, bit for bit, and nothing else. */
static void expect_tensors(const char *name, const char *expected)
{
    struct ckpt *ckpt = open_dir(name);
    struct ckpt_st *st;
    ck_ok(ckpt_st_open(expected, &st, &error));
    ck_assert_uint_eq(ckpt_count(ckpt), ckpt_st_count(st));
    for (size_t i = 0; i < ckpt_st_count(st); i++) {
        const struct ckpt_tensor *want = ckpt_st_at(st, i), *have = ckpt_find(ckpt, want->name);
        ck_assert_msg(have != NULL, "%s is missing", want->name);
        ck_assert_int_eq(have->dims, want->dims);
        ck_assert_int_eq(have->shape[0], want->shape[0]);
        ck_assert_msg(have->bytes == want->bytes &&
                          memcmp(have->data, want->data, want->bytes) == 0,
                      "%s: other numbers", want->name);
    }
    ckpt_st_close(st);
    ckpt_close(ckpt);
}

/* Each line of the fixture: the text gives the ids that llama.cpp gives. */
static size_t expect_ids(const char *name, const char *expected)
{
    char *path = sp_path_join(dir, name), *data, *rest = NULL;
    struct tok_tokenizer *tokenizer;
    size_t lines = 0;
    ck_ok(tok_load(path, &tokenizer, &error));
    ck_ok(sp_read_file(expected, 1 << 20, &data, NULL, &error));
    for (char *line = strtok_r(data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *row;
        ck_ok(sp_json_parse(line, strlen(line), expected, &row, &error));
        const char *text = json_string_value(json_object_get(row, "text"));
        const json_t *ids = json_object_get(row, "ids");
        struct tok_ids have = TOK_IDS_INIT;
        ck_ok(tok_encode(tokenizer, text, strlen(text), TOK_ADD_SPECIAL, &have, &error));
        bool same = have.count == json_array_size(ids);
        for (size_t i = 0; same && i < have.count; i++)
            same = have.ids[i] == json_integer_value(json_array_get(ids, i));
        ck_assert_msg(same, "%s: other ids for \"%s\"", name, text);
        tok_ids_deinit(&have);
        json_decref(row);
        lines++;
    }
    tok_free(tokenizer);
    free(data);
    free(path);
    return lines;
}

static json_t *load(const char *name)
{
    char *path = sp_path_join(dir, name);
    json_t *value;
    ck_ok(sp_json_load(path, 1 << 24, &value, &error));
    free(path);
    return value;
}

static void expect_json(const char *name, const char *key, const char *want)
{
    json_t *root = load(name), *value = json_object_get(root, key);
    char *have = value ? json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY |
                                               JSON_REAL_PRECISION(15))
                       : sp_xstrdup("nothing");
    ck_assert_msg(strcmp(have, want) == 0, "%s: %s: %s, not %s", name, key, have, want);
    free(have);
    json_decref(root);
}

START_TEST(test_byte_level)
{
    works("convert " GOLDEN "bpe.gguf hf");
    expect_tensors("hf", GOLDEN "bpe.safetensors");
    ck_assert_uint_gt(expect_ids("hf", GOLDEN "bpe.jsonl"), 150);
    expect_json("hf/config.json", "model_type", "\"llama\"");
    expect_json("hf/config.json", "vocab_size", "400");
    expect_json("hf/config.json", "num_key_value_heads", "2");
    expect_json("hf/config.json", "head_dim", "8");
    expect_json("hf/config.json", "rms_norm_eps", "1e-5");
    expect_json("hf/config.json", "rope_theta", "500000.0");
    expect_json("hf/config.json", "tie_word_embeddings", "false");
    expect_json("hf/config.json", "rope_scaling",
                "{\"factor\":8.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
                "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}");
    expect_json("hf/generation_config.json", "bos_token_id", "380");
    expect_json("hf/generation_config.json", "eos_token_id", "[381,382]");
    expect_json("hf/tokenizer_config.json", "bos_token", "\"<|begin|>\"");
    expect_json("hf/tokenizer_config.json", "eos_token", "\"<|end|>\"");
    expect_json("hf/tokenizer_config.json", "chat_template",
                "\"{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}\"");
}
END_TEST

START_TEST(test_sentencepiece)
{
    works("convert " GOLDEN "spm.gguf hf");
    expect_tensors("hf", GOLDEN "spm.safetensors");
    ck_assert_uint_gt(expect_ids("hf", GOLDEN "spm.jsonl"), 150);
    expect_json("hf/config.json", "tie_word_embeddings", "true");
    expect_json("hf/config.json", "rope_scaling", "null");
    expect_json("hf/config.json", "torch_dtype", "\"float32\"");
    expect_json("hf/tokenizer_config.json", "unk_token", "\"<unk>\"");
}
END_TEST

/* To GGUF and back again: the same weights, tokenizer and configuration. */
START_TEST(test_there_and_back)
{
    static const char *const names[] = {"bpe", "spm"};
    static const char *const files[] = {"config.json", "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json", "model.safetensors"};
    for (size_t n = 0; n < SP_COUNT(names); n++) {
        char *command = sp_xprintf("convert " GOLDEN "%s.gguf %s", names[n], names[n]);
        works(command);
        free(command);
        command = sp_xprintf("convert %s %s.gguf --dtype f32", names[n], names[n]);
        works(command);
        free(command);
        command = sp_xprintf("convert %s.gguf %s-again", names[n], names[n]);
        works(command);
        free(command);
        for (size_t i = 0; i < SP_COUNT(files); i++) {
            char *a = sp_xprintf("%s/%s", names[n], files[i]);
            char *b = sp_xprintf("%s-again/%s", names[n], files[i]);
            command = sp_xprintf("cmp %s/%s %s/%s", dir, a, dir, b);
            ck_assert_msg(system(command) == 0, "%s", command);
            free(command);
            free(a);
            free(b);
        }
    }
}
END_TEST

static void expect_same_texts(const struct ckpt_gguf *a, const struct ckpt_gguf *b, const char *key)
{
    struct ckpt_gguf_text *x, *y;
    size_t n, m;
    ck_ok(ckpt_gguf_texts(a, key, &x, &n, &error));
    ck_ok(ckpt_gguf_texts(b, key, &y, &m, &error));
    ck_assert_uint_eq(n, m);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(x[i].length == y[i].length && memcmp(x[i].data, y[i].data, x[i].length) == 0,
                      "%s[%zu]", key, i);
    free(x);
    free(y);
}

/* What is written is what llama.cpp's package wrote: metadata, types, permuted rows. */
START_TEST(test_like_the_original)
{
    struct ckpt_gguf *a, *b;
    works("convert " GOLDEN "bpe.gguf hf");
    works("convert hf out.gguf --to gguf");
    char *path = sp_path_join(dir, "out.gguf");
    ck_ok(ckpt_gguf_open(GOLDEN "bpe.gguf", &a, &error));
    ck_ok(ckpt_gguf_open(path, &b, &error));
    ck_assert_uint_eq(ckpt_gguf_count(a), ckpt_gguf_count(b));
    for (size_t i = 0; i < ckpt_gguf_count(a); i++) {
        const struct ckpt_gguf_tensor *x = ckpt_gguf_at(a, i), *y = ckpt_gguf_find(b, x->name);
        ck_assert_msg(y != NULL && y->type == CKPT_GGUF_F32 && y->count == x->count, "%s", x->name);
        float *numbers = sp_xarray(x->count, sizeof(*numbers));
        ckpt_gguf_to_f32(x->type, x->data, x->count / ckpt_gguf_block_elements(x->type), numbers);
        ck_assert_msg(memcmp(numbers, y->data, y->bytes) == 0, "%s: other numbers", x->name);
        free(numbers);
    }
    expect_same_texts(a, b, "tokenizer.ggml.tokens");
    expect_same_texts(a, b, "tokenizer.ggml.merges");
    int64_t *x, *y;
    size_t n, m;
    ck_ok(ckpt_gguf_ints(a, "tokenizer.ggml.token_type", &x, &n, &error));
    ck_ok(ckpt_gguf_ints(b, "tokenizer.ggml.token_type", &y, &m, &error));
    ck_assert(n == m && memcmp(x, y, n * sizeof(*x)) == 0);
    free(x);
    free(y);
    ckpt_gguf_close(a);
    ckpt_gguf_close(b);
    free(path);
}
END_TEST

START_TEST(test_types)
{
    static const struct {
        const char *name;
        enum ckpt_gguf_type type;
    } rows[] = {{"f16", CKPT_GGUF_F16}, {"BF16", CKPT_GGUF_BF16}, {"q8_0", CKPT_GGUF_Q8_0}};
    works("convert " GOLDEN "spm.gguf hf");
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        char *command =
            sp_xprintf("convert hf %s.gguf --dtype %s --json", rows[i].name, rows[i].name);
        works(command);
        free(command);
        json_t *report = load(".out");
        ck_assert_str_eq(json_string_value(json_object_get(report, "dtype")),
                         ckpt_gguf_type_name(rows[i].type));
        ck_assert_int_eq(json_integer_value(json_object_get(report, "tensors")), 20);
        json_decref(report);
        char *path = sp_xprintf("%s/%s.gguf", dir, rows[i].name);
        struct ckpt_gguf *gguf;
        ck_ok(ckpt_gguf_open(path, &gguf, &error));
        ck_assert_int_eq(ckpt_gguf_find(gguf, "blk.1.ffn_down.weight")->type, rows[i].type);
        ck_assert_int_eq(ckpt_gguf_find(gguf, "blk.1.ffn_norm.weight")->type, CKPT_GGUF_F32);
        ckpt_gguf_close(gguf);
        free(path);
    }
    /* The default is what the input is. */
    works("convert BF16.gguf brain");
    expect_json("brain/config.json", "torch_dtype", "\"bfloat16\"");
    works("convert brain brain.gguf");
    works("convert brain.gguf again");
    ck_assert_int_eq(tool("help convert"), 0);
    char *command =
        sp_xprintf("cmp %s/brain/model.safetensors %s/again/model.safetensors", dir, dir);
    ck_assert_int_eq(system(command), 0);
    free(command);
}
END_TEST

START_TEST(test_directory_to_directory)
{
    works("convert " GOLDEN "spm.gguf hf");
    works("convert hf half --dtype f16");
    expect_json("half/config.json", "torch_dtype", "\"float16\"");
    struct ckpt *a = open_dir("hf"), *b = open_dir("half");
    ck_assert_uint_eq(ckpt_count(a), ckpt_count(b));
    for (size_t i = 0; i < ckpt_count(a); i++) {
        const struct ckpt_tensor *x = ckpt_at(a, i), *y = ckpt_at(b, i);
        ck_assert_int_eq(y->dtype, CKPT_F16);
        for (size_t k = 0; k < x->count; k++) {
            float number;
            uint16_t half;
            memcpy(&number, x->data + k * 4, 4);
            memcpy(&half, y->data + k * 2, 2);
            ck_assert_int_eq(half, sp_f32_to_f16(number));
        }
    }
    ckpt_close(a);
    ckpt_close(b);
    ck_assert_uint_gt(expect_ids("half", GOLDEN "spm.jsonl"), 150);
}
END_TEST

/* What narrowing costs, on answers of the user's. */
START_TEST(test_held_out)
{
    works("convert " GOLDEN "spm.gguf hf");
    put_text(dir, "held.jsonl",
             "{\"prompt\":\"the model\",\"response\":\"is the opponent\"}\n"
             "{\"prompt\":\"the fox\",\"response\":\"sees the dog\"}\n");
    works("convert hf half --dtype bf16 --held-out held.jsonl --json");
    json_t *report = load(".out"), *held = json_object_get(report, "held_out");
    double before = json_number_value(json_object_get(held, "before")),
           after = json_number_value(json_object_get(held, "after"));
    ck_assert_int_gt(json_integer_value(json_object_get(held, "tokens")), 4);
    ck_assert(before < 0 && after < 0 && before != after && fabs(before - after) < 0.1);
    ck_assert(fabs(json_number_value(json_object_get(held, "change")) - (after - before)) < 1e-6);
    json_decref(report);
    works("convert hf same --dtype f32 --held-out held.jsonl");
    char *text = get_text(dir, ".out");
    ck_assert_msg(strstr(text, "+0.000000 a token"), "%s", text);
    free(text);
    ck_assert_int_eq(tool("convert hf out.gguf --held-out held.jsonl"), 2);
    ck_assert_int_eq(tool("convert hf out --held-out nothing.jsonl"), 4);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("convert");
    TCase *c = tcase_create("convert");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_byte_level);
    tcase_add_test(c, test_sentencepiece);
    tcase_add_test(c, test_there_and_back);
    tcase_add_test(c, test_like_the_original);
    tcase_add_test(c, test_types);
    tcase_add_test(c, test_directory_to_directory);
    tcase_add_test(c, test_held_out);
    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

/* spin-model convert: what can't be converted exactly is refused with file, field and remedy, and
 * leaves nothing behind. */

#include "common/base/json.h"
#include "common/checkpoint/gguf.h"
#include "tests/unit/spin_model/tool.h"

#define GOLDEN SPIN_SOURCE_ROOT "/tests/golden/gguf/"

static struct sp_error error;

/* Ends with this status and a message with this part; out and out.* are not there. */
static void refused(const char *arguments, int status, const char *part)
{
    int have = tool(arguments);
    char *errors = get_text(dir, ".err");
    ck_assert_msg(have == status, "%s: status %d, not %d: %s", arguments, have, status, errors);
    ck_assert_msg(strstr(errors, part) != NULL, "%s: \"%s\" lacks \"%s\"", arguments, errors, part);
    free(errors);
    char *left = sp_xprintf("ls -d %s/out* > /dev/null 2>&1", dir);
    ck_assert_msg(system(left) != 0, "%s left something behind", arguments);
    free(left);
}

/* ---- changed files ---- */

struct bytes {
    uint8_t *data;
    size_t length;
};

static struct bytes golden(const char *name)
{
    char *path = sp_xprintf(GOLDEN "%s.gguf", name), *data;
    struct bytes bytes;
    ck_ok(sp_read_file(path, 1 << 24, &data, &bytes.length, &error));
    bytes.data = (uint8_t *)data;
    free(path);
    return bytes;
}

/* The first place of the text as a string of the file, behind its length. */
static uint8_t *find(struct bytes bytes, const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 8; i + length <= bytes.length; i++)
        if (memcmp(bytes.data + i, text, length) == 0 && bytes.data[i - 8] == length &&
            bytes.data[i - 7] == 0)
            return bytes.data + i;
    ck_abort_msg("no %s in the fixture", text);
}

/* Writes the bytes to m.gguf, converts, and expects this. Takes the bytes. */
static void change_refused(struct bytes bytes, int status, const char *part)
{
    put_file(dir, "m.gguf", bytes.data, bytes.length);
    free(bytes.data);
    refused("convert m.gguf out", status, part);
}

static void rename_refused(const char *name, const char *from, const char *to, int status,
                           const char *part)
{
    struct bytes bytes = golden(name);
    ck_assert_uint_eq(strlen(from), strlen(to));
    memcpy(find(bytes, from), to, strlen(to));
    change_refused(bytes, status, part);
}

static void value_refused(const char *key, uint32_t value, int status, const char *part)
{
    struct bytes bytes = golden("spm");
    memcpy(find(bytes, key) + strlen(key) + 4, &value, sizeof(value));
    change_refused(bytes, status, part);
}

START_TEST(test_metadata)
{
    rename_refused("spm", "llama", "gemma", 18, "\"general.architecture\": \"gemma\"");
    rename_refused("spm", "llama.block_count", "llama.blockxcount", 3,
                   "m.gguf: metadata \"llama.block_count\": not there");
    /* What is not known to leave the numbers alone is refused, unless it says no. */
    rename_refused("spm", "llama.vocab_size", "llama.volab_size", 18,
                   "m.gguf: metadata \"llama.volab_size\": not supported in a llama model");
    value_refused("llama.block_count", 1, 18, "tensor blk.1.attn_k.weight: not known");
    value_refused("llama.block_count", 3, 3, "tensor blk.2.attn_norm.weight: not there");
    value_refused("llama.block_count", 50000, 3, "50000 is not between 1 and 1024");
    value_refused("llama.embedding_length", 64, 18, "head size 16 with");
    value_refused("llama.feed_forward_length", 96, 3, "tensor blk.0.ffn_gate.weight: ");
    value_refused("llama.attention.head_count", 0, 3, "\"llama.attention.head_count\": 0");
    value_refused("llama.attention.head_count_kv", 3, 3, "is not a multiple of");
    value_refused("llama.rope.dimension_count", 4, 18, "llama.rope.dimension_count 4");
    value_refused("llama.attention.layer_norm_rms_epsilon", 0x40000000, 3,
                  "\"llama.attention.layer_norm_rms_epsilon\": 2 is not between");
    value_refused("tokenizer.ggml.eos_token_id", 100000, 3, "\"tokenizer.ggml.eos_token_id\"");
    value_refused("llama.rope.freq_base", 0x7fc00000, 3, "not a finite number");
}
END_TEST

START_TEST(test_tokenizer)
{
    rename_refused("bpe", "llama-bpe", "other-bpe", 18, "\"tokenizer.ggml.pre\": \"other-bpe\"");
    rename_refused("bpe", "gpt2", "bert", 18, "\"tokenizer.ggml.model\": \"bert\"");
    rename_refused("spm", "tokenizer.ggml.scores", "tokenizer.ggml.scorex", 3,
                   "\"tokenizer.ggml.scores\": not there");
    rename_refused("spm", "<0x01>", "<0x02>", 3,
                   "\"tokenizer.ggml.tokens\": element 5 is there twice");
    rename_refused("spm", "<0x01>",
                   "<0\377"
                   "01>",
                   3, "\"tokenizer.ggml.tokens\": element 4 is not UTF-8");
    struct bytes bytes = golden("spm");
    /* key, type, type of the elements, count, first element */
    find(bytes, "tokenizer.ggml.token_type")[25 + 4 + 4 + 8] = 9;
    change_refused(bytes, 3, "\"tokenizer.ggml.token_type\": element 0 is 9");
    rename_refused("spm", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.box_token_id", 3,
                   "\"tokenizer.ggml.bos_token_id\": not there");
}
END_TEST

/* The remedy that the message names. */
START_TEST(test_tokenizer_from_elsewhere)
{
    works("convert " GOLDEN "bpe.gguf good");
    struct bytes bytes = golden("bpe");
    memcpy(find(bytes, "llama-bpe"), "other-bpe", 9);
    put_file(dir, "m.gguf", bytes.data, bytes.length);
    free(bytes.data);
    refused("convert m.gguf out", 18, "--tokenizer");
    works("convert m.gguf out --tokenizer good");
    works("tokenize out");
}
END_TEST

START_TEST(test_numbers)
{
    static const uint32_t not_a_number = 0x7fc00000;
    static const float large = 1e6f;
    struct bytes bytes = golden("spm");
    memcpy(bytes.data + bytes.length - 4, &not_a_number, 4);
    change_refused(bytes, 15, "element 31 is not a finite number");
    bytes = golden("spm");
    memcpy(bytes.data + bytes.length - 4, &large, 4);
    put_file(dir, "m.gguf", bytes.data, bytes.length);
    free(bytes.data);
    refused("convert m.gguf out --dtype f16", 15,
            "tensor model.norm.weight: element 31 is 1e+06, more than F16 can hold");
    works("convert m.gguf fine --dtype bf16");
    refused("convert fine out --dtype f16", 15, "choose --dtype BF16 or F32");
    char *path = sp_path_join(dir, "fine/model.safetensors"), *data;
    ck_ok(sp_read_file(path, 1 << 24, &data, &bytes.length, &error));
    memcpy(data + bytes.length - 2, (uint8_t[]){0xc0, 0x7f}, 2);
    put_file(dir, "fine/model.safetensors", (const uint8_t *)data, bytes.length);
    refused("convert fine out.gguf", 15,
            "tensor output_norm.weight: from model.norm.weight of checkpoint fine: element 31 is "
            "not a finite number");
    free(data);
    free(path);
    bytes = golden("spm");
    bytes.length /= 2;
    change_refused(bytes, 3, "cut short");
}
END_TEST

/* One head of this size, with tables of rotations for all of it. */
static void put_wide_head(uint32_t size)
{
    struct ckpt_gguf_meta meta = CKPT_GGUF_META_INIT;
    float *numbers = sp_xarray(4 * (size_t)size, sizeof(*numbers));
    static const enum ckpt_gguf_type types[3] = {CKPT_GGUF_F32, CKPT_GGUF_F32, CKPT_GGUF_F32};
    const struct ckpt_array arrays[3] = {
        {"token_embd.weight", .dims = 2, .shape = {4, size}, .data = numbers},
        {"rope_factors_long.weight", .dims = 1, .shape = {size / 2}, .data = numbers},
        {"rope_factors_short.weight", .dims = 1, .shape = {size / 2}, .data = numbers},
    };
    for (size_t i = 0; i < 4 * (size_t)size; i++)
        numbers[i] = 1.5f;
    ckpt_gguf_put_text(&meta, "general.architecture", "phi3");
    ckpt_gguf_put_u32(&meta, "phi3.embedding_length", size);
    ckpt_gguf_put_u32(&meta, "phi3.feed_forward_length", 8);
    ckpt_gguf_put_u32(&meta, "phi3.block_count", 1);
    ckpt_gguf_put_u32(&meta, "phi3.attention.head_count", 1);
    ckpt_gguf_put_u32(&meta, "phi3.context_length", 128);
    ckpt_gguf_put_f32(&meta, "phi3.attention.layer_norm_rms_epsilon", 1e-5f);
    ckpt_gguf_put_u32(&meta, "phi3.rope.scaling.original_context_length", 64);
    char *path = sp_path_join(dir, "wide.gguf");
    (void)remove(path);
    ck_ok(ckpt_gguf_write(path, &meta, arrays, types, 3, &error));
    ckpt_gguf_meta_deinit(&meta);
    free(path);
    free(numbers);
}

START_TEST(test_wide_head)
{
    put_wide_head(1024); /* the tables are taken; what is missing is named */
    refused("convert wide.gguf out", 3, "tensor blk.0.attn_norm.weight: not there");
    put_wide_head(1026);
    refused("convert wide.gguf out", 18, "wide.gguf: a head size of 1026; at most 1024");
    put_wide_head(1 << 18);
    refused("convert wide.gguf out", 18, "wide.gguf: a head size of 262144; at most 1024");
}
END_TEST

START_TEST(test_command_line)
{
    works("convert " GOLDEN "spm.gguf have");
    refused("convert", 2, "IN is missing");
    refused("convert have", 2, "OUT is missing");
    refused("convert have out more", 2, "unexpected argument: more");
    refused("convert have have", 5, "have: it exists already");
    refused("convert have out --to zip", 2, "--to zip: gguf or hf");
    refused("convert have out --dtype Q8_0", 2, "--dtype Q8_0: a directory's weights are");
    refused("convert have out.gguf --dtype Q4_0", 2, "--dtype Q4_0: GGUF is written as");
    refused("convert " GOLDEN "spm.gguf out.gguf", 2, "is a GGUF file already");
    refused("convert nothing out", 4, "nothing");
    put_text(dir, "text", "not a model at all, this is");
    refused("convert text out", 3, "text: not a GGUF file");
}
END_TEST

/* ---- directories that GGUF has no words for ---- */

static void config_refused(const char *key, json_t *value, int status, const char *part)
{
    char *path = sp_path_join(dir, "have/config.json");
    json_t *config;
    ck_ok(sp_json_load(path, 1 << 20, &config, &error));
    json_t *before = json_incref(json_object_get(config, key));
    json_object_set_new(config, key, value);
    ck_assert_int_eq(json_dump_file(config, path, 0), 0);
    refused("convert have out.gguf", status, part);
    json_object_set_new(config, key, before);
    ck_assert_int_eq(json_dump_file(config, path, 0), 0);
    json_decref(config);
    free(path);
}

START_TEST(test_directories)
{
    works("convert " GOLDEN "bpe.gguf have");
    config_refused("model_type", json_string("bloom"), 18, "model_type \"bloom\"");
    config_refused("model_type", json_string("qwen2"), 18,
                   "rope_scaling of type llama3 can't be written as GGUF");
    config_refused("attention_bias", json_true(), 3, "self_attn.q_proj.bias: not there");
    config_refused("hidden_act", json_string("gelu"), 18, "hidden_act \"gelu\"");
    config_refused("rope_scaling", json_pack("{s:s, s:f}", "rope_type", "ntk", "factor", 2.0), 18,
                   "rope_scaling of type \"ntk\"");
    config_refused("num_hidden_layers", json_integer(3), 3,
                   "tensor model.layers.2.input_layernorm.weight: not there");
    config_refused("num_hidden_layers", json_integer(1), 18, "is not part of a llama model");
    config_refused("vocab_size", json_integer(384), 3, "tensor model.embed_tokens.weight");
    config_refused("vocab_size", json_integer(300), 3,
                   "\"bos_token_id\": 380 is not below the vocabulary's size");
    char *tokenizer = get_text(dir, "have/tokenizer.json"), *at = strstr(tokenizer, "{1,3}");
    ck_assert_ptr_nonnull(at);
    at[3] = '2';
    put_text(dir, "have/tokenizer.json", tokenizer);
    refused("convert have out.gguf", 18, "field \"pre_tokenizer\"");
    free(tokenizer);
    char *path = sp_path_join(dir, "have/tokenizer.json");
    ck_assert_int_eq(remove(path), 0);
    refused("convert have out.gguf", 4, "tokenizer.json");
    free(path);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("convert_refused");
    TCase *c = tcase_create("refused");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, test_metadata);
    tcase_add_test(c, test_tokenizer);
    tcase_add_test(c, test_tokenizer_from_elsewhere);
    tcase_add_test(c, test_numbers);
    tcase_add_test(c, test_wide_head);
    tcase_add_test(c, test_command_line);
    tcase_add_test(c, test_directories);
    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

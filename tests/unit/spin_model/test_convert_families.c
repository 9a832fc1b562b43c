/* spin-model convert for every family: what a GGUF file holds of a checkpoint, number by number,
 * and that the way back gives the checkpoint again. That llama.cpp computes the same from such
 * files is what tests/golden/gguf/check_families.py shows. */
#include <math.h>

#include "common/base/json.h"
#include "common/checkpoint/gguf.h"
#include "common/checkpoint/hf_dir.h"
#include "common/model/config.h"
#include "tests/unit/spin_model/tool.h"

#define ARCH SPIN_SOURCE_ROOT "/tests/golden/model/arch/"

static struct sp_error error;

static const struct family {
    const char *fixture, *architecture;
    const char *refused; /* part of the message, where it can't be written */
    int32_t context;     /* shortened to the window; 0: as it was */
} families[] = {
    {"llama3", "llama", NULL, 0},
    {"llama-linear", "llama", NULL, 0},
    {"llama-dynamic", "llama", NULL, 0},
    {"qwen2", "qwen2", NULL, 6},
    {"qwen3", "qwen3", NULL, 0},
    {"qwen3-yarn", "qwen3", "rope_scaling of type yarn can't be written as GGUF", 0},
    {"smollm3", "smollm3", NULL, 0},
    {"phi3", "phi3", NULL, 0},
    {"phi3-longrope", "phi3", NULL, 0},
    {"gemma2", "gemma2", "query_pre_attn_scalar can't be written as GGUF", 0},
    {"gemma2-even", "gemma2", NULL, 0},
    {"gemma3-third", "gemma3", NULL, 0},
    {"gpt2", "gpt2", NULL, 0},
    {"gpt-neox", "gptneox", NULL, 0},
    {"gpt-neox-serial", "gptneox", NULL, 0},
};

static void shell(const char *format, const char *a, const char *b)
{
    char *command = sp_xprintf(format, a, b);
    ck_assert_msg(system(command) == 0, "%s", command);
    free(command);
}

/* The fixture with a tokenizer of its 37 ids: three specials and characters. */
static void make_checkpoint(const char *fixture)
{
    json_t *added = json_array(), *vocab = json_pack("{s:i}", "\xe2\x96\x81", 3);
    static const char *const specials[] = {"<unk>", "<s>", "</s>"};
    for (int id = 0; id < 3; id++) {
        json_object_set_new(vocab, specials[id], json_integer(id));
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id,
                                               "content", specials[id], "single_word", 0, "lstrip",
                                               0, "rstrip", 0, "normalized", 0, "special", 1));
    }
    for (int id = 4; id < 30; id++)
        json_object_set_new(vocab, (char[]){(char)('a' + id - 4), 0}, json_integer(id));
    json_t *model = json_pack("{s:s, s:s, s:b, s:b, s:o, s:[]}", "type", "BPE", "unk_token",
                              "<unk>", "fuse_unk", 1, "byte_fallback", 0, "vocab", vocab, "merges");
    json_t *normalizer = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String",
                                   " ", "content", "\xe2\x96\x81");
    json_t *tokenizer = json_pack("{s:s, s:o, s:o, s:n, s:n, s:n, s:o}", "version", "1.0",
                                  "added_tokens", added, "normalizer", normalizer, "pre_tokenizer",
                                  "post_processor", "decoder", "model", model);
    ck_assert_ptr_nonnull(tokenizer);
    char *made = sp_xprintf("mkdir %s/hf && cp " ARCH "%s/config.json %s/hf", dir, fixture, dir);
    ck_assert_int_eq(system(made), 0);
    free(made);
    char *path = sp_path_join(dir, "hf/tokenizer.json");
    ck_assert_int_eq(json_dump_file(tokenizer, path, 0), 0);
    json_decref(tokenizer);
    free(path);
}

/* ---- numbers in the GGUF file ---- */

enum order { SAME, TURNED, BY_PART, DEALT, PLUS_ONE };

static const struct row {
    const char *fixture, *gguf, *stored;
    enum order order;
    int heads;
} rows[] = {
    {"llama3", "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", DEALT, 4},
    {"llama3", "blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight", DEALT, 2},
    {"llama3", "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias", DEALT, 2},
    {"llama3", "blk.0.ffn_gate.bias", "model.layers.0.mlp.gate_proj.bias", SAME, 0},
    {"smollm3", "blk.3.attn_q.weight", "model.layers.3.self_attn.q_proj.weight", DEALT, 4},
    {"qwen2", "blk.2.attn_q.weight", "model.layers.2.self_attn.q_proj.weight", SAME, 0},
    {"qwen2", "blk.2.attn_q.bias", "model.layers.2.self_attn.q_proj.bias", SAME, 0},
    {"qwen3", "blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight", SAME, 0},
    {"phi3", "blk.0.attn_qkv.weight", "model.layers.0.self_attn.qkv_proj.weight", SAME, 0},
    {"phi3", "blk.1.ffn_up.weight", "model.layers.1.mlp.gate_up_proj.weight", SAME, 0},
    {"gemma2-even", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", PLUS_ONE, 0},
    {"gemma2-even", "blk.2.post_attention_norm.weight",
     "model.layers.2.post_attention_layernorm.weight", PLUS_ONE, 0},
    {"gemma2-even", "blk.2.ffn_norm.weight", "model.layers.2.pre_feedforward_layernorm.weight",
     PLUS_ONE, 0},
    {"gemma3-third", "blk.1.post_ffw_norm.weight",
     "model.layers.1.post_feedforward_layernorm.weight", PLUS_ONE, 0},
    {"gemma3-third", "blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight", PLUS_ONE,
     0},
    {"gemma3-third", "output_norm.weight", "model.norm.weight", PLUS_ONE, 0},
    {"gemma3-third", "token_embd.weight", "model.embed_tokens.weight", SAME, 0},
    {"gpt2", "position_embd.weight", "transformer.wpe.weight", SAME, 0},
    {"gpt2", "blk.0.attn_qkv.weight", "transformer.h.0.attn.c_attn.weight", TURNED, 0},
    {"gpt2", "blk.1.ffn_down.weight", "transformer.h.1.mlp.c_proj.weight", TURNED, 0},
    {"gpt2", "blk.1.attn_output.bias", "transformer.h.1.attn.c_proj.bias", SAME, 0},
    {"gpt-neox", "blk.1.attn_qkv.weight", "gpt_neox.layers.1.attention.query_key_value.weight",
     BY_PART, 4},
    {"gpt-neox", "blk.1.attn_qkv.bias", "gpt_neox.layers.1.attention.query_key_value.bias", BY_PART,
     4},
    {"gpt-neox", "output.weight", "embed_out.weight", SAME, 0},
};

/* Element (r, c) of the GGUF tensor, of the stored one's numbers. */
static float expected(const struct row *row, const float *stored, int64_t n_rows, int64_t n_cols,
                      int64_t r, int64_t c)
{
    int64_t size = row->heads ? n_rows / row->heads : 0, at = r % (size ? size : 1);
    switch (row->order) {
    case TURNED: /* (in, out) */
        return stored[c * n_rows + r];
    case DEALT: /* neighbours here are halves there */
        return stored[(r / size * size + at / 2 + at % 2 * (size / 2)) * n_cols + c];
    case BY_PART: /* queries of all heads, keys, values here; head by head there */
        size /= 3;
        at = r % (size * row->heads);
        return stored[((at / size * 3 + r / (size * row->heads)) * size + at % size) * n_cols + c];
    case PLUS_ONE:
        return stored[r * n_cols + c] + 1;
    case SAME:
        break;
    }
    return stored[r * n_cols + c];
}

static void expect_numbers(const char *fixture, const struct ckpt_gguf *gguf,
                           const struct ckpt *ckpt)
{
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        if (strcmp(rows[i].fixture, fixture) != 0)
            continue;
        const struct ckpt_gguf_tensor *t = ckpt_gguf_find(gguf, rows[i].gguf);
        const struct ckpt_tensor *stored = ckpt_find(ckpt, rows[i].stored);
        ck_assert_msg(t && stored && t->count == stored->count, "%s", rows[i].gguf);
        int64_t n_rows = t->shape[0], n_cols = t->dims == 2 ? t->shape[1] : 1;
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t c = 0; c < n_cols; c++) {
                float have, want = expected(&rows[i], (const float *)(const void *)stored->data,
                                            n_rows, n_cols, r, c);
                memcpy(&have, t->data + (size_t)(r * n_cols + c) * sizeof(have), sizeof(have));
                ck_assert_msg(have == want, "%s: %s (%d, %d): %g, not %g", fixture, rows[i].gguf,
                              (int)r, (int)c, (double)have, (double)want);
            }
    }
}

/* ---- the way back ---- */

static struct ckpt *open_dir(const char *name)
{
    char *path = sp_path_join(dir, name);
    struct ckpt *ckpt;
    ck_ok(ckpt_open(path, &ckpt, &error));
    free(path);
    return ckpt;
}

static void expect_same_tensors(const struct ckpt *a, const struct ckpt *b, bool rounded)
{
    ck_assert_uint_eq(ckpt_count(a), ckpt_count(b));
    for (size_t i = 0; i < ckpt_count(a); i++) {
        const struct ckpt_tensor *x = ckpt_at(a, i), *y = ckpt_find(b, x->name);
        ck_assert_msg(y && y->count == x->count && y->dims == x->dims, "%s", x->name);
        for (size_t k = 0; k < x->count; k++) {
            float p, q;
            memcpy(&p, x->data + k * sizeof(p), sizeof(p));
            memcpy(&q, y->data + k * sizeof(q), sizeof(q));
            ck_assert_msg(p == q || (rounded && fabsf(p - q) < 3e-7f), "%s: element %zu", x->name,
                          k);
        }
    }
}

static void expect_same_config(const struct family *family)
{
    struct model_config a, b;
    char *before = sp_path_join(dir, "hf"), *after = sp_path_join(dir, "back");
    ck_ok(model_config_load(before, &a, &error));
    ck_ok(model_config_load(after, &b, &error));
    if (family->context) {
        ck_assert_int_eq(b.context, family->context);
        b.context = a.context;
        b.max_positions = a.max_positions;
        b.window = a.window;
        memcpy(b.layer_bits, a.layer_bits, sizeof(a.layer_bits));
    }
    if (a.scaling.type == MODEL_ROPE_DYNAMIC) /* up to its switch, which is the context, none */
        a.scaling = b.scaling;
    /* Numbers pass through fp32. */
    ck_assert(fabs(a.scaling.attention_factor - b.scaling.attention_factor) < 1e-6);
    a.scaling.attention_factor = b.scaling.attention_factor;
    ck_assert(a.rms_eps == b.rms_eps && a.rope_theta == b.rope_theta);
    ck_assert(a.local_theta == b.local_theta && a.rotary == b.rotary);
    ck_assert(a.attention_scalar == b.attention_scalar && a.window == b.window);
    ck_assert(a.attention_softcap == b.attention_softcap && a.logit_softcap == b.logit_softcap);
    ck_assert(a.context == b.context && a.max_positions == b.max_positions);
    ck_assert(a.tie_embeddings == b.tie_embeddings && a.n_params == b.n_params);
    ck_assert_str_eq(a.model_type, b.model_type);
    ck_assert(memcmp(&a.traits, &b.traits, sizeof(a.traits)) == 0);
    ck_assert(memcmp(&a.scaling, &b.scaling, sizeof(a.scaling)) == 0);
    ck_assert(memcmp(a.layer_bits, b.layer_bits, sizeof(a.layer_bits)) == 0);
    free(before);
    free(after);
}

START_TEST(there_and_back)
{
    const struct family *family = &families[_i];
    make_checkpoint(family->fixture);
    shell("cp " ARCH "%s/model.safetensors %s/hf", family->fixture, dir);
    if (family->refused) {
        ck_assert_int_eq(tool("convert hf out.gguf"), 18);
        char *errors = get_text(dir, ".err");
        ck_assert_msg(strstr(errors, family->refused), "%s", errors);
        free(errors);
        return;
    }
    works("convert hf out.gguf");
    char *path = sp_path_join(dir, "out.gguf");
    struct ckpt_gguf *gguf;
    struct ckpt_gguf_text architecture;
    ck_ok(ckpt_gguf_open(path, &gguf, &error));
    ck_ok(ckpt_gguf_text(gguf, "general.architecture", &architecture, &error));
    ck_assert(strlen(family->architecture) == architecture.length &&
              memcmp(architecture.data, family->architecture, architecture.length) == 0);
    struct ckpt *before = open_dir("hf");
    expect_numbers(family->fixture, gguf, before);
    works("convert out.gguf back");
    struct ckpt *after = open_dir("back");
    expect_same_tensors(before, after, strncmp(family->fixture, "gemma", 5) == 0);
    expect_same_config(family);
    ckpt_close(before);
    ckpt_close(after);
    ckpt_gguf_close(gguf);
    free(path);
}
END_TEST

/* A GGUF file doesn't say which GELU: another one than the family's would come back as that. */
static const struct {
    const char *fixture, *key, *value;
} refusals[] = {
    {"gpt2", "activation_function", "\"gelu\""},
    {"gpt-neox", "hidden_act", "\"gelu_fast\""},
    {"gemma2-even", "layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\"]"},
    {"gemma2-even", "layer_types",
     "[\"full_attention\",\"sliding_attention\",\"sliding_attention\"]"},
};

START_TEST(fields_without_a_word_are_refused)
{
    make_checkpoint(refusals[_i].fixture);
    char *path = sp_path_join(dir, "hf/config.json"), *part;
    json_t *config;
    json_error_t unused;
    ck_ok(sp_json_load(path, 1 << 20, &config, &error));
    json_object_set_new(config, refusals[_i].key,
                        json_loads(refusals[_i].value, JSON_DECODE_ANY, &unused));
    ck_assert_int_eq(json_dump_file(config, path, 0), 0);
    json_decref(config);
    free(path);
    shell("cp " ARCH "%s/model.safetensors %s/hf", refusals[_i].fixture, dir);
    ck_assert_int_eq(tool("convert hf out.gguf"), 18);
    char *errors = get_text(dir, ".err");
    part = sp_xprintf("%s can't be written as GGUF", refusals[_i].key);
    ck_assert_msg(strstr(errors, part), "%s", errors);
    free(errors);
    free(part);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("convert_families");
    TCase *c = tcase_create("families");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_loop_test(c, there_and_back, 0, (int)SP_COUNT(families));
    tcase_add_loop_test(c, fields_without_a_word_are_refused, 0, (int)SP_COUNT(refusals));
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

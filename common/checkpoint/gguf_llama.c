#include "common/checkpoint/gguf_llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/checkpoint/gguf_internal.h"

#define MAX_SIZE (1 << 20)
#define MAX_LAYERS 1024
#define MAX_HEADS 1024
/* What transformers assumes for Llama 3.1 and later; their GGUF files hold only the divisors. */
#define LLAMA3_LOW 1.0
#define LLAMA3_HIGH 4.0
#define LLAMA3_CONTEXT 8192

/* ---- names ---- */

static const struct layer_row {
    const char *gguf, *hf;
    int rows, columns; /* an index into the sizes below; columns -1: a vector */
    int permuted;
} layer_rows[] = {
#define HIDDEN 0
#define QUERY 1
#define KEY 2
#define FFN 3
    {"attn_norm", "input_layernorm", HIDDEN, -1, 0},
    {"attn_q", "self_attn.q_proj", QUERY, HIDDEN, 1},
    {"attn_k", "self_attn.k_proj", KEY, HIDDEN, 1},
    {"attn_v", "self_attn.v_proj", KEY, HIDDEN, 0},
    {"attn_output", "self_attn.o_proj", HIDDEN, QUERY, 0},
    {"ffn_norm", "post_attention_layernorm", HIDDEN, -1, 0},
    {"ffn_gate", "mlp.gate_proj", FFN, HIDDEN, 0},
    {"ffn_up", "mlp.up_proj", FFN, HIDDEN, 0},
    {"ffn_down", "mlp.down_proj", HIDDEN, FFN, 0},
};

static struct ckpt_llama_tensor *add(struct ckpt_llama_tensor **at, const char *gguf,
                                     const char *hf, int64_t rows, int64_t columns)
{
    struct ckpt_llama_tensor *t = (*at)++;
    *t = (struct ckpt_llama_tensor){.dims = columns < 0 ? 1 : 2, .shape = {rows, columns}};
    snprintf(t->gguf, sizeof(t->gguf), "%s", gguf);
    snprintf(t->hf, sizeof(t->hf), "%s", hf);
    return t;
}

void ckpt_llama_tensors(const struct ckpt_llama *llama, struct ckpt_llama_tensor **ret,
                        size_t *ret_count)
{
    int64_t sizes[] = {[HIDDEN] = llama->hidden,
                       [QUERY] = (int64_t)llama->heads * llama->head_size,
                       [KEY] = (int64_t)llama->kv_heads * llama->head_size,
                       [FFN] = llama->ffn};
    *ret_count = 2 + (size_t)!llama->tied + (size_t)llama->layers * SP_COUNT(layer_rows);
    *ret = sp_xarray(*ret_count, sizeof(**ret));
    struct ckpt_llama_tensor *at = *ret;
    add(&at, "token_embd.weight", "model.embed_tokens.weight", llama->vocab, llama->hidden);
    for (int32_t layer = 0; layer < llama->layers; layer++)
        for (size_t i = 0; i < SP_COUNT(layer_rows); i++) {
            const struct layer_row *row = &layer_rows[i];
            char gguf[64], hf[96];
            snprintf(gguf, sizeof(gguf), "blk.%d.%s.weight", layer, row->gguf);
            snprintf(hf, sizeof(hf), "model.layers.%d.%s.weight", layer, row->hf);
            struct ckpt_llama_tensor *t =
                add(&at, gguf, hf, sizes[row->rows], row->columns < 0 ? -1 : sizes[row->columns]);
            if (row->permuted)
                t->permuted = row->rows == QUERY ? llama->heads : llama->kv_heads;
        }
    add(&at, "output_norm.weight", "model.norm.weight", llama->hidden, -1);
    if (!llama->tied)
        add(&at, "output.weight", "lm_head.weight", llama->vocab, llama->hidden);
}

void ckpt_llama_permute(const float *from, int64_t rows, int64_t columns, int32_t heads, bool undo,
                        float *to)
{
    int64_t size = rows / heads, half = size / 2;
    for (int64_t head = 0; head < heads; head++)
        for (int64_t i = 0; i < half; i++)
            for (int64_t part = 0; part < 2; part++) {
                int64_t halves = head * size + part * half + i; /* transformers */
                int64_t pairs = head * size + i * 2 + part;     /* llama.cpp */
                memcpy(to + (undo ? halves : pairs) * columns,
                       from + (undo ? pairs : halves) * columns, (size_t)columns * sizeof(*to));
            }
}

/* Section "Llama 3.1" of the models' release notes: low frequencies are divided by the factor, high
 * ones left, those between go over smoothly. */
void ckpt_llama_rope_factors(const struct ckpt_llama *llama, float *to)
{
    double low_length = llama->rope_context / llama->rope_low;
    double high_length = llama->rope_context / llama->rope_high;
    for (int32_t i = 0; i < llama->head_size / 2; i++) {
        double frequency = pow(llama->rope_theta, -2.0 * i / llama->head_size);
        double length = 2 * M_PI / frequency;
        double smooth =
            (llama->rope_context / length - llama->rope_low) / (llama->rope_high - llama->rope_low);
        if (length < high_length)
            to[i] = 1;
        else if (length > low_length)
            to[i] = (float)llama->rope_factor;
        else
            to[i] = (float)(1 / ((1 - smooth) / llama->rope_factor + smooth));
    }
}

/* ---- from a GGUF file ---- */

static enum sp_err need_i32(const struct ckpt_gguf *gguf, const char *key, int64_t max,
                            int32_t *ret, struct sp_error *err)
{
    int64_t value = 0;
    enum sp_err rc = ckpt_gguf_i64(gguf, key, 1, max, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return gguf_missing(rc, err);
}

static enum sp_err opt_i32(const struct ckpt_gguf *gguf, const char *key, int64_t min, int64_t max,
                           int32_t *ret, struct sp_error *err)
{
    int64_t value = *ret;
    enum sp_err rc = ckpt_gguf_opt_i64(gguf, key, min, max, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

static enum sp_err read_sizes(const struct ckpt_gguf *gguf, struct ckpt_llama *l,
                              struct sp_error *err)
{
    enum sp_err rc;
    int32_t experts = 0, value_size, rope_size;
    if ((rc = need_i32(gguf, "llama.embedding_length", MAX_SIZE, &l->hidden, err)) ||
        (rc = need_i32(gguf, "llama.feed_forward_length", MAX_SIZE, &l->ffn, err)) ||
        (rc = need_i32(gguf, "llama.block_count", MAX_LAYERS, &l->layers, err)) ||
        (rc = need_i32(gguf, "llama.attention.head_count", MAX_HEADS, &l->heads, err)) ||
        (rc = need_i32(gguf, "llama.context_length", INT32_MAX, &l->context, err)) ||
        (rc = opt_i32(gguf, "llama.expert_count", 0, INT32_MAX, &experts, err)))
        return rc;
    if (experts > 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: metadata \"llama.expert_count\": %d; mixtures of experts are not "
                       "supported",
                       ckpt_gguf_path(gguf), experts);
    l->kv_heads = l->heads;
    l->head_size = l->hidden / l->heads;
    if ((rc = opt_i32(gguf, "llama.attention.head_count_kv", 1, MAX_HEADS, &l->kv_heads, err)) ||
        (rc = opt_i32(gguf, "llama.attention.key_length", 2, MAX_SIZE, &l->head_size, err)))
        return rc;
    value_size = rope_size = l->head_size;
    if ((rc = opt_i32(gguf, "llama.attention.value_length", 1, MAX_SIZE, &value_size, err)) ||
        (rc = opt_i32(gguf, "llama.rope.dimension_count", 1, MAX_SIZE, &rope_size, err)))
        return rc;
    if (value_size != l->head_size || rope_size != l->head_size || l->head_size % 2 != 0 ||
        l->head_size == 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: head size %d with llama.attention.value_length %d and "
                       "llama.rope.dimension_count %d; they must be equal and even",
                       ckpt_gguf_path(gguf), l->head_size, value_size, rope_size);
    if (l->heads % l->kv_heads != 0)
        return sp_fail(err, SP_EFORMAT,
                       "%s: metadata \"llama.attention.head_count\": %d is not a multiple of "
                       "llama.attention.head_count_kv, %d",
                       ckpt_gguf_path(gguf), l->heads, l->kv_heads);
    return SP_OK;
}

/* The divisors of a Llama 3.1 file, recognized by computing them again. */
static enum sp_err read_rope_factors(const struct ckpt_gguf *gguf, struct ckpt_llama *l,
                                     struct sp_error *err)
{
    const struct ckpt_gguf_tensor *t = ckpt_gguf_find(gguf, "rope_freqs.weight");
    if (t == NULL)
        return SP_OK;
    size_t count = (size_t)l->head_size / 2;
    if (t->type != CKPT_GGUF_F32 || t->count != count || t->dims != 1)
        return sp_fail(err, SP_EFORMAT, "%s: tensor rope_freqs.weight: not %zu numbers of type F32",
                       ckpt_gguf_path(gguf), count);
    float *have = sp_xarray(count, sizeof(*have)), *want = sp_xarray(count, sizeof(*want));
    ckpt_gguf_to_f32(t->type, t->data, count, have);
    l->rope = CKPT_ROPE_LLAMA3;
    l->rope_low = LLAMA3_LOW;
    l->rope_high = LLAMA3_HIGH;
    l->rope_context = LLAMA3_CONTEXT;
    l->rope_factor = have[count - 1];
    enum sp_err rc = opt_i32(gguf, "llama.rope.scaling.original_context_length", 1, INT32_MAX,
                             &l->rope_context, err);
    ckpt_llama_rope_factors(l, want);
    for (size_t i = 0; rc == SP_OK && i < count; i++)
        if (!(fabsf(have[i] - want[i]) <= 1e-4f * want[i]))
            rc = sp_fail(err, SP_EUNSUPPORTED,
                         "%s: tensor rope_freqs.weight: element %zu is %g; only the divisors of "
                         "Llama 3.1 (%g there) have a place in config.json",
                         ckpt_gguf_path(gguf), i, (double)have[i], (double)want[i]);
    free(have);
    free(want);
    return rc;
}

static enum sp_err read_numbers(const struct ckpt_gguf *gguf, struct ckpt_llama *l,
                                struct sp_error *err)
{
    struct ckpt_gguf_text scaling = {"none", 4};
    l->rope_theta = 10000;
    enum sp_err rc;
    if ((rc = ckpt_gguf_f64(gguf, "llama.attention.layer_norm_rms_epsilon", &l->rms_eps, err)) ||
        (rc = ckpt_gguf_opt_f64(gguf, "llama.rope.freq_base", &l->rope_theta, err)) ||
        (rc = ckpt_gguf_opt_text(gguf, "llama.rope.scaling.type", &scaling, err)))
        return gguf_missing(rc, err);
    if (!(l->rms_eps > 0 && l->rms_eps < 1))
        return sp_fail(err, SP_EFORMAT,
                       "%s: metadata \"llama.attention.layer_norm_rms_epsilon\": %g is not between "
                       "0 and 1",
                       ckpt_gguf_path(gguf), l->rms_eps);
    if (!(l->rope_theta >= 1 && l->rope_theta <= 1e12))
        return sp_fail(err, SP_EFORMAT,
                       "%s: metadata \"llama.rope.freq_base\": %g is not between 1 and 1e12",
                       ckpt_gguf_path(gguf), l->rope_theta);
    if (scaling.length == 6 && memcmp(scaling.data, "linear", 6) == 0) {
        l->rope = CKPT_ROPE_LINEAR;
        l->rope_factor = 1;
        rc = ckpt_gguf_f64(gguf, "llama.rope.scaling.factor", &l->rope_factor, err);
        return gguf_missing(rc, err);
    }
    if (scaling.length != 4 || memcmp(scaling.data, "none", 4) != 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: metadata \"llama.rope.scaling.type\": \"%.*s\" is not supported",
                       ckpt_gguf_path(gguf), (int)SP_MIN(scaling.length, 40), scaling.data);
    return read_rope_factors(gguf, l, err);
}

static enum sp_err read_ids(const struct ckpt_gguf *gguf, struct ckpt_llama *l,
                            struct sp_error *err)
{
    int32_t eos = -1, eot = -1, most = l->vocab - 1;
    l->bos_id = l->pad_id = l->unk_id = -1;
    enum sp_err rc;
    if ((rc = opt_i32(gguf, "tokenizer.ggml.bos_token_id", 0, most, &l->bos_id, err)) ||
        (rc = opt_i32(gguf, "tokenizer.ggml.padding_token_id", 0, most, &l->pad_id, err)) ||
        (rc = opt_i32(gguf, "tokenizer.ggml.unknown_token_id", 0, most, &l->unk_id, err)) ||
        (rc = opt_i32(gguf, "tokenizer.ggml.eos_token_id", 0, most, &eos, err)) ||
        (rc = opt_i32(gguf, "tokenizer.ggml.eot_token_id", 0, most, &eot, err)))
        return rc;
    if (eos >= 0)
        l->eos_ids[l->n_eos++] = eos;
    if (eot >= 0 && eot != eos)
        l->eos_ids[l->n_eos++] = eot;
    return SP_OK;
}

/* Every tensor of the model is there with its shape, and nothing else. */
static enum sp_err check_tensors(const struct ckpt_gguf *gguf, const struct ckpt_llama *l,
                                 struct sp_error *err)
{
    struct ckpt_llama_tensor *tensors;
    size_t count, known = 0;
    ckpt_llama_tensors(l, &tensors, &count);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        const struct ckpt_llama_tensor *want = &tensors[i];
        const struct ckpt_gguf_tensor *t = ckpt_gguf_find(gguf, want->gguf);
        if (t == NULL)
            rc = sp_fail(err, SP_EFORMAT, "%s: tensor %s: not there", ckpt_gguf_path(gguf),
                         want->gguf);
        else if (t->dims != want->dims || t->shape[0] != want->shape[0] ||
                 (t->dims == 2 && t->shape[1] != want->shape[1]))
            rc = sp_fail(err, SP_EFORMAT,
                         "%s: tensor %s: %d dimensions with %lld rows, the metadata ask for %d "
                         "with %lld (and %lld columns)",
                         ckpt_gguf_path(gguf), want->gguf, t->dims, (long long)t->shape[0],
                         want->dims, (long long)want->shape[0], (long long)want->shape[1]);
    }
    for (size_t i = 0; rc == SP_OK && i < ckpt_gguf_count(gguf); i++) {
        const char *name = ckpt_gguf_at(gguf, i)->name;
        bool found = strcmp(name, "rope_freqs.weight") == 0;
        for (known = 0; !found && known < count; known++)
            found = strcmp(name, tensors[known].gguf) == 0;
        if (!found)
            rc = sp_fail(err, SP_EUNSUPPORTED, "%s: tensor %.200s: not known in a Llama model",
                         ckpt_gguf_path(gguf), name);
    }
    free(tensors);
    return rc;
}

enum sp_err ckpt_llama_from_gguf(const struct ckpt_gguf *gguf, struct ckpt_llama *ret,
                                 struct sp_error *err)
{
    struct ckpt_gguf_text architecture = {0};
    struct ckpt_llama l = {0};
    enum sp_err rc = ckpt_gguf_text(gguf, "general.architecture", &architecture, err);
    if (rc != SP_OK)
        return gguf_missing(rc, err);
    if (architecture.length != 5 || memcmp(architecture.data, "llama", 5) != 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: metadata \"general.architecture\": \"%.*s\" is not supported; "
                       "supported: llama",
                       ckpt_gguf_path(gguf), (int)SP_MIN(architecture.length, 40),
                       architecture.data);
    int32_t parts = 0;
    rc = opt_i32(gguf, "split.count", 0, INT32_MAX, &parts, err);
    if (rc == SP_OK && parts > 1)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: metadata \"split.count\": one of %d parts; join them with "
                       "llama-gguf-split --merge first",
                       ckpt_gguf_path(gguf), parts);
    const struct ckpt_gguf_tensor *table = ckpt_gguf_find(gguf, "token_embd.weight");
    if (rc == SP_OK && (table == NULL || table->dims != 2 || table->shape[0] > SP_MAX_VOCAB))
        return sp_fail(err, SP_EFORMAT,
                       "%s: tensor token_embd.weight: not there, or not a table of at most %d rows",
                       ckpt_gguf_path(gguf), SP_MAX_VOCAB);
    l.tied = ckpt_gguf_find(gguf, "output.weight") == NULL;
    if (rc == SP_OK)
        rc = read_sizes(gguf, &l, err);
    if (rc != SP_OK)
        return rc;
    l.vocab = (int32_t)table->shape[0];
    if ((rc = read_numbers(gguf, &l, err)) || (rc = read_ids(gguf, &l, err)) ||
        (rc = check_tensors(gguf, &l, err)))
        return rc;
    *ret = l;
    return SP_OK;
}

/* A configuration from the metadata and tensors of a GGUF file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/model/gguf_impl.h"

#define MAX_SIZE (1 << 20)
#define MAX_HEADS 1024

struct reader {
    const struct ckpt_gguf *gguf;
    const char *path;
    const struct model_arch *arch;
    struct model_config *c;
    char key[GGUF_KEY_BYTES];
};

/* ---- metadata ---- */

static enum sp_err need_i32(struct reader *r, const char *key, int64_t max, int32_t *ret,
                            struct sp_error *err)
{
    int64_t value = 0;
    enum sp_err rc = ckpt_gguf_i64(r->gguf, gguf_key(r->arch, key, r->key), 1, max, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return gguf_missing(rc, err);
}

static enum sp_err opt_i32(struct reader *r, const char *key, int64_t min, int64_t max,
                           int32_t *ret, struct sp_error *err)
{
    int64_t value = *ret;
    enum sp_err rc =
        ckpt_gguf_opt_i64(r->gguf, gguf_key(r->arch, key, r->key), min, max, &value, err);
    if (rc == SP_OK)
        *ret = (int32_t)value;
    return rc;
}

/* A number that was fp32, with no more digits than tell it from its neighbours: 1e-05, not
 * 9.999999747378752e-06. */
static double shortest(double value)
{
    char text[64];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if ((float)strtod(text, NULL) == (float)value)
            return strtod(text, NULL);
    }
    return value;
}

/* Leaves *ret as it is where the key is absent. */
static enum sp_err opt_f64(struct reader *r, const char *key, double min, double max, double *ret,
                           struct sp_error *err)
{
    double value = *ret;
    enum sp_err rc = ckpt_gguf_opt_f64(r->gguf, gguf_key(r->arch, key, r->key), &value, err);
    if (rc == SP_OK && !(value >= min && value <= max))
        return sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": %g is not between %g and %g", r->path,
                       r->key, value, min, max);
    if (rc == SP_OK)
        *ret = shortest(value);
    return rc;
}

/* Every entry of this architecture is understood, or says nothing. */
static enum sp_err check_keys(struct reader *r, struct sp_error *err)
{
    static const char *const known[] = {
        "block_count", "context_length", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.value_length", "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base",
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
        "rope.scaling.attn_factor", GGUF_LLAMA3_LOW_KEY, GGUF_LLAMA3_HIGH_KEY,
        /* of no consequence */
        "vocab_size", "tensor_data_layout", "rope.scaling.finetuned"};
    size_t n = strlen(r->arch->gguf);
    for (size_t i = 0; i < ckpt_gguf_key_count(r->gguf); i++) {
        const char *key = ckpt_gguf_key(r->gguf, i), *name = key + n + 1;
        bool found = false, on = true;
        int64_t number;
        if (strncmp(key, r->arch->gguf, n) != 0 || key[n] != '.')
            continue;
        for (size_t k = 0; !found && k < SP_COUNT(known); k++)
            found = strcmp(known[k], name) == 0;
        found |= r->arch->gguf_window && strcmp(name, "attention.sliding_window") == 0;
        found |= r->arch->window == MODEL_WINDOW_MIXED &&
                 strcmp(name, "attention.sliding_window_pattern") == 0;
        found |= r->arch->capped && (strcmp(name, "attn_logit_softcapping") == 0 ||
                                     strcmp(name, "final_logit_softcapping") == 0);
        found |= r->arch->local_theta > 0 && strcmp(name, "rope.freq_base_swa") == 0;
        found |= r->arch->traits.parallel && strcmp(name, "use_parallel_residual") == 0;
        /* A window as long as the context leaves nothing out. */
        found |= strcmp(name, "attention.sliding_window") == 0 &&
                 ckpt_gguf_i64(r->gguf, key, r->c->context, INT64_MAX, &number, NULL) == SP_OK;
        if (found || (ckpt_gguf_i64(r->gguf, key, 0, 0, &number, NULL) == SP_OK) ||
            (ckpt_gguf_bool(r->gguf, key, &on, NULL) == SP_OK && !on))
            continue;
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: metadata \"%s\": not supported in a %s model; it may change what the "
                       "model computes",
                       r->path, key, r->arch->gguf);
    }
    return SP_OK;
}

static enum sp_err read_sizes(struct reader *r, struct sp_error *err)
{
    struct model_config *c = r->c;
    enum sp_err rc;
    if ((rc = need_i32(r, "embedding_length", MAX_SIZE, &c->hidden, err)) ||
        (rc = need_i32(r, "feed_forward_length", MAX_SIZE, &c->ffn, err)) ||
        (rc = need_i32(r, "block_count", MODEL_MAX_LAYERS, &c->layers, err)) ||
        (rc = need_i32(r, "attention.head_count", MAX_HEADS, &c->heads, err)) ||
        (rc = need_i32(r, "context_length", INT32_MAX, &c->context, err)))
        return rc;
    c->max_positions = c->context;
    c->kv_heads = c->heads;
    c->head_size = c->hidden / c->heads;
    if ((rc = opt_i32(r, "attention.head_count_kv", 1, MAX_HEADS, &c->kv_heads, err)) ||
        (rc = opt_i32(r, "attention.key_length", 2, MAX_SIZE, &c->head_size, err)))
        return rc;
    if (c->head_size > MODEL_MAX_HEAD_SIZE) /* the tables of rotations have no room for it */
        return sp_fail(err, SP_EUNSUPPORTED, "%s: a head size of %d; at most %d is supported",
                       r->path, c->head_size, MODEL_MAX_HEAD_SIZE);
    int32_t value_size = c->head_size, turning = c->head_size;
    if ((rc = opt_i32(r, "attention.value_length", 1, MAX_SIZE, &value_size, err)) ||
        (rc = opt_i32(r, "rope.dimension_count", 1, MAX_SIZE, &turning, err)))
        return rc;
    bool whole = !r->arch->may_turn_partly && r->arch->rope_theta > 0;
    if (value_size != c->head_size || turning > c->head_size || turning % 2 != 0 ||
        (whole && turning != c->head_size) || c->head_size % 2 != 0 || c->head_size == 0)
        return sp_fail(err, SP_EUNSUPPORTED,
                       "%s: head size %d with %s.attention.value_length %d and "
                       "%s.rope.dimension_count %d; they must be equal and even",
                       r->path, c->head_size, r->arch->gguf, value_size, r->arch->gguf, turning);
    if (c->heads % c->kv_heads != 0)
        return sp_fail(err, SP_EFORMAT,
                       "%s: metadata \"%s.attention.head_count\": %d is not a multiple of "
                       "%s.attention.head_count_kv, %d",
                       r->path, r->arch->gguf, c->heads, r->arch->gguf, c->kv_heads);
    c->rotary = turning == c->head_size ? 0 : turning;
    return SP_OK;
}

/* ---- rotation ---- */

static enum sp_err table_of(struct reader *r, const char *name, const struct ckpt_gguf_tensor **ret,
                            struct sp_error *err)
{
    size_t count = (size_t)model_gguf_table_length(r->c);
    *ret = ckpt_gguf_find(r->gguf, name);
    if (*ret && ((*ret)->type != CKPT_GGUF_F32 || (*ret)->count != count || (*ret)->dims != 1))
        return sp_fail(err, SP_EFORMAT, "%s: tensor %s: not %zu numbers of type F32", r->path, name,
                       count);
    return SP_OK;
}

/* The divisors of a Llama 3.1 file, recognized by computing them again. */
static enum sp_err read_llama3(struct reader *r, const struct ckpt_gguf_tensor *t,
                               struct sp_error *err)
{
    struct model_config *c = r->c;
    float *have = sp_xarray(t->count, sizeof(*have)), *want = sp_xarray(t->count, sizeof(*want));
    ckpt_gguf_to_f32(t->type, t->data, t->count, have);
    c->scaling = (struct model_rope_scaling){.type = MODEL_ROPE_LLAMA3,
                                             .low_freq = GGUF_LLAMA3_LOW,
                                             .high_freq = GGUF_LLAMA3_HIGH,
                                             .original = GGUF_LLAMA3_CONTEXT,
                                             .factor = have[t->count - 1]};
    enum sp_err rc =
        opt_i32(r, "rope.scaling.original_context_length", 1, INT32_MAX, &c->scaling.original, err);
    if (rc == SP_OK)
        rc = opt_f64(r, GGUF_LLAMA3_LOW_KEY, 1e-3, 1e3, &c->scaling.low_freq, err);
    if (rc == SP_OK)
        rc = opt_f64(r, GGUF_LLAMA3_HIGH_KEY, 1e-3, 1e3, &c->scaling.high_freq, err);
    model_gguf_table(c, 0, want);
    for (size_t i = 0; rc == SP_OK && i < t->count; i++)
        if (!(fabsf(have[i] - want[i]) <= 1e-4f * want[i]))
            rc = sp_fail(err, SP_EUNSUPPORTED,
                         "%s: tensor rope_freqs.weight: element %zu is %g; only the divisors of "
                         "Llama 3.1 (%g there) have a place in config.json",
                         r->path, i, (double)have[i], (double)want[i]);
    free(have);
    free(want);
    return rc;
}

static void read_factors(const struct ckpt_gguf_tensor *t, int32_t *ret_n, double *to)
{
    float number;
    *ret_n = (int32_t)t->count;
    for (size_t i = 0; i < t->count; i++) {
        ckpt_gguf_to_f32(t->type, t->data + i * sizeof(number), 1, &number);
        to[i] = shortest((double)number);
    }
}

static enum sp_err read_longrope(struct reader *r, const struct ckpt_gguf_tensor *shorts,
                                 const struct ckpt_gguf_tensor *longs, struct sp_error *err)
{
    struct model_rope_scaling *s = &r->c->scaling;
    s->type = MODEL_ROPE_LONGROPE;
    s->attention_factor = 1;
    read_factors(shorts, &s->n_short, s->short_factor);
    read_factors(longs, &s->n_long, s->long_factor);
    enum sp_err rc =
        need_i32(r, "rope.scaling.original_context_length", INT32_MAX, &s->original, err);
    if (rc == SP_OK)
        rc = opt_f64(r, "rope.scaling.attn_factor", 1e-3, 1e3, &s->attention_factor, err);
    if (rc == SP_OK)
        s->factor = SP_MAX(1, (double)r->c->context / s->original);
    return rc;
}

static enum sp_err read_tables(struct reader *r, struct sp_error *err)
{
    const struct ckpt_gguf_tensor *freqs, *shorts, *longs;
    enum sp_err rc;
    if ((rc = table_of(r, "rope_freqs.weight", &freqs, err)) ||
        (rc = table_of(r, "rope_factors_short.weight", &shorts, err)) ||
        (rc = table_of(r, "rope_factors_long.weight", &longs, err)))
        return rc;
    if (!shorts != !longs || (freqs && shorts))
        return sp_fail(err, SP_EFORMAT,
                       "%s: tensor rope_factors_%s.weight: there without its counterpart", r->path,
                       shorts ? "short" : "long");
    if (freqs)
        return read_llama3(r, freqs, err);
    return shorts ? read_longrope(r, shorts, longs, err) : SP_OK;
}

static enum sp_err read_rotation(struct reader *r, struct sp_error *err)
{
    struct ckpt_gguf_text type = {"none", 4};
    struct model_config *c = r->c;
    enum sp_err rc;
    c->rope_theta = 10000;
    c->local_theta = r->arch->local_theta > 0 ? GGUF_LOCAL_THETA : 0;
    if ((rc = opt_f64(r, "rope.freq_base", 1, 1e12, &c->rope_theta, err)) ||
        (c->local_theta > 0 &&
         (rc = opt_f64(r, "rope.freq_base_swa", 1, 1e12, &c->local_theta, err))) ||
        (rc = ckpt_gguf_opt_text(r->gguf, gguf_key(r->arch, "rope.scaling.type", r->key), &type,
                                 err)))
        return rc;
    if (type.length == 6 && memcmp(type.data, "linear", 6) == 0) {
        c->scaling = (struct model_rope_scaling){.type = MODEL_ROPE_LINEAR};
        rc = opt_f64(r, "rope.scaling.factor", 1, 1e6, &c->scaling.factor, err);
        if (rc == SP_OK && c->scaling.factor < 1)
            rc = sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": not there", r->path, r->key);
        return rc;
    }
    bool none = type.length == 4 && memcmp(type.data, "none", 4) == 0;
    bool longrope = type.length == 8 && memcmp(type.data, "longrope", 8) == 0;
    if (!none && !longrope)
        return sp_fail(err, SP_EUNSUPPORTED, "%s: metadata \"%s\": \"%.*s\" is not supported",
                       r->path, r->key, (int)SP_MIN(type.length, 40), type.data);
    return read_tables(r, err);
}

/* ---- windows, caps, biases ---- */

static enum sp_err read_pattern(struct reader *r, struct sp_error *err)
{
    struct model_config *c = r->c;
    int64_t period = r->arch->window_pattern, *list = NULL;
    size_t count = 0;
    const char *key = gguf_key(r->arch, "attention.sliding_window_pattern", r->key);
    /* One number, or one a layer. */
    enum sp_err rc = ckpt_gguf_has(r->gguf, key)
                         ? ckpt_gguf_i64(r->gguf, key, 0, INT32_MAX, &period, NULL)
                         : SP_OK;
    if (rc != SP_OK) {
        rc = ckpt_gguf_ints(r->gguf, key, &list, &count, err);
        if (rc == SP_OK && count != (size_t)c->layers)
            rc = sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": %zu elements, expected %d", r->path,
                         key, count, c->layers);
    }
    for (int32_t l = 0; rc == SP_OK && l < c->layers; l++) {
        bool full = list ? list[l] == 0 : period > 0 && (l + 1) % period == 0;
        c->layer_bits[l] = full ? MODEL_LAYER_FULL : c->local_theta > 0 ? MODEL_LAYER_LOCAL : 0;
    }
    free(list);
    return rc;
}

static enum sp_err read_layers(struct reader *r, struct sp_error *err)
{
    struct model_config *c = r->c;
    enum sp_err rc = SP_OK;
    if (r->arch->gguf_window) {
        c->window = strcmp(r->arch->gguf, "gemma2") == 0 ? 4096 : 0;
        rc = r->arch->local_theta > 0
                 ? need_i32(r, "attention.sliding_window", INT32_MAX, &c->window, err)
                 : opt_i32(r, "attention.sliding_window", 0, INT32_MAX, &c->window, err);
        if (rc == SP_OK && r->arch->window == MODEL_WINDOW_MIXED && c->window == 0)
            rc = sp_fail(err, SP_EUNSUPPORTED, "%s: metadata \"%s\": 0 is not supported", r->path,
                         r->key);
    }
    if (rc == SP_OK && r->arch->window == MODEL_WINDOW_MIXED)
        rc = read_pattern(r, err);
    for (int32_t l = 0; l < c->layers && r->arch->nope; l++)
        if ((l + 1) % GGUF_NOPE_INTERVAL == 0)
            c->layer_bits[l] |= MODEL_LAYER_NOPE;
    return rc;
}

static enum sp_err read_numbers(struct reader *r, struct sp_error *err)
{
    struct model_config *c = r->c;
    const struct model_arch *arch = r->arch;
    const char *eps = arch->traits.norm == MODEL_NORM_LAYER ? "attention.layer_norm_epsilon"
                                                            : "attention.layer_norm_rms_epsilon";
    enum sp_err rc = ckpt_gguf_f64(r->gguf, gguf_key(arch, eps, r->key), &c->rms_eps, err);
    if (rc != SP_OK)
        return gguf_missing(rc, err);
    if (!(c->rms_eps > 0 && c->rms_eps < 1))
        return sp_fail(err, SP_EFORMAT, "%s: metadata \"%s\": %g is not between 0 and 1", r->path,
                       r->key, c->rms_eps);
    c->rms_eps = shortest(c->rms_eps);
    if (arch->capped) {
        c->attention_softcap = arch->attention_softcap;
        c->logit_softcap = arch->logit_softcap;
        c->attention_scalar = gguf_attention_scalar(arch, c);
        if ((rc = opt_f64(r, "attn_logit_softcapping", 0, 1e6, &c->attention_softcap, err)) ||
            (rc = opt_f64(r, "final_logit_softcapping", 0, 1e6, &c->logit_softcap, err)))
            return rc;
    }
    if (arch->traits.parallel)
        rc = ckpt_gguf_opt_bool(r->gguf, gguf_key(arch, "use_parallel_residual", r->key),
                                &c->traits.parallel, err);
    return rc;
}

static void read_biases(struct reader *r)
{
    struct model_traits *t = &r->c->traits;
    if (r->arch->may_bias && !t->out_bias && ckpt_gguf_find(r->gguf, "blk.0.attn_output.bias"))
        t->qkv_bias = t->out_bias = true;
    if (r->arch->may_bias_ffn && ckpt_gguf_find(r->gguf, "blk.0.ffn_down.bias"))
        t->ffn_bias = true;
}

/* ---- tensors ---- */

static bool is_table(const struct model_config *c, const char *name)
{
    for (int32_t i = 0; i < model_gguf_tables(c); i++)
        if (strcmp(name, model_gguf_table_name(c, i)) == 0)
            return true;
    return false;
}

/* Every tensor of the model is there with its shape, and nothing else. */
static enum sp_err check_tensors(struct reader *r, struct sp_error *err)
{
    struct model_gguf_tensor *tensors;
    size_t count, known;
    model_gguf_tensors(r->c, &tensors, &count);
    enum sp_err rc = SP_OK;
    for (size_t i = 0; rc == SP_OK && i < count; i++) {
        const struct model_gguf_tensor *want = &tensors[i];
        const struct ckpt_gguf_tensor *t = ckpt_gguf_find(r->gguf, want->name);
        if (t == NULL)
            rc = sp_fail(err, SP_EFORMAT, "%s: tensor %s: not there", r->path, want->name);
        else if (t->dims != want->dims || t->shape[0] != want->shape[0] ||
                 (t->dims == 2 && t->shape[1] != want->shape[1]))
            rc = sp_fail(err, SP_EFORMAT,
                         "%s: tensor %s: %d dimensions with %lld rows, the metadata ask for %d "
                         "with %lld (and %lld columns)",
                         r->path, want->name, t->dims, (long long)t->shape[0], want->dims,
                         (long long)want->shape[0], (long long)want->shape[1]);
    }
    for (size_t i = 0; rc == SP_OK && i < ckpt_gguf_count(r->gguf); i++) {
        const char *name = ckpt_gguf_at(r->gguf, i)->name;
        bool found = is_table(r->c, name);
        for (known = 0; !found && known < count; known++)
            found = strcmp(name, tensors[known].name) == 0;
        if (!found)
            rc = sp_fail(err, SP_EUNSUPPORTED, "%s: tensor %.200s: not known in a %s model",
                         r->path, name, r->arch->gguf);
    }
    free(tensors);
    return rc;
}

/* ---- the whole ---- */

static enum sp_err find_arch(struct reader *r, struct sp_error *err)
{
    struct ckpt_gguf_text name = {0};
    char text[41] = "";
    enum sp_err rc = ckpt_gguf_text(r->gguf, "general.architecture", &name, err);
    if (rc != SP_OK)
        return gguf_missing(rc, err);
    snprintf(text, sizeof(text), "%.*s", (int)SP_MIN(name.length, 40), name.data);
    r->arch = model_arch_find_gguf(text);
    if (r->arch == NULL)
        return model_arch_refuse_gguf(text, r->path, err);
    return SP_OK;
}

/* A configuration that the program can't use is refused in the words of config.json. */
static enum sp_err accept(struct reader *r, struct model_config *ret, struct sp_error *err)
{
    json_t *json = model_config_to_json(r->c);
    enum sp_err rc = model_config_parse(json, NULL, r->path, ret, err);
    json_decref(json);
    return gguf_missing(rc, err);
}

enum sp_err model_gguf_read(const struct ckpt_gguf *gguf, struct model_config *ret,
                            struct sp_error *err)
{
    struct model_config *c = sp_xalloc(sizeof(*c)), *done = sp_xalloc(sizeof(*done));
    struct reader r = {.gguf = gguf, .path = ckpt_gguf_path(gguf), .c = c};
    struct ckpt_vocab vocab;
    enum sp_err rc = find_arch(&r, err);
    const struct ckpt_gguf_tensor *table = ckpt_gguf_find(gguf, "token_embd.weight");
    if (rc == SP_OK && (table == NULL || table->dims != 2 || table->shape[0] > SP_MAX_VOCAB))
        rc = sp_fail(err, SP_EFORMAT,
                     "%s: tensor token_embd.weight: not there, or not a table of at most %d rows",
                     r.path, SP_MAX_VOCAB);
    if (rc != SP_OK)
        goto out;
    *c = (struct model_config){.vocab = (int32_t)table->shape[0],
                               .traits = r.arch->traits,
                               .init_std = 0.02,
                               .tie_embeddings = ckpt_gguf_find(gguf, "output.weight") == NULL};
    snprintf(c->model_type, sizeof(c->model_type), "%s", r.arch->model_type);
    if ((rc = read_sizes(&r, err)) || (rc = check_keys(&r, err)) || (rc = read_numbers(&r, err)) ||
        (r.arch->rope_theta > 0 && (rc = read_rotation(&r, err))) || (rc = read_layers(&r, err)) ||
        (rc = ckpt_vocab_ids(gguf, c->vocab, c->context, &vocab, err)))
        goto out;
    read_biases(&r);
    c->bos_id = vocab.bos_id;
    c->pad_id = vocab.pad_id;
    c->n_eos = vocab.n_eos;
    memcpy(c->eos_ids, vocab.eos_ids, sizeof(c->eos_ids));
    rc = accept(&r, done, err);
    r.c = done;
    if (rc == SP_OK)
        rc = check_tensors(&r, err);
    if (rc == SP_OK)
        *ret = *done;
out:
    free(c);
    free(done);
    return rc;
}

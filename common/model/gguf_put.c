/* The metadata of a GGUF file from a configuration. */
#include <stdio.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/gguf_impl.h"

#define LAYERS_OF_27B(arch) (strcmp((arch)->gguf, "gemma2") == 0 ? 46 : 62)

const char *gguf_key(const struct model_arch *arch, const char *key, char to[GGUF_KEY_BYTES])
{
    snprintf(to, GGUF_KEY_BYTES, "%s.%s", arch->gguf, key);
    return to;
}

double gguf_attention_scalar(const struct model_arch *arch, const struct model_config *c)
{
    return c->layers == LAYERS_OF_27B(arch) ? c->hidden / c->heads : c->head_size;
}

int32_t gguf_window_period(const struct model_config *c)
{
    for (int32_t period = 1; period <= c->layers + 1; period++) {
        int32_t l = 0;
        while (l < c->layers &&
               ((l + 1) % period == 0) == ((c->layer_bits[l] & MODEL_LAYER_FULL) != 0))
            l++;
        if (l == c->layers)
            return period;
    }
    return 0;
}

static enum sp_err refuse(const char *what, const char *field, const char *why,
                          struct sp_error *err)
{
    return sp_fail(err, SP_EUNSUPPORTED, "%s: %s can't be written as GGUF: %s", what, field, why);
}

/* ---- what has no word there ---- */

static enum sp_err check_rotation(const struct model_config *c, const struct model_arch *arch,
                                  const char *what, struct sp_error *err)
{
    bool llama = strcmp(arch->gguf, "llama") == 0, phi3 = strcmp(arch->gguf, "phi3") == 0;
    if (c->scaling.type == MODEL_ROPE_YARN)
        return refuse(what, "rope_scaling of type yarn", "llama.cpp has its own rules for it", err);
    if (c->scaling.type == MODEL_ROPE_LLAMA3 && !llama)
        return refuse(what, "rope_scaling of type llama3", "llama.cpp has it in Llama only", err);
    if (c->scaling.type == MODEL_ROPE_LONGROPE && !llama && !phi3)
        return refuse(what, "rope_scaling of type longrope", "llama.cpp has it in Phi-3 only", err);
    if (c->scaling.type == MODEL_ROPE_LONGROPE && c->scaling.n_long == 0)
        return refuse(what, "rope_scaling without long_factor", "it has to be there", err);
    for (int32_t l = 0; l < c->layers && arch->nope; l++)
        if (((l + 1) % GGUF_NOPE_INTERVAL == 0) != ((c->layer_bits[l] & MODEL_LAYER_NOPE) != 0))
            return refuse(what, "no_rope_layers",
                          "llama.cpp leaves out the rotation of every fourth layer", err);
    return SP_OK;
}

static enum sp_err check_caps(const struct model_config *c, const struct model_arch *arch,
                              const char *what, struct sp_error *err)
{
    if (!arch->capped)
        return SP_OK;
    bool always = arch->attention_softcap > 0;
    if ((c->attention_softcap > 0) != always)
        return refuse(what, "attn_logit_softcapping",
                      always ? "llama.cpp always has one" : "llama.cpp has none", err);
    if ((c->logit_softcap > 0) != always)
        return refuse(what, "final_logit_softcapping",
                      always ? "llama.cpp always has one" : "llama.cpp has none", err);
    if (c->attention_scalar != gguf_attention_scalar(arch, c))
        return refuse(what, "query_pre_attn_scalar", "llama.cpp has the size of a head there", err);
    return SP_OK;
}

static enum sp_err check(const struct model_config *c, const struct model_arch *arch,
                         const char *what, struct sp_error *err)
{
    if (c->traits.qkv_bias != arch->traits.qkv_bias && !arch->gguf_bias)
        return refuse(what, c->traits.qkv_bias ? "attention_bias = true" : "attention_bias = false",
                      "llama.cpp has no such model of this family", err);
    if (c->traits.ffn_bias != arch->traits.ffn_bias && !arch->gguf_bias)
        return refuse(what, "mlp_bias = true", "llama.cpp has no such model of this family", err);
    if (c->tie_embeddings != arch->tied && arch->gguf_tied_only)
        return refuse(
            what, c->tie_embeddings ? "tie_word_embeddings = true" : "tie_word_embeddings = false",
            "llama.cpp has no such model of this family", err);
    if (c->traits.activation != arch->traits.activation)
        return refuse(what, arch->keys->activation, "there is one form of GELU for this family",
                      err);
    if (arch->names->qkv && c->heads * c->head_size != c->hidden)
        return refuse(what, "head_dim", "the heads have to fill the hidden size", err);
    /* Without a layer that has a window llama.cpp aborts. */
    if (arch->window == MODEL_WINDOW_MIXED && gguf_window_period(c) <= 1)
        return refuse(what, "layer_types", "every n-th layer has to be full, the others not", err);
    enum sp_err rc = check_rotation(c, arch, what, err);
    return rc == SP_OK ? check_caps(c, arch, what, err) : rc;
}

/* ---- the metadata ---- */

struct put {
    const struct model_arch *arch;
    struct ckpt_gguf_meta *meta;
    char key[GGUF_KEY_BYTES];
};

static void put_i32(struct put *p, const char *key, int32_t value)
{
    ckpt_gguf_put_u32(p->meta, gguf_key(p->arch, key, p->key), (uint32_t)value);
}

static void put_f64(struct put *p, const char *key, double value)
{
    ckpt_gguf_put_f32(p->meta, gguf_key(p->arch, key, p->key), (float)value);
}

static void put_text(struct put *p, const char *key, const char *value)
{
    ckpt_gguf_put_text(p->meta, gguf_key(p->arch, key, p->key), value);
}

/* Positions up to which llama.cpp computes the same. */
static int32_t context_of(const struct model_config *c, const struct model_arch *arch)
{
    int32_t context = c->context;
    if (c->scaling.type == MODEL_ROPE_DYNAMIC)
        context = SP_MIN(context, c->scaling.original);
    if (c->window > 0 && !arch->gguf_window)
        context = SP_MIN(context, c->window);
    return context;
}

static void put_sizes(struct put *p, const struct model_config *c)
{
    const struct model_arch *arch = p->arch;
    put_i32(p, "block_count", c->layers);
    put_i32(p, "context_length", context_of(c, arch));
    put_i32(p, "embedding_length", c->hidden);
    put_i32(p, "feed_forward_length", c->ffn);
    put_i32(p, "attention.head_count", c->heads);
    put_i32(p, "attention.head_count_kv", c->kv_heads);
    put_i32(p, "attention.key_length", c->head_size);
    put_i32(p, "attention.value_length", c->head_size);
    put_f64(p,
            arch->traits.norm == MODEL_NORM_LAYER ? "attention.layer_norm_epsilon"
                                                  : "attention.layer_norm_rms_epsilon",
            c->rms_eps);
    put_i32(p, "vocab_size", c->vocab);
    if (arch->capped && c->attention_softcap > 0)
        put_f64(p, "attn_logit_softcapping", c->attention_softcap);
    if (arch->capped && c->logit_softcap > 0)
        put_f64(p, "final_logit_softcapping", c->logit_softcap);
    if (arch->traits.parallel)
        ckpt_gguf_put_bool(p->meta, gguf_key(arch, "use_parallel_residual", p->key),
                           c->traits.parallel);
    if (arch->gguf_window)
        put_i32(p, "attention.sliding_window", c->window);
    if (arch->window == MODEL_WINDOW_MIXED && gguf_window_period(c) != arch->window_pattern)
        put_i32(p, "attention.sliding_window_pattern", gguf_window_period(c));
}

static void put_rotation(struct put *p, const struct model_config *c)
{
    const struct model_rope_scaling *s = &c->scaling;
    if (p->arch->rope_theta <= 0)
        return;
    put_i32(p, "rope.dimension_count", c->rotary > 0 ? c->rotary : c->head_size);
    put_f64(p, "rope.freq_base", c->rope_theta);
    if (c->local_theta > 0 && c->local_theta != GGUF_LOCAL_THETA)
        put_f64(p, "rope.freq_base_swa", c->local_theta);
    if (s->type == MODEL_ROPE_LINEAR) {
        put_text(p, "rope.scaling.type", "linear");
        put_f64(p, "rope.scaling.factor", s->factor);
    } else if (s->type == MODEL_ROPE_LLAMA3) {
        if (s->original != GGUF_LLAMA3_CONTEXT)
            put_i32(p, "rope.scaling.original_context_length", s->original);
        if (s->low_freq != GGUF_LLAMA3_LOW)
            put_f64(p, GGUF_LLAMA3_LOW_KEY, s->low_freq);
        if (s->high_freq != GGUF_LLAMA3_HIGH)
            put_f64(p, GGUF_LLAMA3_HIGH_KEY, s->high_freq);
    } else if (s->type == MODEL_ROPE_LONGROPE) {
        if (strcmp(p->arch->gguf, "phi3") != 0)
            put_text(p, "rope.scaling.type", "longrope");
        put_i32(p, "rope.scaling.original_context_length", s->original);
        put_f64(p, "rope.scaling.attn_factor", s->attention_factor);
    }
}

enum sp_err model_gguf_put(const struct model_config *c, const char *what, const char *name,
                           enum ckpt_gguf_type type, struct ckpt_gguf_meta *meta,
                           struct sp_error *err)
{
    const struct model_arch *arch = model_arch_find(c->model_type);
    /* enum llama_ftype of llama.h */
    uint32_t file_type = type == CKPT_GGUF_F32    ? 0
                         : type == CKPT_GGUF_F16  ? 1
                         : type == CKPT_GGUF_Q8_0 ? 7
                                                  : 32;
    enum sp_err rc = check(c, arch, what, err);
    if (rc != SP_OK)
        return rc;
    struct put p = {.arch = arch, .meta = meta};
    ckpt_gguf_put_text(meta, "general.architecture", arch->gguf);
    ckpt_gguf_put_text(meta, "general.type", "model");
    if (name != NULL)
        ckpt_gguf_put_text(meta, "general.name", name);
    ckpt_gguf_put_u32(meta, "general.file_type", file_type);
    ckpt_gguf_put_u32(meta, "general.quantization_version", 2);
    put_sizes(&p, c);
    put_rotation(&p, c);
    return SP_OK;
}

struct ckpt_vocab model_gguf_vocab(const struct model_config *c)
{
    struct ckpt_vocab v = {.size = c->vocab,
                           .context = c->context,
                           .bos_id = c->bos_id,
                           .pad_id = c->pad_id,
                           .unk_id = -1,
                           .n_eos = SP_MIN(c->n_eos, CKPT_VOCAB_MAX_EOS)};
    memcpy(v.eos_ids, c->eos_ids, (size_t)v.n_eos * sizeof(v.eos_ids[0]));
    return v;
}

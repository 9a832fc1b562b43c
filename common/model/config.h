/* config: the shape of a model, read from a Hugging Face directory's config.json and
 * generation_config.json.
 *
 * What the engine can't compute is refused by name (SP_EUNSUPPORTED); what is out of range is
 * SP_ELIMIT or SP_EFORMAT with file and field. Any thread; reading blocks on the disk. */
#ifndef SPIN_MODEL_CONFIG_H
#define SPIN_MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/tensor/backend.h"

#define MODEL_MAX_EOS 8
#define MODEL_MAX_LAYERS 1024
#define MODEL_MAX_HEAD_SIZE 1024
#define MODEL_MAX_ROPE_FACTORS (MODEL_MAX_HEAD_SIZE / 2) /* one a pair of a head's dimensions */

enum model_norm {
    MODEL_NORM_RMS = 0,  /* x · rstd · w */
    MODEL_NORM_RMS_PLUS, /* x · rstd · (1 + w): Gemma */
    MODEL_NORM_LAYER,    /* (x − mean) · rstd · w + b */
};

enum model_activation {
    MODEL_SWIGLU = 0, /* silu(gate) · up */
    MODEL_GEGLU_TANH, /* gelu(gate) · up, tanh form */
    MODEL_GELU_TANH,  /* gelu(x), tanh form, no gate */
    MODEL_GELU_EXACT, /* gelu(x), no gate */
};

/* What a model is made of. All zero: Llama. */
struct model_traits {
    enum model_norm norm;
    enum model_activation activation;
    bool qkv_bias, out_bias, ffn_bias; /* biases of these matrices */
    bool qk_norm;                      /* norms of each head's queries and keys before rotation */
    bool post_norms;                   /* norms behind attention and feed-forward too */
    bool parallel;                     /* attention and feed-forward both read the layer's input */
    bool learned_positions; /* a table of positions is added to the embeddings; no rotation */
    bool scale_embeddings;  /* embeddings times √D */
};

enum model_rope_type {
    MODEL_ROPE_DEFAULT = 0,
    MODEL_ROPE_LINEAR,   /* positions / factor */
    MODEL_ROPE_LLAMA3,   /* low frequencies / factor, with a smooth passage */
    MODEL_ROPE_DYNAMIC,  /* default up to max_positions, where it would change */
    MODEL_ROPE_LONGROPE, /* frequencies / short factors up to max_positions, cos and sin scaled */
    MODEL_ROPE_YARN,     /* low frequencies / factor, by how often they turn; cos and sin scaled */
};

struct model_rope_scaling {
    enum model_rope_type type;
    int32_t original; /* original_max_position_embeddings; dynamic: max_position_embeddings */
    double factor, low_freq, high_freq;
    double attention_factor; /* of cos and sin; 0: 1 */
    /* YaRN: turns within `original` above which a frequency stays and below which it is divided;
     * whether both ends are rounded to whole frequencies. */
    double beta_fast, beta_slow;
    bool truncate;
    int32_t n_short;
    double short_factor[MODEL_MAX_ROPE_FACTORS];
    /* Of what lies beyond the switch, and is never computed here: kept for those who read what we
     * write. As many as the short ones, or none. */
    int32_t n_long;
    double long_factor[MODEL_MAX_ROPE_FACTORS];
};

/* Bits of model_config.layer_bits. */
enum {
    MODEL_LAYER_FULL = 1,  /* the window doesn't hold here */
    MODEL_LAYER_NOPE = 2,  /* no rotation */
    MODEL_LAYER_LOCAL = 4, /* rotates by local_theta, unscaled */
};

struct model_config {
    char model_type[32];   /* "llama"; one row of the table in arch.c each */
    int32_t vocab;         /* V: vocab_size */
    int32_t hidden;        /* D: hidden_size */
    int32_t ffn;           /* F: intermediate_size */
    int32_t layers;        /* num_hidden_layers */
    int32_t heads;         /* H: num_attention_heads */
    int32_t kv_heads;      /* G: num_key_value_heads, divides H */
    int32_t head_size;     /* C: head_dim, or D / H; even */
    int32_t max_positions; /* that can be used: context, or less where the rotation changes */
    int32_t context;       /* max_position_embeddings; 0: the same */
    int32_t window;        /* sliding window in positions; 0: full causal attention */
    double rms_eps;        /* of all norms: rms_norm_eps and the like */
    double rope_theta;
    bool tie_embeddings; /* the output matrix is the embedding table */
    double init_std;     /* initializer_range, for random weights */
    enum tn_dtype dtype; /* torch_dtype or dtype: how the weights are stored; F32 when absent */
    int32_t bos_id;      /* -1: none */
    int32_t pad_id;      /* -1: none */
    int32_t eos_ids[MODEL_MAX_EOS]; /* every id that ends a response: those of
                                     * generation_config.json or, where it has none, config.json */
    int32_t n_eos;
    int64_t n_params; /* parameters, a tied table counted once */

    /* What differs from Llama; all zero: nothing. */
    struct model_traits traits;
    struct model_rope_scaling scaling;
    double local_theta;       /* of layers with MODEL_LAYER_LOCAL; 0: there are none */
    int32_t rotary;           /* dimensions of a head that turn, even; 0: all */
    double attention_scalar;  /* scores are divided by its root; 0: C */
    double attention_softcap; /* 0: none */
    double logit_softcap;     /* 0: none */
    uint8_t layer_bits[MODEL_MAX_LAYERS];
};

/* From dir/config.json and, if it is there, dir/generation_config.json. */
enum sp_err model_config_load(const char *dir, struct model_config *ret,
                              struct sp_error *err) SP_MUST_USE;
/* From documents; generation may be NULL. `what` names the first one in messages. */
enum sp_err model_config_parse(const json_t *config, const json_t *generation, const char *what,
                               struct model_config *ret, struct sp_error *err) SP_MUST_USE;
/* From one file that is a config.json wherever it lies (`spin-model init --config FILE`). */
enum sp_err model_config_load_file(const char *path, struct model_config *ret,
                                   struct sp_error *err) SP_MUST_USE;
/* A config.json that transformers and model_config_parse read back; a new reference. */
json_t *model_config_to_json(const struct model_config *config);
/* Window of a layer; 0: full. */
int32_t model_config_window(const struct model_config *config, int32_t layer);
/* Width of the feed-forward's first product: 2F with a gate, else F. */
int32_t model_config_ffn_width(const struct model_config *config);
/* What scores are multiplied by. */
float model_config_scale(const struct model_config *config);
/* True when a response ends with this id. */
bool model_config_is_eos(const struct model_config *config, int32_t id);

#endif

/* arch: the table of architectures: one row per model_type, saying what it is made of, how its
 * config.json names things and what its tensors are called. Everything else in this folder is
 * written against the traits, never against a model_type. Any thread; the tables are constant. */
#ifndef SPIN_MODEL_ARCH_H
#define SPIN_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/config.h"

/* Names of tensors without ".weight" and ".bias"; of a layer's after "LAYERS.N.". NULL: has none.
 */
struct model_names {
    const char *embed, *positions, *layers;
    const char *norm1, *q, *k, *v, *q_norm, *k_norm, *out, *post1;
    const char *qkv; /* instead of q, k, v: one matrix, rows in this order */
    const char *norm2, *gate, *up, *down, *post2;
    const char *gate_up; /* instead of gate and up: one matrix, or the only one without a gate */
    const char *final_norm, *head;
    const char *head_alias; /* what some checkpoints call the output matrix; or NULL */
    const char *prefix;     /* that some checkpoints leave out; or NULL */
    bool transposed;        /* matrices of layers lie as (in, out): GPT-2's Conv1D */
    bool by_head;           /* rows of qkv go by head, then query, key, value: GPT-NeoX */
};

/* Names of fields in config.json. */
struct model_keys {
    const char *hidden, *ffn, *layers, *heads, *positions, *eps, *activation;
};

enum model_window_rule {
    MODEL_WINDOW_NEVER,
    MODEL_WINDOW_ALWAYS, /* sliding_window holds for every layer */
    MODEL_WINDOW_ASKED,  /* … for those of layer_types, when use_sliding_window is true */
    MODEL_WINDOW_MIXED,  /* … for those of layer_types or of the row's pattern */
};

struct model_arch {
    const char *model_type;
    const char *class_name; /* for "architectures" of a config.json that we write */
    const struct model_names *names;
    const struct model_keys *keys;
    struct model_traits traits; /* before fields of config.json change them */
    enum model_window_rule window;
    int32_t window_pattern; /* every how manieth layer is full, where layer_types is absent */
    /* Names of the activation, NULL-terminated; the first one is that of the traits, and is
     * written. */
    const char *const *activation;
    bool may_bias;     /* attention_bias adds biases to the attention's matrices */
    bool may_bias_ffn; /* mlp_bias to the feed-forward's */
    bool tied;         /* what tie_word_embeddings is when absent */
    bool nope;         /* some layers have no rotation: no_rope_layers */
    double attention_softcap, logit_softcap; /* when absent; 0: none */
    bool capped;                             /* attn_logit_softcapping, final_logit_softcapping */
    int32_t head_size;                       /* what head_dim is when absent; 0: D / H */
    int32_t kv_heads;                        /* num_key_value_heads when absent; 0: H */
    int32_t window_size;                     /* sliding_window when absent; 0: none */
    int32_t positions;                       /* of the context when absent */
    double eps;                              /* of the norms when absent */
    int32_t bos_id, eos_id; /* when absent, where the vocabulary has them; -1: none */
    double rope_theta;      /* when absent; 0: no rotation */
    double local_theta;     /* of windowed layers when absent; 0: the same as the others */
    double partial;         /* partial_rotary_factor when absent */
    bool plain_heads;       /* as many keys as queries, and heads that fill the hidden size */
    bool may_turn_partly;   /* partial_rotary_factor below 1 */
    /* In llama.cpp: its name; whether rows of queries and keys are dealt anew, a window is known,
     * biases may be there or not, tie_word_embeddings must be as `tied` says. */
    const char *gguf;
    bool gguf_dealt, gguf_window, gguf_bias, gguf_tied_only;
};

const struct model_arch *model_arch_find(const char *model_type); /* NULL: not in the table */
/* By general.architecture of a GGUF file: the first row of that name, or NULL. */
const struct model_arch *model_arch_find_gguf(const char *architecture);
enum sp_err model_arch_refuse_gguf(const char *architecture, const char *what,
                                   struct sp_error *err) SP_MUST_USE;
/* Fails with SP_EUNSUPPORTED, naming the type and what is supported. */
enum sp_err model_arch_refuse(const char *model_type, const char *what,
                              struct sp_error *err) SP_MUST_USE;

/* Fails with SP_EUNSUPPORTED and the name of the first field that is neither read for a model of
 * this architecture nor known to leave its numbers alone (the table in config_fields.c). A null
 * says nothing and passes. */
enum sp_err model_config_check_fields(const json_t *json, const struct model_arch *arch,
                                      const char *what, struct sp_error *err) SP_MUST_USE;

/* Rotation: scaling types and the two forms in which config.json gives them. Fills rope_theta,
 * local_theta, rotary, scaling; lowers max_positions to where the frequencies would change. */
enum sp_err model_config_parse_rope(const json_t *json, const struct model_arch *arch,
                                    const char *what, struct model_config *c,
                                    struct sp_error *err) SP_MUST_USE;
/* The same fields into a config.json. */
void model_config_write_rope(json_t *json, const struct model_config *c,
                             const struct model_arch *arch);
/* layer_types, windows, layers without rotation. */
enum sp_err model_config_parse_layers(const json_t *json, const struct model_arch *arch,
                                      const char *what, struct model_config *c,
                                      struct sp_error *err) SP_MUST_USE;
void model_config_write_layers(json_t *json, const struct model_config *c,
                               const struct model_arch *arch);

#endif

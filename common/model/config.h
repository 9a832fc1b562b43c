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

struct model_config {
    char model_type[32];   /* "llama"; one row of the table in config.c each */
    int32_t vocab;         /* V: vocab_size */
    int32_t hidden;        /* D: hidden_size */
    int32_t ffn;           /* F: intermediate_size */
    int32_t layers;        /* num_hidden_layers */
    int32_t heads;         /* H: num_attention_heads */
    int32_t kv_heads;      /* G: num_key_value_heads, divides H */
    int32_t head_size;     /* C: head_dim, or D / H; even */
    int32_t max_positions; /* max_position_embeddings */
    int32_t window;        /* sliding window in positions; 0: full causal attention */
    double rms_eps;        /* rms_norm_eps */
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
/* True when a response ends with this id. */
bool model_config_is_eos(const struct model_config *config, int32_t id);

#endif

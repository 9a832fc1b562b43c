/* gguf_impl: what the files of gguf_model share. */
#ifndef SPIN_MODEL_GGUF_IMPL_H
#define SPIN_MODEL_GGUF_IMPL_H

#include "common/model/arch.h"
#include "common/model/gguf_model.h"

/* What llama.cpp assumes where a file says nothing. */
#define GGUF_LOCAL_THETA 10000.0 /* of Gemma 3's layers with a window */
#define GGUF_NOPE_INTERVAL 4     /* SmolLM3 */
/* What transformers assumes for Llama 3.1 and later, whose files hold only the divisors. Others are
 * written under keys that llama.cpp does not read. */
#define GGUF_LLAMA3_LOW 1.0
#define GGUF_LLAMA3_HIGH 4.0
#define GGUF_LLAMA3_CONTEXT 8192
#define GGUF_LLAMA3_LOW_KEY "rope.scaling.low_freq_factor"
#define GGUF_LLAMA3_HIGH_KEY "rope.scaling.high_freq_factor"

#define GGUF_KEY_BYTES 128

/* "llama.context_length" of "context_length" */
const char *gguf_key(const struct model_arch *arch, const char *key, char to[GGUF_KEY_BYTES]);
/* The number that scores are divided by the root of: of the head's size, but for the models of 27B,
 * which llama.cpp tells by their layers. */
double gguf_attention_scalar(const struct model_arch *arch, const struct model_config *config);
/* Every how manieth layer is full; 0: some other pattern. */
int32_t gguf_window_period(const struct model_config *config);
/* A field that a file should have and lacks makes the file malformed; it is no missing file. */
static inline enum sp_err gguf_missing(enum sp_err rc, struct sp_error *err)
{
    if (rc == SP_ENOTFOUND && err)
        err->code = SP_EFORMAT;
    return rc == SP_ENOTFOUND ? SP_EFORMAT : rc;
}

#endif

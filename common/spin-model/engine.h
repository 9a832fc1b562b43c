/* engine: a model with its tokenizer and backend, and how texts become ids for it: by the same
 * functions as in a run. */
#ifndef SPIN_SPIN_MODEL_ENGINE_H
#define SPIN_SPIN_MODEL_ENGINE_H

#include "common/model/config.h"
#include "common/model/model.h"
#include "common/spin-model/tool.h"
#include "common/tensor/backend.h"
#include "common/text/chat.h"
#include "common/text/tokenizer.h"

struct tool_engine {
    struct tn_backend *backend;
    struct model *model;
    const struct model_config *config; /* the model's */
    struct tok_tokenizer *tokenizer;
    struct tok_renderer *renderer;
    int32_t eos_ids[MODEL_MAX_EOS]; /* that end a response: the model's and the template's */
    int32_t n_eos;
};

enum sp_err tool_engine_open(const struct tool *tool, struct tool_engine *ret,
                             struct sp_error *err) SP_MUST_USE;
void tool_engine_close(struct tool_engine *engine);

#endif

#include "common/spin-model/engine.h"

#include <string.h>

#include "common/base/mem.h"

static enum sp_err open_renderer(const struct tool *tool, struct tool_engine *engine,
                                 struct sp_error *err)
{
    const struct model_config *config = engine->config;
    struct tok_renderer_options options = {
        .tokenizer = engine->tokenizer,
        .dir = tool->dir,
        .template = tool->template_name,
        .eos_id = config->n_eos > 0 ? config->eos_ids[0] : -1,
        .date = tool->date,
    };
    enum sp_err rc = tok_renderer_open(&options, &engine->renderer, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "chat template (--template NAME chooses one)");
    engine->n_eos = config->n_eos;
    memcpy(engine->eos_ids, config->eos_ids, sizeof(engine->eos_ids));
    int32_t end = tok_renderer_end_id(engine->renderer);
    if (end >= 0 && !model_config_is_eos(config, end) && engine->n_eos < MODEL_MAX_EOS)
        engine->eos_ids[engine->n_eos++] = end;
    return SP_OK;
}

enum sp_err tool_engine_open(const struct tool *tool, struct tool_engine *ret, struct sp_error *err)
{
    struct tool_engine engine = {0};
    struct tn_backend_options options = {.threads = (int32_t)tool->threads};
    enum sp_err rc = tn_open(tool->backend, &options, &engine.backend, err);
    if (rc == SP_OK)
        rc = model_open(engine.backend, tool->dir, &engine.model, err);
    if (rc == SP_OK)
        rc = tok_load(tool->dir, &engine.tokenizer, err);
    if (rc == SP_OK) {
        engine.config = model_get_config(engine.model);
        rc = open_renderer(tool, &engine, err);
    }
    if (rc != SP_OK) {
        tool_engine_close(&engine);
        return rc;
    }
    *ret = engine;
    return SP_OK;
}

void tool_engine_close(struct tool_engine *engine)
{
    tok_renderer_free(engine->renderer);
    tok_free(engine->tokenizer);
    model_free(engine->model);
    tn_close(engine->backend);
    *engine = (struct tool_engine){0};
}

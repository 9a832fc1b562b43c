/* What text needs of a model: tokenizer, template, end tokens. */
#include <stdlib.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "coordinator/data/data.h"

static enum sp_err add_stop(struct data_model *model, int64_t id, struct sp_error *err)
{
    if (id < 0 || id >= model->vocab)
        return sp_fail(err, SP_EFORMAT, "eos_token_id: %lld is outside the vocabulary of %d",
                       (long long)id, model->vocab);
    for (size_t i = 0; i < model->stop_count; i++) {
        if (model->stop_ids[i] == id)
            return SP_OK;
    }
    model->stop_ids = sp_xgrow(model->stop_ids, model->stop_count + 1, sizeof(*model->stop_ids));
    model->stop_ids[model->stop_count++] = (int32_t)id;
    return SP_OK;
}

/* eos_token_id: a number or a list of numbers; absent: nothing is added. */
static enum sp_err add_eos(struct data_model *model, const json_t *config, const char *what,
                           struct sp_error *err)
{
    const json_t *value = json_object_get(config, "eos_token_id");
    enum sp_err rc = SP_OK;
    if (json_is_integer(value)) {
        rc = add_stop(model, json_integer_value(value), err);
    } else if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value) && rc == SP_OK; i++) {
            const json_t *item = json_array_get(value, i);
            rc = json_is_integer(item) ? add_stop(model, json_integer_value(item), err)
                                       : sp_fail(err, SP_EFORMAT, "eos_token_id: not a number");
        }
    } else if (value && !json_is_null(value)) {
        rc = sp_fail(err, SP_EFORMAT, "eos_token_id: neither a number nor a list");
    }
    return rc == SP_OK ? SP_OK : sp_wrap(err, rc, "%s", what);
}

static enum sp_err read_config(struct data_model *model, const char *dir, struct sp_error *err)
{
    char *path = sp_path_join(dir, "config.json");
    char *generation_path = sp_path_join(dir, "generation_config.json");
    json_t *config = NULL, *generation = NULL;
    int64_t vocab = 0;
    enum sp_err rc = sp_json_load(path, SP_MAX_CONFIG_JSON, &config, err);
    if (rc == SP_OK)
        rc = sp_json_i64(config, "vocab_size", 1, SP_MAX_VOCAB, "config.json", &vocab, err);
    if (rc == SP_OK)
        rc = data_positions_read(config, "config.json", &model->positions, err);
    model->vocab = (int32_t)vocab;
    if (rc == SP_OK && sp_path_exists(generation_path))
        rc = sp_json_load(generation_path, SP_MAX_CONFIG_JSON, &generation, err);
    if (rc == SP_OK)
        rc = add_eos(model, generation, "generation_config.json", err);
    if (rc == SP_OK && model->stop_count == 0)
        rc = add_eos(model, config, "config.json", err);
    json_decref(config);
    json_decref(generation);
    free(path);
    free(generation_path);
    return rc;
}

/* The template's end token moves to the front: a response ends with it. */
static enum sp_err choose_end(struct data_model *model, struct sp_error *err)
{
    int32_t end = tok_renderer_end_id(model->renderer);
    if (end < 0)
        return sp_fail(err, SP_EFORMAT,
                       "no end token: neither generation_config.json nor config.json has an "
                       "eos_token_id, and the chat template has none");
    model->eos_id = model->stop_count > 0 ? model->stop_ids[0] : end;
    enum sp_err rc = add_stop(model, end, err);
    for (size_t i = 0; i < model->stop_count && rc == SP_OK; i++) {
        if (model->stop_ids[i] == end) {
            model->stop_ids[i] = model->stop_ids[0];
            model->stop_ids[0] = end;
        }
    }
    return rc;
}

static enum sp_err load_files(struct data_model *model, const struct run_settings *settings,
                              const char *dir, struct sp_error *err)
{
    enum sp_err rc = read_config(model, dir, err);
    if (rc == SP_OK)
        rc = tok_load(dir, &model->tokenizer, err);
    if (rc != SP_OK)
        return rc;
    struct tok_renderer_options options = {
        .tokenizer = model->tokenizer,
        .dir = dir,
        .template = settings->template_name,
        .eos_id = model->stop_count > 0 ? model->stop_ids[0] : -1,
        .date = settings->template_date,
    };
    rc = tok_renderer_open(&options, &model->renderer, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "[data] template");
    return choose_end(model, err);
}

enum sp_err data_model_load(const char *dir, const struct run_settings *settings,
                            struct data_model *ret, struct sp_error *err)
{
    struct data_model model = {0};
    enum sp_err rc = load_files(&model, settings, dir, err);
    if (rc == SP_OK)
        *ret = model;
    else
        data_model_deinit(&model);
    return rc;
}

void data_model_deinit(struct data_model *model)
{
    tok_renderer_free(model->renderer);
    tok_free(model->tokenizer);
    free(model->stop_ids);
    *model = (struct data_model){0};
}

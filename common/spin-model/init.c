#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/checkpoint/hf_dir.h"
#include "common/spin-model/engine.h"

static enum sp_err copy_into(const char *from, const char *dir, const char *name, size_t max_bytes,
                             struct sp_error *err)
{
    char *data = NULL, *to = sp_path_join(dir, name);
    size_t length;
    enum sp_err rc = sp_read_file(from, max_bytes, &data, &length, err);
    if (rc == SP_OK)
        rc = sp_write_file_durable(to, data, length, 0666, err);
    free(data);
    free(to);
    return rc;
}

enum sp_err tool_copy_tokenizer(const char *from, const char *dir, struct sp_error *err)
{
    char **names = NULL;
    char *inner = sp_path_join(from, "tokenizer.json");
    bool is_dir = sp_path_exists(inner);
    free(inner);
    if (!is_dir)
        return copy_into(from, dir, "tokenizer.json", SP_MAX_TOKENIZER_JSON, err);
    enum sp_err rc = ckpt_file_list(from, false, &names, err);
    for (size_t i = 0; rc == SP_OK && names[i] != NULL; i++) {
        if (strcmp(names[i], "config.json") == 0)
            continue;
        char *path = sp_path_join(from, names[i]);
        rc = copy_into(path, dir, names[i], SP_MAX_TOKENIZER_JSON, err);
        free(path);
    }
    ckpt_file_list_free(names);
    return rc;
}

static enum sp_err check_tokenizer(const struct tool *tool, const struct model_config *config,
                                   struct sp_error *err)
{
    struct tok_tokenizer *tokenizer;
    enum sp_err rc = tok_load(tool->tokenizer, &tokenizer, err);
    if (rc != SP_OK)
        return rc;
    if (tok_vocab_size(tokenizer) > config->vocab)
        rc = sp_fail(err, SP_EINVAL,
                     "%s: the tokenizer has %d ids, %s has \"vocab_size\": %d; raise it to at "
                     "least as many",
                     tool->tokenizer, tok_vocab_size(tokenizer), tool->config, config->vocab);
    tok_free(tokenizer);
    return rc;
}

static enum tn_dtype storage_of(enum ckpt_dtype dtype)
{
    return dtype == CKPT_BF16 ? TN_BF16 : dtype == CKPT_F16 ? TN_F16 : TN_F32;
}

static enum sp_err make_and_save(const struct tool *tool, const struct model_config *config,
                                 const char *template_dir, enum tn_dtype dtype,
                                 struct sp_error *err)
{
    struct tn_backend_options options = {.threads = (int32_t)tool->threads};
    struct tn_backend *backend = NULL;
    struct model *model = NULL;
    enum sp_err rc = tn_open(tool->backend, &options, &backend, err);
    if (rc == SP_OK)
        rc = model_new(backend, config, (uint64_t)tool->seed, &model, err);
    if (rc == SP_OK)
        rc = model_save(model, tool->dir, dtype, template_dir, err);
    model_free(model);
    tn_close(backend);
    return rc;
}

static enum sp_err report(const struct tool *tool, const struct model_config *config,
                          struct sp_error *err)
{
    if (tool->json)
        return tool_print_json(json_pack("{s:s, s:I, s:I}", "path", tool->dir, "parameters",
                                         (json_int_t)config->n_params, "seed",
                                         (json_int_t)tool->seed),
                               err);
    printf("%s: %s with %" PRId64 " random parameters (seed %" PRId64 ")\n", tool->dir,
           config->model_type, config->n_params, tool->seed);
    return SP_OK;
}

enum sp_err tool_init(struct tool *tool, struct sp_error *err)
{
    struct model_config config;
    enum ckpt_dtype dtype = CKPT_F32;
    if (tool->config == NULL)
        return sp_fail(err, SP_EINVAL,
                       "init: --config FILE is missing: the config.json that "
                       "gives the model's shape");
    enum sp_err rc = SP_OK;
    if (tool->dtype != NULL)
        rc = ckpt_dtype_parse(tool->dtype, &dtype, err);
    if (rc == SP_OK && dtype != CKPT_F32 && dtype != CKPT_BF16 && dtype != CKPT_F16)
        rc = sp_fail(err, SP_EINVAL, "--dtype %s: weights are stored as F32, BF16 or F16",
                     tool->dtype);
    if (rc == SP_OK)
        rc = model_config_load_file(tool->config, &config, err);
    if (rc == SP_OK && tool->tokenizer != NULL)
        rc = check_tokenizer(tool, &config, err);
    if (rc != SP_OK)
        return rc;
    /* The given config.json itself becomes the new one's, with every field that is not ours. */
    const char *base = getenv("TMPDIR");
    char *template_dir = sp_xprintf("%s/spin-model-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(template_dir) == NULL) {
        rc = sp_fail_errno(err, errno, "%s", template_dir);
        free(template_dir);
        return rc;
    }
    rc = copy_into(tool->config, template_dir, "config.json", SP_MAX_CONFIG_JSON, err);
    if (rc == SP_OK && tool->tokenizer != NULL)
        rc = tool_copy_tokenizer(tool->tokenizer, template_dir, err);
    if (rc == SP_OK)
        rc = make_and_save(tool, &config, template_dir,
                           tool->dtype != NULL ? storage_of(dtype) : config.dtype, err);
    (void)!sp_remove_tree(template_dir, NULL);
    free(template_dir);
    return rc == SP_OK ? report(tool, &config, err) : rc;
}

/* The known templates, and how a model's own template is recognized as one of them. */
#include "common/text/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/mem.h"

#define TEMPLATE_NAME(id, name, what) name,
static const char *const names[] = {TOK_TEMPLATE_LIST(TEMPLATE_NAME)};
#undef TEMPLATE_NAME
#define TEMPLATE_HELP(id, name, what) name ", "
static const char help[] = TOK_TEMPLATE_LIST(TEMPLATE_HELP);
#undef TEMPLATE_HELP

#define CHATML                                                                                     \
    .end = "<|im_end|>", .system = "<|im_start|>system\n\1<|im_end|>\n",                           \
    .user = "<|im_start|>user\n\1<|im_end|>\n",                                                    \
    .assistant = "<|im_start|>assistant\n\1<|im_end|>\n", .header = "<|im_start|>assistant\n"

/* Sources: the chat_template of each family's first instruction model on the Hugging Face hub
 * (zephyr-7b-beta, Llama-2-7b-chat, Meta-Llama-3-8B-Instruct, Mistral-7B-Instruct-v0.2,
 * gemma-7b-it, Phi-3-mini-4k-instruct, Qwen2, Qwen2.5
 * and SmolLM2); Stanford Alpaca's prompt without
 * input; FastChat's vicuna_v1.1; generate.py of the SPIN authors for `instruction`. */
static const struct tok_template_spec specs[] = {
    [TOK_TEMPLATE_NONE] = {.user = "\1", .assistant = "", .header = "", .plain = true},
    [TOK_TEMPLATE_CHATML] = {CHATML},
    [TOK_TEMPLATE_QWEN] = {CHATML, .default_system =
                                       "You are Qwen, created by Alibaba Cloud. You are a "
                                       "helpful assistant."},
    [TOK_TEMPLATE_QWEN2] = {CHATML, .default_system = "You are a helpful assistant."},
    [TOK_TEMPLATE_SMOLLM2] = {CHATML, .default_system =
                                          "You are a helpful AI assistant named SmolLM, trained by "
                                          "Hugging Face"},
    [TOK_TEMPLATE_ZEPHYR] = {.system = "<|system|>\n\1\2\n",
                             .user = "<|user|>\n\1\2\n",
                             .assistant = "<|assistant|>\n\1\2\n",
                             .header = "<|assistant|>\n"},
    [TOK_TEMPLATE_LLAMA2] = {.bos = "<s>",
                             .system = "<<SYS>>\n\1\n<</SYS>>\n\n",
                             .system_in_user = true,
                             .user = "[INST] \1 [/INST]",
                             .next_user = "<s>[INST] \1 [/INST]",
                             .assistant = " \1 \2",
                             .header = "",
                             .response_prefix = " ",
                             .trim = true},
    [TOK_TEMPLATE_LLAMA3] = {.bos = "<|begin_of_text|>",
                             .end = "<|eot_id|>",
                             .system = "<|start_header_id|>system<|end_header_id|>\n\n\1<|eot_id|>",
                             .user = "<|start_header_id|>user<|end_header_id|>\n\n\1<|eot_id|>",
                             .assistant =
                                 "<|start_header_id|>assistant<|end_header_id|>\n\n\1<|eot_id|>",
                             .header = "<|start_header_id|>assistant<|end_header_id|>\n\n",
                             .trim = true},
    [TOK_TEMPLATE_MISTRAL] = {.bos = "<s>",
                              .system = "\1\n\n",
                              .system_in_user = true,
                              .user = "[INST] \1 [/INST]",
                              .assistant = " \1\2",
                              .header = "",
                              .response_prefix = " "},
    [TOK_TEMPLATE_GEMMA] = {.bos = "<bos>",
                            .end = "<end_of_turn>",
                            .system = "\1\n\n",
                            .system_in_user = true,
                            .user = "<start_of_turn>user\n\1<end_of_turn>\n",
                            .assistant = "<start_of_turn>model\n\1<end_of_turn>\n",
                            .header = "<start_of_turn>model\n",
                            .trim = true},
    [TOK_TEMPLATE_PHI3] = {.end = "<|end|>",
                           .system = "<|system|>\n\1<|end|>\n",
                           .user = "<|user|>\n\1<|end|>\n",
                           .assistant = "<|assistant|>\n\1<|end|>\n",
                           .header = "<|assistant|>\n"},
    [TOK_TEMPLATE_ALPACA] = {.system = "\1\n\n",
                             .default_system =
                                 "Below is an instruction that describes a task. Write a response "
                                 "that appropriately completes the request.",
                             .user = "### Instruction:\n\1\n\n",
                             .assistant = "### Response:\n\1\2\n\n",
                             .header = "### Response:\n"},
    [TOK_TEMPLATE_VICUNA] = {.system = "\1 ",
                             .default_system =
                                 "A chat between a curious user and an artificial intelligence "
                                 "assistant. The assistant gives helpful, detailed, and polite "
                                 "answers to the user's questions.",
                             .user = "USER: \1 ",
                             .assistant = "ASSISTANT: \1\2",
                             .header = "ASSISTANT:",
                             .response_prefix = " "},
    [TOK_TEMPLATE_INSTRUCTION] = {.system = "\1\n\n",
                                  .system_in_user = true,
                                  .user = "### Instruction: \1\n\n",
                                  .assistant = "### Response: \1\2\n\n",
                                  .header = "### Response: "},
};

const struct tok_template_spec *tok_template_spec(enum tok_template template)
{
    SP_ASSERT(TOK_TEMPLATE_COUNT > (unsigned)template);
    return &specs[template];
}

const char *tok_template_name(enum tok_template template)
{
    SP_ASSERT(TOK_TEMPLATE_COUNT > (unsigned)template);
    return names[template];
}

enum sp_err tok_template_parse(const char *name, enum tok_template *ret, struct sp_error *err)
{
    for (int i = 0; i < TOK_TEMPLATE_COUNT; i++)
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum tok_template)i;
            return SP_OK;
        }
    return sp_fail(err, SP_EINVAL, "\"%.64s\" is no chat template; known are auto, %.*s", name,
                   (int)sizeof(help) - 3, help);
}

/* A template is known by strings that it must have and one that it must not have. */
struct fingerprint {
    enum tok_template template;
    const char *needs[3];
    const char *lacks[3];
};

static const struct fingerprint fingerprints[] = {
    {TOK_TEMPLATE_QWEN, {"<|im_start|>", "You are Qwen, created by Alibaba Cloud."}, {NULL}},
    {TOK_TEMPLATE_QWEN2,
     {"<|im_start|>", "system\\nYou are a helpful assistant.<|im_end|>"},
     {NULL}},
    {TOK_TEMPLATE_QWEN2,
     {"<|im_start|>", "system\nYou are a helpful assistant.<|im_end|>"},
     {NULL}},
    {TOK_TEMPLATE_SMOLLM2,
     {"<|im_start|>",
      "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>"},
     {NULL}},
    {TOK_TEMPLATE_CHATML,
     {"<|im_start|>", "<|im_end|>", "assistant"},
     {"You are", "strftime", "<|im_sep|>"}},
    {TOK_TEMPLATE_LLAMA3,
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     {"Cutting Knowledge", "strftime", "You are"}},
    {TOK_TEMPLATE_GEMMA, {"<start_of_turn>", "<end_of_turn>", "model"}, {"You are"}},
    {TOK_TEMPLATE_PHI3, {"<|user|>", "<|end|>", "<|assistant|>"}, {"You are", "<|im_start|>"}},
    {TOK_TEMPLATE_ZEPHYR, {"<|user|>", "eos_token", "<|assistant|>"}, {"You are", "<|end|>"}},
    {TOK_TEMPLATE_LLAMA2, {"[INST]", "[/INST]", "<<SYS>>"}, {"You are a helpful, respectful"}},
    {TOK_TEMPLATE_MISTRAL,
     {"[INST]", "[/INST]", "eos_token"},
     {"<<SYS>>", "[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]"}},
    {TOK_TEMPLATE_VICUNA, {"USER:", "ASSISTANT:", "A chat between a curious user"}, {NULL}},
    {TOK_TEMPLATE_ALPACA, {"### Instruction:", "### Response:", "Below is an instruction"}, {NULL}},
    {TOK_TEMPLATE_INSTRUCTION, {"### Instruction: ", "### Response: "}, {"Below is"}},
};

/* Whether a template says something. "You are …" is a system message of its own, unless it is the
 * sentence about tools that comes only with tools. */
static bool says(const char *jinja, const char *text)
{
    static const char about_tools[] = "You are provided with function signatures";
    for (const char *hit = jinja; (hit = strstr(hit, text)) != NULL; hit++)
        if (strncmp(hit, about_tools, strlen(about_tools)) != 0)
            return true;
    return false;
}

static bool matches(const struct fingerprint *print, const char *jinja)
{
    for (size_t i = 0; i < SP_COUNT(print->needs); i++)
        if (print->needs[i] != NULL && !says(jinja, print->needs[i]))
            return false;
    for (size_t i = 0; i < SP_COUNT(print->lacks); i++)
        if (print->lacks[i] != NULL && says(jinja, print->lacks[i]))
            return false;
    return true;
}

enum sp_err tok_template_recognize(const char *jinja, const char *what, enum tok_template *ret,
                                   struct sp_error *err)
{
    for (size_t i = 0; i < SP_COUNT(fingerprints); i++)
        if (matches(&fingerprints[i], jinja)) {
            *ret = fingerprints[i].template;
            return SP_OK;
        }
    return sp_fail(err, SP_EUNSUPPORTED,
                   "%s: its chat template is not one of the known ones; name one of %.*s instead "
                   "of auto",
                   what, (int)sizeof(help) - 3, help);
}

/* The template in a tokenizer_config.json: a string, or a list of {"name", "template"}. */
static enum sp_err from_config(const char *path, enum tok_template *ret, struct sp_error *err)
{
    json_t *config = NULL;
    enum sp_err rc = sp_json_load(path, SP_MAX_CONFIG_JSON, &config, err);
    if (rc != SP_OK)
        return rc;
    const json_t *value = json_object_get(config, "chat_template");
    const json_t *chosen = json_is_string(value) ? value : NULL;
    for (size_t i = 0; chosen == NULL && i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            chosen = json_object_get(item, "template");
    }
    if (json_is_string(chosen))
        rc = tok_template_recognize(json_string_value(chosen), path, ret, err);
    else if (value == NULL || json_is_null(value))
        *ret = TOK_TEMPLATE_NONE;
    else
        rc = sp_fail(err, SP_EFORMAT,
                     "%s: field \"chat_template\": expected a string, or a list with a \"default\"",
                     path);
    json_decref(config);
    return rc;
}

enum sp_err tok_template_of_model(const char *model_dir, enum tok_template *ret,
                                  struct sp_error *err)
{
    char *jinja_path = sp_path_join(model_dir, "chat_template.jinja");
    char *config_path = sp_path_join(model_dir, "tokenizer_config.json");
    char *jinja = NULL;
    size_t length;
    enum sp_err rc = SP_OK;
    if (sp_path_exists(jinja_path)) {
        rc = sp_read_file(jinja_path, SP_MAX_CONFIG_JSON, &jinja, &length, err);
        if (rc == SP_OK)
            rc = tok_template_recognize(jinja, jinja_path, ret, err);
    } else if (sp_path_exists(config_path)) {
        rc = from_config(config_path, ret, err);
    } else {
        *ret = TOK_TEMPLATE_NONE;
    }
    free(jinja);
    free(jinja_path);
    free(config_path);
    return rc;
}

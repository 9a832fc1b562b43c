/* The named templates: what models of each family carry, without their parts for tools. Where a
 * family's own template has no place for a system message, it opens the first user message, as
 * the family's later templates have it. */
#include <string.h>

#include "common/base/mem.h"
#include "common/text/chat_internal.h"

/* Texts are Jinja with C's escapes: "\n" here is a newline in the template, within its quotes. */
#define CHATML                                                                                     \
    "{% for m in messages %}"                                                                      \
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"                            \
    "{% endfor %}"                                                                                 \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define CHATML_SYSTEM(text)                                                                        \
    "{% if messages[0].role != 'system' %}"                                                        \
    "{{ '<|im_start|>system\n" text "<|im_end|>\n' }}"                                             \
    "{% endif %}" CHATML

/* Qwen3: an answer behind the last question shows its thoughts, which may be none; earlier answers
 * lose theirs. */
static const char qwen3[] =
    "{% if messages[0].role == 'system' %}"
    "{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{% endif %}"
    "{% set ns = namespace(last=messages|length - 1, found=false) %}"
    "{% for m in messages[::-1] %}"
    "{% if not ns.found and m.role == 'user' and not (m.content.startswith('<tool_response>') and "
    "m.content.endswith('</tool_response>')) %}"
    "{% set ns.found = true %}{% set ns.last = messages|length - 1 - loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}"
    "{% set content = m.content %}{% set thoughts = '' %}"
    "{% if '</think>' in content %}"
    "{% set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') "
    "%}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last and (loop.last or thoughts) %}"
    "{{ '<|im_start|>assistant\n<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + "
    "content.lstrip('\n') }}"
    "{% else %}{{ '<|im_start|>assistant\n' + content }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";

#define SMOLLM "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
static const char smollm3[] =
    "{% set mode = '/no_think' if enable_thinking is defined and not enable_thinking else '/think' "
    "%}{% set system = '' %}{% set custom = '' %}"
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% if '/no_think' in system %}{% set mode = '/no_think' %}"
    "{% elif '/think' in system %}{% set mode = '/think' %}{% endif %}"
    "{% set custom = system.replace('/no_think', '').replace('/think', '').rstrip() %}{% endif %}"
    "{{ '<|im_start|>system\n' }}"
    "{% if '/system_override' in system %}"
    "{{ custom.replace('/system_override', '').rstrip() }}"
    "{% else %}"
    "{{ '## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: ' ~ strftime_now('%d %B %Y') "
    "~ '\nReasoning Mode: ' + mode + '\n\n## Custom Instructions\n\n' }}"
    "{% if custom %}{{ custom + '\n\n' }}"
    "{% elif mode == '/think' %}"
    "{{ '" SMOLLM ". Your role as an assistant involves thoroughly exploring questions through a "
    "systematic thinking process before providing the final precise and accurate solutions. This "
    "requires engaging in a comprehensive cycle of analysis, summarizing, exploration, "
    "reassessment, reflection, backtracking, and iteration to develop well-considered thinking "
    "process. Please structure your response into two main sections: Thought and Solution using "
    "the specified format: <think> Thought section </think> Solution section. In the Thought "
    "section, detail your reasoning process in steps. Each step should include detailed "
    "considerations such as analysing questions, summarizing relevant findings, brainstorming new "
    "ideas, verifying the accuracy of the current steps, refining any errors, and revisiting "
    "previous steps. In the Solution section, based on various attempts, explorations, and "
    "reflections from the Thought section, systematically present the final solution that you deem "
    "correct. The Solution section should be logical, accurate, and concise and detail necessary "
    "steps needed to reach the conclusion.\n\n' }}"
    "{% else %}{{ '" SMOLLM ".\n\n' }}{% endif %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% set open = '<|im_start|>assistant\n' if mode == '/think' else "
    "'<|im_start|>assistant\n<think>\n\n</think>\n' %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ open + m.content.lstrip('\n') + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ open }}{% endif %}";

static const char zephyr[] = "{% for m in messages %}"
                             "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
                             "{% endfor %}"
                             "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";

/* A system message, where there is one, in `system`, and the rest in `turns`. */
#define SPLIT_SYSTEM                                                                               \
    "{% set has_system = messages[0].role == 'system' %}"                                          \
    "{% set system = messages[0].content if has_system else '' %}"                                 \
    "{% set turns = messages[1:] if has_system else messages %}"

static const char llama2[] =
    SPLIT_SYSTEM "{% for m in turns %}"
                 "{% if m.role == 'user' %}"
                 "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content "
                 "if loop.first and has_system else m.content %}"
                 "{{ bos_token|default('') + '[INST] ' + content.strip() + ' [/INST]' }}"
                 "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}"
                 "{% endfor %}";

static const char llama3[] =
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

/* Mistral's formats by the version of its tokenizer: v1 opens the first user message with the
 * system message, v2 and v3 the last one, v7 has tokens for it. The white space around is each
 * one's. */
#define MISTRAL(which, open, close, answer)                                                        \
    SPLIT_SYSTEM "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"                    \
                 "{% set opens = " which " %}"                                                     \
                 "{{ '" open                                                                       \
                 "' + (system + '\n\n' if has_system and opens else '') + m.content + "            \
                 "'" close "' }}"                                                                  \
                 "{% else %}{{ '" answer "' + m.content + eos_token }}{% endif %}{% endfor %}"
#define LAST_USER "(turns[loop.index:]|selectattr('role', 'equalto', 'user')|list|length) == 0"
#define MISTRAL_V7(space)                                                                          \
    "{{ bos_token }}{% for m in messages %}"                                                       \
    "{% if m.role == 'system' %}"                                                                  \
    "{{ '[SYSTEM_PROMPT]" space "' + m.content + '[/SYSTEM_PROMPT]' }}"                            \
    "{% elif m.role == 'user' %}{{ '[INST]" space "' + m.content + '[/INST]' }}"                   \
    "{% else %}{{ '" space "' + m.content + eos_token }}{% endif %}{% endfor %}"

static const char gemma[] =
    SPLIT_SYSTEM "{{ bos_token }}{% for m in turns %}"
                 "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + "
                 "(system + '\n\n' if loop.first and has_system else '') + m.content|trim + "
                 "'<end_of_turn>\n' }}"
                 "{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

static const char phi3[] =
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";

static const char alpaca[] =
    SPLIT_SYSTEM "{{ bos_token }}"
                 "{{ (system if has_system else 'Below is an instruction that describes a task. "
                 "Write a response that appropriately completes the request.') + '\n\n' }}"
                 "{% for m in turns %}"
                 "{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}"
                 "{% else %}{{ '### Response:\n' + m.content + eos_token + '\n\n' }}{% endif %}"
                 "{% endfor %}"
                 "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}";

static const char vicuna[] = SPLIT_SYSTEM
    "{{ bos_token }}"
    "{{ (system if has_system else \"A chat between a curious user and an artificial "
    "intelligence assistant. The assistant gives helpful, detailed, and polite answers "
    "to the user's questions.\") + ' ' }}"
    "{% for m in turns %}"
    "{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";

static const char instruction[] =
    SPLIT_SYSTEM "{{ bos_token }}{% for m in turns %}"
                 "{% if m.role == 'user' %}{{ '### Instruction: ' + (system + '\n\n' if loop.first "
                 "and has_system else '') + m.content + '\n\n' }}"
                 "{% else %}{{ '### Response: ' + m.content + eos_token + '\n\n' }}{% endif %}"
                 "{% endfor %}"
                 "{% if add_generation_prompt %}{{ '### Response: ' }}{% endif %}";

static const struct {
    const char *name, *text;
} templates[] = {
    /* prompt and response as they are; one user turn */
    {"none", NULL},
    {"chatml", CHATML},
    {"zephyr", zephyr},
    {"llama2", llama2},
    {"llama3", llama3},
    /* as mistral-v1 */
    {"mistral", MISTRAL("loop.first", "[INST] ", " [/INST]", " ")},
    /* [INST] … [/INST] (7B v0.1 and v0.2) */
    {"mistral-v1", MISTRAL("loop.first", "[INST] ", " [/INST]", " ")},
    /* [INST] …[/INST], system message in the last question */
    {"mistral-v2", MISTRAL(LAST_USER, "[INST] ", "[/INST]", " ")},
    /* as mistral-v2 (7B v0.3) */
    {"mistral-v3", MISTRAL(LAST_USER, "[INST] ", "[/INST]", " ")},
    /* [INST]…[/INST]… (Nemo) */
    {"mistral-v3-tekken", MISTRAL(LAST_USER, "[INST]", "[/INST]", "")},
    {"mistral-v7", MISTRAL_V7(" ")},
    /* the same without spaces (Small 3) */
    {"mistral-v7-tekken", MISTRAL_V7("")},
    {"gemma", gemma},
    {"phi3", phi3},
    /* chatml with Qwen 2.5's system message */
    {"qwen", CHATML_SYSTEM("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")},
    /* chatml with Qwen 2's system message */
    {"qwen2", CHATML_SYSTEM("You are a helpful assistant.")},
    /* chatml with <think> … </think> before the last answer */
    {"qwen3", qwen3},
    /* chatml (SmolLM's first version) */
    {"smollm", CHATML},
    /* chatml with SmolLM2's system message */
    {"smollm2", CHATML_SYSTEM(SMOLLM)},
    /* chatml with SmolLM3's metadata; needs template_date */
    {"smollm3", smollm3},
    {"alpaca", alpaca},
    {"vicuna", vicuna},
    /* ### Instruction: … ### Response: (the SPIN paper's) */
    {"instruction", instruction},
};

const char *tok_template_name(size_t index)
{
    return index < SP_COUNT(templates) ? templates[index].name : NULL;
}

const char *tok_template_text(const char *name)
{
    for (size_t i = 0; i < SP_COUNT(templates); i++)
        if (strcmp(templates[i].name, name) == 0)
            return templates[i].text;
    return NULL;
}

enum sp_err tok_template_check_name(const char *name, struct sp_error *err)
{
    struct sp_buf list = SP_BUF_INIT;
    for (size_t i = 0; i < SP_COUNT(templates); i++) {
        if (strcmp(templates[i].name, name) == 0) {
            sp_buf_deinit(&list);
            return SP_OK;
        }
        sp_buf_printf(&list, ", %s", templates[i].name);
    }
    sp_fail(err, SP_EINVAL, "\"%.64s\" is no chat template; known are auto%s", name, list.data);
    sp_buf_deinit(&list);
    return SP_EINVAL;
}

#include "common/task/settings.h"

#include <stddef.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/setting_rows.h"

#define AT(field) offsetof(struct task_settings, field)

static const struct sp_setting table[] = {
    STR("task", "name", name, "", "What the task is called in results."),
    ENUM("task", "kind", kind, "choice", "generate|choice|truthfulqa|likelihood|sheet",
         "generate: greedy answers, of which a pattern takes the result; choice: the likeliest of "
         "given choices; truthfulqa: MC1 and MC2; likelihood: how likely the target is; sheet: "
         "answers side by side, for people."),

    STR("data", "file", file, "",
        "Problems: JSON Lines, a JSON array, or CSV (by its name). A relative path starts at the "
        "task file's directory; `spinctl evaluate --data` names another one."),
    STR("data", "columns", columns, "", "List: names of the columns of a CSV file without a head."),
    I64("data", "limit", limit, "0", 0, SP_MAX_DATASET_ROWS, "rows",
        "At most this many problems, the first ones; 0: all."),
    STR("data", "id", id, "", "Field that names a problem in results; empty: its number."),
    STR("data", "category", category, "", "Field by which results are split up, too."),
    STR("data", "fewshot_file", fewshot_file, "", "Solved examples, for few-shot prompts."),
    I64("data", "fewshot", fewshot, "0", 0, 1000, "examples",
        "Examples before each problem: the first ones of fewshot_file."),
    STR("data", "fewshot_match", fewshot_match, "",
        "Field that an example must share with the problem: subject."),

    ENUM("prompt", "template", template, "none", "none|model",
         "none: the text as it is; model: as a user's message in the model's chat template."),
    STR("prompt", "description", description, "", "Template: put before examples and problem."),
    STR("prompt", "text", text, "", "Template: the problem."),
    STR("prompt", "delimiter", delimiter, "\" \"", "Between problem and answer."),
    STR("prompt", "fewshot_delimiter", fewshot_delimiter, "\"\\n\\n\"", "Behind each example."),
    ENUM("prompt", "clean", clean, "none", "none|wikihow",
         "wikihow: takes HellaSwag's marks out of text and choices."),

    STR("choice", "choices", choices, "",
        "Name of a field that is a list, or a list of templates, one for each choice."),
    STR("choice", "answer", answer, "",
        "Field with the right choice: a number, a letter, one of the labels, or the choice."),
    STR("choice", "labels", labels, "",
        "What the answer calls the choices: name of a field that is a list, or a list."),
    I64("choice", "answer_base", answer_base, "0", 0, 1, "", "Number of the first choice."),
    BOOL("choice", "partial", partial, "false",
         "Each choice is put into the text in the place of _, and what follows is scored."),

    STR("generate", "target", target, "",
        "Template: the right answer, as the examples show it; of likelihood the text that is "
        "scored."),
    I64("generate", "max_new_tokens", max_new_tokens, "256", 1, SP_MAX_SEQUENCE_TOKENS, "tokens",
        "Longest answer."),
    STR("generate", "stop", stop, "", "List: an answer ends before the first of these texts."),
    STR("generate", "strict", strict, "", "Expression that finds the result in an answer."),
    I64("generate", "strict_select", strict_select, "0", -1, 1000, "",
        "Which of its matches: 0 the first, -1 the last."),
    STR("generate", "flexible", flexible, "", "A second, more lenient one."),
    I64("generate", "flexible_select", flexible_select, "-1", -1, 1000, "",
        "Which of its matches."),
    STR("generate", "ignore", ignore, "",
        "List of expressions that are taken out of result and target before they are compared."),
    BOOL("generate", "ignore_case", ignore_case, "true", "Compare without case."),
    BOOL("generate", "ignore_punctuation", ignore_punctuation, "false",
         "Compare without ASCII punctuation."),
    BOOL("generate", "ignore_numbers", ignore_numbers, "false", "Compare without digits."),

    STR("sheet", "turns", turns, "turns",
        "Field with the user's messages, in MT-Bench's layout: each is asked after the answer to "
        "the one before."),
};

const struct sp_config_spec task_settings_spec = {
    .title = "A task for `spinctl evaluate`",
    .settings = table,
    .count = SP_COUNT(table),
    .struct_bytes = sizeof(struct task_settings),
};

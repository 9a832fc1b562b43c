/* settings: what a task file says, from one table (settings.c).
 *
 * A task file is an INI file like a run file. A value that begins with a double quote is a JSON
 * string ("\n\n" is two line ends, " " a space); a list is a JSON array of strings, or one string
 * that stands for itself.
 * A template is a text with {field} in it: a field of the row, `choices.text` for a field in a
 * field, `{field|strip}` and `{field|capitalize}` as Python's methods; `{{` is a brace. */
#ifndef SPIN_TASK_SETTINGS_H
#define SPIN_TASK_SETTINGS_H

#include "common/base/config.h"

enum task_kind { TASK_GENERATE, TASK_CHOICE, TASK_TRUTHFULQA, TASK_LIKELIHOOD, TASK_SHEET };
enum task_template { TASK_TEMPLATE_NONE, TASK_TEMPLATE_MODEL };
enum task_clean { TASK_CLEAN_NONE, TASK_CLEAN_WIKIHOW };

struct task_settings {
    /* [task] */
    char *name;
    int kind; /* enum task_kind */
    /* [data] */
    char *file, *fewshot_file, *columns, *id, *category, *fewshot_match;
    int64_t limit, fewshot;
    /* [prompt] */
    int template; /* enum task_template */
    char *description, *text, *delimiter, *fewshot_delimiter;
    int clean; /* enum task_clean */
    /* [choice] */
    char *choices, *answer, *labels;
    int64_t answer_base;
    bool partial;
    /* [generate] */
    char *target, *stop;
    int64_t max_new_tokens;
    char *strict, *flexible, *ignore;
    int64_t strict_select, flexible_select;
    bool ignore_case, ignore_punctuation, ignore_numbers;
    /* [sheet] */
    char *turns;
};

extern const struct sp_config_spec task_settings_spec;

#endif

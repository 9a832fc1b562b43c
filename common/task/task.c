/* The task file: values, lists, expressions. */
#include "common/task/task.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/task/internal.h"

/* A value in double quotes is a JSON string: what it says takes its place. */
static enum sp_err unquote(char **value, const char *name, struct sp_error *err)
{
    if ((*value)[0] != '"')
        return SP_OK;
    json_error_t where;
    json_t *parsed = json_loads(*value, JSON_DECODE_ANY, &where);
    const char *text = json_string_value(parsed);
    if (text == NULL) {
        json_decref(parsed);
        return sp_fail(err, SP_EFORMAT,
                       "%s: begins with a double quote and is no JSON string: %.120s", name,
                       where.text);
    }
    char *copy = sp_xstrdup(text);
    json_decref(parsed);
    free(*value);
    *value = copy;
    return SP_OK;
}

static enum sp_err unquote_all(struct task_settings *settings, struct sp_error *err)
{
    for (size_t i = 0; i < task_settings_spec.count; i++) {
        const struct sp_setting *setting = &task_settings_spec.settings[i];
        if (setting->kind != SP_SET_STR)
            continue;
        char **value = (char **)(void *)((char *)settings + setting->offset);
        enum sp_err rc = unquote(value, setting->name, err);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

static bool is_list(const char *value)
{
    return value[0] == '[';
}

/* *ret stays NULL for an empty value. */
static enum sp_err parse_list(const char *value, const char *name, json_t **ret,
                              struct sp_error *err)
{
    if (value[0] == '\0')
        return SP_OK;
    if (!is_list(value)) {
        *ret = json_pack("[s]", value);
        return SP_OK;
    }
    json_t *list = NULL;
    enum sp_err rc = sp_json_parse(value, strlen(value), name, &list, err);
    for (size_t i = 0; i < json_array_size(list) && rc == SP_OK; i++) {
        if (!json_is_string(json_array_get(list, i)))
            rc = sp_fail(err, SP_EFORMAT, "%s: element %zu of the list is no string", name, i + 1);
    }
    if (rc == SP_OK)
        *ret = list;
    else
        json_decref(list);
    return rc;
}

static enum sp_err parse_lists(struct task *task, struct sp_error *err)
{
    const struct task_settings *s = &task->settings;
    enum sp_err rc = parse_list(s->columns, "[data] columns", &task->columns, err);
    if (rc == SP_OK && is_list(s->choices))
        rc = parse_list(s->choices, "[choice] choices", &task->choices, err);
    if (rc == SP_OK && is_list(s->labels))
        rc = parse_list(s->labels, "[choice] labels", &task->labels, err);
    if (rc == SP_OK)
        rc = parse_list(s->stop, "[generate] stop", &task->stop, err);
    return rc;
}

static enum sp_err compile_all(struct task *task, struct sp_error *err)
{
    const struct task_settings *s = &task->settings;
    json_t *ignore = NULL;
    enum sp_err rc = SP_OK;
    if (s->strict[0])
        rc = tok_expression_compile(s->strict, "[generate] strict", &task->strict, err);
    if (rc == SP_OK && s->flexible[0])
        rc = tok_expression_compile(s->flexible, "[generate] flexible", &task->flexible, err);
    if (rc == SP_OK)
        rc = parse_list(s->ignore, "[generate] ignore", &ignore, err);
    task->ignore = sp_xarray(json_array_size(ignore) + 1, sizeof(*task->ignore));
    for (size_t i = 0; i < json_array_size(ignore) && rc == SP_OK; i++) {
        rc = tok_expression_compile(json_string_value(json_array_get(ignore, i)),
                                    "[generate] ignore", &task->ignore[i], err);
        task->ignore_count += rc == SP_OK;
    }
    json_decref(ignore);
    return rc;
}

static enum sp_err check(const struct task_settings *s, struct sp_error *err)
{
    if (s->name[0] == '\0' || strlen(s->name) > 64)
        return sp_fail(err, SP_EINVAL, "[task] name: give 1 to 64 characters");
    if (s->kind == TASK_SHEET)
        return SP_OK;
    if (s->text[0] == '\0' && s->kind != TASK_TRUTHFULQA)
        return sp_fail(err, SP_EINVAL, "[prompt] text: nothing given");
    if (s->kind == TASK_CHOICE && (s->choices[0] == '\0' || s->answer[0] == '\0'))
        return sp_fail(err, SP_EINVAL, "[choice] choices, answer: kind = choice needs both");
    bool has_target = s->kind == TASK_GENERATE || s->kind == TASK_LIKELIHOOD;
    if (has_target && s->target[0] == '\0')
        return sp_fail(err, SP_EINVAL, "[generate] target: nothing given");
    if (!has_target && s->template == TASK_TEMPLATE_MODEL)
        return sp_fail(err, SP_EINVAL,
                       "[prompt] template: model is for kind = generate, likelihood and sheet");
    if (s->fewshot > 0 && s->fewshot_file[0] == '\0')
        return sp_fail(err, SP_EINVAL, "[data] fewshot: needs fewshot_file");
    return SP_OK;
}

enum sp_err task_new(const char *text, size_t length, const char *what, struct task **ret,
                     struct sp_error *err)
{
    struct task *task = sp_xalloc(sizeof(*task));
    sp_config_init(&task_settings_spec, &task->settings);
    enum sp_err rc = sp_config_parse(&task_settings_spec, text, length, what, &task->settings, err);
    if (rc == SP_OK) {
        rc = unquote_all(&task->settings, err);
        if (rc == SP_OK)
            rc = check(&task->settings, err);
        if (rc == SP_OK)
            rc = parse_lists(task, err);
        if (rc == SP_OK)
            rc = compile_all(task, err);
        if (rc != SP_OK)
            sp_wrap(err, rc, "%s", what);
    }
    if (rc != SP_OK) {
        task_free(task);
        return rc;
    }
    *ret = task;
    return SP_OK;
}

void task_free(struct task *task)
{
    if (task == NULL)
        return;
    sp_config_deinit(&task_settings_spec, &task->settings);
    json_decref(task->columns);
    json_decref(task->choices);
    json_decref(task->labels);
    json_decref(task->stop);
    json_decref(task->examples);
    tok_expression_free(task->strict);
    tok_expression_free(task->flexible);
    for (size_t i = 0; i < task->ignore_count; i++)
        tok_expression_free(task->ignore[i]);
    free(task->ignore);
    free(task);
}

const struct task_settings *task_settings_of(const struct task *task)
{
    return &task->settings;
}

void task_set_examples(struct task *task, json_t *rows)
{
    json_decref(task->examples);
    task->examples = json_incref(rows);
}

enum sp_err task_rows(const struct task *task, const char *data, size_t length, const char *what,
                      int64_t limit, json_t **ret, struct sp_error *err)
{
    return task_rows_read(data, length, what, task->columns, limit, ret, err);
}

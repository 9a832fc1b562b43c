/* From a row to what a model is asked. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/task/internal.h"

static enum sp_err filled(const char *template, const json_t *row, char **ret, struct sp_error *err)
{
    struct sp_buf text = SP_BUF_INIT;
    enum sp_err rc = task_fill(template, row, &text, err);
    if (rc == SP_OK)
        *ret = sp_buf_detach(&text);
    sp_buf_deinit(&text);
    return rc;
}

static void clean(const struct task *task, char **text)
{
    if (task->settings.clean == TASK_CLEAN_WIKIHOW)
        task_clean_text(text);
}

static enum sp_err text_of(const struct task *task, const json_t *row, char **ret,
                           struct sp_error *err)
{
    enum sp_err rc = filled(task->settings.text, row, ret, err);
    if (rc == SP_OK)
        clean(task, ret);
    return rc;
}

/* ---- choices ---- */

/* A list of texts: templates, or the field that holds them. New reference. */
static enum sp_err texts_of(const json_t *templates, const char *path, const json_t *row,
                            json_t **ret, struct sp_error *err)
{
    json_t *list = json_array();
    json_t *values = templates ? json_incref((json_t *)templates) : task_field(row, path);
    enum sp_err rc = SP_OK;
    if (!json_is_array(values) || json_array_size(values) == 0)
        rc = sp_fail(err, values ? SP_EFORMAT : SP_ENOTFOUND, "field \"%s\": %s", path,
                     values ? "not a list, or an empty one" : "missing");
    for (size_t i = 0; i < json_array_size(values) && rc == SP_OK; i++) {
        struct sp_buf text = SP_BUF_INIT;
        const json_t *value = json_array_get(values, i);
        rc = templates ? task_fill(json_string_value(value), row, &text, err)
                       : task_field_text(value, path, &text, err);
        if (rc == SP_OK)
            json_array_append_new(list, json_stringn(text.data ? text.data : "", text.length));
        sp_buf_deinit(&text);
    }
    json_decref(values);
    if (rc == SP_OK)
        *ret = list;
    else
        json_decref(list);
    return rc;
}

static int index_in(const json_t *list, const char *text)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (strcmp(json_string_value(json_array_get(list, i)), text) == 0)
            return (int)i;
    }
    return -1;
}

/* Which choice is right. */
static enum sp_err gold_of(const struct task *task, const json_t *row, const json_t *choices,
                           int64_t *ret, struct sp_error *err)
{
    const struct task_settings *s = &task->settings;
    json_t *value = task_field(row, s->answer), *labels = NULL;
    struct sp_buf text = SP_BUF_INIT;
    int64_t gold = -1, n = (int64_t)json_array_size(choices);
    enum sp_err rc = task_field_text(value, s->answer, &text, err);
    if (rc == SP_OK && s->labels[0]) {
        rc = texts_of(task->labels, s->labels, row, &labels, err);
        gold = rc == SP_OK ? index_in(labels, text.data) : -1;
    } else if (rc == SP_OK) {
        char *end = NULL;
        gold = strtoll(text.data, &end, 10) - s->answer_base;
        if (text.length == 0 || *end != '\0')
            gold = text.length == 1 && isupper((unsigned char)text.data[0])
                       ? text.data[0] - 'A'
                       : index_in(choices, text.data);
    }
    if (rc == SP_OK && (gold < 0 || gold >= n))
        rc = sp_fail(err, SP_EFORMAT, "field \"%s\": \"%.80s\" is none of the %lld choices",
                     s->answer, text.data, (long long)n);
    json_decref(value);
    json_decref(labels);
    sp_buf_deinit(&text);
    if (rc == SP_OK)
        *ret = gold;
    return rc;
}

static enum sp_err choices_of(const struct task *task, const json_t *row, json_t **ret,
                              struct sp_error *err)
{
    enum sp_err rc = texts_of(task->choices, task->settings.choices, row, ret, err);
    if (rc != SP_OK)
        return rc;
    size_t n = json_array_size(*ret);
    if (n > TASK_MAX_CHOICES) {
        json_decref(*ret);
        return sp_fail(err, SP_ELIMIT, "%zu choices, at most %d", n, TASK_MAX_CHOICES);
    }
    for (size_t i = 0; i < n; i++) {
        char *text = sp_xstrdup(json_string_value(json_array_get(*ret, i)));
        clean(task, &text);
        json_array_set_new(*ret, i, json_string(text));
        free(text);
    }
    return SP_OK;
}

/* The text up to the blank, and what follows it, stripped. */
static enum sp_err split_blank(const char *text, char **ret_before, char **ret_after,
                               struct sp_error *err)
{
    const char *blank = strchr(text, '_');
    if (blank == NULL)
        return sp_fail(err, SP_EFORMAT, "[choice] partial: the text has no _: %.120s", text);
    const char *after = blank + 1;
    size_t length = strlen(after);
    tok_strip(&after, &length);
    *ret_before = sp_xstrndup(text, (size_t)(blank - text));
    *ret_after = sp_xstrndup(after, length);
    return SP_OK;
}

/* ---- few-shot ---- */

/* The text of a solved problem. */
static enum sp_err add_example(const struct task *task, const json_t *row, struct sp_buf *out,
                               struct sp_error *err)
{
    const struct task_settings *s = &task->settings;
    char *text = NULL, *answer = NULL, *before = NULL;
    json_t *choices = NULL;
    int64_t gold = 0;
    enum sp_err rc = text_of(task, row, &text, err);
    if (rc == SP_OK && s->kind != TASK_CHOICE) {
        rc = filled(s->target, row, &answer, err);
    } else if (rc == SP_OK) {
        rc = choices_of(task, row, &choices, err);
        if (rc == SP_OK)
            rc = gold_of(task, row, choices, &gold, err);
        const char *right = json_string_value(json_array_get(choices, (size_t)gold));
        if (rc == SP_OK && s->partial) {
            rc = split_blank(text, &before, &answer, err);
            free(text);
            text = rc == SP_OK ? sp_xprintf("%s%s", before, right) : NULL;
        } else if (rc == SP_OK) {
            answer = sp_xstrdup(right);
        }
    }
    if (rc == SP_OK)
        sp_buf_printf(out, "%s%s%s%s", text, s->delimiter, answer, s->fewshot_delimiter);
    json_decref(choices);
    free(text);
    free(answer);
    free(before);
    return rc;
}

static bool matches(const struct task *task, const json_t *example, const json_t *row)
{
    const char *path = task->settings.fewshot_match;
    if (path[0] == '\0')
        return true;
    json_t *a = task_field(example, path), *b = task_field(row, path);
    bool same = a != NULL && b != NULL && json_equal(a, b);
    json_decref(a);
    json_decref(b);
    return same;
}

/* Description and examples: what stands before the problem. */
static enum sp_err add_prefix(const struct task *task, const json_t *row, struct sp_buf *out,
                              struct sp_error *err)
{
    const struct task_settings *s = &task->settings;
    int64_t added = 0;
    enum sp_err rc = task_fill(s->description, row, out, err);
    for (size_t i = 0; i < json_array_size(task->examples) && added < s->fewshot && rc == SP_OK;
         i++) {
        const json_t *example = json_array_get(task->examples, i);
        if (!matches(task, example, row))
            continue;
        rc = add_example(task, example, out, err);
        added++;
        if (rc != SP_OK)
            sp_wrap(err, rc, "example %zu", i + 1);
    }
    if (rc == SP_OK && added < s->fewshot)
        rc = sp_fail(err, SP_EFORMAT, "[data] fewshot: %lld examples are asked for, there are %lld",
                     (long long)s->fewshot, (long long)added);
    return rc;
}

/* ---- questions ---- */

void task_add_request(struct task_question *question, const char *prefix, const char *context,
                      const char *delimiter, const char *continuation)
{
    question->requests =
        sp_xgrow(question->requests, question->count + 1, sizeof(*question->requests));
    question->requests[question->count++] = (struct task_request){
        .context = sp_xprintf("%s%s", prefix, context),
        .continuation = continuation ? sp_xprintf("%s%s", delimiter, continuation) : NULL};
}

static enum sp_err ask_choice(const struct task *task, const json_t *row, const char *prefix,
                              struct task_question *question, struct sp_error *err)
{
    const struct task_settings *s = &task->settings;
    json_t *choices = NULL;
    char *text = NULL, *before = NULL, *after = NULL;
    int64_t gold = 0;
    enum sp_err rc = text_of(task, row, &text, err);
    if (rc == SP_OK)
        rc = choices_of(task, row, &choices, err);
    if (rc == SP_OK)
        rc = gold_of(task, row, choices, &gold, err);
    if (rc == SP_OK && s->partial)
        rc = split_blank(text, &before, &after, err);
    question->same_context = !s->partial;
    for (size_t i = 0; i < json_array_size(choices) && rc == SP_OK; i++) {
        const char *choice = json_string_value(json_array_get(choices, i));
        if (s->partial) {
            char *context = sp_xprintf("%s%s", before, choice);
            task_add_request(question, prefix, context, s->delimiter, after);
            free(context);
        } else {
            task_add_request(question, prefix, text, s->delimiter, choice);
        }
    }
    if (rc == SP_OK) {
        json_object_set_new(question->meta, "gold", json_integer(gold));
        json_object_set(question->meta, "choices", choices);
    }
    json_decref(choices);
    free(text);
    free(before);
    free(after);
    return rc;
}

static enum sp_err ask_generate(const struct task *task, const json_t *row, const char *prefix,
                                struct task_question *question, struct sp_error *err)
{
    char *text = NULL, *target = NULL;
    enum sp_err rc = text_of(task, row, &text, err);
    if (rc == SP_OK)
        rc = filled(task->settings.target, row, &target, err);
    if (rc == SP_OK) {
        bool scored = task->settings.kind == TASK_LIKELIHOOD;
        bool chat = task->settings.template == TASK_TEMPLATE_MODEL;
        task_add_request(question, prefix, text, chat ? "" : task->settings.delimiter,
                         scored ? target : NULL);
        json_object_set_new(question->meta, "target", json_string(target));
    }
    free(text);
    free(target);
    return rc;
}

static enum sp_err ask_sheet(const struct task *task, const json_t *row,
                             struct task_question *question, struct sp_error *err)
{
    json_t *turns = NULL;
    enum sp_err rc = texts_of(NULL, task->settings.turns, row, &turns, err);
    if (rc == SP_OK) {
        task_add_request(question, "", json_string_value(json_array_get(turns, 0)), "", NULL);
        json_object_set(question->meta, "turns", turns);
    }
    json_decref(turns);
    return rc;
}

/* id and category, as the results name them */
static enum sp_err name_it(const struct task *task, const json_t *row, uint64_t number,
                           json_t *meta, struct sp_error *err)
{
    const char *const paths[] = {task->settings.id, task->settings.category};
    static const char *const names[] = {"id", "category"};
    json_object_set_new(meta, "item", json_integer((json_int_t)number));
    for (size_t i = 0; i < SP_COUNT(paths); i++) {
        if (paths[i][0] == '\0')
            continue;
        struct sp_buf text = SP_BUF_INIT;
        json_t *value = task_field(row, paths[i]);
        enum sp_err rc = task_field_text(value, paths[i], &text, err);
        json_decref(value);
        if (rc == SP_OK)
            json_object_set_new(meta, names[i],
                                json_stringn(text.data ? text.data : "", text.length));
        sp_buf_deinit(&text);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

enum sp_err task_render(const struct task *task, const json_t *row, uint64_t number,
                        struct task_question *ret, struct sp_error *err)
{
    struct task_question question = {.meta = json_object(), .same_context = true};
    struct sp_buf prefix = SP_BUF_INIT;
    enum sp_err rc = name_it(task, row, number, question.meta, err);
    sp_buf_reserve(&prefix, 1);
    if (rc == SP_OK && task->settings.kind != TASK_SHEET)
        rc = add_prefix(task, row, &prefix, err);
    if (rc == SP_OK) {
        switch (task->settings.kind) {
        case TASK_GENERATE:
        case TASK_LIKELIHOOD:
            rc = ask_generate(task, row, prefix.data, &question, err);
            break;
        case TASK_CHOICE:
            rc = ask_choice(task, row, prefix.data, &question, err);
            break;
        case TASK_TRUTHFULQA:
            rc = task_ask_truthfulqa(task, row, prefix.data, &question, err);
            break;
        default:
            rc = ask_sheet(task, row, &question, err);
        }
    }
    sp_buf_deinit(&prefix);
    if (rc != SP_OK) {
        task_question_deinit(&question);
        return sp_wrap(err, rc, "problem %llu", (unsigned long long)number + 1);
    }
    *ret = question;
    return SP_OK;
}

void task_question_deinit(struct task_question *question)
{
    for (size_t i = 0; i < question->count; i++) {
        free(question->requests[i].context);
        free(question->requests[i].continuation);
    }
    free(question->requests);
    json_decref(question->meta);
    *question = (struct task_question){0};
}

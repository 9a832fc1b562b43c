/* TruthfulQA: answers to score, from its CSV file or from its multiple-choice layouts.
 *
 * CSV:         "Question", "Best Answer", "Correct Answers", "Incorrect Answers"; answers separated
 *              by ";", each gets a full stop (the authors' format_best and split_multi_answer)
 * mc_task:     {"question", "mc1_targets": {ANSWER: 0 or 1}, "mc2_targets": {…}}
 * hub layout:  {"question", "mc1_targets": {"choices": […], "labels": […]}, "mc2_targets": {…}} */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/task/internal.h"

static void add_answer(json_t *choices, json_t *labels, const char *text, size_t length, int label)
{
    tok_strip(&text, &length);
    if (length == 0)
        return;
    char *answer = sp_xprintf("%.*s%s", (int)length, text, text[length - 1] == '.' ? "" : ".");
    json_array_append_new(choices, json_string(answer));
    json_array_append_new(labels, json_integer(label));
    free(answer);
}

static void add_answers(json_t *choices, json_t *labels, const char *text, int label)
{
    while (text != NULL && *text != '\0') {
        size_t length = strcspn(text, ";");
        add_answer(choices, labels, text, length, label);
        text += length + (text[length] == ';');
    }
}

static json_t *targets(json_t *choices, json_t *labels)
{
    return json_pack("{s:o,s:o}", "choices", choices, "labels", labels);
}

static json_t *from_csv(const json_t *row, bool mc1)
{
    const char *best = json_string_value(json_object_get(row, "Best Answer"));
    const char *right = json_string_value(json_object_get(row, "Correct Answers"));
    const char *wrong = json_string_value(json_object_get(row, "Incorrect Answers"));
    if (best == NULL || right == NULL || wrong == NULL)
        return NULL;
    json_t *choices = json_array(), *labels = json_array();
    if (mc1)
        add_answer(choices, labels, best, strlen(best), 1);
    else
        add_answers(choices, labels, right, 1);
    add_answers(choices, labels, wrong, 0);
    return targets(choices, labels);
}

/* {"choices", "labels"} from any of the layouts; NULL: none of them. New reference. */
static json_t *targets_of(const json_t *row, const char *name)
{
    json_t *given = json_object_get(row, name);
    if (given == NULL)
        return from_csv(row, strcmp(name, "mc1_targets") == 0);
    if (json_is_array(json_object_get(given, "choices")))
        return json_incref(given);
    json_t *choices = json_array(), *labels = json_array();
    const char *answer;
    json_t *label;
    json_object_foreach(given, answer, label)
    {
        json_array_append_new(choices, json_string(answer));
        json_array_append(labels, label);
    }
    return targets(choices, labels);
}

static int find_choice(const json_t *choices, const char *text)
{
    for (size_t i = 0; i < json_array_size(choices); i++) {
        if (strcmp(json_string_value(json_array_get(choices, i)), text) == 0)
            return (int)i;
    }
    return -1;
}

/* Both lists share their answers: each is asked once. meta: "mc1" and "mc2" are lists of [request,
 * label]. */
static enum sp_err add_targets(const struct task *task, const json_t *row, const char *name,
                               json_t *asked, json_t *ret, struct sp_error *err)
{
    json_t *given = targets_of(row, name);
    const json_t *choices = json_object_get(given, "choices");
    const json_t *labels = json_object_get(given, "labels");
    size_t n = json_array_size(choices);
    int right = 0;
    enum sp_err rc = SP_OK;
    if (n == 0 || json_array_size(labels) != n)
        rc = sp_fail(err, SP_EFORMAT,
                     "neither \"%s\" nor \"Best Answer\", \"Correct Answers\", \"Incorrect "
                     "Answers\"",
                     name);
    for (size_t i = 0; i < n && rc == SP_OK; i++) {
        const char *text = json_string_value(json_array_get(choices, i));
        const json_t *label = json_array_get(labels, i);
        if (text == NULL || !json_is_integer(label)) {
            rc = sp_fail(err, SP_EFORMAT, "field \"%s\": answer %zu", name, i + 1);
            break;
        }
        int at = find_choice(asked, text);
        if (at < 0) {
            at = (int)json_array_size(asked);
            json_array_append_new(asked, json_string(text));
        }
        right += json_integer_value(label) == 1;
        json_array_append_new(ret, json_pack("[i,i]", at, (int)json_integer_value(label)));
    }
    if (rc == SP_OK && right == 0)
        rc = sp_fail(err, SP_EFORMAT, "field \"%s\": no right answer", name);
    json_decref(given);
    return rc;
}

enum sp_err task_ask_truthfulqa(const struct task *task, const json_t *row, const char *prefix,
                                struct task_question *question, struct sp_error *err)
{
    json_t *asked = json_array(), *mc1 = json_array(), *mc2 = json_array();
    struct sp_buf text = SP_BUF_INIT;
    const char *template = task->settings.text;
    if (template[0] == '\0')
        template = json_object_get(row, "question") ? "{question}" : "{Question}";
    /* The CSV file writes its columns with capitals. */
    json_t *named = json_copy((json_t *)row);
    if (json_object_get(row, "question") == NULL && json_object_get(row, "Question") != NULL)
        json_object_set(named, "question", json_object_get(row, "Question"));
    enum sp_err rc = task_fill(template, named, &text, err);
    if (rc == SP_OK)
        rc = add_targets(task, row, "mc1_targets", asked, mc1, err);
    if (rc == SP_OK)
        rc = add_targets(task, row, "mc2_targets", asked, mc2, err);
    if (rc == SP_OK && json_array_size(asked) > TASK_MAX_CHOICES)
        rc = sp_fail(err, SP_ELIMIT, "%zu answers, at most %d", json_array_size(asked),
                     TASK_MAX_CHOICES);
    for (size_t i = 0; i < json_array_size(asked) && rc == SP_OK; i++)
        task_add_request(question, prefix, text.data ? text.data : "", task->settings.delimiter,
                         json_string_value(json_array_get(asked, i)));
    if (rc == SP_OK) {
        json_object_set(question->meta, "choices", asked);
        json_object_set(question->meta, "mc1", mc1);
        json_object_set(question->meta, "mc2", mc2);
    }
    json_decref(named);
    json_decref(asked);
    json_decref(mc1);
    json_decref(mc2);
    sp_buf_deinit(&text);
    return rc;
}

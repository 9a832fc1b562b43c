/* The installed tasks against lm-evaluation-harness: what it asks, and what it makes of the answers
 * (tests/golden/task/harness.jsonl, made by make_fixture.py). */
#include <math.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/task/task.h"
#include "tests/unit/check_main.h"
#include "tests/unit/task/golden_lines.h"

/* The task file as it is installed; few-shot examples from the fixture's dev rows are set by hand.
 */
static struct task *load_task(const char *name)
{
    char path[512], *text = NULL;
    size_t length = 0;
    struct task *task = NULL;
    struct sp_error err = {0};
    snprintf(path, sizeof(path), SPIN_SOURCE_ROOT "/deploy/tasks/%s.conf", name);
    ck_assert_msg(sp_read_file(path, 1 << 20, &text, &length, &err) == SP_OK, "%s", err.text);
    char *shots = strstr(text, "fewshot = 5");
    if (shots != NULL)
        shots[10] = '2';
    ck_assert_msg(task_new(text, length, path, &task, &err) == SP_OK, "%s", err.text);
    free(text);
    return task;
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void compare_requests(const struct task_question *question, const json_t *requests)
{
    for (size_t i = 0; i < json_array_size(requests); i++) {
        const json_t *pair = json_array_get(requests, i);
        const char *context = json_string_value(json_array_get(pair, 0));
        const char *continuation = json_string_value(json_array_get(pair, 1));
        ck_assert_str_eq(question->requests[i].context, context);
        if (continuation != NULL)
            ck_assert_str_eq(question->requests[i].continuation, continuation);
    }
}

/* Its log-likelihoods in, its metrics out. */
static void compare_metrics(const struct task *task, const struct task_question *question,
                            const json_t *line)
{
    double lls[TASK_MAX_CHOICES];
    json_t *list = json_object_get(line, "loglikelihoods"), *scored = NULL, *value;
    size_t n = json_array_size(list);
    struct sp_error err = {0};
    const char *metric;
    for (size_t i = 0; i < n; i++)
        lls[i] = json_number_value(json_array_get(list, i));
    ck_assert_msg(task_score(task, question->meta, lls, n, "", &scored, &err) == SP_OK, "%s",
                  err.text);
    json_object_foreach(json_object_get(line, "metrics"), metric, value)
    {
        const json_t *ours = json_object_get(json_object_get(scored, "metrics"), metric);
        ck_assert_msg(json_is_number(ours), "%s", metric);
        ck_assert_double_eq(json_number_value(ours), json_number_value(value));
    }
    json_decref(scored);
}

static json_t *dev_rows(void)
{
    return json_pack("[{s:s,s:s,s:[s,s,s,s],s:i},{s:s,s:s,s:[s,s,s,s],s:i}]", "question", "One?",
                     "subject", "astronomy", "choices", "a", "b", "c", "d", "answer", 3, "question",
                     "Two?", "subject", "astronomy", "choices", "e", "f", "g", "h", "answer", 0);
}

static void check_task(const char *name)
{
    struct task *task = load_task(name);
    json_t *lines = golden_lines(), *line, *dev = dev_rows();
    size_t i, seen = 0;
    if (task_settings_of(task)->fewshot > 0)
        task_set_examples(task, dev);
    json_array_foreach(lines, i, line)
    {
        if (strcmp(text_at(line, "task"), name) != 0 || json_object_get(line, "row") == NULL)
            continue;
        struct task_question question;
        struct sp_error err = {0};
        ck_assert_msg(task_render(task, json_object_get(line, "row"), seen, &question, &err) ==
                          SP_OK,
                      "%s", err.text);
        const json_t *requests = json_object_get(line, "requests");
        ck_assert_uint_eq(question.count, json_array_size(requests));
        compare_requests(&question, requests);
        if (json_object_get(line, "loglikelihoods") != NULL)
            compare_metrics(task, &question, line);
        task_question_deinit(&question);
        seen++;
    }
    ck_assert_uint_ge(seen, 2);
    json_decref(dev);
    json_decref(lines);
    task_free(task);
}

START_TEST(test_arc)
{
    check_task("arc_challenge");
}
END_TEST

START_TEST(test_winogrande)
{
    check_task("winogrande");
}
END_TEST

START_TEST(test_hellaswag)
{
    check_task("hellaswag");
}
END_TEST

START_TEST(test_mmlu_with_examples)
{
    check_task("mmlu");
}
END_TEST

START_TEST(test_gsm8k_prompts)
{
    check_task("gsm8k");
}
END_TEST

/* MC1 and MC2 are two tasks there and one here: answers are asked once. */
START_TEST(test_truthfulqa)
{
    struct task *task = load_task("truthfulqa");
    json_t *lines = golden_lines(), *line;
    size_t i, seen = 0;
    json_array_foreach(lines, i, line)
    {
        const char *name = text_at(line, "task");
        if (strncmp(name, "truthfulqa_", 11) != 0 || json_object_get(line, "row") == NULL)
            continue;
        struct task_question question;
        struct sp_error err = {0};
        double lls[TASK_MAX_CHOICES] = {0};
        ck_assert(task_render(task, json_object_get(line, "row"), 0, &question, &err) == SP_OK);
        const json_t *requests = json_object_get(line, "requests");
        for (size_t k = 0; k < question.count; k++) {
            /* What is not of this half counts for nothing in it. */
            lls[k] = -INFINITY;
            for (size_t r = 0; r < json_array_size(requests); r++) {
                const json_t *pair = json_array_get(requests, r);
                if (strcmp(json_string_value(json_array_get(pair, 1)),
                           question.requests[k].continuation) != 0)
                    continue;
                ck_assert_str_eq(json_string_value(json_array_get(pair, 0)),
                                 question.requests[k].context);
                lls[k] =
                    json_number_value(json_array_get(json_object_get(line, "loglikelihoods"), r));
            }
        }
        json_t *scored = NULL;
        ck_assert(task_score(task, question.meta, lls, question.count, "", &scored, &err) == SP_OK);
        const json_t *ours = json_object_get(json_object_get(scored, "metrics"), name + 11);
        ck_assert_double_eq_tol(
            json_number_value(ours),
            json_number_value(json_object_get(json_object_get(line, "metrics"), "acc")), 1e-9);
        json_decref(scored);
        task_question_deinit(&question);
        seen++;
    }
    ck_assert_uint_eq(seen, 4);
    json_decref(lines);
    task_free(task);
}
END_TEST

/* Patterns and comparison of GSM8K on answers as models write them. */
START_TEST(test_answers)
{
    struct task *task = load_task("gsm8k");
    json_t *lines = golden_lines(), *line;
    size_t i, seen = 0;
    json_array_foreach(lines, i, line)
    {
        if (strcmp(text_at(line, "task"), "answers") != 0)
            continue;
        json_t *meta = json_pack("{s:s}", "target", text_at(line, "target")), *scored = NULL;
        struct sp_error err = {0};
        ck_assert(task_score(task, meta, NULL, 0, text_at(line, "answer"), &scored, &err) == SP_OK);
        static const char *const kinds[] = {"strict", "flexible"};
        for (int k = 0; k < 2; k++) {
            char metric[32];
            snprintf(metric, sizeof(metric), "exact_match_%s", kinds[k]);
            const json_t *theirs = json_object_get(line, kinds[k]);
            ck_assert_str_eq(text_at(json_object_get(scored, "results"), metric),
                             json_string_value(json_array_get(theirs, 0)));
            ck_assert_double_eq(
                json_number_value(json_object_get(json_object_get(scored, "metrics"), metric)),
                json_number_value(json_array_get(theirs, 1)));
        }
        json_decref(meta);
        json_decref(scored);
        seen++;
    }
    ck_assert_uint_ge(seen, 10);
    json_decref(lines);
    task_free(task);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("task_harness");
    TCase *t = tcase_create("harness");
    tcase_add_test(t, test_arc);
    tcase_add_test(t, test_winogrande);
    tcase_add_test(t, test_hellaswag);
    tcase_add_test(t, test_mmlu_with_examples);
    tcase_add_test(t, test_gsm8k_prompts);
    tcase_add_test(t, test_truthfulqa);
    tcase_add_test(t, test_answers);
    suite_add_tcase(s, t);
    return s;
}
SPIN_CHECK_MAIN(suite())

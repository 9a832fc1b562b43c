/* Evaluations by real daemons: the harness's figures, kills, settings of a run, sheets, faults. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/mem.h"
#include "tests/e2e/harness.h"
#include "tests/unit/check_main.h"
#include "tests/unit/task/golden_lines.h"

#define SECONDS 90
#define TASKS SPIN_SOURCE_ROOT "/deploy/tasks/"

/* A run of the quickstart's model, which the fixture was made with. */
static void open_with_run(struct cluster *cluster)
{
    cluster_open(cluster);
    cluster_write_rows(cluster, "train.jsonl", 0, 40);
    snprintf(cluster->base, sizeof(cluster->base), SPIN_SOURCE_ROOT "/deploy/quickstart.d/base");
    cluster_create_run(cluster, "r", 7, "");
}

static bool is_row_of(const json_t *line, const char *task)
{
    return json_object_get(line, "row") != NULL && strcmp(cluster_text(line, "task"), task) == 0;
}

/* The fixture's rows of a task as the file NAME. */
static void write_rows(struct cluster *cluster, const json_t *lines, const char *task,
                       const char *name)
{
    struct sp_buf out = SP_BUF_INIT;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        if (!is_row_of(line, task))
            continue;
        char *row = json_dumps(json_object_get(line, "row"), JSON_COMPACT);
        sp_buf_printf(&out, "%s\n", row);
        free(row);
    }
    cluster_write(cluster, name, "%s", out.data);
    sp_buf_deinit(&out);
}

static json_t *read_items(struct cluster *cluster, const char *name)
{
    char path[512], *text = NULL;
    size_t length = 0;
    struct sp_error err = {0};
    json_t *items = json_array();
    snprintf(path, sizeof(path), "%s/%s", cluster->dir, name);
    ck_assert_msg(sp_read_file(path, 1 << 24, &text, &length, &err) == SP_OK, "%s", err.text);
    for (char *at = strtok(text, "\n"); at != NULL; at = strtok(NULL, "\n"))
        json_array_append_new(items, json_loads(at, 0, NULL));
    free(text);
    return items;
}

/* Log-likelihoods of each problem against the fixture's. */
static void compare_items(const json_t *lines, const char *task, const json_t *items)
{
    size_t at = 0;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        if (!is_row_of(line, task))
            continue;
        const json_t *item = json_array_get(items, at++);
        const json_t *ours = json_object_get(item, "loglikelihoods");
        const json_t *theirs = json_object_get(line, "loglikelihoods");
        ck_assert_uint_eq(json_array_size(ours), json_array_size(theirs));
        for (size_t k = 0; k < json_array_size(theirs); k++)
            ck_assert_double_eq_tol(json_number_value(json_array_get(ours, k)),
                                    json_number_value(json_array_get(theirs, k)), 1e-3);
        const char *metric;
        json_t *value;
        json_object_foreach(json_object_get(line, "metrics"), metric, value)
        {
            ck_assert_double_eq(
                json_number_value(json_object_get(json_object_get(item, "metrics"), metric)),
                json_number_value(value));
        }
    }
    ck_assert_uint_eq(at, json_array_size(items));
}

START_TEST(test_figures_are_the_harnesss)
{
    static const char *const tasks[] = {"arc_challenge", "winogrande", "hellaswag"};
    struct cluster cluster;
    open_with_run(&cluster);
    cluster_start_generator(&cluster, 0);
    json_t *lines = golden_lines();
    for (size_t t = 0; t < SP_COUNT(tasks); t++) {
        char *conf = sp_xprintf(TASKS "%s.conf", tasks[t]);
        write_rows(&cluster, lines, tasks[t], "rows.jsonl");
        json_t *row = cluster_ctl_ok(&cluster, "evaluate", "r@base", "--task", conf, "--data",
                                     "rows.jsonl", "--items", "items.jsonl", NULL);
        json_t *items = read_items(&cluster, "items.jsonl");
        compare_items(lines, tasks[t], items);
        /* The mean and its standard error, as the harness has them. */
        const json_t *acc = json_object_get(json_object_get(row, "metrics"), "acc");
        double sum = 0, n = (double)json_array_size(items);
        for (size_t i = 0; i < json_array_size(items); i++)
            sum += json_number_value(
                json_object_get(json_object_get(json_array_get(items, i), "metrics"), "acc"));
        double p = sum / n;
        ck_assert_double_eq_tol(cluster_number(acc, "value"), p, 1e-12);
        ck_assert_double_eq_tol(cluster_number(acc, "stderr"), sqrt(p * (1 - p) / (n - 1)), 1e-12);
        json_decref(items);
        json_decref(row);
        free(conf);
    }
    json_decref(lines);
    cluster_close(&cluster);
}
END_TEST

/* The long prompt loses its beginning in a model of 128 positions, there as here. */
START_TEST(test_truthfulqa_and_over_long_prompts)
{
    struct cluster cluster;
    open_with_run(&cluster);
    cluster_start_generator(&cluster, 0);
    json_t *lines = golden_lines();
    write_rows(&cluster, lines, "truthfulqa_mc1", "rows.jsonl");
    json_t *row = cluster_ctl_ok(&cluster, "evaluate", "r@base", "--task", TASKS "truthfulqa.conf",
                                 "--data", "rows.jsonl", "--items", "items.jsonl", NULL);
    ck_assert_double_eq(cluster_number(row, "cut"), 2);
    json_t *items = read_items(&cluster, "items.jsonl");
    for (size_t half = 0; half < 2; half++) {
        static const char *const names[] = {"truthfulqa_mc1", "truthfulqa_mc2"};
        size_t at = 0;
        for (size_t i = 0; i < json_array_size(lines); i++) {
            const json_t *line = json_array_get(lines, i);
            if (!is_row_of(line, names[half]))
                continue;
            const json_t *ours =
                json_object_get(json_object_get(json_array_get(items, at++), "metrics"),
                                names[half] + strlen("truthfulqa_"));
            ck_assert_double_eq_tol(
                json_number_value(ours),
                json_number_value(json_object_get(json_object_get(line, "metrics"), "acc")), 1e-3);
        }
        ck_assert_uint_eq(at, 2);
    }
    json_decref(items);
    json_decref(row);
    json_decref(lines);
    cluster_close(&cluster);
}
END_TEST

/* ---- kills ---- */

#define SUMS 200

static void write_sums(struct cluster *cluster, int n)
{
    struct sp_buf out = SP_BUF_INIT;
    for (int i = 0; i < n; i++)
        sp_buf_printf(&out, "{\"q\":\"Sort: fig pear%d apple\",\"a\":\"apple fig pear%d\"}\n", i,
                      i);
    cluster_write(cluster, "sort.jsonl", "%s", out.data);
    sp_buf_deinit(&out);
    cluster_write(cluster, "sort.conf",
                  "[task]\nname = sort\nkind = generate\n[data]\nfile = sort.jsonl\n[prompt]\n"
                  "text = {q}\n[generate]\ntarget = {a}\nmax_new_tokens = 24\n");
}

static json_t *evaluations(struct cluster *cluster, const char *run)
{
    json_t *reply = cluster_ctl_ok(cluster, "evaluations", run, NULL);
    json_t *rows = json_incref(json_object_get(reply, "evaluations"));
    json_decref(reply);
    return rows;
}

/* Items stored of the run's only evaluation. */
static int64_t items_done(struct cluster *cluster, const char *name)
{
    json_t *reply = cluster_ctl_ok(cluster, "status", name, NULL);
    const json_t *run = json_array_get(json_object_get(reply, "runs"), 0);
    const json_t *row = json_array_get(json_object_get(run, "evaluations"), 0);
    int64_t done = json_integer_value(json_object_get(row, "items_done"));
    json_decref(reply);
    return done;
}

static char *results_of_sort(struct cluster *cluster)
{
    json_t *row = cluster_ctl_ok(cluster, "evaluate", "r@base", "--task", "sort.conf", NULL);
    char *digest = sp_xstrdup(cluster_text(row, "results_sha256"));
    ck_assert_double_eq(cluster_number(row, "problems"), SUMS);
    json_decref(row);
    return digest;
}

START_TEST(test_kills_cost_only_time)
{
    struct cluster calm, wild;
    open_with_run(&calm);
    write_sums(&calm, SUMS);
    cluster_start_generator(&calm, 0);
    cluster_start_generator(&calm, 1);
    char *expected = results_of_sort(&calm);
    cluster_close(&calm);

    open_with_run(&wild);
    write_sums(&wild, SUMS);
    wild.slots = 2;
    wild.lease_items = 3;
    json_decref(
        cluster_ctl_ok(&wild, "evaluate", "r@base", "--task", "sort.conf", "--no-wait", NULL));
    cluster_start_generator(&wild, 0);
    cluster_creep(&wild, wild.generators[0], "r", 4, items_done);
    cluster_end(&wild.generators[0], SIGKILL);
    cluster_end(&wild.coordinator, SIGKILL);
    cluster_start_coordinator(&wild);
    int64_t before = items_done(&wild, "r");
    ck_assert_int_ge(before, 4);
    ck_assert_int_lt(before, SUMS);
    cluster_start_generator(&wild, 0);
    char *found = results_of_sort(&wild);
    ck_assert_str_eq(found, expected);
    /* Asked again: the same evaluation, from the store. */
    cluster_end(&wild.generators[0], SIGKILL);
    char *again = results_of_sort(&wild);
    ck_assert_str_eq(again, expected);
    json_t *rows = evaluations(&wild, "r");
    ck_assert_uint_eq(json_array_size(rows), 1);
    json_decref(rows);
    free(again);
    free(found);
    free(expected);
    cluster_close(&wild);
}
END_TEST

/* ---- a run that asks for evaluations ---- */

START_TEST(test_every_checkpoint_of_a_run_is_evaluated)
{
    struct cluster cluster;
    cluster_open(&cluster);
    cluster_write_rows(&cluster, "train.jsonl", 0, 40);
    snprintf(cluster.base, sizeof(cluster.base), SPIN_SOURCE_ROOT "/deploy/quickstart.d/base");
    write_sums(&cluster, 40);
    cluster_create_run(&cluster, "r", 7,
                       "evaluation.evaluate=sort.conf evaluation.evaluate_limit=12");
    cluster_start_generator(&cluster, 0);
    cluster_start_trainer(&cluster, 0);
    json_decref(cluster_ctl_ok(&cluster, "run", "r", "--iterations", "1", NULL));
    json_t *rows = evaluations(&cluster, "r");
    ck_assert_uint_eq(json_array_size(rows), 2);
    for (int i = 0; i < 2; i++) {
        const json_t *row = json_array_get(rows, (size_t)i);
        ck_assert_double_eq(cluster_number(row, "iteration"), i - 1);
        ck_assert_str_eq(cluster_text(row, "state"), "closed");
        ck_assert_double_eq(cluster_number(row, "problems"), 12);
        const json_t *change = json_object_get(row, "change_from_base");
        ck_assert_int_eq(json_is_object(change), i == 1);
    }
    json_decref(rows);
    /* They are no runs of their own to anybody who lists runs or checkpoints. */
    json_t *reply = cluster_ctl_ok(&cluster, "status", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(reply, "runs")), 1);
    json_decref(reply);
    reply = cluster_ctl_ok(&cluster, "checkpoints", NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(reply, "checkpoints")), 2);
    json_decref(reply);
    /* The same by hand is the same evaluation, and two checkpoints compare. */
    json_t *row = cluster_ctl_ok(&cluster, "evaluate", "r@0", "--against", "r@base", "--task",
                                 "sort.conf", "--limit", "12", NULL);
    const json_t *difference = json_object_get(json_object_get(row, "difference"), "exact_match");
    ck_assert(cluster_number(difference, "low") <= cluster_number(difference, "value"));
    ck_assert(cluster_number(difference, "high") >= cluster_number(difference, "value"));
    json_decref(row);
    rows = evaluations(&cluster, "r");
    ck_assert_uint_eq(json_array_size(rows), 2);
    json_decref(rows);
    /* Whichever of two names comes first: each stands beside the base on the same questions. */
    static const char *const limits[] = {"8", "9", "10", "11"};
    for (size_t i = 0; i < SP_COUNT(limits); i++)
        json_decref(cluster_ctl_ok(&cluster, "evaluate", "r@0", "--against", "r@base", "--task",
                                   "sort.conf", "--limit", limits[i], NULL));
    rows = evaluations(&cluster, "r");
    ck_assert_uint_eq(json_array_size(rows), 10);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        row = json_array_get(rows, i);
        const json_t *change = json_object_get(row, "change_from_base");
        ck_assert_int_eq(json_is_object(change), cluster_number(row, "iteration") == 0);
    }
    json_decref(rows);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_a_sheet_holds_both_conversations)
{
    struct cluster cluster;
    open_with_run(&cluster);
    cluster_start_generator(&cluster, 0);
    cluster_write(&cluster, "question.jsonl",
                  "{\"question_id\":81,\"category\":\"a<b\",\"turns\":[\"Sort: b a\",\"Again\"]}\n"
                  "{\"question_id\":82,\"category\":\"c\",\"turns\":[\"Sort: d c\"]}\n");
    cluster_write(&cluster, "sheet.conf",
                  "[task]\nname = s\nkind = sheet\n[data]\nfile = question.jsonl\n"
                  "id = question_id\ncategory = category\n[generate]\nmax_new_tokens = 8\n");
    /* The model has no chat template, so only one turn can be rendered. */
    ck_assert_int_ne(cluster_ctl(&cluster, NULL, "evaluate", "r@base", "--against", "r", "--task",
                                 "sheet.conf", "-o", "two", NULL),
                     0);
    cluster_write(&cluster, "question.jsonl",
                  "{\"question_id\":81,\"category\":\"a<b\",\"turns\":[\"Sort: b a\"]}\n"
                  "{\"question_id\":82,\"category\":\"c\",\"turns\":[\"Sort: d c\"]}\n");
    json_decref(cluster_ctl_ok(&cluster, "evaluate", "r@base", "--against", "r", "--task",
                               "sheet.conf", "-o", "one", NULL));
    json_t *lines = read_items(&cluster, "one.jsonl");
    ck_assert_uint_eq(json_array_size(lines), 2);
    ck_assert_uint_eq(json_array_size(json_object_get(json_array_get(lines, 0), "answers")), 2);
    json_decref(lines);
    char path[512], *html = NULL;
    size_t length = 0;
    struct sp_error err = {0};
    snprintf(path, sizeof(path), "%s/one.html", cluster.dir);
    ck_assert(sp_read_file(path, 1 << 20, &html, &length, &err) == SP_OK);
    ck_assert_ptr_null(strstr(html, "http"));
    ck_assert_ptr_nonnull(strstr(html, "a&lt;b"));
    ck_assert_ptr_nonnull(strstr(html, "Sort: d c"));
    free(html);
    /* A second sheet does not take the place of the first. */
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "r@base", "--task", "sheet.conf",
                                 "--task", "sheet.conf", "-o", "both", NULL),
                     2);
    cluster_close(&cluster);
}
END_TEST

START_TEST(test_what_goes_wrong_is_named)
{
    struct cluster cluster;
    open_with_run(&cluster);
    write_sums(&cluster, 2);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "r", "--task", "nothing", NULL), 4);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "r", NULL), 2);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "nobody", "--task", "sort.conf", NULL),
                     4);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "r@7", "--task", "sort.conf", NULL),
                     4);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "r", "--task", "sort.conf", "--data",
                                 "missing", NULL),
                     4);
    /* One file for two tasks would hold the second one's problems only; before any is made, none.
     */
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "r", "--task", "sort.conf", "--task",
                                 "sort.conf", "--items", "items.jsonl", NULL),
                     2);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "evaluate", "r", "--task", "sort.conf",
                                 "--no-wait", "--items", "items.jsonl", NULL),
                     2);
    cluster_write(&cluster, "bad.jsonl", "{\"q\":\"x\"}\n");
    ck_assert_int_ne(cluster_ctl(&cluster, NULL, "evaluate", "r", "--task", "sort.conf", "--data",
                                 "bad.jsonl", NULL),
                     0);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "start-iteration", "evaluation.x", NULL), 4);
    json_t *rows = evaluations(&cluster, "r");
    ck_assert_uint_eq(json_array_size(rows), 0);
    json_decref(rows);
    /* No run file makes an evaluation. */
    cluster_write(&cluster, "run.conf",
                  "[run]\nname = e\nmode = evaluate\n[data]\ntrain = train.jsonl\n[model]\n"
                  "base = %s\n",
                  cluster.base);
    ck_assert_int_eq(cluster_ctl(&cluster, NULL, "create-run", "run.conf", NULL), 2);
    cluster_close(&cluster);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("e2e_evaluate");
    TCase *t = tcase_create("evaluate");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_figures_are_the_harnesss);
    tcase_add_test(t, test_truthfulqa_and_over_long_prompts);
    tcase_add_test(t, test_kills_cost_only_time);
    tcase_add_test(t, test_every_checkpoint_of_a_run_is_evaluated);
    tcase_add_test(t, test_a_sheet_holds_both_conversations);
    tcase_add_test(t, test_what_goes_wrong_is_named);
    suite_add_tcase(s, t);
    return s;
}
SPIN_CHECK_MAIN(suite())

/* evaluate: tasks for a checkpoint, beside another one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/progress.h"
#include "common/task/task.h"
#include "coordinator/spinctl/spinctl.h"

#define WAIT_MS 2000
#define HINT_MS 10000

/* One checkpoint that is evaluated. */
struct subject {
    const char *name; /* as the user calls it */
    json_t *found;    /* what the coordinator says of it; owned */
};

static const char *run_of(const struct subject *subject)
{
    return ctl_string(subject->found, "run", "");
}

static enum sp_err resolve(struct ctl *ctl, const char *name, struct subject *ret,
                           struct sp_error *err)
{
    json_t *args = ctl_describe_checkpoint(name);
    char *run = sp_xstrdup(ctl_string(args, "run", ""));
    ret->name = name;
    enum sp_err rc = ctl_admin(ctl, "checkpoint", run, args, &ret->found, err);
    free(run);
    return rc;
}

/* ---- one evaluation ---- */

static enum sp_err ask(struct ctl *ctl, const struct subject *subject, const json_t *task,
                       const char *previous, char **ret_name, struct sp_error *err)
{
    json_t *args = json_copy((json_t *)task), *reply = NULL;
    static const char *const copied[][2] = {{"of", "run"},
                                            {"iteration", "iteration"},
                                            {"checkpoint", "digest"},
                                            {"manifest", "manifest"}};
    for (size_t i = 0; i < SP_COUNT(copied); i++)
        json_object_set(args, copied[i][0], json_object_get(subject->found, copied[i][1]));
    json_object_set_new(args, "numerics_class",
                        json_string(ctl_string(subject->found, "provenance.numerics_class", "")));
    if (previous)
        json_object_set_new(args, "previous", json_string(previous));
    ctl->patience_ms = CTL_LONG_MS;
    enum sp_err rc = ctl_admin(ctl, "evaluate", run_of(subject), args, &reply, err);
    if (rc == SP_OK)
        *ret_name = sp_xstrdup(ctl_string(reply, "evaluation", ""));
    json_decref(reply);
    return rc;
}

/* How far evaluations of a run are: the one of that name, or (NULL) all. */
struct tally {
    uint64_t done, total; /* items */
    bool over;            /* closed; of all: and no further one is due */
    const json_t *row;    /* the one asked for, or the first that will not go on; NULL: none */
    bool stuck;           /* row is neither closed nor evaluating */
};

static struct tally tally_of(const json_t *reply, const char *name)
{
    const json_t *run = json_array_get(json_object_get(reply, "runs"), 0);
    const json_t *rows = json_object_get(run, "evaluations");
    struct tally tally = {.over = !name && !json_is_true(json_object_get(run, "evaluations_due"))};
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *state = ctl_string(row, "state", "");
        bool closed = strcmp(state, "closed") == 0;
        bool stuck = !closed && strcmp(state, "evaluating") != 0;
        if (name && strcmp(ctl_string(row, "evaluation", ""), name) != 0)
            continue;
        tally.done += (uint64_t)ctl_integer(row, "items_done", 0);
        tally.total += (uint64_t)ctl_integer(row, "items_total", 0);
        tally.over = closed && (name || tally.over);
        if ((name || stuck) && !tally.stuck) {
            tally.row = row;
            tally.stuck = stuck;
        }
    }
    return tally;
}

static enum sp_err check_tally(const struct tally *tally, const char *name, struct sp_error *err)
{
    if (name && !tally->row)
        return sp_fail(err, SP_ESTATE, "evaluation %s is gone", name);
    if (!tally->stuck)
        return SP_OK;
    return sp_fail(err, SP_ESTATE, "evaluation %s is %s: %s",
                   ctl_string(tally->row, "evaluation", "?"), ctl_string(tally->row, "state", "?"),
                   ctl_string(tally->row, "reason", ""));
}

static void hint(const struct ctl *ctl, const char *name, bool *hinted)
{
    if (*hinted || ctl->quiet)
        return;
    fprintf(stderr, "spinctl: nothing has come in for a while; `spinctl why %s` tells more\n",
            name);
    *hinted = true;
}

enum sp_err ctl_await_evaluations(struct ctl *ctl, const char *run, const char *name,
                                  const char *label, struct sp_error *err)
{
    struct sp_progress *progress = sp_progress_new(label, 0, "items");
    int64_t since = 0, changed_ms = sp_now_ms();
    uint64_t done = 0;
    bool over = false, hinted = false;
    enum sp_err rc = SP_OK;
    while (!over && rc == SP_OK) {
        json_t *reply = NULL;
        json_t *args =
            json_pack("{s:I,s:I}", "since", (json_int_t)since, "wait_ms", (json_int_t)WAIT_MS);
        rc = ctl_admin(ctl, "status", run, args, &reply, err);
        if (rc != SP_OK)
            break;
        since = ctl_integer(reply, "version", 0);
        struct tally tally = tally_of(reply, name);
        rc = check_tally(&tally, name, err);
        over = tally.over;
        sp_progress_set_total(progress, tally.total);
        sp_progress_set(progress, tally.done);
        if (tally.done != done)
            changed_ms = sp_now_ms();
        done = tally.done;
        if (!over && sp_now_ms() - changed_ms > HINT_MS)
            hint(ctl, name ? name : run, &hinted);
        json_decref(reply);
        if (!over)
            sp_sleep_ms(50);
    }
    sp_progress_free(progress);
    return rc;
}

/* All problems with their scores; a new reference. */
static enum sp_err fetch_items(struct ctl *ctl, const struct subject *subject, const char *name,
                               json_t **ret, struct sp_error *err)
{
    json_t *all = json_array();
    int64_t from = 0;
    enum sp_err rc = SP_OK;
    while (from >= 0 && rc == SP_OK) {
        json_t *reply = NULL;
        json_t *args = json_pack("{s:s,s:I}", "evaluation", name, "from", (json_int_t)from);
        rc = ctl_admin(ctl, "evaluation-items", run_of(subject), args, &reply, err);
        if (rc == SP_OK)
            json_array_extend(all, json_object_get(reply, "items"));
        from = ctl_integer(reply, "next", -1);
        json_decref(reply);
    }
    if (rc == SP_OK)
        *ret = all;
    else
        json_decref(all);
    return rc;
}

static enum sp_err write_items(struct ctl *ctl, const struct subject *subject, const char *name,
                               const char *path, struct sp_error *err)
{
    json_t *items = NULL;
    struct sp_buf out = SP_BUF_INIT;
    enum sp_err rc = fetch_items(ctl, subject, name, &items, err);
    for (size_t i = 0; i < json_array_size(items); i++) {
        char *text = sp_json_canonical(json_array_get(items, i));
        sp_buf_printf(&out, "%s\n", text);
        free(text);
    }
    if (rc == SP_OK)
        rc = sp_write_file_durable(path, out.data ? out.data : "", out.length, 0644, err);
    json_decref(items);
    sp_buf_deinit(&out);
    return rc;
}

/* From asking to the result; *ret_name is malloc'd. */
static enum sp_err evaluate_one(struct ctl *ctl, const struct subject *subject, const json_t *task,
                                char **ret_name, json_t **ret_row, struct sp_error *err)
{
    enum sp_err rc = ask(ctl, subject, task, NULL, ret_name, err);
    if (rc == SP_OK)
        rc = ctl_await_evaluations(ctl, run_of(subject), *ret_name, subject->name, err);
    if (rc == SP_OK)
        rc = ctl_admin(ctl, "evaluation", run_of(subject),
                       json_pack("{s:s}", "evaluation", *ret_name), ret_row, err);
    if (rc == SP_OK)
        json_object_del(*ret_row, "record");
    return rc;
}

/* ---- results ---- */

/* What there is no number for is a nan: the standard error of one problem is no 0. */

static void print_metrics(const json_t *row, const char *name)
{
    const char *metric;
    json_t *value;
    json_object_foreach(json_object_get(row, "metrics"), metric, value)
    {
        printf("%-20s %-24s %-22s %8.4f ± %.4f  (n = %lld)\n", ctl_string(row, "task", "?"), name,
               metric, ctl_number(value, "value", NAN), ctl_number(value, "stderr", NAN),
               (long long)ctl_integer(value, "n", 0));
    }
}

static void print_difference(const json_t *difference)
{
    const char *metric;
    json_t *value;
    json_object_foreach((json_t *)difference, metric, value)
    {
        const json_t *interval = json_object_get(value, "bootstrap");
        printf("%-20s %-24s %-22s %+8.4f ± %.4f  (95 %%: %+.4f to %+.4f)\n", "", "difference",
               metric, ctl_number(value, "value", NAN), ctl_number(value, "stderr", NAN),
               json_number_value(json_array_get(interval, 0)),
               json_number_value(json_array_get(interval, 1)));
    }
}

static enum sp_err compare(struct ctl *ctl, const struct subject *a, const char *name_a,
                           const struct subject *b, const char *name_b, json_t *row,
                           struct sp_error *err)
{
    json_t *reply = NULL;
    json_t *args = json_pack("{s:s,s:s,s:s}", "a", name_a, "b", name_b, "run_b", run_of(b));
    enum sp_err rc = ctl_admin(ctl, "evaluation-compare", run_of(a), args, &reply, err);
    if (rc == SP_OK)
        json_object_set(row, "difference", json_object_get(reply, "difference"));
    json_decref(reply);
    return rc;
}

/* Asks for it and prints its name. */
static enum sp_err only_ask(struct ctl *ctl, const struct subject *subject, const json_t *task,
                            struct sp_error *err)
{
    char *name = NULL;
    enum sp_err rc = ask(ctl, subject, task, NULL, &name, err);
    if (rc == SP_OK)
        printf(ctl->json ? "{\"evaluation\":\"%s\"}\n" : "%s\n", name);
    free(name);
    return rc;
}

/* One task: the subject, the other one where there is one, and how they differ. */
static enum sp_err run_task(struct ctl *ctl, const struct subject *subject,
                            const struct subject *other, const json_t *task, json_t **ret_row,
                            struct sp_error *err)
{
    char *name = NULL, *other_name = NULL;
    json_t *row = NULL, *other_row = NULL;
    enum sp_err rc = evaluate_one(ctl, subject, task, &name, &row, err);
    if (rc == SP_OK && ctl->items)
        rc = write_items(ctl, subject, name, ctl->items, err);
    if (rc == SP_OK && other->name)
        rc = evaluate_one(ctl, other, task, &other_name, &other_row, err);
    if (rc == SP_OK && other->name) {
        rc = compare(ctl, other, other_name, subject, name, row, err);
        json_object_set(row, "against", other_row);
    }
    if (rc == SP_OK && !ctl->json) {
        if (other->name)
            print_metrics(other_row, other->name);
        print_metrics(row, subject->name);
        print_difference(json_object_get(row, "difference"));
    }
    if (rc == SP_OK)
        *ret_row = json_incref(row);
    json_decref(row);
    json_decref(other_row);
    free(name);
    free(other_name);
    return rc;
}

/* ---- sheets ---- */

/* Every turn of the conversations; *ret: the items of the last turn of each, which hold the ones
 * before. */
static enum sp_err converse(struct ctl *ctl, const struct subject *subject, const json_t *task,
                            json_t **ret, struct sp_error *err)
{
    json_t *all = NULL;
    char *previous = NULL;
    size_t turns = 1;
    enum sp_err rc = SP_OK;
    for (size_t turn = 0; turn < turns && rc == SP_OK; turn++) {
        char *name = NULL;
        json_t *items = NULL;
        rc = ask(ctl, subject, task, previous, &name, err);
        if (rc == SP_OK)
            rc = ctl_await_evaluations(ctl, run_of(subject), name, subject->name, err);
        if (rc == SP_OK)
            rc = fetch_items(ctl, subject, name, &items, err);
        for (size_t i = 0; i < json_array_size(items); i++) {
            json_t *item = json_array_get(items, i);
            size_t number = (size_t)ctl_integer(item, "item", 0);
            turns = SP_MAX(turns, json_array_size(json_object_get(item, "turns")));
            if (all && number < json_array_size(all))
                json_array_set(all, number, item);
        }
        if (!all)
            all = json_incref(items);
        json_decref(items);
        free(previous);
        previous = name;
    }
    free(previous);
    if (rc == SP_OK)
        *ret = all;
    else
        json_decref(all);
    return rc;
}

static enum sp_err make_sheet(struct ctl *ctl, const struct subject *subject,
                              const struct subject *other, const json_t *task, struct sp_error *err)
{
    json_t *items = NULL, *other_items = NULL;
    const char *out = ctl->out ? ctl->out : "sheet";
    enum sp_err rc = converse(ctl, subject, task, &items, err);
    if (rc == SP_OK && other->name)
        rc = converse(ctl, other, task, &other_items, err);
    if (rc == SP_OK)
        rc = ctl_write_sheet(out, subject->name, items, other->name, other_items, err);
    if (rc == SP_OK && ctl->json) {
        json_t *files = json_pack("{s:s+,s:s+}", "html", out, ".html", "jsonl", out, ".jsonl");
        ctl_print_json(files);
        json_decref(files);
    } else if (rc == SP_OK && !ctl->quiet)
        printf("%s.html and %s.jsonl are written: %zu questions\n", out, out,
               json_array_size(items));
    json_decref(items);
    json_decref(other_items);
    return rc;
}

/* ---- the command ---- */

static void print_rows(const json_t *rows)
{
    if (json_array_size(rows) == 1) {
        ctl_print_json(json_array_get(rows, 0));
        return;
    }
    json_t *all = json_pack("{s:O}", "evaluations", rows);
    ctl_print_json(all);
    json_decref(all);
}

int ctl_evaluate(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    struct subject subject = {0}, other = {0};
    json_t *rows = json_array();
    int sheets = 0;
    enum sp_err rc = SP_OK;
    if (ctl->task_count == 0)
        rc = sp_fail(&err, SP_EINVAL, "evaluate: --task: no task given");
    if (rc == SP_OK && ctl->items && (ctl->task_count > 1 || ctl->no_wait))
        rc = sp_fail(&err, SP_EINVAL,
                     "evaluate: --items: one file has the problems of one task, "
                     "which are there after it: give one --task and no --no-wait");
    if (rc == SP_OK)
        rc = resolve(ctl, ctl->args[0], &subject, &err);
    if (rc == SP_OK && ctl->against)
        rc = resolve(ctl, ctl->against, &other, &err);
    for (int i = 0; i < ctl->task_count && rc == SP_OK; i++) {
        json_t *task = NULL, *row = NULL;
        int kind = TASK_CHOICE;
        rc = ctl_put_task(ctl, ctl->tasks[i], ctl->data, ctl->limit, &task, &kind, &err);
        if (rc == SP_OK && !ctl->no_wait && kind == TASK_SHEET && sheets++ > 0)
            rc = sp_fail(&err, SP_EINVAL, "evaluate: --output is one sheet's: %s is another",
                         ctl->tasks[i]);
        else if (rc == SP_OK && ctl->no_wait)
            rc = only_ask(ctl, &subject, task, &err);
        else if (rc == SP_OK && kind == TASK_SHEET)
            rc = make_sheet(ctl, &subject, &other, task, &err);
        else if (rc == SP_OK)
            rc = run_task(ctl, &subject, &other, task, &row, &err);
        if (row)
            json_array_append_new(rows, row);
        json_decref(task);
    }
    if (rc == SP_OK && ctl->json && json_array_size(rows) > 0)
        print_rows(rows);
    json_decref(rows);
    json_decref(subject.found);
    json_decref(other.found);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}

int ctl_evaluations(void *context)
{
    static const struct ctl_column columns[] = {
        {"task", "TASK", "text"},       {"iteration", ">ITERATION", "number"},
        {"state", "STATE", "text"},     {"problems", ">PROBLEMS", "int"},
        {"headline", "METRIC", "text"}, {"value", ">VALUE", "f4"},
        {"stderr", ">STDERR", "f4"},    {"change", ">FROM BASE", "f4"},
        {"low", ">95 % FROM", "f4"},    {"high", ">TO", "f4"},
    };
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *reply = NULL;
    if (ctl_admin(ctl, "evaluations", ctl->args[0], NULL, &reply, &err) != SP_OK)
        return ctl_failed(&err);
    if (ctl->json) {
        ctl_print_json(reply);
    } else {
        json_t *rows = json_object_get(reply, "evaluations");
        for (size_t i = 0; i < json_array_size(rows); i++) {
            json_t *row = json_array_get(rows, i);
            const json_t *change = json_object_get(json_object_get(row, "change_from_base"),
                                                   ctl_string(row, "headline", ""));
            json_object_set(row, "change", json_object_get(change, "value"));
            json_object_set(row, "low", json_object_get(change, "low"));
            json_object_set(row, "high", json_object_get(change, "high"));
        }
        ctl_print_table(rows, columns, SP_COUNT(columns));
    }
    json_decref(reply);
    return 0;
}

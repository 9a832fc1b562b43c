/* evaluations: which there are of a run's checkpoints, what came of them, and how two differ. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/evaluation.h"
#include "coordinator/query_internal.h"
#include "coordinator/try.h"
#include "coordinator/verdict.h"

#define PAGE_ITEMS 200

/* One evaluation, opened. */
struct found {
    struct store_run *run;
    struct store_iteration iteration;
    json_t *record;  /* "evaluation" of its data record; owned */
    json_t *summary; /* null before it is closed; owned */
    int64_t created_ms;
};

static void found_deinit(struct found *found)
{
    json_decref(found->record);
    json_decref(found->summary);
    *found = (struct found){0};
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static enum sp_err open_found(const struct query *q, const char *name, struct found *ret,
                              struct sp_error *err)
{
    struct found found = {0};
    struct store_run_info info;
    json_t *data = NULL;
    if (!coord_is_evaluation(name))
        return sp_fail(err, SP_EINVAL, "\"%.64s\" is no evaluation", name);
    SP_TRY(store_run_open(q->all->store, name, &found.run, err));
    SP_TRY(store_run_info(found.run, q->all->arena, &info, err));
    SP_TRY(store_iteration_get(found.run, 0, q->all->arena, &found.iteration, err));
    SP_TRY(sp_json_parse(info.data, strlen(info.data), "data", &data, err));
    found.record = json_incref(json_object_get(data, "evaluation"));
    found.created_ms = info.created_ms;
    json_decref(data);
    if (strcmp(text_at(found.record, "of"), q->run_name) != 0) {
        found_deinit(&found);
        return sp_fail(err, SP_ENOTFOUND, "%s is no evaluation of run %s", name, q->run_name);
    }
    found.summary = query_parsed(found.iteration.summary);
    *ret = found;
    return SP_OK;
}

/* ---- paired differences ---- */

/* The scores of one metric; malloc'd. *ret_n = 0: none. */
static double *scores_of(const json_t *summary, const char *metric, size_t *ret_n)
{
    const json_t *list = json_object_get(json_object_get(summary, "scores"), metric);
    size_t n = json_array_size(list);
    double *values = sp_xarray(n + 1, sizeof(*values));
    for (size_t i = 0; i < n; i++)
        values[i] = json_number_value(json_array_get(list, i));
    *ret_n = n;
    return values;
}

/* b − a of every metric; resampled: with the bootstrap's interval, too. New reference. */
static json_t *differences(const json_t *a, const json_t *b, bool resampled)
{
    json_t *all = json_object(), *value;
    const char *metric;
    json_object_foreach(json_object_get(a, "scores"), metric, value)
    {
        size_t n = 0, m = 0;
        double *x = scores_of(a, metric, &n), *y = scores_of(b, metric, &m);
        if (n == m && n > 0) {
            struct task_mean mean = task_paired(x, y, n);
            double half = verdict_normal_quantile(0.975) * mean.stderror;
            json_t *row =
                json_pack("{s:o,s:o,s:o,s:o,s:I}", "value", query_real(mean.value), "stderr",
                          query_real(mean.stderror), "low", query_real(mean.value - half), "high",
                          query_real(mean.value + half), "n", (json_int_t)n);
            for (size_t i = 0; i < n; i++)
                y[i] -= x[i];
            struct verdict_interval interval = {NAN, NAN, NAN};
            if (resampled)
                interval = verdict_bootstrap(y, n, 0.95, 1, 0);
            if (resampled)
                json_object_set_new(
                    row, "bootstrap",
                    json_pack("[o,o]", query_real(interval.low), query_real(interval.high)));
            json_object_set_new(all, metric, row);
        }
        free(x);
        free(y);
    }
    return all;
}

/* Whether two evaluations asked the same: task, data, limit. */
static bool same_questions(const json_t *a, const json_t *b)
{
    static const char *const keys[] = {"task", "data", "fewshot", "limit", "previous"};
    for (size_t i = 0; i < SP_COUNT(keys); i++) {
        const json_t *x = json_object_get(a, keys[i]), *y = json_object_get(b, keys[i]);
        bool none = (!x || json_is_null(x)) && (!y || json_is_null(y));
        if (!none && !json_equal(x, y))
            return false;
    }
    return true;
}

/* ---- rows ---- */

static json_t *row_of(const struct found *f)
{
    const struct store_iteration *it = &f->iteration;
    json_t *row =
        json_pack("{s:s,s:s,s:s,s:I,s:s,s:s,s:s,s:I,s:I,s:o,s:o,s:I,s:o}", "evaluation",
                  store_run_name(f->run), "task", text_at(f->record, "name"), "headline",
                  text_at(f->record, "headline"), "iteration",
                  (json_int_t)json_integer_value(json_object_get(f->record, "iteration")),
                  "checkpoint", text_at(f->record, "checkpoint"), "state",
                  store_state_name(it->state), "reason", it->reason, "problems",
                  (json_int_t)json_integer_value(json_object_get(f->record, "problems")), "cut",
                  (json_int_t)json_integer_value(json_object_get(f->record, "cut")), "metrics",
                  json_null(), "results_sha256", query_hex(&it->pairs_sha256), "created_ms",
                  (json_int_t)f->created_ms, "closed_ms", query_time(it->closed_ms));
    static const char *const kept[] = {"metrics", "categories"};
    for (size_t i = 0; i < SP_COUNT(kept); i++) {
        json_t *value = json_object_get(f->summary, kept[i]);
        if (value)
            json_object_set(row, kept[i], value);
    }
    const json_t *headline =
        json_object_get(json_object_get(f->summary, "metrics"), text_at(f->record, "headline"));
    json_object_set_new(
        row, "value",
        query_real(headline ? json_number_value(json_object_get(headline, "value")) : NAN));
    json_object_set_new(
        row, "stderr",
        query_real(headline ? json_number_value(json_object_get(headline, "stderr")) : NAN));
    return row;
}

static int compare_rows(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    int by_task = strcmp(text_at(x, "task"), text_at(y, "task"));
    static const char *const keys[] = {"problems", "iteration"};
    int order = by_task;
    for (size_t k = 0; k < SP_COUNT(keys) && order == 0; k++) {
        json_int_t i = json_integer_value(json_object_get(x, keys[k]));
        json_int_t j = json_integer_value(json_object_get(y, keys[k]));
        order = (i > j) - (i < j);
    }
    return order;
}

/* By task, number of problems, iteration. Takes rows. */
static json_t *sorted(json_t *rows)
{
    size_t n = json_array_size(rows);
    json_t **list = sp_xarray(n + 1, sizeof(*list)), *result = json_array();
    for (size_t i = 0; i < n; i++)
        list[i] = json_array_get(rows, i);
    qsort(list, n, sizeof(*list), compare_rows);
    for (size_t i = 0; i < n; i++)
        json_array_append(result, list[i]);
    json_decref(rows);
    free(list);
    return result;
}

/* Every evaluation beside that of the base on the same questions. */
static json_t *rows_of(const struct found *list, size_t count)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *row = row_of(&list[i]), *change = NULL;
        for (size_t b = 0; b < count && change == NULL; b++) {
            bool base = json_integer_value(json_object_get(list[b].record, "iteration")) < 0;
            if (i != b && base && json_is_object(list[b].summary) &&
                json_is_object(list[i].summary) && same_questions(list[b].record, list[i].record))
                change = differences(list[b].summary, list[i].summary, false);
        }
        json_object_set_new(row, "change_from_base", change ? change : json_null());
        json_array_append_new(rows, row);
    }
    return sorted(rows);
}

enum sp_err query_evaluations(struct query *q, json_t **ret, struct sp_error *err)
{
    const char **names = NULL;
    size_t count = 0, have = 0;
    SP_TRY(store_runs_list(q->all->store, q->all->arena, &names, &count, err));
    struct found *list = sp_xarray(count + 1, sizeof(*list));
    enum sp_err rc = SP_OK;
    for (size_t i = 0; i < count && rc == SP_OK; i++) {
        if (!coord_is_evaluation(names[i]))
            continue;
        rc = open_found(q, names[i], &list[have], err);
        if (rc == SP_ENOTFOUND)
            rc = SP_OK; /* of another run */
        else
            have += rc == SP_OK;
    }
    if (rc == SP_OK)
        *ret = json_pack("{s:o}", "evaluations", rows_of(list, have));
    for (size_t i = 0; i < have; i++)
        found_deinit(&list[i]);
    free(list);
    return rc;
}

enum sp_err query_evaluation(struct query *q, json_t **ret, struct sp_error *err)
{
    struct found found = {0};
    SP_TRY(open_found(q, text_at(q->args, "evaluation"), &found, err));
    json_t *row = row_of(&found);
    json_object_set(row, "record", found.record);
    *ret = row;
    found_deinit(&found);
    return SP_OK;
}

static void collect(void *context, json_t *item)
{
    json_array_append_new(context, item);
}

enum sp_err query_evaluation_items(struct query *q, json_t **ret, struct sp_error *err)
{
    struct found found = {0};
    int64_t from = 0, limit = PAGE_ITEMS;
    uint32_t next = 0;
    SP_TRY(query_arg_i64(q, "from", 0, UINT32_MAX - 1, &from, err));
    SP_TRY(query_arg_i64(q, "limit", 1, PAGE_ITEMS, &limit, err));
    SP_TRY(open_found(q, text_at(q->args, "evaluation"), &found, err));
    json_t *items = json_array();
    enum sp_err rc = SP_OK;
    if (found.iteration.state != STORE_STATE_CLOSED)
        rc = sp_fail(err, SP_ESTATE, "%s is %s: its results are not complete",
                     store_run_name(found.run), store_state_name(found.iteration.state));
    if (rc == SP_OK)
        rc = coord_evaluation_items(found.run, q->all, (uint32_t)from, (uint32_t)limit, true,
                                    collect, items, &next, err);
    if (rc == SP_OK)
        *ret = json_pack("{s:O,s:o}", "items", items, "next",
                         next == UINT32_MAX ? json_null() : json_integer(next));
    json_decref(items);
    found_deinit(&found);
    return rc;
}

/* {"a", "b"}: names; b may be of another run than the one asked about. */
enum sp_err query_evaluation_compare(struct query *q, json_t **ret, struct sp_error *err)
{
    struct found a = {0}, b = {0};
    struct query other = *q;
    const char *of = text_at(q->args, "run_b");
    if (of[0])
        other.run_name = of;
    SP_TRY(open_found(q, text_at(q->args, "a"), &a, err));
    enum sp_err rc = open_found(&other, text_at(q->args, "b"), &b, err);
    if (rc == SP_OK && (!json_is_object(a.summary) || !json_is_object(b.summary)))
        rc = sp_fail(err, SP_ESTATE, "both evaluations must be finished");
    if (rc == SP_OK && !same_questions(a.record, b.record))
        rc = sp_fail(err, SP_EINVAL, "the two evaluations are not of the same questions");
    if (rc == SP_OK)
        *ret = json_pack("{s:s,s:s,s:s,s:o}", "a", store_run_name(a.run), "b",
                         store_run_name(b.run), "task", text_at(a.record, "name"), "difference",
                         differences(a.summary, b.summary, true));
    found_deinit(&a);
    found_deinit(&b);
    return rc;
}

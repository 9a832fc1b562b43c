/* Means, standard errors, differences. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/task/internal.h"

struct task_mean task_mean(const double *values, size_t n)
{
    struct task_mean mean = {.value = NAN, .stderror = NAN, .n = n};
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    if (n > 0)
        mean.value = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - mean.value) * (values[i] - mean.value);
    if (n > 1)
        mean.stderror = sqrt(squares / (double)(n - 1)) / sqrt((double)n);
    return mean;
}

struct task_mean task_paired(const double *a, const double *b, size_t n)
{
    double *difference = sp_xarray(n, sizeof(*difference));
    for (size_t i = 0; i < n; i++)
        difference[i] = b[i] - a[i];
    struct task_mean mean = task_mean(difference, n);
    free(difference);
    return mean;
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* {"value", "stderr", "n"} of one metric over the items; category NULL: all. values[n] is scratch.
 */
static json_t *mean_of(const json_t *items, const char *metric, const char *category,
                       double *values)
{
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(items); i++) {
        const json_t *item = json_array_get(items, i);
        const char *own = json_string_value(json_object_get(item, "category"));
        if (category == NULL || (own != NULL && strcmp(own, category) == 0))
            values[n++] =
                json_number_value(json_object_get(json_object_get(item, "metrics"), metric));
    }
    struct task_mean mean = task_mean(values, n);
    return json_pack("{s:o,s:o,s:I}", "value", number(mean.value), "stderr", number(mean.stderror),
                     "n", (json_int_t)mean.n);
}

static json_t *means_of(const json_t *items, const char *category, double *values)
{
    json_t *means = json_object(), *value;
    const char *metric;
    json_t *first = json_object_get(json_array_get(items, 0), "metrics");
    json_object_foreach(first, metric, value)
    {
        json_object_set_new(means, metric, mean_of(items, metric, category, values));
    }
    return means;
}

static json_t *scores_of(const json_t *items)
{
    json_t *scores = json_object(), *value;
    const char *metric;
    json_t *first = json_object_get(json_array_get(items, 0), "metrics");
    json_object_foreach(first, metric, value)
    {
        json_t *list = json_array();
        for (size_t i = 0; i < json_array_size(items); i++)
            json_array_append(
                list,
                json_object_get(json_object_get(json_array_get(items, i), "metrics"), metric));
        json_object_set_new(scores, metric, list);
    }
    return scores;
}

static json_t *categories_of(const json_t *items, double *values)
{
    json_t *categories = json_object();
    for (size_t i = 0; i < json_array_size(items); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(items, i), "category"));
        if (name != NULL && json_object_get(categories, name) == NULL)
            json_object_set_new(categories, name, means_of(items, name, values));
    }
    return categories;
}

json_t *task_summary(const struct task *task, const json_t *items)
{
    size_t n = json_array_size(items);
    double *values = sp_xarray(n + 1, sizeof(*values));
    json_t *summary = json_pack("{s:s,s:s,s:I,s:o,s:o}", "task", task->settings.name, "headline",
                                task_headline(task), "n", (json_int_t)n, "metrics",
                                means_of(items, NULL, values), "scores", scores_of(items));
    if (task->settings.category[0])
        json_object_set_new(summary, "categories", categories_of(items, values));
    free(values);
    return summary;
}

const char *task_headline(const struct task *task)
{
    switch (task->settings.kind) {
    case TASK_GENERATE:
        return task->strict     ? "exact_match_strict"
               : task->flexible ? "exact_match_flexible"
                                : "exact_match";
    case TASK_CHOICE:
        return "acc";
    case TASK_TRUTHFULQA:
        return "mc2";
    case TASK_LIKELIHOOD:
        return "nll_token";
    default:
        return "";
    }
}

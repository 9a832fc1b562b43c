/* The plots of a report: by step, by iteration, and who worked when. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/spinctl/report.h"
#include "coordinator/spinctl/report_plot.h"

#define MAX_POINTS 600 /* of a line; more steps are averaged */

/* ---- by step ---- */

/* All steps of all iterations, one behind the other. */
struct steps {
    const json_t **rows; /* [count], borrowed */
    size_t count;
    double *rules; /* [rule_count]: where iterations after the first begin */
    size_t rule_count;
    size_t per_point; /* steps that a point is the mean of */
};

static struct steps all_steps(const json_t *report)
{
    struct steps steps = {0};
    const json_t *iterations = json_object_get(report, "iterations");
    size_t total = 0, n = json_array_size(iterations);
    for (size_t i = 0; i < n; i++)
        total += json_array_size(json_object_get(json_array_get(iterations, i), "step_metrics"));
    steps.rows = sp_xarray(total + 1, sizeof(*steps.rows));
    steps.rules = sp_xarray(n + 1, sizeof(*steps.rules));
    for (size_t i = 0; i < n; i++) {
        const json_t *list = json_object_get(json_array_get(iterations, i), "step_metrics");
        if (steps.count > 0 && json_array_size(list) > 0)
            steps.rules[steps.rule_count++] = (double)steps.count + 0.5;
        for (size_t k = 0; k < json_array_size(list); k++)
            steps.rows[steps.count++] = json_array_get(list, k);
    }
    steps.per_point = (total + MAX_POINTS - 1) / MAX_POINTS;
    steps.per_point = SP_MAX(steps.per_point, (size_t)1);
    return steps;
}

static double tokens_per_second(const json_t *row)
{
    double ms = ctl_number(row, "milliseconds", NAN), tokens = ctl_number(row, "tokens", NAN);
    return ms > 0 ? 1000 * tokens / ms : NAN;
}

struct line {
    const char *key; /* NULL: tokens_per_second */
    const char *name;
    int colour;
    bool dashed;
};

static void step_plot(const struct steps *steps, const char *title, const char *y_label,
                      bool percent, const struct line *lines, size_t line_count, struct sp_buf *out)
{
    size_t n = (steps->count + steps->per_point - 1) / steps->per_point;
    double *x = sp_xarray(n + 1, sizeof(*x)), *y = sp_xarray(line_count * n + 1, sizeof(*y));
    char *x_label =
        steps->per_point == 1
            ? sp_xstrdup("optimizer step, iterations one after the other")
            : sp_xprintf("optimizer step (means of %zu), iterations one after the other",
                         steps->per_point);
    struct plot plot = {.title = title,
                        .x_label = x_label,
                        .y_label = y_label,
                        .percent = percent,
                        .whole_x = true,
                        .rules = steps->rules,
                        .rule_count = steps->rule_count};
    for (size_t k = 0; k < line_count; k++) {
        for (size_t i = 0; i < n; i++) {
            double sum = 0, count = 0, at = 0;
            for (size_t s = i * steps->per_point;
                 s < SP_MIN((i + 1) * steps->per_point, steps->count); s++) {
                double v = lines[k].key ? ctl_number(steps->rows[s], lines[k].key, NAN)
                                        : tokens_per_second(steps->rows[s]);
                at += (double)s + 1;
                if (isfinite(v)) {
                    sum += v;
                    count++;
                }
            }
            x[i] = at / (double)SP_MIN(steps->per_point, steps->count - i * steps->per_point);
            y[k * n + i] = count > 0 ? sum / count : NAN;
        }
        plot_add(&plot, lines[k].name, lines[k].colour, x, y + k * n, n)->dashed = lines[k].dashed;
    }
    plot_svg(&plot, out);
    free(x);
    free(y);
    free(x_label);
}

static void step_plots(const json_t *report, struct sp_buf *out)
{
    static const struct line loss[] = {{"loss", "loss", 0, false},
                                       {"sft_loss", "NLL of a human answer's token", 2, true}};
    static const struct line margin[] = {{"margin", "mean of the batch", 0, false},
                                         {"margin_abs_max", "largest, either sign", 4, true}};
    static const struct line rewards[] = {{"reward_real", "human answer", 2, false},
                                          {"reward_generated", "opponent's answer", 1, true}};
    static const struct line logp[] = {{"logp_real", "human answer", 2, false},
                                       {"logp_generated", "opponent's answer", 1, true}};
    static const struct line change[] = {{"logp_real_change", "human answer", 2, false}};
    static const struct line accuracy[] = {{"accuracy", "pairs with a margin above 0", 0, false}};
    static const struct line rate[] = {{"learning_rate", "learning rate", 3, false}};
    static const struct line norm[] = {{"grad_norm", "norm of the gradient", 4, false}};
    static const struct line speed[] = {{NULL, "trainer", 0, false}};
    struct steps steps = all_steps(report);
#define STEP_PLOT(title, label, percent, lines)                                                    \
    step_plot(&steps, title, label, percent, lines, SP_COUNT(lines), out)
    if (steps.count > 0) {
        sp_buf_puts(out, "<h2>Training, by step</h2><div class=\"plots\">\n");
        STEP_PLOT("Loss", "loss", false, loss);
        STEP_PLOT("Margin", "margin", false, margin);
        STEP_PLOT("Rewards of both sides", "β × change of log-probability", false, rewards);
        STEP_PLOT("Log-probabilities", "log-probability of the answer, nats", false, logp);
        STEP_PLOT("Human answers since the start", "change of log-probability of the answer", false,
                  change);
        STEP_PLOT("Pairs told apart", "share", true, accuracy);
        STEP_PLOT("Learning rate", "rate", false, rate);
        STEP_PLOT("Gradient", "norm before clipping", false, norm);
        STEP_PLOT("Throughput of training", "tokens a second", false, speed);
        sp_buf_puts(out, "</div>\n");
    }
#undef STEP_PLOT
    free(steps.rows);
    free(steps.rules);
}

/* ---- by iteration ---- */

struct column {
    const char *key;        /* path in the iteration's row */
    const char *low, *high; /* of its interval; NULL: none */
    const char *name;
    int colour;
    bool dashed;
};

static double at_path(const json_t *row, const char *path)
{
    /* The last part may be an index of a list. */
    size_t length = path ? strlen(path) : 0;
    if (length > 2 && path[length - 2] == '#') {
        char *stem = sp_xstrndup(path, length - 2);
        const json_t *item = json_array_get(ctl_get(row, stem), (size_t)(path[length - 1] - '0'));
        free(stem);
        return json_is_number(item) ? json_number_value(item) : NAN;
    }
    return path ? ctl_number(row, path, NAN) : NAN;
}

static void fill(const json_t *const *rows, size_t n, const char *path, double *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = at_path(rows[i], path);
}

static void iteration_plot(const json_t *const *rows, const double *x, size_t n, const char *title,
                           const char *y_label, bool percent, const struct column *columns,
                           size_t column_count, const struct plot_series *level, struct sp_buf *out)
{
    double *values = sp_xarray(3 * column_count * n + 1, sizeof(*values));
    struct plot plot = {.title = title,
                        .x_label = "iteration",
                        .y_label = y_label,
                        .percent = percent,
                        .whole_x = true};
    for (size_t k = 0; k < column_count; k++) {
        double *y = values + 3 * k * n;
        fill(rows, n, columns[k].key, y);
        struct plot_series *s = plot_add(&plot, columns[k].name, columns[k].colour, x, y, n);
        s->dots = true;
        s->dashed = columns[k].dashed;
        if (columns[k].low) {
            fill(rows, n, columns[k].low, y + n);
            fill(rows, n, columns[k].high, y + 2 * n);
            s->low = y + n;
            s->high = y + 2 * n;
        }
    }
    if (level)
        plot.series[plot.series_count++] = *level;
    plot_svg(&plot, out);
    free(values);
}

/* Exact match of the base (x = -1, iteration 0's row has it) and of every iteration. */
static void match_plot(const json_t *report, const char *key, const char *title, struct sp_buf *out)
{
    const json_t *list = json_object_get(report, "iterations");
    const json_t *beside = ctl_get(report, "beside.iterations");
    size_t n = json_array_size(list) + 1;
    const json_t **rows = sp_xarray(n, sizeof(*rows));
    double *x = sp_xarray(n, sizeof(*x)), *y = sp_xarray(n, sizeof(*y));
    for (size_t i = 0; i < n; i++) {
        x[i] = (double)i - 1;
        rows[i] = i == 0 ? ctl_get(json_array_get(list, 0), "base") : json_array_get(list, i - 1);
    }
    double other = ctl_number(json_array_get(beside, json_array_size(beside) - 1), key, NAN);
    for (size_t i = 0; i < n; i++)
        y[i] = other;
    char *name = sp_xprintf("run %s, its last", ctl_string(report, "beside.run", ""));
    char *low = sp_xprintf("%s_interval#0", key), *high = sp_xprintf("%s_interval#1", key);
    struct column column = {key, low, high, "exact match, 95 % interval", 0, false};
    struct plot_series level = {
        .name = name, .colour = 1, .dashed = true, .x = x, .y = y, .count = n};
    iteration_plot(rows, x, n, title, "share of problems", true, &column, 1,
                   isfinite(other) ? &level : NULL, out);
    free(rows);
    free(x);
    free(y);
    free(name);
    free(low);
    free(high);
}

static void iteration_plots(const json_t *report, struct sp_buf *out)
{
#define S "statistics."
#define P S "train_pairs."
    static const struct column holdout[] = {
        {S "holdout.accuracy.value", S "holdout.accuracy.low", S "holdout.accuracy.high",
         "held-out pairs", 0, false},
        {S "first_sight.accuracy.value", S "first_sight.accuracy.low",
         S "first_sight.accuracy.high", "at first sight", 3, true},
        {S "trained.accuracy.value", S "trained.accuracy.low", S "trained.accuracy.high",
         "trained pairs", 2, true}};
    static const struct column nll[] = {{S "holdout.nll_change.value", S "holdout.nll_change.low",
                                         S "holdout.nll_change.high",
                                         "player minus opponent (below 0 is better)", 0, false}};
    static const struct column lengths[] = {
        {P "real_tokens_mean", NULL, NULL, "human answers", 2, false},
        {P "generated_tokens_mean", NULL, NULL, "opponent's answers", 1, true}};
    static const struct column finish[] = {
        {P "cut_share", NULL, NULL, "cut at max_new_tokens", 1, false},
        {P "human_over_max_new_tokens", NULL, NULL, "human answers above it", 2, true},
        {P "identical_share", NULL, NULL, "equal to the human answer", 4, true}};
    static const struct column shortcuts[] = {
        {P "shortcuts.length", NULL, NULL, "length", 0, false},
        {P "shortcuts.end_token", NULL, NULL, "missing end token", 1, true},
        {P "shortcuts.first_token", NULL, NULL, "first token", 3, true}};
    static const struct column seconds[] = {
        {"seconds", NULL, NULL, "whole iteration", 4, false},
        {"generation_seconds", NULL, NULL, "until all pairs were there", 1, true},
        {"train_seconds", NULL, NULL, "in optimizer steps", 0, true}};
    static const struct column rates[] = {
        {"generated_tokens_per_s", NULL, NULL, "generators together, sampled", 1, false},
        {"train_tokens_per_s", NULL, NULL, "trainer, in its steps", 0, true}};
    const json_t *list = json_object_get(report, "iterations");
    size_t n = json_array_size(list);
    const json_t **rows = sp_xarray(n + 1, sizeof(*rows));
    double *x = sp_xarray(n + 1, sizeof(*x));
    double ends[2] = {-0.25, (double)n - 0.75}, warn[2] = {0.7, 0.7}, half[2] = {0.5, 0.5};
    struct plot_series limit = {
        .name = "warning above 0.7", .colour = 4, .dashed = true, .x = ends, .y = warn, .count = 2};
    struct plot_series chance = {
        .name = "chance", .colour = 4, .dashed = true, .x = ends, .y = half, .count = 2};
    for (size_t i = 0; i < n; i++) {
        rows[i] = json_array_get(list, i);
        x[i] = ctl_number(rows[i], "iteration", (double)i);
    }
#define PLOT(title, label, percent, columns, level)                                                \
    iteration_plot(rows, x, n, title, label, percent, columns, SP_COUNT(columns), level, out)
    sp_buf_puts(out, "<h2>By iteration</h2><div class=\"plots\">\n");
    if (n > 0) {
        match_plot(report, "exact_match", "Exact match, greedy", out);
        match_plot(report, "sampled_exact_match", "Exact match, sampled", out);
        PLOT("Which answer is the human one?", "share told right", true, holdout, &chance);
        PLOT("Held-out human answers", "change of NLL a token, nats", false, nll, NULL);
        PLOT("Lengths", "mean tokens", false, lengths, NULL);
        PLOT("How answers end", "share", true, finish, NULL);
        PLOT("Shortcuts: one feature alone", "share told right", true, shortcuts, &limit);
        PLOT("Time", "seconds", false, seconds, NULL);
        PLOT("Throughput", "tokens a second", false, rates, NULL);
    }
    sp_buf_puts(out, "</div>\n");
#undef PLOT
#undef P
#undef S
    free(rows);
    free(x);
}

/* ---- evaluations on tasks ---- */

#define NORMAL_95 1.959964 /* standard errors on either side of a 95 % interval */

/* The rows [first, end), of the same problems, sorted by iteration; -1 is the base. */
static void task_plot(const json_t *rows, size_t first, size_t end, struct sp_buf *out)
{
    size_t n = 0;
    double *all = sp_xarray(4 * (end - first) + 1, sizeof(*all));
    double *x = all, *y = all + (end - first), *low = y + (end - first),
           *high = low + (end - first);
    for (size_t i = first; i < end; i++) {
        const json_t *row = json_array_get(rows, i);
        double half = NORMAL_95 * ctl_number(row, "stderr", NAN);
        x[n] = ctl_number(row, "iteration", -1);
        y[n] = ctl_number(row, "value", NAN);
        low[n] = y[n] - half;
        high[n] = y[n] + half;
        n += isfinite(y[n]);
    }
    const json_t *row = json_array_get(rows, first);
    char *name =
        sp_xprintf("%s of %lld problems, 95 %% interval", ctl_string(row, "headline", "value"),
                   (long long)ctl_integer(row, "problems", 0));
    struct plot plot = {.title = ctl_string(row, "task", "task"),
                        .x_label = "iteration",
                        .y_label = ctl_string(row, "headline", "value"),
                        .whole_x = true};
    struct plot_series *s = plot_add(&plot, name, 0, x, y, n);
    s->dots = true;
    s->low = low;
    s->high = high;
    plot_svg(&plot, out);
    free(name);
    free(all);
}

static bool same_problems(const json_t *a, const json_t *b)
{
    return strcmp(ctl_string(a, "task", ""), ctl_string(b, "task", "")) == 0 &&
           ctl_integer(a, "problems", 0) == ctl_integer(b, "problems", 0);
}

static void task_plots(const json_t *report, struct sp_buf *out)
{
    const json_t *rows = json_object_get(report, "evaluations");
    size_t n = json_array_size(rows);
    if (n > 0)
        sp_buf_puts(out, "<div class=\"plots\">\n");
    for (size_t first = 0, end; first < n; first = end) {
        const json_t *row = json_array_get(rows, first);
        for (end = first + 1; end < n && same_problems(row, json_array_get(rows, end)); end++)
            ;
        task_plot(rows, first, end, out);
    }
    if (n > 0)
        sp_buf_puts(out, "</div>\n");
}

void report_plots(const json_t *report, struct sp_buf *out)
{
    task_plots(report, out);
    iteration_plots(report, out);
    step_plots(report, out);
}

/* report: a page about a run, and its figures as CSV. */
#include "coordinator/spinctl/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/mem.h"

#define STEP_PAGE 1000
#define EVENT_PAGE 1000
#define MAX_STEPS 1000000 /* of an iteration, in a page */

/* ---- what the coordinator knows ---- */

/* Field `key` of the reply to a verb; a new reference. */
static enum sp_err ask(struct ctl *ctl, const char *verb, const char *run, json_t *args,
                       const char *key, json_t **ret, struct sp_error *err)
{
    json_t *reply = NULL;
    enum sp_err rc = ctl_admin(ctl, verb, run, args, &reply, err);
    if (rc != SP_OK)
        return rc;
    json_t *value = key ? json_object_get(reply, key) : reply;
    *ret = value ? json_incref(value) : json_null();
    json_decref(reply);
    return SP_OK;
}

static enum sp_err add_steps(struct ctl *ctl, const char *run, json_t *iteration,
                             struct sp_error *err)
{
    json_t *all = json_array();
    int64_t number = ctl_integer(iteration, "iteration", 0), after = 0;
    enum sp_err rc = SP_OK;
    for (size_t count = STEP_PAGE; rc == SP_OK && count == STEP_PAGE && after < MAX_STEPS;) {
        json_t *page = NULL;
        json_t *args = json_pack("{s:I, s:I, s:I}", "iteration", (json_int_t)number, "after",
                                 (json_int_t)after, "limit", (json_int_t)STEP_PAGE);
        rc = ask(ctl, "steps", run, args, "steps", &page, err);
        count = json_array_size(page);
        if (count > 0) {
            after = ctl_integer(json_array_get(page, count - 1), "step", MAX_STEPS);
            json_array_extend(all, page);
        }
        json_decref(page);
    }
    json_object_set_new(iteration, "step_metrics", all);
    return rc;
}

/* REPORT_PAIRS pairs, evenly spread over the plan. */
static enum sp_err add_pairs(struct ctl *ctl, const char *run, json_t *iteration,
                             struct sp_error *err)
{
    json_t *all = json_array();
    int64_t number = ctl_integer(iteration, "iteration", 0);
    int64_t pairs = ctl_integer(iteration, "pairs", 0), count = SP_MIN(pairs, REPORT_PAIRS);
    enum sp_err rc = SP_OK;
    for (int64_t i = 0; i < count && rc == SP_OK; i++) {
        json_t *page = NULL;
        json_t *args = json_pack("{s:I, s:I, s:i}", "iteration", (json_int_t)number, "offset",
                                 (json_int_t)(pairs * (2 * i + 1) / (2 * count)), "limit", 1);
        rc = ask(ctl, "pairs", run, args, "pairs", &page, err);
        if (rc == SP_OK)
            json_array_extend(all, page);
        json_decref(page);
    }
    json_object_set_new(iteration, "sampled_pairs", all);
    return rc;
}

/* Tokens a second of the generators together until all pairs were there, and of the trainer in its
 * steps. */
static void add_rates(json_t *row)
{
    double generated = ctl_number(row, "generated_tokens", 0);
    double seconds = ctl_number(row, "generation_seconds", 0);
    double trained = ctl_number(row, "train_tokens", 0), busy = ctl_number(row, "train_seconds", 0);
    json_object_set_new(row, "generated_tokens_per_s",
                        seconds > 0 ? json_real(generated / seconds) : json_null());
    json_object_set_new(row, "train_tokens_per_s",
                        busy > 0 ? json_real(trained / busy) : json_null());
}

static enum sp_err add_iterations(struct ctl *ctl, const char *run, json_t *report,
                                  struct sp_error *err)
{
    json_t *rows = NULL;
    enum sp_err rc = ask(ctl, "iterations", run, NULL, "iterations", &rows, err);
    if (rc != SP_OK)
        return rc;
    json_object_set_new(report, "iterations", rows);
    for (size_t i = 0; i < json_array_size(rows) && rc == SP_OK; i++) {
        json_t *row = json_array_get(rows, i), *timeline = NULL;
        json_t *args = json_pack("{s:O}", "iteration", json_object_get(row, "iteration"));
        add_rates(row);
        rc = add_steps(ctl, run, row, err);
        if (rc == SP_OK)
            rc = add_pairs(ctl, run, row, err);
        if (rc == SP_OK)
            rc = ask(ctl, "timeline", run, json_incref(args), NULL, &timeline, err);
        json_object_set_new(row, "timeline", timeline ? timeline : json_null());
        json_decref(args);
    }
    return rc;
}

/* Each with its provenance record. */
static enum sp_err add_checkpoints(struct ctl *ctl, const char *run, json_t *report,
                                   struct sp_error *err)
{
    json_t *rows = NULL, *full = json_array();
    enum sp_err rc = ask(ctl, "checkpoints", run, NULL, "checkpoints", &rows, err);
    for (size_t i = 0; i < json_array_size(rows) && rc == SP_OK; i++) {
        json_t *one = NULL;
        json_t *args =
            json_pack("{s:O}", "digest", json_object_get(json_array_get(rows, i), "digest"));
        rc = ask(ctl, "checkpoint", run, args, NULL, &one, err);
        if (rc == SP_OK)
            json_array_append_new(full, one);
    }
    json_decref(rows);
    json_object_set_new(report, "checkpoints", full);
    return rc;
}

static enum sp_err add_events(struct ctl *ctl, const char *run, json_t *report,
                              struct sp_error *err)
{
    json_t *all = json_array();
    int64_t after = 0;
    enum sp_err rc = SP_OK;
    for (size_t count = EVENT_PAGE; rc == SP_OK && count == EVENT_PAGE;) {
        json_t *page = NULL;
        json_t *args =
            json_pack("{s:I, s:I}", "after", (json_int_t)after, "limit", (json_int_t)EVENT_PAGE);
        rc = ask(ctl, "events", run, args, "events", &page, err);
        count = json_array_size(page);
        if (count > 0) {
            after = ctl_integer(json_array_get(page, count - 1), "id", INT64_MAX);
            json_array_extend(all, page);
        }
        json_decref(page);
    }
    json_object_set_new(report, "events", all);
    return rc;
}

/* Evaluations on tasks; none where the coordinator has none. */
static enum sp_err add_evaluations(struct ctl *ctl, const char *run, json_t *report,
                                   struct sp_error *err)
{
    json_t *rows = NULL;
    enum sp_err rc = ask(ctl, "evaluations", run, NULL, "evaluations", &rows, err);
    if (rc != SP_OK && rc != SP_EUNSUPPORTED)
        return rc;
    json_object_set_new(report, "evaluations", rows ? rows : json_array());
    return SP_OK;
}

enum sp_err report_gather(struct ctl *ctl, const char *run, const char *beside, json_t **ret,
                          struct sp_error *err)
{
    json_t *report = json_pack("{s:s, s:n}", "run", run, "beside"), *value = NULL;
    enum sp_err rc = ask(ctl, "settings", run, NULL, "settings", &value, err);
    if (rc == SP_OK) {
        json_object_set_new(report, "settings", value);
        rc = ask(ctl, "data", run, NULL, "data", &value, err);
    }
    if (rc == SP_OK) {
        json_object_set_new(report, "data", value);
        rc = add_iterations(ctl, run, report, err);
    }
    if (rc == SP_OK)
        rc = add_checkpoints(ctl, run, report, err);
    if (rc == SP_OK)
        rc = add_events(ctl, run, report, err);
    if (rc == SP_OK)
        rc = add_evaluations(ctl, run, report, err);
    if (rc == SP_OK && beside) {
        rc = ask(ctl, "iterations", beside, NULL, "iterations", &value, err);
        if (rc == SP_OK)
            json_object_set_new(report, "beside",
                                json_pack("{s:s, s:o}", "run", beside, "iterations", value));
    }
    if (rc == SP_OK)
        *ret = report;
    else
        json_decref(report);
    return rc;
}

/* ---- CSV ---- */

/* Numbers as they are, texts in quotation marks; what is no number or text is left empty. */
static void csv_value(const json_t *value, struct sp_buf *out)
{
    if (json_is_integer(value)) {
        sp_buf_printf(out, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        sp_buf_printf(out, "%.17g", json_real_value(value));
    } else if (json_is_boolean(value)) {
        sp_buf_puts(out, json_is_true(value) ? "1" : "0");
    } else if (json_is_string(value)) {
        sp_buf_putc(out, '"');
        for (const char *at = json_string_value(value); *at; at++) {
            if (*at == '"')
                sp_buf_putc(out, '"');
            sp_buf_putc(out, *at);
        }
        sp_buf_putc(out, '"');
    }
}

/* The fields of the first row that are numbers or texts, in its order, name the columns. */
static void csv_rows(const json_t *rows, const char *extra, const json_t *extra_value, bool *header,
                     struct sp_buf *out)
{
    const json_t *first = json_array_get(rows, 0);
    const char *key;
    json_t *value;
    if (*header && first) {
        if (extra)
            sp_buf_printf(out, "%s,", extra);
        size_t n = 0;
        json_object_foreach((json_t *)first, key, value)
        {
            if (!json_is_object(value) && !json_is_array(value))
                sp_buf_printf(out, "%s%s", n++ > 0 ? "," : "", key);
        }
        sp_buf_puts(out, "\r\n");
        *header = false;
    }
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        size_t n = 0;
        if (extra) {
            csv_value(extra_value, out);
            sp_buf_putc(out, ',');
        }
        json_object_foreach((json_t *)first, key, value)
        {
            if (json_is_object(value) || json_is_array(value))
                continue;
            if (n++ > 0)
                sp_buf_putc(out, ',');
            csv_value(json_object_get(row, key), out);
        }
        sp_buf_puts(out, "\r\n");
    }
}

static enum sp_err write_text(const char *dir, const char *name, const struct sp_buf *text,
                              struct sp_error *err)
{
    char *path = sp_path_join(dir, name);
    enum sp_err rc =
        sp_write_file_durable(path, text->data ? text->data : "", text->length, 0644, err);
    free(path);
    return rc;
}

enum sp_err report_csv(const json_t *report, const char *dir, struct sp_error *err)
{
    const json_t *iterations = json_object_get(report, "iterations");
    struct sp_buf steps = SP_BUF_INIT, rows = SP_BUF_INIT;
    bool steps_header = true, rows_header = true;
    for (size_t i = 0; i < json_array_size(iterations); i++) {
        const json_t *row = json_array_get(iterations, i);
        csv_rows(json_object_get(row, "step_metrics"), "iteration",
                 json_object_get(row, "iteration"), &steps_header, &steps);
    }
    csv_rows(iterations, NULL, NULL, &rows_header, &rows);
    enum sp_err rc = sp_mkdir_p(dir, 0755, err);
    if (rc == SP_OK)
        rc = write_text(dir, "steps.csv", &steps, err);
    if (rc == SP_OK)
        rc = write_text(dir, "iterations.csv", &rows, err);
    sp_buf_deinit(&steps);
    sp_buf_deinit(&rows);
    return rc;
}

/* ---- the command ---- */

int ctl_report(void *context)
{
    struct ctl *ctl = context;
    struct sp_error err = {0};
    json_t *report = NULL;
    struct sp_buf page = SP_BUF_INIT;
    char *path = ctl->out ? sp_xstrdup(ctl->out) : sp_xprintf("%s.html", ctl->args[0]);
    enum sp_err rc = report_gather(ctl, ctl->args[0], ctl->beside, &report, &err);
    if (rc == SP_OK && ctl->csv)
        rc = report_csv(report, ctl->csv, &err);
    if (rc == SP_OK && (ctl->out || !ctl->json)) {
        report_html(report, &page);
        rc = sp_write_file_durable(path, page.data, page.length, 0644, &err);
    }
    if (rc == SP_OK && ctl->json)
        ctl_print_json(report);
    else if (rc == SP_OK && !ctl->quiet)
        printf("%s is written\n", path);
    sp_buf_deinit(&page);
    json_decref(report);
    free(path);
    return rc == SP_OK ? 0 : ctl_failed(&err);
}

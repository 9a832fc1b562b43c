/* The page of a report: everything in one file, no request to anywhere. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/report.h"
#include "coordinator/spinctl/report_plot.h"

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
    "style-src 'unsafe-inline'\">\n<title>";
static const char style[] =
    "</title>\n<style>\n"
    ":root{color-scheme:light dark;--ink:#1b1f24;--dim:#59636e;--paper:#fff;--grid:#dfe4ea;"
    "--soft:#f5f7f9;--c0:#0b62c4;--c1:#c2410c;--c2:#15803d;--c3:#7e3fb2;--c4:#6b7280}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--dim:#a3adb8;--paper:#14171a;"
    "--grid:#363d45;--soft:#1d2126;--c0:#6cb2ff;--c1:#ff9d66;--c2:#6fd694;--c3:#cf9bff;"
    "--c4:#a7b0ba}}\n"
    "*{box-sizing:border-box}\n"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
    "max-width:1220px;margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.25rem;margin-top:2.4rem}"
    "h3{font-size:1rem;margin:1.4rem 0 .4rem}\n"
    "p.sub{color:var(--dim);margin-top:0}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));"
    "gap:1rem}\n"
    "figure{margin:0 0 1rem;background:var(--soft);border-radius:8px;padding:.9rem}"
    ".plots figure{margin:0}.wide+.plots{margin-top:1rem}\n"
    "figcaption{font-weight:600}"
    ".legend{min-height:1.6rem;font-size:.85rem;color:var(--dim)}"
    ".legend span{margin-right:1.1rem;white-space:nowrap}\n"
    ".legend i{display:inline-block;width:20px;height:0;border-top:3px solid var(--k);"
    "margin-right:.4rem;vertical-align:middle}.legend i.d{border-top-style:dashed}\n"
    "svg{display:block;width:100%;height:auto}svg text{fill:var(--ink);font:13px system-ui,"
    "sans-serif}svg .g{stroke:var(--grid)}svg .a{stroke:var(--dim)}"
    "svg .r{stroke:var(--dim);stroke-dasharray:2 4}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;"
    "font-size:.9rem}\n"
    "th,td{padding:.3rem .6rem;border-bottom:1px solid var(--grid);text-align:right;"
    "vertical-align:top;white-space:nowrap}th{color:var(--dim);font-weight:600;white-space:normal}"
    "\n"
    "th:first-child,td:first-child{text-align:left}"
    "table.text td{text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;min-width:9rem}"
    "table.text th{text-align:left}\n"
    "table.text td.n{min-width:0;white-space:nowrap;text-align:right}"
    "table.text td.k{min-width:0;white-space:nowrap}\n"
    ".warn{border-left:4px solid var(--c1);background:var(--soft);padding:.5rem .9rem;"
    "margin:.4rem 0}\n"
    "details{margin:.6rem 0}summary{cursor:pointer;font-weight:600}"
    "code,pre{font:.85em/1.45 ui-monospace,monospace}"
    "pre{background:var(--soft);padding:.9rem;border-radius:8px;overflow-x:auto}\n"
    "</style></head><body>\n";

/* ---- cells ---- */

static void cell_text(struct sp_buf *out, const char *attributes, const char *text)
{
    sp_buf_printf(out, "<td%s>", attributes);
    plot_escape(text, out);
    sp_buf_puts(out, "</td>");
}

static void cell_number(struct sp_buf *out, const json_t *row, const char *path, const char *format,
                        double scale)
{
    double value = ctl_number(row, path, NAN);
    char text[64] = "–";
    if (isfinite(value))
        snprintf(text, sizeof(text), format, value * scale);
    cell_text(out, " class=\"n\"", text);
}

/* "value [low, high]" of an object. */
static void cell_interval(struct sp_buf *out, const json_t *row, const char *path, bool percent)
{
    const json_t *x = ctl_get(row, path);
    double value = ctl_number(x, "value", NAN), low = ctl_number(x, "low", NAN),
           high = ctl_number(x, "high", NAN);
    char text[96] = "–";
    if (isfinite(value) && percent)
        snprintf(text, sizeof(text), "%.1f %% [%.1f, %.1f]", 100 * value, 100 * low, 100 * high);
    else if (isfinite(value))
        snprintf(text, sizeof(text), "%+.4f [%+.4f, %+.4f]", value, low, high);
    cell_text(out, " class=\"n\"", text);
}

static void headers(struct sp_buf *out, const char *class, const char *names)
{
    sp_buf_printf(out, "<div class=\"wide\"><table%s><thead><tr><th>", class);
    for (const char *at = names; *at; at++) {
        if (*at == '|')
            sp_buf_puts(out, "</th><th>");
        else
            sp_buf_putc(out, *at);
    }
    sp_buf_puts(out, "</th></tr></thead><tbody>\n");
}

static void end_table(struct sp_buf *out)
{
    sp_buf_puts(out, "</tbody></table></div>\n");
}

/* ---- sections ---- */

static void opening(const json_t *report, struct sp_buf *out)
{
    const json_t *settings = json_object_get(report, "settings");
    const json_t *iterations = json_object_get(report, "iterations");
    const json_t *checkpoints = json_object_get(report, "checkpoints");
    size_t n = json_array_size(iterations);
    const json_t *last = json_array_get(iterations, n ? n - 1 : 0);
    sp_buf_puts(out, head);
    plot_escape(ctl_string(report, "run", "?"), out);
    sp_buf_puts(out, ": report");
    sp_buf_puts(out, style);
    sp_buf_puts(out, "<h1>Run ");
    plot_escape(ctl_string(report, "run", "?"), out);
    const json_t *mode = json_object_get(settings, "run.mode");
    sp_buf_printf(out, "</h1>\n<p class=\"sub\">mode %s, seed %lld, %zu iteration%s",
                  json_is_string(mode) ? json_string_value(mode) : "?",
                  (long long)json_integer_value(json_object_get(settings, "run.seed")), n,
                  n == 1 ? "" : "s");
    if (n > 0)
        sp_buf_printf(out, ", the last one %s", ctl_string(last, "verdict", "without a verdict"));
    const json_t *base = json_array_get(checkpoints, 0);
    if (base)
        sp_buf_printf(out, "; base <code>%.16s…</code>", ctl_string(base, "digest", "?"));
    const char *numerics = ctl_string(json_array_get(checkpoints, json_array_size(checkpoints) - 1),
                                      "provenance.numerics_class", "");
    if (numerics[0]) {
        sp_buf_puts(out, "; numerics ");
        plot_escape(numerics, out);
    }
    sp_buf_puts(out, "</p>\n");
}

static void warnings(const json_t *report, struct sp_buf *out)
{
    const json_t *iterations = json_object_get(report, "iterations");
    const json_t *data = ctl_get(report, "data.warnings");
    for (size_t i = 0; i < json_array_size(data); i++) {
        sp_buf_puts(out, "<div class=\"warn\">Data: ");
        plot_escape(json_string_value(json_array_get(data, i)), out);
        sp_buf_puts(out, "</div>\n");
    }
    for (size_t i = 0; i < json_array_size(iterations); i++) {
        const json_t *row = json_array_get(iterations, i);
        const json_t *list = ctl_get(row, "statistics.warnings");
        for (size_t k = 0; k < json_array_size(list); k++) {
            sp_buf_printf(out, "<div class=\"warn\">Iteration %lld: ",
                          (long long)ctl_integer(row, "iteration", 0));
            plot_escape(json_string_value(json_array_get(list, k)), out);
            sp_buf_puts(out, "</div>\n");
        }
    }
}

static void iterations_table(const json_t *report, struct sp_buf *out)
{
    const json_t *list = json_object_get(report, "iterations");
    sp_buf_puts(out, "<h2>Iterations</h2>\n");
    headers(out, "",
            "iteration|state|verdict|pairs|first loss|largest first margin|last loss|last margin|"
            "exact match|sampled|trained tokens|generated tokens|seconds");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        sp_buf_puts(out, "<tr>");
        cell_number(out, row, "iteration", "%.0f", 1);
        cell_text(out, "", ctl_string(row, "state", "?"));
        cell_text(out, "", ctl_string(row, "verdict", "–"));
        cell_number(out, row, "pairs", "%.0f", 1);
        cell_number(out, row, "loss_first_step", "%.6f", 1);
        cell_number(out, row, "margin_abs_max_first_step", "%.1e", 1);
        cell_number(out, row, "loss_last_step", "%.4f", 1);
        cell_number(out, row, "margin_last", "%.3f", 1);
        cell_number(out, row, "exact_match", "%.1f %%", 100);
        cell_number(out, row, "sampled_exact_match", "%.1f %%", 100);
        cell_number(out, row, "train_tokens", "%.0f", 1);
        cell_number(out, row, "generated_tokens", "%.0f", 1);
        cell_number(out, row, "seconds", "%.1f", 1);
        sp_buf_puts(out, "</tr>\n");
    }
    end_table(out);
    sp_buf_puts(out, "<h3>What the verdicts stand on</h3>\n");
    headers(out, "",
            "iteration|verdict|accepted|held-out pairs|human one told apart|change of NLL, nats a "
            "token|at first sight|after training|held-out loss");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        sp_buf_puts(out, "<tr>");
        cell_number(out, row, "iteration", "%.0f", 1);
        cell_text(out, "", ctl_string(row, "verdict", "–"));
        cell_text(out, "", json_is_true(json_object_get(row, "accepted")) ? "yes" : "no");
        cell_number(out, row, "statistics.holdout.pairs", "%.0f", 1);
        cell_interval(out, row, "statistics.holdout.accuracy", true);
        cell_interval(out, row, "statistics.holdout.nll_change", false);
        cell_interval(out, row, "statistics.first_sight.accuracy", true);
        cell_interval(out, row, "statistics.trained.accuracy", true);
        cell_number(out, row, "statistics.holdout.loss", "%.4f", 1);
        sp_buf_puts(out, "</tr>\n");
    }
    end_table(out);
}

static void evaluations_table(const json_t *report, struct sp_buf *out)
{
    const json_t *list = json_object_get(report, "evaluations");
    if (json_array_size(list) == 0)
        return;
    sp_buf_puts(out, "<h2>Evaluation on tasks</h2>\n");
    headers(out, "",
            "task|checkpoint|state|problems|metric|value|standard error|change from the base, 95 % "
            "interval");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        const char *metric = ctl_string(row, "headline", "");
        char *change = sp_xprintf("change_from_base.%s", metric);
        sp_buf_puts(out, "<tr>");
        cell_text(out, "", ctl_string(row, "task", "?"));
        if (ctl_integer(row, "iteration", -1) < 0)
            cell_text(out, "", "base");
        else
            cell_number(out, row, "iteration", "iteration %.0f", 1);
        cell_text(out, "", ctl_string(row, "state", "?"));
        cell_number(out, row, "problems", "%.0f", 1);
        cell_text(out, "", metric);
        cell_number(out, row, "value", "%.4f", 1);
        cell_number(out, row, "stderr", "%.4f", 1);
        cell_interval(out, row, change, false);
        sp_buf_puts(out, "</tr>\n");
        free(change);
    }
    end_table(out);
}

static void pairs_tables(const json_t *report, struct sp_buf *out)
{
    const json_t *list = json_object_get(report, "iterations");
    sp_buf_printf(out,
                  "<h2>Pairs</h2>\n<p>%d of each iteration, evenly spread over its plan; "
                  "log-probabilities under that iteration's opponent.</p>\n",
                  REPORT_PAIRS);
    for (size_t i = json_array_size(list); i-- > 0;) {
        const json_t *row = json_array_get(list, i), *pairs = json_object_get(row, "sampled_pairs");
        sp_buf_printf(out, "<details%s><summary>Iteration %lld</summary>\n",
                      i + 1 == json_array_size(list) ? " open" : "",
                      (long long)ctl_integer(row, "iteration", 0));
        headers(out, " class=\"text\"",
                "#|prompt|human answer|log&nbsp;p|opponent's answer|log&nbsp;p|end");
        for (size_t k = 0; k < json_array_size(pairs); k++) {
            const json_t *pair = json_array_get(pairs, k);
            const char *finish = ctl_string(pair, "finish", "");
            sp_buf_puts(out, "<tr>");
            cell_number(out, pair, "prompt", "%.0f", 1);
            cell_text(out, "", ctl_string(pair, "prompt_text", "–"));
            cell_text(out, "", ctl_string(pair, "real_text", "–"));
            cell_number(out, pair, "ref_real", "%.2f", 1);
            cell_text(out, "", ctl_string(pair, "generated_text", "–"));
            cell_number(out, pair, "ref_generated", "%.2f", 1);
            cell_text(out, " class=\"k\"",
                      strcmp(finish, "stop") == 0     ? "end token"
                      : strcmp(finish, "length") == 0 ? "cut"
                                                      : "given");
            sp_buf_puts(out, "</tr>\n");
        }
        end_table(out);
        sp_buf_puts(out, "</details>\n");
    }
}

static void settings_table(const json_t *report, struct sp_buf *out)
{
    const char *key;
    json_t *value;
    sp_buf_puts(out, "<h2>Settings</h2>\n<details><summary>All settings of the run</summary>\n");
    headers(out, " class=\"text\"", "setting|value");
    json_object_foreach(json_object_get(report, "settings"), key, value)
    {
        char *text = json_is_string(value)
                         ? sp_xstrdup(json_string_value(value))
                         : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
        sp_buf_puts(out, "<tr>");
        cell_text(out, " class=\"k\"", key);
        cell_text(out, "", text ? text : "?");
        sp_buf_puts(out, "</tr>\n");
        free(text);
    }
    end_table(out);
    sp_buf_puts(out, "</details>\n");
}

static void json_details(const char *title, const json_t *value, struct sp_buf *out)
{
    char *text = json_dumps(value, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_REAL_PRECISION(9));
    sp_buf_printf(out, "<details><summary>%s</summary><pre>", title);
    plot_escape(text ? text : "", out);
    sp_buf_puts(out, "</pre></details>\n");
    free(text);
}

static void provenance(const json_t *report, struct sp_buf *out)
{
    const json_t *list = json_object_get(report, "checkpoints");
    sp_buf_puts(out, "<h2>Provenance</h2>\n<p>The same base, data, settings and seed give the same "
                     "digests, whatever the number of generators and whoever died on the way.</p>"
                     "\n");
    headers(out, " class=\"text\"", "iteration|checkpoint|opponent|pairs");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        int64_t number = ctl_integer(one, "iteration", -1);
        char name[24];
        snprintf(name, sizeof(name), number < 0 ? "base" : "%lld", (long long)number);
        sp_buf_puts(out, "<tr>");
        cell_text(out, " class=\"k\"", name);
        cell_text(out, "", ctl_string(one, "digest", "–"));
        cell_text(out, "", ctl_string(one, "provenance.opponent", "–"));
        cell_text(out, "", ctl_string(one, "provenance.pairs_sha256", "–"));
        sp_buf_puts(out, "</tr>\n");
    }
    end_table(out);
    json_details("Data: files, counts, lengths, duplicates", json_object_get(report, "data"), out);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        int64_t number = ctl_integer(one, "iteration", -1);
        char title[64];
        snprintf(title, sizeof(title),
                 number < 0 ? "Record of the base" : "Record of iteration %lld", (long long)number);
        json_details(title, json_object_get(one, "provenance"), out);
    }
}

static void events(const json_t *report, struct sp_buf *out)
{
    const json_t *list = json_object_get(report, "events");
    sp_buf_printf(out, "<details><summary>Events (%zu)</summary>\n", json_array_size(list));
    headers(out, " class=\"text\"", "when|kind|who|what");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        char when[32];
        sp_format_utc(ctl_integer(row, "at_ms", 0), when);
        sp_buf_puts(out, "<tr>");
        cell_text(out, " class=\"k\"", when);
        cell_text(out, " class=\"k\"", ctl_string(row, "kind", ""));
        cell_text(out, " class=\"k\"", ctl_string(row, "actor", ""));
        cell_text(out, "", ctl_string(row, "text", ""));
        sp_buf_puts(out, "</tr>\n");
    }
    end_table(out);
    sp_buf_puts(out, "</details>\n");
}

void report_html(const json_t *report, struct sp_buf *out)
{
    opening(report, out);
    warnings(report, out);
    iterations_table(report, out);
    evaluations_table(report, out);
    report_plots(report, out);
    report_timeline(report, out);
    pairs_tables(report, out);
    settings_table(report, out);
    provenance(report, out);
    events(report, out);
    sp_buf_puts(out, "</body></html>\n");
}

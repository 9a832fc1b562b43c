/* A sheet of answers side by side, for people who judge them: one HTML file that needs nothing
 * else, and JSON Lines. */
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/fs.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "coordinator/spinctl/report_plot.h"
#include "coordinator/spinctl/spinctl.h"

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Answers side by side</title>\n"
    "<style>\n:root{color-scheme:light dark}\n"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:90rem;margin:2rem auto;padding:0 1rem}\n"
    "section{border-top:1px solid #8888;margin-top:2rem}\n"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}\n"
    ".answer,.question{white-space:pre-wrap;overflow-wrap:anywhere;padding:.75rem;"
    "border-radius:.5rem;background:#8881}\n"
    ".question{background:none;border-left:.25rem solid #4a80c4;border-radius:0}\n"
    "h3{margin:.5rem 0;font-size:1rem}\n</style>\n<h1>Answers side by side</h1>\n";

/* The answer to a turn: one of those before the last, or the last. */
static const char *answer_at(const json_t *item, size_t turn)
{
    const json_t *before = json_object_get(item, "before");
    if (turn < json_array_size(before))
        return json_string_value(json_array_get(before, turn));
    return turn == json_array_size(before) ? ctl_string(item, "answer", "") : NULL;
}

static void put_answer(struct sp_buf *out, const char *name, const char *answer)
{
    sp_buf_puts(out, "<div><h3>");
    plot_escape(name, out);
    sp_buf_puts(out, "</h3><div class=\"answer\">");
    plot_escape(answer ? answer : "", out);
    sp_buf_puts(out, "</div></div>\n");
}

static void put_item(struct sp_buf *html, struct sp_buf *jsonl, const char *name_a, const json_t *a,
                     const char *name_b, const json_t *b)
{
    const json_t *turns = json_object_get(a, "turns");
    json_t *line = json_object(), *answers_a = json_array(), *answers_b = json_array();
    sp_buf_printf(html, "<section><h2>%lld ", (long long)ctl_integer(a, "item", 0) + 1);
    plot_escape(ctl_string(a, "category", ""), html);
    sp_buf_puts(html, "</h2>\n");
    for (size_t turn = 0; turn < json_array_size(turns); turn++) {
        sp_buf_puts(html, "<p class=\"question\">");
        plot_escape(json_string_value(json_array_get(turns, turn)), html);
        sp_buf_puts(html, "</p>\n<div class=\"pair\">\n");
        put_answer(html, name_a, answer_at(a, turn));
        if (b)
            put_answer(html, name_b, answer_at(b, turn));
        sp_buf_puts(html, "</div>\n");
        json_array_append_new(answers_a, json_string(answer_at(a, turn) ? answer_at(a, turn) : ""));
        if (b)
            json_array_append_new(answers_b,
                                  json_string(answer_at(b, turn) ? answer_at(b, turn) : ""));
    }
    sp_buf_puts(html, "</section>\n");
    json_object_set_new(line, "item", json_integer(ctl_integer(a, "item", 0)));
    json_object_set_new(line, "id", json_string(ctl_string(a, "id", "")));
    json_object_set_new(line, "category", json_string(ctl_string(a, "category", "")));
    json_object_set(line, "turns", (json_t *)turns);
    json_t *both = json_array();
    json_array_append_new(both, json_pack("{s:s,s:O}", "checkpoint", name_a, "turns", answers_a));
    if (b)
        json_array_append_new(both,
                              json_pack("{s:s,s:O}", "checkpoint", name_b, "turns", answers_b));
    json_object_set_new(line, "answers", both);
    char *text = sp_json_canonical(line);
    sp_buf_printf(jsonl, "%s\n", text);
    free(text);
    json_decref(line);
    json_decref(answers_a);
    json_decref(answers_b);
}

enum sp_err ctl_write_sheet(const char *path, const char *name_a, const json_t *a,
                            const char *name_b, const json_t *b, struct sp_error *err)
{
    struct sp_buf html = SP_BUF_INIT, jsonl = SP_BUF_INIT;
    sp_buf_puts(&html, head);
    for (size_t i = 0; i < json_array_size(a); i++)
        put_item(&html, &jsonl, name_a, json_array_get(a, i), name_b, json_array_get(b, i));
    sp_buf_puts(&html, "</html>\n");
    char *html_path = sp_xprintf("%s.html", path), *jsonl_path = sp_xprintf("%s.jsonl", path);
    enum sp_err rc = sp_write_file_durable(html_path, html.data, html.length, 0644, err);
    if (rc == SP_OK)
        rc = sp_write_file_durable(jsonl_path, jsonl.data ? jsonl.data : "", jsonl.length, 0644,
                                   err);
    sp_buf_deinit(&html);
    sp_buf_deinit(&jsonl);
    free(html_path);
    free(jsonl_path);
    return rc;
}

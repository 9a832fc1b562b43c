/* The template interpreter against what Jinja2 rendered, and its limits. */
#include <jansson.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/text/jinja.h"
#include "tests/unit/check_main.h"

static enum sp_err render(const char *text, const json_t *context, const char *date,
                          struct sp_buf *out, struct sp_error *err)
{
    struct tok_jinja *template = NULL;
    enum sp_err rc = tok_jinja_compile(text, strlen(text), "t", &template, err);
    if (rc == SP_OK)
        rc = tok_jinja_render(template, context, date, out, err);
    tok_jinja_free(template);
    return rc;
}

START_TEST(golden)
{
    FILE *file = fopen(SPIN_SOURCE_ROOT "/tests/golden/text/jinja.jsonl", "r");
    ck_assert_ptr_nonnull(file);
    char *line = NULL;
    size_t capacity = 0, rows = 0, failing = 0;
    ck_assert_int_gt(getline(&line, &capacity, file), 0);
    json_t *context = json_loads(line, 0, NULL);
    ck_assert_ptr_nonnull(context);
    for (; getline(&line, &capacity, file) > 0; rows++) {
        json_t *row = json_loads(line, 0, NULL);
        ck_assert_ptr_nonnull(row);
        const char *text = json_string_value(json_array_get(row, 0));
        const char *want = json_string_value(json_array_get(row, 1));
        struct sp_buf out = SP_BUF_INIT;
        struct sp_error err = {0};
        enum sp_err rc = render(text, context, NULL, &out, &err);
        sp_buf_puts(&out, "");
        if (want == NULL) {
            ck_assert_msg(rc != SP_OK, "%s: rendered %s", text, out.data);
            ck_assert_msg(strncmp(err.text, "t:", 2) == 0, "%s", err.text);
            failing++;
        } else {
            ck_assert_msg(rc == SP_OK || rc == SP_EUNSUPPORTED, "%s: %s", text, err.text);
            ck_assert_msg(rc != SP_OK || strcmp(out.data, want) == 0, "%s: %s\nexpected: %s", text,
                          out.data, want);
        }
        sp_buf_deinit(&out);
        json_decref(row);
    }
    ck_assert_uint_eq(rows, 400);
    ck_assert_uint_gt(failing, 10);
    free(line);
    json_decref(context);
    fclose(file);
}
END_TEST

START_TEST(dates)
{
    static const struct {
        const char *text, *date, *want;
    } cases[] = {
        {"{{ strftime_now('%d %b %Y') }}", "2026-07-31", "31 Jul 2026"},
        {"{{ strftime_now('%A, %B %-d') }}", "2024-02-29", "Thursday, February 29"},
        {"{% if strftime_now is defined %}y{% endif %}", NULL, "y"},
        {"{{ strftime_now('%d') }}", "", NULL},
        {"{{ strftime_now('%d') }}", NULL, NULL},
        {"{{ strftime_now('%H') }}", "2026-07-31", NULL},
        {"{{ strftime_now('%d') }}", "31.7.", NULL},
        {"{{ strftime_now('%d') }}", "2026-02-30", NULL},
        {"{{ strftime_now('%d') }}", "2026-07-31x", NULL},
    };
    json_t *context = json_object();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct sp_buf out = SP_BUF_INIT;
        struct sp_error err = {0};
        enum sp_err rc = render(cases[i].text, context, cases[i].date, &out, &err);
        ck_assert_msg((rc == SP_OK) == (cases[i].want != NULL), "%s %s", cases[i].text, err.text);
        if (rc == SP_OK)
            ck_assert_str_eq(out.data, cases[i].want);
        sp_buf_deinit(&out);
    }
    json_decref(context);
}
END_TEST

/* What must be rendered, where the golden rows may be refused. The first is how a published
 * template (meetkai/functionary-medium-v3.1) puts a tool down. */
START_TEST(rendered)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"{{ \"'\"|safe + t.name + \"'\\n\"|safe + t | tojson() }}",
         "'a&amp;b'\n{&#34;name&#34;: &#34;a&amp;b&#34;}"},
        {"{{ ('<'|safe|upper|trim|indent)[0] + '<' }}{{ '<'|safe|first + '<' }}", "<&lt;<<"},
        {"{{ [t, t]|sort|length }}{{ [none, none]|sort }}", "2[None, None]"},
        {"{% if false %}{{ x|nofilter }}{{ x is notest }}{% endif %}y", "y"},
    };
    json_t *context = json_pack("{s:{s:s}}", "t", "name", "a&b");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct sp_buf out = SP_BUF_INIT;
        struct sp_error err = {0};
        enum sp_err rc = render(cases[i].text, context, NULL, &out, &err);
        ck_assert_msg(rc == SP_OK, "%s: %s", cases[i].text, err.text);
        ck_assert_str_eq(out.data, cases[i].want);
        sp_buf_deinit(&out);
    }
    json_decref(context);
}
END_TEST

/* Hostile templates end with SP_ELIMIT, soon and within their memory. */
START_TEST(limits)
{
    static const char *const bombs[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x "
        "~ "
        "ns.x %}{% endfor %}",
        "{{ 'a' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ 'x'.center(9999999999) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(99999) %}{{ "
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' "
        "* 9999 }}{% endfor %}",
        "{{ range(9999999999) }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor "
        "%}{{ ns.x == [[ns.x]] }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + [i] %}{% "
        "endfor %}",
        "{{ 'aaaaaaaaaa'|replace('', 'b' * 9000000) }}",
        "{{ {'a': 1}|tojson(indent='x' * 60000000) ~ {'a': 1}|tojson(indent='x' * 60000000) }}",
    };
    json_t *context = json_object();
    for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++) {
        struct sp_buf out = SP_BUF_INIT;
        struct sp_error err = {0};
        ck_assert_msg(render(bombs[i], context, NULL, &out, &err) == SP_ELIMIT, "%s: %s", bombs[i],
                      err.text);
        ck_assert_uint_eq(out.length, 0);
        sp_buf_deinit(&out);
    }
    json_decref(context);
}
END_TEST

/* The same of what is nested or chained in the template's text. */
START_TEST(deep)
{
    static const struct {
        const char *before, *middle, *open, *close;
    } cases[] = {
        {"{{ ", "1", "(", ")"},   {"{{ ", "1", "[", "]"},           {"{{ ", "1", "-", ""},
        {"{{ ", "1", "not ", ""}, {"{{ 1", "", "+1", ""},           {"{{ 1", "", "|abs", ""},
        {"{{ x", "", ".x", ""},   {"{{ 1", "", " if 1 else 1", ""}, {"{{ 1", "", " if 1", ""},
        {"{{ x", "", "[0]", ""},  {"{% set (", "x", "(", ")"}};
    json_t *context = json_object();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct sp_buf text = SP_BUF_INIT, out = SP_BUF_INIT;
        struct sp_error err = {0};
        sp_buf_puts(&text, cases[i].before);
        for (int k = 0; k < 100000; k++)
            sp_buf_puts(&text, cases[i].open);
        sp_buf_puts(&text, cases[i].middle);
        for (int k = 0; k < 100000; k++)
            sp_buf_puts(&text, cases[i].close);
        sp_buf_puts(&text, " }}");
        enum sp_err rc = render(text.data, context, NULL, &out, &err);
        ck_assert_msg(rc == SP_ELIMIT, "%s: %s", cases[i].open, err.text);
        sp_buf_deinit(&text);
        sp_buf_deinit(&out);
    }
    json_decref(context);
}
END_TEST

START_TEST(broken)
{
    struct tok_jinja *template = NULL;
    struct sp_error err = {0};
    ck_assert_int_eq(tok_jinja_compile("a\xff", 2, "t", &template, &err), SP_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "not UTF-8 at byte 1"));
    char *large = calloc(1, SP_MAX_CONFIG_JSON + 2);
    memset(large, 'a', SP_MAX_CONFIG_JSON + 1);
    ck_assert_int_eq(tok_jinja_compile(large, SP_MAX_CONFIG_JSON + 1, "t", &template, &err),
                     SP_ELIMIT);
    free(large);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("jinja");
    TCase *c = tcase_create("jinja");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, golden);
    tcase_add_test(c, dates);
    tcase_add_test(c, rendered);
    tcase_add_test(c, limits);
    tcase_add_test(c, deep);
    tcase_add_test(c, broken);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

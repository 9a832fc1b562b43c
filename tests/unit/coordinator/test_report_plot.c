/* Plots: whatever the numbers, the picture has finite ones only, within its frame. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/spinctl/report_plot.h"
#include "tests/unit/check_main.h"

static struct sp_buf draw(const double *x, const double *y, size_t n, bool percent)
{
    struct sp_buf out = SP_BUF_INIT;
    struct plot plot = {.title = "t <&>", .x_label = "x", .y_label = "y", .percent = percent};
    plot_add(&plot, "a \"b\"", 0, x, y, n)->dots = true;
    plot_svg(&plot, &out);
    return out;
}

/* Every number in the attributes is finite, and the path stays in the frame. */
static void check(const struct sp_buf *out)
{
    static const char *const bad[] = {"nan", "inf", "NaN", "Inf"};
    ck_assert_ptr_nonnull(out->data);
    for (size_t i = 0; i < 4; i++)
        ck_assert_msg(strstr(out->data, bad[i]) == NULL, "%s in %s", bad[i], out->data);
    for (const char *at = out->data; (at = strstr(at, "<circle cx=\"")) != NULL; at++) {
        double cx = strtod(at + 12, NULL), cy = strtod(strstr(at, "cy=\"") + 4, NULL);
        ck_assert(cx >= 0 && cx <= 540 && cy >= 0 && cy <= 300);
    }
}

START_TEST(test_numbers)
{
    static const double x[] = {1, 2, 3, 4};
    static const double ys[][4] = {
        {1, 2, 3, 4},
        {0, 0, 0, 0},
        {5, 5, 5, 5},
        {-1e-300, 1e-300, 0, 0},
        {NAN, 1, INFINITY, 2},
        {1e300, -1e300, 0, 1},
        {1e-9, 2e-9, 3e-9, 5e-9},
        {123456789, 123456790, 123456791, 123456792},
        {NAN, NAN, 3, NAN},
        {1e17, 1e17 + 16, 1e17, 1e17},
    };
    for (size_t i = 0; i < sizeof(ys) / sizeof(ys[0]); i++)
        for (int percent = 0; percent < 2; percent++) {
            struct sp_buf out = draw(x, ys[i], 4, percent);
            check(&out);
            ck_assert_uint_lt(out.length, 20000); /* ticks are few */
            sp_buf_deinit(&out);
        }
}
END_TEST

START_TEST(test_the_base_is_named)
{
    static const double x[] = {-1, 0, 1};
    struct sp_buf out = SP_BUF_INIT;
    struct plot plot = {.title = "t", .x_label = "iteration", .y_label = "y", .whole_x = true};
    plot_add(&plot, "a", 0, x, x, 3);
    plot_svg(&plot, &out);
    ck_assert_ptr_nonnull(strstr(out.data, ">base</text>"));
    ck_assert_ptr_nonnull(strstr(out.data, "text-anchor=\"middle\">0</text>"));
    sp_buf_deinit(&out);
    plot = (struct plot){.title = "t", .x_label = "x", .y_label = "y"};
    plot_add(&plot, "a", 0, x, x, 3);
    plot_svg(&plot, &out);
    ck_assert_ptr_null(strstr(out.data, ">base</text>"));
    sp_buf_deinit(&out);
}
END_TEST

START_TEST(test_nothing_to_draw)
{
    static const double none[] = {NAN, INFINITY};
    static const double x[] = {1, 2};
    struct sp_buf out = draw(x, none, 2, false);
    ck_assert_uint_eq(out.length, 0);
    out = draw(x, x, 0, false);
    ck_assert_uint_eq(out.length, 0);
}
END_TEST

START_TEST(test_text_is_escaped)
{
    static const double x[] = {1, 2};
    struct sp_buf out = draw(x, x, 2, false), text = SP_BUF_INIT;
    ck_assert_ptr_nonnull(strstr(out.data, "t &lt;&amp;&gt;"));
    ck_assert_ptr_nonnull(strstr(out.data, "a &quot;b&quot;"));
    plot_escape("a\x01\x7f<", &text);
    ck_assert_str_eq(text.data, "a\\x01\\x7f&lt;");
    sp_buf_deinit(&out);
    sp_buf_deinit(&text);
}
END_TEST

/* A line has a gap where a value is missing, and where a rule stands between two points. */
START_TEST(test_gaps)
{
    static const double x[] = {1, 2, 3, 4, 5}, y[] = {1, 2, NAN, 4, 5}, rule[] = {4.5};
    struct sp_buf out = SP_BUF_INIT;
    struct plot plot = {
        .title = "t", .x_label = "x", .y_label = "y", .rules = rule, .rule_count = 1};
    plot_add(&plot, "a", 0, x, y, 5);
    plot_svg(&plot, &out);
    const char *path = strstr(out.data, "<path d=\"");
    ck_assert_ptr_nonnull(path);
    size_t moves = 0, lines = 0;
    for (path += 9; *path != '"'; path++) {
        moves += *path == 'M';
        lines += *path == 'L';
    }
    ck_assert_uint_eq(moves, 3); /* 1-2, 4, 5 */
    ck_assert_uint_eq(lines, 1);
    sp_buf_deinit(&out);
}
END_TEST

START_TEST(test_lanes)
{
    static const char *const lanes[] = {"<one>"}, *const legend[] = {"work"};
    static const int colours[] = {1};
    struct plot_block block = {.from = 0, .to = 2, .weight = 5, .title = "x & y"};
    struct sp_buf out = SP_BUF_INIT;
    plot_lanes("t", lanes, 1, &block, 0, legend, colours, 1, &out);
    ck_assert_uint_eq(out.length, 0);
    plot_lanes("t", lanes, 1, &block, 1, legend, colours, 1, &out);
    check(&out);
    ck_assert_ptr_nonnull(strstr(out.data, "&lt;one&gt;"));
    ck_assert_ptr_nonnull(strstr(out.data, "x &amp; y"));
    ck_assert_ptr_nonnull(strstr(out.data, "fill-opacity=\"1.00\""));
    sp_buf_deinit(&out);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("report_plot");
    TCase *c = tcase_create("plot");
    tcase_add_test(c, test_numbers);
    tcase_add_test(c, test_the_base_is_named);
    tcase_add_test(c, test_nothing_to_draw);
    tcase_add_test(c, test_text_is_escaped);
    tcase_add_test(c, test_gaps);
    tcase_add_test(c, test_lanes);
    suite_add_tcase(s, c);
    return s;
}

SPIN_CHECK_MAIN(suite())

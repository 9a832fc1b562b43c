#include "coordinator/spinctl/report_plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/mem.h"

#define WIDTH 540.0
#define HEIGHT 300.0
#define LEFT 76.0
#define RIGHT 14.0
#define TOP 12.0
#define BOTTOM 46.0
#define MAX_TICKS 24
#define LANE_WIDTH 1120.0
#define LANE_HEIGHT 26.0
#define LANE_LEFT 150.0

struct axis {
    double low, high; /* of the data, with room */
    double from, to;  /* in the picture */
};

static double place(const struct axis *axis, double value)
{
    double span = axis->high - axis->low;
    return axis->from + (value - axis->low) / (span != 0 ? span : 1) * (axis->to - axis->from);
}

void plot_escape(const char *text, struct sp_buf *out)
{
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        const char *entity = *at == '&'   ? "&amp;"
                             : *at == '<' ? "&lt;"
                             : *at == '>' ? "&gt;"
                             : *at == '"' ? "&quot;"
                                          : NULL;
        if (entity)
            sp_buf_puts(out, entity);
        else if ((*at < 0x20 && *at != '\n' && *at != '\t') || *at == 0x7f)
            sp_buf_printf(out, "\\x%02x", *at);
        else
            sp_buf_putc(out, (char)*at);
    }
}

struct plot_series *plot_add(struct plot *plot, const char *name, int colour, const double *x,
                             const double *y, size_t count)
{
    SP_ASSERT(plot->series_count < PLOT_SERIES);
    struct plot_series *s = &plot->series[plot->series_count++];
    *s = (struct plot_series){.name = name, .colour = colour, .x = x, .y = y, .count = count};
    return s;
}

/* ---- ranges and ticks ---- */

static void include(double value, double *low, double *high)
{
    if (!isfinite(value))
        return;
    *low = fmin(*low, value);
    *high = fmax(*high, value);
}

static bool ranges(const struct plot *plot, struct axis *x, struct axis *y)
{
    double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
    for (size_t k = 0; k < plot->series_count; k++) {
        const struct plot_series *s = &plot->series[k];
        for (size_t i = 0; i < s->count; i++) {
            if (!isfinite(s->y[i]))
                continue;
            include(s->x[i], &x_low, &x_high);
            include(s->y[i], &y_low, &y_high);
            if (s->low) {
                include(s->low[i], &y_low, &y_high);
                include(s->high[i], &y_low, &y_high);
            }
        }
    }
    if (!(x_high >= x_low) || !(y_high >= y_low))
        return false;
    if (plot->from_zero)
        include(0, &y_low, &y_high);
    if (x_high == x_low) {
        x_low -= 0.5;
        x_high += 0.5;
    }
    double room = (y_high - y_low) * 0.07;
    if (room == 0)
        room = fabs(y_high) > 0 ? fabs(y_high) * 0.1 : 1;
    *x = (struct axis){x_low, x_high, LEFT, WIDTH - RIGHT};
    *y = (struct axis){plot->from_zero && y_low == 0 ? 0 : y_low - room, y_high + room,
                       HEIGHT - BOTTOM, TOP};
    if (plot->percent && y_low >= 0)
        y->low = fmax(y->low, 0);
    if (plot->percent && y_high <= 1)
        y->high = fmin(y->high, 1);
    return true;
}

/* A round step that gives about `wanted` ticks. */
static double tick_step(const struct axis *axis, double wanted, bool whole)
{
    double rough = (axis->high - axis->low) / wanted;
    double power = pow(10, floor(log10(rough)));
    static const double rounds[] = {1, 2, 2.5, 5, 10};
    double step = 10 * power;
    for (size_t i = 0; i < SP_COUNT(rounds); i++)
        if (rounds[i] * power >= rough * 0.999) {
            step = rounds[i] * power;
            break;
        }
    return whole ? fmax(1, ceil(step)) : step;
}

/* The i-th tick; not by adding, which ends nowhere where a step is nothing beside the values. */
static double tick(const struct axis *axis, double step, int i)
{
    return (ceil(axis->low / step - 1e-9) + i) * step;
}

static void tick_label(double value, double step, bool percent, char *ret, size_t size)
{
    if (fabs(value) < step * 1e-6)
        value = 0;
    if (percent)
        snprintf(ret, size, step < 0.01 ? "%.1f %%" : "%.0f %%", 100 * value);
    else if (value == 0)
        snprintf(ret, size, "0");
    else if (step >= 1e6)
        snprintf(ret, size, "%.4g M", value / 1e6);
    else if (step >= 1e3)
        snprintf(ret, size, "%.4g k", value / 1e3);
    else if (step < 1e-3)
        snprintf(ret, size, "%.3g", value);
    else
        snprintf(ret, size, "%.*f", step >= 1 ? 0 : (int)fmin(6, ceil(-log10(step) - 1e-9)), value);
}

/* A step of 2.5 needs one digit more than its power of ten. */
static double label_step(double step)
{
    double digits = step / pow(10, floor(log10(step)));
    return fabs(digits - 2.5) < 1e-6 ? step / 10 : step;
}

/* ---- one plot ---- */

static void axes(const struct plot *plot, const struct axis *x, const struct axis *y,
                 struct sp_buf *out)
{
    char text[48];
    double step = tick_step(y, 5, false);
    for (int i = 0; i < MAX_TICKS; i++) {
        double v = tick(y, step, i), at = place(y, v);
        if (v > y->high + step * 1e-9)
            break;
        tick_label(v, label_step(step), plot->percent, text, sizeof(text));
        sp_buf_printf(out,
                      "<line class=\"g\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>",
                      LEFT, WIDTH - RIGHT, at, at, LEFT - 6, at + 4, text);
    }
    step = tick_step(x, 8, plot->whole_x);
    for (int i = 0; i < MAX_TICKS; i++) {
        double v = tick(x, step, i), at = place(x, v);
        if (v > x->high + step * 1e-9)
            break;
        tick_label(v, label_step(step), false, text, sizeof(text));
        if (plot->whole_x && v < -0.5)
            snprintf(text, sizeof(text), "base");
        sp_buf_printf(out,
                      "<line class=\"a\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\"/>"
                      "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%s</text>",
                      at, at, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 4, at, HEIGHT - BOTTOM + 18, text);
    }
    sp_buf_printf(out, "<line class=\"a\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.0f\" y2=\"%.0f\"/>", LEFT,
                  WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM);
    sp_buf_printf(out, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">",
                  (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8);
    plot_escape(plot->x_label, out);
    sp_buf_printf(out,
                  "</text><text transform=\"translate(13 %.0f) rotate(-90)\" "
                  "text-anchor=\"middle\">",
                  (TOP + HEIGHT - BOTTOM) / 2);
    plot_escape(plot->y_label, out);
    sp_buf_puts(out, "</text>");
    for (size_t i = 0; i < plot->rule_count; i++)
        sp_buf_printf(out, "<line class=\"r\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\"/>",
                      place(x, plot->rules[i]), place(x, plot->rules[i]), TOP, HEIGHT - BOTTOM);
}

/* A line is not drawn across a rule: what follows it is another iteration. */
static bool across(const struct plot *plot, double from, double to)
{
    for (size_t i = 0; i < plot->rule_count; i++)
        if (from < plot->rules[i] && to > plot->rules[i])
            return true;
    return false;
}

static void draw_series(const struct plot *plot, const struct plot_series *s, const struct axis *x,
                        const struct axis *y, struct sp_buf *out)
{
    bool open = false;
    size_t drawn = 0;
    sp_buf_puts(out, "<path d=\"");
    for (size_t i = 0; i < s->count; i++) {
        if (!isfinite(s->y[i])) {
            open = false;
            continue;
        }
        open = open && !across(plot, s->x[i - 1], s->x[i]);
        sp_buf_printf(out, "%c%.1f %.1f", open ? 'L' : 'M', place(x, s->x[i]), place(y, s->y[i]));
        open = true;
        drawn++;
    }
    sp_buf_printf(out, "\" fill=\"none\" stroke=\"var(--c%d)\" stroke-width=\"%s\"%s/>", s->colour,
                  s->count > 200 ? "1.3" : "2", s->dashed ? " stroke-dasharray=\"7 4\"" : "");
    for (size_t i = 0; i < s->count; i++) {
        if (!isfinite(s->y[i]))
            continue;
        double at = place(x, s->x[i]);
        if (s->low && isfinite(s->low[i]) && isfinite(s->high[i]))
            sp_buf_printf(out,
                          "<path d=\"M%.1f %.1fV%.1fM%.1f %.1fh8M%.1f %.1fh8\" fill=\"none\" "
                          "stroke=\"var(--c%d)\" stroke-width=\"1.5\"/>",
                          at, place(y, s->low[i]), place(y, s->high[i]), at - 4,
                          place(y, s->low[i]), at - 4, place(y, s->high[i]), s->colour);
        if (s->dots || drawn == 1)
            sp_buf_printf(out,
                          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"var(--c%d)\">"
                          "<title>%.6g</title></circle>",
                          at, place(y, s->y[i]), s->colour, s->y[i]);
    }
}

static void legend_entry(const char *name, int colour, bool dashed, struct sp_buf *out)
{
    sp_buf_printf(out, "<span><i%s style=\"--k:var(--c%d)\"></i>", dashed ? " class=\"d\"" : "",
                  colour);
    plot_escape(name, out);
    sp_buf_puts(out, "</span>");
}

static bool has_points(const struct plot_series *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (isfinite(s->y[i]))
            return true;
    return false;
}

void plot_svg(const struct plot *plot, struct sp_buf *out)
{
    struct axis x, y;
    if (!ranges(plot, &x, &y))
        return;
    sp_buf_puts(out, "<figure><figcaption>");
    plot_escape(plot->title, out);
    sp_buf_puts(out, "</figcaption><div class=\"legend\">");
    for (size_t i = 0; i < plot->series_count; i++)
        if (has_points(&plot->series[i]))
            legend_entry(plot->series[i].name, plot->series[i].colour, plot->series[i].dashed, out);
    sp_buf_printf(out, "</div><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", WIDTH,
                  HEIGHT);
    plot_escape(plot->title, out);
    sp_buf_puts(out, "\">");
    axes(plot, &x, &y, out);
    for (size_t i = 0; i < plot->series_count; i++)
        draw_series(plot, &plot->series[i], &x, &y, out);
    sp_buf_puts(out, "</svg></figure>\n");
}

/* ---- lanes ---- */

void plot_lanes(const char *title, const char *const *lanes, size_t lane_count,
                const struct plot_block *blocks, size_t block_count, const char *const *legend,
                const int *legend_colours, size_t legend_count, struct sp_buf *out)
{
    double end = 0, bottom = TOP + (double)lane_count * LANE_HEIGHT, height = bottom + 44;
    for (size_t i = 0; i < block_count; i++)
        end = fmax(end, blocks[i].to);
    if (lane_count == 0 || !(end > 0))
        return;
    struct axis x = {0, end, LANE_LEFT, LANE_WIDTH - RIGHT};
    sp_buf_puts(out, "<figure class=\"wide\"><figcaption>");
    plot_escape(title, out);
    sp_buf_puts(out, "</figcaption><div class=\"legend\">");
    for (size_t i = 0; i < legend_count; i++)
        legend_entry(legend[i], legend_colours[i], false, out);
    sp_buf_printf(out, "</div><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"",
                  LANE_WIDTH, height);
    plot_escape(title, out);
    sp_buf_puts(out, "\">");
    for (size_t i = 0; i < lane_count; i++) {
        double top = TOP + (double)i * LANE_HEIGHT;
        sp_buf_printf(out,
                      "<line class=\"g\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">",
                      LANE_LEFT, LANE_WIDTH - RIGHT, top + LANE_HEIGHT, top + LANE_HEIGHT,
                      LANE_LEFT - 8, top + LANE_HEIGHT - 8);
        char name[24];
        snprintf(name, sizeof(name), "%.20s", lanes[i]);
        plot_escape(name, out);
        sp_buf_puts(out, "</text>");
    }
    for (size_t i = 0; i < block_count; i++) {
        const struct plot_block *b = &blocks[i];
        double from = place(&x, b->from), to = place(&x, b->to);
        sp_buf_printf(out,
                      "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.0f\" "
                      "fill=\"var(--c%d)\" fill-opacity=\"%.2f\"><title>",
                      from, TOP + (double)b->lane * LANE_HEIGHT + 5, fmax(to - from, 1),
                      LANE_HEIGHT - 8, b->colour, 0.25 + 0.75 * fmin(1, fmax(0, b->weight)));
        plot_escape(b->title, out);
        sp_buf_puts(out, "</title></rect>");
    }
    double step = tick_step(&x, 10, false);
    for (int i = 0; i < MAX_TICKS; i++) {
        char text[48];
        double v = tick(&x, step, i);
        if (v > end + step * 1e-9)
            break;
        tick_label(v, label_step(step), false, text, sizeof(text));
        sp_buf_printf(out,
                      "<line class=\"a\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>",
                      place(&x, v), place(&x, v), bottom, bottom + 4, place(&x, v), bottom + 18,
                      text);
    }
    sp_buf_printf(out,
                  "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"middle\">seconds since the first "
                  "iteration began</text></svg></figure>\n",
                  (LANE_LEFT + LANE_WIDTH - RIGHT) / 2, height - 6);
}

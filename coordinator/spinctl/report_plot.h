/* report_plot: lines, intervals and bars as SVG that opens without a network. Colours are variables
 * of the page (--c0 … --c4, --ink, --grid), so that it is readable on light and on dark. One
 * thread. */
#ifndef SPIN_COORDINATOR_REPORT_PLOT_H
#define SPIN_COORDINATOR_REPORT_PLOT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/buf.h"

#define PLOT_SERIES 8
#define PLOT_COLOURS 5

struct plot_series {
    const char *name;         /* in the legend */
    int colour;               /* 0 … PLOT_COLOURS - 1 */
    bool dots, dashed;        /* a dot at each point; a dashed line */
    const double *x, *y;      /* [count]; NaN leaves a gap */
    const double *low, *high; /* [count] interval of each point, or NULL */
    size_t count;
};

struct plot {
    const char *title, *x_label, *y_label;
    bool percent;        /* y is a share */
    bool from_zero;      /* the y axis has 0 */
    bool whole_x;        /* x counts iterations: whole ticks, and -1 is the base */
    const double *rules; /* [rule_count] x of vertical lines: where iterations begin */
    size_t rule_count;
    struct plot_series series[PLOT_SERIES];
    size_t series_count;
};

/* Adds a series and returns it to be filled further. */
struct plot_series *plot_add(struct plot *plot, const char *name, int colour, const double *x,
                             const double *y, size_t count);
/* Appends a <figure>; nothing when no series has a finite point. */
void plot_svg(const struct plot *plot, struct sp_buf *out);
/* A wide strip: `lanes` rows of blocks, x in seconds. */
struct plot_block {
    size_t lane;
    double from, to, weight; /* weight 0 … 1: how dense it is drawn */
    int colour;
    const char *title; /* shown when pointed at */
};
void plot_lanes(const char *title, const char *const *lanes, size_t lane_count,
                const struct plot_block *blocks, size_t block_count, const char *const *legend,
                const int *legend_colours, size_t legend_count, struct sp_buf *out);

/* Text with & < > " escaped, and control characters made visible. */
void plot_escape(const char *text, struct sp_buf *out);

#endif

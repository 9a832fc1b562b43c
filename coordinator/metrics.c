#include "coordinator/metrics.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "common/base/mem.h"

enum type { GAUGE, COUNTER, INFO, STATESET, HISTOGRAM };

static const struct {
    const char *name;
    enum type type;
    const char *unit, *labels, *help;
} table[] = {
#define METRIC(ID, name, TYPE, unit, labels, help) [METRIC_##ID] = {name, TYPE, unit, labels, help},
#include "coordinator/metrics.def"
#undef METRIC
};

static const char *const type_names[] = {"gauge", "counter", "info", "stateset", "histogram"};
static const char *const suffixes[] = {"", "_total", "_info", "", ""};

static double bucket_end(int bucket)
{
    return 0.0005 * (double)(1 << bucket);
}

void coord_histogram_add(struct coord_histogram *histogram, double seconds)
{
    int bucket = 0;
    while (bucket < COORD_HISTOGRAM_BUCKETS && seconds > bucket_end(bucket))
        bucket++;
    histogram->buckets[bucket]++;
    histogram->count++;
    histogram->seconds += seconds;
}

static void put_number(struct sp_buf *out, double value)
{
    if (isnan(value))
        sp_buf_puts(out, "NaN");
    else if (isinf(value))
        sp_buf_puts(out, value > 0 ? "+Inf" : "-Inf");
    else
        sp_buf_printf(out, "%.17g", value);
}

static void put_escaped(struct sp_buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"')
            sp_buf_putc(out, '\\');
        if (*text == '\n')
            sp_buf_puts(out, "\\n");
        else
            sp_buf_putc(out, *text);
    }
}

void coord_metric(struct coord_metrics *metrics, enum coord_metric id, double value, ...)
{
    struct sp_buf *out = &metrics->samples[id];
    va_list labels;
    va_start(labels, value);
    const char *label;
    int count = 0;
    sp_buf_printf(out, "%s%s", table[id].name, suffixes[table[id].type]);
    while ((label = va_arg(labels, const char *)) != NULL) {
        sp_buf_printf(out, "%c%s=\"", count++ ? ',' : '{', label);
        put_escaped(out, va_arg(labels, const char *));
        sp_buf_putc(out, '"');
    }
    va_end(labels);
    sp_buf_puts(out, count ? "} " : " ");
    put_number(out, value);
    sp_buf_putc(out, '\n');
}

void coord_metric_histogram(struct coord_metrics *metrics, enum coord_metric id,
                            const struct coord_histogram *histogram)
{
    struct sp_buf *out = &metrics->samples[id];
    uint64_t below = 0;
    for (int i = 0; i <= COORD_HISTOGRAM_BUCKETS; i++) {
        below += histogram->buckets[i];
        sp_buf_printf(out, "%s_bucket{le=\"", table[id].name);
        put_number(out, i < COORD_HISTOGRAM_BUCKETS ? bucket_end(i) : INFINITY);
        sp_buf_printf(out, "\"} %llu\n", (unsigned long long)below);
    }
    sp_buf_printf(out, "%s_sum ", table[id].name);
    put_number(out, histogram->seconds);
    sp_buf_printf(out, "\n%s_count %llu\n", table[id].name, (unsigned long long)histogram->count);
}

void coord_metrics_finish(struct coord_metrics *metrics, struct sp_buf *out)
{
    for (int id = 0; id < METRIC_COUNT; id++) {
        struct sp_buf *samples = &metrics->samples[id];
        if (samples->length == 0)
            continue;
        sp_buf_printf(out, "# TYPE %s %s\n", table[id].name, type_names[table[id].type]);
        if (table[id].unit[0])
            sp_buf_printf(out, "# UNIT %s %s\n", table[id].name, table[id].unit);
        sp_buf_printf(out, "# HELP %s ", table[id].name);
        put_escaped(out, table[id].help);
        sp_buf_putc(out, '\n');
        sp_buf_append(out, samples->data, samples->length);
        sp_buf_deinit(samples);
    }
    sp_buf_puts(out, "# EOF\n");
}

void coord_metrics_markdown(struct sp_buf *out)
{
    sp_buf_puts(out, "| metric | type | labels | what it is |\n| --- | --- | --- | --- |\n");
    for (int id = 0; id < METRIC_COUNT; id++)
        sp_buf_printf(out, "| `%s%s` | %s | %s | %s |\n", table[id].name, suffixes[table[id].type],
                      type_names[table[id].type], table[id].labels, table[id].help);
}

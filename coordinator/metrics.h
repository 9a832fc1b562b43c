/* metrics: numbers about the coordinator in the text format OpenMetrics 1.0
 * (https://github.com/OpenObservability/OpenMetrics/blob/main/specification/OpenMetrics.md).
 * One thread (the loop's). */
#ifndef SPIN_COORDINATOR_METRICS_H
#define SPIN_COORDINATOR_METRICS_H

#include <stdint.h>

#include "common/base/buf.h"

enum coord_metric {
#define METRIC(ID, name, TYPE, unit, labels, help) METRIC_##ID,
#include "coordinator/metrics.def"
#undef METRIC
    METRIC_COUNT
};

/* Times from half a millisecond to 16 s, doubling. */
#define COORD_HISTOGRAM_BUCKETS 16
struct coord_histogram {
    uint64_t buckets[COORD_HISTOGRAM_BUCKETS + 1]; /* the last one: longer than all */
    uint64_t count;
    double seconds;
};
void coord_histogram_add(struct coord_histogram *histogram, double seconds);

/* Samples, gathered by family. */
struct coord_metrics {
    struct sp_buf samples[METRIC_COUNT];
};
/* A sample; then pairs of label and value (const char *), ended by NULL. NaN is written as NaN. */
void coord_metric(struct coord_metrics *metrics, enum coord_metric id, double value, ...);
void coord_metric_histogram(struct coord_metrics *metrics, enum coord_metric id,
                            const struct coord_histogram *histogram);
/* Appends the whole page and frees the samples. A family without samples is left out. */
void coord_metrics_finish(struct coord_metrics *metrics, struct sp_buf *out);

/* Markdown table of all metrics, for docs/metrics.md. */
void coord_metrics_markdown(struct sp_buf *out);

#endif

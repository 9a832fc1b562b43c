/* stats: what clients saw: how long requests took by kind and phase, and what went wrong.
 *
 * Phases: calm; while an upload is under way; from the first lost connection until all are back.
 * One thread. */
#ifndef SPIN_TESTS_BENCH_STATS_H
#define SPIN_TESTS_BENCH_STATS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum stats_kind { STATS_HELLO, STATS_LEASE, STATS_SUBMIT, STATS_RENEW, STATS_BLOB, STATS_KINDS };
enum stats_phase { STATS_CALM, STATS_UPLOAD, STATS_STORM, STATS_PHASES };

#define STATS_TEXTS 16

struct stats_times {
    float *ms;
    size_t count, capacity;
};
struct stats {
    struct stats_times times[STATS_KINDS][STATS_PHASES];
    enum stats_phase phase;
    uint64_t retries; /* that a client makes by itself: unavailable for now, connection lost */
    uint64_t errors;  /* that its owner would be told of */
    char *texts[STATS_TEXTS]; /* the first different ones */
    uint64_t counts[STATS_TEXTS];
    uint32_t text_count;
};

void stats_init(struct stats *stats);
void stats_deinit(struct stats *stats);
void stats_time(struct stats *stats, enum stats_kind kind, int64_t ns);
void stats_error(struct stats *stats, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* {"lease": {"calm": {"count", "p50", "p99", "p99.9", "max"}, "upload": …}, …}; sorts. New
 * references. */
json_t *stats_times_json(struct stats *stats);
json_t *stats_errors_json(const struct stats *stats);

#endif

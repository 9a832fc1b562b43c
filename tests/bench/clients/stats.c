#include "tests/bench/clients/stats.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"

static const char *const kind_names[STATS_KINDS] = {"hello", "lease", "submit", "renew", "blob"};
static const char *const phase_names[STATS_PHASES] = {"calm", "upload", "storm"};

void stats_init(struct stats *stats)
{
    *stats = (struct stats){.phase = STATS_CALM};
}

void stats_deinit(struct stats *stats)
{
    for (int kind = 0; kind < STATS_KINDS; kind++) {
        for (int phase = 0; phase < STATS_PHASES; phase++)
            free(stats->times[kind][phase].ms);
    }
    for (uint32_t i = 0; i < stats->text_count; i++)
        free(stats->texts[i]);
}

void stats_time(struct stats *stats, enum stats_kind kind, int64_t ns)
{
    struct stats_times *times = &stats->times[kind][stats->phase];
    if (times->count == times->capacity) {
        times->capacity = times->capacity ? 2 * times->capacity : 1024;
        times->ms = sp_xgrow(times->ms, times->capacity, sizeof(*times->ms));
    }
    times->ms[times->count++] = (float)((double)ns / 1e6);
}

void stats_error(struct stats *stats, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    stats->errors++;
    uint32_t i = 0;
    while (i < stats->text_count && strcmp(stats->texts[i], text) != 0)
        i++;
    if (i == STATS_TEXTS)
        return;
    if (i == stats->text_count)
        stats->texts[stats->text_count++] = sp_xstrdup(text);
    stats->counts[i]++;
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The smallest time that at least that share of all does not exceed. */
static double quantile(const struct stats_times *times, double share)
{
    size_t rank = (size_t)(share * (double)times->count);
    rank += (double)rank < share * (double)times->count;
    return (double)times->ms[rank > 0 ? rank - 1 : 0];
}

json_t *stats_times_json(struct stats *stats)
{
    json_t *all = json_object();
    for (int kind = 0; kind < STATS_KINDS; kind++) {
        json_t *phases = json_object();
        for (int phase = 0; phase < STATS_PHASES; phase++) {
            struct stats_times *times = &stats->times[kind][phase];
            if (times->count == 0)
                continue;
            qsort(times->ms, times->count, sizeof(*times->ms), compare);
            json_object_set_new(phases, phase_names[phase],
                                json_pack("{s:I,s:f,s:f,s:f,s:f}", "count",
                                          (json_int_t)times->count, "p50", quantile(times, 0.5),
                                          "p99", quantile(times, 0.99), "p99.9",
                                          quantile(times, 0.999), "max", quantile(times, 1)));
        }
        json_object_set_new(all, kind_names[kind], phases);
    }
    return all;
}

json_t *stats_errors_json(const struct stats *stats)
{
    json_t *texts = json_object();
    for (uint32_t i = 0; i < stats->text_count; i++)
        json_object_set_new(texts, stats->texts[i], json_integer((json_int_t)stats->counts[i]));
    return texts;
}

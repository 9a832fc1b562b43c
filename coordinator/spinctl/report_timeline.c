/* Who worked when: a lane for each worker, from the times of its results and of the trainer's
 * leases. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/spinctl/report.h"
#include "coordinator/spinctl/report_plot.h"

#define MAX_LANES 64

struct lanes {
    char *names[MAX_LANES];
    size_t count;
    struct plot_block *blocks;
    char **titles; /* of the blocks; owned */
    size_t block_count;
    int64_t start_ms;
};

static bool lane_of(struct lanes *lanes, const char *name, size_t *ret)
{
    for (*ret = 0; *ret < lanes->count; (*ret)++)
        if (strcmp(lanes->names[*ret], name) == 0)
            return true;
    if (lanes->count == MAX_LANES)
        return false;
    lanes->names[lanes->count++] = sp_xstrdup(name);
    return true;
}

static void add_block(struct lanes *lanes, const char *name, int64_t from_ms, int64_t to_ms,
                      double weight, int colour, char *title)
{
    struct plot_block block = {.weight = weight, .colour = colour, .title = title};
    block.from = fmax(0, (double)(from_ms - lanes->start_ms) / 1000);
    block.to = fmax(block.from, (double)(to_ms - lanes->start_ms) / 1000);
    if (!lane_of(lanes, name, &block.lane)) {
        free(title);
        return;
    }
    size_t n = lanes->block_count++;
    lanes->blocks = sp_xgrow(lanes->blocks, n + 1, sizeof(*lanes->blocks));
    lanes->titles = sp_xgrow(lanes->titles, n + 1, sizeof(*lanes->titles));
    lanes->blocks[n] = block;
    lanes->titles[n] = title;
}

static int colour_of(const char *kind)
{
    return strcmp(kind, "train") == 0 ? 1 : strcmp(kind, "verdict") == 0 ? 3 : 2;
}

static void add_results(struct lanes *lanes, const json_t *row)
{
    const json_t *timeline = json_object_get(row, "timeline");
    const json_t *slices = json_object_get(timeline, "slices");
    int64_t start = ctl_integer(timeline, "start_ms", 0);
    int64_t length = ctl_integer(timeline, "slice_ms", 1), most = 1;
    for (size_t i = 0; i < json_array_size(slices); i++)
        most = SP_MAX(most, ctl_integer(json_array_get(slices, i), "results", 0));
    for (size_t i = 0; i < json_array_size(slices); i++) {
        const json_t *slice = json_array_get(slices, i);
        const char *worker = ctl_string(slice, "worker", ""), *kind = ctl_string(slice, "kind", "");
        int64_t at = start + ctl_integer(slice, "slice", 0) * length;
        int64_t results = ctl_integer(slice, "results", 0);
        if (worker[0])
            add_block(lanes, worker, at, at + length, (double)results / (double)most,
                      colour_of(kind),
                      sp_xprintf("%s, iteration %lld: %lld results (%s) in %.3g s", worker,
                                 (long long)ctl_integer(row, "iteration", 0), (long long)results,
                                 kind, (double)length / 1000));
    }
}

/* From the grant of the trainer's lease to the next grant of the iteration, or to its published
 * checkpoint. */
static void add_trainers(struct lanes *lanes, const json_t *report, const json_t *row)
{
    const json_t *events = json_object_get(report, "events");
    int64_t number = ctl_integer(row, "iteration", 0);
    int64_t trained = ctl_integer(row, "trained_ms", 0), from = 0;
    const char *holder = NULL;
    for (size_t i = 0; i <= json_array_size(events); i++) {
        const json_t *event = json_array_get(events, i);
        bool granted = event && ctl_integer(event, "iteration", -1) == number &&
                       strcmp(ctl_string(event, "kind", ""), "trainer") == 0 &&
                       strstr(ctl_string(event, "text", ""), "is granted to") != NULL;
        if (event && !granted)
            continue;
        int64_t to = event ? ctl_integer(event, "at_ms", 0) : trained;
        if (holder && to > from)
            add_block(lanes, holder, from, to, 0.6, 0,
                      sp_xprintf("%s holds iteration %lld for %.1f s", holder, (long long)number,
                                 (double)(to - from) / 1000));
        holder = event ? ctl_string(event, "actor", "trainer") : NULL;
        from = to;
    }
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Lanes by name, wherever their first block was. */
static void sort_lanes(struct lanes *lanes)
{
    char *before[MAX_LANES];
    size_t place[MAX_LANES] = {0};
    memcpy(before, lanes->names, sizeof(before));
    qsort(lanes->names, lanes->count, sizeof(lanes->names[0]), compare_names);
    for (size_t i = 0; i < lanes->count; i++)
        for (size_t k = 0; k < lanes->count; k++)
            if (before[i] == lanes->names[k])
                place[i] = k;
    for (size_t i = 0; i < lanes->block_count; i++)
        lanes->blocks[i].lane = place[lanes->blocks[i].lane];
}

void report_timeline(const json_t *report, struct sp_buf *out)
{
    static const char *const legend[] = {"trainer holds the iteration", "pairs", "verdict",
                                         "evaluation"};
    static const int colours[] = {0, 1, 3, 2};
    const json_t *list = json_object_get(report, "iterations");
    struct lanes lanes = {.start_ms = ctl_integer(json_array_get(list, 0), "started_ms", 0)};
    for (size_t i = 0; i < json_array_size(list); i++) {
        add_results(&lanes, json_array_get(list, i));
        add_trainers(&lanes, report, json_array_get(list, i));
    }
    sort_lanes(&lanes);
    if (lanes.block_count > 0) {
        sp_buf_puts(out, "<h2>Workers</h2>\n");
        plot_lanes("Who worked when (the stronger, the more results)",
                   (const char *const *)lanes.names, lanes.count, lanes.blocks, lanes.block_count,
                   legend, colours, SP_COUNT(legend), out);
    }
    for (size_t i = 0; i < lanes.block_count; i++)
        free(lanes.titles[i]);
    for (size_t i = 0; i < lanes.count; i++)
        free(lanes.names[i]);
    free(lanes.titles);
    free(lanes.blocks);
}

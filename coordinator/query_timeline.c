/* timeline: who made how many results of an iteration when, in slices of equal length. */
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/query_internal.h"

#define SLICES 120

static const char *kind_of(uint32_t set)
{
    switch (set) {
    case PROTO_SET_TRAIN:
        return "train";
    case PROTO_SET_HOLDOUT:
    case PROTO_SET_HOLDOUT_PLAYER:
    case PROTO_SET_TRAINED:
        return "verdict";
    default:
        return "eval";
    }
}

enum sp_err query_timeline(struct query *q, json_t **ret, struct sp_error *err)
{
    struct store_iteration it;
    struct store_slice *slices = NULL;
    size_t count = 0;
    int64_t end_ms = 0;
    enum sp_err rc = query_iteration(q, &it, err);
    if (rc == SP_OK)
        rc = store_results_last_ms(q->run, it.iteration, &end_ms, err);
    end_ms = SP_MAX(end_ms, it.closed_ms);
    int64_t slice_ms = SP_MAX((end_ms - it.started_ms) / SLICES + 1, 1);
    if (rc == SP_OK && it.started_ms > 0)
        rc = store_slices(q->run, it.iteration, it.started_ms, slice_ms, q->all->arena, &slices,
                          &count, err);
    if (rc != SP_OK)
        return rc;
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct store_slice *s = &slices[i];
        json_array_append_new(rows, json_pack("{s:o, s:s, s:I, s:I}", "worker",
                                              query_text(s->worker, strlen(s->worker)), "kind",
                                              kind_of(s->set), "slice", (json_int_t)s->slice,
                                              "results", (json_int_t)s->results));
    }
    *ret = json_pack("{s:I, s:I, s:I, s:o}", "iteration", (json_int_t)it.iteration, "start_ms",
                     (json_int_t)it.started_ms, "slice_ms", (json_int_t)slice_ms, "slices", rows);
    return SP_OK;
}

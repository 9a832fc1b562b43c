#include "coordinator/writes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "coordinator/try.h"

_Static_assert((int)COORD_PLANNED == (int)STORE_STATE_PLANNED &&
                   (int)COORD_CANCELLED == (int)STORE_STATE_CANCELLED &&
                   (int)COORD_STATE_COUNT == (int)STORE_STATE_COUNT,
               "the states of the core and of the store have the same numbers");

void coord_write_free(struct coord_write *write)
{
    if (!write)
        return;
    free(write->actor);
    free(write->event_text);
    free(write->rows);
    free(write->holder);
    free(write->text);
    free(write->reason);
    free(write->order);
    free(write->blobs);
    free(write->verdict);
    free((void *)write->worker.name);
    free((void *)write->worker.host);
    free((void *)write->worker.device);
    free((void *)write->worker.version);
    free((void *)write->worker.numerics_class);
    free((void *)write->worker.token_id);
    free(write);
}

struct apply {
    struct store *store;
    struct store_run *run;
    const struct coord_write *write;
    int64_t wall_ms;
    struct sp_arena *arena;
};

/* A replayed pair keeps the answer that an earlier iteration's opponent gave. */
static enum sp_err copy_answer(const struct apply *a, struct store_result *row,
                               struct sp_error *err)
{
    struct store_iteration it;
    SP_TRY(store_iteration_get(a->run, row->iteration, a->arena, &it, err));
    uint64_t source = row->position - it.new_pairs;
    struct store_result old;
    SP_TRY(store_results_get(a->run, row->source_iteration, PROTO_SET_TRAIN, &source, 1, a->arena,
                             &old, err));
    row->ids = old.ids;
    row->finish = old.finish;
    return SP_OK;
}

static enum sp_err put_results(const struct apply *a, struct coord_write_result *ret,
                               struct sp_error *err)
{
    for (uint32_t i = 0; i < a->write->row_count; i++) {
        struct store_result row = a->write->rows[i];
        row.worker = a->write->actor;
        row.at_ms = a->wall_ms;
        if (row.set == PROTO_SET_TRAIN && row.source_iteration != row.iteration)
            SP_TRY(copy_answer(a, &row, err));
        if (row.set == PROTO_SET_TRAIN && a->write->rewrite)
            SP_TRY(a->write->rewrite(a->write->rewrite_context, a->run, &row, a->arena, err));
        enum store_put put;
        SP_TRY(store_result_put(a->run, &row, &put, err));
        if (put == STORE_NEW) {
            ret->stored++;
            ret->tokens += a->write->rows[i].ids.count;
        } else if (put == STORE_DUPLICATE) {
            ret->duplicates++;
        } else {
            if (ret->different++ == 0) {
                ret->different_position = row.position;
                ret->different_set = row.set;
            }
            ret->different_rows[i / 64] |= 1ull << (i % 64);
        }
    }
    return SP_OK;
}

static enum sp_err put_refs(const struct apply *a, struct coord_write_result *ret,
                            struct sp_error *err)
{
    for (uint32_t i = 0; i < a->write->row_count; i++) {
        const struct store_result *row = &a->write->rows[i];
        SP_TRY(store_refs_put(a->run, row->iteration, row->set, row->position, row->prompt,
                              row->sample, row->ref_real, row->ref_generated, err));
        ret->stored++;
    }
    return SP_OK;
}

/* ---- the iteration's row: read, changed, written back ---- */

static enum sp_err change_state(const struct apply *a, struct store_iteration *it,
                                struct sp_error *err)
{
    const struct coord_write *w = a->write;
    it->state = (enum store_state)w->to;
    it->return_state = (enum store_state)w->resume;
    it->reason = w->reason;
    if (w->to == COORD_FAILED || w->to == COORD_CANCELLED)
        SP_TRY(store_meta_put(a->run, "trainer", NULL, err));
    if (w->to == COORD_RUNNING && it->started_ms == 0)
        it->started_ms = a->wall_ms;
    if (!w->fresh)
        return SP_OK;
    it->attempt++;
    it->generated_ms = it->trained_ms = 0;
    it->started_ms = a->wall_ms;
    it->checkpoint = it->checkpoint_manifest = (struct sp_digest){0};
    it->pairs_chain = (struct sp_digest){0};
    it->summary = "";
    return store_iteration_clear(a->run, w->iteration, err);
}

static enum sp_err publish(const struct apply *a, struct store_iteration *it, struct sp_error *err)
{
    const struct coord_write *w = a->write;
    it->state = it->return_state = STORE_STATE_EVALUATING;
    it->checkpoint = w->checkpoint;
    it->checkpoint_manifest = w->manifest;
    it->pairs_chain = w->chain;
    it->summary = w->text;
    it->trained_ms = a->wall_ms;
    SP_TRY(store_meta_put(a->run, "trainer", NULL, err));
    char owner[SP_DIGEST_HEX];
    sp_digest_hex(&w->checkpoint, owner);
    SP_TRY(store_blob_refs_add(a->run, owner, w->blobs, w->blob_count, err));
    struct store_checkpoint row = {
        .digest = w->checkpoint,
        .manifest = w->manifest,
        .iteration = (int32_t)w->iteration,
        .created_ms = a->wall_ms,
        .bytes = w->bytes,
        .provenance = w->text,
    };
    return store_checkpoint_put(a->run, &row, err);
}

static void close_iteration(const struct apply *a, struct store_iteration *it)
{
    const struct coord_write *w = a->write;
    it->state = it->return_state = STORE_STATE_CLOSED;
    it->verdict = w->verdict;
    it->accepted = w->accepted;
    it->summary = w->text;
    it->pairs_sha256 = w->pairs_sha256;
    it->closed_ms = a->wall_ms;
}

static enum sp_err change_iteration(const struct apply *a, struct sp_error *err)
{
    const struct coord_write *w = a->write;
    struct store_iteration it;
    SP_TRY(store_iteration_get(a->run, w->iteration, a->arena, &it, err));
    switch (w->kind) {
    case COORD_W_STATE:
        SP_TRY(change_state(a, &it, err));
        break;
    case COORD_W_EPOCH:
        it.epoch = w->epoch;
        SP_TRY(store_meta_put(a->run, "trainer", w->holder, err));
        break;
    case COORD_W_GENERATED:
        if (it.generated_ms == 0)
            it.generated_ms = a->wall_ms;
        break;
    case COORD_W_PUBLISHED:
        SP_TRY(publish(a, &it, err));
        break;
    case COORD_W_STEPS:
        if (w->steps_total > 0)
            it.steps_total = w->steps_total;
        break;
    default:
        close_iteration(a, &it);
        SP_TRY(store_blob_refs_drop(a->run, STORE_OWNER_WEIGHTS, err));
    }
    return store_iteration_put(a->run, &it, err);
}

static enum sp_err put_steps(const struct apply *a, struct sp_error *err)
{
    for (uint32_t i = 0; i < a->write->step_count; i++)
        SP_TRY(store_step_put(a->run, a->write->iteration, &a->write->steps[i], err));
    return change_iteration(a, err);
}

/* Results of a worker that is not trusted any more go, and what stands on them. */
static enum sp_err revoke(const struct apply *a, struct sp_error *err)
{
    const struct coord_write *w = a->write;
    struct store_iteration it;
    char text[96];
    for (uint32_t i = 0; i < w->row_count; i++)
        SP_TRY(store_result_revoke(a->run, w->iteration, w->rows[i].set, w->rows[i].position, err));
    if (w->dropped_sets)
        SP_TRY(store_results_clear(a->run, w->iteration, w->dropped_sets, err));
    if (w->drops_order)
        SP_TRY(store_gap_order_drop(a->run, w->iteration, err));
    SP_TRY(store_iteration_get(a->run, w->iteration, a->arena, &it, err));
    it.generated_ms = 0;
    if (w->moves) {
        it.state = (enum store_state)w->to;
        it.return_state = (enum store_state)w->resume;
        it.checkpoint = it.checkpoint_manifest = (struct sp_digest){0};
        it.pairs_chain = (struct sp_digest){0};
        it.summary = "";
        it.trained_ms = 0;
    }
    if (w->fenced) {
        it.epoch = w->epoch;
        snprintf(text, sizeof(text), "%u %llu %llu %llu", w->iteration,
                 (unsigned long long)it.attempt, (unsigned long long)w->epoch,
                 (unsigned long long)w->rewind_steps);
        SP_TRY(store_meta_put(a->run, "rewind", text, err));
        SP_TRY(store_meta_put(a->run, "trainer", NULL, err));
    }
    return store_iteration_put(a->run, &it, err);
}

static enum sp_err apply_kind(const struct apply *a, struct coord_write_result *ret,
                              struct sp_error *err)
{
    const struct coord_write *w = a->write;
    switch (w->kind) {
    case COORD_W_RESULTS:
        return put_results(a, ret, err);
    case COORD_W_REFS:
        return put_refs(a, ret, err);
    case COORD_W_STEPS:
        return put_steps(a, err);
    case COORD_W_START: {
        struct store_iteration row = w->row;
        row.created_ms = a->wall_ms;
        if (w->copy_replays)
            SP_TRY(store_replays_copy(a->run, row.iteration, row.new_pairs, a->wall_ms, err));
        return store_iteration_put(a->run, &row, err);
    }
    case COORD_W_STATE:
    case COORD_W_EPOCH:
    case COORD_W_GENERATED:
    case COORD_W_PUBLISHED:
    case COORD_W_CLOSED:
        return change_iteration(a, err);
    case COORD_W_CLASS:
        return store_meta_put(a->run, "numerics_class", w->text, err);
    case COORD_W_PRIORITY: {
        char text[16];
        snprintf(text, sizeof(text), "%d", w->priority);
        return store_meta_put(a->run, "priority", text, err);
    }
    case COORD_W_ORDER:
        return store_gap_order_put(a->run, w->iteration, w->order, w->order_count, err);
    case COORD_W_SKIP:
        return store_skip_add(a->run, w->iteration, w->prompt, w->actor, a->wall_ms, err);
    case COORD_W_WORKER: {
        struct store_worker worker = w->worker;
        worker.first_seen_ms = worker.last_seen_ms = a->wall_ms;
        return store_worker_put(a->store, &worker, err);
    }
    case COORD_W_REVOKE:
        return revoke(a, err);
    case COORD_W_HOLD: {
        struct store_hold hold = {
            .worker = w->holder, .kind = w->hold, .reason = w->text, .at_ms = a->wall_ms};
        return store_hold_put(a->store, &hold, err);
    }
    case COORD_W_EVENT:
        return SP_OK;
    }
    return sp_fail(err, SP_EINTERNAL, "write of unknown kind %d", (int)w->kind);
}

enum sp_err coord_write_apply(struct store *store, const struct coord_write *write, int64_t wall_ms,
                              struct sp_arena *arena, struct coord_write_result *ret,
                              struct sp_error *err)
{
    struct apply a = {.store = store, .write = write, .wall_ms = wall_ms, .arena = arena};
    struct coord_write_result result = {0};
    if (write->run)
        SP_TRY(store_run_open(store, write->run, &a.run, err));
    enum sp_err rc = apply_kind(&a, &result, err);
    if (rc)
        return sp_wrap(err, rc, "run %s", write->run ? write->run : "-");
    if (write->event_text) {
        struct store_event event = {
            .at_ms = wall_ms,
            .iteration = write->run ? (int32_t)write->iteration : -1,
            .actor = write->actor,
            .kind = write->event_kind,
            .text = write->event_text,
            .detail = "",
        };
        SP_TRY(store_event_append(store, a.run, &event, err));
    }
    *ret = result;
    return SP_OK;
}

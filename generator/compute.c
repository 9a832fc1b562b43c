#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/model/decoder.h"
#include "common/model/model.h"
#include "generator/generator.h"

#define IDLE_WAIT_MS 500
#define WATCHDOG_MS 1000
#define POSITIONS_STEP 64 /* caches grow in steps, so that leases of like length share one */

/* What the compute thread owns. */
struct engine {
    struct gen *gen;
    struct gen_book book;
    struct model_decoder *decoder; /* NULL: nothing loaded */
    struct gen_weights loaded;     /* what it was made from */
    int32_t model_positions;       /* of the loaded model */
    int32_t cache_positions;       /* of the decoder */
    bool wanting;                  /* a want is on its way */
    int64_t watchdog_ms;
};

static void unload(struct engine *engine)
{
    model_decoder_free(engine->decoder);
    engine->decoder = NULL;
}

static bool serves(const struct engine *engine, const struct gen_lease *lease)
{
    if (engine->decoder == NULL || !gen_lease_needs(lease, &engine->loaded))
        return false;
    int64_t needed = SP_MIN(gen_lease_positions(lease), (int64_t)engine->model_positions);
    return needed <= engine->cache_positions;
}

/* As many slots as the settings say, or as there is memory for. */
static enum sp_err fit_slots(const struct gen *gen, const struct model *model,
                             struct model_decoder_options *options, struct sp_error *err)
{
    struct tn_usage usage;
    int32_t asked = options->slots;
    options->stored_weights = gen->backend->weights;
    options->stored_activations = gen->backend->activations;
    options->on_device = gen->backend->has_memory;
    tn_usage(gen->backend, &usage);
    if (usage.memory_free == 0)
        return SP_OK;
    enum sp_err rc =
        model_decoder_fit(model_get_config(model), usage.memory_free / 10 * 9, options, err);
    if (rc == SP_OK && options->slots < asked)
        sp_warn("%d slots of %d positions instead of %d: %llu MiB are free", options->slots,
                options->max_positions, asked, (unsigned long long)(usage.memory_free >> 20));
    return rc;
}

/* Where activations are bf16 anyhow, a checkpoint of bf16 stays so: half the memory, the same bits.
 */
static enum sp_err open_model(struct gen *gen, const char *dir, struct model **ret,
                              struct sp_error *err)
{
    struct model_config config;
    enum sp_err rc = model_config_load(dir, &config, err);
    if (rc != SP_OK)
        return rc;
    bool both = gen->backend->activations == TN_BF16 && config.dtype == TN_BF16;
    rc = tn_store_weights(gen->backend, both ? TN_BF16 : TN_F32, err);
    return rc == SP_OK ? model_open(gen->backend, dir, ret, err) : rc;
}

/* Weights from disk, packed for decoding. What was loaded goes first: memory is for one opponent.
 */
static enum sp_err load(struct engine *engine, const struct gen_lease *lease, struct sp_error *err)
{
    struct gen *gen = engine->gen;
    struct model *model = NULL;
    char hex[SP_DIGEST_HEX];
    sp_digest_hex(&lease->grant.checkpoint, hex);
    unload(engine);
    int64_t start_ms = sp_now_ms();
    enum sp_err rc = open_model(gen, gen_dir_path(lease->weights), &model, err);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "checkpoint %.12s", hex);
    int32_t positions = model_get_config(model)->max_positions;
    int64_t needed = gen_lease_positions(lease);
    needed = (needed + POSITIONS_STEP - 1) / POSITIONS_STEP * POSITIONS_STEP;
    struct model_decoder_options options = {
        .slots = (int32_t)gen->settings->slots,
        .queue = (int32_t)gen->settings->slots,
        .max_positions = (int32_t)SP_MIN(needed, (int64_t)positions),
        .rows_per_step = (int32_t)gen->settings->rows_per_step,
        .weights = lease->grant.weights_dtype == PROTO_WEIGHTS_F32 ? TN_F32 : TN_BF16,
        .activations = lease->grant.weights_dtype == PROTO_WEIGHTS_BF16_BOTH ? TN_BF16 : TN_F32,
        .cache = lease->grant.kv_dtype == 1 ? TN_BF16 : TN_F32,
        .takes_model = true,
    };
    rc = fit_slots(gen, model, &options, err);
    if (rc == SP_OK)
        rc = model_decoder_new(model, &options, &engine->decoder, err);
    else
        model_free(model);
    if (rc != SP_OK)
        return sp_wrap(err, rc, "checkpoint %.12s", hex);
    engine->loaded = gen_lease_weights(lease);
    engine->model_positions = positions;
    engine->cache_positions = options.max_positions;
    sp_info("loaded checkpoint %.12s for %s iteration %u in %lld ms (%d slots, %d positions)", hex,
            lease->grant.run, lease->grant.iteration, (long long)(sp_now_ms() - start_ms),
            options.slots, options.max_positions);
    return SP_OK;
}

static void post(struct engine *engine, struct gen_out *out)
{
    if (!sp_mailbox_put(engine->gen->outbox, out))
        free(out); /* closed: we are stopping */
}

/* The lease of this task can't be worked on: its queued items go back. What is wrong with the
 * weights is so for every worker; memory and disks are this one's own. */
static void give_back(struct engine *engine, struct gen_task *task, const struct sp_error *why)
{
    uint64_t id = task->lease->grant.lease_id;
    sp_errlog("lease %llu goes back: %s", (unsigned long long)id, why->text);
    gen_book_lose(&engine->book, id);
    bool of_all = why->code == SP_ENUMERIC || why->code == SP_EFORMAT;
    post(engine, gen_make_notice(GEN_OUT_RETURN, id, of_all ? why->text : ""));
}

static void handle(struct engine *engine, struct gen_event *event)
{
    if (event->lease != NULL) {
        gen_book_add(&engine->book, event->lease);
        engine->wanting = false;
    } else if (gen_book_lose(&engine->book, event->lost)) {
        sp_warn("lease %llu was lost; its work is dropped", (unsigned long long)event->lost);
        if (engine->book.in_flight > 0 && engine->book.in_flight_wanted == 0) {
            model_decoder_reset(engine->decoder);
            gen_book_reset(&engine->book);
        }
    }
    free(event);
}

static void want_more(struct engine *engine)
{
    if (engine->wanting || engine->book.queued >= gen_lease_size(engine->gen))
        return;
    engine->wanting = sp_mailbox_try_put(engine->gen->wants, engine->gen);
}

/* Puts queued items into the decoder, in order, loading weights when the next ones need others. */
static void fill(struct engine *engine)
{
    for (;;) {
        struct gen_task *task = gen_book_peek(&engine->book);
        if (task == NULL)
            return;
        struct sp_error err = {0};
        if (!serves(engine, task->lease)) {
            if (engine->book.in_flight > 0)
                return; /* what runs ends first */
            atomic_store(&engine->gen->counters.activity, GEN_LOADING);
            if (load(engine, task->lease, &err) != SP_OK) {
                unload(engine);
                give_back(engine, task, &err);
                continue;
            }
        }
        if (model_decoder_room(engine->decoder) <= 0)
            return;
        struct model_decoder_request request;
        enum sp_err rc = gen_make_request(task, engine->model_positions, &request, &err);
        if (rc == SP_OK)
            rc = model_decoder_submit(engine->decoder, &request, &err);
        if (rc == SP_EUNAVAIL)
            return;
        if (rc != SP_OK) {
            give_back(engine, task, &err);
            continue;
        }
        gen_book_start(&engine->book, task);
    }
}

static void collect(struct engine *engine)
{
    struct gen_counters *counters = &engine->gen->counters;
    struct model_decoder_result result;
    while (model_decoder_take_result(engine->decoder, &result)) {
        struct gen_task *task = result.user;
        post(engine, gen_make_result(task, &result));
        atomic_fetch_add(&counters->tokens_generated, (uint64_t)result.n_ids);
        atomic_fetch_add(&counters->tokens_scored,
                         (uint64_t)(result.answers[0].n + result.answers[1].n));
        uint64_t done;
        gen_book_finish(&engine->book, task, &done);
        if (done != 0)
            post(engine, gen_make_notice(GEN_OUT_DONE, done, ""));
    }
}

/* Weights whose logits are not finite: nothing in flight can be answered. */
static void give_up_all(struct engine *engine, const struct sp_error *why)
{
    model_decoder_reset(engine->decoder);
    gen_book_reset(&engine->book);
    struct gen_task *task;
    while ((task = gen_book_peek(&engine->book)) != NULL &&
           gen_lease_needs(task->lease, &engine->loaded))
        give_back(engine, task, why);
    unload(engine);
}

static void work(struct engine *engine)
{
    struct sp_error err = {0};
    bool idle = false;
    if (model_decoder_step(engine->decoder, &idle, &err) != SP_OK) {
        give_up_all(engine, &err);
        return;
    }
    collect(engine);
}

static void watchdog(struct engine *engine)
{
    int64_t now_ms = sp_now_ms();
    if (now_ms - engine->watchdog_ms < WATCHDOG_MS)
        return;
    engine->watchdog_ms = now_ms;
    sp_daemon_watchdog();
}

void gen_compute_run(struct gen *gen)
{
    struct engine engine = {.gen = gen};
    while (!gen_stopping(gen)) {
        watchdog(&engine);
        struct gen_event *event;
        while ((event = sp_mailbox_try_take(gen->inbox)) != NULL)
            handle(&engine, event);
        fill(&engine);
        want_more(&engine);
        atomic_store(&gen->counters.in_flight, (int)engine.book.in_flight);
        if (engine.book.in_flight > 0) {
            atomic_store(&gen->counters.activity, GEN_WORKING);
            work(&engine);
            continue;
        }
        atomic_store(&gen->counters.activity, GEN_IDLE);
        event = sp_mailbox_take(gen->inbox, IDLE_WAIT_MS);
        if (event != NULL)
            handle(&engine, event);
    }
    unload(&engine);
    gen_book_deinit(&engine.book);
}

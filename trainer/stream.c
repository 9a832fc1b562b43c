#include "trainer/stream.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mailbox.h"
#include "common/base/mem.h"

struct train_stream {
    struct train_stream_options options;
    struct worker_peer *peer;
    struct sp_mailbox *box; /* struct item */
    pthread_t thread;
    atomic_bool closing;
    atomic_uint_least64_t position; /* index that is waited for */
    struct sp_error failed;         /* compute thread's copy, code SP_OK: none */
};

struct item {
    struct train_batch *batch; /* NULL: an error, the last item */
    struct sp_error err;
};

uint64_t train_batches_per_pass(uint64_t plan_pairs, uint32_t batch_pairs)
{
    return (plan_pairs + batch_pairs - 1) / batch_pairs;
}

static enum sp_err fetch(struct train_stream *stream, struct train_batch *batch,
                         struct sp_error *err)
{
    const struct train_stream_options *o = &stream->options;
    while (batch->count < batch->wanted) {
        if (atomic_load(&stream->closing))
            return sp_fail(err, SP_ECANCELED, "stopped");
        atomic_store(&stream->position, batch->start + batch->count);
        struct proto_pairs_fetch request = {
            .run = o->run,
            .iteration = o->iteration,
            .epoch = o->epoch,
            .train_epoch = batch->pass,
            .start = batch->start + batch->count,
            .count = SP_MIN(batch->wanted - batch->count, (uint32_t)SP_MAX_FETCH_PAIRS),
            .wait_ms = worker_link_poll_ms(o->link),
        };
        const void *body;
        enum sp_err rc = worker_call(stream->peer, PROTO_PAIRS_FETCH, &request, -1, &body, err);
        if (rc != SP_OK)
            return sp_wrap(err, rc, "fetch pairs");
        const struct proto_pairs_fetch_reply *reply = body;
        rc = train_batch_append(batch, reply->pairs, reply->pairs_count, err);
        if (rc != SP_OK)
            return rc;
    }
    return SP_OK;
}

static void put(struct train_stream *stream, struct item *item)
{
    if (sp_mailbox_put(stream->box, item))
        return;
    train_batch_free(item->batch); /* closed */
    free(item);
}

static void *run(void *argument)
{
    struct train_stream *stream = argument;
    const struct train_stream_options *o = &stream->options;
    uint64_t per_pass = train_batches_per_pass(o->plan_pairs, o->batch_pairs);
    for (uint64_t i = o->first_batch; i < o->last_batch; i++) {
        uint64_t start = i % per_pass * o->batch_pairs;
        uint64_t wanted = SP_MIN((uint64_t)o->batch_pairs, o->plan_pairs - start);
        struct item *item = sp_xalloc(sizeof(*item));
        item->batch = train_batch_new((uint32_t)(i / per_pass), start, (uint32_t)wanted);
        enum sp_err rc = fetch(stream, item->batch, &item->err);
        if (rc != SP_OK) {
            item->err.code = rc;
            train_batch_free(item->batch);
            item->batch = NULL;
        }
        put(stream, item);
        if (rc != SP_OK || atomic_load(&stream->closing))
            break;
    }
    return NULL;
}

enum sp_err train_stream_start(const struct train_stream_options *options,
                               struct train_stream **ret, struct sp_error *err)
{
    struct train_stream *stream = sp_xalloc(sizeof(*stream));
    stream->options = *options;
    enum sp_err rc = worker_peer_open(options->link, &stream->peer, err);
    if (rc != SP_OK) {
        free(stream);
        return rc;
    }
    stream->box = sp_mailbox_new(options->prefetch, NULL, NULL);
    SP_ASSERT(pthread_create(&stream->thread, NULL, run, stream) == 0);
    *ret = stream;
    return SP_OK;
}

enum sp_err train_stream_take(struct train_stream *stream, int64_t timeout_ms,
                              struct train_batch **ret, struct sp_error *err)
{
    if (stream->failed.code != SP_OK)
        return sp_fail(err, stream->failed.code, "%s", stream->failed.text);
    struct item *item = sp_mailbox_take(stream->box, timeout_ms);
    if (item == NULL) {
        *ret = NULL;
        return SP_OK;
    }
    struct train_batch *batch = item->batch;
    if (batch == NULL)
        stream->failed = item->err;
    free(item);
    if (batch == NULL)
        return sp_fail(err, stream->failed.code, "%s", stream->failed.text);
    *ret = batch;
    return SP_OK;
}

uint64_t train_stream_position(const struct train_stream *stream)
{
    return atomic_load(&stream->position);
}

void train_stream_close(struct train_stream *stream)
{
    if (stream == NULL)
        return;
    atomic_store(&stream->closing, true);
    worker_peer_cancel(stream->peer);
    sp_mailbox_close(stream->box);
    pthread_join(stream->thread, NULL);
    struct item *item;
    while ((item = sp_mailbox_try_take(stream->box)) != NULL) {
        train_batch_free(item->batch);
        free(item);
    }
    sp_mailbox_free(stream->box);
    worker_peer_close(stream->peer);
    free(stream);
}

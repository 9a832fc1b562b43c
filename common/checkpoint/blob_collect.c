/* Collection of blobs that nothing refers to: marked, left alone for a while, deleted. */
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/checkpoint/blobstore_internal.h"

static int compare_marks(const void *a, const void *b)
{
    return memcmp(((const struct blob_mark *)a)->digest.bytes,
                  ((const struct blob_mark *)b)->digest.bytes, SP_DIGEST_BYTES);
}

/* With the mutex held. */
static struct blob_mark *find_mark(const struct ckpt_blobs *blobs, const struct sp_digest *digest)
{
    if (blobs->mark_count == 0)
        return NULL;
    struct blob_mark key = {.digest = *digest};
    return bsearch(&key, blobs->marks, blobs->mark_count, sizeof(key), compare_marks);
}

void blobs_in_use(struct ckpt_blobs *blobs, const struct sp_digest *digest)
{
    pthread_mutex_lock(&blobs->mutex);
    struct blob_mark *mark = find_mark(blobs, digest);
    if (mark)
        mark->since_ms = -1;
    pthread_mutex_unlock(&blobs->mutex);
}

enum ckpt_blob_fate ckpt_blob_fate(bool referenced, int64_t marked_ms, int64_t now_ms,
                                   int64_t grace_ms)
{
    if (referenced)
        return CKPT_BLOB_KEEP;
    if (marked_ms < 0)
        return CKPT_BLOB_MARK;
    return now_ms - marked_ms >= grace_ms ? CKPT_BLOB_DELETE : CKPT_BLOB_WAIT;
}

struct collect {
    struct ckpt_blobs *blobs;
    const struct ckpt_collect *ask;
    struct ckpt_collected *out;
    struct blob_mark *marks; /* the new ones */
    size_t mark_count, mark_capacity;
    struct blob_mark *doomed;
    size_t doomed_count;
};

static void add(struct blob_mark **list, size_t *count, const struct blob_mark *mark)
{
    if ((*count & (*count - 1)) == 0)
        *list = sp_xgrow(*list, *count ? *count * 2 : 1, sizeof(**list));
    (*list)[(*count)++] = *mark;
}

static bool look_at(void *context, const struct sp_digest *digest, uint64_t bytes)
{
    struct collect *c = context;
    struct ckpt_blobs *blobs = c->blobs;
    bool referenced = c->ask->referenced(c->ask->context, digest);
    pthread_mutex_lock(&blobs->mutex);
    const struct blob_mark *old = find_mark(blobs, digest);
    struct blob_mark mark = {.digest = *digest, .since_ms = old ? old->since_ms : -1};
    pthread_mutex_unlock(&blobs->mutex);
    switch (ckpt_blob_fate(referenced, mark.since_ms, c->ask->now_ms, c->ask->grace_ms)) {
    case CKPT_BLOB_KEEP:
        c->out->kept++;
        c->out->kept_bytes += bytes;
        return true;
    case CKPT_BLOB_MARK:
        mark.since_ms = c->ask->now_ms;
        break;
    case CKPT_BLOB_DELETE:
        add(&c->doomed, &c->doomed_count, &mark);
        break;
    case CKPT_BLOB_WAIT:
        break;
    }
    c->out->waiting++;
    c->out->waiting_bytes += bytes;
    add(&c->marks, &c->mark_count, &mark);
    return true;
}

/* The new marks take the place of the old ones; one that was lost meanwhile stays lost. */
static void install_marks(struct collect *c)
{
    struct ckpt_blobs *blobs = c->blobs;
    if (c->mark_count > 0)
        qsort(c->marks, c->mark_count, sizeof(*c->marks), compare_marks);
    pthread_mutex_lock(&blobs->mutex);
    for (size_t i = 0; i < c->mark_count; i++) {
        const struct blob_mark *old = find_mark(blobs, &c->marks[i].digest);
        if (old && old->since_ms < 0 && c->marks[i].since_ms != c->ask->now_ms)
            c->marks[i].since_ms = -1;
    }
    free(blobs->marks);
    blobs->marks = c->marks;
    blobs->mark_count = c->mark_count;
    c->marks = NULL;
    pthread_mutex_unlock(&blobs->mutex);
}

void ckpt_blobs_hold(struct ckpt_blobs *blobs)
{
    pthread_mutex_lock(&blobs->mutex);
    blobs->holds++;
    pthread_mutex_unlock(&blobs->mutex);
}

void ckpt_blobs_release(struct ckpt_blobs *blobs)
{
    pthread_mutex_lock(&blobs->mutex);
    SP_ASSERT(blobs->holds > 0);
    blobs->holds--;
    pthread_mutex_unlock(&blobs->mutex);
}

static bool still_marked(struct ckpt_blobs *blobs, const struct sp_digest *digest)
{
    const struct blob_mark *mark = find_mark(blobs, digest);
    return mark && mark->since_ms >= 0 && blobs->holds == 0;
}

static enum sp_err delete_doomed(struct collect *c, struct sp_error *err)
{
    for (size_t i = 0; i < c->doomed_count; i++) {
        uint64_t before = 0, after = 0, count = 0;
        bool deleted = false;
        ckpt_blobs_usage(c->blobs, &count, &before);
        enum sp_err rc =
            blobs_delete_if(c->blobs, &c->doomed[i].digest, still_marked, &deleted, err);
        if (rc != SP_OK)
            return rc;
        if (!deleted)
            continue;
        ckpt_blobs_usage(c->blobs, &count, &after);
        blobs_in_use(c->blobs, &c->doomed[i].digest); /* should it come again, it starts anew */
        c->out->deleted++;
        c->out->deleted_bytes += before > after ? before - after : 0;
    }
    return SP_OK;
}

enum sp_err ckpt_blobs_collect(struct ckpt_blobs *blobs, const struct ckpt_collect *ask,
                               struct ckpt_collected *ret, struct sp_error *err)
{
    *ret = (struct ckpt_collected){0};
    struct collect c = {.blobs = blobs, .ask = ask, .out = ret};
    enum sp_err rc = ckpt_blobs_each(blobs, look_at, &c, err);
    if (rc == SP_OK && !ask->dry_run) {
        install_marks(&c);
        rc = delete_doomed(&c, err);
    }
    free(c.marks);
    free(c.doomed);
    return rc;
}

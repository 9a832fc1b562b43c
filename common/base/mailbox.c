#include "common/base/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/mem.h"

struct sp_mailbox {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    void **items; /* ring of `capacity` */
    size_t capacity;
    size_t first;
    size_t count;
    bool closed;
    void (*wake)(void *context);
    void *context;
};

struct sp_mailbox *sp_mailbox_new(size_t capacity, void (*wake)(void *context), void *context)
{
    SP_ASSERT(capacity > 0);
    struct sp_mailbox *box = sp_xalloc(sizeof(*box));
    box->items = sp_xarray(capacity, sizeof(void *));
    box->capacity = capacity;
    box->wake = wake;
    box->context = context;
    pthread_condattr_t attributes;
    SP_ASSERT(pthread_condattr_init(&attributes) == 0);
    SP_ASSERT(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    SP_ASSERT(pthread_mutex_init(&box->lock, NULL) == 0);
    SP_ASSERT(pthread_cond_init(&box->not_empty, &attributes) == 0);
    SP_ASSERT(pthread_cond_init(&box->not_full, &attributes) == 0);
    pthread_condattr_destroy(&attributes);
    return box;
}

void sp_mailbox_free(struct sp_mailbox *box)
{
    if (box == NULL)
        return;
    pthread_cond_destroy(&box->not_empty);
    pthread_cond_destroy(&box->not_full);
    pthread_mutex_destroy(&box->lock);
    free(box->items);
    free(box);
}

/* The receiver is woken under the lock: it cannot take the item, stop and free the box (or close
 * its loop handle) before the sender has left. */
static bool put_locked(struct sp_mailbox *box, void *item)
{
    if (box->closed || box->count == box->capacity)
        return false;
    box->items[(box->first + box->count) % box->capacity] = item;
    box->count++;
    pthread_cond_signal(&box->not_empty);
    if (box->wake != NULL)
        box->wake(box->context);
    return true;
}

bool sp_mailbox_try_put(struct sp_mailbox *box, void *item)
{
    SP_ASSERT(item != NULL);
    pthread_mutex_lock(&box->lock);
    bool done = put_locked(box, item);
    pthread_mutex_unlock(&box->lock);
    return done;
}

bool sp_mailbox_put(struct sp_mailbox *box, void *item)
{
    SP_ASSERT(item != NULL);
    pthread_mutex_lock(&box->lock);
    while (!box->closed && box->count == box->capacity)
        pthread_cond_wait(&box->not_full, &box->lock);
    bool done = put_locked(box, item);
    pthread_mutex_unlock(&box->lock);
    return done;
}

static void *take_locked(struct sp_mailbox *box)
{
    if (box->count == 0)
        return NULL;
    void *item = box->items[box->first];
    box->first = (box->first + 1) % box->capacity;
    box->count--;
    pthread_cond_signal(&box->not_full);
    return item;
}

void *sp_mailbox_try_take(struct sp_mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    void *item = take_locked(box);
    pthread_mutex_unlock(&box->lock);
    return item;
}

static struct timespec deadline_after(int64_t timeout_ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += timeout_ms / 1000;
    t.tv_nsec += (timeout_ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

void *sp_mailbox_take(struct sp_mailbox *box, int64_t timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms < 0 ? 0 : timeout_ms);
    int rc = 0;
    pthread_mutex_lock(&box->lock);
    while (box->count == 0 && !box->closed && rc != ETIMEDOUT) {
        if (timeout_ms < 0)
            pthread_cond_wait(&box->not_empty, &box->lock);
        else
            rc = pthread_cond_timedwait(&box->not_empty, &box->lock, &deadline);
    }
    void *item = take_locked(box);
    pthread_mutex_unlock(&box->lock);
    return item;
}

void sp_mailbox_close(struct sp_mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    box->closed = true;
    pthread_cond_broadcast(&box->not_empty);
    pthread_cond_broadcast(&box->not_full);
    if (box->wake != NULL)
        box->wake(box->context);
    pthread_mutex_unlock(&box->lock);
}

size_t sp_mailbox_count(struct sp_mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    size_t count = box->count;
    pthread_mutex_unlock(&box->lock);
    return count;
}

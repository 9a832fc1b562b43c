#include "trainer/reporter.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mailbox.h"
#include "common/base/mem.h"

#define BOX_ITEMS 1024
#define PENDING_MAX 256
#define ACTIVITY_BYTES 160
#define RETRY_MS 500
#define GIVE_UP_MS 2000
#define WAIT_MS 200

struct train_reporter {
    struct train_reporter_options options;
    struct worker_peer *peer;
    struct sp_mailbox *box; /* struct item */
    pthread_t thread;
    atomic_int command;
    atomic_uint_least64_t acknowledged;
    atomic_bool closing;
    atomic_int_least64_t flush_until_ms;
    char reason[256]; /* written once, before command becomes TRAIN_LOST */
    /* the thread's own */
    char activity[ACTIVITY_BYTES];
    struct proto_step_metrics pending[PENDING_MAX];
    uint32_t count;
    int64_t oldest_ms, renew_ms, retry_ms;
    int64_t failed_ms; /* when a failure was said last; 0: all is well */
    uint64_t step;     /* newest one heard of */
};

struct item {
    bool is_step, is_flush; /* neither: an activity */
    struct proto_step_metrics metrics;
    char activity[ACTIVITY_BYTES];
};

static void command(struct train_reporter *r, enum train_command command)
{
    if ((int)command <= atomic_load(&r->command))
        return;
    atomic_store(&r->command, (int)command);
    if (r->options.on_command != NULL)
        r->options.on_command(r->options.context);
}

/* Errors that mean: this lease is over. */
static bool is_lost(enum sp_err rc)
{
    return rc == SP_ESTALE || rc == SP_ENOTFOUND || rc == SP_ESTATE || rc == SP_EDENIED;
}

static void note_failure(struct train_reporter *r, enum sp_err rc, const struct sp_error *err,
                         const char *what)
{
    if (is_lost(rc)) {
        if (atomic_load(&r->command) < TRAIN_LOST)
            snprintf(r->reason, sizeof(r->reason), "%.240s", err->text);
        command(r, TRAIN_LOST);
    } else if (rc != SP_ECANCELED && sp_log_due(&r->failed_ms)) {
        sp_warn("%s: %s", what, err->text);
    }
}

static void renew(struct train_reporter *r)
{
    const struct train_reporter_options *o = &r->options;
    struct tn_usage usage;
    tn_usage(o->backend, &usage);
    struct proto_trainer_renew request = {
        .run = o->run,
        .iteration = o->iteration,
        .epoch = o->epoch,
        .activity = r->activity,
        .step = r->step,
        .steps = o->steps_total,
        .memory_used = usage.memory_used,
        .memory_total = usage.memory_total,
        .busy = usage.busy,
    };
    struct sp_error err = {0};
    const void *body;
    enum sp_err rc = worker_call(r->peer, PROTO_TRAINER_RENEW, &request, GIVE_UP_MS, &body, &err);
    int64_t now_ms = sp_now_ms();
    if (rc != SP_OK) {
        note_failure(r, rc, &err, "lease not renewed");
        r->renew_ms = now_ms + RETRY_MS;
        return;
    }
    const struct proto_trainer_renew_reply *reply = body;
    r->failed_ms = 0;
    if (reply->command == PROTO_TRAINER_PAUSE)
        command(r, TRAIN_PAUSE);
    else if (reply->command == PROTO_TRAINER_CANCEL)
        command(r, TRAIN_CANCEL);
    int64_t every_ms = SP_MIN((int64_t)worker_link_renew_ms(o->link), (int64_t)o->lease_ms / 4);
    r->renew_ms = now_ms + SP_MAX(every_ms, (int64_t)1);
}

static void report(struct train_reporter *r, int64_t give_up_ms)
{
    const struct train_reporter_options *o = &r->options;
    struct proto_steps_report request = {
        .run = o->run,
        .iteration = o->iteration,
        .epoch = o->epoch,
        .steps_total = o->steps_total,
        .steps = r->pending,
        .steps_count = r->count,
    };
    struct sp_error err = {0};
    const void *body;
    enum sp_err rc = worker_call(r->peer, PROTO_STEPS_REPORT, &request, give_up_ms, &body, &err);
    if (rc != SP_OK) {
        note_failure(r, rc, &err, "metrics not handed in");
        r->retry_ms = sp_now_ms() + RETRY_MS;
        return;
    }
    atomic_store(&r->acknowledged, r->pending[r->count - 1].step);
    r->count = 0;
}

static void take(struct train_reporter *r, struct item *item)
{
    if (item->is_step) {
        if (r->count == 0)
            r->oldest_ms = sp_now_ms();
        r->pending[r->count++] = item->metrics;
        r->step = item->metrics.step;
    } else if (item->is_flush) {
        r->oldest_ms = INT64_MIN / 2;
    } else {
        memcpy(r->activity, item->activity, sizeof(r->activity));
    }
    free(item);
}

/* Takes everything that is there; waits for the first thing. */
static void collect(struct train_reporter *r, int64_t wait_ms)
{
    while (r->count < PENDING_MAX) {
        struct item *item = sp_mailbox_take(r->box, wait_ms);
        if (item == NULL)
            return;
        take(r, item);
        wait_ms = 0;
    }
    if (wait_ms > 0)
        sp_sleep_ms(wait_ms);
}

static void *run(void *argument)
{
    struct train_reporter *r = argument;
    while (!atomic_load(&r->closing) && atomic_load(&r->command) != TRAIN_LOST) {
        int64_t now_ms = sp_now_ms();
        if (now_ms >= r->renew_ms) {
            renew(r);
            continue;
        }
        bool due = r->count == PENDING_MAX ||
                   (r->count > 0 && now_ms - r->oldest_ms >= r->options.report_ms);
        if (due && now_ms >= r->retry_ms) {
            report(r, GIVE_UP_MS);
            continue;
        }
        int64_t wait_ms = SP_MIN((int64_t)WAIT_MS, r->renew_ms - now_ms);
        collect(r, SP_MAX(SP_MIN(wait_ms, r->options.report_ms), (int64_t)1));
    }
    while (atomic_load(&r->command) != TRAIN_LOST) {
        collect(r, 0);
        int64_t left_ms = atomic_load(&r->flush_until_ms) - sp_now_ms();
        if (r->count == 0 || left_ms <= 0)
            break;
        report(r, left_ms);
        if (r->count > 0)
            sp_sleep_ms(WAIT_MS / 4);
    }
    return NULL;
}

enum sp_err train_reporter_start(const struct train_reporter_options *options,
                                 struct train_reporter **ret, struct sp_error *err)
{
    struct train_reporter *r = sp_xalloc(sizeof(*r));
    r->options = *options;
    snprintf(r->activity, sizeof(r->activity), "starting");
    enum sp_err rc = worker_peer_open(options->link, &r->peer, err);
    if (rc != SP_OK) {
        free(r);
        return rc;
    }
    r->box = sp_mailbox_new(BOX_ITEMS, NULL, NULL);
    SP_ASSERT(pthread_create(&r->thread, NULL, run, r) == 0);
    *ret = r;
    return SP_OK;
}

enum train_command train_reporter_command(const struct train_reporter *r)
{
    return (enum train_command)atomic_load(&r->command);
}

const char *train_reporter_reason(const struct train_reporter *r)
{
    return r->reason;
}

void train_reporter_step(struct train_reporter *r, const struct proto_step_metrics *metrics)
{
    struct item *item = sp_xalloc(sizeof(*item));
    item->is_step = true;
    item->metrics = *metrics;
    while (!sp_mailbox_try_put(r->box, item)) {
        if (train_reporter_command(r) == TRAIN_LOST) {
            free(item);
            return;
        }
        sp_sleep_ms(WAIT_MS / 20);
    }
}

void train_reporter_activity(struct train_reporter *r, const char *format, ...)
{
    struct item *item = sp_xalloc(sizeof(*item));
    va_list args;
    va_start(args, format);
    vsnprintf(item->activity, sizeof(item->activity), format, args);
    va_end(args);
    if (!sp_mailbox_try_put(r->box, item))
        free(item); /* for people only */
}

void train_reporter_flush(struct train_reporter *r)
{
    struct item *item = sp_xalloc(sizeof(*item));
    item->is_flush = true;
    if (!sp_mailbox_try_put(r->box, item))
        free(item); /* so much is waiting that it goes anyway */
}

uint64_t train_reporter_acknowledged(const struct train_reporter *r)
{
    return atomic_load(&r->acknowledged);
}

void train_reporter_close(struct train_reporter *r, int64_t flush_ms)
{
    if (r == NULL)
        return;
    atomic_store(&r->flush_until_ms, sp_now_ms() + flush_ms);
    atomic_store(&r->closing, true);
    worker_peer_interrupt(r->peer); /* one call ends; the flush has others */
    pthread_join(r->thread, NULL);
    struct item *item;
    while ((item = sp_mailbox_try_take(r->box)) != NULL)
        free(item);
    sp_mailbox_free(r->box);
    worker_peer_close(r->peer);
    free(r);
}

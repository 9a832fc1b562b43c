#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/daemon.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "generator/generator.h"

#define PENDING_MAX 4096        /* results held here; the outbox holds back the rest */
#define SUBMIT_BYTES (2u << 20) /* ids in one submission: well below a message */
#define PAUSE_AFTER_FAILURE_MS 500
#define WAIT_STEP_MS 200

/* What the submit thread owns. */
struct submitter {
    struct gen *gen;
    struct gen_out *pending[PENDING_MAX]; /* in the order in which they came */
    uint32_t count;
    uint32_t notices;  /* of them, no results: what is before them goes at once */
    int64_t renew_ms;  /* when the next renewal is due */
    int64_t retry_ms;  /* no submission before this */
    int64_t failed_ms; /* when it was said last that the coordinator does not answer; 0: it does */
    int64_t report_ms; /* when the next line of progress is due */
    uint64_t reported_tokens;
    int64_t reported_at_ms;
    double tokens_per_s;
    struct proto_work_result results[SP_MAX_SUBMIT_RESULTS];
};

void gen_on_leases_lost(void *context, const uint64_t *leases, uint32_t count)
{
    struct gen *gen = context;
    for (uint32_t i = 0; i < count; i++) {
        struct gen_event *event = sp_xalloc(sizeof(*event));
        event->lost = leases[i];
        /* A full inbox only costs the work on a lease whose results are refused later. */
        if (!sp_mailbox_try_put(gen->inbox, event))
            free(event);
    }
}

static void hold(struct submitter *s, struct gen_out *out)
{
    s->notices += out->kind != GEN_OUT_RESULT;
    s->pending[s->count++] = out;
}

static void forget(struct submitter *s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        s->notices -= s->pending[i]->kind != GEN_OUT_RESULT;
        free(s->pending[i]);
    }
    memmove(s->pending, s->pending + n, (s->count - n) * sizeof(*s->pending));
    s->count -= n;
}

/* Results at the head of the queue that belong to one lease: what one submission takes. */
static uint32_t head_run(const struct submitter *s, uint32_t limit)
{
    const struct gen_out *first = s->pending[0];
    size_t bytes = 0;
    uint32_t n = 0;
    while (n < s->count && n < limit) {
        const struct gen_out *out = s->pending[n];
        bytes += out->result.ids.count * sizeof(int32_t);
        if (out->kind != GEN_OUT_RESULT || out->lease_id != first->lease_id ||
            (n > 0 && bytes > SUBMIT_BYTES))
            break;
        n++;
    }
    return n;
}

/* Whether an error means that the coordinator will never take these results. */
static bool is_refusal(enum sp_err rc)
{
    return rc == SP_EINVAL || rc == SP_EFORMAT || rc == SP_ENOTFOUND || rc == SP_ESTATE ||
           rc == SP_ELIMIT || rc == SP_ESTALE || rc == SP_EEXIST || rc == SP_EDENIED;
}

/* For tests and for people who look for a pair: what the coordinator has promised to keep. */
static void log_acknowledged(const struct submitter *s, uint32_t n)
{
    struct sp_buf text = SP_BUF_INIT;
    for (uint32_t i = 0; i < n; i++)
        sp_buf_printf(&text, " %u:%llu", s->results[i].set,
                      (unsigned long long)s->results[i].position);
    sp_debug("acknowledged: %s iteration %u:%s", s->pending[0]->run, s->pending[0]->iteration,
             text.data);
    sp_buf_deinit(&text);
}

static void submit_results(struct submitter *s, uint32_t n, int64_t give_up_ms)
{
    const struct gen_out *first = s->pending[0];
    for (uint32_t i = 0; i < n; i++)
        s->results[i] = s->pending[i]->result;
    struct proto_submit request = {
        .run = first->run,
        .iteration = first->iteration,
        .lease_id = first->lease_id,
        .checkpoint = first->checkpoint,
        .results = s->results,
        .results_count = n,
        .born = first->born,
    };
    const void *body;
    struct sp_error err = {0};
    enum sp_err rc =
        worker_call(s->gen->submit_peer, PROTO_SUBMIT, &request, give_up_ms, &body, &err);
    if (rc == SP_OK) {
        const struct proto_submit_reply *reply = body;
        atomic_fetch_add(&s->gen->counters.results, reply->stored);
        if (reply->refused > 0)
            sp_info("%u of %u results were not wanted any more", reply->refused, n);
        else if (sp_log_shows(SP_LOG_DEBUG))
            log_acknowledged(s, n);
        forget(s, n);
    } else if (is_refusal(rc)) {
        sp_warn("%u results of lease %llu were refused: %s", n, (unsigned long long)first->lease_id,
                err.text);
        forget(s, n);
    } else {
        if (rc != SP_ECANCELED && sp_log_due(&s->failed_ms))
            sp_warn("%u results wait for the coordinator: %s", s->count, err.text);
        s->retry_ms = sp_now_ms() + PAUSE_AFTER_FAILURE_MS;
    }
}

static void return_leases(struct submitter *s, const uint64_t *leases, uint32_t count,
                          const char *failure, int64_t give_up_ms)
{
    struct proto_lease_return request = {.leases = {.values = leases, .count = count},
                                         .failure = failure};
    const void *reply;
    struct sp_error err = {0};
    if (worker_call(s->gen->submit_peer, PROTO_LEASE_RETURN, &request, give_up_ms, &reply, &err) !=
        SP_OK)
        sp_debug("leases not given back: %s", err.text); /* they expire by themselves */
}

/* Deals with the head of the queue. */
static void flush_head(struct submitter *s, int64_t give_up_ms)
{
    struct gen_out *first = s->pending[0];
    switch (first->kind) {
    case GEN_OUT_RESULT:
        submit_results(s, head_run(s, (uint32_t)s->gen->settings->submit_items), give_up_ms);
        return;
    case GEN_OUT_RETURN:
        worker_link_drop(s->gen->link, first->lease_id);
        return_leases(s, &first->lease_id, 1, first->failure, give_up_ms);
        forget(s, 1);
        return;
    case GEN_OUT_DONE:
        worker_link_drop(s->gen->link, first->lease_id);
        forget(s, 1);
        return;
    }
}

static bool flush_is_due(const struct submitter *s, int64_t now_ms)
{
    if (s->count == 0 || now_ms < s->retry_ms)
        return false;
    const struct gen_settings *settings = s->gen->settings;
    /* A lease that is complete waits for no others. */
    return s->notices > 0 || s->count >= settings->submit_items ||
           now_ms - s->pending[0]->since_ms >= settings->submit_ms;
}

static const char *activity_text(struct gen *gen, char *text, size_t bytes)
{
    static const char *const names[] = {"waiting for work", "loading weights", "sampling"};
    int activity = atomic_load(&gen->counters.activity);
    snprintf(text, bytes, "%s, %d in flight", names[activity],
             atomic_load(&gen->counters.in_flight));
    if (activity == GEN_IDLE && atomic_load(&gen->counters.disk_fails))
        return "waits for its disk: its log says why";
    if (activity == GEN_IDLE && atomic_load(&gen->counters.fetching))
        return "fetching weights";
    return activity == GEN_WORKING ? text : names[activity];
}

static void renew(struct submitter *s)
{
    struct gen *gen = s->gen;
    char text[64];
    uint64_t *held;
    uint32_t n_held = worker_link_held(gen->link, &held);
    struct tn_usage usage;
    tn_usage(gen->backend, &usage);
    struct proto_renew request = {
        .leases = {.values = held, .count = n_held},
        .tokens_generated = atomic_load(&gen->counters.tokens_generated),
        .tokens_scored = atomic_load(&gen->counters.tokens_scored),
        .tokens_per_s = s->tokens_per_s,
        .memory_used = usage.memory_used,
        .memory_total = usage.memory_total,
        .busy = usage.busy,
        .activity = activity_text(gen, text, sizeof(text)),
    };
    const void *body;
    struct sp_error err = {0};
    enum sp_err rc = worker_call(gen->submit_peer, PROTO_RENEW, &request, 0, &body, &err);
    free(held);
    if (rc != SP_OK) {
        if (rc != SP_ECANCELED && sp_log_due(&s->failed_ms))
            sp_warn("leases not renewed: %s", err.text);
        s->renew_ms = sp_now_ms() + PAUSE_AFTER_FAILURE_MS;
        return;
    }
    const struct proto_renew_reply *reply = body;
    s->failed_ms = 0;
    for (uint32_t i = 0; i < reply->lost.count; i++)
        worker_link_drop(gen->link, reply->lost.values[i]);
    gen_on_leases_lost(gen, reply->lost.values, reply->lost.count);
    s->renew_ms = sp_now_ms() + worker_link_renew_ms(gen->link);
}

static void report(struct submitter *s, int64_t now_ms)
{
    struct gen *gen = s->gen;
    uint64_t generated = atomic_load(&gen->counters.tokens_generated);
    uint64_t tokens = generated + atomic_load(&gen->counters.tokens_scored);
    double seconds = (double)(now_ms - s->reported_at_ms) / 1000.0;
    s->tokens_per_s = seconds > 0 ? (double)(tokens - s->reported_tokens) / seconds : 0;
    bool news = tokens != s->reported_tokens;
    s->reported_tokens = tokens;
    s->reported_at_ms = now_ms;
    s->report_ms = now_ms + gen->settings->report_ms;
    char text[64];
    const char *activity = activity_text(gen, text, sizeof(text));
    if (news)
        sp_info("%s: %.0f tokens/s, %llu answers stored, %llu tokens sampled", activity,
                s->tokens_per_s, (unsigned long long)atomic_load(&gen->counters.results),
                (unsigned long long)generated);
    sp_daemon_status("%s, %.0f tokens/s", activity, s->tokens_per_s);
}

/* Hands in what is there and gives the leases back, as far as the time allows. */
static void finish(struct submitter *s)
{
    int64_t end_ms = sp_now_ms() + s->gen->settings->stop_ms;
    int64_t flush_end_ms = end_ms - s->gen->settings->stop_ms / 3; /* the rest is for the leases */
    struct gen_out *out;
    s->retry_ms = 0;
    for (;;) {
        while (s->count < PENDING_MAX && (out = sp_mailbox_take(s->gen->outbox, 0)) != NULL)
            hold(s, out);
        int64_t left_ms = flush_end_ms - sp_now_ms();
        if (s->count == 0 || left_ms <= 0)
            break;
        flush_head(s, left_ms);
    }
    uint64_t *held;
    uint32_t n_held = worker_link_held(s->gen->link, &held);
    int64_t left_ms = end_ms - sp_now_ms();
    if (n_held > 0 && left_ms > 0)
        return_leases(s, held, n_held, "", left_ms);
    sp_info("stopping: %u results not handed in, %u leases given back", s->count, n_held);
    free(held);
    forget(s, s->count);
}

void *gen_submit_thread(void *argument)
{
    struct gen *gen = argument;
    struct submitter *s = sp_xalloc(sizeof(*s));
    s->gen = gen;
    s->reported_at_ms = sp_now_ms();
    s->report_ms = s->reported_at_ms + gen->settings->report_ms;
    while (!gen_stopping(gen)) {
        int64_t now_ms = sp_now_ms();
        if (now_ms >= s->report_ms)
            report(s, now_ms);
        if (now_ms >= s->renew_ms)
            renew(s);
        if (flush_is_due(s, now_ms)) {
            flush_head(s, worker_link_renew_ms(gen->link) / 2);
            continue;
        }
        struct gen_out *out = s->count < PENDING_MAX
                                  ? sp_mailbox_take(gen->outbox, SP_MIN((int64_t)WAIT_STEP_MS,
                                                                        gen->settings->submit_ms))
                                  : NULL;
        if (out != NULL)
            hold(s, out);
        else if (s->count == PENDING_MAX)
            sp_sleep_ms(WAIT_STEP_MS);
    }
    finish(s);
    free(s);
    return NULL;
}

/* generator: the threads of spin-generator and what passes between them.
 *
 *     main thread      compute: owns backend, model, decoder and the book of leases (compute.c)
 *     lease thread     asks for leases ahead of need, fetches their weights (leases.c)
 *     submit thread    hands results in, renews leases, writes progress (submit.c)
 *
 *                 wants                                   outbox
 *     compute ───────────> lease thread       compute ───────────────> submit thread
 *     compute <─────────── lease thread       compute <─────────────── submit thread
 *                 inbox                                   inbox (leases lost)
 *
 * A result is forgotten only when the coordinator has acknowledged it. The process holds nothing
 * else that matters: killed, it loses the time that its leases take to be given to others. */
#ifndef SPIN_GENERATOR_GENERATOR_H
#define SPIN_GENERATOR_GENERATOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/mailbox.h"
#include "common/checkpoint/materialise.h"
#include "common/tensor/backend.h"
#include "common/worker/link.h"
#include "common/worker/serve.h"
#include "generator/book.h"
#include "generator/settings.h"

/* To the compute thread; malloc'd, freed by it. */
struct gen_event {
    struct gen_lease *lease; /* a new lease, or NULL: */
    uint64_t lost;           /* this one is not ours any more */
};

enum gen_out_kind {
    GEN_OUT_RESULT, /* a finished item */
    GEN_OUT_DONE,   /* every result of the lease has gone into the outbox */
    GEN_OUT_RETURN, /* the lease can't be worked on here: give it back */
};

/* To the submit thread; malloc'd in one piece with its ids, freed there. */
struct gen_out {
    enum gen_out_kind kind;
    uint64_t lease_id;
    int64_t since_ms; /* when it was made */
    char run[SP_MAX_RUN_NAME + 1];
    uint32_t iteration;
    struct sp_digest checkpoint;
    uint64_t born; /* of the grant */
    struct proto_work_result result;
    const char *failure; /* GEN_OUT_RETURN: why no worker can do it; empty: another one may */
    int32_t ids[];       /* what result.ids, or failure, points to */
};

enum gen_activity { GEN_IDLE, GEN_LOADING, GEN_WORKING };

/* Written by one thread each, read by the submit thread for people. */
struct gen_counters {
    atomic_uint_least64_t tokens_generated, tokens_scored, results, leases;
    atomic_int activity;    /* enum gen_activity of the compute thread */
    atomic_bool fetching;   /* the lease thread gets weights */
    atomic_bool disk_fails; /* the last time that it tried, they could not be written */
    atomic_int in_flight;   /* items in the decoder */
};

struct gen {
    const struct gen_settings *settings;
    struct tn_backend *backend;
    struct worker_link *link;
    struct ckpt_cache *cache;
    struct worker_server *server; /* NULL: gives no chunks to others */
    /* used by their threads only, but for waking them */
    struct worker_peer *_Atomic lease_peer, *_Atomic submit_peer;
    struct sp_mailbox *inbox;  /* struct gen_event */
    struct sp_mailbox *wants;  /* the struct gen itself: one more lease, please */
    struct sp_mailbox *outbox; /* struct gen_out */
    struct gen_counters counters;
    atomic_bool stop;  /* set by gen_stop */
    atomic_int failed; /* enum sp_err that ended it, SP_OK: asked to stop */
};

void gen_init(struct gen *gen, const struct gen_settings *settings); /* settings borrowed */
void gen_deinit(struct gen *gen);                                    /* after gen_run */
/* Main thread: joins the coordinator and works until gen_stop. */
enum sp_err gen_run(struct gen *gen, struct tn_backend *backend, struct sp_error *err) SP_MUST_USE;
/* Any thread: ends all three. rc: why (SP_OK: asked to). */
void gen_stop(struct gen *gen, enum sp_err rc);
bool gen_stopping(const struct gen *gen);
uint32_t gen_lease_size(const struct gen *gen); /* items asked for at once */

/* compute.c, on the main thread: until stopped. */
void gen_compute_run(struct gen *gen);
/* leases.c: thread function; argument: struct gen. */
void *gen_lease_thread(void *argument);
/* submit.c: thread function. Ends when stopped and the outbox is closed and handed in (or the time
 * for that is over). */
void *gen_submit_thread(void *argument);
void gen_on_leases_lost(void *context, const uint64_t *leases, uint32_t count); /* worker_on_lost */

/* work.c: what an item asks of the decoder, and what the decoder's answer says to the coordinator.
 */
struct model_decoder_request;
struct model_decoder_result;
/* max_positions: the model's. SP_ELIMIT: prompt or answers don't fit the model. */
enum sp_err gen_make_request(const struct gen_task *task, int32_t max_positions,
                             struct model_decoder_request *ret, struct sp_error *err) SP_MUST_USE;
struct gen_out *gen_make_result(const struct gen_task *task,
                                const struct model_decoder_result *result);
struct gen_out *gen_make_notice(enum gen_out_kind kind, uint64_t lease_id, const char *failure);
/* Prompt number in the key of the draws: sets are kept apart by offsets. */
uint32_t gen_draw_prompt(uint32_t set, uint32_t prompt);

#endif

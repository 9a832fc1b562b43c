/* core_fixture: a core on a real store, stepped by hand: writes are committed at once (or held
 * back), the other threads' work is done at once, replies are kept by the handle of their request.
 */
#ifndef SPIN_TESTS_CORE_FIXTURE_H
#define SPIN_TESTS_CORE_FIXTURE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "tests/sim/world.h"
#include "tests/unit/check_main.h"

#define CF_REQUESTS 4096
#define CF_TRAIN 12

struct cf_reply {
    bool there;
    enum sp_err status; /* SP_OK: body */
    uint32_t retry_after_ms;
    char text[512];
    const void *body;   /* struct proto_<type>_reply */
    const char *json;   /* of an admin reply */
};

struct cf {
    struct world world;
    struct coord_core *core;
    struct coord_times times;
    struct sp_arena *arena;
    int64_t now;
    uint64_t handles, instances, requests;
    struct cf_reply replies[CF_REQUESTS];
    const struct coord_write *held[256];
    uint32_t held_count;
    bool hold;             /* writes are not committed until cf_release */
    bool hold_work;        /* verification and verdicts are not done until cf_finish */
    bool verify_fails;
    struct coord_action waiting; /* held verification or verdict */
    bool is_waiting;
    struct sp_digest *roots; /* of the newest collection */
    uint32_t root_count, collections;
    uint32_t evaluations; /* COORD_DO_EVALUATE that came out */
    bool retain;
    const char *token_id;   /* of who asks; NULL: "token" */
    const char *runs;       /* that it may touch; NULL: all */
    const char *class_name; /* of workers that say hello */
};

/* settings: INI lines beside the world's, or NULL. */
void cf_open(struct cf *fx, const char *settings);
void cf_close(struct cf *fx);
/* The coordinator dies (what is held is lost) and starts again. */
void cf_restart(struct cf *fx);
/* The same; the core has these options, but for its times and its instance. */
void cf_restart_with(struct cf *fx, struct coord_options options);
void cf_tick(struct cf *fx, int64_t ms); /* time passes, in ticks of 50 ms */
void cf_release(struct cf *fx);          /* commits what is held, and goes on committing at once */
void cf_finish(struct cf *fx);           /* does the held work */

/* Sends; the handle of the request. */
uint64_t cf_send(struct cf *fx, enum proto_role role, enum proto_type type, const void *body);
/* Sends, and wants an answer at once. */
const struct cf_reply *cf_ask(struct cf *fx, enum proto_role role, enum proto_type type,
                              const void *body);
const struct cf_reply *cf_reply(struct cf *fx, uint64_t handle);

void cf_collected(struct cf *fx);        /* the collection is done */
void cf_evaluated(struct cf *fx, enum sp_err status); /* the making of an evaluation ended so */

/* Shorter. Verbs: args "" or JSON. */
const struct cf_reply *cf_verb(struct cf *fx, const char *verb, const char *args);
uint64_t cf_hello(struct cf *fx, enum proto_role role, const char *name); /* worker_id */
/* The hello of a generator's process that takes the name "x". */
struct proto_hello cf_hello_of(uint64_t instance);
/* A claim of all items of a lease; ret_positions: room for them, borrowed by the claim. */
struct proto_claim cf_claim_of(const struct proto_lease_reply *grant, uint64_t *ret_positions);
/* A generator that holds leases from before. */
const struct proto_hello_reply *cf_hello_claiming(struct cf *fx, const char *name,
                                                  struct proto_claim *claims, uint32_t count);
/* A grant for a generator, which must come at once; max_items of at most 64. */
const struct proto_lease_reply *cf_lease(struct cf *fx, uint64_t worker, uint32_t max_items);
uint64_t cf_poll(struct cf *fx, uint64_t worker, uint32_t max_items, uint32_t wait_ms);
/* Answers items [first, first + count) of a lease. */
struct proto_submit *cf_answers(struct cf *fx, uint64_t worker,
                                const struct proto_lease_reply *lease, uint32_t first,
                                uint32_t count);
const struct proto_submit_reply *cf_submit(struct cf *fx, uint64_t worker,
                                           const struct proto_lease_reply *lease, uint32_t first,
                                           uint32_t count);
/* The generator works until there is nothing left for it. */
void cf_work_all(struct cf *fx, uint64_t worker);
/* The trainer's lease, granted or not; NULL: no answer yet. */
const struct proto_trainer_lease_reply *cf_train(struct cf *fx, uint64_t worker);
const struct cf_reply *cf_fetch(struct cf *fx, uint64_t worker,
                                const struct proto_trainer_lease_reply *lease, uint64_t start,
                                uint32_t count);
const struct cf_reply *cf_trainer_renew(struct cf *fx, uint64_t worker,
                                        const struct proto_trainer_lease_reply *lease);
const struct cf_reply *cf_publish_begin(struct cf *fx, uint64_t worker,
                                        const struct proto_trainer_lease_reply *lease);
const struct cf_reply *cf_publish_commit(struct cf *fx, uint64_t worker,
                                         const struct proto_trainer_lease_reply *lease);

enum coord_state cf_state(struct cf *fx);
const char *cf_reason(struct cf *fx);
uint32_t cf_number(struct cf *fx);

#define CF_STATE(fx, expected)                                                                     \
    ck_assert_msg(cf_state(fx) == (expected), "state %s, expected %s: %s",                         \
                  coord_state_name(cf_state(fx)), coord_state_name(expected), cf_reason(fx))
#define CF_OK(reply)                                                                               \
    do {                                                                                           \
        const struct cf_reply *cf_ok = (reply);                                                    \
        ck_assert_msg(cf_ok->there && cf_ok->status == SP_OK, "%s: %s: %s", #reply,                \
                      cf_ok->there ? sp_err_name(cf_ok->status) : "no answer", cf_ok->text);       \
    } while (0)
#define CF_FAILS(code, reply)                                                                      \
    do {                                                                                           \
        const struct cf_reply *cf_bad = (reply);                                                   \
        ck_assert_msg(cf_bad->there && cf_bad->status == (code), "%s: %s, expected %s: %s",        \
                      #reply, cf_bad->there ? sp_err_name(cf_bad->status) : "no answer", #code,    \
                      cf_bad->text);                                                               \
    } while (0)

#endif

/* core_internal: the state of a core, shared by its files and by nothing else. */
#ifndef SPIN_COORDINATOR_CORE_INTERNAL_H
#define SPIN_COORDINATOR_CORE_INTERNAL_H

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/names.h"
#include "coordinator/core_sources.h"
#include "coordinator/map.h"
#include "coordinator/rate.h"

#define COORD_MAX_DEATHS 5      /* of leases with a key, before the iteration pauses */
#define COORD_DURATIONS 64      /* finished leases that the median is taken over */
#define COORD_OLD_INSTANCES 8   /* replaced processes of a name that are recognised */
#define COORD_NEVER INT64_MAX

/* ---- items ---- */

/* KEY_REVOKED: its result is being dropped; counts as leased until then. */
enum coord_key_state {
    KEY_FREE,
    KEY_LEASED,
    KEY_LEASED_TWICE,
    KEY_STORED,
    KEY_SKIPPED,
    KEY_REVOKED,
};

/* Whether a stored result is made again by another worker (verify.c). */
enum coord_check_state {
    CHECK_NONE,
    CHECK_WANTED,
    CHECK_LEASED,
    CHECK_PASSED,
    CHECK_DISPUTED,        /* two workers gave different bits: a third decides */
    CHECK_DISPUTED_LEASED,
};

/* The items of one work set of the open iteration. */
struct coord_set {
    uint32_t count;
    uint32_t stored, leased, skipped; /* free = count − the three */
    uint8_t *state;                   /* [count] enum coord_key_state */
    uint8_t *deaths;                  /* [count] leases that died with it */
    uint32_t *order, *rank; /* [count] order of handing out and its inverse; NULL: identity */
    uint32_t cursor;                  /* no free key has a lower rank */
    uint32_t *owner;                  /* [count] core_name of who made the stored result; 0: none */
    uint8_t *check;                   /* [count] enum coord_check_state */
    uint32_t checks;                  /* wanted, leased or disputed */
    uint32_t *check_list;             /* owned: their positions, and some that are over */
    uint32_t check_list_count, check_list_capacity;
};

/* Two different results of one key. */
struct coord_dispute {
    enum proto_set set;
    uint32_t position;
    uint32_t other;                   /* core_name of who gave the one that is not stored */
    struct sp_digest answer;          /* of that one */
};

struct coord_iteration {
    uint32_t number;
    enum coord_state state, resume;
    bool pending;                     /* a change of state is being written */
    char *reason;                     /* owned or NULL */
    uint64_t attempt;
    int64_t since_ms;                 /* of the state */
    int64_t reclaim_until_ms;         /* loaded: until then only leases from before are taken up */
    struct sp_digest opponent, opponent_manifest, checkpoint, checkpoint_manifest;
    struct sp_digest plan_digest;
    struct sp_digest upload;          /* manifest of the publication under way; zero: not known */
    struct plan plan;
    struct coord_set sets[COORD_SET_COUNT];
    uint8_t *source_skipped;          /* [plan.replay_pairs] owned; NULL: none */
    bool generated;                   /* COORD_W_GENERATED was asked for */
    uint64_t refs_stored;
    /* order = gap */
    bool ordering;                    /* COORD_DO_ORDER is out */
    uint32_t *gap_order;              /* owned; NULL: not yet */
    /* order of the pass that the trainer reads now */
    bool work_order_asked;            /* COORD_DO_ORDER of pass 0 is out */
    bool pass_asked;                  /* that of asked_pass is, for the trainer */
    uint32_t asked_pass;
    uint32_t *pass_order;             /* owned */
    uint32_t pass;
    struct coord_dispute *disputes;   /* owned */
    uint32_t dispute_count;
    uint64_t checked;                 /* results that another worker has confirmed */
    /* Snapshots of epochs below rewind_epoch with more than rewind_steps steps are of no use. */
    uint64_t rewind_epoch, rewind_steps;
    uint64_t fetched_steps;           /* steps that the pairs handed to the trainer may have made */
    /* trainer */
    uint64_t epoch;
    uint64_t holder;                  /* worker id; 0: nobody */
    char *holder_name;                /* of the current epoch, after a restart; owned or NULL */
    bool granting;                    /* an epoch is being written */
    bool adoptable;                   /* nobody holds it, but the epoch's holder may come back */
    int64_t adopt_until_ms;           /* until then no other trainer is granted the run */
    int64_t holder_seen_ms;
    bool holder_heard;                /* it has said something since the grant */
    uint64_t grant_request;           /* request_id of the current grant */
    /* what the trainer waits for */
    bool awaiting;
    uint32_t awaited;                 /* position */
    int64_t awaited_since_ms;
    /* progress */
    uint64_t step, steps_total;
    struct proto_step_metrics first_step, last_step;
    uint64_t tokens_trained, identical, pairs_trained, milliseconds;
    char *trainer_activity;           /* owned or NULL */
    struct coord_rate pair_rate, token_rate, train_rate;
    /* publication */
    bool verifying;
    struct coord_write *publish;      /* filled at commit, written when verified; owned */
    /* verdict */
    bool judging;
    char *verdict;                    /* closed: owned */
    bool accepted;
};

struct coord_run {
    struct coord_run_info info;
    struct sp_digest accepted, accepted_manifest;
    uint32_t next_iteration;
    char *numerics_class;             /* owned; "": not pinned */
    bool pinning;
    int32_t priority;                 /* higher ones get workers first */
    struct coord_iteration *iteration; /* newest, or NULL */
    bool evaluate_due;                /* an evaluation may be missing */
    bool evaluating;                  /* COORD_DO_EVALUATE is out */
    bool evaluate_again;              /* ask again with the next tick */
    uint64_t last_grant;              /* sequence number, for turns between runs */
    int64_t median_ms;                /* 0: unknown */
    int64_t durations[COORD_DURATIONS];
    uint32_t duration_count;
    bool starting;                    /* COORD_W_START is being written */
    uint32_t live;                    /* generators, as counted at live_ms */
    int64_t live_ms;
    uint64_t live_version;            /* of the core's fit_version; 0: not counted yet */
};

/* ---- workers and leases ---- */

struct coord_worker {
    uint64_t id;
    enum proto_role role;
    char *name, *host, *device, *version, *numerics_class, *token_id, *activity; /* owned */
    char *serve, *serve_name;         /* where it gives chunks; owned; "": nowhere */
    uint64_t instance;
    uint64_t old_instances[COORD_OLD_INSTANCES];
    uint32_t old_count;
    uint32_t slots;
    int64_t seen_ms, hello_ms;
    bool spoke;                       /* asked for something since this instance's first hello */
    int64_t idle_since_ms;            /* since when it has no lease */
    uint32_t leases;
    struct coord_lease *first_lease;  /* those that have not lapsed, linked */
    uint64_t tokens_generated, tokens_scored, results;
    double tokens_per_s;
    uint64_t memory_used, memory_total; /* as it says; 0: unknown */
    double busy;
    uint64_t last_request, last_lease; /* the newest grant, for retries */
    /* training pairs that it was granted in this attempt at this iteration */
    const struct coord_run *taken_run;
    uint32_t taken_iteration, taken;
    uint64_t taken_attempt;
};

enum coord_parked_kind {
    PARKED_LEASE, PARKED_TRAINER, PARKED_FETCH, PARKED_STATUS, PARKED_SOURCES
};

struct coord_parked {
    enum coord_parked_kind kind;
    uint64_t handle;
    uint64_t worker_id, request_id;
    int64_t since_ms, deadline_ms;
    char *run;                        /* hint, or what is asked about; owned; may be NULL */
    char *runs;                       /* of the principal; owned; may be NULL */
    uint32_t max_items;               /* LEASE */
    uint32_t iteration, pass, count;  /* FETCH; of SOURCES: chunks that … */
    struct sp_digest manifest;        /* … this one lists */
    uint64_t start, epoch;            /* FETCH; start is the version for STATUS */
};

struct coord_hold {
    char *worker, *reason; /* owned */
    enum store_hold_kind kind;
};

struct coord_core {
    struct coord_options options;
    uint64_t next_id;                 /* workers and leases */
    uint64_t next_write;
    uint64_t grants;                  /* sequence number of the newest grant */
    uint64_t lists;                   /* of leases, in hellos and renewals: how many came */
    uint64_t version;
    int64_t last_tick_ms;
    uint64_t fit_version;             /* rises with what decides who fits which run */
    bool work_changed;                /* parked polls may find something */
    bool pairs_changed;               /* parked fetches may */
    struct coord_run **runs;
    uint32_t run_count;
    struct coord_worker **workers;
    uint32_t worker_count;
    struct coord_map worker_by_id, worker_by_name, lease_by_id, write_by_id;
    struct coord_lease **leases;
    uint32_t lease_count;
    struct coord_parked *parked;
    uint32_t parked_count, parked_capacity;
    uint32_t parked_polls;            /* of them, LEASE and TRAINER */
    struct coord_actions *out;        /* of the step in progress */
    int64_t now_ms;                   /* of the step in progress */
    uint64_t alarms;
    bool disk_low;
    struct sp_names names;         /* of workers, those of results included */
    struct coord_hold *holds;         /* owned */
    uint32_t hold_count;
    bool distrust;                    /* results of quarantined workers may be there */
    struct coord_sources sources;
    bool collecting;                  /* COORD_DO_COLLECT is out */
    int64_t collect_at_ms;            /* the next one by the clock; 0: not set yet */
};

/* ---- core.c ---- */
struct coord_run *core_run(const struct coord_core *core, const char *name);
/* Names in `runs` are separated by commas or spaces; empty: all. */
bool core_may_touch(const char *runs, const char *run);
/* The name that a token for the run has: an evaluation's is that of the run it is about. */
const char *core_scope(const struct coord_run *run);
/* Whether what carries `born` is about this run, and not about a removed one of its name. 0: a
 * worker of a version that does not say. */
bool core_born_of(const struct coord_run *run, uint64_t born);
void core_changed(struct coord_core *core);

/* ---- actions.c: append one action ---- */
struct coord_action *core_action(struct coord_core *core, enum coord_action_kind kind);
struct coord_action *core_reply(struct coord_core *core, uint64_t handle, enum proto_type type);
void core_reply_error(struct coord_core *core, uint64_t handle, enum sp_err status,
                      uint32_t retry_after_ms, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void core_reply_json(struct coord_core *core, uint64_t handle, json_t *object); /* takes object */
void core_reply_busy(struct coord_core *core, uint64_t handle);
void core_log(struct coord_core *core, enum sp_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A copy of at most `bytes` bytes, cut between characters: what JSON takes. */
char *core_clip(const char *text, size_t bytes);
/* A write of this kind, not yet sent: fill it, then core_send. run may be NULL. */
struct coord_write *core_write(enum coord_write_kind kind, const struct coord_run *run);
void core_write_event(struct coord_write *write, const char *actor, const char *kind,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));
void core_send(struct coord_core *core, struct coord_write *write);

/* ---- sets.c: the keys of a set ---- */
void set_init(struct coord_set *set, uint32_t count, bool complete);
void set_deinit(struct coord_set *set);
uint32_t set_free_keys(const struct coord_set *set);
bool set_complete(const struct coord_set *set);
uint32_t set_take_next(struct coord_set *set); /* lowest free rank → leased; there must be one */
bool set_take(struct coord_set *set, uint32_t position); /* free → leased; false: not free */
void set_take_second(struct coord_set *set, uint32_t position);
void set_release(struct coord_set *set, uint32_t position);
bool set_store(struct coord_set *set, uint32_t position); /* true: it was not stored before */
void set_skip(struct coord_set *set, uint32_t position);
void set_revoke(struct coord_set *set, uint32_t position);  /* stored → revoked */
void set_revoked(struct coord_set *set, uint32_t position); /* revoked → free */

/* ---- iterations.c: making and changing an iteration ---- */
struct coord_iteration *iteration_new(const struct coord_run *run,
                                      const struct coord_iteration_info *info, int64_t now_ms);
void iteration_free(struct coord_iteration *iteration);
bool iteration_set_uses_opponent(enum proto_set set);
/* Digest of the weights that the set is worked on with. */
const struct sp_digest *iteration_set_weights(const struct coord_iteration *iteration,
                                              enum proto_set set);
/* Whether items of the set are worked on in the iteration's state. */
bool iteration_set_wanted(const struct coord_iteration *iteration, enum proto_set set);
/* Whether items of the set may be handed out now. */
bool iteration_set_ready(const struct coord_iteration *iteration, enum proto_set set);
bool iteration_evaluated(const struct coord_iteration *iteration);
void iteration_skip_prompt(struct coord_iteration *iteration, uint32_t prompt);
/* A prompt that the iteration before has skipped: its replayed pairs are skipped here, also when
 * the iteration starts afresh. Its new pairs are not. */
void iteration_skip_source(struct coord_iteration *iteration, uint32_t prompt);
/* The same for all that `before`, the iteration whose pairs are replayed, has skipped. */
void iteration_skip_sources_of(struct coord_iteration *iteration,
                               const struct coord_iteration *before);
/* Asks for a change of state; the caller has checked that it is allowed and none is pending.
 * handle: the request that it answers (follow says how), 0: none. */
struct coord_write *iteration_move(struct coord_core *core, struct coord_run *run,
                                   enum coord_state to, const char *actor, const char *reason);
void core_advance(struct coord_core *core, struct coord_run *run); /* what follows by itself */
void core_written(struct coord_core *core, const struct coord_event *event);
void core_verified(struct coord_core *core, const struct coord_event *event);
void core_judged(struct coord_core *core, const struct coord_event *event);
void core_evaluated(struct coord_core *core, const struct coord_event *event);
/* The run that work outside the core was done for, if its iteration still is as it was then. */
struct coord_run *core_still_there(struct coord_core *core, const struct coord_event *event);

/* ---- orders.c ---- */
bool iteration_has_work_order(const struct coord_iteration *iteration);
/* Order of a pass; NULL while it is not known (it has been asked for). */
const uint32_t *iteration_order(struct coord_core *core, struct coord_run *run, uint32_t pass);
void core_ask_orders(struct coord_core *core, struct coord_run *run);
void core_ordered(struct coord_core *core, const struct coord_event *event);
void core_order_written(struct coord_core *core, struct coord_run *run, struct coord_write *write);

enum coord_follow { FOLLOW_NONE, FOLLOW_ADMIN, FOLLOW_MISSING, FOLLOW_COMMIT, FOLLOW_RELEASE };

/* ---- workers.c ---- */
struct coord_worker *core_worker(const struct coord_core *core, uint64_t id);
/* Finds the worker of a request and notes that it is alive; answers SP_ESTALE and returns NULL when
 * it is unknown or of another role. */
struct coord_worker *core_asker(struct coord_core *core, const struct coord_event *event,
                                uint64_t id, enum proto_role role);
void core_hello(struct coord_core *core, const struct coord_event *event);
/* What a renewal says of its device; nonsense is unknown. */
void core_note_usage(struct coord_worker *worker, uint64_t memory_used, uint64_t memory_total,
                     double busy);
bool core_worker_fits(const struct coord_run *run, const struct coord_worker *worker);
/* The same, or it would be the one to pin the class. */
bool core_worker_may_fit(const struct coord_run *run, const struct coord_worker *worker);
/* Pins the class when it is not pinned; true when the worker fits now, false while it is written or
 * when it does not fit. */
bool core_claim_class(struct coord_core *core, struct coord_run *run,
                      const struct coord_worker *worker);
/* Generators of the run's class that are alive; who falls silent may count a tick longer. */
uint32_t core_live_generators(const struct coord_core *core, struct coord_run *run);
void core_forget_workers(struct coord_core *core);
/* Its memory only: who refers to it was told before. */
void core_worker_free(struct coord_worker *worker);

/* ---- scheduler.c ---- */
void core_lease_request(struct coord_core *core, const struct coord_event *event);
void core_serve_parked(struct coord_core *core);
void core_serve_fetches(struct coord_core *core);
void core_serve_worker(struct coord_core *core, uint64_t worker_id);
struct coord_parked *core_park(struct coord_core *core, enum coord_parked_kind kind,
                               uint64_t handle, uint32_t wait_ms); /* NULL: no place (answered) */
void core_unpark(struct coord_core *core, uint32_t index); /* forgets it; order is kept */
void core_expire_parked(struct coord_core *core);

/* ---- submit.c ---- */
void core_submit(struct coord_core *core, const struct coord_event *event);
void core_results_written(struct coord_core *core, struct coord_write *write,
                          const struct coord_write_result *result);
void core_refs_submit(struct coord_core *core, const struct coord_event *event);

/* ---- trainer_side.c ---- */
void core_trainer_lease(struct coord_core *core, const struct coord_event *event);
bool core_try_grant_trainer(struct coord_core *core, struct coord_worker *worker, const char *runs,
                            uint64_t request_id, uint64_t handle);
void core_epoch_written(struct coord_core *core, struct coord_write *write);
void core_trainer_renew(struct coord_core *core, const struct coord_event *event);
void core_trainer_release(struct coord_core *core, const struct coord_event *event);
void core_pairs_fetch(struct coord_core *core, const struct coord_event *event);
bool core_try_fetch(struct coord_core *core, const struct coord_parked *parked);
void core_steps_report(struct coord_core *core, const struct coord_event *event);
void core_steps_written(struct coord_core *core, struct coord_write *write);
void core_trainer_lost(struct coord_core *core, struct coord_run *run, const char *why);
/* The run whose trainer sends this, checked against its epoch; NULL: answered. allow_ended: also
 * when the iteration has gone on without it. */
struct coord_run *core_fenced(struct coord_core *core, const struct coord_event *event,
                              uint64_t worker_id, const char *run, uint32_t iteration,
                              uint64_t epoch);

/* ---- publish.c ---- */
void core_publish_begin(struct coord_core *core, const struct coord_event *event);
void core_publish_commit(struct coord_core *core, const struct coord_event *event);

/* ---- admin_verbs.c ---- */
void core_admin(struct coord_core *core, const struct coord_event *event);
void core_start_written(struct coord_core *core, struct coord_write *write);
json_t *core_iteration_brief(const struct coord_run *run, bool created); /* new reference */

/* ---- collection.c ---- */
/* Looks for blobs that nothing refers to; false: not now. */
bool core_collect(struct coord_core *core, uint64_t handle, bool retain, bool dry_run);
void core_collect_by_clock(struct coord_core *core);

/* ---- why.c ---- */
json_t *core_why(const struct coord_core *core, const struct coord_run *run);

#include "coordinator/core_leases.h"
#include "coordinator/core_trust.h"

#endif

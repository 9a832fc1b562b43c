/* core: every decision of the coordinator, as a pure function: step(state, event, now) → actions.
 *
 * The core does no input or output, reads no clock and knows no socket: time comes in with each
 * event, work for the disk goes out as actions whose results come back as events. So the same code
 * runs in the daemon and in the simulation. One thread owns a core. Nothing here takes long: what
 * grows with a plan is done outside, save one pass over it when an iteration is made or restarted.
 *
 * Order of things: a change of durable state goes out as COORD_DO_WRITE and takes effect in memory
 * when COORD_EV_WRITTEN comes back; replies and further actions that depend on it come then, never
 * before. Writes are executed in the order of their ids. At most one change of an iteration's state
 * is in flight; a request for another one meanwhile is answered SP_EUNAVAIL with a short
 * retry_after, which clients obey by themselves.
 *
 * After a restart a new core is filled from the store (load.h). Leases, workers and parked
 * requests are gone then: workers say hello again. */
#ifndef SPIN_COORDINATOR_CORE_H
#define SPIN_COORDINATOR_CORE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "coordinator/iteration_sm.h"
#include "coordinator/metrics.h"
#include "coordinator/times.h"
#include "coordinator/writes.h"
#include "proto/messages.h"
#include "proto/plan.h"
#include "proto/run_settings.h"

#define COORD_SET_COUNT 8 /* enum proto_set */

/* ---- events ---- */

/* Who asks: from the token in the envelope. */
struct coord_principal {
    enum proto_role role;
    const char *token_id; /* for audit events */
    const char *runs;     /* comma-separated names that it may touch; "" or NULL: all */
};

enum coord_event_kind {
    COORD_EV_REQUEST,  /* a message came in */
    COORD_EV_WRITTEN,  /* a write is durable */
    COORD_EV_TICK,     /* time has passed; all queued input came before */
    COORD_EV_VERIFIED, /* COORD_DO_VERIFY is done */
    COORD_EV_JUDGED,   /* COORD_DO_JUDGE is done */
    COORD_EV_ORDERED,  /* COORD_DO_ORDER is done */
    COORD_EV_COLLECTED, /* COORD_DO_COLLECT is done */
    COORD_EV_EVALUATED, /* COORD_DO_EVALUATE is done */
};

struct coord_event {
    enum coord_event_kind kind;
    /* COORD_EV_REQUEST. handle ≠ 0 names the request in the reply actions; the body must live until
     * then. */
    uint64_t handle;
    enum proto_type type;
    const void *body;
    struct coord_principal who;
    /* COORD_EV_WRITTEN */
    uint64_t write_id;
    struct coord_write_result result;
    /* COORD_EV_VERIFIED, JUDGED, ORDERED: what for, as in the action */
    const char *run;
    uint32_t iteration;
    uint64_t attempt;
    enum sp_err status; /* with text when not SP_OK */
    const char *text;   /* JUDGED, SP_OK: the verdict as JSON */
    bool accepted;      /* JUDGED: the checkpoint becomes the next opponent */
    const char *verdict; /* JUDGED: "improved" */
    uint64_t bytes;      /* VERIFIED: size of the checkpoint */
    const struct sp_digest *blobs; /* VERIFIED: its manifest and chunks, copied by the core */
    uint32_t blob_count;
    struct sp_digest pairs_sha256; /* JUDGED */
    const uint32_t *order; /* ORDERED: plan_pairs positions, copied by the core */
    bool more;             /* EVALUATED: an evaluation was made, there may be another one */
    bool gap;              /* ORDERED: as in the action */
    uint32_t pass;
};

/* ---- actions ---- */

enum coord_action_kind {
    COORD_DO_REPLY,       /* type, body */
    COORD_DO_REPLY_ERROR, /* status, retry_after_ms, text */
    COORD_DO_WRITE,       /* write */
    COORD_DO_GRANT,       /* answer with a lease_reply: grant */
    COORD_DO_PAIRS,       /* answer with a pairs_fetch_reply: pairs at positions[0 … count) */
    COORD_DO_MISSING,     /* answer a publish_begin: store the manifest, list what is missing */
    COORD_DO_VERIFY,      /* verify a published checkpoint, then COORD_EV_VERIFIED */
    COORD_DO_JUDGE,       /* compute the verdict, then COORD_EV_JUDGED */
    COORD_DO_ORDER,       /* compute an order (by gap, or of a pass), then COORD_EV_ORDERED */
    COORD_DO_COLLECT,     /* collect blobs that nothing refers to, then COORD_EV_COLLECTED */
    COORD_DO_EVALUATE,    /* make the run's next missing evaluation, then COORD_EV_EVALUATED */
    COORD_DO_LOG,         /* text at level */
};

/* A fixed-size union of the replies that the core makes itself. */
union coord_reply_body {
    struct proto_hello_reply hello;
    struct proto_lease_reply lease;
    struct proto_renew_reply renew;
    struct proto_lease_return_reply lease_return;
    struct proto_submit_reply submit;
    struct proto_trainer_lease_reply trainer_lease;
    struct proto_trainer_renew_reply trainer_renew;
    struct proto_trainer_release_reply trainer_release;
    struct proto_pairs_fetch_reply pairs_fetch;
    struct proto_steps_report_reply steps_report;
    struct proto_refs_submit_reply refs_submit;
    struct proto_publish_commit_reply publish_commit;
    struct proto_admin_reply admin;
    struct proto_blob_sources_reply blob_sources;
};

struct coord_action {
    enum coord_action_kind kind;
    uint64_t handle;        /* REPLY, REPLY_ERROR, GRANT, PAIRS, MISSING */
    enum proto_type type;   /* REPLY */
    union coord_reply_body body;
    enum sp_err status;     /* REPLY_ERROR */
    uint32_t retry_after_ms;
    int level;              /* LOG: enum sp_log_level */
    char *text;             /* REPLY_ERROR, LOG; REPLY of admin: its JSON; owned */
    char *name;             /* REPLY of blob_sources, with text; owned */
    struct sp_digest *key;  /* what its ticket, or hello's serve_key, points to; owned */
    uint64_t *ids;          /* what body.hello.leases_lost or body.renew.lost points to; owned */
    struct coord_write *write; /* WRITE: owned by the core until its COORD_EV_WRITTEN */
    const struct coord_run_info *run; /* GRANT … ORDER: borrowed, lives as long as the core */
    uint32_t iteration;
    uint64_t attempt;
    uint64_t lease_id;      /* GRANT */
    uint32_t lease_ms;      /* GRANT */
    enum proto_set set;     /* GRANT */
    struct sp_digest checkpoint, manifest; /* GRANT, MISSING (manifest), VERIFY */
    uint32_t *positions;    /* GRANT: positions in `set`; PAIRS: positions in the plan; owned */
    uint32_t count;
    bool gap;               /* ORDER: coord_gap_order (judge.h), else coord_pass_order of … */
    uint32_t pass;          /* … this pass */
    struct proto_bytes manifest_text; /* MISSING: borrowed from the request */
    /* COLLECT (handle: the request that it answers, 0: by the clock). roots: the manifests that
     * something alive needs, beside what the store's references name. Nothing of them may be
     * deleted, whatever the store says (collect.h). Owned. */
    struct sp_digest *roots;
    uint32_t root_count;
    bool retain;            /* first let go of old checkpoints, as `keep_last` says */
    bool dry_run;           /* say what would be done */
};

struct coord_actions {
    struct coord_action *items;
    size_t count, capacity;
};
/* Frees what the actions own (a shell takes a pointer away by setting it to NULL). */
void coord_actions_clear(struct coord_actions *actions);
void coord_actions_deinit(struct coord_actions *actions);

/* ---- a run, as the store knows it ---- */

#define COORD_GIVEN 4 /* iterations whose answers the data can give */

struct coord_run_info {
    char *name;
    int64_t id;               /* of the run in the store */
    int64_t created_ms;       /* wall clock: tells it from a removed run of this name */
    char *settings_json;      /* canonical */
    struct run_settings settings;
    struct sp_digest data;    /* digest of the data, in plan_digest */
    uint32_t prompts[STORE_SPLITS];
    int32_t vocab;
    int32_t *stop_ids;
    uint32_t stop_count;
    uint8_t *given[COORD_GIVEN]; /* bit by training prompt: the data gives the answer of this
                                    iteration; NULL: none */
    uint64_t *length_keys;    /* by training prompt: tokens of prompt and human answer */
    struct sp_digest base, base_manifest;
    bool has_tasks;           /* its settings name evaluation tasks */
    /* Of an evaluation (mode evaluate), else NULL: */
    char *parent;             /* the run whose checkpoint it is about; tokens for it suffice */
    char *task;               /* name of the task */
    int64_t parent_iteration; /* that made the checkpoint; −1: the base */
};

/* What the store knows of the newest iteration of a run. */
struct coord_iteration_info {
    uint32_t number;
    enum coord_state state, resume; /* resume: where paused and failed return to */
    char *reason;                   /* of paused and failed; may be NULL */
    uint64_t attempt;
    uint64_t epoch;          /* of the trainer's lease */
    char *trainer;           /* name of the worker that holds it, or held it last; may be NULL */
    struct sp_digest opponent, opponent_manifest;
    struct sp_digest checkpoint, checkpoint_manifest; /* zero: not published */
    struct store_step_sums sums;
    struct proto_step_metrics first_step, last_step; /* step 0: none */
    uint32_t *gap_order;     /* plan_pairs, or NULL */
    uint64_t rewind_epoch, rewind_steps; /* as in the trainer's lease; 0: none */
    char *verdict;           /* NULL: none */
    bool accepted;
};

/* ---- the core ---- */

struct coord_core;

struct coord_options {
    struct coord_times times;
    uint64_t instance;       /* random number of this process */
    const char *version;
    uint32_t max_parked;     /* 0: SP_MAX_PARKED_POLLS */
    uint32_t max_claimed;    /* 0: SP_MAX_CLAIMED_ITEMS */
    struct sp_digest ticket_secret; /* of this process: tickets (proto/ticket.h) come from it */
    uint64_t verify_seed;    /* a secret (`instance` is none): which results are made again */
    double verify_share;     /* of the results that another worker makes again; 0: none */
};

struct coord_core *coord_core_new(const struct coord_options *options);
void coord_core_free(struct coord_core *core);

void coord_run_info_deinit(struct coord_run_info *info);
void coord_iteration_info_deinit(struct coord_iteration_info *info);

/* Adds a run, at start or after create-run; takes over what *info owns. accepted: the newest
 * accepted checkpoint (the base where there is none). next_iteration: the number that
 * start-iteration gives. numerics_class: "" while not pinned. now_ms as in coord_step. */
void coord_core_add_run(struct coord_core *core, struct coord_run_info *info,
                        const struct sp_digest *accepted, const struct sp_digest *accepted_manifest,
                        uint32_t next_iteration, const char *numerics_class, int64_t now_ms);
/* Runs of a higher priority get workers first; at start. */
void coord_core_set_priority(struct coord_core *core, const char *run, int32_t priority);
/* The newest iteration; after coord_core_add_run. Copies what it needs. */
void coord_core_add_iteration(struct coord_core *core, const char *run,
                              const struct coord_iteration_info *info, int64_t now_ms);
/* Marks what is stored of the newest iteration; after coord_core_add_iteration. Out of range
 * positions are SP_ECORRUPT. */
enum sp_err coord_core_set_stored(struct coord_core *core, const char *run, enum proto_set set,
                                  uint32_t position, struct sp_error *err) SP_MUST_USE;
/* Who made a stored result; after coord_core_set_stored. */
void coord_core_set_owner(struct coord_core *core, const char *run, enum proto_set set,
                          uint32_t position, const char *worker);
/* A worker that gets no work; at start. */
void coord_core_add_hold(struct coord_core *core, const struct store_hold *hold);
void coord_core_set_skipped(struct coord_core *core, const char *run, uint32_t prompt);
/* A prompt that the iteration before has skipped: there is nothing of it to replay. */
void coord_core_set_source_skipped(struct coord_core *core, const char *run, uint32_t prompt);

/* Appends to *actions. now_ms is monotonic and never goes back. */
void coord_step(struct coord_core *core, const struct coord_event *event, int64_t now_ms,
                struct coord_actions *actions);

/* Answers every request that waits with SP_EUNAVAIL: the process is about to end. */
void coord_drain(struct coord_core *core, struct coord_actions *actions);
/* A token is revoked: its workers lose their leases, and their waiting requests are refused. */
void coord_revoke_token(struct coord_core *core, const char *token_id,
                        struct coord_actions *actions);
/* Manifests of the weights that leases of the token's workers need, lapsed ones that are remembered
 * included; malloc'd. */
struct sp_digest *coord_token_manifests(const struct coord_core *core, const char *token_id,
                                        uint32_t *ret_count);
/* options.verify_share, from now on. */
void coord_set_verify_share(struct coord_core *core, double share);
/* While the disk is nearly full live iterations are paused at the next tick. */
void coord_set_disk_low(struct coord_core *core, bool low);

/* The order of a pass; malloc'd, plan_pairs positions. Any thread. */
uint32_t *coord_pass_order(const struct coord_run_info *info, uint32_t iteration, uint32_t pass);

/* Live listings for people; new references. run NULL: all runs. */
json_t *coord_status(const struct coord_core *core, const char *run, int64_t now_ms);
json_t *coord_workers(const struct coord_core *core, int64_t now_ms);
void coord_core_metrics(const struct coord_core *core, int64_t now_ms,
                        struct coord_metrics *metrics);
uint64_t coord_version(const struct coord_core *core); /* rises with every change of the status */
const struct coord_run_info *coord_find_run(const struct coord_core *core, const char *name);
/* Admin verbs that the core answers; the others are the shell's. */
bool coord_admin_is_live(const char *verb);
/* What the simulation checks. */
enum coord_state coord_iteration_state(const struct coord_core *core, const char *run,
                                       uint32_t *ret_number, const char **ret_reason);

#endif

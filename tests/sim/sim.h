/* sim: a cluster in one thread: the real core on the real store on a disk that loses power, fills
 * up and fails (vfs.h), and, in place of everything around them, a clock, a network, processes that
 * die or stand still, generators whose answers are hashes of what they were asked, and a trainer
 * whose checkpoint is a hash of what it was given.
 *
 * Everything is drawn from one seed. What must hold is checked on the way (sim_fail): nothing that
 * was acknowledged is lost or counted twice, no prompt is forgotten, a stale epoch is never served,
 * no clock is read in a decision, a renewal that came in time counts, nothing is deleted that a
 * lease or an iteration needs, a pair is scored by its iteration's opponent, every iteration ends
 * or says why; at the end the digests are those of a run without any disturbance. */
#ifndef SPIN_TESTS_SIM_SIM_H
#define SPIN_TESTS_SIM_SIM_H

#include "tests/sim/vfs.h"
#include "tests/sim/world.h"

#define SIM_GENERATORS 3
#define SIM_TRAINERS 2
#define SIM_TRAIN 14
#define SIM_POSITIONS 128 /* of the training set, at most */
#define SIM_EVENTS 1000   /* the least of a simulation */
#define SIM_MAX_ITERATIONS 4

struct sim;
typedef void sim_fire(struct sim *sim, void *context, uint64_t value);

struct sim_timer {
    int64_t at;
    uint64_t order; /* of timers at the same time */
    sim_fire *fire;
    void *context;
    uint64_t value;
};

/* One request of a worker, with all of its retries. */
struct sim_call {
    struct sim_node *from;
    uint64_t life; /* of the sender: answers to the dead are dropped */
    enum proto_type type;
    void *body;
    uint64_t *worker_id; /* where the body has it, to be renewed after another hello; or NULL */
    uint64_t epoch;      /* of a trainer's request, for the check */
    int64_t timeout_ms;
    bool finished;
    uint32_t tries;
    struct proto_u64s alive; /* leases that this renewal met alive */
    struct sim_call *queued; /* next one that waits for a coordinator that stands still */
    void *context;
    void (*done)(struct sim *sim, struct sim_call *call, enum sp_err status, const char *text,
                 const void *reply);
};

struct sim_node {
    const char *name;
    enum proto_role role;
    uint64_t life; /* changes at each death and start */
    bool up;
    uint64_t instance;
    uint64_t worker_id; /* 0: hello is to be said */
    bool greeting;
    int64_t cut_until_ms;     /* its network is gone until then */
    int64_t mute_until_ms;    /* what it sends is lost */
    int64_t deaf_until_ms;    /* what is sent to it is lost */
    int64_t stopped_until_ms; /* the process stands still */
    void *state;              /* of this life; in the arena */
    void *disk;               /* survives deaths; in the arena */
};

/* Bugs that are put into the simulation's own parts, to show that its checks can fail. */
enum sim_plant {
    SIM_PLANT_NONE,
    SIM_PLANT_EARLY_ACK, /* "durable" is said before the commit */
    SIM_PLANT_BIAS,      /* an answer depends on who gives it */
    SIM_PLANT_CURSOR,    /* a trainer's cursor is on its disk before the rest of the snapshot */
    SIM_PLANT_EXPIRY,    /* the clock is looked at before the requests that wait */
};

/* A checkpoint in the blobs. */
struct sim_blob {
    struct sp_digest manifest;
    bool there, marked;
    int64_t marked_ms;
};

/* What a pair must have been scored with: the opponent of its iteration. */
struct sim_expected {
    bool known;
    struct sp_digest checkpoint;
    float real, generated;
};

struct sim_faults {
    uint32_t drop, duplicate; /* per thousand messages */
    int64_t delay_ms;         /* largest */
    bool deaths, cuts, admin; /* of processes; partitions; pauses and cancels */
    bool stops, disk;         /* processes that stand still; a disk in trouble */
    int64_t until_ms;         /* then there is peace, so that everything can end */
};

struct sim_result {
    struct sp_digest pairs[SIM_MAX_ITERATIONS], checkpoints[SIM_MAX_ITERATIONS];
    char verdicts[SIM_MAX_ITERATIONS][24];
    int64_t ended_ms;
    uint32_t iterations;
    uint64_t events, deaths, lost_messages, commits, power_losses, disk_errors, collections;
};

struct sim {
    uint64_t seed;
    uint32_t draws;
    int64_t now;
    const char *settings; /* of the run, beside the world's */
    struct sim_faults faults;
    struct sp_arena *arena;
    struct sim_timer *heap;
    size_t heap_count, heap_capacity;
    uint64_t timers;
    uint32_t iterations; /* to be made */
    /* the coordinator */
    struct sim_vfs *vfs;
    struct world world;
    struct coord_core *core; /* NULL: dead */
    uint64_t life;
    struct coord_times times;
    struct coord_actions actions;
    struct sim_request *requests; /* in work */
    uint64_t next_handle;
    const struct coord_write *writes[4096];
    uint32_t write_count;
    bool commit_planned;
    uint64_t highest_epoch[SIM_MAX_ITERATIONS]; /* granted */
    int64_t stopped_until_ms;                   /* it stands still */
    struct sim_call *queue;                     /* what came in meanwhile, the newest first */
    int64_t trouble_until_ms;                   /* of its disk */
    bool troubled;
    struct sim_blob blobs[SIM_MAX_ITERATIONS * 4];
    uint32_t blob_count;
    struct sim_expected expected[SIM_MAX_ITERATIONS][SIM_POSITIONS];
    uint64_t said_stored[SIM_MAX_ITERATIONS]; /* results that replies called newly stored */
    /* the others */
    struct sim_node generators[SIM_GENERATORS], trainers[SIM_TRAINERS], admin;
    struct sim_ack *acks; /* results that were acknowledged */
    size_t ack_count, ack_capacity;
    uint32_t iteration; /* that the administrator follows */
    bool ended;
    struct sim_result result;
    bool failed;
    bool trace;
    enum sim_plant plant;
};

/* A result whose sender knows that it is stored. */
struct sim_ack {
    uint32_t iteration, set;
    uint64_t position;
    uint64_t answer; /* hash of ids and log-probabilities */
};

/* ---- sim.c ---- */
/* false: something did not hold (printed). calm: no faults at all. */
bool sim_run(uint64_t seed, const char *settings, uint32_t iterations, bool calm, bool trace,
             enum sim_plant plant, struct sim_result *ret);
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_trace(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t sim_draw(struct sim *sim, uint64_t bound); /* below bound */
void sim_after(struct sim *sim, int64_t ms, sim_fire *fire, void *context, uint64_t value);
void *sim_alloc(struct sim *sim, size_t bytes); /* until the end of the simulation */
uint64_t sim_hash(const void *data, size_t bytes, uint64_t salt);

/* ---- net.c ---- */
struct sim_call *sim_call(struct sim *sim, struct sim_node *from, enum proto_type type, void *body,
                          int64_t timeout_ms,
                          void (*done)(struct sim *, struct sim_call *, enum sp_err, const char *,
                                       const void *),
                          void *context);
/* The coordinator's answer to a request that it received as `handle`. */
void sim_answer(struct sim *sim, struct sim_call *call, enum sp_err status, uint32_t retry_after_ms,
                const char *text, const void *reply);
/* held: leases and claims of the hello, or NULL. */
void sim_hello(struct sim *sim, struct sim_node *node, const struct proto_hello *held,
               void (*then)(struct sim *, struct sim_node *));

/* ---- coordinator.c ---- */
void sim_coordinator_start(struct sim *sim);
void sim_coordinator_kill(struct sim *sim);
void sim_coordinator_receive(struct sim *sim, struct sim_call *call);
/* A disk in trouble for so long, or (WELL) again in order. */
void sim_disk_trouble(struct sim *sim, enum sim_vfs_trouble trouble, int64_t ms);
/* A closed iteration has every pair once, scored by its opponent. */
void sim_check_closed(struct sim *sim, uint32_t iteration);
/* Everything acknowledged, from sim->acks[first] on, is in the store. */
void sim_check_acks(struct sim *sim, size_t first);

/* ---- generator.c, trainer.c, admin.c ---- */
void sim_generator_start(struct sim *sim, struct sim_node *node);
/* Fails when a lease that it works on needs the manifest. */
void sim_generator_check_blob(struct sim *sim, struct sim_node *node,
                              const struct sp_digest *manifest);
void sim_trainer_check_blob(struct sim *sim, struct sim_node *node,
                            const struct sp_digest *manifest);
void sim_kill(struct sim *sim, struct sim_node *node); /* it starts again by itself */
/* A generator stands still, in some simulations, until its weights have gone out of use. */
void sim_disturb_iteration(struct sim *sim);
/* true: the node stands still, and the timer fires when it goes on. */
bool sim_is_stopped(struct sim *sim, struct sim_node *node, sim_fire *fire, void *context,
                    uint64_t value);
void sim_trainer_start(struct sim *sim, struct sim_node *node);
void sim_admin_start(struct sim *sim);

#endif

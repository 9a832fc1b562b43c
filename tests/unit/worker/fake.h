/* fake: a coordinator without a store, for tests of generator and trainer in one process: the real
 * wire protocol, a tiny random checkpoint in a real blob store, one run with one iteration.
 *
 * It runs on a thread of its own; what tests read is under `lock` or atomic. */
#ifndef SPIN_TESTS_FAKE_H
#define SPIN_TESTS_FAKE_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "common/checkpoint/blobstore.h"
#include "proto/messages.h"
#include "proto/rpc.h"
#include "proto/run_settings.h"

#define FAKE_PAIRS 24
#define FAKE_STEPS_MAX 64
#define FAKE_LEASES_MAX 64

struct fake {
    char dir[64]; /* scratch */
    char url[128];
    struct ckpt_blobs *blobs;
    struct sp_digest checkpoint, manifest; /* of the starting weights */
    char *settings;                        /* of the run, canonical JSON */
    uint64_t seed;
    int64_t batch_pairs;

    uv_loop_t loop;
    uv_async_t stop;
    pthread_t thread;
    struct proto_server *server;

    pthread_mutex_t lock;
    /* knobs */
    atomic_int busy;        /* so many requests are answered with SP_EUNAVAIL */
    atomic_int forget;      /* so many times the worker is unknown */
    atomic_int command;     /* enum proto_trainer_command in renewals */
    atomic_bool refuse_submits; /* with SP_EUNAVAIL */
    atomic_bool stale;      /* the trainer's epoch is over */
    atomic_uint lose_lease; /* this lease is lost at the next renewal */
    atomic_int available;   /* pairs that exist so far */
    atomic_bool offer_training, offer_work;
    atomic_bool refuse_blobs; /* with SP_EUNAVAIL */
    /* what happened */
    uint64_t worker_id, hellos;
    uint32_t leases_named, claims_true; /* in all hellos; claims of just what a lease is about */
    uint64_t epoch;                                      /* grants so far */
    struct proto_step_metrics steps[FAKE_STEPS_MAX + 1]; /* by step number */
    atomic_uint_least64_t last_step;
    uint64_t fetches;
    float ref_real[FAKE_PAIRS], ref_generated[FAKE_PAIRS];
    uint32_t refs;
    atomic_bool published, released, failed;
    char reason[1024];
    struct sp_digest published_checkpoint, published_chain;
    char summary[4096];
    /* work for generators: FAKE_PAIRS items */
    uint64_t next_lease;
    uint8_t item_state[FAKE_PAIRS]; /* 0 free, 1 leased, 2 stored */
    uint64_t item_lease[FAKE_PAIRS];
    struct proto_work_result results[FAKE_PAIRS]; /* ids owned */
    atomic_uint stored, duplicates, returned, renewals;
    atomic_bool heard_fetching; /* a generator's renewal said that it gets weights */
};

/* settings: "section.name=value" after one another, NULL at the end; mode etc. */
void fake_start(struct fake *fake, const char *const *settings);
void fake_stop(struct fake *fake); /* removes the scratch directory */
/* The pair at a position; ids live as long as the program. */
void fake_pair(const struct fake *fake, uint32_t position, struct proto_train_pair *ret);
/* Waits until *value >= least, for at most 20 s; fails the test otherwise. */
void fake_wait_u(const atomic_uint *value, unsigned least);
void fake_wait_true(const atomic_bool *value);

#endif

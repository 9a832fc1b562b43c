/* harness: a cluster of real daemons as processes on ipc sockets in a scratch directory, driven by
 * the real spinctl; killed with the test. A tiny random model and a byte-level tokenizer are made
 * on the spot by spin-model. Every function fails the test with a message when something goes
 * wrong. One thread. SPIN_E2E_KEEP=1 leaves the directory (logs are in it). */
#ifndef SPIN_TESTS_E2E_HARNESS_H
#define SPIN_TESTS_E2E_HARNESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CLUSTER_GENERATORS 4
#define CLUSTER_TRAINERS 2

struct cluster {
    char dir[64];
    char base[256]; /* directory of the starting model */
    double time_scale;
    const char *set; /* one more setting of the coordinator, "name=value"; NULL: none */
    const char *worker_sets[8]; /* more settings of workers started from now on; NULL ends them */
    int slots;       /* of generators started from now on */
    int lease_items; /* of them; 1 makes them slow enough to be met in the middle */
    pid_t coordinator, generators[CLUSTER_GENERATORS], trainers[CLUSTER_TRAINERS];
};

/* Makes the directory and the model, and starts the coordinator. */
void cluster_open(struct cluster *cluster);
void cluster_close(struct cluster *cluster); /* kills what runs */

/* (Re)starts one daemon; waits for the coordinator to answer. */
void cluster_start_coordinator(struct cluster *cluster);
/* Stops it and starts it with a setting: "coordinator.verify_share=0". */
void cluster_restart_with(struct cluster *cluster, const char *set);
void cluster_start_generator(struct cluster *cluster, int index);
void cluster_start_trainer(struct cluster *cluster, int index);
/* Sends the signal and waits for the end; *pid becomes 0. Returns the wait status. */
int cluster_end(pid_t *pid, int signal_number);

/* Runs spinctl --json with these arguments (NULL at the end). The exit code; *ret (a new reference,
 * may be NULL): what it printed, or NULL when that is no JSON. */
int cluster_ctl(struct cluster *cluster, json_t **ret, ...) __attribute__((sentinel));
/* The same, where it must succeed. */
json_t *cluster_ctl_ok(struct cluster *cluster, ...) __attribute__((sentinel));

/* Writes DIR/name. */
void cluster_write(struct cluster *cluster, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* n lines of prompt and response, prompts by number from `first` on. */
void cluster_write_rows(struct cluster *cluster, const char *name, int first, int n);
/* As preference pairs: prompt, chosen, rejected. */
void cluster_write_preferences(struct cluster *cluster, const char *name, int n);
/* create-run from settings common to the tests; more: "section.name=value" assignments over them,
 * separated by spaces. Training rows are in train.jsonl. */
void cluster_create_run(struct cluster *cluster, const char *name, uint64_t seed, const char *more);

/* state of the run's newest iteration; "none" before the first. Borrowed until the next call. */
const char *cluster_state(struct cluster *cluster, const char *run);
/* Pairs stored, or steps reported, of the newest iteration. */
int64_t cluster_pairs_done(struct cluster *cluster, const char *run);
int64_t cluster_steps_done(struct cluster *cluster, const char *run);
void cluster_wait_state(struct cluster *cluster, const char *run, const char *state, int seconds);
void cluster_wait_pairs(struct cluster *cluster, const char *run, int64_t least, int seconds);
void cluster_wait_steps(struct cluster *cluster, const char *run, int64_t least, int seconds);
/* Until done() says `least`, in small steps: the daemon runs for a moment at a time and is stopped
 * (SIGSTOP) while the harness looks, so that it is met in the middle of its work however slow the
 * machine is. It is left stopped. */
void cluster_creep(struct cluster *cluster, pid_t pid, const char *run, int64_t least,
                   int64_t (*done)(struct cluster *cluster, const char *run));
void cluster_creep_pairs(struct cluster *cluster, pid_t generator, const char *run, int64_t least);
void cluster_creep_steps(struct cluster *cluster, pid_t trainer, const char *run, int64_t least);
void cluster_start_iteration(struct cluster *cluster, const char *run);
/* start-iteration and wait until it is closed. */
void cluster_iterate(struct cluster *cluster, const char *run, int seconds);
/* The row of `spinctl iterations`, a new reference. */
json_t *cluster_iteration(struct cluster *cluster, const char *run, int iteration);
const char *cluster_text(const json_t *object, const char *key); /* fails the test when absent */
double cluster_number(const json_t *object, const char *key);
/* A new token in FILE; its id in ret_id. option, value: "--expires", "1 s", or NULL. */
void cluster_new_token(struct cluster *cluster, const char *file, const char *role,
                       const char *option, const char *value, char ret_id[32]);
char *cluster_read_token(struct cluster *cluster, const char *file); /* malloc'd */

#endif

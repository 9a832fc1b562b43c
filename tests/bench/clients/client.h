/* client: one simulated generator. It says hello, leases, "samples" at its pace, hands in as a real
 * one does (one submission at a time; what is finished waits at most submit_ms for more), renews,
 * and after a lost connection dials again with full jitter and repeats what was not answered. One
 * thread. */
#ifndef SPIN_TESTS_BENCH_CLIENT_H
#define SPIN_TESTS_BENCH_CLIENT_H

#include "tests/bench/clients/answers.h"
#include "tests/bench/clients/conn.h"
#include "tests/bench/clients/stats.h"

#define CLIENT_ITEMS 64

enum client_kind {
    CLIENT_WORKS,
    CLIENT_IDLES,  /* hello, renewals and requests for work; of a class that no run has */
    CLIENT_SLOW,   /* works over a connection of a few bytes at a time */
    CLIENT_SILENT, /* takes a lease and says nothing more */
    CLIENT_MUTE,   /* connects and says nothing at all */
};

struct clients_options {
    const char *token;
    double pair_period_ns; /* between two pairs of a client; 0: as fast as they are acknowledged */
    uint32_t lease_items, submit_items;
    int64_t submit_ms;
};

/* What the clients of a process share. */
struct clients {
    struct clients_options options;
    struct conn_net net;
    struct answers *answers;
    struct stats stats;
    struct sp_arena *arena; /* of the reply that is being read */
    uint64_t acknowledged, duplicates, refused;
    uint64_t submissions;
    uint64_t lost_connections, hellos;
    uint64_t rng;
    bool started;  /* pairs are sampled */
    bool stopping; /* nothing new is asked */
};

struct client_lease {
    uint64_t id;
    uint32_t iteration, count;
    uint32_t done, sent; /* items sampled; handed in */
    int64_t oldest_ns;   /* when the first item that is not handed in was done */
    bool gone;           /* the coordinator knows it no more: what is done is handed in */
    struct sp_digest checkpoint;
    char run[72];
    struct answers_key keys[CLIENT_ITEMS];
};

enum client_ask { ASK_HELLO, ASK_LEASE, ASK_SUBMIT, ASK_RENEW, ASK_KINDS };

struct client_request {
    bool wanted; /* until it is answered */
    bool out;    /* it is on its way */
    uint64_t id; /* request id of a lease: the same in a retry */
    int64_t sent_ns, not_before_ns;
    uint32_t tries;
};

struct client {
    struct conn conn;
    struct clients *all;
    enum client_kind kind;
    uint32_t number;
    uint64_t worker_id, instance;
    int64_t renew_ns, renew_every_ns, poll_ms;
    int64_t next_pair_ns, dial_ns;
    uint32_t dial_tries;
    uint32_t submitted; /* results of the submission under way */
    bool said_hello;    /* ever */
    bool holds;         /* silent: it has its lease */
    struct client_request asks[ASK_KINDS];
    struct client_lease now, next; /* count 0: none */
};

void client_init(struct client *client, struct clients *all, enum client_kind kind, uint32_t number,
                 int64_t first_dial_ns);
/* What is due; call it every few milliseconds. */
void client_wake(struct client *client, int64_t now_ns);
bool client_is_quiet(const struct client *client); /* waits for no submission */

#endif

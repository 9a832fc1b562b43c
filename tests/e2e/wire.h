/* wire: a worker's side of the real protocol in the test's own process, to act as a generator or
 * trainer that does what no daemon would. One thread. */
#ifndef SPIN_TESTS_E2E_WIRE_H
#define SPIN_TESTS_E2E_WIRE_H

#include "common/worker/link.h"
#include "tests/e2e/harness.h"

struct wire {
    struct worker_settings settings; /* strings borrowed from `text` */
    char url[256], token[256], name[64];
    char numerics_class[128];
    struct worker_link *link;
    struct worker_peer *peer;
};

void wire_open(struct wire *wire, struct cluster *cluster, enum proto_role role, const char *name);
void wire_close(struct wire *wire);
/* The reply; fails the test for any error. Valid until the next call. */
const void *wire_call(struct wire *wire, enum proto_type type, void *body);
/* The trainer's lease of the only run that has one to give; waits for it. */
const struct proto_trainer_lease_reply *wire_trainer_lease(struct wire *wire);

#endif

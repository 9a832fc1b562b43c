/* core_sources: the core's side of spreading weights (sources.c): who gives chunks, and who asks
 * for them. Part of core_internal.h. */
#ifndef SPIN_COORDINATOR_CORE_SOURCES_H
#define SPIN_COORDINATOR_CORE_SOURCES_H

#include "coordinator/core.h"
#include "coordinator/swarm.h"

struct coord_worker;

struct coord_sources {
    struct coord_swarms *swarms;
    bool changed;  /* parked requests may find a source */
    uint32_t turn; /* which of them is looked at next */
};

struct coord_swarms *core_swarms_new(const struct coord_options *options);
bool core_sources_hello_is_good(struct coord_core *core, const struct coord_event *event);
/* Notes what the worker gives, and puts into the reply what it needs for that. */
void core_sources_hello(struct coord_core *core, struct coord_worker *worker,
                        const struct proto_hello *hello, struct coord_action *action);
/* A quarantined worker is no source any more, until it says hello without being one. */
void core_sources_drop(struct coord_core *core, const char *worker);
void core_blob_sources(struct coord_core *core, const struct coord_event *event);
void core_serve_sources(struct coord_core *core);
void core_reply_no_source(struct coord_core *core, uint64_t handle);

#endif

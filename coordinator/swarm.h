/* swarm: who of many workers on their way to the same weights fetches which chunk next, and from
 * whom, so that the coordinator gives a few copies and not one to each. A pure data structure of
 * the core: no clock, no sockets.
 *
 * Workers that give chunks ("givers") and all that fetch report what they have. Who asks is told
 * one chunk and one source: the rarest of the chunks that a giver with a free place has; or, from
 * the coordinator, one that no giver has yet; or to wait. The coordinator gives a chunk a second
 * time only where that is of use: its places are few, and each chunk has a number of copies that it
 * does not exceed while givers have it and nobody has waited too long.
 *
 * Nothing that a worker reports is believed further than this: a chunk is verified by who fetches
 * it. A giver that is said to have sent wrong bytes is not named again to who said so, and to
 * nobody when two have said so; one that is said to be silent, not for a while. */
#ifndef SPIN_COORDINATOR_SWARM_H
#define SPIN_COORDINATOR_SWARM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/hash.h"

#define COORD_SWARMS_MAX 32        /* checkpoints that chunks are looked for at once */
#define COORD_SWARM_CHUNKS 65536   /* of one checkpoint: more than a manifest can list */
#define COORD_SWARM_COPIES 3       /* of a chunk that the coordinator gives while givers have it */
#define COORD_SWARM_PLACES 2       /* chunks that the coordinator gives at once */
#define COORD_SWARM_GIVER_PLACES 8 /* at most, whatever a giver says */

struct coord_swarms;

struct coord_swarm_times {
    int64_t silent_ms;   /* a giver that is not heard of for so long is not named */
    int64_t transfer_ms; /* a place is free again after this, whatever became of it */
    /* Who has waited so long gets a chunk from the coordinator; who did not answer is not named for
     * so long. */
    int64_t patience_ms;
};

/* seed: of the choice among equals. */
struct coord_swarms *coord_swarms_new(const struct coord_swarm_times *times, uint64_t seed);
void coord_swarms_free(struct coord_swarms *swarms); /* NULL is fine */

/* The worker gives chunks, `places` at once; 0: it does not (any more). What was said against it is
 * forgotten. */
void coord_swarms_giver(struct coord_swarms *swarms, uint64_t worker, uint32_t places,
                        int64_t now_ms);
void coord_swarms_seen(struct coord_swarms *swarms, uint64_t worker, int64_t now_ms);
void coord_swarms_forget(struct coord_swarms *swarms, uint64_t worker);
/* Givers that may be named. */
uint32_t coord_swarms_givers(const struct coord_swarms *swarms, int64_t now_ms);

/* enum proto_outcome, in its order */
enum coord_outcome { SWARM_GOT, SWARM_ABSENT, SWARM_SILENT, SWARM_POISONED, SWARM_OUTCOMES };

/* What a worker reports: the bits of the chunks that it has (have NULL: all of them), and how its
 * last transfer ended. Makes it a member of the manifest's swarm. false: no such swarm can be (too
 * many chunks). */
bool coord_swarms_report(struct coord_swarms *swarms, uint64_t worker,
                         const struct sp_digest *manifest, uint32_t chunks, const uint8_t *have,
                         enum coord_outcome outcome, int64_t now_ms);

struct coord_swarm_answer {
    enum { SWARM_ALONE, SWARM_WAIT, SWARM_FETCH } what;
    uint32_t index;
    uint64_t source; /* worker; 0: the coordinator */
};
/* What it shall do next, after its report. SWARM_FETCH takes a place until its next report. */
void coord_swarms_ask(struct coord_swarms *swarms, uint64_t worker,
                      const struct sp_digest *manifest, uint32_t chunks, int64_t now_ms,
                      struct coord_swarm_answer *ret);

struct coord_swarm_counts {
    uint64_t from_peers;               /* chunks that workers say they got from one another */
    uint64_t failures[SWARM_OUTCOMES]; /* of peers, as reported */
};
struct coord_swarm_counts coord_swarms_counts(const struct coord_swarms *swarms);

#endif

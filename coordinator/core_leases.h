/* core_leases: who works on which keys, until when. A part of core_internal.h. */
#ifndef SPIN_COORDINATOR_CORE_LEASES_H
#define SPIN_COORDINATOR_CORE_LEASES_H

#include "coordinator/core_internal.h"

struct coord_lease {
    uint64_t id;
    struct coord_worker *worker;      /* NULL: the worker is forgotten */
    struct coord_lease *next, *previous; /* of the same worker; not of lapsed ones */
    uint32_t place;                   /* in the core's list */
    struct coord_run *run;
    uint32_t iteration;
    uint64_t attempt;
    enum proto_set set;
    struct sp_digest manifest;        /* of the weights that it works with */
    int64_t granted_ms, expires_ms;
    int64_t confirm_by_ms;            /* COORD_NEVER: confirmed */
    bool lapsed;                      /* its keys are free again; late answers are recognised */
    int64_t forget_ms;                /* lapsed: when the record goes */
    bool unmeasured; /* a straggler's, or of a process before this one: not for the median */
    uint32_t unlisted;                /* renewals in a row that did not name it */
    uint64_t listed;                  /* number of the newest list (core->lists) that names it */
    uint32_t count, open;             /* keys; those not stored yet */
    uint32_t *positions;              /* [count], owned */
    uint8_t *done;                    /* [count], owned */
    uint8_t *checks;                  /* [count], owned: the key is stored already */
};

/* ---- lease_table.c ---- */
/* Its memory only: it is in no table and no list any more. */
void lease_free(struct coord_lease *lease);
/* The lease, if it is the worker's, marked as named by the list that core->lists counts. */
struct coord_lease *lease_mark(const struct coord_core *core, const struct coord_worker *worker,
                               uint64_t id);
struct coord_lease *core_lease(const struct coord_core *core, uint64_t id);
struct coord_lease *lease_new(struct coord_core *core, struct coord_worker *worker,
                              struct coord_run *run, enum proto_set set, const uint32_t *positions,
                              uint32_t count);
/* The same with the id that another process gave it: known to its worker, nothing to confirm. */
struct coord_lease *lease_claimed(struct coord_core *core, struct coord_worker *worker,
                                  struct coord_run *run, const struct proto_claim *claim,
                                  const uint32_t *positions, uint32_t count);
void lease_lapse(struct coord_core *core, struct coord_lease *lease, bool died, const char *why);
void lease_note_stored(struct coord_core *core, struct coord_lease *lease, uint32_t position);
void leases_drop_run(struct coord_core *core, struct coord_run *run); /* cancel, close, fresh */
void core_expire_leases(struct coord_core *core);
void core_renew(struct coord_core *core, const struct coord_event *event);
void core_lease_return(struct coord_core *core, const struct coord_event *event);

/* ---- claims.c ---- */
/* Takes up again the leases that a worker has from the process before this one, as far as their
 * keys are still free: what it cannot take up stays unknown. */
void core_take_claims(struct coord_core *core, struct coord_worker *worker,
                      const struct coord_event *event);

#endif

/* times: the one table of the coordinator's time-outs, in milliseconds, scaled by one factor (tests
 * run with small ones). */
#ifndef SPIN_COORDINATOR_TIMES_H
#define SPIN_COORDINATOR_TIMES_H

#include <stdint.h>

/* name, milliseconds, what */
#define COORD_TIMES_LIST(X)                                                                        \
    X(lease, 60000, "a lease that is not renewed dies")                                            \
    X(renew, 15000, "workers renew this often")                                                    \
    X(poll, 20000, "longest time that a request is held")                                          \
    X(confirm, 30000, "a grant that is never renewed nor answered lapses")                         \
    X(reclaim, 10000, "leases that a reconnecting worker does not name are free after this")       \
    X(trainer_lease, 120000, "a trainer that is not heard of loses its run")                       \
    X(worker_gone, 60000, "a worker that is not heard of counts as gone")                          \
    X(worker_forget, 86400000, "and is forgotten after this")                                      \
    X(lapsed_keep, 600000, "late answers to a dead lease are recognised for this long")            \
    X(straggler_floor, 5000, "a key is leased a second time no sooner than this")                  \
    X(fair, 2000, "so long, at first, nobody takes more than an even share of the pairs")         \
    X(collect, 600000, "blobs that nothing refers to are looked for this often")                   \
    X(collect_grace, 3600000, "such a blob is deleted after this, if nobody has asked for it")     \
    X(chunk, 60000, "a worker that fetches a chunk of weights keeps its source's place so long")   \
    X(patience, 10000, "one that waits for others' chunks gets the coordinator's after this")      \
    X(ticket, 60000, "a source must be asked within this")                                         \
    X(retry_after, 1000, "for requests that find no place")                                        \
    X(busy, 50, "for requests that meet a change of state in flight")                              \
    X(disk_check, 2000, "free space is looked at this often")                                      \
    X(disk_retry, 5000, "for requests that would fill the disk further")                           \
    X(tick, 50, "the core looks at its clock this often")

struct coord_times {
#define COORD_TIMES_FIELD(name, ms, what) int64_t name##_ms;
    COORD_TIMES_LIST(COORD_TIMES_FIELD)
#undef COORD_TIMES_FIELD
};

/* scale 1 for production; every entry is at least 1 ms. */
void coord_times_init(double scale, struct coord_times *ret);

#endif

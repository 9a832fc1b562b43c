/* rate: events per second over the last ten seconds. One thread; the caller gives the time. */
#ifndef SPIN_COORDINATOR_RATE_H
#define SPIN_COORDINATOR_RATE_H

#include <stdint.h>

#define COORD_RATE_BUCKETS 20
#define COORD_RATE_BUCKET_MS 500

struct coord_rate {
    double sums[COORD_RATE_BUCKETS];
    int64_t bucket;     /* number of the newest bucket: time / COORD_RATE_BUCKET_MS */
    int64_t first_ms;   /* of the first event; 0: none yet */
};

void coord_rate_add(struct coord_rate *rate, double amount, int64_t now_ms);
double coord_rate_per_s(const struct coord_rate *rate, int64_t now_ms);

#endif

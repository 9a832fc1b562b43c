#include "coordinator/rate.h"

#include <string.h>

static void forget_old(struct coord_rate *rate, int64_t bucket)
{
    if (bucket - rate->bucket >= COORD_RATE_BUCKETS) {
        memset(rate->sums, 0, sizeof(rate->sums));
    } else {
        for (int64_t b = rate->bucket + 1; b <= bucket; b++)
            rate->sums[b % COORD_RATE_BUCKETS] = 0;
    }
    if (bucket > rate->bucket)
        rate->bucket = bucket;
}

void coord_rate_add(struct coord_rate *rate, double amount, int64_t now_ms)
{
    if (rate->first_ms == 0)
        rate->first_ms = now_ms;
    forget_old(rate, now_ms / COORD_RATE_BUCKET_MS);
    rate->sums[rate->bucket % COORD_RATE_BUCKETS] += amount;
}

double coord_rate_per_s(const struct coord_rate *rate, int64_t now_ms)
{
    if (rate->first_ms == 0)
        return 0;
    struct coord_rate copy = *rate;
    forget_old(&copy, now_ms / COORD_RATE_BUCKET_MS);
    double sum = 0;
    for (int i = 0; i < COORD_RATE_BUCKETS; i++)
        sum += copy.sums[i];
    int64_t span = now_ms - rate->first_ms;
    int64_t window = (int64_t)COORD_RATE_BUCKETS * COORD_RATE_BUCKET_MS;
    if (span > window)
        span = window;
    if (span < COORD_RATE_BUCKET_MS)
        span = COORD_RATE_BUCKET_MS;
    return sum * 1000.0 / (double)span;
}

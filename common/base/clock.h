/* clock: monotonic time for every decision, wall time for records only. Any thread. */
#ifndef SPIN_BASE_CLOCK_H
#define SPIN_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t sp_now_ms(void);   /* CLOCK_MONOTONIC */
int64_t sp_now_ns(void);   /* CLOCK_MONOTONIC */
int64_t sp_wall_ms(void);  /* CLOCK_REALTIME, for records */
void sp_sleep_ms(int64_t ms);
/* "2026-01-31T12:34:56.789Z" */
void sp_format_utc(int64_t wall_ms, char ret[32]);
/* "1 h 02 min", "12.3 s", "450 ms" */
void sp_format_duration(int64_t ms, char *ret, size_t bytes);
/* "1.5 GiB" */
void sp_format_bytes(uint64_t n, char *ret, size_t bytes);

#endif

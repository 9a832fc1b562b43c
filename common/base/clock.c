#include "common/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

static int64_t read_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t sp_now_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

int64_t sp_now_ms(void)
{
    return read_ns(CLOCK_MONOTONIC) / 1000000;
}

int64_t sp_wall_ms(void)
{
    return read_ns(CLOCK_REALTIME) / 1000000;
}

void sp_sleep_ms(int64_t ms)
{
    if (ms <= 0)
        return;
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

void sp_format_utc(int64_t wall_ms, char ret[32])
{
    int64_t rest = ((wall_ms % 1000) + 1000) % 1000;
    time_t seconds = (time_t)((wall_ms - rest) / 1000);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) == NULL) {
        snprintf(ret, 32, "?");
        return;
    }
    char day[24];
    strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(ret, 32, "%s.%03dZ", day, (int)rest);
}

void sp_format_duration(int64_t ms, char *ret, size_t bytes)
{
    const char *sign = ms < 0 ? "-" : "";
    uint64_t t = ms < 0 ? 0 - (uint64_t)ms : (uint64_t)ms;
    if (t < 1000)
        snprintf(ret, bytes, "%s%d ms", sign, (int)t);
    else if (t < 59950)
        snprintf(ret, bytes, "%s%.1f s", sign, (double)t / 1e3);
    else if (t < 3600000 - 500)
        snprintf(ret, bytes, "%s%d min %02d s", sign, (int)((t + 500) / 60000),
                 (int)((t + 500) / 1000 % 60));
    else if (t < (uint64_t)48 * 3600000)
        snprintf(ret, bytes, "%s%d h %02d min", sign, (int)((t + 500) / 3600000),
                 (int)((t + 500) / 60000 % 60));
    else
        snprintf(ret, bytes, "%s%lld d %02d h", sign, (long long)(t / 86400000),
                 (int)(t / 3600000 % 24));
}

void sp_format_bytes(uint64_t n, char *ret, size_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (n < 1024) {
        snprintf(ret, bytes, "%d B", (int)n);
        return;
    }
    double value = (double)n / 1024;
    size_t unit = 0;
    while (value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(ret, bytes, "%.1f %s", value, units[unit]);
}

/* usage: what this process takes of the machine, from the kernel. */
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/tensor/cpu/cpu.h"

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Second number of /proc/self/statm: resident pages. */
static uint64_t resident_pages(void)
{
    unsigned long long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident;
}

void tn_cpu_usage(struct tn_backend *backend, struct tn_usage *ret)
{
    struct tn_cpu *cpu = tn_cpu_of(backend);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    double used = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = seconds(CLOCK_MONOTONIC);
    double share = (used - cpu->used_s) / ((wall - cpu->wall_s) * cpu->threads);
    *ret = (struct tn_usage){.memory_used = resident_pages() * page,
                             .memory_total = (uint64_t)sysconf(_SC_PHYS_PAGES) * page,
                             .busy = cpu->wall_s > 0 && isfinite(share) ? SP_MIN(share, 1.0) : NAN};
    cpu->used_s = used;
    cpu->wall_s = wall;
}
